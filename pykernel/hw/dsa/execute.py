"""
One descriptor from checks to completion: what is refused with which status, the record, the interrupt.

Order of the checks (uncertain beyond the first): completion address, opcode, flags, privilege, interrupt handle, then
the operation's own (reserved fields, size, ...).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pykernel.hw.dsa.batch import Batch
from pykernel.hw.dsa.desc import Completion, Context, OpError, Work
from pykernel.hw.dsa.ops import COMMON_FLAGS, Compare, CompareValue, Drain, MemFill, MemMove, Noop, Operation
from pykernel.hw.dsa.regs import WqCfgWithOps
from pykernel.uapi.linux.idxd import (
    DSA_COMP_BAD_OPCODE,
    DSA_COMP_CRA_ALIGN,
    DSA_COMP_CRA_XLAT,
    DSA_COMP_INT_HANDLE_INVAL,
    DSA_COMP_NOZERO_RESERVE,
    DSA_COMP_PRIV_BAD,
    DSA_COMP_STATUS_WRITE,
    DSA_COMP_SUCCESS,
    DSA_COMP_SUCCESS_PRED,
    IDXD_OP_FLAG_BOF,
    IDXD_OP_FLAG_CC,
    IDXD_OP_FLAG_CRAV,
    IDXD_OP_FLAG_DRDBK,
    IDXD_OP_FLAG_RCI,
    IDXD_OP_FLAG_RCR,
)

if TYPE_CHECKING:
    from pykernel.hw.dsa.function import DsaFunction

__all__ = ["OPERATIONS", "Executor"]

_ALL: tuple[Operation, ...] = (Noop(), Batch(), Drain(), MemMove(), MemFill(), Compare(), CompareValue())
OPERATIONS: dict[int, Operation] = {op.opcode: op for op in _ALL}


class Executor:
    """Runs descriptors of one device."""

    def __init__(self, device: DsaFunction) -> None:
        self._device = device
        params = device.params
        self._record_size = 64 if params.is_iax else 32
        self._opcap = params.opcap
        missing = 0 if params.cache_control else IDXD_OP_FLAG_CC
        self._missing = missing if params.readback else missing | IDXD_OP_FLAG_DRDBK
        self._op_config = params.op_config

    def execute(self, ctx: Context) -> int:
        """Check, run and complete *ctx*, or go on where it was left; gives the status. Raises Blocked."""
        completion = ctx.completion
        if completion is None:
            try:
                if ctx.operation is None:
                    ctx.operation = self._check(ctx)
                completion = ctx.operation.run(ctx)
            except OpError as e:
                completion = e.completion
                completion.bytes_completed, completion.result = ctx.done, ctx.result
            ctx.completion = completion
        if not ctx.work.dropped:
            self._complete(ctx, completion)
        return completion.status

    # ------------------------------------------------------------------ checks
    def _check(self, ctx: Context) -> Operation:
        desc, work = ctx.desc, ctx.work
        if desc.flags & IDXD_OP_FLAG_CRAV and desc.completion_addr % self._record_size:
            raise OpError(DSA_COMP_CRA_ALIGN)
        operation = OPERATIONS.get(desc.opcode)
        if operation is None or not self._offered(work) or (work.batch is not None and isinstance(operation, Batch)):
            raise OpError(DSA_COMP_BAD_OPCODE)
        invalid = desc.flags & ~self._flags(work, operation)
        if invalid:
            raise OpError.flags(invalid)
        if work.priv and work.pasid is not None and not self._device.pasid_priv_enabled:
            raise OpError(DSA_COMP_PRIV_BAD)
        if desc.raw[38:40] != b"\0\0":
            raise OpError(DSA_COMP_NOZERO_RESERVE)
        if desc.flags & IDXD_OP_FLAG_RCI and not self._handle_allowed(work):
            raise OpError(DSA_COMP_INT_HANDLE_INVAL)
        operation.check(ctx)
        planted = self._device.faults.operation(desc.opcode)
        if planted:
            raise OpError(planted)
        return operation

    def _offered(self, work: Work) -> bool:
        """The part has the operation, and the WQ's op_config does not take it away."""
        opcode, cfg = work.desc.opcode, work.wq.cfg
        if not self._opcap >> opcode & 1:
            return False
        if self._op_config and isinstance(cfg, WqCfgWithOps):
            return bool(cfg.ops.bits >> opcode & 1)
        return True

    def _flags(self, work: Work, operation: Operation) -> int:
        """
        The flags that *operation* takes here.

        Uncertain: BOF without the WQ's block on fault, RCR without CRAV, cache control and readback without their
        GENCAP bits, and interrupts of user descriptors without GENCFG's consent count as reserved flags.
        """
        flags, wanted = (operation.flags | COMMON_FLAGS) & ~self._missing, work.desc.flags
        if wanted & IDXD_OP_FLAG_BOF and not work.wq.cfg.flags.bof:
            flags &= ~IDXD_OP_FLAG_BOF
        if not wanted & IDXD_OP_FLAG_CRAV:
            flags &= ~IDXD_OP_FLAG_RCR
        if not wanted & IDXD_OP_FLAG_RCI:
            return flags
        if work.pasid is not None and not work.priv and not self._device.regs.gencfg.user_int_en:
            flags &= ~IDXD_OP_FLAG_RCI
        return flags

    def _handle_allowed(self, work: Work) -> bool:
        """MSIX_PERM or IMS: the entry carries the descriptor's PASID, or none if it has none, or ignores it."""
        handle = work.desc.int_handle
        if not self._device.handle_exists(handle, ims=work.ims):
            return False
        perm = self._device.ims.perm(handle) if work.ims else self._device.regs.msix_perm[handle].perm
        if perm.ignore:
            return True
        return work.pasid == (perm.pasid if perm.pasid_en else None)

    def _may_interrupt(self, work: Work) -> bool:
        """Also of a descriptor that was refused before its handle was looked at: no handle of another's is raised."""
        user = work.pasid is not None and not work.priv
        return self._handle_allowed(work) and not (user and not self._device.regs.gencfg.user_int_en)

    # ------------------------------------------------------------------ completion
    def _complete(self, ctx: Context, completion: Completion) -> None:
        desc, status = ctx.desc, completion.status
        wants_record = status != DSA_COMP_SUCCESS or bool(desc.flags & IDXD_OP_FLAG_RCR)
        if not desc.flags & IDXD_OP_FLAG_CRAV or status == DSA_COMP_CRA_ALIGN:
            if status not in (DSA_COMP_SUCCESS, DSA_COMP_SUCCESS_PRED):
                self._device.report.work(ctx.work, completion)
        elif wants_record:
            self._write_record(ctx, completion)
        if desc.flags & IDXD_OP_FLAG_RCI and self._may_interrupt(ctx.work):
            self._device.raise_handle(desc.int_handle, ims=ctx.work.ims)

    def _write_record(self, ctx: Context, completion: Completion) -> None:
        """The body first and the status byte last: whoever polls the status then sees a whole record."""
        record, addr = completion.record(self._record_size), ctx.desc.completion_addr
        try:
            ctx.write_last_first(addr, record)
        except OpError:
            if ctx.work.dropped:
                return
            fault = Completion(DSA_COMP_CRA_XLAT | DSA_COMP_STATUS_WRITE, fault_addr=addr)
            self._device.report.work(ctx.work, fault)
