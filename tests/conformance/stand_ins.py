"""Modules that the recorded kernels had loaded and that are not emulated: their face to the driver core, nothing more.

The probe binds the device to a second driver and looks at a module with parameters; on the recorded kernels these were
vfio-pci and vfio_iommu_type1. What is compared is the driver core's answers, so stand-ins with the same names,
parameters and dependencies do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from pykernel.base.module import Module, Param
from pykernel.base.uevent import Uevents
from pykernel.kernel import Kernel
from pykernel.pci.driver import PciDriver


class Vfio(Module):
    name_ = "vfio"
    params: ClassVar = (Param("enable_unsafe_noiommu_mode", "bool", default=False, mode=0o644),)


class VfioIommuType1(Module):
    name_ = "vfio_iommu_type1"
    depends = ("vfio",)
    version = "0.2"
    params: ClassVar = (
        Param("allow_unsafe_interrupts", "bool", default=False, mode=0o644),
        Param("disable_hugepages", "bool", default=False, mode=0o644),
        Param("dma_entry_limit", "uint", default=65535, mode=0o644),
    )


class VfioPciCore(Module):
    name_ = "vfio_pci_core"
    depends = ("vfio",)


class VfioPciDriver(PciDriver):
    def probe(self, dev: Any) -> None:
        """Takes the device."""


class VfioPci(Module):
    name_ = "vfio_pci"
    depends = ("vfio_pci_core", "vfio")
    params: ClassVar = (
        Param("disable_denylist", "bool", default=False),
        Param("disable_idle_d3", "bool", default=False, mode=0o644),
        Param("disable_vga", "bool", default=False),
        Param("enable_sriov", "bool", default=False, mode=0o644),
        Param("nointxmask", "bool", default=False, mode=0o644),
    )

    def init(self) -> None:
        self.driver = VfioPciDriver(self.kernel, "vfio-pci", self)
        self.driver.register()

    def exit(self) -> None:
        self.driver.unregister()


def _finder(cls: type[Module]) -> Callable[[], type[Module]]:
    return lambda: cls


def load(kernel: Kernel) -> None:
    """Load them, as the recorded kernels had."""
    for cls in (Vfio, VfioIommuType1, VfioPciCore, VfioPci):
        kernel.modules.add(cls.name_, _finder(cls))
    for name in ("vfio_iommu_type1", "vfio_pci"):
        kernel.modules.modprobe(name)


class UeventSocket:
    """An AF_NETLINK socket of the kernel's uevents, as far as the probe uses one (uevent_net_broadcast())."""

    AF_NETLINK, SOCK_DGRAM, SOCK_NONBLOCK = 16, 2, 2048

    def __init__(self, kernel: Kernel) -> None:
        self.waiting: list[bytes] = []
        kernel.sub(Uevents).subscribe(self._heard)

    def _heard(self, action: str, devpath: str, env: dict[str, str]) -> None:
        fields = [f"{action}@{devpath}", *(f"{k}={v}" for k, v in env.items())]
        self.waiting.append("".join(f + "\0" for f in fields).encode("latin-1"))

    def socket(self, *kind: int) -> UeventSocket:
        """socket(2)."""
        return self

    def bind(self, address: tuple[int, int]) -> None:
        """bind(2): every group is heard."""

    def recv(self, size: int) -> bytes:
        """The next message. Raises EAGAIN."""
        if not self.waiting:
            raise BlockingIOError
        return self.waiting.pop(0)[:size]

    def __enter__(self) -> UeventSocket:
        return self

    def __exit__(self, *_: object) -> None:
        self.waiting.clear()
