"""poll, select, epoll, selectors and asyncio over emulated and real descriptors."""

from __future__ import annotations

import asyncio
import errno
import os
import select
import selectors
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

import pykernel
from pykernel.log import INFO
from pykernel.sched import BUDGET

pytestmark = pytest.mark.kernel(machine="dsa")

ALWAYS = select.POLLIN | select.POLLOUT | select.POLLRDNORM | select.POLLWRNORM


@pytest.fixture
def kmsg(kernel):
    """The log at its end: readable when the kernel says something."""
    fd = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
    os.lseek(fd, 0, os.SEEK_END)
    yield fd
    os.close(fd)


def test_poll_of_an_attribute(kernel, wq):
    """fs/kernfs/file.c: ready for both, and exceptional until it was read."""
    fd = os.open(f"{wq}/type", os.O_RDONLY)
    poll = select.poll()
    poll.register(fd, ALWAYS | select.POLLPRI)
    assert poll.poll(0) == [(fd, ALWAYS | select.POLLPRI | select.POLLERR)]
    os.read(fd, 10)
    assert poll.poll(0) == [(fd, ALWAYS)]
    poll.modify(fd, select.POLLPRI)
    assert poll.poll(0) == []
    poll.unregister(fd)
    with pytest.raises(KeyError):
        poll.unregister(fd)
    os.close(fd)


def test_select(kernel, wq, raises_errno):
    with open(f"{wq}/type") as f:
        assert select.select([f], [f], [f], 0) == ([f], [f], [f])
        f.read()
        assert select.select([f], [], [f], 0) == ([f], [], [])
        fd = f.fileno()
    raises_errno(errno.EBADF, select.select, [fd], [], [], 0)


def test_both_kinds_together(kernel, kmsg):
    r, w = os.pipe()
    poll = select.poll()
    poll.register(kmsg, select.POLLIN)
    poll.register(r, select.POLLIN)
    assert poll.poll(1) == []
    os.write(w, b"x")
    assert poll.poll(1000) == [(r, select.POLLIN)]
    kernel.log.printk(INFO, "hello")
    assert poll.poll(1000) == [(kmsg, select.POLLIN), (r, select.POLLIN)]
    assert b"hello" in os.read(kmsg, 999)
    os.close(r)
    os.close(w)


def test_a_time_out_passes_at_once_on_the_virtual_clock(kernel, kmsg):
    before = kernel.sched.clock_ns()
    assert select.select([kmsg], [], [], 3600) == ([], [], [])
    assert kernel.sched.clock_ns() - before >= 3600 * 10**9


def test_an_idle_thread_that_is_older_than_the_kernel_does_not_make_time_real():
    """A pool of somebody else's, a watchdog: only threads that may call this kernel are waited for."""
    release = threading.Event()
    idle = threading.Thread(target=release.wait)
    idle.start()
    kernel = pykernel.boot("dsa")
    try:
        with kernel.patched():
            kmsg = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
            os.lseek(kmsg, 0, os.SEEK_END)
            assert select.select([kmsg], [], [], 3600) == ([], [], [])
            os.close(kmsg)
    finally:
        release.set()
        idle.join()
    kernel.shutdown()


def test_a_timer_of_the_kernel_ends_the_wait(kernel, kmsg):
    kernel.sched.call_later(5 * 10**9, lambda: kernel.log.printk(INFO, "late"))
    poll = select.poll()
    poll.register(kmsg, select.POLLIN)
    assert poll.poll() == [(kmsg, select.POLLIN)]


@pytest.mark.parametrize("flags", [0, select.EPOLLET, select.EPOLLONESHOT])
def test_epoll(kernel, kmsg, flags):
    """Level, edge and one shot."""
    with select.epoll() as ep:
        ep.register(kmsg, select.EPOLLIN | flags)
        assert ep.poll(0) == []
        kernel.log.printk(INFO, "one")
        assert ep.poll(0) == [(kmsg, select.EPOLLIN)]
        again = [] if flags else [(kmsg, select.EPOLLIN)]
        assert ep.poll(0) == again
        kernel.log.printk(INFO, "two")
        assert ep.poll(0) == ([] if flags == select.EPOLLONESHOT else [(kmsg, select.EPOLLIN)])
        ep.modify(kmsg, select.EPOLLIN)
        assert ep.poll(0) == [(kmsg, select.EPOLLIN)]


