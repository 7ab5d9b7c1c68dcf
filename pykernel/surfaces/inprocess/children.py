"""
Other programs: they live on the real kernel, and would find an empty file where we have an emulated one.

What would lose data without a word - an emulated descriptor as a child's standard stream, an emulated current
directory - is refused before the child exists. Children that have neither are started as ever.
"""

from __future__ import annotations

import _posixsubprocess
import os
import subprocess
from collections.abc import Callable, Iterable
from errno import EOPNOTSUPP
from functools import wraps
from typing import TYPE_CHECKING, Any

from pykernel.fs.namei import d_path

if TYPE_CHECKING:
    from pykernel.surfaces.inprocess.places import Places

__all__ = ["Children"]

STREAMS = ("stdin", "stdout", "stderr")
# the arguments of _posixsubprocess.fork_exec(), by number
CLOSE_FDS, PASS_FDS, CWD, P2CREAD, C2PWRITE, ERRWRITE = 2, 3, 4, 6, 9, 11
ADVICE = "run the whole program under 'pykernel run', where children see the emulated kernel, too"


class Children:
    """The functions that start another program; each is refused when that would see less than this one."""

    def __init__(self, places: Places) -> None:
        self.places = places
        self.files = places.files
        self.get_inheritable = os.get_inheritable

    def rows(self) -> list[tuple[Any, str, Callable[..., Any]]]:
        """Owner, name and what takes its place."""
        made: list[tuple[Any, str, Callable[..., Any]]] = [
            (os, name, self._exec(getattr(os, name))) for name in ("execv", "execve", "system")
        ]
        made += [(os, name, self._posix_spawn(getattr(os, name))) for name in ("posix_spawn", "posix_spawnp")]
        made += [(owner, name, self._fork_exec(getattr(owner, name))) for owner, name in (
            (subprocess, "_fork_exec"), (_posixsubprocess, "fork_exec"),
        )]  # fmt: skip
        return made

    def _exec(self, real: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(real)
        def call(*args: Any, **kw: Any) -> Any:
            self._check_cwd()
            self._check_fds(self._inherited())
            return real(*args, **kw)

        return call

    def _posix_spawn(self, real: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(real)
        def call(path: Any, argv: Any, env: Any, /, *, file_actions: Any = (), **kw: Any) -> Any:
            actions = list(file_actions or ())
            self._check_cwd()
            self._check_fds(self._after(actions))
            return real(path, argv, env, file_actions=actions, **kw)

        return call

    def _fork_exec(self, real: Callable[..., int]) -> Callable[..., int]:
        @wraps(real)
        def call(*args: Any) -> int:
            cwd = args[CWD]
            if cwd is None:
                self._check_cwd()
            elif self.places.claim(cwd) is not None:
                raise _refusal(f"a child process cannot start in the emulated directory {os.fsdecode(cwd)}")
            else:
                args = (*args[:CWD], self.places.host(cwd)[0], *args[CWD + 1 :])
            streams = (args[P2CREAD], args[C2PWRITE], args[ERRWRITE])
            used = {n: n if fd == -1 else fd for n, fd in enumerate(streams)}
            used |= {fd: fd for fd in (args[PASS_FDS] if args[CLOSE_FDS] else self._inherited()) if fd > 2}
            self._check_fds(used)
            return real(*args)

        return call

    def _inherited(self) -> dict[int, int]:
        """The emulated descriptors that stay open in another program."""
        return {fd: fd for fd in self.files if self.get_inheritable(fd)}

    def _after(self, actions: Iterable[tuple[Any, ...]]) -> dict[int, int]:
        """The same, after posix_spawn()'s file actions: the number in the child, and ours."""
        fds = self._inherited()
        for kind, fd, *rest in actions:
            if kind == os.POSIX_SPAWN_DUP2:
                fds[rest[0]] = fd
                continue
            if kind == os.POSIX_SPAWN_OPEN and self.places.claim(rest[0]) is not None:
                raise _refusal(f"a child process cannot open the emulated file {os.fsdecode(rest[0])}")
            closed = [n for n in fds if n == fd or (n > fd and kind not in (os.POSIX_SPAWN_OPEN, os.POSIX_SPAWN_CLOSE))]
            for n in closed:  # one, or with POSIX_SPAWN_CLOSEFROM all from there on
                del fds[n]
        return fds

    def _check_cwd(self) -> None:
        if self.places.cwd_inside:
            here = self.places.process.getcwd()
            raise _refusal(f"a child process cannot start in the emulated current directory {here}")

    def _check_fds(self, used: dict[int, int]) -> None:
        """*used*: the number in the child, and ours."""
        for number, fd in sorted(used.items()):
            if fd in self.files:
                what = STREAMS[number] if number < len(STREAMS) else f"descriptor {number}"
                path = d_path(self.places.kernel, self.files[fd].inode)
                raise _refusal(f"a child process cannot have the emulated file {path} as its {what}")


def _refusal(what: str) -> OSError:
    """Not the emulated kernel's answer, so the sentence is the error's own text."""
    return OSError(EOPNOTSUPP, f"{what}: {ADVICE}")
