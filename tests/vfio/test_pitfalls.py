"""What programs and emulators get wrong about VFIO and mediated devices: eighteen pitfalls, a test for each."""

from __future__ import annotations

import errno
import os
import re
import struct
import subprocess
import sys
from errno import EBUSY, EFAULT, EINVAL, ENODEV, ENOENT, ENOSPC, ENOTTY, EOVERFLOW, EUSERS
from typing import Any

import pytest
from errnos import errno_of
from iommufdclient import Iommufd
from vfioclient import Container, Device, anonymous, capabilities, detach, sysfs
from vfiotoy import get_device_fd, set_container

import pykernel
from pykernel.base.class_ import Class
from pykernel.base.core import Device as BaseDevice
from pykernel.machine import parse
from pykernel.mdev.ops import MdevParentOps, mdev_register_device, mdev_unregister_device
from pykernel.uapi.linux import iommufd as i
from pykernel.uapi.linux import vfio as v

EDU = "0000:00:05.0"
MACHINE = f"""
[[pci]]
model = "edu"
address = "{EDU}"
[modules]
vfio_iommu_type1 = ""
vfio_pci = ""
vfio_mdev = ""
mtty = ""
mdpy = ""
"""
PARENTS, DEVICES = "/sys/class/mdev_bus", "/sys/bus/mdev/devices"
INTX, MSI, ERR, REQ = 0, 1, 3, 4
NONE, EVENTFD, MASK, UNMASK, TRIGGER = 1, 4, 8, 16, 32
K = 4096


class World:
    """A machine with edu on vfio-pci, parents of mediated devices, and a client."""

    def __init__(self, profile: str) -> None:
        self.old = profile == "linux-6.1"
        self.kernel = pykernel.boot(parse(MACHINE), profile)
        self.kernel.up()
        self.proc = self.kernel.process()
        detach(self.proc, EDU)
        self.made = 0

    def uuid(self) -> str:
        self.made += 1
        return f"{self.made:08x}-0000-4000-8000-000000000000"

    def create(self, kind: str, uuid: str = "") -> str:
        """Where a mediated device of the type is."""
        uuid = uuid or self.uuid()
        self.proc.write_text(f"{PARENTS}/{kind.partition('-')[0]}/mdev_supported_types/{kind}/create", uuid)
        return f"{DEVICES}/{uuid[:36]}"

    def open(self, what: str) -> tuple[Container, Device]:
        """``edu``, or a new mediated device of that type, in a container of its own."""
        container = Container(self.proc)
        return container, container.device(sysfs(EDU) if what == "edu" else self.create(what))

    def group(self, path: str) -> int:
        return self.proc.open(f"/dev/vfio/{os.path.basename(self.proc.readlink(f'{path}/iommu_group'))}", os.O_RDWR)

    def result(self, fd: int, cmd: int, arg: Any = 0) -> int:
        """What an ioctl returns, or minus its errno."""
        try:
            return self.proc.ioctl(fd, cmd, arg)
        except OSError as e:
            return -(e.errno or 0)


@pytest.fixture(params=["linux-6.1", "linux-6.12"])
def w(request):
    world = World(request.param)
    yield world
    world.proc.exit()
    assert not world.kernel.oopses


# number: an argument, and what a container, a device of PCI and a group answer to it
SAME_NUMBERS = {
    0x3B70: (struct.pack("<I", 24) + bytes(20), 0, -ENODEV),  # IOMMU_GET_INFO, GET_PCI_HOT_RESET_INFO of a root bus
    0x3B71: (struct.pack("<IIQQQ", 32, 3, 0, 0, 0), -EINVAL, -EINVAL),  # MAP_DMA, PCI_HOT_RESET
    0x3B72: (struct.pack("<IIQQ", 24, 0, 0, K), 0, -ENOTTY),  # UNMAP_DMA, QUERY_GFX_PLANE
    0x3B73: (bytes(64), -ENOTTY, -ENOTTY),  # IOMMU_ENABLE, GET_GFX_DMABUF
    0x3B74: (struct.pack("<I", 27) + bytes(24), -ENOTTY, -EINVAL),  # IOMMU_DISABLE, IOEVENTFD
    0x3B75: (struct.pack("<II", 8, 1), 0, -EINVAL),  # DIRTY_PAGES START; FEATURE without GET or SET
}


