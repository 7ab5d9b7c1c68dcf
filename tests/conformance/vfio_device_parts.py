"""Questions on the device's descriptor: info, regions, features, resets, configuration space, BAR, mmap, ioeventfd."""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
from collections.abc import Callable

import vfio_abi as abi
from probing import Probe, call
from vfio_abi import ask, plain, tried, u32, u64
from vfio_client import Fds, Memory, bound, client, count, eventfds
from vfio_container_parts import file_calls, numbers

SIZES = (0, 1, 2, 3, 4, 8)
ARGSZ = [0, 1, 4, 8, 12, 15, 16, 17, 19, 20, 21, 23, 24, 25, 28, 31, 32, 33, 40, 64, 4096, -1]


def info(q: Probe) -> None:
    """GET_INFO, GET_REGION_INFO, GET_IRQ_INFO with every length and index; unknown ioctls; the file's calls."""
    with bound(q) as v, client(v) as f:
        fd = f.device
        q.say("descriptor", (hex(fcntl.fcntl(fd, fcntl.F_GETFL)), fcntl.fcntl(fd, fcntl.F_GETFD)))
        q.say("no pointer", [plain(fd, nr, a) for nr in range(abi.GET_INFO, abi.RESET) for a in (0, -1, 8)])
        for argsz in ARGSZ:
            ask(q, f"GET_INFO argsz {argsz}", fd, abi.GET_INFO, u32(argsz, *(0xFFFFFFFF,) * 7))
        for argsz in ARGSZ:
            ask(q, f"GET_REGION_INFO argsz {argsz}", fd, abi.GET_REGION_INFO, u32(argsz, *(0xFFFFFFFF, 0) * 6))
            ask(q, f"GET_IRQ_INFO argsz {argsz}", fd, abi.GET_IRQ_INFO, u32(argsz, 0xFFFFFFFF, 0, 0xFFFFFFFF))
        for index in (*range(14), 100, 0x7FFFFFFF, -1):
            ask(q, f"GET_REGION_INFO {index}", fd, abi.GET_REGION_INFO, u32(32, 0, index, 0) + u64(0, 0))
            ask(q, f"GET_REGION_INFO {index} of ones", fd, abi.GET_REGION_INFO, u32(32, -1, index, -1, -1, -1, -1, -1))
            ask(q, f"GET_IRQ_INFO {index}", fd, abi.GET_IRQ_INFO, u32(16, 0, index, 0))
        skip = (*range(abi.GET_INFO, abi.RESET + 1), 0x541B)
        numbers(q, "device:", fd, skip)
        file_calls(q, "device", fd)
        straddling(q, f)


def straddling(q: Probe, f: Fds) -> None:
    """Structures of which only a part can be read or written."""
    memory = Memory(2)
    rows = [
        ("GET_INFO", abi.GET_INFO, u32(16, 0, 0, 0, 0, 0), (4, 8, 12, 16, 20, 24)),
        ("GET_INFO argsz 24", abi.GET_INFO, u32(24, 0, 0, 0, 0, 0), (16, 20, 24)),
        ("GET_REGION_INFO", abi.GET_REGION_INFO, u32(32, 0, 0, 0) + u64(0, 0), (12, 16, 24, 31, 32)),
        ("GET_IRQ_INFO", abi.GET_IRQ_INFO, u32(16, 0, 0, 0), (8, 12, 15, 16)),
        ("SET_IRQS", abi.SET_IRQS, abi.irq_set(abi.TRIGGER | abi.DATA_NONE, 0, 0, 0), (16, 19, 20)),
        ("SET_IRQS bool", abi.SET_IRQS, abi.irq_set(abi.TRIGGER | abi.DATA_BOOL, 0, 0, 1, b"\1"), (20, 21)),
        ("FEATURE", abi.FEATURE, u32(8, abi.PROBE), (4, 7, 8)),
        ("IOEVENTFD", abi.IOEVENTFD, u32(32, 4) + u64(0, 0) + u32(-1, 0), (24, 27, 28, 32)),
        ("HOT_RESET_INFO", abi.GET_PCI_HOT_RESET_INFO, u32(12, 0, 0), (4, 11, 12)),
        ("HOT_RESET", abi.PCI_HOT_RESET, u32(12, 0, 0), (4, 11, 12)),
    ]
    edge = memory.address + 4096
    with Hole(f, memory):
        for name, nr, data, lengths in rows:
            answers = []
            for n in lengths:
                memory.area[4096 - n : 4096] = data[:n]
                answers.append((n, call(f.v.host.ioctl, f.device, nr, edge - n)))
            q.say(f"the first bytes of {name}", answers)


