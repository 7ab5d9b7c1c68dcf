"""
``linux/iommu.h``: faults and page requests of an IOMMU, and what guests would have told it of PASIDs.

Linux 5.3 brought it and 5.10 gave the structs their ``argsz``; they are here as in 5.17. 5.18 took away the half about
PASIDs and cache invalidation, 6.9 the whole header. No ioctl of Linux ever took them; ``linux/iommufd.h`` came instead.
"""

from __future__ import annotations

from collections.abc import MutableSequence
from enum import IntEnum
from typing import Annotated, Final

from pykernel.uapi.struct import ZERO, Struct, Union, anon_union, u8, u32, u64

IOMMU_FAULT_PERM_READ: Final = 1 << 0
IOMMU_FAULT_PERM_WRITE: Final = 1 << 1
IOMMU_FAULT_PERM_EXEC: Final = 1 << 2
IOMMU_FAULT_PERM_PRIV: Final = 1 << 3


class iommu_fault_type(IntEnum):
    """``iommu_fault.type``."""

    IOMMU_FAULT_DMA_UNRECOV = 1
    IOMMU_FAULT_PAGE_REQ = 2


IOMMU_FAULT_DMA_UNRECOV, IOMMU_FAULT_PAGE_REQ = iommu_fault_type


class iommu_fault_reason(IntEnum):
    """``iommu_fault_unrecoverable.reason``."""

    IOMMU_FAULT_REASON_UNKNOWN = 0
    IOMMU_FAULT_REASON_PASID_FETCH = 1
    IOMMU_FAULT_REASON_BAD_PASID_ENTRY = 2
    IOMMU_FAULT_REASON_PASID_INVALID = 3
    IOMMU_FAULT_REASON_WALK_EABT = 4
    IOMMU_FAULT_REASON_PTE_FETCH = 5
    IOMMU_FAULT_REASON_PERMISSION = 6
    IOMMU_FAULT_REASON_ACCESS = 7
    IOMMU_FAULT_REASON_OOR_ADDRESS = 8


(
    IOMMU_FAULT_REASON_UNKNOWN, IOMMU_FAULT_REASON_PASID_FETCH, IOMMU_FAULT_REASON_BAD_PASID_ENTRY,
    IOMMU_FAULT_REASON_PASID_INVALID, IOMMU_FAULT_REASON_WALK_EABT, IOMMU_FAULT_REASON_PTE_FETCH,
    IOMMU_FAULT_REASON_PERMISSION, IOMMU_FAULT_REASON_ACCESS, IOMMU_FAULT_REASON_OOR_ADDRESS,
) = iommu_fault_reason  # fmt: skip

IOMMU_FAULT_UNRECOV_PASID_VALID: Final = 1 << 0
IOMMU_FAULT_UNRECOV_ADDR_VALID: Final = 1 << 1
IOMMU_FAULT_UNRECOV_FETCH_ADDR_VALID: Final = 1 << 2


class iommu_fault_unrecoverable(Struct):
    """A DMA that failed and will not be tried again."""

    reason: u32 = 0
    flags: u32 = 0
    pasid: u32 = 0
    perm: u32 = 0
    addr: u64 = 0
    fetch_addr: u64 = 0


IOMMU_FAULT_PAGE_REQUEST_PASID_VALID: Final = 1 << 0
IOMMU_FAULT_PAGE_REQUEST_LAST_PAGE: Final = 1 << 1
IOMMU_FAULT_PAGE_REQUEST_PRIV_DATA: Final = 1 << 2
IOMMU_FAULT_PAGE_RESPONSE_NEEDS_PASID: Final = 1 << 3


class iommu_fault_page_request(Struct):
    """A page request (PRI) of a device."""

    flags: u32 = 0
    pasid: u32 = 0
    grpid: u32 = 0
    perm: u32 = 0
    addr: u64 = 0
    private_data: Annotated[MutableSequence[int], u64, 2] = ZERO


class iommu_fault(Struct):
    """A fault as the kernel hands it on; ``event`` or ``prm``, by ``type``."""

    type: u32 = 0
    padding: u32 = 0
    _union = anon_union(until="padding2")
    event: iommu_fault_unrecoverable = ZERO
    prm: iommu_fault_page_request = ZERO
    padding2: Annotated[bytes, u8, 56] = b""


