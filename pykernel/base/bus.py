"""
Buses and drivers (drivers/base/bus.c, driver.c): their directories, bind, unbind, drivers_probe, drivers_autoprobe.
"""

from __future__ import annotations

from errno import EBUSY, EINVAL, ENODEV
from typing import TYPE_CHECKING, Any

from pykernel.base import dd
from pykernel.base.uevent import Uevents, kobject_synth_uevent
from pykernel.errors import err
from pykernel.fs.sysfs import AttrGroup, Kobject, Kset, SysFs
from pykernel.lib.notifier import Notifier, NotifierFlavour
from pykernel.lib.string import sysfs_streq

if TYPE_CHECKING:
    from pykernel.base.core import Device
    from pykernel.kernel import Kernel

__all__ = ["BUS_NOTIFY_ADD_DEVICE", "BUS_NOTIFY_REMOVED_DEVICE", "Bus", "Driver"]

# include/linux/device/bus.h:enum bus_notifier_event
BUS_NOTIFY_ADD_DEVICE, BUS_NOTIFY_DEL_DEVICE, BUS_NOTIFY_REMOVED_DEVICE = 0, 1, 2


class Bus(Kset):
    """``struct bus_type``. Subclasses give match() and, where they differ, uevent(), probe() and remove()."""

    attrs = AttrGroup("drivers_probe", "drivers_autoprobe", "uevent")

    def __init__(self, kernel: Kernel, name: str) -> None:
        super().__init__(kernel, name, kernel.sub(SysFs).top["bus"])
        self.devices: dict[str, Device] = {}
        self.drivers: dict[str, Driver] = {}
        self.autoprobe = True
        self.devices_dir = Kset(kernel, "devices", self)
        self.drivers_dir = Kset(kernel, "drivers", self)
        self.notifier = Notifier(NotifierFlavour.BLOCKING)

    # ---- what a bus decides

    def match(self, dev: Device, drv: Driver) -> bool:
        """``bus_type.match``."""
        return True

    def uevent(self, dev: Device, env: dict[str, str]) -> None:
        """``bus_type.uevent``: add variables."""

    def probe(self, dev: Device) -> None:
        """``bus_type.probe``. Raises the driver's errno."""
        assert dev.driver is not None
        dev.driver.probe(dev)

    def remove(self, dev: Device) -> None:
        """``bus_type.remove``."""
        assert dev.driver is not None
        dev.driver.remove(dev)

    # ---- life

    def register(self) -> None:
        """C: ``int bus_register(struct bus_type *)``. Raises EEXIST."""
        self.add()
        self.devices_dir.add()
        self.drivers_dir.add()

    def unregister(self) -> None:
        """C: ``void bus_unregister(struct bus_type *)``."""
        self.delete()

    def add_device(self, dev: Device) -> None:
        """C: ``int bus_add_device(struct device *)``. Raises EEXIST."""
        self.devices_dir.create_link(dev, dev.name)
        dev.create_link(self, "subsystem")
        self.devices[dev.name] = dev
        self.notifier.call_chain(BUS_NOTIFY_ADD_DEVICE, dev)

    def remove_device(self, dev: Device) -> None:
        """C: ``void bus_remove_device(struct device *)``: unbinds first."""
        dev.remove_link("subsystem")
        self.devices_dir.remove_link(dev.name)
        self.devices.pop(dev.name, None)
        dd.device_release_driver(dev)
        self.notifier.call_chain(BUS_NOTIFY_REMOVED_DEVICE, dev)

    def probe_device(self, dev: Device) -> None:
        """C: ``void bus_probe_device(struct device *)``."""
        if self.autoprobe:
            dd.device_attach(dev)

    def find_device_by_name(self, name: str) -> Device | None:
        """C: ``bus_find_device_by_name()``: one trailing newline is forgiven."""
        dev = self.devices.get(name.removesuffix("\n"))
        return dev if dev is not None and sysfs_streq(dev.name, name) else None

    # ---- files

    def drivers_probe_store(self, buf: str) -> None:
        """drivers/base/bus.c:drivers_probe_store(). Raises ENODEV, EINVAL."""
        dev = self.find_device_by_name(buf)
        if dev is None:
            raise err(ENODEV, f"no device {buf!r} on bus {self.name}")
        if dev.driver is None:
            try:
                dd.device_attach(dev)
            except OSError as e:
                raise err(EINVAL) from e

    def drivers_autoprobe_show(self) -> str:
        """drivers/base/bus.c:drivers_autoprobe_show()."""
        return f"{int(self.autoprobe)}\n"

    def drivers_autoprobe_store(self, buf: str) -> None:
        """drivers/base/bus.c:drivers_autoprobe_store(): anything but '0...' is on."""
        self.autoprobe = not buf.startswith("0")

    def uevent_store(self, buf: str) -> None:
        """drivers/base/bus.c:bus_uevent_store(). Raises EINVAL."""
        kobject_synth_uevent(self, buf, lambda action, env: self.kernel.sub(Uevents).send(self, action, env))


