"""Questions on sysfs as a file system: opening, reading, writing, seeking, polling, names, metadata, refusals.

Their subject is the directory of QEMU's ``edu`` function (1234:11e8): ``vendor`` is a read-only attribute of seven
bytes, ``driver_override`` a writable text, ``config`` a binary attribute of 256 bytes, ``bind`` of a driver one that is
only written.
"""

from __future__ import annotations

import array
import fcntl
import mmap
import os
import select
import stat
import termios
from collections.abc import Callable

from probing import Probe, call, kind, opened, read_all, read_text, write_text
from subject import DRIVER, PLATFORM, Subject

OPEN_FLAGS = {
    "O_RDONLY": os.O_RDONLY,
    "O_WRONLY": os.O_WRONLY,
    "O_RDWR": os.O_RDWR,
    "access mode 3": 3,
    "O_WRONLY|O_TRUNC": os.O_WRONLY | os.O_TRUNC,
    "O_RDONLY|O_TRUNC": os.O_RDONLY | os.O_TRUNC,
    "O_WRONLY|O_APPEND": os.O_WRONLY | os.O_APPEND,
    "O_WRONLY|O_CREAT": os.O_WRONLY | os.O_CREAT,
    "O_WRONLY|O_CREAT|O_EXCL": os.O_WRONLY | os.O_CREAT | os.O_EXCL,
    "O_RDONLY|O_CREAT": os.O_RDONLY | os.O_CREAT,
    "O_DIRECTORY": os.O_DIRECTORY,
    "O_DIRECTORY|O_WRONLY": os.O_DIRECTORY | os.O_WRONLY,
    "O_NOFOLLOW": os.O_NOFOLLOW,
    "O_PATH": os.O_PATH,
    "O_PATH|O_NOFOLLOW": os.O_PATH | os.O_NOFOLLOW,
    "O_NOFOLLOW|O_DIRECTORY": os.O_NOFOLLOW | os.O_DIRECTORY,
    "O_TMPFILE|O_RDWR": os.O_TMPFILE | os.O_RDWR,
    "O_TMPFILE|O_RDONLY": os.O_TMPFILE,
    "O_DIRECT": os.O_DIRECT,
    "O_NONBLOCK": os.O_NONBLOCK,
    "O_SYNC|O_RDWR": os.O_SYNC | os.O_RDWR,
    "O_NOATIME": os.O_NOATIME,
    "O_NOCTTY": os.O_NOCTTY,
    "O_ASYNC": os.O_ASYNC,
}


def open_close(path: str, flags: int) -> str:
    """ "opened", or raises."""
    with opened(path, flags):
        return "opened"


def opening(q: Probe) -> None:
    """Every open flag on every kind of file."""
    s = Subject(q)
    for label, path in (
        ("read-only attribute", s.at("vendor")),
        ("writable attribute", s.at("driver_override")),
        ("write-only attribute", f"{DRIVER}/bind"),
        ("binary attribute", s.at("config")),
        ("directory", s.real),
        ("link to a directory", s.at("subsystem")),
        ("absent name", s.at("absent")),
    ):
        for name, flags in OPEN_FLAGS.items():
            q.ask(f"open {label} {name}", open_close, path, flags)
    q.ask("F_GETFL", lambda: s.on("vendor", lambda fd: oct(fcntl.fcntl(fd, fcntl.F_GETFL))))
    for name in ("O_RDWR", "O_WRONLY|O_APPEND", "O_WRONLY|O_TRUNC", "O_WRONLY|O_CREAT", "O_NONBLOCK", "O_SYNC|O_RDWR"):
        flags = OPEN_FLAGS[name]
        q.ask(
            f"F_GETFL {name}",
            lambda flags=flags: s.on("driver_override", lambda fd: oct(fcntl.fcntl(fd, fcntl.F_GETFL)), flags),
        )
    q.ask("F_GETFL O_PATH", lambda: s.on("vendor", lambda fd: oct(fcntl.fcntl(fd, fcntl.F_GETFL)), os.O_PATH))
    q.ask("read O_PATH", lambda: s.on("vendor", lambda fd: os.read(fd, 4), os.O_PATH))
    q.ask("fstat O_PATH", lambda: s.on("vendor", lambda fd: os.fstat(fd).st_size, os.O_PATH))
    q.ask("driver_override after O_TRUNC", read_text, s.at("driver_override"))