class Hole:
    """The second page of some memory cannot be touched."""

    def __init__(self, f: Fds, memory: Memory) -> None:
        self.host, self.memory = f.v.host, memory

    def __enter__(self) -> None:
        self.host.protect_page(self.memory, 1, 0)

    def __exit__(self, *_: object) -> None:
        self.host.protect_page(self.memory, 1, mmap.PROT_READ | mmap.PROT_WRITE)


def features(q: Probe) -> None:
    """VFIO_DEVICE_FEATURE: every index and flag, with payloads of several lengths."""
    with bound(q) as v, client(v) as f:
        fd = f.device
        q.say("no pointer", [plain(fd, abi.FEATURE, a) for a in (0, -1, 8)])
        for argsz in (0, 4, 7, 8, 9, -1):
            ask(q, f"argsz {argsz}", fd, abi.FEATURE, u32(argsz, abi.PROBE | abi.GET | 1))
        flags = [0, abi.GET, abi.SET, abi.GET | abi.SET]
        flags += [n | abi.PROBE for n in flags]
        flags += [1 << 19 | abi.PROBE, 1 << 31]
        for index in (*range(14), 255, 0xFFFF):
            for flag in flags:
                if index == 3 and flag == abi.SET:
                    continue
                answers = [tried(fd, abi.FEATURE, u32(n, flag | index) + bytes(n - 8)) for n in (8, 16, 32, 40)]
                q.say(f"feature {index} flags {flag >> 16:#x}", answers)
        low_power(q, f)


def low_power(q: Probe, f: Fds) -> None:
    """LOW_POWER_ENTRY, _ENTRY_WITH_WAKEUP, _EXIT."""

    def feature(index: int, data: bytes = b"", argsz: int | None = None) -> object:
        size = 8 + len(data) if argsz is None else argsz
        return tried(f.device, abi.FEATURE, u32(size, abi.SET | index) + data)

    q.say("exit, not entered", feature(5))
    q.say("entry", feature(3))
    q.say("entry twice", feature(3))
    q.say("entry with wakeup after entry", feature(4, u32(-1, 0)))
    q.say("exit", feature(5))
    q.say("exit twice", feature(5))
    q.say("entry, access, entry", [feature(3), call(f.config, 0, 2), feature(3), feature(5)])
    with eventfds(1) as (e,):
        for name, data in (("-1", u32(-1, 0)), ("999", u32(999, 0)), ("stdin", u32(0, 0)), ("reserved", u32(e, 1))):
            q.say(f"entry with wakeup {name}", feature(4, data))
        q.say("entry with wakeup, short", feature(4, u32(e), argsz=12))
        q.say("entry with wakeup", feature(4, u32(e, 0)))
        q.say("entry after it", feature(3))
        q.say("eventfd before", count(e))
        q.say("an access", call(f.config, 0, 2))
        q.say("eventfd after the access", count(e, 100))
        q.say("entry after the access", feature(3))
        q.say("exit", feature(5))
        q.say("entry with wakeup, exit", (feature(4, u32(e, 0)), feature(5), count(e)))


