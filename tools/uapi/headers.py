"""``pykernel uapi list``, ``check`` and ``header``: whole headers."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pykernel.tools.options import Fail
from pykernel.tools.uapi.names import KernelVersion, complete_header, modules_named

if TYPE_CHECKING:
    from pykernel.uapi.check import Report
    from pykernel.uapi.history import Version

__all__ = ["check", "header", "list_headers"]


@click.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def list_headers(as_json: bool) -> None:
    """The headers, one a line, with what each has."""
    from pykernel.uapi import catalog

    kinds: tuple[str, ...] = ("structs", "enums", "ioctls", "constants", "macros")
    rows = []
    for module in modules_named(()):
        counted: dict[str, int] = dict.fromkeys(kinds, 0)
        for entry in catalog.entries(module):
            counted[catalog.kind(entry) + "s"] += 1
        text = (module.__doc__ or "").strip().partition("\n")[0].replace("``", "")
        rows.append(
            {
                "header": catalog.title(module),
                **counted,
                "what": text.partition(": ")[2].partition(", as in")[0].rstrip("."),
            }
        )
    if as_json:
        click.echo("\n".join(json.dumps(row) for row in rows))
        return
    if not sys.stdout.isatty():
        click.echo("\n".join(_columns([("header", *kinds, "what"), *(tuple(map(str, row.values())) for row in rows)])))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    table.add_column("header", no_wrap=True, min_width=max(len(str(row["header"])) for row in rows))
    for name in kinds:
        table.add_column(name, justify="right", no_wrap=True, min_width=len(name))
    table.add_column("what", no_wrap=True, overflow="ellipsis")
    for row in rows:
        table.add_row(*(Text(str(cell)) for cell in row.values()))
    Console(highlight=False).print(table)


def _columns(rows: list[tuple[str, ...]]) -> Iterator[str]:
    """Names at the left, numbers at the right, and the last column as long as it is."""
    wide = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for first, *numbers, last in rows:
        counts = [number.rjust(w) for number, w in zip(numbers, wide[1:-1], strict=True)]
        yield "  ".join([first.ljust(wide[0]), *counts, last])


@click.command()
@click.option("--headers", "headers_dir", type=click.Path(path_type=Path), metavar="DIR",
              help="usr/include after make headers_install, or a tree's include/uapi; else those of cc.")  # fmt: skip
@click.option("--kernel", type=KernelVersion(), help="Of which kernel the headers are; else linux/version.h tells.")
@click.option("--cc", default="cc", show_default=True, metavar="CC", help="The C compiler.")
@click.option("-v", "--verbose", is_flag=True, help="Name what is absent.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.argument("names", metavar="[NAME]...", nargs=-1, shell_complete=complete_header)
def check(
    headers_dir: Path | None, kernel: Version | None, cc: str, verbose: bool, as_json: bool, names: tuple[str, ...]
) -> int:
    """
    Compare sizes, offsets, bit-fields, signs, constants and ioctl numbers with real headers, by a C compiler.

    NAME is a header, like vfio or linux/vfio.h; without one it is every header. The exit status is 1 when anything
    differs. Names and whole headers that are not there because of the headers' age are absent, which is no difference.
    """
    from pykernel.uapi.check import CheckError, compare
    from pykernel.uapi.compiler import Compiler

    modules, places = modules_named(names), f"the places where {cc} looks"
    if headers_dir and not headers_dir.is_dir():
        raise Fail(f"{headers_dir}: no such directory")
    try:
        version, text = (kernel, str(kernel)) if kernel else Compiler(cc, headers_dir).version()
        reports = compare(headers_dir, modules, cc=cc, version=version)
    except CheckError as e:
        hint = "; --kernel VERSION does" if "say of which" in str(e) else ""
        raise Fail(f"{e}{hint}") from e
    if as_json:
        click.echo("\n".join(json.dumps(_as_json(report, text)) for report in reports))
    else:
        click.echo(f"Linux {text}, headers in {headers_dir or places}")
        _print(reports, version, verbose)
    absent, where = [report.header for report in reports if report.state == "absent"], headers_dir or places
    if names and absent:
        raise Fail(f"no header {', '.join(absent)} in {where}")
    if absent and {report.state for report in reports} <= {"absent", "never"}:
        raise Fail(f"none of {_count(len(absent), 'header')} is in {where}")
    return int(any(report.differences or report.why for report in reports))


def _as_json(report: Report, kernel: str) -> dict[str, Any]:
    row = report._asdict() | {"kernel": kernel}
    return row | {"newer": dict(report.newer), "gone": dict(report.gone),
                  "differences": [d._asdict() for d in report.differences]}  # fmt: skip


def _print(reports: list[Report], version: Version, verbose: bool) -> None:
    width = max(len(report.header) for report in reports)
    for report in reports:
        click.echo(f"{report.header:{width}}  {_sentence(report, version)}")
        for difference in report.differences:
            click.echo(f"    {difference.sentence()}")
        if verbose:
            for name, since in report.newer:
                click.echo(f"    {name}: since Linux {since}")
            for name, last in report.gone:
                click.echo(f"    {name}: until Linux {last}")
            for name in report.unknown:
                click.echo(f"    {name}: newer than what is known here")
    facts, wrong = sum(r.agree for r in reports), sum(len(r.differences) for r in reports)
    headers = sum(report.state in ("compared", "never") for report in reports)
    click.echo(f"{_count(headers, 'header')}, {_count(facts, 'fact')} agree, {_count(wrong, 'difference')}")


def _count(n: int, what: str) -> str:
    return f"{n} {what}{'' if n == 1 else 's'}"


def _sentence(report: Report, version: Version) -> str:
    if report.state == "absent":
        return "not among these headers" + (", 1 DIFFERENCE" if report.differences else "")
    if report.state == "broken":
        return report.why.removeprefix(f"{report.header} ")
    parts = [f"{_count(report.agree, 'fact')} agree{'s' if report.agree == 1 else ''}"]
    if report.state == "never":
        parts = [f"never in Linux: nothing to compare with; {parts[0]} with the header that uapi header writes"]
    if report.newer:
        parts.append(f"{_count(len(report.newer), 'name')} absent (newer than {version})")
    if report.gone:
        parts.append(f"{_count(len(report.gone), 'name')} absent (gone before {version})")
    if report.unknown:
        parts.append(f"{_count(len(report.unknown), 'name')} not known here")
    if report.differences:
        parts.append(_count(len(report.differences), "difference").upper())
    return ", ".join(parts)


@click.command()
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="DIR",
              help="Write each header to its place below DIR, as #include wants it.")  # fmt: skip
@click.argument("names", metavar="[NAME]...", nargs=-1, shell_complete=complete_header)
def header(output: Path | None, names: tuple[str, ...]) -> None:
    """
    Print a header as C that compiles, made from the same tables.

    What is newer than some kernels, or gone, is in it with a comment. With -o and no NAME, all headers are written.

    \b
    Examples:
      pykernel uapi header idxd
      pykernel uapi header -o include && cc -Iinclude prog.c
    """
    from pykernel.uapi import emit

    if not output and len(names) != 1:
        raise click.UsageError("give one NAME, or -o DIR to write several headers")
    modules = modules_named(names)
    if not output:
        click.echo(emit.header(modules[0]), nl=False)
        return
    try:
        emit.write(output, modules)
    except OSError as e:
        raise Fail(f"{e.filename}: {e.strerror}") from e
