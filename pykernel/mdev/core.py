"""
Parents and the devices that they make (drivers/vfio/mdev/mdev_core.c, the device's files of mdev_sysfs.c).

Two locks: ``list_lock`` of all devices (a UUID is there once, a device is active or not), and a parent's
``unreg_sem``, which who creates or removes tries to read and who unregisters the parent writes.
"""

from __future__ import annotations

from collections.abc import Sequence
from errno import EAGAIN, EEXIST, EINVAL, ENODEV, EUSERS
from typing import TYPE_CHECKING

from pykernel.base.core import Device
from pykernel.base.module import Module
from pykernel.errors import HungTask, err
from pykernel.fs.sysfs import AttrGroup, Kset, SysFs
from pykernel.lib.kstrtox import kstrtoul
from pykernel.lib.locking import Mutex
from pykernel.lib.rwsem import RwSemaphore
from pykernel.mdev.driver import MdevBus, MdevDriver
from pykernel.mdev.sysfs import MdevType, parent_create_sysfs_files, parent_remove_sysfs_files

if TYPE_CHECKING:
    from pykernel.kernel import Kernel

__all__ = [
    "MdevCore",
    "MdevDevice",
    "MdevModule",
    "MdevParent",
    "mdev_get_iommu_device",
    "mdev_register_parent",
    "mdev_set_iommu_device",
    "mdev_unregister_parent",
]


class MdevCore:
    """What the C file has for all parents: the devices by UUID, and /sys/class/mdev_bus."""

    def __init__(self, kernel: Kernel) -> None:
        self.list_lock = Mutex(kernel, "mdev_list_lock")
        self.devices: dict[str, MdevDevice] = {}
        self.compat_class = Kset(kernel, "mdev_bus", kernel.sub(SysFs).top["class"])


class MdevParent:
    """
    ``struct mdev_parent``: a device that makes others. Filled in by :func:`mdev_register_parent`.

    Attributes:
        available_instances: how many it makes yet, when its driver leaves the counting to the core.
    """

    dev: Device
    mdev_driver: MdevDriver
    types: Sequence[MdevType]
    unreg_sem: RwSemaphore
    types_kset: Kset
    available_instances: int

    def create(self, mtype: MdevType, uuid: str) -> None:
        """C: ``int mdev_device_create(struct mdev_type *, const guid_t *)``: as :func:`mdev_device_create`."""
        mdev_device_create(mtype, uuid)


class MdevDevice(Device):
    """
    ``struct mdev_device``: PARENT/UUID.

    Attributes:
        mdev_type: what it was made as.
        active: it is complete, and nobody has begun to remove it.
        iommu_device: whose IOMMU translates its DMA, by a PASID; None: a device without DMA of its own.
    """

    attrs = AttrGroup("remove")

    def __init__(self, mtype: MdevType, uuid: str) -> None:
        dev = mtype.mdev_parent.dev
        super().__init__(dev.kernel, uuid, parent=dev, bus=dev.kernel.sub(MdevBus))
        self.mdev_type = mtype
        self.uuid = uuid
        self.active = False
        self.iommu_device: Device | None = None

    def release(self) -> None:
        """mdev_device_release(): from now on the UUID is free."""
        parent = self.mdev_type.mdev_parent
        core = self.kernel.sub(MdevCore)
        with core.list_lock:
            del core.devices[self.uuid]
            if not parent.mdev_driver.has("get_available"):
                parent.available_instances += 1
        self.mdev_type.put()  # pairs with the get in mdev_device_create()

    def remove_store(self, buf: str) -> None:
        """
        remove_store(): any number but 0 removes the device; the file goes first, and does not come back.

        Raises:
            EINVAL: no number. Else as mdev_device_remove().
        """
        try:
            val = kstrtoul(buf, 0)
        except OSError as e:
            raise err(EINVAL, f"{buf!r} is no number") from e
        if val and self.remove_file_self("remove"):
            try:
                mdev_device_remove(self)
            except HungTask:
                self.create_file(next(attr for attr in self._tables[""] if attr.name == "remove"))
                raise

    def create_sysfs_files(self) -> None:
        """C: ``int mdev_create_sysfs_files(struct mdev_device *)``. Raises EEXIST; ENOMEM by faults."""
        self.kernel.faults.alloc("mdev_create_sysfs_files")
        devices = self.mdev_type.devices_kobj
        devices.create_link(self, self.name)
        try:
            self.create_link(self.mdev_type, "mdev_type")
        except OSError:
            devices.remove_link(self.name)
            raise

    def remove_common(self) -> None:
        """
        Wait until nobody has it open. C: ``void mdev_device_remove_common(struct mdev_device *)``.

        Raises HungTask: nobody will close it; it is there as before.
        """
        self.remove_link("mdev_type")
        self.mdev_type.devices_kobj.remove_link(self.name)
        try:
            self.unregister()
        except HungTask:
            self.create_sysfs_files()
            self.active = True
            raise


def mdev_set_iommu_device(mdev: MdevDevice, iommu_device: Device | None) -> None:
    """
    The driver of *mdev* says that its DMA is that of *iommu_device*, its parent, with a PASID of its own.

    C: ``int mdev_set_iommu_device(struct device *dev, struct device *iommu_device)``, of Linux 5.2 to 5.11
    """
    mdev.iommu_device = iommu_device


def mdev_get_iommu_device(dev: Device) -> Device | None:
    """C: ``struct device *mdev_get_iommu_device(struct device *dev)``; None for what is no such device."""
    return dev.iommu_device if isinstance(dev, MdevDevice) else None


