"""
``linux/iommufd.h``: ``/dev/iommu``, as in Linux 7.3.

All ioctls are ``_IO()`` numbers, which carry no size: the struct starts with its ``size``, and *minsz* names the last
field that the first kernel with the ioctl had; what follows it may be left out. ``NEWER`` says which names came when.
"""

from __future__ import annotations

from collections.abc import MutableSequence
from enum import IntEnum
from typing import Annotated, Final

from pykernel.uapi.ioctl import _IO
from pykernel.uapi.struct import ZERO, Name, Struct, aligned_le64, aligned_u64, anon_union, s32, u8, u16, u32

IOMMUFD_TYPE: Final = ord(";")

# Numbers of the ioctls
IOMMUFD_CMD_BASE: Final = 0x80
IOMMUFD_CMD_DESTROY: Final = IOMMUFD_CMD_BASE
IOMMUFD_CMD_IOAS_ALLOC: Final = 0x81
IOMMUFD_CMD_IOAS_ALLOW_IOVAS: Final = 0x82
IOMMUFD_CMD_IOAS_COPY: Final = 0x83
IOMMUFD_CMD_IOAS_IOVA_RANGES: Final = 0x84
IOMMUFD_CMD_IOAS_MAP: Final = 0x85
IOMMUFD_CMD_IOAS_UNMAP: Final = 0x86
IOMMUFD_CMD_OPTION: Final = 0x87
IOMMUFD_CMD_VFIO_IOAS: Final = 0x88
IOMMUFD_CMD_HWPT_ALLOC: Final = 0x89
IOMMUFD_CMD_GET_HW_INFO: Final = 0x8A
IOMMUFD_CMD_HWPT_SET_DIRTY_TRACKING: Final = 0x8B
IOMMUFD_CMD_HWPT_GET_DIRTY_BITMAP: Final = 0x8C
IOMMUFD_CMD_HWPT_INVALIDATE: Final = 0x8D
IOMMUFD_CMD_FAULT_QUEUE_ALLOC: Final = 0x8E
IOMMUFD_CMD_IOAS_MAP_FILE: Final = 0x8F
IOMMUFD_CMD_VIOMMU_ALLOC: Final = 0x90
IOMMUFD_CMD_VDEVICE_ALLOC: Final = 0x91
IOMMUFD_CMD_IOAS_CHANGE_PROCESS: Final = 0x92
IOMMUFD_CMD_VEVENTQ_ALLOC: Final = 0x93
IOMMUFD_CMD_HW_QUEUE_ALLOC: Final = 0x94
IOMMUFD_CMD_IOAS_NOIOMMU_GET_PA: Final = 0x95


class iommu_destroy(Struct):
    """``IOMMU_DESTROY``: any object that nothing else uses."""

    size: u32 = 0
    id: u32 = 0


IOMMU_DESTROY: Final = _IO(IOMMUFD_TYPE, IOMMUFD_CMD_DESTROY, iommu_destroy, minsz="id")


class iommu_ioas_alloc(Struct):
    """``IOMMU_IOAS_ALLOC``: a new I/O address space."""

    size: u32 = 0
    flags: u32 = 0
    out_ioas_id: u32 = 0


IOMMU_IOAS_ALLOC: Final = _IO(IOMMUFD_TYPE, IOMMUFD_CMD_IOAS_ALLOC, iommu_ioas_alloc, minsz="out_ioas_id")


class iommu_iova_range(Struct):
    """A range of I/O virtual addresses, both ends included."""

    start: aligned_u64 = 0
    last: aligned_u64 = 0


class iommu_ioas_iova_ranges(Struct):
    """``IOMMU_IOAS_IOVA_RANGES``: the addresses that may be mapped, into an array of ``iommu_iova_range``."""

    size: u32 = 0
    ioas_id: u32 = 0
    num_iovas: u32 = 0
    reserved: Annotated[u32, Name("__reserved")] = 0
    allowed_iovas: aligned_u64 = 0
    out_iova_alignment: aligned_u64 = 0


IOMMU_IOAS_IOVA_RANGES: Final = _IO(
    IOMMUFD_TYPE, IOMMUFD_CMD_IOAS_IOVA_RANGES, iommu_ioas_iova_ranges, minsz="out_iova_alignment"
)


class iommu_ioas_allow_iovas(Struct):
    """``IOMMU_IOAS_ALLOW_IOVAS``: ranges that every later attach must leave usable."""

    size: u32 = 0
    ioas_id: u32 = 0
    num_iovas: u32 = 0
    reserved: Annotated[u32, Name("__reserved")] = 0
    allowed_iovas: aligned_u64 = 0


IOMMU_IOAS_ALLOW_IOVAS: Final = _IO(
    IOMMUFD_TYPE, IOMMUFD_CMD_IOAS_ALLOW_IOVAS, iommu_ioas_allow_iovas, minsz="allowed_iovas"
)


class iommufd_ioas_map_flags(IntEnum):
    """``flags`` of map and copy."""

    IOMMU_IOAS_MAP_FIXED_IOVA = 1 << 0
    IOMMU_IOAS_MAP_WRITEABLE = 1 << 1
    IOMMU_IOAS_MAP_READABLE = 1 << 2


IOMMU_IOAS_MAP_FIXED_IOVA, IOMMU_IOAS_MAP_WRITEABLE, IOMMU_IOAS_MAP_READABLE = iommufd_ioas_map_flags


