"""
BAR0 of a Data Streaming Accelerator: every register, its fields and what the bus may do to them.

Names and layouts are those of ``drivers/dma/idxd/registers.h``; which writes are dropped when follows what the real
driver was seen to accept. ``DsaRegs`` only stores; what a write sets off is told to its ``DsaOwner``.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag
from typing import Protocol

from pykernel.hw.dsa.params import DsaParams
from pykernel.lib.regmap import At, Bits, Reg, RegMap, Table, bit, bits

__all__ = [
    "GRPCFG", "IMS", "MSIX_PBA", "MSIX_PERM", "MSIX_TABLE", "PERFMON", "WQCFG",
    "Cmd", "DeviceState", "DsaOwner", "DsaRegs", "GrpCfg", "IntCause", "MsixPerm", "ResetType", "Swerr",
    "WqCfg", "WqCfgWithOps", "WqState",
]  # fmt: skip

MSIX_PERM, GRPCFG, WQCFG, PERFMON = 0x200, 0x300, 0x400, 0x1000
MSIX_TABLE, MSIX_PBA = 0x2000, 0x3000
IMS = 0x8000
CAPABILITIES = (
    "version", "gencap", "wqcap", "grpcap", "engcap", "opcap", "cmdcap", "iaacap", "dsacap1", "dsacap2",
)  # fmt: skip


class DeviceState(IntEnum):
    """GENSTS bits 0-1."""

    DISABLED = 0
    ENABLED = 1
    DRAIN = 2
    HALT = 3


class ResetType(IntEnum):
    """GENSTS bits 2-3: what gets a halted device going again."""

    SOFTWARE = 0
    FLR = 1
    WARM = 2
    COLD = 3


class WqState(IntEnum):
    """WQCFG dword 6, bits 30-31."""

    DISABLED = 0
    ENABLED = 1
    BUSY = 2
    RESERVED = 3


class IntCause(IntFlag):
    """INTCAUSE."""

    ERR = 0x01
    CMD = 0x02
    OCCUPANCY = 0x04
    PERFMON_OVERFLOW = 0x08
    HALT = 0x10
    EVENT_LOG = 0x20
    INT_HANDLE_REVOKED = 0x80000000


class Tables(Reg):
    """TABLE OFFSETS: where in BAR0 the tables are, in units of 0x100."""

    grpcfg, wqcfg, msix_perm, ims, perfmon = bits(15, 0), bits(31, 16), bits(47, 32), bits(63, 48), bits(79, 64)


class Gencfg(Reg):
    """GENCFG."""

    global_read_buffer_limit, user_int_en, evl_en = bits(7, 0), bit(12), bit(13)


class Genctrl(Reg):
    """GENCTRL."""

    softerr_int_en, halt_int_en, evl_int_en = bit(0), bit(1), bit(2)


class Gensts(Reg):
    """GENSTS."""

    state = Bits(1, 0, DeviceState)
    reset_type = Bits(3, 2, ResetType)


class Intcause(Reg):
    """INTCAUSE."""

    causes = bits(31, 0, "w1c")


class Cmd(Reg):
    """CMD: a write starts a command."""

    operand, cmd, int_req = bits(19, 0), bits(24, 20), bit(31)


class Cmdsts(Reg):
    """CMDSTS."""

    err, result, active = bits(7, 0), bits(23, 8), bit(31)


class Swerr(Reg):
    """SWERR: the first software error that nobody acknowledged yet."""

    valid, overflow = bit(0, "w1c"), bit(1, "w1c")
    desc_valid, wq_idx_valid, batch, fault_rw, priv = (bit(n, "ro") for n in range(2, 7))
    error, wq_idx, operation, pasid = bits(15, 8, "ro"), bits(23, 16, "ro"), bits(39, 32, "ro"), bits(59, 40, "ro")
    batch_idx, invalid_flags, fault_addr = bits(79, 64, "ro"), bits(127, 96, "ro"), bits(191, 128, "ro")


class Evlcfg(Reg):
    """EVLCFG."""

    pasid_en, priv, base, size, pasid = bit(0), bit(1), bits(63, 12), bits(79, 64), bits(99, 80)


class Evlstatus(Reg):
    """EVLSTATUS: software moves the head, the device the tail."""

    head, tail, int_pending = bits(15, 0), bits(47, 32, "ro"), bit(62, "w1c")


class MsixPermEntry(Reg):
    """MSIX_PERM: who may name the vector as an interrupt handle."""

    ignore, pasid_en, pasid = bit(2), bit(3), bits(31, 12)


class Bitmap(Reg):
    """A set of indices, one a bit."""

    map = bits(255, 0)

    def members(self) -> list[int]:
        """The indices in the set, ascending."""
        return [n for n in range(self.bits.bit_length()) if self.bits >> n & 1]


class EngineMap(Bitmap):
    """64 engines of a group."""

    map = bits(63, 0)


class GrpFlags(Reg):
    """GRPCFG + 40."""

    tc_a, tc_b, use_read_buffer_limit = bits(2, 0), bits(5, 3), bit(7)
    read_buffers_reserved, read_buffers_allowed = bits(15, 8), bits(27, 20)
    desc_progress_limit, batch_progress_limit = bits(33, 32), bits(37, 36)


class WqSize(Reg):
    """WQCFG dword 0."""

    size = bits(15, 0)


class WqThreshold(Reg):
    """WQCFG dword 1."""

    threshold = bits(15, 0)


class WqFlags(Reg):
    """WQCFG dword 2."""

    dedicated, bof, ats_disable, prs_disable, priority = bit(0), bit(1), bit(2), bit(3), bits(7, 4)
    pasid, pasid_en, priv = bits(27, 8), bit(28), bit(29)


class WqLimits(Reg):
    """WQCFG dword 3."""

    max_xfer_shift, max_batch_shift = bits(4, 0), bits(8, 5)


class WqOccupancyInt(Reg):
    """WQCFG dword 4."""

    handle, table = bits(15, 0), bit(16)


class WqOccupancyLimit(Reg):
    """WQCFG dword 5."""

    limit, int_en = bits(15, 0), bit(16)


class WqStatus(Reg):
    """WQCFG dword 6."""

    occupancy, occupancy_int, mode_support = bits(15, 0, "ro"), bit(16, "w1c"), bit(29, "ro")
    state = Bits(31, 30, WqState, "ro")


class DsaOwner(Protocol):
    """Who reacts to the registers."""

    params: DsaParams

    def cmd_written(self, cmd: Cmd) -> None:
        """CMD was written."""
        ...


class MsixPerm(RegMap):
    """One entry of MSIX_PERM."""

    perm = At(0, MsixPermEntry)


class GrpCfg(RegMap):
    """One entry of GRPCFG: writable while the device is disabled and configurable."""

    wqs = At(0, Bitmap, size=32)
    engines = At(32, EngineMap, size=8)
    flags = At(40, GrpFlags, size=8)

    def __init__(self, device: DsaRegs) -> None:
        self._device = device
        super().__init__()

    def _writable(self) -> bool:
        return self._device.configurable and self._device.gensts.state == DeviceState.DISABLED

    wqs_writable = engines_writable = flags_writable = _writable


class WqCfg(RegMap):
    """
    One entry of WQCFG.

    The size is writable while the device is disabled, the occupancy interrupt always, the rest while the WQ is
    disabled; on a part that is not configurable nothing is but the interrupt status.
    """

    size = At(0, WqSize)
    threshold = At(4, WqThreshold)
    flags = At(8, WqFlags)
    limits = At(12, WqLimits)
    occupancy_int = At(16, WqOccupancyInt)
    occupancy_limit = At(20, WqOccupancyLimit)
    status = At(24, WqStatus)

    def __init__(self, device: DsaRegs) -> None:
        self._device = device
        super().__init__()

    def size_writable(self) -> bool:
        """Neither the device nor the WQ is on."""
        return self._writable() and self._device.gensts.state == DeviceState.DISABLED

    def _writable(self) -> bool:
        return self._device.configurable and self.status.state == WqState.DISABLED

    def _configurable(self) -> bool:
        return self._device.configurable

    threshold_writable = flags_writable = limits_writable = _writable
    occupancy_int_writable = occupancy_limit_writable = _configurable

    def clear(self, *, keep_size: bool) -> None:
        """What Reset WQ does: the entry becomes zero, but for the size while the device is on."""
        for name, reg in self.regs.items():
            if name != "size" or not keep_size:
                reg.bits = 0


class WqCfgWithOps(WqCfg):
    """WQCFG of a part whose WQs can narrow their operations (WQCAP bit 54)."""

    ops = At(32, Bitmap, size=32)
    ops_writable = WqCfg._writable


class DsaRegs(RegMap):
    """The registers of BAR0 outside the MSI-X table."""

    version = At(0x00, Reg, "r")
    gencap = At(0x10, Reg, "r", size=8)
    wqcap = At(0x20, Reg, "r", size=8)
    grpcap = At(0x30, Reg, "r", size=8)
    engcap = At(0x38, Reg, "r", size=8)
    opcap = At(0x40, Bitmap, "r", size=32)
    tables = At(0x60, Tables, "r", size=16)
    gencfg = At(0x80, Gencfg)
    genctrl = At(0x88, Genctrl)
    gensts = At(0x90, Gensts, "r")
    intcause = At(0x98, Intcause)
    cmd = At(0xA0, Cmd, "w")
    cmdsts = At(0xA8, Cmdsts, "r")
    cmdcap = At(0xB0, Reg, "r")
    swerr = At(0xC0, Swerr, size=32)
    evlcfg = At(0xE0, Evlcfg, size=16)
    evlstatus = At(0xF0, Evlstatus, size=8)
    iaacap = At(0x180, Reg, "r", size=8)
    dsacap1 = At(0x188, Reg, "r", size=8)
    dsacap2 = At(0x190, Reg, "r", size=8)

    def __init__(self, owner: DsaOwner) -> None:
        super().__init__()
        self._owner = owner
        params = owner.params
        self.configurable = params.configurable
        for name in (
            "version",
            "gencap",
            "wqcap",
            "grpcap",
            "engcap",
            "opcap",
            "cmdcap",
            "iaacap",
            "dsacap1",
            "dsacap2",
        ):
            self.regs[name].bits = getattr(params, name)
        self.tables.grpcfg, self.tables.wqcfg = GRPCFG >> 8, WQCFG >> 8
        self.tables.msix_perm, self.tables.perfmon = MSIX_PERM >> 8, PERFMON >> 8
        self.tables.ims = IMS >> 8 if params.ims_entries else 0
        wqcfg = WqCfgWithOps if params.wqcfg_stride >= 64 else WqCfg
        self.msix_perm = Table(self, MSIX_PERM, 8, [MsixPerm() for _ in range(params.vectors)])
        self.grpcfg = Table(self, GRPCFG, 64, [GrpCfg(self) for _ in range(params.num_groups)])
        self.wqcfg: Table[WqCfg] = Table(self, WQCFG, params.wqcfg_stride, [wqcfg(self) for _ in range(params.num_wqs)])
        if not params.configurable:
            self._preconfigure(params)
        self.settle()

    def _preconfigure(self, params: DsaParams) -> None:
        """A part that cannot be configured: all WQs dedicated with 16 entries; WQ 0 and engine 0 in group 0."""
        for wq in self.wqcfg:
            wq.size.size, wq.flags.dedicated, wq.flags.priority = 16, 1, 5
            wq.limits.max_xfer_shift, wq.limits.max_batch_shift = 31, 10
        group = self.grpcfg[0]
        group.wqs.map, group.engines.map = 1, 1
        group.flags.tc_a, group.flags.tc_b, group.flags.read_buffers_allowed = 1, 1, params.read_buffers

    def gencfg_writable(self) -> bool:
        """Not while the device is on."""
        return self.gensts.state != DeviceState.ENABLED

    def evlcfg_writable(self) -> bool:
        """There must be an event log; without one its registers are reserved."""
        return self._owner.params.event_log

    def evlstatus_writable(self) -> bool:
        """As EVLCFG."""
        return self._owner.params.event_log

    def cmd_write(self, cmd: Cmd) -> None:
        """A command."""
        self._owner.cmd_written(cmd)
