"""
A guest's page tables bound to host PASIDs (drivers/iommu/iommu.c, intel/svm.c of Linux 5.10, and what the series
"IOASID extensions for guest SVA" made of it).

The entry of a PASID gets two stages: the guest's tables, and below them the domain that its memory is mapped in.
Binding takes a reference on the ID; the first device that binds it makes BIND, the last that unbinds it UNBIND.
Between UNBIND and the IOMMU's own entry comes ``ioasid_flush_work()``: what processors and devices know of the ID is
cleared while the entry still stands, so nothing that they let through before meets an entry that is gone.

Who frees an ID that is bound makes FREE, and the driver unbinds it from the ordered work queue in two works: the first
makes UNBIND, whose own works come in between, the second takes the entries away. Linux lets one work do both.
"""

from __future__ import annotations

from collections.abc import Callable
from errno import EACCES, EBUSY, EINVAL, ENODEV
from typing import TYPE_CHECKING, Any, Final

from pykernel.errors import ENOTSUPP, err
from pykernel.iommu.core import dev_iommu
from pykernel.iommu.gpasid_data import check_vtd, copy_bind_data
from pykernel.iommu.gpasid_fault import listen, unlisten
from pykernel.iommu.ioasid import (
    INVALID_IOASID,
    IOASID_NOTIFY_FREE,
    IOASID_PRIO_IOMMU,
    IoasidNbArgs,
    IoasidSet,
    ioasid_attach_data,
    ioasid_attach_spid,
    ioasid_detach_data,
    ioasid_detach_spid,
    ioasid_find,
    ioasid_find_mm_set,
    ioasid_flush_work,
    ioasid_get,
    ioasid_put,
    ioasid_queue_work,
    ioasid_register_notifier,
)
from pykernel.iommu.paging import PagingDomain
from pykernel.iommu.pasid import (
    PASID_MAX,
    intel_pasid_setup_nested,
    intel_pasid_setup_second_level,
    intel_pasid_tear_down_entry,
)
from pykernel.lib.locking import Mutex
from pykernel.lib.notifier import NOTIFY_DONE, NOTIFY_OK, NotifierBlock
from pykernel.pci.dev import PciDev
from pykernel.uapi.linux.iommu import (
    IOMMU_SVA_GPASID_VAL,
    IOMMU_SVA_VTD_GPASID_EAFE,
    IOMMU_SVA_VTD_GPASID_SRE,
    IOMMU_SVA_VTD_GPASID_WPE,
)
from pykernel.uapi.linux.iommufd import IOMMU_VTD_S1_EAFE, IOMMU_VTD_S1_SRE, IOMMU_VTD_S1_WPE
from pykernel.uapi.rfc.vfio_nesting import IOMMU_SVA_HPASID_DEF

if TYPE_CHECKING:
    from pykernel.base.core import Device
    from pykernel.iommu.devinfo import DeviceDomainInfo
    from pykernel.iommu.domain import IommuDomain
    from pykernel.iommu.intel import IntelIommu
    from pykernel.kernel import Kernel
    from pykernel.task import Mm
    from pykernel.uapi.linux.iommu import iommu_fault, iommu_gpasid_bind_data

__all__ = [
    "GuestPasids",
    "GuestSvm",
    "SvmDev",
    "check_pasid",
    "device_info",
    "iommu_sva_bind_gpasid",
    "iommu_sva_unbind_gpasid",
    "iommu_uapi_sva_bind_gpasid",
    "iommu_uapi_sva_unbind_gpasid",
    "nesting_supported",
    "the_domain",
    "unbind_all",
]

S1_FLAGS: Final = (  # as the guest's IOMMU has them, as the entry's function takes them
    (IOMMU_SVA_VTD_GPASID_SRE, IOMMU_VTD_S1_SRE),
    (IOMMU_SVA_VTD_GPASID_EAFE, IOMMU_VTD_S1_EAFE),
    (IOMMU_SVA_VTD_GPASID_WPE, IOMMU_VTD_S1_WPE),
)


