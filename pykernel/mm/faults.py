"""
The page table of a simulated address space, its faults, pins and the CPU's accesses (mm/memory.c, mm/gup.c).

An entry is the physical address of a page and three flags; that it is there is a reference to the frame. Ranges are
handled in runs of entries that follow each other, so large copies, faults and pins cost little a page.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from errno import EFAULT
from itertools import repeat
from typing import TYPE_CHECKING, Any, Final

from pykernel.errors import Oops, err
from pykernel.mm.pgd import PageTables
from pykernel.mm.phys import PAGE_SIZE, ZERO_PA, PhysMem, Run, merged
from pykernel.mm.uaccess import UserMemory, access_ok
from pykernel.mm.vma import VM_READ, VM_SHARED, VM_WRITE, Page, Vma, VmaList

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

__all__ = ["COW", "FRAME", "PRESENT", "WRITE", "PageTable"]

_PAGE_MASK: Final = PAGE_SIZE - 1
_SHIFT: Final = 12
# an entry: the frame; hardware may use it; hardware may write; a write must copy first, the page is not ours alone
FRAME: Final = -PAGE_SIZE
PRESENT: Final = 1
WRITE: Final = 2
COW: Final = 4
_ZERO: Final = ZERO_PA | PRESENT | COW


class PageTable(UserMemory):
    """
    Areas and the pages that were touched.

    Attributes:
        vmas: the areas.
        faults: how many page faults were handled.
        exited: the last user is gone.
    """

    def __init__(self, phys: PhysMem) -> None:
        self.phys = phys
        self.vmas = VmaList()
        self.faults = 0
        self.exited = False
        self._ptes: dict[int, int] = {}  # page number -> entry
        self._notifiers: list[Callable[[int, int], None]] = []

    def __del__(self) -> None:
        for pte in self.__dict__.get("_ptes", {}).values():
            if pte & FRAME != ZERO_PA:
                self.phys.free_later(pte & FRAME)

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

    def zap_vma_ptes(self, vma: Vma) -> None:
        """Registers that are mapped there are to be looked up again. C: ``zap_vma_ptes(struct vm_area_struct *)``."""
        self._invalidate(vma.vm_start, vma.vm_end)

    # ---- the table

    def pgd(self) -> int:
        """As :meth:`UserMemory.pgd`: made at first use, kept in step from then on."""
        ptes = self._ptes
        if not isinstance(ptes, PageTables):
            ptes = self._ptes = PageTables(self.phys, self.vmas, ptes)
        return ptes.pa

    def mmdrop(self) -> int:
        """As :meth:`UserMemory.mmdrop`; the last takes the page tables of an exited one along."""
        held, ptes = super().mmdrop(), self._ptes
        if isinstance(ptes, PageTables) and self.exited and not held:
            ptes.destroy()
            self._ptes = {}
        return held

    def translate(self, addr: int, *, write: bool = False) -> int | None:
        """The physical address of *addr* if a page walk of hardware finds it, and no fault: what an IOMMU sees."""
        pte = self._ptes.get(addr >> _SHIFT, 0)
        need = PRESENT | WRITE if write else PRESENT
        return pte & FRAME | addr & _PAGE_MASK if pte & need == need else None

    def translate_range(self, addr: int, n: int, *, write: bool = False) -> tuple[list[tuple[int, int]], int]:
        """
        :meth:`translate` for *n* bytes: the physical ranges (address, length), and how many bytes they are.

        Fewer than *n*: the page after them is not there.
        """
        ptes = list(map(self._ptes.get, range(addr >> _SHIFT, (addr + n - 1 >> _SHIFT) + 1)))
        need, first, off = PRESENT | WRITE if write else PRESENT, ptes[0] or 0, addr & _PAGE_MASK
        if first & need == need and ptes == list(range(first, first + len(ptes) * PAGE_SIZE, PAGE_SIZE)):
            return [((first & FRAME) + off, n)], n
        out: list[tuple[int, int]] = []
        done = 0
        for pte in ptes:
            if pte is None or pte & need != need:
                break
            step, pa = min(n - done, PAGE_SIZE - off), (pte & FRAME) + off
            if out and out[-1][0] + out[-1][1] == pa:
                out[-1] = (out[-1][0], out[-1][1] + step)
            else:
                out.append((pa, step))
            done, off = done + step, 0
        return out, done

    def walk(self, addr: int, *, write: bool = False) -> Page | None:
        """The page at *addr*, as :meth:`translate` finds it."""
        pa = self.translate(addr, write=write)
        return None if pa is None else Page(self.phys, pa & FRAME)

    def _mapped(self, start: int, end: int) -> list[int]:
        """The page numbers from *start* to *end* that have a page."""
        vpns: Iterable[int] = range(start >> _SHIFT, end >> _SHIFT)
        if end - start >> _SHIFT > len(self._ptes):
            return sorted(vpn for vpn in self._ptes if vpn in vpns)
        return [vpn for vpn in vpns if vpn in self._ptes]

    def _drop(self, start: int, end: int) -> None:
        """No page is there any more."""
        at = n = 0
        pop = self._ptes.pop
        for pte in map(pop, self._mapped(start, end)):
            pa = pte & FRAME
            if pa == at + (n << _SHIFT):
                n += 1
            elif pa != ZERO_PA:
                if n:
                    self.phys.free_pages(at, n)
                at, n = pa, 1
        if n:
            self.phys.free_pages(at, n)

    def _enter(self, vpn: int, runs: list[Run], flags: int) -> None:
        """Fresh frames for the pages from *vpn* on."""
        for nth, (pa, n) in enumerate(runs):
            first = pa | flags
            try:
                self._ptes.update(zip(range(vpn, vpn + n), range(first, first + (n << _SHIFT), PAGE_SIZE), strict=True))
            except OSError:  # no frame for a page table
                for at in range(vpn, vpn + n):
                    if at not in self._ptes:
                        self.phys.free_pages(pa + (at - vpn << _SHIFT))
                for run in runs[nth + 1 :]:
                    self.phys.free_pages(*run)
                raise
            vpn += n

    def _run(self, vpn: int, pte: int, end: int) -> int:
        """How many entries from *vpn* (which is *pte*) to *end* follow each other, with the same flags."""
        n = 1
        for got in map(self._ptes.get, range(vpn + 1, end)):
            pte += PAGE_SIZE
            if got != pte:
                break
            n += 1
        return n

    # ---- faults

    def fault(self, addr: int, *, write: bool = False) -> Page:
        """
        Bring in the page at *addr* for a device's page request.

        C: ``handle_mm_fault()`` as iommu_sva_handle_iopf() calls it

        Raises:
            OSError: EFAULT, nothing is mapped, the protection forbids it (reading needs PROT_READ), or it is no memory.
        """
        # drivers/iommu/io-pgfault.c:iommu_sva_handle_iopf()
        vma = self._gup_vma(addr, write=write)
        pa = self.translate(addr, write=write)
        if pa is None:
            pa = self._handle(vma, addr >> _SHIFT, write=write)
        if not pa:
            raise err(EFAULT, f"bus error at {addr:#x}")
        return Page(self.phys, pa & FRAME)

    def get_user_page(self, addr: int, *, write: bool = False) -> int:
        """As :meth:`UserMemory.get_user_page`."""
        return self.fault(addr, write=write).pa | addr & _PAGE_MASK

    def _gup_vma(self, addr: int, *, write: bool) -> Vma:
        # mm/gup.c:check_vma_flags()
        vma = self.vmas.find(addr)
        if vma is None or vma.io is not None or not vma.vm_flags & (VM_WRITE if write else VM_READ):
            raise err(EFAULT, f"no page for a {'write' if write else 'read'} at {addr:#x}")
        return vma

    def _handle(self, vma: Vma, vpn: int, *, write: bool, own: bool = False) -> int:
        """
        A fault: the entry of the page. *own*: it must be ours alone, though nobody writes yet.

        C: ``handle_pte_fault()``; 0 is VM_FAULT_SIGBUS, an OSError is VM_FAULT_OOM. FAULT_FLAG_WRITE, ..._UNSHARE
        """
        self.faults += 1
        pte = self._ptes.get(vpn) or self._first(vma, vpn, write=write or own)
        if pte and (write or own) and pte & COW:
            self._invalidate(vpn << _SHIFT, vpn + 1 << _SHIFT)
            pte = self._ptes[vpn] = self._copied(pte & FRAME)
        if pte:
            rights = PRESENT | WRITE if not pte & COW and vma.may(write=True) else PRESENT
            pte = self._ptes[vpn] = pte & ~WRITE | rights
        return pte

    def _first(self, vma: Vma, vpn: int, *, write: bool) -> int:
        """What a first touch enters."""
        if vma.fault is None:
            pte = self.phys.alloc_page() if write else ZERO_PA | COW
        else:
            try:
                page = vma.fault(vma.offset(vpn << _SHIFT) >> _SHIFT)
            except OSError:
                return 0
            if page.phys is not self.phys:
                raise Oops("a page of another machine's memory")
            self.phys.get_pages(page.pa)
            pte = page.pa if vma.vm_flags & VM_SHARED else page.pa | COW
        try:
            self._ptes[vpn] = pte
        except OSError:  # no frame for a page table
            if pte & FRAME != ZERO_PA:
                self.phys.free_pages(pte & FRAME)
            raise
        return pte

    def _copied(self, pa: int) -> int:
        """A page of our own with the same bytes. mm/memory.c:wp_page_copy(), wp_page_reuse()"""
        phys = self.phys
        if pa == ZERO_PA:
            return phys.alloc_page()
        if phys.refs[pa >> _SHIFT] == 1:
            return pa
        new = phys.alloc_page()
        phys.arena[new : new + PAGE_SIZE] = phys.arena[pa : pa + PAGE_SIZE]
        phys.free_pages(pa)
        return new

    def _fresh(self, vma: Vma, start: int, end: int, *, own: bool) -> None:
        """First touches of anonymous pages, many at once: frames in a row, or the page of zeros."""
        ptes = self._ptes
        rights = PRESENT | WRITE if vma.may(write=True) else PRESENT
        at = start
        while at < end:
            stop = at
            while stop < end and stop not in ptes:
                stop += 1
            n = stop - at
            if n:
                self.faults += n
                if own:
                    self._enter(at, self.phys.alloc_runs(n, at), rights)
                else:
                    ptes.update(zip(range(at, stop), repeat(_ZERO)))
            at = stop + 1

    def populate(self, addr: int, n: int) -> None:
        """
        Bring in all pages of a range, writable where that is allowed. C: ``populate_vma_page_range()``.

        Raises:
            OSError: EFAULT, what lies below it is populated; ENOMEM.
        """
        at, end = addr & FRAME, addr + n
        while at < end:
            vma = self.vmas.find(at)
            write = vma is not None and vma.may(write=True)
            vma = self._gup_vma(at, write=write)
            stop = min(vma.vm_end, -(-end // PAGE_SIZE) * PAGE_SIZE)
            for _ in self._present(vma, at >> _SHIFT, stop >> _SHIFT, write=write, own=False):
                pass
            at = stop

    def _present(self, vma: Vma, start: int, end: int, *, write: bool, own: bool, zero: bool = False) -> Iterable[Run]:
        """
        Bring in the pages *start* to *end* of *vma*, as gup does: runs of frames. Raises EFAULT, ENOMEM.

        *own* pages are copied when they are shared; the page of zeros stays as it is if *zero*.
        """
        if vma.fault is None:
            self._fresh(vma, start, end, own=write or (own and not zero))
        need = PRESENT | WRITE if write else PRESENT
        get = self._ptes.get
        at = start
        while at < end:
            pte = get(at, 0)
            mine = own and not (zero and pte & FRAME == ZERO_PA)
            if pte & need != need or (mine and pte & COW):
                pte = self._handle(vma, at, write=write, own=mine)
                if not pte:
                    raise err(EFAULT, f"bus error at {at << _SHIFT:#x}")
            n = self._run(at, pte, end)
            yield Run(pte & FRAME, n)
            at += n

    # ---- pins

    def pin_user_pages(self, addr: int, npages: int, *, write: bool) -> list[Run]:
        """
        As :meth:`UserMemory.pin_user_pages`.

        A page that is pinned to be read is made the client's own, too: what it writes later is seen. Before Linux 6.2
        not so the page of zeros.
        """
        addr &= FRAME
        end = addr + npages * PAGE_SIZE
        if not access_ok(addr, end - addr):
            raise err(EFAULT, f"{npages} pages at {addr:#x} are not of the user's half")
        areas: list[tuple[Vma, int, int]] = []
        at = addr
        while at < end:
            vma = self._gup_vma(at, write=write)
            areas.append((vma, at >> _SHIFT, min(end, vma.vm_end) >> _SHIFT))
            at = vma.vm_end
        kernel = self.phys.kernel  # mm/gup.c:gup_must_unshare()
        zero = not write and kernel is not None and not kernel.profile.mm_pin_unshares_zero_page
        runs = merged(
            run for vma, low, high in areas for run in self._present(vma, low, high, write=write, own=True, zero=zero)
        )
        self.phys.pin(addr, runs)
        return runs

    def follow_pfnmap(self, addr: int, *, write: bool = False) -> int:
        """As :meth:`UserMemory.follow_pfnmap`."""
        vma = self.vmas.find(addr)
        where = None if vma is None else getattr(vma.io, "phys_addr", None)
        if vma is None or where is None or not vma.vm_flags & (VM_WRITE if write else VM_READ):
            return super().follow_pfnmap(addr)
        pa: int = where(vma.offset(addr))
        return pa

    # ---- the CPU's accesses

    def _span(self, addr: int, n: int, *, write: bool) -> tuple[int, int]:
        """Where *addr* is in RAM, and how many of *n* bytes follow there in a row; 0 bytes: no memory for this."""
        need = PRESENT | WRITE if write else PRESENT
        vpn = addr >> _SHIFT
        pte = self._ptes.get(vpn, 0)
        off = addr & _PAGE_MASK
        end = addr + n + _PAGE_MASK >> _SHIFT
        if pte & need != need:
            vma = self.vmas.find(addr)
            if vma is None or vma.io is not None or not vma.may(write=write):
                return 0, 0
            if vma.fault is None and not pte and end > vpn + 1:
                self._fresh(vma, vpn, min(end, vma.vm_end >> _SHIFT), own=write)
                pte = self._ptes[vpn]
            else:
                pte = self._handle(vma, vpn, write=write)
                if not pte:
                    return 0, 0
        step = PAGE_SIZE - off
        if n > step:
            step += (self._run(vpn, pte, end) - 1) * PAGE_SIZE
        return pte & FRAME | off, min(n, step)

    def read(self, addr: int, n: int) -> bytes:
        """The *n* bytes at *addr*. EFAULT."""
        off = addr & _PAGE_MASK
        pte = self._ptes.get(addr >> _SHIFT, 0)
        if pte & PRESENT and 0 < n <= PAGE_SIZE - off:
            at = pte & FRAME | off
            return self.phys.arena[at : at + n]
        if n > 0 and access_ok(addr, n):
            at, step = self._span(addr, n, write=False)
            if step == n:
                return self.phys.arena[at : at + n]
        return super().read(addr, n)

    def write(self, addr: int, data: ReadableBuffer) -> None:
        """Write *data* to *addr*. EFAULT."""
        n = len(data) if type(data) is bytes else memoryview(data).nbytes
        off = addr & _PAGE_MASK
        pte = self._ptes.get(addr >> _SHIFT, 0)
        if pte & WRITE and pte & PRESENT and 0 < n <= PAGE_SIZE - off:
            at = pte & FRAME | off
            self.phys.arena[at : at + n] = data
            return
        super().write(addr, data)

    def copy_from(self, addr: int, buf: WriteableBuffer) -> int:
        """As :meth:`UserMemory.copy_from`; registers see one load for all that is in their area."""
        view = memoryview(buf).cast("B")
        n = len(view)
        ram = self.phys.ram
        done, limit = 0, n if access_ok(addr, n) else 0
        while done < limit:
            pa, step = self._span(addr + done, n - done, write=False)
            if step:
                view[done : done + step] = ram[pa : pa + step]
            else:
                step = self._io_read(addr + done, view[done:])
            if not step:
                break
            done += step
        if done < n:
            view[done:] = bytes(n - done)
        return n - done

    def copy_to(self, addr: int, data: ReadableBuffer) -> int:
        """As :meth:`UserMemory.copy_to`; registers see one store for all that is in their area."""
        view = memoryview(data).cast("B")
        n = len(view)
        ram = self.phys.ram
        done, limit = 0, n if access_ok(addr, n) else 0
        while done < limit:
            pa, step = self._span(addr + done, n - done, write=True)
            if step:
                ram[pa : pa + step] = view[done : done + step]
            else:
                step = self._io_write(addr + done, view[done:])
            if not step:
                break
            done += step
        return n - done

    def _io(self, addr: int, n: int, *, write: bool) -> tuple[Any, int, int] | None:
        """The registers at *addr*, the offset there, and how many of *n* bytes are theirs."""
        vma = self.vmas.find(addr)
        if vma is None or vma.io is None or not vma.may(write=write):
            return None
        return vma.io, vma.offset(addr), min(n, vma.vm_end - addr)

    def _io_read(self, addr: int, view: memoryview) -> int:
        found = self._io(addr, len(view), write=False)
        if found is None:
            return 0
        io, off, step = found
        try:
            view[:step] = io.read(off, step)
        except OSError:
            return 0
        return step

    def _io_write(self, addr: int, view: memoryview) -> int:
        found = self._io(addr, len(view), write=True)
        if found is None:
            return 0
        io, off, step = found
        try:
            io.write(off, bytes(view[:step]))
        except OSError:
            return 0
        return step
