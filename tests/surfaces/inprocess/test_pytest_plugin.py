"""The fixture ``kernel``: what a test suite that uses it sees."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytest_plugins = ("pytester",)


@pytest.fixture
def suite(pytester, monkeypatch):
    """Run a test file in a pytest of its own: (passed, failed, errors) and its output."""
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)

    def run(text: str, *args: str):
        pytester.makepyfile(text)
        result = pytester.runpytest_subprocess("-p", "no:randomly", *args)
        outcomes = result.parseoutcomes()
        return tuple(outcomes.get(k, 0) for k in ("passed", "failed", "errors")), result.stdout.str()

    return run


def test_a_test_sees_the_machine(suite):
    outcome, _ = suite(
        """
        import os, pytest

        @pytest.mark.kernel(machine="dsa", profile="linux-6.12")
        def test_one(kernel):
            assert kernel.profile.release.startswith("6.12")
            with open("/sys/bus/dsa/devices/wq0.0/state") as f:
                assert f.read() == "disabled\\n"

        def test_two(kernel, tmp_path):
            assert os.path.isdir("/sys/bus/pci")
            (tmp_path / "f").write_text("")

        def test_three():
            assert not os.path.isdir("/sys/bus/dsa/devices/wq0.0")
        """,
        "--strict-markers",
    )
    assert outcome == (3, 0, 0)


def test_a_leak_fails_the_test_and_is_named(suite):
    outcome, text = suite(
        """
        import os, pytest

        @pytest.mark.kernel(machine="dsa")
        def test_leak(kernel):
            os.open("/sys/bus/dsa/devices/wq0.0/state", os.O_RDONLY)
        """
    )
    assert outcome == (1, 0, 1)
    assert "wq0.0/state, taken at" in text
    assert "test_a_leak_fails_the_test_and_is_named.py:5" in text


def test_an_oops_fails_the_test(suite):
    outcome, text = suite(
        """
        import pytest

        @pytest.mark.kernel(machine="dsa")
        def test_oops(kernel):
            kernel.sched.call_soon(lambda: 1 // 0)
            kernel.sched.run_ready()
        """
    )
    assert outcome == (1, 0, 1)
    assert "the kernel had an oops: ZeroDivisionError" in text
    assert "BUG: ZeroDivisionError" in text


def test_a_failing_test_shows_the_log_and_its_open_files_are_no_leak(suite):
    outcome, text = suite(
        """
        import os, pytest

        @pytest.mark.kernel(machine="dsa")
        def test_bad(kernel):
            fd = os.open("/sys/bus/dsa/devices/wq0.0/state", os.O_RDONLY)
            assert fd < 0
        """
    )
    assert outcome == (0, 1, 0)
    assert "-- dmesg --" in text
    assert "idxd 0000:6a:01.0" in text


def test_a_wrong_word_in_the_marker(suite):
    outcome, text = suite(
        """
        import pytest

        @pytest.mark.kernel(machin="dsa")
        def test_typo(kernel): ...
        """
    )
    assert outcome == (0, 0, 1)
    assert "machine, profile" in text


def test_the_plugin_imports_no_kernel():
    code = "import sys, pykernel.surfaces.pytest_plugin; print(*sorted(m for m in sys.modules if 'pykernel.' in m))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert [m.removeprefix("pykernel.surfaces") for m in done.stdout.split()] == [
        "",
        ".pytest_plugin",
        ".testkit",
        ".testkit.marks",
        ".unfaked",
    ]


@pytest.mark.parametrize("plain_first", [False, True])
def test_fake_files_by_the_marker(suite, plain_first):
    """pyfakefs' own plugin pauses and resumes it for each report: after the fixture's set-up, too."""
    outcome, text = suite(
        """
        import configparser, os, pathlib, shutil
        import pytest
        PLAIN
        STATE = "/sys/bus/dsa/devices/wq0.0/state"

        def helper(path):
            with open(path) as f:
                return f.read()

        def all_ways():
            assert helper(STATE) == "disabled\\n"
            assert pathlib.Path(STATE).read_text() == "disabled\\n"
            assert pathlib.Path("/sys/bus/dsa").is_dir()
            shutil.copy(STATE, "/copy")
            assert helper("/copy") == "disabled\\n"
            parser = configparser.ConfigParser(allow_no_value=True, delimiters=("=",))
            with open("/ini", "w") as f:
                f.write("[a]\\nb=1\\n")
            assert parser.read(["/ini", "/sys/nothing"]) == ["/ini"]
            with pytest.raises(configparser.Error):
                parser.read(STATE)
            fd = os.open(STATE, os.O_RDONLY)
            assert os.read(fd, 9) == b"disabled\\n"
            os.close(fd)
            assert not os.path.exists("/etc/hostname")

        @pytest.fixture
        def held(kernel):
            with open(STATE) as f:
                yield f

        @pytest.mark.kernel(machine="dsa", real_files=False)
        @pytest.mark.parametrize("time", [1, 2])
        def test_one(kernel, held, time):
            all_ways()
            assert held.read() == "disabled\\n"

        @pytest.mark.kernel(machine="dsa")
        def test_before_pyfakefs_own_fixture(kernel, fs):
            all_ways()

        @pytest.mark.kernel(machine="dsa")
        def test_after_pyfakefs_own_fixture(fs, kernel):
            all_ways()
            fs.pause()
            assert os.path.exists(__file__)
            assert helper(STATE) == "disabled\\n"
            fs.resume()
            assert not os.path.exists(__file__)
            all_ways()

        @pytest.mark.kernel(machine="dsa", real_files=False)
        def test_fails(kernel):
            open("/nothing")

        def test_after():
            assert os.path.exists(__file__)
            assert not os.path.exists(STATE)
            assert open.__module__ in ("io", "_io")
            assert pathlib.PosixPath.__module__.startswith("pathlib")
        """.replace("PLAIN", "def test_plain(kernel): ..." if plain_first else "def test_plain(): ...")
    )
    assert outcome == (6, 1, 0), text
    assert "FileNotFoundError" in text
    assert "-- dmesg --" in text