class SvmDev:
    """
    ``struct intel_svm_dev``: a device that has the entry.

    Attributes:
        mm: who bound it.
        late_ns: until when page requests fail at once, because one had no answer in time.
        refusing: how many do not let page requests wait, because what waits for them must end.
    """

    __slots__ = ("dev", "domain", "late_ns", "mm", "pasid", "refusing")

    def __init__(self, dev: PciDev, domain: PagingDomain, pasid: int, mm: Mm | None) -> None:
        self.dev, self.domain, self.pasid, self.mm = dev, domain, pasid, mm
        self.late_ns = 0
        self.refusing = 0


class GuestSvm:
    """
    ``struct intel_svm`` of a guest: what is bound to a PASID.

    Attributes:
        gpasid: the guest's number, INVALID_IOASID: it has none.
        mm: who bound it.
        devs: the devices that have the entry.
        going: it is being unbound for good.
    """

    __slots__ = ("devs", "going", "gpasid", "kernel", "mm", "pasid")

    def __init__(self, kernel: Kernel, pasid: int, gpasid: int, mm: Mm | None) -> None:
        self.kernel, self.pasid, self.gpasid, self.mm = kernel, pasid, gpasid, mm
        self.devs: dict[Device, SvmDev] = {}
        self.going = False

    def free_work(self) -> None:
        """Somebody freed the ID while it is bound: the first half. C: ``intel_svm_free_async_fn()``."""
        core = self.kernel.sub(GuestPasids)
        with core.lock:
            if self.going:
                return
            self.going = True
        core.say_unbind(self)
        ioasid_queue_work(self.kernel, self.free_entries)

    def free_entries(self) -> None:
        """The second half: what UNBIND made others do has been done."""
        self.kernel.sub(GuestPasids).drop(self)


