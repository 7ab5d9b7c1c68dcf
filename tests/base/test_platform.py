"""What every machine has: platform and auxiliary buses, the memory devices (drivers/char/mem.c)."""

from __future__ import annotations

import os
from errno import EPERM

import pytest

MEM = {"mem": 1, "null": 3, "port": 4, "zero": 5, "full": 7, "random": 8, "urandom": 9, "kmsg": 11}
MODES = {"null": 0o666, "zero": 0o666, "full": 0o666, "random": 0o666, "urandom": 0o666, "kmsg": 0o644}


def test_buses_of_every_machine(kernel):
    assert {"platform", "auxiliary"} <= set(kernel.process().listdir("/sys/bus"))
    assert "platform" in kernel.process().listdir("/sys/devices")


@pytest.mark.parametrize(("name", "minor"), MEM.items())
def test_memory_devices(kernel, name, minor):
    p = kernel.process()
    st = p.stat(f"/dev/{name}")
    assert (st.st_rdev, st.st_mode & 0o777) == (os.makedev(1, minor), MODES.get(name, 0o600))
    assert p.readlink(f"/sys/class/mem/{name}") == f"../../devices/virtual/mem/{name}"
    assert p.readlink(f"/sys/dev/char/1:{minor}") == f"../../devices/virtual/mem/{name}"


def test_uevent_file_of_null_as_recorded(kernel):
    text = kernel.process().read_text("/sys/class/mem/null/uevent")
    assert text == "MAJOR=1\nMINOR=3\nDEVNAME=null\nDEVMODE=0666\n"


@pytest.mark.parametrize("name", ["mem", "port"])
def test_physical_memory_is_locked_down_and_traced(kernel, name):
    p = kernel.process()
    with pytest.raises(OSError, match="Errno") as e:
        p.open(f"/dev/{name}")
    assert e.value.errno == EPERM
    events = kernel.trace.record()
    with pytest.raises(OSError, match="Errno"):
        p.open(f"/dev/{name}")
    assert "unsupported" in [x.name for x in events]
