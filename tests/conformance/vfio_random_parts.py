"""Long random sequences of right and nearly right calls, the same on every kernel: what depends on what came before."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from functools import partial
from random import Random

import vfio_abi as abi
from probing import Probe, call
from subject import OTHER
from vfio_abi import plain, set_irqs, tried, u32
from vfio_client import CONTAINER, Fds, Memory, Vfio, bound, client, count, eventfds
from vfio_container_parts import device, set_container
from vfio_dma_parts import available, bitmap, unmap_dirty

P = 4096
OPS = 400


class Mappings:
    """Random calls on the mappings of one container."""

    def __init__(self, random: Random, f: Fds) -> None:
        self.random = random
        self.f = f
        self.memory, self.bits = Memory(64), Memory(2)
        self.steps: list[Callable[[], tuple[str, object]]] = [self.map] * 8 + [self.unmap] * 5 + [self.revive] * 2
        self.steps += [self.unmap_dirty, self.track, self.bitmap, self.left, self.forget]

    def iova(self) -> int:
        """A page among 40, now and then beside its begin."""
        return self.random.randrange(40) * P + self.random.choice([0] * 15 + [1])

    def map(self) -> tuple[str, object]:
        """MAP_DMA."""
        iova, page, n = self.iova(), self.random.randrange(56), self.random.randrange(1, 9)
        flags = self.random.choice([1, 2, 3, 3, 3, 3, 0, 7])
        answer = abi.mapped(self.f.container, self.memory.address + page * P, iova, n * P, flags)
        return f"map {n} pages at {iova:#x} flags {flags}", answer

    def unmap(self) -> tuple[str, object]:
        """UNMAP_DMA."""
        iova, n, flags = self.iova(), self.random.randrange(1, 17), self.random.choice([0, 0, 0, 0, 0, 4, 4])
        return f"unmap {n} pages at {iova:#x} flags {flags}", abi.unmapped(self.f.container, iova, n * P, flags)

    def revive(self) -> tuple[str, object]:
        """MAP_DMA with VADDR."""
        iova, n = self.iova(), self.random.randrange(1, 9)
        answer = abi.mapped(self.f.container, self.memory.address, iova, n * P, abi.VADDR)
        return f"new address of {n} pages at {iova:#x}", answer

    def unmap_dirty(self) -> tuple[str, object]:
        """UNMAP_DMA with a bitmap."""
        iova, n = self.iova(), self.random.randrange(1, 17)
        return f"unmap {n} pages at {iova:#x} with a bitmap", unmap_dirty(self.f.container, self.bits, iova, n * P)

    def track(self) -> tuple[str, object]:
        """DIRTY_PAGES on or off."""
        flag = self.random.choice([1, 1, 2])
        return f"dirty {flag}", tried(self.f.container, abi.DIRTY_PAGES, u32(8, flag))

    def bitmap(self) -> tuple[str, object]:
        """DIRTY_PAGES GET_BITMAP."""
        iova, n = self.iova(), self.random.choice([1, 8, 16, 40, 64])
        return f"bitmap of {n} pages at {iova:#x}", bitmap(self.f.container, self.bits, iova, n * P)

    def left(self) -> tuple[str, object]:
        """Entries, VmLck."""
        return "entries, locked", (available(self.f), self.f.v.host.locked())

    def forget(self) -> tuple[str, object]:
        """UNMAP_ALL, now and then of the addresses only."""
        flags = self.random.choice([2, 2, 6])
        return f"unmap all flags {flags}", abi.unmapped(self.f.container, 0, 0, flags)


def mappings(q: Probe, seed: int) -> None:
    """Mappings of type 1 (even seeds) or v2."""
    random = Random(seed)
    with bound(q) as v, client(v, abi.TYPE1V2 if seed & 1 else abi.TYPE1, device=False) as f:
        m = Mappings(random, f)
        for _ in range(OPS):
            q.say(*random.choice(m.steps)())


class Interrupts:
    """Random calls on the interrupts of one device."""

    def __init__(self, random: Random, f: Fds, fds: list[int]) -> None:
        self.random = random
        self.f = f
        self.fds = fds
        self.steps: list[Callable[[], tuple[str, object]]] = [self.sensible] * 8 + [self.set] * 4 + [self.raised] * 4
        self.steps += [self.ack] * 3 + [self.command, self.message]

    def sensible(self) -> tuple[str, object]:
        """Give, take, fire, disable; mask and unmask the pin."""
        index, n = self.random.choice([0, 0, 0, 1, 1, 4]), self.random.randrange(-1, len(self.fds))
        act = self.random.choice(["give", "give", "give", "fire", "disable", "mask", "unmask", "unmask"])
        flags, many, data = {
            "give": (abi.TRIGGER | abi.DATA_EVENTFD, 1, u32(self.fds[n] if n >= 0 else -1)),
            "fire": (abi.TRIGGER | abi.DATA_NONE, 1, b""),
            "disable": (abi.TRIGGER | abi.DATA_NONE, 0, b""),
            "mask": (abi.MASK | abi.DATA_NONE, 1, b""),
            "unmask": (abi.UNMASK | abi.DATA_NONE, 1, b""),
        }[act]
        if act == "give" and not index:
            self.f.write(0x64, 0xF)  # QEMU's IOAPIC loses a level that is there before its line is set up
        shown = f"{abi.IRQ_NAMES[index]} {act} {n if act == 'give' else ''}"
        return shown, (set_irqs(self.f.device, flags, index, 0, many, data), self.counts())

    def set(self) -> tuple[str, object]:
        """Anything."""
        index, flags = self.random.randrange(5), self.random.choice([1, 2, 4]) | self.random.choice([8, 16, 32, 32, 32])
        start, n = self.random.choice([0, 0, 0, 1]), self.random.choice([0, 1, 1, 1, 2])
        fds = [self.random.randrange(-1, len(self.fds)) for _ in range(n)]
        data = u32(*(self.fds[i] if i >= 0 else -1 for i in fds)) if flags & 4 else bytes(i & 1 for i in fds)
        if not index:
            self.f.write(0x64, 0xF)
        shown = f"{abi.IRQ_NAMES[index]} {abi.flag_names(flags)} {start} {n} {fds}"
        answer = set_irqs(self.f.device, flags, index, start, n, b"" if flags & 1 else data)
        return shown, (answer, self.counts())

    def raised(self) -> tuple[str, object]:
        """The silicon raises a bit."""
        bit = 1 << self.random.randrange(4)
        self.f.write(0x60, bit)
        return f"raise {bit:#x}", (self.counts(), f"{self.f.read(0x24):x}")

    def ack(self) -> tuple[str, object]:
        """The client acknowledges all or a bit."""
        bits = self.random.choice([0xF, 0xF, 1, 2])
        self.f.write(0x64, bits)
        return f"acknowledge {bits:#x}", (self.counts(), f"{self.f.read(0x24):x}")

    def command(self) -> tuple[str, object]:
        """COMMAND: DisINTx and bus mastering."""
        value = 3 | self.random.choice([4, 4, 0]) | self.random.choice([0, 0, 0x400])
        self.f.set_config(4, value, 2)
        return f"COMMAND {value:#x}", (self.counts(), f"{self.f.config(4, 2):x} {self.f.config(6, 2):x}")

    def message(self) -> tuple[str, object]:
        """MSI's control, as the client sees it."""
        value = self.random.choice([0x80, 0x81])
        self.f.set_config(0x42, value, 2)
        return f"MSI control {value:#x}", (self.counts(), f"{self.f.config(0x42, 2):x}")

    def counts(self) -> list[int]:
        """What came to each eventfd."""
        self.f.v.host.settle()
        return [count(fd) for fd in self.fds]


