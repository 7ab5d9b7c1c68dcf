"""The support table's column for programs under ``pykernel run``: what it says is what a program meets."""

from __future__ import annotations

import os
import platform
import sys

import pytest

from pykernel.syscalls import SYSCALLS
from pykernel.tools.ioctls import RUN, table

ATTR, BAR = "/sys/bus/dsa/devices/wq0.0/size", "/sys/bus/pci/devices/0000:6a:01.0/resource0"
WQ = "/sys/bus/dsa/devices/wq0.0"
UNDER_RUN = {
    "sendfile": ("os.sendfile(os.pipe()[1], os.open(ATTR, 0), 0, 9)", "EINVAL"),
    "sendfile into": ("os.sendfile(os.open(WQ + '/mode', 1), source(b'dedicated'), 0, 9)", "9"),
    "splice": ("os.splice(os.open(ATTR, 0), os.pipe()[1], 9)", "EINVAL"),
    "splice into": ("os.splice(pipe_with(b'shared'), os.open(WQ + '/mode', 1), 6)", "6"),
    "mmap": ("mmap.mmap(os.open(BAR, 2), 4096)", "ENODEV"),
    "mmap private": ("signal_of(lambda m: m[0])", "7"),
    "fstat": (
        "[oct(s.st_mode >> 12) for s in (os.stat('/dev/kmsg'), os.fstat(os.open('/dev/kmsg', 0)))]",
        "['0o2', '0o10']",
    ),
    "statfs": ("hex(statfs('/sys')), hex(statfs('/dev'))", "('0x62656572', '0x1021994')"),
    "uname": ("os.uname().release == HOST, '6.1.192' in open('/proc/version').read()", "(True, True)"),
    "seccomp": ("syscall(317, 1, 8, ctypes.byref(program))", "EBUSY"),
    "io_uring_setup": ("syscall(425, 1, 0)", "ENOSYS"),
    "AF_NETLINK sockets": ("uevents()", "[]"),
}
PROBE = """\
import ctypes, errno, mmap, os, select, socket, sys, tempfile
libc = ctypes.CDLL(None, use_errno=True)

def syscall(*args):
    if libc.syscall(*args) < 0:
        raise OSError(ctypes.get_errno(), "")

def statfs(path):
    found = (ctypes.c_long * 32)()
    assert libc.statfs(path.encode(), found) == 0
    return found[0]

class Program(ctypes.Structure):
    _fields_ = [("len", ctypes.c_ushort), ("filter", ctypes.c_void_p)]

allow = ctypes.create_string_buffer(b"\\x06\\0\\0\\0\\0\\0\\xff\\x7f", 8)
program = Program(1, ctypes.addressof(allow))

def source(text):
    file = tempfile.TemporaryFile(buffering=0)
    file.write(text)
    return os.dup(file.fileno())

def pipe_with(text):
    r, w = os.pipe()
    os.write(w, text)
    return r

def signal_of(touch):
    m = mmap.mmap(os.open(ATTR, 0), 4096, mmap.MAP_PRIVATE, mmap.PROT_READ)
    pid = os.fork()
    if pid == 0:
        touch(m)
        os._exit(0)
    return os.waitpid(pid, 0)[1] & 127

def uevents():
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 15) as s:
        s.bind((0, 1))
        open(WQ + "/uevent", "w").write("change")
        got = []
        while select.select([s], [], [], 0)[0]:
            got.append(s.recv(9999))
        return [m for m in got if b"wq0.0" in m]

for what in QUESTIONS:
    try:
        print(eval(what))
    except OSError as e:
        print(errno.errorcode[e.errno])
"""


@pytest.mark.usefixtures("fuse")
def test_what_the_table_says_of_programs_under_run_is_so(pykernel, tmp_path):
    """One program asks for all of it, so that no row says less or more than there is."""
    if platform.machine() != "x86_64":
        pytest.skip("the number of io_uring_setup is asked for as on x86")
    script = tmp_path / "probe.py"
    names: dict[str, object] = {"ATTR": ATTR, "BAR": BAR, "WQ": WQ, "HOST": os.uname().release}
    names |= {"QUESTIONS": [question for question, _ in UNDER_RUN.values()]}
    script.write_text("".join(f"{k} = {v!r}\n" for k, v in names.items()) + PROBE)

    done = pykernel("run", "--", sys.executable, str(script))

    assert dict(zip(UNDER_RUN, done.stdout.splitlines(), strict=True)) == {k: v for k, (_, v) in UNDER_RUN.items()}
    told = {row.name for row in table() if row.run}
    assert {name.removesuffix(" into").removesuffix(" private") for name in UNDER_RUN} <= told


def test_every_row_for_programs_under_run_is_of_a_call_that_there_is():
    assert set(RUN) <= {row.name for row in SYSCALLS}


def test_notes_are_drawn_as_they_are(pykernel):
    """A note may have brackets, which are markup elsewhere."""
    assert "[modules]" in pykernel("ioctls", "init_module", COLUMNS="300").stdout
