"""Questions on the container's and the group's descriptors, in right and wrong orders."""

from __future__ import annotations

import fcntl
import mmap
import os
import select
import stat
import struct
from collections.abc import Callable

import vfio_abi as abi
from probing import Probe, call, opened
from vfio_abi import ask, plain, tried, u32
from vfio_client import CONTAINER, Fds, Vfio, bound, client, extension

NUMBERS = [*range(abi.BASE - 1, abi.BASE + 30), 0x3B00, 0x3BA0, 0x3BFF, 0, 1, 0x5401, 0x5413, 0x8912, 0x3A64, 0x3C64]
NUMBERS += [0x80003B64, 0xC0083B71, 0x541B]
EVERY = select.POLLIN | select.POLLOUT | select.POLLPRI | select.POLLRDNORM | select.POLLWRNORM


def numbers(q: Probe, what: str, fd: int, skip: tuple[int, ...] = ()) -> None:
    """Every ioctl number with 0, with -1 and with zeros in a structure."""
    for nr in NUMBERS:
        if nr not in skip:
            zeros = bytes(64)
            q.say(f"{what} ioctl {nr:#x} with 0, -1, zeros", [plain(fd, nr), plain(fd, nr, -1), tried(fd, nr, zeros)])


def file_calls(q: Probe, what: str, fd: int) -> None:
    """Everything but ioctl."""
    calls: dict[str, Callable[[], object]] = {
        "write": lambda: os.write(fd, b"12345678"),
        "write nothing": lambda: os.write(fd, b""),
        "read": lambda: os.read(fd, 8),
        "read nothing": lambda: os.read(fd, 0),
        "pread at 0": lambda: os.pread(fd, 8, 0),
        "pwrite at 16": lambda: os.pwrite(fd, b"12345678", 16),
        "lseek 8": lambda: os.lseek(fd, 8, 0),
        "lseek end": lambda: os.lseek(fd, 0, 2),
        "lseek -1": lambda: os.lseek(fd, -1, 0),
        "ftruncate": lambda: os.ftruncate(fd, 0),
        "fsync": lambda: os.fsync(fd),
        "mmap": lambda: q.raw_mmap(fd, 4096, mmap.PROT_READ, mmap.MAP_SHARED, 0),
        "mmap private": lambda: q.raw_mmap(fd, 4096, mmap.PROT_READ, mmap.MAP_PRIVATE, 0),
        "F_GETFL": lambda: oct(fcntl.fcntl(fd, fcntl.F_GETFL)),
        "F_GETFD": lambda: fcntl.fcntl(fd, fcntl.F_GETFD),
        "type": lambda: stat.filemode(os.fstat(fd).st_mode),
        "poll": lambda: polled(fd),
        "link text": lambda: os.readlink(f"/proc/self/fd/{fd}"),
        "ioctl by a negative number": lambda: fcntl.ioctl(fd, 0x3B64, -5),
    }
    for name, f in calls.items():
        q.ask(f"{what} {name}", f)


def polled(fd: int) -> list[str]:
    """The events there are."""
    p = select.poll()
    p.register(fd, EVERY)
    return [hex(events) for _, events in p.poll(0)]


def container_alone(q: Probe) -> None:
    """/dev/vfio/vfio without a group."""
    q.ask(
        "node",
        lambda: (
            stat.filemode(os.stat(CONTAINER).st_mode),
            os.major(os.stat(CONTAINER).st_rdev),
            os.minor(os.stat(CONTAINER).st_rdev),
        ),
    )
    for flags in ("O_RDONLY", "O_WRONLY", "O_RDWR", "O_NONBLOCK", "O_TRUNC", "O_APPEND", "O_DIRECTORY", "O_PATH"):

        def on(flags: str = flags) -> object:
            with opened(CONTAINER, getattr(os, flags)) as fd:
                return plain(fd, abi.GET_API_VERSION), plain(fd, abi.CHECK_EXTENSION, 1)

        q.ask(f"open {flags}: version, TYPE1", on)
    with opened(CONTAINER, os.O_RDWR) as fd:
        for arg in (0, 1, -1):
            q.say(f"version, argument {arg}", plain(fd, abi.GET_API_VERSION, arg))
        q.say("extensions", extension(fd))
        for n in (20, 100, 0x7FFFFFFF, -1):
            q.say(f"extension {n}", plain(fd, abi.CHECK_EXTENSION, n))
        for n in (*range(11), -1, 0x7FFFFFFF):
            q.say(f"SET_IOMMU {n}", plain(fd, abi.SET_IOMMU, n))
        numbers(q, "alone:", fd)
        file_calls(q, "container", fd)
        structures(q, "alone:", fd)
    q.ask("two at once", lambda: [with_two(CONTAINER)])


