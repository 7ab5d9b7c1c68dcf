"""
How the three instructions are encoded (SDM volume 2): a prefix, 0F 38 F8, and a ModRM byte that names memory.

The register of ModRM holds the destination, an offset in ES that no prefix moves to another segment; the memory operand
is the source.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from pykernel.cpu.trap import UD, Trap

__all__ = ["ENCODINGS", "OPCODE", "Instruction", "decode"]

OPCODE: Final = b"\x0f\x38\xf8"
ENCODINGS: Final = {0x66: "movdir64b", 0xF2: "enqcmd", 0xF3: "enqcmds"}
SEGMENTS: Final = frozenset({0x26, 0x2E, 0x36, 0x3E, 0x64, 0x65})
LOCK: Final = 0xF0
REX: Final = range(0x40, 0x50)


class Instruction(NamedTuple):
    """What stands in the code: *register* holds the destination (0 is RAX), *length* is in bytes."""

    name: str
    register: int
    length: int


def decode(code: bytes) -> Instruction | None:
    """
    The instruction that *code* begins with in 64-bit mode; None: it is none of the three.

    Raises:
        Trap: #UD, the source is a register, or there is a LOCK prefix.
    """
    at = rex = repeat = 0
    prefixes = set()
    while at < len(code) and (code[at] in (0x66, 0x67, 0xF2, 0xF3, LOCK) or code[at] in SEGMENTS):
        prefixes.add(code[at])
        repeat = code[at] if code[at] in (0xF2, 0xF3) else repeat
        at += 1
    if at < len(code) and code[at] in REX:
        rex, at = code[at], at + 1
    if code[at : at + 3] != OPCODE or len(code) < at + 4:
        return None
    if not repeat and 0x66 not in prefixes:
        return None
    name = ENCODINGS[repeat or 0x66]  # the last of F2 and F3 counts, and 66 is one of operand size then
    modrm = code[at + 3]
    if modrm >> 6 == 3 or LOCK in prefixes:
        raise Trap(UD, f"{name}: {'a LOCK prefix' if LOCK in prefixes else 'the source is a register'}")
    return Instruction(name, modrm >> 3 & 7 | (rex & 4) << 1, at + 4 + _operand(code[at + 4 : at + 5], modrm))


def _operand(sib: bytes, modrm: int) -> int:
    """Bytes of SIB and displacement behind *modrm*."""
    mod, rm = modrm >> 6, modrm & 7
    if rm == 4:
        base = sib[0] & 7 if sib else 0
        return 1 + (4 if mod == 2 or (mod == 0 and base == 5) else mod)
    return 4 if mod == 2 or (mod == 0 and rm == 5) else mod
