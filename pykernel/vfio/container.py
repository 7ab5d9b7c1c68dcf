"""
Containers, /dev/vfio/vfio, and the IOMMU drivers behind them (drivers/vfio/container.c).
"""

from __future__ import annotations

from enum import IntEnum
from errno import E2BIG, EINVAL, ENODEV, ENOTTY, EPERM
from typing import TYPE_CHECKING, Any, ClassVar

from pykernel.base.misc import MiscDevice
from pykernel.errors import Oops, err
from pykernel.fs.ioctl import IoctlFile, ioctl
from pykernel.fs.vfs import Inode, no_llseek
from pykernel.iommu.iommu import iommu_group_claim_dma_owner, iommu_group_release_dma_owner
from pykernel.lib.locking import Mutex
from pykernel.lib.rwsem import RwSemaphore
from pykernel.task import CAP_SYS_RAWIO
from pykernel.uapi.linux.vfio import (
    VFIO_API_VERSION,
    VFIO_CHECK_EXTENSION,
    VFIO_GET_API_VERSION,
    VFIO_NOIOMMU_IOMMU,
    VFIO_SET_IOMMU,
)

if TYPE_CHECKING:
    from pykernel.fs.vfs import Owner
    from pykernel.iommu.iommu import IommuGroup
    from pykernel.kernel import Kernel
    from pykernel.uapi.ioctl import Ioctl
    from pykernel.vfio.device import VfioDevice
    from pykernel.vfio.group import VfioGroup

__all__ = [
    "VFIO_MINOR",
    "Container",
    "IommuDrivers",
    "NoIommuDriver",
    "VfioContainerFile",
    "VfioGroupType",
    "VfioIommuDriver",
    "vfio_register_iommu_driver",
    "vfio_unregister_iommu_driver",
]

VFIO_MINOR = 196  # include/linux/miscdevice.h
VFIO_PIN_PAGES_MAX_ENTRIES = 512  # include/linux/vfio.h: a page of pointers


class VfioGroupType(IntEnum):
    """``enum vfio_group_type``: what stands behind a group."""

    IOMMU = 0
    EMULATED_IOMMU = 1
    NO_IOMMU = 2


class VfioIommuDriver:
    """
    ``struct vfio_iommu_driver_ops``: what a container's mappings are made of.

    *data* is what open() made for one container, None when a driver is asked before that. *group* is the IOMMU's
    group, not VFIO's. An operation that a driver does not have answers as Linux does.
    """

    name: ClassVar[str] = ""
    rows: ClassVar[tuple[Ioctl[Any], ...]] = ()
    """The ioctls that it answers."""
    owner: Owner | None = None

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel

    def open(self, arg: int) -> Any:
        """C: ``void *open(unsigned long arg)``, *arg* of VFIO_SET_IOMMU. Raises an errno."""

    def release(self, data: Any) -> None:
        """C: ``void release(void *iommu_data)``: the last group left the container."""

    def ioctl(self, data: Any, cmd: int, arg: int) -> int:
        """C: ``long ioctl(void *, unsigned int, unsigned long)``. Raises ENOTTY and what else it likes."""
        raise err(ENOTTY)

    def ioctl_row(self, cmd: int) -> Ioctl[Any] | None:
        """Which ioctl *cmd* is for this driver, for traces."""
        return next((row for row in self.rows if row.nr == cmd), None)

    def attach_group(self, data: Any, group: IommuGroup, type: VfioGroupType) -> None:
        """C: ``int attach_group(void *, struct iommu_group *, enum vfio_group_type)``. Raises an errno."""
        raise NotImplementedError

    def detach_group(self, data: Any, group: IommuGroup) -> None:
        """C: ``void detach_group(void *, struct iommu_group *)``."""
        raise NotImplementedError

    def pin_pages(self, data: Any, group: IommuGroup, iova: int, npage: int, prot: int) -> list[int]:
        """C: ``int pin_pages(...)``: the physical address of each page. Raises ENOTTY: no such operation."""
        raise err(ENOTTY)

    def unpin_pages(self, data: Any, iova: int, npage: int) -> None:
        """C: ``void unpin_pages(void *, dma_addr_t, int)``."""
        raise NotImplementedError

    def register_device(self, data: Any, vdev: VfioDevice) -> None:
        """C: ``void register_device(void *, struct vfio_device *)``: its first descriptor is opened."""

    def unregister_device(self, data: Any, vdev: VfioDevice) -> None:
        """C: ``void unregister_device(void *, struct vfio_device *)``: its last descriptor was closed."""

    def dma_rw(self, data: Any, iova: int, buf: bytearray, write: bool) -> None:
        """C: ``int dma_rw(void *, dma_addr_t, void *, size_t, bool)``: fill *buf*, or write it. Raises ENOTTY."""
        raise err(ENOTTY)

    def notify(self, data: Any) -> None:
        """C: ``void notify(void *, VFIO_IOMMU_CONTAINER_CLOSE)``: the container's file is closed (Linux 6.1)."""


