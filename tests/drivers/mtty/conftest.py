"""A machine with mtty, cards, and clients that have them open."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
from vfioclient import Container, Device

import pykernel
from pykernel import machine
from pykernel.kernel import Kernel
from pykernel.syscalls import Process
from pykernel.uapi.linux import vfio as v

PARENT = "/sys/class/mdev_bus/mtty"
DEVICES = "/sys/bus/mdev/devices"


class Client:
    """A process that makes cards and opens them, as QEMU does."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.proc = kernel.process(comm="qemu")
        self.container: Container | None = None
        self.made = 0

    def create(self, nr_ports: int = 1, parent: str = "mtty") -> str:
        """A card's UUID."""
        self.made += 1
        uuid = f"{self.made:08x}-0000-4000-8000-000000000000"
        types = f"/sys/class/mdev_bus/{parent}/mdev_supported_types"
        self.proc.write_text(f"{types}/mtty-{nr_ports}/create", uuid)
        return uuid

    def remove(self, uuid: str) -> None:
        self.proc.write_text(f"{DEVICES}/{uuid}/remove", "1")

    def open(self, nr_ports: int = 1) -> Card:
        self.container = self.container or Container(self.proc)
        return Card(self.container.device(f"{DEVICES}/{self.create(nr_ports)}"))

    def eventfd(self) -> int:
        return self.proc.eventfd(0, os.O_NONBLOCK)

    def signals(self, fd: int) -> int:
        """How often an eventfd was signalled since it was asked last."""
        try:
            return int.from_bytes(self.proc.read(fd, 8), "little")
        except BlockingIOError:
            return 0


class Card:
    """A card with its regions."""

    def __init__(self, device: Device) -> None:
        self.device, self.proc, self.fd = device, device.proc, device.fd

    def config(self, off: int, n: int) -> bytes:
        return self.proc.pread(self.fd, n, (v.VFIO_PCI_CONFIG_REGION_INDEX << 40) + off)

    def set_config(self, off: int, data: bytes) -> int:
        return self.proc.pwrite(self.fd, data, (v.VFIO_PCI_CONFIG_REGION_INDEX << 40) + off)

    def inb(self, reg: int, port: int = 0) -> int:
        return self.proc.pread(self.fd, 1, (port << 40) + reg)[0]

    def outb(self, reg: int, value: int, port: int = 0) -> None:
        assert self.proc.pwrite(self.fd, bytes((value,)), (port << 40) + reg) == 1


@pytest.fixture(params=["linux-6.1", "linux-6.12"])
def profile(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def boot(profile: str) -> Any:
    """Boot a machine with mtty; at the end nothing must have gone wrong."""
    booted: list[Kernel] = []

    def boot(args: str = "") -> Kernel:
        text = f'[modules]\nvfio_iommu_type1 = ""\nmtty = "{args}"\n'
        booted.append(pykernel.boot(machine.parse(text), profile))
        booted[-1].up()
        return booted[-1]

    yield boot
    for kernel in booted:
        assert kernel.oopses == []


@pytest.fixture
def kernel(boot: Callable[..., Kernel]) -> Kernel:
    return boot()


@pytest.fixture
def client(kernel: Kernel) -> Client:
    return Client(kernel)


@pytest.fixture
def client_of() -> type[Client]:
    return Client


@pytest.fixture
def proc(client: Client) -> Process:
    return client.proc


@pytest.fixture
def card(client: Client) -> Card:
    return client.open(2)
