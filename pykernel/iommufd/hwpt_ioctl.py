"""The commands that make and invalidate hardware page tables (drivers/iommu/iommufd/hw_pagetable.c)."""

from __future__ import annotations

from errno import EINVAL, EOPNOTSUPP
from typing import TYPE_CHECKING, Final

from pykernel.errors import err
from pykernel.iommufd.device import IommufdDevice
from pykernel.iommufd.fault import IommufdFault
from pykernel.iommufd.hw_pagetable import HwPagetable, HwptNested, HwptPaging
from pykernel.iommufd.ioas import IommufdIoas
from pykernel.iommufd.objects import IommufdObject
from pykernel.iommufd.ucmd import copy_struct_from_user
from pykernel.mm.uaccess import PAGE_SIZE
from pykernel.uapi.linux.iommufd import (
    IOMMU_HWPT_DATA_NONE,
    IOMMU_HWPT_FAULT_ID_VALID,
    IOMMU_HWPT_INVALIDATE_DATA_VTD_S1,
    IOMMU_VTD_INV_FLAGS_LEAF,
    iommu_hwpt_alloc,
    iommu_hwpt_invalidate,
    iommu_hwpt_vtd_s1_invalidate,
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
        with pt.held():
            if isinstance(pt, IommufdIoas):
                with pt.mutex:
                    if cmd.data_len:
                        _refuse_data(cmd)
                    _finish(ucmd, cmd, HwptPaging.alloc(ucmd.ictx, pt, idev, cmd.flags, immediate=False))
            elif isinstance(pt, HwptPaging):
                _finish(ucmd, cmd, HwptNested.alloc(ucmd, pt, idev, cmd))
            else:
                raise err(EINVAL, f"object {cmd.pt_id} is no IOAS and no parent")


def _refuse_data(cmd: iommu_hwpt_alloc) -> None:
    # drivers/iommu/intel/iommu.c:intel_iommu_domain_alloc_user(): data is for nested tables only
    raise err(EOPNOTSUPP, f"data of type {cmd.data_type} for a page table of its own")


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
        with ucmd.ictx.get(cmd.hwpt_id, HwptNested) as hwpt:
            if cmd.data_type != IOMMU_HWPT_INVALIDATE_DATA_VTD_S1:
                raise err(EINVAL, f"entries of type {cmd.data_type}")
            for n in range(num):
                _invalidate(ucmd, hwpt, cmd.data_uptr + n * cmd.entry_len, cmd.entry_len)
                cmd.entry_num += 1
    finally:
        ucmd.respond(cmd)


def _invalidate(ucmd: Ucmd, hwpt: HwptNested, addr: int, length: int) -> None:
    # drivers/iommu/intel/nested.c:intel_nested_cache_invalidate_user()
    if length != iommu_hwpt_vtd_s1_invalidate.sizeof():
        raise err(EINVAL, f"an entry of {length} bytes")
    entry = copy_struct_from_user(ucmd.kernel, iommu_hwpt_vtd_s1_invalidate, addr, length)
    if entry.flags & ~IOMMU_VTD_INV_FLAGS_LEAF or entry.reserved:
        raise err(EOPNOTSUPP, f"flags {entry.flags:#x}")
    if entry.addr % PAGE_SIZE or (entry.npages == U64_MAX and entry.addr):
        raise err(EINVAL, f"{entry.npages:#x} pages at {entry.addr:#x}")
    hwpt.domain.flush_range(entry.addr, entry.npages)
