"""
The virtual file system: inodes, open files and the checks that come before a file system is asked.

Every surface drives these two classes and nothing below them. An operation that a file system does not have answers
as the VFS of Linux does (``fs/namei.c``): create EACCES, every other change of a directory EPERM.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from errno import (
    EACCES,
    EFBIG,
    EINVAL,
    EISDIR,
    ELOOP,
    ENODATA,
    ENODEV,
    ENOENT,
    ENOTDIR,
    ENOTTY,
    ENXIO,
    EOPNOTSUPP,
    EPERM,
    ESPIPE,
)
from typing import TYPE_CHECKING, Any, Protocol

from pykernel.errors import err
from pykernel.task import CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_FOWNER, CAP_SYS_ADMIN, Cred
from pykernel.uapi.linux.eventpoll import EPOLLIN, EPOLLOUT, EPOLLRDNORM, EPOLLWRNORM

if TYPE_CHECKING:
    from pykernel.kernel import Kernel
    from pykernel.sched import WaitQueue
    from pykernel.uapi.ioctl import Ioctl

__all__ = [
    "DEFAULT_POLLMASK",
    "MAY_EXEC",
    "MAY_READ",
    "MAY_WRITE",
    "PAGE_SIZE",
    "File",
    "FsNotify",
    "Inode",
    "Owner",
    "PollTable",
    "StatFs",
    "generic_llseek",
    "inode_newsize_ok",
    "may_open",
    "no_llseek",
    "permission",
    "setattr_prepare",
    "xattr_permission",
]

PAGE_SIZE = 4096
MAY_EXEC, MAY_WRITE, MAY_READ = 1, 2, 4
MAX_LFS_FILESIZE = (1 << 63) - 1
DEFAULT_POLLMASK = EPOLLIN | EPOLLOUT | EPOLLRDNORM | EPOLLWRNORM
O_ACCMODE = os.O_RDONLY | os.O_WRONLY | os.O_RDWR


@dataclass(frozen=True, slots=True)
class StatFs:
    """``struct kstatfs``, what differs between our file systems."""

    type: int
    bsize: int = PAGE_SIZE
    namelen: int = 255


class Inode:
    """``struct inode`` with its operations. Subclasses are the nodes of the file systems."""

    __slots__ = ("__weakref__", "_times", "gid", "ino", "kernel", "mode", "parent", "rdev", "uid")

    dev = 1
    statfs_row = StatFs(0)
    blksize = PAGE_SIZE
    noexec = False
    """Mounted noexec: nothing of it is mapped or run as a program."""
    s_maxbytes = MAX_LFS_FILESIZE
    """The size that no file can exceed. C: ``inode->i_sb->s_maxbytes``."""
    negative = True
    """lookup() of what is not there leaves a negative dentry, which a name can be made of."""

    def __init__(self, kernel: Kernel, mode: int, ino: int, parent: Inode | None = None) -> None:
        self.kernel = kernel
        self.mode = mode
        self.ino = ino
        self.parent = parent
        self.uid = 0
        self.gid = 0
        self.rdev = 0
        self._times: tuple[int, int, int] | None = None

    # ---- attributes

    @property
    def size(self) -> int:
        """st_size."""
        return 0

    @property
    def nlink(self) -> int:
        """st_nlink."""
        return 1

    @property
    def blocks(self) -> int:
        """st_blocks."""
        return 0

    @property
    def times_ns(self) -> tuple[int, int, int]:
        """Access, modification and change time."""
        if self._times is None:
            now = self.kernel.sched.realtime_ns()
            self._times = (now, now, now)
        return self._times

    def setattr(
        self,
        *,
        mode: int | None = None,
        uid: int | None = None,
        gid: int | None = None,
        size: int | None = None,
        atime_ns: int | None = None,
        mtime_ns: int | None = None,
    ) -> None:
        """Change attributes, checks done before (:func:`setattr_prepare`). C: ``i_op->setattr``."""
        if mode is not None:
            self.mode = stat.S_IFMT(self.mode) | (mode & 0o7777)
        if uid is not None:
            self.uid = uid
        if gid is not None:
            self.gid = gid
        atime, mtime, _ = self.times_ns
        now = self.kernel.sched.realtime_ns()
        self._times = (atime if atime_ns is None else atime_ns, mtime if mtime_ns is None else mtime_ns, now)

    # ---- what kind

    @property
    def is_dir(self) -> bool:
        """S_ISDIR."""
        return self.mode & 0o170000 == stat.S_IFDIR

    @property
    def is_link(self) -> bool:
        """S_ISLNK."""
        return self.mode & 0o170000 == stat.S_IFLNK

    @property
    def is_dead(self) -> bool:
        """IS_DEADDIR: a directory that was removed."""
        return False

    def name_of(self, child: Inode) -> str | None:
        """The name of *child* in this directory; None without."""
        return next((name for name, node in self.iterdir() if node is child), None)

    # ---- operations

    def lookup(self, name: str) -> Inode:
        """The child *name*. Raises ENOENT, and ENOTDIR when this is not a directory."""
        raise err(ENOENT if self.is_dir else ENOTDIR)

    def iterdir(self) -> Iterable[tuple[str, Inode]]:
        """The children by name, without "." and ".."."""
        raise err(ENOTDIR)

    def readlink(self) -> str:
        """A symbolic link's text. Raises EINVAL for what is none."""
        raise err(EINVAL)

    def follow(self) -> Inode | None:
        """A symbolic link's target where the file system knows the node itself, else None: walk the text."""
        return None

    def open(self, flags: int) -> File:
        """Open; permission was checked."""
        raise err(ENODEV)

    def create(self, name: str, mode: int, flags: int) -> Inode:
        """O_CREAT of a new file. fs/namei.c:lookup_open()."""
        raise err(EACCES)

    def mkdir(self, name: str, mode: int) -> Inode:
        """fs/namei.c:vfs_mkdir()."""
        raise err(EPERM)

    def mknod(self, name: str, mode: int, rdev: int) -> Inode:
        """fs/namei.c:vfs_mknod()."""
        raise err(EPERM)

    def symlink(self, name: str, target: str) -> Inode:
        """fs/namei.c:vfs_symlink()."""
        raise err(EPERM)

    def link(self, old: Inode, name: str) -> None:
        """fs/namei.c:vfs_link()."""
        raise err(EPERM)

    def unlink(self, name: str) -> None:
        """fs/namei.c:vfs_unlink()."""
        raise err(EPERM)

    def rmdir(self, name: str) -> None:
        """fs/namei.c:vfs_rmdir()."""
        raise err(EPERM)

    def rename(self, name: str, new_dir: Inode, new_name: str) -> None:
        """fs/namei.c:vfs_rename()."""
        raise err(EPERM)

    # ---- extended attributes and the file system

    def getxattr(self, name: str) -> bytes:
        """Raises EOPNOTSUPP: no handler, or ENODATA."""
        raise err(ENODATA if name.startswith(("trusted.", "security.")) else EOPNOTSUPP)

    def setxattr(self, name: str, value: bytes, flags: int) -> None:
        """Raises EOPNOTSUPP."""
        raise err(EOPNOTSUPP)

    def removexattr(self, name: str) -> None:
        """Raises EOPNOTSUPP."""
        raise err(EOPNOTSUPP)

    def listxattr(self) -> list[str]:
        """No names."""
        return []

    def statfs(self) -> StatFs:
        """The file system's own numbers."""
        return self.statfs_row

    def describe(self) -> str:
        """What /proc/PID/fd shows of what has no path; empty for what has one."""
        return ""


