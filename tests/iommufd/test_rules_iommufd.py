"""
IOMMUFD: a row for each rule of Linux 6.12 on its objects, options and queues, on VFIO's ioctls and on nodes of devices.

Maps, copies, unmaps, page tables and bitmaps have their rows in test_commands.py, sizes and reserved fields, too.
"""

from __future__ import annotations

import os
import struct
from errno import (
    EADDRINUSE,
    EBADF,
    EBADFD,
    EBUSY,
    EDEADLK,
    EFAULT,
    EINVAL,
    EMSGSIZE,
    ENODEV,
    ENOENT,
    ENOTTY,
    EOPNOTSUPP,
    EPERM,
    ESPIPE,
)
from typing import Any

import pytest
from errnos import errno_of
from iommufdclient import ALL, PAGE, Cdev, Iommufd
from vfioclient import RW, detach, sysfs
from vfiominimal import add_minimal, remove_minimal
from vfiotoy import open_group, set_container

from pykernel.pci.core import Pci
from pykernel.syscalls import Pids
from pykernel.uapi.linux import iommufd as i
from pykernel.uapi.linux import vfio as v
from pykernel.vfio.main import vfio_pin_pages, vfio_unpin_pages

RLIMIT, HUGE = i.IOMMU_OPTION_RLIMIT_MODE, i.IOMMU_OPTION_HUGE_PAGES
SET, GET = i.IOMMU_OPTION_OP_SET, i.IOMMU_OPTION_OP_GET


class World:
    """A context with an IOAS, memory, edu on vfio-pci and an emulated device; what a row needs more it makes."""

    def __init__(self, kernel: Any, proc: Any, buffer: int) -> None:
        self.kernel, self.proc, self.buffer = kernel, proc, buffer
        self.iommu = Iommufd(proc)
        self.ioas = self.iommu.ioas()
        self.minimal = add_minimal(kernel)
        self.minimal.dma_unmap = lambda iova, length: None  # type: ignore[method-assign]

    def card(self) -> Cdev:
        """The node of edu, bound."""
        if self.kernel.sub(Pci).devices["0000:00:05.0"].driver is None:
            detach(self.proc, "0000:00:05.0")
        return Cdev(self.proc, sysfs("0000:00:05.0"))

    def node(self) -> Cdev:
        """The node of the emulated device."""
        return Cdev(self.proc, "/sys/devices/minimal0")

    def bound(self, what: str = "card") -> tuple[Cdev, int]:
        cdev = self.card() if what == "card" else self.node()
        return cdev, cdev.bind(self.iommu.fd)

    def attached(self, what: str = "card") -> tuple[Cdev, int]:
        """Its node, and what it is attached to."""
        cdev, _ = self.bound(what)
        return cdev, cdev.attach(self.ioas)

    def compat(self) -> Iommufd:
        self.iommu(i.IOMMU_VFIO_IOAS, op=i.IOMMU_VFIO_IOAS_SET, ioas_id=self.ioas)
        return self.iommu

    def result(self, fd: int, cmd: Any, arg: Any = 0) -> int:
        """What an ioctl returns, or minus its errno."""
        try:
            return int(self.proc.ioctl(fd, cmd, arg))
        except OSError as e:
            return -(e.errno or 0)

    def said(self, fn: Any, *args: Any, **kw: Any) -> int:
        """0, or minus the errno."""
        return -(errno_of(lambda: fn(*args, **kw)) or 0)


@pytest.fixture
def w(kernel, proc, buffer):
    world = World(kernel, proc, buffer)
    yield world
    for process in list(kernel.sub(Pids).processes.values()):
        process.exit()
    remove_minimal(world.minimal)


Rows = dict[str, tuple[Any, Any]]


def check(w: World, rows: Rows, row: str) -> None:
    ask, wanted = rows[row]
    assert ask(w) == wanted


# ---- numbers that Linux 6.12 does not have

NEWER = {
    "IOAS_MAP_FILE": 0x8F, "VIOMMU_ALLOC": 0x90, "VDEVICE_ALLOC": 0x91, "IOAS_CHANGE_PROCESS": 0x92,
    "VEVENTQ_ALLOC": 0x93, "HW_QUEUE_ALLOC": 0x94, "0x95": 0x95, "IOMMU_TEST_CMD": 0xA0,
}  # fmt: skip


