"""
What a driver of VFIO is: a ``VfioDevice`` subclass (include/linux/vfio.h: struct vfio_device, its ops included).

The core (``pykernel.vfio.main``) registers it, puts it into its group and serves its descriptors; a driver names its
ioctls with ``@ioctl`` and overrides the operations that it has. What it does not have answers as Linux does.
"""

from __future__ import annotations

from errno import EINVAL, ENOTTY
from typing import TYPE_CHECKING, Any, ClassVar

from pykernel.errors import err
from pykernel.fs.ioctl import IoctlMethods
from pykernel.mm.vma import Vma

if TYPE_CHECKING:
    from pykernel.base.core import Device
    from pykernel.kernel import Kernel
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
        group, kvm, iommufd_device, ...: the core's own fields, set by it.
    """

    ops_name: ClassVar[str] = ""
    """``vfio_device_ops.name``: "vfio-pci", "vfio-mtty"."""

    dma_unmap: Any = None
    """``void dma_unmap(struct vfio_device *, u64 iova, u64 length)``; None is a device that pins nothing."""

    def __init__(self, dev: Device) -> None:
        self.dev = dev
        self.kernel: Kernel = dev.kernel
        self.migration_flags = 0
        self.mig_ops: MigrationOps | None = None
        self.log_ops: LogOps | None = None
        self.open_count = 0
        self.group: Any = None

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
        """VFIO_DEVICE_FEATURE beyond the core's; *arg* points to the payload. Raises ENOTTY: no such feature."""
        raise err(ENOTTY, f"no feature {flags & 0xFFFF}")
