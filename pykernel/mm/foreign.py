"""
Pinned pages of real processes as physical memory: windows in the upper half of the physical address space.

No arena can hold them, so an access goes to the process, by its address. Each GiB of a process's addresses that has a
pinned page is one window; a page keeps its physical address from one pin to the next. What the process unmaps, or its
end, takes the page away from its devices, which Linux's pins would prevent: they get a PhysFault then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from pykernel.mm.phys import FOREIGN, PAGE_SIZE, Run, merged

if TYPE_CHECKING:
    from pykernel.mm.uaccess import UserMemory

__all__ = ["Foreign", "ForeignWindow"]

SHIFT = 30
SIZE = 1 << SHIFT


class ForeignWindow:
    """One GiB of a process: a ``Window``. *pins* is the number of pins on its pages."""

    __slots__ = ("base", "mem", "pins", "size", "start")

    def __init__(self, base: int, mem: UserMemory, start: int) -> None:
        self.base = base
        self.size = SIZE
        self.mem = mem
        self.start = start
        self.pins = 0

    def read(self, off: int, n: int) -> bytes:
        """From the process. Raises EFAULT."""
        return self.mem.read(self.start + off, n)

    def write(self, off: int, data: bytes) -> None:
        """To the process. Raises EFAULT."""
        self.mem.write(self.start + off, data)


class Foreign:
    """The windows of one machine."""

    def __init__(self) -> None:
        self._windows: dict[int, ForeignWindow] = {}  # number -> the window, while it has pins
        self._numbers: WeakKeyDictionary[UserMemory, dict[int, int]] = WeakKeyDictionary()
        self._last = 0

    def pin(self, mem: UserMemory, addr: int, npages: int) -> list[Run]:
        """Pin pages of *mem*, which has them: where they are."""
        runs: list[Run] = []
        end = addr + npages * PAGE_SIZE
        while addr < end:
            window = self._window(mem, addr >> SHIFT)
            stop = min(end, window.start + SIZE)
            n = (stop - addr) // PAGE_SIZE
            window.pins += n
            runs.append(Run(window.base + addr - window.start, n))
            addr = stop
        return merged(runs)

    def _window(self, mem: UserMemory, gib: int) -> ForeignWindow:
        numbers = self._numbers.setdefault(mem, {})
        number = numbers.get(gib)
        if number is None:
            number = numbers[gib] = self._last
            self._last += 1
        window = self._windows.get(number)
        if window is None:
            window = self._windows[number] = ForeignWindow(FOREIGN + (number << SHIFT), mem, gib << SHIFT)
        return window

    def release(self, pa: int, npages: int) -> None:
        """Pins go; the last takes the window along."""
        end = pa + npages * PAGE_SIZE
        while pa < end:
            number = pa - FOREIGN >> SHIFT
            window = self._windows[number]
            stop = min(end, window.base + SIZE)
            window.pins -= (stop - pa) // PAGE_SIZE
            if not window.pins:
                del self._windows[number]
            pa = stop

    def at(self, pa: int) -> ForeignWindow | None:
        """The window that has *pa*, if one of its pages is pinned."""
        return self._windows.get(pa - FOREIGN >> SHIFT)
