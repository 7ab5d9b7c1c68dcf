"""Resets of a whole slot or bus (drivers/vfio/pci/vfio_pci_core.c: hot reset)."""

from __future__ import annotations

from contextlib import ExitStack
from errno import EINVAL, ENODEV, ENOENT, ENOSPC, EPERM
from typing import TYPE_CHECKING, Any

from pykernel.errors import err
from pykernel.fs.fdtable import fget
from pykernel.mm.uaccess import copy_from_user, copy_to_user
from pykernel.pci.power import PCI_D0
from pykernel.pci.reset import in_slot_or_bus, probe_reset_bus, probe_reset_slot, reset_slot_or_bus
from pykernel.uapi.linux.vfio import (
    VFIO_PCI_DEVID_NOT_OWNED,
    VFIO_PCI_DEVID_OWNED,
    VFIO_PCI_HOT_RESET_FLAG_DEV_ID,
    VFIO_PCI_HOT_RESET_FLAG_DEV_ID_OWNED,
    vfio_pci_dependent_device,
    vfio_pci_hot_reset,
    vfio_pci_hot_reset_info,
)
from pykernel.vfio.group import VfioGroupFile
from pykernel.vfio.iommufd import vfio_iommufd_device_ictx, vfio_iommufd_get_dev_id

if TYPE_CHECKING:
    from pykernel.pci.dev import PciDev
    from pykernel.vfio.core import DeviceSet
    from pykernel.vfio.device import VfioDevice
    from pykernel.vfio.pci.core import VfioPciCoreDevice

__all__ = ["get_hot_reset_info", "hot_reset", "try_reset_set"]

DEV_ID, OWNED = VFIO_PCI_HOT_RESET_FLAG_DEV_ID, VFIO_PCI_HOT_RESET_FLAG_DEV_ID_OWNED


def _affected(pdev: PciDev) -> list[PciDev]:
    """
    The devices that a reset of the slot, else of the bus, hits. C: ``vfio_pci_for_each_slot_or_bus()``.

    Raises:
        ENODEV: neither can be reset.
    """
    if not probe_reset_slot(pdev) and not probe_reset_bus(pdev):
        raise err(ENODEV, f"neither the slot nor the bus of {pdev.name} can be reset")
    return in_slot_or_bus(pdev)


def _entry(vdev: VfioPciCoreDevice, pdev: PciDev, *, dev_id: bool) -> vfio_pci_dependent_device:
    # drivers/vfio/pci/vfio_pci_core.c:vfio_pci_fill_devs()
    info = vfio_pci_dependent_device(segment=pdev.domain, bus=pdev.bus_number, devfn=pdev.devfn)
    if dev_id:
        there = vdev.the_set.find(pdev)
        ictx = vfio_iommufd_device_ictx(vdev)
        owned = VFIO_PCI_DEVID_NOT_OWNED if there is None else _dev_id(there, ictx)
        info.devid = owned & 0xFFFFFFFF
    elif pdev.iommu_group is None:
        raise err(EPERM, f"{pdev.name} is in no group")
    else:
        info.group_id = pdev.iommu_group.id
    return info


def _dev_id(vdev: VfioDevice, ictx: Any) -> int:
    """The ID in *ictx*; VFIO_PCI_DEVID_OWNED: none, but its group is used there; VFIO_PCI_DEVID_NOT_OWNED."""
    try:
        return vfio_iommufd_get_dev_id(vdev, ictx)
    except OSError as e:
        return VFIO_PCI_DEVID_OWNED if e.errno == ENOENT else VFIO_PCI_DEVID_NOT_OWNED


def get_hot_reset_info(vdev: VfioPciCoreDevice, hdr: vfio_pci_hot_reset_info, arg: int) -> None:
    """
    VFIO_DEVICE_GET_PCI_HOT_RESET_INFO.

    Raises:
        ENODEV: neither slot nor bus can be reset. ENOSPC: argsz has no room; count says for how many it must.
        EPERM: one is in no group. EFAULT.
    """
    kernel, hdr.flags = vdev.kernel, 0
    devices, size = _affected(vdev.pdev), vfio_pci_hot_reset_info.offsetofend("count")
    if len(devices) > (hdr.argsz - size) // vfio_pci_dependent_device.sizeof():
        hdr.count = len(devices)
        copy_to_user(kernel, arg, bytes(hdr)[:size])
        raise err(ENOSPC, f"{len(devices)} devices")
    dev_id = vdev.cdev_opened
    with vdev.the_set.lock:
        entries = [_entry(vdev, pdev, dev_id=dev_id) for pdev in devices]
    if dev_id:
        every = all(e.devid != VFIO_PCI_DEVID_NOT_OWNED & 0xFFFFFFFF for e in entries)
        hdr.flags = DEV_ID | (OWNED if every else 0)
    hdr.count = len(entries)
    copy_to_user(kernel, arg + size, b"".join(map(bytes, entries)))
    copy_to_user(kernel, arg, bytes(hdr)[:size])


