"""Domains with page tables (drivers/iommu/iommu.c: __iommu_map(), __iommu_unmap(); drivers/iommu/intel/iommu.c)."""

from __future__ import annotations

from errno import EFAULT, EINVAL, EOPNOTSUPP
from typing import TYPE_CHECKING

from pykernel.errors import err
from pykernel.iommu.caches import CacheTags
from pykernel.iommu.domain import IOMMU_DOMAIN_UNMANAGED, IOMMU_READ, IOMMU_WRITE, Geometry, IommuDomain
from pykernel.iommu.pasid import (
    IOMMU_NO_PASID,
    intel_pasid_setup_dirty_tracking,
    intel_pasid_setup_page_snoop_control,
)
from pykernel.iommu.pgtable import (
    DMA_FL_PTE_ACCESS,
    DMA_FL_PTE_DIRTY,
    DMA_FL_PTE_US,
    DMA_FL_PTE_XD,
    DMA_PTE_READ,
    DMA_PTE_SNP,
    DMA_PTE_WRITE,
    DMA_SL_PTE_DIRTY,
    PageTable,
)
from pykernel.log import CRIT, ERR
from pykernel.mm.phys import PhysMem

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pykernel.base.core import Device
    from pykernel.iommu.devinfo import DeviceDomainInfo
    from pykernel.iommu.dma import DmaCookie
    from pykernel.iommu.intel import IntelIommu

__all__ = ["PagingDomain"]

FIRST_DID = 2  # 0 is of what is not present, 1 is FLPT_DEFAULT_DID
SZ_4K, SZ_2M, SZ_1G = 1 << 12, 1 << 21, 1 << 30


