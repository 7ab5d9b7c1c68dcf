"""
Which physical pages are pinned for whom: the account behind pin_user_pages() (mm/gup.c), one a machine.

A pin is taken for a range of a client's addresses and may be given back in other pieces, page by page or several
ranges at once, as VFIO does; the ledger of the kernel has one entry for each range until its last page is back.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from sortedcontainers import SortedDict

from pykernel.errors import Oops
from pykernel.mm.phys import PAGE_SIZE, Run

if TYPE_CHECKING:
    from pykernel.lib.ledger import Ledger

__all__ = ["Pin", "Pins"]


class Pin:
    """One call of pin_user_pages(): the address, the number of pages, and how many are still pinned."""

    __slots__ = ("addr", "left", "npages")

    def __init__(self, addr: int, npages: int) -> None:
        self.addr = addr
        self.npages = self.left = npages

    def describe(self) -> str:
        """For a leak report."""
        part = "" if self.left == self.npages else f"{self.left * PAGE_SIZE} of "
        return f"pinned memory at {self.addr:#x}, {part}{self.npages * PAGE_SIZE} bytes"


class Pins:
    """The pinned pages of one machine. Pieces are kept by where they begin; of several the last one is given first."""

    def __init__(self, ledger: Ledger | None) -> None:
        self.ledger = ledger
        self.count = 0
        self._pieces: SortedDict = SortedDict()  # pa -> [(pages, whose)]

    def take(self, addr: int, runs: Iterable[Run]) -> None:
        """The pages of *runs* are pinned for the user's range at *addr*."""
        runs = list(runs)
        pin = Pin(addr & -PAGE_SIZE, sum(run.npages for run in runs))
        for run in runs:
            self._pieces.setdefault(run.pa, []).append((run.npages, pin))
        self.count += pin.npages
        if self.ledger is not None and runs:
            self.ledger.take("pin", pin, pin.describe, client=True)

    def give(self, pa: int, npages: int) -> None:
        """*npages* pages from *pa* on lose one pin each. Raises Oops: one is not pinned; those before it are."""
        while npages:
            start, n, pin = self._find(pa)
            skip = pa - start >> 12
            done = min(n - skip, npages)
            if skip:
                self._pieces.setdefault(start, []).append((skip, pin))
            if skip + done < n:
                self._pieces.setdefault(pa + (done << 12), []).append((n - skip - done, pin))
            self.count -= done
            pin.left -= done
            if not pin.left and self.ledger is not None:
                self.ledger.give("pin", pin)
            pa += done << 12
            npages -= done

    def _find(self, pa: int) -> tuple[int, int, Pin]:
        """The piece that has the page at *pa*, taken out: where it begins, its pages, whose."""
        if pa in self._pieces:
            return pa, *self._pop(pa, -1)
        for start in self._pieces.irange(maximum=pa, reverse=True):
            for nth, (n, _) in enumerate(self._pieces[start]):
                if pa < start + (n << 12):
                    return start, *self._pop(start, nth)
        raise Oops(f"unpin of a page that is not pinned: {pa:#x}")

    def _pop(self, start: int, nth: int) -> tuple[int, Pin]:
        pieces = self._pieces[start]
        piece: tuple[int, Pin] = pieces.pop(nth)
        if not pieces:
            del self._pieces[start]
        return piece
