"""Shared work queues: portals, thresholds, retry, a PASID and a privilege of each descriptor."""

from __future__ import annotations

import pytest

from pykernel.hw.dsa.bench import REPORT, DsaBench, descriptor
from pykernel.hw.dsa.commands import Command as C
from pykernel.uapi.linux.idxd import DSA_COMP_PRIV_BAD

NOOP, FILL = 0, 4
CR = 0x1000


def shared(size: int = 8, threshold: int = 4, wqs: int = 1, *, priv: bool = True) -> DsaBench:
    b = DsaBench()
    b.enable_pasid(priv=priv)
    b.up(range(wqs), dedicated=False, pasid=0, size=size, threshold=threshold)
    return b


def send(b: DsaBench, page: int, desc: bytes = descriptor(NOOP), wq: int = 0) -> bool:
    return b.function.dmwr(2, wq * 0x4000 + page * 0x1000, desc)


# ---- portals: four pages of 4 KiB a queue


@pytest.mark.parametrize(("page", "room"), [(0, 8), (1, 4), (2, 8), (3, 4)])
def test_portals_4_pages_unlimited_limited_and_the_same_for_ims(page: int, room: int) -> None:
    b = shared()
    assert [send(b, page) for _ in range(9)].count(True) == room


@pytest.mark.parametrize("page", range(4))
def test_portals_say_which_table_an_interrupt_handle_is_of(page: int) -> None:
    b = shared()
    send(b, page)
    assert b.function.wqs[0].entries[0].ims == (page >= 2)


def test_threshold_is_filled_through_a_limited_portal_and_the_rest_by_the_privileged() -> None:
    b = shared(size=8, threshold=4)
    assert [send(b, 1) for _ in range(5)] == [True] * 4 + [False]
    assert [send(b, 0) for _ in range(5)] == [True] * 4 + [False]


def test_threshold_above_the_size_is_the_size() -> None:
    b = shared(size=4, threshold=9)
    assert [send(b, 1) for _ in range(6)].count(True) == 4


def test_threshold_of_0_lets_nothing_through_limited_portals() -> None:
    b = shared(threshold=0)
    assert (send(b, 1), send(b, 0)) == (False, True)


def test_queue_depth_is_managed_by_hardware_full_means_retry_and_nothing_is_lost() -> None:
    """Every accepted descriptor completes once, every refused one not at all."""
    b = shared(size=4, threshold=4)
    accepted = []
    for n in range(20):
        accepted.append(send(b, 1, descriptor(NOOP, completion=CR + 32 * n)))
        if n % 7 == 0:
            b.run()
    b.run()
    assert [bool(b.memory[CR + 32 * n]) for n in range(20)] == accepted
    assert False in accepted


def test_retry_succeeds_as_soon_as_an_entry_was_taken() -> None:
    b = shared(size=1, threshold=1)
    assert [send(b, 1), send(b, 1)] == [True, False]
    b.run()
    assert send(b, 1) is True


def test_retry_carries_no_reason() -> None:
    """Off, dedicated, no such queue, not 64 bytes: all the same answer, and no software error."""
    b = shared()
    b.command(C.DISABLE_WQ, 1)
    answers = [send(b, 1), send(b, 1, wq=7), b.function.dmwr(2, 0x1000, bytes(32)), b.function.dmwr(0, 0, bytes(64))]
    assert (answers, b.rd(0xC0)) == ([False] * 4, 0)


# ---- a PASID and a privilege of each descriptor


def test_each_descriptor_goes_to_the_memory_of_its_own_pasid() -> None:
    b = shared()
    for pasid in (5, 0xFFFFF, 1):
        send(b, 1, descriptor(FILL, completion=CR, dst=0x2000, size=8, pasid=pasid))
    b.run()
    assert [a[3] for a in b.accesses if a[1] == 0x2000] == [5, 0xFFFFF, 1]
    assert None not in {a[3] for a in b.accesses}


