"""A kernel on a machine without devices, a bus to play with, and what was said and sent."""

from __future__ import annotations

from collections.abc import Callable
from errno import ENODEV

import pytest

from pykernel.base.bus import Bus, Driver
from pykernel.base.core import Device
from pykernel.base.uevent import Uevents
from pykernel.errors import err
from pykernel.kernel import Kernel
from pykernel.machine import Machine
from pykernel.start import boot


@pytest.fixture(params=["linux-6.1", "linux-6.12"])
def profile(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def kernel() -> Kernel:
    k = boot(Machine("bare"), "linux-6.1")
    k.up()
    return k


class ToyDriver(Driver):
    """Takes every device unless ``answers`` has something to raise for its name; ``log`` tells what was called."""

    def __init__(self, kernel: Kernel, name: str, bus: Bus, module: object = None) -> None:
        super().__init__(kernel, name, bus, module)
        self.answers: dict[str, BaseException] = {}
        self.log: list[str] = []

    def probe(self, dev: Device, /) -> None:
        self.log.append(f"probe {dev.name}")
        dev.drvdata = self
        if dev.name in self.answers:
            raise self.answers[dev.name]

    def remove(self, dev: Device, /) -> None:
        self.log.append(f"remove {dev.name}")
        if f"remove {dev.name}" in self.answers:
            raise self.answers[f"remove {dev.name}"]


class ToyBus(Bus):
    """Matches by the part of the device's name before a dot; "any" drivers match all."""

    def match(self, dev: Device, drv: Driver) -> bool:
        if dev.name.startswith("odd"):
            raise err(ENODEV)
        return drv.name.startswith("any") or dev.name.partition(".")[0] == drv.name


@pytest.fixture
def bus(kernel: Kernel) -> Bus:
    b = ToyBus(kernel, "toy")
    b.register()
    return b


@pytest.fixture
def make(kernel: Kernel, bus: Bus) -> Callable[..., Device]:
    def make(name: str, **kw: object) -> Device:
        dev = Device(kernel, name, **{"bus": bus, **kw})  # type: ignore[arg-type]
        dev.register()
        return dev

    return make


@pytest.fixture
def driver(kernel: Kernel, bus: Bus) -> Callable[..., ToyDriver]:
    def driver(name: str = "any", **answers: BaseException) -> ToyDriver:
        drv = ToyDriver(kernel, name, bus)
        drv.answers = answers
        drv.register()
        return drv

    return driver


@pytest.fixture
def events(kernel: Kernel) -> list[dict[str, str]]:
    """Every uevent from now on, as its variables in order."""
    found: list[dict[str, str]] = []
    kernel.sub(Uevents).subscribe(lambda _action, _path, env: found.append(env))
    return found
