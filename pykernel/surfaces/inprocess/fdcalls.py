"""
os and fcntl functions that take a descriptor. Each method is the function of its name for emulated descriptors.

eventfds are the emulated kernel's from the start: its drivers signal them, and act on what is written to them.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
from collections.abc import Callable
from errno import EAGAIN, EBADF, EDEADLK, EINVAL, ENOTTY
from functools import wraps
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from pykernel.errors import err
from pykernel.fs.vfs import File, Inode
from pykernel.surfaces.inprocess.files import is_tty
from pykernel.surfaces.inprocess.paths import statvfs_of

if TYPE_CHECKING:
    from pykernel.surfaces.inprocess.places import Places

__all__ = ["FcntlCalls", "FdCalls"]

IOCTL_BUFSZ = 1024
F_UNLCK = 2


class FdCalls:
    """Functions of os whose first argument is a descriptor."""

    names = (
        "read", "write", "pread", "pwrite", "readv", "writev", "preadv", "pwritev", "lseek", "close", "dup", "fstat",
        "fchmod", "fchown", "ftruncate", "fstatvfs", "fsync", "fdatasync", "posix_fallocate", "posix_fadvise", "isatty",
        "fpathconf", "get_blocking", "set_blocking", "lockf", "ttyname", "eventfd_read", "eventfd_write",
    )  # fmt: skip

    def __init__(self, places: Places, module: Any) -> None:
        self.files = places.files
        self.process = places.process
        self.real = {
            name: getattr(module, name)
            for name in (*self.names, "dup2", "closerange", "sendfile", "copy_file_range", "splice")
            if hasattr(module, name)
        }

    def table(self) -> dict[str, Callable[..., Any]]:
        """Name to function."""
        made = {name: self._dispatch(name) for name in self.names}
        for name in ("dup2", "closerange", "sendfile", "copy_file_range", "splice"):
            if name in self.real:
                made[name] = getattr(self, name)
        return made | {"eventfd": self.eventfd}

    def _dispatch(self, name: str) -> Callable[..., Any]:
        real, mine, files = self.real[name], getattr(self, name), self.files

        @wraps(real)
        def call(fd: Any, *args: Any, **kw: Any) -> Any:
            return (mine if fd in files else real)(fd, *args, **kw)

        return call

    # ---- eventfd

    def eventfd(self, initval: int, flags: int = os.EFD_CLOEXEC) -> int:
        """eventfd(). The host's number is inherited as ours is."""
        fd = self.process.eventfd(initval, flags)
        if not flags & os.EFD_CLOEXEC:
            os.set_inheritable(fd, True)  # noqa: FBT003 - it takes no names
        return fd

    def eventfd_read(self, fd: int, /) -> int:
        """eventfd_read()."""
        return int.from_bytes(self.process.read(fd, 8), "little")

    def eventfd_write(self, fd: int, value: int, /) -> None:
        """eventfd_write()."""
        self.process.write(fd, value.to_bytes(8, "little"))

    # ---- data

    def read(self, fd: int, length: int, /) -> bytes:
        """read()."""
        return self.process.read(fd, length)

    def write(self, fd: int, data: Any, /) -> int:
        """write()."""
        return self.process.write(fd, bytes(data))

    def pread(self, fd: int, length: int, offset: int, /) -> bytes:
        """pread()."""
        return self.process.pread(fd, length, offset)

    def pwrite(self, fd: int, data: Any, offset: int, /) -> int:
        """pwrite()."""
        return self.process.pwrite(fd, bytes(data), offset)

    @staticmethod
    def _scatter(data: bytes, buffers: Any) -> int:
        at = 0
        for buffer in buffers:
            view = memoryview(buffer).cast("B")
            part = data[at : at + len(view)]
            view[: len(part)] = part
            at += len(part)
        return len(data)

    def readv(self, fd: int, buffers: Any, /) -> int:
        """readv()."""
        return self._scatter(self.process.readv(fd, [memoryview(b).nbytes for b in buffers]), buffers)

    def preadv(self, fd: int, buffers: Any, offset: int, flags: int = 0, /) -> int:
        """preadv(), preadv2()."""
        if self.files[fd].read_iter:
            return self._scatter(self.process.pread(fd, _size(buffers), offset), buffers)
        return _each(buffers, lambda b, done: self._scatter(self.process.pread(fd, _size([b]), offset + done), [b]))

    def writev(self, fd: int, buffers: Any, /) -> int:
        """writev()."""
        return self.process.writev(fd, buffers)

    def pwritev(self, fd: int, buffers: Any, offset: int, flags: int = 0, /) -> int:
        """pwritev(), pwritev2()."""
        if self.files[fd].write_iter:
            return self.process.pwrite(fd, b"".join(buffers), offset)
        return _each(buffers, lambda b, done: self.process.pwrite(fd, bytes(b), offset + done))

    def lseek(self, fd: int, position: int, whence: int, /) -> int:
        """lseek()."""
        return self.process.lseek(fd, position, whence)

    def fsync(self, fd: int) -> None:
        """fsync()."""
        self.process.fsync(fd)

    fdatasync = fsync

    def posix_fallocate(self, fd: int, offset: int, length: int, /) -> None:
        """fallocate() with mode 0."""
        self.process.fallocate(fd, 0, offset, length)

    def posix_fadvise(self, fd: int, offset: int, length: int, advice: int, /) -> None:
        """mm/fadvise.c:generic_fadvise(): advice that changes nothing. Raises EINVAL: unknown advice."""
        self.process.fds.get(fd)
        if not os.POSIX_FADV_NORMAL <= advice <= os.POSIX_FADV_NOREUSE or length < 0:
            raise err(EINVAL)

    # ---- from one descriptor to another

    def _pull(self, fd: int, count: int, offset: int | None) -> bytes:
        if fd in self.files:
            if offset is None and self.files[fd].seekable:
                return self.process.pread(fd, count, self.process.lseek(fd, 0, os.SEEK_CUR))
            return self.process.read(fd, count) if offset is None else self.process.pread(fd, count, offset)
        data: bytes = self.real["read"](fd, count) if offset is None else self.real["pread"](fd, count, offset)
        return data

    def _push(self, fd: int, data: bytes, offset: int | None) -> int:
        if fd in self.files:
            return self.process.write(fd, data) if offset is None else self.process.pwrite(fd, data, offset)
        n: int = self.real["write"](fd, data) if offset is None else self.real["pwrite"](fd, data, offset)
        return n

    def _move(self, src: int, dst: int, count: int, at_src: int | None, at_dst: int | None) -> int:
        data = self._pull(src, count, at_src)
        if not data:
            return 0
        n = self._push(dst, data, at_dst)
        if at_src is None and src in self.files and self.files[src].seekable:
            self.process.lseek(src, n, os.SEEK_CUR)
        return n

    def sendfile(self, out_fd: int, in_fd: int, offset: int | None, count: int) -> int:
        """sendfile() between any two."""
        if out_fd in self.files or in_fd in self.files:
            return self._move(in_fd, out_fd, count, offset, None)
        return int(self.real["sendfile"](out_fd, in_fd, offset, count))

    def copy_file_range(
        self, src: int, dst: int, count: int, offset_src: int | None = None, offset_dst: int | None = None
    ) -> int:
        """copy_file_range() between any two."""
        if src in self.files or dst in self.files:
            return self._move(src, dst, count, offset_src, offset_dst)
        return int(self.real["copy_file_range"](src, dst, count, offset_src, offset_dst))

    def splice(
        self,
        src: int,
        dst: int,
        count: int,
        offset_src: int | None = None,
        offset_dst: int | None = None,
        flags: int = 0,
    ) -> int:
        """splice() between a real pipe and ours."""
        if src in self.files or dst in self.files:
            return self._move(src, dst, count, offset_src, offset_dst)
        return int(self.real["splice"](src, dst, count, offset_src, offset_dst, flags))

    # ---- the descriptor

    def close(self, fd: int) -> None:
        """close()."""
        self.process.close(fd)

    def closerange(self, fd_low: int, fd_high: int, /) -> None:
        """close() of all that are open in a range."""
        for fd in sorted(n for n in self.files if fd_low <= n < fd_high):
            self.process.close(fd)
        self.real["closerange"](fd_low, fd_high)

    def dup(self, fd: int, /) -> int:
        """dup(), close-on-exec."""
        return self.process.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 0)

    def dup2(self, fd: int, fd2: int, inheritable: bool = True) -> int:
        """dup2() from and onto any."""
        if fd in self.files:
            return self.process.dup2(fd, fd2, cloexec=not inheritable)
        result: int = self.real["dup2"](fd, fd2, inheritable)
        if fd2 in self.files:
            self.process.fds.forget(fd2)  # type: ignore[attr-defined]
        return result

    def fstat(self, fd: int) -> os.stat_result:
        """fstat()."""
        return self.process.fstat(fd)

    def fchmod(self, fd: int, mode: int) -> None:
        """fchmod()."""
        self.process.fchmod(fd, mode)

    def fchown(self, fd: int, uid: int, gid: int) -> None:
        """fchown()."""
        self.process.chown(fd, uid, gid)

    def ftruncate(self, fd: int, length: int, /) -> None:
        """ftruncate()."""
        self.process.ftruncate(fd, length)

    def fstatvfs(self, fd: int, /) -> os.statvfs_result:
        """fstatfs()."""
        return statvfs_of(self.process.statfs(fd))

    def fpathconf(self, fd: int, name: str | int, /) -> int:
        """PC_NAME_MAX of the file system, else the C library's for the root."""
        if name in ("PC_NAME_MAX", os.pathconf_names["PC_NAME_MAX"]):
            return self.process.statfs(fd).namelen
        return os.pathconf("/", name)

    def isatty(self, fd: int, /) -> bool:
        """isatty(3)."""
        return is_tty(self.process, fd)

    def ttyname(self, fd: int, /) -> str:
        """Raises ENOTTY."""
        raise err(ENOTTY)

    def get_blocking(self, fd: int, /) -> bool:
        """Not O_NONBLOCK."""
        return not self.process.fcntl(fd, fcntl.F_GETFL) & os.O_NONBLOCK

    def set_blocking(self, fd: int, blocking: bool, /) -> None:
        """O_NONBLOCK or not."""
        flags = self.process.fcntl(fd, fcntl.F_GETFL)
        self.process.fcntl(fd, fcntl.F_SETFL, flags & ~os.O_NONBLOCK if blocking else flags | os.O_NONBLOCK)

    def lockf(self, fd: int, command: int, length: int, /) -> None:
        """A record lock of the only process: always free. Raises EBADF: F_LOCK or F_TLOCK without write access."""
        file = self.process.fds.get(fd)
        if command in (os.F_LOCK, os.F_TLOCK) and not file.can_write:
            raise err(EBADF)


