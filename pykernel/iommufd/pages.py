"""
User memory that is mapped into IO page tables (drivers/iommu/iommufd/pages.c): pinned once, however often it is mapped.

Pages are pinned while an IOMMU domain or an in-kernel access needs them. Areas that were copied share an ``IoptPages``,
and so the pins and what is charged for them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from errno import EFAULT, EINVAL, ENOMEM, EOVERFLOW, EPERM
from typing import TYPE_CHECKING, Any, Final

from sortedcontainers import SortedDict

from pykernel.errors import Oops, err
from pykernel.iommufd.interval import ULONG_MAX
from pykernel.iommufd.objects import ACCOUNT_MM, ACCOUNT_NONE, ACCOUNT_USER
from pykernel.mm.locked import account_locked_vm
from pykernel.mm.phys import PhysFault, PhysMem, Run, merged
from pykernel.mm.uaccess import PAGE_SIZE
from pykernel.task import CAP_IPC_LOCK, RLIMIT_MEMLOCK

if TYPE_CHECKING:
    from pykernel.kernel import Kernel
    from pykernel.task import Mm

__all__ = ["ACCESS_RW_KTHREAD", "ACCESS_RW_READ", "ACCESS_RW_SLOW_PATH", "ACCESS_RW_WRITE", "IoptPages", "UserLockedVm"]

PAGE_SHIFT: Final = 12

# include/linux/iommufd.h
ACCESS_RW_READ: Final = 0
ACCESS_RW_WRITE: Final = 1
ACCESS_RW_KTHREAD: Final = 2
ACCESS_RW_SLOW_PATH: Final = 4


class UserLockedVm:
    """``struct user_struct.locked_vm``: pages that each user has pinned, by uid."""

    def __init__(self, kernel: Kernel) -> None:
        self.pages: dict[int, int] = {}
        kernel.check_leaks(self._leaks)

    def add(self, uid: int, npages: int, limit: int) -> None:
        """drivers/iommu/iommufd/pages.c:incr_user_locked_vm(). Raises ENOMEM: more than RLIMIT_MEMLOCK."""
        new = self.pages.get(uid, 0) + npages
        if new > limit:
            raise err(ENOMEM, f"user {uid} would have {new} pages pinned, RLIMIT_MEMLOCK is {limit}")
        self.pages[uid] = new

    def sub(self, uid: int, npages: int) -> None:
        """drivers/iommu/iommufd/pages.c:decr_user_locked_vm()."""
        left = self.pages.get(uid, 0) - npages
        if left < 0:
            raise Oops(f"user {uid} gives {npages} pages back, which were not charged")
        self.pages[uid] = left

    def _leaks(self) -> list[str]:
        return [f"{n} pages charged to user {uid}" for uid, n in self.pages.items() if n]


@dataclass(slots=True)
class Segment:
    """*npages* pinned pages in a row, from number *start* on, at physical address *pa*; *users* need them."""

    start: int
    npages: int
    pa: int
    users: int

    @property
    def last(self) -> int:
        """The last page's number."""
        return self.start + self.npages - 1


