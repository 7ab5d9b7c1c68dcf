"""
The standard streams of a command, whatever the caller made of them.

A closed one gets a placeholder that fails as a closed one does: else a file of ours would take its number, and the
program that ``pykernel run`` starts would write into that. The program itself gets what the caller gave: a placeholder
is close-on-exec.
What fails in writing to a stream is an OSError that names the stream, and so is told from every other.
"""

from __future__ import annotations

import io
import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

__all__ = ["STDERR", "STDOUT", "complain", "drop", "prepare"]

STDOUT, STDERR = "standard output", "standard error"


class _Raw(io.FileIO):
    """A descriptor whose errors name the stream."""

    def __init__(self, fd: int, stream: str) -> None:
        super().__init__(fd, "w", closefd=False)
        self.stream = stream

    def write(self, b: ReadableBuffer, /) -> int:
        """write(2)."""
        try:
            return super().write(b)
        except OSError as e:
            raise OSError(e.errno, e.strerror, self.stream) from None


def prepare() -> None:
    """Make sys.stdin, sys.stdout and sys.stderr usable; called once, before anything is opened."""
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            # ascending, so that this is the number that the call gives; read or written it is EBADF, as if closed
            os.open(os.devnull, os.O_WRONLY if fd == 0 else os.O_RDONLY)
    if sys.stdin is None:
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - as long as the process
    sys.stdout = _writer(1, STDOUT, sys.stdout, errors="strict")
    sys.stderr = _writer(2, STDERR, sys.stderr, errors="backslashreplace")


def _writer(fd: int, stream: str, before: TextIO | None, *, errors: str) -> TextIO:
    buffer = io.BufferedWriter(_Raw(fd, stream))
    if not isinstance(before, io.TextIOWrapper):
        return io.TextIOWrapper(buffer, errors=errors)
    return io.TextIOWrapper(
        buffer, before.encoding, before.errors, line_buffering=before.line_buffering, write_through=before.write_through
    )


def complain(sentence: str) -> None:
    """One line to stderr, if anybody can be told."""
    try:
        print(sentence.replace("\n", " "), file=sys.stderr, flush=True)
    except OSError:
        drop(2)


def drop(fd: int) -> None:
    """Let what is still buffered for *fd* vanish: the interpreter's own flush at exit shall not fail again."""
    with suppress(OSError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, fd)
        os.close(null)
