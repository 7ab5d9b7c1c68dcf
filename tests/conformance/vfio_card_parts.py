"""Questions on a PCI Express function with MSI-X, power management and extended capabilities: QEMU's e1000e."""

from __future__ import annotations

import glob
import mmap
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import vfio_abi as abi
from probing import Probe, call, read_text
from subject import BUS
from vfio_abi import (
    DATA_BOOL,
    DATA_EVENTFD,
    DATA_NONE,
    ERR,
    INTX,
    MSI,
    MSIX,
    REQ,
    TRIGGER,
    ask,
    plain,
    set_irqs,
    u32,
    u64,
)
from vfio_client import Fds, Vfio, client, count, eventfds
from vfio_device_parts import flipped
from vfio_irq_parts import disable, enable

FIRE = TRIGGER | DATA_NONE
TABLE = 3 << 40


class Card(Vfio):  # type: ignore[misc,unused-ignore]  # probes are imported by plain names
    """The e1000e (8086:10d3)."""

    def __init__(self, q: Probe) -> None:
        self.host = q.host
        found = [p for p in sorted(glob.glob(f"{BUS}/devices/*")) if read_text(f"{p}/device") == "0x10d3\n"]
        self.addr = os.path.basename(found[0])
        self.link = f"{BUS}/devices/{self.addr}"
        self.real = os.path.realpath(self.link)
        self.group_id = os.path.basename(os.readlink(self.at("iommu_group")))
        self.node = f"/dev/vfio/{self.group_id}"
        q.words = [(self.addr, "ADDR"), (self.node, "/dev/vfio/GROUP")]


@contextmanager
def card(q: Probe) -> Iterator[Fds]:
    """The card on vfio-pci, with a client."""
    v = Card(q)
    v.bind()
    try:
        with client(v) as f:
            yield f
    finally:
        v.release()


def info(q: Probe) -> None:
    """Regions, interrupts, the MSI-X capability of a region with every length."""
    with card(q) as f:
        ask(q, "GET_INFO", f.device, abi.GET_INFO, u32(64, *(0,) * 15))
        for index in range(10):
            ask(q, f"GET_REGION_INFO {index}", f.device, abi.GET_REGION_INFO, u32(64, -1, index, -1, *(-1,) * 12))
        for argsz in (32, 33, 36, 39, 40, 41, 48, 64, -1):
            ask(q, f"GET_REGION_INFO 3, argsz {argsz}", f.device, abi.GET_REGION_INFO, u32(argsz, 0, 3, 0, *(-1,) * 12))
        for index in range(6):
            ask(q, f"GET_IRQ_INFO {index}", f.device, abi.GET_IRQ_INFO, u32(16, 0, index, 0))
        q.ask("reset_method", read_text, f.v.at("reset_method"))
        q.say("HOT_RESET_INFO", plain(f.device, abi.GET_PCI_HOT_RESET_INFO))
        for index in range(7):
            q.ask(f"mmap of region {index}", q.raw_mmap, f.device, 4096, 3, mmap.MAP_SHARED, index << 40)


def config(q: Probe) -> None:
    """What of 4096 bytes is visible, and what every bit takes."""
    with card(q) as f:
        data = os.pread(f.device, 4096, abi.CONFIG)
        for at in (0, 0x20, *range(0x40, 0x160, 16)):
            q.say(f"{at:#05x}", data[at : at + 16].hex(" ", 4))
        q.say("the rest is zeros", not any(data[0x150:]))
        bars = (0x10, 0x14, 0x18, 0x1C, 0x30)
        for at in (*range(0, 0x160, 4), 0x160, 0x800, 0xFFC):
            if at not in bars:
                q.say(f"dword {at:#x} of ones, of zeros, back", flipped(f, at, 4))
        for at in bars:
            first = f.config(at, 4)
            f.set_config(at, 0xFFFFFFFF, 4)
            size = f.config(at, 4)
            f.set_config(at, first, 4)
            q.say(f"BAR at {at:#x} of ones, back", (f"{size:x}", f.config(at, 4) == first))
        for at in (
            0xA0,
            0xA2,
            0xA4,
            0xC8,
            0xCA,
            0xCC,
            0xCE,
            0xD0,
            0xD2,
            0xD4,
            0xE0,
            0xE2,
            0xE4,
            0xE8,
            0xEA,
            0xF0,
            0x100,
            0x102,
            0x104,
        ):
            q.say(f"word {at:#x} of ones, of zeros, back", flipped(f, at, 2))
        for at in (0xA0, 0xA1, 0xA2, 0xA3, 0xCC, 0xCD, 0xCE, 0xD2, 0xD3, 0xE8, 0xE9, 0xEA, 0x103, 0x143):
            q.say(f"byte {at:#x} of ones, of zeros, back", flipped(f, at, 1))
        q.say("pread of 4096", len(os.pread(f.device, 4096, abi.CONFIG)))
        q.say("pread at the end", [call(os.pread, f.device, n, abi.CONFIG + 4092) for n in (4, 5, 8)])
        q.say("pread beyond", call(os.pread, f.device, 1, abi.CONFIG + 4096))


