"""Pages of real processes as physical memory: this process's, another one's, one that ends, the patched program's."""

from __future__ import annotations

import ctypes
import mmap
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from errno import EFAULT

import pytest

import pykernel
from pykernel.errors import Oops
from pykernel.mm.phys import FOREIGN, PhysFault, PhysMem, Run
from pykernel.mm.process import ProcessMemory
from pykernel.mm.self import SelfMemory
from pykernel.mm.vma import Shmem, Vma
from pykernel.pci.core import Pci
from pykernel.surfaces.host_limits import HostTask
from pykernel.surfaces.inprocess.memory import HostMemory
from pykernel.task import RLIM_INFINITY, RLIMIT_MEMLOCK

PAGE = mmap.PAGESIZE
RW = mmap.PROT_READ | mmap.PROT_WRITE
EFAULTS = rf"\[Errno {EFAULT}\]"
CHILD = """
import ctypes, mmap, sys
m = mmap.mmap(-1, 4 * mmap.PAGESIZE)
m[:5] = b"child"
print(ctypes.addressof(ctypes.c_char.from_buffer(m)), flush=True)
sys.stdin.readline()
sys.stdout.write(m[:5].decode())
"""


def address(area: mmap.mmap) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(area))


def mprotect(addr: int, length: int, prot: int) -> None:
    function = ctypes.CDLL(None).mprotect
    function.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    assert function(addr, length, prot) == 0


@contextmanager
def child() -> Iterator[tuple[subprocess.Popen[str], int]]:
    command = [sys.executable, "-c", CHILD]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process, int(process.stdout.readline())


def test_a_page_of_this_process() -> None:
    """One run for a row of pages, both sides see each other, a page is where it was the last time."""
    phys = PhysMem()
    mem = SelfMemory(phys=phys)
    area = mmap.mmap(-1, 8 * PAGE)
    addr = address(area)
    [run] = mem.pin_user_pages(addr + 5, 8, write=True)
    assert (run.npages, run.pa >= FOREIGN, run.pa % (2 << 20)) == (8, True, addr % (2 << 20))
    area[PAGE - 2 : PAGE + 2] = b"user"
    assert phys.read(run.pa + PAGE - 2, 4) == b"user"
    phys.write(run.pa + 3 * PAGE - 1, b"device")
    assert area[3 * PAGE - 1 : 3 * PAGE + 5] == b"device"
    assert phys.view(run.pa, 8) is None
    second = mem.pin_user_pages(addr + PAGE, 2, write=False)
    assert second == [Run(run.pa + PAGE, 2)]
    mem.unpin_user_pages([run])
    assert (phys.pinned, phys.read(second[0].pa, 2)) == (2, b"er")
    mem.unpin_user_pages(second)
    with pytest.raises(PhysFault):
        phys.read(run.pa, 1)
    with pytest.raises(Oops, match="not pinned"):
        mem.unpin_user_pages(second)
    assert mem.pin_user_pages(addr, 1, write=True) == [Run(run.pa, 1)]


@pytest.mark.parametrize(
    ("prot", "write", "ok"),
    [
        (RW, True, True),
        (RW, False, True),
        (mmap.PROT_READ, False, True),
        (mmap.PROT_READ, True, False),
        (0, False, False),
    ],
)
def test_rights_of_real_pages(prot: int, write: bool, ok: bool) -> None:
    """The same as of simulated ones; all or nothing."""
    phys = PhysMem()
    mem = SelfMemory(phys=phys)
    area = mmap.mmap(-1, 3 * PAGE)
    addr = address(area)
    mprotect(addr + PAGE, PAGE, prot)
    if ok:
        assert len(mem.pin_user_pages(addr, 3, write=write)) == 1
    else:
        with pytest.raises(OSError, match=EFAULTS):
            mem.pin_user_pages(addr, 3, write=write)
        assert phys.pinned == 0
    mprotect(addr, 3 * PAGE, RW)


@pytest.mark.parametrize("addr", [0, 1 << 47, 0xFFFF_8000_0000_0000, (1 << 47) - 2 * PAGE])
def test_no_such_pages(addr: int) -> None:
    with pytest.raises(OSError, match=EFAULTS):
        SelfMemory(phys=PhysMem()).pin_user_pages(addr, 2, write=False)


