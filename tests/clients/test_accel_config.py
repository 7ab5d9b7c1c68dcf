"""Debian's unmodified accel-config brings a DSA up with Intel's shipped profiles, and reads its state back."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., "subprocess.CompletedProcess[str]"]

PROFILES = Path("/etc/accel-config/contrib/configs")
RECORDED = Path(__file__).parents[1] / "conformance" / "data" / "idxd" / "answers-accel-config-7.2.txt"
# profile file -> the kernels on which it loads
LOADS = [(kernel, name) for kernel in ("linux-6.1", "linux-6.12") for name in ("app", "net", "storage")]
LOADS.append(("linux-6.12", "os"))

CYCLE = """
set -e
accel-config load-config -c {file} -e >&2
accel-config list
accel-config save-config -s {saved}
for wq in {wqs}; do accel-config disable-wq dsa0/$wq >&2; done
accel-config disable-device dsa0 >&2
test "$(cat /sys/bus/dsa/devices/dsa0/state)" = disabled
accel-config load-config -c {saved} -e >&2
accel-config list >&2
"""


@pytest.fixture(autouse=True, scope="module")
def accel_config(require_program: Callable[[str], str]) -> str:
    return require_program("accel-config")


def relaxed(text: str) -> Any:
    """JSON as json-c reads it: a comma may follow the last element."""
    return json.loads(re.sub(r",(\s*[\]}])", r"\1", text))


def test_list_shows_the_three_devices(pykernel_run: Run) -> None:
    """``list -i`` prints JSON with dsa0, iax1 and dsa2: one shared counter in PCI order."""
    done = pykernel_run("linux-6.1", "accel-config", "list", "-i")

    assert done.returncode == 0, done.stderr
    assert {d["dev"] for d in json.loads(done.stdout)} == {"dsa0", "iax1", "dsa2"}


@pytest.mark.parametrize(("kernel", "name"), LOADS, ids=[f"{k}-{n}" for k, n in LOADS])
def test_shipped_profile_loads(
    pykernel_run: Run, script: Callable[[str], str], tmp_path: Path, kernel: str, name: str
) -> None:
    """load-config -e succeeds, list shows what the file asked, and what save-config writes loads again."""
    file = PROFILES / f"{name}_profile.conf"
    (asked,) = relaxed(file.read_text())
    wqs = [wq["dev"] for group in asked["groups"] for wq in group["grouped_workqueues"]]
    text = CYCLE.format(file=file, saved=tmp_path / "saved.conf", wqs=" ".join(wqs))

    done = pykernel_run(kernel, "sh", script(text))

    assert done.returncode == 0, done.stdout + done.stderr
    shown = next(d for d in json.loads(done.stdout) if d["dev"] == "dsa0")
    assert shown["state"] == "enabled"
    assert_shows(shown, asked)


def assert_shows(shown: dict[str, Any], asked: dict[str, Any]) -> None:
    """Every key of the file is in the listing with the same value; 6.1 has no driver_name to show."""
    for group in asked["groups"]:
        listed = next(g for g in shown["groups"] if g["dev"] == group["dev"])
        for wq in group["grouped_workqueues"]:
            have = next(w for w in listed["grouped_workqueues"] if w["dev"] == wq["dev"])
            assert have["state"] == "enabled"
            assert {k: have[k] for k in wq if k in have} == {k: v for k, v in wq.items() if k in have}
            assert set(wq) - set(have) <= {"driver_name"}
        assert [e["dev"] for e in listed["grouped_engines"]] == [e["dev"] for e in group["grouped_engines"]]


def test_os_profile_fails_on_6_1(pykernel_run: Run) -> None:
    """A shared kernel queue needs a system PASID, which 6.1 has not: Linux's text and exit status 1."""
    file = str(PROFILES / "os_profile.conf")

    done = pykernel_run("linux-6.1", "accel-config", "load-config", "-c", file, "-e")

    assert done.returncode == 1
    said = done.stdout + done.stderr
    assert "Error[0x800c0000] dsa0: wq error - no shared wq support (platform configuration error)" in said


WRONG_ORDERS = [
    (
        "enable-device before anything",
        "accel-config enable-device dsa0",
        "Error[0x800d0000] dsa0: wq error - no wqs configured",
    ),
    (
        "sizes beyond the device",
        "accel-config config-engine dsa0/engine0.0 -g 0; accel-config config-wq dsa0/wq0.0 -g 0 -s 999",
        "valid size should be 0 to 128",
    ),
    (
        "queue without an engine",
        """cd /sys/bus/dsa/devices; echo dedicated >wq0.0/mode; echo 0 >wq0.0/group_id; echo 1 >engine0.0/group_id
        accel-config enable-device dsa0""",
        r"Error\[      0x15\] dsa0: ",
    ),
    (
        "queue before its device",
        "accel-config config-wq dsa0/wq0.0 -g 0 -s 8 -m dedicated -p 1 -y user -n x; accel-config enable-wq dsa0/wq0.0",
        "failed in dsa0/wq0.0",
    ),
]


@pytest.mark.parametrize(("text", "expected"), [row[1:] for row in WRONG_ORDERS], ids=[row[0] for row in WRONG_ORDERS])
def test_wrong_orders_print_the_texts_of_cmd_status(
    pykernel_run: Run, script: Callable[[str], str], text: str, expected: str
) -> None:
    """A step out of order fails, and accel-config explains Linux's cmd_status."""
    done = pykernel_run("linux-6.1", "sh", script(text))

    assert done.returncode != 0
    said = done.stdout + done.stderr
    assert expected in said or re.search(expected, said), said


SESSION = Path(__file__).with_name("accel_config_session.sh")


def test_same_session_as_on_linux_7_2(pykernel_run: Run, tmp_path: Path) -> None:
    """A whole session prints, line for line, what it printed on Linux 7.2 (recorded), but for the dynamic major."""
    machine = tmp_path / "recorded.toml"
    machine.write_text('[cpu]\ncount = 1\n[[pci]]\nmodel = "dsa"\naddress = "0000:00:08.0"\n[modules]\nidxd = ""\n')

    done = pykernel_run("linux-7.2", "sh", str(SESSION), machine=str(machine))

    expected = [line for line in RECORDED.read_text().splitlines() if not line.startswith("#")]
    major = re.compile(r'"cdev_major":\d+')
    assert [major.sub("", line) for line in done.stdout.splitlines()] == [major.sub("", line) for line in expected]
