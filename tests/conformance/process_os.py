"""``os``, ``fcntl``, ``select`` and ``socket`` over a process of the emulated kernel, as far as the probes use them.

They do what Python's own modules do before the system call (close-on-exec by default, refusals of negative numbers) and
pass it to :class:`pykernel.syscalls.Process`. Constants and arithmetic are the real modules'; any other name is
missing, so that no question is answered by the host by mistake.
"""

from __future__ import annotations

import fcntl as host_fcntl
import os as host_os
import select as host_select
import socket as host_socket
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from errno import EBADF
from types import ModuleType
from typing import Any

from pykernel.syscalls import Process

PURE = {"major", "minor", "makedev", "fspath", "path", "CMSG_LEN", "CMSG_SPACE"}
SETS = (  # fs/select.c
    host_select.POLLRDNORM | host_select.POLLRDBAND | host_select.POLLIN | host_select.POLLHUP | host_select.POLLERR,
    host_select.POLLWRBAND | host_select.POLLWRNORM | host_select.POLLOUT | host_select.POLLERR,
    host_select.POLLPRI,
)
CTL_ADD, CTL_DEL, CTL_MOD = 1, 2, 3


class World:
    """Whose system calls they are: the process, or its child while :meth:`in_child` runs."""

    def __init__(self, process: Process) -> None:
        self.process = process

    def in_child(self, f: Callable[[], object]) -> int:
        """Call ``f`` as a forked process that then exits: its exit code."""
        parent = self.process
        child = self.process = parent.fork()
        try:
            f()
        finally:
            child.exit()
            self.process = parent
        assert child.exited is not None
        return child.exited

    def exec_errno(self, fd: int) -> int:
        """The errno of fstat(fd) in a program that a forked process becomes; 0 without."""
        child = self.process.fork()
        try:
            child.exec()
            child.fstat(fd)
        except OSError as e:
            return e.errno or 0
        else:
            return 0
        finally:
            child.exit()

    def raw_mmap(self, fd: int, length: int, prot: int, flags: int, offset: int) -> str:
        """mmap(2), and munmap(2)."""
        address = self.process.mmap(0, length, prot, flags, fd, offset)
        self.process.munmap(address, length)
        return "mapped"


class Twin:
    """A module of the world; ``host`` is the real one."""

    host: ModuleType

    def __init__(self, world: World) -> None:
        self.world = world

    @property
    def process(self) -> Process:
        """Who calls."""
        return self.world.process

    def __getattr__(self, name: str) -> Any:
        value = getattr(self.host, name)
        if isinstance(value, int) or name in PURE:
            return value
        raise AttributeError(f"the emulated {self.host.__name__} has no {name}")


class Os(Twin):
    """``os``."""

    host = host_os
    AS_THEY_ARE = frozenset(
        {"close", "read", "write", "pread", "pwrite", "lseek", "ftruncate", "fsync", "stat", "fstat", "lstat"}
        | {"mknod", "unlink", "writev"}
    )

    def __getattr__(self, name: str) -> Any:
        return getattr(self.process, name) if name in self.AS_THEY_ARE else super().__getattr__(name)

    def open(self, path: str, flags: int, mode: int = 0o777) -> int:
        """Not inheritable (PEP 446)."""
        return self.process.open(path, flags | host_os.O_CLOEXEC, mode)

    def dup(self, fd: int) -> int:
        """Not inheritable (PEP 446)."""
        return self.process.fcntl(fd, host_fcntl.F_DUPFD_CLOEXEC, 0)

    def dup2(self, fd: int, fd2: int) -> int:
        """A negative number is refused by Python, with the errno that is there."""
        if fd < 0 or fd2 < 0:
            raise OSError(0, "Error")
        return self.process.dup2(fd, fd2)

    def set_inheritable(self, fd: int, inheritable: bool) -> None:
        """FD_CLOEXEC."""
        self.process.fcntl(fd, host_fcntl.F_SETFD, 0 if inheritable else host_fcntl.FD_CLOEXEC)

    def eventfd(self, initval: int, flags: int = host_os.EFD_CLOEXEC) -> int:
        """Its name is the same, its default is not."""
        return self.process.eventfd(initval, flags)

    def pipe2(self, flags: int) -> tuple[int, int]:
        """Its name is another."""
        return self.process.pipe(flags)

    def readv(self, fd: int, buffers: Sequence[bytearray]) -> int:
        """Into the buffers, one after the other."""
        data, at = self.process.readv(fd, [len(b) for b in buffers]), 0
        for buffer in buffers:
            part = data[at : at + len(buffer)]
            buffer[: len(part)] = part
            at += len(part)
        return len(data)

    def readlink(self, path: str) -> str:
        """/proc/self is the host's; what its fd/ would tell of a file without a path, the file tells."""
        if path.startswith("/proc/self/fd/"):
            return self.process.fds.get(int(path.rpartition("/")[2])).inode.describe()
        return self.process.readlink(path)


class Fcntl(Twin):
    """``fcntl``."""

    host = host_fcntl

    def fcntl(self, fd: int, cmd: int, arg: int = 0) -> int:
        """fcntl(2)."""
        return self.process.fcntl(fd, cmd, arg)

    def ioctl(self, fd: int, request: int, arg: Any = 0) -> int:
        """ioctl(2)."""
        return self.process.ioctl(fd, request, arg)


