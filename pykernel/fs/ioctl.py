"""The ioctls that every file has (fs/ioctl.c:do_vfs_ioctl())."""

from __future__ import annotations

import os
import stat
from errno import ENOTTY
from typing import TYPE_CHECKING

from pykernel.errors import err
from pykernel.mm.uaccess import copy_from_user, copy_to_user

if TYPE_CHECKING:
    from pykernel.fs.fdtable import FdTable
    from pykernel.fs.vfs import File

__all__ = ["VFS_IOCTLS", "do_vfs_ioctl"]

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
