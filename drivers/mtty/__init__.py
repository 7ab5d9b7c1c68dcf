"""
mtty: serial port cards that are not there, as mediated devices (samples/vfio-mdev/mtty.c).

Loaded, it makes the parent ``/sys/devices/virtual/mtty/mtty`` with 24 ports, and two types: cards of one and of two
ports. What is written to a port is read from it again. Two parameters are not Linux's: ``parents`` and ``ports``.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, ClassVar, Final

from pykernel.base.class_ import Class
from pykernel.base.core import Device
from pykernel.base.module import Module, Param
from pykernel.fs.chardev import MAJOR, Chrdevs, alloc_chrdev_region, unregister_chrdev_region
from pykernel.fs.sysfs import Attribute
from pykernel.fs.vfs import File
from pykernel.log import INFO
from pykernel.mdev import (
    MdevDevice,
    MdevDriver,
    MdevParent,
    MdevType,
    mdev_register_driver,
    mdev_register_parent,
    mdev_unregister_driver,
    mdev_unregister_parent,
)
from pykernel.uapi.linux.vfio import VFIO_DEVICE_API_PCI_STRING

if TYPE_CHECKING:
    from pykernel.drivers.mtty.device import MttyDevice

__all__ = ["MODULE", "MttyDev", "MttyDriver", "MttyModule", "MttyType"]

MINORS: Final = 1 << 20
MAX_MTTYS: Final = 24


class MttyType(MdevType):
    """``struct mtty_type``: a card of so many ports."""

    def __init__(self, nr_ports: int, pretty_name: str) -> None:
        super().__init__(str(nr_ports), pretty_name)
        self.nr_ports = nr_ports


class MttyDev(Device):
    """``struct mtty_dev``: a parent, and how many ports it has left."""

    def __init__(self, module: MttyModule, name: str) -> None:
        super().__init__(module.kernel, name, class_=module.class_)
        self.avail_ports: int = module.param["ports"]
        self.mdev_parent = MdevParent()
        self.types = (MttyType(1, "Single port serial"), MttyType(2, "Dual port serial"))

    def register_with(self, driver: MttyDriver) -> None:
        """The device and what it makes. Raises EEXIST; ENOMEM by fault injection."""
        self.register()
        try:
            mdev_register_parent(self.mdev_parent, self, driver, self.types)
        except OSError:
            self.unregister()
            raise

    def unregister_with_mdevs(self) -> None:
        """The cards go first, as soon as nobody has them open."""
        mdev_unregister_parent(self.mdev_parent)
        self.unregister()


class MttyDriver(MdevDriver):
    """``static struct mdev_driver mtty_driver``."""

    device_api = VFIO_DEVICE_API_PCI_STRING
    dev_groups: ClassVar[dict[str, tuple[Attribute, ...]]] = {
        "vendor": (Attribute("sample_mdev_dev", lambda dev: f"This is MDEV {dev.name}\n", None, 0o444),),
    }

    def probe(self, mdev: MdevDevice, /) -> None:
        """mtty_probe(). Raises ENOSPC: no ports; as vfio_register_emulated_iommu_dev()."""
        from pykernel.drivers.mtty.device import MttyDevice  # many load the module, few make a card
        from pykernel.vfio.main import vfio_register_emulated_iommu_dev

        mtype: Any = mdev.mdev_type
        device = MttyDevice(mdev, mtype.mdev_parent.dev, mtype.nr_ports)
        try:
            vfio_register_emulated_iommu_dev(device)
        except OSError:
            device.release()
            raise
        mdev.drvdata = device

    def remove(self, mdev: MdevDevice, /) -> None:
        """mtty_remove(): waits until nobody has it open."""
        from pykernel.vfio.main import vfio_unregister_group_dev

        device: MttyDevice = mdev.drvdata
        vfio_unregister_group_dev(device)
        device.release()

    def get_available(self, mtype: MttyType, /) -> int:
        """mtty_get_available()."""
        parent: Any = mtype.mdev_parent.dev
        available: int = parent.avail_ports // mtype.nr_ports
        return available


class MttyModule(Module):
    """
    Test driver that simulate serial port over PCI.

    Linux's has no parameters. Ours: *ports* that a parent has, and how many *parents* there are: mtty, mtty1, ...
    """

    name_ = "mtty"
    version = "0.1"
    depends = ("vfio", "mdev")
    params: ClassVar[tuple[Param, ...]] = (Param("ports", "uint", MAX_MTTYS, 0), Param("parents", "uint", 1, 0))

    def init(self) -> None:
        """mtty_dev_init(). Raises EBUSY, EEXIST; ENOMEM by fault injection."""
        kernel, chrdevs = self.kernel, self.kernel.sub(Chrdevs)
        kernel.log.printk(INFO, "mtty_dev: mtty_dev_init")
        with ExitStack() as undo:
            self.devt = alloc_chrdev_region(kernel, 0, MINORS, "mtty")
            undo.callback(unregister_chrdev_region, kernel, self.devt, MINORS)
            chrdevs.add(self.devt, File, self)
            undo.callback(chrdevs.delete, self.devt)
            kernel.log.printk(INFO, f"major_number:{MAJOR(self.devt)}")
            self.driver = MttyDriver(kernel, "mtty", self)
            mdev_register_driver(self.driver)
            undo.callback(mdev_unregister_driver, self.driver)
            self.class_ = Class(kernel, "mtty")
            self.class_.register()
            undo.callback(self.class_.unregister)
            self.parents = [MttyDev(self, f"mtty{n or ''}") for n in range(self.param["parents"])]
            for parent in self.parents:
                parent.register_with(self.driver)
                undo.callback(parent.unregister_with_mdevs)
            undo.pop_all()

    def exit(self) -> None:
        """mtty_dev_exit()."""
        for parent in self.parents:
            parent.unregister_with_mdevs()
        mdev_unregister_driver(self.driver)
        self.kernel.sub(Chrdevs).delete(self.devt)
        unregister_chrdev_region(self.kernel, self.devt, MINORS)
        self.class_.unregister()
        self.kernel.log.printk(INFO, "mtty_dev: Unloaded!")


MODULE = MttyModule
