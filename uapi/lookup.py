"""Which ioctl has a number, in any header and of any kernel."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from typing import Any, NamedTuple

from pykernel.uapi import catalog, history
from pykernel.uapi.ioctl import _IOC, Ioctl, decode

__all__ = ["Match", "all_ioctls", "candidates", "matches", "name_of", "until"]


class Match(NamedTuple):
    """
    An ioctl of a header.

    *size* is that of its struct when the number has another size than the newest; *until* the kernel before which the
    struct had that size.
    """

    entry: catalog.Entry
    size: int = 0
    until: str = ""

    @property
    def row(self) -> Ioctl[Any]:
        """The ioctl itself."""
        row: Ioctl[Any] = self.entry.value
        return row


def all_ioctls() -> Iterator[catalog.Entry]:
    """The ioctls of every header."""
    for module in catalog.header_modules():
        yield from (entry for entry in catalog.entries(module) if isinstance(entry.value, Ioctl))


@cache
def _names() -> dict[int, str]:
    return {id(entry.value): entry.name for entry in all_ioctls()}


def name_of(row: Ioctl[Any]) -> str:
    """What the header calls *row*; a row of no header is shown as it is made."""
    return _names().get(id(row), row.key)


def until(row: Ioctl[Any]) -> Iterator[tuple[int, str]]:
    """The sizes that an ioctl's struct had, and the kernels before which it had them; not the newest."""
    if row.struct is not None:
        for (_, size), (version, _) in pairwise(history.sizes(row.struct)):
            yield size, version


def matches(nr: int) -> list[Match]:
    """The ioctls that have this number, several headers may; or had it, before their struct grew."""
    return [match for entry in all_ioctls() if (match := _match(entry, nr & 0xFFFFFFFF))]


def _match(entry: catalog.Entry, nr: int) -> Match | None:
    row: Ioctl[Any] = entry.value
    if row.nr == nr:
        return Match(entry)
    for size, version in until(row) if row.direction else ():
        if _IOC(row.direction, row.magic, row.index, size) == nr:
            return Match(entry, size, version)
    return None


def candidates(nr: int) -> list[Match]:
    """Ioctls of the same type and nr with another size or direction: a struct that grew, or another header."""
    parts, found = decode(nr), {match.entry.name for match in matches(nr)}
    same = (e for e in all_ioctls() if (e.value.magic, e.value.index) == (parts.type, parts.nr))
    return [Match(entry) for entry in same if entry.name not in found]
