"""
A C library in Python: function pointers for ctypes, the memory that results live in, and what stands for ctypes.CDLL.

A function is a C callback, so ctypes treats it as any other: the argtypes, restype and errcheck that a program sets are
honoured. All arguments and results are passed as 64 bit words, which the C ABIs of 64 bit machines allow.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import os
from collections.abc import Callable, Iterable
from errno import EINVAL, EIO
from functools import partial, wraps
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from pykernel.errors import err

if TYPE_CHECKING:
    from pykernel.kernel import Kernel
    from pykernel.surfaces.inprocess.libudev import Library
    from pykernel.surfaces.inprocess.places import Places

__all__ = ["Functions", "Held", "ctypes_rows"]

SONAME = "libudev.so.1"
WORD = 1 << 64


class Held:
    """An object that C has a pointer to, with the strings and list entries that were asked of it."""

    def __init__(self, obj: Any, udev: Held | None = None) -> None:
        self.obj = obj
        self.udev = udev
        self.refs = 1
        self.parent: Held | None = None
        self.userdata = 0
        self.end: Callable[[], None] | None = None
        self.lists: dict[str, tuple[tuple[tuple[str, str | None], ...], list[Held]]] = {}
        self._memory = ctypes.create_string_buffer(8)
        self._strings: dict[str, Any] = {}

    @property
    def address(self) -> int:
        """The pointer."""
        return ctypes.addressof(self._memory)

    def string(self, text: str) -> int:
        """A pointer to *text*, one character a byte, that lives as long as the object."""
        made = self._strings.get(text)
        if made is None:
            made = self._strings[text] = ctypes.create_string_buffer(text.encode("latin-1", "replace"))
        return ctypes.addressof(made)


class Functions:
    """
    The functions of a library: methods, called by pointers.

    *signatures* has a row for each: the kinds of its arguments and of its result. Arguments: o an object (null is
    EINVAL), s a string (null is EINVAL), z a string or null, i int, c char, u a word, * a pointer as it is. Results: p
    an object or null, s a string (of the first argument) or null, n a number; of one that raises an errno these are
    null or 0; i 0 or a negative errno.
    """

    def __init__(self, kernel: Kernel, signatures: dict[str, str]) -> None:
        self.kernel = kernel
        self.signatures = signatures
        self.live: dict[int, Held] = {}
        self._pointers: dict[str, int] = {}
        self._callbacks: list[Any] = []

    def pointer(self, name: str) -> int:
        """The address of a function. Raises AttributeError: there is none of that name."""
        if name not in self.signatures:
            raise AttributeError(f"{SONAME}: undefined symbol: {name}")
        if name not in self._pointers:
            kinds, _, result = self.signatures[name].partition("> ")
            words = [ctypes.c_uint64] * len(kinds := kinds.strip())
            prototype = ctypes.CFUNCTYPE(ctypes.c_uint64, *words, use_errno=True)
            callback = prototype(partial(self._call, getattr(self, name.removeprefix("udev")), kinds, result))
            self._callbacks.append(callback)
            self._pointers[name] = ctypes.cast(callback, ctypes.c_void_p).value or 0
        return self._pointers[name]

    def _call(self, method: Callable[..., Any], kinds: str, result: str, *words: int) -> int:
        try:
            args = [self._argument(kind, word) for kind, word in zip(kinds, words, strict=True)]
            return self._result(result, method(*args), args)
        except OSError as e:
            code = e.errno or EIO
        except Exception as e:
            self.kernel.oops(e)
            code = EIO
        ctypes.set_errno(code)
        return WORD - code if result == "i" else 0

    def _argument(self, kind: str, word: int) -> Any:
        if kind == "o":
            if word not in self.live:
                raise err(EINVAL)
            return self.live[word]
        if kind in "sz":
            if word:
                return ctypes.string_at(word).decode("latin-1")
            if kind == "s":
                raise err(EINVAL)
            return None
        if kind == "c":
            return chr(word & 0xFF)
        return ctypes.c_int(word & 0xFFFFFFFF).value if kind == "i" else word

    @staticmethod
    def _result(kind: str, value: Any, args: list[Any]) -> int:
        if value is None:
            return 0
        if kind == "p":
            return value.address  # type: ignore[no-any-return]
        if kind == "s":
            return args[0].string(value)  # type: ignore[no-any-return]
        return int(value) % WORD

    # ---- objects

    def hold(self, obj: Any, udev: Held | None = None) -> Held:
        """Something new that C gets a pointer to, with one reference."""
        held = Held(obj, udev)
        self.live[held.address] = held
        return held

    def drop(self, word: int) -> bool:
        """One reference less; whether it was the last."""
        held = self.live.get(word)
        if held is None:
            return False
        held.refs -= 1
        if held.refs:
            return False
        del self.live[word]
        if held.end is not None:
            held.end()
        if held.parent is not None:
            self.drop(held.parent.address)
        for _, entries in held.lists.values():
            for entry in entries:
                del self.live[entry.address]
        return True

    def entries(self, owner: Held, what: str, rows: Iterable[tuple[str, str | None]]) -> Held | None:
        """The first entry of a list; the same one as before if it has not changed."""
        wanted = tuple(rows)
        before = owner.lists.get(what)
        if before is None or before[0] != wanted:
            made = [self.hold(row) for row in wanted]
            for entry, following in pairwise(made):
                entry.parent = following
            for entry in before[1] if before is not None else ():
                del self.live[entry.address]
            before = owner.lists[what] = (wanted, made)
        return before[1][0] if before[1] else None


# ---- ctypes


class LibUdev(ctypes.CDLL):
    """``ctypes.CDLL("libudev.so.1")`` of a patched program."""

    _functions: Library

    def __getitem__(self, name: Any) -> Any:
        """A function pointer of its own; as of a real library, the one that an attribute gives is kept."""
        function: Any = self._FuncPtr(self._functions.pointer(name))
        function.__name__ = name
        return function


def ctypes_rows(places: Places) -> list[tuple[Any, str, Any]]:
    """Owner, name and what takes its place: libudev is found and loaded, whether or not the host has one."""
    real: Callable[..., None] = ctypes.CDLL.__init__
    made: list[Library] = []

    def library() -> Library:
        if not made:
            from pykernel.surfaces.inprocess.libudev import Library

            made.append(Library(places.process, real))
        return made[0]

    @wraps(real)
    def init(
        self: Any, name: Any = None, mode: int = ctypes.DEFAULT_MODE, handle: Any = None, *args: Any, **kw: Any
    ) -> None:
        ours = handle is None and name is not None and _is_libudev(name)
        real(self, None if ours else name, mode, handle, *args, **kw)
        if ours:
            self._name, self._functions = name, library()
            self.__class__ = LibUdev

    rows: list[tuple[Any, str, Any]] = [(ctypes.CDLL, "__init__", init)]
    # find_library() itself may have been imported by name; what it asks first is looked up when it runs
    for owner_name in ("find_library", "_findSoname_ldconfig"):
        asked = getattr(ctypes.util, owner_name, None)
        if asked is not None:
            rows.append((ctypes.util, owner_name, _finder(asked)))
    return rows


def _finder(real: Callable[[str], str | None]) -> Callable[[str], str | None]:
    @wraps(real)
    def find(name: str) -> str | None:
        return SONAME if name == "udev" else real(name)

    return find


def _is_libudev(name: Any) -> bool:
    base = os.path.basename(os.fsdecode(name))
    return base == "libudev.so" or base.startswith("libudev.so.")
