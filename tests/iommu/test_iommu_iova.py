"""The allocator of I/O virtual addresses against its rules (drivers/iommu/iova.c)."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from pykernel.iommu.iova import DMA_32BIT_PFN, IovaDomain

LIMIT = DMA_32BIT_PFN - 1
steps = st.lists(
    st.tuples(st.sampled_from("aaaf"), st.integers(1, 70), st.sampled_from([255, 4000, LIMIT])), max_size=60
)


@settings(max_examples=150)
@given(steps, st.lists(st.tuples(st.integers(1, 4000), st.integers(0, 30)), max_size=4))
def test_ranges_are_free_aligned_and_below_the_limit(ops, reserved):
    """No two ranges overlap, none reaches what is reserved, each is aligned to the power of two that holds its size."""
    iovad = IovaDomain()
    taken: set[int] = set()
    for lo, more in reserved:
        iovad.reserve(lo, lo + more)
        taken |= set(range(lo, lo + more + 1))
    given_: list[tuple[int, int]] = []
    for op, size, limit in ops:
        if op == "f" and given_:
            pfn, size = given_.pop(len(given_) // 2)
            iovad.free_fast(pfn, size)
            taken -= set(range(pfn, pfn + size))
            continue
        pfn = iovad.alloc_fast(size, limit, flush=True)
        if pfn:
            pages = set(range(pfn, pfn + size))
            assert not pages & taken
            assert pfn % (1 << (size - 1).bit_length()) == 0
            assert pfn > 0
            assert pfn + size - 1 <= limit
            given_.append((pfn, size))
            taken |= pages


def test_from_the_top_down():
    iovad = IovaDomain()
    assert [iovad.alloc(n, LIMIT) for n in (1, 1, 3, 1)] == [0xFFFFF, 0xFFFFE, 0xFFFF8, 0xFFFF7]


def test_the_search_goes_on_below_what_was_given_last():
    """A hole above is found when the way down is closed (``cached32_node``, ``retry_pfn``)."""
    iovad = IovaDomain(start_pfn=0xFFFF0)
    pfns = [iovad.alloc(1, LIMIT) for _ in range(16)]
    assert pfns == list(range(0xFFFFF, 0xFFFEF, -1))
    assert iovad.alloc(1, LIMIT) == 0
    iovad.free(0xFFFF8)
    assert iovad.alloc(1, LIMIT) == 0xFFFF8


def test_small_ranges_are_given_again_last_freed_first():
    """The caches of up to 32 pages, by size; a size that is no power of two is rounded up."""
    iovad = IovaDomain()
    a, b, c = (iovad.alloc_fast(3, LIMIT, flush=False) for _ in "abc")
    for pfn in (a, b, c):
        iovad.free_fast(pfn, 3)
    assert [iovad.alloc_fast(4, LIMIT, flush=False) for _ in "abc"] == [c, b, a]
    assert iovad.alloc_fast(1, LIMIT, flush=False) < c


def test_a_cached_range_above_the_limit_is_not_given():
    iovad = IovaDomain()
    high, low = iovad.alloc_fast(1, LIMIT, flush=False), iovad.alloc_fast(1, 99, flush=False)
    iovad.free_fast(high, 1)
    assert (high, low) == (0xFFFFF, 99)
    assert iovad.alloc_fast(1, 99, flush=False) == 98


def test_the_caches_are_emptied_rather_than_fail():
    iovad = IovaDomain()
    pfns = [iovad.alloc_fast(1, 4, flush=False) for _ in range(4)]
    assert pfns == [4, 3, 2, 1]
    for pfn in pfns:
        iovad.free_fast(pfn, 1)
    assert iovad.alloc_fast(2, 4, flush=False) == 0
    assert iovad.alloc_fast(2, 4, flush=True) == 2


def test_reserved_ranges_that_overlap_become_one():
    iovad = IovaDomain()
    for lo, hi in ((10, 20), (30, 40), (15, 35)):
        iovad.reserve(lo, hi)
    assert iovad.alloc(1, 40) == 9
