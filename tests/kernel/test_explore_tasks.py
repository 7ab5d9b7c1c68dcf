"""Clients as tasks, and the points where they are switched: on the direct surface and on the patched one."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from errno import ENODEV

import pytest

import pykernel
from pykernel import explore
from pykernel.errors import Oops, err
from pykernel.fs.sysfs import AttrGroup, Kobject, SysFs
from pykernel.kernel import Leak
from pykernel.lib.interleave import STRATEGIES, make_strategy

STATE = "/sys/bus/dsa/devices/wq0.0/state"


@pytest.fixture
def k():
    kernel = pykernel.boot("dsa")
    yield kernel
    kernel.shutdown()


def raising(e):
    raise e


def test_results_come_in_order(k):
    assert k.gather(lambda: 1, lambda: "two", lambda: None) == [1, "two", None]
    assert k.gather() == []


def test_a_client_that_is_spawned_runs_when_the_test_waits(k):
    out = []

    def client():
        out.append(1)
        return "result"

    task = k.spawn(client)
    assert out == []
    assert task.join() == "result"
    assert out == [1]


def test_what_a_client_raises_is_raised_and_is_no_oops(k):
    """A failed assertion of the test, an errno: as they are. Several: together."""
    with pytest.raises(ZeroDivisionError):
        k.gather(lambda: 1 / 0, lambda: 2)
    with pytest.raises(OSError, match="No such device"):
        k.spawn(lambda: raising(err(ENODEV))).join()
    with pytest.raises(ExceptionGroup) as e:
        k.gather(lambda: raising(KeyError(1)), lambda: raising(ValueError(2)))
    assert [type(x) for x in e.value.exceptions] == [KeyError, ValueError]
    assert k.oopses == []


@pytest.mark.parametrize("e", [KeyboardInterrupt(), SystemExit(3), pytest.fail.Exception("stop")], ids=type)
def test_what_ends_everything_ends_all_clients_at_once(k, e):
    """Ctrl-C, sys.exit(), pytest.fail(): the others' finally clauses run."""
    ended = []

    def waits():
        try:
            k.completion().wait()
        finally:
            ended.append(1)

    with pytest.raises(type(e)):
        k.gather(waits, lambda: raising(e))
    assert ended == [1]
    assert not k.sched.threads


def test_a_client_that_never_ends_is_named():
    """Who waits, and for what; the kernel counts it as an oops; all clients are ended, and leave nothing."""
    kernel = pykernel.boot("dsa")
    ended = []

    def reader():
        proc = kernel.process()
        try:
            proc.read(proc.eventfd(), 8)
        finally:
            ended.append(1)
            proc.exit()

    with pytest.raises(Oops, match=r"hung task: .*: reader waits for"):
        kernel.gather(reader, lambda: None)
    assert (ended, len(kernel.oopses), kernel.depth) == ([1], 1, 0)
    assert "hung task" in kernel.log.human()
    kernel.shutdown()


def test_why_a_client_hangs_is_perhaps_that_another_failed(k):
    """What failed is raised, the hang is a note."""
    with pytest.raises(ZeroDivisionError) as e:
        k.gather(k.completion().wait, lambda: 1 / 0)
    assert any("hung task" in note for note in e.value.__notes__)
    k.oopses.clear()


def test_clients_of_one_name_are_told_apart(k):
    wait = k.completion().wait
    with pytest.raises(Oops, match=r"wait\[0\] waits.*wait\[1\] waits"):
        k.gather(wait, wait)


def test_a_client_that_nobody_waits_for_is_told_and_ended():
    """At shutdown: one that can end does, one that sleeps in a call is a leak; the kernel is down all the same."""
    kernel = pykernel.boot("dsa")
    out = []

    def sleeper():
        proc = kernel.process()
        try:
            proc.read(proc.eventfd(), 8)
        finally:
            out.append("ended")
            proc.exit()

    kernel.spawn(lambda: out.append("done"))
    kernel.spawn(sleeper)
    with pytest.raises(Leak, match=r"client sleeper waits for .*: join\(\) it"):
        kernel.shutdown()
    assert out == ["done", "ended"]
    assert kernel.dead


def test_clients_may_gather_clients(k):
    assert k.gather(lambda: k.gather(lambda: 1, lambda: 2), lambda: 3) == [[1, 2], 3]


