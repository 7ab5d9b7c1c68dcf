"""A machine with one accelerator, and a process on it that configures and binds as accel-config does."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pykernel.kernel import Kernel
from pykernel.machine import Cpu, IommuSpec, Machine, PciSpec
from pykernel.pci.core import Pci
from pykernel.start import boot
from pykernel.syscalls import Process

BUS = "/sys/bus/dsa"
ADDRESS = "0000:6a:01.0"


class Accel:
    """One accelerator of one kernel, driven through system calls."""

    def __init__(self, kernel: Kernel, kind: str) -> None:
        self.kernel = kernel
        self.kind = kind
        self.proc: Process = kernel.process()
        self.dev = f"{kind}0"
        self.node = f"/dev/{kind}/wq0.0"

    @property
    def silicon(self) -> Any:
        """The function in the slot, with its doors for faults."""
        return self.kernel.sub(Pci).slots[ADDRESS].function

    def get(self, attr: str) -> str:
        """An attribute's text, "wq0.0/size"; the errno's name when the read fails."""
        try:
            return self.proc.read_text(f"{BUS}/devices/{attr}")
        except OSError as e:
            return errno.errorcode[e.errno or 0]

    def put(self, attr: str, text: str) -> str | int:
        """One store: the count, or the errno's name."""
        return self._write(f"{BUS}/devices/{attr}", text)

    def _write(self, path: str, text: str) -> str | int:
        try:
            return self.proc.write_text(path, text)
        except OSError as e:
            return errno.errorcode[e.errno or 0]

    def bind(self, name: str, driver: str) -> str | int:
        """Write *name* to the driver's bind: the count, or the errno's name."""
        return self._write(f"{BUS}/drivers/{driver}/bind", name)

    def unbind(self, name: str, driver: str) -> str | int:
        """Write *name* to the driver's unbind."""
        return self._write(f"{BUS}/drivers/{driver}/unbind", name)

    def status(self) -> str:
        """cmd_status without its newline."""
        return self.get(f"{self.dev}/cmd_status").strip()

    def set(self, name: str, /, **attrs: str | int) -> None:
        """Stores that must succeed, in order; driver_name is left out where the kernel has none."""
        for attr, text in attrs.items():
            if attr != "driver_name" or self.kernel.profile.idxd_driver_name:
                assert self.put(f"{name}/{attr}", str(text)) == len(str(text)), (name, attr, text)

    def configure(self, number: int = 0, /, **over: str | int) -> None:
        """A user queue in group 0 with engine 0 (dedicated, 16 entries), or what *over* says."""
        rows: dict[str, str | int] = {
            "group_id": 0, "mode": "dedicated", "size": 16, "priority": 10, "type": "user", "name": "app",
            "driver_name": "user",
        }  # fmt: skip
        self.set(f"wq0.{number}", **rows | over)
        self.set("engine0.0", group_id=0)

    def up(self, driver: str = "user", **over: str | int) -> None:
        """Configure queue 0 and bind device and queue."""
        self.configure(**over)
        assert self.bind(self.dev, "idxd") == len(self.dev)
        assert self.bind("wq0.0", driver) == len("wq0.0")

    def messages(self, since: int = 0) -> list[str]:
        """dmesg from record *since* on."""
        return [r.text for r in self.kernel.log.since(since)]


@pytest.fixture
def accel() -> Iterator[Callable[..., Accel]]:
    """
    Make machines: ``accel("linux-6.1", "dsa", preset="dsa2", sva=False, args="sva=0", enqcmd=False)``.

    Each is shut down at the end, which fails the test for an oops or a leak.
    """
    made: list[Accel] = []

    def make(profile: str = "linux-6.1", kind: str = "dsa", *, sva: bool = True, iommu: bool = True,
             enqcmd: bool = True, movdir64b: bool = True, args: str = "", config: tuple[str, ...] = (),
             **options: Any) -> Accel:  # fmt: skip
        machine = Machine(
            "test",
            cpu=Cpu(movdir64b=movdir64b, enqcmd=enqcmd),
            iommu=IommuSpec(enabled=iommu, sva=sva),
            pci=(PciSpec(kind, ADDRESS, options),),
            modules={"idxd": args},
        )
        kernel = boot(machine, profile, config=config)
        kernel.up()
        made.append(Accel(kernel, kind))
        return made[-1]

    yield make
    for one in made:
        one.proc.exit()
        assert not one.kernel.oopses
        one.kernel.shutdown()
