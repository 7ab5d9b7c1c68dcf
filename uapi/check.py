"""
Does a header module say what the real header says? Asks a C compiler.

Each fact of a module (the value of a constant, the place of a field, the bits of a bit-field) becomes one C function
that prints what the compiler thinks of it. A function that does not compile is a name that the header does not have.
In the other direction, the header's own text says which names the module forgot.

A module may say: ``HEADERS`` (the headers to try in turn, when its own name does not give it), ``NEWER`` (name ->
the kernel that brought it, or changed it) and ``OMITTED`` (pattern -> why the module leaves these names out).
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator
from enum import IntEnum
from fnmatch import fnmatchcase
from importlib import import_module
from inspect import isfunction, signature
from pathlib import Path
from pkgutil import iter_modules
from types import ModuleType
from typing import NamedTuple

from pykernel import uapi
from pykernel.uapi import ctext
from pykernel.uapi.ioctl import Ioctl
from pykernel.uapi.struct import Field, Struct, cname, layout

__all__ = ["CheckError", "Difference", "check", "facts", "header_modules", "headers"]

_SAMPLES = (0, 1, 0x12345678, 0xFFFFFFFF)
"""Arguments for macros with arguments."""

_PRELUDE = r"""
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <linux/ioctl.h>
#include <linux/version.h>
{include}
static void number(int i, unsigned long long n) {{ printf("%d %#llx\n", i, n); }}
static void dump(int i, const void *p, size_t n)
{{
    printf("%d 0x", i);
    for (size_t k = 0; k < n; k++) printf("%02x", ((const unsigned char *)p)[k]);
    puts("");
}}
"""


class CheckError(RuntimeError):
    """The check cannot be made: no C compiler, or no such header."""


class Difference(NamedTuple):
    """One disagreement. None stands for "has no such name"."""

    module: str
    subject: str
    fact: str
    ours: str | None
    theirs: str | None

    def __str__(self) -> str:
        if self.theirs is None:
            return f"{self.module}: {self.subject}: not in the header"
        if self.ours is None:
            return f"{self.module}: {self.subject}: only in the header"
        return f"{self.module}: {self.subject}: {self.fact} is {self.theirs} in the header, {self.ours} here"


class Fact(NamedTuple):
    """What we hold true of *subject*, and the C statement that prints the truth."""

    subject: str
    fact: str
    ours: str
    c: str  # with {i} where its number goes


def facts(module: ModuleType) -> list[Fact]:
    """Everything that a header module states."""
    out: list[Fact] = []
    for name, value in vars(module).items():
        if name.startswith("__"):
            continue
        if isinstance(value, Ioctl):
            out.append(_constant(name, value.nr))
        elif isinstance(value, int):
            out.append(_constant(name, int(value)))
        elif getattr(value, "__module__", "") != module.__name__:
            continue
        elif isfunction(value):
            out += _macro(name, value)
        elif isinstance(value, type) and issubclass(value, IntEnum):
            out += [_constant(member.name, int(member)) for member in value]
        elif isinstance(value, type) and issubclass(value, Struct):
            out += _struct(value)
    return out


def _number(subject: str, fact: str, ours: int, expression: str) -> Fact:
    # As printf's %#llx prints it: zero has no prefix, negative numbers are those of unsigned long long.
    return Fact(subject, fact, f"{ours & (1 << 64) - 1:#x}" if ours else "0", f"number({{i}}, {expression});")


def _constant(name: str, value: int) -> Fact:
    return _number(name, "value", value, name)


def _macro(name: str, function: Callable[..., int]) -> Iterator[Fact]:
    count = len(signature(function).parameters)
    for x in _SAMPLES:
        arguments = ", ".join([f"{x:#x}U"] * count)
        yield _number(name, f"({arguments})", function(*[x] * count), f"{name}({arguments})")


def _struct(cls: type[Struct]) -> Iterator[Fact]:
    ctype, name = cname(cls), cls.__name__
    size = "offsetof" if cls.has_flexible_array() else "sizeof"
    last = layout(cls)[-1].cname
    whole = f"offsetof({ctype}, {last})" if size == "offsetof" else f"sizeof({ctype})"
    ours = cls.offsetof(layout(cls)[-1].name) if size == "offsetof" else cls.sizeof()
    yield _number(name, size, ours, whole)
    for f in layout(cls):
        yield from _field(cls, f, f"{name}.{f.cname}", ctype)


def _field(cls: type[Struct], f: Field, subject: str, ctype: str) -> Iterator[Fact]:
    member = f"(({ctype} *)0)->{f.cname}"
    element = f.cname + "[0]" * f.rank
    if f.bits:
        ones = cls(**{f.name: -1 if f.signed else (1 << f.bits[1]) - 1})
        dump = f"{ctype} s; memset(&s, 0, sizeof s); s.{f.cname} = -1; dump({{i}}, &s, sizeof s);"
        yield Fact(subject, "all ones", f"0x{bytes(ones).hex()}", dump)
    else:
        yield _number(subject, "offset", f.offset, f"offsetof({ctype}, {f.cname})")
    if f.size and not f.bits:
        yield _number(subject, "size", f.size, f"sizeof({member})")
    if f.rank:
        yield _number(subject, "size of an element", f.item, f"sizeof((({ctype} *)0)->{element})")
    if f.signed is not None:
        sign = f"{ctype} s; memset(&s, 0, sizeof s); s.{element} = -1; number({{i}}, s.{element} < 0);"
        place = sign if f.rank == 0 or f.size else f"number({{i}}, (__typeof__((({ctype} *)0)->{element}))-1 < 0);"
        yield Fact(subject, "signed", "0x1" if f.signed else "0", place)


def header_modules() -> list[ModuleType]:
    """Every header module there is: those in the packages below ``pykernel.uapi``."""
    packages = [p.name for p in iter_modules(uapi.__path__, "pykernel.uapi.") if p.ispkg]
    found = [m.name for p in packages for m in iter_modules(import_module(p).__path__, f"{p}.") if not m.ispkg]
    return [import_module(name) for name in found]


def headers(module: ModuleType) -> tuple[str, ...]:
    """``pykernel.uapi.linux.idxd`` is ``linux/idxd.h``, unless the module says otherwise."""
    own = module.__name__.partition("uapi.")[2].replace(".", "/") + ".h"
    return tuple(getattr(module, "HEADERS", (own,)))


class _Compiler:
    """cc, pointed at some headers."""

    def __init__(self, cc: str, headers_dir: Path | None, names: tuple[str, ...], where: str) -> None:
        self.cc, self.names, self.where = cc, names, Path(where)
        # The two annotations stand in a kernel tree's own headers; installing takes them away.
        self.flags = ["-std=gnu11", "-D__force=", "-D__user=", "-Werror=implicit-function-declaration"]
        self.flags += [f"-I{headers_dir}"] if headers_dir else []
        lines = [f"#{'el' * (n > 0)}if __has_include(<{h}>)\n#include <{h}>" for n, h in enumerate(names)]
        self.include = "\n".join([*lines, "#else", "#error no-header", "#endif"])

    def run(self, *args: str) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, "LC_ALL": "C"}
        try:
            done = subprocess.run([self.cc, *self.flags, *args], capture_output=True, text=True, env=env, check=False)
        except OSError as e:
            raise CheckError(f"no C compiler: {e}") from None
        if "no-header" in done.stderr:
            raise CheckError(f"no header {' or '.join(self.names)}")
        return done

    def ask(self, wanted: list[Fact]) -> dict[int, str]:
        """The answers by the number of the fact; a fact that does not compile has none."""
        left = dict(enumerate(wanted))
        source, program = self.where / "facts.c", self.where / "facts"
        while True:
            source.write_text(self._source(left))
            done = self.run("-o", str(program), str(source))
            if done.returncode == 0:
                output = subprocess.run([str(program)], capture_output=True, text=True, check=True).stdout
                return {int(i): text for i, text in (line.split() for line in output.splitlines())}
            wrong = set(_wrong_functions(done.stderr))
            if not wrong & left.keys():
                raise CheckError(f"{self.names[0]} does not compile:\n{done.stderr}")
            left = {i: fact for i, fact in left.items() if i not in wrong}

    def _source(self, left: dict[int, Fact]) -> str:
        functions = [f'#line {i} "facts"\nstatic void f{i}(void) {{ {f.c.format(i=i)} }}' for i, f in left.items()]
        calls = "".join(f" f{i}();" for i in left)
        return "\n".join([_PRELUDE.format(include=self.include), *functions, f"int main(void) {{{calls} return 0; }}"])

    def text(self) -> str:
        """The header itself, preprocessed, with its own macro definitions; nothing of what it includes."""
        source = self.where / "header.c"
        source.write_text(self.include)
        return ctext.own_text(self.run("-E", "-dD", str(source)).stdout, self.names)


def _wrong_functions(stderr: str) -> Iterator[int]:
    """The numbers of the functions with errors, also where the error is told of the header that holds the macro."""
    function = 0
    for line in stderr.splitlines():
        if heading := re.search(r"In function .f(\d+)", line):
            function = int(heading[1])
        elif ": error:" in line:
            here = re.match(r"facts:(\d+):", line)
            yield int(here[1]) if here else function


def check(headers_dir: Path | None, modules: Iterable[ModuleType], *, cc: str = "cc") -> list[Difference]:
    """
    Compare *modules* with the C headers in *headers_dir* (None: those that the compiler finds by itself).

    Raises CheckError when there is no compiler or no such header.
    """
    return [difference for module in modules for difference in _check_module(headers_dir, module, cc)]


def _check_module(headers_dir: Path | None, module: ModuleType, cc: str) -> Iterator[Difference]:
    stated = facts(module)
    with tempfile.TemporaryDirectory() as where:
        compiler = _Compiler(cc, headers_dir, headers(module), where)
        text = compiler.text()
        answers = compiler.ask([*stated, _number("", "version", 0, "LINUX_VERSION_CODE")])
    version = _version(int(answers.pop(len(stated)), 16))
    later = {name for name, since in getattr(module, "NEWER", {}).items() if _since(since) > version}
    yield from _wrong(module, stated, answers, later)
    yield from _already_there(module, stated, answers, later)
    yield from _forgotten(module, text, {f.subject for f in stated})


def _version(code: int) -> tuple[int, int]:
    return code >> 16, code >> 8 & 0xFF


def _since(version: str) -> tuple[int, int]:
    major, minor = version.split(".")
    return int(major), int(minor)


def _is_later(subject: str, later: set[str]) -> bool:
    return subject in later or subject.partition(".")[0] in later


def _wrong(module: ModuleType, stated: list[Fact], answers: dict[int, str], later: set[str]) -> Iterator[Difference]:
    missing: set[str] = set()
    for i, f in enumerate(stated):
        if _is_later(f.subject, later) or f.subject in missing or answers.get(i) == f.ours:
            continue
        if i not in answers:
            missing.add(f.subject)
        yield Difference(module.__name__, f.subject, f.fact, f.ours, answers.get(i))


def _already_there(
    module: ModuleType, stated: list[Fact], answers: dict[int, str], later: set[str]
) -> Iterator[Difference]:
    """A row of NEWER that older headers do not bear out."""
    for name in sorted(later):
        same = [answers.get(i) == f.ours for i, f in enumerate(stated) if f.subject == name]
        if all(same):
            yield Difference(module.__name__, name, "NEWER", module.NEWER[name], "older" if same else None)


def _forgotten(module: ModuleType, text: str, known: set[str]) -> Iterator[Difference]:
    omitted: dict[str, str] = getattr(module, "OMITTED", {})
    for name in ctext.names(text):
        if name not in known and not any(fnmatchcase(name, pattern) for pattern in omitted):
            yield Difference(module.__name__, name, "name", None, "there")
