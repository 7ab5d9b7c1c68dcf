"""``pykernel trace``: print a recorded trace, or that of a boot, and find what matters in it."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import click

from pykernel.tools.options import Fail, Setup, machine_options, trace_to

__all__ = ["Filter", "command", "lines"]


@dataclass(frozen=True)
class Filter:
    """Which events to print: each condition that is given must hold."""

    name: str = "*"
    task: str = "*"
    grep: str = ""
    errors: bool = False

    def takes(self, row: dict[str, Any], text: str) -> bool:
        """Whether the event *row*, printed as *text*, is wanted."""
        return (
            fnmatchcase(row["name"], self.name)
            and fnmatchcase(row["task"], self.task)
            and self.grep in text
            and (not self.errors or "error" in row["fields"])
        )


def rows(source: Iterable[str], where: str) -> Iterator[dict[str, Any]]:
    """The events of JSON *source*. Raises Fail with the line that is none."""
    for n, line in enumerate(source, 1):
        try:
            row = json.loads(line)
            if not (isinstance(row["time_ns"], int) and isinstance(row["fields"], dict)):
                raise TypeError
            row["name"], row["task"] = str(row["name"]), str(row["task"])
        except (ValueError, KeyError, TypeError):
            raise Fail(f"{where}:{n}: not an event; a trace is what pykernel run --trace FILE wrote") from None
        yield row


def lines(source: Iterable[dict[str, Any]], wanted: Filter) -> Iterator[str]:
    """The events as text, as the kernel's own Event prints itself."""
    from pykernel.trace import Event

    for row in source:
        text = str(Event(row["time_ns"], row["name"], row["fields"], row["task"]))
        if wanted.takes(row, text):
            yield text


@click.command()
@machine_options
@click.argument("file", required=False, metavar="[FILE]")
@click.option("--name", default="*", metavar="GLOB", help="Events with this name: mmio_*.")
@click.option("--task", default="*", metavar="GLOB", help="Events in the name of this task: test-*.")
@click.option("--grep", default="", metavar="TEXT", help="Events whose line has this text.")
@click.option("--errors", is_flag=True, help="Only what failed, with the reason.")
@click.option("--json", "as_json", is_flag=True, help="JSON lines, as recorded.")
def command(setup: Setup, file: str | None, name: str, task: str, grep: str, errors: bool, as_json: bool) -> None:
    """
    Print the trace in FILE (from run --trace), or without FILE that of a boot.

    \b
    Examples:
      pykernel trace --name 'mmio_*'                 registers that the driver touches at probe
      pykernel run --trace t.jsonl -- ./my-test
      pykernel trace t.jsonl --errors                which calls failed, and why
    """
    wanted = Filter(name, task, grep, errors)
    source = _recorded(file) if file is not None else _booted(setup)
    events = rows(source, file or "boot")
    kept: Iterator[str]
    if as_json:
        kept = (json.dumps(row) for row in events if next(lines([row], wanted), None) is not None)
    else:
        kept = lines(events, wanted)
    for line in kept:
        click.echo(line)


def _recorded(file: str) -> list[str]:
    try:
        with click.open_file(file, encoding="utf-8") as f:
            return f.readlines()
    except OSError as e:
        raise Fail(f"{file}: {e.strerror}") from e
    except UnicodeDecodeError as e:
        raise Fail(f"{file}: not a trace: not text in UTF-8") from e


def _booted(setup: Setup) -> list[str]:
    kernel = setup.boot()
    out = io.StringIO()
    trace_to(kernel, out)
    kernel.up()
    return out.getvalue().splitlines()
