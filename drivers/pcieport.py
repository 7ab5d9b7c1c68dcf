"""
pcieport: the driver of PCI Express ports (drivers/pci/pcie/portdrv_core.c, portdrv_pci.c).

Firmware keeps power management events, errors and hotplug for itself here, so a port has no service devices: the driver
takes the port, lets its bus do DMA, and does not stand in the way of user-space drivers of what is below.
"""

from __future__ import annotations

from errno import ENODEV
from typing import Any, ClassVar

from pykernel.errors import err
from pykernel.pci.driver import PCI_ANY_ID, PciDriver, PciId
from pykernel.uapi.linux import pci_regs as r

__all__ = ["PciePortDriver"]

TYPES = (r.PCI_EXP_TYPE_ROOT_PORT, r.PCI_EXP_TYPE_UPSTREAM, r.PCI_EXP_TYPE_DOWNSTREAM, r.PCI_EXP_TYPE_RC_EC)
BRIDGE, EVENT_COLLECTOR = 0x060400, 0x080700


class PciePortDriver(PciDriver):
    """``static struct pci_driver pcie_portdriver``, which is built in."""

    id_table: ClassVar[tuple[PciId, ...]] = (
        PciId(PCI_ANY_ID, PCI_ANY_ID, class_=BRIDGE, class_mask=0xFFFFFFFF),
        PciId(PCI_ANY_ID, PCI_ANY_ID, class_=BRIDGE | 1, class_mask=0xFFFFFFFF),
        PciId(PCI_ANY_ID, PCI_ANY_ID, class_=EVENT_COLLECTOR, class_mask=0xFFFFFFFF),
    )
    driver_managed_dma = True

    def probe(self, dev: Any, /) -> None:
        """pcie_portdrv_probe(). Raises ENODEV: no port of PCI Express."""
        exp = dev.find_capability(r.PCI_CAP_ID_EXP)
        if not exp or (dev.read_config_word(exp + r.PCI_EXP_FLAGS) & r.PCI_EXP_FLAGS_TYPE) >> 4 not in TYPES:
            raise err(ENODEV)
        dev.enable_device()
        dev.set_master()

    def remove(self, dev: Any, /) -> None:
        """pcie_portdrv_remove()."""
        dev.disable_device()
