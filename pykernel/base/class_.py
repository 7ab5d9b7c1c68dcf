"""Classes (drivers/base/class.c): /sys/class/NAME and the links to its devices."""

from __future__ import annotations

from typing import TYPE_CHECKING

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
        self._glue: dict[int, tuple[Kset, list[int]]] = {}

    def register(self) -> None:
        """Make /sys/class/NAME. Raises EEXIST."""
        self.add()

    def unregister(self) -> None:
        """C: ``void class_unregister(struct class *)``."""
        self.delete()

    def uevent(self, dev: Device, env: dict[str, str]) -> None:
        """``class.dev_uevent``: add variables."""

    def virtual_dir(self) -> Kset:
        """/sys/devices/virtual/NAME, for devices without a parent."""
        return self.kernel.sub(VirtualDirs).of(self)

    def glue_dir(self, parent: Kobject) -> Kset:
        """
        The directory NAME between a parent that has no class and our devices.

        drivers/base/core.c:get_device_parent().
        """
        glue, users = self._glue.get(id(parent), (None, [0]))
        if glue is None:
            glue = Kset(self.kernel, self.name, parent)
            glue.add()
            self._glue[id(parent)] = (glue, users)
        users[0] += 1
        return glue

    def put_glue(self, glue: Kset) -> None:
        """The directory goes with its last device. drivers/base/core.c:cleanup_glue_dir()."""
        for key, (have, users) in list(self._glue.items()):
            if have is glue:
                users[0] -= 1
                if not users[0]:
                    glue.delete()
                    del self._glue[key]

    def add_links(self, dev: Device) -> None:
        """drivers/base/core.c:device_add_class_symlinks(). Raises EEXIST."""
        dev.create_link(self, "subsystem")
        if dev.parent is not None and dev.glue is not None and dev.glue.parent is not None:
            dev.create_link(dev.glue.parent, "device")
        self.create_link(dev, dev.name)
        self.devices.append(dev)

    def remove_links(self, dev: Device) -> None:
        """drivers/base/core.c:device_remove_class_symlinks()."""
        self.remove_link(dev.name)
        self.devices.remove(dev)


class VirtualDirs:
    """/sys/devices/virtual."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.root = Kset(kernel, "virtual", kernel.sub(SysFs).top["devices"])
        self.root.add()
        self.dirs: dict[str, Kset] = {}

    def of(self, cls: Class) -> Kset:
        """The class's directory, made at first use."""
        if cls.name not in self.dirs:
            self.dirs[cls.name] = Kset(self.kernel, cls.name, self.root)
            self.dirs[cls.name].add()
        return self.dirs[cls.name]