class IoptPages:
    """
    ``struct iopt_pages``: whole pages of a process's memory, numbered from 0.

    Attributes:
        refs: how many areas, or lists on their way to become areas, have it.
        uptr: the address of page 0.
        npinned: how many pages are pinned; charged: how many of them are charged to somebody.
        accesses: (first, last) that drivers access: how many of them.
    """

    def __init__(self, kernel: Kernel, uptr: int, length: int, *, writable: bool) -> None:
        """
        C: ``struct iopt_pages *iopt_alloc_pages(void __user *uptr, unsigned long length, bool writable)``.

        Raises:
            EINVAL: no length, or one near 2**64. EOVERFLOW: it wraps around. ENOMEM: by fault injection.
        """
        if length > ULONG_MAX - PAGE_SIZE or not length:
            raise err(EINVAL, f"length {length:#x}")
        if uptr + length > ULONG_MAX:
            raise err(EOVERFLOW, f"{length:#x} bytes at {uptr:#x}")
        kernel.faults.alloc("iopt_alloc_pages")
        mm = kernel.current.mm
        if mm is None:
            raise Oops("a kernel thread maps user memory")
        self.kernel, self.mm, self.task = kernel, mm, kernel.current
        self.uid = kernel.current.cred.uid
        self.refs = 1
        self.uptr = uptr & -PAGE_SIZE
        self.npages = -(-(length + uptr - self.uptr) // PAGE_SIZE)
        self.writable = writable
        self.account_mode = ACCOUNT_NONE if kernel.current.cred.capable(CAP_IPC_LOCK) else ACCOUNT_USER
        self.npinned = self.charged = 0
        self.accesses: dict[tuple[int, int], int] = {}
        self._segments: Any = SortedDict()  # number of the first page -> Segment

    def get(self) -> IoptPages:
        """C: ``kref_get(&pages->kref)``."""
        self.refs += 1
        return self

    def put(self) -> None:
        """C: ``void iopt_put_pages(struct iopt_pages *)``. Raises Oops: pages are still pinned."""
        self.refs -= 1
        if not self.refs and (self._segments or self.npinned or self.accesses):
            raise Oops(f"{self.npinned} pages at {self.uptr:#x} are pinned for nobody")

    # ---- pins

    def hold(self, first: int, last: int) -> None:
        """
        Somebody needs the pages *first* to *last*: those that are not pinned yet are. They are not charged yet.

        Raises:
            EFAULT: no memory is there, or it cannot be written; the memory's process is gone.
        """
        self._cut(first)
        self._cut(last + 1)
        at = first
        try:
            while at <= last:
                segment = self._from(at)
                end = last if segment is None else min(last, segment.start - 1)
                if segment is not None and segment.start == at:
                    segment.users += 1
                    end = segment.last
                else:
                    self._pin(at, end)
                at = end + 1
        except OSError:
            if at > first:
                self.drop(first, at - 1)
            raise

    def drop(self, first: int, last: int) -> None:
        """Who needed the pages does not; what nobody needs is unpinned, and not charged any more."""
        self._cut(first)
        self._cut(last + 1)
        gone: list[Run] = []
        for segment in list(self._within(first, last)):
            segment.users -= 1
            if not segment.users:
                del self._segments[segment.start]
                gone.append(Run(segment.pa, segment.npages))
        if gone:
            self.npinned -= sum(run.npages for run in gone)
            self.mm.mem.unpin_user_pages(gone, dirty=self.writable)
        self._join(first)
        self._join(last + 1)
        if self.npinned < self.charged:
            with suppress(OSError):  # the process that was charged is gone
                self.charge()

    def charge(self) -> None:
        """
        Charge what was pinned, or give back the charge. drivers/iommu/iommufd/pages.c:pfn_reader_user_update_pinned().

        Raises:
            ENOMEM: RLIMIT_MEMLOCK. EINVAL: the process that is charged is gone.
        """
        npages = self.npinned - self.charged
        if not npages:
            return
        if self.account_mode == ACCOUNT_USER:
            users = self.kernel.sub(UserLockedVm)
            if npages > 0:
                users.add(self.uid, npages, self.task.rlimit(RLIMIT_MEMLOCK) >> PAGE_SHIFT)
            else:
                users.sub(self.uid, -npages)
        elif self.account_mode == ACCOUNT_MM:
            if self.is_remote and not self.mm.users:
                raise err(EINVAL, "the process is gone")
            account_locked_vm(self.mm, abs(npages), npages > 0, self.task, bypass=False)
        self.charged = self.npinned
        self.mm.pinned_pages += npages

    def runs(self, first: int, last: int) -> list[Run]:
        """Where the pages are, which are pinned, in as few runs as can be."""
        found: list[Run] = []
        for segment in self._within(self._floor(first), last):
            start, end = max(first, segment.start), min(last, segment.last)
            found.append(Run(segment.pa + (start - segment.start << PAGE_SHIFT), end - start + 1))
        return merged(found)

    @property
    def is_remote(self) -> bool:
        """Whether the memory is another process's than the caller's."""
        return self.kernel.current.mm is not self.mm

    def _pin(self, first: int, last: int) -> None:
        # drivers/iommu/iommufd/pages.c:pfn_reader_user_pin()
        if self.is_remote and not self.mm.users:
            raise err(EFAULT, "the process whose memory it is has exited")
        addr = self.uptr + (first << PAGE_SHIFT)
        for run in self.mm.mem.pin_user_pages(addr, last - first + 1, write=self.writable):
            self._segments[first] = Segment(first, run.npages, run.pa, 1)
            first += run.npages
            self.npinned += run.npages

    # ---- segments

    def _floor(self, page: int) -> int:
        at = self._segments.bisect_right(page)
        if at:
            segment: Segment = self._segments.peekitem(at - 1)[1]
            if segment.last >= page:
                return segment.start
        return page

    def _from(self, page: int) -> Segment | None:
        at = self._segments.bisect_left(page)
        return self._segments.peekitem(at)[1] if at < len(self._segments) else None

    def _within(self, first: int, last: int) -> Iterator[Segment]:
        return (self._segments[start] for start in self._segments.irange(first, last))

    def _cut(self, page: int) -> None:
        """A segment begins at *page*, if it is pinned at all."""
        start = self._floor(page)
        if start == page:
            return
        left = self._segments[start]
        n = page - start
        self._segments[page] = Segment(page, left.npages - n, left.pa + (n << PAGE_SHIFT), left.users)
        left.npages = n

    def _join(self, page: int) -> None:
        """No segment begins at *page*, if the one before it is of the same kind."""
        right: Segment | None = self._segments.get(page)
        left: Segment | None = self._segments.get(self._floor(page - 1)) if page else None
        if left is None or right is None or left is right or left.users != right.users:
            return
        if left.pa + (left.npages << PAGE_SHIFT) == right.pa:
            left.npages += right.npages
            del self._segments[page]

    # ---- what the kernel itself does with them

    def add_access(self, first: int, last: int, flags: int) -> list[int]:
        """
        Pin pages for a driver: the physical address of each. C: ``int iopt_area_add_access(...)``.

        Raises:
            EPERM: to write what was mapped to be read. EFAULT, ENOMEM: as hold() and charge().
        """
        if flags & ACCESS_RW_WRITE and not self.writable:
            raise err(EPERM, "the memory was mapped to be read")
        key = (first, last)
        if key not in self.accesses:
            self.hold(first, last)
            try:
                self.charge()
            except OSError:
                self.drop(first, last)
                raise
        self.accesses[key] = self.accesses.get(key, 0) + 1
        return [run.pa + (n << PAGE_SHIFT) for run in self.runs(first, last) for n in range(run.npages)]

    def remove_access(self, first: int, last: int) -> None:
        """C: ``void iopt_area_remove_access(...)``. Raises Oops: there is none of exactly these pages."""
        key = (first, last)
        if key not in self.accesses:
            raise Oops(f"pages {first} to {last} are given back, and nobody took them")
        self.accesses[key] -= 1
        if not self.accesses[key]:
            del self.accesses[key]
            self.drop(first, last)

    def rw(self, start_byte: int, buf: memoryview, flags: int) -> None:
        """
        Fill *buf* from byte *start_byte*, or write it there. C: ``int iopt_pages_rw_access(...)``.

        Raises:
            EPERM: to write what was mapped to be read. EFAULT.
        """
        write = bool(flags & ACCESS_RW_WRITE)
        if write and not self.writable:
            raise err(EPERM, "the memory was mapped to be read")
        change_mm = self.is_remote or bool(flags & ACCESS_RW_SLOW_PATH)
        if change_mm and (not self.mm.users or not flags & ACCESS_RW_KTHREAD):
            if self.mm.users and start_byte % PAGE_SIZE + len(buf) <= PAGE_SIZE:
                self._rw_page(start_byte, buf, write=write)
            else:
                self._rw_pinned(start_byte, buf, write=write)
        else:
            _copy(self.mm, self.uptr + start_byte, buf, write=write)

    def _rw_page(self, start_byte: int, buf: memoryview, *, write: bool) -> None:
        # drivers/iommu/iommufd/pages.c:iopt_pages_rw_page(): what the process has there now
        addr = self.uptr + start_byte
        runs = self.mm.mem.pin_user_pages(addr & -PAGE_SIZE, 1, write=write)
        try:
            _copy_phys(self.kernel.sub(PhysMem), runs[0].pa + addr % PAGE_SIZE, buf, write=write)
        finally:
            self.mm.mem.unpin_user_pages(runs)

    def _rw_pinned(self, start_byte: int, buf: memoryview, *, write: bool) -> None:
        # drivers/iommu/iommufd/pages.c:iopt_pages_rw_slow()
        first, last = start_byte >> PAGE_SHIFT, start_byte + len(buf) - 1 >> PAGE_SHIFT
        offset, phys = start_byte % PAGE_SIZE, self.kernel.sub(PhysMem)
        self.hold(first, last)
        try:
            for run in self.runs(first, last):
                n = min(len(buf), (run.npages << PAGE_SHIFT) - offset)
                _copy_phys(phys, run.pa + offset, buf[:n], write=write)
                buf, offset = buf[n:], 0
        finally:
            self.drop(first, last)


def _copy_phys(phys: PhysMem, pa: int, buf: memoryview, *, write: bool) -> None:
    try:
        if write:
            phys.write(pa, buf)
        else:
            buf[:] = phys.read(pa, len(buf))
    except PhysFault as e:
        raise err(EFAULT, str(e)) from e


def _copy(mm: Mm, addr: int, buf: memoryview, *, write: bool) -> None:
    if write:
        mm.mem.write(addr, buf)
    else:
        mm.mem.readinto(addr, buf)