@pytest.mark.parametrize("number", SAME_NUMBERS, ids=hex)
def test_pitfall_01_one_number_means_two_things(w, number):
    """Pitfall 1: 0x3b70 to 0x3b75 mean one thing to a container, another to a device, and nothing to a group."""
    arg, of_container, of_device = SAME_NUMBERS[number]
    container, device = w.open("edu")
    (group,) = container.groups.values()
    if number == 0x3B75:  # a device that has no migration looks at the feature first
        of_device = -ENOTTY

    assert w.result(container.fd, number, bytearray(arg)) == of_container
    assert w.result(device.fd, number, bytearray(arg)) == of_device
    assert w.result(group, number, bytearray(arg)) == -ENOTTY


def test_pitfall_02_some_arguments_are_pointers_and_some_are_values(w):
    """Pitfall 2: SET_CONTAINER takes a pointer to an int; SET_IOMMU and CHECK_EXTENSION the value itself."""
    c, g = w.proc.open("/dev/vfio/vfio", os.O_RDWR), w.group(sysfs(EDU))
    at = w.proc.mem.alloc(4)
    w.proc.mem.write(at, struct.pack("<I", v.VFIO_TYPE1v2_IOMMU))

    assert w.result(g, 0x3B68, c) == -EFAULT
    assert w.result(g, 0x3B68, bytearray(struct.pack("<i", c))) == 0
    assert (w.result(c, 0x3B65, at), w.result(c, 0x3B66, at)) == (0, -ENODEV)
    assert (w.result(c, 0x3B65, 3), w.result(c, 0x3B66, 3)) == (1, 0)


def test_pitfall_03_nothing_is_mapped_before_set_iommu(w):
    """Pitfall 3: EINVAL, neither ENODEV nor ENOTTY, with a group and without."""
    c, g = w.proc.open("/dev/vfio/vfio", os.O_RDWR), w.group(sysfs(EDU))
    row = struct.pack("<IIQQQ", 32, 3, anonymous(w.proc, K), 0, K)

    assert w.result(c, 0x3B71, bytearray(row)) == -EINVAL
    set_container(w.proc, g, c)
    assert w.result(c, 0x3B71, bytearray(row)) == -EINVAL
    w.proc.ioctl(c, v.VFIO_SET_IOMMU, v.VFIO_TYPE1v2_IOMMU)
    assert w.result(c, 0x3B71, bytearray(row)) == 0


def test_pitfall_04_a_group_is_opened_once(w):
    """Pitfall 4: EBUSY for the same process, too; dup() and fork() share what is open."""
    g = w.group(sysfs(EDU))
    child = w.proc.fork()
    assert errno_of(w.group, sysfs(EDU)) == EBUSY
    twin = w.proc.dup(g)
    w.proc.close(g)
    assert w.result(twin, 0x3B67, v.vfio_group_status(argsz=8)) == 0
    w.proc.close(twin)
    assert errno_of(w.group, sysfs(EDU)) == EBUSY
    child.exit()
    assert errno_of(w.group, sysfs(EDU)) == 0


# index, flags, start, count -> EINVAL before anybody looks at the action, ENOTTY for an action that an index has not
REFUSALS = {
    "an index that is none": (5, NONE | TRIGGER, 0, 1, EINVAL),
    "more than there are": (MSI, NONE | TRIGGER, 0, 33, EINVAL),
    "no kind of data": (MSI, TRIGGER, 0, 1, EINVAL),
    "an unknown flag": (MSI, NONE | TRIGGER | 0x40, 0, 1, EINVAL),
    "both wrong: the range first": (MSI, NONE | MASK, 0, 33, EINVAL),
    "no MASK of MSI": (MSI, NONE | MASK, 0, 1, ENOTTY),
    "no UNMASK of REQ": (REQ, NONE | UNMASK, 0, 1, ENOTTY),
    "no action": (INTX, NONE, 0, 1, ENOTTY),
    "two actions": (INTX, NONE | MASK | UNMASK, 0, 1, ENOTTY),
    "ERR of a conventional device has a count of 0": (ERR, NONE | TRIGGER, 0, 1, EINVAL),
    "not on": (INTX, NONE | TRIGGER, 0, 1, EINVAL),
}


@pytest.mark.parametrize("row", REFUSALS)
def test_pitfall_05_set_irqs_is_refused_in_two_ways(w, row):
    """Pitfall 5: EINVAL for what is malformed or is not on, ENOTTY for an action that the index does not have."""
    *args, wanted = REFUSALS[row]
    _, device = w.open("edu")
    assert errno_of(device.set_irqs, *args) == wanted


