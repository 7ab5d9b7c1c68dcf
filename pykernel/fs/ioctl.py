"""
Ioctls: those that every file has (fs/ioctl.c:do_vfs_ioctl()), and how a driver's file names its own.

::

    class MyFile(IoctlFile):
        @ioctl(MY_GET_INFO)
        def get_info(self, info: my_info) -> my_info: ...
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from errno import EINVAL, ENOTTY
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from pykernel.errors import err
from pykernel.fs.vfs import File
from pykernel.mm.uaccess import copy_from_user, copy_to_user
from pykernel.uapi.ioctl import Ioctl
from pykernel.uapi.struct import Struct

if TYPE_CHECKING:
    from pykernel.fs.fdtable import FdTable

__all__ = ["VFS_IOCTLS", "IoctlFile", "do_vfs_ioctl", "ioctl"]

# include/uapi/asm-generic/ioctls.h
FIONREAD = 0x541B
FIONBIO = 0x5421
FIONCLEX = 0x5450
FIOCLEX = 0x5451
FIOASYNC = 0x5452
FIOQSIZE = 0x5460
FIGETBSZ = 2

VFS_IOCTLS = frozenset({FIONREAD, FIONBIO, FIONCLEX, FIOCLEX, FIOASYNC, FIOQSIZE, FIGETBSZ})


def _switch(file: File, flag: int, arg: int) -> None:
    on = any(copy_from_user(file.inode.kernel, arg, 4))
    file.flags = file.flags | flag if on else file.flags & ~flag


def do_vfs_ioctl(fds: FdTable, fd: int, file: File, cmd: int, arg: int) -> int:
    """
    One of :data:`VFS_IOCTLS`; FIONREAD of what is no regular file is the file's own.

    Raises:
        EFAULT: *arg* does not point to memory. ENOTTY: FIOASYNC, FIOQSIZE of what has none.
    """
    inode = file.inode
    if cmd in (FIOCLEX, FIONCLEX):
        (fds.cloexec.add if cmd == FIOCLEX else fds.cloexec.discard)(fd)
    elif cmd == FIONBIO:
        _switch(file, os.O_NONBLOCK, arg)
    elif cmd == FIOASYNC:
        before = file.flags
        _switch(file, os.O_ASYNC, arg)
        if not file.has_fasync and file.flags != before:
            file.flags = before
            raise err(ENOTTY)
    elif cmd == FIOQSIZE:
        if stat.S_IFMT(inode.mode) not in (stat.S_IFDIR, stat.S_IFREG, stat.S_IFLNK):
            raise err(ENOTTY)
        copy_to_user(inode.kernel, arg, (inode.blocks * 512).to_bytes(8, "little"))
    elif cmd == FIGETBSZ:
        copy_to_user(inode.kernel, arg, inode.blksize.to_bytes(4, "little"))
    elif not stat.S_ISREG(inode.mode):
        return file.ioctl(cmd, arg)
    else:
        copy_to_user(inode.kernel, arg, (inode.size - file.pos & 0xFFFFFFFF).to_bytes(4, "little"))
    return 0


Method = TypeVar("Method", bound=Callable[..., Any])


def ioctl(row: Ioctl[Any]) -> Callable[[Method], Method]:
    """
    The method of an :class:`IoctlFile` that answers *row*.

    It is called with what the caller passes: the struct that the argument points to (all zeros when the number is an
    ``_IOR``), the number that it points to when the row names a C scalar, else the argument itself.

    What it returns is what the caller gets: a struct, or the scalar of an ``_IOR`` or ``_IOWR``, is copied out and the
    result is 0; None is 0; any other number is the result.
    """

    def mark(method: Method) -> Method:
        method.__dict__["ioctl"] = row
        return method

    return mark


class IoctlFile(File):
    """A file whose ioctls are its methods with :func:`ioctl` above them; another number is ENOTTY."""

    __slots__ = ()

    _rows: ClassVar[tuple[tuple[Ioctl[Any], str], ...]] = ()
    _calls: ClassVar[dict[int, tuple[Ioctl[Any], str]]]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        own = [(m.__dict__["ioctl"], name) for name, m in vars(cls).items() if "ioctl" in getattr(m, "__dict__", ())]
        cls._rows = (*cls._rows, *own)

    @classmethod
    def ioctls(cls) -> dict[int, tuple[Ioctl[Any], str]]:
        """Number -> row and name of the method. The numbers are made when they are asked for first."""
        if "_calls" not in cls.__dict__:
            cls._calls = {row.nr: (row, name) for row, name in cls._rows}
        return cls._calls

    def ioctl(self, cmd: int, arg: int) -> int:
        """
        Call the method of *cmd*.

        Raises:
            ENOTTY: there is none. EFAULT: *arg* does not point to as much memory as the struct has.
            EINVAL: the struct's ``argsz`` is less than the fields that callers must have.
        """
        found = self.ioctls().get(cmd)
        if found is None:
            raise err(ENOTTY, f"{type(self).__name__} has no ioctl {cmd:#x}")
        row, name = found
        kernel = self.inode.kernel
        given = self._argument(row, arg)
        size = row.size if not isinstance(given, Struct) else min(getattr(given, "argsz", 1 << 32), row.size)
        result = getattr(self, name)(given)
        if isinstance(result, Struct):
            copy_to_user(kernel, arg, bytes(result)[:size])
            return 0
        if row.reads and not row.struct and row.size and result is not None:
            copy_to_user(kernel, arg, (result & (1 << 8 * row.size) - 1).to_bytes(row.size, "little"))
            return 0
        return result or 0

    def _argument(self, row: Ioctl[Any], arg: int) -> Any:
        kernel = self.inode.kernel
        if row.struct is None:
            if not row.size:
                return arg
            return int.from_bytes(copy_from_user(kernel, arg, row.size), "little") if row.writes else 0
        if row.reads and not row.writes:
            return row.struct()
        given = row.struct.from_bytes(copy_from_user(kernel, arg, row.minsz))
        if getattr(given, "argsz", row.minsz) < row.minsz:
            raise err(EINVAL, f"argsz is {given.argsz}, {row.struct.__name__} has at least {row.minsz} bytes")
        return given
