"""The FUSE calls that change or list directories and attributes: rare, so plain."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Sequence
from errno import EINVAL, EPERM, ERANGE
from typing import TYPE_CHECKING

from pykernel.errors import err
from pykernel.fs.kernfs import KernfsDir
from pykernel.fs.vfs import MAY_EXEC, MAY_WRITE, File, Inode, inode_newsize_ok, permission, setattr_prepare
from pykernel.surfaces.process import fuse_abi as abi
from pykernel.surfaces.process.fuse_abi import FATTR, Op
from pykernel.surfaces.process.nodes import host_ino, is_device
from pykernel.surfaces.process.statfs import STATFS_XATTR, STATFS_XATTR_VALUE
from pykernel.syscalls import do_open

if TYPE_CHECKING:
    from pykernel.surfaces.process.fuse import FuseServer

__all__ = ["DirOps"]

HEADER = abi.IN_HEADER.size
RENAME_NOREPLACE = 1


class DirFile(File):
    """An open directory: what it held when it was read from the start."""

    __slots__ = ("entries", "file")

    def __init__(self, file: File) -> None:
        super().__init__(file.inode, file.flags)
        self.file = file
        self.entries: Sequence[tuple[bytes, Inode]] = ()

    def fsync(self) -> None:
        """The directory's own."""
        self.file.fsync()

    def release(self) -> None:
        """The directory's own."""
        self.file.put()


