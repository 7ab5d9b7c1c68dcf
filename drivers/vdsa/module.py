"""The module: driver ``mdev`` of the bus ``dsa``, and the driver of the devices that it lets be made."""

from __future__ import annotations

from errno import ENODEV, ENXIO, EOPNOTSUPP
from typing import TYPE_CHECKING, Any, ClassVar

from pykernel.base.bus import Driver
from pykernel.base.module import Module
from pykernel.drivers.idxd.bind import drv_disable_wq, drv_enable_wq
from pykernel.drivers.idxd.bus import DsaBus
from pykernel.drivers.idxd.cdev import add_cdev, remove_cdev
from pykernel.drivers.idxd.device import wq_disable, wq_enable
from pykernel.drivers.idxd.idxd import DevType, IdxdDevice, IdxdState, IdxdWq, WqState, WqType
from pykernel.drivers.vdsa.irq import ImsTable
from pykernel.errors import HungTask, err
from pykernel.mdev import (
    MdevDevice,
    MdevDriver,
    MdevParent,
    MdevType,
    mdev_register_driver,
    mdev_register_parent,
    mdev_set_iommu_device,
    mdev_unregister_driver,
    mdev_unregister_parent,
)
from pykernel.mdev.core import mdev_device_remove
from pykernel.uapi.linux.idxd import IDXD_SCMD_WQ_NO_DRV_NAME, IDXD_SCMD_WQ_USER_NO_IOMMU
from pykernel.uapi.linux.vfio import VFIO_DEVICE_API_PCI_STRING

if TYPE_CHECKING:
    from pykernel.drivers.vdsa.device import VdsaDevice

__all__ = ["MdevWqDriver", "VdsaDriver", "VdsaModule", "VdsaParent", "VdsaType"]


class VdsaType(MdevType):
    """``dsa-1dwq-v1`` and ``dsa-1swq-v1`` (``iax-``): a device with one queue."""

    def __init__(self, idxd: IdxdDevice, *, dedicated: bool) -> None:
        kind = "1dwq" if dedicated else "1swq"
        prefix = idxd.data.name_prefix
        super().__init__(f"{prefix}-{kind}-v1", f"{prefix}-{kind}-v1")
        self.dedicated = dedicated


class VdsaParent(MdevParent):
    """An accelerator with queues of type mdev, and the devices that have one of them."""

    def __init__(self, idxd: IdxdDevice) -> None:
        self.idxd = idxd
        self.wqs: list[IdxdWq] = []
        self.users: dict[int, list[VdsaDevice]] = {}
        self.ims = ImsTable(idxd)

    def candidates(self, *, dedicated: bool) -> list[IdxdWq]:
        """The queues of a mode that take one more device: dedicated ones without a device, all shared ones."""
        on = [wq for wq in self.wqs if wq.dedicated == dedicated]
        return [wq for wq in on if not dedicated or (wq.state == WqState.ENABLED and not self.users[wq.id])]

    def pick(self, *, dedicated: bool) -> IdxdWq:
        """The one with the fewest devices. Raises ENODEV: there is none."""
        found = self.candidates(dedicated=dedicated)
        if not found:
            raise err(ENODEV, f"{self.idxd.name} has no free queue")
        return min(found, key=lambda wq: (len(self.users[wq.id]), wq.id))

    def host_error(self, wq: IdxdWq, words: list[int]) -> None:
        """SWERR of *wq*: whose PASID it is will hear of it."""
        for device in self.users[wq.id]:
            device.host_error(words)

    def take(self, wq: IdxdWq, device: VdsaDevice) -> None:
        """*device* has *wq*; a dedicated queue is off until the guest turns it on. Raises ENXIO."""
        if wq.dedicated:
            with wq.wq_lock:
                wq_disable(wq, reset_config=False)
                wq.state = WqState.LOCKED
        self.users[wq.id].append(device)

    def give(self, wq: IdxdWq, device: VdsaDevice) -> None:
        """Undo :meth:`take`."""
        self.users[wq.id].remove(device)
        if wq.dedicated and wq.state == WqState.LOCKED:
            with wq.wq_lock:
                wq.state = WqState.DISABLED
                try:
                    wq_enable(wq)
                except OSError as e:
                    wq.idxd.pdev.warn(f"Unable to re-enable wq {wq.name}: {e}")


class VdsaDriver(MdevDriver):
    """``struct mdev_driver idxd_vdcm_driver``."""

    device_api = VFIO_DEVICE_API_PCI_STRING

    def probe(self, mdev: MdevDevice, /) -> None:
        """A device on a free queue. Raises ENODEV: there is none; ENXIO, ENOSPC, ENOMEM."""
        from pykernel.drivers.vdsa.device import VdsaDevice  # many load the module, few make a device
        from pykernel.vfio.main import vfio_register_emulated_iommu_dev

        mtype: Any = mdev.mdev_type
        parent: VdsaParent = mtype.mdev_parent
        device = VdsaDevice(mdev, parent, parent.pick(dedicated=mtype.dedicated))
        mdev_set_iommu_device(mdev, parent.idxd.pdev)
        try:
            vfio_register_emulated_iommu_dev(device)
        except OSError:
            device.release()
            raise
        mdev.drvdata = device

    def remove(self, mdev: MdevDevice, /) -> None:
        """Waits until nobody has it open."""
        from pykernel.vfio.main import vfio_unregister_group_dev

        device: VdsaDevice = mdev.drvdata
        vfio_unregister_group_dev(device)
        device.release()

    def get_available(self, mtype: VdsaType, /) -> int:
        """Dedicated queues without a device; shared queues."""
        parent: Any = mtype.mdev_parent
        return len(parent.candidates(dedicated=mtype.dedicated))


