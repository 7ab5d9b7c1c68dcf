"""Binding drivers to devices (drivers/base/dd.c)."""

from __future__ import annotations

from errno import EAGAIN, EBUSY, ENODEV, ENXIO
from typing import TYPE_CHECKING

from pykernel.base.notify import (
    BUS_NOTIFY_BIND_DRIVER,
    BUS_NOTIFY_BOUND_DRIVER,
    BUS_NOTIFY_DRIVER_NOT_BOUND,
    BUS_NOTIFY_UNBIND_DRIVER,
    BUS_NOTIFY_UNBOUND_DRIVER,
)
from pykernel.errors import EPROBE_DEFER, HungTask, err, is_bug
from pykernel.lib.ledger import Holder
from pykernel.log import ERR, WARNING

if TYPE_CHECKING:
    from pykernel.base.bus import Driver
    from pykernel.base.core import Device
    from pykernel.fs.sysfs import Attribute
    from pykernel.kernel import Kernel

__all__ = ["DeferredProbe", "device_attach", "device_driver_attach", "device_release_driver", "driver_attach"]


class DeferredProbe:
    """
    Devices whose driver said EPROBE_DEFER.

    They wait in ``pending`` until some probe succeeds, which moves them to ``active``; the work item tries those.
    """

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.pending: list[Device] = []
        self.active: list[Device] = []
        self.triggers = 0

    def add(self, dev: Device) -> None:
        """C: ``driver_deferred_probe_add()``."""
        if dev not in self.pending and dev not in self.active:
            self.pending.append(dev)

    def remove(self, dev: Device) -> None:
        """C: ``driver_deferred_probe_del()``."""
        for devices in (self.pending, self.active):
            if dev in devices:
                devices.remove(dev)

    def trigger(self) -> None:
        """C: ``driver_deferred_probe_trigger()``."""
        self.triggers += 1
        if self.pending:
            self.active += self.pending
            self.pending.clear()
            self.kernel.sched.schedule_work(self._work)

    def _work(self) -> None:
        # drivers/base/dd.c:deferred_probe_work_func()
        while self.active:
            dev = self.active.pop(0)
            dev.dbg("Retrying from deferred list")
            if dev.bus is not None:
                dev.bus.probe_device(dev)


def really_probe(dev: Device, drv: Driver) -> OSError | None:
    """
    drivers/base/dd.c:__driver_probe_device(), really_probe().

    Returns:
        What the driver's probe raised, or None: it took the device. (C returns it as a positive number.)

    Raises:
        ENODEV: the device is going. EBUSY: it is bound, or its DMA is user space's. EEXIST: a file of the driver's has
            the name of another.
    """
    if dev.dead or not dev.registered:
        raise err(ENODEV)
    if dev.driver is not None:
        raise err(EBUSY, f"{dev.name} is bound to {dev.driver.name}")
    dev.driver = drv
    dev.holder = Holder(f"driver {drv.name} on {dev.name}")
    try:
        drv.bus.dma_configure(dev)
    except OSError:
        _unbound(dev)
        raise
    drv.bus.notify(BUS_NOTIFY_BIND_DRIVER, dev)
    try:
        with dev.kernel.ledger.held(dev.holder):
            _sysfs_add(dev, drv)
            failure = _call_probe(dev, drv)
            if failure is None:
                _add_groups(dev, drv)
    except BaseException:
        _not_bound(dev, drv)
        raise
    if failure is not None:
        _not_bound(dev, drv)
        return failure
    drv.devices.append(dev)
    deferred = dev.kernel.sub(DeferredProbe)
    deferred.remove(dev)
    deferred.trigger()
    drv.bus.notify(BUS_NOTIFY_BOUND_DRIVER, dev)
    dev.send_uevent("bind")
    return None


def _sysfs_add(dev: Device, drv: Driver) -> None:
    # drivers/base/dd.c:driver_sysfs_add()
    try:
        drv.create_link(dev, dev.name)
        dev.create_link(drv, "driver")
    except OSError:
        dev.kernel.log.printk(ERR, f"really_probe: driver_sysfs_add({dev.name}) failed")
        raise


def _call_probe(dev: Device, drv: Driver) -> OSError | None:
    # drivers/base/dd.c:call_driver_probe(): the message is made while the device has its driver
    try:
        drv.bus.probe(dev)
    except OSError as e:
        if is_bug(e):
            raise
        code = e.errno or ENODEV
        if code in (ENODEV, ENXIO):
            dev.dbg(f"probe with driver {drv.name} rejects match {-code}")
        elif code == EPROBE_DEFER:
            dev.dbg(f"Driver {drv.name} requests probe deferral")
        elif dev.kernel.profile.probe_failure_dev_err:
            dev.err(f"probe with driver {drv.name} failed with error {-code}")
        else:
            dev.kernel.log.printk(WARNING, f"{drv.name}: probe of {dev.name} failed with error {-code}")
        return e
    return None


def _add_groups(dev: Device, drv: Driver) -> None:
    # device_driver.dev_groups: files of the device that its driver brings
    made: list[str] = []
    try:
        for name, attrs in _groups(drv):
            dev.create_group(name, attrs)
            made.append(name)
    except OSError:
        dev.err("device_add_groups() failed")
        for name, attrs in _groups(drv)[: len(made)]:
            dev.remove_group(name, attrs)
        drv.bus.remove(dev)
        raise


