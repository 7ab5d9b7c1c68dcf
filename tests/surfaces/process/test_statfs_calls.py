"""statfs() and fstatfs() under a run: what Linux says of sysfs, devtmpfs and proc, in every way to name a file."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

PYTHON = "/usr/bin/python3"
# include/uapi/linux/magic.h
SYSFS, TMPFS, PROC, FUSE = "62656572", "1021994", "9fa0", "65735546"
ASK = """
import ctypes, errno, mmap, os, sys, threading, time
libc = ctypes.CDLL(None, use_errno=True)
buf = (ctypes.c_long * 15)()

def asked(call, what, where=buf):
    if call(what, where):
        return errno.errorcode[ctypes.get_errno()]
    return f"{buf[0]:x}"

def statfs(path, where=buf):
    return asked(libc.statfs, path if isinstance(path, (int, ctypes.c_void_p)) else path.encode(), where)

def fstatfs(fd, where=buf):
    return asked(libc.fstatfs, fd, where)
"""


def ask(surface: Any, code: str, **kw: Any) -> list[str]:
    """Run *code* after the helpers above as a client; the words that it prints."""
    r = surface.run(PYTHON, "-c", ASK + code, **kw)
    assert (r.returncode, r.stderr) == (0, "")
    return str(r.stdout).split()


@pytest.mark.parametrize(
    ("path", "magic"),
    [
        ("/sys", SYSFS),
        ("/sys/devices/toy/value", SYSFS),
        ("/sys/devices/system/cpu", SYSFS),  # the host's
        ("/dev", TMPFS),
        ("/dev/toy/0", TMPFS),
        ("/proc/version", PROC),
        ("/proc/self/stat", PROC),
    ],
)
def test_each_file_system_says_its_own_number(surface: Any, path: str, magic: str) -> None:
    assert surface.run("busybox", "stat", "-f", "-c", "%t", path).stdout == f"{magic}\n"


def test_what_is_no_device_of_ours_is_the_hosts(surface: Any, tmp_path: Path) -> None:
    for path in ("/", "/etc", "/dev/shm"):
        of_host = subprocess.run(["busybox", "stat", "-f", path], capture_output=True, text=True, check=True).stdout
        said = surface.run("busybox", "stat", "-f", path).stdout
        assert said.splitlines()[:2] == of_host.splitlines()[:2]


def test_every_field_is_linuxs(surface: Any) -> None:
    """fs/libfs.c:simple_statfs(): a page, names of 255; and the flags of the mount."""
    words = ask(surface, "print(statfs('/sys'), *buf[1:7], *buf[8:10], bool(buf[10] & 2), *buf[11:15])")
    assert words == [SYSFS, "4096", *["0"] * 5, "255", "4096", "True", *["0"] * 4]


def test_all_names_of_a_file_lead_to_it(surface: Any) -> None:
    """Descriptors, O_PATH, relative paths, links from elsewhere, /proc/self/fd, /dev/fd, a thread's own directory."""
    code = """
import tempfile
fd, path = os.open("/sys/devices/toy/value", os.O_RDONLY), os.open("/sys/devices", os.O_PATH)
with tempfile.TemporaryDirectory() as tmp:
    os.symlink("/sys/devices", tmp + "/link")
    print(fstatfs(fd), fstatfs(path), statfs(tmp + "/link/toy"), statfs(tmp) != statfs("/sys"))
print(statfs(f"/proc/self/fd/{fd}"), statfs(f"/dev/fd/{fd}"), statfs(f"/proc/thread-self/fd/{fd}"))
print(statfs(f"/proc/{os.getpid()}/fd/{fd}"))
os.chdir("/sys/devices/toy")
print(statfs("value"), statfs("."), statfs("../../../dev"))
def elsewhere():
    assert not libc.unshare(0x200)
    os.chdir("/dev/toy")
    print(statfs("0"))
t = threading.Thread(target=elsewhere); t.start(); t.join()
print(statfs("."))
"""
    assert ask(surface, code) == [*[SYSFS] * 3, "True", *[SYSFS] * 6, TMPFS, TMPFS, SYSFS]


