"""Where structs keep their bytes: cffi, and views of C arrays inside a struct."""

from __future__ import annotations

from collections.abc import Iterator, MutableSequence
from functools import cache
from typing import Any, TypeVar, cast

__all__ = ["Array", "Storage", "get_ffi", "hexadecimal"]

T = TypeVar("T")


@cache
def get_ffi() -> Any:
    """The one cffi.FFI: structs of different headers nest."""
    import cffi  # not at the top: a program that only wants constants should not pay for it

    return cffi.FFI()


class Storage:
    """
    What a struct is at run time: a place in memory.

    Its slots are not in Struct itself, where type checkers would take them for fields.
    """

    __slots__ = ("_c", "_keep", "_size")

    _c: Any  # cffi pointer to the struct
    _keep: object  # what owns the memory, when the pointer does not
    _size: int  # bytes behind the pointer: differs from sizeof with a flexible array


def hexadecimal(value: object) -> str:
    """A value as repr() of a struct shows it."""
    if isinstance(value, int):
        return hex(value)
    return f"0x{value.hex() or '0'}" if isinstance(value, bytes) else repr(value)


def _copied(value: Any) -> Any:
    """A value that stays when what it may be a view of is overwritten."""
    if isinstance(value, Storage):
        return cast(Any, value).from_bytes(bytes(cast(Any, value)))
    return [_copied(v) for v in value] if isinstance(value, Array) else value


class Array(MutableSequence[T]):
    """A C array inside a struct: numbers, views of structs, or rows of them. Its length is fixed."""

    __slots__ = ("_c", "_cls", "_keep")

    def __init__(self, c: Any, keep: object, cls: type[Any] | None) -> None:
        self._c, self._keep, self._cls = c, keep, cls

    def __len__(self) -> int:
        return len(self._c)

    def _at(self, index: int) -> Any:
        index = range(len(self))[index]
        item = self._c[index]
        if isinstance(item, int):
            return item
        if self._cls and get_ffi().typeof(item).kind != "array":
            return self._cls._view(get_ffi().addressof(self._c, index), self._keep)
        return Array(item, self._keep, self._cls)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self._at(i) for i in range(*index.indices(len(self)))]
        return self._at(index)

    def _put(self, index: int, value: Any) -> None:
        item = self._at(index)
        if isinstance(item, Array):
            item[:] = value
        else:
            self._c[range(len(self))[index]] = value._c[0] if self._cls else value

    def __setitem__(self, index: Any, value: Any) -> None:
        """Assigning a whole slice that is short fills up with zeros, as C's initialiser does; elsewhere sizes agree."""
        if not isinstance(index, slice):
            return self._put(index, value)
        places, values = range(*index.indices(len(self))), [_copied(v) for v in value]
        if len(values) > len(places) or (len(values) < len(places) and index != slice(None)):
            raise IndexError(f"{len(places)} elements, {len(values)} values")
        for i, item in zip(places, values, strict=False):
            self._put(i, item)
        if len(values) < len(places):
            rest = memoryview(get_ffi().buffer(self._c))[
                len(values) * get_ffi().sizeof(get_ffi().typeof(self._c).item) :
            ]
            rest[:] = bytes(len(rest))
        return None

    def __delitem__(self, index: Any) -> None:
        raise TypeError("a C array has a fixed length")

    def insert(self, index: int, value: Any) -> None:
        """Not possible: TypeError."""
        raise TypeError("a C array has a fixed length")

    def __iter__(self) -> Iterator[T]:
        return (self._at(i) for i in range(len(self)))

    def __eq__(self, other: object) -> bool:
        return list(self) == list(other) if isinstance(other, (Array, list, tuple)) else NotImplemented

    __hash__ = None  # type: ignore[assignment]  # it can change

    def __repr__(self) -> str:
        return f"[{', '.join(map(hexadecimal, self))}]"
