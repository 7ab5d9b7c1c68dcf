"""
Read/write semaphores (kernel/locking/rwsem.c): many readers or one writer; a writer that waits keeps new readers out.

The rules of ``pykernel.lib.locking`` hold here too.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pykernel.errors import Oops
from pykernel.lib.locking import _Lock

if TYPE_CHECKING:
    from collections.abc import Generator

    from pykernel.kernel import Kernel
    from pykernel.sched import Thread

__all__ = ["RwSemaphore"]


class RwSemaphore(_Lock):
    """``struct rw_semaphore``. ``with sem.read():`` and ``with sem.write():`` take it and give it back."""

    __slots__ = ("readers", "waiters", "writers_waiting", "writing")
    kind = "rw_semaphore"

    def __init__(self, kernel: Kernel, name: str = "rw_semaphore") -> None:
        super().__init__(kernel, name)
        self.readers: list[Thread | None] = []
        self.waiters: list[Thread] = []
        self.writers_waiting = 0
        self.writing = False

    @contextmanager
    def read(self) -> Generator[None, None, None]:
        """down_read() and up_read()."""
        self.down_read()
        try:
            yield
        finally:
            self.up_read()

    @contextmanager
    def write(self) -> Generator[None, None, None]:
        """down_write() and up_write()."""
        self.down_write()
        try:
            yield
        finally:
            self.up_write()

    def lock(self) -> None:
        """C: ``void down_write(struct rw_semaphore *)``."""
        self.down_write()

    def unlock(self) -> None:
        """C: ``void up_write(struct rw_semaphore *)``."""
        self.up_write()

    # ---- readers

    def down_read(self) -> None:
        """C: ``void down_read(struct rw_semaphore *)``. Raises Oops: a spinlock is held; a deadlock."""
        self.sched.might_sleep(self)
        self._wait_while(lambda: self.writing or self.writers_waiting > 0)
        self._add_reader()

    def down_read_trylock(self) -> bool:
        """
        True when there is neither a writer nor one that waits.

        C: ``int down_read_trylock(struct rw_semaphore *)``, __down_read_trylock(): RWSEM_READ_FAILED_MASK.
        """
        if self.writing or self.writers_waiting:
            return False
        self._add_reader()
        return True

    def up_read(self) -> None:
        """C: ``void up_read(struct rw_semaphore *)``. Raises Oops: the caller does not hold it."""
        if self.sched.thread not in self.readers:
            raise Oops(f"{self!r} is given back by who does not hold it")
        self.readers.remove(self.sched.thread)
        self._given_back()

    def _add_reader(self) -> None:
        self.readers.append(self.sched.thread)
        self.holder = self._reader()
        self.count += 1

    def _reader(self) -> Thread | None:
        # a task if there is one: what is no task can be passed through
        return next(filter(None, self.readers), None)

    # ---- the writer

    def down_write(self) -> None:
        """C: ``void down_write(struct rw_semaphore *)``. Raises Oops: a spinlock is held; a deadlock."""
        self.sched.might_sleep(self)
        self.writers_waiting += 1
        try:
            self._wait_while(lambda: self.count > 0)
        finally:
            self.writers_waiting -= 1
        self.writing = True
        self._take(self.sched.thread)

    def up_write(self) -> None:
        """C: ``void up_write(struct rw_semaphore *)``. Raises Oops: the caller does not hold it."""
        if not self.writing or self.holder is not self.sched.thread:
            raise Oops(f"{self!r} is given back by who does not hold it")
        self.writing = False
        self._given_back()

    # ---- waiting

    def _given_back(self) -> None:
        self.count -= 1
        self.holder = self._reader()
        for thread in self.waiters:
            self.sched.make_ready(thread)
        if self.sched.exploring:
            self.sched.point()

    def _wait_while(self, busy: Callable[[], bool]) -> None:
        sched, me = self.sched, self.sched.thread
        while busy() and self._contended(me):
            if me is None:
                sched.idle_until(lambda: not busy())
                continue
            self.waiters.append(me)
            try:
                sched.block(self)
            finally:
                self.waiters.remove(me)
