"""
Strings as sysfs stores see them (lib/string.c, lib/string_helpers.c).

Text is ``str``, one character a byte, cut at the first NUL already: the end of the Python string is C's terminator.
"""

from __future__ import annotations

from collections.abc import Sequence
from errno import EINVAL

from pykernel.errors import err
from pykernel.lib.ctype import SPACES

__all__ = ["match_string", "skip_spaces", "strim", "strstrip", "sysfs_match_string", "sysfs_streq"]


def skip_spaces(s: str) -> str:
    """Drop leading white space. C: ``char *skip_spaces(const char *)``."""
    return s.lstrip(SPACES)


def strim(s: str) -> str:
    """Drop leading and trailing white space. C: ``char *strim(char *)``."""
    return s.strip(SPACES)


def strstrip(s: str) -> str:
    """The same as :func:`strim`; C's version only insists that its result is used. C: ``char *strstrip(char *)``."""
    return strim(s)


def sysfs_streq(s1: str, s2: str) -> bool:
    """
    Whether two strings are equal when one newline at the end of either does not count.

    Only one: "a" equals "a\\n" and neither equals "a\\n\\n".

    C: ``bool sysfs_streq(const char *, const char *)``
    """
    # lib/string_helpers.c:sysfs_streq()
    return s1 == s2 or s1 + "\n" == s2 or s1 == s2 + "\n"


def match_string(array: Sequence[str | None], string: str) -> int:
    """
    The index of *string* in *array*; a None in the array ends the search.

    C: ``int match_string(const char * const *array, size_t n, const char *string)``

    Raises:
        OSError: EINVAL, it is not there.
    """
    for index, item in enumerate(array):
        if item is None:
            break
        if item == string:
            return index
    raise err(EINVAL, f"{string!r} is none of {list(array)}")


def sysfs_match_string(array: Sequence[str | None], string: str) -> int:
    """
    The index in *array* of what :func:`sysfs_streq` finds equal to *string*.

    C: ``sysfs_match_string(array, string)``

    Raises:
        OSError: EINVAL, it is not there.
    """
    for index, item in enumerate(array):
        if item is None:
            break
        if sysfs_streq(item, string):
            return index
    raise err(EINVAL, f"{string!r} is none of {list(array)}")
