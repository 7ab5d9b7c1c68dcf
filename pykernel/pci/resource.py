"""Where a BAR lies (include/linux/ioport.h)."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = [
    "IORESOURCE_IO",
    "IORESOURCE_MEM",
    "IORESOURCE_MEM_64",
    "IORESOURCE_PREFETCH",
    "IORESOURCE_READONLY",
    "IORESOURCE_SIZEALIGN",
    "PCI_ROM_RESOURCE",
    "Resource",
]

IORESOURCE_IO, IORESOURCE_MEM, IORESOURCE_PREFETCH, IORESOURCE_READONLY = 0x100, 0x200, 0x2000, 0x4000
IORESOURCE_SIZEALIGN, IORESOURCE_MEM_64 = 0x40000, 0x100000
PCI_ROM_RESOURCE = 6


@dataclass(frozen=True, slots=True)
class Resource:
    """``struct resource`` of a BAR."""

    start: int
    size: int
    flags: int

    @property
    def end(self) -> int:
        """The last address."""
        return self.start + self.size - 1

    @property
    def prefetch(self) -> bool:
        """IORESOURCE_PREFETCH."""
        return bool(self.flags & IORESOURCE_PREFETCH)
