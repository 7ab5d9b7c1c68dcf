"""
The parents of Linux 4.10 to 5.18: ``struct mdev_parent_ops`` (include/linux/mdev.h), on top of those of today.

A vendor fills in a table: what to call when a device is made and removed, opened, read and written; attribute groups of
the parent, of its devices and of its types. A type has what its group has and no more: ``name``, ``device_api``,
``available_instances`` and ``description`` are the vendor's to write, or to leave out. Who calls open() and what is
behind it is a bus driver's business: an :class:`OpsDriver`, ``vfio_mdev`` unless the table names another.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from errno import EEXIST, EINVAL, ENODEV
from typing import TYPE_CHECKING

from pykernel.base.core import Device
from pykernel.errors import call_void, err
from pykernel.fs.sysfs import Attribute
from pykernel.mdev.core import MdevDevice, MdevParent, mdev_register_parent, mdev_unregister_parent
from pykernel.mdev.driver import MdevBus, MdevDriver
from pykernel.mdev.sysfs import MdevType

if TYPE_CHECKING:
    from pykernel.kernel import Kernel
    from pykernel.mm.vma import Vma

__all__ = [
    "MdevParentOps",
    "OpsDriver",
    "OpsType",
    "mdev_get_type_group_id",
    "mdev_register_device",
    "mdev_unregister_device",
    "mtype_get_type_group_id",
    "ops_of",
]

Groups = Mapping[str, tuple[Attribute, ...]]
"""Attribute groups by name; "" is none: the files are in the directory itself."""


@dataclass(eq=False)
class MdevParentOps:
    """
    ``struct mdev_parent_ops``; None is an operation that the vendor has not.

    Attributes:
        create: ``int create(struct kobject *, struct mdev_device *)``: called with the type and the device.
        remove: ``int remove(struct mdev_device *)``; of what it raises nothing is left but a message.
        supported_type_groups: the types: their short names and files. A show function gets the type.
        mdev_attr_groups: files of each device.
        dev_attr_groups: files of the parent.
        device_driver: the bus driver, from Linux 5.13 on; None is ``vfio_mdev``.
    """

    create: Callable[[OpsType, MdevDevice], None] | None = None
    remove: Callable[[MdevDevice], None] | None = None
    supported_type_groups: Groups = field(default_factory=dict)
    mdev_attr_groups: Groups = field(default_factory=dict)
    dev_attr_groups: Groups = field(default_factory=dict)
    open: Callable[[MdevDevice], None] | None = None
    release: Callable[[MdevDevice], None] | None = None
    read: Callable[[MdevDevice, int, int], bytes] | None = None
    write: Callable[[MdevDevice, bytes, int], int] | None = None
    ioctl: Callable[[MdevDevice, int, int], int] | None = None
    mmap: Callable[[MdevDevice, Vma], None] | None = None
    device_driver: OpsDriver | None = None


class OpsType(MdevType):
    """A type that has ``create`` and the files of its group."""

    def __init__(self, group_id: int, name: str, group: tuple[Attribute, ...]) -> None:
        super().__init__(name)
        self.group_id = group_id
        self.group = group

    def attr_is_visible(self, name: str) -> bool:
        """The others are the vendor's."""
        return name == "create"

    def add(self) -> None:
        """The directory. Raises EEXIST: the group has a file ``create``, or one twice."""
        super().add()
        try:
            self.create_group("", self.group)
        except OSError:
            self.delete()
            raise


class OpsParent(MdevParent):
    """A parent with its table."""

    def __init__(self, ops: MdevParentOps) -> None:
        self.ops = ops


class OpsParents:
    """The parents of one kernel that have a table, by their device."""

    def __init__(self, kernel: Kernel) -> None:
        self.parents: dict[Device, OpsParent] = {}