def _groups(drv: Driver) -> list[tuple[str, tuple[Attribute, ...]]]:
    # most drivers have no files, and no directory is filled to add none
    return [*([("", drv.dev_attrs)] if drv.dev_attrs else []), *drv.dev_groups.items()]


def _not_bound(dev: Device, drv: Driver) -> None:
    # as driver_sysfs_remove() and device_unbind_cleanup() do
    drv.remove_link(dev.name)
    dev.remove_link("driver")
    drv.bus.notify(BUS_NOTIFY_DRIVER_NOT_BOUND, dev)
    drv.bus.dma_cleanup(dev)
    _unbound(dev)


def _unbound(dev: Device) -> None:
    """From now on what the driver took for the device and did not give back is nobody's."""
    dev.driver = None
    dev.drvdata = None
    if dev.holder is not None:
        dev.holder.gone, dev.holder = True, None


def _driver_probe_device(drv: Driver, dev: Device) -> bool:
    """drivers/base/dd.c:driver_probe_device(): True when bound. An exception that is no errno is an oops."""
    deferred = dev.kernel.sub(DeferredProbe)
    before = deferred.triggers
    try:
        failure = really_probe(dev, drv)
    except BaseException as e:
        if not is_bug(e):
            raise
        dev.kernel.oops(e)
        return False
    if failure is not None and failure.errno == EPROBE_DEFER:
        deferred.add(dev)
        if before != deferred.triggers:  # some device was bound meanwhile: it may be the one that this one waits for
            deferred.trigger()
    return failure is None


def device_driver_attach(drv: Driver, dev: Device) -> None:
    """
    C: ``int device_driver_attach(struct device_driver *, struct device *)``; a deferred device is not tried again.

    Raises:
        EAGAIN: the driver deferred. Else as :func:`really_probe`, and what the probe raised.
    """
    with dev.mutex:
        failure = really_probe(dev, drv)
    if failure is not None and failure.errno == EPROBE_DEFER:
        raise err(EAGAIN, "probe deferred") from failure
    if failure is not None:
        raise failure


def device_attach(dev: Device) -> bool:
    """
    Try the bus's drivers in order of registration. C: ``int device_attach(struct device *)``.

    Returns:
        True when a driver took the device; a probe that fails is no error here.

    Raises:
        What the bus's match() raises, and :func:`really_probe`.
    """
    with dev.mutex:
        if dev.dead or dev.bus is None:
            return False
        if dev.driver is not None:
            return True
        return any(_match(dev, drv) and _driver_probe_device(drv, dev) for drv in list(dev.bus.drivers.values()))


def driver_attach(drv: Driver) -> None:
    """Try the driver on every device of its bus; nothing is an error. C: ``int driver_attach(...)``."""
    for dev in list(drv.bus.devices.values()):
        try:
            if _match(dev, drv):
                with dev.mutex:
                    _driver_probe_device(drv, dev)
        except OSError as e:
            dev.dbg(f"not attached to {drv.name}: {e}")


def _match(dev: Device, drv: Driver) -> bool:
    # driver_match_device(): a bus that cannot tell yet raises EPROBE_DEFER
    try:
        return drv.bus.match(dev, drv)
    except OSError as e:
        if e.errno == EPROBE_DEFER:
            dev.dbg("Device match requests probe deferral")
            dev.kernel.sub(DeferredProbe).add(dev)
        raise


def device_release_driver(dev: Device, only: Driver | None = None) -> None:
    """
    Unbind a device, from driver *only* if that is given.

    C: ``void device_release_driver(struct device *)``, ``device_release_driver_internal()``.

    Raises:
        HungTask: the driver waits for ever; it keeps the device.
    """
    with dev.mutex:
        drv = dev.driver
        if drv is None or dev.releasing or (only is not None and drv is not only):
            return  # work that runs while remove() sleeps would wait for device_lock() and then find no driver
        dev.releasing = True
        try:
            _release(dev, drv)
        finally:
            dev.releasing = False


def _release(dev: Device, drv: Driver) -> None:
    """drivers/base/dd.c:__device_release_driver()."""
    drv.remove_link(dev.name)
    dev.remove_link("driver")
    drv.bus.notify(BUS_NOTIFY_UNBIND_DRIVER, dev)
    for name, attrs in _groups(drv):
        dev.remove_group(name, attrs)
    try:
        drv.bus.remove(dev)
    except HungTask:
        _sysfs_add(dev, drv)
        for name, attrs in _groups(drv):
            dev.create_group(name, attrs)
        raise
    except BaseException as e:
        if not (isinstance(e, Exception) or is_bug(e)):
            raise
        dev.kernel.oops(e)  # remove() returns void: whatever comes out of it is a bug
    drv.bus.dma_cleanup(dev)
    _unbound(dev)
    drv.devices.remove(dev)
    drv.bus.notify(BUS_NOTIFY_UNBOUND_DRIVER, dev)
    dev.send_uevent("unbind")
