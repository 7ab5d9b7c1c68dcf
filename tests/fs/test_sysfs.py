"""sysfs: every kind of attribute under every kind of wrong use; directories, links, polling (fs/sysfs, fs/kernfs)."""

from __future__ import annotations

import errno
import os
import select
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import pykernel
from pykernel.errors import err
from pykernel.fs.kernfs import KernfsDir, name_hash
from pykernel.fs.sysfs import AttrGroup, Attribute, BinAttr, Kobject, Kset, SysFs, raw, sysfs_emit
from pykernel.fs.vfs import FsNotify

PRI = select.POLLPRI | select.POLLERR
ALL = select.POLLIN | select.POLLOUT | select.POLLPRI


class Thing(Kobject):
    """One of each."""

    attrs = (
        AttrGroup("ro", "rw", "wo", "big", "page", "raw_bytes", "bug", "fails", "both_missing"),
        AttrGroup("inner", name="group", modes={"inner": 0o400}),
        AttrGroup(name="empty"),
        AttrGroup("hidden"),
    )
    bin_attrs = (
        BinAttr("bin", 0o644, 8, read="bin_read", write="bin_write"),
        BinAttr("endless", 0o644, 0, read="bin_read", write="bin_write"),
        BinAttr("bin_ro", 0o644, lambda self: 4, read="bin_read"),
        BinAttr("bin_wo", 0o200, 4, write="bin_write"),
        BinAttr("bin_map", 0o600, 4096, mmap="bin_mmap"),
        BinAttr("bin_hidden", 0o600, 4),
    )

    def __init__(self, kernel, name="thing", parent=None, kset=None):
        super().__init__(kernel, name, parent, kset)
        self.stored = []
        self.text = "0\n"
        self.shows = 0
        self.data = bytearray(b"abcdefgh")
        self.released = 0
        self.maps = []

    def ro_show(self):
        self.shows += 1
        return f"{self.shows}\n"

    def rw_show(self):
        return self.text

    def rw_store(self, buf):
        self.stored.append(buf)
        self.text = buf

    def wo_store(self, buf):
        return 2

    def big_show(self):
        return "x" * 5000

    def page_show(self):
        return sysfs_emit("y" * 5000)

    def raw_bytes_show(self):
        return b"\x00\xff\n"

    def bug_show(self):
        raise KeyError("bug")

    def bug_store(self, buf):
        raise ValueError("bug")

    def fails_show(self):
        raise err(errno.EPERM)

    def fails_store(self, buf):
        raise err(errno.EBUSY)

    def both_missing_show(self):
        return "\n"

    def inner_show(self):
        return "in\n"

    def hidden_show(self):
        return "never"

    def attr_is_visible(self, name):
        return name != "hidden"

    def bin_is_visible(self, name):
        return name != "bin_hidden"

    def bin_read(self, file, off, count):
        return bytes(self.data[off : off + count])

    def bin_write(self, file, off, data):
        self.data[off : off + len(data)] = data
        return len(data)

    def bin_mmap(self, vma):
        self.maps.append(vma)
        raise err(errno.ENXIO)

    def release(self):
        self.released += 1


@pytest.fixture
def world():
    kernel = pykernel.boot("dsa")
    thing = Thing(kernel)
    thing.add()
    p = kernel.process()
    yield kernel, thing, p
    p.exit()
    kernel.shutdown()


def code(fn, *args, **kw):
    try:
        return fn(*args, **kw)
    except OSError as e:
        return errno.errorcode[e.errno or 0]


def test_the_directory_in_the_order_of_hashes(world):
    """fs/kernfs/dir.c: readdir() goes by hash; modes, sizes and link counts are as sysfs makes them."""
    _, _, p = world
    names = p.listdir("/sys/thing")
    assert names == sorted(names, key=lambda n: (name_hash(n), n))
    assert set(names) == {
        "ro", "rw", "wo", "big", "page", "raw_bytes", "bug", "fails", "both_missing", "group", "empty", "bin",
        "endless",
        "bin_ro", "bin_wo", "bin_map",
    }  # fmt: skip
    assert p.listdir("/sys/thing/group") == ["inner"]
    assert p.listdir("/sys/thing/empty") == []
    modes = {n: oct(p.stat(f"/sys/thing/{n}").st_mode & 0o7777) for n in ("ro", "rw", "wo", "bin_wo", "group/inner")}
    assert modes == {"ro": "0o444", "rw": "0o644", "wo": "0o200", "bin_wo": "0o200", "group/inner": "0o400"}
    assert [p.stat(f"/sys/thing/{n}").st_size for n in ("ro", "bin", "bin_ro", "endless")] == [4096, 8, 4, 0]
    assert p.stat("/sys/thing").st_nlink == 4
    assert p.statfs("/sys/thing/ro").type == 0x62656572


