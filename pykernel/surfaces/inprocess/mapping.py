"""
mmap.mmap of emulated files.

The object has the methods of ``mmap.mmap`` and slicing, but no buffer: ``ctypes.from_buffer(m)``, ``memoryview(m)`` and
``struct.unpack_from(fmt, m)`` raise TypeError, because a device's registers are not this process's memory. Use slices.
"""

from __future__ import annotations

import mmap
import os
import stat
from errno import EINVAL
from typing import TYPE_CHECKING, Any

from pykernel.errors import err

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pykernel.surfaces.inprocess.places import Places

__all__ = ["KernelMap", "mmap_class"]

WORD = 8
LINE = 64
_PROTS = {
    mmap.ACCESS_READ: (mmap.MAP_SHARED, mmap.PROT_READ),
    mmap.ACCESS_WRITE: (mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE),
    mmap.ACCESS_COPY: (mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE),
}


def _pieces(addr: int, n: int) -> Iterator[tuple[int, int]]:
    """Naturally aligned accesses of at most 8 bytes: what memcpy() does to registers."""
    at = 0
    while at < n:
        size = WORD
        while size > n - at or (addr + at) % size:
            size //= 2
        yield at, size
        at += size


class KernelMap:
    """
    A mapping of an emulated file.

    A slice write of exactly 64 bytes at a multiple of 64 is one MOVDIR64B; other accesses of registers are split into
    aligned ones of at most 8 bytes. ``address`` is where it is in this process, for descriptors that name it.
    """

    def __init__(
        self,
        places: Places,
        fileno: int,
        length: int,
        flags: int = mmap.MAP_SHARED,
        prot: int = mmap.PROT_READ | mmap.PROT_WRITE,
        access: int = mmap.ACCESS_DEFAULT,
        offset: int = 0,
    ) -> None:
        if length < 0:
            raise OverflowError("memory mapped length must be positive")
        if offset < 0:
            raise OverflowError("memory mapped offset must be positive")
        if access != mmap.ACCESS_DEFAULT:
            if (flags, prot) != (mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE):
                raise ValueError("mmap can't specify both access and flags, prot.")
            if access not in _PROTS:
                raise ValueError("mmap invalid access parameter.")
            flags, prot = _PROTS[access]
        self._process = places.process
        self._inode = places.process.fds.get(fileno).inode
        self._size = self._length(length, offset)
        self._writable = bool(prot & mmap.PROT_WRITE)
        self._pos = 0
        self.address = self._process.mmap(0, self._size, prot, flags, fileno, offset)
        vma = self._process.mem.vmas.find(self.address)
        self._registers = vma is not None and vma.io is not None
        self.closed = False

    def _length(self, length: int, offset: int) -> int:
        # Modules/mmapmodule.c:new_mmap_object(): Python's own checks against st_size
        if not stat.S_ISREG(self._inode.mode):
            return length
        size = self._inode.size
        if length == 0:
            if size == 0:
                raise ValueError("cannot mmap an empty file")
            if offset >= size:
                raise ValueError("mmap offset is greater than file size")
            return size - offset
        if offset > size or size - offset < length:
            raise ValueError("mmap length is greater than file size")
        return length

    # ---- memory

    def _check(self) -> None:
        if self.closed:
            raise ValueError("mmap closed or invalid")

    def _load(self, at: int, n: int) -> bytes:
        self._check()
        load, addr = self._process.load, self.address + at
        if not self._registers:
            return load(addr, n) if n else b""
        return b"".join(load(addr + off, size) for off, size in _pieces(addr, n))

    def _store(self, at: int, data: bytes) -> None:
        self._check()
        if not self._writable:
            raise TypeError("mmap can't modify a readonly memory map.")
        addr = self.address + at
        if not self._registers:
            if data:
                self._process.store(addr, data)
        elif len(data) == LINE and addr % LINE == 0:
            self._process.movdir64b(addr, data)
        else:
            for off, size in _pieces(addr, len(data)):
                self._process.store(addr + off, data[off : off + size])

    def __len__(self) -> int:
        self._check()
        return self._size

    def _index(self, index: int) -> int:
        at = index + self._size if index < 0 else index
        if not 0 <= at < self._size:
            raise IndexError("mmap index out of range")
        return at

    def __getitem__(self, key: int | slice) -> int | bytes:
        self._check()
        if isinstance(key, slice):
            start, stop, step = key.indices(self._size)
            if step == 1:
                return self._load(start, max(0, stop - start))
            return bytes(self._load(i, 1)[0] for i in range(start, stop, step))
        return self._load(self._index(key.__index__()), 1)[0]

    def __setitem__(self, key: int | slice, value: Any) -> None:
        self._check()
        if not isinstance(key, slice):
            self._store(self._index(key.__index__()), bytes((value,)))
            return
        data = bytes(memoryview(value))
        places = range(*key.indices(self._size))
        if len(places) != len(data):
            raise IndexError("mmap slice assignment is wrong size")
        if places.step == 1:
            self._store(places.start, data)
        else:
            for at, byte in zip(places, data, strict=True):
                self._store(at, bytes((byte,)))

    # ---- as a file

    def read(self, n: int | None = None) -> bytes:
        """Bytes from the position on."""
        left = max(0, self._size - self._pos)
        count = left if n is None or n < 0 else min(n, left)
        data = self._load(self._pos, count)
        self._pos += count
        return data

    def read_byte(self) -> int:
        """One byte. Raises ValueError at the end."""
        if self._pos >= self._size:
            raise ValueError("read byte out of range")
        return self.read(1)[0]

    def readline(self) -> bytes:
        """Up to a newline."""
        rest = self._load(self._pos, max(0, self._size - self._pos))
        end = rest.find(b"\n") + 1 or len(rest)
        self._pos += end
        return rest[:end]

    def write(self, data: Any) -> int:
        """Bytes at the position. Raises ValueError: they do not fit."""
        data = bytes(memoryview(data))
        if self._pos > self._size or self._size - self._pos < len(data):
            raise ValueError("data out of range")
        self._store(self._pos, data)
        self._pos += len(data)
        return len(data)

    def write_byte(self, byte: int) -> None:
        """One byte. Raises ValueError at the end."""
        if self._pos >= self._size:
            raise ValueError("write byte out of range")
        self.write(bytes((byte,)))

    def seek(self, pos: int, whence: int = os.SEEK_SET) -> None:
        """Move the position. Raises ValueError: out of the mapping."""
        self._check()
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._pos, os.SEEK_END: self._size}.get(whence)
        if base is None:
            raise ValueError("unknown seek type")
        if not 0 <= base + pos <= self._size:
            raise ValueError("seek out of range")
        self._pos = base + pos

    def tell(self) -> int:
        """The position."""
        self._check()
        return self._pos

    def find(self, sub: bytes, start: int | None = None, end: int | None = None) -> int:
        """The lowest place of *sub*, or -1."""
        start = self._pos if start is None else start
        return self._load(0, self._size).find(sub, start, self._size if end is None else end)

    def rfind(self, sub: bytes, start: int | None = None, end: int | None = None) -> int:
        """The highest place of *sub*, or -1."""
        start = self._pos if start is None else start
        return self._load(0, self._size).rfind(sub, start, self._size if end is None else end)

    def move(self, dest: int, src: int, count: int) -> None:
        """Copy inside. Raises ValueError: out of the mapping."""
        if min(dest, src, count) < 0 or max(dest, src) + count > self._size:
            raise ValueError("source, destination, or count out of range")
        self._store(dest, self._load(src, count))

    def flush(self, offset: int = 0, size: int | None = None) -> None:
        """msync(). Raises EINVAL: the offset is not at a page."""
        self._check()
        if offset % mmap.PAGESIZE:
            raise err(EINVAL)

    def madvise(self, option: int, start: int = 0, length: int | None = None) -> None:
        """Advice, which changes nothing."""
        self._check()

    def size(self) -> int:
        """The file's size."""
        self._check()
        return self._inode.size

    def resize(self, newsize: int) -> None:
        """ftruncate() of what is mapped. Raises EINVAL."""
        self._check()
        raise err(EINVAL)

    def close(self) -> None:
        """munmap()."""
        if not self.closed:
            self.closed = True
            self._process.munmap(self.address, self._size)

    def __enter__(self) -> KernelMap:
        self._check()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def __del__(self) -> None:
        if not getattr(self, "closed", True) and not self._process.kernel.dead:
            self.close()

    def __repr__(self) -> str:
        return "<mmap.mmap closed=True>" if self.closed else f"<mmap.mmap closed=False, length={self._size}>"


KernelMap.__name__ = "mmap"


def mmap_class(places: Places) -> type:
    """The class that stands for mmap.mmap: real mappings as ever, emulated ones are KernelMaps."""
    real = mmap.mmap
    files = places.files

    class Meta(type(real)):  # type: ignore[misc]
        def __instancecheck__(cls, obj: object) -> bool:
            return isinstance(obj, KernelMap) or (
                isinstance(obj, real) if cls is made else super().__instancecheck__(obj)
            )

    def new(cls: type, fileno: int, length: int, *args: Any, **kw: Any) -> Any:
        if fileno in files:
            return KernelMap(places, fileno, length, *args, **kw)
        return real.__new__(real if cls is made else cls, fileno, length, *args, **kw)

    made = Meta("mmap", (real,), {"__new__": new, "__module__": "mmap", "__doc__": real.__doc__})
    return made