def with_two(path: str) -> object:
    """Two descriptors of one node."""
    with opened(path, os.O_RDWR) as a, opened(path, os.O_RDWR) as b:
        return plain(a, abi.GET_API_VERSION), plain(b, abi.GET_API_VERSION)


def structures(q: Probe, what: str, fd: int) -> None:
    """The container's ioctls, well formed."""
    ask(q, f"{what} IOMMU_GET_INFO", fd, abi.IOMMU_GET_INFO, u32(16, 0, 0, 0))
    q.say(f"{what} MAP_DMA", abi.mapped(fd, 0x100000, 0, 4096))
    q.say(f"{what} UNMAP_DMA", abi.unmapped(fd, 0, 4096))
    ask(q, f"{what} DIRTY_PAGES start", fd, abi.DIRTY_PAGES, u32(8, abi.DIRTY_START))


def container_states(q: Probe) -> None:
    """The container with a group, with each IOMMU type, and after the group left."""
    with bound(q) as v:
        with client(v, None) as f:
            q.say("group, no IOMMU: extensions", extension(f.container))
            q.say("group, no IOMMU: version", plain(f.container, abi.GET_API_VERSION))
            structures(q, "group, no IOMMU:", f.container)
            numbers(q, "group, no IOMMU:", f.container, skip=(abi.SET_IOMMU,))
            for n in (0, 2, 4, 5, 7, 8, 9, 10, -1):
                q.say(f"group: SET_IOMMU {n}", plain(f.container, abi.SET_IOMMU, n))
        for kind in (abi.TYPE1, abi.TYPE1V2, abi.NESTING):
            each_type(q, v, kind)


def each_type(q: Probe, v: Vfio, kind: int) -> None:
    """A container whose IOMMU is of this type."""
    with client(v, None) as f:
        name = f"type {kind}:"
        q.say(f"{name} SET_IOMMU", plain(f.container, abi.SET_IOMMU, kind))
        q.say(f"{name} SET_IOMMU again", [plain(f.container, abi.SET_IOMMU, n) for n in (1, 3, 6, 8, 0)])
        q.say(f"{name} extensions", extension(f.container))
        q.say(f"{name} version", plain(f.container, abi.GET_API_VERSION))
        numbers(q, name, f.container)
        q.say(f"{name} SET_CONTAINER again", set_container(f.group, f.container))
        q.say(f"{name} GET_STATUS", tried(f.group, abi.GROUP_GET_STATUS, u32(8, 0)))
        q.say(f"{name} UNSET_CONTAINER", plain(f.group, abi.UNSET_CONTAINER))
        structures(q, f"{name} group left:", f.container)
        q.say(f"{name} group left: extensions", extension(f.container))
        q.say(f"{name} group left: SET_IOMMU", plain(f.container, abi.SET_IOMMU, kind))
        q.say(f"{name} group left: GET_STATUS", tried(f.group, abi.GROUP_GET_STATUS, u32(8, 0)))
        q.say(f"{name} SET_CONTAINER once more", set_container(f.group, f.container))
        q.say(f"{name} SET_IOMMU before the group's IOMMU", plain(f.container, abi.SET_IOMMU, kind))


