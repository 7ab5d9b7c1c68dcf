"""
Accesses: how a driver that has no DMA of its own, as that of a mediated device, reads what an IOAS maps
(drivers/iommu/iommufd/device.c).

Pages that such a driver pins are given back when the user unmaps them: the driver's *unmap* is called, and must do so.
"""

from __future__ import annotations

from collections.abc import Callable
from errno import EBUSY, EINVAL, ENOENT, EOVERFLOW, EPERM
from typing import TYPE_CHECKING

from pykernel.errors import Oops, err
from pykernel.iommu.iommu import IOMMU_READ, IOMMU_WRITE
from pykernel.iommufd.interval import ULONG_MAX
from pykernel.iommufd.ioas import IommufdIoas
from pykernel.iommufd.objects import IommufdObject
from pykernel.iommufd.pages import ACCESS_RW_WRITE
from pykernel.lib.locking import Mutex
from pykernel.mm.uaccess import PAGE_SIZE

if TYPE_CHECKING:
    from pykernel.iommufd.area import IoptArea
    from pykernel.iommufd.io_pagetable import IoPagetable
    from pykernel.iommufd.objects import IommufdCtx

__all__ = ["IommufdAccess", "iommufd_access_create", "iommufd_access_destroy"]


class IommufdAccess(IommufdObject):
    """``struct iommufd_access``: *unmap* tells the driver what goes; *iova_alignment* is what it needs."""

    def __init__(self, ictx: IommufdCtx, unmap: Callable[[int, int], None] | None, *, needs_pin_pages: bool) -> None:
        super().__init__(ictx)
        self._unmap = unmap
        self.iova_alignment = PAGE_SIZE if needs_pin_pages else 1
        self.ioas: IommufdIoas | None = None
        self.ioas_unpin: IommufdIoas | None = None
        self.lock = Mutex(ictx.kernel, "access.ioas_lock")

    def unmap(self, iova: int, length: int) -> None:
        """``iommufd_access_ops.unmap``."""
        if self._unmap is not None:
            self._unmap(iova, length)

    def destroy(self) -> None:
        """drivers/iommu/iommufd/device.c:iommufd_access_destroy_object()."""
        with self.lock:
            if self.ioas is not None:
                self._change_ioas(None)
        self.ictx.put_ref()

    # ---- which address space

    def attach(self, ioas_id: int) -> None:
        """C: ``int iommufd_access_attach(...)``. Raises ENOENT: no such IOAS; EADDRINUSE: it is not aligned for it."""
        with self.lock:
            if self.ioas is not None:
                raise Oops(f"access {self.id} is attached")
            self._change_ioas_id(ioas_id)

    def replace(self, ioas_id: int) -> None:
        """C: ``int iommufd_access_replace(...)``. Raises ENOENT: not attached, or no such IOAS; EADDRINUSE, EBUSY."""
        with self.lock:
            if self.ioas is None:
                raise err(ENOENT, f"access {self.id} is not attached")
            self._change_ioas_id(ioas_id)

    def detach(self) -> None:
        """C: ``void iommufd_access_detach(struct iommufd_access *)``. Raises Oops: it is not attached."""
        with self.lock:
            if self.ioas is None:
                raise Oops(f"access {self.id} is not attached")
            self._change_ioas(None)

    def _change_ioas_id(self, ioas_id: int) -> None:
        with self.ictx.get(ioas_id, IommufdIoas) as ioas:
            self._change_ioas(ioas)

    def _change_ioas(self, new: IommufdIoas | None) -> None:
        # drivers/iommu/iommufd/device.c:iommufd_access_change_ioas()
        old = self.ioas
        if old is not self.ioas_unpin:
            raise err(EBUSY, f"access {self.id} is being detached")
        if old is new:
            return
        self.ioas = None  # no more pins; the old ones can be given back
        if new is not None:
            try:
                new.iopt.add_access(self)
            except OSError:
                self.ioas = old
                raise
            new.users += 1
        if old is not None:
            self.lock.unlock()
            try:
                self.unmap(0, ULONG_MAX)
            finally:
                self.lock.lock()
            old.iopt.remove_access(self)
            old.users -= 1
        self.ioas = self.ioas_unpin = new

    # ---- the memory

    def pin_pages(self, iova: int, length: int, flags: int) -> list[int]:
        """
        Pin whole pages: the physical address of each. C: ``int iommufd_access_pin_pages(...)``.

        Raises:
            EINVAL: no length, within a page, or about to be unmapped. EOVERFLOW: it wraps around.
            ENOENT: no IOAS, or not all is mapped. EPERM: it is mapped without this right. EFAULT, ENOMEM.
        """
        last = _last(iova, length)
        pages: list[int] = []
        with self.lock:
            iopt = self._iopt()
            with iopt.iova_lock.read():
                at = iova
                try:
                    for area, start, end in iopt.contiguous(iova, last):
                        pages += _add_access(area, start, end, last, flags)
                        at = end + 1
                    if at <= last:
                        raise err(ENOENT, f"nothing is mapped at {at:#x}")
                except OSError:
                    if at > iova:
                        _remove_access(iopt, iova, at - 1)
                    raise
        return pages

    def unpin_pages(self, iova: int, length: int) -> None:
        """
        Give back exactly what was pinned at once. C: ``void iommufd_access_unpin_pages(...)``.

        Raises:
            Oops: it was not pinned, or the access is not attached.
        """
        with self.lock:
            if self.ioas_unpin is None or length <= 0:
                raise Oops(f"access {self.id} gives back what it has not")
            iopt = self.ioas_unpin.iopt
            with iopt.iova_lock.read():
                _remove_access(iopt, iova, iova + length - 1)

    def rw(self, iova: int, buf: bytearray | memoryview, flags: int) -> None:
        """
        Fill *buf* from *iova* or write it there, as ACCESS_RW_* say. C: ``int iommufd_access_rw(...)``.

        Raises:
            EINVAL: no length, or about to be unmapped. EOVERFLOW. ENOENT: no IOAS, or not all is mapped; what comes
            before the hole is read or written. EPERM: it is mapped without this right. EFAULT.
        """
        view = memoryview(buf).cast("B")
        last = _last(iova, len(view))
        with self.lock:
            iopt = self._iopt()
            with iopt.iova_lock.read():
                for area, start, end in iopt.contiguous(iova, last):
                    if area.prevent_access:
                        raise err(EINVAL, f"{area.start:#x} is about to be unmapped")
                    _check_prot(area, flags)
                    assert area.pages is not None
                    n = end - start + 1
                    area.pages.rw(area.byte_of(start), view[:n], flags)
                    view = view[n:]
                if len(view):
                    raise err(ENOENT, f"nothing is mapped at {last + 1 - len(view):#x}")

    def _iopt(self) -> IoPagetable:
        if self.ioas is None:
            raise err(ENOENT, f"access {self.id} is not attached")
        return self.ioas.iopt


