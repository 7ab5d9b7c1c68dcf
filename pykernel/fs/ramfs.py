"""A memory file system (fs/ramfs, mm/shmem.c): the root directory, /tmp and, with device nodes in it, devtmpfs."""

from __future__ import annotations

import stat
from collections.abc import Iterable
from errno import EEXIST, EINVAL, EISDIR, ENOENT, ENOTDIR, ENOTEMPTY, ENXIO
from typing import TYPE_CHECKING

from pykernel.errors import err
from pykernel.fs.vfs import File, FsNotify, Inode, StatFs

if TYPE_CHECKING:
    from pykernel.kernel import Kernel

__all__ = ["RamDir", "RamFile", "RamLink", "RamNode"]

TMPFS_MAGIC = 0x01021994


class RamNode(Inode):
    """Any node; ``ino`` comes from the kernel's counter for memory file systems."""

    __slots__ = ("links",)

    statfs_row = StatFs(TMPFS_MAGIC)
    dev = 5

    def __init__(self, kernel: Kernel, mode: int, parent: Inode | None = None) -> None:
        super().__init__(kernel, mode, kernel.sub(InoCounter).next(), parent)
        cred = kernel.current.cred
        self.uid, self.gid = cred.uid, cred.gid
        self.links = 1

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
            del self.data[size:]
            self.data.extend(bytes(size - len(self.data)))

    def open(self, flags: int) -> File:
        """Open the file."""
        return RamOpenFile(self, flags)


class RamOpenFile(File):
    """An open regular file."""

    __slots__ = ()

    inode: RamFile

    def pread(self, pos: int, count: int) -> bytes:
        """Read."""
        return bytes(self.inode.data[pos : pos + count])

    def pwrite(self, pos: int, data: bytes) -> int:
        """Write; a hole before *pos* is filled with zeros."""
        buf = self.inode.data
        if pos > len(buf):
            buf.extend(bytes(pos - len(buf)))
        buf[pos : pos + len(data)] = data
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

    __slots__ = ("children",)

    def __init__(self, kernel: Kernel, mode: int = 0o755, parent: Inode | None = None) -> None:
        super().__init__(kernel, stat.S_IFDIR | mode, parent)
        self.children: dict[str, Inode] = {}

    @property
    def nlink(self) -> int:
        """Two and one a sub-directory."""
        return 2 + sum(c.is_dir for c in self.children.values())

    def lookup(self, name: str) -> Inode:
        """Raises ENOENT."""
        try:
            return self.children[name]
        except KeyError:
            raise err(ENOENT) from None

    def iterdir(self) -> Iterable[tuple[str, Inode]]:
        """The children."""
        return list(self.children.items())

    def open(self, flags: int) -> File:
        """Open for getdents()."""
        return RamDirFile(self, flags)

    def attach(self, name: str, node: Inode) -> Inode:
        """Put *node* here. Raises EEXIST."""
        if name in self.children:
            raise err(EEXIST)
        self.children[name] = node
        node.parent = self
        self.kernel.sub(FsNotify)("add", self, name, node)
        return node

    def detach(self, name: str) -> Inode:
        """Take *name* out. Raises ENOENT."""
        node = self.lookup(name)
        del self.children[name]
        self.kernel.sub(FsNotify)("remove", self, name, node)
        return node

    def create(self, name: str, mode: int, flags: int) -> Inode:
        """A new regular file."""
        return self.attach(name, RamFile(self.kernel, mode & 0o7777, self))

    def mkdir(self, name: str, mode: int) -> Inode:
        """A new directory."""
        return self.attach(name, RamDir(self.kernel, mode & 0o7777, self))

    def mknod(self, name: str, mode: int, rdev: int) -> Inode:
        """A new node of any kind."""
        node = RamFile(self.kernel, mode & 0o7777, self) if stat.S_ISREG(mode) else RamNode(self.kernel, mode, self)
        node.rdev = rdev
        return self.attach(name, node)

    def symlink(self, name: str, target: str) -> Inode:
        """A new symbolic link."""
        return self.attach(name, RamLink(self.kernel, target, self))

    def link(self, old: Inode, name: str) -> None:
        """Another name. Raises EEXIST."""
        if name in self.children:
            raise err(EEXIST)
        self.children[name] = old
        if isinstance(old, RamNode):
            old.links += 1

    def unlink(self, name: str) -> None:
        """Raises EISDIR."""
        if self.lookup(name).is_dir:
            raise err(EISDIR)
        self.detach(name)

    def rmdir(self, name: str) -> None:
        """Raises ENOTDIR, ENOTEMPTY."""
        node = self.lookup(name)
        if not isinstance(node, RamDir):
            raise err(ENOTDIR)
        if node.children:
            raise err(ENOTEMPTY)
        self.detach(name)

    def rename(self, name: str, new_dir: Inode, new_name: str) -> None:
        """fs/libfs.c:simple_rename(). Raises ENOTEMPTY, EISDIR, ENOTDIR."""
        node = self.lookup(name)
        assert isinstance(new_dir, RamDir)
        old = new_dir.children.get(new_name)
        if old is node:
            return
        if old is not None:
            if old.is_dir and not node.is_dir:
                raise err(EISDIR)
            new_dir.rmdir(new_name) if node.is_dir else new_dir.unlink(new_name)
        self.detach(name)
        new_dir.attach(new_name, node)


class RamDirFile(File):
    """An open directory."""

    __slots__ = ()

    def iterdir(self) -> Iterable[tuple[str, Inode]]:
        """The entries."""
        return self.inode.iterdir()

    def pread(self, pos: int, count: int) -> bytes:
        """Raises EISDIR."""
        raise err(EISDIR)

    def pwrite(self, pos: int, data: bytes) -> int:
        """Raises EINVAL; a directory cannot be opened for writing anyway."""
        raise err(EINVAL)

    def fsync(self) -> None:
        """Nothing to do."""
