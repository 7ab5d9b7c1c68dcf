"""
Descriptors of devices (drivers/vfio/vfio_main.c: struct vfio_device_file and vfio_device_fops).
"""

from __future__ import annotations

import os
from errno import EINVAL, EPERM
from typing import TYPE_CHECKING, Any, ClassVar

from pykernel.errors import err
from pykernel.fs.anon import AnonInode
from pykernel.fs.ioctl import IoctlFile, ioctl
from pykernel.fs.vfs import Inode, no_llseek
from pykernel.mm.vma import Vma
from pykernel.task import CAP_SYS_RAWIO
from pykernel.uapi.linux.vfio import (
    VFIO_DEVICE_BIND_IOMMUFD,
    VFIO_DEVICE_FEATURE,
    vfio_device_bind_iommufd,
    vfio_device_feature,
)
from pykernel.vfio.container import VfioGroupType
from pykernel.vfio.feature import vfio_ioctl_device_feature

if TYPE_CHECKING:
    from pykernel.uapi.ioctl import Ioctl
    from pykernel.vfio.device import VfioDevice
    from pykernel.vfio.group import VfioGroup, VfioGroupFile

__all__ = ["VfioDeviceFile", "vfio_device_open_file"]


class VfioDeviceFile(IoctlFile):
    """
    ``struct vfio_device_file`` and its file.

    Attributes:
        group: the group that it was opened through; None: the device's own node.
        access_granted: the device is open for it; a node of its own is not before it is bound to IOMMUFD.
        iommufd: the IOMMUFD context that the device is bound to through it.
    """

    __slots__ = ("access_granted", "devid", "group", "iommufd", "put_later", "vdev")

    seekable = False
    read_iter = write_iter = False
    own: ClassVar[frozenset[int]] = frozenset({VFIO_DEVICE_FEATURE.nr})
    """The ioctls of a bound one that are the core's."""

    def __init__(self, inode: Inode, flags: int, vdev: VfioDevice, group: VfioGroup | None) -> None:
        super().__init__(inode, flags)
        self.vdev = vdev
        self.group = group
        self.access_granted = False
        self.iommufd: Any = None
        self.devid = 0
        self.put_later: VfioGroupFile | None = None

    def set_kvm(self, kvm: Any) -> None:
        """C: ``void vfio_file_set_kvm(struct file *, struct kvm *)``."""
        self.vdev.set_kvm(kvm)

    def fput(self) -> None:
        """Give the group's file back that the device held; no lock is held."""
        file, self.put_later = self.put_later, None
        if file is not None:
            file.put()

    def llseek(self, offset: int, whence: int) -> int:
        """Raises ESPIPE."""
        return no_llseek(self, offset, whence)

    def describe(self) -> str:
        """For leak reports, which device it is."""
        return f"{self.inode.describe() or f'/dev/{self.vdev.the_device.devnode()[0]}'} of {self.vdev.name}"

    def _granted(self) -> VfioDevice:
        if not self.access_granted:
            raise err(EINVAL, "the device is not bound to an IOMMUFD")
        return self.vdev

    @ioctl(VFIO_DEVICE_FEATURE)
    def feature(self, feature: vfio_device_feature, arg: int) -> int:
        """VFIO_DEVICE_FEATURE."""
        return vfio_ioctl_device_feature(self.vdev, feature, arg + vfio_device_feature.sizeof())

    @ioctl(VFIO_DEVICE_BIND_IOMMUFD)
    def bind_iommufd(self, bind: vfio_device_bind_iommufd, arg: int) -> None:
        """Raises EINVAL: it is open through its group."""
        raise err(EINVAL, f"{self.vdev.name} is open through its group")

    def ioctl(self, cmd: int, arg: int) -> int:
        """
        What is not the core's own goes to the device. C: ``long vfio_device_fops_unl_ioctl(...)``.

        Raises EINVAL: not bound; EIO: it does not wake up; and what answers.
        """
        if cmd == VFIO_DEVICE_BIND_IOMMUFD.nr and self.vdev.the_group.core.cdevs:
            return super().ioctl(cmd, arg)
        vdev = self._granted()
        vdev.pm_runtime_get()
        try:
            return super().ioctl(cmd, arg) if cmd in self.own else vdev.ioctl(cmd, arg)
        finally:
            vdev.pm_runtime_put()

    def ioctl_row(self, cmd: int) -> Ioctl[Any] | None:
        """The core's own, else the device's."""
        core = cmd in self.own or cmd == VFIO_DEVICE_BIND_IOMMUFD.nr
        return self.method_row(cmd) if core else self.vdev.method_row(cmd)

    def pread(self, pos: int, count: int) -> bytes:
        """C: ``ssize_t vfio_device_fops_read(...)``. Raises EINVAL: not bound, no read; and what the device says."""
        return self._granted().read(count, pos)

    def pwrite(self, pos: int, data: bytes) -> int:
        """C: ``ssize_t vfio_device_fops_write(...)``. Raises EINVAL: not bound, no write; and what the device says."""
        return self._granted().write(data, pos)

    def mmap(self, vma: Vma) -> None:
        """C: ``int vfio_device_fops_mmap(...)``. Raises EINVAL: not bound, no mmap; and what the device says."""
        self._granted().mmap(vma)

    def release(self) -> None:
        """C: ``int vfio_device_fops_release(struct inode *, struct file *)``."""
        try:
            _close_through_group(self)
        finally:
            self.vdev.put_registration()


