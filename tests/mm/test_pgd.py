"""The page tables that hardware walks say what the address space has; every frame of them is given back."""

from __future__ import annotations

import mmap as libc
from errno import ENOMEM

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pykernel.errors import Oops
from pykernel.mm.notifier import mmu_notifier_register, mmu_notifier_unregister
from pykernel.mm.phys import PAGE_SIZE, PhysMem
from pykernel.mm.self import SelfMemory
from pykernel.mm.sim import SimMemory
from pykernel.mm.vma import MAP_FIXED, Vma
from pykernel.surfaces.inprocess.memory import HostMemory

P, RW, US, A, D, NX = 1, 2, 4, 0x20, 0x40, 1 << 63  # Intel SDM volume 3, table 4-20
READ, WRITE, EXEC = libc.PROT_READ, libc.PROT_WRITE, libc.PROT_EXEC
PRIVATE = libc.MAP_PRIVATE | libc.MAP_ANONYMOUS
SHARED = libc.MAP_SHARED | libc.MAP_ANONYMOUS
AT = 0x7F00_0000_0000
ADDRESS = 0x000F_FFFF_FFFF_F000


def walk(phys: PhysMem, pgd: int, addr: int) -> int:
    """What a walker finds for *addr*: the entry of the page, 0 where one on the way is not present."""
    entry = pgd | P
    for shift in (39, 30, 21, 12):
        if not entry & P:
            return 0
        table = entry & ADDRESS
        entry = int.from_bytes(phys.read(table + (addr >> shift & 511) * 8, 8), "little")
    return entry


def leaves(phys: PhysMem, pgd: int) -> dict[int, int]:
    """All present entries of pages by page number."""
    found = {0: pgd}
    for _ in range(4):
        below = {}
        for key, table in found.items():
            words = memoryview(phys.read(table & ADDRESS, PAGE_SIZE)).cast("Q")
            below |= {key << 9 | i: word for i, word in enumerate(words) if word & P}
        found = below
    return found


def mapped(pages: int, *, prot: int = READ | WRITE, flags: int = PRIVATE) -> SimMemory:
    mem = SimMemory(PhysMem(None, 64 << 20))
    mem.mmap(AT, pages * PAGE_SIZE, prot, flags | MAP_FIXED)
    return mem


def test_entries_have_the_bits_of_x86() -> None:
    mem = mapped(4)
    pgd = mem.pgd()
    mem.read(AT, 1)
    mem.write(AT + PAGE_SIZE, b"x")
    mem.mmap(AT + 0x10000, PAGE_SIZE, READ | EXEC, PRIVATE | MAP_FIXED)
    mem.read(AT + 0x10000, 1)
    mem.mmap(AT + 0x20000, PAGE_SIZE, READ | WRITE, SHARED | MAP_FIXED)
    mem.write(AT + 0x20000, b"x")
    bits = [walk(mem.phys, pgd, AT + at) & ~ADDRESS for at in (0, PAGE_SIZE, 2 * PAGE_SIZE, 0x10000, 0x20000)]
    assert bits == [P | US | A | NX, P | RW | US | A | D | NX, 0, P | US | A, P | RW | US | A | NX]
    assert walk(mem.phys, pgd, AT + PAGE_SIZE) & ADDRESS == mem.translate(AT + PAGE_SIZE)


def test_tables_are_made_of_what_is_there_and_cost_nothing_before() -> None:
    mem = mapped(3)
    mem.write(AT, b"x" * 2 * PAGE_SIZE)
    used = mem.phys.used
    assert used == 2
    pgd = mem.pgd()
    assert mem.pgd() == pgd
    assert mem.phys.used == used + 4
    assert set(leaves(mem.phys, pgd)) == {AT >> 12, (AT >> 12) + 1}


def test_tables_of_pages_with_different_rights() -> None:
    """Neighbours of two areas, read and written, some missing: made at once, they are as if made one by one."""
    one, two = (mapped(600) for _ in range(2))
    two.pgd()
    for mem in (one, two):
        mem.mprotect(AT + 300 * PAGE_SIZE, 300 * PAGE_SIZE, READ | WRITE | EXEC)
        mem.write(AT + 290 * PAGE_SIZE, bytes(20 * PAGE_SIZE))
        mem.write(AT + 500 * PAGE_SIZE, bytes(80 * PAGE_SIZE))
        mem.read(AT + 310 * PAGE_SIZE, 5 * PAGE_SIZE)
    first, second = (leaves(mem.phys, mem.pgd()) for mem in (one, two))
    assert len(first) == 105
    assert {v: e & ~ADDRESS for v, e in first.items()} == {v: e & ~ADDRESS for v, e in second.items()}