STORES = [
    b"", b"\0", b"\n", b"a", b"a\0b", b"a\n", b"\xff\xfe", b"x" * 4095, b"x" * 4096, b"x" * 4097, b"x" * 10000,
]  # fmt: skip


@pytest.mark.parametrize("data", STORES, ids=lambda d: f"{d[:4]!r}{len(d)}")
def test_a_store_gets_the_text_up_to_its_nul_and_one_page_at_most(world, data):
    """fs/kernfs/file.c:kernfs_fop_write_iter(), fs/sysfs/file.c:sysfs_kf_write(): nothing is not stored at all."""
    _, thing, p = world
    fd = p.open("/sys/thing/rw", os.O_WRONLY)
    assert p.write(fd, data) == min(len(data), 4096)
    if not data:
        assert thing.stored == []
        return
    whole = data[:4096].decode("latin-1")
    assert thing.stored == [whole.partition("\0")[0]]
    assert raw(thing.stored[0]) == whole


def test_a_store_may_take_less(world):
    _, _, p = world
    assert p.write(p.open("/sys/thing/wo", os.O_WRONLY), b"12345") == 2


def test_the_position_of_a_write_is_not_looked_at(world):
    _, thing, p = world
    fd = p.open("/sys/thing/rw", os.O_RDWR)
    assert p.pwrite(fd, b"at 100", 100) == 6
    p.lseek(fd, 5000)
    assert p.write(fd, b"far") == 3
    assert thing.stored == ["at 100", "far"]
    assert p.lseek(fd, 0, os.SEEK_CUR) == 5003


def test_reads_at_all_offsets(world):
    """fs/seq_file.c: a read at 0 or off the path asks show() again; the rest comes from the buffer."""
    _, thing, p = world
    fd = p.open("/sys/thing/ro")
    assert [p.read(fd, 1), p.read(fd, 1), p.read(fd, 1), thing.shows] == [b"1", b"\n", b"", 1]
    assert [p.pread(fd, 9, 0), p.pread(fd, 1, 1), p.pread(fd, 9, 77), thing.shows] == [b"2\n", b"\n", b"", 4]
    assert [p.read(fd, 0), thing.shows] == [b"", 4]
    p.lseek(fd, 0)
    assert p.read(fd, 9) == b"5\n"


def test_a_show_has_one_page_less_one(world):
    """More is cut and told: fs/sysfs/file.c:sysfs_kf_seq_show()."""
    kernel, _, p = world
    assert len(p.read_text("/sys/thing/big")) == 4095
    assert "fill_read_buffer: big_show returned bad count" in kernel.log.human()
    assert len(p.read_text("/sys/thing/page")) == 4095
    assert p.read(p.open("/sys/thing/raw_bytes"), 9) == b"\x00\xff\n"


def test_open_asks_for_the_methods_even_of_root(world):
    """KERNFS_ROOT_EXTRA_OPEN_PERM_CHECK: mode bits and methods, for root too; chmod opens the first, not the second."""
    _, _, p = world
    got = {
        (n, f): code(p.open, f"/sys/thing/{n}", f)
        for n in ("ro", "wo", "rw", "bin_ro", "bin_wo", "bin_map")
        for f in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR)
    }
    assert {k: v for k, v in got.items() if v == "EACCES"}.keys() == {
        ("ro", os.O_WRONLY), ("ro", os.O_RDWR), ("wo", os.O_RDONLY), ("wo", os.O_RDWR), ("bin_ro", os.O_WRONLY),
        ("bin_ro", os.O_RDWR), ("bin_wo", os.O_RDONLY), ("bin_wo", os.O_RDWR),
    }  # fmt: skip
    p.chmod("/sys/thing/ro", 0o666)
    p.chmod("/sys/thing/wo", 0o666)
    assert code(p.write, p.open("/sys/thing/ro", os.O_WRONLY), b"x") == "EIO"
    assert code(p.read, p.open("/sys/thing/wo"), 9) == "EIO"
    assert code(p.read, got["ro", os.O_RDONLY], 1) != "EBADF"
    assert code(p.write, got["ro", os.O_RDONLY], b"x") == "EBADF"
    assert code(p.read, got["rw", os.O_WRONLY], 1) == "EBADF"


