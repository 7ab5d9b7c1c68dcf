"""Devices in the hands of vfio-pci, on both kernels."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

import pytest
from vfiocard import PROFILES, Box, Card, MakeBox

from pykernel.kernel import Leak


@pytest.fixture(params=PROFILES)
def profile(request: pytest.FixtureRequest) -> str:
    """Each kernel."""
    return str(request.param)


@pytest.fixture
def make_box(profile: str) -> Iterator[MakeBox]:
    """``make_box(Card(...), "enable_sriov=1", opened=False)``."""
    boxes: list[Box] = []

    def make(function=None, args="", *, opened=True) -> Box:
        boxes.append(Box(function or Card(), profile, args, opened=opened))
        return boxes[-1]

    yield make
    for box in boxes:
        with suppress(Leak):  # clients that die with what they have
            box.kernel.shutdown()
        assert not box.kernel.oopses


@pytest.fixture
def box(make_box: MakeBox) -> Box:
    """A card, open."""
    return make_box()
