"""
Extended page tables of VMX in the host's RAM, and the processor's walk of them (Intel SDM volume 3, chapter 30).

Four levels; entries of 4 KiB, 2 MiB and 1 GiB. The walk sets accessed and dirty bits. What it finds missing or
forbidden is an EPT violation, what no valid entry can be is a misconfiguration: KVM makes entries of the second kind
on purpose, for addresses that it emulates.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pykernel.cpu.cpuid import MAXPHYADDR
from pykernel.mm.phys import PAGE_SIZE

if TYPE_CHECKING:
    from pykernel.mm.phys import PhysMem

__all__ = ["EPT_ACCESSED", "EPT_DIRTY", "EPT_MISCONFIG_WX", "EPT_RWX", "Ept", "EptMisconfig", "EptViolation"]

EPT_R: Final = 1 << 0
EPT_W: Final = 1 << 1
EPT_X: Final = 1 << 2
EPT_RWX: Final = EPT_R | EPT_W | EPT_X
EPT_MT_SHIFT: Final = 3
EPT_IPAT: Final = 1 << 6
EPT_LARGE: Final = 1 << 7
EPT_ACCESSED: Final = 1 << 8
EPT_DIRTY: Final = 1 << 9
EPT_MISCONFIG_WX: Final = EPT_W | EPT_X  # arch/x86/include/asm/vmx.h:VMX_EPT_MISCONFIG_WX_VALUE
MT_UC, MT_WB = 0, 6
_TOP: Final = 4
_GPA_BITS: Final = 48
_FRAME: Final = (1 << MAXPHYADDR) - PAGE_SIZE
_RESERVED: Final = ((1 << 52) - 1) & ~((1 << MAXPHYADDR) - 1)


class EptViolation(LookupError):
    """
    The tables do not allow an access of the guest: VM exit 48.

    Attributes:
        gpa: what was accessed.
        write: it was a write.
        rights: what the entries on the way allow (bits 0 to 2: read, write, execute).
        cause: why KVM cannot help: "" (the hardware's own), "no slot", "read-only" or "fault".
    """

    number = 48

    def __init__(self, gpa: int, *, write: bool, rights: int = 0, cause: str = "") -> None:
        super().__init__(f"{'write to' if write else 'read of'} guest-physical {gpa:#x}: {cause or 'not mapped'}")
        self.gpa, self.write, self.rights, self.cause = gpa, write, rights, cause

    @property
    def qualification(self) -> int:
        """The exit qualification: SDM table 28-7, of an access by its linear address."""
        return (2 if self.write else 1) | self.rights << 3 | 1 << 7 | 1 << 8

    @property
    def mmio(self) -> bool:
        """KVM emulates the access: KVM_EXIT_MMIO; otherwise KVM_RUN fails with EFAULT."""
        return self.cause in ("no slot", "read-only")


class EptMisconfig(LookupError):
    """An entry that cannot be: VM exit 49, which KVM makes of emulated addresses. *entry* is its value."""

    number = 49

    def __init__(self, gpa: int, entry: int, *, write: bool) -> None:
        super().__init__(f"guest-physical {gpa:#x} has the entry {entry:#x}")
        self.gpa, self.entry, self.write = gpa, entry, write

    @property
    def mmio(self) -> bool:
        """It is one of KVM's for an emulated address. C: ``is_mmio_spte()``."""
        return self.entry & EPT_RWX == EPT_MISCONFIG_WX


class Ept:
    """
    The tables of one virtual machine.

    Raises:
        OSError: ENOMEM.
    """

    def __init__(self, phys: PhysMem) -> None:
        self.phys = phys
        self.words = phys.words
        # by level (1: of 4 KiB pages): the table that has a key, and how many entries it uses
        self._tables: tuple[dict[int, int], ...] = ({}, {}, {}, {}, {})
        self._used: tuple[dict[int, int], ...] = ({}, {}, {}, {}, {})
        self.root = self._tables[_TOP][0] = phys.alloc_page()
        self._used[_TOP][0] = 0

    @property
    def eptp(self) -> int:
        """The pointer of the VMCS: write-back, four levels, accessed and dirty bits. C: ``construct_eptp()``."""
        return self.root | 1 << 6 | _TOP - 1 << 3 | MT_WB

    @property
    def nr_tables(self) -> int:
        """How many frames the tables take."""
        return sum(map(len, self._tables))

    def destroy(self) -> None:
        """Give the frames back."""
        for tables in self._tables:
            while tables:
                self.phys.free_pages(tables.popitem()[1])

    # ---- the processor

    def walk(self, gpa: int, *, write: bool) -> tuple[int, int, int]:
        """
        The host's address of *gpa*, what the entries allow, and the level of the page.

        Raises:
            EptViolation: an entry does not allow it; of 4 levels: there are more bits than 48.
            EptMisconfig: an entry that no access can use.
        """
        if gpa >> _GPA_BITS:
            raise EptViolation(gpa, write=write)
        need, rights, words = EPT_W if write else EPT_R, EPT_RWX, self.words
        table, level = self.root, _TOP
        while True:
            at = (table >> 3) + (gpa >> 3 + 9 * level & 511)
            entry = words[at]
            rights &= entry
            if not entry & EPT_RWX:
                raise EptViolation(gpa, write=write)
            if _misconfigured(entry, level):
                raise EptMisconfig(gpa, entry, write=write)
            leaf = level == 1 or bool(entry & EPT_LARGE)
            if not rights & need:
                # the rights of an EPT violation are those of the whole way
                raise EptViolation(gpa, write=write, rights=rights if leaf else self._below(entry, gpa, level, rights))
            mark = EPT_ACCESSED | EPT_DIRTY if write and leaf else EPT_ACCESSED
            if entry & mark != mark:
                words[at] = entry | mark
            if leaf:
                size = 1 << 3 + 9 * level
                return entry & _FRAME & -size | gpa & size - 1, rights, level
            table, level = entry & _FRAME, level - 1

    def _below(self, entry: int, gpa: int, level: int, rights: int) -> int:
        while level > 1 and not entry & EPT_LARGE and entry & EPT_RWX:
            level -= 1
            entry = self.words[((entry & _FRAME) >> 3) + (gpa >> 3 + 9 * level & 511)]
            rights &= entry
        return rights

    # ---- KVM

    def set(self, gfn: int, level: int, entry: int) -> None:
        """Enter a page of *level* at *gfn*, in place of what is there for these addresses. Raises ENOMEM."""
        key = gfn >> 9 * (level - 1)
        at = self._table(level, key >> 9) + (key & 511)
        old = self.words[at]
        if not old:
            self._used[level][key >> 9] += 1
        elif level > 1 and not old & EPT_LARGE:
            self._drop_tables(level - 1, key)
        self.words[at] = entry

    def entry(self, gfn: int) -> tuple[int, int]:
        """The entry of the page that has *gfn* and its level; (0, 0): none."""
        for level in range(1, _TOP):
            key = gfn >> 9 * (level - 1)
            table = self._tables[level].get(key >> 9)
            if table is not None:
                entry = self.words[(table >> 3) + (key & 511)]
                if entry and (level == 1 or entry & EPT_LARGE):
                    return entry, level
        return 0, 0

    def zap(self, start: int, end: int) -> None:
        """Take all pages away that have one of the guest pages *start* to *end*. C: ``kvm_tdp_mmu_zap_leafs()``."""
        for level in range(1, _TOP):
            shift = 9 * (level - 1)
            low, high = start >> shift, (end - 1 >> shift) + 1
            for key in self._keys(level, low >> 9, (high - 1 >> 9) + 1):
                self._zap_table(level, key, max(low, key << 9), min(high, key + 1 << 9))

    def protect(self, gfn: int) -> None:
        """Writes to *gfn*'s page are violations from now on. C: ``spte_write_protect()``."""
        entry, level = self.entry(gfn)
        if entry & EPT_W:
            self.set(gfn, level, entry & ~EPT_W)

    def _keys(self, level: int, low: int, high: int) -> list[int]:
        tables = self._tables[level]
        if high - low > len(tables):
            return [key for key in tables if low <= key < high]
        return [key for key in range(low, high) if key in tables]

    def _zap_table(self, level: int, key: int, low: int, high: int) -> None:
        base = self._tables[level][key] >> 3
        gone = 0
        for at in range(base + (low & 511), base + (low & 511) + high - low):
            entry = self.words[at]
            if entry and (level == 1 or entry & EPT_LARGE):
                self.words[at] = 0
                gone += 1
        for _ in range(gone):
            if self._release(level, key):
                return

    def _table(self, level: int, key: int) -> int:
        """Where in ``words`` the table begins that has *key*."""
        pa = self._tables[level].get(key)
        if pa is not None:
            return pa >> 3
        pa = self.phys.alloc_page()
        try:
            above = self._table(level + 1, key >> 9) + (key & 511)
        except OSError:
            self.phys.free_pages(pa)
            raise
        if not self.words[above]:
            self._used[level + 1][key >> 9] += 1
        self.words[above] = pa | EPT_RWX | EPT_ACCESSED
        self._tables[level][key] = pa
        self._used[level][key] = 0
        return pa >> 3

    def _release(self, level: int, key: int) -> bool:
        """A table has an entry less; whether it went with it."""
        self._used[level][key] -= 1
        if self._used[level][key] or level == _TOP:
            return False
        del self._used[level][key]
        self.phys.free_pages(self._tables[level].pop(key))
        self.words[(self._tables[level + 1][key >> 9] >> 3) + (key & 511)] = 0
        self._release(level + 1, key >> 9)
        return True

    def _drop_tables(self, level: int, key: int) -> None:
        """The table at *key* and those below it are used no more; the caller sees to the entry that named it."""
        if level > 1:
            for below in self._keys(level - 1, key << 9, key + 1 << 9):
                self._drop_tables(level - 1, below)
        del self._used[level][key]
        self.phys.free_pages(self._tables[level].pop(key))


def _misconfigured(entry: int, level: int) -> bool:
    # SDM 30.3.3.1; the processor has execute-only entries
    if entry & (EPT_R | EPT_W) == EPT_W or entry & _RESERVED:
        return True
    if level == 1 or entry & EPT_LARGE:
        if entry >> EPT_MT_SHIFT & 7 in (2, 3, 7) or level == _TOP:
            return True
        return bool(level > 1 and entry & (1 << 3 + 9 * level) - PAGE_SIZE)
    return bool(entry & 0xF8)
