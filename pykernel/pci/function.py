"""
A PCI function on the wire, and the port it is plugged into.

This is all that silicon and kernel know of each other: configuration space, BARs, DMA, messages. ``pykernel.hw``
subclasses ``PciFunction``; the kernel side (``pykernel.pci.core``) calls its bus methods and implements ``Port``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from pykernel.pci.config import ConfigSpace
from pykernel.uapi.linux.pci_regs import (
    PCI_AF_CAP,
    PCI_AF_CAP_FLR,
    PCI_AF_CTRL,
    PCI_AF_CTRL_FLR,
    PCI_BASE_ADDRESS_0,
    PCI_BASE_ADDRESS_MEM_TYPE_64,
    PCI_CAP_ID_AF,
    PCI_CAP_ID_EXP,
    PCI_CAP_ID_MSI,
    PCI_CAP_ID_MSIX,
    PCI_CAP_ID_PM,
    PCI_CAP_ID_VPD,
    PCI_COMMAND,
    PCI_COMMAND_INTX_DISABLE,
    PCI_COMMAND_IO,
    PCI_COMMAND_MASTER,
    PCI_COMMAND_MEMORY,
    PCI_EXP_DEVCAP,
    PCI_EXP_DEVCAP_FLR,
    PCI_EXP_DEVCTL,
    PCI_EXP_DEVCTL_BCR_FLR,
    PCI_EXT_CAP_ID_SRIOV,
    PCI_MSI_ADDRESS_HI,
    PCI_MSI_ADDRESS_LO,
    PCI_MSI_DATA_32,
    PCI_MSI_DATA_64,
    PCI_MSI_FLAGS,
    PCI_MSI_FLAGS_64BIT,
    PCI_MSI_FLAGS_ENABLE,
    PCI_MSIX_ENTRY_CTRL_MASKBIT,
    PCI_MSIX_ENTRY_SIZE,
    PCI_MSIX_FLAGS,
    PCI_MSIX_FLAGS_ENABLE,
    PCI_MSIX_FLAGS_MASKALL,
    PCI_PM_CTRL,
    PCI_PM_CTRL_NO_SOFT_RESET,
    PCI_PM_CTRL_STATE_MASK,
    PCI_ROM_ADDRESS,
    PCI_ROM_ADDRESS_ENABLE,
    PCI_SRIOV_TOTAL_VF,
    PCI_STATUS,
    PCI_STATUS_INTERRUPT,
    PCI_VPD_ADDR,
    PCI_VPD_ADDR_F,
    PCI_VPD_ADDR_MASK,
    PCI_VPD_DATA,
)

__all__ = ["DmaFault", "MsixTable", "PciFunction", "Port"]


class DmaFault(Exception):
    """A DMA access that did not happen: *addr* is the first byte that could not be reached."""

    def __init__(self, addr: int, write: bool, reason: str = "") -> None:
        super().__init__(f"DMA {'write' if write else 'read'} at {addr:#x}: {reason}")
        self.addr, self.write, self.reason = addr, write, reason


class Port(Protocol):
    """What a slot gives to the function in it. ``dma_*`` raise DmaFault; a write that faults has written nothing."""

    def dma_read(self, addr: int, n: int, pasid: int | None = None, priv: bool = False) -> bytes:
        """Read *n* bytes at bus address *addr*, in the address space of *pasid* if there is one."""
        ...

    def dma_write(self, addr: int, data: bytes | memoryview, pasid: int | None = None, priv: bool = False) -> None:
        """Write *data* at *addr*."""
        ...

    def dma_view(
        self, addr: int, n: int, *, write: bool, pasid: int | None = None, priv: bool = False
    ) -> list[memoryview] | None:
        """The bytes at *addr* themselves, in pieces, to be read or written at once; None: use dma_read, dma_write."""
        ...

    def page_request(self, addr: int, write: bool, pasid: int | None) -> bool:
        """PRI page request: true when the page is there now, false when the request was refused. It may wait."""
        ...

    def page_request_async(
        self, addr: int, write: bool, pasid: int | None, priv: bool, done: Callable[[bool], None]
    ) -> None:
        """PRI page request; *done* hears the answer, which may be before this returns: is the page there now?"""
        ...

    def msi_write(self, address: int, data: int) -> None:
        """Post an interrupt message."""
        ...

    def intx(self, asserted: bool) -> None:
        """Assert or deassert the function's legacy interrupt pin; called on changes only."""
        ...

    def call_soon(self, fn: Callable[[], None]) -> None:
        """Run *fn* later, on the machine's scheduler."""
        ...

    def reset_secondary(self, bus: int) -> None:
        """Reset every function on *bus*, which is below the bridge in this slot."""
        ...