class iommu_ioas_map(Struct):
    """``IOMMU_IOAS_MAP``: map memory of the caller; without FIXED_IOVA the kernel chooses ``iova``."""

    size: u32 = 0
    flags: u32 = 0
    ioas_id: u32 = 0
    reserved: Annotated[u32, Name("__reserved")] = 0
    user_va: aligned_u64 = 0
    length: aligned_u64 = 0
    iova: aligned_u64 = 0


IOMMU_IOAS_MAP: Final = _IO(IOMMUFD_TYPE, IOMMUFD_CMD_IOAS_MAP, iommu_ioas_map, minsz="iova")


class iommu_ioas_noiommu_get_pa(Struct):
    """``IOMMU_IOAS_NOIOMMU_GET_PA``: the physical address behind an IOVA, for devices without an IOMMU."""

    size: u32 = 0
    flags: u32 = 0
    ioas_id: u32 = 0
    reserved: Annotated[u32, Name("__reserved")] = 0
    iova: aligned_u64 = 0
    length: aligned_u64 = 0
    out_phys: aligned_u64 = 0


IOMMU_IOAS_NOIOMMU_GET_PA: Final = _IO(
    IOMMUFD_TYPE, IOMMUFD_CMD_IOAS_NOIOMMU_GET_PA, iommu_ioas_noiommu_get_pa, minsz="out_phys"
)


class iommu_ioas_map_file(Struct):
    """``IOMMU_IOAS_MAP_FILE``: map a memfd or dma-buf."""

    size: u32 = 0
    flags: u32 = 0
    ioas_id: u32 = 0
    fd: s32 = 0
    start: aligned_u64 = 0
    length: aligned_u64 = 0
    iova: aligned_u64 = 0


IOMMU_IOAS_MAP_FILE: Final = _IO(IOMMUFD_TYPE, IOMMUFD_CMD_IOAS_MAP_FILE, iommu_ioas_map_file, minsz="iova")


class iommu_ioas_copy(Struct):
    """``IOMMU_IOAS_COPY``: map what another IOAS has mapped."""

    size: u32 = 0
    flags: u32 = 0
    dst_ioas_id: u32 = 0
    src_ioas_id: u32 = 0
    length: aligned_u64 = 0
    dst_iova: aligned_u64 = 0
    src_iova: aligned_u64 = 0


IOMMU_IOAS_COPY: Final = _IO(IOMMUFD_TYPE, IOMMUFD_CMD_IOAS_COPY, iommu_ioas_copy, minsz="src_iova")


class iommu_ioas_unmap(Struct):
    """``IOMMU_IOAS_UNMAP``: ``length`` comes back as what was unmapped."""

    size: u32 = 0
    ioas_id: u32 = 0
    iova: aligned_u64 = 0
    length: aligned_u64 = 0


IOMMU_IOAS_UNMAP: Final = _IO(IOMMUFD_TYPE, IOMMUFD_CMD_IOAS_UNMAP, iommu_ioas_unmap, minsz="length")


class iommufd_option(IntEnum):
    """``iommu_option.option_id``."""

    IOMMU_OPTION_RLIMIT_MODE = 0
    IOMMU_OPTION_HUGE_PAGES = 1


IOMMU_OPTION_RLIMIT_MODE, IOMMU_OPTION_HUGE_PAGES = iommufd_option


class iommufd_option_ops(IntEnum):
    """``iommu_option.op``."""

    IOMMU_OPTION_OP_SET = 0
    IOMMU_OPTION_OP_GET = 1


IOMMU_OPTION_OP_SET, IOMMU_OPTION_OP_GET = iommufd_option_ops


class iommu_option(Struct):
    """``IOMMU_OPTION``: set or get an option of the whole iommufd, or of one object."""

    size: u32 = 0
    option_id: u32 = 0
    op: u16 = 0
    reserved: Annotated[u16, Name("__reserved")] = 0
    object_id: u32 = 0
    val64: aligned_u64 = 0


IOMMU_OPTION: Final = _IO(IOMMUFD_TYPE, IOMMUFD_CMD_OPTION, iommu_option, minsz="val64")


class iommufd_vfio_ioas_op(IntEnum):
    """``iommu_vfio_ioas.op``."""

    IOMMU_VFIO_IOAS_GET = 0
    IOMMU_VFIO_IOAS_SET = 1
    IOMMU_VFIO_IOAS_CLEAR = 2


IOMMU_VFIO_IOAS_GET, IOMMU_VFIO_IOAS_SET, IOMMU_VFIO_IOAS_CLEAR = iommufd_vfio_ioas_op


class iommu_vfio_ioas(Struct):
    """``IOMMU_VFIO_IOAS``: the IOAS that stands in for a VFIO container."""

    size: u32 = 0
    ioas_id: u32 = 0
    op: u16 = 0
    reserved: Annotated[u16, Name("__reserved")] = 0


IOMMU_VFIO_IOAS: Final = _IO(IOMMUFD_TYPE, IOMMUFD_CMD_VFIO_IOAS, iommu_vfio_ioas, minsz="reserved")


class iommufd_hwpt_alloc_flags(IntEnum):
    """``iommu_hwpt_alloc.flags``."""

    IOMMU_HWPT_ALLOC_NEST_PARENT = 1 << 0
    IOMMU_HWPT_ALLOC_DIRTY_TRACKING = 1 << 1
    IOMMU_HWPT_FAULT_ID_VALID = 1 << 2
    IOMMU_HWPT_ALLOC_PASID = 1 << 3


