"""The names that a C header defines: just enough reading of C to notice what a header module forgot."""

from __future__ import annotations

import re
from collections.abc import Iterator

__all__ = ["names", "own_text"]

_MARKER = re.compile(r'^# \d+ "([^"]*)"')
_DEFINE = re.compile(r"^#define (\w+)(\(| +\S)", re.MULTILINE)  # a macro without a value is an include guard
_GUARD = re.compile(r"_\w*_H_?_?")  # and glibc's have a value
_ENUM = re.compile(r"\benum\b[^;{]*\{([^}]*)\}")
_RECORD = re.compile(r"\b(?:struct|union)\s+(\w+)[^;{}()]*\{")
_INNER = re.compile(r"\b(?:struct|union)\b\s*(\w*)[^;{}()]*\{")
_DECLARATOR = re.compile(r"(\w+)\s*(?:\[[^\]]*\]\s*)*(?::\s*\w+\s*)?$")
_ATTRIBUTE = re.compile(r"__attribute__\s*\(\((?:[^()]|\([^()]*\))*\)\)")


def own_text(preprocessed: str, headers: tuple[str, ...]) -> str:
    """Those lines of ``cc -E -dD`` output that stand in one of *headers* itself."""
    kept, inside = [], False
    for line in preprocessed.splitlines():
        if marker := _MARKER.match(line):
            inside = marker[1].endswith(tuple("/" + h for h in headers))
        elif inside:
            kept.append(line)
    return "\n".join(kept)


def names(text: str) -> Iterator[str]:
    """Macros, enumerators, structs as ``tag``, their members as ``tag.member``."""
    yield from (m[1] for m in _DEFINE.finditer(text) if not _GUARD.fullmatch(m[1]))
    code = _ATTRIBUTE.sub("", re.sub(r"^#.*$", "", text, flags=re.MULTILINE))
    for body in _ENUM.findall(code):
        yield from (row.partition("=")[0].strip() for row in body.split(",") if row.strip())
    for record in _RECORD.finditer(code):
        yield record[1]
        yield from (f"{record[1]}.{member}" for member in _members(_block(code, record.end())))


def _block(code: str, start: int) -> str:
    """The text from *start*, just inside a brace, to the brace that closes it."""
    depth = 1
    for brace in re.compile("[{}]").finditer(code, start):
        depth += 1 if brace[0] == "{" else -1
        if not depth:
            return code[start : brace.start()]
    raise ValueError("a brace is not closed")


def _members(body: str) -> Iterator[str]:
    """
    The members of a struct body.

    Those of anonymous structs and unions in it count as its own; those of a member whose type has no name are
    ``member.inner``.
    """
    while inner := _INNER.search(body):
        content = _block(body, inner.end())
        declarators, _, after = body[inner.end() + len(content) + 1 :].partition(";")
        if not declarators.strip():
            declarators = content.rstrip().removesuffix(";")
        elif not inner[1]:
            member = next(_declared(declarators), "")
            yield from (f"{member}.{name}" for name in _members(content))
        body = f"{body[: inner.start()]} {declarators}; {after}"
    yield from _declared(body)


def _declared(body: str) -> Iterator[str]:
    for declaration in body.split(";"):
        for one in declaration.split(","):
            if found := _DECLARATOR.search(one.strip()):
                yield found[1]