def _last(iova: int, length: int) -> int:
    if not length:
        raise err(EINVAL, "length 0")
    last = iova + length - 1
    if last > ULONG_MAX:
        raise err(EOVERFLOW, f"{length:#x} bytes at {iova:#x} wrap around")
    return last


def _check_prot(area: IoptArea, flags: int) -> None:
    # drivers/iommu/iommufd/device.c:check_area_prot()
    if not area.prot & (IOMMU_WRITE if flags & ACCESS_RW_WRITE else IOMMU_READ):
        raise err(EPERM, f"{area.start:#x} is not mapped for this")


def _add_access(area: IoptArea, start: int, end: int, last: int, flags: int) -> list[int]:
    # drivers/iommu/iommufd/device.c:iopt_area_contig_is_aligned()
    tail = area.byte_of(area.last) % PAGE_SIZE
    if area.prevent_access or area.byte_of(start) % PAGE_SIZE or (end < last and tail != PAGE_SIZE - 1):
        raise err(EINVAL, f"{start:#x} is within a page, or about to be unmapped")
    _check_prot(area, flags)
    assert area.pages is not None
    pages = area.pages.add_access(area.page_of(start), area.page_of(end), flags)
    area.num_accesses += 1
    return pages


def _remove_access(iopt: IoPagetable, iova: int, last: int) -> None:
    for area, start, end in iopt.contiguous(iova, last):
        assert area.pages is not None
        area.pages.remove_access(area.page_of(start), area.page_of(end))
        area.num_accesses -= 1


def iommufd_access_create(
    ictx: IommufdCtx, unmap: Callable[[int, int], None] | None, *, needs_pin_pages: bool
) -> IommufdAccess:
    """C: ``struct iommufd_access *iommufd_access_create(...)``; the driver's own until it is destroyed. ENOMEM."""
    access = IommufdAccess(ictx, unmap, needs_pin_pages=needs_pin_pages)
    access.users += 1
    ictx.get_ref()
    ictx.finalize(access)
    return access


def iommufd_access_destroy(access: IommufdAccess) -> None:
    """C: ``void iommufd_access_destroy(struct iommufd_access *)``."""
    access.ictx.destroy_user(access)
