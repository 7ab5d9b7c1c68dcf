"""
Twins: the same script of system calls on the host's kernel and on ours; the answers must be equal.

A script is ``fn(w) -> value`` where ``w`` has the methods of :class:`pykernel.syscalls.Process` and ``w.base``, an
empty directory in memory. The host's turn is a forked child with no descriptor open, so numbers agree too.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import pickle
import resource
import select
import shutil
import socket
import stat
import struct
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pykernel.kernel import Kernel
from pykernel.start import boot
from pykernel.syscalls import Process

REPORT = 1000  # the child's way to tell its answer: a descriptor that no script reaches


libc = ctypes.CDLL(None, use_errno=True)
libc.realpath.restype = ctypes.c_char_p


def checked(result: int) -> int:
    """What a C call gave. Raises its errno."""
    if result < 0:
        raise OSError(ctypes.get_errno(), "C call")
    return result


def name_of(e: OSError) -> str:
    return errno.errorcode.get(e.errno or 0, str(e.errno))


def call(fn: Callable[..., Any], *args: Any, **kw: Any) -> Any:
    """What the call gives, or its errno's name."""
    try:
        return fn(*args, **kw)
    except OSError as e:
        return name_of(e)


class Real:
    """The host's system calls under our names."""

    def __init__(self, base: str) -> None:
        self.base = base

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def setuid(self, uid: int) -> None:
        os.setgroups([]) if os.geteuid() == 0 else None
        os.setuid(uid)

    def open(self, path: str, flags: int = os.O_RDONLY, mode: int = 0o666) -> int:
        fd = os.open(path, flags, mode)
        os.set_inheritable(fd, not flags & os.O_CLOEXEC)  # Python adds O_CLOEXEC
        return fd

    def dup(self, fd: int) -> int:
        return fcntl.fcntl(fd, fcntl.F_DUPFD, 0)

    def dup2(self, old: int, new: int, *, cloexec: bool = False) -> int:
        return os.dup2(old, new, inheritable=not cloexec)

    def fcntl(self, fd: int, cmd: int, arg: int = 0) -> int:
        return fcntl.fcntl(fd, cmd, arg)

    def ioctl(self, fd: int, cmd: int, arg: Any = 0) -> int:
        return fcntl.ioctl(fd, cmd, arg)

    def pread(self, fd: int, count: int, offset: int) -> bytes:
        return os.pread(fd, count, offset)

    def lseek(self, fd: int, offset: int, whence: int = os.SEEK_SET) -> int:
        return os.lseek(fd, offset, whence)

    def pipe(self, flags: int = 0) -> tuple[int, int]:
        return os.pipe2(flags)

    def eventfd(self, count: int = 0, flags: int = 0) -> int:
        return os.eventfd(count, flags)

    def poll(self, fds: list[tuple[int, int]], timeout_ms: float = 0) -> list[tuple[int, int]]:
        poll = select.poll()
        for fd, events in fds:
            poll.register(fd, events)
        return poll.poll(timeout_ms)

    def socketpair(self, flags: int = 0) -> tuple[int, int]:
        a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM | flags)
        for s in (a, b):
            os.set_inheritable(s.fileno(), not flags & os.O_CLOEXEC)
        return a.detach(), b.detach()

    def _socket(self, fd: int) -> socket.socket:
        return socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, fileno=fd)

    def sendmsg(self, fd: int, data: bytes, fds: tuple[int, ...] = ()) -> int:
        s = self._socket(fd)
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack(f"{len(fds)}i", *fds))] if fds else []
        try:
            return s.sendmsg([data], rights)
        finally:
            s.detach()

    def recvmsg(self, fd: int, count: int, room: int = 253, flags: int = 0) -> tuple[bytes, list[int], int]:
        s = self._socket(fd)
        try:
            data, rights, got, _ = s.recvmsg(count, socket.CMSG_LEN(4 * room) if room else 0, flags)
        finally:
            s.detach()
        fds = [n for _, _, raw in rights for n in struct.unpack(f"{len(raw) // 4}i", raw)]
        return data, fds, got

    def epoll_create(self, flags: int = 0) -> int:
        return checked(libc.epoll_create1(flags))

    def epoll_ctl(self, epfd: int, op: int, fd: int, events: int = 0, data: int | None = None) -> None:
        checked(libc.epoll_ctl(epfd, op, fd, struct.pack("=IQ", events, fd if data is None else data)))

    def epoll_wait(self, epfd: int, maxevents: int = 64, timeout_ms: float | None = 0) -> list[tuple[int, int]]:
        room = ctypes.create_string_buffer(12 * min(max(maxevents, 1), 64))
        n = checked(libc.epoll_wait(epfd, room, maxevents, -1 if timeout_ms is None else int(timeout_ms)))
        return [(data, events) for events, data in struct.iter_unpack("=IQ", room.raw[: 12 * n])]

    def readv(self, fd: int, sizes: list[int]) -> bytes:
        parts = [bytearray(n) for n in sizes]
        n = os.readv(fd, parts)
        return b"".join(parts)[:n]

    def access(self, path: str, mode: int) -> None:
        if not os.access(path, mode):
            os.stat(path)
            raise OSError(errno.EACCES, "access")

    def realpath(self, path: str) -> str:
        room = ctypes.create_string_buffer(4096)
        if libc.realpath(os.fsencode(path), room) is None:
            checked(-1)
        return os.fsdecode(room.value)

    def chown(self, path: str, uid: int, gid: int, *, follow: bool = True) -> None:
        os.chown(path, uid, gid, follow_symlinks=follow)

    def utime(self, path: str, times_ns: tuple[int, int] | None = None) -> None:
        os.utime(path) if times_ns is None else os.utime(path, ns=times_ns)

    def mknod(self, path: str, mode: int = 0o600, rdev: int = 0) -> None:
        os.mknod(path, mode, rdev)

    def listdir(self, path: str = ".") -> list[str]:
        return sorted(os.listdir(path))

    def sendfile(self, out: int, in_: int, offset: int | None, count: int) -> int:
        return os.sendfile(out, in_, offset, count)

    def fallocate(self, fd: int, mode: int, offset: int, length: int) -> None:
        os.posix_fallocate(fd, offset, length)