def test_errors_are_linuxs(surface: Any) -> None:
    code = """
readonly = mmap.mmap(-1, 4096, prot=mmap.PROT_READ)
address = libc.mmap
address.restype = ctypes.c_void_p
page = ctypes.c_void_p(address(None, ctypes.c_size_t(4096), 1, 0x22, -1, 0))
print(statfs("/sys/none"), statfs("/sys/devices/toy/value/x"), statfs("x" * 4096), statfs(""), fstatfs(-1), fstatfs(99))
print(statfs("/sys", None), statfs("/sys", page), statfs(ctypes.c_void_p(0)), statfs(ctypes.c_void_p(-4096 % 2**64)))
"""
    assert ask(surface, code) == ["ENOENT", "ENOTDIR", "ENAMETOOLONG", "ENOENT", "EBADF", "EBADF", *["EFAULT"] * 4]


def test_a_path_through_a_closed_directory_stays_closed(surface: Any, tmp_path: Path) -> None:
    """Who answers has more rights than the client: they must not count."""
    code = """
import tempfile
tmp = tempfile.mkdtemp()
os.symlink("/sys", tmp + "/link")
os.chmod(tmp, 0)
print(statfs(tmp + "/link"))
os.chmod(tmp, 0o700)
os.unlink(tmp + "/link")
os.rmdir(tmp)
"""
    assert ask(surface, code, as_user="1234") == ["EACCES"]


def test_a_removed_file_still_says_it(surface: Any) -> None:
    code = """
open("/sys/devices/toy/add", "w").write("c")
fd = os.open("/sys/devices/toy/c", os.O_RDONLY)
open("/sys/devices/toy/remove", "w").write("c")
print(fstatfs(fd), statfs("/sys/devices/toy/c"))
"""
    r = surface.run(PYTHON, "-c", ASK + code)
    assert r.stdout.split() == [SYSFS, "ENOENT"]


def test_in_a_root_directory_of_ones_own(surface: Any) -> None:
    """A client's chroot: absolute paths and links start there."""
    code = """
os.chroot("/sys/devices")
print(statfs("/toy"), statfs("/sys"))
os.chdir("/")
print(statfs("../../dev"), statfs("."))
"""
    assert ask(surface, code) == [SYSFS, "ENOENT", "ENOENT", SYSFS]


def test_children_of_all_kinds(surface: Any) -> None:
    """vfork() shares the memory, and the parent waits; a static program; many threads at once."""
    code = """
import subprocess
subprocess.run(["busybox", "stat", "-f", "-c", "%t", "/sys"], close_fds=False)
wrong = []
def often():
    wrong.extend(x for x in (os.fstatvfs(0) and statfs_of("/sys") for _ in range(50)) if x != "62656572")
def statfs_of(path):
    own = (ctypes.c_long * 15)()
    libc.statfs(path.encode(), own)
    return f"{own[0]:x}"
ts = [threading.Thread(target=often) for _ in range(8)]
[t.start() for t in ts]; [t.join() for t in ts]
print(len(wrong))
"""
    assert ask(surface, code) == [SYSFS, "0"]


def test_a_signal_with_sa_restart_does_not_end_a_call(surface: Any) -> None:
    """The host withdraws a notification that nobody took yet: with SA_RESTART the program does not see it."""
    code = """
import signal
count = 0
def handler(*_):
    global count
    count += 1
signal.signal(signal.SIGALRM, handler)
signal.siginterrupt(signal.SIGALRM, False)
signal.setitimer(signal.ITIMER_REAL, 0.002, 0.002)
answers = {statfs("/sys") for _ in range(500)}
signal.setitimer(signal.ITIMER_REAL, 0)
print(*answers, count > 0)
"""
    assert ask(surface, code) == [SYSFS, "True"]


def test_clients_killed_in_the_middle(surface: Any) -> None:
    code = """
import signal
for i in range(60):
    pid = os.fork()
    if not pid:
        while True:
            statfs("/sys")
    time.sleep(0.0005 * (i % 7))
    os.kill(pid, signal.SIGKILL)
    assert os.waitpid(pid, 0)[1] == signal.SIGKILL
print(statfs("/sys"))
"""
    assert ask(surface, code) == [SYSFS]