def set_container(group: int, fd: int) -> object:
    """SET_CONTAINER with a descriptor."""
    return call(fcntl.ioctl, group, abi.SET_CONTAINER, bytearray(struct.pack("<i", fd)))


def group(q: Probe) -> None:
    """/dev/vfio/GROUP: opening, status, container."""
    v = Vfio(q)
    q.ask("no driver: open", os.open, v.node, os.O_RDWR)
    with bound(q) as v:
        q.ask("node", lambda: (stat.filemode(os.stat(v.node).st_mode), os.minor(os.stat(v.node).st_rdev)))
        for flags in ("O_RDONLY", "O_WRONLY", "O_RDWR", "O_NONBLOCK", "O_TRUNC", "O_DIRECTORY"):

            def on(flags: str = flags) -> object:
                with opened(v.node, getattr(os, flags)) as fd:
                    return tried(fd, abi.GROUP_GET_STATUS, u32(8, 0))

            q.ask(f"open {flags}: GET_STATUS", on)
        with opened(v.node, os.O_RDWR) as fd:
            opening_again(q, v, fd)
            q.say("GET_STATUS, no pointer", [plain(fd, abi.GROUP_GET_STATUS, a) for a in (0, -1, 8)])
            for argsz in (0, 1, 4, 7, 8, 9, 12, 16, 4096, -1):
                ask(q, f"GET_STATUS argsz {argsz}", fd, abi.GROUP_GET_STATUS, u32(argsz, 0xFFFFFFFF))
            numbers(q, "no container:", fd)
            file_calls(q, "group", fd)
            containers(q, v, fd)
        with client(v) as f:
            in_use(q, v, f)


def opening_again(q: Probe, v: Vfio, fd: int) -> None:
    """A second opener."""
    q.ask("open a second time", os.open, v.node, os.O_RDWR)
    q.ask("open a second time O_RDONLY", os.open, v.node, os.O_RDONLY)
    copy = os.dup(fd)
    q.say("dup: GET_STATUS", tried(copy, abi.GROUP_GET_STATUS, u32(8, 0)))
    os.close(copy)
    q.ask("still open", os.open, v.node, os.O_RDWR)
    q.ask("in a child", lambda: v.host.in_child(lambda: os.open(v.node, os.O_RDWR)))


def containers(q: Probe, v: Vfio, fd: int) -> None:
    """SET_CONTAINER and UNSET_CONTAINER."""
    q.say("UNSET_CONTAINER without", plain(fd, abi.UNSET_CONTAINER))
    q.say("SET_CONTAINER, no pointer", [plain(fd, abi.SET_CONTAINER, a) for a in (0, -1, 8)])
    q.say("SET_CONTAINER of no descriptor", [set_container(fd, n) for n in (-1, -2, 999, 0x7FFFFFFF)])
    for path in ("/dev/null", "/sys/kernel/uevent_seqnum"):
        with opened(path, os.O_RDONLY) as other:
            q.say(f"SET_CONTAINER of {path}", set_container(fd, other))
    counter = os.eventfd(0)
    q.say("SET_CONTAINER of an eventfd", set_container(fd, counter))
    os.close(counter)
    q.say("SET_CONTAINER of the group", set_container(fd, fd))
    for flags in ("O_RDONLY", "O_WRONLY", "O_RDWR"):
        with opened(CONTAINER, getattr(os, flags)) as c:
            q.say(f"{flags}: SET_CONTAINER", set_container(fd, c))
            q.say(f"{flags}: GET_STATUS", tried(fd, abi.GROUP_GET_STATUS, u32(8, 0)))
            q.say(f"{flags}: SET_CONTAINER twice", set_container(fd, c))
            q.say(f"{flags}: device before the IOMMU", device(fd, v.addr))
            q.say(f"{flags}: SET_IOMMU", plain(c, abi.SET_IOMMU, 3))
            q.say(f"{flags}: UNSET_CONTAINER", [plain(fd, abi.UNSET_CONTAINER, n) for n in (0, 1)])
    q.say("device without a container", device(fd, v.addr))
    q.say("device without a container, wrong name", device(fd, "0000:ff:1f.7"))
    closed = os.open(CONTAINER, os.O_RDWR)
    set_container(fd, closed)
    os.close(closed)
    q.say("container closed: GET_STATUS", tried(fd, abi.GROUP_GET_STATUS, u32(8, 0)))
    q.say("container closed: UNSET_CONTAINER", plain(fd, abi.UNSET_CONTAINER))
    q.say("container closed: GET_STATUS", tried(fd, abi.GROUP_GET_STATUS, u32(8, 0)))