@pytest.mark.parametrize("name", NEWER)
def test_newer_commands(w, name):
    assert w.result(w.iommu.fd, 0x3B00 + NEWER[name], bytearray(struct.pack("<I", 64) + bytes(60))) == -ENOTTY


# ---- IOMMU_DESTROY


def _destroy(w: World, what: str) -> int:
    iommu = w.iommu
    if what == "mapped":
        iommu.map_fixed(w.ioas, w.buffer, PAGE, 0)
        return w.said(iommu.destroy, w.ioas)
    if what in ("used by a device", "the page table of it"):
        _, pt = w.attached()
        return w.said(iommu.destroy, w.ioas if what == "used by a device" else pt)
    if what == "used by an access":
        w.attached("node")
        return w.said(iommu.destroy, w.ioas)
    _, device = w.bound()
    if what == "a device":
        return w.said(iommu.destroy, device)
    parent = iommu.hwpt(device, w.ioas, i.IOMMU_HWPT_ALLOC_NEST_PARENT)
    if what == "used by a page table":
        return w.said(iommu.destroy, w.ioas)
    if what == "a parent":
        data = iommu.put(bytes(i.iommu_hwpt_vtd_s1(addr_width=48)))
        iommu.hwpt(device, parent, data_type=i.IOMMU_HWPT_DATA_VTD_S1, data_len=24, data_uptr=data)
    return w.said(iommu.destroy, parent)


DESTROYS: Rows = {
    "0": (lambda w: w.said(w.iommu.destroy, 0), -ENOENT),
    "unknown": (lambda w: w.said(w.iommu.destroy, 99), -ENOENT),
    "twice": (lambda w: (w.iommu.destroy(w.ioas), w.said(w.iommu.destroy, w.ioas))[1], -ENOENT),
    "an IOAS": (lambda w: w.said(w.iommu.destroy, w.ioas), 0),
    "an IOAS with areas": (lambda w: _destroy(w, "mapped"), 0),
    "an IOAS of a device": (lambda w: _destroy(w, "used by a device"), -EBUSY),
    "an IOAS of an emulated device": (lambda w: _destroy(w, "used by an access"), -EBUSY),
    "an IOAS of a page table": (lambda w: _destroy(w, "used by a page table"), -EBUSY),
    "a page table": (lambda w: _destroy(w, "a page table"), 0),
    "a page table of a device": (lambda w: _destroy(w, "the page table of it"), -EBUSY),
    "a parent with a child": (lambda w: _destroy(w, "a parent"), -EBUSY),
    "a device": (lambda w: _destroy(w, "a device"), -EBUSY),
    "another context's": (lambda w: w.said(Iommufd(w.proc).destroy, w.ioas), -ENOENT),
}


@pytest.mark.parametrize("row", DESTROYS)
def test_destroy(w, row):
    """drivers/iommu/iommufd/main.c:iommufd_destroy(); a device that is bound is in use by VFIO."""
    check(w, DESTROYS, row)


# ---- IOMMU_IOAS_IOVA_RANGES


def _ranges(w: World, room: int, at: int | None = None) -> tuple[int, int, list[int], int]:
    """The answer, the count that comes back, what was filled, the alignment."""
    at = w.iommu.put(b"\xaa" * 64) if at is None else at
    cmd = i.iommu_ioas_iova_ranges(size=32, ioas_id=w.ioas, num_iovas=room, allowed_iovas=at)
    code = w.result(w.iommu.fd, i.IOMMU_IOAS_IOVA_RANGES, cmd)
    data = w.proc.mem.read(at, 64) if at > PAGE else b""
    words = list(struct.unpack("<8Q", data)) if data else []
    return code, int(cmd.num_iovas), [x for x in words if x != 0xAAAAAAAAAAAAAAAA], int(cmd.out_iova_alignment)


