"""Miscellaneous character devices, major 10 (drivers/char/misc.c): /sys/class/misc, /proc/misc."""

from __future__ import annotations

from errno import EBUSY
from itertools import chain
from typing import TYPE_CHECKING

from pykernel.base.class_ import Class
from pykernel.base.core import Device, cdev_device_add, cdev_device_del
from pykernel.errors import err
from pykernel.fs.chardev import MINOR, MKDEV, Chrdevs, Open
from pykernel.fs.procfs import ProcFs

if TYPE_CHECKING:
    from pykernel.fs.vfs import Owner
    from pykernel.kernel import Kernel

__all__ = ["MISC_DYNAMIC_MINOR", "MISC_MAJOR", "Misc", "MiscDevice", "misc_deregister", "misc_register"]

MISC_MAJOR = 10
MISC_DYNAMIC_MINOR = 255
DYNAMIC_MINORS = 128
MINORMASK = (1 << 20) - 1


class Misc:
    """The class ``misc``, the devices of major 10, last registered first, and /proc/misc."""

    def __init__(self, kernel: Kernel) -> None:
        # drivers/char/misc.c:misc_init()
        self.kernel = kernel
        self.class_ = Class(kernel, "misc")
        self.devices: list[MiscDevice] = []
        kernel.sub(Chrdevs).register_region(MKDEV(MISC_MAJOR, 0), MINORMASK + 1, "misc")
        self.class_.register()
        kernel.sub(ProcFs).create("misc", self.proc_misc)

    def proc_misc(self) -> str:
        """drivers/char/misc.c:misc_seq_show()."""
        return "".join(f"{MINOR(dev.devt):3d} {dev.name or ''}\n" for dev in self.devices)

    def minor(self, wanted: int) -> int:
        """The minor to use: *wanted*, or a dynamic one. Raises EBUSY."""
        taken = {MINOR(dev.devt) for dev in self.devices}
        if wanted != MISC_DYNAMIC_MINOR:
            if wanted in taken:
                raise err(EBUSY, f"misc minor {wanted} is taken")
            return wanted
        # drivers/char/misc.c:misc_minor_alloc()
        above = range(MISC_DYNAMIC_MINOR + 1, MINORMASK + 1)
        below = () if self.kernel.profile.misc_minors_above_255 else range(DYNAMIC_MINORS - 1, -1, -1)
        for minor in chain(below, above):
            if minor not in taken:
                return minor
        raise err(EBUSY, "no dynamic misc minor is free")


class MiscDevice(Device):
    """``struct miscdevice``; *nodename* is its name below /dev when that is another, *mode* the node's."""

    def __init__(
        self,
        kernel: Kernel,
        name: str,
        minor: int,
        open: Open,
        *,
        parent: Device | None = None,
        nodename: str = "",
        mode: int = 0,
        owner: Owner | None = None,
    ) -> None:
        super().__init__(kernel, name, parent=parent, class_=kernel.sub(Misc).class_)
        self.minor, self.open, self.nodename, self.node_mode, self.owner = minor, open, nodename, mode, owner

    def devnode(self) -> tuple[str, int | None]:
        """C: ``char *misc_devnode(const struct device *, umode_t *)``."""
        return self.nodename or super().devnode()[0], self.node_mode or None


def misc_register(misc: MiscDevice) -> None:
    """C: ``int misc_register(struct miscdevice *)``. Raises EBUSY: the minor is taken; EEXIST: the name is."""
    known = misc.kernel.sub(Misc)
    misc.devt = MKDEV(MISC_MAJOR, known.minor(misc.minor))
    cdev_device_add(misc, misc.open, misc.owner)
    known.devices.insert(0, misc)


def misc_deregister(misc: MiscDevice) -> None:
    """C: ``void misc_deregister(struct miscdevice *)``."""
    misc.kernel.sub(Misc).devices.remove(misc)
    cdev_device_del(misc)