(
    IOMMU_HWPT_ALLOC_NEST_PARENT, IOMMU_HWPT_ALLOC_DIRTY_TRACKING, IOMMU_HWPT_FAULT_ID_VALID, IOMMU_HWPT_ALLOC_PASID,
) = iommufd_hwpt_alloc_flags  # fmt: skip


class iommu_hwpt_vtd_s1_flags(IntEnum):
    """``iommu_hwpt_vtd_s1.flags``."""

    IOMMU_VTD_S1_SRE = 1 << 0
    IOMMU_VTD_S1_EAFE = 1 << 1
    IOMMU_VTD_S1_WPE = 1 << 2


IOMMU_VTD_S1_SRE, IOMMU_VTD_S1_EAFE, IOMMU_VTD_S1_WPE = iommu_hwpt_vtd_s1_flags


class iommu_hwpt_vtd_s1(Struct):
    """``IOMMU_HWPT_DATA_VTD_S1``: a guest's first stage page table on Intel VT-d."""

    flags: aligned_u64 = 0
    pgtbl_addr: aligned_u64 = 0
    addr_width: u32 = 0
    reserved: Annotated[u32, Name("__reserved")] = 0


class iommu_hwpt_arm_smmuv3(Struct):
    """``IOMMU_HWPT_DATA_ARM_SMMUV3``: a guest's stream table entry, little endian."""

    ste: Annotated[MutableSequence[int], aligned_le64, 2] = ZERO


class iommu_hwpt_amd_guest(Struct):
    """``IOMMU_HWPT_DATA_AMD_GUEST``: a guest's device table entry."""

    dte: Annotated[MutableSequence[int], aligned_u64, 4] = ZERO


class iommu_hwpt_data_type(IntEnum):
    """``iommu_hwpt_alloc.data_type``."""

    IOMMU_HWPT_DATA_NONE = 0
    IOMMU_HWPT_DATA_VTD_S1 = 1
    IOMMU_HWPT_DATA_ARM_SMMUV3 = 2
    IOMMU_HWPT_DATA_AMD_GUEST = 3


(
    IOMMU_HWPT_DATA_NONE, IOMMU_HWPT_DATA_VTD_S1, IOMMU_HWPT_DATA_ARM_SMMUV3, IOMMU_HWPT_DATA_AMD_GUEST,
) = iommu_hwpt_data_type  # fmt: skip


class iommu_hwpt_alloc(Struct):
    """``IOMMU_HWPT_ALLOC``: a page table for a device, on top of an IOAS or of another page table."""

    size: u32 = 0
    flags: u32 = 0
    dev_id: u32 = 0
    pt_id: u32 = 0
    out_hwpt_id: u32 = 0
    reserved: Annotated[u32, Name("__reserved")] = 0
    data_type: u32 = 0
    data_len: u32 = 0
    data_uptr: aligned_u64 = 0
    fault_id: u32 = 0
    reserved2: Annotated[u32, Name("__reserved2")] = 0


IOMMU_HWPT_ALLOC: Final = _IO(IOMMUFD_TYPE, IOMMUFD_CMD_HWPT_ALLOC, iommu_hwpt_alloc, minsz="reserved")


class iommu_hw_info_vtd_flags(IntEnum):
    """``iommu_hw_info_vtd.flags``."""

    IOMMU_HW_INFO_VTD_ERRATA_772415_SPR17 = 1 << 0


(IOMMU_HW_INFO_VTD_ERRATA_772415_SPR17,) = iommu_hw_info_vtd_flags


class iommu_hw_info_vtd(Struct):
    """``IOMMU_HW_INFO_TYPE_INTEL_VTD``: the capability registers."""

    flags: u32 = 0
    reserved: Annotated[u32, Name("__reserved")] = 0
    cap_reg: aligned_u64 = 0
    ecap_reg: aligned_u64 = 0


class iommu_hw_info_arm_smmuv3_flags(IntEnum):
    """``iommu_hw_info_arm_smmuv3.flags``."""

    IOMMU_HW_INFO_ARM_SMMUV3_ERRATA_REPEAT_TLBI_CFGI = 1 << 0


(IOMMU_HW_INFO_ARM_SMMUV3_ERRATA_REPEAT_TLBI_CFGI,) = iommu_hw_info_arm_smmuv3_flags


class iommu_hw_info_arm_smmuv3(Struct):
    """``IOMMU_HW_INFO_TYPE_ARM_SMMUV3``: the ID registers."""

    flags: u32 = 0
    reserved: Annotated[u32, Name("__reserved")] = 0
    idr: Annotated[MutableSequence[int], u32, 6] = ZERO
    iidr: u32 = 0
    aidr: u32 = 0


class iommu_hw_info_tegra241_cmdqv(Struct):
    """``IOMMU_HW_INFO_TYPE_TEGRA241_CMDQV``: how many queues a virtual interface has."""

    flags: u32 = 0
    version: u8 = 0
    log2vcmdqs: u8 = 0
    log2vsids: u8 = 0
    reserved: Annotated[u8, Name("__reserved")] = 0


class iommu_hw_info_amd(Struct):
    """``IOMMU_HW_INFO_TYPE_AMD``: the extended feature registers."""

    efr: aligned_u64 = 0
    efr2: aligned_u64 = 0


