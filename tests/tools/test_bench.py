"""The benchmark measures what it says; its figures are not tested, they depend on the machine."""

from __future__ import annotations

import shutil

import pytest

from pykernel.tools.bench import inside, process, startup
from pykernel.tools.bench.__main__ import human
from pykernel.tools.bench.measure import Row, per_call

TARGETS = {
    "import pykernel": 0.150,
    "boot dsa": 0.010,
    "all devices up": 0.060,
    "pykernel run -- true": 0.300,
    "open+read+close, direct": 15e-6,
    "open+read+close, patched, os.open": 20e-6,
    "open+read+close, C, process surface, plain": 40e-6,
    "open+write+close, C, process surface": 60e-6,
}


@pytest.fixture
def quick(monkeypatch):
    """Each thing is done once: what is measured must work, how fast is not asked."""

    def once(fn, **_how):
        fn()
        return 1e-6

    monkeypatch.setattr(inside, "per_call", once)
    monkeypatch.setattr(startup, "python", lambda code, **_how: 1e-3 if compile(code, "bench", "exec") else 0)
    monkeypatch.setattr(startup, "wall", lambda argv, **_how: 1e-3 if shutil.which(argv[0]) else 0)
    monkeypatch.setattr(process, "CLIENT", process.CLIENT.replace("BLOCKS = 21, CALLS = 300", "BLOCKS = 1, CALLS = 1"))


def test_every_target_has_its_row(quick, fuse, require_program):
    require_program("cc")

    rows: list[Row] = [*startup.rows(), *inside.rows(), *process.rows()]

    assert {row.name: row.target for row in rows if row.target is not None} == TARGETS
    assert len({row.name for row in rows}) == len(rows)
    assert {row.base for row in rows if row.base} <= {row.name for row in rows}
    assert all(row.seconds > 0 for row in rows)


def test_per_call_is_the_median_of_means(monkeypatch):
    """Blocks of 2 calls that take 9 (warm-up), 1, 100, 3 seconds a call: the median is 3."""
    clock, steps = [0.0], iter([9.0] * 2 + [1.0] * 2 + [100.0] * 2 + [3.0] * 2)
    monkeypatch.setattr("pykernel.tools.bench.measure.time.perf_counter", lambda: clock[0])

    def call():
        clock[0] += next(steps)

    assert per_call(call, blocks=3, calls=2) == 3.0


@pytest.mark.parametrize(
    ("seconds", "text"), [(8.34e-6, "8.3 us"), (271.9e-6, "272 us"), (0.0018, "1.8 ms"), (0.283, "283 ms")]
)
def test_figures_have_three_digits(seconds, text):
    assert human(seconds) == text
