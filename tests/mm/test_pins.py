"""Long-term pins: mm/gup.c's rules on simulated memory, pieces of pins, and what a leak report says."""

from __future__ import annotations

import mmap
from collections import Counter
from errno import EFAULT

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pykernel
from pykernel.errors import Oops
from pykernel.kernel import Leak
from pykernel.mm.phys import PAGE_SIZE, PMD_PAGES, ZERO_PA, PhysMem, Run
from pykernel.mm.pins import Pins
from pykernel.mm.sim import SimMemory
from pykernel.mm.uaccess import copy_from_user
from pykernel.mm.vma import MAP_FIXED
from pykernel.pci.core import Pci

RW = mmap.PROT_READ | mmap.PROT_WRITE
PRIVATE = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
SHARED = mmap.MAP_SHARED | mmap.MAP_ANONYMOUS
AT = 0x4000_0000
EFAULTS = rf"\[Errno {EFAULT}\]"


def mapped(pages: int, flags: int = PRIVATE, prot: int = RW) -> SimMemory:
    mem = SimMemory()
    mem.mmap(AT, pages * PAGE_SIZE, prot, flags | MAP_FIXED)
    return mem


def frames(runs: list[Run]) -> list[int]:
    return [run.pa + i * PAGE_SIZE for run in runs for i in range(run.npages)]


@pytest.mark.parametrize("write", [True, False])
def test_fresh_memory_is_pinned_in_one_row_and_huge_pages_coincide(write: bool) -> None:
    """So that an IOMMU can map 2 MiB at once."""
    mem = mapped(2000)
    runs = mem.pin_user_pages(AT + 5 * PAGE_SIZE, 1500, write=write)
    assert [run.npages for run in runs] == [1500]
    assert runs[0].pa % (PMD_PAGES * PAGE_SIZE) == (AT + 5 * PAGE_SIZE) % (PMD_PAGES * PAGE_SIZE)
    mem.unpin_user_pages(runs, dirty=True)
    assert mem.pin_user_pages(AT + 5 * PAGE_SIZE, 1500, write=not write) == runs


@pytest.mark.parametrize("flags", [PRIVATE, SHARED])
@pytest.mark.parametrize("write", [True, False])
def test_both_sides_see_each_other(flags: int, write: bool) -> None:
    """Of anonymous and shared memory, touched before or not, pinned to be read or written: never the page of zeros."""
    mem = mapped(6, flags)
    mem.read(AT, 2 * PAGE_SIZE)
    mem.write(AT + PAGE_SIZE, b"before")
    pages = frames(mem.pin_user_pages(AT, 6, write=write))
    assert ZERO_PA not in pages
    assert len(set(pages)) == 6
    assert mem.phys.read(pages[1], 6) == b"before"
    for i, pa in enumerate(pages):
        mem.write(AT + i * PAGE_SIZE, b"cpu%d" % i)
        assert mem.phys.read(pa, 4) == b"cpu%d" % i
        mem.phys.write(pa, b"dma%d" % i)
        assert mem.read(AT + i * PAGE_SIZE, 4) == b"dma%d" % i


def test_a_copied_page_is_copied_before_it_is_pinned() -> None:
    """After fork() the parent's device must not write into the child."""
    mem = mapped(3)
    mem.write(AT, b"x" * 3 * PAGE_SIZE)
    child = mem.fork()
    pages = frames(mem.pin_user_pages(AT, 2, write=False))
    mem.phys.write(pages[0], b"dma")
    assert (mem.read(AT, 4), child.read(AT, 4)) == (b"dmax", b"xxxx")
    assert frames(child.pin_user_pages(AT + 2 * PAGE_SIZE, 1, write=True))[0] not in pages


