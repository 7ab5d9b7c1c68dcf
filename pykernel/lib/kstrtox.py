"""
Text to integers (lib/kstrtox.c), on which the errno of most sysfs stores depends.

Rules, the same for all:
1. An optional "+" first; "-" only in the signed functions, and never both.
2. Base 0 means 16 after "0x" and a hexadecimal digit, else 8 after "0", else 10. Base 16 takes "0x" too. No other base
   has a prefix.
3. One newline may follow the digits, nothing else may: no blanks anywhere.
4. ERANGE is for digits that do not fit into 64 bits, whatever follows them, and, once the text is known to be good,
   for a value that does not fit into the type. All else that is wrong is EINVAL.

Text is ``str``, one character a byte, cut at the first NUL already. ``unsigned long`` has 64 bits.
"""

from __future__ import annotations

from errno import EINVAL, ERANGE

from pykernel.errors import err
from pykernel.lib.ctype import isxdigit

__all__ = [
    "kstrtobool",
    "kstrtoint",
    "kstrtol",
    "kstrtoll",
    "kstrtos8",
    "kstrtos16",
    "kstrtos32",
    "kstrtos64",
    "kstrtou8",
    "kstrtou16",
    "kstrtou32",
    "kstrtou64",
    "kstrtouint",
    "kstrtoul",
    "kstrtoull",
    "parse_integer",
]

ULLONG_MAX = (1 << 64) - 1
_DIGITS = {c: i % 16 for i, c in enumerate("0123456789abcdef0123456789ABCDEF")}


def parse_integer(s: str, base: int, pos: int = 0) -> tuple[int, int]:
    """
    Read digits of *base* (at most 16) from ``s[pos:]``.

    C: ``unsigned int _parse_integer(const char *s, unsigned int base, unsigned long long *res)``

    Returns:
        The value, which has no limit here (C reports more than ULLONG_MAX in a flag), and the position after the last
        digit: *pos* itself when there was none.
    """
    value = 0
    while pos < len(s):
        digit = _DIGITS.get(s[pos], base)
        if digit >= base:
            break
        value = value * base + digit
        pos += 1
    return value, pos


def _fixup_radix(s: str, base: int) -> tuple[int, int]:
    # lib/kstrtox.c:_parse_integer_fixup_radix(): the base, and how many characters of prefix to skip
    prefix = s[:2] in ("0x", "0X")
    if base == 0:
        if not s.startswith("0"):
            return 10, 0
        base = 16 if prefix and isxdigit(s[2:3]) else 8
    return base, 2 if base == 16 and prefix else 0


def _kstrtoull(s: str, base: int) -> int:
    # lib/kstrtox.c:_kstrtoull(): overflow is told before junk behind the digits is
    base, start = _fixup_radix(s, base)
    value, end = parse_integer(s, base, start)
    if value > ULLONG_MAX:
        raise err(ERANGE, f"{s[:80]!r} does not fit into 64 bits")
    if end == start or s[end:] not in ("", "\n"):
        raise err(EINVAL, f"{s[:80]!r} is not a number in base {base}")
    return value


def kstrtoull(s: str, base: int) -> int:
    """
    Text to u64.

    C: ``int kstrtoull(const char *s, unsigned int base, unsigned long long *res)``

    Raises:
        OSError: EINVAL, ERANGE: see the rules at the top of this module.
    """
    return _kstrtoull(s.removeprefix("+"), base)


def kstrtoll(s: str, base: int) -> int:
    """
    Text to s64.

    C: ``int kstrtoll(const char *s, unsigned int base, long long *res)``

    Raises:
        OSError: EINVAL, ERANGE: see the rules at the top of this module.
    """
    value = -_kstrtoull(s[1:], base) if s.startswith("-") else kstrtoull(s, base)
    return _fits(value, -(1 << 63), (1 << 63) - 1)


def _fits(value: int, low: int, high: int) -> int:
    if not low <= value <= high:
        raise err(ERANGE, f"{value} is not from {low} to {high}")
    return value


def kstrtoul(s: str, base: int) -> int:
    """Text to unsigned long. C: ``int kstrtoul(const char *, unsigned int, unsigned long *)``. EINVAL, ERANGE."""
    return kstrtoull(s, base)


def kstrtol(s: str, base: int) -> int:
    """Text to long. C: ``int kstrtol(const char *, unsigned int, long *)``. EINVAL, ERANGE."""
    return kstrtoll(s, base)


def kstrtou64(s: str, base: int) -> int:
    """Text to u64. C: ``int kstrtou64(const char *, unsigned int, u64 *)``. EINVAL, ERANGE."""
    return kstrtoull(s, base)


def kstrtos64(s: str, base: int) -> int:
    """Text to s64. C: ``int kstrtos64(const char *, unsigned int, s64 *)``. EINVAL, ERANGE."""
    return kstrtoll(s, base)


def kstrtouint(s: str, base: int) -> int:
    """Text to unsigned int. C: ``int kstrtouint(const char *, unsigned int, unsigned int *)``. EINVAL, ERANGE."""
    return _fits(kstrtoull(s, base), 0, 0xFFFFFFFF)


def kstrtoint(s: str, base: int) -> int:
    """Text to int. C: ``int kstrtoint(const char *, unsigned int, int *)``. EINVAL, ERANGE."""
    return _fits(kstrtoll(s, base), -0x80000000, 0x7FFFFFFF)


def kstrtou32(s: str, base: int) -> int:
    """Text to u32. C: ``int kstrtou32(const char *, unsigned int, u32 *)``. EINVAL, ERANGE."""
    return kstrtouint(s, base)


def kstrtos32(s: str, base: int) -> int:
    """Text to s32. C: ``int kstrtos32(const char *, unsigned int, s32 *)``. EINVAL, ERANGE."""
    return kstrtoint(s, base)


def kstrtou16(s: str, base: int) -> int:
    """Text to u16. C: ``int kstrtou16(const char *, unsigned int, u16 *)``. EINVAL, ERANGE."""
    return _fits(kstrtoull(s, base), 0, 0xFFFF)


def kstrtos16(s: str, base: int) -> int:
    """Text to s16. C: ``int kstrtos16(const char *, unsigned int, s16 *)``. EINVAL, ERANGE."""
    return _fits(kstrtoll(s, base), -0x8000, 0x7FFF)


def kstrtou8(s: str, base: int) -> int:
    """Text to u8. C: ``int kstrtou8(const char *, unsigned int, u8 *)``. EINVAL, ERANGE."""
    return _fits(kstrtoull(s, base), 0, 0xFF)


def kstrtos8(s: str, base: int) -> int:
    """Text to s8. C: ``int kstrtos8(const char *, unsigned int, s8 *)``. EINVAL, ERANGE."""
    return _fits(kstrtoll(s, base), -0x80, 0x7F)


def kstrtobool(s: str, *, e: bool = False) -> bool:
    """
    Text to bool: by the first character, two of them after an "o"; what follows is not looked at.

    C: ``int kstrtobool(const char *s, bool *res)``

    Args:
        e: as newer kernels do, take e (enable) and d (disable) too.

    Raises:
        OSError: EINVAL.
    """
    # lib/kstrtox.c:kstrtobool()
    first = s[:1].lower()
    if first and first in ("yt1e" if e else "yt1"):
        return True
    if first and first in ("nf0d" if e else "nf0"):
        return False
    if first == "o" and s[1:2] and s[1:2] in "nN":
        return True
    if first == "o" and s[1:2] and s[1:2] in "fF":
        return False
    raise err(EINVAL, f"{s[:80]!r} is neither yes nor no")
