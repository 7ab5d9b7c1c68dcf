"""The devices of vfio-pci (drivers/vfio/pci/vfio_pci.c); imported with the first one."""

from __future__ import annotations

from pykernel.vfio.pci.core import VfioPciCoreDevice

__all__ = ["VfioPciDevice"]


class VfioPciDevice(VfioPciCoreDevice):
    """``static const struct vfio_device_ops vfio_pci_ops``."""

    ops_name = "vfio-pci"
