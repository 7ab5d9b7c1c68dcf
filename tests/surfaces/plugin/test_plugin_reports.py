"""What a failing test shows, and what is no leak because it failed."""

from __future__ import annotations

import re

import pytest

FAILING = """
    import os, pytest
    from pathlib import Path
    pytestmark = [pytest.mark.machine("dsa"), pytest.mark.seed(5)]
    STATE = "/sys/bus/dsa/devices/wq0.0/state"

    def test_fails(kernel):
        fd = os.open(STATE, os.O_RDONLY)
        os.write(2, os.read(fd, 100))
        assert fd < 0, "this"

    def test_fails_in_a_fixture(kernel, broken): ...

    @pytest.fixture
    def broken(kernel):
        open(STATE)
        raise RuntimeError("broken fixture")

    def test_passes(kernel):
        Path(STATE).read_text()

    def test_many_events(kernel):
        for _ in range(500):
            Path(STATE).read_text()
        for n in range(400):
            kernel.log.printk(6, f"line {n}")
        assert False

    def test_skips_in_the_middle(kernel):
        fd = os.open(STATE, os.O_RDONLY)
        pytest.skip("no more")

    @pytest.mark.xfail(strict=True)
    def test_expected(kernel):
        fd = os.open(STATE, os.O_RDONLY)
        assert fd < 0

    def test_raises(kernel):
        "What a caught exception's traceback holds is let go."
        def work():
            f = open(STATE)
            raise KeyError(f)
        with pytest.raises(KeyError) as e:
            work()
        assert e.type is KeyError
        e.value.args[0].close()

    def test_a_cycle(kernel):
        "An object that only the garbage collector can free is not a leak."
        import mmap
        kernel.up()
        f = open("/sys/bus/pci/devices/0000:6a:01.0/resource0", "r+b", buffering=0)
        box = [mmap.mmap(f.fileno(), 4096)]
        box.append(box)
        f.close()

    def test_no_more_after_an_oops_only(kernel):
        kernel.sched.call_soon(lambda: 1 // 0)
        kernel.sched.run_ready()

    def test_ended_by_itself(kernel):
        kernel.shutdown()

    def test_an_expected_oops(kernel):
        kernel.sched.call_soon(lambda: 1 // 0)
        kernel.sched.run_ready()
        assert isinstance(kernel.oopses.pop(), ZeroDivisionError)
"""


@pytest.fixture(
    scope="module", params=[(), ("-n", "2"), ("-p", "no:randomly", "-s")], ids=["plain", "xdist", "no_capture"]
)
def run(request, tmp_path_factory):
    from inner import run_suite

    return run_suite(tmp_path_factory.mktemp("reports"), FAILING, *request.param)


def report_of(run, name: str) -> str:
    """The part of the output that is about one failing test."""
    parts = re.split(r"\n_{3,} (?:ERROR at \w+ of )?(\w+) _{3,}\n", run.stdout)
    return dict(zip(parts[1::2], parts[2::2], strict=True))[name]


def test_outcomes(run):
    """A test that failed, was skipped or is expected to fail has no leaks: its traceback holds what it had."""
    assert run.outcomes() == {
        "test_fails": "failed",
        "test_fails_in_a_fixture": "error",
        "test_passes": "passed",
        "test_many_events": "failed",
        "test_skips_in_the_middle": "skipped",
        "test_expected": "skipped",
        "test_raises": "passed",
        "test_a_cycle": "passed",
        "test_no_more_after_an_oops_only": "error",
        "test_ended_by_itself": "passed",
        "test_an_expected_oops": "passed",
    }, run.stdout


def test_a_failing_test_shows_kernel_log_and_trace(run):
    text = report_of(run, "test_fails")
    assert "assert fd < 0" in text
    assert re.search(r"-- kernel --+\nmachine 'dsa', profile 'linux-6.1', seed 5\n", text)
    assert re.search(r"-- dmesg --+\n\[    0.000000\] pci 0000:6a:01.0", text)
    trace = re.split(r"-- trace --+\n", text)[1]
    assert re.match(
        r"\[    0\.000000\] +\S+-\d+ syscall: name=open args=\('/sys/bus/dsa/devices/wq0\.0/state', .*", trace
    )
    assert "still there at shutdown" not in run.cases["test_fails"].text


def test_the_last_events_and_lines_are_shown(run):
    text = report_of(run, "test_many_events")
    trace = re.split(r"-- trace --+\n", text)[1].splitlines()
    assert re.match(r"\.\.\. \d+ earlier lines left out", trace[0])
    assert sum(line.startswith("[") for line in trace) == 200
    log = re.split(r"-- dmesg --+\n", text)[1]
    assert log.startswith("... ")
    assert "] line 100\n" in log
    assert "] line 99\n" not in log
    assert "] line 399\n" in log


def test_junits_properties_have_them(run):
    told = run.cases["test_fails"].properties
    assert set(told) == {"kernel", "dmesg", "trace"}
    assert "idxd 0000:6a:01.0" in told["dmesg"]
    assert run.cases["test_passes"].properties == {}


@pytest.mark.parametrize("args", [(), ("-n", "2")], ids=["plain", "xdist"])
def test_junits_properties_of_what_fails_at_its_teardown(suite, args):
    """A leak is told with the same, and once when the test failed before."""
    run = suite(
        """
        import os, pytest
        pytestmark = pytest.mark.machine("dsa")
        def test_leak(kernel):
            os.open("/sys/bus/dsa/devices/wq0.0/state", os.O_RDONLY)

        def test_both(kernel):
            kernel.oopses.append(KeyError("x"))
            assert not kernel.is_up
            kernel.up()
            assert 0
        """,
        *args,
    )
    leak, both = run.cases["test_leak"], run.cases["test_both"]
    assert set(leak.properties) == {"kernel", "dmesg", "trace"}
    assert "wq0.0/state" in leak.properties["trace"]
    assert set(both.properties) == {"kernel", "dmesg", "trace"}
    assert (leak.outcome, both.outcome) == ("error", "failed")


@pytest.mark.parametrize(("how", "status"), [("raise KeyboardInterrupt", 2), ("pytest.exit('enough', 5)", 5)])
@pytest.mark.parametrize("where", ["test", "fixture"])
def test_an_interrupt_ends_as_without_us(suite, how, status, where):
    """What the test holds, or that the kernel had an oops, is no complaint then."""
    test = how if where == "test" else "request.getfixturevalue('ends')"
    run = suite(
        f"""
        import os, pytest
        @pytest.fixture
        def ends(kernel): {how}

        @pytest.mark.machine("dsa")
        def test_it(kernel, request):
            fd = os.open("/sys/bus/dsa/devices/wq0.0/state", os.O_RDONLY)
            kernel.oopses.append(KeyError())
            {test}
        """
    )
    assert run.returncode == status, run.stdout
    assert "Traceback" not in run.stdout
    assert "still there" not in run.stdout


def test_an_oops_is_told_with_its_stack(run):
    text = report_of(run, "test_no_more_after_an_oops_only")
    assert "the kernel had an oops: ZeroDivisionError: " in text
    assert "BUG: ZeroDivisionError" in text
    assert "Traceback (most recent call last)" in text
