"""
Mediated devices: a row for each rule of drivers/vfio/mdev and of the sysfs below it, and for what vendors' tables were.

With mtty and mdpy for what takes VFIO, and with the toy of this directory for what takes a driver that obeys.
"""

from __future__ import annotations

import os
import stat
from errno import (
    EACCES,
    EAGAIN,
    EEXIST,
    EINVAL,
    EISDIR,
    ENODEV,
    ENOENT,
    ENOMEM,
    ENOSPC,
    ENOTDIR,
    EPERM,
    EUSERS,
)
from typing import Any

import pytest
from errnos import errno_of
from vfioclient import Container

import pykernel
from pykernel.base.class_ import Class
from pykernel.base.core import Device
from pykernel.errors import EPROBE_DEFER, err
from pykernel.fs.sysfs import Attribute
from pykernel.machine import parse
from pykernel.mdev import MdevDriver, MdevParent, MdevType, mdev_register_driver, mdev_register_parent
from pykernel.mdev.ops import (
    MdevParentOps,
    OpsDriver,
    mdev_get_type_group_id,
    mdev_register_device,
    mdev_unregister_device,
)

UUID = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001"
DEVICES = "/sys/bus/mdev/devices"
MACHINE = '[modules]\nvfio_iommu_type1 = ""\nvfio_mdev = ""\nmtty = ""\nmdpy = ""\n'


@pytest.fixture
def samples(profile):
    """Linux's samples, loaded, and a card of two ports."""
    kernel = pykernel.boot(parse(MACHINE), profile)
    kernel.up()
    proc = kernel.process()
    proc.write_text("/sys/class/mdev_bus/mtty/mdev_supported_types/mtty-2/create", UUID.upper())
    yield proc
    proc.exit()
    assert kernel.oopses == []


# ---- the tree

DIR, FILE, LINK = stat.S_IFDIR | 0o755, stat.S_IFREG, stat.S_IFLNK | 0o777
TREE: dict[str, tuple[int, str | None]] = {
    # below the parent, or from / on: its kind and mode, and what is in it or where it leads
    "/sys/class/mdev_bus": (DIR, None),
    "/sys/class/mdev_bus/mtty": (LINK, "../../devices/virtual/mtty/mtty"),
    "mdev_supported_types": (DIR, None),
    "mdev_supported_types/mtty-2": (DIR, None),
    "mdev_supported_types/mtty-2/create": (FILE | 0o200, None),
    "mdev_supported_types/mtty-2/available_instances": (FILE | 0o444, "11\n"),
    "mdev_supported_types/mtty-2/device_api": (FILE | 0o444, "vfio-pci\n"),
    "mdev_supported_types/mtty-2/name": (FILE | 0o444, "Dual port serial\n"),
    "mdev_supported_types/mtty-2/devices": (DIR, None),
    "mdev_supported_types/mtty-2/devices/UUID": (LINK, "../../../UUID"),
    "UUID": (DIR, None),
    "UUID/remove": (FILE | 0o200, None),
    "UUID/mdev_type": (LINK, "../mdev_supported_types/mtty-2"),
    "UUID/iommu_group": (LINK, "../../../../../kernel/iommu_groups/0"),
    "UUID/driver": (LINK, "../../../../../bus/mdev/drivers/mtty"),
    "UUID/subsystem": (LINK, "../../../../../bus/mdev"),
    "UUID/power": (DIR, None),
    "UUID/uevent": (FILE | 0o644, "DRIVER=mtty\n"),
    "UUID/vfio-dev": (DIR, None),
    "UUID/vfio-dev/vfio0": (DIR, None),
    "UUID/vendor/sample_mdev_dev": (FILE | 0o444, "This is MDEV UUID\n"),
    "/sys/bus/mdev/devices/UUID": (LINK, "../../../devices/virtual/mtty/mtty/UUID"),
    "/sys/bus/mdev/drivers/mtty": (DIR, None),
    "/sys/bus/mdev/drivers/mtty/bind": (FILE | 0o200, None),
    "/sys/bus/mdev/drivers/mtty/unbind": (FILE | 0o200, None),
    "/sys/bus/mdev/drivers/mtty/uevent": (FILE | 0o200, None),
    "/sys/bus/mdev/drivers/mtty/module": (LINK, "../../../../module/mtty"),
    "/sys/bus/mdev/drivers/mtty/UUID": (LINK, "../../../../devices/virtual/mtty/mtty/UUID"),
    "/sys/bus/mdev/drivers_probe": (FILE | 0o200, None),
    "/sys/bus/mdev/drivers_autoprobe": (FILE | 0o644, "1\n"),
    "/sys/bus/mdev/uevent": (FILE | 0o200, None),
    "/sys/kernel/iommu_groups/0/name": (FILE | 0o444, "vfio-noiommu\n"),
    "/sys/kernel/iommu_groups/0/type": (FILE | 0o644, "unknown\n"),
    "/sys/kernel/iommu_groups/0/reserved_regions": (FILE | 0o444, ""),
    "/sys/kernel/iommu_groups/0/devices/UUID": (LINK, "../../../../devices/virtual/mtty/mtty/UUID"),
    "/sys/class/vfio/0": (LINK, "../../devices/virtual/vfio/0"),
    "/sys/class/vfio-dev/vfio0": (LINK, "../../devices/virtual/mtty/mtty/UUID/vfio-dev/vfio0"),
    "/dev/vfio/0": (stat.S_IFCHR | 0o600, None),
    "/dev/vfio/vfio": (stat.S_IFCHR | 0o666, None),
}


