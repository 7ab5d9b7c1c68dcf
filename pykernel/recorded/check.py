"""What names, link texts and device nodes of a recorded tree can be: Linux has limits, a text file none."""

from __future__ import annotations

import re

from pykernel.base.static import Dir
from pykernel.fs.namei import PATH_MAX
from pykernel.fs.ramfs import NAME_MAX

__all__ = [
    "device_problem",
    "devname_problem",
    "link_problem",
    "name_problem",
    "number_of",
    "path_problem",
    "shown",
    "to_kernel",
]

NO_NAMES = frozenset(("", ".", ".."))
# where programs find the host's terminals, and the host's /dev that has them
RESERVED = frozenset(("pts", ".host"))
DEV = re.compile(r"(\d{1,4}):(\d{1,7})")
MAJORS, MINORS = 1 << 12, 1 << 20  # include/linux/kdev_t.h
DEVMODE = re.compile(r"[0-7]{1,5}")


def to_kernel(text: str) -> str:
    """A name from a file in UTF-8 as the kernel has it, one character a byte."""
    return text if text.isascii() else text.encode("utf-8").decode("latin-1")


def shown(text: str) -> str:
    """A name of the kernel as a file in UTF-8 has it."""
    return text if text.isascii() else text.encode("latin-1").decode("utf-8", "replace")


def name_problem(name: str) -> str:
    """Why *name* ("a/b"), as the kernel has it, cannot be below a directory; empty when it can."""
    parts = name.split("/") if "/" in name else (name,)
    if "\0" in name or not NO_NAMES.isdisjoint(parts):
        return f"{_short(name)} is no name"
    if any(len(part) > NAME_MAX for part in parts):
        return f"{_short(max(parts, key=len))} is longer than a name can be: {NAME_MAX} bytes"
    return ""


def path_problem(path: str) -> str:
    """Why no system call could take the absolute *path*; empty when one can."""
    return f"{_short(path)} is longer than a path can be: {PATH_MAX - 1} bytes" if len(path) >= PATH_MAX else ""


def link_problem(text: str) -> str:
    """Why no symbolic link can have this text; empty when one can."""
    if not text or "\0" in text:
        return f"{_short(text)} leads nowhere: a link has a path"
    return path_problem(text)


def devname_problem(name: str) -> str:
    """Why no node below /dev can have this name; empty when one can."""
    why = name_problem(name) or path_problem(f"/dev/{name}")
    if not why and (name in RESERVED or name.startswith(".host/")):
        why = f"/dev/{name} is where programs find what is the host's"
    return why


def device_problem(spec: Dir) -> tuple[str, str]:
    """Which file of a device says what cannot be, and why: ("uevent", "DEVMODE='9' is ..."); empty when all can."""
    attr = spec.files.get("uevent")
    if attr is None or b"DEVNAME=" not in attr.data:
        return "", ""
    env = spec.properties
    name, number = env.get("DEVNAME"), _number(spec, env)
    if name is None or not number:  # it makes no node
        return "", ""
    why = devname_problem(name.removeprefix("/dev/"))
    if why:
        return "uevent", f"DEVNAME: {why}"
    mode = env.get("DEVMODE", "0600")
    if not DEVMODE.fullmatch(mode) or int(mode, 8) > 0o7777:
        return "uevent", f"DEVMODE={_short(mode)} is no mode like 0660"
    if _parsed(number) is None:
        where = "dev" if "dev" in spec.files else "uevent"
        return where, f"{_short(number)} is no device number like '240:0'"
    return "", ""


def number_of(spec: Dir) -> tuple[int, int] | None:
    """Major and minor number of a device: by its file ``dev``, without that by its variables; None without either."""
    return _parsed(_number(spec, spec.properties))


def _number(spec: Dir, env: dict[str, str]) -> str:
    attr = spec.files.get("dev")
    if attr is not None:
        return attr.data.decode("latin-1").removesuffix("\n")
    return f"{env['MAJOR']}:{env['MINOR']}" if "MAJOR" in env and "MINOR" in env else ""


def _parsed(text: str) -> tuple[int, int] | None:
    m = DEV.fullmatch(text)
    return (int(m[1]), int(m[2])) if m and int(m[1]) < MAJORS and int(m[2]) < MINORS else None


def _short(text: str) -> str:
    text = shown(text)
    return repr(text) if len(text) <= 60 else f"{text[:40]!r}..."
