"""
The kernel's scheduler, its clock and the things that code waits for.

Deterministic: work runs in the order in which it became ready, unless a test explores interleavings, when a seeded
random generator picks. What may sleep is a task (a greenlet); interrupt threads, work items and timers are plain calls.
A wait in a task parks it; a wait outside any task runs the scheduler in place until its condition holds. With nothing
left to run, the virtual clock jumps to the next timer; with no timer either, the wait can never end: a hung task, which
is an oops.

Work may make itself ready for ever: a client can tie an interrupt to its own unmasking. On Linux a kworker spins then
and the rest of the machine goes on. Here :meth:`Scheduler.run_ready` leaves what exceeds :data:`BUDGET` for later, and
a wait whose run queue does not get empty lets time pass after as many.

While a test explores interleavings (:meth:`Scheduler.explore`), tasks are also switched at switch points: where system
calls begin and end, before MMIO, user copies and notifier calls, after wake-ups, at locks. There work that may sleep -
interrupt threads, work items - is tasks, too. All tasks are then switched to from one place, the wait that runs them.
"""

from __future__ import annotations

import heapq
import random
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from pykernel.errors import Oops, is_bug
from pykernel.lib.wait import Completion, WaitQueue

if TYPE_CHECKING:
    from pykernel.lib.interleave import Strategy

__all__ = ["BUDGET", "Clock", "Completion", "Scheduler", "Thread", "Timer", "WaitQueue"]

BUDGET = 10_000  # turns beyond those that were ready; no chain of work that ends is that long between system calls
_SPUN_NS = 10**6  # what the first BUDGET turns of a wait take; the next ones twice that, and so on, up to a second
_HUNG_NS = 120 * 10**9  # kernel/hung_task.c:sysctl_hung_task_timeout_secs
_EPOCH_NS = 1_767_225_600 * 10**9  # 2026-01-01: where the virtual wall clock starts


class Clock(Protocol):
    """A clock from outside, and a processor that is not its own: what a virtual machine's kernel has."""

    def now_ns(self) -> int:
        """Nanoseconds since boot."""
        ...

    def realtime_ns(self) -> int:
        """Wall clock."""
        ...

    def wait(self, ns: int | None) -> None:
        """Nothing can run: halt for *ns* nanoseconds (None: until something arrives), or less."""
        ...

    def resched(self) -> None:
        """A system call ended: who has the processor may want it."""


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
    """
    A kernel task that may sleep; ``result`` after it ended, or ``error``.

    Called, it runs until it waits: that is how it stands in the run queue. *client* is code of the test, not the
    kernel's: what it raises is no oops.
    """

    __slots__ = (
        "atomic",
        "client",
        "context",
        "dying",
        "error",
        "greenlet",
        "name",
        "parked",
        "priority",
        "queued",
        "result",
        "sched",
        "waits_for",
    )

    def __init__(self, sched: Scheduler, name: str, *, client: bool = False) -> None:
        self.sched = sched
        self.name = name
        self.client = client
        self.greenlet: Any = None
        self.result: Any = None
        self.error: BaseException | None = None
        self.context: Any = None
        self.parked = True
        self.queued = False
        self.dying = False
        self.priority: float | None = None
        self.atomic: list[Any] = []
        self.waits_for: Any = None

    def __call__(self) -> None:
        """Its turn in the run queue."""
        self.queued = False
        self.sched.switch_to(self)

    @property
    def done(self) -> bool:
        """True once its function returned or raised."""
        return bool(self.greenlet.dead)

    def join(self) -> Any:
        """Wait until it ended: its result. Raises what it raised."""
        self.sched.run_until([self])
        if self.error is not None:
            raise self.error
        return self.result

    def __str__(self) -> str:
        if self.waits_for is None:
            return f"{self.name} waits"
        holder = getattr(self.waits_for, "holder", None)
        return f"{self.name} waits for {self.waits_for!r}" + (f", held by {holder.name}" if holder is not None else "")


