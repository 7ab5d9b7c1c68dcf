"""
THE DOOR: one table of system calls. Every surface comes through here; what one can do, all can.

:class:`Process` has a method a call, with Linux's name; the :data:`SYSCALLS` table says which there are and how far
they go.
"""

from __future__ import annotations

import errno
import functools
import operator
import os
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from errno import (
    EBADF,
    EFAULT,
    EINVAL,
    EIO,
    EISDIR,
    EMFILE,
    ENODEV,
    ENOENT,
    ENOTDIR,
    ENOTSOCK,
    EOPNOTSUPP,
    EPERM,
    ESPIPE,
)
from mmap import MAP_ANONYMOUS, MAP_SHARED, PROT_EXEC, PROT_WRITE
from threading import get_ident
from typing import TYPE_CHECKING, Any, Concatenate, NamedTuple, ParamSpec, TypeVar

from pykernel.errors import ERESTARTSYS, err
from pykernel.fs import anon, change, namei
from pykernel.fs.eventpoll import EP_MAX_EVENTS, EventPoll, file_can_poll
from pykernel.fs.fdtable import FdTable
from pykernel.fs.ioctl import VFS_IOCTLS, do_vfs_ioctl
from pykernel.fs.vfs import (
    MAY_EXEC,
    MAY_READ,
    MAY_WRITE,
    File,
    Inode,
    PollTable,
    StatFs,
    may_open,
    permission,
    setattr_prepare,
    xattr_permission,
)
from pykernel.mm.sim import SimMemory
from pykernel.mm.vma import VM_MAYEXEC, VM_MAYWRITE, VM_SHARED, VM_WRITE, Vma
from pykernel.task import CAP_FOWNER, CAP_FSETID, CAP_SETGID, CAP_SETUID, CAP_SYS_ADMIN, Cred, Mm, Task
from pykernel.uapi.linux.eventfd import EFD_CLOEXEC, EFD_NONBLOCK, EFD_SEMAPHORE
from pykernel.uapi.linux.eventpoll import EPOLL_CLOEXEC, EPOLLERR, EPOLLHUP

if TYPE_CHECKING:
    from pykernel.kernel import Kernel
    from pykernel.uapi.struct import Struct

__all__ = ["SYSCALLS", "At", "PathArg", "Process", "Syscall", "do_open", "do_poll", "stat_of"]

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
AT_SYMLINK_NOFOLLOW = 0x100
POLLNVAL = 0x20
UMASK = 0o022
MAX_RW_COUNT = 0x7FFFF000
F_SETPIPE_SZ, F_GETPIPE_SZ = 1031, 1032  # include/uapi/linux/fcntl.h
SCM_MAX_FD = 253
MSG_CTRUNC, MSG_CMSG_CLOEXEC = 0x8, 0x40000000  # include/linux/socket.h
O_LARGEFILE = 0o100000
O_AT_OPEN = os.O_CREAT | os.O_EXCL | os.O_NOCTTY | os.O_TRUNC | os.O_CLOEXEC
O_CREAT_TMPFILE = os.O_CREAT | os.O_TMPFILE & ~os.O_DIRECTORY
O_UNUSUAL = O_CREAT_TMPFILE | os.O_PATH
O_PATH_FLAGS = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class At(NamedTuple):
    """A path that is relative to the directory open as *fd*, as in openat(2)."""

    fd: int
    path: str


PathArg = str | os.PathLike[str] | int | At
"""A path, or a descriptor where Linux has a call for it (fchmod, fstatfs, ...)."""


@dataclass(frozen=True, slots=True)
class Syscall:
    """One row: the call, the method that does it, and what is not as in Linux."""

    name: str
    method: str
    note: str = ""


