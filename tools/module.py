"""``pykernel module``: the kernel modules that a machine can load."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from pykernel.tools.options import Fail, Setup, machine_options

if TYPE_CHECKING:
    from pykernel.base.module import Module

__all__ = ["command"]


@click.group()
def command() -> None:
    """
    List the kernel modules that there are, or tell about one.

    To load one with parameters, tell it to the machine: pykernel run --modprobe "idxd sva=0" -- CMD
    """


@command.command("list")
@machine_options
def list_modules(setup: Setup) -> None:
    """The modules, one a line: name, loaded or not, what it needs."""
    kernel = setup.boot()
    kernel.up()
    modules = kernel.modules
    for name in sorted(modules.known):
        needs = modules.known[name]().depends
        state = "loaded" if name in modules.loaded else "-"
        click.echo(f"{name:16} {state:8} {'needs ' + ', '.join(needs) if needs else ''}".rstrip())


@command.command()
@machine_options
@click.argument("name")
def info(setup: Setup, name: str) -> None:
    """What modinfo(8) would tell: what the module is, needs and takes."""
    kernel = setup.boot()
    kernel.up()
    known = kernel.modules.known
    find = known.get(name.replace("-", "_"))
    if find is None:
        raise Fail(f"no module {name!r}; there are: {', '.join(sorted(known))}")
    for key, value in _info(find()):
        click.echo(f"{key + ':':16}{value}")


def _info(cls: type[Module]) -> list[tuple[str, str]]:
    rows = [("name", cls.name_), ("description", _sentence(cls)), ("depends", ",".join(cls.depends))]
    rows += [("alias", alias) for alias in cls.aliases]
    for p in cls.params:
        rows.append(("parm", f"{p.name} ({p.type}, default {p.format(p.default).strip()}, mode {p.mode:#o})"))
    return rows


def _sentence(cls: type[Module]) -> str:
    return (cls.__doc__ or "").strip().partition("\n")[0].replace("``", "")
