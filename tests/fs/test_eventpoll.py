"""epoll, readv, writev, pipe sizes: every answer is the host kernel's (fs/eventpoll.c, fs/read_write.c, fs/pipe.c)."""

from __future__ import annotations

import os
import select
import struct
from collections.abc import Callable
from errno import EBADF, EINVAL
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pykernel.start import boot

IN, OUT, ET, ONESHOT, EXCLUSIVE = select.EPOLLIN, select.EPOLLOUT, select.EPOLLET, select.EPOLLONESHOT, 1 << 28
ADD, DEL, MOD = 1, 2, 3
NB = os.O_NONBLOCK
F_SETPIPE_SZ, F_GETPIPE_SZ = 1031, 1032


def call(fn: Callable[..., Any], *args: Any, **kw: Any) -> Any:
    try:
        return fn(*args, **kw)
    except OSError as e:
        return "errno", e.errno


def poll(w: Any, fd: int) -> Any:
    return w.poll([(fd, IN | OUT | select.POLLPRI | select.POLLRDNORM | select.POLLWRNORM)], 0)


def u64(n: int) -> bytes:
    return struct.pack("=Q", n)


def errors(w: Any) -> Any:
    ep, fd, null = w.epoll_create(), w.eventfd(1, NB), w.open("/dev/null", os.O_RDWR)
    place = w.open("/", os.O_PATH)
    return [
        call(w.epoll_create, 1),
        call(w.epoll_ctl, 99, ADD, 98, IN),
        call(w.epoll_ctl, ep, ADD, 99, IN),
        call(w.epoll_ctl, ep, ADD, null, IN),
        call(w.epoll_ctl, fd, ADD, null, IN),
        call(w.epoll_ctl, ep, ADD, place, IN),
        call(w.epoll_ctl, fd, ADD, ep, IN),
        call(w.epoll_ctl, ep, ADD, ep, IN),
        call(w.epoll_ctl, ep, 4, fd, IN),
        call(w.epoll_ctl, ep, MOD, fd, IN),
        call(w.epoll_ctl, ep, DEL, fd),
        call(w.epoll_ctl, ep, ADD, fd, IN | EXCLUSIVE),
        call(w.epoll_ctl, ep, MOD, fd, IN),
        call(w.epoll_ctl, ep, MOD, fd, IN | EXCLUSIVE),
        call(w.epoll_ctl, ep, DEL, fd),
        call(w.epoll_ctl, ep, ADD, fd, IN | EXCLUSIVE | select.EPOLLPRI),
        call(w.epoll_wait, ep, 0),
        call(w.epoll_wait, ep, -1),
        call(w.epoll_wait, ep, 1 << 30),
        call(w.epoll_wait, fd),
        call(w.epoll_wait, 99),
    ]


def itself(w: Any) -> Any:
    ep = w.epoll_create(os.O_CLOEXEC)
    s = w.fstat(ep)
    return [
        ep,
        w.fcntl(ep, 1),
        w.fcntl(ep, 3),
        w.fcntl(w.epoll_create(), 1),
        call(w.read, ep, 8),
        call(w.write, ep, b"12345678"),
        call(w.pread, ep, 8, 0),
        call(w.lseek, ep, 5),
        call(w.fsync, ep),
        call(w.ftruncate, ep, 0),
        (oct(s.st_mode), s.st_size, s.st_nlink),
        poll(w, ep),
    ]


def closing(w: Any) -> Any:
    ep, fd = w.epoll_create(), w.eventfd(1, NB)
    w.epoll_ctl(ep, ADD, fd, IN, 7)
    twin = w.dup(fd)
    out = [call(w.epoll_ctl, ep, ADD, twin, IN, 8), w.epoll_wait(ep)]
    w.close(fd)
    out += [w.epoll_wait(ep), call(w.epoll_ctl, ep, DEL, fd)]
    w.close(twin)
    return [*out, w.epoll_wait(ep), poll(w, ep)]


