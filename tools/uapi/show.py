"""``pykernel uapi show`` and ``decode``: one name, one number."""

from __future__ import annotations

import json
from collections.abc import Iterator
from enum import Enum
from typing import TYPE_CHECKING, Any

import click

from pykernel.tools.options import Fail
from pykernel.tools.uapi.names import KernelVersion, complete, meant

if TYPE_CHECKING:
    from rich.text import Text

    from pykernel.uapi.catalog import Entry
    from pykernel.uapi.history import Version
    from pykernel.uapi.ioctl import IoctlNr
    from pykernel.uapi.lookup import Match
    from pykernel.uapi.struct import Struct

__all__ = ["decode", "show"]

WAYS = (
    "none: no argument, or one whose size is not in the number",
    "write: the kernel reads the argument",
    "read: the kernel writes the argument",
    "read and write: the kernel reads the argument and writes it back",
)
COLOURS = ("cyan", "green", "yellow", "magenta", "blue")


def _entries(name: str) -> list[Entry]:
    """Every header's entry of that name. Raises Fail."""
    from pykernel.uapi import catalog

    found = catalog.find(name)
    if not found:
        known = {entry.name for module in catalog.header_modules() for entry in catalog.entries(module)}
        raise Fail(f"no header has {name!r}{meant(name, sorted(known))}")
    return found


