"""
Which task runs next, while a test explores interleavings: one seed, one order.

The numbers come from ``random.Random.random()`` alone, whose sequence Python promises to keep, so a seed means the same
order on every version and in every process.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any, Protocol

__all__ = ["STRATEGIES", "Pct", "RandomWalk", "Strategy", "make_strategy"]


class Strategy(Protocol):
    """How the scheduler chooses. Ready are tasks, whose ``priority`` is this strategy's, and work."""

    def switches(self, thread: Any, ready: Sequence[Any]) -> bool:
        """Whether *thread*, at a switch point, lets others run."""
        ...

    def pick(self, ready: Sequence[Any]) -> int:
        """The index of what runs next."""
        ...


class RandomWalk:
    """
    At each point a coin, then any of what is ready.

    How biased the coin is differs from seed to seed: many bugs want a task to run undisturbed for a while first.
    """

    RATES = (0.5, 0.5, 0.3, 0.1)

    def __init__(self, rng: random.Random) -> None:
        self._random = rng.random
        self.rate = self.RATES[int(rng.random() * len(self.RATES))]

    def switches(self, thread: Any, ready: Sequence[Any]) -> bool:
        """The coin; no task goes first for ever, so nobody starves."""
        return self._random() < self.rate

    def pick(self, ready: Sequence[Any]) -> int:
        """Any."""
        return int(self._random() * len(ready))


class Pct:
    """
    Probabilistic concurrency testing (Burckhardt et al., ASPLOS 2010).

    Tasks have random priorities and the highest runs; at ``DEPTH`` - 1 random steps the running task falls below all
    others. A bug that needs ``DEPTH`` ordered events is found with a probability that has a lower bound. How many steps
    a test has is not known: their scale is drawn for each seed. Work that is no task, the hardware's, runs at random.
    """

    DEPTH = 3
    PATIENCE = 1000  # points in a row after which a task that waits actively for a lower one falls, too

    def __init__(self, rng: random.Random) -> None:
        self._random = rng.random
        scale = 2 ** (2 + 8 * rng.random())
        self._changes = {int(rng.random() * scale) for _ in range(self.DEPTH - 1)}
        self._step = 0
        self._low = 0.0
        self._row: tuple[Any, int] = (None, 0)

    def switches(self, thread: Any, ready: Sequence[Any]) -> bool:
        """Whether somebody ready has a higher priority than *thread* has now."""
        last, times = self._row
        self._row = (thread, times + 1 if last is thread else 1)
        impatient = self._row[1] > self.PATIENCE
        if impatient or self._step in self._changes:
            self._low -= 1
            thread.priority = self._low
            self._row = (thread, 0)
        self._step += 1
        mine = self._priority(thread)
        return impatient or any(self._priority(other) > mine for other in ready)

    def pick(self, ready: Sequence[Any]) -> int:
        """The highest priority."""
        priorities = [self._priority(item) for item in ready]
        return priorities.index(max(priorities))

    def _priority(self, item: Any) -> float:
        if not hasattr(item, "priority"):
            return self._random()
        if item.priority is None:
            item.priority = self._random()
        priority: float = item.priority
        return priority


STRATEGIES: dict[str, Callable[[random.Random], Strategy]] = {"random": RandomWalk, "pct": Pct}


def make_strategy(name: str, seed: int) -> Strategy:
    """The strategy called *name*, with a generator of its own. Raises ValueError: there is none of that name."""
    if name not in STRATEGIES:
        raise ValueError(f"strategy must be one of {', '.join(STRATEGIES)}, not {name!r}")
    return STRATEGIES[name](random.Random(f"{name} {seed}"))
