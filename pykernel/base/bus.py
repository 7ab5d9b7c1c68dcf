"""
Buses and drivers (drivers/base/bus.c, driver.c): their directories, bind, unbind, drivers_probe, drivers_autoprobe.
"""

from __future__ import annotations

from errno import EBUSY, EINVAL, ENODEV
from typing import TYPE_CHECKING, Any, ClassVar

from pykernel.base import dd
from pykernel.base.uevent import Uevents, kobject_synth_uevent
from pykernel.errors import HungTask, call_void, err
from pykernel.fs.sysfs import AttrGroup, Attribute, Kobject, Kset, SysFs
from pykernel.lib.ledger import place_of
from pykernel.lib.notifier import Notifier, NotifierBlock, NotifierFlavour
from pykernel.log import ERR

if TYPE_CHECKING:
    from pykernel.base.core import Device
    from pykernel.kernel import Kernel

__all__ = ["Bus", "Driver"]


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
        self.notifier = Notifier(NotifierFlavour.BLOCKING, point=kernel.sched.point)

        self.notifier.joined = lambda nb: kernel.ledger.take("notifier", nb, lambda: self._notifier(nb))
        self.notifier.left = lambda nb: kernel.ledger.give("notifier", nb)

    def _notifier(self, nb: NotifierBlock) -> str:
        return f"notifier {place_of(nb.notifier_call)} of bus {self.name}"

    # ---- what a bus decides

    def match(self, dev: Device, drv: Driver) -> bool:
        """``bus_type.match``."""
        return True

    def uevent(self, dev: Device, env: dict[str, str]) -> None:
        """``bus_type.uevent``: add variables."""

    def dma_configure(self, dev: Device) -> None:
        """``bus_type.dma_configure``: before the probe of dev.driver. Raises an errno: it may not do DMA."""

    def dma_cleanup(self, dev: Device) -> None:
        """``bus_type.dma_cleanup``: dev.driver leaves the device."""

    def probe(self, dev: Device) -> None:
        """``bus_type.probe``. Raises the driver's errno."""
        assert dev.driver is not None
        call_void(dev.driver.probe, dev)

    def remove(self, dev: Device) -> None:
        """``bus_type.remove``."""
        assert dev.driver is not None
        dev.driver.remove(dev)

    # ---- life

    def register(self) -> None:
        """C: ``int bus_register(struct bus_type *)``. Raises EEXIST."""
        self.add()
        self.kernel.ledger.take("bus", self, lambda: f"bus {self.name}")
        self.kernel.sub(Uevents).send(self, "add", {"SUBSYSTEM": "bus"})
        self.devices_dir.add()
        self.drivers_dir.add()

    def unregister(self) -> None:
        """C: ``void bus_unregister(struct bus_type *)``."""
        self.kernel.sub(Uevents).send(self, "remove", {"SUBSYSTEM": "bus"})
        self.kernel.ledger.give("bus", self)
        self.delete()

    def notify(self, event: int, dev: Device) -> None:
        """C: ``void bus_notify(struct device *, enum bus_notifier_event)``."""
        self.notifier.call_chain(event, dev)

    def add_device(self, dev: Device) -> None:
        """C: ``int bus_add_device(struct device *)``. Raises EEXIST."""
        self.devices_dir.create_link(dev, dev.name)
        try:
            dev.create_link(self, "subsystem")
        except OSError:
            self.devices_dir.remove_link(dev.name)
            raise
        self.devices[dev.name] = dev

    def remove_device(self, dev: Device) -> None:
        """C: ``void bus_remove_device(struct device *)``: unbinds it. Raises HungTask: it is there as before."""
        dev.remove_link("subsystem")
        self.devices_dir.remove_link(dev.name)
        del self.devices[dev.name]
        try:
            dd.device_release_driver(dev)
        except HungTask:
            self.add_device(dev)
            raise

    def probe_device(self, dev: Device) -> None:
        """C: ``void bus_probe_device(struct device *)``: nothing that goes wrong is an error here."""
        if self.autoprobe:
            try:
                dd.device_attach(dev)
            except OSError as e:
                dev.dbg(f"bus_probe_device: {e}")

    def find_device_by_name(self, name: str) -> Device | None:
        """C: ``bus_find_device_by_name()``: one trailing newline is forgiven."""
        return self.devices.get(name.removesuffix("\n"))

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
        kobject_synth_uevent(self, buf, self._send)

    def _send(self, action: str, env: dict[str, str]) -> None:
        self.kernel.sub(Uevents).send(self, action, {"SUBSYSTEM": "bus", **env})


class Driver(Kobject):
    """
    ``struct device_driver``. Subclasses give probe() and remove().

    ``attrs`` are files of the driver; ``dev_attrs`` and ``dev_groups`` (by sub-directory) are files that a device has
    while it is bound. With ``driver_managed_dma`` it takes devices whose IOMMU group user space owns.
    """

    attrs = AttrGroup("uevent", "unbind", "bind")
    dev_attrs: ClassVar[tuple[Attribute, ...]] = ()
    dev_groups: ClassVar[dict[str, tuple[Attribute, ...]]] = {}
    suppress_bind_attrs = False
    driver_managed_dma = False

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
            ENOMEM: by fault injection.
        """
        if self.name in self.bus.drivers:
            self.kernel.log.printk(ERR, f"Error: Driver '{self.name}' is already registered, aborting...")
            raise err(EBUSY)
        self.kernel.faults.alloc("driver_register")
        self.add()
        self.kernel.ledger.take("driver", self, lambda: f"driver {self.name} of bus {self.bus.name}")
        self.bus.drivers[self.name] = self
        if self.bus.autoprobe:
            dd.driver_attach(self)
        if self.module is not None:
            self.module.add_driver(self)
        self.kernel.sub(Uevents).send(self, "add", {"SUBSYSTEM": "drivers"})

    def unregister(self) -> None:
        """C: ``void driver_unregister(struct device_driver *)``: unbinds its devices, last bound first."""
        del self.bus.drivers[self.name]
        self.kernel.ledger.give("driver", self)
        for dev in reversed(list(self.devices)):
            dd.device_release_driver(dev, self)
        if self.module is not None:
            self.module.remove_driver(self)
        self.kernel.sub(Uevents).send(self, "remove", {"SUBSYSTEM": "drivers"})
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
        kobject_synth_uevent(self, buf, self._send)

    def _send(self, action: str, env: dict[str, str]) -> None:
        self.kernel.sub(Uevents).send(self, action, {"SUBSYSTEM": "drivers", **env})

    def attach(self, dev: Device) -> None:
        """
        C: ``int device_driver_attach(struct device_driver *, struct device *)``.

        Raises ENODEV, EBUSY, EAGAIN, ...
        """
        dd.device_driver_attach(self, dev)
