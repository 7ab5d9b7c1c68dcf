"""
Other programs: each starts in the emulated kernel's world (``world.py``), where the host allows to make one.

What would lose data without a word - an emulated descriptor as a child's standard stream, and without a world an
emulated current directory - is refused before the child exists.
"""

from __future__ import annotations

import _posixsubprocess
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from errno import EOPNOTSUPP
from functools import wraps
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from pykernel.fs.namei import d_path
from pykernel.surfaces.inprocess.spawn import spawn

if TYPE_CHECKING:
    from pykernel.surfaces.inprocess.places import Places
    from pykernel.surfaces.inprocess.world import World

__all__ = ["Children"]

Starter = tuple[Any, str, str, Callable[..., Any]]
STREAMS = ("stdin", "stdout", "stderr")
# the arguments of _posixsubprocess.fork_exec(), by number
CLOSE_FDS, PASS_FDS, CWD, P2CREAD, C2PWRITE, ERRWRITE, ERRPIPE = 2, 3, 4, 6, 9, 11, 13
GID, GROUPS, UID, PREEXEC = 17, 18, 19, 21
# what Lib/subprocess.py takes for "not executed: chdir() failed"
NO_CHDIR = "noexec" if sys.version_info < (3, 12) else "noexec:chdir"
SHELL = "/bin/sh"
REAL = (
    "chdir", "close", "dup2", "execv", "execve", "execvpe", "fchdir", "fork", "getcwd", "getpid", "open", "pipe2",
    "read", "setgroups", "setregid", "setreuid", "setresgid", "setresuid", "waitpid", "write", "_exit",
)  # fmt: skip
ADVICE = "run the whole program under 'pykernel run', where children see the emulated kernel, too"