def test_driver_errnos_and_bugs(world):
    kernel, _, p = world
    fd = p.open("/sys/thing/fails", os.O_RDWR)
    assert (code(p.read, fd, 9), code(p.write, fd, b"x")) == ("EPERM", "EBUSY")
    assert not kernel.oopses
    fd = p.open("/sys/thing/bug", os.O_RDWR)
    assert (code(p.read, fd, 9), code(p.write, fd, b"x")) == ("EIO", "EIO")
    assert [type(e) for e in kernel.oopses] == [KeyError, ValueError]
    assert "bug_show" in kernel.log.human()


@pytest.mark.parametrize(
    ("off", "count", "want"),
    [(0, 3, b"abc"), (6, 9, b"gh"), (8, 1, b""), (9, 1, b""), (0, 0, b""), (0, 9999, b"abcdefgh")],
)
def test_binary_reads(world, off, count, want):
    _, _, p = world
    assert p.pread(p.open("/sys/thing/bin"), count, off) == want


def test_binary_writes(world):
    _, thing, p = world
    fd = p.open("/sys/thing/bin", os.O_RDWR)
    assert p.pwrite(fd, b"XYZ", 6) == 2
    assert bytes(thing.data) == b"abcdefXY"
    assert [code(p.pwrite, fd, d, 8) for d in (b"x", b"")] == ["EFBIG", "EFBIG"]
    assert p.pwrite(fd, b"", 3) == 0
    big = p.open("/sys/thing/endless", os.O_RDWR)
    assert p.write(big, b"z" * 5000) == 4096
    assert len(p.pread(big, 9999, 0)) == 4096
    mapped = p.open("/sys/thing/bin_map", os.O_RDWR)
    assert (code(p.read, mapped, 1), code(p.write, mapped, b"x"), p.read(mapped, 0)) == ("EIO", "EIO", b"")


def test_mmap(world):
    """Text has none, a binary file only where it says; noexec forbids PROT_EXEC."""
    _, thing, p = world
    assert code(p.mmap, 0, 4096, 1, 1, p.open("/sys/thing/rw", os.O_RDWR)) == "ENODEV"
    assert code(p.mmap, 0, 4096, 1, 1, p.open("/sys/thing/bin", os.O_RDWR)) == "ENODEV"
    fd = p.open("/sys/thing/bin_map", os.O_RDWR)
    assert code(p.mmap, 0, 4096, 1, 1, fd) == "ENXIO"
    assert code(p.mmap, 0, 4096, 5, 1, fd) == "EPERM"
    assert code(p.mmap, 0, 4096, 1, 1, p.open("/sys/thing")) == "ENODEV"
    assert code(p.mmap, 0, 4096, 1, 1, 99) == "EBADF"
    assert code(p.mmap, 0, 4096, 1, 1, fd, 5) == "EINVAL"
    assert len(thing.maps) == 1