def test_clients_take_turns_at_their_system_calls(k):
    """Also where nothing is explored: one that polls for another's work does not keep it from doing it."""
    seen = []

    def polls():
        proc = k.process()
        while not seen:
            proc.read_text(STATE)
        proc.exit()

    def works():
        proc = k.process()
        for _ in range(3):
            proc.read_text(STATE)
        seen.append(1)
        proc.exit()

    k.gather(polls, works)


def test_each_client_is_its_own_process_and_current(k):
    """kernel.current is the client's own in its calls, whoever ran meanwhile."""
    k.up()
    pids = []
    made = Kobject(k, "toy", k.sub(SysFs).top["kernel"])

    class Toy(Kobject):
        attrs = AttrGroup("pid")

        def pid_show(self):
            before = k.current.pid
            k.sched.point()
            pids.append((before, k.current.pid))
            return f"{k.current.pid}\n"

    made = Toy(k, "toy", k.sub(SysFs).top["kernel"])
    made.add()
    k.sched.explore()

    def client():
        proc = k.process()
        assert proc.read_text("/sys/kernel/toy/pid") == f"{proc.pid}\n"
        proc.exit()

    k.gather(*[client] * 4)
    assert all(a == b for a, b in pids)
    assert len({a for a, _ in pids}) == 4
    made.delete()


def test_on_the_patched_surface_clients_are_threads_of_the_program():
    """Python's own files in tasks: each has its own position and descriptor, all are one process."""
    for seed in range(20):
        kernel = pykernel.boot("dsa", seed=seed)
        kernel.up()
        kernel.sched.explore()
        with kernel.patched() as patched:

            def client(pid=patched.process.pid):
                assert os.getpid() == pid
                with open(STATE) as text, open(STATE, "rb", buffering=0) as raw:
                    assert text.read(3) == "dis"
                    assert os.read(raw.fileno(), 4) == b"disa"
                    assert text.read() == "abled\n"
                    assert sorted(os.listdir("/sys/bus/dsa/devices"))[0] == "dsa0"

            kernel.gather(client, client, client)
        kernel.shutdown()


def test_who_removes_a_file_waits_for_who_is_in_it():
    """kernfs_drain(): no show function runs after the removal; who comes later gets ENODEV or ENOENT."""
    outcomes = set()
    for seed in range(60):
        kernel = pykernel.boot("dsa", seed=seed)
        kernel.up()
        gone = []

        class Toy(Kobject):
            attrs = AttrGroup("x")

            def x_show(self, kernel=kernel, gone=gone):
                for _ in range(5):
                    kernel.sched.point()
                    assert not gone
                return "x\n"

        toy = Toy(kernel, "toy", kernel.sub(SysFs).top["kernel"])
        toy.add()
        kernel.sched.explore()

        def reader(kernel=kernel):
            proc = kernel.process()
            try:
                outcomes.add(proc.read_text("/sys/kernel/toy/x"))
            except OSError as e:
                outcomes.add(e.errno)
            proc.exit()

        def remover(toy=toy, gone=gone):
            toy.delete()
            gone.append(1)

        kernel.gather(reader, reader, remover)
        assert kernel.oopses == []
        kernel.shutdown()
    assert outcomes == {"x\n", ENODEV, 2}


def test_a_file_may_remove_itself():
    """As PCI's remove does: who writes to it does not wait for itself; of several writers one removes."""
    for seed in range(10):
        kernel = pykernel.boot("dsa", seed=seed)
        kernel.up()
        kernel.sched.explore()
        procs = [kernel.process() for _ in range(2)]

        def remove(proc):
            with suppress(OSError):  # ENODEV or ENOENT: the other was earlier
                proc.write_text("/sys/bus/pci/devices/0000:6a:01.0/remove", "1")

        kernel.gather(*[lambda p=p, f=remove: f(p) for p in procs])
        assert "0000:6a:01.0" not in procs[0].listdir("/sys/bus/pci/devices")
        for proc in procs:
            proc.exit()
        assert kernel.oopses == []
        kernel.shutdown()


# ---- the same seed, the same interleaving

