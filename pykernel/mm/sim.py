"""
Simulated user memory: an address space with pages, protection and page faults (mm/mmap.c, mm/memory.c, mm/gup.c).

Pages are frames of the machine's memory. They come when they are touched (demand-zero), private ones are copied when
they are written (after fork(), and of files). A device asks page by page, through the IOMMU, with
:meth:`SimMemory.translate` and, for a page request, :meth:`SimMemory.fault`; or the driver pins pages for it and gives
it their physical addresses.
"""

from __future__ import annotations

import mmap as libc
from collections.abc import Callable
from contextlib import suppress
from errno import EACCES, EEXIST, EINVAL, ENOMEM
from typing import Any, Final

from pykernel.errors import err
from pykernel.mm.faults import COW, FRAME, PRESENT, WRITE, PageTable
from pykernel.mm.phys import PAGE_SIZE, ZERO_PA, PhysMem
from pykernel.mm.uaccess import TASK_SIZE_MAX
from pykernel.mm.vma import (
    MAP_FIXED,
    MAP_FIXED_NOREPLACE,
    MAP_LOCKED,
    MAP_POPULATE,
    MAP_SHARED_VALIDATE,
    MAP_TYPE,
    VM_ACCESS_FLAGS,
    VM_DONTCOPY,
    VM_LOCKED,
    VM_LOCKONFAULT,
    VM_MAYEXEC,
    VM_MAYREAD,
    VM_MAYSHARE,
    VM_MAYWRITE,
    VM_READ,
    VM_SHARED,
    VM_WRITE,
    Shmem,
    Vma,
    page_align,
)

__all__ = ["SimMemory"]

_LOCKED: Final = VM_LOCKED | VM_LOCKONFAULT
_PAGE_MASK: Final = PAGE_SIZE - 1
# Where x86-64 puts things in a program that is not randomized.
_MMAP_BASE: Final = 0x7FFFF7FFF000
_HEAP_BASE: Final = 0x555555560000
_MMAP_MIN_ADDR: Final = 0x10000
_HEAP_FLAGS: Final = VM_READ | VM_WRITE | VM_MAYREAD | VM_MAYWRITE | VM_MAYEXEC


