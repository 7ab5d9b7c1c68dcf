"""Free frames of the machine: ranges of frame numbers, and what the allocator of pages takes from them."""

from __future__ import annotations

from bisect import bisect_right

__all__ = ["FreeRanges"]


class FreeRanges:
    """Disjoint ranges of frames that nobody has, in order, merged with their neighbours. Frames are numbers (pfn)."""

    def __init__(self, *ranges: tuple[int, int]) -> None:
        self.starts = [start for start, _ in ranges]
        self.ends = [end for _, end in ranges]

    def __len__(self) -> int:
        """How many frames are free."""
        return sum(self.ends) - sum(self.starts)

    def first(self) -> int:
        """The lowest free frame, taken; -1 when there is none."""
        if not self.starts:
            return -1
        pfn = self.starts[0]
        if pfn + 1 == self.ends[0]:
            del self.starts[0], self.ends[0]
        else:
            self.starts[0] = pfn + 1
        return pfn

    def take(self, n: int, align: int = 1, phase: int = 0) -> int:
        """*n* frames in a row, the first one equal to *phase* modulo *align*, taken; -1 when there are none."""
        for at, (start, end) in enumerate(zip(self.starts, self.ends, strict=True)):
            pfn = start + (phase - start) % align
            if pfn + n <= end:
                self._cut(at, pfn, pfn + n)
                return pfn
        return -1

    def _cut(self, at: int, start: int, end: int) -> None:
        """Take *start* to *end* out of the range number *at*."""
        low, high = self.starts[at], self.ends[at]
        left = [(a, b) for a, b in ((low, start), (end, high)) if a < b]
        self.starts[at : at + 1] = [a for a, _ in left]
        self.ends[at : at + 1] = [b for _, b in left]

    def give(self, start: int, n: int) -> None:
        """*n* frames from *start* on are free again."""
        end = start + n
        at = bisect_right(self.starts, start)
        low = at - 1 if at and self.ends[at - 1] == start else at
        high = at + 1 if at < len(self.starts) and self.starts[at] == end else at
        if low < at:
            start = self.starts[low]
        if high > at:
            end = self.ends[at]
        self.starts[low:high] = [start]
        self.ends[low:high] = [end]
