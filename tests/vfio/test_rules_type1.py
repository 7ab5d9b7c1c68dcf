"""
Type 1: its tables, a row for each rule of drivers/vfio/vfio_iommu_type1.c, where the order of rules matters.

What Linux itself answered to single calls is in test_type1_linux.py, by the names of type1_scenarios.py.
"""

from __future__ import annotations

import struct
from errno import EACCES, EBUSY, EEXIST, EFAULT, EINVAL, ENOENT, ENOMEM, ENOSPC, ENOTTY, EOVERFLOW, EPERM
from typing import Any

import pytest
from errnos import errno_of
from type1_scenarios import ALL, BITMAP, GET, START, STOP, UNMAP_VADDR, V1, V2, VADDR, K, R, W, d, g, m, play, u, ub
from type1box import Box, Deaf, emulated, machine, physical

import pykernel
from pykernel.machine import parse
from pykernel.uapi.linux import vfio as v
from pykernel.vfio.main import vfio_dma_read, vfio_dma_write, vfio_pin_pages, vfio_unpin_pages

BOTH = ["linux-6.1", "linux-6.12"]
TOP = 1 << 64
READ, WRITE = 1, 2
MAP, UNMAP, INFO, DIRTY = 0x3B71, 0x3B72, 0x3B70, 0x3B75


class World:
    """A card that does DMA, a device that does none, and a client with either or both in a container."""

    def __init__(self, profile: str, kind: int = V2, who: str = "card", *, cards: int = 1, **kw: Any) -> None:
        self.kernel = pykernel.boot(parse(machine(cards, **kw)), profile)
        self.cards = physical(self.kernel).vdevs
        self.emu = emulated(self.kernel)
        vdevs = {"card": self.cards[:1], "emu": [self.emu], "both": [self.cards[0], self.emu]}[who]
        self.box = Box(self.kernel, *vdevs, kind=kind)
        self.first = self.box.set_iommu()
        self.task = self.box.proc.task
        if self.emu in vdevs:
            self.box.open(self.emu, self.box.groups[-1])

    def play(self, *steps: Any) -> Any:
        """The answer to the last of *steps*."""
        return play(self.box, steps)[-1]

    def join(self, vdev: Any) -> int:
        """0, or minus the errno of VFIO_GROUP_SET_CONTAINER."""
        return -(errno_of(self.box.join, vdev) or 0)

    def driver(self, fn: Any, *args: Any) -> int:
        """What a driver's call gives in the client's own task: 0, or minus the errno."""
        with self.kernel.as_task(self.task):
            return -(errno_of(fn, *args) or 0)

    def end(self) -> None:
        self.box.close()
        assert not self.kernel.oopses


def world(**kw: Any) -> Any:
    """A fixture of both kernels."""

    @pytest.fixture(params=BOTH)
    def made(request):
        w = World(request.param, **kw)
        yield w
        w.end()

    return made


card, emu = world(), world(who="emu")

# ---- what cannot be read


@pytest.mark.parametrize("cmd", [MAP, UNMAP, DIRTY, INFO], ids=["MAP_DMA", "UNMAP_DMA", "DIRTY_PAGES", "GET_INFO"])
def test_unreadable(card, cmd):
    """EFAULT, also where a struct's end is behind the end of memory."""
    assert card.box.ioctl(cmd, 8)[0] == -EFAULT
    page = card.box.proc.mmap(0, 2 * K, 3, 0x22)
    card.box.proc.munmap(page + K, K)
    card.box.proc.mem.write(page + K - 4, (64).to_bytes(4, "little"))
    assert card.box.ioctl(cmd, page + K - 4)[0] == -EFAULT


# ---- MAP_DMA: each row breaks a rule and all those after it

