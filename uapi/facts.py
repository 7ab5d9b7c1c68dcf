"""
What a header module states, each statement with the C that asks a compiler for the truth.

Each fact (the value of a constant, the place of a field, the bits of a bit-field) is one C statement that prints what
the compiler thinks of it. A statement that does not compile has a name that the header does not have.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from inspect import isfunction, signature
from types import ModuleType
from typing import NamedTuple

from pykernel.uapi import catalog, history
from pykernel.uapi.history import AGELESS, Version
from pykernel.uapi.ioctl import Ioctl
from pykernel.uapi.shape import ctype, is_inline
from pykernel.uapi.storage import get_ffi
from pykernel.uapi.struct import Field, Struct, cname, layout

__all__ = ["Fact", "facts", "inner_names"]

_SAMPLES = (0, 1, 0x12345678, 0xFFFFFFFF)
"""Arguments for macros with arguments."""


class Fact(NamedTuple):
    """What we hold true of *subject*, and the C statement that prints the truth."""

    subject: str
    fact: str
    ours: str
    c: str  # with {i} where its number goes


def facts(module: ModuleType, version: Version = AGELESS) -> list[Fact]:
    """Everything that a header module states of the headers of *version*."""
    return [fact for entry in catalog.entries(module) for fact in _of_entry(entry, version)]


def inner_names(module: ModuleType) -> Iterator[str]:
    """``tag.member.inner`` for members whose struct has no name in C: the header's text has no other name for these."""
    for entry in catalog.entries(module):
        if isinstance(entry.value, type) and issubclass(entry.value, Struct):
            yield from (f"{entry.name}.{name}" for name in _inner(entry.value))


def _inner(cls: type[Struct]) -> Iterator[str]:
    layout(cls)
    for m in cls._members.values():
        inner: type[Struct] | None = m.cls
        if inner and is_inline(inner):
            yield from (f"{m.cname}.{f.cname}" for f in layout(inner))
            yield from (f"{m.cname}.{name}" for name in _inner(inner))


def _of_entry(entry: catalog.Entry, version: Version) -> Iterator[Fact]:
    name, value = entry.name, entry.value
    if isinstance(value, Ioctl):
        own = value.struct is not None and value.struct.__module__ == entry.module.__name__
        table = history.newer(entry.module) if own else None
        yield _number(name, "value", history.nr_at(value, version, table), name)
    elif isinstance(value, int):
        yield _number(name, "value", int(value), name)
    elif isinstance(value, str):
        yield Fact(name, "text", f"0x{value.encode().hex()}00", f"dump({{i}}, {name}, sizeof({name}));")
    elif isfunction(value):
        yield from _macro(name, value)
    elif isinstance(value, type) and issubclass(value, Struct):
        yield from _struct(value, history.at(value, version, history.newer(entry.module)))


def _number(subject: str, fact: str, ours: int, expression: str) -> Fact:
    # As printf's %#llx prints it: zero has no prefix, negative numbers are those of unsigned long long.
    return Fact(subject, fact, f"{ours & (1 << 64) - 1:#x}" if ours else "0", f"number({{i}}, {expression});")


def _macro(name: str, function: Callable[..., int]) -> Iterator[Fact]:
    count = len(signature(function).parameters)
    for x in _SAMPLES:
        arguments = ", ".join([f"{x:#x}U"] * count)
        yield _number(name, f"({arguments})", function(*[x] * count), f"{name}({arguments})")


def _struct(cls: type[Struct], old: type[Struct]) -> Iterator[Fact]:
    """*old* is what the headers asked have; members that only *cls* has are asked for as *cls* has them."""
    tag, name = cname(cls), cls.__name__
    yield _number(name, "sizeof", old.sizeof(), f"sizeof({tag})")
    yield _number(name, "alignment", get_ffi().alignof(old._ctype()), f"_Alignof({tag})")
    there = {f.name: f for f in layout(old)}
    for f in layout(cls):
        yield from _field(old if f.name in there else cls, there.get(f.name, f), f"{name}.{f.cname}", tag)


def _type(cls: type[Struct], f: Field, subject: str, pointer: str) -> Fact:
    """With qualifiers, and an array is no single one; what has 64 bits may be long or long long."""
    m = cls._members[f.name]
    dims = "".join("[]" if n is None else f"[{n}]" for n in m.dims)
    names = [ctype(m)]
    if f.signed is not None and "64" in names[0]:
        names.append(f"{'volatile ' if 'volatile' in names[0] else ''}{'' if f.signed else 'unsigned '}long")
    same = " || ".join(f"__builtin_types_compatible_p(__typeof__({pointer}), {name} (*){dims})" for name in names)
    return Fact(subject, f"type {names[0]}{dims}", "0x1", f"number({{i}}, {same});")


def _field(cls: type[Struct], f: Field, subject: str, tag: str) -> Iterator[Fact]:
    member = f"(({tag} *)0)->{f.cname}"
    element = f.cname + "[0]" * f.rank
    if f.bits:
        ones = cls(**{f.name: -1 if f.signed else (1 << f.bits[1]) - 1})
        dump = f"{tag} s; memset(&s, 0, sizeof s); s.{f.cname} = -1; dump({{i}}, &s, sizeof s);"
        yield Fact(subject, "all ones", f"0x{bytes(ones).hex()}", dump)
    else:
        yield _number(subject, "offset", f.offset, f"offsetof({tag}, {f.cname})")
    if f.size and not f.bits:
        yield _number(subject, "size", f.size, f"sizeof({member})")
    if f.rank:
        yield _number(subject, "size of an element", f.item, f"sizeof((({tag} *)0)->{element})")
    if f.signed is not None:
        # A bit-field has no __typeof__; a pointer that we hold to be a number takes no -1 without a cast.
        bits = f"{tag} s; memset(&s, 0, sizeof s); s.{element} = -1; number({{i}}, s.{element} < 0);"
        place = bits if f.bits else f"number({{i}}, (__typeof__((({tag} *)0)->{element}))-1 < 0);"
        yield Fact(subject, "signed", "0x1" if f.signed else "0", place)
    if not f.bits:
        yield _type(cls, f, subject, f"&{member}")
