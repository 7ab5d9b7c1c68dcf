"""What code waits for: wait queues (include/linux/wait.h) and completions (include/linux/completion.h)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pykernel.sched import Scheduler, Thread

__all__ = ["Completion", "WaitQueue"]


class WaitQueue:
    """``wait_queue_head_t``. ``hooks`` are called at each wake-up (poll and FUSE use them)."""

    __slots__ = ("hooks", "name", "sched", "waiters")

    def __init__(self, sched: Scheduler, name: str = "") -> None:
        self.sched = sched
        self.name = name
        self.waiters: list[Thread] = []
        self.hooks: list[Callable[[], None]] = []

    def wait_event(self, cond: Callable[[], bool], timeout_ns: int | None = None) -> bool:
        """Sleep until *cond* holds; False when *timeout_ns* passed first. C: ``wait_event_timeout()``."""
        sched = self.sched
        if sched.atomic:
            sched.might_sleep(self)
        if cond():
            return True
        thread = sched.thread
        if thread is None:
            return sched.idle_until(cond, timeout_ns)
        timer = None if timeout_ns is None else sched.call_later(timeout_ns, lambda: self._wake(thread))
        deadline = None if timeout_ns is None else sched.clock_ns() + timeout_ns
        try:
            while not cond():
                if deadline is not None and sched.clock_ns() >= deadline:
                    return False
                if thread not in self.waiters:
                    self.waiters.append(thread)
                sched.block(self)
        finally:
            if timer is not None:
                timer.cancel()
            if thread in self.waiters:
                self.waiters.remove(thread)
        return True

    def wait_event_lock(self, cond: Callable[[], bool], lock: Any) -> None:
        """Sleep until *cond* holds; *lock* is held, but for the sleep. C: ``wait_event_lock_irq()``."""
        while not cond():
            lock.unlock()
            try:
                self.wait_event(cond)
            finally:
                lock.lock()

    def wake_up(self) -> None:
        """Make every waiter look at its condition again. C: ``wake_up_all()``."""
        for thread in tuple(self.waiters):
            self._wake(thread)
        for hook in tuple(self.hooks):
            hook()
        if self.sched.exploring:
            self.sched.point()

    def __repr__(self) -> str:
        return f"wait queue {self.name}" if self.name else "an event"

    def _wake(self, thread: Thread) -> None:
        if thread in self.waiters:
            self.waiters.remove(thread)
        self.sched.make_ready(thread)


class Completion:
    """``struct completion``."""

    __slots__ = ("done", "queue")

    def __init__(self, sched: Scheduler, name: str = "a completion") -> None:
        self.done = 0
        self.queue = WaitQueue(sched, name)

    def complete(self) -> None:
        """C: ``void complete(struct completion *)``."""
        self.done += 1
        self.queue.wake_up()

    def wait(self, timeout_ns: int | None = None) -> bool:
        """Wait for a complete(); False on time-out. C: ``wait_for_completion_timeout()``."""
        if not self.queue.wait_event(lambda: self.done > 0, timeout_ns):
            return False
        self.done -= 1
        return True

    def reinit(self) -> None:
        """C: ``void reinit_completion(struct completion *)``."""
        self.done = 0
