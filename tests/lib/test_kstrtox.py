"""Integers from text: answers of idxd's attributes recorded on Linux 6.1.192 and 7.2, and lib/kstrtox.c's rules."""

from collections.abc import Callable
from errno import EINVAL, ERANGE

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pykernel.lib import kstrtox
from pykernel.lib.kstrtox import (
    kstrtobool,
    kstrtoint,
    kstrtol,
    kstrtoll,
    kstrtos8,
    kstrtos16,
    kstrtos32,
    kstrtos64,
    kstrtou8,
    kstrtou16,
    kstrtou32,
    kstrtou64,
    kstrtouint,
    kstrtoul,
    kstrtoull,
)

MANY_NINES = "9" * 40
OVER = "18446744073709551616"


def errno_of(function: Callable[..., object], *args: object, **kwargs: object) -> int | None:
    try:
        function(*args, **kwargs)
    except OSError as e:
        return e.errno
    return None


# Recorded on Linux 6.1.192 (the same on 7.2): what wq0.0/enqcmds_retries, kstrtouint(buf, 10), answered to a write.
RETRIES = [
    ("", EINVAL),  # the store is not called for an empty write; the function itself refuses it
    ("\n", EINVAL),
    (" ", EINVAL),
    ("0", 0),
    ("1", 1),
    ("1\n", 1),
    ("1\n\n", EINVAL),
    ("+1", 1),
    ("-1", EINVAL),
    ("-2", EINVAL),
    ("--1", EINVAL),
    ("0x2", EINVAL),
    ("0X2", EINVAL),
    ("02", 2),
    ("1 ", EINVAL),
    (" 1", EINVAL),
    ("1x", EINVAL),
    ("x", EINVAL),
    ("1.5", EINVAL),
    ("1,2", EINVAL),
    ("true", EINVAL),
    ("\xff", EINVAL),
    ("4294967295", 4294967295),
    ("4294967296", ERANGE),
    ("9223372036854775808", ERANGE),
    ("18446744073709551615", ERANGE),
    ("18446744073709551616", ERANGE),
    (MANY_NINES, ERANGE),
    ("0x10", EINVAL),
]


@pytest.mark.parametrize(("text", "answer"), RETRIES)
def test_kstrtouint_as_recorded(text: str, answer: int | bool) -> None:
    """kstrtouint(base 10) accepts, and refuses with the errno, what the real attribute did."""
    if answer in (EINVAL, ERANGE):
        assert errno_of(kstrtouint, text, 10) == answer
    else:
        assert kstrtouint(text, 10) == answer


# Recorded on Linux 6.1.192: (attribute, function and base of its store, accepted, refused). These stores make EINVAL of
# any parse error, so only acceptance is told.
ACCEPTANCE: list[tuple[str, Callable[[str], int], dict[str, int], list[str]]] = [
    (
        "group0.0/use_read_buffer_limit",
        lambda s: kstrtoul(s, 10),
        {"0": 0, "1": 1, "1\n": 1, "+1": 1, "02": 2, "4294967295": 2**32 - 1, "4294967296": 2**32}
        | {"9223372036854775808": 2**63, "18446744073709551615": 2**64 - 1, "255": 255},
        [
            "\n",
            " ",
            "1\n\n",
            "-1",
            "-2",
            "--1",
            "0x2",
            "0X2",
            "1 ",
            " 1",
            "1x",
            "x",
            "1.5",
            "1,2",
            "true",
            "\xff",
            "y",
            OVER,
        ],
    ),
    (
        "group0.0/traffic_class_a",
        lambda s: kstrtol(s, 10),
        {"0": 0, "1": 1, "1\n": 1, "+1": 1, "-1": -1, "-2": -2, "02": 2, "4294967295": 2**32 - 1, "-0": 0},
        ["\n", " ", "1\n\n", "--1", "0x2", "1 ", " 1", "1x", "x", "1.5", "1,2", "true", "\xff", MANY_NINES, OVER],
    ),
    (
        "wq0.0/threshold",
        lambda s: kstrtouint(s, 0),
        {"1": 1, "1\n": 1, "+1": 1, "0x2": 2, "0X2": 2, "02": 2, "16": 16, "0x10": 16, "020": 16},
        ["\n", " ", "1\n\n", "-1", "--1", "1 ", " 1", "1x", "x", "0b1", "1.5", "1,2", "true", "\xff", MANY_NINES],
    ),
    (
        "wq0.0/max_transfer_size",
        lambda s: kstrtou64(s, 0),
        {"1": 1, "1\n": 1, "+1": 1, "0x2": 2, "0X2": 2, "02": 2, "010000": 4096, "0x1000": 4096}
        | {"18446744073709551615": 2**64 - 1, "9223372036854775809": 2**63 + 1},
        ["\n", " ", "1\n\n", "-1", "-2", "--1", "1 ", " 1", "1x", "x", "1.5", "1,2", "true", "\xff", MANY_NINES, OVER],
    ),
]


@pytest.mark.parametrize(
    ("function", "good", "bad"), [row[1:] for row in ACCEPTANCE], ids=[row[0] for row in ACCEPTANCE]
)
def test_acceptance_as_recorded(function: Callable[..., int], good: dict[str, int], bad: list[str]) -> None:
    """Each function takes exactly what the attribute that uses it took."""
    assert {text: function(text) for text in good} == good
    assert {errno_of(function, text) for text in bad} <= {EINVAL, ERANGE}


