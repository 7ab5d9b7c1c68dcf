"""Descriptors as the device sees them, what becomes of one (its completion), and the memory it may touch."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pykernel.pci.function import DmaFault
from pykernel.uapi.linux.idxd import (
    DSA_COMP_INVALID_FLAGS,
    DSA_COMP_PAGE_FAULT_IR,
    DSA_COMP_PAGE_FAULT_NOBOF,
    DSA_COMP_STATUS_WRITE,
    DSA_COMP_SUCCESS,
    IDXD_OP_FLAG_BOF,
)

if TYPE_CHECKING:
    from pykernel.hw.dsa.function import DsaFunction
    from pykernel.hw.dsa.ops import Operation
    from pykernel.hw.dsa.queue import WorkQueue

__all__ = ["DESC_SIZE", "Blocked", "Completion", "Context", "Descriptor", "OpError", "Work"]

DESC_SIZE = 64
_LAYOUT = struct.Struct("<IIQQQIHH24s")
_RECORD = struct.Struct("<BBHIQ")
_RETRIES = 3  # page requests in a row for one address, before the device gives the page up
_ADDRESS = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class Descriptor:
    """``struct dsa_hw_desc``: *src* and *dst* are the quadwords at 16 and 24, *size* the doubleword at 32."""

    pasid: int
    priv: bool
    flags: int
    opcode: int
    completion_addr: int
    src: int
    dst: int
    size: int
    int_handle: int
    raw: bytes

    @classmethod
    def from_bytes(cls, raw: bytes) -> Descriptor:
        """Take apart 64 bytes."""
        owner, flags, completion, src, dst, size, handle, _, _ = _LAYOUT.unpack(raw)
        return cls(
            owner & 0xFFFFF, bool(owner >> 31), flags & 0xFFFFFF, flags >> 24, completion, src, dst, size, handle, raw
        )

    @property
    def op_flags(self) -> int:
        """The operation's own flags, bits 16-23 of the flags."""
        return self.flags >> 16


@dataclass(slots=True)
class Completion:
    """What the completion record tells; *extra* is its operation-specific part, from byte 16."""

    status: int = DSA_COMP_SUCCESS
    result: int = 0
    bytes_completed: int = 0
    fault_addr: int = 0
    invalid_flags: int = 0
    extra: bytes = b""

    def record(self, size: int) -> bytes:
        """The record, *size* bytes (32 for DSA, 64 for IAX)."""
        extra = self.invalid_flags.to_bytes(4, "little") if self.invalid_flags else self.extra
        head = _RECORD.pack(self.status, self.result, 0, self.bytes_completed, self.fault_addr)
        return (head + extra).ljust(size, b"\0")


class OpError(Exception):
    """An operation ends early; *completion* says how."""

    def __init__(self, status: int, *, fault_addr: int = 0, invalid_flags: int = 0) -> None:
        super().__init__(f"status {status:#x}")
        self.completion = Completion(status, fault_addr=fault_addr, invalid_flags=invalid_flags)

    @classmethod
    def flags(cls, invalid: int) -> OpError:
        """Reserved flags were set."""
        return cls(DSA_COMP_INVALID_FLAGS, invalid_flags=invalid)


def fill(target: memoryview, source: list[memoryview]) -> None:
    """Put the pieces of *source* into *target*, which has their size; the same memory may be in both."""
    if len(source) == 1:
        target[:] = source[0]
        return
    done = 0
    for piece in source:
        target[done : done + len(piece)] = piece
        done += len(piece)


def fill_all(target: list[memoryview], source: list[memoryview]) -> None:
    """The same for a target in pieces."""
    pieces = iter(source)
    piece = next(pieces)
    for part in target:
        done = 0
        while done < len(part):
            piece = piece if len(piece) else next(pieces)
            step = min(len(piece), len(part) - done)
            part[done : done + step] = piece[:step]
            done, piece = done + step, piece[step:]


class Blocked(Exception):
    """The operation waits for a page; whoever runs it sets it aside until the answer comes."""


@dataclass(slots=True, eq=False)
class Work:
    """
    One descriptor on its way: from which WQ, in whose address space, and where in a batch it is.

    *ims* says which table its interrupt handle is an index of: the portal that it came through does. *ctx* is how far
    it has come, once an engine has begun it.
    """

    desc: Descriptor
    wq: WorkQueue
    pasid: int | None
    priv: bool
    batch: Work | None = None
    batch_index: int = 0
    aborted: bool = False
    ims: bool = False
    ctx: Context | None = None

    @property
    def dropped(self) -> bool:
        """An abort caught it, or the batch it is in: nothing more of it is to be seen."""
        return self.aborted or (self.batch is not None and self.batch.aborted)

    @property
    def blocked(self) -> bool:
        """It, or the member of it that is being worked on, waits for the answer to a page request."""
        ctx = self.ctx
        while ctx is not None:
            if ctx.waiting:
                return True
            ctx = ctx.member
        return False


