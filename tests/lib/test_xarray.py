"""XArray, by lib/xarray.c and Documentation/core-api/xarray.rst, and against a naive model."""

from errno import EBUSY, EINVAL, ENOMEM

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pykernel.lib.fault_inject import FaultInjector
from pykernel.lib.xarray import (
    XA_LIMIT_16B,
    XA_LIMIT_31B,
    XA_LIMIT_32B,
    XA_MARK_0,
    XA_MARK_1,
    XA_MARK_2,
    XaFlags,
    XaLimit,
    XArray,
)


def errno(code: int) -> str:
    return rf"\[Errno {code}\]"


def test_store_gives_back_what_was_there() -> None:
    """xa_store() returns the old entry; storing NULL erases; an empty index reads NULL."""
    xa: XArray[str] = XArray()
    assert xa.load(5) is None
    assert [xa.store(5, "a"), xa.store(5, "b"), xa.store(5, None), xa.load(5)] == [None, "a", "b", None]
    assert xa.empty()


def test_insert_does_not_replace() -> None:
    xa: XArray[str] = XArray()
    xa.insert(1, "a")
    with pytest.raises(OSError, match=errno(EBUSY)):
        xa.insert(1, "b")
    assert xa.load(1) == "a"


def test_cmpxchg_needs_the_same_object() -> None:
    """It returns what was there; only the object itself is a match; NULL as the new entry erases."""
    a, also_a = ["a"], ["a"]
    xa: XArray[list[str]] = XArray()
    assert xa.cmpxchg(1, None, a) is None
    assert xa.cmpxchg(1, also_a, ["b"]) is a
    assert xa.load(1) is a
    assert xa.cmpxchg(1, a, None) is a
    assert xa.empty()


def test_reserved_index_is_busy_and_reads_null() -> None:
    """xa_reserve() keeps xa_insert() and xa_for_each() away; xa_release() only ends a reservation."""
    xa: XArray[str] = XArray()
    xa.reserve(3)
    assert xa.load(3) is None
    assert not xa.empty()
    assert list(xa.for_each()) == []
    with pytest.raises(OSError, match=errno(EBUSY)):
        xa.insert(3, "a")
    xa.release(3)
    assert xa.empty()
    xa.store(3, "a")
    xa.reserve(3)
    xa.release(3)
    assert xa.load(3) == "a"


def test_quirk_cmpxchg_null_on_a_reserved_index() -> None:
    """6.1 compares with the zero entry itself: the answer is NULL as in success, and nothing was stored."""
    xa: XArray[str] = XArray()
    xa.reserve(3)
    assert xa.cmpxchg(3, None, "a") is None
    assert xa.load(3) is None


def test_alloc_is_lowest_free() -> None:
    xa: XArray[str] = XArray(XaFlags.ALLOC)
    assert [xa.alloc(c) for c in "abc"] == [0, 1, 2]
    xa.erase(1)
    assert [xa.alloc("d"), xa.alloc("e")] == [1, 3]
    assert xa.alloc("f", XaLimit(7, 9)) == 7


def test_alloc1_never_gives_zero() -> None:
    """XA_FLAGS_ALLOC1 starts at 1, also after something was stored at 0 and erased."""
    xa: XArray[str] = XArray(XaFlags.ALLOC1)
    xa.store(0, "zero")
    xa.erase(0)
    assert [xa.alloc("a"), xa.alloc("b")] == [1, 2]


def test_alloc_of_null_takes_the_index() -> None:
    """Also xa_store(NULL) does, where free indices are tracked."""
    xa: XArray[str] = XArray(XaFlags.ALLOC)
    assert xa.alloc(None) == 0
    xa.store(1, None)
    assert xa.alloc("a") == 2
    assert list(xa.for_each()) == [(2, "a")]


def test_alloc_errors() -> None:
    """EBUSY when the range is full, before memory is asked for; EINVAL without XA_FLAGS_ALLOC; ENOMEM by injection."""
    faults = FaultInjector()
    xa: XArray[str] = XArray(XaFlags.ALLOC, faults=faults, where="ids")
    xa.alloc("a", XaLimit(4, 4))
    faults.fail("alloc", "ids")
    with pytest.raises(OSError, match=errno(EBUSY)):
        xa.alloc("b", XaLimit(4, 4))
    with pytest.raises(OSError, match=errno(ENOMEM)):
        xa.alloc("b", XaLimit(4, 5))
    assert xa.alloc("b", XaLimit(4, 5)) == 5
    plain: XArray[str] = XArray()
    with pytest.raises(OSError, match=errno(EINVAL)):
        plain.alloc("a")


