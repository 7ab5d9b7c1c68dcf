"""QEMU's e1000e as far as configuration space, BAR sizes and the MSI-X table go; registers read as zeros."""

from __future__ import annotations

from pykernel.pci.config import ConfigSpace
from pykernel.pci.function import PciFunction

__all__ = ["E1000e"]

CAPS = {"msix": 0xA0, "pm": 0xC8, "msi": 0xD0, "exp": 0xE0}
AER = {0x10C: (0x00462030, 0x03FFF030), 0x114: (0x0000E000, 0x0000F1C1), 0x118: (0x000000A0, 0x00000140)}
"""Severity, correctable mask, control: the value and the bits that can be written, as measured."""


class E1000e(PciFunction):
    """8086:10d3 with five vectors of MSI-X in BAR 3; bytes that no capability has are writable, as QEMU leaves them."""

    def __init__(self) -> None:
        config = ConfigSpace(0x8086, 0x10D3, 0x020000, subsystem=(0x8086, 0), interrupt_pin=1, command_rw=0x0507)
        for low, high in ((0x40, 0x100), (0x14C, 0x1000)):
            config.define(low, high - low, 0, rw=(1 << 8 * (high - low)) - 1)
        for bar, size in ((0, 1 << 17), (1, 1 << 17), (3, 1 << 14)):
            config.add_bar(bar, size, wide=False, prefetch=False)
        config.add_io_bar(2, 32)
        config.add_rom(1 << 18)
        config.add_pm(CAPS["pm"], pmc=0x22, no_soft_reset=False)
        config.define(CAPS["pm"] + 4, 4, 0, rw=0x1F03, w1c=0x8000)
        config.add_msi(CAPS["msi"])
        config.define(CAPS["msi"] + 2, 2, 0x80, rw=0x01)
        config.define(CAPS["msi"] + 14, 2, 0, rw=0xFFFF)
        config.add_pcie(CAPS["exp"], flags=0x91, devcap=0x8000, devctl_rw=0)
        config.define(CAPS["exp"] + 8, 44, 0)
        config.define(CAPS["exp"] + 12, 4, 0x0411)
        config.define(CAPS["exp"] + 16, 4, 0x00110000)
        config.define(CAPS["exp"] + 20, 12, 0, rw=(1 << 96) - 1)
        config.add_msix(CAPS["msix"], 5, table=(3, 0), pba=(3, 0x2000))
        config.add_ext_cap(1, 2, 0x100, 0x40)
        for at, (value, rw) in AER.items():
            config.define(at, 4, value, rw=rw)
        config.add_ext_cap(3, 1, 0x140, 12)
        config.define(0x144, 8, 0x525400FFFF123457)
        config.settle()
        super().__init__(config)
        # a signature, the pointer to the data structure at 0x1C, its name, and that this image of 512 bytes is the last
        self.rom = (b"\x55\xaa" + bytes(22) + b"\x1c\0\0\0PCIR").ljust(0x2C, b"\0") + b"\1\0\0\0\0\x80" + bytes(462)

    def bar_read(self, bar: int, off: int, size: int) -> int:
        """No register is asked about."""
        return 0

    def flr(self) -> None:
        """Waking from D3 resets nothing of what is asked here."""
