"""The registers of a port (samples/vfio-mdev/mtty.c:handle_bar_read(), handle_bar_write())."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pykernel.drivers.mtty.uart import SERIAL_PORT, SerialPort
from pykernel.uapi.linux import vfio as v

RX = TX = 0
IER, IIR, FCR, LCR, MCR, LSR, MSR, SCR = 1, 2, 2, 3, 4, 5, 6, 7
RDI, THRI, RLSI, MSI = 1, 2, 4, 8


@pytest.fixture
def interrupts(client, card):
    """How many since it was asked last; INTX is unmasked each time, as who handles it does."""
    fd = client.eventfd()
    card.device.signal_by(v.VFIO_PCI_INTX_IRQ_INDEX, [fd])

    def interrupts() -> int:
        n = client.signals(fd)
        card.device.set_irqs(0, v.VFIO_IRQ_SET_DATA_NONE | v.VFIO_IRQ_SET_ACTION_UNMASK, 0, 1)
        return n

    return interrupts


@pytest.mark.parametrize("port", [0, 1])
def test_what_is_written_is_read(card, port):
    for c in b"hello":
        card.outb(TX, c, port)

    assert bytes(card.inb(RX, port) for _ in range(5)) == b"hello"
    assert card.inb(RX, port) == 0
    assert card.inb(LSR, 1 - port) == 0x60


# ---- registers as they are at first, and after a write

FIRST = {"RX": (RX, 0), "IER": (IER, 0), "IIR": (IIR, 0xC1), "LCR": (LCR, 0), "MCR": (MCR, 0), "LSR": (LSR, 0x60),
         "MSR": (MSR, 0xB3), "SCR": (SCR, 0)}  # fmt: skip


@pytest.mark.parametrize("name", FIRST)
def test_at_first(card, name):
    register, value = FIRST[name]
    assert card.inb(register) == value


WRITTEN = {
    "IER keeps four bits for the reader": (IER, 0xFF, IER, 0x0F),
    "LCR": (LCR, 0x1B, LCR, 0x1B),
    "MCR": (MCR, 0x0B, MCR, 0x0B),
    "LSR is not written": (LSR, 0xFF, LSR, 0x60),
    "MSR is not written": (MSR, 0xFF, MSR, 0xB3),
    "SCR": (SCR, 0xA5, SCR, 0xA5),
    "FCR is not read": (FCR, 0x00, IIR, 0xC1),
}


@pytest.mark.parametrize("row", WRITTEN)
def test_a_register_written(card, row):
    register, value, read, result = WRITTEN[row]
    card.outb(register, value)

    assert card.inb(read) == result


# ---- the divisor


def test_the_divisor(card):
    """With DLAB, RX and IER are the divisor's bytes; writes are added to it by OR; DLAB set anew makes it 0."""
    card.outb(LCR, 0x80)
    card.outb(TX, 0x0C)
    card.outb(IER, 0x01)
    assert (card.inb(RX), card.inb(IER)) == (0x0C, 0x01)
    card.outb(TX, 0x30)
    assert card.inb(RX) == 0x3C

    card.outb(LCR, 0x03)
    assert (card.inb(RX), card.inb(IER)) == (0, 0)
    card.outb(LCR, 0x83)
    assert (card.inb(RX), card.inb(IER)) == (0, 0)


# ---- the FIFO


def test_fifteen_characters(card):
    for c in range(15):
        card.outb(TX, c)

    assert card.inb(LSR) == 0x01
    assert [card.inb(RX) for _ in range(15)] == list(range(15))
    assert card.inb(LSR) == 0x60


def test_quirk_a_full_fifo_looks_empty(card):
    """Empty is where head and tail meet; the seventeenth character is lost all the same."""
    for c in range(16):
        card.outb(TX, c)
    assert card.inb(LSR) == 0x60
    assert card.inb(RX) == 0

    card.outb(TX, 0xFF)
    assert card.inb(LSR) == 0x62  # and the overrun is told


def test_an_overrun(card):
    """Of a FIFO of one character; the next one that has room ends it."""
    card.outb(FCR, 0)
    card.outb(TX, 1)
    card.outb(TX, 2)
    assert card.inb(LSR) == 0x03
    assert card.inb(RX) == 1
    assert card.inb(LSR) == 0x62
    card.outb(TX, 3)
    assert card.inb(LSR) == 0x01


@pytest.mark.parametrize("clear", [0x02, 0x04, 0x06])
def test_clearing_the_fifo(card, clear):
    card.outb(TX, 1)
    card.outb(FCR, 0x01 | clear)

    assert card.inb(LSR) == 0x60


def test_flow_control(card):
    """With AFE, CTS is there while the FIFO has room."""
    card.outb(FCR, 0)
    card.outb(MCR, 0x20)
    assert card.inb(MSR) == 0xB3
    card.outb(TX, 1)
    assert card.inb(MSR) == 0xA2
    card.inb(RX)
    assert card.inb(MSR) == 0xB3


# ---- what interrupts


