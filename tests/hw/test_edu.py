"""QEMU's edu: identity as a real Linux sees it, and the behaviour of docs/specs/edu.rst."""

from __future__ import annotations

import math

import pytest

from pykernel.hw import MODELS, make
from pykernel.hw.bench import Bench


@pytest.fixture
def bench() -> Bench:
    return Bench(MODELS["edu"]({}))


def rd(b: Bench, off: int, size: int = 4) -> int:
    return b.function.mmio_read(0, off, size)


def wr(b: Bench, off: int, value: int, size: int = 4) -> None:
    b.function.mmio_write(0, off, size, value)


def test_config_space_is_that_of_qemu() -> None:
    f = MODELS["edu"]({})
    words = [f.config_read(off, 4) for off in (0x00, 0x04, 0x08, 0x0C, 0x10, 0x14, 0x2C, 0x34, 0x3C, 0x40)]
    assert words == [0x11E81234, 0x00100000, 0x00FF0010, 0, 0, 0, 0x11001AF4, 0x40, 0x100, 0x00800005]
    f.config_write(0x10, 4, 0xFFFFFFFF)
    assert f.config_read(0x10, 4) == 0xFFF00000
    assert f.config_read(0x100, 4) == 0xFFFFFFFF


def test_identification_and_liveness(bench: Bench) -> None:
    wr(bench, 4, 0x12345678)
    assert (rd(bench, 0), rd(bench, 4)) == (0x010000ED, 0xEDCBA987)


@pytest.mark.parametrize(
    ("off", "size", "read"), [(4, 1, 0), (4, 2, 0), (8, 8, (1 << 64) - 1), (2, 4, 0), (0x84, 8, 0)]
)
def test_low_registers_take_4_byte_accesses_only(bench: Bench, off: int, size: int, read: int) -> None:
    """QEMU 7.2 answers narrow and unaligned reads with zeros and drops such writes."""
    wr(bench, off, 0, size)
    assert rd(bench, off, size) == read
    assert rd(bench, 4) == 0


def test_registers_that_do_not_exist_read_all_ones(bench: Bench) -> None:
    assert [rd(bench, off) for off in (0x0C, 0x60, 0x64, 0xA0, 0x40000)] == [0xFFFFFFFF] * 5


@pytest.mark.parametrize("n", [0, 1, 5, 12, 13, 33, 34, 0xFFFFFFFF])
def test_factorial_is_modulo_2_to_the_32(bench: Bench, n: int) -> None:
    expected = math.factorial(n) % (1 << 32) if n < 100 else 0
    wr(bench, 8, n)
    assert rd(bench, 0x20) == 1
    bench.run()
    assert (rd(bench, 8), rd(bench, 0x20)) == (expected, 0)


def test_factorial_is_not_restarted_while_computing(bench: Bench) -> None:
    wr(bench, 8, 3)
    wr(bench, 8, 4)
    bench.run()
    assert rd(bench, 8) == 6


def test_factorial_interrupt_on_the_pin(bench: Bench) -> None:
    wr(bench, 0x20, 0x80)
    wr(bench, 8, 4)
    bench.run()
    assert (rd(bench, 0x24), bench.pin) == (1, True)
    wr(bench, 0x64, 1)
    assert (rd(bench, 0x24), bench.pin) == (0, False)


def test_raise_and_acknowledge_with_msi(bench: Bench) -> None:
    f = bench.function
    f.config_write(0x44, 4, 0xFEE00000)
    f.config_write(0x4C, 2, 0x31)
    f.config_write(0x42, 2, 1)
    wr(bench, 0x60, 0x30)
    wr(bench, 0x60, 0x02)
    wr(bench, 0x64, 0x10)
    assert (rd(bench, 0x24), bench.messages, bench.pin) == (0x22, [(0xFEE00000, 0x31)] * 2, False)


def test_msi_takes_the_pin_back(bench: Bench) -> None:
    """Asserted before MSI is enabled; acknowledged or not, it is not asserted again when MSI is disabled."""
    f = bench.function
    wr(bench, 0x60, 1)
    assert bench.pin
    f.config_write(0x42, 2, 1)
    assert not bench.pin
    f.config_write(0x42, 2, 0)
    assert (rd(bench, 0x24), bench.pin) == (1, False)


