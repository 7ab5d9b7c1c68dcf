"""
What drivers of emulated devices do with a container's mappings: pin pages, read and write
(drivers/vfio/vfio_iommu_type1.c: vfio_iommu_type1_pin_pages(), vfio_iommu_type1_dma_rw()).
"""

from __future__ import annotations

from errno import EACCES, EBUSY, EFAULT, EINVAL, EPERM
from typing import TYPE_CHECKING

from pykernel.errors import Oops, err
from pykernel.iommu.iommu import IOMMU_READ, IOMMU_WRITE
from pykernel.log import WARNING
from pykernel.mm.phys import ZERO_PA
from pykernel.mm.uaccess import PAGE_SIZE
from pykernel.vfio.type1_dirty import bitmap_set
from pykernel.vfio.type1_dma import VfioPfn
from pykernel.vfio.type1_pin import pin_page, put_page, vfio_lock_acct

if TYPE_CHECKING:
    from pykernel.iommu.iommu import IommuGroup
    from pykernel.vfio.type1_dma import VfioDma
    from pykernel.vfio.type1_state import VfioIommu

__all__ = ["vfio_iommu_dma_rw", "vfio_iommu_pin_pages", "vfio_iommu_unpin_pages"]


def _check_addresses(iommu: VfioIommu, what: str) -> None:
    """Raises EBUSY: the address of a mapping was taken back."""
    if iommu.vaddr_invalid_count:
        iommu.kernel.log.printk(WARNING, f"{what} not allowed with VFIO_UPDATE_VADDR")
        raise err(EBUSY, "the address of a mapping was taken back")


def vfio_iommu_pin_pages(iommu: VfioIommu, group: IommuGroup, iova: int, npage: int, prot: int) -> list[int]:
    """
    Pin pages: their physical addresses, in order.

    C: ``int vfio_iommu_type1_pin_pages(void *, struct iommu_group *, dma_addr_t, int, int, struct page **)``

    Raises:
        OSError: EACCES, version 1; EBUSY, an address was taken back; EINVAL, no open device has dma_unmap(), or
            nothing is mapped, or no memory; EPERM, mapped with less rights; ENODEV, who mapped it is gone; EFAULT;
            ENOMEM, more than RLIMIT_MEMLOCK. Nothing is pinned then.
    """
    if not iommu.v2:
        raise err(EACCES, "the container is of version 1")
    with iommu.lock:
        _check_addresses(iommu, "vfio_pin_pages")
        if not iommu.device_list:
            raise err(EINVAL, "no device here has dma_unmap()")
        accounting = not iommu.domain_list  # else every page is pinned and charged
        pages: list[int] = []
        try:
            for at in range(iova, iova + npage * PAGE_SIZE, PAGE_SIZE):
                pages.append(_pin(iommu, at, prot, accounting=accounting))
        except OSError:
            for n in range(len(pages)):
                _unpin(iommu, iova + n * PAGE_SIZE, accounting=accounting)
            raise
        own = iommu.find_group(group)
        if own is not None and not own.pinned_page_dirty_scope:
            own.pinned_page_dirty_scope = True
            iommu.num_non_pinned_groups -= 1
        return pages


def _pin(iommu: VfioIommu, iova: int, prot: int, *, accounting: bool) -> int:
    dma = iommu.dma_list.find(iova, PAGE_SIZE)
    if dma is None:
        raise err(EINVAL, f"nothing is mapped at {iova:#x}")
    if dma.prot & prot != prot:
        raise err(EPERM, f"{dma} is mapped with less rights")
    vpfn = dma.pfns.get(iova)
    if vpfn is not None:
        vpfn.ref_count += 1
        return vpfn.pa
    pa, runs = pin_page(iommu, dma, dma.vaddr + iova - dma.iova, accounting=accounting)
    if not runs and pa != ZERO_PA:
        raise err(EINVAL, f"{pa:#x} is no memory")
    dma.pfns[iova] = VfioPfn(iova, pa, dma.mm.mem, runs)
    if iommu.dirty_page_tracking:
        assert dma.bitmap is not None
        bitmap_set(dma.bitmap, iova - dma.iova >> iommu.pgshift, 1)
    return pa


def _unpin(iommu: VfioIommu, iova: int, *, accounting: bool) -> bool:
    """Whether something is mapped there. C: ``vfio_unpin_page_external(dma, iova, do_accounting)``."""
    dma = iommu.dma_list.find(iova, PAGE_SIZE)
    if dma is None:
        return False
    vpfn = dma.pfns.get(iova)
    if vpfn is not None:
        unlocked = put_page(dma, vpfn)
        if accounting:
            vfio_lock_acct(dma, -unlocked, async_=True)
    return True


def vfio_iommu_unpin_pages(iommu: VfioIommu, iova: int, npage: int) -> None:
    """
    Give pins back; a page that is not pinned is no error, one that is not mapped ends it.

    C: ``void vfio_iommu_type1_unpin_pages(void *, dma_addr_t, int)``
    """
    if not iommu.v2:
        iommu.kernel.oops(Oops("WARN_ON(!iommu->v2)"))
        return
    with iommu.lock:
        accounting = not iommu.domain_list
        pages = range(iova, iova + npage * PAGE_SIZE, PAGE_SIZE)
        done = all(_unpin(iommu, at, accounting=accounting) for at in pages)
    if not done:
        iommu.kernel.oops(Oops("WARN_ON(i != npage): vfio_unpin_pages() of what is not mapped"))


def vfio_iommu_dma_rw(iommu: VfioIommu, iova: int, buf: bytearray, *, write: bool) -> None:
    """
    Read what is mapped into *buf*, or write *buf* there.

    C: ``int vfio_iommu_type1_dma_rw(void *, dma_addr_t, void *, size_t, bool)``

    Raises:
        OSError: EBUSY, an address was taken back; EINVAL, nothing is mapped; EPERM, mapped without the right, or who
            mapped it is gone; EFAULT. What comes before was done.
    """
    with iommu.lock:
        _check_addresses(iommu, "vfio_dma_rw")
        done = 0
        view = memoryview(buf)
        while done < len(view):
            done += _rw_chunk(iommu, iova + done, view[done:], write=write)


def _rw_chunk(iommu: VfioIommu, iova: int, view: memoryview, *, write: bool) -> int:
    """As far as one mapping goes. C: ``vfio_iommu_type1_dma_rw_chunk()``."""
    dma = iommu.dma_list.find(iova, 1)
    if dma is None:
        raise err(EINVAL, f"nothing is mapped at {iova:#x}")
    if (write and not dma.prot & IOMMU_WRITE) or not dma.prot & IOMMU_READ:
        raise err(EPERM, f"{dma} is mapped with less rights")
    if not dma.mm.users:
        raise err(EPERM, "who mapped it is gone")
    current = iommu.kernel.current
    if current.mm is not None and current.mm is not dma.mm:
        raise err(EFAULT, f"{current.comm} did not map it")
    offset = iova - dma.iova
    n = min(len(view), dma.size - offset)
    vaddr = dma.vaddr + offset
    if not write:
        dma.mm.mem.readinto(vaddr, view[:n])
        return n
    dma.mm.mem.write(vaddr, view[:n])
    if iommu.dirty_page_tracking:
        _written(iommu, dma, offset, n)
    return n


def _written(iommu: VfioIommu, dma: VfioDma, offset: int, n: int) -> None:
    assert dma.bitmap is not None
    first = offset >> iommu.pgshift
    bitmap_set(dma.bitmap, first, (offset + n - 1 >> iommu.pgshift) - first + 1)