def reading(q: Probe) -> None:
    """Partial reads, positions and seeks of a text attribute and of a binary one."""
    s = Subject(q)

    def on(what: str, name: str, f: Callable[[int], object], flags: int = os.O_RDONLY) -> None:
        q.ask(f"{name} {what}", lambda: s.on(name, f, flags))

    for name in ("vendor", "config", "uevent", "resource"):
        on("read 2, 2, 3", name, lambda fd: (os.read(fd, 2), os.read(fd, 2), os.read(fd, 3)))
        on("read 0", name, lambda fd: os.read(fd, 0))
        on("reads to the end", name, lambda fd: (len(os.read(fd, 65536)), os.read(fd, 4), os.read(fd, 4)))
        on("read a megabyte", name, lambda fd: len(os.read(fd, 1 << 20)))
        on("read after lseek 0", name, lambda fd: (os.read(fd, 65536) and os.lseek(fd, 0, 0), os.read(fd, 3)))
        on("read after lseek 3", name, lambda fd: (os.lseek(fd, 3, 0), os.read(fd, 3)))
        on("read after lseek past the end", name, lambda fd: (os.lseek(fd, 9999, 0), os.read(fd, 3)))
        on("position after a read", name, lambda fd: (os.read(fd, 3), os.lseek(fd, 0, 1)))
        on("position after reads to the end", name, lambda fd: (len(read_all(fd)), os.lseek(fd, 0, 1))[1])
        on("lseek 2 from here", name, lambda fd: (os.read(fd, 1), os.lseek(fd, 2, 1), os.read(fd, 2)))
        on("lseek -1 from here", name, lambda fd: (os.read(fd, 2), os.lseek(fd, -1, 1), os.read(fd, 2)))
        on("lseek 0 from the end", name, lambda fd: os.lseek(fd, 0, 2))
        on("lseek -4 from the end, read", name, lambda fd: (os.lseek(fd, -4, 2), os.read(fd, 4)))
        on("lseek 1 from the end, read", name, lambda fd: (os.lseek(fd, 1, 2), os.read(fd, 4)))
        on("lseek -1", name, lambda fd: os.lseek(fd, -1, 0))
        on("lseek far before", name, lambda fd: os.lseek(fd, -100000, 2))
        on("lseek whence 9", name, lambda fd: os.lseek(fd, 0, 9))
        on("lseek SEEK_DATA 0", name, lambda fd: os.lseek(fd, 0, os.SEEK_DATA))
        on("lseek SEEK_HOLE 0", name, lambda fd: os.lseek(fd, 0, os.SEEK_HOLE))
        on("lseek SEEK_DATA past", name, lambda fd: os.lseek(fd, 99999, os.SEEK_DATA))
        on("lseek 2**62", name, lambda fd: (os.lseek(fd, 1 << 62, 0), os.read(fd, 1)))
        on("lseek 2**63-1", name, lambda fd: os.lseek(fd, (1 << 63) - 1, 0))
        on("pread 3 at 0", name, lambda fd: os.pread(fd, 3, 0))
        on("pread 3 at 2, position", name, lambda fd: (os.pread(fd, 3, 2), os.lseek(fd, 0, 1)))
        on("pread at 4096", name, lambda fd: os.pread(fd, 3, 4096))
        on("pread at -1", name, lambda fd: os.pread(fd, 3, -1))
        on("pread at 2**62", name, lambda fd: os.pread(fd, 3, 1 << 62))
        on("pread back and forth", name, lambda fd: [os.pread(fd, 2, n) for n in (4, 0, 2, 5, 1)])
        on("readv", name, lambda fd: _readv(fd, 2, 3))
        on("preadv at 1", name, lambda fd: _preadv(fd, 1, 2, 3))
        on("read through O_RDWR", name, lambda fd: os.read(fd, 3), os.O_RDWR)
    on("read through O_WRONLY", "driver_override", lambda fd: os.read(fd, 3), os.O_WRONLY)
    on("write through O_RDONLY", "driver_override", lambda fd: os.write(fd, b"x"))
    on("dup shares the position", "vendor", lambda fd: _dup_position(fd))
    q.ask("two descriptors, two positions", lambda: _two_positions(s.at("vendor")))
    q.ask("read a directory", lambda: s.on(".", lambda fd: os.read(fd, 10)))
    q.ask("pread a directory", lambda: s.on(".", lambda fd: os.pread(fd, 10, 0)))
    q.ask("write to a directory", lambda: s.on(".", lambda fd: os.write(fd, b"x")))
    q.ask("lseek of a directory", lambda: s.on(".", lambda fd: os.lseek(fd, 5, 0)))
    q.ask("lseek of a directory from its end", lambda: s.on(".", lambda fd: os.lseek(fd, 0, 2)))
    with opened(s.at("driver_override"), os.O_RDWR) as fd:
        q.ask("content is made at the first read", lambda: _content_is_made_at_read(fd, s.at("driver_override")))
    write_text(s.at("driver_override"), "\n")


def _readv(fd: int, *sizes: int) -> object:
    buffers = [bytearray(n) for n in sizes]
    return os.readv(fd, buffers), [bytes(b) for b in buffers]


def _preadv(fd: int, offset: int, *sizes: int) -> object:
    buffers = [bytearray(n) for n in sizes]
    return os.preadv(fd, buffers, offset), [bytes(b) for b in buffers]


def _dup_position(fd: int) -> object:
    other = os.dup(fd)
    try:
        return os.read(fd, 2), os.read(other, 2), os.lseek(fd, 0, os.SEEK_CUR)
    finally:
        os.close(other)


def _two_positions(path: str) -> object:
    with opened(path, os.O_RDONLY) as one, opened(path, os.O_RDONLY) as two:
        return os.read(one, 4), os.read(two, 2), os.read(one, 2)


def _content_is_made_at_read(fd: int, path: str) -> object:
    """A change under the reader: seen after a seek to 0, not while reading on."""
    write_text(path, "first")
    head = os.read(fd, 2)
    write_text(path, "other")
    rest = os.read(fd, 100)
    os.lseek(fd, 0, os.SEEK_SET)
    return head, rest, os.read(fd, 100), os.pread(fd, 100, 0), os.pread(fd, 100, 1)


