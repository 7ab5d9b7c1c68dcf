"""
Does a header module say what the real header says? Asks a C compiler.

In one direction, every fact of the module is looked up in the header; in the other, the header's own text says which
names the module forgot.

A module may say ``HEADERS`` (the headers to try in turn, when its own name does not give it; () for one that Linux
never had), ``OMITTED`` (pattern -> why the module leaves these names out), ``AS_OF`` (the newest kernel that it was
made from) and of other kernels ``NEWER``, ``OLDER``, ``SAME_SIZE`` (see :mod:`pykernel.uapi.history`) and
``BACKPORTED`` (names in NEWER that stable versions of older kernels have, too).
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatchcase
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from pykernel.uapi import catalog, ctext, history
from pykernel.uapi.catalog import header_modules, headers
from pykernel.uapi.compiler import CheckError, Compiler, HeaderAbsent, HeaderBroken
from pykernel.uapi.facts import Fact, facts, inner_names
from pykernel.uapi.history import AGELESS, Table, Version

__all__ = [
    "CheckError", "Difference", "HeaderAbsent", "Report", "check", "compare", "facts", "header_modules", "headers",
]  # fmt: skip


class Difference(NamedTuple):
    """One disagreement. None stands for "has no such name"."""

    module: str
    subject: str
    fact: str
    ours: str | None
    theirs: str | None

    def __str__(self) -> str:
        return f"{self.module}: {self.sentence()}"

    def sentence(self) -> str:
        """The disagreement without the module."""
        if self.fact in ("NEWER", "OLDER"):
            return f"{self.subject}: {self.fact} says {self.ours}, but {self.theirs}"
        if self.fact == "header":
            return f"kernels of this age have it: {self.ours} of its names are known here"
        if self.theirs is None:
            return f"{self.subject}: not in the header"
        if self.fact.startswith("type "):
            return f"{self.subject}: is no {self.fact.removeprefix('type ')} in the header"
        if self.ours is None:
            return f"{self.subject}: only in the header"
        return f"{self.subject}: {self.fact} is {self.theirs} in the header, {self.ours} here"


class Report(NamedTuple):
    """
    What came out for one header.

    ``state`` is "compared"; "absent": the header is not among these; "broken": it does not compile, see ``why``;
    "never": Linux never had it, the header that :mod:`pykernel.uapi.emit` writes was compared.
    """

    module: str
    header: str
    state: str
    agree: int = 0  # facts
    newer: tuple[tuple[str, str], ...] = ()  # names that these headers do not have yet, and their kernels
    gone: tuple[tuple[str, str], ...] = ()  # names that these headers no longer have, and the last kernels that had
    unknown: tuple[str, ...] = ()  # names that these headers have and the module cannot know: it is older
    differences: tuple[Difference, ...] = ()
    why: str = ""  # of "broken"


def check(
    headers_dir: Path | None, modules: Iterable[ModuleType], *, cc: str = "cc", version: Version | None = None
) -> list[Difference]:
    """
    Compare *modules* with the C headers in *headers_dir* (None: those that the compiler finds by itself).

    Raises CheckError when there is no compiler or no such header.
    """
    reports = compare(headers_dir, modules, cc=cc, version=version)
    for report in reports:
        if report.state == "absent":
            raise HeaderAbsent(f"no header {report.header}")
        if report.state == "broken":
            raise CheckError(report.why)
    return [difference for report in reports for difference in report.differences]


def compare(
    headers_dir: Path | None, modules: Iterable[ModuleType], *, cc: str = "cc", version: Version | None = None
) -> list[Report]:
    """
    A report for each of *modules*; *version* is the kernel of the headers when ``linux/version.h`` is not to tell.

    Raises CheckError: no compiler, no version.
    """
    with tempfile.TemporaryDirectory(prefix="pykernel-uapi-") as empty, ThreadPoolExecutor(os.cpu_count()) as pool:
        compiler = Compiler(cc, headers_dir, Path(empty))
        known = version or compiler.version()[0]
        return list(pool.map(lambda module: _compare(compiler, known, module), modules))


def _expected(module: ModuleType, header: str, version: Version) -> Iterator[Difference]:
    """A header that is not there, although kernels of this age have names of it."""
    newer, older, as_of = history.newer(module), history.older(module), _as_of(module)
    subjects = dict.fromkeys(fact.subject for fact in facts(module, version))
    there = [s for s in subjects if not _is_later(newer, s, version) and not _is_gone(older, s, version)]
    libc_has_it = any(not name.startswith(header.partition("/")[0]) for name in headers(module))
    if there and version <= as_of and not libc_has_it:
        yield Difference(module.__name__, header, "header", str(len(there)), None)


def _as_of(module: ModuleType) -> Version:
    return history.parse(getattr(module, "AS_OF", history.AS_OF))


def _is_later(newer: Table, subject: str, version: Version) -> bool:
    row = history.since(newer, subject)
    return bool(row) and history.parse(row) > version


def _is_gone(older: Table, subject: str, version: Version) -> bool:
    row = history.since(older, subject)
    return bool(row) and history.parse(row) < version != AGELESS


def _compare(compiler: Compiler, version: Version, module: ModuleType) -> Report:
    names = headers(module)
    with tempfile.TemporaryDirectory(prefix="pykernel-uapi-") as where:
        if not names:
            from pykernel.uapi import emit

            emit.write(Path(where), [module])
            never = _One(Compiler(compiler.cc, Path(where)), AGELESS, module, (catalog.title(module),), where)
            return never.report("never")
        try:
            return _One(compiler, version, module, names, where).report("compared")
        except HeaderAbsent:
            return Report(module.__name__, names[0], "absent", differences=tuple(_expected(module, names[0], version)))
        except HeaderBroken as e:
            return Report(module.__name__, names[0], "broken", why=str(e))


class _One:
    """The comparison of one module with one header."""

    def __init__(
        self, compiler: Compiler, version: Version, module: ModuleType, names: tuple[str, ...], where: str
    ) -> None:
        self.module, self.header = module, names[0]
        self.newer, self.older = history.newer(module), history.older(module)
        self.backported: Collection[str] = getattr(module, "BACKPORTED", ())
        self.changed: Table = getattr(module, "CHANGED", {})
        self.as_of = _as_of(module)
        text = compiler.text(names)
        self.stated = facts(module, version)
        self.answers = compiler.ask(names, {i: f.c.format(i=i) for i, f in enumerate(self.stated)}, where)
        self.names = dict.fromkeys(ctext.names(text))  # read last: the compiler has found it to be C
        self.version = version

    def report(self, state: str) -> Report:
        """All that came out."""
        found = (*self._wrong(), *self._early(), *self._late(), *self._forgotten())
        excused = {i for i, f in enumerate(self.stated) if self._is_later(f.subject) or self._is_gone(f.subject)}
        agree = sum(self.answers.get(i) == f.ours for i, f in enumerate(self.stated) if i not in excused)
        later = tuple((name, since) for name, since in self.newer.items() if self._is_later(name))
        gone = tuple((name, last) for name, last in self.older.items() if self._is_gone(name))
        unknown = () if self.version <= self.as_of else tuple(self._unstated())
        return Report(self.module.__name__, self.header, state, agree, later, gone, unknown, found)

    def _is_later(self, subject: str) -> bool:
        return _is_later(self.newer, subject, self.version)

    def _is_gone(self, subject: str) -> bool:
        return _is_gone(self.older, subject, self.version)

    def _is_excused(self, i: int, f: Fact) -> bool:
        """A name that these headers need not have; what is said to be new and is there must be right."""
        changed = history.since(self.changed, f.subject)
        if self._is_later(f.subject) and i in self.answers and not changed:
            return self.answers[i] == f.ours
        return self._is_later(f.subject) or self._is_gone(f.subject)

    def _difference(self, subject: str, fact: str, ours: str | None, theirs: str | None) -> Difference:
        return Difference(self.module.__name__, subject, fact, ours, theirs)

    def _wrong(self) -> Iterator[Difference]:
        """What the header has otherwise, or not."""
        missing: set[str] = set()
        told: set[str] = set()
        for i, f in enumerate(self.stated):
            if self._is_excused(i, f) or f.subject in missing or self.answers.get(i) == f.ours:
                continue
            if i not in self.answers:
                missing.add(f.subject)
            elif f.fact.startswith("type ") and f.subject in told:
                continue  # another size or sign is another type, too
            told.add(f.subject)
            yield self._difference(f.subject, f.fact, f.ours, self.answers.get(i))

    def _of(self, subject: str) -> list[tuple[int, Fact]]:
        return [(i, f) for i, f in enumerate(self.stated) if f.subject == subject]

    def _early(self) -> Iterator[Difference]:
        """Rows of NEWER that older headers do not bear out: the name is there, or nobody knows it."""
        for name in sorted(self.newer):
            same = [self.answers.get(i) == f.ours for i, f in self._of(name)]
            if not same and name in self.older:
                continue  # it came and went: the header's text tells, see _late()
            if self._is_later(name) and all(same) and not (same and name in self.backported):
                why = "it is in this older header" if same else "nothing here has that name"
                yield self._difference(name, "NEWER", self.newer[name], why)

    def _late(self) -> Iterator[Difference]:
        """Rows of OLDER that the header does not bear out: the name is still there, or already gone."""
        for name, last in sorted(self.older.items() if self.version != AGELESS else ()):
            facts_of_it = self._of(name)
            there = any(i in self.answers for i, _ in facts_of_it) or name in self.names
            if self._is_gone(name) and there:
                yield self._difference(name, "OLDER", last, "it is still in this newer header")
            elif not self._is_gone(name) and not self._is_later(name) and not there and not facts_of_it:
                yield self._difference(name, "OLDER", last, "it is not in this header")

    def _unstated(self) -> Iterator[str]:
        known = {f.subject for f in self.stated} | set(inner_names(self.module)) | {*getattr(self.module, "IN_C", ())}
        omitted: dict[str, str] = getattr(self.module, "OMITTED", {})
        for name in self.names:
            if (
                name not in known
                and not history.since(self.older, name)
                and not any(fnmatchcase(name, pattern) for pattern in omitted)
            ):
                yield name

    def _forgotten(self) -> Iterator[Difference]:
        """What the header has and the module does not state, although it was made from headers as new as these."""
        if self.version <= self.as_of or self.version == AGELESS:
            yield from (self._difference(name, "name", None, "there") for name in self._unstated())
