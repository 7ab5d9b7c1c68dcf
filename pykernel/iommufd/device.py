"""
Physical devices: who binds one owns its DMA, and attaches it to page tables (drivers/iommu/iommufd/device.c).

Devices of one IOMMU group share a page table: the first that is attached brings the group with it.
"""

from __future__ import annotations

from collections.abc import Callable
from errno import EINVAL, ENODEV, EPERM
from typing import TYPE_CHECKING

from pykernel.errors import Oops, err
from pykernel.iommu.iommu import (
    IOMMU_CAP_CACHE_COHERENCY,
    IOMMU_CAP_ENFORCE_CACHE_COHERENCY,
    IOMMU_RESV_DIRECT_RELAXABLE,
    device_iommu_capable,
    iommu_attach_group,
    iommu_detach_group,
    iommu_device_claim_dma_owner,
    iommu_device_release_dma_owner,
    iommu_group_get,
    iommu_group_has_isolated_msi,
    iommu_group_put,
    iommu_group_replace_domain,
)
from pykernel.iommu.user import iopf_disable, iopf_enable
from pykernel.iommufd.fault import AttachHandle, Fault, IopfGroup, fault_auto_response
from pykernel.iommufd.hw_pagetable import HwPagetable, HwptNested, HwptPaging
from pykernel.iommufd.ioas import IommufdIoas
from pykernel.iommufd.objects import IommufdCtx, IommufdObject
from pykernel.lib.locking import Mutex
from pykernel.uapi.linux.iommufd import IOMMUFD_PAGE_RESP_INVALID

if TYPE_CHECKING:
    from pykernel.base.core import Device
    from pykernel.iommu.iommu import IommuGroup
    from pykernel.iommufd.io_pagetable import IoPagetable

__all__ = ["IommufdDevice", "IommufdGroup", "iommufd_ctx_has_group", "iommufd_device_bind", "iommufd_device_unbind"]


class IommufdGroup:
    """``struct iommufd_group``: what a context knows of an IOMMU group."""

    def __init__(self, ictx: IommufdCtx, group: IommuGroup) -> None:
        self.ictx, self.group = ictx, group
        self.refs = 1
        self.lock = Mutex(ictx.kernel, "igroup.lock")
        self.hwpt: HwPagetable | None = None
        self.handle: AttachHandle | None = None
        self.devices: list[IommufdDevice] = []

    def put(self) -> None:
        """C: ``void iommufd_put_group(struct iommufd_group *)``."""
        self.refs -= 1
        if not self.refs:
            del self.ictx.groups[self.group.id]
            iommu_group_put(self.group)


def _get_group(ictx: IommufdCtx, dev: Device) -> IommufdGroup:
    # drivers/iommu/iommufd/device.c:iommufd_get_group()
    group = iommu_group_get(dev)
    if group is None:
        raise err(ENODEV, f"{dev.name} is in no IOMMU group")
    igroup = ictx.groups.get(group.id)
    if igroup is not None:
        iommu_group_put(group)
        igroup.refs += 1
        return igroup
    igroup = ictx.groups[group.id] = IommufdGroup(ictx, group)
    return igroup


