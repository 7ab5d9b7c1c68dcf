"""
Ranges of 64-bit numbers, both ends included (lib/interval_tree.c): merged ranges, and ranges that hold something.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final, Generic, Protocol, TypeVar

from sortedcontainers import SortedDict

__all__ = ["ULONG_MAX", "RangeMap", "RangeSet", "double_holes"]

ULONG_MAX: Final = (1 << 64) - 1


class Range(Protocol):
    """Something from *start* to *last*."""

    @property
    def start(self) -> int:
        """The first number."""
        ...

    @property
    def last(self) -> int:
        """The last number."""
        ...


R = TypeVar("R", bound=Range)


class RangeMap(Generic[R]):
    """Things that do not overlap, by where they start. C: ``struct rb_root_cached`` of an interval tree."""

    def __init__(self) -> None:
        self._by_start: Any = SortedDict()  # start -> R

    def __len__(self) -> int:
        return len(self._by_start)

    def __iter__(self) -> Iterator[R]:
        return iter(self._by_start.values())

    def insert(self, item: R) -> None:
        """C: ``void interval_tree_insert(node, root)``."""
        self._by_start[item.start] = item

    def remove(self, item: R) -> None:
        """C: ``void interval_tree_remove(node, root)``."""
        del self._by_start[item.start]

    def first(self, start: int, last: int) -> R | None:
        """The lowest that touches *start* to *last*. C: ``interval_tree_iter_first()``."""
        at = self._by_start.bisect_right(start)
        if at:
            item: R = self._by_start.peekitem(at - 1)[1]
            if item.last >= start:
                return item
        if at < len(self._by_start):
            item = self._by_start.peekitem(at)[1]
            if item.start <= last:
                return item
        return None

    def overlapping(self, start: int, last: int) -> Iterator[R]:
        """All that touch *start* to *last*, upwards. The map may change between two of them."""
        while start <= last and (item := self.first(start, last)) is not None:
            yield item
            start = item.last + 1


class RangeSet:
    """Numbers, kept as ranges that neither overlap nor touch."""

    def __init__(self, ranges: Iterable[tuple[int, int]] = ()) -> None:
        self._last: Any = SortedDict()  # start -> last
        for start, last in ranges:
            self.add(start, last)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(self._last.items())

    def add(self, start: int, last: int) -> None:
        """The numbers from *start* to *last* are in it."""
        at = self._last.bisect_right(start)
        if at and self._last.peekitem(at - 1)[1] >= start - 1:
            at -= 1
            start = self._last.peekitem(at)[0]
        while at < len(self._last) and self._last.peekitem(at)[0] <= last + 1:
            last = max(last, self._last.popitem(at)[1])
        self._last[start] = last

    def discard(self, start: int, last: int) -> None:
        """They are not."""
        at = self._last.bisect_right(start)
        if at and self._last.peekitem(at - 1)[1] >= start:
            at -= 1
        while at < len(self._last) and self._last.peekitem(at)[0] <= last:
            first, end = self._last.popitem(at)
            if first < start:
                self._last[first] = start - 1
                at += 1
            if end > last:
                self._last[last + 1] = end

    def intersects(self, start: int, last: int) -> bool:
        """Whether one of *start* to *last* is in it."""
        at = self._last.bisect_right(last)
        return bool(at) and self._last.peekitem(at - 1)[1] >= start

    def holes(self, start: int, last: int) -> Iterator[tuple[int, int]]:
        """What of *start* to *last* is not in it, as ranges. C: ``interval_tree_for_each_span()``, ``is_hole``."""
        at = self._last.bisect_right(start)
        if at and self._last.peekitem(at - 1)[1] >= start:
            at -= 1
        for first in self._last.keys()[at:] if at < len(self._last) else ():
            if first > last:
                break
            if first > start:
                yield start, first - 1
            start = self._last[first] + 1
        if start <= last:
            yield start, last


def double_holes(a: RangeSet, b: RangeSet, start: int, last: int) -> Iterator[tuple[int, int]]:
    """What is in neither. C: ``interval_tree_for_each_double_span()``, ``!is_used``."""
    for first, end in a.holes(start, last):
        yield from b.holes(first, end)
