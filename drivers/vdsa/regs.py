"""
BAR 0 of a virtual DSA: the registers at their real offsets, the tables at places of their own.

One group with one work queue and the engines of the host's group; two vectors; what cannot be configured is read-only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from pykernel.drivers.idxd.registers import (
    IDXD_CMDSTS_RES_SHIFT,
    IDXD_INTC_ERR,
    IDXD_SWERR_OVERFLOW,
    IDXD_SWERR_VALID,
    Cmd,
    DeviceState,
)
from pykernel.lib.regmap import At, Reg, RegMap, Table, bit, bits

if TYPE_CHECKING:
    from pykernel.drivers.idxd.idxd import IdxdWq

__all__ = ["BAR_SIZE", "MSIX_PBA", "MSIX_PERM", "MSIX_TABLE", "VECTORS", "Swerr", "VdsaRegs"]

MSIX_PERM: Final = 0x300
GRPCFG: Final = 0x400
WQCFG: Final = 0x500
MSIX_TABLE: Final = 0x600
MSIX_PBA: Final = 0x700
IMS: Final = 0x1000
BAR_SIZE: Final = 0x2000
VECTORS: Final = 2  # 0: the device's own, emulated; 1: completions, backed by an entry of the host's IMS

COMMANDS: Final = sum(1 << cmd for cmd in Cmd)

DISABLED, ENABLED, BUSY = 0, 1, 2


class ReadOnly(Reg):
    """All of it."""

    value = bits(255, 0, "ro")


class TableOffsets(Reg):
    """TABLE OFFSETS, in units of 0x100."""

    grpcfg, wqcfg, msix_perm, ims, perfmon = (bits(n + 15, n, "ro") for n in (0, 16, 32, 48, 64))


class Gencfg(Reg):
    """GENCFG."""

    rdbuf_limit, user_int_en = bits(7, 0), bit(12)


class Genctrl(Reg):
    """GENCTRL."""

    softerr_int_en, halt_int_en = bit(0), bit(1)


class Gensts(Reg):
    """GENSTS."""

    state, reset_type = bits(1, 0, "ro"), bits(3, 2, "ro")


class Intcause(Reg):
    """INTCAUSE."""

    causes = bits(31, 0, "w1c")


class CommandReg(Reg):
    """CMD: a write starts a command."""

    operand, cmd, int_req = bits(19, 0), bits(24, 20), bit(31)


class Cmdsts(Reg):
    """CMDSTS."""

    err, result, active = bits(7, 0, "ro"), bits(23, 8, "ro"), bit(31, "ro")


class Swerr(Reg):
    """SWERR."""

    valid, overflow = bit(0, "w1c"), bit(1, "w1c")
    desc_valid, wq_idx_valid, batch, fault_rw, priv = (bit(n, "ro") for n in range(2, 7))
    error, wq_idx, operation, pasid = bits(15, 8, "ro"), bits(23, 16, "ro"), bits(39, 32, "ro"), bits(59, 40, "ro")
    batch_idx, invalid_flags, fault_addr = bits(79, 64, "ro"), bits(127, 96, "ro"), bits(191, 128, "ro")


class Perm(Reg):
    """An entry of MSIX_PERM."""

    ignore, pasid_en, pasid = bit(2), bit(3), bits(31, 12)


class WqFlags(Reg):
    """
    WQCFG dword 2: of a disabled queue the guest may write the mode, the PASID and its two bits.

    The other fields are the host's.
    """

    mode, bof, ats_disable, prs_disable = bit(0), bit(1, "ro"), bit(2, "ro"), bit(3, "ro")
    priority, pasid, pasid_en, priv = bits(7, 4, "ro"), bits(27, 8), bit(28), bit(29)


class WqStatus(Reg):
    """WQCFG dword 6."""

    occupancy, state = bits(15, 0, "ro"), bits(31, 30, "ro")


class Owner(Protocol):
    """Who reacts to the registers."""

    def command(self, cmd: int, operand: int, *, int_req: bool) -> None:
        """CMD was written."""
        ...

    def msix_perm_written(self, vector: int) -> None:
        """An entry of MSIX_PERM was written."""
        ...

    def occupancy(self) -> int:
        """Entries in the queue."""
        ...


class PermEntry(RegMap):
    """One entry of MSIX_PERM."""

    perm = At(0, Perm)

    def __init__(self, owner: Owner, vector: int) -> None:
        self._owner, self._vector = owner, vector
        super().__init__()

    def perm_write(self, perm: Perm) -> None:
        """The host's entry follows."""
        self._owner.msix_perm_written(self._vector)


class GrpCfg(RegMap):
    """GRPCFG, read-only."""

    wqs = At(0, ReadOnly, "r", size=32)
    engines = At(32, ReadOnly, "r", size=8)
    flags = At(40, ReadOnly, "r", size=8)


class VWqCfg(RegMap):
    """WQCFG of the one queue."""

    size = At(0, ReadOnly, "r")
    threshold = At(4, ReadOnly, "r")
    flags = At(8, WqFlags)
    limits = At(12, ReadOnly, "r")
    occupancy_int = At(16, ReadOnly, "r")
    occupancy_limit = At(20, ReadOnly, "r")
    status = At(24, WqStatus)

    def flags_writable(self) -> bool:
        """While the queue is disabled."""
        return self.status.state == DISABLED


