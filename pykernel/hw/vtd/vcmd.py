"""
Virtual commands (VT-d 10.4.44 and on): how a guest asks its VMM for PASIDs.

The registers moved, and the fields in them, with revision 3.3 of the specification: kernels from 5.8 to 5.13 have the
older places. Real silicon has none of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

__all__ = ["EARLY", "LAYOUT", "Layout", "VirtualCommands"]

ALLOC_PASID, FREE_PASID = 1, 2
SUCCESS, UNDEFINED, NO_PASID = 0, 1, 16
IP: Final = 1


@dataclass(frozen=True)
class Layout:
    """Where the registers are, where operand and result begin, and what "no PASID", "invalid PASID" is."""

    vcmd: int = 0xE00
    operand_b: int = 0xE08
    vcrsp: int = 0xE10
    vccap: int = 0xE30
    shift: int = 16
    status_mask: int = 0x7F
    no_pasid: int = NO_PASID


LAYOUT: Final = Layout()
EARLY: Final = Layout(0xE10, 0, 0xE20, 0xE00, 8, 0x3, 2)


class VirtualCommands:
    """
    The four registers.

    Args:
        capability: VCCAP: bit 1 PASIDs can be allocated, bit 2 freed.
        serve: ``(command, operand, operand B)`` gives (status, result), with the statuses of the newer layout; None:
            :meth:`complete` will be called.
        layout: the places.
    """

    def __init__(
        self,
        capability: int,
        serve: Callable[[int, int, int], tuple[int, int] | None],
        layout: Layout = LAYOUT,
    ) -> None:
        self.capability, self.serve, self.layout = capability, serve, layout
        self.operand_b = 0
        self.response = 0

    def claims(self, off: int) -> bool:
        """Whether *off* is in one of the registers."""
        places = self.layout
        at = off & -8
        return at in (places.vcmd, places.vcrsp, places.vccap) or bool(places.operand_b and at == places.operand_b)

    def read(self, off: int, size: int) -> int:
        """A read; the commands read as zero."""
        at = off & -8
        value = {self.layout.vcrsp: self.response, self.layout.vccap: self.capability}.get(at, 0)
        return value >> 8 * (off & 7) & (1 << 8 * size) - 1

    def write(self, off: int, size: int, value: int) -> None:
        """A write: a command of 8 bytes begins unless one is in progress, and 0 is none."""
        if self.response & IP or size != 8:
            return
        if self.layout.operand_b and off == self.layout.operand_b:
            self.operand_b = value
        elif off == self.layout.vcmd:
            self._command(value & 0xFF, value >> self.layout.shift)

    def _command(self, command: int, operand: int) -> None:
        self.response = IP
        if not command:
            self.complete(SUCCESS, 0)
            return
        known = {ALLOC_PASID: 1 << 1, FREE_PASID: 1 << 2}.get(command, 0)
        # before 3.3 one bit of VCCAP said that there are both
        if not self.capability & (known if self.layout.operand_b else min(known, 1)):
            self.complete(UNDEFINED, 0)
            return
        answer = self.serve(command, operand, self.operand_b)
        if answer is not None:
            self.complete(*answer)

    def complete(self, status: int, result: int) -> None:
        """The command in progress is done."""
        if status == NO_PASID:
            status = self.layout.no_pasid
        self.response = (status & self.layout.status_mask) << 1 | result << self.layout.shift