def test_a_file_system_that_a_client_serves_blocks_nobody_else(surface: Any) -> None:
    """A client's FUSE server asks for /sys itself while somebody waits for its own statfs(): both are answered."""
    code = """
import struct
INIT, STATFS = 26, 17
fd = os.open("/dev/fuse", os.O_RDWR)
options = f"fd={fd},rootmode=40000,user_id={os.getuid()},group_id={os.getgid()},allow_other"
assert not libc.mount(b"own", b"/mnt", b"fuse.own", 6, options.encode())
asked_meanwhile = []
def serve():
    while True:
        try:
            message = os.read(fd, 1 << 17)
        except OSError:
            return
        length, op, unique = struct.unpack_from("=IIQ", message)
        error, out = -errno.ENOSYS, b""
        if op == INIT:
            error, out = 0, struct.pack("=IIIIHHIIHH", 7, 31, 0, 0, 12, 9, 4096, 1, 1, 0).ljust(64, bytes(1))
        elif op == STATFS:
            own = (ctypes.c_long * 15)()
            libc.statfs(b"/sys", own)
            asked_meanwhile.append(f"{own[0]:x}")
            error, out = 0, struct.pack("=QQQQQIII", 1, 1, 1, 1, 1, 512, 9, 512).ljust(80, bytes(1))
        os.write(fd, struct.pack("=IiQ", 16 + len(out), error, unique) + out)
threading.Thread(target=serve, daemon=True).start()
print(statfs("/mnt"), buf[8], *sorted(set(asked_meanwhile)), flush=True)
os._exit(0)
"""
    assert ask(surface, code) == [FUSE, "9", SYSFS]


def test_a_filter_of_the_clients_own_comes_first(surface: Any) -> None:
    """As on Linux: ERRNO is stronger than a notification."""
    code = """
import struct, platform
number = {"x86_64": 137, "aarch64": 43}[platform.machine()]
text = b"".join(struct.pack("HBBI", *row) for row in (
    (0x20, 0, 0, 0), (0x15, 0, 1, number), (6, 0, 0, 0x50000 | errno.EPERM), (6, 0, 0, 0x7FFF0000)))
rows = ctypes.create_string_buffer(text, len(text))
class Program(ctypes.Structure):
    _fields_ = [("len", ctypes.c_ushort), ("filter", ctypes.c_void_p)]
assert not libc.prctl(38, 1, 0, 0, 0)
assert not libc.prctl(22, 2, ctypes.byref(Program(4, ctypes.addressof(rows))), 0, 0)
print(statfs("/sys"), fstatfs(os.open("/sys", 0)))
"""
    assert ask(surface, code) == ["EPERM", SYSFS]


def test_a_run_within_a_run(surface: Any) -> None:
    """
    There is one listener in a tree of processes: the outer run's.

    Without privilege it may not walk through the inner's /sys, which is in a user namespace below its own.
    """
    r = surface.run(*surface.command(), "busybox", "stat", "-f", "-c", "%t", "/sys", "/dev", "/sys/devices/toy")
    assert r.stdout.split() == [SYSFS, TMPFS, SYSFS if surface.privileged else FUSE]


def test_nothing_of_it_is_seen(surface: Any) -> None:
    """The helper's attribute is in no list."""
    assert ask(surface, "print(*os.listxattr('/sys/devices/toy'), 'none')") == ["none"]


def test_a_signal_that_ends_the_client_ends_the_run(surface: Any) -> None:
    r = surface.run("busybox", "sh", "-c", "busybox stat -f /sys >/dev/null; kill -KILL $$")
    assert r.returncode == 128 + signal.SIGKILL


HIDDEN = (
    "mount -t tmpfs t /run && mkdir -p /run/udev/data && echo E:OF=HOST >/run/udev/data/c1:3 && touch /run/udev/control"
)


def test_the_hosts_udev_database_is_hidden(surface: Any) -> None:
    """It is of devices that have the same numbers by chance: a machine where no udevd runs."""
    userns = () if surface.privileged else ("-U", "-r")
    r = surface.run(
        "busybox", "find", "/run/udev", within=("unshare", "-m", *userns, "sh", "-c", f'{HIDDEN}; exec "$@"', "sh")
    )
    assert r.stdout == "/run/udev\n"
