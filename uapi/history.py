"""
What a header module says of other kernels than the newest.

``NEWER`` names what older headers do not have and the kernel that brought it; ``OLDER`` names what
newer headers no longer have, and the last kernel that had it. ``CHANGED`` names what older headers have with another
value, or in another shape and the same bytes, and the kernel that gave it this one. Rows are macros, enumerators,
structs as ``tag`` and their members as ``tag.member``.

From these rows follows what a struct was before it grew: members at its end that a kernel does not have yet are not
there; members before an older one took the place of reserved bytes, and so did all new members of structs in the set
``SAME_SIZE``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import cache
from types import new_class
from typing import Annotated, Any, NamedTuple, TypeVar

from pykernel.uapi.ioctl import _IOC, Ioctl
from pykernel.uapi.shape import Node, tree
from pykernel.uapi.struct import ZERO, Bits, Name, Struct, Union, anon_struct, anon_union

__all__ = ["AGELESS", "AS_OF", "Table", "Version", "at", "newer", "nr_at", "older", "parse", "since", "sizes"]

Table = Mapping[str, str]
S = TypeVar("S", bound=Struct)


class Version(NamedTuple):
    """A kernel, as far as headers tell kernels apart."""

    major: int
    minor: int

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}"


AGELESS = Version(9999, 0)
"""Of no kernel: headers with all that the tables state, what is new and what is gone."""

AS_OF = "7.3"
"""The newest kernel that the header modules were made from, unless a module has its own ``AS_OF``."""


def parse(text: str) -> Version:
    """``6.12``, and ``6.12.3`` which has the same headers. ValueError: anything else."""
    parts = text.removeprefix("v").partition("-")[0].split(".")
    if len(parts) not in (2, 3) or not all(part.isdecimal() for part in parts):
        raise ValueError(f"{text!r} is no kernel version: give one like 6.12")
    return Version(int(parts[0]), int(parts[1]))


def _table(cls_or_module: Any, name: str) -> Any:
    module = sys.modules.get(cls_or_module.__module__) if isinstance(cls_or_module, type) else cls_or_module
    return getattr(module, name, {})


def newer(cls_or_module: Any) -> Table:
    """The tables NEWER and CHANGED of a class, or of a module: name -> the kernel that brought it, or this shape."""
    return {**_table(cls_or_module, "NEWER"), **_table(cls_or_module, "CHANGED")}


def older(cls_or_module: Any) -> Table:
    """The table OLDER that tells of a class, or of a module: name -> the last kernel that had it."""
    rows: Table = _table(cls_or_module, "OLDER")
    return rows


def since(table: Table, subject: str) -> str:
    """The row of a name; what is said of a struct is said of its members. "" without one."""
    return table.get(subject) or table.get(subject.partition(".")[0], "")


def _trim(node: Node, is_new: Callable[[str], bool], *, ends: bool = True) -> Node | None:
    """What an older kernel had of *node*, None for nothing; *ends*: what is new at its end was not there."""
    if node.member:
        return None if is_new(node.member.cname) else node
    children = list(node.children)
    if node.kind == "union":
        children = [old for child in children if (old := _trim(child, is_new))]
    else:
        last = None
        while ends and children and (last := _trim(children[-1], is_new)) is None:
            children.pop()
        # members before an older one were reserved bytes, they keep their place
        children = [(child.kind == "union" and _trim(child, is_new)) or child for child in children]
        if children:
            children[-1] = last or children[-1]
    return node._replace(children=tuple(children)) if children else None


def at(cls: type[S], version: Version, table: Table | None = None) -> type[S]:
    """
    The struct as the headers of *version* have it; the class itself when it was the same.

    *table* takes the place of NEWER of the class's module.
    """
    rows = _table(cls, "NEWER") if table is None else table
    own = {k: v for k, v in rows.items() if k.partition(".")[0] == cls.__name__ and k not in _table(cls, "CHANGED")}
    return _at(cls, version, tuple(own.items()))


@cache
def _at(cls: type[S], version: Version, rows: tuple[tuple[str, str], ...]) -> type[S]:
    cls.sizeof()
    hints: dict[str, Any] = {}
    for name, member in cls._members.items():
        old = at(member.cls, version) if member.cls else None
        if old is not member.cls:
            hints[name] = old
    later = {k.partition(".")[2] for k, v in rows if "." in k and parse(v) > version}
    whole = tree(cls)
    root = _trim(whole, later.__contains__, ends=cls.__name__ not in _table(cls, "SAME_SIZE")) or whole
    if root == whole and not hints:
        return cls
    return _made(cls, root, hints)


def _made(cls: type[S], root: Node, nested: dict[str, Any]) -> type[S]:
    """A class with the members of *root*; *nested* are those whose own struct was another."""
    body: dict[str, Any] = {}
    hints: dict[str, Any] = {}

    def put(node: Node) -> None:
        m = node.member
        if m is None:
            make = anon_union if node.kind == "union" else anon_struct
            body[node.name] = make(until=_last(node), packed=node.packed)
            for child in node.children:
                put(child)
            return
        elem = nested.get(node.name, m.elem)
        rest = [*(... if n is None else n for n in m.dims), *([Bits(m.bits)] if m.bits else ()), Name(m.cname)]
        rest += [m.given] if m.given else []
        hints[node.name] = Annotated[(bytes if m.as_bytes else Any, elem, *rest)]
        body[node.name] = ZERO

    for child in root.children:
        put(child)
    body["__annotations__"], body["__module__"] = hints, cls.__module__
    keywords = {"packed": cls._packed, "ctype": cls._given}
    base: type[Struct] = Union if root.kind == "union" else Struct
    return new_class(cls.__name__, (base,), keywords, lambda ns: ns.update(body))


def _last(node: Node) -> str:
    return node.name if node.member else _last(node.children[-1])


def _turns(cls: type[Struct], table: Table | None) -> set[Version]:
    """The kernels that may have changed the size."""
    rows = _table(cls, "NEWER") if table is None else table
    own = {parse(v) for k, v in rows.items() if k.partition(".")[0] == cls.__name__}
    cls.sizeof()
    nested = [member.cls for member in cls._members.values() if member.cls]
    return own.union(*(_turns(inner, None) for inner in nested))


def sizes(cls: type[Struct], table: Table | None = None) -> tuple[tuple[str, int], ...]:
    """
    How the struct grew: (kernel, ``sizeof`` since then), ascending.

    The first kernel is "" when the struct is older than what the tables tell of.
    """
    rows = _table(cls, "NEWER") if table is None else table
    born = rows.get(cls.__name__, "")
    first = parse(born) if born else Version(0, 0)
    out = [(born, at(cls, first, table).sizeof())]
    for version in sorted(_turns(cls, table)):
        size = at(cls, version, table).sizeof()
        if version > first and size != out[-1][1]:
            out.append((str(version), size))
    return tuple(out)


def nr_at(row: Ioctl[Any], version: Version, table: Table | None = None) -> int:
    """The number of an ioctl in the headers of *version*: a struct that grew changed the size in it."""
    if row.struct is None or not row.direction:
        return row.nr
    return _IOC(row.direction, row.magic, row.index, at(row.struct, version, table).sizeof())
