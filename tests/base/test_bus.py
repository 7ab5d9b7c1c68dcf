"""Buses and drivers as directories: what is there, what their files take, registration."""

from __future__ import annotations

from errno import EACCES, EBUSY, EEXIST, EINVAL, ENODEV

import pytest

from pykernel.base.bus import Bus, Driver
from pykernel.base.core import Device
from pykernel.base.module import Module
from pykernel.base.uevent import Uevents


def errno_of(fn, *args):
    with pytest.raises(OSError, match="Errno") as e:
        fn(*args)
    return e.value.errno


def test_a_bus_is_a_directory_with_devices_and_drivers(kernel, bus):
    p = kernel.process()
    assert sorted(p.listdir("/sys/bus/toy")) == ["devices", "drivers", "drivers_autoprobe", "drivers_probe", "uevent"]
    assert oct(p.stat("/sys/bus/toy/drivers_probe").st_mode & 0o777) == "0o200"
    assert oct(p.stat("/sys/bus/toy/uevent").st_mode & 0o777) == "0o200"
    assert p.read_text("/sys/bus/toy/drivers_autoprobe") == "1\n"
    assert errno_of(Bus(kernel, "toy").register) == EEXIST
    bus.unregister()
    assert "toy" not in p.listdir("/sys/bus")


def test_buses_and_drivers_send_uevents(kernel, events):
    """kset_register(), driver_register(); "remove" comes with the last reference (lib/kobject.c:__kobject_del())."""
    bus = Bus(kernel, "t2")
    bus.register()
    drv = Driver(kernel, "d", bus)
    drv.register()
    p = kernel.process()
    p.write_text("/sys/bus/t2/uevent", "change")
    p.write_text("/sys/bus/t2/drivers/d/uevent", "change")
    drv.unregister()
    bus.unregister()
    assert [(e["ACTION"], e["DEVPATH"], e["SUBSYSTEM"], e.get("SYNTH_UUID")) for e in events] == [
        ("add", "/bus/t2", "bus", None),
        ("add", "/bus/t2/drivers/d", "drivers", None),
        ("change", "/bus/t2", "bus", "0"),
        ("change", "/bus/t2/drivers/d", "drivers", "0"),
        ("remove", "/bus/t2/drivers/d", "drivers", None),
        ("remove", "/bus/t2", "bus", None),
    ]


@pytest.mark.parametrize(("text", "on"), [("0", 0), ("0\n", 0), ("00", 0), ("1", 1), ("x", 1), ("\n", 1), ("2", 1)])
def test_drivers_autoprobe_is_off_for_what_starts_with_0(kernel, bus, text, on):
    """Recorded: driver-core-linux-6.1.txt, "drivers_autoprobe <- ..."."""
    p = kernel.process()
    p.write_text("/sys/bus/toy/drivers_autoprobe", text)
    assert p.read_text("/sys/bus/toy/drivers_autoprobe") == f"{on}\n"


def test_autoprobe_off_binds_nothing_until_asked(kernel, bus, make, driver):
    bus.autoprobe = False
    dev = make("x.0")
    drv = driver()
    assert (dev.driver, make("y.0").driver) == (None, None)
    kernel.process().write_text("/sys/bus/toy/drivers_probe", "x.0\n")
    assert dev.driver is drv
    kernel.process().write_text("/sys/bus/toy/drivers_probe", "x.0")
    assert drv.log == ["probe x.0"], "a bound device is left alone"


def test_drivers_probe_without_a_match_succeeds_and_without_a_device_is_enodev(kernel, make):
    make("x.0")
    p = kernel.process()
    p.write_text("/sys/bus/toy/drivers_probe", "x.0")
    assert [errno_of(p.write_text, "/sys/bus/toy/drivers_probe", t) for t in ("y.0", "\n", "x.0\n\n", "x.0 ")] == [
        ENODEV
    ] * 4


def test_a_plain_bus_matches_everything(kernel):
    bus = Bus(kernel, "plain")
    bus.register()
    drv = Driver(kernel, "d", bus)
    drv.register()
    dev = Device(kernel, "x", bus=bus)
    dev.register()
    assert dev.driver is drv
    dev.unregister()
    assert drv.devices == []


def test_a_driver_registered_twice_is_ebusy_and_told(kernel, driver):
    driver("any")
    with pytest.raises(OSError, match="Errno") as e:
        driver("any")
    assert e.value.errno == EBUSY
    assert (kernel.log.records[-1].level, kernel.log.records[-1].text) == (
        3,
        "Error: Driver 'any' is already registered, aborting...",
    )


def test_unregistering_unbinds_last_bound_first(kernel, make, driver):
    drv = driver()
    make("x.0")
    make("y.0")
    drv.unregister()
    assert drv.log == ["probe x.0", "probe y.0", "remove y.0", "remove x.0"]
    assert kernel.process().listdir("/sys/bus/toy/drivers") == []


class Fixed(Driver):
    suppress_bind_attrs = True


def test_suppress_bind_attrs_hides_bind_and_unbind(kernel, bus):
    Fixed(kernel, "fixed", bus).register()
    assert kernel.process().listdir("/sys/bus/toy/drivers/fixed") == ["uevent"]


class Owner(Module):
    name_ = "owner"


def test_a_modules_driver_is_linked_both_ways(kernel, bus):
    kernel.modules.add("owner", lambda: Owner)
    drv = Driver(kernel, "any", bus, kernel.modules.modprobe("owner"))
    drv.register()
    p = kernel.process()
    assert p.readlink("/sys/bus/toy/drivers/any/module") == "../../../../module/owner"
    assert p.readlink("/sys/module/owner/drivers/toy:any") == "../../../bus/toy/drivers/any"
    second = Driver(kernel, "any2", bus, drv.module)
    second.register()
    drv.unregister()
    assert p.listdir("/sys/module/owner/drivers") == ["toy:any2"]


def test_bus_uevent_refuses_junk(kernel, bus):
    assert errno_of(kernel.process().write_text, "/sys/bus/toy/uevent", "junk") == EINVAL


def test_files_that_only_take_cannot_be_read_by_others(kernel, bus):
    assert errno_of(kernel.process(uid=1000).read_text, "/sys/bus/toy/uevent") == EACCES


def test_seqnum_counts_events_nobody_hears(kernel):
    p = kernel.process()
    before = int(p.read_text("/sys/kernel/uevent_seqnum"))
    Bus(kernel, "t2").register()
    assert int(p.read_text("/sys/kernel/uevent_seqnum")) == before + 1 == kernel.sub(Uevents).seqnum