def test_large_mappings_follow_in_bulk() -> None:
    mem = mapped(2000)
    pgd = mem.pgd()
    mem.write(AT, bytes(1500 * PAGE_SIZE))
    found = leaves(mem.phys, pgd)
    assert {vpn: e & ADDRESS for vpn, e in found.items()} == {
        (AT >> 12) + i: mem.translate(AT + i * PAGE_SIZE) for i in range(1500)
    }
    mem.munmap(AT, 2000 * PAGE_SIZE)
    assert leaves(mem.phys, pgd) == {}
    assert mem.phys.used == 1


def test_what_hardware_sets_stays_through_mprotect_and_tells_at_the_end() -> None:
    """A device wrote a shared page: its entry is dirty, and then the page is."""
    mem = mapped(1, flags=SHARED)
    pgd, phys = mem.pgd(), mem.phys
    mem.read(AT, 1)
    pa = mem.translate(AT)
    assert pa is not None
    table = pgd
    for shift in (39, 30, 21):
        table = int.from_bytes(phys.read(table + (AT >> shift & 511) * 8, 8), "little") & ADDRESS
    phys.words[(table >> 3) + (AT >> 12 & 511)] |= D
    mem.mprotect(AT, PAGE_SIZE, READ)
    assert walk(phys, pgd, AT) & (RW | D) == D
    assert pa >> 12 not in phys.dirty
    phys.get_pages(pa)
    mem.munmap(AT, PAGE_SIZE)
    assert pa >> 12 in phys.dirty
    mem.exit()
    phys.free_pages(pa)
    phys.alloc_pages(1)
    assert not phys.dirty


def test_fork_copies_on_write_in_both_tables() -> None:
    mem = mapped(1)
    pgd, phys = mem.pgd(), mem.phys
    mem.write(AT, b"x")
    child = mem.fork()
    theirs = child.pgd()
    assert theirs != pgd
    assert walk(phys, pgd, AT) & (ADDRESS | RW) == walk(phys, theirs, AT) & ADDRESS
    child.write(AT, b"y")
    assert walk(phys, theirs, AT) & ADDRESS != walk(phys, pgd, AT) & ADDRESS
    assert walk(phys, theirs, AT) & RW
    assert not walk(phys, pgd, AT) & RW
    child.exit()
    mem.exit()
    assert phys.used == 0


def test_prot_none_is_not_present() -> None:
    mem = mapped(1)
    pgd = mem.pgd()
    mem.write(AT, b"x")
    mem.mprotect(AT, PAGE_SIZE, 0)
    assert not walk(mem.phys, pgd, AT) & P
    mem.mprotect(AT, PAGE_SIZE, READ | EXEC)
    assert walk(mem.phys, pgd, AT) & (P | RW | NX) == P


def test_without_a_frame_for_a_table_nothing_is_lost() -> None:
    """ENOMEM in the middle of a fault: the frames of the pages are free again, and the tables say what is there."""
    mem = SimMemory(PhysMem(None, 16 << 20))
    mem.mmap(AT, 8 << 20, READ | WRITE, PRIVATE | MAP_FIXED)
    pgd, phys = mem.pgd(), mem.phys
    held = [phys.alloc_pages(1) for _ in range(phys.free - 1100 - 3)]
    with pytest.raises(OSError, match="no page is free") as e:
        mem.write(AT, bytes(1100 * PAGE_SIZE))
    assert e.value.errno == ENOMEM
    assert {vpn: entry & ADDRESS for vpn, entry in leaves(phys, pgd).items()} == {
        vpn: mem.translate(vpn << 12) for vpn in leaves(phys, pgd)
    }
    mem.exit()
    assert phys.used == len(held)


