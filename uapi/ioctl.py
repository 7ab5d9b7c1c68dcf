"""
``asm-generic/ioctl.h``: how an ioctl number is made, and typed rows of ioctls.

::

    VFIO_DEVICE_GET_INFO: Final = _IO(VFIO_TYPE, VFIO_BASE + 7, vfio_device_info, minsz="num_irqs")
    VHOST_SET_VRING_NUM: Final = _IOW(VHOST_VIRTIO, 0x10, vhost_vring_state)
    VHOST_GET_FEATURES: Final = _IOR(VHOST_VIRTIO, 0x00, "__u64")

A row's number is computed when it is asked for first, so that a header module does not lay out its structs at import.
"""

from __future__ import annotations

from functools import cached_property
from types import ModuleType
from typing import Any, Final, Generic, NamedTuple, TypeVar, overload

from pykernel.uapi.struct import Struct

__all__ = ["_IO", "_IOC", "_IOR", "_IOW", "_IOWR", "Ioctl", "IoctlNr", "decode", "ioctls"]

_IOC_NRBITS: Final = 8
_IOC_TYPEBITS: Final = 8
_IOC_SIZEBITS: Final = 14
_IOC_DIRBITS: Final = 2

_IOC_NRSHIFT: Final = 0
_IOC_TYPESHIFT: Final = _IOC_NRSHIFT + _IOC_NRBITS
_IOC_SIZESHIFT: Final = _IOC_TYPESHIFT + _IOC_TYPEBITS
_IOC_DIRSHIFT: Final = _IOC_SIZESHIFT + _IOC_SIZEBITS

_IOC_NONE: Final = 0
_IOC_WRITE: Final = 1  # user space writes, the kernel reads
_IOC_READ: Final = 2

# The scalars that headers give as argument type, also as arrays like "char[16]"; LP64
_SCALARS: Final = {
    "__u8": 1, "__u16": 2, "__u32": 4, "__u64": 8, "__s8": 1, "__s16": 2, "__s32": 4, "__s64": 8,
    "char": 1, "short": 2, "int": 4, "unsigned int": 4, "long": 8, "unsigned long": 8,
}  # fmt: skip

S = TypeVar("S", bound=Struct)


def _IOC(direction: int, type: int, nr: int, size: int) -> int:
    """C: ``_IOC(dir, type, nr, size)``; ValueError when a part does not fit."""
    if not (0 <= direction < 4 and 0 <= type < 256 and 0 <= nr < 256 and 0 <= size < 1 << _IOC_SIZEBITS):
        raise ValueError(f"_IOC({direction}, {type:#x}, {nr:#x}, {size:#x}) does not fit in an ioctl number")
    return direction << _IOC_DIRSHIFT | size << _IOC_SIZESHIFT | type << _IOC_TYPESHIFT | nr << _IOC_NRSHIFT


def _is_signed(scalar: str) -> bool:
    return scalar in ("char", "short", "int", "long") or scalar.startswith("__s")


class IoctlNr(NamedTuple):
    """The parts of an ioctl number."""

    direction: int  # _IOC_NONE, or _IOC_READ and _IOC_WRITE
    type: int
    nr: int
    size: int

    def __str__(self) -> str:
        macro = ("_IO", "_IOW", "_IOR", "_IOWR")[self.direction]
        size = f", {self.size}" if self.direction or self.size else ""
        letter = repr(chr(self.type)) if 32 < self.type < 127 else hex(self.type)
        return f"{macro}({letter}, {self.nr:#x}{size})"


def decode(nr: int) -> IoctlNr:
    """Take an ioctl number apart. Only the low 32 bits count, as in the kernel."""
    return IoctlNr(
        nr >> _IOC_DIRSHIFT & (1 << _IOC_DIRBITS) - 1,
        nr >> _IOC_TYPESHIFT & (1 << _IOC_TYPEBITS) - 1,
        nr >> _IOC_NRSHIFT & (1 << _IOC_NRBITS) - 1,
        nr >> _IOC_SIZESHIFT & (1 << _IOC_SIZEBITS) - 1,
    )


