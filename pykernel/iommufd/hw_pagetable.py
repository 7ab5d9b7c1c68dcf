"""
Hardware page tables (drivers/iommu/iommufd/hw_pagetable.c): domains that follow an IOAS, or a guest's on top of one.
"""

from __future__ import annotations

from errno import EINVAL, EOPNOTSUPP
from typing import TYPE_CHECKING, Final

from pykernel.errors import err
from pykernel.iommu.iommu import (
    IOMMU_CAP_DIRTY_TRACKING,
    device_iommu_capable,
    iommu_domain_free,
)
from pykernel.iommu.user import UserData, domain_alloc_user
from pykernel.iommufd.fault import IommufdFault
from pykernel.iommufd.ioas import IommufdIoas
from pykernel.iommufd.objects import IommufdCtx, IommufdObject
from pykernel.uapi.linux.iommufd import (
    IOMMU_HWPT_ALLOC_DIRTY_TRACKING,
    IOMMU_HWPT_ALLOC_NEST_PARENT,
    IOMMU_HWPT_FAULT_ID_VALID,
)

if TYPE_CHECKING:
    from pykernel.iommu.iommu import IommuDomain
    from pykernel.iommufd.device import IommufdDevice
    from pykernel.iommufd.io_pagetable import IoPagetable

__all__ = ["HwPagetable", "HwptNested", "HwptPaging"]

INVALIDATE_ENTRY_NUM_MAX: Final = 1 << 19
U64_MAX: Final = (1 << 64) - 1


class HwPagetable(IommufdObject):
    """``struct iommufd_hw_pagetable``: what both kinds have: a domain, and perhaps a queue for its faults."""

    domain: IommuDomain
    auto_domain = False

    def __init__(self, ictx: IommufdCtx) -> None:
        super().__init__(ictx)
        self.fault: IommufdFault | None = None

    @property
    def iopt(self) -> IoPagetable:
        """The map that it, or its parent, follows."""
        raise NotImplementedError

    def set_fault(self, fault: IommufdFault) -> None:
        """Faults of devices that are attached go to *fault*."""
        self.fault = fault
        self.domain.iopf_handler = fault.handle
        fault.users += 1

    def put(self) -> None:
        """C: ``void iommufd_hw_pagetable_put(...)``: one that was made for devices goes with the last."""
        if self.auto_domain:
            self.ictx.put_and_try_destroy(self)
        else:
            self.users -= 1

    def free_domain(self) -> None:
        """drivers/iommu/iommufd/hw_pagetable.c:__iommufd_hwpt_destroy()."""
        iommu_domain_free(self.domain)
        if self.fault is not None:
            self.fault.users -= 1


class HwptPaging(HwPagetable):
    """``struct iommufd_hwpt_paging``: a domain with what its IOAS maps."""

    def __init__(self, ictx: IommufdCtx, ioas: IommufdIoas, domain: IommuDomain, *, nest_parent: bool) -> None:
        super().__init__(ictx)
        ioas.users += 1
        self.ioas, self.domain, self.nest_parent = ioas, domain, nest_parent
        self.enforce_cache_coherency = False

    @property
    def iopt(self) -> IoPagetable:
        """The map of its IOAS."""
        return self.ioas.iopt

    @classmethod
    def alloc(
        cls,
        ictx: IommufdCtx,
        ioas: IommufdIoas,
        idev: IommufdDevice,
        flags: int,
        data: UserData | None = None,
        *,
        immediate: bool,
    ) -> HwptPaging:
        """
        A new one for *idev*, filled; *immediate* attaches it first. C: ``iommufd_hwpt_paging_alloc()``.

        Raises:
            EOPNOTSUPP: a flag that the IOMMU cannot do. As attaching, and as IoPagetable.add_domain().
        """
        if flags & ~(IOMMU_HWPT_ALLOC_NEST_PARENT | IOMMU_HWPT_ALLOC_DIRTY_TRACKING):
            raise err(EOPNOTSUPP, f"flags {flags:#x}")
        dirty = flags & IOMMU_HWPT_ALLOC_DIRTY_TRACKING
        if dirty and not device_iommu_capable(idev.dev, IOMMU_CAP_DIRTY_TRACKING):
            raise err(EOPNOTSUPP, "the IOMMU cannot track dirty pages")
        domain = domain_alloc_user(idev.dev, flags, None, data)
        try:
            hwpt = cls(ictx, ioas, domain, nest_parent=bool(flags & IOMMU_HWPT_ALLOC_NEST_PARENT))
        except OSError:
            iommu_domain_free(domain)
            raise
        try:
            hwpt.fill(idev, immediate=immediate)
        except OSError:
            ictx.abort_and_destroy(hwpt)
            raise
        return hwpt

    def fill(self, idev: IommufdDevice, *, immediate: bool) -> None:
        """What of its making can fail. Raises as alloc()."""
        if idev.enforce_cache_coherency:
            self.enforce_cache_coherency = self.domain.enforce_cache_coherency()
        if immediate:
            idev.hw_attach(self)
        try:
            self.iopt.add_domain(self.domain)
        except OSError:
            if immediate:
                idev.hw_detach().users -= 1
            raise
        self.ioas.hwpts.append(self)

    def destroy(self) -> None:
        """drivers/iommu/iommufd/hw_pagetable.c:iommufd_hwpt_paging_destroy()."""
        if self in self.ioas.hwpts:
            self.ioas.hwpts.remove(self)
            self.iopt.remove_domain(self.domain)
        self.free_domain()
        self.ioas.users -= 1


class HwptNested(HwPagetable):
    """``struct iommufd_hwpt_nested``: a guest's table; what it names is looked up in the parent."""

    def __init__(self, ictx: IommufdCtx, parent: HwptPaging, domain: IommuDomain) -> None:
        super().__init__(ictx)
        parent.users += 1
        self.parent, self.domain = parent, domain

    @property
    def iopt(self) -> IoPagetable:
        """The map of the parent's IOAS."""
        return self.parent.iopt

    @classmethod
    def alloc(cls, ictx: IommufdCtx, parent: HwptPaging, idev: IommufdDevice, flags: int, data: UserData) -> HwptNested:
        """
        C: ``iommufd_hwpt_nested_alloc()``.

        Raises:
            EOPNOTSUPP: another flag, no data, or of a type that the IOMMU does not know. EINVAL: the parent cannot be
            one; data of a wrong length. EFAULT.
        """
        if flags & ~IOMMU_HWPT_FAULT_ID_VALID or not data.len:
            raise err(EOPNOTSUPP, f"flags {flags:#x}, {data.len} bytes of data")
        if parent.auto_domain or not parent.nest_parent:
            raise err(EINVAL, f"page table {parent.id} was not made to be a parent")
        domain = domain_alloc_user(idev.dev, 0, parent.domain, data)
        try:
            return cls(ictx, parent, domain)
        except OSError:
            iommu_domain_free(domain)
            raise

    def destroy(self) -> None:
        """drivers/iommu/iommufd/hw_pagetable.c:iommufd_hwpt_nested_destroy()."""
        self.free_domain()
        self.parent.users -= 1
