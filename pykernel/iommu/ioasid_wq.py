"""An ordered work queue (kernel/workqueue.c: alloc_ordered_workqueue()): one work after the other, as they came."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from pykernel.errors import Oops

if TYPE_CHECKING:
    from pykernel.kernel import Kernel
    from pykernel.sched import Thread

__all__ = ["OrderedWorkqueue"]


class OrderedWorkqueue:
    """
    A queue whose works may sleep; they run in a task of its name, while there is something to do.

    Works are told apart as Python does (``==``): one that is queued and has not begun is not queued again.
    """

    def __init__(self, kernel: Kernel, name: str) -> None:
        self.kernel, self.name = kernel, name
        self.worker: Thread | None = None
        self._queued: dict[Callable[[], None], None] = {}
        self._came = self._went = 0

    def __repr__(self) -> str:
        return f"work queue {self.name}"

    def queue(self, work: Callable[[], None]) -> bool:
        """False: it waits already. C: ``bool queue_work(struct workqueue_struct *, struct work_struct *)``."""
        if work in self._queued:
            return False
        self._queued[work] = None
        self._came += 1
        if self.worker is None or self.worker.done:
            self.worker = self.kernel.sched.spawn(self._run, self.name)
        return True

    def _run(self) -> None:
        kernel = self.kernel
        while self._queued:
            work = next(iter(self._queued))
            del self._queued[work]
            try:
                with kernel.ledger.held(kernel.ledger.kernel):
                    work()
            except Exception as e:
                kernel.oops(e)
            finally:
                self._went += 1
        self.worker = None

    def flush(self) -> None:
        """
        Wait until all that is queued now has run. C: ``void flush_workqueue(struct workqueue_struct *)``.

        Raises:
            Oops: a spinlock is held, or a work of this queue waits for itself.
        """
        sched = self.kernel.sched
        sched.might_sleep(self)
        if self.worker is not None and sched.thread is self.worker:
            raise Oops(f"possible recursive locking: a work of {self!r} flushes it")
        until = self._came
        if self._went < until:
            sched.idle_until(lambda: self._went >= until, waits_for=self)

    @property
    def idle(self) -> bool:
        """Nothing waits and nothing runs."""
        return self._went == self._came
