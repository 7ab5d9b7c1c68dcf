"""A function on the wire: decoding, bus mastering, MSI-X masking and pending bits, MSI, INTx, FLR."""

from __future__ import annotations

import pytest

from pykernel.hw.bench import Bench
from pykernel.pci.config import ConfigSpace
from pykernel.pci.function import DmaFault, PciFunction
from pykernel.uapi.linux import pci_regs as r


class Plain(PciFunction):
    """Four vectors at BAR0 + 0x1000, pending bits at 0x1800, memory elsewhere."""

    def __init__(self) -> None:
        config = ConfigSpace(0x1234, 0x5678, 0xFF0000, interrupt_pin=1)
        config.add_bar(0, 0x2000)
        config.add_pcie(0x40, flags=0x92, devcap=0x10000000)
        config.add_msix(0x80, 4, table=(0, 0x1000), pba=(0, 0x1800))
        config.add_msi(0x90)
        config.settle()
        super().__init__(config)
        self.place_msix(4, 0, 0x1000, 0x1800)
        self.memory = bytearray(0x1000)

    def bar_read(self, bar: int, off: int, size: int) -> int:
        if off >= 0x1000:
            return super().bar_read(bar, off, size)
        return int.from_bytes(self.memory[off : off + size], "little")

    def bar_write(self, bar: int, off: int, size: int, value: int) -> None:
        if off < 0x1000:
            self.memory[off : off + size] = value.to_bytes(size, "little")


@pytest.fixture
def bench() -> Bench:
    return Bench(Plain(), 0x10000)


def program(f: PciFunction, vector: int, *, mask: int = 0) -> None:
    f.mmio_write(0, 0x1000 + 16 * vector, 8, 0xFEE00000 + vector)
    f.mmio_write(0, 0x1008 + 16 * vector, 4, 0x40 + vector)
    f.mmio_write(0, 0x100C + 16 * vector, 4, mask)


def test_memory_space_disabled_reads_all_ones_and_drops_writes(bench: Bench) -> None:
    f = bench.function
    f.mmio_write(0, 0, 4, 7)
    f.config_write(r.PCI_COMMAND, 2, 0)
    f.mmio_write(0, 0, 4, 9)
    assert [f.mmio_read(0, 0, n) for n in (1, 2, 4, 8)] == [(1 << 8 * n) - 1 for n in (1, 2, 4, 8)]
    f.config_write(r.PCI_COMMAND, 2, r.PCI_COMMAND_MEMORY)
    assert f.mmio_read(0, 0, 4) == 7


@pytest.mark.parametrize(("bar", "off"), [(1, 0), (0, 0x2000), (0, 0x1FFE)])
def test_unclaimed_reads_give_all_ones(bench: Bench, bar: int, off: int) -> None:
    assert bench.function.mmio_read(bar, off, 4) == 0xFFFFFFFF


def test_posted_write_is_8_byte_writes_by_default(bench: Bench) -> None:
    bench.function.posted_write(0, 0x100, bytes(range(64)))
    assert [bench.function.mmio_read(0, 0x100 + i, 1) for i in range(64)] == list(range(64))


def test_deferrable_write_is_refused_by_default(bench: Bench) -> None:
    assert bench.function.dmwr(0, 0, bytes(64)) is False


def test_dma_needs_bus_mastering(bench: Bench) -> None:
    f = bench.function
    f.dma_write(0x100, b"abc")
    f.config_write(r.PCI_COMMAND, 2, r.PCI_COMMAND_MEMORY)
    with pytest.raises(DmaFault) as read:
        f.dma_read(0x100, 3)
    with pytest.raises(DmaFault) as write:
        f.dma_write(0x100, b"xyz")
    assert (read.value.write, write.value.write, bytes(bench.memory[0x100:0x103])) == (False, True, b"abc")


