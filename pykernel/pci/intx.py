"""Masking a device's interrupt pin in the device (drivers/pci/pci.c: pci_check_and_mask_intx() and its like)."""

from __future__ import annotations

from typing import Any

from pykernel.uapi.linux import pci_regs as r

__all__ = ["check_and_mask_intx", "check_and_unmask_intx", "intx_mask_broken"]


def intx_mask_broken(dev: Any) -> bool:
    """Whether COMMAND has no bit that disables the pin. drivers/pci/probe.c:pci_intx_mask_broken()."""
    before = dev.function.config_read(r.PCI_COMMAND, 2)
    toggled = before ^ r.PCI_COMMAND_INTX_DISABLE
    dev.function.config_write(r.PCI_COMMAND, 2, toggled)
    broken: bool = dev.function.config_read(r.PCI_COMMAND, 2) != toggled
    dev.function.config_write(r.PCI_COMMAND, 2, before)
    return broken


def _check_and_set(dev: Any, *, mask: bool) -> bool:
    # drivers/pci/pci.c:pci_check_and_set_intx_mask(): status and command in one read
    both = dev.function.config_read(r.PCI_COMMAND, 4)
    pending = bool(both >> 16 & r.PCI_STATUS_INTERRUPT)
    if mask != pending:
        return False
    command = both & 0xFFFF & ~r.PCI_COMMAND_INTX_DISABLE | (r.PCI_COMMAND_INTX_DISABLE if mask else 0)
    if command != both & 0xFFFF:
        dev.function.config_write(r.PCI_COMMAND, 2, command)
    return True


def check_and_mask_intx(dev: Any) -> bool:
    """True: its interrupt was pending, and the pin is disabled now. C: ``bool pci_check_and_mask_intx()``."""
    return _check_and_set(dev, mask=True)


def check_and_unmask_intx(dev: Any) -> bool:
    """True: the pin is enabled; False: its interrupt is pending still. C: ``bool pci_check_and_unmask_intx()``."""
    return _check_and_set(dev, mask=False)
