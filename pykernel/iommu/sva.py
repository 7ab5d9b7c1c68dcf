"""
The IOMMU of one kernel, and shared virtual addressing (drivers/iommu/iommu-sva.c, intel/svm.c, intel/iommu.c).

Later releases of 6.1 and 6.12 refuse to bind address spaces on x86 (EOPNOTSUPP), for the IOTLB may keep entries of page
tables of the kernel that are gone; here they are bound as before, as there is no kernel half of page tables.
"""

from __future__ import annotations

from errno import EBUSY, EINVAL, ENODEV, ENOMEM, ENOSPC
from typing import TYPE_CHECKING, Any

from pykernel.base.notify import BUS_NOTIFY_ADD_DEVICE, BUS_NOTIFY_REMOVED_DEVICE
from pykernel.errors import err
from pykernel.iommu import ats
from pykernel.iommu.core import IommuCore
from pykernel.iommu.intel import IntelIommu
from pykernel.iommu.ioasid import (
    INVALID_IOASID,
    IOASID_SET_TYPE_NULL,
    IoasidSet,
    ioasid_adjust_set,
    ioasid_alloc,
    ioasid_free,
    ioasid_install_capacity,
    ioasid_set_alloc,
)
from pykernel.iommu.ioasid_core import Ioasid
from pykernel.iommu.iommu import iommu_attach_device_pasid, iommu_detach_device_pasid
from pykernel.iommu.iommu_sysfs import DmarDevice, IommuClass
from pykernel.iommu.iopf import (
    iommu_queue_iopf,
    iommu_register_device_fault_handler,
    iommu_unregister_device_fault_handler,
)
from pykernel.iommu.probe import iommu_probe_device, iommu_release_device
from pykernel.iommu.svm import IommuMm, IommuMms, SvaDomain
from pykernel.lib.locking import Mutex
from pykernel.lib.notifier import NOTIFY_DONE, NotifierBlock
from pykernel.pci.core import Pci
from pykernel.syscalls import Pids

if TYPE_CHECKING:
    from pykernel.iommu.devinfo import DeviceDomainInfo
    from pykernel.iommu.domain import IommuDomain
    from pykernel.kernel import Kernel
    from pykernel.pci.dev import PciDev
    from pykernel.task import Mm

__all__ = [
    "Iommu",
    "SvaHandle",
    "iommu_alloc_global_pasid",
    "iommu_alloc_system_pasid",
    "iommu_dev_disable_feature",
    "iommu_dev_enable_feature",
    "iommu_free_global_pasid",
    "iommu_free_system_pasid",
    "iommu_sva_bind_device",
    "iommu_sva_get_pasid",
    "iommu_sva_unbind_device",
]

PID_MAX_DEFAULT = 0x8000  # a PASID for each process there can be: the rest is for guests


class SvaHandle:
    """``struct iommu_sva``: *dev* may use *mm* through ``pasid``."""

    __slots__ = ("__weakref__", "data", "dev", "domain", "mm", "pasid", "users")

    def __init__(self, dev: PciDev, mm: Mm, data: IommuMm, domain: SvaDomain) -> None:
        self.dev = dev
        self.mm = mm
        self.data = data
        self.domain = domain
        self.pasid = data.pasid
        self.users = 1
        if dev.kernel.track_origins:
            dev.kernel.took(self)


