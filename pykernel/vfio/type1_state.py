"""The state of a container that has type 1 (drivers/vfio/vfio_iommu_type1.c: struct vfio_iommu and its like)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from pykernel.lib.locking import Mutex
from pykernel.mm.uaccess import PAGE_SIZE
from pykernel.vfio.type1_dma import ADDRESSES, DmaList

if TYPE_CHECKING:
    from pykernel.iommu.iommu import IommuDomain, IommuGroup
    from pykernel.kernel import Kernel
    from pykernel.vfio.device import VfioDevice
    from pykernel.vfio.type1_dma import VfioPfn
    from pykernel.vfio.type1_iova import Iovas
    from pykernel.vfio.type1_nesting import FaultQueue

__all__ = ["PAGE_MASK", "VfioDomain", "VfioIommu", "VfioIommuGroup"]

PAGE_MASK: Final = ADDRESSES - PAGE_SIZE


class VfioIommuGroup:
    """
    ``struct vfio_iommu_group``: a group in a container.

    Attributes:
        pinned_page_dirty_scope: it writes only what it pinned.
        mdev: mediated devices whose DMA their parent's IOMMU translates.
    """

    __slots__ = ("iommu_group", "mdev", "pinned_page_dirty_scope")

    def __init__(self, iommu_group: IommuGroup, *, pinned: bool = False, mdev: bool = False) -> None:
        self.iommu_group = iommu_group
        self.mdev = mdev
        self.pinned_page_dirty_scope = pinned


class VfioDomain:
    """``struct vfio_domain``: page tables that one or more groups use."""

    __slots__ = ("domain", "enforce_cache_coherency", "group_list")

    def __init__(self, domain: IommuDomain) -> None:
        self.domain = domain
        self.group_list: list[VfioIommuGroup] = []
        self.enforce_cache_coherency = False

    def find(self, group: IommuGroup) -> VfioIommuGroup | None:
        """C: ``find_iommu_group(domain, iommu_group)``."""
        return next((g for g in self.group_list if g.iommu_group is group), None)


class VfioIommu:
    """
    ``struct vfio_iommu``: one container's mappings, domains and groups.

    Attributes:
        param: the module's parameters, read whenever they matter.
        pgsize_bitmap: page sizes that all domains have.
        pgshift: the smallest of them.
        num_non_pinned_groups: groups that may write to all that is mapped.
        vaddr_invalid_count: mappings whose address of the process was taken back.
        faults: who reads page requests of what is bound for a guest.
        lost: what drivers had pinned when it was unmapped at a close: nobody gives it back.
    """

    def __init__(self, kernel: Kernel, param: dict[str, Any], *, v2: bool, nesting: bool) -> None:
        self.kernel = kernel
        self.param = param
        self.v2 = v2
        self.nesting = nesting
        self.lock = Mutex(kernel, "vfio_iommu lock")
        self.device_list_lock = Mutex(kernel, "vfio_iommu device_list_lock")
        self.dma_list = DmaList(whole=kernel.profile.vfio_type1_last_address)
        self.domain_list: list[VfioDomain] = []
        self.emulated_iommu_groups: list[VfioIommuGroup] = []
        self.device_list: list[VfioDevice] = []
        self.iova_list: Iovas = []
        self.dma_avail: int = param["dma_entry_limit"]
        self.vaddr_invalid_count = 0
        self.num_non_pinned_groups = 0
        self.dirty_page_tracking = False
        self.pgsize_bitmap = PAGE_MASK
        self.pgshift = 12
        self.faults: FaultQueue | None = None
        self.lost: list[VfioPfn] = []

    def find_group(self, group: IommuGroup) -> VfioIommuGroup | None:
        """C: ``vfio_iommu_find_iommu_group(iommu, iommu_group)``."""
        for domain in self.domain_list:
            found = domain.find(group)
            if found is not None:
                return found
        return next((g for g in self.emulated_iommu_groups if g.iommu_group is group), None)

    def update_pgsize_bitmap(self) -> None:
        """What all domains have, pages of less than 4096 bytes hidden. C: ``vfio_update_pgsize_bitmap(iommu)``."""
        bitmap = ADDRESSES - 1
        for domain in self.domain_list:
            bitmap &= domain.domain.pgsize_bitmap
        if bitmap & ~PAGE_MASK:
            bitmap = bitmap & PAGE_MASK | PAGE_SIZE
        self.pgsize_bitmap = bitmap
        self.pgshift = (bitmap & -bitmap).bit_length() - 1
