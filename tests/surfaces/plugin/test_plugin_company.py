"""The fixtures in company: unittest, asyncio, threads, pyfakefs, other plugins."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

UNITTEST = """
    import os, pytest, unittest
    import pykernel
    STATE = "/sys/bus/dsa/devices/wq0.0/state"

    @pytest.mark.machine("dsa")
    @pytest.mark.usefixtures("kernel")
    class TestByMark(unittest.TestCase):
        def setUp(self):
            with open(STATE) as f:
                self.state = f.read()

        def test_good(self):
            self.assertEqual(self.state, "disabled\\n")

        @pytest.mark.profile("linux-6.12")
        def test_leak(self):
            os.open(STATE, os.O_RDONLY)

    class TestByFixture(unittest.TestCase):
        @pytest.fixture(autouse=True)
        def _kernel(self, kernel):
            self.kernel = kernel

        @pytest.mark.profile("linux-6.12")
        def test_named(self):
            self.assertEqual(self.kernel.profile.name, "linux-6.12")

        def test_fails(self):
            self.fd = os.open("/dev/zero", os.O_RDONLY)
            self.fail("this")

    class TestMixed(pykernel.KernelTestCase):
        kernel_options = {"machine": "dsa", "profile": "linux-6.12"}

        def setUp(self):
            super().setUp()
            self.f = open(STATE)
            self.addCleanup(self.f.close)

        def test_mixed(self):
            self.assertEqual(self.f.read(), "disabled\\n")
            self.assertEqual(self.kernel.profile.name, "linux-6.12")

        def test_mixed_leak(self):
            os.open(STATE, os.O_RDONLY)

        def test_mixed_failure(self):
            os.open(STATE, os.O_RDONLY)
            self.fail("this")

        def test_mixed_oops(self):
            self.kernel.oops(KeyError("bug"))

        def test_mixed_skip(self):
            os.open(STATE, os.O_RDONLY)
            self.skipTest("no more")

        def test_mixed_subtest(self):
            with self.subTest(n=1):
                os.open(STATE, os.O_RDONLY)
                self.fail("this")

        @unittest.expectedFailure
        def test_mixed_expected(self):
            os.open(STATE, os.O_RDONLY)
            self.fail("this")

    class TestMixedSetUp(pykernel.KernelTestCase):
        def setUp(self):
            super().setUp()
            os.open(STATE, os.O_RDONLY)
            raise KeyError("in setUp")

        def test_mixed_set_up(self): ...

    class TestMixedTearDown(pykernel.KernelTestCase):
        def test_mixed_tear_down(self):
            os.open(STATE, os.O_RDONLY)

        def tearDown(self):
            raise KeyError("in tearDown")