class GuestPasids:
    """
    What guests have bound in one kernel.

    Attributes:
        svms: by host PASID.
        defaults: by device and PASID, what stands for requests without one.
        handlers: who takes the page requests of devices of a domain.
    """

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.lock = Mutex(kernel, "pasid_mutex")
        self.svms: dict[int, GuestSvm] = {}
        self.defaults: dict[tuple[Device, int], SvmDev] = {}
        self.handlers: dict[IommuDomain, Callable[[SvmDev, iommu_fault], None]] = {}
        self.nb = NotifierBlock(self._status_change, IOASID_PRIO_IOMMU)
        ioasid_register_notifier(kernel, None, self.nb)
        kernel.check_leaks(self._leaks)

    def _leaks(self) -> list[str]:
        bound = [sdev for svm in self.svms.values() for sdev in svm.devs.values()]
        return [f"PASID {s.pasid} bound to {s.dev.name} for a guest" for s in [*bound, *self.defaults.values()]]

    def _status_change(self, nb: NotifierBlock, event: int, args: IoasidNbArgs) -> int:
        """C: ``static int pasid_status_change(nb, event, data)``, in atomic context."""
        svm = args.pdata
        if event != IOASID_NOTIFY_FREE or not isinstance(svm, GuestSvm):
            return NOTIFY_DONE
        ioasid_queue_work(self.kernel, svm.free_work)
        return NOTIFY_OK

    def find(self, dev: Device, pasid: int) -> SvmDev | None:
        """What is bound to *pasid* of *dev* for a guest."""
        svm = self.svms.get(pasid)
        found = None if svm is None else svm.devs.get(dev)
        return found or self.defaults.get((dev, pasid))

    def handler_of(self, sdev: SvmDev) -> Callable[[SvmDev, iommu_fault], None] | None:
        """Who takes its page requests now."""
        return self.handlers.get(sdev.domain)

    # ---- binding; the lock is held unless said

    def bind(self, domain: PagingDomain, dev: PciDev, data: iommu_gpasid_bind_data) -> None:
        """The rest of intel_svm_bind_gpasid(), the lock not held."""
        pasid = data.hpasid
        with self.lock:
            owner = self.owner_of(pasid)  # under the lock: who waits for it may find the ID freed, and given to others
            svm = self.svms.get(pasid)
            if svm is not None and (svm.going or dev in svm.devs or owner.members[pasid].pending):
                raise err(EBUSY, f"PASID {pasid} of {dev.name} is bound, or on its way out")
            if svm is None:
                gpasid = data.gpasid if data.flags & IOMMU_SVA_GPASID_VAL else INVALID_IOASID
                svm = GuestSvm(self.kernel, pasid, gpasid, self.kernel.current.mm)
                self._begin(svm, owner)
            try:
                self._enter(svm, domain, dev, data)
            except OSError:
                if not svm.devs:
                    self._end(svm)
                raise
        # BIND made others queue works: they are done when the caller comes back
        ioasid_flush_work(self.kernel)

    def owner_of(self, pasid: int) -> IoasidSet:
        """
        The set of the running process, whose ID *pasid* is.

        Raises:
            ENOENT: there is no such ID. EACCES: it is of another set.
        """
        mm = self.kernel.current.mm
        owner = None if mm is None else ioasid_find_mm_set(self.kernel, mm)
        ioasid_find(self.kernel, owner, pasid)
        if owner is None:
            raise err(EACCES, "the process has no set")
        return owner

    def _begin(self, svm: GuestSvm, owner: IoasidSet) -> None:
        self.kernel.faults.alloc("intel_svm")
        ioasid_get(self.kernel, owner, svm.pasid)
        try:
            ioasid_attach_data(self.kernel, svm.pasid, svm)
        except OSError:
            ioasid_put(self.kernel, None, svm.pasid)
            raise
        self.svms[svm.pasid] = svm

    def _end(self, svm: GuestSvm) -> None:
        del self.svms[svm.pasid]
        ioasid_detach_data(self.kernel, svm.pasid)
        ioasid_put(self.kernel, None, svm.pasid)

    def _enter(self, svm: GuestSvm, domain: PagingDomain, dev: PciDev, data: iommu_gpasid_bind_data) -> None:
        self.kernel.faults.alloc("intel_svm_dev")
        try:
            setup(dev, svm.pasid, domain, data)
        except OSError as e:
            dev.err(f"Failed to set up PASID {svm.pasid} in nested mode, Err -{e.errno}")
            raise
        sdev = svm.devs[dev] = SvmDev(dev, domain, svm.pasid, svm.mm)
        listen(sdev, self.handler_of)
        if len(svm.devs) > 1 or svm.gpasid == INVALID_IOASID:
            return
        try:
            ioasid_attach_spid(self.kernel, svm.pasid, svm.gpasid)
        except OSError:
            del svm.devs[dev]
            self._leave(sdev)
            raise

    # ---- unbinding

    def unbind(self, dev: Device, pasid: int, *, by_owner: bool = False) -> None:
        """
        intel_svm_unbind_gpasid(): nothing if it is not bound. May sleep; the lock is not held.

        That is no error, as since Linux 5.9 (pasid_to_svm_sdev(); before it was EINVAL): of a PASID that was freed
        there is one, for nobody has it then.

        Args:
            by_owner: only for the process whose ID it is; what :meth:`owner_of` raises.
        """
        with self.lock:
            if by_owner:
                self.owner_of(pasid)
            svm = self.svms.get(pasid)
            if svm is None or svm.going or dev not in svm.devs:
                return
            if len(svm.devs) > 1:
                self._leave(svm.devs.pop(dev))
                return
            svm.going = True
        self.say_unbind(svm)
        ioasid_flush_work(self.kernel)
        self.drop(svm)

    def say_unbind(self, svm: GuestSvm) -> None:
        """UNBIND, if there was BIND."""
        if svm.gpasid != INVALID_IOASID:
            ioasid_detach_spid(self.kernel, svm.pasid)

    def drop(self, svm: GuestSvm) -> None:
        """All entries go, then the data and the reference; the lock is not held."""
        with self.lock:
            for dev in list(svm.devs):
                self._leave(svm.devs.pop(dev))
            self._end(svm)

    def _leave(self, sdev: SvmDev) -> None:
        intel_pasid_tear_down_entry(sdev.dev, sdev.pasid)
        unlisten(sdev)
        drain(sdev.dev, sdev.pasid)

    # ---- requests without a PASID

    def bind_default(self, domain: PagingDomain, dev: PciDev, data: iommu_gpasid_bind_data, pasid: int) -> None:
        """The guest's tables for *pasid*, which has the domain alone till now. Raises EBUSY; what the entry does."""
        with self.lock:
            if (dev, pasid) in self.defaults:
                raise err(EBUSY, f"PASID {pasid} of {dev.name} is bound")
            intel_pasid_tear_down_entry(dev, pasid)
            try:
                setup(dev, pasid, domain, data)
            except OSError:
                intel_pasid_setup_second_level(domain, dev, pasid)
                raise
            sdev = self.defaults[dev, pasid] = SvmDev(dev, domain, pasid, self.kernel.current.mm)
            listen(sdev, self.handler_of)

    def unbind_default(self, dev: Device, pasid: int) -> None:
        """The domain alone again; nothing if it is not bound."""
        with self.lock:
            sdev = self.defaults.pop((dev, pasid), None)
            if sdev is not None:
                self._leave(sdev)
                intel_pasid_setup_second_level(sdev.domain, sdev.dev, pasid)