@pytest.mark.parametrize("trigger", [0x01, 0x41, 0x81, 0xC1])
def test_a_character_interrupts(card, interrupts, trigger):
    """At level 1, whatever FCR asks for; the level is met once."""
    card.outb(FCR, trigger)
    card.outb(IER, RDI)
    card.outb(TX, 1)
    assert interrupts() == 1
    card.outb(TX, 2)
    assert interrupts() == 0


def test_no_character_interrupts_before_fcr(card, interrupts):
    """The level is 0 at first, which no count meets."""
    card.outb(IER, RDI)
    card.outb(TX, 1)

    assert interrupts() == 0


def test_room_interrupts(card, interrupts):
    """When it is asked for while the FIFO is empty, and with the read that empties it, or finds it so."""
    card.outb(IER, THRI)
    assert interrupts() == 1
    card.outb(TX, 1)
    card.outb(TX, 2)
    card.inb(RX)
    assert interrupts() == 0
    card.inb(RX)
    assert interrupts() == 1
    card.inb(RX)
    assert interrupts() == 1


def test_an_overrun_interrupts(card, interrupts):
    card.outb(FCR, 0)
    card.outb(IER, RLSI)
    card.outb(TX, 1)
    assert interrupts() == 0
    card.outb(TX, 2)
    assert interrupts() == 1


@pytest.mark.parametrize(
    ("mcr", "times"), [(0x08, 1), (0x01, 1), (0x02, 1), (0x03, 1), (0x0B, 2), (0x10, 0), (0x00, 0)]
)
def test_the_modem_interrupts(card, interrupts, profile, mcr, times):
    """For OUT2, and for RTS or DTR; from Linux 6.8 on the second is masked by the first."""
    card.outb(IER, MSI)
    card.outb(MCR, mcr)

    assert interrupts() == (times if profile == "linux-6.1" else min(times, 1))


# ---- IIR: what is pending, ORed

PENDING = {
    "nothing": (0, 0, 0, 0xC1),
    "room": (THRI, 0, 0, 0xC2),
    "a character": (RDI, 1, 0, 0xC4),
    "room is not, with a character": (THRI, 1, 0, 0xC1),
    "overrun": (RLSI, 2, 0, 0xC6),
    "overrun and a character": (RLSI | RDI, 2, 0, 0xC6),
    "the modem has no bit": (MSI, 0, 3, 0xC1),
    "no character": (RDI, 0, 0, 0xC1),
}


@pytest.mark.parametrize("row", PENDING)
def test_what_is_pending(card, row):
    ier, characters, mcr, iir = PENDING[row]
    card.outb(FCR, 0)  # room for one character, and level 1
    card.outb(IER, ier)
    card.outb(MCR, mcr)
    for c in range(characters):
        card.outb(TX, c)

    assert card.inb(IIR) == iir


def test_pending_before_fcr(card):
    """Level 0 is met by an empty FIFO."""
    card.outb(IER, RDI | THRI)

    assert card.inb(IIR) == 0xC6


# ---- how it is accessed


@pytest.mark.parametrize(("n", "read"), [(1, "41"), (2, "4100"), (4, "41000000"), (8, "4100000000000000")])
def test_a_wide_read(card, n, read):
    """A register gives one byte; a read of 8 bytes is one of register 0 and one of register 4."""
    card.outb(TX, 0x41)

    assert card.proc.pread(card.fd, n, 0).hex() == read
    assert card.inb(LSR) == 0x60


def test_a_wide_write(card):
    """The first byte counts."""
    card.proc.pwrite(card.fd, b"ABCD", 0)
    card.proc.pwrite(card.fd, b"EF", 0)

    assert [card.inb(RX), card.inb(RX), card.inb(RX)] == [0x41, 0x45, 0]


@pytest.mark.parametrize("register", [8, 9, 100, 0x10000 - 1])
def test_no_register(card, register):
    card.outb(register, 0xFF)
    assert card.inb(register) == 0


def test_quirk_registers_repeat_after_64_kib(card):
    """handle_bar_read() has its offset in 16 bits."""
    card.outb(0x10000 + SCR, 7)

    assert card.inb(SCR) == 7


# ---- the port beside a model that knows nothing of rings


@given(st.lists(st.one_of(st.integers(0, 255), st.just(None)), max_size=60))
def test_a_fifo(script):
    """Characters come out in order; more than 15 at once are beyond what the ring can tell from none."""
    port, model = SerialPort(lambda: None), []
    for c in script:
        if c is None:
            assert port.read(RX) == (model.pop(0) if model else 0)
        elif len(model) < 15:
            port.write(TX, c)
            model.append(c)
        assert (port.count, port.empty) == (len(model), not model)


@given(st.binary(min_size=SERIAL_PORT.size, max_size=SERIAL_PORT.size))
def test_what_is_loaded_is_saved(data):
    port = SerialPort(lambda: None)
    port.load(data)
    saved = bytearray(data)
    saved[27], saved[28], saved[29], saved[35] = bool(data[27]), bool(data[28]), 0, 0  # bools, and what pads

    assert port.save() == saved
    for register in range(8):
        port.read(register)
        port.write(register, 0)
