"""Descriptor numbers: each emulated one holds the same real number, so that the two kinds never collide."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from errno import EBADF, EBUSY, EOPNOTSUPP
from functools import wraps
from typing import TYPE_CHECKING, Any

from pykernel.errors import err
from pykernel.fs.fdtable import FdTable

if TYPE_CHECKING:
    from pykernel.fs.vfs import File

__all__ = ["HostFdTable", "sendmsg_of"]


def sendmsg_of(files: dict[int, File], real: Callable[..., int]) -> Callable[..., int]:
    """
    The function that stands for ``socket.sendmsg()``, which ``socket.send_fds()`` calls, too.

    Who receives an emulated descriptor over a socket of the host would have an empty file: raises EOPNOTSUPP.
    """

    @wraps(real)
    def sendmsg(sock: socket.socket, buffers: Any, ancdata: Any = (), *rest: Any) -> int:
        ancdata = [*ancdata]
        for level, kind, data in ancdata:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                raw = bytes(data)
                for (fd,) in struct.iter_unpack("i", raw[: len(raw) & ~3]):
                    if fd in files:
                        raise OSError(EOPNOTSUPP, f"emulated descriptor {fd} cannot be sent over a socket of the host")
        return real(sock, buffers, ancdata, *rest)

    return sendmsg


class HostFdTable(FdTable):
    """
    Descriptors whose numbers the real kernel gave out: duplicates of one empty memfd keep them.

    The memfd's inode number tells ours from a file that took the number after somebody closed it behind our back.
    """

    __slots__ = ("alone", "close_real", "dup", "dup2_real", "fcntl", "fstat", "host", "ino", "placeholder")

    def __init__(self, host: File | None = None) -> None:
        super().__init__(limit=1 << 30)
        self.host = host  # stands for every file of the host: it is open, and nothing that a driver would know
        # the real functions, whatever is patched later
        self.dup, self.dup2_real, self.close_real = os.dup, os.dup2, os.close
        self.fstat, self.fcntl = os.fstat, fcntl.fcntl
        self.placeholder = os.memfd_create("pykernel")
        self.alone = False  # all of the program's calls come by us: nobody else closes our numbers
        self.ino = os.fstat(self.placeholder).st_ino

    def get(self, fd: int) -> File:
        """As :meth:`FdTable.get`; a number of the host's is a file that no driver knows. Raises EBADF."""
        try:
            return super().get(fd)
        except OSError:
            if self.host is None or not self._is_the_hosts(fd):
                raise
            return self.host

    def _is_the_hosts(self, fd: int) -> bool:
        try:
            return self.fstat(fd).st_ino != self.ino
        except (OSError, OverflowError):
            return False

    def install(self, file: File, *, cloexec: bool = False, start: int = 0) -> int:
        """Give *file* the number that the real kernel gives now. Raises EMFILE."""
        try:
            fd = self._take(start)
        except OSError:
            file.put()
            raise
        self.files[fd] = file
        if cloexec:
            self.cloexec.add(fd)
        return fd

    def _take(self, start: int = 0) -> int:
        fd: int = self.fcntl(self.placeholder, fcntl.F_DUPFD_CLOEXEC, start) if start else self.dup(self.placeholder)
        return fd

    def close(self, fd: int) -> None:
        """Give the number back, here and there. Raises EBADF, and what flush() says."""
        if fd not in self.files:
            raise err(EBADF)
        try:
            super().close(fd)
        finally:
            self._release(fd)

    def forget(self, fd: int) -> None:
        """The real number was taken over by a real file: close ours only."""
        super().close(fd)

    def dup2(self, old: int, new: int, *, cloexec: bool = False) -> int:
        """Take the real number *new* from whoever has it. Raises EBADF; EBUSY: it is about to get a file."""
        file = self.get(old)
        if new in self.unused:
            raise err(EBUSY)
        if new in self.files:
            self.forget(new)
        self.dup2_real(self.placeholder, new, inheritable=not cloexec)
        self.files[new] = file.get()
        (self.cloexec.add if cloexec else self.cloexec.discard)(new)
        return new

    def exit(self) -> None:
        """All of them, and the placeholder."""
        super().exit()
        if self.placeholder >= 0:
            self._release(self.placeholder)
            self.placeholder = -1

    def _release(self, fd: int) -> None:
        with suppress(OSError):
            if self.alone or self.fstat(fd).st_ino == self.ino:
                self.close_real(fd)
