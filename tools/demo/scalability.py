"""``pykernel demo scalability``: a queue for each client against one that all share, for 1 to 1,000 clients."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING

import click

from pykernel.tools.options import Fail
from pykernel.tools.scalability.kinds import KINDS

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from pykernel.tools.scalability.experiment import Row

__all__ = ["command"]

CLIENTS = "1,10,100,1000"
MOST = 10_000
ABOUT = (
    "Each client is a process with an address space of its own. It submits up to four copies, checks every byte,",
    "thinks for up to 7 ms, and so on for 20 ms; while the queue is full it waits longer and longer, 64 times at most.",
    "The seed says who runs when. Set-up is what a client costs the host, a machine that is booted for it included.",
)
LIMITS = (
    "Eight queues and 128 entries are what a Sapphire Rapids part has; 16 virtual functions, which divide the entries,",
    "are this machine's choice. Another number moves the end of the dedicated queues, and does not remove it.",
    "Every descriptor that was accepted was done, and every byte was right.",
    "Random pauses alone keep Jain's index among the served at about 0.9; what a full queue costs comes on top.",
    "Not shown: bandwidth. Time is virtual and an engine takes none of it; copies and retries say who got a turn.",
)


def _numbers(ctx: click.Context, param: click.Parameter, value: str) -> tuple[int, ...]:
    """What --clients says: each number once, in order."""
    try:
        numbers = sorted({int(text) for text in value.split(",")})
    except ValueError:
        numbers = []
    if not numbers or not 1 <= numbers[0] <= numbers[-1] <= MOST:
        raise click.BadParameter(f"{value!r}: give numbers from 1 to {MOST:,}, with commas between them", ctx, param)
    return tuple(numbers)


def _kinds(ctx: click.Context, param: click.Parameter, value: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(value.split(",")))
    if unknown := [name for name in names if name not in KINDS]:
        raise click.BadParameter(f"{unknown[0]!r}: there are {', '.join(KINDS)}", ctx, param)
    return names


@click.command("scalability")
@click.option("--clients", callback=_numbers, default=CLIENTS, metavar="N,...", show_default=True, help="How many.")
@click.option(
    "--kinds", callback=_kinds, default=",".join(KINDS), metavar="NAME,...", show_default=True, help="Which queues."
)
@click.option("--seed", default=1, show_default=True, help="Decides everything but the times of this computer.")
@click.option("-p", "--profile", default="linux-6.1", metavar="NAME", show_default=True, help="Which kernel.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.option("--plot", "file", metavar="FILE.png", help="Draw the figure, too; needs matplotlib.")
def command(
    clients: tuple[int, ...], kinds: tuple[str, ...], seed: int, profile: str, as_json: bool, file: str | None
) -> None:
    """
    Let 1 to 1,000 clients have one accelerator: by queues of their own (virtual functions of SR-IOV, mediated devices
    1dwq), or by one shared queue (ENQCMD, mediated devices 1swq).
    """
    from pykernel.profile import get
    from pykernel.tools.scalability import chart

    try:
        get(profile)
        if file is not None:
            chart.load()
    except ValueError as e:
        raise Fail(str(e)) from e
    rows = _measure(kinds, clients, seed, profile)
    if as_json:
        for row in rows:
            click.echo(json.dumps(asdict(row) | {"retried": row.retried}))
    else:
        _tell(rows, seed)
    if file is not None:
        try:
            chart.plot(rows, file)
        except (ValueError, OSError) as e:
            raise Fail(f"{file}: {e}") from e


def _measure(kinds: Sequence[str], clients: Sequence[int], seed: int, profile: str) -> list[Row]:
    """All rows, with a bar on stderr that grows as long as it lasts. Raises Fail: a client saw what it may not see."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from pykernel.tools.scalability.client import Wrong
    from pykernel.tools.scalability.experiment import run

    rows: list[Row] = []
    columns = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:3.0f}%"), TimeElapsedColumn()
    err = Console(stderr=True)
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as progress:
        for kind in kinds:
            run(kind, 1, seed=seed, profile=profile, window_ms=1)  # what is loaded only once is not a client's cost
            for n in clients:
                bar = progress.add_task(f"{KINDS[kind].title}: {n:,}", total=1)
                try:
                    rows.append(run(kind, n, seed=seed, profile=profile, tell=partial(_move, progress, bar)))
                except Wrong as e:
                    raise Fail(f"{e} (seed {seed}): this is a bug in pykernel") from e
                _move(progress, bar, 1)
    return rows


def _move(progress: Progress, bar: TaskID, part: float) -> None:
    progress.update(bar, completed=part)


def _tell(rows: Sequence[Row], seed: int) -> None:
    from rich.console import Console

    from pykernel.tools.scalability import chart

    say = Console(highlight=False, width=None if os.isatty(1) else 140)
    numbers = sorted({row.clients for row in rows})
    say.print(f"[bold cyan]One Data Streaming Accelerator, {numbers[0]:,} to {numbers[-1]:,} clients, seed {seed}")
    for line in (*ABOUT, *(f"  {kind:6}{KINDS[kind].title}" for kind in dict.fromkeys(row.kind for row in rows))):
        say.print(line, soft_wrap=True)
    say.print()
    say.print(chart.table(rows))
    say.print("\n[bold cyan]How many have the accelerator")
    for line in chart.bars(rows):
        say.print(line, soft_wrap=True)
    say.print("\n[bold cyan]What it shows, and what it does not")
    for row in {row.kind: row for row in rows}.values():  # the last of a kind: the most clients
        say.print(f"{KINDS[row.kind].title}: {_finding(row)}", soft_wrap=True)
    for line in LIMITS:
        say.print(line, soft_wrap=True)


def _finding(row: Row) -> str:
    of = f"of {row.clients:,} clients {row.served:,}"
    if row.refused:
        why = ", ".join(f"{n:,} with {name}" for name, n in row.refused.items())
        return f"{of} are served, the others are refused ({why})."
    return (
        f"{of} are served; the price is {row.retried:.2f} retries for each descriptor, {row.gave_up:,} given up, "
        f"{row.mean:.0f} of {row.entries} entries taken on average. The one that did least did {row.least}."
    )
