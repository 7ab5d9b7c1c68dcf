"""
The kernel's trace: what happened, in order, as plain records.

Hooks cost nothing while nobody listens (``if kernel.trace:`` is one truth test), and a listener that raises is
removed and reported, never allowed to break the kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Event", "Trace"]


@dataclass(frozen=True, slots=True)
class Event:
    """One trace record: virtual time in ns, the event's name, its fields, and the task in whose name it happened."""

    time_ns: int
    name: str
    fields: dict[str, Any]
    task: str = ""

    def __str__(self) -> str:
        text = " ".join(f"{k}={v:#x}" if isinstance(v, int) and v > 9 else f"{k}={v}" for k, v in self.fields.items())
        return f"[{self.time_ns / 1e9:12.6f}] {self.task:>16} {self.name}: {text}"


@dataclass(slots=True)
class Trace:
    """The listeners of one kernel. False while there are none."""

    clock_ns: Callable[[], int]
    task: Callable[[], str]
    listeners: list[Callable[[Event], None]] = field(default_factory=list)
    broken: list[BaseException] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.listeners)

    def __call__(self, name: str, /, **fields: Any) -> None:
        """Send one event to every listener."""
        event = Event(self.clock_ns(), name, fields, self.task())
        for listener in tuple(self.listeners):
            try:
                listener(event)
            except Exception as e:
                self.listeners.remove(listener)
                self.broken.append(e)

    def record(self) -> list[Event]:
        """Start to record; the list that is returned grows until the kernel ends."""
        events: list[Event] = []
        self.listeners.append(events.append)
        return events

    def __iter__(self) -> Iterator[Callable[[Event], None]]:
        return iter(self.listeners)
