"""
What a unit remembers of page tables (VT-d 6.2): translations by domain or PASID, until software invalidates them.

An access that goes through is remembered; a new mapping needs no invalidation, an old one that went does. Only entries
that were present are kept, so caching mode changes nothing that a device can see. A device that has ATS keeps the same
of its own (its device-TLB).
"""

from __future__ import annotations

from collections import deque
from typing import Final
from weakref import WeakValueDictionary

__all__ = ["Iotlb", "Iotlbs", "Spans"]

Spans = list[tuple[int, int]]

CAPACITY: Final = 4096  # entries of each kind; when that many are there, all are forgotten
KEPT: Final = 1024
FEW: Final = 64  # up to so many pages are looked for one by one
SECOND, FIRST, NESTED = "second", "first", "nested"


class Iotlb:
    """
    The cached translations of one tag.

    Attributes:
        rpages, wpages: page number of the address -> physical address, for pages of RAM that may be read or written.
        rspans, wspans: (address, bytes) of a longer access -> its physical ranges.
    """

    __slots__ = ("__weakref__", "rpages", "rspans", "wpages", "wspans")

    def __init__(self) -> None:
        self.rpages: dict[int, int] = {}
        self.wpages: dict[int, int] = {}
        self.rspans: dict[tuple[int, int], Spans] = {}
        self.wspans: dict[tuple[int, int], Spans] = {}

    def invalidate(self, addr: int, order: int) -> None:
        """Forget ``4096 << order`` bytes from *addr* on; *order* 64: all."""
        if order >= 64 or 1 << order > FEW:
            self.forget()
            return
        first = addr >> 12
        for pfn in range(first, first + (1 << order)):
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

    def __len__(self) -> int:
        """How many entries there are."""
        return len(self.rpages) + len(self.wpages) + len(self.rspans) + len(self.wspans)

    def remember(self, addr: int, n: int, spans: Spans, *, write: bool) -> None:
        """*spans* are where *n* bytes at *addr* are."""
        if len(self) >= CAPACITY:
            self.forget()
        (self.wspans if write else self.rspans)[addr, n] = spans

    def remember_page(self, addr: int, pa: int, *, write: bool) -> None:
        """The page of *addr* is the page of RAM at *pa*."""
        if len(self.rpages) + len(self.wpages) >= CAPACITY:
            self.forget()
        (self.wpages if write else self.rpages)[addr >> 12] = pa


Tag = tuple[str, int, bool]  # stage, PASID (0 of second-stage entries, which have none), supervisor


class Iotlbs:
    """All of a unit, by domain ID and tag. Of those that no device uses any more only the newest are kept."""

    def __init__(self) -> None:
        self._newest: deque[Iotlb] = deque(maxlen=KEPT)
        self.by_did: dict[int, WeakValueDictionary[Tag, Iotlb]] = {}

    def get(self, did: int, stage: str, pasid: int = 0, *, priv: bool = False) -> Iotlb:
        """That of a tag."""
        tags = self.by_did.setdefault(did, WeakValueDictionary())
        tag = (stage, pasid, priv)
        found = tags.get(tag)
        if found is None:
            found = tags[tag] = Iotlb()
            self._newest.append(found)
        return found

    def invalidate_all(self) -> None:
        """Global."""
        for did in list(self.by_did):
            for tlb in list(self.by_did[did].values()):
                tlb.forget()
            if not self.by_did[did]:
                del self.by_did[did]

    def invalidate_domain(self, did: int, addr: int, order: int) -> None:
        """Of *did*: second-stage entries by address, and what was made with them; first-stage entries stay."""
        for (stage, _, _), tlb in list(self.by_did.get(did, {}).items()):
            if stage == SECOND:
                tlb.invalidate(addr, order)
            elif stage == NESTED:  # its addresses are the guest's
                tlb.forget()

    def invalidate_pasid(self, did: int, pasid: int, addr: int, order: int) -> None:
        """Of *pasid* in *did*: first-stage and nested entries."""
        tags = self.by_did.get(did)
        if tags is None:
            return
        for stage in (FIRST, NESTED):
            for priv in (False, True):
                tlb = tags.get((stage, pasid, priv))
                if tlb is not None:
                    tlb.invalidate(addr, order)
