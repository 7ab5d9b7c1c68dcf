"""Binding: probe order, refusals, deferral and its retry, messages, notifiers, files that a driver brings."""

from __future__ import annotations

from errno import EAGAIN, EBUSY, EEXIST, EINVAL, EIO, ENODEV, ENXIO

import pytest

from pykernel.base import notify
from pykernel.base.bus import Bus, Driver
from pykernel.base.core import Device
from pykernel.base.dd import DeferredProbe, device_attach, device_release_driver
from pykernel.errors import EPROBE_DEFER, err
from pykernel.fs.sysfs import Attribute
from pykernel.lib.notifier import NotifierBlock
from pykernel.machine import Machine
from pykernel.start import boot


def errno_of(fn, *args):
    with pytest.raises(OSError, match="Errno") as e:
        fn(*args)
    return e.value.errno


def bind(kernel, drv, name):
    return kernel.process().write_text(f"/sys/bus/toy/drivers/{drv.name}/bind", name)


def test_drivers_are_tried_in_order_of_registration_until_one_takes_the_device(make, driver):
    first = driver("any1", **{"x.0": err(EIO)})
    second, third = driver("any2"), driver("any3")
    dev = make("x.0")
    assert (first.log, second.log, third.log) == (["probe x.0"], ["probe x.0"], [])
    assert dev.driver is second


def test_a_failed_probe_leaves_no_trace(kernel, make, driver):
    drv = driver(**{"x.0": err(EIO)})
    dev = make("x.0")
    assert (dev.driver, dev.drvdata, drv.devices) == (None, None, [])
    p = kernel.process()
    assert "driver" not in p.listdir("/sys/devices/x.0")
    assert sorted(p.listdir("/sys/bus/toy/drivers/any")) == ["bind", "uevent", "unbind"]


@pytest.mark.parametrize(
    ("profile", "expected"),
    [
        ("linux-6.1", (4, "any: probe of x.0 failed with error -5")),
        ("linux-6.12", (3, "any x.0: probe with driver any failed with error -5")),
    ],
)
def test_a_failed_probe_is_told(profile, expected):
    kernel = boot(Machine("bare"), profile)
    kernel.up()
    bus = Bus(kernel, "toy")
    bus.register()

    class Failing(Driver):
        def probe(self, dev, /):
            raise err(EIO)

    Failing(kernel, "any", bus).register()
    Device(kernel, "x.0", bus=bus).register()
    last = kernel.log.records[-1]
    assert (last.level, last.text) == expected


@pytest.mark.parametrize("code", [ENODEV, ENXIO])
def test_a_driver_that_rejects_the_match_says_nothing(kernel, make, driver, code):
    before = len(kernel.log.records)
    driver(**{"x.0": err(code)})
    make("x.0")
    assert len(kernel.log.records) == before


def test_bind_and_unbind_through_sysfs(kernel, make, driver, bus, events):
    kernel.process().write_text("/sys/bus/toy/drivers_autoprobe", "0")
    drv, dev = driver(), make("x.0")
    p = kernel.process()
    assert drv.devices == []
    bind(kernel, drv, "x.0\n")
    assert dev.driver is drv
    assert p.readlink("/sys/bus/toy/drivers/any/x.0") == "../../../../devices/x.0"
    assert p.readlink("/sys/devices/x.0/driver") == "../../bus/toy/drivers/any"
    assert errno_of(bind, kernel, drv, "x.0") == EBUSY
    p.write_text("/sys/bus/toy/drivers/any/unbind", "x.0")
    assert (dev.driver, dev.drvdata, drv.log) == (None, None, ["probe x.0", "remove x.0"])
    assert errno_of(p.write_text, "/sys/bus/toy/drivers/any/unbind", "x.0") == ENODEV
    assert errno_of(p.write_text, "/sys/bus/toy/drivers/any/unbind", "nothing") == ENODEV
    assert [(e["ACTION"], e.get("DRIVER")) for e in events if e["SUBSYSTEM"] == "toy"] == [
        ("add", None),
        ("bind", "any"),
        ("unbind", None),
    ]


def test_bind_refuses_unknown_and_unmatched_devices(kernel, make, driver):
    drv = driver("other")
    make("x.0")
    assert [errno_of(bind, kernel, drv, n) for n in ("x.0", "y.0", "\n", "x.0 ")] == [ENODEV] * 4