"""


def test_unittest_under_pytest(suite):
    run = suite(UNITTEST)
    assert run.outcomes() == {
        "test_good": "passed",
        "test_leak": "error",
        "test_named": "passed",
        "test_fails": "failed",
        "test_mixed": "passed",
        "test_mixed_leak": "failed",
        "test_mixed_failure": "failed",
        "test_mixed_oops": "failed",
        "test_mixed_skip": "skipped",
        "test_mixed_subtest": "failed",
        "test_mixed_expected": "skipped",
        "test_mixed_set_up": "failed",
        "test_mixed_tear_down": "failed",
    }, run.stdout
    for name in ("subtest", "expected", "set_up", "tear_down"):
        assert "still there" not in run.cases[f"test_mixed_{name}"].text
    assert "wq0.0/state, taken at" in run.cases["test_leak"].text
    assert "still there" not in run.cases["test_fails"].text
    assert "wq0.0/state, taken at" in run.cases["test_mixed_leak"].text
    assert "still there" not in run.cases["test_mixed_failure"].text


def test_the_plain_unittest_runner(tmp_path):
    (tmp_path / "test_case.py").write_text(
        textwrap.dedent(UNITTEST).split("@pytest.mark.machine")[0]
        + textwrap.dedent(UNITTEST).partition("class TestMixed")[1]
        + textwrap.dedent(UNITTEST).partition("class TestMixed")[2]
    )
    argv = [sys.executable, "-m", "unittest", "-v", "test_case"]
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True)
    told = dict(line.split(" (", 1) for line in done.stderr.splitlines() if line.startswith("test_"))
    outcomes = {name: rest.rpartition("... ")[2] for name, rest in told.items()}
    del outcomes["test_mixed_subtest"]  # its parts have lines of their own
    assert outcomes == {
        "test_mixed": "ok",
        "test_mixed_failure": "FAIL",
        "test_mixed_leak": "FAIL",
        "test_mixed_oops": "FAIL",
        "test_mixed_skip": "skipped 'no more'",
        "test_mixed_expected": "expected failure",
        "test_mixed_set_up": "ERROR",
        "test_mixed_tear_down": "ERROR",
    }, done.stderr
    assert "the kernel had an oops: KeyError: 'bug'" in done.stderr
    assert done.stderr.count("still there at shutdown") == 1


ASYNC = """
    import asyncio, os, pytest
    from pathlib import Path
    pytestmark = pytest.mark.machine("dsa")
    STATE = "/sys/bus/dsa/devices/wq0.0/state"

    async def eventfd_wakes():
        "A reader of an emulated eventfd is called by the loop; the writer is another task."
        loop, heard = asyncio.get_running_loop(), asyncio.Queue()
        fd = os.open("/dev/kmsg", os.O_RDWR | os.O_NONBLOCK)
        try:
            os.lseek(fd, 0, os.SEEK_END)
            loop.add_reader(fd, lambda: heard.put_nowait(os.read(fd, 8192)))
            loop.call_soon(os.write, fd, b"hello")
            line = await asyncio.wait_for(heard.get(), 5)
            loop.remove_reader(fd)
            return line
        finally:
            os.close(fd)

    def test_run(kernel):
        kernel.up()
        assert b";hello\\n" in asyncio.run(eventfd_wakes())

    def test_to_thread(kernel):
        async def main():
            return await asyncio.gather(*(asyncio.to_thread(Path(STATE).read_text) for _ in range(5)))
        assert asyncio.run(main()) == ["disabled\\n"] * 5

    @pytest.mark.asyncio
    async def test_plugin(kernel):
        kernel.up()
        assert b";hello\\n" in await eventfd_wakes()
        await asyncio.sleep(0.001)
        assert await asyncio.to_thread(Path(STATE).read_text) == "disabled\\n"

    @pytest.fixture
    async def early():
        await asyncio.sleep(0)
        yield asyncio.get_running_loop()

    @pytest.mark.asyncio
    async def test_loop_before_the_kernel(early, kernel):
        kernel.up()
        assert b";hello\\n" in await eventfd_wakes()

    @pytest.mark.asyncio
    async def test_async_leak(kernel):
        os.open(STATE, os.O_RDONLY)