ENDS = [0, 0xFEDFFFFF, 0xFEF00000, (1 << 48) - 1]
RANGES: Rows = {
    "no room": (lambda w: _ranges(w, 0)[:3], (-EMSGSIZE, 1, [])),
    "fresh": (lambda w: _ranges(w, 4), (0, 1, [0, ALL], 1)),
    "a device: no room": (lambda w: (w.attached(), _ranges(w, 0)[:3])[1], (-EMSGSIZE, 2, [])),
    "a device: room for one": (lambda w: (w.attached(), _ranges(w, 1)[:3])[1], (-EMSGSIZE, 2, ENDS[:2])),
    "a device": (lambda w: (w.attached(), _ranges(w, 4))[1], (0, 2, ENDS, PAGE)),
    "an emulated device": (lambda w: (w.attached("node"), _ranges(w, 4))[1], (0, 1, [0, ALL], PAGE)),
    "unreadable": (lambda w: _ranges(w, 1, 8)[0], -EFAULT),
}


@pytest.mark.parametrize("row", RANGES)
def test_iova_ranges(w, row):
    """What fits is filled, the count is what there is."""
    check(w, RANGES, row)


# ---- IOMMU_OPTION


def _nobody(w: World) -> int:
    w.proc.chmod("/dev/iommu", 0o666)
    return w.said(Iommufd(w.kernel.process(uid=1000)).option, RLIMIT, SET, 1)


OPTIONS: Rows = {
    "RLIMIT_MODE": (lambda w: w.iommu.option(RLIMIT, GET, 7), 0),
    "RLIMIT_MODE, set": (lambda w: [(c := Iommufd(w.proc)).option(RLIMIT, SET, 1), c.option(RLIMIT, GET)][1], 1),
    "RLIMIT_MODE of 2": (lambda w: w.said(Iommufd(w.proc).option, RLIMIT, SET, 2), -EINVAL),
    "RLIMIT_MODE with objects": (lambda w: w.said(w.iommu.option, RLIMIT, SET, 1), -EBUSY),
    "RLIMIT_MODE of an object": (lambda w: w.said(w.iommu.option, RLIMIT, GET, 0, w.ioas), -EOPNOTSUPP),
    "RLIMIT_MODE without CAP_SYS_RESOURCE": (_nobody, -EPERM),
    "HUGE_PAGES": (lambda w: w.iommu.option(HUGE, GET, 7, w.ioas), 1),
    "HUGE_PAGES, off": (lambda w: (w.iommu.option(HUGE, SET, 0, w.ioas), w.iommu.ranges(w.ioas)[1])[1], PAGE),
    "HUGE_PAGES of 2": (lambda w: w.said(w.iommu.option, HUGE, SET, 2, w.ioas), -EINVAL),
    "HUGE_PAGES of nothing": (lambda w: w.said(w.iommu.option, HUGE, GET), -ENOENT),
    "HUGE_PAGES, misaligned": (
        lambda w: (w.iommu.map_fixed(w.ioas, w.buffer, 100, 0), w.said(w.iommu.option, HUGE, SET, 0, w.ioas))[1],
        -EADDRINUSE,
    ),
    "HUGE_PAGES, another operation": (lambda w: w.said(w.iommu.option, HUGE, 2, 0, w.ioas), -EOPNOTSUPP),
    "another option": (lambda w: w.said(w.iommu.option, 2, GET), -EOPNOTSUPP),
}  # fmt: skip


@pytest.mark.parametrize("row", OPTIONS)
def test_option(w, row):
    """drivers/iommu/iommufd/main.c:iommufd_option()."""
    check(w, OPTIONS, row)


# ---- IOMMU_VFIO_IOAS


def _vfio_ioas(w: World, op: int, ioas: int = 0) -> int:
    cmd = i.iommu_vfio_ioas(size=12, op=op, ioas_id=ioas)
    return w.result(w.iommu.fd, i.IOMMU_VFIO_IOAS, cmd) or int(cmd.ioas_id)


V_GET, V_SET, V_CLEAR = i.IOMMU_VFIO_IOAS_GET, i.IOMMU_VFIO_IOAS_SET, i.IOMMU_VFIO_IOAS_CLEAR
VFIO_IOAS: Rows = {
    "GET: none": (lambda w: _vfio_ioas(w, V_GET), -ENODEV),
    "SET: none such": (lambda w: _vfio_ioas(w, V_SET, 99), -ENOENT),
    "SET, GET": (lambda w: [_vfio_ioas(w, V_SET, w.ioas), _vfio_ioas(w, V_GET)][1] - w.ioas, 0),
    "CLEAR: none": (lambda w: _vfio_ioas(w, V_CLEAR), 0),
    "CLEAR, GET": (lambda w: [w.compat(), _vfio_ioas(w, V_CLEAR), _vfio_ioas(w, V_GET)][2], -ENODEV),
    "another operation": (lambda w: _vfio_ioas(w, 3), -EOPNOTSUPP),
    "GET: it was destroyed": (lambda w: [w.compat(), w.iommu.destroy(w.ioas), _vfio_ioas(w, V_GET)][2], -ENODEV),
}


