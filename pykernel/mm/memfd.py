"""Memory of the host that has a file, so that parts of it can be mapped again elsewhere in this process."""

from __future__ import annotations

import ctypes
import mmap
import os
from functools import cache
from typing import Any, Final

from pykernel.errors import err

__all__ = ["MAP_NORESERVE", "MemFd", "map_fixed"]

MAP_NORESERVE: Final = 0x4000
_MAP_FIXED: Final = 0x10
_MAP_FAILED: Final = ctypes.c_void_p(-1).value


class MemFd:
    """
    A memfd. Its pages are there when they are touched; a child of fork() shares them.

    Attributes:
        fd: the file; it closes when this object goes.
    """

    def __init__(self) -> None:
        self.fd = os.memfd_create("ram", os.MFD_CLOEXEC)

    def __del__(self) -> None:
        os.close(self.fd)

    def mapped(self, size: int) -> mmap.mmap:
        """The file, *size* bytes long, mapped whole."""
        os.ftruncate(self.fd, size)
        return mmap.mmap(self.fd, size, mmap.MAP_SHARED | MAP_NORESERVE)


@cache
def _mmap() -> Any:
    function = ctypes.CDLL(None, use_errno=True).mmap
    function.restype = ctypes.c_void_p
    function.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *(ctypes.c_int,) * 3, ctypes.c_long)
    return function


def map_fixed(addr: int, size: int, fd: int = -1, offset: int = 0) -> None:
    """
    Put *size* bytes of the file *fd*, or (-1) zeros of nobody, at *addr* in place of what is there.

    Raises:
        OSError: what the host's mmap() says, ENOMEM above all.
    """
    kind = mmap.MAP_SHARED if fd >= 0 else mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    prot = mmap.PROT_READ | mmap.PROT_WRITE
    if _mmap()(addr, size, prot, kind | MAP_NORESERVE | _MAP_FIXED, fd, offset) == _MAP_FAILED:
        raise err(ctypes.get_errno(), f"the host does not map {size:#x} bytes at {addr:#x}")
