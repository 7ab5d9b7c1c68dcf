"""Portals, thresholds, occupancy, arbitration between the WQs of a group, batches and fences."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from pykernel.hw.dsa.bench import REPORT, DsaBench, descriptor
from pykernel.hw.dsa.commands import Command as C

CR = 0x1000
NOOP, BATCH, DRAIN, MOVE, FILL, COMPARE, COMPVAL = range(7)
FENCE = 1


def occupancy(b: DsaBench, wq: int = 0) -> int:
    return b.rd(b.wqcfg(wq, 6)) & 0xFFFF


def shared(size: int = 8, threshold: int = 4) -> DsaBench:
    b = DsaBench()
    b.enable_pasid()
    b.up([0], dedicated=False, pasid=1, size=size, threshold=threshold)
    return b


# ---------------------------------------------------------------------- portals
def test_limited_portal_fills_to_the_threshold_and_unlimited_to_the_size() -> None:
    b = shared(size=8, threshold=4)
    assert [b.enqcmd(descriptor(NOOP)) for _ in range(6)] == [True] * 4 + [False] * 2
    assert [b.enqcmd(descriptor(NOOP), limited=False) for _ in range(6)] == [True] * 4 + [False] * 2
    assert occupancy(b) == 8
    b.run()
    assert (occupancy(b), b.enqcmd(descriptor(NOOP))) == (0, True)


@pytest.mark.parametrize("page", range(4))
@pytest.mark.parametrize("slot", [0, 64, 4032])
def test_every_portal_page_and_every_slot_in_it_leads_to_the_wq(page: int, slot: int) -> None:
    b = DsaBench()
    b.up([0, 3])
    b.function.posted_write(2, 3 * 0x4000 + page * 0x1000 + slot, descriptor(NOOP))
    assert (occupancy(b, 0), occupancy(b, 3)) == (0, 1)


def dedicated_full(b: DsaBench) -> None:
    b.up([0], size=2)
    for _ in range(2):
        b.post(descriptor(NOOP))


def test_uncertain_posted_write_to_a_full_wq_is_dropped_and_reported() -> None:
    b = DsaBench()
    dedicated_full(b)
    b.post(descriptor(NOOP, completion=CR))
    assert (occupancy(b), b.rd(0xC0) & 0xFF0F) == (2, 0x5409)
    b.run()
    assert b.memory[CR] == 0


def device_off(b: DsaBench) -> None:
    pass


def wq_off(b: DsaBench) -> None:
    b.up([0])
    b.command(C.DISABLE_WQ, 1)


def halted(b: DsaBench) -> None:
    b.up([0])
    b.function.halt(0)


@pytest.mark.parametrize("setup", [device_off, wq_off, halted])
def test_portal_of_a_wq_that_is_off_takes_nothing(setup: Callable[[DsaBench], None]) -> None:
    b = DsaBench()
    setup(b)
    b.post(descriptor(NOOP))
    assert (occupancy(b), b.enqcmd(descriptor(NOOP))) == (0, False)


def test_uncertain_wrong_kind_of_write_for_the_mode() -> None:
    b = shared()
    b.post(descriptor(NOOP))
    assert (occupancy(b), b.rd(0xC0) >> 8 & 0xFF) == (0, 0x53)
    d = DsaBench()
    d.up([0])
    assert d.enqcmd(descriptor(NOOP)) is False


@pytest.mark.parametrize(("off", "size"), [(0, 8), (8, 64), (0, 32)])
def test_uncertain_portal_write_that_is_not_64_aligned_bytes(off: int, size: int) -> None:
    b = DsaBench()
    b.up([0])
    b.function.posted_write(2, off, bytes(size))
    b.function.mmio_write(2, 0, 8, 0)
    assert (occupancy(b), b.rd(0xC0) >> 8 & 0xFF) == (0, 0x52)


def test_memory_decoding_off_hides_portals() -> None:
    b = shared()
    b.function.config_write(4, 2, 4)
    assert b.enqcmd(descriptor(NOOP)) is False
    b.post(descriptor(NOOP))
    b.function.config_write(4, 2, 6)
    assert (occupancy(b), b.rd(0xC0)) == (0, 0)


def test_occupancy_interrupt_comes_when_the_limit_is_reached_from_above() -> None:
    b = DsaBench()
    b.enable_msix()
    b.up([0])
    b.wr(b.wqcfg(0, 4), 3)
    b.wr(b.wqcfg(0, 5), 1 << 16 | 1)
    for _ in range(3):
        b.post(descriptor(NOOP))
    b.run()
    assert (b.messages, b.rd(b.wqcfg(0, 6))) == ([(0xFEE00000, 3)], 1 << 30 | 1 << 16)
    b.wr(b.wqcfg(0, 6), 1 << 16)
    assert b.rd(b.wqcfg(0, 6)) == 1 << 30


def test_occupancy_interrupt_by_handle_0_has_a_cause() -> None:
    b = DsaBench()
    b.up([0])
    b.wr(b.wqcfg(0, 5), 1 << 16)
    b.post(descriptor(NOOP))
    b.run()
    assert b.rd(0x98) == 4


# ---------------------------------------------------------------------- arbitration
def served(priorities: dict[int, int], each: int, engines: int = 1) -> list[int]:
    """WQ numbers in the order of service; fill patterns tell who was there."""
    b = DsaBench()
    for wq, priority in priorities.items():
        b.set_wq(wq, priority=priority, size=each)
    b.set_group(0, wqs=priorities, engines=range(engines))
    b.command(C.ENABLE_DEV)
    for wq in priorities:
        assert b.command(C.ENABLE_WQ, wq) == 0
        for i in range(each):
            b.post(descriptor(FILL, flags=0, src=wq, dst=0x10000 + 0x1000 * wq + 8 * i, size=8), wq)
    b.run()
    return [(addr - 0x10000) >> 12 for kind, addr, *_ in b.accesses if kind == "write"]


def test_service_is_in_proportion_to_priority_while_all_have_work() -> None:
    order = served({0: 1, 1: 3, 2: 4}, each=40)
    assert Counter(order[:80]) == {0: 10, 1: 30, 2: 40}
    assert Counter(order) == {0: 40, 1: 40, 2: 40}


def test_equal_priorities_take_turns() -> None:
    assert served({0: 5, 1: 5, 3: 5}, each=3) == [0, 1, 3] * 3


def test_no_wq_starves() -> None:
    assert served({0: 15, 1: 1}, each=40)[:16].count(1) == 1


def test_the_same_load_is_always_served_in_the_same_order() -> None:
    assert served({0: 2, 1: 7}, each=30, engines=3) == served({0: 2, 1: 7}, each=30, engines=3)


def test_groups_do_not_share_engines() -> None:
    """A WQ of another group goes on although the first group's engine has its hands full."""
    b = DsaBench()
    for n in (0, 1):
        b.set_wq(n)
        b.set_group(n, wqs=[n], engines=[n])
    assert [b.command(C.ENABLE_DEV), b.command(C.ENABLE_WQ, 0), b.command(C.ENABLE_WQ, 1)] == [0, 0, 0]
    for _ in range(3):
        b.post(descriptor(NOOP), 0)
    b.post(descriptor(NOOP, completion=CR), 1)
    for _ in range(2):
        b.soon.popleft()()
    assert (occupancy(b, 0), b.memory[CR]) == (2, 1)


