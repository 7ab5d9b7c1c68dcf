"""
select, poll and epoll over real and emulated descriptors together.

Only emulated ones, no other thread: the kernel waits, and on the virtual clock a time-out passes at once. Otherwise the
virtual clock runs from timer to timer until one is ready, then the wait is a real one, which other threads and real
descriptors end.
"""

from __future__ import annotations

import os
import select
import selectors
import threading
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from errno import EBADF, ENOENT, EPERM
from functools import wraps
from typing import TYPE_CHECKING, Any

from pykernel.errors import err
from pykernel.fs.eventpoll import EventPoll, file_can_poll
from pykernel.fs.vfs import File, PollTable
from pykernel.syscalls import PathFile
from pykernel.uapi.linux.eventpoll import EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLL_CTL_MOD

if TYPE_CHECKING:
    from pykernel.sched import WaitQueue
    from pykernel.surfaces.inprocess.places import Places

__all__ = ["Waiter", "adopting_register", "epoll_class", "poll_class", "select_function"]

Ready = list[tuple[int, int]]
MAXEVENTS = 1023  # Modules/selectmodule.c: FD_SETSIZE - 1
# fs/select.c
POLLIN_SET = select.POLLRDNORM | select.POLLRDBAND | select.POLLIN | select.POLLHUP | select.POLLERR
POLLOUT_SET = select.POLLWRBAND | select.POLLWRNORM | select.POLLOUT | select.POLLERR
POLLEX_SET = select.POLLPRI


class Waiter:
    """Waits for what is ready among real and emulated descriptors of one process."""

    def __init__(self, places: Places) -> None:
        self.kernel = places.kernel
        self.process = places.process
        self.files = places.files
        self.real_poll = select.poll
        self.eventfd, self.close = os.eventfd, os.close

    def wait(
        self,
        emulated: Callable[[], Ready],
        files: Iterable[File],
        real: Callable[[float | None, int], tuple[bool, Any]],
        timeout_ms: float | None,
        *,
        alone: bool,
    ) -> tuple[Ready, Any]:
        """
        Until one is ready.

        Args:
            emulated: which emulated ones are ready now.
            files: the emulated files.
            real: ``real(milliseconds, bell)`` waits for real ones and the descriptor *bell*: (it rang, what is ready).
            timeout_ms: None waits for ever.
            alone: nothing real is waited for.
        """
        end = None if timeout_ms is None or timeout_ms < 0 else time.monotonic() + timeout_ms / 1e3
        with self._bell(files) as bell:
            while True:
                _, found = real(0, bell)
                ready = emulated()
                if ready or found or timeout_ms == 0:
                    return ready, found
                if self._let_time_pass(None if end is None else timeout_ms, alone=alone):
                    timeout_ms = 0 if alone and end is not None else timeout_ms
                    continue
                left = None if end is None else max(0.0, (end - time.monotonic()) * 1e3)
                if left == 0:
                    return ready, found
                real(0 if self._work_left() else left, bell)

    def _let_time_pass(self, timeout_ms: float | None, *, alone: bool) -> bool:
        """Run the kernel's next timer, or its clock to the end of the time-out; False: only real time can help."""
        sched = self.kernel.sched
        if self.kernel.owner != threading.get_ident() or not sched.virtual:
            return False
        step = sched.next_timer_ns()
        lonely = alone and not self.kernel.has_other_threads()
        if step is None and not (lonely and timeout_ms is not None):
            if lonely:
                self.process.poll([], None)  # a hung task: says so
            return False
        if lonely and timeout_ms is not None:
            step = min(int(timeout_ms * 1e6), int(timeout_ms * 1e6) if step is None else step)
        self.process.poll([], (step or 0) / 1e6)
        return True

    def _work_left(self) -> bool:
        """Go on with what one system call did not finish: whether there is such work, and real time must not wait."""
        kernel = self.kernel
        if kernel.owner != threading.get_ident() or not kernel.sched.ready:
            return False
        self.process.poll([], 0)
        return True

    @contextmanager
    def _bell(self, files: Iterable[File]) -> Generator[int, None, None]:
        """A real descriptor, readable when one of *files* may be ready or another thread calls the kernel."""
        bell = self.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        table = PollTable()
        for file in files:
            file.poll(table)
        queues: list[WaitQueue] = list(table.queues)

        def ring() -> None:
            os.eventfd_write(bell, 1)

        mine = self.kernel.owner == threading.get_ident()
        for queue in queues:
            queue.hooks.append(ring)
        if mine:
            self.kernel.doorbells.append(ring)
        try:
            yield bell
        finally:
            for queue in queues:
                queue.hooks.remove(ring)
            if mine:
                self.kernel.doorbells.remove(ring)
            self.close(bell)

    def poll(self, wanted: dict[int, int], timeout_ms: float | None) -> Ready:
        """poll() of both kinds, in the order of *wanted*."""
        files, process = self.files, self.process
        ours = [(fd, ev) for fd, ev in wanted.items() if fd in files]
        theirs = [(fd, ev) for fd, ev in wanted.items() if fd not in files]
        poller = self.real_poll()
        for fd, ev in theirs:
            poller.register(fd, ev)
        if not ours:
            return poller.poll(timeout_ms)

        def real(milliseconds: float | None, bell: int) -> tuple[bool, Ready]:
            poller.register(bell, select.POLLIN)
            got = poller.poll(milliseconds)
            poller.unregister(bell)
            if any(fd == bell for fd, _ in got):
                os.eventfd_read(bell)
                self._serve()
            rest = [(fd, ev) for fd, ev in got if fd != bell]
            return len(rest) != len(got), rest

        ready, found = self.wait(
            lambda: process.poll(ours, 0), [files[fd] for fd, _ in ours], real, timeout_ms, alone=not theirs
        )
        both = dict(ready) | dict(found)
        return [(fd, both[fd]) for fd in wanted if both.get(fd)]

    def _serve(self) -> None:
        if self.kernel.foreign and self.kernel.owner == threading.get_ident():
            self.kernel.serve_threads()


