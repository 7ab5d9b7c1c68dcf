"""
Nested domains (drivers/iommu/intel/nested.c): a guest's first-stage tables over the second stage that the host keeps.

The entry in the device's PASID table names both. The unit looks up what a device accesses in the guest's tables, and
each address there, those of the tables too, in the parent's; what it remembers, the guest has invalidated.
"""

from __future__ import annotations

from errno import EINVAL, ENODEV, EOPNOTSUPP
from typing import TYPE_CHECKING, Any, Final

from pykernel.errors import err
from pykernel.iommu.caches import CacheTags
from pykernel.iommu.domain import PAGING, IommuDomain
from pykernel.iommu.paging import PagingDomain
from pykernel.iommu.pasid import IOMMU_NO_PASID, intel_pasid_setup_nested
from pykernel.uapi.linux.iommufd import (
    IOMMU_HWPT_INVALIDATE_DATA_VTD_S1,
    IOMMU_VTD_INV_FLAGS_LEAF,
    iommu_hwpt_vtd_s1_invalidate,
)

if TYPE_CHECKING:
    from pykernel.base.core import Device
    from pykernel.iommu.devinfo import DeviceDomainInfo
    from pykernel.iommu.user import UserDataArray

__all__ = ["IOMMU_DOMAIN_NESTED", "NestedDomain"]

IOMMU_DOMAIN_NESTED: Final = 1 << 6
U64_MAX: Final = (1 << 64) - 1


class NestedDomain(IommuDomain):
    """
    A domain of the guest's: its table is at *pgtbl*, an address of *parent*.

    Attributes:
        id: what the caches know it by; the parent's own entries have another number.
    """

    def __init__(self, parent: IommuDomain, flags: int, pgtbl: int, addr_width: int) -> None:
        super().__init__(parent.unit, IOMMU_DOMAIN_NESTED)
        if not isinstance(parent, PagingDomain) or parent.type != PAGING:
            raise err(EINVAL, "the parent has no second-stage tables")
        self.parent, self.flags, self.pgtbl, self.addr_width = parent, flags, pgtbl, addr_width
        self.id = self.unit.alloc_did()
        self.tags = CacheTags(self.unit, first_level=True)
        parent.nested.append(self)

    def free(self) -> None:
        """drivers/iommu/intel/nested.c:intel_nested_domain_free()."""
        for dev in list(self.devices):
            self.detach_dev(dev)
        self.parent.nested.remove(self)
        self.unit.domain_ids.free(self.id)

    def attach_dev(self, dev: Any) -> None:
        """
        drivers/iommu/intel/nested.c:intel_nested_attach_dev(), pasid.c:intel_pasid_setup_nested().

        Raises:
            EINVAL: the width of the guest's addresses, or what the IOMMU cannot. ENODEV: the parent's addresses are
                wider than this IOMMU's. EBUSY: the entry is in use.
        """
        unit, info = self.unit, self.unit.infos[dev]
        unit.block(info)
        if unit.address_width < self.parent.width:
            dev.err("Adjusted guest address width not compatible")
            raise err(ENODEV)
        self._setup(dev, IOMMU_NO_PASID)
        self.assign_tags(info, IOMMU_NO_PASID)
        unit.join(self, info)

    def _setup(self, dev: Device, pasid: int) -> None:
        intel_pasid_setup_nested(dev, pasid, self.pgtbl, self.parent, self.addr_width, self.flags, did=self.id)

    def assign_tags(self, info: DeviceDomainInfo, pasid: int) -> None:
        """As :meth:`IommuDomain.assign_tags`: the parent's changes concern the same entries."""
        self.tags.assign(info, self.id, pasid)
        self.parent.tags.assign(info, self.id, pasid, nesting=True)

    def unassign_tags(self, info: DeviceDomainInfo, pasid: int) -> None:
        """As :meth:`IommuDomain.unassign_tags`."""
        self.tags.unassign(info, self.id, pasid)
        self.parent.tags.unassign(info, self.id, pasid, nesting=True)

    def set_dev_pasid(self, dev: Device, pasid: int) -> None:
        """C: ``intel_nested_set_dev_pasid()`` (6.15). Raises EOPNOTSUPP, and what the entry says."""
        info = self.unit.info(dev)
        if not self.unit.pasid_supported or info is None:
            raise err(EOPNOTSUPP, "no PASIDs")
        self._setup(dev, pasid)
        self.assign_tags(info, pasid)
        info.pasids[pasid] = self

    def cache_invalidate_user(self, array: UserDataArray) -> None:
        """
        drivers/iommu/intel/nested.c:intel_nested_cache_invalidate_user().

        Raises:
            EINVAL: entries of another type or length, an address within a page. EOPNOTSUPP: a flag. EFAULT.
        """
        num, array.entry_num = array.entry_num, 0
        if array.data_type != IOMMU_HWPT_INVALIDATE_DATA_VTD_S1:
            raise err(EINVAL, f"entries of type {array.data_type}")
        for n in range(num):
            entry = array.entry(n).copy(iommu_hwpt_vtd_s1_invalidate, IOMMU_HWPT_INVALIDATE_DATA_VTD_S1)
            if entry.flags & ~IOMMU_VTD_INV_FLAGS_LEAF or entry.reserved:
                raise err(EOPNOTSUPP, f"flags {entry.flags:#x}")
            if entry.addr % 4096 or (entry.npages == U64_MAX and entry.addr):
                raise err(EINVAL, f"{entry.npages:#x} pages at {entry.addr:#x}")
            if self.unit.kernel.trace:
                self.unit.kernel.trace("iotlb_invalidate_nested", addr=entry.addr, npages=entry.npages)
            ih = bool(entry.flags & IOMMU_VTD_INV_FLAGS_LEAF)
            if entry.npages == U64_MAX:
                self.tags.flush_range(0, U64_MAX, ih=ih)
            elif entry.npages:
                self.tags.flush_range(entry.addr, entry.addr + entry.npages * 4096 - 1, ih=ih)
            array.entry_num += 1
