"""
The kernel's scheduler, its clock and the things that code waits for.

Deterministic: work runs in the order in which it became ready, unless a test explores interleavings, when a seeded
random generator picks. What may sleep is a task (a greenlet); interrupt threads, work items and timers are plain calls.
A wait in a task parks it; a wait outside any task runs the scheduler in place until its condition holds. With nothing
left to run, the virtual clock jumps to the next timer; with no timer either, the wait can never end: a hung task, which
is an oops.
"""

from __future__ import annotations

import heapq
import random
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from pykernel.errors import Oops

__all__ = ["Completion", "Scheduler", "Thread", "Timer", "WaitQueue"]

_EPOCH_NS = 1_767_225_600 * 10**9  # 2026-01-01: where the virtual wall clock starts


class Timer:
    """``struct timer_list``: a call at a time; :meth:`cancel` is del_timer()."""

    __slots__ = ("fn", "when_ns")

    def __init__(self, when_ns: int, fn: Callable[[], None]) -> None:
        self.when_ns = when_ns
        self.fn: Callable[[], None] | None = fn

    def cancel(self) -> bool:
        """Forget the call; True when it was still to come. C: ``int del_timer(struct timer_list *)``."""
        was, self.fn = self.fn is not None, None
        return was


class Thread:
    """A kernel task that may sleep; ``result`` after it ended."""

    __slots__ = ("context", "error", "greenlet", "name", "parked", "result")

    def __init__(self, name: str, greenlet: Any) -> None:
        self.name = name
        self.greenlet = greenlet
        self.result: Any = None
        self.error: BaseException | None = None
        self.context: Any = None
        self.parked = True

    @property
    def done(self) -> bool:
        """True once its function returned or raised."""
        return bool(self.greenlet.dead)


