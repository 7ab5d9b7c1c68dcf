"""What vfio_pci_core is told when it is loaded; the code that obeys is imported with the first device."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pykernel.kernel import Kernel

__all__ = ["CoreParams"]


class CoreParams:
    """``vfio_pci_core_set_params()``: what the module vfio_pci was told."""

    def __init__(self, kernel: Kernel) -> None:
        self.nointxmask = self.disable_vga = self.disable_idle_d3 = False
