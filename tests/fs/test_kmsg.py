"""/dev/kmsg and the device registry (kernel/printk/printk.c, fs/char_dev.c), devtmpfs."""

from __future__ import annotations

import errno
import os
import select

import pytest

import pykernel
from pykernel.fs.chardev import MAJOR, MINOR, MKDEV, Chrdevs, alloc_chrdev_region, unregister_chrdev_region
from pykernel.fs.rootfs import DevTmpFs
from pykernel.fs.vfs import File
from pykernel.log import DEBUG, ERR, INFO


@pytest.fixture
def kernel():
    k = pykernel.boot("dsa")
    k.up()
    yield k
    k.shutdown()


@pytest.fixture
def p(kernel):
    proc = kernel.process()
    yield proc
    proc.exit()


def code(fn, *args, **kw):
    try:
        return fn(*args, **kw)
    except OSError as e:
        return errno.errorcode[e.errno or 0]


def test_records_have_prefix_text_and_device(kernel, p):
    """Documentation/ABI/testing/dev-kmsg: prio,seq,usec,flags;text, one record a read, escapes, continuation lines."""
    fd = p.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
    p.lseek(fd, 0, os.SEEK_END)
    assert code(p.read, fd, 9999) == "EAGAIN"
    assert p.poll([(fd, select.POLLIN)], 0) == []
    seq = kernel.log.seq
    kernel.log.printk(ERR, "a\\b\n\x7fc", "pci", "+pci:0000:6a:01.0")
    kernel.log.printk(DEBUG, "next")
    assert p.poll([(fd, select.POLLIN)], 0) == [(fd, select.POLLIN)]
    text = f"3,{seq},0,-;a\\x5cb\\x0a\\x7fc\n SUBSYSTEM=pci\n DEVICE=+pci:0000:6a:01.0\n"
    assert p.read(fd, 9999) == text.encode()
    assert code(p.read, fd, 3) == "EINVAL"  # and that record is gone
    assert code(p.read, fd, 9999) == "EAGAIN"


@pytest.mark.parametrize(
    ("data", "level", "facility", "text"),
    [
        (b"plain\n", 4, 1, "plain"),
        (b"<3>bad", 3, 1, "bad"),
        (b"<30>daemon", 6, 3, "daemon"),
        (b"<>zero", 0, 1, "zero"),
        (b"<x>odd", 4, 1, "<x>odd"),
        (b"<5 open", 4, 1, "<5 open"),
        (b"a\0b", 4, 1, "a"),
        (b"", 4, 1, ""),
    ],
)
def test_writes_take_level_and_facility(kernel, p, data, level, facility, text):
    fd = p.open("/dev/kmsg", os.O_WRONLY)
    assert p.write(fd, data) == len(data)
    r = kernel.log.records[-1]
    assert (r.level, r.facility, r.text) == (level, facility, text)
    reader = p.open("/dev/kmsg")
    p.lseek(reader, 0, os.SEEK_END)
    p.write(fd, data)
    assert p.read(reader, 999).startswith(f"{facility << 3 | level},".encode())


def test_a_line_has_its_limit(p):
    fd = p.open("/dev/kmsg", os.O_WRONLY)
    assert p.write(fd, b"x" * 976) == 976
    assert code(p.write, fd, b"x" * 977) == "EINVAL"


def test_seeking(kernel, p):
    fd = p.open("/dev/kmsg", os.O_NONBLOCK)
    assert (code(p.lseek, fd, 1), code(p.lseek, fd, 0, os.SEEK_CUR)) == ("ESPIPE", "EINVAL")
    kernel.log.printk(INFO, "before")
    kernel.log.clear()
    kernel.log.printk(INFO, "after")
    assert p.lseek(fd, 0, os.SEEK_DATA) == 0
    assert b";after\n" in p.read(fd, 999)
    assert p.lseek(fd, 0, os.SEEK_SET) == 0
    assert p.pread(fd, 999, 0).split(b";")[0].split(b",")[1] == b"0"


def test_what_was_overwritten_is_epipe_once(kernel, p):
    fd = p.open("/dev/kmsg")
    for n in range(8200):
        kernel.log.printk(INFO, str(n))
    assert p.poll([(fd, select.POLLIN)], 0) == [(fd, select.POLLIN | select.POLLERR)]
    assert code(p.read, fd, 999) == "EPIPE"
    oldest = kernel.log.records[0]
    assert p.read(fd, 999).endswith(f";{oldest.text}\n".encode())


