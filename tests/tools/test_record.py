"""
``pykernel record``: a recorded machine, loaded, shows what was recorded.

The host's own sysfs is the truth; what changes by itself is told by looking twice.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import pykernel as emulator
from pykernel.machine import parse
from pykernel.recorded.host import Blocked, Emulated, Host
from pykernel.recorded.text import to_toml
from pykernel.recorded.walk import Recorder, record

LOOK = Path(__file__).with_name("look_at_sys.py")
# trees that every host has something of
PATHS = ["/sys/bus/pci", "/sys/class/net/lo", "/sys/class/mem", "/sys/devices/virtual/tty", "/sys/bus/platform"]


def look(*paths: str, run: list[str] | None = None) -> dict[str, list]:
    """Each path below *paths* with its mode, size, links, owner and content, as this host or a run program sees it."""
    argv = [*(run or []), sys.executable, str(LOOK), *paths]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def under(machine: Path) -> list[str]:
    return [sys.executable, "-m", "pykernel.tools.cli", "run", "--machine", str(machine), "--"]


def described(toml: Path) -> list[str]:
    """The directories that a recording has a table for."""
    return [row["path"] for row in tomllib.loads(toml.read_text())["sysfs"]]


@pytest.fixture
def paths():
    """Of PATHS those that this host has."""
    found = [path for path in PATHS if os.path.exists(path)]
    if not found:
        pytest.skip("this host has an empty /sys")
    return found


def unchanging(before: dict, after: dict) -> dict:
    return {path: row for path, row in before.items() if after.get(path) == row}


def test_a_recording_of_this_host_loaded_is_this_host(pykernel, fuse, paths, tmp_path):
    """The whole of every directory that was recorded: names, modes, owners, sizes, links, contents, errnos."""
    toml = tmp_path / "host.toml"
    before = look("/sys")
    done = pykernel("record", *paths, "-o", str(toml))
    assert (done.returncode, done.stdout) == (0, "")
    after = look("/sys")

    loaded = look("/sys", run=under(toml))

    stable = unchanging(before, after)
    devices = [os.path.realpath(p) for p in stable if p.startswith("/sys/bus/pci/devices/")]
    top = tuple(f"{os.path.realpath(path)}/" for path in [*paths, *devices])
    expected = {p: row for p, row in stable.items() if p.startswith(top)}
    # the emulated kernel has directories of these names: both are merged, and its own files are kept
    emulated = ("/sys/bus/pci", "/sys/bus/platform", "/sys/devices/virtual/mem")
    assert {p: row for p, row in expected.items() if not p.startswith(emulated) and loaded.get(p) != row} == {}
    links = {p: row[-1] for p, row in expected.items() if p.startswith("/sys/bus/pci/devices/")}
    assert {p: loaded[p][-1] for p in links} == links


def test_a_recording_of_all_of_this_host_is_all_of_it(pykernel, fuse, tmp_path):
    toml = tmp_path / "host.toml"
    before = look("/sys")
    assert pykernel("record", "/sys", "-o", str(toml)).returncode == 0
    after = look("/sys")

    loaded = look("/sys", run=under(toml))

    expected = unchanging(unchanging(before, after), look("/sys"))
    long = {p for p, row in expected.items() if isinstance(row[-1], str) and len(row[-1]) // 2 > 256 << 10}
    wrong = {p for p in expected.keys() - long if loaded.get(p) != expected[p]}
    # a busy host: counters that stood still in three looks, and not while it was recorded
    assert len(wrong) <= len(expected) // 1000, sorted(wrong)[:20]
    assert expected


@pytest.mark.parametrize("path", ["/sys", "/sys/bus/dsa", "/sys/module/idxd"])
def test_an_emulated_machine_is_recorded_in_process(path):
    kernel = emulator.boot("full")
    recorded = record(Emulated(kernel.process()), [path])
    copy = emulator.boot(emulator.Machine("copy", recorded=recorded)).process()

    again = record(Emulated(copy), [path])

    text = to_toml(recorded)
    assert text == to_toml(again) if path == "/sys" else "dsa0" in text or "idxd" in text
    if path != "/sys/module/idxd":
        assert copy.read_text("/sys/bus/dsa/devices/wq0.0/state") == "disabled\n"


def test_an_emulated_machine_is_recorded_under_run(pykernel, fuse, tmp_path):
    """``ls -lR`` and the contents are identical: what the emulated kernel has, not what run adds of the host's."""
    toml = tmp_path / "full.toml"
    done = pykernel("run", "--", sys.executable, "-m", "pykernel.tools.cli", "record", "/sys", "-o", str(toml))
    assert done.returncode == 0, done.stderr
    assert toml.read_text().startswith("# Linux 6.1.192: /sys\n")

    run = [sys.executable, "-m", "pykernel.tools.cli", "run", "--"]
    emulated, loaded = look("/sys", run=run), look("/sys", run=under(toml))

    own = {p: row for p, row in emulated.items() if "runtime_active_time" not in p}
    assert len(own) > 1000
    assert {p: (row, loaded.get(p)) for p, row in own.items() if loaded.get(p) != row} == {}
    assert loaded.keys() - emulated.keys() == set()


def test_the_same_machine_is_the_same_text():
    texts = {to_toml(record(Emulated(emulator.boot("dsa").process()), ["/sys/bus/pci"])) for _ in range(2)}

    assert len(texts) == 1


