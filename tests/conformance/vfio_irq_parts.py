"""Questions on VFIO_DEVICE_SET_IRQS: what is refused, what signals, what the silicon's interrupts do."""

from __future__ import annotations

import os
import select
from collections.abc import Callable

import vfio_abi as abi
from probing import Probe, call, opened
from vfio_abi import (
    DATA_BOOL,
    DATA_EVENTFD,
    DATA_NONE,
    ERR,
    INTX,
    MASK,
    MSI,
    MSIX,
    REQ,
    TRIGGER,
    UNMASK,
    ask,
    flag_names,
    irq_set,
    set_irqs,
    tried,
    u32,
)
from vfio_client import Fds, bound, client, count, eventfds

RANGES = ((0, 0), (0, 1), (1, 0), (1, 1), (0, 2))
RAISE, ACK, IRQ_STATUS = 0x60, 0x64, 0x24
LONG = 2000
SHORT = 60


def data_of(flags: int, n: int, fd: int) -> bytes:
    """The payload that goes with the flags: eventfds, bytes of one, nothing."""
    if flags & DATA_EVENTFD:
        return u32(*(fd,) * n)
    return b"\1" * n if flags & DATA_BOOL else b""


def enable(f: Fds, index: int, *fds: int) -> object:
    """Give the vectors these eventfds."""
    return set_irqs(f.device, TRIGGER | DATA_EVENTFD, index, 0, len(fds), u32(*fds))


def disable(f: Fds, index: int) -> object:
    """DATA_NONE, TRIGGER, count 0."""
    return set_irqs(f.device, TRIGGER | DATA_NONE, index, 0, 0)


def headers(q: Probe) -> None:
    """The header's checks."""
    with bound(q) as v, client(v) as f, eventfds(1) as (e,):
        fd = f.device
        none, fds = TRIGGER | DATA_NONE, TRIGGER | DATA_EVENTFD
        for argsz in (0, 1, 4, 16, 19, 20, 21, 23, 24, 25, 28, 64, -1):
            ask(q, f"NONE argsz {argsz}", fd, abi.SET_IRQS, irq_set(none, REQ, 0, 1, argsz=argsz))
            ask(q, f"BOOL argsz {argsz}", fd, abi.SET_IRQS, irq_set(TRIGGER | DATA_BOOL, REQ, 0, 1, b"\1", argsz))
            ask(q, f"EVENTFD argsz {argsz}", fd, abi.SET_IRQS, irq_set(fds, REQ, 0, 1, u32(e), argsz))
        for index in (5, 6, 100, 0x7FFFFFFF, -1):
            q.say(f"index {index}", set_irqs(fd, none, index, 0, 0))
        for start, n in [
            (0, -1),
            (1, -1),
            (-1, 0),
            (-1, 1),
            (-1, -1),
            (0x7FFFFFFF, 0),
            (0, 0x7FFFFFFF),
            (-2, 1),
            (1, -2),
        ]:
            q.say(f"start {start} count {n}", [set_irqs(fd, none, index, start, n) for index in range(5)])
        for bit in range(6, 32):
            q.say(f"flag bit {bit}", set_irqs(fd, none | 1 << bit, REQ, 0, 0))
        disable(f, REQ)


def matrix(q: Probe, active: str) -> None:
    """Every index, action and kind of data while ``active`` is enabled; each from the same state."""
    with bound(q) as v, client(v) as f, eventfds(2) as (mine, given):
        for index in range(6):
            for flags in range(65):
                answers = [attempt(f, active, mine, given, index, flags, *where) for where in RANGES]
                if len(set(map(repr, answers))) == 1:
                    answers = [answers[0], "always"]
                q.say(f"{abi.IRQ_NAMES[index]} {flag_names(flags)}", answers)


def attempt(f: Fds, active: str, mine: int, given: int, index: int, flags: int, start: int, n: int) -> object:
    """One SET_IRQS; with the counts of the eventfd that was there and the one that was given, if they got any."""
    if active == "INTX":
        enable(f, INTX, mine)
    elif active == "MSI":
        enable(f, MSI, mine)
    elif active == "REQ":
        enable(f, REQ, mine)
        enable(f, ERR, mine)
    result = set_irqs(f.device, flags, index, start, n, data_of(flags, n, given))
    counts = count(mine), count(given)
    for other in (INTX, MSI, ERR, REQ):
        disable(f, other)
    set_irqs(f.device, UNMASK | DATA_EVENTFD, INTX, 0, 1, u32(-1))
    return (result, *counts) if any(counts) else result


