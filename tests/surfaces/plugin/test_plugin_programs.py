"""``kernel_run``: unmodified programs against the very kernel that the test has."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

PROGRAMS = """
    import os, pathlib, pytest, subprocess, threading
    from pathlib import Path
    from pykernel.base.core import Device
    from pykernel.fs.sysfs import AttrGroup
    from pykernel.surfaces.process import RunError
    from pykernel.tools.dsa import enable_wq

    DSA = "/sys/bus/dsa/devices"
    pytestmark = pytest.mark.machine("dsa")

    def test_one_kernel(kernel, kernel_process, kernel_run):
        Path(f"{DSA}/wq0.1/size").write_text("8\\n")
        done = kernel_run("sh", "-c", f"cat {DSA}/wq0.1/size; echo 16 > {DSA}/wq0.1/size; cat {DSA}/wq0.1/size")
        assert (done.returncode, done.stdout, done.stderr) == (0, "8\\n16\\n", "")
        assert kernel_process.read_text(f"{DSA}/wq0.1/size") == "16\\n"
        enable_wq(kernel_process, "wq0.0")
        assert kernel_run(["cat", f"{DSA}/wq0.0/state"]).stdout == "enabled\\n"
        assert kernel_run("ls", "/dev/dsa").stdout == "wq0.0\\n"
        assert os.path.exists("/dev/dsa/wq0.0")

    def test_streams_and_status(kernel_run):
        done = kernel_run("sh", "-c", "cat; echo error >&2; exit 3", input="text\\n")
        assert (done.returncode, done.stdout, done.stderr) == (3, "text\\n", "error\\n")
        assert kernel_run("cat").stdout == ""
        assert kernel_run("cat", input=b"\\xff", text=False).stdout == b"\\xff"
        assert len(kernel_run("head", "-c", "1000000", "/dev/zero", text=False).stdout) == 1000000
        assert kernel_run("sh", "-c", "kill -9 $$").returncode == 137
        with pytest.raises(subprocess.CalledProcessError) as e:
            kernel_run("sh", "-c", "echo why >&2; exit 5", check=True)
        assert (e.value.returncode, e.value.__notes__) == (5, ["why\\n"])
        with pytest.raises(RunError, match="nosuchprogram"):
            kernel_run("nosuchprogram")

    def test_env_and_cwd(kernel_run, tmp_path):
        done = kernel_run("/bin/sh", "-c", "echo $A-$HOME; pwd", env={"A": "b"}, cwd=tmp_path)
        assert done.stdout == f"b-\\n{tmp_path}\\n"
        assert kernel_run("cat", "size", cwd=f"{DSA}/wq0.1").stdout == "0\\n"
        os.chdir(f"{DSA}/wq0.1")
        assert kernel_run("cat", "size").stdout == "0\\n"
        os.chdir("/")

    @pytest.mark.parametrize("user", ["nobody", 65534])
    def test_user(kernel_run, user):
        done = kernel_run("sh", "-c", f"id -u; pwd; echo 8 > {DSA}/wq0.1/size", user=user)
        assert done.stdout == "65534\\n/\\n"
        assert "Permission denied" in done.stderr

    def test_trace_and_dmesg(kernel, kernel_run):
        kernel.up()
        kernel.log.printk(6, "before")
        done = kernel_run("sh", "-c", f"echo 'mine' > /dev/kmsg; echo 0 > {DSA}/engine0.0/group_id")
        assert done.dmesg == "mine\\n"
        events = kernel.trace.record()
        done = kernel_run("sh", "-c", "echo 0000:6a:01.0 > /sys/bus/pci/drivers/idxd/unbind")
        names = [e.name for e in done.trace]
        assert "mmio_write" in names
        assert done.trace == events

    def test_time_limit(kernel, kernel_run):
        with pytest.raises(subprocess.TimeoutExpired) as e:
            kernel_run("sh", "-c", f"echo started; exec sleep 60 < {DSA}/wq0.0/state", timeout=0.3)
        assert e.value.stdout == b"started\\n"
        assert kernel_run("cat", f"{DSA}/wq0.0/state", timeout=20).stdout == "disabled\\n"

    def test_a_thread_calls_meanwhile(kernel, kernel_run, tmp_path):
        "A program waits for a file that a thread writes after it read the kernel."
        flag = tmp_path / "flag"
        def look():
            flag.write_text(kernel.call_from_thread(lambda: kernel.profile.name))
        thread = threading.Thread(target=look)
        thread.start()
        done = kernel_run("sh", "-c", f"while ! test -s {flag}; do sleep 0.01; done; cat {flag}", timeout=20)
        thread.join()
        assert done.stdout == "linux-6.1"

    def test_patched_again(kernel, kernel_run):
        kernel_run("true")
        assert Path(f"{DSA}/wq0.0/state").read_text() == "disabled\\n"
        with open(f"{DSA}/wq0.0/state") as f:
            kernel_run("true")
            assert f.read() == "disabled\\n"

    def test_fake_files(fs, kernel, kernel_run):
        fs.create_file("/fake")
        assert kernel_run("sh", "-c", f"test -e /fake || cat {DSA}/wq0.0/state", cwd="/").stdout == "disabled\\n"
        assert os.path.exists("/fake")

    class Broken(Device):
        attrs = AttrGroup("broken")
        def broken_show(self):
            raise ZeroDivisionError("boom")

    def test_oops(kernel, kernel_run):
        device = Broken(kernel, "d0")
        device.register()
        assert kernel_run("cat", "/sys/devices/d0/broken").returncode == 1
        assert kernel_run("sh", "-c", "cat /sys/devices/d0/broken || true").returncode == 70
        device.unregister()
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    from inner import run_suite

    return run_suite(tmp_path_factory.mktemp("programs"), PROGRAMS)