def resets(q: Probe) -> None:
    """RESET, hot reset."""
    with bound(q) as v, client(v) as f:
        fd = f.device
        q.say("RESET", [plain(fd, abi.RESET, n) for n in (0, 1, -1)])
        for argsz in (0, 4, 8, 11, 12, 16, 20, 24, 64, -1):
            ask(q, f"HOT_RESET_INFO argsz {argsz}", fd, abi.GET_PCI_HOT_RESET_INFO, u32(argsz, -1, -1, -1, -1, -1))
        for argsz, flags, n, fds in [
            (8, 0, 0, ()), (12, 0, 0, ()), (12, 1, 0, ()), (16, 0, 1, (f.group,)), (12, 0, 1, (f.group,)),
            (16, 0, 1, (-1,)), (16, 0, 1, (f.container,)), (20, 0, 2, (f.group, f.group)), (16, 0, 100, (f.group,)),
            (16, 0, -1, (f.group,)),
        ]:  # fmt: skip
            shown = f"HOT_RESET argsz {argsz} flags {flags} count {n}, {len(fds)} descriptors"
            ask(q, shown, fd, abi.PCI_HOT_RESET, u32(argsz, flags, n, *fds))


def config(q: Probe) -> None:
    """Configuration space as the client sees it: what is there, and what every bit takes."""
    with bound(q) as v, client(v) as f:
        dump(q, "at open", f)
        for at in range(0, 256, 4):
            q.say(f"dword {at:#x} of ones, of zeros, back", flipped(f, at, 4))
        for at in (0, 2, 4, 6, 8, 0xA, 0xC, 0xE, 0x10, 0x12, 0x3C, 0x3E, 0x40, 0x42, 0x44, 0x4C, 0x4E, 0x50):
            q.say(f"word {at:#x} of ones, of zeros, back", flipped(f, at, 2))
        for at in (0, 1, 4, 5, 6, 7, 9, 0xC, 0xD, 0xE, 0xF, 0x10, 0x13, 0x30, 0x34, 0x3C, 0x3D, 0x40, 0x41, 0x42, 0x43):
            q.say(f"byte {at:#x} of ones, of zeros, back", flipped(f, at, 1))
        dump(q, "after that", f)
        config_edges(q, f)
        command(q, f)
        sizing(q, f)
    with bound(q) as v, client(v) as f:
        dump(q, "another open", f)


def dump(q: Probe, what: str, f: Fds) -> None:
    """256 bytes."""
    data = os.pread(f.device, 256, abi.CONFIG)
    for at in range(0, 256, 16):
        line = data[at : at + 16].hex(" ", 4)
        q.say(f"{what}: {at:#04x}", "BAR0 " + line[9:] if at == 0x10 else line)


def flipped(f: Fds, at: int, size: int) -> list[str]:
    """What reads after all ones and all zeros, and after the first value; a BAR's address is hidden."""
    first = f.config(at, size)
    out = []
    for value in ((1 << 8 * size) - 1, 0, first):
        f.set_config(at, value, size)
        out.append(f.config(at, size))
    hidden = at + size - 1 >= 0x10 and at < 0x14 and at + size > 0x12
    return [f"{n:x}" for n in out[:2]] + ["first" if hidden and out[2] == first else f"{out[2]:x}"]


def config_edges(q: Probe, f: Fds) -> None:
    """Lengths and positions."""
    fd = f.device
    for at in (0x3D, *range(252, 258), 4095, 4096, 1 << 20, (1 << 40) - 4):
        q.say(f"pread at {at:#x} of 0, 1, 2, 3, 4, 8", [call(os.pread, fd, n, abi.CONFIG + at) for n in SIZES])
        q.say(f"pwrite at {at:#x} of 0, 1, 2, 3, 4, 8", [call(os.pwrite, fd, bytes(n), abi.CONFIG + at) for n in SIZES])
    q.say("pread of 300", call(os.pread, fd, 300, abi.CONFIG))
    q.say("pread of 256 has", len(os.pread(fd, 256, abi.CONFIG)))
    q.say("pread of odd", [call(os.pread, fd, n, abi.CONFIG + at).hex() for at, n in ((1, 2), (1, 3), (3, 4), (5, 7))])  # type: ignore[attr-defined]
    q.say("lseek", [call(os.lseek, fd, abi.CONFIG, how) for how in (0, 1, 2)])
    regions(q, fd)


