"""Which pages devices wrote (drivers/iommu/iommufd/io_pagetable.c, iova_bitmap.c): tracking, and the user's bitmap."""

from __future__ import annotations

from errno import EINVAL, EOPNOTSUPP, EOVERFLOW
from typing import TYPE_CHECKING, Final

from pykernel.errors import err
from pykernel.iommufd.hw_pagetable import HwptPaging
from pykernel.iommufd.interval import ULONG_MAX
from pykernel.mm.uaccess import copy_from_user, copy_to_user
from pykernel.uapi.linux.iommufd import (
    IOMMU_HWPT_DIRTY_TRACKING_ENABLE,
    IOMMU_HWPT_GET_DIRTY_BITMAP_NO_CLEAR,
    iommu_hwpt_get_dirty_bitmap,
    iommu_hwpt_set_dirty_tracking,
)

if TYPE_CHECKING:
    from pykernel.iommufd.io_pagetable import IoPagetable
    from pykernel.iommufd.ucmd import Ucmd
    from pykernel.kernel import Kernel

__all__ = ["IovaBitmap", "get_dirty_bitmap", "set_dirty_tracking"]

STEP: Final = 4096


class IovaBitmap:
    """
    ``struct iova_bitmap``: a bitmap in user memory, a bit for each *page_size* bytes of *length* from *iova* on.

    Where it cannot be written, bits are lost without a word, as in Linux.
    """

    def __init__(self, kernel: Kernel, iova: int, length: int, page_size: int, data: int) -> None:
        self.kernel, self.iova, self.data = kernel, iova, data
        self.shift = (page_size & -page_size).bit_length() - 1
        self.bits = ((length - 1) >> self.shift) + 1

    def set(self, iova: int, length: int) -> None:
        """C: ``void iova_bitmap_set(struct iova_bitmap *, unsigned long iova, size_t length)``."""
        first = iova - self.iova >> self.shift
        last = min(iova + length - 1 - self.iova >> self.shift, self.bits - 1)
        while first <= last:
            end = min(last, (first // (STEP * 8) + 1) * STEP * 8 - 1)
            try:
                self._set(first, end)
            except OSError:
                return
            first = end + 1

    def _set(self, first: int, last: int) -> None:
        addr, n = self.data + first // 8, last // 8 - first // 8 + 1
        mask = ((1 << last - first + 1) - 1) << first % 8
        old = int.from_bytes(copy_from_user(self.kernel, addr, n), "little")
        copy_to_user(self.kernel, addr, (old | mask).to_bytes(n, "little"))


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
        for iova, length in dirty:
            bitmap.set(iova, length)
