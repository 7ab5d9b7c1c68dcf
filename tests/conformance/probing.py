"""Questions to a kernel and how their answers are written down.

A probe is plain Python over ``os``, ``open``, ``select`` and ``mmap``: the same functions run on a real Linux, where
the answers are recorded once, and against the emulated kernel, whose answers must be the same text. The standard
library is all it needs. Probes import each other by their plain names, so their
directory has to be on ``sys.path``.
"""

from __future__ import annotations

import errno
import mmap
import os
import stat
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

Say = Callable[[str, str], None]
"""Receives a question's key and the ``repr`` of its answer, normalised."""


def errname(error: OSError) -> str:
    """The name of the errno: ``"ENODEV"``."""
    return errno.errorcode.get(error.errno or 0, str(error.errno))


def call(f: Callable[..., object], *args: object) -> object:
    """``f(*args)``, or the errno's name; a refusal by Python itself is given as that exception's name."""
    try:
        return f(*args)
    except OSError as error:
        return errname(error)
    except (ValueError, OverflowError) as error:
        return type(error).__name__


def read_text(path: str) -> str:
    """The whole file, one character a byte."""
    with opened(path, os.O_RDONLY) as fd:
        return read_all(fd).decode("latin-1")


def read_all(fd: int) -> bytes:
    """From the position to the end of the file, a page a call."""
    out = b""
    while chunk := os.read(fd, 4096):
        out += chunk
    return out


def write_text(path: str, text: str) -> int:
    """One ``write`` of ``text`` (one character a byte) to a fresh descriptor: the count it returned."""
    with opened(path, os.O_WRONLY) as fd:
        return os.write(fd, text.encode("latin-1"))


@contextmanager
def opened(path: str, flags: int, mode: int = 0o644) -> Iterator[int]:
    """A descriptor that is closed at the end."""
    fd = os.open(path, flags, mode)
    try:
        yield fd
    finally:
        os.close(fd)


def kind(path: str) -> str:
    """Type and permission bits of the file itself: ``"-rw-r--r--"``."""
    return stat.filemode(os.lstat(path).st_mode)


def short(text: str) -> str:
    """A stored text as a question shows it: long ones as first character times length."""
    return repr(text) if len(text) < 60 else f"{text[0]!r}*{len(text)}"


def libc_mmap(fd: int, length: int, prot: int, flags: int, offset: int) -> str:
    """mmap(2) without the checks that Python's ``mmap`` makes first: "mapped", or raises OSError."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [
        ctypes.c_void_p,
        ctypes.c_size_t,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_long,
    ]
    address = libc.mmap(None, length, prot, flags, fd, offset)
    if address == ctypes.c_void_p(-1).value:
        raise OSError(ctypes.get_errno(), "mmap")
    libc.munmap(ctypes.c_void_p(address), ctypes.c_size_t(length))
    return "mapped"


class Probe:
    """Asks, and says each answer under a key that is unique within its part.

    ``raw_mmap(fd, length, prot, flags, offset)`` is mmap(2) itself; the emulated kernel's runner gives its own, as of
    ``host``, which has what else Python's modules cannot do (vfio_host.py).
    """

    def __init__(
        self, say: Say, raw_mmap: Callable[[int, int, int, int, int], object] = libc_mmap, host: Any = None
    ) -> None:
        self._say = say
        self._asked: dict[str, int] = {}
        self.raw_mmap = raw_mmap
        self.host = host
        self.words: list[tuple[str, str]] = []

    def say(self, what: str, answer: object) -> None:
        """Write down one answer; what differs from machine to machine is replaced by ``words``."""
        text = repr(answer)
        for found, word in self.words:
            text, what = text.replace(found, word), what.replace(found, word)
        times = self._asked[what] = self._asked.get(what, 0) + 1
        self._say(what if times == 1 else f"{what} ({times})", text)

    def ask(self, what: str, f: Callable[..., object], *args: object) -> object:
        """Say what ``f(*args)`` returns or raises."""
        answer = call(f, *args)
        self.say(what, answer)
        return answer

    def store(self, path: str, text: str, what: str = "") -> None:
        """One store; with what the attribute reads afterwards, when that is something else than before."""
        before = call(read_text, path)
        result = call(write_text, path, text)
        after = call(read_text, path)
        name = what or os.path.basename(path)
        self.say(f"{name} <- {short(text)}", (result, after) if after != before else result)

    def stores(self, path: str, texts: Iterable[str], what: str = "") -> None:
        """A store of each text in turn."""
        for text in texts:
            self.store(path, text, what)

    def begin(self) -> None:
        """A new part: its keys count from the start."""
        self._asked.clear()


Part = Callable[[Probe], None]


def run(
    parts: Mapping[str, Part],
    names: Iterable[str],
    begin: Callable[[str], None],
    say: Say,
    raw_mmap: Callable[[int, int, int, int, int], object] = libc_mmap,
    host: Any = None,
) -> None:
    """Run the named parts (all, when none is named) in the table's order; ``begin(name)`` goes before each."""
    probe = Probe(say, raw_mmap, host)
    wanted = set(names) or set(parts)
    for name, part in parts.items():
        if name in wanted:
            begin(name)
            probe.begin()
            part(probe)


def main(parts: Mapping[str, Part], host: Any = None) -> None:
    """Print every answer as ``NNN what: answer``, below a ``# part`` line; the parts' names are arguments."""
    count = 0

    def say(what: str, answer: str) -> None:
        nonlocal count
        count += 1
        print(f"{count:03d} {what}: {answer}", flush=True)

    run(parts, sys.argv[1:], lambda name: print(f"# {name}", flush=True), say, host=host)
    print(f"# {count} answers", flush=True)


SHARED_RW = (mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED)
