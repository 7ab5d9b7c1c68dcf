"""open(): live files. The text and buffer layers are Python's own; the raw layer makes system calls."""

from __future__ import annotations

import ctypes
import io
import os
import stat
import warnings
from collections.abc import Callable
from errno import EAGAIN, EISDIR, ENXIO
from functools import lru_cache, wraps
from termios import TCGETS
from typing import TYPE_CHECKING, Any

from pykernel.errors import err
from pykernel.fs.vfs import PAGE_SIZE
from pykernel.surfaces.inprocess.places import Nameless
from pykernel.syscalls import PathArg

if TYPE_CHECKING:
    from pykernel.surfaces.inprocess.places import Places
    from pykernel.syscalls import Process

__all__ = ["KernelRawIO", "open_code_of", "opener_of"]

CHUNK = 65536


class KernelRawIO(io.RawIOBase):
    """What ``io.FileIO`` is for real files: one system call a method."""

    # a plain attribute, because the layers above look at it many times a call
    closed: bool = False  # pyright: ignore[reportAssignmentType, reportIncompatibleVariableOverride]
    _blksize = PAGE_SIZE
    _finalizing = False  # IOBase sets it when it closes what was forgotten
    closefd = True

    def __init__(self, process: Process, fd: int, name: Any, mode: str) -> None:
        self._process = process
        self._fd = fd
        self._file = process.fds.files[fd]
        self.name = name
        self.mode = mode

    def _check(self) -> None:
        if self.closed:
            raise ValueError("I/O operation on closed file")

    def fileno(self) -> int:
        """The descriptor."""
        self._check()
        return self._fd

    def readable(self) -> bool:
        """Whether the mode allows it."""
        if self.closed:
            self._check()
        return _can_read(self.mode)

    def writable(self) -> bool:
        """Whether the mode allows it."""
        self._check()
        return self.mode != "rb"

    def seekable(self) -> bool:
        """Whether lseek() works."""
        if self.closed:
            self._check()
        return self._file.seekable

    def _want(self, allowed: bool, what: str) -> None:
        if self.closed:
            raise ValueError("I/O operation on closed file")
        if not allowed:
            raise io.UnsupportedOperation(f"File not open for {what}")

    def readinto(self, buffer: Any) -> int | None:
        """One read(). None: EAGAIN."""
        self._want(_can_read(self.mode), "reading")
        view = memoryview(buffer).cast("B")
        try:
            data = self._process.read(self._fd, len(view))
        except OSError as e:
            if e.errno == EAGAIN:
                return None
            raise
        view[: len(data)] = data
        return len(data)

    def read(self, size: int | None = -1) -> bytes | None:
        """One read(), or all."""
        if size is None or size < 0:
            return self.readall()
        self._want(_can_read(self.mode), "reading")
        try:
            return self._process.read(self._fd, size)
        except OSError as e:
            if e.errno == EAGAIN:
                return None
            raise

    def readall(self) -> bytes | None:  # type: ignore[override]
        """Reads to the end of the file. None: EAGAIN before the first byte."""
        self._want(_can_read(self.mode), "reading")
        read, fd, out = self._process.read, self._fd, b""
        short_is_end = self._file.short_is_end
        while True:
            try:
                data = read(fd, CHUNK)
            except OSError as e:
                if e.errno != EAGAIN:
                    raise
                return out or None
            out = out + data if out else data
            if not data or (short_is_end and len(data) < CHUNK):
                return out

    def write(self, data: Any) -> int | None:
        """One write(). None: EAGAIN."""
        self._want(self.mode != "rb", "writing")
        try:
            return self._process.write(self._fd, bytes(data))
        except OSError as e:
            if e.errno == EAGAIN:
                return None
            raise

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """lseek()."""
        self._check()
        return self._process.lseek(self._fd, offset, whence)

    def tell(self) -> int:
        """lseek() by nothing."""
        if self.closed:
            self._check()
        file = self._file
        if file.seekable and self._process.fds.files.get(self._fd) is file:
            return file.pos
        return self._process.lseek(self._fd, 0, os.SEEK_CUR)

    def truncate(self, size: int | None = None) -> int:
        """ftruncate()."""
        self._want(self.mode != "rb", "writing")
        size = self.tell() if size is None else size
        self._process.ftruncate(self._fd, size)
        return size

    def isatty(self) -> bool:
        """Whether TCGETS works."""
        self._check()
        return is_tty(self._process, self._fd)

    def close(self) -> None:
        """close()."""
        if self.closed:
            return
        if self._finalizing:
            self._dealloc_warn(self)
        self.closed = True  # pyright: ignore[reportIncompatibleMethodOverride]
        if self.closefd:
            self._process.close(self._fd)

    def _dealloc_warn(self, source: object) -> None:
        # the buffer and text layers call this when they are collected while open
        if self.closefd and not self.closed:
            warnings.warn(f"unclosed file {source!r}", ResourceWarning, stacklevel=2, source=source)

    def __repr__(self) -> str:
        where = "[closed]" if self.closed else f"name={self.name!r} mode={self.mode!r} closefd={self.closefd}"
        return f"<pykernel.KernelRawIO {where}>"


