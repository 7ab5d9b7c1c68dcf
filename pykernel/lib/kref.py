"""
Reference counts (include/linux/refcount.h, include/linux/kref.h).

A count that is used after it fell to zero, or that would overflow, saturates, as in C: it never reaches zero again, so
the object leaks instead of being released twice. Where C warns, Oops is raised: it is a bug of the caller.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from pykernel.errors import Oops

__all__ = ["REFCOUNT_MAX", "REFCOUNT_SATURATED", "Kref", "Refcount"]

REFCOUNT_MAX: Final = 0x7FFFFFFF
REFCOUNT_SATURATED: Final = -0x40000000


class Refcount:
    """C: ``refcount_t``."""

    __slots__ = ("refs",)

    def __init__(self, n: int = 1) -> None:
        self.refs = n

    def read(self) -> int:
        """C: ``unsigned int refcount_read(const refcount_t *)``, which shows a saturated count as 0xc0000000."""
        return self.refs & 0xFFFFFFFF

    def inc(self) -> None:
        """
        One more reference for somebody who has one already.

        C: ``void refcount_inc(refcount_t *)``

        Raises:
            Oops: the count was 0, or is saturated.
        """
        if self.refs == 0:
            self._saturate("addition on 0; use-after-free")
        if self.refs < 0 or self.refs == REFCOUNT_MAX:
            self._saturate("saturated; leaking memory")
        self.refs += 1

    def inc_not_zero(self) -> bool:
        """
        One more reference unless the count is 0; tells whether there is one.

        C: ``bool refcount_inc_not_zero(refcount_t *)``

        Raises:
            Oops: the count is saturated.
        """
        if self.refs == 0:
            return False
        self.inc()
        return True

    def dec_and_test(self) -> bool:
        """
        One reference less; True when it was the last.

        C: ``bool refcount_dec_and_test(refcount_t *)``

        Raises:
            Oops: the count was 0, or is saturated.
        """
        if self.refs <= 0:
            self._saturate("underflow; use-after-free")
        self.refs -= 1
        return self.refs == 0

    def dec(self) -> None:
        """
        One reference less, which must not be the last.

        C: ``void refcount_dec(refcount_t *)``

        Raises:
            Oops: it was the last, or the count is saturated.
        """
        if self.refs <= 1:
            self._saturate("decrement hit 0; leaking memory")
        self.refs -= 1

    def _saturate(self, what: str) -> None:
        # lib/refcount.c:refcount_warn_saturate()
        self.refs = REFCOUNT_SATURATED
        raise Oops(f"refcount_t: {what}.")


class Kref:
    """C: ``struct kref``, after ``kref_init()``: one reference."""

    __slots__ = ("refcount",)

    def __init__(self) -> None:
        self.refcount = Refcount(1)

    def read(self) -> int:
        """C: ``unsigned int kref_read(const struct kref *)``."""
        return self.refcount.read()

    def get(self) -> None:
        """C: ``void kref_get(struct kref *)``. Oops after the last put."""
        self.refcount.inc()

    def get_unless_zero(self) -> bool:
        """C: ``int kref_get_unless_zero(struct kref *)``."""
        return self.refcount.inc_not_zero()

    def put(self, release: Callable[[], object]) -> bool:
        """
        Give a reference back; the last one calls *release*. Tells whether it did.

        C: ``int kref_put(struct kref *, void (*release)(struct kref *))``

        Raises:
            Oops: there was none to give back.
        """
        if not self.refcount.dec_and_test():
            return False
        release()
        return True
