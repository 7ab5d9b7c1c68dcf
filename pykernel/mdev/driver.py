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
    """

    device_api: ClassVar[str] = ""
    max_instances = 0

    def __init__(self, kernel: Kernel, name: str, module: Any = None) -> None:
        super().__init__(kernel, name, kernel.sub(MdevBus), module)

    def probe(self, mdev: MdevDevice, /) -> None:
        """``int probe(struct mdev_device *)``. Raises an errno: the device is not made."""

    def remove(self, mdev: MdevDevice, /) -> None:
        """``void remove(struct mdev_device *)``."""

    def get_available(self, mtype: Any, /) -> int:
        """``unsigned int get_available(struct mdev_type *)``: how many of it are left. Without, the core counts."""
        raise NotImplementedError

    def show_description(self, mtype: Any, /) -> str:
        """``ssize_t show_description(struct mdev_type *, char *)``. Without, there is no file ``description``."""
        raise NotImplementedError

    def has(self, name: str) -> bool:
        """Whether the driver has the operation *name*: in C, whether its pointer is set."""
        return getattr(type(self), name) is not getattr(MdevDriver, name)


def mdev_register_driver(drv: MdevDriver) -> None:
    """C: ``int mdev_register_driver(struct mdev_driver *)``. Raises EINVAL: no device_api; as driver_register()."""
    if not drv.device_api:
        raise err(EINVAL, f"driver {drv.name} has no device_api")
    drv.register()


def mdev_unregister_driver(drv: MdevDriver) -> None:
    """C: ``void mdev_unregister_driver(struct mdev_driver *)``."""
    drv.unregister()
