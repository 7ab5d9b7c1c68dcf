"""Character classes of the kernel (lib/ctype.c): latin-1, not the C library's locale and not Unicode's."""

from __future__ import annotations

__all__ = ["SPACES", "isspace", "isxdigit"]

# lib/ctype.c:_ctype[]: the characters with _S: tab to carriage return, blank and the no-break space of latin-1
SPACES = "\t\n\v\f\r \xa0"
_XDIGITS = frozenset("0123456789abcdefABCDEF")


def isspace(c: str) -> bool:
    """Whether *c*, one character or "" at the end of a string, is white space. C: ``isspace(c)``."""
    return c != "" and c in SPACES


def isxdigit(c: str) -> bool:
    """Whether *c*, one character or "" at the end of a string, is a hexadecimal digit. C: ``isxdigit(c)``."""
    return c in _XDIGITS
