"""
Memory that the kernel shares with a device (kernel/dma/mapping.c), and the kernel's own PASID (drivers/iommu/iommu.c).
"""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from errno import ENODEV, ENOSPC
from typing import TYPE_CHECKING

from pykernel.errors import err
from pykernel.iommu.sva import FIRST_PASID, Iommu, SvaHandle
from pykernel.mm.sim import SimMemory
from pykernel.mm.vma import MAP_POPULATE
from pykernel.pci.coherent import PhysMem
from pykernel.task import Mm

if TYPE_CHECKING:
    from pykernel.pci.dev import PciDev

__all__ = [
    "DmaBuffer",
    "dma_alloc_coherent",
    "dma_free_coherent",
    "iommu_alloc_system_pasid",
    "iommu_free_system_pasid",
]


@dataclass(frozen=True, slots=True)
class DmaBuffer:
    """What dma_alloc_coherent() gave: *addr* is the bus address; offsets in bytes."""

    physmem: PhysMem
    addr: int
    size: int

    @property
    def mem(self) -> SimMemory:
        """The machine's memory."""
        return self.physmem.mem

    def read(self, off: int, n: int) -> bytes:
        """*n* bytes at *off*."""
        return self.mem.read(self.addr + off, n)

    def write(self, off: int, data: bytes) -> None:
        """Store *data* at *off*."""
        self.mem.write(self.addr + off, data)


def dma_alloc_coherent(dev: PciDev, size: int) -> DmaBuffer:
    """
    Zeroed memory, page aligned. C: ``void *dma_alloc_coherent(struct device *, size_t, dma_addr_t *, gfp_t)``.

    Raises:
        ENOMEM: fault injection.
    """
    dev.kernel.faults.alloc("dma_alloc_coherent")
    physmem = dev.kernel.sub(PhysMem)
    addr = physmem.mem.mmap(
        0, size, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_POPULATE
    )
    buffer = DmaBuffer(physmem, addr, size)
    dev.kernel.ledger.take("dma", buffer, lambda: f"{size} bytes of DMA memory at {addr:#x} for {dev.name}", dev)
    return buffer


def dma_free_coherent(buffer: DmaBuffer) -> None:
    """C: ``void dma_free_coherent(struct device *, size_t, void *, dma_addr_t)``."""
    buffer.physmem.kernel.ledger.give("dma", buffer)
    buffer.mem.munmap(buffer.addr, buffer.size)


def iommu_alloc_system_pasid(dev: PciDev) -> int:
    """
    A global PASID for the device's DMA domain. C: ``iommu_alloc_global_pasid()`` and ``iommu_attach_device_pasid()``.

    Raises:
        ENODEV: no IOMMU in scalable mode, or the device has no PASID.
        ENOSPC: no PASID is left.
    """
    iommu = dev.kernel.sub(Iommu)
    if dev.name not in iommu.tables or not iommu.scalable or not iommu.pasid_enabled(dev):
        raise err(ENODEV, "no PASID")
    try:
        pasid = iommu.pasids.alloc_range(FIRST_PASID, (1 << iommu.pasid_bits) - 1)
    except OSError as e:
        raise err(ENOSPC) from e
    iommu.tables[dev.name][pasid] = SvaHandle(dev, Mm(dev.kernel.sub(PhysMem).mem), pasid)
    iommu.system_pasids.add(pasid)
    return pasid


def iommu_free_system_pasid(dev: PciDev, pasid: int) -> None:
    """C: ``iommu_detach_device_pasid()`` and ``iommu_free_global_pasid()``."""
    iommu = dev.kernel.sub(Iommu)
    iommu.tables.get(dev.name, {}).pop(pasid, None)
    iommu.system_pasids.discard(pasid)
    iommu.pasids.free(pasid)
