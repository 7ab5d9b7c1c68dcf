"""What a parent, its types and their devices look like (Documentation/ABI/testing/sysfs-bus-vfio-mdev)."""

from __future__ import annotations

import os
import stat
from errno import EACCES, EEXIST, EINVAL, ENODEV, ENOENT, ENOMEM

import pytest
from errnos import errno_of

from pykernel.errors import EPROBE_DEFER, err
from pykernel.mdev import MdevDriver, MdevParent, MdevType, mdev_register_driver, mdev_register_parent

DEVICES = "/sys/bus/mdev/devices"


# ---- the tree

# below the parent, its kind and mode
TREE = [
    ("mdev_supported_types", stat.S_IFDIR | 0o755),
    ("mdev_supported_types/toy-one", stat.S_IFDIR | 0o755),
    ("mdev_supported_types/toy-one/create", stat.S_IFREG | 0o200),
    ("mdev_supported_types/toy-one/available_instances", stat.S_IFREG | 0o444),
    ("mdev_supported_types/toy-one/device_api", stat.S_IFREG | 0o444),
    ("mdev_supported_types/toy-one/name", stat.S_IFREG | 0o444),
    ("mdev_supported_types/toy-one/devices", stat.S_IFDIR | 0o755),
    ("mdev_supported_types/toy-one/devices/UUID", stat.S_IFLNK | 0o777),
    ("UUID", stat.S_IFDIR | 0o755),
    ("UUID/remove", stat.S_IFREG | 0o200),
    ("UUID/uevent", stat.S_IFREG | 0o644),
    ("UUID/power", stat.S_IFDIR | 0o755),
    ("UUID/mdev_type", stat.S_IFLNK | 0o777),
    ("UUID/driver", stat.S_IFLNK | 0o777),
    ("UUID/subsystem", stat.S_IFLNK | 0o777),
]


@pytest.mark.parametrize(("path", "mode"), TREE, ids=[path for path, _ in TREE])
def test_kind_and_mode(toy, proc, uuids, path, mode):
    proc.write_text(f"{toy.type()}/create", uuids[0])

    assert proc.lstat(f"{toy.path}/{path.replace('UUID', uuids[0])}").st_mode == mode


LINKS = [
    ("/sys/class/mdev_bus/toy0", "../../devices/virtual/toy/toy0"),
    (f"{DEVICES}/UUID", "../../../devices/virtual/toy/toy0/UUID"),
    ("TYPE/devices/UUID", "../../../UUID"),
    (f"{DEVICES}/UUID/mdev_type", "../mdev_supported_types/toy-one"),
    (f"{DEVICES}/UUID/driver", "../../../../../bus/mdev/drivers/toydrv"),
    (f"{DEVICES}/UUID/subsystem", "../../../../../bus/mdev"),
    ("/sys/bus/mdev/drivers/toydrv/UUID", "../../../../devices/virtual/toy/toy0/UUID"),
]


@pytest.mark.parametrize(("path", "target"), LINKS, ids=[path.removeprefix("/sys/") for path, _ in LINKS])
def test_links_are_relative(toy, proc, uuids, path, target):
    proc.write_text(f"{toy.type()}/create", uuids[0])
    path = path.replace("TYPE", toy.type())

    assert proc.readlink(path.replace("UUID", uuids[0])) == target.replace("UUID", uuids[0])


def test_the_files_of_a_type(toy, proc):
    assert sorted(proc.listdir(toy.type())) == ["available_instances", "create", "device_api", "devices", "name"]


def test_a_description_is_there_when_the_driver_writes_one(make_toy, counting, proc):
    """Pitfall: scripts must not expect it."""
    toy = make_toy(counting).register()

    assert proc.read_text(f"{toy.type()}/description") == "a one\nof two lines\n"
    assert proc.stat(f"{toy.type()}/description").st_mode & 0o7777 == 0o444


