"""The expansion ROM of a device (drivers/pci/rom.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pykernel.pci.resource import PCI_ROM_RESOURCE
from pykernel.uapi.linux import pci_regs as r

if TYPE_CHECKING:
    from pykernel.pci.iomem import Iomem

__all__ = ["map_rom", "unmap_rom"]

SIGNATURE, DATA_SIGNATURE = 0xAA55, 0x52494350
DATA_POINTER, IMAGE_LENGTH, LAST_IMAGE = 0x18, 16, 21  # offsets of PCI Firmware Specification, 5.1
BLOCK = 512


def _enable(dev: Any, *, on: bool) -> None:
    # drivers/pci/rom.c:pci_enable_rom(), pci_disable_rom()
    address = dev.read_config_dword(r.PCI_ROM_ADDRESS) & ~r.PCI_ROM_ADDRESS_ENABLE
    dev.write_config_dword(r.PCI_ROM_ADDRESS, address | (r.PCI_ROM_ADDRESS_ENABLE if on else 0))


def _rom_size(dev: Any, rom: Iomem, size: int) -> int:
    """How long the images are altogether; 0: there is none. drivers/pci/rom.c:pci_get_rom_size()."""
    image = 0
    while True:
        if (found := rom.readw(image)) != SIGNATURE:
            dev.info(f"Invalid PCI ROM header signature: expecting {SIGNATURE:#06x}, got {found:#06x}")
            break
        data = image + rom.readw(image + DATA_POINTER)
        if (found := rom.readl(data)) != DATA_SIGNATURE:
            dev.info(f"Invalid PCI ROM data signature: expecting {DATA_SIGNATURE:#010x}, got {found:#010x}")
            break
        last, length = rom.readb(data + LAST_IMAGE) & 0x80, rom.readw(data + IMAGE_LENGTH)
        image += length * BLOCK
        if not length or last:
            break
        if image >= size or rom.readw(image) != SIGNATURE:
            dev.info("No more image in the PCI ROM")
            break
    return min(image, size)


def map_rom(dev: Any) -> tuple[Iomem, int] | None:
    """
    The ROM, enabled, and the size of what is in it. C: ``void __iomem *pci_map_rom(struct pci_dev *, size_t *)``.

    Returns:
        None: the device has no ROM, or there is no image in it.
    """
    if PCI_ROM_RESOURCE not in dev.resources:
        return None
    _enable(dev, on=True)
    rom: Iomem = dev.iomap(PCI_ROM_RESOURCE)
    size = _rom_size(dev, rom, dev.resource_len(PCI_ROM_RESOURCE))
    if not size:
        _enable(dev, on=False)
        return None
    return rom, size


def unmap_rom(dev: Any) -> None:
    """C: ``void pci_unmap_rom(struct pci_dev *, void __iomem *)``."""
    _enable(dev, on=False)
