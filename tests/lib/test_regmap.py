"""Registers as typed fields: access rules bit by bit, side effects by name, any access size."""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pykernel.lib.regmap import At, Bits, Reg, RegMap, Table, bit, bits


class Colour(IntEnum):
    RED = 0
    GREEN = 1
    BLUE = 2
    GREY = 3


class Mixed(Reg):
    low = bits(3, 0)
    sticky = bit(8, "w1c")
    seen = bits(19, 16, "ro")
    colour = Bits(31, 30, Colour)


class Entry(RegMap):
    a = At(0, Mixed)
    b = At(4, Reg)


class Map(RegMap):
    plain = At(0x0, Reg, size=8)
    mixed = At(0x8, Mixed)
    fixed = At(0xC, Reg, "r")
    door = At(0x10, Reg, "w")
    locked = At(0x14, Reg)
    wide = At(0x20, Reg, size=32)

    def __init__(self) -> None:
        super().__init__()
        self.log: list[tuple[str, int]] = []
        self.unlocked = False
        self.table = Table(self, 0x40, 16, [Entry() for _ in range(3)])
        self.settle()

    def plain_write(self, reg: Reg) -> None:
        self.log.append(("plain", reg.bits))

    def door_write(self, reg: Reg) -> None:
        self.log.append(("door", reg.bits))

    def locked_writable(self) -> bool:
        return self.unlocked


def test_fields_read_and_write_their_bits() -> None:
    reg = Mixed()
    reg.low, reg.colour = 5, Colour.BLUE
    assert reg.bits == 5 | 2 << 30
    assert reg.colour is Colour.BLUE
    assert repr(reg) == "<Mixed 0x80000005 low=5 sticky=0 seen=0 colour=<Colour.BLUE: 2>>"
    with pytest.raises(ValueError, match="0x10 does not fit in 0xf"):
        reg.low = 16


def test_bus_write_obeys_rw_ro_w1c_and_reserved() -> None:
    m = Map()
    m.mixed.sticky, m.mixed.seen = 1, 9
    m.mmio_write(0x8, 0xFFFFFEFF)
    assert m.mmio_read(0x8) == 0xF | 1 << 8 | 9 << 16 | 3 << 30
    m.mmio_write(0x8, 0x100)
    assert m.mmio_read(0x8) == 9 << 16


def test_read_only_register_drops_writes_and_write_only_reads_zero_after_its_hook() -> None:
    m = Map()
    m.mmio_write(0xC, 7)
    m.mmio_write(0x10, 0x1234)
    assert (m.mmio_read(0xC), m.mmio_read(0x10), m.log) == (0, 0, [("door", 0x1234)])


def test_guard_drops_writes() -> None:
    m = Map()
    m.mmio_write(0x14, 1)
    assert m.mmio_read(0x14) == 0
    m.unlocked = True
    m.mmio_write(0x14, 1)
    assert m.mmio_read(0x14) == 1


def test_64_bit_write_is_one_side_effect_and_two_halves_are_two() -> None:
    m = Map()
    m.mmio_write(0, 0x1122334455667788, 8)
    m.mmio_write(0, 1)
    m.mmio_write(4, 2)
    assert m.log == [("plain", 0x1122334455667788), ("plain", 0x1122334400000001), ("plain", 0x0000000200000001)]


def test_gaps_read_zero_and_ignore_writes() -> None:
    m = Map()
    m.mmio_write(0x1C, 5)
    assert m.mmio_read(0x1C) == 0
    assert m.mmio_read(0x18, 8) == 0


def test_table_entries_answer_at_their_stride_and_are_typed() -> None:
    m = Map()
    m.mmio_write(0x50, 3)
    assert [e.a.low for e in m.table] == [0, 3, 0]
    assert len(m.table) == 3
    m.reset()
    assert m.table[1].a.bits == 0


def test_hook_for_no_register_is_a_type_error() -> None:
    with pytest.raises(TypeError, match=r"Bad\.gone_write: there is no register 'gone'"):
        type("Bad", (RegMap,), {"gone_write": lambda self, reg: None})


@pytest.mark.parametrize("make", [lambda: bits(1, 0, "wx"), lambda: At(0, Reg, "x"), lambda: At(2, Reg)])
def test_bad_declaration_is_a_type_error(make: Callable[[], object]) -> None:
    with pytest.raises(TypeError):
        make()


def test_declarations_are_there_to_be_asked() -> None:
    assert (Mixed.colour.lo, Map.wide.size) == (30, 32)


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 31), st.sampled_from([1, 2, 4, 8]), st.integers(0, (1 << 64) - 1)), max_size=20)
)
def test_any_size_and_alignment_behaves_like_bytes(writes: list[tuple[int, int, int]]) -> None:
    """A register without fields is memory: every access of 1 to 8 bytes agrees with a bytearray."""
    m, model = Map(), bytearray(32)
    for off, size, value in writes:
        if off + size > 32:
            continue
        value &= (1 << 8 * size) - 1
        m.mmio_write(0x20 + off, value, size)
        model[off : off + size] = value.to_bytes(size, "little")
        assert m.mmio_read(0x20 + off, size) == value
    assert [m.mmio_read(0x20 + i, 1) for i in range(32)] == list(model)