def test_epoll_errors(kernel, wq, kmsg, raises_errno):
    directory = os.open(wq, os.O_RDONLY)
    place = os.open(f"{wq}/type", os.O_PATH)
    with select.epoll() as ep:
        ep.register(kmsg)
        raises_errno(errno.EEXIST, ep.register, kmsg)
        raises_errno(errno.EPERM, ep.register, directory)
        raises_errno(errno.EBADF, ep.register, place)
        ep.unregister(kmsg)
        raises_errno(errno.ENOENT, ep.unregister, kmsg)
        raises_errno(errno.ENOENT, ep.modify, kmsg, 0)
        ep.register(fd := os.open(f"{wq}/type", os.O_RDONLY))
        os.close(fd)
        assert ep.poll(0) == []  # the last close takes it out
    os.close(directory)
    os.close(place)


@pytest.mark.parametrize("kind", [selectors.SelectSelector, selectors.PollSelector, selectors.EpollSelector])
def test_selectors(kernel, wq, kind):
    with open(f"{wq}/type") as f, kind() as selector:
        selector.register(f, selectors.EVENT_READ, "data")
        [(key, events)] = selector.select(0)
        assert (key.fileobj, key.data, events) == (f, "data", selectors.EVENT_READ)


def test_asyncio(kernel, kmsg, wq):
    """A reader callback, and threads that the loop waits for."""

    async def main() -> tuple[bytes, list[str]]:
        loop = asyncio.get_running_loop()
        came: asyncio.Future[bytes] = loop.create_future()

        def heard() -> None:
            loop.remove_reader(kmsg)
            came.set_result(os.read(kmsg, 999))

        loop.add_reader(kmsg, heard)
        loop.call_later(0.001, kernel.log.printk, INFO, "from the loop")
        record = await asyncio.wait_for(came, 10)
        return record, await asyncio.gather(*(asyncio.to_thread(_read, f"{wq}/type") for _ in range(4)))

    record, texts = asyncio.run(main())
    assert b"from the loop" in record
    assert texts == ["none\n"] * 4


def _read(path: str) -> str:
    with open(path) as f:
        return f.read()


def test_threads_while_the_owner_waits_elsewhere(kernel, wq):
    """The owner sits in Future.result() and Thread.join(), not in the kernel."""
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(_read, [f"{wq}/type"] * 20)) == ["none\n"] * 20
        with pytest.raises(FileNotFoundError):
            pool.submit(_read, "/sys/nothing").result()


def test_a_thread_ends_a_wait_of_the_owner(kernel, wq):
    """poll() for ever, in the thread that booted the kernel; another thread makes it ready."""
    fd = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
    os.lseek(fd, 0, os.SEEK_END)
    thread = threading.Thread(target=lambda: os.write(log, b"from a thread"))
    log = os.open("/dev/kmsg", os.O_WRONLY)
    thread.start()
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    assert poll.poll() == [(fd, select.POLLIN)]
    thread.join()
    assert b"from a thread" in os.read(fd, 999)
    os.close(fd)
    os.close(log)


def test_an_owner_that_is_no_main_thread(wq):
    import pykernel

    box: list[object] = []

    def life() -> None:
        kernel = pykernel.boot("dsa")
        with kernel.patched():
            box.append(_read(f"{wq}/type"))
        kernel.shutdown()

    thread = threading.Thread(target=life)
    thread.start()
    thread.join()
    assert box == ["none\n"]


def test_epoll_reports_no_more_than_asked_for_and_loses_nothing(kernel, wq, raises_errno):
    """fs/eventpoll.c:ep_send_events(): what did not fit stays in line; a one-shot counts when it was reported."""
    fds = [os.open(f"{wq}/{name}", os.O_RDONLY) for name in ("type", "state", "mode")]
    r, w = os.pipe()
    os.write(w, b"x")
    with select.epoll() as ep:
        for fd in (*fds, r):
            ep.register(fd, select.EPOLLIN | select.EPOLLONESHOT)
        seen = [ep.poll(0, maxevents=2) for _ in range(3)]
        assert [len(some) for some in seen] == [2, 2, 0]
        assert {fd for some in seen for fd, _ in some} == {*fds, r}
        for fd in (*fds, r, w):
            os.close(fd)
        for fd in (fds[0], r):
            raises_errno(errno.EBADF, ep.unregister, fd)


def test_work_that_one_call_did_not_finish_goes_on_in_a_wait(kernel, kmsg):
    """A real descriptor is waited for as well: no real time passes before the work is done."""
    r, w = os.pipe()
    sched = kernel.sched

    def link(left: int) -> None:
        if left:
            sched.call_soon(lambda: link(left - 1))
        else:
            kernel.log.printk(INFO, "done")

    poll = select.poll()
    poll.register(kmsg, select.POLLIN)
    poll.register(r, select.POLLIN)
    link(4 * BUDGET)
    assert poll.poll(600_000) == [(kmsg, select.POLLIN)]
    os.close(r)
    os.close(w)
