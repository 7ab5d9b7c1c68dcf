"""``run()``: one program and its children, from start to the last process, against one emulated kernel."""

from __future__ import annotations

import grp
import os
import pwd
import select
import signal
import socket
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from errno import ENOENT
from typing import TYPE_CHECKING

from pykernel.surfaces.process import host
from pykernel.surfaces.process.clients import Clients
from pykernel.surfaces.process.definitions import definitions
from pykernel.surfaces.process.flush import Flusher
from pykernel.surfaces.process.fuse import FuseServer
from pykernel.surfaces.process.launcher import Plan, launcher
from pykernel.surfaces.process.server import Loop
from pykernel.surfaces.process.visibility import Bind, View
from pykernel.task import CAP_FULL_SET

if TYPE_CHECKING:
    from pykernel.kernel import Kernel

__all__ = ["RunError", "run"]

EXIT_OOPS = 70  # sysexits.h:EX_SOFTWARE
EXIT_SETUP = 125  # as env(1), nohup(1), docker run: the runner itself failed
EXIT_NOT_EXECUTABLE, EXIT_NOT_FOUND = 126, 127
UID_MAX = 0xFFFFFFFE  # include/linux/uidgid.h:uid_valid(): -1 means "leave it"
_TEARDOWN_S = 10.0
_FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
_FROM_TERMINAL = (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP)


class RunError(Exception):
    """The program could not be run: a sentence, and ``status``, the exit status to give."""

    def __init__(self, sentence: str, status: int = EXIT_SETUP) -> None:
        super().__init__(sentence)
        self.status = status


def run(kernel: Kernel, argv: Sequence[str], *, as_user: str | int | None = None, cwd: str | None = None,
        env: Mapping[str, str] | None = None, on_ready: Callable[[], None] | None = None,
        stdio: tuple[int, int, int] | None = None, timeout: float | None = None,
        signals: bool = True, persist: str | None = None) -> int:  # fmt: skip
    """
    Run *argv* with the emulated /sys, /dev and /proc; its exit status, 128 + n when signal n ended it.

    The client is the emulated machine's root, or *as_user* (name or uid). *on_ready* is called once it was started;
    *stdio* are its standard streams, if not our own; without *signals*, they are ours and not passed on to it.
    *persist* is a folder that the client sees as /etc/mdevctl.d. A bug in kernel code turns exit status 0 into 70.

    Raises:
        TimeoutError: *timeout* seconds passed; the client is gone.
        RunError: no such program (127), not executable (126), or the host does not allow it (125).
        KeyboardInterrupt: Ctrl-C twice while the emulated kernel itself hangs.
    """
    _check_argv(argv)
    environ = dict(os.environ if env is None else env)
    try:
        binds, fresh = definitions(persist)
    except OSError as e:
        raise RunError(f"{persist or repr('')}: {e.strerror or e}") from e
    where = cwd or _getcwd()
    session = _Session(kernel, list(argv), as_user, where, environ, stdio, binds, fresh, signals=signals)
    oopses = len(kernel.oopses)
    kernel.depth += 1  # calls of other threads are served between requests, not by a signal in the middle of one
    try:
        status = session.run(on_ready, timeout)
    finally:
        kernel.depth -= 1
        session.close()
    if session.error is not None:
        raise session.error
    return EXIT_OOPS if status == 0 and len(kernel.oopses) > oopses else status


def _getcwd() -> str:
    """Empty when there is no path to it (it was removed): the client then stays where it is."""
    try:
        return os.getcwd()
    except FileNotFoundError:
        return ""


def _check_argv(argv: Sequence[str]) -> None:
    """Raises RunError for what no execve(2) takes."""
    if not argv:
        raise RunError("no program given")
    if not argv[0]:
        raise RunError(f"'': {os.strerror(ENOENT)}", EXIT_NOT_FOUND)
    if any("\0" in arg for arg in argv):
        raise RunError("an argument cannot hold a NUL character")


