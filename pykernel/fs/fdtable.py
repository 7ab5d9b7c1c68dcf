"""A process's descriptors (fs/file.c)."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager, suppress
from errno import EBADF, EBUSY, EMFILE
from operator import index
from typing import TYPE_CHECKING

from pykernel.errors import err

if TYPE_CHECKING:
    from pykernel.fs.vfs import File
    from pykernel.kernel import Kernel

__all__ = ["FdTable", "current_files", "fget"]


class FdTable:
    """
    ``struct files_struct``: numbers to open files.

    ``cloexec`` holds the numbers that exec() closes, ``unused`` those that are taken and have no file yet.
    """

    __slots__ = ("cloexec", "files", "limit", "unused")

    def __init__(self, limit: int = 1024) -> None:
        self.files: dict[int, File] = {}
        self.cloexec: set[int] = set()
        self.unused: set[int] = set()
        self.limit = limit

    def get(self, fd: int) -> File:
        """C: ``struct fd fdget(unsigned int)``. Raises EBADF; TypeError: 3.0 is no descriptor, though it equals one."""
        try:
            return self.files[fd if fd.__class__ is int else index(fd)]
        except KeyError:
            raise err(EBADF) from None

    def _lowest(self, start: int = 0) -> int:
        """The lowest free number. Raises EMFILE."""
        fd, files, unused = start, self.files, self.unused
        while fd in files or fd in unused:
            fd += 1
        if fd >= self.limit:
            raise err(EMFILE)
        return fd

    def install(self, file: File, *, cloexec: bool = False, start: int = 0) -> int:
        """Give *file* a number; the reference is the table's now. C: ``get_unused_fd_flags()``, ``fd_install()``."""
        fd = self._lowest(start)
        self.files[fd] = file
        if cloexec:
            self.cloexec.add(fd)
        return fd

    @contextmanager
    def unused_fd(self) -> Generator[int, None, None]:
        """
        A number that the body gives a file with :meth:`fd_install`; it is free again if the body raises.

        For calls that tell the number in a struct, before anything can be read there.
        C: ``int get_unused_fd_flags(unsigned)``, ``void put_unused_fd(unsigned int)``. Raises EMFILE.
        """
        fd = self._take()
        self.unused.add(fd)
        try:
            yield fd
        except BaseException:
            self.unused.discard(fd)
            self._release(fd)
            raise

    def fd_install(self, fd: int, file: File, *, cloexec: bool = False) -> None:
        """*file* is behind the number of :meth:`unused_fd`; the reference is the table's. C: ``fd_install()``."""
        self.unused.remove(fd)
        self.files[fd] = file
        if cloexec:
            self.cloexec.add(fd)

    def _take(self, start: int = 0) -> int:
        """A number that nobody has. Raises EMFILE."""
        return self._lowest(start)

    def _release(self, fd: int) -> None:
        """The number is nobody's."""

    def close(self, fd: int) -> None:
        """C: ``int close_fd(unsigned)``. Raises EBADF, and what flush() says."""
        file = self.files.pop(fd if fd.__class__ is int else index(fd), None)
        if file is None:
            raise err(EBADF)
        self.cloexec.discard(fd)
        try:
            file.flush()
        finally:
            file.put()

    def dup2(self, old: int, new: int, *, cloexec: bool = False) -> int:
        """fs/file.c:ksys_dup3(), old and new differ. Raises EBADF; EBUSY: *new* is about to get a file."""
        file = self.get(old)
        if not 0 <= new < self.limit:
            raise err(EBADF)
        if new in self.unused:
            raise err(EBUSY)
        if new in self.files:
            self._close_silently(new)
        self.files[new] = file.get()
        (self.cloexec.add if cloexec else self.cloexec.discard)(new)
        return new

    def _close_silently(self, fd: int) -> None:
        # C: filp_close() tells what flush() said, and these callers drop it
        with suppress(OSError):
            self.close(fd)

    def fork(self) -> FdTable:
        """C: ``struct files_struct *dup_fd(...)``: the files are shared, the table is not."""
        child = FdTable(self.limit)
        child.files = {fd: f.get() for fd, f in self.files.items()}
        child.cloexec = set(self.cloexec)
        return child

    def exec(self) -> None:
        """C: ``void do_close_on_exec(struct files_struct *)``."""
        for fd in sorted(self.cloexec):
            self._close_silently(fd)

    def exit(self) -> None:
        """C: ``void exit_files(struct task_struct *)``."""
        for fd in sorted(self.files):
            self._close_silently(fd)


def current_files(kernel: Kernel) -> FdTable:
    """The descriptors of the running task. C: ``current->files``. Raises EBADF: a kernel thread has none."""
    files: FdTable | None = kernel.current.files
    if files is None:
        raise err(EBADF, f"{kernel.current.comm} has no descriptors")
    return files


def fget(kernel: Kernel, fd: int) -> File:
    """What *fd* of the running task is, no reference taken. C: ``struct fd fdget(unsigned int)``. Raises EBADF."""
    file = current_files(kernel).get(fd)
    if file.flags & os.O_PATH:
        raise err(EBADF, f"descriptor {fd} is a place only")
    return file