def _fd(obj: Any) -> int:
    fd = obj if isinstance(obj, int) else obj.fileno()
    if fd < 0:
        raise ValueError(f"file descriptor cannot be a negative integer ({fd})")
    return int(fd)


def poll_class(waiter: Waiter) -> type:
    """The class that stands for select.poll."""

    class poll:
        """select.poll of real and emulated descriptors."""

        def __init__(self) -> None:
            self._wanted: dict[int, int] = {}

        def register(self, fd: Any, eventmask: int = select.POLLIN | select.POLLPRI | select.POLLOUT, /) -> None:
            """Watch *fd*."""
            self._wanted[_fd(fd)] = eventmask

        def modify(self, fd: Any, eventmask: int, /) -> None:
            """Raises ENOENT: not registered."""
            if _fd(fd) not in self._wanted:
                raise err(ENOENT)
            self._wanted[_fd(fd)] = eventmask

        def unregister(self, fd: Any, /) -> None:
            """Raises KeyError: not registered."""
            del self._wanted[_fd(fd)]

        def poll(self, timeout: float | None = None, /) -> Ready:
            """The ready ones; milliseconds."""
            return waiter.poll(self._wanted, timeout)

    return poll


def select_function(waiter: Waiter) -> Callable[..., Any]:
    """The function that stands for select.select."""
    real: Callable[..., Any] = select.select

    def select_(rlist: Any, wlist: Any, xlist: Any, timeout: float | None = None, /) -> Any:
        lists = [list(rlist), list(wlist), list(xlist)]
        numbers = [[_fd(o) for o in objs] for objs in lists]
        if not any(fd in waiter.files for fds in numbers for fd in fds):
            return real(*lists, timeout)
        wanted: dict[int, int] = {}
        sets = (POLLIN_SET, POLLOUT_SET, POLLEX_SET)
        for fds, mask in zip(numbers, sets, strict=True):
            for fd in fds:
                wanted[fd] = wanted.get(fd, 0) | mask
        ready = dict(waiter.poll(wanted, None if timeout is None else timeout * 1e3))
        if any(ev & select.POLLNVAL for ev in ready.values()):
            raise err(EBADF)
        return tuple(
            [obj for obj, fd in zip(objs, fds, strict=True) if ready.get(fd, 0) & mask]
            for objs, fds, mask in zip(lists, numbers, sets, strict=True)
        )

    return select_


