"""Faults planted in the silicon: by the ``faults`` option of a machine file, or one command at a time by a test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["PlantedCommand", "PlantedFaults"]


@dataclass(frozen=True)
class PlantedCommand:
    """What is planted for a command: a status *code* instead of running it, and/or a *halt* with a reset type."""

    code: int = 0
    halt: int | None = None


class PlantedFaults:
    """
    The faults of one device.

    ``{kind = "fail_command", code = 0x14}`` (command, times optional), ``{kind = "halt_on_command", command = 1}``
    (reset_type optional), ``{kind = "fail_operation", status = 0x20}`` (opcode, times optional); each fires *times*
    times (once unless told), for any command or operation unless one is named.
    """

    def __init__(self, rows: Sequence[Mapping[str, Any]]) -> None:
        self._rows = [dict(row) for row in rows]
        self._next_code = 0

    def fail_command(self, code: int) -> None:
        """The next command ends with *code*."""
        self._next_code = code

    def command(self, number: int) -> PlantedCommand:
        """What to do to command *number*, which is about to run."""
        if self._next_code:
            code, self._next_code = self._next_code, 0
            return PlantedCommand(code)
        row = self._fire("halt_on_command", "command", number)
        halt = None if row is None else int(row.get("reset_type", 0))
        row = self._fire("fail_command", "command", number)
        return PlantedCommand(0 if row is None else int(row["code"]), halt)

    def operation(self, opcode: int) -> int:
        """Status for a descriptor of *opcode*, or 0 to let it run."""
        if not self._rows:
            return 0
        row = self._fire("fail_operation", "opcode", opcode)
        return 0 if row is None else int(row["status"])

    def _fire(self, kind: str, key: str, value: int) -> dict[str, Any] | None:
        for row in self._rows:
            if row["kind"] == kind and row.get(key, value) == value and row.setdefault("times", 1):
                row["times"] -= 1
                return row
        return None
