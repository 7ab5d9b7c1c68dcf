"""The PCI configuration space of a port card (samples/vfio-mdev/mtty.c: mtty_create_config_space() and below)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pykernel.log import INFO

if TYPE_CHECKING:
    from pykernel.kernel import Kernel

__all__ = ["MTTY_CONFIG_SPACE_SIZE", "MTTY_IO_BAR_SIZE", "MttyConfig"]

MTTY_CONFIG_SPACE_SIZE = 0xFF
MTTY_IO_BAR_SIZE = 8
U32 = 0xFFFFFFFF

# offset, what is there
INITIAL: tuple[tuple[int, bytes], ...] = (
    (0x00, b"\x48\x43\x53\x32"),  # vendor and device
    (0x04, b"\x01\x00"),  # command: I/O
    (0x06, b"\x00\x02"),  # status: no capabilities
    (0x08, b"\x10"),  # revision
    (0x09, b"\x02\x00\x07"),  # a 16550 is a serial controller is a simple communication controller
    (0x10, b"\x01\x00\x00\x00"),  # BAR 0: I/O
    (0x2C, b"\x48\x43\x53\x32"),  # subsystem
    (0x3D, b"\x01"),  # INTA#
    (0x40, b"\x23"),
    (0x43, b"\x80\x23"),
    (0x48, b"\x23"),
    (0x4C, b"\x23"),
    (0x60, b"PCI Serial/UART"),
)
BARS = {0x10: 0, 0x14: 1}
NO_BARS = (0x18, 0x1C, 0x20)
READ_ONLY = (0x04, 0x06, 0x3D)  # ignored without a message


class MttyConfig:
    """255 bytes. A write is looked at by the offset that it begins at; of most nothing is kept."""

    def __init__(self, kernel: Kernel, nr_ports: int) -> None:
        self.kernel = kernel
        self.nr_ports = nr_ports
        self.data = bytearray(MTTY_CONFIG_SPACE_SIZE)
        for offset, value in INITIAL:
            self.data[offset : offset + len(value)] = value
        if nr_ports == 2:
            self.data[0x14] = 1  # BAR 1: I/O

    def read(self, offset: int, count: int) -> bytes:
        """*count* bytes; behind the end, where Linux reads on, zeros."""
        return bytes(self.data[offset : offset + count]).ljust(count, b"\0")

    def write(self, offset: int, data: bytes) -> None:
        """handle_pci_cfg_write()."""
        offset &= 0xFFFF
        if offset == 0x3C:
            self.data[offset] = data[0]
        elif offset in BARS:
            self._write_bar(offset, BARS[offset], int.from_bytes(data, "little"))
        elif offset in NO_BARS:
            self._put(offset, 0)
        elif offset not in READ_ONLY:
            text = f"PCI config write @0x{offset:x} of {len(data)} bytes not handled"
            self.kernel.log.printk(INFO, text)

    def _write_bar(self, offset: int, bar: int, address: int) -> None:
        if self.nr_ports == 1 and bar == 1:
            self._put(offset, 0)
            return
        self.kernel.log.printk(INFO, f"BAR{bar} addr 0x{address:x}")
        if address == U32:
            address &= ~MTTY_IO_BAR_SIZE + 1
        self._put(offset, address | self.data[offset] & 3)

    def _put(self, offset: int, value: int) -> None:
        self.data[offset : offset + 4] = (value & U32).to_bytes(4, "little")
