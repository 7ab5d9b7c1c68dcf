"""Notifier chains, by kernel/notifier.c and include/linux/notifier.h."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from errno import EBUSY, EEXIST, ENOENT, EPERM
from typing import Any

import pytest

from pykernel.errors import Oops
from pykernel.lib.notifier import (
    NOTIFY_BAD,
    NOTIFY_DONE,
    NOTIFY_OK,
    NOTIFY_STOP,
    NOTIFY_STOP_MASK,
    Notifier,
    NotifierBlock,
    NotifierFlavour,
    notifier_from_errno,
    notifier_to_errno,
)

FLAVOURS = list(NotifierFlavour)


def errno(code: int) -> str:
    return rf"\[Errno {code}\]"


class Record(list[tuple[str, int]]):
    """What was called, in order."""

    def block(self, name: str, ret: int = NOTIFY_OK, priority: int = 0) -> NotifierBlock:
        def call(nb: NotifierBlock, val: int, v: Any) -> int:
            self.append((name, val))
            return ret

        return NotifierBlock(call, priority)

    def names(self) -> str:
        return "".join(name for name, _ in self)


def test_values() -> None:
    """include/linux/notifier.h"""
    assert (NOTIFY_DONE, NOTIFY_OK, NOTIFY_BAD, NOTIFY_STOP, NOTIFY_STOP_MASK) == (0, 1, 0x8002, 0x8001, 0x8000)


def test_errno_in_a_return_value() -> None:
    """NOTIFY_BAD is EPERM; 0 is NOTIFY_OK; values without an error give 0."""
    assert notifier_from_errno(0) == NOTIFY_OK
    assert notifier_from_errno(EPERM) == NOTIFY_BAD
    assert [notifier_to_errno(notifier_from_errno(code)) for code in (0, 1, 16, 133)] == [0, 1, 16, 133]
    assert [notifier_to_errno(ret) for ret in (NOTIFY_DONE, NOTIFY_OK, NOTIFY_STOP, NOTIFY_BAD)] == [0, 0, 0, EPERM]


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_order(flavour: NotifierFlavour) -> None:
    """Higher priority first; the order of registration among equals."""
    record, chain = Record(), Notifier(flavour)
    assert chain.is_empty()
    assert chain.call_chain(1) == NOTIFY_DONE
    for name, priority in [("c", 0), ("a", 10), ("d", 0), ("e", -5), ("b", 10)]:
        chain.register(record.block(name, priority=priority))
    assert chain.call_chain(7) == NOTIFY_OK
    assert record == [("a", 7), ("b", 7), ("c", 7), ("d", 7), ("e", 7)]


@pytest.mark.parametrize("ret", [NOTIFY_STOP, NOTIFY_BAD, notifier_from_errno(16)])
def test_stop(ret: int) -> None:
    """A value with NOTIFY_STOP_MASK ends the chain and is its value."""
    record, chain = Record(), Notifier(NotifierFlavour.RAW)
    for block in (record.block("a"), record.block("b", ret), record.block("c")):
        chain.register(block)
    assert chain.call_chain(1) == ret
    assert record.names() == "ab"


def test_value_of_the_last_called() -> None:
    record, chain = Record(), Notifier(NotifierFlavour.SRCU)
    chain.register(record.block("a", NOTIFY_OK))
    chain.register(record.block("b", NOTIFY_DONE))
    assert chain.call_chain(1) == NOTIFY_DONE


def test_data_and_block_reach_the_callback() -> None:
    seen: list[Any] = []

    def call(nb: NotifierBlock, val: int, v: Any) -> int:
        seen.extend((nb, val, v))
        return NOTIFY_OK

    block, chain = NotifierBlock(call), Notifier(NotifierFlavour.BLOCKING)
    chain.register(block)
    chain.call_chain(3, "data")
    assert seen == [block, 3, "data"]


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_register_twice_and_unregister_twice(flavour: NotifierFlavour) -> None:
    """EEXIST and ENOENT; the chain stays as it was."""
    record, chain = Record(), Notifier(flavour)
    first, second = record.block("a"), record.block("b")
    chain.register(first)
    chain.register(second)
    for block in (first, second):
        with pytest.raises(OSError, match=errno(EEXIST)):
            chain.register(block)
    chain.call_chain(1)
    assert record.names() == "ab"
    chain.unregister(first)
    with pytest.raises(OSError, match=errno(ENOENT)):
        chain.unregister(first)
    chain.unregister(second)
    assert chain.is_empty()


def test_unique_priority() -> None:
    """EBUSY for another block of the priority, EEXIST for the block itself; atomic and blocking chains only."""
    record, chain = Record(), Notifier(NotifierFlavour.BLOCKING)
    block = record.block("a", priority=5)
    chain.register_unique_prio(block)
    chain.register_unique_prio(record.block("b", priority=6))
    with pytest.raises(OSError, match=errno(EBUSY)):
        chain.register_unique_prio(record.block("c", priority=5))
    with pytest.raises(OSError, match=errno(EEXIST)):
        chain.register_unique_prio(block)
    with pytest.raises(Oops, match="no such call"):
        Notifier(NotifierFlavour.RAW).register_unique_prio(block)


@pytest.mark.parametrize(
    ("bad", "expected"),
    [
        (0, [("a", 1)]),
        (1, [("a", 1), ("b", 1), ("a", 2)]),
        (2, [("a", 1), ("b", 1), ("c", 1), ("a", 2), ("b", 2)]),
        (None, [("a", 1), ("b", 1), ("c", 1)]),
    ],
)
def test_robust_rolls_back_those_before(bad: int | None, expected: list[tuple[str, int]]) -> None:
    """Who refused is not told to go down, nor who was not reached; the value is that of the way up."""
    record, chain = Record(), Notifier(NotifierFlavour.BLOCKING)
    for at, name in enumerate("abc"):
        chain.register(record.block(name, NOTIFY_BAD if at == bad else NOTIFY_OK))
    assert chain.call_chain_robust(1, 2) == (NOTIFY_OK if bad is None else NOTIFY_BAD)
    assert record == expected


def test_robust_is_for_blocking_and_raw() -> None:
    for flavour in (NotifierFlavour.ATOMIC, NotifierFlavour.SRCU):
        with pytest.raises(Oops, match="no such call"):
            Notifier(flavour).call_chain_robust(1, 2)
    assert Notifier(NotifierFlavour.RAW).call_chain_robust(1, 2) == NOTIFY_DONE


def test_a_callback_may_change_the_chain() -> None:
    """The next block is known before a callback runs: it may unregister itself; what it adds further on is called."""
    record, chain = Record(), Notifier(NotifierFlavour.RAW)
    late, last = record.block("late", priority=-9), record.block("last", priority=-1)

    def call(nb: NotifierBlock, val: int, v: Any) -> int:
        record.append(("once", val))
        chain.unregister(nb)
        chain.register(late)
        return NOTIFY_OK

    chain.register(NotifierBlock(call))
    chain.register(last)
    chain.call_chain(1)
    chain.call_chain(2)
    assert record == [("once", 1), ("last", 1), ("late", 1), ("last", 2), ("late", 2)]


class Atomic:
    """A scheduler's might_sleep() check."""

    def __init__(self) -> None:
        self.depth = 0
        self.asked = 0

    def might_sleep(self) -> None:
        self.asked += 1
        if self.depth:
            raise Oops("sleeping function called from invalid context")

    @contextmanager
    def section(self) -> Iterator[None]:
        self.depth += 1
        try:
            yield
        finally:
            self.depth -= 1


