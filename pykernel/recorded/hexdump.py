"""
Binary contents as text: lines of ``OFFSET: HEX``, as lspci and hexdump write; what no line has is zero.

The offset of the last line is the end, as hexdump's is. A line without an offset goes on where the last one ended.
"""

from __future__ import annotations

__all__ = ["dump", "load"]

WIDTH = 32
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
            at = int(offset, 16) if has else len(out)
            part = bytes.fromhex(digits)
        except ValueError:
            raise ValueError(f"{row!r} is no line of hexadecimal digits like '0040: 0102aabb'") from None
        if at > 1 << 24:
            raise ValueError(f"offset {offset} is too large")
        out.extend(bytes(max(0, at + len(part) - len(out))))
        out[at : at + len(part)] = part
    return bytes(out)
