"""What the VFIO probe needs of the machine and Python's modules do not have: raw ioctls, children with other rights."""

from __future__ import annotations

import ast
import ctypes
import mmap
import os
import re
import resource
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from probing import call, read_all, read_text

PAGE = 4096


class Host:
    """On a real Linux; the emulated kernel's runner has one with the same methods."""

    def __init__(self) -> None:
        self._libc: Any = ctypes.CDLL(None, use_errno=True)

    def ioctl(self, fd: int, request: int, address: int) -> int:
        """ioctl(2) with a pointer of 64 bits, which ``fcntl.ioctl`` does not take."""
        result: int = self._libc.ioctl(fd, ctypes.c_ulong(request), ctypes.c_void_p(address))
        if result < 0:
            raise OSError(ctypes.get_errno(), "ioctl")
        return result

    def in_child(self, f: Callable[[], object], uid: int = 0, memlock: int | None = None) -> object:
        """What ``f()`` gives in a forked process with another uid and RLIMIT_MEMLOCK; a signal's name if it died."""
        r, w = os.pipe()
        pid = os.fork()
        if not pid:
            self._child(f, w, uid, memlock)
        os.close(w)
        text = read_all(r).decode()
        os.close(r)
        _, status = os.waitpid(pid, 0)
        if os.WIFSIGNALED(status):
            return signal.Signals(os.WTERMSIG(status)).name
        return ast.literal_eval(text)

    def _child(self, f: Callable[[], object], w: int, uid: int, memlock: int | None) -> None:
        try:
            if memlock is not None:
                resource.setrlimit(resource.RLIMIT_MEMLOCK, (memlock, memlock))
            if uid:
                os.setgid(uid)
                os.setuid(uid)
            os.write(w, repr(call(f)).encode())
        finally:
            os._exit(0)

    def touch(self, area: mmap.mmap, at: int) -> object:
        """Four bytes of a mapped file, or the signal's name."""
        return self.in_child(lambda: bytes(area[at : at + 4]))

    def protect_page(self, memory: Memory, page: int, prot: int) -> None:
        """mprotect(2) of one page."""
        if self._libc.mprotect(ctypes.c_void_p(memory.address + page * PAGE), ctypes.c_size_t(PAGE), prot):
            raise OSError(ctypes.get_errno(), "mprotect")

    def address_of(self, area: mmap.mmap) -> int:
        """Where a mapped file is."""
        return ctypes.addressof(ctypes.c_char.from_buffer(area))

    def meanwhile(self, f: Callable[[], object]) -> Any:
        """Another thread that does it; it can be joined."""
        thread = threading.Thread(target=f)
        thread.start()
        return thread

    def locked(self) -> str:
        """VmLck of this process."""
        found = re.search(r"VmLck:\s*(\d+ kB)", read_text("/proc/self/status"))
        return found[1] if found else "none"

    @contextmanager
    def uevents(self) -> Iterator[Callable[[], list[list[str]]]]:
        """What the kernel's uevent socket hears: a function that gives each message's fields since its last call."""
        with self.uevent_socket() as sock:
            sock.bind((0, 1))

            def heard() -> list[list[str]]:
                out: list[list[str]] = []
                while True:
                    try:
                        out.append(sock.recv(16384).decode("latin-1").rstrip("\0").split("\0"))
                    except BlockingIOError:
                        return out

            yield heard

    def uevent_socket(self) -> Any:
        """Of NETLINK_KOBJECT_UEVENT."""
        return socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK, 15)

    def settle(self) -> None:
        """Let the silicon finish."""
        self.pause(0.02)

    def pause(self, seconds: float) -> None:
        """Let time go by."""
        time.sleep(seconds)


class Memory:
    """Anonymous pages of this process."""

    def __init__(self, pages: int) -> None:
        self.size = pages * PAGE
        self.area = mmap.mmap(-1, self.size)
        self._hold = ctypes.c_char.from_buffer(self.area)
        self.address = ctypes.addressof(self._hold)

    def put(self, at: int, data: bytes) -> int:
        """Write there; its address."""
        self.area[at : at + len(data)] = data
        return self.address + at

    def get(self, at: int, n: int) -> bytes:
        """Read from there."""
        return bytes(self.area[at : at + n])
