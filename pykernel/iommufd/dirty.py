"""Which pages devices wrote (drivers/iommu/iommufd/io_pagetable.c): tracking, and the user's bitmap."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from errno import EINVAL, EOPNOTSUPP, EOVERFLOW
from typing import TYPE_CHECKING

from pykernel.errors import err
from pykernel.iommufd.hw_pagetable import HwptPaging
from pykernel.iommufd.interval import ULONG_MAX
from pykernel.iommufd.iova_bitmap import IovaBitmap
from pykernel.uapi.linux.iommufd import (
    IOMMU_HWPT_DIRTY_TRACKING_ENABLE,
    IOMMU_HWPT_GET_DIRTY_BITMAP_NO_CLEAR,
    iommu_hwpt_get_dirty_bitmap,
    iommu_hwpt_set_dirty_tracking,
)

if TYPE_CHECKING:
    from pykernel.iommufd.io_pagetable import IoPagetable
    from pykernel.iommufd.ucmd import Ucmd

__all__ = ["get_dirty_bitmap", "set_dirty_tracking"]


def set_dirty_tracking(ucmd: Ucmd, cmd: iommu_hwpt_set_dirty_tracking) -> None:
    """IOMMU_HWPT_SET_DIRTY_TRACKING. Raises EOPNOTSUPP: a flag, or it was made without; ENOENT."""
    if cmd.flags & ~IOMMU_HWPT_DIRTY_TRACKING_ENABLE:
        raise err(EOPNOTSUPP, f"flags {cmd.flags:#x}")
    with ucmd.ictx.get(cmd.hwpt_id, HwptPaging) as hwpt:
        # drivers/iommu/iommufd/io_pagetable.c:iopt_set_dirty_tracking()
        domain, enable = hwpt.domain, bool(cmd.flags & IOMMU_HWPT_DIRTY_TRACKING_ENABLE)
        if not domain.has_dirty_ops:
            raise err(EOPNOTSUPP, f"page table {hwpt.id} was made without dirty tracking")
        with hwpt.iopt.iova_lock.read():
            if enable:
                for area in hwpt.iopt.areas:
                    if area.pages is not None:
                        domain.clear_dirty(area.start, area.length)
            domain.set_dirty_tracking(enable)


def get_dirty_bitmap(ucmd: Ucmd, cmd: iommu_hwpt_get_dirty_bitmap) -> None:
    """
    IOMMU_HWPT_GET_DIRTY_BITMAP: set the bits of pages that were written; others stay.

    Of a large page that is only in part in the range, Linux 6.12 sets bits behind the user's, too: whatever lies there
    in the same pinned page of memory is overwritten. Here bits end with the range.

    Raises:
        EOPNOTSUPP: a flag, or the page table was made without. ENOENT. EINVAL: no length or page size, misaligned.
        EOVERFLOW.
    """
    if cmd.flags & ~IOMMU_HWPT_GET_DIRTY_BITMAP_NO_CLEAR or cmd.reserved:
        raise err(EOPNOTSUPP, f"flags {cmd.flags:#x}")
    with ucmd.ictx.get(cmd.hwpt_id, HwptPaging) as hwpt:
        _check_range(hwpt.iopt, cmd)
        if not hwpt.domain.has_dirty_ops:
            raise err(EOPNOTSUPP, f"page table {hwpt.id} was made without dirty tracking")
        with hwpt.iopt.iova_lock.read():
            _read_and_clear(ucmd, hwpt, cmd)


def _check_range(iopt: IoPagetable, cmd: iommu_hwpt_get_dirty_bitmap) -> None:
    # drivers/iommu/iommufd/io_pagetable.c:iommufd_check_iova_range()
    if not cmd.length:
        raise err(EINVAL, "length 0")
    end = cmd.iova + cmd.length
    if end - 1 > ULONG_MAX:
        raise err(EOVERFLOW)
    if (cmd.iova | end) & iopt.alignment - 1 or not cmd.page_size or (cmd.iova | end) & cmd.page_size - 1:
        raise err(EINVAL, f"{cmd.iova:#x} and {end:#x} are no multiples of pages of {cmd.page_size}")


def _read_and_clear(ucmd: Ucmd, hwpt: HwptPaging, cmd: iommu_hwpt_get_dirty_bitmap) -> None:
    # drivers/iommu/iommufd/io_pagetable.c:iommu_read_and_clear_dirty(): what goes wrong on the way is not told
    bitmap = IovaBitmap(ucmd.kernel, cmd.iova, cmd.length, cmd.page_size, cmd.data)
    clear = not cmd.flags & IOMMU_HWPT_GET_DIRTY_BITMAP_NO_CLEAR
    for _, start, last in hwpt.iopt.contiguous(cmd.iova, cmd.iova + cmd.length - 1):
        try:
            dirty = hwpt.domain.read_and_clear_dirty(start, last - start + 1, clear=clear)
        except OSError:  # tracking is off
            return
        for iova, length in _runs(dirty):
            bitmap.set(iova, length)


def _runs(pages: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Pages that adjoin as one."""
    start = end = -1
    for iova, length in pages:
        if iova != end:
            if end > start:
                yield start, end - start
            start = iova
        end = iova + length
    if end > start:
        yield start, end - start