class Ours:
    """Our process; lists sorted, as the host's order is its own."""

    def __init__(self, proc: Process, base: str) -> None:
        self.proc = proc
        self.base = base

    def __getattr__(self, name: str) -> Any:
        return getattr(self.proc, name)

    def listdir(self, path: str = ".") -> list[str]:
        return sorted(self.proc.listdir(path))


class Twins:
    """Runs a script twice and compares."""

    def __init__(self, kernel: Kernel, real_dir: Path) -> None:
        self.kernel = kernel
        self.dir = real_dir
        self.n = 0

    def real(self, script: Callable[[Any], Any]) -> Any:
        self.n += 1
        base = self.dir / f"d{self.n}"
        base.mkdir()
        base.chmod(0o777)
        r, w = os.pipe()
        pid = os.fork()
        if not pid:
            try:
                os.dup2(w, REPORT)
                os.closerange(0, REPORT)
                os.umask(0o022)
                resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 1024))
                os.chdir(base)
                with open(REPORT, "wb") as f:
                    try:
                        answer: Any = script(Real(str(base)))
                    except BaseException as e:
                        answer = f"{type(e).__name__}: {e}"
                    f.write(pickle.dumps(answer))
            finally:
                os._exit(0)
        os.close(w)
        with open(r, "rb") as f:
            data = f.read()
        os.waitpid(pid, 0)
        return pickle.loads(data)

    def ours(self, script: Callable[[Any], Any]) -> Any:
        base = f"/tmp/o{self.n}"
        root = self.kernel.process()
        root.mkdir(base)
        root.chmod(base, 0o777)
        root.chown(base, os.geteuid(), os.getegid())
        root.exit()
        proc = self.kernel.process(uid=os.geteuid(), gid=os.getegid())
        proc.chdir(base)
        try:
            return script(Ours(proc, base))
        finally:
            proc.exit()

    def same(self, script: Callable[[Any], Any]) -> Any:
        """Both worlds' answer."""
        real = self.real(script)
        ours = self.ours(script)
        assert ours == real
        return real


def short_stat(st: os.stat_result) -> tuple[Any, ...]:
    """What of a stat both worlds must agree on."""
    size = 0 if stat.S_ISDIR(st.st_mode) else st.st_size
    return oct(st.st_mode), st.st_nlink, st.st_uid, st.st_gid, size


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    k = boot("dsa")
    yield k
    k.shutdown()


@pytest.fixture
def twins(kernel: Kernel) -> Iterator[Twins]:
    """Both kernels, for one test."""
    shm = Path("/dev/shm")
    where = tempfile.mkdtemp(prefix="pykernel-twins-", dir=shm if os.access(shm, os.W_OK) else None)
    os.chmod(where, 0o755)
    yield Twins(kernel, Path(where))
    shutil.rmtree(where)


@pytest.fixture(scope="module")
def twins_any() -> Iterator[Twins]:
    """As ``twins``, for hypothesis, whose examples share their fixtures: one for a module."""
    k = boot("dsa")
    shm = Path("/dev/shm")
    where = tempfile.mkdtemp(prefix="pykernel-twins-", dir=shm if os.access(shm, os.W_OK) else None)
    os.chmod(where, 0o755)
    yield Twins(k, Path(where))
    k.shutdown()
    shutil.rmtree(where)