def _each(buffers: Any, move: Callable[[Any, int], int]) -> int:
    """One call for each part, up to the first that is short. C: ``ssize_t do_loop_readv_writev(...)``."""
    done = 0
    for buffer in buffers:
        try:
            n = move(buffer, done)
        except OSError:
            if done:
                break
            raise
        done += n
        if n < memoryview(buffer).nbytes:
            break
    return done


def _size(buffers: Any) -> int:
    return sum(memoryview(b).nbytes for b in buffers)


class FcntlCalls:
    """The functions of the fcntl module."""

    def __init__(self, places: Places) -> None:
        self.files = places.files
        self.process = places.process
        self.real = {name: getattr(fcntl, name) for name in ("fcntl", "ioctl", "flock", "lockf")}
        self.locks: WeakKeyDictionary[Inode, dict[File, int]] = WeakKeyDictionary()

    def table(self) -> dict[str, Callable[..., Any]]:
        """Name to function."""
        return {name: self._dispatch(name) for name in self.real}

    def _dispatch(self, name: str) -> Callable[..., Any]:
        real, mine, files = self.real[name], getattr(self, name), self.files

        @wraps(real)
        def call(fd: Any, *args: Any, **kw: Any) -> Any:
            number = fd if isinstance(fd, int) else fd.fileno() if hasattr(fd, "fileno") else -1
            return mine(number, *args, **kw) if number in files else real(fd, *args, **kw)

        return call

    def fcntl(self, fd: int, cmd: int, arg: Any = 0, /) -> Any:
        """Numbers; of the commands with a struct only the record locks, which nobody else holds."""
        file = self.process.fds.get(fd)
        if cmd in (fcntl.F_SETLK, fcntl.F_SETLKW):
            return bytes(arg)
        if cmd == fcntl.F_GETLK:
            return F_UNLCK.to_bytes(2, "little") + bytes(arg)[2:]
        if cmd in (fcntl.F_GETFD, fcntl.F_SETFD):
            self.real["fcntl"](fd, cmd, arg)  # the number's own flag goes along
        if cmd == fcntl.F_GETLEASE:
            return F_UNLCK
        if cmd in (1031, 1032) and not _is_pipe(file):  # F_SETPIPE_SZ, F_GETPIPE_SZ
            raise err(EBADF)
        return self.process.fcntl(fd, cmd, arg)

    def ioctl(self, fd: int, request: int, arg: Any = 0, mutate_flag: bool = True, /) -> Any:
        """Modules/fcntlmodule.c: a number, a writable buffer in place, or bytes of which a changed copy comes back."""
        if hasattr(arg, "__index__") and not isinstance(arg, bytes | bytearray):
            number = arg.__index__()
            if not -(1 << 31) <= number < 1 << 31:
                raise OverflowError("Python int too large to convert to C int")
            return self.process.ioctl(fd, request, number & 0xFFFFFFFF)
        data = arg.encode() if isinstance(arg, str) else arg
        view = memoryview(data)
        if mutate_flag and not view.readonly:
            place = (ctypes.c_char * view.nbytes).from_buffer(data)
            return self.process.ioctl(fd, request, ctypes.addressof(place))
        if view.nbytes > IOCTL_BUFSZ:
            raise ValueError("ioctl string arg too long")
        copy = ctypes.create_string_buffer(bytes(view), IOCTL_BUFSZ + 1)
        self.process.ioctl(fd, request, ctypes.addressof(copy))
        return copy.raw[: view.nbytes]

    def flock(self, fd: int, operation: int, /) -> None:
        """
        fs/locks.c:flock_lock_inode() for the open files of this process.

        Raises:
            EINVAL: no operation.
            EAGAIN: taken, and LOCK_NB.
            EDEADLK: taken: nobody else runs who could give it back.
        """
        file = self.process.fds.get(fd)
        kind = operation & ~fcntl.LOCK_NB
        if kind not in (fcntl.LOCK_SH, fcntl.LOCK_EX, fcntl.LOCK_UN):
            raise err(EINVAL)
        held = self.locks.setdefault(file.inode, {})
        for other in [f for f in held if not f.refs]:
            del held[other]
        others = [k for f, k in held.items() if f is not file]
        if kind == fcntl.LOCK_UN:
            held.pop(file, None)
        elif others and (kind == fcntl.LOCK_EX or fcntl.LOCK_EX in others):
            raise err(EAGAIN if operation & fcntl.LOCK_NB else EDEADLK)
        else:
            held[file] = kind

    def lockf(self, fd: int, cmd: int, length: int = 0, start: int = 0, whence: int = 0, /) -> None:
        """A record lock: nobody else holds any. Raises EBADF: the descriptor does not allow the kind."""
        file = self.process.fds.get(fd)
        if cmd & fcntl.LOCK_EX and not file.can_write:
            raise err(EBADF)
        if cmd & fcntl.LOCK_SH and not file.can_read:
            raise err(EBADF)
        if not cmd & (fcntl.LOCK_EX | fcntl.LOCK_SH | fcntl.LOCK_UN):
            raise ValueError("unrecognized lockf argument")


def _is_pipe(file: File) -> bool:
    return file.inode.mode & 0o170000 == 0o010000
