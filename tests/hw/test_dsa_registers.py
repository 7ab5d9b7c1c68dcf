"""BAR0 and configuration space: capability values of every preset, and which bits a write can change, when."""

from __future__ import annotations

import random
from typing import Any

import pytest

from pykernel.hw import MODELS
from pykernel.hw.dsa import PRESETS
from pykernel.hw.dsa.bench import DsaBench
from pykernel.hw.dsa.commands import Command

# What each preset must show: device, version, gencap, wqcap, grpcap, engcap, opcap[0], opcap[1], cmdcap, vectors,
# 0x180, 0x188, 0x190. The values are those with which the real driver's answers were recorded.
RECORDED: dict[str, tuple[int, ...]] = {
    "spr": (0x0B25, 0x100, 0x40915F010F, 0x3F_0000_0008_0080, 0x36004, 4, 0x1003F03FF, 0, 0, 9, 0, 0, 0),
    "dsa2": (0x0B25, 0x200, 0x40915F211F, 0xFF_0000_0108_0080, 0x76004, 4, 0x7B00BF07FF, 0, 0x1FFE, 9, 0, 0, 0),
    "dsa3": (
        0x1212,
        0x300,
        0x40915F211F,
        0xFF_0000_0108_0080,
        0x76004,
        4,
        0x7B00BF07FF,
        0,
        0x1FFE,
        9,
        0x11,
        0x22,
        0x33,
    ),
    "iax": (0x0CFE, 0x100, 0x40901F0105, 0x3F_0000_0008_0080, 4, 8, 0xD, 0x7F331C, 0, 9, 0, 0, 0),
    "fixed": (0x0B25, 0x100, 0x40115F010F, 0x3F_0000_0008_0080, 0x36004, 4, 0x1003F03FF, 0, 0, 9, 0, 0, 0),
    "nomsix": (0x0B25, 0x100, 0x40915F010F, 0x3F_0000_0008_0080, 0x36004, 4, 0x1003F03FF, 0, 0, 0, 0, 0, 0),
}


@pytest.mark.parametrize("preset", RECORDED)
def test_preset_shows_the_recorded_capabilities(preset: str) -> None:
    b = DsaBench({"preset": preset})
    f = b.function
    at = 0x82 if f.config_read(0x41, 1) == 0x80 else None
    vectors = 0 if at is None else (f.config_read(at, 2) & 0x7FF) + 1
    wide = [b.rd(off, 8) for off in (0x10, 0x20, 0x30, 0x38, 0x40, 0x48)]
    tail = [b.rd(off, 8) for off in (0x180, 0x188, 0x190)]
    assert (f.config_read(2, 2), b.rd(0), *wide, b.rd(0xB0), vectors, *tail) == RECORDED[preset]
    assert b.rd(0x60, 8) == 0x0080_0002_0004_0003
    assert b.rd(0x68, 8) == 0x10


def test_every_preset_has_a_row() -> None:
    assert set(RECORDED) == set(PRESETS)


def test_config_space_is_a_root_complex_endpoint_with_flr_msix_pm_ats_pri_pasid() -> None:
    f = MODELS["dsa"]({})
    dwords = {
        0x00: 0x0B258086, 0x04: 0x00100000, 0x08: 0x08800000, 0x10: 0xC, 0x14: 0, 0x18: 0xC, 0x1C: 0, 0x20: 0, 0x24: 0,
        0x2C: 0x00008086, 0x34: 0x40, 0x3C: 0, 0x40: 0x00928010, 0x44: 0x10008002, 0x48: 0x2910, 0x64: 0x10200010,
        0x80: 0x00089011, 0x84: 0x2000, 0x88: 0x3000, 0x90: 0x00030001, 0x94: 0x8,
        0x100: 0x1101000F, 0x104: 0x60, 0x110: 0x12010013, 0x114: 0x81000000, 0x118: 512, 0x11C: 0,
        0x120: 0x0001001B, 0x124: 0x1404,
    }  # fmt: skip
    assert {off: f.config_read(off, 4) for off in dwords} == dwords
    for off in (0x10, 0x14, 0x18, 0x1C):
        f.config_write(off, 4, 0xFFFFFFFF)
    assert [f.config_read(off, 4) for off in (0x10, 0x14, 0x18, 0x1C)] == [0xFFFF000C, M32, 0xFFFE000C, M32]


M32 = 0xFFFFFFFF