def nested(w: Any) -> Any:
    eps = [w.epoll_create() for _ in range(7)]
    fd = w.eventfd(0, NB)
    out = [call(w.epoll_ctl, outer, ADD, inner, IN) for outer, inner in pairwise(eps)]
    out += [call(w.epoll_ctl, eps[3], ADD, eps[0], IN), call(w.epoll_ctl, eps[1], ADD, eps[0], IN)]
    out += [call(w.epoll_ctl, eps[4], ADD, fd, IN), [poll(w, ep) for ep in eps]]
    w.write(fd, u64(1))
    out += [[poll(w, ep) for ep in eps], [w.epoll_wait(ep) for ep in eps]]
    w.read(fd, 8)
    return [*out, [poll(w, ep) for ep in eps], [w.epoll_wait(ep) for ep in eps]]


def in_turn(w: Any) -> Any:
    ep, fds = w.epoll_create(), [w.eventfd(1, NB) for _ in range(4)]
    for fd in fds:
        w.epoll_ctl(ep, ADD, fd, IN)
    out = [w.epoll_wait(ep, 3) for _ in range(3)]
    w.read(fds[1], 8)
    return [*out, w.epoll_wait(ep, 3), w.epoll_wait(ep, 3)]


def hung_up(w: Any) -> Any:
    ep, (r, x) = w.epoll_create(), w.pipe(NB)
    w.epoll_ctl(ep, ADD, r, 0)
    w.epoll_ctl(ep, ADD, x, OUT | ONESHOT)
    out = [w.epoll_wait(ep), w.epoll_wait(ep)]
    w.close(x)
    out += [w.epoll_wait(ep), w.epoll_wait(ep)]
    w.epoll_ctl(ep, MOD, r, IN | ONESHOT)
    return [*out, w.epoll_wait(ep), w.epoll_wait(ep)]


def vectors(w: Any) -> Any:
    fd, (r, x), null = w.eventfd(7, NB), w.pipe(NB), w.open("/dev/full", os.O_RDWR)
    return [
        call(w.readv, fd, [4, 4]),
        call(w.writev, fd, [u64(1)[:4], u64(1)[4:]]),
        call(w.writev, fd, [u64(1), u64(2), b"x"]),
        call(w.writev, fd, [b"", u64(3)]),
        call(w.readv, fd, [0, 0]),
        call(w.readv, fd, [0, 8, 3]),
        call(w.writev, x, [b"ab", b"", b"cd"]),
        call(w.readv, r, [1, 2, 9]),
        call(w.readv, r, [1]),
        call(w.readv, x, [1]),
        call(w.writev, r, [b"x"]),
        call(w.writev, null, [b"x", b"y"]),
        call(w.writev, null, [b"", b""]),
        call(w.readv, null, [2, 3]),
        call(w.readv, 99, [2]),
    ]


def pipe_sizes(w: Any) -> Any:
    (r, x), fd = w.pipe(NB), w.eventfd(0)
    sizes = [4096, 1, 0, 4097, 65536, 1 << 20, (1 << 20) + 1, (1 << 31) + 1, -1]
    out = [(call(w.fcntl, r, F_SETPIPE_SZ, n), call(w.fcntl, x, F_GETPIPE_SZ)) for n in sizes if n != (1 << 20) + 1]
    w.fcntl(r, F_SETPIPE_SZ, 8192)
    out += [call(w.write, x, bytes(9000)), call(w.fcntl, r, F_SETPIPE_SZ, 4096), call(w.read, r, 4096)]
    out += [call(w.fcntl, r, F_SETPIPE_SZ, 4096), call(w.write, x, b"x"), call(w.fcntl, x, F_SETPIPE_SZ, 8192)]
    return [*out, call(w.write, x, bytes(4096)), call(w.fcntl, fd, F_GETPIPE_SZ), call(w.fcntl, fd, F_SETPIPE_SZ, 1)]


def rights(w: Any) -> Any:
    a, b = w.socketpair(NB)
    fd = w.eventfd(1, NB)
    out = [call(w.sendmsg, a, b"x", (fd,) * 254), call(w.sendmsg, a, b"x", (fd,) * 253)]
    out += [call(w.recvmsg, b, 9, 2)]
    for room in (0, 1):
        w.sendmsg(a, b"y", (fd, fd))
        out += [call(w.recvmsg, b, 9, room, 0x40000000)]
    w.sendmsg(a, b"z")
    return [*out, call(w.recvmsg, b, 9, 0)]


