"""``pykernel tree``: accelerators, mediated devices and IOMMU groups, drawn."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import click

from pykernel.tools.options import Setup, machine_options

if TYPE_CHECKING:
    from rich.console import Group
    from rich.tree import Tree

__all__ = ["command", "draw", "draw_all"]

DEVICES = "/sys/bus/dsa/devices"
# attributes of a work queue, and the value that says nothing and is not drawn
UNSET = {"size": "", "priority": "0", "type": "none", "name": "", "driver_name": "", "clients": "0"}
STATE_STYLE = {"enabled": "green", "disabled": "dim", "halted": "bold red", "quiescing": "yellow"}


class Reader(Protocol):
    """Who looks: a Process of an emulated machine, or :class:`Here`."""

    def listdir(self, path: str) -> list[str]:
        """The names in a directory."""
        ...

    def read_text(self, path: str) -> str:
        """The text of an attribute."""
        ...

    def realpath(self, path: str) -> str:
        """Where the links lead. Raises ENOENT: the last name is not there either."""
        ...


class Here:
    """The /sys that this program itself sees."""

    def listdir(self, path: str) -> list[str]:
        """os.listdir()."""
        return os.listdir(path)

    def read_text(self, path: str) -> str:
        """Path.read_text()."""
        return Path(path).read_text("latin-1")

    def realpath(self, path: str) -> str:
        """os.path.realpath(), which without *strict* makes up a name for what is not there."""
        return os.path.realpath(path, strict=True)


def draw_all(proc: Reader) -> Group:
    """Everything of which *proc* sees something; when that is nothing, that there are no accelerators."""
    from rich.console import Group

    from pykernel.tools.tree_vfio import Holders, draw_groups, draw_parents

    holders = Holders(proc)
    others = [*filter(None, (draw_parents(proc, holders), draw_groups(proc, holders)))]
    return Group(*others) if others and not _has_bus(proc) else Group(draw(proc), *others)


def _has_bus(proc: Reader) -> bool:
    try:
        proc.listdir(DEVICES)
    except FileNotFoundError:
        return False
    return True


def draw(proc: Reader) -> Tree:
    """The tree of all accelerators: everything is read from attributes, nothing asked of the driver."""
    from rich.tree import Tree

    root = Tree(f"[bold]{DEVICES}")
    try:
        names = proc.listdir(DEVICES)
    except FileNotFoundError:
        root.add("[dim]no such bus: the module idxd is not loaded")
        return root
    for name in sorted(names, key=_number):
        if re.fullmatch(r"(dsa|iax)\d+", name):
            _device(proc, root, name, names)
    if not root.children:
        root.add("[dim]no devices")
    return root


def _number(name: str) -> tuple[list[int], str]:
    # by number, as the driver counts: dsa0, iax1, dsa2
    return [int(part) for part in re.findall(r"\d+", name)], name


def _read(proc: Reader, name: str, attr: str) -> str:
    # an attribute that this kernel does not have, or refuses to show, is drawn as a dash
    try:
        return proc.read_text(f"{DEVICES}/{name}/{attr}").strip()
    except OSError:
        return "-"


def _state(text: str) -> str:
    style = STATE_STYLE.get(text, "")
    return f"[{style}]{text}[/]" if style else text


def _device(proc: Reader, root: Tree, name: str, names: list[str]) -> None:
    slot = proc.realpath(f"{DEVICES}/{name}").split("/")[-2]
    read = {attr: _read(proc, name, attr) for attr in ("state", "clients", "version")}
    tree = root.add(
        f"[bold]{name}[/] {_state(read['state'])} [dim]{slot} version {read['version']} clients {read['clients']}"
    )
    number = re.sub(r"\D", "", name)
    children = sorted((n for n in names if re.fullmatch(rf"(group|wq|engine){number}\.\d+", n)), key=_number)
    free = [c for c in children if not c.startswith("group")]
    free.sort(key=lambda c: c.startswith("engine"))
    for group in (c for c in children if c.startswith("group")):
        node = tree.add(group)
        for kind in ("work_queues", "engines"):
            for member in _read(proc, group, kind).split():
                if member in free:
                    free.remove(member)
                    _leaf(proc, node, member)
    if free:
        rest = tree.add("[dim]in no group")
        for member in free:
            _leaf(proc, rest, member)


def _leaf(proc: Reader, node: Tree, name: str) -> None:
    if name.startswith("engine"):
        node.add(name)
        return
    from rich.markup import escape

    words = [name, _state(_read(proc, name, "state")), _read(proc, name, "mode")]
    for attr, unset in UNSET.items():
        value = _read(proc, name, attr)
        if value not in (unset, "-"):
            words.append(f"{attr} {escape(value)}")
    node.add(" ".join(words))


@click.command()
@machine_options
@click.option("--here", is_flag=True, help="Draw the /sys that this command sees: in pykernel shell, on a real host.")
def command(setup: Setup, here: bool) -> None:
    """
    Draw accelerators with their queues, parents of mediated devices, IOMMU groups and who has them open.

    \b
    Examples:
      pykernel tree --machine dsa
      pykernel run -- sh -c 'accel-config load-config -c my.conf -e; pykernel tree --here'
    """
    from rich.console import Console

    Console(highlight=False).print(draw_all(Here() if here else setup.boot().process(comm="tree")))