def descriptors(q: Probe) -> None:
    """What may stand for an eventfd, for each index and use."""
    with bound(q) as v, client(v) as f, eventfds(2) as (e, other), opened("/dev/null", os.O_RDWR) as null:
        r, w = os.pipe()
        closed = os.dup(e)
        os.close(closed)
        kinds = {"eventfd": e, "-1": -1, "-2": -2, "least": -0x80000000, "999": 999, "closed": closed}
        kinds |= {"/dev/null": null, "pipe": w, "device": f.device, "group": f.group, "container": f.container}
        for index in range(5):
            for name, fd in kinds.items():
                free = enable(f, index, fd)
                again = enable(f, index, fd)
                other_one = enable(f, index, other)
                fired = set_irqs(f.device, TRIGGER | DATA_NONE, index, 0, 1)
                back = enable(f, index, fd)
                after = set_irqs(f.device, TRIGGER | DATA_NONE, index, 0, 1)
                answers = [free, again, other_one, fired, back, after, disable(f, index), count(e), count(other)]
                q.say(f"{abi.IRQ_NAMES[index]} with {name}", answers)
        enable(f, INTX, e)
        for name, fd in kinds.items():
            answers = [set_irqs(f.device, UNMASK | DATA_EVENTFD, INTX, 0, 1, u32(n)) for n in (fd, fd, other, -1)]
            q.say(f"unmask by {name}", answers)
            set_irqs(f.device, UNMASK | DATA_EVENTFD, INTX, 0, 1, u32(-1))
        for name, fd in kinds.items():
            q.say(f"mask by {name}", set_irqs(f.device, MASK | DATA_EVENTFD, INTX, 0, 1, u32(fd)))
        os.close(r)
        os.close(w)


def orders(q: Probe) -> None:
    """INTx, MSI, MSI-X in turn; enabling twice, disabling twice; loopback."""
    with bound(q) as v, client(v) as f, eventfds(3) as (a, b, c):
        fire = TRIGGER | DATA_NONE
        for one in (INTX, MSI, MSIX):
            for two in (INTX, MSI, MSIX):
                answers = [
                    enable(f, one, a),
                    enable(f, two, b),
                    set_irqs(f.device, fire, one, 0, 1),
                    count(a),
                    count(b),
                ]
                answers += [set_irqs(f.device, fire, two, 0, 1), count(a), count(b)]
                answers += [disable(f, two), disable(f, one), disable(f, one)]
                q.say(f"{abi.IRQ_NAMES[one]}, then {abi.IRQ_NAMES[two]}", answers)
        enable(f, MSI, a)
        q.say("MSI: two vectors", tried(f.device, abi.SET_IRQS, irq_set(TRIGGER | DATA_EVENTFD, MSI, 0, 2, u32(b, c))))
        for n in range(3):
            q.say(f"MSI: bytes {n}", set_irqs(f.device, TRIGGER | DATA_BOOL, MSI, 0, 1, bytes([n * 127])))
        q.say("MSI: counted", (count(a), count(b), count(c)))
        q.say("MSI: replaced", (enable(f, MSI, b), set_irqs(f.device, fire, MSI, 0, 1), count(a), count(b)))
        q.say("MSI: taken away", (enable(f, MSI, -1), set_irqs(f.device, fire, MSI, 0, 1), count(a), count(b)))
        q.say("MSI: given back", (enable(f, MSI, a), set_irqs(f.device, fire, MSI, 0, 1), count(a)))
        q.say("MSI: nothing of the active", set_irqs(f.device, TRIGGER | DATA_EVENTFD, MSI, 0, 0))
        control(q, f, "MSI enabled")
        disable(f, MSI)
        control(q, f, "MSI disabled")
        f.set_config(0x42, 0x81, 2)
        control(q, f, "MSI enabled by the client, no eventfd")
        q.say("MSI: enable", enable(f, MSI, a))
        control(q, f, "then with one")
        f.set_config(0x42, 0x80, 2)
        control(q, f, "MSI disabled by the client, eventfd there")
        raised(q, f, "then an interrupt", a)
        disable(f, MSI)
        enable(f, INTX, a)
        control(q, f, "INTx enabled")
        f.shut("device")
        f.device = f.open_device()
        q.say("reopened: INTx, MSI", [set_irqs(f.device, fire, n, 0, 1) for n in (INTX, MSI, REQ)])
        control(q, f, "reopened")


