"""The guest's tables of scalable mode, as a VMM reads them in guest memory (VT-d 9.3 to 9.6)."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pykernel.tools.vmm.memory import GuestMemory

__all__ = ["ContextEntry", "PasidEntry", "Pgtt", "context_entry", "pasid_entries", "pasid_entry"]

PRESENT: Final = 1
TABLE_BITS: Final = 6  # of a PASID that index a table; the others index the directory
TABLE_ENTRIES: Final = 1 << TABLE_BITS
ENTRY_SIZE: Final = 64
TTM_SCALABLE: Final = 1


class Pgtt(IntEnum):
    """PASID granular translation type."""

    FIRST_STAGE = 1
    SECOND_STAGE = 2
    NESTED = 3
    PASS_THROUGH = 4


@dataclass(frozen=True)
class ContextEntry:
    """A scalable-mode context entry: where its PASID directory is, and how many entries that has."""

    directory: int
    entries: int
    rid_pasid: int
    page_requests: bool


@dataclass(frozen=True)
class PasidEntry:
    """
    A scalable-mode PASID table entry, as far as somebody who binds it must know.

    Attributes:
        pgd: guest-physical address of the page table that *pgtt* names; 0 for pass-through.
        width: bits of address.
        words: all of it, which tells whether it changed.
    """

    pgtt: int
    did: int
    pgd: int
    width: int
    words: tuple[int, ...]

    @property
    def sre(self) -> bool:
        """Supervisor requests are allowed."""
        return bool(self.words[2] & 1)

    @property
    def eafe(self) -> bool:
        """The extended accessed flag is set."""
        return bool(self.words[2] >> 7 & 1)

    @property
    def wpe(self) -> bool:
        """Write protection holds for supervisor requests."""
        return bool(self.words[2] >> 4 & 1)

    @classmethod
    def decode(cls, data: bytes) -> PasidEntry | None:
        """The 64 bytes of an entry; None: it is not present."""
        words: tuple[int, ...] = struct.unpack("<8Q", data)
        if not words[0] & PRESENT:
            return None
        pgtt = words[0] >> 6 & 7
        if pgtt in (Pgtt.FIRST_STAGE, Pgtt.NESTED):
            pgd, width = words[2] & -4096, 57 if words[2] >> 2 & 3 == 1 else 48
        else:
            pgd = words[0] & -4096 if pgtt == Pgtt.SECOND_STAGE else 0
            width = 30 + 9 * (words[0] >> 2 & 7)
        return cls(pgtt, words[1] & 0xFFFF, pgd, width, words)


def context_entry(memory: GuestMemory, rtaddr: int, source: int) -> ContextEntry | None:
    """The context of requester *source* (bus and devfn); None: not present, or not in scalable mode."""
    if rtaddr >> 10 & 3 != TTM_SCALABLE:
        return None
    bus, devfn = source >> 8, source & 0xFF
    at = (rtaddr & -4096) + 16 * bus + (8 if devfn & 0x80 else 0)
    (root,) = struct.unpack("<Q", memory.read(at, 8))
    if not root & PRESENT:
        return None
    low, high = struct.unpack("<QQ", memory.read((root & -4096) + 32 * (devfn & 0x7F), 16))
    if not low & PRESENT:
        return None
    return ContextEntry(low & -4096, 1 << (low >> 9 & 7) + 7, high & 0xFFFFF, bool(low >> 4 & 1))


def pasid_entry(memory: GuestMemory, context: ContextEntry, pasid: int) -> PasidEntry | None:
    """The entry of *pasid*; None: not present."""
    index = pasid >> TABLE_BITS
    if index >= context.entries:
        return None
    (table,) = struct.unpack("<Q", memory.read(context.directory + 8 * index, 8))
    if not table & PRESENT:
        return None
    at = (table & -4096) + ENTRY_SIZE * (pasid & TABLE_ENTRIES - 1)
    return PasidEntry.decode(memory.read(at, ENTRY_SIZE))


def pasid_entries(memory: GuestMemory, context: ContextEntry) -> Iterator[tuple[int, PasidEntry]]:
    """All PASIDs that have an entry, in rising order."""
    tables = struct.unpack(f"<{context.entries}Q", memory.read(context.directory, 8 * context.entries))
    for index, table in enumerate(tables):
        if not table & PRESENT:
            continue
        data = memory.read(table & -4096, ENTRY_SIZE * TABLE_ENTRIES)
        for n in range(TABLE_ENTRIES):
            entry = PasidEntry.decode(data[ENTRY_SIZE * n : ENTRY_SIZE * (n + 1)])
            if entry is not None:
                yield index << TABLE_BITS | n, entry
