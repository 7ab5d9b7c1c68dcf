"""What unmodified programs see of attributes and devices: content, errno by its text, stat."""

from __future__ import annotations

from typing import Any

import pytest

PYTHON = "/usr/bin/python3"


def lines(result: Any) -> list[str]:
    """Both streams, without what the runner itself reports."""
    text: str = result.stdout + result.stderr
    return [line for line in text.splitlines() if not line.startswith(("store ", "oops "))]


def test_a_store_is_what_the_next_read_shows(surface: Any) -> None:
    r = surface.sh("cat value; echo 5 > value; cat value; cat /sys/class/toy/value")
    assert (r.stdout, r.returncode) == ("1\n5\n5\n", 0)


def test_each_write_call_is_one_store(surface: Any) -> None:
    """One store a write(2), text up to the newline included, whatever the file position (fs/kernfs/file.c)."""
    r = surface.sh("exec 3<>value; echo 1 >&3; echo 22 >&3; exec 3>&-; echo 333 >> value; printf 4 > value; cat value")
    assert r.stdout == "4\n"
    assert r.stderr.splitlines() == ["store '1\\n'", "store '22\\n'", "store '333\\n'", "store '4'"]


def test_redirects_dup_and_fork_share_one_open_file(surface: Any) -> None:
    """A read moves the position of the descriptor's duplicates, in other processes too."""
    r = surface.sh(
        "exec 3<config; (busybox dd bs=3 count=1 <&3 | busybox hexdump -e '1/1 \"%d \"') 2>/dev/null;"
        " busybox dd bs=2 count=1 <&3 2>/dev/null | busybox hexdump -e '1/1 \"%d \"'"
    )
    assert r.stdout == "0 1 2 3 4 "


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("echo x > only", "sh: can't create only: Permission denied"),
        ("cat add", "cat: can't open 'add': Permission denied"),
        ("echo bad > value", "sh: write error: Invalid argument"),
        ("echo x > fail", "sh: write error: Operation not permitted"),
        ("echo x > nothing", "sh: can't create nothing: Permission denied"),
        ("mkdir x", "mkdir: can't create directory 'x': Operation not permitted"),
        ("rmdir group", "rmdir: 'group': Operation not permitted"),
        ("rm -f value", "rm: can't remove 'value': Operation not permitted"),
        ("mv value other", "mv: can't rename 'value': Operation not permitted"),
        ("ln -s a b", "ln: b: Operation not permitted"),
        ("ln value b", "ln: b: Operation not permitted"),
        ("mkfifo b", "mkfifo: b: Operation not permitted"),
        ("ls value/x", "ls: value/x: Not a directory"),
        ("ls nothing", "ls: nothing: No such file or directory"),
        ("cat group", "cat: read error: Is a directory"),
    ],
)  # fmt: skip
def test_root_is_told(surface: Any, command: str, says: str) -> None:
    """The errnos of sysfs for root, in busybox's words."""
    r = surface.sh(command)
    assert lines(r) == [says]
    assert r.returncode == 1


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("cat secret", "cat: can't open 'secret': Permission denied"),
        ("echo 1 > value", "sh: can't create value: Permission denied"),
        ("echo 1 > /dev/toy/0", "sh: can't create /dev/toy/0: Permission denied"),
        ("mkdir x", "mkdir: can't create directory 'x': Permission denied"),
        ("rm -f value", "rm: can't remove 'value': Permission denied"),
        ("chmod 666 value", "chmod: value: Operation not permitted"),
        ("touch value", "touch: value: Permission denied"),
    ],
)
def test_another_user_is_told(surface: Any, command: str, says: str) -> None:
    """--as nobody: the file's mode decides, and only its owner changes it."""
    r = surface.sh(command, as_user="nobody")
    assert lines(r) == [says]
    assert r.returncode == 1


def test_another_user_may_use_what_is_for_all(surface: Any) -> None:
    r = surface.sh("cat value; echo hi > /dev/toy/all && cd group && cat inner", as_user="nobody")
    assert (r.stdout, r.stderr, r.returncode) == ("1\ninner\n", "", 0)


def test_the_driver_sees_who_calls(surface: Any) -> None:
    """comm, ids and capabilities of the caller; root of the emulated machine has them all."""
    assert surface.sh("cat caller").stdout == "cat True 0 0 [] 1ffffffffff\n"
    groups = "[65534]" if surface.privileged else "[]"
    assert surface.sh("cat caller", as_user="nobody").stdout == f"cat True 65534 65534 {groups} 0\n"