def regions(q: Probe, fd: int) -> None:
    """Reads and writes of every region."""
    for index in (*range(1, 7), *range(8, 14)):
        places = [(index << 40) + at for at in (0, 4, 0xFFC, 0x100000, (1 << 40) - 4)]
        answers = [(call(os.pread, fd, 4, at), call(os.pwrite, fd, bytes(4), at)) for at in places]
        q.say(f"region {index} at 0, 4, 0xffc, 0x100000, the last: pread, pwrite", answers)
    q.say("negative position", [call(os.pread, fd, 4, -1), call(os.pread, fd, 4, -(1 << 40))])


def command(q: Probe, f: Fds) -> None:
    """Each bit of COMMAND, and what sysfs shows of the real one."""
    first = f.config(4, 2)
    for bit in range(16):
        f.set_config(4, first ^ 1 << bit, 2)
        q.say(f"COMMAND bit {bit} flipped", (f"{f.config(4, 2):x}", physical(f, 4, 2)))
        f.set_config(4, first, 2)
    q.say("COMMAND back", (f"{f.config(4, 2):x}", physical(f, 4, 2)))
    for bit in range(16):
        f.set_config(6, 1 << bit, 2)
        q.say(f"STATUS bit {bit} written", (f"{f.config(6, 2):x}", physical(f, 6, 2)))


def physical(f: Fds, at: int, n: int) -> str:
    """What the function itself has, by sysfs."""
    with open(f.v.at("config"), "rb") as file:
        return f"{int.from_bytes(os.pread(file.fileno(), n, at), 'little'):x}"


def sizing(q: Probe, f: Fds) -> None:
    """BAR registers: written values and what they become; the real one stays."""
    real = physical(f, 0x10, 4)
    for at in (0x10, 0x14, 0x18, 0x24, 0x30):
        first = f.config(at, 4)
        for value in (0xFFFFFFFF, 0xFFFFFFFE, 0xFFFFF800, 0xF, 0x12345678, 0xFE000000, 0, 1):
            f.set_config(at, value, 4)
            q.say(f"BAR at {at:#x} <- {value:#x}", f"{f.config(at, 4):x}")
        f.set_config(at, first, 4)
    f.set_config(0x12, 0xABCD, 2)
    q.say("upper word of BAR0", f"{f.config(0x10, 4):x}")
    f.set_config(0x13, 0x55, 1)
    q.say("upper byte of BAR0", f"{f.config(0x10, 4):x}")
    q.say("the real BAR0 is as it was", physical(f, 0x10, 4) == real)


def bar(q: Probe) -> None:
    """BAR 0 by pread and pwrite: widths, edges, decode off."""
    with bound(q) as v, client(v) as f:
        fd = f.device
        q.say("decode at open", [call(os.pread, fd, 4, 0), f"{f.config(4, 2):x}"])
        f.decode()
        q.say("decode on", call(os.pread, fd, 4, 0))
        registers: list[tuple[str, int]] = [(f"{at:#x}", at) for at in range(0, 0xA8, 4)]
        for name, at in registers:
            q.say(f"register {name}", f"{f.read(at):x}")
        for at in (0, 1, 2, 3, 4, 6, 0x7C, 0x7E, 0x80, 0x84, 0x88, 0x40000, 0xFFFFF):
            answers = [call(os.pread, fd, n, at) for n in (1, 2, 3, 4, 5, 7, 8, 9, 12, 16)]
            q.say(f"pread at {at:#x}", answers)
        for at in (0xFFFF8, 0xFFFFC, 0xFFFFE, 0x100000, 0x100001, 0x1000000):
            q.say(f"pread at {at:#x}", [call(os.pread, fd, n, at) for n in (0, 1, 4, 8, 16)])
            q.say(f"pwrite at {at:#x}", [call(os.pwrite, fd, bytes(n), at) for n in (0, 1, 4, 8, 16)])
        writes(q, f)
        q.say("read moves", [call(os.read, fd, 4) for _ in range(3)])
        q.say("write moves", (call(os.write, fd, b"\1\2\3\4"), call(os.read, fd, 4)))
        q.say("readv", call(lambda: (os.readv(fd, buffers := [bytearray(2), bytearray(2)]), buffers)))
        q.say("preadv", call(lambda: (os.preadv(fd, buffers := [bytearray(4), bytearray(4)], 0), buffers)))
        q.say("long read", (lambda d: (len(d), d[:8]))(os.pread(fd, 4096, 0)))
        q.say("read over the end", len(os.pread(fd, 8192, 0xFF000)))
        f.decode(memory=False)
        q.say("decode off", [call(os.pread, fd, 4, 0), call(os.pwrite, fd, bytes(4), 4), call(os.pread, fd, 0, 0)])
        q.say("decode off, beyond", [call(os.pread, fd, 4, 0x100000), call(os.pwrite, fd, bytes(4), 0x100000)])
        f.decode()
        q.say("decode on again", call(os.pread, fd, 4, 0))


