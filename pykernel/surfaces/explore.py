"""
Exploring interleavings: one test under many orders of its tasks, each order the work of a seed.

With pytest (any test that uses a fixture that is a kernel; each seed has a fresh one)::

    from pykernel import explore

    @pytest.mark.kernel(machine="dsa")
    @explore(seeds=200)
    def test_two_clients(kernel):
        kernel.gather(open_and_close, reconfigure)

Without it::

    explore(seeds=200, machine="dsa").run(two_clients)      # a failure's notes name the seed

    for kernel in explore(seeds=[17], machine="dsa"):       # or a loop: oopses and leaks are raised at each turn's end
        kernel.gather(open_and_close, reconfigure)

The devices are up before exploring begins. What is explored is the order of tasks: of the clients that ``kernel.spawn``
and ``kernel.gather`` start, of interrupt threads and of work items. Switch points are where system calls begin and end,
MMIO, user copies, notifier calls, wake-ups, locks and attribute calls. Between two of them Python code is not
interrupted, and neither is who holds a spinlock; unlike on a real machine, memory is never seen out of order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from pykernel.lib.interleave import STRATEGIES

if TYPE_CHECKING:
    from pykernel.kernel import Kernel

__all__ = ["MARK", "Explore", "explore"]

F = TypeVar("F", bound=Callable[..., Any])
MARK = "__pykernel_explore__"  # where a decorated function carries its Explore


class Explore:
    """Which seeds, and how each chooses; ``boot`` are arguments of :func:`pykernel.boot`."""

    def __init__(self, seeds: int | Iterable[int], strategy: str, boot: dict[str, Any]) -> None:
        if strategy not in STRATEGIES:
            raise ValueError(f"strategy must be one of {', '.join(STRATEGIES)}, not {strategy!r}")
        self.seeds: tuple[int, ...] = tuple(range(seeds) if isinstance(seeds, int) else seeds)
        if not self.seeds:
            raise ValueError("explore needs at least one seed")
        self.strategy = strategy
        self.boot = boot

    def __call__(self, fn: F) -> F:
        """As a decorator: pytest runs *fn* once a seed."""
        setattr(fn, MARK, self)
        return fn

    def start(self, kernel: Kernel, seed: int) -> None:
        """Bring *kernel*'s devices up; from then on *seed* decides who runs."""
        kernel.up()
        kernel.sched.explore(self.strategy, seed)

    def __iter__(self) -> Iterator[Kernel]:
        for seed in self.seeds:
            kernel = self._boot(seed)
            yield kernel
            self._verdict(kernel, seed)

    def run(self, fn: Callable[[Kernel], object]) -> None:
        """Call *fn* with a kernel of each seed. Raises what it raises and the kernel's verdict, the seed in a note."""
        for seed in self.seeds:
            kernel = self._boot(seed)
            try:
                fn(kernel)
            except BaseException as e:
                e.add_note(self.told(seed, f"explore(seeds=[{seed}])"))
                raise
            self._verdict(kernel, seed)

    def told(self, seed: int, replay: str) -> str:
        """The sentence that names a seed which failed."""
        return f"explore: seed {seed} of {len(self.seeds)} failed; replay: {replay}"

    def _boot(self, seed: int) -> Kernel:
        from pykernel.start import boot

        kernel = boot(**self.boot, seed=seed)
        kernel.track_origins = True
        self.start(kernel, seed)
        return kernel

    def _verdict(self, kernel: Kernel, seed: int) -> None:
        """Raises AssertionError: something was not given back, or the kernel had an oops."""
        try:
            kernel.shutdown()
            if kernel.oopses:
                raise AssertionError("the kernel had an oops: " + "; ".join(map(repr, kernel.oopses)))
        except AssertionError as e:
            e.add_note(self.told(seed, f"explore(seeds=[{seed}])"))
            raise


def explore(seeds: int | Iterable[int] = 100, *, strategy: str = "random", **boot: Any) -> Explore:
    """
    Run a test under many interleavings; see the module's text.

    Args:
        seeds: how many, from 0, or which.
        strategy: "random" or "pct": priorities with few changes, for bugs that need tasks to run undisturbed for long.
        boot: without pytest, arguments of :func:`pykernel.boot`; with it, of the marker ``kernel`` if there is none.

    Raises:
        ValueError: no seeds, or no such strategy.
    """
    return Explore(seeds, strategy, boot)