def interrupts(q: Probe, seed: int) -> None:
    """INTx, MSI and REQ with four eventfds."""
    random = Random(seed)
    with bound(q) as v, client(v) as f, eventfds(4) as fds:
        f.decode(master=True)
        f.write(0x64, 0xFFFFFFFF)
        steps = Interrupts(random, f, fds)
        for _ in range(OPS):
            q.say(*random.choice(steps.steps)())
        f.write(0x64, 0xFFFFFFFF)


class Descriptors:
    """Random opens, closes and attachments of up to three containers, the group and its device."""

    def __init__(self, random: Random, v: Vfio) -> None:
        self.random = random
        self.v = v
        self.containers: list[int] = []
        self.groups: list[int] = []
        self.devices: list[int] = []
        self.steps: list[Callable[[], tuple[str, object]]] = [self.open_group, self.open_container] * 2
        self.steps += [self.open_device] * 3 + [self.close] * 4 + [self.attach] * 3 + [self.set_iommu] * 3
        self.steps += [self.detach, self.status, self.map, self.bind]

    def pick(self, fds: list[int]) -> int:
        """One of them, or -1."""
        return self.random.choice(fds) if fds else -1

    def open_container(self) -> tuple[str, object]:
        """At most three."""
        if len(self.containers) < 3:
            self.containers.append(os.open(CONTAINER, os.O_RDWR))
        return "open a container", len(self.containers)

    def open_group(self) -> tuple[str, object]:
        """Once."""
        got = call(os.open, self.v.node, os.O_RDWR)
        if isinstance(got, int):
            self.groups.append(got)
            got = "opened"
        return "open the group", got

    def open_device(self) -> tuple[str, object]:
        """At most three."""
        group = self.pick(self.groups)
        if len(self.devices) > 2:
            return "a device", device(group, self.v.addr)
        got = plain_device(group, self.v.addr)
        if isinstance(got, int):
            self.devices.append(got)
            got = "opened"
        return "keep a device", got

    def close(self) -> tuple[str, object]:
        """One of any kind, or dup it first."""
        kinds = {"container": self.containers, "group": self.groups, "device": self.devices}
        name = self.random.choice([n for n, fds in kinds.items() if fds] or ["group"])
        fds = kinds[name]
        if not fds:
            return "close nothing", None
        at = self.random.randrange(len(fds))
        if self.random.randrange(4) == 0:
            fds[at], old = os.dup(fds[at]), fds[at]
            os.close(old)
            return f"dup {name} {at}, close the first", None
        os.close(fds.pop(at))
        return f"close {name} {at}", None

    def attach(self) -> tuple[str, object]:
        """SET_CONTAINER."""
        fd = self.pick(self.containers)
        shown = f"container {self.containers.index(fd) if fd >= 0 else None}: attach"
        return shown, set_container(self.pick(self.groups), fd)

    def detach(self) -> tuple[str, object]:
        """UNSET_CONTAINER."""
        return "detach", plain(group, abi.UNSET_CONTAINER) if (group := self.pick(self.groups)) >= 0 else None

    def set_iommu(self) -> tuple[str, object]:
        """SET_IOMMU."""
        fd, kind = self.pick(self.containers), self.random.choice([1, 3, 3, 6, 8])
        shown = f"container {self.containers.index(fd) if fd >= 0 else None}: type {kind}"
        return shown, plain(fd, abi.SET_IOMMU, kind) if fd >= 0 else None

    def status(self) -> tuple[str, object]:
        """GET_STATUS; what devices still answer."""
        group = self.pick(self.groups)
        status = tried(group, abi.GROUP_GET_STATUS, u32(8, 0)) if group >= 0 else None
        return "status, devices", (status, [call(os.pread, fd, 2, abi.CONFIG) for fd in self.devices])

    def map(self) -> tuple[str, object]:
        """MAP_DMA and UNMAP_DMA in each container."""
        memory = Memory(1)
        return "map, unmap", [(abi.mapped(fd, memory.address, 0, P), abi.unmapped(fd, 0, P)) for fd in self.containers]

    def bind(self) -> tuple[str, object]:
        """Unbind and bind again, where that does not have to wait."""
        if self.devices:
            return "no unbind", call(os.stat, self.v.node).__class__.__name__
        return "unbind, bind", [self.v.then(f"{OTHER}/{what}", self.v.addr) for what in ("unbind", "bind")]


def plain_device(group: int, name: str) -> object:
    """GET_DEVICE_FD: the descriptor, or the errno's name."""
    return call(fcntl.ioctl, group, abi.GET_DEVICE_FD, bytearray(name.encode() + b"\0"))


def descriptors(q: Probe, seed: int) -> None:
    """Opens, closes, attachments."""
    random = Random(seed)
    with bound(q) as v:
        d = Descriptors(random, v)
        for _ in range(OPS):
            q.say(*random.choice(d.steps)())
        for fd in (*d.devices, *d.groups, *d.containers):
            os.close(fd)


Part = Callable[[Probe], None]
PARTS: dict[str, Part] = {
    f"random {name} {seed}": partial(f, seed=seed)
    for name, f in (("mappings", mappings), ("interrupts", interrupts), ("descriptors", descriptors))
    for seed in range(1, 5)
}
