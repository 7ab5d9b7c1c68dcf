"""Bitmaps as text: rows by lib/bitmap.c and its documentation, and texts that Linux 6.1.192 and 7.2 printed or took."""

from collections.abc import Callable
from errno import EINVAL, EOVERFLOW, ERANGE

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pykernel.lib.bitmap import (
    bitmap_list_string,
    bitmap_parse,
    bitmap_parselist,
    bitmap_print_to_pagebuf,
    bitmap_string,
)


def check(function: Callable[[str, int], int], text: str, nbits: int, answer: str | int) -> None:
    if isinstance(answer, int):
        with pytest.raises(OSError, match=rf"\[Errno {answer}\]"):
            function(text, nbits)
    else:
        assert bin(function(text, nbits)) == bin(int(answer, 16))


# What op_config (256 bits) answered on Linux 7.2, and lib/bitmap.c:bitmap_parse(); numbers are hexadecimal
PARSE = [
    ("\n", 256, "0"),
    ("", 32, "0"),
    (" ", 32, "0"),
    (",", 32, "0"),
    ("1,,1", 256, "100000001"),
    (",1", 256, "1"),
    ("1,", 256, "1"),
    (" 1", 256, "1"),
    ("\xa01\t", 256, "1"),
    ("0x1", 256, EINVAL),
    ("123456789", 256, EOVERFLOW),  # nine digits in a chunk
    ("1,1,1,1,1,1,1,1", 256, "1" + "00000001" * 7),
    ("1,1,1,1,1,1,1,1,1", 256, EOVERFLOW),  # a ninth chunk
    ("deadbeef", 32, "deadbeef"),
    ("DEADbeef\n", 32, "deadbeef"),
    ("1\njunk", 32, "1"),  # a newline ends the text
    ("1,0", 33, "100000000"),
    ("2,0", 33, EOVERFLOW),  # bit 33
    ("f", 4, "f"),
    ("1f", 4, EOVERFLOW),
    ("1 2", 64, "100000002"),  # blanks part chunks
    ("g", 32, EINVAL),
    ("1g", 32, EINVAL),
    ("-1", 32, EINVAL),
    ("1-2", 32, EINVAL),
]


@pytest.mark.parametrize(("text", "nbits", "answer"), PARSE)
def test_bitmap_parse(text: str, nbits: int, answer: str | int) -> None:
    check(bitmap_parse, text, nbits, answer)


def test_quirk_the_ninth_character_of_a_chunk_is_skipped() -> None:
    """bitmap_get_x32_reverse() drops what it tried as a ninth digit: junk passes there, and "0x" before 8 digits."""
    assert bitmap_parse("x12345678", 32) == 0x12345678
    assert bitmap_parse("0x12345678", 64) == 0x12345678
    check(bitmap_parse, "0x12345678", 32, EOVERFLOW)


# lib/bitmap.c:bitmap_parselist()
PARSELIST = [
    ("", 8, "0"),
    ("\n", 8, "0"),
    (" ,, \t,", 8, "0"),
    ("0", 8, "1"),
    ("7", 8, "80"),
    ("8", 8, ERANGE),
    ("0-3,5", 8, "2f"),
    (" 0-3 , 5 \n", 8, "2f"),
    ("N", 8, "80"),
    ("4-N", 8, "f0"),
    ("all", 8, "ff"),
    ("ALL", 8, "ff"),
    ("al", 8, EINVAL),
    ("0-31:1/4", 32, "11111111"),
    ("0-31:2/4", 32, "33333333"),
    ("all:1/2", 32, "55555555"),
    ("0-5:0/2", 8, "0"),
    ("3-1", 8, EINVAL),
    ("0-8", 8, ERANGE),
    ("-1", 8, EINVAL),
    ("1-", 8, EINVAL),
    ("0-3:", 8, EINVAL),
    ("0-3:1", 8, EINVAL),
    ("0-3:1/", 8, EINVAL),
    ("0-3:1/0", 8, EINVAL),
    ("0-3:3/2", 8, EINVAL),
    ("0:1/2", 8, EINVAL),  # a pattern needs a range
    ("0x1", 8, EINVAL),
    ("4294967295", 8, EINVAL),  # end + 1 is 0 in 32 bits, a group of no bits
    ("4294967296", 8, EOVERFLOW),
    ("0,\n5", 8, "21"),
    ("0\n5", 8, "1"),
]


@pytest.mark.parametrize(("text", "nbits", "answer"), PARSELIST)
def test_bitmap_parselist(text: str, nbits: int, answer: str | int) -> None:
    check(bitmap_parselist, text, nbits, answer)


def test_quirk_a_group_above_the_list_wraps() -> None:
    """The next start is 32 bits wide: a group of 2**32 - 1 bits steps back by one."""
    assert bitmap_parselist("2-3:1/4294967295", 8) == 0b111


# Recorded on Linux 6.1.192 and 7.2: op_cap and, on 7.2, errors, "%*pb" of 256 bits; and lib/vsprintf.c:bitmap_string()
PRINTED = [
    (0x1_003F03FD, 256, "00000000," * 6 + "00000001,003f03fd"),
    (0x7F331C << 64 | 0xD, 256, "00000000," * 5 + "007f331c,00000000,0000000d"),
    (0, 256, "00000000," * 7 + "00000000"),
    (0, 1, "0"),
    (0xF, 4, "f"),
    (0x1F, 5, "1f"),
    (0x1FF, 33, "0,000001ff"),
    (0xFFF, 8, "ff"),  # bits above the size do not show
]


@pytest.mark.parametrize(("bitmap", "nbits", "text"), PRINTED)
def test_bitmap_string(bitmap: int, nbits: int, text: str) -> None:
    assert bitmap_string(bitmap, nbits) == text
    assert bitmap_print_to_pagebuf(bitmap, nbits) == text + "\n"


# lib/vsprintf.c:bitmap_list_string()
LISTED = [
    (0, 8, ""),
    (1, 8, "0"),
    (0b110, 8, "1-2"),
    (0b1011_0011, 8, "0-1,4-5,7"),
    (0xFF, 8, "0-7"),
    (0xFF0F, 12, "0-3,8-11"),
]


@pytest.mark.parametrize(("bitmap", "nbits", "text"), LISTED)
def test_bitmap_list_string(bitmap: int, nbits: int, text: str) -> None:
    assert bitmap_list_string(bitmap, nbits) == text
    assert bitmap_print_to_pagebuf(bitmap, nbits, as_list=True) == text + "\n"


def test_print_to_pagebuf_stops_at_the_page() -> None:
    """scnprintf() leaves room for the NUL: 4095 characters."""
    assert len(bitmap_print_to_pagebuf(0, 32 * 1000)) == 4095


@given(st.integers(1, 300), st.data())
def test_both_forms_read_back(nbits: int, data: st.DataObject) -> None:
    bitmap = data.draw(st.integers(0, (1 << nbits) - 1))

    assert bitmap_parse(bitmap_string(bitmap, nbits), nbits) == bitmap
    assert bitmap_parselist(bitmap_list_string(bitmap, nbits), nbits) == bitmap


@given(st.lists(st.tuples(st.integers(0, 63), st.integers(0, 63)), max_size=5))
def test_parselist_is_the_union_of_its_ranges(ranges: list[tuple[int, int]]) -> None:
    """A list means the set of numbers it names."""
    ranges = [(min(pair), max(pair)) for pair in ranges]

    bitmap = bitmap_parselist(",".join(f"{a}-{b}" for a, b in ranges), 64)

    assert {i for i in range(64) if bitmap >> i & 1} == {i for a, b in ranges for i in range(a, b + 1)}
