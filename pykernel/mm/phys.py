"""
The machine's physical memory (mm/page_alloc.c, include/linux/mm.h): RAM, and what else answers at physical addresses.

RAM is one sparse mapping of the host: the physical address of a byte is its offset there, and pages that nobody
touched take no memory. As on a PC the 32-bit BARs lie in a hole of 1 GiB below 4 GiB; what does not fit below the hole
is above it. Frames are counted by references: each mapping, pin or owner is one, and the last gives the frame back.

Other addresses are windows: BARs, which a device reaches by peer-to-peer DMA, and pages of real processes that are
pinned, which no arena can hold: a read or write of those goes to the process.
"""

from __future__ import annotations

import mmap
import struct
from collections import deque
from collections.abc import Iterable
from errno import ENOMEM
from functools import cached_property
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol
from weakref import WeakValueDictionary, finalize

from pykernel.errors import Oops, err
from pykernel.log import WARNING
from pykernel.mm.frames import FreeRanges
from pykernel.mm.memfd import MAP_NORESERVE, MemFd

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

    from pykernel.kernel import Kernel
    from pykernel.mm.foreign import Foreign
    from pykernel.mm.pins import Pins
    from pykernel.mm.uaccess import UserMemory

__all__ = [
    "FOREIGN",
    "PAGE_SIZE",
    "PIN",
    "PMD_PAGES",
    "ZERO_PA",
    "PhysFault",
    "PhysMem",
    "Run",
    "Window",
    "merged",
]

PAGE_SIZE: Final = 4096
PMD_PAGES: Final = 512  # of 2 MiB
PIN: Final = 1024  # include/linux/mm.h:GUP_PIN_COUNTING_BIAS: a pin is that many references
LOW_RAM: Final = 0xC0000000
HOLE_END: Final = 1 << 32
FIRST_PFN: Final = 256  # the first MiB is the firmware's
ZERO_PA: Final = 0x1000
FOREIGN: Final = 1 << 46
DEFAULT_SIZE: Final = 4 << 30
SMALLEST: Final = 16 << 20
GIVE_BACK: Final = 16  # so many frames in a row are worth a system call that empties them
_ZEROS: Final = bytes(PAGE_SIZE)


class Run(NamedTuple):
    """*npages* pages in a row at physical address *pa*."""

    pa: int
    npages: int


class PhysFault(LookupError):
    """Nothing answers at physical address *pa*."""

    def __init__(self, pa: int, *, write: bool) -> None:
        super().__init__(f"nothing {'takes a write' if write else 'answers a read'} at physical address {pa:#x}")
        self.pa = pa
        self.write = write


class Window(Protocol):
    """A range of physical addresses that is no RAM. An OSError of its accesses is a PhysFault."""

    base: int
    size: int

    def read(self, off: int, n: int) -> bytes:
        """*n* bytes at *off*."""
        ...

    def write(self, off: int, data: bytes) -> None:
        """Store *data* at *off*."""