class Owner(Protocol):
    """The module whose code a file runs. C: ``file_operations.owner``."""

    def get_ref(self) -> None:
        """C: ``bool try_module_get(struct module *)``."""

    def put_ref(self) -> None:
        """C: ``void module_put(struct module *)``."""


class PollTable:
    """``poll_table``: collects the wait queues that a file's poll() names."""

    __slots__ = ("queues",)

    def __init__(self) -> None:
        self.queues: list[WaitQueue] = []

    def poll_wait(self, queue: WaitQueue) -> None:
        """C: ``void poll_wait(struct file *, wait_queue_head_t *, poll_table *)``."""
        self.queues.append(queue)


class File:
    """
    ``struct file``: an open file description.

    ``refs`` counts descriptors and mappings, the last one releases; ``cred`` is who opened it; ``can_odirect`` is
    FMODE_CAN_ODIRECT; ``has_fasync`` tells whether O_ASYNC can be set; ``read_iter`` and ``write_iter`` tell whether
    readv() and writev() are one call of the file's, or one for each part.
    """

    __slots__ = ("__weakref__", "cred", "flags", "inode", "owner", "pos", "refs")

    seekable = True
    can_odirect = False
    has_fasync = False
    read_iter = write_iter = True
    short_is_end = False  # a read that gives less than was asked for has reached the end

    def __init__(self, inode: Inode, flags: int) -> None:
        self.inode = inode
        self.cred = inode.kernel.current.cred
        self.owner: Owner | None = None
        self.flags = flags
        self.pos = 0
        self.refs = 1
        if inode.kernel.track_origins:
            inode.kernel.took(self)

    @property
    def can_read(self) -> bool:
        """FMODE_READ."""
        return self.flags & O_ACCMODE in (os.O_RDONLY, os.O_RDWR)

    @property
    def can_write(self) -> bool:
        """FMODE_WRITE."""
        return self.flags & O_ACCMODE in (os.O_WRONLY, os.O_RDWR)

    def pread(self, pos: int, count: int) -> bytes:
        """Read at *pos*. Raises EINVAL without a read operation."""
        raise err(EINVAL)

    def pwrite(self, pos: int, data: bytes) -> int:
        """Write at *pos*. Raises EINVAL without a write operation."""
        raise err(EINVAL)

    def read(self, count: int) -> bytes:
        """Read at the file's position and move it."""
        data = self.pread(self.pos, count)
        self.pos += len(data)
        return data

    def write(self, data: bytes) -> int:
        """Write at the file's position (or its end with O_APPEND) and move it."""
        pos = self.inode.size if self.flags & os.O_APPEND else self.pos
        n = self.pwrite(pos, data)
        self.pos = pos + n
        return n

    def llseek(self, offset: int, whence: int) -> int:
        """fs/read_write.c:generic_file_llseek(). Raises EINVAL."""
        self.pos = generic_llseek(self, offset, whence)
        return self.pos

    def poll(self, pt: PollTable) -> int:
        """Ready events; without an operation of its own a file is always ready. fs/select.c."""
        return DEFAULT_POLLMASK

    def ioctl(self, cmd: int, arg: int) -> int:
        """Raises ENOTTY."""
        raise err(ENOTTY)

    def ioctl_row(self, cmd: int) -> Ioctl[Any] | None:
        """Which ioctl *cmd* is for this file, for traces; None: it does not say."""
        return None

    def describe(self) -> str:
        """What a leak report calls it; empty: its path, or what /proc/PID/fd shows."""
        return ""

    def mmap(self, vma: Any) -> None:
        """Raises ENODEV."""
        raise err(ENODEV)

    def iterdir(self) -> Iterable[tuple[str, Inode]]:
        """getdents of an open directory. Raises ENOTDIR."""
        raise err(ENOTDIR)

    def flush(self) -> None:
        """Called at each close()."""

    def fsync(self) -> None:
        """Raises EINVAL."""
        raise err(EINVAL)

    def fallocate(self, mode: int, offset: int, length: int) -> None:
        """Raises EOPNOTSUPP."""
        raise err(EOPNOTSUPP)

    def release(self) -> None:
        """The last descriptor went."""

    def get(self) -> File:
        """One more reference. C: ``get_file()``."""
        self.refs += 1
        return self

    def put(self) -> None:
        """One reference less; releases at zero. C: ``fput()``."""
        self.refs -= 1
        if self.refs == 0:
            try:
                self.release()
            finally:
                if self.owner is not None:
                    self.owner.put_ref()