@pytest.mark.parametrize("row", VFIO_IOAS)
def test_vfio_ioas(w, row):
    """drivers/iommu/iommufd/vfio_compat.c:iommufd_vfio_ioas()."""
    check(w, VFIO_IOAS, row)


# ---- GET_HW_INFO, SET_DIRTY_TRACKING, FAULT_QUEUE_ALLOC


def _info(w: World, what: str = "card", room: int = 24, **fields: Any) -> tuple[int, int, bytes]:
    """The answer, the length that comes back, what was written."""
    device = w.bound(what)[1] if what != "ioas" else w.ioas
    at = w.iommu.put(b"\xaa" * 40)
    cmd = i.iommu_hw_info(**dict[str, Any](size=40, dev_id=device, data_len=room, data_uptr=at) | fields)
    code = w.result(w.iommu.fd, i.IOMMU_GET_HW_INFO, cmd)
    return code, int(cmd.data_len), w.proc.mem.read(at, 40).rstrip(b"\xaa")


INFOS: Rows = {
    "an emulated device": (lambda w: _info(w, "node")[0], -ENOENT),
    "an IOAS": (lambda w: _info(w, "ioas")[0], -ENOENT),
    "unknown flags": (lambda w: _info(w, flags=1)[0], -EOPNOTSUPP),
    "no room": (lambda w: _info(w, room=0), (0, 24, b"")),
    "a part": (lambda w: [len(x) if isinstance(x, bytes) else x for x in _info(w, room=8)], [0, 24, 8]),
    "more room: zeros": (lambda w: (*(x := _info(w, room=32))[:2], x[2][24:]), (0, 24, bytes(8))),
    "unreadable": (lambda w: _info(w, data_uptr=8)[0], -EFAULT),
}


@pytest.mark.parametrize("row", INFOS)
def test_get_hw_info(w, row):
    """drivers/iommu/iommufd/device.c:iommufd_get_hw_info()."""
    check(w, INFOS, row)


def _track(w: World, flags: int, *, make: int | None = i.IOMMU_HWPT_ALLOC_DIRTY_TRACKING) -> int:
    _, device = w.bound()
    hwpt = w.ioas if make is None else w.iommu.hwpt(device, w.ioas, make)
    return w.said(w.iommu, i.IOMMU_HWPT_SET_DIRTY_TRACKING, hwpt_id=hwpt, flags=flags)


TRACKS: Rows = {
    "on": (lambda w: _track(w, 1), 0),
    "off": (lambda w: _track(w, 0), 0),
    "unknown flag": (lambda w: _track(w, 2), -EOPNOTSUPP),
    "made without": (lambda w: _track(w, 1, make=0), -EOPNOTSUPP),
    "an IOAS": (lambda w: _track(w, 1, make=None), -ENOENT),
}


@pytest.mark.parametrize("row", TRACKS)
def test_set_dirty_tracking(w, row):
    check(w, TRACKS, row)


def _queue(w: World) -> int:
    return int(w.iommu(i.IOMMU_FAULT_QUEUE_ALLOC).out_fault_fd)


QUEUES: Rows = {
    "flags": (lambda w: w.said(w.iommu, i.IOMMU_FAULT_QUEUE_ALLOC, flags=1), -EOPNOTSUPP),
    "read of nothing": (lambda w: w.proc.read(_queue(w), 40), b""),
    "read of no multiple": (lambda w: w.said(w.proc.read, _queue(w), 39), -ESPIPE),
    "read elsewhere": (lambda w: w.said(w.proc.pread, _queue(w), 40, 40), -ESPIPE),
    "write of no multiple": (lambda w: w.said(w.proc.write, _queue(w), bytes(7)), -ESPIPE),
    "write of an unknown cookie": (lambda w: w.said(w.proc.write, _queue(w), bytes(8)), -EINVAL),
    "write of an unknown code": (lambda w: w.said(w.proc.write, _queue(w), struct.pack("<II", 0, 9)), -EINVAL),
    "ready": (lambda w: w.proc.poll([((fd := _queue(w)), 5)]) == [(fd, 4)], True),
    "closed on exec": (lambda w: _queue(w) in w.proc.fds.cloexec, True),
}


