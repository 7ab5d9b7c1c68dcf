"""Read/write semaphores: readers together, a writer alone, and nobody overtakes a writer that waits."""

from __future__ import annotations

from functools import partial

import pytest

import pykernel
from pykernel import explore
from pykernel.errors import Oops
from pykernel.lib.locking import Mutex
from pykernel.lib.rwsem import RwSemaphore
from pykernel.machine import Machine


@pytest.fixture
def k():
    kernel = pykernel.boot(Machine("bare"))
    yield kernel
    assert not kernel.sched.threads


@pytest.mark.parametrize("strategy", ["random", "pct"])
def test_readers_together_a_writer_alone(strategy):
    """Under any interleaving, and everybody gets in."""
    together = set()
    for kernel in explore(seeds=60, strategy=strategy, machine=Machine("bare")):
        sem, inside, done = RwSemaphore(kernel, "x"), [], []

        def reader(n, sem=sem, inside=inside, done=done, kernel=kernel):
            with sem.read():
                assert "w" not in inside
                inside.append(n)
                together.add(len(inside))
                kernel.sched.point()
                inside.remove(n)
            done.append(n)

        def writer(sem=sem, inside=inside, done=done, kernel=kernel):
            with sem.write():
                assert not inside
                inside.append("w")
                kernel.sched.point()
                inside.remove("w")
            done.append("w")

        kernel.gather(partial(reader, 1), partial(reader, 2), writer, partial(reader, 3), writer)
        assert sorted(map(str, done)) == ["1", "2", "3", "w", "w"]
        assert not sem.is_locked
    assert together >= {1, 2}


def test_who_tries_to_read_is_told(k):
    """No beside a writer, and beside one that waits; yes beside readers."""
    sem, hold, told = RwSemaphore(k, "s"), k.completion(), []

    def reader():
        with sem.read():
            told.append(sem.down_read_trylock())
            sem.up_read()
            hold.wait()
            told.append(sem.down_read_trylock())

    def writer():
        with sem.write():
            told.append(sem.down_read_trylock())

    def third():
        hold.complete()

    k.gather(reader, writer, third)

    assert told == [True, False, False]
    assert sem.down_read_trylock()
    sem.up_read()


def test_a_reader_waits_behind_a_writer_that_waits(k):
    sem, hold, order = RwSemaphore(k, "s"), k.completion(), []

    def first():
        with sem.read():
            hold.wait()
            order.append("first")

    def writer():
        with sem.write():
            order.append("writer")

    def second():
        with sem.read():
            order.append("second")

    k.gather(first, writer, second, hold.complete)

    assert order == ["first", "writer", "second"]


def test_mistakes_are_oopses(k):
    sem = RwSemaphore(k, "s")
    with pytest.raises(Oops, match="given back by who does not hold it"):
        sem.up_read()
    with pytest.raises(Oops, match="given back by who does not hold it"):
        sem.up_write()
    with sem.read(), pytest.raises(Oops, match="given back by who does not hold it"):
        sem.up_write()


def test_a_deadlock_is_told(k):
    """With a mutex in between: who waits for what, and who holds it."""
    sem, mutex = RwSemaphore(k, "s"), Mutex(k, "m")
    begun = k.completion()

    def one():
        with sem.write():
            begun.wait()
            mutex.lock()

    def two():
        with mutex:
            begun.complete()
            sem.down_read()

    with pytest.raises(Oops, match=r"deadlock: .* waits for (mutex m|rw_semaphore s), held by"):
        k.gather(one, two)


def test_what_is_no_task_passes_through_what_it_interrupted(k):
    """As with the other locks; it waits for tasks."""
    sem, order = RwSemaphore(k, "s"), []
    with sem.read(), sem.write():
        pass
    assert not sem.is_locked
    hold = k.completion()

    def reader():
        with sem.read():
            hold.wait()
            order.append("reader")

    thread = k.spawn(reader)
    k.sched.run_ready()
    k.sched.call_later(1000, hold.complete)
    with sem.write():
        order.append("writer")
    thread.join()

    assert order == ["reader", "writer"]
