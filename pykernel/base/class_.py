"""Classes (drivers/base/class.c): /sys/class/NAME and the links to its devices."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pykernel.base.uevent import Uevents
from pykernel.fs.sysfs import Kobject, Kset, SysFs

if TYPE_CHECKING:
    from pykernel.base.core import Device
    from pykernel.kernel import Kernel

__all__ = ["Class"]


class Class(Kset):
    """``struct class``. C: ``class_register()``."""

    def __init__(self, kernel: Kernel, name: str) -> None:
        super().__init__(kernel, name, kernel.sub(SysFs).top["class"])
        self.devices: list[Device] = []
        self._glue: dict[Kobject, Kset] = {}

    def register(self) -> None:
        """Make /sys/class/NAME. Raises EEXIST; ENOMEM by fault injection."""
        self.kernel.faults.alloc("class_register")
        self.add()
        self.kernel.ledger.take("class", self, lambda: f"class {self.name}")
        self.kernel.sub(Uevents).send(self, "add", {"SUBSYSTEM": "class"})

    def unregister(self) -> None:
        """C: ``void class_unregister(struct class *)``."""
        self.kernel.sub(Uevents).send(self, "remove", {"SUBSYSTEM": "class"})
        self.kernel.ledger.give("class", self)
        self.delete()

    def uevent(self, dev: Device, env: dict[str, str]) -> None:
        """``class.dev_uevent``: add variables."""

    def glue_dir(self, parent: Kobject | None) -> Kset:
        """
        The directory NAME between our devices and a parent that has no class, or /sys/devices/virtual for none.

        drivers/base/core.c:get_device_parent().
        """
        where = parent or self.kernel.sub(VirtualDir)
        glue = self._glue.get(where)
        if glue is None:
            glue = Kset(self.kernel, self.name, where)
            glue.add()
            self._glue[where] = glue
        return glue

    def cleanup_glue_dir(self, glue: Kset) -> None:
        """The directory goes with its last device. drivers/base/core.c:cleanup_glue_dir()."""
        if glue.parent is not None and self._glue.get(glue.parent) is glue and not glue.dir.children:
            del self._glue[glue.parent]
            glue.delete()

    def add_links(self, dev: Device) -> None:
        """drivers/base/core.c:device_add_class_symlinks(). Raises EEXIST."""
        dev.create_link(self, "subsystem")
        if dev.device_parent is not None:
            dev.create_link(dev.device_parent, "device")
        self.create_link(dev, dev.name)
        self.devices.append(dev)

    def remove_links(self, dev: Device) -> None:
        """drivers/base/core.c:device_remove_class_symlinks()."""
        self.remove_link(dev.name)
        dev.remove_link("device")
        dev.remove_link("subsystem")
        self.devices.remove(dev)


class VirtualDir(Kset):
    """/sys/devices/virtual, made at first use."""

    def __init__(self, kernel: Kernel) -> None:
        super().__init__(kernel, "virtual", kernel.sub(SysFs).top["devices"])
        self.add()