def test_storing_over_an_entry_needs_no_memory() -> None:
    faults = FaultInjector()
    xa: XArray[str] = XArray(faults=faults)
    xa.store(1, "a")
    faults.fail("alloc", every=1)
    assert xa.store(1, "b") == "a"
    with pytest.raises(OSError, match=errno(ENOMEM)):
        xa.store(2, "c")
    assert xa.load(2) is None


def test_alloc_cyclic_goes_on_and_wraps() -> None:
    """xa_alloc_cyclic() continues behind the last index and tells when it started over."""
    xa: XArray[str] = XArray(XaFlags.ALLOC)
    limit = XaLimit(1, 3)
    after, got = 0, []
    for entry in "abc":
        index, after, wrapped = xa.alloc_cyclic(entry, limit, after)
        got.append((index, wrapped))
    xa.erase(2)
    index, after, wrapped = xa.alloc_cyclic("d", limit, after)
    assert [*got, (index, wrapped)] == [(1, False), (2, False), (3, False), (2, True)]
    with pytest.raises(OSError, match=errno(EBUSY)):
        xa.alloc_cyclic("e", limit, after)


def test_alloc_cyclic_does_not_start_over_where_it_began() -> None:
    xa: XArray[str] = XArray(XaFlags.ALLOC)
    xa.alloc("a")
    with pytest.raises(OSError, match=errno(EBUSY)):
        xa.alloc_cyclic("b", XaLimit(0, 0), 0)


def test_marks() -> None:
    """Only present entries can be marked; a store keeps marks, an erasure drops them."""
    xa: XArray[str] = XArray()
    xa.set_mark(1, XA_MARK_0)
    assert not xa.marked(XA_MARK_0)
    for index in (1, 2, 9):
        xa.store(index, str(index))
    xa.set_mark(2, XA_MARK_0)
    xa.set_mark(9, XA_MARK_0)
    xa.set_mark(9, XA_MARK_2)
    xa.store(2, "two")
    assert list(xa.for_each(mark=XA_MARK_0)) == [(2, "two"), (9, "9")]
    assert not xa.marked(XA_MARK_1)
    xa.clear_mark(9, XA_MARK_0)
    xa.erase(2)
    xa.store(2, "new")
    assert (xa.get_mark(2, XA_MARK_0), xa.get_mark(9, XA_MARK_0), xa.get_mark(9, XA_MARK_2)) == (False, False, True)


def test_for_each_may_erase_and_store() -> None:
    """xa_for_each() is safe against changes on the way: erased entries are not seen, later new ones are."""
    xa: XArray[str] = XArray()
    for index in (1, 5, 7):
        xa.store(index, str(index))
    seen = []
    for index, _ in xa.for_each():
        seen.append(index)
        xa.erase(index)
        if index == 1:
            xa.erase(5)
            xa.store(6, "6")
    assert seen == [1, 6, 7]
    assert xa.empty()


def test_find_is_bounded() -> None:
    xa: XArray[str] = XArray()
    xa.store(10, "a")
    assert xa.find(10, 10) == (10, "a")
    assert xa.find(0, 9) is None
    assert xa.find(11) is None
    assert list(xa.for_each(start=3, last=9)) == []


def test_limits() -> None:
    """include/linux/xarray.h"""
    assert (XA_LIMIT_32B, XA_LIMIT_31B, XA_LIMIT_16B) == ((0, 2**32 - 1), (0, 2**31 - 1), (0, 2**16 - 1))


OPS = st.one_of(
    st.tuples(st.just("store"), st.integers(0, 12), st.integers(0, 9)),
    st.tuples(st.just("erase"), st.integers(0, 12), st.just(0)),
    st.tuples(st.just("alloc"), st.integers(0, 12), st.integers(0, 12)),
)


@given(st.lists(OPS, max_size=40))
def test_model(ops: list[tuple[str, int, int]]) -> None:
    """Against a dict: stores, erasures, the lowest free index, iteration in order."""
    xa: XArray[int] = XArray(XaFlags.ALLOC)
    model: dict[int, int] = {}
    for op, a, b in ops:
        if op == "store":
            assert xa.store(a, b) == model.get(a)
            model[a] = b
        elif op == "erase":
            assert xa.erase(a) == model.pop(a, None)
        else:
            free = [i for i in range(a, b + 1) if i not in model]
            if free:
                assert xa.alloc(99, XaLimit(a, b)) == free[0]
                model[free[0]] = 99
            else:
                with pytest.raises(OSError, match=errno(EBUSY)):
                    xa.alloc(99, XaLimit(a, b))
        xa._check()
        assert list(xa.for_each()) == sorted(model.items())


def test_destroy_empties() -> None:
    xa: XArray[str] = XArray(XaFlags.ALLOC)
    xa.alloc("a")
    xa.set_mark(0, XA_MARK_1)
    xa.destroy()
    assert xa.empty()
    assert not xa.marked(XA_MARK_1)
    assert xa.alloc("b") == 0
