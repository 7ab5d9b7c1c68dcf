"""eventfd, pipes and socket pairs: every answer is the host kernel's (fs/eventfd.c, fs/pipe.c, net/unix/af_unix.c)."""

from __future__ import annotations

import fcntl
import os
import select
import socket
import stat
import struct
import termios
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

IN, OUT, PRI, RDHUP = select.POLLIN, select.POLLOUT, select.POLLPRI, select.POLLRDHUP
ALL = IN | OUT | PRI | RDHUP | select.POLLRDNORM | select.POLLWRNORM
NB = os.O_NONBLOCK


def call(fn: Callable[..., Any], *args: Any, **kw: Any) -> Any:
    try:
        return fn(*args, **kw)
    except OSError as e:
        return "errno", e.errno


def poll(w: Any, *fds: int) -> Any:
    return w.poll([(fd, ALL) for fd in fds], 0)


def u64(n: int) -> bytes:
    return struct.pack("=Q", n)


MAX = (1 << 64) - 1


def eventfd_counts(w: Any) -> Any:
    fd = w.eventfd(3, os.EFD_NONBLOCK)
    return [
        poll(w, fd),
        call(w.read, fd, 8),
        poll(w, fd),
        call(w.read, fd, 8),
        call(w.write, fd, u64(5)),
        call(w.write, fd, u64(6)),
        call(w.read, fd, 100),
        call(w.read, fd, 7),
        call(w.write, fd, b"1234567"),
        call(w.write, fd, u64(MAX)),
        call(w.write, fd, u64(MAX - 1)),
        poll(w, fd),
        call(w.write, fd, u64(1)),
        call(w.write, fd, u64(0)),
        call(w.read, fd, 8),
    ]


def eventfd_semaphore(w: Any) -> Any:
    fd = w.eventfd(2, os.EFD_SEMAPHORE | os.EFD_NONBLOCK | os.EFD_CLOEXEC)
    return [call(w.read, fd, 8) for _ in range(3)] + [w.fcntl(fd, fcntl.F_GETFD), w.fcntl(fd, fcntl.F_GETFL)]


def eventfd_other_calls(w: Any) -> Any:
    fd = w.eventfd(0)
    s = w.fstat(fd)
    return [
        w.fcntl(fd, fcntl.F_GETFL),
        w.fcntl(fd, fcntl.F_GETFD),
        call(w.lseek, fd, 0),
        call(w.lseek, fd, 7, os.SEEK_END),
        call(w.pread, fd, 8, 0),
        call(w.pwrite, fd, u64(1), 0),
        call(w.fsync, fd),
        call(w.ftruncate, fd, 0),
        call(w.ioctl, fd, 0x1234),
        call(w.eventfd, 0, 0x40),
        (oct(s.st_mode), s.st_size, s.st_nlink, s.st_uid),
    ]


def pipe_bytes(w: Any) -> Any:
    r, x = w.pipe(NB)
    return [
        (r, x),
        poll(w, r, x),
        call(w.read, r, 10),
        call(w.write, x, b"hello"),
        call(w.write, x, b" world"),
        poll(w, r, x),
        call(w.read, r, 0),
        call(w.read, r, 3),
        call(w.read, r, 100),
        call(w.write, x, b""),
        call(w.read, x, 1),
        call(w.write, r, b"x"),
        call(w.pread, r, 1, 0),
        call(w.pwrite, x, b"x", 0),
        call(w.lseek, r, 0),
        call(w.fsync, r),
        call(w.ftruncate, x, 0),
        call(w.ftruncate, r, 0),
        w.fcntl(r, fcntl.F_GETFL),
        w.fcntl(x, fcntl.F_GETFL),
        w.fcntl(r, fcntl.F_GETFD),
        oct(w.fstat(r).st_mode),
        w.fstat(r).st_ino == w.fstat(x).st_ino,
    ]


def pipe_flags(w: Any) -> Any:
    r, x = w.pipe(os.O_CLOEXEC)
    return [
        w.fcntl(r, fcntl.F_GETFD),
        w.fcntl(x, fcntl.F_GETFL),
        call(w.pipe, os.O_APPEND),
        w.fcntl(x, fcntl.F_SETFL, NB | os.O_APPEND),
        w.fcntl(x, fcntl.F_GETFL),
    ]


