"""
Notifier chains (kernel/notifier.c): who asked to be called when something happens, in order of priority.

One class; the four flavours of C differ in where they may be used, which is checked through two hooks:

========  ===============  ==========  ================  ===========
flavour   call_chain       register    unregister        also has
========  ===============  ==========  ================  ===========
ATOMIC    must not sleep   any time    may sleep         unique_prio
BLOCKING  may sleep        may sleep   may sleep         unique_prio, call_chain_robust
RAW       as the caller    any time    any time          call_chain_robust
SRCU      may sleep        may sleep   may sleep
========  ===============  ==========  ================  ===========
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from enum import Enum
from errno import EBUSY, EEXIST, ENOENT
from typing import Any, Final

from pykernel.errors import Oops, err

__all__ = [
    "NOTIFY_BAD",
    "NOTIFY_DONE",
    "NOTIFY_OK",
    "NOTIFY_STOP",
    "NOTIFY_STOP_MASK",
    "Notifier",
    "NotifierBlock",
    "NotifierFlavour",
    "notifier_from_errno",
    "notifier_to_errno",
]

# include/linux/notifier.h
NOTIFY_DONE: Final = 0x0000
NOTIFY_OK: Final = 0x0001
NOTIFY_STOP_MASK: Final = 0x8000
NOTIFY_BAD: Final = NOTIFY_STOP_MASK | 0x0002
NOTIFY_STOP: Final = NOTIFY_OK | NOTIFY_STOP_MASK


def notifier_from_errno(code: int) -> int:
    """The return value that stops a chain with errno *code* (positive); 0 is NOTIFY_OK. C takes -errno."""
    return NOTIFY_STOP_MASK | NOTIFY_OK + code if code else NOTIFY_OK


def notifier_to_errno(ret: int) -> int:
    """The errno (positive) within a chain's return value, 0 for none; NOTIFY_BAD is EPERM. C gives -errno."""
    return max((ret & ~NOTIFY_STOP_MASK) - NOTIFY_OK, 0)


class NotifierFlavour(Enum):
    """Which ``struct *_notifier_head`` a chain is: its name, and what it can do."""

    ATOMIC = "atomic"
    BLOCKING = "blocking"
    RAW = "raw"
    SRCU = "srcu"

    @property
    def sleeps(self) -> bool:
        """Whether the chain takes locks that sleep."""
        return self in (NotifierFlavour.BLOCKING, NotifierFlavour.SRCU)


class NotifierBlock:
    """
    Somebody who wants to be called. C: ``struct notifier_block``. It is on one chain at a time.

    Args:
        notifier_call: called with this block, the event and its data; returns a NOTIFY_* value.
        priority: higher is called earlier; equal ones in the order of registration.
    """

    __slots__ = ("next", "notifier_call", "priority")

    def __init__(self, notifier_call: Callable[[NotifierBlock, int, Any], int], priority: int = 0) -> None:
        self.notifier_call = notifier_call
        self.priority = priority
        self.next: NotifierBlock | None = None


