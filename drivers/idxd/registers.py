"""
The registers of a DSA or IAX function as the driver sees them (drivers/dma/idxd/registers.h).

Offsets are bytes from the start of BAR 0. The silicon has its own idea of the same registers; the two meet only there.
"""

from __future__ import annotations

from enum import IntEnum

from pykernel.lib.regmap import Reg, bit, bits

DEVICE_VERSION_1 = 0x100
DEVICE_VERSION_2 = 0x200
DEVICE_VERSION_3 = 0x300

IDXD_MMIO_BAR = 0
IDXD_WQ_BAR = 2
IDXD_PORTAL_SIZE = 4096

IDXD_VER_OFFSET = 0x00
IDXD_GENCAP_OFFSET = 0x10
IDXD_WQCAP_OFFSET = 0x20
IDXD_GRPCAP_OFFSET = 0x30
IDXD_ENGCAP_OFFSET = 0x38
IDXD_OPCAP_OFFSET = 0x40
IDXD_TABLE_OFFSET = 0x60
IDXD_GENCFG_OFFSET = 0x80
IDXD_GENCTRL_OFFSET = 0x88
IDXD_GENSTATS_OFFSET = 0x90
IDXD_INTCAUSE_OFFSET = 0x98
IDXD_CMD_OFFSET = 0xA0
IDXD_CMDSTS_OFFSET = 0xA8
IDXD_CMDCAP_OFFSET = 0xB0
IDXD_SWERR_OFFSET = 0xC0
IDXD_EVLCFG_OFFSET = 0xE0
IDXD_EVLSTATUS_OFFSET = 0xF0
IDXD_IAACAP_OFFSET = 0x180
IDXD_DSACAP0_OFFSET = 0x180
IDXD_DSACAP1_OFFSET = 0x188
IDXD_DSACAP2_OFFSET = 0x190

IDXD_TABLE_MULT = 0x100
IDXD_WQCFG_MIN = 5
IDXD_MAX_OPCAP_BITS = 256
IDXD_EVL_SIZE_MIN = 0x40
IDXD_EVL_SIZE_MAX = 0xFFFF
IDXD_MAX_BATCH_IDENT = 256

GRPCFG_SIZE = 64
GRPWQCFG_STRIDES = 4
MSIX_PERM_SIZE = 8

WQCFG_PASID_IDX = 2
WQCFG_PRIVL_IDX = 2
WQCFG_OCCUP_IDX = 6
WQCFG_OPCFG_IDX = 8
WQCFG_OCCUP_MASK = 0xFFFF

IDXD_OPCAP_MEMMOVE = 0x0008

# IDXD_INTC_*: bits of INTCAUSE
IDXD_INTC_ERR = 0x01
IDXD_INTC_CMD = 0x02
IDXD_INTC_OCCUPY = 0x04
IDXD_INTC_PERFMON_OVFL = 0x08
IDXD_INTC_HALT_STATE = 0x10
IDXD_INTC_EVL = 0x20
IDXD_INTC_INT_HANDLE_REVOKED = 0x80000000

MSIX_PERM_PASID_EN = 0x8

CMD_INT_HANDLE_IMS = 0x10000
IDXD_CMDSTS_ACTIVE = 0x80000000
IDXD_CMDSTS_ERR_MASK = 0xFF
IDXD_CMDSTS_RES_SHIFT = 8

IDXD_SWERR_VALID = 0x1
IDXD_SWERR_OVERFLOW = 0x2
IDXD_SWERR_ACK = IDXD_SWERR_VALID | IDXD_SWERR_OVERFLOW

# Performance monitor, from its own table offset
IDXD_PERFCAP_OFFSET = 0x0
IDXD_PERFRST_OFFSET = 0x10
IDXD_PERFRST_PERFRST_CONFIG = 0x1
IDXD_PERFRST_PERFRST_COUNTER = 0x2


class DeviceState(IntEnum):
    """``enum idxd_device_status_state``: GENSTS bits 1:0."""

    DISABLED = 0
    ENABLED = 1
    DRAIN = 2
    HALT = 3


class ResetType(IntEnum):
    """``enum idxd_device_reset_type``: what a halted device needs, GENSTS bits 3:2."""

    SOFTWARE = 0
    FLR = 1
    WARM = 2
    COLD = 3


class Cmd(IntEnum):
    """``enum idxd_cmd``: commands of the CMD register."""

    ENABLE_DEVICE = 1
    DISABLE_DEVICE = 2
    DRAIN_ALL = 3
    ABORT_ALL = 4
    RESET_DEVICE = 5
    ENABLE_WQ = 6
    DISABLE_WQ = 7
    DRAIN_WQ = 8
    ABORT_WQ = 9
    RESET_WQ = 10
    DRAIN_PASID = 11
    ABORT_PASID = 12
    REQUEST_INT_HANDLE = 13
    RELEASE_INT_HANDLE = 14


class CmdSts(IntEnum):
    """``enum idxd_cmdsts_err``: the values that the driver itself compares with."""

    SUCCESS = 0
    HW_ERR = 0x03
    ERR_DEV_ENABLED = 0x10
    ERR_WQ_ENABLED = 0x21
    ERR_DIS_DEV_EN = 0x31


