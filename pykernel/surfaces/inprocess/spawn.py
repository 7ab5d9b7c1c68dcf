"""posix_spawn(3) as a fork that enters the emulated kernel's world before it becomes the other program."""

from __future__ import annotations

import fcntl
import os
import signal
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn

__all__ = ["spawn"]


def spawn(
    real: Any,
    enter: Callable[[], None],
    started: Callable[[int], None],
    path: Any,
    argv: Any,
    env: Mapping[Any, Any] | None,
    actions: Iterable[tuple[Any, ...]],
    *,
    search: bool,
    **attributes: Any,
) -> int:
    """
    The child's pid.

    C: ``int posix_spawn(pid_t *, const char *, const posix_spawn_file_actions_t *, const posix_spawnattr_t *, char
    *const argv[], char *const envp[])``; posix_spawnp() when *search*.

    Args:
        real: the functions of os.
        enter: what the child does first.
        started: is told the child's pid.
        path: the program.
        argv: its words.
        env: its environment; None is this program's.
        actions: os.POSIX_SPAWN_OPEN, _CLOSE, _DUP2 tuples.
        search: look for the program in PATH.
        attributes: the other keywords of os.posix_spawn().

    Raises:
        OSError: what failed in the child.
    """
    unknown = attributes.keys() - {"setpgroup", "resetids", "setsid", "setsigmask", "setsigdef", "scheduler"}
    if unknown:
        raise TypeError(f"posix_spawn() got an unexpected keyword argument {min(unknown)!r}")
    words, environment = list(argv), dict(os.environ if env is None else env)
    result, told = real.pipe2(os.O_CLOEXEC)
    pid: int = real.fork()
    if pid == 0:
        _child(real, told, enter, path, words, environment, actions, attributes, search)
    started(pid)
    real.close(told)
    try:
        failed = int.from_bytes(real.read(result, 4), "little")
    finally:
        real.close(result)
    if failed:
        real.waitpid(pid, 0)
        raise OSError(failed, os.strerror(failed), path)
    return pid


def _child(
    real: Any,
    told: int,
    enter: Callable[[], None],
    path: Any,
    argv: list[Any],
    env: dict[Any, Any],
    actions: Iterable[tuple[Any, ...]],
    attributes: dict[str, Any],
    search: bool,
) -> NoReturn:
    # sysdeps/unix/sysv/linux/spawni.c:__spawni_child(): attributes, then file actions, then the program
    try:
        enter()
        _apply(real, attributes)
        for kind, fd, *rest in actions:
            if kind == os.POSIX_SPAWN_OPEN:
                _move(real, real.open(*rest), fd)
            elif kind == os.POSIX_SPAWN_CLOSE:
                real.close(fd)
            elif kind == os.POSIX_SPAWN_DUP2:
                real.dup2(fd, rest[0])
        if "setsigmask" in attributes:
            signal.pthread_sigmask(signal.SIG_SETMASK, attributes["setsigmask"])
        (real.execvpe if search else real.execve)(path, argv, env)
    except OSError as e:
        real.write(told, (e.errno or 0).to_bytes(4, "little"))
    finally:
        os._exit(127)


def _apply(real: Any, attributes: dict[str, Any]) -> None:
    for signum in attributes.get("setsigdef", ()):
        signal.signal(signum, signal.SIG_DFL)
    if attributes.get("scheduler") is not None:
        policy, param = attributes["scheduler"]
        if policy is None:
            os.sched_setparam(0, param)
        else:
            os.sched_setscheduler(0, policy, param)
    if attributes.get("setsid"):
        os.setsid()
    if attributes.get("setpgroup") is not None:
        os.setpgid(0, attributes["setpgroup"])
    if attributes.get("resetids"):
        uid, gid = os.getresuid()[0], os.getresgid()[0]
        real.setresgid(-1, gid, -1)
        real.setresuid(-1, uid, -1)


def _move(real: Any, fd: int, to: int) -> None:
    if fd == to:
        fcntl.fcntl(fd, fcntl.F_SETFD, 0)
        return
    real.dup2(fd, to)
    real.close(fd)
