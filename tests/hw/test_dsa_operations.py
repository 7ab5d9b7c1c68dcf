"""Each operation against a naive model in Python, and every check that refuses one."""

from __future__ import annotations

import functools
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pykernel.hw.dsa.bench import REPORT, DsaBench, descriptor
from pykernel.hw.dsa.commands import Command as C

CR = 0x1000  # where completion records go
BOF, CRAV, RCR, RCI, CHECK = 0x2, 0x4, 0x8, 0x10, 0x80
AREA = 0x8000
NOOP, BATCH, DRAIN, MOVE, FILL, COMPARE, COMPVAL = range(7)


def bench(options: dict[str, Any] | None = None, preset: str = "spr", **wq: Any) -> DsaBench:
    b = DsaBench(options, preset=preset)
    b.enable_pasid()
    b.enable_msix()
    b.up([0], **wq)
    b.messages.clear()
    return b


@functools.cache
def noise() -> bytes:
    return random.Random(1).randbytes(0x20000)


def place(b: DsaBench) -> bytearray:
    """Noise in the test area; gives the naive model's copy of all memory."""
    b.memory[AREA : AREA + len(noise())] = noise()
    return bytearray(b.memory)


offsets = st.integers(0, 0x9000)
lengths = st.one_of(st.integers(1, 64), st.sampled_from([4095, 4096, 4097, 8192, 65536, 70001]))


@settings(deadline=None)
@given(offsets, offsets, lengths)
def test_memmove_is_memmove_however_the_regions_overlap(src: int, dst: int, size: int) -> None:
    b = bench()
    model = place(b)
    b.do(descriptor(MOVE, completion=CR, src=AREA + src, dst=AREA + dst, size=size))
    model[AREA + dst : AREA + dst + size] = model[AREA + src : AREA + src + size]
    assert (b.record(CR)[0], b.memory[AREA:]) == (1, model[AREA:])


@settings(deadline=None)
@given(st.binary(min_size=8, max_size=8), offsets, lengths)
def test_fill_repeats_the_pattern_and_cuts_it_off(pattern: bytes, dst: int, size: int) -> None:
    b = bench()
    model = place(b)
    b.do(descriptor(FILL, completion=CR, src=int.from_bytes(pattern, "little"), dst=AREA + dst, size=size))
    for i in range(size):
        model[AREA + dst + i] = pattern[i % 8]
    assert (b.record(CR)[0], b.memory[AREA:]) == (1, model[AREA:])


@settings(deadline=None)
@given(st.data())
def test_compare_finds_the_first_difference(data: st.DataObject) -> None:
    b = bench()
    size = data.draw(lengths)
    src, dst = AREA + data.draw(st.integers(0, 5000)), 0x20000 + data.draw(st.integers(0, 5000))
    place(b)
    b.memory[dst : dst + size] = b.memory[src : src + size]
    for at in data.draw(st.lists(st.integers(0, size - 1), max_size=3)):
        b.memory[dst + at] ^= 0x40
    differing = [i for i in range(size) if b.memory[src + i] != b.memory[dst + i]]
    b.do(descriptor(COMPARE, completion=CR, src=src, dst=dst, size=size))
    assert b.record(CR)[:3] == (1, bool(differing), differing[0] if differing else 0)


