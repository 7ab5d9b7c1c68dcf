"""``pykernel uapi``: the headers of Linux that uapi/ states, compared, printed, explained, written."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pykernel.tools.options import Fail

if TYPE_CHECKING:
    from types import ModuleType

    from pykernel.uapi.check import Report
    from pykernel.uapi.history import Version

__all__ = ["command"]


class KernelVersion(click.ParamType):  # type: ignore[type-arg,unused-ignore]  # generic since click 8.3
    """6.12, 6.1.192."""

    name = "VERSION"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Version:
        """The text as a Version."""
        from pykernel.uapi import history

        try:
            return history.parse(value)
        except ValueError as e:
            self.fail(str(e), param, ctx)


@click.group()
def command() -> None:
    """
    The C headers of Linux that this kernel knows: structs, constants, ioctl numbers.

    \b
    Examples:
      pykernel uapi check                            compare with the headers of this host
      pykernel uapi check --headers linux/usr/include vfio
      pykernel uapi show vfio_device_info            where the fields of a struct lie
      pykernel uapi decode 0x3b6b                    which ioctl is that?
      pykernel uapi header idxd > idxd.h             a C header of it
    """


def modules_named(names: Iterable[str]) -> list[ModuleType]:
    """The header modules of these names; all without names. Raises Fail."""
    from pykernel.uapi import catalog

    known = {catalog.title(module): module for module in catalog.header_modules()}
    found = []
    for name in names:
        module = catalog.find_module(name)
        if module is None:
            raise Fail(f"no header {name!r}{_meant(name, known)}; pykernel uapi list has them all")
        found.append(module)
    return found or list(known.values())


def _meant(name: str, known: Iterable[str]) -> str:
    from pykernel.uapi import catalog

    near = catalog.near(name, list(known))
    return f": did you mean {' or '.join(near)}?" if near else ""


@command.command("list")
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
        rows.append({"header": catalog.title(module), **counted, "what": text.partition(": ")[2].rstrip(".")})
    if as_json:
        click.echo("\n".join(json.dumps(row) for row in rows))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("header", box=None, pad_edge=False)
    for name in kinds:
        table.add_column(name, justify="right")
    table.add_column("what")
    for row in rows:
        table.add_row(*(Text(str(cell)) for cell in row.values()))
    Console(highlight=False, width=None if sys.stdout.isatty() else 140).print(table)


@command.command()
@click.option("--headers", "headers_dir", type=click.Path(path_type=Path), metavar="DIR",
              help="Headers as make headers_install lays them out; else the compiler's own.")  # fmt: skip
@click.option("--kernel", type=KernelVersion(), help="Of which kernel the headers are; else linux/version.h tells.")
@click.option("--cc", default="cc", show_default=True, metavar="CC", help="The C compiler.")
@click.option("-v", "--verbose", is_flag=True, help="Name what is absent.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.argument("names", metavar="[NAME]...", nargs=-1)
def check(
    headers_dir: Path | None, kernel: Version | None, cc: str, verbose: bool, as_json: bool, names: tuple[str, ...]
) -> int:
    """
    Compare sizes, offsets, bit-fields, signs, constants and ioctl numbers with real headers, by a C compiler.

    NAME is a header, like vfio or linux/vfio.h; without one it is every header. The exit status is 1 when anything
    differs. Names that the headers do not have because of their age are absent, which is no difference; and so are
    whole headers, unless named.
    """
    from pykernel.uapi.check import CheckError, compare
    from pykernel.uapi.compiler import Compiler

    modules = modules_named(names)
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
        click.echo(f"Linux {text}, headers in {headers_dir or 'the places where ' + cc + ' looks'}")
        _print(reports, version, verbose)
    if names and (absent := [report.header for report in reports if report.state == "absent"]):
        raise Fail(f"no header {', '.join(absent)} in {headers_dir or 'the places where ' + cc + ' looks'}")
    return int(any(report.differences for report in reports))


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
    facts, wrong = sum(r.agree for r in reports), sum(len(r.differences) for r in reports)
    headers = sum(report.state != "absent" for report in reports)
    click.echo(f"{_count(headers, 'header')}, {_count(facts, 'fact')} agree, {_count(wrong, 'difference')}")


def _count(n: int, what: str) -> str:
    return f"{n} {what}{'' if n == 1 else 's'}"


def _sentence(report: Report, version: Version) -> str:
    if report.state == "absent":
        return "not among these headers"
    parts = [f"{_count(report.agree, 'fact')} agree{'s' if report.agree == 1 else ''}"]
    if report.state == "never":
        parts = [f"never in Linux: nothing to compare with; {parts[0]} with the header that uapi header writes"]
    if report.newer:
        parts.append(f"{_count(len(report.newer), 'name')} absent (newer than {version})")
    if report.gone:
        parts.append(f"{_count(len(report.gone), 'name')} absent (gone before {version})")
    if report.differences:
        parts.append(_count(len(report.differences), "difference").upper())
    return ", ".join(parts)