class Children:
    """
    The functions that start another program.

    Args:
        places: whose paths are whose.
        world: makes the world of a program's children at first use.
        outer: those of the context around this one, which knows the real functions.
    """

    def __init__(self, places: Places, world: Callable[[], World], outer: Children | None) -> None:
        self.places = places
        self.files = places.files
        self.get_inheritable = os.get_inheritable
        real = SimpleNamespace(**{name: getattr(os, name) for name in REAL}) if outer is None else outer.real
        self.real: SimpleNamespace = real
        self.starters: list[Starter] = _starters() if outer is None else outer.starters
        self.pid = os.getpid()
        self._world = world
        self._entered = False

    def rows(self) -> list[tuple[Any, str, Callable[..., Any]]]:
        """Owner, name and what takes its place."""
        return [(owner, name, getattr(self, how)(real)) for owner, name, how, real in self.starters]

    # ---- into the world

    def _way_in(self, cwd: Any = None) -> Callable[[], None]:
        """What a forked copy of this program does to be in the world, in *cwd*; it raises what chdir() does."""
        world, real = self._world(), self.real
        inside = self.places.process.getcwd() if self.places.cwd_inside else None

        def enter() -> None:
            if not self._entered:
                here = real.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
                path = self._getcwd()
                world.enter()
                self._entered = True
                _go_back(real, path, here)
            if inside is not None:
                real.chdir(inside)
            if cwd is not None:
                real.chdir(cwd)

        return enter

    def _getcwd(self) -> str:
        try:
            return str(self.real.getcwd())
        except OSError:
            return ""

    def _exec(self, real: Callable[..., Any]) -> Callable[..., Any]:
        """A copy of this program that becomes another one; this one itself would take the kernel with it."""

        @wraps(real)
        def call(*args: Any, **kw: Any) -> Any:
            self._check_fds(self._inherited())
            if self.real.getpid() != self.pid and self._world().ready():
                self._way_in()()
            else:
                self._check_cwd()
            return real(*args, **kw)

        return call

    def _system(self, real: Callable[[Any], int]) -> Callable[[Any], int]:
        @wraps(real)
        def system(command: Any) -> int:
            self._check_fds(self._inherited())
            if not self._world().ready():
                self._check_cwd()
                return real(command)
            enter, words = self._way_in(), ["sh", "-c", os.fsencode(command)]
            if b"\0" in words[2]:
                raise ValueError("embedded null byte")
            with _ignoring(signal.SIGINT, signal.SIGQUIT) as restore:
                pid = self.real.fork()
                if pid == 0:
                    self._become(lambda: (restore(), enter(), self.real.execve(SHELL, words, os.environ)))
                self._world().started(pid)
                return int(self.real.waitpid(pid, 0)[1])

        return system

    def _become(self, steps: Callable[[], Any]) -> None:
        """In a forked copy: become another program; 127 as posix_spawn(3) and system(3) have it when that fails."""
        try:
            steps()
        finally:
            self.real._exit(127)

    def _posix_spawn(self, real: Callable[..., Any]) -> Callable[..., Any]:
        search = real.__name__ == "posix_spawnp"

        @wraps(real)
        def call(path: Any, argv: Any, env: Any, /, *, file_actions: Any = (), **kw: Any) -> Any:
            actions = list(file_actions or ())
            ready = self._world().ready()
            self._check_fds(self._after(actions, ready=ready))
            if ready:
                born = self._world().started
                return spawn(self.real, self._way_in(), born, path, argv, env, actions, search=search, **kw)
            self._check_cwd()
            return real(path, argv, env, file_actions=actions, **kw)

        return call

    def _fork_exec(self, real: Callable[..., int]) -> Callable[..., int]:
        @wraps(real)
        def call(*args: Any) -> int:
            streams = (args[P2CREAD], args[C2PWRITE], args[ERRWRITE])
            used = {n: n if fd == -1 else fd for n, fd in enumerate(streams)}
            used |= {fd: fd for fd in (args[PASS_FDS] if args[CLOSE_FDS] else self._inherited()) if fd > 2}
            self._check_fds(used)
            if not self._world().ready():
                return real(*self._outside(args))
            pid = real(*self._inside(args))
            self._world().started(pid)
            return pid

        return call

    def _inside(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """The child enters the world before it changes its directory and its ids, so all of that is done here."""
        enter, cwd = self._way_in(args[CWD]), args[CWD]
        gid, groups, uid, preexec = args[GID], args[GROUPS], args[UID], args[PREEXEC]
        real, errpipe = self.real, args[ERRPIPE]

        def child() -> None:
            try:
                enter()
                if groups is not None:
                    real.setgroups(groups)
                if gid is not None:
                    real.setregid(gid, gid)
                if uid is not None:
                    real.setreuid(uid, uid)
            except OSError as e:
                real.write(errpipe, f"OSError:{e.errno:x}:{NO_CHDIR if cwd else 'noexec'}".encode())
                real._exit(255)
            if preexec is not None:
                preexec()

        new = list(args)
        new[CWD] = new[GID] = new[GROUPS] = new[UID] = None
        new[PREEXEC] = child
        return tuple(new)

    def _outside(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        cwd = args[CWD]
        if cwd is None:
            self._check_cwd()
            return args
        if self.places.claim(cwd) is not None:
            raise _refusal(f"a child process cannot start in the emulated directory {os.fsdecode(cwd)}")
        return (*args[:CWD], self.places.host(cwd)[0], *args[CWD + 1 :])

    # ---- what a child cannot have

    def _inherited(self) -> dict[int, int]:
        """The emulated descriptors that stay open in another program."""
        return {fd: fd for fd in self.files if self.get_inheritable(fd)}

    def _after(self, actions: Iterable[tuple[Any, ...]], *, ready: bool) -> dict[int, int]:
        """The same, after posix_spawn()'s file actions: the number in the child, and ours."""
        fds = self._inherited()
        for kind, fd, *rest in actions:
            if kind == os.POSIX_SPAWN_DUP2:
                fds[rest[0]] = fd
                continue
            if kind == os.POSIX_SPAWN_OPEN and not ready and self.places.claim(rest[0]) is not None:
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


def _go_back(real: Any, path: str, here: int) -> None:
    """To the same directory in the new namespace; to the old one if no path leads there, or none that may be walked."""
    try:
        real.chdir(path)
    except OSError:
        real.fchdir(here)
    real.close(here)


def _starters() -> list[Starter]:
    """Owner and name, the method of :class:`Children` that makes what takes its place, the real function."""
    rows: list[tuple[Any, str, str]] = [(os, name, "_exec") for name in ("execv", "execve")]
    rows += [(os, name, "_posix_spawn") for name in ("posix_spawn", "posix_spawnp")]
    rows += [(subprocess, "_fork_exec", "_fork_exec"), (_posixsubprocess, "fork_exec", "_fork_exec")]
    rows.append((os, "system", "_system"))
    return [(owner, name, how, getattr(owner, name)) for owner, name, how in rows]


@contextmanager
def _ignoring(*signums: int) -> Generator[Callable[[], None], None, None]:
    """These signals are ignored, as system(3) does; what it gives restores them. Only a main thread can."""
    before: dict[int, Any] = {}

    def restore() -> None:
        for signum, handler in before.items():
            signal.signal(signum, handler)

    try:
        for signum in signums:
            before[signum] = signal.signal(signum, signal.SIG_IGN)
    except ValueError:
        before.clear()
    try:
        yield restore
    finally:
        restore()


def _refusal(what: str) -> OSError:
    """Not the emulated kernel's answer, so the sentence is the error's own text."""
    return OSError(EOPNOTSUPP, f"{what}: {ADVICE}")
