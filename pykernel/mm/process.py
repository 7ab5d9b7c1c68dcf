"""
The memory of a real process: process_vm_readv() and process_vm_writev(), else /proc/PID/mem.

The calls copy for us what the process itself could read or write; a bad pointer is an errno, never a signal. Where
they are forbidden (a seccomp filter, no ptrace right) or missing, /proc/PID/mem is tried, which ignores protection:
/proc/PID/maps is asked first. The caller sees to it that the process ID stays the client's: it holds the process in a
system call, or has not reaped it.
"""

from __future__ import annotations

import ctypes
import os
from errno import EFAULT, EINTR, ENOSYS, EPERM
from typing import TYPE_CHECKING, Any

from pykernel.errors import err
from pykernel.mm.phys import PAGE_SIZE, PhysMem, Run
from pykernel.mm.uaccess import UserMemory, access_ok

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

__all__ = ["ProcessMemory"]


class _Iovec(ctypes.Structure):
    _fields_ = (("iov_base", ctypes.c_void_p), ("iov_len", ctypes.c_size_t))


def _c_function(name: str) -> Any:
    """A function of the C library that takes (pid, local, 1, remote, 1, 0), or None."""
    function = getattr(ctypes.CDLL(None, use_errno=True), name, None)
    if function is not None:
        iov = ctypes.POINTER(_Iovec)
        function.argtypes = (ctypes.c_int, iov, ctypes.c_ulong, iov, ctypes.c_ulong, ctypes.c_ulong)
        function.restype = ctypes.c_ssize_t
    return function


class ProcessMemory(UserMemory):
    """
    The address space of process *pid*; EFAULT once it is gone.

    Args:
        pid: the process.
        syscalls: False leaves process_vm_readv() and process_vm_writev() alone.
        phys: the machine that its pages are pinned in; none: they cannot be.
    """

    def __init__(self, pid: int, *, syscalls: bool = True, phys: PhysMem | None = None) -> None:
        self._pid = pid
        if phys is not None:
            self.phys = phys
        self._readv = _c_function("process_vm_readv") if syscalls else None
        self._writev = _c_function("process_vm_writev") if syscalls else None

    @property
    def pid(self) -> int:
        """The process, as the kernel knows it now."""
        return self._pid

    def copy_from(self, addr: int, buf: WriteableBuffer) -> int:
        """As :meth:`UserMemory.copy_from`."""
        view = memoryview(buf).cast("B")
        n = len(view)
        done = 0
        if n and access_ok(addr, n):
            local = ctypes.addressof(ctypes.c_char.from_buffer(view))
            done = self._vm(self._readv, local, addr, n)
            if done < 0:
                done = self._mem_read(addr, view)
        view[done:] = bytes(n - done)
        return n - done

    def copy_to(self, addr: int, data: ReadableBuffer) -> int:
        """As :meth:`UserMemory.copy_to`."""
        copy = bytes(memoryview(data).cast("B"))
        n = len(copy)
        if not n or not access_ok(addr, n):
            return n
        local = ctypes.cast(ctypes.c_char_p(copy), ctypes.c_void_p).value or 0
        done = self._vm(self._writev, local, addr, n)
        if done < 0:
            done = self._mem_write(addr, copy)
        return n - done

    def pin_user_pages(self, addr: int, npages: int, *, write: bool) -> list[Run]:
        """As :meth:`UserMemory.pin_user_pages`; the pages stay the process's, which can take them away."""
        addr &= -PAGE_SIZE
        n = npages * PAGE_SIZE
        if not access_ok(addr, n) or self._permitted(addr, n, "w" if write else "r") < n:
            raise err(EFAULT, f"{npages} pages at {addr:#x} cannot be pinned")
        runs = self.phys.foreign.pin(self, addr, npages)
        self.phys.pin(addr, runs)
        return runs

    def _vm(self, call: Any, local: int, addr: int, n: int) -> int:
        """Copy what can be copied; -1 when this process may not use *call*."""
        done = 0
        while call is not None and done < n:
            ours, theirs = _Iovec(local + done, n - done), _Iovec(addr + done, n - done)
            got: int = call(self.pid, ours, 1, theirs, 1, 0)
            if got > 0:
                done += got
                continue
            code = ctypes.get_errno()
            if code == EINTR:
                continue
            if code in (EPERM, ENOSYS) and not done:
                return -1
            return done
        return done if call is not None else -1

    # ---- /proc

    def _permitted(self, addr: int, n: int, right: str) -> int:
        """How many of *n* bytes at *addr* may be accessed: /proc/PID/mem itself does not ask."""
        end = addr
        try:
            with open(f"/proc/{self.pid}/maps") as maps:
                for line in maps:
                    span, rights = line.split(maxsplit=2)[:2]
                    low, high = (int(x, 16) for x in span.split("-"))
                    if low <= end < high and right in rights:
                        end = high
        except OSError:
            return 0
        return min(end - addr, n)

    def _mem_read(self, addr: int, view: memoryview) -> int:
        n = self._permitted(addr, len(view), "r")
        return self._mem(os.O_RDONLY, lambda fd, done: os.preadv(fd, [view[done:n]], addr + done), n)

    def _mem_write(self, addr: int, data: bytes) -> int:
        n = self._permitted(addr, len(data), "w")
        return self._mem(os.O_RDWR, lambda fd, done: os.pwrite(fd, data[done:n], addr + done), n)

    def _mem(self, flags: int, step: Any, n: int) -> int:
        done = 0
        try:
            fd = os.open(f"/proc/{self.pid}/mem", flags | os.O_CLOEXEC)
        except OSError:
            return 0
        try:
            while done < n:
                got = step(fd, done)
                if not got:
                    break
                done += got
        except OSError:
            pass  # the fault: what was copied before it counts
        finally:
            os.close(fd)
        return done
