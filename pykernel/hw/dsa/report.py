"""Errors that no completion record can tell: SWERR (and, where a part has one, the place for the event log)."""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

from pykernel.hw.dsa.desc import Completion, Work
from pykernel.hw.dsa.regs import IntCause, Swerr
from pykernel.uapi.linux.idxd import DSA_COMP_STATUS_MASK, DSA_COMP_STATUS_WRITE

if TYPE_CHECKING:
    from pykernel.hw.dsa.function import DsaFunction

__all__ = ["ErrorReport", "SwErr"]


class SwErr(IntEnum):
    """SWERR codes besides completion statuses. The numbers are uncertain: no public source gives them."""

    CMD_REG = 0x51
    PORTAL_WRITE = 0x52
    WQ_NOT_READY = 0x53
    WQ_FULL = 0x54


class ErrorReport:
    """
    Where errors go.

    One error is kept: while SWERR is valid, another only sets its overflow bit (uncertain). The interrupt comes if
    GENCTRL allows it. An event log, when a part has one and it is on, would take the error in ``_deliver``.
    """

    def __init__(self, device: DsaFunction) -> None:
        self._device = device

    def work(self, work: Work, completion: Completion) -> None:
        """A descriptor failed and its record cannot say so."""
        error = Swerr()
        error.desc_valid, error.wq_idx_valid, error.wq_idx = 1, 1, work.wq.index
        error.error = completion.status & DSA_COMP_STATUS_MASK
        error.fault_rw = int(bool(completion.status & DSA_COMP_STATUS_WRITE))
        error.operation, error.priv = work.desc.opcode, int(work.priv)
        error.pasid = work.pasid or 0
        error.batch, error.batch_idx = int(work.batch is not None), work.batch_index & 0xFFFF
        error.invalid_flags, error.fault_addr = completion.invalid_flags, completion.fault_addr
        self._deliver(error)

    def portal(self, code: SwErr, wq: int) -> None:
        """Something was wrong with a write to a portal of *wq*."""
        error = Swerr()
        error.wq_idx_valid, error.wq_idx, error.error = 1, wq & 0xFF, code
        self._deliver(error)

    def device(self, code: SwErr) -> None:
        """Something was wrong that no WQ is to blame for."""
        error = Swerr()
        error.error = code
        self._deliver(error)

    def _deliver(self, error: Swerr) -> None:
        regs = self._device.regs
        if regs.swerr.valid:
            regs.swerr.overflow = 1
        else:
            error.valid = 1
            regs.swerr.bits = error.bits
        regs.intcause.bits |= IntCause.ERR
        if regs.genctrl.softerr_int_en:
            self._device.raise_msix(0)