SYSCALLS: tuple[Syscall, ...] = (
    Syscall("read", "read"),
    Syscall("write", "write"),
    Syscall("open", "open"),
    Syscall("close", "close"),
    Syscall("stat", "stat"),
    Syscall("fstat", "fstat"),
    Syscall("lstat", "lstat"),
    Syscall("poll", "poll"),
    Syscall("lseek", "lseek"),
    Syscall("mmap", "mmap"),
    Syscall("mprotect", "mprotect"),
    Syscall("munmap", "munmap"),
    Syscall("ioctl", "ioctl"),
    Syscall("pread64", "pread"),
    Syscall("pwrite64", "pwrite"),
    Syscall("readv", "readv"),
    Syscall("writev", "writev"),
    Syscall("access", "access"),
    Syscall("pipe2", "pipe"),
    Syscall("dup", "dup"),
    Syscall("dup3", "dup2"),
    Syscall("socketpair", "socketpair", "AF_UNIX streams only"),
    Syscall("sendmsg", "sendmsg", "data and SCM_RIGHTS"),
    Syscall("recvmsg", "recvmsg", "data and SCM_RIGHTS; of the flags MSG_CMSG_CLOEXEC"),
    Syscall("fork", "fork"),
    Syscall("execve", "exec", "closes close-on-exec descriptors, new address space; nothing is run"),
    Syscall("exit_group", "exit"),
    Syscall("fcntl", "fcntl", "F_DUPFD, F_DUPFD_CLOEXEC, F_[GS]ETFD, F_[GS]ETFL, F_[GS]ETPIPE_SZ"),
    Syscall("truncate", "truncate"),
    Syscall("ftruncate", "ftruncate"),
    Syscall("getdents64", "listdir"),
    Syscall("getcwd", "getcwd"),
    Syscall("chdir", "chdir"),
    Syscall("rename", "rename"),
    Syscall("mkdir", "mkdir"),
    Syscall("rmdir", "rmdir"),
    Syscall("link", "link"),
    Syscall("unlink", "unlink"),
    Syscall("symlink", "symlink"),
    Syscall("readlink", "readlink"),
    Syscall("chmod", "chmod"),
    Syscall("fchmod", "fchmod"),
    Syscall("chown", "chown"),
    Syscall("utimensat", "utime"),
    Syscall("mknod", "mknod"),
    Syscall("statfs", "statfs"),
    Syscall("setxattr", "setxattr"),
    Syscall("getxattr", "getxattr"),
    Syscall("listxattr", "listxattr"),
    Syscall("removexattr", "removexattr"),
    Syscall("setuid", "setuid", "sets all three ids"),
    Syscall("setgid", "setgid", "sets all three ids"),
    Syscall("fsync", "fsync"),
    Syscall("fallocate", "fallocate"),
    Syscall("eventfd2", "eventfd"),
    Syscall("epoll_create1", "epoll_create"),
    Syscall("epoll_ctl", "epoll_ctl"),
    Syscall("epoll_wait", "epoll_wait"),
    Syscall("sendfile", "sendfile"),
)


def syscall(fn: Callable[Concatenate[Process, P], R]) -> Callable[Concatenate[Process, P], R]:
    """Enter the kernel in the caller's name, leave it with the work done that became ready; only errnos come out."""
    name = fn.__name__

    @functools.wraps(fn)
    def enter(self: Process, *args: P.args, **kw: P.kwargs) -> R:
        kernel = self.kernel
        if kernel.owner != get_ident():
            return kernel.call_from_thread(lambda: enter(self, *args, **kw))  # type: ignore[no-any-return]
        before, kernel.current = kernel.current, self.task
        kernel.depth += 1
        try:
            result = fn(self, *args, **kw)
            if kernel.trace.listeners:
                kernel.trace("syscall", name=name, args=args[:3], result=result)
            return result
        except OSError as e:
            if e.errno == ERESTARTSYS:
                raise err(errno.EINTR) from e
            if kernel.trace:
                kernel.trace(
                    "syscall",
                    name=name,
                    args=args[:3],
                    error=errno.errorcode.get(e.errno or 0, e.errno),
                    why="; ".join(getattr(e, "__notes__", ())),
                )
            raise
        except Exception as e:
            if isinstance(e, (TypeError, ValueError)) and _raised_here(e):
                raise  # the caller's Python arguments
            kernel.oops(e)
            raise err(EIO, f"oops: {e}") from e
        finally:
            kernel.current = before
            if kernel.sched.ready:
                kernel.sched.run_ready()
            kernel.depth -= 1
            if kernel.foreign and not kernel.depth:
                kernel.serve_threads()

    return enter  # type: ignore[return-value]  # functools.wraps() forgets that self is positional


def _raised_here(e: BaseException) -> bool:
    """Whether *e* comes of this module's own lines and not of what they called."""
    tb = e.__traceback__
    while tb is not None and tb.tb_next is not None:
        tb = tb.tb_next
    return tb is not None and tb.tb_frame.f_code.co_filename == __file__


def do_open(kernel: Kernel, inode: Inode, flags: int, *, created: bool = False) -> File:
    """
    Open an inode that was found, for ``kernel.current``: checks, O_TRUNC. fs/namei.c:do_open().

    Raises:
        What may_open() and the file system say.
    """
    if not created:  # who makes a file may have it, whatever its mode
        may_open(inode, flags, kernel.current.cred)
    file = inode.open(flags & ~O_AT_OPEN | O_LARGEFILE)
    # fs/open.c:do_dentry_open(): the file system's open comes first, then FMODE_CAN_ODIRECT is asked
    if flags & os.O_DIRECT and not file.can_odirect and not stat.S_ISCHR(inode.mode):
        file.put()
        raise err(EINVAL, "no direct I/O here")
    if flags & os.O_TRUNC and stat.S_ISREG(inode.mode):
        inode.setattr(size=0)
    return file


