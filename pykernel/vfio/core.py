"""
What VFIO has one of in a kernel: its classes, numbers, groups and device sets (drivers/vfio/vfio_main.c, group.c).
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Protocol

from pykernel.base.class_ import Class
from pykernel.fs.chardev import CdevOwner, alloc_chrdev_region, unregister_chrdev_region
from pykernel.lib.idr import Ida
from pykernel.lib.locking import Mutex
from pykernel.lib.wait import Completion
from pykernel.vfio.container import IommuDrivers

if TYPE_CHECKING:
    from pykernel.fs.vfs import File, Owner
    from pykernel.kernel import Kernel
    from pykernel.vfio.device import VfioDevice
    from pykernel.vfio.group import VfioGroup

__all__ = ["DeviceSet", "IommufdHooks", "VfioCore"]

MINORS = 1 << 20


class IommufdHooks(Protocol):
    """
    What VFIO asks of IOMMUFD (drivers/vfio/iommufd.c), ``VfioCore.iommufd`` in kernels with CONFIG_IOMMUFD.

    *ctx* is a ``struct iommufd_ctx``, a reference of it taken until ctx_put(). bind() to detach() are called with the
    device set's lock held; whether the device is physical or emulated its group tells.
    """

    def ctx_from_file(self, file: File) -> Any:
        """C: ``struct iommufd_ctx *iommufd_ctx_from_file(struct file *)``; None: *file* is no /dev/iommu."""
        ...

    def ctx_from_fd(self, kernel: Kernel, fd: int) -> Any:
        """C: ``struct iommufd_ctx *iommufd_ctx_from_fd(int)``. Raises EBADF, EBADFD."""
        ...

    def ctx_put(self, ctx: Any) -> None:
        """C: ``void iommufd_ctx_put(struct iommufd_ctx *)``."""
        ...

    def compat_set(self, ctx: Any, *, noiommu: bool) -> None:
        """C: ``iommufd_vfio_compat_ioas_create()``, or ``iommufd_vfio_compat_set_no_iommu()``. Raises an errno."""
        ...

    def has_compat_ioas(self, ctx: Any) -> bool:
        """C: ``bool vfio_iommufd_device_has_compat_ioas(...)``."""
        ...

    def bind(self, vdev: VfioDevice, ctx: Any) -> int:
        """C: ``int bind_iommufd(struct vfio_device *, struct iommufd_ctx *, u32 *)``: the ID. Raises an errno."""
        ...

    def unbind(self, vdev: VfioDevice) -> None:
        """C: ``void unbind_iommufd(struct vfio_device *)``; it detaches, too."""
        ...

    def compat_attach(self, vdev: VfioDevice, ctx: Any) -> None:
        """C: ``int vfio_iommufd_compat_attach_ioas(...)``. Raises an errno."""
        ...

    def attach(self, vdev: VfioDevice, pt_id: int) -> int:
        """C: ``int attach_ioas(struct vfio_device *, u32 *pt_id)``: the ID of what it is attached to. Raises."""
        ...

    def detach(self, vdev: VfioDevice) -> None:
        """C: ``void detach_ioas(struct vfio_device *)``."""
        ...

    def pin_pages(self, vdev: VfioDevice, iova: int, npage: int, prot: int) -> list[int]:
        """C: ``iommufd_access_pin_pages()``: the physical address of each page. Raises an errno."""
        ...

    def unpin_pages(self, vdev: VfioDevice, iova: int, npage: int) -> None:
        """C: ``iommufd_access_unpin_pages()``."""
        ...

    def dma_rw(self, vdev: VfioDevice, iova: int, buf: bytearray, write: bool) -> None:
        """C: ``iommufd_access_rw()``: fill *buf*, or write it. Raises an errno."""
        ...


class DeviceSet:
    """``struct vfio_device_set``: devices that are opened, closed and reset under one lock."""

    def __init__(self, kernel: Kernel, set_id: object) -> None:
        self.set_id = set_id
        self.lock = Mutex(kernel, "dev_set->lock")
        self.device_list: list[VfioDevice] = []

    def open_count(self) -> int:
        """C: ``unsigned int vfio_device_set_open_count(struct vfio_device_set *)``, lock held."""
        self.lock.assert_held()
        return sum(vdev.open_count for vdev in self.device_list)

    def find(self, dev: object) -> VfioDevice | None:
        """C: ``struct vfio_device *vfio_find_device_in_devset(...)``, lock held."""
        self.lock.assert_held()
        return next((vdev for vdev in self.device_list if vdev.dev is dev), None)


class VfioCore:
    """``static struct vfio``, those of vfio_main.c and group.c: what the module vfio makes when it is loaded."""

    class_: Class
    device_class: Class
    group_devt: int
    device_devt: int

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.module: Owner | None = None
        self.group_list: list[VfioGroup] = []
        self.group_lock = Mutex(kernel, "vfio.group_lock")
        self.group_ida = Ida()
        self.device_ida = Ida()
        self.device_sets: dict[int, DeviceSet] = {}
        self.iommufd: IommufdHooks | None = None
        self.cdevs = {"IOMMUFD", "VFIO_DEVICE_CDEV"} <= kernel.profile.config

    @property
    def owner(self) -> CdevOwner | None:
        """Whom nodes of groups and devices hold."""
        return None if self.module is None else CdevOwner(self.module)

    def noiommu(self) -> bool:
        """C: ``vfio_noiommu``, of CONFIG_VFIO_NOIOMMU."""
        return self.kernel.sub(IommuDrivers).noiommu()

    def init(self, module: Owner, iommufd: IommufdHooks | None) -> None:
        """C: ``int vfio_init(void)``; *iommufd*: it is built with IOMMUFD. Raises ENOMEM, EBUSY."""
        kernel = self.kernel
        with ExitStack() as undo:
            self.class_ = Class(kernel, "vfio")
            self.class_.register()
            undo.callback(self.class_.unregister)
            self.group_devt = alloc_chrdev_region(kernel, 0, MINORS, "vfio")
            undo.callback(unregister_chrdev_region, kernel, self.group_devt, MINORS)
            self.device_class = Class(kernel, "vfio-dev")
            self.device_class.register()
            undo.callback(self.device_class.unregister)
            if self.cdevs:
                self.device_devt = alloc_chrdev_region(kernel, 0, MINORS, "vfio-dev")
            undo.pop_all()
        self.module, self.iommufd = module, iommufd

    def exit(self) -> None:
        """C: ``void vfio_cleanup(void)``."""
        kernel = self.kernel
        if self.cdevs:
            unregister_chrdev_region(kernel, self.device_devt, MINORS)
        self.device_class.unregister()
        unregister_chrdev_region(kernel, self.group_devt, MINORS)
        self.class_.unregister()
        self.module = self.iommufd = None

    def alloc_index(self) -> int:
        """
        The N of a new vfioN. Raises ENOSPC, ENOMEM.

        drivers/vfio/vfio_main.c:vfio_fs_inode_new(): the first device mounts the file system of their inodes.
        """
        first = self.device_ida.is_empty()
        index = self.device_ida.alloc_max(MINORS - 1)
        if first and self.module is not None and self.kernel.profile.vfio_fs:
            self.module.get_ref()
        return index

    def free_index(self, index: int) -> None:
        """The device is gone."""
        self.device_ida.free(index)
        if self.device_ida.is_empty() and self.module is not None and self.kernel.profile.vfio_fs:
            self.module.put_ref()

    def assign_device_set(self, vdev: VfioDevice, set_id: object) -> None:
        """C: ``int vfio_assign_device_set(struct vfio_device *, void *)``: *set_id* is any object."""
        dev_set = self.device_sets.setdefault(id(set_id), DeviceSet(self.kernel, set_id))
        with dev_set.lock:
            vdev.dev_set = dev_set
            dev_set.device_list.append(vdev)

    def release_device_set(self, vdev: VfioDevice) -> None:
        """C: ``void vfio_release_device_set(struct vfio_device *)``."""
        dev_set, vdev.dev_set = vdev.dev_set, None
        if dev_set is None:
            return
        with dev_set.lock:
            dev_set.device_list.remove(vdev)
        if not dev_set.device_list:
            del self.device_sets[id(dev_set.set_id)]

    def completion(self) -> Completion:
        """What unregistering a device waits for."""
        return Completion(self.kernel.sched, "vfio_unregister_group_dev()")