MAPS: dict[str, tuple[list[Any], int]] = {
    "argsz, before flags": ([m(1, 0, 8, argsz=31)], -EINVAL),
    "an unknown flag": ([m(0, K, 8 | R)], -EINVAL),
    "no flag": ([m(0, K, 0)], -EINVAL),
    "a right and VADDR": ([m(0, K, W | VADDR)], -EINVAL),
    "no size": ([m(0, 0)], -EINVAL),
    "size": ([m(0, K + 1)], -EINVAL),
    "iova": ([m(0x800, K)], -EINVAL),
    "vaddr": ([m(0, K, at=("abs", 0x10800))], -EINVAL),
    "iova wraps": ([m(TOP - K, 2 * K)], -EINVAL),
    "vaddr wraps": ([m(0, 2 * K, at=("abs", TOP - K))], -EINVAL),
    "VADDR: nothing there": ([m(0, K, VADDR)], -ENOENT),
    "VADDR: another size": ([m(0, 2 * K), u(0, 2 * K, UNMAP_VADDR), m(0, K, VADDR)], -EINVAL),
    "VADDR: another start": ([m(0, 2 * K), u(0, 2 * K, UNMAP_VADDR), m(K, K, VADDR)], -EINVAL),
    "VADDR: not taken back": ([m(0, K), m(0, K, VADDR)], -EINVAL),
    "VADDR": ([m(0, K), u(0, K, UNMAP_VADDR), m(0, K, VADDR, at=("a", K))], 0),
    "mapped, identical": ([m(0, K), m(0, K)], -EEXIST),
    "mapped, before reserved": ([m(0xFEDFF000, K), m(0xFEDFF000, 2 * K)], -EEXIST),
    "reserved": ([m(0xFEE00000, K)], -EINVAL),
    "beyond the aperture": ([m(1 << 39, K)], -EINVAL),
    "reserved, before the address is looked at": ([m(0xFEE00000, K, at=("abs", 0x10000))], -EINVAL),
    "nothing at the address": ([m(0, K, at=("abs", 0x10000))], -EFAULT),
    "write of read-only": ([m(0, K, W, at=("ro", 0))], -EFAULT),
    "read of read-only": ([m(0, K, R, at=("ro", 0))], 0),
    "more than may be locked": ([("limit", 8 * K), m(0, 9 * K)], -ENOMEM),
    "as much as may be locked": ([("limit", 8 * K), m(0, 8 * K)], 0),
    "iova 0": ([m(0, K)], 0),
    "write only": ([m(0, K, W)], 0),
    "adjacent": ([m(0, K), m(K, K)], 0),
}


@pytest.mark.parametrize("row", MAPS)
def test_map_dma(card, row):
    """vfio_dma_do_map(), the rules in their order."""
    steps, wanted = MAPS[row]
    assert card.play(*steps) == wanted


@pytest.mark.parametrize("profile", BOTH)
@pytest.mark.parametrize("what", ["identical", "another"])
def test_map_dma_beyond_the_limit(profile, what):
    """dma_entry_limit: what is mapped already is looked at before; what is reserved after."""
    w = World(profile, params="dma_entry_limit=2")
    w.play(m(0, K), m(K, K))
    assert w.play(m(0, K) if what == "identical" else m(0xFEE00000, K)) == (-EEXIST if what == "identical" else -ENOSPC)
    w.end()


@pytest.mark.parametrize("profile", ["linux-7.2"])
@pytest.mark.parametrize("step", [m(TOP - K, 2 * K), m(0, 2 * K, at=("abs", TOP - K))], ids=["iova", "vaddr"])
def test_map_dma_that_wraps_from_linux_6_18_on(profile, step):
    w = World(profile)
    assert w.play(step) == -EOVERFLOW
    w.end()


# ---- UNMAP_DMA

