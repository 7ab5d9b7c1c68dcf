"""Random calls to a container of type 1 against a naive model, lists of pages; at the end nothing is pinned."""

from __future__ import annotations

import struct
from errno import EEXIST, EINVAL, EPERM

from errnos import errno_of
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from type1_scenarios import ALL, START, STOP, K, g, play, u, ub
from type1box import Box, emulated, machine, physical, remove

import pykernel
from pykernel.machine import parse
from pykernel.mm.phys import PhysMem
from pykernel.uapi.linux import vfio as v
from pykernel.vfio.main import vfio_dma_write, vfio_pin_pages, vfio_unpin_pages

# few places: calls meet what others left
page = st.sampled_from([0, 1, 2, 3, 4, 6, 8, 60, 63, 64, 66])
few = st.sampled_from([1, 1, 2, 2, 3, 4, 8, 60])
rights = st.sampled_from([1, 2, 3, 3, 3])


class Mapping:
    """Pages *first* to *end*; its bits are a list, its pins a count each."""

    def __init__(self, first, n, prot):
        self.first, self.n, self.end, self.prot = first, n, first + n, prot
        self.pins = {}
        self.clear()

    def clear(self):
        """A fresh bitmap: whole words, and one more."""
        self.bits = [False] * (-(-self.n // 64) * 64 + 64)

    def tell(self, out, base, *, everything):
        """Put the bits into the user's words *out*, as Linux does: shifted in place, whole words."""
        if everything:
            self.bits[: self.n] = [True] * self.n
        word, shift = divmod(self.first - base, 64)
        words = -(-(self.n + shift) // 64)
        self.bits[: words * 64] = ([False] * shift + self.bits)[: words * 64]
        if shift:
            for n in range(64):
                self.bits[n] |= out[word * 64 + n]
        out[word * 64 : (word + words) * 64] = self.bits[: words * 64]

    def again(self):
        """Told: only what is pinned is written."""
        self.bits[: self.n] = [at in self.pins for at in range(self.first, self.end)]


class Type1(RuleBasedStateMachine):
    """A client, an emulated device that pins and writes, a physical one that comes and goes."""

    @initialize(profile=st.sampled_from(["linux-6.1", "linux-6.12"]))
    def boot(self, profile):
        self.kernel = kernel = pykernel.boot(parse(machine(1)), profile)
        (self.card,) = physical(kernel).vdevs
        self.emu = emulated(kernel)
        self.box = Box(kernel, self.emu)
        self.box.set_iommu()
        self.box.open(self.emu)
        self.maps = []
        self.tracking = False
        self.group = -1

    def over(self, first, n):
        """The mappings of which a page is in the range."""
        return [m for m in self.maps if m.first < first + n and first < m.end]

    def cut(self, first, n):
        """Whether one of them reaches out of it."""
        return any(m.first < first or m.end > first + n for m in self.over(first, n))

    def at(self, page):
        """The mapping that has the page."""
        return next(iter(self.over(page, 1)), None)

    @rule(first=page, n=few, prot=rights, where=st.integers(0, 900))
    def map(self, first, n, prot, where):
        code = self.box.map(first * K, n * K, prot, self.box.areas["a"] + where * K)
        if self.over(first, n):
            assert code == -EEXIST
            return
        assert code == 0
        self.maps.append(Mapping(first, n, prot))

    @rule(first=page, n=few)
    def unmap(self, first, n):
        gone = self.over(first, n)
        expected = [-EINVAL, n * K] if self.cut(first, n) else [0, sum(m.n for m in gone) * K]
        self.allow(gone if not expected[0] else [])
        assert play(self.box, [u(first * K, n * K)]) == [expected]
        if not expected[0]:
            self.forget(gone)

    @precondition(lambda self: self.tracking)
    @rule(first=page, n=few)
    def unmap_and_tell(self, first, n):
        gone = sorted(self.over(first, n), key=lambda m: m.first)
        good = not self.cut(first, n)
        self.allow(gone if good else [])
        code, size, data = play(self.box, [ub(first * K, n * K, 16)])[0]
        if not good:
            assert (code, size) == (-EINVAL, n * K)
            return
        out = [False] * 512
        for m in gone:
            m.tell(out, first, everything=self.group >= 0)
        self.forget(gone)
        assert (code, size, self.bits(data)) == (0, sum(m.n for m in gone) * K, out)

    @precondition(lambda self: len(self.maps) > 3)
    @rule()
    def unmap_all(self):
        self.allow(self.maps)
        assert play(self.box, [u(0, 0, ALL)]) == [[0, sum(m.n for m in self.maps) * K]]
        self.forget(list(self.maps))

    def allow(self, gone):
        """The device gives back what it has pinned there when it is asked."""
        self.emu.pinned = [at * K for m in gone for at, n in m.pins.items() for _ in range(n)]

    def forget(self, gone):
        assert self.emu.pinned == []
        self.maps = [m for m in self.maps if m not in gone]

    @precondition(lambda self: self.maps)
    @rule(data=st.data(), n=st.sampled_from([1, 2, 2, 4]), prot=st.sampled_from([None, None, None, 1, 2, 3]))
    def pin(self, data, n, prot):
        m = data.draw(st.sampled_from(self.maps))
        first = data.draw(st.integers(m.first, m.end - 1))
        prot = m.prot if prot is None else prot
        code, pages = 0, []
        for at in range(first, first + n):
            m = self.at(at)
            code = EINVAL if m is None else EPERM if m.prot & prot != prot else 0
            if code or m is None:
                break
            pages.append((at, m))
            # a page that is pinned only until the next one cannot be stays written
            m.bits[at - m.first] |= self.tracking and at not in m.pins
        with self.kernel.as_task(self.box.proc.task):
            assert errno_of(vfio_pin_pages, self.emu, first * K, n, prot) == code
        for at, m in pages if not code else []:
            m.pins[at] = m.pins.get(at, 0) + 1

    @precondition(lambda self: any(m.pins for m in self.maps))
    @rule(data=st.data())
    def unpin(self, data):
        m = data.draw(st.sampled_from([m for m in self.maps if m.pins]))
        at = data.draw(st.sampled_from(sorted(m.pins)))
        vfio_unpin_pages(self.emu, at * K, 1)
        m.pins[at] -= 1
        if not m.pins[at]:
            del m.pins[at]

    @precondition(lambda self: self.maps)
    @rule(data=st.data(), off=st.integers(0, K - 1), n=st.integers(1, 3 * K))
    def write(self, data, off, n):
        m = data.draw(st.sampled_from(self.maps))
        first = data.draw(st.integers(m.first, m.end - 1))
        low, high, code = first * K + off, first * K + off + n, 0
        while low < high and not code:
            m = self.at(low // K)
            code = EINVAL if m is None else 0 if m.prot == 3 else EPERM
            if code or m is None:
                break
            step = min(high, m.end * K)
            for at in range(low // K, (step - 1) // K + 1):
                m.bits[at - m.first] |= self.tracking
            low = step
        with self.kernel.as_task(self.box.proc.task):
            assert errno_of(vfio_dma_write, self.emu, first * K + off, bytes(n)) == code

    @rule(on=st.sampled_from([True, True, False]))
    def track(self, on):
        assert self.box.dirty(START if on else STOP) == 0
        if on != self.tracking:
            for m in self.maps:
                m.clear()
                if on:
                    m.again()
        self.tracking = on

    @precondition(lambda self: self.tracking)
    @rule(first=page, n=st.sampled_from([8, 64, 67, 128, 128]), fill=st.sampled_from([0, 0, 0xA5]))
    def told(self, first, n, fill):
        if n == 128 and self.maps:
            first = min(m.first for m in self.maps)
        code, data = play(self.box, [g(first * K, n * K, 16, fill=fill)])[0]
        if self.cut(first, n):
            assert code == -EINVAL
            return
        out = self.bits(bytes([fill]).hex() * 64)
        for m in sorted(self.over(first, n), key=lambda m: m.first):
            m.tell(out, first, everything=self.group >= 0)
            m.again()
        assert (code, self.bits(data)) == (0, out)

    @staticmethod
    def bits(data):
        return [bool(byte >> n & 1) for byte in bytes.fromhex(data) for n in range(8)]

    @precondition(lambda self: self.group < 0)
    @rule()
    def physical_comes(self):
        proc = self.box.proc
        self.group = proc.open(f"/dev/vfio/{self.box.group_name(self.card)}", 2)
        proc.ioctl(self.group, v.VFIO_GROUP_SET_CONTAINER, bytearray(struct.pack("<i", self.box.container)))

    @precondition(lambda self: self.group >= 0)
    @rule()
    def physical_goes(self):
        self.box.proc.ioctl(self.group, v.VFIO_GROUP_UNSET_CONTAINER)
        self.box.proc.close(self.group)
        self.group = -1
        if self.tracking:
            for m in self.maps:
                m.bits[: m.n] = [True] * m.n

    @invariant()
    def charged(self):
        """All pages of mappings with a domain, else those that are pinned."""
        mapped = sum(m.n for m in self.maps)
        pinned = sum(len(m.pins) for m in self.maps)
        assert self.box.locked() == (mapped if self.group >= 0 else pinned)
        assert self.kernel.sub(PhysMem).pinned == pinned + (mapped if self.group >= 0 else 0)
        assert not self.kernel.oopses

    def teardown(self):
        if not hasattr(self, "box"):
            return
        for m in self.maps:
            for at, n in m.pins.items():
                for _ in range(n):
                    vfio_unpin_pages(self.emu, at * K, 1)
        for fd in self.box.devices + self.box.groups + [self.group] * (self.group >= 0):
            self.box.proc.close(fd)
        assert self.box.locked() == 0
        assert self.kernel.sub(PhysMem).pinned == 0
        self.box.close()
        remove(self.emu)
        assert not self.kernel.oopses


TestType1 = Type1.TestCase
TestType1.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)
