"""The scheduler: order, clock, tasks, waits, timers, interleavings, and the hung task."""

from __future__ import annotations

import random
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pykernel.errors import Oops, err
from pykernel.sched import BUDGET, Completion, Scheduler, WaitQueue


def boom() -> None:
    raise ZeroDivisionError


def test_work_runs_in_the_order_in_which_it_was_queued():
    s, out = Scheduler(), []
    for n in range(5):
        s.call_soon(partial(out.append, n))
    s.run_ready()
    assert out == [0, 1, 2, 3, 4]


@given(st.lists(st.integers(0, 50), max_size=20))
def test_timers_expire_by_time_and_then_by_age(delays):
    """As a stable sort of the delays; the clock stands where the last one was due."""
    s, out = Scheduler(), []
    for n, ns in enumerate(delays):
        s.call_later(ns, partial(out.append, n))
    s.idle_until(lambda: len(out) == len(delays))
    assert out == sorted(range(len(delays)), key=lambda n: delays[n])
    assert s.clock_ns() == max(delays, default=0)
    assert s.next_timer_ns() is None


def test_time_does_not_pass_in_run_ready():
    s, out = Scheduler(), []
    s.call_later(0, lambda: out.append("due"))
    s.call_later(1, lambda: out.append("later"))
    s.run_ready()
    assert (out, s.clock_ns(), s.next_timer_ns()) == (["due"], 0, 1)


def test_a_cancelled_timer_is_forgotten():
    """del_timer() tells whether the timer was pending."""
    s, out = Scheduler(), []
    t = s.call_later(5, lambda: out.append(1))
    assert t.cancel()
    assert not t.cancel()
    late = s.call_later(6, lambda: out.append(2))
    assert s.next_timer_ns() == 6
    assert not s.idle_until(lambda: False, 10)
    assert out == [2]
    assert not late.cancel()


def test_a_timer_cancelled_by_an_earlier_one_of_the_same_time():
    s, out = Scheduler(), []
    s.call_later(5, lambda: out.append(1))
    t = s.call_later(5, lambda: out.append(2))
    t.cancel()
    assert not s.idle_until(lambda: False, 5)
    assert out == [1]


def test_a_wait_in_place_runs_others_and_gives_back_the_context():
    s = Scheduler()
    seen, context = [], ["me"]
    s.get_context, s.set_context, s.idle_context = lambda: context[0], lambda c: context.__setitem__(0, c), "idle"
    s.call_later(3, lambda: seen.append(context[0]))
    assert WaitQueue(s).wait_event(lambda: bool(seen))
    assert (seen, context) == (["idle"], ["me"])


def test_a_time_out_is_exact():
    s = Scheduler()
    assert not WaitQueue(s).wait_event(lambda: False, 100)
    assert s.clock_ns() == 100
    assert WaitQueue(s).wait_event(lambda: True, 100)
    assert s.clock_ns() == 100


def test_a_wait_that_nothing_ends_is_a_hung_task():
    with pytest.raises(Oops, match="hung task"):
        WaitQueue(Scheduler()).wait_event(lambda: False)


def test_the_last_resort_may_find_work():
    """on_stuck: another thread's call may end the wait."""
    s, done = Scheduler(), []

    def find() -> bool:
        done.append(1)
        return True

    s.on_stuck = find
    assert s.idle_until(lambda: bool(done))


def test_tasks_sleep_and_wake_in_order():
    s, out = Scheduler(), []
    c = Completion(s)

    def sleeper(n: int) -> int:
        c.wait()
        out.append(n)
        return n * 10

    tasks = [s.spawn(partial(sleeper, n), f"t{n}") for n in range(3)]
    s.run_ready()
    assert [t.done for t in tasks] == [False] * 3
    assert out == []
    for _ in range(3):
        c.complete()
    s.run_ready()
    assert (out, [t.result for t in tasks], [t.name for t in tasks]) == ([0, 1, 2], [0, 10, 20], ["t0", "t1", "t2"])
    assert c.done == 0


def test_completion_times_out_and_is_used_again():
    s = Scheduler()
    c = Completion(s)
    assert not c.wait(10)
    c.complete()
    c.complete()
    c.reinit()
    assert not c.wait(10)
    c.complete()
    assert c.wait(10)
    assert s.clock_ns() == 20


