"""
Bitmaps of written pages (drivers/vfio/vfio_iommu_type1.c: vfio_dma_bitmap_alloc(), update_user_bitmap()).

A mapping's bitmap has 64 bits more than pages: to be copied to the user, who counts from the start of a range, it is
shifted in place. What the kernel does there is kept to the bit: the user's last word is cleared behind the mapping, and
bits that were shifted out of the mapping stay, so that a second reading may tell of pages behind it.
"""

from __future__ import annotations

from errno import EINVAL
from typing import TYPE_CHECKING, Final

from pykernel.errors import err
from pykernel.mm.uaccess import copy_from_user, copy_to_user

if TYPE_CHECKING:
    from pykernel.kernel import Kernel
    from pykernel.vfio.type1_dma import VfioDma
    from pykernel.vfio.type1_state import VfioIommu

__all__ = [
    "DIRTY_BITMAP_SIZE_MAX",
    "bitmap_set",
    "dirty_bitmap_bytes",
    "update_user_bitmap",
    "verify_bitmap_size",
    "vfio_dma_bitmap_alloc",
    "vfio_dma_bitmap_alloc_all",
    "vfio_iommu_populate_bitmap_full",
    "vfio_iova_dirty_bitmap",
]

DIRTY_BITMAP_PAGES_MAX: Final = 0x7FFFFFFF
WORD: Final = 8


def dirty_bitmap_bytes(npages: int) -> int:
    """Bytes of a bitmap, whole words. C: ``DIRTY_BITMAP_BYTES(n)``."""
    return (npages + 63 >> 6) * WORD


DIRTY_BITMAP_SIZE_MAX: Final = dirty_bitmap_bytes(DIRTY_BITMAP_PAGES_MAX)


def verify_bitmap_size(npages: int, bitmap_size: int) -> None:
    """C: ``int verify_bitmap_size(uint64_t, uint64_t)``. Raises EINVAL: none, too large, or too small for *npages*."""
    if not npages or not bitmap_size or not dirty_bitmap_bytes(npages) <= bitmap_size <= DIRTY_BITMAP_SIZE_MAX:
        raise err(EINVAL, f"a bitmap of {bitmap_size} bytes for {npages} pages")


def bitmap_set(bitmap: bytearray, start: int, count: int) -> None:
    """C: ``bitmap_set(map, start, len)``."""
    end = start + count
    first, last = start + 7 >> 3, end >> 3
    if first > last or count == 1:  # within a byte
        bitmap[start >> 3] |= (1 << count) - 1 << (start & 7)
        return
    if start & 7:
        bitmap[start >> 3] |= 0xFF << (start & 7) & 0xFF
    bitmap[first:last] = b"\xff" * (last - first)
    if end & 7:
        bitmap[last] |= (1 << (end & 7)) - 1


def bitmap_clear(bitmap: bytearray, count: int) -> None:
    """C: ``bitmap_clear(map, 0, len)``."""
    whole = count >> 3
    bitmap[:whole] = bytes(whole)
    if count & 7:
        bitmap[whole] &= 0xFF << (count & 7) & 0xFF


def vfio_dma_bitmap_alloc(kernel: Kernel, dma: VfioDma, pgshift: int) -> None:
    """C: ``int vfio_dma_bitmap_alloc(struct vfio_dma *, size_t)``. Raises EINVAL: too many pages; ENOMEM."""
    npages = dma.size >> pgshift
    if npages > DIRTY_BITMAP_PAGES_MAX:
        raise err(EINVAL, f"{npages} pages are too many for a bitmap")
    kernel.faults.alloc("vfio_dma_bitmap_alloc")
    dma.bitmap = bytearray(dirty_bitmap_bytes(npages) + WORD)