def test_bind_passes_the_probes_errno_on(kernel, make, driver):
    drv = driver(**{"x.0": err(EIO)})
    make("x.0")
    assert errno_of(bind, kernel, drv, "x.0") == EIO


def test_bind_of_a_deferring_driver_is_eagain_and_does_not_queue_the_device(kernel, make, driver, bus):
    """device_driver_attach() calls __driver_probe_device(), which does not add to the deferred list."""
    bus.autoprobe = False
    drv = driver(**{"x.0": err(EPROBE_DEFER)})
    make("x.0")
    assert errno_of(bind, kernel, drv, "x.0") == EAGAIN
    assert kernel.sub(DeferredProbe).pending == []


def test_deferred_device_is_tried_again_when_another_was_bound(kernel, make, driver):
    drv = driver(**{"x.0": err(EPROBE_DEFER)})
    dev = make("x.0")
    kernel.sched.run_ready()
    assert (drv.log, kernel.sub(DeferredProbe).pending) == (["probe x.0"], [dev])
    del drv.answers["x.0"]
    make("y.0")
    assert dev not in drv.devices, "the retry is a work item"
    kernel.sched.run_ready()
    assert dev.driver is drv
    assert drv.log == ["probe x.0", "probe y.0", "probe x.0"]
    assert (kernel.sub(DeferredProbe).pending, kernel.sub(DeferredProbe).active) == ([], [])


def test_retry_of_deferred_devices_heeds_drivers_autoprobe(kernel, make, driver, bus):
    """deferred_probe_work_func() calls bus_probe_device()."""
    drv = driver(**{"x.0": err(EPROBE_DEFER)})
    dev = make("x.0")
    drv.answers.clear()
    make("y.0")
    bus.autoprobe = False
    kernel.sched.run_ready()
    assert dev.driver is None
    assert kernel.sub(DeferredProbe).pending == []


def test_deferring_again_waits_for_the_next_success(kernel, make, driver):
    drv = driver(**{"x.0": err(EPROBE_DEFER)})
    make("x.0")
    make("y.0")
    kernel.sched.run_ready()
    kernel.sched.run_ready()
    assert drv.log == ["probe x.0", "probe y.0", "probe x.0"]


def test_a_binding_during_the_probe_triggers_the_retry(kernel, make, driver, bus):
    """driver_probe_device() compares the trigger count before and after."""
    child = driver("child")
    drv = driver("x")

    def probe(dev):
        drv.log.append("probe")
        if len(drv.log) == 1:
            make("child.0")
            raise err(EPROBE_DEFER)

    drv.probe = probe
    dev = make("x.0")
    kernel.sched.run_ready()
    assert (child.log, drv.log, dev.driver) == (["probe child.0"], ["probe", "probe"], drv)


def test_a_deferred_device_that_goes_is_forgotten(kernel, make, driver):
    driver(**{"x.0": err(EPROBE_DEFER)})
    dev = make("x.0")
    dev.unregister()
    assert kernel.sub(DeferredProbe).pending == []
    dev2 = make("x.0")
    make("y.0")
    dev2.unregister()
    assert kernel.sub(DeferredProbe).active == []
    kernel.sched.run_ready()


def test_match_that_cannot_tell_yet_defers(kernel, make, driver, bus, monkeypatch):
    drv = driver()

    def not_yet(_dev, _drv):
        raise err(EPROBE_DEFER)

    monkeypatch.setattr(bus, "match", not_yet)
    dev = make("x.0")
    assert kernel.sub(DeferredProbe).pending == [dev]
    driver("any2")
    assert kernel.sub(DeferredProbe).pending == [dev]
    assert errno_of(kernel.process().write_text, "/sys/bus/toy/drivers_probe", "x.0") == EINVAL
    monkeypatch.undo()
    make("y.0")
    kernel.sched.run_ready()
    assert dev.driver is drv


def test_match_that_fails_ends_the_search_for_a_device_only(kernel, make, driver):
    """__device_attach_driver() gives the error up, __driver_attach() goes on with the next device."""
    dev, other = make("odd.0"), make("x.0")
    drv = driver()
    assert (dev.driver, other.driver) == (None, drv)
    assert errno_of(kernel.process().write_text, "/sys/bus/toy/drivers_probe", "odd.0") == EINVAL
    assert errno_of(device_attach, dev) == ENODEV


def test_attach_to_a_bound_gone_or_busless_device(kernel, make, driver):
    driver()
    dev = make("x.0")
    assert device_attach(dev) is True
    dev.unregister()
    assert device_attach(dev) is False
    alone = Device(kernel, "alone")
    alone.register()
    assert device_attach(alone) is False


