"""A kernel with the mdev core, and a parent whose driver does what the test says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pykernel.base.class_ import Class
from pykernel.base.core import Device
from pykernel.base.uevent import Uevents
from pykernel.kernel import Kernel
from pykernel.machine import Machine
from pykernel.mdev import (
    MdevDevice,
    MdevDriver,
    MdevParent,
    MdevType,
    mdev_register_driver,
    mdev_register_parent,
    mdev_unregister_driver,
    mdev_unregister_parent,
)
from pykernel.start import boot
from pykernel.syscalls import Process

UUIDS = [f"{n:08x}-0000-4000-8000-000000000000" for n in range(100)]


@pytest.fixture(params=["linux-6.1", "linux-6.12"])
def profile(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def kernel(profile: str) -> Any:
    k = boot(Machine("bare", modules={"mdev": ""}), profile)
    k.up()
    yield k
    assert k.oopses == []


@pytest.fixture
def proc(kernel: Kernel) -> Process:
    return kernel.process()


class ToyDriver(MdevDriver):
    """Takes what it gets, unless ``answer`` is an exception; the core counts."""

    device_api = "toy-api"
    max_instances = 2

    def __init__(self, kernel: Kernel, name: str) -> None:
        super().__init__(kernel, name)
        self.answer: BaseException | None = None
        self.log: list[str] = []
        self.opened: dict[str, Any] = {}

    def probe(self, mdev: MdevDevice, /) -> None:
        self.log.append(f"probe {mdev.name}")
        self.kernel.sched.point()
        if self.answer is not None:
            raise self.answer

    def remove(self, mdev: MdevDevice, /) -> None:
        """Waits while the device is "open", as vfio_unregister_group_dev() does."""
        self.log.append(f"remove {mdev.name}")
        if mdev.name in self.opened:
            self.opened[mdev.name].wait()


class CountingDriver(ToyDriver):
    """Counts itself, describes itself."""

    def get_available(self, mtype: MdevType, /) -> int:
        return 7

    def show_description(self, mtype: MdevType, /) -> str:
        return f"a {mtype.sysfs_name}\nof two lines\n"


class Toy:
    """A parent of class "toy" with two types."""

    def __init__(
        self, kernel: Kernel, driver: type[ToyDriver] = ToyDriver, name: str = "toy0", driver_name: str = "toydrv"
    ) -> None:
        self.kernel = kernel
        if "toy" not in kernel.sub(Classes).made:
            kernel.sub(Classes).add("toy")
        self.driver = driver(kernel, driver_name)
        mdev_register_driver(self.driver)
        self.dev = Device(kernel, name, class_=kernel.sub(Classes).made["toy"])
        self.dev.register()
        self.parent = MdevParent()
        self.types = [MdevType("one", "The first"), MdevType("two")]
        self.path = f"/sys/class/mdev_bus/{name}"

    def register(self) -> Toy:
        mdev_register_parent(self.parent, self.dev, self.driver, self.types)
        return self

    def take_down(self) -> None:
        mdev_unregister_parent(self.parent)
        self.dev.unregister()
        mdev_unregister_driver(self.driver)
        self.kernel.sub(Classes).made["toy"].unregister()

    def type(self, name: str = "one") -> str:
        return f"{self.path}/mdev_supported_types/toy-{name}"


class Classes:
    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.made: dict[str, Class] = {}

    def add(self, name: str) -> None:
        self.made[name] = Class(self.kernel, name)
        self.made[name].register()


@pytest.fixture
def toy(kernel: Kernel) -> Toy:
    return Toy(kernel).register()


@pytest.fixture
def make_toy(kernel: Kernel) -> Callable[..., Toy]:
    return lambda *a, **kw: Toy(kernel, *a, **kw)


@pytest.fixture
def toy_on() -> type[Toy]:
    """The class, for kernels that the test boots."""
    return Toy


@pytest.fixture
def counting() -> type[ToyDriver]:
    return CountingDriver


@pytest.fixture
def uuids() -> list[str]:
    return UUIDS


@pytest.fixture
def events(kernel: Kernel) -> Any:
    found: list[dict[str, str]] = []
    end = kernel.sub(Uevents).subscribe(lambda _action, _path, env: found.append(env))
    yield found
    end()