class IommufdDevice(IommufdObject):
    """``struct iommufd_device``: a device that a driver, as vfio-pci, has bound."""

    def __init__(self, ictx: IommufdCtx, dev: Device, igroup: IommufdGroup, *, holds_ctx: bool) -> None:
        super().__init__(ictx)
        self.dev, self.igroup, self.holds_ctx = dev, igroup, holds_ctx
        self.enforce_cache_coherency = device_iommu_capable(dev, IOMMU_CAP_ENFORCE_CACHE_COHERENCY)
        self.iopf_enabled = 0

    def destroy(self) -> None:
        """drivers/iommu/iommufd/device.c:iommufd_device_destroy()."""
        iommu_device_release_dma_owner(self.dev)
        self.igroup.put()
        if self.holds_ctx:
            self.ictx.put_ref()

    # ---- page faults

    def report_fault(self, faults: list[Fault], respond: Callable[[int], None]) -> None:
        """
        The device asks for pages: *respond* is called with the answer, IOMMUFD_PAGE_RESP_*, now or later.

        C: ``void iommu_report_device_fault(struct device *, struct iopf_fault *)``, the last of a group
        """
        hwpt = self.igroup.hwpt
        if hwpt is None or hwpt.domain.iopf_handler is None:
            respond(IOMMUFD_PAGE_RESP_INVALID)
        else:
            hwpt.domain.iopf_handler(IopfGroup(faults, respond, self.igroup.handle))

    def iopf_enable(self) -> None:
        """C: ``int iommufd_fault_iopf_enable(...)``. Raises EINVAL: a virtual function; what enabling PRI raises."""
        if getattr(self.dev, "is_virtfn", False):
            raise err(EINVAL, "a virtual function shares its page requests")
        if not self.iopf_enabled:
            iopf_enable(self.dev)
        self.iopf_enabled += 1

    def iopf_disable(self) -> None:
        """C: ``void iommufd_fault_iopf_disable(struct iommufd_device *)``."""
        self.iopf_enabled -= 1
        if not self.iopf_enabled:
            iopf_disable(self.dev)

    # ---- the group's domain

    def _attach_group(self, hwpt: HwPagetable) -> None:
        # drivers/iommu/iommufd/device.c:iommufd_hwpt_attach_device()
        if hwpt.fault is not None:
            self.iopf_enable()
        try:
            iommu_attach_group(hwpt.domain, self.igroup.group)
        except OSError:
            if hwpt.fault is not None:
                self.iopf_disable()
            raise
        self.igroup.handle = AttachHandle(self)

    def _detach_group(self, hwpt: HwPagetable) -> None:
        # drivers/iommu/iommufd/device.c:iommufd_hwpt_detach_device()
        handle, self.igroup.handle = self.igroup.handle, None
        iommu_detach_group(hwpt.domain, self.igroup.group)
        if hwpt.fault is not None:
            fault_auto_response(hwpt, handle)
            self.iopf_disable()

    def _replace_group(self, hwpt: HwPagetable, old: HwPagetable) -> None:
        # drivers/iommu/iommufd/device.c:iommufd_hwpt_replace_device()
        turns_on = hwpt.fault is not None and old.fault is None
        if turns_on:
            self.iopf_enable()
        try:
            iommu_group_replace_domain(self.igroup.group, hwpt.domain)
        except OSError:
            if turns_on:
                self.iopf_disable()
            raise
        handle, self.igroup.handle = self.igroup.handle, AttachHandle(self)
        if old.fault is not None:
            fault_auto_response(old, handle)
            if hwpt.fault is None:
                self.iopf_disable()

    # ---- attaching to a page table

    def hw_attach(self, hwpt: HwPagetable) -> None:
        """C: ``int iommufd_hw_pagetable_attach(...)``. Raises EINVAL: another is attached; EADDRINUSE, ..."""
        igroup, iopt = self.igroup, hwpt.iopt
        with igroup.lock:
            if igroup.hwpt is not None and igroup.hwpt is not hwpt:
                raise err(EINVAL, f"IOMMU group {igroup.group.id} is attached to another page table")
            enforce_resv_regions(iopt, self.dev)
            if not igroup.devices:
                try:
                    self._attach_group(hwpt)
                except OSError:
                    _unreserve(iopt, self.dev)
                    raise
                igroup.hwpt = hwpt
            hwpt.users += 1
            igroup.devices.append(self)

    def hw_detach(self) -> HwPagetable:
        """C: ``struct iommufd_hw_pagetable *iommufd_hw_pagetable_detach(...)``: the caller has its reference now."""
        igroup, hwpt = self.igroup, self.igroup.hwpt
        if hwpt is None:
            raise Oops(f"{self.dev.name} is not attached")
        with igroup.lock:
            igroup.devices.remove(self)
            if not igroup.devices:
                self._detach_group(hwpt)
                igroup.hwpt = None
            _unreserve(hwpt.iopt, self.dev)
        return hwpt

    def _do_attach(self, hwpt: HwPagetable) -> HwPagetable | None:
        self.hw_attach(hwpt)
        return None

    def _do_replace(self, hwpt: HwPagetable) -> HwPagetable | None:
        # drivers/iommu/iommufd/device.c:iommufd_device_do_replace()
        igroup = self.igroup
        with igroup.lock:
            old = igroup.hwpt
            if old is None or self not in igroup.devices:
                raise err(EINVAL, f"{self.dev.name} is not attached")
            if hwpt is old:
                return None
            moves = hwpt.iopt is not old.iopt
            if moves:
                self._reserve_all(hwpt.iopt)
            try:
                self._replace_group(hwpt, old)
            except OSError:
                self._unreserve_all(hwpt.iopt)  # within one address space, too: then nothing is reserved any more
                raise
            if moves:
                self._unreserve_all(old.iopt)
            igroup.hwpt = hwpt
            hwpt.users += len(igroup.devices)
            old.users -= len(igroup.devices) - 1
        return old

    def _reserve_all(self, iopt: IoPagetable) -> None:
        # drivers/iommu/iommufd/device.c:iommufd_group_do_replace_reserved_iova()
        try:
            for idev in self.igroup.devices:
                enforce_resv_regions(iopt, idev.dev)
        except OSError:
            self._unreserve_all(iopt)
            raise

    def _unreserve_all(self, iopt: IoPagetable) -> None:
        for idev in self.igroup.devices:
            _unreserve(iopt, idev.dev)

    def _auto_domain(self, ioas: IommufdIoas, do: Do) -> tuple[int, HwPagetable | None]:
        """A page table of *ioas* that takes the device, or a new one: its number, and the one that it replaces."""
        # drivers/iommu/iommufd/device.c:iommufd_device_auto_get_domain()
        immediate = do == self._do_attach
        with ioas.mutex:
            for hwpt in list(ioas.hwpts):
                if not hwpt.auto_domain:
                    continue
                with hwpt.held():
                    try:
                        return hwpt.id, do(hwpt)
                    except OSError as e:
                        if e.errno != EINVAL:  # that is a device that this one does not suit
                            raise
            hwpt = HwptPaging.alloc(self.ictx, ioas, self, 0, immediate=immediate)
            old = None
            if not immediate:
                try:
                    old = do(hwpt)
                except OSError:
                    self.ictx.abort_and_destroy(hwpt)
                    raise
            hwpt.auto_domain = True
            self.ictx.finalize(hwpt)
            return hwpt.id, old

    def _change_pt(self, pt_id: int, do: Do) -> int:
        # drivers/iommu/iommufd/device.c:iommufd_device_change_pt()
        with self.ictx.get(pt_id, IommufdObject) as pt:
            if isinstance(pt, HwptPaging | HwptNested):
                old = do(pt)
            elif isinstance(pt, IommufdIoas):
                pt_id, old = self._auto_domain(pt, do)
            else:
                raise err(EINVAL, f"object {pt_id} is no page table")
        if old is not None:
            old.put()
        return pt_id

    def attach(self, pt_id: int) -> int:
        """
        Attach to page table or IOAS *pt_id*; the number of the page table. C: ``int iommufd_device_attach(...)``.

        Raises:
            ENOENT: no such object. EINVAL: of another kind, or the group has another page table. EADDRINUSE: addresses
            that the device reserves are mapped. What the IOMMU's driver says.
        """
        pt_id = self._change_pt(pt_id, self._do_attach)
        self.users += 1
        return pt_id

    def replace(self, pt_id: int) -> int:
        """Attach to another one, or nothing changes. C: ``int iommufd_device_replace(...)``. Raises as attach()."""
        return self._change_pt(pt_id, self._do_replace)

    def detach(self) -> None:
        """C: ``void iommufd_device_detach(struct iommufd_device *)``."""
        self.hw_detach().put()
        self.users -= 1


