"""
The operations: which flags and reserved bytes each accepts, how big it may be, and what it does to memory.

An operation is one object in the table ``OPERATIONS`` (opcode -> object); adding one is adding a class and a row. An
opcode that a part announces in OPCAP but that has no row completes with DSA_COMP_BAD_OPCODE.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from pykernel.hw.dsa.desc import Completion, Context, OpError
from pykernel.uapi.linux.idxd import (
    DSA_COMP_NOZERO_RESERVE,
    DSA_COMP_OVERLAP_BUFFERS,
    DSA_COMP_PFAULT_RDBA,
    DSA_COMP_SUCCESS,
    DSA_COMP_SUCCESS_PRED,
    DSA_COMP_XFER_ERANGE,
    IDXD_OP_FLAG_ADDR1_TCS,
    IDXD_OP_FLAG_ADDR2_TCS,
    IDXD_OP_FLAG_BOF,
    IDXD_OP_FLAG_CC,
    IDXD_OP_FLAG_CR,
    IDXD_OP_FLAG_CR_TCS,
    IDXD_OP_FLAG_CRAV,
    IDXD_OP_FLAG_CRSTS,
    IDXD_OP_FLAG_DRDBK,
    IDXD_OP_FLAG_DSTS,
    IDXD_OP_FLAG_FENCE,
    IDXD_OP_FLAG_RCI,
    IDXD_OP_FLAG_RCR,
    IDXD_OP_FLAG_STORD,
)

__all__ = ["COMMON_FLAGS", "Compare", "CompareValue", "Drain", "MemFill", "MemMove", "Noop", "Operation", "sweep"]

PAGE, STRETCH = 4096, 65536
COMMON_FLAGS = IDXD_OP_FLAG_CRAV | IDXD_OP_FLAG_RCR | IDXD_OP_FLAG_RCI | IDXD_OP_FLAG_CRSTS | IDXD_OP_FLAG_CR_TCS
FENCE_BOF = IDXD_OP_FLAG_FENCE | IDXD_OP_FLAG_BOF
DESTINATION = IDXD_OP_FLAG_CC | IDXD_OP_FLAG_STORD | IDXD_OP_FLAG_DRDBK | IDXD_OP_FLAG_DSTS


def chunk(size: int, done: int, addrs: tuple[int, ...], step: int, *, backward: bool = False) -> tuple[int, int]:
    """
    The next stretch of a transfer of *size* bytes of which *done* are done: (offset, length).

    It is cut where any of *addrs* comes to a multiple of *step*; *backward* goes from the end. A transfer that is no
    longer than *step* is one stretch to begin with.
    """
    if size <= step and not done and step != PAGE:
        return 0, size
    if backward:
        end = size - done
        n = min(end, *((addr + end - 1) % step + 1 for addr in addrs))
        return end - n, n
    return done, min(size - done, *(step - (addr + done) % step for addr in addrs))


def sweep(
    ctx: Context,
    addrs: tuple[int, ...],
    body: Callable[[int, int], bool],
    *,
    backward: bool = False,
    repeatable: bool = True,
) -> None:
    """
    Run *body*(offset, length) over what is left of the transfer, keeping count in ``ctx.done``; a true answer ends it.

    Long stretches first; one that faults is done again page by page, so that what is reported is exact to the page.
    Not *repeatable* (an overlapping copy) goes page by page from the start. Raises OpError, Blocked.
    """
    size, step = ctx.desc.size, STRETCH if repeatable else PAGE
    while ctx.done < size:
        off, n = chunk(size, ctx.done, addrs, step, backward=backward)
        try:
            if body(off, n):
                return
            ctx.done += n
        except OpError:
            if not repeatable:
                raise
            end = ctx.done + n
            while ctx.done < end:
                off, n = chunk(size, ctx.done, addrs, PAGE, backward=backward)
                if body(off, n):
                    return
                ctx.done += n


def nonzero(raw: bytes, ranges: tuple[tuple[int, int], ...]) -> bool:
    """Any byte of *ranges* (first, end) set?"""
    return any(raw[lo:hi].strip(b"\0") for lo, hi in ranges)


class Operation:
    """One opcode. ``flags`` are those it takes besides COMMON_FLAGS, ``reserved`` byte ranges that must be zero."""

    opcode: ClassVar[int]
    flags: ClassVar[int] = 0
    reserved: ClassVar[tuple[tuple[int, int], ...]] = ()
    sized: ClassVar[bool] = True

    def check(self, ctx: Context) -> None:
        """Reserved bytes and the transfer size; raises OpError. Zero size is refused (uncertain)."""
        desc = ctx.desc
        if nonzero(desc.raw, self.reserved):
            raise OpError(DSA_COMP_NOZERO_RESERVE)
        if self.sized and not 0 < desc.size <= ctx.work.wq.max_transfer_size:
            raise OpError(DSA_COMP_XFER_ERANGE)

    def run(self, ctx: Context) -> Completion:
        """Do it; raises OpError for what the checks could not see."""
        raise NotImplementedError


class Noop(Operation):
    """0x00: completes."""

    opcode, flags, sized = 0x00, IDXD_OP_FLAG_FENCE, False
    reserved = ((16, 36), (38, 64))

    def run(self, ctx: Context) -> Completion:
        """Nothing to do."""
        return Completion()


class Drain(Operation):
    """0x02: completes after earlier descriptors of its WQ and PASID (the engine sees to that); may read back."""

    opcode, sized = 0x02, False
    flags = IDXD_OP_FLAG_ADDR1_TCS | IDXD_OP_FLAG_ADDR2_TCS | 0xF << 16
    reserved = ((32, 36), (38, 64))

    def check(self, ctx: Context) -> None:
        """Readback addresses need GENCAP bit 9 (uncertain: refused as invalid flags)."""
        super().check(ctx)
        if ctx.desc.op_flags & 3 and not ctx.device.params.drain_readback:
            raise OpError.flags(ctx.desc.flags & 3 << 16)

    def run(self, ctx: Context) -> Completion:
        """Read each valid readback address, which pushes posted writes out."""
        desc = ctx.desc
        for flag, addr in ((1, desc.src), (2, desc.dst)):
            if desc.op_flags & flag:
                try:
                    ctx.read(addr, 1)
                except OpError as e:
                    raise OpError(DSA_COMP_PFAULT_RDBA, fault_addr=e.completion.fault_addr) from None
        return Completion()


class MemMove(Operation):
    """0x03: copy; regions may overlap where GENCAP bit 1 says so, and the record's result tells the direction."""

    opcode = 0x03
    flags = FENCE_BOF | DESTINATION | IDXD_OP_FLAG_ADDR1_TCS | IDXD_OP_FLAG_ADDR2_TCS
    reserved = ((38, 64),)

    def run(self, ctx: Context) -> Completion:
        """Backward (result 1) when the destination starts inside the source."""
        desc = ctx.desc
        src, dst, size = desc.src, desc.dst, desc.size
        overlap = src < dst + size and dst < src + size
        if overlap and not ctx.device.params.overlapping_copy:
            raise OpError(DSA_COMP_OVERLAP_BUFFERS)
        backward = src < dst < src + size

        def copy(off: int, n: int) -> bool:
            if overlap:
                ctx.write(dst + off, ctx.read(src + off, n))
            else:
                ctx.copy(dst + off, src + off, n)
            return False

        ctx.result = int(backward)
        sweep(ctx, (src, dst), copy, backward=backward, repeatable=not overlap)
        return Completion()