def test_drain_waits_for_a_descriptor_that_blocks_on_a_fault() -> None:
    """Two engines: one waits for a page while the other is at the Drain that follows."""
    b = DsaBench()
    b.up([0], engines=[0, 1], bof=True)
    b.absent.add(0x20)
    b.post(descriptor(FILL, flags=REPORT | 2, completion=CR, dst=0x20000, size=8))
    b.post(descriptor(DRAIN, completion=CR + 32))
    seen = []

    def slow_page(addr: int, write: bool, pasid: int | None) -> bool:
        b.run()
        seen.append(b.memory[CR + 32])
        b.absent.clear()
        return True

    b.page_request = slow_page  # type: ignore[method-assign]
    b.run()
    assert (seen, b.memory[CR], b.memory[CR + 32]) == ([0], 1, 1)


def test_work_aborted_while_it_waits_for_a_page_leaves_no_record() -> None:
    b = DsaBench()
    b.up([0], bof=True)
    b.absent.add(0x20)
    b.post(descriptor(FILL, flags=REPORT | 2, completion=CR, dst=0x20000, size=8))

    def abort(addr: int, write: bool, pasid: int | None) -> bool:
        b.command(C.ABORT_WQ, 1)
        return False

    b.page_request = abort  # type: ignore[method-assign]
    b.run()
    assert b.memory[CR] == 0


# ---------------------------------------------------------------------- batches
LIST = 0x4000