# lib/kstrtox.c: limits of the types, and what lies beyond
LIMITS = [
    (kstrtoull, 0, 2**64 - 1),
    (kstrtoul, 0, 2**64 - 1),
    (kstrtou64, 0, 2**64 - 1),
    (kstrtouint, 0, 2**32 - 1),
    (kstrtou32, 0, 2**32 - 1),
    (kstrtou16, 0, 2**16 - 1),
    (kstrtou8, 0, 2**8 - 1),
    (kstrtoll, -(2**63), 2**63 - 1),
    (kstrtol, -(2**63), 2**63 - 1),
    (kstrtos64, -(2**63), 2**63 - 1),
    (kstrtoint, -(2**31), 2**31 - 1),
    (kstrtos32, -(2**31), 2**31 - 1),
    (kstrtos16, -(2**15), 2**15 - 1),
    (kstrtos8, -(2**7), 2**7 - 1),
]


@pytest.mark.parametrize(("function", "low", "high"), LIMITS, ids=[row[0].__name__ for row in LIMITS])
def test_limits(function: Callable[..., int], low: int, high: int) -> None:
    """The limits themselves fit; one more is ERANGE; a minus before an unsigned number is EINVAL."""
    assert function(str(high), 10) == high
    assert function(str(low), 0) == low
    assert errno_of(function, str(high + 1), 10) == ERANGE
    assert errno_of(function, str(low - 1), 10) == (ERANGE if low else EINVAL)


def test_every_function_is_in_the_table_of_limits() -> None:
    named = {row[0].__name__ for row in LIMITS}
    assert named == {name for name in kstrtox.__all__ if name.startswith("kstrto")} - {"kstrtobool"}


# lib/kstrtox.c:_parse_integer_fixup_radix(), _kstrtoull()
RADIX = [
    ("0x1f", 0, 31),
    ("0X1F", 16, 31),
    ("1f", 16, 31),
    ("0x", 0, EINVAL),  # octal 0, then junk
    ("0x", 16, EINVAL),  # no digit behind the prefix
    ("0xg", 0, EINVAL),
    ("017", 0, 15),
    ("08", 0, EINVAL),
    ("0", 0, 0),
    ("0x10", 10, EINVAL),
    ("0x10", 8, EINVAL),
    ("101", 2, 5),
    ("102", 2, EINVAL),
    ("+0x10", 0, 16),
    ("0x+10", 0, EINVAL),
    ("+-1", 10, EINVAL),
    ("-+1", 10, EINVAL),
    ("++1", 10, EINVAL),
    ("+", 10, EINVAL),
    ("-", 10, EINVAL),
    ("-0x10", 0, -16),
    ("1\n ", 10, EINVAL),
    ("\n1", 10, EINVAL),
    ("0xffffffffffffffffg", 16, EINVAL),
    ("0x10000000000000000g", 16, ERANGE),  # overflow is told before junk
    ("99999999999999999999 junk", 10, ERANGE),
    ("0" * 5000 + "7", 10, 7),
    ("\u00b2", 10, EINVAL),  # a digit for Python, not for the kernel
]


@pytest.mark.parametrize(("text", "base", "answer"), RADIX, ids=[ascii(row[0][:24]) + f"-{row[1]}" for row in RADIX])
def test_radix_and_order_of_errors(text: str, base: int, answer: int | bool) -> None:
    """Prefixes by base; only one sign, before the prefix; overflow wins over junk."""
    if answer in (EINVAL, ERANGE):
        assert errno_of(kstrtoll, text, base) == answer
    else:
        assert kstrtoll(text, base) == answer


@given(
    st.integers(-(2**63), 2**63 - 1), st.sampled_from([("", 10, "d"), ("0x", 16, "x"), ("0", 8, "o"), ("0x", 0, "x")])
)
def test_what_python_prints_reads_back(value: int, form: tuple[str, int, str]) -> None:
    """Any 64-bit number printed in a base is read back in it."""
    prefix, base, code = form
    sign = "-" if value < 0 else ""

    assert kstrtoll(f"{sign}{prefix}{abs(value):{code}}\n", base) == value


# Recorded on Linux 6.1.192 and 7.2: wq0.0/block_on_fault and wq0.0/ats_disable, kstrtobool(buf)
BOOLS = [
    ("", EINVAL),
    ("\n", EINVAL),
    ("0", False),
    ("1", True),
    ("1\n", True),
    ("y", True),
    ("n", False),
    ("Y", True),
    ("N", False),
    ("t", True),
    ("f", False),
    ("T", True),
    ("F", False),
    ("on", True),
    ("off", False),
    ("ON", True),
    ("oN", True),
    ("o", EINVAL),
    ("of", False),
    ("2", EINVAL),
    ("10", True),
    ("01", False),
    ("yes", True),
    ("no", False),
    ("true", True),
    (" 1", EINVAL),
    ("-1", EINVAL),
    ("1\n\n", True),
]


@pytest.mark.parametrize("e", [False, True])
@pytest.mark.parametrize(("text", "answer"), BOOLS)
def test_kstrtobool_as_recorded(text: str, answer: int | bool, e: bool) -> None:
    """Both kernels agree on these."""
    if answer is EINVAL:
        assert errno_of(kstrtobool, text, e=e) == EINVAL
    else:
        assert kstrtobool(text, e=e) is answer


def test_kstrtobool_enable_is_new() -> None:
    """ "enable" is EINVAL on 6.1.192, accepted on 7.2 (recorded); 7.2 documents E, d and D for kstrtobool(), too."""
    assert errno_of(kstrtobool, "enable") == EINVAL
    assert errno_of(kstrtobool, "disable") == EINVAL
    assert [kstrtobool(s, e=True) for s in ("enable", "E", "disable", "D")] == [True, True, False, False]
