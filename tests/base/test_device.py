"""Devices: registration and its undoing, links, classes' glue, the uevent and dev files, dev_err()."""

from __future__ import annotations

import os
from errno import EEXIST, EINVAL

import pytest

from pykernel.base.class_ import Class
from pykernel.base.core import Device, cdev_device_add, cdev_device_del
from pykernel.fs.chardev import MKDEV, NullFile
from pykernel.fs.sysfs import Attribute, SysFs


def said(kernel):
    return [(r.level, r.text) for r in kernel.log.records]


def tree(kernel, path):
    return sorted(kernel.process().listdir(path))


def test_a_plain_device_is_a_directory_below_devices(kernel):
    dev = Device(kernel, "thing")
    dev.register()
    assert tree(kernel, "/sys/devices/thing") == ["power", "uevent"]
    assert kernel.process().read_text("/sys/devices/thing/uevent") == "", "no bus, no class: filtered"
    dev.unregister()
    dev.unregister()
    assert "thing" not in tree(kernel, "/sys/devices")


def test_a_device_without_a_name_is_einval(kernel):
    with pytest.raises(OSError, match="Errno") as e:
        Device(kernel, "").register()
    assert e.value.errno == EINVAL


def test_bus_device_is_linked_both_ways_and_from_dev_char(kernel, make):
    make("a.0", devt=MKDEV(240, 3))
    p = kernel.process()
    assert p.readlink("/sys/bus/toy/devices/a.0") == "../../../devices/a.0"
    assert p.readlink("/sys/devices/a.0/subsystem") == "../../bus/toy"
    assert p.readlink("/sys/dev/char/240:3") == "../../devices/a.0"
    assert p.read_text("/sys/devices/a.0/dev") == "240:3\n"
    assert (p.stat("/dev/a.0").st_rdev, oct(p.stat("/dev/a.0").st_mode)) == (os.makedev(240, 3), "0o20600")


def test_class_device_has_a_glue_directory_that_goes_with_the_last(kernel, make):
    cls = Class(kernel, "gadgets")
    cls.register()
    parent = make("a.0")
    one, two = (Device(kernel, n, parent=parent, class_=cls) for n in ("one", "two"))
    child = Device(kernel, "child", parent=one, class_=cls)
    for dev in (one, two, child):
        dev.register()
    p = kernel.process()
    assert tree(kernel, "/sys/devices/a.0/gadgets") == ["one", "two"]
    assert p.readlink("/sys/class/gadgets/one") == "../../devices/a.0/gadgets/one"
    assert p.readlink("/sys/devices/a.0/gadgets/one/device") == "../../../a.0"
    assert p.readlink("/sys/devices/a.0/gadgets/one/subsystem") == "../../../../class/gadgets"
    assert p.readlink("/sys/class/gadgets/child") == "../../devices/a.0/gadgets/one/child", "its parent has a class"
    assert p.readlink("/sys/devices/a.0/gadgets/one/child/device") == "../../one"
    assert [parent.children(), one.children(), cls.devices] == [[one, two], [child], [one, two, child]]
    child.unregister()
    one.unregister()
    assert tree(kernel, "/sys/devices/a.0/gadgets") == ["two"]
    two.unregister()
    assert "gadgets" not in tree(kernel, "/sys/devices/a.0")
    cls.unregister()
    assert "gadgets" not in tree(kernel, "/sys/class")


def test_virtual_class_directory_goes_with_its_last_device(kernel):
    cls = Class(kernel, "ghosts")
    cls.register()
    dev = Device(kernel, "boo", class_=cls)
    dev.register()
    assert kernel.process().readlink("/sys/class/ghosts/boo") == "../../devices/virtual/ghosts/boo"
    assert "device" not in tree(kernel, "/sys/devices/virtual/ghosts/boo")
    dev.unregister()
    assert "ghosts" not in tree(kernel, "/sys/devices/virtual")


def test_numa_node_comes_from_the_parent(kernel, make):
    parent = make("a.0")
    parent.numa_node = 1
    assert make("a.1", parent=parent).numa_node == 1


def test_taken_name_on_the_bus_is_undone(kernel, make, bus, events):
    first = make("a.0")
    cls = Class(kernel, "gadgets")
    cls.register()
    events.clear()
    with pytest.raises(OSError, match="Errno") as e:
        Device(kernel, "a.0", parent=make("b"), bus=bus, class_=cls).register()
    assert e.value.errno == EEXIST
    assert bus.devices["a.0"] is first
    assert tree(kernel, "/sys/devices/b") == ["power", "subsystem", "uevent"]
    assert tree(kernel, "/sys/class/gadgets") == []
    assert [e["ACTION"] for e in events] == ["add", "remove"], "b came, the other one went (BusError)"


def test_a_device_of_bus_and_class_collides_with_its_own_subsystem(kernel, bus):
    """Both want the link ``subsystem``: bus_add_device() gives EEXIST and takes its first link back."""
    cls = Class(kernel, "gadgets")
    cls.register()
    with pytest.raises(OSError, match="Errno") as e:
        Device(kernel, "a.0", bus=bus, class_=cls).register()
    assert e.value.errno == EEXIST
    assert tree(kernel, "/sys/bus/toy/devices") == []


def test_taken_directory_name_is_eexist_and_told(kernel, make):
    make("a.0")
    with pytest.raises(OSError, match="Errno") as e:
        make("a.0")
    assert e.value.errno == EEXIST
    assert said(kernel)[-1][1].startswith("kobject_add_internal failed for a.0 with -EEXIST")