class Context:
    """
    Memory, progress and identity of one running operation, which can be left and entered again.

    ``done`` and ``result`` go into the record of a partial completion. A page that is not there is asked for (PRI)
    when the descriptor may block on faults, and until the answer comes the operation is :class:`Blocked`; otherwise
    it ends with DSA_COMP_PAGE_FAULT_NOBOF.

    Attributes:
        operation: what it does, once its descriptor was checked.
        completion: how it ended, while only its record is left to be written.
        index, failed, member: of a batch, how far it is and the member that is being worked on.
        waiting: the answer to a page request is outstanding.
    """

    __slots__ = (
        "_asked", "_asking", "_tries", "completion", "desc", "device", "done", "failed", "index", "member",
        "operation", "result", "waiting", "work",
    )  # fmt: skip

    def __init__(self, device: DsaFunction, work: Work) -> None:
        self.device, self.work, self.desc = device, work, work.desc
        self.done = self.result = self.index = 0
        self.failed = self.waiting = self._asking = False
        self.operation: Operation | None = None
        self.completion: Completion | None = None
        self.member: Context | None = None
        self._tries: dict[int, int] = {}  # page that was asked for -> how often
        self._asked = -1

    @property
    def may_block(self) -> bool:
        """Descriptor and WQ allow blocking on a fault, and page requests are not disabled for the WQ."""
        return bool(self.desc.flags & IDXD_OP_FLAG_BOF) and self.work.wq.may_block

    def read(self, addr: int, n: int) -> bytes:
        """Read *n* bytes; raises OpError, Blocked."""
        device, work = self.device, self.work
        while True:
            try:
                return device.dma_read(addr, n, work.pasid, work.priv)
            except DmaFault as fault:
                self._resolve(fault)

    def write(self, addr: int, data: bytes | memoryview) -> None:
        """Write *data*; raises OpError, Blocked."""
        device, work = self.device, self.work
        while True:
            try:
                device.dma_write(addr, data, work.pasid, work.priv)
                return
            except DmaFault as fault:
                self._resolve(fault)

    def write_last_first(self, addr: int, data: bytes) -> None:
        """Write *data*, its first byte after all the others; raises OpError, Blocked."""
        device, work = self.device, self.work
        try:
            view = device.dma_view(addr, len(data), write=True, pasid=work.pasid, priv=work.priv)
        except DmaFault:
            view = None
        if view is not None and len(view) == 1:
            view[0][1:], view[0][0] = data[1:], data[0]
        else:
            self.write(addr + 1, data[1:])
            self.write(addr, data[:1])

    def copy(self, dst: int, src: int, n: int) -> None:
        """Copy *n* bytes, at once where both sides can be seen as pieces of RAM; raises OpError, Blocked."""
        view, pasid, priv = self.device.dma_view, self.work.pasid, self.work.priv
        while True:
            try:
                source = view(src, n, write=False, pasid=pasid, priv=priv)
                target = view(dst, n, write=True, pasid=pasid, priv=priv) if source else None
                break
            except DmaFault as fault:
                self._resolve(fault)
        if not source or not target:
            self.write(dst, self.read(src, n))
        elif len(target) == 1:
            fill(target[0], source)
        else:
            fill_all(target, source)

    # ------------------------------------------------------------------ pages that are not there
    def _resolve(self, fault: DmaFault) -> None:
        """Return when the access is worth another try; raises OpError, Blocked."""
        write = DSA_COMP_STATUS_WRITE if fault.write else 0
        addr = fault.addr & _ADDRESS  # a transfer may run over the end of the address space
        if not self.may_block:
            raise OpError(DSA_COMP_PAGE_FAULT_NOBOF | write, fault_addr=addr) from None
        # operands that take turns must not begin anew with each other's pages, or it would never end
        tries = self._tries[addr] = self._tries.get(addr, 0) + 1
        if tries > _RETRIES or not self._request(addr, write=fault.write):
            raise OpError(DSA_COMP_PAGE_FAULT_IR | write, fault_addr=addr) from None

    def _request(self, addr: int, *, write: bool) -> bool:
        """Ask for the page: the answer, if it comes at once; raises Blocked."""
        work = self.work
        self._asking = self.waiting = True
        self._asked = addr
        self.device.page_request(work, addr, write, self.answered)
        self._asking = False
        if self.waiting:
            raise Blocked
        return self._tries[addr] <= _RETRIES

    def answered(self, ok: bool) -> None:
        """The page is there, or it was refused; called once for each request."""
        self.waiting = False
        if not ok:
            self._tries[self._asked] = _RETRIES + 1  # it is not asked for again
        if not self._asking:
            work = self.work
            self.device.resume(work if work.batch is None else work.batch)
