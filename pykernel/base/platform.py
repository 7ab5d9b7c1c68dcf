"""
What is on every machine: the platform and auxiliary buses, and the memory devices (drivers/base/platform.c,
drivers/char/mem.c).
"""

from __future__ import annotations

from errno import EPERM
from typing import TYPE_CHECKING

from pykernel.base.bus import Bus
from pykernel.base.class_ import Class
from pykernel.base.core import Device, cdev_device_add
from pykernel.base.misc import Misc
from pykernel.base.uevent import KernelKobj
from pykernel.errors import err
from pykernel.fs.chardev import MKDEV, FullFile, NullFile, Open, RandomFile, ZeroFile
from pykernel.fs.kmsg import KmsgFile
from pykernel.fs.vfs import File, Inode

if TYPE_CHECKING:
    from pykernel.kernel import Kernel

__all__ = ["MemDevices", "base_init"]


def _locked(inode: Inode, flags: int) -> File:
    """/dev/mem and /dev/port of a kernel in lockdown. Raises EPERM."""
    if inode.kernel.trace:
        inode.kernel.trace("unsupported", what="physical memory and I/O ports by /dev")
    raise err(EPERM)


# drivers/char/mem.c:devlist: minor, name, DEVMODE (None: none is told), open
MEM_DEVICES: tuple[tuple[int, str, int | None, Open], ...] = (
    (1, "mem", None, _locked),
    (3, "null", 0o666, NullFile),
    (4, "port", None, _locked),
    (5, "zero", 0o666, ZeroFile),
    (7, "full", 0o666, FullFile),
    (8, "random", 0o666, RandomFile),
    (9, "urandom", 0o666, RandomFile),
    (11, "kmsg", 0o644, KmsgFile),
)


class MemDevice(Device):
    """/dev/null and its like."""

    mode: int | None = None

    def devnode(self) -> tuple[str, int | None]:
        """drivers/char/mem.c:mem_devnode()."""
        return self.name, self.mode


class MemDevices:
    """The class ``mem`` and its devices."""

    def __init__(self, kernel: Kernel) -> None:
        cls = Class(kernel, "mem")
        cls.register()
        for minor, name, mode, open in MEM_DEVICES:
            dev = MemDevice(kernel, name, class_=cls, devt=MKDEV(1, minor))
            dev.mode = mode
            cdev_device_add(dev, open)


def base_init(kernel: Kernel) -> None:
    """drivers/base/init.c:driver_init(), as far as it shows."""
    kernel.sub(KernelKobj)
    Device(kernel, "platform").register()
    for name in ("platform", "auxiliary", "event_source"):
        Bus(kernel, name).register()
    kernel.sub(MemDevices)
    kernel.sub(Misc)
