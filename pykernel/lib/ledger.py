"""
What was taken from a kernel and is to be given back: interrupts, regions, devices, pins. One ledger a kernel.

Each entry has a *holder*, in whose name it was taken: a driver's binding to a device, a loaded module, the kernel
itself. What a living holder has is the machine's state. What nobody holds, because plain client code took it, or what
its holder left behind when it went (a probe that failed, a driver that was unbound, a module that was unloaded), is a
leak.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import FrameType

__all__ = ["Holder", "Ledger", "place", "place_of"]


@cache
def _libraries() -> tuple[str, ...]:
    import sysconfig  # only who tracks origins pays for it

    return (os.path.dirname(os.__file__) + os.sep, sysconfig.get_path("purelib") + os.sep)


class Holder:
    """In whose name things are taken; *gone* once it has no right to them any more."""

    __slots__ = ("gone", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self.gone = False


@dataclass(slots=True)
class Entry:
    """One thing; *what* describes it when somebody asks."""

    thing: object
    what: Callable[[], str]
    holder: Holder | None
    origin: str

    def sentence(self) -> str:
        """What it is, whose it was, where it was taken."""
        whose = f" of {self.holder.name}, which is gone" if self.holder is not None else ""
        return f"{self.what()}{whose}{self.origin}"

    @property
    def left(self) -> bool:
        """Whether nobody has a right to it."""
        return self.holder is None or self.holder.gone


class Ledger:
    """
    The entries of one kernel.

    Args:
        origin: where the client's code is now, for messages.
        busy: whether kernel code runs on behalf of a caller or an event.
    """

    def __init__(self, origin: Callable[[], str], busy: Callable[[], bool]) -> None:
        self.kernel = Holder("the kernel")
        self.holder: Holder | None = None
        self._origin = origin
        self._busy = busy
        self._entries: dict[tuple[str, int], list[Entry]] = {}

    def whose(self, dev: Any = None) -> Holder | None:
        """In whose name something is taken now; *dev* is the device that it belongs to."""
        if self.holder is not None or not self._busy():
            return self.holder
        return getattr(dev, "holder", None) or self.kernel

    def take(self, kind: str, thing: object, what: Callable[[], str], dev: Any = None, *, client: bool = False) -> None:
        """
        Note *thing*; of the same kind it may be taken several times.

        What was taken for a *client* is nobody's when its descriptors are gone.
        """
        holder = self.holder if client else self.whose(dev)
        origin = "" if holder is self.kernel else self._origin()
        self._entries.setdefault((kind, id(thing)), []).append(Entry(thing, what, holder, origin))

    def give(self, kind: str, thing: object) -> None:
        """It was given back, once; what was not taken is no error here."""
        entries = self._entries.get((kind, id(thing)))
        if entries:
            entries.pop()
            if not entries:
                del self._entries[kind, id(thing)]

    def leaks(self) -> list[str]:
        """A sentence for each thing that nobody has a right to."""
        return [e.sentence() for entries in self._entries.values() for e in entries if e.left]

    @contextmanager
    def held(self, holder: Holder) -> Generator[None, None, None]:
        """What the body takes is *holder*'s."""
        before, self.holder = self.holder, holder
        try:
            yield
        finally:
            self.holder = before


def place(frame: FrameType | None, inside: Callable[[dict[str, Any]], bool]) -> str:
    """
    ``FILE:LINE in FUNCTION()`` of the innermost frame that is neither *inside* nor a library's.

    Libraries are Python's own and the installed packages; without any other frame the innermost one of theirs.
    """
    first: FrameType | None = None
    while frame is not None:
        if not inside(frame.f_globals):
            name = frame.f_code.co_filename
            if not name.startswith(_libraries()) and name[:1] != "<":
                return _text(frame)
            first = first or frame
        frame = frame.f_back
    return "" if first is None else _text(first)


def place_of(fn: Any) -> str:
    """A function for a message: its name, and its place when it is Python's."""
    fn = getattr(fn, "func", fn)  # functools.partial
    code = getattr(fn, "__code__", None)
    name = getattr(fn, "__qualname__", type(fn).__name__)
    return name if code is None else f"{name}() at {code.co_filename}:{code.co_firstlineno}"


def _text(frame: FrameType) -> str:
    code = frame.f_code
    return f"{code.co_filename}:{frame.f_lineno} in {code.co_qualname}()"
