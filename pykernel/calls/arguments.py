"""
What the caller's Python arguments must be, where C has a type.

Nothing of this is asked while a call goes well. A call that ends with an exception asks whose fault it is: arguments of
the wrong kind are the caller's (TypeError, ValueError, as Python's os has it), else the exception is the kernel's.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from types import FunctionType
from typing import Any, NamedTuple

from pykernel.lib.names import kernel_text

__all__ = ["KINDS", "At", "NameArg", "PathArg", "Text", "buffer_of", "text_of", "wrong_argument"]

U64 = (1 << 64) - 1


class At(NamedTuple):
    """A path that is relative to the directory open as *fd*, as in openat(2)."""

    fd: int
    path: str | bytes | os.PathLike[Any]


Text = str | bytes | os.PathLike[Any]
"""Characters of a path."""
PathArg = Text | At | int
"""A path, or a descriptor where Linux has a call for it (fchmod, fstatfs, ...)."""
NameArg = PathArg
"""A path where Linux has no such call: a number is a TypeError there."""


def text_of(path: Text) -> str:
    """The path as the kernel has it, one character a byte (``lib/names.py``). Raises ValueError: a NUL; TypeError."""
    text = os.fspath(path)
    text = text.decode("latin-1") if isinstance(text, bytes) else kernel_text(text)
    if "\0" in text:
        raise ValueError("embedded null byte")
    return text


def buffer_of(data: Any) -> bytes:
    """The bytes of *data*. Raises TypeError: it is no buffer, as a number is none."""
    return data if type(data) is bytes else bytes(memoryview(data))


# ---- kinds: whether a value is of one; a ValueError says that it is, and which value is wrong


def _is_int(value: Any) -> bool:
    return hasattr(type(value), "__index__")


def _is_float(value: Any) -> bool:
    if not isinstance(value, float):
        return _is_int(value)
    if not math.isfinite(value):
        raise ValueError(f"{value} is no time")
    return True


def _is_text(value: Any) -> bool:
    if not isinstance(value, str | bytes | os.PathLike):
        return False
    text_of(value)
    return True


def _is_name(value: Any) -> bool:
    return _is_int(value.fd) and _is_text(value.path) if isinstance(value, At) else _is_text(value)


def _is_buffer(value: Any) -> bool:
    try:
        memoryview(value)
    except TypeError:
        return False
    return True


def _is_ioctl_argument(value: Any) -> bool:
    return isinstance(value, int | bytearray) or hasattr(value, "memory")


def _all(kind: Callable[[Any], bool], length: int | None = None) -> Callable[[Any], bool]:
    def test(value: Any) -> bool:
        if not isinstance(value, Sequence) or isinstance(value, str):
            return False
        return (length is None or len(value) == length) and all(map(kind, value))

    return test


def _or_none(kind: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or kind(value)


_TWO = _all(_is_int, 2)

KINDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "int": (_is_int, "an integer"),
    "SupportsIndex": (_is_int, "an integer"),
    "bool": (lambda _value: True, "anything"),
    "str": (lambda value: isinstance(value, str), "str"),
    "str | None": (_or_none(lambda value: isinstance(value, str)), "str or None"),
    "bytes": (_is_buffer, "a bytes-like object"),
    "Text": (_is_text, "str, bytes or os.PathLike"),
    "NameArg": (_is_name, "str, bytes, os.PathLike or At"),
    "PathArg": (lambda value: _is_int(value) or _is_name(value), "str, bytes, os.PathLike, At or a descriptor"),
    "int | None": (_or_none(_is_int), "an integer or None"),
    "float | None": (_or_none(_is_float), "a number or None"),
    "tuple[int, int]": (_TWO, "two integers"),
    "tuple[int, int] | None": (_or_none(_TWO), "two integers or None"),
    "Sequence[int]": (_all(_is_int), "a sequence of integers"),
    "Sequence[bytes]": (_all(_is_buffer), "a sequence of bytes-like objects"),
    "Sequence[tuple[int, int]]": (_all(_TWO), "a sequence of pairs of integers"),
    "int | bytearray | Struct": (_is_ioctl_argument, "an integer, a bytearray or a Struct"),
}
"""The annotations of the calls, as they are written there: a test, and what to say when it fails."""


def _named(fn: FunctionType, args: tuple[Any, ...], kw: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    names = fn.__code__.co_varnames[1 : fn.__code__.co_argcount]  # without self
    yield from zip(names, args, strict=False)
    yield from kw.items()


def wrong_argument(fn: FunctionType, e: Exception, args: tuple[Any, ...], kw: dict[str, Any]) -> Exception | None:
    """
    What to raise instead of *e*, which came of ``fn(self, *args, **kw)``; None: the arguments are not to blame.

    An errno says enough of a number that is out of range; any other exception does not.
    """
    assert e.__traceback__ is not None
    if isinstance(e, TypeError) and e.__traceback__.tb_next is None:
        return e  # Python did not even call it
    for name, value in _named(fn, args, kw):
        test, what = KINDS[fn.__annotations__[name]]
        try:
            right = test(value)
        except ValueError as found:
            return ValueError(f"{fn.__name__}: {found}")
        if not right:
            return TypeError(f"{fn.__name__}() argument {name!r} must be {what}, not {type(value).__name__}")
        if isinstance(value, int) and not isinstance(e, OSError) and not -(1 << 63) <= value <= U64:
            return ValueError(f"{fn.__name__}() argument {name!r} does not fit into 64 bits")
    return None