@pytest.mark.parametrize("row", TREE)
def test_tree(samples, row):
    mode, wanted = TREE[row]
    path = (row if row.startswith("/") else f"/sys/devices/virtual/mtty/mtty/{row}").replace("UUID", UUID)
    assert oct(samples.lstat(path).st_mode) == oct(mode)
    if wanted is not None:
        found = samples.readlink(path) if mode == LINK else samples.read_text(path)
        assert found == wanted.replace("UUID", UUID)


NOT_THERE = {
    "description": "/sys/class/mdev_bus/mtty/mdev_supported_types/mtty-2/description",
    "a number of noiommu": "/dev/vfio/noiommu-0",
    "dev of a device": f"{DEVICES}/{UUID}/dev",
}


@pytest.mark.parametrize("row", NOT_THERE)
def test_what_is_not_there(samples, row):
    assert errno_of(samples.lstat, NOT_THERE[row]) == ENOENT


def test_a_number_where_there_is_a_node(samples, profile):
    """From Linux 6.6 on with CONFIG_VFIO_DEVICE_CDEV: the file ``dev``, and the node that it tells."""
    files = samples.listdir(f"{DEVICES}/{UUID}/vfio-dev/vfio0")
    assert ("dev" in files) == (profile != "linux-6.1")
    if "dev" in files:
        node = samples.stat("/dev/vfio/devices/vfio0")
        number = f"{os.major(node.st_rdev)}:{os.minor(node.st_rdev)}\n"
        assert samples.read_text(f"{DEVICES}/{UUID}/vfio-dev/vfio0/dev") == number


# ---- the name of a type

NAMES = {"class": ["toy-small"], "bus": ["mdev-small"], "driver": ["toydrv-small"]}


@pytest.mark.parametrize("what", NAMES)
def test_type_id(toy, proc, uuids, what):
    """dev_driver_string(): of the parent's driver, else its bus, else its class."""
    dev = Device(toy.kernel, "other", class_=toy.dev.class_)
    if what == "class":
        dev.register()
    else:
        proc.write_text(f"{toy.type()}/create", uuids[0])
        dev = toy.kernel.sub(type(toy.driver.bus)).devices[uuids[0]]
        if what == "bus":
            proc.write_text("/sys/bus/mdev/drivers/toydrv/unbind", uuids[0])
    mdev_register_parent(MdevParent(), dev, toy.driver, [MdevType("small")])
    assert proc.listdir(f"/sys/class/mdev_bus/{dev.name}/mdev_supported_types") == NAMES[what]