NAMES = [line.split("def ")[1].split("(")[0] for line in PROGRAMS.splitlines() if line.startswith("    def test_")]


@pytest.mark.parametrize("name", [n for n in NAMES if n not in ("test_user", "test_oops")])
def test_a_program(run, name):
    assert run.cases[name].outcome == "passed", run.cases[name].text


@pytest.mark.parametrize("user", ["nobody", "65534"])
def test_a_program_of_another_user(run, user):
    case = run.cases[f"test_user[{user}]"]
    assert case.outcome == "passed", case.text


def test_an_oops_in_a_program_fails_the_test(run):
    case = run.cases["test_oops"]
    assert case.outcome == "error", case.text
    assert "the kernel had an oops: ZeroDivisionError: boom" in case.text


def test_accel_config(suite, require_program):
    """The real tool configures a queue, Python uses it, the tool sees that."""
    require_program("accel-config")
    run = suite(
        """
        import json, pytest
        from pykernel.tools.dsa import memmove

        @pytest.mark.machine("dsa")
        @pytest.mark.profile("linux-6.1", "linux-6.12")
        def test_it(kernel_process, kernel_run):
            for command in (
                "config-engine dsa0/engine0.0 --group-id=0",
                "config-wq dsa0/wq0.0 --group-id=0 --mode=dedicated --wq-size=16 --priority=10 --type=user --name=app"
                " --driver-name=user",
                "enable-device dsa0",
                "enable-wq dsa0/wq0.0",
            ):
                kernel_run("accel-config", *command.split(), check=True)
            assert memmove(kernel_process, "/dev/dsa/wq0.0", b"hello") == b"hello"
            listed = json.loads(kernel_run("accel-config", "list", check=True).stdout)
            assert (listed[0]["dev"], listed[0]["state"]) == ("dsa0", "enabled")
        """
    )
    assert set(run.outcomes().values()) == {"passed"}, run.stdout


NO_FUSE = """
    import pytest
    import pykernel.surfaces.process.doctor as doctor

    def no() -> str:
        raise FileNotFoundError(2, "No such file or directory")

    doctor.PROBES = tuple(doctor.Probe(p.what, no, p.then) for p in doctor.PROBES)

    def test_it(kernel_run): ...
"""


@pytest.mark.parametrize(("ci", "outcome"), [("", "skipped"), ("true", "error")])
def test_a_host_without_fuse(suite, ci, outcome):
    """One sentence; in CI it is a failure, so that nothing is left out unseen."""
    run = suite(NO_FUSE, env={"CI": ci})
    assert run.outcomes() == {"test_it": outcome}
    sentence = "this host cannot run programs against an emulated kernel (/dev/fuse: No such file or directory)"
    assert f"kernel_run: {sentence}" in run.cases["test_it"].text


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes an ordinary user")
def test_an_ordinary_user_runs_programs():
    """With a user namespace where the host allows one, else it is a skip with a sentence."""
    packages = [p for p in sys.path if p.endswith("site-packages")]
    path = os.pathsep.join([str(Path(__file__).parents[3]), *packages])
    argv = ["/usr/bin/python3", "-B", "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider"]
    argv += ["-p", "pykernel.surfaces.pytest_plugin", "-p", "no:pykernel", "test_it.py"]
    with tempfile.TemporaryDirectory() as where:  # pytest's own directories are closed to others
        Path(where).chmod(0o777)
        Path(where, "test_it.py").write_text(
            "def test_it(kernel_run):\n"
            "    done = kernel_run('cat', '/sys/bus/dsa/devices/wq0.0/state')\n"
            "    assert done.stdout == 'disabled\\n'\n"
        )
        done = subprocess.run(
            argv,
            cwd=where,
            env={"PATH": os.environ["PATH"], "PYTHONPATH": path},
            user=65534,
            group=65534,
            extra_groups=[],
            text=True,
            capture_output=True,
        )
    assert "1 passed" in done.stdout or "cannot run programs" in done.stdout, done.stdout + done.stderr
