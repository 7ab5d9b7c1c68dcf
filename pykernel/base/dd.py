"""Binding drivers to devices (drivers/base/dd.c)."""

from __future__ import annotations

from errno import EAGAIN, EBUSY, ENODEV, ENXIO
from typing import TYPE_CHECKING

from pykernel.errors import EPROBE_DEFER, err
from pykernel.log import ERR, WARNING

if TYPE_CHECKING:
    from pykernel.base.bus import Driver
    from pykernel.base.core import Device
    from pykernel.kernel import Kernel

__all__ = ["DeferredProbe", "device_attach", "device_driver_attach", "device_release_driver", "driver_attach"]


class DeferredProbe:
    """Devices whose driver said EPROBE_DEFER; tried again after each successful probe."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.pending: list[Device] = []
        self.queued = False

    def add(self, dev: Device) -> None:
        """C: ``driver_deferred_probe_add()``."""
        if dev not in self.pending:
            self.pending.append(dev)

    def remove(self, dev: Device) -> None:
        """C: ``driver_deferred_probe_del()``."""
        if dev in self.pending:
            self.pending.remove(dev)

    def trigger(self) -> None:
        """C: ``driver_deferred_probe_trigger()``."""
        if self.pending and not self.queued:
            self.queued = True
            self.kernel.sched.call_soon(self._work)

    def _work(self) -> None:
        self.queued = False
        todo, self.pending = self.pending, []
        for dev in todo:
            if dev.registered and dev.driver is None:
                device_attach(dev)


def really_probe(dev: Device, drv: Driver) -> None:
    """
    drivers/base/dd.c:really_probe().

    Raises:
        The errno of the driver's probe; ENODEV for a device that goes; EBUSY for one that is bound.
    """
    if dev.dead or not dev.registered:
        raise err(ENODEV)
    if dev.driver is not None:
        raise err(EBUSY, f"{dev.name} is bound to {dev.driver.name}")
    dev.driver = drv
    drv.create_link(dev, dev.name)
    dev.create_link(drv, "driver")
    try:
        drv.bus.probe(dev)
    except OSError as e:
        _unlink(dev, drv)
        _failed(dev, drv, e.errno or ENODEV)
        raise
    except BaseException:
        _unlink(dev, drv)
        raise
    drv.devices.append(dev)
    if drv.module is not None:
        drv.module.use_by_binding(dev)
    deferred = dev.kernel.sub(DeferredProbe)
    deferred.remove(dev)
    deferred.trigger()
    dev.send_uevent("bind")


def _unlink(dev: Device, drv: Driver) -> None:
    drv.remove_link(dev.name)
    dev.remove_link("driver")
    dev.driver = None
    dev.drvdata = None


def _failed(dev: Device, drv: Driver, code: int) -> None:
    # drivers/base/dd.c:call_driver_probe()
    if code in (ENODEV, ENXIO):
        dev.dbg(f"probe with driver {drv.name} rejects match {-code}")
    elif code == EPROBE_DEFER:
        dev.dbg(f"Driver {drv.name} requests probe deferral")
        dev.kernel.sub(DeferredProbe).add(dev)
    elif dev.kernel.profile.probe_failure_dev_err:
        dev.driver = drv  # the message is made before the device loses its driver again
        dev.err(f"probe with driver {drv.name} failed with error {-code}")
        dev.driver = None
    else:
        dev.kernel.log.printk(WARNING, f"{drv.name}: probe of {dev.name} failed with error {-code}")


def device_driver_attach(drv: Driver, dev: Device) -> None:
    """
    C: ``int device_driver_attach(struct device_driver *, struct device *)``.

    Raises:
        EAGAIN: the driver deferred. Else as :func:`really_probe`.
    """
    try:
        really_probe(dev, drv)
    except OSError as e:
        if e.errno == EPROBE_DEFER:
            raise err(EAGAIN, "probe deferred") from e
        raise


def device_attach(dev: Device) -> bool:
    """
    Try the bus's drivers in order of registration. C: ``int device_attach(struct device *)``.

    Returns:
        True when a driver took the device; a probe that fails is no error here.
    """
    if dev.driver is not None:
        return True
    assert dev.bus is not None
    bus = dev.bus
    return any(bus.match(dev, drv) and _try(dev, drv) for drv in list(bus.drivers.values()))


def driver_attach(drv: Driver) -> None:
    """Try the driver on every device of its bus. C: ``int driver_attach(struct device_driver *)``."""
    for dev in list(drv.bus.devices.values()):
        if dev.driver is None and drv.bus.match(dev, drv):
            _try(dev, drv)


def _try(dev: Device, drv: Driver) -> bool:
    try:
        really_probe(dev, drv)
    except OSError:
        return False
    except Exception as e:
        dev.kernel.oops(e)
        dev.kernel.log.printk(ERR, f"{drv.name}: probe of {dev.name} oopsed")
        return False
    return True


def device_release_driver(dev: Device) -> None:
    """C: ``void device_release_driver(struct device *)``."""
    drv = dev.driver
    if drv is None:
        return
    drv.remove_link(dev.name)
    dev.remove_link("driver")
    try:
        drv.bus.remove(dev)
    except OSError as e:
        dev.kernel.oops(e)  # remove() returns void: an errno from it is a bug
    if drv.module is not None:
        drv.module.unuse_by_binding(dev)
    dev.driver = None
    dev.drvdata = None
    if dev in drv.devices:
        drv.devices.remove(dev)
    dev.send_uevent("unbind")