# device: what becomes of INTx, of a loopback then, and of MSI after it
MINUS_ONE = {"edu": (0, 0, EINVAL), "mtty-1": (0, EINVAL, 0)}


@pytest.mark.parametrize("what", MINUS_ONE)
def test_pitfall_06_minus_one_is_not_off(w, what):
    """Pitfall 6: -1 leaves vfio-pci's INTx on and silent, takes a vector of MSI away, and is off for mtty (6.12)."""
    wanted = MINUS_ONE[what]
    if w.old and what == "mtty-1":
        wanted = (0, 0, 0)  # it stores what is larger than 0 and looks at nothing
    _, device = w.open(what)
    fd = w.proc.eventfd(0, os.O_NONBLOCK)
    device.signal_by(INTX, [fd])

    got = errno_of(device.signal_by, INTX, [-1]), errno_of(device.trigger, INTX), errno_of(device.signal_by, MSI, [fd])

    assert got == wanted
    assert errno_of(w.proc.read, fd, 8) == errno.EAGAIN
    if what == "edu":
        device.disable(INTX)
        device.signal_by(MSI, [fd])
        device.signal_by(MSI, [-1])
        assert errno_of(device.trigger, MSI) == 0  # on, and nobody's
        assert errno_of(w.proc.read, fd, 8) == errno.EAGAIN
        device.disable(MSI)


@pytest.mark.parametrize(("kind", "instances", "wanted"), [("mdpy-vga", 4, EUSERS), ("mtty-1", 24, ENOSPC)])
def test_pitfall_07_whose_count_it_is(w, kind, instances, wanted):
    """Pitfall 7: EUSERS is the core's counter, ENOSPC a driver's own."""
    for _ in range(instances):
        w.create(kind)
    assert errno_of(w.create, kind) == wanted


def test_pitfall_08_remove_waits_for_who_has_the_device(w):
    """Pitfall 8: the write returns when the descriptor is closed; who asked for the REQ interrupt hears of it."""
    _, edu = w.open("edu")
    _, card = w.open("mtty-1")
    fd = w.proc.eventfd(0, os.O_NONBLOCK)
    edu.signal_by(REQ, [fd])
    remove = f"{DEVICES}/{w.proc.listdir(DEVICES)[0]}/remove"
    paths = ((remove, "1"), (f"{sysfs(EDU)}/driver/unbind", EDU))
    writers = [w.kernel.sched.spawn(lambda p=p, t=t: w.proc.write_text(p, t), client=True) for p, t in paths]
    w.kernel.sched.run_ready()

    assert w.proc.read(fd, 8) == (1).to_bytes(8, "little")
    assert [writer.done for writer in writers] == [False, False]
    for device in (card, edu):
        device.close()
    for writer in writers:
        writer.join()
    assert w.proc.listdir(DEVICES) == []


@pytest.mark.parametrize("tail", ["", "\n", "\0", "z"], ids=["mdevctl", "newline", "NUL", "z"])
def test_pitfall_09_the_37th_byte_of_create(w, tail):
    """Pitfall 9: any byte may follow the 36, which is what mdevctl writes; two may not."""
    uuid = w.uuid()
    assert errno_of(w.create, "mtty-1", f"{uuid}{tail}xx") == EINVAL
    path = w.create("mtty-1", uuid + tail)
    assert w.proc.listdir(DEVICES) == [os.path.basename(path)] == [uuid]


def test_pitfall_10_files_that_a_type_need_not_have(w):
    """Pitfall 10: ``description`` is a driver's own; with parents of the older shape so are the others."""
    files = {"available_instances", "create", "device_api", "devices", "name"}
    types = f"{PARENTS}/%s/mdev_supported_types/%s"
    assert set(w.proc.listdir(types % ("mtty", "mtty-1"))) == files
    assert set(w.proc.listdir(types % ("mdpy", "mdpy-vga"))) == files | {"description"}

    class_ = Class(w.kernel, "vendor")
    class_.register()
    dev = BaseDevice(w.kernel, "card", class_=class_)
    dev.register()
    ops = MdevParentOps(create=lambda *_: None, remove=lambda _: None, supported_type_groups={"old": ()})
    mdev_register_device(dev, ops)
    assert set(w.proc.listdir(types % ("card", "vendor-old"))) == {"create", "devices"}
    mdev_unregister_device(dev)