@click.command()
@click.option("--kernel", type=KernelVersion(), help="A struct as the headers of that kernel have it.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.argument("name", shell_complete=complete)
def show(kernel: Version | None, as_json: bool, name: str) -> None:
    """
    Print a struct, union, enum, constant, macro or ioctl.

    A struct is drawn as pahole draws it, offsets and sizes in bytes; then byte by byte.

    \b
    Examples:
      pykernel uapi show vfio_device_info
      pykernel uapi show vfio_device_info --kernel 6.1
      pykernel uapi show PCI_EXT_CAP_ID_PASID
    """
    from pykernel.uapi import history

    version = kernel or history.AGELESS
    found = _entries(name)
    if kernel:
        there = [entry for entry in found if not _not_in(entry, kernel)]
        if not there:
            raise Fail(
                f"{name} is not in Linux {kernel}: {', '.join(filter(None, (_not_in(e, kernel) for e in found)))}"
            )
        found = there
    if as_json:
        click.echo("\n".join(json.dumps(_as_json(entry, version)) for entry in found))
        return
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    for number, entry in enumerate(found):
        for line in ([""] if number else []) + list(_lines(entry, version)):
            if isinstance(line, str):
                click.echo(line)  # C as it is, with its tabs; only the ruler has colours
            else:
                console.print(line)


def _not_in(entry: Entry, kernel: Version) -> str:
    """Why a kernel does not have a name; "" when it does."""
    from pykernel.uapi import history

    if isinstance(entry.value, type) and issubclass(entry.value, Enum):
        whys = [_not_in(entry._replace(name=member.name, value=member.value), kernel) for member in entry.value]
        return whys[-1] if all(whys) else ""
    new, gone = _born(entry), history.older(entry.module).get(entry.name)
    if new and history.parse(new) > kernel:
        return f"it came with Linux {new}"
    return f"Linux {gone} was the last with it" if gone and history.parse(gone) < kernel else ""


def _born(entry: Entry) -> str | None:
    """The kernel that brought a name; what only changed is older."""
    return getattr(entry.module, "NEWER", {}).get(entry.name)


def _where(entry: Entry) -> str:
    from pykernel.uapi import catalog, history

    new, gone = _born(entry), history.older(entry.module).get(entry.name)
    text = ", ".join(catalog.headers(entry.module)) or f"{catalog.title(entry.module)}, never in Linux"
    return f"{text}{f', since Linux {new}' if new else ''}{f', until Linux {gone}' if gone else ''}"


def _lines(entry: Entry, version: Version) -> Iterator[str | Text]:
    from pykernel.uapi import catalog, emit

    value = entry.value
    match catalog.kind(entry):
        case "struct":
            yield from _struct(value, version, entry)
        case "ioctl":
            yield from _ioctl_lines(value.nr)
        case "enum":
            yield f"enum {entry.name} {{  /* {_where(entry)} */"
            wide = max(len(member.name) for member in value)
            yield from (f"\t{member.name:{wide}} = {_number(member)}," for member in value)
            yield "};"
        case "macro":
            yield f"{emit.definition(entry)}  /* {_where(entry)} */"
        case _:
            shown = f'"{value}"' if isinstance(value, str) else _number(value)
            enum = f"enum {entry.enum.__name__}, " if entry.enum else ""
            yield f"{entry.name} = {shown}  /* {enum}{_where(entry)} */"


def _number(value: int) -> str:
    value = int(value)
    return str(value) if -10 < value < 10 else f"{value:#x} ({value})"


def _struct(cls: type[Struct], version: Version, entry: Entry) -> Iterator[str | Text]:
    from pykernel.uapi import history, pahole

    yield f"/* {_where(entry)} */"
    yield from pahole.describe(cls, version)
    yield ""
    yield from _ruler(history.at(cls, version))
    grown = history.sizes(cls)
    if len(grown) > 1:
        yield ""
        yield f"size by kernel: {_grown(grown)}"


def _grown(sizes: tuple[tuple[str, int], ...]) -> str:
    first = f"{sizes[0][1]} bytes {'since Linux ' + sizes[0][0] if sizes[0][0] else 'before Linux ' + sizes[1][0]}"
    return ", ".join([first, *(f"{size} since {version}" for version, size in sizes[1:])])


def _ruler(cls: type[Struct]) -> Iterator[Text]:
    """Rows of bytes, each member in a colour of its own; the same without colours when nobody can see them."""
    from rich.text import Text

    from pykernel.uapi import ruler

    colours: dict[str, str] = {}
    yield Text(
        "      " + "".join(f" {n:<{ruler.CELL - 1}}" for n in range(min(ruler.BYTES, cls.sizeof()))).rstrip(), "dim"
    )
    for start, end, spans in ruler.rows(cls):
        line = Text(f"{start:5} ", "dim")
        for span in spans:
            wide = min(span.end - span.start, ruler.BYTES) * ruler.CELL - 1
            text = f"{span.text} ({end - start} bytes)" if end - start > ruler.BYTES else span.text
            text = text if len(text) <= wide else f"{text[: wide - 1]}~"
            line.append("|", "dim")
            if span.text:
                line.append(f"{text:{wide}}", colours.setdefault(span.text, COLOURS[len(colours) % len(COLOURS)]))
            else:
                line.append("." * wide, "dim")
        yield line.append("|", "dim")


def _as_json(entry: Entry, version: Version) -> dict[str, Any]:
    from pykernel.uapi import catalog, emit, history
    from pykernel.uapi.struct import cname, layout

    kind, value = catalog.kind(entry), entry.value
    row: dict[str, Any] = {"name": entry.name, "kind": kind, "header": catalog.title(entry.module)}
    row |= {"since": _born(entry), "until": history.older(entry.module).get(entry.name)}
    if kind == "struct":
        old: type[Struct] = history.at(value, version)
        fields = [f._asdict() for f in layout(old)]
        return row | {"c": cname(value), "size": old.sizeof(), "sizes": dict(history.sizes(value)), "fields": fields}
    if kind == "enum":
        return row | {"values": {member.name: int(member) for member in value}}
    if kind == "macro":
        return row | {"c": emit.definition(entry)}
    return row | {"value": value if isinstance(value, str) else int(value)}


@click.command(context_settings={"ignore_unknown_options": True})  # -1 is a number
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.argument("nr", shell_complete=complete)
def decode(as_json: bool, nr: str) -> None:
    """
    Explain an ioctl number, or the name of one.

    NR is as a program passes it or strace prints it. When a struct grew, older kernels have another number: these are
    found too.

    \b
    Examples:
      pykernel uapi decode 0x3b6b
      pykernel uapi decode VHOST_SET_VRING_ADDR
    """
    number = _parse(nr)
    if not as_json:
        click.echo("\n".join(_ioctl_lines(number)))
        return
    from pykernel.uapi import lookup
    from pykernel.uapi.ioctl import decode as parts

    row: dict[str, Any] = {"number": number, "parts": parts(number)._asdict()}
    row["matches"] = [_match_json(match) for match in lookup.matches(number)]
    row["candidates"] = [_match_json(match) for match in lookup.candidates(number)]
    click.echo(json.dumps(row))


def _parse(nr: str) -> int:
    """The number; that of a name. Raises Fail."""
    from pykernel.uapi import lookup

    try:
        number = int(nr, 0)
        if number >> 31 not in (0, 1, -1, 0x1FFFFFFFF):  # a negative int, or one that became unsigned long
            raise Fail(f"{nr} has more than 32 bits, and an ioctl number has 32")
        return number & 0xFFFFFFFF
    except ValueError:
        if nr.startswith("-"):
            raise click.NoSuchOption(nr) from None
        known = {entry.name: entry.value for entry in lookup.all_ioctls()}
        if nr in known:
            return int(known[nr])
        raise Fail(f"{nr!r} is no number and no ioctl of a header{meant(nr, known)}") from None


def _match_json(match: Match) -> dict[str, Any]:
    from pykernel.uapi import catalog
    from pykernel.uapi.struct import cname

    row = match.row
    return {
        "name": match.entry.name, "header": catalog.title(match.entry.module), "number": row.nr, "size": row.size,
        "argument": cname(row.struct) if row.struct else row._scalar, "until": match.until,
    }  # fmt: skip


def _ioctl_lines(number: int) -> Iterator[str]:
    from pykernel.tools.ioctls import vfs_ioctls
    from pykernel.uapi import lookup
    from pykernel.uapi.ioctl import decode as parts

    yield from _parts(number, parts(number))
    found, near = lookup.matches(number), lookup.candidates(number)
    of_every_file = [row for row in vfs_ioctls() if row.number == f"{number:#010x}"]
    for row in of_every_file:
        yield from ("", f"{row.name}  asm-generic/ioctls.h: every file has it")
    for match in found:
        yield ""
        yield from _ioctl(match)
    if not found and not of_every_file:
        yield ""
        yield "no header here has it" + (" with this direction and size; near it:" if near else "")
    elif near:
        yield ""
        yield "same type and nr:"
    for match in near:
        yield f"  {match.entry.name}  {match.row.nr:#x} {parts(match.row.nr)}, {_where(match.entry)}"
    if near and not found:
        yield "Another size is often a struct of another kernel, another direction a typing error."


def _parts(number: int, parts: IoctlNr) -> Iterator[str]:
    from pykernel.uapi import catalog, lookup

    letter = f" {chr(parts.type)!r}" if 32 < parts.type < 127 else ""
    used: dict[str, int] = {}
    for entry in lookup.all_ioctls():
        if entry.value.magic == parts.type:
            title = catalog.title(entry.module)
            used[title] = used.get(title, 0) + 1
    users = ", ".join(f"{title} has {n}" for title, n in used.items())
    yield f"{number:#x} = {number} = {parts}"
    yield f"  direction  {WAYS[parts.direction]}"
    yield f"  type       {parts.type:#x}{letter}{f': {users} of it' if users else ''}"
    yield f"  nr         {parts.nr:#x} ({parts.nr})"
    yield f"  size       {parts.size}"


def _ioctl(match: Match) -> Iterator[str]:
    from pykernel.uapi import history
    from pykernel.uapi.struct import cname

    row = match.row
    old = f" before Linux {match.until}" if match.until else ""
    yield f"{match.entry.name}{old}  {_where(match.entry)}"
    if row.struct is not None:
        grown = history.sizes(row.struct)
        size = f"{row.size} bytes" if len(grown) == 1 else _grown(grown)
        least = f"; callers give at least {row.minsz}" if row.minsz != row.size else ""
        yield f"  argument   {cname(row.struct)}: {size}{least}"
    elif row._scalar:
        yield f"  argument   {row._scalar}: {row.size} bytes"
    else:
        yield "  argument   none, or a plain number"
