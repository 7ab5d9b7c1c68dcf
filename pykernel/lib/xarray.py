"""
XArray (lib/xarray.c): a sparse array of objects in index order, which can also hand out free indices.

``xa_store(xa, index, entry)`` is ``xa.store(index, entry)``; errors that C returns as ``xa_err()`` are raised. An index
that is taken but holds nothing (reserved, or NULL stored where free indices are tracked) reads as None.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator
from enum import IntFlag
from errno import EBUSY, EINVAL
from typing import Any, Final, Generic, NamedTuple, TypeVar

from pykernel.errors import err
from pykernel.lib.fault_inject import FaultInjector

__all__ = [
    "XA_LIMIT_16B",
    "XA_LIMIT_31B",
    "XA_LIMIT_32B",
    "XA_MARK_0",
    "XA_MARK_1",
    "XA_MARK_2",
    "XArray",
    "XaFlags",
    "XaLimit",
]

T = TypeVar("T")

ULONG_MAX: Final = (1 << 64) - 1
XA_MARK_0: Final = 0
XA_MARK_1: Final = 1
XA_MARK_2: Final = 2


class XaFlags(IntFlag):
    """``xa_flags``: ALLOC lets the array hand out indices from 0 on, ALLOC1 from 1 on."""

    NONE = 0
    TRACK_FREE = 4
    ZERO_BUSY = 8
    ALLOC = TRACK_FREE
    ALLOC1 = TRACK_FREE | ZERO_BUSY


class XaLimit(NamedTuple):
    """``struct xa_limit``: a range of indices, both ends inclusive."""

    min: int
    max: int


XA_LIMIT_32B: Final = XaLimit(0, 0xFFFFFFFF)
XA_LIMIT_31B: Final = XaLimit(0, 0x7FFFFFFF)
XA_LIMIT_16B: Final = XaLimit(0, 0xFFFF)


class _Zero:
    """``XA_ZERO_ENTRY``: the index is taken; it reads as NULL."""


_ZERO: Final = _Zero()


class XArray(Generic[T]):
    """
    C: ``struct xarray``.

    Args:
        flags: XaFlags.ALLOC or ALLOC1 for :meth:`alloc`.
        faults: where allocations ask whether to fail (a new index needs memory).
        where: their name there.
    """

    def __init__(
        self, flags: XaFlags = XaFlags.NONE, *, faults: FaultInjector | None = None, where: str = "xarray"
    ) -> None:
        self.flags = flags
        self._faults = faults
        self._where = where
        self._entries: dict[int, T | _Zero] = {}
        self._sorted: list[int] = []
        self._marks: tuple[set[int], set[int], set[int]] = (set(), set(), set())

    # ---- one index

    def load(self, index: int) -> T | None:
        """C: ``void *xa_load(struct xarray *, unsigned long index)``."""
        entry: T | None = _entry(self._entries.get(index))
        return entry

    def store(self, index: int, entry: T | None) -> T | None:
        """
        Put *entry* at *index*; None erases, or reserves where free indices are tracked. Marks of the index stay.

        C: ``void *xa_store(struct xarray *, unsigned long index, void *entry, gfp_t)``

        Returns:
            What was there.

        Raises:
            OSError: ENOMEM, by fault injection.
        """
        old = self.load(index)
        if entry is not None:
            self._put(index, entry)
        elif self.flags & XaFlags.TRACK_FREE:
            self._put(index, _ZERO)
        else:
            self._drop(index)
        return old

    def erase(self, index: int) -> T | None:
        """Empty *index*, its marks too; what was there. C: ``void *xa_erase(struct xarray *, unsigned long)``."""
        old = self.load(index)
        self._drop(index)
        return old

    def insert(self, index: int, entry: T | None) -> None:
        """
        Put *entry* where nothing is.

        C: ``int xa_insert(struct xarray *, unsigned long index, void *entry, gfp_t)``

        Raises:
            OSError: EBUSY, the index is taken (reserved counts); ENOMEM, by fault injection.
        """
        if index in self._entries:
            raise err(EBUSY, f"index {index} is taken")
        self._put(index, _ZERO if entry is None else entry)

    def cmpxchg(self, index: int, old: T | None, entry: T | None) -> T | None:
        """
        Put *entry* at *index* if *old* is there (the same object, None for empty); None as *entry* erases.

        A reserved index is not empty: it reads as None in the result, and nothing was stored.

        C: ``void *xa_cmpxchg(struct xarray *, unsigned long index, void *old, void *entry, gfp_t)``

        Returns:
            What was there: *old* when it worked.

        Raises:
            OSError: ENOMEM, by fault injection.
        """
        current = self._entries.get(index)
        if current is old:
            if entry is None:
                self._drop(index)
            else:
                self._put(index, entry)
        found: T | None = _entry(current)
        return found

    def reserve(self, index: int) -> None:
        """Take *index* without an entry, if it is empty. C: ``int xa_reserve(xa, unsigned long index, gfp_t)``."""
        if index not in self._entries:
            self._put(index, _ZERO)

    def release(self, index: int) -> None:
        """Give back a reserved *index* that holds no entry. C: ``void xa_release(struct xarray *, unsigned long)``."""
        if self._entries.get(index) is _ZERO:
            self._drop(index)

    def taken(self, index: int) -> bool:
        """Whether *index* holds an entry or is reserved."""
        return index in self._entries

    # ---- handing out indices

    def alloc(self, entry: T | None, limit: XaLimit = XA_LIMIT_32B) -> int:
        """
        Put *entry* at the lowest free index within *limit*.

        C: ``int xa_alloc(struct xarray *, u32 *id, void *entry, struct xa_limit, gfp_t)``

        Raises:
            OSError: EBUSY, none is free; ENOMEM, by fault injection; EINVAL, the array was not made for it.
        """
        if not self.flags & XaFlags.TRACK_FREE:
            raise err(EINVAL, "xa_alloc() on an array without XA_FLAGS_ALLOC")
        index = self._lowest_free(max(limit.min, 1) if self.flags & XaFlags.ZERO_BUSY else limit.min)
        if index > limit.max:
            raise err(EBUSY, f"no free index from {limit.min} to {limit.max}")
        self._put(index, _ZERO if entry is None else entry)
        return index

    def alloc_cyclic(self, entry: T | None, limit: XaLimit, after: int) -> tuple[int, int, bool]:
        """
        Put *entry* at the next free index from *after* on, and when there is none, from the start of *limit* on.

        C: ``int xa_alloc_cyclic(struct xarray *, u32 *id, void *entry, struct xa_limit, u32 *next, gfp_t)``

        Returns:
            The index, the *after* for the next call, and whether the search wrapped (C returns 1).

        Raises:
            OSError: as :meth:`alloc`.
        """
        start = max(limit.min, after)
        wrapped = False
        try:
            index = self.alloc(entry, XaLimit(start, limit.max))
        except OSError:
            if start == limit.min:
                raise
            wrapped = True
            index = self.alloc(entry, limit)
        return index, index + 1, wrapped

    # ---- marks

    def set_mark(self, index: int, mark: int) -> None:
        """Mark *index*; nothing happens when it is empty. C: ``void xa_set_mark(xa, unsigned long, xa_mark_t)``."""
        if index in self._entries:
            self._marks[mark].add(index)

    def clear_mark(self, index: int, mark: int) -> None:
        """C: ``void xa_clear_mark(struct xarray *, unsigned long, xa_mark_t)``."""
        self._marks[mark].discard(index)

    def get_mark(self, index: int, mark: int) -> bool:
        """C: ``bool xa_get_mark(struct xarray *, unsigned long, xa_mark_t)``."""
        return index in self._marks[mark]

    def marked(self, mark: int) -> bool:
        """Whether any index has *mark*. C: ``bool xa_marked(const struct xarray *, xa_mark_t)``."""
        return bool(self._marks[mark])

    # ---- the whole

    def for_each(self, *, start: int = 0, last: int = ULONG_MAX, mark: int | None = None) -> Iterator[tuple[int, T]]:
        """
        Indices and entries in order, reserved ones left out. Stores and erasures on the way are seen.

        C: ``xa_for_each_range(xa, index, entry, start, last)``, ``xa_for_each_marked(xa, index, entry, filter)``
        """
        found = self.find(start, last, mark)
        while found is not None:
            yield found
            found = self.find(found[0] + 1, last, mark)

    def find(self, index: int, last: int = ULONG_MAX, mark: int | None = None) -> tuple[int, T] | None:
        """The first entry from *index* to *last*, or None. C: ``void *xa_find(xa, unsigned long *, max, filter)``."""
        at = bisect_left(self._sorted, index)
        while at < len(self._sorted) and self._sorted[at] <= last:
            index = self._sorted[at]
            entry = self.load(index)
            if entry is not None and (mark is None or index in self._marks[mark]):
                return index, entry
            at += 1
        return None

    def empty(self) -> bool:
        """Whether no index is taken. C: ``bool xa_empty(const struct xarray *)``."""
        return not self._entries

    def destroy(self) -> None:
        """Erase everything. C: ``void xa_destroy(struct xarray *)``."""
        self._entries.clear()
        self._sorted.clear()
        for marks in self._marks:
            marks.clear()

    # ---- inside

    def _put(self, index: int, entry: T | _Zero) -> None:
        if index not in self._entries:
            if self._faults is not None:
                self._faults.alloc(self._where)
            insort(self._sorted, index)
        self._entries[index] = entry

    def _drop(self, index: int) -> None:
        if self._entries.pop(index, None) is None:
            return
        del self._sorted[bisect_left(self._sorted, index)]
        for marks in self._marks:
            marks.discard(index)

    def _lowest_free(self, start: int) -> int:
        # Taken indices less their place in the list never fall, so the end of the run from start is found by halves.
        first = bisect_left(self._sorted, start)
        taken = range(first, len(self._sorted))
        return start + bisect_right(taken, start - first, key=lambda at: self._sorted[at] - at)

    def _check(self) -> None:
        assert self._sorted == sorted(self._entries)
        assert all(marks <= self._entries.keys() for marks in self._marks)


def _entry(stored: object) -> Any:
    return None if stored is _ZERO else stored