"""


@pytest.mark.parametrize("mode", ["strict", "auto"])
def test_asyncio(suite, mode):
    text = ASYNC if mode == "auto" else ASYNC.replace("    @pytest.fixture\n    async", "    import pytest_asyncio\n"
                                                      "    @pytest_asyncio.fixture\n    async")  # fmt: skip
    run = suite(text, "--asyncio-mode", mode)
    leak = run.cases.pop("test_async_leak")
    assert set(run.outcomes().values()) == {"passed"}, run.stdout
    assert leak.outcome == "error"
    assert "wq0.0/state, taken at" in leak.text


THREADS = """
    import os, pytest, threading, time
    from concurrent.futures import ThreadPoolExecutor
    from pathlib import Path
    pytestmark = pytest.mark.machine("dsa")
    STATE = "/sys/bus/dsa/devices/wq0.0/state"

    def test_a_thread(kernel):
        found = []
        thread = threading.Thread(target=lambda: found.append(Path(STATE).read_text()))
        thread.start()
        thread.join()
        assert found == ["disabled\\n"]

    def test_direct(kernel, kernel_process):
        found = []
        thread = threading.Thread(target=lambda: found.append(kernel_process.read_text(STATE)))
        thread.start()
        while thread.is_alive():
            kernel_process.read_text(STATE)
        assert found == ["disabled\\n"]

    def test_executor(kernel):
        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(lambda n: Path(STATE).read_text(), range(20))) == ["disabled\\n"] * 20

    def test_an_errno_in_a_thread(kernel):
        with ThreadPoolExecutor(1) as pool:
            with pytest.raises(PermissionError):
                pool.submit(Path("/sys/bus/dsa/devices/wq0.0/clients").write_text, "1").result()

    def test_a_leak_in_a_thread(kernel):
        def work():
            os.open(STATE, os.O_RDONLY)  # THREAD
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()

    def test_one_that_ends_by_itself(kernel):
        "Not joined, but it ends: its last call is served."
        started = threading.Event()
        def work():
            started.set()
            Path(STATE).read_text()
        threading.Thread(target=work).start()
        started.wait()

    def test_one_that_never_called(kernel):
        threading.Thread(target=end.wait, daemon=True).start()

    end = threading.Event()
    told = []

    def test_straggler(kernel, kernel_process):
        go = threading.Event()
        def work():
            try:
                while True:
                    kernel.call_from_thread(kernel.up)
                    go.set()
            except RuntimeError as e:
                told.append(str(e))
        thread = threading.Thread(target=work, name="straggler")
        threads.append(thread)
        thread.start()
        while not go.is_set():
            kernel_process.read_text(STATE)

    threads = []

    def test_zz_what_it_is_told():
        if not threads:
            pytest.skip("the other one comes later")
        threads[0].join()
        assert told == ["this kernel was shut down: boot another one"]
"""


def test_threads(suite):
    run = suite(THREADS, "-p", "no:randomly")
    leak, late = run.cases.pop("test_a_leak_in_a_thread"), run.cases.pop("test_straggler")
    assert set(run.outcomes().values()) == {"passed"}, run.stdout
    line = next(n for n, text in enumerate(textwrap.dedent(THREADS).splitlines(), 1) if "# THREAD" in text)
    assert leak.outcome == late.outcome == "error"
    assert f"test_it.py:{line} in test_a_leak_in_a_thread.<locals>.work()" in leak.text
    sentence = "thread 'straggler' uses the kernel and outlived the test: join() it, or shut its executor down"
    assert sentence in late.text


IDLE = """
    import asyncio, os, pytest, threading, unittest
    from concurrent.futures import ThreadPoolExecutor
    from pathlib import Path
    import pykernel
    pytestmark = pytest.mark.machine("dsa")
    STATE = "/sys/bus/dsa/devices/wq0.0/state"
    POOL = ThreadPoolExecutor(2)

    class TestCase(pykernel.KernelTestCase, unittest.IsolatedAsyncioTestCase):
        async def test_unittests_loop(self):
            assert await asyncio.to_thread(Path(STATE).read_text) == "disabled\\n"

    @pytest.mark.asyncio(loop_scope="session")
    @pytest.mark.parametrize("n", range(3))
    async def test_session_loop(kernel, n):
        assert await asyncio.to_thread(Path(STATE).read_text) == "disabled\\n"

    @pytest.mark.parametrize("n", range(3))
    def test_pool_of_the_module(kernel, n):
        assert POOL.submit(Path(STATE).read_text).result() == "disabled\\n"

    def test_a_thread_that_idles(kernel):
        done = threading.Event()
        def work():
            Path(STATE).read_text()
            done.set()
            threading.Event().wait()
        threading.Thread(target=work, daemon=True).start()
        done.wait()

    @pytest.fixture(scope="session", autouse=True)
    def watcher():
        ends, seen = threading.Event(), []
        def watch():
            while not ends.wait(0.01):
                os.path.exists("/sys/class/net")
                os.listdir("/sys/class")
        thread = threading.Thread(target=watch)
        thread.start()
        yield thread
        ends.set()
        thread.join()

    @pytest.mark.parametrize("n", range(5))
    def test_a_watcher(kernel, watcher, n):
        for _ in range(20):
            Path(STATE).read_text()
        assert watcher.is_alive()
