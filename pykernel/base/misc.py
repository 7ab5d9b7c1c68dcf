"""Miscellaneous devices: major 10, one minor a driver (drivers/char/misc.c)."""

from __future__ import annotations

from errno import EBUSY
from itertools import chain
from typing import TYPE_CHECKING, Final

from pykernel.base.class_ import Class
from pykernel.base.core import Device, cdev_device_add, cdev_device_del
from pykernel.errors import err
from pykernel.fs.chardev import MINOR, MKDEV, Chrdevs, Open
from pykernel.fs.procfs import ProcFs
from pykernel.fs.vfs import Owner

if TYPE_CHECKING:
    from pykernel.kernel import Kernel

__all__ = ["MISC_DYNAMIC_MINOR", "MiscDevice", "MiscDevices", "misc_deregister", "misc_register"]

MISC_MAJOR: Final = 10
MISC_DYNAMIC_MINOR: Final = 255
_DYNAMIC_MINORS: Final = 128
_MINORMASK: Final = (1 << 20) - 1


class MiscDevice(Device):
    """``struct miscdevice``: *nodename* is its name below /dev, *mode* the node's."""

    def __init__(self, kernel: Kernel, name: str, minor: int, *, nodename: str = "", mode: int = 0) -> None:
        super().__init__(kernel, name, class_=kernel.sub(MiscDevices).class_, devt=MKDEV(MISC_MAJOR, minor))
        self.nodename, self.mode = nodename or name, mode

    def devnode(self) -> tuple[str, int | None]:
        """drivers/char/misc.c:misc_devnode()."""
        return self.nodename, self.mode or None


class MiscDevices:
    """The misc devices of one kernel: ``/sys/class/misc`` and ``/proc/misc``, newest first."""

    def __init__(self, kernel: Kernel) -> None:
        self.devices: list[MiscDevice] = []
        self.kernel = kernel
        self.class_ = Class(kernel, "misc")
        self.class_.register()
        kernel.sub(Chrdevs).register_region(MKDEV(MISC_MAJOR, 0), 1 << 20, "misc")
        kernel.sub(ProcFs).create("misc", self.proc_misc)

    def proc_misc(self) -> str:
        """drivers/char/misc.c:misc_seq_show()."""
        return "".join(f"{MINOR(d.devt):3d} {d.name}\n" for d in self.devices)

    def minor(self, wanted: int) -> int:
        """A free minor: *wanted*, or a dynamic one. Raises EBUSY: it is taken, or none is left."""
        # drivers/char/misc.c:misc_minor_alloc()
        taken = {MINOR(d.devt) for d in self.devices}
        if wanted != MISC_DYNAMIC_MINOR:
            if wanted in taken:
                raise err(EBUSY, f"misc minor {wanted} is taken")
            return wanted
        above = range(MISC_DYNAMIC_MINOR + 1, _MINORMASK + 1)
        below = () if self.kernel.profile.misc_minors_above_255 else range(_DYNAMIC_MINORS - 1, -1, -1)
        for minor in chain(below, above):
            if minor not in taken:
                return minor
        raise err(EBUSY, "no misc minor is free")


def misc_register(
    kernel: Kernel, name: str, minor: int, open: Open, owner: Owner | None, *, nodename: str = "", mode: int = 0
) -> MiscDevice:
    """
    Make a misc device and its node; open files hold module *owner*.

    C: ``int misc_register(struct miscdevice *)``

    Raises:
        EBUSY: the minor is taken. EEXIST: the name is.
    """
    misc = kernel.sub(MiscDevices)
    device = MiscDevice(kernel, name, misc.minor(minor), nodename=nodename, mode=mode)
    cdev_device_add(device, open, owner)
    misc.devices.insert(0, device)
    return device


def misc_deregister(device: MiscDevice) -> None:
    """C: ``void misc_deregister(struct miscdevice *)``."""
    device.kernel.sub(MiscDevices).devices.remove(device)
    cdev_device_del(device)
