"""I/O address spaces and their commands (drivers/iommu/iommufd/ioas.c)."""

from __future__ import annotations

from errno import EBUSY, EINVAL, EMSGSIZE, ENOENT, EOPNOTSUPP, EOVERFLOW, EPERM
from typing import TYPE_CHECKING, Final
from weakref import WeakSet

from pykernel.errors import Oops, err
from pykernel.iommu.iommu import IOMMU_CACHE, IOMMU_READ, IOMMU_WRITE
from pykernel.iommufd.interval import ULONG_MAX, RangeSet
from pykernel.iommufd.io_pagetable import IoPagetable, PagesSlice
from pykernel.iommufd.objects import ACCOUNT_MM, ACCOUNT_USER, IommufdCtx, IommufdObject
from pykernel.iommufd.pages import IoptPages
from pykernel.lib.locking import Mutex
from pykernel.mm.uaccess import copy_from_user, copy_to_user
from pykernel.task import CAP_SYS_RESOURCE
from pykernel.uapi.linux.iommufd import (
    IOMMU_IOAS_MAP_FIXED_IOVA,
    IOMMU_IOAS_MAP_READABLE,
    IOMMU_IOAS_MAP_WRITEABLE,
    IOMMU_OPTION_HUGE_PAGES,
    IOMMU_OPTION_OP_GET,
    IOMMU_OPTION_OP_SET,
    IOMMU_OPTION_RLIMIT_MODE,
    iommu_ioas_alloc,
    iommu_ioas_allow_iovas,
    iommu_ioas_copy,
    iommu_ioas_iova_ranges,
    iommu_ioas_map,
    iommu_ioas_unmap,
    iommu_iova_range,
    iommu_option,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pykernel.iommufd.area import IoptArea
    from pykernel.iommufd.hw_pagetable import HwptPaging
    from pykernel.iommufd.ucmd import Ucmd
    from pykernel.kernel import Kernel

__all__ = [
    "IommufdIoas",
    "ioas_alloc",
    "ioas_allow_iovas",
    "ioas_copy",
    "ioas_iova_ranges",
    "ioas_map",
    "ioas_unmap",
    "map_user_pages",
    "option",
]

MAP_FLAGS: Final = IOMMU_IOAS_MAP_FIXED_IOVA | IOMMU_IOAS_MAP_WRITEABLE | IOMMU_IOAS_MAP_READABLE
U64_MAX: Final = (1 << 64) - 1


class _Live:
    """The I/O address spaces of one kernel: what is mapped in them at shutdown is a leak."""

    def __init__(self, kernel: Kernel) -> None:
        self.spaces: WeakSet[IommufdIoas] = WeakSet()
        kernel.check_leaks(lambda: [line for ioas in sorted(self.spaces, key=lambda s: s.id) for line in _leaks(ioas)])


def _leaks(ioas: IommufdIoas) -> Iterator[str]:
    runs: list[list[IoptArea]] = []
    for area in ioas.iopt.areas:
        if runs and (runs[-1][-1].last + 1, runs[-1][-1].origin) == (area.start, area.origin):
            runs[-1].append(area)
        else:
            runs.append([area])
    for run in runs:
        n, where = len(run), f"IOVA {run[0].start:#x}-{run[-1].last:#x} of IOAS {ioas.id}"
        yield f"{where}, {n} mapping{'s' * (n > 1)} of user memory{run[0].origin}"


class IommufdIoas(IommufdObject):
    """``struct iommufd_ioas``: a map, and the hardware page tables that follow it."""

    def __init__(self, ictx: IommufdCtx) -> None:
        super().__init__(ictx)
        self.iopt = IoPagetable(ictx.kernel, self.notify_unmap)
        self.mutex = Mutex(ictx.kernel, "ioas.mutex")
        self.hwpts: list[HwptPaging] = []
        ictx.kernel.sub(_Live).spaces.add(self)

    def destroy(self) -> None:
        """drivers/iommu/iommufd/ioas.c:iommufd_ioas_destroy()."""
        _, error = self.iopt.unmap_all()
        if error is not None:
            raise Oops(f"an I/O address space that goes cannot be unmapped: {error}")
        self.iopt.destroy()

    def notify_unmap(self, iova: int, length: int) -> None:
        """C: ``void iommufd_access_notify_unmap(...)``: drivers must give the pages back before this ends."""
        for access in list(self.iopt.accesses):
            if access.users and access.shortterm:
                with access.held():
                    access.unmap(iova, length)


def ioas_alloc(ucmd: Ucmd, cmd: iommu_ioas_alloc) -> None:
    """IOMMU_IOAS_ALLOC. Raises EOPNOTSUPP: a flag. EFAULT, ENOMEM."""
    if cmd.flags:
        raise err(EOPNOTSUPP, f"flags {cmd.flags:#x}")
    ioas = IommufdIoas(ucmd.ictx)
    cmd.out_ioas_id = ioas.id
    try:
        ucmd.respond(cmd)
    except OSError:
        ucmd.ictx.abort_and_destroy(ioas)
        raise
    ucmd.ictx.finalize(ioas)


def ioas_iova_ranges(ucmd: Ucmd, cmd: iommu_ioas_iova_ranges) -> None:
    """IOMMU_IOAS_IOVA_RANGES. Raises EOPNOTSUPP, ENOENT, EFAULT; EMSGSIZE: there are more than fit."""
    if cmd.reserved:
        raise err(EOPNOTSUPP)
    with ucmd.ictx.get(cmd.ioas_id, IommufdIoas) as ioas, ioas.iopt.iova_lock.read():
        room, cmd.num_iovas = cmd.num_iovas, 0
        cmd.out_iova_alignment = ioas.iopt.alignment
        for start, last in ioas.iopt.usable():
            if cmd.num_iovas < room:
                at = cmd.allowed_iovas + cmd.num_iovas * iommu_iova_range.sizeof()
                copy_to_user(ucmd.kernel, at, bytes(iommu_iova_range(start=start, last=last)))
            cmd.num_iovas += 1
        ucmd.respond(cmd)
        if cmd.num_iovas > room:
            raise err(EMSGSIZE, f"{cmd.num_iovas} ranges, room for {room}")


def ioas_allow_iovas(ucmd: Ucmd, cmd: iommu_ioas_allow_iovas) -> None:
    """IOMMU_IOAS_ALLOW_IOVAS. Raises EOPNOTSUPP, ENOENT, EFAULT; EINVAL: bad ranges; EADDRINUSE: one is reserved."""
    if cmd.reserved:
        raise err(EOPNOTSUPP)
    with ucmd.ictx.get(cmd.ioas_id, IommufdIoas) as ioas:
        ioas.iopt.set_allowed(_load_iovas(ucmd, cmd.allowed_iovas, cmd.num_iovas))


def _load_iovas(ucmd: Ucmd, addr: int, num: int) -> RangeSet:
    # drivers/iommu/iommufd/ioas.c:iommufd_ioas_load_iovas()
    allowed, size = RangeSet(), iommu_iova_range.sizeof()
    for n in range(num):
        row = iommu_iova_range.from_bytes(copy_from_user(ucmd.kernel, addr + n * size, size))
        if row.start >= row.last or allowed.intersects(row.start, row.last):
            raise err(EINVAL, f"range {n} is no range, or overlaps another")
        allowed.add(row.start, row.last)
    return allowed


def _iommu_prot(flags: int) -> int:
    # drivers/iommu/iommufd/ioas.c:conv_iommu_prot()
    prot = IOMMU_CACHE
    prot |= IOMMU_WRITE if flags & IOMMU_IOAS_MAP_WRITEABLE else 0
    return prot | (IOMMU_READ if flags & IOMMU_IOAS_MAP_READABLE else 0)


def map_user_pages(ioas: IommufdIoas, iova: int | None, uptr: int, length: int, prot: int) -> int:
    """
    Map the caller's memory at *iova*, or where there is room; the address. C: ``int iopt_map_user_pages(...)``.

    Raises:
        EINVAL, EOVERFLOW: no such memory can be. As IoPagetable.map_pages() else.
    """
    pages = IoptPages(ioas.ictx.kernel, uptr, length, writable=bool(prot & IOMMU_WRITE))
    if ioas.ictx.account_mode == ACCOUNT_MM and pages.account_mode == ACCOUNT_USER:
        pages.account_mode = ACCOUNT_MM
    return ioas.iopt.map_pages([PagesSlice(pages, uptr - pages.uptr, length)], length, iova, prot)


def ioas_map(ucmd: Ucmd, cmd: iommu_ioas_map) -> None:
    """
    IOMMU_IOAS_MAP.

    Raises:
        EOPNOTSUPP: an unknown flag. EOVERFLOW. EINVAL: neither readable nor writable; misaligned or reserved.
        ENOENT: no such IOAS. EEXIST: something is there. ENOSPC: no room. EFAULT, ENOMEM: it cannot be pinned.
    """
    if cmd.flags & ~MAP_FLAGS or cmd.reserved:
        raise err(EOPNOTSUPP, f"flags {cmd.flags:#x}")
    if cmd.iova >= ULONG_MAX or cmd.length >= ULONG_MAX:
        raise err(EOVERFLOW)
    if not cmd.flags & (IOMMU_IOAS_MAP_WRITEABLE | IOMMU_IOAS_MAP_READABLE):
        raise err(EINVAL, "neither readable nor writable")
    with ucmd.ictx.get(cmd.ioas_id, IommufdIoas) as ioas:
        wanted = cmd.iova if cmd.flags & IOMMU_IOAS_MAP_FIXED_IOVA else None
        cmd.iova = map_user_pages(ioas, wanted, cmd.user_va, cmd.length, _iommu_prot(cmd.flags))
        ucmd.respond(cmd)


def ioas_copy(ucmd: Ucmd, cmd: iommu_ioas_copy) -> None:
    """
    IOMMU_IOAS_COPY. Raises as IOMMU_IOAS_MAP; ENOENT: not all of the source is mapped; EPERM: it is read-only.
    """
    if cmd.flags & ~MAP_FLAGS:
        raise err(EOPNOTSUPP, f"flags {cmd.flags:#x}")
    if ULONG_MAX in (cmd.length, cmd.src_iova, cmd.dst_iova):
        raise err(EOVERFLOW)
    if not cmd.flags & (IOMMU_IOAS_MAP_WRITEABLE | IOMMU_IOAS_MAP_READABLE):
        raise err(EINVAL, "neither readable nor writable")
    with ucmd.ictx.get(cmd.src_ioas_id, IommufdIoas) as src:
        slices = src.iopt.get_pages(cmd.src_iova, cmd.length)
    try:
        dst = ucmd.ictx.find(cmd.dst_ioas_id, IommufdIoas)
    except OSError:
        for s in slices:
            s.pages.put()
        raise
    with dst.held():
        wanted = cmd.dst_iova if cmd.flags & IOMMU_IOAS_MAP_FIXED_IOVA else None
        cmd.dst_iova = dst.iopt.map_pages(slices, cmd.length, wanted, _iommu_prot(cmd.flags))
        ucmd.respond(cmd)


def ioas_unmap(ucmd: Ucmd, cmd: iommu_ioas_unmap) -> None:
    """
    IOMMU_IOAS_UNMAP; address 0 and the largest length are all.

    Raises:
        ENOENT: no such IOAS, nothing there, or an area is not all in the range. EOVERFLOW. EINVAL: no length.
        EBUSY, EDEADLK: it is in use.
    """
    with ucmd.ictx.get(cmd.ioas_id, IommufdIoas) as ioas:
        if cmd.iova == 0 and cmd.length == U64_MAX:
            unmapped, error = ioas.iopt.unmap_all()
        elif cmd.iova >= ULONG_MAX or cmd.length >= ULONG_MAX:
            raise err(EOVERFLOW)
        else:
            unmapped, error = ioas.iopt.unmap(cmd.iova, cmd.length)
            if error is None and not unmapped:
                error = err(ENOENT, f"nothing is mapped in {cmd.length:#x} bytes at {cmd.iova:#x}")
        if error is not None:
            raise error
        cmd.length = unmapped
        ucmd.respond(cmd)


# ---- options


def option(ucmd: Ucmd, cmd: iommu_option) -> None:
    """IOMMU_OPTION. Raises EOPNOTSUPP: no such option or operation. EINVAL: no such value. EPERM, EBUSY, ENOENT."""
    if cmd.reserved:
        raise err(EOPNOTSUPP)
    if cmd.option_id == IOMMU_OPTION_RLIMIT_MODE:
        _option_rlimit_mode(ucmd.ictx, cmd)
    elif cmd.option_id == IOMMU_OPTION_HUGE_PAGES:
        with ucmd.ictx.get(cmd.object_id, IommufdIoas) as ioas:
            _option_huge_pages(ioas, cmd)
    else:
        raise err(EOPNOTSUPP, f"option {cmd.option_id}")
    offset = iommu_option.offsetof("val64")
    copy_to_user(ucmd.kernel, ucmd.ubuffer + offset, cmd.val64.to_bytes(8, "little"))


def _option_rlimit_mode(ictx: IommufdCtx, cmd: iommu_option) -> None:
    # drivers/iommu/iommufd/ioas.c:iommufd_option_rlimit_mode()
    if cmd.object_id:
        raise err(EOPNOTSUPP, "it is an option of all, not of an object")
    if cmd.op == IOMMU_OPTION_OP_GET:
        cmd.val64 = int(ictx.account_mode == ACCOUNT_MM)
        return
    if cmd.op != IOMMU_OPTION_OP_SET:
        raise err(EOPNOTSUPP, f"operation {cmd.op}")
    if not ictx.kernel.current.cred.capable(CAP_SYS_RESOURCE):
        raise err(EPERM, "CAP_SYS_RESOURCE")
    if not ictx.objects.empty():
        raise err(EBUSY, "there are objects already")
    if cmd.val64 > 1:
        raise err(EINVAL, f"value {cmd.val64}")
    ictx.account_mode = ACCOUNT_MM if cmd.val64 else ACCOUNT_USER


def _option_huge_pages(ioas: IommufdIoas, cmd: iommu_option) -> None:
    # drivers/iommu/iommufd/ioas.c:iommufd_ioas_option_huge_pages()
    if cmd.op == IOMMU_OPTION_OP_GET:
        cmd.val64 = int(not ioas.iopt.disable_large_pages)
    elif cmd.op != IOMMU_OPTION_OP_SET:
        raise err(EOPNOTSUPP, f"operation {cmd.op}")
    elif cmd.val64 == 0:
        ioas.iopt.set_small_pages()
    elif cmd.val64 == 1:
        ioas.iopt.enable_large_pages()
    else:
        raise err(EINVAL, f"value {cmd.val64}")