class NoIommuDriver(VfioIommuDriver):
    """``vfio_noiommu_ops``: no translation, no protection."""

    name = "vfio-noiommu"

    def open(self, arg: int) -> None:
        """Raises EINVAL: not VFIO_NOIOMMU_IOMMU. EPERM: no CAP_SYS_RAWIO."""
        # drivers/vfio/container.c:vfio_noiommu_open()
        if arg != VFIO_NOIOMMU_IOMMU:
            raise err(EINVAL)
        if not self.kernel.current.cred.capable(CAP_SYS_RAWIO):
            raise err(EPERM, "CAP_SYS_RAWIO")

    def ioctl(self, data: Any, cmd: int, arg: int) -> int:
        """VFIO_CHECK_EXTENSION, while the module's option is on. Raises ENOTTY."""
        if cmd != VFIO_CHECK_EXTENSION.nr:
            raise err(ENOTTY)
        return int(self.kernel.sub(IommuDrivers).noiommu() and arg == VFIO_NOIOMMU_IOMMU)

    def attach_group(self, data: Any, group: IommuGroup, type: VfioGroupType) -> None:
        """Nothing to attach to."""

    def detach_group(self, data: Any, group: IommuGroup) -> None:
        """Nothing to detach from."""


class IommuDrivers:
    """``vfio.iommu_drivers_list``: the IOMMU drivers, last registered first; *param* is the module's options."""

    def __init__(self, kernel: Kernel) -> None:
        self.drivers: list[VfioIommuDriver] = []
        self.lock = Mutex(kernel, "vfio.iommu_drivers_lock")
        self.config_noiommu = "VFIO_NOIOMMU" in kernel.profile.config
        self.param: dict[str, Any] = {}

    def noiommu(self) -> bool:
        """C: ``bool vfio_noiommu``."""
        return bool(self.param.get("enable_unsafe_noiommu_mode"))


def vfio_register_iommu_driver(kernel: Kernel, driver: VfioIommuDriver) -> None:
    """C: ``int vfio_register_iommu_driver(const struct vfio_iommu_driver_ops *)``. Raises EINVAL: it is registered."""
    known = kernel.sub(IommuDrivers)
    with known.lock:
        if any(type(d) is type(driver) for d in known.drivers):
            raise err(EINVAL, f"IOMMU driver {driver.name} is registered")
        known.drivers.insert(0, driver)


def vfio_unregister_iommu_driver(kernel: Kernel, driver: VfioIommuDriver) -> None:
    """C: ``void vfio_unregister_iommu_driver(const struct vfio_iommu_driver_ops *)``."""
    known = kernel.sub(IommuDrivers)
    with known.lock:
        if driver in known.drivers:
            known.drivers.remove(driver)