class OpsDriver(MdevDriver):
    """
    A bus driver for the devices of such parents. Subclasses give mdev_probe() and mdev_remove().

    The vendor's create() comes before the one, its remove() after the other.
    """

    device_api = "ops"  # which no file says

    def mdev_probe(self, mdev: MdevDevice) -> None:
        """``mdev_driver.probe``. Raises an errno: the device is not made."""

    def mdev_remove(self, mdev: MdevDevice) -> None:
        """``mdev_driver.remove``."""

    def probe(self, mdev: MdevDevice, /) -> None:
        """mdev_device_create() of Linux 5.2 to 5.18. Raises what create() and mdev_probe() do, EEXIST."""
        ops, mtype = ops_of(mdev), mdev.mdev_type
        assert isinstance(mtype, OpsType)
        assert ops.create is not None
        call_void(ops.create, mtype, mdev)
        made: list[str] = []
        try:
            for name, attrs in ops.mdev_attr_groups.items():
                mdev.create_group(name, attrs)
                made.append(name)
            self.mdev_probe(mdev)
        except OSError:
            self._undo(mdev, made)
            raise

    def remove(self, mdev: MdevDevice, /) -> None:
        """mdev_device_remove_common() of Linux 5.2 to 5.18."""
        self.mdev_remove(mdev)
        self._undo(mdev, list(ops_of(mdev).mdev_attr_groups))

    def _undo(self, mdev: MdevDevice, made: list[str]) -> None:
        ops = ops_of(mdev)
        for name in made:
            mdev.remove_group(name, ops.mdev_attr_groups[name])
        assert ops.remove is not None
        try:
            ops.remove(mdev)
        except OSError as e:
            mdev.err(f"Remove failed: err=-{e.errno}")

    def get_available(self, mtype: MdevType, /) -> int:
        """The core does not count: create() says when there are enough."""
        return 0


def ops_of(mdev: MdevDevice) -> MdevParentOps:
    """The table of the parent that made it."""
    parent = mdev.mdev_type.mdev_parent
    assert isinstance(parent, OpsParent)
    return parent.ops


def mdev_get_type_group_id(mdev: MdevDevice) -> int:
    """C: ``unsigned int mdev_get_type_group_id(struct mdev_device *)``: which of supported_type_groups."""
    return mtype_get_type_group_id(mdev.mdev_type)


def mtype_get_type_group_id(mtype: MdevType) -> int:
    """C: ``unsigned int mtype_get_type_group_id(struct mdev_type *)``: which of supported_type_groups."""
    assert isinstance(mtype, OpsType)
    return mtype.group_id


def mdev_register_device(dev: Device, ops: MdevParentOps) -> None:
    """
    From now on *dev* makes devices.

    C: ``int mdev_register_device(struct device *, const struct mdev_parent_ops *)``.

    Raises:
        EINVAL: no create, no remove or no types. EEXIST: it does already. ENODEV: no bus driver, ``vfio_mdev`` if the
        table names none, is loaded.
    """
    if ops.create is None or ops.remove is None or not ops.supported_type_groups:
        raise err(EINVAL, "create, remove and supported_type_groups are what a parent must have")
    parents = dev.kernel.sub(OpsParents).parents
    if dev in parents:
        raise err(EEXIST, f"{dev.name} is a parent already")
    driver = ops.device_driver or dev.kernel.sub(MdevBus).drivers.get("vfio_mdev")
    if not isinstance(driver, OpsDriver):
        raise err(ENODEV, "the module vfio_mdev is not loaded")
    parent = OpsParent(ops)
    types = [OpsType(n, name, group) for n, (name, group) in enumerate(ops.supported_type_groups.items())]
    made: list[str] = []
    try:
        for name, attrs in ops.dev_attr_groups.items():
            dev.create_group(name, attrs)
            made.append(name)
        mdev_register_parent(parent, dev, driver, types)
    except OSError:
        for name in made:
            dev.remove_group(name, ops.dev_attr_groups[name])
        raise
    parents[dev] = parent


def mdev_unregister_device(dev: Device) -> None:
    """C: ``void mdev_unregister_device(struct device *)``; a device that is no parent is forgiven."""
    parent = dev.kernel.sub(OpsParents).parents.pop(dev, None)
    if parent is None:
        return
    mdev_unregister_parent(parent)
    for name, attrs in parent.ops.dev_attr_groups.items():
        dev.remove_group(name, attrs)