class Ioctl(Generic[S]):
    """
    One ioctl: its number and the struct that its argument points to.

    *minsz* names the last field that callers must have: what a driver copies in and checks ``argsz`` against.
    An ``_IO`` number carries no size, its struct is a convention of the driver.
    """

    def __init__(self, direction: int, magic: int, index: int, struct: type[S] | str | None, minsz: str = "") -> None:
        if not isinstance(magic, int) or not 0 <= magic < 256 or not 0 <= index < 256:
            raise TypeError(
                f"an ioctl's type and number have 8 bits each, as in (ord('x'), 1); not ({magic!r}, {index!r})"
            )
        if isinstance(struct, str) and struct.partition("[")[0] not in _SCALARS:
            raise TypeError(f"{struct!r} is no C scalar of headers: one of {', '.join(_SCALARS)}, or an array of one")
        if minsz and (struct is None or isinstance(struct, str) or minsz not in struct.__dict__):
            raise TypeError(f"minsz: {struct!r} has no field {minsz!r}")
        self.direction, self.magic, self.index = direction, magic, index
        self.struct: type[S] | None = None if isinstance(struct, str) else struct
        self._scalar, self._minsz, self._sized = (
            struct if isinstance(struct, str) else "",
            minsz,
            direction != _IOC_NONE,
        )

    @cached_property
    def size(self) -> int:
        """Bytes of the argument; 0 without one."""
        if self.struct is not None:
            return self.struct.sizeof()
        scalar, _, count = self._scalar.removesuffix("]").partition("[")
        return _SCALARS[scalar] * int(count or 1) if scalar else 0

    @property
    def scalar(self) -> str:
        """The C scalar that the argument points to, or an array of it; empty when it is a struct or nothing."""
        return self._scalar

    @property
    def key(self) -> str:
        """What tells rows apart without laying their structs out."""
        what = self.struct.__name__ if self.struct else self._scalar
        return f"{('_IO', '_IOW', '_IOR', '_IOWR')[self.direction]}({self.magic:#x}, {self.index:#x}, {what or '-'})"

    def unpack(self, data: bytes) -> int | bytes:
        """What *data* holds: a number, or bytes when the row names an array."""
        if "[" in self._scalar:
            return data
        return int.from_bytes(data, "little", signed=_is_signed(self._scalar))

    def pack(self, value: int | bytes) -> bytes:
        """*value* as it lies in memory. Raises OverflowError: it does not fit."""
        if isinstance(value, int):
            return value.to_bytes(self.size, "little", signed=_is_signed(self._scalar))
        if len(value) > self.size:
            raise OverflowError(f"{len(value)} bytes do not fit into {self._scalar}")
        return value.ljust(self.size, b"\0")

    @property
    def reads(self) -> bool:
        """The caller gets something back: ``_IOR``, ``_IOWR``."""
        return bool(self.direction & _IOC_READ)

    @property
    def writes(self) -> bool:
        """The caller gives something: ``_IOW``, ``_IOWR``, and the struct of an ``_IO``."""
        return bool(self.direction & _IOC_WRITE) or self.direction == _IOC_NONE

    @cached_property
    def nr(self) -> int:
        """The number that user space passes."""
        return _IOC(self.direction, self.magic, self.index, self.size if self._sized else 0)

    @cached_property
    def minsz(self) -> int:
        """C: ``offsetofend(struct ..., last old field)``; the whole size when no field is named."""
        return self.struct.offsetofend(self._minsz) if self.struct is not None and self._minsz else self.size

    def __int__(self) -> int:
        return self.nr

    __index__ = __int__

    def __repr__(self) -> str:
        return f"<Ioctl {self.nr:#x} {decode(self.nr)} {self.struct.__name__ if self.struct else self._scalar or '-'}>"


@overload
def _IO(magic: int, nr: int, arg: str = "") -> Ioctl[Any]: ...
@overload
def _IO(magic: int, nr: int, arg: type[S], *, minsz: str = "") -> Ioctl[S]: ...
def _IO(magic: int, nr: int, arg: Any = None, *, minsz: str = "") -> Ioctl[Any]:
    """C: ``_IO(type, nr)``; *arg* is what the driver's convention passes a pointer to."""
    return Ioctl(_IOC_NONE, magic, nr, arg or None, minsz)


@overload
def _IOR(magic: int, nr: int, arg: str) -> Ioctl[Any]: ...
@overload
def _IOR(magic: int, nr: int, arg: type[S], *, minsz: str = "") -> Ioctl[S]: ...
def _IOR(magic: int, nr: int, arg: Any, *, minsz: str = "") -> Ioctl[Any]:
    """C: ``_IOR(type, nr, arg)``: the kernel writes *arg*, a struct or the name of a C scalar."""
    return Ioctl(_IOC_READ, magic, nr, arg, minsz)


@overload
def _IOW(magic: int, nr: int, arg: str) -> Ioctl[Any]: ...
@overload
def _IOW(magic: int, nr: int, arg: type[S], *, minsz: str = "") -> Ioctl[S]: ...
def _IOW(magic: int, nr: int, arg: Any, *, minsz: str = "") -> Ioctl[Any]:
    """C: ``_IOW(type, nr, arg)``: the kernel reads *arg*, a struct or the name of a C scalar."""
    return Ioctl(_IOC_WRITE, magic, nr, arg, minsz)


@overload
def _IOWR(magic: int, nr: int, arg: str) -> Ioctl[Any]: ...
@overload
def _IOWR(magic: int, nr: int, arg: type[S], *, minsz: str = "") -> Ioctl[S]: ...
def _IOWR(magic: int, nr: int, arg: Any, *, minsz: str = "") -> Ioctl[Any]:
    """C: ``_IOWR(type, nr, arg)``: the kernel reads and writes *arg*, a struct or the name of a C scalar."""
    return Ioctl(_IOC_READ | _IOC_WRITE, magic, nr, arg, minsz)


def ioctls(module: ModuleType) -> dict[int, str]:
    """The ioctl numbers of a header module and their names, for traces and tables."""
    return {row.nr: name for name, row in vars(module).items() if isinstance(row, Ioctl)}
