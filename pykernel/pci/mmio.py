"""Registers that are no BAR: what firmware's tables point a driver at, like the unit of the DMAR table."""

from __future__ import annotations

from typing import Protocol

__all__ = ["Mmio"]


class Mmio(Protocol):
    """A page of registers as a driver has it after ioremap(); ``kernel.dmar`` is the IOMMU's."""

    def readl(self, off: int) -> int:
        """C: ``u32 readl(const volatile void __iomem *addr)``."""
        ...

    def readq(self, off: int) -> int:
        """C: ``u64 readq(const volatile void __iomem *addr)``."""
        ...

    def writel(self, off: int, value: int) -> None:
        """C: ``void writel(u32 value, volatile void __iomem *addr)``."""

    def writeq(self, off: int, value: int) -> None:
        """C: ``void writeq(u64 value, volatile void __iomem *addr)``."""