@pytest.mark.parametrize("row", QUEUES)
def test_fault_queue(w, row):
    """drivers/iommu/iommufd/fault.c."""
    check(w, QUEUES, row)


# ---- unmapping what a driver has


@pytest.mark.parametrize("polite", [True, False], ids=["gives back", "keeps"])
def test_unmapping_what_a_driver_has(w, polite):
    """EDEADLOCK when who was asked keeps it."""
    cdev, _ = w.attached("node")
    w.iommu.map_fixed(w.ioas, w.buffer, PAGE, 1 << 20)
    vfio_pin_pages(w.minimal, 1 << 20, 1, 3)
    if polite:
        w.minimal.dma_unmap = lambda iova, length: vfio_unpin_pages(w.minimal, 1 << 20, 1)
    assert w.said(w.iommu.unmap, w.ioas, 1 << 20, PAGE) == (0 if polite else -EDEADLK)
    if not polite:
        vfio_unpin_pages(w.minimal, 1 << 20, 1)
    cdev.close()


TRIES: dict[str, tuple[list[int], int, int]] = {
    "100 adjoin": ([*range(100)], 0, 0),
    "101 adjoin": ([*range(101)], 0, -EDEADLK),
    "101 adjoin, nobody has the second": ([*range(101)], 1, 0),
    "150 with a hole in the middle": ([*range(75), *range(76, 151)], 0, 0),
    "150 with holes": ([*range(0, 300, 2)], 0, 0),
    "150, nobody has the first behind the hole": ([*range(60), *range(61, 151)], 61, 0),
}


@pytest.mark.parametrize("compat", [False, True], ids=["native", "VFIO"])
@pytest.mark.parametrize("row", TRIES)
def test_areas_that_adjoin_share_the_tries_of_an_unmap(w, row, compat):
    """iopt_unmap_iova_range() counts to 100 until a hole, though drivers give all back; another unmap goes on there."""
    pages, free, code = TRIES[row]
    cdev, _ = w.attached("node")
    w.compat()
    base, size = 1 << 20, 512 * PAGE
    for n in pages:
        w.iommu.map_fixed(w.ioas, w.buffer, PAGE, base + n * PAGE)
        if n != (free or -1):
            vfio_pin_pages(w.minimal, base + n * PAGE, 1, 3)
    w.minimal.dma_unmap = lambda iova, length: vfio_unpin_pages(w.minimal, iova, 1)
    if compat:
        assert _compat(w, "UNMAP", ioas=True, iova=base, size=size) == code
    else:
        assert w.said(w.iommu.unmap, w.ioas, base, size) == code
    if code:
        assert w.iommu.unmap(w.ioas, base, size) == PAGE
    cdev.close()


# ---- VFIO's ioctls: what is looked at before there is an IOAS


COMPAT: dict[str, tuple[int, Any, dict[str, int]]] = {
    "MAP": (0x3B71, v.vfio_iommu_type1_dma_map, {"argsz": 32, "flags": RW, "size": PAGE}),
    "UNMAP": (0x3B72, v.vfio_iommu_type1_dma_unmap, {"argsz": 24, "size": PAGE}),
    "INFO": (0x3B70, v.vfio_iommu_type1_info, {"argsz": 24}),
}


def _compat(w: World, name: str, *, ioas: bool, **fields: int) -> int:
    if ioas:
        w.compat()
    number, cls, least = COMPAT[name]
    return w.result(w.iommu.fd, number, cls(**least | ({"vaddr": w.buffer} if name == "MAP" else {}) | fields))