class MsixTable:
    """The MSI-X table and pending bits: 16 bytes a vector (address, data, control); every vector starts masked."""

    def __init__(self, vectors: int) -> None:
        self.vectors = vectors
        self.entries = bytearray(PCI_MSIX_ENTRY_SIZE * vectors)
        self.pending = 0
        self.reset()

    def reset(self) -> None:
        """Mask every vector and forget addresses and pending bits."""
        self.pending = 0
        for vector in range(self.vectors):
            entry = bytes(12) + PCI_MSIX_ENTRY_CTRL_MASKBIT.to_bytes(4, "little")
            self.entries[16 * vector : 16 * vector + 16] = entry

    def masked(self, vector: int) -> bool:
        """Mask bit of *vector*."""
        return bool(self.entries[16 * vector + 12] & PCI_MSIX_ENTRY_CTRL_MASKBIT)

    def message(self, vector: int) -> tuple[int, int]:
        """Address and data of *vector*."""
        entry = self.entries[16 * vector : 16 * vector + 12]
        return int.from_bytes(entry[:8], "little"), int.from_bytes(entry[8:], "little")

    def read_pba(self, off: int, size: int) -> int:
        """*size* bytes of the pending bit array."""
        return self.pending >> 8 * off & (1 << 8 * size) - 1


