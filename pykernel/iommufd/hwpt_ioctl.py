"""The commands that make and invalidate hardware page tables (drivers/iommu/iommufd/hw_pagetable.c)."""

from __future__ import annotations

from errno import EINVAL, EOPNOTSUPP
from typing import TYPE_CHECKING, Final

from pykernel.errors import err
from pykernel.iommu.user import UserData, UserDataArray
from pykernel.iommufd.device import IommufdDevice
from pykernel.iommufd.fault import IommufdFault
from pykernel.iommufd.hw_pagetable import HwPagetable, HwptNested, HwptPaging
from pykernel.iommufd.ioas import IommufdIoas
from pykernel.iommufd.objects import IommufdObject
from pykernel.mm.uaccess import PAGE_SIZE
from pykernel.uapi.linux.iommufd import (
    IOMMU_HWPT_DATA_NONE,
    IOMMU_HWPT_FAULT_ID_VALID,
    iommu_hwpt_alloc,
    iommu_hwpt_invalidate,
)

if TYPE_CHECKING:
    from pykernel.iommufd.ucmd import Ucmd

__all__ = ["hwpt_alloc", "hwpt_invalidate"]

INVALIDATE_ENTRY_NUM_MAX: Final = 1 << 19
U64_MAX: Final = (1 << 64) - 1


def hwpt_alloc(ucmd: Ucmd, cmd: iommu_hwpt_alloc) -> None:
    """
    IOMMU_HWPT_ALLOC.

    Raises:
        EOPNOTSUPP: a flag, or data. EINVAL: data and its type do not fit; the parent is none. ENOENT: no such device,
        or fault queue. As filling a domain: EADDRINUSE, EFAULT, ENOMEM.
    """
    if cmd.reserved:
        raise err(EOPNOTSUPP)
    if (cmd.data_type == IOMMU_HWPT_DATA_NONE) != (not cmd.data_len):
        raise err(EINVAL, f"{cmd.data_len} bytes of data of type {cmd.data_type}")
    with ucmd.ictx.get(cmd.dev_id, IommufdDevice) as idev:
        try:
            pt = ucmd.ictx.find(cmd.pt_id, IommufdObject)
        except OSError as e:
            raise err(EINVAL, f"no object {cmd.pt_id}") from e
        data = UserData(ucmd.kernel, cmd.data_type, cmd.data_uptr, cmd.data_len)
        with pt.held():
            if isinstance(pt, IommufdIoas):
                with pt.mutex:
                    own = data if data.len else None
                    _finish(ucmd, cmd, HwptPaging.alloc(ucmd.ictx, pt, idev, cmd.flags, own, immediate=False))
            elif isinstance(pt, HwptPaging):
                _finish(ucmd, cmd, HwptNested.alloc(ucmd.ictx, pt, idev, cmd.flags, data))
            else:
                raise err(EINVAL, f"object {cmd.pt_id} is no IOAS and no parent")


def _finish(ucmd: Ucmd, cmd: iommu_hwpt_alloc, hwpt: HwPagetable) -> None:
    try:
        if cmd.flags & IOMMU_HWPT_FAULT_ID_VALID:
            with ucmd.ictx.get(cmd.fault_id, IommufdFault) as fault:
                hwpt.set_fault(fault)
        cmd.out_hwpt_id = hwpt.id
        ucmd.respond(cmd)
    except OSError:
        ucmd.ictx.abort_and_destroy(hwpt)
        raise
    ucmd.ictx.finalize(hwpt)


# ---- invalidation


def hwpt_invalidate(ucmd: Ucmd, cmd: iommu_hwpt_invalidate) -> None:
    """
    IOMMU_HWPT_INVALIDATE; ``entry_num`` tells how many were done, whatever happens.

    Raises:
        EOPNOTSUPP: an unknown flag. EINVAL: the array is none, too long, of another type; an address within a page.
        ENOENT: no nested page table. EFAULT, E2BIG.
    """
    num, cmd.entry_num = cmd.entry_num, 0
    try:
        if cmd.reserved:
            raise err(EOPNOTSUPP)
        too_long = cmd.entry_len > PAGE_SIZE or num > INVALIDATE_ENTRY_NUM_MAX
        if num and (not cmd.data_uptr or not cmd.entry_len or too_long):
            raise err(EINVAL, f"{num} entries of {cmd.entry_len} bytes at {cmd.data_uptr:#x}")
        array = UserDataArray(ucmd.kernel, cmd.data_type, cmd.data_uptr, cmd.entry_len, num)
        with ucmd.ictx.get(cmd.hwpt_id, HwptNested) as hwpt:
            try:
                hwpt.domain.cache_invalidate_user(array)
            finally:
                cmd.entry_num = array.entry_num
    finally:
        ucmd.respond(cmd)