class iommu_hw_info_type(IntEnum):
    """``iommu_hw_info.out_data_type``, and ``in_data_type`` with INPUT_TYPE."""

    IOMMU_HW_INFO_TYPE_NONE = 0
    IOMMU_HW_INFO_TYPE_DEFAULT = 0
    IOMMU_HW_INFO_TYPE_INTEL_VTD = 1
    IOMMU_HW_INFO_TYPE_ARM_SMMUV3 = 2
    IOMMU_HW_INFO_TYPE_TEGRA241_CMDQV = 3
    IOMMU_HW_INFO_TYPE_AMD = 4


(
    IOMMU_HW_INFO_TYPE_NONE, IOMMU_HW_INFO_TYPE_INTEL_VTD, IOMMU_HW_INFO_TYPE_ARM_SMMUV3,
    IOMMU_HW_INFO_TYPE_TEGRA241_CMDQV, IOMMU_HW_INFO_TYPE_AMD,
) = iommu_hw_info_type  # fmt: skip
IOMMU_HW_INFO_TYPE_DEFAULT: Final = iommu_hw_info_type.IOMMU_HW_INFO_TYPE_DEFAULT


class iommufd_hw_capabilities(IntEnum):
    """``iommu_hw_info.out_capabilities``."""

    IOMMU_HW_CAP_DIRTY_TRACKING = 1 << 0
    IOMMU_HW_CAP_PCI_PASID_EXEC = 1 << 1
    IOMMU_HW_CAP_PCI_PASID_PRIV = 1 << 2
    IOMMU_HW_CAP_PCI_ATS_NOT_SUPPORTED = 1 << 3


(
    IOMMU_HW_CAP_DIRTY_TRACKING, IOMMU_HW_CAP_PCI_PASID_EXEC, IOMMU_HW_CAP_PCI_PASID_PRIV,
    IOMMU_HW_CAP_PCI_ATS_NOT_SUPPORTED,
) = iommufd_hw_capabilities  # fmt: skip


class iommufd_hw_info_flags(IntEnum):
    """``iommu_hw_info.flags``."""

    IOMMU_HW_INFO_FLAG_INPUT_TYPE = 1 << 0


(IOMMU_HW_INFO_FLAG_INPUT_TYPE,) = iommufd_hw_info_flags


class iommu_hw_info(Struct):
    """``IOMMU_GET_HW_INFO``: what the IOMMU before a device can."""

    size: u32 = 0
    flags: u32 = 0
    dev_id: u32 = 0
    data_len: u32 = 0
    data_uptr: aligned_u64 = 0
    _union = anon_union(until="out_data_type")
    in_data_type: u32 = 0
    out_data_type: u32 = 0
    out_max_pasid_log2: u8 = 0
    reserved: Annotated[bytes, u8, 3, Name("__reserved")] = b""
    out_capabilities: aligned_u64 = 0


IOMMU_GET_HW_INFO: Final = _IO(IOMMUFD_TYPE, IOMMUFD_CMD_GET_HW_INFO, iommu_hw_info, minsz="reserved")


class iommufd_hwpt_set_dirty_tracking_flags(IntEnum):
    """``iommu_hwpt_set_dirty_tracking.flags``."""

    IOMMU_HWPT_DIRTY_TRACKING_ENABLE = 1


(IOMMU_HWPT_DIRTY_TRACKING_ENABLE,) = iommufd_hwpt_set_dirty_tracking_flags


class iommu_hwpt_set_dirty_tracking(Struct):
    """``IOMMU_HWPT_SET_DIRTY_TRACKING``: start or stop logging written pages."""

    size: u32 = 0
    flags: u32 = 0
    hwpt_id: u32 = 0
    reserved: Annotated[u32, Name("__reserved")] = 0


IOMMU_HWPT_SET_DIRTY_TRACKING: Final = _IO(
    IOMMUFD_TYPE, IOMMUFD_CMD_HWPT_SET_DIRTY_TRACKING, iommu_hwpt_set_dirty_tracking, minsz="reserved"
)


class iommufd_hwpt_get_dirty_bitmap_flags(IntEnum):
    """``iommu_hwpt_get_dirty_bitmap.flags``."""

    IOMMU_HWPT_GET_DIRTY_BITMAP_NO_CLEAR = 1


(IOMMU_HWPT_GET_DIRTY_BITMAP_NO_CLEAR,) = iommufd_hwpt_get_dirty_bitmap_flags


class iommu_hwpt_get_dirty_bitmap(Struct):
    """``IOMMU_HWPT_GET_DIRTY_BITMAP``: fetch the bitmap of written pages."""

    size: u32 = 0
    hwpt_id: u32 = 0
    flags: u32 = 0
    reserved: Annotated[u32, Name("__reserved")] = 0
    iova: aligned_u64 = 0
    length: aligned_u64 = 0
    page_size: aligned_u64 = 0
    data: aligned_u64 = 0


IOMMU_HWPT_GET_DIRTY_BITMAP: Final = _IO(
    IOMMUFD_TYPE, IOMMUFD_CMD_HWPT_GET_DIRTY_BITMAP, iommu_hwpt_get_dirty_bitmap, minsz="data"
)


class iommu_hwpt_invalidate_data_type(IntEnum):
    """``iommu_hwpt_invalidate.data_type``."""

    IOMMU_HWPT_INVALIDATE_DATA_VTD_S1 = 0
    IOMMU_VIOMMU_INVALIDATE_DATA_ARM_SMMUV3 = 1


IOMMU_HWPT_INVALIDATE_DATA_VTD_S1, IOMMU_VIOMMU_INVALIDATE_DATA_ARM_SMMUV3 = iommu_hwpt_invalidate_data_type