def test_a_range_over_more_than_a_gib() -> None:
    """Windows are a GiB each; a fresh range is one row anyway."""
    phys = PhysMem()
    mem = SelfMemory(phys=phys)
    size = 5 << 29
    area = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000)
    addr = address(area)
    [run] = mem.pin_user_pages(addr, size // PAGE, write=True)
    edge = (addr | (1 << 30) - 1) + 1 - addr
    phys.write(run.pa + edge - 3, b"across")
    assert area[edge - 3 : edge + 3] == b"across"
    mem.unpin_user_pages([Run(run.pa, 1000), Run(run.pa + 1000 * PAGE, size // PAGE - 1000)])
    assert phys.pinned == 0


def test_a_process_that_ends_takes_its_pages_along() -> None:
    """A PhysFault, for reads and writes, and EFAULT for a new pin; the pins are given back as ever."""
    phys = PhysMem()
    with child() as (process, addr):
        mem = ProcessMemory(process.pid, phys=phys)
        runs = mem.pin_user_pages(addr, 4, write=True)
        assert phys.read(runs[0].pa, 5) == b"child"
        phys.write(runs[0].pa, b"DMA!!")
        assert process.communicate("")[0] == "DMA!!"
    with pytest.raises(PhysFault):
        phys.read(runs[0].pa, 1)
    with pytest.raises(PhysFault):
        phys.write(runs[0].pa, b"x")
    with pytest.raises(OSError, match=EFAULTS):
        mem.pin_user_pages(addr, 1, write=False)
    mem.unpin_user_pages(runs)
    assert phys.pinned == 0


def test_two_processes_have_different_windows() -> None:
    phys = PhysMem()
    with child() as (one, addr), child() as (two, other):
        first, second = ProcessMemory(one.pid, phys=phys), ProcessMemory(two.pid, phys=phys)
        a, b = first.pin_user_pages(addr, 1, write=True)[0].pa, second.pin_user_pages(other, 1, write=True)[0].pa
        assert a >> 30 != b >> 30
        phys.write(a, b"one")
        assert phys.read(b, 5) == b"child"


def test_the_patched_program_pins_real_memory_and_areas_of_emulated_files() -> None:
    phys = PhysMem()
    mem = HostMemory(phys)
    file = Shmem(phys, 2 * PAGE)

    def setup(vma: Vma) -> None:
        vma.fault = file.fault

    area = mem.mmap(0, 2 * PAGE, RW, mmap.MAP_SHARED, file="f", setup=setup)
    [run] = mem.pin_user_pages(area, 2, write=True)
    assert run.pa < FOREIGN
    phys.write(run.pa, b"file")
    assert bytes(file.fault(0).data[:4]) == b"file"
    real = mmap.mmap(-1, 2 * PAGE)
    [other] = mem.pin_user_pages(address(real), 2, write=True)
    phys.write(other.pa, b"real")
    assert real[:4] == b"real"
    with pytest.raises(OSError, match=EFAULTS):
        mem.pin_user_pages(area, 1 << 20, write=True)  # what follows is nobody's
    assert phys.pinned == 4
    mem.unpin_user_pages([run, other])
    mem.munmap(area, 2 * PAGE)
    with pytest.raises(OSError, match=EFAULTS):
        mem.follow_pfnmap(area)


def test_limits_of_real_programs_are_the_hosts() -> None:
    """What a program sets with its own setrlimit() counts, on the patched surface and for clients of /dev."""
    kernel = pykernel.boot("dsa")
    soft, hard = (n & RLIM_INFINITY for n in resource.getrlimit(resource.RLIMIT_MEMLOCK))
    with kernel.patched() as surface:
        assert surface.process.task.rlim(RLIMIT_MEMLOCK) == (soft, hard)
    with child() as (process, _):
        resource.prlimit(process.pid, resource.RLIMIT_MEMLOCK, (12345, 1 << 20))
        task = HostTask(kernel, process.pid)
        assert (task.rlimit(RLIMIT_MEMLOCK), task.rlim(RLIMIT_MEMLOCK)) == (12345, (12345, 1 << 20))
    assert task.rlim(RLIMIT_MEMLOCK) == (8 << 20, 8 << 20)
    kernel.shutdown()


def test_inside_the_patched_surface() -> None:
    """Rights are asked of the host's /proc, whatever the program sees there; a mapped BAR has its address."""
    kernel = pykernel.boot("dsa")
    area = mmap.mmap(-1, PAGE)
    addr = address(area)
    with kernel.patched() as surface:
        mem = surface.process.mem
        [run] = mem.pin_user_pages(addr, 1, write=True)
        kernel.sub(PhysMem).write(run.pa, b"dma")
        assert area[:3] == b"dma"
        assert kernel.leaks() == [f"pinned memory at {addr:#x}, 4096 bytes"]
        mem.unpin_user_pages([run])
        kernel.up()
        name, pdev = next(iter(kernel.sub(Pci).devices.items()))
        with open(f"/sys/bus/pci/devices/{name}/resource0", "r+b", buffering=0) as f:
            bar = mem.mmap(0, PAGE, RW, mmap.MAP_SHARED, file=f, setup=lambda v: setattr(v, "io", pdev.map_bar(0)))
        assert mem.follow_pfnmap(bar) == pdev.resource_start(0)
        mem.munmap(bar, PAGE)
    kernel.shutdown()