def test_pitfall_11_unmapping_nothing_and_parts(w):
    """Pitfall 11: nothing is success but of IOAS_UNMAP, which says ENOENT; a part is EINVAL of type 1, else ENOENT."""
    container, _ = w.open("mtty-1")
    at = anonymous(w.proc, 2 * K)
    assert container.unmap(0, K) == 0
    container.map(at, 0, 2 * K)
    assert errno_of(container.unmap, 0, K) == EINVAL
    if w.old:
        assert errno_of(w.proc.open, "/dev/iommu", os.O_RDWR) == ENOENT
        return
    iommu = Iommufd(w.proc)
    ioas = iommu.ioas()
    iommu(i.IOMMU_VFIO_IOAS, op=i.IOMMU_VFIO_IOAS_SET, ioas_id=ioas)
    unmap = lambda: w.result(iommu.fd, 0x3B72, v.vfio_iommu_type1_dma_unmap(argsz=24, iova=0, size=K))  # noqa: E731
    assert (unmap(), errno_of(iommu.unmap, ioas, 0, K)) == (0, ENOENT)
    iommu.map_fixed(ioas, at, 2 * K, 0)
    assert (unmap(), errno_of(iommu.unmap, ioas, 0, K)) == (-ENOENT, ENOENT)


@pytest.mark.parametrize("what", ["mtty-1", "edu"])
def test_pitfall_12_capabilities_of_iommu_get_info(w, what):
    """Pitfall 12: no ranges without a device behind an IOMMU; 12 bytes before them are not padded in Linux 6.1."""
    container, _ = w.open(what)
    buf = bytearray(struct.pack("<I", 256) + bytes(252))
    w.proc.ioctl(container.fd, v.VFIO_IOMMU_GET_INFO, buf)
    at, found = struct.unpack_from("<I", buf, 16)[0], {}
    while at:
        number, _, following = struct.unpack_from("<HHI", buf, at)
        found[number], at = at, following

    ranges = {v.VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE: 68 if w.old else 72} if what == "edu" else {}
    assert found == {v.VFIO_IOMMU_TYPE1_INFO_CAP_MIGRATION: 24, v.VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL: 56} | ranges
    assert set(capabilities(buf, 24)) == set(found)


@pytest.mark.parametrize("profile", ["linux-6.1", "linux-6.12", "linux-7.2"])
def test_pitfall_13_ranges_that_wrap(profile):
    """Pitfall 13: EINVAL up to Linux 6.17, EOVERFLOW from 6.18 on, of MAP and of UNMAP."""
    w = World(profile)
    container, _ = w.open("mtty-1")
    top = (1 << 64) - K
    wanted = EOVERFLOW if profile == "linux-7.2" else EINVAL

    assert errno_of(container.map, anonymous(w.proc, K), top, 2 * K) == wanted
    assert errno_of(container.map, top, 0, 2 * K) == wanted
    assert errno_of(container.unmap, top, 2 * K) == wanted
    w.proc.exit()


# what is asked, by argsz: how many bytes each kernel may write
GREW = [(16, 16, 16), (20, 20, 20), (24, 20, 24), (64, 20, 24)]


@pytest.mark.parametrize(("argsz", "old", "new"), GREW, ids=[str(row[0]) for row in GREW])
def test_pitfall_14_sizes_that_grew(w, argsz, old, new):
    """Pitfall 14: GET_INFO is answered by argsz, and nothing behind it is touched; so are BIND, ATTACH and DETACH."""
    _, device = w.open("edu")
    buf = bytearray(argsz.to_bytes(4, "little") + b"\xee" * 68)
    w.proc.ioctl(device.fd, v.VFIO_DEVICE_GET_INFO, buf)
    assert buf[4:16] == struct.pack("<III", v.VFIO_DEVICE_FLAGS_PCI | device.info.flags, 9, 5)
    n = old if w.old else new
    assert bytes(buf[16:]) == bytes(n - 16) + b"\xee" * (72 - n)
    if not w.old and argsz == 16:
        node_structs_are_as_long_as_argsz(w)