@settings(deadline=None)
@given(st.binary(min_size=8, max_size=8), lengths, st.integers(0, 70000), st.integers(0, 4096))
def test_compare_pattern_finds_the_first_difference(pattern: bytes, size: int, at: int, off: int) -> None:
    b = bench()
    src = AREA + off
    b.memory[src : src + size] = (pattern * (size // 8 + 1))[:size]
    if at < size:
        b.memory[src + at] ^= 1
    b.do(descriptor(COMPVAL, completion=CR, src=src, dst=int.from_bytes(pattern, "little"), size=size))
    assert b.record(CR)[:3] == ((1, 1, at) if at < size else (1, 0, 0))


@pytest.mark.parametrize(("same", "expected", "status"), [(True, 0, 1), (True, 1, 2), (False, 1, 1), (False, 0, 2)])
def test_check_result(same: bool, expected: int, status: int) -> None:
    b = bench()
    b.memory[0x2000] = 0 if same else 1
    desc = descriptor(
        COMPARE, flags=REPORT | CHECK, completion=CR, src=0x2000, dst=0x3000, size=8, tail=bytes([expected])
    )
    b.do(desc)
    assert b.record(CR)[:2] == (status, int(not same))


def test_overlap_needs_the_capability() -> None:
    b = bench({"overlapping_copy": False})
    b.do(descriptor(MOVE, completion=CR, src=0x2000, dst=0x2010, size=17))
    assert b.record(CR)[0] == 0x16
    b.do(descriptor(MOVE, completion=CR, src=0x2000, dst=0x2010, size=16))
    assert b.record(CR)[0] == 1


@pytest.mark.parametrize("opcode", [NOOP, DRAIN])
def test_noop_and_drain_succeed(opcode: int) -> None:
    b = bench()
    b.do(descriptor(opcode, completion=CR))
    assert b.record(CR) == (1, 0, 0, 0)


def test_uncertain_drain_readback_needs_the_capability() -> None:
    b = bench()
    b.do(descriptor(DRAIN, flags=REPORT | 1 << 16, completion=CR, src=0x2000))
    assert b.record(CR)[0] == 0x11


def test_drain_reads_back_its_addresses() -> None:
    b = bench({"gencap": 0x40915F030F})
    b.do(descriptor(DRAIN, flags=REPORT | 3 << 16, completion=CR, src=0x2000, dst=0x3000))
    assert [access[:2] for access in b.accesses if access[0] == "read"] == [("read", 0x2000), ("read", 0x3000)]
    b.absent.add(3)
    b.do(descriptor(DRAIN, flags=REPORT | 3 << 16, completion=CR, src=0x2000, dst=0x3000))
    assert b.record(CR) == (0x1F, 0, 0, 0x3000)


# ---------------------------------------------------------------------- completion records and interrupts
@pytest.mark.parametrize("flags", [0, CRAV])
def test_success_is_silent_unless_asked_for(flags: int) -> None:
    b = bench()
    b.memory[CR] = 0x55
    b.do(descriptor(NOOP, flags=flags, completion=CR))
    assert (b.memory[CR], b.rd(0xC0), b.messages) == (0x55, 0, [])


def test_failure_is_recorded_without_rcr() -> None:
    b = bench()
    b.do(descriptor(NOOP, flags=CRAV | 0x40, completion=CR))
    assert b.record(CR)[0] == 0x11


def test_failure_without_a_record_is_a_software_error() -> None:
    b = bench()
    b.wr(0x88, 1)
    b.do(descriptor(MOVE, flags=0, src=0x2000, dst=0x3000, size=0x400000))
    assert b.rd(0xC0, 8) == 1 | 1 << 2 | 1 << 3 | 0x13 << 8 | 0 << 16 | MOVE << 32
    assert (b.rd(0x98), b.messages) == (1, [(0xFEE00000, 0)])


def test_software_error_interrupts_only_if_genctrl_says_so() -> None:
    b = bench()
    b.do(descriptor(0x30, flags=0))
    assert (b.rd(0xC0) & 0xFF01, b.rd(0x98), b.messages) == (0x1001, 1, [])


def test_status_byte_is_written_last() -> None:
    b = bench()
    b.do(descriptor(NOOP, completion=CR))
    assert [access[:3] for access in b.accesses] == [("write", CR + 1, 31), ("write", CR, 1)]


@pytest.mark.parametrize(("preset", "align"), [("spr", 32), ("iax", 64)])
def test_misaligned_record_is_a_software_error(preset: str, align: int) -> None:
    b = bench(preset=preset)
    b.do(descriptor(NOOP, completion=CR + align // 2))
    assert (b.rd(0xC0) >> 8 & 0xFF, bytes(b.memory[CR : CR + 128])) == (0x1B, bytes(128))
    b.do(descriptor(NOOP, completion=CR + align))
    assert b.memory[CR + align] == 1


def test_iax_record_is_64_bytes() -> None:
    b = bench(preset="iax")
    b.memory[CR : CR + 80] = b"\xff" * 80
    b.do(descriptor(NOOP, completion=CR))
    assert bytes(b.memory[CR : CR + 80]) == b"\x01" + bytes(63) + b"\xff" * 16


def test_completion_interrupt_comes_by_handle() -> None:
    b = bench()
    b.do(descriptor(NOOP, flags=RCI, int_handle=3))
    assert b.messages == [(0xFEE00000, 3)]


@pytest.mark.parametrize(("perm", "pasid", "ok"), [
    (0, None, True), (8 | 5 << 12, 5, True), (8 | 5 << 12, 6, False), (0, 5, False), (8 | 5 << 12, None, False),
    (4, 5, True), (4 | 8 | 6 << 12, 5, True),
])  # fmt: skip
def test_handle_must_carry_the_pasid(perm: int, pasid: int | None, ok: bool) -> None:
    b = DsaBench()
    b.enable_pasid()
    b.enable_msix()
    b.wr(0x80, 1 << 12)
    b.wr(0x200 + 8 * 2, perm)
    b.up([0], pasid=pasid)
    b.do(descriptor(NOOP, flags=REPORT | RCI, completion=CR, int_handle=2))
    assert (b.record(CR)[0], b.messages) == ((1, [(0xFEE00000, 2)]) if ok else (0x19, []))


def test_handle_that_does_not_exist() -> None:
    b = bench()
    b.do(descriptor(NOOP, flags=REPORT | RCI, completion=CR, int_handle=9))
    assert b.record(CR)[0] == 0x19


# ---------------------------------------------------------------------- what is refused
ALWAYS = 0x103C  # CRAV, RCR, RCI, CRSTS, CR_TCS
ACCEPTED = {  # the flags that each operation takes; RCR needs CRAV, BOF the WQ's consent
    NOOP: 0x1, DRAIN: 0x600 | 0xF0000, MOVE: 0xE703, FILL: 0xE503, COMPARE: 0x683, COMPVAL: 0x283,
}  # fmt: skip


@pytest.mark.parametrize("opcode", ACCEPTED)
@pytest.mark.parametrize("bit", range(24))
def test_each_flag_of_each_operation(opcode: int, bit: int) -> None:
    b = bench({"gencap": 0x40915F030F}, bof=True)
    flag = 1 << bit
    size = 0 if opcode in (NOOP, DRAIN) else 8
    src, dst = (0, 0) if opcode in (NOOP, DRAIN) else (0x2000, 0x3000)
    b.do(descriptor(opcode, flags=CRAV | RCR | flag, completion=CR, src=src, dst=dst, size=size))
    good = (ACCEPTED[opcode] | ALWAYS) & flag
    status, invalid = b.memory[CR], int.from_bytes(b.memory[CR + 16 : CR + 20], "little")
    assert (status in (1, 2), invalid) == (bool(good), 0 if good else flag)


@pytest.mark.parametrize("options", [
    pytest.param(({}, {}, BOF), id="uncertain-bof-without-wq"),
    pytest.param(({"gencap": 0x40915F010F & ~0xC}, {}, 0x100), id="uncertain-cache-control-without-gencap"),
    pytest.param(({"gencap": 0x40915F010F & ~0x100}, {}, 0x4000), id="uncertain-readback-without-gencap"),
    pytest.param(({}, {"pasid": 5}, RCI), id="uncertain-user-interrupt-without-gencfg"),
])  # fmt: skip
def test_flags_that_need_consent(options: tuple[dict[str, Any], dict[str, Any], int]) -> None:
    capabilities, wq, flag = options
    b = bench(capabilities, **wq)
    b.do(descriptor(MOVE, flags=REPORT | flag, completion=CR, src=0x2000, dst=0x3000, size=8))
    assert (b.memory[CR], int.from_bytes(b.memory[CR + 16 : CR + 20], "little")) == (0x11, flag)


def test_uncertain_rcr_needs_crav() -> None:
    b = bench()
    b.do(descriptor(NOOP, flags=RCR, completion=CR))
    assert (b.memory[CR], b.rd(0xC0) >> 8 & 0xFF, b.rd(0xC8, 8) >> 32) == (0, 0x11, RCR)


@pytest.mark.parametrize("opcode", [0x0B, 0x30, 0xFF])
def test_unknown_opcode(opcode: int) -> None:
    b = bench()
    b.do(descriptor(opcode, completion=CR))
    assert b.memory[CR] == 0x10


def test_opcode_that_the_part_lacks() -> None:
    b = bench({"opcap": 0x1003F03FF & ~(1 << FILL)})
    b.do(descriptor(FILL, completion=CR, dst=0x2000, size=8))
    assert b.memory[CR] == 0x10


def test_opcode_that_op_config_takes_away() -> None:
    b = bench(preset="dsa2", ops=1 << MOVE)
    for opcode, status in ((FILL, 0x10), (BATCH, 0x10), (MOVE, 1)):
        b.do(descriptor(opcode, completion=CR, src=0x2000, dst=0x3000, size=8))
        assert b.memory[CR] == status


@pytest.mark.parametrize(("opcode", "byte"), [
    (NOOP, 16), (NOOP, 35), (NOOP, 38), (NOOP, 63), (DRAIN, 32), (DRAIN, 40), (MOVE, 39), (MOVE, 40), (MOVE, 63),
    (FILL, 40), (COMPARE, 41), (COMPVAL, 63), (BATCH, 24), (BATCH, 40),
])  # fmt: skip
def test_reserved_bytes_must_be_zero(opcode: int, byte: int) -> None:
    b = bench()
    raw = bytearray(descriptor(opcode, completion=CR, src=0, dst=0, size=8 if opcode >= MOVE else 0))
    raw[byte] = 1
    b.do(bytes(raw))
    assert b.memory[CR] == 0x12


@pytest.mark.parametrize(("size", "status"), [
    (4096, 1), (4097, 0x13), (1 << 31, 0x13), pytest.param(0, 0x13, id="uncertain-zero"),
])  # fmt: skip
@pytest.mark.parametrize("opcode", [MOVE, FILL, COMPARE, COMPVAL])
def test_transfer_size_is_limited_by_the_wq(opcode: int, size: int, status: int) -> None:
    b = bench(xfer_shift=12)
    b.do(descriptor(opcode, completion=CR, src=0x4000, dst=0x6000, size=size))
    assert b.memory[CR] == status


def test_privileged_descriptor_needs_privileged_mode() -> None:
    b = DsaBench()
    b.enable_pasid(priv=False)
    b.up([0], dedicated=False, pasid=1, threshold=8)
    b.enqcmd(descriptor(NOOP, completion=CR, pasid=9, priv=True))
    b.run()
    assert b.memory[CR] == 0x1D


# ---------------------------------------------------------------------- address spaces
def test_dedicated_wq_works_in_the_pasid_of_wqcfg() -> None:
    b = bench(pasid=0x55, priv=True)
    b.do(descriptor(MOVE, completion=CR, src=0x2000, dst=0x3000, size=8, pasid=0x99))
    assert {access[3:] for access in b.accesses} == {(0x55, True)}


def test_dedicated_wq_without_pasid_uses_none() -> None:
    b = bench()
    b.do(descriptor(MOVE, completion=CR, src=0x2000, dst=0x3000, size=8, pasid=0x99))
    assert {access[3:] for access in b.accesses} == {(None, False)}


def test_shared_wq_works_in_the_pasid_of_the_descriptor() -> None:
    b = bench(dedicated=False, pasid=1, threshold=8)
    b.enqcmd(descriptor(MOVE, completion=CR, src=0x2000, dst=0x3000, size=8, pasid=0x99))
    b.run()
    assert {access[3:] for access in b.accesses} == {(0x99, False)}


# ---------------------------------------------------------------------- page faults
def fault_bench(**wq: Any) -> DsaBench:
    b = bench(**wq)
    b.memory[0x4000:0x8000] = noise()[:0x4000]
    return b


def test_fault_ends_with_partial_completion_and_the_rest_can_be_resubmitted() -> None:
    b = fault_bench()
    b.absent.add(0x6)
    b.do(descriptor(MOVE, completion=CR, src=0x4800, dst=0x10100, size=0x3000))
    assert b.record(CR) == (0x03, 0, 0x1800, 0x6000)
    assert b.memory[0x10100:0x11900] == noise()[0x800:0x2000]
    b.absent.clear()
    b.do(descriptor(MOVE, completion=CR, src=0x4800 + 0x1800, dst=0x10100 + 0x1800, size=0x3000 - 0x1800))
    assert b.memory[0x10100:0x13100] == noise()[0x800:0x3800]


@pytest.mark.parametrize("opcode", [MOVE, FILL])
def test_fault_on_a_write_sets_the_write_bit(opcode: int) -> None:
    b = fault_bench()
    b.readonly.add(0x11)
    b.do(descriptor(opcode, completion=CR, src=0x4000, dst=0x10000, size=0x2000))
    assert b.record(CR) == (0x83, 0, 0x1000, 0x11000)


def test_backward_copy_reports_its_direction() -> None:
    """Result 1: the tail is done, the client only reduces the size."""
    b = fault_bench()
    want = bytes(b.memory[0x4000:0x7000])
    b.absent.add(0x4)
    b.do(descriptor(MOVE, completion=CR, src=0x4000, dst=0x4800, size=0x3000))
    status, result, done, fault = b.record(CR)
    assert (status, result) == (0x03, 1)
    assert fault >> 12 == 4
    b.absent.clear()
    b.do(descriptor(MOVE, completion=CR, src=0x4000, dst=0x4800, size=0x3000 - done))
    assert b.memory[0x4800:0x7800] == want


def test_compare_stops_at_a_fault() -> None:
    b = fault_bench()
    b.memory[0x10000:0x13000] = b.memory[0x4000:0x7000]
    b.absent.add(0x12)
    b.do(descriptor(COMPARE, completion=CR, src=0x4000, dst=0x10000, size=0x3000))
    assert b.record(CR) == (0x03, 0, 0x2000, 0x12000)


def test_compare_needs_no_page_behind_the_first_difference() -> None:
    b = fault_bench()
    b.memory[0x10000:0x13000] = b.memory[0x4000:0x7000]
    b.memory[0x11080] ^= 1
    b.absent.add(0x12)
    b.do(descriptor(COMPARE, completion=CR, src=0x4000, dst=0x10000, size=0x3000))
    assert b.record(CR) == (1, 1, 0x1080, 0)


def test_page_that_is_granted_but_never_comes_is_given_up() -> None:
    b = fault_bench(bof=True)
    b.absent.add(0x5)
    b.page_request = lambda addr, write, pasid: True  # type: ignore[method-assign]
    b.do(descriptor(MOVE, flags=REPORT | BOF, completion=CR, src=0x5000, dst=0x10000, size=8))
    assert b.record(CR) == (0x04, 0, 0, 0x5000)


def test_without_bus_mastering_nothing_can_be_reported() -> None:
    b = bench()
    b.post(descriptor(NOOP, completion=CR))
    b.function.config_write(4, 2, 2)
    b.run()
    assert (b.memory[CR], b.rd(0xC0) >> 8 & 0xFF) == (0, 0x1A)


def test_blocking_descriptor_asks_for_the_page_and_goes_on() -> None:
    b = fault_bench(bof=True, pasid=7)
    b.absent.update({0x5, 0x11})
    b.grant = True
    b.do(descriptor(MOVE, flags=REPORT | BOF, completion=CR, src=0x4000, dst=0x10000, size=0x3000))
    assert (b.record(CR)[0], b.requests) == (1, [(0x5000, False, 7), (0x11000, True, 7)])
    assert b.memory[0x10000:0x13000] == noise()[:0x3000]


def test_refused_page_request() -> None:
    b = fault_bench(bof=True)
    b.absent.add(0x5)
    b.do(descriptor(MOVE, flags=REPORT | BOF, completion=CR, src=0x4000, dst=0x10000, size=0x3000))
    assert b.record(CR) == (0x04, 0, 0x1000, 0x5000)


def test_no_page_requests_for_a_wq_with_prs_disabled() -> None:
    b = DsaBench()
    b.set_wq(0, bof=True)
    b.wr(b.wqcfg(0, 2), b.rd(b.wqcfg(0, 2)) | 8)
    b.set_group(0, wqs=[0], engines=[0])
    assert [b.command(C.ENABLE_DEV), b.command(C.ENABLE_WQ, 0)] == [0, 0]
    b.absent.add(0x5)
    b.do(descriptor(MOVE, flags=REPORT | BOF, completion=CR, src=0x5000, dst=0x10000, size=8))
    assert (b.record(CR)[0], b.requests) == (0x03, [])


def test_record_that_cannot_be_written_is_a_software_error() -> None:
    b = bench()
    b.readonly.add(1)
    b.do(descriptor(NOOP, completion=CR))
    assert (b.rd(0xC0) >> 8 & 0xFF, b.rd(0xC0) >> 5 & 1, b.rd(0xD0, 8)) == (0x1A, 1, CR)


@settings(deadline=None)
@given(
    st.integers(0, 0x5000), st.integers(0, 0x5000), st.integers(1, 0x5000), st.sets(st.integers(0x8, 0x12), max_size=3)
)
def test_faulting_memmove_resubmitted_until_done_is_memmove(src: int, dst: int, size: int, gone: set[int]) -> None:
    """A client that touches the page and resubmits the rest, as the record tells it, gets what memmove() gives."""
    b = bench()
    model = place(b)
    src, dst = AREA + src, AREA + dst
    model[dst : dst + size] = model[src : src + size]
    b.absent.update(gone)
    for _ in range(20):
        b.do(descriptor(MOVE, completion=CR, src=src, dst=dst, size=size))
        status, result, done, fault = b.record(CR)
        if status == 1:
            break
        assert status in (0x03, 0x83)
        b.absent.discard(fault >> 12)
        size -= done
        if result == 0:
            src, dst = src + done, dst + done
    assert b.memory[AREA:] == model[AREA:]
