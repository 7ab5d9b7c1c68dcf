"""
``linux/idxd.h``: descriptors and completion records of the DSA and IAX accelerators, as in Linux 6.12.

Structs are those of the newest header: fields that newer kernels added lie where older ones had reserved bytes.
``NEWER`` says which names came when.
"""

from __future__ import annotations

from collections.abc import MutableSequence
from enum import IntEnum
from typing import Annotated, Final

from pykernel.uapi.struct import ZERO, Bits, CType, Struct, anon_struct, anon_union, u8, u16, u32, u64

IDXD_SCMD_SOFTERR_MASK: Final = 0x80000000
IDXD_SCMD_SOFTERR_SHIFT: Final = 16

# Descriptor flags
IDXD_OP_FLAG_FENCE: Final = 0x0001
IDXD_OP_FLAG_BOF: Final = 0x0002
IDXD_OP_FLAG_CRAV: Final = 0x0004
IDXD_OP_FLAG_RCR: Final = 0x0008
IDXD_OP_FLAG_RCI: Final = 0x0010
IDXD_OP_FLAG_CRSTS: Final = 0x0020
IDXD_OP_FLAG_CR: Final = 0x0080
IDXD_OP_FLAG_CC: Final = 0x0100
IDXD_OP_FLAG_ADDR1_TCS: Final = 0x0200
IDXD_OP_FLAG_ADDR2_TCS: Final = 0x0400
IDXD_OP_FLAG_ADDR3_TCS: Final = 0x0800
IDXD_OP_FLAG_CR_TCS: Final = 0x1000
IDXD_OP_FLAG_STORD: Final = 0x2000
IDXD_OP_FLAG_DRDBK: Final = 0x4000
IDXD_OP_FLAG_DSTS: Final = 0x8000

# IAX only
IDXD_OP_FLAG_RD_SRC2_AECS: Final = 0x010000
IDXD_OP_FLAG_RD_SRC2_2ND: Final = 0x020000
IDXD_OP_FLAG_WR_SRC2_AECS_COMP: Final = 0x040000
IDXD_OP_FLAG_WR_SRC2_AECS_OVFL: Final = 0x080000
IDXD_OP_FLAG_SRC2_STS: Final = 0x100000
IDXD_OP_FLAG_CRC_RFC3720: Final = 0x200000


class idxd_scmd_stat(IntEnum):
    """The driver's own values of ``cmd_status``; values without bit 31 are the device's."""

    IDXD_SCMD_DEV_ENABLED = 0x80000010
    IDXD_SCMD_DEV_NOT_ENABLED = 0x80000020
    IDXD_SCMD_WQ_ENABLED = 0x80000021
    IDXD_SCMD_DEV_DMA_ERR = 0x80020000
    IDXD_SCMD_WQ_NO_GRP = 0x80030000
    IDXD_SCMD_WQ_NO_NAME = 0x80040000
    IDXD_SCMD_WQ_NO_SVM = 0x80050000
    IDXD_SCMD_WQ_NO_THRESH = 0x80060000
    IDXD_SCMD_WQ_PORTAL_ERR = 0x80070000
    IDXD_SCMD_WQ_RES_ALLOC_ERR = 0x80080000
    IDXD_SCMD_PERCPU_ERR = 0x80090000
    IDXD_SCMD_DMA_CHAN_ERR = 0x800A0000
    IDXD_SCMD_CDEV_ERR = 0x800B0000
    IDXD_SCMD_WQ_NO_SWQ_SUPPORT = 0x800C0000
    IDXD_SCMD_WQ_NONE_CONFIGURED = 0x800D0000
    IDXD_SCMD_WQ_NO_SIZE = 0x800E0000
    IDXD_SCMD_WQ_NO_PRIV = 0x800F0000
    IDXD_SCMD_WQ_IRQ_ERR = 0x80100000
    IDXD_SCMD_WQ_USER_NO_IOMMU = 0x80110000
    IDXD_SCMD_DEV_EVL_ERR = 0x80120000
    IDXD_SCMD_WQ_NO_DRV_NAME = 0x80200000


