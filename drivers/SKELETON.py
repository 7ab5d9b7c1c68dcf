"""
A driver to copy: one attribute, one ioctl, one register, one interrupt, one type of mediated devices.

It drives the small teaching device of QEMU (``model = "edu"``), which computes factorials and raises an interrupt when
one is ready. Loaded, it makes ``/dev/skeleton0`` with an ioctl, and ``/sys/class/skeleton/skeleton0/liveness``. The
card can be shared: who writes a UUID to ``mdev_supported_types/skeleton-share/create`` has a device for VFIO.

``pykernel new driver NAME`` makes a copy with a machine and a test; docs/tutorial.md tells how it comes about.
"""

from __future__ import annotations

from contextlib import ExitStack
from errno import EINVAL, ENODEV, ETIMEDOUT
from typing import Any, ClassVar, Final

from pykernel.base.class_ import Class
from pykernel.base.core import Device, cdev_device_add, cdev_device_del
from pykernel.base.module import Module, Param
from pykernel.errors import err
from pykernel.fs.chardev import alloc_chrdev_region, unregister_chrdev_region
from pykernel.fs.ioctl import IoctlFile, ioctl
from pykernel.fs.sysfs import AttrGroup
from pykernel.fs.vfs import Inode
from pykernel.lib.kstrtox import kstrtou32
from pykernel.lib.locking import Mutex
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
from pykernel.pci.driver import PciDriver, PciId
from pykernel.pci.msi import PCI_IRQ_ALL_TYPES
from pykernel.uapi.ioctl import _IOWR
from pykernel.uapi.linux.vfio import (
    VFIO_DEVICE_API_PLATFORM_STRING,
    VFIO_DEVICE_FLAGS_PLATFORM,
    VFIO_DEVICE_GET_INFO,
    VFIO_DEVICE_GET_REGION_INFO,
    VFIO_REGION_INFO_FLAG_READ,
    VFIO_REGION_INFO_FLAG_WRITE,
    vfio_device_info,
    vfio_region_info,
)
from pykernel.uapi.struct import Struct, u32
from pykernel.vfio.device import VfioDevice
from pykernel.vfio.main import (
    vfio_register_emulated_iommu_dev,
    vfio_unregister_group_dev,
)

# ---- what programs see; in C it is a header


class skeleton_factorial(Struct):
    """``struct skeleton_factorial``: *n* goes in, *result* is n! modulo 2**32."""

    n: u32 = 0
    result: u32 = 0


SKELETON_FACTORIAL: Final = _IOWR(ord("s"), 0x00, skeleton_factorial)

# ---- what the device has in BAR 0: QEMU's docs/specs/edu.rst

LIVENESS, FACTORIAL, STATUS, IRQ_STATUS, IRQ_ACK = 0x04, 0x08, 0x20, 0x24, 0x64
STATUS_IRQFACT = 0x80  # raise an interrupt when a factorial is ready


class SkeletonDev(Device):
    """``/sys/class/skeleton/skeleton0``, and what the driver knows of one PCI function."""

    attrs = AttrGroup("liveness")

    def __init__(self, module: SkeletonModule, pdev: Any) -> None:
        super().__init__(module.kernel, "skeleton0", parent=pdev, class_=module.class_, devt=module.devt)
        self.pdev, self.timeout_ns = pdev, module.param["timeout_ms"] * 1_000_000
        self.regs = pdev.iomap(0)
        self.lock = Mutex(module.kernel, "skeleton")  # the device has one of each register
        self.ready = module.kernel.completion()
        self.gone = False
        self.mdev_parent = MdevParent()

    def liveness_show(self) -> str:
        """The register, which holds the inverse of what was written."""
        return f"{self.regs.readl(LIVENESS):#010x}\n"

    def liveness_store(self, buf: str) -> None:
        """Raises EINVAL, ERANGE: no number of 32 bits."""
        self.regs.writel(kstrtou32(buf, 0), LIVENESS)

    def factorial(self, n: int) -> int:
        """n! from the device. Raises ENODEV: it was removed; ETIMEDOUT: no interrupt came."""
        with self.lock:
            if self.gone:
                raise err(ENODEV)
            self.ready.reinit()
            self.regs.writel(STATUS_IRQFACT, STATUS)
            self.regs.writel(n, FACTORIAL)
            if not self.ready.wait(self.timeout_ns):
                raise err(ETIMEDOUT, "the device did not raise its interrupt")
            result: int = self.regs.readl(FACTORIAL)
            return result

    def irq(self) -> None:
        """The interrupt thread."""
        status = self.regs.readl(IRQ_STATUS)
        if status:
            self.regs.writel(status, IRQ_ACK)
            self.ready.complete()


class SkeletonFile(IoctlFile):
    """An open ``/dev/skeleton0``."""

    __slots__ = ("dev",)

    def __init__(self, inode: Inode, flags: int, dev: SkeletonDev) -> None:
        super().__init__(inode, flags)
        self.dev = dev

    @ioctl(SKELETON_FACTORIAL)
    def get_factorial(self, arg: skeleton_factorial) -> skeleton_factorial:
        """Raises ENODEV: the device was removed while this file was open. ETIMEDOUT."""
        arg.result = self.dev.factorial(arg.n)
        return arg