def adopting_register(waiter: Waiter, epoll: Any) -> Callable[..., Any]:
    """
    EpollSelector.register() for what was made before the patches, as an event loop can be: a selector whose set is a
    real one gets one of ours around it with its first emulated descriptor.
    """
    register, real_class = selectors.EpollSelector.register, select.epoll

    @wraps(register)
    def adopt(self: Any, fileobj: Any, events: int, data: Any = None) -> Any:
        if type(self._selector) is real_class and _fd(fileobj) in waiter.files:
            self._selector = epoll.around(self._selector)
        return register(self, fileobj, events, data)

    return adopt


def epoll_class(waiter: Waiter) -> type:
    """The class that stands for select.epoll: a real one for real descriptors, and the emulated ones beside it."""
    real_class = select.epoll

    class epoll:
        """select.epoll of real and emulated descriptors."""

        def __init__(self, sizehint: int = -1, flags: int = 0) -> None:
            self._real = real_class(sizehint, flags)
            self._set = EventPoll(waiter.kernel)

        @classmethod
        def fromfd(cls, fd: int) -> Any:
            """Of a real epoll descriptor."""
            made = cls.__new__(cls)
            made._real, made._set = real_class.fromfd(fd), EventPoll(waiter.kernel)
            return made

        @classmethod
        def around(cls, real: Any) -> Any:
            """Of a real epoll object, whose place it takes."""
            made = cls.__new__(cls)
            made._real, made._set = real, EventPoll(waiter.kernel)
            return made

        @property
        def closed(self) -> bool:
            """Whether close() was called."""
            return self._real.closed

        def fileno(self) -> int:
            """The real set's descriptor: it does not know of emulated ones."""
            return self._real.fileno()

        def close(self) -> None:
            """Empty the set."""
            self._set.release()
            self._real.close()

        def _ctl(self, op: int, fd: int, events: int = 0) -> None:
            """fs/eventpoll.c:do_epoll_ctl(). Raises EBADF: O_PATH; EPERM: no poll operation; what the set says."""
            file = waiter.files[fd]
            if isinstance(file, PathFile):
                raise err(EBADF)
            if not file_can_poll(file):
                raise err(EPERM)
            self._set.ctl(op, file, fd, events, fd)

        def register(self, fd: Any, eventmask: int = select.EPOLLIN | select.EPOLLPRI | select.EPOLLOUT) -> None:
            """Raises EEXIST, EPERM, EBADF."""
            number = _fd(fd)
            if number in waiter.files:
                self._ctl(EPOLL_CTL_ADD, number, eventmask)
            else:
                self._real.register(number, eventmask)

        def modify(self, fd: Any, eventmask: int) -> None:
            """Raises ENOENT."""
            number = _fd(fd)
            if number in waiter.files:
                self._ctl(EPOLL_CTL_MOD, number, eventmask)
            else:
                self._real.modify(number, eventmask)

        def unregister(self, fd: Any) -> None:
            """Raises ENOENT."""
            number = _fd(fd)
            if number in waiter.files:
                self._ctl(EPOLL_CTL_DEL, number)
            else:
                self._real.unregister(number)

        def poll(self, timeout: float | None = None, maxevents: int = -1) -> Ready:
            """The ready ones; seconds."""
            if not self._set.items:
                return self._real.poll(timeout, maxevents)
            if maxevents < -1 or maxevents == 0:
                raise ValueError(f"maxevents must be greater than 0, got {maxevents}")
            limit = MAXEVENTS if maxevents == -1 else maxevents
            found: Ready = []

            def real(milliseconds: float | None, bell: int) -> tuple[bool, Ready]:
                if milliseconds != 0:
                    return self._wait_real(milliseconds, bell), []
                found[:] = self._real.poll(0, limit)
                return False, found

            milliseconds = None if timeout is None or timeout < 0 else timeout * 1e3
            ready, _ = waiter.wait(
                lambda: self._set.send_events(limit - len(found)), [self._set], real, milliseconds, alone=False
            )
            return [*found, *ready]

        def _wait_real(self, milliseconds: float | None, bell: int) -> bool:
            poller = waiter.real_poll()
            poller.register(self._real.fileno(), select.POLLIN)
            poller.register(bell, select.POLLIN)
            rang = any(fd == bell for fd, _ in poller.poll(milliseconds))
            if rang:
                os.eventfd_read(bell)
                waiter._serve()
            return rang

        def __enter__(self) -> Any:
            if self.closed:
                raise ValueError("I/O operation on closed epoll object")
            return self

        def __exit__(self, *_exc: object) -> None:
            self.close()

    return epoll
