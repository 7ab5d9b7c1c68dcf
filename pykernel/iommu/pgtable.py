"""
Page tables of VT-d in the machine's memory (drivers/iommu/intel/iommu.c: pfn_to_dma_pte(), __domain_mapping(), ...).

Second-stage entries have R, W, SP, A, D and SNP; first-stage ones, which kernels in scalable mode use for the DMA API,
P (the bit of R), R/W (the bit of W), U/S, A, D, PS and XD. A table is a frame of 512 entries; what covers a run of them
is one slice. Levels count from the leaves (1: 4 KiB, 2: 2 MiB, 3: 1 GiB).
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pykernel.mm.phys import PhysMem

__all__ = [
    "DMA_FL_PTE_ACCESS",
    "DMA_FL_PTE_DIRTY",
    "DMA_FL_PTE_US",
    "DMA_FL_PTE_XD",
    "DMA_PTE_LARGE_PAGE",
    "DMA_PTE_READ",
    "DMA_PTE_SNP",
    "DMA_PTE_WRITE",
    "DMA_SL_PTE_ACCESS",
    "DMA_SL_PTE_DIRTY",
    "PageTable",
]

DMA_PTE_READ: Final = 1
DMA_PTE_WRITE: Final = 2
DMA_PTE_LARGE_PAGE: Final = 1 << 7
DMA_SL_PTE_ACCESS: Final = 1 << 8
DMA_SL_PTE_DIRTY: Final = 1 << 9
DMA_PTE_SNP: Final = 1 << 11
DMA_FL_PTE_US: Final = 1 << 2
DMA_FL_PTE_ACCESS: Final = 1 << 5
DMA_FL_PTE_DIRTY: Final = 1 << 6
DMA_FL_PTE_XD: Final = 1 << 63

ADDR: Final = (1 << 52) - 4096
PRESENT: Final = 3
ENTRIES: Final = 512
ZEROS: Final = array("Q", bytes(4096))
TABLE: Final = DMA_PTE_READ | DMA_PTE_WRITE


class PageTable:
    """
    The tables of one domain.

    Args:
        phys: where they lie.
        levels: 3, 4 or 5: 39, 48 or 57 bits of address.
        table_bits: what entries that point to tables have besides R and W.
    """

    def __init__(self, phys: PhysMem, levels: int, table_bits: int = 0) -> None:
        self.phys = phys
        self.words = phys.words
        self.levels = levels
        self.table_attrs = TABLE | table_bits
        self.root = phys.alloc_page()
        self.frames = 1

    def free(self) -> None:
        """All tables go back; the domain is not used any more."""
        self.free_frames([*self._tables_below(self.root >> 3, self.levels), self.root])

    def free_frames(self, frames: list[int]) -> None:
        """Give tables back that unmap() took out, once no cache can know them."""
        self.frames -= len(frames)
        for pa in frames:
            self.phys.free_pages(pa)

    # ---- walks

    def find(self, pfn: int) -> tuple[int, int]:
        """Where the entry that decides *pfn* is (a word's number), and its level. C: ``pfn_to_dma_pte(..., 0)``."""
        words, level = self.words, self.levels
        at = (self.root >> 3) + (pfn >> 9 * (level - 1) & 511)
        while level > 1:
            pte = words[at]
            if not pte & PRESENT or pte & DMA_PTE_LARGE_PAGE:
                break
            level -= 1
            at = ((pte & ADDR) >> 3) + (pfn >> 9 * (level - 1) & 511)
        return at, level

    def lookup(self, pfn: int) -> tuple[int, int]:
        """The entry that decides *pfn*, and how many bytes it covers; 0 when nothing is there."""
        at, level = self.find(pfn)
        return self.words[at], 4096 << 9 * (level - 1)

    def _descend(self, pfn: int, target: int) -> int:
        """Where the entry of *pfn* at level *target* is; missing tables are made. Raises ENOMEM."""
        words, level = self.words, self.levels
        at = (self.root >> 3) + (pfn >> 9 * (level - 1) & 511)
        while level > target:
            pte = words[at]
            if pte & DMA_PTE_LARGE_PAGE:
                break
            if not pte & PRESENT:
                words[at] = pte = self.phys.alloc_page() | self.table_attrs
                self.frames += 1
            level -= 1
            at = ((pte & ADDR) >> 3) + (pfn >> 9 * (level - 1) & 511)
        return at

    # ---- changes

    def map(self, pfn: int, pa: int, pages: int, attrs: int, largest: int) -> list[tuple[int, int, int]]:
        """
        Map *pages* from *pfn* on to *pa*, by as large pages as fit, up to level *largest*.

        C: ``__domain_mapping()``

        Returns:
            (pfn, the entry that was there and stays, the one that was to come) where something was mapped already.

        Raises:
            ENOMEM: no frame for a table; what was mapped until then stays.
        """
        taken: list[tuple[int, int, int]] = []
        while pages:
            level = _largest(pfn, pa >> 12, pages, largest)
            shift = 9 * (level - 1)
            at = self._descend(pfn, level)
            count = min(pages >> shift, ENTRIES - (at & 511))
            first = pa | attrs | (DMA_PTE_LARGE_PAGE if level > 1 else 0)
            if level > 1:
                self._drop_tables(at, count, level)
            taken += self._store(at, count, first, 4096 << shift, pfn)
            pfn += count << shift
            pa += count << shift + 12
            pages -= count << shift
        return taken

    def _store(self, at: int, count: int, first: int, size: int, pfn: int) -> list[tuple[int, int, int]]:
        words = self.words
        if count == 1 and not words[at]:
            words[at] = first
            return []
        new = array("Q", range(first, first + count * size, size))
        if self.phys.arena[8 * at : 8 * (at + count)].count(0) == 8 * count:
            words[at : at + count] = memoryview(new)
            return []
        taken = []
        for i, pte in enumerate(new):
            if old := words[at + i]:
                taken.append((pfn + i * (size >> 12), old, pte))
            else:
                words[at + i] = pte
        return taken

    def _drop_tables(self, at: int, count: int, level: int) -> None:
        """Tables where large pages shall be go. C: ``switch_to_super_page()``."""
        for i in range(at, at + count):
            pte = self.words[i]
            if pte & PRESENT and not pte & DMA_PTE_LARGE_PAGE:
                self.words[i] = 0
                self.free_frames([*self._tables_below((pte & ADDR) >> 3, level - 1), pte & ADDR])

    def _tables_below(self, table: int, level: int) -> list[int]:
        frames: list[int] = []
        if level > 1:
            for pte in self.words[table : table + ENTRIES].tolist():
                if pte & PRESENT and not pte & DMA_PTE_LARGE_PAGE:
                    frames += self._tables_below((pte & ADDR) >> 3, level - 1)
                    frames.append(pte & ADDR)
        return frames

    def unmap(self, start: int, last: int) -> list[int]:
        """
        Clear what lies wholly in the pages *start* to *last*. C: ``domain_unmap()``, ``dma_pte_clear_level()``.

        Returns:
            The tables that are not needed any more: free_frames() when no cache knows them.
        """
        freed: list[int] = []
        self._clear(self.root >> 3, self.levels, 0, start, last, freed)
        return freed

    def _clear(self, table: int, level: int, base: int, start: int, last: int, freed: list[int]) -> None:
        shift = 9 * (level - 1)
        first = max(start - base, 0) >> shift
        end = min((last - base) >> shift, ENTRIES - 1)
        words = self.words
        if level == 1:
            words[table + first : table + end + 1] = memoryview(ZEROS)[: end + 1 - first]
            return
        for i, pte in enumerate(words[table + first : table + end + 1].tolist(), first):
            if not pte & PRESENT:
                continue
            lo = base + (i << shift)
            large = pte & DMA_PTE_LARGE_PAGE
            if start <= lo and lo + (1 << shift) - 1 <= last:
                words[table + i] = 0
                if not large:
                    freed += self._tables_below((pte & ADDR) >> 3, level - 1)
                    freed.append(pte & ADDR)
            elif not large:  # a large page is never split: what is not covered stays
                self._clear((pte & ADDR) >> 3, level - 1, lo, start, last, freed)

    def marked(self, addr: int, end: int, bit: int, *, clear: bool) -> list[tuple[int, int]]:
        """
        Which entries of *addr* to *end* have *bit*: (page number, bytes), from where the range meets them.

        C: ``intel_iommu_read_and_clear_dirty()``, ``dma_sl_pte_test_and_clear_dirty()``
        """
        found: list[tuple[int, int]] = []
        while addr < end:
            at, level = self.find(addr >> 12)
            size = 4096 << 9 * (level - 1)
            count = min(ENTRIES - (at & 511), -(-(end - addr) // size)) if level == 1 else 1
            ptes = self.words[at : at + count].tolist()
            hits = [i for i, pte in enumerate(ptes) if pte & bit and pte & PRESENT]
            found += [((addr >> 12) + i, size) for i in hits]
            if clear:
                for i in hits:
                    self.words[at + i] = ptes[i] & ~bit
            addr += count * size
        return found


def _largest(pfn: int, pa_pfn: int, pages: int, largest: int) -> int:
    """drivers/iommu/intel/iommu.c:hardware_largepage_caps()."""
    level, merge = 1, pfn | pa_pfn
    while level < largest and not merge & 511 and pages >= 512:
        pages >>= 9
        merge >>= 9
        level += 1
    return level