def vfio_device_open_file(vdev: VfioDevice) -> VfioDeviceFile:
    """
    Open the device through its group.

    C: ``struct file *vfio_device_open_file(struct vfio_device *)``, ``vfio_device_open()`` of Linux 6.1.

    Raises:
        EINVAL: no container, or it has no IOMMU. EPERM: no IOMMU and no CAP_SYS_RAWIO. What open_device() raises.
        ENOMEM: by fault injection.
    """
    kernel, group = vdev.kernel, vdev.the_group
    kernel.faults.alloc("vfio_device_open")
    df = VfioDeviceFile(AnonInode(kernel, 0, "vfio-device"), os.O_RDWR, vdev, group)
    if kernel.profile.vfio_one_open:
        _open_once(df)
    else:
        _open_each(df)
    df.access_granted = True
    df.owner = group.core.module
    if df.owner is not None:
        df.owner.get_ref()
    if group.group_type == VfioGroupType.NO_IOMMU:
        task = kernel.current
        vdev.dev.warn(f"vfio-noiommu device opened by user ({task.comm}:{task.pid})")
    return df


def _close_through_group(df: VfioDeviceFile) -> None:
    (_close_once if df.vdev.kernel.profile.vfio_one_open else _close_each)(df)


# ---- Linux 6.1: each descriptor uses the container


def _open_each(df: VfioDeviceFile) -> None:
    # drivers/vfio/vfio_main.c:vfio_device_open()
    vdev, group = df.vdev, df.vdev.the_group
    with group.group_lock:
        group.use_container()
    try:
        with vdev.the_set.lock:
            vdev.open_count += 1
            try:
                if vdev.open_count == 1:
                    with group.group_lock:
                        vdev.open_device()
                        if group.container is not None:
                            group.container.register_device(vdev)
            except BaseException:
                vdev.open_count -= 1
                raise
            vdev.driver_get()
    except BaseException:
        _unuse(group)
        raise


def _close_each(df: VfioDeviceFile) -> None:
    # drivers/vfio/vfio_main.c:vfio_device_fops_release()
    vdev, group = df.vdev, df.vdev.the_group
    with vdev.the_set.lock:
        with group.group_lock:
            if vdev.open_count == 1:
                vdev.close_device()
                if group.container is not None:
                    group.container.unregister_device(vdev)
        vdev.open_count -= 1
    vdev.driver_put()
    _unuse(group)


def _unuse(group: VfioGroup) -> None:
    with group.group_lock:
        file = group.unuse_container()
    file.put()


