"""Random calls to a container of type 1 against a naive model: lists of pages; at the end nothing is pinned or locked."""

from __future__ import annotations

import struct
from errno import EEXIST, EINVAL, EPERM

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

PAGES = 160
SPARE = 64  # bits that a bitmap has behind its mapping
page, few = st.integers(0, PAGES - 1), st.integers(1, 70)
rights = st.sampled_from([1, 2, 3, 3, 3])


class Mapping:
    """Pages *first* to *end*; its bits are a list, its pins a count each."""

    def __init__(self, first, n, prot):
        self.first, self.n, self.end, self.prot = first, n, first + n, prot
        self.pins = {}
        self.bits = [False] * (n + SPARE)

    def tell(self, out, base, *, everything):
        """Put the bits into the user's words *out*, as Linux does: shifted in place, whole words, the first one kept."""
        if everything:
            self.bits[: self.n] = [True] * self.n
        word, shift = divmod(self.first - base, 64)
        words = -(-(self.n + shift) // 64)
        self.bits = [False] * shift + self.bits
        del self.bits[self.n + SPARE :]
        self.bits += [False] * (words * 64 - len(self.bits))
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

    @rule(first=page, n=few)
    def unmap_and_tell(self, first, n):
        gone = sorted(self.over(first, n), key=lambda m: m.first)
        good = self.tracking and not self.cut(first, n)
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

    @rule(first=page, n=st.integers(1, 4), prot=rights)
    def pin(self, first, n, prot):
        pages = [(at, self.at(at)) for at in range(first, first + n)]
        code = 0
        for _, m in pages:
            code = code or (EINVAL if m is None else EPERM if m.prot & prot != prot else 0)
        try:
            with self.kernel.as_task(self.box.proc.task):
                found = vfio_pin_pages(self.emu, first * K, n, prot)
        except OSError as e:
            assert e.errno == code
            # pages that were pinned for a moment stay written
            for at, m in pages:
                if m is None or m.prot & prot != prot:
                    break
                m.bits[at - m.first] |= self.tracking and at not in m.pins
            return
        assert code == 0
        assert len(found) == n
        for at, m in pages:
            m.bits[at - m.first] |= self.tracking and at not in m.pins
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

    @rule(first=page, off=st.integers(0, K - 1), n=st.integers(1, 3 * K))
    def write(self, first, off, n):
        low, high = first * K + off, first * K + off + n
        code = 0
        while low < high:
            m = self.at(low // K)
            code = EINVAL if m is None else 0 if m.prot == 3 else EPERM
            if code:
                break
            step = min(high, m.end * K)
            for at in range(low // K, (step - 1) // K + 1):
                m.bits[at - m.first] |= self.tracking
            low = step
        try:
            with self.kernel.as_task(self.box.proc.task):
                vfio_dma_write(self.emu, first * K + off, bytes(n))
            assert code == 0
        except OSError as e:
            assert e.errno == code

    @rule(on=st.booleans())
    def track(self, on):
        assert self.box.dirty(START if on else STOP) == 0
        if on != self.tracking:
            for m in self.maps:
                m.bits = [False] * (m.n + SPARE)
                if on:
                    m.again()
        self.tracking = on

    @rule(first=page, n=st.integers(1, 128), fill=st.sampled_from([0, 0, 0xA5]))
    def told(self, first, n, fill):
        code, data = play(self.box, [g(first * K, n * K, 16, fill=fill)])[0]
        if not self.tracking or self.cut(first, n):
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
TestType1.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
