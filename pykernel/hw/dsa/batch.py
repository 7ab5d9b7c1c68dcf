"""Batch: a descriptor whose work is a list of descriptors in memory."""

from __future__ import annotations

from typing import ClassVar

from pykernel.hw.dsa.desc import DESC_SIZE, Completion, Context, Descriptor, OpError, Work
from pykernel.hw.dsa.ops import Operation
from pykernel.uapi.linux.idxd import (
    DSA_COMP_BATCH_FAIL,
    DSA_COMP_BATCH_PAGE_FAULT,
    DSA_COMP_DESC_CNT_ERANGE,
    DSA_COMP_DESCLIST_ALIGN,
    DSA_COMP_SUCCESS,
    IDXD_OP_FLAG_ADDR1_TCS,
    IDXD_OP_FLAG_FENCE,
)

__all__ = ["Batch"]

MIN_BATCH = 2


class Batch(Operation):
    """
    0x01: members run in order here, which the architecture allows; each has its own flags and record.

    A fenced member after a failed one ends the batch. A member that finds its check-result predicate false has not
    succeeded (uncertain), and a batch inside a batch is an unsupported opcode (uncertain).
    """

    opcode, flags, sized = 0x01, IDXD_OP_FLAG_ADDR1_TCS, False
    reserved: ClassVar[tuple[tuple[int, int], ...]] = ((24, 32), (38, 64))

    def check(self, ctx: Context) -> None:
        """List alignment, then the count against the WQ's limit."""
        super().check(ctx)
        if ctx.desc.src % DESC_SIZE:
            raise OpError(DSA_COMP_DESCLIST_ALIGN)
        if not MIN_BATCH <= ctx.desc.size <= ctx.work.wq.max_batch_size:
            raise OpError(DSA_COMP_DESC_CNT_ERANGE)

    def run(self, ctx: Context) -> Completion:
        """``bytes_completed`` of a batch's record is the number of descriptors done. Raises Blocked: a member is."""
        while ctx.index < ctx.desc.size:
            if ctx.member is None:
                member = self._fetch(ctx, ctx.index)
                if member is None:
                    return self._list_fault(ctx, ctx.index)
                if ctx.failed and member.desc.flags & IDXD_OP_FLAG_FENCE:
                    return Completion(DSA_COMP_BATCH_FAIL, 1, bytes_completed=ctx.index)
                ctx.member = Context(ctx.device, member)
            if ctx.device.execute(ctx.member) != DSA_COMP_SUCCESS:
                ctx.failed = True
            ctx.member = None
            ctx.index += 1
        if ctx.failed:
            return Completion(DSA_COMP_BATCH_FAIL, 1, bytes_completed=ctx.desc.size)
        return Completion(bytes_completed=ctx.desc.size)

    def _fetch(self, ctx: Context, index: int) -> Work | None:
        try:
            raw = ctx.read(ctx.desc.src + DESC_SIZE * index, DESC_SIZE)
        except OpError:
            return None
        work = ctx.work
        return Work(Descriptor.from_bytes(raw), work.wq, work.pasid, work.priv, work, index, ims=work.ims)

    def _list_fault(self, ctx: Context, index: int) -> Completion:
        fault_addr = ctx.desc.src + DESC_SIZE * index
        return Completion(DSA_COMP_BATCH_PAGE_FAULT, bytes_completed=index, fault_addr=fault_addr)
