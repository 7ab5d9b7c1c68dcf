"""
The emulated kernel as other programs see it: a mount namespace for the children of a patched program.

The first child makes it. A helper process mounts the FUSE tree of the process surface and lays it over /sys and /dev;
every child then enters the helper's namespaces between fork and exec. This very process serves the tree, in a signal
handler: the host tells of each request with a signal (fcntl(2), O_ASYNC), which ends the system call in which the
program waits for its child, and Python resumes that call (PEP 475). So the kernel keeps its one thread, and no code
that waits for a child needs to know. A signal that comes just before the program falls asleep is not heard, so while
children live a timer sends more.

Where the host allows no FUSE or no namespaces, or the kernel belongs to a thread that has no signals, there is no
world, and children see the host's files.
"""

from __future__ import annotations

import ctypes
import fcntl
import gc
import os
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from functools import partial
from typing import TYPE_CHECKING, NoReturn

from pykernel.fs.vfs import FsNotify
from pykernel.surfaces.inprocess.ticker import Ticker
from pykernel.surfaces.process import host, launcher
from pykernel.surfaces.process.clients import Clients
from pykernel.surfaces.process.definitions import definitions
from pykernel.surfaces.process.flush import Flusher
from pykernel.surfaces.process.fuse import FuseServer
from pykernel.surfaces.process.launcher import Plan, SetupError
from pykernel.surfaces.process.server import SPIN, Loop
from pykernel.surfaces.process.visibility import View
from pykernel.task import CAP_FULL_SET, Cred, Task

if TYPE_CHECKING:
    from pykernel.kernel import Kernel
    from pykernel.syscalls import Process

__all__ = ["SERVE_SIGNAL", "World"]

SERVE_SIGNAL = signal.SIGURG  # ignored by default, so a late one does no harm
F_SETOWN_EX, F_OWNER_TID = 15, 0  # include/uapi/asm-generic/fcntl.h
SETUP_S, TEARDOWN_S = 10.0, 2.0
TICK_MS = 3
PATH_MAX = 4096

_libc = ctypes.CDLL(None, use_errno=True)


class World:
    """
    The emulated kernel for the children of one patched program.

    Args:
        kernel: whose it is.
        process: gives the program, as the kernel sees it now.
        unpatched: a context in which the functions of os are the real ones.
    """

    def __init__(
        self, kernel: Kernel, process: Callable[[], Process], unpatched: Callable[[], AbstractContextManager[None]]
    ) -> None:
        self.kernel = kernel
        self.process = process
        self.why_not = ""
        self._unpatched = unpatched
        self._session: _Session | None = None

    def ready(self) -> bool:
        """Whether children can enter; the first call makes it. False: :attr:`why_not` says why."""
        if self._session is None and self.why_not:
            return False
        if self.kernel.owner == threading.get_ident():
            self._settle()
        else:
            self.kernel.call_from_thread(self._settle)
        return self._session is not None

    def _settle(self) -> None:
        """What this program changed is known to the host before the next child looks."""
        if self._session is None:
            self._start()
        elif self._session.server is not None:
            self._session.settle()

    def _start(self) -> None:
        if threading.main_thread().ident != self.kernel.owner:
            self.why_not = "the kernel belongs to a thread that has no signals"
            return
        seen = os.geteuid(), os.getegid()
        with self._unpatched():
            try:
                self._session = _Session(self.kernel, self.process, seen)
            except (OSError, SetupError) as e:
                self.why_not = str(e)

    def started(self, pid: int) -> None:
        """A child was started: it is served while it lives."""
        if self._session is not None:
            self._session.started(pid)

    def enter(self) -> None:
        """For a forked copy of this program: see the emulated kernel's /sys and /dev from now on; at the root."""
        assert self._session is not None
        for namespace, kind in self._session.namespaces:
            _setns(namespace, kind)

    def serve(self) -> None:
        """A signal says that a child asks for something: now, or when the kernel is left."""
        session = self._session
        if session is None or session.server is None:
            return
        if self.kernel.depth and not session.busy:
            self.kernel.foreign.append(session.drain)
        else:
            session.drain()

    def forked(self) -> None:
        """In a forked copy of this program: its own children enter too, and the parent goes on to serve them."""
        if self._session is not None:
            self._session.abandon()

    def close(self) -> None:
        """End it; what children that still live have open is released."""
        session, self._session = self._session, None
        if session is not None:
            session.close()
        self.why_not = ""