def test_stat(surface: Any) -> None:
    r = surface.sh(
        "stat -c '%n %s %a %F %h' value only secret add config group .;"
        " stat -L -c %F /sys/class/toy; stat -c %F /dev/toy/0"
    )
    assert r.stdout.splitlines() == [
        "value 4096 644 regular file 1",
        "only 4096 444 regular file 1",
        "secret 4096 600 regular file 1",
        "add 4096 200 regular file 1",
        "config 256 644 regular file 1",
        "group 0 755 directory 2",
        ". 0 755 directory 3",
        "directory",
        "character special file",
    ]


def test_stat_size_stays_a_page_whatever_was_read_and_written(surface: Any) -> None:
    r = surface.sh("cat value > /dev/null; echo 12345 > value; stat -c %s value; truncate -s 0 value; stat -c %s value")
    assert r.stdout == "4096\n4096\n"


def test_chmod_by_root_lasts(surface: Any) -> None:
    r = surface.sh("chmod 600 value; stat -c %a value")
    assert (r.stdout, r.returncode) == ("600\n", 0)


def test_files_without_size_are_not_empty(surface: Any) -> None:
    """sendfile() (busybox cat) of /proc files and devices falls back to read()."""
    r = surface.sh("cat /proc/version; exec 3<>/dev/toy/0; echo data >&3; busybox head -n1 <&3")
    assert r.stdout == "Linux version 6.1.192 (pykernel)\ndata\n"


def test_a_show_that_crashes_is_eio_and_fails_the_run(surface: Any) -> None:
    r = surface.sh("cat broken; true")
    assert lines(r) == ["cat: read error: Input/output error"]
    assert r.returncode == 70


def test_names_are_complete(surface: Any) -> None:
    r = surface.run(PYTHON, "-c", "import os; print(*os.listdir('/sys/devices/toy'))")
    assert sorted(r.stdout.split()) == [
        "add", "big", "broken", "caller", "config", "fail", "group",
        "hang", "notify", "only", "remove", "secret", "value",
    ]  # fmt: skip


def test_a_removed_node_is_gone_for_paths_and_enodev_for_descriptors(surface: Any) -> None:
    """And a new node of the same name is the new one."""
    r = surface.sh(
        "echo c > add; cat c/name; exec 3<c/name; stat -c %s c/name; echo c > remove; cat c/name; ls c; cat <&3;"
        " ls -d c; echo c > add; cat c/name; cat <&3; stat -c %h ."
    )
    assert lines(r) == [
        "c", "4096", "c", "4",
        "cat: can't open 'c/name': No such file or directory",
        "ls: c: No such file or directory",
        "cat: read error: No such device",
        "ls: c: No such file or directory",
        "cat: read error: No such device",
    ]  # fmt: skip


REMOVED = """
import errno, os, select
os.chdir("/sys/devices/toy")

def no(f, *a, **k):
    try:
        print(f(*a, **k))
    except OSError as e:
        print(errno.errorcode[e.errno])

open("add", "w").write("c")
f, o, d = os.open("c/name", os.O_RDONLY), os.open("c/name", os.O_PATH), os.open("c", os.O_RDONLY)
os.stat("c/name"), os.chdir("c"), os.listdir()
open("../remove", "w").write("c")
for fd, kind in (f, "file"), (d, "directory"), (o, "path"):
    st = os.fstat(fd)
    print(kind, st.st_size, st.st_nlink)
    no(os.fchmod, fd, 0o600)
    print(oct(os.fstat(fd).st_mode & 0o777))
no(os.pread, f, 1, 0)
no(os.listdir, d)
no(os.open, "name", os.O_RDONLY, dir_fd=d)
no(os.open, f"/proc/self/fd/{o}", os.O_RDONLY)
no(os.open, "/sys/devices/toy/c/name", os.O_RDONLY)
no(os.stat, "name")
no(os.listdir, ".")
print(os.stat("..", dir_fd=d).st_ino == os.stat("..").st_ino == os.stat("/sys/devices/toy").st_ino)
open("/sys/devices/toy/add", "w").write("c")
print(os.stat("/sys/devices/toy/c").st_ino != os.fstat(d).st_ino == os.stat(".").st_ino)
no(os.listdir, d)
g = os.open("/dev/new", os.O_RDWR | os.O_CREAT)
os.unlink("/dev/new")
no(os.write, g, b"abc")
print(os.fstat(g).st_size, os.fstat(g).st_nlink)
"""


