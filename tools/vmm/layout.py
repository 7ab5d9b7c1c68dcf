"""Where things are in the physical address space of a virtual machine, as on QEMU's Q35 board."""

from __future__ import annotations

from typing import Final

from pykernel.pci.slot import ADDRESS

__all__ = ["DMAR_BASE", "DMAR_SIZE", "ECAM_BASE", "ECAM_SIZE", "ecam_address", "ecam_offset"]

ECAM_BASE: Final = 0xE0000000  # configuration space: 4 KiB a function (PCI Express, 7.2.2)
ECAM_SIZE: Final = 256 << 20
DMAR_BASE: Final = 0xFED90000  # the registers of the IOMMU: hw/i386/intel_iommu.h:Q35_HOST_BRIDGE_IOMMU_ADDR
DMAR_SIZE: Final = 0x1000


def ecam_offset(address: str) -> int:
    """Where the function at *address* ("0000:00:04.0") has its configuration space. Raises ValueError."""
    m = ADDRESS.fullmatch(address)
    if m is None or int(m[1], 16):
        raise ValueError(f"{address!r} is no PCI address like '0000:00:04.0'")
    return int(m[2], 16) << 20 | int(m[3], 16) << 15 | int(m[4]) << 12


def ecam_address(off: int) -> tuple[str, int]:
    """Which function an offset in the configuration space means, and where in it."""
    return f"0000:{off >> 20:02x}:{off >> 15 & 31:02x}.{off >> 12 & 7}", off & 0xFFF
