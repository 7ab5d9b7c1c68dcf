"""The mount table: "/" in memory, sysfs on /sys, devtmpfs on /dev, procfs on /proc."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

from pykernel.fs.chardev import Chrdevs
from pykernel.fs.procfs import ProcFs
from pykernel.fs.ramfs import RamDir, RamLink, RamNode, UpDir
from pykernel.fs.sysfs import SysFs
from pykernel.fs.vfs import Inode

if TYPE_CHECKING:
    from pykernel.kernel import Kernel

__all__ = ["DevTmpFs", "RootFs"]


class DevTmpFs:
    """drivers/base/devtmpfs.c: nodes come and go with their devices."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.root = UpDir(kernel, 0o755)

    def create_node(self, path: str, mode: int, rdev: int, kind: int = stat.S_IFCHR) -> Inode:
        """drivers/base/devtmpfs.c:handle_create(): directories on the way are made 0755. Raises EEXIST."""
        where = self._dir(path, make=True)
        node = RamNode(self.kernel, kind | mode, where)
        node.rdev = rdev
        node.uid = node.gid = 0
        return where.attach(path.rpartition("/")[2], node)

    def create_link(self, path: str, target: str) -> None:
        """A symbolic link to the node *target*, as udev makes them. Raises EEXIST."""
        where = self._dir(path, make=True)
        link = RamLink(self.kernel, "../" * path.count("/") + target, where)
        link.uid = link.gid = 0
        where.attach(path.rpartition("/")[2], link)

    def delete_node(self, path: str, rdev: int) -> None:
        """drivers/base/devtmpfs.c:handle_remove(): only our own node; directories that become empty go too."""
        try:
            where = self._dir(path, make=False)
            name = path.rpartition("/")[2]
            if where.children[name].rdev == rdev:
                where.detach(name)
        except (KeyError, OSError):
            return
        while where is not self.root and not where.children:
            parent = where.parent
            assert isinstance(parent, RamDir)
            parent.detach(next(k for k, v in parent.children.items() if v is where))
            where = parent

    def _dir(self, path: str, *, make: bool) -> RamDir:
        where: RamDir = self.root
        for part in path.split("/")[:-1]:
            child = where.children.get(part)
            if child is None and make:
                child = RamDir(self.kernel, 0o755, where)
                child.uid = child.gid = 0
                where.attach(part, child)
            if not isinstance(child, RamDir):
                raise KeyError(part)
            where = child
        return where


class RootFs:
    """The tree that a client sees."""

    def __init__(self, kernel: Kernel) -> None:
        self.root = RamDir(kernel, 0o755)
        self.root.parent = self.root
        dev, proc, tmp = kernel.sub(DevTmpFs).root, kernel.sub(ProcFs).root, RamDir(kernel, 0o1777)
        dev.dev, tmp.dev = 5, 30
        for name, node in (("sys", kernel.sub(SysFs).root), ("dev", dev), ("proc", proc), ("tmp", tmp)):
            self.root.attach(name, node)
        kernel.sub(ProcFs).create("devices", kernel.sub(Chrdevs).devices)