def setup(dev: PciDev, pasid: int, domain: PagingDomain, data: iommu_gpasid_bind_data) -> None:
    """The entry of two stages. Raises EINVAL, ENODEV, EBUSY as :func:`intel_pasid_setup_nested` does."""
    given = data.vendor.vtd.flags
    flags = sum(to for bit, to in S1_FLAGS if given & bit)
    intel_pasid_setup_nested(dev, pasid, data.gpgd, domain, data.addr_width, flags)


def drain(dev: PciDev, pasid: int) -> None:
    """Wait for page requests of *pasid*. C: ``void intel_svm_drain_prq(struct device *, u32 pasid)``."""
    info = device_info(dev)
    info.unit.drain_prq(info, pasid)


def device_info(dev: Device) -> DeviceDomainInfo:
    """What VT-d's driver keeps of *dev*. Raises EINVAL: it is behind none."""
    unit: Any = dev_iommu(dev)
    info: DeviceDomainInfo | None = None if unit is None else unit.info(dev)
    if info is None:
        raise err(EINVAL, f"{dev.name} is behind no IOMMU")
    return info


def nesting_supported(unit: IntelIommu) -> bool:
    """Whether domains can have a guest's stage above theirs. C: ``static inline bool nested_mode_support(void)``."""
    return unit.scalable and unit.caps.nest


def check_pasid(pasid: int) -> None:
    """Raises EINVAL: a guest's tables cannot be for *pasid*: it is 0, or has more than 20 bits."""
    if not 0 < pasid < PASID_MAX:
        raise err(EINVAL, f"PASID {pasid:#x}")


def the_domain(domain: IommuDomain) -> PagingDomain:
    """*domain* with page tables. Raises ENODEV: it has none, so there is no such operation."""
    if not isinstance(domain, PagingDomain):
        raise err(ENODEV, "the domain has no page tables")
    return domain


