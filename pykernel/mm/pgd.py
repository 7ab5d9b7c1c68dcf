"""
Page tables of x86-64 in the machine's memory: what hardware walks that shares an address space with a process.

An address space has none until somebody asks (``mem.pgd()``). Then they are made from the pages that are there, and
:class:`PageTables`, which takes the place of the dictionary of entries, keeps them in step: each change of an entry is
one of a word in memory. Four levels, pages of 4 KiB only: Linux's page tables for memory without huge pages. Registers
of devices are not entered.

Bits are as arch/x86/include/asm/pgtable_types.h has them: an entry is accessed from the start, and dirty when the
client may write it and it is not a page that others share. The simulated CPU sets no bits. What hardware sets stays
through changes of protection; when an entry goes that is dirty, or that the CPU may have written, and its page does
not, the page is dirty (``phys.dirty``).
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Final

from pykernel.mm.phys import PAGE_SIZE
from pykernel.mm.vma import VM_EXEC, VM_SHARED

if TYPE_CHECKING:
    from pykernel.mm.phys import PhysMem
    from pykernel.mm.vma import VmaList

__all__ = ["PTE_A", "PTE_D", "PTE_NX", "PTE_P", "PTE_PROTNONE", "PTE_RW", "PTE_US", "PageTables"]

PTE_P: Final = 1 << 0
PTE_RW: Final = 1 << 1
PTE_US: Final = 1 << 2
PTE_A: Final = 1 << 5
PTE_D: Final = 1 << 6
PTE_PROTNONE: Final = 1 << 8  # the global bit of an entry that is not present
PTE_NX: Final = 1 << 63
_TABLE: Final = PTE_P | PTE_RW | PTE_US | PTE_A | PTE_D  # _PAGE_TABLE
_FRAME: Final = (1 << 52) - PAGE_SIZE
_PRESENT, _WRITE = 1, 2  # of the entries of pykernel.mm.faults
_TOP: Final = 4


class PageTables(dict[int, int]):
    """
    The entries of an address space (page number -> frame and flags, see faults.py), and the tables that say the same.

    Args:
        phys: whose frames the tables are.
        vmas: the areas, which know who may execute and what is shared.
        ptes: the entries so far.

    Attributes:
        pa: physical address of the top table, what CR3 would hold. C: ``__pa(mm->pgd)``.

    Raises:
        OSError: ENOMEM.
    """

    def __init__(self, phys: PhysMem, vmas: VmaList, ptes: dict[int, int]) -> None:
        super().__init__()
        self.phys = phys
        self.words = phys.words
        self.vmas = vmas
        # by level (1: of pages): the table that has a key, and how many of its entries are used
        self._tables: tuple[dict[int, int], ...] = ({}, {}, {}, {}, {})
        self._used: tuple[dict[int, int], ...] = ({}, {}, {}, {}, {})
        self.pa = self._tables[_TOP][0] = phys.alloc_page()
        self._used[_TOP][0] = 0
        for group in _alike(ptes, vmas):
            self.update(group)

    def __del__(self) -> None:
        for tables in self._tables:
            for pa in tables.values():
                self.phys.free_later(pa)

    def destroy(self) -> None:
        """Give the tables back, now. C: ``void pgd_free(struct mm_struct *, pgd_t *)``."""
        for tables in self._tables:
            while tables:
                self.phys.free_pages(tables.popitem()[1])

    # ---- what the address space changes

    def __setitem__(self, vpn: int, pte: int) -> None:
        bits = self._bits(vpn, pte)
        words, at = self.words, (self._leaf(vpn) >> 3) + (vpn & 511)
        old = words[at]
        if not old:
            self._used[1][vpn >> 9] += 1
        elif (old ^ pte) & _FRAME:
            self._gone(old)
        else:
            bits |= old & (PTE_A | PTE_D)
        words[at] = pte & _FRAME | bits
        super().__setitem__(vpn, pte)

    def update(self, pairs: Iterable[tuple[int, int]]) -> None:  # type: ignore[override]
        """New entries of one area, with the same flags, for pages that follow each other."""
        made = list(pairs)
        at = 0
        while at < len(made):
            vpn, pte = made[at]
            n = min(512 - (vpn & 511), len(made) - at)
            bits = self._bits(vpn, pte)
            start = (self._leaf(vpn) >> 3) + (vpn & 511)
            part = array("Q", [pte & _FRAME | bits for _, pte in made[at : at + n]])
            self.words[start : start + n] = memoryview(part)
            self._used[1][vpn >> 9] += n
            super().update(made[at : at + n])
            at += n

    def pop(self, vpn: int) -> int:  # type: ignore[override]
        """Take an entry away; a table without entries goes, too. C: ``zap_pte_range()``, ``free_pgtables()``."""
        pte = super().pop(vpn)
        at = (self._tables[1][vpn >> 9] >> 3) + (vpn & 511)
        self._gone(self.words[at])
        self.words[at] = 0
        self._release(1, vpn >> 9)
        return pte

    def _bits(self, vpn: int, pte: int) -> int:
        # arch/x86/mm/pgprot.c:protection_map[]; mm/memory.c:do_anonymous_page() makes what may be written dirty
        vma = self.vmas.find(vpn << 12)
        flags = 0 if vma is None else vma.vm_flags
        bits = PTE_A if flags & VM_EXEC else PTE_A | PTE_NX
        if not pte & _PRESENT:
            return bits | PTE_PROTNONE
        if pte & _WRITE:
            bits |= PTE_RW if flags & VM_SHARED else PTE_RW | PTE_D
        return bits | PTE_P | PTE_US

    def _gone(self, word: int) -> None:
        """The page of an entry is mapped there no more: if it lives on, it may be newer than what it was read from."""
        pfn = (word & _FRAME) >> 12
        if word & (PTE_D | PTE_RW) and self.phys.refs[pfn] > 1:
            self.phys.dirty.add(pfn)

    # ---- the tables

    def _leaf(self, vpn: int) -> int:
        """The table of pages that has *vpn*, made if there is none. Raises ENOMEM."""
        pa = self._tables[1].get(vpn >> 9)
        return self._table(1, vpn >> 9) if pa is None else pa

    def _table(self, level: int, key: int) -> int:
        pa = self._tables[level].get(key)
        if pa is not None:
            return pa
        pa = self.phys.alloc_page()
        try:
            above = self._table(level + 1, key >> 9)
        except OSError:
            self.phys.free_pages(pa)
            raise
        self.words[(above >> 3) + (key & 511)] = pa | _TABLE
        self._used[level + 1][key >> 9] += 1
        self._tables[level][key] = pa
        self._used[level][key] = 0
        return pa

    def _release(self, level: int, key: int) -> None:
        """A table has one entry less; the last takes it along, except the top."""
        while level < _TOP:
            self._used[level][key] -= 1
            if self._used[level][key]:
                return
            del self._used[level][key]
            self.phys.free_pages(self._tables[level].pop(key))
            level, at, key = level + 1, key & 511, key >> 9
            self.words[(self._tables[level][key] >> 3) + at] = 0
        self._used[_TOP][0] -= 1


def _alike(ptes: dict[int, int], vmas: VmaList) -> Iterator[list[tuple[int, int]]]:
    """The entries in groups as update() takes them."""
    group: list[tuple[int, int]] = []
    flags = end = 0
    for vpn in sorted(ptes):
        pte = ptes[vpn]
        if group and (vpn != group[-1][0] + 1 or pte & ~_FRAME != flags or vpn >= end):
            yield group
            group = []
        if not group:
            vma = vmas.find(vpn << 12)
            flags, end = pte & ~_FRAME, vpn if vma is None else vma.vm_end >> 12
        group.append((vpn, pte))
    if group:
        yield group
