"""
Simulated user memory: an address space with pages, protection and page faults (mm/mmap.c, mm/memory.c, mm/gup.c).

Pages come when they are touched (demand-zero), private ones are copied when they are written (after fork(), and of
files). A device does not touch memory by a reference of Python: it asks page by page, through the IOMMU, with
:meth:`SimMemory.walk` and, for a page request, :meth:`SimMemory.fault`; or the driver pins pages for it.
"""

from __future__ import annotations

import mmap as libc
from collections.abc import Callable, Iterable
from contextlib import suppress
from errno import EACCES, EEXIST, EFAULT, EINVAL, ENOMEM
from typing import TYPE_CHECKING, Any, Final

from pykernel.errors import Oops, err
from pykernel.mm.uaccess import PAGE_SIZE, TASK_SIZE_MAX, UserMemory, access_ok
from pykernel.mm.vma import (
    MAP_FIXED,
    MAP_FIXED_NOREPLACE,
    MAP_POPULATE,
    MAP_SHARED_VALIDATE,
    MAP_TYPE,
    VM_ACCESS_FLAGS,
    VM_DONTCOPY,
    VM_MAYEXEC,
    VM_MAYREAD,
    VM_MAYSHARE,
    VM_MAYWRITE,
    VM_READ,
    VM_SHARED,
    VM_WRITE,
    Page,
    Shmem,
    Vma,
    VmaList,
    page_align,
)

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

    from pykernel.lib.ledger import Ledger

__all__ = ["SimMemory"]

_PAGE_MASK: Final = PAGE_SIZE - 1
_SHIFT: Final = 12
# Where x86-64 puts things in a program that is not randomized.
_MMAP_BASE: Final = 0x7FFFF7FFF000
_HEAP_BASE: Final = 0x555555560000
_MMAP_MIN_ADDR: Final = 0x10000
_HEAP_FLAGS: Final = VM_READ | VM_WRITE | VM_MAYREAD | VM_MAYWRITE | VM_MAYEXEC


class _Pte:
    """A page that is mapped. *cow*: the page is not ours alone, a write must copy it first."""

    __slots__ = ("cow", "page", "present", "write")

    def __init__(self, page: Page, *, cow: bool) -> None:
        self.page = page
        self.cow = cow
        self.present = True
        self.write = False


