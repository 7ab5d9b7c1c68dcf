"""
K's event loop: one thread, one epoll.

Who joins: /dev/fuse, the launcher's pidfd, one pidfd a client process, sockets; and the other halves of this surface
when they are built: the seccomp notification fd (ioctl, init_module, uname: a handler that RECVs and answers), and a
signalfd for SIGCHLD whose handler runs ``waitpid(-1, WNOHANG | __WALL)`` for ptrace stops (mmap trace, SIGBUS of
trapped pages, SIGSEGV of ENQCMD). The launcher is waited for by pidfd, never by ``waitpid(-1)``, so that the two
cannot steal from each other.
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pykernel.kernel import Kernel

__all__ = ["Loop"]

# After an event, look that often again before sleeping, giving way to the client each time. A client's calls come in
# rows; sleeping between them lets the host wake both sides on other, idle CPUs: 230 us an open+read+close instead of
# 26.
SPIN = 100


class Loop:
    """Calls handlers of readable descriptors and, between them, the kernel's timers and ready work."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.epoll = select.epoll()
        self.handlers: dict[int, Callable[[], None]] = {}
        self.owned: set[int] = set()
        self._clock = time.monotonic_ns()

    def add(self, fd: int, handler: Callable[[], None], *, owned: bool = False) -> None:
        """Call *handler* while *fd* is readable or broken; :meth:`close` closes an *owned* one."""
        self.handlers[fd] = handler
        if owned:
            self.owned.add(fd)
        self.epoll.register(fd, select.EPOLLIN)

    def remove(self, fd: int) -> None:
        """Forget *fd*; the caller closes it."""
        if self.handlers.pop(fd, None) is not None:
            self.owned.discard(fd)
            self.epoll.unregister(fd)

    def run(self, until: Callable[[], bool], timeout: float | None = None) -> bool:
        """Serve until *until* holds (True) or *timeout* seconds passed (False)."""
        end = None if timeout is None else time.monotonic() + timeout
        poll, handlers, sched = self.epoll.poll, self.handlers, self.kernel.sched
        spin = 0
        while not until():
            if spin and not sched.ready:
                spin -= 1
                os.sched_yield()
                events = poll(0, 16)
            else:
                wait = self._wait_s(end)
                if end is not None and time.monotonic() >= end:
                    return False
                events = poll(wait, 16)
                self._tick()
            for fd, _ in events:
                handler = handlers.get(fd)
                if handler is not None:
                    handler()
                    spin = SPIN
        return True

    def close(self) -> None:
        """Close the epoll and the owned descriptors."""
        for fd in tuple(self.owned):
            self.remove(fd)
            os.close(fd)
        self.epoll.close()

    def _wait_s(self, end: float | None) -> float | None:
        """Run what is due; seconds until the next timer or *end*."""
        sched = self.kernel.sched
        if sched.ready or sched.timers:
            self._tick()
            sched.run_ready()
        step = sched.next_timer_ns() if sched.timers else None
        wait = 0.0 if sched.ready else None if step is None else step / 1e9  # more work than one turn of this loop's
        if end is not None:
            left = max(0.0, end - time.monotonic())
            wait = left if wait is None else min(wait, left)
        return wait

    def _tick(self) -> None:
        """Real time drives a virtual clock too: a driver's time-out must not overtake the client's own seconds."""
        sched = self.kernel.sched
        now = time.monotonic_ns()
        if sched.virtual and sched.timers:
            sched.idle_until(lambda: False, now - self._clock)
        self._clock = now
