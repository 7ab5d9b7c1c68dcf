"""Who reads while recording: the host's own system calls, or a process of an emulated machine."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from pykernel.syscalls import Process

__all__ = ["Blocked", "Emulated", "Host", "Reader", "TooBig"]

CHUNK = 1 << 16


class Blocked(Exception):
    """A read that did not end in time."""


class TooBig(Exception):
    """A file with more than was asked for."""


class Reader(Protocol):
    """What a recording asks for."""

    def lstat(self, path: str) -> os.stat_result:
        """lstat(2)."""
        ...

    def listdir(self, path: str) -> list[str]:
        """The names in a directory."""
        ...

    def readlink(self, path: str) -> str:
        """readlink(2)."""
        ...

    def realpath(self, path: str) -> str:
        """Where the links lead. Raises ENOENT."""
        ...

    def read(self, path: str, limit: int) -> bytes:
        """The content. Raises what open() and read() raise; Blocked; TooBig: more than *limit* bytes."""
        ...


class Host:
    """This process's own calls. *patience_s* is how long a read may take; only the main thread can be that strict."""

    def __init__(self, patience_s: float = 1.0) -> None:
        self.patience_s = patience_s if threading.current_thread() is threading.main_thread() else 0.0

    def lstat(self, path: str) -> os.stat_result:
        """lstat(2)."""
        return os.lstat(path)

    def listdir(self, path: str) -> list[str]:
        """The names in a directory."""
        return os.listdir(path)

    def readlink(self, path: str) -> str:
        """readlink(2)."""
        return os.readlink(path)

    def realpath(self, path: str) -> str:
        """realpath(3)."""
        return os.path.realpath(path, strict=True)

    def read(self, path: str, limit: int) -> bytes:
        """open(), read() to the end, close()."""
        with self._alarm():
            fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                out = b""
                while part := os.read(fd, CHUNK):
                    out += part
                    if len(out) > limit:
                        raise TooBig
                return out
            finally:
                os.close(fd)

    @contextmanager
    def _alarm(self) -> Generator[None, None, None]:
        if not self.patience_s:
            yield
            return
        before = signal.signal(signal.SIGALRM, _ring)
        signal.setitimer(signal.ITIMER_REAL, self.patience_s)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)


def _ring(_signum: int, _frame: FrameType | None) -> None:
    raise Blocked


class Emulated:
    """A process of an emulated machine."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.lstat = process.lstat
        self.listdir = process.listdir
        self.readlink = process.readlink
        self.realpath = process.realpath

    def read(self, path: str, limit: int) -> bytes:
        """open(), read() to the end, close()."""
        fd = self.process.open(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            out = b""
            while part := self.process.read(fd, CHUNK):
                out += part
                if len(out) > limit:
                    raise TooBig
            return out
        finally:
            self.process.close(fd)