def writes(q: Probe, f: Fds) -> None:
    """Widths of writes, and what the silicon makes of them."""
    for at, value, n in [
        (4, 0x12345678, 4), (4, 0, 4), (4, 0xFFFFFFFF, 4), (4, 0x5A, 1), (6, 0x1234, 2), (0, 1, 4), (4, 0x555667788, 8),
        (0x80, 0x1122334455667788, 8), (0x80, 0x1234, 4), (0x84, 0x5678, 4), (0x88, 0xFFFFFFFFFFFFFFFF, 8),
        (0x90, 16, 8),
        (0x20, 0x80, 4), (0x20, 0xFF, 4), (0x20, 0, 4), (0x24, 0xFF, 4), (0x80, 0, 8), (0x88, 0, 8), (0x90, 0, 8),
        (0x3C, 9, 4),
    ]:  # fmt: skip
        f.write(at, value, n)
        f.v.host.settle()
        answers = [f"{f.read(r):x}" for r in (4, 0x20, 0x24)] + [f"{f.read(r, 8):x}" for r in (0x80, 0x88, 0x90)]
        q.say(f"write of {value:#x}, {n} bytes, at {at:#x}: 4, 20, 24, 80, 88, 90", answers)
    q.say("write of 7 bytes at 1", (os.pwrite(f.device, b"\xff" * 7, 1), f"{f.read(4):x}"))
    q.say("write of 8 bytes at 0", (os.pwrite(f.device, bytes(range(8)), 0), f"{f.read(4):x}"))
    for n in (0, 1, 5, 12, 13, 33, 34, 35, 100000):
        f.write(8, n)
        f.v.host.settle()
        q.say(f"factorial of {n}", (f"{f.read(8):x}", f.read(0x20)))


def mapping(q: Probe) -> None:
    """mmap of the regions, and what happens to the pages."""
    with bound(q) as v, client(v) as f:
        fd, rw, host = f.device, mmap.PROT_READ | mmap.PROT_WRITE, v.host
        for name, length, prot, flags, offset in [
            ("shared", 4096, rw, mmap.MAP_SHARED, 0), ("private", 4096, rw, mmap.MAP_PRIVATE, 0),
            ("private read only", 4096, mmap.PROT_READ, mmap.MAP_PRIVATE, 0),
            ("executable", 4096, rw | 4, mmap.MAP_SHARED, 0),
            ("read only", 4096, mmap.PROT_READ, mmap.MAP_SHARED, 0), ("none", 4096, 0, mmap.MAP_SHARED, 0),
            ("write only", 4096, mmap.PROT_WRITE, mmap.MAP_SHARED, 0), ("all", 1 << 20, rw, mmap.MAP_SHARED, 0),
            ("more than all", (1 << 20) + 4096, rw, mmap.MAP_SHARED, 0), ("a byte", 1, rw, mmap.MAP_SHARED, 0),
            ("nothing", 0, rw, mmap.MAP_SHARED, 0), ("the end", 4096, rw, mmap.MAP_SHARED, 0xFF000),
            ("over the end", 8192, rw, mmap.MAP_SHARED, 0xFF000), ("beyond", 4096, rw, mmap.MAP_SHARED, 1 << 20),
            ("at no page", 4096, rw, mmap.MAP_SHARED, 100), ("MAP_SHARED_VALIDATE", 4096, rw, 3, 0),
        ]:  # fmt: skip
            q.ask(f"mmap {name}", q.raw_mmap, fd, length, prot, flags, offset)
        for region in range(1, 12):
            q.ask(f"mmap of region {region}", q.raw_mmap, fd, 4096, rw, mmap.MAP_SHARED, region << 40)
        with mmap.mmap(fd, 1 << 20) as area:
            q.say("decode off: touch", host.touch(area, 0))
            f.decode()
            q.say("decode on: touch", host.touch(area, 0))
            area[4:8] = struct.pack("<I", 0x0F0F0F0F)
            q.say("liveness", (bytes(area[4:8]), f"{f.read(4):x}"))
            q.say("pages beside", [host.touch(area, at) for at in (0x1000, 0x40000, 0xFFFFC)])
            f.decode(memory=False)
            q.say("decode off again: touch", host.touch(area, 0))
            f.decode()
            q.say("decode on again: touch", host.touch(area, 0))
            f.shut("device")
            q.say("device closed: touch", host.touch(area, 4))
            f.shut("container")
            f.shut("group")
            q.say("all closed: touch", host.touch(area, 4))
            q.ask("all closed: open", os.open, v.node, os.O_RDWR)


