"""
vfio_mdev: the bus driver of Linux 4.10 to 5.14 that passes the calls of VFIO on to ``mdev_parent_ops``.

No kernel of today has it; a vendor's driver that is written for the older shape needs it here.
"""

from __future__ import annotations

from errno import EINVAL

from pykernel.base.module import Module
from pykernel.errors import err
from pykernel.mdev import MdevDevice, mdev_register_driver, mdev_unregister_driver
from pykernel.mdev.ops import OpsDriver, ops_of
from pykernel.mm.vma import Vma
from pykernel.vfio.device import VfioDevice
from pykernel.vfio.main import vfio_register_emulated_iommu_dev, vfio_unregister_group_dev

__all__ = ["MODULE", "VfioMdevDriver", "VfioMdevModule"]


class VfioMdevDevice(VfioDevice):
    """The vendor's device. An operation that is not in its table is EINVAL."""

    ops_name = "vfio-mdev"

    def __init__(self, mdev: MdevDevice) -> None:
        super().__init__(mdev)
        self.mdev = mdev
        self.ops = ops_of(mdev)

    def open_device(self) -> None:
        """vfio_mdev_open()."""
        if self.ops.open is None:
            raise err(EINVAL)
        self.ops.open(self.mdev)

    def close_device(self) -> None:
        """vfio_mdev_release()."""
        if self.ops.release is not None:
            self.ops.release(self.mdev)

    def read(self, count: int, pos: int) -> bytes:
        """vfio_mdev_read()."""
        if self.ops.read is None:
            raise err(EINVAL)
        return self.ops.read(self.mdev, count, pos)

    def write(self, data: bytes, pos: int) -> int:
        """vfio_mdev_write()."""
        if self.ops.write is None:
            raise err(EINVAL)
        return self.ops.write(self.mdev, data, pos)

    def ioctl(self, cmd: int, arg: int) -> int:
        """vfio_mdev_unlocked_ioctl()."""
        if self.ops.ioctl is None:
            raise err(EINVAL)
        return self.ops.ioctl(self.mdev, cmd, arg)

    def mmap(self, vma: Vma) -> None:
        """vfio_mdev_mmap()."""
        if self.ops.mmap is None:
            raise err(EINVAL)
        self.ops.mmap(self.mdev, vma)


class VfioMdevDriver(OpsDriver):
    """``static struct mdev_driver vfio_mdev_driver``."""

    def __init__(self, module: Module) -> None:
        super().__init__(module.kernel, "vfio_mdev", module)
        self.vdevs: dict[MdevDevice, VfioMdevDevice] = {}

    def mdev_probe(self, mdev: MdevDevice) -> None:
        """vfio_mdev_probe(). Raises ENOMEM."""
        vdev = VfioMdevDevice(mdev)
        vfio_register_emulated_iommu_dev(vdev)
        self.vdevs[mdev] = vdev

    def mdev_remove(self, mdev: MdevDevice) -> None:
        """vfio_mdev_remove(): waits until nobody has it open."""
        vfio_unregister_group_dev(self.vdevs[mdev])
        del self.vdevs[mdev]


class VfioMdevModule(Module):
    """VFIO based driver for Mediated device."""

    name_ = "vfio_mdev"
    version = "0.1"
    depends = ("vfio", "mdev")

    def init(self) -> None:
        """vfio_mdev_init(). Raises EBUSY."""
        self.driver = VfioMdevDriver(self)
        mdev_register_driver(self.driver)

    def exit(self) -> None:
        """vfio_mdev_exit()."""
        mdev_unregister_driver(self.driver)


MODULE = VfioMdevModule
