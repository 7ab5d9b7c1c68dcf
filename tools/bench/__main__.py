"""``python -m pykernel.tools.bench``: the table."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict

import click

from pykernel.tools.bench import devices, dma, headers, inside, mdev, process, startup, sva, vfio, vmm
from pykernel.tools.bench.measure import Row

__all__ = ["command"]

GROUPS = ("startup", "inside", "headers", "dma", "devices", "mdev", "vfio", "sva", "process")


def measured(only: str) -> Iterator[Row]:
    """All rows, or those of the group *only*."""
    programs = os.access("/dev/fuse", os.R_OK | os.W_OK)
    if only in ("", "startup"):
        yield from startup.rows(programs=programs)
    if only in ("", "inside"):
        yield from inside.rows()
    if only in ("", "headers"):
        yield from headers.rows()
    if only in ("", "dma"):
        yield from dma.rows()
    if only in ("", "devices"):
        yield from devices.rows()
    if only in ("", "mdev"):
        yield from mdev.rows()
    if only in ("", "vfio"):
        yield from vfio.rows()
    if only in ("", "sva"):
        yield from sva.rows()
        yield from vmm.rows()
    if only in ("", "process") and programs:
        yield from process.rows()


def human(seconds: float, of: str = "s") -> str:
    """Three digits that matter: 8.3 us, 152 ms, 43.2 MiB."""
    value, unit = (seconds, of) if of != "s" else (seconds * 1e6, "us") if seconds < 1e-3 else (seconds * 1e3, "ms")
    return f"{value:.1f} {unit}" if value < 100 else f"{value:.0f} {unit}"


@click.command()
@click.option("--only", default="", type=click.Choice(["", *GROUPS]), help="One group.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.option("--plot", metavar="FILE.png", help="Only draw what an mdev costs while thousands live; needs matplotlib.")
def command(only: str, as_json: bool, plot: str | None) -> None:
    """Measure, and print each figure beside its target; exit status 1 when a target is missed."""
    if plot is not None:
        try:
            mdev.plot(plot)
        except (ValueError, OSError) as e:
            raise click.ClickException(str(e)) from e
        return
    rows = []
    for row in measured(only):
        rows.append(row)
        if as_json:
            click.echo(json.dumps(asdict(row)))
    if not as_json:
        draw(rows)
    raise SystemExit(any(row.target is not None and row.seconds > row.target for row in rows))


def draw(rows: list[Row]) -> None:
    """The table on the terminal."""
    from rich.console import Console
    from rich.table import Table

    by_name = {row.name: row.seconds for row in rows}
    table = Table("what (median)", box=None, pad_edge=False)
    for head in ("measured", "target", "ratio"):
        table.add_column(head, justify="right")
    table.add_column("to")
    for row in rows:
        target = "" if row.target is None else human(row.target, row.unit)
        style = "" if row.target is None else ("green" if row.seconds <= row.target else "bold red")
        ratio = f"{row.seconds / by_name[row.base]:.1f}" if row.base in by_name else ""
        measured_text = f"[{style}]{human(row.seconds, row.unit)}[/]" if style else human(row.seconds, row.unit)
        table.add_row(row.name, measured_text, target, ratio, row.base if ratio else "")
    Console(highlight=False, width=None if os.isatty(1) else 140).print(table)


if __name__ == "__main__":
    command()