def test_descriptors_and_directories_outlive_the_removal(surface: Any) -> None:
    """
    They answer as those of the recorded Linux 6.1 (tests/conformance/data/driver-core-linux-6.1.txt, "removal").

    A file of /dev (ramfs, tmpfs) that was unlinked lives on without a link.
    """
    r = surface.run(PYTHON, "-c", REMOVED)
    assert r.stderr == ""
    assert r.stdout.splitlines() == [
        "file 4096 1", "None", "0o600",
        "directory 0 2", "None", "0o600",
        "path 4096 1", "EBADF", "0o600",
        "ENODEV", "[]", "ENOENT", "ENODEV", "ENOENT", "ENOENT", "[]", "True",
        "True", "[]",
        "3", "3 0",
    ]  # fmt: skip


def test_a_tree_that_goes_while_others_look(surface: Any) -> None:
    """Each path is there or not, at once and for all who look; nobody is kept waiting."""
    r = surface.sh(
        "(while :; do ls -lR . > /dev/null; cat c/name > /dev/null; done) 2> /dev/null &"
        " for i in 1 2 3 4 5 6 7 8 9; do for j in 1 2 3; do"
        " echo c > add; cat c/name > /dev/null || echo lost;"
        " echo c > remove; test -e c/name && echo stays; done; done; true"
    )
    assert (r.stdout, r.returncode) == ("", 0)


FILES = """
import ctypes, errno, fcntl, mmap, os, pathlib, shutil
p = pathlib.Path("/sys/devices/toy/value")
print(p.read_text(), p.write_text("8"), p.read_bytes(), p.stat().st_size, sorted(os.listdir(p.parent))[:2])
try:
    p.write_text("bad")
except OSError as e:
    print(e)
fd = os.open(p.parent / "config", os.O_RDWR)
print(os.pread(fd, 3, 5), os.pwrite(fd, b"ab", 6), os.pread(fd, 3, 5))
print(os.lseek(fd, 0, os.SEEK_END), os.read(fd, 9), os.path.realpath("/sys/class/toy/value"))
m = os.memfd_create("m")
shutil.copyfile(p, f"/proc/self/fd/{m}")
print(os.pread(m, 9, 0))

def no(f, *a):
    try:
        print(f(*a))
    except OSError as e:
        print(errno.errorcode[e.errno])

no(os.open, p, os.O_DIRECTORY)
no(os.open, "/sys/class/toy", os.O_NOFOLLOW)
no(os.open, p, os.O_CREAT | os.O_EXCL)
no(os.open, p.parent, os.O_WRONLY)
no(os.getxattr, p, "user.x")
no(os.listxattr, p)
no(os.fsync, fd)
path = os.open(p, os.O_PATH)
no(os.read, path, 1)
print(os.fstat(path).st_size)
no(fcntl.ioctl, fd, 0x5500)
no(mmap.mmap, os.open(p, os.O_RDWR), 4096)
"""


def test_python_reads_and_writes(surface: Any) -> None:
    """Flags of open(), extended attributes, copying, mapping: the errnos of sysfs."""
    r = surface.run(PYTHON, "-c", FILES)
    assert r.stdout.splitlines() == [
        "1",
        " 1 b'8\\n' 4096 ['add', 'big']",
        "[Errno 22] Invalid argument",
        "b'\\x05\\x06\\x07' 2 b'\\x05ab'",
        "256 b'' /sys/devices/toy/value",
        "b'8\\n'",
        *("ENOTDIR", "ELOOP", "EEXIST", "EISDIR", "ENODATA", "[]", "None", "EBADF", "4096", "ENOTTY", "ENODEV"),
    ]
    assert r.returncode == 0


ERRNOS = """
import ctypes, errno, os, stat
libc = ctypes.CDLL(None, use_errno=True)
os.chdir("/sys/devices/toy")

def no(f, *a):
    try:
        print(f(*a))
    except OSError as e:
        print(errno.errorcode[e.errno])

def c(name, *a):
    if getattr(libc, name)(*a) < 0:
        raise OSError(ctypes.get_errno(), name)
    return 0

no(os.truncate, "value", 1 << 31)
no(os.truncate, "value", (1 << 31) - 1)
no(os.open, "value", os.O_DIRECT)
for flags in 0, 1, 2, 4:
    no(c, "renameat2", -100, b"value", -100, b"new" if flags < 2 else b"only", flags)
fd = os.open("/dev/toy/0", os.O_RDWR)
no(os.truncate, "/dev/toy/0", 0)
no(os.ftruncate, fd, 0)
no(c, "fallocate", fd, 0, ctypes.c_long(0), ctypes.c_long(1))
no(os.lseek, fd, 0, 0)
"""