class MdevWqDriver(Driver):
    """
    ``idxd_mdev_drv``: takes work queues for mediated devices.

    A shared queue has its character device, too: processes of the host and guests fill it together.
    """

    types = (DevType.WQ,)

    def probe(self, wq: IdxdWq) -> None:
        """
        Raises:
            ENXIO: the device is not enabled, or what drv_enable_wq() refuses. ENODEV: the type is not mdev, or
            driver_name. EOPNOTSUPP: no PASIDs.
        """
        idxd = wq.idxd
        if idxd.state != IdxdState.ENABLED:
            raise err(ENXIO, "the device is not enabled")
        if wq.wq_type != WqType.MDEV:
            raise err(ENODEV, f"{wq.name} is of another type")
        if not wq.driver_name_match(self.name):
            idxd.cmd_status = IDXD_SCMD_WQ_NO_DRV_NAME
            raise err(ENODEV, f"driver_name is {wq.driver_name!r}")
        if not idxd.user_pasid_on:
            idxd.cmd_status = IDXD_SCMD_WQ_USER_NO_IOMMU
            raise err(EOPNOTSUPP, "PASIDs tell the guests apart")
        with wq.wq_lock:
            self._enable(wq)
        idxd.cmd_status = 0

    def _enable(self, wq: IdxdWq) -> None:
        module: Any = self.module
        try:
            drv_enable_wq(wq)
        except OSError:
            wq.wq_type = WqType.NONE
            raise
        try:
            if wq.shared:
                add_cdev(wq)
            module.add_wq(wq)
        except OSError:
            if wq.idxd_cdev is not None:
                remove_cdev(wq)
            drv_disable_wq(wq)
            wq.wq_type = WqType.NONE
            raise

    def remove(self, wq: IdxdWq) -> None:
        """Its devices go first, each as soon as nobody has it open. Raises HungTask: it is as before."""
        module: Any = self.module
        module.remove_wq(wq)
        with wq.wq_lock:
            if wq.idxd_cdev is not None:
                remove_cdev(wq)
            drv_disable_wq(wq)
            wq.wq_type = WqType.NONE


class VdsaModule(Module):
    """VFIO based mediated device driver for the Intel Data Streaming Accelerator."""

    name_ = "vdsa"
    depends: ClassVar[tuple[str, ...]] = ("idxd", "mdev", "vfio")

    def init(self) -> None:
        """Raises EEXIST; ENOMEM by fault injection."""
        self.parents: dict[str, VdsaParent] = {}
        self.driver = VdsaDriver(self.kernel, "idxd_mdev", self)
        mdev_register_driver(self.driver)
        self.wq_driver = MdevWqDriver(self.kernel, "mdev", self.kernel.sub(DsaBus), self)
        try:
            self.wq_driver.register()
        except OSError:
            mdev_unregister_driver(self.driver)
            raise

    def exit(self) -> None:
        """The queues are let go first, with what was made of them."""
        self.wq_driver.unregister()
        mdev_unregister_driver(self.driver)

    def add_wq(self, wq: IdxdWq) -> None:
        """One more queue; with its first an accelerator becomes a parent. Raises ENOMEM."""
        idxd = wq.idxd
        parent = self.parents.get(idxd.name)
        if parent is None:
            parent = VdsaParent(idxd)
            types = [VdsaType(idxd, dedicated=True), VdsaType(idxd, dedicated=False)]
            with self.kernel.ledger.held(idxd.pdev.holder or self.kernel.ledger.kernel):  # not the queue's
                mdev_register_parent(parent, idxd.pdev, self.driver, types)
            self.parents[idxd.name] = parent
        parent.users[wq.id] = []
        parent.wqs.append(wq)
        wq.on_error = lambda words: parent.host_error(wq, words)

    def remove_wq(self, wq: IdxdWq) -> None:
        """
        Its devices go; with its last queue an accelerator is no parent any more.

        Raises:
            HungTask: nobody will close one of them; the queue takes devices as before.
        """
        parent = self.parents[wq.idxd.name]
        on_error, wq.on_error = wq.on_error, None
        parent.wqs.remove(wq)
        try:
            if not parent.wqs:
                mdev_unregister_parent(parent)
                del self.parents[wq.idxd.name]
            else:
                for device in list(parent.users[wq.id]):
                    mdev_device_remove(device.mdev)
        except HungTask:
            parent.wqs.append(wq)
            parent.wqs.sort(key=lambda wq: wq.id)
            wq.on_error = on_error
            raise
        del parent.users[wq.id]