class PhysMem:
    """
    The physical memory of a machine; ``kernel.sub(PhysMem)``.

    Args:
        kernel: whose machine it is; None for a memory of its own.
        size: bytes of RAM; 0: what the machine has.

    Attributes:
        arena: RAM as the host's mapping: a slice of it is a copy.
        ram: RAM as bytes that can be changed.
        words: the same in words of 64 bits, for page tables: ``words[pa >> 3]``.
        size: bytes of RAM.
        refs: references by frame number.
        used: how many frames are somebody's.
        fd: the file behind RAM, which a virtual machine's memory maps parts of; -1: there is none.
        dirty: numbers of frames that were mapped and written, and mapped no more there. C: ``PG_dirty``.
        foreign_pgd: physical address -> the real process's memory that the frame stands for.
    """

    def __init__(self, kernel: Kernel | None = None, size: int = 0) -> None:
        self.kernel = kernel
        machine = getattr(kernel, "machine", None)
        self.size = size or (machine.memory if machine is not None else DEFAULT_SIZE)
        self._file = MemFd() if machine is not None and machine.cpu.vmx else None
        self.arena = self._reserve()
        end = len(self.arena)
        self.ram = memoryview(self.arena)
        self.words = self.ram.cast("Q")
        self._low = min(end, LOW_RAM)
        self._end = end
        self._counts = mmap.mmap(-1, end // PAGE_SIZE * 4, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE)
        self.refs = memoryview(self._counts).cast("I")
        self.refs[ZERO_PA >> 12] = 1
        high = [(HOLE_END >> 12, end >> 12)] if end > HOLE_END else []
        self._free = FreeRanges((FIRST_PFN, self._low >> 12), *high)
        self._singles: list[int] = []  # free frames with somebody's bytes in them
        self._dead: deque[tuple[int, int]] = deque()  # (pa, n) of what Python threw away
        self.used = 0
        self.dirty: set[int] = set()
        self.foreign_pgd: WeakValueDictionary[int, UserMemory] = WeakValueDictionary()

    @property
    def fd(self) -> int:
        """The memfd, -1 on a machine without virtual machines."""
        return -1 if self._file is None else self._file.fd

    def _reserve(self) -> mmap.mmap:
        """The mapping of the host; a smaller one if it refuses."""
        wanted = self.size
        while True:
            end = self.size if self.size <= LOW_RAM else self.size + HOLE_END - LOW_RAM
            try:
                if self._file is not None:
                    return self._file.mapped(end)
                return mmap.mmap(-1, end, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE)
            except OSError as e:
                if self.size // 2 < SMALLEST:
                    e.add_note(f"the host has no address space for {wanted >> 20} MiB of RAM of the machine")
                    raise
                self.size = self.size // 2 & -PAGE_SIZE
                if self.kernel is not None:
                    self.kernel.log.printk(
                        WARNING, f"Memory: the host refuses {wanted >> 20}M ({e.strerror}), {self.size >> 20}M are used"
                    )

    # ---- frames

    def alloc_pages(self, n: int = 1, *, align: int = 1, phase: int = 0) -> int:
        """
        *n* zeroed frames in a row, with one reference each.

        C: ``struct page *alloc_pages(GFP_KERNEL | __GFP_ZERO, order)``

        Args:
            align: the first frame's number is a multiple of it (*phase* more than one).

        Returns:
            The physical address.

        Raises:
            OSError: ENOMEM.
        """
        if self._dead:
            self._bury()
        if n == 1 == align:
            return self.alloc_page()
        pfn = self._free.take(n, align, phase)
        if pfn < 0:
            self._gather()
            pfn = self._free.take(n, align, phase)
            if pfn < 0:
                raise err(ENOMEM, f"no {n} free pages in a row ({self.free} are free)")
        self._counts[pfn * 4 : (pfn + n) * 4] = b"\1\0\0\0" * n
        self.used += n
        return pfn << 12

    def alloc_page(self) -> int:
        """One zeroed frame. C: ``get_zeroed_page()``. Raises ENOMEM."""
        if self._dead:
            self._bury()
        if self._singles:
            pfn = self._singles.pop()
            pa = pfn << 12
            self.arena[pa : pa + PAGE_SIZE] = _ZEROS
        else:
            pfn = self._free.first()
            if pfn < 0:
                raise err(ENOMEM, "no page is free")
            pa = pfn << 12
        self.refs[pfn] = 1
        self.used += 1
        return pa

    def alloc_runs(self, n: int, vpn: int) -> list[Run]:
        """*n* zeroed frames for the pages from *vpn* on, in few runs: huge pages of both coincide. Raises ENOMEM."""
        runs: list[Run] = []
        step = n
        try:
            while n:
                step = min(step, n)
                try:
                    pa = self._alloc_run(step, vpn)
                except OSError:
                    if step == 1:
                        raise
                    step //= 2
                    continue
                runs.append(Run(pa, step))
                n -= step
                vpn += step
        except OSError:
            for run in runs:
                self.free_pages(*run)
            raise
        return runs

    def _alloc_run(self, n: int, vpn: int) -> int:
        if n >= PMD_PAGES:
            try:
                return self.alloc_pages(n, align=PMD_PAGES, phase=vpn % PMD_PAGES)
            except OSError:
                pass  # a run without huge pages may fit
        return self.alloc_pages(n)

    def free_pages(self, pa: int, n: int = 1) -> None:
        """
        Drop one reference of each frame; without another one they are free.

        C: ``void put_page(struct page *)``, ``__free_pages()``

        Raises:
            Oops: a frame is free already.
        """
        self._add(pa >> 12, n, -1)

    def get_pages(self, pa: int, n: int = 1) -> None:
        """One more reference of each frame. C: ``void get_page(struct page *)``."""
        self._add(pa >> 12, n, 1)

    @cached_property
    def pins(self) -> Pins:
        """Who pinned what."""
        from pykernel.mm.pins import Pins  # few machines need it

        return Pins(None if self.kernel is None else self.kernel.ledger)

    @cached_property
    def foreign(self) -> Foreign:
        """The pinned pages of real processes."""
        from pykernel.mm.foreign import Foreign

        return Foreign()

    def foreign_token(self, mem: UserMemory) -> int:
        """A frame that stands for the page tables of *mem*, as long as that is there. Raises ENOMEM."""
        pa = self.alloc_page()
        self.foreign_pgd[pa] = mem
        finalize(mem, self.free_later, pa).atexit = False
        return pa

    @property
    def pinned(self) -> int:
        """How many pins are held."""
        return self.pins.count

    def pin(self, addr: int, runs: list[Run]) -> None:
        """Pin pages for the user's range at *addr*. C: ``try_grab_folio(folio, n, FOLL_PIN)``."""
        for pa, n in runs:
            if pa < FOREIGN:
                self._add(pa >> 12, n, PIN)
        self.pins.take(addr, runs)

    def unpin(self, runs: Iterable[Run]) -> None:
        """
        Give pins back, whosever they are.

        C: ``void unpin_user_pages(struct page **pages, unsigned long npages)``

        Raises:
            Oops: a page is not pinned.
        """
        for pa, n in runs:
            self.pins.give(pa, n)
            if pa < FOREIGN:
                self._add(pa >> 12, n, -PIN)
            else:
                self.foreign.release(pa, n)

    def maybe_pinned(self, pa: int) -> bool:
        """Whether the frame is pinned. C: ``bool folio_maybe_dma_pinned(struct folio *)``."""
        return self.refs[pa >> 12] >= PIN

    def free_later(self, pa: int, n: int = 1) -> None:
        """As free_pages(), from where Python destroys an object, which may be in the middle of anything."""
        self._dead.append((pa, n))

    @property
    def free(self) -> int:
        """How many frames are free."""
        self._bury()
        return len(self._free) + len(self._singles)

    def _add(self, pfn: int, n: int, delta: int) -> None:
        """Change the references of *n* frames, at once as far as they have the same number."""
        if n == 1:
            left = self.refs[pfn] + delta
            if left < 0 or left == delta:
                raise Oops(f"bad page state: page at {pfn << 12:#x} has {left - delta} references")
            self.refs[pfn] = left
            if not left:
                self._freed(pfn, 1)
            return
        value = self.refs[pfn]
        packed = struct.pack("<I", value)
        if self._counts[pfn * 4 : (pfn + n) * 4] != packed * n:
            half = n // 2
            self._add(pfn, half, delta)
            self._add(pfn + half, n - half, delta)
            return
        left = value + delta
        if left < 0 or not value:
            raise Oops(f"bad page state: pages at {pfn << 12:#x} have {value} references")
        self._counts[pfn * 4 : (pfn + n) * 4] = struct.pack("<I", left) * n
        if not left:
            self._freed(pfn, n)

    def _freed(self, pfn: int, n: int) -> None:
        self.used -= n
        if self.dirty:
            self.dirty.difference_update(range(pfn, pfn + n))
        if n < GIVE_BACK:
            self._singles.extend(range(pfn + n - 1, pfn - 1, -1))
        else:
            self._empty(pfn, n)

    def _empty(self, pfn: int, n: int) -> None:
        """Frames that the host may forget: they are zeros then."""
        # a file's pages stay when a mapping forgets them
        self.arena.madvise(mmap.MADV_DONTNEED if self._file is None else mmap.MADV_REMOVE, pfn << 12, n << 12)
        self._free.give(pfn, n)

    def _gather(self) -> None:
        """Single free frames become ranges where they are neighbours."""
        pfns, self._singles = sorted(self._singles), []
        start = 0
        for at in range(1, len(pfns) + 1):
            if at == len(pfns) or pfns[at] != pfns[at - 1] + 1:
                self._empty(pfns[start], at - start)
                start = at

    def _bury(self) -> None:
        while self._dead:
            self.free_pages(*self._dead.popleft())

    # ---- accesses

    def read(self, pa: int, n: int) -> bytes:
        """A copy of *n* bytes. Raises PhysFault."""
        if pa >= 0 and pa + n <= self._low:
            return self.arena[pa : pa + n]
        out = bytearray()
        while len(out) < n:
            window, step = self._at(pa, n - len(out), write=False)
            if window is None:
                out += self.arena[pa : pa + step]
            else:
                try:
                    out += window.read(pa - window.base, step)
                except OSError as e:
                    raise PhysFault(pa, write=False) from e
            pa += step
        return bytes(out)

    def write(self, pa: int, data: ReadableBuffer) -> None:
        """Store *data*. Raises PhysFault; what lies before the fault is written."""
        view = memoryview(data).cast("B")
        n = len(view)
        if pa >= 0 and pa + n <= self._low:
            self.arena[pa : pa + n] = view
            return
        done = 0
        while done < n:
            window, step = self._at(pa, n - done, write=True)
            part = view[done : done + step]
            if window is None:
                self.arena[pa : pa + step] = part
            else:
                try:
                    window.write(pa - window.base, bytes(part))
                except OSError as e:
                    raise PhysFault(pa, write=True) from e
            pa += step
            done += step

    def view(self, pa: int, n: int) -> memoryview | None:
        """*n* bytes of RAM at *pa*, to be changed in place; None where it is not all RAM."""
        if pa < 0 or (pa + n > self._low and (pa < HOLE_END or pa + n > self._end)):
            return None
        return self.ram[pa : pa + n]

    def is_ram(self, pa: int) -> bool:
        """Whether RAM answers at *pa*. C: ``pfn_valid()``."""
        return 0 <= pa < self._low or HOLE_END <= pa < self._end

    # ---- windows

    def _at(self, pa: int, n: int, *, write: bool) -> tuple[Window | None, int]:
        """What answers at *pa* (None is RAM), and how many of *n* bytes are its. Raises PhysFault."""
        if self.is_ram(pa):
            return None, min(n, (self._low if pa < self._low else self._end) - pa)
        window = self._window(pa)
        if window is None:
            raise PhysFault(pa, write=write)
        return window, min(n, window.base + window.size - pa)

    def _window(self, pa: int) -> Window | None:
        if pa >= FOREIGN:
            return self.foreign.at(pa)
        return self.kernel.mmio_at(pa) if self.kernel is not None else None


def merged(runs: Iterable[Run]) -> list[Run]:
    """The same pages in as few runs as their order allows."""
    out: list[Run] = []
    for run in runs:
        if out and out[-1].pa + (out[-1].npages << 12) == run.pa:
            out[-1] = Run(out[-1].pa, out[-1].npages + run.npages)
        else:
            out.append(run)
    return out
