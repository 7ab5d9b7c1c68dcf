"""Paths: attributes and directories (fs/stat.c, namei.c, xattr.c)."""

from __future__ import annotations

import errno
import os
import stat
from errno import (
    EINVAL,
    EISDIR,
    ENAMETOOLONG,
    ENOENT,
    ENOTDIR,
)

from pykernel.calls.arguments import NameArg, Text, buffer_of, text_of
from pykernel.calls.entry import Caller, PathArg, stat_of, syscall
from pykernel.errors import err
from pykernel.fs import change, namei
from pykernel.fs.namei import MAXSYMLINKS, PATH_MAX
from pykernel.fs.vfs import (
    MAY_EXEC,
    MAY_READ,
    MAY_WRITE,
    Inode,
    StatFs,
    inode_newsize_ok,
    permission,
    setattr_prepare,
    xattr_permission,
)
from pykernel.lib.names import host_text
from pykernel.task import CAP_FSETID, CAP_SYS_ADMIN

__all__ = ["Names"]

UINT_MAX = 0xFFFFFFFF


class Names(Caller):
    """Paths: part of ``Process``."""

    # ---- names and attributes

    @syscall
    def stat(self, path: PathArg) -> os.stat_result:
        """C: ``int stat(const char *, struct stat *)``."""
        return stat_of(self._walk(path))

    @syscall
    def lstat(self, path: PathArg) -> os.stat_result:
        """C: ``int lstat(const char *, struct stat *)``."""
        return stat_of(self._walk(path, follow=False))

    @syscall
    def fstat(self, fd: int) -> os.stat_result:
        """C: ``int fstat(int, struct stat *)``."""
        return stat_of(self.fds.get(fd).inode)

    @syscall
    def statfs(self, path: PathArg) -> StatFs:
        """C: ``int statfs(const char *, struct statfs *)``."""
        return self._walk(path).statfs()

    @syscall
    def access(self, path: PathArg, mode: int = os.F_OK) -> None:
        """C: ``int access(const char *, int)``. Raises EACCES, ENOENT."""
        inode = self._walk(path)
        if mode & os.X_OK and inode.noexec and stat.S_ISREG(inode.mode):
            raise err(errno.EACCES)
        if mode:
            permission(inode, mode & 7, self.task.cred)

    @syscall
    def readlink(self, path: PathArg) -> str:
        """C: ``ssize_t readlink(const char *, char *, size_t)``."""
        return host_text(self._walk(path, follow=False).readlink())

    @syscall
    def listdir(self, path: PathArg = ".") -> list[str]:
        """opendir() and getdents(): the names without "." and ".."."""
        return [host_text(name) for name, _ in self._opendir(path)]

    @syscall
    def scandir(self, path: PathArg = ".") -> list[tuple[str, Inode]]:
        """The entries with their inodes, for the surfaces."""
        return [(host_text(name), inode) for name, inode in self._opendir(path)]

    def _opendir(self, path: PathArg) -> list[tuple[str, Inode]]:
        if isinstance(path, int):
            return list(self.fds.get(path).iterdir())
        inode = self._walk(path)
        if not inode.is_dir:
            raise err(ENOTDIR)
        permission(inode, 4, self.task.cred)
        return list(inode.iterdir())

    def realpath(self, path: Text) -> str:
        """realpath(3), by getcwd(), lstat() and readlink(). Raises ENOENT, ENOTDIR, ELOOP, as the C library's does."""
        text = host_text(text_of(path))
        if not text:
            raise err(ENOENT)
        todo, links = text.split("/")[::-1], 0
        done = "" if text[0] == "/" else self.getcwd().rstrip("/")
        while todo:
            name = todo.pop()
            if name in ("", "."):
                continue
            if name == "..":
                done = done.rpartition("/")[0]
                continue
            here = f"{done}/{name}"
            mode = self.lstat(here).st_mode
            if stat.S_ISLNK(mode):
                links += 1
                if links > MAXSYMLINKS:
                    raise err(errno.ELOOP)
                target = self.readlink(here)
                todo += target.split("/")[::-1]
                done = "" if target.startswith("/") else done
                continue
            if todo and not stat.S_ISDIR(mode):
                raise err(ENOTDIR)
            done = here
        return done or "/"

    def _chmod(self, inode: Inode, mode: int) -> None:
        cred, mode = self.task.cred, mode & 0o7777
        setattr_prepare(inode, cred, mode=mode)
        if not cred.in_group(inode.gid) and not cred.capable(CAP_FSETID):
            mode &= ~stat.S_ISGID
        inode.setattr(mode=mode)

    @syscall
    def chmod(self, path: PathArg, mode: int) -> None:
        """C: ``int chmod(const char *, mode_t)``."""
        self._chmod(self._walk(path), mode)

    @syscall
    def fchmod(self, fd: int, mode: int) -> None:
        """C: ``int fchmod(int, mode_t)``."""
        self._chmod(self._fd(fd).inode, mode)

    @syscall
    def chown(self, path: PathArg, uid: int, gid: int, *, follow: bool = True) -> None:
        """C: ``int chown(const char *, uid_t, gid_t)``; -1 leaves an id; the types have 32 bits."""
        inode = self._walk(path, follow=follow)
        new_uid, new_gid = (None if n & UINT_MAX == UINT_MAX else n & UINT_MAX for n in (uid, gid))
        setattr_prepare(inode, self.task.cred, uid=new_uid, gid=new_gid)
        # fs/open.c:chown_common(): the set-ID bits go, set-group-ID only where it does not mean locking
        kill = 0 if inode.is_dir else stat.S_ISUID | (stat.S_ISGID if inode.mode & stat.S_IXGRP else 0)
        inode.setattr(mode=inode.mode & ~kill if inode.mode & kill else None, uid=new_uid, gid=new_gid)

    @syscall
    def utime(self, path: PathArg, times_ns: tuple[int, int] | None = None, *, follow: bool = True) -> None:
        """C: ``int utimensat(...)``; None is now."""
        inode = self._walk(path, follow=follow)
        setattr_prepare(inode, self.task.cred, times="set" if times_ns else "now")
        now = self.kernel.sched.realtime_ns()
        a, m = times_ns or (now, now)
        inode.setattr(atime_ns=a, mtime_ns=m)

    @syscall
    def truncate(self, path: PathArg, size: int) -> None:
        """C: ``int truncate(const char *, off_t)``. Raises EISDIR; EINVAL: a device."""
        if size < 0:
            raise err(EINVAL)
        inode = self._walk(path)
        if inode.is_dir:
            raise err(EISDIR)
        if not stat.S_ISREG(inode.mode):
            raise err(EINVAL)
        permission(inode, MAY_WRITE, self.task.cred)
        inode_newsize_ok(inode, size)
        inode.setattr(size=size)

    @syscall
    def ftruncate(self, fd: int, size: int) -> None:
        """C: ``int ftruncate(int, off_t)``."""
        file = self._fd(fd)
        if size < 0 or not file.can_write or not stat.S_ISREG(file.inode.mode):
            raise err(EINVAL)
        inode_newsize_ok(file.inode, size)
        file.inode.setattr(size=size)

    @syscall
    def getxattr(self, path: PathArg, name: Text, *, follow: bool = True) -> bytes:
        """C: ``ssize_t getxattr(...)``."""
        inode, name = self._walk(path, follow=follow), text_of(name)
        xattr_permission(inode, name, MAY_READ, self.task.cred)
        return inode.getxattr(name)

    @syscall
    def setxattr(self, path: PathArg, name: Text, value: bytes, flags: int = 0, *, follow: bool = True) -> None:
        """C: ``int setxattr(...)``."""
        inode, name = self._walk(path, follow=follow), text_of(name)
        xattr_permission(inode, name, MAY_WRITE, self.task.cred)
        inode.setxattr(name, buffer_of(value), flags)

    @syscall
    def removexattr(self, path: PathArg, name: Text, *, follow: bool = True) -> None:
        """C: ``int removexattr(...)``."""
        inode, name = self._walk(path, follow=follow), text_of(name)
        xattr_permission(inode, name, MAY_WRITE, self.task.cred)
        inode.removexattr(name)

    @syscall
    def listxattr(self, path: PathArg, *, follow: bool = True) -> list[str]:
        """C: ``ssize_t listxattr(...)``."""
        names = self._walk(path, follow=follow).listxattr()
        names = [host_text(name) for name in names]
        return names if self.task.cred.capable(CAP_SYS_ADMIN) else [n for n in names if not n.startswith("trusted.")]

    # ---- changing directories

    @syscall
    def mkdir(self, path: NameArg, mode: int = 0o777) -> None:
        """C: ``int mkdir(const char *, mode_t)``."""
        change.mkdir(self.kernel, self._start(path), mode & ~self.umask)

    @syscall
    def mknod(self, path: NameArg, mode: int = 0o600, rdev: int = 0) -> None:
        """C: ``int mknod(const char *, mode_t, dev_t)``; *rdev* as makedev() makes it. Raises EINVAL: over 32 bits."""
        if not 0 <= rdev <= UINT_MAX:
            raise err(EINVAL, "the C library's mknod() hands on 32 bits")
        dev = os.major(rdev) << 20 | os.minor(rdev)
        change.mknod(self.kernel, self._start(path), mode & ~self.umask, dev)

    @syscall
    def symlink(self, target: Text, path: NameArg) -> None:
        """C: ``int symlink(const char *, const char *)``. Raises ENAMETOOLONG: *target* has PATH_MAX bytes."""
        text = text_of(target)
        if len(text) >= PATH_MAX:  # fs/namei.c:getname()
            raise err(ENAMETOOLONG)
        change.symlink(self.kernel, text, self._start(path))

    @syscall
    def link(self, old: NameArg, new: NameArg) -> None:
        """C: ``int link(const char *, const char *)``."""
        change.link(self.kernel, self._walk(old, follow=False), self._start(new))

    @syscall
    def unlink(self, path: NameArg) -> None:
        """C: ``int unlink(const char *)``."""
        change.unlink(self.kernel, self._start(path))

    @syscall
    def rmdir(self, path: NameArg) -> None:
        """C: ``int rmdir(const char *)``."""
        change.rmdir(self.kernel, self._start(path))

    @syscall
    def rename(self, old: NameArg, new: NameArg) -> None:
        """C: ``int rename(const char *, const char *)``."""
        change.rename(self.kernel, self._start(old), self._start(new))

    @syscall
    def chdir(self, path: PathArg) -> None:
        """C: ``int chdir(const char *)``."""
        inode = self._walk(path)
        if not inode.is_dir:
            raise err(ENOTDIR)
        permission(inode, MAY_EXEC, self.task.cred)
        self.cwd = inode

    @syscall
    def getcwd(self) -> str:
        """C: ``char *getcwd(char *, size_t)``. Raises ENOENT: it was removed."""
        path = namei.d_path(self.kernel, self.cwd)
        if path.endswith(" (deleted)"):
            raise err(ENOENT)
        return host_text(path)
