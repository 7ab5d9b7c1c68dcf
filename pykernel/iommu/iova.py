"""
The allocator of I/O virtual addresses (drivers/iommu/iova.c): from the top down, aligned to the size.

The search begins below what was given last, and at the top when that fails. Small ranges that were freed are kept by
size and given again, last freed first. Numbers are pages.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from typing import Final

__all__ = ["DMA_32BIT_PFN", "IovaDomain"]

DMA_32BIT_PFN: Final = 1 << 20
CACHED_ORDERS: Final = 6  # IOVA_RANGE_CACHE_MAX_SIZE: ranges of up to 32 pages are kept
CACHED: Final = 2 * 127  # IOVA_MAG_SIZE: two magazines of one processor


class IovaDomain:
    """``struct iova_domain``: *start_pfn* is the lowest page that is given."""

    def __init__(self, start_pfn: int = 1) -> None:
        self.start_pfn = start_pfn
        self._los: list[int] = []
        self._his: dict[int, int] = {}
        self._cached32: int | None = None  # where the search begins: the range given last, None is the top
        self._cached: int | None = None
        self._rcaches: list[list[int]] = [[] for _ in range(CACHED_ORDERS)]

    # ---- ranges

    def reserve(self, lo: int, hi: int) -> None:
        """Never give pages *lo* to *hi*; what overlaps becomes one. C: ``struct iova *reserve_iova(...)``."""
        for other in [x for x in self._los if x <= hi and lo <= self._his[x]]:
            lo, hi = min(lo, other), max(hi, self._his[other])
            self._remove(other)
        self._insert(lo, hi)

    def _insert(self, lo: int, hi: int) -> None:
        insort(self._los, lo)
        self._his[lo] = hi

    def _remove(self, lo: int) -> int:
        del self._los[bisect_left(self._los, lo)]
        return self._his.pop(lo)

    def alloc(self, size: int, limit_pfn: int) -> int:
        """*size* pages up to *limit_pfn*, inclusive; 0 when there are none. C: ``struct iova *alloc_iova(...)``."""
        align = 1 << (size - 1).bit_length()
        begin = self._cached32 if limit_pfn + 1 <= DMA_32BIT_PFN else self._cached
        pfn = self._search(size, align, limit_pfn + 1, begin)
        if not pfn and begin is not None:
            pfn = self._search(size, align, limit_pfn + 1, None)
        if pfn:
            self._insert(pfn, pfn + size - 1)
            if pfn + size - 1 < DMA_32BIT_PFN:
                self._cached32 = pfn
            else:
                self._cached = pfn
        return pfn

    def _search(self, size: int, align: int, limit: int, begin: int | None) -> int:
        """__alloc_and_insert_iova_range(): downwards from the range *begin*, below *limit*."""
        los, his = self._los, self._his
        at = len(los) if begin is None else bisect_left(los, begin)
        high = limit if begin is None else min(limit, begin)
        while True:
            pfn = (high - size) & -align
            if pfn < self.start_pfn:
                return 0
            at -= 1
            if at < 0 or his[los[at]] < pfn:
                return pfn
            high = min(high, los[at])

    def free(self, pfn: int) -> None:
        """C: ``void free_iova(struct iova_domain *, unsigned long)``."""
        hi = self._remove(pfn)
        after = bisect_left(self._los, pfn)
        following = self._los[after] if after < len(self._los) else None
        if self._cached32 is not None and (pfn == self._cached32 or DMA_32BIT_PFN > hi >= pfn >= self._cached32):
            self._cached32 = following
        if self._cached is not None and pfn >= self._cached:
            self._cached = following

    # ---- with the caches

    def alloc_fast(self, size: int, limit_pfn: int, *, flush: bool) -> int:
        """
        *size* pages up to *limit_pfn*, from the caches first; *flush*: empty them rather than fail. 0: none.

        C: ``unsigned long alloc_iova_fast(struct iova_domain *, unsigned long, unsigned long, bool)``
        """
        order = (size - 1).bit_length()
        if size < 1 << CACHED_ORDERS - 1:
            size = 1 << order
        if order < CACHED_ORDERS:
            cache = self._rcaches[order]
            for at in range(len(cache) - 1, -1, -1):
                if cache[at] + size <= limit_pfn + 1:
                    return cache.pop(at)
        pfn = self.alloc(size, limit_pfn)
        if not pfn and flush:
            for cache in self._rcaches:
                while cache:
                    self.free(cache.pop())
            pfn = self.alloc(size, limit_pfn)
        return pfn

    def free_fast(self, pfn: int, size: int) -> None:
        """C: ``void free_iova_fast(struct iova_domain *, unsigned long, unsigned long)``."""
        order = (size - 1).bit_length()
        if order < CACHED_ORDERS and len(self._rcaches[order]) < CACHED:
            self._rcaches[order].append(pfn)
        else:
            self.free(pfn)
