"""What user space says of its guest's page tables, and what is wrong with it (drivers/iommu/iommu.c of Linux 5.10)."""

from __future__ import annotations

from errno import EINVAL
from typing import TYPE_CHECKING, Final

from pykernel.errors import err
from pykernel.mm.uaccess import copy_from_user
from pykernel.uapi.linux.iommu import (
    IOMMU_CACHE_INV_TYPE_DEV_IOTLB,
    IOMMU_CACHE_INV_TYPE_NR,
    IOMMU_CACHE_INV_TYPE_PASID,
    IOMMU_CACHE_INVALIDATE_INFO_VERSION_1,
    IOMMU_GPASID_BIND_VERSION_1,
    IOMMU_INV_ADDR_FLAGS_ARCHID,
    IOMMU_INV_ADDR_FLAGS_LEAF,
    IOMMU_INV_ADDR_FLAGS_PASID,
    IOMMU_INV_GRANU_ADDR,
    IOMMU_INV_GRANU_DOMAIN,
    IOMMU_INV_GRANU_NR,
    IOMMU_INV_GRANU_PASID,
    IOMMU_INV_PASID_FLAGS_ARCHID,
    IOMMU_INV_PASID_FLAGS_PASID,
    IOMMU_PASID_FORMAT_INTEL_VTD,
    IOMMU_PASID_FORMAT_LAST,
    IOMMU_SVA_GPASID_VAL,
    IOMMU_SVA_VTD_GPASID_LAST,
    IOMMU_SVA_VTD_GPASID_MTS_MASK,
    iommu_cache_invalidate_info,
    iommu_gpasid_bind_data,
    iommu_inv_addr_info,
    iommu_inv_pasid_info,
)
from pykernel.uapi.rfc.vfio_nesting import IOMMU_SVA_HPASID_DEF

if TYPE_CHECKING:
    from pykernel.kernel import Kernel

__all__ = ["check_vtd", "copy_bind_data", "copy_invalidate_info"]

HAW: Final = 52  # bits of physical addresses at most, and so of a pointer to a table
BIND_FLAGS: Final = IOMMU_SVA_GPASID_VAL | IOMMU_SVA_HPASID_DEF
ADDR_FLAGS: Final = IOMMU_INV_ADDR_FLAGS_PASID | IOMMU_INV_ADDR_FLAGS_ARCHID | IOMMU_INV_ADDR_FLAGS_LEAF
PASID_FLAGS: Final = IOMMU_INV_PASID_FLAGS_PASID | IOMMU_INV_PASID_FLAGS_ARCHID


def _argsz(kernel: Kernel, uptr: int, minsz: int) -> int:
    """The size that the caller says. Raises EFAULT; EINVAL: less than *minsz*."""
    argsz = int.from_bytes(copy_from_user(kernel, uptr, minsz)[:4], "little")
    if argsz < minsz:
        raise err(EINVAL, f"argsz is {argsz}, at least {minsz} are needed")
    return argsz


def copy_bind_data(kernel: Kernel, uptr: int) -> iommu_gpasid_bind_data:
    """
    C: ``iommu_sva_prepare_bind_data()``, ``iommu_check_bind_data()``. A longer struct is cut to what is known.

    Raises:
        EFAULT. EINVAL: argsz, version, format, a flag, padding, in this order.
    """
    size = iommu_gpasid_bind_data.sizeof()
    argsz = min(_argsz(kernel, uptr, iommu_gpasid_bind_data.offsetof("vendor")), size)
    data = iommu_gpasid_bind_data.from_bytes(copy_from_user(kernel, uptr, argsz).ljust(size, b"\0"))
    data.argsz = argsz
    if data.version != IOMMU_GPASID_BIND_VERSION_1:
        raise err(EINVAL, f"version {data.version}")
    if data.format >= IOMMU_PASID_FORMAT_LAST:
        raise err(EINVAL, f"format {data.format}")
    if data.flags & ~BIND_FLAGS:
        raise err(EINVAL, f"flags {data.flags:#x}")
    if any(data.padding):
        raise err(EINVAL, "padding is not 0")
    return data


