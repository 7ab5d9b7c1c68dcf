"""
Mappings of a simulated address space (include/linux/mm_types.h, mm/mmap.c): pages, areas, and the list of areas.

A file's ``mmap(vma)`` fills in how its area gets pages: ``fault`` for memory, ``io`` for registers, neither for
anonymous memory; it may clear VM_MAYWRITE and set VM_DONTCOPY, as drivers do.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from errno import EFAULT
from typing import Any, Final, Protocol

from pykernel.errors import err
from pykernel.mm.phys import PIN, PhysMem
from pykernel.mm.uaccess import PAGE_SIZE

__all__ = [
    "MAP_FIXED",
    "MAP_FIXED_NOREPLACE",
    "MAP_LOCKED",
    "MAP_POPULATE",
    "MAP_SHARED_VALIDATE",
    "MAP_TYPE",
    "VM_ACCESS_FLAGS",
    "VM_DONTCOPY",
    "VM_EXEC",
    "VM_LOCKED",
    "VM_LOCKONFAULT",
    "VM_MAYEXEC",
    "VM_MAYREAD",
    "VM_MAYSHARE",
    "VM_MAYWRITE",
    "VM_READ",
    "VM_SHARED",
    "VM_WRITE",
    "Page",
    "PhysicalIo",
    "Shmem",
    "Vma",
    "VmaIo",
    "VmaList",
    "page_align",
]

# include/uapi/asm-generic/mman-common.h, mman.h: what the mmap module of Python does not name
MAP_SHARED_VALIDATE: Final = 0x03
MAP_TYPE: Final = 0x0F
MAP_FIXED: Final = 0x10
MAP_LOCKED: Final = 0x2000
MAP_POPULATE: Final = 0x8000
MAP_FIXED_NOREPLACE: Final = 0x100000

# include/linux/mm.h; the low three are PROT_READ, PROT_WRITE, PROT_EXEC
VM_READ: Final = 0x1
VM_WRITE: Final = 0x2
VM_EXEC: Final = 0x4
VM_SHARED: Final = 0x8
VM_MAYREAD: Final = 0x10
VM_MAYWRITE: Final = 0x20
VM_MAYEXEC: Final = 0x40
VM_MAYSHARE: Final = 0x80
VM_LOCKED: Final = 0x2000
VM_DONTCOPY: Final = 0x20000
VM_LOCKONFAULT: Final = 0x80000
VM_ACCESS_FLAGS: Final = VM_READ | VM_WRITE | VM_EXEC


def page_align(n: int) -> int:
    """*n* rounded up to whole pages. C: ``PAGE_ALIGN(n)``."""
    return -(-n // PAGE_SIZE) * PAGE_SIZE


class Page:
    """
    One page of physical memory. C: ``struct page``.

    A page that was made (``Page.alloc()``) keeps its frame until it goes; one that a page table gave is good as long
    as somebody maps or pins it. Two are equal when they are the same frame.

    Attributes:
        pa: its physical address.
    """

    __slots__ = ("_owner", "pa", "phys")

    def __init__(self, phys: PhysMem, pa: int, *, owner: bool = False) -> None:
        self.phys = phys
        self.pa = pa
        self._owner = owner

    @classmethod
    def alloc(cls, phys: PhysMem, data: bytes | bytearray = b"") -> Page:
        """A new page, zeros or a copy of *data*. Raises ENOMEM."""
        page = cls(phys, phys.alloc_page(), owner=True)
        if data:
            phys.arena[page.pa : page.pa + PAGE_SIZE] = data
        return page

    @property
    def data(self) -> memoryview:
        """Its 4096 bytes."""
        return self.phys.ram[self.pa : self.pa + PAGE_SIZE]

    @property
    def pins(self) -> int:
        """How many times it is pinned."""
        return self.phys.refs[self.pa >> 12] // PIN

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Page) and (self.pa, self.phys) == (other.pa, other.phys)

    def __hash__(self) -> int:
        return hash(self.pa)

    def __del__(self) -> None:
        if self._owner:
            self.phys.free_later(self.pa)


class VmaIo(Protocol):
    """Registers behind an area. Offsets are the file's: ``vm_pgoff`` pages and the distance from ``vm_start``."""

    def read(self, off: int, n: int) -> bytes:
        """A load of *n* bytes; an OSError is a bus error."""
        ...

    def write(self, off: int, data: bytes) -> None:
        """A store; an OSError is a bus error."""


class PhysicalIo(VmaIo, Protocol):
    """Registers that have a physical address: a BAR's."""

    def phys_addr(self, off: int) -> int:
        """Where the byte at *off* is on the bus. C: the pfn that ``remap_pfn_range()`` put there."""
        ...


