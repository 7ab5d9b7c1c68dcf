"""
``kernel_run``: an unmodified program against a test's own kernel.

The program sees the emulated /sys, /dev and /proc through the process surface, and the test's process serves them while
it waits: what the test configured is there for the program, and what the program did is there for the test.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

from pykernel.surfaces.unfaked import unfaked

if TYPE_CHECKING:
    from pykernel.kernel import Kernel
    from pykernel.surfaces.inprocess import Patched
    from pykernel.trace import Event

__all__ = ["KernelRun", "Result"]

NEEDED = ("/dev/fuse", "FUSE mount")  # of the probes of pykernel doctor


@cache
def _missing() -> str:
    """What this host lacks; it does not change while tests run."""
    from pykernel.surfaces.process import doctor

    for probe in doctor.PROBES:
        if probe.what in NEEDED and not (found := doctor.ask(probe)).ok:
            return f"this host cannot run programs against an emulated kernel ({found.what}: {found.detail})"
    return ""


@dataclass(frozen=True)
class Result:
    """
    What a program did.

    Attributes:
        returncode: its exit status; 128 + n when signal n ended it; 70 for 0 when the kernel had an oops meanwhile.
        stdout, stderr: text, undecodable bytes as surrogates; bytes with ``text=False``.
        trace: the kernel's events meanwhile.
        dmesg: what the kernel logged meanwhile, one line a record.
    """

    args: list[str]
    returncode: int
    stdout: Any
    stderr: Any
    trace: list[Event] = field(repr=False)
    dmesg: str = field(repr=False)

    def check_returncode(self) -> None:
        """Raises subprocess.CalledProcessError, with what the program wrote to stderr as a note."""
        if self.returncode:
            e = subprocess.CalledProcessError(self.returncode, self.args, self.stdout, self.stderr)
            e.add_note(self.stderr if isinstance(self.stderr, str) else self.stderr.decode(errors="replace"))
            raise e


class KernelRun:
    """Runs programs against *kernel*, with *patched* out of the way meanwhile."""

    def __init__(self, kernel: Kernel, patched: Patched) -> None:
        self.kernel = kernel
        self.patched = patched

    def why_not(self) -> str:
        """Why this host cannot run programs against an emulated kernel: a sentence; empty: it can."""
        with self._outside():
            return _missing()

    @contextmanager
    def _outside(self) -> Generator[None, None, None]:
        """The body has the host's files: pyfakefs' first, whose pause puts ours in place anew."""
        with unfaked(), self.patched.paused():
            yield

    def __call__(
        self,
        *argv: str | Sequence[str],
        input: str | bytes | None = None,
        env: Mapping[str, str] | None = None,
        user: str | int | None = None,
        check: bool = False,
        timeout: float | None = None,
        cwd: str | os.PathLike[str] | None = None,
        persist: str | os.PathLike[str] | None = None,
        text: bool = True,
    ) -> Result:
        """
        Run a program to its end.

        Args:
            argv: the program and its arguments, or one list of them.
            input: its standard input; none: /dev/null.
            env: its environment, instead of this one.
            user: name or uid that it runs as; none: the emulated machine's root.
            check: raise CalledProcessError when it fails.
            timeout: seconds until it is killed, with all that it started.
            cwd: where it starts; none: where the test is, but / for another *user*, who may have no right to be here.
            persist: a folder that it sees as /etc/mdevctl.d; none: an empty one.

        Raises:
            RunError: no such program, or it cannot be executed.
            subprocess.TimeoutExpired, subprocess.CalledProcessError
        """
        words = [str(word) for arg in argv for word in ([arg] if isinstance(arg, str | os.PathLike) else arg)]
        if cwd is None:
            cwd = os.getcwd() if user is None else "/"
        data = input.encode("utf-8", "surrogateescape") if isinstance(input, str) else input
        folder = None if persist is None else os.fspath(persist)
        result = self._run(
            words, data, dict(os.environ if env is None else env), user, os.fspath(cwd), timeout, folder, text=text
        )
        if check:
            result.check_returncode()
        return result

    def _run(
        self,
        argv: list[str],
        data: bytes | None,
        env: dict[str, str],
        user: str | int | None,
        cwd: str,
        timeout: float | None,
        persist: str | None,
        *,
        text: bool,
    ) -> Result:
        kernel, events = self.kernel, list[Any]()
        logged = kernel.log.seq
        with ExitStack() as undo:
            undo.enter_context(self._outside())
            from pykernel.surfaces.process import run

            stdin, stdout, stderr = undo.enter_context(_streams(data))
            kernel.trace.listeners.append(hear := events.append)
            undo.callback(kernel.trace.listeners.remove, hear)
            try:
                status = run(
                    kernel,
                    argv,
                    as_user=user,
                    cwd=cwd,
                    env=env,
                    stdio=(stdin, stdout, stderr),
                    timeout=timeout,
                    signals=False,
                    persist=persist,
                )
            except TimeoutError as e:
                assert timeout is not None
                raise subprocess.TimeoutExpired(argv, timeout, _all(stdout), _all(stderr)) from e
            out, errors = _all(stdout), _all(stderr)
        dmesg = "".join(f"{r.text}\n" for r in kernel.log.since(logged))
        if text:
            return Result(argv, status, _text(out), _text(errors), events, dmesg)
        return Result(argv, status, out, errors, events, dmesg)


@contextmanager
def _streams(data: bytes | None) -> Generator[tuple[int, int, int], None, None]:
    """Files in memory for the three standard streams: nobody need drain them."""
    fds = [_high(os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC) if data is None else os.memfd_create("stdin"))]
    try:
        if data is not None:
            with os.fdopen(os.dup(fds[0]), "wb") as f:
                f.write(data)
            os.lseek(fds[0], 0, os.SEEK_SET)
        fds += [_high(os.memfd_create(name)) for name in ("stdout", "stderr")]
        yield fds[0], fds[1], fds[2]
    finally:
        for fd in fds:
            os.close(fd)


def _high(fd: int) -> int:
    """The same file at a number that is no standard stream's."""
    if fd > 2:
        return fd
    higher = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
    os.close(fd)
    return higher


def _all(fd: int) -> bytes:
    return os.pread(fd, os.fstat(fd).st_size, 0)


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")
