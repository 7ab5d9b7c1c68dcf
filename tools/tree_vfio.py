"""The rest of what ``pykernel tree`` draws: mediated devices, IOMMU groups, and who has them open."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from pykernel.syscalls import Pids, Process

if TYPE_CHECKING:
    from rich.tree import Tree

    from pykernel.tools.tree import Reader

__all__ = ["Holders", "draw_groups", "draw_parents"]

PARENTS = "/sys/class/mdev_bus"
GROUPS = "/sys/kernel/iommu_groups"
NODE = re.compile(r"/dev/(vfio/(?:noiommu-)?\d+|vfio/vfio|vfio/devices/vfio\d+|iommu)$")


class Holders:
    """Which processes have which node of VFIO open: by the name below /dev/, ``vfio/12``."""

    def __init__(self, proc: Reader) -> None:
        self.by_node: dict[str, list[str]] = {}
        for who, path in _emulated(proc) if isinstance(proc, Process) else _of_this_system():
            if m := NODE.match(path):
                names = self.by_node.setdefault(m[1], [])
                if who not in names:
                    names.append(who)

    def of(self, *nodes: str) -> str:
        """Who has one of *nodes* open, as text; empty: nobody."""
        names = dict.fromkeys(who for node in nodes for who in self.by_node.get(node, ()))
        return f"open in {', '.join(names)}" if names else ""


def _emulated(proc: Process) -> Iterator[tuple[str, str]]:
    for other in proc.kernel.sub(Pids).processes.values():
        for file in other.fds.files.values():
            yield f"{other.task.comm} ({other.pid})", file_path(file)


def file_path(file: object) -> str:
    """Where an open file of an emulated machine lies; empty for one without a name."""
    from pykernel.fs import namei
    from pykernel.fs.vfs import File

    assert isinstance(file, File)
    inode = file.inode
    return "" if inode.describe() else namei.d_path(inode.kernel, inode)


def _of_this_system() -> Iterator[tuple[str, str]]:
    # what fuser(1) looks at; processes of others, and those that end meanwhile, tell nothing
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError):
            comm = Path(f"/proc/{pid}/comm").read_text().strip()
            for fd in os.listdir(f"/proc/{pid}/fd"):
                yield f"{comm} ({pid})", os.readlink(f"/proc/{pid}/fd/{fd}")


def _listed(proc: Reader, path: str) -> list[str]:
    try:
        return sorted(proc.listdir(path), key=lambda name: ([int(n) for n in re.findall(r"\d+", name)][:1], name))
    except OSError:
        return []


def _text(proc: Reader, path: str) -> str:
    from rich.markup import escape

    try:
        return escape(proc.read_text(path).strip())
    except OSError:
        return "-"


def _target(proc: Reader, path: str) -> str:
    """The last name of where the link *path* leads; empty: there is none."""
    try:
        where = proc.realpath(path)
    except OSError:
        return ""
    return "" if where == path else where.rpartition("/")[2]


def draw_parents(proc: Reader, holders: Holders) -> Tree | None:
    """Parents, their types with how many are left, and the devices of each; None: the mdev core is not loaded."""
    from rich.tree import Tree

    try:
        proc.listdir(PARENTS)
    except OSError:
        return None
    root = Tree(f"[bold]{PARENTS}")
    for parent in _listed(proc, PARENTS):
        where = proc.realpath(f"{PARENTS}/{parent}")
        node = root.add(f"[bold]{parent}[/] [dim]{where.removeprefix('/sys/devices/')}")
        types = f"{where}/mdev_supported_types"
        for kind in _listed(proc, types):
            read = {
                attr: _text(proc, f"{types}/{kind}/{attr}") for attr in ("name", "available_instances", "device_api")
            }
            left = read["available_instances"]
            style = "dim" if left == "0" else "green"
            about = f"{read['name']}, {read['device_api']}"
            leaf = node.add(f"{kind} [{style}]{left} available[/] [dim]{about}")
            for uuid in _listed(proc, f"{types}/{kind}/devices"):
                leaf.add(_instance(proc, f"{where}/{uuid}", uuid, holders))
    if not root.children:
        root.add("[dim]no parents")
    return root


def _instance(proc: Reader, path: str, uuid: str, holders: Holders) -> str:
    driver, group = _target(proc, f"{path}/driver"), _target(proc, f"{path}/iommu_group")
    words = [f"[bold]{uuid}[/]", driver or "[dim]no driver[/]"]
    if group:
        words += [f"group {group}", _open(holders, group, _listed(proc, f"{path}/vfio-dev"))]
    return " ".join(filter(None, words))


def _open(holders: Holders, group: str, vfio_devs: list[str]) -> str:
    who = holders.of(f"vfio/{group}", f"vfio/noiommu-{group}", *(f"vfio/devices/{name}" for name in vfio_devs))
    return f"[yellow]{who}[/]" if who else ""


def draw_groups(proc: Reader, holders: Holders) -> Tree | None:
    """The groups with their devices, the drivers of these, and who has the group open; None: there is no group."""
    from rich.tree import Tree

    groups = _listed(proc, GROUPS)
    if not groups:
        return None
    root = Tree(f"[bold]{GROUPS}")
    for group in groups:
        names = _listed(proc, f"{GROUPS}/{group}/devices")
        drivers = {name: _target(proc, f"{GROUPS}/{group}/devices/{name}/driver") for name in names}
        vfio_devs = [n for name in names for n in _listed(proc, f"{GROUPS}/{group}/devices/{name}/vfio-dev")]
        who = _open(holders, group, vfio_devs)
        node = root.add(f"[bold]{group}[/] [dim]{_text(proc, f'{GROUPS}/{group}/type')}[/] {who}".rstrip())
        for name in names:
            node.add(f"{name} {drivers[name] or '[dim]no driver[/]'}")
    if others := [f"/dev/{node} {holders.of(node)}" for node in ("vfio/vfio", "iommu") if holders.of(node)]:
        root.add("[yellow]" + "; ".join(others))
    return root