class SimMemory(UserMemory):
    """
    A simulated address space. C: ``struct mm_struct``.

    Attributes:
        vmas: its areas.
        faults: how many page faults were handled.
        pinned: how many pins are held on pages of it.
    """

    def __init__(self) -> None:
        self.vmas = VmaList()
        self.faults = 0
        self.pinned = 0
        self._ptes: dict[int, _Pte] = {}
        self._zero = Page()
        self._brk = _HEAP_BASE
        self._heap: Vma | None = None
        self._notifiers: list[Callable[[int, int], None]] = []
        self.ledger: Ledger | None = None  # of the kernel whose process this is, for pins

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
            vma.vm_pgoff, vma.fault = 0, Shmem(length).fault
        self.vmas.insert(vma)
        if flags & MAP_POPULATE:
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
        for vpn in self._mapped(addr, end):
            del self._ptes[vpn]
        for vma in gone:
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
        for vpn in self._mapped(vma.vm_start, vma.vm_end):
            pte = self._ptes[vpn]
            pte.present = vma.may(write=False)
            pte.write = not pte.cow and vma.may(write=True)

    def _mapped(self, start: int, end: int) -> list[int]:
        """The page numbers from *start* to *end* that have a page."""
        vpns: Iterable[int] = range(start >> _SHIFT, end >> _SHIFT)
        if end - start >> _SHIFT > len(self._ptes):
            return [vpn for vpn in self._ptes if vpn in vpns]
        return [vpn for vpn in vpns if vpn in self._ptes]

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
        if heap is not None and heap is self._heap and heap.vm_flags == _HEAP_FLAGS:
            heap.vm_end = end
            return
        self._heap = Vma(start, end, _HEAP_FLAGS)
        self.vmas.insert(self._heap)

    def fork(self) -> SimMemory:
        """A child's memory: private pages are copied when one of both writes, except pinned ones. C: ``dup_mmap()``."""
        child = SimMemory()
        child.ledger = self.ledger
        child._brk = self._brk
        for vma in self.vmas:
            if vma.vm_flags & VM_DONTCOPY:
                continue
            copy = vma.part(vma.vm_start, vma.vm_end)
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
        for vpn in self._mapped(vma.vm_start, vma.vm_end):
            pte = self._ptes[vpn]
            if pte.page.pins:
                theirs = _Pte(Page(pte.page.data), cow=False)
            else:
                theirs = _Pte(pte.page, cow=True)
                pte.cow, pte.write = True, False
            theirs.present = pte.present
            child._ptes[vpn] = theirs

    def exit(self) -> None:
        """Unmap everything. C: ``void exit_mmap(struct mm_struct *)``."""
        self.munmap(0, TASK_SIZE_MAX)

    # ---- faults

    def walk(self, addr: int, *, write: bool = False) -> Page | None:
        """The page at *addr* if a page walk of hardware finds it, and no fault: what an IOMMU sees."""
        pte = self._ptes.get(addr >> _SHIFT)
        if pte is None or not pte.present or (write and not pte.write):
            return None
        return pte.page

    def fault(self, addr: int, *, write: bool = False) -> Page:
        """
        Bring in the page at *addr* for a device's page request or a pin.

        C: ``handle_mm_fault()`` as iommu_sva_handle_iopf() calls it

        Raises:
            OSError: EFAULT, nothing is mapped, the protection forbids it (reading needs PROT_READ), or it is no memory.
        """
        # drivers/iommu/io-pgfault.c:iommu_sva_handle_iopf(), mm/gup.c:check_vma_flags()
        vma = self.vmas.find(addr)
        if vma is None or vma.io is not None or not vma.vm_flags & (VM_WRITE if write else VM_READ):
            raise err(EFAULT, f"no page for a {'write' if write else 'read'} at {addr:#x}")
        page = self.walk(addr, write=write)
        if page is None:
            page = self._handle(vma, addr >> _SHIFT, write=write)
        if page is None:
            raise err(EFAULT, f"bus error at {addr:#x}")
        return page

    def _handle(self, vma: Vma, vpn: int, *, write: bool) -> Page | None:
        # mm/memory.c:handle_pte_fault(); None is VM_FAULT_SIGBUS
        self.faults += 1
        pte = self._ptes.get(vpn)
        if pte is None:
            if vma.fault is None:
                pte = _Pte(self._zero, cow=True)
            else:
                try:
                    page = vma.fault(vma.offset(vpn << _SHIFT) >> _SHIFT)
                except OSError:
                    return None
                pte = _Pte(page, cow=not vma.vm_flags & VM_SHARED)
            self._ptes[vpn] = pte
        if write and pte.cow:
            self._invalidate(vpn << _SHIFT, vpn + 1 << _SHIFT)
            pte.page, pte.cow = Page(pte.page.data), False
        pte.present = True
        pte.write = not pte.cow and vma.may(write=True)
        return pte.page

    def populate(self, addr: int, n: int) -> None:
        """Bring in all pages of a range, writable where that is allowed. C: ``MADV_POPULATE_WRITE``. EFAULT."""
        for at in range(addr & ~_PAGE_MASK, addr + n, PAGE_SIZE):
            vma = self.vmas.find(at)
            self.fault(at, write=vma is not None and vma.may(write=True))

    def subscribe(self, invalidate: Callable[[int, int], None]) -> Callable[[], None]:
        """
        Call *invalidate(start, end)* before pages of that range go, change or lose rights; returns how to end it.

        C: ``mmu_notifier_register()``, ``invalidate_range``
        """
        self._notifiers.append(invalidate)
        return lambda: self._notifiers.remove(invalidate)

    def _invalidate(self, start: int, end: int) -> None:
        for notify in list(self._notifiers):
            notify(start, end)

    # ---- pins

    def pin(self, addr: int, n: int, *, write: bool = False) -> list[Page]:
        """
        Bring in and keep the pages of *n* bytes at *addr*, whatever the client does; :meth:`unpin` gives them back.

        A page that is pinned to be read is made the client's own, too: what it writes later is seen.

        C: ``long pin_user_pages(unsigned long start, unsigned long nr_pages, FOLL_LONGTERM | FOLL_WRITE, ...)``

        Raises:
            OSError: EFAULT; then nothing is pinned.
        """
        pages: list[Page] = []
        try:
            for at in range(addr & ~_PAGE_MASK, addr + n if n else 0, PAGE_SIZE):
                pages.append(self._pin_one(at, write=write))
        except OSError:
            self.unpin(pages)
            raise
        return pages

    def _pin_one(self, addr: int, *, write: bool) -> Page:
        page = self.fault(addr, write=write)
        pte = self._ptes[addr >> _SHIFT]
        if pte.cow:
            vma = self.vmas.find(addr)
            assert vma is not None
            self._invalidate(addr, addr + PAGE_SIZE)
            pte.page = page = Page(page.data)
            pte.cow, pte.write = False, vma.may(write=True)
        page.pins += 1
        self.pinned += 1
        if self.ledger is not None:
            self.ledger.take("pin", page, lambda: f"pinned page {addr & ~_PAGE_MASK:#x}")
        return page

    def unpin(self, pages: Iterable[Page]) -> None:
        """
        Give pins back.

        C: ``void unpin_user_pages(struct page **pages, unsigned long npages)``

        Raises:
            Oops: a page is not pinned.
        """
        for page in pages:
            if not page.pins:
                raise Oops("unpin of a page that is not pinned")
            page.pins -= 1
            self.pinned -= 1
            if self.ledger is not None:
                self.ledger.give("pin", page)

    # ---- the CPU's accesses

    def _page(self, addr: int, *, write: bool) -> Page | None:
        page = self.walk(addr, write=write)
        if page is not None:
            return page
        vma = self.vmas.find(addr)
        if vma is None or vma.io is not None or not vma.may(write=write):
            return None
        return self._handle(vma, addr >> _SHIFT, write=write)

    def _io(self, addr: int, n: int, *, write: bool) -> tuple[Vma, int] | None:
        """The registers at *addr* and how many of *n* bytes are theirs."""
        vma = self.vmas.find(addr)
        if vma is None or vma.io is None or not vma.may(write=write):
            return None
        return vma, min(n, vma.vm_end - addr)

    def read(self, addr: int, n: int) -> bytes:
        """The *n* bytes at *addr*. EFAULT."""
        off = addr & _PAGE_MASK
        if 0 < n <= PAGE_SIZE - off:
            page = self.walk(addr)
            if page is not None:
                return bytes(page.data[off : off + n])
        return super().read(addr, n)

    def copy_from(self, addr: int, buf: WriteableBuffer) -> int:
        """As :meth:`UserMemory.copy_from`; registers see one load for all that is in their area."""
        view = memoryview(buf).cast("B")
        n = len(view)
        done, limit = 0, n if access_ok(addr, n) else 0
        while done < limit:
            at = addr + done
            page = self._page(at, write=False)
            if page is not None:
                off = at & _PAGE_MASK
                step = min(PAGE_SIZE - off, n - done)
                view[done : done + step] = page.data if step == PAGE_SIZE else page.data[off : off + step]
            else:
                step = self._io_read(at, view[done:])
            if not step:
                break
            done += step
        view[done:] = bytes(n - done)
        return n - done

    def _io_read(self, addr: int, view: memoryview) -> int:
        found = self._io(addr, len(view), write=False)
        if found is None:
            return 0
        vma, step = found
        assert vma.io is not None
        try:
            view[:step] = vma.io.read(vma.offset(addr), step)
        except OSError:
            return 0
        return step

    def copy_to(self, addr: int, data: ReadableBuffer) -> int:
        """As :meth:`UserMemory.copy_to`; registers see one store for all that is in their area."""
        view = memoryview(data).cast("B")
        n = len(view)
        done, limit = 0, n if access_ok(addr, n) else 0
        while done < limit:
            at = addr + done
            page = self._page(at, write=True)
            if page is not None:
                off = at & _PAGE_MASK
                step = min(PAGE_SIZE - off, n - done)
                page.data[off : off + step] = view[done : done + step]
            else:
                step = self._io_write(at, view[done:])
            if not step:
                break
            done += step
        return n - done

    def _io_write(self, addr: int, view: memoryview) -> int:
        found = self._io(addr, len(view), write=True)
        if found is None:
            return 0
        vma, step = found
        assert vma.io is not None
        try:
            vma.io.write(vma.offset(addr), bytes(view[:step]))
        except OSError:
            return 0
        return step
