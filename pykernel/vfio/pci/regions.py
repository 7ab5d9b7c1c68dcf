"""Regions that a driver adds behind those of all PCI devices (drivers/vfio/pci/vfio_pci_priv.h: vfio_pci_regops)."""

from __future__ import annotations

from dataclasses import dataclass
from errno import EINVAL
from typing import TYPE_CHECKING, Any

from pykernel.errors import err

if TYPE_CHECKING:
    from pykernel.mm.vma import Vma
    from pykernel.vfio.main import InfoCaps
    from pykernel.vfio.pci.core import VfioPciCoreDevice

__all__ = ["Region", "RegionOps"]


class RegionOps:
    """``struct vfio_pci_regops``: a driver overrides what its region can."""

    def read(self, vdev: VfioPciCoreDevice, region: Region, pos: int, count: int) -> bytes:
        """``rw``. Raises an errno."""
        raise err(EINVAL, "the region cannot be read")

    def write(self, vdev: VfioPciCoreDevice, region: Region, pos: int, data: bytes) -> int:
        """``rw``. Raises an errno."""
        raise err(EINVAL, "the region cannot be written")

    def release(self, vdev: VfioPciCoreDevice, region: Region) -> None:
        """The device is closed."""

    def mmap(self, vdev: VfioPciCoreDevice, region: Region, vma: Vma) -> bool:
        """Map it; False: it cannot be. Raises an errno."""
        return False

    def add_capability(self, vdev: VfioPciCoreDevice, region: Region, caps: InfoCaps) -> None:
        """Add capabilities to the region's info. Raises an errno."""


@dataclass
class Region:
    """``struct vfio_pci_region``: *type* and *subtype* say what it is, *flags* what can be done to it."""

    type: int
    subtype: int
    ops: RegionOps
    size: int
    flags: int
    data: Any = None
