"""Devices (drivers/base/core.c): registration, links, the ``uevent`` and ``dev`` files, dev_err() and friends."""

from __future__ import annotations

from contextlib import ExitStack
from errno import EEXIST, EINVAL
from typing import TYPE_CHECKING, Any, ClassVar

from pykernel.base.dd import DeferredProbe
from pykernel.base.notify import BUS_NOTIFY_ADD_DEVICE, BUS_NOTIFY_DEL_DEVICE, BUS_NOTIFY_REMOVED_DEVICE
from pykernel.base.power import Power
from pykernel.base.uevent import Uevents, kobject_synth_uevent
from pykernel.errors import HungTask, err
from pykernel.fs.chardev import MAJOR, MINOR, Chrdevs, Open
from pykernel.fs.rootfs import DevTmpFs
from pykernel.fs.sysfs import AttrGroup, Kobject, Kset, SysFs
from pykernel.fs.vfs import Owner
from pykernel.lib.ledger import Holder
from pykernel.lib.locking import Mutex
from pykernel.log import CRIT, DEBUG, ERR, INFO, NOTICE, WARNING

if TYPE_CHECKING:
    from pykernel.base.bus import Bus, Driver
    from pykernel.base.class_ import Class
    from pykernel.iommu.group import IommuGroup
    from pykernel.iommu.intel import IntelIommu
    from pykernel.kernel import Kernel

__all__ = ["Device", "cdev_device_add", "cdev_device_del"]


