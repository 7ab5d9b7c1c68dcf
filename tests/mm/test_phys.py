"""Physical memory: frames against a naive model, the memory map of a PC, windows."""

from __future__ import annotations

import mmap
from errno import ENOMEM

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pykernel
from pykernel.errors import Oops, err
from pykernel.machine import parse
from pykernel.mm.phys import PAGE_SIZE, PIN, PMD_PAGES, PhysFault, PhysMem, Run, merged
from pykernel.pci.core import Pci

GIB = 1 << 30
MIB = 1 << 20


def enomem(phys: PhysMem, n: int) -> None:
    with pytest.raises(OSError, match=rf"\[Errno {ENOMEM}\]"):
        phys.alloc_pages(n)


# ---- the map


def test_ram_is_as_large_as_the_machine_says() -> None:
    kernel = pykernel.boot(parse('memory = "64M"'))
    phys = kernel.sub(PhysMem)
    assert (phys.size, phys.view(64 * MIB - 8, 8) is None, phys.view(64 * MIB - 8, 9)) == (64 * MIB, False, None)
    enomem(phys, 64 * MIB // PAGE_SIZE)
    kernel.shutdown()


def test_a_pc_has_a_hole_below_4_gib() -> None:
    """4 GiB of RAM are 3 below the hole, which is for 32-bit BARs, and one above 4 GiB."""
    phys = PhysMem(None, 4 * GIB)
    edges = [0, 3 * GIB - 1, 3 * GIB, 4 * GIB - 1, 4 * GIB, 5 * GIB - 1, 5 * GIB]
    assert [phys.is_ram(pa) for pa in edges] == [True, True, False, False, True, True, False]
    assert phys.view(3 * GIB - 8, 8) is not None
    assert [phys.view(pa, 8) for pa in (3 * GIB - 4, 3 * GIB, 4 * GIB - 4, 5 * GIB - 4, -8)] == [None] * 5
    first, second = phys.alloc_pages(700_000), phys.alloc_pages(200_000)
    assert (first + 700_000 * PAGE_SIZE <= 3 * GIB, second >= 4 * GIB) == (True, True)
    phys.write(second, b"high")
    assert phys.read(second, 4) == b"high"
    for pa in (3 * GIB, 3 * GIB - 2, 5 * GIB, -2):
        with pytest.raises(PhysFault):
            phys.read(pa, 4)
        with pytest.raises(PhysFault):
            phys.write(pa, bytes(4))


def test_a_host_that_refuses_gives_less(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half, and half again; the log says so."""
    real = mmap.mmap

    def stingy(fd: int, length: int, flags: int) -> mmap.mmap:
        if length > GIB:
            raise err(ENOMEM)
        return real(fd, length, flags)

    kernel = pykernel.boot(parse('memory = "4G"'))
    monkeypatch.setattr("pykernel.mm.phys.mmap.mmap", stingy)
    phys = kernel.sub(PhysMem)
    monkeypatch.undo()
    assert phys.size == GIB
    assert "1024M are used" in kernel.log.human()
    kernel.shutdown()


def test_words_are_the_same_memory() -> None:
    """For page tables: little endian, 64 bits."""
    phys = PhysMem()
    pa = phys.alloc_pages()
    phys.words[pa + 8 >> 3] = 0x1122334455667788
    assert phys.read(pa + 8, 8) == bytes.fromhex("8877665544332211")


def test_two_machines_share_nothing() -> None:
    one, two = PhysMem(), PhysMem()
    pa = one.alloc_pages()
    assert two.alloc_pages() == pa
    one.write(pa, b"x")
    assert (two.read(pa, 1), one.used, two.used) == (b"\0", 1, 1)


# ---- frames


@pytest.mark.parametrize("n", [1, 2, 15, 16, 600])
def test_frames_are_zeros_also_when_they_were_used(n: int) -> None:
    phys = PhysMem(None, 16 * MIB)
    before = phys.free
    for _ in range(4 * 4096 // n):
        pa = phys.alloc_pages(n)
        assert phys.read(pa, n * PAGE_SIZE) == bytes(n * PAGE_SIZE)
        phys.write(pa, b"\xff" * n * PAGE_SIZE)
        phys.free_pages(pa, n)
    assert (phys.free, phys.used) == (before, 0)


def test_alignment() -> None:
    phys = PhysMem()
    phys.alloc_pages()
    assert phys.alloc_pages(1, align=PMD_PAGES) % (2 * MIB) == 0
    assert phys.alloc_pages(512, align=PMD_PAGES, phase=3) % (2 * MIB) == 3 * PAGE_SIZE


def test_fragments_are_enough_for_runs_and_merge_again() -> None:
    """alloc_runs() takes what there is; neighbours that were freed one by one are a row again."""
    phys = PhysMem(None, 16 * MIB)
    total = phys.free
    pages = [phys.alloc_pages() for _ in range(total)]
    enomem(phys, 1)
    for pa in pages[::2]:
        phys.free_pages(pa)
    enomem(phys, 2)
    runs = phys.alloc_runs(len(pages[::2]), 0)
    assert {run.pa for run in runs} == set(pages[::2])
    with pytest.raises(OSError, match=rf"\[Errno {ENOMEM}\]"):
        phys.alloc_runs(1, 0)
    for pa in pages:
        phys.free_pages(pa)
    with pytest.raises(OSError, match=rf"\[Errno {ENOMEM}\]"):
        phys.alloc_runs(total + 1, 0)
    assert (phys.used, phys.alloc_pages(total) <= pages[0]) == (0, True)


def test_a_frame_cannot_be_given_twice() -> None:
    phys = PhysMem()
    pa = phys.alloc_pages(4)
    phys.free_pages(pa, 3)
    for at, n in ((pa, 1), (pa, 4), (pa + 2 * PAGE_SIZE, 2)):
        with pytest.raises(Oops, match="bad page state"):
            phys.free_pages(at, n)


def test_merged() -> None:
    runs = [Run(0x1000, 1), Run(0x2000, 2), Run(0x5000, 1), Run(0x1000, 1)]
    assert merged(runs) == [Run(0x1000, 3), Run(0x5000, 1), Run(0x1000, 1)]
    assert merged([]) == []


FRAME_OPS = st.lists(
    st.tuples(st.sampled_from(["alloc", "get", "put", "pin", "unpin", "bury"]), st.integers(0, 99), st.integers(1, 40)),
    max_size=60,
)


@settings(max_examples=80)
@given(FRAME_OPS)
def test_model_of_references(ops: list[tuple[str, int, int]]) -> None:
    """Frames belong to somebody as long as a dict of counters says so; nobody gets one that is somebody's."""
    phys = PhysMem(None, 16 * MIB)
    total = phys.free
    refs: dict[int, int] = {}
    pins: list[Run] = []
    for op, which, n in ops:
        frames = sorted(refs)
        if op == "alloc":
            pa = phys.alloc_pages(n)
            new = range(pa, pa + n * PAGE_SIZE, PAGE_SIZE)
            assert not refs.keys() & set(new)
            assert phys.read(pa, n * PAGE_SIZE) == bytes(n * PAGE_SIZE)
            phys.write(pa, b"\xee" * n * PAGE_SIZE)
            refs.update(dict.fromkeys(new, 1))
        elif not frames:
            continue
        else:
            start = frames[which % len(frames)]
            row = [start]
            while len(row) < n and row[-1] + PAGE_SIZE in refs:
                row.append(row[-1] + PAGE_SIZE)
            if op == "get":
                phys.get_pages(start, len(row))
                change = 1
            elif op == "pin":
                pins.append(Run(start, len(row)))
                phys.pin(0x7000, pins[-1:])
                change = PIN
            elif op == "unpin" and pins:
                start, count = pins.pop(which % len(pins))
                row = [start + i * PAGE_SIZE for i in range(count)]
                phys.unpin([Run(start, count)])
                change = -PIN
            elif op in ("put", "bury") and all(refs[pa] % PIN for pa in row):
                (phys.free_pages if op == "put" else phys.free_later)(start, len(row))
                change = -1
            else:
                continue
            for pa in row:
                refs[pa] += change
                if not refs[pa]:
                    del refs[pa]
        assert phys.free == total - len(refs)
        assert phys.used == len(refs)
        assert phys.pinned == sum(run.npages for run in pins)
        assert all(phys.refs[pa >> 12] == count for pa, count in refs.items())
        assert all(phys.maybe_pinned(pa) == (count >= PIN) for pa, count in refs.items())


# ---- windows


def test_bars_answer_at_their_addresses() -> None:
    """Peer-to-peer: what a driver reads of a register, a device reads at the BAR's physical address."""
    kernel = pykernel.boot("dsa")
    kernel.up()
    pdev = next(iter(kernel.sub(Pci).devices.values()))
    phys = kernel.sub(PhysMem)
    start = pdev.resource_start(0)
    assert phys.read(start, 8) == pdev.iomap(0).readq(0).to_bytes(8, "little")
    assert phys.read(start, 8) != bytes(8)
    phys.write(start, bytes(8))  # read-only
    assert phys.view(start, 8) is None
    with pytest.raises(PhysFault):
        phys.read(1 << 45 | 1 << 44, 1)
    kernel.shutdown()
