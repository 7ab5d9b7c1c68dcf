"""
What a driver of VFIO is: a ``VfioDevice`` subclass (include/linux/vfio.h: struct vfio_device, its ops included).

The core (``pykernel.vfio.main``) registers it, puts it into its group and serves its descriptors; a driver names its
ioctls with ``@ioctl`` and overrides the operations that it has. What it does not have answers as Linux does.
"""

from __future__ import annotations

from errno import EINVAL, ENOTTY
from typing import TYPE_CHECKING, Any, ClassVar

from pykernel.errors import Oops, err
from pykernel.fs.ioctl import IoctlMethods
from pykernel.mm.vma import Vma
from pykernel.vfio.core import VfioCore

if TYPE_CHECKING:
    from pykernel.base.core import Device
    from pykernel.kernel import Kernel
    from pykernel.lib.wait import Completion
    from pykernel.vfio.cdev import VfioClassDevice
    from pykernel.vfio.core import DeviceSet, IommufdHooks
    from pykernel.vfio.group import VfioGroup
    from pykernel.vfio.migration import LogOps, MigrationOps

__all__ = ["VfioDevice"]


class VfioDevice(IoctlMethods):
    """
    ``struct vfio_device`` and ``struct vfio_device_ops``.

    Attributes:
        dev: the physical or mediated device below it.
        migration_flags: VFIO_MIGRATION_STOP_COPY and what else of it the device can; 0 is no migration.
        mig_ops: what moves its state, or None.
        log_ops: what logs its DMA, or None.
        open_count: how many descriptors are open.
        index: the N of vfioN, -1 before it is registered.
        group, dev_set, device, refcount, comp: the core's own, set by it.
        iommufd_device, iommufd_access, iommufd_attached: IOMMUFD's.
    """

    ops_name: ClassVar[str] = ""
    """``vfio_device_ops.name``: "vfio-pci", "vfio-mtty"."""

    dma_unmap: Any = None
    """``void dma_unmap(struct vfio_device *, u64 iova, u64 length)``; None is a device that pins nothing."""

    comp: Completion

    def __init__(self, dev: Device) -> None:
        self.dev = dev
        self.kernel: Kernel = dev.kernel
        self.migration_flags = 0
        self.mig_ops: MigrationOps | None = None
        self.log_ops: LogOps | None = None
        self.open_count = 0
        self.index = -1
        self.refcount = 0
        self.group: VfioGroup | None = None
        self.dev_set: DeviceSet | None = None
        self.device: VfioClassDevice | None = None
        self.cdev_opened = False
        self.iommufd_device: Any = None
        self.iommufd_access: Any = None
        self.iommufd_attached = False
        self._opener: Any = None
        self._kvm: Any = None

    @property
    def name(self) -> str:
        """What VFIO_GROUP_GET_DEVICE_FD calls it."""
        return self.dev.name

    # ---- the operations, in the order of struct vfio_device_ops

    def open_device(self) -> None:
        """The first descriptor is opened. Raises an errno: it is not."""

    def close_device(self) -> None:
        """The last descriptor was closed."""

    def read(self, count: int, pos: int) -> bytes:
        """C: ``ssize_t read(struct vfio_device *, char __user *, size_t, loff_t *)``. Raises EINVAL: none."""
        raise err(EINVAL, "the device has no read")

    def write(self, data: bytes, pos: int) -> int:
        """C: ``ssize_t write(struct vfio_device *, const char __user *, size_t, loff_t *)``. Raises EINVAL: none."""
        raise err(EINVAL, "the device has no write")

    def ioctl(self, cmd: int, arg: int) -> int:
        """C: ``long ioctl(struct vfio_device *, unsigned int, unsigned long)``. Raises ENOTTY: no method has it."""
        return self.call_ioctl(self.kernel, cmd, arg)

    def mmap(self, vma: Vma) -> None:
        """C: ``int mmap(struct vfio_device *, struct vm_area_struct *)``. Raises EINVAL: none."""
        raise err(EINVAL, "the device has no mmap")

    def request(self, count: int) -> None:
        """The device is wanted back; called at once and every 10 seconds, *count* from 0 on."""

    def match(self, buf: str) -> bool:
        """Whether *buf* of VFIO_GROUP_GET_DEVICE_FD means this device. Raises an errno: it does, but not so."""
        return buf == self.name

    def device_feature(self, flags: int, arg: int, argsz: int) -> int:
        """
        VFIO_DEVICE_FEATURE beyond the core's; *arg* points to the payload, *argsz* is its size.

        Raises ENOTTY: no such feature.
        """
        raise err(ENOTTY, f"no feature {flags & 0xFFFF}")

    def pm_runtime_get(self) -> None:
        """C: ``int vfio_device_pm_runtime_get(struct vfio_device *)``, before each ioctl. Raises EIO."""

    def pm_runtime_put(self) -> None:
        """C: ``void vfio_device_pm_runtime_put(struct vfio_device *)``, after each ioctl."""

    def kvm_changed(self) -> None:
        """:attr:`kvm` is another one."""

    # ---- the core's

    @property
    def kvm(self) -> Any:
        """The virtual machine that uses it, as KVM's VFIO device said (C: ``struct kvm *kvm``); None: there is none."""
        return self._kvm if self._kvm is not None or self.group is None else self.group.kvm

    def set_kvm(self, kvm: Any) -> None:
        """C: ``vfio_device_file_set_kvm()``."""
        self._kvm = kvm
        self.kvm_changed()

    @property
    def the_group(self) -> VfioGroup:
        """The group of a registered device. Raises Oops: it is not."""
        if self.group is None:
            raise Oops(f"VFIO device {self.name} is not registered")
        return self.group

    @property
    def the_set(self) -> DeviceSet:
        """The device set of a registered device. Raises Oops: it is not."""
        if self.dev_set is None:
            raise Oops(f"VFIO device {self.name} is not registered")
        return self.dev_set

    @property
    def the_device(self) -> VfioClassDevice:
        """The vfioN of a registered device. Raises Oops: it is not."""
        if self.device is None:
            raise Oops(f"VFIO device {self.name} is not registered")
        return self.device

    @property
    def hooks(self) -> IommufdHooks | None:
        """IOMMUFD, for a device that is bound to one."""
        bound = self.iommufd_device is not None or self.iommufd_access is not None
        return self.kernel.sub(VfioCore).iommufd if bound else None

    @property
    def the_hooks(self) -> IommufdHooks:
        """IOMMUFD. Raises Oops: there is none in this kernel."""
        hooks = self.kernel.sub(VfioCore).iommufd
        if hooks is None:
            raise Oops("this kernel has no IOMMUFD")
        return hooks

    def try_get_registration(self) -> bool:
        """C: ``bool vfio_device_try_get_registration(struct vfio_device *)``."""
        if not self.refcount:
            return False
        self.refcount += 1
        return True

    def put_registration(self) -> None:
        """C: ``void vfio_device_put_registration(struct vfio_device *)``."""
        self.refcount -= 1
        if not self.refcount:
            self.comp.complete()

    def driver_get(self) -> None:
        """The module of the driver that has the device stays. C: ``try_module_get(device->dev->driver->owner)``."""
        self._opener = None if self.dev.driver is None else self.dev.driver.module
        if self._opener is not None:
            self._opener.get_ref()

    def driver_put(self) -> None:
        """C: ``module_put(device->dev->driver->owner)``."""
        if self._opener is not None:
            self._opener.put_ref()
