"""``pykernel run`` and ``pykernel shell``: options, exit statuses, traces."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

STATE = "/sys/bus/dsa/devices/dsa0/state"
pytestmark = pytest.mark.usefixtures("fuse")


def test_a_program_sees_the_emulated_devices(pykernel):
    done = pykernel("run", "--machine", "dsa", "--", "cat", STATE)

    assert (done.returncode, done.stdout, done.stderr) == (0, "disabled\n", "")


@pytest.mark.parametrize(("script", "status"), [("exit 7", 7), ("kill -9 $$", 137)])
def test_the_exit_status_is_the_programs(pykernel, script, status):
    assert pykernel("run", "--", "sh", "-c", script).returncode == status


def test_options_after_the_program_are_the_programs(pykernel):
    assert pykernel("run", "--machine", "dsa", "echo", "--machine", "x").stdout == "--machine x\n"


def test_as_another_user(pykernel):
    done = pykernel("run", "--as", "nobody", "--", "sh", "-c", f"id -un; echo 1 > {STATE}; echo $?")

    assert done.stdout.startswith("nobody\n")
    assert "Permission denied" in done.stderr


def test_the_profile_is_the_kernels_version_and_behaviour(pykernel):
    has = "test -e /sys/bus/dsa/devices/wq0.0/driver_name && echo yes || echo no"

    assert pykernel("run", "--profile", "linux-6.1", "--", "sh", "-c", has).stdout == "no\n"
    assert pykernel("run", "--profile", "linux-6.12", "--", "sh", "-c", has).stdout == "yes\n"


def test_modprobe_gives_parameters(pykernel):
    path = "/sys/module/idxd/parameters/sva"

    assert pykernel("run", "--", "cat", path).stdout == "Y\n"
    assert pykernel("run", "--modprobe", "idxd sva=0", "--", "cat", path).stdout == "N\n"


def test_dmesg_goes_to_stderr(pykernel):
    done = pykernel("run", "--dmesg", "--", "ls", "/sys/bus/dsa/devices")

    assert "idxd 0000:6a:01.0: Intel(R) Accelerator Device (v100)" in done.stderr
    assert "Intel" not in done.stdout


def test_the_trace_is_lines_of_json_that_pykernel_trace_prints(pykernel, tmp_path):
    file = tmp_path / "t.jsonl"
    assert pykernel("run", "--trace", str(file), "--", "cat", STATE).returncode == 0

    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert all(row.keys() == {"time_ns", "task", "name", "fields"} for row in rows)
    assert {"mmio_read", "mmio_write", "uevent"} <= {row["name"] for row in rows}

    shown = pykernel("trace", str(file), "--name", "uevent", "--grep", "wq0.0").stdout.splitlines()
    assert len(shown) == 1
    assert "action=add devpath=/devices/pci0000:6a/0000:6a:01.0/dsa0/wq0.0" in shown[0]


def test_shell_is_run_with_the_users_shell(pykernel, require_program):
    busybox = require_program("busybox")

    done = pykernel("shell", SHELL="/bin/sh", input=f"{busybox} cat {STATE}; exit 3\n")

    assert (done.returncode, done.stdout) == (3, "disabled\n")


NO_FUSE = 'mount --bind /dev/null /dev/fuse && exec "$@"'


@pytest.mark.parametrize(
    ("wrapper", "sentence"),
    [
        (
            ["unshare", "-m", "sh", "-c", NO_FUSE, "sh"],
            "pykernel: this host does not allow a FUSE mount (Invalid argument)",
        ),
        (
            ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "unshare", "-U"],
            "pykernel: this host does not allow user namespaces (Operation not permitted)",
        ),
    ],
    ids=["no FUSE", "no namespaces"],
)  # fmt: skip
def test_a_host_that_does_not_allow_it_is_one_sentence(wrapper, sentence):
    if os.geteuid() != 0:
        pytest.skip("making such a host needs root")
    # the system's Python: ours may lie in a home directory that is closed to others
    path = os.pathsep.join([str(Path(__file__).parents[2]), *(p for p in sys.path if p.endswith("site-packages"))])

    done = subprocess.run(
        [*wrapper, "/usr/bin/python3", "-B", "-m", "pykernel.tools.cli", "run", "--", "true"],
        env=dict(os.environ, PYTHONPATH=path), cwd="/", capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert (done.returncode, done.stdout, done.stderr) == (125, "", sentence + "\n")
