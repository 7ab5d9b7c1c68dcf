"""
A struct drawn as pahole(1) draws it: where each member lies, what it takes, and where nothing lies.

Offsets and sizes are in bytes; ``0:20  4`` is a bit-field that begins at bit 20 of the 4 bytes at offset 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise

from pykernel.uapi.history import AGELESS, Version, at, newer, parse, since
from pykernel.uapi.shape import Node, ctype, is_inline, tree
from pykernel.uapi.storage import get_ffi
from pykernel.uapi.struct import Field, Struct, _tag, cname, layout

__all__ = ["CACHELINE", "Gaps", "Place", "describe", "gaps", "places"]

CACHELINE = 64


@dataclass
class Place:
    """A member of a struct: one with a name, or an anonymous group; and the nothing that follows it."""

    node: Node
    ctype: str
    offset: int
    size: int
    bits: tuple[int, int] | None = None
    inner: type[Struct] | None = None  # the struct that it is
    aligned: int = 0  # to what its declaration, or one in it, wants it aligned
    hole: int = 0  # bytes
    bit_hole: int = 0

    @property
    def start(self) -> int:
        """The first bit."""
        return 8 * self.offset + (self.bits[0] if self.bits else 0)

    @property
    def end(self) -> int:
        """The first bit after it."""
        return self.start + (self.bits[1] if self.bits else 8 * self.size)

    @property
    def padding(self) -> int:
        """The padding of the struct that it is; pahole does not look into arrays of structs."""
        named = self.inner and not is_inline(self.inner) and self.node.member and not self.node.member.dims
        return padding(self.inner) if named and self.inner else 0


@dataclass
class Gaps:
    """What pahole sums up of a struct."""

    places: list[Place] = field(default_factory=list)
    padding: int = 0
    bit_padding: int = 0


def _aligned(cls: type[Struct], node: Node) -> int:
    """To how many bytes a member wants to be aligned by its declaration, or that of a member of it; 0: to none."""
    m = node.member
    if m and m.given:
        return m.given.aligned
    if m:
        return _aligned(m.cls, tree(m.cls)) if m.cls else 0
    return max((_aligned(cls, child) for child in node.children), default=0)


def places(cls: type[Struct], node: Node) -> list[Place]:
    """The members of the struct *cls*, or of a group *node* in it."""
    by_name = {f.name: f for f in layout(cls)}
    return [_place(cls, child, by_name) for child in node.children]


def _place(cls: type[Struct], node: Node, by_name: dict[str, Field]) -> Place:
    m = node.member
    if m is None:
        size = get_ffi().sizeof(f"{node.kind} {_tag(cls._owner, f'_{node.name}')}")
        offset = min(p.offset for p in (_place(cls, c, by_name) for c in node.children))
        return Place(node, node.kind, offset, size, aligned=_aligned(cls, node))
    f = by_name[node.name]
    offset, bits = f.offset, f.bits
    if bits:
        # in a packed struct cffi counts from the byte, pahole from where a number of that type would lie
        start = 8 * offset + bits[0]
        offset = start // (8 * f.size) * f.size
        bits = (start - 8 * offset, bits[1])
    return Place(node, ctype(m).replace("__aligned_", "__"), offset, f.size, bits, m.cls, _aligned(cls, node))


def gaps(members: list[Place], start: int, size: int, *, union: bool) -> Gaps:
    """
    Notes in *members* the holes behind them; *start* and *size* are those of the whole.

    A bit-field leaves bits up to the end of its own type, and bytes behind that.
    """
    out = Gaps(members)
    if union:
        return out
    seen, unit_end, before = 8 * start, 0, Place(Node("", ""), "", start, 0)
    for place in members:
        if unit_end:
            before.bit_hole = max(0, min(place.start, unit_end) - seen)
            seen += before.bit_hole
        unit = 8 * place.offset
        before.hole = max(0, unit - seen) // 8
        seen = max(seen, unit)
        if place.bits:
            before.bit_hole += place.start - seen
        unit_end = unit + 8 * place.size if place.bits else 0
        seen, before = place.end, place
    if unit_end:
        out.bit_padding = min(unit_end, 8 * (start + size)) - seen
    out.padding = (8 * (start + size) - seen - out.bit_padding) // 8
    return out


def padding(cls: type[Struct]) -> int:
    """Bytes at the end of a struct in which no member lies."""
    root = tree(cls)
    return gaps(places(cls, root), 0, cls.sizeof(), union=root.kind == "union").padding


def describe(cls: type[Struct], version: Version = AGELESS) -> Iterator[str]:
    """The struct as the headers of *version* have it, line by line."""
    old = at(cls, version)
    yield from _Drawing(old, version).lines()


class _Drawing:
    """The text, in the making."""

    def __init__(self, cls: type[Struct], version: Version) -> None:
        self.cls, self.version, self.newer = cls, version, newer(cls)
        self.cacheline = 0

    def lines(self) -> Iterator[str]:
        """All of it, with the sums at its end."""
        root, size = tree(self.cls), self.cls.sizeof()
        yield f"{cname(self.cls)} {{"
        sums = gaps(places(self.cls, root), 0, size, union=root.kind == "union")
        yield from self._members(self.cls, root, sums, 1, 0)
        yield ""
        yield from (f"\t/* {line} */" for line in self._sums(sums, size))
        yield f"}}{' __attribute__((__packed__))' if root.packed else ''}{_attribute(_aligned(self.cls, root))};"

    def _members(self, cls: type[Struct], node: Node, sums: Gaps, depth: int, base: int) -> Iterator[str]:
        before = self.cacheline
        for place in sums.places:
            if node.kind == "union":
                self.cacheline = before  # each of its members begins anew
            yield from self._boundary(base + place.offset, depth)
            yield from self._member(cls, place, depth, base)
            if node.kind == "struct" and (remarks := list(_remarks(place))):
                yield ""
                yield from ("\t" * depth + f"/* XXX {remark} */" for remark in remarks)
                yield ""

    def _boundary(self, offset: int, depth: int) -> Iterator[str]:
        number, ago = divmod(offset, CACHELINE)
        if number > self.cacheline:
            self.cacheline = number
            text = f"cacheline {number} boundary ({number * CACHELINE} bytes)"
            yield "\t" * depth + f"/* --- {text}{f' was {ago} bytes ago' if ago else ''} --- */"

    def _member(self, cls: type[Struct], place: Place, depth: int, base: int) -> Iterator[str]:
        m, tabs = place.node.member, "\t" * depth
        inline = place.inner if place.inner and is_inline(place.inner) else None
        if m and not inline:
            dims = "".join("[]" if n is None else f"[{n}]" for n in m.dims)
            name = f"{m.cname}{dims}{f':{m.bits}' if m.bits else ''}{_attribute(place.aligned)};"
            yield self._row(f"{tabs}{place.ctype:{max(1, 34 - 8 * depth)}} {name}", place, depth, base) + self._age(
                cls, m.cname
            )
            return
        inner, node = (inline, tree(inline)) if inline else (cls, place.node)
        start = 0 if inline else place.offset
        size = inline.sizeof() if inline else place.size
        yield f"{tabs}{node.kind} {{"
        sums = gaps(places(inner, node), start, size, union=node.kind == "union")
        yield from self._members(inner, node, sums, depth + 1, base + (place.offset if inline else 0))
        dims = "".join("[]" if n is None else f"[{n}]" for n in m.dims) if m else ""
        yield self._row(f"{tabs}}}{f' {m.cname}{dims}' if m else ''}{_attribute(place.aligned)};", place, depth, base)

    def _row(self, text: str, place: Place, depth: int, base: int) -> str:
        """The text, and in a column of its own where it lies."""
        wide = max(1, 57 - 8 * depth - (len(text) - depth))
        where = f"{base + place.offset:5}:{place.bits[0]:2}{place.size:3}" if place.bits else ""
        return f"{text}{' ' * wide}/* {where or f'{base + place.offset:5} {place.size:5}'} */"

    def _age(self, cls: type[Struct], name: str) -> str:
        row = since(self.newer, f"{cls.__name__}.{name}") if f"{cls.__name__}.{name}" in self.newer else ""
        if not row:
            return ""
        return f" /* reserved before {row} */" if parse(row) > self.version else f" /* since Linux {row} */"

    def _sums(self, sums: Gaps, size: int) -> Iterator[str]:
        members = sums.places
        yield f"size: {size}, cachelines: {-(-size // CACHELINE)}, members: {len(members)}"
        holes, bit_holes = [p.hole for p in members if p.hole], [p.bit_hole for p in members if p.bit_hole]
        plain, bits = sum(p.size for p in members if not p.bits), sum(p.bits[1] for p in members if p.bits)
        if plain and (holes or bit_holes):
            yield f"sum members: {plain}" + (f", holes: {len(holes)}, sum holes: {sum(holes)}" if holes else "")
        if bit_holes:
            told = f"{bits} bits ({bits // 8} bytes)" if bits % 8 == 0 else f"{bits} bits"
            yield f"sum bitfield members: {told}, bit holes: {len(bit_holes)}, sum bit holes: {sum(bit_holes)} bits"
        if sums.padding:
            yield f"padding: {sums.padding}"
        if sums.bit_padding:
            yield f"bit_padding: {sums.bit_padding} bits"
        inner = [n for p in members if (n := p.padding)]
        forced = [p for p in members if p.aligned]
        before = [p.hole for p, after in pairwise(members) if p.hole and after.aligned]
        if inner:
            yield f"paddings: {len(inner)}, sum paddings: {sum(inner)}"
        if forced:
            told = f", forced holes: {len(before)}, sum forced holes: {sum(before)}" if before else ""
            yield f"forced alignments: {len(forced)}{told}"
        if size % CACHELINE:
            yield f"last cacheline: {size % CACHELINE} bytes"


def _attribute(aligned: int) -> str:
    return f" __attribute__((__aligned__({aligned})))" if aligned else ""


def _remarks(place: Place) -> Iterator[str]:
    """What pahole marks with XXX behind a member."""
    if n := place.padding:
        yield f"last struct has {n} byte{'s' * (n > 1)} of padding"
    if place.bit_hole:
        yield f"{place.bit_hole} bit{'s' * (place.bit_hole > 1)} hole, try to pack"
    if place.hole:
        yield f"{place.hole} byte{'s' * (place.hole > 1)} hole, try to pack"