def control(q: Probe, f: Fds, what: str) -> None:
    """COMMAND and the MSI capability as the client sees them, and the function's own but for the address."""
    with open(f.v.at("config"), "rb") as file:
        real = os.pread(file.fileno(), 256, 0)
    q.say(f"{what}: COMMAND, MSI control", f"{f.config(4, 2):x} {f.config(0x42, 2):x}")
    q.say(f"{what}: the function's", f"{real[4:6][::-1].hex()} {real[0x42:0x44][::-1].hex()} {any(real[0x44:0x4E])}")
    q.say(f"{what}: the virtual address and data", [f"{f.config(at, 4):x}" for at in (0x44, 0x48, 0x4C)])


def raised(q: Probe, f: Fds, what: str, fd: int, value: int = 1) -> None:
    """The silicon raises; how many came, what its status has; acknowledged; how many came then."""
    f.write(RAISE, value)
    came = count(fd, LONG if "no " not in what and "masked" not in what else SHORT)
    status = f.read(IRQ_STATUS)
    f.write(ACK, value)
    q.say(what, (came, f"{status:x}", f"{f.read(IRQ_STATUS):x}", count(fd, SHORT)))


def silicon(q: Probe) -> None:
    """edu's interrupts: INTx levels, masks, MSI, the factorial's and the DMA engine's."""
    with bound(q) as v, client(v) as f, eventfds(2) as (e, unmask):
        f.decode(master=True)
        f.write(RAISE, 5)
        q.say("raised, no vector", (f"{f.read(IRQ_STATUS):x}", f"{f.config(6, 2):x}"))
        f.write(ACK, 5)
        q.say("acknowledged", (f"{f.read(IRQ_STATUS):x}", f"{f.config(6, 2):x}"))
        levels(q, f, e, unmask)
        disable(f, INTX)
        q.say("MSI", enable(f, MSI, e))
        raised(q, f, "MSI: raise 1", e)
        raised(q, f, "MSI: raise 0x80", e, 0x80)
        f.write(RAISE, 1)
        f.write(RAISE, 2)
        q.say("MSI: two raises", (count(e, LONG) + count(e, SHORT), f"{f.read(IRQ_STATUS):x}"))
        f.write(ACK, 3)
        f.write(RAISE, 0)
        q.say("MSI: no raise of 0 with nothing pending", count(e, SHORT))
        f.write(0x20, 0x80)
        f.write(8, 6)
        q.say("MSI: factorial", (count(e, LONG), f"{f.read(8):x}", f"{f.read(0x20):x}", f"{f.read(IRQ_STATUS):x}"))
        f.write(ACK, 0xFFFFFFFF)
        f.write(0x20, 0)
        f.write(8, 7)
        q.say("MSI: factorial without", (count(e, SHORT), f"{f.read(8):x}", f"{f.read(IRQ_STATUS):x}"))
        f.set_config(4, 3, 2)
        raised(q, f, "MSI: no bus master", e)
        f.set_config(4, 7, 2)
        raised(q, f, "MSI: bus master again", e)
        enable(f, MSI, -1)
        raised(q, f, "MSI: no eventfd", e)


