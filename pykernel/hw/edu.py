"""
QEMU's educational device, 1234:11e8: an inverter, a factorial unit, interrupts on request and a DMA engine.

Behaviour as documented in QEMU's docs/specs/edu.rst and recorded of QEMU 7.2: registers below 0x80 take aligned 4-byte
accesses only, the rest 4 or 8. What is too narrow or not aligned never reaches the device and reads as zeros; other
reads of nothing are all ones. A 4-byte write to a DMA register sets all of it. A reset does not reach the registers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from pykernel.hw.options import Integer, check_options
from pykernel.pci.config import ConfigSpace
from pykernel.pci.function import DmaFault, PciFunction
from pykernel.uapi.linux.pci_regs import (
    PCI_COMMAND_INTX_DISABLE,
    PCI_COMMAND_IO,
    PCI_COMMAND_MASTER,
    PCI_COMMAND_MEMORY,
    PCI_COMMAND_SERR,
)

__all__ = ["EduFunction", "make_edu"]

OPTIONS = {"dma_mask": Integer(0, (1 << 64) - 1)}

IDENTIFICATION = 0x010000ED
LIVENESS, FACTORIAL, STATUS, IRQ_STATUS, IRQ_RAISE, IRQ_ACK = 0x04, 0x08, 0x20, 0x24, 0x60, 0x64
DMA_SRC, DMA_DST, DMA_COUNT, DMA_CMD = 0x80, 0x88, 0x90, 0x98
STATUS_COMPUTING, STATUS_IRQFACT = 0x01, 0x80
READABLE: tuple[int, ...] = (LIVENESS, FACTORIAL, STATUS, IRQ_STATUS, DMA_SRC, DMA_DST, DMA_COUNT, DMA_CMD)
FACT_IRQ, DMA_IRQ = 0x001, 0x100
DMA_RUN, DMA_TO_PCI, DMA_RAISE = 0x1, 0x2, 0x4
BUFFER_START, BUFFER_SIZE = 0x40000, 4096
PAGE = 4096
MSI_CAP, BEHIND_MSI = 0x40, 0x4E
M32 = 0xFFFFFFFF


def factorial(n: int) -> int:
    """n! modulo 2**32, the way a 32-bit register computes it (0 from 34 on)."""
    result = 1
    while n > 0 and result:
        result = result * n & M32 if n < 34 else 0
        n -= 1
    return result


class EduFunction(PciFunction):
    """The device; *dma_mask* is the address bits of its DMA engine (QEMU's default is 28 of them)."""

    def __init__(self, dma_mask: int = (1 << 28) - 1) -> None:
        command = PCI_COMMAND_IO | PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER | PCI_COMMAND_SERR | PCI_COMMAND_INTX_DISABLE
        config = ConfigSpace(
            0x1234,
            0x11E8,
            0x00FF00,
            revision=0x10,
            subsystem=(0x1AF4, 0x1100),
            interrupt_pin=1,
            command_rw=command,
            size=256,
        )
        config.define(MSI_CAP, 192, 0, rw=(1 << 8 * 192) - 1)  # QEMU leaves what is no capability writable
        config.add_bar(0, 1 << 20, wide=False, prefetch=False)
        config.add_msi(MSI_CAP)
        config.settle()
        super().__init__(config)
        self.dma_mask = dma_mask
        self.registers = dict[int, int].fromkeys(READABLE, 0)
        self.buffer = bytearray(BUFFER_SIZE)

    def config_write(self, off: int, size: int, value: int) -> None:
        """While MSI is enabled the pin is not asserted, and it stays so after. Recorded of QEMU's MSI."""
        super().config_write(off, size, value)
        if self.msi_enabled:
            self.set_intx(asserted=False)

    def bar_read(self, bar: int, off: int, size: int) -> int:
        """BAR0 registers."""
        if size < 4 or off % size:
            return 0
        if size == 8 and off < DMA_SRC:
            return (1 << 64) - 1
        value = IDENTIFICATION if off == 0 else self.registers.get(off, -1)
        return value & (1 << 8 * size) - 1

    def bar_write(self, bar: int, off: int, size: int, value: int) -> None:
        """BAR0 registers and what they set off."""
        if size not in ((4,) if off < DMA_SRC else (4, 8)) or off % size:
            return
        actions: dict[int, Callable[[int], None]] = {
            LIVENESS: self._invert,
            FACTORIAL: self._start_factorial,
            STATUS: self._set_status,
            IRQ_RAISE: self._raise,
            IRQ_ACK: self._ack,
            DMA_CMD: self._start_dma,
        }
        if off in actions:
            actions[off](value)
        elif off in (DMA_SRC, DMA_DST, DMA_COUNT) and not self.registers[DMA_CMD] & DMA_RUN:
            self.registers[off] = value

    def _invert(self, value: int) -> None:
        self.registers[LIVENESS] = ~value & M32

    # ------------------------------------------------------------------ factorial
    def _start_factorial(self, value: int) -> None:
        if self.registers[STATUS] & STATUS_COMPUTING:
            return
        self.registers[FACTORIAL] = value
        self.registers[STATUS] |= STATUS_COMPUTING
        self.port.call_soon(self._finish_factorial)

    def _finish_factorial(self) -> None:
        if not self.registers[STATUS] & STATUS_COMPUTING:
            return
        self.registers[FACTORIAL] = factorial(self.registers[FACTORIAL])
        self.registers[STATUS] &= ~STATUS_COMPUTING
        if self.registers[STATUS] & STATUS_IRQFACT:
            self._raise(FACT_IRQ)

    def _set_status(self, value: int) -> None:
        self.registers[STATUS] = self.registers[STATUS] & ~STATUS_IRQFACT | value & STATUS_IRQFACT

    # ------------------------------------------------------------------ interrupts
    def _raise(self, value: int) -> None:
        self.registers[IRQ_STATUS] |= value
        if not self.registers[IRQ_STATUS]:
            return
        if self.msi_enabled:
            self.raise_msi()
        else:
            self.set_intx(asserted=True)

    def _ack(self, value: int) -> None:
        self.registers[IRQ_STATUS] &= ~value
        if not self.registers[IRQ_STATUS] and not self.msi_enabled:
            self.set_intx(asserted=False)

    # ------------------------------------------------------------------ DMA
    def _start_dma(self, value: int) -> None:
        if not value & DMA_RUN or self.registers[DMA_CMD] & DMA_RUN:
            return
        self.registers[DMA_CMD] = value
        self.port.call_soon(self._finish_dma)

    def _finish_dma(self) -> None:
        command = self.registers[DMA_CMD]
        if not command & DMA_RUN:
            return
        self._transfer(to_pci=bool(command & DMA_TO_PCI))
        self.registers[DMA_CMD] &= ~DMA_RUN
        if command & DMA_RAISE:
            self._raise(DMA_IRQ)

    def _transfer(self, *, to_pci: bool) -> None:
        """Copy between buffer and memory, a page at a time; a range outside the buffer moves nothing."""
        src, dst, count = (self.registers[r] for r in (DMA_SRC, DMA_DST, DMA_COUNT))
        at, addr = (src if to_pci else dst) - BUFFER_START, (dst if to_pci else src) & self.dma_mask
        if at < 0 or at + count > BUFFER_SIZE:
            return
        move = self._out if to_pci else self._in
        while count > 0:
            n = min(count, PAGE - addr % PAGE)
            move(at, addr, n)
            at, addr, count = at + n, addr + n, count - n

    def _out(self, at: int, addr: int, n: int) -> None:
        with suppress(DmaFault):
            self.dma_write(addr, bytes(self.buffer[at : at + n]))

    def _in(self, at: int, addr: int, n: int) -> None:
        """Memory that is not there reads as zeros."""
        try:
            self.buffer[at : at + n] = self.dma_read(addr, n)
        except DmaFault:
            self.buffer[at : at + n] = bytes(n)

    def flr(self) -> None:
        """Reset by the bus: of configuration space the header and MSI; bytes that nobody defined stay as well."""
        behind = self.config.get(BEHIND_MSI, 256 - BEHIND_MSI)
        super().flr()
        self.config.put(BEHIND_MSI, 256 - BEHIND_MSI, behind)


def make_edu(options: Mapping[str, Any]) -> EduFunction:
    """Make an ``edu`` from the options of a machine file."""
    check_options("edu", options, OPTIONS)
    return EduFunction(**options)