class Ears:
    """Notes what a notifier is told."""

    def __init__(self) -> None:
        self.heard: list[object] = []

    def invalidate_range(self, start: int, end: int) -> None:
        self.heard.append(((start - AT) // PAGE_SIZE, (end - AT) // PAGE_SIZE))

    def release(self) -> None:
        self.heard.append("release")


def test_release_comes_first_and_the_tables_stay_for_who_is_registered() -> None:
    mem, ears = mapped(2), Ears()
    pgd = mem.pgd()
    mmu_notifier_register(mem, ears)
    mem.write(AT, b"x")
    mem.munmap(AT + PAGE_SIZE, PAGE_SIZE)
    assert ears.heard == [(1, 2)]
    mem.exit()
    assert ears.heard == [(1, 2), "release"]
    assert (mem.phys.used, leaves(mem.phys, pgd)) == (1, {})
    mmu_notifier_unregister(mem, ears)
    assert mem.phys.used == 0
    assert ears.heard == [(1, 2), "release"]


def test_unregistering_early_is_told_the_end() -> None:
    mem, ears = mapped(2), Ears()
    mmu_notifier_register(mem, ears)
    mmu_notifier_unregister(mem, ears)
    mem.write(AT, b"x")
    mem.exit()
    assert ears.heard == ["release"]


def test_real_memory_has_a_token() -> None:
    phys = PhysMem(None, 16 << 20)
    mem = SelfMemory(phys=phys)
    pa = mem.pgd()
    assert (mem.pgd(), phys.foreign_pgd[pa], phys.read(pa, PAGE_SIZE)) == (pa, mem, bytes(PAGE_SIZE))
    del mem
    assert pa not in phys.foreign_pgd
    assert phys.free
    assert phys.used == 0


def test_real_memory_tells_its_end_and_its_areas_changes() -> None:
    """What a patched process mapped of emulated files goes as simulated areas do; of the rest only the end is known."""
    phys = PhysMem(None, 16 << 20)
    mem, ears = HostMemory(phys), Ears()
    addr = mem.mmap(0, PAGE_SIZE, READ | WRITE, PRIVATE)
    other = mem.alloc(PAGE_SIZE)
    mmu_notifier_register(mem, ears)
    mem.write(other, b"real")
    mem.munmap(addr, PAGE_SIZE)
    assert ears.heard == [((addr - AT) // PAGE_SIZE, (addr - AT) // PAGE_SIZE + 1)]
    mem.exit()
    assert ears.heard[1:] == ["release"]
    assert phys.foreign_pgd[mem.pgd()] is mem
    process, end = SelfMemory(phys=phys), Ears()
    mmu_notifier_register(process, end)
    process.exit()
    mmu_notifier_unregister(process, end)
    assert end.heard == ["release"]
    with pytest.raises(Oops, match="not registered"):
        mmu_notifier_unregister(process, end)


def test_a_memory_that_is_thrown_away_leaves_no_tables() -> None:
    mem = mapped(600)
    phys = mem.phys
    mem.pgd()
    mem.write(AT, bytes(600 * PAGE_SIZE))
    del mem
    assert phys.free
    assert phys.used == 0


# ---- against a naive model

PAGES = 1200
PAGE = st.integers(0, PAGES - 1)
COUNT = st.integers(1, PAGES)
OPS = st.one_of(
    st.tuples(st.just("map"), PAGE, COUNT, st.sampled_from([0, READ, READ | WRITE, READ | EXEC]), st.booleans()),
    st.tuples(st.just("unmap"), PAGE, COUNT),
    st.tuples(st.just("protect"), PAGE, COUNT, st.sampled_from([0, READ, READ | WRITE, WRITE | EXEC])),
    st.tuples(st.just("write"), PAGE, st.integers(1, 5)),
    st.tuples(st.just("read"), PAGE, st.integers(1, 5)),
    st.tuples(st.just("fork")),
    st.tuples(st.just("late")),
    st.tuples(st.just("pgd")),
)


def expected(mem: SimMemory) -> dict[int, tuple[int | None, bool, bool]]:
    """Page number -> frame, writable, executable: asked page by page."""
    out: dict[int, tuple[int | None, bool, bool]] = {}
    for vpn in range(AT >> 12, (AT >> 12) + PAGES):
        pa = mem.translate(vpn << 12)
        vma: Vma | None = mem.vmas.find(vpn << 12)
        if pa is not None and vma is not None:
            out[vpn] = pa, mem.translate(vpn << 12, write=True) is not None, bool(vma.vm_flags & EXEC)
    return out


@settings(max_examples=60, deadline=None)
@given(st.lists(OPS, max_size=12))
def test_tables_are_the_page_map(ops: list[tuple[object, ...]]) -> None:
    phys = PhysMem(None, 64 << 20)
    mems = [SimMemory(phys)]
    mems[0].pgd()
    for op, *args in ops:
        mem = mems[-1]
        if op == "fork":
            if len(mems) < 3:
                mems.append(mem.fork())
            continue
        if op == "pgd":
            mem.pgd()
            continue
        if op == "late":
            mems[:] = [mem.fork()]  # one that has no tables before the end
            mem.exit()
            continue
        page, n, *rest = (int(x) for x in args)  # type: ignore[call-overload]
        addr, size = AT + page * PAGE_SIZE, min(n, PAGES - page) * PAGE_SIZE
        try:
            if op == "map":
                mem.mmap(addr, size, rest[0], (SHARED if rest[1] else PRIVATE) | MAP_FIXED)
            elif op == "unmap":
                mem.munmap(addr, size)
            elif op == "protect":
                mem.mprotect(addr, size, rest[0])
            elif op == "write":
                mem.write(addr + 5, bytes(size - 5))
            else:
                mem.read(addr, size)
        except OSError:
            pass
    for mem in mems:
        got = leaves(phys, mem.pgd())
        assert {vpn: (e & ADDRESS, bool(e & RW), not e & NX) for vpn, e in got.items()} == expected(mem)
    for mem in mems:
        mem.exit()
    assert phys.free
    assert phys.used == 0
