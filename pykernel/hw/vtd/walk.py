"""
The page tables of both stages in memory (VT-d 3.6, 3.7, 9.7, 9.8): where the bytes of an address are.

A walk reads entries of 64 bits, one a level; it never leaves RAM, whatever stands in them. What covers a run of leaf
entries is one slice. Accessed and dirty bits are written back once a walk has come to its end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from pykernel.hw.vtd.codes import Reason, VtdFault

if TYPE_CHECKING:
    from pykernel.hw.vtd.iotlb import Iotlb, Spans
    from pykernel.mm.phys import PhysMem

__all__ = ["FirstStage", "Nested", "SecondStage", "Walk"]

ADDR: Final = (1 << 52) - 4096
ENTRIES: Final = 512
LARGE: Final = 1 << 7
LEVELS: Final = {39: 3, 48: 4, 57: 5}
END: Final = 1 << 64
Path = list[int]  # the words that a walk came through


class Walk:
    """
    The tables of one stage.

    Args:
        phys: where they lie.
        root: the uppermost one.
        width: bits of address that they translate: 39, 48, 57.
        large: which levels above the lowest may have leaves: bit 0 is 2 MiB, bit 1 is 1 GiB.
        trace: told of each step while somebody listens.
    """

    name = ""
    present = 0  # an entry that has none of these bits is not there
    accessed = 0  # what a walk sets in each entry, and a write in the leaf
    dirty = 0
    access, root_access, reserved = Reason.TABLE_ACCESS, Reason.TABLE_ACCESS, Reason.TABLE_RESERVED

    def __init__(self, phys: PhysMem, root: int, width: int, large: int, trace: Any) -> None:
        self.phys, self.root, self.width, self.trace = phys, root, width, trace
        self.words = phys.words
        self.levels = LEVELS[width]
        # bit 7 of an entry is reserved where no large page can be
        self._no_leaf = [0, 0, *(LARGE if not large >> n & 1 else 0 for n in range(4))]
        self._low = [0, 0, *((4096 << 9 * n) - 4096 for n in range(1, 5))]  # address bits in a large page

    def need(self, *, write: bool) -> int:
        """The bits that every entry of a walk must have."""
        raise NotImplementedError

    def why(self, pte: int, *, write: bool) -> Reason:
        """What is wrong with bits *pte*, which are not enough."""
        raise NotImplementedError

    def check(self, addr: int, n: int) -> None:
        """Whether addresses can be translated at all. Raises VtdFault."""
        raise NotImplementedError

    # ---- one entry

    def table_at(self, table: int, level: int, addr: int) -> int:
        """Where the table at *table* is in RAM. Raises VtdFault."""
        if not self.phys.is_ram(table):
            raise VtdFault(self.root_access if level == self.levels else self.access, addr)
        return table

    def mark(self, table: int, at: int, pte: int, addr: int) -> None:
        """The entry at word *at* of *table* becomes *pte*."""
        self.words[at] = pte

    def find(self, addr: int, *, write: bool) -> tuple[int, int, int, int, Path]:
        """The leaf of *addr*: its word, its level, the entry, the bits that all entries have, the words before it."""
        words, level, table = self.words, self.levels, self.root
        both = -1
        path: Path = []
        while True:
            at = (self.table_at(table, level, addr) >> 3) + (addr >> 9 * level + 3 & 511)
            pte = words[at]
            if self.trace:
                self.trace(self.name, addr=addr, level=level, table=table, index=at & 511, entry=pte)
            if not pte & self.present:
                raise VtdFault(self.why(0, write=write), addr)
            if pte & self._no_leaf[level]:
                raise VtdFault(self.reserved, addr)
            both &= pte
            if level == 1 or pte & LARGE:
                if level > 1 and pte & self._reserved_low(level):
                    raise VtdFault(self.reserved, addr)
                return at, level, pte, both, path
            path += (table, at)
            table = pte & ADDR
            level -= 1

    def _reserved_low(self, level: int) -> int:
        return self._low[level]

    # ---- ranges

    def extents(self, addr: int, n: int, *, write: bool) -> Spans:
        """The ranges (address, length) of *n* bytes at *addr*; neighbours are one. Raises VtdFault."""
        self.check(addr, n)
        need = self.need(write=write)
        mark = self.accessed | self.dirty if write else self.accessed
        out: Spans = []
        while n > 0:
            at, level, pte, both, path = self.find(addr, write=write)
            if both & need != need:
                raise VtdFault(self.why(both, write=write), addr)
            size = 4096 << 9 * (level - 1)
            off = addr & size - 1
            count = 1
            if level == 1 and off + n > size:
                count = min(ENTRIES - (at & 511), (off + n + 4095) >> 12)
                step = min(n, count * 4096 - off)
                for pa, length in _cut(self._run(at, count, addr, need, write=write), off, step):
                    _append(out, pa, length)
            else:
                step = min(n, size - off)
                _append(out, (pte & ADDR & -size) + off, step)
            if mark:
                self._mark(path, at, count, mark, addr)
            addr += step
            n -= step
        return out

    def _run(self, at: int, count: int, addr: int, need: int, *, write: bool) -> Spans:
        """The pages of *count* leaf entries from *at* on; mostly they are one range, which one comparison shows."""
        ptes = self.words[at : at + count].tolist()
        first = ptes[0]
        if ptes == list(range(first, first + count * 4096, 4096)):
            return [(first & ADDR, count * 4096)]
        out: Spans = []
        for i, pte in enumerate(ptes):
            if pte & need != need:
                bits = pte if pte & self.present else 0
                raise VtdFault(self.why(bits, write=write), (addr & -4096) + i * 4096)
            _append(out, pte & ADDR, 4096)
        return out

    def _mark(self, path: Path, at: int, count: int, mark: int, addr: int) -> None:
        words, accessed = self.words, self.accessed
        for table, above in zip(path[::2], path[1::2], strict=True):
            pte = words[above]
            if pte & accessed != accessed:
                self.mark(table, above, pte | accessed, addr)
        table = words[path[-1]] & ADDR if path else self.root
        for where in range(at, at + count):
            pte = words[where]
            if pte & mark != mark:
                self.mark(table, where, pte | mark, addr)


class SecondStage(Walk):
    """
    Second-stage tables.

    Args:
        legacy: of a context entry in legacy mode: faults have the reasons of that.
        ad: accessed and dirty bits are set (SSADE).
    """

    name = "vtd_second"
    present = 3

    def __init__(
        self, phys: PhysMem, root: int, width: int, large: int, trace: Any, *, legacy: bool = False, ad: bool = False
    ) -> None:
        super().__init__(phys, root, width, large, trace)
        self.legacy = legacy
        if ad:
            self.accessed, self.dirty = 1 << 8, 1 << 9
        if not legacy:
            self.access, self.root_access = Reason.SM_SS_ACCESS, Reason.SM_SS_ROOT_ACCESS
            self.reserved = Reason.SM_SS_RESERVED

    def need(self, *, write: bool) -> int:
        """As :meth:`Walk.need`."""
        return 2 if write else 1

    def why(self, pte: int, *, write: bool) -> Reason:
        """As :meth:`Walk.why`."""
        if not self.legacy:
            return Reason.SM_SS_PERMISSION
        return Reason.NO_WRITE if write else Reason.NO_READ

    def check(self, addr: int, n: int) -> None:
        """As :meth:`Walk.check`."""
        if addr < 0 or addr + n > 1 << self.width:
            reason = Reason.BEYOND_WIDTH if self.legacy else Reason.SM_SS_BEYOND
            raise VtdFault(reason, max(addr, 1 << self.width))


class FirstStage(Walk):
    """
    First-stage tables: those of a processor.

    Args:
        priv: the request is a supervisor's.
        wpe: read-only pages are so for supervisors, too.
        eafe: walks set the extended accessed bit.
    """

    name = "vtd_first"
    present = 1
    accessed, dirty = 1 << 5, 1 << 6
    access, root_access, reserved = Reason.SM_FS_ACCESS, Reason.SM_FS_ROOT_ACCESS, Reason.SM_FS_RESERVED

    def __init__(
        self,
        phys: PhysMem,
        root: int,
        width: int,
        large: int,
        trace: Any,
        *,
        priv: bool = False,
        wpe: bool = False,
        eafe: bool = False,
    ) -> None:
        super().__init__(phys, root, width, large, trace)
        self.priv, self.wpe = priv, wpe
        if eafe:
            self.accessed = 1 << 5 | 1 << 10

    def _reserved_low(self, level: int) -> int:
        return self._low[level] & ~(1 << 12)  # PAT

    def need(self, *, write: bool) -> int:
        """As :meth:`Walk.need`."""
        writable = 2 if write and (self.wpe or not self.priv) else 0
        return 1 | writable | (0 if self.priv else 4)

    def why(self, pte: int, *, write: bool) -> Reason:
        """As :meth:`Walk.why`."""
        if not pte & 1:
            return Reason.SM_FS_NOT_PRESENT
        return Reason.SM_NO_WRITE if pte & 4 or self.priv else Reason.SM_SUPERVISOR_PAGE

    def check(self, addr: int, n: int) -> None:
        """As :meth:`Walk.check`."""
        half = 1 << self.width - 1
        if (addr >= 0 and addr + n <= half) or (END - half <= addr and addr + n <= END):
            return
        raise VtdFault(Reason.SM_NOT_CANONICAL, half if 0 <= addr < half else addr)


IN_NESTED: Final = {
    Reason.SM_SS_BEYOND: (Reason.SM_FS_BEYOND, Reason.SM_FS_BEYOND),
    Reason.SM_SS_PERMISSION: (Reason.SM_FS_NO_READ, Reason.SM_FS_ROOT_NO_READ),
}


class Nested(FirstStage):
    """
    A guest's first-stage tables: their pointers, and where they lead, are addresses of the second stage.

    Args:
        second: that.
        tables: what is known of it already: where the guest's tables are.
    """

    def __init__(self, second: SecondStage, tables: Iotlb, *args: Any, **kw: Any) -> None:
        super().__init__(second.phys, *args, **kw)
        self.second, self.tables = second, tables

    def table_at(self, table: int, level: int, addr: int) -> int:
        """As :meth:`Walk.table_at`, of a table at a guest's address."""
        page = self.tables.rpages.get(table >> 12)
        return page if page is not None else self._page(table, addr, write=False, root=level == self.levels)

    def _page(self, table: int, addr: int, *, write: bool, root: bool = False) -> int:
        try:
            ((page, _),) = self.second.extents(table, 4096, write=write)
        except VtdFault as e:
            reason = IN_NESTED.get(e.reason, (e.reason, e.reason))[root]
            raise VtdFault(Reason.SM_FS_NO_WRITE if write and reason == Reason.SM_FS_NO_READ else reason, addr) from e
        if not self.phys.is_ram(page):
            raise VtdFault(self.root_access if root else self.access, addr)
        self.tables.remember_page(table, page, write=write)
        return page

    def mark(self, table: int, at: int, pte: int, addr: int) -> None:
        """As :meth:`Walk.mark`: the second stage must allow it."""
        page = self.tables.wpages.get(table >> 12)
        if page is None:
            page = self._page(table, addr, write=True)
        self.words[(page >> 3) + (at & 511)] = pte

    def extents(self, addr: int, n: int, *, write: bool) -> Spans:
        """As :meth:`Walk.extents`, through both stages."""
        out: Spans = []
        for gpa, size in super().extents(addr, n, write=write):
            try:
                spans = self.second.extents(gpa, size, write=write)
            except VtdFault as e:
                raise VtdFault(e.reason, addr + max((e.addr or gpa) - gpa, 0)) from e
            for span in spans:
                _append(out, *span)
            addr += size
        return out


def _append(out: Spans, pa: int, n: int) -> None:
    if out and out[-1][0] + out[-1][1] == pa:
        out[-1] = (out[-1][0], out[-1][1] + n)
    else:
        out.append((pa, n))


def _cut(runs: Spans, head: int, n: int) -> Spans:
    """*n* bytes of *runs*, from byte *head* on; *head* is in the first page."""
    runs[0] = (runs[0][0] + head, runs[0][1] - head)
    pa, length = runs[-1]
    runs[-1] = (pa, length - (sum(size for _, size in runs) - n))
    return runs
