"""Every allocation fails once: a test's body run again and again, each time with the next one failing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import count
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pykernel.kernel import Kernel
    from pykernel.lib.fault_inject import FaultRule

__all__ = ["Faults"]

LIMIT = 10_000


class Faults:
    """The faults of one kernel."""

    def __init__(self, kernel: Kernel) -> None:
        kernel.up()  # a fault is for what the body does, not for devices that come up with its first look at them
        self.kernel = kernel

    def each(self, *kinds: str, where: str = "*") -> Iterator[FaultRule]:
        """
        Run the body of a ``for`` with the first call of each of *kinds* failing, then the second, until none is left.

        The last turn of each kind is one in which nothing failed (``fault.fired`` is 0). The body brings back the
        state that it started from, whatever failed. A turn that fails something must leave nothing behind and must
        not break the kernel.

        Args:
            kinds: "alloc", "copy", "reg"; none: "alloc" and "copy".
            where: name of the place, with * and ? as in a shell.

        Raises:
            AssertionError: an oops, or something that was not given back; the message names the call that failed.
        """
        for kind in kinds or ("alloc", "copy"):
            for nth in count(1):
                before, oopses = Counter(self.kernel.leaks()), len(self.kernel.oopses)
                with self.kernel.faults.fail(kind, where, nth=nth) as rule:
                    yield rule
                if not rule.fired:
                    break
                what = f"when {rule} failed"
                if new := self.kernel.oopses[oopses:]:
                    raise AssertionError(f"the kernel had an oops {what}: {new[0]!r}")
                if left := Counter(self.kernel.leaks()) - before:
                    raise AssertionError("\n  ".join([f"not given back {what}:", *left]))
                if nth == LIMIT:
                    raise AssertionError(f"{what}, the body went on: its {LIMIT}th turn is not the last")
