"""A memory file system (fs/ramfs, mm/shmem.c): the root directory, /tmp and, with device nodes in it, devtmpfs."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from errno import EEXIST, EFBIG, EISDIR, ENAMETOOLONG, ENOENT, ENOSPC, ENOTEMPTY, ENXIO
from typing import TYPE_CHECKING

from pykernel.errors import err
from pykernel.fs.vfs import MAX_LFS_FILESIZE, File, FsNotify, Inode, StatFs

if TYPE_CHECKING:
    from pykernel.kernel import Kernel

__all__ = ["RamDir", "RamFile", "RamLink", "RamNode", "UpDir"]

TMPFS = StatFs(0x01021994)
ROOT_DEV = 2
NAME_MAX = 255
SIZE_MAX = 1 << 30  # bytes of one file: half of a machine's memory is what tmpfs takes


class RamNode(Inode):
    """Any node; ``ino`` comes from the kernel's counter for memory file systems, ``name`` is the last it got."""

    __slots__ = ("dev", "links", "name", "statfs_row")

    def __init__(self, kernel: Kernel, mode: int, parent: Inode | None = None) -> None:
        super().__init__(kernel, mode, kernel.sub(InoCounter).next(), parent)
        cred = kernel.current.cred
        self.uid, self.gid = cred.uid, cred.gid
        self.links = 1
        self.name = ""
        self.dev = ROOT_DEV if parent is None else parent.dev
        self.statfs_row = TMPFS if parent is None else parent.statfs_row

    def modified(self) -> None:
        """The content changed now. C: ``inode->i_mtime = inode->i_ctime = current_time(inode)``."""
        if self._times is not None:
            now = self.kernel.sched.realtime_ns()
            self._times = (self._times[0], now, now)

    @property
    def nlink(self) -> int:
        """st_nlink."""
        return self.links

    def open(self, flags: int) -> File:
        """Device nodes go to their driver. Raises ENXIO: a socket, or no driver."""
        kind = stat.S_IFMT(self.mode)
        if kind in (stat.S_IFCHR, stat.S_IFBLK):
            from pykernel.fs.chardev import chrdev_open

            return chrdev_open(self, flags)
        raise err(ENXIO)


class InoCounter:
    """Inode numbers of one kernel's memory file systems."""

    def __init__(self, kernel: Kernel) -> None:
        self.last = 0

    def next(self) -> int:
        """C: ``get_next_ino()``."""
        self.last += 1
        return self.last


class RamFile(RamNode):
    """A regular file."""

    __slots__ = ("data",)

    def __init__(self, kernel: Kernel, mode: int, parent: Inode | None = None, data: bytes = b"") -> None:
        super().__init__(kernel, stat.S_IFREG | mode, parent)
        self.data = bytearray(data)

    @property
    def size(self) -> int:
        """st_size."""
        return len(self.data)

    @property
    def blocks(self) -> int:
        """st_blocks: whole pages."""
        return (len(self.data) + 4095) // 4096 * 8

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
        """Attributes, and truncation."""
        super().setattr(mode=mode, uid=uid, gid=gid, atime_ns=atime_ns, mtime_ns=mtime_ns)
        if size is not None:
            check_size(size)
            del self.data[size:]
            self.data.extend(bytes(size - len(self.data)))
            self.modified()

    def open(self, flags: int) -> File:
        """Open the file."""
        return RamOpenFile(self, flags)


def check_size(size: int) -> None:
    """Raises EFBIG: more than a file can have; ENOSPC: more than the file system has."""
    if size > MAX_LFS_FILESIZE:
        raise err(EFBIG)
    if size > SIZE_MAX:
        raise err(ENOSPC)


class RamOpenFile(File):
    """An open regular file."""

    __slots__ = ()

    inode: RamFile

    def pread(self, pos: int, count: int) -> bytes:
        """Read."""
        return bytes(self.inode.data[pos : pos + count])

    def pwrite(self, pos: int, data: bytes) -> int:
        """Write; a hole before *pos* is filled with zeros."""
        inode = self.inode
        buf = inode.data
        if not data:
            return 0
        if self.flags & os.O_APPEND:
            pos = len(buf)
        check_size(pos + len(data))
        if pos > len(buf):
            buf.extend(bytes(pos - len(buf)))
        buf[pos : pos + len(data)] = data
        inode.modified()
        return len(data)

    def fsync(self) -> None:
        """Memory is always in sync."""


class RamLink(RamNode):
    """A symbolic link by text."""

    __slots__ = ("target",)

    def __init__(self, kernel: Kernel, target: str, parent: Inode | None = None) -> None:
        super().__init__(kernel, stat.S_IFLNK | 0o777, parent)
        self.target = target

    @property
    def size(self) -> int:
        """The text's length."""
        return len(self.target)

    def readlink(self) -> str:
        """The text."""
        return self.target


