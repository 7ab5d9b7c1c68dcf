"""Copies from pieces of memory to pieces of memory, as MEMMOVE makes them where both are RAM."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pykernel.hw.dsa.desc import fill, fill_all

cuts = st.lists(st.integers(1, 99), max_size=5, unique=True).map(sorted)


def pieces(data: bytearray, at: list[int]) -> list[memoryview]:
    """*data* cut at the offsets *at*."""
    view = memoryview(data)
    return [view[a:b] for a, b in zip([0, *at], [*at, len(data)], strict=True)]


@given(cuts, cuts)
def test_however_both_are_cut(source, target):
    data, out = bytearray(range(100)), bytearray(100)
    fill_all(pieces(out, target), pieces(data, source))
    assert out == data


@given(cuts)
def test_into_one_piece(source):
    data, out = bytearray(range(100)), bytearray(100)
    fill(memoryview(out), pieces(data, source))
    assert out == data


@pytest.mark.parametrize("by", [-3, 3])
def test_the_same_memory_may_be_on_both_sides(by):
    data = bytearray(range(20))
    fill(memoryview(data)[5 + by : 15 + by], [memoryview(data)[5:15]])
    assert data[5 + by : 15 + by] == bytes(range(5, 15))