(
    IDXD_SCMD_DEV_ENABLED, IDXD_SCMD_DEV_NOT_ENABLED, IDXD_SCMD_WQ_ENABLED, IDXD_SCMD_DEV_DMA_ERR,
    IDXD_SCMD_WQ_NO_GRP, IDXD_SCMD_WQ_NO_NAME, IDXD_SCMD_WQ_NO_SVM, IDXD_SCMD_WQ_NO_THRESH,
    IDXD_SCMD_WQ_PORTAL_ERR, IDXD_SCMD_WQ_RES_ALLOC_ERR, IDXD_SCMD_PERCPU_ERR, IDXD_SCMD_DMA_CHAN_ERR,
    IDXD_SCMD_CDEV_ERR, IDXD_SCMD_WQ_NO_SWQ_SUPPORT, IDXD_SCMD_WQ_NONE_CONFIGURED, IDXD_SCMD_WQ_NO_SIZE,
    IDXD_SCMD_WQ_NO_PRIV, IDXD_SCMD_WQ_IRQ_ERR, IDXD_SCMD_WQ_USER_NO_IOMMU, IDXD_SCMD_DEV_EVL_ERR,
    IDXD_SCMD_WQ_NO_DRV_NAME,
) = idxd_scmd_stat  # fmt: skip


class dsa_opcode(IntEnum):
    """Operations of a DSA descriptor."""

    DSA_OPCODE_NOOP = 0x00
    DSA_OPCODE_BATCH = 0x01
    DSA_OPCODE_DRAIN = 0x02
    DSA_OPCODE_MEMMOVE = 0x03
    DSA_OPCODE_MEMFILL = 0x04
    DSA_OPCODE_COMPARE = 0x05
    DSA_OPCODE_COMPVAL = 0x06
    DSA_OPCODE_CR_DELTA = 0x07
    DSA_OPCODE_AP_DELTA = 0x08
    DSA_OPCODE_DUALCAST = 0x09
    DSA_OPCODE_TRANSL_FETCH = 0x0A
    DSA_OPCODE_CRCGEN = 0x10
    DSA_OPCODE_COPY_CRC = 0x11
    DSA_OPCODE_DIF_CHECK = 0x12
    DSA_OPCODE_DIF_INS = 0x13
    DSA_OPCODE_DIF_STRP = 0x14
    DSA_OPCODE_DIF_UPDT = 0x15
    DSA_OPCODE_DIX_GEN = 0x17
    DSA_OPCODE_CFLUSH = 0x20


(
    DSA_OPCODE_NOOP, DSA_OPCODE_BATCH, DSA_OPCODE_DRAIN, DSA_OPCODE_MEMMOVE, DSA_OPCODE_MEMFILL,
    DSA_OPCODE_COMPARE, DSA_OPCODE_COMPVAL, DSA_OPCODE_CR_DELTA, DSA_OPCODE_AP_DELTA, DSA_OPCODE_DUALCAST,
    DSA_OPCODE_TRANSL_FETCH, DSA_OPCODE_CRCGEN, DSA_OPCODE_COPY_CRC, DSA_OPCODE_DIF_CHECK, DSA_OPCODE_DIF_INS,
    DSA_OPCODE_DIF_STRP, DSA_OPCODE_DIF_UPDT, DSA_OPCODE_DIX_GEN, DSA_OPCODE_CFLUSH,
) = dsa_opcode  # fmt: skip


