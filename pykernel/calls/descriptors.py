"""Open files: open, close, dup, fcntl, read, write, seek, ioctl, poll (fs/open.c, read_write.c, fcntl.c, select.c)."""

from __future__ import annotations

import operator
import os
import stat
from collections.abc import Sequence
from errno import (
    EBADF,
    EFBIG,
    EINVAL,
    EMFILE,
    ENODEV,
    ENOTDIR,
    EOPNOTSUPP,
    EPERM,
    ESPIPE,
)
from typing import TYPE_CHECKING, SupportsIndex

from pykernel.calls.arguments import buffer_of
from pykernel.calls.entry import Caller, NameArg, PathFile, do_open, do_poll, segments, syscall
from pykernel.errors import err
from pykernel.fs import anon, change
from pykernel.fs.ioctl import VFS_IOCTLS, do_vfs_ioctl, vfs_ioctl
from pykernel.fs.vfs import (
    File,
    Inode,
)
from pykernel.task import CAP_FOWNER

if TYPE_CHECKING:
    from pykernel.uapi.struct import Struct


__all__ = ["Descriptors"]

MAX_RW_COUNT = 0x7FFFF000
UIO_MAXIOV = 1024  # include/uapi/linux/uio.h
F_SETPIPE_SZ, F_GETPIPE_SZ = 1031, 1032  # include/uapi/linux/fcntl.h
O_CREAT_TMPFILE = os.O_CREAT | os.O_TMPFILE & ~os.O_DIRECTORY
O_UNUSUAL = O_CREAT_TMPFILE | os.O_PATH
O_PATH_FLAGS = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def rw_count(count: int) -> int:
    """How much one call may move. fs/read_write.c:rw_verify_area(). Raises EINVAL: a negative ssize_t."""
    if not 0 <= count < 1 << 63:
        raise err(EINVAL, f"{count} bytes are no ssize_t")
    return min(count, MAX_RW_COUNT)


def import_iovec(sizes: Sequence[int]) -> list[int]:
    """The parts' sizes, as far as one call goes. C: ``ssize_t import_iovec(...)``. Raises EINVAL."""
    if len(sizes) > UIO_MAXIOV or any(not 0 <= n < 1 << 63 for n in sizes):
        raise err(EINVAL)
    left, out = MAX_RW_COUNT, list[int]()
    for n in sizes:
        out.append(min(n, left))
        left -= out[-1]
    return out


