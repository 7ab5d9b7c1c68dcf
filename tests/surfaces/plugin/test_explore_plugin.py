"""@explore under pytest: a test runs once a seed, with fresh fixtures, and counts once."""

from __future__ import annotations

import re
from textwrap import dedent

import pytest

HEAD = """
import os
import pytest
from pykernel import explore

STATE = "/sys/bus/dsa/devices/wq0.0/state"
log = open("log", "a")

class Box:
    n = 0

def add(box):
    n = box.n
    open(STATE).close()
    box.n = n + 1
"""

RACE = """
@explore(seeds=50, machine="dsa")
def test_race(kernel):
    box = Box()
    kernel.gather(lambda: add(box), lambda: add(box))
    assert box.n == 2
"""


@pytest.fixture
def explored(suite, tmp_path):
    """Run a file with the text; the lines that it wrote to its log."""

    def run(text, *args):
        (tmp_path / "log").unlink(missing_ok=True)
        done = suite(HEAD + dedent(text), *args)
        return done, (tmp_path / "log").read_text().split("\n")[:-1]

    return run


def test_each_seed_has_a_fresh_kernel_and_fresh_fixtures(explored):
    """Function fixtures once a seed, those of the module once; the devices are up and exploring has begun."""
    run, log = explored(
        """
        @pytest.fixture(scope="module", autouse=True)
        def module():
            print("module", file=log)
            yield
            print("end", file=log, flush=True)

        @pytest.fixture
        def mine(kernel, tmp_path):
            yield tmp_path
            print("down", file=log)

        @pytest.mark.kernel(machine="dsa")
        @explore(seeds=[4, 2, 9], strategy="pct")
        def test_it(kernel, kernel_seed, kernel_process, mine):
            assert kernel.is_up and kernel.sched.exploring
            assert os.listdir(mine) == []
            (mine / "x").touch()
            assert kernel_process.read_text(STATE) == open(STATE).read() == "disabled\\n"
            print(kernel.sched.seed, kernel_seed, type(kernel.sched.strategy).__name__, file=log)

        def test_another(kernel):
            assert not kernel.sched.exploring
        """
    )
    assert run.outcomes() == {"test_it": "passed", "test_another": "passed"}
    assert log == ["module", "4 4 Pct", "down", "2 2 Pct", "down", "9 9 Pct", "down", "end"]


def test_the_first_seed_that_fails_ends_the_test_and_is_named(explored):
    run, _ = explored(RACE)
    assert run.outcomes() == {"test_race": "failed"}
    line = next(line for line in run.stdout.splitlines() if line.startswith("explore: seed"))
    seed = line.split()[2]
    assert line == f"explore: seed {seed} of 50 failed; replay: pytest test_it.py::test_race --kernel-seed={seed}"
    again, _ = explored(RACE, "test_it.py::test_race", f"--kernel-seed={seed}")
    assert line in again.stdout
    assert again.outcomes() == {"test_race": "failed"}


def test_a_seed_of_the_command_line_is_the_only_one(explored):
    run, log = explored(
        """
        @explore(seeds=50)
        def test_it(kernel):
            print(kernel.sched.seed, file=log, flush=True)
        """,
        "--kernel-seed=17",
    )
    assert run.outcomes() == {"test_it": "passed"}
    assert log == ["17"]


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("kernel.oops(ZeroDivisionError('bug'))", "the kernel had an oops: ZeroDivisionError: bug"),
        ("kernel.process().open(STATE)", "descriptor 0 of test"),
        ("kernel.gather(kernel.completion().wait)", "hung task: .*"),
    ],
)
def test_the_kernels_verdict_counts_for_each_seed(explored, body, why):
    run, _ = explored(
        f"""
        @explore(seeds=20, machine="dsa")
        def test_it(kernel):
            if kernel.sched.seed == 5:
                {body}
        """
    )
    text = run.cases["test_it"].text
    assert run.outcomes()["test_it"] in ("failed", "error")
    assert re.search(why, text)
    assert "explore: seed 5 of 20 failed" in run.stdout


def test_expected_failures_and_skips(explored):
    """One seed that fails is what xfail waits for; a skip ends the test."""
    run, log = explored(
        """
        @pytest.mark.xfail(strict=True)
        @explore(seeds=9)
        def test_fails(kernel):
            assert kernel.sched.seed < 3

        @pytest.mark.xfail(strict=True)
        @explore(seeds=3)
        def test_does_not(kernel):
            pass

        @explore(seeds=9)
        def test_skips(kernel):
            print("once", file=log, flush=True)
            pytest.skip("no")
        """
    )
    assert run.outcomes() == {"test_fails": "skipped", "test_does_not": "failed", "test_skips": "skipped"}
    assert log == ["once"]


def test_classes_parameters_and_xdist(explored):
    """As any other test."""
    run, _ = explored(
        """
        class TestIt:
            @pytest.mark.parametrize("n", [1, 2])
            @explore(seeds=5)
            def test_it(self, kernel, n):
                self.seen = getattr(self, "seen", 0) + 1
                assert self.seen == 1  # a fresh instance, too
        """,
        "-n2",
    )
    assert run.outcomes() == {"test_it[1]": "passed", "test_it[2]": "passed"}


def test_a_module_fixture_that_fails_in_the_end_is_told(explored):
    """Also when the test ended early."""
    run, _ = explored(
        """
        @pytest.fixture(scope="module")
        def bad():
            yield
            raise RuntimeError("at the end")

        @explore(seeds=5)
        def test_it(kernel, bad):
            assert kernel.sched.seed == 0
        """
    )
    assert run.returncode == 1
    assert "RuntimeError: at the end" in run.stdout
    assert "1 failed, 1 error" in run.stdout