class iommu_page_response_code(IntEnum):
    """``iommu_page_response.code``."""

    IOMMU_PAGE_RESP_SUCCESS = 0
    IOMMU_PAGE_RESP_INVALID = 1
    IOMMU_PAGE_RESP_FAILURE = 2


IOMMU_PAGE_RESP_SUCCESS, IOMMU_PAGE_RESP_INVALID, IOMMU_PAGE_RESP_FAILURE = iommu_page_response_code

IOMMU_PAGE_RESP_VERSION_1: Final = 1
IOMMU_PAGE_RESP_PASID_VALID: Final = 1 << 0


class iommu_page_response(Struct):
    """The answer to a page request."""

    argsz: u32 = 0
    version: u32 = 0
    flags: u32 = 0
    pasid: u32 = 0
    grpid: u32 = 0
    code: u32 = 0


class iommu_inv_granularity(IntEnum):
    """``iommu_cache_invalidate_info.granularity``."""

    IOMMU_INV_GRANU_DOMAIN = 0
    IOMMU_INV_GRANU_PASID = 1
    IOMMU_INV_GRANU_ADDR = 2
    IOMMU_INV_GRANU_NR = 3


IOMMU_INV_GRANU_DOMAIN, IOMMU_INV_GRANU_PASID, IOMMU_INV_GRANU_ADDR, IOMMU_INV_GRANU_NR = iommu_inv_granularity

IOMMU_INV_ADDR_FLAGS_PASID: Final = 1 << 0
IOMMU_INV_ADDR_FLAGS_ARCHID: Final = 1 << 1
IOMMU_INV_ADDR_FLAGS_LEAF: Final = 1 << 2


class iommu_inv_addr_info(Struct):
    """Invalidate a range of addresses."""

    flags: u32 = 0
    archid: u32 = 0
    pasid: u64 = 0
    addr: u64 = 0
    granule_size: u64 = 0
    nb_granules: u64 = 0


IOMMU_INV_PASID_FLAGS_PASID: Final = 1 << 0
IOMMU_INV_PASID_FLAGS_ARCHID: Final = 1 << 1


class iommu_inv_pasid_info(Struct):
    """Invalidate all that belongs to a PASID."""

    flags: u32 = 0
    archid: u32 = 0
    pasid: u64 = 0


IOMMU_CACHE_INVALIDATE_INFO_VERSION_1: Final = 1
IOMMU_CACHE_INV_TYPE_IOTLB: Final = 1 << 0
IOMMU_CACHE_INV_TYPE_DEV_IOTLB: Final = 1 << 1
IOMMU_CACHE_INV_TYPE_PASID: Final = 1 << 2
IOMMU_CACHE_INV_TYPE_NR: Final = 3


class iommu_cache_invalidate_info_granu(Union, ctype="__typeof__(((struct iommu_cache_invalidate_info *)0)->granu)"):
    """The ``granu`` of ``iommu_cache_invalidate_info``, by ``granularity``."""

    pasid_info: iommu_inv_pasid_info = ZERO
    addr_info: iommu_inv_addr_info = ZERO


class iommu_cache_invalidate_info(Struct):
    """What a guest invalidates in its first stage page table."""

    argsz: u32 = 0
    version: u32 = 0
    cache: u8 = 0
    granularity: u8 = 0
    padding: Annotated[bytes, u8, 6] = b""
    granu: iommu_cache_invalidate_info_granu = ZERO


IOMMU_SVA_VTD_GPASID_SRE: Final = 1 << 0
IOMMU_SVA_VTD_GPASID_EAFE: Final = 1 << 1
IOMMU_SVA_VTD_GPASID_PCD: Final = 1 << 2
IOMMU_SVA_VTD_GPASID_PWT: Final = 1 << 3
IOMMU_SVA_VTD_GPASID_EMTE: Final = 1 << 4
IOMMU_SVA_VTD_GPASID_CD: Final = 1 << 5
IOMMU_SVA_VTD_GPASID_WPE: Final = 1 << 6
IOMMU_SVA_VTD_GPASID_LAST: Final = 1 << 7


