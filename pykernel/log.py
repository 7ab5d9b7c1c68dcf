"""
dmesg: the kernel's ring buffer, rendered by structlog.

printk() only stores a record; text is made when somebody looks (``human()``, ``json()``, /dev/kmsg), so a quiet
kernel never pays for structlog's import.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

__all__ = ["ALERT", "CRIT", "DEBUG", "EMERG", "ERR", "INFO", "LEVELS", "NOTICE", "WARNING", "Dmesg", "Record"]

# include/linux/kern_levels.h
EMERG, ALERT, CRIT, ERR, WARNING, NOTICE, INFO, DEBUG = range(8)
LEVELS = ("emerg", "alert", "crit", "err", "warning", "notice", "info", "debug")


@dataclass(frozen=True, slots=True)
class Record:
    """``struct printk_record``: one message; *device* is "bus:name" for dev_printk(), else empty."""

    seq: int
    time_ns: int
    level: int
    text: str
    subsystem: str = ""
    device: str = ""
    facility: int = 0  # LOG_KERN; who writes to /dev/kmsg is LOG_USER or what they say


class Dmesg:
    """The log of one kernel: at most *size* records, the oldest fall out."""

    def __init__(self, clock_ns: Callable[[], int], size: int = 8192) -> None:
        self.clock_ns = clock_ns
        self.records: deque[Record] = deque(maxlen=size)
        self.seq = 0
        self.cleared = 0
        self.listeners: list[Callable[[Record], None]] = []

    def printk(self, level: int, text: str, subsystem: str = "", device: str = "", facility: int = 0) -> None:
        """Append one message. C: ``int printk(const char *fmt, ...)``, ``dev_printk_emit()``."""
        record = Record(self.seq, self.clock_ns(), level, text.removesuffix("\n"), subsystem, device, facility)
        self.seq += 1
        self.records.append(record)
        for listener in tuple(self.listeners):
            listener(record)

    def clear(self) -> None:
        """Mark what there is as seen. C: ``syslog(SYSLOG_ACTION_CLEAR)``."""
        self.cleared = self.seq

    def since(self, seq: int) -> list[Record]:
        """The records from *seq* on that the ring still holds."""
        return [r for r in self.records if r.seq >= seq]

    def human(self, *, colors: bool = False) -> str:
        """The log as ``dmesg`` prints it: ``[    0.000123] text``, one line a record."""
        render = _renderer(colors=colors)
        return "".join(render(r) + "\n" for r in self.records)

    def json(self) -> str:
        """The log as JSON lines."""
        from structlog.processors import JSONRenderer

        render = JSONRenderer()
        return "".join(f"{_text(render(None, LEVELS[r.level], _event(r)))}\n" for r in self.records)


def _event(r: Record) -> dict[str, Any]:
    event = {"time": r.time_ns / 1e9, "level": LEVELS[r.level], "event": r.text}
    return event | ({"subsystem": r.subsystem} if r.subsystem else {}) | ({"device": r.device} if r.device else {})


def _text(rendered: str | bytes) -> str:
    return rendered.decode() if isinstance(rendered, bytes) else rendered


def _renderer(*, colors: bool) -> Callable[[Record], str]:
    if not colors:
        return lambda r: f"[{r.time_ns / 1e9:12.6f}] {r.text}"
    from structlog.dev import ConsoleRenderer

    console = ConsoleRenderer(colors=True, pad_event_to=0)
    names = {"emerg": "critical", "alert": "critical", "crit": "critical", "err": "error", "notice": "info"}

    def render(r: Record) -> str:
        name = LEVELS[r.level]
        return _text(
            console(
                None, name, {"timestamp": f"{r.time_ns / 1e9:12.6f}", "level": names.get(name, name), "event": r.text}
            )
        )

    return render