class iommu_hwpt_vtd_s1_invalidate_flags(IntEnum):
    """``iommu_hwpt_vtd_s1_invalidate.flags``."""

    IOMMU_VTD_INV_FLAGS_LEAF = 1 << 0


(IOMMU_VTD_INV_FLAGS_LEAF,) = iommu_hwpt_vtd_s1_invalidate_flags


class iommu_hwpt_vtd_s1_invalidate(Struct):
    """``IOMMU_HWPT_INVALIDATE_DATA_VTD_S1``: a range of a guest's addresses."""

    addr: aligned_u64 = 0
    npages: aligned_u64 = 0
    flags: u32 = 0
    reserved: Annotated[u32, Name("__reserved")] = 0


class iommu_viommu_arm_smmuv3_invalidate(Struct):
    """``IOMMU_VIOMMU_INVALIDATE_DATA_ARM_SMMUV3``: a command of a guest, little endian."""

    cmd: Annotated[MutableSequence[int], aligned_le64, 2] = ZERO


class iommu_hwpt_invalidate(Struct):
    """``IOMMU_HWPT_INVALIDATE``: an array of requests; ``entry_num`` comes back as how many were done."""

    size: u32 = 0
    hwpt_id: u32 = 0
    data_uptr: aligned_u64 = 0
    data_type: u32 = 0
    entry_len: u32 = 0
    entry_num: u32 = 0
    reserved: Annotated[u32, Name("__reserved")] = 0


IOMMU_HWPT_INVALIDATE: Final = _IO(IOMMUFD_TYPE, IOMMUFD_CMD_HWPT_INVALIDATE, iommu_hwpt_invalidate, minsz="reserved")


class iommu_hwpt_pgfault_flags(IntEnum):
    """``iommu_hwpt_pgfault.flags``."""

    IOMMU_PGFAULT_FLAGS_PASID_VALID = 1 << 0
    IOMMU_PGFAULT_FLAGS_LAST_PAGE = 1 << 1


IOMMU_PGFAULT_FLAGS_PASID_VALID, IOMMU_PGFAULT_FLAGS_LAST_PAGE = iommu_hwpt_pgfault_flags


class iommu_hwpt_pgfault_perm(IntEnum):
    """``iommu_hwpt_pgfault.perm``."""

    IOMMU_PGFAULT_PERM_READ = 1 << 0
    IOMMU_PGFAULT_PERM_WRITE = 1 << 1
    IOMMU_PGFAULT_PERM_EXEC = 1 << 2
    IOMMU_PGFAULT_PERM_PRIV = 1 << 3


(
    IOMMU_PGFAULT_PERM_READ, IOMMU_PGFAULT_PERM_WRITE, IOMMU_PGFAULT_PERM_EXEC, IOMMU_PGFAULT_PERM_PRIV,
) = iommu_hwpt_pgfault_perm  # fmt: skip


class iommu_hwpt_pgfault(Struct):
    """What read() on a fault queue gives."""

    flags: u32 = 0
    dev_id: u32 = 0
    pasid: u32 = 0
    grpid: u32 = 0
    perm: u32 = 0
    reserved: Annotated[u32, Name("__reserved")] = 0
    addr: aligned_u64 = 0
    length: u32 = 0
    cookie: u32 = 0


class iommufd_page_response_code(IntEnum):
    """``iommu_hwpt_page_response.code``."""

    IOMMUFD_PAGE_RESP_SUCCESS = 0
    IOMMUFD_PAGE_RESP_INVALID = 1


IOMMUFD_PAGE_RESP_SUCCESS, IOMMUFD_PAGE_RESP_INVALID = iommufd_page_response_code


class iommu_hwpt_page_response(Struct):
    """What write() on a fault queue takes: the answer to the group of faults with this ``cookie``."""

    cookie: u32 = 0
    code: u32 = 0


class iommu_fault_alloc(Struct):
    """``IOMMU_FAULT_QUEUE_ALLOC``: a queue of page faults, and the file to read it from."""

    size: u32 = 0
    flags: u32 = 0
    out_fault_id: u32 = 0
    out_fault_fd: u32 = 0


IOMMU_FAULT_QUEUE_ALLOC: Final = _IO(
    IOMMUFD_TYPE, IOMMUFD_CMD_FAULT_QUEUE_ALLOC, iommu_fault_alloc, minsz="out_fault_fd"
)


class iommu_viommu_type(IntEnum):
    """``iommu_viommu_alloc.type``."""

    IOMMU_VIOMMU_TYPE_DEFAULT = 0
    IOMMU_VIOMMU_TYPE_ARM_SMMUV3 = 1
    IOMMU_VIOMMU_TYPE_TEGRA241_CMDQV = 2


IOMMU_VIOMMU_TYPE_DEFAULT, IOMMU_VIOMMU_TYPE_ARM_SMMUV3, IOMMU_VIOMMU_TYPE_TEGRA241_CMDQV = iommu_viommu_type


class iommu_viommu_tegra241_cmdqv(Struct):
    """``IOMMU_VIOMMU_TYPE_TEGRA241_CMDQV``: where to mmap() the virtual interface."""

    out_vintf_mmap_offset: aligned_u64 = 0
    out_vintf_mmap_length: aligned_u64 = 0


class iommu_viommu_alloc(Struct):
    """``IOMMU_VIOMMU_ALLOC``: a guest's share of an IOMMU."""

    size: u32 = 0
    flags: u32 = 0
    type: u32 = 0
    dev_id: u32 = 0
    hwpt_id: u32 = 0
    out_viommu_id: u32 = 0
    data_len: u32 = 0
    reserved: Annotated[u32, Name("__reserved")] = 0
    data_uptr: aligned_u64 = 0