def power(q: Probe) -> None:
    """D3hot by the client: BARs go away, configuration space does not."""
    with card(q) as f:
        f.decode()
        for state in (3, 0, 1, 2, 3, 0):
            f.set_config(0xCC, state, 2)
            bar = call(os.pread, f.device, 4, TABLE)
            answers = [f"{f.config(0xCC, 2):x}", f"{f.config(0, 4):x}", bar, call(os.pwrite, f.device, bytes(4), TABLE)]
            q.say(f"PM state {state}", [*answers, read_text(f.v.at("power_state"))])
        f.set_config(0xCC, 3, 2)
        q.say("D3: RESET", (plain(f.device, abi.RESET), f"{f.config(0xCC, 2):x}", f"{f.config(4, 2):x}"))
        q.say("D3: enable MSI-X", [enable(f, MSIX, -1), disable(f, MSIX)])
        f.set_config(0xCC, 0, 2)
        f.set_config(4, 7, 2)
        q.say("RESET", (plain(f.device, abi.RESET), f"{f.config(4, 2):x}", call(os.pread, f.device, 4, TABLE)))


def give(f: Fds, index: int, start: int, fds: list[int]) -> object:
    """DATA_EVENTFD."""
    return set_irqs(f.device, TRIGGER | DATA_EVENTFD, index, start, len(fds), u32(*fds))


def vectors(q: Probe) -> None:
    """MSI-X: five vectors, ranges, growth, holes, errors in the middle."""
    with card(q) as f, eventfds(6) as e:
        for start in range(6):
            for n in range(7):
                answers: list[object] = [give(f, MSIX, start, e[:n])]
                answers += [set_irqs(f.device, FIRE, MSIX, i, 1) for i in range(5)] + [[count(fd) for fd in e]]
                answers.append(disable(f, MSIX))
                q.say(f"{n} vectors from {start}", answers)
        growth(q, f, e)
        for bad in (-1, -2, 999, f.device):
            answers = [give(f, MSIX, 0, e[:3])]
            answers += [give(f, MSIX, 0, [e[3], bad, e[4]])]
            answers += [[set_irqs(f.device, FIRE, MSIX, i, 1) for i in range(3)], [count(fd) for fd in e]]
            shown = "the device" if bad == f.device else bad
            q.say(f"three, then {shown} in their middle", [*answers, disable(f, MSIX)])
            answers = [give(f, MSIX, 0, [e[3], bad, e[4]]), set_irqs(f.device, FIRE, MSIX, 0, 3)]
            q.say(f"{shown} in the middle at first", [*answers, [count(fd) for fd in e], disable(f, MSIX)])
        give(f, MSIX, 0, e[:5])
        for data in (b"\1\0\1\0\1", b"\0\0\0\0\0", b"\xff\1\2\0\0"):
            q.say(f"bytes {data.hex()}", set_irqs(f.device, TRIGGER | DATA_BOOL, MSIX, 0, 5, data))
            q.say(f"bytes {data.hex()}: came", [count(fd) for fd in e])
        q.say("fire 1 to 3", (set_irqs(f.device, FIRE, MSIX, 1, 3), [count(fd) for fd in e]))
        q.say("fire too many", (set_irqs(f.device, FIRE, MSIX, 3, 3), [count(fd) for fd in e]))
        q.say("other kinds meanwhile", [enable(f, n, e[0]) for n in (INTX, MSI, ERR, REQ)])
        q.say("disable other kinds", [disable(f, n) for n in (INTX, MSI, ERR, REQ)])
        q.say("none at first", [disable(f, MSIX), give(f, MSIX, 0, []), disable(f, MSIX)])
        q.say("holes only", [give(f, MSIX, 0, [-1] * 5), set_irqs(f.device, FIRE, MSIX, 0, 5), disable(f, MSIX)])


def growth(q: Probe, f: Fds, e: list[int]) -> None:
    """A range beyond what is enabled."""
    for first, start, n in [
        (1, 1, 1),
        (1, 0, 3),
        (2, 3, 2),
        (2, 4, 1),
        (3, 1, 4),
        (5, 0, 5),
        (1, 5, 1),
        (1, 4, 2),
        (2, 2, 0),
    ]:
        answers = [give(f, MSIX, 0, e[:first]), give(f, MSIX, start, e[:n])]
        answers.append([set_irqs(f.device, FIRE, MSIX, i, 1) for i in range(5)])
        answers += [[count(fd) for fd in e], control(f), disable(f, MSIX)]
        q.say(f"{first} vectors, then {n} from {start}", answers)
    q.say("taken away and given back", [
        give(f, MSIX, 0, e[:3]), give(f, MSIX, 1, [-1]), set_irqs(f.device, FIRE, MSIX, 0, 3), [count(fd) for fd in e],
        give(f, MSIX, 1, [e[5]]), set_irqs(f.device, FIRE, MSIX, 0, 3), [count(fd) for fd in e], disable(f, MSIX),
    ])  # fmt: skip
    for one in (INTX, MSI, MSIX):
        for two in (INTX, MSI, MSIX):
            q.say(f"{abi.IRQ_NAMES[one]}, then {abi.IRQ_NAMES[two]}", [
                enable(f, one, e[0]), control(f), enable(f, two, e[1]), control(f), set_irqs(f.device, FIRE, one, 0, 1),
                set_irqs(f.device, FIRE, two, 0, 1), [count(fd) for fd in e], disable(f, two), disable(f, one),
                control(f),
            ])  # fmt: skip