# register, size -> bits that a write of ones then zeros can change while the device is disabled
WRITABLE_DISABLED: dict[tuple[int, int], int] = {
    (0x00, 4): 0, (0x10, 8): 0, (0x20, 8): 0, (0x30, 8): 0, (0x38, 8): 0, (0x40, 8): 0, (0x60, 8): 0, (0x68, 8): 0,
    (0x80, 4): 0x30FF, (0x88, 4): 7, (0x90, 4): 0, (0x98, 4): 0, (0xA8, 4): 0, (0xB0, 4): 0, (0xC0, 8): 0,
    (0x200, 4): 0xFFFFF00C, (0x204, 4): 0, (0x240, 4): 0xFFFFF00C, (0x248, 4): 0,
    (0x300, 8): (1 << 64) - 1, (0x320, 8): (1 << 64) - 1, (0x328, 8): 0x33_0FF0FFBF,
    (0x400, 4): 0xFFFF, (0x404, 4): 0xFFFF, (0x408, 4): 0x3FFFFFFF, (0x40C, 4): 0x1FF, (0x410, 4): 0x1FFFF,
    (0x414, 4): 0x1FFFF, (0x418, 4): 0, (0x41C, 4): 0, (0x4E0, 4): 0xFFFF, (0x500, 4): 0,
    (0x1000, 8): 0, (0x7000, 8): 0,
}  # fmt: skip


def changeable(b: DsaBench, off: int, size: int) -> int:
    seen = []
    for value in ((1 << 8 * size) - 1, 0):
        b.wr(off, value, size)
        seen.append(b.rd(off, size))
    return seen[0] ^ seen[1]


@pytest.mark.parametrize(("off", "size"), WRITABLE_DISABLED)
def test_writable_bits_of_a_disabled_device(off: int, size: int) -> None:
    assert changeable(DsaBench(), off, size) == WRITABLE_DISABLED[off, size]


@pytest.mark.parametrize(("off", "mask"), [(0xE0, 0xFFFFFFFFFFFFF003), (0xE8, 0xFFFFFFFFF), (0xF0, 0xFFFF)])
def test_event_log_registers_exist_where_gencap_says_so(off: int, mask: int) -> None:
    assert changeable(DsaBench(preset="dsa2"), off, 8) == mask
    assert changeable(DsaBench(preset="spr"), off, 8) == 0


@pytest.mark.parametrize("dword", range(8, 16))
def test_op_config_exists_in_wide_wqcfg(dword: int) -> None:
    b = DsaBench(preset="dsa2")
    assert changeable(b, b.wqcfg(1, dword), 4) == M32


LOCKED_BY_ENABLED_DEVICE = [0x80, 0x300, 0x320, 0x328, 0x32C, 0x400, 0x420]
LOCKED_BY_ENABLED_WQ = [0x404, 0x408, 0x40C]
STILL_WRITABLE = [(0x88, 7), (0x200, 0xFFFFF00C), (0x410, 0x1FFFF), (0x414, 0x1FFFF), (0x428, 0x3FFFFFFF)]


@pytest.mark.parametrize("off", LOCKED_BY_ENABLED_DEVICE + LOCKED_BY_ENABLED_WQ)
def test_configuration_is_locked_while_enabled(off: int) -> None:
    b = DsaBench()
    b.up([0])
    before = b.rd(off)
    b.wr(off, ~before & M32)
    assert b.rd(off) == before


@pytest.mark.parametrize(("off", "mask"), STILL_WRITABLE)
def test_what_stays_writable_while_enabled(off: int, mask: int) -> None:
    b = DsaBench()
    b.up([0])
    assert changeable(b, off, 4) == mask


def test_wq_registers_but_the_size_unlock_when_the_wq_is_disabled() -> None:
    b = DsaBench()
    b.up([0])
    assert b.command(Command.DISABLE_WQ, 1) == 0
    assert [changeable(b, off, 4) for off in (0x400, 0x404, 0x408)] == [0, 0xFFFF, 0x3FFFFFFF]


def test_a_part_that_is_not_configurable_comes_configured_and_stays_so() -> None:
    b = DsaBench(preset="fixed")
    before = [b.rd(off, 8) for off in range(0x300, 0x500, 8)]
    for off in range(0x300, 0x500, 4):
        b.wr(off, random.Random(off).getrandbits(32))
    assert [b.rd(off, 8) for off in range(0x300, 0x500, 8)] == before
    assert [b.rd(off) for off in (0x300, 0x320, 0x328, 0x400, 0x408, 0x40C)] == [
        1,
        1,
        0x6000009,
        16,
        0x51,
        31 | 10 << 5,
    ]
    assert b.command(Command.ENABLE_DEV) == 0
    assert b.command(Command.ENABLE_WQ, 0) == 0