class GenCap(Reg):
    """``union gen_cap_reg``, 64 bits."""

    block_on_fault = bit(0)
    cmd_cap = bit(4)
    evl_support = bits(14, 13)
    max_xfer_shift = bits(20, 16)
    max_batch_shift = bits(24, 21)
    max_ims_mult = bits(30, 25)
    config_en = bit(31)


class WqCap(Reg):
    """``union wq_cap_reg``, 64 bits."""

    total_wq_size = bits(15, 0)
    num_wqs = bits(23, 16)
    wqcfg_size = bits(27, 24)
    shared_mode = bit(48)
    dedicated_mode = bit(49)
    wq_ats_support = bit(50)
    priority = bit(51)
    occupancy = bit(52)
    occupancy_int = bit(53)
    op_config = bit(54)
    wq_prs_support = bit(55)


class GroupCap(Reg):
    """``union group_cap_reg``, 64 bits."""

    num_groups = bits(7, 0)
    total_rdbufs = bits(15, 8)
    rdbuf_ctrl = bit(16)
    rdbuf_limit = bit(17)
    progress_limit = bit(18)


class GenCfg(Reg):
    """``union gencfg_reg``, 32 bits."""

    rdbuf_limit = bits(7, 0)
    user_int_en = bit(12)
    evl_en = bit(13)


class GenCtrl(Reg):
    """``union genctrl_reg``, 32 bits."""

    softerr_int_en = bit(0)
    halt_int_en = bit(1)
    evl_int_en = bit(2)


class GenSts(Reg):
    """``union gensts_reg``, 32 bits."""

    state = bits(1, 0)
    reset_type = bits(3, 2)


class Command(Reg):
    """``union idxd_command_reg``, 32 bits."""

    operand = bits(19, 0)
    cmd = bits(24, 20)
    int_req = bit(31)


class SwErr0(Reg):
    """First quadword of ``union sw_err_reg``."""

    valid = bit(0)
    overflow = bit(1)
    wq_idx_valid = bit(3)
    wq_idx = bits(23, 16)


class MsixPerm(Reg):
    """``union msix_perm``, 32 bits."""

    pasid_en = bit(3)
    pasid = bits(31, 12)


class GroupFlags(Reg):
    """``union group_flags``, 64 bits."""

    tc_a = bits(2, 0)
    tc_b = bits(5, 3)
    use_rdbuf_limit = bit(7)
    rdbufs_reserved = bits(15, 8)
    rdbufs_allowed = bits(27, 20)
    desc_progress_limit = bits(33, 32)
    batch_progress_limit = bits(37, 36)


class EvlStatus(Reg):
    """``union evl_status_reg``, 64 bits."""

    head = bits(15, 0)
    tail = bits(47, 32)
    int_pending = bit(62)


class EvlEntry0(Reg):
    """First quadword of ``struct __evl_entry``."""

    batch = bit(4)
    error = bits(15, 8)
    wq_idx = bits(23, 16)
    batch_id = bits(31, 24)
    operation = bits(39, 32)
    pasid = bits(59, 40)


class EvlEntry1(Reg):
    """Second quadword of ``struct __evl_entry``."""

    rci = bit(48)
    rcr = bit(50)
    first_err_in_batch = bit(51)


class PerfCap(Reg):
    """``union idxd_perfcap``, 64 bits."""

    num_perf_counter = bits(5, 0)
    counter_width = bits(15, 8)
    num_event_category = bits(19, 16)
    cap_per_counter = bit(52)
    counter_freeze = bit(54)
    overflow_interrupt = bit(55)


class Dword:
    """A bit field of one dword of a table held as a list of dwords."""

    def __init__(self, index: int, high: int, low: int | None = None) -> None:
        self.index = index
        self.low = high if low is None else low
        self.mask = ((1 << (high - self.low + 1)) - 1) << self.low

    def __get__(self, obj: WqCfg, owner: type[WqCfg]) -> int:
        return (obj.bits[self.index] & self.mask) >> self.low

    def __set__(self, obj: WqCfg, value: int) -> None:
        obj.bits[self.index] = obj.bits[self.index] & ~self.mask | value << self.low & self.mask


class WqCfg:
    """``union wqcfg``: the shadow of one work queue's configuration, as ``bits[]`` dwords."""

    wq_size = Dword(0, 15, 0)
    wq_thresh = Dword(1, 15, 0)
    mode = Dword(2, 0)
    bof = Dword(2, 1)
    wq_ats_disable = Dword(2, 2)
    wq_prs_disable = Dword(2, 3)
    priority = Dword(2, 7, 4)
    pasid = Dword(2, 27, 8)
    pasid_en = Dword(2, 28)
    priv = Dword(2, 29)
    max_xfer_shift = Dword(3, 4, 0)
    max_batch_shift = Dword(3, 8, 5)

    def __init__(self, size: int) -> None:
        self.bits = [0] * (size // 4)

    def clear(self) -> None:
        """C: ``memset(wq->wqcfg, 0, idxd->wqcfg_size)``."""
        self.bits = [0] * len(self.bits)