def _can_read(mode: str) -> bool:
    return mode[0] == "r" or mode[-1] == "+"


def is_tty(process: Process, fd: int) -> bool:
    """isatty(3)."""
    if not stat.S_ISCHR(process.fds.get(fd).inode.mode):
        return False
    termios = ctypes.create_string_buffer(64)
    try:
        process.ioctl(fd, TCGETS, ctypes.addressof(termios))
    except OSError:
        return False
    return True


@lru_cache(maxsize=64)
def parse_mode(mode: str) -> tuple[int, str, bool] | None:
    """open() flags, the raw layer's mode, and whether it is binary; None for what Python refuses."""
    letters = set(mode)
    kind = letters & set("rwax")
    if len(letters) != len(mode) or letters - set("rwax+tb") or len(kind) != 1 or {"t", "b"} <= letters:
        return None
    how = kind.pop()
    plus = "+" in mode
    flags = os.O_RDWR if plus else os.O_RDONLY if how == "r" else os.O_WRONLY
    flags |= {"r": 0, "w": os.O_CREAT | os.O_TRUNC, "x": os.O_CREAT | os.O_EXCL, "a": os.O_CREAT | os.O_APPEND}[how]
    raw = {"r": "rb+" if plus else "rb", "w": "rb+" if plus else "wb"}.get(how, how + ("b+" if plus else "b"))
    return flags | os.O_CLOEXEC, raw, "b" in mode


def opener_of(places: Places, real_open: Callable[..., Any]) -> Callable[..., Any]:
    """The function that stands for open() and io.open()."""
    process = places.process
    claim, host = places.claim, places.host
    files = places.files

    @wraps(real_open)  # its name and module are what pyfakefs knows open() by
    def open(
        file: Any,
        mode: str = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
        closefd: bool = True,
        opener: Callable[[Any, int], int] | None = None,
    ) -> Any:
        where: PathArg | None = None
        if opener is None:
            where = claim(file)
            where = places.behind(file) if where is None else where
            if isinstance(where, Nameless):
                raise err(ENXIO, filename=os.fspath(file))
            if where is None:
                return real_open(host(file)[0], mode, buffering, encoding, errors, newline, closefd, opener)
        parsed = parse_mode(mode) if isinstance(mode, str) else None
        if parsed is None or (parsed[2] and (encoding or errors or newline) is not None):
            return real_open(os.devnull, mode, buffering, encoding, errors, newline)  # it says what is wrong
        flags, raw_mode, binary = parsed
        file = os.fspath(file) if hasattr(file, "__fspath__") else file
        if buffering == 0 and not binary:
            raise ValueError("can't have unbuffered text I/O")
        if opener is not None:
            fd = opener(file, flags)
            if fd not in files:
                return real_open(file, mode, buffering, encoding, errors, newline, closefd, lambda _file, _flags: fd)
            own = True
        elif isinstance(where, int):
            fd, own = where, closefd
        else:
            if not closefd:
                raise ValueError("Cannot use closefd=False with file name")
            assert where is not None
            try:
                fd, own = process.open(where, flags), True
            except OSError as e:
                e.filename = file
                raise
        inode = files[fd].inode
        if inode.is_dir:
            if own and opener is None and not isinstance(where, int):
                process.close(fd)
            raise err(EISDIR, filename=file)
        raw = KernelRawIO(process, fd, file, raw_mode)
        if not own:
            raw.closefd = False
        try:
            if stat.S_ISCHR(inode.mode) and buffering < 0 and raw.isatty():
                buffering = 1
            return _layers(raw, mode, buffering, binary, encoding, errors, newline)
        except BaseException:
            raw.close()
            raise

    return open


def open_code_of(places: Places, real: Callable[[str], Any], opener: Callable[..., Any]) -> Callable[[str], Any]:
    """The function that stands for io.open_code(), of the *opener* that stands for open()."""

    @wraps(real)
    def open_code(path: str) -> Any:
        return real(places.host(path)[0]) if places.claim(path) is None else opener(path, "rb")

    return open_code


def _layers(
    raw: KernelRawIO,
    mode: str,
    buffering: int,
    binary: bool,
    encoding: str | None,
    errors: str | None,
    newline: str | None,
) -> Any:
    """The stack that Modules/_io/_iomodule.c:_io_open_impl() builds."""
    if raw.mode[0] == "a":
        raw.seek(0, os.SEEK_END)
    if buffering == 1 and binary:
        warnings.warn(
            "line buffering (buffering=1) isn't supported in binary mode, the default buffer size will be used",
            RuntimeWarning,
            stacklevel=3,
        )
    size = raw._blksize if buffering < 0 or buffering == 1 else buffering
    if size == 0:
        return raw
    buffer: Any
    if "+" in raw.mode:
        buffer = io.BufferedRandom(raw, size)
    elif raw.mode == "rb":
        reader: Any = raw  # None for EAGAIN is right of a raw file, and unknown to the stubs
        buffer = io.BufferedReader(reader, size)
    else:
        buffer = io.BufferedWriter(raw, size)
    if binary:
        return buffer
    text: Any = io.TextIOWrapper(buffer, encoding, errors, newline, buffering == 1)
    text.mode = mode
    return text