def test_errnos_of_sizes_flags_and_renames(surface: Any) -> None:
    """
    Those of fs/attr.c:inode_newsize_ok(), fs/kernfs/dir.c:kernfs_iop_rename(), and of devices those of fs/open.c.

    The toy's device has no llseek operation: fs/open.c:do_dentry_open().
    """
    r = surface.run(PYTHON, "-c", ERRNOS)
    assert r.stdout.split() == [
        "EFBIG", "None", "EINVAL",
        "EPERM", "EINVAL", "EINVAL", "EINVAL",
        "EINVAL", "EINVAL", "ENODEV", "ESPIPE",
    ]  # fmt: skip


def test_nodes_that_root_makes(surface: Any) -> None:
    """Pipes and sockets are empty, as in tmpfs; a device cannot be made, as in a container, and none is left."""
    r = surface.sh("cd /dev; mkfifo p; stat -c '%F %s' p; mknod -m 666 x c 1 3; ls x; rm p; ls p")
    assert lines(r) == [
        "fifo 0",
        "mknod: x: Operation not permitted",
        "ls: x: No such file or directory",
        "ls: p: No such file or directory",
    ]


DEVICE = """
import ctypes, errno, os, select, threading
fd = os.open("/dev/toy/0", os.O_RDWR)
libc = ctypes.CDLL(None, use_errno=True)
v = ctypes.c_int(41)
print(libc.ioctl(fd, ctypes.c_ulong(0x5500), ctypes.byref(v)), v.value)
print(libc.ioctl(fd, ctypes.c_ulong(0x5500), ctypes.c_void_p(8)), errno.errorcode[ctypes.get_errno()])
p = select.poll()
p.register(fd, select.POLLIN)
print(p.poll(0))
t = threading.Timer(0.05, os.write, (fd, b"late"))
t.start()
print([e for _, e in p.poll(5000)], os.read(fd, 9))
t.join()
try:
    os.lseek(fd, 0, 0)
except OSError as e:
    print(e)
"""


def test_device_ioctl_and_poll(surface: Any) -> None:
    """An ioctl without size reaches the caller's memory; poll() wakes up; a device that cannot seek says ESPIPE."""
    r = surface.run(PYTHON, "-c", DEVICE)
    assert r.stdout.splitlines() == ["7 42", "-1 EFAULT", "[]", "[1] b'late'", "[Errno 29] Illegal seek"]


ATTRIBUTE_POLL = """
import os, select, threading
os.chdir("/sys/devices/toy")
fd = os.open("value", os.O_RDONLY)
os.read(fd, 9)
p = select.poll()
p.register(fd, select.POLLPRI | select.POLLERR)
print(p.poll(0))
t = threading.Timer(0.05, lambda: open("notify", "w").write("77"))
t.start()
print([e for _, e in p.poll(5000)], os.pread(fd, 9, 0), p.poll(0))
t.join()
"""


def test_poll_of_an_attribute(surface: Any) -> None:
    """POLLPRI|POLLERR after sysfs_notify() until it is read again (Documentation/filesystems/sysfs.rst)."""
    assert surface.run(PYTHON, "-c", ATTRIBUTE_POLL).stdout.splitlines() == ["[]", "[10] b'77\\n' []"]


BLOCKING = """
import os, signal, threading, time
fd = os.open("/dev/toy/0", os.O_RDWR)
if os.fork() == 0:
    print("child", os.read(fd, 9), flush=True)
    os._exit(0)
os.write(fd, b"first")
os.wait()
os.set_blocking(fd, False)
try:
    os.read(fd, 9)
except OSError as e:
    print(e)
os.set_blocking(fd, True)

class Alarm(Exception):
    pass

def on_alarm(*_):
    raise Alarm

signal.signal(signal.SIGALRM, on_alarm)
signal.setitimer(signal.ITIMER_REAL, 0.05)
try:
    os.read(fd, 9)
except Alarm:
    print("interrupted")
if (pid := os.fork()) == 0:
    os.read(fd, 9)
time.sleep(0.05)
os.kill(pid, signal.SIGKILL)
print(os.wait()[1])
os.write(fd, b"second")
print(os.read(fd, 9), open("/sys/devices/toy/value").read())
"""


def test_a_read_that_sleeps_lets_others_go_on(surface: Any) -> None:
    """It ends with data of another process, with EAGAIN when asked not to block, with EINTR, and with SIGKILL."""
    r = surface.run(PYTHON, "-c", BLOCKING)
    assert r.stdout.splitlines() == [
        "child b'first'",
        "[Errno 11] Resource temporarily unavailable",
        "interrupted",
        "9",
        "b'second' 1",
        "",
    ]
    assert r.returncode == 0