class _Session:
    """The helper, and the server of what it mounted. Raises SetupError, OSError: the host does not allow it."""

    def __init__(self, kernel: Kernel, process: Callable[[], Process], seen: tuple[int, int]) -> None:
        self.kernel = kernel
        self.server: FuseServer | None = None
        self.namespaces: list[tuple[int, int]] = []
        self.busy = self._again = False
        self._born: list[int] = []  # pidfds of children that the loop does not know yet
        self._alive = 0
        self._error = ""
        view = View(kernel)
        userns = bool(host.cannot_become(0, 0))
        uid, gid = seen if userns else (os.geteuid(), os.getegid())
        plan = Plan(
            argv=[],
            env={},
            cwd="",
            uid=uid,
            gid=gid,
            groups=[],
            userns=userns,
            binds=view.binds,
            empty=view.empty,
            fresh=definitions(None)[1],
            proc=view.proc,
            sigmask=set(),
            kernel_pid=os.getpid(),
        )
        self._view, self._plan = view, plan
        self.loop = Loop(kernel)
        self.clients = _Children(kernel, process, self.loop, plan)
        self.ticker = Ticker(SERVE_SIGNAL, TICK_MS)
        self.control = _start_helper(plan)
        self.loop.add(self.control.fileno(), self._message)
        if not self._pump(lambda: bool(self.namespaces or self._error), SETUP_S) or self._error:
            self.close()
            raise SetupError(self._error or "the helper does not answer")
        assert self.server is not None
        for fd in (self.server.fd, self.control.fileno()):
            _signal_for(fd)

    def _message(self) -> None:
        try:
            data, fds, _, _ = socket.recv_fds(self.control, 8192, 2, socket.MSG_DONTWAIT)
        except ConnectionResetError:  # it ended before it read what we sent
            data, fds = b"", []
        for fd in fds:
            fcntl.fcntl(fd, fcntl.F_SETFD, fcntl.FD_CLOEXEC)
        word, _, rest = data.decode("utf-8", "surrogateescape").partition(" ")
        if word == "fuse":
            self._serve(fds[0], int(rest))
        elif word == "ready":
            kinds = (host.CLONE_NEWUSER, host.CLONE_NEWNS)[-len(fds) :]
            self.namespaces = list(zip(fds, kinds, strict=True))
        elif word == "looked":
            assert self.server is not None
            self.server.flusher.done()
        else:
            self._error = rest or "the helper ended"
            self.loop.remove(self.control.fileno())

    def _serve(self, fd: int, helper: int) -> None:
        only_id = (self._plan.uid, self._plan.gid) if self._plan.userns else None
        flusher = Flusher(helper, self._look)
        self.server = FuseServer(
            self.kernel, fd, self.clients, self.kernel.root, flusher, extras=self._view.extras, only_id=only_id
        )
        self.loop.add(fd, self.server.on_readable)

    def _look(self, path: str) -> None:
        with suppress(BrokenPipeError, ConnectionResetError):
            self.control.send(path.encode("latin-1"))

    # ---- serving

    def drain(self) -> None:
        """Serve all that was asked; in the middle of it, say that there is more."""
        self._again = True
        while self._again and not self.busy:
            self.busy, self._again = True, False
            kernel = self.kernel
            before, kernel.current = kernel.current, kernel.idle_task
            kernel.depth += 1
            try:
                self._serve_rows()
            finally:
                kernel.depth -= 1
                kernel.current = before
                self.busy = False

    def started(self, pid: int) -> None:
        """Any thread: tick until that child has ended."""
        with suppress(OSError):
            self._born.append(os.pidfd_open(pid))
            self.ticker.on = True

    def _ended(self, pidfd: int) -> None:
        self.loop.remove(pidfd)
        os.close(pidfd)
        self._alive -= 1

    def _serve_rows(self) -> None:
        """A client's calls come in rows: give way to it for the next one before the program goes on (``Loop``)."""
        while self._born:
            pidfd = self._born.pop()
            self.loop.add(pidfd, partial(self._ended, pidfd), owned=True)
            self._alive += 1
        spin = SPIN if self._step(0) else 0
        while spin:
            os.sched_yield()
            spin = SPIN if self._step(0) else spin - 1
        self.ticker.on = bool(self._alive or self._born or self.clients.threads)

    def settle(self) -> None:
        """Serve until the host has forgotten the names of what was removed."""
        assert self.server is not None
        flusher = self.server.flusher
        self._pump(lambda: flusher.current is None, SETUP_S)
        self.drain()

    def _pump(self, until: Callable[[], bool], timeout_s: float) -> bool:
        """Serve until *until* holds (True) or *timeout_s* passed (False); signals have to wait."""
        end = time.monotonic() + timeout_s
        self.busy = True
        try:
            while not until():
                left = end - time.monotonic()
                if left <= 0:
                    return False
                self._step(left)
            return True
        finally:
            self.busy = False

    def _step(self, timeout_s: float) -> bool:
        """Handle what is readable within *timeout_s*. Time passes at once for calls that sleep till a timer."""
        events = self.loop.epoll.poll(0 if self.kernel.sched.ready else timeout_s, 16)
        for fd, _ in events:
            handler = self.loop.handlers.get(fd)
            if handler is not None:
                handler()
        sched = self.kernel.sched
        if sched.ready:
            sched.run_ready()
        server = self.server
        if server is not None and server.sleepers.threads and sched.virtual:
            step = sched.next_timer_ns()
            if step is not None:
                sched.idle_until(lambda: False, step)
                return True
        return bool(events) and (server is None or server.connected)

    # ---- the end

    def abandon(self) -> None:
        """In a forked copy: keep the way in, leave the server to the parent."""
        server, self.server = self.server, None
        if server is None:
            return
        self.kernel.sub(FsNotify).hooks.remove(server.fs_event)
        self.loop.epoll.close()  # a shared one: nothing may be taken from it
        for fd in (server.fd, *self.loop.owned):
            os.close(fd)
        self.control.close()

    def close(self) -> None:
        """End the helper, wait until children that ended have given back what they had open, end the connection."""
        for fd, _ in self.namespaces:
            os.close(fd)
        server, self.server = self.server, None
        if server is None and self.namespaces:
            return  # abandoned
        self.loop.remove(self.control.fileno())
        self.control.close()
        if server is not None:
            self._pump(lambda: not server.files or not server.connected, TEARDOWN_S)
            while server.connected and self._step(0):
                pass
            self.loop.remove(server.fd)
            server.close()
        self.ticker.close()
        for pidfd in self._born:
            os.close(pidfd)
        self.loop.close()