def control(f: Fds) -> str:
    """MSI-X control, MSI control and COMMAND: the client's and the function's."""
    with open(f.v.at("config"), "rb") as file:
        real = os.pread(file.fileno(), 256, 0)
    seen = " ".join(f"{f.config(at, 2):x}" for at in (0xA2, 0xD2, 4))
    return f"{seen} / " + " ".join(real[at : at + 2][::-1].hex() for at in (0xA2, 0xD2, 4))


def errors(q: Probe) -> None:
    """The ERR index of a PCI Express function."""
    with card(q) as f, eventfds(1) as (e,):
        for flags in (TRIGGER, abi.MASK, abi.UNMASK):
            for data, payload in (
                (DATA_NONE, b""),
                (DATA_BOOL, b"\1"),
                (DATA_EVENTFD, u32(e)),
                (DATA_EVENTFD, u32(-1)),
            ):
                for n in (0, 1, 2):
                    for index in (ERR, REQ):
                        enable(f, index, e)
                        answer = set_irqs(f.device, flags | data, index, 0, n, payload * n)
                        shown = f"{abi.IRQ_NAMES[index]} {abi.flag_names(flags | data)} {payload == u32(-1)} count {n}"
                        q.say(shown, (answer, count(e), disable(f, index)))
        for index in (ERR, REQ):
            q.say(f"{abi.IRQ_NAMES[index]} nothing there", [
                disable(f, index), set_irqs(f.device, FIRE, index, 0, 1), set_irqs(f.device, FIRE, index, 1, 1),
                enable(f, index, -1), enable(f, index, -2), enable(f, index, 999), enable(f, index, f.device),
            ])  # fmt: skip


def table(q: Probe) -> None:
    """The MSI-X table's BAR by pread, pwrite, mmap, ioeventfd; the I/O BAR and the ROM."""
    with card(q) as f, eventfds(1) as (e,):
        f.decode()
        q.say("table by pread", [call(os.pread, f.device, n, TABLE) for n in (4, 16, 80)])
        q.say(
            "table's end", [call(os.pread, f.device, n, TABLE + at) for at, n in ((76, 4), (78, 4), (76, 8), (79, 1))]
        )
        q.say(
            "table by pwrite",
            [call(os.pwrite, f.device, bytes(n), TABLE + at) for at, n in ((0, 4), (64, 16), (76, 8))],
        )
        q.say("table after it", call(os.pread, f.device, 16, TABLE))
        q.say("behind the table", call(os.pread, f.device, 16, TABLE + 0x1000))
        q.say("pending bits", call(os.pread, f.device, 8, TABLE + 0x2000))
        q.say("with vectors", (give(f, MSIX, 0, [e]), call(os.pread, f.device, 16, TABLE), disable(f, MSIX)))
        q.say("edges", [call(os.pread, f.device, 8, TABLE + at) for at in (0x3FF8, 0x3FFC, 0x4000)])
        for at in (0, 76, 78, 80, 0x1000):
            row = u32(32, 4) + u64(TABLE + at, 1) + u32(-1, 0)
            q.say(f"ioeventfd at {at}", abi.tried(f.device, abi.IOEVENTFD, row))
        q.say(
            "ROM",
            [
                len(d) if isinstance(d := call(os.pread, f.device, 16, (6 << 40) + at), bytes) else d
                for at in (0, 0x3FFF8)
            ],
        )
        q.say("ROM's signature", call(os.pread, f.device, 2, 6 << 40))
        q.say(
            "ROM beyond, written",
            [call(os.pread, f.device, 1, (6 << 40) + 0x40000), call(os.pwrite, f.device, b"1", 6 << 40)],
        )
        f.set_config(4, 2, 2)
        q.say("I/O decode off", [call(os.pread, f.device, 4, 2 << 40)])
        f.set_config(4, 1, 2)
        q.say("memory decode off", [call(os.pread, f.device, 4, TABLE), call(os.pread, f.device, 4, 6 << 40)])
        q.say("I/O beyond", [call(os.pread, f.device, 4, (2 << 40) + at) for at in (32, 64)])


Part = Callable[[Probe], None]
PARTS: dict[str, Part] = {
    "card info": info,
    "card config space": config,
    "card power": power,
    "card MSI-X": vectors,
    "card errors": errors,
    "card table": table,
}