@dataclass(eq=False)
class Vma:
    """
    One area of an address space, whole pages. C: ``struct vm_area_struct``, its vm_ops included.

    Attributes:
        vm_pgoff: offset of its first page in the file, in pages.
        fault: gives the page at an offset of the file, in pages; an OSError is a bus error.
        io: registers instead of pages.
        open: called with an area that was made from this one by a fork or a split.
        close: called with each area when it goes away.
        origin: where a client mapped it, for messages.
    """

    vm_start: int
    vm_end: int
    vm_flags: int
    vm_pgoff: int = 0
    vm_file: Any = None
    vm_private_data: Any = None
    fault: Callable[[int], Page] | None = None
    io: VmaIo | None = None
    open: Callable[[Vma], None] | None = None
    close: Callable[[Vma], None] | None = None
    origin: str = ""

    def offset(self, addr: int) -> int:
        """Where *addr* is in the file, in bytes."""
        return self.vm_pgoff * PAGE_SIZE + addr - self.vm_start

    def may(self, *, write: bool) -> bool:
        """Whether the CPU may access it; x86 lets it read all that is not PROT_NONE. C: ``access_error()``."""
        return bool(self.vm_flags & (VM_WRITE if write else VM_ACCESS_FLAGS))

    def part(self, start: int, end: int) -> Vma:
        """A new area for a part of this one."""
        return replace(self, vm_start=start, vm_end=end, vm_pgoff=self.offset(start) // PAGE_SIZE)

    def opened(self) -> Vma:
        """Tell the file of this new area."""
        if self.open is not None:
            self.open(self)
        return self

    def closed(self) -> None:
        """Tell the file that this area is gone."""
        if self.close is not None:
            self.close(self)


class Shmem:
    """Memory without a name that several mappings share (mm/shmem.c): pages by their number, made when first used."""

    def __init__(self, phys: PhysMem, size: int | None = None) -> None:
        self.phys = phys
        self.size = size
        self.pages: dict[int, Page] = {}

    def fault(self, pgoff: int) -> Page:
        """The page at *pgoff*; what lies behind the end is a bus error. For :attr:`Vma.fault`."""
        if self.size is not None and pgoff * PAGE_SIZE >= self.size:
            raise err(EFAULT, f"page {pgoff} is behind the end ({self.size} bytes)")
        page = self.pages.get(pgoff)
        if page is None:
            page = self.pages[pgoff] = Page.alloc(self.phys)
        return page


class VmaList:
    """The areas of one address space in order. C: ``mm->mm_mt``."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._vmas: list[Vma] = []

    def __iter__(self) -> Iterator[Vma]:
        return iter(self._vmas)

    def __len__(self) -> int:
        return len(self._vmas)

    def find(self, addr: int) -> Vma | None:
        """The area that holds *addr*. C: ``vma_lookup(mm, addr)``."""
        at = bisect_right(self._starts, addr) - 1
        if at >= 0 and addr < self._vmas[at].vm_end:
            return self._vmas[at]
        return None

    def overlapping(self, start: int, end: int) -> list[Vma]:
        """The areas of which some part is from *start* to *end*. C: ``for_each_vma_range()``."""
        at = max(bisect_right(self._starts, start) - 1, 0)
        found = []
        while at < len(self._vmas) and self._vmas[at].vm_start < end:
            if self._vmas[at].vm_end > start:
                found.append(self._vmas[at])
            at += 1
        return found

    def insert(self, vma: Vma) -> None:
        """Add an area where none is."""
        at = bisect_right(self._starts, vma.vm_start)
        self._starts.insert(at, vma.vm_start)
        self._vmas.insert(at, vma)

    def remove(self, vma: Vma) -> None:
        """Take an area off."""
        at = bisect_right(self._starts, vma.vm_start) - 1
        del self._starts[at], self._vmas[at]

    def split(self, vma: Vma, addr: int) -> Vma:
        """Cut *vma* at *addr* and return the upper part. C: ``__split_vma()``."""
        upper = vma.part(addr, vma.vm_end).opened()
        vma.vm_end = addr
        self.insert(upper)
        return upper

    def isolate(self, start: int, end: int) -> list[Vma]:
        """The areas from *start* to *end*, cut so that none reaches out of it."""
        for at in (start, end):
            vma = self.find(at)
            if vma is not None and vma.vm_start < at:
                self.split(vma, at)
        return self.overlapping(start, end)

    def gap_below(self, top: int, length: int) -> int | None:
        """The highest free range of *length* bytes that ends at or below *top*. C: ``vm_unmapped_area()``, top-down."""
        for vma in reversed(self._vmas):
            if vma.vm_end <= top - length:
                break
            top = min(top, vma.vm_start)
        return top - length if top - length > 0 else None