def test_nothing_can_be_made_or_removed(world):
    """fs/namei.c: sysfs has no such operations; create EACCES, the others EPERM; by name for what exists or not."""
    _, _, p = world
    d, f = "/sys/thing/new", "/sys/thing/rw"
    assert {
        "create": code(p.open, d, os.O_CREAT | os.O_WRONLY),
        "mknod": code(p.mknod, d),
        "fifo": code(p.mknod, d, 0o010600),
        "mkdir": code(p.mkdir, d),
        "symlink": code(p.symlink, "x", d),
        "link": code(p.link, f, d),
        "unlink": code(p.unlink, f),
        "rmdir": code(p.rmdir, "/sys/thing/group"),
        "rename": code(p.rename, f, d),
        "exists": code(p.mkdir, f),
        "unlink dir": code(p.unlink, "/sys/thing/group"),
        "rmdir file": code(p.rmdir, f),
        "none": code(p.unlink, d),
        "other fs": code(p.rename, f, "/tmp/x"),
        "link other fs": code(p.link, f, "/tmp/x"),
        "tmpfile": code(p.open, "/sys/thing", os.O_TMPFILE | os.O_RDWR),
        "mount point": code(p.rmdir, "/sys"),
        "rename mount": code(p.rename, "/tmp", "/t"),
    } == {
        "create": "EACCES", "mknod": "EACCES", "fifo": "EPERM", "mkdir": "EPERM", "symlink": "EPERM", "link": "EPERM",
        "unlink": "EPERM", "rmdir": "EPERM", "rename": "EPERM", "exists": "EEXIST", "unlink dir": "EISDIR",
        "rmdir file": "ENOTDIR", "none": "ENOENT", "other fs": "EXDEV", "link other fs": "EXDEV",
        "tmpfile": "ENOTSUP", "mount point": "EBUSY", "rename mount": "EBUSY",
    }  # fmt: skip


def test_truncation_is_accepted_and_does_nothing(world):
    _, thing, p = world
    fd = p.open("/sys/thing/rw", os.O_WRONLY | os.O_TRUNC)
    p.truncate("/sys/thing/rw", 0)
    p.ftruncate(fd, 12345)
    assert p.fstat(fd).st_size == 4096
    assert thing.stored == []
    assert code(p.truncate, "/sys/thing", 0) == "EISDIR"
    assert code(p.fallocate, fd, 0, 0, 1) == "ENOTSUP"
    assert code(p.fallocate, p.open("/sys/thing/ro"), 0, 0, 1) == "EBADF"


def test_what_was_open_when_it_went(world):
    """After kernfs_drain(): data ENODEV, poll wakes, fstat and close work, the path is gone."""
    kernel, thing, p = world
    rw, ro, b = (p.open(f"/sys/thing/{n}", f) for n, f in (("rw", os.O_RDWR), ("ro", os.O_RDONLY), ("bin", os.O_RDWR)))
    d = p.open("/sys/thing")
    node = kernel.sub(SysFs).node("/thing/rw")
    assert p.read(ro, 1) == b"1"
    p.poll([(ro, ALL)], 0)
    p.chdir("/sys/thing")
    thing.delete()
    assert [code(p.read, fd, 9) for fd in (rw, b)] == ["ENODEV"] * 2
    assert [code(p.write, fd, b"x") for fd in (rw, b)] == ["ENODEV"] * 2
    assert p.read(ro, 9) == b"\n"  # what the buffer still has
    assert code(p.read, ro, 9) == "ENODEV"
    assert p.read(ro, 0) == b""
    assert p.poll([(ro, ALL)], 0) == [(ro, ALL | select.POLLERR)]
    assert p.fstat(rw).st_size == 4096
    assert p.fstat(d).st_nlink == 2
    assert p.listdir(d) == []
    assert code(p.stat, "/sys/thing") == "ENOENT"
    assert code(p.stat, "rw") == "ENOENT"
    assert code(p.getcwd) == "ENOENT"
    assert code(p.ftruncate, rw, 0) is None
    assert code(node.open, 0) == "ENODEV"
    with pytest.raises(OSError, match="No such device"):
        _ = thing.dir
    node.remove()
    thing.delete()
    thing.remove_link("x")


def test_poll_tells_of_a_change_once_it_was_read(world):
    """fs/kernfs/file.c:kernfs_generic_poll(): POLLPRI until the next read; other attributes stay still."""
    kernel, thing, p = world
    fd, other = p.open("/sys/thing/ro"), p.open("/sys/thing/rw")
    assert p.poll([(fd, ALL)], 0) == [(fd, ALL | select.POLLERR)]
    p.read(fd, 9)
    p.read(other, 9)
    assert p.poll([(fd, PRI)], 0) == []
    kernel.sched.call_later(50, lambda: thing.sysfs_notify("ro"))
    assert p.poll([(fd, PRI), (other, PRI)], None) == [(fd, PRI)]
    assert kernel.sched.clock_ns() == 50
    assert p.poll([(fd, PRI)], 0) == [(fd, PRI)]
    p.pread(fd, 9, 0)
    assert p.poll([(fd, PRI)], 0) == []
    thing.sysfs_notify("nothing")