def generic_llseek(file: File, offset: int, whence: int, size: int | None = None) -> int:
    """
    The new position; the file's own is not changed. fs/read_write.c:generic_file_llseek_size().

    Raises:
        EINVAL: a negative or too large result, an unknown *whence*.
        ENXIO: SEEK_DATA or SEEK_HOLE beyond the end.
    """
    end = file.inode.size if size is None else size
    if whence == os.SEEK_SET:
        new = offset
    elif whence == os.SEEK_CUR:
        new = file.pos + offset
    elif whence == os.SEEK_END:
        new = end + offset
    elif whence in (os.SEEK_DATA, os.SEEK_HOLE):
        if not 0 <= offset < end:
            raise err(ENXIO)
        return offset if whence == os.SEEK_DATA else end
    else:
        raise err(EINVAL)
    if not 0 <= new <= MAX_LFS_FILESIZE:
        raise err(EINVAL)
    return new


def no_llseek(file: File, offset: int, whence: int) -> int:
    """C: ``no_llseek()``. Raises ESPIPE."""
    raise err(ESPIPE)


def permission(inode: Inode, mask: int, cred: Cred) -> None:
    """
    May *cred* do MAY_* *mask* to *inode*? fs/namei.c:generic_permission().

    Raises:
        EACCES: no.
    """
    mode = inode.mode
    if cred.uid == inode.uid:
        bits = mode >> 6
    elif cred.in_group(inode.gid):
        bits = mode >> 3
    else:
        bits = mode
    if mask & ~bits & 7 == 0:
        return
    if mode & 0o170000 == stat.S_IFDIR:
        if not mask & MAY_WRITE and cred.capable(CAP_DAC_READ_SEARCH):
            return
        if cred.capable(CAP_DAC_OVERRIDE):
            return
        raise err(EACCES)
    if mask == MAY_READ and cred.capable(CAP_DAC_READ_SEARCH):
        return
    if (not mask & MAY_EXEC or mode & 0o111) and cred.capable(CAP_DAC_OVERRIDE):
        return
    raise err(EACCES)


