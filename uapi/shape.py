"""A struct class as the tree that its C declaration is: members, and anonymous structs and unions with theirs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from pykernel.uapi.members import Group, Member
from pykernel.uapi.struct import Struct, cname

__all__ = ["C_TYPES", "Node", "ctype", "is_inline", "leaves", "tree"]

C_TYPES = {f"{sign}int{bits}_t": f"__{'u' if sign else 's'}{bits}" for sign in ("u", "") for bits in (8, 16, 32, 64)}
"""What a scalar of ours is called in the kernel's headers."""


class Node(NamedTuple):
    """A member; or the struct, or an anonymous group in it, with what it has inside."""

    name: str
    kind: str  # "struct", "union"; "" for a member
    packed: bool = False
    member: Member | None = None
    children: tuple[Node, ...] = ()


def tree(cls: type[Struct]) -> Node:
    """The whole struct."""
    cls.sizeof()  # lays it out, which reads the annotations
    stack: list[tuple[str, Group, list[Node]]] = [("", Group(cls._kind, "", packed=cls._packed), [])]
    for name, group in cls._body:
        if group:
            stack.append((name, group, []))
            continue
        stack[-1][2].append(Node(name, "", member=cls._members[name]))
        while stack[-1][1].until == name:
            tag, done, children = stack.pop()
            stack[-1][2].append(Node(tag, done.kind, done.packed, None, tuple(children)))
    _, whole, children = stack[0]
    return Node(cls.__name__, whole.kind, whole.packed, None, tuple(children))


def leaves(node: Node) -> Iterator[str]:
    """The names of the members in *node*, in C order."""
    if node.member:
        yield node.name
    for child in node.children:
        yield from leaves(child)


def ctype(m: Member) -> str:
    """What the C header calls the type of a member, or of its elements."""
    return m.given.c if m.given else cname(m.cls) if m.cls else C_TYPES[str(m.elem)]


def is_inline(cls: type[Struct]) -> bool:
    """Has the struct no name in C? Then it is declared where the one member of that type is."""
    given = cls._owner._given
    return bool(given) and not given.replace("struct ", "").replace("union ", "").isidentifier()