# ---- from Linux 6.4 on: the first descriptor opens, the last one closes


def vfio_df_open(df: VfioDeviceFile) -> None:
    """C: ``int vfio_df_open(struct vfio_device_file *)``, the set's lock held. Raises EINVAL: a node is open twice."""
    vdev = df.vdev
    if vdev.open_count and df.group is None:
        raise err(EINVAL, f"{vdev.name} is open")
    if not vdev.open_count:
        _first_open(df)
    vdev.open_count += 1


def _first_open(df: VfioDeviceFile) -> None:
    # drivers/vfio/vfio_main.c:vfio_df_device_first_open(); open_count is 1 meanwhile
    vdev = df.vdev
    vdev.driver_get()
    vdev.open_count = 1
    try:
        _use_iommu(df)
        try:
            vdev.open_device()
        except BaseException:
            df.put_later = _unuse_iommu(df)
            raise
    except BaseException:
        vdev.driver_put()
        raise
    finally:
        vdev.open_count = 0


def vfio_df_close(df: VfioDeviceFile) -> None:
    """C: ``void vfio_df_close(struct vfio_device_file *)``, the set's lock held."""
    vdev = df.vdev
    if vdev.open_count == 1:
        vdev.close_device()
        df.put_later = _unuse_iommu(df)
        vdev.driver_put()
    vdev.open_count -= 1


def _use_iommu(df: VfioDeviceFile) -> None:
    # drivers/vfio/iommufd.c:vfio_df_iommufd_bind(), drivers/vfio/group.c:vfio_device_group_use_iommu()
    vdev, group = df.vdev, df.vdev.the_group
    if df.iommufd is None:
        group.use_container()
        if group.container is not None:
            group.container.register_device(vdev)
    elif group.group_type != VfioGroupType.NO_IOMMU:
        df.devid = vdev.the_hooks.bind(vdev, df.iommufd)


def _unuse_iommu(df: VfioDeviceFile) -> VfioGroupFile | None:
    """Undo it; a file to put() when no lock is held any more, as fput() does late."""
    vdev, group = df.vdev, df.vdev.the_group
    if df.iommufd is not None:
        if group.group_type != VfioGroupType.NO_IOMMU:
            vdev.the_hooks.unbind(vdev)
        return None
    if group.container is not None:
        group.container.unregister_device(vdev)
    return group.unuse_container()


def _open_once(df: VfioDeviceFile) -> None:
    # drivers/vfio/group.c:vfio_df_group_open()
    vdev, group = df.vdev, df.vdev.the_group
    try:
        with group.group_lock:
            if not group.has_iommu:
                raise err(EINVAL, f"VFIO group {group.name} has no container")
            with vdev.the_set.lock:
                df.iommufd = group.iommufd
                _open_locked(df)
    except BaseException:
        df.iommufd = None
        df.fput()
        raise


def _open_locked(df: VfioDeviceFile) -> None:
    vdev, group = df.vdev, df.vdev.the_group
    unprotected = group.group_type == VfioGroupType.NO_IOMMU
    if df.iommufd is not None and unprotected and not vdev.open_count:
        rawio = vdev.kernel.current.cred.capable(CAP_SYS_RAWIO)
        if not rawio or vdev.the_hooks.has_compat_ioas(df.iommufd):
            raise err(EPERM, "CAP_SYS_RAWIO, and no compatible address space, for a device without an IOMMU")
    vfio_df_open(df)
    if df.iommufd is None or vdev.open_count != 1 or unprotected:
        return
    try:
        vdev.the_hooks.compat_attach(vdev, df.iommufd)
    except OSError:
        vfio_df_close(df)
        raise


def _close_once(df: VfioDeviceFile) -> None:
    # drivers/vfio/group.c:vfio_df_group_close()
    with df.vdev.the_group.group_lock, df.vdev.the_set.lock:
        vfio_df_close(df)
        df.iommufd = None
    df.fput()
