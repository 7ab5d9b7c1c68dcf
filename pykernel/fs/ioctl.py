"""
Ioctls: those that every file has (fs/ioctl.c:do_vfs_ioctl()), and how a driver's file names its own.

::

    class MyFile(IoctlFile):
        @ioctl(MY_GET_INFO)
        def get_info(self, info: my_info) -> my_info: ...

What is no file but gets a file's ioctls, as a device of VFIO does, is a subclass of :class:`IoctlMethods`.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from errno import EINVAL, ENOTTY, errorcode
from types import FunctionType
from typing import TYPE_CHECKING, Any, ClassVar, Final, NamedTuple

from pykernel.errors import Oops, err
from pykernel.fs.vfs import File
from pykernel.mm.uaccess import copy_from_user, copy_to_user
from pykernel.uapi.ioctl import Ioctl
from pykernel.uapi.struct import Struct

if TYPE_CHECKING:
    from pykernel.fs.fdtable import FdTable
    from pykernel.kernel import Kernel

__all__ = ["VFS_IOCTLS", "IoctlFile", "IoctlMethods", "do_vfs_ioctl", "ioctl", "vfs_ioctl"]

# include/uapi/asm-generic/ioctls.h
FIONREAD = 0x541B
FIONBIO = 0x5421
FIONCLEX = 0x5450
FIOCLEX = 0x5451
FIOASYNC = 0x5452
FIOQSIZE = 0x5460
FIGETBSZ = 2

INT_MAX: Final = 0x7FFFFFFF

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


def vfs_ioctl(file: File, cmd: int, arg: int) -> int:
    """
    The file's own ioctl. C: ``long vfs_ioctl(struct file *, unsigned int, unsigned long)``. Raises what the file does.

    Numbers mean one thing to one file and another to the next: the trace has the name that the file gives it.
    """
    kernel = file.inode.kernel
    if kernel.trace and (row := file.ioctl_row(cmd)) is not None:
        from pykernel.uapi.lookup import name_of

        kernel.trace("ioctl", name=name_of(row), number=cmd, of=type(file).__name__)
    return file.ioctl(cmd, arg)


def ioctl(row: Ioctl[Any]) -> Callable[[Callable[..., Any]], Any]:
    """
    The method of an :class:`IoctlMethods`, as every IoctlFile is one, that answers *row*; several above one method are
    several numbers.

    It is called with what the caller passes: the struct that the argument points to (all zeros when the number is an
    ``_IOR``), what it points to when the row names a C scalar (an array is bytes), else the argument itself. A second
    parameter gets the argument as it is: the user's pointer, for what lies behind the fields that every caller has.

    What it returns is what the caller gets: a struct, or the scalar of an ``_IOR`` or ``_IOWR``, is copied out and the
    result is 0; None is 0; a number from 0 on is the result. Failure is raised: ``raise err(EINVAL)``.

    Raises:
        TypeError: *row* is no row of a header, or the class has no IoctlMethods.
    """
    if not isinstance(row, Ioctl):
        raise TypeError(f"@ioctl takes a row like _IOWR(ord('x'), 0, my_struct), not {row!r}")

    def mark(method: Callable[..., Any]) -> _Marked:
        marked = method if isinstance(method, _Marked) else _Marked(method)
        marked.rows.append(row)
        return marked

    return mark


class _Marked:
    """A method on its way into a class: there it is the plain function again."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.rows: list[Ioctl[Any]] = []

    def __set_name__(self, owner: type, name: str) -> None:
        if not issubclass(owner, IoctlMethods) or not isinstance(self.function, FunctionType):
            raise TypeError(f"{owner.__name__}.{name}: @ioctl is for plain methods of an IoctlFile")
        setattr(owner, name, self.function)
        both = self.function.__code__.co_argcount > 2
        owner._own = (*owner.__dict__.get("_own", ()), *(_Call(row, name, both) for row in self.rows))


class _Call(NamedTuple):
    """What answers one number: the row, the method's name, whether it takes the pointer too."""

    row: Ioctl[Any]
    name: str
    pointer: bool


class IoctlMethods:
    """What has methods with :func:`ioctl` above them; another number is ENOTTY."""

    __slots__ = ()

    _own: ClassVar[tuple[_Call, ...]] = ()
    _calls: ClassVar[dict[int, _Call]]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        keys = [call.row.key for call in cls.__dict__.get("_own", ())]
        for call in cls.__dict__.get("_own", ()):
            if keys.count(call.row.key) > 1:
                raise TypeError(f"{cls.__name__}.{call.name}: {call.row.key} has two methods")

    @classmethod
    def ioctls(cls) -> dict[int, _Call]:
        """Number -> what answers it. The numbers are made when they are asked for first."""
        if "_calls" not in cls.__dict__:
            own = [call for c in reversed(cls.__mro__) for call in c.__dict__.get("_own", ())]
            cls._calls = {call.row.nr: call for call in own}
        return cls._calls

    @classmethod
    def method_row(cls, cmd: int) -> Ioctl[Any] | None:
        """The row of the method that answers *cmd*; None: there is none."""
        call = cls.ioctls().get(cmd)
        return None if call is None else call.row

    def call_ioctl(self, kernel: Kernel, cmd: int, arg: int) -> int:
        """
        Call the method of *cmd* for the running task.

        Raises:
            ENOTTY: there is none. EFAULT: *arg* does not point to as much memory as the struct has.
            EINVAL: the struct's ``argsz`` is less than the fields that callers must have.
            Oops: the method returned what is no result.
        """
        call = self.ioctls().get(cmd)
        if call is None:
            raise err(ENOTTY, f"{type(self).__name__} has no ioctl {cmd:#x}")
        row = call.row
        given = _argument(kernel, row, arg)
        room = getattr(given, "argsz", None) if isinstance(given, Struct) else None
        method = getattr(self, call.name)
        result = method(given, arg) if call.pointer else method(given)
        if row.struct is not None and isinstance(result, row.struct):
            copy_to_user(kernel, arg, bytes(result)[:room])
            return 0
        if row.reads and row.scalar and result is not None:
            copy_to_user(kernel, arg, row.pack(result))
            return 0
        if result is None:
            return 0
        if not isinstance(result, int) or not 0 <= result <= INT_MAX:
            hint = f": raise err({errorcode[-result]})" if isinstance(result, int) and -result in errorcode else ""
            raise Oops(f"{type(self).__name__}.{call.name}() returned {result!r}{hint}")
        return result


class IoctlFile(IoctlMethods, File):
    """A file whose ioctls are its own methods."""

    __slots__ = ()

    def ioctl(self, cmd: int, arg: int) -> int:
        """Call the method of *cmd*. Raises what :meth:`IoctlMethods.call_ioctl` does."""
        return self.call_ioctl(self.inode.kernel, cmd, arg)

    def ioctl_row(self, cmd: int) -> Ioctl[Any] | None:
        """The row of its method."""
        return self.method_row(cmd)


def _argument(kernel: Kernel, row: Ioctl[Any], arg: int) -> Any:
    if row.struct is None:
        if not row.scalar:
            return arg
        return row.unpack(copy_from_user(kernel, arg, row.size) if row.writes else bytes(row.size))
    if row.reads and not row.writes:
        return row.struct()
    given = row.struct.from_bytes(copy_from_user(kernel, arg, row.minsz))
    if getattr(given, "argsz", row.minsz) < row.minsz:
        raise err(EINVAL, f"argsz is {given.argsz}, {row.struct.__name__} has at least {row.minsz} bytes")
    return given