def test_dma_both_ways_raises_its_interrupt(bench: Bench) -> None:
    """The example of the specification: 100 bytes to the buffer at 0x40000 and back."""
    bench.memory[0x1000:0x1064] = bytes(range(100))
    for off, value in ((0x80, 0x1000), (0x88, 0x40000), (0x90, 100), (0x98, 1)):
        wr(bench, off, value, 8)
    assert rd(bench, 0x98) & 1
    wr(bench, 0x80, 0x9999, 8)
    assert rd(bench, 0x80, 8) == 0x1000, "registers are locked while the engine runs"
    bench.run()
    for off, value in ((0x80, 0x40000), (0x88, 0x2000), (0x90, 100), (0x98, 7)):
        wr(bench, off, value)
    bench.run()
    assert bench.memory[0x2000:0x2064] == bytes(range(100))
    assert (rd(bench, 0x98), rd(bench, 0x24)) == (6, 0x100)


@pytest.mark.parametrize(("dst", "count"), [(0x40000, 4097), (0x3FFFF, 1), (0x41000, 1), (0, 16)])
def test_dma_outside_the_buffer_moves_nothing(bench: Bench, dst: int, count: int) -> None:
    for off, value in ((0x80, 0x1000), (0x88, dst), (0x90, count), (0x98, 1)):
        wr(bench, off, value, 8)
    bench.run()
    assert (rd(bench, 0x98), bench.accesses) == (0, [])


def transfer(bench: Bench, src: int, dst: int, count: int, command: int) -> None:
    """The engine, to its end."""
    for off, value in ((0x80, src), (0x88, dst), (0x90, count), (0x98, command)):
        wr(bench, off, value, 8)
    bench.run()


def test_dma_from_memory_that_is_not_there_ends_and_brings_zeros(bench: Bench) -> None:
    """As QEMU 7.2 behind a VT-d: page by page, what cannot be read is zeros, what cannot be written is dropped."""
    bench.memory[0x1000:0x3000] = b"a" * 0x2000
    transfer(bench, 0x1000, 0x40000, 16, 1)
    bench.absent.add(2)
    transfer(bench, 0x1FF8, 0x40000, 16, 5)
    assert (rd(bench, 0x98), rd(bench, 0x24)) == (4, 0x100)
    transfer(bench, 0x40000, 0x3FF8, 16, 3)
    assert bench.memory[0x3FF8:0x4008] == b"a" * 8 + bytes(8)
    bench.memory[0x1FF8:0x2008] = b"b" * 16
    transfer(bench, 0x40008, 0x1FF8, 8, 3)
    transfer(bench, 0x40000, 0x1FFC, 8, 3)
    assert bench.memory[0x1FF8:0x2008] == bytes(4) + b"aaaa" + b"b" * 8


def test_a_command_without_the_start_bit_does_nothing(bench: Bench) -> None:
    wr(bench, 0x98, 6)
    bench.run()
    assert (rd(bench, 0x98), rd(bench, 0x24)) == (0, 0)


def test_raising_nothing_raises_no_interrupt(bench: Bench) -> None:
    wr(bench, 0x60, 0)
    assert not bench.pin


def test_reset_is_of_configuration_space_only(bench: Bench) -> None:
    """QEMU's edu has no reset of its own: registers, and bytes behind the capability, are as they were."""
    wr(bench, 4, 0x12345678)
    wr(bench, 8, 5)
    for off, value in ((0x0C, 0x77), (0x3C, 0x55), (0x44, 0x33), (0x80, 0x66)):
        bench.function.config_write(off, 1, value)
    bench.function.flr()
    bench.run()
    assert [bench.function.config_read(off, 1) for off in (0x04, 0x0C, 0x3C, 0x44, 0x80)] == [0, 0, 0, 0, 0x66]
    bench.function.config_write(4, 2, 6)
    assert [rd(bench, off) for off in (0x04, 0x08, 0x20)] == [0xEDCBA987, 120, 0]


def test_make_names_an_unknown_model() -> None:
    assert make("edu", {}).bar_sizes == {0: 1 << 20}
    with pytest.raises(ValueError, match="'nvme': one of dsa, iax, edu"):
        make("nvme", {})


def test_dma_mask_clamps_addresses() -> None:
    bench = Bench(MODELS["edu"]({"dma_mask": 0xFFFF}))
    bench.memory[0x1000:0x1003] = b"abc"
    for off, value in ((0x80, 0xF0001000), (0x88, 0x40000), (0x90, 3), (0x98, 1)):
        wr(bench, off, value, 8)
    bench.run()
    assert bench.accesses == [("read", 0x1000, 3, None, False)]


@pytest.mark.parametrize("options", [{"dma_mask": -1}, {"dma_mask": True}, {"dma_bits": 1}])
def test_bad_option_is_named(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        MODELS["edu"](options)