SCRIPTS = (errors, itself, closing, nested, in_turn, hung_up, vectors, pipe_sizes, rights)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda f: f.__name__)
def test_as_the_host(twins, script):
    """The host's kernel answers the same."""
    twins.same(script)


STEPS = st.one_of(
    st.tuples(
        st.just("ctl"),
        st.sampled_from((ADD, MOD, DEL)),
        st.integers(0, 2),
        st.sampled_from((0, IN, OUT, IN | OUT)),
        st.sampled_from((0, ONESHOT)),
    ),
    st.tuples(st.just("write"), st.integers(0, 1), st.sampled_from((0, 1, 5, (1 << 64) - 2))),
    st.tuples(st.just("read"), st.integers(0, 1)),
    st.tuples(st.just("wait"), st.integers(1, 3)),
)


@given(st.lists(STEPS, max_size=25))
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_sequence_is_as_the_hosts(twins_any, steps):
    """Level-triggered and one-shot sets, in whatever order things happen to them."""

    def script(w: Any) -> Any:
        ep, fds = w.epoll_create(), [w.eventfd(0, NB), w.eventfd(1, NB), w.pipe(NB)[0]]
        out = []
        for step, *args in steps:
            if step == "ctl":
                op, which, events, kind = args
                out.append(call(w.epoll_ctl, ep, op, fds[which], events | kind))
            elif step == "write":
                out.append(call(w.write, fds[args[0]], u64(args[1])))
            elif step == "read":
                out.append(call(w.read, fds[args[0]], 8))
            else:
                out.append(call(w.epoll_wait, ep, args[0]))
            out.append(poll(w, ep))
        return out

    twins_any.same(script)


@pytest.mark.parametrize(("profile", "errno"), [("linux-6.1", EINVAL), ("linux-7.2", EBADF)])
def test_the_order_of_checks_is_the_kernels(profile, errno):
    """do_epoll_wait() looked at the count first; ep_check_params() of later kernels (6.18 is one) does not."""
    k = boot("dsa", profile)

    assert call(k.process().epoll_wait, 99, 0) == ("errno", errno)
    k.shutdown()


def test_waiting_ends_with_a_wake_up(kernel):
    """epoll_wait() sleeps until a timer of the kernel makes a file ready, or its time is over."""
    p = kernel.process()
    ep, fd = p.epoll_create(), p.eventfd(0, NB)
    p.epoll_ctl(ep, ADD, fd, IN, 42)
    kernel.sched.call_later(5_000_000, lambda: p.write(fd, u64(1)))

    assert p.epoll_wait(ep, 1, 2) == []
    assert p.epoll_wait(ep, 1, None) == [(42, IN)]
    p.exit()


def test_edge_triggered_once_a_wake_up(kernel):
    """EPOLLET: reported when added and after each write."""
    p = kernel.process()
    ep, fd = p.epoll_create(), p.eventfd(1, NB)
    p.epoll_ctl(ep, ADD, fd, IN | ET)

    assert [len(p.epoll_wait(ep)) for _ in range(2)] == [1, 0]
    p.write(fd, u64(1))
    assert [len(p.epoll_wait(ep)) for _ in range(2)] == [1, 0]
    p.exit()


def test_dev_zero_is_memory(kernel):
    """drivers/char/mem.c:mmap_zero(): a shared mapping is shared with a child, a private one is not."""
    p = kernel.process()
    fd = p.open("/dev/zero", os.O_RDWR)
    shared, private = (p.mmap(0, 8192, 3, kind, fd, 4096) for kind in (1, 2))
    child = p.fork()
    child.store(shared + 4096, b"both")
    child.store(private, b"mine")

    assert p.load(shared + 4096, 4) == b"both"
    assert p.load(private, 4) == bytes(4)
    child.exit()
    p.exit()
