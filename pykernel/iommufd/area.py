"""
A range of I/O virtual addresses and the pages behind it (drivers/iommu/iommufd/io_pagetable.h, pages.c).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pykernel.errors import Oops
from pykernel.mm.uaccess import PAGE_SIZE

if TYPE_CHECKING:
    from pykernel.iommu.iommu import IommuDomain
    from pykernel.iommufd.pages import IoptPages

__all__ = ["IoptArea", "iommu_unmap_nofail"]

PAGE_SHIFT: Final = 12


class IoptArea:
    """
    ``struct iopt_area``.

    Attributes:
        start, last: its addresses.
        pages: what is behind it; None while it is being made or taken away.
        start_byte: the byte of the pages that *start* is.
        prot: IOMMU_READ, IOMMU_WRITE, IOMMU_CACHE.
        num_accesses: how often drivers access it.
        prevent_access: it is about to go: no more of them.
        filled: it is mapped in the domains of its address space, and its pages are pinned for that.
        origin: the line that made it, for a leak report.
    """

    __slots__ = ("filled", "last", "num_accesses", "origin", "pages", "prevent_access", "prot", "start", "start_byte")

    def __init__(self, start: int, length: int, start_byte: int, prot: int, origin: str = "") -> None:
        self.start, self.last = start, start + length - 1
        self.start_byte, self.prot, self.origin = start_byte, prot, origin
        self.pages: IoptPages | None = None
        self.num_accesses = 0
        self.prevent_access = self.filled = False

    @property
    def length(self) -> int:
        """Bytes."""
        return self.last - self.start + 1

    @property
    def page_offset(self) -> int:
        """Where in its page *start* is."""
        return self.start_byte % PAGE_SIZE

    @property
    def first_page(self) -> int:
        """C: ``iopt_area_index()``."""
        return self.start_byte >> PAGE_SHIFT

    @property
    def last_page(self) -> int:
        """C: ``iopt_area_last_index()``."""
        return self.start_byte + self.length - 1 >> PAGE_SHIFT

    def byte_of(self, iova: int) -> int:
        """C: ``iopt_area_start_byte()``."""
        return self.start_byte + iova - self.start

    def page_of(self, iova: int) -> int:
        """C: ``iopt_area_iova_to_index()``."""
        return self.byte_of(iova) >> PAGE_SHIFT

    # ---- domains

    def fill(self, pages: IoptPages, domains: list[IommuDomain], *, small: bool) -> None:
        """
        Pin the pages and map them in all *domains*; on failure nothing has changed. *small*: page by page.

        drivers/iommu/iommufd/pages.c:iopt_area_fill_domains().

        Raises:
            EFAULT: no memory is there. ENOMEM: RLIMIT_MEMLOCK. What mapping raises.
        """
        if not domains:
            return
        pages.hold(self.first_page, self.last_page)
        done: list[IommuDomain] = []
        try:
            for domain in domains:
                self.map(pages, domain, small=small)
                done.append(domain)
            pages.charge()
        except OSError:
            for domain in done:
                self.unmap(domain)
            pages.drop(self.first_page, self.last_page)
            raise
        self.filled = True

    def unfill(self, pages: IoptPages, domains: list[IommuDomain]) -> None:
        """Unmap it everywhere and unpin its pages. C: ``void iopt_area_unfill_domains(...)``."""
        if not self.filled:
            return
        for domain in domains:
            self.unmap(domain)
        pages.drop(self.first_page, self.last_page)
        self.filled = False

    def map(self, pages: IoptPages, domain: IommuDomain, *, small: bool) -> None:
        """drivers/iommu/iommufd/pages.c:batch_to_domain(). Raises what mapping raises: then nothing is mapped."""
        iova, offset = self.start, self.page_offset
        try:
            for run in pages.runs(self.first_page, self.last_page):
                size = min(self.last + 1 - iova, (run.npages << PAGE_SHIFT) - offset)
                step = PAGE_SIZE if small else size
                for done in range(0, size, step):
                    domain.map(iova, run.pa + offset + done, step, self.prot)
                    iova += step
                offset = 0
        except OSError:
            if iova != self.start:
                iommu_unmap_nofail(domain, self.start, iova - self.start)
            raise

    def unmap(self, domain: IommuDomain) -> None:
        """C: ``void iopt_area_unmap_domain(struct iopt_area *, struct iommu_domain *)``."""
        iommu_unmap_nofail(domain, self.start, self.length)


def iommu_unmap_nofail(domain: IommuDomain, iova: int, size: int) -> None:
    """drivers/iommu/iommufd/pages.c:iommu_unmap_nofail(). Raises Oops: not all was mapped."""
    done = domain.unmap(iova, size)
    if done != size:
        raise Oops(f"{done:#x} of {size:#x} bytes were mapped at {iova:#x}")
