"""The bytes of a struct in rows of eight, and which member has each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from pykernel.uapi.shape import Node, leaves, tree
from pykernel.uapi.struct import Field, Struct, layout

__all__ = ["BYTES", "CELL", "Span", "rows", "spans"]

BYTES = 8
"""Bytes in a row."""

CELL = 8
"""Characters a byte."""


class Span(NamedTuple):
    """Some bytes and what they are; "" for a hole."""

    start: int
    end: int
    text: str


def spans(cls: type[Struct]) -> list[Span]:
    """
    The bytes of a struct from the first to the last.

    Of a union the first member is told, and how many others there are. Bit-fields that share bytes are one span.
    """
    by_name = {f.name: f for f in layout(cls)}
    out: list[Span] = []
    for found in _members(tree(cls), by_name):
        last = out[-1].end if out else 0
        if found.start < last:
            before = out.pop()
            found = Span(before.start, max(found.end, last), f"{before.text} {found.text}")
        elif found.start > last:
            out.append(Span(last, found.start, ""))
        out.append(found)
    last = out[-1].end if out else 0
    return [*out, Span(last, cls.sizeof(), "")] if last < cls.sizeof() else out


def _members(node: Node, by_name: dict[str, Field]) -> Iterator[Span]:
    names = list(leaves(node))
    if node.kind == "struct":
        for child in node.children:
            yield from _members(child, by_name)
    elif node.kind == "union":
        extents = [_extent(by_name[name]) for name in names]
        more = f" +{len(names) - 1}" if len(names) > 1 else ""
        yield Span(min(e[0] for e in extents), max(e[1] for e in extents), f"{by_name[names[0]].cname}{more}")
    elif (f := by_name[node.name]).size:
        yield Span(*_extent(f), f"{f.cname}:{f.bits[1]}" if f.bits else f.cname)


def _extent(f: Field) -> tuple[int, int]:
    """First byte, and first byte after it."""
    first, width = f.bits or (0, 8 * f.size)
    return f.offset + first // 8, f.offset + -(-(first + width) // 8)


def rows(cls: type[Struct]) -> Iterator[tuple[int, int, list[Span]]]:
    """(first byte, first byte after it, what is in it) of each row; rows within one span are one."""
    found, size, at = spans(cls), cls.sizeof(), 0
    while at < size:
        end = min(at + BYTES, size)
        inside = [s for s in found if s.start < end and s.end > at]
        if len(inside) == 1 and inside[0].start <= at and inside[0].end > end:
            end = min(inside[0].end // BYTES * BYTES, size)
        yield at, end, [Span(max(s.start, at), min(s.end, end), s.text) for s in inside]
        at = end
