"""Modules that the recorded kernels had loaded and that are not emulated: their face to the driver core, nothing more.

The probe binds the device to a second driver and looks at a module with parameters; on the recorded kernels these were
vfio-pci and vfio_iommu_type1. What is compared is the driver core's answers, so stand-ins with the same names,
parameters and dependencies do.
"""

from __future__ import annotations

from typing import Any, ClassVar

from pykernel.base.module import Module, Param
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


def load(kernel: Kernel) -> None:
    """Load them, as the recorded kernels had."""
    for cls in (Vfio, VfioIommuType1, VfioPciCore, VfioPci):
        kernel.modules.add(cls.name_, lambda cls=cls: cls)
    for name in ("vfio_iommu_type1", "vfio_pci"):
        kernel.modules.modprobe(name)