"""


def test_threads_that_idle_or_were_there_before(suite):
    """The workers of pools and a thread of the session's are no test's to end, and nobody waits for them."""
    run = suite(IDLE)
    assert set(run.outcomes().values()) == {"passed"}, run.stdout
    assert len(run.cases) == 13


FAKES = """
    import os, pytest
    from pathlib import Path
    pytestmark = pytest.mark.machine("dsa")
    STATE = "/sys/bus/dsa/devices/wq0.0/state"

    def both():
        assert Path(STATE).read_text() == "disabled\\n"
        assert not os.path.exists(__file__)
        Path("/file").write_text("fake")

    def test_fs_first(fs, kernel, kernel_process):
        both()
        assert kernel_process.read_text(STATE) == "disabled\\n"

    def test_kernel_first(kernel, fs):
        both()

    def test_leak(fs, kernel):
        both()
        os.open(STATE, os.O_RDONLY)

    def test_fault(fs, kernel, kernel_faults):
        both()
        for fault in kernel_faults.each("alloc"):
            pass

    def test_plain(kernel):
        assert os.path.exists(__file__)
"""


def test_pyfakefs_comes_too_late(suite):
    """The emulated files would vanish: a sentence."""
    run = suite("def test_late(kernel, request):\n    request.getfixturevalue('fs')\n")
    assert "the fixture 'fs' hides the emulated files of 'kernel'" in run.cases["test_late"].text


def test_a_fixture_that_ends_too_late(suite):
    """A leak's report says which fixtures could not give back in time."""
    run = suite(
        """
        import os, pytest

        @pytest.fixture
        def files():
            held = []
            yield held
            for f in held:
                f.close()

        @pytest.fixture
        def after(kernel):
            held = []
            yield held
            for f in held:
                f.close()

        def test_late(tmp_path, files, capsys, kernel):
            files.append(open("/sys/bus/dsa/devices/wq0.0/state"))

        def test_in_time(after, files, kernel):
            after.append(open("/sys/bus/dsa/devices/wq0.0/state"))
        """
    )
    assert run.cases["test_in_time"].outcome == "passed", run.stdout
    assert "(Fixtures that are older than 'kernel' end after it: files. One that" in run.cases["test_late"].text


@pytest.mark.parametrize("args", [("-p", "no:randomly"), ("-p", "randomly", "--capture=sys"), ("-n", "2", "-s")])
def test_pyfakefs(suite, args):
    run = suite(FAKES, *args)
    leak = run.cases.pop("test_leak")
    assert set(run.outcomes().values()) == {"passed"}, run.stdout
    assert leak.outcome == "error"
    assert "wq0.0/state, taken at" in leak.text


TIMEOUT = """
    import os, pytest, time

    @pytest.mark.timeout(0.5, func_only=True)
    def test_hangs(kernel):
        fd = os.open("/dev/zero", os.O_RDONLY)
        time.sleep(60)

    @pytest.mark.timeout(0.5, func_only=True)
    def test_hangs_in_a_program(kernel, kernel_run):
        kernel_run("sleep", "60")

    def test_after(kernel):
        assert os.path.exists("/sys/bus/dsa")
"""


def test_timeout(suite):
    """A test that hangs is ended, its machine and its programs with it; the next one has its own."""
    run = suite(TIMEOUT, "-p", "no:randomly")
    assert run.cases["test_hangs"].outcome == "failed"
    assert "Timeout" in run.cases["test_hangs"].text
    assert run.cases["test_hangs_in_a_program"].outcome in ("failed", "skipped")
    assert run.cases["test_after"].outcome == "passed", run.stdout


@pytest.mark.parametrize("capture", ["fd", "sys", "tee-sys", "no"])
def test_capture_modes(suite, capture):
    run = suite(
        """
        import os, sys
        def test_it(kernel, capfd):
            print("out")
            os.write(2, b"err")
            assert open("/sys/bus/dsa/devices/wq0.0/state").read() == "disabled\\n"
            sys.stdout.flush()
        """,
        f"--capture={capture}",
    )
    assert run.outcomes() == {"test_it": "passed"}, run.stdout