def test_a_tasks_time_out_leaves_nothing_behind():
    s = Scheduler()
    q = WaitQueue(s)
    t = s.spawn(lambda: q.wait_event(lambda: False, 50))
    s.idle_until(lambda: t.done)
    assert (t.result, s.clock_ns(), q.waiters, s.next_timer_ns()) == (False, 50, [], None)


def test_a_wait_that_is_over_early_cancels_its_time_out():
    s, flag = Scheduler(), []
    q = WaitQueue(s)
    t = s.spawn(lambda: q.wait_event(lambda: bool(flag), 1000))
    s.run_ready()
    q.wake_up()  # for nothing
    s.run_ready()
    assert not t.done
    flag.append(1)
    q.wake_up()
    s.run_ready()
    assert (t.result, s.clock_ns(), s.next_timer_ns()) == (True, 0, None)


def test_an_errno_ends_a_task_and_another_exception_is_an_oops():
    s, oopses = Scheduler(), []
    s.on_oops = oopses.append

    def fails(e: BaseException) -> None:
        raise e

    a, b = s.spawn(lambda: fails(err(5))), s.spawn(lambda: fails(KeyError("bug")))
    s.call_soon(lambda: fails(ValueError("work")))
    s.run_ready()
    assert isinstance(a.error, OSError)
    assert isinstance(b.error, KeyError)
    assert [type(e) for e in oopses] == [KeyError, ValueError]


def test_without_a_kernel_an_oops_is_raised():
    s = Scheduler()
    s.call_soon(boom)
    with pytest.raises(ZeroDivisionError):
        s.run_ready()


def test_block_outside_a_task_is_a_bug():
    with pytest.raises(Oops):
        Scheduler().block()


def test_a_task_that_runs_the_scheduler_is_not_switched_to_again():
    """A task may wake itself and run others (a system call in a task does): no cycle of greenlets."""
    s, out = Scheduler(), []
    q = WaitQueue(s)

    def other() -> None:
        q.wake_up()
        s.run_ready()
        out.append("other")

    def body() -> None:
        s.spawn(other)
        assert s.thread is not None
        q.waiters.append(s.thread)
        q.wake_up()
        s.run_ready()
        out.append("body")

    t = s.spawn(body)
    s.run_ready()
    assert (t.done, t.error, out) == (True, None, ["other", "body"])


def test_a_task_may_wait_inside_work_that_it_runs():
    s = Scheduler()
    c = Completion(s)
    out: list[str] = []

    def work() -> None:
        c.wait()
        out.append("work")

    def body() -> None:
        s.call_soon(work)
        s.run_ready()
        out.append("task")

    s.spawn(body)
    s.call_later(9, c.complete)
    s.idle_until(lambda: len(out) == 2)
    assert out == ["work", "task"]


def test_each_task_has_its_own_context():
    """kernel.current of a task comes back when it goes on."""
    s, seen = Scheduler(), []
    context = ["main"]
    s.get_context, s.set_context, s.idle_context = lambda: context[0], lambda c: context.__setitem__(0, c), "idle"
    c = Completion(s)

    def body(name: str) -> None:
        seen.append(context[0])
        context[0] = name
        c.wait()
        seen.append(context[0])

    for name in ("a", "b"):
        s.spawn(partial(body, name))
    s.run_ready()
    assert context == ["main"]
    c.complete()
    c.complete()
    s.run_ready()
    assert seen == ["idle", "idle", "a", "b"]


def race(seed: int) -> list[int]:
    s, out = Scheduler(seed=seed), []
    s.exploring = True

    def body(n: int) -> None:
        for _ in range(4):
            out.append(n)
            s.point()

    for n in range(3):
        s.spawn(partial(body, n))
    s.run_ready()
    return out


def test_exploring_finds_many_orders_and_repeats_each():
    """The same seed gives the same order; seeds differ; nothing is lost."""
    orders = [race(seed) for seed in range(40)]
    assert orders == [race(seed) for seed in range(40)]
    assert len({tuple(o) for o in orders}) > 30
    assert all(sorted(o) == sorted([0, 1, 2] * 4) for o in orders)


