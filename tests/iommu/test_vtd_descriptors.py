"""Descriptors of the invalidation queue, as the driver makes them: no field reaches into another (VT-d 6.5.2)."""

from __future__ import annotations

from typing import Any

import pytest

from pykernel.errors import Oops
from pykernel.iommu import qi

GOOD: dict[str, dict[str, Any]] = {
    "context_desc": {"did": 0xFFFF, "sid": 0xFFFF, "granu": 3},
    "iotlb_desc": {"did": 0xFFFF, "addr": 0x5000, "order": 18, "granu": 3},
    "piotlb_desc": {"did": 0xFFFF, "pasid": 0xFFFFF, "addr": 0x5000, "npages": 4},
    "dev_iotlb_desc": {"sid": 0xFFFF, "pfsid": 0xFFFF, "qdep": 31, "addr": 0x5000, "order": 52},
    "dev_iotlb_pasid_desc": {"sid": 0xFFFF, "pfsid": 0xFFFF, "pasid": 0xFFFFF, "qdep": 31, "addr": 0, "order": 52},
    "pasid_cache_desc": {"did": 0xFFFF, "granu": 3, "pasid": 0xFFFFF},
    "page_group_response": {"sid": 0xFFFF, "pasid": 0xFFFFF, "index": 0x1FF, "code": 0xF, "last": True},
}
WIDTHS = {"did": 16, "sid": 16, "pfsid": 16, "pasid": 20, "index": 9, "code": 4, "granu": 2}
ROWS = [(name, field) for name, fields in GOOD.items() for field in fields if field in WIDTHS]


@pytest.mark.parametrize("name", GOOD)
def test_the_widest_fields_fit(name):
    """Each word has 64 bits, and the type is what it was."""
    words = getattr(qi, name)(**GOOD[name])
    assert all(0 <= word < 1 << 64 for word in words)
    kinds = {"context_desc": 1, "iotlb_desc": 2, "dev_iotlb_desc": 3, "piotlb_desc": 6, "pasid_cache_desc": 7,
             "dev_iotlb_pasid_desc": 8, "page_group_response": 9}  # fmt: skip
    assert words[0] & 0xF == kinds[name]


@pytest.mark.parametrize(("name", "field"), ROWS)
@pytest.mark.parametrize("low", [0, 1])
def test_a_field_that_is_too_wide_makes_no_descriptor(name, field, low):
    """One bit more than there is, or a negative number."""
    for value in (1 << WIDTHS[field] | low, -1 - low):
        with pytest.raises(Oops, match="overflows"):
            getattr(qi, name)(**GOOD[name] | {field: value})


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("iotlb_desc", "order", 64),
        ("piotlb_desc", "npages", (1 << 52) + 1),
        ("dev_iotlb_desc", "order", 53),
        ("dev_iotlb_pasid_desc", "order", 53),
    ],
)
def test_a_range_that_is_too_large_makes_no_descriptor(name, field, value):
    with pytest.raises(Oops, match="overflows"):
        getattr(qi, name)(**GOOD[name] | {field: value})