def test_attach_to_an_unregistered_device_is_enodev(kernel, bus, driver):
    assert errno_of(driver().attach, Device(kernel, "x.0", bus=bus)) == ENODEV


def test_oops_in_probe_ends_the_binding_and_the_next_driver_is_tried(kernel, make, driver):
    driver("any1", **{"x.0": ValueError("bug")})
    second = driver("any2")
    dev = make("x.0")
    assert dev.driver is second
    assert [str(e) for e in kernel.oopses] == ["bug"]


def test_oops_in_probe_by_bind_is_eio_for_the_writer(kernel, make, driver, bus):
    bus.autoprobe = False
    drv = driver(**{"x.0": ValueError("bug")})
    dev = make("x.0")
    assert errno_of(bind, kernel, drv, "x.0") == EIO
    assert dev.driver is None


def test_oops_in_remove_unbinds_all_the_same(kernel, make, driver):
    drv = driver(**{"remove x.0": err(EIO)})
    dev = make("x.0")
    kernel.process().write_text("/sys/bus/toy/drivers/any/unbind", "x.0")
    assert (dev.driver, drv.devices, len(kernel.oopses)) == (None, [], 1)


def test_release_of_an_unbound_device_is_nothing(make):
    device_release_driver(make("x.0"))


def test_a_device_named_like_a_file_of_the_driver_is_not_bound(kernel, make, driver):
    """driver_sysfs_add() fails; not an error of the probe, so the search ends."""
    drv = driver()
    kernel.process().listdir("/sys/bus/toy/drivers/any")
    dev = make("bind")
    assert (dev.driver, drv.log) == (None, [])
    assert kernel.log.records[-1].text == "really_probe: driver_sysfs_add(bind) failed"


def test_notifiers_hear_every_step(kernel, make, driver, bus):
    heard = []

    def hear(_nb, event, dev):
        heard.append((event, dev.driver is not None))
        return 0

    bus.notifier.register(NotifierBlock(hear))
    drv = driver(**{"y.0": err(EIO)})
    make("x.0").unregister()
    n = notify
    assert heard == [
        (n.BUS_NOTIFY_ADD_DEVICE, False),
        (n.BUS_NOTIFY_BIND_DRIVER, True),
        (n.BUS_NOTIFY_BOUND_DRIVER, True),
        (n.BUS_NOTIFY_DEL_DEVICE, True),
        (n.BUS_NOTIFY_UNBIND_DRIVER, True),
        (n.BUS_NOTIFY_UNBOUND_DRIVER, False),
        (n.BUS_NOTIFY_REMOVED_DEVICE, False),
    ]
    heard.clear()
    make("y.0")
    assert drv.log[-1] == "probe y.0"
    assert [event for event, _ in heard] == [
        n.BUS_NOTIFY_ADD_DEVICE,
        n.BUS_NOTIFY_BIND_DRIVER,
        n.BUS_NOTIFY_DRIVER_NOT_BOUND,
    ]


class Bringing(Driver):
    dev_attrs = (
        Attribute("level", lambda d: f"{d.name} {d.drvdata}\n", None, 0o444),
        Attribute("mode", lambda d: "x\n", None, 0o444),
    )
    removed = 0

    def probe(self, dev, /):
        dev.drvdata = 7

    def remove(self, dev, /):
        self.removed += 1


def test_a_driver_brings_files_while_it_is_bound(kernel, make, bus):
    drv = Bringing(kernel, "any", bus)
    drv.register()
    dev = make("x.0")
    assert kernel.process().read_text("/sys/devices/x.0/level") == "x.0 7\n"
    device_release_driver(dev)
    assert {"level", "mode"} & set(kernel.process().listdir("/sys/devices/x.0")) == set()


def test_a_drivers_file_that_is_taken_ends_the_binding(kernel, make, bus):
    dev = make("x.0")
    dev.create_file(Attribute("mode", lambda d: "mine\n", None, 0o444))
    drv = Bringing(kernel, "any", bus)
    drv.register()
    assert (dev.driver, drv.removed) == (None, 1)
    assert kernel.log.records[-1].text == "any x.0: device_add_groups() failed"
    assert errno_of(bind, kernel, drv, "x.0") == EEXIST
    assert kernel.process().read_text("/sys/devices/x.0/mode") == "mine\n"
    assert "level" not in kernel.process().listdir("/sys/devices/x.0")
