"""Locks: who waits, who is told of a mistake, and that they cost nothing where nobody contends."""

from __future__ import annotations

import pytest

import pykernel
from pykernel.errors import Oops
from pykernel.lib.locking import Mutex, Spinlock

KINDS = [Mutex, Spinlock]


@pytest.fixture
def k():
    kernel = pykernel.boot("full")
    yield kernel
    assert not kernel.sched.threads


def exploring(seed: int, strategy: str = "random"):
    kernel = pykernel.boot("full", seed=seed)
    kernel.sched.explore(strategy)
    return kernel


@pytest.mark.parametrize("kind", KINDS)
def test_one_holder_at_a_time(kind):
    """Under any interleaving the sections of a lock do not overlap, and everybody gets in."""
    for seed in range(40):
        kernel = exploring(seed)
        lock, inside, order = kind(kernel, "x"), [], []

        def client(n, lock=lock, inside=inside, order=order, kernel=kernel):
            for _ in range(3):
                with lock:
                    assert not inside
                    inside.append(n)
                    kernel.sched.point()
                    inside.remove(n)
                    order.append(n)

        kernel.gather(*[lambda n=n, c=client: c(n) for n in range(3)])
        assert sorted(order) == [0, 0, 0, 1, 1, 1, 2, 2, 2]
        assert not lock.is_locked


def test_a_holder_may_sleep_with_a_mutex(k):
    """Others wait for it, also where nothing is explored."""
    lock, done, order = Mutex(k, "m"), k.completion(), []

    def holder():
        with lock:
            done.wait()
            order.append("holder")

    def waiter():
        with lock:
            order.append("waiter")

    k.gather(holder, waiter, done.complete)
    assert order == ["holder", "waiter"]


def test_who_is_no_task_waits_for_a_task(k):
    """The test itself, an interrupt."""
    lock, done = Mutex(k, "m"), k.completion()

    def holder():
        with lock:
            done.wait()

    task = k.spawn(holder)
    k.sched.run_ready()
    k.sched.call_later(5, done.complete)
    with lock:
        assert task.done
    assert k.sched.clock_ns() == 5


def test_trylock(k):
    lock = Mutex(k, "m")
    assert lock.trylock()
    assert not lock.trylock()
    lock.unlock()


@pytest.mark.parametrize("wait", ["wait_event", "mutex", "block"])
def test_a_wait_with_a_spinlock_held_is_an_oops(k, wait):
    """Even when there would be nothing to wait for, as might_sleep() says in Linux."""
    lock, mutex, queue = Spinlock(k, "dev_lock"), Mutex(k, "m"), k.waitqueue()

    def client():
        with lock:
            {"wait_event": lambda: queue.wait_event(lambda: True), "mutex": mutex.lock, "block": k.sched.block}[wait]()

    with pytest.raises(Oops, match="spinlock dev_lock held"):
        k.gather(client)
    assert not lock.is_locked


def test_a_user_copy_with_a_spinlock_held_is_an_oops_while_exploring():
    from pykernel.mm.uaccess import copy_from_user

    kernel = exploring(0)
    proc = kernel.process()

    def client():
        with Spinlock(kernel, "s"):
            copy_from_user(kernel, 4096, 1)

    with pytest.raises(Oops, match="copy_from_user"):
        kernel.gather(client)
    proc.exit()


@pytest.mark.parametrize("kind", KINDS)
def test_a_lock_taken_twice_is_a_deadlock(k, kind):
    lock = kind(k, "x")

    def client():
        with lock:
            lock.lock()

    with pytest.raises(Oops, match=r"deadlock: client waits for \w+ x, held by client"):
        k.gather(client)


@pytest.mark.parametrize("kind", KINDS)
def test_a_lock_is_given_back_by_who_took_it(k, kind):
    lock = kind(k, "x")
    with pytest.raises(Oops, match="given back by who does not hold it"):
        lock.unlock()
    with pytest.raises(Oops, match="is not held where it must be"):
        lock.assert_held()
    with lock:
        lock.assert_held()
        with pytest.raises(Oops, match="not held"):
            k.gather(lock.assert_held)


def test_three_tasks_in_a_circle_are_named():
    """A deadlock is told with all who take part, under whatever seed it happens."""
    texts = set()
    for seed in range(60):
        kernel = exploring(seed)
        locks = [Mutex(kernel, name) for name in "abc"]

        def client(n, locks=locks):
            with locks[n], locks[(n + 1) % 3]:
                pass

        try:
            kernel.gather(*[lambda n=n, c=client: c(n) for n in range(3)])
        except Oops as e:
            texts.add(str(e))
        assert not any(lock.is_locked for lock in locks)
    assert texts
    for text in texts:
        assert text.startswith("hung task: deadlock: ")
        assert all(f"waits for mutex {name}" in text for name in "abc")


def test_who_waits_for_a_mutex_that_is_never_given_back_is_told_who_holds_it(k):
    lock, never = Mutex(k, "wq_lock"), k.completion()

    def holder():
        with lock:
            never.wait()

    def waiter():
        with lock:
            pass

    with pytest.raises(Oops, match="waiter waits for mutex wq_lock, held by holder"):
        k.gather(holder, waiter)
    assert not lock.is_locked
    assert "held by holder" in k.log.human()


def test_polling_hardware_with_a_spinlock_held_lets_others_run():
    """cpu_relax(): an active wait is no sleep; who wants the lock waits actively, too."""
    for seed in range(20):
        kernel = exploring(seed)
        lock, ready = Spinlock(kernel, "cmd_lock"), []

        def poller(kernel=kernel, lock=lock, ready=ready):
            with lock:
                assert kernel.sched.idle_until(lambda: bool(ready))

        def other(kernel=kernel, lock=lock, ready=ready):
            kernel.sched.call_soon(lambda: ready.append(1))
            with lock:
                lock.assert_held()

        kernel.gather(poller, other)


def test_wait_event_lock_gives_the_lock_to_others(k):
    """wait_event_lock_irq(): held before and after, not meanwhile."""
    lock, queue, box = Spinlock(k, "s"), k.waitqueue(), []

    def waiter():
        with lock:
            queue.wait_event_lock(lambda: bool(box), lock)
            lock.assert_held()

    def waker():
        with lock:
            box.append(1)
            queue.wake_up()

    k.gather(waiter, waker)