class iax_opcode(IntEnum):
    """Operations of an IAX (IAA) descriptor."""

    IAX_OPCODE_NOOP = 0x00
    IAX_OPCODE_DRAIN = 0x02
    IAX_OPCODE_MEMMOVE = 0x03
    IAX_OPCODE_DECOMPRESS = 0x42
    IAX_OPCODE_COMPRESS = 0x43
    IAX_OPCODE_CRC64 = 0x44
    IAX_OPCODE_ZERO_DECOMP_32 = 0x48
    IAX_OPCODE_ZERO_DECOMP_16 = 0x49
    IAX_OPCODE_ZERO_COMP_32 = 0x4C
    IAX_OPCODE_ZERO_COMP_16 = 0x4D
    IAX_OPCODE_SCAN = 0x50
    IAX_OPCODE_SET_MEMBER = 0x51
    IAX_OPCODE_EXTRACT = 0x52
    IAX_OPCODE_SELECT = 0x53
    IAX_OPCODE_RLE_BURST = 0x54
    IAX_OPCODE_FIND_UNIQUE = 0x55
    IAX_OPCODE_EXPAND = 0x56


(
    IAX_OPCODE_NOOP, IAX_OPCODE_DRAIN, IAX_OPCODE_MEMMOVE, IAX_OPCODE_DECOMPRESS, IAX_OPCODE_COMPRESS,
    IAX_OPCODE_CRC64, IAX_OPCODE_ZERO_DECOMP_32, IAX_OPCODE_ZERO_DECOMP_16, IAX_OPCODE_ZERO_COMP_32,
    IAX_OPCODE_ZERO_COMP_16, IAX_OPCODE_SCAN, IAX_OPCODE_SET_MEMBER, IAX_OPCODE_EXTRACT, IAX_OPCODE_SELECT,
    IAX_OPCODE_RLE_BURST, IAX_OPCODE_FIND_UNIQUE, IAX_OPCODE_EXPAND,
) = iax_opcode  # fmt: skip


class dsa_completion_status(IntEnum):
    """``dsa_completion_record.status``, bits 6:0."""

    DSA_COMP_NONE = 0x00
    DSA_COMP_SUCCESS = 0x01
    DSA_COMP_SUCCESS_PRED = 0x02
    DSA_COMP_PAGE_FAULT_NOBOF = 0x03
    DSA_COMP_PAGE_FAULT_IR = 0x04
    DSA_COMP_BATCH_FAIL = 0x05
    DSA_COMP_BATCH_PAGE_FAULT = 0x06
    DSA_COMP_DR_OFFSET_NOINC = 0x07
    DSA_COMP_DR_OFFSET_ERANGE = 0x08
    DSA_COMP_DIF_ERR = 0x09
    DSA_COMP_BAD_OPCODE = 0x10
    DSA_COMP_INVALID_FLAGS = 0x11
    DSA_COMP_NOZERO_RESERVE = 0x12
    DSA_COMP_XFER_ERANGE = 0x13
    DSA_COMP_DESC_CNT_ERANGE = 0x14
    DSA_COMP_DR_ERANGE = 0x15
    DSA_COMP_OVERLAP_BUFFERS = 0x16
    DSA_COMP_DCAST_ERR = 0x17
    DSA_COMP_DESCLIST_ALIGN = 0x18
    DSA_COMP_INT_HANDLE_INVAL = 0x19
    DSA_COMP_CRA_XLAT = 0x1A
    DSA_COMP_CRA_ALIGN = 0x1B
    DSA_COMP_ADDR_ALIGN = 0x1C
    DSA_COMP_PRIV_BAD = 0x1D
    DSA_COMP_TRAFFIC_CLASS_CONF = 0x1E
    DSA_COMP_PFAULT_RDBA = 0x1F
    DSA_COMP_HW_ERR1 = 0x20
    DSA_COMP_HW_ERR_DRB = 0x21
    DSA_COMP_TRANSLATION_FAIL = 0x22
    DSA_COMP_DRAIN_EVL = 0x26
    DSA_COMP_BATCH_EVL_ERR = 0x27


