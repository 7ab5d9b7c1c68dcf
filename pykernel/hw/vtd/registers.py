"""
The register page of a remapping unit (VT-d 11.4): what software reads and writes, and the messages that come of it.

Nothing here knows devices. Silicon (``VtdUnit``) and a unit that a VMM emulates both add the methods ``on_...`` and
``read_phys``, ``write_phys``, ``send_message``.
"""

from __future__ import annotations

from typing import Final

from pykernel.hw.vtd import regs as r
from pykernel.hw.vtd.vcmd import VirtualCommands

__all__ = ["Event", "VtdRegisters"]

M32, M64 = (1 << 32) - 1, (1 << 64) - 1
EVENT: Final = {0: r.IM, 4: M32, 8: 0xFFFFFFFC, 12: M32}  # control, data, address, upper address
WRITABLE: Final = {
    r.RTADDR: 0xFFFFFC00,
    r.RTADDR + 4: M32,
    r.CCMD: M32,
    r.CCMD + 4: 0xE7FFFFFF,
    **{r.FECTL + at: bits for at, bits in EVENT.items()},
    r.IQT: 0x7FFF0,
    r.IQA: 0xFFFFF807,
    r.IQA + 4: M32,
    **{r.IECTL + at: bits for at, bits in EVENT.items()},
    r.IRTA: 0xFFFFF80F,
    r.IRTA + 4: M32,
    r.PQH: 0x7FFE0,
    r.PQT: 0x7FFE0,
    r.PQA: 0xFFFFF007,
    r.PQA + 4: M32,
    **{r.PECTL + at: bits for at, bits in EVENT.items()},
    r.IVA: M32,
    r.IVA + 4: M32,
    r.IOTLB: M32,
    r.IOTLB + 4: 0xF9FFFFFF,
}
CLEARED_BY_ONE: Final = {
    r.FSTS: r.PFO | r.IQE | r.ICE | r.ITE | r.PRO,
    r.ICS: r.IWC,
    r.PRS: r.PRS_PPR | r.PRS_PRO,
    r.FRCD + 12: 1 << 31,
}
ONE_SHOT: Final = r.SRTP | r.SIRTP
SWITCHES: Final = r.TE | r.QIE | r.IRE | r.CFI


class Event:
    """An interrupt of the unit: control register at *at*, then data and address."""

    def __init__(self, unit: VtdRegisters, at: int) -> None:
        self.unit, self.at = unit, at
        unit.set32(at, r.IM)

    def fire(self) -> None:
        """The message is sent, or is pending while software masks it."""
        control = self.unit.get32(self.at)
        if control & r.IM:
            self.unit.set32(self.at, control | r.IP)
            return
        self.unit.set32(self.at, control & ~r.IP)
        address = self.unit.get32(self.at + 8) | self.unit.get32(self.at + 12) << 32
        self.unit.send_message(address, self.unit.get32(self.at + 4))

    def written(self) -> None:
        """The control register was written."""
        if self.unit.get32(self.at) & (r.IM | r.IP) == r.IP:
            self.fire()

    def served(self) -> None:
        """What it told of is gone: nothing is pending."""
        self.unit.set32(self.at, self.unit.get32(self.at) & ~r.IP)