SCRIPT = """
import hashlib, sys, pykernel
from pykernel.tools.dsa import enable_wq, memmove
for strategy in ("random", "pct"):
    for seed in range(6):
        kernel = pykernel.boot("dsa", seed=seed)
        kernel.up()
        events = kernel.trace.record()
        proc = kernel.process()
        enable_wq(proc, "wq0.0", mode="shared")
        kernel.sched.explore(strategy)
        def user():
            p = kernel.process()
            try:
                assert memmove(p, "/dev/dsa/wq0.0", b"abc") == b"abc"
            except OSError as e:
                kernel.trace("lost", error=e.errno)
            except TimeoutError:
                kernel.trace("lost")
            p.exit()
        def admin():
            proc.write_text("/sys/bus/dsa/drivers/user/unbind", "wq0.0")
        kernel.gather(user, user, admin)
        assert not kernel.oopses
        text = "\\n".join(f"{e.time_ns} {e.task} {e.name} {sorted(e.fields.items())}" for e in events)
        print(strategy, seed, len(events), hashlib.sha256(text.encode()).hexdigest())
"""


def test_the_same_seed_is_the_same_interleaving_in_every_process():
    """The traces are equal, event by event, whatever the hash seed; those of other seeds differ."""
    outputs = {
        subprocess.run(
            [sys.executable, "-c", SCRIPT], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, text=True,
            check=True,
        ).stdout
        for seed in ("0", "1", "12345")
    }  # fmt: skip
    assert len(outputs) == 1
    rows = [line.split() for line in outputs.pop().splitlines()]
    assert len(rows) == 12
    assert len({row[3] for row in rows}) == 12


def test_what_a_strategy_draws_is_fixed():
    """random.Random.random() is the same on every version of Python; these numbers are those of CPython 3.11."""
    import random

    rng = random.Random("random 7")
    rate, *coins = rng.random(), *(rng.random() for _ in range(5))
    walk = make_strategy("random", 7)
    assert walk.rate == walk.RATES[int(rate * 4)]  # type: ignore[attr-defined]
    assert [walk.switches(None, ()) for _ in range(5)] == [coin < walk.rate for coin in coins]  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="strategy must be one of random, pct, not 'fair'"):
        make_strategy("fair", 0)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_task_that_polls_does_not_starve_the_one_it_polls_for(strategy):
    """Also under priorities."""
    for seed in range(30):
        kernel = pykernel.boot("dsa", seed=seed)
        kernel.up()
        kernel.sched.explore(strategy)
        box = []

        def polls(kernel=kernel, box=box):
            proc = kernel.process()
            while not box:
                proc.read_text(STATE)
            proc.exit()

        def works(kernel=kernel, box=box):
            kernel.sched.point()
            box.append(1)

        kernel.gather(polls, works)
        kernel.shutdown()


# ---- explore() without pytest


def test_the_loop_gives_a_kernel_a_seed_and_its_verdict():
    seeds = []
    for kernel in explore(seeds=[3, 1], strategy="pct", machine="dsa"):
        assert kernel.sched.exploring
        assert kernel.is_up
        seeds.append(kernel.sched.seed)
    assert seeds == [3, 1]
    with pytest.raises(AssertionError, match="descriptor") as e:
        [kernel.process().open(STATE) for kernel in explore(seeds=[8], machine="dsa")]
    assert e.value.__notes__ == ["explore: seed 8 of 1 failed; replay: explore(seeds=[8])"]


def test_run_names_the_seed_that_failed():
    def check(kernel):
        assert kernel.sched.seed < 3

    with pytest.raises(AssertionError) as e:
        explore(seeds=9, machine="dsa").run(check)
    assert e.value.__notes__[-1] == "explore: seed 3 of 9 failed; replay: explore(seeds=[3])"
    with pytest.raises(AssertionError, match=r"the kernel had an oops: .*ZeroDivisionError") as e:
        explore(seeds=1, machine="dsa").run(lambda kernel: kernel.oops(ZeroDivisionError()))
    assert "seed 0 of 1" in e.value.__notes__[0]


@pytest.mark.parametrize(
    ("args", "why"), [({"seeds": 0}, "at least one seed"), ({"strategy": "fair"}, "strategy must")]
)
def test_what_explore_does_not_take(args, why):
    with pytest.raises(ValueError, match=why):
        explore(**args)