Do = Callable[[HwPagetable], HwPagetable | None]


def _unreserve(iopt: IoPagetable, dev: Device) -> None:
    with iopt.iova_lock.write():
        iopt.unreserve(dev)


def enforce_resv_regions(iopt: IoPagetable, dev: Device) -> None:
    """C: ``int iopt_table_enforce_dev_resv_regions(...)``. Raises EADDRINUSE: something is mapped there."""
    with iopt.iova_lock.write():
        try:
            for region in dev.iommu.get_resv_regions(dev) if dev.iommu is not None else ():
                if region.type != IOMMU_RESV_DIRECT_RELAXABLE:
                    iopt.reserve(region.start, region.start + region.length - 1, dev)
        except OSError:
            iopt.unreserve(dev)
            raise


def iommufd_device_bind(
    ictx: IommufdCtx, dev: Device, *, allow_unsafe_interrupts: bool = False, holds_ctx: bool = True
) -> IommufdDevice:
    """
    Take over the DMA of *dev*. C: ``struct iommufd_device *iommufd_device_bind(...)``.

    Args:
        allow_unsafe_interrupts: the module's parameter.
        holds_ctx: while it is bound the context stays; not so what the context itself has made.

    Raises:
        EINVAL: no coherent DMA, so no IOMMU. ENODEV: no IOMMU group. EPERM: its interrupts are not isolated, or
        somebody else uses the DMA of its group. EBUSY, ENOMEM.
    """
    if not device_iommu_capable(dev, IOMMU_CAP_CACHE_COHERENCY):
        raise err(EINVAL, f"{dev.name} has no coherent DMA behind an IOMMU")
    igroup = _get_group(ictx, dev)
    try:
        if not iommu_group_has_isolated_msi(igroup.group):
            if not allow_unsafe_interrupts:
                raise err(EPERM, "no interrupt remapping")
            dev.warn(
                "MSI interrupts are not secure, they cannot be isolated by the platform. Check that platform features "
                'like interrupt remapping are enabled. Use the "allow_unsafe_interrupts" module parameter to override'
            )
        iommu_device_claim_dma_owner(dev, ictx)
        try:
            idev = IommufdDevice(ictx, dev, igroup, holds_ctx=holds_ctx)
        except OSError:
            iommu_device_release_dma_owner(dev)
            raise
    except OSError:
        igroup.put()
        raise
    if holds_ctx:
        ictx.get_ref()
    idev.users += 1  # the driver's, until it unbinds
    ictx.finalize(idev)
    return idev


def iommufd_device_unbind(idev: IommufdDevice) -> None:
    """C: ``void iommufd_device_unbind(struct iommufd_device *)``."""
    idev.ictx.destroy_user(idev)


def iommufd_ctx_has_group(ictx: IommufdCtx, group: IommuGroup) -> bool:
    """Whether a device of *group* is bound to it. C: ``bool iommufd_ctx_has_group(...)``."""
    return any(isinstance(obj, IommufdDevice) and obj.igroup.group is group for _, obj in ictx.objects.for_each())
