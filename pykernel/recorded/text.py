"""A recorded tree as TOML: the same tree is the same text."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from textwrap import wrap

from pykernel.base.static import Attr, Dir
from pykernel.fs.vfs import PAGE_SIZE
from pykernel.recorded import ERRNO_NAMES, Recorded, hexdump
from pykernel.recorded.check import shown

__all__ = ["to_toml"]

BARE = re.compile(r"[A-Za-z0-9_-]+")
PLAIN = re.compile(r"[^\0-\x08\x0b-\x1f\x7f\x80-\x9f\u2028\u2029]*")  # what a line of text consists of
WIDTH = 120


def to_toml(recorded: Recorded, header: Iterable[str] = ()) -> str:
    """The text of a machine file; *header* are lines of comment at its top."""
    out = [f"# {line}\n" for line in header]
    out.append("[recorded]\n")
    if recorded.root:
        out.append("root = true  # /sys has what is recorded here and nothing else\n")
    writes = ERRNO_NAMES[recorded.writes] if recorded.writes else "keep"
    out.append(f'writes = "{writes}"  # what a write to a file gives: an errno, or "keep" takes any text\n')
    for path, where in recorded.tree.walk():
        if _own_table(path, where):
            out.append(_table(f"/sys{path}", where, {n: d for n, d in where.dirs.items() if _folded(d)}))
    return "".join(out)


def _folded(where: Dir) -> bool:
    """A directory that its parent's table describes: without an own uevent and without directories."""
    return not where.dirs and "uevent" not in where.files and where.node is None


def _own_table(path: str, where: Dir) -> bool:
    if path.count("/") > 1 and _folded(where):
        return False
    if where.files or where.links or where.node or (where.mode, where.uid, where.gid) != (0o755, 0, 0):
        return True
    # a directory that only leads to others is there by their paths
    return bool(path) and (not where.dirs or any(map(_folded, where.dirs.values())))


def _table(path: str, where: Dir, folded: dict[str, Dir]) -> str:
    if path == "/sys":
        folded = {}  # each top-level directory has a table
    dirs = {".": where, **folded}
    files = dict(where.files)
    links = dict(where.links)
    for name, sub in folded.items():
        files |= {f"{name}/{n}": attr for n, attr in sub.files.items()}
        links |= {f"{name}/{n}": text for n, text in sub.links.items()}
    out = [f"\n[[sysfs]]\npath = {quote(path)}\n", _node(where)]
    out.append(_array("dirs", sorted(n for n, sub in folded.items() if not sub.files and not sub.links)))
    text, binary = _contents(files)
    known = text.keys() | binary.keys()
    out += _grouped("modes", _modes(files, dirs, known))
    out += _grouped("owners", _owners(files, dirs))
    out += [_sizes(files, binary)]
    out += _grouped("errors", [(ERRNO_NAMES.get(a.errno, "EIO"), n) for n, a in files.items() if a.errno])
    out.append(_array("left_out", sorted(n for n, a in files.items() if a.left_out)))
    out += _pairs("attrs", text, string)
    out += _pairs("hex", binary, lambda data: literal(hexdump.dump(data)))
    out += _pairs("links", links, quote)
    return "".join(out)


def _contents(files: dict[str, Attr]) -> tuple[dict[str, str], dict[str, bytes]]:
    """The files that have contents: as text where they are text, as bytes."""
    text: dict[str, str] = {}
    binary: dict[str, bytes] = {}
    for name, attr in files.items():
        if attr.errno or attr.left_out or not (attr.data or attr.mode & 0o444):
            continue
        try:
            # what is binary and does not look so by its size is told by the table that it is in
            by_table = attr.binary and attr.size == PAGE_SIZE and len(attr.data) < PAGE_SIZE
            as_text = None if b"\0" in attr.data or by_table else attr.data.decode("utf-8")
        except UnicodeDecodeError:
            as_text = None
        if as_text is None:
            binary[name] = attr.data
        else:
            text[name] = as_text
    return text, binary


