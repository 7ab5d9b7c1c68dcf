"""Memory that the kernel lends to devices (kernel/dma/mapping.c:dma_alloc_coherent())."""

from __future__ import annotations

from mmap import MAP_ANONYMOUS, MAP_PRIVATE
from typing import TYPE_CHECKING

from pykernel.mm import phys
from pykernel.mm.sim import SimMemory
from pykernel.mm.vma import page_align

if TYPE_CHECKING:
    from pykernel.kernel import Kernel

__all__ = ["DmaBuffer", "PhysMem"]


class DmaBuffer:
    """Memory that kernel and device share: ``addr`` is its bus address. C: ``dma_alloc_coherent()``."""

    __slots__ = ("addr", "mem", "physmem", "size")

    def __init__(self, physmem: PhysMem, size: int) -> None:
        self.physmem = physmem
        self.mem = physmem.mem
        self.size = page_align(size)
        self.addr = self.mem.mmap(0, self.size, 3, MAP_PRIVATE | MAP_ANONYMOUS)

    def read(self, off: int, n: int) -> bytes:
        """The kernel's load."""
        return self.mem.read(self.addr + off, n)

    def write(self, off: int, data: bytes) -> None:
        """The kernel's store."""
        self.mem.write(self.addr + off, data)

    def free(self) -> None:
        """C: ``void dma_free_coherent(...)``."""
        self.physmem.kernel.ledger.give("dma", self)
        self.mem.munmap(self.addr, self.size)


class PhysMem:
    """The machine's own memory, as far as the kernel lends it to devices."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.mem = SimMemory(kernel.sub(phys.PhysMem))