UNMAPS: dict[str, tuple[list[Any], int]] = {
    "argsz, before flags": ([u(1, 1, 8, argsz=23)], -EINVAL),
    "an unknown flag": ([u(0, K, 8)], -EINVAL),
    "a bitmap of all": ([ub(0, 0, 8, flags=BITMAP | ALL)], -EINVAL),
    "a bitmap and VADDR": ([ub(0, K, 8, flags=BITMAP | UNMAP_VADDR)], -EINVAL),
    "a bitmap, argsz": ([ub(0, K, 8, argsz=47)], -EINVAL),
    "a bitmap of no bytes": ([d(START), m(0, K), ub(0, K, 0)], -EINVAL),
    "a bitmap of 2**28 bytes and more": ([d(START), m(0, K), ub(0, K, (1 << 28) + 8)], -EINVAL),
    "a bitmap that is too small": ([d(START), m(0, 65 * K), ub(0, 65 * K, 8)], -EINVAL),
    "iova": ([u(1, K)], -EINVAL),
    "all, with an address": ([u(K, 0, ALL)], -EINVAL),
    "all, with a size": ([u(0, K, ALL)], -EINVAL),
    "no size": ([u(0, 0)], -EINVAL),
    "size": ([u(0, K + 1)], -EINVAL),
    "wraps": ([u(TOP - K, 2 * K)], -EINVAL),
    "a bitmap, and nobody tracks": ([m(0, K), ub(0, K, 8)], -EINVAL),
    "a bitmap of other pages": ([d(START), m(0, K), ub(0, K, 8, pgsize=2 * K)], -EINVAL),
    "VADDR twice": ([m(0, K), u(0, K, UNMAP_VADDR), u(0, K, UNMAP_VADDR)], -EINVAL),
    "VADDR": ([m(0, K), u(0, K, UNMAP_VADDR)], 0),
    "a bitmap": ([d(START), m(0, K), ub(0, K, 8)], 0),
}


@pytest.mark.parametrize("row", UNMAPS)
def test_unmap_dma(card, row):
    """vfio_dma_do_unmap(); on an error the size is as it was."""
    steps, wanted = UNMAPS[row]
    answer = card.play(*steps)
    assert answer[:2] == [wanted, steps[-1][2]]


@pytest.mark.parametrize("flags", [UNMAP_VADDR, UNMAP_VADDR | ALL], ids=["VADDR", "all VADDR"])
def test_unmap_dma_with_emulated_devices(emu, flags):
    """EBUSY, before the range is looked at."""
    assert emu.play(u(1, 1, flags)) == [-EBUSY, 1]


@pytest.mark.parametrize("profile", BOTH)
@pytest.mark.parametrize("where", ["pointer of the kernel", "unreadable"])
def test_unmap_dma_with_a_bitmap_elsewhere(profile, where):
    """A pointer that is no user's is EINVAL (access_ok()), one that leads nowhere EFAULT, when all is unmapped."""
    w = World(profile)
    w.play(d(START), m(0, K))
    at = 0xFFFF888000000000 if where.startswith("pointer") else 0x1000
    row = bytearray(struct.pack("<IIQQQQQ", 48, BITMAP, 0, K, K, 8, at))
    assert w.box.ioctl(UNMAP, row)[0] == (-EINVAL if where.startswith("pointer") else -EFAULT)
    w.end()


# what is mapped: 4 pages at 0, 4 pages at 8 -> the answers of version 1 and of version 2, and what is left then
CASES: dict[str, tuple[Any, tuple[int, int, int], tuple[int, int, int]]] = {
    "nothing": (u(16 * K, 4 * K), (0, 0, 8), (0, 0, 8)),
    "exactly one": (u(0, 4 * K), (0, 4, 4), (0, 4, 4)),
    "both and the hole": (u(0, 16 * K), (0, 8, 0), (0, 8, 0)),
    "from the middle on": (u(2 * K, 2 * K), (0, 0, 8), (-EINVAL, 2, 8)),
    "from the middle on, and the other": (u(2 * K, 10 * K), (0, 0, 8), (-EINVAL, 10, 8)),
    "its first half": (u(0, 2 * K), (0, 4, 4), (-EINVAL, 2, 8)),
    "one and half of the other": (u(0, 10 * K), (0, 8, 0), (-EINVAL, 10, 8)),
    "all": (u(0, 0, ALL), (0, 8, 0), (0, 8, 0)),
}


@pytest.mark.parametrize("profile", BOTH)
@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("case", CASES)
def test_unmap_dma_of_each_version(profile, version, case):
    """Version 1 takes whole mappings whose start it meets, and stops at one whose start it does not."""
    step, *wanted = CASES[case]
    code, size, left = wanted[version - 1]
    w = World(profile, kind=(V1, V2)[version - 1])
    w.play(m(0, 4 * K), m(8 * K, 4 * K))
    assert w.play(step) == [code, size * K]
    assert w.box.locked() == left
    w.end()