def test_exploring_finds_a_lost_update():
    """Read, switch point, write: some seed loses an update, and without exploring none does."""

    def total(seed: int, *, exploring: bool) -> int:
        s = Scheduler(seed=seed)
        s.exploring = exploring
        box = [0]

        def add() -> None:
            seen = box[0]
            s.point()
            box[0] = seen + 1

        for _ in range(2):
            s.spawn(add)
        s.run_ready()
        return box[0]

    assert {total(n, exploring=False) for n in range(20)} == {2}
    assert {total(n, exploring=True) for n in range(20)} == {1, 2}


def test_hooks_hear_each_wake_up():
    s, heard = Scheduler(), []
    q = WaitQueue(s)
    q.hooks.append(lambda: heard.append(1))
    q.wake_up()
    q.wake_up()
    assert heard == [1, 1]


def test_clocks():
    """Virtual: 0, and a wall clock that follows it; monotonic: the host's, and a time-out takes real time."""
    v = Scheduler()
    epoch = v.realtime_ns()
    v.idle_until(lambda: False, 123)
    assert (v.clock_ns(), v.realtime_ns() - epoch) == (123, 123)
    m = Scheduler("monotonic")
    a = m.clock_ns()
    assert not m.idle_until(lambda: False, 1000)
    assert m.clock_ns() >= a + 1000
    assert m.realtime_ns() > epoch - 10**18
    with pytest.raises(ValueError, match="clock must be"):
        Scheduler("sundial")


@given(st.integers(0, 1 << 32))
def test_random_numbers_are_the_seeds(seed):
    assert Scheduler(seed=seed).rng.random() == random.Random(seed).random()


def runaway(s: Scheduler) -> list[int]:
    """Work that queues itself for ever, and how often it ran."""
    turns = [0]

    def again() -> None:
        turns[0] += 1
        s.call_soon(again)

    s.call_soon(again)
    return turns


def test_work_without_an_end_goes_on_later():
    """What was ready when the call began has run, and the rest is not lost."""
    s, out = Scheduler(), []
    turns = runaway(s)
    for n in range(3 * BUDGET):
        s.call_soon(partial(out.append, n))
    s.run_ready()
    assert out == list(range(3 * BUDGET))
    first = turns[0]
    assert first >= 1
    s.run_ready()
    assert turns[0] > first
    assert s.clock_ns() == 0


def test_a_long_chain_of_work_ends_in_one_call():
    s, out = Scheduler(), []

    def link(left: int) -> None:
        if left:
            s.call_soon(partial(link, left - 1))
        else:
            out.append("end")

    link(BUDGET)
    s.run_ready()
    assert out == ["end"]


def test_time_passes_beside_work_without_an_end():
    """Timers come, in their order, and time-outs end exactly."""
    s, out = Scheduler(), []
    runaway(s)
    for ns in (10**9, 5, 10**7):
        s.call_later(ns, partial(lambda due: out.append((due, s.clock_ns())), ns))
    assert not s.idle_until(lambda: False, 3 * 10**9)
    assert out == [(ns, ns) for ns in (5, 10**7, 10**9)]
    assert s.clock_ns() == 3 * 10**9


def test_a_condition_is_looked_at_beside_work_without_an_end():
    s = Scheduler()
    turns = runaway(s)
    assert s.idle_until(lambda: turns[0] == 7)
    assert s.clock_ns() == 0


def test_other_threads_are_served_beside_work_without_an_end():
    s, served = Scheduler(), []
    runaway(s)
    s.on_busy = lambda: served.append(1)
    assert s.idle_until(lambda: bool(served))


def test_a_wait_beside_work_without_an_end_may_be_a_hung_task():
    s = Scheduler()
    runaway(s)
    with pytest.raises(Oops, match="hung task"):
        s.idle_until(lambda: False)
    assert s.clock_ns() > 119 * 10**9


def test_clients_may_take_turns_for_long():
    """Their turns are no work without an end: no time passes."""
    s = Scheduler()

    def client() -> None:
        for _ in range(BUDGET):
            s.resched()

    s.gather([s.spawn(client, client=True) for _ in range(2)])
    assert s.clock_ns() == 0


def test_exploring_survives_work_without_an_end():
    """Tasks that wake each other for ever are tasks, too: a client's time-out ends."""
    s = Scheduler(seed=3)
    s.explore()

    def again() -> None:
        s.spawn(again)

    s.spawn(again)
    client = s.spawn(lambda: s.idle_until(lambda: False, 10**7), client=True)
    assert client.join() is False
    assert s.clock_ns() == 10**7
