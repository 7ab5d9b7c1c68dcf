"""``pykernel run`` with a driver that somebody is writing: a slip in it never ends the session of the program."""

from __future__ import annotations

import sys
from functools import partial

import driver_slips
import pytest

from pykernel.drivers.SKELETON import SKELETON_FACTORIAL

LIVENESS = "/sys/class/skeleton/skeleton0/liveness"
SHOW, IOCTL = "def liveness_show", "@ioctl(SKELETON_FACTORIAL)\n    def "
CLIENT = f"""
import errno, fcntl, os
fd = os.open("/dev/skeleton0", os.O_RDWR)
for call in (lambda: fcntl.ioctl(fd, {SKELETON_FACTORIAL.nr}, bytearray(8)), lambda: open({LIVENESS!r}).read()):
    try:
        print(call())
    except OSError as e:
        print(errno.errorcode[e.errno])
"""


@pytest.fixture
def slip(tmp_path):
    """``slip(method, line)``: a machine whose driver is the skeleton with *line* as the first of that method."""

    return partial(driver_slips.slip, tmp_path)


@pytest.mark.usefixtures("fuse")
@pytest.mark.parametrize("line", ["raise err(-ENODEV)", "raise OSError(-19, 'no')", "raise SystemExit(3)"])
@pytest.mark.parametrize("where", [IOCTL, SHOW], ids=["ioctl", "show"])
def test_a_slip_is_eio_for_the_program_which_goes_on(pykernel, slip, where, line):
    """Its end is orderly, and the status tells of the oops."""
    done = pykernel("run", "-m", slip(where, line), "--", sys.executable, "-c", CLIENT)
    assert done.stdout.splitlines()[where == SHOW] == "EIO"
    assert (done.returncode, done.stderr.count("\n"), "Traceback" in done.stderr) == (70, 1, False)