def test_sleeping_in_an_atomic_chain_is_an_oops() -> None:
    """Its callbacks run in an atomic section, which ends also after the Oops."""
    atomic = Atomic()
    chain = Notifier(NotifierFlavour.ATOMIC, might_sleep=atomic.might_sleep, atomic=atomic.section)
    other = Notifier(NotifierFlavour.BLOCKING, might_sleep=atomic.might_sleep)

    def call(nb: NotifierBlock, val: int, v: Any) -> int:
        other.register(Record().block("x"))
        return NOTIFY_OK

    chain.register(NotifierBlock(call))
    with pytest.raises(Oops, match="sleeping function"):
        chain.call_chain(1)
    assert atomic.depth == 0


# Which calls of which flavour may sleep: rwsem, mutex, synchronize_rcu() or synchronize_srcu() in kernel/notifier.c
SLEEPS = {
    NotifierFlavour.ATOMIC: (0, 0, 1),
    NotifierFlavour.BLOCKING: (1, 1, 1),
    NotifierFlavour.RAW: (0, 0, 0),
    NotifierFlavour.SRCU: (1, 0, 1),
}


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_what_may_sleep(flavour: NotifierFlavour) -> None:
    """register, call_chain, unregister ask might_sleep() where C takes a lock that sleeps, or waits for readers."""
    atomic = Atomic()
    chain, block = Notifier(flavour, might_sleep=atomic.might_sleep), Record().block("a")
    asked = []
    calls: tuple[Callable[[], object], ...] = (
        lambda: chain.register(block),
        lambda: chain.call_chain(1),
        lambda: chain.unregister(block),
    )
    for call in calls:
        atomic.asked = 0
        call()
        asked.append(atomic.asked)
    assert tuple(asked) == SLEEPS[flavour]