def writing(q: Probe) -> None:
    """What a write means: its length, its offset, its position, its NUL."""
    s = Subject(q)
    path = s.at("driver_override")

    def on(what: str, f: Callable[[int], object], flags: int = os.O_RDWR, name: str = "driver_override") -> None:
        answer = call(s.on, name, f, flags)
        q.say(f"{name} {what}", (answer, call(read_text, path)) if name == "driver_override" else answer)

    on("write", lambda fd: os.write(fd, b"one\n"))
    on("write nothing", lambda fd: os.write(fd, b""))
    on("write, position", lambda fd: (os.write(fd, b"abc"), os.lseek(fd, 0, 1)))
    on("two writes", lambda fd: (os.write(fd, b"abc"), os.write(fd, b"de")))
    on("write then read", lambda fd: (os.write(fd, b"abc"), os.read(fd, 10)))
    on("write, lseek 0, read", lambda fd: (os.write(fd, b"abcd"), os.lseek(fd, 0, 0), os.read(fd, 10)))
    on("read, write, read", lambda fd: (os.read(fd, 2), os.write(fd, b"xyz"), os.read(fd, 10)))
    on("pwrite at 5", lambda fd: (os.pwrite(fd, b"five", 5), os.lseek(fd, 0, 1)))
    on("pwrite at 4096", lambda fd: os.pwrite(fd, b"page", 4096))
    on("pwrite at 2**40", lambda fd: os.pwrite(fd, b"far", 1 << 40))
    on("pwrite at -1", lambda fd: os.pwrite(fd, b"neg", -1))
    on("append", lambda fd: (os.write(fd, b"app"), os.lseek(fd, 0, 1)), os.O_WRONLY | os.O_APPEND)
    on("append twice", lambda fd: (os.write(fd, b"app"), os.write(fd, b"end")), os.O_WRONLY | os.O_APPEND)
    on("truncating write", lambda fd: os.write(fd, b"trunc"), os.O_WRONLY | os.O_TRUNC)
    on("writev", lambda fd: os.writev(fd, [b"ab", b"cd\n"]))
    on("pwritev at 3", lambda fd: os.pwritev(fd, [b"ef", b"gh"], 3))
    on("NUL inside", lambda fd: os.write(fd, b"ab\0cd"))
    on("NUL at the end", lambda fd: os.write(fd, b"abcd\0"))
    on("NUL first", lambda fd: os.write(fd, b"\0abcd"))
    on("bytes over 127", lambda fd: os.write(fd, b"\xff\xe9"))
    for size in (100, 4094, 4095, 4096, 4097, 5000, 8192):
        q.ask(f"driver_override write {size} bytes", lambda size=size: (s.on_rw(size), len(read_text(path))))
    os_clear = call(write_text, path, "\n")
    q.say("driver_override cleared", (os_clear, read_text(path)))
    on("write", lambda fd: os.write(fd, b"x"), os.O_WRONLY, "vendor")
    on("write 0 bytes to a read-only attribute", lambda fd: os.write(fd, b""), os.O_WRONLY, "vendor")
    for text in ("", "\n", "0", "1", "x" * 4096, "x" * 5000):
        q.store(s.at("numa_node"), text)


def stating(q: Probe) -> None:
    """The fields of stat, statvfs and the extended attributes."""
    s = Subject(q)

    def fields(path: str) -> object:
        st = os.lstat(path)
        return oct(st.st_mode), st.st_nlink, st.st_uid, st.st_gid, st.st_size, st.st_blksize, st.st_blocks, st.st_rdev

    for name in (".", "vendor", "driver_override", "remove", "config", "resource0", "subsystem", "power"):
        q.ask(f"stat {name}", fields, os.path.normpath(f"{s.real}/{name}"))
    for path in ("/sys/bus/pci", "/sys/bus/pci/devices", "/sys/bus/pci/drivers/pci-stub"):
        q.ask(f"stat {path}", fields, path)
    q.ask("links of /sys", lambda: os.stat("/sys").st_nlink == 2 + len(os.listdir("/sys")))
    q.ask("links of /sys/bus", lambda: os.stat("/sys/bus").st_nlink == 2 + len(os.listdir("/sys/bus")))
    q.ask("one st_dev", lambda: len({os.lstat(p).st_dev for p in ("/sys", s.real, s.at("vendor"), DRIVER)}))
    q.ask("st_ino is stable", lambda: os.stat(s.at("vendor")).st_ino == os.stat(s.at("vendor")).st_ino)
    q.ask("st_ino differs", lambda: os.stat(s.at("vendor")).st_ino != os.stat(s.at("device")).st_ino)
    q.ask("link and target are two inodes", lambda: os.lstat(s.link).st_ino != os.stat(s.real).st_ino)
    q.ask("st_ino through the link", lambda: os.stat(s.link).st_ino == os.stat(s.real).st_ino)
    q.ask("three times equal", lambda: len({(t.st_atime_ns, t.st_mtime_ns) for t in [os.stat(s.at("vendor"))]}))
    q.ask("fstat size", lambda: s.on("vendor", lambda fd: os.fstat(fd).st_size))

    def vfs(path: str) -> object:
        v = os.statvfs(path)
        return v.f_bsize, v.f_frsize, v.f_blocks, v.f_bfree, v.f_bavail, v.f_files, v.f_ffree, v.f_favail, v.f_namemax

    for path in ("/sys", s.at("vendor"), s.real):
        q.ask(f"statvfs {path}", vfs, path)
    q.ask("fstatvfs", lambda: s.on("vendor", lambda fd: os.fstatvfs(fd).f_namemax))
    q.ask("pathconf PC_NAME_MAX", lambda: os.pathconf("/sys", "PC_NAME_MAX"))


