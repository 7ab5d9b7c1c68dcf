"""Every scenario of type1_scenarios.py ends here as in Linux, which was asked: edu on vfio-pci, VT-d of 39 bits."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from type1_scenarios import SCENARIOS, play
from type1box import Box, machine, physical

import pykernel
from pykernel.kernel import Kernel
from pykernel.machine import parse
from pykernel.mm.phys import PhysMem

# linux-6.1: all answers; linux-6.12: those that differ. Printed by type1_scenarios.py in a guest with Debian's kernels
ANSWERS = json.loads(Path(__file__).with_name("type1_answers.json").read_text())


@pytest.fixture(scope="module", params=["linux-6.1", "linux-6.12"])
def kernel(request: pytest.FixtureRequest) -> Iterator[Kernel]:
    """A machine with a device that VFIO has, whose IOMMU is as QEMU's."""
    kernel = pykernel.boot(parse(machine(1)), request.param)
    kernel.driver = physical(kernel)  # type: ignore[attr-defined]
    yield kernel
    assert not kernel.oopses
    kernel.driver.unregister()  # type: ignore[attr-defined]
    kernel.shutdown()


@pytest.mark.parametrize("name", SCENARIOS)
def test_answers_are_those_of_linux(kernel, name):
    """Errnos, sizes, bitmaps, capabilities and locked pages, step by step; afterwards nothing is pinned."""
    kind, steps = SCENARIOS[name]
    expected = (ANSWERS["linux-6.1"] | ANSWERS[kernel.profile.name])[name]
    box = Box(kernel, *kernel.driver.vdevs, kind=kind)

    answers = [box.set_iommu(), *play(box, steps)]
    box.close()

    assert json.loads(json.dumps(answers)) == expected
    assert kernel.sub(PhysMem).pinned == 0


def test_every_scenario_was_asked_on_both_kernels():
    """No scenario without an answer, no answer without a scenario."""
    assert set(ANSWERS["linux-6.1"]) == set(SCENARIOS) >= set(ANSWERS["linux-6.12"])
