"""
The map of one I/O address space (drivers/iommu/iommufd/io_pagetable.c): which memory is at which I/O virtual address.

It is copied into each IOMMU domain that is added, and in-kernel accesses read it. Devices take addresses away
(reserved); users may name addresses that must not be taken away (allowed).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from errno import EADDRINUSE, EBUSY, EDEADLK, EEXIST, EINVAL, ENOENT, ENOSPC, EOVERFLOW, EPERM
from typing import TYPE_CHECKING, Final

from pykernel.errors import Oops, err
from pykernel.iommu.iommu import IOMMU_WRITE
from pykernel.iommufd.area import IoptArea
from pykernel.iommufd.interval import ULONG_MAX, RangeMap, RangeSet, double_holes
from pykernel.lib.rwsem import RwSemaphore
from pykernel.mm.uaccess import PAGE_SIZE

if TYPE_CHECKING:
    from pykernel.iommu.iommu import IommuDomain
    from pykernel.iommufd.access import IommufdAccess
    from pykernel.iommufd.pages import IoptPages
    from pykernel.kernel import Kernel

__all__ = ["IoPagetable", "PagesSlice"]

HPAGE_SIZE: Final = 2 << 20
TRIES: Final = 100  # how often a driver is asked to let go


@dataclass(slots=True)
class PagesSlice:
    """``struct iopt_pages_list``: *length* bytes of *pages*, from *start_byte* on; the area that is made of them."""

    pages: IoptPages
    start_byte: int
    length: int
    area: IoptArea | None = None


class IoPagetable:
    """
    ``struct io_pagetable``.

    Attributes:
        domains_lock, iova_lock: in this order.
        areas: what is mapped.
        allowed: addresses that must stay usable.
        domains: into which all is mapped.
        accesses: drivers that read it.
        alignment: of addresses, lengths and offsets.
        disable_large_pages: everything is mapped page by page, so that areas can be split.
    """

    def __init__(self, kernel: Kernel, notify_unmap: Callable[[int, int], None]) -> None:
        self.domains_lock = RwSemaphore(kernel, "iopt.domains_rwsem")
        self.iova_lock = RwSemaphore(kernel, "iopt.iova_rwsem")
        self.areas: RangeMap[IoptArea] = RangeMap()
        self.allowed = RangeSet()
        self.domains: list[IommuDomain] = []
        self.accesses: list[IommufdAccess] = []
        self.alignment = 1
        self.disable_large_pages = False
        self.notify_unmap = notify_unmap
        self._used = RangeSet()
        self._reserved: list[tuple[int, int, object]] = []
        self._reserved_set = RangeSet()

    def destroy(self) -> None:
        """C: ``void iopt_destroy_table(struct io_pagetable *)``. Raises Oops: something is in it."""
        self.unreserve(None)  # what a test has reserved
        if len(self.areas) or self.domains or self.accesses or self._reserved:
            raise Oops("an I/O address space that goes is in use")

    # ---- reserved and allowed addresses

    def usable(self) -> Iterator[tuple[int, int]]:
        """The addresses that nothing reserves, as ranges."""
        return self._reserved_set.holes(0, ULONG_MAX)

    def reserve(self, start: int, last: int, owner: object) -> None:
        """C: ``int iopt_reserve_iova(...)``. Raises EADDRINUSE: something is mapped there, or it is allowed."""
        if self.areas.first(start, last) is not None or self.allowed.intersects(start, last):
            raise err(EADDRINUSE, f"{start:#x} to {last:#x} are in use")
        self._reserved.append((start, last, owner))
        self._reserved_set.add(start, last)

    def unreserve(self, owner: object) -> None:
        """C: ``void iopt_remove_reserved_iova(struct io_pagetable *, void *owner)``."""
        self._reserved = [row for row in self._reserved if row[2] is not owner]
        self._reserved_set = RangeSet((start, last) for start, last, _ in self._reserved)

    def set_allowed(self, allowed: RangeSet) -> None:
        """C: ``int iopt_set_allow_iova(...)``. Raises EADDRINUSE: something of it is reserved; nothing changes."""
        with self.iova_lock.write():
            for start, last in allowed:
                if self._reserved_set.intersects(start, last):
                    raise err(EADDRINUSE, f"of {start:#x} to {last:#x} something is reserved")
            self.allowed = allowed

    # ---- choosing an address

    def _alloc_iova(self, uptr: int, length: int) -> int:
        # drivers/iommu/iommufd/io_pagetable.c:iopt_alloc_iova()
        if not length or length >= ULONG_MAX // 2:
            raise err(EOVERFLOW)
        alignment = 1 << (length - 1).bit_length()
        if uptr:
            alignment = min(alignment, uptr & -uptr)
        alignment = min(alignment, HPAGE_SIZE)
        if alignment < self.alignment:
            raise err(EINVAL, f"aligned to {alignment}, which is less than {self.alignment}")
        page_offset = uptr % PAGE_SIZE
        low, high = PAGE_SIZE, ULONG_MAX - PAGE_SIZE
        for start, last in self._allowed_spans(low, high):
            begin = _fit(start, last, length, alignment, page_offset)
            if begin is None:
                continue
            for hole, end in double_holes(self._reserved_set, self._used, begin, last):
                found = _fit(hole, end, length, alignment, page_offset)
                if found is not None:
                    return found
        raise err(ENOSPC, f"no room for {length:#x} bytes")

    def _allowed_spans(self, low: int, high: int) -> Iterator[tuple[int, int]]:
        spans = list(self.allowed)
        for start, last in spans or [(low, high)]:
            if start <= high and last >= low:
                yield max(start, low), min(last, high)

    def _check_iova(self, iova: int, length: int) -> None:
        # drivers/iommu/iommufd/io_pagetable.c:iopt_check_iova()
        if iova & self.alignment - 1:
            raise err(EINVAL, f"{iova:#x} is not a multiple of {self.alignment}")
        last = iova + length - 1
        if last > ULONG_MAX:
            raise err(EOVERFLOW, f"{length:#x} bytes at {iova:#x} wrap around")
        if self._reserved_set.intersects(iova, last):
            raise err(EINVAL, f"of {iova:#x} to {last:#x} something is reserved")
        if self.areas.first(iova, last) is not None:
            raise err(EEXIST, f"something is mapped between {iova:#x} and {last:#x}")

    # ---- mapping

    def map_pages(self, slices: list[PagesSlice], length: int, iova: int | None, prot: int) -> int:
        """
        Map *slices* in a row at *iova*, or where there is room; the address. C: ``int iopt_map_pages(...)``.

        Each slice's reference of its pages is the area's now; without success it is given back.

        Raises:
            EINVAL: misaligned, reserved. EEXIST: something is there. EOVERFLOW: it wraps around. ENOSPC: no room.
            EPERM: writing to what was mapped to be read. EFAULT, ENOMEM: the memory cannot be pinned.
        """
        try:
            iova = self._alloc_areas(slices, length, iova, prot)
            with self.domains_lock.read():
                self._fill_slices(slices)
                with self.iova_lock.write():
                    for s in slices:
                        assert s.area is not None
                        s.area.pages = s.pages
        except OSError:
            for s in slices:
                if s.area is not None:
                    self._remove_area(s.area)
                s.pages.put()
            raise
        return iova

    def _alloc_areas(self, slices: list[PagesSlice], length: int, iova: int | None, prot: int) -> int:
        # drivers/iommu/iommufd/io_pagetable.c:iopt_alloc_area_pages()
        with self.iova_lock.write():
            if length & self.alignment - 1 or not length:
                raise err(EINVAL, f"length {length:#x} is no multiple of {self.alignment}")
            if iova is None:
                iova = self._alloc_iova(slices[0].pages.uptr + slices[0].start_byte, length)
            else:
                self._check_iova(iova, length)
            at = iova
            for s in slices:
                s.area = self._insert_area(s, at, prot)
                at += s.length
        return iova

    def _insert_area(self, s: PagesSlice, iova: int, prot: int) -> IoptArea:
        # drivers/iommu/iommufd/io_pagetable.c:iopt_insert_area()
        if prot & IOMMU_WRITE and not s.pages.writable:
            raise err(EPERM, "the memory was mapped to be read")
        area = IoptArea(iova, s.length, s.start_byte, prot, s.pages.kernel.where())
        if area.page_offset & self.alignment - 1:
            raise err(EINVAL, f"the memory is not at a multiple of {self.alignment}")
        if area.last > ULONG_MAX:
            raise err(EOVERFLOW)
        self._add_area(area)
        return area

    def _add_area(self, area: IoptArea) -> None:
        self.areas.insert(area)
        self._used.add(area.start, area.last)

    def _drop_area(self, area: IoptArea) -> None:
        self.areas.remove(area)
        self._used.discard(area.start, area.last)

    def _remove_area(self, area: IoptArea) -> None:
        with self.iova_lock.write():
            self._drop_area(area)

    def _fill_slices(self, slices: list[PagesSlice]) -> None:
        done: list[PagesSlice] = []
        try:
            for s in slices:
                assert s.area is not None
                s.area.fill(s.pages, self.domains, small=self.disable_large_pages)
                done.append(s)
        except OSError:
            for s in done:
                assert s.area is not None
                s.area.unfill(s.pages, self.domains)
            raise

    # ---- looking

    def contiguous(self, iova: int, last: int) -> Iterator[tuple[IoptArea, int, int]]:
        """
        The areas from *iova* to *last* without a hole between them, and which addresses of each; it ends at a hole.

        C: ``iopt_for_each_contig_area()``; who must know compares the end with *last*.
        """
        while iova <= last:
            area = self.areas.first(iova, iova)
            if area is None or area.pages is None:
                return
            yield area, iova, min(last, area.last)
            iova = area.last + 1

    def get_pages(self, iova: int, length: int) -> list[PagesSlice]:
        """
        The memory at *iova*, with a reference for each slice. C: ``int iopt_get_pages(...)``.

        Raises:
            EINVAL: no length. EOVERFLOW: it wraps around. ENOENT: not all is mapped.
        """
        if not length:
            raise err(EINVAL, "length 0")
        last = iova + length - 1
        if last > ULONG_MAX:
            raise err(EOVERFLOW)
        slices: list[PagesSlice] = []
        with self.iova_lock.read():
            for area, start, end in self.contiguous(iova, last):
                assert area.pages is not None
                slices.append(PagesSlice(area.pages.get(), area.byte_of(start), end - start + 1))
                iova = end + 1
            if iova <= last:
                for s in slices:
                    s.pages.put()
                raise err(ENOENT, f"nothing is mapped at {iova:#x}")
        return slices

    # ---- unmapping

    def unmap(self, iova: int, length: int) -> tuple[int, OSError | None]:
        """C: ``int iopt_unmap_iova(...)``. Raises EINVAL: no length. EOVERFLOW. As :meth:`unmap_range` else."""
        if not length:
            raise err(EINVAL, "length 0")
        last = iova + length - 1
        if last > ULONG_MAX:
            raise err(EOVERFLOW, f"{length:#x} bytes at {iova:#x} wrap around")
        return self.unmap_range(iova, last)

    def unmap_all(self) -> tuple[int, OSError | None]:
        """C: ``int iopt_unmap_all(struct io_pagetable *, unsigned long *)``."""
        return self.unmap_range(0, ULONG_MAX)

    def unmap_range(self, start: int, last: int) -> tuple[int, OSError | None]:
        """
        Unmap whole areas: how many bytes, and what kept it from going on.

        C: ``int iopt_unmap_iova_range(...)``. Errors: ENOENT, an area is not all within the range; EBUSY, it is being
        mapped or unmapped; EDEADLK, a driver does not let go.
        """
        unmapped = tries = 0
        while True:
            with self.domains_lock.read():
                done, hole, busy, error = self._unmap_some(start, last)
            unmapped += done
            if busy is None:
                return unmapped, error
            tries = 1 if hole else tries + 1  # all areas that adjoin share them
            start = busy.start
            self.notify_unmap(busy.start, busy.length)
            if tries > TRIES:
                return unmapped, err(EDEADLK, "a driver does not unpin its pages, or of too many areas in a row")

    def _unmap_some(self, start: int, last: int) -> tuple[int, bool, IoptArea | None, OSError | None]:
        """Until the end, an error, or an area that drivers access: bytes, whether over a hole, that area, the error."""
        unmapped, hole = 0, False
        while True:
            with self.iova_lock.write():
                area = self.areas.first(start, last) if start <= last else None
                if area is None:
                    return unmapped, hole, None, None
                if area.pages is None:
                    return unmapped, hole, None, err(EBUSY, f"{area.start:#x} is being mapped or unmapped")
                if area.start < start or area.last > last:
                    return unmapped, hole, None, err(ENOENT, f"{area.start:#x} to {area.last:#x} is mapped as one")
                hole |= area.start != start
                if area.num_accesses:
                    area.prevent_access = True
                    return unmapped, hole, area, None
                pages, area.pages = area.pages, None
            area.unfill(pages, self.domains)
            self._remove_area(area)
            pages.put()
            unmapped += area.length
            start = area.last + 1

    # ---- splitting

    def cut(self, *iovas: int) -> None:
        """Split areas so that each of *iovas* is the last of one. C: ``int iopt_cut_iova(...)``. EBUSY, EINVAL."""
        with self.iova_lock.write():
            for iova in iovas:
                area = self.areas.first(iova, iova)
                if area is not None and iova not in (area.start, area.last):
                    self._split(area, iova + 1)

    def _split(self, area: IoptArea, new_start: int) -> None:
        # drivers/iommu/iommufd/io_pagetable.c:iopt_area_split()
        pages = area.pages
        if pages is None or area.prevent_access:
            raise err(EBUSY)
        start_byte = area.byte_of(new_start)
        if (new_start | start_byte) & self.alignment - 1:
            raise err(EINVAL, f"{new_start:#x} is not a multiple of {self.alignment}")
        if area.num_accesses:
            raise err(EINVAL, "a driver accesses it")
        if area.filled and not self.disable_large_pages:
            raise err(EINVAL, "it may be mapped with large pages")
        left = IoptArea(area.start, new_start - area.start, area.start_byte, area.prot, area.origin)
        right = IoptArea(new_start, area.last - new_start + 1, start_byte, area.prot, area.origin)
        self.areas.remove(area)
        left.pages, right.pages = pages, pages.get()
        left.filled = right.filled = area.filled
        self.areas.insert(left)
        self.areas.insert(right)

    # ---- domains

    def _check_alignment(self, alignment: int) -> None:
        # drivers/iommu/iommufd/io_pagetable.c:iopt_check_iova_alignment()
        for area in self.areas:
            if (area.start | area.length | area.page_offset) & alignment - 1:
                raise err(EADDRINUSE, f"what is mapped at {area.start:#x} is not at a multiple of {alignment}")

    def calculate_alignment(self) -> None:
        """C: ``int iopt_calculate_iova_alignment(struct io_pagetable *)``. Raises EADDRINUSE: an area forbids it."""
        new = PAGE_SIZE if self.disable_large_pages else 1
        new = max([new, *(_smallest_page(d) for d in self.domains), *(a.iova_alignment for a in self.accesses)])
        if new > self.alignment:
            self._check_alignment(new)
        self.alignment = new

    def add_domain(self, domain: IommuDomain) -> None:
        """
        Map everything in *domain* too, now and later. C: ``int iopt_table_add_domain(...)``.

        Raises:
            EINVAL: its pages are larger than the processor's. EADDRINUSE: what is mapped is not aligned for it, or
            beyond its addresses. EFAULT, ENOMEM: memory cannot be pinned.
        """
        with self.domains_lock.write(), self.iova_lock.write():
            alignment = max(_smallest_page(domain), self.alignment)
            if alignment > PAGE_SIZE:
                raise err(EINVAL)
            if alignment != self.alignment:
                self._check_alignment(alignment)
            try:
                if domain.geometry.aperture_start:
                    self.reserve(0, domain.geometry.aperture_start - 1, domain)
                if domain.geometry.aperture_end != ULONG_MAX:
                    self.reserve(domain.geometry.aperture_end + 1, ULONG_MAX, domain)
                self._fill_domain(domain)
            except OSError:
                self.unreserve(domain)
                raise
            self.alignment = alignment
            self.domains.append(domain)

    def _fill_domain(self, domain: IommuDomain) -> None:
        # drivers/iommu/iommufd/io_pagetable.c:iopt_fill_domain()
        done: list[IoptArea] = []
        try:
            for area in self.areas:
                if area.pages is None:
                    continue
                if self.domains:
                    area.map(area.pages, domain, small=self.disable_large_pages)
                else:
                    area.fill(area.pages, [domain], small=self.disable_large_pages)
                done.append(area)
        except OSError:
            self._unfill_areas(done, domain)
            raise

    def _unfill_areas(self, areas: list[IoptArea], domain: IommuDomain) -> None:
        for area in areas:
            if area.pages is None:
                continue
            if self.domains:
                area.unmap(domain)
            else:
                area.unfill(area.pages, [domain])

    def remove_domain(self, domain: IommuDomain) -> None:
        """C: ``void iopt_table_remove_domain(struct io_pagetable *, struct iommu_domain *)``."""
        with self.domains_lock.write(), self.iova_lock.write():
            self.domains.remove(domain)
            self._unfill_areas(list(self.areas), domain)
            self.unreserve(domain)
            self.calculate_alignment()

    # ---- options, accesses

    def enable_large_pages(self) -> None:
        """C: ``void iopt_enable_large_pages(struct io_pagetable *)``."""
        with self.domains_lock.write(), self.iova_lock.write():
            self.disable_large_pages = False
            self.calculate_alignment()

    def set_small_pages(self) -> None:
        """
        C: ``int iopt_disable_large_pages(struct io_pagetable *)``.

        Raises:
            EINVAL: something is mapped in a domain. EADDRINUSE: something is mapped that is not at a page.
        """
        with self.domains_lock.write(), self.iova_lock.write():
            if self.disable_large_pages:
                return
            if self.domains and len(self.areas):
                raise err(EINVAL, "something is mapped, perhaps with large pages")
            self.disable_large_pages = True
            try:
                self.calculate_alignment()
            except OSError:
                self.disable_large_pages = False
                raise

    def add_access(self, access: IommufdAccess) -> None:
        """C: ``int iopt_add_access(...)``. Raises EADDRINUSE: what is mapped is not aligned for it."""
        with self.domains_lock.write(), self.iova_lock.write():
            self.accesses.append(access)
            try:
                self.calculate_alignment()
            except OSError:
                self.accesses.remove(access)
                raise

    def remove_access(self, access: IommufdAccess) -> None:
        """C: ``void iopt_remove_access(...)``."""
        with self.domains_lock.write(), self.iova_lock.write():
            self.accesses.remove(access)
            self.calculate_alignment()


def _smallest_page(domain: IommuDomain) -> int:
    return domain.pgsize_bitmap & -domain.pgsize_bitmap


def _fit(start: int, last: int, length: int, alignment: int, page_offset: int) -> int | None:
    """Where *length* bytes fit from *start* to *last*."""
    # drivers/iommu/iommufd/io_pagetable.c:__alloc_iova_check_range()
    begin = start + alignment - 1
    if begin > ULONG_MAX:
        return None
    begin = begin & -alignment | page_offset
    if begin >= last or last - begin < length - 1:
        return None
    return begin
