"""Questions that need ports: two functions in one group, resets by the bus, hot resets (see vfio_bus_probe.py)."""

from __future__ import annotations

import fcntl
import glob
import os
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import vfio_abi as abi
from probing import Probe, call, opened, read_text, write_text
from subject import BUS
from vfio_abi import plain, tried, u32
from vfio_client import CONTAINER, Memory
from vfio_container_parts import device, set_container

P = 4096
STATUS = u32(8, 0)
NAMES = ("ONE", "TWO", "ALONE")


class Function:
    """One of the three: its address, group and node."""

    def __init__(self, addr: str) -> None:
        self.addr = addr
        self.path = os.path.realpath(f"{BUS}/devices/{addr}")
        self.group_id = int(os.path.basename(os.readlink(f"{self.path}/iommu_group")))
        self.node = f"/dev/vfio/{self.group_id}"

    def bind(self, driver: str = "vfio-pci") -> object:
        """By override; the driver there is then."""
        self.unbind()
        write_text(f"{self.path}/driver_override", driver)
        call(write_text, f"{BUS}/drivers/{driver}/bind", self.addr)
        return self.driver()

    def unbind(self) -> None:
        """No driver, no override."""
        if self.driver():
            write_text(f"{self.path}/driver/unbind", self.addr)
        write_text(f"{self.path}/driver_override", "\n")

    def driver(self) -> str | None:
        """The driver's name."""
        link = f"{self.path}/driver"
        return os.path.basename(os.readlink(link)) if os.path.islink(link) else None


def functions(q: Probe) -> list[Function]:
    """The edus behind ports, their addresses as ONE, TWO, ALONE."""
    found = []
    for path in sorted(glob.glob(f"{BUS}/devices/*")):
        if read_text(f"{path}/device") == "0x11e8\n" and not os.path.basename(path).startswith("0000:00:"):
            found.append(Function(os.path.basename(path)))
    q.words = [(f.addr, name) for f, name in zip(found, NAMES, strict=True)]
    return found


class Session:
    """A container with the groups that are asked for; devices by name."""

    def __init__(self, *groups: Function) -> None:
        self.container = os.open(CONTAINER, os.O_RDWR)
        self.groups: dict[int, int] = {}
        for f in groups:
            if f.group_id not in self.groups:
                self.groups[f.group_id] = os.open(f.node, os.O_RDWR)
        self.devices: dict[str, int] = {}

    def attach(self) -> list[object]:
        """SET_CONTAINER of each, SET_IOMMU."""
        return [set_container(fd, self.container) for fd in self.groups.values()] + [
            plain(self.container, abi.SET_IOMMU, 3)
        ]

    def open(self, f: Function) -> int:
        """GET_DEVICE_FD."""
        fd = int(fcntl.ioctl(self.groups[f.group_id], abi.GET_DEVICE_FD, bytearray(f.addr.encode() + b"\0")))
        self.devices[f.addr] = fd
        return fd

    def close(self) -> None:
        """All of it."""
        for fd in (*self.devices.values(), *self.groups.values(), self.container):
            os.close(fd)


@contextmanager
def session(*groups: Function, devices: bool = True) -> Iterator[Session]:
    """An attached session, with the devices open."""
    s = Session(*groups)
    try:
        s.attach()
        for f in groups:
            if devices:
                s.open(f)
        yield s
    finally:
        s.close()


@contextmanager
def all_bound(q: Probe) -> Iterator[list[Function]]:
    """The three on vfio-pci."""
    found = functions(q)
    try:
        for f in found:
            f.bind()
        yield found
    finally:
        for f in found:
            f.unbind()


def groups(q: Probe) -> None:
    """Who is in whose group; names and reset methods in sysfs."""
    one, two, alone = functions(q)
    q.say("one group for the functions of a slot", (one.group_id == two.group_id, one.group_id == alone.group_id))
    for f, name in zip((one, two, alone), NAMES, strict=True):
        q.say(f"{name}: the group's devices", sorted(os.listdir(f"/sys/kernel/iommu_groups/{f.group_id}/devices")))
        q.ask(f"{name}: reserved_regions", read_text, f"/sys/kernel/iommu_groups/{f.group_id}/reserved_regions")
        q.ask(f"{name}: type", read_text, f"/sys/kernel/iommu_groups/{f.group_id}/type")
        q.ask(f"{name}: reset_method", read_text, f"{f.path}/reset_method")
        q.ask(f"{name}: reset", write_text, f"{f.path}/reset", "1")