class Scheduler:
    """The run queue, the timers and the clock of one kernel (``clock``: "virtual", "monotonic" or a ``Clock``)."""

    def __init__(self, clock: str | Clock = "virtual", seed: int = 0) -> None:
        if isinstance(clock, str) and clock not in ("virtual", "monotonic"):
            raise ValueError(f"clock must be 'virtual' or 'monotonic', not {clock!r}")
        self.virtual = clock == "virtual"
        self.outside = None if isinstance(clock, str) else clock
        self.seed = seed
        self.rng = random.Random(seed)
        self.exploring = False
        self.strategy: Strategy | None = None
        self.ready: deque[Callable[[], None]] = deque()
        self.timers: list[tuple[int, int, Timer]] = []
        self.thread: Thread | None = None
        self.threads: dict[Thread, None] = {}
        self.spinning: list[tuple[Thread, Callable[[], bool]]] = []
        self._atomic: list[Any] = []
        self.on_oops: Callable[[BaseException], None] | None = None
        self.get_context: Callable[[], Any] = lambda: None
        self.set_context: Callable[[Any], None] = lambda _context: None
        self.on_stuck: Callable[[], bool] = lambda: False
        self.on_busy: Callable[[], None] = lambda: None
        self.idle_context: Any = None
        self._now = 0
        self._seq = 0
        self._start = time.monotonic_ns()

    def explore(self, strategy: str = "random", seed: int | None = None) -> None:
        """From now on the seed, a new one if given, decides who runs. Raises ValueError: no such strategy."""
        if seed is not None:
            self.seed = seed
            self.rng.seed(seed)
        from pykernel.lib.interleave import make_strategy

        self.strategy = make_strategy(strategy, self.seed)
        self.exploring = True

    # ---- clock

    def clock_ns(self) -> int:
        """Nanoseconds since boot. C: ``u64 ktime_get_ns(void)``."""
        if self.virtual:
            return self._now
        return time.monotonic_ns() - self._start if self.outside is None else self.outside.now_ns()

    def realtime_ns(self) -> int:
        """Wall clock. C: ``u64 ktime_get_real_ns(void)``."""
        if self.virtual:
            return _EPOCH_NS + self._now
        return time.time_ns() if self.outside is None else self.outside.realtime_ns()

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

    def schedule_work(self, fn: Callable[[], None], name: str = "kworker") -> None:
        """Queue work that may sleep: a plain call, but a task while a test explores. C: ``schedule_work()``."""
        if self.exploring:
            self.spawn(fn, name)
        else:
            self.ready.append(fn)

    def spawn(self, fn: Callable[[], Any], name: str = "kthread", *, client: bool = False) -> Thread:
        """Make a task that may sleep and queue it. C: ``kthread_run()``."""
        from greenlet import greenlet  # only kernels with sleeping tasks pay for the import

        thread = Thread(self, name, client=client)
        thread.greenlet = greenlet(lambda: self._body(thread, fn))
        self.threads[thread] = None
        self.make_ready(thread)
        return thread

    def _body(self, thread: Thread, fn: Callable[[], Any]) -> None:
        from greenlet import GreenletExit

        try:
            thread.result = fn()
        except GreenletExit as e:
            thread.error = e
        except Exception as e:
            thread.error = e
            if not thread.client and is_bug(e):
                self._oops(e)
        except BaseException as e:
            thread.error = e
            if thread.client or not is_bug(e):
                raise  # the end of everything, not of this task only
            self._oops(e)
        finally:
            self.threads.pop(thread, None)

    def make_ready(self, thread: Thread) -> None:
        """Queue a task, unless it is. C: ``int wake_up_process(struct task_struct *)``."""
        if not thread.queued:
            thread.queued = True
            self.ready.append(thread)

    def run_ready(self) -> None:
        """
        Run everything that can run now, timers that are due included; time does not pass.

        Work of the kernel that has no end goes on in a later call.
        """
        left = len(self.ready) + BUDGET
        while left > 0:
            self._expire()
            if self.spinning:
                self._look_at_spinning()
            if not self.ready:
                return
            left -= self._run_one()

    def turn(self) -> bool:
        """One turn of what can run now; False: nothing can. Time does not pass. For a processor that loops."""
        self._expire()
        if self.spinning:
            self._look_at_spinning()
        if not self.ready:
            return False
        self._run_one()
        return True

    def resched(self) -> None:
        """A system call ends: what became ready runs; where a client is a task, it takes its turn."""
        thread = self.thread
        if self.outside is not None:
            self.outside.resched()
        if thread is None or not (self.exploring or thread.client):
            self.run_ready()
        elif self.exploring:
            self.point()
        elif (self.ready or self.spinning) and not thread.dying:
            self.make_ready(thread)
            self._park(thread)

    def idle_until(self, cond: Callable[[], bool], timeout_ns: int | None = None, waits_for: Any = None) -> bool:
        """Run the scheduler in place until *cond* holds (True) or *timeout_ns* passed (False)."""
        deadline = None if timeout_ns is None else self.clock_ns() + timeout_ns
        thread = self.thread
        if thread is not None and (self.exploring or thread.client):
            return self._spin_until(thread, cond, deadline, waits_for)
        context, atomic = self.get_context(), self._atomic
        self.set_context(self.idle_context)  # what runs meanwhile runs in its own name, and holds nothing
        self._atomic = []
        try:
            return self._idle_until(cond, deadline)
        finally:
            self._atomic = atomic
            self.set_context(context)

    def _idle_until(self, cond: Callable[[], bool], deadline: int | None) -> bool:
        turns, busy, since = 0, 0, 0
        while not cond():
            if self.spinning:
                self._look_at_spinning()
            if self.ready and turns < BUDGET:
                turns += self._run_one()
                continue
            step = self.next_timer_ns()
            left = None if deadline is None else deadline - self.clock_ns()
            if left is not None and left <= 0:
                return False
            ends = [x for x in (step, left) if x is not None]
            if self.ready:
                self.on_busy()
                since, busy = since if busy else self.clock_ns(), busy + 1
                hung = not ends and self.clock_ns() - since >= _HUNG_NS
                ends.append(_SPUN_NS << min(busy - 1, 10) if self.virtual else 0)
            else:
                busy, hung = 0, not ends
            turns = 0
            if hung:
                if not self.on_stuck():
                    raise Oops(self._hung())
                busy = 0
                continue
            self._pass(min(ends))
            self._expire()
        return True

    def _spin_until(self, thread: Thread, cond: Callable[[], bool], deadline: int | None, waits_for: Any) -> bool:
        """A task waits actively: others run, it goes on when its condition holds."""
        timer = (
            None if deadline is None else self.call_later(deadline - self.clock_ns(), lambda: self.make_ready(thread))
        )
        entry = (thread, cond)
        try:
            while not cond():
                if deadline is not None and self.clock_ns() >= deadline:
                    return False
                self.spinning.append(entry)
                try:
                    self._park(thread, waits_for)
                finally:
                    self.spinning.remove(entry)
        finally:
            if timer is not None:
                timer.cancel()
        return True

    def _look_at_spinning(self) -> None:
        for thread, cond in self.spinning:
            if not thread.queued and cond():
                self.make_ready(thread)

    def _hung(self) -> str:
        waiting = "; ".join(str(t) for t in self.threads if t.parked)
        return "hung task: it waits for something that nothing in this kernel will do" + (
            f": {waiting}" * bool(waiting)
        )

    def block(self, waits_for: Any = None) -> None:
        """
        Park the running task until something queues it again.

        Raises:
            Oops: no task runs, or it holds a spinlock.
        """
        thread = self.thread
        if thread is None:
            raise Oops("block() outside a task")
        if thread.atomic:
            raise Oops(f"scheduling while atomic: {thread.name} waits with {thread.atomic[-1]!r} held")
        self._park(thread, waits_for)

    def _park(self, thread: Thread, waits_for: Any = None) -> None:
        if thread.dying:
            from greenlet import GreenletExit

            raise GreenletExit
        thread.parked, thread.waits_for = True, waits_for
        try:
            thread.greenlet.parent.switch()
        finally:
            thread.waits_for = None

    # ---- switch points

    @property
    def atomic(self) -> list[Any]:
        """The spinlocks that the caller holds, in the order in which it took them."""
        return self._atomic if self.thread is None else self.thread.atomic

    def might_sleep(self, what: object) -> None:
        """Code that may wait begins; a switch point. C: ``might_sleep()``. Raises Oops: a spinlock is held."""
        held = self.atomic
        if held:
            raise Oops(f"sleeping function called from invalid context: {what!r} with {held[-1]!r} held")
        if self.exploring:
            self.point()

    def point(self) -> None:
        """A switch point: taken or not as the seed says while a test explores interleavings, free otherwise."""
        thread = self.thread
        if not self.exploring or thread is None or thread.atomic or thread.dying:
            return
        if not (self.ready or self.spinning):
            return
        if self._explorer().switches(thread, self.ready):
            self.make_ready(thread)
            self._park(thread)

    def _explorer(self) -> Strategy:
        if self.strategy is None:
            self.explore()
        assert self.strategy is not None
        return self.strategy

    def _run_one(self) -> bool:
        """One turn: True unless a client had it, whose turns are its own affair."""
        ready = self.ready
        if self.exploring and len(ready) > 1:
            ready.rotate(-self._explorer().pick(ready))
        fn = ready.popleft()
        try:
            fn()
        except BaseException as e:
            if not (isinstance(e, Exception) or is_bug(e)):
                raise
            self._oops(e)
        return not (isinstance(fn, Thread) and fn.client)

    def switch_to(self, thread: Thread) -> None:
        """Run *thread* until it waits; nothing if it runs, or ended."""
        if thread.done or not thread.parked:
            return  # it runs, or waits for a call of its own: it will look at its condition by itself
        thread.parked = False
        self._enter(thread, thread.greenlet.switch)

    def _enter(self, thread: Thread, go: Callable[..., Any], *args: Any) -> None:
        from greenlet import getcurrent

        before, self.thread = self.thread, thread
        context = self.get_context()
        self.set_context(thread.context or self.idle_context)
        thread.greenlet.parent = getcurrent()
        try:
            go(*args)
        finally:
            thread.context = self.get_context()
            self.set_context(context)
            self.thread = before

    # ---- clients: several functions of a test at once

    def run_until(self, threads: list[Thread]) -> None:
        """
        Run until all of *threads* ended.

        Raises:
            Oops: they never will: a hung task, which names who waits for what. They are ended, with all their locks.
        """
        try:
            self.idle_until(lambda: all(t.done for t in threads))
        except BaseException as e:
            if isinstance(e, Oops) and self.on_oops is not None:
                self.on_oops(e)
            for thread in threads:
                self.kill(thread)
            raise

    def gather(self, threads: list[Thread]) -> list[Any]:
        """
        Wait for all: their results. What they raised is raised, together if several did.

        Raises:
            Oops: a hung task. Where a client raised as well, that is raised, with the hung task as a note.
        """
        hung: Oops | None = None
        try:
            self.run_until(threads)
        except Oops as e:
            hung = e
        errors = [t.error for t in threads if isinstance(t.error, Exception)]
        if not errors:
            if hung is not None:
                raise hung
            return [t.result for t in threads]
        failure = errors[0] if len(errors) == 1 else ExceptionGroup("several clients failed", errors)
        if hung is not None:
            failure.add_note(str(hung))
        raise failure

    def kill(self, thread: Thread) -> None:
        """End a task where it waits: its ``finally`` clauses run, and whatever it would wait for ends it again."""
        if thread.done:
            return
        from greenlet import GreenletExit

        thread.dying, thread.parked = True, False
        self._enter(thread, thread.greenlet.throw, GreenletExit)
        self.threads.pop(thread, None)  # one that never ran has no finally clause

    def clients(self) -> list[Thread]:
        """The clients that did not end."""
        return [t for t in self.threads if t.client]

    def _pass(self, ns: int) -> None:
        if self.virtual:
            self._now += ns
        elif self.outside is not None:
            self.outside.wait(ns)
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