class iommu_gpasid_bind_data_vtd(Struct):
    """Attributes of an Intel VT-d PASID table entry."""

    flags: u64 = 0
    pat: u32 = 0
    emt: u32 = 0


IOMMU_SVA_VTD_GPASID_MTS_MASK: Final = (
    IOMMU_SVA_VTD_GPASID_CD | IOMMU_SVA_VTD_GPASID_EMTE | IOMMU_SVA_VTD_GPASID_PCD | IOMMU_SVA_VTD_GPASID_PWT
)

IOMMU_GPASID_BIND_VERSION_1: Final = 1
IOMMU_PASID_FORMAT_INTEL_VTD: Final = 1
IOMMU_PASID_FORMAT_LAST: Final = 2
IOMMU_SVA_GPASID_VAL: Final = 1 << 0


class iommu_gpasid_bind_data_vendor(Union, ctype="__typeof__(((struct iommu_gpasid_bind_data *)0)->vendor)"):
    """The ``vendor`` of ``iommu_gpasid_bind_data``, by ``format``."""

    vtd: iommu_gpasid_bind_data_vtd = ZERO


class iommu_gpasid_bind_data(Struct):
    """Bind a guest's page table to a PASID."""

    argsz: u32 = 0
    version: u32 = 0
    format: u32 = 0
    addr_width: u32 = 0
    flags: u64 = 0
    gpgd: u64 = 0
    hpasid: u64 = 0
    gpasid: u64 = 0
    padding: Annotated[bytes, u8, 8] = b""
    vendor: iommu_gpasid_bind_data_vendor = ZERO


