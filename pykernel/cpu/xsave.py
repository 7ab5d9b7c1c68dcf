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
LEGACY, HEADER, EXTENDED = 512, 64, 576
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

    __slots__ = ("area", "cpu")

    def __init__(self, features: int) -> None:
        self.area = bytearray(compacted_size(features))
        self.xcomp_bv = XCOMP_BV_COMPACTED | features
        self.cpu: Cpu | None = None

    @property
    def xstate_bv(self) -> int:
        """Which components are not in their initial state."""
        return int.from_bytes(self.area[LEGACY : LEGACY + 8], "little")

    @xstate_bv.setter
    def xstate_bv(self, value: int) -> None:
        self.area[LEGACY : LEGACY + 8] = value.to_bytes(8, "little")

    @property
    def xcomp_bv(self) -> int:
        """Which components have a place in the area; bit 63: it is compacted."""
        return int.from_bytes(self.area[LEGACY + 8 : LEGACY + 16], "little")

    @xcomp_bv.setter
    def xcomp_bv(self, value: int) -> None:
        self.area[LEGACY + 8 : LEGACY + 16] = value.to_bytes(8, "little")

    @property
    def pasid(self) -> int:
        """The image of IA32_PASID."""
        if not self.xstate_bv >> PASID & 1:
            return 0
        at = offsets(self.xcomp_bv)[PASID]
        return int.from_bytes(self.area[at : at + 8], "little")

    def reset(self) -> None:
        """Every component in its initial state. C: ``fpstate_init_user()``, ``fpu_reset_fpregs()``."""
        self.area[:] = bytes(LEGACY + 8) + self.area[LEGACY + 8 : LEGACY + 16] + bytes(len(self.area) - LEGACY - 16)
        self.cpu = None


def xsaves(cpu: Cpu, fpu: Fpu) -> None:
    """Save what XCR0 | IA32_XSS of *cpu* names."""
    value = cpu.msrs.pasid
    if not cpu.msrs.xss >> PASID & 1 or not fpu.xcomp_bv >> PASID & 1:
        return
    if value:
        at = offsets(fpu.xcomp_bv)[PASID]
        fpu.area[at : at + 8] = value.to_bytes(8, "little")
        fpu.xstate_bv |= 1 << PASID
    else:
        fpu.xstate_bv &= ~(1 << PASID)


def xrstors(cpu: Cpu, fpu: Fpu) -> None:
    """Load what XCR0 | IA32_XSS of *cpu* names; a component whose bit is clear gets its initial value."""
    if cpu.msrs.xss >> PASID & 1:
        cpu.msrs.pasid = fpu.pasid