class PciFunction:
    """
    Base of every piece of silicon. A subclass passes its configuration space and overrides ``bar_read``/``bar_write``.

    Memory decoding off in COMMAND (``memory_enabled``): reads give all ones, writes are dropped. Bus master off
    (``bus_master``): no DMA, no messages. In a power state below D0 all three are off. ``rom`` is what the expansion
    ROM holds and ``vpd`` the vital product data, if the configuration space has them.
    """

    port: Port
    rom: bytes = b""
    vpd: bytearray | None = None

    def __init__(self, config: ConfigSpace) -> None:
        self.config = config
        self.bar_sizes = config.bar_sizes
        self.msix: MsixTable | None = None
        self._msix_ranges: tuple[int, int, int, int] = (-1, 0, 0, 0)  # bar, table, pba, end of the page of either
        self._intx = False
        self.memory_enabled = False
        self.io_enabled = False
        self.bus_master = False

    def place_msix(self, vectors: int, bar: int, table: int, pba: int) -> None:
        """Let an MSI-X table of *vectors* answer in *bar*; the capability in config space is declared separately."""
        self.msix = MsixTable(vectors)
        self._msix_ranges = (bar, table, pba, 16 * vectors)

    # ------------------------------------------------------------------ configuration space
    @property
    def command(self) -> int:
        """The COMMAND register."""
        return self.config.get(PCI_COMMAND, 2)

    def config_read(self, off: int, size: int) -> int:
        """Configuration read of 1, 2 or 4 bytes."""
        return self.config.read(off, size)

    def config_write(self, off: int, size: int, value: int) -> None:
        """Configuration write of 1, 2 or 4 bytes, with its side effects (FLR, unmasked messages)."""
        before, power = self.command, self._power()
        self.config.write(off, size, value)
        if self.vpd is not None:
            self._access_vpd(off, size)
        self._decode_command()
        if self._wants_flr(off, size, value) or self._wakes_reset(power):
            self.flr()
            return
        if self.command != before:
            self.command_changed(before, self.command)
        if self.msix is not None and self.msix.pending:
            self._send_pending()

    def _decode_command(self) -> None:
        """Keep what every access asks for in plain attributes."""
        command = 0 if self._power() else self.command
        self.memory_enabled = bool(command & PCI_COMMAND_MEMORY)
        self.io_enabled = bool(command & PCI_COMMAND_IO)
        self.bus_master = bool(command & PCI_COMMAND_MASTER)

    def _access_vpd(self, off: int, size: int) -> None:
        """A write to the flag of the VPD address register: transfer four bytes, turn the flag over."""
        at = self.config.caps.get(PCI_CAP_ID_VPD)
        if at is None or self.vpd is None or not off <= at + PCI_VPD_ADDR + 1 < off + size:
            return
        address = self.config.get(at + PCI_VPD_ADDR, 2)
        where = slice(address & PCI_VPD_ADDR_MASK, (address & PCI_VPD_ADDR_MASK) + 4)
        if address & PCI_VPD_ADDR_F:
            self.vpd[where] = self.config.get(at + PCI_VPD_DATA, 4).to_bytes(4, "little")
        else:
            self.config.put(at + PCI_VPD_DATA, 4, int.from_bytes(self.vpd[where].ljust(4, b"\0"), "little"))
        self.config.put(at + PCI_VPD_ADDR, 2, address ^ PCI_VPD_ADDR_F)

    def _power(self) -> int:
        """Power state: 0 is D0, 3 is D3hot."""
        at = self.config.caps.get(PCI_CAP_ID_PM)
        return 0 if at is None else self.config.get(at + PCI_PM_CTRL, 2) & PCI_PM_CTRL_STATE_MASK

    def _wakes_reset(self, before: int) -> bool:
        """From D3hot to D0: a reset, unless the function says No_Soft_Reset."""
        if before != 3 or self._power():
            return False
        return not self.config.get(self.config.caps[PCI_CAP_ID_PM] + PCI_PM_CTRL, 2) & PCI_PM_CTRL_NO_SOFT_RESET

    def _wants_flr(self, off: int, size: int, value: int) -> bool:
        af = self.config.caps.get(PCI_CAP_ID_AF)
        if af is not None and self.config.get(af + PCI_AF_CAP, 1) & PCI_AF_CAP_FLR:
            control = af + PCI_AF_CTRL
            if off <= control < off + size and value << 8 * off >> 8 * control & PCI_AF_CTRL_FLR:
                return True
        at = self.config.caps.get(PCI_CAP_ID_EXP)
        if at is None or not self.config.get(at + PCI_EXP_DEVCAP, 4) & PCI_EXP_DEVCAP_FLR:
            return False
        control = at + PCI_EXP_DEVCTL
        if not off <= control + 1 < off + size:
            return False
        return bool((value << 8 * off >> 8 * control) & PCI_EXP_DEVCTL_BCR_FLR)

    def command_changed(self, before: int, after: int) -> None:
        """COMMAND changed; a subclass that cares about bus mastering overrides this and calls it."""
        if (before ^ after) & PCI_COMMAND_INTX_DISABLE and self._intx:
            self.port.intx(not after & PCI_COMMAND_INTX_DISABLE)

    def flr(self) -> None:
        """Function-level reset: configuration, messages and (in the subclass) everything else go to their defaults."""
        self.config.reset()
        self._decode_command()
        if self.msix is not None:
            self.msix.reset()
        self.set_intx(asserted=False)

    def hot_reset(self) -> None:
        """A conventional reset, from the bridge above: as a function-level reset, unless the silicon knows better."""
        self.flr()

    # ------------------------------------------------------------------ memory space
    def mmio_sizes(self, *, wide: bool) -> list[int]:
        """The sizes of its 64-bit (*wide*) or other BARs, those of its virtual functions all together."""
        kind = PCI_BASE_ADDRESS_MEM_TYPE_64
        at = {PCI_BASE_ADDRESS_0 + 4 * bar: size for bar, size in self.bar_sizes.items()}
        sizes = [size for off, size in at.items() if bool(self.config.get(off, 1) & kind) == wide]
        sriov = self.config.ext_caps.get(PCI_EXT_CAP_ID_SRIOV)
        if sriov is not None and wide:
            vfs = self.config.get(sriov + PCI_SRIOV_TOTAL_VF, 2)
            sizes += [size * vfs for size in self.config.vf_bar_sizes.values()]
        return sizes

    def mmio_read(self, bar: int, off: int, size: int) -> int:
        """Memory read of 1, 2, 4 or 8 bytes from *bar*; I/O and the ROM (6), too."""
        if not self.memory_enabled or off + size > self.bar_sizes.get(bar, 0) or bar == 6 or bar in self.config.io_bars:
            return self._other_read(bar, off, size)
        if bar == self._msix_ranges[0] and self.msix is not None:
            _, table, pba, length = self._msix_ranges
            if table <= off < table + length:
                return int.from_bytes(self.msix.entries[off - table : off - table + size], "little")
            if pba <= off < pba + 8 * -(-self.msix.vectors // 64):
                return self.msix.read_pba(off - pba, size)
        return self.bar_read(bar, off, size)

    def mmio_write(self, bar: int, off: int, size: int, value: int) -> None:
        """Memory write of 1, 2, 4 or 8 bytes to *bar*; I/O, too."""
        if not self.memory_enabled or off + size > self.bar_sizes.get(bar, 0) or bar == 6 or bar in self.config.io_bars:
            if bar in self.config.io_bars and self.io_enabled and off + size <= self.bar_sizes[bar]:
                self.bar_write(bar, off, size, value)
            return
        if bar == self._msix_ranges[0] and self.msix is not None:
            _, table, pba, length = self._msix_ranges
            if table <= off < table + length:
                self._write_msix_table(off - table, size, value)
                return
            if pba <= off < pba + 8 * -(-self.msix.vectors // 64):
                return
        self.bar_write(bar, off, size, value)

    def _other_read(self, bar: int, off: int, size: int) -> int:
        """What is no memory BAR that decodes: the ROM, I/O, or nothing."""
        inside = off + size <= self.bar_sizes.get(bar, 0)
        if inside and bar == 6 and self.memory_enabled and self.config.get(PCI_ROM_ADDRESS, 4) & PCI_ROM_ADDRESS_ENABLE:
            return int.from_bytes(self.rom[off : off + size].ljust(size, b"\xff"), "little")
        if inside and bar in self.config.io_bars and self.io_enabled:
            return self.bar_read(bar, off, size)
        return (1 << 8 * size) - 1

    def bar_read(self, bar: int, off: int, size: int) -> int:
        """A read that decodes; what nothing claims reads as all ones."""
        return (1 << 8 * size) - 1

    def bar_write(self, bar: int, off: int, size: int, value: int) -> None:
        """A write that decodes; what nothing claims is dropped."""

    def vga_read(self, addr: int, size: int) -> int:
        """A read of VGA's legacy memory (from 0xA0000 on) or ports; a display adapter decodes them."""
        return (1 << 8 * size) - 1

    def vga_write(self, addr: int, size: int, value: int) -> None:
        """A write to VGA's legacy memory or ports."""

    def posted_write(self, bar: int, off: int, data: bytes) -> None:
        """A posted write longer than a register (MOVDIR64B): 8-byte register writes unless the silicon knows better."""
        for i in range(0, len(data), 8):
            self.mmio_write(bar, off + i, len(data[i : i + 8]), int.from_bytes(data[i : i + 8], "little"))

    def takes_dmwr(self, bar: int, off: int) -> bool:
        """Whether there is an enqueue register at *off* of *bar*: elsewhere a DMWr is an unsupported request."""
        return True

    def dmwr(self, bar: int, off: int, data: bytes) -> bool:
        """Deferrable memory write (ENQCMD, ENQCMDS): true when accepted, false for "retry"."""
        return False

    # ------------------------------------------------------------------ DMA
    def dma_read(self, addr: int, n: int, pasid: int | None = None, priv: bool = False) -> bytes:
        """Read memory through the port; without bus mastering it is a DmaFault."""
        if not self.bus_master:
            raise DmaFault(addr, write=False, reason="bus master disabled")
        return self.port.dma_read(addr, n, pasid, priv)

    def dma_write(self, addr: int, data: bytes | memoryview, pasid: int | None = None, priv: bool = False) -> None:
        """Write memory through the port; without bus mastering it is a DmaFault."""
        if not self.bus_master:
            raise DmaFault(addr, write=True, reason="bus master disabled")
        self.port.dma_write(addr, data, pasid, priv)

    def dma_view(
        self, addr: int, n: int, *, write: bool, pasid: int | None = None, priv: bool = False
    ) -> list[memoryview] | None:
        """
        The bytes at *addr* themselves, as an engine that copies wants them: pieces of the machine's RAM, in order.

        They are good until the function returns to its caller. None where memory is not like that.
        """
        if not self.bus_master:
            raise DmaFault(addr, write, "bus master disabled")
        return self.port.dma_view(addr, n, write=write, pasid=pasid, priv=priv)

    # ------------------------------------------------------------------ interrupts
    def _write_msix_table(self, off: int, size: int, value: int) -> None:
        assert self.msix is not None
        if off + size > len(self.msix.entries):
            return
        self.msix.entries[off : off + size] = value.to_bytes(size, "little")
        if self.msix.pending:
            self._send_pending()

    def _msix_flags(self) -> int:
        at = self.config.caps.get(PCI_CAP_ID_MSIX)
        return 0 if at is None else self.config.get(at + PCI_MSIX_FLAGS, 2)

    def raise_msix(self, vector: int) -> None:
        """Send the message of *vector*; masked, it stays pending; with MSI-X off it is lost."""
        if self.msix is None or vector >= self.msix.vectors:
            return
        flags = self._msix_flags()
        if not flags & PCI_MSIX_FLAGS_ENABLE or not self.bus_master:
            return
        if flags & PCI_MSIX_FLAGS_MASKALL or self.msix.masked(vector):
            self.msix.pending |= 1 << vector
            return
        self.port.msi_write(*self.msix.message(vector))

    def _send_pending(self) -> None:
        assert self.msix is not None
        flags = self._msix_flags() & (PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL)
        if flags != PCI_MSIX_FLAGS_ENABLE or not self.bus_master:
            return
        for vector in range(self.msix.vectors):
            if self.msix.pending >> vector & 1 and not self.msix.masked(vector):
                self.msix.pending &= ~(1 << vector)
                self.raise_msix(vector)

    @property
    def msi_enabled(self) -> bool:
        """MSI is there and switched on."""
        at = self.config.caps.get(PCI_CAP_ID_MSI)
        return at is not None and bool(self.config.get(at + PCI_MSI_FLAGS, 2) & PCI_MSI_FLAGS_ENABLE)

    def raise_msi(self, vector: int = 0) -> None:
        """Send MSI message *vector*; nothing while MSI or bus mastering is off."""
        if not self.msi_enabled or not self.bus_master:
            return
        at = self.config.caps[PCI_CAP_ID_MSI]
        wide = self.config.get(at + PCI_MSI_FLAGS, 2) & PCI_MSI_FLAGS_64BIT
        address = self.config.get(at + PCI_MSI_ADDRESS_LO, 4)
        if wide:
            address |= self.config.get(at + PCI_MSI_ADDRESS_HI, 4) << 32
        data = self.config.get(at + (PCI_MSI_DATA_64 if wide else PCI_MSI_DATA_32), 2)
        self.port.msi_write(address, data | vector)

    def set_intx(self, *, asserted: bool) -> None:
        """Drive the interrupt pin: status bit 3 follows, the port hears of it unless COMMAND disables INTx."""
        if asserted == self._intx:
            return
        self._intx = asserted
        status = self.config.get(PCI_STATUS, 2) & ~PCI_STATUS_INTERRUPT
        self.config.put(PCI_STATUS, 2, status | (PCI_STATUS_INTERRUPT if asserted else 0))
        if not self.command & PCI_COMMAND_INTX_DISABLE:
            self.port.intx(asserted)