def xattrs(q: Probe) -> None:
    """Extended attributes."""
    s = Subject(q)
    for label, path in (("attribute", s.at("vendor")), ("directory", s.real)):
        q.ask(f"{label} listxattr", os.listxattr, path)
        for name in ("user.x", "trusted.x", "security.x", "system.x", "system.posix_acl_access", "x", "nope.x"):
            q.ask(f"{label} getxattr {name}", os.getxattr, path, name)
            q.ask(f"{label} setxattr {name}", os.setxattr, path, name, b"value")
            q.ask(f"{label} getxattr {name} then", os.getxattr, path, name)
            q.ask(f"{label} listxattr then", os.listxattr, path)
            q.ask(f"{label} removexattr {name}", os.removexattr, path, name)
        q.ask(f"{label} XATTR_REPLACE", os.setxattr, path, "trusted.y", b"v", os.XATTR_REPLACE)


def polling(q: Probe) -> None:
    """poll, select and epoll on attributes before and after a read."""
    s = Subject(q)
    every = select.POLLIN | select.POLLOUT | select.POLLPRI | select.POLLRDNORM | select.POLLWRNORM | select.POLLRDBAND

    def poll(fd: int, events: int = every) -> object:
        p = select.poll()
        p.register(fd, events)
        return [hex(bits) for _, bits in p.poll(0)]

    def around_read(fd: int) -> object:
        fresh = poll(fd)
        read_all(fd)
        after = poll(fd)
        os.lseek(fd, 0, os.SEEK_SET)
        return fresh, after, poll(fd)

    for name in ("vendor", "driver_override", "config", "uevent", "resource0"):
        q.ask(f"{name}: fresh, read, sought", lambda name=name: s.on(name, around_read))
        q.ask(f"{name}: partial read", lambda name=name: s.on(name, lambda fd: (os.read(fd, 1), poll(fd))))
    q.ask("only POLLIN", lambda: s.on("vendor", lambda fd: poll(fd, select.POLLIN)))
    q.ask("only POLLPRI", lambda: s.on("vendor", lambda fd: poll(fd, select.POLLPRI)))
    q.ask("no events", lambda: s.on("vendor", lambda fd: poll(fd, 0)))
    q.ask("only POLLPRI, read", lambda: s.on("vendor", lambda fd: (len(read_all(fd)), poll(fd, select.POLLPRI))[1]))
    q.ask("pread counts as a read", lambda: s.on("vendor", lambda fd: (os.pread(fd, 4, 0), poll(fd))))
    q.ask("read of 0 bytes", lambda: s.on("vendor", lambda fd: (os.read(fd, 0), poll(fd))))
    q.ask("write-only", lambda: s.on("driver_override", poll, os.O_WRONLY))
    q.ask("a store", lambda: s.on("driver_override", _store_between(poll, s.at("driver_override"))))
    q.ask("directory", lambda: s.on(".", poll))
    q.ask("O_PATH", lambda: s.on("vendor", poll, os.O_PATH))
    q.ask("select fresh", lambda: s.on("vendor", lambda fd: [len(x) for x in select.select([fd], [fd], [fd], 0)]))
    q.ask(
        "select read",
        lambda: s.on("vendor", lambda fd: (read_all(fd), [len(x) for x in select.select([fd], [fd], [fd], 0)])[1]),
    )
    for name, flags in (("vendor", os.O_RDONLY), ("config", os.O_RDONLY), (".", os.O_RDONLY), ("vendor", os.O_PATH)):
        q.ask(f"epoll {name}{' O_PATH' * (flags != 0)}", lambda n=name, f=flags: s.on(n, _epoll, f))


def _store_between(poll: Callable[[int], object], path: str) -> Callable[[int], object]:
    def f(fd: int) -> object:
        read_all(fd)
        write_text(path, "\n")
        return poll(fd)

    return f


def _epoll(fd: int) -> object:
    with select.epoll() as ep:
        ep.register(fd, select.EPOLLIN | select.EPOLLPRI)
        fresh = [hex(bits) for _, bits in ep.poll(0)]
        os.read(fd, 4096)
        return fresh, [hex(bits) for _, bits in ep.poll(0)]