def viability(q: Probe) -> None:
    """A group of two: one bound, both, the other to another driver; the group's own descriptors meanwhile."""
    one, two, _ = functions(q)
    for name, driver in (("nothing", ""), ("vfio-pci", "vfio-pci"), ("pci-stub", "pci-stub")):
        q.say(f"{name}: drivers", (one.bind(), two.bind(driver) if driver else two.driver()))
        with ExitStack() as stack:
            s = Session(one)
            stack.callback(s.close)
            g = s.groups[one.group_id]
            q.say(f"{name}: status", tried(g, abi.GROUP_GET_STATUS, STATUS))
            q.say(f"{name}: attach", s.attach())
            q.say(f"{name}: status attached", tried(g, abi.GROUP_GET_STATUS, STATUS))
            q.say(f"{name}: devices", [device(g, f.addr) for f in (one, two)])
            q.say(f"{name}: unbind the other", (call(two.unbind), two.driver()))
            q.say(f"{name}: bind the other to pci-stub", two.bind("pci-stub"))
            q.say(f"{name}: devices then", [device(g, f.addr) for f in (one, two)])
            q.say(f"{name}: bind the other to vfio-pci", two.bind())
            q.say(f"{name}: devices after it", [device(g, f.addr) for f in (one, two)])
            q.say(f"{name}: unbind the first", (call(one.unbind), one.driver()))
            q.say(f"{name}: status after it", tried(g, abi.GROUP_GET_STATUS, STATUS))
            q.say(f"{name}: devices at last", [device(g, f.addr) for f in (one, two)])
            q.ask(f"{name}: node", os.open, one.node, os.O_RDWR)
        one.unbind()
        two.unbind()
        q.ask(f"{name}: node, all unbound", os.stat, one.node)


def two_groups(q: Probe) -> None:
    """Two groups in one container: mappings are of both; each leaves on its own."""
    memory = Memory(4)
    with all_bound(q) as (one, _, alone), opened(CONTAINER, os.O_RDWR) as other:
        s = Session(one, alone)
        first, second = s.groups.values()
        q.say("first", (set_container(first, s.container), plain(s.container, abi.SET_IOMMU, 3)))
        q.say("map", abi.mapped(s.container, memory.address, 0x10000, P))
        q.say("second", set_container(second, s.container))
        q.say("second: device", isinstance(call(s.open, alone), int))
        q.say("DMA by the second", copied(q, s.devices[alone.addr], memory, 0x10000))
        q.say("first: device", isinstance(call(s.open, one), int))
        q.say("DMA by the first", copied(q, s.devices[one.addr], memory, 0x10000))
        q.say("unset with a device", [plain(fd, abi.UNSET_CONTAINER) for fd in (first, second)])
        os.close(s.devices.pop(one.addr))
        q.say("unset of the first", plain(first, abi.UNSET_CONTAINER))
        q.say("the mapping is there", copied(q, s.devices[alone.addr], memory, 0x10000))
        q.say("the first into another", (set_container(first, other), plain(other, abi.SET_IOMMU, 1)))
        q.say("which has no mapping", abi.unmapped(other, 0x10000, P))
        q.say("back", (plain(first, abi.UNSET_CONTAINER), set_container(first, s.container)))
        q.say("invalid addresses", abi.unmapped(s.container, 0x10000, P, 4))
        q.say("unset", plain(first, abi.UNSET_CONTAINER))
        q.say("a group into it", set_container(first, s.container))
        q.say("valid again", abi.mapped(s.container, memory.address, 0x10000, P, 4))
        q.say("a group into it now", set_container(first, s.container))
        q.say("a map in the middle of the MSI window", abi.mapped(s.container, memory.address, 0xFEE00000, P))
        s.close()


SRC, DST, COUNT, COMMAND = 0x80, 0x88, 0x90, 0x98


def copied(q: Probe, fd: int, memory: Memory, iova: int) -> bool:
    """Eight bytes through the engine: from the page's begin to its byte 256."""
    memory.put(0, bytes(range(1, 9)))
    memory.put(256, bytes(8))
    os.pwrite(fd, struct.pack("<H", 7), abi.CONFIG + 4)
    for src, dst, command in ((iova, 0x40000, 1), (0x40000, iova + 256, 3)):
        for at, value in ((SRC, src), (DST, dst), (COUNT, 8), (COMMAND, command)):
            os.pwrite(fd, u32(value), at)
        for _ in range(100):
            q.host.settle()
            if not os.pread(fd, 4, COMMAND)[0] & 1:
                break
    return memory.get(256, 8) == bytes(range(1, 9))


def bus_reset(q: Probe) -> None:
    """RESET where the bus can do it: a function alone on its bus; two on theirs."""
    with all_bound(q) as (one, two, alone):
        for f, name in zip((one, two, alone), NAMES, strict=True):
            with session(f) as s:
                fd = s.devices[f.addr]
                q.say(f"{name}: GET_INFO", tried(fd, abi.GET_INFO, u32(16, 0, 0, 0)))
                marks(fd)
                q.say(f"{name}: RESET", plain(fd, abi.RESET))
                q.say(f"{name}: registers, configuration", seen(fd))
                marks(fd)
            with session(f) as s:
                q.say(f"{name}: opened anew", seen(s.devices[f.addr]))


def marks(fd: int) -> None:
    """Values that a reset takes away."""
    os.pwrite(fd, b"\7\0", abi.CONFIG + 4)
    os.pwrite(fd, u32(0x12345678), 4)
    os.pwrite(fd, b"\x55", abi.CONFIG + 0x3C)
    os.pwrite(fd, b"\x66", abi.CONFIG + 0x80)
    os.pwrite(fd, b"\x77", abi.CONFIG + 0x0C)