FIELDS: dict[str, tuple[str, dict[str, int], int]] = {
    "MAP": ("MAP", {}, 0),
    "MAP: argsz": ("MAP", {"argsz": 31}, -EINVAL),
    "MAP: VADDR": ("MAP", {"flags": 4}, -EINVAL),
    "MAP: unknown flag": ("MAP", {"flags": 8 | RW}, -EINVAL),
    "UNMAP": ("UNMAP", {}, 0),
    "UNMAP: argsz": ("UNMAP", {"argsz": 23}, -EINVAL),
    "UNMAP: a bitmap": ("UNMAP", {"flags": 1}, -EINVAL),
    "UNMAP: VADDR": ("UNMAP", {"flags": 4}, -EINVAL),
    "UNMAP: all": ("UNMAP", {"flags": 2, "size": 0}, 0),
    "UNMAP: all, with a size": ("UNMAP", {"flags": 2}, -EINVAL),
    "INFO": ("INFO", {}, 0),
    "INFO: argsz": ("INFO", {"argsz": 15}, -EINVAL),
}


@pytest.mark.parametrize("ioas", [False, True], ids=["no IOAS", "IOAS"])
@pytest.mark.parametrize("row", FIELDS)
def test_what_comes_before_enodev(w, row, ioas):
    """argsz and flags; what an operation thinks of its range comes when there is something to operate on."""
    name, fields, wanted = FIELDS[row]
    if not ioas and (not wanted or row == "UNMAP: all, with a size"):
        wanted = -ENODEV
    assert _compat(w, name, ioas=ioas, **fields) == wanted


@pytest.mark.parametrize("argsz", [16, 20, 24, 35, 36, 40, 75, 76, 77, 80, 100])
def test_info_of_a_container_that_is_iommufd(w, argsz):
    """First the entries that are left, then the ranges: no chain is broken, nothing is written behind argsz."""
    w.attached("node")
    w.compat()
    buf = bytearray(struct.pack("<I", argsz) + b"\xee" * 124)
    w.proc.ioctl(w.iommu.fd, v.VFIO_IOMMU_GET_INFO, buf)
    total, flags = struct.unpack_from("<II", buf)
    assert flags == v.VFIO_IOMMU_INFO_PGSIZES | v.VFIO_IOMMU_INFO_CAPS
    assert buf[argsz:] == b"\xee" * (128 - argsz)
    if argsz < 24:
        return
    at, found = struct.unpack_from("<I", buf, 16)[0], []
    while at:
        number, version, following = struct.unpack_from("<HHI", buf, at)
        found.append((number, version))
        assert at + 8 <= argsz
        at = following
    full = [(v.VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL, 1), (v.VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE, 1)]
    assert found == full[: len(found)]
    if argsz >= total:
        assert found == full
        assert struct.unpack_from("<I", buf, 32) == (0xFFFFFFFF,)


# ---- nodes of devices


def _bind(w: World, fd: int | None = None, cdev: Cdev | None = None, **fields: int) -> int:
    return w.said((cdev or w.card()).bind, w.iommu.fd if fd is None else fd, **fields)


def _from_group(w: World) -> int:
    group = open_group(w.proc, w.minimal)
    set_container(w.proc, group, w.iommu.fd)
    fd = w.proc.ioctl(group, v.VFIO_GROUP_GET_DEVICE_FD, bytearray(b"minimal0\0"))
    return w.result(fd, 0x3B76, bytearray(struct.pack("<4I", 16, 0, w.iommu.fd, 0)))


def _owned(w: World) -> int:
    cdev = w.card()
    group: Any = w.kernel.sub(Pci).devices["0000:00:05.0"].iommu_group
    group.claim_dma_owner(w)
    answer = _bind(w, cdev=cdev)
    group.release_dma_owner()
    return answer


def _group_open(w: World) -> int:
    open_group(w.proc, w.minimal)
    return _bind(w, cdev=w.node())


BINDS: Rows = {
    "unreadable": (lambda w: w.result(w.card().fd, 0x3B76, 8), -EFAULT),
    "argsz": (lambda w: _bind(w, argsz=15), -EINVAL),
    "flags": (lambda w: _bind(w, flags=1), -EINVAL),
    "below 0": (lambda w: w.result(w.card().fd, 0x3B76, bytearray(struct.pack("<2IiI", 16, 0, -1, 0))), -EINVAL),
    "opened through its group": (_from_group, -EINVAL),
    "bound": (lambda w: _bind(w, cdev=w.bound()[0]), -EINVAL),
    "bound by another descriptor": (lambda w: _bind(w, cdev=w.bound()[0].again()), -EINVAL),
    "its group is open": (_group_open, -EBUSY),
    "closed": (lambda w: _bind(w, 99), -EBADF),
    "no IOMMUFD": (lambda w: _bind(w, w.proc.eventfd()), -EBADFD),
    "a container": (lambda w: _bind(w, w.proc.open("/dev/vfio/vfio", os.O_RDWR)), -EBADFD),
    "another owner of its DMA": (_owned, -EPERM),
    "larger": (lambda w: _bind(w, argsz=24), 0),
    "good": (_bind, 0),
}


