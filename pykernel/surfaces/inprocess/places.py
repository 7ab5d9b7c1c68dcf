"""
Which paths the emulated kernel answers. One table for /dev; /proc by name; all of /sys.

A path that leaves them by ".." is real, one that enters them by ".." is emulated. A symbolic link of the host that
points into /sys or /dev is followed by the host: it is not seen here.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any

from pykernel.fs.namei import d_path, walk
from pykernel.fs.procfs import ProcFs
from pykernel.lib.names import host_text, kernel_text
from pykernel.syscalls import At, PathArg

if TYPE_CHECKING:
    from collections.abc import Callable

    from pykernel.fs.vfs import File, Inode
    from pykernel.kernel import Kernel
    from pykernel.syscalls import Process

__all__ = ["HOST_NODES", "TOPS", "Nameless", "Places"]

# The host's /dev shows through here: the nodes that are the same on every Linux and that programs hand to children,
# and what belongs to the host's terminals and shared memory. Every other name is the emulated kernel's, if it has it.
HOST_NODES = frozenset((
    "null", "zero", "full", "random", "urandom",
    "tty", "console", "ptmx", "pts", "shm", "mqueue",
    "fd", "stdin", "stdout", "stderr",
))  # fmt: skip
FD_LINK = re.compile(r"(?:/proc/(self|thread-self|\d+)(?:/task/\d+)?|/dev)/fd/(\d{1,9})")
STREAMS = {"/dev/stdin": 0, "/dev/stdout": 1, "/dev/stderr": 2}
HEADS = ("/sys", "/dev", "/proc")
TOPS = ("sys", "dev", "proc")


def _checked(path: str) -> str:
    """*path*. Raises ValueError: a NUL."""
    if "\0" in path:
        raise ValueError("embedded null byte")
    return path


class Nameless(int):
    """A descriptor of a pipe, an eventfd, a removed file: it has no path by which it could be opened again."""


class Places:
    """Answers "whose is it?" for every path and descriptor of one process."""

    def __init__(self, kernel: Kernel, process: Process, getcwd: Callable[[], str]) -> None:
        self.kernel = kernel
        self.process = process
        self.files: dict[int, File] = process.fds.files
        self.proc_names = kernel.sub(ProcFs).root.children
        self.dev = walk(kernel, "/dev")
        self.cwd_inside = False
        self._getcwd = getcwd
        self.root_is_cwd = getcwd() == "/"

    def moved(self, *, inside: bool) -> None:
        """After chdir()."""
        self.cwd_inside = inside
        self.root_is_cwd = not inside and self._getcwd() == "/"

    def claim(self, path: Any, dir_fd: int | None = None) -> PathArg | None:
        """What a system call of the emulated kernel takes for *path*; None when it is not its: see :meth:`host`."""
        if type(path) is not str:
            if isinstance(path, int):
                return path if path in self.files else None
            try:
                path = os.fsdecode(path)
            except TypeError:
                return None  # the real function says so
        if path.startswith(HEADS):
            return self.judge(path)
        if path[:1] == "/":
            if ("/../" in path or "/./" in path or path[:2] == "//") and any(top in path for top in TOPS):
                return self._ours(path)
            return None
        if dir_fd is not None:
            if dir_fd not in self.files:
                return None
            if self._needs_sorting(path, self.files[dir_fd].inode):
                return self._ours(self._full(path, dir_fd))
            return At(dir_fd, _checked(path))
        if self.cwd_inside:
            if self._needs_sorting(path, self.process.cwd):
                return self._ours(self._full(path, None))
            return _checked(path)
        if self.root_is_cwd or "../" in path or path[-2:] == "..":
            return self._ours(self._full(path, None))
        return None

    def descriptor(self, path: Any) -> int | None:
        """The number of the emulated descriptor whose link in /proc or /dev/fd *path* is, None for all else."""
        text = os.fsdecode(path) if isinstance(path, bytes | os.PathLike) else path
        if not isinstance(text, str) or not text.startswith(("/proc/", "/dev/")):
            return None
        m = FD_LINK.fullmatch(text)
        if m is None:
            return STREAMS.get(text) if STREAMS.get(text) in self.files else None
        mine = m[1] in (None, "self", "thread-self", str(os.getpid()))
        return int(m[2]) if mine and int(m[2]) in self.files else None

    def behind(self, path: Any) -> PathArg | None:
        """
        What a call that follows links takes for the link of an emulated descriptor; None for all else.

        Opened by its path it is a new open file, as Linux reopens it (fs/proc/fd.c:proc_fd_link()). What has no path
        is :class:`Nameless`.
        """
        fd = self.descriptor(path)
        if fd is None:
            return None
        inode = self.files[fd].inode
        text = d_path(self.kernel, inode)
        try:
            found = walk(self.kernel, text)
        except OSError:
            found = None
        return host_text(text) if found is inode else Nameless(fd)

    def link_text(self, path: Any) -> str | None:
        """What readlink() says of the link of an emulated descriptor; None for all else."""
        fd = self.descriptor(path)
        if fd is None:
            return None
        inode = self.files[fd].inode
        return inode.describe() or host_text(d_path(self.kernel, inode))

    def _needs_sorting(self, path: str, start: Inode) -> bool:
        """Whether a path from *start*, ours, may be the host's. A removed directory has no path, but still parents."""
        if start is self.dev:
            return True
        return ".." in path and not d_path(self.kernel, start).endswith(" (deleted)")

    def judge(self, path: str) -> str | None:
        """As :meth:`claim` for what begins like one of ours."""
        if path.startswith("/sys/") and "/.." not in path and path.isascii() and "\0" not in path:
            return path
        return self._ours(path)

    def host(self, path: Any, dir_fd: int | None = None) -> tuple[Any, int | None]:
        """
        What the host's function takes for a *path* that is not ours, and its dir_fd.

        The same, unless it begins at or leads through our directories: the host has none of those, so the way to
        its root is left out.
        """
        ours = self.cwd_inside if dir_fd is None else dir_fd in self.files
        if not (ours or ".." in str(path)) or isinstance(path, int):
            return path, dir_fd
        try:
            text = os.fsdecode(path)
        except TypeError:
            return path, dir_fd
        absolute = text[:1] == "/"
        if not text or (not absolute and not ours and dir_fd is not None):
            return path, dir_fd
        full = text if absolute else self._full(text, dir_fd)
        end = self._sort(full)[1]
        if end == full and (absolute or not ours):
            return path, dir_fd
        return (os.fsencode(end) if isinstance(os.fspath(path), bytes) else end), None

    def _full(self, path: str, dir_fd: int | None) -> str:
        """A relative path from the root; *dir_fd* is one of ours."""
        if dir_fd is not None:
            start = host_text(d_path(self.kernel, self.files[dir_fd].inode))
        else:
            start = self.process.getcwd() if self.cwd_inside else self._getcwd()
        return f"{start}/{path}"

    def _ours(self, path: str) -> str | None:
        ours, end = self._sort(path)
        return _checked(end) if ours else None

    def _sort(self, path: str) -> tuple[bool, str]:
        """Whether an absolute path is ours, and its part from the last time on that it is at the root."""
        parts = path.split("/")
        depth = 0
        for i, part in enumerate(parts):
            if part in ("", "."):
                continue
            depth = max(depth - 1, 0) if part == ".." else depth + 1
            if depth == 1 and part in TOPS:
                return self._sort_inside(part, parts[i + 1 :])
        return False, path

    def _sort_inside(self, top: str, rest: list[str]) -> tuple[bool, str]:
        """The same for what begins with */top/*: the host's part of it is walked by text, ours name by name."""
        first, depth = "", 0
        for i, part in enumerate(rest):
            if part in ("", "."):
                continue
            depth += -1 if part == ".." else 1
            if depth == 1 and part != "..":
                first = part
            elif part == ".." and self._is_hosts(top, first):
                if depth == 0:
                    return self._sort("/" + "/".join((top, *rest[i + 1 :])))
            elif part == ".." and self._is_root("/".join(("", top, *rest[: i + 1]))):
                return self._sort("/" + "/".join(rest[i + 1 :]))
        ours = not self._is_hosts(top, first) and (top != "proc" or first in self.proc_names)
        return ours, "/".join(("", top, *rest))

    def _is_hosts(self, top: str, first: str) -> bool:
        return bool(first) and (first in HOST_NODES if top == "dev" else top == "proc" and first not in self.proc_names)

    def _is_root(self, path: str) -> bool:
        try:
            return walk(self.kernel, kernel_text(_checked(path))) is self.kernel.root
        except OSError:
            return False