TEXTS = [
    ("toy-one", "name", "The first\n"),
    ("toy-two", "name", "two\n"),
    ("toy-one", "device_api", "toy-api\n"),
    ("toy-one", "available_instances", "2\n"),
]


@pytest.mark.parametrize(("kind", "attr", "text"), TEXTS, ids=[f"{kind}/{attr}" for kind, attr, _ in TEXTS])
def test_what_a_type_says(toy, proc, kind, attr, text):
    assert proc.read_text(f"{toy.path}/mdev_supported_types/{kind}/{attr}") == text


def test_a_driver_that_counts_itself(make_toy, counting, proc):
    toy = make_toy(counting).register()

    assert proc.read_text(f"{toy.type()}/available_instances") == "7\n"


def test_the_bus(kernel, proc, toy):
    assert sorted(proc.listdir("/sys/bus/mdev")) == [
        "devices", "drivers", "drivers_autoprobe", "drivers_probe", "uevent"
    ]  # fmt: skip
    assert sorted(proc.listdir("/sys/bus/mdev/drivers/toydrv")) == ["bind", "uevent", "unbind"]
    assert proc.listdir("/sys/class/mdev_bus") == ["toy0"]


def test_the_class_is_there_without_parents(kernel, proc):
    assert proc.listdir("/sys/class/mdev_bus") == []


def test_a_device_has_no_number_and_no_node(toy, proc, uuids):
    proc.write_text(f"{toy.type()}/create", uuids[0])

    assert proc.read_text(f"{DEVICES}/{uuids[0]}/uevent") == "DRIVER=toydrv\n"


# ---- the name of a type


def test_a_type_has_its_class_before_its_name(toy, proc):
    assert sorted(proc.listdir(f"{toy.path}/mdev_supported_types")) == ["toy-one", "toy-two"]


def test_a_type_has_its_parents_bus_or_driver_before_its_name(kernel, proc, toy, uuids):
    """include/linux/device.h:dev_driver_string(): the driver if it is bound, else the bus."""
    proc.write_text(f"{toy.type()}/create", uuids[0])
    proc.write_text(f"{toy.type()}/create", uuids[1])
    bound, free = (toy.dev.kernel.sub(type(toy.driver.bus)).devices[uuid] for uuid in uuids[:2])
    proc.write_text("/sys/bus/mdev/drivers/toydrv/unbind", uuids[1])

    for dev in (bound, free):
        mdev_register_parent(MdevParent(), dev, toy.driver, [MdevType("small")])

    assert proc.listdir(f"{DEVICES}/{uuids[0]}/mdev_supported_types") == ["toydrv-small"]
    assert proc.listdir(f"{DEVICES}/{uuids[1]}/mdev_supported_types") == ["mdev-small"]


# ---- binding: only a parent binds


@pytest.mark.parametrize(
    ("file", "errno"), [("drivers/toydrv/bind", ENODEV), ("drivers/toydrv/unbind", ENODEV), ("drivers_probe", 0)]
)
def test_a_free_device_stays_free(toy, proc, uuids, file, errno):
    """The bus never matches: bind finds no device for the driver, a probe finds no driver for the device."""
    proc.write_text(f"{toy.type()}/create", uuids[0])
    proc.write_text("/sys/bus/mdev/drivers/toydrv/unbind", uuids[0])

    assert errno_of(proc.write_text, f"/sys/bus/mdev/{file}", uuids[0]) == errno
    assert "driver" not in proc.listdir(f"{DEVICES}/{uuids[0]}")


def test_a_free_device_can_be_removed(toy, proc, uuids):
    proc.write_text(f"{toy.type()}/create", uuids[0])
    proc.write_text("/sys/bus/mdev/drivers/toydrv/unbind", uuids[0])
    proc.write_text(f"{DEVICES}/{uuids[0]}/remove", "1")

    assert proc.listdir(DEVICES) == []
    assert toy.driver.log == [f"probe {uuids[0]}", f"remove {uuids[0]}"]


