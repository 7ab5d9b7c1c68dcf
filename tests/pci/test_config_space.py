"""Configuration space: access rules a bit at a time, BAR sizing, capability chains (PCI's rules, pci_regs.h)."""

from __future__ import annotations

import pytest

from pykernel.pci.config import ConfigSpace
from pykernel.uapi.linux import pci_regs as r


def space() -> ConfigSpace:
    return ConfigSpace(0x8086, 0x0B25, 0x088000, revision=3, subsystem=(0x8086, 0x1234))


def chain(c: ConfigSpace) -> list[tuple[int, int]]:
    at, out = c.read(r.PCI_CAPABILITY_LIST, 1), []
    while at:
        out.append((c.read(at, 1), at))
        at = c.read(at + 1, 1)
    return out


def ext_chain(c: ConfigSpace) -> list[tuple[int, int, int]]:
    at, out = 0x100, []
    while at:
        head = c.read(at, 4)
        out.append((head & 0xFFFF, head >> 16 & 0xF, at))
        at = head >> 20
    return out


def test_identity_is_read_only() -> None:
    c = space()
    for off in (0, 4 * 2, 0x2C):
        before = c.read(off, 4)
        c.write(off, 4, ~before & 0xFFFFFFFF)
        assert c.read(off, 4) == before
    assert c.read(0, 4) == 0x0B258086
    assert c.read(8, 4) == 0x08800003
    assert c.read(0x2C, 4) == 0x12348086


def test_command_keeps_only_the_bits_that_exist() -> None:
    c = space()
    c.write(r.PCI_COMMAND, 2, 0xFFFF)
    assert c.read(r.PCI_COMMAND, 2) == 0x0547


def test_status_error_bits_are_write_one_to_clear() -> None:
    c = space()
    c.put(r.PCI_STATUS, 2, 0xF900)
    c.write(r.PCI_STATUS, 2, 0x8000)
    assert c.read(r.PCI_STATUS, 2) == 0x7900


@pytest.mark.parametrize("size", [16, 4096, 0x10000, 1 << 20, 1 << 31])
def test_32_bit_bar_sizes_itself(size: int) -> None:
    """All ones written reads back as ~(size - 1), with the type bits kept."""
    c = space()
    c.add_bar(0, size, wide=False, prefetch=False)
    c.write(0x10, 4, 0xFFFFFFFF)
    assert -(c.read(0x10, 4) & ~0xF) & 0xFFFFFFFF == size
    assert c.read(0x14, 4) == 0


@pytest.mark.parametrize("size", [0x10000, 1 << 33])
def test_64_bit_bar_sizes_itself_over_two_slots(size: int) -> None:
    c = space()
    c.add_bar(2, size)
    for off in (0x18, 0x1C):
        c.write(off, 4, 0xFFFFFFFF)
    value = c.read(0x18, 4) | c.read(0x1C, 4) << 32
    assert value & 0xF == 0xC
    assert -(value & ~0xF) & (1 << 64) - 1 == size


@pytest.mark.parametrize("size", [0, 8, 3000])
def test_bar_that_is_no_power_of_two_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match="BAR 0"):
        space().add_bar(0, size)


def test_capability_list_links_in_order_of_declaration() -> None:
    c = space()
    assert chain(c) == []
    assert not c.read(r.PCI_STATUS, 2) & r.PCI_STATUS_CAP_LIST
    c.add_pcie(0x40, flags=0x92, devcap=0x10008002)
    c.add_msix(0x80, 9, table=(0, 0x2000), pba=(0, 0x3000))
    c.add_pm(0x90)
    c.add_msi(0xA0)
    assert chain(c) == [(0x10, 0x40), (0x11, 0x80), (0x01, 0x90), (0x05, 0xA0)]
    assert c.read(r.PCI_STATUS, 2) & r.PCI_STATUS_CAP_LIST


def test_extended_list_links_in_order_of_declaration() -> None:
    c = space()
    c.add_ats(0x100)
    c.add_pri(0x110)
    c.add_pasid(0x120)
    c.add_sriov(0x140, vfs=4, offset=8, stride=1, device=0x1111, bars={0: 0x4000})
    assert ext_chain(c) == [(0x0F, 1, 0x100), (0x13, 1, 0x110), (0x1B, 1, 0x120), (0x10, 1, 0x140)]


def test_first_extended_capability_must_be_at_0x100() -> None:
    with pytest.raises(ValueError, match="0x100"):
        space().add_ats(0x140)


def test_msix_control_lets_only_enable_and_function_mask_be_written() -> None:
    c = space()
    c.add_msix(0x80, 9, table=(0, 0x2000), pba=(2, 0x3000))
    c.write(0x82, 2, 0xFFFF)
    assert c.read(0x82, 2) == 0xC008
    assert (c.read(0x84, 4), c.read(0x88, 4)) == (0x2000, 0x3002)


def test_pasid_control_lets_only_what_the_capability_has_be_enabled() -> None:
    c = space()
    c.add_pasid(0x100, cap=0x1404)
    c.write(0x106, 2, 0xFFFF)
    assert c.read(0x106, 2) == 0x5


def test_flr_bit_reads_zero() -> None:
    c = space()
    c.add_pcie(0x40, flags=0x92, devcap=0x10008002)
    c.write(0x48, 2, 0xFFFF)
    assert c.read(0x48, 2) == 0x7FFF


def test_sriov_bars_size_themselves_and_vf_count_is_writable() -> None:
    c = space()
    c.add_sriov(0x100, vfs=4, offset=8, stride=1, device=0x1111, bars={0: 0x4000})
    c.write(0x100 + r.PCI_SRIOV_NUM_VF, 2, 3)
    c.write(0x100 + r.PCI_SRIOV_BAR, 4, 0xFFFFFFFF)
    assert c.read(0x100 + r.PCI_SRIOV_NUM_VF, 2) == 3
    assert c.read(0x100 + r.PCI_SRIOV_BAR, 4) == 0xFFFFC00C


@pytest.mark.parametrize(("size", "off"), [(256, 256), (256, 2048), (4096, 4096)])
def test_beyond_the_end_reads_all_ones_and_drops_writes(size: int, off: int) -> None:
    c = ConfigSpace(1, 2, 3, size=size)
    c.write(off, 4, 0)
    assert c.read(off, 4) == 0xFFFFFFFF


def test_reset_restores_what_was_settled() -> None:
    c = space()
    c.settle()
    c.write(r.PCI_COMMAND, 2, 6)
    c.reset()
    assert c.read(r.PCI_COMMAND, 2) == 0