class Device(Kobject):
    """
    ``struct device``. *type* is the DEVTYPE of its uevents, *devt* its device number.

    A subclass lists its files in ``attrs`` and gives ``<name>_show`` and ``<name>_store`` methods.
    """

    attrs: ClassVar[AttrGroup | tuple[AttrGroup, ...]] = AttrGroup("uevent", "dev")
    async_suspend = False
    runtime_pm = False
    runtime_forbidden = False

    def __init__(
        self,
        kernel: Kernel,
        name: str,
        *,
        parent: Device | Kobject | None = None,
        bus: Bus | None = None,
        class_: Class | None = None,
        type: str = "",
        devt: int = 0,
    ) -> None:
        super().__init__(kernel, name, parent, kernel.sub(SysFs).top["devices"])
        self.device_parent = parent if isinstance(parent, Device) else None
        self.bus = bus
        self.class_ = class_
        self.type = type
        self.devt = devt
        self.driver: Driver | None = None
        self.drvdata: Any = None
        self.holder: Holder | None = None  # in whose name the driver takes things, while it is bound
        self.numa_node = -1
        self.iommu: IntelIommu | None = None
        self.iommu_group: IommuGroup | None = None
        self.dead = False
        self.releasing = False
        self.registered = False
        self.devices: list[Device] = []
        self.glue: Kset | None = None
        self.power = Power(self)
        self._mutex: Mutex | None = None

    @property
    def mutex(self) -> Mutex:
        """What device_lock() takes: binding, unbinding, reset. Made when it is first asked for."""
        if self._mutex is None:
            self._mutex = Mutex(self.kernel, f"device_lock of {self.name}")
        return self._mutex

    # ---- runtime power management: ``dev_pm_ops`` of its bus and driver

    def runtime_suspend(self) -> None:
        """Go to sleep. Raises an errno: not now."""

    def runtime_resume(self) -> None:
        """Wake up. Raises an errno: it does not."""

    # ---- messages (drivers/base/core.c:dev_printk_emit())

    def _printk(self, level: int, text: str) -> None:
        owner = self.driver or self.bus or self.class_
        where = self.class_ or self.bus  # set_dev_info() looks at the class first, dev_driver_string() at the bus
        subsystem = where.name if where else ""
        number = f"c{MAJOR(self.devt)}:{MINOR(self.devt)}" if MAJOR(self.devt) else f"+{subsystem}:{self.name}"
        device = number if subsystem else ""
        prefix = f"{owner.name} {self.name}" if owner else f" {self.name}"
        self.kernel.log.printk(level, f"{prefix}: {text}", subsystem, device)

    def crit(self, text: str) -> None:
        """C: ``dev_crit()``."""
        self._printk(CRIT, text)

    def err(self, text: str) -> None:
        """C: ``dev_err()``."""
        self._printk(ERR, text)

    def warn(self, text: str) -> None:
        """C: ``dev_warn()``."""
        self._printk(WARNING, text)

    def notice(self, text: str) -> None:
        """C: ``dev_notice()``."""
        self._printk(NOTICE, text)

    def info(self, text: str) -> None:
        """C: ``dev_info()``."""
        self._printk(INFO, text)

    def dbg(self, text: str) -> None:
        """C: ``dev_dbg()``: to the trace, as dynamic debug is off."""
        if self.kernel.trace:
            self.kernel.trace("dev_dbg", level=DEBUG, device=self.name, text=text)

    # ---- uevents

    def uevent(self, env: dict[str, str]) -> None:
        """``device_type.uevent``: add variables."""

    def devnode(self) -> tuple[str, int | None]:
        """Name below /dev and mode; None or 0 means 0600. C: ``device_get_devnode()``."""
        return self.name.replace("!", "/"), None

    def _env(self) -> dict[str, str]:
        # drivers/base/core.c:dev_uevent()
        env: dict[str, str] = {}
        if MAJOR(self.devt):
            name, mode = self.devnode()
            env |= {"MAJOR": str(MAJOR(self.devt)), "MINOR": str(MINOR(self.devt)), "DEVNAME": name}
            if mode:
                env["DEVMODE"] = f"0{mode & 0o777:o}"
        if self.type:
            env["DEVTYPE"] = self.type
        if self.driver:
            env["DRIVER"] = self.driver.name
        if self.bus:
            self.bus.uevent(self, env)
        if self.class_:
            self.class_.uevent(self, env)
        self.uevent(env)
        return env

    def send_uevent(self, action: str, extra: dict[str, str] | None = None) -> None:
        """C: ``kobject_uevent_env()``; devices without bus and class are filtered out."""
        owner = self.bus or self.class_
        if owner is not None:
            self.kernel.sub(Uevents).send(self, action, {"SUBSYSTEM": owner.name, **(extra or {}), **self._env()})

    def uevent_show(self) -> str:
        """drivers/base/core.c:uevent_show()."""
        if not self.bus and not self.class_:
            return ""
        return "".join(f"{k}={v}\n" for k, v in self._env().items())

    def uevent_store(self, buf: str) -> None:
        """drivers/base/core.c:uevent_store(). Raises EINVAL."""
        try:
            kobject_synth_uevent(self, buf, self.send_uevent)
        except OSError as e:
            self.err(f"uevent: failed to send synthetic uevent: -{e.errno}")
            raise

    def dev_show(self) -> str:
        """drivers/base/core.c:dev_show()."""
        return f"{MAJOR(self.devt)}:{MINOR(self.devt)}\n"

    def attr_is_visible(self, name: str) -> bool:
        """``dev`` only with a device number."""
        return name != "dev" or MAJOR(self.devt) != 0

    # ---- life

    def register(self) -> None:
        """
        C: ``int device_add(struct device *)``.

        Raises:
            EEXIST: the name or the device number is taken; what was made is taken back.
            EINVAL: no name.
            ENOMEM: by fault injection.
        """
        if not self.name:
            raise err(EINVAL)
        if self.kernel.faults.active:
            self.kernel.faults.alloc(f"device_add {self.name}")
        self._get_device_parent()
        parent = self.device_parent
        if parent is not None and self.numa_node == -1:
            self.numa_node = parent.numa_node
        self._add_files()
        self.registered = True
        self.kernel.ledger.take("device", self, lambda: f"device {self.name}", parent)
        if self.bus:
            self.bus.notify(BUS_NOTIFY_ADD_DEVICE, self)
        self.send_uevent("add")
        if self.bus:
            self.bus.probe_device(self)
        if parent is not None:
            parent.devices.append(self)

    def _add_files(self) -> None:
        with ExitStack() as undo:
            undo.callback(self._cleanup_glue_dir)
            self.add()
            undo.callback(self.delete)
            undo.callback(self.send_uevent, "remove")
            if self.class_:
                self.class_.add_links(self)
                undo.callback(self.class_.remove_links, self)
            if self.bus:
                self.bus.add_device(self)
                undo.callback(self.bus.remove_device, self)
            self.dir.when_looked_at(self._add_power)
            if MAJOR(self.devt):
                self._add_node()
            undo.pop_all()

    def _add_power(self) -> None:
        if self.power.sd is None:
            self.power.add()

    def _get_device_parent(self) -> None:
        # drivers/base/core.c:get_device_parent()
        if self.class_ is None:
            return
        if self.device_parent is None or not self.device_parent.class_:
            self.parent = self.glue = self.class_.glue_dir(self.parent)

    def _cleanup_glue_dir(self) -> None:
        if self.glue is not None and self.class_:
            self.class_.cleanup_glue_dir(self.glue)

    def _add_node(self) -> None:
        dev_dir = self.kernel.sub(DevDirs).char
        dev_dir.create_link(self, f"{MAJOR(self.devt)}:{MINOR(self.devt)}")
        name, mode = self.devnode()
        self.kernel.sub(DevTmpFs).create_node(name, mode or 0o600, self.devt)

    def unregister(self) -> None:
        """C: ``void device_unregister(struct device *)``. Raises HungTask: it is there as before."""
        with self.mutex:
            self.dead = True
        if not self.registered:
            return
        self.registered = False
        self.kernel.ledger.give("device", self)
        if self.bus:
            self.bus.notify(BUS_NOTIFY_DEL_DEVICE, self)
        if self.device_parent is not None:
            self.device_parent.devices.remove(self)
        if MAJOR(self.devt):
            self.kernel.sub(DevTmpFs).delete_node(self.devnode()[0], self.devt)
            self.kernel.sub(DevDirs).char.remove_link(f"{MAJOR(self.devt)}:{MINOR(self.devt)}")
        if self.class_:
            self.class_.remove_links(self)
        if self.bus:
            try:
                self.bus.remove_device(self)
            except HungTask:
                self._keep()
                raise
        self.kernel.sub(DeferredProbe).remove(self)
        if self.bus:
            self.bus.notify(BUS_NOTIFY_REMOVED_DEVICE, self)
        self.send_uevent("remove")
        self.power.sd = None
        self.delete()
        self._cleanup_glue_dir()
        self.put()

    def _keep(self) -> None:
        """Undo what unregister() did before its driver hung."""
        self.dead, self.registered = False, True
        self.kernel.ledger.take("device", self, lambda: f"device {self.name}", self.device_parent)
        if self.class_:
            self.class_.add_links(self)
        if MAJOR(self.devt):
            self._add_node()
        if self.device_parent is not None:
            self.device_parent.devices.append(self)

    def children(self) -> list[Device]:
        """The devices below. C: ``device_for_each_child()``."""
        return list(self.devices)


class DevDirs:
    """/sys/dev/char and /sys/dev/block."""

    def __init__(self, kernel: Kernel) -> None:
        dev = kernel.sub(SysFs).top["dev"]
        self.char = Kset(kernel, "char", dev)
        self.block = Kset(kernel, "block", dev)
        self.char.add()
        self.block.add()


def cdev_device_add(dev: Device, open: Open, owner: Owner | None = None) -> None:
    """
    Register the character device and its device together; open files hold module *owner*.

    C: ``int cdev_device_add(struct cdev *, struct device *)``.

    Raises:
        EBUSY: the number is taken.
        EEXIST: the device's name is.
    """
    chrdevs = dev.kernel.sub(Chrdevs)
    chrdevs.add(dev.devt, open, owner)
    try:
        dev.register()
    except OSError as e:
        chrdevs.delete(dev.devt)
        raise err(e.errno or EEXIST) from e


def cdev_device_del(dev: Device) -> None:
    """C: ``void cdev_device_del(struct cdev *, struct device *)``."""
    dev.unregister()
    dev.kernel.sub(Chrdevs).delete(dev.devt)
