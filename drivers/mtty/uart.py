"""
A serial port that reads back what is written to it (samples/vfio-mdev/mtty.c: handle_bar_read(), handle_bar_write()).

Each register is a byte, of which the name is that of include/uapi/linux/serial_reg.h.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final

__all__ = ["MAX_FIFO_SIZE", "SERIAL_PORT", "SerialPort"]

MAX_FIFO_SIZE: Final = 16

UART_RX: Final = 0
UART_TX: Final = 0
UART_IER: Final = 1
UART_IIR: Final = 2
UART_FCR: Final = 2
UART_LCR: Final = 3
UART_MCR: Final = 4
UART_LSR: Final = 5
UART_MSR: Final = 6
UART_SCR: Final = 7

UART_IER_RDI: Final = 0x01
UART_IER_THRI: Final = 0x02
UART_IER_RLSI: Final = 0x04
UART_IER_MSI: Final = 0x08

UART_IIR_MSI: Final = 0x00
UART_IIR_NO_INT: Final = 0x01
UART_IIR_THRI: Final = 0x02
UART_IIR_RDI: Final = 0x04
UART_IIR_RLSI: Final = 0x06
IIR_16550: Final = 0xC0

UART_FCR_ENABLE_FIFO: Final = 0x01
UART_FCR_CLEAR_RCVR: Final = 0x02
UART_FCR_CLEAR_XMIT: Final = 0x04

UART_LCR_DLAB: Final = 0x80

UART_MCR_DTR: Final = 0x01
UART_MCR_RTS: Final = 0x02
UART_MCR_OUT2: Final = 0x08
UART_MCR_AFE: Final = 0x20

UART_LSR_DR: Final = 0x01
UART_LSR_OE: Final = 0x02
UART_LSR_THRE: Final = 0x20
UART_LSR_TEMT: Final = 0x40

UART_MSR_DCTS: Final = 0x01
UART_MSR_DDSR: Final = 0x02
UART_MSR_CTS: Final = 0x10
UART_MSR_DSR: Final = 0x20
UART_MSR_DCD: Final = 0x80

# struct serial_port: registers, FIFO, head, tail, count, dlab, overrun, divisor, fcr, max_fifo_size, trigger level
SERIAL_PORT: Final = struct.Struct("<8s16sBBB??xHBBBx")


class SerialPort:
    """
    ``struct serial_port``; *trigger* raises the interrupt.

    The FIFO is a ring: empty is where head and tail meet, full is what ``count`` says. So a full one looks empty.
    """

    def __init__(self, trigger: Callable[[], None]) -> None:
        self.trigger = trigger
        self.reg = bytearray(8)
        self.fifo = bytearray(MAX_FIFO_SIZE)
        self.head = self.tail = self.count = 0
        self.dlab = self.overrun = False
        self.divisor = 0
        self.fcr = 0
        self.max_fifo_size = MAX_FIFO_SIZE
        self.intr_trigger_level = 0

    @property
    def empty(self) -> bool:
        """What the driver takes for an empty FIFO."""
        return self.head == self.tail

    def enabled(self, interrupt: int) -> bool:
        """Whether the bit *interrupt* of UART_IER is set."""
        return bool(self.reg[UART_IER] & interrupt)

    # ---- as a migration has it

    def save(self) -> bytes:
        """The 36 bytes of ``struct serial_port``."""
        return SERIAL_PORT.pack(
            self.reg, self.fifo, self.head, self.tail, self.count, self.dlab, self.overrun, self.divisor, self.fcr,
            self.max_fifo_size, self.intr_trigger_level,
        )  # fmt: skip

    def load(self, data: bytes) -> None:
        """What save() gave; nothing of it is checked."""
        (
            reg, fifo, self.head, self.tail, self.count, self.dlab, self.overrun, self.divisor, self.fcr,
            self.max_fifo_size, self.intr_trigger_level,
        ) = SERIAL_PORT.unpack(data)  # fmt: skip
        self.reg, self.fifo = bytearray(reg), bytearray(fifo)

    # ---- writes

    def write(self, offset: int, data: int) -> None:
        """handle_bar_write(): a register that is none, the line and the modem status keep nothing."""
        write = self.WRITES.get(offset)
        if write is not None:
            write(self, data)

    def _write_tx(self, data: int) -> None:
        if self.dlab:
            self.divisor |= data
        elif self.count < self.max_fifo_size:
            self.fifo[self.head % MAX_FIFO_SIZE] = data
            self.count += 1
            self.head = (self.head + 1) % MAX_FIFO_SIZE
            self.overrun = False
            if self.enabled(UART_IER_RDI) and self.count == self.intr_trigger_level:
                self.trigger()
        else:
            self.overrun = True
            if self.enabled(UART_IER_RLSI):
                self.trigger()

    def _write_ier(self, data: int) -> None:
        if self.dlab:
            self.divisor |= data << 8
            return
        self.reg[UART_IER] = data
        if data & UART_IER_THRI and self.empty:
            self.trigger()

    def _write_fcr(self, data: int) -> None:
        self.fcr = data
        if data & (UART_FCR_CLEAR_RCVR | UART_FCR_CLEAR_XMIT):
            self.count = self.head = self.tail = 0
        self.intr_trigger_level = 1  # whatever UART_FCR_TRIGGER_MASK asks for
        self.max_fifo_size = MAX_FIFO_SIZE if data & UART_FCR_ENABLE_FIFO else 1

    def _write_lcr(self, data: int) -> None:
        self.dlab = bool(data & UART_LCR_DLAB)
        if self.dlab:
            self.divisor = 0
        self.reg[UART_LCR] = data

    def _write_mcr(self, data: int) -> None:
        self.reg[UART_MCR] = data
        if self.enabled(UART_IER_MSI) and data & UART_MCR_OUT2:
            self.trigger()
        if self.enabled(UART_IER_MSI) and data & (UART_MCR_RTS | UART_MCR_DTR):
            self.trigger()

    def _write_scr(self, data: int) -> None:
        self.reg[UART_SCR] = data

    WRITES: Final = {
        UART_TX: _write_tx,
        UART_IER: _write_ier,
        UART_FCR: _write_fcr,
        UART_LCR: _write_lcr,
        UART_MCR: _write_mcr,
        UART_SCR: _write_scr,
    }

    # ---- reads

    def read(self, offset: int) -> int:
        """handle_bar_read(): what is no register reads 0."""
        read = self.READS.get(offset)
        return 0 if read is None else read(self)

    def _read_rx(self) -> int:
        if self.dlab:
            return self.divisor & 0xFF
        data = 0
        if not self.empty:
            data = self.fifo[self.tail % MAX_FIFO_SIZE]
            self.count = (self.count - 1) & 0xFF
            self.tail = (self.tail + 1) % MAX_FIFO_SIZE
        if self.empty and self.enabled(UART_IER_THRI):
            self.trigger()
        return data

    def _read_ier(self) -> int:
        return self.divisor >> 8 if self.dlab else self.reg[UART_IER] & 0x0F

    def _read_iir(self) -> int:
        pending = 0
        if self.enabled(UART_IER_RLSI) and self.overrun:
            pending |= UART_IIR_RLSI
        if self.enabled(UART_IER_RDI) and self.count >= self.intr_trigger_level:
            pending |= UART_IIR_RDI
        if self.enabled(UART_IER_THRI) and self.empty:
            pending |= UART_IIR_THRI
        if self.enabled(UART_IER_MSI) and self.reg[UART_MCR] & (UART_MCR_RTS | UART_MCR_DTR):
            pending |= UART_IIR_MSI
        return (pending or UART_IIR_NO_INT) | IIR_16550

    def _read_lcr(self) -> int:
        return self.reg[UART_LCR]

    def _read_mcr(self) -> int:
        return self.reg[UART_MCR]

    def _read_lsr(self) -> int:
        waiting = UART_LSR_TEMT | UART_LSR_THRE if self.empty else UART_LSR_DR
        return waiting | (UART_LSR_OE if self.overrun else 0)

    def _read_msr(self) -> int:
        status = UART_MSR_DSR | UART_MSR_DDSR | UART_MSR_DCD
        if not self.reg[UART_MCR] & UART_MCR_AFE or self.count < self.max_fifo_size:
            status |= UART_MSR_CTS | UART_MSR_DCTS
        return status

    def _read_scr(self) -> int:
        return self.reg[UART_SCR]

    READS: Final = {
        UART_RX: _read_rx,
        UART_IER: _read_ier,
        UART_IIR: _read_iir,
        UART_LCR: _read_lcr,
        UART_MCR: _read_mcr,
        UART_LSR: _read_lsr,
        UART_MSR: _read_msr,
        UART_SCR: _read_scr,
    }