def _identity(as_user: str | int | None) -> tuple[int, int, list[int]]:
    """Uid, gid and supplementary groups of the emulated user. Raises RunError."""
    if as_user is None:
        return 0, 0, []
    text = str(as_user)
    if text.isdecimal() and int(text) > UID_MAX:
        raise RunError(f"uid {text}: must be 0..{UID_MAX}")
    try:
        entry = pwd.getpwuid(int(text)) if text.isdecimal() else pwd.getpwnam(text)
    except KeyError:
        if text.isdecimal():
            return int(text), int(text), []
        raise RunError(f"no user {text!r} on this host") from None
    groups = [g.gr_gid for g in grp.getgrall() if entry.pw_name in g.gr_mem]
    return entry.pw_uid, entry.pw_gid, sorted({entry.pw_gid, *groups})


class _Session:
    """One run: the launcher, the loop, the server."""

    def __init__(
        self,
        kernel: Kernel,
        argv: list[str],
        as_user: str | int | None,
        cwd: str,
        env: dict[str, str],
        stdio: tuple[int, int, int] | None,
        binds: list[Bind],
        fresh: dict[str, tuple[str, ...]],
        *,
        signals: bool,
    ) -> None:
        if not os.path.exists("/proc/self/status"):
            raise RunError("/proc is not mounted here")
        self.kernel = kernel
        self.error: RunError | None = None
        self.status: int | None = None
        self.argv = argv
        uid, gid, groups = _identity(as_user)
        self.userns = bool(host.cannot_become(uid, gid))
        self.view = View(kernel)
        self.sigmask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        self.plan = Plan(
            argv,
            env,
            cwd,
            uid,
            gid,
            groups,
            self.userns,
            [*self.view.binds, *binds],
            self.view.empty,
            fresh,
            self.view.proc,
            set(self.sigmask),
            os.getpid(),
            stdio,
        )
        self.loop = Loop(kernel)
        self.server: FuseServer | None = None
        self.init_fd = self.client_fd = -1
        self.control, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.signals = _Signals(self, _FORWARDED if signals else ())
        self.pid = self._fork()
        self.pidfd = os.pidfd_open(self.pid)
        self.flusher = Flusher(self.pid, self._look)
        self.loop.add(self.pidfd, self._launcher_ended, owned=True)
        self.loop.add(self.control.fileno(), self._message)
        self.bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.loop.add(self.bell, self._rang, owned=True)
        kernel.doorbells.append(self._ring)

    def _fork(self) -> int:
        sys.stdout.flush()
        sys.stderr.flush()
        signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())
        try:
            pid = os.fork()
            if pid == 0:
                self.control.close()
                launcher(self.plan, self._theirs)
            self.signals.install()
        except OSError as e:
            self.loop.close()
            self.control.close()
            raise RunError(f"this host allows no more processes ({e.strerror})") from e
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, self.sigmask)
            self._theirs.close()
        return pid

    def run(self, on_ready: Callable[[], None] | None, timeout: float | None = None) -> int:
        """Serve until the launcher ended; the client's exit status. Raises TimeoutError."""
        self.loop.run(lambda: self.client_fd >= 0 or self.status is not None)
        if on_ready is not None and self.client_fd >= 0:
            on_ready()
        if not self.loop.run(lambda: self.status is not None, timeout):
            raise TimeoutError(f"{self.argv[0]} did not end within {timeout} seconds")
        assert self.status is not None
        if self.server is not None:  # what the clients had open is released in order before the mount ends
            server = self.server
            self.loop.run(lambda: not server.connected, _TEARDOWN_S)
        return self.status

    def close(self) -> None:
        """End every process that is left, take the connection down."""
        self.kernel.doorbells.remove(self._ring)
        if self.status is None:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        if self.server is not None:
            self.server.close()
        if self.init_fd >= 0:  # it dies with the launcher; wait until it has taken all others along
            select.select([self.init_fd], [], [], _TEARDOWN_S)
        self.signals.restore()
        self.loop.close()
        self.control.close()
        for fd in (self.init_fd, self.client_fd):
            if fd >= 0:
                os.close(fd)

    # ---- events

    def _ring(self) -> None:
        """Another thread calls the kernel."""
        os.eventfd_write(self.bell, 1)

    def _rang(self) -> None:
        os.eventfd_read(self.bell)
        self.kernel.serve_threads()

    def _launcher_ended(self) -> None:
        self.loop.remove(self.pidfd)
        os.close(self.pidfd)
        while self.control.fileno() in self.loop.handlers:
            self._message()
        status = os.waitpid(self.pid, 0)[1]
        self.status = 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)

    def _message(self) -> None:
        try:
            data, fds, _, _ = socket.recv_fds(self.control, 8192, 1)
        except ConnectionResetError:  # it ended before it read what we sent
            data, fds = b"", []
        if not data:
            self.loop.remove(self.control.fileno())
            return
        word, _, rest = data.decode("utf-8", "surrogateescape").partition(" ")
        if word == "fuse":
            self._serve(fds[0])
        elif word == "init":
            self.init_fd = fds[0]
        elif word == "client":
            self.client_fd = fds[0]
            self.signals.flush()
        elif word == "exec":
            code = int(rest)
            status = EXIT_NOT_FOUND if code == ENOENT else EXIT_NOT_EXECUTABLE
            self.error = RunError(f"{self.argv[0]}: {os.strerror(code)}", status)
        elif word == "looked":
            self.flusher.done()
        else:
            self.error = RunError(rest)

    def _look(self, path: str) -> None:
        """Have the launcher look at *path*; when it ends, so do all who could have the name."""
        with suppress(BrokenPipeError, ConnectionResetError):
            self.control.send(path.encode("latin-1"))

    def _serve(self, fd: int) -> None:
        caps0 = CAP_FULL_SET if self.userns else int(host.status_fields("self")["CapBnd"], 16)
        clients = Clients(self.kernel, self.loop, caps0=caps0, identity=not self.userns)
        only_id = (self.plan.uid, self.plan.gid) if self.userns else None
        self.server = FuseServer(
            self.kernel, fd, clients, self.kernel.root, self.flusher, extras=self.view.extras, only_id=only_id
        )
        self.loop.add(fd, self.server.on_readable)