class RamDir(RamNode):
    """A directory that allows everything."""

    __slots__ = ("children", "dead")

    def __init__(self, kernel: Kernel, mode: int = 0o755, parent: Inode | None = None) -> None:
        super().__init__(kernel, stat.S_IFDIR | mode, parent)
        self.children: dict[str, Inode] = {}
        self.dead = False

    @property
    def nlink(self) -> int:
        """Two and one a sub-directory; none once it was removed."""
        return 0 if self.dead else 2 + sum(c.is_dir for c in self.children.values())

    @property
    def is_dead(self) -> bool:
        """rmdir() was here."""
        return self.dead

    def lookup(self, name: str) -> Inode:
        """Raises ENOENT, ENAMETOOLONG. fs/libfs.c:simple_lookup()."""
        try:
            return self.children[name]
        except KeyError:
            raise err(ENAMETOOLONG if len(name) > NAME_MAX else ENOENT) from None

    def iterdir(self) -> Iterable[tuple[str, Inode]]:
        """The children. After rmdir() there are none; the C library shows getdents()'s ENOENT as that, too."""
        return list(self.children.items())

    def name_of(self, child: Inode) -> str | None:
        """The name of *child*."""
        return next((name for name, node in self.children.items() if node is child), None)

    def open(self, flags: int) -> File:
        """Open for getdents()."""
        return RamDirFile(self, flags)

    def attach(self, name: str, node: Inode) -> Inode:
        """Put *node* here. Raises EEXIST."""
        if name in self.children:
            raise err(EEXIST)
        self.children[name] = node
        node.parent = self
        if isinstance(node, RamNode):
            node.name = name
        self.modified()
        self.kernel.sub(FsNotify)("add", self, name, node)
        return node

    def detach(self, name: str) -> Inode:
        """Take *name* out. Raises ENOENT."""
        node = self.lookup(name)
        del self.children[name]
        self.modified()
        self.kernel.sub(FsNotify)("remove", self, name, node)
        return node

    def _new(self, name: str, node: RamNode) -> Inode:
        # fs/inode.c:inode_init_owner(): a set-group-ID directory gives its group
        if self.mode & stat.S_ISGID:
            node.gid = self.gid
            node.mode |= stat.S_ISGID if node.is_dir else 0
        return self.attach(name, node)

    def create(self, name: str, mode: int, flags: int) -> Inode:
        """A new regular file."""
        return self._new(name, RamFile(self.kernel, mode, self))

    def mkdir(self, name: str, mode: int) -> Inode:
        """A new directory."""
        return self._new(name, RamDir(self.kernel, mode, self))

    def mknod(self, name: str, mode: int, rdev: int) -> Inode:
        """A device, FIFO or socket."""
        node = RamNode(self.kernel, mode, self)
        node.rdev = rdev
        return self._new(name, node)

    def symlink(self, name: str, target: str) -> Inode:
        """A new symbolic link."""
        return self._new(name, RamLink(self.kernel, target, self))

    def link(self, old: Inode, name: str) -> None:
        """Another name."""
        assert isinstance(old, RamNode)
        self.attach(name, old)
        old.links += 1

    def unlink(self, name: str) -> None:
        """One name less."""
        node = self.detach(name)
        if isinstance(node, RamNode):
            node.links -= 1

    def rmdir(self, name: str) -> None:
        """Raises ENOTEMPTY."""
        node = self.lookup(name)
        assert isinstance(node, RamDir)
        if node.children:
            raise err(ENOTEMPTY)
        self.detach(name)
        node.dead = True

    def rename(self, name: str, new_dir: Inode, new_name: str) -> None:
        """fs/libfs.c:simple_rename(). Raises ENOTEMPTY."""
        node = self.lookup(name)
        assert isinstance(new_dir, RamDir)
        if new_name in new_dir.children:
            new_dir.rmdir(new_name) if node.is_dir else new_dir.unlink(new_name)
        self.detach(name)
        new_dir.attach(new_name, node)


class UpDir(RamDir):
    """A directory where a look brings the devices up."""

    __slots__ = ()

    def lookup(self, name: str) -> Inode:
        """Raises ENOENT."""
        self.kernel.up()
        return super().lookup(name)

    def iterdir(self) -> list[tuple[str, Inode]]:
        """The entries."""
        self.kernel.up()
        return list(super().iterdir())


class RamDirFile(File):
    """An open directory."""

    __slots__ = ()

    def iterdir(self) -> Iterable[tuple[str, Inode]]:
        """The entries."""
        return self.inode.iterdir()

    def pread(self, pos: int, count: int) -> bytes:
        """Raises EISDIR."""
        raise err(EISDIR)

    def fsync(self) -> None:
        """Nothing to do."""