def hot_reset(vdev: VfioPciCoreDevice, hdr: vfio_pci_hot_reset, arg: int) -> None:
    """
    VFIO_DEVICE_PCI_HOT_RESET.

    Raises:
        EINVAL: flags; no groups, or more than devices; no group's descriptor; a device that is not the caller's.
        ENODEV: neither slot nor bus can be reset. EBADF. EFAULT. EAGAIN: a device's lock is held.
    """
    if hdr.flags:
        raise err(EINVAL)
    by_cdev = vdev.kernel.profile.vfio_pci_hot_reset_cdev
    if by_cdev and bool(hdr.count) == vdev.cdev_opened:
        raise err(EINVAL, "groups are for devices that were opened through one")
    devices = _affected(vdev.pdev)
    if by_cdev and not hdr.count:
        ictx = vfio_iommufd_device_ictx(vdev)
        _reset_set(vdev.the_set, lambda cur: _dev_id(cur, ictx) != VFIO_PCI_DEVID_NOT_OWNED)
        return
    if not 0 < hdr.count <= len(devices):
        raise err(EINVAL, f"{hdr.count} groups for {len(devices)} devices")
    fds = copy_from_user(vdev.kernel, arg + vfio_pci_hot_reset.offsetofend("count"), 4 * hdr.count)
    with ExitStack() as held:
        groups = []
        for i in range(0, len(fds), 4):
            file = fget(vdev.kernel, int.from_bytes(fds[i : i + 4], "little", signed=True))
            if not isinstance(file, VfioGroupFile):
                raise err(EINVAL, "no descriptor of a group")
            held.callback(file.get().put)
            groups.append(file.group)
        _reset_set(vdev.the_set, lambda cur: cur.group in groups)


def _resettable(dev_set: DeviceSet) -> PciDev | None:
    """C: ``struct pci_dev *vfio_pci_dev_set_resettable(struct vfio_device_set *)``: all that it hits is in the set."""
    pdev: Any = dev_set.device_list[0].dev
    try:
        ours = all(dev_set.find(dev) is not None for dev in _affected(pdev))
    except OSError:
        return None
    return pdev if ours else None


def _reset_set(dev_set: DeviceSet, owned: Any) -> None:
    # drivers/vfio/pci/vfio_pci_core.c:vfio_pci_dev_set_hot_reset()
    with dev_set.lock, ExitStack() as power:
        pdev = _resettable(dev_set)
        if pdev is None:
            raise err(EINVAL, "a device that is hit is not VFIO's")
        members: list[Any] = list(dev_set.device_list)
        for cur in members:
            cur.pdev.power.resume_and_get()
            power.callback(cur.pdev.power.put)
        if not all(owned(cur) for cur in members):
            raise err(EINVAL, "a device that is hit is not the caller's")
        for cur in members:
            cur.set_power_state(PCI_D0)
        reset_slot_or_bus(pdev)


def try_reset_set(dev_set: DeviceSet) -> None:
    """
    The last device of the set was closed: a reset for those that had none.

    C: ``void vfio_pci_dev_set_try_reset(struct vfio_device_set *)``.
    """
    members: list[Any] = list(dev_set.device_list)
    if dev_set.open_count() > 1 or not any(cur.needs_reset for cur in members):
        return
    pdev = _resettable(dev_set)
    if pdev is None:
        return
    for cur in members:
        cur.pdev.power.resume_and_get()
    try:
        reset_slot_or_bus(pdev)
        for cur in members:
            cur.needs_reset = False
    except OSError as e:
        pdev.dbg(f"reset of the bus: {e}")
    finally:
        for cur in members:
            cur.pdev.power.put()
