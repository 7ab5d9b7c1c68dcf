"""Parents of the older shape: a vendor's table of operations, one attribute group a type."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import replace
from errno import EEXIST, EINVAL, ENODEV, ENOMEM, ENOSPC, ENOTTY
from mmap import MAP_SHARED, PROT_READ

import pytest
from errnos import errno_of
from vfioclient import Container

import pykernel
from pykernel import machine
from pykernel.base.class_ import Class
from pykernel.base.core import Device
from pykernel.errors import err
from pykernel.fs.sysfs import Attribute
from pykernel.mdev.ops import (
    MdevParentOps,
    mdev_get_type_group_id,
    mdev_register_device,
    mdev_unregister_device,
    mtype_get_type_group_id,
)
from pykernel.uapi.linux import vfio as v

UUID = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001"
PARENT = "/sys/devices/virtual/vendor/card"
TYPES = f"{PARENT}/mdev_supported_types"
DEVICES = "/sys/bus/mdev/devices"


def shows(name: str, text: str) -> Attribute:
    return Attribute(name, lambda _kobj: text, None, 0o444)


class Vendor:
    """A driver as they were: it counts itself, and writes what files it likes."""

    def __init__(self, kernel) -> None:
        self.log: list[str] = []
        self.left = 2
        class_ = Class(kernel, "vendor")
        class_.register()
        self.dev = Device(kernel, "card", class_=class_)
        self.dev.register()
        index = Attribute("index", lambda mtype: f"{mtype_get_type_group_id(mtype)}\n", None, 0o444)
        self.ops = MdevParentOps(
            create=self.create,
            remove=self.remove,
            supported_type_groups={
                "small": (shows("name", "A small one\n"), shows("available_instances", "lots\n"), index),
                "bare": (index,),
            },
            mdev_attr_groups={"vendor": (Attribute("who", lambda mdev: f"{mdev.name}\n", None, 0o444),)},
            dev_attr_groups={"": (shows("version", "1\n"),), "more": (shows("text", "2\n"),)},
            open=lambda mdev: self.log.append("open"),
            release=lambda mdev: self.log.append("release"),
            read=lambda mdev, count, pos: bytes((pos,)) * count,
            write=lambda mdev, data, pos: len(data) - 1,
            ioctl=self.ioctl,
        )

    def create(self, mtype, mdev) -> None:
        self.log.append(f"create {mdev_get_type_group_id(mdev)} {mtype.name}")
        if not self.left:
            raise err(ENOSPC)
        self.left -= 1

    def remove(self, mdev) -> None:
        self.log.append("remove")
        self.left += 1

    def ioctl(self, mdev, cmd, arg) -> int:
        if cmd != v.VFIO_DEVICE_GET_INFO.nr:
            raise err(ENOTTY)
        return 5


@pytest.fixture(params=["linux-6.1", "linux-6.12"])
def kernel(request):
    k = pykernel.boot(machine.parse('[modules]\nvfio_iommu_type1 = ""\nvfio_mdev = ""\n'), request.param)
    k.up()
    yield k
    assert k.oopses == []


@pytest.fixture
def proc(kernel):
    return kernel.process()


@pytest.fixture
def vendor(kernel):
    return Vendor(kernel)


@pytest.fixture
def card(vendor):
    mdev_register_device(vendor.dev, vendor.ops)
    return vendor


def test_a_type_has_what_its_group_has(card, proc):
    """Pitfall: name, device_api and available_instances may be missing, or odd."""
    assert sorted(proc.listdir(TYPES)) == ["vendor-bare", "vendor-small"]
    assert sorted(proc.listdir(f"{TYPES}/vendor-bare")) == ["create", "devices", "index"]
    assert sorted(proc.listdir(f"{TYPES}/vendor-small")) == [
        "available_instances", "create", "devices", "index", "name"
    ]  # fmt: skip
    assert proc.read_text(f"{TYPES}/vendor-small/available_instances") == "lots\n"
    assert proc.read_text(f"{TYPES}/vendor-bare/index") == "1\n"


def test_groups_of_the_parent_and_of_its_devices(card, proc):
    proc.write_text(f"{TYPES}/vendor-small/create", UUID)

    assert proc.read_text(f"{PARENT}/version") == "1\n"
    assert proc.read_text(f"{PARENT}/more/text") == "2\n"
    assert proc.read_text(f"{DEVICES}/{UUID}/vendor/who") == f"{UUID}\n"
    assert proc.readlink(f"{DEVICES}/{UUID}/driver").endswith("/vfio_mdev")

    mdev_unregister_device(card.dev)
    assert not {"version", "more", "mdev_supported_types"} & set(proc.listdir(PARENT))
    assert card.log == ["create 0 vendor-small", "remove"]


def test_a_vendor_counts_itself(card, proc):
    """And gives the errno that it likes; nothing was made, so nothing is removed."""
    for n in range(2):
        proc.write_text(f"{TYPES}/vendor-bare/create", UUID.replace("8", str(n)))

    assert errno_of(proc.write_text, f"{TYPES}/vendor-bare/create", UUID) == ENOSPC
    assert Counter(card.log) == {"create 1 vendor-bare": 3}
    assert len(proc.listdir(DEVICES)) == 2


def test_a_device_that_is_not_registered_is_removed(kernel, card, proc):
    for nth in range(1, 30):
        with kernel.faults.fail("alloc", nth=nth) as rule:
            errno = errno_of(proc.write_text, f"{TYPES}/vendor-bare/create", UUID)
        if not rule.fired:
            return
        if not errno:
            proc.write_text(f"{DEVICES}/{UUID}/remove", "1")
        assert errno in (0, ENOMEM)
        assert (card.left, proc.listdir(DEVICES)) == (2, [])
    pytest.fail("create asks for memory without an end")


def test_a_remove_that_fails_is_told(kernel, vendor, proc):
    def remove(mdev):
        raise err(EINVAL)

    mdev_register_device(vendor.dev, replace(vendor.ops, remove=remove))
    proc.write_text(f"{TYPES}/vendor-bare/create", UUID)
    proc.write_text(f"{DEVICES}/{UUID}/remove", "1")

    assert f"vfio_mdev {UUID}: Remove failed: err=-22" in [r.text for r in kernel.log.records]
    assert proc.listdir(DEVICES) == []


def test_the_calls_of_vfio(card, proc):
    proc.write_text(f"{TYPES}/vendor-bare/create", UUID)
    container = Container(proc)
    group = container.group(os.path.basename(proc.readlink(f"{DEVICES}/{UUID}/iommu_group")))
    fd = proc.ioctl(group, v.VFIO_GROUP_GET_DEVICE_FD, bytearray(UUID.encode() + b"\0"))

    assert proc.pread(fd, 3, 7) == b"\7\7\7"
    assert proc.pwrite(fd, b"1234", 0) == 3
    assert proc.ioctl(fd, v.VFIO_DEVICE_GET_INFO, 0) == 5
    assert errno_of(proc.ioctl, fd, v.VFIO_DEVICE_RESET, 0) == ENOTTY
    assert errno_of(proc.mmap, 0, 4096, PROT_READ, MAP_SHARED, fd) == EINVAL
    proc.close(fd)
    assert card.log == ["create 1 vendor-bare", "open", "release"]


@pytest.mark.parametrize("missing", ["create", "remove", "supported_type_groups"])
def test_what_a_parent_must_have(vendor, missing):
    ops = replace(vendor.ops, **{missing: {} if missing.endswith("groups") else None})

    assert errno_of(mdev_register_device, vendor.dev, ops) == EINVAL


@pytest.mark.parametrize("missing", ["open", "read", "write", "ioctl"])
def test_what_a_parent_need_not_have(vendor, proc, missing):
    mdev_register_device(vendor.dev, replace(vendor.ops, **{missing: None}))
    proc.write_text(f"{TYPES}/vendor-bare/create", UUID)
    container = Container(proc)
    group = container.group(os.path.basename(proc.readlink(f"{DEVICES}/{UUID}/iommu_group")))
    name = bytearray(UUID.encode() + b"\0")
    if missing == "open":
        assert errno_of(proc.ioctl, group, v.VFIO_GROUP_GET_DEVICE_FD, name) == EINVAL
        return
    fd = proc.ioctl(group, v.VFIO_GROUP_GET_DEVICE_FD, name)
    calls = {"read": (proc.pread, fd, 1, 0), "write": (proc.pwrite, fd, b"x", 0), "ioctl": (proc.ioctl, fd, 0x3B6B, 0)}

    assert errno_of(*calls[missing]) == EINVAL


def test_a_parent_twice(card):
    assert errno_of(mdev_register_device, card.dev, card.ops) == EEXIST


def test_without_its_bus_driver(kernel, vendor):
    kernel.modules.rmmod("vfio_mdev")

    assert errno_of(mdev_register_device, vendor.dev, vendor.ops) == ENODEV
    mdev_unregister_device(vendor.dev)  # no parent: nothing to do


def test_groups_that_collide(vendor, proc):
    """What was made is taken back."""
    ops = replace(vendor.ops, dev_attr_groups={"a": (), "": (shows("x", "1\n"), shows("x", "2\n"))})

    assert errno_of(mdev_register_device, vendor.dev, ops) == EEXIST
    assert not {"a", "x"} & set(proc.listdir(PARENT))
    ops = replace(vendor.ops, supported_type_groups={"t": (shows("create", "1\n"),)})
    assert errno_of(mdev_register_device, vendor.dev, ops) == EEXIST
    assert not {"version", "more", "mdev_supported_types"} & set(proc.listdir(PARENT))
