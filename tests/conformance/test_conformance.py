"""Every recorded answer of a real kernel is given by the emulated one, or the difference is explained."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

from compare import SETS, RecordedSet, compare, parse, reason, run_set


@pytest.mark.parametrize("recorded", SETS, ids=lambda s: s.name)
def test_answers_as_the_recorded_kernel(recorded: RecordedSet) -> None:
    """No answer differs from the recording without a row in differences.py that says why."""
    real = parse(recorded.path.read_text("utf-8"))

    result = compare(real, run_set(recorded))

    unexplained = [
        (one.part, one.what, a and a.text, b and b.text)
        for a, b in result.differ
        if (one := a or b) and not reason(recorded.name, one.part, one.what)
    ]
    assert not unexplained
    assert result.agree > len(real) * 0.95


def test_every_explained_difference_is_still_there() -> None:
    """A row of differences.py that explains nothing any more is taken out."""
    from differences import DIFFERENCES

    found: set[int] = set()
    for recorded in SETS:
        if not any(row.where in recorded.name for row in DIFFERENCES):
            continue
        result = compare(parse(recorded.path.read_text("utf-8")), run_set(recorded))
        for a, b in result.differ:
            one = a or b
            assert one is not None
            found |= {i for i, row in enumerate(DIFFERENCES) if row.explains(recorded.name, one.part, one.what)}
    assert found == set(range(len(DIFFERENCES)))
