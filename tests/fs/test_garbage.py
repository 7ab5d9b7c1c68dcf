"""Sockets in flight that nobody can reach are closed with all they carry (net/unix/garbage.c:unix_gc())."""

from __future__ import annotations

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pykernel.fs.garbage import UnixGarbage
from pykernel.start import boot

WQ = "/sys/bus/dsa/devices/wq0.0"


@pytest.fixture
def p(kernel):
    proc = kernel.process()
    yield proc
    proc.exit()
    assert not kernel.sub(UnixGarbage).inflight


def given_back(kernel):
    """Whether an eventfd that only a message holds was released: told by a hook on its last reference."""
    from pykernel.fs.anon import EventFd

    released = []

    class Watched(EventFd):
        __slots__ = ()

        def release(self):
            released.append(self)

    with kernel.as_task(kernel.idle_task):
        return Watched(kernel, 0, 0), released


def test_a_socket_that_was_sent_over_itself(p, kernel):
    """Its pair closes, and so does what came along."""
    file, released = given_back(kernel)
    fd = p.fds.install(file)
    a, b = p.socketpair()
    p.sendmsg(a, b"x", [b, fd])
    for n in (fd, a):
        p.close(n)
    assert not released
    p.close(b)
    assert released == [file]


@pytest.mark.parametrize("end", ["exit", "exec", "dup2"])
def test_other_ways_to_lose_the_last_descriptor(p, kernel, end):
    """exit(), close-on-exec and dup2() over it."""
    file, released = given_back(kernel)
    q = kernel.process()
    a, b = q.socketpair(os.O_CLOEXEC)
    q.sendmsg(a, b"x", [b, q.fds.install(file, cloexec=True)])
    if end == "dup2":
        null = q.open("/dev/null")
        q.close(2)
        for n in (a, b):
            assert not released
            q.dup2(null, n)
    else:
        getattr(q, end)()
    assert released == [file]
    if end != "exit":
        q.exit()


def test_two_that_carry_each_other_and_a_third_on_the_way(p, kernel):
    """The longest way round is found; what can still be received stays."""
    file, released = given_back(kernel)
    a, b = p.socketpair()
    c, d = p.socketpair()
    e, f = p.socketpair()
    p.sendmsg(a, b"1", [d])
    p.sendmsg(c, b"2", [b, p.fds.install(file)])
    p.sendmsg(e, b"3", [b])
    p.close(6)
    for n in (a, b, c, d):
        p.close(n)
    assert not released
    _, (back,), _ = p.recvmsg(f, 1)
    _, (again,), _ = p.recvmsg(back, 1)
    assert not released
    for n in (back, again):
        p.close(n)
    assert released == [file]
    for n in (e, f):
        p.close(n)


def test_the_peer_is_told_of_what_it_wrote_for_nothing(p):
    """A message without sockets goes with the socket, which is ECONNRESET for the peer. unix_release_sock()."""
    a, b = p.socketpair(os.O_NONBLOCK)
    p.sendmsg(a, b"x", [b])
    p.write(a, b"lost")
    p.close(b)
    with pytest.raises(ConnectionResetError):
        p.read(a, 1)
    assert p.read(a, 1) == b""
    with pytest.raises(BrokenPipeError):
        p.write(a, b"x")


def test_a_work_queue_and_its_pasid_come_back(p, kernel):
    """A dedicated queue's only client is a file in such a message: clients is 0 when all are closed, and none leaks."""
    dev = "/sys/bus/dsa/devices/dsa0"
    rows = {"engine0.0/group_id": "0", "wq0.0/group_id": "0", "wq0.0/mode": "dedicated", "wq0.0/size": "8"}
    rows |= {"wq0.0/type": "user", "wq0.0/name": "app", "wq0.0/priority": "1"}
    for name, text in rows.items():
        p.write_text(f"{dev}/{name}", text)
    p.write_text("/sys/bus/dsa/drivers/idxd/bind", "dsa0")
    p.write_text("/sys/bus/dsa/drivers/user/bind", "wq0.0")
    fd = p.open("/dev/dsa/wq0.0", os.O_RDWR)
    assert p.read_text(f"{WQ}/clients") == "1\n"
    a, b = p.socketpair()
    p.sendmsg(a, b"x", [b, fd])
    for n in (fd, a, b):
        p.close(n)
    assert p.read_text(f"{WQ}/clients") == "0\n"
    fd = p.open("/dev/dsa/wq0.0", os.O_RDWR)
    p.close(fd)


class Model:
    """Descriptors name ends or plain files; a message is a list of what it carries. Nothing is ever freed here."""

    def __init__(self):
        self.fds, self.boxes, self.peer, self.plain, self.known = {}, {}, {}, [], []

    def reachable(self):
        """All that some descriptor leads to."""
        todo, seen = list(self.fds.values()), set()
        while todo:
            thing = todo.pop()
            if thing in seen:
                continue
            seen.add(thing)
            todo += [f for message in self.boxes.get(thing, ()) for f in message]
        return seen


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["pair", "plain", "send", "send", "send", "send", "recv", "close", "close", "close", "dup"]),
        st.integers(0, 30),
        st.lists(st.integers(0, 30), min_size=1, max_size=3),
    ),
    max_size=40,
)


@settings(max_examples=300, deadline=None)
@given(STEPS)
def test_files_live_as_long_as_a_descriptor_leads_to_them(steps):
    """Any mix of sending, receiving and closing: exactly the reachable files are open, by a naive search."""
    k = boot("dsa")
    p = k.process()
    m = Model()
    serial = iter(range(1000))
    for what, n, more in [("pair", 0, [0]), ("pair", 0, [0]), ("plain", 0, [0]), *steps]:
        live = m.reachable()
        open_fds = sorted(m.fds)
        ends = [fd for fd in open_fds if m.fds[fd] in m.peer]
        fd = open_fds[n % len(open_fds)] if open_fds else None
        end = ends[n % len(ends)] if ends else None
        if what == "pair":
            both = p.socketpair(os.O_NONBLOCK)
            for mine, other in (both, both[::-1]):
                m.fds[mine] = p.fds.get(mine)
                m.boxes[m.fds[mine]], m.peer[m.fds[mine]] = [], p.fds.get(other)
            m.known += [m.fds[x] for x in both]
        elif what == "plain":
            fd = p.eventfd(next(serial))
            m.fds[fd] = p.fds.get(fd)
            m.known.append(m.fds[fd])
        elif what == "dup" and fd is not None:
            new = p.dup(fd)
            m.fds[new] = m.fds[fd]
        elif what == "send" and end is not None:
            peer = m.peer[m.fds[end]]
            files = [open_fds[i % len(open_fds)] for i in more]
            if peer in live:
                p.sendmsg(end, b"x", files)
                m.boxes[peer].append([m.fds[f] for f in files])
            else:
                with pytest.raises(BrokenPipeError):
                    p.sendmsg(end, b"x", files)
        elif what == "recv" and end is not None and m.boxes[m.fds[end]]:
            _, got, _ = p.recvmsg(end, 1)
            for new, file in zip(got, m.boxes[m.fds[end]].pop(0), strict=True):
                m.fds[new] = file
        elif what == "close" and fd is not None:
            p.close(fd)
            del m.fds[fd]
        assert {f for f in m.known if f.refs} == m.reachable()
    p.exit()
    assert not [f for f in m.known if f.refs]
    assert not k.sub(UnixGarbage).inflight
    k.shutdown()