def names(q: Probe) -> None:
    """Path walking: long names, slashes, dots, links."""
    s = Subject(q)

    def size(path: str) -> int:
        return os.stat(path).st_size

    for label, path in {
        "trailing slash on a directory": s.real + "/",
        "trailing slash on an attribute": s.at("vendor/"),
        "trailing slash and dot on an attribute": s.at("vendor/."),
        "through an attribute": s.at("vendor/x"),
        "dot dot through an attribute": s.at("vendor/../device"),
        "double slashes": s.at("//vendor"),
        "dot": s.at("./vendor"),
        "dot dot": s.at("power/../vendor"),
        "dot dot above the root": "/" + "../" * 30 + s.real + "/vendor",
        "dot dot of a link to a directory": s.at("subsystem/../../bus/pci/uevent"),
        "name of 255": s.at("n" * 255),
        "name of 256": s.at("n" * 256),
        "name of 256 below nothing": s.at("absent/" + "n" * 256),
        "path of 4095": s.real + "/" * (4095 - len(s.real) - len("vendor")) + "vendor",
        "path of 4096": s.real + "/" * (4096 - len(s.real) - len("vendor")) + "vendor",
        "empty path": "",
        "absent": s.at("absent"),
        "below absent": s.at("absent/x"),
        "another case": s.at("VENDOR"),
        "20 times round the links": s.link + f"/subsystem/devices/{s.addr}" * 19 + "/vendor",
        "21 times round the links": s.link + f"/subsystem/devices/{s.addr}" * 20 + "/vendor",
        "link that is last, with a slash": s.link + "/",
    }.items():
        q.ask(label, size, path)
    q.ask("NUL in a path", size, s.at("ven\0dor"))
    for label, path in {
        "readlink of the device": s.link,
        "readlink of subsystem": s.at("subsystem"),
        "readlink of subsystem, through the link": f"{s.link}/subsystem",
        "readlink of an attribute": s.at("vendor"),
        "readlink of a directory": s.real,
        "readlink of nothing": s.at("absent"),
        "readlink through an attribute": s.at("vendor/x"),
        "readlink of a link with a slash": s.link + "/",
    }.items():
        q.ask(label, os.readlink, path)
    q.ask("realpath", os.path.realpath, f"{s.link}/subsystem")
    q.ask("realpath of the device", os.path.realpath, s.link)
    q.ask("listdir of an attribute", os.listdir, s.at("vendor"))
    q.ask("listdir of nothing", os.listdir, s.at("absent"))
    q.ask("listdir of a link", lambda: sorted(os.listdir(s.link)) == sorted(os.listdir(s.real)))
    q.ask("listdir order is not the alphabet's", lambda: os.listdir(s.real) == sorted(os.listdir(s.real)))
    q.ask("listdir order", lambda: [n for n in os.listdir(s.real) if n not in PLATFORM])
    q.ask("listdir order of the bus", os.listdir, "/sys/bus/pci")
    q.ask("listdir order of a driver", os.listdir, DRIVER)
    q.ask("listdir order of power", os.listdir, s.at("power"))
    q.ask("listdir of a descriptor", lambda: s.on(".", lambda fd: os.listdir(fd) == os.listdir(s.real)))
    q.ask(
        "scandir types",
        lambda: sorted(
            (e.name, e.is_dir(follow_symlinks=False), e.is_file(follow_symlinks=False), e.is_symlink())
            for e in os.scandir(s.real)
            if e.name in ("vendor", "power", "subsystem", "config")
        ),
    )
    q.ask(
        "scandir inode is stat's",
        lambda: {e.inode() == e.stat(follow_symlinks=False).st_ino for e in os.scandir(s.real)},
    )
    q.ask("open relative to a directory", lambda: s.on(".", lambda fd: _at(fd, "vendor")))
    q.ask("open relative to an attribute", lambda: s.on("vendor", lambda fd: _at(fd, "vendor")))
    q.ask("stat relative to a directory", lambda: s.on(".", lambda fd: os.stat("vendor", dir_fd=fd).st_size))
    for mode, label in ((os.F_OK, "F_OK"), (os.R_OK, "R_OK"), (os.W_OK, "W_OK"), (os.X_OK, "X_OK")):
        for name in ("vendor", "driver_override", "remove", ".", "absent"):
            q.ask(f"access {name} {label}", os.access, s.at(name), mode)


def _at(dir_fd: int, name: str) -> bytes:
    fd = os.open(name, os.O_RDONLY, dir_fd=dir_fd)
    try:
        return os.read(fd, 100)
    finally:
        os.close(fd)