def test_fsnotify_tells_of_nodes(world):
    kernel, _, p = world
    p.listdir("/sys/kernel")
    heard = []
    kernel.sub(FsNotify).subscribe(lambda event, parent, name, inode: heard.append((event, name)))
    kid = Thing(kernel, "kid", kernel.sub(SysFs).top["kernel"])
    kid.add()
    p.listdir("/sys/kernel/kid/group")
    kid.sysfs_notify("rw")
    kid.delete()
    assert ("add", "kid") in heard
    assert ("modify", "rw") in heard
    assert heard[-1] == ("remove", "kid")
    assert heard.index(("remove", "rw")) < len(heard) - 1


def test_links(world):
    """Relative text, size 0, both ends; gone with either; a removed target is ENOENT to follow."""
    kernel, thing, p = world
    top = kernel.sub(SysFs).top["kernel"]
    kid = Thing(kernel, "kid", thing)
    kid.add()
    thing.create_link(kid, "down")
    kid.create_link(top, "up")
    assert p.readlink("/sys/thing/down") == "kid"
    assert p.readlink("/sys/thing/kid/up") == "../../kernel"
    assert p.lstat("/sys/thing/down").st_size == 0
    assert p.read_text("/sys/thing/down/group/inner") == "in\n"
    assert p.realpath("/sys/thing/down/up/../thing/down") == "/sys/thing/kid"
    with pytest.raises(FileExistsError):
        thing.create_link(kid, "down")
    kernel.sub(SysFs).root.create_link("at_root", kid.dir)
    assert p.readlink("/sys/at_root") == "thing/kid"
    kid.delete()
    assert code(p.stat, "/sys/thing/down") == "ENOENT"
    assert p.readlink("/sys/thing/down") == "kid"
    thing.remove_link("down")
    thing.remove_link("down")
    assert code(p.lstat, "/sys/thing/down") == "ENOENT"


def test_files_made_later(world):
    kernel, thing, p = world
    thing.create_file(Attribute("later", lambda self: "now\n", None, 0o444))
    thing.create_bin_file(BinAttr("later_bin", 0o444, 3, read="bin_read"))
    assert p.read_text("/sys/thing/later") == "now\n"
    assert p.read(p.open("/sys/thing/later_bin"), 9) == b"abc"
    with pytest.raises(FileExistsError):
        thing.create_file(Attribute("later", None, None, 0))
    thing.remove_file("later")
    assert code(p.stat, "/sys/thing/later") == "ENOENT"
    node = kernel.sub(SysFs).node("/thing")
    assert isinstance(node, KernfsDir)
    with pytest.raises(FileNotFoundError):
        node.remove_by_name("later")
    node.rename_child("rw", "renamed")
    assert p.read_text("/sys/thing/renamed") == "0\n"
    with pytest.raises(FileExistsError):
        node.rename_child("renamed", "ro")


def test_names(world):
    """lib/kobject.c: a slash becomes "!", a taken name is told in dmesg, no name is EINVAL."""
    kernel, _, p = world
    Thing(kernel, "a/b").add()
    assert "a!b" in p.listdir("/sys")
    with pytest.raises(FileExistsError):
        Thing(kernel, "a!b").add()
    assert "kobject_add_internal failed for a!b with -EEXIST" in kernel.log.human()
    with pytest.raises(OSError, match="Invalid argument"):
        Thing(kernel, "").add()
    gone = Thing(kernel, "gone")
    gone.add()
    where = gone.dir
    gone.delete()
    with pytest.raises(FileNotFoundError):
        where.create_dir("late")


def test_references_and_ksets(world):
    kernel, _, p = world
    kset = Kset(kernel, "set")
    kset.add()
    kid = Thing(kernel, "kid", kset=kset)
    kid.add()
    assert kid.path() == "/set/kid"
    assert kid.get() is kid
    counts = []
    for _ in range(2):
        kid.put()
        counts.append(kid.released)
    assert counts == [0, 1]
    assert p.listdir("/sys/set") == ["kid"]


