"""MAP_DMA and UNMAP_DMA (drivers/vfio/vfio_iommu_type1.c: vfio_dma_do_map(), vfio_dma_do_unmap())."""

from __future__ import annotations

from collections.abc import Iterator
from errno import EBUSY, EEXIST, EINVAL, ENOENT, ENOSPC, EOVERFLOW
from itertools import takewhile
from typing import TYPE_CHECKING, Final

from pykernel.errors import err
from pykernel.iommu.iommu import IOMMU_READ, IOMMU_WRITE
from pykernel.mm.locked import account_locked_vm
from pykernel.task import CAP_IPC_LOCK
from pykernel.uapi.linux.vfio import (
    VFIO_DMA_MAP_FLAG_READ,
    VFIO_DMA_MAP_FLAG_VADDR,
    VFIO_DMA_MAP_FLAG_WRITE,
    VFIO_DMA_UNMAP_FLAG_ALL,
    VFIO_DMA_UNMAP_FLAG_VADDR,
)
from pykernel.vfio.type1_dirty import cut_by, update_user_bitmap, vfio_dma_bitmap_alloc
from pykernel.vfio.type1_dma import ADDRESSES, VfioDma
from pykernel.vfio.type1_iova import vfio_iommu_iova_dma_valid
from pykernel.vfio.type1_pin import vfio_pin_map_dma, vfio_remove_dma

if TYPE_CHECKING:
    from pykernel.uapi.linux.vfio import vfio_bitmap
    from pykernel.vfio.type1_state import VfioIommu

__all__ = ["vfio_dma_do_map", "vfio_dma_do_unmap"]

RETRIES: Final = 10


def _check_wrap(iommu: VfioIommu, start: int, size: int) -> None:
    """Raises EINVAL, from Linux 6.18 on EOVERFLOW: the last byte is behind the last address."""
    if start + size > ADDRESSES:
        code = EOVERFLOW if iommu.kernel.profile.vfio_type1_last_address else EINVAL
        raise err(code, f"{size:#x} bytes from {start:#x} on wrap")


def vfio_dma_do_map(iommu: VfioIommu, flags: int, vaddr: int, iova: int, size: int) -> None:
    """
    C: ``int vfio_dma_do_map(struct vfio_iommu *, struct vfio_iommu_type1_dma_map *)``.

    Raises:
        OSError: EINVAL, permissions, alignment, a wrap, or addresses that are not usable; ENOENT, an address is given
            to no mapping; EEXIST, something is mapped there; ENOSPC, dma_entry_limit; ENOMEM; EFAULT.
    """
    prot = 0
    if flags & VFIO_DMA_MAP_FLAG_WRITE:
        prot |= IOMMU_WRITE
    if flags & VFIO_DMA_MAP_FLAG_READ:
        prot |= IOMMU_READ
    set_vaddr = bool(flags & VFIO_DMA_MAP_FLAG_VADDR)
    if bool(prot) == set_vaddr:
        raise err(EINVAL, "either read and write, or a new address")
    with iommu.lock:
        if not size or (size | iova | vaddr) & (1 << iommu.pgshift) - 1:
            raise err(EINVAL, f"pages are of {1 << iommu.pgshift} bytes")
        _check_wrap(iommu, iova, size)
        _check_wrap(iommu, vaddr, size)
        found = iommu.dma_list.find(iova, size)
        if set_vaddr:
            _set_vaddr(iommu, found, vaddr, iova, size)
            return
        if found is not None:
            raise err(EEXIST, f"{found} is mapped")
        if not iommu.dma_avail:
            raise err(ENOSPC, "dma_entry_limit")
        if not vfio_iommu_iova_dma_valid(iommu.iova_list, iova, iova + size - 1):
            raise err(EINVAL, f"{iova:#x}-{iova + size - 1:#x} is not usable")
        _map(iommu, vaddr, iova, size, prot)


def _map(iommu: VfioIommu, vaddr: int, iova: int, size: int, prot: int) -> None:
    kernel = iommu.kernel
    if kernel.faults.active:
        kernel.faults.alloc("vfio_dma_do_map")
    task = kernel.current
    assert task.mm is not None
    dma = VfioDma(iova, vaddr, size, prot, task, task.mm, lock_cap=task.cred.capable(CAP_IPC_LOCK))
    if iommu.domain_list:  # else emulated devices pin what they need
        vfio_pin_map_dma(iommu, dma)
    if kernel.track_origins:
        dma.origin = kernel.where()
    iommu.dma_list.add(dma)
    iommu.dma_avail -= 1
    if iommu.dirty_page_tracking:
        try:
            vfio_dma_bitmap_alloc(kernel, dma, iommu.pgshift)
        except OSError:
            vfio_remove_dma(iommu, dma)
            raise


def _set_vaddr(iommu: VfioIommu, dma: VfioDma | None, vaddr: int, iova: int, size: int) -> None:
    """Give an address to a mapping whose own was taken back. Raises ENOENT, EINVAL: not exactly such a one; ENOMEM."""
    if dma is None:
        raise err(ENOENT, "nothing is mapped there")
    if not dma.vaddr_invalid or dma.iova != iova or dma.size != size:
        raise err(EINVAL, f"{dma} has an address, or is more than this")
    _change_owner(iommu, dma)
    dma.vaddr = vaddr
    dma.vaddr_invalid = False
    iommu.vaddr_invalid_count -= 1