def number(obj: Any) -> int:
    """The descriptor; Python refuses negative ones."""
    fd = obj if isinstance(obj, int) else obj.fileno()
    if fd < 0:
        raise ValueError("file descriptor cannot be a negative integer")
    return int(fd)


class Poll:
    """``select.poll()``."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.wanted: dict[int, int] = {}

    def register(self, fd: Any, eventmask: int = host_select.POLLIN) -> None:
        """Watch *fd*."""
        self.wanted[number(fd)] = eventmask

    def poll(self, timeout: float | None = None) -> list[tuple[int, int]]:
        """poll(2)."""
        return self.world.process.poll(list(self.wanted.items()), timeout)


class Epoll:
    """``select.epoll()``."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.fd = world.process.epoll_create(host_select.EPOLL_CLOEXEC)

    def fileno(self) -> int:
        """Its descriptor."""
        return self.fd

    def register(self, fd: Any, eventmask: int) -> None:
        """EPOLL_CTL_ADD."""
        self.world.process.epoll_ctl(self.fd, CTL_ADD, number(fd), eventmask)

    def modify(self, fd: Any, eventmask: int) -> None:
        """EPOLL_CTL_MOD."""
        self.world.process.epoll_ctl(self.fd, CTL_MOD, number(fd), eventmask)

    def unregister(self, fd: Any) -> None:
        """EPOLL_CTL_DEL."""
        self.world.process.epoll_ctl(self.fd, CTL_DEL, number(fd))

    def poll(self, timeout: float | None = None) -> list[tuple[int, int]]:
        """epoll_wait(2); seconds."""
        return self.world.process.epoll_wait(self.fd, 1023, None if timeout is None else timeout * 1e3)

    def __enter__(self) -> Epoll:
        return self

    def __exit__(self, *_: object) -> None:
        self.world.process.close(self.fd)


class Select(Twin):
    """``select``."""

    host = host_select

    def poll(self) -> Poll:
        """poll(2)'s object."""
        return Poll(self.world)

    def epoll(self) -> Epoll:
        """epoll(7)'s object."""
        return Epoll(self.world)

    def select(self, rlist: Sequence[Any], wlist: Sequence[Any], xlist: Sequence[Any], timeout: float) -> object:
        """select(2), by poll(2)."""
        lists = [[(obj, number(obj)) for obj in objs] for objs in (rlist, wlist, xlist)]
        wanted: dict[int, int] = {}
        for objs, mask in zip(lists, SETS, strict=True):
            for _, fd in objs:
                wanted[fd] = wanted.get(fd, 0) | mask
        ready = dict(self.process.poll(list(wanted.items()), timeout * 1e3))
        if any(events & host_select.POLLNVAL for events in ready.values()):
            raise OSError(EBADF, "select")
        return tuple(
            [obj for obj, fd in objs if ready.get(fd, 0) & mask] for objs, mask in zip(lists, SETS, strict=True)
        )


class End:
    """One of ``socket.socketpair()``."""

    def __init__(self, world: World, fd: int) -> None:
        self.world = world
        self.fd = fd

    def fileno(self) -> int:
        """Its descriptor; -1 when closed."""
        return self.fd

    def close(self) -> None:
        """Once."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            self.world.process.close(fd)

    def send(self, data: bytes) -> int:
        """send(2)."""
        return self.world.process.sendmsg(self.fd, data)

    def recv(self, count: int) -> bytes:
        """recv(2)."""
        return self.world.process.recvmsg(self.fd, count, 0)[0]

    def recvmsg(self, count: int, room: int = 0, flags: int = 0) -> tuple[bytes, list[Any], int, None]:
        """recvmsg(2) with a control buffer of *room* bytes."""
        hold = max(0, (room - host_socket.CMSG_LEN(0)) // 4)
        data, fds, got = self.world.process.recvmsg(self.fd, count, hold, flags)
        rights = (host_socket.SOL_SOCKET, host_socket.SCM_RIGHTS, struct.pack(f"{len(fds)}i", *fds))
        return data, [rights] if fds else [], got, None

    def __enter__(self) -> End:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Socket(Twin):
    """``socket``."""

    host = host_socket

    def socketpair(self) -> tuple[End, End]:
        """Not inheritable (PEP 446)."""
        one, two = self.process.socketpair(host_socket.SOCK_CLOEXEC)
        return End(self.world, one), End(self.world, two)

    def send_fds(self, sock: End, buffers: Sequence[bytes], fds: Sequence[int]) -> int:
        """sendmsg(2)."""
        return self.process.sendmsg(sock.fileno(), b"".join(buffers), fds)

    def recv_fds(self, sock: End, count: int, maxfds: int) -> tuple[bytes, list[int], int, None]:
        """recvmsg(2)."""
        data, fds, flags = self.process.recvmsg(sock.fileno(), count, maxfds)
        return data, fds, flags, None


@contextmanager
def lent(world: World, *modules: ModuleType, **names: object) -> Iterator[None]:
    """The world's modules, and *names*, instead of the real ones of the same name in *modules*; restored at the end."""
    put = {"os": Os(world), "fcntl": Fcntl(world), "select": Select(world), "socket": Socket(world), **names}
    kept = [(vars(m), {name: vars(m)[name] for name in put if name in vars(m)}) for m in modules]
    for space, before in kept:
        space.update({name: put[name] for name in before})
    try:
        yield
    finally:
        for space, before in kept:
            space.update(before)