def batch(b: DsaBench, members: list[bytes], *, count: int | None = None, at: int = LIST) -> None:
    b.memory[LIST : LIST + 64 * len(members)] = b"".join(members)
    count = len(members) if count is None else count
    b.do(descriptor(BATCH, completion=CR, src=at, size=count))


def fill(i: int, *, flags: int = REPORT, size: int = 8) -> bytes:
    return descriptor(FILL, flags=flags, completion=0x2000 + 32 * i, src=0xAB, dst=0x8000 + 16 * i, size=size)


def up(**wq: Any) -> DsaBench:
    b = DsaBench()
    b.enable_pasid()
    b.up([0], **wq)
    return b


def statuses(b: DsaBench, n: int) -> list[int]:
    return [b.memory[0x2000 + 32 * i] for i in range(n)]


def test_batch_of_successes() -> None:
    b = up()
    batch(b, [fill(i) for i in range(5)])
    assert (b.record(CR), statuses(b, 5)) == ((1, 0, 5, 0), [1] * 5)
    assert [b.memory[0x8000 + 16 * i] for i in range(5)] == [0xAB] * 5


def test_failed_member_fails_the_batch_but_not_the_others() -> None:
    b = up()
    batch(b, [fill(0), fill(1, size=0), fill(2)])
    assert (b.record(CR), statuses(b, 3)) == ((5, 1, 3, 0), [1, 0x13, 1])


def test_fence_after_a_failure_ends_the_batch() -> None:
    b = up()
    batch(b, [fill(0), fill(1, size=0), fill(2), fill(3, flags=REPORT | FENCE), fill(4)])
    assert (b.record(CR), statuses(b, 5)) == ((5, 1, 3, 0), [1, 0x13, 1, 0, 0])


def test_fence_after_success_changes_nothing() -> None:
    b = up()
    batch(b, [fill(0), fill(1, flags=REPORT | FENCE)])
    assert b.record(CR) == (1, 0, 2, 0)


def test_uncertain_false_predicate_counts_as_failure() -> None:
    b = up()
    compare = descriptor(COMPARE, flags=REPORT | 0x80, completion=0x2000, src=0x8000, dst=0x9000, size=8, tail=b"\1")
    batch(b, [compare, fill(1)])
    assert (b.record(CR)[:3], statuses(b, 2)) == ((5, 1, 2), [2, 1])


@pytest.mark.parametrize(("count", "status"), [(0, 0x14), (1, 0x14), (2, 1), (4, 1), (5, 0x14)])
def test_batch_count_is_limited(count: int, status: int) -> None:
    b = up(batch_shift=2)
    batch(b, [fill(i) for i in range(5)], count=count)
    assert b.record(CR)[0] == status


@pytest.mark.parametrize("at", [LIST + 1, LIST + 32])
def test_list_must_be_aligned(at: int) -> None:
    b = up()
    batch(b, [fill(0), fill(1)], at=at)
    assert b.record(CR)[0] == 0x18


def test_uncertain_batch_in_a_batch_is_a_bad_opcode() -> None:
    b = up()
    batch(b, [descriptor(BATCH, completion=0x2000, src=LIST, size=2), fill(1)])
    assert (b.record(CR)[:3], statuses(b, 2)) == ((5, 1, 2), [0x10, 1])


def test_fault_on_the_list_tells_how_far_it_came() -> None:
    """The client touches the page and resubmits the rest of the list."""
    b = up()
    start = 0x5000 - 64 * 3
    b.memory[start : start + 64 * 5] = b"".join(fill(i) for i in range(5))
    b.absent.add(5)
    b.do(descriptor(BATCH, completion=CR, src=start, size=5))
    assert (b.record(CR), statuses(b, 5)) == ((6, 0, 3, 0x5000), [1, 1, 1, 0, 0])
    b.absent.clear()
    b.do(descriptor(BATCH, completion=CR, src=start + 64 * 3, size=2))
    assert (b.record(CR), statuses(b, 5)) == ((1, 0, 2, 0), [1] * 5)


def test_members_work_in_the_pasid_of_the_batch() -> None:
    b = up(pasid=0x33)
    batch(b, [fill(0), fill(1)])
    assert {access[3] for access in b.accesses} == {0x33}


def test_member_that_cannot_report_is_a_software_error_with_its_index() -> None:
    b = up()
    batch(b, [fill(0), fill(1, flags=0, size=0)])
    assert (b.rd(0xC0) & 0xFF1F, b.rd(0xC8) & 0xFFFF) == (0x131D, 1)
