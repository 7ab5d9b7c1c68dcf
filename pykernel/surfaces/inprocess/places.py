"""
Which paths the emulated kernel answers. One table for /dev; /proc by name; all of /sys.

A path that leaves them by ".." is real, one that enters them by ".." is emulated. A symbolic link of the host that
points into /sys or /dev is followed by the host: it is not seen here.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from pykernel.fs.namei import walk
from pykernel.fs.procfs import ProcFs
from pykernel.syscalls import At, PathArg

if TYPE_CHECKING:
    from collections.abc import Callable

    from pykernel.fs.vfs import File
    from pykernel.kernel import Kernel
    from pykernel.syscalls import Process

__all__ = ["HOST_NODES", "Places", "kernel_text"]

# The host's /dev shows through here: the nodes that are the same on every Linux and that programs hand to children,
# and what belongs to the host's terminals and shared memory. Every other name is the emulated kernel's, if it has it.
HOST_NODES = frozenset((
    "null", "zero", "full", "random", "urandom",
    "tty", "console", "ptmx", "pts", "shm", "mqueue",
    "fd", "stdin", "stdout", "stderr",
))  # fmt: skip
HEADS = ("/sys", "/dev", "/proc")
TOPS = ("sys", "dev", "proc")


def kernel_text(path: str) -> str:
    """*path* as the kernel has it, one character a byte. Raises ValueError: a NUL."""
    if not path.isascii():
        path = os.fsencode(path).decode("latin-1")
    if "\0" in path:
        raise ValueError("embedded null byte")
    return path


class Places:
    """Answers "whose is it?" for every path and descriptor of one process."""

    def __init__(self, kernel: Kernel, process: Process, getcwd: Callable[[], str]) -> None:
        self.kernel = kernel
        self.process = process
        self.files: dict[int, File] = process.fds.files
        self.proc_names = kernel.sub(ProcFs).root.children
        self.cwd_inside = False
        self._getcwd = getcwd
        self.root_is_cwd = getcwd() == "/"

    def moved(self, *, inside: bool) -> None:
        """After chdir()."""
        self.cwd_inside = inside
        self.root_is_cwd = not inside and self._getcwd() == "/"

    def claim(self, path: Any, dir_fd: int | None = None) -> PathArg | None:
        """What a system call of the emulated kernel takes for *path*; None when it is not its."""
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
                return self._enters(path)
            return None
        if dir_fd is not None:
            return At(dir_fd, kernel_text(path)) if dir_fd in self.files else None
        if self.cwd_inside:
            return kernel_text(path)
        if self.root_is_cwd or "../" in path or path[-2:] == "..":
            return self._enters(f"{self._getcwd()}/{path}")
        return None

    def judge(self, path: str) -> str | None:
        """As :meth:`claim` for what begins like one of ours."""
        if path.startswith("/sys/") and "/.." not in path and path.isascii() and "\0" not in path:
            return path
        return self._enters(path)

    def _enters(self, path: str) -> str | None:
        """Walk by text from the host's root; the first name below it decides."""
        parts = path.split("/")
        depth = 0
        for i, part in enumerate(parts):
            if part in ("", "."):
                continue
            if part == "..":
                depth = max(depth - 1, 0)
                continue
            depth += 1
            if depth == 1 and part in TOPS:
                return self._inside(part, parts[i + 1 :])
        return None

    def _inside(self, top: str, rest: list[str]) -> str | None:
        depth, first = 0, ""
        for i, part in enumerate(rest):
            if part in ("", "."):
                continue
            depth += -1 if part == ".." else 1
            first = part if depth == 1 and part != ".." else first
            if depth < 0 and self._is_root("/".join(("", top, *rest[: i + 1]))):
                return self._enters("/" + "/".join(rest[i + 1 :]))
        if (top == "dev" and first in HOST_NODES) or (top == "proc" and first not in self.proc_names):
            return None
        return kernel_text("/".join(("", top, *rest)))

    def _is_root(self, path: str) -> bool:
        try:
            return walk(self.kernel, kernel_text(path)) is self.kernel.root
        except OSError:
            return False