class Descriptors(Caller):
    """Open files: part of ``Process``."""

    # ---- open and close

    @syscall
    def open(self, path: NameArg, flags: int = os.O_RDONLY, mode: int = 0o666) -> int:
        """C: ``int open(const char *, int, mode_t)``."""
        fds = self.fds
        if len(fds.files) >= fds.limit:
            raise err(EMFILE)
        if flags & O_UNUSUAL:
            file = self._open_unusual(path, flags, mode)
        else:
            file = do_open(self.kernel, self._walk(path, follow=not flags & os.O_NOFOLLOW), flags)
        return fds.install(file, cloexec=bool(flags & os.O_CLOEXEC))

    def _open_unusual(self, path: NameArg, flags: int, mode: int) -> File:
        """O_PATH, O_TMPFILE and O_CREAT. fs/open.c:build_open_flags()."""
        if flags & os.O_PATH:
            flags &= O_PATH_FLAGS
            inode = self._walk(path, follow=not flags & os.O_NOFOLLOW)
            if flags & os.O_DIRECTORY and not inode.is_dir:
                raise err(ENOTDIR)
            return PathFile(inode, flags & ~os.O_CLOEXEC)
        if flags & O_CREAT_TMPFILE & ~os.O_CREAT:
            if flags & os.O_TMPFILE != os.O_TMPFILE or flags & os.O_CREAT or not flags & (os.O_WRONLY | os.O_RDWR):
                raise err(EINVAL)
            raise err(EOPNOTSUPP if self._walk(path).is_dir else ENOTDIR)
        if flags & os.O_DIRECTORY:
            raise err(EINVAL)
        inode, created = change.open_create(self.kernel, self._start(path), flags, mode & ~self.umask)
        return do_open(self.kernel, inode, flags, created=created)

    @syscall
    def close(self, fd: int) -> None:
        """C: ``int close(int)``."""
        self.fds.close(fd)

    @syscall
    def dup(self, fd: int) -> int:
        """C: ``int dup(int)``."""
        return self.fds.install(self.fds.get(fd).get())

    @syscall
    def dup2(self, old: int, new: int, *, cloexec: bool = False) -> int:
        """C: ``int dup2(int, int)``, and dup3() with *cloexec*, which takes no two equal ones (EINVAL)."""
        if cloexec and old == new:
            raise err(EINVAL)
        self.fds.get(old)
        return new if old == new else self.fds.dup2(old, new, cloexec=cloexec)

    @syscall
    def fcntl(self, fd: int, cmd: int, arg: int = 0) -> int:
        """C: ``int fcntl(int, int, ...)``. Raises EINVAL for other commands."""
        import fcntl as f

        file = self.fds.get(fd)
        if cmd in (f.F_DUPFD, f.F_DUPFD_CLOEXEC):
            if not 0 <= arg < self.fds.limit:
                raise err(EINVAL)
            return self.fds.install(file.get(), cloexec=cmd == f.F_DUPFD_CLOEXEC, start=arg)
        if cmd == f.F_GETFD:
            return f.FD_CLOEXEC if fd in self.fds.cloexec else 0
        if cmd == f.F_SETFD:
            (self.fds.cloexec.add if arg & f.FD_CLOEXEC else self.fds.cloexec.discard)(fd)
            return 0
        if cmd == f.F_GETFL:
            return file.flags
        if cmd == f.F_SETFL and not file.flags & os.O_PATH:
            if arg & os.O_DIRECT and not file.can_odirect:
                raise err(EINVAL)
            if (arg ^ file.flags) & os.O_NOATIME and not self._owns(file.inode):
                raise err(EPERM)
            changeable = os.O_APPEND | os.O_NONBLOCK | os.O_NOATIME | os.O_DIRECT | (file.has_fasync and os.O_ASYNC)
            file.flags = file.flags & ~changeable | arg & changeable
            return 0
        if cmd in (F_SETPIPE_SZ, F_GETPIPE_SZ):
            if not isinstance(file, anon.PipeEnd):
                raise err(EBADF)
            buffer = file.buffer
            return buffer.capacity if cmd == F_GETPIPE_SZ else buffer.resize(arg & 0xFFFFFFFF, self.task.cred)
        raise err(EBADF if file.flags & os.O_PATH else EINVAL)

    def _owns(self, inode: Inode) -> bool:
        """C: ``bool inode_owner_or_capable(...)``."""
        return self.task.cred.uid == inode.uid or self.task.cred.capable(CAP_FOWNER)

    # ---- data

    @syscall
    def read(self, fd: int, count: int) -> bytes:
        """C: ``ssize_t read(int, void *, size_t)``. Raises EINVAL: *count* is no ssize_t."""
        return self._file(fd, write=False).read(count if 0 <= count < MAX_RW_COUNT else rw_count(count))

    @syscall
    def write(self, fd: int, data: bytes) -> int:
        """C: ``ssize_t write(int, const void *, size_t)``."""
        return self._file(fd, write=True).write(buffer_of(data))

    @syscall
    def pread(self, fd: int, count: int, offset: int) -> bytes:
        """C: ``ssize_t pread(int, void *, size_t, off_t)``. Raises EINVAL: *count* or *offset* is negative."""
        if not 0 <= offset < 1 << 63:
            raise err(EINVAL)
        return self._file(fd, write=False).pread(offset, rw_count(count))

    @syscall
    def pwrite(self, fd: int, data: bytes, offset: int) -> int:
        """C: ``ssize_t pwrite(int, const void *, size_t, off_t)``. Raises EINVAL: *offset* is negative."""
        if not 0 <= offset < 1 << 63:
            raise err(EINVAL)
        return self._file(fd, write=True).pwrite(offset, buffer_of(data))

    @syscall
    def readv(self, fd: int, sizes: Sequence[int]) -> bytes:
        """C: ``ssize_t readv(int, const struct iovec *, int)``: what is read into parts of *sizes*."""
        self.fds.get(fd)
        sizes = import_iovec(sizes)
        file, left = self._file(fd, write=False), sum(sizes)
        if not left:
            return b""
        if file.read_iter:
            return file.read(left)
        out = b""
        for size in segments(sizes):
            try:
                part = file.read(size)
            except OSError:
                if out:
                    break
                raise
            out += part
            if len(part) < size:
                break
        return out

    @syscall
    def writev(self, fd: int, parts: Sequence[bytes]) -> int:
        """C: ``ssize_t writev(int, const struct iovec *, int)``."""
        self.fds.get(fd)
        parts = [buffer_of(part) for part in parts]
        import_iovec([len(part) for part in parts])
        file, data = self._file(fd, write=True), b"".join(parts)
        if file.write_iter or not data:
            return file.write(data) if data else 0
        done = 0
        for part in segments(parts):
            try:
                n = file.write(part)
            except OSError:
                if done:
                    break
                raise
            done += n
            if n < len(part):
                break
        return done

    @syscall
    def lseek(self, fd: int, offset: int, whence: int = os.SEEK_SET) -> int:
        """C: ``off_t lseek(int, off_t, int)``."""
        file = self.fds.get(fd)
        if not 0 <= whence <= os.SEEK_HOLE:
            raise err(EINVAL)
        return file.llseek(operator.index(offset), whence)

    @syscall
    def sendfile(self, out: int, in_: int, offset: int | None, count: int) -> int:
        """C: ``ssize_t sendfile(int, int, off_t *, size_t)``."""
        src, dst = self._file(in_, write=False), self._file(out, write=True)
        count = rw_count(count)
        data = src.read(count) if offset is None else src.pread(offset, count)
        return dst.write(data) if data else 0

    @syscall
    def fsync(self, fd: int) -> None:
        """C: ``int fsync(int)``."""
        self.fds.get(fd).fsync()

    @syscall
    def fallocate(self, fd: int, mode: int, offset: int, length: int) -> None:
        """C: ``int fallocate(int, int, off_t, off_t)``."""
        file = self._fd(fd)
        if offset < 0 or length <= 0:
            raise err(EINVAL)
        if not file.can_write:
            raise err(EBADF)
        kind = stat.S_IFMT(file.inode.mode)
        if kind == stat.S_IFIFO:
            raise err(ESPIPE)
        if kind != stat.S_IFREG:
            raise err(ENODEV)
        if offset + length > file.inode.s_maxbytes:
            raise err(EFBIG)
        file.fallocate(mode, offset, length)

    @syscall
    def ioctl(self, fd: int, cmd: SupportsIndex, arg: int | bytearray | Struct = 0) -> int:
        """
        C: ``int ioctl(int, unsigned long, ...)``.

        A bytearray or Struct is put into this process's memory, its address is passed, and it is read back, also when
        the call fails: some tell then what they would need.
        """
        file = self._fd(fd)
        cmd = operator.index(cmd) & 0xFFFFFFFF
        if isinstance(arg, int):
            return self._ioctl(fd, file, cmd, arg)
        room = arg if isinstance(arg, bytearray) else arg.memory()
        addr = self.mem.alloc(len(room))
        self.mem.write(addr, bytes(room))
        try:
            return self._ioctl(fd, file, cmd, addr)
        finally:
            room[:] = self.mem.read(addr, len(room))

    def _ioctl(self, fd: int, file: File, cmd: int, arg: int) -> int:
        return do_vfs_ioctl(self.fds, fd, file, cmd, arg) if cmd in VFS_IOCTLS else vfs_ioctl(file, cmd, arg)

    @syscall
    def poll(self, fds: Sequence[tuple[int, int]], timeout_ms: float | None = 0) -> list[tuple[int, int]]:
        """C: ``int poll(struct pollfd *, nfds_t, int)``; None waits for ever. The ready ones."""
        timeout = None if timeout_ms is None or timeout_ms < 0 else int(timeout_ms * 1e6)
        fds = [row for row in fds if operator.index(row[0]) >= 0]
        found = [self.fds.files.get(fd) for fd, _ in fds]
        wanted = [(None if f is None or f.flags & os.O_PATH else f, ev) for f, (_, ev) in zip(found, fds, strict=True)]
        return [(fd, ev) for (fd, _), ev in zip(fds, do_poll(self.kernel, wanted, timeout), strict=True) if ev]
