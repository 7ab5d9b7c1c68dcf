"""
PASID translation tables: what ENQCMD and ENQCMDS in VMX non-root operation look the guest's PASID up in.

Two directories of a page each; bit 19 of the PASID selects the low or the high one, bits 18:10 one of its 512 entries
of 8 bytes, bits 9:0 one of the 1024 entries of 4 bytes of the table behind it. A directory's entry has a Present bit
(0) and the table's address (MAXPHYADDR-1:12); that of a table the host's PASID (19:0) and a Valid bit (31). All other
bits are reserved and must be 0. The IOMMU's tables divide the same number into 14 and 6 bits.

They lie in the host's RAM, one pair for all processors of a virtual machine. The processor caches nothing of them here;
whoever changes them keeps the processors out of guest mode meanwhile (``gate``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pykernel.cpu.cpuid import MAXPHYADDR
from pykernel.mm.phys import PAGE_SIZE

if TYPE_CHECKING:
    from pykernel.mm.phys import PhysMem

__all__ = ["DIR_PRESENT", "ENTRY_VALID", "PasidTable", "lookup", "split"]

DIR_PRESENT: Final = 1 << 0
DIR_ADDRESS: Final = (1 << MAXPHYADDR) - PAGE_SIZE
DIR_RESERVED: Final = ~(DIR_PRESENT | DIR_ADDRESS) & (1 << 64) - 1
ENTRY_VALID: Final = 1 << 31
ENTRY_PASID: Final = 0xFFFFF
ENTRY_RESERVED: Final = 0x7FF00000


def split(pasid: int) -> tuple[int, int, int]:
    """Directory (0 is the low one), index in it, index in the table. Raises ValueError: *pasid* has over 20 bits."""
    if pasid >> 20:
        raise ValueError(f"{pasid:#x} is no PASID")
    return pasid >> 19, pasid >> 10 & 0x1FF, pasid & 0x3FF


def lookup(phys: PhysMem, low: int, high: int, pasid: int) -> int:
    """
    The processor's walk from the directories at *low* and *high*: the host's PASID, or -1: a VM exit.

    The reasons of the exit: the directory's entry is not present, the table's not valid, or a reserved bit of one is
    set.
    """
    entry = phys.words[((high if pasid >> 19 else low) >> 3) + (pasid >> 10 & 0x1FF)]
    if not entry & DIR_PRESENT or entry & DIR_RESERVED:
        return -1
    at = (entry & DIR_ADDRESS) + ((pasid & 0x3FF) << 2)
    found = int.from_bytes(phys.ram[at : at + 4], "little")
    if found & (ENTRY_VALID | ENTRY_RESERVED) != ENTRY_VALID:
        return -1
    return found & ENTRY_PASID


class PasidTable:
    """
    The tables of one virtual machine.

    Attributes:
        low: physical address of the directory for PASIDs below 0x80000.
        high: that of the other one.

    Raises:
        OSError: ENOMEM.
    """

    def __init__(self, phys: PhysMem) -> None:
        self.phys = phys
        self.low = phys.alloc_page()
        try:
            self.high = phys.alloc_page()
        except OSError:
            phys.free_pages(self.low)
            raise
        self._used: dict[int, int] = {}  # address of a table -> how many of its entries are valid

    @property
    def pages(self) -> int:
        """How many pages of RAM they take: two, and one for each 1024 PASIDs of which one has an entry."""
        return 2 + len(self._used)

    def __len__(self) -> int:
        """How many PASIDs have a translation."""
        return sum(self._used.values())

    def _place(self, pasid: int) -> tuple[int, int, int]:
        """Index of the directory's entry in words, the table (0: none), and the entry's place in it."""
        half, index, entry = split(pasid)
        word = ((self.high if half else self.low) >> 3) + index
        found = self.phys.words[word]
        return word, found & DIR_ADDRESS if found & DIR_PRESENT else 0, entry << 2

    def lookup(self, pasid: int) -> int:
        """The host's PASID of a guest's, as the processor finds it; -1: none."""
        return lookup(self.phys, self.low, self.high, pasid)

    def prepare(self, pasid: int) -> bool:
        """Have a table for *pasid*, so that :meth:`set` cannot fail; True: it was made. Raises ENOMEM."""
        word, table, _ = self._place(pasid)
        if table:
            return False
        table = self.phys.alloc_page()
        self._used[table] = 0
        self.phys.words[word] = table | DIR_PRESENT
        return True

    def set(self, pasid: int, host: int) -> None:
        """
        Let the guest's *pasid* be the host's *host*.

        Raises:
            ValueError: one of them has over 20 bits: cut off it would be somebody else's.
            OSError: ENOMEM.
        """
        split(host)
        self.prepare(pasid)
        _, table, at = self._place(pasid)
        entry = self.phys.ram[table + at : table + at + 4]
        self._used[table] += not entry[3] & 0x80
        entry[:] = (host | ENTRY_VALID).to_bytes(4, "little")

    def clear(self, pasid: int) -> bool:
        """*pasid* has no translation any more; its table goes with its last entry. False: it had none."""
        word, table, at = self._place(pasid)
        if not table:
            return False
        entry = self.phys.ram[table + at : table + at + 4]
        had = bool(entry[3] & 0x80)
        entry[:] = bytes(4)
        self._used[table] -= had
        if not self._used[table]:
            self.phys.words[word] = 0
            del self._used[table]
            self.phys.free_pages(table)
        return had

    def destroy(self) -> None:
        """Give all pages back; no processor has them in its VMCS any more."""
        for table in (*self._used, self.low, self.high):
            self.phys.free_pages(table)
        self._used.clear()