def test_a_file_page_is_shared_with_every_mapping() -> None:
    """The pages of shared memory are the file's, also after the mapping is gone, and go with the last of both."""
    mem = mapped(2, SHARED)
    child = mem.fork()
    runs = mem.pin_user_pages(AT, 2, write=True)
    mem.exit()
    mem.phys.write(runs[0].pa, b"dma")
    assert child.read(AT, 3) == b"dma"
    child.exit()
    assert mem.phys.used == 2
    mem.unpin_user_pages(runs)
    assert mem.phys.free
    assert mem.phys.used == 0


# protection, write -> whether it can be pinned; mm/gup.c:check_vma_flags()
RIGHTS = [
    (0, False, False),
    (0, True, False),
    (mmap.PROT_READ, False, True),
    (mmap.PROT_READ, True, False),
    (mmap.PROT_WRITE, False, False),
    (mmap.PROT_WRITE, True, True),
    (mmap.PROT_EXEC, False, False),
    (RW, False, True),
    (RW, True, True),
]


@pytest.mark.parametrize(("prot", "write", "ok"), RIGHTS)
@pytest.mark.parametrize("flags", [PRIVATE, SHARED], ids=["private", "shared"])
def test_rights(prot: int, write: bool, ok: bool, flags: int) -> None:
    mem = mapped(2, flags, prot)
    if ok:
        assert sum(run.npages for run in mem.pin_user_pages(AT, 2, write=write)) == 2
        return
    with pytest.raises(OSError, match=EFAULTS):
        mem.pin_user_pages(AT, 2, write=write)


def test_a_hole_anywhere_pins_nothing() -> None:
    mem = mapped(5)
    mem.munmap(AT + 2 * PAGE_SIZE, PAGE_SIZE)
    for first, n in ((0, 3), (0, 5), (2, 1), (2, 2), (4, 2)):
        with pytest.raises(OSError, match=EFAULTS):
            mem.pin_user_pages(AT + first * PAGE_SIZE, n, write=True)
    assert mem.phys.pinned == 0


def test_no_frame_is_lost() -> None:
    """Maps, copies, forks, pins and ends in all orders: nothing is somebody's at the end."""
    mem = mapped(40)
    shared = mem.mmap(0, 20 * PAGE_SIZE, RW, SHARED)
    mem.write(AT + 3, b"y" * 30 * PAGE_SIZE)
    mem.write(shared, b"z" * 7 * PAGE_SIZE)
    runs = mem.pin_user_pages(AT, 33, write=True)
    child = mem.fork()
    grandchild = child.fork()
    child.write(AT, b"c" * 9 * PAGE_SIZE)
    mem.mprotect(AT, 4 * PAGE_SIZE, mmap.PROT_READ)
    mem.munmap(AT + PAGE_SIZE, 5 * PAGE_SIZE)
    phys = mem.phys
    child.exit()
    mem.unpin_user_pages(runs)
    mem.exit()
    assert grandchild.read(AT + 3, 2) == b"yy"
    del grandchild, mem, child  # Python's end of an address space is one, too
    assert phys.free
    assert phys.used == 0


# ---- pieces


def test_pins_are_given_back_in_any_pieces() -> None:
    mem = mapped(10)
    [run] = mem.pin_user_pages(AT, 10, write=True)
    again = mem.pin_user_pages(AT + 4 * PAGE_SIZE, 2, write=True)
    mem.exit()
    for first, n in ((3, 2), (0, 3), (9, 1), (5, 4)):
        mem.unpin_user_pages([Run(run.pa + first * PAGE_SIZE, n)])
    assert (mem.phys.pinned, mem.phys.used) == (2, 2)
    mem.unpin_user_pages(again)
    assert (mem.phys.pinned, mem.phys.used) == (0, 0)