class SkeletonShare(VfioDevice):
    """A mediated device: a region of 4 bytes, to which n is written and from which n! is read."""

    ops_name = "vfio-skeleton"

    def __init__(self, mdev: MdevDevice, dev: SkeletonDev) -> None:
        super().__init__(mdev)
        self.card, self.result = dev, 0

    @ioctl(VFIO_DEVICE_GET_INFO)
    def get_info(self, info: vfio_device_info) -> vfio_device_info:
        """One region, no interrupt."""
        info.flags, info.num_regions, info.num_irqs = VFIO_DEVICE_FLAGS_PLATFORM, 1, 0
        return info

    @ioctl(VFIO_DEVICE_GET_REGION_INFO)
    def get_region_info(self, info: vfio_region_info) -> vfio_region_info:
        """Where the region is. Raises EINVAL: there is no other."""
        if info.index:
            raise err(EINVAL)
        info.flags = VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE
        info.offset, info.size = 0, 4
        return info

    def read(self, count: int, pos: int) -> bytes:
        """The last result."""
        return self.result.to_bytes(4, "little")[pos : pos + count]

    def write(self, data: bytes, pos: int) -> int:
        """Raises EINVAL: not the whole region; and what the card says."""
        if pos or len(data) != 4:
            raise err(EINVAL)
        self.result = self.card.factorial(int.from_bytes(data, "little"))
        return 4


class SkeletonMdevDriver(MdevDriver):
    """Takes the mediated devices that the card's types make: four at once, which the core counts."""

    device_api = VFIO_DEVICE_API_PLATFORM_STRING
    max_instances = 4

    def probe(self, mdev: MdevDevice, /) -> None:
        """Give it to VFIO. Raises ENOMEM."""
        pdev: Any = mdev.mdev_type.mdev_parent.dev
        share = SkeletonShare(mdev, pdev.drvdata)
        vfio_register_emulated_iommu_dev(share)
        mdev.drvdata = share

    def remove(self, mdev: MdevDevice, /) -> None:
        """Take it back, as soon as nobody has it open."""
        vfio_unregister_group_dev(mdev.drvdata)

    def show_description(self, mtype: MdevType, /) -> str:
        """For whoever chooses a type."""
        return "factorials\n"


class SkeletonDriver(PciDriver):
    """The PCI driver: what it takes, and gives back, for each device."""

    id_table: ClassVar[tuple[PciId, ...]] = (PciId(0x1234, 0x11E8),)

    def probe(self, pdev: Any, /) -> None:
        """Take the device. What fails undoes what was done before it, in reverse."""
        with ExitStack() as undo:
            pdev.enable_device()
            undo.callback(pdev.disable_device)
            pdev.request_regions(self.name)
            undo.callback(pdev.release_regions)
            pdev.set_master()
            pdev.alloc_irq_vectors(1, 1, PCI_IRQ_ALL_TYPES)
            undo.callback(pdev.free_irq_vectors)
            dev = pdev.drvdata = SkeletonDev(self.module, pdev)
            pdev.request_irq(pdev.irq_vector(0), dev.irq, self.name)
            undo.callback(pdev.free_irq, pdev.irq_vector(0))
            cdev_device_add(dev, lambda inode, flags: SkeletonFile(inode, flags, dev), self.module)
            undo.callback(cdev_device_del, dev)
            types = [MdevType("share", "A share of the card")]
            mdev_register_parent(dev.mdev_parent, pdev, self.module.mdev_driver, types)
            undo.pop_all()
        pdev.info("skeleton0 is ready")

    def remove(self, pdev: Any, /) -> None:
        """Give everything back. Files that are open stay, and their ioctls say ENODEV; shares are waited for."""
        mdev_unregister_parent(pdev.drvdata.mdev_parent)
        with pdev.drvdata.lock:  # an ioctl that is under way ends first
            pdev.drvdata.gone = True
        cdev_device_del(pdev.drvdata)
        pdev.free_irq(pdev.irq_vector(0))
        pdev.free_irq_vectors()
        pdev.release_regions()
        pdev.disable_device()


class SkeletonModule(Module):
    """A driver to start from."""

    name_ = "skeleton"
    depends = ("vfio", "mdev")
    params: ClassVar[tuple[Param, ...]] = (Param("timeout_ms", "uint", 1000, 0o644),)

    def init(self) -> None:
        """``module_init``. Raises EBUSY: no major is free, or the driver's name is taken; EEXIST: the class's is."""
        with ExitStack() as undo:
            self.devt = alloc_chrdev_region(self.kernel, 0, 1, self.name)
            undo.callback(unregister_chrdev_region, self.kernel, self.devt, 1)
            self.class_ = Class(self.kernel, self.name)
            self.class_.register()
            undo.callback(self.class_.unregister)
            self.mdev_driver = SkeletonMdevDriver(self.kernel, self.name, self)
            mdev_register_driver(self.mdev_driver)
            undo.callback(mdev_unregister_driver, self.mdev_driver)
            self.driver = SkeletonDriver(self.kernel, self.name, self)
            self.driver.register()
            undo.pop_all()

    def exit(self) -> None:
        """``module_exit``."""
        self.driver.unregister()
        mdev_unregister_driver(self.mdev_driver)
        self.class_.unregister()
        unregister_chrdev_region(self.kernel, self.devt, 1)
