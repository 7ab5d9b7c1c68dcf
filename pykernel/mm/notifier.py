"""
Who caches translations of an address space hears when they change, and when it goes (mm/mmu_notifier.c).

``invalidate_range()`` comes before the pages of a range go, are copied, or lose rights, while the old ones are still
there: nothing runs between it and the change. ``release()`` comes once, before the areas of an exiting process go; no
invalidation follows. The memory of a real process tells nothing but its end.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from pykernel.errors import Oops

if TYPE_CHECKING:
    from pykernel.mm.uaccess import UserMemory

__all__ = ["MmuNotifierOps", "MmuNotifiers", "mmu_notifier_register", "mmu_notifier_unregister"]


class MmuNotifierOps(Protocol):
    """C: ``struct mmu_notifier_ops``."""

    def invalidate_range(self, start: int, end: int) -> None:
        """Forget what is known of the addresses *start* to *end*. C: ``arch_invalidate_secondary_tlbs()``."""

    def release(self) -> None:
        """The address space is about to go: use it no more. C: ``release()``."""


class MmuNotifiers:
    """
    The subscribers of one address space. C: ``struct mmu_notifier_subscriptions``.

    Attributes:
        held: how many are registered, released ones among them: each keeps the page tables. C: ``mm->mm_count``.
    """

    def __init__(self, subscribe: Callable[[Callable[[int, int], None]], Callable[[], None]]) -> None:
        self._subscribe = subscribe
        self._live: list[tuple[MmuNotifierOps, Callable[[], None]]] = []
        self._released: list[MmuNotifierOps] = []

    @property
    def held(self) -> int:
        """How many are registered."""
        return len(self._live) + len(self._released)

    def add(self, ops: MmuNotifierOps) -> None:
        """From now on *ops* hears."""
        self._live.append((ops, self._subscribe(ops.invalidate_range)))

    def remove(self, ops: MmuNotifierOps) -> None:
        """No more; whom no release() told hears it now. Raises Oops: it is not registered."""
        for at, (known, stop) in enumerate(self._live):
            if known is ops:
                del self._live[at]
                stop()
                ops.release()
                return
        for at, known in enumerate(self._released):
            if known is ops:
                del self._released[at]
                return
        raise Oops("mmu_notifier_unregister: not registered")

    def release(self) -> None:
        """Tell all of the end. C: ``void mmu_notifier_release(struct mm_struct *)``."""
        live, self._live = self._live, []
        self._released += [ops for ops, _ in live]
        for ops, stop in live:
            stop()
            ops.release()


def mmu_notifier_register(mem: UserMemory, ops: MmuNotifierOps) -> None:
    """
    Tell *ops* of changes of *mem*; the page tables stay until it is unregistered.

    C: ``int mmu_notifier_register(struct mmu_notifier *, struct mm_struct *)``
    """
    mem.notifiers.add(ops)


def mmu_notifier_unregister(mem: UserMemory, ops: MmuNotifierOps) -> None:
    """
    No more; ``ops.release()`` is called unless it was.

    C: ``void mmu_notifier_unregister(struct mmu_notifier *, struct mm_struct *)``

    Raises:
        Oops: it is not registered.
    """
    mem.notifiers.remove(ops)
    mem.mmdrop()