def test_a_driver_without_an_api(kernel):
    """drivers/vfio/mdev/mdev_driver.c:mdev_register_driver()."""
    assert errno_of(mdev_register_driver, MdevDriver(kernel, "dumb")) == EINVAL


# ---- rules of sysfs that programs meet here

OPENS = [
    ("create", os.O_RDONLY, EACCES),
    ("create", os.O_RDWR, EACCES),
    ("available_instances", os.O_WRONLY, EACCES),
    ("create", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0),
    ("devices/x", os.O_WRONLY | os.O_CREAT, EACCES),
    ("nothing", os.O_RDONLY, ENOENT),
]


@pytest.mark.parametrize(("name", "flags", "errno"), OPENS, ids=[f"{n}-{f:o}" for n, f, _ in OPENS])
def test_open(toy, proc, name, flags, errno):
    """Root is refused as others are; to create and to truncate what is there is harmless."""
    assert errno_of(proc.open, f"{toy.type()}/{name}", flags, 0o666) == errno


def test_each_write_is_one_store(toy, proc, uuids):
    """Two halves of a UUID are two bad ones; the position does not matter."""
    fd = proc.open(f"{toy.type()}/create", os.O_WRONLY)

    assert errno_of(proc.write, fd, uuids[0][:18].encode()) == EINVAL
    assert errno_of(proc.write, fd, uuids[0][18:].encode()) == EINVAL
    assert proc.write(fd, uuids[0].encode()) == 36
    assert proc.pwrite(fd, uuids[1].encode(), 100) == 36
    assert sorted(proc.listdir(DEVICES)) == uuids[:2]


def test_a_file_of_a_device_that_went(toy, proc, uuids):
    proc.write_text(f"{toy.type()}/create", uuids[0])
    fd = proc.open(f"{DEVICES}/{uuids[0]}/uevent", os.O_RDWR)
    writer = proc.open(f"{DEVICES}/{uuids[0]}/remove", os.O_WRONLY)
    proc.write_text(f"{DEVICES}/{uuids[0]}/remove", "1")

    assert errno_of(proc.read, fd, 100) == ENODEV
    assert errno_of(proc.write, fd, b"add") == ENODEV
    assert errno_of(proc.write, writer, b"1") == ENODEV


# ---- registering goes wrong


def test_a_parent_twice(toy, proc):
    """kset_create_and_add() has one way to say no."""
    assert errno_of(mdev_register_parent, MdevParent(), toy.dev, toy.driver, [MdevType("x")]) == ENOMEM
    assert sorted(proc.listdir(f"{toy.path}/mdev_supported_types")) == ["toy-one", "toy-two"]


def test_two_types_of_one_name(make_toy, proc):
    toy = make_toy()
    toy.types.append(MdevType("one"))

    assert errno_of(toy.register) == EEXIST
    assert "mdev_supported_types" not in proc.listdir("/sys/devices/virtual/toy/toy0")
    assert proc.listdir("/sys/class/mdev_bus") == []


def test_every_allocation_may_fail(kernel, make_toy, proc, uuids):
    """Whatever fails is undone."""
    toy = make_toy()
    for nth in range(1, 20):
        with kernel.faults.fail("alloc", nth=nth) as rule:
            errno = errno_of(toy.register)
        if not rule.fired:
            break
        assert errno == ENOMEM
        assert "mdev_supported_types" not in proc.listdir("/sys/devices/virtual/toy/toy0")
    assert proc.read_text(f"{toy.type()}/available_instances") == "2\n"


@pytest.mark.parametrize("errno", [EPROBE_DEFER])
def test_nobody_tries_a_deferred_device_again(kernel, toy, proc, uuids, errno):
    toy.driver.answer = err(errno)
    assert errno_of(proc.write_text, f"{toy.type()}/create", uuids[0]) != 0
    toy.driver.answer = None
    proc.write_text(f"{toy.type()}/create", uuids[1])
    kernel.sched.run_ready()

    assert toy.driver.log == [f"probe {uuids[0]}", f"probe {uuids[1]}"]