def test_taken_device_number_is_undone(kernel, make, bus):
    make("a.0", devt=MKDEV(240, 3))
    with pytest.raises(OSError, match="Errno") as e:
        make("a.1", devt=MKDEV(240, 3))
    assert e.value.errno == EEXIST
    assert tree(kernel, "/sys/bus/toy/devices") == ["a.0"]
    assert "a.1" not in bus.devices


def test_cdev_device_add_gives_the_number_back_when_the_name_is_taken(kernel, make):
    make("a.0")
    with pytest.raises(OSError, match="Errno") as e:
        cdev_device_add(Device(kernel, "a.0", devt=MKDEV(240, 9)), NullFile)
    assert e.value.errno == EEXIST
    dev = Device(kernel, "a.9", devt=MKDEV(240, 9))
    cdev_device_add(dev, NullFile)
    p = kernel.process()
    p.close(p.open("/dev/a.9"))
    cdev_device_del(dev)
    with pytest.raises(FileNotFoundError):
        p.open("/dev/a.9")


class Talker(Device):
    def uevent(self, env):
        env["OWN"] = "1"

    def devnode(self):
        return "dir/talk", 0o644


def test_uevent_variables_are_in_the_order_of_dev_uevent(kernel, bus, events, driver):
    """drivers/base/core.c:dev_uevent(): number, name, mode, type, driver, then bus and type add theirs."""
    bus.uevent = lambda _dev, env: env.update(BUS="1")
    driver("a")
    Talker(kernel, "a.0", bus=bus, type="gadget", devt=MKDEV(240, 1)).register()
    bind = next(e for e in events if e["ACTION"] == "bind")
    assert list(bind.items())[:-1] == [
        ("ACTION", "bind"),
        ("DEVPATH", "/devices/a.0"),
        ("SUBSYSTEM", "toy"),
        ("MAJOR", "240"),
        ("MINOR", "1"),
        ("DEVNAME", "dir/talk"),
        ("DEVMODE", "0644"),
        ("DEVTYPE", "gadget"),
        ("DRIVER", "a"),
        ("BUS", "1"),
        ("OWN", "1"),
    ]
    assert list(bind)[-1] == "SEQNUM"
    text = kernel.process().read_text("/sys/devices/a.0/uevent")
    assert text.splitlines() == [f"{k}={v}" for k, v in list(bind.items())[3:-1]]


def test_class_adds_to_uevents(kernel, events):
    class Telling(Class):
        def uevent(self, dev, env):
            env["CLASS"] = "1"

    cls = Telling(kernel, "gadgets")
    cls.register()
    Device(kernel, "x", class_=cls).register()
    assert [(e["ACTION"], e["SUBSYSTEM"], e.get("CLASS")) for e in events] == [
        ("add", "class", None),
        ("add", "gadgets", "1"),
    ]


def test_synthetic_uevent_that_is_junk_is_told_by_the_device(kernel, make):
    make("a.0")
    with pytest.raises(OSError, match="Errno") as e:
        kernel.process().write_text("/sys/devices/a.0/uevent", "junk")
    assert e.value.errno == EINVAL
    assert said(kernel)[-2:] == [
        (4, "synth uevent: /devices/a.0: unknown uevent action string"),
        (3, "toy a.0: uevent: failed to send synthetic uevent: -22"),
    ]


@pytest.mark.parametrize(("call", "level"), [("crit", 2), ("err", 3), ("warn", 4), ("notice", 5), ("info", 6)])
def test_messages_name_driver_or_bus_or_nothing(kernel, make, driver, call, level):
    dev = make("a.0")
    getattr(dev, call)("hello")
    driver("any")
    getattr(dev, call)("hello")
    getattr(Device(kernel, "alone"), call)("hello")
    assert [t for lv, t in said(kernel) if lv == level and t.endswith("hello")] == [
        "toy a.0: hello",
        "any a.0: hello",
        " alone: hello",
    ]


def test_messages_carry_subsystem_and_device(kernel, make):
    """set_dev_info(): +subsystem:name, or c<major>:<minor>."""
    make("a.0").info("x")
    make("a.1", devt=MKDEV(240, 1)).info("x")
    Device(kernel, "alone").info("x")
    assert [(r.subsystem, r.device) for r in list(kernel.log.records)[-3:]] == [
        ("toy", "+toy:a.0"),
        ("toy", "c240:1"),
        ("", ""),
    ]


def test_dev_dbg_goes_to_the_trace_only(kernel, make):
    dev = make("a.0")
    dev.dbg("nobody hears")
    before = len(kernel.log.records)
    events = kernel.trace.record()
    dev.dbg("traced")
    assert [(e.name, e.fields["text"]) for e in events] == [("dev_dbg", "traced")]
    assert len(kernel.log.records) == before


def test_files_can_be_added_and_removed_while_the_device_lives(kernel, make):
    dev = make("a.0")
    dev.create_file(Attribute("late", lambda d: f"{d.name}\n", None, 0o444))
    assert kernel.process().read_text("/sys/devices/a.0/late") == "a.0\n"
    with pytest.raises(OSError, match="Errno") as e:
        dev.create_file(Attribute("late", None, None, 0o444))
    assert e.value.errno == EEXIST
    dev.remove_file("late")
    assert "late" not in tree(kernel, "/sys/devices/a.0")


def test_power_directory_goes_with_the_device(kernel, make):
    dev = make("a.0")
    assert kernel.sub(SysFs).node("/devices/a.0/power").lookup("control") is not None
    dev.unregister()
    dev.register()
    assert "power" in tree(kernel, "/sys/devices/a.0")