class VdsaRegs(RegMap):
    """All of BAR 0 but the MSI-X table."""

    version = At(0x00, ReadOnly, "r")
    gencap = At(0x10, ReadOnly, "r", size=8)
    wqcap = At(0x20, ReadOnly, "r", size=8)
    grpcap = At(0x30, ReadOnly, "r", size=8)
    engcap = At(0x38, ReadOnly, "r", size=8)
    opcap = At(0x40, ReadOnly, "r", size=32)
    tables = At(0x60, TableOffsets, "r", size=16)
    gencfg = At(0x80, Gencfg)
    genctrl = At(0x88, Genctrl)
    gensts = At(0x90, Gensts, "r")
    intcause = At(0x98, Intcause)
    cmd = At(0xA0, CommandReg, "w")
    cmdsts = At(0xA8, Cmdsts, "r")
    cmdcap = At(0xB0, ReadOnly, "r")
    swerr = At(0xC0, Swerr, size=32)

    def __init__(self, owner: Owner, wq: IdxdWq) -> None:
        super().__init__()
        self._owner = owner
        self.perm = Table(self, MSIX_PERM, 8, [PermEntry(owner, n) for n in range(VECTORS)])
        self.grpcfg = Table(self, GRPCFG, 64, [GrpCfg()])
        self.wqcfg = Table(self, WQCFG, 32, [VWqCfg()])
        self._capabilities(wq)
        self._group(wq)
        self._queue(wq)
        self.settle()

    def _capabilities(self, wq: IdxdWq) -> None:
        idxd, hw = wq.idxd, wq.idxd.hw
        self.version.bits = hw.version
        self.gencap.bits = virtual_gencap(hw.gen_cap.bits, user_pasid=idxd.user_pasid_on)
        mode = 48 if wq.shared else 49
        inherited = hw.wq_cap.bits & (1 << 50 | 1 << 51 | 1 << 52)  # ATS, priority, occupancy
        self.wqcap.bits = wq.size | 1 << 16 | 1 << mode | inherited
        self.grpcap.bits = 1 | hw.group_cap.bits & 0xFF00
        self.engcap.bits = self._engines(wq)
        self.opcap.bits = idxd.opcap_bmap if wq.opcap_bmap is None else wq.opcap_bmap
        self.cmdcap.bits = COMMANDS
        self.tables.bits = GRPCFG >> 8 | WQCFG >> 8 << 16 | MSIX_PERM >> 8 << 32 | IMS >> 8 << 48

    @staticmethod
    def _engines(wq: IdxdWq) -> int:
        return max(1, sum(engine.group is wq.group for engine in wq.idxd.engines))

    def _group(self, wq: IdxdWq) -> None:
        group = self.grpcfg[0]
        group.wqs.bits, group.engines.bits = 1, (1 << self.engcap.bits) - 1
        group.flags.bits = 0 if wq.group is None else wq.group.grpcfg_flags.bits

    def _queue(self, wq: IdxdWq) -> None:
        cfg = self.wqcfg[0]
        cfg.size.bits = wq.size
        cfg.threshold.bits = wq.threshold
        flags = cfg.flags
        flags.mode, flags.bof, flags.priority = int(wq.dedicated), int(wq.block_on_fault), wq.priority
        flags.ats_disable, flags.prs_disable = int(wq.ats_disable), int(wq.prs_disable)
        flags.pasid_en = int(wq.shared)  # what comes to a shared queue has a PASID
        batch = wq.max_batch_size.bit_length() - 1 if wq.max_batch_size else 0
        cfg.limits.bits = wq.max_xfer_bytes.bit_length() - 1 | batch << 5

    # ------------------------------------------------------------------ rules and effects

    @property
    def enabled(self) -> bool:
        """The device is on."""
        return self.gensts.state == DeviceState.ENABLED

    def gencfg_writable(self) -> bool:
        """While the device is disabled."""
        return self.gensts.state == DeviceState.DISABLED

    def cmd_write(self, cmd: CommandReg) -> None:
        """A command."""
        self._owner.command(cmd.cmd, cmd.operand, int_req=bool(cmd.int_req))

    def read(self, off: int, size: int) -> bytes:
        """What a load of the guest gives; the occupancy is the host's, now."""
        if WQCFG + 24 <= off < WQCFG + 28:
            self.wqcfg[0].status.occupancy = self._owner.occupancy()
        return self.mmio_read(off, size).to_bytes(size, "little")

    def complete(self, error: int, result: int = 0) -> None:
        """CMDSTS of a command that ended."""
        self.cmdsts.bits = error | result << IDXD_CMDSTS_RES_SHIFT

    def software_error(self, error: int) -> None:
        """SWERR; while one is valid another only sets the overflow bit."""
        self.host_error(Swerr(IDXD_SWERR_VALID | error << 8))

    def host_error(self, error: Swerr) -> None:
        """The same for an error with all its fields."""
        if self.swerr.valid:
            self.swerr.bits |= IDXD_SWERR_OVERFLOW
        else:
            self.swerr.bits = error.bits
        self.intcause.bits |= IDXD_INTC_ERR


def virtual_gencap(host: int, *, user_pasid: bool) -> int:
    """
    The host's GENCAP without what a guest cannot have.

    Commands are announced, configuration and IMS are not, event logs neither; blocking on faults needs PASIDs.
    """
    value = host & ~(1 << 31 | 0x3F << 25 | 3 << 13) | 1 << 4
    return value if user_pasid else value & ~1
