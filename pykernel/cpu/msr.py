"""
Model-specific registers (SDM volume 4): a table of those that are there, and RDMSR and WRMSR with their #GP.

Other parts of the machine add rows of their own with :meth:`Msrs.add`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from pykernel.cpu import xsave
from pykernel.cpu.trap import GP, Trap

__all__ = ["IA32_PASID", "IA32_XSS", "PASID_MASK", "PASID_VALID", "Msr", "Msrs"]

U64: Final = (1 << 64) - 1
IA32_PASID: Final = 0xD93
IA32_XSS: Final = 0xDA0
PASID_MASK: Final = 0xFFFFF
PASID_VALID: Final = 1 << 31


@dataclass(frozen=True, slots=True)
class Msr:
    """One register: its value after reset, and which bits may be written; ``rw`` 0 is read-only, any write #GP."""

    index: int
    name: str
    reset: int = 0
    rw: int = U64


TABLE: Final = (
    Msr(0x10, "IA32_TIME_STAMP_COUNTER"),
    Msr(0x1B, "IA32_APIC_BASE", 0xFEE00D00, 0xFFFFFFFFFFC00),
    Msr(0x3A, "IA32_FEATURE_CONTROL", 0x5, 0),  # locked by firmware, VMX outside SMX
    Msr(0x10A, "IA32_ARCH_CAPABILITIES", 0, 0),
    Msr(0x174, "IA32_SYSENTER_CS", 0, 0xFFFFFFFF),
    Msr(0x175, "IA32_SYSENTER_ESP"),
    Msr(0x176, "IA32_SYSENTER_EIP"),
    Msr(0x1A0, "IA32_MISC_ENABLE", 0x1),
    Msr(0x277, "IA32_PAT", 0x0007040600070406, 0x0707070707070707),
    Msr(0xC0000080, "IA32_EFER", 0xD01, 0xD01),
    Msr(0xC0000081, "IA32_STAR"),
    Msr(0xC0000082, "IA32_LSTAR"),
    Msr(0xC0000083, "IA32_CSTAR"),
    Msr(0xC0000084, "IA32_FMASK", 0, 0xFFFFFFFF),
    Msr(0xC0000100, "IA32_FS_BASE"),
    Msr(0xC0000101, "IA32_GS_BASE"),
    Msr(0xC0000102, "IA32_KERNEL_GS_BASE"),
    Msr(0xC0000103, "IA32_TSC_AUX", 0, 0xFFFFFFFF),
)


class Msrs:
    """
    The registers of one processor.

    Attributes:
        pasid: IA32_PASID as the processor itself sees it, without checks.
        xss: IA32_XSS, likewise.
    """

    __slots__ = ("_rows", "_values", "pasid", "xss")

    def __init__(self, has: Callable[[str], bool]) -> None:
        self._rows: dict[int, Msr] = {}
        self._values: dict[int, int] = {}
        self.pasid = self.xss = 0
        for row in TABLE:
            self.add(row)
        if has("enqcmd"):
            self.add(Msr(IA32_PASID, "IA32_PASID", 0, PASID_VALID | PASID_MASK))
        self.add(Msr(IA32_XSS, "IA32_XSS", 0, xsave.supervisor(has)))

    def add(self, row: Msr) -> None:
        """There is this register, too; one of the same number is replaced."""
        self._rows[row.index] = row
        self._values[row.index] = row.reset

    def rdmsr(self, index: int) -> int:
        """The instruction. Raises Trap: #GP, no such register."""
        if index not in self._rows:
            raise Trap(GP, f"RDMSR of {index:#x}")
        if index == IA32_PASID:
            return self.pasid
        return self.xss if index == IA32_XSS else self._values[index]

    def wrmsr(self, index: int, value: int) -> None:
        """The instruction. Raises Trap: #GP, no such register, read-only, or a reserved bit is set."""
        row = self._rows.get(index)
        if row is None or not 0 <= value <= U64 or (not row.rw and index != IA32_XSS) or value & ~row.rw & ~row.reset:
            raise Trap(GP, f"WRMSR of {index:#x}, value {value:#x}")
        if index == IA32_PASID:
            self.pasid = value
        elif index == IA32_XSS:
            self.xss = value
        else:
            self._values[index] = value

    def __contains__(self, index: Any) -> bool:
        return index in self._rows

    def __iter__(self) -> Iterator[Msr]:
        return iter(self._rows.values())

    def __getitem__(self, index: int) -> int:
        return self.rdmsr(index)

    def __setitem__(self, index: int, value: int) -> None:
        self.wrmsr(index, value)
