"""The header modules that there are, and where a name of theirs is found."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from enum import Enum
from functools import cache
from importlib import import_module
from inspect import isfunction
from pathlib import Path
from pkgutil import iter_modules
from types import ModuleType
from typing import Any, NamedTuple

from pykernel import uapi
from pykernel.uapi.ioctl import Ioctl
from pykernel.uapi.struct import Struct

__all__ = [
    "Entry",
    "entries",
    "find",
    "find_module",
    "header_modules",
    "headers",
    "kind",
    "near",
    "source_tree",
    "title",
]


_ABOUT = frozenset({"HEADERS", "NEWER", "OLDER", "OMITTED", "BACKPORTED", "SAME_SIZE", "IN_C", "AS_OF"})
"""Names that say something of a module, not of its header."""


class Entry(NamedTuple):
    """One name of a header module: a constant, an enum, an enumerator, an ioctl, a struct, a macro with arguments."""

    name: str
    value: Any
    module: ModuleType
    enum: type[Enum] | None = None  # of an enumerator


def header_modules() -> list[ModuleType]:
    """Every header module there is: those in the packages below ``pykernel.uapi``."""
    packages = [p.name for p in iter_modules(uapi.__path__, "pykernel.uapi.") if p.ispkg]
    found = [m.name for p in packages for m in iter_modules(import_module(p).__path__, f"{p}.") if not m.ispkg]
    return [import_module(name) for name in found]


def title(module: ModuleType) -> str:
    """``pykernel.uapi.linux.idxd`` is ``linux/idxd.h``."""
    return module.__name__.rpartition("uapi.")[2].replace(".", "/") + ".h"


def headers(module: ModuleType) -> tuple[str, ...]:
    """The headers to try in turn: its :func:`title`, unless the module says otherwise; () when Linux never had it."""
    return tuple(getattr(module, "HEADERS", (title(module),)))


@cache
def source(module: ModuleType) -> str:
    """The module's own text; "" for a module that was not read from a file."""
    file = getattr(module, "__file__", None)
    return Path(file).read_text() if file else ""


@cache
def source_tree(module: ModuleType) -> ast.Module:
    """The module's own text, parsed."""
    return ast.parse(source(module))


@cache
def _imported(module: ModuleType) -> frozenset[str]:
    found = [node for node in source_tree(module).body if isinstance(node, ast.ImportFrom)]
    return frozenset(alias.asname or alias.name for node in found for alias in node.names)


def entries(module: ModuleType) -> Iterator[Entry]:
    """What a header module says of its header, in its order; nothing of what it imports, no classes of its own use."""
    skipped, told = _imported(module) | _ABOUT, set[str]()
    for name, value in vars(module).items():
        if name[:2] == "__" == name[-2:] or name in skipped or name in told:
            continue
        if isinstance(value, type) and issubclass(value, Enum):
            if value.__module__ == module.__name__:
                yield Entry(name, value, module)
                members = [Entry(member.name, member, module, value) for member in value]
                told |= {member.name for member in members}
                yield from members
        elif isinstance(value, (int, str, Ioctl)) or (
            (isfunction(value) or (isinstance(value, type) and issubclass(value, Struct)))
            and value.__module__ == module.__name__
        ):
            yield Entry(name, value, module)


def kind(entry: Entry) -> str:
    """ "struct", "enum", "ioctl", "constant" or "macro" (with arguments)."""
    value = entry.value
    if isinstance(value, type):
        return "enum" if issubclass(value, Enum) else "struct"
    if isinstance(value, Ioctl):
        return "ioctl"
    return "constant" if isinstance(value, (int, str)) else "macro"


def find(name: str) -> list[Entry]:
    """Every header's entry of that name, which several may have; ``struct x`` and ``enum x`` are also names."""
    name = name.split()[-1] if name.split()[:1] in (["struct"], ["union"], ["enum"]) else name
    return [entry for module in header_modules() for entry in entries(module) if entry.name == name]


def find_module(name: str) -> ModuleType | None:
    """``vfio``, ``linux/vfio``, ``linux/vfio.h``, ``linux.vfio`` and ``pykernel.uapi.linux.vfio`` are the same."""
    wanted = name.removesuffix(".h").replace(".", "/").rpartition("uapi/")[2]
    for module in header_modules():
        full = title(module).removesuffix(".h")
        if wanted in (full, full.rpartition("/")[2]):
            return module
    return None


def near(name: str, known: Iterator[str] | list[str]) -> list[str]:
    """Names that may have been meant: nearly alike, or with the same beginning or middle."""
    from difflib import get_close_matches

    by_lower = {k.lower(): k for k in known}
    close = get_close_matches(name.lower(), by_lower, n=4, cutoff=0.7)
    close += [k for k in sorted(by_lower, key=len) if len(name) > 2 and name.lower() in k and k not in close]
    return [by_lower[k] for k in close[:5]]