SAMPLES = {"mtty": ["mtty-1", "mtty-2"], "mdpy": ["mdpy-hd", "mdpy-vga", "mdpy-xga"]}


@pytest.mark.parametrize("parent", SAMPLES)
def test_type_ids_of_samples(samples, parent):
    assert sorted(samples.listdir(f"/sys/class/mdev_bus/{parent}/mdev_supported_types")) == SAMPLES[parent]


# ---- create: each row breaks a rule, and those after it as far as that goes

NO_UUID = "x" * 36
CREATES: dict[str, tuple[str, int]] = {
    # what is written: the answer
    "35 bytes": (UUID[:35], EINVAL),
    "38 bytes": (UUID + "\n\n", EINVAL),
    "no UUID": (NO_UUID, EINVAL),
    "no UUID, though it is there": (UUID.replace("-", "_"), EINVAL),
    "it is there, none are left": (UUID, EEXIST),
    "none are left, no memory": (UUID.replace("8", "9"), EUSERS),
    "no memory, the parent goes": (UUID.replace("8", "9"), ENOMEM),
    "the parent goes, it cannot be added": (UUID.replace("8", "9"), ENODEV),
    "it cannot be added, nor probed": (UUID.replace("8", "9"), EEXIST),
    "probe: ENOSPC": (UUID.replace("8", "9"), ENOSPC),
    "probe: later": (UUID.replace("8", "9"), EAGAIN),
    "36 bytes": (UUID.replace("8", "9"), 0),
    "37 bytes": (UUID.replace("8", "9") + "z", 0),
    "upper case": (UUID.replace("8", "9").upper(), 0),
}


@pytest.mark.parametrize("row", CREATES)
def test_create(kernel, toy, proc, row):
    """create_store() and mdev_device_create(), the rules in their order; of the core's count 2 may be."""
    text, wanted = CREATES[row]
    proc.write_text(f"{toy.type()}/create", UUID)
    rules = list(CREATES)
    here = rules.index(row)
    if wanted:  # all rules from here on are broken
        toy.parent.available_instances = 0 if here <= rules.index("none are left, no memory") else 1
        toy.driver.answer = err(EPROBE_DEFER if row == "probe: later" else ENOSPC)
        if here <= rules.index("it cannot be added, nor probed"):
            toy.dev.dir.create_dir(UUID.replace("8", "9"))
    going = bool(wanted) and here <= rules.index("the parent goes, it cannot be added")
    if going:
        toy.parent.unreg_sem.down_write()
    nothing = bool(wanted) and here <= rules.index("no memory, the parent goes")
    with kernel.faults.fail("alloc", "mdev_device", nth=1 if nothing else 99):
        got = errno_of(proc.write_text, f"{toy.type()}/create", text)
    if going:
        toy.parent.unreg_sem.up_write()
    assert got == wanted
    assert sorted(proc.listdir(DEVICES)) == sorted([UUID] + [text[:36].lower()] * (not wanted))


# ---- remove: what the core says

REMOVES = {"active": 0, "not active yet": EAGAIN, "the parent goes": ENODEV, "gone": ENODEV}


@pytest.mark.parametrize("row", REMOVES)
def test_remove(toy, proc, row):
    """remove_store() and mdev_device_remove(); whatever it is, the file is gone."""
    proc.write_text(f"{toy.type()}/create", UUID)
    mdev = toy.kernel.sub(type(toy.driver.bus)).devices[UUID]
    path = f"{DEVICES}/{UUID}/remove"
    fd = proc.open(path, os.O_WRONLY)
    if row == "not active yet":
        mdev.active = False
    elif row == "the parent goes":
        toy.parent.unreg_sem.down_write()
    elif row == "gone":
        proc.write_text(path, "1")
    assert errno_of(proc.write, fd, b"1") == REMOVES[row]
    if row == "the parent goes":
        toy.parent.unreg_sem.up_write()
    assert errno_of(proc.open, path, os.O_WRONLY) == ENOENT


# ---- sysfs


def _sliced(proc: Any, path: str) -> Any:
    fd = proc.open(f"{path}/name", os.O_RDONLY)
    return [proc.pread(fd, 4, 0), proc.read(fd, 4), proc.read(fd, 100), proc.read(fd, 100)]