def pipe_ends(w: Any) -> Any:
    r, x = w.pipe(NB)
    out = [call(w.write, x, b"rest"), w.close(x), poll(w, r), call(w.read, r, 9), call(w.read, r, 9), poll(w, r)]
    w.close(r)
    r, x = w.pipe(NB)
    w.write(x, b"lost")
    w.close(r)
    out += [poll(w, x), call(w.write, x, b"y"), call(w.write, x, b"")]
    r, x = w.pipe(NB)
    w.close(r)
    return [*out, poll(w, x)]


def pipe_fills(w: Any) -> Any:
    r, x = w.pipe(NB)
    out = [call(w.write, x, bytes(70000)), poll(w, x), call(w.write, x, b"1"), len(w.read(r, 4095)), poll(w, x)]
    out += [
        call(w.write, x, b"1"),
        len(w.read(r, 1)),
        poll(w, x),
        call(w.write, x, bytes(4097)),
        call(w.write, x, b"z"),
    ]
    while isinstance(data := call(w.read, r, 10000), bytes):
        out.append(len(data))
    return out


def pipe_slots(w: Any) -> Any:
    """Sixteen slots of a page: a small write joins the last page only when it fits whole."""
    r, x = w.pipe(NB)
    out = [call(w.write, x, bytes(3000)) for _ in range(20)]
    out += [poll(w, x), len(w.read(r, 3000)), call(w.write, x, bytes(5000)), len(w.read(r, 65536)), poll(w, r)]
    return out


def pipe_packets(w: Any) -> Any:
    r, x = w.pipe(NB | os.O_DIRECT)
    out = [call(w.write, x, b"one"), call(w.write, x, b"two"), call(w.write, x, bytes(5000))]
    return [*out, w.read(r, 2), w.read(r, 9), len(w.read(r, 9000)), len(w.read(r, 9000)), call(w.read, r, 9)]


def pipe_fionread(w: Any) -> Any:
    r, x = w.pipe(NB)
    w.write(x, bytes(5000))
    buf = bytearray(4)
    return [call(w.ioctl, r, termios.FIONREAD, buf), bytes(buf)]


def sockets_stream(w: Any) -> Any:
    a, b = w.socketpair(NB)
    return [
        (a, b),
        poll(w, a, b),
        call(w.read, a, 1),
        call(w.write, a, b"hello"),
        call(w.write, a, b" world"),
        poll(w, b),
        call(w.read, b, 0),
        call(w.read, b, 7),
        call(w.read, b, 70),
        call(w.sendmsg, a, b""),
        call(w.write, b, b"back"),
        call(w.recvmsg, a, 2),
        call(w.recvmsg, a, 20),
        call(w.recvmsg, a, 20),
        call(w.lseek, a, 0),
        call(w.pread, a, 1, 0),
        call(w.pwrite, a, b"1", 0),
        call(w.fsync, a),
        call(w.ftruncate, a, 0),
        w.fcntl(a, fcntl.F_GETFL),
        w.fcntl(a, fcntl.F_GETFD),
        oct(w.fstat(a).st_mode),
    ]


def sockets_close(w: Any) -> Any:
    a, b = w.socketpair(NB)
    w.write(a, b"last")
    w.close(a)
    out = [poll(w, b), call(w.read, b, 2), call(w.read, b, 9), call(w.read, b, 9), poll(w, b), call(w.write, b, b"x")]
    a, b = w.socketpair(NB)
    w.write(b, b"unread")
    w.close(a)
    return [*out, poll(w, b), call(w.read, b, 1), call(w.read, b, 1), poll(w, b), call(w.sendmsg, b, b"x")]


def sockets_rights(w: Any) -> Any:
    a, b = w.socketpair(NB)
    r, x = w.pipe(NB)
    out = [call(w.sendmsg, a, b"take", (r, x)), call(w.close, r), call(w.recvmsg, b, 10)]
    out += [call(w.write, x, b"via"), call(w.read, 2, 9), w.fcntl(4, fcntl.F_GETFD)]
    out += [call(w.sendmsg, a, b"", (x,)), call(w.recvmsg, b, 10), call(w.sendmsg, a, b"x", (99,))]
    out += [call(w.sendmsg, x, b"no"), call(w.recvmsg, 88, 1), call(w.recvmsg, x, 1)]
    w.sendmsg(a, b"first")
    w.sendmsg(a, b"second", (x,))
    w.sendmsg(a, b"third")
    w.sendmsg(a, b"fourth", (x, x))
    return [*out, [call(w.recvmsg, b, 100, flags=socket.MSG_CMSG_CLOEXEC) for _ in range(5)], w.fcntl(5, fcntl.F_GETFD)]