class PagingDomain(IommuDomain):
    """
    ``struct dmar_domain``.

    Args:
        unit: the IOMMU.
        type: IOMMU_DOMAIN_UNMANAGED, _DMA, _DMA_FQ.
        first_level: entries are first-stage ones, which have one bit of address less.
        dirty_tracking: allocated with IOMMU_HWPT_ALLOC_DIRTY_TRACKING.
    """

    def __init__(self, unit: IntelIommu, type: int, *, first_level: bool = False, dirty_tracking: bool = False) -> None:
        super().__init__(unit, type)
        kernel = unit.kernel
        kernel.faults.alloc("iommu_domain_alloc")
        self.kernel = kernel
        self.width = unit.address_width
        self.first_level = first_level
        self.pgsize_bitmap = SZ_4K | (SZ_2M if unit.largest_page > 1 else 0) | (SZ_1G if unit.largest_page > 2 else 0)
        self.geometry = Geometry(0, (1 << self.width - first_level) - 1, force_aperture=True)
        self.force_snooping = False
        self.has_mappings = False
        self.dirty_ops = dirty_tracking
        self.dirty_tracking = False
        bits = DMA_FL_PTE_XD | DMA_FL_PTE_US | DMA_FL_PTE_ACCESS if first_level else 0
        self.table = PageTable(kernel.sub(PhysMem), (self.width - 12) // 9, bits)
        self.agaw = (self.width - 30) // 9
        self.id = unit.alloc_did()
        self.cookie: DmaCookie | None = None
        self.tags = CacheTags(unit, first_level=first_level)
        self.nested: list[IommuDomain] = []  # domains of guests that stand on this one
        if type == IOMMU_DOMAIN_UNMANAGED:
            kernel.ledger.take("iommu domain", self, lambda: f"IOMMU domain {self.id}", client=True)

    def free(self) -> None:
        """drivers/iommu/intel/iommu.c:domain_exit()."""
        self.kernel.ledger.give("iommu domain", self)
        if self.cookie is not None:
            self.cookie.flush()
        for dev in list(self.devices):
            self.detach_dev(dev)
        self.unit.domain_ids.free(self.id)
        self.table.free()

    # ---- mappings

    def map(self, iova: int, pa: int, size: int, prot: int) -> None:
        """drivers/iommu/iommu.c:__iommu_map(), intel_iommu_map(). Raises EINVAL, EFAULT, ENOMEM."""
        if (iova | pa | size) & 0xFFF:
            text = f"iommu: unaligned: iova 0x{iova:x} pa 0x{pa:016x} size 0x{size:x} min_pagesz 0x1000"
            self.kernel.log.printk(ERR, text)
            raise err(EINVAL, "not aligned to pages")
        if not size:
            return
        if iova + size > 1 << self.width:
            text = f"intel_iommu_map: iommu width ({self.width}) is not sufficient for the mapped address"
            self.kernel.log.printk(ERR, f"DMAR: {text} ({iova + size:x})")
            raise err(EFAULT, "beyond the domain's width")
        if not prot & (IOMMU_READ | IOMMU_WRITE):
            raise err(EINVAL, "neither to be read nor to be written")
        self.has_mappings = True
        try:
            if self.kernel.faults.active:
                self.kernel.faults.alloc("iommu_map")
            taken = self.table.map(iova >> 12, pa, size >> 12, self._attrs(prot), self.unit.largest_page)
        except OSError:
            self.unmap(iova, size)
            raise
        for pfn, old, new in taken:
            text = f"DMAR: ERROR: DMA PTE for vPFN 0x{pfn:x} already set (to {old:x} not {new:x})"
            self.kernel.log.printk(CRIT, text)
        if self.unit.caps.cm and not self.first_level:  # C: intel_iommu_iotlb_sync_map()
            self.tags.flush_range(iova, iova + size - 1, new=True)

    def _attrs(self, prot: int) -> int:
        # __domain_mapping() sets the bit of first-stage "present", which is "read" of the second stage, always
        attrs = DMA_PTE_READ | (DMA_PTE_WRITE if prot & IOMMU_WRITE else 0)
        if self.first_level:
            attrs |= DMA_FL_PTE_XD | DMA_FL_PTE_US | DMA_FL_PTE_ACCESS
            return attrs | (DMA_FL_PTE_DIRTY if prot & IOMMU_WRITE else 0)
        return attrs | (DMA_PTE_SNP if self.force_snooping else 0)

    def unmap(self, iova: int, size: int) -> int:
        """drivers/iommu/iommu.c:iommu_unmap(): what was unmapped is invalidated before this returns."""
        unmapped, freed = self.unmap_fast(iova, size)
        if unmapped:
            self.tags.flush_range(iova, iova + unmapped - 1, ih=not freed)
        self.table.free_frames(freed)
        return unmapped

    def unmap_fast(self, iova: int, size: int) -> tuple[int, list[int]]:
        """
        Unmap, and leave it to the caller to invalidate. C: ``size_t iommu_unmap_fast(...)``.

        Returns:
            How many bytes, which may be more than *size*; the tables to free after the invalidation.
        """
        if (iova | size) & 0xFFF:
            self.kernel.log.printk(ERR, f"iommu: unaligned: iova 0x{iova:x} size 0x{size:x} min_pagesz 0x1000")
            return 0, []
        freed: list[int] = []
        unmapped = 0
        while unmapped < size:
            done = self._unmap_pages(iova, self._chunk(iova, size - unmapped), freed)
            if not done:
                break
            iova += done
            unmapped += done
        return unmapped, freed

    def _chunk(self, iova: int, size: int) -> int:
        """iommu_pgsize(): pages of one size, at most up to where larger ones may begin."""
        page, larger = SZ_4K, 0
        for candidate in (SZ_2M, SZ_1G):
            if not self.pgsize_bitmap & candidate:
                continue
            if iova & (candidate - 1) or size < candidate:
                larger = candidate
                break
            page = candidate
        if larger:
            offset = larger - (iova & (larger - 1))
            if offset + larger <= size:
                return offset
        return size & -page

    def _unmap_pages(self, iova: int, size: int, freed: list[int]) -> int:
        # intel_iommu_unmap(): at least all of what the entry covers, be it a large page or a hole
        if iova >> self.width:
            return 0
        _, level = self.table.find(iova >> 12)
        size = max(size, 4096 << 9 * (level - 1))
        freed += self.table.unmap(iova >> 12, min(iova + size, 1 << self.width) - 1 >> 12)
        return size

    def iova_to_phys(self, iova: int) -> int | None:
        """drivers/iommu/intel/iommu.c:intel_iommu_iova_to_phys()."""
        if iova >> self.width:
            return None
        pte, size = self.table.lookup(iova >> 12)
        if not pte & 3:
            return None
        return (pte & (1 << 52) - 1 & -size) + (iova & size - 1)

    def flush_iotlb_all(self) -> None:
        """drivers/iommu/intel/iommu.c:intel_flush_iotlb_all()."""
        self.tags.flush_all()

    def enforce_cache_coherency(self) -> bool:
        """drivers/iommu/intel/iommu.c:intel_iommu_enforce_cache_coherency()."""
        if self.force_snooping:
            return True
        if not self.unit.snoop_control:
            return False
        late = self.kernel.profile.iommu_snoop_needs_empty
        if late and not self.first_level and self.has_mappings:
            return False
        self.force_snooping = True
        if self.first_level:
            for dev in self.devices:
                intel_pasid_setup_page_snoop_control(dev, IOMMU_NO_PASID)
        return True

    # ---- attachments

    def assign_tags(self, info: DeviceDomainInfo, pasid: int) -> None:
        """As :meth:`IommuDomain.assign_tags`."""
        self.tags.assign(info, self.id, pasid)

    def unassign_tags(self, info: DeviceDomainInfo, pasid: int) -> None:
        """As :meth:`IommuDomain.unassign_tags`."""
        self.tags.unassign(info, self.id, pasid)

    def set_dev_pasid(self, dev: Device, pasid: int) -> None:
        """C: ``intel_iommu_set_dev_pasid()``. Raises EOPNOTSUPP, EINVAL, and what the table says."""
        if self.dirty_ops:
            raise err(EINVAL, "a domain that tracks dirty pages")
        super().set_dev_pasid(dev, pasid)

    # ---- dirty pages

    @property
    def has_dirty_ops(self) -> bool:
        """Whether it was allocated with dirty tracking."""
        return self.dirty_ops

    def set_dirty_tracking(self, on: bool) -> None:
        """drivers/iommu/intel/iommu.c:intel_iommu_set_dirty_tracking(). Raises EOPNOTSUPP."""
        if not self.dirty_ops:
            raise err(EOPNOTSUPP)
        if on != self.dirty_tracking:
            for domain in (self, *self.nested):
                for dev in domain.devices:
                    intel_pasid_setup_dirty_tracking(dev, IOMMU_NO_PASID, enabled=on)
            self.dirty_tracking = on

    def read_and_clear_dirty(self, iova: int, size: int, *, clear: bool = True) -> Iterable[tuple[int, int]]:
        """
        drivers/iommu/intel/iommu.c:intel_iommu_read_and_clear_dirty(), and iommu_iotlb_sync() if bits were cleared.

        Raises EOPNOTSUPP, EINVAL.
        """
        if not self.dirty_ops:
            raise err(EOPNOTSUPP)
        if not self.dirty_tracking:
            raise err(EINVAL, "dirty tracking is off")
        dirty = [(pfn << 12, n) for pfn, n in self.table.marked(iova, iova + size, DMA_SL_PTE_DIRTY, clear=clear)]
        if clear and dirty:
            self.tags.flush_range(iova, iova + size - 1)
        return dirty

    def clear_dirty(self, iova: int, size: int) -> None:
        """What iommufd does before tracking begins: bits of an earlier round go, whether it is on or not."""
        self.table.marked(iova, iova + size, DMA_SL_PTE_DIRTY, clear=True)
        self.tags.flush_range(iova, iova + size - 1)