def _page(proc: Any, path: str) -> int:
    fd = proc.open(f"{path}/create", os.O_WRONLY)
    return errno_of(proc.write, fd, UUID.encode() + bytes(5000)) or 0


SYSFS: dict[str, tuple[Any, Any]] = {
    "read of a file to write": (lambda p, t: errno_of(p.open, f"{t}/create", os.O_RDONLY), EACCES),
    "write of a file to read": (lambda p, t: errno_of(p.open, f"{t}/name", os.O_WRONLY), EACCES),
    "O_CREAT and O_TRUNC": (lambda p, t: errno_of(p.open, f"{t}/create", 0o1101, 0o666), 0),
    "a new file": (lambda p, t: errno_of(p.open, f"{t}/new", os.O_WRONLY | os.O_CREAT, 0o666), EACCES),
    "unlink": (lambda p, t: errno_of(p.unlink, f"{t}/create"), EPERM),
    "mkdir": (lambda p, t: errno_of(p.mkdir, f"{t}/new"), EPERM),
    "rmdir": (lambda p, t: errno_of(p.rmdir, f"{t}/devices"), EPERM),
    "read of a directory": (lambda p, t: errno_of(p.read_text, f"{t}/devices"), EISDIR),
    "a file is no directory": (lambda p, t: errno_of(p.stat, f"{t}/name/x"), ENOTDIR),
    "readlink of a directory": (lambda p, t: errno_of(p.readlink, f"{t}/devices"), EINVAL),
    "size": (lambda p, t: p.stat(f"{t}/name").st_size, 4096),
    "made once and sliced": (_sliced, [b"The ", b"The ", b"first\n", b""]),
    "a write of more than a page": (_page, EINVAL),
}


@pytest.mark.parametrize("row", SYSFS)
def test_sysfs(toy, proc, row):
    """fs/kernfs/file.c, fs/sysfs/file.c; root is no exception."""
    ask, wanted = SYSFS[row]
    assert ask(proc, toy.type()) == wanted


# ---- a parent comes and goes

EVENTS = {
    "registered": (["change"], "registered"),
    "unregistered": (["unbind", "remove", "change"], "unregistered"),
}


@pytest.mark.parametrize("state", EVENTS)
def test_uevents_of_a_parent(make_toy, proc, events, state):
    toy = make_toy()
    if state == "unregistered":
        toy.register()
        proc.write_text(f"{toy.type()}/create", UUID)
    events.clear()
    if state == "registered":
        toy.register()
    else:
        pykernel.mdev.mdev_unregister_parent(toy.parent)
    actions, told = EVENTS[state]
    assert [e["ACTION"] for e in events] == actions
    assert events[-1]["MDEV_STATE"] == told


def test_a_module_whose_card_is_open(samples, profile):
    """delete_module(2) is EWOULDBLOCK, as the device holds the module; rmmod(8) looks before, and says EBUSY."""
    device = Container(samples).device(f"{DEVICES}/{UUID}")
    kernel = samples.kernel
    assert errno_of(kernel.modules.rmmod, "mtty") == EAGAIN
    device.close()
    samples.write_text(f"{DEVICES}/{UUID}/remove", "1")
    assert errno_of(kernel.modules.rmmod, "mtty") == 0


# ---- what a vendor gave to the core: a table until Linux 5.18, with or without a bus driver of its own; then a driver


class Own(OpsDriver):
    """A bus driver of the vendor's, from Linux 5.13 on."""

    def __init__(self, kernel: Any) -> None:
        super().__init__(kernel, "own")
        self.log: list[str] = []

    def mdev_probe(self, mdev: Any) -> None:
        self.log.append("probe")

    def mdev_remove(self, mdev: Any) -> None:
        self.log.append("remove")


class Today(MdevDriver):
    """A driver as from Linux 6.1 on."""

    device_api = "vfio-pci"
    max_instances = 1


