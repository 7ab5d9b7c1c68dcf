"""What sharing address spaces with hardware costs: page tables of x86-64 in RAM, a virtual machine's translations."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pykernel
from pykernel.machine import parse
from pykernel.mm.phys import PAGE_SIZE
from pykernel.mm.sim import SimMemory
from pykernel.tools.bench import ioasid, kvm, remapping
from pykernel.tools.bench.measure import Row, per_call

__all__ = ["rows"]

RW, PRIVATE = 3, 0x22
PAGES = 256
GPA = 0x100000


def rows() -> Iterator[Row]:
    """All rows of the group."""
    kernel = pykernel.boot(parse("memory = '256M'\n[cpu]\nvmx = true"))
    yield from _faults(kernel)
    yield from _ept(kernel)
    yield from _enqcmd(kernel)
    kernel.shutdown()
    yield from _portal()
    yield from remapping.rows()
    yield from ioasid.rows()
    yield from kvm.rows()


def _faults(kernel: Any) -> Iterator[Row]:
    """Page faults one by one and in bulk, without page tables in RAM and with them."""
    process = kernel.process()
    mem: SimMemory = process.mem

    def one_by_one() -> None:
        addr = process.mmap(0, PAGES * PAGE_SIZE, RW, PRIVATE)
        for i in range(PAGES):
            mem.write(addr + i * PAGE_SIZE, b"x")
        process.munmap(addr, PAGES * PAGE_SIZE)

    def bulk() -> None:
        addr = process.mmap(0, PAGES * PAGE_SIZE, RW, PRIVATE)
        mem.populate(addr, PAGES * PAGE_SIZE)
        process.munmap(addr, PAGES * PAGE_SIZE)

    plain = "a page fault and its unmap", "a page populated and unmapped, of 256"
    yield Row(plain[0], per_call(one_by_one, calls=10) / PAGES)
    yield Row(plain[1], per_call(bulk, calls=20) / PAGES)
    mem.pgd()
    yield Row("a page fault and its unmap, page tables in RAM", per_call(one_by_one, calls=10) / PAGES, 20e-6, plain[0])
    yield Row("a page populated and unmapped, page tables in RAM", per_call(bulk, calls=20) / PAGES, 10e-6, plain[1])
    process.exit()


def _ept(kernel: Any) -> Iterator[Row]:
    from pykernel.virt.kvm.mmu import Mmu

    vmm = kernel.process()
    hva = vmm.mmap(0, PAGES * PAGE_SIZE, RW, PRIVATE)
    vmm.mem.populate(hva, PAGES * PAGE_SIZE)
    vm: Any = SimpleNamespace(kernel=kernel, mm=vmm.task.mm)
    mmu = Mmu(vm)
    mmu.set_memory_region(0, 0, GPA, PAGES * PAGE_SIZE, hva)

    def violation() -> None:
        mmu.zap(GPA >> 12, (GPA >> 12) + 1)
        mmu.translate(GPA, write=True)

    def walk() -> None:
        mmu.ept.walk(GPA, write=True)

    yield Row("EPT: an address in the TLB", per_call(lambda: mmu.translate(GPA + 5, write=True), calls=4000), 2e-6)
    yield Row("EPT: a walk of the tables", per_call(walk, calls=2000), None)
    yield Row("EPT: a violation, from the zap to the address", per_call(violation), None)
    mmu.destroy()
    vmm.exit()


class _Accepts:
    """Enqueue registers that take everything."""

    def read(self, off: int, n: int) -> bytes:
        return bytes(n)

    def write(self, off: int, data: bytes) -> None:
        pass

    def enqcmd(self, off: int, data: bytes) -> bool:
        return True


def _enqcmd(kernel: Any) -> Iterator[Row]:
    """The processor's part of an ENQCMD, and of the switch between two tasks that submit."""

    def setup(vma: Any) -> None:
        vma.io = _Accepts()

    pasids: dict[int, int] = {}
    kernel.pasid_of = lambda mm: pasids.get(id(mm), 0)
    one, two = kernel.process(), kernel.process()
    calls = []
    for pasid, proc in enumerate((one, two), 1):
        pasids[id(proc.task.mm)] = pasid
        proc.task.cpu = 0
        addr = proc.mem.mmap(0, PAGE_SIZE, RW, 0x21, setup=setup)
        calls.append((proc.enqcmd, addr))
    (first, a), (second, b) = calls
    desc = bytes(64)

    def switched() -> None:
        first(a, desc)
        second(b, desc)

    floor = "ENQCMD: the processor's part, with the call"
    yield Row(floor, per_call(lambda: first(a, desc), calls=4000), 3e-6)
    yield Row(
        "ENQCMD: the same after another task's (XSAVES, XRSTORS)", per_call(switched, calls=2000) / 2, None, floor
    )
    one.exit()
    two.exit()


def _portal() -> Iterator[Row]:
    """To a shared queue of a DSA and back, its work included."""
    from pykernel.tools.dsa import Portal, enable_wq

    kernel = pykernel.boot("dsa")
    proc = kernel.process()
    enable_wq(proc, "wq0.0", mode="shared")
    with Portal(proc, "/dev/dsa/wq0.0") as portal:
        yield Row(
            "ENQCMD: a no-op at a shared queue", per_call(lambda: proc.enqcmd(portal.addr, bytes(64)), calls=2000)
        )
    proc.exit()
    kernel.shutdown()