(
    DSA_COMP_NONE, DSA_COMP_SUCCESS, DSA_COMP_SUCCESS_PRED, DSA_COMP_PAGE_FAULT_NOBOF, DSA_COMP_PAGE_FAULT_IR,
    DSA_COMP_BATCH_FAIL, DSA_COMP_BATCH_PAGE_FAULT, DSA_COMP_DR_OFFSET_NOINC, DSA_COMP_DR_OFFSET_ERANGE,
    DSA_COMP_DIF_ERR, DSA_COMP_BAD_OPCODE, DSA_COMP_INVALID_FLAGS, DSA_COMP_NOZERO_RESERVE,
    DSA_COMP_XFER_ERANGE, DSA_COMP_DESC_CNT_ERANGE, DSA_COMP_DR_ERANGE, DSA_COMP_OVERLAP_BUFFERS,
    DSA_COMP_DCAST_ERR, DSA_COMP_DESCLIST_ALIGN, DSA_COMP_INT_HANDLE_INVAL, DSA_COMP_CRA_XLAT,
    DSA_COMP_CRA_ALIGN, DSA_COMP_ADDR_ALIGN, DSA_COMP_PRIV_BAD, DSA_COMP_TRAFFIC_CLASS_CONF,
    DSA_COMP_PFAULT_RDBA, DSA_COMP_HW_ERR1, DSA_COMP_HW_ERR_DRB, DSA_COMP_TRANSLATION_FAIL, DSA_COMP_DRAIN_EVL,
    DSA_COMP_BATCH_EVL_ERR,
) = dsa_completion_status  # fmt: skip


class iax_completion_status(IntEnum):
    """``iax_completion_record.status``."""

    IAX_COMP_NONE = 0x00
    IAX_COMP_SUCCESS = 0x01
    IAX_COMP_PAGE_FAULT_IR = 0x04
    IAX_COMP_ANALYTICS_ERROR = 0x0A
    IAX_COMP_OUTBUF_OVERFLOW = 0x0B
    IAX_COMP_BAD_OPCODE = 0x10
    IAX_COMP_INVALID_FLAGS = 0x11
    IAX_COMP_NOZERO_RESERVE = 0x12
    IAX_COMP_INVALID_SIZE = 0x13
    IAX_COMP_OVERLAP_BUFFERS = 0x16
    IAX_COMP_INT_HANDLE_INVAL = 0x19
    IAX_COMP_CRA_XLAT = 0x1A
    IAX_COMP_CRA_ALIGN = 0x1B
    IAX_COMP_ADDR_ALIGN = 0x1C
    IAX_COMP_PRIV_BAD = 0x1D
    IAX_COMP_TRAFFIC_CLASS_CONF = 0x1E
    IAX_COMP_PFAULT_RDBA = 0x1F
    IAX_COMP_HW_ERR1 = 0x20
    IAX_COMP_HW_ERR_DRB = 0x21
    IAX_COMP_TRANSLATION_FAIL = 0x22
    IAX_COMP_PRS_TIMEOUT = 0x23
    IAX_COMP_WATCHDOG = 0x24
    IAX_COMP_INVALID_COMP_FLAG = 0x30
    IAX_COMP_INVALID_FILTER_FLAG = 0x31
    IAX_COMP_INVALID_INPUT_SIZE = 0x32
    IAX_COMP_INVALID_NUM_ELEMS = 0x33
    IAX_COMP_INVALID_SRC1_WIDTH = 0x34
    IAX_COMP_INVALID_INVERT_OUT = 0x35


(
    IAX_COMP_NONE, IAX_COMP_SUCCESS, IAX_COMP_PAGE_FAULT_IR, IAX_COMP_ANALYTICS_ERROR, IAX_COMP_OUTBUF_OVERFLOW,
    IAX_COMP_BAD_OPCODE, IAX_COMP_INVALID_FLAGS, IAX_COMP_NOZERO_RESERVE, IAX_COMP_INVALID_SIZE,
    IAX_COMP_OVERLAP_BUFFERS, IAX_COMP_INT_HANDLE_INVAL, IAX_COMP_CRA_XLAT, IAX_COMP_CRA_ALIGN,
    IAX_COMP_ADDR_ALIGN, IAX_COMP_PRIV_BAD, IAX_COMP_TRAFFIC_CLASS_CONF, IAX_COMP_PFAULT_RDBA, IAX_COMP_HW_ERR1,
    IAX_COMP_HW_ERR_DRB, IAX_COMP_TRANSLATION_FAIL, IAX_COMP_PRS_TIMEOUT, IAX_COMP_WATCHDOG,
    IAX_COMP_INVALID_COMP_FLAG, IAX_COMP_INVALID_FILTER_FLAG, IAX_COMP_INVALID_INPUT_SIZE,
    IAX_COMP_INVALID_NUM_ELEMS, IAX_COMP_INVALID_SRC1_WIDTH, IAX_COMP_INVALID_INVERT_OUT,
) = iax_completion_status  # fmt: skip

