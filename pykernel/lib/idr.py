"""
ID allocators (lib/idr.c): ``Idr`` maps small integers to objects, ``Ida`` only hands the integers out.

``idr_alloc(&idr, ptr, start, end)`` is ``idr.alloc(ptr, start, end)``. The lowest free ID is always the one given.
"""

from __future__ import annotations

from collections.abc import Iterator
from errno import EBUSY, EINVAL, ENOENT, ENOSPC
from typing import Final, Generic, TypeVar

from pykernel.errors import Oops, err
from pykernel.lib.fault_inject import FaultInjector
from pykernel.lib.xarray import XaFlags, XaLimit, XArray

__all__ = ["Ida", "Idr"]

T = TypeVar("T")

INT_MAX: Final = 0x7FFFFFFF


class Idr(Generic[T]):
    """
    C: ``struct idr``.

    Args:
        base: lowest ID there is (``idr_init_base()``).
        faults: where allocations ask whether to fail.
        where: their name there.
    """

    def __init__(self, base: int = 0, *, faults: FaultInjector | None = None, where: str = "idr") -> None:
        self.base = base
        self.cursor = 0
        self._xa: XArray[T] = XArray(XaFlags.ALLOC, faults=faults, where=where)

    def alloc_u32(self, ptr: T | None, nextid: int, max_id: int) -> int:
        """
        Give *ptr* the lowest free ID from *nextid* to *max_id*, both inclusive.

        C: ``int idr_alloc_u32(struct idr *, void *ptr, u32 *nextid, unsigned long max, gfp_t)``

        Raises:
            OSError: ENOSPC, none is free; ENOMEM, by fault injection.
        """
        if max_id < self.base:
            raise err(ENOSPC, f"no ID up to {max_id}: they start at {self.base}")
        return _no_space(self._xa, ptr, max(nextid, self.base), max_id)

    def alloc(self, ptr: T | None, start: int, end: int) -> int:
        """
        Give *ptr* the lowest free ID from *start* (inclusive) to *end* (exclusive; 0 or less means up to INT_MAX).

        C: ``int idr_alloc(struct idr *, void *ptr, int start, int end, gfp_t)``

        Raises:
            OSError: ENOSPC, none is free; ENOMEM, by fault injection; EINVAL, *start* is negative.
        """
        if start < 0:
            raise err(EINVAL, f"ID {start} is negative")
        return self.alloc_u32(ptr, start, end - 1 if end > 0 else INT_MAX)

    def alloc_cyclic(self, ptr: T | None, start: int, end: int) -> int:
        """
        As :meth:`alloc`, but look behind the last ID that this method gave first, then from *start* on.

        C: ``int idr_alloc_cyclic(struct idr *, void *ptr, int start, int end, gfp_t)``

        Raises:
            OSError: ENOSPC, none is free; ENOMEM, by fault injection.
        """
        max_id = end - 1 if end > 0 else INT_MAX
        first = max(self.cursor, start)
        try:
            number = self.alloc_u32(ptr, first, max_id)
        except OSError as e:
            if e.errno != ENOSPC or first <= start:
                raise
            number = self.alloc_u32(ptr, start, max_id)
        self.cursor = number + 1
        return number

    def find(self, number: int) -> T | None:
        """The object of ID *number*, or None. C: ``void *idr_find(const struct idr *, unsigned long id)``."""
        return self._xa.load(number)

    def remove(self, number: int) -> T | None:
        """Free *number*; its object, or None when it was free. C: ``void *idr_remove(struct idr *, unsigned long)``."""
        return self._xa.erase(number)

    def replace(self, ptr: T | None, number: int) -> T | None:
        """
        Change the object of *number* and return the old one.

        C: ``void *idr_replace(struct idr *, void *ptr, unsigned long id)``

        Raises:
            OSError: ENOENT, the ID is not allocated.
        """
        if not self._xa.taken(number):
            raise err(ENOENT, f"ID {number} is not allocated")
        return self._xa.store(number, ptr)

    def get_next(self, nextid: int) -> tuple[int, T] | None:
        """The first ID from *nextid* on that has an object, with it. C: ``void *idr_get_next(struct idr *, int *)``."""
        return self._xa.find(nextid)

    def for_each_entry(self) -> Iterator[tuple[int, T]]:
        """IDs and their objects in order. C: ``idr_for_each_entry(idr, entry, id)``."""
        return self._xa.for_each()

    def is_empty(self) -> bool:
        """C: ``bool idr_is_empty(const struct idr *)``."""
        return self._xa.empty()

    def destroy(self) -> None:
        """Free all IDs; their objects are the caller's business. C: ``void idr_destroy(struct idr *)``."""
        self._xa.destroy()


class Ida:
    """
    C: ``struct ida``. IDs are 0 to INT_MAX.

    Args:
        faults: where allocations ask whether to fail.
        where: their name there.
    """

    def __init__(self, *, faults: FaultInjector | None = None, where: str = "ida") -> None:
        self._xa: XArray[int] = XArray(XaFlags.ALLOC, faults=faults, where=where)

    def alloc_range(self, min_id: int, max_id: int) -> int:
        """
        The lowest free ID from *min_id* to *max_id*, both inclusive; above INT_MAX means INT_MAX.

        C: ``int ida_alloc_range(struct ida *, unsigned int min, unsigned int max, gfp_t)``

        Raises:
            OSError: ENOSPC, none is free; ENOMEM, by fault injection.
        """
        if not 0 <= min_id <= INT_MAX:
            raise err(ENOSPC, f"ID {min_id} is out of range")
        if not 0 <= max_id <= INT_MAX:
            max_id = INT_MAX
        return _no_space(self._xa, None, min_id, max_id)

    def alloc(self) -> int:
        """The lowest free ID. C: ``int ida_alloc(struct ida *, gfp_t)``. ENOSPC, ENOMEM."""
        return self.alloc_range(0, INT_MAX)

    def alloc_min(self, min_id: int) -> int:
        """The lowest free ID from *min_id* on. C: ``int ida_alloc_min(ida, unsigned int min, gfp)``. ENOSPC, ENOMEM."""
        return self.alloc_range(min_id, INT_MAX)

    def alloc_max(self, max_id: int) -> int:
        """The lowest free ID up to *max_id*. C: ``int ida_alloc_max(ida, unsigned int max, gfp_t)``. ENOSPC, ENOMEM."""
        return self.alloc_range(0, max_id)

    def free(self, number: int) -> None:
        """
        Give *number* back; a negative one is ignored.

        C: ``void ida_free(struct ida *, unsigned int id)``

        Raises:
            Oops: it is not allocated (C warns).
        """
        if number < 0:
            return
        if not self._xa.taken(number):
            raise Oops(f"ida_free called for id={number} which is not allocated.")
        self._xa.erase(number)

    def is_empty(self) -> bool:
        """C: ``bool ida_is_empty(const struct ida *)``."""
        return self._xa.empty()

    def destroy(self) -> None:
        """Free all IDs. C: ``void ida_destroy(struct ida *)``."""
        self._xa.destroy()


def _no_space(xa: XArray[T], entry: T | None, low: int, high: int) -> int:
    """What the array calls busy, ID allocators call no space."""
    try:
        return xa.alloc(entry, XaLimit(low, high))
    except OSError as e:
        if e.errno == EBUSY:
            raise err(ENOSPC, f"no free ID from {low} to {high}") from None
        raise
