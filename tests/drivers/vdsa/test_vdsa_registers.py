"""BAR 0 of a virtual DSA: what it reads, what it takes."""

from __future__ import annotations

from typing import Any

import pytest


def test_bars_of_8_and_16_kib(dwq: Any) -> None:
    assert (dwq.bar0.info.size, dwq.bar2.info.size) == (0x2000, 0x4000)


def test_version_and_operations_are_the_hosts(dwq: Any) -> None:
    assert (dwq.rd(0), [dwq.rd(0x40 + 8 * n, 8) for n in range(4)]) == (0x100, [0x1003F03FF, 0, 0, 0])


def test_gencap_is_the_hosts_with_commands_and_without_configuration_ims_and_event_log(dwq: Any) -> None:
    gencap, host = dwq.rd(0x10, 8), 0x40915F010F
    changed = {n for n in range(64) if (gencap ^ host) >> n & 1}
    assert changed == {4, 28, 31}
    assert gencap >> 4 & 1


def test_wqcap_has_one_queue_of_the_hosts_size_and_mode(dwq: Any, swq: Any) -> None:
    found = [d.rd(0x20, 8) for d in (dwq, swq)]
    assert [(cap & 0xFFFF, cap >> 16 & 0xFF, cap >> 48 & 3) for cap in found] == [(16, 1, 2), (32, 1, 1)]


def test_one_group_with_the_engines_of_the_hosts_group(dwq: Any) -> None:
    assert (dwq.rd(0x30, 8) & 0xFF, dwq.rd(0x38, 8)) == (1, 1)
    assert (dwq.rd(0x400, 8), dwq.rd(0x420, 8)) == (1, 1)


def test_tables_are_at_300_400_500_and_1000(dwq: Any) -> None:
    assert dwq.rd(0x60, 8) == 0x0010_0003_0005_0004


def test_commands_1_to_14_are_announced(dwq: Any) -> None:
    assert dwq.rd(0xB0) == 0x7FFE


def test_wqcfg_of_the_dedicated_queue(dwq: Any) -> None:
    size, threshold, flags, limits = (dwq.rd(0x500 + 4 * n) for n in range(4))
    assert (size, threshold, flags, limits) == (16, 0, 1 | 10 << 4, 21 | 5 << 5)


def test_wqcfg_of_the_shared_queue_has_pasids_on(swq: Any) -> None:
    size, threshold, flags, limits = (swq.rd(0x500 + 4 * n) for n in range(4))
    assert (size, threshold, flags, limits) == (32, 24, 10 << 4 | 1 << 28 | 2, 21 | 5 << 5)


WRITABLE = {
    0x80: 0x10FF, 0x88: 0x3, 0x300: 0xFFFFF00C, 0x308: 0xFFFFF00C, 0x508: 0x3FFFFF01,
    0x600: 0xFFFFFFFF, 0x604: 0xFFFFFFFF, 0x608: 0xFFFFFFFF, 0x60C: 0xFFFFFFFF,
    0x610: 0xFFFFFFFF, 0x614: 0xFFFFFFFF, 0x618: 0xFFFFFFFF, 0x61C: 0xFFFFFFFF,
}  # fmt: skip


def test_what_a_disabled_device_takes(dwq: Any) -> None:
    """GENCFG, GENCTRL, MSIX_PERM, of WQCFG only mode, PASID and privilege, and the MSI-X table."""
    changed = {}
    for off in range(0, 0x1000, 4):
        if off in (0xA0,):
            continue
        before = dwq.rd(off)
        dwq.wr(off, ~before & 0xFFFFFFFF)
        if bits := before ^ dwq.rd(off):
            changed[off] = bits
        dwq.wr(off, before)
    assert changed == WRITABLE


def test_gencfg_is_read_only_while_the_device_is_on(dwq: Any) -> None:
    dwq.up(None)
    dwq.wr(0x80, 0x1000)
    assert dwq.rd(0x80) == 0


def test_wqcfg_is_read_only_while_the_queue_is_on(dwq: Any) -> None:
    dwq.up(None)
    dwq.wr(0x508, 0)
    assert dwq.rd(0x508) == 1 | 10 << 4


def test_intcause_and_swerr_are_cleared_by_ones(dwq: Any) -> None:
    dwq.command(9, 1, int_req=True)
    assert dwq.rd(0x98) == 2
    dwq.wr(0x98, 1)
    assert dwq.rd(0x98) == 2
    dwq.wr(0x98, 2)
    assert dwq.rd(0x98) == 0


def test_occupancy_is_the_hosts_now(dwq: Any, host: Any) -> None:
    host.silicon.set_occupancy(0, 7)
    assert dwq.rd(0x518) & 0xFFFF == 7


def test_wide_writes_are_taken_in_pieces_of_four_bytes(dwq: Any) -> None:
    dwq.wr(0x300, 0x0000_1008_0000_2008, 8)
    assert (dwq.rd(0x300), dwq.rd(0x304), dwq.rd(0x300, 8)) == (0x2008, 0, 0x2008)


@pytest.mark.parametrize(("off", "size"), [(0x2000, 1), (0x1FFE, 4)])
def test_beyond_the_bar_is_einval(dwq: Any, off: int, size: int) -> None:
    for access in (lambda: dwq.bar0.read(off, size), lambda: dwq.bar0.write(off, bytes(size))):
        with pytest.raises(OSError, match="Invalid argument"):
            access()


def test_portals_read_as_ones(dwq: Any) -> None:
    assert dwq.bar2.read(0, 16) == b"\xff" * 16


def test_other_regions_are_empty(dwq: Any) -> None:
    assert [dwq.device.region(n).info.size for n in (1, 3, 4, 5, 6, 8)] == [0] * 6
