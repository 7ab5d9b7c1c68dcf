"""Reference counts, by include/linux/refcount.h, include/linux/kref.h and lib/refcount.c."""

import pytest

from pykernel.errors import Oops
from pykernel.lib.kref import REFCOUNT_MAX, REFCOUNT_SATURATED, Kref, Refcount


def test_last_put_releases_once() -> None:
    """kref_put() returns 1 and calls release() for the last reference only."""
    record: list[str] = []
    kref = Kref()
    kref.get()
    assert kref.read() == 2
    assert [kref.put(lambda: record.append("release")) for _ in range(2)] == [False, True]
    assert record == ["release"]
    assert not kref.get_unless_zero()


def test_put_after_the_last_is_an_oops_and_never_releases_again() -> None:
    record: list[str] = []
    kref = Kref()
    kref.put(lambda: record.append("release"))
    with pytest.raises(Oops, match=r"^refcount_t: underflow; use-after-free\.$"):
        kref.put(lambda: record.append("again"))
    assert kref.read() == REFCOUNT_SATURATED & 0xFFFFFFFF == 0xC0000000
    with pytest.raises(Oops, match="underflow"):
        kref.put(lambda: record.append("again"))
    assert record == ["release"]


def test_get_after_the_last_put_is_an_oops() -> None:
    kref = Kref()
    kref.put(lambda: None)
    with pytest.raises(Oops, match=r"^refcount_t: addition on 0; use-after-free\.$"):
        kref.get()
    with pytest.raises(Oops, match="saturated; leaking memory"):
        kref.get()


def test_overflow_saturates() -> None:
    """One more than INT_MAX references: REFCOUNT_SATURATED, for ever."""
    count = Refcount(REFCOUNT_MAX - 1)
    count.inc()
    with pytest.raises(Oops, match=r"^refcount_t: saturated; leaking memory\.$"):
        count.inc()
    assert count.refs == REFCOUNT_SATURATED
    with pytest.raises(Oops, match="saturated"):
        count.inc_not_zero()


def test_dec_must_not_be_the_last() -> None:
    count = Refcount(2)
    count.dec()
    with pytest.raises(Oops, match=r"^refcount_t: decrement hit 0; leaking memory\.$"):
        count.dec()


def test_inc_not_zero() -> None:
    count = Refcount(1)
    assert count.inc_not_zero()
    assert [count.dec_and_test(), count.dec_and_test(), count.inc_not_zero(), count.read()] == [False, True, False, 0]