@pytest.mark.parametrize("row", BINDS)
def test_bind(w, row):
    """drivers/vfio/device_cdev.c:vfio_df_ioctl_bind_iommufd()."""
    check(w, BINDS, row)


def _attach(w: World, pt: Any = None, what: str = "card", **fields: int) -> int:
    cdev, device = w.bound(what)
    return w.said(cdev.attach, {None: w.ioas, "device": device}.get(pt, pt), **fields)


def _swap(w: World, what: str) -> int:
    """A second attach, and whether the first IOAS is free then."""
    cdev, _ = w.attached(what)
    cdev.attach(w.iommu.ioas())
    return w.said(w.iommu.destroy, w.ioas)


ATTACHES: Rows = {
    "not bound": (lambda w: w.said(w.card().attach, w.ioas), -EINVAL),
    "argsz": (lambda w: _attach(w, argsz=11), -EINVAL),
    "flags": (lambda w: _attach(w, flags=1), -EINVAL),
    "nothing": (lambda w: _attach(w, 99), -ENOENT),
    "nothing, emulated": (lambda w: _attach(w, 99, "node"), -ENOENT),
    "a device": (lambda w: _attach(w, "device"), -EINVAL),
    "an access, emulated": (lambda w: _attach(w, "device", "node"), -ENOENT),
    "an IOAS": (_attach, 0),
    "an IOAS, emulated": (lambda w: _attach(w, None, "node"), 0),
    "a page table is made": (lambda w: w.attached()[1] != w.ioas, True),
    "none is made, emulated": (lambda w: w.attached("node")[1] - w.ioas, 0),
    "another one instead": (lambda w: _swap(w, "card"), 0),
    "another one instead, emulated": (lambda w: _swap(w, "node"), 0),
}


@pytest.mark.parametrize("row", ATTACHES)
def test_attach(w, row):
    """drivers/vfio/device_cdev.c:vfio_df_ioctl_attach_pt()."""
    check(w, ATTACHES, row)


DETACHES: Rows = {
    "not bound": (lambda w: w.said(w.card().detach), -EINVAL),
    "argsz": (lambda w: w.said(w.bound()[0].detach, argsz=7), -EINVAL),
    "flags": (lambda w: w.said(w.bound()[0].detach, flags=1), -EINVAL),
    "nothing": (lambda w: w.said(w.bound()[0].detach), 0),
    "attached": (lambda w: (w.attached()[0].detach(), w.said(w.iommu.destroy, w.ioas))[1], 0),
    "closed instead": (lambda w: (w.attached()[0].close(), w.said(w.iommu.destroy, w.ioas))[1], 0),
}


@pytest.mark.parametrize("row", DETACHES)
def test_detach(w, row):
    """drivers/vfio/device_cdev.c:vfio_df_ioctl_detach_pt(); to close unbinds, there is no ioctl that does."""
    check(w, DETACHES, row)


OF_AN_ACCESS: Rows = {
    "HWPT_ALLOC": (lambda w: w.said(w.iommu.hwpt, w.bound("node")[1], w.ioas), -ENOENT),
    "GET_HW_INFO": (lambda w: w.said(w.iommu, i.IOMMU_GET_HW_INFO, dev_id=w.bound("node")[1]), -ENOENT),
    "open again": (lambda w: (w.bound("node"), w.said(w.node))[1], 0),
    "its group": (lambda w: (w.bound("node"), w.said(open_group, w.proc, w.minimal))[1], -EBUSY),
}


@pytest.mark.parametrize("row", OF_AN_ACCESS)
def test_an_emulated_device_is_an_access(w, row):
    check(w, OF_AN_ACCESS, row)
