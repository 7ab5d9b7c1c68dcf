"""Interrupt message storage: entries with a PASID, checked against that of the descriptor that names one."""

from __future__ import annotations

import pytest

from pykernel.hw.dsa.bench import REPORT, DsaBench, descriptor
from pykernel.hw.dsa.commands import Command as C

NOOP = 0
RCI = 0x10
CR = 0x1000
IMS = 0x8000


def entry(b: DsaBench, n: int, control: int) -> None:
    b.wr(IMS + 16 * n, 0xFEE00000, 8)
    b.wr(IMS + 16 * n + 8, 0x100 + n)
    b.wr(IMS + 16 * n + 12, control)


def bench() -> DsaBench:
    b = DsaBench()
    b.enable_pasid()
    b.wr(0x80, 1 << 12)  # GENCFG: users may interrupt
    b.up([0], dedicated=False, pasid=0, size=8, threshold=8)
    return b


def ring(b: DsaBench, handle: int, *, pasid: int = 5, page: int = 3) -> int:
    """Submit through a portal of IMS; the status."""
    b.memory[CR] = 0
    b.function.dmwr(
        2, page * 0x1000, descriptor(NOOP, flags=REPORT | RCI, completion=CR, int_handle=handle, pasid=pasid)
    )
    b.run()
    return b.memory[CR]


def test_table_offset_is_announced() -> None:
    assert DsaBench().rd(0x60, 8) >> 48 == IMS >> 8


@pytest.mark.parametrize(("gencap", "entries"), [(0x40915F010F, 2048), (0x40835F010F, 256), (0x40815F010F, 0)])
def test_gencap_says_how_many_hundreds(gencap: int, entries: int) -> None:
    b = DsaBench({"gencap": gencap})
    assert b.function.ims.size == entries
    last = IMS + 16 * max(entries - 1, 0)
    b.wr(last + 8, 0x1234)
    assert b.rd(last + 8) == (0x1234 if entries else 0)


def test_entries_begin_masked_and_keep_what_is_written() -> None:
    b = DsaBench()
    assert b.rd(IMS + 12) == 1
    entry(b, 3, 5 << 12 | 8)
    assert [b.rd(IMS + 48 + 4 * n) for n in range(4)] == [0xFEE00000, 0, 0x103, 5 << 12 | 8]


def test_descriptor_of_the_entrys_pasid_sends_its_message() -> None:
    b = bench()
    entry(b, 3, 5 << 12 | 8)
    assert (ring(b, 3), b.messages) == (1, [(0xFEE00000, 0x103)])


@pytest.mark.parametrize("control", [6 << 12 | 8, 0, 5 << 12])
def test_descriptor_of_another_pasid_is_refused_and_sends_nothing(control: int) -> None:
    b = bench()
    entry(b, 3, control)
    assert (ring(b, 3), b.messages) == (0x19, [])


def test_entry_that_ignores_pasids_is_for_all() -> None:
    b = bench()
    entry(b, 3, 4)
    assert (ring(b, 3), b.messages) == (1, [(0xFEE00000, 0x103)])


def test_handle_beyond_the_table_is_refused() -> None:
    b = bench()
    assert ring(b, 2048) == 0x19


def test_handle_of_an_msix_portal_is_a_vector() -> None:
    b = bench()
    entry(b, 3, 5 << 12 | 8)
    assert (ring(b, 3, page=1), b.messages) == (0x19, [])


def test_masked_entry_is_pending_and_sends_when_it_is_unmasked() -> None:
    b = bench()
    entry(b, 3, 5 << 12 | 8 | 1)
    assert (ring(b, 3), b.messages, b.rd(IMS + 48 + 12) & 2) == (1, [], 2)
    b.wr(IMS + 48 + 12, 5 << 12 | 8)
    assert (b.messages, b.rd(IMS + 48 + 12) & 3) == ([(0xFEE00000, 0x103)], 0)


def test_reset_masks_all() -> None:
    b = bench()
    entry(b, 3, 5 << 12 | 8)
    b.command(C.RESET_DEV)
    assert [b.rd(IMS + 48 + 4 * n) for n in range(4)] == [0, 0, 0, 1]


def test_occupancy_interrupt_may_be_an_entry() -> None:
    b = bench()
    entry(b, 3, 4)
    b.wr(b.wqcfg(0, 4), 1 << 16 | 3)
    b.wr(b.wqcfg(0, 5), 1 << 16)
    b.function.dmwr(2, 0x1000, descriptor(NOOP))
    b.run()
    assert b.messages == [(0xFEE00000, 0x103)]


def test_occupancy_interrupt_by_an_entry_that_is_not_there_is_refused() -> None:
    b = DsaBench()
    b.set_wq(0)
    b.set_group(0, wqs=[0], engines=[0])
    b.wr(b.wqcfg(0, 4), 1 << 16 | 2048)
    b.wr(b.wqcfg(0, 5), 1 << 16)
    assert [b.command(C.ENABLE_DEV), b.command(C.ENABLE_WQ, 0)] == [0, 0x2B]
