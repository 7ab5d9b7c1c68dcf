"""What Linux answers on descriptors without hardware: memory devices, eventfd, pipes, dup, fork, passing, polling.

On a real kernel, as root: ``python3 chardev_probe.py [PART...]``. "fork" forks, "exec" runs a second Python.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import select
import socket
import stat
import struct
import sys
from collections.abc import Callable, Sequence

from probing import Probe, call, main, opened

EVERY = select.POLLIN | select.POLLOUT | select.POLLPRI | select.POLLRDNORM | select.POLLWRNORM | select.POLLRDHUP
MAX = (1 << 64) - 1


def poll(fd: int, events: int = EVERY) -> list[str]:
    """The events that poll gives at once."""
    p = select.poll()
    p.register(fd, events)
    return [hex(bits) for _, bits in p.poll(0)]


def with_fd(fd: int, f: Callable[[int], object]) -> object:
    """``f(fd)``, and closed."""
    try:
        return f(fd)
    finally:
        os.close(fd)


def packed(value: int) -> bytes:
    """A counter as eventfd takes it."""
    return struct.pack("Q", value)


def memory_devices(q: Probe) -> None:
    """/dev/null, zero and full: reads, writes, seeks, mmap, poll, ioctl."""
    for name in ("null", "zero", "full"):
        path = f"/dev/{name}"

        def on(what: str, f: Callable[[int], object], path: str = path, flags: int = os.O_RDWR) -> None:
            def opened_call() -> object:
                with opened(path, flags) as fd:
                    return f(fd)

            q.ask(f"{path} {what}", opened_call)

        q.ask(f"{path} stat", lambda path=path: (oct(os.stat(path).st_mode), os.stat(path).st_size))
        q.ask(f"{path} rdev", lambda path=path: (os.major(os.stat(path).st_rdev), os.minor(os.stat(path).st_rdev)))
        on("read", lambda fd: os.read(fd, 4))
        on("read nothing", lambda fd: os.read(fd, 0))
        on("pread at 5", lambda fd: os.pread(fd, 4, 5))
        on("write", lambda fd: os.write(fd, b"abcd"))
        on("write nothing", lambda fd: os.write(fd, b""))
        on("pwrite at 5", lambda fd: os.pwrite(fd, b"abcd", 5))
        on("position after reading", lambda fd: (os.read(fd, 4), os.lseek(fd, 0, 1))[1])
        on("lseek 5", lambda fd: os.lseek(fd, 5, 0))
        on("lseek from the end", lambda fd: os.lseek(fd, 5, 2))
        on("lseek -1", lambda fd: os.lseek(fd, -1, 0))
        on("poll", poll)
        on("ioctl", lambda fd: fcntl.ioctl(fd, 0x1234))
        on("mmap shared", lambda fd: q.raw_mmap(fd, 4096, mmap.PROT_READ, mmap.MAP_SHARED, 0))
        on("mmap private", lambda fd: q.raw_mmap(fd, 4096, mmap.PROT_READ, mmap.MAP_PRIVATE, 0))
        on("ftruncate", lambda fd: os.ftruncate(fd, 0))
        on("fsync", os.fsync)
        on("O_TRUNC", lambda fd: os.write(fd, b"x"), flags=os.O_WRONLY | os.O_TRUNC | os.O_CREAT)
        on("O_DIRECTORY", lambda fd: 0, flags=os.O_DIRECTORY)
        on("O_EXCL", lambda fd: 0, flags=os.O_CREAT | os.O_EXCL)
        on("read through O_WRONLY", lambda fd: os.read(fd, 1), flags=os.O_WRONLY)
        on("write through O_RDONLY", lambda fd: os.write(fd, b"x"), flags=os.O_RDONLY)
        on("F_GETFL", lambda fd: oct(fcntl.fcntl(fd, fcntl.F_GETFL)))
    q.ask("node without a driver", _node_without_driver)


def _node_without_driver() -> object:
    path = "/dev/probe-node"
    os.mknod(path, 0o600 | stat.S_IFCHR, os.makedev(511, 200))
    try:
        return [call(os.open, path, flags) for flags in (os.O_RDWR, os.O_RDONLY | os.O_DIRECTORY)]
    finally:
        os.unlink(path)


def eventfd(q: Probe) -> None:
    """Counters: sizes, overflow, semaphores, flags, poll."""

    def on(what: str, f: Callable[[int], object], initial: int = 0, flags: int = os.EFD_NONBLOCK) -> None:
        q.ask(what, lambda: with_fd(os.eventfd(initial, flags), f))

    on("read of 0", lambda fd: os.read(fd, 8))
    on("read of 3", lambda fd: (os.read(fd, 8), call(os.read, fd, 8)), 3)
    on("read of 3 in 16 bytes", lambda fd: os.read(fd, 16), 3)
    on("read sizes", lambda fd: [call(os.read, fd, n) for n in (0, 1, 4, 7)], 3)
    on("write sizes", lambda fd: [call(os.write, fd, bytes(n)) for n in (0, 1, 4, 7, 8, 9, 16)])
    on("write of 9 bytes counts the first 8", lambda fd: (os.write(fd, packed(5) + b"\1"), os.read(fd, 8)))
    on("two writes add", lambda fd: (os.write(fd, packed(5)), os.write(fd, packed(6)), os.read(fd, 8)))
    on("write 0", lambda fd: (os.write(fd, packed(0)), call(os.read, fd, 8)))
    on("write 2**64-1", lambda fd: os.write(fd, packed(MAX)))
    on("write 2**64-2", lambda fd: (os.write(fd, packed(MAX - 1)), os.read(fd, 8)))
    on("overflow", lambda fd: (os.write(fd, packed(MAX - 1)), call(os.write, fd, packed(1)), os.read(fd, 8)))
    on("full takes 0", lambda fd: (os.write(fd, packed(MAX - 1)), call(os.write, fd, packed(0))))
    semaphore = os.EFD_SEMAPHORE | os.EFD_NONBLOCK
    on("semaphore", lambda fd: [call(os.read, fd, 8) for _ in range(3)], 2, semaphore)
    on("poll of 0", poll)
    on("poll of 1", poll, 1)
    on("poll of a full one", lambda fd: (os.write(fd, packed(MAX - 1)), poll(fd)))
    on("poll of one short of full", lambda fd: (os.write(fd, packed(MAX - 2)), poll(fd)))
    on("poll of a semaphore", lambda fd: (poll(fd), os.read(fd, 8), poll(fd)), 1, semaphore)
    on("F_GETFL", lambda fd: oct(fcntl.fcntl(fd, fcntl.F_GETFL)))
    on("F_GETFL blocking", lambda fd: oct(fcntl.fcntl(fd, fcntl.F_GETFL)), 0, 0)
    on("F_GETFD", lambda fd: fcntl.fcntl(fd, fcntl.F_GETFD), 0, 0)
    on("F_GETFD EFD_CLOEXEC", lambda fd: fcntl.fcntl(fd, fcntl.F_GETFD), 0, os.EFD_CLOEXEC)
    on("unknown flag", lambda fd: 0, 0, 2)
    on("lseek", lambda fd: os.lseek(fd, 0, 0))
    on("pread", lambda fd: os.pread(fd, 8, 0), 1)
    on("pwrite", lambda fd: os.pwrite(fd, packed(1), 0))
    on("ioctl", lambda fd: fcntl.ioctl(fd, 0x1234))
    on("mmap", lambda fd: q.raw_mmap(fd, 4096, mmap.PROT_READ, mmap.MAP_SHARED, 0))
    on("ftruncate", lambda fd: os.ftruncate(fd, 0))
    on("fsync", os.fsync)
    on("fstat", lambda fd: (oct(os.fstat(fd).st_mode), os.fstat(fd).st_size, os.fstat(fd).st_nlink))
    on("link text", lambda fd: os.readlink(f"/proc/self/fd/{fd}"))
    on("readv", lambda fd: os.readv(fd, [bytearray(4), bytearray(4)]), 7)
    on("writev", lambda fd: os.writev(fd, [packed(1)[:4], packed(1)[4:]]))
    on("dup shares the counter", lambda fd: (os.write(fd, packed(4)), with_fd(os.dup(fd), lambda d: os.read(d, 8))))


def pipes(q: Probe) -> None:
    """Pipes: ends, order, atomic writes, poll, closing."""

    def on(what: str, f: Callable[[int, int], object], flags: int = os.O_NONBLOCK) -> None:
        def piped() -> object:
            r, w = os.pipe2(flags)
            try:
                return f(r, w)
            finally:
                for fd in (r, w):
                    call(os.close, fd)

        q.ask(what, piped)

    on("read empty", lambda r, w: os.read(r, 1))
    on("write, read less, read more", lambda r, w: (os.write(w, b"abcdef"), os.read(r, 2), os.read(r, 100)))
    on("two writes, one read", lambda r, w: (os.write(w, b"ab"), os.write(w, b"cd"), os.read(r, 100)))
    on("read the write end", lambda r, w: os.read(w, 1))
    on("write the read end", lambda r, w: os.write(r, b"x"))
    on("write nothing", lambda r, w: os.write(w, b""))
    on("read nothing", lambda r, w: os.read(r, 0))
    on("capacity", lambda r, w: (fcntl.fcntl(r, 1032), os.write(w, bytes(1 << 20)), call(os.write, w, b"x")))
    on("full: 4096 after room of 1", lambda r, w: (os.write(w, bytes(65535)), call(os.write, w, bytes(4096))))
    on(
        "read after the writer closed",
        lambda r, w: (os.write(w, b"z"), call(os.close, w), os.read(r, 5), os.read(r, 5)),
    )
    on("write after the reader closed", lambda r, w: (call(os.close, r), call(os.write, w, b"x")))
    on("poll empty", lambda r, w: (poll(r), poll(w)))
    on("poll filled", lambda r, w: (os.write(w, b"x"), poll(r), poll(w)))
    on("poll full", lambda r, w: (os.write(w, bytes(65536)), poll(r), poll(w)))
    on("poll, writer closed", lambda r, w: (call(os.close, w), poll(r)))
    on("poll filled, writer closed", lambda r, w: (os.write(w, b"x"), call(os.close, w), poll(r)))
    on("poll, reader closed", lambda r, w: (call(os.close, r), poll(w)))
    on("lseek", lambda r, w: os.lseek(r, 0, 0))
    on("pread", lambda r, w: os.pread(r, 1, 0))
    on("fstat", lambda r, w: (oct(os.fstat(r).st_mode), os.fstat(r).st_size, os.fstat(r).st_nlink))
    on("F_GETFL", lambda r, w: (oct(fcntl.fcntl(r, fcntl.F_GETFL)), oct(fcntl.fcntl(w, fcntl.F_GETFL))))
    on("F_GETFD O_CLOEXEC", lambda r, w: fcntl.fcntl(r, fcntl.F_GETFD), os.O_CLOEXEC)
    on("F_GETFD", lambda r, w: fcntl.fcntl(r, fcntl.F_GETFD), 0)
    on("fsync", lambda r, w: os.fsync(w))
    on("ftruncate", lambda r, w: os.ftruncate(w, 0))
    on("mmap", lambda r, w: q.raw_mmap(r, 4096, mmap.PROT_READ, mmap.MAP_SHARED, 0))
    on("unknown flag", lambda r, w: 0, os.O_APPEND)


def descriptors(q: Probe) -> None:
    """dup, dup2, fcntl and close: numbers, flags, what is shared."""

    def on(what: str, f: Callable[[int], object], flags: int = os.O_RDWR) -> None:
        q.ask(what, lambda: with_fd(os.open("/dev/null", flags), f))

    on("lowest free number", lambda fd: with_fd(os.dup(fd), lambda d: d - fd))
    on("a closed number is used again", _reused)
    on("dup2 to a number", lambda fd: with_fd(os.dup2(fd, 200), lambda d: d))
    on("dup2 onto itself", lambda fd: os.dup2(fd, fd) == fd)
    on("dup2 of a closed one", lambda fd: os.dup2(201, 202))
    on("dup2 to -1", lambda fd: os.dup2(fd, -1))
    on("dup2 to 2**20+1", lambda fd: os.dup2(fd, (1 << 20) + 1))
    on("F_DUPFD from 100", lambda fd: with_fd(fcntl.fcntl(fd, fcntl.F_DUPFD, 100), lambda d: d))
    on("F_DUPFD_CLOEXEC", lambda fd: with_fd(fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 100), _fd_flags))
    on("F_DUPFD clears FD_CLOEXEC", lambda fd: with_fd(fcntl.fcntl(fd, fcntl.F_DUPFD, 100), _fd_flags))
    on("F_DUPFD of -1", lambda fd: fcntl.fcntl(fd, fcntl.F_DUPFD, -1))
    on("F_GETFD", _fd_flags)
    on("F_SETFD 0", lambda fd: (fcntl.fcntl(fd, fcntl.F_SETFD, 0), _fd_flags(fd)))
    on("F_SETFD 0xff", lambda fd: (fcntl.fcntl(fd, fcntl.F_SETFD, 0xFF), _fd_flags(fd)))
    on("F_SETFL is shared with dup", _shared_flags)
    on("F_SETFL keeps the access mode", lambda fd: _set_flags(fd, os.O_RDONLY | os.O_NONBLOCK))
    on("F_SETFL O_CREAT O_TRUNC", lambda fd: _set_flags(fd, os.O_CREAT | os.O_TRUNC))
    on("unknown fcntl", lambda fd: fcntl.fcntl(fd, 9999))
    on("O_RDWR|O_CLOEXEC F_GETFL", lambda fd: oct(fcntl.fcntl(fd, fcntl.F_GETFL)), os.O_RDWR | os.O_CLOEXEC)
    for what, f in {
        "read": lambda: os.read(201, 1),
        "write": lambda: os.write(201, b"x"),
        "close": lambda: os.close(201),
        "fstat": lambda: os.fstat(201),
        "dup": lambda: os.dup(201),
        "F_GETFL": lambda: fcntl.fcntl(201, fcntl.F_GETFL),
        "ioctl": lambda: fcntl.ioctl(201, 0),
        "lseek": lambda: os.lseek(201, 0, 0),
        "poll": lambda: poll(201),
        "select": lambda: select.select([201], [], [], 0),
    }.items():
        q.ask(f"closed descriptor: {what}", f)


def _fd_flags(fd: int) -> int:
    return fcntl.fcntl(fd, fcntl.F_GETFD)


def _reused(fd: int) -> bool:
    one, two = os.dup(fd), os.dup(fd)
    os.close(one)
    again = os.dup(fd)
    os.close(two)
    os.close(again)
    return again == one


def _set_flags(fd: int, flags: int) -> str:
    fcntl.fcntl(fd, fcntl.F_SETFL, flags)
    return oct(fcntl.fcntl(fd, fcntl.F_GETFL))


def _shared_flags(fd: int) -> object:
    def flags_of(other: int) -> str:
        fcntl.fcntl(fd, fcntl.F_SETFL, os.O_NONBLOCK)
        return oct(fcntl.fcntl(other, fcntl.F_GETFL))

    return with_fd(os.dup(fd), flags_of)


def passing(q: Probe) -> None:
    """SCM_RIGHTS over a socket pair: what arrives, and its flags."""

    def on(what: str, f: Callable[[socket.socket, socket.socket], object]) -> None:
        def paired() -> object:
            one, two = socket.socketpair()
            with one, two:
                return f(one, two)

        q.ask(what, paired)

    on("one descriptor", lambda a, b: _pass(a, b, [_counter()]))
    on("three descriptors", lambda a, b: _pass(a, b, [_counter(), _counter(), _counter()]))
    on("room for one of two", lambda a, b: _pass(a, b, [_counter(), _counter()], room=1))
    on("no room", lambda a, b: _pass(a, b, [_counter()], room=0))
    on("close-on-exec asked for", lambda a, b: _pass(a, b, [_counter()], flags=0x40000000))
    on("a closed descriptor", lambda a, b: socket.send_fds(a, [b"x"], [201]))
    on("without data", lambda a, b: socket.send_fds(a, [b""], [0]))
    on("254 descriptors", lambda a, b: socket.send_fds(a, [b"x"], [0] * 254))
    on("sender closes first", _sender_closes)
    on("the open file is shared", _file_is_shared)
    on("poll", lambda a, b: (poll(b.fileno()), a.send(b"x"), poll(b.fileno()), call(a.close), poll(b.fileno())))


def _counter() -> int:
    return os.eventfd(7, os.EFD_NONBLOCK)


def _pass(a: socket.socket, b: socket.socket, fds: Sequence[int], room: int = 10, flags: int = 0) -> object:
    socket.send_fds(a, [b"data"], list(fds))
    data, ancillary, message_flags, _ = b.recvmsg(10, socket.CMSG_LEN(4 * room) if room else 0, flags)
    for fd in fds:
        os.close(fd)
    got = [fd for _, _, body in ancillary for fd in struct.unpack(f"{len(body) // 4}i", body)]
    return data, hex(message_flags), [(with_fd(fd, lambda d: (_fd_flags(d), os.read(d, 8)))) for fd in got]


def _sender_closes(a: socket.socket, b: socket.socket) -> object:
    fd = _counter()
    socket.send_fds(a, [b"x"], [fd])
    os.close(fd)
    a.close()
    _, fds, _, _ = socket.recv_fds(b, 10, 4)
    return [with_fd(got, lambda d: os.read(d, 8)) for got in fds], b.recv(1)


def _file_is_shared(a: socket.socket, b: socket.socket) -> object:
    fd = _counter()
    socket.send_fds(a, [b"x"], [fd])
    _, fds, _, _ = socket.recv_fds(b, 10, 4)
    os.write(fds[0], packed(1))
    os.close(fds[0])
    return with_fd(fd, lambda d: os.read(d, 8))


def polling(q: Probe) -> None:
    """poll, select and epoll themselves."""
    q.ask("nothing to poll", lambda: select.poll().poll(0))
    q.ask("select of nothing", lambda: select.select([], [], [], 0))
    q.ask("select of a negative one", lambda: select.select([-1], [], [], 0))

    def on(what: str, f: Callable[[select.epoll, int], object]) -> None:
        with select.epoll() as ep:
            q.ask(what, lambda: with_fd(_counter(), lambda fd: f(ep, fd)))

    def bits(ep: select.epoll) -> list[str]:
        return [hex(event) for _, event in ep.poll(0)]

    on("epoll level", lambda ep, fd: (call(ep.register, fd, select.EPOLLIN), bits(ep), bits(ep))[1:])
    on("epoll edge", lambda ep, fd: (call(ep.register, fd, select.EPOLLIN | select.EPOLLET), bits(ep), bits(ep))[1:])
    on("epoll edge, written again", _edge_again)
    on(
        "epoll one shot",
        lambda ep, fd: (call(ep.register, fd, select.EPOLLIN | select.EPOLLONESHOT), bits(ep), bits(ep))[1:],
    )
    on("epoll twice", lambda ep, fd: (call(ep.register, fd, 1), call(ep.register, fd, 1))[1])
    on("epoll modify unknown", lambda ep, fd: ep.modify(fd, 1))
    on("epoll unregister unknown", lambda ep, fd: ep.unregister(fd))
    on("epoll of itself", lambda ep, fd: ep.register(ep.fileno(), 1))
    on("epoll of a closed one", lambda ep, fd: ep.register(201, 1))
    on("epoll of /dev/null", lambda ep, fd: with_fd(os.open("/dev/null", os.O_RDWR), lambda d: call(ep.register, d, 1)))
    on("epoll of a directory", lambda ep, fd: with_fd(os.open("/", os.O_RDONLY), lambda d: call(ep.register, d, 1)))
    on("poll of an epoll", lambda ep, fd: (call(ep.register, fd, 1), poll(ep.fileno()))[1])
    on("closing removes", _closing_removes)


def _edge_again(ep: select.epoll, fd: int) -> object:
    ep.register(fd, select.EPOLLIN | select.EPOLLET)
    counts = [len(ep.poll(0))]
    os.write(fd, packed(1))
    return [*counts, len(ep.poll(0)), len(ep.poll(0))]


def _closing_removes(ep: select.epoll, fd: int) -> object:
    other = _counter()
    ep.register(other, select.EPOLLIN)
    before = len(ep.poll(0))
    os.close(other)
    return before, len(ep.poll(0))


def forked(q: Probe) -> None:
    """What a child shares with its parent (needs fork)."""
    q.ask("the counter", lambda: with_fd(os.eventfd(0, os.EFD_NONBLOCK), _child_writes))
    q.ask("the position", _child_seeks)
    q.ask("flags are the open file's", lambda: with_fd(_counter(), _child_sets_flags))
    q.ask("closing is the child's own", lambda: with_fd(_counter(), _child_closes))


def in_child(f: Callable[[], object]) -> int:
    """Call ``f`` in a forked process: its exit code. The emulated kernel's runner puts its own here."""
    pid = os.fork()
    if pid == 0:
        f()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def exec_errno(fd: int) -> int:
    """The errno of fstat(fd) in a program that a forked process becomes, 0 without; replaced as :func:`in_child`."""
    code = f"import os,sys\ntry: os.fstat({fd})\nexcept OSError as e: sys.exit(e.errno)"
    return in_child(lambda: os.execv(sys.executable, [sys.executable, "-c", code]))