def _modes(files: dict[str, Attr], dirs: dict[str, Dir], known: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Modes that are not the usual ones; and those of files that no other table names."""
    for name, attr in files.items():
        named = name in known or attr.errno or attr.left_out
        if attr.mode != 0o444 or not named:
            yield f"{attr.mode:04o}", name
    yield from ((f"{where.mode:04o}", name) for name, where in dirs.items() if where.mode != 0o755)


def _owners(files: dict[str, Attr], dirs: dict[str, Dir]) -> Iterator[tuple[str, str]]:
    nodes: list[tuple[str, Attr | Dir]] = [*files.items(), *dirs.items()]
    yield from ((f"{node.uid}:{node.gid}", name) for name, node in nodes if node.uid or node.gid)


def _sizes(files: dict[str, Attr], binary: dict[str, bytes]) -> str:
    usual = {n: hexdump.size_of(n, data) for n, data in binary.items()}
    found = {n: a.size for n, a in sorted(files.items()) if {a.size, usual.get(n, PAGE_SIZE)} != {PAGE_SIZE}}
    return f"sizes = {{{', '.join(f'{key(n)} = {size}' for n, size in found.items())}}}\n" if found else ""


def _node(where: Dir) -> str:
    node = where.node
    if node is None:
        return ""
    parts = [f'mode = "{node.mode:04o}"'] if node.mode is not None else []
    parts += [f'owner = "{node.uid}:{node.gid}"'] if node.uid or node.gid else []
    parts += [f"links = [{', '.join(map(quote, node.links))}]"] if node.links else []
    parts += [f"hex = '{node.data.hex()}'"] if node.data is not None else []
    return f"node = {{{', '.join(parts)}}}\n" if parts else ""


def _grouped(table: str, rows: Iterable[tuple[str, str]]) -> list[str]:
    groups: dict[str, list[str]] = {}
    for value, name in sorted(rows):
        groups.setdefault(value, []).append(name)
    return [_array(f"{table}.{key(value)}", names) for value, names in groups.items()]


def _array(name: str, values: list[str]) -> str:
    if not values:
        return ""
    line = f"{name} = [{', '.join(map(quote, values))}]\n"
    if len(line) <= WIDTH:
        return line
    rows = wrap(", ".join(map(quote, values)), WIDTH - 4, break_long_words=False, break_on_hyphens=False)
    if any(" " in value for value in values):
        rows = [f"{quote(value)}," for value in values]
    return f"{name} = [\n" + "".join(f"    {row}\n" for row in rows) + "]\n"


def _pairs(table: str, values: dict[str, str] | dict[str, bytes], show: Callable[..., str]) -> list[str]:
    rows = [f"{key(name)} = {show(value)}\n" for name, value in sorted(values.items())]
    return [f"[sysfs.{table}]\n", *rows] if rows else []


def key(name: str) -> str:
    """A TOML key of a name."""
    return name if BARE.fullmatch(name) else quote(name)


def quote(name: str) -> str:
    """A name as a TOML basic string."""
    return _basic(shown(name))


def _basic(text: str) -> str:
    # JSON's escapes are TOML's, and TOML also wants DEL escaped; what splits lines is escaped too
    return re.sub("[\x7f-\x9f\u2028\u2029]", lambda m: f"\\u{ord(m[0]):04x}", json.dumps(text, ensure_ascii=False))


def string(text: str) -> str:
    """A TOML string: several lines as several lines."""
    if text.count("\n") < 2 or not text.endswith("\n") or not PLAIN.fullmatch(text):
        return _basic(text)
    return '"""\n' + text.replace("\\", "\\\\").replace('"""', '""\\"') + '"""'


def literal(text: str) -> str:
    """Hexadecimal digits as a TOML string."""
    return f"'''\n{text}'''" if "\n" in text else f"'{text}'"