def test_a_device_brings_what_belongs_to_it():
    recorded = record(Emulated(emulator.boot("dsa").process()), ["/sys/bus/dsa/devices/wq0.0"])
    paths = {path for path, _ in recorded.tree.walk()}

    device = "/devices/pci0000:6a/0000:6a:01.0"
    assert {f"{device}/dsa0/wq0.0", f"{device}/dsa0", device, f"{device}/power"} <= paths  # with those above it
    assert f"{device}/dsa0/engine0.0" not in paths  # and not its brothers
    assert set(recorded.tree.at("bus/dsa/devices").links) == {"wq0.0", "dsa0"}
    assert "drivers_autoprobe" in recorded.tree.at("bus/pci").files
    assert recorded.tree.at("bus/pci/drivers/idxd").links == {
        "0000:6a:01.0": f"../../../..{device}",
        "module": "../../../../module/idxd",
    }
    assert "parameters" in recorded.tree.at("module/idxd").dirs


def test_a_path_that_is_a_link_is_recorded_too():
    """What was named is there in the recorded machine, and leads where it led; so do links in the middle."""
    source = emulator.boot("mdev").process()
    for path, within in [("/sys/class/mdev_bus/mtty", "mdev_supported_types"), ("/sys/class/mtty/mtty/subsystem", "")]:
        toml = to_toml(record(Emulated(source), [path]))
        copy = emulator.boot(parse(toml, "m.toml")).process()
        assert copy.realpath(path) == source.realpath(path)
        assert copy.readlink(path) == source.readlink(path)
        assert copy.listdir(f"{path}/{within}") == source.listdir(f"{path}/{within}")


def test_a_device_node_is_its_device():
    proc = emulator.boot("dsa").process()
    recorded = record(Emulated(proc), ["/dev/null"])

    assert recorded.tree.find("devices/virtual/mem/null") is not None
    assert recorded.tree.find("devices/virtual/mem/zero") is None
    assert recorded.tree.at("dev/char").links == {"1:3": "../../devices/virtual/mem/null"}


def test_paths_and_long_contents_are_left_out():
    recorder = Recorder(Emulated(emulator.boot("dsa").process()), exclude=["/sys/*/power", "*/wq*"], max_size=4000)
    recorder.record("/sys/bus/pci")

    assert not [path for path, _ in recorder.tree.walk() if "power" in path or "wq" in path]
    (long,) = [paths for why, paths in recorder.notes.items() if why == "longer than 4000 bytes"]
    assert {path.rpartition("/")[2] for path in long} == {"config"}
    config = recorder.tree.at("devices/pci0000:6a/0000:6a:01.0").files["config"]
    assert (config.left_out, config.data, config.size) == (True, b"", 4096)


SECRET = """
[[sysfs]]
path = "/sys/devices/toy"
[sysfs.attrs]
address = "52:54:00:Ab:cd:0f\\n"
serial = "S3-K-42\\n"
serial_number = ""
addr_len = "6\\n"
uevent = "HID_UNIQ=aa:bb\\nHID_NAME=Toy\\n"
[sysfs.hex]
board_serial = "0002"
"""


def test_what_tells_machines_apart_becomes_zeros():
    proc = emulator.boot(parse(SECRET)).process()
    recorder = Recorder(Emulated(proc), redact=True)
    recorder.record("/sys/devices/toy")

    assert {name: attr.data for name, attr in recorder.tree.at("devices/toy").files.items()} == {
        "address": b"00:00:00:00:00:00\n",
        "serial": b"00-0-00\n",
        "serial_number": b"",
        "addr_len": b"6\n",
        "uevent": b"HID_UNIQ=00:00\nHID_NAME=Toy\n",
        "board_serial": b"\0\0",
    }


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["/nowhere"], "pykernel: /nowhere: No such file or directory"),
        (["/etc"], "pykernel: /etc is not in /sys, and no device node"),
        (["/sys/kernel/uevent_seqnum"], "pykernel: /sys/kernel/uevent_seqnum is a file: name its directory"),
        (["/sys/kernel", "-o", "/nowhere/x"], "pykernel: /nowhere/x: No such file or directory"),
    ],
)
def test_what_goes_wrong_is_one_sentence(pykernel, argv, sentence):
    if not os.path.exists("/sys/devices"):
        pytest.skip("no sysfs here")
    done = pykernel("record", *argv, "--exclude", "/sys/kernel/*")

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines()[-1] == sentence


def test_a_read_that_does_not_end_is_left_out(monkeypatch, tmp_path):
    """As /sys/power/wakeup_count, which waits for wake-ups under way; other signals stay as they were."""
    before = signal.getsignal(signal.SIGALRM)
    monkeypatch.setattr("pykernel.recorded.host.os.read", lambda fd, n: signal.pause())

    with pytest.raises(Blocked):
        Host(patience_s=0.01).read(str(LOOK), 100)

    assert signal.getsignal(signal.SIGALRM) is before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_no_name_of_the_host_is_in_a_recording(pykernel):
    done = pykernel("record", "/sys/class/mem")

    assert re.match(r"# Linux \d+\.\d+\S*: /sys/class/mem\n# recorded by pykernel [\d.]+\n\[recorded\]\n", done.stdout)
    assert os.uname().nodename not in done.stdout.split("\n[[sysfs]]")[0].split()


def test_arguments_that_name_nothing(pykernel):
    empty = pykernel("record", "")
    assert (empty.returncode, empty.stdout, empty.stderr) == (1, "", "pykernel: '' is no path\n")
    size = pykernel("record", "--max-size", "-1", "/sys/class/mem")
    assert (size.returncode, size.stdout) == (2, "")
    assert "--max-size" in size.stderr
