"""
Processor state that XSAVES and XRSTORS keep (SDM volume 1, chapter 13), as far as anything here depends on it.

Component 10 is the PASID state: eight bytes, the image of IA32_PASID. It is a supervisor component: IA32_XSS has its
bit, XCR0 does not, and only the compacted format has a place for it. While the register is zero the component is in
its initial state; XSAVES then leaves its bytes alone and clears its bit in XSTATE_BV, and XRSTORS clears the register.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pykernel.cpu.core import Cpu

__all__ = ["AVX", "FEATURES", "PASID", "SIZES", "STANDARD", "XCR0", "Fpu", "xrstors", "xsaves"]

X87, SSE, AVX, PASID = 0, 1, 2, 10
XCR0: Final = 1 << X87 | 1 << SSE | 1 << AVX
LEGACY, EXTENDED = 512, 576
XSTATE_BV, XCOMP_BV = slice(LEGACY, LEGACY + 8), slice(LEGACY + 8, LEGACY + 16)
XCOMP_BV_COMPACTED: Final = 1 << 63
FEATURES: Final = 0xF  # CPUID(0xD,1).EAX: XSAVEOPT, XSAVEC, XGETBV with ECX 1, XSAVES
SIZES: Final = {AVX: 256, PASID: 8}
STANDARD: Final = {AVX: EXTENDED}  # where the components of XCR0 are in the standard format


def supervisor(has: Callable[[str], bool]) -> int:
    """The bits that IA32_XSS may have."""
    return 1 << PASID if has("enqcmd") else 0


def supported(has: Callable[[str], bool]) -> int:
    """All components of the part."""
    return XCR0 | supervisor(has)


def offsets(features: int) -> dict[int, int]:
    """Where the extended components of *features* are in the compacted format: one behind the other."""
    out, at = {}, EXTENDED
    for component, size in SIZES.items():
        if features >> component & 1:
            out[component] = at
            at += size
    return out


def compacted_size(features: int) -> int:
    """Bytes of an area in the compacted format."""
    return EXTENDED + sum(size for component, size in SIZES.items() if features >> component & 1)


def standard_size(features: int) -> int:
    """Bytes of an area in the standard format."""
    return max(EXTENDED, *(STANDARD[c] + SIZES[c] for c in STANDARD if features >> c & 1))


class Fpu:
    """
    ``struct fpu`` of a task: its XSAVE area.

    Attributes:
        area: XSTATE_BV is at byte 512, XCOMP_BV at 520.
        cpu: the processor whose registers are this task's now and may differ from the area; None: the area is good.
    """

    __slots__ = ("_at", "area", "cpu")

    def __init__(self, features: int) -> None:
        self.area = bytearray(compacted_size(features))
        self.area[XCOMP_BV] = (XCOMP_BV_COMPACTED | features).to_bytes(8, "little")
        at = offsets(features).get(PASID)
        self._at = None if at is None else slice(at, at + SIZES[PASID])
        self.cpu: Cpu | None = None

    @property
    def xstate_bv(self) -> int:
        """Which components are not in their initial state."""
        return int.from_bytes(self.area[XSTATE_BV], "little")

    @property
    def xcomp_bv(self) -> int:
        """Which components have a place in the area; bit 63: it is compacted."""
        return int.from_bytes(self.area[XCOMP_BV], "little")

    @property
    def pasid(self) -> int:
        """The image of IA32_PASID; 0 while it is in its initial state, whatever the bytes are."""
        if self._at is None or not self.area[XSTATE_BV.start + 1] & 1 << PASID - 8:
            return 0
        return int.from_bytes(self.area[self._at], "little")

    @pasid.setter
    def pasid(self, value: int) -> None:
        if self._at is None:
            return
        if value:
            self.area[self._at] = value.to_bytes(8, "little")
            self.area[XSTATE_BV.start + 1] |= 1 << PASID - 8
        else:
            self.area[XSTATE_BV.start + 1] &= ~(1 << PASID - 8)

    def reset(self) -> None:
        """Every component in its initial state. C: ``fpstate_init_user()``, ``fpu_reset_fpregs()``."""
        header = self.area[XCOMP_BV]
        self.area[:] = bytes(len(self.area))
        self.area[XCOMP_BV] = header
        self.cpu = None


def xsaves(cpu: Cpu, fpu: Fpu) -> None:
    """Save what XCR0 | IA32_XSS of *cpu* names."""
    if cpu.msrs.xss >> PASID & 1:
        fpu.pasid = cpu.msrs.pasid


def xrstors(cpu: Cpu, fpu: Fpu) -> None:
    """Load what XCR0 | IA32_XSS of *cpu* names; a component whose bit is clear gets its initial value."""
    if cpu.msrs.xss >> PASID & 1:
        cpu.msrs.pasid = fpu.pasid
