"""
Binary contents as text: lines of ``OFFSET: HEX``, as lspci and hexdump write; what no line has is zero.

The offset of the last line is the end, as hexdump's is. A line without an offset goes on where the last one ended.
"""

from __future__ import annotations

import re

from pykernel.fs.vfs import PAGE_SIZE

__all__ = ["dump", "load", "size_of"]

WIDTH = 32
OFFSET = re.compile(r"\s*[0-9a-fA-F]+\s*")
CONFIG = 256  # include/uapi/linux/pci_regs.h:PCI_CFG_SPACE_SIZE
SHORT = 32  # bytes that fit on one line without an offset


def dump(data: bytes) -> str:
    """The text of *data*: one line, or several with offsets, each ended by a newline."""
    if len(data) <= SHORT:
        return data.hex()
    rows = []
    for off in range(0, len(data), WIDTH):
        part = data[off : off + WIDTH]
        if part.strip(b"\0"):
            rows.append(f"{off:04x}: {part.hex(' ', 4)}\n")
    return "".join(rows) + f"{len(data):04x}:\n"


def load(text: str) -> bytes:
    """
    The bytes of *text*.

    Raises:
        ValueError: what is wrong with it.
    """
    out = bytearray()
    for row in text.splitlines():
        offset, has, digits = row.rpartition(":")
        try:
            if has and not OFFSET.fullmatch(offset):
                raise ValueError
            at = int(offset, 16) if has else len(out)
            part = bytes.fromhex(digits)
        except ValueError:
            raise ValueError(f"{row!r} is no line of hexadecimal digits like '0040: 0102aabb'") from None
        if at > 1 << 24:
            raise ValueError(f"offset {offset} is too large")
        out.extend(bytes(max(0, at + len(part) - len(out))))
        out[at : at + len(part)] = part
    return bytes(out)


def size_of(name: str, data: bytes) -> int:
    """st_size of the file *name* ("a/b") when nothing says it: a PCI function's configuration space has its own."""
    return CONFIG if len(data) == CONFIG and name.rpartition("/")[2] == "config" else PAGE_SIZE