class _Children(Clients):
    """The children's threads. Who has the ids of this program is to the kernel who this program is to it."""

    def __init__(self, kernel: Kernel, process: Callable[[], Process], loop: Loop, plan: Plan) -> None:
        caps0 = CAP_FULL_SET if plan.userns else int(host.status_fields("self")["CapEff"], 16)
        super().__init__(kernel, loop, caps0=caps0, identity=not plan.userns)
        self.process = process
        self.ids = plan.uid, plan.gid

    def get(self, tid: int, uid: int, gid: int) -> Task:
        """As :meth:`Clients.get`."""
        if (uid, gid) == self.ids:
            cred = self.process().task.cred
            uid, gid = cred.uid, cred.gid
        return super().get(tid, uid, gid)

    def _cred(self, uid: int, gid: int, status: dict[str, str]) -> Cred:
        cred = self.process().task.cred
        return cred if (uid, gid) == (cred.uid, cred.gid) else super()._cred(uid, gid, status)


def _setns(fd: int, kind: int) -> None:
    """setns(2)."""
    if _libc.setns(ctypes.c_int(fd), ctypes.c_int(kind)):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), "setns")


def _signal_for(fd: int) -> None:
    """Send this thread the signal whenever *fd* becomes readable."""
    fcntl.fcntl(fd, F_SETOWN_EX, struct.pack("ii", F_OWNER_TID, threading.get_native_id()))
    fcntl.fcntl(fd, fcntl.F_SETSIG, SERVE_SIGNAL)
    fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_ASYNC)


# ---- the helper


def _start_helper(plan: Plan) -> socket.socket:
    """Its other end of the control socket. It is no child of this process, whose own wait() must not find it."""
    mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    before = signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())
    try:
        pid = os.fork()
        if pid == 0:
            _help(plan, theirs)
        os.waitpid(pid, 0)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()
    return mine


def _help(plan: Plan, control: socket.socket) -> NoReturn:
    """Mount the tree, lay it out, look at the paths that are asked for (``flush.py``); ends with its socket."""
    try:
        parent = os.getpid()
        if os.fork():
            os._exit(0)
        gc.disable()
        while os.getppid() == parent:  # _enter_namespaces() makes a parent's death a reason to die
            os.sched_yield()
        _keep_only(control.fileno())
        launcher._enter_namespaces(plan)
        trees = [(launcher._tree(bind), bind.target) for bind in plan.binds]
        fuse = launcher._mount_fuse(plan)
        launcher._say(control, f"fuse {os.getpid()}", fuse)
        os.close(fuse)
        launcher._lay_out(plan, trees)
        names = ("user", "mnt") if plan.userns else ("mnt",)
        launcher._say(control, "ready", *(os.open(f"/proc/self/ns/{name}", os.O_RDONLY) for name in names))
        while path := control.recv(PATH_MAX):
            with suppress(OSError):
                host.look(path)
            launcher._say(control, "looked")
    except (SetupError, OSError) as e:
        with suppress(OSError):
            launcher._say(control, f"error {e}")
    finally:
        os._exit(0)


def _keep_only(keep: int) -> None:
    """Hold nothing of the program's: somebody may wait for the end of a pipe."""
    null = os.open(os.devnull, os.O_RDWR)
    for fd in range(3):
        os.dup2(null, fd)
    os.closerange(3, keep)
    os.closerange(keep + 1, os.sysconf("SC_OPEN_MAX"))