def _child_writes(fd: int) -> object:
    return in_child(lambda: os.write(fd, packed(9))), os.read(fd, 8)


def _child_seeks() -> object:
    with opened("/proc/version", os.O_RDONLY) as fd:
        return in_child(lambda: os.read(fd, 3)), os.lseek(fd, 0, os.SEEK_CUR)


def _child_sets_flags(fd: int) -> object:
    return in_child(lambda: fcntl.fcntl(fd, fcntl.F_SETFL, 0)), oct(fcntl.fcntl(fd, fcntl.F_GETFL))


def _child_closes(fd: int) -> object:
    return in_child(lambda: os.close(fd)), os.read(fd, 8)


def executed(q: Probe) -> None:
    """What survives exec (needs fork and exec)."""

    def after_exec(*, inheritable: bool) -> object:
        with opened("/dev/null", os.O_RDWR) as fd:
            os.set_inheritable(fd, inheritable)
            return exec_errno(fd)

    q.ask("with close-on-exec: errno of fstat", lambda: after_exec(inheritable=False))
    q.ask("without", lambda: after_exec(inheritable=True))


PARTS = {
    "memory devices": memory_devices,
    "eventfd": eventfd,
    "pipes": pipes,
    "descriptors": descriptors,
    "passing": passing,
    "polling": polling,
    "fork": forked,
    "exec": executed,
}

if __name__ == "__main__":
    main(PARTS)