class DirOps:
    """Rows of :attr:`FuseServer.ops`. *extras*: names that we add to the kernel's directories."""

    def __init__(self, server: FuseServer, extras: dict[Inode, dict[str, Inode]]) -> None:
        self.server = server
        self.extras = extras
        self.ops: dict[int, Callable[[int, int, int], bytes | None]] = {
            Op.LOOKUP: self.lookup,
            Op.SETATTR: self.setattr,
            Op.READLINK: self.readlink,
            Op.SYMLINK: self.symlink,
            Op.MKNOD: self.mknod,
            Op.MKDIR: self.mkdir,
            Op.UNLINK: self.unlink,
            Op.RMDIR: self.rmdir,
            Op.RENAME: self.rename,
            Op.LINK: self.link,
            Op.STATFS: self.statfs,
            Op.SETXATTR: self.setxattr,
            Op.GETXATTR: self.getxattr,
            Op.LISTXATTR: self.listxattr,
            Op.REMOVEXATTR: self.removexattr,
            Op.OPENDIR: self.opendir,
            Op.READDIR: self.readdir,
            Op.RELEASEDIR: server.release,
            Op.FSYNCDIR: server.fsync,
            Op.ACCESS: self.access,
            Op.CREATE: self.create,
            Op.RENAME2: self.rename,
        }

    # ---- look-up and listing, with our names mixed in

    def lookup(self, nodeid: int, n: int, unique: int) -> bytes:
        """FUSE_LOOKUP."""
        server = self.server
        entry = self._lookup(nodeid, n)
        if server.caller in server.again:
            server.again[server.caller] = server.nodes.by_id[int.from_bytes(entry[:8], "little")]
        return entry

    def _lookup(self, nodeid: int, n: int) -> bytes:
        """``fuse_entry_out``; the launcher finds removed nodes until it is their turn."""
        server = self.server
        nodes = server.nodes
        name = bytes(server.view[HEADER : n - 1]).decode("latin-1")
        if nodes.stale:
            old = nodes.stale.get((nodeid, name))
            if old is not None and server.keeps(old):
                return nodes.enter(old.inode, settle=False)
            if server.caller == server.flusher.tid:
                server.flusher.looks_up(nodeid, name)
            elif old is not None and not server.flusher.has(old):
                nodes.settle(old)
        where = server.live(nodeid)
        try:
            inode = where.lookup(name)
            return nodes.enter(inode, special=is_device(inode) and server.clients.only_looks(server.caller))
        except FileNotFoundError:
            ours = self.extras.get(where, {}).get(name)
            if ours is None:
                raise
            return nodes.enter(ours)

    def opendir(self, nodeid: int, n: int, unique: int) -> bytes:
        """FUSE_OPENDIR."""
        flags, _ = abi.OPEN_IN.unpack_from(self.server.buf, HEADER)
        file = do_open(self.server.kernel, self.server.live(nodeid), flags)
        return self.server.opened(DirFile(file))

    def readdir(self, nodeid: int, n: int, unique: int) -> bytes:
        """
        FUSE_READDIR.

        FUSE_READDIRPLUS is not asked for: the host gives the names of its answer to nodes whenever the reader comes to
        run, and puts them over what was looked up since (fs/fuse/readdir.c:fuse_direntplus_link()).
        """
        fh, off, size, *_ = abi.READ_IN.unpack_from(self.server.buf, HEADER)
        handle = self.server.files[fh]
        assert isinstance(handle, DirFile)
        if off == 0:
            handle.entries = self._entries(handle)
        out = bytearray()
        for i in range(off, len(handle.entries)):
            name, inode = handle.entries[i]
            length = abi.DIRENT.size + len(name)
            if len(out) + (length + 7 & ~7) > size:
                break
            out += abi.DIRENT.pack(host_ino(inode), i + 1, len(name), inode.mode >> 12) + name
            out += bytes(-length & 7)
        return bytes(out)

    def _entries(self, handle: DirFile) -> list[tuple[bytes, Inode]]:
        here = handle.inode
        children = dict(handle.file.iterdir())
        for name, inode in self.extras.get(here, {}).items():
            children.setdefault(name, inode)
        dots = [(b".", here), (b"..", here.parent or here)]
        return dots + [(name.encode("latin-1"), inode) for name, inode in children.items()]

    # ---- attributes

    def access(self, nodeid: int, n: int, unique: int) -> bytes:
        """FUSE_ACCESS: access(), chdir(); sent when the host leaves permissions to us."""
        mask, _ = abi.ACCESS_IN.unpack_from(self.server.buf, HEADER)
        permission(self.server.live(nodeid), mask & 7, self.server.kernel.current.cred)
        return b""

    def setattr(self, nodeid: int, n: int, unique: int) -> bytes:
        """FUSE_SETATTR. fs/attr.c:notify_change()."""
        server = self.server
        valid, _, _, size, _, atime, mtime, _, an, mn, _, mode, _, uid, gid, _ = abi.SETATTR_IN.unpack_from(
            server.buf, HEADER
        )
        node = server.nodes.by_id[nodeid]
        inode = node.inode if valid & FATTR.FH else server.live(nodeid)
        cred = server.kernel.current.cred
        now = server.kernel.sched.realtime_ns()
        new_mode = mode if valid & FATTR.MODE else None
        new_uid = uid if valid & FATTR.UID else None
        new_gid = gid if valid & FATTR.GID else None
        if valid & FATTR.SIZE:
            # fs/open.c:do_sys_ftruncate(), vfs_truncate(): the host takes a device for a regular file
            if not stat.S_ISREG(inode.mode):
                raise err(EINVAL)
            if not valid & FATTR.FH:
                permission(inode, MAY_WRITE, cred)
            inode_newsize_ok(inode, size)
        times = ""
        if valid & (FATTR.ATIME | FATTR.MTIME):
            times = "now" if valid & (FATTR.ATIME_NOW | FATTR.MTIME_NOW) else "set"
        setattr_prepare(inode, cred, mode=new_mode, uid=new_uid, gid=new_gid, times=times)
        inode.setattr(
            mode=new_mode,
            uid=new_uid,
            gid=new_gid,
            size=size if valid & FATTR.SIZE else None,
            atime_ns=_time(valid, FATTR.ATIME, FATTR.ATIME_NOW, atime, an, now),
            mtime_ns=_time(valid, FATTR.MTIME, FATTR.MTIME_NOW, mtime, mn, now),
        )
        return server.nodes.attr_out(node)

    def readlink(self, nodeid: int, n: int, unique: int) -> bytes:
        """FUSE_READLINK."""
        return self.server.live(nodeid).readlink().encode("latin-1")

    def statfs(self, nodeid: int, n: int, unique: int) -> bytes:
        """FUSE_STATFS. The magic number is the host's FUSE_SUPER_MAGIC: no field carries ours, see ``statfs.py``."""
        row = self.server.nodes.by_id[nodeid].inode.statfs()
        return abi.STATFS_OUT.pack(0, 0, 0, 0, 0, row.bsize, row.namelen, row.bsize, 0)

    # ---- names that come and go

    def _change(self, nodeid: int) -> Inode:
        """The directory, which the caller may change. fs/namei.c:may_create(), may_delete()."""
        where = self.server.live(nodeid)
        permission(where, MAY_WRITE | MAY_EXEC, self.server.kernel.current.cred)
        return where

    def create(self, nodeid: int, n: int, unique: int) -> bytes:
        """FUSE_CREATE."""
        server = self.server
        flags, mode, _, _ = abi.CREATE_IN.unpack_from(server.buf, HEADER)
        name = server.name(HEADER + abi.CREATE_IN.size, n)
        inode = self._change(nodeid).create(name, mode, flags)
        file = inode.open(flags & ~(os.O_CREAT | os.O_EXCL))
        return server.nodes.enter(inode) + server.opened(file)

    def mknod(self, nodeid: int, n: int, unique: int) -> bytes:
        """
        FUSE_MKNOD.

        Raises EPERM for a device, as in a container: the host would open its own driver, so it must not see one, but
        it takes nothing else for an answer here.
        """
        server = self.server
        mode, rdev, _, _ = abi.MKNOD_IN.unpack_from(server.buf, HEADER)
        if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
            raise err(EPERM)
        where, name = self._change(nodeid), server.name(HEADER + abi.MKNOD_IN.size, n)
        if stat.S_ISREG(mode):
            return server.nodes.enter(where.create(name, mode, 0))
        return server.nodes.enter(where.mknod(name, mode, rdev))

    def mkdir(self, nodeid: int, n: int, unique: int) -> bytes:
        """FUSE_MKDIR."""
        server = self.server
        mode, _ = abi.MKDIR_IN.unpack_from(server.buf, HEADER)
        return server.nodes.enter(self._change(nodeid).mkdir(server.name(HEADER + abi.MKDIR_IN.size, n), mode))

    def symlink(self, nodeid: int, n: int, unique: int) -> bytes:
        """FUSE_SYMLINK: the name, then the target."""
        server = self.server
        name = server.name(HEADER, n)
        target = server.name(HEADER + len(name) + 1, n)
        return server.nodes.enter(self._change(nodeid).symlink(name, target))

    def link(self, nodeid: int, n: int, unique: int) -> bytes:
        """FUSE_LINK."""
        server = self.server
        (old,) = abi.LINK_IN.unpack_from(server.buf, HEADER)
        inode = server.live(old)
        self._change(nodeid).link(inode, server.name(HEADER + abi.LINK_IN.size, n))
        return server.nodes.enter(inode)

    def unlink(self, nodeid: int, n: int, unique: int) -> bytes:
        """FUSE_UNLINK."""
        return self._remove(nodeid, n, "unlink")

    def rmdir(self, nodeid: int, n: int, unique: int) -> bytes:
        """FUSE_RMDIR."""
        return self._remove(nodeid, n, "rmdir")

    def _remove(self, nodeid: int, n: int, how: str) -> bytes:
        where, name = self._change(nodeid), self.server.name(HEADER, n)
        inode = where.lookup(name)
        getattr(where, how)(name)
        self.server.nodes.settled(inode)
        return b""

    def rename(self, nodeid: int, n: int, unique: int) -> bytes:
        """FUSE_RENAME, FUSE_RENAME2: RENAME_NOREPLACE was checked by the host; raises EINVAL for the other flags."""
        server = self.server
        plus = server.buf[4] == Op.RENAME2
        newdir, flags, _ = abi.RENAME2_IN.unpack_from(server.buf, HEADER) if plus else (
            *abi.RENAME_IN.unpack_from(server.buf, HEADER), 0, 0)  # fmt: skip
        start = HEADER + (abi.RENAME2_IN.size if plus else abi.RENAME_IN.size)
        old = server.name(start, n)
        new = server.name(start + len(old) + 1, n)
        where, to = self._change(nodeid), self._change(newdir)
        inode = where.lookup(old)
        # fs/kernfs/dir.c:kernfs_iop_rename() takes no flag, fs/libfs.c:simple_rename() this one
        if flags & (~0 if isinstance(where, KernfsDir) else ~RENAME_NOREPLACE):
            raise err(EINVAL)
        over = _find(to, new)
        where.rename(old, to, new)
        for moved in (inode, over):
            if moved is not None:
                server.nodes.settled(moved)
        return b""

    # ---- extended attributes

    def setxattr(self, nodeid: int, n: int, unique: int) -> bytes:
        """FUSE_SETXATTR: the name, then the value."""
        server = self.server
        size, flags = abi.SETXATTR_IN.unpack_from(server.buf, HEADER)
        start = HEADER + abi.SETXATTR_IN.size
        name = server.name(start, n)
        value = bytes(server.view[start + len(name) + 1 :][:size])
        server.live(nodeid).setxattr(name, value, flags)
        return b""

    def getxattr(self, nodeid: int, n: int, unique: int) -> bytes:
        """FUSE_GETXATTR."""
        server = self.server
        size, _ = abi.GETXATTR_IN.unpack_from(server.buf, HEADER)
        name = server.name(HEADER + abi.GETXATTR_IN.size, n)
        if name == STATFS_XATTR:
            row = server.nodes.by_id[nodeid].inode.statfs()
            return _sized(STATFS_XATTR_VALUE.pack(row.type, row.bsize, row.namelen), size)
        return _sized(server.live(nodeid).getxattr(name), size)

    def listxattr(self, nodeid: int, n: int, unique: int) -> bytes:
        """FUSE_LISTXATTR."""
        size, _ = abi.GETXATTR_IN.unpack_from(self.server.buf, HEADER)
        names = self.server.live(nodeid).listxattr()
        return _sized(b"".join(name.encode("latin-1") + b"\0" for name in names), size)

    def removexattr(self, nodeid: int, n: int, unique: int) -> bytes:
        """FUSE_REMOVEXATTR."""
        self.server.live(nodeid).removexattr(self.server.name(HEADER, n))
        return b""


def _find(where: Inode, name: str) -> Inode | None:
    try:
        return where.lookup(name)
    except FileNotFoundError:
        return None


def _sized(value: bytes, size: int) -> bytes:
    """getxattr's protocol: size 0 asks how long. Raises ERANGE."""
    if not size:
        return abi.GETXATTR_OUT.pack(len(value), 0)
    if size < len(value):
        raise err(ERANGE)
    return value


def _time(valid: int, bit: int, now_bit: int, sec: int, nsec: int, now: int) -> int | None:
    if not valid & bit:
        return None
    return now if valid & now_bit else sec * 1_000_000_000 + nsec
