"""The configuration space of a card, byte by byte (samples/vfio-mdev/mtty.c:mtty_create_config_space())."""

from __future__ import annotations

from errno import EFAULT

import pytest
from errnos import errno_of

SPACE = {
    "vendor and device": (0x00, "48 43 53 32"),
    "command": (0x04, "01 00"),
    "status": (0x06, "00 02"),
    "revision": (0x08, "10"),
    "class": (0x09, "02 00 07"),
    "bar 0": (0x10, "01 00 00 00"),
    "bar 1": (0x14, "01 00 00 00"),
    "bar 2": (0x18, "00 00 00 00"),
    "subsystem": (0x2C, "48 43 53 32"),
    "no capabilities": (0x34, "00"),
    "interrupt line and pin": (0x3C, "00 01"),
    "filler": (0x40, "23 00 00 80 23 00 00 00 23 00 00 00 23"),
    "text": (0x60, "50 43 49 20 53 65 72 69 61 6c 2f 55 41 52 54"),
}


@pytest.mark.parametrize("row", SPACE)
def test_what_is_there(card, row):
    offset, text = SPACE[row]

    assert card.config(offset, len(text.split())).hex(" ") == text


def test_nothing_else_is_there(card):
    rest = bytearray(card.config(0, 0xFF))
    for offset, text in SPACE.values():
        rest[offset : offset + len(text.split())] = bytes(len(text.split()))

    assert rest == bytes(0xFF)


def test_a_card_of_one_port_has_one_bar(client):
    card = client.open(1)

    assert card.config(0x10, 8).hex(" ") == "01 00 00 00 00 00 00 00"


# offset, what is written, what is read afterwards
WRITES = {
    "interrupt line": (0x3C, "0b", "0b"),
    "interrupt line, four bytes": (0x3C, "0b 05 06 07", "0b 01 00 00"),
    "interrupt pin": (0x3D, "02", "01"),
    "command": (0x04, "07 00", "01 00"),
    "status": (0x06, "ff ff", "00 02"),
    "vendor": (0x00, "ff ff ff ff", "48 43 53 32"),
    "bar 0, size": (0x10, "ff ff ff ff", "f9 ff ff ff"),
    "bar 0, address": (0x10, "00 c0 00 00", "01 c0 00 00"),
    "bar 0, not aligned": (0x10, "06 c0 00 00", "07 c0 00 00"),
    "bar 0, two bytes": (0x10, "ff ff", "ff ff 00 00"),
    "bar 0, not from its start": (0x12, "ff ff", "00 00"),
    "bar 1, size": (0x14, "ff ff ff ff", "f9 ff ff ff"),
    "bar 2": (0x18, "ff ff ff ff", "00 00 00 00"),
    "bar 3": (0x1C, "ff ff ff ff", "00 00 00 00"),
    "bar 4": (0x20, "ff ff ff ff", "00 00 00 00"),
    "bar 5": (0x24, "ff ff ff ff", "00 00 00 00"),
    "rom": (0x30, "ff ff ff ff", "00 00 00 00"),
}


@pytest.mark.parametrize("row", WRITES)
def test_what_a_write_leaves(card, row):
    offset, written, read = WRITES[row]

    assert card.set_config(offset, bytes.fromhex(written)) == len(written.split())
    assert card.config(offset, len(read.split())).hex(" ") == read


def test_the_second_bar_of_a_card_of_one_port(client):
    card = client.open(1)
    card.set_config(0x14, b"\xff\xff\xff\xff")

    assert card.config(0x14, 4) == bytes(4)


def test_an_address_after_the_size(card):
    """The low bits of what is there are kept: here those of the mask."""
    card.set_config(0x10, b"\xff\xff\xff\xff")
    card.set_config(0x10, b"\x00\xd0\x00\x00")

    assert card.config(0x10, 4).hex(" ") == "01 d0 00 00"


def test_a_write_is_cut(card):
    """Four bytes, two, one, each where they are aligned; each piece is a write of its own."""
    card.set_config(0x3B, b"\xaa\xbb\xcc")  # 0x3b alone, then two at 0x3c, of which the first counts

    assert card.config(0x3B, 3).hex(" ") == "00 bb 01"


@pytest.mark.parametrize("region", [*range(2, 7), 8, 9, 100, (1 << 23) - 1])
def test_no_region(card, region):
    """Neither a port nor the configuration space."""
    assert errno_of(card.proc.pread, card.fd, 4, region << 40) == EFAULT
    assert errno_of(card.proc.pwrite, card.fd, b"1234", region << 40) == EFAULT