def ioeventfd(q: Probe) -> None:
    """VFIO_DEVICE_IOEVENTFD."""
    with bound(q) as v, client(v) as f, eventfds(2) as (e, other):
        f.decode()

        def row(offset: int, data: int, fd: int, size: int = 4, argsz: int = 32) -> object:
            return tried(f.device, abi.IOEVENTFD, u32(argsz, size) + u64(offset, data) + u32(fd, 0))

        q.say("no pointer", [plain(f.device, abi.IOEVENTFD, a) for a in (0, -1, 8)])
        q.say("argsz", [(n, row(4, 1, -1, argsz=n)) for n in (0, 24, 27, 28, 29, 31, 32, 64, -1)])
        q.say("size flags", [(n, row(4, 1, -1, size=n)) for n in (*range(17), 0x100, 0x80000000)])
        q.say("descriptors", [row(4, 1, n) for n in (-1, -2, 999, f.device, 0x7FFFFFFF)])
        q.say("regions", [(n, row((n << 40) + 4, 1, e)) for n in range(1, 12)])
        q.say("positions", [(n, row(n, 1, -1)) for n in (1, 2, 0xFFFFC, 0xFFFFD, 0x100000, (1 << 40) - 4)])
        q.say("taken", row(4, 0x12345678, e))
        q.say("twice", [row(4, 0x12345678, e), row(4, 0x12345678, other)])
        q.say("other data, other size", [row(4, 1, other), row(4, 0x12345678, other, size=2)])
        fire(q, f, e, other)
        q.say("removed", [row(4, 0x12345678, -1), row(4, 0x12345678, -1)])
        os.write(e, u64(1))
        f.v.host.settle()
        q.say("after it, a write to the eventfd", f"{f.read(4):x}")
        q.say("64 bits", [row(0x80, 5, e, size=8), row(0x80, 5, -1, size=8)])
        q.say("readonly eventfd closed", [row(4, 7, e), call(os.close, e), row(4, 7, -1)])


def fire(q: Probe, f: Fds, e: int, other: int) -> None:
    """A write to the eventfd is the write to the register."""
    q.say("before", f"{f.read(4):x}")
    os.write(e, u64(1))
    f.v.host.settle()
    q.say("after a write to the eventfd", f"{f.read(4):x}")
    os.write(other, u64(3))
    f.v.host.settle()
    q.say("after a write to the other", f"{f.read(4):x}")
    f.decode(memory=False)
    os.write(e, u64(1))
    f.v.host.settle()
    f.decode()
    q.say("after one with decode off", f"{f.read(4):x}")


Part = Callable[[Probe], None]
PARTS: dict[str, Part] = {
    "device info": info,
    "features": features,
    "resets": resets,
    "config space": config,
    "BAR": bar,
    "mmap": mapping,
    "ioeventfd": ioeventfd,
}
