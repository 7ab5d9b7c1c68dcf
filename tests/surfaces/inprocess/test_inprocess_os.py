"""os on emulated paths: what Linux answers, the same as on the direct surface."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import tempfile

import pytest

pytestmark = pytest.mark.kernel(machine="dsa")


def test_open_read_seek_close(calls, wq):
    """An attribute is a short file with a position."""
    fd = calls.open(f"{wq}/type", os.O_RDONLY)
    assert calls.read(fd, 2) == b"no"
    assert calls.read(fd, 100) == b"ne\n"
    assert calls.read(fd, 100) == b""
    assert calls.lseek(fd, 1, os.SEEK_SET) == 1
    assert calls.read(fd, 3) == b"one"
    assert calls.pread(fd, 3, 0) == b"non"
    calls.close(fd)


def test_a_closed_descriptor_is_no_descriptor(calls, wq, raises_errno):
    fd = calls.open(f"{wq}/type", os.O_RDONLY)
    calls.close(fd)
    raises_errno(errno.EBADF, calls.close, fd)
    raises_errno(errno.EBADF, calls.read, fd, 1)
    raises_errno(errno.EBADF, calls.fstat, fd)


def test_store(calls, wq):
    fd = calls.open(f"{wq}/priority", os.O_RDWR)
    assert calls.write(fd, b"7\n") == 2
    assert calls.pread(fd, 10, 0) == b"7\n"
    calls.close(fd)


@pytest.mark.parametrize(
    ("flags", "name", "code"),
    [
        (os.O_WRONLY, "state", errno.EACCES),
        (os.O_RDONLY, "nothing", errno.ENOENT),
        (os.O_RDONLY, "type/x", errno.ENOTDIR),
        (os.O_WRONLY | os.O_CREAT, "nothing", errno.EACCES),
        (os.O_RDONLY | os.O_DIRECTORY, "type", errno.ENOTDIR),
        (os.O_WRONLY, "", errno.EISDIR),
        (os.O_RDONLY | os.O_NOFOLLOW, "subsystem", errno.ELOOP),
    ],
)
def test_open_refuses(calls, wq, raises_errno, flags, name, code):
    """fs/namei.c, and sysfs' own check that root is held to the mode of a file."""
    raises_errno(code, calls.open, f"{wq}/{name}".rstrip("/"), flags)


@pytest.mark.parametrize(
    ("call", "args", "code"),
    [
        ("mkdir", ("{}/new",), errno.EPERM),
        ("mkdir", ("{}/type",), errno.EEXIST),
        ("rmdir", ("{}/power",), errno.EPERM),
        ("rmdir", ("{}/type",), errno.ENOTDIR),
        ("unlink", ("{}/type",), errno.EPERM),
        ("unlink", ("{}/power",), errno.EISDIR),
        ("unlink", ("{}/nothing",), errno.ENOENT),
        ("rename", ("{}/type", "{}/new"), errno.EPERM),
        ("link", ("{}/type", "{}/new"), errno.EPERM),
        ("symlink", ("target", "{}/new"), errno.EPERM),
        ("readlink", ("{}/type",), errno.EINVAL),
        ("truncate", ("{}/power", 0), errno.EISDIR),
        ("chdir", ("{}/type",), errno.ENOTDIR),
    ],
)
def test_what_sysfs_refuses(calls, wq, raises_errno, call, args, code):
    real = os.path.realpath(wq)
    raises_errno(code, getattr(calls, call), *(a.format(real) if isinstance(a, str) else a for a in args))


def test_stat(calls, wq):
    st = calls.stat(f"{wq}/type")
    assert (stat.S_ISREG(st.st_mode), stat.S_IMODE(st.st_mode), st.st_size, st.st_nlink) == (True, 0o644, 4096, 1)
    assert stat.S_ISLNK(calls.lstat(wq).st_mode)
    assert stat.S_ISDIR(calls.stat(wq).st_mode)
    assert calls.stat(wq).st_ino == calls.stat(calls.readlink(wq).replace("../../..", "/sys", 1)).st_ino


def test_mode_and_owner_are_kept(calls, wq):
    calls.chmod(f"{wq}/type", 0o600)
    calls.chown(f"{wq}/type", 5, 6)
    st = calls.stat(f"{wq}/type")
    assert (stat.S_IMODE(st.st_mode), st.st_uid, st.st_gid) == (0o600, 5, 6)


