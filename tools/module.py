"""``pykernel module``: the kernel modules that a machine can load."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from pykernel.tools.options import Fail, Setup, machine_options

if TYPE_CHECKING:
    from pykernel.base.module import Module, Modules

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
    for name in modules.names():
        try:
            cls = _class(modules, name)
        except ValueError as e:  # one broken package must not hide the others
            click.echo(f"{name:16} {'broken':8} {e}")
            continue
        state = "loaded" if cls.name_ in modules.loaded else "-"
        click.echo(f"{name:16} {state:8} {'needs ' + ', '.join(cls.depends) if cls.depends else ''}".rstrip())


@command.command()
@machine_options
@click.argument("name", metavar="NAME|FILE.py")
def info(setup: Setup, name: str) -> None:
    """What modinfo(8) would tell: what the module is, needs and takes."""
    kernel = setup.boot()
    kernel.up()
    try:
        cls = _class(kernel.modules, name)
    except ValueError as e:
        raise Fail(str(e)) from e
    for key, value in _info(cls):
        click.echo(f"{key + ':':16}{value}")


def _class(modules: Modules, name: str) -> type[Module]:
    """The module *name*, of ours, of a package or at a path. Raises ValueError."""
    find = modules.known.get(modules.find(name))
    if find is None:
        raise ValueError(f"no module {name!r}; there are: {', '.join(modules.names())}; or the path of a .py file")
    return find()


def _info(cls: type[Module]) -> list[tuple[str, str]]:
    rows = [("name", cls.name_), ("description", _sentence(cls)), ("depends", ",".join(cls.depends))]
    rows += [("alias", alias) for alias in cls.aliases]
    for p in cls.params:
        rows.append(("parm", f"{p.name} ({p.type}, default {p.format(p.default).strip()}, mode {p.mode:#o})"))
    return rows


def _sentence(cls: type[Module]) -> str:
    return (cls.__doc__ or "").strip().partition("\n")[0].replace("``", "")