class VtdRegisters:
    """
    The page of registers.

    Args:
        cap, ecap: CAP_REG and ECAP_REG.
        version: VER_REG: major number << 4 | minor number.
        vcmd: the virtual commands, where there are any (ECAP.VCS).
    """

    def __init__(self, cap: int, ecap: int, *, version: int = 0x40, vcmd: VirtualCommands | None = None) -> None:
        self.cap, self.ecap, self.version, self.vcmd = cap, ecap, version, vcmd
        self._page = bytearray(r.PAGE)
        self._dwords = memoryview(self._page).cast("I")
        self._qwords = memoryview(self._page).cast("Q")
        self.reset()

    def reset(self) -> None:
        """Power-on."""
        self._page[:] = bytes(r.PAGE)
        self.set32(r.VER, self.version)
        self.set64(r.CAP, self.cap)
        self.set64(r.ECAP, self.ecap)
        self.fault_event = Event(self, r.FECTL)
        self.completion_event = Event(self, r.IECTL)
        self.page_event = Event(self, r.PECTL)
        self._written = {
            r.GCMD: self._command,
            r.CCMD + 4: self._context_command,
            r.IOTLB + 4: self._iotlb_command,
            r.IQT: self.on_queue_tail,
            r.FECTL: self.fault_event.written,
            r.IECTL: self.completion_event.written,
            r.PECTL: self.page_event.written,
            r.FSTS: self._status_cleared,
            r.FRCD + 12: self._status_cleared,
            r.PRS: self._page_status_cleared,
            r.ICS: self._completion_cleared,
        }

    # ---- what lies in the page

    def get32(self, off: int) -> int:
        """A register of 32 bits, without effects."""
        return self._dwords[off >> 2]

    def set32(self, off: int, value: int) -> None:
        """Change a register of 32 bits, whoever may write it."""
        self._dwords[off >> 2] = value

    def get64(self, off: int) -> int:
        """A register of 64 bits, without effects."""
        return self._qwords[off >> 3]

    def set64(self, off: int, value: int) -> None:
        """Change a register of 64 bits, whoever may write it."""
        self._qwords[off >> 3] = value

    # ---- software's side

    def read(self, off: int, size: int) -> int:
        """A read of 1, 2, 4 or 8 bytes at *off*; beyond the page all ones."""
        if off < 0 or off + size > len(self._page):
            return (1 << 8 * size) - 1
        if self.vcmd is not None and self.vcmd.claims(off):
            return self.vcmd.read(off, size)
        return int.from_bytes(self._page[off : off + size], "little")

    def write(self, off: int, size: int, value: int) -> None:
        """A write of 4 or 8 bytes at *off*; others, and those beyond the page, are dropped."""
        if size not in (4, 8) or off & size - 1 or not 0 <= off <= len(self._page) - size:
            return
        if self.vcmd is not None and self.vcmd.claims(off):
            self.vcmd.write(off, size, value)
            return
        self._store(off, value & M32)
        if size == 8:
            self._store(off + 4, value >> 32 & M32)
        for at in range(off, off + size, 4):
            after = self._written.get(at)
            if after is not None:
                after()

    def _store(self, at: int, value: int) -> None:
        if at == r.GCMD:
            self._gcmd = value
            return
        old = self.get32(at)
        if cleared := CLEARED_BY_ONE.get(at):
            self.set32(at, old & ~(value & cleared))
        elif bits := WRITABLE.get(at):
            self.set32(at, old & ~bits | value & bits)

    def readl(self, off: int) -> int:
        """C: ``readl()``."""
        return self.read(off, 4)

    def readq(self, off: int) -> int:
        """C: ``readq()``."""
        return self.read(off, 8)

    def writel(self, off: int, value: int) -> None:
        """C: ``writel()``."""
        self.write(off, 4, value & M32)

    def writeq(self, off: int, value: int) -> None:
        """C: ``writeq()``."""
        self.write(off, 8, value & M64)

    # ---- GCMD

    @property
    def enabled(self) -> bool:
        """GSTS.TES: requests are translated."""
        return bool(self.get32(r.GSTS) & r.TE)

    def _command(self) -> None:
        """GCMD was written: one-shot bits do something, the others are what GSTS becomes."""
        value, old = self._gcmd, self.get32(r.GSTS)
        if not self.ecap & r.ECAP_IR:
            value &= ~(r.IRE | r.SIRTP | r.CFI)
        if not self.ecap & r.ECAP_QI:
            value &= ~r.QIE
        self.set32(r.GSTS, old & ~SWITCHES | value & (SWITCHES | ONE_SHOT))
        self.set32(r.GSTS, self.get32(r.GSTS) | old & ONE_SHOT)
        if value & r.SRTP:
            self.on_root(self.get64(r.RTADDR))
        if (value ^ old) & r.QIE:
            self.set64(r.IQH, 0)
        if (value ^ old) & r.TE:
            self.on_translation(enabled=bool(value & r.TE))
        if value & ~old & r.QIE:
            self.on_queue_tail()

    # ---- invalidation by registers (VT-d 6.5.1)

    def _context_command(self) -> None:
        value = self.get64(r.CCMD)
        if not value >> 63:
            return
        done = 0
        if not self.get64(r.RTADDR) >> 10 & 3:  # in scalable mode the register does nothing
            done = self.on_context_command(value >> 61 & 3, value & 0xFFFF, value >> 16 & 0xFFFF, value >> 32 & 3)
        self.set64(r.CCMD, value & ~(1 << 63 | 3 << 59) | done << 59)

    def _iotlb_command(self) -> None:
        value, address = self.get64(r.IOTLB), self.get64(r.IVA)
        if not value >> 63:
            return
        done = 0
        if not self.get64(r.RTADDR) >> 10 & 3:
            done = self.on_iotlb_command(value >> 60 & 3, value >> 32 & 0xFFFF, address & -4096, address & 0x3F)
        self.set64(r.IOTLB, value & ~(1 << 63 | 3 << 57) | done << 57)

    # ---- status

    def raise_status(self, bits: int) -> None:
        """Set bits of FSTS; the first one that is pending is told by the fault event."""
        pending = self.get32(r.FSTS)
        self.set32(r.FSTS, pending | bits)
        if not pending & 0xFF:
            self.fault_event.fire()

    def _status_cleared(self) -> None:
        """FSTS or the F bit of a record was cleared: PPF follows the records; a queue that stood goes on."""
        status = self.get32(r.FSTS) & ~r.PPF
        if self.get32(r.FRCD + 12) >> 31:
            status |= r.PPF
        self.set32(r.FSTS, status)
        if not status & 0xFF:
            self.fault_event.served()
        if not status & (r.IQE | r.ITE):
            self.on_queue_tail()

    def _page_status_cleared(self) -> None:
        if not self.get32(r.PRS) & (r.PRS_PPR | r.PRS_PRO):
            self.page_event.served()

    def _completion_cleared(self) -> None:
        if not self.get32(r.ICS) & r.IWC:
            self.completion_event.served()

    # ---- what the rest of a unit adds

    def read_phys(self, pa: int, n: int) -> bytes:
        """*n* bytes of the memory that tables and queues lie in. Raises LookupError, OSError."""
        raise LookupError(pa)

    def write_phys(self, pa: int, data: bytes) -> None:
        """Store there. Raises LookupError, OSError."""
        raise LookupError(pa)

    def send_message(self, address: int, data: int) -> None:
        """An interrupt message of the unit itself."""

    def on_root(self, value: int) -> None:
        """SRTP: *value* is RTADDR from now on."""

    def on_translation(self, *, enabled: bool) -> None:
        """TE changed."""

    def on_queue_tail(self) -> None:
        """There may be something in the invalidation queue."""

    def on_context_command(self, granularity: int, did: int, source: int, mask: int) -> int:
        """CCMD: invalidate; the granularity that was done (CAIG)."""
        return 0

    def on_iotlb_command(self, granularity: int, did: int, address: int, order: int) -> int:
        """IOTLB_REG: invalidate; the granularity that was done (IAIG)."""
        return 0
