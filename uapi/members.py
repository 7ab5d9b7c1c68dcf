"""The vocabulary of struct fields, and what one annotation means in C. Import it from ``pykernel.uapi.struct``."""

from __future__ import annotations

from typing import Annotated, Any

from pykernel.uapi.storage import Storage

__all__ = [
    "ZERO", "Bits", "CType", "Group", "Member", "Name", "aligned_le64", "aligned_u64", "anon_struct", "anon_union",
    "be16", "char", "le16", "le32", "le64", "parse", "s8", "s16", "s32", "s64", "u8", "u16", "u32", "u64",
    "virtio16", "virtio32", "virtio64",
]  # fmt: skip

u8 = Annotated[int, "uint8_t"]
u16 = Annotated[int, "uint16_t"]
u32 = Annotated[int, "uint32_t"]
u64 = Annotated[int, "uint64_t"]
s8 = Annotated[int, "int8_t"]
s16 = Annotated[int, "int16_t"]
s32 = Annotated[int, "int32_t"]
s64 = Annotated[int, "int64_t"]


class CType:
    """
    The type as the C header spells it, where it is no plain ``__u8`` to ``__s64``: ``CType("volatile __u8")``.

    *aligned*: the bytes at a multiple of which its definition wants it.
    """

    __slots__ = ("aligned", "c")

    def __init__(self, c: str, *, aligned: int = 0) -> None:
        self.c, self.aligned = c, aligned


aligned_u64 = Annotated[int, "uint64_t", CType("__aligned_u64", aligned=8)]
"""At a multiple of 8 for 32-bit programs, too."""

char = Annotated[int, "int8_t", CType("char")]

# Numbers of a given byte order; what is read here is the host's
le16 = Annotated[int, "uint16_t", CType("__le16")]
le32 = Annotated[int, "uint32_t", CType("__le32")]
le64 = Annotated[int, "uint64_t", CType("__le64")]
aligned_le64 = Annotated[int, "uint64_t", CType("__aligned_le64", aligned=8)]
be16 = Annotated[int, "uint16_t", CType("__be16")]
virtio16 = Annotated[int, "uint16_t", CType("__virtio16")]
virtio32 = Annotated[int, "uint32_t", CType("__virtio32")]
virtio64 = Annotated[int, "uint64_t", CType("__virtio64")]

ZERO: Any = None
"""The default of a field whose zero is not ``0`` or ``b""``: nested structs and arrays."""


class Bits:
    """The width of a C bit-field."""

    __slots__ = ("width",)

    def __init__(self, width: int) -> None:
        self.width = width


class Name:
    """The member's name in C where Python cannot have it: ``pad: Annotated[u8, Name("__pad")] = 0``."""

    __slots__ = ("c",)

    def __init__(self, c: str) -> None:
        self.c = c


class Group:
    """An anonymous union or struct: the fields that follow it in the class body, up to *until*."""

    __slots__ = ("kind", "packed", "until")

    def __init__(self, kind: str, until: str, *, packed: bool) -> None:
        self.kind, self.until, self.packed = kind, until, packed


def anon_union(until: str, *, packed: bool = False) -> Group:
    """``union { ... };`` The next fields up to and with *until* share their storage."""
    return Group("union", until, packed=packed)


def anon_struct(until: str, *, packed: bool = False) -> Group:
    """``struct { ... };`` The next fields up to and with *until* follow one another (used inside a union)."""
    return Group("struct", until, packed=packed)


Elem = str | type[Any]
"""A C scalar, or the class of a nested struct."""


class Member:
    """One annotation, taken apart."""

    __slots__ = ("as_bytes", "bits", "cname", "dims", "elem", "given", "name")

    given: CType | None
    """The type in the C header, when it is not the obvious one."""

    def __init__(self, name: str, elem: Elem, dims: tuple[int | None, ...] = (), bits: int = 0) -> None:
        self.name, self.elem, self.dims, self.bits = name, elem, dims, bits
        self.cname, self.given, self.as_bytes = name, None, False

    @property
    def flexible(self) -> bool:
        """An array without a length."""
        return self.dims[:1] == (None,)

    @property
    def ctype(self) -> str:
        """What cffi calls the type of the member, or of an array's elements."""
        return self.elem if isinstance(self.elem, str) else self.elem._ctype()

    @property
    def cls(self) -> type[Any] | None:
        """The class of a nested struct."""
        return None if isinstance(self.elem, str) else self.elem

    def declare(self) -> str:
        """The C declaration."""
        dims = "".join("[]" if n is None else f"[{n}]" for n in self.dims)
        return f"{self.ctype} {self.name}{dims}{f':{self.bits}' if self.bits else ''};"


def parse(cls: type, name: str, hint: Any) -> Member:
    """Take an annotation apart; TypeError when it has no meaning in C."""
    meta = list(getattr(hint, "__metadata__", ()))
    base = getattr(hint, "__origin__", hint)
    if not meta and isinstance(base, type) and issubclass(base, Storage):
        return Member(name, base)
    if not meta:
        raise TypeError(f"{cls.__name__}.{name}: {hint!r} is no C type")
    elem, *rest = meta
    elem, *of_elem = getattr(elem, "__metadata__", (elem,))
    rest = [*of_elem, *rest]
    bits = sum(m.width for m in rest if isinstance(m, Bits))
    dims = tuple(None if m is ... else m for m in rest if m is ... or isinstance(m, int))
    if not isinstance(elem, (str, type)) or any(
        not (m is ... or isinstance(m, (int, Bits, Name, CType))) for m in rest
    ):
        raise TypeError(f"{cls.__name__}.{name}: cannot read {hint!r}")
    member = Member(name, elem, dims, bits)
    for m in rest:
        if isinstance(m, Name):
            member.cname = m.c
        elif isinstance(m, CType):
            member.given = m  # that of the member, which comes after that of its elements
    member.as_bytes = base is bytes
    return member