def test_msix_message_goes_out_when_enabled_and_unmasked(bench: Bench) -> None:
    f = bench.function
    program(f, 2)
    f.raise_msix(2)
    assert bench.messages == []
    f.config_write(0x82, 2, 0x8000)
    f.raise_msix(2)
    f.raise_msix(4)
    assert bench.messages == [(0xFEE00002, 0x42)]


def test_vectors_start_masked_and_a_masked_one_is_pending_until_unmasked(bench: Bench) -> None:
    f = bench.function
    assert f.mmio_read(0, 0x100C, 4) == 1
    f.config_write(0x82, 2, 0x8000)
    program(f, 1, mask=1)
    f.raise_msix(1)
    assert (bench.messages, f.mmio_read(0, 0x1800, 8)) == ([], 2)
    f.mmio_write(0, 0x1800, 8, 0)
    assert f.mmio_read(0, 0x1800, 4) == 2, "the pending bits are read-only"
    f.mmio_write(0, 0x101C, 4, 0)
    assert (bench.messages, f.mmio_read(0, 0x1800, 8)) == ([(0xFEE00001, 0x41)], 0)


def test_function_mask_holds_messages_back(bench: Bench) -> None:
    f = bench.function
    program(f, 0)
    program(f, 3)
    f.config_write(0x82, 2, 0xC000)
    for vector in (3, 0, 0):
        f.raise_msix(vector)
    assert (bench.messages, f.mmio_read(0, 0x1800, 8)) == ([], 9)
    f.config_write(0x82, 2, 0x8000)
    assert bench.messages == [(0xFEE00000, 0x40), (0xFEE00003, 0x43)]


def test_no_bus_mastering_no_messages(bench: Bench) -> None:
    f = bench.function
    program(f, 0)
    f.config_write(0x82, 2, 0x8000)
    f.config_write(r.PCI_COMMAND, 2, r.PCI_COMMAND_MEMORY)
    f.raise_msix(0)
    assert bench.messages == []


def test_msi_message(bench: Bench) -> None:
    f = bench.function
    f.config_write(0x94, 4, 0xFEE01004)
    f.config_write(0x98, 4, 0x1)
    f.config_write(0x9C, 2, 0x4021)
    f.raise_msi()
    f.config_write(0x92, 2, 1)
    f.raise_msi()
    assert bench.messages == [(0x1FEE01004, 0x4021)]


def test_intx_shows_in_status_and_obeys_the_disable_bit(bench: Bench) -> None:
    f = bench.function
    f.set_intx(asserted=True)
    assert (bench.pin, f.config_read(r.PCI_STATUS, 2) & 8) == (True, 8)
    f.config_write(r.PCI_COMMAND, 2, 0x406)
    assert (bench.pin, f.config_read(r.PCI_STATUS, 2) & 8) == (False, 8)
    f.config_write(r.PCI_COMMAND, 2, 0x006)
    assert bench.pin
    f.set_intx(asserted=False)
    assert (bench.pin, f.config_read(r.PCI_STATUS, 2) & 8) == (False, 0)


@pytest.mark.parametrize(("off", "size", "value"), [(0x48, 2, 0x8000), (0x49, 1, 0x80), (0x48, 4, 0x8000)])
def test_flr_bit_resets_configuration_and_messages(bench: Bench, off: int, size: int, value: int) -> None:
    f = bench.function
    program(f, 0)
    f.config_write(0x82, 2, 0x8000)
    f.config_write(0x10, 4, 0xE0000000)
    f.config_write(off, size, value)
    assert [f.config_read(o, 2) for o in (4, 0x12, 0x82)] == [0, 0, 3]
    assert f.mmio_read(0, 0, 4) == 0xFFFFFFFF
    f.config_write(4, 2, 6)
    assert (f.mmio_read(0, 0x1000, 8), f.mmio_read(0, 0x100C, 4)) == (0, 1)


def test_other_device_control_bits_do_not_reset(bench: Bench) -> None:
    bench.function.config_write(0x48, 2, 0x7FFF)
    assert bench.function.config_read(r.PCI_COMMAND, 2) == 6
