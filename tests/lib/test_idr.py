"""ID allocators, by lib/idr.c, and against a naive model."""

from errno import EINVAL, ENOENT, ENOMEM, ENOSPC

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pykernel.errors import Oops
from pykernel.lib.fault_inject import FaultInjector
from pykernel.lib.idr import Ida, Idr

INT_MAX = 2**31 - 1


def errno(code: int) -> str:
    return rf"\[Errno {code}\]"


def test_ida_gives_the_lowest_free() -> None:
    ida = Ida()
    assert [ida.alloc() for _ in range(3)] == [0, 1, 2]
    ida.free(1)
    assert [ida.alloc(), ida.alloc(), ida.alloc_min(10), ida.alloc_min(10)] == [1, 3, 10, 11]
    assert not ida.is_empty()
    ida.destroy()
    assert ida.is_empty()


# lib/idr.c:ida_alloc_range(): (min, max, ID or errno) with 0, 1 and INT_MAX taken
RANGES = [
    (0, 1, "ENOSPC"),
    (0, 2, 2),
    (5, 5, 5),
    (5, 4, "ENOSPC"),
    (-1, 5, "ENOSPC"),  # as int it is negative
    (2**31, 2**32 - 1, "ENOSPC"),
    (7, -1, 7),  # a maximum above INT_MAX is INT_MAX
    (7, 2**32 - 1, 7),
    (INT_MAX, -1, "ENOSPC"),
    (INT_MAX - 1, INT_MAX, INT_MAX - 1),
]


@pytest.mark.parametrize(("low", "high", "answer"), RANGES)
def test_ida_alloc_range(low: int, high: int, answer: int | str) -> None:
    ida = Ida()
    for taken in (0, 1, INT_MAX):
        ida.alloc_range(taken, taken)
    if isinstance(answer, int):
        assert ida.alloc_range(low, high) == answer
    else:
        with pytest.raises(OSError, match=errno(ENOSPC)):
            ida.alloc_range(low, high)


def test_ida_alloc_max() -> None:
    ida = Ida()
    assert [ida.alloc_max(1), ida.alloc_max(1)] == [0, 1]
    with pytest.raises(OSError, match=errno(ENOSPC)):
        ida.alloc_max(1)


def test_ida_free_of_a_free_id_is_a_bug() -> None:
    """C warns "ida_free called for id=7 which is not allocated."; a negative ID is ignored."""
    ida = Ida()
    with pytest.raises(Oops, match=r"^ida_free called for id=7 which is not allocated\.$"):
        ida.free(7)
    ida.free(-1)


def test_injected_enomem_leaves_the_id_free() -> None:
    """Also: full is told before memory is asked for."""
    faults = FaultInjector()
    ida, idr = Ida(faults=faults, where="ida"), Idr[str](faults=faults, where="idr")
    faults.fail("alloc", "id?", every=1, times=2)
    with pytest.raises(OSError, match=errno(ENOMEM)):
        ida.alloc()
    with pytest.raises(OSError, match=errno(ENOMEM)):
        idr.alloc("a", 0, 0)
    assert (ida.alloc(), idr.alloc("a", 0, 0)) == (0, 0)
    faults.fail("alloc", every=1)
    with pytest.raises(OSError, match=errno(ENOSPC)):
        ida.alloc_max(0)


def test_idr_maps_ids_to_objects() -> None:
    """Lowest free within [start, end); end of 0 means up to INT_MAX."""
    idr: Idr[str] = Idr()
    assert [idr.alloc("a", 0, 0), idr.alloc("b", 5, 7), idr.alloc("c", 5, 7), idr.alloc("d", 0, 2)] == [0, 5, 6, 1]
    with pytest.raises(OSError, match=errno(ENOSPC)):
        idr.alloc("e", 5, 7)
    with pytest.raises(OSError, match=errno(EINVAL)):
        idr.alloc("e", -1, 7)
    assert (idr.find(5), idr.find(9), idr.remove(5), idr.remove(5), idr.find(5)) == ("b", None, "b", None, None)
    assert list(idr.for_each_entry()) == [(0, "a"), (1, "d"), (6, "c")]
    assert idr.get_next(2) == (6, "c")
    assert idr.get_next(7) is None


def test_idr_replace() -> None:
    idr: Idr[str] = Idr()
    number = idr.alloc(None, 0, 0)
    assert idr.find(number) is None
    assert idr.replace("a", number) is None
    assert idr.replace("b", number) == "a"
    with pytest.raises(OSError, match=errno(ENOENT)):
        idr.replace("c", 77)


def test_idr_null_takes_an_id_and_is_not_iterated() -> None:
    idr: Idr[str] = Idr()
    assert [idr.alloc(None, 0, 0), idr.alloc("a", 0, 0)] == [0, 1]
    assert list(idr.for_each_entry()) == [(1, "a")]
    assert not idr.is_empty()


def test_idr_cyclic() -> None:
    """The search starts behind the last one given, and goes back to start only when the end is reached."""
    idr: Idr[str] = Idr()
    assert [idr.alloc_cyclic(c, 1, 4) for c in "ab"] == [1, 2]
    idr.remove(1)
    assert idr.cursor == 3
    assert [idr.alloc_cyclic(c, 1, 4) for c in "cd"] == [3, 1]
    with pytest.raises(OSError, match=errno(ENOSPC)):
        idr.alloc_cyclic("e", 1, 4)
    idr.destroy()
    assert idr.alloc_cyclic("f", 1, 4) == 2
    idr.cursor = 2**31  # after INT_MAX: as int it is negative
    assert idr.alloc_cyclic("g", 1, 0) == 1


def test_idr_cyclic_without_memory_does_not_start_over() -> None:
    """Only ENOSPC makes it look from start on."""
    faults = FaultInjector()
    idr: Idr[str] = Idr(faults=faults)
    assert idr.alloc_cyclic("a", 1, 0) == 1
    with faults.fail("alloc") as rule, pytest.raises(OSError, match=errno(ENOMEM)):
        idr.alloc_cyclic("b", 1, 0)
    assert (rule.seen, idr.cursor) == (1, 2)


def test_idr_base() -> None:
    """idr_init_base(): nothing below the base is given."""
    idr: Idr[str] = Idr(base=3)
    assert idr.alloc("a", 0, 0) == 3
    with pytest.raises(OSError, match=errno(ENOSPC)):
        idr.alloc_u32("b", 0, 2)
    assert idr.alloc_u32("b", 0, 4) == 4


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 15), st.integers(0, 15)), max_size=60))
def test_ida_model(ops: list[tuple[bool, int, int]]) -> None:
    """Against a set: always the lowest free ID of the range."""
    ida = Ida()
    model: set[int] = set()
    for allocate, a, b in ops:
        if not allocate:
            if a in model:
                model.remove(a)
                ida.free(a)
            continue
        free = sorted(set(range(a, b + 1)) - model)
        if free:
            assert ida.alloc_range(a, b) == free[0]
            model.add(free[0])
        else:
            with pytest.raises(OSError, match=errno(ENOSPC)):
                ida.alloc_range(a, b)
        assert ida.is_empty() is (not model)