class MemFill(Operation):
    """0x04: repeat an 8-byte pattern, little endian, from the destination on."""

    opcode = 0x04
    flags = FENCE_BOF | DESTINATION | IDXD_OP_FLAG_ADDR2_TCS
    reserved = ((38, 64),)

    def run(self, ctx: Context) -> Completion:
        """The last repetition is cut off where the region ends."""
        dst = ctx.desc.dst
        pattern = ctx.desc.raw[16:24]

        def fill(off: int, n: int) -> bool:
            phase = off % 8
            ctx.write(dst + off, (pattern * (n // 8 + 2))[phase : phase + n])
            return False

        sweep(ctx, (dst,), fill)
        return Completion()


def first_difference(a: bytes, b: bytes) -> int:
    """Index of the first byte in which *a* and *b*, which differ, do so."""
    x = int.from_bytes(a, "little") ^ int.from_bytes(b, "little")
    return ((x & -x).bit_length() - 1) // 8


class Compare(Operation):
    """0x05: result 0 if two regions are equal, else 1 and the offset of the first difference."""

    opcode = 0x05
    flags = FENCE_BOF | IDXD_OP_FLAG_CR | IDXD_OP_FLAG_ADDR1_TCS | IDXD_OP_FLAG_ADDR2_TCS
    reserved = ((38, 40), (41, 64))

    def addresses(self, ctx: Context) -> tuple[int, ...]:
        """Where it reads."""
        return ctx.desc.src, ctx.desc.dst

    def other(self, ctx: Context, off: int, n: int) -> bytes:
        """The bytes that the first region is compared with."""
        return ctx.read(ctx.desc.dst + off, n)

    def run(self, ctx: Context) -> Completion:
        """With the check-result flag an unexpected result is DSA_COMP_SUCCESS_PRED."""
        src = ctx.desc.src
        differs: list[int] = []

        def compare(off: int, n: int) -> bool:
            a, b = ctx.read(src + off, n), self.other(ctx, off, n)
            if a != b:
                differs.append(off + first_difference(a, b))
            return a != b

        sweep(ctx, self.addresses(ctx), compare)
        result = int(bool(differs))
        expected = ctx.desc.raw[40] == result or not ctx.desc.flags & IDXD_OP_FLAG_CR
        status = DSA_COMP_SUCCESS if expected else DSA_COMP_SUCCESS_PRED
        return Completion(status, result, bytes_completed=differs[0] if differs else 0)


class CompareValue(Compare):
    """0x06: as Compare, with an 8-byte pattern in the place of the second region."""

    opcode = 0x06
    flags = FENCE_BOF | IDXD_OP_FLAG_CR | IDXD_OP_FLAG_ADDR1_TCS

    def addresses(self, ctx: Context) -> tuple[int, ...]:
        """Only the source is memory."""
        return (ctx.desc.src,)

    def other(self, ctx: Context, off: int, n: int) -> bytes:
        """The pattern, in phase with *off*."""
        phase = off % 8
        return (ctx.desc.raw[24:32] * (n // 8 + 2))[phase : phase + n]
