"""Bitmaps of written pages in user memory (drivers/iommu/iommufd/iova_bitmap.c; in 6.1 drivers/vfio)."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from pykernel.mm.uaccess import PAGE_SIZE, copy_from_user, copy_to_user

if TYPE_CHECKING:
    from pykernel.kernel import Kernel

__all__ = ["IovaBitmap"]

PIN_MAX = 512 << 12  # a page of pointers to pages is pinned at once


class IovaBitmap:
    """
    ``struct iova_bitmap``: one bit for each page of *page_size* bytes of *length* bytes from *iova* on.

    Raises:
        EFAULT: the bitmap at *data* cannot be written, where that is looked at first.
    """

    def __init__(self, kernel: Kernel, iova: int, length: int, page_size: int, data: int) -> None:
        self.kernel = kernel
        self.iova, self.last = iova, iova + length - 1
        self.shift = (page_size & -page_size).bit_length() - 1
        self.data = data
        self.quiet = kernel.profile.vfio_iova_bitmap_late
        if not self.quiet:
            words = -(-(max(length, 1) >> self.shift) // 64) or 1
            size = min(words * 8, PIN_MAX)
            copy_to_user(kernel, data, copy_from_user(kernel, data, size))

    def set(self, iova: int, length: int) -> None:
        """
        Set the bits of *length* bytes from *iova* on; others stay as they are.

        C: ``void iova_bitmap_set(struct iova_bitmap *, unsigned long iova, size_t)``. Raises EFAULT, where it is told.
        """
        first, last = max(iova, self.iova), min(iova + length - 1, self.last)
        if first > last:
            return
        low, high = first - self.iova >> self.shift, last - self.iova >> self.shift
        with suppress(*(OSError,) if self.quiet else ()):
            while low <= high:  # what comes before a page that is not there is set
                at = self.data + low // 8
                some = min(high - low + 1, (PAGE_SIZE - at % PAGE_SIZE) * 8 - low % 8)
                self._set(at, low % 8, some)
                low += some

    def _set(self, at: int, bit: int, n: int) -> None:
        size = -(-(bit + n) // 8)
        old = int.from_bytes(copy_from_user(self.kernel, at, size), "little")
        copy_to_user(self.kernel, at, (old | (1 << n) - 1 << bit).to_bytes(size, "little"))
