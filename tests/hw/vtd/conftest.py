"""Machines for the tests of the remapping unit."""

from __future__ import annotations

from typing import Any

import pytest
from vtdbench import Bench

from pykernel.pci.irq import Irqs


@pytest.fixture
def bench():
    """Makes machines; they end with the test."""
    made: list[Bench] = []

    def make(iommu: str = "", **kw: Any) -> Bench:
        made.append(Bench(iommu, **kw))
        return made[-1]

    yield make
    for b in made:
        del b.kernel.sub(Irqs).raise_irq