def refusals(q: Probe) -> None:
    """Making, removing, renaming, linking: what sysfs has no operation for."""
    s = Subject(q)
    new, attr, sub, link = s.at("new"), s.at("vendor"), s.at("power"), s.at("subsystem")
    q.ask("mkdir", os.mkdir, new)
    q.ask("mkdir of what exists", os.mkdir, attr)
    q.ask("mkdir below an attribute", os.mkdir, attr + "/x")
    q.ask("mkdir below nothing", os.mkdir, s.at("absent/x"))
    q.ask("mkdir in /sys", os.mkdir, "/sys/new")
    q.ask("rmdir", os.rmdir, sub)
    q.ask("rmdir of an attribute", os.rmdir, attr)
    q.ask("rmdir of a link", os.rmdir, link)
    q.ask("rmdir of nothing", os.rmdir, new)
    q.ask("rmdir of dot", os.rmdir, sub + "/.")
    q.ask("rmdir of dot dot", os.rmdir, sub + "/..")
    q.ask("rmdir /sys", os.rmdir, "/sys")
    q.ask("unlink", os.unlink, attr)
    q.ask("unlink of a directory", os.unlink, sub)
    q.ask("unlink of a link", os.unlink, link)
    q.ask("unlink of nothing", os.unlink, new)
    q.ask("unlink with a slash", os.unlink, attr + "/")
    q.ask("rename", os.rename, attr, new)
    q.ask("rename onto itself", os.rename, attr, attr)
    q.ask("rename onto another", os.rename, attr, s.at("device"))
    q.ask("rename of nothing", os.rename, new, s.at("new2"))
    q.ask("rename of a directory", os.rename, sub, new)
    q.ask("rename a directory onto an attribute", os.rename, sub, attr)
    q.ask("rename an attribute onto a directory", os.rename, attr, sub)
    q.ask("rename to another file system", os.rename, attr, "/tmp/new")
    q.ask("rename from another file system", _from_tmp, lambda tmp: os.rename(tmp, new))
    q.ask("link", os.link, attr, new)
    q.ask("link onto another", os.link, attr, s.at("device"))
    q.ask("link of a directory", os.link, sub, new)
    q.ask("link to another file system", os.link, attr, "/tmp/new")
    q.ask("symlink", os.symlink, "target", new)
    q.ask("symlink onto another", os.symlink, "target", attr)
    q.ask("mknod fifo", lambda: os.mknod(new, 0o600 | stat.S_IFIFO))
    q.ask("mknod regular", lambda: os.mknod(new, 0o600 | stat.S_IFREG))
    q.ask("mknod device", lambda: os.mknod(new, 0o600 | stat.S_IFCHR, os.makedev(1, 3)))
    q.ask("mknod onto another", lambda: os.mknod(attr, 0o600 | stat.S_IFIFO))
    q.ask("creat", open_close, new, os.O_CREAT | os.O_WRONLY)
    q.ask("creat in the root", open_close, "/sys/new", os.O_CREAT | os.O_WRONLY)
    q.ask("creat with a slash", open_close, new + "/", os.O_CREAT | os.O_WRONLY)
    q.ask("creat below an attribute", open_close, attr + "/x", os.O_CREAT | os.O_WRONLY)


def _from_tmp(f: Callable[[str], object]) -> object:
    tmp = "/tmp/probe-file"
    with opened(tmp, os.O_CREAT | os.O_WRONLY):
        pass
    try:
        return f(tmp)
    finally:
        os.unlink(tmp)


def changing(q: Probe) -> None:
    """chmod, chown, utime and truncate: what sysfs keeps."""
    s = Subject(q)
    attr, ro = s.at("driver_override"), s.at("vendor")
    mode = kind
    q.ask("truncate to 0", os.truncate, attr, 0)
    q.ask("truncate to 100", lambda: (call(os.truncate, attr, 100), os.stat(attr).st_size))
    q.ask("truncate to 10000", lambda: (call(os.truncate, attr, 10000), os.stat(attr).st_size))
    q.ask("truncate to -1", os.truncate, attr, -1)
    q.ask("truncate read-only attribute", os.truncate, ro, 0)
    q.ask("truncate write-only attribute", os.truncate, f"{DRIVER}/bind", 0)
    q.ask("truncate a directory", os.truncate, s.real, 0)
    q.ask("truncate config", lambda: (call(os.truncate, s.at("config"), 10), os.stat(s.at("config")).st_size))
    q.ask("ftruncate", lambda: s.on("driver_override", lambda fd: os.ftruncate(fd, 0), os.O_RDWR))
    q.ask("ftruncate read-only descriptor", lambda: s.on("driver_override", lambda fd: os.ftruncate(fd, 0)))
    q.ask("chmod 600", lambda: (call(os.chmod, attr, 0o600), mode(attr)))
    q.ask("chmod 7777", lambda: (call(os.chmod, attr, 0o7777), mode(attr)))
    q.ask("chmod 644", lambda: (call(os.chmod, attr, 0o644), mode(attr)))
    q.ask("chmod a read-only attribute 644", lambda: (call(os.chmod, ro, 0o644), mode(ro)))
    q.ask("open it for writing", open_close, ro, os.O_WRONLY)
    q.ask("write to it", write_text, ro, "1")
    q.ask("chmod it 000", lambda: (call(os.chmod, ro, 0), mode(ro)))
    q.ask("read it", read_text, ro)
    q.ask("chmod it 444", lambda: (call(os.chmod, ro, 0o444), mode(ro)))
    q.ask("fchmod", lambda: (s.on("driver_override", lambda fd: os.fchmod(fd, 0o640)), mode(attr)))
    q.ask("fchmod back", lambda: (s.on("driver_override", lambda fd: os.fchmod(fd, 0o644)), mode(attr)))
    q.ask("chmod a directory", lambda: (call(os.chmod, s.at("power"), 0o700), mode(s.at("power"))))
    q.ask("chmod a directory back", lambda: (call(os.chmod, s.at("power"), 0o755), mode(s.at("power"))))
    q.ask("chmod through a link", lambda: (call(os.chmod, s.link, 0o755), mode(s.real), mode(s.link)))

    def owner(path: str) -> tuple[int, int]:
        return os.lstat(path).st_uid, os.lstat(path).st_gid

    q.ask("chown", lambda: (call(os.chown, attr, 1, 2), owner(attr), mode(attr)))
    q.ask("chown -1 3", lambda: (call(os.chown, attr, -1, 3), owner(attr)))
    q.ask("chown back", lambda: (call(os.chown, attr, 0, 0), owner(attr)))
    q.ask("lchown of a link", lambda: (call(os.lchown, s.at("subsystem"), 1, 1), owner(s.at("subsystem"))))
    q.ask("lchown back", lambda: (call(os.lchown, s.at("subsystem"), 0, 0), owner(s.at("subsystem"))))
    q.ask("utime", lambda: (call(os.utime, attr, (1, 2)), os.stat(attr).st_atime_ns, os.stat(attr).st_mtime_ns))
    q.ask("utime ns", _utime_ns, attr, 5, 1234567890)
    q.ask("utime now", lambda: (call(os.utime, attr), os.stat(attr).st_mtime_ns > 10**15))
    q.ask("a store moves mtime", lambda: _mtime_moves(attr, lambda: write_text(attr, "\n")))
    q.ask("a read moves atime", lambda: _mtime_moves(attr, lambda: read_text(attr)))
    q.ask("what it was is read again", lambda: (read_text(ro), read_text(attr)))


