"""
A header module as a C header that compiles: the same structs, constants and ioctls as the module states.

A module may say ``IN_C`` (name -> its definition in C): what Python has no word for, or says in another way.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from pykernel.uapi import catalog, cexpr, history
from pykernel.uapi.ioctl import Ioctl, decode
from pykernel.uapi.shape import Node, ctype, is_inline, tree
from pykernel.uapi.struct import Struct, cname

__all__ = ["definition", "header", "write"]

_NOT_IN_CPP = frozenset((
    "and", "bool", "catch", "class", "compl", "delete", "explicit", "export", "false", "friend", "mutable", "namespace",
    "new", "not", "operator", "or", "private", "protected", "public", "template", "this", "throw", "true", "try",
    "typeid", "typename", "using", "virtual", "xor",
))  # fmt: skip


def write(where: Path, modules: list[ModuleType]) -> None:
    """Every header of *modules* into the directory *where*, each at the path that #include gives it."""
    for module in modules:
        path = where / _path(module)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(header(module))


def _path(module: ModuleType) -> str:
    return next(iter(catalog.headers(module)), catalog.title(module))


def header(module: ModuleType) -> str:
    """The text of the header, with names that are new and names that are gone: comments tell."""
    return "\n".join([*_Header(module).lines(), ""])


def definition(entry: catalog.Entry) -> str:
    """``#define NAME ...`` of a constant, an ioctl or a macro with arguments; a comment when C has no word for it."""
    return _Header(entry.module).define(entry.name, entry.value)