def check_vtd(data: iommu_gpasid_bind_data) -> None:
    """
    The first checks of intel_svm_bind_gpasid(). Raises EINVAL: format, argsz, PASID, a flag, memory types, gpgd.

    Where the table is Linux does not look at: it cuts the low bits off, and what is above :data:`HAW` is a reserved bit
    of the entry, by which all requests fault. What is cut off would be another table, so both are refused here.
    """
    if data.format != IOMMU_PASID_FORMAT_INTEL_VTD:
        raise err(EINVAL, f"format {data.format}")
    if data.argsz < iommu_gpasid_bind_data.sizeof():
        raise err(EINVAL, f"argsz is {data.argsz}")
    flags = data.vendor.vtd.flags
    if data.flags & IOMMU_SVA_GPASID_VAL and data.gpasid >> 20:  # Linux looks at the host's number alone
        raise err(EINVAL, f"the guest's PASID {data.gpasid:#x} has over 20 bits")
    if flags & ~(IOMMU_SVA_VTD_GPASID_LAST - 1) or flags & IOMMU_SVA_VTD_GPASID_MTS_MASK:
        raise err(EINVAL, f"flags {flags:#x} of VT-d")
    if data.gpgd & 0xFFF or data.gpgd >> HAW:
        raise err(EINVAL, f"a table at {data.gpgd:#x}: no page, or beyond {HAW} bits")


def copy_invalidate_info(kernel: Kernel, uptr: int) -> iommu_cache_invalidate_info:
    """
    C: ``iommu_uapi_cache_invalidate()`` up to the driver, ``iommu_check_cache_invl_data()``.

    Raises:
        EFAULT. EINVAL: argsz, version, caches, granularity, a flag, what does not go together, padding.
    """
    size, minsz = iommu_cache_invalidate_info.sizeof(), iommu_cache_invalidate_info.offsetof("granu")
    argsz = _argsz(kernel, uptr, minsz)
    granularity = copy_from_user(kernel, uptr, minsz)[iommu_cache_invalidate_info.offsetof("granularity")]
    more = 0
    if granularity == IOMMU_INV_GRANU_PASID:
        more = iommu_inv_pasid_info.sizeof()
    elif granularity == IOMMU_INV_GRANU_ADDR:
        more = iommu_inv_addr_info.sizeof()
    if argsz < minsz + more:
        raise err(EINVAL, f"argsz is {argsz}, at least {minsz + more} are needed")
    argsz = min(argsz, size)
    info = iommu_cache_invalidate_info.from_bytes(copy_from_user(kernel, uptr, argsz).ljust(size, b"\0"))
    _check(info)
    return info


def _check(info: iommu_cache_invalidate_info) -> None:
    if info.version != IOMMU_CACHE_INVALIDATE_INFO_VERSION_1:
        raise err(EINVAL, f"version {info.version}")
    if info.cache & ~((1 << IOMMU_CACHE_INV_TYPE_NR) - 1):
        raise err(EINVAL, f"caches {info.cache:#x}")
    if info.granularity >= IOMMU_INV_GRANU_NR:
        raise err(EINVAL, f"granularity {info.granularity}")
    if info.granularity == IOMMU_INV_GRANU_ADDR:
        if info.cache & IOMMU_CACHE_INV_TYPE_PASID or info.granu.addr_info.flags & ~ADDR_FLAGS:
            raise err(EINVAL, f"addresses of caches {info.cache:#x}, flags {info.granu.addr_info.flags:#x}")
    elif info.granularity == IOMMU_INV_GRANU_PASID:
        if info.granu.pasid_info.flags & ~PASID_FLAGS:
            raise err(EINVAL, f"flags {info.granu.pasid_info.flags:#x}")
    elif info.granularity == IOMMU_INV_GRANU_DOMAIN and info.cache & IOMMU_CACHE_INV_TYPE_DEV_IOTLB:
        raise err(EINVAL, "a domain's device TLBs")
    if any(info.padding):
        raise err(EINVAL, "padding is not 0")