@settings(max_examples=100)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 15), st.integers(1, 8)), max_size=40))
def test_model_of_pieces(ops: list[tuple[bool, int, int]]) -> None:
    """Any pins and unpins of overlapping ranges count like a Counter of pages; what is not pinned is an oops."""
    pins, model = Pins(None), Counter[int]()
    for take, first, n in ops:
        pages = range(first, first + n)
        if take:
            pins.take(0, [Run(first << 12, n)])
            model.update(pages)
        elif all(model[page] for page in pages):
            pins.give(first << 12, n)
            model.subtract(pages)
        else:
            good = next(i for i, page in enumerate(pages) if not model[page])
            with pytest.raises(Oops, match="not pinned"):
                pins.give(first << 12, n)
            model.subtract(pages[:good])
        assert pins.count == model.total()


def test_a_leak_names_address_and_size() -> None:
    """One line a range, with what is left of it."""
    kernel = pykernel.boot("dsa")
    p = kernel.process()
    addr = p.mmap(0, 8 * PAGE_SIZE, RW, PRIVATE)
    [run] = p.mem.pin_user_pages(addr, 8, write=True)
    assert kernel.leaks() == [f"pinned memory at {addr:#x}, 32768 bytes"]
    p.mem.unpin_user_pages([Run(run.pa + PAGE_SIZE, 2)])
    p.munmap(addr, 8 * PAGE_SIZE)
    p.exit()
    with pytest.raises(Leak, match=rf"pinned memory at {addr:#x}, 24576 of 32768 bytes"):
        kernel.shutdown()


# ---- of a kernel


def test_processes_have_frames_of_their_machine() -> None:
    """They are free when the process ended; another kernel's are other ones."""
    one, two = pykernel.boot("dsa"), pykernel.boot("dsa")
    p, q = one.process(), two.process()
    zero = p.open("/dev/zero", 2)  # the devices come up: the IOMMU has tables in memory
    phys = one.sub(PhysMem)
    before = phys.used
    addr = p.mmap(0, 100 * PAGE_SIZE, RW, PRIVATE)
    p.store(addr, b"p" * 100 * PAGE_SIZE)
    assert (phys.used - before, two.sub(PhysMem).used) == (100, 0)
    pa = p.mem.translate(addr + 5)
    assert phys.read(pa, 2) == b"pp"
    shared = p.mmap(0, PAGE_SIZE, RW, mmap.MAP_SHARED, zero)
    p.store(shared, b"z")
    assert phys.used == before + 101
    with one.as_task(p.task):
        assert copy_from_user(one, shared, 2) == b"z\0"
    p.munmap(shared, PAGE_SIZE)
    p.close(zero)
    p.exit()
    q.exit()
    assert phys.free
    assert phys.used == before
    one.shutdown()
    two.shutdown()


def test_a_mapped_bar_has_its_physical_address() -> None:
    """follow_pfn(): the BAR's address and the offset; EFAULT for memory, holes, and without the right."""
    kernel = pykernel.boot("dsa")
    p = kernel.process()
    kernel.up()
    name, pdev = next(iter(kernel.sub(Pci).devices.items()))
    fd = p.open(f"/sys/bus/pci/devices/{name}/resource0", 2)
    bar = p.mmap(0, 2 * PAGE_SIZE, RW, mmap.MAP_SHARED, fd)
    assert p.mem.follow_pfnmap(bar + PAGE_SIZE + 16, write=True) == pdev.resource_start(0) + PAGE_SIZE + 16
    p.mprotect(bar, PAGE_SIZE, mmap.PROT_READ)
    assert p.mem.follow_pfnmap(bar) == pdev.resource_start(0)
    memory = p.mmap(0, PAGE_SIZE, RW, PRIVATE)
    for addr, write in ((bar, True), (memory, False), (bar + 2 * PAGE_SIZE, False), (0, False)):
        with pytest.raises(OSError, match=EFAULTS):
            p.mem.follow_pfnmap(addr, write=write)
    with pytest.raises(OSError, match=EFAULTS):
        p.mem.pin_user_pages(bar, 1, write=False)
    p.munmap(bar, 2 * PAGE_SIZE)
    p.close(fd)
    p.exit()
    kernel.shutdown()