def _utime_ns(path: str, atime: int, mtime: int) -> object:
    os.utime(path, ns=(atime, mtime))
    return os.stat(path).st_atime_ns, os.stat(path).st_mtime_ns


def _mtime_moves(path: str, f: Callable[[], object]) -> object:
    os.utime(path, ns=(1000, 1000))
    f()
    st = os.stat(path)
    return st.st_atime_ns != 1000, st.st_mtime_ns != 1000


def descriptors(q: Probe) -> None:
    """System calls on an attribute's descriptor that mean nothing to it."""
    s = Subject(q)

    def on(what: str, f: Callable[[int], object], name: str = "vendor", flags: int = os.O_RDONLY) -> None:
        q.ask(what, lambda: s.on(name, f, flags))

    on("ioctl TCGETS", lambda fd: fcntl.ioctl(fd, termios.TCGETS, bytes(64)))
    on("ioctl FIONREAD", lambda fd: array.array("i", fcntl.ioctl(fd, termios.FIONREAD, bytes(4)))[0])
    on("ioctl FIONBIO", lambda fd: fcntl.ioctl(fd, termios.FIONBIO, bytes(4)))
    on("ioctl 0", lambda fd: fcntl.ioctl(fd, 0))
    on("ioctl on binary attribute", lambda fd: fcntl.ioctl(fd, 0x1234), "config")
    on("ioctl on a directory", lambda fd: fcntl.ioctl(fd, 0x1234), ".")
    on("isatty", os.isatty)
    on("mmap of a text attribute", lambda fd: type(mmap.mmap(fd, 4096, prot=mmap.PROT_READ)).__name__)
    on("mmap of config", lambda fd: type(mmap.mmap(fd, 256, prot=mmap.PROT_READ)).__name__, "config")
    on("mmap of a directory", lambda fd: q.raw_mmap(fd, 4096, mmap.PROT_READ, mmap.MAP_SHARED, 0), ".")
    on("mmap of length 0", lambda fd: q.raw_mmap(fd, 0, mmap.PROT_READ, mmap.MAP_SHARED, 0))
    on("fsync", os.fsync)
    on("fdatasync", os.fdatasync)
    on("fsync of a directory", os.fsync, ".")
    on("flock", lambda fd: fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB))
    on("lockf read-only", lambda fd: fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB))
    on("lockf", lambda fd: fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB), "driver_override", os.O_RDWR)
    on("F_GETFD", lambda fd: fcntl.fcntl(fd, fcntl.F_GETFD))
    on("F_SETFL O_NONBLOCK", lambda fd: _setfl(fd, os.O_NONBLOCK))
    on("F_SETFL O_APPEND", lambda fd: _setfl(fd, os.O_APPEND), "driver_override", os.O_RDWR)
    on("F_SETFL O_DIRECT", lambda fd: _setfl(fd, os.O_DIRECT))
    on("F_SETFL O_ASYNC", lambda fd: _setfl(fd, os.O_ASYNC))
    on("F_GETPIPE_SZ", lambda fd: fcntl.fcntl(fd, 1032))
    on("F_GETLEASE", lambda fd: fcntl.fcntl(fd, fcntl.F_GETLEASE))
    on("posix_fadvise", lambda fd: os.posix_fadvise(fd, 0, 10, os.POSIX_FADV_WILLNEED))
    on("fchdir of an attribute", os.fchdir)
    q.ask("chdir to an attribute", os.chdir, s.at("vendor"))
    q.ask("sendfile to a pipe", lambda: _to_pipe(s.at("vendor"), lambda out, fd: os.sendfile(out, fd, 0, 100)))
    q.ask("sendfile at 2", lambda: _to_pipe(s.at("vendor"), lambda out, fd: os.sendfile(out, fd, 2, 3)))
    q.ask("sendfile of config", lambda: _to_pipe(s.at("config"), lambda out, fd: os.sendfile(out, fd, 0, 8)))
    q.ask("splice to a pipe", lambda: _to_pipe(s.at("vendor"), lambda out, fd: os.splice(fd, out, 100)))
    q.ask("splice of config", lambda: _to_pipe(s.at("config"), lambda out, fd: os.splice(fd, out, 8)))
    q.ask("splice into an attribute", _splice_in, s.at("driver_override"))
    q.ask("driver_override then", read_text, s.at("driver_override"))
    q.ask("copy_file_range", lambda: _copy_range(s.at("vendor"), s.at("driver_override")))
    write_text(s.at("driver_override"), "\n")


