"""
pci-stub: a driver that takes a device and does nothing with it (drivers/pci/pci-stub.c).

It has no device IDs of its own: give it some by ``new_id``, by ``driver_override`` or by the module parameter ``ids``.
"""

from __future__ import annotations

from typing import Any, ClassVar

from pykernel.base.module import Module, Param
from pykernel.pci.driver import PCI_ANY_ID, PciDriver, PciId

__all__ = ["PciStubDriver", "PciStubModule"]


class PciStubDriver(PciDriver):
    """``static struct pci_driver stub_driver``."""

    def probe(self, dev: Any) -> None:
        """pci_stub_probe()."""
        dev.info("claimed by stub")


class PciStubModule(Module):
    """The module; *ids* is ``vendor:device[:subvendor[:subdevice[:class[:class_mask]]]],...``."""

    name_ = "pci_stub"
    params: ClassVar[tuple[Param, ...]] = (Param("ids", "charp", "", 0),)

    def init(self) -> None:
        """pci_stub_init()."""
        self.driver = PciStubDriver(self.kernel, "pci-stub", self)
        self.driver.dynids += [_row(text) for text in self.param["ids"].split(",") if text]
        self.driver.register()

    def exit(self) -> None:
        """pci_stub_exit()."""
        self.driver.unregister()


def _row(text: str) -> PciId:
    given = [int(part, 16) for part in text.split(":")]
    return PciId(*given, *(0, 0, PCI_ANY_ID, PCI_ANY_ID, 0, 0)[len(given) :])
