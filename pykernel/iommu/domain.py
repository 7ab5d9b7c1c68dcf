"""
Domains: the address spaces that devices are attached to (include/linux/iommu.h).

``IommuDomain`` is what all kinds have; one with page tables is a ``PagingDomain`` (pykernel/iommu/paging.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from errno import EINVAL, EOPNOTSUPP
from typing import TYPE_CHECKING, Any, Final

from pykernel.errors import err
from pykernel.iommu.pasid import intel_pasid_tear_down_entry

if TYPE_CHECKING:
    from pykernel.base.core import Device
    from pykernel.iommu.devinfo import DeviceDomainInfo
    from pykernel.iommu.intel import IntelIommu
    from pykernel.iommu.user import UserDataArray

__all__ = [
    "IOMMU_CACHE",
    "IOMMU_CAP_CACHE_COHERENCY",
    "IOMMU_CAP_DEFERRED_FLUSH",
    "IOMMU_CAP_DIRTY_TRACKING",
    "IOMMU_CAP_ENFORCE_CACHE_COHERENCY",
    "IOMMU_CAP_INTR_REMAP",
    "IOMMU_CAP_NOEXEC",
    "IOMMU_CAP_PRE_BOOT_PROTECTION",
    "IOMMU_DOMAIN_BLOCKED",
    "IOMMU_DOMAIN_DMA",
    "IOMMU_DOMAIN_DMA_FQ",
    "IOMMU_DOMAIN_IDENTITY",
    "IOMMU_DOMAIN_UNMANAGED",
    "IOMMU_MMIO",
    "IOMMU_NOEXEC",
    "IOMMU_PRIV",
    "IOMMU_READ",
    "IOMMU_WRITE",
    "Geometry",
    "IommuDomain",
]

IOMMU_READ: Final = 1
IOMMU_WRITE: Final = 2
IOMMU_CACHE: Final = 4
IOMMU_NOEXEC: Final = 8
IOMMU_MMIO: Final = 16
IOMMU_PRIV: Final = 32

PAGING, DMA_API, PT, DMA_FQ = 1, 2, 4, 8  # __IOMMU_DOMAIN_*
IOMMU_DOMAIN_BLOCKED: Final = 0
IOMMU_DOMAIN_IDENTITY: Final = PT
IOMMU_DOMAIN_UNMANAGED: Final = PAGING
IOMMU_DOMAIN_DMA: Final = PAGING | DMA_API
IOMMU_DOMAIN_DMA_FQ: Final = PAGING | DMA_API | DMA_FQ

# enum iommu_cap, by name: its numbers differ between kernels and no user sees them
IOMMU_CAP_CACHE_COHERENCY: Final = "cache coherency"
IOMMU_CAP_INTR_REMAP: Final = "interrupt remapping"
IOMMU_CAP_NOEXEC: Final = "noexec"
IOMMU_CAP_PRE_BOOT_PROTECTION: Final = "pre-boot protection"
IOMMU_CAP_ENFORCE_CACHE_COHERENCY: Final = "enforce cache coherency"
IOMMU_CAP_DEFERRED_FLUSH: Final = "deferred flush"
IOMMU_CAP_DIRTY_TRACKING: Final = "dirty tracking"


@dataclass(slots=True)
class Geometry:
    """``struct iommu_domain_geometry``: the first and the last address that can be mapped."""

    aperture_start: int = 0
    aperture_end: int = (1 << 64) - 1
    force_aperture: bool = False


class IommuDomain:
    """
    ``struct iommu_domain``. This base is a domain without page tables: identity or blocked.

    Attributes:
        nesting: a guest's tables may lie above it. C: ``DOMAIN_FLAG_NESTING_MODE``.
    """

    nesting = False

    def __init__(self, unit: IntelIommu, type: int) -> None:
        self.unit = unit
        self.type = type
        self.pgsize_bitmap = 0
        self.geometry = Geometry()
        self.devices: list[Device] = []
        self.iopf_handler: Callable[[Any], None] | None = None  # takes groups of page faults of its devices

    @property
    def paging(self) -> bool:
        """Whether there is something to map into."""
        return bool(self.type & PAGING)

    @property
    def is_dma(self) -> bool:
        """Whether the DMA API maps into it. C: ``bool iommu_is_dma_domain(struct iommu_domain *)``."""
        return bool(self.type & DMA_API)

    # ---- devices

    def attach_dev(self, dev: Device) -> None:
        """``domain->ops->attach_dev``. Raises what the IOMMU's driver finds wrong with the pair."""
        self.unit.attach(self, dev)

    def detach_dev(self, dev: Device) -> None:
        """The device goes, or gets another domain."""
        self.unit.detach(self, dev)

    def assign_tags(self, info: DeviceDomainInfo, pasid: int) -> None:
        """What the unit caches of requests of *pasid* is the domain's. C: ``cache_tag_assign_domain()``."""

    def unassign_tags(self, info: DeviceDomainInfo, pasid: int) -> None:
        """Nothing of it is any more. C: ``cache_tag_unassign_domain()``."""

    def set_dev_pasid(self, dev: Device, pasid: int) -> None:
        """
        Requests of *dev* with *pasid* go here. C: ``domain->ops->set_dev_pasid()``.

        Raises:
            EOPNOTSUPP: the IOMMU has no PASIDs, or the domain is not for one. EINVAL, ENODEV, EBUSY: the table entry.
        """
        info = self.unit.info(dev)
        if not self.unit.pasid_supported or info is None or self.type == IOMMU_DOMAIN_BLOCKED:
            raise err(EOPNOTSUPP, "no PASIDs")
        self.unit.set_pasid(self, dev, pasid)
        self.assign_tags(info, pasid)
        info.pasids[pasid] = self

    def remove_dev_pasid(self, dev: Device, pasid: int) -> None:
        """C: ``ops->remove_dev_pasid()``."""
        info = self.unit.info(dev)
        if info is not None:
            self.unassign_tags(info, pasid)
            intel_pasid_tear_down_entry(dev, pasid)
            info.pasids.pop(pasid, None)

    def free(self) -> None:
        """C: ``void iommu_domain_free(struct iommu_domain *)``."""

    # ---- mappings

    def map(self, iova: int, pa: int, size: int, prot: int) -> None:
        """
        C: ``int iommu_map(struct iommu_domain *, unsigned long, phys_addr_t, size_t, int prot, gfp_t)``.

        Raises:
            EINVAL: not aligned, no permission asked for, or a domain without tables.
            EFAULT: beyond the domain's width. ENOMEM.
        """
        raise err(EINVAL, "a domain without page tables")

    def unmap(self, iova: int, size: int) -> int:
        """C: ``size_t iommu_unmap(...)``: bytes that are unmapped now, which may be more than *size* (large pages)."""
        return 0

    def iova_to_phys(self, iova: int) -> int | None:
        """C: ``phys_addr_t iommu_iova_to_phys(struct iommu_domain *, dma_addr_t)``; None (C: 0) without a mapping."""
        return iova if self.type == IOMMU_DOMAIN_IDENTITY else None

    def flush_iotlb_all(self) -> None:
        """C: ``void iommu_flush_iotlb_all(struct iommu_domain *)``."""

    def enforce_cache_coherency(self) -> bool:
        """``domain->ops->enforce_cache_coherency``: True when no device can bypass the caches any more."""
        return False

    # ---- dirty pages

    @property
    def has_dirty_ops(self) -> bool:
        """``domain->dirty_ops``: it was allocated with IOMMU_HWPT_ALLOC_DIRTY_TRACKING."""
        return False

    def set_dirty_tracking(self, on: bool) -> None:
        """``dirty_ops->set_dirty_tracking``. Raises EOPNOTSUPP."""
        raise err(EOPNOTSUPP)

    def read_and_clear_dirty(self, iova: int, size: int, *, clear: bool = True) -> Iterable[tuple[int, int]]:
        """
        ``dirty_ops->read_and_clear_dirty`` and the flush after it: (iova, length) of each page that was written.

        Raises:
            EOPNOTSUPP: no dirty tracking in this domain. EINVAL: it is off.
        """
        raise err(EOPNOTSUPP)

    def clear_dirty(self, iova: int, size: int) -> None:
        """What iommufd does before tracking begins: bits of an earlier round go, whether it is on or not."""

    # ---- nested tables

    def cache_invalidate_user(self, array: UserDataArray) -> None:
        """``domain->ops->cache_invalidate_user``. Raises EOPNOTSUPP: the domain is not nested."""
        raise err(EOPNOTSUPP)
