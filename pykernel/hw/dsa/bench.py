"""An accelerator on a bench: what a driver and its client do, as one-line calls, without a kernel."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from typing import Any

from pykernel.hw.bench import Bench
from pykernel.hw.dsa.commands import Command
from pykernel.hw.dsa.function import DsaFunction
from pykernel.hw.dsa.params import params_from_options
from pykernel.hw.dsa.regs import GRPCFG, WQCFG
from pykernel.uapi.linux.idxd import IDXD_OP_FLAG_CRAV, IDXD_OP_FLAG_RCR

__all__ = ["DsaBench", "descriptor"]

PASID_CONTROL, MSIX_CONTROL = 0x126, 0x82
REPORT = IDXD_OP_FLAG_CRAV | IDXD_OP_FLAG_RCR


def descriptor(
    opcode: int,
    *,
    flags: int = REPORT,
    completion: int = 0,
    src: int = 0,
    dst: int = 0,
    size: int = 0,
    int_handle: int = 0,
    tail: bytes = b"",
    pasid: int = 0,
    priv: bool = False,
    rsvd1: int = 0,
) -> bytes:
    """``struct dsa_hw_desc`` as 64 bytes; *tail* is its operation-specific part."""
    owner = pasid | priv << 31
    return struct.pack("<IIQQQIHH24s", owner, flags | opcode << 24, completion, src, dst, size, int_handle, rsvd1, tail)


class DsaBench(Bench):
    """A ``DsaFunction`` with memory decoding and bus mastering on; registers are ``rd``/``wr`` on BAR0."""

    function: DsaFunction

    def __init__(self, options: Mapping[str, Any] | None = None, *, preset: str = "spr", size: int = 1 << 20) -> None:
        super().__init__(DsaFunction(params_from_options("dsa", options or {}, preset)), size)
        self.stride = self.function.params.wqcfg_stride

    # ------------------------------------------------------------------ registers
    def rd(self, off: int, size: int = 4) -> int:
        """Read BAR0."""
        return self.function.mmio_read(0, off, size)

    def wr(self, off: int, value: int, size: int = 4) -> None:
        """Write BAR0."""
        self.function.mmio_write(0, off, size, value)

    def command(self, command: int, operand: int = 0, *, int_req: bool = False) -> int:
        """Write CMD; gives CMDSTS as it reads right after."""
        self.wr(0xA0, int_req << 31 | command << 20 | operand)
        return self.rd(0xA8)

    def wqcfg(self, wq: int, dword: int) -> int:
        """Offset of a dword of a WQ's WQCFG."""
        return WQCFG + self.stride * wq + 4 * dword

    # ------------------------------------------------------------------ bringing up
    def enable_pasid(self, *, priv: bool = True) -> None:
        """Switch the PASID capability on."""
        self.function.config_write(PASID_CONTROL, 2, 5 if priv else 1)

    def enable_msix(self) -> None:
        """Switch MSI-X on; vector n sends (0xfee00000, n)."""
        assert self.function.msix is not None
        for vector in range(self.function.msix.vectors):
            self.wr(0x2000 + 16 * vector, 0xFEE00000, 8)
            self.wr(0x2008 + 16 * vector, vector)
            self.wr(0x200C + 16 * vector, 0)
        self.function.config_write(MSIX_CONTROL, 2, 0x8000)

    def set_wq(self, wq: int, *, size: int = 16, priority: int = 1, dedicated: bool = True, threshold: int = 0,
               pasid: int | None = None, bof: bool = False, priv: bool = False, xfer_shift: int = 21,
               batch_shift: int | None = None, ops: int = (1 << 256) - 1) -> None:  # fmt: skip
        """Write a WQ's WQCFG; batches are limited to 32 descriptors, or to what the part can do."""
        if batch_shift is None:
            batch_shift = min(5, self.function.params.max_batch_shift)
        flags = dedicated | bof << 1 | priority << 4 | priv << 29
        flags |= 0 if pasid is None else 1 << 28 | pasid << 8
        for dword, value in enumerate((size, threshold, flags, xfer_shift | batch_shift << 5)):
            self.wr(self.wqcfg(wq, dword), value)
        if self.stride >= 64:
            for i in range(4):
                self.wr(self.wqcfg(wq, 8 + 2 * i), ops >> 64 * i & (1 << 64) - 1, 8)

    def set_group(self, group: int, *, wqs: Iterable[int], engines: Iterable[int], allowed: int = 96) -> None:
        """Write a group's GRPCFG."""
        at = GRPCFG + 64 * group
        self.wr(at, sum(1 << n for n in wqs), 8)
        self.wr(at + 32, sum(1 << n for n in engines), 8)
        self.wr(at + 40, allowed << 20 | 1 << 3, 8)

    def up(self, wqs: Iterable[int] = (0,), engines: Iterable[int] = (0,), **wq: Any) -> None:
        """Configure *wqs* alike in group 0, enable the device and them; what is refused is an AssertionError."""
        wqs = list(wqs)
        for n in wqs:
            self.set_wq(n, **wq)
        self.set_group(0, wqs=wqs, engines=engines)
        assert self.command(Command.ENABLE_DEV) == 0
        for n in wqs:
            assert self.command(Command.ENABLE_WQ, n) == 0

    # ------------------------------------------------------------------ submitting
    def post(self, desc: bytes, wq: int = 0) -> None:
        """MOVDIR64B to a WQ's limited portal."""
        self.function.posted_write(2, wq * 0x4000 + 0x1000, desc)

    def enqcmd(self, desc: bytes, wq: int = 0, *, limited: bool = True) -> bool:
        """ENQCMD to a WQ's portal; true when accepted."""
        return self.function.dmwr(2, wq * 0x4000 + (0x1000 if limited else 0), desc)

    def do(self, desc: bytes, wq: int = 0) -> None:
        """Submit to a dedicated WQ and run until all is quiet."""
        self.post(desc, wq)
        self.run()

    def record(self, addr: int) -> tuple[int, int, int, int]:
        """Status, result, bytes completed and fault address of a completion record."""
        status, result, _, done, fault = struct.unpack_from("<BBHIQ", self.memory, addr)
        return status, result, done, fault