# ---- DIRTY_PAGES

DIRTIES: dict[str, tuple[list[Any], int]] = {
    "argsz": ([d(START, argsz=7)], -EINVAL),
    "an unknown flag": ([d(8)], -EINVAL),
    "no flag": ([d(0)], -EINVAL),
    "two flags": ([d(START | STOP)], -EINVAL),
    "START": ([d(START)], 0),
    "START twice": ([d(START), d(START)], 0),
    "STOP": ([d(START), d(STOP)], 0),
    "STOP, and it is off": ([d(STOP)], 0),
    "GET: argsz": ([d(START), g(0, K, 8, argsz=47)], -EINVAL),
    "GET: wraps": ([d(START), g(TOP - K, 2 * K, 8)], -EINVAL),
    "GET: no bytes": ([d(START), g(0, K, 0)], -EINVAL),
    "GET: too few bytes": ([d(START), g(0, 65 * K, 8)], -EINVAL),
    "GET: a pointer of the kernel": ([d(START), ("getat", 0, K, 8, 0xFFFF888000000000)], -EINVAL),
    "GET: other pages": ([d(START), g(0, 2 * K, 8, pgsize=2 * K)], -EINVAL),
    "GET: iova": ([d(START), g(1, K, 8)], -EINVAL),
    "GET: size": ([d(START), g(0, K + 1, 8)], -EINVAL),
    "GET: no size": ([d(START), g(0, 0, 8)], -EINVAL),
    "GET: it is off": ([m(0, K), g(0, K, 8)], -EINVAL),
    "GET: cut at its start": ([d(START), m(0, 4 * K), g(2 * K, 4 * K, 8)], -EINVAL),
    "GET: cut at its end": ([d(START), m(0, 4 * K), g(0, 2 * K, 8)], -EINVAL),
    "GET": ([d(START), m(0, K), g(0, K, 8)], 0),
    "GET and START": ([d(START), g(0, K, 8, flags=GET | START)], -EINVAL),
}


@pytest.mark.parametrize("row", DIRTIES)
def test_dirty_pages(card, row):
    """vfio_iommu_type1_dirty_pages()."""
    steps, wanted = DIRTIES[row]
    answer = card.play(*steps)
    assert (answer[0] if isinstance(answer, list) else answer) == wanted


@pytest.mark.parametrize("profile", BOTH)
@pytest.mark.parametrize("step", [d(START), d(0), d(START, argsz=0)], ids=["START", "no flag", "argsz"])
def test_dirty_pages_of_version_1(profile, step):
    """EACCES, before anything is looked at."""
    w = World(profile, kind=V1)
    assert w.play(step) == -EACCES
    assert w.box.ioctl(DIRTY, 8)[0] == -EACCES
    w.end()


# ---- IOMMU_GET_INFO: number, version, where; what is in it


@pytest.mark.parametrize("who", ["card", "emu", "both"])
@pytest.mark.parametrize("profile", BOTH)
def test_info(profile, who):
    """In this order: migration, entries that are left, and with a domain the ranges."""
    w = World(profile, who=who)
    w.play(m(0, K), m(K, K))
    buf = bytearray(struct.pack("<I", 256) + bytes(252))
    assert w.box.ioctl(INFO, buf)[0] == 0
    _, flags, sizes, at = struct.unpack_from("<IIQI", buf)
    aligned = profile != "linux-6.1"
    chain: list[tuple[int, ...]] = []
    while at:
        chain.append((at, *struct.unpack_from("<HHI", buf, at)))
        at = chain[-1][3]
    ranges = 72 if aligned else 68
    last = [(ranges, 1, 1, 0)] if who != "emu" else []
    assert chain == [(24, 2, 1, 56), (56, 3, 1, last[0][0] if last else 0), *last]
    assert (flags, sizes & (K - 1)) == (v.VFIO_IOMMU_INFO_PGSIZES | v.VFIO_IOMMU_INFO_CAPS, 0)
    assert struct.unpack_from("<I4xQQ", buf, 32) == (0, K, 1 << 28)
    assert struct.unpack_from("<I", buf, 64) == (65533,)
    if who == "emu":
        assert sizes == TOP - K
    else:
        assert struct.unpack_from("<II4Q", buf, ranges + 8) == (2, 0, 0, 0xFEDFFFFF, 0xFEF00000, (1 << 39) - 1)


