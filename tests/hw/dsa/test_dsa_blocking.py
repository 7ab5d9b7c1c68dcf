"""Block on fault: work that waits for a page is set aside; the engine goes on with other work, drains wait for it."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pykernel.hw.dsa.bench import REPORT, DsaBench, descriptor
from pykernel.hw.dsa.commands import Command as C

NOOP, BATCH, DRAIN, MOVE, FILL, COMPARE, COMPVAL = range(7)
BOF, FENCE = 2, 1
CR = 0x1000
PAGE = 4096


def bench(engines: int = 1, **wq: Any) -> DsaBench:
    b = DsaBench()
    b.enable_pasid()
    b.up([0], engines=range(engines), **{"bof": True, "pasid": 7, **wq})
    b.hold = b.grant = True
    return b


def blocked(b: DsaBench, page: int = 0x20, completion: int = CR) -> None:
    """One descriptor that waits for *page*."""
    b.absent.add(page)
    b.do(descriptor(FILL, flags=REPORT | BOF, completion=completion, src=0xAB, dst=page * PAGE, size=8))
    assert (len(b.held), b.memory[completion]) == (1, 0)


def test_engine_goes_on_with_what_came_later() -> None:
    b = bench()
    blocked(b)
    b.do(descriptor(NOOP, completion=CR + 32))
    assert (b.memory[CR], b.memory[CR + 32]) == (0, 1)
    b.answer()
    b.run()
    assert (b.memory[CR], b.memory[0x20 * PAGE]) == (1, 0xAB)


def test_a_hundred_descriptors_wait_at_once() -> None:
    b = bench(size=128)
    for n in range(100):
        b.absent.add(0x40 + n)
        b.post(descriptor(FILL, flags=REPORT | BOF, completion=CR + 32 * n, src=1, dst=(0x40 + n) * PAGE, size=8))
    b.run()
    assert len(b.held) == 100
    random.Random(1).shuffle(b.held)
    while b.held:
        b.answer()
    b.run()
    assert [b.memory[CR + 32 * n] for n in range(100)] == [1] * 100


def test_refused_page_is_status_4_with_its_address_and_what_was_done() -> None:
    b = bench()
    b.grant = False
    b.absent.add(0x21)
    b.do(descriptor(FILL, flags=REPORT | BOF, completion=CR, src=1, dst=0x20000, size=2 * PAGE))
    b.answer()
    b.run()
    assert b.record(CR) == (0x84, 0, PAGE, 0x21000)
    assert (len(b.requests), len(b.held)) == (1, 0)


def test_one_answer_for_each_page_in_order() -> None:
    b = bench()
    b.absent.update({0x20, 0x22, 0x31, 0x33})
    b.do(descriptor(MOVE, flags=REPORT | BOF, completion=CR, src=0x20000, dst=0x30000, size=4 * PAGE))
    while b.held:
        b.answer()
        b.run()
    assert b.memory[CR] == 1
    assert sorted(b.requests) == [(0x20000, False, 7), (0x22000, False, 7), (0x31000, True, 7), (0x33000, True, 7)]


def test_page_that_never_comes_is_asked_for_three_times() -> None:
    b = bench()
    b.absent.add(0x20)
    b.page_request = lambda addr, write, pasid: b.requests.append((addr, write, pasid)) or True  # type: ignore[method-assign, func-returns-value]
    b.do(descriptor(FILL, flags=REPORT | BOF, completion=CR, dst=0x20000, size=8))
    while b.held:
        b.answer()
        b.run()
    assert (b.record(CR), len(b.requests)) == ((0x84, 0, 0, 0x20000), 3)


def test_record_whose_page_is_absent_is_waited_for() -> None:
    b = bench()
    b.absent.add(CR >> 12)
    b.do(descriptor(FILL, flags=REPORT | BOF, completion=CR, src=0xAB, dst=0x20000, size=8))
    assert b.memory[0x20000] == 0xAB
    b.answer()
    b.run()
    assert b.record(CR) == (1, 0, 0, 0)


def test_record_whose_page_is_refused_is_a_software_error() -> None:
    b = bench()
    b.grant = False
    b.absent.add(CR >> 12)
    b.do(descriptor(FILL, flags=REPORT | BOF, completion=CR, dst=0x20000, size=8))
    b.answer()
    b.run()
    assert (b.rd(0xC0) >> 8 & 0xFF, b.rd(0xD0, 8)) == (0x1A, CR)


def test_without_bof_the_descriptor_ends_at_the_fault() -> None:
    b = bench()
    b.absent.add(0x22)
    b.do(descriptor(MOVE, completion=CR, src=0x20000, dst=0x30000, size=4 * PAGE))
    assert (b.record(CR), b.held) == ((0x03, 0, 2 * PAGE, 0x22000), type(b.held)())


# ---- the same result, whatever is absent and whenever it comes


@settings(max_examples=60, deadline=None)
@given(
    opcode=st.sampled_from([MOVE, FILL, COMPARE, COMPVAL]),
    src=st.integers(0x40000, 0x48000),
    delta=st.sampled_from([-0x3000, -0x1001, -8, 0, 8, 0x1001, 0x3000, 0x40000]),
    size=st.integers(1, 0x14000),
    absent=st.sets(st.integers(0x3C, 0x5F), max_size=10),
    seed=st.integers(0, 99),
)
def test_result_is_that_of_memory_which_was_there(
    opcode: int, src: int, delta: int, size: int, absent: set[int], seed: int
) -> None:
    """Naive model: the same descriptor on a bench where every page is present."""
    results = []
    for missing in (set(), absent):
        b = bench()
        b.memory[0x3C000:0xA0000] = random.Random(seed).randbytes(0xA0000 - 0x3C000)
        b.absent |= missing
        b.do(descriptor(opcode, flags=REPORT | BOF, completion=CR, src=src, dst=src + delta, size=size))
        while b.held:
            b.answer()
            b.run()
        results.append((b.record(CR), bytes(b.memory[0x3C000:0xA0000])))
    assert results[0] == results[1]


# ---- batches


def test_batch_waits_with_its_member_and_goes_on_where_it_was() -> None:
    b = bench(batch_shift=5)
    at = 0x4000
    b.absent.add(0x20)
    members = [
        descriptor(FILL, completion=0x2000 + 32 * n, flags=REPORT | BOF | (FENCE if n else 0), src=n + 1,
                   dst=0x20000 if n == 1 else 0x30000 + 16 * n, size=8)
        for n in range(4)
    ]  # fmt: skip
    b.memory[at : at + 256] = b"".join(members)
    b.do(descriptor(BATCH, completion=CR, src=at, size=4))
    assert [b.memory[0x2000 + 32 * n] for n in range(4)] == [1, 0, 0, 0]
    b.answer()
    b.run()
    assert ([b.memory[0x2000 + 32 * n] for n in range(4)], b.record(CR)) == ([1] * 4, (1, 0, 4, 0))
    writes = [addr for kind, addr, *_ in b.accesses if kind == "write" and addr >= 0x20000]
    assert writes == [0x30000, 0x20000, 0x30020, 0x30030]


def test_aborted_batch_leaves_no_record_of_the_rest() -> None:
    b = bench(batch_shift=5)
    b.absent.add(0x20)
    b.memory[0x4000:0x4080] = b"".join(
        descriptor(FILL, completion=0x2000 + 32 * n, flags=REPORT | BOF, dst=0x20000, size=8) for n in range(2)
    )
    b.do(descriptor(BATCH, completion=CR, src=0x4000, size=2))
    assert b.command(C.ABORT_WQ, 1) == 0
    b.answer()
    b.run()
    assert (b.memory[CR], b.memory[0x2000], b.memory[0x2020]) == (0, 0, 0)


# ---- drains and aborts

DRAINS = [(C.DRAIN_WQ, 1), (C.DRAIN_ALL, 0), (C.DRAIN_PASID, 7), (C.DISABLE_WQ, 1), (C.DISABLE_DEV, 0)]


@pytest.mark.parametrize(("command", "operand"), DRAINS)
def test_drain_is_active_until_the_page_response_came(command: int, operand: int) -> None:
    b = bench()
    blocked(b)
    assert b.command(command, operand) == 1 << 31
    b.run()
    assert b.rd(0xA8) == 1 << 31
    b.answer()
    b.run()
    assert (b.rd(0xA8), b.memory[CR]) == (0, 1)


def test_drain_of_another_pasid_does_not_wait() -> None:
    b = bench()
    blocked(b)
    assert b.command(C.DRAIN_PASID, 8) == 0


def test_drain_descriptor_waits_for_the_one_that_is_set_aside() -> None:
    b = bench()
    blocked(b)
    b.do(descriptor(DRAIN, completion=CR + 32))
    assert b.memory[CR + 32] == 0
    b.answer()
    b.run()
    assert (b.memory[CR], b.memory[CR + 32]) == (1, 1)


@pytest.mark.parametrize("drains", [2, 100])
def test_many_drain_descriptors_wait_for_the_one_that_is_set_aside(drains: int) -> None:
    """None is taken for another, and one ends after the other when the page is there: not one within the other."""
    b = bench(size=128)
    blocked(b)
    for n in range(drains):
        b.post(descriptor(DRAIN, completion=CR + 32 * (n + 1)))
    b.run()
    assert [b.memory[CR + 32 * n] for n in range(drains + 1)] == [0] * (drains + 1)
    b.answer()
    b.run()
    assert [b.memory[CR + 32 * n] for n in range(drains + 1)] == [1] * (drains + 1)
    assert b.command(C.DRAIN_ALL, 0) == 0


@pytest.mark.parametrize(("command", "operand"), [(C.ABORT_WQ, 1), (C.ABORT_ALL, 0), (C.ABORT_PASID, 7)])
def test_abort_is_done_at_once_and_the_late_answer_is_nobodys(command: int, operand: int) -> None:
    b = bench()
    blocked(b)
    assert b.command(command, operand) == 0
    assert b.function.wqs[0].idle
    assert b.command(C.DRAIN_WQ, 1) == 0
    b.answer()
    b.run()
    assert (b.memory[CR], b.memory[0x20000]) == (0, 0)


def test_abort_of_another_pasid_leaves_it_waiting() -> None:
    b = bench()
    blocked(b)
    b.command(C.ABORT_PASID, 8)
    b.answer()
    b.run()
    assert b.memory[CR] == 1


@pytest.mark.parametrize("reset", [lambda b: b.command(C.RESET_DEV), lambda b: b.function.flr()])
def test_answer_after_a_reset_is_nobodys(reset: Any) -> None:
    b = bench()
    blocked(b)
    reset(b)
    b.answer()
    b.run()
    assert (b.memory[CR], b.memory[0x20000], b.function.pages.outstanding) == (0, 0, 0)


def test_allotted_requests_are_not_exceeded() -> None:
    """Outstanding Page Request Allocation of the PRI capability: the others wait for an answer."""
    b = bench(size=16)
    b.function.config_write(0x11C, 4, 2)
    b.function.config_write(0x114, 2, 1)
    for n in range(5):
        b.absent.add(0x40 + n)
        b.post(descriptor(FILL, flags=REPORT | BOF, completion=CR + 32 * n, dst=(0x40 + n) * PAGE, size=8))
    b.run()
    seen = []
    while b.held:
        seen.append(len(b.held))
        b.answer()
        b.run()
    assert (seen, [b.memory[CR + 32 * n] for n in range(5)]) == ([2, 2, 2, 2, 1], [1] * 5)


@pytest.mark.parametrize(
    ("command", "operand"), [(C.ABORT_PASID, 7), (C.ABORT_WQ, 1), (C.ABORT_ALL, 0), (C.RESET_WQ, 1)]
)
@pytest.mark.parametrize("batch", [False, True])
def test_no_page_is_asked_for_after_an_abort(command: int, operand: int, batch: bool) -> None:
    """What waits its turn is forgotten as well: its PASID may be another's by then."""
    b = bench(size=16, batch_shift=5)
    b.function.config_write(0x11C, 4, 1)
    b.function.config_write(0x114, 2, 1)
    for n in range(4):
        b.absent.add(0x40 + n)
        raw = descriptor(FILL, flags=REPORT | BOF, completion=CR + 32 * n, dst=(0x40 + n) * PAGE, size=8)
        if batch:
            b.memory[0x4000 + 128 * n : 0x4000 + 128 * n + 128] = raw + descriptor(NOOP, completion=0x3000 + 32 * n)
            raw = descriptor(BATCH, completion=0x2000 + 32 * n, src=0x4000 + 128 * n, size=2)
        b.post(raw)
    b.run()
    assert len(b.held) == 1
    assert b.command(command, operand) == 0
    if command != C.RESET_WQ:
        assert b.command(C.DRAIN_PASID, 7) == 0
    while b.held:
        b.answer()
        b.run()
    assert len(b.requests) == 1
    assert b.function.pages.outstanding == 0


def test_others_keep_their_turn_after_an_abort() -> None:
    """The aborted ones were before them in the line."""
    b = DsaBench()
    b.enable_pasid()
    b.up([0, 1], engines=[0], bof=True, pasid=7)
    b.function.config_write(0x11C, 4, 1)
    b.function.config_write(0x114, 2, 1)
    b.hold = b.grant = True
    for n in range(4):
        b.absent.add(0x40 + n)
        raw = descriptor(FILL, flags=REPORT | BOF, completion=CR + 32 * n, dst=(0x40 + n) * PAGE, size=8)
        b.post(raw, wq=n % 2)
    b.run()
    assert b.command(C.ABORT_WQ, 1) == 0
    while b.held:
        b.answer()
        b.run()
    assert [b.memory[CR + 32 * n] for n in range(4)] == [0, 1, 0, 1]
    assert [addr for addr, _, _ in b.requests] == [0x40000, 0x41000, 0x43000]