DSA_COMP_STATUS_MASK: Final = 0x7F
DSA_COMP_STATUS_WRITE: Final = 0x80


def DSA_COMP_STATUS(status: int) -> int:
    """The status without the bit that says that the faulting access was a write."""
    return status & DSA_COMP_STATUS_MASK


class dsa_hw_desc(Struct, packed=True):
    """``struct dsa_hw_desc``: 64 bytes, what MOVDIR64B and ENQCMD write to a portal."""

    pasid: Annotated[u32, Bits(20)] = 0
    rsvd: Annotated[u32, Bits(11)] = 0
    priv: Annotated[u32, Bits(1)] = 0
    flags: Annotated[u32, Bits(24)] = 0
    opcode: Annotated[u32, Bits(8)] = 0
    completion_addr: u64 = 0
    _src = anon_union(until="desc_list_addr")
    src_addr: u64 = 0
    rdback_addr: u64 = 0
    pattern: u64 = 0
    pattern_lower: u64 = 0
    transl_fetch_addr: u64 = 0
    desc_list_addr: u64 = 0
    _dst = anon_union(until="comp_pattern")
    dst_addr: u64 = 0
    rdback_addr2: u64 = 0
    src2_addr: u64 = 0
    comp_pattern: u64 = 0
    _xfer = anon_union(until="region_size")
    xfer_size: u32 = 0
    desc_count: u32 = 0
    region_size: u32 = 0
    int_handle: u16 = 0
    rsvd1: u16 = 0
    _op = anon_union(until="op_specific")
    expected_res: u8 = 0
    _create_delta = anon_struct(until="expected_res_mask")
    delta_addr: u64 = 0
    max_delta_size: u32 = 0
    delt_rsvd: u32 = 0
    expected_res_mask: u8 = 0
    delta_rec_size: u32 = 0
    dest2: u64 = 0
    _crc = anon_struct(until="seed_addr")
    crc_seed: u32 = 0
    crc_rsvd: u32 = 0
    seed_addr: u64 = 0
    _dif_check_or_strip = anon_struct(until="chk_app_tag_seed")
    src_dif_flags: u8 = 0
    dif_chk_res: u8 = 0
    dif_chk_flags: u8 = 0
    dif_chk_res2: Annotated[bytes, u8, 5] = b""
    chk_ref_tag_seed: u32 = 0
    chk_app_tag_mask: u16 = 0
    chk_app_tag_seed: u16 = 0
    _dif_insert = anon_struct(until="ins_app_tag_seed")
    dif_ins_res: u8 = 0
    dest_dif_flag: u8 = 0
    dif_ins_flags: u8 = 0
    dif_ins_res2: Annotated[bytes, u8, 13] = b""
    ins_ref_tag_seed: u32 = 0
    ins_app_tag_mask: u16 = 0
    ins_app_tag_seed: u16 = 0
    _dif_update = anon_struct(until="dest_app_tag_seed")
    src_upd_flags: u8 = 0
    upd_dest_flags: u8 = 0
    dif_upd_flags: u8 = 0
    dif_upd_res: Annotated[bytes, u8, 5] = b""
    src_ref_tag_seed: u32 = 0
    src_app_tag_mask: u16 = 0
    src_app_tag_seed: u16 = 0
    dest_ref_tag_seed: u32 = 0
    dest_app_tag_mask: u16 = 0
    dest_app_tag_seed: u16 = 0
    pattern_upper: u64 = 0
    _translation_fetch = anon_struct(until="region_stride")
    transl_fetch_res: u64 = 0
    region_stride: u32 = 0
    _dix_generate = anon_struct(until="app_tag_seed")
    dix_gen_res: u8 = 0
    dest_dif_flags: u8 = 0
    dif_flags: u8 = 0
    dix_gen_res2: Annotated[bytes, u8, 13] = b""
    ref_tag_seed: u32 = 0
    app_tag_mask: u16 = 0
    app_tag_seed: u16 = 0
    op_specific: Annotated[bytes, u8, 24] = b""