def test_intcause_and_swerr_are_write_one_to_clear() -> None:
    b = DsaBench()
    b.function.raise_cause(0x25)
    b.wr(0x98, 0x21)
    assert b.rd(0x98) == 4
    b.function.raise_swerr([0x8000_0010_0005_1B0D, 0x1122334400000005, 0xFFFFF000, 7])
    b.function.raise_swerr([1, 0, 0, 0])
    assert [b.rd(off, 8) for off in (0xC0, 0xC8, 0xD0, 0xD8)] == [
        0x8000_0010_0005_1B0F,
        0x1122334400000005,
        0xFFFFF000,
        7,
    ]
    b.wr(0xC0, 2, 8)
    assert b.rd(0xC0) == 0x00051B0D
    b.wr(0xC0, 1)
    assert b.rd(0xC0) == 0x00051B0C
    b.function.raise_swerr([1, 0, 0, 0])
    assert (b.rd(0xC0, 8), b.rd(0xD0, 8)) == (1, 0)


def test_cmd_reads_zero_and_portals_read_all_ones() -> None:
    b = DsaBench()
    b.command(Command.ENABLE_DEV)
    assert b.rd(0xA0) == 0
    assert b.function.mmio_read(2, 0x1000, 8) == (1 << 64) - 1


def test_bar2_has_four_pages_for_each_wq() -> None:
    assert DsaBench().function.bar_sizes == {0: 0x10000, 2: 0x20000}
    assert DsaBench({"num_wqs": 16}).function.bar_sizes[2] == 0x40000


OPTIONS: list[tuple[dict[str, Any], int, int, int]] = [  # options, register, size, value
    ({"num_wqs": 4}, 0x20, 8, 0x3F_0000_0004_0080),
    ({"total_wq_size": 64}, 0x20, 8, 0x3F_0000_0008_0040),
    ({"shared_mode": False}, 0x20, 8, 0x3E_0000_0008_0080),
    ({"groups": 2, "read_buffers": 32}, 0x30, 8, 0x32002),
    ({"engines": 8}, 0x38, 8, 8),
    ({"configurable": False}, 0x10, 8, 0x40115F010F),
    ({"block_on_fault": False, "max_batch_shift": 4}, 0x10, 8, 0x40909F010E),
    ({"preset": "dsa2", "version": 0x210}, 0x00, 4, 0x210),
    ({"cmdcap": 0x7FFE}, 0xB0, 4, 0x7FFE),
    ({"opcap": 1 << 64}, 0x48, 8, 1),
]


@pytest.mark.parametrize(("options", "off", "size", "value"), OPTIONS, ids=[",".join(row[0]) for row in OPTIONS])
def test_option_changes_its_field(options: dict[str, Any], off: int, size: int, value: int) -> None:
    assert DsaBench(options).rd(off, size) == value


BAD_OPTIONS: list[tuple[dict[str, Any], str]] = [
    ({"wqs": 4}, "wqs"),
    ({"num_wqs": 256}, "num_wqs"),
    ({"num_wqs": 0}, "num_wqs"),
    ({"num_wqs": 128}, "num_wqs"),
    ({"groups": 5}, "groups"),
    ({"vectors": 64}, "vectors"),
    ({"configurable": 0}, "configurable"),
    ({"preset": "emr"}, "preset"),
    ({"version": "2.0"}, "version"),
    ({"faults": {"kind": "fail_command"}}, "faults"),
    ({"faults": [{"kind": "melt"}]}, "faults"),
    ({"faults": [{"kind": "fail_command"}]}, "faults"),
    ({"faults": [{"kind": "fail_command", "code": 0}]}, "code"),
]


@pytest.mark.parametrize(("options", "key"), BAD_OPTIONS)
def test_bad_option_is_named(options: dict[str, Any], key: str) -> None:
    with pytest.raises(ValueError, match=key):
        MODELS["dsa"](options)


def test_capabilities_can_be_left_out() -> None:
    f = MODELS["dsa"]({"pasid": False})
    assert [f.config_read(off, 4) for off in (0x100, 0x110, 0x120)] == [0x1101000F, 0x00010013, 0]
    f = MODELS["dsa"]({"ats": False, "pri": False})
    assert f.config_read(0x100, 4) == 0x0001001B


def test_registers_take_a_64_byte_write_too() -> None:
    b = DsaBench()
    b.function.posted_write(0, 0x300, (1).to_bytes(32, "little") + (2).to_bytes(8, "little") + bytes(24))
    assert (b.rd(0x300), b.rd(0x320)) == (1, 2)


def test_iax_model_is_8086_0cfe() -> None:
    assert MODELS["iax"]({}).config_read(0, 4) == 0x0CFE8086