# ---- who is charged: steps, and the pages that are locked after each


def _pin(w: World) -> None:
    with w.kernel.as_task(w.task):
        vfio_pin_pages(w.emu, 0, 2, READ | WRITE)


def _unpin(w: World) -> None:
    vfio_unpin_pages(w.emu, 0, 2)


CHARGES: dict[str, tuple[str, list[Any], list[int]]] = {
    "with a domain, when it is mapped": ("card", [m(0, 4 * K), u(0, 4 * K)], [4, 0]),
    "the same memory twice": ("card", [m(0, 4 * K), m(8 * K, 4 * K), u(0, 4 * K)], [4, 8, 4]),
    "without, when it is pinned": ("emu", [m(0, 4 * K), _pin, _pin, _unpin, _unpin], [0, 2, 2, 2, 0]),
    "both: what is mapped is charged": ("both", [m(0, 4 * K), _pin, _unpin, u(0, 4 * K)], [4, 4, 4, 0]),
}


@pytest.mark.parametrize("profile", BOTH)
@pytest.mark.parametrize("row", CHARGES)
def test_locked_pages(profile, row):
    """vfio_lock_acct(): locked_vm of who mapped it."""
    who, steps, wanted = CHARGES[row]
    w = World(profile, who=who)
    found = []
    for step in steps:
        if callable(step):
            step(w)
        else:
            w.play(step)
        found.append(w.box.locked())
    assert found == wanted
    w.end()


# ---- what drivers call


def _pins(w: World, *args: int) -> int:
    return w.driver(vfio_pin_pages, w.emu, *args)


CALLS: dict[str, tuple[int, int, Any, int]] = {
    # version, rights of the mapping at 0, the call, its answer
    "pin: version 1": (V1, R | W, lambda w: _pins(w, 0, 1, READ), -EACCES),
    "pin: too many": (V2, R | W, lambda w: _pins(w, 0, 513, READ), -7),
    "pin: nothing": (V2, R | W, lambda w: _pins(w, 0, 0, READ), -EINVAL),
    "pin: not mapped": (V2, R | W, lambda w: _pins(w, 8 * K, 1, READ), -EINVAL),
    "pin: over the end": (V2, R | W, lambda w: _pins(w, 3 * K, 2, READ), -EINVAL),
    "pin: write of read-only": (V2, R, lambda w: _pins(w, 0, 1, READ | WRITE), -EPERM),
    "pin: read of write-only": (V2, W, lambda w: _pins(w, 0, 1, READ), -EPERM),
    "pin": (V2, R | W, lambda w: _pins(w, 0, 4, READ | WRITE), 0),
    "unpin: nothing there": (V2, R | W, lambda w: w.driver(vfio_unpin_pages, w.emu, 0, 4), 0),
    "read: not mapped": (V2, R | W, lambda w: w.driver(vfio_dma_read, w.emu, 8 * K, 1), -EINVAL),
    "read: over the end": (V2, R | W, lambda w: w.driver(vfio_dma_read, w.emu, 4 * K - 1, 2), -EINVAL),
    "read of write-only": (V2, W, lambda w: w.driver(vfio_dma_read, w.emu, 0, 1), -EPERM),
    "write of write-only": (V2, W, lambda w: w.driver(vfio_dma_write, w.emu, 0, b"x"), -EPERM),
    "write of read-only": (V2, R, lambda w: w.driver(vfio_dma_write, w.emu, 0, b"x"), -EPERM),
    "write": (V2, R | W, lambda w: w.driver(vfio_dma_write, w.emu, 0, b"x"), 0),
    "read, version 1": (V1, R | W, lambda w: w.driver(vfio_dma_read, w.emu, 0, 1), 0),
}