class iax_hw_desc(Struct, packed=True):
    """``struct iax_hw_desc``: 64 bytes."""

    pasid: Annotated[u32, Bits(20)] = 0
    rsvd: Annotated[u32, Bits(11)] = 0
    priv: Annotated[u32, Bits(1)] = 0
    flags: Annotated[u32, Bits(24)] = 0
    opcode: Annotated[u32, Bits(8)] = 0
    completion_addr: u64 = 0
    src1_addr: u64 = 0
    dst_addr: u64 = 0
    src1_size: u32 = 0
    int_handle: u16 = 0
    _compr = anon_union(until="decompr_flags")
    compr_flags: u16 = 0
    decompr_flags: u16 = 0
    src2_addr: u64 = 0
    max_dst_size: u32 = 0
    src2_size: u32 = 0
    filter_flags: u32 = 0
    num_inputs: u32 = 0


class dsa_raw_desc(Struct, packed=True):
    """``struct dsa_raw_desc``: a descriptor as eight words."""

    field: Annotated[MutableSequence[int], u64, 8] = ZERO


class dsa_completion_record(Struct, packed=True):
    """``struct dsa_completion_record``: 32 bytes; the device writes ``status`` last."""

    status: Annotated[u8, CType("volatile __u8")] = 0
    _result = anon_union(until="dif_status")
    result: u8 = 0
    dif_status: u8 = 0
    fault_info: u8 = 0
    rsvd: u8 = 0
    _completed = anon_union(until="descs_completed")
    bytes_completed: u32 = 0
    descs_completed: u32 = 0
    fault_addr: u64 = 0
    _op = anon_union(until="op_specific")
    _common = anon_struct(until="rsvd2")
    invalid_flags: Annotated[u32, Bits(24)] = 0
    rsvd2: Annotated[u32, Bits(8)] = 0
    delta_rec_size: u32 = 0
    crc_val: u64 = 0
    _dif_check_or_strip = anon_struct(until="dif_chk_app_tag")
    dif_chk_ref_tag: u32 = 0
    dif_chk_app_tag_mask: u16 = 0
    dif_chk_app_tag: u16 = 0
    _dif_insert = anon_struct(until="dif_ins_app_tag")
    dif_ins_res: u64 = 0
    dif_ins_ref_tag: u32 = 0
    dif_ins_app_tag_mask: u16 = 0
    dif_ins_app_tag: u16 = 0
    _dif_update = anon_struct(until="dif_upd_dest_app_tag")
    dif_upd_src_ref_tag: u32 = 0
    dif_upd_src_app_tag_mask: u16 = 0
    dif_upd_src_app_tag: u16 = 0
    dif_upd_dest_ref_tag: u32 = 0
    dif_upd_dest_app_tag_mask: u16 = 0
    dif_upd_dest_app_tag: u16 = 0
    _dix_generate = anon_struct(until="dix_app_tag")
    dix_gen_res: u64 = 0
    dix_ref_tag: u32 = 0
    dix_app_tag_mask: u16 = 0
    dix_app_tag: u16 = 0
    op_specific: Annotated[bytes, u8, 16] = b""


class dsa_raw_completion_record(Struct, packed=True):
    """``struct dsa_raw_completion_record``: a completion record as four words."""

    field: Annotated[MutableSequence[int], u64, 4] = ZERO


