"""
Fault injection (lib/fault-inject.c): make the n-th allocation, copy or register access of a kernel fail.

Kernel code names the kind of the call and the place: ``faults.alloc("idxd_wq")``. Nothing fails unless a test asked:
:attr:`FaultInjector.active` is False then, and a call costs one attribute look-up. No chance is involved: the same
rules fail the same calls. To walk through every error path of a scenario, run it with ``nth=1``, 2, 3, ... until the
rule has not ``fired``.
"""

from __future__ import annotations

from collections.abc import Callable
from errno import EFAULT, ENOMEM
from fnmatch import fnmatchcase
from operator import index
from types import TracebackType

from pykernel.errors import err

__all__ = ["FaultInjector", "FaultRule"]

KINDS = ("alloc", "copy", "reg", "iotlb")


class FaultRule:
    """
    What shall fail; made by :meth:`FaultInjector.fail`. As a context manager it ends with the block.

    Attributes:
        seen: how many calls the rule looked at.
        fired: how many it failed.
        failed: the places of those.
    """

    def __init__(
        self, owner: FaultInjector, kind: str, where: str | Callable[[str], bool], nth: int, every: int, times: int
    ) -> None:
        self._owner = owner
        self.kind = kind
        self.where = where
        self.nth = nth
        self.every = every
        self.times = times
        self.seen = 0
        self.fired = 0
        self.failed: list[str] = []

    def should_fail(self, where: str) -> bool:
        """Count a call of the rule's kind at *where*, and tell whether it fails."""
        if not (fnmatchcase(where, self.where) if isinstance(self.where, str) else self.where(where)):
            return False
        self.seen += 1
        after = self.seen - self.nth
        if self.fired == self.times or after < 0 or (after % self.every if self.every else after):
            return False
        self.fired += 1
        self.failed.append(where)
        return True

    def __str__(self) -> str:
        return f"{self.kind} number {self.nth}" + (f" ({', '.join(self.failed)})" if self.failed else "")

    def cancel(self) -> None:
        """Nothing more fails by this rule; its counts stay."""
        self._owner.remove(self)

    def __enter__(self) -> FaultRule:
        return self

    def __exit__(self, et: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        self.cancel()


def _number(name: str, value: int, least: int) -> int:
    try:
        number = index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, not {type(value).__name__}") from None
    if number < least:
        raise ValueError(f"{name} must be {least} or more, not {number}")
    return number


class FaultInjector:
    """One kernel's rules. Kinds: "alloc" (ENOMEM), "copy" (EFAULT), "reg" (the device's), "iotlb" (it is lost)."""

    __slots__ = ("_rules", "active")

    def __init__(self) -> None:
        self.active = False
        self._rules: list[FaultRule] = []

    def fail(
        self, kind: str, where: str | Callable[[str], bool] = "*", *, nth: int = 1, every: int = 0, times: int = -1
    ) -> FaultRule:
        """
        Let calls of *kind* fail.

        Args:
            kind: "alloc", "copy", "reg", "iotlb" (an invalidation that gets lost).
            where: name of the place, with * and ? as in a shell, or a function of the name.
            nth: the first matching call to fail; 1 is the next one.
            every: 0, only that one; n, every n-th from it on.
            times: stop after so many failures; -1, never.

        Raises:
            ValueError: no such kind, or a number that no call has.
            TypeError: a number that is none, or *where* is neither text nor a function.
        """
        if kind not in KINDS:
            raise ValueError(f"no calls of kind {kind!r} fail; known: {', '.join(KINDS)}")
        if not isinstance(where, str) and not callable(where):
            raise TypeError(f"where must be text or a function of the name, not {type(where).__name__}")
        nth, every, times = _number("nth", nth, 1), _number("every", every, 0), _number("times", times, -1)
        rule = FaultRule(self, kind, where, nth, every, times)
        self._rules.append(rule)
        self.active = True
        return rule

    def remove(self, rule: FaultRule) -> None:
        """Forget *rule*; a rule that is not there is no error."""
        self._rules = [r for r in self._rules if r is not rule]
        self.active = bool(self._rules)

    def clear(self) -> None:
        """Forget all rules."""
        self._rules = []
        self.active = False

    def should_fail(self, kind: str, where: str) -> bool:
        """Whether this call fails; every rule of its kind counts it. C: ``bool should_fail(attr, size)``."""
        if not self.active:
            return False
        failed = [rule.should_fail(where) for rule in self._rules if rule.kind == kind]
        return any(failed)

    def alloc(self, where: str) -> None:
        """Stand for kmalloc() at *where*. Raises ENOMEM when it shall fail."""
        if self.active and self.should_fail("alloc", where):
            raise err(ENOMEM, f"injected at {where}")

    def copy(self, where: str) -> None:
        """Stand for a copy from or to user space at *where*. Raises EFAULT when it shall fail."""
        if self.active and self.should_fail("copy", where):
            raise err(EFAULT, f"injected at {where}")