@pytest.mark.parametrize("profile", BOTH)
@pytest.mark.parametrize("row", CALLS)
def test_calls_of_drivers(profile, row):
    """vfio_pin_pages(), vfio_unpin_pages(), vfio_dma_rw()."""
    kind, rights, call, wanted = CALLS[row]
    w = World(profile, kind, "emu")
    w.play(m(0, 4 * K, rights))
    assert call(w) == wanted
    if kind == V2:  # version 1 warns
        vfio_unpin_pages(w.emu, 0, 4)
    w.end()


@pytest.mark.parametrize("profile", BOTH)
@pytest.mark.parametrize("what", ["no dma_unmap", "memory that is gone, pin", "memory that is gone, read"])
def test_calls_of_drivers_that_take_more(profile, what):
    w = World(profile, who="emu")
    if what == "no dma_unmap":
        deaf = emulated(w.kernel, "deaf0", Deaf)
        box = Box(w.kernel, deaf)
        box.set_iommu()
        box.open(deaf)
        box.map(0, K)
        with w.kernel.as_task(box.proc.task):
            assert errno_of(vfio_pin_pages, deaf, 0, 1, READ) == EINVAL
        box.close()
    else:
        w.play(m(0, K, at=("abs", 0x10000)))
        call = (vfio_pin_pages, w.emu, 0, 1, READ) if what.endswith("pin") else (vfio_dma_read, w.emu, 0, 1)
        assert w.driver(*call) == -EFAULT
    w.end()


# ---- who may join


def _group_twice(w: World) -> int:
    return w.box.ioctl(0, 0)[0] if not w.box.groups else -(errno_of(
        w.box.proc.ioctl, w.box.groups[0], v.VFIO_GROUP_SET_CONTAINER,
        bytearray(struct.pack("<i", w.box.container)),
    ) or 0)  # fmt: skip


JOINS: dict[str, tuple[dict[str, Any], Any, int]] = {
    "an address was taken back": (
        {"who": "card", "cards": 2}, lambda w: (w.play(m(0, K), u(0, K, UNMAP_VADDR)), w.join(w.cards[1]))[1], -EBUSY,
    ),
    "an address was taken back, emulated": (
        {"who": "card"}, lambda w: (w.play(m(0, K), u(0, K, UNMAP_VADDR)), w.join(w.emu))[1], -EBUSY,
    ),
    "it is in": ({"who": "card"}, _group_twice, -EINVAL),
    "mapped where it reserves": (
        {"who": "emu"}, lambda w: (w.play(m(0xFEE00000, K)), w.join(w.cards[0]))[1], -EINVAL,
    ),
    "mapped beyond what it translates": (
        {"who": "emu"}, lambda w: (w.play(m(1 << 39, K)), w.join(w.cards[0]))[1], -EFAULT,
    ),
    "mapped memory that is not there": (
        {"who": "emu"}, lambda w: (w.play(m(0, K, at=("abs", 0x10000))), w.join(w.cards[0]))[1], -EFAULT,
    ),
    "interrupts are not remapped": ({"who": "emu", "remap": False}, lambda w: w.join(w.cards[0]), -EPERM),
    "an emulated one beside a real one": ({"who": "card"}, lambda w: w.join(w.emu), 0),
    "a real one beside an emulated one": ({"who": "emu"}, lambda w: w.join(w.cards[0]), 0),
    "emulated: nothing is reserved": ({"who": "emu"}, lambda w: w.play(m(0xFEE00000, K)), 0),
}  # fmt: skip


@pytest.mark.parametrize("profile", BOTH)
@pytest.mark.parametrize("row", JOINS)
def test_joining(profile, row):
    """vfio_iommu_type1_attach_group()."""
    how, ask, wanted = JOINS[row]
    w = World(profile, **how)
    assert (w.first, ask(w)) == (0, wanted)
    w.end()


@pytest.mark.parametrize("nr", [0x3B73, 0x3B74, 0x3B76, 0x3B77, 0x3B78, 0x3B79, 0x3B7A], ids=hex)
def test_numbers_of_other_drivers(card, nr):
    assert card.box.ioctl(nr, 8)[0] == -ENOTTY