def levels(q: Probe, f: Fds, e: int, unmask: int) -> None:
    """INTx: automatic mask, unmask, DisINTx, the unmask eventfd."""
    fd = f.device
    none = DATA_NONE
    q.say("INTx", enable(f, INTX, e))
    f.write(RAISE, 1)
    q.say("INTx: raise 1", count(e, LONG))
    q.say("INTx: DisINTx of the client, of the function", (f"{f.config(4, 2):x}", real_command(f)))
    q.say("INTx: masked, still raised", count(e, SHORT))
    q.say("INTx: unmask, still raised", (set_irqs(fd, UNMASK | none, INTX, 0, 1), count(e, LONG), count(e, SHORT)))
    f.write(ACK, 1)
    q.say("INTx: unmask, acknowledged", (set_irqs(fd, UNMASK | none, INTX, 0, 1), count(e, SHORT)))
    q.say("INTx: unmask twice", (set_irqs(fd, UNMASK | none, INTX, 0, 1), count(e, SHORT)))
    q.say("INTx: mask", set_irqs(fd, MASK | none, INTX, 0, 1))
    f.write(RAISE, 2)
    q.say("INTx: masked, raised", (count(e, SHORT), real_command(f), f"{f.config(6, 2):x}"))
    q.say("INTx: unmask", (set_irqs(fd, UNMASK | DATA_BOOL, INTX, 0, 1, b"\1"), count(e, LONG)))
    f.write(ACK, 2)
    set_irqs(fd, UNMASK | none, INTX, 0, 1)
    q.say("INTx: unmask eventfd", set_irqs(fd, UNMASK | DATA_EVENTFD, INTX, 0, 1, u32(unmask)))
    f.write(RAISE, 4)
    q.say("INTx: raise 4", (count(e, LONG), count(e, SHORT)))
    os.write(unmask, b"\1" + bytes(7))
    q.say("INTx: unmask eventfd written, still raised", (count(e, LONG), count(unmask)))
    f.write(ACK, 4)
    os.write(unmask, b"\1" + bytes(7))
    q.say("INTx: unmask eventfd written, acknowledged", (count(e, SHORT), count(unmask)))
    raised(q, f, "INTx: raise 8", e, 8)
    os.write(unmask, b"\1" + bytes(7))
    f.set_config(4, 0x407, 2)
    f.write(RAISE, 1)
    q.say("INTx: DisINTx, raised", (count(e, SHORT), real_command(f)))
    q.say("INTx: DisINTx, loopback", (set_irqs(fd, TRIGGER | none, INTX, 0, 1), count(e, SHORT)))
    q.say("INTx: DisINTx, unmask", (set_irqs(fd, UNMASK | none, INTX, 0, 1), count(e, SHORT)))
    f.set_config(4, 7, 2)
    q.say("INTx: DisINTx off", (count(e, LONG), real_command(f)))
    f.write(ACK, 1)
    set_irqs(fd, UNMASK | none, INTX, 0, 1)
    enable(f, INTX, -1)
    f.write(RAISE, 1)
    q.say("INTx: no eventfd, raised", (count(e, SHORT), real_command(f)))
    q.say("INTx: eventfd again", (enable(f, INTX, e), count(e, SHORT)))
    q.say("INTx: then unmask", (set_irqs(fd, UNMASK | none, INTX, 0, 1), count(e, LONG)))
    f.write(ACK, 1)
    set_irqs(fd, UNMASK | none, INTX, 0, 1)


def real_command(f: Fds) -> str:
    """The function's COMMAND."""
    with open(f.v.at("config"), "rb") as file:
        return os.pread(file.fileno(), 2, 4)[::-1].hex()


def eventfd_files(q: Probe) -> None:
    """What a reader of the eventfd sees: counts, poll, semaphores, a closed one, an overflow."""
    with bound(q) as v, client(v) as f:
        fire = TRIGGER | DATA_NONE
        for name, flags in (("", 0), ("semaphore", os.EFD_SEMAPHORE)):
            e = os.eventfd(0, os.EFD_NONBLOCK | flags)
            p = select.poll()
            p.register(e, select.POLLIN | select.POLLOUT | select.POLLPRI)
            enable(f, MSI, e)
            q.say(f"{name} poll before", [hex(ev) for _, ev in p.poll(0)])
            for _ in range(3):
                set_irqs(f.device, fire, MSI, 0, 1)
            q.say(f"{name} poll after three", [hex(ev) for _, ev in p.poll(0)])
            q.say(f"{name} reads", [call(os.read, e, 8) for _ in range(4)])
            os.write(e, b"\xfd" + b"\xff" * 7)
            q.say(f"{name} full", [set_irqs(f.device, fire, MSI, 0, 1) for _ in range(3)])
            q.say(f"{name} poll when full", [hex(ev) for _, ev in p.poll(0)])
            q.say(f"{name} read when full", call(os.read, e, 8))
            os.close(e)
            q.say(f"{name} closed", set_irqs(f.device, fire, MSI, 0, 1))
            disable(f, MSI)
        with eventfds(1) as (e,):
            copy = os.dup(e)
            enable(f, INTX, e)
            os.close(e)
            q.say("the dup is read", (set_irqs(f.device, fire, INTX, 0, 1), count(copy)))
            q.say("the same for REQ and INTx", (enable(f, REQ, copy), set_irqs(f.device, fire, REQ, 0, 1), count(copy)))
            os.close(copy)
            q.say("closed, disabled", (disable(f, INTX), disable(f, REQ)))


Part = Callable[[Probe], None]
PARTS: dict[str, Part] = {
    "SET_IRQS headers": headers,
    "SET_IRQS with nothing enabled": lambda q: matrix(q, ""),
    "SET_IRQS with INTx enabled": lambda q: matrix(q, "INTX"),
    "SET_IRQS with MSI enabled": lambda q: matrix(q, "MSI"),
    "SET_IRQS with REQ and ERR enabled": lambda q: matrix(q, "REQ"),
    "SET_IRQS descriptors": descriptors,
    "SET_IRQS orders": orders,
    "interrupts of the silicon": silicon,
    "eventfds": eventfd_files,
}
