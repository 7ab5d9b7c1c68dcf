"""
The DMA API (kernel/dma/mapping.c, drivers/iommu/dma-iommu.c): memory that the kernel shares with a device.

What a driver gives its device are bus addresses: of the group's default domain, from the top of the 32-bit space down;
physical ones without an IOMMU or with an identity domain. Lazy domains (DMA-FQ) queue what was unmapped, and invalidate
when the queue is full or after 10 ms: until then a device that knows an old address still gets through.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from errno import ENOMEM
from typing import TYPE_CHECKING, Final

from pykernel.errors import err
from pykernel.iommu.core import IommuCore
from pykernel.iommu.domain import IOMMU_CACHE, IOMMU_DOMAIN_DMA_FQ, IOMMU_READ, IOMMU_WRITE
from pykernel.iommu.iova import IovaDomain
from pykernel.iommu.paging import PagingDomain
from pykernel.iommu.sva import iommu_alloc_system_pasid, iommu_free_system_pasid
from pykernel.log import WARNING
from pykernel.mm.phys import PhysMem
from pykernel.pci.core import HOST_WINDOWS

if TYPE_CHECKING:
    from pykernel.pci.dev import PciDev

__all__ = [
    "DmaBuffer",
    "DmaCookie",
    "DmaDirection",
    "dma_alloc_coherent",
    "dma_free_coherent",
    "dma_map_page",
    "dma_map_sg",
    "dma_map_single",
    "dma_unmap_page",
    "dma_unmap_sg",
    "dma_unmap_single",
    "iommu_alloc_system_pasid",
    "iommu_free_system_pasid",
]

PAGE: Final = 4096
DMA_BIT_MASK_32: Final = (1 << 32) - 1
IOVA_FQ_SIZE: Final = 256
IOVA_FQ_TIMEOUT_NS: Final = 10 * 10**6


class DmaDirection(IntEnum):
    """``enum dma_data_direction``."""

    BIDIRECTIONAL = 0
    TO_DEVICE = 1
    FROM_DEVICE = 2
    NONE = 3


# drivers/iommu/dma-iommu.c:dma_info_to_prot()
PROT: Final = {
    DmaDirection.BIDIRECTIONAL: IOMMU_CACHE | IOMMU_READ | IOMMU_WRITE,
    DmaDirection.TO_DEVICE: IOMMU_CACHE | IOMMU_READ,
    DmaDirection.FROM_DEVICE: IOMMU_CACHE | IOMMU_WRITE,
}


class DmaCookie:
    """``struct iommu_dma_cookie``: the addresses of a domain that the DMA API gives out, and the flush queue."""

    def __init__(self, domain: PagingDomain, dev: PciDev) -> None:
        self.domain = domain
        self.kernel = dev.kernel
        self.iovad = IovaDomain()
        self.queue: list[tuple[int, int, list[int]]] = []
        self.workaround_32bit = not dev.kernel.sub(IommuCore).forcedac
        for start, end in HOST_WINDOWS:
            self.iovad.reserve(start >> 12, end >> 12)
        assert dev.iommu is not None
        for region in dev.iommu.get_resv_regions(dev):
            self.iovad.reserve(region.start >> 12, region.end >> 12)

    def alloc_iova(self, size: int, limit: int, dev: PciDev) -> int:
        """drivers/iommu/dma-iommu.c:iommu_dma_alloc_iova(); 0: none."""
        limit = min(limit, self.domain.geometry.aperture_end)
        pages = size >> 12
        if limit > DMA_BIT_MASK_32 and self.workaround_32bit:
            pfn = self.iovad.alloc_fast(pages, DMA_BIT_MASK_32 >> 12, flush=False)
            if pfn:
                return pfn << 12
            if dev.kernel.profile.iommu_dac_notice:
                self.workaround_32bit = False
                dev.notice(f"Using {limit.bit_length()}-bit DMA addresses")
        return self.iovad.alloc_fast(pages, limit >> 12, flush=True) << 12

    def unmap(self, iova: int, size: int) -> None:
        """drivers/iommu/dma-iommu.c:__iommu_dma_unmap()."""
        if self.domain.type != IOMMU_DOMAIN_DMA_FQ:
            self.domain.unmap(iova, size)
            self.iovad.free_fast(iova >> 12, size >> 12)
            return
        _, freed = self.domain.unmap_fast(iova, size)
        if len(self.queue) == IOVA_FQ_SIZE - 1:  # fq_full(): one place of the ring stays empty
            self.flush()
        if not self.queue:
            with self.kernel.ledger.held(self.kernel.ledger.kernel):
                self.kernel.sched.call_later(IOVA_FQ_TIMEOUT_NS, self.flush)
        self.queue.append((iova >> 12, size >> 12, freed))

    def flush(self) -> None:
        """drivers/iommu/dma-iommu.c:fq_flush_timeout(): what was unmapped until now may be given again."""
        if not self.queue:
            return
        self.domain.flush_iotlb_all()
        queue, self.queue = self.queue, []
        for pfn, pages, freed in queue:
            self.domain.table.free_frames(freed)
            self.iovad.free_fast(pfn, pages)


def _cookie(dev: PciDev) -> DmaCookie | None:
    """The default domain's, or None: addresses are physical."""
    group = dev.iommu_group
    domain = group.default_domain if group is not None else None
    if not isinstance(domain, PagingDomain):
        return None
    if domain.cookie is None:
        domain.cookie = DmaCookie(domain, dev)
    return domain.cookie