class Container:
    """``struct vfio_container``: groups that share one set of mappings."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.known = kernel.sub(IommuDrivers)
        self.groups: list[VfioGroup] = []
        self.group_lock = RwSemaphore(kernel, "container->group_lock")
        self.iommu_driver: VfioIommuDriver | None = None
        self.iommu_data: Any = None
        self.noiommu = False

    def _allowed(self, driver: VfioIommuDriver) -> bool:
        # drivers/vfio/container.c:vfio_iommu_driver_allowed()
        return not self.known.config_noiommu or self.noiommu == isinstance(driver, NoIommuDriver)

    def check_extension(self, arg: int) -> int:
        """
        The answer of the driver that was chosen, else the first one above 0 of all.

        C: ``long vfio_container_ioctl_check_extension(struct vfio_container *, unsigned long)``.
        """
        with self.group_lock.read():
            if self.iommu_driver is not None:
                return self.iommu_driver.ioctl(self.iommu_data, VFIO_CHECK_EXTENSION.nr, arg)
            with self.known.lock:
                return self._ask_all(arg)

    def _ask_all(self, arg: int) -> int:
        for driver in self.known.drivers:
            if self.groups and not self._allowed(driver):
                continue
            answer = driver.ioctl(None, VFIO_CHECK_EXTENSION.nr, arg)
            if answer > 0:
                return answer
        return 0

    def set_iommu(self, arg: int) -> None:
        """
        C: ``long vfio_ioctl_set_iommu(struct vfio_container *, unsigned long)``.

        Raises:
            EINVAL: no group, or it has an IOMMU. ENODEV: no driver has *arg*. What the last driver said that has it.
        """
        with self.group_lock.write():
            if not self.groups or self.iommu_driver is not None:
                raise err(EINVAL, "the container has no group" if not self.groups else "the container has an IOMMU")
            with self.known.lock:
                self._choose(arg)

    def _choose(self, arg: int) -> None:
        failure = err(ENODEV, f"no IOMMU driver has extension {arg}")
        for driver in self.known.drivers:
            if not self._allowed(driver) or driver.ioctl(None, VFIO_CHECK_EXTENSION.nr, arg) <= 0:
                continue
            try:
                data = driver.open(arg)
            except OSError as e:
                failure = e
                continue
            try:
                self._attach_groups(driver, data)
            except OSError as e:
                driver.release(data)
                failure = e
                continue
            if driver.owner is not None:
                driver.owner.get_ref()
            self.iommu_driver, self.iommu_data = driver, data
            return
        raise failure

    def _attach_groups(self, driver: VfioIommuDriver, data: Any) -> None:
        # drivers/vfio/container.c:__vfio_container_attach_groups(): all or none
        done: list[VfioGroup] = []
        try:
            for group in self.groups:
                driver.attach_group(data, group.the_iommu_group, group.group_type)
                done.append(group)
        except OSError:
            for group in reversed(done):
                driver.detach_group(data, group.the_iommu_group)
            raise

    def attach_group(self, group: VfioGroup) -> None:
        """
        C: ``int vfio_container_attach_group(struct vfio_container *, struct vfio_group *)``, group_lock held.

        Raises:
            EPERM: no IOMMU and no CAP_SYS_RAWIO, real groups with such, or a native driver has a device of the group.
            EBUSY, EINVAL, ...: what the IOMMU driver says, when one was chosen.
        """
        group.group_lock.assert_held()
        unprotected = group.group_type == VfioGroupType.NO_IOMMU
        if unprotected and not self.kernel.current.cred.capable(CAP_SYS_RAWIO):
            raise err(EPERM, "CAP_SYS_RAWIO")
        with self.group_lock.write():
            if self.groups and self.noiommu != unprotected:
                raise err(EPERM, "real groups and groups without an IOMMU do not mix")
            iommu_group = group.the_iommu_group
            if group.group_type == VfioGroupType.IOMMU:
                iommu_group_claim_dma_owner(iommu_group, group)
            try:
                if self.iommu_driver is not None:
                    self.iommu_driver.attach_group(self.iommu_data, iommu_group, group.group_type)
            except OSError:
                if group.group_type == VfioGroupType.IOMMU:
                    iommu_group_release_dma_owner(iommu_group)
                raise
            group.container, group.container_users = self, 1
            self.noiommu = unprotected
            self.groups.insert(0, group)

    def detach_group(self, group: VfioGroup) -> None:
        """C: ``void vfio_group_detach_container(struct vfio_group *)``, group_lock held; the last takes the IOMMU."""
        group.group_lock.assert_held()
        if group.container_users != 1:
            raise Oops(f"WARN_ON(group->container_users != 1): {group.container_users}")
        with self.group_lock.write():
            driver = self.iommu_driver
            if driver is not None:
                driver.detach_group(self.iommu_data, group.the_iommu_group)
            if group.group_type == VfioGroupType.IOMMU:
                iommu_group_release_dma_owner(group.the_iommu_group)
            group.container, group.container_users = None, 0
            self.groups.remove(group)
            if driver is not None and not self.groups:
                driver.release(self.iommu_data)
                if driver.owner is not None:
                    driver.owner.put_ref()
                self.iommu_driver = self.iommu_data = None

    # ---- what an open device asks of it

    def register_device(self, vdev: VfioDevice) -> None:
        """C: ``void vfio_device_container_register(struct vfio_device *)``."""
        if self.iommu_driver is not None:
            self.iommu_driver.register_device(self.iommu_data, vdev)

    def unregister_device(self, vdev: VfioDevice) -> None:
        """C: ``void vfio_device_container_unregister(struct vfio_device *)``."""
        if self.iommu_driver is not None:
            self.iommu_driver.unregister_device(self.iommu_data, vdev)

    def pin_pages(self, group: VfioGroup, iova: int, npage: int, prot: int) -> list[int]:
        """C: ``int vfio_device_container_pin_pages(...)``. Raises E2BIG: over 512 pages. ENOTTY: no such operation."""
        if npage > VFIO_PIN_PAGES_MAX_ENTRIES:
            raise err(E2BIG, f"{npage} pages at once, at most {VFIO_PIN_PAGES_MAX_ENTRIES}")
        if self.iommu_driver is None:
            raise err(ENOTTY)
        return self.iommu_driver.pin_pages(self.iommu_data, group.the_iommu_group, iova, npage, prot)

    def unpin_pages(self, iova: int, npage: int) -> None:
        """C: ``void vfio_device_container_unpin_pages(struct vfio_device *, dma_addr_t, int)``."""
        if not 0 < npage <= VFIO_PIN_PAGES_MAX_ENTRIES or self.iommu_driver is None:
            raise Oops(f"WARN_ON(npage <= 0 || npage > VFIO_PIN_PAGES_MAX_ENTRIES): {npage}")
        self.iommu_driver.unpin_pages(self.iommu_data, iova, npage)

    def dma_rw(self, iova: int, buf: bytearray, write: bool) -> None:
        """C: ``int vfio_device_container_dma_rw(...)``. Raises ENOTTY: no such operation."""
        if self.iommu_driver is None:
            raise err(ENOTTY)
        self.iommu_driver.dma_rw(self.iommu_data, iova, buf, write)


class VfioContainerFile(IoctlFile):
    """
    An open /dev/vfio/vfio: ``vfio_fops``. A number that is not its own goes to the IOMMU driver.

    Raises:
        ENOMEM: by fault injection.
    """

    __slots__ = ("container",)

    seekable = False

    def __init__(self, inode: Inode, flags: int) -> None:
        inode.kernel.faults.alloc("vfio_fops_open")
        super().__init__(inode, flags)
        self.container = Container(inode.kernel)

    def llseek(self, offset: int, whence: int) -> int:
        """Raises ESPIPE."""
        return no_llseek(self, offset, whence)

    @ioctl(VFIO_GET_API_VERSION)
    def get_api_version(self, _: int) -> int:
        """C: ``VFIO_API_VERSION``."""
        return VFIO_API_VERSION

    @ioctl(VFIO_CHECK_EXTENSION)
    def check_extension(self, arg: int) -> int:
        """Whether a driver has extension *arg*."""
        return self.container.check_extension(arg)

    @ioctl(VFIO_SET_IOMMU)
    def set_iommu(self, arg: int) -> None:
        """Choose the IOMMU driver. Raises EINVAL, ENODEV, and what it says."""
        self.container.set_iommu(arg)

    def ioctl(self, cmd: int, arg: int) -> int:
        """C: ``long vfio_fops_unl_ioctl(...)``. Raises EINVAL: not the container's own, and it has no IOMMU."""
        if cmd in self.ioctls():
            return super().ioctl(cmd, arg)
        driver = self.container.iommu_driver
        if driver is None:
            raise err(EINVAL, "the container has no IOMMU")
        return driver.ioctl(self.container.iommu_data, cmd, arg)

    def ioctl_row(self, cmd: int) -> Ioctl[Any] | None:
        """The container's own, else the IOMMU driver's."""
        driver = self.container.iommu_driver
        own = self.method_row(cmd)
        return own if own is not None or driver is None else driver.ioctl_row(cmd)

    def release(self) -> None:
        """Groups keep the container. C: ``int vfio_fops_release(struct inode *, struct file *)``."""
        driver = self.container.iommu_driver
        if driver is not None and self.inode.kernel.profile.vfio_container_close:
            driver.notify(self.container.iommu_data)


class VfioMisc(MiscDevice):
    """``vfio_dev``: minor 196, /dev/vfio/vfio, for everybody."""

    def __init__(self, kernel: Kernel, owner: Owner) -> None:
        super().__init__(kernel, "vfio", VFIO_MINOR, VfioContainerFile, nodename="vfio/vfio", mode=0o666, owner=owner)