def test_a_reader_waits(kernel, p):
    fd = p.open("/dev/kmsg")
    p.lseek(fd, 0, os.SEEK_END)
    kernel.sched.call_later(5, lambda: kernel.log.printk(INFO, "came"))
    assert p.read(fd, 99).endswith(b";came\n")
    p.close(fd)
    assert all("KmsgFile" not in repr(x) for x in kernel.log.listeners)


def test_reading_is_for_who_may_and_the_mode_is_0644(kernel):
    """kernel.dmesg_restrict is 1, as Debian builds it: CAP_SYSLOG; writing is by the mode."""
    user = kernel.process(uid=1000)
    assert code(user.open, "/dev/kmsg") == "EPERM"
    assert code(user.open, "/dev/kmsg", os.O_WRONLY) == "EACCES"
    user.exit()


def test_numbers():
    assert (MAJOR(MKDEV(241, 7)), MINOR(MKDEV(241, 7))) == (241, 7)


def test_dynamic_majors_go_down_and_then_into_the_extended_range(kernel):
    """fs/char_dev.c:find_dynamic_major(): 254..234, 511..384, then EBUSY."""
    reg = kernel.sub(Chrdevs)
    taken = {MAJOR(r.dev) for r in reg.regions}
    free = [m for m in (*range(254, 233, -1), *range(511, 383, -1)) if m not in taken]
    assert [MAJOR(alloc_chrdev_region(kernel, 0, 4, "x")) for _ in free] == free
    assert code(alloc_chrdev_region, kernel, 0, 4, "x") == "EBUSY"
    unregister_chrdev_region(kernel, MKDEV(400, 0), 4)
    assert MAJOR(alloc_chrdev_region(kernel, 0, 4, "x")) == 400
    for major in free:
        unregister_chrdev_region(kernel, MKDEV(major, 0), 4)


def test_regions_may_not_overlap(kernel, p):
    reg = kernel.sub(Chrdevs)
    reg.register_region(MKDEV(300, 4), 4, "b")
    reg.register_region(MKDEV(300, 0), 4, "a")
    assert code(reg.register_region, MKDEV(300, 7), 1, "c") == "EBUSY"
    assert code(reg.register_region, MKDEV(512, 0), 1, "c") == "EINVAL"
    assert code(reg.register_region, MKDEV(301, 1), 1 << 20, "c") == "EINVAL"
    text = p.read_text("/proc/devices")
    assert text.startswith("Character devices:\n  1 mem\n")
    assert "300 a\n300 b\n" in text
    assert text.endswith("\nBlock devices:\n")
    for minor in (0, 4):
        unregister_chrdev_region(kernel, MKDEV(300, minor), 4)


def test_a_number_has_one_driver(kernel, p):
    reg = kernel.sub(Chrdevs)
    dev = MKDEV(300, 1)
    reg.add(dev, File)
    assert code(reg.add, dev, File) == "EBUSY"
    p.mknod("/tmp/c", 0o020600, os.makedev(300, 1))
    fd = p.open("/tmp/c", os.O_RDWR)
    assert (code(p.read, fd, 1), code(p.write, fd, b"x"), code(p.ioctl, fd, 1)) == ("EINVAL", "EINVAL", "ENOTTY")
    assert (code(p.mmap, 0, 4096, 1, 1, fd), code(p.listdir, fd), code(p.fsync, fd)) == ("ENODEV", "ENOTDIR", "EINVAL")
    reg.delete(dev)
    assert code(p.open, "/tmp/c") == "ENXIO"
    p.mknod("/tmp/b", 0o060600, os.makedev(300, 1))
    assert code(p.open, "/tmp/b") == "ENXIO"


def test_devtmpfs_makes_and_removes_its_own(kernel, p):
    """drivers/base/devtmpfs.c: directories on the way come and go; a node that somebody replaced stays."""
    tmp = kernel.sub(DevTmpFs)
    tmp.create_node("x/y/one", 0o600, MKDEV(300, 1))
    tmp.create_node("x/two", 0o640, MKDEV(300, 2))
    assert p.listdir("/dev/x") == ["y", "two"]
    assert oct(p.stat("/dev/x/two").st_mode) == "0o20640"
    assert oct(p.stat("/dev/x/y").st_mode) == "0o40755"
    tmp.delete_node("x/y/one", MKDEV(300, 1))
    assert p.listdir("/dev/x") == ["two"]
    tmp.delete_node("x/two", MKDEV(9, 9))
    assert p.listdir("/dev/x") == ["two"]
    for nothing in ("x/none", "none/none"):
        tmp.delete_node(nothing, MKDEV(300, 2))
    p.chmod("/dev/x/two", 0o666)
    tmp.delete_node("x/two", MKDEV(300, 2))
    assert "x" not in p.listdir("/dev")