# Which kernel brought what. A row of a struct tells of its members too; those with a row of their own came
# later. In 5.10 all members of three structs moved.
NEWER: Final = {
    "IOMMU_FAULT_PERM_READ": "5.3",
    "IOMMU_FAULT_PERM_WRITE": "5.3",
    "IOMMU_FAULT_PERM_EXEC": "5.3",
    "IOMMU_FAULT_PERM_PRIV": "5.3",
    "IOMMU_FAULT_DMA_UNRECOV": "5.3",
    "IOMMU_FAULT_PAGE_REQ": "5.3",
    "IOMMU_FAULT_REASON_UNKNOWN": "5.3",
    "IOMMU_FAULT_REASON_PASID_FETCH": "5.3",
    "IOMMU_FAULT_REASON_BAD_PASID_ENTRY": "5.3",
    "IOMMU_FAULT_REASON_PASID_INVALID": "5.3",
    "IOMMU_FAULT_REASON_WALK_EABT": "5.3",
    "IOMMU_FAULT_REASON_PTE_FETCH": "5.3",
    "IOMMU_FAULT_REASON_PERMISSION": "5.3",
    "IOMMU_FAULT_REASON_ACCESS": "5.3",
    "IOMMU_FAULT_REASON_OOR_ADDRESS": "5.3",
    "IOMMU_FAULT_UNRECOV_PASID_VALID": "5.3",
    "IOMMU_FAULT_UNRECOV_ADDR_VALID": "5.3",
    "IOMMU_FAULT_UNRECOV_FETCH_ADDR_VALID": "5.3",
    "iommu_fault_unrecoverable": "5.3",
    "IOMMU_FAULT_PAGE_REQUEST_PASID_VALID": "5.3",
    "IOMMU_FAULT_PAGE_REQUEST_LAST_PAGE": "5.3",
    "IOMMU_FAULT_PAGE_REQUEST_PRIV_DATA": "5.3",
    "iommu_fault_page_request": "5.3",
    "iommu_fault": "5.3",
    "IOMMU_PAGE_RESP_SUCCESS": "5.3",
    "IOMMU_PAGE_RESP_INVALID": "5.3",
    "IOMMU_PAGE_RESP_FAILURE": "5.3",
    "IOMMU_PAGE_RESP_VERSION_1": "5.3",
    "IOMMU_PAGE_RESP_PASID_VALID": "5.3",
    "IOMMU_INV_GRANU_DOMAIN": "5.5",
    "IOMMU_INV_GRANU_PASID": "5.5",
    "IOMMU_INV_GRANU_ADDR": "5.5",
    "IOMMU_INV_GRANU_NR": "5.5",
    "IOMMU_INV_ADDR_FLAGS_PASID": "5.5",
    "IOMMU_INV_ADDR_FLAGS_ARCHID": "5.5",
    "IOMMU_INV_ADDR_FLAGS_LEAF": "5.5",
    "iommu_inv_addr_info": "5.5",
    "IOMMU_INV_PASID_FLAGS_PASID": "5.5",
    "IOMMU_INV_PASID_FLAGS_ARCHID": "5.5",
    "iommu_inv_pasid_info": "5.5",
    "IOMMU_CACHE_INVALIDATE_INFO_VERSION_1": "5.5",
    "IOMMU_CACHE_INV_TYPE_IOTLB": "5.5",
    "IOMMU_CACHE_INV_TYPE_DEV_IOTLB": "5.5",
    "IOMMU_CACHE_INV_TYPE_PASID": "5.5",
    "IOMMU_CACHE_INV_TYPE_NR": "5.5",
    "IOMMU_SVA_VTD_GPASID_SRE": "5.5",
    "IOMMU_SVA_VTD_GPASID_EAFE": "5.5",
    "IOMMU_SVA_VTD_GPASID_PCD": "5.5",
    "IOMMU_SVA_VTD_GPASID_PWT": "5.5",
    "IOMMU_SVA_VTD_GPASID_EMTE": "5.5",
    "IOMMU_SVA_VTD_GPASID_CD": "5.5",
    "iommu_gpasid_bind_data_vtd": "5.5",
    "IOMMU_GPASID_BIND_VERSION_1": "5.5",
    "IOMMU_PASID_FORMAT_INTEL_VTD": "5.5",
    "IOMMU_SVA_GPASID_VAL": "5.5",
    "iommu_gpasid_bind_data": "5.5",
    "IOMMU_SVA_VTD_GPASID_MTS_MASK": "5.8",
    "IOMMU_FAULT_PAGE_RESPONSE_NEEDS_PASID": "5.9",
    "iommu_cache_invalidate_info_granu": "5.10",
    "IOMMU_PASID_FORMAT_LAST": "5.10",
    "iommu_gpasid_bind_data_vendor": "5.10",
    "iommu_gpasid_bind_data.argsz": "5.10",
    "iommu_gpasid_bind_data.vendor": "5.10",
    "IOMMU_SVA_VTD_GPASID_WPE": "5.13",
}

# What had another value, or another place
CHANGED: Final = {
    "iommu_gpasid_bind_data": "5.10",
    "iommu_page_response": "5.10",
    "iommu_cache_invalidate_info": "5.10",
    "IOMMU_SVA_VTD_GPASID_LAST": "5.13",
}

