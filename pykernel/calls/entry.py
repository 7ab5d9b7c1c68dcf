"""Entering the kernel: what every system call has in common."""

from __future__ import annotations

import errno
import functools
import os
import stat
from collections.abc import Callable, Sequence
from errno import (
    EBADF,
    EINVAL,
    EIO,
    ENOMEM,
    ESRCH,
)
from threading import get_ident
from types import FunctionType
from typing import TYPE_CHECKING, Any, Concatenate, NoReturn, ParamSpec, TypeVar, cast

from pykernel.calls.arguments import At, NameArg, PathArg, text_of, wrong_argument
from pykernel.errors import ERESTARTSYS, err, is_bug
from pykernel.fs import namei
from pykernel.fs.fdtable import FdTable
from pykernel.fs.vfs import (
    File,
    Inode,
    PollTable,
    may_open,
)
from pykernel.task import Task
from pykernel.uapi.linux.eventpoll import EPOLLERR, EPOLLHUP

if TYPE_CHECKING:
    from pykernel.kernel import Kernel


__all__ = [
    "At",
    "Caller",
    "NameArg",
    "PathArg",
    "PathFile",
    "do_open",
    "do_poll",
    "rdev_of",
    "segments",
    "stat_of",
    "syscall",
]

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
POLLNVAL = 0x20
UMASK = 0o022
O_LARGEFILE = 0o100000
O_AT_OPEN = os.O_CREAT | os.O_EXCL | os.O_NOCTTY | os.O_TRUNC | os.O_CLOEXEC
C = TypeVar("C", bound="Caller")


def syscall(fn: Callable[Concatenate[C, P], R]) -> Callable[Concatenate[C, P], R]:
    """
    Enter the kernel in the caller's name, leave it with the work done that became ready.

    Only errnos come out, and TypeError and ValueError for arguments that a C compiler would not have taken.
    """
    name = fn.__name__.lstrip("_")

    @functools.wraps(fn)
    def enter(self: C, *args: P.args, **kw: P.kwargs) -> R:
        kernel = self.kernel
        if self.exited is not None:
            raise err(ESRCH, "the kernel was shut down" if kernel.dead else "the process has exited")
        if kernel.owner != get_ident():
            return kernel.call_from_thread(lambda: enter(self, *args, **kw))  # type: ignore[no-any-return]
        if kernel.barred:
            kernel.check_open()
        sched = kernel.sched
        if sched.exploring:
            sched.point()
        before, kernel.current = kernel.current, self.task
        kernel.depth += 1
        try:
            result = fn(self, *args, **kw)
            if kernel.trace.listeners:
                kernel.trace("syscall", name=name, args=args[:3], result=result)
            return result
        except BaseException as e:
            if not (isinstance(e, Exception) or is_bug(e)):
                raise
            _fail(cast("FunctionType", fn), kernel, e, args, kw)
        finally:
            kernel.current = before
            try:
                if sched.ready or sched.outside is not None:
                    sched.resched()
            finally:  # a client may be ended where others have their turn
                kernel.depth -= 1
            if kernel.foreign and not kernel.depth:
                kernel.serve_threads()

    return enter  # type: ignore[return-value]  # functools.wraps() forgets that self is positional


def _fail(fn: FunctionType, kernel: Kernel, e: BaseException, args: tuple[Any, ...], kw: dict[str, Any]) -> NoReturn:
    """Tell the caller of *e*: an errno, a wrong argument, or EIO and an oops."""
    wrong = wrong_argument(fn, e, args, kw) if isinstance(e, Exception) else None
    if wrong is not None:
        raise wrong from None
    if isinstance(e, MemoryError):
        raise err(ENOMEM, "Python has no memory for it") from e
    if not isinstance(e, OSError) or is_bug(e):
        kernel.oops(e)
        raise err(EIO, f"oops: {e}") from e
    if e.errno == ERESTARTSYS:
        raise err(errno.EINTR) from e
    if kernel.trace:
        code = errno.errorcode.get(e.errno or 0, e.errno)
        why = "; ".join(getattr(e, "__notes__", ()))
        kernel.trace("syscall", name=fn.__name__, args=args[:3], error=code, why=why)
    raise e


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
    if flags & os.O_DIRECT and not file.can_odirect:
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


def segments(parts: Sequence[T]) -> list[T]:
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


class Fs:
    """``struct fs_struct``: what the threads of a process share of its place."""

    __slots__ = ("cwd", "umask")

    def __init__(self, cwd: Inode) -> None:
        self.cwd = cwd
        self.umask = UMASK


class Caller:
    """A client on the direct surface. Descriptors, addresses and errnos are as a C program sees them."""

    def __init__(self, kernel: Kernel, task: Task, fds: FdTable, cwd: Inode) -> None:
        self.kernel = kernel
        self.task = task
        self.fds = task.files = fds
        self._fs = Fs(cwd)
        self.exited: int | None = None

    @property
    def cwd(self) -> Inode:
        """Where relative paths begin."""
        return self._fs.cwd

    @cwd.setter
    def cwd(self, inode: Inode) -> None:
        self._fs.cwd = inode

    @property
    def umask(self) -> int:
        """Bits of modes that new files do not get."""
        return self._fs.umask

    @umask.setter
    def umask(self, mask: int) -> None:
        self._fs.umask = mask

    @property
    def mem(self) -> Any:
        """The address space: ``read(addr, n)``, ``write(addr, data)``, ``alloc(n)``."""
        assert self.task.mm is not None
        return self.task.mm.mem

    @property
    def pid(self) -> int:
        """getpid(): the same in all threads."""
        return self.task.tgid

    @property
    def tid(self) -> int:
        """gettid()."""
        return self.task.pid

    def _walk(self, path: PathArg, *, follow: bool = True) -> Inode:
        if type(path) is str and path.isascii():
            return namei.walk(self.kernel, path, self.cwd, follow=follow)
        if isinstance(path, int):
            return self.fds.get(path).inode
        text, cwd = self._start(path)
        return namei.walk(self.kernel, text, cwd, follow=follow)

    def _start(self, path: PathArg) -> tuple[str, Inode]:
        """The path's text and where it starts. Raises EBADF; ValueError, TypeError: it is none."""
        if isinstance(path, At):
            text = text_of(path.path)
            return text, self.cwd if text[:1] == "/" else self.fds.get(path.fd).inode
        return text_of(cast("str", path)), self.cwd

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