IOMMU_VIOMMU_ALLOC: Final = _IO(IOMMUFD_TYPE, IOMMUFD_CMD_VIOMMU_ALLOC, iommu_viommu_alloc, minsz="out_viommu_id")


class iommu_vdevice_alloc(Struct):
    """``IOMMU_VDEVICE_ALLOC``: the number that a guest's IOMMU knows a device by."""

    size: u32 = 0
    viommu_id: u32 = 0
    dev_id: u32 = 0
    out_vdevice_id: u32 = 0
    virt_id: aligned_u64 = 0


IOMMU_VDEVICE_ALLOC: Final = _IO(IOMMUFD_TYPE, IOMMUFD_CMD_VDEVICE_ALLOC, iommu_vdevice_alloc, minsz="virt_id")


class iommu_ioas_change_process(Struct):
    """``IOMMU_IOAS_CHANGE_PROCESS``: charge the pinned memory to the calling process."""

    size: u32 = 0
    reserved: Annotated[u32, Name("__reserved")] = 0


IOMMU_IOAS_CHANGE_PROCESS: Final = _IO(
    IOMMUFD_TYPE, IOMMUFD_CMD_IOAS_CHANGE_PROCESS, iommu_ioas_change_process, minsz="reserved"
)


class iommu_veventq_flag(IntEnum):
    """``iommufd_vevent_header.flags``."""

    IOMMU_VEVENTQ_FLAG_LOST_EVENTS = 1 << 0


(IOMMU_VEVENTQ_FLAG_LOST_EVENTS,) = iommu_veventq_flag


class iommufd_vevent_header(Struct):
    """Stands before each event that read() on a virtual event queue gives."""

    flags: u32 = 0
    sequence: u32 = 0


class iommu_veventq_type(IntEnum):
    """``iommu_veventq_alloc.type``."""

    IOMMU_VEVENTQ_TYPE_DEFAULT = 0
    IOMMU_VEVENTQ_TYPE_ARM_SMMUV3 = 1
    IOMMU_VEVENTQ_TYPE_TEGRA241_CMDQV = 2


IOMMU_VEVENTQ_TYPE_DEFAULT, IOMMU_VEVENTQ_TYPE_ARM_SMMUV3, IOMMU_VEVENTQ_TYPE_TEGRA241_CMDQV = iommu_veventq_type


class iommu_vevent_arm_smmuv3(Struct):
    """``IOMMU_VEVENTQ_TYPE_ARM_SMMUV3``: an event record, little endian."""

    evt: Annotated[MutableSequence[int], aligned_le64, 4] = ZERO


class iommu_vevent_tegra241_cmdqv(Struct):
    """``IOMMU_VEVENTQ_TYPE_TEGRA241_CMDQV``: which queues have an error, little endian."""

    lvcmdq_err_map: Annotated[MutableSequence[int], aligned_le64, 2] = ZERO


class iommu_veventq_alloc(Struct):
    """``IOMMU_VEVENTQ_ALLOC``: a queue of events of a virtual IOMMU, and the file to read it from."""

    size: u32 = 0
    flags: u32 = 0
    viommu_id: u32 = 0
    type: u32 = 0
    veventq_depth: u32 = 0
    out_veventq_id: u32 = 0
    out_veventq_fd: u32 = 0
    reserved: Annotated[u32, Name("__reserved")] = 0


IOMMU_VEVENTQ_ALLOC: Final = _IO(IOMMUFD_TYPE, IOMMUFD_CMD_VEVENTQ_ALLOC, iommu_veventq_alloc, minsz="reserved")


class iommu_hw_queue_type(IntEnum):
    """``iommu_hw_queue_alloc.type``."""

    IOMMU_HW_QUEUE_TYPE_DEFAULT = 0
    IOMMU_HW_QUEUE_TYPE_TEGRA241_CMDQV = 1


IOMMU_HW_QUEUE_TYPE_DEFAULT, IOMMU_HW_QUEUE_TYPE_TEGRA241_CMDQV = iommu_hw_queue_type


class iommu_hw_queue_alloc(Struct):
    """``IOMMU_HW_QUEUE_ALLOC``: let the hardware serve a queue in the guest's memory."""

    size: u32 = 0
    flags: u32 = 0
    viommu_id: u32 = 0
    type: u32 = 0
    index: u32 = 0
    out_hw_queue_id: u32 = 0
    nesting_parent_iova: aligned_u64 = 0
    length: aligned_u64 = 0


IOMMU_HW_QUEUE_ALLOC: Final = _IO(IOMMUFD_TYPE, IOMMUFD_CMD_HW_QUEUE_ALLOC, iommu_hw_queue_alloc, minsz="length")

