"""The command of CONFIG_IOMMUFD_TEST (drivers/iommu/iommufd/iommufd_test.h): one struct for all operations."""

from __future__ import annotations

from collections.abc import MutableSequence
from enum import IntEnum
from typing import Annotated, Final

from pykernel.uapi.ioctl import _IO
from pykernel.uapi.linux.iommufd import IOMMUFD_CMD_BASE, IOMMUFD_TYPE
from pykernel.uapi.struct import ZERO, Name, Struct, aligned_u64, u32

PAGE_SIZE: Final = 4096


class MockOp(IntEnum):
    """``iommu_test_cmd.op``."""

    ADD_RESERVED = 1
    MOCK_DOMAIN = 2
    MD_CHECK_MAP = 3
    MD_CHECK_REFS = 4
    CREATE_ACCESS = 5
    DESTROY_ACCESS_PAGES = 6
    ACCESS_PAGES = 7
    ACCESS_RW = 8
    SET_TEMP_MEMORY_LIMIT = 9
    MOCK_DOMAIN_REPLACE = 10
    ACCESS_REPLACE_IOAS = 11
    MOCK_DOMAIN_FLAGS = 12
    DIRTY = 13
    MD_CHECK_IOTLB = 14
    TRIGGER_IOPF = 15


MOCK_APERTURE_START: Final = 1 << 24
MOCK_APERTURE_LAST: Final = (1 << 31) - 1
MOCK_IO_PAGE_SIZE: Final = PAGE_SIZE // 2
MOCK_HUGE_PAGE_SIZE: Final = 512 * MOCK_IO_PAGE_SIZE

MOCK_FLAGS_ACCESS_WRITE: Final = 1 << 0
MOCK_ACCESS_RW_WRITE: Final = 1 << 0
MOCK_ACCESS_RW_SLOW_PATH: Final = 1 << 2
MOCK_FLAGS_ACCESS_CREATE_NEEDS_PIN_PAGES: Final = 1 << 0
MOCK_FLAGS_DEVICE_NO_DIRTY: Final = 1 << 0
MOCK_FLAGS_DEVICE_HUGE_IOVA: Final = 1 << 1
MOCK_NESTED_DOMAIN_IOTLB_NUM: Final = 4

IOMMU_HW_INFO_TYPE_SELFTEST: Final = 0xFEEDBEEF
IOMMU_HW_INFO_SELFTEST_REGVAL: Final = 0xDEADBEEF
IOMMU_HWPT_DATA_SELFTEST: Final = 0xDEAD
IOMMU_TEST_IOTLB_DEFAULT: Final = 0xBADBEEF
IOMMU_HWPT_INVALIDATE_DATA_SELFTEST: Final = 0xDEADBEEF
IOMMU_TEST_INVALIDATE_FLAG_ALL: Final = 1 << 0


class iommu_test_cmd(Struct):
    """The operation *op* on object *id*; *args* is one of the structs below."""

    size: u32 = 0
    op: u32 = 0
    id: u32 = 0
    reserved: Annotated[u32, Name("__reserved")] = 0
    args: Annotated[MutableSequence[int], aligned_u64, 6] = ZERO
    last: u32 = 0


IOMMU_TEST_CMD: Final = _IO(IOMMUFD_TYPE, IOMMUFD_CMD_BASE + 32, iommu_test_cmd, minsz="last")


class add_reserved(Struct):
    """ADD_RESERVED."""

    start: aligned_u64 = 0
    length: aligned_u64 = 0


class mock_domain(Struct):
    """MOCK_DOMAIN, MOCK_DOMAIN_FLAGS."""

    out_stdev_id: u32 = 0
    out_hwpt_id: u32 = 0
    out_idev_id: u32 = 0
    dev_flags: u32 = 0


class one_id(Struct):
    """MOCK_DOMAIN_REPLACE, ACCESS_REPLACE_IOAS, DESTROY_ACCESS_PAGES, SET_TEMP_MEMORY_LIMIT: one number."""

    id: u32 = 0


class check_map(Struct):
    """MD_CHECK_MAP."""

    iova: aligned_u64 = 0
    length: aligned_u64 = 0
    uptr: aligned_u64 = 0


class check_refs(Struct):
    """MD_CHECK_REFS."""

    length: aligned_u64 = 0
    uptr: aligned_u64 = 0
    refs: u32 = 0


class create_access(Struct):
    """CREATE_ACCESS."""

    out_access_fd: u32 = 0
    flags: u32 = 0


class access_pages(Struct):
    """ACCESS_PAGES."""

    flags: u32 = 0
    out_access_pages_id: u32 = 0
    iova: aligned_u64 = 0
    length: aligned_u64 = 0
    uptr: aligned_u64 = 0


class access_rw(Struct):
    """ACCESS_RW."""

    iova: aligned_u64 = 0
    length: aligned_u64 = 0
    uptr: aligned_u64 = 0
    flags: u32 = 0


class dirty(Struct):
    """DIRTY."""

    flags: u32 = 0
    iova: aligned_u64 = 0
    length: aligned_u64 = 0
    page_size: aligned_u64 = 0
    uptr: aligned_u64 = 0
    out_nr_dirty: aligned_u64 = 0


class check_iotlb(Struct):
    """MD_CHECK_IOTLB."""

    id: u32 = 0
    iotlb: u32 = 0


class trigger_iopf(Struct):
    """TRIGGER_IOPF."""

    dev_id: u32 = 0
    pasid: u32 = 0
    grpid: u32 = 0
    perm: u32 = 0
    addr: aligned_u64 = 0


class iommu_test_hw_info(Struct):
    """IOMMU_HW_INFO_TYPE_SELFTEST."""

    flags: u32 = 0
    test_reg: u32 = 0


class iommu_hwpt_selftest(Struct):
    """IOMMU_HWPT_DATA_SELFTEST: what the mock IOTLB has at first."""

    iotlb: u32 = 0


class iommu_hwpt_invalidate_selftest(Struct):
    """IOMMU_HWPT_INVALIDATE_DATA_SELFTEST."""

    flags: u32 = 0
    iotlb_id: u32 = 0