def _change_owner(iommu: VfioIommu, dma: VfioDma) -> None:
    """Who gives the address is charged. C: ``vfio_change_dma_owner(dma)``. Raises ENOMEM: more than RLIMIT_MEMLOCK."""
    task, old = iommu.kernel.current, dma.mm
    assert task.mm is not None
    if task.mm is old:
        return
    lock_cap = task.cred.capable(CAP_IPC_LOCK)
    if dma.locked_vm:
        account_locked_vm(task.mm, dma.locked_vm, inc=True, task=task, bypass=lock_cap)
        if old.users:
            account_locked_vm(old, dma.locked_vm, inc=False, task=dma.task, bypass=dma.lock_cap)
    dma.task, dma.mm, dma.lock_cap = task, task.mm, lock_cap


def vfio_dma_do_unmap(iommu: VfioIommu, flags: int, iova: int, size: int, bitmap: vfio_bitmap | None) -> int:
    """
    C: ``int vfio_dma_do_unmap(struct vfio_iommu *, struct vfio_iommu_type1_dma_unmap *, struct vfio_bitmap *)``.

    Returns:
        Bytes that were unmapped, or whose address was taken back.

    Raises:
        OSError: EBUSY, emulated devices need the addresses; EINVAL, alignment, a wrap, a mapping is cut, nobody tracks
            what is written, an address is taken back already; EFAULT, the bitmap.
        Oops: a driver keeps its pins.
    """
    invalidate = bool(flags & VFIO_DMA_UNMAP_FLAG_VADDR)
    with iommu.lock:
        if invalidate and iommu.emulated_iommu_groups:
            raise err(EBUSY, "emulated devices need the addresses")
        pgsize = 1 << iommu.pgshift
        if iova & pgsize - 1:
            raise err(EINVAL, f"pages are of {pgsize} bytes")
        if flags & VFIO_DMA_UNMAP_FLAG_ALL:
            if iova or size:
                raise err(EINVAL, "all has no range")
            size = ADDRESSES if iommu.kernel.profile.vfio_type1_last_address else ADDRESSES - 1
        else:
            if not size or size & pgsize - 1:
                raise err(EINVAL, f"pages are of {pgsize} bytes")
            _check_wrap(iommu, iova, size)
        if bitmap is not None and (not iommu.dirty_page_tracking or bitmap.pgsize != pgsize):
            raise err(EINVAL, "nobody tracks what is written, in such pages")
        only = iommu.dma_list.at(iova, size)
        if only is not None and not only.pfns and bitmap is None and not invalidate:  # the usual one
            vfio_remove_dma(iommu, only)
            return size
        if invalidate:
            return _invalidate(iommu, list(_range(iommu, flags, iova, size)))
        return _unmap(iommu, flags, iova, size, bitmap)


def _range(iommu: VfioIommu, flags: int, iova: int, size: int) -> Iterator[VfioDma]:
    """
    The mappings that an unmap means. Raises EINVAL: one is cut, of version 2.

    Version 1: one whose first address is in the range is meant as a whole, and nothing from one that is cut there.
    """
    if iommu.v2 and not flags & VFIO_DMA_UNMAP_FLAG_ALL and cut_by(iommu, iova, size):
        raise err(EINVAL, f"a mapping is cut by {iova:#x}-{iova + size - 1:#x}")
    found = iommu.dma_list.walk(iova, size)
    return found if iommu.v2 else takewhile(lambda dma: dma.iova >= iova, found)


def _invalidate(iommu: VfioIommu, dmas: list[VfioDma]) -> int:
    """Take addresses back. Raises EINVAL: of one it was done; then of none."""
    for n, dma in enumerate(dmas):
        if dma.vaddr_invalid:
            for before in dmas[:n]:
                before.vaddr_invalid = False
            iommu.vaddr_invalid_count -= n
            raise err(EINVAL, f"{dma} has no address")
        dma.vaddr_invalid = True
        iommu.vaddr_invalid_count += 1
    return sum(dma.size for dma in dmas)


def _unmap(iommu: VfioIommu, flags: int, iova: int, size: int, bitmap: vfio_bitmap | None) -> int:
    unmapped, retries = 0, 0
    last: VfioDma | None = None
    dmas = _range(iommu, flags, iova, size)
    while (dma := next(dmas, None)) is not None:
        if not dma.pfns:
            if bitmap is not None:
                update_user_bitmap(bitmap.data, iommu, dma, iova)
            unmapped += dma.size
            vfio_remove_dma(iommu, dma)
            continue
        retries = retries + 1 if dma is last else 0
        if retries > RETRIES:
            iommu.kernel.bug(f"drivers do not unpin {dma} in dma_unmap()")
        last = dma
        _notify(iommu, dma)
        try:
            dmas = _range(iommu, flags, iova, size)
        except OSError:  # mapped meanwhile: no error any more, once a first pass was made
            break
    return unmapped


def _notify(iommu: VfioIommu, dma: VfioDma) -> None:
    """
    Ask drivers to give back what they pinned. C: ``vfio_notify_dma_unmap(iommu, dma)``.

    The container's lock is dropped meanwhile: they call back into this driver.
    """
    if not iommu.device_list:
        return
    iommu.device_list_lock.lock()
    iommu.lock.unlock()
    try:
        for vdev in list(iommu.device_list):
            vdev.dma_unmap(dma.iova, dma.size)
    finally:
        iommu.device_list_lock.unlock()
        iommu.lock.lock()
