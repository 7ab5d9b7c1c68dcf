"""
pci-stub: a driver that takes a device and does nothing with it (drivers/pci/pci-stub.c).

It has no device IDs of its own: give it some by ``new_id``, by ``driver_override`` or by the module parameter ``ids``.
"""

from __future__ import annotations

from typing import Any, ClassVar

from pykernel.base.module import Module, Param
from pykernel.log import INFO, WARNING
from pykernel.pci.driver import PCI_ANY_ID, PciDriver, PciId, sscanf_hex

__all__ = ["PciStubDriver", "PciStubModule"]


class PciStubDriver(PciDriver):
    """``static struct pci_driver stub_driver``."""

    driver_managed_dma = True

    def probe(self, dev: Any, /) -> None:
        """pci_stub_probe()."""
        dev.info("claimed by stub")


class PciStubModule(Module):
    """The module; *ids* is ``vendor:device[:subvendor[:subdevice[:class[:class_mask]]]],...``."""

    name_ = "pci_stub"
    params: ClassVar[tuple[Param, ...]] = (Param("ids", "charp", "", 0),)

    def init(self) -> None:
        """pci_stub_init(): an entry that is no ID is told of and left out. Raises EBUSY."""
        self.driver = PciStubDriver(self.kernel, "pci-stub", self)
        self.driver.register()
        for text in self.param["ids"].split(","):
            if text:
                self._add(text)

    def _add(self, text: str) -> None:
        found = sscanf_hex(text, 6, ":")
        if len(found) < 2:
            self.kernel.log.printk(WARNING, f'pci-stub: invalid ID string "{text}"')
            return
        vendor, device, sv, sd, cls, mask = [*found, *(0, 0, PCI_ANY_ID, PCI_ANY_ID, 0, 0)[len(found) :]]
        row = PciId(vendor, device, sv, sd, cls, mask)
        self.kernel.log.printk(
            INFO,
            f"pci-stub: add {row.vendor:04X}:{row.device:04X} sub={row.subvendor:04X}:{row.subdevice:04X} "
            f"cls={row.class_:08X}/{row.class_mask:08X}",
        )
        self.driver.add_dynid(row)

    def exit(self) -> None:
        """pci_stub_exit()."""
        self.driver.unregister()
