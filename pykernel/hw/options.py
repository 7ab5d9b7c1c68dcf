"""
Options of a model, as machine files give them: each has a rule, and what breaks it is a ValueError that names the key.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

__all__ = ["Boolean", "Choice", "Integer", "Rule", "Tables", "check_options"]


class Rule(Protocol):
    """Says what is wrong with a value; an empty text means nothing."""

    def complaint(self, value: Any) -> str:
        """Text for the person who wrote the machine file."""
        ...


@dataclass(frozen=True)
class Integer:
    """A number from *lo* to *hi*."""

    lo: int
    hi: int

    def complaint(self, value: Any) -> str:
        """Bool is no number here."""
        if isinstance(value, int) and not isinstance(value, bool) and self.lo <= value <= self.hi:
            return ""
        return f"{value!r} is not a number from {self.lo:#x} to {self.hi:#x}"


@dataclass(frozen=True)
class Boolean:
    """True or false."""

    def complaint(self, value: Any) -> str:
        """1 and 0 are not accepted."""
        return "" if isinstance(value, bool) else f"{value!r} is neither true nor false"


@dataclass(frozen=True)
class Choice:
    """One of some names."""

    names: tuple[str, ...]

    def complaint(self, value: Any) -> str:
        """The names are listed."""
        return "" if value in self.names else f"{value!r} is not one of {', '.join(self.names)}"


@dataclass(frozen=True)
class Tables:
    """A list of tables; *kinds* tells the keys of a table by its ``kind``."""

    kinds: Mapping[str, Mapping[str, Rule]]

    def complaint(self, value: Any) -> str:
        """The first thing wrong in the list."""
        if not isinstance(value, list):
            return f"{value!r} is not a list of tables"
        for i, row in enumerate(value):
            if not isinstance(row, Mapping) or row.get("kind") not in self.kinds:
                return f"row {i}: kind must be one of {', '.join(self.kinds)}"
            try:
                check_options(f"row {i}", {k: v for k, v in row.items() if k != "kind"}, self.kinds[row["kind"]])
            except ValueError as e:
                return str(e)
        return ""


def check_options(model: str, options: Mapping[str, Any], rules: Mapping[str, Rule]) -> None:
    """Raise ValueError for the first option of *model* that has no rule or breaks it."""
    for key, value in options.items():
        if key not in rules:
            raise ValueError(f"{model}: unknown option {key!r}: one of {', '.join(rules)}")
        complaint = rules[key].complaint(value)
        if complaint:
            raise ValueError(f"{model}: option {key!r}: {complaint}")
