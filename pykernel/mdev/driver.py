"""The bus of mediated devices and its drivers (drivers/vfio/mdev/mdev_driver.c)."""

from __future__ import annotations

from errno import EINVAL
from typing import TYPE_CHECKING, Any, ClassVar

from pykernel.base.bus import Bus, Driver
from pykernel.errors import err

if TYPE_CHECKING:
    from pykernel.base.core import Device
    from pykernel.kernel import Kernel
    from pykernel.mdev.core import MdevDevice
    from pykernel.mdev.sysfs import MdevType

__all__ = ["MdevBus", "MdevDriver", "mdev_register_driver", "mdev_unregister_driver"]


class MdevBus(Bus):
    """``mdev_bus_type``: /sys/bus/mdev."""

    def __init__(self, kernel: Kernel) -> None:
        super().__init__(kernel, "mdev")

    def match(self, dev: Device, drv: Driver) -> bool:
        """mdev_match(): never; a parent attaches its driver to what it made."""
        return False


class MdevDriver(Driver):
    """
    ``struct mdev_driver``. Subclasses give probe(), remove(), and what differs.

    Attributes:
        device_api: what the type's file of this name says, "vfio-pci".
        max_instances: how many a parent makes; nobody asks when there is a get_available().
        get_available: how many of a type can be made yet; None: the core counts.
        show_description: the text of the type's file ``description``; None: there is no such file.
    """

    device_api: ClassVar[str] = ""
    max_instances = 0
    get_available: ClassVar[Any] = None
    """C: ``unsigned int get_available(struct mdev_type *)``: a method, called with the type."""
    show_description: ClassVar[Any] = None
    """C: ``ssize_t show_description(struct mdev_type *, char *)``: a method, called with the type."""

    def __init__(self, kernel: Kernel, name: str, module: Any = None) -> None:
        super().__init__(kernel, name, kernel.sub(MdevBus), module)

    def probe(self, mdev: MdevDevice, /) -> None:
        """``int probe(struct mdev_device *)``. Raises an errno: the device is not made."""

    def remove(self, mdev: MdevDevice, /) -> None:
        """``void remove(struct mdev_device *)``."""

    def available(self, type_: MdevType) -> int | None:
        """What get_available() says; None: the driver has none."""
        return None if self.get_available is None else self.get_available(type_)


def mdev_register_driver(drv: MdevDriver) -> None:
    """C: ``int mdev_register_driver(struct mdev_driver *)``. Raises EINVAL: no device_api; as driver_register()."""
    if not drv.device_api:
        raise err(EINVAL, f"driver {drv.name} has no device_api")
    drv.register()


def mdev_unregister_driver(drv: MdevDriver) -> None:
    """C: ``void mdev_unregister_driver(struct mdev_driver *)``."""
    drv.unregister()