# Which kernel brought what. A row of a struct tells of its members too; those with a row of their own came later.
# The rows of 6.12 stand for its updates: they brought what else came with 6.13 and 6.15.
NEWER: Final = {
    "IOMMUFD_TYPE": "6.2",
    "IOMMUFD_CMD_BASE": "6.2",
    "IOMMUFD_CMD_DESTROY": "6.2",
    "IOMMUFD_CMD_IOAS_ALLOC": "6.2",
    "IOMMUFD_CMD_IOAS_ALLOW_IOVAS": "6.2",
    "IOMMUFD_CMD_IOAS_COPY": "6.2",
    "IOMMUFD_CMD_IOAS_IOVA_RANGES": "6.2",
    "IOMMUFD_CMD_IOAS_MAP": "6.2",
    "IOMMUFD_CMD_IOAS_UNMAP": "6.2",
    "IOMMUFD_CMD_OPTION": "6.2",
    "IOMMUFD_CMD_VFIO_IOAS": "6.2",
    "iommu_destroy": "6.2",
    "IOMMU_DESTROY": "6.2",
    "iommu_ioas_alloc": "6.2",
    "IOMMU_IOAS_ALLOC": "6.2",
    "iommu_iova_range": "6.2",
    "iommu_ioas_iova_ranges": "6.2",
    "IOMMU_IOAS_IOVA_RANGES": "6.2",
    "iommu_ioas_allow_iovas": "6.2",
    "IOMMU_IOAS_ALLOW_IOVAS": "6.2",
    "IOMMU_IOAS_MAP_FIXED_IOVA": "6.2",
    "IOMMU_IOAS_MAP_WRITEABLE": "6.2",
    "IOMMU_IOAS_MAP_READABLE": "6.2",
    "iommu_ioas_map": "6.2",
    "IOMMU_IOAS_MAP": "6.2",
    "iommu_ioas_copy": "6.2",
    "IOMMU_IOAS_COPY": "6.2",
    "iommu_ioas_unmap": "6.2",
    "IOMMU_IOAS_UNMAP": "6.2",
    "IOMMU_OPTION_RLIMIT_MODE": "6.2",
    "IOMMU_OPTION_HUGE_PAGES": "6.2",
    "IOMMU_OPTION_OP_SET": "6.2",
    "IOMMU_OPTION_OP_GET": "6.2",
    "iommu_option": "6.2",
    "IOMMU_OPTION": "6.2",
    "IOMMU_VFIO_IOAS_GET": "6.2",
    "IOMMU_VFIO_IOAS_SET": "6.2",
    "IOMMU_VFIO_IOAS_CLEAR": "6.2",
    "iommu_vfio_ioas": "6.2",
    "IOMMU_VFIO_IOAS": "6.2",
    "IOMMUFD_CMD_HWPT_ALLOC": "6.6",
    "IOMMUFD_CMD_GET_HW_INFO": "6.6",
    "iommu_hwpt_alloc": "6.6",
    "IOMMU_HWPT_ALLOC": "6.6",
    "iommu_hw_info_vtd": "6.6",
    "IOMMU_HW_INFO_TYPE_NONE": "6.6",
    "IOMMU_HW_INFO_TYPE_INTEL_VTD": "6.6",
    "iommu_hw_info": "6.6",
    "IOMMU_GET_HW_INFO": "6.6",
    "IOMMUFD_CMD_HWPT_SET_DIRTY_TRACKING": "6.7",
    "IOMMUFD_CMD_HWPT_GET_DIRTY_BITMAP": "6.7",
    "IOMMU_HWPT_ALLOC_NEST_PARENT": "6.7",
    "IOMMU_HWPT_ALLOC_DIRTY_TRACKING": "6.7",
    "IOMMU_VTD_S1_SRE": "6.7",
    "IOMMU_VTD_S1_EAFE": "6.7",
    "IOMMU_VTD_S1_WPE": "6.7",
    "iommu_hwpt_vtd_s1": "6.7",
    "IOMMU_HWPT_DATA_NONE": "6.7",
    "IOMMU_HWPT_DATA_VTD_S1": "6.7",
    "iommu_hwpt_alloc.data_type": "6.7",
    "iommu_hwpt_alloc.data_len": "6.7",
    "iommu_hwpt_alloc.data_uptr": "6.7",
    "IOMMU_HW_INFO_VTD_ERRATA_772415_SPR17": "6.7",
    "IOMMU_HW_CAP_DIRTY_TRACKING": "6.7",
    "iommu_hw_info.out_capabilities": "6.7",
    "IOMMU_HWPT_DIRTY_TRACKING_ENABLE": "6.7",
    "iommu_hwpt_set_dirty_tracking": "6.7",
    "IOMMU_HWPT_SET_DIRTY_TRACKING": "6.7",
    "IOMMU_HWPT_GET_DIRTY_BITMAP_NO_CLEAR": "6.7",
    "iommu_hwpt_get_dirty_bitmap": "6.7",
    "IOMMU_HWPT_GET_DIRTY_BITMAP": "6.7",
    "IOMMUFD_CMD_HWPT_INVALIDATE": "6.8",
    "IOMMU_HWPT_INVALIDATE_DATA_VTD_S1": "6.8",
    "IOMMU_VTD_INV_FLAGS_LEAF": "6.8",
    "iommu_hwpt_vtd_s1_invalidate": "6.8",
    "iommu_hwpt_invalidate": "6.8",
    "IOMMU_HWPT_INVALIDATE": "6.8",
    "IOMMUFD_CMD_FAULT_QUEUE_ALLOC": "6.11",
    "IOMMU_HWPT_FAULT_ID_VALID": "6.11",
    "iommu_hwpt_alloc.fault_id": "6.11",
    "iommu_hwpt_alloc.__reserved2": "6.11",
    "IOMMU_PGFAULT_FLAGS_PASID_VALID": "6.11",
    "IOMMU_PGFAULT_FLAGS_LAST_PAGE": "6.11",
    "IOMMU_PGFAULT_PERM_READ": "6.11",
    "IOMMU_PGFAULT_PERM_WRITE": "6.11",
    "IOMMU_PGFAULT_PERM_EXEC": "6.11",
    "IOMMU_PGFAULT_PERM_PRIV": "6.11",
    "iommu_hwpt_pgfault": "6.11",
    "IOMMUFD_PAGE_RESP_SUCCESS": "6.11",
    "IOMMUFD_PAGE_RESP_INVALID": "6.11",
    "iommu_hwpt_page_response": "6.11",
    "iommu_fault_alloc": "6.11",
    "IOMMU_FAULT_QUEUE_ALLOC": "6.11",
    "IOMMU_HW_CAP_PCI_PASID_EXEC": "6.15",
    "IOMMU_HW_CAP_PCI_PASID_PRIV": "6.15",
    "iommu_hw_info.out_max_pasid_log2": "6.15",
    "iommu_hwpt_pgfault.__reserved": "6.12",
    "IOMMUFD_CMD_IOAS_MAP_FILE": "6.13",
    "IOMMUFD_CMD_VIOMMU_ALLOC": "6.13",
    "IOMMUFD_CMD_VDEVICE_ALLOC": "6.13",
    "IOMMUFD_CMD_IOAS_CHANGE_PROCESS": "6.13",
    "iommu_ioas_map_file": "6.13",
    "IOMMU_IOAS_MAP_FILE": "6.13",
    "IOMMU_HWPT_ALLOC_PASID": "6.13",
    "iommu_hwpt_arm_smmuv3": "6.13",
    "IOMMU_HWPT_DATA_ARM_SMMUV3": "6.13",
    "iommu_hw_info_arm_smmuv3": "6.13",
    "IOMMU_HW_INFO_TYPE_ARM_SMMUV3": "6.13",
    "IOMMU_VIOMMU_INVALIDATE_DATA_ARM_SMMUV3": "6.13",
    "iommu_viommu_arm_smmuv3_invalidate": "6.13",
    "IOMMU_VIOMMU_TYPE_DEFAULT": "6.13",
    "IOMMU_VIOMMU_TYPE_ARM_SMMUV3": "6.13",
    "iommu_viommu_alloc": "6.13",
    "IOMMU_VIOMMU_ALLOC": "6.13",
    "iommu_vdevice_alloc": "6.13",
    "IOMMU_VDEVICE_ALLOC": "6.13",
    "iommu_ioas_change_process": "6.13",
    "IOMMU_IOAS_CHANGE_PROCESS": "6.13",
    "IOMMUFD_CMD_VEVENTQ_ALLOC": "6.15",
    "IOMMU_VEVENTQ_FLAG_LOST_EVENTS": "6.15",
    "iommufd_vevent_header": "6.15",
    "IOMMU_VEVENTQ_TYPE_DEFAULT": "6.15",
    "IOMMU_VEVENTQ_TYPE_ARM_SMMUV3": "6.15",
    "iommu_vevent_arm_smmuv3": "6.15",
    "iommu_veventq_alloc": "6.15",
    "IOMMU_VEVENTQ_ALLOC": "6.15",
    "IOMMUFD_CMD_HW_QUEUE_ALLOC": "6.17",
    "iommu_hw_info_tegra241_cmdqv": "6.17",
    "IOMMU_HW_INFO_TYPE_TEGRA241_CMDQV": "6.17",
    "IOMMU_HW_INFO_TYPE_DEFAULT": "6.17",
    "IOMMU_HW_INFO_FLAG_INPUT_TYPE": "6.17",
    "iommu_hw_info.in_data_type": "6.17",
    "IOMMU_VIOMMU_TYPE_TEGRA241_CMDQV": "6.17",
    "iommu_viommu_tegra241_cmdqv": "6.17",
    "iommu_viommu_alloc.data_len": "6.17",
    "iommu_viommu_alloc.__reserved": "6.17",
    "iommu_viommu_alloc.data_uptr": "6.17",
    "IOMMU_VEVENTQ_TYPE_TEGRA241_CMDQV": "6.17",
    "iommu_vevent_tegra241_cmdqv": "6.17",
    "IOMMU_HW_QUEUE_TYPE_DEFAULT": "6.17",
    "IOMMU_HW_QUEUE_TYPE_TEGRA241_CMDQV": "6.17",
    "iommu_hw_queue_alloc": "6.17",
    "IOMMU_HW_QUEUE_ALLOC": "6.17",
    "iommu_hwpt_amd_guest": "7.0",
    "IOMMU_HWPT_DATA_AMD_GUEST": "7.0",
    "iommu_hw_info_amd": "7.0",
    "IOMMU_HW_INFO_TYPE_AMD": "7.0",
    "IOMMU_HW_CAP_PCI_ATS_NOT_SUPPORTED": "7.1",
    "IOMMUFD_CMD_IOAS_NOIOMMU_GET_PA": "7.3",
    "iommu_ioas_noiommu_get_pa": "7.3",
    "IOMMU_IOAS_NOIOMMU_GET_PA": "7.3",
    "IOMMU_HW_INFO_ARM_SMMUV3_ERRATA_REPEAT_TLBI_CFGI": "7.3",
}

CHANGED: Final = {"iommu_hw_info.__reserved": "6.15"}  # it was four bytes

# Names in NEWER that stable versions of older kernels got, too
BACKPORTED: Final = frozenset(
    {
        "IOMMU_HW_CAP_PCI_PASID_EXEC",
        "IOMMU_HW_CAP_PCI_PASID_PRIV",
        "iommu_hw_info.out_max_pasid_log2",
        "iommu_hw_info.__reserved",
    }
)
