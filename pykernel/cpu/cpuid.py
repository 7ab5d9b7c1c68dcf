"""
CPUID leaves of the emulated part, as tables (SDM volume 2, CPUID).

It is a Sapphire Rapids with the state components x87, SSE, AVX and, with ENQCMD, PASID. What a machine leaves out
(``enqcmd = false``) is gone from every leaf that tells of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from pykernel.cpu import xsave

__all__ = ["FLAGS_7_0_ECX", "LEAVES", "Regs", "cpuid"]

Has = Callable[[str], bool]


class Regs(NamedTuple):
    """EAX, EBX, ECX, EDX."""

    eax: int = 0
    ebx: int = 0
    ecx: int = 0
    edx: int = 0


# leaf 7, subleaf 0, ECX: arch/x86/include/asm/cpufeatures.h, word 16
FLAGS_7_0_ECX: Final = {"movdiri": 27, "movdir64b": 28, "enqcmd": 29}
# leaf 1, ECX: SSE3, SSSE3, CX16, SSE4.1, SSE4.2, x2APIC, MOVBE, POPCNT, XSAVE, OSXSAVE, AVX
ECX_1: Final = sum(1 << bit for bit in (0, 9, 13, 19, 20, 21, 22, 23, 26, 27, 28))
EDX_1: Final = sum(1 << bit for bit in (0, 2, 3, 4, 5, 6, 8, 9, 11, 12, 13, 14, 15, 16, 23, 24, 25, 26))
VMX_BIT: Final = 5
SIGNATURE: Final = 0x000806F8  # family 6, model 143, stepping 8
MAXPHYADDR, LINEAR = 52, 48
BRAND: Final = b"Intel(R) Xeon(R) Platinum 8480+".ljust(48, b"\0")
MAX_LEAF, MAX_EXTENDED = 0x0D, 0x80000008


def _regs(text: bytes) -> Regs:
    """16 bytes of text in EAX, EBX, ECX, EDX."""
    return Regs(*(int.from_bytes(text[i : i + 4], "little") for i in range(0, 16, 4)))


def _leaf_1(has: Has) -> Regs:
    return Regs(SIGNATURE, 0x00100800, ECX_1 | (has("vmx") << VMX_BIT), EDX_1)


def _leaf_7(has: Has) -> Regs:
    return Regs(0, 0, sum(has(flag) << bit for flag, bit in FLAGS_7_0_ECX.items()), 0)


def _xcr0(has: Has) -> Regs:
    size = xsave.standard_size(xsave.XCR0)
    return Regs(xsave.XCR0, size, size, 0)


def _xsaves(has: Has) -> Regs:
    return Regs(xsave.FEATURES, xsave.compacted_size(xsave.supported(has)), xsave.supervisor(has), 0)


def _pasid_state(has: Has) -> Regs:
    """Size, offset (none: a supervisor component has no place in the standard format), "in IA32_XSS"."""
    return Regs(xsave.SIZES[xsave.PASID], 0, 1, 0) if has("enqcmd") else Regs()


LEAVES: Final[dict[tuple[int, int], Callable[[Has], Regs]]] = {
    (0x00, 0): lambda _has: Regs(MAX_LEAF, *(int.from_bytes(s, "little") for s in (b"Genu", b"ntel", b"ineI"))),
    (0x01, 0): _leaf_1,
    (0x07, 0): _leaf_7,
    (0x0D, 0): _xcr0,
    (0x0D, 1): _xsaves,
    (0x0D, 2): lambda _has: Regs(xsave.SIZES[xsave.AVX], xsave.STANDARD[xsave.AVX], 0, 0),
    (0x0D, 10): _pasid_state,
    (0x80000000, 0): lambda _has: Regs(MAX_EXTENDED),
    (0x80000001, 0): lambda _has: Regs(0, 0, 0x121, 0x2C100800),
    (0x80000002, 0): lambda _has: _regs(BRAND[:16]),
    (0x80000003, 0): lambda _has: _regs(BRAND[16:32]),
    (0x80000004, 0): lambda _has: _regs(BRAND[32:]),
    (0x80000008, 0): lambda _has: Regs(MAXPHYADDR | LINEAR << 8),
}
SUBLEAVES: Final = frozenset({0x07, 0x0D})


def cpuid(has: Has, leaf: int, subleaf: int = 0) -> Regs:
    """
    The instruction; *has* tells the features by their names in /proc/cpuinfo.

    ECX matters only to leaves that have subleaves. A leaf beyond the last is answered as the last basic one.
    """
    if leaf > MAX_EXTENDED or MAX_LEAF < leaf < 0x80000000:
        leaf = MAX_LEAF
    made = LEAVES.get((leaf, subleaf if leaf in SUBLEAVES else 0))
    return made(has) if made is not None else Regs()