class PathFile(File):
    """An O_PATH descriptor: a place and nothing else."""

    __slots__ = ()

    @property
    def can_read(self) -> bool:
        """No."""
        return False

    @property
    def can_write(self) -> bool:
        """No."""
        return False

    def _no(self, *_: Any) -> Any:
        raise err(EBADF)

    llseek = ioctl = fsync = iterdir = _no  # type: ignore[assignment]


def _segments(parts: Sequence[T]) -> list[T]:
    """The parts that fs/read_write.c:do_loop_readv_writev() makes calls of: an empty one is, if it is the first."""
    return [*parts[:1], *filter(None, parts[1:])]


def stat_of(inode: Inode) -> os.stat_result:
    """``struct stat``."""
    a, m, c = inode.times_ns
    size = inode.size
    return os.stat_result(
        (inode.mode, inode.ino, inode.dev, inode.nlink, inode.uid, inode.gid, size, a // 10**9, m // 10**9, c // 10**9),
        {
            "st_atime": a / 1e9,
            "st_mtime": m / 1e9,
            "st_ctime": c / 1e9,
            "st_atime_ns": a,
            "st_mtime_ns": m,
            "st_ctime_ns": c,
            "st_blksize": inode.blksize,
            "st_blocks": inode.blocks,
            "st_rdev": rdev_of(inode),
        },
    )


def rdev_of(inode: Inode) -> int:
    """st_rdev as user space has it: makedev(major, minor)."""
    return os.makedev(inode.rdev >> 20, inode.rdev & 0xFFFFF) if inode.rdev else 0


def do_poll(kernel: Kernel, wanted: Sequence[tuple[File | None, int]], timeout_ns: int | None) -> list[int]:
    """Wait until one of the files is ready: its events, POLLNVAL for no file. fs/select.c:do_poll()."""
    table = PollTable()

    def look() -> list[int]:
        table.queues.clear()
        return [POLLNVAL if f is None else f.poll(table) & (ev | EPOLLERR | EPOLLHUP) for f, ev in wanted]

    ready = look()
    if any(ready) or timeout_ns == 0:
        return ready
    queue = kernel.waitqueue()
    queues = list(table.queues)
    for q in queues:
        q.hooks.append(queue.wake_up)
    try:
        queue.wait_event(lambda: any(look()), timeout_ns)
    finally:
        for q in queues:
            q.hooks.remove(queue.wake_up)
    return look()


class Process:
    """A client on the direct surface. Descriptors, addresses and errnos are as a C program sees them."""

    def __init__(self, kernel: Kernel, task: Task, fds: FdTable, cwd: Inode) -> None:
        self.kernel = kernel
        self.task = task
        self.fds = fds
        self.cwd = cwd
        self.umask = UMASK
        self.exited: int | None = None

    @classmethod
    def create(cls, kernel: Kernel, cred: Cred, comm: str, mem: Any = None) -> Process:
        """A process with an address space of its own (*mem*, else simulated pages) and no descriptors."""
        pids = kernel.sub(Pids)
        task = Task(kernel, pids.alloc(), comm, cred, Mm(SimMemory() if mem is None else mem))
        return pids.add(cls(kernel, task, FdTable(), kernel.root))

    @property
    def mem(self) -> Any:
        """The address space: ``read(addr, n)``, ``write(addr, data)``, ``alloc(n)``."""
        assert self.task.mm is not None
        return self.task.mm.mem

    @property
    def pid(self) -> int:
        """getpid()."""
        return self.task.pid

    def _walk(self, path: PathArg, *, follow: bool = True) -> Inode:
        if type(path) is str:
            return namei.walk(self.kernel, path, self.cwd, follow=follow)
        if isinstance(path, int):
            return self.fds.get(path).inode
        text, cwd = self._start(path)
        return namei.walk(self.kernel, text, cwd, follow=follow)

    def _start(self, path: PathArg) -> tuple[str, Inode]:
        """The path's text and where it starts. Raises EBADF."""
        if isinstance(path, At):
            return path.path, self.cwd if path.path[:1] == "/" else self.fds.get(path.fd).inode
        assert not isinstance(path, int)
        return os.fspath(path), self.cwd

    # ---- open and close

    @syscall
    def open(self, path: PathArg, flags: int = os.O_RDONLY, mode: int = 0o666) -> int:
        """C: ``int open(const char *, int, mode_t)``."""
        fds = self.fds
        if len(fds.files) >= fds.limit:
            raise err(EMFILE)
        if flags & O_UNUSUAL:
            file = self._open_unusual(path, flags, mode)
        else:
            file = do_open(self.kernel, self._walk(path, follow=not flags & os.O_NOFOLLOW), flags)
        return fds.install(file, cloexec=bool(flags & os.O_CLOEXEC))

    def _open_unusual(self, path: PathArg, flags: int, mode: int) -> File:
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
        """C: ``int dup2(int, int)``, and dup3() with *cloexec*."""
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

    def _fd(self, fd: int) -> File:
        """C: ``struct fd fdget(unsigned int)``: O_PATH descriptors are no files. Raises EBADF."""
        file = self.fds.get(fd)
        if file.flags & os.O_PATH:
            raise err(EBADF)
        return file

    def _file(self, fd: int, *, write: bool) -> File:
        file = self.fds.get(fd)
        if not (file.can_write if write else file.can_read):
            raise err(EBADF)
        return file

    @syscall
    def read(self, fd: int, count: int) -> bytes:
        """C: ``ssize_t read(int, void *, size_t)``."""
        if count < 0:
            raise err(EINVAL)
        return self._file(fd, write=False).read(count if count < MAX_RW_COUNT else MAX_RW_COUNT)

    @syscall
    def write(self, fd: int, data: bytes) -> int:
        """C: ``ssize_t write(int, const void *, size_t)``."""
        return self._file(fd, write=True).write(bytes(data))

    @syscall
    def pread(self, fd: int, count: int, offset: int) -> bytes:
        """C: ``ssize_t pread(int, void *, size_t, off_t)``."""
        if offset < 0:
            raise err(EINVAL)
        return self._file(fd, write=False).pread(offset, min(count, MAX_RW_COUNT))

    @syscall
    def pwrite(self, fd: int, data: bytes, offset: int) -> int:
        """C: ``ssize_t pwrite(int, const void *, size_t, off_t)``."""
        if offset < 0:
            raise err(EINVAL)
        return self._file(fd, write=True).pwrite(offset, bytes(data))

    @syscall
    def readv(self, fd: int, sizes: Sequence[int]) -> bytes:
        """C: ``ssize_t readv(int, const struct iovec *, int)``: what is read into parts of *sizes*."""
        file, left = self._file(fd, write=False), sum(sizes)
        if not left:
            return b""
        if file.read_iter:
            return file.read(left)
        out = b""
        for size in _segments(sizes):
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
        file, data = self._file(fd, write=True), b"".join(parts)
        if file.write_iter or not data:
            return file.write(data) if data else 0
        done = 0
        for part in _segments(parts):
            try:
                n = file.write(bytes(part))
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
        file.fallocate(mode, offset, length)

    @syscall
    def ioctl(self, fd: int, cmd: int, arg: int | bytearray | Struct = 0) -> int:
        """
        C: ``int ioctl(int, unsigned long, ...)``.

        A bytearray or Struct is put into this process's memory, its address is passed, and it is read back.
        """
        file = self._fd(fd)
        cmd &= 0xFFFFFFFF
        if isinstance(arg, int):
            return self._ioctl(fd, file, cmd, arg)
        data = bytes(arg)
        addr = self.mem.alloc(len(data))
        self.mem.write(addr, data)
        result = self._ioctl(fd, file, cmd, addr)
        back = self.mem.read(addr, len(data))
        if isinstance(arg, bytearray):
            arg[:] = back
        else:
            arg.memory()[:] = back
        return result

    def _ioctl(self, fd: int, file: File, cmd: int, arg: int) -> int:
        return do_vfs_ioctl(self.fds, fd, file, cmd, arg) if cmd in VFS_IOCTLS else file.ioctl(cmd, arg)

    @syscall
    def poll(self, fds: Sequence[tuple[int, int]], timeout_ms: float | None = 0) -> list[tuple[int, int]]:
        """C: ``int poll(struct pollfd *, nfds_t, int)``; None waits for ever. The ready ones."""
        timeout = None if timeout_ms is None or timeout_ms < 0 else int(timeout_ms * 1e6)
        fds = [row for row in fds if row[0] >= 0]
        found = [self.fds.files.get(fd) for fd, _ in fds]
        wanted = [(None if f is None or f.flags & os.O_PATH else f, ev) for f, (_, ev) in zip(found, fds, strict=True)]
        return [(fd, ev) for (fd, _), ev in zip(fds, do_poll(self.kernel, wanted, timeout), strict=True) if ev]

    # ---- memory

    @syscall
    def mmap(self, addr: int, length: int, prot: int, flags: int, fd: int = -1, offset: int = 0) -> int:
        """C: ``void *mmap(void *, size_t, int, int, int, off_t)``."""
        if offset & 4095:
            raise err(EINVAL)
        if flags & MAP_ANONYMOUS:
            return int(self.mem.mmap(addr, length, prot, flags))
        file = self._fd(fd)
        if not file.can_read:
            raise err(errno.EACCES)
        shared = bool(flags & MAP_SHARED)
        if shared and prot & PROT_WRITE and not file.can_write:
            raise err(errno.EACCES)
        if file.inode.noexec and prot & PROT_EXEC:
            raise err(EPERM)

        def setup(vma: Vma) -> None:
            if file.inode.noexec:
                vma.vm_flags &= ~VM_MAYEXEC
            if shared and not file.can_write:
                vma.vm_flags &= ~(VM_MAYWRITE | VM_SHARED)
            file.mmap(vma)
            file.get()
            then = vma.close

            def close(gone: Vma) -> None:
                if then is not None:
                    then(gone)
                file.put()

            vma.close = close
            opened = vma.open

            def open(made: Vma) -> None:
                file.get()
                if opened is not None:
                    opened(made)

            vma.open = open

        return int(self.mem.mmap(addr, length, prot, flags, pgoff=offset >> 12, file=file, setup=setup))

    @syscall
    def munmap(self, addr: int, length: int) -> None:
        """C: ``int munmap(void *, size_t)``."""
        self.mem.munmap(addr, length)

    @syscall
    def mprotect(self, addr: int, length: int, prot: int) -> None:
        """C: ``int mprotect(void *, size_t, int)``."""
        self.mem.mprotect(addr, length, prot)

    @syscall
    def load(self, addr: int, n: int) -> bytes:
        """Instructions that read *n* bytes. Raises EFAULT where a program would get SIGSEGV or SIGBUS."""
        data: bytes = self.mem.read(addr, n)
        return data

    @syscall
    def store(self, addr: int, data: bytes) -> None:
        """Instructions that write *data*. Raises EFAULT where a program would get SIGSEGV or SIGBUS."""
        self.mem.write(addr, data)

    @syscall
    def movdir64b(self, addr: int, data: bytes) -> None:
        """The instruction: 64 bytes to *addr*, at once. Raises EFAULT where a program would get SIGSEGV or SIGBUS."""
        if len(data) != 64 or addr % 64:
            raise err(EINVAL, "64 bytes, to an address that is a multiple of 64 (#GP)")
        self.mem.write(addr, data)

    @syscall
    def enqcmd(self, addr: int, data: bytes) -> bool:
        """
        The instruction: a 64-byte command with this process's PASID; True means retry (ZF).

        Raises:
            EFAULT: not a mapped portal, or no PASID is bound (#GP in Linux).
        """
        if len(data) != 64 or addr % 64:
            raise err(EINVAL, "64 bytes, to an address that is a multiple of 64 (#GP)")
        vma = self.mem.vmas.find(addr)
        submit = getattr(vma.io, "enqcmd", None) if vma is not None and vma.vm_flags & VM_WRITE else None
        pasid = self.kernel.mm_pasid(self.task.mm)
        if submit is None or vma is None or not pasid:
            raise err(EFAULT, "no portal there, or no PASID for this address space")
        head = int.from_bytes(data[:4], "little") & ~0x800FFFFF | pasid
        return not submit(vma.offset(addr), head.to_bytes(4, "little") + data[4:])

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
        return self._walk(path, follow=False).readlink()

    @syscall
    def listdir(self, path: PathArg = ".") -> list[str]:
        """opendir() and getdents(): the names without "." and ".."."""
        return [name for name, _ in self._opendir(path)]

    @syscall
    def scandir(self, path: PathArg = ".") -> list[tuple[str, Inode]]:
        """The entries with their inodes, for the surfaces."""
        return self._opendir(path)

    def _opendir(self, path: PathArg) -> list[tuple[str, Inode]]:
        if isinstance(path, int):
            return list(self.fds.get(path).iterdir())
        inode = self._walk(path)
        if not inode.is_dir:
            raise err(ENOTDIR)
        permission(inode, 4, self.task.cred)
        return list(inode.iterdir())

    def realpath(self, path: str | os.PathLike[str]) -> str:
        """realpath(3), by lstat() and readlink()."""
        todo, done, links = os.fspath(path).split("/")[::-1], "", 0
        while todo:
            name = todo.pop()
            if name in ("", "."):
                continue
            if name == "..":
                done = done.rpartition("/")[0]
                continue
            here = f"{done}/{name}"
            if stat.S_ISLNK(self.lstat(here).st_mode):
                links += 1
                if links > 40:
                    raise err(errno.ELOOP)
                text = self.readlink(here)
                todo += text.split("/")[::-1]
                done = "" if text.startswith("/") else done
                continue
            done = here
        return done or "/"

    def _chmod(self, inode: Inode, mode: int) -> None:
        cred = self.task.cred
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
        """C: ``int chown(const char *, uid_t, gid_t)``; -1 leaves an id."""
        inode = self._walk(path, follow=follow)
        new_uid, new_gid = None if uid == -1 else uid, None if gid == -1 else gid
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
        inode.setattr(size=size)

    @syscall
    def ftruncate(self, fd: int, size: int) -> None:
        """C: ``int ftruncate(int, off_t)``."""
        file = self._fd(fd)
        if size < 0 or not file.can_write or not stat.S_ISREG(file.inode.mode):
            raise err(EINVAL)
        file.inode.setattr(size=size)

    @syscall
    def getxattr(self, path: PathArg, name: str, *, follow: bool = True) -> bytes:
        """C: ``ssize_t getxattr(...)``."""
        inode = self._walk(path, follow=follow)
        xattr_permission(inode, name, MAY_READ, self.task.cred)
        return inode.getxattr(name)

    @syscall
    def setxattr(self, path: PathArg, name: str, value: bytes, flags: int = 0, *, follow: bool = True) -> None:
        """C: ``int setxattr(...)``."""
        inode = self._walk(path, follow=follow)
        xattr_permission(inode, name, MAY_WRITE, self.task.cred)
        inode.setxattr(name, value, flags)

    @syscall
    def removexattr(self, path: PathArg, name: str, *, follow: bool = True) -> None:
        """C: ``int removexattr(...)``."""
        inode = self._walk(path, follow=follow)
        xattr_permission(inode, name, MAY_WRITE, self.task.cred)
        inode.removexattr(name)

    @syscall
    def listxattr(self, path: PathArg, *, follow: bool = True) -> list[str]:
        """C: ``ssize_t listxattr(...)``."""
        names = self._walk(path, follow=follow).listxattr()
        return names if self.task.cred.capable(CAP_SYS_ADMIN) else [n for n in names if not n.startswith("trusted.")]

    # ---- changing directories

    @syscall
    def mkdir(self, path: PathArg, mode: int = 0o777) -> None:
        """C: ``int mkdir(const char *, mode_t)``."""
        change.mkdir(self.kernel, self._start(path), mode & ~self.umask)

    @syscall
    def mknod(self, path: PathArg, mode: int = 0o600, rdev: int = 0) -> None:
        """C: ``int mknod(const char *, mode_t, dev_t)``; *rdev* as makedev() makes it."""
        dev = os.major(rdev) << 20 | os.minor(rdev)
        change.mknod(self.kernel, self._start(path), mode & ~self.umask, dev)

    @syscall
    def symlink(self, target: str, path: PathArg) -> None:
        """C: ``int symlink(const char *, const char *)``."""
        change.symlink(self.kernel, target, self._start(path))

    @syscall
    def link(self, old: PathArg, new: PathArg) -> None:
        """C: ``int link(const char *, const char *)``."""
        change.link(self.kernel, self._walk(old, follow=False), self._start(new))

    @syscall
    def unlink(self, path: PathArg) -> None:
        """C: ``int unlink(const char *)``."""
        change.unlink(self.kernel, self._start(path))

    @syscall
    def rmdir(self, path: PathArg) -> None:
        """C: ``int rmdir(const char *)``."""
        change.rmdir(self.kernel, self._start(path))

    @syscall
    def rename(self, old: PathArg, new: PathArg) -> None:
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
        return path

    # ---- anonymous files

    @syscall
    def eventfd(self, count: int = 0, flags: int = 0) -> int:
        """C: ``int eventfd(unsigned int, int)``. Raises EINVAL: unknown flags."""
        if flags & ~(EFD_CLOEXEC | EFD_NONBLOCK | EFD_SEMAPHORE):
            raise err(EINVAL)
        return self.fds.install(anon.EventFd(self.kernel, count & 0xFFFFFFFF, flags), cloexec=bool(flags & EFD_CLOEXEC))

    @syscall
    def pipe(self, flags: int = 0) -> tuple[int, int]:
        """C: ``int pipe2(int [2], int)``."""
        if flags & ~(os.O_CLOEXEC | os.O_NONBLOCK | os.O_DIRECT):
            raise err(EINVAL)
        return self._install_two(anon.pipe(self.kernel, flags), cloexec=bool(flags & os.O_CLOEXEC))

    def _install_two(self, files: tuple[File, File], *, cloexec: bool) -> tuple[int, int]:
        """Both or none. Raises EMFILE."""
        if len(self.fds.files) > self.fds.limit - 2:
            for file in files:
                file.put()
            raise err(EMFILE)
        return self.fds.install(files[0], cloexec=cloexec), self.fds.install(files[1], cloexec=cloexec)

    @syscall
    def socketpair(self, flags: int = 0) -> tuple[int, int]:
        """C: ``int socketpair(AF_UNIX, SOCK_STREAM | flags, 0, int [2])``."""
        if flags & ~(os.O_CLOEXEC | os.O_NONBLOCK):
            raise err(EINVAL)
        return self._install_two(anon.socketpair(self.kernel, flags), cloexec=bool(flags & os.O_CLOEXEC))

    def _socket(self, fd: int) -> anon.SocketEnd:
        file = self._fd(fd)
        if not isinstance(file, anon.SocketEnd):
            raise err(ENOTSOCK)
        return file

    @syscall
    def sendmsg(self, fd: int, data: bytes, fds: Sequence[int] = ()) -> int:
        """
        C: ``ssize_t sendmsg(int, const struct msghdr *, int)`` with SCM_RIGHTS *fds*.

        Raises EBADF, EPIPE; EINVAL: over 253 descriptors.
        """
        sock = self._socket(fd)
        if len(fds) > SCM_MAX_FD:
            raise err(EINVAL)
        return sock.sendmsg(bytes(data), [self.fds.get(n) for n in fds])

    @syscall
    def recvmsg(self, fd: int, count: int, room: int = SCM_MAX_FD, flags: int = 0) -> tuple[bytes, list[int], int]:
        """
        C: ``ssize_t recvmsg(int, struct msghdr *, int)``: the data, new descriptors, and the message's flags.

        Args:
            room: how many descriptors the control buffer holds; the others are lost, and MSG_CTRUNC says so.
            flags: MSG_CMSG_CLOEXEC or none. Raises EOPNOTSUPP for others.
        """
        sock = self._socket(fd)
        if flags & ~MSG_CMSG_CLOEXEC:
            raise err(EOPNOTSUPP, "of recvmsg's flags there is MSG_CMSG_CLOEXEC only")
        data, files = sock.recvmsg(count)
        fds: list[int] = []
        for file in files:  # net/core/scm.c:scm_detach_fds()
            if len(fds) < room and len(self.fds.files) < self.fds.limit:
                fds.append(self.fds.install(file, cloexec=bool(flags)))
            else:
                file.put()
        return data, fds, flags | (MSG_CTRUNC if len(fds) < len(files) else 0)

    # ---- epoll

    @syscall
    def epoll_create(self, flags: int = 0) -> int:
        """C: ``int epoll_create1(int)``. Raises EINVAL: unknown flags."""
        if flags & ~EPOLL_CLOEXEC:
            raise err(EINVAL)
        return self.fds.install(EventPoll(self.kernel), cloexec=bool(flags))

    @syscall
    def epoll_ctl(self, epfd: int, op: int, fd: int, events: int = 0, data: int | None = None) -> None:
        """
        C: ``int epoll_ctl(int, int, int, struct epoll_event *)``; *data* is *fd* unless said.

        Raises EBADF, EPERM (it cannot be polled), EINVAL, ELOOP, EEXIST, ENOENT.
        """
        ep, file = self._fd(epfd), self._fd(fd)
        if not file_can_poll(file):
            raise err(EPERM)
        if not isinstance(ep, EventPoll):
            raise err(EINVAL)
        ep.ctl(op, file, fd, events, fd if data is None else data)

    @syscall
    def epoll_wait(self, epfd: int, maxevents: int = 64, timeout_ms: float | None = 0) -> list[tuple[int, int]]:
        """C: ``int epoll_wait(int, struct epoll_event *, int, int)``: data and events; None waits for ever."""
        if not self.kernel.profile.epoll_wait_fd_first and not 0 < maxevents <= EP_MAX_EVENTS:
            raise err(EINVAL)
        ep = self._fd(epfd)
        if not 0 < maxevents <= EP_MAX_EVENTS or not isinstance(ep, EventPoll):
            raise err(EINVAL)
        return ep.wait(maxevents, None if timeout_ms is None or timeout_ms < 0 else int(timeout_ms * 1e6))

    # ---- processes

    @syscall
    def fork(self) -> Process:
        """C: ``pid_t fork(void)``: the child. Memory is copied, descriptors are shared files."""
        pids = self.kernel.sub(Pids)
        mem = self.mem.fork() if hasattr(self.mem, "fork") else self.mem
        task = Task(self.kernel, pids.alloc(), self.task.comm, self.task.cred, Mm(mem))
        child = Process(self.kernel, task, self.fds.fork(), self.cwd)
        child.umask = self.umask
        return pids.add(child)

    @syscall
    def exec(self, comm: str | None = None) -> None:
        """C: ``int execve(...)`` as the kernel sees it: a new address space, close-on-exec."""
        self.fds.exec()
        old, self.task.mm = self.task.mm, Mm(SimMemory())
        self.task.comm = comm or self.task.comm
        if old is not None and hasattr(old.mem, "exit"):
            old.mem.exit()

    @syscall
    def exit(self, code: int = 0) -> None:
        """C: ``void exit_group(int)``: mappings, then descriptors are given back."""
        if self.exited is None:
            self.exited = code
            if self.task.mm is not None and hasattr(self.task.mm.mem, "exit"):
                self.task.mm.mem.exit()
            self.fds.exit()
            self.kernel.sub(Pids).remove(self)

    @syscall
    def setuid(self, uid: int) -> None:
        """C: ``int setuid(uid_t)``. Raises EPERM."""
        cred = self.task.cred
        if uid != cred.uid and not cred.capable(CAP_SETUID):
            raise err(EPERM)
        self.task.cred = Cred(uid, cred.gid, cred.groups, 0 if uid and not cred.uid else cred.caps)

    @syscall
    def setgid(self, gid: int) -> None:
        """C: ``int setgid(gid_t)``. Raises EPERM."""
        cred = self.task.cred
        if gid != cred.gid and not cred.capable(CAP_SETGID):
            raise err(EPERM)
        self.task.cred = Cred(cred.uid, gid, cred.groups, cred.caps)

    # ---- convenience

    def read_text(self, path: str | os.PathLike[str]) -> str:
        """open, read to the end, close; latin-1."""
        fd = self.open(path)
        try:
            out = b""
            while data := self.read(fd, 65536):
                out += data
            return out.decode("latin-1")
        finally:
            self.close(fd)

    def write_text(self, path: str | os.PathLike[str], text: str) -> int:
        """open O_WRONLY, one write, close; latin-1."""
        fd = self.open(path, os.O_WRONLY)
        try:
            return self.write(fd, text.encode("latin-1"))
        finally:
            self.close(fd)

    def __repr__(self) -> str:
        return f"<Process {self.task.comm} pid={self.pid} uid={self.task.cred.uid} fds={sorted(self.fds.files)}>"


class Pids:
    """The processes of one kernel."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.last = 0
        self.processes: dict[int, Process] = {}
        kernel.at_exit(self._exit)
        kernel.check_leaks(self._leaks)

    def alloc(self) -> int:
        """C: ``struct pid *alloc_pid(...)``."""
        self.last += 1
        while self.last in self.processes:
            self.last += 1
        return self.last

    def add(self, process: Process) -> Process:
        """A process starts."""
        self.processes[process.pid] = process
        return process

    def remove(self, process: Process) -> None:
        """A process ended."""
        self.processes.pop(process.pid, None)

    def _exit(self) -> None:
        for process in list(self.processes.values()):
            process.exit()

    def of_mm(self, mm: Mm) -> str:
        """Whose address space *mm* is, for messages."""
        return next((_who(p) for p in self.processes.values() if p.task.mm is mm), "a process that ended")

    def _leaks(self) -> list[str]:
        return [line for p in self.processes.values() for line in (*_open_files(p), *_mappings(p))]


def _who(p: Process) -> str:
    return f"{p.task.comm} (pid {p.pid})"


def _describe(kernel: Kernel, inode: Inode) -> str:
    return inode.describe() or namei.d_path(kernel, inode)


def _open_files(p: Process) -> list[str]:
    kernel = p.kernel
    return [
        f"descriptor {fd} of {_who(p)}: {_describe(kernel, f.inode)}{kernel.origin(f)}" for fd, f in p.fds.files.items()
    ]


def _mappings(p: Process) -> list[str]:
    areas = getattr(p.mem, "vmas", ()) if p.task.mm is not None else ()
    return [
        f"mapping {v.vm_start:#x}-{v.vm_end:#x} of {_who(p)}: {_describe(p.kernel, v.vm_file.inode)}"
        f"{p.kernel.origin(v.vm_file)}"
        for v in areas
        if v.vm_file is not None
    ]
