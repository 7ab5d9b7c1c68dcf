"""
Dumps that the real umockdev-record makes of this host: the real umockdev-run and ``pykernel run`` show the same tree.

What umockdev does differently from Linux, and this test leaves out: every file is 0644 and as long as its text,
directories and links are those of an ordinary file system; a subsystem that its list of buses does not have is a class;
groups of files two directories deep are not recorded; device nodes are terminals or files that can be opened.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import pykernel
from pykernel.fs.sysfs import SysFs
from pykernel.surfaces.process.visibility import ROWS

LOOK = Path(__file__).with_name("look_at_sys.py")
# of the host, where the machine has none of its own
HOSTS = tuple(row.path for row in ROWS if row.path.startswith("/sys/"))


@pytest.fixture(scope="module", autouse=True)
def tools(require_program):
    require_program("umockdev-record")
    require_program("umockdev-run")
    require_program("udevadm")


# these come and go while other tests run (a mount has a device), or there are dozens of a kind
PASSED_BY = re.compile(r"/virtual/(bdi|tty/tty\d|block/loop[1-9]|vc)|/system/")
ENOUGH = 120


def devices() -> list[str]:
    """The devices of this host that are recorded."""
    found = []
    for where, dirs, files in sorted(os.walk("/sys/devices")):
        if "uevent" in files and "subsystem" in dirs and not PASSED_BY.search(where):
            found.append(where)
    return found[:ENOUGH]


@pytest.fixture(scope="module")
def dump(tools, tmp_path_factory):
    """A dump of devices of this host."""
    asked = devices()
    if not asked:
        pytest.skip("this host has no devices in /sys")
    file = tmp_path_factory.mktemp("dump") / "host.umockdev"
    file.write_bytes(
        subprocess.run(["umockdev-record", *asked], stdout=subprocess.PIPE, check=True, timeout=100).stdout
    )
    return file


def tree(where: Path, *run: str) -> dict[str, object]:
    """Path -> the text of a link, the content of a file, None for a directory; umockdev makes its tree in *where*."""
    argv, env = [*run, sys.executable, str(LOOK), "/sys"], dict(os.environ, TMPDIR=str(where))
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=200, env=env)
    assert done.returncode == 0, done.stderr
    return {path: row[-1] for path, row in json.loads(done.stdout).items() if not path.startswith(HOSTS)}


def odd(path: str) -> bool:
    """A bus that umockdev takes for a class, or a place that its tree does not have empty."""
    parts = path.split("/")
    name = parts[3] if len(parts) > 3 else ""
    return parts[2] in ("bus", "class") and os.path.isdir(f"/sys/bus/{name}") and name not in KNOWN


# buses of the host that are in umockdev's list, too: the rest is what it calls a class
KNOWN = ("acpi", "hid", "pci", "platform", "pnp", "serial", "usb", "virtio", "scsi", "event_source", "i2c", "serio")


def test_umockdev_run_and_pykernel_run_show_the_same_tree(fuse, dump, tmp_path):
    theirs = tree(tmp_path, "umockdev-run", "-d", str(dump), "--")

    ours = tree(tmp_path, sys.executable, "-m", "pykernel.tools.cli", "run", "--machine", str(dump), "--")

    subsystem = {p for p in theirs if p.endswith("/subsystem") and os.path.lexists(p) and theirs[p] != ours.get(p)}
    assert all(os.readlink(p) == ours[p] for p in subsystem)  # there the host says who is right
    compared = {p for p in theirs if not odd(p)} - subsystem
    assert len(compared) > len(theirs) // 2
    assert {p: (theirs[p], ours.get(p)) for p in compared if theirs[p] != ours.get(p)} == {}
    top = {f"/sys/{name}" for name in SysFs.TOP}  # these are always there
    more = {p for p in ours.keys() - theirs.keys() - top if not odd(p)}
    assert {p for p in more if not any(host.startswith(f"{p}/") for host in HOSTS)} == set()


def test_a_recorded_node_has_no_driver(dump):
    """umockdev makes a file or a terminal of it."""
    proc = pykernel.boot(str(dump)).process()
    nodes = [row[3:] for row in dump.read_text().splitlines() if row.startswith("N: ")]
    names = [name for name in nodes if name not in ("null", "zero", "full", "random", "urandom", "kmsg", "mem", "port")]

    for name in names:
        with pytest.raises(OSError, match="No such device or address"):
            proc.open(f"/dev/{name.partition('=')[0]}")