class Vendor:
    """A parent of one of the three shapes."""

    def __init__(self, kernel: Any, shape: str) -> None:
        self.kernel, self.shape = kernel, shape
        class_ = Class(kernel, "vendor")
        class_.register()
        self.dev = Device(kernel, "card", class_=class_)
        self.dev.register()
        self.log: list[Any] = []
        self.driver: Any = {"4.10": None, "5.13": Own, "6.1": Today}[shape]
        if self.driver is Own:
            self.driver = Own(kernel)
        elif self.driver is Today:
            self.driver = Today(kernel, "today")
        if self.driver is not None:
            mdev_register_driver(self.driver)

    def table(self) -> MdevParentOps:
        shown = Attribute("name", lambda _: "odd", None, 0o444)
        return MdevParentOps(
            create=lambda mtype, mdev: self.log.append(("create", mdev_get_type_group_id(mdev))),
            remove=lambda mdev: self.log.append(("remove",)),
            supported_type_groups={"one": (shown,), "two": ()},
            device_driver=self.driver,
        )

    def register(self) -> None:
        if self.shape == "6.1":
            mdev_register_parent(MdevParent(), self.dev, self.driver, [MdevType("one", "One"), MdevType("two")])
        else:
            mdev_register_device(self.dev, self.table())


FILES = ["available_instances", "create", "device_api", "devices", "name"]
SHAPES: dict[str, tuple[str, list[str], list[str], str, int | None]] = {
    # the driver that is bound, files of each type, its name, a second registration
    "4.10": ("vfio_mdev", ["create", "devices", "name"], ["create", "devices"], "odd", EEXIST),
    "5.13": ("own", ["create", "devices", "name"], ["create", "devices"], "odd", EEXIST),
    "6.1": ("today", FILES, FILES, "One\n", ENOMEM),  # kset_create_and_add() has one way to say no
}


@pytest.mark.parametrize("shape", SHAPES)
def test_parents_over_time(samples, shape):
    bound, one, two, name, again = SHAPES[shape]
    vendor = Vendor(samples.kernel, shape)
    vendor.register()
    types = "/sys/class/mdev_bus/card/mdev_supported_types"
    assert [sorted(samples.listdir(f"{types}/vendor-{kind}")) for kind in ("one", "two")] == [one, two]
    assert samples.read_text(f"{types}/vendor-one/name") == name
    assert errno_of(vendor.register) == again

    uuid = UUID.replace("8", "7")
    samples.write_text(f"{types}/vendor-two/create", uuid)
    assert samples.readlink(f"{DEVICES}/{uuid}/driver").rpartition("/")[2] == bound
    samples.write_text(f"{DEVICES}/{uuid}/remove", "1")
    assert vendor.log == ([] if shape == "6.1" else [("create", 1), ("remove",)])
    if shape == "5.13":
        assert vendor.driver.log == ["probe", "remove"]
    if shape != "6.1":
        mdev_unregister_device(vendor.dev)


MUST = {"create": EINVAL, "remove": EINVAL, "supported_type_groups": EINVAL, "open": 0, "ioctl": 0}


@pytest.mark.parametrize("missing", MUST)
def test_what_a_table_must_have(samples, missing):
    vendor = Vendor(samples.kernel, "4.10")
    table = vendor.table()
    setattr(table, missing, {} if missing.endswith("groups") else None)
    assert errno_of(mdev_register_device, vendor.dev, table) == MUST[missing]


COUNTS = {"mdpy": EUSERS, "mtty": ENOSPC}


@pytest.mark.parametrize("parent", COUNTS)
def test_who_counts(samples, parent):
    """The core for a driver without get_available(), else the driver."""
    kind, n = {"mdpy": ("mdpy-vga", 4), "mtty": ("mtty-1", 22)}[parent]
    path = f"/sys/class/mdev_bus/{parent}/mdev_supported_types/{kind}"
    assert samples.read_text(f"{path}/available_instances") == f"{n}\n"
    for k in range(n):
        samples.write_text(f"{path}/create", f"{k:08x}{UUID[8:]}")
    assert errno_of(samples.write_text, f"{path}/create", UUID.replace("8", "6")) == COUNTS[parent]