def sockets_rights_in_parts(w: Any) -> Any:
    a, b = w.socketpair(NB)
    w.sendmsg(a, b"abcdef", (a,))
    return [w.recvmsg(b, 2), w.recvmsg(b, 2), call(w.read, b, 9)]


def sockets_rights_are_dropped_by_read(w: Any) -> Any:
    a, b = w.socketpair(NB)
    r, x = w.pipe(NB)
    w.sendmsg(a, b"abc", (x,))
    w.close(x)
    before = poll(w, r)
    return [before, w.read(b, 1), poll(w, r), w.read(b, 9), poll(w, r)]


def sockets_rights_go_with_the_receiver(w: Any) -> Any:
    a, b = w.socketpair(NB)
    r, x = w.pipe(NB)
    w.sendmsg(a, b"abc", (x,))
    w.close(x)
    w.close(b)
    return [poll(w, r), poll(w, a)]


SCRIPTS = [v for k, v in list(globals().items()) if k.startswith(("eventfd_", "pipe_", "sockets_"))]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda f: f.__name__)
def test_as_on_the_host(twins, script):
    twins.same(script)


SIZES = st.sampled_from([0, 1, 7, 100, 1000, 2048, 3000, 4095, 4096, 4097, 5000, 8192, 20000, 65536, 70000])
PIPE_OPS = st.lists(st.tuples(st.sampled_from(["read", "write"]), SIZES), max_size=40)


@settings(max_examples=40)
@given(PIPE_OPS, st.booleans())
def test_any_order_of_pipe_reads_and_writes(twins_any, ops, packets):
    """Counts, data and poll masks agree with the host's pipe after every step."""

    def script(w: Any) -> Any:
        r, x = w.pipe(NB | (os.O_DIRECT if packets else 0))
        out: list[Any] = []
        for n, (op, size) in enumerate(ops):
            got = call(w.read, r, size) if op == "read" else call(w.write, x, bytes([n & 255]) * size)
            out.append((got, poll(w, r, x)))
        return out

    twins_any.same(script)


def test_a_read_waits_for_the_writer(kernel):
    """Without O_NONBLOCK a pipe's reader sleeps until data comes, and the virtual clock moves to that time."""
    p = kernel.process()
    r, x = p.pipe()
    kernel.sched.call_later(1_000_000, lambda: p.fds.get(x).write(b"late"))
    assert p.read(r, 10) == b"late"
    assert kernel.sched.clock_ns() == 1_000_000
    p.exit()


def test_a_full_pipe_waits_for_the_reader(kernel):
    p = kernel.process()
    r, x = p.pipe()
    assert p.write(x, bytes(65536)) == 65536
    got: list[bytes] = []
    kernel.sched.call_later(5, lambda: got.append(p.fds.get(r).read(65536)))
    assert p.write(x, b"more") == 4
    assert len(got[0]) == 65536
    assert p.read(r, 9) == b"more"
    p.exit()


def test_an_eventfd_blocks_both_ways(kernel):
    p = kernel.process()
    fd = p.eventfd()
    ev = p.fds.get(fd)
    kernel.sched.call_later(7, lambda: ev.signal())
    assert p.read(fd, 8) == u64(1)
    p.write(fd, u64(MAX - 1))
    kernel.sched.call_later(7, lambda: ev.read(8))
    assert p.write(fd, u64(2)) == 8
    assert p.read(fd, 8) == u64(2)
    p.exit()


def test_eventfd_signal_stops_at_the_top(kernel):
    """fs/eventfd.c:eventfd_signal_mask(): the counter saturates, and poll() then says EPOLLERR."""
    p = kernel.process()
    fd = p.eventfd(0, os.EFD_NONBLOCK)
    p.write(fd, u64(MAX - 1))
    p.fds.get(fd).signal(5)
    assert p.poll([(fd, IN | OUT)], 0) == [(fd, IN | select.POLLERR)]
    assert p.read(fd, 8) == u64(MAX)
    p.exit()


def test_a_socket_read_waits_and_ends_with_the_peer(kernel):
    p = kernel.process()
    a, b = p.socketpair()
    kernel.sched.call_later(3, lambda: p.fds.get(a).write(b"x"))
    assert p.read(b, 5) == b"x"
    kernel.sched.call_later(3, lambda: p.fds.close(a))
    assert p.read(b, 5) == b""
    p.exit()


def test_modes_are_the_kinds(kernel):
    p = kernel.process()
    r, _ = p.pipe()
    a, _ = p.socketpair()
    assert stat.S_ISFIFO(p.fstat(r).st_mode)
    assert stat.S_ISSOCK(p.fstat(a).st_mode)
    p.exit()