def node_structs_are_as_long_as_argsz(w) -> None:
    iommu, path = Iommufd(w.proc), w.create("mtty-1")
    fd = w.proc.open(f"/dev/vfio/devices/{w.proc.listdir(f'{path}/vfio-dev')[0]}", os.O_RDWR)
    at = w.proc.mem.alloc(64)
    for number, words in ((0x3B76, (16, 0, iommu.fd, 0)), (0x3B77, (12, 0, iommu.ioas())), (0x3B78, (8, 0))):
        for size in (words[0], 40):  # what is behind is not looked at either: it is newer than this kernel
            w.proc.mem.write(at, struct.pack(f"<{len(words)}I", size, *words[1:]) + b"\xee" * 40)
            if size == words[0] or number != 0x3B76:  # it is bound once
                assert w.result(fd, number, at) == 0
            assert w.proc.mem.read(at + words[0], 40) == b"\xee" * 40


def test_pitfall_15_mtty_wants_get_info_first(w):
    """Pitfall 15: it counts its interrupts when VFIO_DEVICE_GET_INFO is asked; before, it has none."""
    path, container = w.create("mtty-1"), Container(w.proc)
    group = container.group(os.path.basename(w.proc.readlink(f"{path}/iommu_group")))
    fd = get_device_fd(w.proc, group, os.path.basename(path))
    ask = lambda: w.result(fd, 0x3B6D, v.vfio_irq_info(argsz=16, index=INTX))  # noqa: E731
    off = lambda: w.result(fd, 0x3B6E, bytearray(struct.pack("<5I", 20, NONE | TRIGGER, INTX, 0, 0)))  # noqa: E731

    assert (ask(), off()) == (-EINVAL, -EINVAL)
    Device(w.proc, fd)
    assert ask() == 0
    assert off() == (0 if w.old else -EINVAL)  # later kernels say that nothing is on


def test_pitfall_16_offsets_are_what_the_device_says(w):
    """Pitfall 16: a region is at its ``offset``, which is its index << 40 of vfio-pci and mtty, and not of mdpy."""
    for what in ("edu", "mtty-1"):
        _, device = w.open(what)
        assert [device.region(n).info.offset for n in (0, 7)] == [0, 7 << 40]
        device.close()
    _, display = w.open("mdpy-vga")
    assert [display.region(n).info.offset for n in (7, 0)] == [0, K]
    assert display.config().read(0, 4).hex() == "361b0f00"
    assert errno_of(w.proc.pread, display.fd, 4, 7 << 40) == EFAULT


def test_pitfall_17_rare_errors_have_their_own_numbers(w):
    """Pitfall 17: EBADFD is 77 and not EBADF, EUSERS is 87, EDEADLOCK is EDEADLK; and that is what comes back."""
    assert (errno.EBADF, errno.EBADFD, EUSERS, errno.EDEADLK, errno.EDEADLOCK) == (9, 77, 87, 35, 35)
    group = w.group(sysfs(EDU))
    assert errno_of(set_container, w.proc, group, w.proc.eventfd()) == (EINVAL if w.old else 77)
    assert errno_of(set_container, w.proc, group, 99) == 9
    for _ in range(4):
        w.create("mdpy-vga")
    assert errno_of(w.create, "mdpy-vga") == 87


ASKING = """
import ctypes, os, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
with open("/sys/class/mdev_bus/mtty/mdev_supported_types/mtty-1/create", "w") as f:
    f.write("83b8f4f2-509f-382f-3c1e-e6bfe0fa1001")
group = os.open("/dev/vfio/0", os.O_RDWR)
status = ctypes.create_string_buffer(struct.pack("<II", 8, 7), 8)
print(libc.ioctl(group, ctypes.c_ulong(0x3B67), status), struct.unpack("<II", status))
print(libc.ioctl(group, ctypes.c_ulong(0x3B67), ctypes.c_void_p(8)), ctypes.get_errno())
"""


def test_pitfall_18_the_number_does_not_tell_a_size(w):
    """Pitfall 18: ``_IO`` has none, so FUSE carries no bytes: a program's are read where its pointer says."""
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        (pytest.fail if os.environ.get("CI") else pytest.skip)("no /dev/fuse here")
    run = [sys.executable, "-m", "pykernel.tools.cli", "run", "-m", "mdev", "-p", w.kernel.profile.name, "--"]
    done = subprocess.run([*run, "/usr/bin/python3", "-c", ASKING], capture_output=True, text=True, check=True)
    assert done.stdout == f"0 (8, {v.VFIO_GROUP_FLAGS_VIABLE})\n-1 {EFAULT}\n"


def test_each_pitfall_has_a_test() -> None:
    """1 to 18, by their names."""
    found = [re.match(r"test_pitfall_(\d+)_", name) for name in globals()]
    assert sorted(int(m[1]) for m in found if m) == list(range(1, 19))
