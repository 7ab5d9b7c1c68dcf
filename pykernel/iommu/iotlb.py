"""
What an IOMMU remembers of the page tables (VT-d 6.2): translations of a domain, until software invalidates them.

An access that goes through is remembered; a new mapping needs no invalidation, an old one that went does. Only entries
that were present are kept, so caching mode changes nothing that a device can see. The fault "iotlb" loses an
invalidation, which shows who uses an address that was unmapped: ``kernel.faults.fail("iotlb", every=1)``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pykernel.kernel import Kernel

__all__ = ["Iotlb", "Spans"]

Spans = list[tuple[int, int]]

CAPACITY: Final = 4096  # entries of each kind; when that many are there, all are forgotten
FEW: Final = 64  # up to so many pages are looked for one by one


class Iotlb:
    """
    The cached translations of one domain.

    Attributes:
        rpages, wpages: page number of the address -> physical address, for pages of RAM that may be read or written.
        rspans, wspans: (address, bytes) of a longer access -> its physical ranges.
    """

    __slots__ = ("kernel", "rpages", "rspans", "where", "wpages", "wspans")

    def __init__(self, kernel: Kernel, where: str) -> None:
        self.kernel = kernel
        self.where = where
        self.rpages: dict[int, int] = {}
        self.wpages: dict[int, int] = {}
        self.rspans: dict[tuple[int, int], Spans] = {}
        self.wspans: dict[tuple[int, int], Spans] = {}

    def invalidate(self) -> None:
        """Domain-selective invalidation."""
        if not self.kernel.faults.should_fail("iotlb", self.where):
            self.forget()

    def invalidate_pages(self, start: int, last: int) -> None:
        """Page-selective invalidation of addresses *start* to *last*."""
        if self.kernel.faults.should_fail("iotlb", self.where):
            return
        first, end = start >> 12, (last >> 12) + 1
        if end - first > FEW:
            self.forget()
            return
        for pfn in range(first, end):
            self.rpages.pop(pfn, None)
            self.wpages.pop(pfn, None)
        self.rspans.clear()
        self.wspans.clear()

    def forget(self) -> None:
        """Nothing is cached any more; those who hold the dictionaries see it."""
        self.rpages.clear()
        self.wpages.clear()
        self.rspans.clear()
        self.wspans.clear()

    def remember(self, addr: int, n: int, spans: Spans, *, write: bool) -> None:
        """*spans* are where *n* bytes at *addr* are."""
        if len(self.rpages) + len(self.wpages) + len(self.rspans) + len(self.wspans) >= CAPACITY:
            self.forget()
        (self.wspans if write else self.rspans)[addr, n] = spans

    def remember_page(self, addr: int, pa: int, *, write: bool) -> None:
        """The page of *addr* is the page of RAM at *pa*."""
        if len(self.rpages) + len(self.wpages) >= CAPACITY:
            self.forget()
        (self.wpages if write else self.rpages)[addr >> 12] = pa