def test_a_duplicate_shares_the_position(calls, wq):
    fd = calls.open(f"{wq}/type", os.O_RDONLY)
    other = calls.dup(fd)
    assert (calls.read(fd, 2), calls.read(other, 2)) == (b"no", b"ne")
    calls.close(fd)
    assert calls.read(other, 2) == b"\n"
    calls.close(other)


def test_listdir(calls, wq):
    names = calls.listdir(wq)
    assert {"type", "size", "subsystem", "uevent"} <= set(names)
    assert calls.listdir("/sys/bus/dsa/drivers") != []


def test_errors_name_the_path(kernel, wq):
    for call in (os.stat, os.listdir, os.readlink, os.scandir, os.statvfs):
        with pytest.raises(FileNotFoundError) as e:
            call("/sys/nothing")
        assert e.value.filename == "/sys/nothing"
    with pytest.raises(PermissionError) as refused:
        os.rename(f"{wq}/type", f"{wq}/new")
    assert (refused.value.filename, refused.value.filename2) == (f"{wq}/type", f"{wq}/new")


def test_bytes_and_path_like(kernel, wq):
    """Names come back as what was asked with."""
    assert {type(n) for n in os.listdir(os.fsencode(wq))} == {bytes}
    assert {type(e.name) for e in os.scandir(os.fsencode(wq))} == {bytes}
    fd = os.open(os.fsencode(f"{wq}/type"), os.O_RDONLY)
    os.close(fd)


def test_scandir(kernel, wq):
    with os.scandir(wq) as entries:
        kinds = {e.name: (e.is_dir(), e.is_file(), e.is_symlink()) for e in entries}
    assert kinds["type"] == (False, True, False)
    assert kinds["power"] == (True, False, False)
    assert kinds["subsystem"] == (True, False, True)
    assert {e.inode() for e in os.scandir(wq)} == {os.lstat(f"{wq}/{n}").st_ino for n in os.listdir(wq)}


def test_walk_and_fwalk(kernel):
    seen = {top: set(files) for top, _, files in os.walk("/sys/bus/dsa")}
    assert "bind" in seen["/sys/bus/dsa/drivers/idxd"]
    by_fd = {top: set(files) for top, _, files, _ in os.fwalk("/sys/bus/dsa")}
    assert by_fd == seen


def test_relative_to_a_directory(kernel, wq, raises_errno):
    fd = os.open(wq, os.O_RDONLY | os.O_DIRECTORY)
    attr = os.open("type", os.O_RDONLY, dir_fd=fd)
    assert os.read(attr, 9) == b"none\n"
    assert os.stat("type", dir_fd=fd).st_ino == os.fstat(attr).st_ino
    assert os.readlink("subsystem", dir_fd=fd).endswith("/bus/dsa")
    assert os.access("type", os.R_OK, dir_fd=fd)
    raises_errno(errno.ENOTDIR, os.open, "x", os.O_RDONLY, dir_fd=attr)
    raises_errno(errno.EPERM, os.mkdir, "x", dir_fd=fd)
    assert sorted(os.listdir(fd)) == sorted(os.listdir(wq))
    os.close(attr)
    os.close(fd)


def test_current_directory(kernel, wq):
    before = os.getcwd()
    os.chdir(wq)
    try:
        assert os.getcwd() == os.path.realpath(wq)
        assert os.path.abspath("type") == os.path.realpath(f"{wq}/type")
        with open("type") as f:
            assert f.read() == "none\n"
        assert "dsa0" in os.listdir("../..")
    finally:
        os.chdir(before)
    assert os.getcwd() == before
    assert not os.path.exists("type")


def test_os_path(kernel, wq):
    assert os.path.exists(wq)
    assert os.path.isdir(wq)
    assert os.path.isfile(f"{wq}/type")
    assert os.path.islink(wq)
    assert os.path.realpath(wq) == "/sys/devices/pci0000:6a/0000:6a:01.0/dsa0/wq0.0"
    assert os.path.samefile(wq, os.path.realpath(wq))
    assert not os.path.exists("/sys/kernel/mm/nothing")
    assert os.path.getsize(f"{wq}/type") == 4096


def test_vectors(kernel, wq):
    fd = os.open(f"{wq}/type", os.O_RDWR)
    parts = [bytearray(2), bytearray(9)]
    assert os.readv(fd, parts) == 5
    assert parts[0] + parts[1][:3] == b"none\n"
    assert os.preadv(fd, [head := bytearray(3)], 1) == 3
    assert head == b"one"
    assert os.writev(fd, [b"us", b"er"]) == 4
    assert os.pread(fd, 9, 0) == b"user\n"
    os.close(fd)


