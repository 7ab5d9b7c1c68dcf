"""COMMAND has a bit for I/O and one for memory: each BAR decodes by its own."""

from __future__ import annotations

import pytest

from pykernel.pci.config import ConfigSpace
from pykernel.pci.function import PciFunction


class Both(PciFunction):
    """BAR 0 of memory, BAR 1 of I/O; every register reads as zero and remembers what was written."""

    def __init__(self) -> None:
        config = ConfigSpace(0x1234, 0x0001, 0xFF0000)
        config.add_bar(0, 4096, wide=False, prefetch=False)
        config.add_io_bar(1, 32)
        config.settle()
        super().__init__(config)
        self.written: list[int] = []

    def bar_read(self, bar: int, off: int, size: int) -> int:
        return 0

    def bar_write(self, bar: int, off: int, size: int, value: int) -> None:
        self.written.append(bar)


@pytest.mark.parametrize(("command", "decoding"), [(0, []), (1, [1]), (2, [0]), (3, [0, 1])])
def test_a_bar_decodes_by_its_own_bit(command: int, decoding: list[int]) -> None:
    """What does not decode reads as all ones and takes no writes, as recorded of QEMU's e1000e."""
    f = Both()
    f.config_write(4, 2, command)
    assert [bar for bar in (0, 1) if f.mmio_read(bar, 0, 4) == 0] == decoding
    for bar in (0, 1):
        f.mmio_write(bar, 0, 4, 0)
    assert f.written == decoding
