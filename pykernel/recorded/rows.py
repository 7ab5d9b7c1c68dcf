"""The tables ``[recorded]`` and ``[[sysfs]]`` of a machine file: checked, and put together as a tree."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from pykernel.base.static import Attr, DevNode, Dir
from pykernel.fs.vfs import PAGE_SIZE
from pykernel.recorded import ERRNO_NUMBERS, Recorded, hexdump
from pykernel.recorded.check import (
    device_problem,
    devname_problem,
    link_problem,
    name_problem,
    path_problem,
    shown,
    to_kernel,
)

__all__ = ["KEYS", "RowError", "read"]

KEYS: dict[str, type] = {
    "path": str, "node": dict, "dirs": list, "modes": dict, "owners": dict, "sizes": dict, "errors": dict,
    "left_out": list, "attrs": dict, "hex": dict, "links": dict,
}  # fmt: skip
NODE_KEYS: dict[str, type] = {"mode": str, "owner": str, "links": list, "hex": str}
OPTIONS: dict[str, type] = {"root": bool, "writes": str}
KINDS = {str: "a string", bool: "true or false", dict: "a table", list: "an array of strings", int: "a whole number"}
LONG = 60  # characters of a key that a message can have
OWNER = re.compile(r"(\d{1,9}):(\d{1,9})")
SIZES = 1 << 63  # loff_t
MODE = re.compile(r"0?[0-7]{3}|[1-7][0-7]{3}")


class RowError(ValueError):
    """What is wrong in the *nth* ``[[sysfs]]`` table (None: in ``[recorded]``), at *key*."""

    def __init__(self, nth: int | None, key: str, why: str) -> None:
        super().__init__(why)
        self.nth, self.key = nth, key


def read(options: dict[str, Any], rows: Sequence[Any], lines: Sequence[int], source: str) -> Recorded:
    """
    The recorded part of a machine; *lines* are where the rows begin.

    Raises:
        RowError: what is wrong, and where.
    """
    _check(None, "", options, OPTIONS)
    tree = Dir()
    taken: dict[str, int] = {}
    for nth, row in enumerate(rows):
        if not isinstance(row, dict):
            raise RowError(nth, "", "must be a table: write [[sysfs]]")
        _check(nth, "", row, KEYS)
        path = _path(nth, row)
        line = lines[nth] if nth < len(lines) else 0
        if path in taken:
            raise RowError(nth, "path", f"{row['path']} is described in line {taken[path]} already")
        taken[path] = line
        where = tree.at(path)
        where.line = line
        _fill(where, nth, row)
    nths = {path: nth for nth, path in enumerate(taken)}
    for path, where in tree.walk():
        _check_device(path, where, nths)
        both = (where.files.keys() | where.links.keys()) & where.dirs.keys() | where.files.keys() & where.links.keys()
        for name in sorted(both):
            raise RowError(None, "sysfs", f"/sys{shown(path)}/{shown(name)} is described as two different things")
    return Recorded(tree, bool(options.get("root", False)), _writes(options.get("writes", "EIO")), source)


def _writes(name: str) -> int:
    if name == "keep":
        return 0
    return _errno(None, "writes", name, ' or "keep"')


def _errno(nth: int | None, key: str, name: str, more: str = "") -> int:
    number = ERRNO_NUMBERS.get(name)
    if number is None:
        raise RowError(nth, key, f"{name!r} is no errno like EINVAL{more}")
    return number


def _check(nth: int | None, above: str, data: dict[str, Any], kinds: dict[str, type]) -> None:
    for key, value in data.items():
        kind = kinds.get(key)
        if kind is None:
            raise RowError(nth, above + key, f"unknown key; known: {', '.join(kinds)}")
        if not isinstance(value, kind) or (isinstance(value, list) and not all(isinstance(v, str) for v in value)):
            raise RowError(nth, above + key, f"must be {KINDS[kind]}, not {value!r}")


def _path(nth: int, row: dict[str, Any]) -> str:
    path = row.get("path")
    if path is None:
        raise RowError(nth, "path", 'is missing: which directory, as in path = "/sys/bus/pci"')
    if path == "/sys":
        return ""
    text = to_kernel(path)
    why = path_problem(text) or (name_problem(text[5:]) if text.startswith("/sys/") else "is no name")
    if why:
        raise RowError(nth, "path", f"{path!r} is no directory below /sys" if why.endswith("is no name") else why)
    return text[4:]


def _check_device(path: str, where: Dir, nths: dict[str, int]) -> None:
    """Raises RowError in the row of *path*, or in the one above that describes it, too."""
    key, why = device_problem(where)
    if why:
        while path not in nths:
            path = path.rpartition("/")[0]
        raise RowError(nths[path], f"attrs.{key}", why)


def _fill(where: Dir, nth: int, row: dict[str, Any]) -> None:
    found = _Found(where, nth, row["path"])
    for name in row.get("dirs", ()):
        where.at(found.check("dirs", name))
    for name, text in _items(nth, "attrs", row, str):
        found.file("attrs", name).data = text.encode()
    for name, text in _items(nth, "hex", row, str):
        attr = found.file("hex", name)
        attr.binary = True
        try:
            attr.data = hexdump.load(text)
        except ValueError as e:
            raise RowError(nth, f"hex.{name}", str(e)) from e
        attr.size = hexdump.size_of(name, attr.data)
    for name, text in _items(nth, "links", row, str):
        above, _, last = found.check("links", name).rpartition("/")
        where.at(above).links[last] = to_kernel(text)
        if why := link_problem(to_kernel(text)):
            raise RowError(nth, f"links.{name}", why)
    for mode, name in _groups(nth, "modes", row):
        found.set_mode(name, _mode(nth, f"modes.{mode}", mode))
    for owner, name in _groups(nth, "owners", row):
        found.set_owner(name, _owner(nth, f"owners.{owner}", owner))
    for code, name in _groups(nth, "errors", row):
        found.file("errors", name).errno = _errno(nth, f"errors.{code}", code)
    for name in row.get("left_out", ()):
        found.file("left_out", name).left_out = True
    for name, size in _items(nth, "sizes", row, int):
        attr = found.file("sizes", name)
        if not 0 <= size < SIZES:
            raise RowError(nth, f"sizes.{name}", f"{size} is no size")
        attr.size = size
        attr.binary = True
    for attr in found.files.values():
        attr.binary = attr.binary or len(attr.data) >= PAGE_SIZE
    if "node" in row:
        where.node = _node(nth, row["node"])


def _items(nth: int, key: str, row: dict[str, Any], kind: type) -> list[tuple[str, Any]]:
    table = row.get(key, {})
    for name, value in table.items():
        if not isinstance(value, kind) or isinstance(value, bool):
            raise RowError(nth, f"{key}.{name}", f"must be {KINDS[kind]}, not {value!r}")
    return list(table.items())


def _groups(nth: int, key: str, row: dict[str, Any]) -> list[tuple[str, str]]:
    table = row.get(key, {})
    _check(nth, f"{key}.", table, dict.fromkeys(table, list))
    return [(value, name) for value, names in table.items() for name in names]


class _Found:
    """The files of one row by their names."""

    def __init__(self, where: Dir, nth: int, path: str) -> None:
        self.where, self.nth, self.path = where, nth, path
        self.files: dict[str, Attr] = {}

    def check(self, key: str, name: str) -> str:
        """*name* as the kernel has it. Raises RowError."""
        text = to_kernel(name)
        why = name_problem(text) or path_problem(f"{to_kernel(self.path)}/{text}")
        if why:
            raise RowError(self.nth, f"{key}.{name}" if key != "dirs" and len(name) < LONG else key, why)
        return text

    def file(self, key: str, name: str) -> Attr:
        """The file *name*; a file that is only in a list of modes is there too."""
        attr = self.files.get(name)
        if attr is None:
            above, _, last = self.check(key, name).rpartition("/")
            attr = self.files[name] = self.where.at(above).files.setdefault(last, Attr())
        return attr

    def set_mode(self, name: str, mode: int) -> None:
        """A directory when there is one of this name, else a file."""
        self._set(name, "modes", lambda node: setattr(node, "mode", mode))

    def set_owner(self, name: str, owner: tuple[int, int]) -> None:
        """The same for uid and gid."""

        def set(node: Attr | Dir) -> None:
            node.uid, node.gid = owner

        self._set(name, "owners", set)

    def _set(self, name: str, key: str, set: Callable[[Attr | Dir], None]) -> None:
        found = self.where if name == "." else self.where.find(to_kernel(name))
        set(found or self.file(key, name))


def _mode(nth: int, key: str, text: str) -> int:
    if not MODE.fullmatch(text):
        raise RowError(nth, key, f"{text!r} is no mode like 0644")
    return int(text, 8)


def _owner(nth: int, key: str, text: str) -> tuple[int, int]:
    m = OWNER.fullmatch(text)
    if m is None:
        raise RowError(nth, key, f"{text!r} is no uid and gid like 0:6")
    return int(m[1]), int(m[2])


def _node(nth: int, data: dict[str, Any]) -> DevNode:
    _check(nth, "node.", data, NODE_KEYS)
    node = DevNode(links=tuple(map(to_kernel, data.get("links", ()))))
    if "mode" in data:
        node.mode = _mode(nth, "node.mode", data["mode"])
    if "owner" in data:
        node.uid, node.gid = _owner(nth, "node.owner", data["owner"])
    if "hex" in data:
        try:
            node.data = hexdump.load(data["hex"])
        except ValueError as e:
            raise RowError(nth, "node.hex", str(e)) from e
    for name in node.links:
        if why := devname_problem(name):
            raise RowError(nth, "node.links", f"{why} below /dev" if why.endswith("is no name") else why)
    return node