def _setfl(fd: int, flag: int) -> str:
    fcntl.fcntl(fd, fcntl.F_SETFL, flag)
    return oct(fcntl.fcntl(fd, fcntl.F_GETFL))


def _to_pipe(path: str, f: Callable[[int, int], object]) -> object:
    r, w = os.pipe()
    try:
        with opened(path, os.O_RDONLY) as fd:
            count = f(w, fd)
            os.write(w, b".")
            return count, os.read(r, 100), os.lseek(fd, 0, os.SEEK_CUR)
    finally:
        os.close(r)
        os.close(w)


def _splice_in(path: str) -> object:
    r, w = os.pipe()
    try:
        os.write(w, b"piped")
        with opened(path, os.O_WRONLY) as fd:
            return os.splice(r, fd, 100)
    finally:
        os.close(r)
        os.close(w)


def _copy_range(source: str, target: str) -> object:
    with opened(source, os.O_RDONLY) as a, opened(target, os.O_WRONLY) as b:
        return os.copy_file_range(a, b, 100)


def unprivileged(q: Probe) -> None:
    """Uid 65534: the mode bits, 64 bytes of configuration space, nothing that is the owner's."""
    s = Subject(q)
    root_fd = os.open(s.at("config"), os.O_RDONLY)
    root_rw = os.open(s.at("driver_override"), os.O_RDWR)
    os.setegid(65534)
    os.seteuid(65534)
    try:
        _as_nobody(q, s, root_fd, root_rw)
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.close(root_fd)
        os.close(root_rw)
    q.ask("driver_override as root again", lambda: (read_text(s.at("driver_override")), s.clear()))


def _as_nobody(q: Probe, s: Subject, root_fd: int, root_rw: int) -> None:
    for label, path in (
        ("read-only attribute", s.at("vendor")),
        ("writable attribute", s.at("driver_override")),
        ("write-only attribute", f"{DRIVER}/bind"),
        ("config", s.at("config")),
        ("resource0", s.at("resource0")),
        ("remove", s.at("remove")),
        ("directory", s.real),
        ("absent name", s.at("absent")),
    ):
        for name in ("O_RDONLY", "O_WRONLY", "O_RDWR", "O_PATH", "O_WRONLY|O_CREAT", "O_WRONLY|O_TRUNC", "O_NOATIME"):
            q.ask(f"open {label} {name}", open_close, path, OPEN_FLAGS[name])
    q.ask("config: bytes read", lambda: s.on("config", lambda fd: len(os.read(fd, 4096))))
    q.ask("config: pread at 64", lambda: s.on("config", lambda fd: os.pread(fd, 4, 64)))
    q.ask("config: pread at 60", lambda: s.on("config", lambda fd: len(os.pread(fd, 8, 60))))
    q.ask("config: bytes read from root's descriptor", lambda: len(os.read(root_fd, 4096)))
    q.ask("write through root's descriptor", lambda: os.write(root_rw, b"by nobody"))
    q.ask("chmod", os.chmod, s.at("driver_override"), 0o666)
    q.ask("chown", os.chown, s.at("driver_override"), 65534, 65534)
    q.ask("utime", os.utime, s.at("driver_override"), (1, 1))
    q.ask("utime now", os.utime, s.at("driver_override"))
    q.ask("truncate", os.truncate, s.at("driver_override"), 0)
    q.ask("mkdir", os.mkdir, s.at("new"))
    q.ask("mkdir of what exists", os.mkdir, s.at("vendor"))
    q.ask("rmdir", os.rmdir, s.at("power"))
    q.ask("unlink", os.unlink, s.at("vendor"))
    q.ask("rename", os.rename, s.at("vendor"), s.at("new"))
    q.ask("symlink", os.symlink, "x", s.at("new"))
    q.ask("link", os.link, s.at("vendor"), s.at("new"))
    q.ask("setxattr trusted.x", os.setxattr, s.at("vendor"), "trusted.x", b"v")
    q.ask("setxattr user.x", os.setxattr, s.at("vendor"), "user.x", b"v")
    q.ask("listdir", lambda: len(os.listdir(s.real)) > 20)
    q.ask("read uevent", lambda: len(read_text(s.at("uevent"))) > 20)
    q.ask("read resource", lambda: len(read_text(s.at("resource"))))
    q.ask("access driver_override W_OK by real uid", os.access, s.at("driver_override"), os.W_OK)
    q.ask(
        "access driver_override W_OK by effective uid",
        lambda: os.access(s.at("driver_override"), os.W_OK, effective_ids=True),
    )


PARTS = {
    "opening": opening,
    "reading": reading,
    "writing": writing,
    "stat": stating,
    "xattr": xattrs,
    "polling": polling,
    "names": names,
    "refusals": refusals,
    "changing": changing,
    "descriptors": descriptors,
    "unprivileged": unprivileged,
}