class Iommu:
    """The IOMMU layer of one kernel: units, groups, and who shares what with which device."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        kernel.sub(IommuCore)  # early parameters come before those of a driver
        self.unit = kernel.sub(IntelIommu)
        self.mms = IommuMms(self.unit, self.alloc_pasid, self.free_pasid)
        self.unit.find_mm = self.mms.find
        self.lock = Mutex(kernel, "iommu_sva_lock")
        self.handles: dict[PciDev, dict[int, SvaHandle]] = {}
        self.features: dict[PciDev, set[str]] = {}
        self._set: IoasidSet | None = None
        kernel.sub(IommuClass)
        if self.unit.enabled:
            kernel.sub(DmarDevice)
        if self.unit.pasid_supported:
            ioasid_install_capacity(kernel, self.unit.max_pasid)
        kernel.sub(Pci).bus.notifier.register(NotifierBlock(self._bus_event))
        kernel.pasid_of = self.mms.pasid
        kernel.check_leaks(self._leaks)

    def _leaks(self) -> list[str]:
        return [
            f"PASID {p} of {self.kernel.sub(Pids).of_mm(h.mm)} bound to {dev.name}{self.kernel.origin(h)}"
            for dev, t in self.handles.items()
            for p, h in t.items()
        ]

    @property
    def scalable(self) -> bool:
        """The IOMMU is in scalable mode."""
        return self.unit.scalable

    @property
    def pasid_bits(self) -> int:
        """How wide PASIDs of the unit are."""
        return max(self.unit.max_pasid - 1, 0).bit_length()

    def pasid_enabled(self, dev: PciDev) -> bool:
        """PASIDs of the device are on. C: ``info->pasid_enabled``."""
        info = self.unit.info(dev)
        return info is not None and info.pasid_enabled

    def _bus_event(self, nb: NotifierBlock, event: int, dev: Any) -> int:
        if event == BUS_NOTIFY_ADD_DEVICE:
            iommu_probe_device(dev)
        elif event == BUS_NOTIFY_REMOVED_DEVICE:
            self.handles.pop(dev, None)
            self.features.pop(dev, None)
            iommu_release_device(dev)
        return NOTIFY_DONE

    # ---- PASIDs

    @property
    def pasids(self) -> IoasidSet:
        """
        The host's own set of PASIDs. C: ``host_pasid_set``.

        Where the IOMMU has few, one process of the host may not take the room of all virtual machines: the set begins
        with half of what there is, and grows when it is full.
        """
        if self._set is None:
            with self.kernel.ledger.held(self.kernel.ledger.kernel):
                quota = min(PID_MAX_DEFAULT, self._half())
                self._set = ioasid_set_alloc(self.kernel, None, quota, IOASID_SET_TYPE_NULL)
        return self._set

    def _half(self) -> int:
        return -(-self.kernel.sub(Ioasid).capacity_avail // 2)

    def _alloc(self, first: int, last: int) -> int:
        owner = self.pasids
        if len(owner.members) >= owner.quota and (more := self._half()):
            ioasid_adjust_set(owner, owner.quota + more)
        return ioasid_alloc(owner, first, last)

    def alloc_pasid(self, first: int, last: int) -> int:
        """A PASID from *first* to *last*. Raises ENOMEM (6.8: ENOSPC): none is left."""
        pasid = self._alloc(first, last)
        if pasid == INVALID_IOASID:
            raise err(ENOSPC if self.kernel.profile.iommu_sva_domain else ENOMEM, "no PASID is left")
        return pasid

    def free_pasid(self, pasid: int) -> None:
        """Give it back."""
        ioasid_free(self.pasids, pasid)

    def alloc_global_pasid(self, info: DeviceDomainInfo) -> int:
        """C: ``ioasid_t iommu_alloc_global_pasid(struct device *)``. Raises ENOSPC: none that the device can use."""
        limit = min(info.max_pasids, self.unit.max_pasid)
        pasid = self._alloc(1, limit - 1) if limit else INVALID_IOASID
        if pasid == INVALID_IOASID:
            raise err(ENOSPC, "no PASID is left")
        return pasid


def _info(dev: PciDev) -> DeviceDomainInfo:
    info = dev.iommu.info(dev) if dev.iommu is not None else None
    if info is None:
        raise err(ENODEV, f"{dev.name} is behind no IOMMU")
    return info


# ---- features


def iommu_dev_enable_feature(dev: PciDev, feature: str) -> None:
    """
    C: ``int iommu_dev_enable_feature(struct device *, enum iommu_dev_features)``; *feature* is "iopf" or "sva".

    Raises:
        ENODEV: no IOMMU, no such feature, or the unit has no SVA; "iopf": the device has no page requests.
        EINVAL: "sva": PASIDs, ATS or page requests of the device are off.
        EBUSY: enabled.
    """
    info = _info(dev)
    if feature == "iopf":
        _enable_iopf(info)
    elif feature == "sva":
        _enable_sva(info)
    else:
        raise err(ENODEV, f"no feature {feature}")
    dev.kernel.sub(Iommu).features.setdefault(dev, set()).add(feature)


def _enable_sva(info: DeviceDomainInfo) -> None:
    # drivers/iommu/intel/iommu.c:intel_iommu_enable_sva()
    unit, late = info.unit, info.unit.kernel.profile.vtd_iopf_enables_pri
    if not unit.svm_capable:
        raise err(ENODEV, f"{unit.name} has no SVA")
    if not info.pasid_enabled or not info.ats_enabled or not (info.pri_enabled or (late and not info.pri_supported)):
        raise err(EINVAL, f"PASID, ATS or PRI of {info.dev.name} is off")
    if not late:
        unit.iopf_queue.add_device(info.fault_param)
        try:
            iommu_register_device_fault_handler(info.dev, iommu_queue_iopf, info.dev)
        except OSError:
            unit.iopf_queue.remove_device(info.fault_param)
            raise


def _enable_iopf(info: DeviceDomainInfo) -> None:
    # drivers/iommu/intel/iommu.c:intel_iommu_enable_iopf()
    if info.unit.kernel.profile.vtd_caps_at_probe:
        info.iopf_get()
        return
    if not info.unit.kernel.profile.vtd_iopf_enables_pri:
        if not info.pri_supported:
            raise err(ENODEV, "no page requests")
        return
    if not info.ats_enabled or not info.pri_supported:
        raise err(ENODEV, "no page requests")
    if info.pri_enabled:
        raise err(EBUSY, "page requests are on")
    if info.pasid_enabled and not ats.pci_prg_resp_pasid_required(info.dev):
        raise err(EINVAL, "answers to page requests would have no PASID")
    info.unit.iopf_queue.add_device(info.fault_param)
    if not info.unit.contexts.flip_pri(info, enable=True):
        info.unit.iopf_queue.remove_device(info.fault_param)
        raise err(ENODEV, "no context entry")
    try:
        info.enable_pri()
    except OSError:
        info.unit.contexts.flip_pri(info, enable=False)
        info.unit.iopf_queue.remove_device(info.fault_param)
        raise


def iommu_dev_disable_feature(dev: PciDev, feature: str) -> None:
    """
    C: ``int iommu_dev_disable_feature(...)``.

    Raises:
        ENODEV: no IOMMU, no such feature. EINVAL: not enabled. EBUSY: page requests wait for an answer.
    """
    info = _info(dev)
    late = info.unit.kernel.profile.vtd_iopf_enables_pri
    if feature not in ("iopf", "sva"):
        raise err(ENODEV, f"no feature {feature}")
    if feature == "sva" and not late:
        iommu_unregister_device_fault_handler(dev)
        info.unit.iopf_queue.remove_device(info.fault_param)
    elif feature == "iopf" and info.unit.kernel.profile.vtd_caps_at_probe:
        info.iopf_put()
    elif feature == "iopf" and late:
        if not info.pri_enabled:
            raise err(EINVAL, "page requests are off")
        info.unit.contexts.flip_pri(info, enable=False)
        info.unit.iopf_queue.remove_device(info.fault_param)
        ats.pci_disable_pri(dev)
        info.pri_enabled = False
    dev.kernel.sub(Iommu).features.get(dev, set()).discard(feature)


# ---- bonds


def iommu_sva_bind_device(dev: PciDev, mm: Mm) -> SvaHandle:
    """
    Let *dev* use *mm*; the same device and mm give the same handle again.

    C: ``struct iommu_sva *iommu_sva_bind_device(struct device *, struct mm_struct *)``.

    Raises:
        ENODEV: no IOMMU in scalable mode, or PASIDs of the device are off.
        EINVAL: other devices are in its group (before 6.2), or the process has ended.
        EOVERFLOW: the PASID of *mm* is none that the device can have.
        ENOMEM: no PASID is left (6.8: ENOSPC), or no memory.
        EBUSY: something else has the PASID.
    """
    info, iommu = _info(dev), dev.kernel.sub(Iommu)
    if not iommu.scalable or not info.pasid_enabled:
        raise err(ENODEV)
    with _lock(dev):
        return _bind(iommu, info, dev, mm)


def _lock(dev: PciDev) -> Mutex:
    """
    Who binds waits for who unbinds, and is still waiting for page requests: of any device, before 6.2 of its group.

    ``pasid_mutex``, which Linux 6.1 takes inside, lets others in while page requests are waited for; here nobody needs
    it, for nothing else between two of its users sleeps.
    """
    group = dev.iommu_group
    if group is None or dev.kernel.profile.iommu_sva_domain:
        return dev.kernel.sub(Iommu).lock
    return group.mutex


def _bind(iommu: Iommu, info: DeviceDomainInfo, dev: PciDev, mm: Mm) -> SvaHandle:
    late = dev.kernel.profile.iommu_sva_domain
    if not late and dev.iommu_group is not None and len(dev.iommu_group.devices) != 1:
        raise err(EINVAL, f"group {dev.iommu_group.id} has several devices")
    data = iommu.mms.alloc(mm, info)
    handles = iommu.handles.setdefault(dev, {})
    handle = handles.get(data.pasid)
    if handle is not None:
        handle.users += 1
        return handle
    domain = iommu.mms.domain(data, mm)
    domain.users += 1
    try:
        _attach(domain, dev, data.pasid)
    except OSError:
        iommu.mms.put_domain(data, domain)
        raise
    bond = handles[data.pasid] = SvaHandle(dev, mm, data, domain)
    if dev.kernel.trace:
        dev.kernel.trace("sva_bind", device=dev.name, pasid=bond.pasid)
    return bond


def _attach(domain: SvaDomain, dev: PciDev, pasid: int) -> None:
    if dev.kernel.profile.iommu_sva_domain:
        iommu_attach_device_pasid(domain, dev, pasid)
    else:
        domain.set_dev_pasid(dev, pasid)


def iommu_sva_unbind_device(handle: SvaHandle) -> None:
    """C: ``void iommu_sva_unbind_device(struct iommu_sva *)``."""
    with _lock(handle.dev):
        handle.users -= 1
        if not handle.users:
            _unbind(handle)


def _unbind(handle: SvaHandle) -> None:
    dev, iommu = handle.dev, handle.dev.kernel.sub(Iommu)
    iommu.handles.get(dev, {}).pop(handle.pasid, None)
    if dev.kernel.profile.iommu_sva_domain:
        iommu_detach_device_pasid(handle.domain, dev, handle.pasid)
    else:
        handle.domain.remove_dev_pasid(dev, handle.pasid)
    iommu.mms.put_domain(handle.data, handle.domain)
    if dev.kernel.trace:
        dev.kernel.trace("sva_unbind", device=dev.name, pasid=handle.pasid)


def iommu_sva_get_pasid(handle: SvaHandle) -> int:
    """C: ``u32 iommu_sva_get_pasid(struct iommu_sva *)``."""
    return handle.pasid


# ---- the kernel's own PASIDs


def iommu_alloc_global_pasid(dev: PciDev) -> int:
    """
    A PASID for whatever *dev* needs one for. C: ``ioasid_t iommu_alloc_global_pasid(struct device *)``.

    Raises:
        ENODEV: no IOMMU. ENOSPC (C: IOMMU_PASID_INVALID): none is left that the device can have.
    """
    info = _info(dev)
    return dev.kernel.sub(Iommu).alloc_global_pasid(info)


def iommu_free_global_pasid(dev: PciDev, pasid: int) -> None:
    """C: ``void iommu_free_global_pasid(ioasid_t)``."""
    dev.kernel.sub(Iommu).free_pasid(pasid)


def iommu_alloc_system_pasid(dev: PciDev) -> int:
    """
    A global PASID for the device's DMA domain. C: ``iommu_alloc_global_pasid()`` and ``iommu_attach_device_pasid()``.

    Raises:
        ENODEV: no IOMMU in scalable mode, or the device has no PASID.
        ENOSPC: no PASID is left. What attaching raises.
    """
    info, group = _info(dev), dev.iommu_group
    if not info.unit.scalable or not info.pasid_enabled:
        raise err(ENODEV, "no PASID")
    domain: IommuDomain | None = group.domain if group is not None else None
    if domain is None:
        raise err(ENODEV, "no domain")
    pasid = iommu_alloc_global_pasid(dev)
    try:
        iommu_attach_device_pasid(domain, dev, pasid)
    except OSError:
        iommu_free_global_pasid(dev, pasid)
        raise
    return pasid


def iommu_free_system_pasid(dev: PciDev, pasid: int) -> None:
    """C: ``iommu_detach_device_pasid()`` and ``iommu_free_global_pasid()``."""
    group = dev.iommu_group
    handle = group.pasids.get(pasid) if group is not None else None
    if handle is not None:
        iommu_detach_device_pasid(handle.domain, dev, pasid)
    iommu_free_global_pasid(dev, pasid)