def vfio_dma_populate_bitmap(dma: VfioDma, pgshift: int) -> None:
    """What drivers have pinned is written. C: ``void vfio_dma_populate_bitmap(struct vfio_dma *, size_t)``."""
    assert dma.bitmap is not None
    for iova in dma.pfns:
        bitmap_set(dma.bitmap, iova - dma.iova >> pgshift, 1)


def vfio_dma_bitmap_alloc_all(iommu: VfioIommu) -> None:
    """C: ``int vfio_dma_bitmap_alloc_all(struct vfio_iommu *, size_t)``. Raises as one does; then none has any."""
    try:
        for dma in iommu.dma_list:
            vfio_dma_bitmap_alloc(iommu.kernel, dma, iommu.pgshift)
            vfio_dma_populate_bitmap(dma, iommu.pgshift)
    except OSError:
        vfio_dma_bitmap_free_all(iommu)
        raise


def vfio_dma_bitmap_free_all(iommu: VfioIommu) -> None:
    """C: ``void vfio_dma_bitmap_free_all(struct vfio_iommu *)``."""
    for dma in iommu.dma_list:
        dma.bitmap = None


def vfio_iommu_populate_bitmap_full(iommu: VfioIommu) -> None:
    """All pages are written. C: ``void vfio_iommu_populate_bitmap_full(struct vfio_iommu *)``."""
    for dma in iommu.dma_list:
        assert dma.bitmap is not None
        bitmap_set(dma.bitmap, 0, dma.size >> iommu.pgshift)


def update_user_bitmap(data: int, iommu: VfioIommu, dma: VfioDma, base_iova: int) -> None:
    """
    Copy *dma*'s bits to the user's bitmap at *data*, whose first bit is the page at *base_iova*.

    C: ``int update_user_bitmap(u64 __user *, struct vfio_iommu *, struct vfio_dma *, dma_addr_t, size_t)``

    Raises:
        OSError: EFAULT.
    """
    bitmap, nbits = dma.bitmap, dma.size >> iommu.pgshift
    assert bitmap is not None
    word, shift = divmod(dma.iova - base_iova >> iommu.pgshift, 64)
    at = data + word * WORD
    n = dirty_bitmap_bytes(nbits + shift)
    # who cannot log what is written may have written everything
    if iommu.num_non_pinned_groups and dma.iommu_mapped:
        bitmap_set(bitmap, 0, nbits)
    if shift:
        bits = (int.from_bytes(bitmap[:n], "little") << shift) & (1 << 8 * n) - 1
        bitmap[:n] = bits.to_bytes(n, "little")
        bits |= int.from_bytes(copy_from_user(iommu.kernel, at, WORD), "little")
        bitmap[:n] = bits.to_bytes(n, "little")
    copy_to_user(iommu.kernel, at, bitmap[:n])


def vfio_iova_dirty_bitmap(data: int, iommu: VfioIommu, iova: int, size: int) -> None:
    """
    The bits of all mappings in the range; afterwards only what drivers have pinned is written.

    C: ``int vfio_iova_dirty_bitmap(u64 __user *, struct vfio_iommu *, dma_addr_t, size_t, size_t)``

    Raises:
        OSError: EINVAL, an end of the range is within a mapping; EFAULT.
    """
    if cut_by(iommu, iova, size):
        raise err(EINVAL, f"a mapping is cut by {iova:#x}-{iova + size - 1:#x}")
    for dma in iommu.dma_list.within(iova, size):
        update_user_bitmap(data, iommu, dma, iova)
        assert dma.bitmap is not None
        bitmap_clear(dma.bitmap, dma.size >> iommu.pgshift)
        vfio_dma_populate_bitmap(dma, iommu.pgshift)


def cut_by(iommu: VfioIommu, iova: int, size: int) -> bool:
    """Whether an end of the range is within a mapping."""
    dma = iommu.dma_list.find(iova, 1)
    if dma is not None and dma.iova != iova:
        return True
    dma = iommu.dma_list.find(iova + size - 1, 0)
    return dma is not None and dma.end != iova + size
