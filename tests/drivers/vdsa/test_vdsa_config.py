"""Virtual configuration space: identity, capabilities, what a guest may write."""

from __future__ import annotations

from typing import Any

import pytest

from pykernel.uapi.linux import vfio as v


def ext_caps(d: Any) -> dict[int, int]:
    """Extended capability -> offset, as a guest walks the list."""
    found, at = {}, 0x100
    while at:
        header = d.cfg(at)
        found[header & 0xFFFF] = at
        at = header >> 20
    return found


def test_identity_is_the_hosts_with_a_subsystem_of_its_own(dwq: Any) -> None:
    assert (dwq.cfg(0), dwq.cfg(0x2C)) == (0x0B258086, 0x20108086)
    assert (dwq.cfg(4), dwq.cfg(8)) == (0x00100000, 0x08800000)


def test_bars_are_64_bit_prefetchable(dwq: Any) -> None:
    assert [dwq.cfg(0x10 + 4 * n) for n in range(6)] == [0xC, 0, 0xC, 0, 0, 0]


def test_bar_sizing_answers_with_a_mask(dwq: Any) -> None:
    """The series' code gave the size itself (0x2000), which no guest understands."""
    sizes = []
    for at in (0x10, 0x18):
        dwq.set_cfg(at, 0xFFFFFFFF)
        sizes.append(-(dwq.cfg(at) & ~0xF) & 0xFFFFFFFF)
    assert sizes == [0x2000, 0x4000]


def test_msix_at_40_has_two_vectors_with_table_at_600_and_pba_at_700(dwq: Any) -> None:
    assert dwq.cfg(0x34, 1) == 0x40
    assert (dwq.cfg(0x40, 1), dwq.cfg(0x42, 2) & 0x7FF) == (0x11, 1)
    assert (dwq.cfg(0x44), dwq.cfg(0x48)) == (0x600, 0x700)


def test_pcie_capability_at_50_is_an_integrated_endpoint_that_completes_dmwr(dwq: Any) -> None:
    assert (dwq.cfg(0x41, 1), dwq.cfg(0x50, 1), dwq.cfg(0x52, 2) >> 4 & 0xF) == (0x50, 0x10, 9)
    assert dwq.cfg(0x50 + 0x24) >> 28 & 7 == 0b001  # DevCap2 28: completer; 30:29: 64 bytes


def test_extended_capabilities_are_ats_pri_pasid_and_the_dvsec_of_siov(dwq: Any) -> None:
    assert ext_caps(dwq) == {0x0F: 0x100, 0x13: 0x110, 0x1B: 0x120, 0x23: 0x130}
    assert dwq.cfg(0x124, 2) == 0x1404  # 20 bits, privileged mode
    assert (dwq.cfg(0x134, 2), dwq.cfg(0x138, 2)) == (0x8086, 5)


WRITABLE = {
    0x04: 0x0406, 0x10: 0xFFFFE000, 0x14: 0xFFFFFFFF, 0x18: 0xFFFFC000, 0x1C: 0xFFFFFFFF, 0x0C: 0xFF, 0x3C: 0xFF,
    0x40: 0xC000_0000, 0x58: 0x7FFF, 0x104: 0x801F_0000, 0x114: 0x3, 0x11C: 0xFFFFFFFF, 0x124: 0x0005_0000,
}  # fmt: skip


def test_only_command_bars_msix_control_and_ats_pri_pasid_controls_take_writes(dwq: Any) -> None:
    """Besides them: cache line and interrupt line, which hardware keeps for software."""
    changed = {}
    for off in range(0, 0x150, 4):
        before = dwq.cfg(off)
        dwq.set_cfg(off, ~before & (0xFFFF7FFF if off == 0x58 else 0xFFFFFFFF))
        if bits := before ^ dwq.cfg(off):
            changed[off] = bits
        dwq.set_cfg(off, before)
    assert changed == WRITABLE


def test_region_is_4096_bytes_and_beyond_is_einval(dwq: Any) -> None:
    assert dwq.space.info.size == 4096
    with pytest.raises(OSError, match="Invalid argument"):
        dwq.space.read(4096, 1)


def test_flr_resets_registers_and_configuration_space(dwq: Any) -> None:
    dwq.up(None)
    dwq.set_cfg(0x58, 0x8000, 2)
    assert (dwq.rd(0x90), dwq.cfg(4, 2), dwq.wq_state) == (0, 0, 0)


def test_vfio_reset_does_the_same(dwq: Any) -> None:
    dwq.up(None)
    dwq.device.reset()
    assert (dwq.rd(0x90), dwq.cfg(4, 2), dwq.wq_state) == (0, 0, 0)


def test_device_is_pci_and_can_be_reset(dwq: Any) -> None:
    assert dwq.device.info.flags == v.VFIO_DEVICE_FLAGS_PCI | v.VFIO_DEVICE_FLAGS_RESET
    assert (dwq.device.info.num_regions, dwq.device.info.num_irqs) == (9, 5)


def test_bus_mastering_that_goes_while_the_device_is_on_halts_it(dwq: Any) -> None:
    dwq.up(None)
    fds = dwq.eventfds()
    dwq.wr(0x88, 3)
    dwq.set_cfg(4, 2, 2)
    assert dwq.rd(0x90) == 3 | 1 << 2  # halt; a function-level reset
    assert dwq.rd(0xC0) & 1
    assert dwq.rd(0x98) & 0x11 == 0x11
    assert dwq.signals(fds[0]) == 1