def test_copies_between_the_worlds(kernel, wq, tmp_path):
    target = tmp_path / "copy"
    shutil.copyfile(f"{wq}/type", target)
    assert target.read_text() == "none\n"
    with open(f"{wq}/type", "rb") as src, open(target, "r+b") as dst:
        assert os.sendfile(dst.fileno(), src.fileno(), 0, 100) == 5
        assert os.copy_file_range(src.fileno(), dst.fileno(), 2) == 2
    assert target.read_bytes() == b"none\nno"
    with tempfile.TemporaryFile() as f:
        assert f.write(b"plain") == 5


def test_between_the_worlds_is_another_device(kernel, wq, tmp_path, raises_errno):
    (tmp_path / "f").write_text("")
    raises_errno(errno.EXDEV, os.rename, f"{wq}/type", tmp_path / "x")
    raises_errno(errno.EXDEV, os.link, tmp_path / "f", "/sys/new")
    raises_errno(errno.ENOENT, os.link, "/sys/nothing", tmp_path / "x")
    raises_errno(errno.EEXIST, os.link, f"{wq}/type", tmp_path / "f")


def test_device_directory(kernel):
    """devtmpfs takes new nodes."""
    os.mknod("/dev/mine", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    assert os.stat("/dev/mine").st_rdev == os.makedev(1, 3)
    os.makedirs("/dev/a/b")
    os.symlink("../mine", "/dev/a/link")
    assert os.path.realpath("/dev/a/link") == "/dev/mine"
    os.rename("/dev/mine", "/dev/a/b/moved")
    assert os.listdir("/dev/a/b") == ["moved"]
    shutil.rmtree("/dev/a")
    assert not os.path.exists("/dev/a")


def test_extended_attributes(kernel, wq, raises_errno):
    assert os.listxattr(f"{wq}/type") == []
    raises_errno(errno.ENODATA, os.getxattr, f"{wq}/type", "trusted.x")
    raises_errno(errno.EOPNOTSUPP, os.setxattr, f"{wq}/type", "user.x", b"v")


def test_times(kernel, wq):
    os.utime(f"{wq}/type", ns=(5, 7))
    st = os.stat(f"{wq}/type")
    assert (st.st_atime_ns, st.st_mtime_ns) == (5, 7)
    with pytest.raises(ValueError, match="both"):
        os.utime(f"{wq}/type", (1, 2), ns=(1, 2))


def test_file_system(kernel, wq):
    assert os.statvfs(wq).f_namemax == 255
    fd = os.open(f"{wq}/type", os.O_RDONLY)
    assert os.fstatvfs(fd).f_bsize == 4096
    os.close(fd)


def test_numbers_never_collide(kernel, wq):
    """A real file that is opened between gets another number, and reads its own text."""
    ours = os.open(f"{wq}/type", os.O_RDONLY)
    r, w = os.pipe()
    again = os.open(f"{wq}/type", os.O_RDONLY)
    assert len({ours, r, w, again}) == 4
    os.write(w, b"real")
    assert os.read(r, 9) == b"real"
    assert os.read(again, 9) == b"none\n"
    for fd in (ours, r, w, again):
        os.close(fd)


def test_dup2_in_both_directions(kernel, wq):
    ours = os.open(f"{wq}/type", os.O_RDONLY)
    r, w = os.pipe()
    assert os.dup2(ours, r) == r
    assert os.read(r, 9) == b"none\n"
    assert os.dup2(w, ours) == ours
    os.close(w)
    os.closerange(min(r, ours), max(r, ours) + 1)
    for fd in (r, ours):
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)


def test_a_nul_is_refused_as_ever(kernel):
    for path in ("/sys/a\0b", "/dev/a\0b"):
        with pytest.raises(ValueError, match="null byte"):
            os.stat(path)


def test_what_was_found_before_is_gone_with_its_device(kernel, wq):
    """Looking a path up again is free, and never finds what is not there any more."""
    pci, attr = "/sys/bus/pci/devices/0000:6a:01.0", f"{wq}/type"
    first = os.stat(attr)
    assert os.stat(attr) == first
    with open(f"{pci}/remove", "w") as f:
        f.write("1")
    for path in (attr, wq, f"{pci}/vendor"):
        assert not os.path.lexists(path)
    with open("/sys/bus/pci/rescan", "w") as f:
        f.write("1")
    assert os.stat(attr).st_ino != first.st_ino