def mdev_register_parent(parent: MdevParent, dev: Device, driver: MdevDriver, types: Sequence[MdevType]) -> None:
    """
    From now on *dev* makes devices of *types*, which *driver* takes.

    C: ``int mdev_register_parent(struct mdev_parent *, struct device *, struct mdev_driver *, struct mdev_type **,
    unsigned int)``.

    Raises:
        ENOMEM: it is one already; by fault injection. EEXIST: two types have one name.
    """
    parent.unreg_sem = RwSemaphore(dev.kernel, f"unreg_sem of {dev.name}")
    parent.dev, parent.mdev_driver, parent.types = dev, driver, types
    parent.available_instances = driver.max_instances
    parent.types_kset = parent_create_sysfs_files(parent)
    try:
        dev.kernel.sub(MdevCore).compat_class.create_link(dev, dev.name)
    except OSError:
        dev.warn("Failed to create compatibility class link")
    dev.kernel.ledger.take("mdev parent", parent, lambda: f"parent {dev.name} of mediated devices", dev)
    dev.info("MDEV: Registered")
    dev.send_uevent("change", {"MDEV_STATE": "registered"})


def mdev_unregister_parent(parent: MdevParent) -> None:
    """
    Remove its devices, each as soon as nobody has it open, and its types.

    C: ``void mdev_unregister_parent(struct mdev_parent *)``.

    Raises:
        HungTask: nobody will close one of them; it is a parent as before, of those that are left.
    """
    dev = parent.dev
    dev.info("MDEV: Unregistering")
    with parent.unreg_sem.write():
        compat = dev.kernel.sub(MdevCore).compat_class
        compat.remove_link(dev.name)
        for child in dev.children():
            if isinstance(child, MdevDevice):
                try:
                    child.remove_common()
                except HungTask:
                    compat.create_link(dev, dev.name)
                    raise
        parent_remove_sysfs_files(parent, parent.types_kset)
    dev.kernel.ledger.give("mdev parent", parent)
    dev.send_uevent("change", {"MDEV_STATE": "unregistered"})


def mdev_device_create(mtype: MdevType, uuid: str) -> None:
    """
    Make a device; with its driver and all its files when this returns.

    C: ``int mdev_device_create(struct mdev_type *, const guid_t *)``.

    Raises:
        EEXIST: there is one of this UUID.
        EUSERS: the parent has made as many as its driver's max_instances.
        ENOMEM: by fault injection.
        ENODEV: the parent is being unregistered.
        EAGAIN: the driver's probe was deferred; else what that says.
    """
    mdev = _new_device(mtype, uuid)
    parent = mtype.mdev_parent
    if not parent.unreg_sem.down_read_trylock():
        mdev.put()
        raise err(ENODEV, f"{parent.dev.name} is being unregistered")
    try:
        try:
            mdev.register()
        except OSError:
            mdev.put()
            raise
        try:
            parent.mdev_driver.attach(mdev)
            mdev.create_sysfs_files()
        except BaseException:
            mdev.unregister()
            raise
        mdev.active = True
        mdev.dbg("MDEV: created")
    finally:
        parent.unreg_sem.up_read()


def _new_device(mtype: MdevType, uuid: str) -> MdevDevice:
    parent, core = mtype.mdev_parent, mtype.kernel.sub(MdevCore)
    with core.list_lock:
        if uuid in core.devices:
            raise err(EEXIST, f"{uuid} is a device of {core.devices[uuid].mdev_type.mdev_parent.dev.name}")
        if not parent.mdev_driver.has("get_available"):
            if not parent.available_instances:
                raise err(EUSERS, f"{parent.dev.name} has made its {parent.mdev_driver.max_instances} devices")
            parent.available_instances -= 1
        mtype.kernel.faults.alloc("mdev_device")  # Linux does not add to available_instances what it took off
        mdev = core.devices[uuid] = MdevDevice(mtype, uuid)
        mtype.get()  # pairs with the put in MdevDevice.release()
    return mdev


def mdev_device_remove(mdev: MdevDevice) -> None:
    """
    C: ``int mdev_device_remove(struct mdev_device *)``.

    Raises:
        ENODEV: it is no device any more, or its parent is being unregistered.
        EAGAIN: it is not complete, or somebody else removes it.
    """
    core, parent = mdev.kernel.sub(MdevCore), mdev.mdev_type.mdev_parent
    with core.list_lock:
        if core.devices.get(mdev.uuid) is not mdev:
            raise err(ENODEV)
        if not mdev.active:
            raise err(EAGAIN)
        mdev.active = False
    if not parent.unreg_sem.down_read_trylock():
        raise err(ENODEV, f"{parent.dev.name} is being unregistered")
    try:
        mdev.remove_common()
    finally:
        parent.unreg_sem.up_read()


class MdevModule(Module):
    """Mediated device Core Driver."""

    name_ = "mdev"
    version = "0.1"

    def init(self) -> None:
        """mdev_init(): the bus, and the class of old. Raises EEXIST; ENOMEM by fault injection."""
        bus, compat = self.kernel.sub(MdevBus), self.kernel.sub(MdevCore).compat_class
        bus.register()
        try:
            self.kernel.faults.alloc("class_compat_register mdev_bus")
            compat.add()
        except OSError:
            bus.unregister()
            raise

    def exit(self) -> None:
        """mdev_exit()."""
        self.kernel.sub(MdevCore).compat_class.delete()
        self.kernel.sub(MdevBus).unregister()
