"""The vocabulary of struct fields, and what one annotation means in C. Import it from ``pykernel.uapi.struct``."""

from __future__ import annotations

from typing import Annotated, Any

from pykernel.uapi.storage import Storage

__all__ = [
    "ZERO", "Bits", "Group", "Member", "Name", "anon_struct", "anon_union", "parse",
    "s8", "s16", "s32", "s64", "u8", "u16", "u32", "u64",
]  # fmt: skip

u8 = Annotated[int, "uint8_t"]
u16 = Annotated[int, "uint16_t"]
u32 = Annotated[int, "uint32_t"]
u64 = Annotated[int, "uint64_t"]
s8 = Annotated[int, "int8_t"]
s16 = Annotated[int, "int16_t"]
s32 = Annotated[int, "int32_t"]
s64 = Annotated[int, "int64_t"]

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

    __slots__ = ("as_bytes", "bits", "cname", "dims", "elem", "name")

    def __init__(self, name: str, elem: Elem, dims: tuple[int | None, ...], bits: int, cname: str) -> None:
        self.name, self.elem, self.dims, self.bits, self.cname = name, elem, dims, bits, cname
        self.as_bytes = False

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
        return Member(name, base, (), 0, name)
    if not meta:
        raise TypeError(f"{cls.__name__}.{name}: {hint!r} is no C type")
    elem, *rest = meta
    elem = getattr(elem, "__metadata__", (elem,))[0]
    bits = sum(m.width for m in rest if isinstance(m, Bits))
    cname = "".join(m.c for m in rest if isinstance(m, Name))
    dims = tuple(None if m is ... else m for m in rest if m is ... or isinstance(m, int))
    if not isinstance(elem, (str, type)) or len(dims) + bool(bits) + bool(cname) != len(rest):
        raise TypeError(f"{cls.__name__}.{name}: cannot read {hint!r}")
    member = Member(name, elem, dims, bits, cname or name)
    member.as_bytes = base is bytes
    return member
