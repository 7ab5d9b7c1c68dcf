"""
``vfioN`` below each device, and its own node /dev/vfio/devices/vfioN (drivers/vfio/device_cdev.c).
"""

from __future__ import annotations

from errno import EBUSY, EINVAL, ENODEV
from typing import TYPE_CHECKING

from pykernel.base.core import Device, cdev_device_add, cdev_device_del
from pykernel.errors import err
from pykernel.fs.chardev import MAJOR, MKDEV
from pykernel.fs.ioctl import ioctl
from pykernel.fs.vfs import Inode
from pykernel.mm.uaccess import copy_to_user
from pykernel.uapi.linux.vfio import (
    VFIO_DEVICE_ATTACH_IOMMUFD_PT,
    VFIO_DEVICE_BIND_IOMMUFD,
    VFIO_DEVICE_DETACH_IOMMUFD_PT,
    vfio_device_attach_iommufd_pt,
    vfio_device_bind_iommufd,
    vfio_device_detach_iommufd_pt,
)
from pykernel.vfio.container import VfioGroupType
from pykernel.vfio.df import VfioDeviceFile, vfio_df_close, vfio_df_open

if TYPE_CHECKING:
    from pykernel.vfio.core import VfioCore
    from pykernel.vfio.device import VfioDevice

__all__ = ["VfioCdevFile", "VfioClassDevice"]


class VfioClassDevice(Device):
    """``vfio_device.device``: the vfioN of class ``vfio-dev`` below a device of VFIO."""

    def __init__(self, core: VfioCore, vdev: VfioDevice) -> None:
        self.has_cdev = core.cdevs and vdev.the_group.group_type != VfioGroupType.NO_IOMMU
        devt = MKDEV(MAJOR(core.device_devt), vdev.index) if self.has_cdev else 0
        super().__init__(core.kernel, f"vfio{vdev.index}", parent=vdev.dev, class_=core.device_class, devt=devt)
        self.core = core
        self.vdev = vdev

    def devnode(self) -> tuple[str, int | None]:
        """C: ``char *vfio_device_devnode(const struct device *, umode_t *)``."""
        return f"vfio/devices/{self.name}", None

    def add_device(self) -> None:
        """C: ``int vfio_device_add(struct vfio_device *)``. Raises EBUSY, EEXIST, ENOMEM."""
        if self.has_cdev:
            cdev_device_add(self, self.open, self.core.owner)
        else:
            self.register()

    def remove_device(self) -> None:
        """C: ``void vfio_device_del(struct vfio_device *)``."""
        if self.has_cdev:
            cdev_device_del(self)
        else:
            self.unregister()

    def open(self, inode: Inode, flags: int) -> VfioCdevFile:
        """C: ``int vfio_device_fops_cdev_open(struct inode *, struct file *)``. Raises ENODEV: the device is going."""
        if not self.vdev.try_get_registration():
            raise err(ENODEV)
        return VfioCdevFile(inode, flags, self.vdev, None)


class VfioCdevFile(VfioDeviceFile):
    """An open /dev/vfio/devices/vfioN: nothing works before VFIO_DEVICE_BIND_IOMMUFD."""

    __slots__ = ()
    own = VfioDeviceFile.own | {VFIO_DEVICE_ATTACH_IOMMUFD_PT.nr, VFIO_DEVICE_DETACH_IOMMUFD_PT.nr}

    @ioctl(VFIO_DEVICE_BIND_IOMMUFD)
    def bind_iommufd(self, bind: vfio_device_bind_iommufd, arg: int) -> None:
        """
        Open the device for an IOMMUFD, whose descriptor *bind* names; ``out_devid`` tells its ID there.

        C: ``long vfio_df_ioctl_bind_iommufd(struct vfio_device_file *, struct vfio_device_bind_iommufd __user *)``.

        Raises:
            EINVAL: flags, a negative descriptor, bound already, open elsewhere. EBUSY: the group is open.
            EBADF, EBADFD: no IOMMUFD. And what binding and open_device() raise.
        """
        if bind.flags or bind.iommufd < 0:
            raise err(EINVAL)
        group = self.vdev.the_group
        with group.group_lock:
            if group.opened_file is not None:
                raise err(EBUSY, f"VFIO group {group.name} is open")
            group.cdev_device_open_cnt += 1
        try:
            with self.vdev.the_set.lock:
                self._bind(bind.iommufd, arg)
        except BaseException:
            self._unblock_group()
            raise

    def _bind(self, fd: int, arg: int) -> None:
        if self.access_granted:
            raise err(EINVAL, f"{self.vdev.name} is bound")
        kernel, hooks = self.inode.kernel, self.vdev.the_hooks
        self.iommufd = hooks.ctx_from_fd(kernel, fd)
        try:
            vfio_df_open(self)
            try:
                out = arg + vfio_device_bind_iommufd.offsetof("out_devid")
                copy_to_user(kernel, out, self.devid.to_bytes(4, "little"))
            except OSError:
                vfio_df_close(self)
                raise
        except BaseException:
            hooks.ctx_put(self.iommufd)
            self.iommufd = None
            raise
        self.vdev.cdev_opened = self.access_granted = True

    def _unblock_group(self) -> None:
        # drivers/vfio/group.c:vfio_device_unblock_group()
        group = self.vdev.the_group
        with group.group_lock:
            group.cdev_device_open_cnt -= 1

    @ioctl(VFIO_DEVICE_ATTACH_IOMMUFD_PT)
    def attach_pt(self, attach: vfio_device_attach_iommufd_pt, arg: int) -> None:
        """
        Attach it to an IOAS or a page table; ``pt_id`` tells which page table it became.

        C: ``int vfio_df_ioctl_attach_pt(...)``. Raises EINVAL: flags; and what IOMMUFD says.
        """
        if attach.flags:
            raise err(EINVAL)
        hooks = self.vdev.the_hooks
        with self.vdev.the_set.lock:
            pt_id = hooks.attach(self.vdev, attach.pt_id)
            try:
                out = arg + vfio_device_attach_iommufd_pt.offsetof("pt_id")
                copy_to_user(self.inode.kernel, out, pt_id.to_bytes(4, "little"))
            except OSError:
                hooks.detach(self.vdev)
                raise

    @ioctl(VFIO_DEVICE_DETACH_IOMMUFD_PT)
    def detach_pt(self, detach: vfio_device_detach_iommufd_pt) -> None:
        """Detach it. C: ``int vfio_df_ioctl_detach_pt(...)``. Raises EINVAL: flags."""
        if detach.flags:
            raise err(EINVAL)
        with self.vdev.the_set.lock:
            self.vdev.the_hooks.detach(self.vdev)

    def release(self) -> None:
        """C: ``void vfio_df_unbind_iommufd(struct vfio_device_file *)``."""
        try:
            if self.access_granted:
                with self.vdev.the_set.lock:
                    vfio_df_close(self)
                    self.vdev.the_hooks.ctx_put(self.iommufd)
                    self.vdev.cdev_opened = False
                self._unblock_group()
        finally:
            self.vdev.put_registration()