def seen(fd: int) -> list[str]:
    """COMMAND and the marks, with memory decode on for the register."""
    command = os.pread(fd, 2, abi.CONFIG + 4)[::-1].hex()
    rest = [os.pread(fd, 1, abi.CONFIG + at).hex() for at in (0x3C, 0x80, 0x0C)]
    os.pwrite(fd, b"\2\0", abi.CONFIG + 4)
    return [command, *rest, os.pread(fd, 4, 4)[::-1].hex()]


def hot_reset(q: Probe) -> None:
    """GET_PCI_HOT_RESET_INFO and PCI_HOT_RESET: sizes, groups, who must be owned."""
    with all_bound(q) as (one, two, alone):
        with session(one, two) as s:
            fd, g = s.devices[one.addr], s.groups[one.group_id]
            marks(fd)
            marks(s.devices[two.addr])
            for argsz in (0, 11, 12, 16, 20, 24, 28, 36, 64):
                q.say(f"INFO argsz {argsz}", dependent(fd, argsz, [one, two, alone]))
            q.say("INFO of the other", dependent(s.devices[two.addr], 64, [one, two, alone]))
            for argsz, flags, n, fds in [
                (8, 0, 1, (g,)), (11, 0, 1, (g,)), (12, 0, 0, ()), (16, 1, 1, (g,)), (16, 0, 0, (g,)),
                (16, 0, -1, (g,)),
                (12, 0, 1, (g,)), (16, 0, 3, (g,)), (28, 0, 4, (g, g, g, g)), (16, 0, 1, (-1,)), (16, 0, 1, (999,)),
                (16, 0, 1, (s.container,)), (16, 0, 1, (fd,)), (20, 0, 2, (g, g)), (20, 0, 2, (g, -1)),
                (16, 0, 1, (g,)),
            ]:  # fmt: skip
                shown = f"argsz {argsz} flags {flags} count {n}, {len(fds)} descriptors"
                q.say(f"HOT_RESET {shown}", tried(fd, abi.PCI_HOT_RESET, u32(argsz, flags, n, *fds)))
            q.say("after it", (seen(fd), seen(s.devices[two.addr])))
        owners(q, one, two, alone)


def owners(q: Probe, one: Function, two: Function, alone: Function) -> None:
    """Other groups' descriptors; a sibling that is closed, unbound, another driver's."""
    with session(alone) as s:
        fd, g = s.devices[alone.addr], s.groups[alone.group_id]
        q.say("ALONE: INFO", dependent(fd, 64, [one, two, alone]))
        marks(fd)
        q.say("ALONE: HOT_RESET", tried(fd, abi.PCI_HOT_RESET, u32(16, 0, 1, g)))
        q.say("ALONE: after it", seen(fd))
        other = os.open(one.node, os.O_RDWR)
        q.say("ALONE: by another group", tried(fd, abi.PCI_HOT_RESET, u32(16, 0, 1, other)))
        q.say("ALONE: by both groups", tried(fd, abi.PCI_HOT_RESET, u32(20, 0, 2, g, other)))
        os.close(other)
    for name, driver in (("closed", "vfio-pci"), ("on pci-stub", "pci-stub"), ("unbound", "")):
        two.unbind()
        if driver:
            two.bind(driver)
        with session(one) as s:
            fd, g = s.devices[one.addr], s.groups[one.group_id]
            marks(fd)
            q.say(f"the sibling {name}: INFO", dependent(fd, 64, [one, two, alone]))
            q.say(f"the sibling {name}: HOT_RESET", tried(fd, abi.PCI_HOT_RESET, u32(16, 0, 1, g)))
            q.say(f"the sibling {name}: after it", seen(fd))
    two.bind()


def dependent(fd: int, argsz: int, found: list[Function]) -> object:
    """GET_PCI_HOT_RESET_INFO: result, argsz, flags, count; the devices' names and whether their groups are right."""
    buf = bytearray(u32(argsz, -1, -1) + bytes(64))
    result = call(fcntl.ioctl, fd, abi.GET_PCI_HOT_RESET_INFO, buf)
    if result not in (0, "ENOSPC"):
        return result
    head = struct.unpack_from("<III", buf)
    rows = []
    for at in range(12, 12 + 8 * min(head[2], 8) if result == 0 else 12, 8):
        group, segment, bus, devfn = struct.unpack_from("<IHBB", buf, at)
        addr = f"{segment:04x}:{bus:02x}:{devfn >> 3:02x}.{devfn & 7}"
        rows.append([(addr, f.group_id == group) for f in found if f.addr == addr])
    return result, head, rows


Part = Callable[[Probe], None]
PARTS: dict[str, Part] = {
    "groups": groups,
    "viability": viability,
    "two groups": two_groups,
    "bus reset": bus_reset,
    "hot reset": hot_reset,
}
