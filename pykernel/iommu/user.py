"""
What user space tells the driver of an IOMMU by way of IOMMUFD (include/linux/iommu.h: iommu_user_data).

VT-d's answers are in ``pykernel.iommu.nested``; another IOMMU has them as methods, :class:`UserOps`.
"""

from __future__ import annotations

from dataclasses import dataclass
from errno import EINVAL, EOPNOTSUPP
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from pykernel.errors import err
from pykernel.iommu.core import dev_iommu
from pykernel.iommu.intel import IntelIommu
from pykernel.iommu.iommu import iommu_domain_alloc_user
from pykernel.iommu.nested import NestedDomain
from pykernel.iommu.sva import iommu_dev_disable_feature, iommu_dev_enable_feature
from pykernel.mm.structs import copy_struct_from_user
from pykernel.uapi.linux.iommufd import (
    IOMMU_HW_INFO_TYPE_INTEL_VTD,
    IOMMU_HW_INFO_VTD_ERRATA_772415_SPR17,
    IOMMU_HWPT_ALLOC_DIRTY_TRACKING,
    IOMMU_HWPT_ALLOC_NEST_PARENT,
    IOMMU_HWPT_DATA_VTD_S1,
    iommu_hw_info_vtd,
    iommu_hwpt_vtd_s1,
)

if TYPE_CHECKING:
    from pykernel.base.core import Device
    from pykernel.iommu.iommu import IommuDomain
    from pykernel.kernel import Kernel
    from pykernel.uapi.struct import Struct

__all__ = ["UserData", "UserDataArray", "UserOps", "domain_alloc_user", "hw_info", "iopf_disable", "iopf_enable"]

S = TypeVar("S", bound="Struct")


@dataclass(frozen=True)
class UserData:
    """``struct iommu_user_data``: *len* bytes at *uptr* of the running task, of a *data_type* that the driver knows."""

    kernel: Kernel
    data_type: int
    uptr: int
    len: int

    def copy(self, struct: type[S], data_type: int) -> S:
        """C: ``iommu_copy_struct_from_user()``. Raises EINVAL: of another type or length. EFAULT."""
        if self.data_type != data_type or self.len != struct.sizeof():
            raise err(EINVAL, f"{self.len} bytes of type {self.data_type:#x}")
        return copy_struct_from_user(self.kernel, struct, self.uptr, self.len)


@dataclass
class UserDataArray:
    """``struct iommu_user_data_array``; *entry_num* becomes how many of them were done."""

    kernel: Kernel
    data_type: int
    uptr: int
    entry_len: int
    entry_num: int

    def entry(self, index: int) -> UserData:
        """Entry *index*."""
        return UserData(self.kernel, self.data_type, self.uptr + index * self.entry_len, self.entry_len)


class UserOps(Protocol):
    """What an IOMMU that is no VT-d has for IOMMUFD (``struct iommu_ops``)."""

    def domain_alloc_user(
        self, dev: Device, flags: int, parent: IommuDomain | None, data: UserData | None
    ) -> IommuDomain:
        """``iommu_ops.domain_alloc_user``. Raises an errno."""
        ...

    def hw_info(self) -> tuple[int, bytes]:
        """``iommu_ops.hw_info``: the type of the data, and the data."""
        ...

    def dev_enable_feat(self, dev: Device) -> None:
        """``iommu_ops.dev_enable_feat`` of IOMMU_DEV_FEAT_IOPF. Raises an errno."""

    def dev_disable_feat(self, dev: Device) -> None:
        """``iommu_ops.dev_disable_feat``."""


def _other(dev: Any) -> UserOps | None:
    """The IOMMU of *dev* when it is no VT-d."""
    unit: Any = dev_iommu(dev)
    return None if isinstance(unit, IntelIommu) else unit


def domain_alloc_user(
    dev: Device, flags: int, parent: IommuDomain | None = None, data: UserData | None = None
) -> IommuDomain:
    """
    A domain as user space wants it; with a *parent* a nested one. drivers/iommu/intel/iommu.c, nested.c.

    Raises:
        EOPNOTSUPP: a flag or data that the IOMMU does not know. EINVAL: the parent, or the data. EFAULT, ENOMEM.
    """
    other = _other(dev)
    if other is not None:
        return other.domain_alloc_user(dev, flags, parent, data)
    unit = dev_iommu(dev)
    nested_supported = unit is not None and unit.scalable
    if parent is not None:
        if not nested_supported or flags or data is None or data.data_type != IOMMU_HWPT_DATA_VTD_S1:
            raise err(EOPNOTSUPP, "the IOMMU cannot nest page tables of this type")
        s1 = data.copy(iommu_hwpt_vtd_s1, IOMMU_HWPT_DATA_VTD_S1)
        return NestedDomain(parent, s1.flags, s1.pgtbl_addr, s1.addr_width)
    if flags & ~(IOMMU_HWPT_ALLOC_NEST_PARENT | IOMMU_HWPT_ALLOC_DIRTY_TRACKING) or data is not None:
        raise err(EOPNOTSUPP, f"flags {flags:#x}")
    if flags & IOMMU_HWPT_ALLOC_NEST_PARENT and not nested_supported:
        raise err(EOPNOTSUPP, "the IOMMU cannot nest page tables")
    return iommu_domain_alloc_user(dev, dirty_tracking=bool(flags & IOMMU_HWPT_ALLOC_DIRTY_TRACKING))


def hw_info(dev: Device) -> tuple[int, bytes]:
    """What the IOMMU of *dev* says of itself: the type of the data, and the data. ``iommu_ops.hw_info``."""
    other = _other(dev)
    if other is not None:
        return other.hw_info()
    unit = dev_iommu(dev)
    assert unit is not None
    # drivers/iommu/intel/iommu.c:intel_iommu_hw_info(): the erratum is told of every IOMMU
    flags = int(IOMMU_HW_INFO_VTD_ERRATA_772415_SPR17)
    data = bytes(iommu_hw_info_vtd(flags=flags, cap_reg=unit.caps.cap, ecap_reg=unit.caps.ecap))
    return IOMMU_HW_INFO_TYPE_INTEL_VTD, data


def iopf_enable(dev: Any) -> None:
    """C: ``iommu_dev_enable_feature(dev, IOMMU_DEV_FEAT_IOPF)``. Raises ENODEV: no page requests; EBUSY."""
    other = _other(dev)
    if other is not None:
        other.dev_enable_feat(dev)
    else:
        iommu_dev_enable_feature(dev, "iopf")


def iopf_disable(dev: Any) -> None:
    """C: ``iommu_dev_disable_feature(dev, IOMMU_DEV_FEAT_IOPF)``."""
    other = _other(dev)
    if other is not None:
        other.dev_disable_feat(dev)
    else:
        iommu_dev_disable_feature(dev, "iopf")