class Notifier:
    """
    C: ``struct atomic_notifier_head``, ``blocking_notifier_head``, ``raw_notifier_head``, ``srcu_notifier_head``.

    ``joined`` is told of each block that is put on the chain, ``left`` of each that is taken off.

    Args:
        flavour: which of them.
        might_sleep: called before anything that may sleep; it raises Oops where that is forbidden.
        atomic: makes the context in which the callbacks of an ATOMIC chain run; it makes *might_sleep* raise.
        point: called before each callback of a chain that may sleep: a switch point.
    """

    def __init__(
        self,
        flavour: NotifierFlavour,
        *,
        might_sleep: Callable[[], None] | None = None,
        atomic: Callable[[], AbstractContextManager[object]] | None = None,
        point: Callable[[], None] | None = None,
    ) -> None:
        self.flavour = flavour
        self.head: NotifierBlock | None = None
        self.joined: Callable[[NotifierBlock], None] = _ignore
        self.left: Callable[[NotifierBlock], None] = _ignore
        self._might_sleep = might_sleep or _nothing
        self._point = point if flavour.sleeps else None
        self._context = atomic if atomic is not None and flavour is NotifierFlavour.ATOMIC else nullcontext

    def register(self, nb: NotifierBlock) -> None:
        """
        Put *nb* behind all blocks of its priority.

        C: ``int blocking_notifier_chain_register(struct blocking_notifier_head *, struct notifier_block *)``

        Raises:
            OSError: EEXIST, it is on the chain.
        """
        self._register(nb, unique=False)

    def register_unique_prio(self, nb: NotifierBlock) -> None:
        """
        As :meth:`register`, if no block has its priority.

        C: ``int blocking_notifier_chain_register_unique_prio(head, nb)``; atomic and blocking only

        Raises:
            OSError: EEXIST, it is on the chain; EBUSY, another one has its priority.
        """
        self._only(NotifierFlavour.ATOMIC, NotifierFlavour.BLOCKING)
        self._register(nb, unique=True)

    def _register(self, nb: NotifierBlock, *, unique: bool) -> None:
        # kernel/notifier.c:notifier_chain_register()
        if self.flavour.sleeps:
            self._might_sleep()
        before, at = None, self.head
        while at is not None and nb.priority <= at.priority:
            if at is nb:
                raise err(EEXIST, "notifier callback already registered")
            if unique and nb.priority == at.priority:
                raise err(EBUSY, f"priority {nb.priority} is taken")
            before, at = at, at.next
        nb.next = at
        self._link(before, nb)
        self.joined(nb)

    def unregister(self, nb: NotifierBlock) -> None:
        """
        Take *nb* off.

        C: ``int blocking_notifier_chain_unregister(struct blocking_notifier_head *, struct notifier_block *)``

        Raises:
            OSError: ENOENT, it is not on the chain.
        """
        # kernel/notifier.c:notifier_chain_unregister(); the atomic flavour ends in synchronize_rcu()
        if self.flavour is not NotifierFlavour.RAW:
            self._might_sleep()
        before, at = None, self.head
        while at is not nb:
            if at is None:
                raise err(ENOENT, "notifier is not on the chain")
            before, at = at, at.next
        self._link(before, nb.next)
        self.left(nb)

    def _link(self, before: NotifierBlock | None, nb: NotifierBlock | None) -> None:
        if before is None:
            self.head = nb
        else:
            before.next = nb

    def call_chain(self, val: int, v: Any = None) -> int:
        """
        Tell everybody of event *val* with data *v*, until one returns a value with NOTIFY_STOP_MASK.

        C: ``int blocking_notifier_call_chain(struct blocking_notifier_head *, unsigned long val, void *v)``

        Returns:
            What the last one called returned; NOTIFY_DONE for an empty chain.
        """
        return self._call(val, v, -1)[0]

    def call_chain_robust(self, val_up: int, val_down: int, v: Any = None) -> int:
        """
        As :meth:`call_chain` with *val_up*; when one stops it, those called before that one get *val_down*.

        C: ``int blocking_notifier_call_chain_robust(head, val_up, val_down, void *v)``; blocking and raw only

        Returns:
            What the last one called with *val_up* returned.
        """
        # kernel/notifier.c:notifier_call_chain_robust()
        self._only(NotifierFlavour.BLOCKING, NotifierFlavour.RAW)
        ret, called = self._call(val_up, v, -1)
        if ret & NOTIFY_STOP_MASK:
            self._call(val_down, v, called - 1)
        return ret

    def _call(self, val: int, v: Any, nr_to_call: int) -> tuple[int, int]:
        # kernel/notifier.c:notifier_call_chain(): the next block is known before a callback can change the chain
        if self.flavour is NotifierFlavour.BLOCKING and self.head is not None:
            self._might_sleep()
        ret, called = NOTIFY_DONE, 0
        nb = self.head
        with self._context():
            while nb is not None and called != nr_to_call:
                if self._point is not None:
                    self._point()
                following = nb.next
                ret = nb.notifier_call(nb, val, v)
                called += 1
                if ret & NOTIFY_STOP_MASK:
                    break
                nb = following
        return ret, called

    def is_empty(self) -> bool:
        """Whether nobody listens. C: ``bool atomic_notifier_call_chain_is_empty(struct atomic_notifier_head *)``."""
        return self.head is None

    def _only(self, *flavours: NotifierFlavour) -> None:
        if self.flavour not in flavours:
            raise Oops(f"a chain of flavour {self.flavour.value} has no such call")


def _nothing() -> None:
    """The might_sleep() of a chain that nobody checks."""


def _ignore(_nb: NotifierBlock) -> None:
    """Nobody is told."""
