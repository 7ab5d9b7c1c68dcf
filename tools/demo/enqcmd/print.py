"""How the lesson looks: columns of names and values, and a drawing of the path; 80 columns, no colours in a file."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["Printer"]

WIDTH: Final = 80
NAME: Final = 10
INNER: Final = 56  # of a box
BOXES: Final = {True: tuple("┌─┐│└┘▼"), False: tuple("+-+|++v")}


class Printer:
    """Writes to *say*; its encoding decides what boxes are made of."""

    def __init__(self, say: Console) -> None:
        self.say = say
        self.box = BOXES[say.encoding.lower().replace("-", "").startswith("utf8")]

    def text(self, text: str, style: str = "") -> None:
        """One line as it is."""
        self.say.print(text, style=style or None, markup=False, soft_wrap=True)

    def title(self, text: str, by: str = "") -> None:
        """Begin a step; *by* is who does it."""
        self.text("")
        self.text(text, "bold cyan")
        if by:
            self.text(f"   by {by}", "dim")

    def rows(self, rows: Iterable[tuple[str, str]], style: str = "", width: int = NAME) -> None:
        """Names of *width* and values; a line of the log is kept whole."""
        for name, value in rows:
            self.text(f"   {name:<{width}} {value}", style)

    def wrapped(self, name: str, text: str, style: str = "") -> None:
        """A name and a sentence or two."""
        indent = " " * (NAME + 4)
        lines = textwrap.wrap(text, WIDTH - len(indent))
        self.rows([(name if not n else "", line) for n, line in enumerate(lines)], style)

    def drawing(self, stations: Sequence[tuple[str, list[str], str]]) -> None:
        """The path: a box for each station, an arrow with what leaves it."""
        tl, h, tr, v, bl, br, down = self.box
        for name, lines, leaves in stations:
            self.text(f"  {tl}{f'{h} {name} ':{h}<{INNER + 2}}{tr}")
            for line in lines:
                self.text(f"  {v} {line:<{INNER}} {v}")
            self.text(f"  {bl}{h * (INNER + 2)}{br}")
            if leaves:
                self.text(f"      {down}  {leaves}", "green")

    def dump(self, rows: Iterable[tuple[str, int, bytes]]) -> None:
        """The same bytes by each of their addresses."""
        for name, addr, data in rows:
            self.text(f"   {name} {addr:#014x}  {data[:6].hex(' ')}  {data.decode('ascii', 'replace')[:36]!r}")
