"""
What a client sees of /sys, /proc and /dev: one table.

All that is not listed is the emulated kernel's own: what it does not have is not there. ``HOST`` shows the host's
node under that name even if the emulated kernel has one; ``EITHER`` only where the emulated kernel has none. The
host's nodes are bind mounts, read-only unless the row says so: a client that is root must not change the host (devices
can be written on a read-only mount). A link row is a symbolic link, a ``NOBODY`` row hides what the host has.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from pykernel.fs.ramfs import RamDir, RamFile, RamLink

if TYPE_CHECKING:
    from pykernel.fs.vfs import Inode
    from pykernel.kernel import Kernel

__all__ = ["HOST_DEV", "ROWS", "Bind", "Row", "Source", "View"]

HOST_DEV = "/dev/.host"  # the whole of the host's /dev: ptmx needs its own pts beside it


class Source(Enum):
    """Whose node is shown."""

    HOST = "the host's"
    EITHER = "the emulated kernel's if it has it, else the host's"
    LINK = "a symbolic link"
    NOBODY = "an empty directory, where the host has one"


@dataclass(frozen=True, slots=True)
class Row:
    """One path."""

    path: str
    source: Source
    target: str = ""
    why: str = ""
    writable: bool = False


H, E, L, N = Source.HOST, Source.EITHER, Source.LINK, Source.NOBODY
ROWS = (
    Row("/sys/class/net", E, why="sockets are the host's, so are its interfaces"),
    Row("/sys/devices/virtual/net", E, why="where /sys/class/net/lo points"),
    Row("/sys/devices/system/cpu", E, why="the C library and run-times count CPUs here"),
    Row("/sys/devices/system/memory", E, why="lsmem"),
    Row("/sys/devices/system/node", E, why="libnuma: threads and memory are the host's"),
    Row("/sys/fs/cgroup", E, why="run-times read their limits here"),
    Row("/sys/kernel/mm", E, why="huge pages are the host's"),
    Row("/dev/console", H),
    Row("/dev/full", H, why="the host's is faster and can be mapped, as the five below"),
    Row("/dev/null", H),
    Row("/dev/random", H),
    Row("/dev/tty", H),
    Row("/dev/urandom", H),
    Row("/dev/zero", H),
    Row("/dev/fuse", E),
    Row("/dev/hugepages", E, why="DPDK", writable=True),
    Row("/dev/kvm", E, why="QEMU as a client"),
    Row("/dev/log", E, why="syslog()"),
    Row("/dev/mqueue", E, writable=True),
    Row("/dev/net", E, why="tun"),
    Row("/dev/pts", H, why="terminals are the host's", writable=True),
    Row("/dev/shm", E, why="shm_open()", writable=True),
    Row("/dev/userfaultfd", E),
    Row(HOST_DEV, H, "/dev"),
    Row("/dev/core", L, "/proc/kcore"),
    Row("/dev/fd", L, "/proc/self/fd"),
    Row("/dev/ptmx", L, ".host/ptmx"),
    Row("/dev/stderr", L, "/proc/self/fd/2"),
    Row("/dev/stdin", L, "/proc/self/fd/0"),
    Row("/dev/stdout", L, "/proc/self/fd/1"),
    Row("/run/udev", N, why="what the host's udevd knows is of other devices with the same numbers"),
)  # /proc: a new instance for the PID namespace, with every file of the emulated /proc laid over its namesake


@dataclass(frozen=True, slots=True)
class Bind:
    """Mount the host's *source* on *target*; names, modes and owners can be changed if *writable*."""

    source: str
    target: str
    writable: bool


class View:
    """
    The table for one kernel on this host.

    ``extras`` are the nodes to add to the emulated directories, ``binds`` what to mount on them, ``empty`` the host's
    directories to hide, ``proc`` the names of the emulated /proc.
    """

    def __init__(self, kernel: Kernel, rows: tuple[Row, ...] = ROWS) -> None:
        self.kernel = kernel
        self.extras: dict[Inode, dict[str, Inode]] = {}
        self.binds: list[Bind] = []
        self.empty: list[str] = []
        for row in rows:
            self._apply(row)
        self.proc = sorted(name for name, _ in kernel.root.lookup("proc").iterdir())

    def _apply(self, row: Row) -> None:
        source = row.target or row.path
        if row.source is Source.NOBODY:
            if os.path.isdir(row.path):
                self.empty.append(row.path)
            return
        has = self._find(row.path) is not None
        if row.source is Source.LINK:
            if not has:
                self._add(row.path, RamLink(self.kernel, row.target))
            return
        try:
            mode = os.stat(source).st_mode
        except OSError:
            return
        if row.source is Source.EITHER and has:
            return
        self.binds.append(Bind(source, row.path, row.writable))
        if not has:
            self._add(row.path, RamDir(self.kernel) if stat.S_ISDIR(mode) else RamFile(self.kernel, 0o666))

    def _find(self, path: str) -> Inode | None:
        node: Inode | None = self.kernel.root
        for part in path.strip("/").split("/"):
            node = self._child(node, part) if node is not None else None
        return node

    def _child(self, where: Inode, name: str) -> Inode | None:
        try:
            return where.lookup(name)
        except OSError:
            return self.extras.get(where, {}).get(name)

    def _add(self, path: str, node: Inode) -> None:
        where = self.kernel.root
        *parts, last = path.strip("/").split("/")
        for part in parts:
            child = self._child(where, part)
            if child is None:
                child = RamDir(self.kernel)
                self._put(where, part, child)
            where = child
        self._put(where, last, node)

    def _put(self, where: Inode, name: str, node: Inode) -> None:
        node.parent = where
        node.uid = node.gid = 0
        self.extras.setdefault(where, {})[name] = node