def may_open(inode: Inode, flags: int, cred: Cred) -> None:
    """
    The checks before a file is opened. fs/namei.c:may_open().

    Raises:
        ENOTDIR: O_DIRECTORY of something else.
        ELOOP: a symbolic link with O_NOFOLLOW.
        EISDIR: a directory for writing.
        EACCES: permission.
        EPERM: O_NOATIME of somebody else's.
    """
    kind = inode.mode & 0o170000
    acc = flags & O_ACCMODE
    if flags & os.O_DIRECTORY and kind != stat.S_IFDIR:
        raise err(ENOTDIR)
    if kind == stat.S_IFLNK:
        raise err(ELOOP)
    if kind == stat.S_IFDIR and (acc or flags & os.O_TRUNC):
        raise err(EISDIR)
    mask = (MAY_READ, MAY_WRITE, MAY_READ | MAY_WRITE, MAY_READ | MAY_WRITE)[acc]
    if flags & os.O_TRUNC:
        mask |= MAY_WRITE
    permission(inode, mask, cred)
    if flags & os.O_NOATIME and cred.uid != inode.uid and not cred.capable(CAP_FOWNER):
        raise err(EPERM)


def setattr_prepare(
    inode: Inode,
    cred: Cred,
    *,
    mode: int | None = None,
    uid: int | None = None,
    gid: int | None = None,
    times: str = "",
) -> None:
    """
    May *cred* change these attributes? fs/attr.c:setattr_prepare(). *times* is "", "now" or "set".

    Raises:
        EPERM: not the owner.
        EACCES: utime() to now by one who may not write.
    """
    owner = cred.uid == inode.uid
    if uid is not None and not (owner and uid == inode.uid) and not cred.capable(CAP_CHOWN):
        raise err(EPERM)
    if gid is not None and not (owner and (gid == inode.gid or cred.in_group(gid))) and not cred.capable(CAP_CHOWN):
        raise err(EPERM)
    if mode is not None and not owner and not cred.capable(CAP_FOWNER):
        raise err(EPERM)
    if times and not owner and not cred.capable(CAP_FOWNER):
        if times == "set":
            raise err(EPERM)
        permission(inode, MAY_WRITE, cred)


def inode_newsize_ok(inode: Inode, size: int) -> None:
    """C: ``int inode_newsize_ok(const struct inode *, loff_t)``. Raises EFBIG: more than the file system can have."""
    if size > max(inode.size, inode.s_maxbytes):
        raise err(EFBIG)


def xattr_permission(inode: Inode, name: str, mask: int, cred: Cred) -> None:
    """
    May *cred* read or write (*mask*) the extended attribute? fs/xattr.c:xattr_permission(), cap_inode_setxattr().

    Raises:
        EPERM, ENODATA: trusted and security are for the administrator; user is for files and directories.
        EACCES: as for the file.
    """
    write = bool(mask & MAY_WRITE)
    if name.startswith(("security.", "system.")):
        if write and not cred.capable(CAP_SYS_ADMIN):
            raise err(EPERM)
        return
    if name.startswith("trusted."):
        if not cred.capable(CAP_SYS_ADMIN):
            raise err(EPERM if write else ENODATA)
        return
    if name.startswith("user."):
        kind = stat.S_IFMT(inode.mode)
        if kind not in (stat.S_IFREG, stat.S_IFDIR):
            raise err(EPERM if write else ENODATA)
        mine = cred.uid == inode.uid or cred.capable(CAP_FOWNER)
        if write and kind == stat.S_IFDIR and inode.mode & stat.S_ISVTX and not mine:
            raise err(EPERM)
    permission(inode, mask, cred)


class FsNotify:
    """Who is told when a node comes, goes or changes: surfaces that cache, inotify."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.hooks: list[Callable[[str, Inode, str, Inode], None]] = []

    def subscribe(self, fn: Callable[[str, Inode, str, Inode], None]) -> None:
        """Call ``fn(event, parent, name, inode)`` with event "add", "remove" or "modify"."""
        self.hooks.append(fn)

    def __call__(self, event: str, parent: Inode, name: str, inode: Inode) -> None:
        """C: ``fsnotify()``."""
        if event != "modify":
            self.kernel.dcache.clear()
        for fn in self.hooks:
            fn(event, parent, name, inode)