def device(fd: int, name: str) -> object:
    """GET_DEVICE_FD, closed again: "opened" or the errno's name."""
    result = call(fcntl.ioctl, fd, abi.GET_DEVICE_FD, bytearray(name.encode("latin-1") + b"\0"))
    if isinstance(result, int):
        os.close(result)
        return "opened"
    return result


UUID = "12345678-1234-1234-1234-123456789abc"


def in_use(q: Probe, v: Vfio, f: Fds) -> None:
    """A group whose container has an IOMMU, and an open device."""
    a = v.addr
    names = [
        a, a[:-1], a[5:], a + "0", a + "\n", " " + a, a + " ", a.upper(), "", " ", "x", "/" + a, a + "/",
        "0000:ff:1f.7",
        a + " vf_token=" + UUID, a + " vf_token=", a + " vf_token=x", a + " vf_token", a + " x=1", a + " x", a + "  ",
        a + " vf_token=" + UUID + " vf_token=" + UUID, a + " vf_token=" + UUID + " ", a + "\tvf_token=" + UUID,
        a + ",vf_token=" + UUID, a + " vf_token=" + UUID.upper(), a + " " + "y" * 100, "z" * 4094, "z" * 4095,
        "z" * 4096,
    ]  # fmt: skip
    for name in names:
        shown = repr(name.replace(a, "NAME")) if len(name) < 200 else f"{name[0]!r}*{len(name)}"
        q.say(f"GET_DEVICE_FD {shown}", device(f.group, name))
    q.say("GET_DEVICE_FD, no pointer", [plain(f.group, abi.GET_DEVICE_FD, n) for n in (0, -1, 8)])
    q.say("UNSET_CONTAINER with a device", plain(f.group, abi.UNSET_CONTAINER))
    numbers(q, "with a device:", f.group, skip=(abi.GET_DEVICE_FD,))
    ask(q, "with a device: GET_STATUS", f.group, abi.GROUP_GET_STATUS, u32(8, 0))
    f.shut("device")
    q.say("device closed: UNSET_CONTAINER", plain(f.group, abi.UNSET_CONTAINER))


def two_containers(q: Probe) -> None:
    """A group moves from one container to another."""
    with bound(q) as v, opened(CONTAINER, os.O_RDWR) as one, opened(CONTAINER, os.O_RDWR) as two:
        g = os.open(v.node, os.O_RDWR)
        q.say("first", (set_container(g, one), plain(one, abi.SET_IOMMU, 3)))
        q.say("second", set_container(g, two))
        q.say("unset, second", (plain(g, abi.UNSET_CONTAINER), set_container(g, two)))
        q.say("IOMMU of the first", plain(one, abi.SET_IOMMU, 3))
        q.say("IOMMU of the second", plain(two, abi.SET_IOMMU, 1))
        q.say("device", device(g, v.addr))
        os.close(g)
        q.say("group closed: SET_IOMMU", [plain(one, abi.SET_IOMMU, 3), plain(two, abi.SET_IOMMU, 1)])
        q.say("group closed: MAP_DMA", abi.mapped(two, 0x100000, 0, 4096))
        g = os.open(v.node, os.O_RDWR)
        q.say("reopened: GET_STATUS", tried(g, abi.GROUP_GET_STATUS, u32(8, 0)))
        q.say("reopened: device", device(g, v.addr))
        os.close(g)


PARTS = {
    "container alone": container_alone,
    "container states": container_states,
    "group": group,
    "two containers": two_containers,
}
