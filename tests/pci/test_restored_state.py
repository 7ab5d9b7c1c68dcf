"""What a reset's restore writes back beyond the header: AER's masks, messages, and the pin that messages turn off."""

from __future__ import annotations

from pathlib import Path

import pytest

import pykernel
from pykernel.machine import Cpu, IommuSpec, Machine, PciSpec
from pykernel.pci.core import Pci
from pykernel.pci.msi import PCI_IRQ_MSI, PCI_IRQ_MSIX

CARD = str(Path(__file__).resolve().parents[1] / "conformance" / "vfio_card.py")
AER, DISABLE_INTX = 0x100, 0x400


@pytest.fixture
def card():
    """A PCI Express function with AER and five vectors, reset by power management."""
    machine = Machine("card", Cpu(count=1), IommuSpec(), (PciSpec(CARD, "0000:00:03.0", {}),), {})
    kernel = pykernel.boot(machine)
    kernel.up()
    yield next(iter(kernel.sub(Pci).devices.values()))
    kernel.shutdown()


def test_aer_is_saved_and_restored(card):
    """drivers/pci/pcie/aer.c:pci_save_aer_state(): masks, severity and control; what came between is gone."""
    wanted = {0x0C: 0x00462030, 0x14: 0x0000E000, 0x18: 0x000000A0}
    card.save_state()
    for at in wanted:
        card.write_config_dword(AER + at, 0)
    card.restore_state()
    assert {at: card.read_config_dword(AER + at) for at in wanted} == wanted


@pytest.mark.parametrize("kind", [PCI_IRQ_MSI, PCI_IRQ_MSIX], ids=["MSI", "MSI-X"])
def test_restored_messages_turn_the_pin_off(card, kind):
    """drivers/pci/msi/msi.c:__pci_restore_msi_state(), __pci_restore_msix_state(); memory decoding may be off."""
    card.enable_device()
    card.msi.alloc_irq_vectors(1, 1, kind)
    card.write_config_word(4, 0)
    card.save_state()
    card.restore_state()
    assert card.read_config_word(4) == DISABLE_INTX
    card.msi.free_irq_vectors()
    assert card.read_config_word(4) == 0
    card.disable_device()