def test_each_descriptor_has_its_own_privilege() -> None:
    b = shared()
    for priv in (True, False):
        send(b, 1, descriptor(FILL, completion=CR, dst=0x2000, size=8, pasid=5, priv=priv))
    b.run()
    assert [a[4] for a in b.accesses if a[1] == 0x2000] == [True, False]


def test_privilege_without_the_capabilitys_mode_is_refused() -> None:
    b = shared(priv=False)
    send(b, 1, descriptor(FILL, completion=CR, dst=0x2000, size=8, pasid=5, priv=True))
    b.run()
    assert (b.memory[CR], b.memory[0x2000]) == (DSA_COMP_PRIV_BAD, 0)


def test_dedicated_queue_takes_its_pasid_from_its_configuration_whatever_a_descriptor_says() -> None:
    b = DsaBench()
    b.enable_pasid()
    b.up([0], pasid=7)
    b.do(descriptor(FILL, completion=CR, dst=0x2000, size=8, pasid=0x1234, priv=True))
    assert {(a[3], a[4]) for a in b.accesses} == {(7, False)}


def test_plain_write_to_a_shared_queue_is_dropped_and_reported() -> None:
    """MOVDIR64B carries no PASID that the processor vouches for."""
    b = shared()
    b.post(descriptor(NOOP, completion=CR, pasid=5))
    b.run()
    assert (b.memory[CR], b.rd(0xC0) >> 8 & 0xFF) == (0, 0x53)


def test_dmwr_to_a_dedicated_queue_is_retry() -> None:
    b = DsaBench()
    b.up([0])
    assert send(b, 1) is False


# ---- drains and aborts of one PASID


def test_drain_pasid_waits_for_its_descriptors_in_all_queues() -> None:
    b = shared(wqs=2)
    for wq in (0, 1):
        send(b, 1, descriptor(NOOP, completion=CR + 32 * wq, pasid=5), wq)
    assert b.command(C.DRAIN_PASID, 5) == 1 << 31
    assert b.memory[CR] == 0
    b.run()
    assert (b.rd(0xA8), b.memory[CR], b.memory[CR + 32]) == (0, 1, 1)


def test_drain_pasid_does_not_wait_for_others() -> None:
    b = shared()
    send(b, 1, descriptor(NOOP, pasid=6))
    assert b.command(C.DRAIN_PASID, 5) == 0


def test_abort_pasid_forgets_its_descriptors_only() -> None:
    b = shared()
    for n, pasid in enumerate((5, 6, 5)):
        send(b, 1, descriptor(NOOP, completion=CR + 32 * n, pasid=pasid))
    assert (b.command(C.ABORT_PASID, 5), b.rd(b.wqcfg(0, 6)) & 0xFFFF) == (0, 1)
    b.run()
    assert [b.memory[CR + 32 * n] for n in range(3)] == [0, 1, 0]


# ---- occupancy


def test_occupancy_follows_what_comes_and_goes() -> None:
    b = shared()
    seen = [b.rd(b.wqcfg(0, 6)) & 0xFFFF]
    for _ in range(3):
        send(b, 1)
        seen.append(b.rd(b.wqcfg(0, 6)) & 0xFFFF)
    b.run()
    assert [*seen, b.rd(b.wqcfg(0, 6)) & 0xFFFF] == [0, 1, 2, 3, 0]


# ---- what a function says about deferrable memory writes


def test_devcap2_says_dmwr_completer_of_64_bytes() -> None:
    assert DsaBench().function.config_read(0x64, 4) >> 28 & 7 == 0b001


def test_record_is_written_status_last() -> None:
    b = shared()
    send(b, 1, descriptor(NOOP, completion=CR, flags=REPORT, pasid=5))
    b.run()
    writes = [(a[1], a[2]) for a in b.accesses if a[0] == "write"]
    assert writes == [(CR + 1, 31), (CR, 1)]
