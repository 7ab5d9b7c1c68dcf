"""How things are measured: medians, on this machine, in this run."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

__all__ = ["Row", "per_call", "python", "wall"]


@dataclass(frozen=True, slots=True)
class Row:
    """
    One figure in seconds, or in what *unit* says.

    Attributes:
        target: what it should not exceed; None for a peer or a floor.
        base: the name of the row that ``ratio`` compares with.
    """

    name: str
    seconds: float
    target: float | None = None
    base: str = ""
    unit: str = "s"


def per_call(fn: Callable[[], object], *, blocks: int = 15, calls: int = 400) -> float:
    """Seconds a call: the median of *blocks* means over *calls* calls; the first block warms up."""
    means = []
    for _ in range(blocks + 1):
        start = time.perf_counter()
        for _ in range(calls):
            fn()
        means.append((time.perf_counter() - start) / calls)
    return median(means[1:])


def wall(argv: Sequence[str], *, times: int = 9) -> float:
    """Seconds from fork to exit of a program: the median of *times* runs. Raises CalledProcessError."""
    taken = []
    for _ in range(times + 1):
        start = time.perf_counter()
        subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)
        taken.append(time.perf_counter() - start)
    return median(taken[1:])


def python(code: str, *, times: int = 9) -> float:
    """Seconds that *code*, in a fresh interpreter, prints: the median of *times* runs."""
    taken = []
    for _ in range(times + 1):
        done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
        taken.append(float(done.stdout))
    return median(taken[1:])