def test_a_class_whose_names_and_methods_differ_is_refused():
    with pytest.raises(TypeError, match="missing"):
        type("Bad", (Kobject,), {"attrs": AttrGroup("missing")})
    with pytest.raises(TypeError, match="unlisted"):
        type("Bad", (Kobject,), {"unlisted_show": lambda self: ""})
    with pytest.raises(TypeError):
        type("Bad", (Kobject,), {"attrs": AttrGroup("a", "a"), "a_show": lambda self: ""})


def test_a_subclass_inherits_and_overrides():
    base: Any = type("Base", (Kobject,), {"attrs": AttrGroup("a"), "a_show": lambda self: "base"})
    sub: Any = type(
        "Sub", (base,), {"attrs": AttrGroup("b"), "b_store": lambda self, buf: None, "a_show": lambda self: "sub"}
    )
    assert [(a.name, a.mode) for a in sub._tables[""]] == [("a", 0o444), ("b", 0o200)]
    assert sub._tables[""][0].show(None) == "sub"


def test_extended_attributes(world):
    """trusted and security are kept; user is not kept by sysfs; who is not the administrator sees no trusted ones."""
    kernel, _, p = world
    f, link = "/sys/thing/rw", "/sys/bus/pci/devices/0000:6a:01.0"
    assert code(p.getxattr, f, "trusted.a") == "ENODATA"
    p.setxattr(f, "trusted.a", b"1")
    p.setxattr(f, "security.b", b"2")
    assert code(p.setxattr, f, "trusted.a", b"", 1) == "EEXIST"
    assert code(p.setxattr, f, "trusted.z", b"", 2) == "ENODATA"
    assert code(p.setxattr, f, "user.x", b"") == "ENOTSUP"
    assert code(p.removexattr, f, "user.x") == "ENOTSUP"
    assert code(p.getxattr, f, "odd.x") == "ENOTSUP"
    assert (p.getxattr(f, "trusted.a"), p.listxattr(f)) == (b"1", ["trusted.a", "security.b"])
    user = kernel.process(uid=1000)
    assert user.listxattr(f) == ["security.b"]
    assert code(user.getxattr, f, "trusted.a") == "ENODATA"
    assert code(user.setxattr, f, "trusted.a", b"") == "EPERM"
    assert code(user.setxattr, f, "security.a", b"") == "EPERM"
    assert code(user.setxattr, f, "user.a", b"") == "EACCES"
    assert user.getxattr(f, "security.b") == b"2"
    assert code(user.setxattr, link, "user.a", b"", follow=False) == "EPERM"
    assert code(user.getxattr, link, "user.a", follow=False) == "ENODATA"
    assert code(user.setxattr, "/tmp", "user.a", b"") == "EPERM"
    p.removexattr(f, "trusted.a")
    assert code(p.removexattr, f, "trusted.a") == "ENODATA"
    assert code(p.setxattr, "/tmp", "trusted.a", b"") == "ENOTSUP"
    assert code(p.removexattr, "/tmp", "trusted.a") == "ENOTSUP"
    assert (p.listxattr("/tmp"), code(p.getxattr, "/tmp", "trusted.a")) == ([], "ENODATA")
    user.exit()


def test_directories_and_seeking(world):
    _, _, p = world
    d = p.open("/sys/thing")
    assert (code(p.read, d, 1), code(p.fsync, d), code(p.write, d, b"x")) == ("EISDIR", "EINVAL", "EBADF")
    fd = p.open("/sys/thing/rw", os.O_RDWR | os.O_APPEND)
    assert [code(p.lseek, fd, *a) for a in ((-1, 2), (1 << 31, 0), (-1, 0), (7, 3), (7, 4), (4096, 3))] == [
        4095, "EINVAL", "EINVAL", 7, 4096, "ENXIO",
    ]  # fmt: skip
    p.lseek(fd, 5)
    p.write(fd, b"ab")
    assert p.lseek(fd, 0, 1) == 7  # O_APPEND means nothing here
    assert p.fsync(fd) is None
    with pytest.raises(OSError, match="Not a directory"):
        p.listdir("/sys/thing/rw")


@given(st.text(st.characters(max_codepoint=255), min_size=1, max_size=20))
def test_a_hash_is_in_its_range(name):
    """fs/kernfs/dir.c:kernfs_name_hash(): 0, 1 and INT_MAX are kept for the ends."""
    assert 2 <= name_hash(name) < (1 << 31) - 1
