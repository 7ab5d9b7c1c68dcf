"""The few files of /proc that tell about devices: text made at each read (fs/proc/)."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from errno import EINVAL, EIO, EPERM
from typing import TYPE_CHECKING

from pykernel.errors import err
from pykernel.fs.ramfs import RamDir, RamNode
from pykernel.fs.vfs import File, Inode, StatFs

if TYPE_CHECKING:
    from pykernel.kernel import Kernel

__all__ = ["ProcFile", "ProcFs"]

PROC_SUPER_MAGIC = 0x9FA0


class ProcFile(RamNode):
    """A read-only file whose text is made when it is read. C: ``proc_create_single()``."""

    __slots__ = ("show",)
    noexec = True

    def __init__(self, kernel: Kernel, show: Callable[[], str], parent: Inode | None = None, mode: int = 0o444) -> None:
        super().__init__(kernel, stat.S_IFREG | mode, parent)
        self.uid = self.gid = 0
        self.show = show

    def open(self, flags: int) -> File:
        """Open."""
        return ProcOpenFile(self, flags)


class ProcOpenFile(File):
    """seq_file: the text is made anew for a read at 0."""

    __slots__ = ("text",)

    inode: ProcFile

    def __init__(self, inode: ProcFile, flags: int) -> None:
        super().__init__(inode, flags)
        self.text: bytes | None = None

    def pread(self, pos: int, count: int) -> bytes:
        """Read."""
        if pos == 0 or self.text is None:
            self.text = self.inode.show().encode("latin-1", "replace")
        return self.text[pos : pos + count]

    def pwrite(self, pos: int, data: bytes) -> int:
        """fs/proc/inode.c:proc_reg_write(). Raises EIO."""
        raise err(EIO)

    def llseek(self, offset: int, whence: int) -> int:
        """C: ``seq_lseek()``. Raises EINVAL: from the end, or negative."""
        if whence not in (os.SEEK_SET, os.SEEK_CUR):
            raise err(EINVAL)
        return super().llseek(offset, whence)


class ProcDir(RamDir):
    """A directory of /proc: a name that is not there cannot be made. fs/proc/generic.c:proc_lookup_de()."""

    __slots__ = ()
    negative = False

    def unlink(self, name: str) -> None:
        """No such operation."""
        raise err(EPERM)

    def rmdir(self, name: str) -> None:
        """No such operation."""
        raise err(EPERM)

    def rename(self, name: str, new_dir: Inode, new_name: str) -> None:
        """No such operation."""
        raise err(EPERM)


class ProcFs:
    """/proc of one kernel. Subsystems add their files with :meth:`create`."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.root = ProcDir(kernel, 0o555)
        self.root.dev = 21
        self.root.statfs_row = StatFs(PROC_SUPER_MAGIC)
        self.create("version", lambda: f"Linux version {kernel.profile.release} (pykernel)\n")
        self.create("cmdline", lambda: f"{getattr(kernel.machine, 'cmdline', '')}\n".lstrip(" "))

    def create(self, name: str, show: Callable[[], str], mode: int = 0o444) -> ProcFile:
        """C: ``struct proc_dir_entry *proc_create_single(...)``."""
        node = ProcFile(self.kernel, show, self.root, mode)
        self.root.attach(name, node)
        return node
