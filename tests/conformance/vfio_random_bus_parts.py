"""Long random sequences on three functions in two groups: drivers, groups, containers, devices, resets."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from functools import partial
from random import Random

import vfio_abi as abi
from probing import Probe, call, write_text
from vfio_abi import plain, tried, u32
from vfio_bus_parts import NAMES, Function, all_bound, dependent, functions
from vfio_client import CONTAINER, Memory
from vfio_container_parts import set_container

OPS = 400
P = 4096
DRIVERS = ("vfio-pci", "vfio-pci", "vfio-pci", "pci-stub")


class Bus:
    """The steps, on three functions."""

    def __init__(self, random: Random, found: list[Function]) -> None:
        self.random = random
        self.found = found
        self.memory = Memory(4)
        self.groups: dict[int, int] = {}
        self.containers = [os.open(CONTAINER, os.O_RDWR) for _ in range(2)]
        self.devices: list[tuple[str, int]] = []
        self.steps: list[Callable[[], tuple[str, object]]] = [self.bind] * 4 + [self.group] * 4 + [self.attach] * 4
        self.steps += [self.iommu] * 3 + [self.device] * 4 + [self.close_device] * 4 + [self.close_group, self.detach]
        self.steps += [self.status] * 2 + [self.map, self.hot_reset, self.hot_reset, self.reset, self.renew]

    def one(self) -> tuple[str, Function]:
        """A function and its name."""
        n = self.random.randrange(3)
        return NAMES[n], self.found[n]

    def bind(self) -> tuple[str, object]:
        """Unbind and bind, unless a device descriptor would have to be waited for."""
        (name, f), driver = self.one(), self.random.choice(DRIVERS)
        if any(n == name for n, _ in self.devices):
            return f"{name} is open", f.driver()
        if self.random.randrange(3) == 0:
            f.unbind()
            return f"{name}: unbind", f.driver()
        write_text(f"{f.path}/driver_override", driver)
        result = call(write_text, "/sys/bus/pci/drivers_probe", f.addr)
        return f"{name}: override {driver}, probe", (result == len(f.addr), f.driver())

    def group(self) -> tuple[str, object]:
        """Open a group."""
        name, f = self.one()
        got = call(os.open, f.node, os.O_RDWR)
        if isinstance(got, int):
            self.groups[f.group_id] = got
            got = "opened"
        return f"{name}: group", got

    def close_group(self) -> tuple[str, object]:
        """Close a group."""
        name, f = self.one()
        fd = self.groups.pop(f.group_id, -1)
        if fd >= 0:
            os.close(fd)
        return f"{name}: close the group", fd >= 0

    def attach(self) -> tuple[str, object]:
        """SET_CONTAINER."""
        (name, f), n = self.one(), self.random.choice([0, 0, 0, 1])
        fd = self.groups.get(f.group_id, -1)
        return f"{name}: into {n}", set_container(fd, self.containers[n]) if fd >= 0 else None

    def detach(self) -> tuple[str, object]:
        """UNSET_CONTAINER."""
        name, f = self.one()
        fd = self.groups.get(f.group_id, -1)
        return f"{name}: out", plain(fd, abi.UNSET_CONTAINER) if fd >= 0 else None

    def iommu(self) -> tuple[str, object]:
        """SET_IOMMU."""
        n, kind = self.random.randrange(2), self.random.choice([1, 3])
        return f"{n}: type {kind}", plain(self.containers[n], abi.SET_IOMMU, kind)

    def device(self) -> tuple[str, object]:
        """GET_DEVICE_FD, through any group that is open."""
        name, f = self.one()
        groups = [self.groups[g] for g in sorted(self.groups)]
        if not groups:
            return f"{name}: no group", None
        fd = self.random.choice(groups)
        got = call(fcntl.ioctl, fd, abi.GET_DEVICE_FD, bytearray(f.addr.encode() + b"\0"))
        if isinstance(got, int):
            self.devices.append((name, got))
            got = "opened"
        return f"{name}: device", got

    def close_device(self) -> tuple[str, object]:
        """The last or the first of those that are open."""
        if not self.devices:
            return "no device", None
        name, fd = self.devices.pop(self.random.choice([0, -1]))
        os.close(fd)
        return f"{name}: close the device", None

    def status(self) -> tuple[str, object]:
        """Of groups and devices."""
        groups = [tried(self.groups[g], abi.GROUP_GET_STATUS, u32(8, 0)) for g in sorted(self.groups)]
        return "status", (groups, [(n, call(os.pread, fd, 2, abi.CONFIG)) for n, fd in self.devices])

    def map(self) -> tuple[str, object]:
        """Map a page in each container, or unmap it."""
        if self.random.randrange(2):
            return "map", [abi.mapped(fd, self.memory.address, 0, P) for fd in self.containers]
        return "unmap", [abi.unmapped(fd, 0, P) for fd in self.containers]

    def hot_reset(self) -> tuple[str, object]:
        """GET_PCI_HOT_RESET_INFO, PCI_HOT_RESET with all groups that are open, or one."""
        if not self.devices:
            return "nothing to reset", None
        name, fd = self.random.choice(self.devices)
        groups = [self.groups[g] for g in sorted(self.groups)][: self.random.choice([1, 2])]
        info = dependent(fd, 64, self.found)
        return f"{name}: hot reset by {len(groups)}", (
            info,
            tried(fd, abi.PCI_HOT_RESET, u32(12 + 4 * len(groups), 0, len(groups), *groups)),
        )

    def reset(self) -> tuple[str, object]:
        """VFIO_DEVICE_RESET, of a register that survives."""
        if not self.devices:
            return "nothing to reset", None
        name, fd = self.random.choice(self.devices)
        return f"{name}: RESET", (plain(fd, abi.RESET), tried(fd, abi.GET_INFO, u32(16, 0, 0, 0)))

    def renew(self) -> tuple[str, object]:
        """A container is closed and another opened."""
        n = self.random.randrange(2)
        os.close(self.containers[n])
        self.containers[n] = os.open(CONTAINER, os.O_RDWR)
        return f"{n}: another container", plain(self.containers[n], abi.CHECK_EXTENSION, 10)

    def close(self) -> None:
        """All that is open."""
        for fd in (*(fd for _, fd in self.devices), *self.groups.values(), *self.containers):
            os.close(fd)


def random_bus(q: Probe, seed: int) -> None:
    """From all bound (odd seeds) or none."""
    random = Random(seed)
    if seed & 1:
        with all_bound(q) as found:
            sequence(q, random, found)
    else:
        found = functions(q)
        sequence(q, random, found)
        for f in found:
            f.unbind()


def sequence(q: Probe, random: Random, found: list[Function]) -> None:
    """The steps."""
    bus = Bus(random, found)
    try:
        for _ in range(OPS):
            q.say(*random.choice(bus.steps)())
    finally:
        bus.close()


Part = Callable[[Probe], None]
PARTS: dict[str, Part] = {f"random functions {seed}": partial(random_bus, seed=seed) for seed in range(1, 6)}