# What is gone, and the last kernel that had it
OLDER: Final = {
    "IOMMU_INV_GRANU_DOMAIN": "5.17",
    "IOMMU_INV_GRANU_PASID": "5.17",
    "IOMMU_INV_GRANU_ADDR": "5.17",
    "IOMMU_INV_GRANU_NR": "5.17",
    "IOMMU_INV_ADDR_FLAGS_PASID": "5.17",
    "IOMMU_INV_ADDR_FLAGS_ARCHID": "5.17",
    "IOMMU_INV_ADDR_FLAGS_LEAF": "5.17",
    "iommu_inv_addr_info": "5.17",
    "IOMMU_INV_PASID_FLAGS_PASID": "5.17",
    "IOMMU_INV_PASID_FLAGS_ARCHID": "5.17",
    "iommu_inv_pasid_info": "5.17",
    "IOMMU_CACHE_INVALIDATE_INFO_VERSION_1": "5.17",
    "IOMMU_CACHE_INV_TYPE_IOTLB": "5.17",
    "IOMMU_CACHE_INV_TYPE_DEV_IOTLB": "5.17",
    "IOMMU_CACHE_INV_TYPE_PASID": "5.17",
    "IOMMU_CACHE_INV_TYPE_NR": "5.17",
    "iommu_cache_invalidate_info_granu": "5.17",
    "iommu_cache_invalidate_info": "5.17",
    "IOMMU_SVA_VTD_GPASID_SRE": "5.17",
    "IOMMU_SVA_VTD_GPASID_EAFE": "5.17",
    "IOMMU_SVA_VTD_GPASID_PCD": "5.17",
    "IOMMU_SVA_VTD_GPASID_PWT": "5.17",
    "IOMMU_SVA_VTD_GPASID_EMTE": "5.17",
    "IOMMU_SVA_VTD_GPASID_CD": "5.17",
    "IOMMU_SVA_VTD_GPASID_WPE": "5.17",
    "IOMMU_SVA_VTD_GPASID_LAST": "5.17",
    "iommu_gpasid_bind_data_vtd": "5.17",
    "IOMMU_SVA_VTD_GPASID_MTS_MASK": "5.17",
    "IOMMU_GPASID_BIND_VERSION_1": "5.17",
    "IOMMU_PASID_FORMAT_INTEL_VTD": "5.17",
    "IOMMU_PASID_FORMAT_LAST": "5.17",
    "IOMMU_SVA_GPASID_VAL": "5.17",
    "iommu_gpasid_bind_data_vendor": "5.17",
    "iommu_gpasid_bind_data": "5.17",
    # with the header
    "IOMMU_FAULT_PERM_READ": "6.8",
    "IOMMU_FAULT_PERM_WRITE": "6.8",
    "IOMMU_FAULT_PERM_EXEC": "6.8",
    "IOMMU_FAULT_PERM_PRIV": "6.8",
    "IOMMU_FAULT_DMA_UNRECOV": "6.8",
    "IOMMU_FAULT_PAGE_REQ": "6.8",
    "IOMMU_FAULT_REASON_UNKNOWN": "6.8",
    "IOMMU_FAULT_REASON_PASID_FETCH": "6.8",
    "IOMMU_FAULT_REASON_BAD_PASID_ENTRY": "6.8",
    "IOMMU_FAULT_REASON_PASID_INVALID": "6.8",
    "IOMMU_FAULT_REASON_WALK_EABT": "6.8",
    "IOMMU_FAULT_REASON_PTE_FETCH": "6.8",
    "IOMMU_FAULT_REASON_PERMISSION": "6.8",
    "IOMMU_FAULT_REASON_ACCESS": "6.8",
    "IOMMU_FAULT_REASON_OOR_ADDRESS": "6.8",
    "IOMMU_FAULT_UNRECOV_PASID_VALID": "6.8",
    "IOMMU_FAULT_UNRECOV_ADDR_VALID": "6.8",
    "IOMMU_FAULT_UNRECOV_FETCH_ADDR_VALID": "6.8",
    "iommu_fault_unrecoverable": "6.8",
    "IOMMU_FAULT_PAGE_REQUEST_PASID_VALID": "6.8",
    "IOMMU_FAULT_PAGE_REQUEST_LAST_PAGE": "6.8",
    "IOMMU_FAULT_PAGE_REQUEST_PRIV_DATA": "6.8",
    "IOMMU_FAULT_PAGE_RESPONSE_NEEDS_PASID": "6.8",
    "iommu_fault_page_request": "6.8",
    "iommu_fault": "6.8",
    "IOMMU_PAGE_RESP_SUCCESS": "6.8",
    "IOMMU_PAGE_RESP_INVALID": "6.8",
    "IOMMU_PAGE_RESP_FAILURE": "6.8",
    "IOMMU_PAGE_RESP_VERSION_1": "6.8",
    "IOMMU_PAGE_RESP_PASID_VALID": "6.8",
    "iommu_page_response": "6.8",
}

OMITTED: Final = {
    "iommu_cache_invalidate_info.pasid_info": "members of the struct itself before Linux 5.10",
    "iommu_cache_invalidate_info.addr_info": "members of the struct itself before Linux 5.10",
    "iommu_gpasid_bind_data.vtd": "members of the struct itself before Linux 5.10",
}