class iax_completion_record(Struct, packed=True):
    """``struct iax_completion_record``: 64 bytes."""

    status: Annotated[u8, CType("volatile __u8")] = 0
    error_code: u8 = 0
    fault_info: u8 = 0
    rsvd: u8 = 0
    bytes_completed: u32 = 0
    fault_addr: u64 = 0
    invalid_flags: u32 = 0
    rsvd2: u32 = 0
    output_size: u32 = 0
    output_bits: u8 = 0
    rsvd3: u8 = 0
    xor_csum: u16 = 0
    crc: u32 = 0
    min: u32 = 0
    max: u32 = 0
    sum: u32 = 0
    rsvd4: Annotated[MutableSequence[int], u64, 2] = ZERO


class iax_raw_completion_record(Struct, packed=True):
    """``struct iax_raw_completion_record``: a completion record as eight words."""

    field: Annotated[MutableSequence[int], u64, 8] = ZERO


# Since which kernel a name is in the header, or means what it means there now; older than 5.0 is not told
NEWER: Final = {
    name: kernel
    for kernel, names in {
        "5.7": "dsa_hw_desc.desc_list_addr dsa_hw_desc.desc_count",
        "5.8": "dsa_hw_desc.delt_rsvd dsa_hw_desc.expected_res_mask",
        "5.9": "dsa_completion_record.invalid_flags dsa_completion_record.rsvd2",
        "5.11": """
            iax_completion_record.rsvd5
            IDXD_OP_FLAG_RD_SRC2_AECS IAX_OPCODE_NOOP IAX_OPCODE_DRAIN IAX_OPCODE_MEMMOVE IAX_OPCODE_DECOMPRESS
            IAX_OPCODE_COMPRESS IAX_COMP_NONE IAX_COMP_SUCCESS IAX_COMP_PAGE_FAULT_IR IAX_COMP_BAD_OPCODE
            IAX_COMP_INVALID_FLAGS IAX_COMP_NOZERO_RESERVE IAX_COMP_INVALID_SIZE IAX_COMP_OVERLAP_BUFFERS
            IAX_COMP_INT_HANDLE_INVAL IAX_COMP_CRA_XLAT IAX_COMP_CRA_ALIGN IAX_COMP_ADDR_ALIGN IAX_COMP_PRIV_BAD
            IAX_COMP_TRAFFIC_CLASS_CONF IAX_COMP_PFAULT_RDBA IAX_COMP_HW_ERR1 IAX_COMP_HW_ERR_DRB
            IAX_COMP_TRANSLATION_FAIL IAX_COMP_PRS_TIMEOUT IAX_COMP_WATCHDOG IAX_COMP_INVALID_COMP_FLAG
            IAX_COMP_INVALID_FILTER_FLAG IAX_COMP_INVALID_NUM_ELEMS iax_hw_desc iax_completion_record
            iax_raw_completion_record
        """,
        "5.12": "dsa_completion_record.delta_rec_size",
        "5.15": """
            IDXD_SCMD_SOFTERR_MASK IDXD_SCMD_SOFTERR_SHIFT IDXD_SCMD_DEV_ENABLED IDXD_SCMD_DEV_NOT_ENABLED
            IDXD_SCMD_WQ_ENABLED IDXD_SCMD_DEV_DMA_ERR IDXD_SCMD_WQ_NO_GRP IDXD_SCMD_WQ_NO_NAME IDXD_SCMD_WQ_NO_SVM
            IDXD_SCMD_WQ_NO_THRESH IDXD_SCMD_WQ_PORTAL_ERR IDXD_SCMD_WQ_RES_ALLOC_ERR IDXD_SCMD_PERCPU_ERR
            IDXD_SCMD_DMA_CHAN_ERR IDXD_SCMD_CDEV_ERR IDXD_SCMD_WQ_NO_SWQ_SUPPORT IDXD_SCMD_WQ_NONE_CONFIGURED
            IDXD_SCMD_WQ_NO_SIZE IDXD_SCMD_WQ_NO_PRIV
        """,
        "5.17": "IDXD_SCMD_WQ_IRQ_ERR",
        "5.19": """
            IAX_OPCODE_DECOMP_32 IAX_OPCODE_DECOMP_16 IAX_OPCDE_FIND_UNIQUE
            IDXD_OP_FLAG_RD_SRC2_2ND IDXD_OP_FLAG_WR_SRC2_AECS_COMP IDXD_OP_FLAG_WR_SRC2_AECS_OVFL
            IDXD_OP_FLAG_SRC2_STS IDXD_OP_FLAG_CRC_RFC3720 IAX_OPCODE_CRC64 IAX_OPCODE_ZERO_DECOMP_32
            IAX_OPCODE_ZERO_DECOMP_16 IAX_OPCODE_SCAN IAX_OPCODE_SET_MEMBER IAX_OPCODE_EXTRACT IAX_OPCODE_SELECT
            IAX_OPCODE_RLE_BURST IAX_OPCODE_EXPAND IAX_COMP_ANALYTICS_ERROR IAX_COMP_OUTBUF_OVERFLOW
            IAX_COMP_INVALID_INPUT_SIZE IAX_COMP_INVALID_SRC1_WIDTH IAX_COMP_INVALID_INVERT_OUT
            iax_completion_record.xor_csum iax_completion_record.crc iax_completion_record.min
            iax_completion_record.max iax_completion_record.sum iax_completion_record.rsvd4
        """,
        "6.0": "IAX_OPCODE_ZERO_COMP_32 IAX_OPCODE_ZERO_COMP_16 IAX_OPCODE_FIND_UNIQUE",
        "6.1": "IDXD_SCMD_WQ_USER_NO_IOMMU",
        "6.2": "dsa_completion_record.crc_val",
        "6.4": """
            IDXD_SCMD_DEV_EVL_ERR DSA_OPCODE_TRANSL_FETCH DSA_OPCODE_DIX_GEN DSA_COMP_DRAIN_EVL
            DSA_COMP_BATCH_EVL_ERR DSA_COMP_STATUS dsa_hw_desc.pattern_lower dsa_hw_desc.transl_fetch_addr
            dsa_hw_desc.region_size dsa_hw_desc.pattern_upper dsa_hw_desc.transl_fetch_res dsa_hw_desc.region_stride
            dsa_hw_desc.dix_gen_res dsa_hw_desc.dest_dif_flags dsa_hw_desc.dif_flags dsa_hw_desc.dix_gen_res2
            dsa_hw_desc.ref_tag_seed dsa_hw_desc.app_tag_mask dsa_hw_desc.app_tag_seed
            dsa_completion_record.fault_info dsa_completion_record.descs_completed
            dsa_completion_record.dix_gen_res dsa_completion_record.dix_ref_tag
            dsa_completion_record.dix_app_tag_mask dsa_completion_record.dix_app_tag
            iax_completion_record.fault_info
        """,
        "6.7": "IDXD_SCMD_WQ_NO_DRV_NAME",
    }.items()
    for name in names.split()
}

# Two bytes at the place of fault_info before
CHANGED: Final = {"dsa_completion_record.rsvd": "6.4", "iax_completion_record.rsvd": "6.4"}

# Until which kernel a name was there
OLDER: Final = {
    "dsa_batch_desc": "5.6",
    "iax_completion_record.rsvd5": "5.18",
    "IAX_OPCODE_DECOMP_32": "5.19",
    "IAX_OPCODE_DECOMP_16": "5.19",
    "IAX_OPCDE_FIND_UNIQUE": "5.19",
}

# Names in NEWER that stable versions of older kernels got, too
BACKPORTED: Final = frozenset(
    {
        "dsa_completion_record.delta_rec_size",
        "dsa_completion_record.crc_val",
    }
)

# Structs that never grew: members that came later took the place of reserved bytes
SAME_SIZE: Final = frozenset({"dsa_hw_desc", "dsa_completion_record", "iax_completion_record"})