class Driver(Kobject):
    """``struct device_driver``. Subclasses give probe() and remove()."""

    attrs = AttrGroup("uevent", "unbind", "bind")
    suppress_bind_attrs = False

    def __init__(self, kernel: Kernel, name: str, bus: Bus, module: Any = None) -> None:
        super().__init__(kernel, name, bus.drivers_dir)
        self.bus = bus
        self.module = module
        self.devices: list[Device] = []

    def probe(self, dev: Any, /) -> None:
        """``device_driver.probe``. Raises an errno; EPROBE_DEFER asks to be tried later."""

    def remove(self, dev: Any, /) -> None:
        """``device_driver.remove``."""

    def attr_is_visible(self, name: str) -> bool:
        """bind and unbind are not there with suppress_bind_attrs."""
        return name == "uevent" or not self.suppress_bind_attrs

    def register(self) -> None:
        """
        C: ``int driver_register(struct device_driver *)``.

        Raises:
            EBUSY: the bus has a driver of this name.
        """
        if self.name in self.bus.drivers:
            self.kernel.log.printk(3, f"Error: Driver '{self.name}' is already registered, aborting...")
            raise err(EBUSY)
        self.add()
        self.bus.drivers[self.name] = self
        if self.module is not None:
            self.module.add_driver(self)
        if self.bus.autoprobe:
            dd.driver_attach(self)
        if self.kernel.sub(Uevents).listeners:
            self.kernel.sub(Uevents).send(self, "add", {"SUBSYSTEM": "drivers"})

    def unregister(self) -> None:
        """C: ``void driver_unregister(struct device_driver *)``: unbinds its devices, last bound first."""
        for dev in reversed(list(self.devices)):
            dd.device_release_driver(dev)
        self.bus.drivers.pop(self.name, None)
        if self.module is not None:
            self.module.remove_driver(self)
        self.delete()

    # ---- files

    def bind_store(self, buf: str) -> None:
        """drivers/base/bus.c:bind_store(). Raises ENODEV, EBUSY, the probe's errno, EAGAIN for a deferred one."""
        dev = self.bus.find_device_by_name(buf)
        if dev is None or not self.bus.match(dev, self):
            raise err(ENODEV, f"driver {self.name} does not take {buf!r}")
        self.attach(dev)

    def unbind_store(self, buf: str) -> None:
        """drivers/base/bus.c:unbind_store(). Raises ENODEV."""
        dev = self.bus.find_device_by_name(buf)
        if dev is None or dev.driver is not self:
            raise err(ENODEV, f"{buf!r} is not bound to {self.name}")
        dd.device_release_driver(dev)

    def uevent_store(self, buf: str) -> None:
        """drivers/base/bus.c:uevent_store(). Raises EINVAL."""
        kobject_synth_uevent(self, buf, lambda action, env: self.kernel.sub(Uevents).send(self, action, env))

    def attach(self, dev: Device) -> None:
        """
        C: ``int device_driver_attach(struct device_driver *, struct device *)``.

        Raises ENODEV, EBUSY, EAGAIN, ...
        """
        dd.device_driver_attach(self, dev)