def iommu_uapi_sva_bind_gpasid(domain: IommuDomain, dev: Device, uptr: int, *, default_pasid: int = 0) -> None:
    """
    Bind the guest's page table that the struct at *uptr* describes. May sleep.

    C: ``int iommu_uapi_sva_bind_gpasid(struct iommu_domain *, struct device *, void __user *)``

    Raises:
        ENODEV: no such operation. EFAULT. EINVAL: argsz, version, format, flags, padding.
        What :func:`iommu_sva_bind_gpasid` says.
    """
    the_domain(domain)
    iommu_sva_bind_gpasid(domain, dev, copy_bind_data(dev.kernel, uptr), default_pasid=default_pasid)


def iommu_sva_bind_gpasid(
    domain: IommuDomain, dev: Device, data: iommu_gpasid_bind_data, *, default_pasid: int = 0
) -> None:
    """
    The rest, for who has many devices and reads the struct once: meanwhile its user may write there.

    C: ``static int intel_svm_bind_gpasid(struct iommu_domain *, struct device *, struct iommu_gpasid_bind_data *)``

    Args:
        default_pasid: which PASID IOMMU_SVA_HPASID_DEF means on this device.

    Raises:
        ENODEV: no such operation.
        EINVAL: what VT-d has not; a device without all 20 bits; the PASID is 0 or wider; the SPID is in use.
        ENOTSUPP: no PCI device.
        ENOENT: there is no such ID. EACCES: it is not of the caller's set. EBUSY: it is being freed, or is bound to the
            device, or has private data. ENOMEM.
    """
    paging = the_domain(domain)
    check_vtd(data)
    if not isinstance(dev, PciDev):
        raise err(ENOTSUPP, f"{dev.name} is no PCI device")
    info = device_info(dev)
    if info.max_pasids != PASID_MAX:
        raise err(EINVAL, f"{dev.name} has {info.max_pasids} PASIDs")
    core = dev.kernel.sub(GuestPasids)
    if data.flags & IOMMU_SVA_HPASID_DEF:
        core.bind_default(paging, dev, data, default_pasid)
        return
    check_pasid(data.hpasid)
    core.bind(paging, dev, data)


def iommu_uapi_sva_unbind_gpasid(domain: IommuDomain, dev: Device, uptr: int, *, default_pasid: int = 0) -> None:
    """
    Undo :func:`iommu_uapi_sva_bind_gpasid`; what is not bound is no error. May sleep.

    C: ``int iommu_uapi_sva_unbind_gpasid(struct iommu_domain *, struct device *, void __user *)``

    Raises:
        ENODEV: no such operation. EFAULT. EINVAL: argsz, version, format, flags, padding.
        What :func:`iommu_sva_unbind_gpasid` says.
    """
    the_domain(domain)
    iommu_sva_unbind_gpasid(domain, dev, copy_bind_data(dev.kernel, uptr), default_pasid=default_pasid)


def iommu_sva_unbind_gpasid(
    domain: IommuDomain, dev: Device, data: iommu_gpasid_bind_data, *, default_pasid: int = 0
) -> None:
    """
    The rest, of a struct that has been read.

    C: ``int iommu_sva_unbind_gpasid(struct iommu_domain *, struct device *, ioasid_t)``

    Raises:
        ENODEV: no such operation. EINVAL: the PASID.
        ENOENT: there is no such ID. EACCES: it is not of the caller's set.
    """
    the_domain(domain)
    core = dev.kernel.sub(GuestPasids)
    if data.flags & IOMMU_SVA_HPASID_DEF:
        core.unbind_default(dev, default_pasid)
        return
    check_pasid(data.hpasid)
    core.unbind(dev, data.hpasid, by_owner=True)


def unbind_all(dev: Device, domain: IommuDomain) -> None:
    """The device leaves *domain*: nothing stays bound to it. Whose IDs they are does not matter."""
    core = dev.kernel.sub(GuestPasids)
    for pasid in [p for p, svm in core.svms.items() if dev in svm.devs and svm.devs[dev].domain is domain]:
        core.unbind(dev, pasid)
    for key in [k for k, sdev in core.defaults.items() if k[0] is dev and sdev.domain is domain]:
        core.unbind_default(*key)