class Scheduler:
    """The run queue, the timers and the clock of one kernel (``clock``: "virtual" or "monotonic")."""

    def __init__(self, clock: str = "virtual", seed: int = 0) -> None:
        if clock not in ("virtual", "monotonic"):
            raise ValueError(f"clock must be 'virtual' or 'monotonic', not {clock!r}")
        self.virtual = clock == "virtual"
        self.rng = random.Random(seed)
        self.exploring = False
        self.ready: deque[Callable[[], None]] = deque()
        self.timers: list[tuple[int, int, Timer]] = []
        self.thread: Thread | None = None
        self.on_oops: Callable[[BaseException], None] | None = None
        self.get_context: Callable[[], Any] = lambda: None
        self.set_context: Callable[[Any], None] = lambda _context: None
        self.on_stuck: Callable[[], bool] = lambda: False
        self.idle_context: Any = None
        self._now = 0
        self._seq = 0
        self._start = time.monotonic_ns()

    # ---- clock

    def clock_ns(self) -> int:
        """Nanoseconds since boot. C: ``u64 ktime_get_ns(void)``."""
        return self._now if self.virtual else time.monotonic_ns() - self._start

    def realtime_ns(self) -> int:
        """Wall clock. C: ``u64 ktime_get_real_ns(void)``."""
        return _EPOCH_NS + self._now if self.virtual else time.time_ns()

    def next_timer_ns(self) -> int | None:
        """Nanoseconds until the next timer, for a surface's poll loop; None without one."""
        while self.timers and self.timers[0][2].fn is None:
            heapq.heappop(self.timers)
        return max(0, self.timers[0][0] - self.clock_ns()) if self.timers else None

    # ---- work

    def call_soon(self, fn: Callable[[], None]) -> None:
        """Queue plain work, as schedule_work() and raise_softirq() do."""
        self.ready.append(fn)

    def call_later(self, ns: int, fn: Callable[[], None]) -> Timer:
        """Call *fn* in *ns* nanoseconds. C: ``int mod_timer(struct timer_list *, unsigned long)``."""
        timer = Timer(self.clock_ns() + ns, fn)
        self._seq += 1
        heapq.heappush(self.timers, (timer.when_ns, self._seq, timer))
        return timer

    def spawn(self, fn: Callable[[], Any], name: str = "kthread") -> Thread:
        """Make a task that may sleep and queue it. C: ``kthread_run()``."""
        from greenlet import greenlet  # only kernels with sleeping tasks pay for the import

        def body() -> None:
            try:
                thread.result = fn()
            except BaseException as e:
                thread.error = e
                if not isinstance(e, OSError):
                    self._oops(e)

        thread = Thread(name, greenlet(body))
        self.ready.append(lambda: self._switch(thread))
        return thread

    def run_ready(self) -> None:
        """Run everything that can run now, timers that are due included; time does not pass."""
        while True:
            self._expire()
            if not self.ready:
                return
            self._run_one()

    def idle_until(self, cond: Callable[[], bool], timeout_ns: int | None = None) -> bool:
        """Run the scheduler in place until *cond* holds (True) or *timeout_ns* passed (False)."""
        context = self.get_context()
        self.set_context(self.idle_context)  # what runs meanwhile runs in its own name
        try:
            return self._idle_until(cond, None if timeout_ns is None else self.clock_ns() + timeout_ns)
        finally:
            self.set_context(context)

    def _idle_until(self, cond: Callable[[], bool], deadline: int | None) -> bool:
        while not cond():
            if self.ready:
                self._run_one()
                continue
            step = self.next_timer_ns()
            left = None if deadline is None else deadline - self.clock_ns()
            if left is not None and left <= 0:
                return False
            if step is None and left is None:
                if self.on_stuck():
                    continue
                raise Oops("hung task: it waits for something that nothing in this kernel will do")
            self._pass(min(x for x in (step, left) if x is not None))
            self._expire()
        return True

    def block(self) -> None:
        """Park the running task until something queues it again."""
        if self.thread is None:
            raise Oops("block() outside a task")
        self.thread.parked = True
        self.thread.greenlet.parent.switch()

    def point(self) -> None:
        """A switch point: taken at random while a test explores interleavings, free otherwise."""
        if self.exploring and self.thread is not None and self.rng.random() < 0.5:
            thread = self.thread
            self.ready.append(lambda: self._switch(thread))
            self.block()

    def _run_one(self) -> None:
        if self.exploring and len(self.ready) > 1:
            self.ready.rotate(-self.rng.randrange(len(self.ready)))
        fn = self.ready.popleft()
        try:
            fn()
        except Exception as e:
            self._oops(e)

    def _switch(self, thread: Thread) -> None:
        from greenlet import getcurrent

        if thread.done or not thread.parked:
            return  # it runs, or waits for a call of its own: it will look at its condition by itself
        thread.parked = False
        before, self.thread = self.thread, thread
        context = self.get_context()
        self.set_context(thread.context or self.idle_context)
        thread.greenlet.parent = getcurrent()
        try:
            thread.greenlet.switch()
        finally:
            thread.context = self.get_context()
            self.set_context(context)
            self.thread = before

    def _pass(self, ns: int) -> None:
        if self.virtual:
            self._now += ns
        else:
            time.sleep(ns / 1e9)

    def _expire(self) -> None:
        now = self.clock_ns()
        while self.timers and self.timers[0][0] <= now:
            timer = heapq.heappop(self.timers)[2]
            if timer.fn is not None:
                fn, timer.fn = timer.fn, None
                self.ready.append(fn)

    def _oops(self, e: BaseException) -> None:
        if self.on_oops is None:
            raise e
        self.on_oops(e)


class WaitQueue:
    """``wait_queue_head_t``. ``hooks`` are called at each wake-up (poll and FUSE use them)."""

    __slots__ = ("hooks", "sched", "waiters")

    def __init__(self, sched: Scheduler) -> None:
        self.sched = sched
        self.waiters: list[Thread] = []
        self.hooks: list[Callable[[], None]] = []

    def wait_event(self, cond: Callable[[], bool], timeout_ns: int | None = None) -> bool:
        """Sleep until *cond* holds; False when *timeout_ns* passed first. C: ``wait_event_timeout()``."""
        sched = self.sched
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
                sched.block()
        finally:
            if timer is not None:
                timer.cancel()
            if thread in self.waiters:
                self.waiters.remove(thread)
        return True

    def wake_up(self) -> None:
        """Make every waiter look at its condition again. C: ``wake_up_all()``."""
        for thread in tuple(self.waiters):
            self._wake(thread)
        for hook in tuple(self.hooks):
            hook()

    def _wake(self, thread: Thread) -> None:
        if thread in self.waiters:
            self.waiters.remove(thread)
        self.sched.ready.append(lambda: self.sched._switch(thread))


class Completion:
    """``struct completion``."""

    __slots__ = ("done", "queue")

    def __init__(self, sched: Scheduler) -> None:
        self.done = 0
        self.queue = WaitQueue(sched)

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
