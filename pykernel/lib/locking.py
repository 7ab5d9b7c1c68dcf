"""
Locks: mutexes and spinlocks (kernel/locking/mutex.c, include/linux/spinlock.h), and what lockdep says about them.

Tasks are switched where they wait, so a lock matters when its holder waits, or comes to a switch point while a test
explores interleavings. The rules, each checked:

1. Who holds a spinlock is not switched away and must not wait: that is an oops, as "sleeping function called from
   invalid context" is. It may wait actively for hardware, with others running meanwhile.
2. A lock is given back by who took it, and not taken twice.
3. A task that waits for a lock whose holder waits, in the end, for this task is a deadlock: an oops that names them.

What is no task - the test itself, interrupts and timers - runs to completion on top of what it interrupted. It waits
for tasks; a lock that it finds taken by what it interrupted it passes through, for nothing can be between the two.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pykernel.errors import Oops

if TYPE_CHECKING:
    from types import TracebackType

    from pykernel.kernel import Kernel
    from pykernel.sched import Thread

__all__ = ["Mutex", "Spinlock"]


class _Lock:
    """What both kinds have in common: a holder, which is a task, or None for what is no task."""

    __slots__ = ("count", "holder", "name", "sched")
    kind = "lock"

    def __init__(self, kernel: Kernel, name: str = "lock") -> None:
        self.sched = kernel.sched
        self.name = name
        self.holder: Thread | None = None
        self.count = 0

    def __enter__(self) -> None:
        self.lock()

    def __exit__(self, et: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        self.unlock()

    def __repr__(self) -> str:
        return f"{self.kind} {self.name}"

    @property
    def is_locked(self) -> bool:
        """C: ``bool mutex_is_locked(struct mutex *)``, ``int spin_is_locked(spinlock_t *)``."""
        return self.count > 0

    def assert_held(self) -> None:
        """C: ``lockdep_assert_held(lock)``. Raises Oops: the caller does not hold it."""
        if not self.count or self.holder is not self.sched.thread:
            raise Oops(f"{self!r} is not held where it must be")

    def lock(self) -> None:
        """Take it."""
        raise NotImplementedError

    def unlock(self) -> None:
        """Give it back."""
        raise NotImplementedError

    def _contended(self, me: Thread | None) -> bool:
        """Whether *me* must wait. Raises Oops: it would wait for itself."""
        if not self.count or (me is None and self.holder is None):
            return False
        holder: Any = self.holder
        chain = [f"{me.name if me is not None else 'the caller'} waits for {self!r}"]
        while holder is not None and holder is not me and isinstance(holder.waits_for, _Lock):
            chain.append(f"held by {holder.name}, which waits for {holder.waits_for!r}")
            holder = holder.waits_for.holder
        if me is not None and holder is me:
            raise Oops(f"hung task: deadlock: {', '.join(chain)}, held by {me.name}")
        return True

    def _take(self, me: Thread | None) -> None:
        self.holder = me
        self.count += 1

    def _drop(self) -> None:
        if not self.count or self.holder is not self.sched.thread:
            raise Oops(f"{self!r} is given back by who does not hold it")
        self.count -= 1
        if not self.count:
            self.holder = None


class Mutex(_Lock):
    """``struct mutex``. ``with mutex:`` is mutex_lock() and mutex_unlock()."""

    __slots__ = ("waiters",)
    kind = "mutex"

    def __init__(self, kernel: Kernel, name: str = "mutex") -> None:
        super().__init__(kernel, name)
        self.waiters: list[Thread] = []

    def lock(self) -> None:
        """C: ``void mutex_lock(struct mutex *)``. Raises Oops: a spinlock is held; a deadlock."""
        sched = self.sched
        sched.might_sleep(self)
        while self._contended(sched.thread):
            self._wait()
        self._take(sched.thread)

    def trylock(self) -> bool:
        """True when it was free. C: ``int mutex_trylock(struct mutex *)``."""
        if self.count:
            return False
        self._take(self.sched.thread)
        return True

    def unlock(self) -> None:
        """C: ``void mutex_unlock(struct mutex *)``. Raises Oops: the caller does not hold it."""
        self._drop()
        sched = self.sched
        for thread in self.waiters:
            sched.make_ready(thread)
        if sched.exploring:
            sched.point()

    def _wait(self) -> None:
        sched, me = self.sched, self.sched.thread
        if me is None:
            sched.idle_until(lambda: not self.count)
            return
        self.waiters.append(me)
        try:
            sched.block(self)
        finally:
            self.waiters.remove(me)


class Spinlock(_Lock):
    """``spinlock_t``. ``with lock:`` is spin_lock() and spin_unlock(); interrupts are tasks, so there is no irqsave."""

    __slots__ = ()
    kind = "spinlock"

    def lock(self) -> None:
        """C: ``void spin_lock(spinlock_t *)``. Raises Oops: a deadlock."""
        sched = self.sched
        if sched.exploring:
            sched.point()
        me = sched.thread
        while self._contended(me):
            sched.idle_until(lambda: not self.count, waits_for=self)
        self._take(me)
        sched.atomic.append(self)

    def unlock(self) -> None:
        """C: ``void spin_unlock(spinlock_t *)``. Raises Oops: the caller does not hold it."""
        sched = self.sched
        self._drop()
        sched.atomic.remove(self)
        if sched.exploring:
            sched.point()