class _Signals:
    """
    Passes signals on to the client.

    What the terminal sends to the foreground process group reaches the client directly, so it is not sent again.
    Python's own handlers are used, not a signalfd, so that a kernel that hangs in Python code can still be
    interrupted: the second signal during the same request raises KeyboardInterrupt where it hangs.
    """

    def __init__(self, session: _Session, forwarded: Sequence[signal.Signals]) -> None:
        self.session = session
        self.forwarded = forwarded
        self.pending: list[int] = []
        self.before: dict[int, object] = {}
        self.hung_in = -1
        try:
            self.tty = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
        except OSError:
            self.tty = -1
        self.was_foreground = self._foreground()

    def install(self) -> None:
        """Take the signals, except those that are ignored (nohup); only the main thread can."""
        if threading.current_thread() is not threading.main_thread():
            return
        for signum in self.forwarded:
            if signal.getsignal(signum) not in (signal.SIG_IGN, None):
                self.before[signum] = signal.signal(signum, self._handle)

    def restore(self) -> None:
        """Give the signals and the terminal back."""
        for signum, handler in self.before.items():
            signal.signal(signum, handler)  # type: ignore[arg-type]
        if self.tty >= 0:
            if self.was_foreground and not self._foreground():
                self._take_terminal()
            os.close(self.tty)

    def flush(self) -> None:
        """Send what came before the client was there."""
        pending, self.pending = self.pending, []
        for signum in pending:
            self._send(signum)

    def _handle(self, signum: int, frame: object) -> None:
        kernel, server = self.session.kernel, self.session.server
        if server is not None and kernel.current is not kernel.idle_task:
            if self.hung_in == server.requests:
                raise KeyboardInterrupt(f"the kernel hangs in request {server.requests}")
            self.hung_in = server.requests
        if signum not in _FROM_TERMINAL or not self._foreground():
            self._send(signum)

    def _send(self, signum: int) -> None:
        if self.session.client_fd < 0:
            self.pending.append(signum)
            return
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.session.client_fd, signum)

    def _foreground(self) -> bool:
        with suppress(OSError):
            return self.tty >= 0 and os.tcgetpgrp(self.tty) == os.getpgrp()
        return False

    def _take_terminal(self) -> None:
        """A shell among the clients may have left its own process group in the foreground."""
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTOU})
        with suppress(OSError):
            os.tcsetpgrp(self.tty, os.getpgrp())
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