def _map(dev: PciDev, pa: int, size: int, prot: int, mask: int) -> int:
    """drivers/iommu/dma-iommu.c:__iommu_dma_map(), kernel/dma/direct.h:dma_direct_map_page(). Raises ENOMEM."""
    cookie = _cookie(dev)
    if cookie is None:
        if pa + size - 1 > mask:
            dev._printk(WARNING, f"DMA addr 0x{pa:016x}+{size} overflow (mask {mask:x}, bus limit 0).")
            raise err(ENOMEM, "the device does not reach this address")
        return pa
    off = pa & PAGE - 1
    size = -(-(size + off) // PAGE) * PAGE
    iova = cookie.alloc_iova(size, mask, dev)
    if not iova:
        raise err(ENOMEM, "no I/O virtual address is free")
    try:
        cookie.domain.map(iova, pa - off, size, prot)
    except OSError as e:
        cookie.iovad.free_fast(iova >> 12, size >> 12)
        raise err(ENOMEM) from e
    return iova + off


def _unmap(dev: PciDev, addr: int, size: int) -> None:
    cookie = _cookie(dev)
    if cookie is not None:
        off = addr & PAGE - 1
        cookie.unmap(addr - off, -(-(size + off) // PAGE) * PAGE)


# ---- coherent memory


@dataclass(frozen=True, slots=True, eq=False)
class DmaBuffer:
    """What dma_alloc_coherent() gave: *addr* is the bus address, *pa* the physical one; offsets in bytes."""

    dev: PciDev
    phys: PhysMem
    pa: int
    addr: int
    size: int

    def read(self, off: int, n: int) -> bytes:
        """*n* bytes at *off*."""
        at = self.pa + off
        return self.phys.arena[at : at + n]

    def write(self, off: int, data: bytes) -> None:
        """Store *data* at *off*."""
        at = self.pa + off
        self.phys.arena[at : at + len(data)] = data


def dma_alloc_coherent(dev: PciDev, size: int) -> DmaBuffer:
    """
    Zeroed memory, page aligned. C: ``void *dma_alloc_coherent(struct device *, size_t, dma_addr_t *, gfp_t)``.

    Raises:
        ENOMEM: no memory or no bus address, or fault injection.
    """
    kernel = dev.kernel
    kernel.faults.alloc(f"dma_alloc_coherent {dev.name}")
    phys = kernel.sub(PhysMem)
    pages = max(1, -(-size // PAGE))
    pa = phys.alloc_pages(pages)
    try:
        addr = _map(dev, pa, pages * PAGE, PROT[DmaDirection.BIDIRECTIONAL], (1 << dev.coherent_dma_bits) - 1)
    except OSError:
        phys.free_pages(pa, pages)
        raise
    buffer = DmaBuffer(dev, phys, pa, addr, size)
    kernel.ledger.take("dma", buffer, lambda: f"{size} bytes of DMA memory at {addr:#x} for {dev.name}", dev)
    return buffer


def dma_free_coherent(buffer: DmaBuffer) -> None:
    """C: ``void dma_free_coherent(struct device *, size_t, void *, dma_addr_t)``."""
    pages = max(1, -(-buffer.size // PAGE))
    buffer.dev.kernel.ledger.give("dma", buffer)
    _unmap(buffer.dev, buffer.addr, pages * PAGE)
    buffer.phys.free_pages(buffer.pa, pages)


# ---- streaming mappings


def dma_map_single(dev: PciDev, pa: int, size: int, direction: DmaDirection) -> int:
    """
    The bus address of *size* bytes at physical address *pa*.

    C: ``dma_addr_t dma_map_single(struct device *, void *, size_t, enum dma_data_direction)``

    Raises:
        ENOMEM: what dma_mapping_error() says in C.
    """
    dev.kernel.faults.alloc(f"dma_map {dev.name}")
    return _map(dev, pa, size, PROT[direction], (1 << dev.dma_bits) - 1)


def dma_unmap_single(dev: PciDev, addr: int, size: int, direction: DmaDirection) -> None:
    """C: ``void dma_unmap_single(struct device *, dma_addr_t, size_t, enum dma_data_direction)``."""
    _unmap(dev, addr, size)


def dma_map_page(dev: PciDev, page: int, offset: int, size: int, direction: DmaDirection) -> int:
    """C: ``dma_addr_t dma_map_page(...)``; *page* is the frame's physical address. Raises ENOMEM."""
    return dma_map_single(dev, page + offset, size, direction)


def dma_unmap_page(dev: PciDev, addr: int, size: int, direction: DmaDirection) -> None:
    """C: ``void dma_unmap_page(struct device *, dma_addr_t, size_t, enum dma_data_direction)``."""
    _unmap(dev, addr, size)


def dma_map_sg(dev: PciDev, sg: list[tuple[int, int]], direction: DmaDirection) -> list[tuple[int, int]]:
    """
    Bus addresses of the (physical address, bytes) of *sg*. C: ``unsigned int dma_map_sg(...)``.

    Raises:
        ENOMEM: nothing is mapped then.
    """
    mapped: list[tuple[int, int]] = []
    try:
        for pa, size in sg:
            mapped.append((dma_map_single(dev, pa, size, direction), size))
    except OSError:
        dma_unmap_sg(dev, mapped, direction)
        raise
    return mapped


def dma_unmap_sg(dev: PciDev, sg: list[tuple[int, int]], direction: DmaDirection) -> None:
    """C: ``void dma_unmap_sg(struct device *, struct scatterlist *, int, enum dma_data_direction)``."""
    for addr, size in sg:
        _unmap(dev, addr, size)