class _Header:
    """The header of one module, in the making."""

    def __init__(self, module: ModuleType) -> None:
        self.module, self.text = module, catalog.source(module).splitlines()
        self.newer, self.older = history.newer(module), history.older(module)
        self.entries = list(catalog.entries(module))
        self.nodes: dict[str, Any] = {}
        for node in catalog.source_tree(module).body:
            self._note(node, self.nodes)
        self.includes = [m for m in catalog.header_modules() if m.__name__ in self._imports()] if self.text else []
        there = [e for m in (module, *self.includes) for e in catalog.entries(m)]
        self.names = cexpr.known({e.name: cname(e.value) if catalog.kind(e) == "struct" else e.name for e in there})
        self.done: set[type[Struct]] = set()
        self.in_c: dict[str, str] = dict(getattr(module, "IN_C", {}))  # those that are not written yet

    def _note(self, node: ast.stmt, into: dict[str, Any]) -> None:
        """The source of each name: of a function itself, of a constant its value, of an enum its members' values."""
        match node:
            case ast.FunctionDef(name=name):
                into[name] = node
            case ast.ClassDef(body=body):
                for inner in body:
                    if isinstance(inner, ast.Assign):
                        self._note(inner, into)
            case (
                ast.Assign(targets=[ast.Name(id=name)], value=value)
                | ast.AnnAssign(target=ast.Name(id=name), value=value)
            ) if value:
                into[name] = value

    def _imports(self) -> set[str]:
        found = [node for node in catalog.source_tree(self.module).body if isinstance(node, ast.ImportFrom)]
        return {str(node.module) for node in found} | {f"{node.module}.{a.name}" for node in found for a in node.names}

    def lines(self) -> Iterator[str]:
        """All of it."""
        guard = re.sub(r"\W", "_", f"PYKERNEL_UAPI_{_path(self.module)}").upper()
        yield f"/* {_comment(self.module.__doc__ or _path(self.module))} */"
        yield "/* Written from pykernel's tables by: pykernel uapi header */"
        yield from (f"#ifndef {guard}", f"#define {guard}", "")
        yield from ("#include <linux/types.h>", "#include <linux/ioctl.h>")
        yield from (f"#include <{_path(m)}>" for m in self.includes)
        body = [line for entry in self.entries for line in self._entry(entry)]
        body += [line for name in list(self.in_c) for line in self._given(name)]
        if any("__virtio" in line for line in body):
            yield "#include <linux/virtio_types.h>"
        yield from body
        omitted: dict[str, str] = getattr(self.module, "OMITTED", {})
        yield ""
        yield from (f"/* not here: {name}: {_comment(why)} */" for name, why in omitted.items())
        yield f"#endif /* {guard} */"

    def _entry(self, entry: catalog.Entry) -> Iterator[str]:
        name, value = entry.name, entry.value
        if isinstance(value, type) and issubclass(value, Struct):
            if not is_inline(value):
                yield from self._struct(value)
        elif isinstance(value, type):
            yield from self._enum(entry)
        elif name in self.in_c:
            yield from self._given(name)
        elif entry.enum is None and name not in getattr(self.module, "IN_C", ()):
            yield from self._heading(name)
            yield f"{self.define(name, value)}{self._age(name)}"

    def _given(self, name: str) -> Iterator[str]:
        """The module's own C for a name."""
        text = self.in_c.pop(name)
        single = "\n" not in text
        yield from ("", *text.splitlines()) if not single else (f"{text}{self._age(name)}",)

    def _heading(self, name: str) -> Iterator[str]:
        """The empty line and the comment that stand above a name in the module."""
        above = self.nodes[name].lineno - 2 if name in self.nodes else -1
        comments: list[str] = []
        while above >= 0 and self.text[above].startswith("# "):
            comments.insert(0, f"/* {_comment(self.text[above][2:])} */")
            above -= 1
        if above >= 0 and not self.text[above] and self.text[above - 1]:
            yield ""
        yield from comments

    def _age(self, name: str) -> str:
        told = [f"since Linux {self.newer[name]}"] if name in self.newer else []
        told += [f"until Linux {self.older[name]}"] if name in self.older else []
        return f" /* {', '.join(told)} */" if told else ""

    def define(self, name: str, value: Any) -> str:
        """What defines a name."""
        if text := getattr(self.module, "IN_C", {}).get(name):
            return str(text)
        node = self.nodes.get(name)
        if isinstance(value, Ioctl):
            return f"#define {name} {self._ioctl(node, value)}"
        if isinstance(value, str):
            return f'#define {name} "{value}"'
        if isinstance(value, int):
            return f"#define {name} {self._integer(node, int(value))}"
        try:
            if node is None:
                raise cexpr.NotInC("its source is not known")
            return cexpr.macro(node, self.text, self.names)
        except cexpr.NotInC as e:
            return f"/* not here: {name}: {_comment(str(e))} */"

    def _integer(self, node: Any, value: int) -> str:
        """As the source has it, if that means the same in C: C's int has 31 bits, and what is negative is no mask."""
        if isinstance(node, ast.Constant):
            return cexpr.integer(value, like=cexpr.literal(node, self.text))
        try:
            if node is not None and 0 <= value < 1 << 31:
                text = cexpr.expression(node, self.text, self.names)
                return text if text.isidentifier() else f"({text})"
        except cexpr.NotInC:
            pass
        return cexpr.integer(value)

    def _ioctl(self, node: Any, row: Ioctl[Any]) -> str:
        made, type_, nr = str(decode(row.nr)).partition("(")[0], hex(row.magic), hex(row.index)
        try:
            if isinstance(node, ast.Call):
                type_, nr = (cexpr.expression(a, self.text, self.names) for a in node.args[:2])
        except cexpr.NotInC:
            pass
        arg = cname(row.struct) if row.struct else row._scalar
        return f"{made}({type_}, {nr}{f', {arg}' if row.direction else ''})"

    def _enum(self, entry: catalog.Entry) -> Iterator[str]:
        members = [e for e in self.entries if e.enum is entry.value]
        yield from ("", f"__extension__ enum {entry.name} {{")
        for member in members:
            yield f"\t{member.name} = {self._integer(self.nodes.get(member.name), int(member.value))}," + self._age(
                member.name
            )
        yield "};"

    def _struct(self, cls: type[Struct]) -> Iterator[str]:
        """The struct, after those of its members."""
        if cls in self.done or cls.__module__ != self.module.__name__:
            return
        self.done.add(cls)
        cls.sizeof()
        for member in cls._members.values():
            if member.cls and not is_inline(member.cls):
                yield from self._struct(member.cls)
            for name in re.findall(r"\w+", ctype(member)):
                if name in self.in_c:
                    yield from self._given(name)
        yield ""
        if cls.__doc__:
            yield f"/* {_comment(cls.__doc__)} */"
        first, *rest = self.struct_lines(cls, "", "")
        yield f"__extension__ {first}"
        yield from rest

    def struct_lines(self, cls: type[Struct], indent: str, name: str) -> Iterator[str]:
        """``struct tag { ... };`` or, inside another, ``struct { ... } name;``"""
        root, tag = tree(cls), "" if name else f"{cname(cls).partition(' ')[2]} "
        yield f"{indent}{root.kind} {tag}{{"
        yield from self._children(cls, root, indent + "\t")
        yield f"{indent}}}{' ' + name if name else ''}{_PACKED * root.packed};"

    def _children(self, cls: type[Struct], node: Node, indent: str) -> Iterator[str]:
        for child in node.children:
            if child.member:
                yield from self._member(cls, child, indent)
                continue
            yield f"{indent}{child.kind} {{"
            yield from self._children(cls, child, indent + "\t")
            yield f"{indent}}}{_PACKED * child.packed};"

    def _member(self, cls: type[Struct], node: Node, indent: str) -> Iterator[str]:
        m = node.member
        assert m is not None
        dims = "".join("[]" if n is None else f"[{n}]" for n in m.dims)
        if m.cls and is_inline(m.cls):
            yield from self.struct_lines(m.cls, indent, m.cname + dims)
            return
        of = ctype(m) + " " * (ctype(m)[-1] != "*")
        bits = f":{m.bits}" if m.bits else ""
        since = self._age(f"{cls.__name__}.{m.cname}")
        if m.cname not in _NOT_IN_CPP:
            yield f"{indent}{of}{m.cname}{dims}{bits};{since}"
            return
        yield from ("#ifdef __cplusplus", f"{indent}{of}{m.cname}_{dims}{bits};", "#else")
        yield from (f"{indent}{of}{m.cname}{dims}{bits};{since}", "#endif")


_PACKED = " __attribute__((packed))"


def _comment(text: str) -> str:
    """The first sentence or line of a docstring, fit for a C comment."""
    return text.strip().partition("\n")[0].replace("``", "").replace("*/", "* /").replace("/*", "/ *")