class SimMemory(PageTable):
    """
    A simulated address space. C: ``struct mm_struct``.

    Args:
        phys: the machine whose frames it has; none: one of its own.

    Attributes:
        mlocked: pages of areas that are locked (VM_LOCKED).
        lock_future: flags of areas to come, after mlockall(). C: ``mm->def_flags``.
    """

    def __init__(self, phys: PhysMem | None = None) -> None:
        super().__init__(PhysMem() if phys is None else phys)
        self._brk = _HEAP_BASE
        self._heap: Vma | None = None
        self.mlocked = 0
        self.lock_future = 0

    # ---- mapping

    def mmap(
        self,
        addr: int,
        length: int,
        prot: int,
        flags: int,
        *,
        pgoff: int = 0,
        file: Any = None,
        setup: Callable[[Vma], None] | None = None,
    ) -> int:
        """
        Map *length* bytes.

        C: ``void *mmap(void *addr, size_t length, int prot, int flags, int fd, off_t offset)``

        Args:
            pgoff: offset in the file, in pages.
            file: what is mapped; None for anonymous memory. The caller has checked its modes.
            setup: the file's ``mmap(vma)``; what it raises is raised, and nothing is mapped.

        Returns:
            The address.

        Raises:
            OSError: EINVAL, no length, no MAP_SHARED or MAP_PRIVATE, a fixed address within a page; ENOMEM, no room;
                EEXIST, MAP_FIXED_NOREPLACE and something is there.
        """
        # mm/mmap.c:do_mmap(), mmap_region()
        if length <= 0:
            raise err(EINVAL, "length 0")
        length = page_align(length)
        start = self._unmapped_area(addr, length, flags)
        kind = flags & MAP_TYPE
        if kind not in (libc.MAP_SHARED, libc.MAP_PRIVATE) and not (kind == MAP_SHARED_VALIDATE and file is not None):
            raise err(EINVAL, "neither MAP_SHARED nor MAP_PRIVATE")
        if flags & MAP_FIXED:
            self.munmap(start, length)
        vm_flags = prot & VM_ACCESS_FLAGS | VM_MAYREAD | VM_MAYWRITE | VM_MAYEXEC
        if flags & libc.MAP_SHARED:
            vm_flags |= VM_SHARED | VM_MAYSHARE
        vma = Vma(start, start + length, vm_flags, pgoff, file)
        if setup is not None:
            setup(vma)
        elif flags & libc.MAP_SHARED:
            vma.vm_pgoff, vma.fault = 0, Shmem(self.phys, length).fault
        self.vmas.insert(vma)
        lock = self.lock_future | (VM_LOCKED if flags & MAP_LOCKED else 0)
        if lock:
            self._lock_part(vma, lock)
        if flags & MAP_POPULATE or lock & (VM_LOCKED | VM_LOCKONFAULT) == VM_LOCKED:
            with suppress(OSError):
                self.populate(start, length)
        return start

    def _unmapped_area(self, addr: int, length: int, flags: int) -> int:
        # mm/mmap.c:get_unmapped_area()
        if length > TASK_SIZE_MAX:
            raise err(ENOMEM, f"{length:#x} bytes are more than an address space")
        if flags & (MAP_FIXED | MAP_FIXED_NOREPLACE):
            if not 0 <= addr <= TASK_SIZE_MAX - length:
                raise err(ENOMEM, f"{addr:#x} is out of the address space")
            if addr & _PAGE_MASK:
                raise err(EINVAL, f"{addr:#x} is not at a page")
            if flags & MAP_FIXED_NOREPLACE and self.vmas.overlapping(addr, addr + length):
                raise err(EEXIST, f"something is at {addr:#x}")
            return addr
        hint = page_align(max(addr, _MMAP_MIN_ADDR)) if addr else 0
        if hint and hint <= TASK_SIZE_MAX - length and not self.vmas.overlapping(hint, hint + length):
            return hint
        start = self.vmas.gap_below(_MMAP_BASE, length)
        if start is None or start < _MMAP_MIN_ADDR:
            raise err(ENOMEM, f"no room for {length:#x} bytes")
        return start

    def munmap(self, addr: int, length: int) -> None:
        """
        Unmap whatever is there; nothing is no error.

        C: ``int munmap(void *addr, size_t length)``

        Raises:
            OSError: EINVAL, *addr* is within a page, no length, or out of the address space.
        """
        # mm/mmap.c:do_mas_munmap()
        if addr & _PAGE_MASK or not 0 <= addr <= TASK_SIZE_MAX or not 0 < length <= TASK_SIZE_MAX - addr:
            raise err(EINVAL, f"cannot unmap {length:#x} bytes at {addr:#x}")
        end = addr + page_align(length)
        gone = self.vmas.isolate(addr, end)
        if not gone:
            return
        self._invalidate(addr, end)
        self._drop(addr, end)
        for vma in gone:
            self._lock_part(vma, 0)
            self.vmas.remove(vma)
        for vma in gone:
            vma.closed()

    def mprotect(self, addr: int, length: int, prot: int) -> None:
        """
        Change the protection, as far as there is no hole.

        C: ``int mprotect(void *addr, size_t length, int prot)``

        Raises:
            OSError: EINVAL, *addr* is within a page; ENOMEM, a hole; EACCES, the file forbids it.
        """
        # mm/mprotect.c:do_mprotect_pkey(): what lies below a hole or a refusal has changed
        if addr & _PAGE_MASK:
            raise err(EINVAL, f"{addr:#x} is not at a page")
        if length < 0:
            raise err(ENOMEM, f"{length} bytes wrap around")
        end = addr + page_align(length)
        at = addr
        while at < end:
            vma = self.vmas.find(at)
            if vma is None:
                raise err(ENOMEM, f"nothing is mapped at {at:#x}")
            if prot & ~(vma.vm_flags >> 4) & VM_ACCESS_FLAGS:
                raise err(EACCES, f"the file at {at:#x} does not allow this")
            at = min(vma.vm_end, end)
            for part in self.vmas.isolate(max(vma.vm_start, addr), at):
                self._protect(part, prot)

    def _protect(self, vma: Vma, prot: int) -> None:
        vma.vm_flags = vma.vm_flags & ~VM_ACCESS_FLAGS | prot & VM_ACCESS_FLAGS
        self._invalidate(vma.vm_start, vma.vm_end)
        present = PRESENT if vma.may(write=False) else 0
        write = WRITE if vma.may(write=True) else 0
        ptes = self._ptes
        for vpn in self._mapped(vma.vm_start, vma.vm_end):
            pte = ptes[vpn]
            ptes[vpn] = pte & (FRAME | COW) | present | (0 if pte & COW else write)

    def alloc(self, n: int, align: int = 16) -> int:
        """
        *n* bytes of fresh zeros for a test or a small client, from the heap; they stay until the memory goes.

        C: ``void *sbrk(n)``, with *align*
        """
        addr = -(-self._brk // align) * align
        start, end = page_align(self._brk), page_align(addr + n)
        if end > start:
            if self.vmas.overlapping(start, end):
                raise err(ENOMEM, f"something is above the heap at {start:#x}")
            self._grow_heap(start, end)
        self._brk = addr + n
        return addr

    def _grow_heap(self, start: int, end: int) -> None:
        heap = self.vmas.find(start - 1)
        if heap is not None and heap is self._heap and heap.vm_flags & ~_LOCKED == _HEAP_FLAGS:
            heap.vm_end = end
            self.mlocked += end - start >> 12 if heap.vm_flags & VM_LOCKED else 0
            return
        self._heap = Vma(start, end, _HEAP_FLAGS)
        self.vmas.insert(self._heap)

    def fork(self) -> SimMemory:
        """A child's memory: private pages are copied when one of both writes, except pinned ones. C: ``dup_mmap()``."""
        child = SimMemory(self.phys)
        child._brk = self._brk
        for vma in self.vmas:
            if vma.vm_flags & VM_DONTCOPY:
                continue
            copy = vma.part(vma.vm_start, vma.vm_end)
            copy.vm_flags &= ~_LOCKED
            child.vmas.insert(copy)
            if vma is self._heap:
                child._heap = copy
            if not vma.vm_flags & VM_SHARED:
                self._share(child, vma)
            copy.opened()
        return child

    def _share(self, child: SimMemory, vma: Vma) -> None:
        # mm/memory.c:copy_present_page(): a pinned page stays the parent's, or its device would write to nowhere
        self._invalidate(vma.vm_start, vma.vm_end)
        ptes, theirs, phys = self._ptes, child._ptes, self.phys
        for vpn in self._mapped(vma.vm_start, vma.vm_end):
            pte = ptes[vpn]
            pa = pte & FRAME
            if pa == ZERO_PA:
                theirs[vpn] = pte
            elif phys.maybe_pinned(pa):
                new = phys.alloc_page()
                phys.arena[new : new + PAGE_SIZE] = phys.arena[pa : pa + PAGE_SIZE]
                theirs[vpn] = new | pte & (PRESENT | WRITE)
            else:
                phys.get_pages(pa)
                ptes[vpn] = theirs[vpn] = pte & ~WRITE | COW

    # ---- locked memory

    def lock(self, start: int, end: int, flags: int) -> None:
        """
        Lock areas with *flags* (VM_LOCKED, VM_LOCKONFAULT) or unlock them (0), as far as there is no hole.

        C: ``int apply_vma_lock_flags(start, len, flags)``

        Raises:
            OSError: EINVAL, it wraps around; ENOMEM, a hole: what lies below it has changed.
        """
        if start < end >= 1 << 64:
            raise err(EINVAL, f"{end - start} bytes at {start:#x} wrap around")
        at = start
        while at < end:
            vma = self.vmas.find(at)
            if vma is None:
                raise err(ENOMEM, f"nothing is mapped at {at:#x}")
            at = min(vma.vm_end, end)
            if vma.vm_flags & _LOCKED != flags:
                for part in self.vmas.isolate(max(vma.vm_start, start), at):
                    self._lock_part(part, flags)

    def lock_all(self, flags: int) -> None:
        """The same for all there is. C: ``apply_mlockall_flags()``."""
        for vma in self.vmas:
            self._lock_part(vma, flags)

    def _lock_part(self, vma: Vma, flags: int) -> None:
        # mm/mlock.c:mlock_fixup(): registers are not locked and do not count
        if vma.io is not None:
            return
        npages = vma.vm_end - vma.vm_start >> 12
        self.mlocked += npages * (bool(flags & VM_LOCKED) - bool(vma.vm_flags & VM_LOCKED))
        vma.vm_flags = vma.vm_flags & ~_LOCKED | flags

    def locked_between(self, start: int, end: int) -> int:
        """How many pages from *start* to *end* are locked. C: ``count_mm_mlocked_page_nr(mm, start, len)``."""
        areas = [v for v in self.vmas.overlapping(start, end) if v.vm_flags & VM_LOCKED]
        return sum(min(v.vm_end, end) - max(v.vm_start, start) for v in areas) >> 12

    def populate_locked(self, start: int, end: int, *, ignore_errors: bool = False) -> None:
        """Bring in what is locked. C: ``int __mm_populate(start, len, ignore_errors)``. Raises EFAULT, ENOMEM."""
        for vma in self.vmas.overlapping(start, end):
            if vma.vm_flags & _LOCKED != VM_LOCKED:
                continue
            low, high = max(vma.vm_start, start), min(vma.vm_end, end)
            try:
                self.populate(low, high - low)
            except OSError:
                if not ignore_errors:
                    raise

    def exit(self) -> None:
        """Unmap everything. C: ``void exit_mmap(struct mm_struct *)``."""
        self.release()
        self.munmap(0, TASK_SIZE_MAX)
        self.exited = True
        self.mmdrop()
