"""String helpers, by lib/ctype.c, lib/string_helpers.c, and what idxd's attributes answered on Linux 6.1.192."""

from errno import EINVAL

import pytest

from pykernel.lib.ctype import isspace, isxdigit
from pykernel.lib.string import match_string, skip_spaces, strim, strstrip, sysfs_match_string, sysfs_streq


def test_isspace_is_latin_1() -> None:
    """lib/ctype.c gives _S to 9..13, 32 and 160, and to nothing else."""
    assert [i for i in range(256) if isspace(chr(i))] == [9, 10, 11, 12, 13, 32, 160]
    assert not isspace("")


def test_isxdigit_is_ascii() -> None:
    assert "".join(chr(i) for i in range(256) if isxdigit(chr(i))) == "0123456789ABCDEFabcdef"
    assert not isxdigit("")


# Recorded on Linux 6.1.192: what wq0.0/mode, sysfs_streq(buf, "dedicated") and "shared", took; and the source
STREQ = [
    ("dedicated", "dedicated", True),
    ("dedicated\n", "dedicated", True),
    ("Dedicated", "dedicated", False),
    ("dedicate", "dedicated", False),
    ("dedicatedx", "dedicated", False),
    ("dedicated ", "dedicated", False),
    (" dedicated", "dedicated", False),
    ("shared\n\n", "shared", False),
    ("\n", "shared", False),
    ("", "\n", True),
    ("a\n", "a\n\n", True),  # either side may have the one newline more
]


@pytest.mark.parametrize(("a", "b", "equal"), STREQ)
def test_sysfs_streq(a: str, b: str, equal: bool) -> None:
    """One newline at the end of either string does not count."""
    assert sysfs_streq(a, b) is equal
    assert sysfs_streq(b, a) is equal


# Recorded on Linux 6.1.192: what wq0.0/name, strim(buf), read after a write
STRIM = [("a", "a"), ("a\n", "a"), ("  b c  \n", "b c"), ("x\ny\n", "x\ny"), ("\t", ""), ("\n\n", ""), ("\xe9", "\xe9")]


@pytest.mark.parametrize(("text", "name"), STRIM)
def test_strim(text: str, name: str) -> None:
    assert strim(text) == name
    assert strstrip(text) == name


def test_strim_takes_the_no_break_space_and_not_other_spaces_of_unicode() -> None:
    """0xa0 is white space in the kernel; 0x85 and 0x1c, which Python strips, are not."""
    assert strim("\xa0x\x85\xa0") == "x\x85"
    assert strim("\x1cx") == "\x1cx"
    assert skip_spaces(" \t x \n") == "x \n"


def test_match_string() -> None:
    """Only the sysfs flavour ignores a newline; a None ends the table; EINVAL when nothing matches."""
    table = ("none", "kernel", None, "user")
    assert match_string(table, "kernel") == 1
    assert sysfs_match_string(table, "kernel\n") == 1
    for function, text in [
        (match_string, "kernel\n"),
        (match_string, "user"),
        (sysfs_match_string, "user"),
        (match_string, ""),
    ]:
        with pytest.raises(OSError, match=rf"\[Errno {EINVAL}\]"):
            function(table, text)
        with pytest.raises(OSError, match=rf"\[Errno {EINVAL}\]"):
            function(("a", "b"), text)
