"""Put the recorded part of a machine into a kernel that boots: sysfs, device nodes."""

from __future__ import annotations

import stat
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from pykernel.base.platform import MEM_DEVICES
from pykernel.base.static import Dir, StaticTree
from pykernel.base.uevent import KernelKobj, Uevents
from pykernel.fs.chardev import MKDEV, Chrdevs
from pykernel.fs.kernfs import KernfsDir
from pykernel.fs.rootfs import DevTmpFs
from pykernel.fs.sysfs import SysFs
from pykernel.fs.vfs import File, Inode
from pykernel.recorded import Recorded
from pykernel.recorded.check import number_of
from pykernel.recorded.config import make

if TYPE_CHECKING:
    from pykernel.kernel import Kernel

__all__ = ["recorded_init"]


class RecordedFile(File):
    """An open device of which is known what can be read from it."""

    __slots__ = ("data",)

    def __init__(self, inode: Inode, flags: int, data: bytes) -> None:
        super().__init__(inode, flags)
        self.data = data

    def pread(self, pos: int, count: int) -> bytes:
        """Read."""
        return self.data[pos : pos + count]


def recorded_init(kernel: Kernel, recorded: Recorded) -> None:
    """The last initcall: whatever the emulated kernel has of its own is there."""
    tree = StaticTree(kernel, recorded.writes, recorded.source, make)
    if recorded.root:
        _mem_devices(kernel)
        _seqnum(kernel, recorded.tree)
    root = kernel.sub(SysFs).root
    for name, spec in recorded.tree.dirs.items():
        have = root.children.get(name)
        where = have if isinstance(have, KernfsDir) else root.create_dir(name, spec.mode)
        tree.graft(where, spec)
    for path, spec in recorded.tree.walk():
        if "uevent" in spec.files and b"DEVNAME=" in spec.files["uevent"].data:
            _add_node(kernel, path, spec)


def _mem_devices(kernel: Kernel) -> None:
    # /dev/null and its like open on every machine, also where their directories in sysfs were not recorded
    chrdevs, devtmpfs = kernel.sub(Chrdevs), kernel.sub(DevTmpFs)
    for minor, name, mode, open in MEM_DEVICES:
        chrdevs.add(MKDEV(1, minor), open)
        devtmpfs.create_node(name, mode or 0o600, MKDEV(1, minor))


def _seqnum(kernel: Kernel, tree: Dir) -> None:
    # the number goes on from the recorded one
    where = tree.find("kernel")
    attr = where.files.get("uevent_seqnum") if where is not None else None
    if attr is not None and attr.data.strip().isdigit():
        kernel.sub(Uevents).seqnum = int(attr.data)
        kernel.sub(KernelKobj)


def _add_node(kernel: Kernel, path: str, spec: Dir) -> None:
    """drivers/base/devtmpfs.c:devtmpfs_create_node(); then what udev did to it."""
    number, env = number_of(spec), spec.properties
    if number is None or "DEVNAME" not in env:
        return
    rdev = MKDEV(*number)
    name = env["DEVNAME"].removeprefix("/dev/")
    kind = stat.S_IFBLK if spec.subsystem == "block" else stat.S_IFCHR
    mode = int(env.get("DEVMODE", "0600"), 8)
    devtmpfs = kernel.sub(DevTmpFs)
    extra = spec.node
    try:
        node = devtmpfs.create_node(name, mode if extra is None or extra.mode is None else extra.mode, rdev, kind)
    except (OSError, KeyError):  # the emulated kernel has a node of this name, or one on the way
        return
    if extra is None:
        return
    node.uid, node.gid = extra.uid, extra.gid
    for link in extra.links:
        with suppress(OSError, KeyError):
            devtmpfs.create_link(link, name)
    if extra.data is not None and kind == stat.S_IFCHR:
        with suppress(OSError):  # a driver has the number
            kernel.sub(Chrdevs).add(rdev, partial(RecordedFile, data=extra.data))
