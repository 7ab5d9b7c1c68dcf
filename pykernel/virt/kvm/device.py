"""
Devices of KVM (KVM_CREATE_DEVICE): the VFIO device, which tells KVM of VFIO groups and devices (virt/kvm/vfio.c).

It keeps their files open: a device outlives no virtual machine that has it.
"""

from __future__ import annotations

import os
from errno import EBADF, EBUSY, EEXIST, EINVAL, EIO, ENODEV, ENOENT, ENXIO, EPERM
from typing import TYPE_CHECKING

from pykernel.errors import err
from pykernel.fs.anon import AnonInode
from pykernel.fs.fdtable import current_files, fget
from pykernel.fs.ioctl import IoctlFile, ioctl
from pykernel.mm.uaccess import copy_from_user
from pykernel.uapi.linux import kvm as k
from pykernel.vfio.df import VfioDeviceFile
from pykernel.vfio.group import VfioGroupFile

if TYPE_CHECKING:
    from pykernel.fs.vfs import File
    from pykernel.virt.kvm.vm import Kvm

__all__ = ["KvmVfioDevice", "kvm_ioctl_create_device"]


class KvmVfioDevice(IoctlFile):
    """``struct kvm_device`` of type VFIO, as a file."""

    __slots__ = ("files", "vm")
    seekable = False

    def __init__(self, vm: Kvm) -> None:
        super().__init__(AnonInode(vm.kernel, 0, "kvm-vfio"), os.O_RDWR)
        self.vm = vm
        self.files: list[VfioGroupFile | VfioDeviceFile] = []
        vm.get_ref()

    @ioctl(k.KVM_SET_DEVICE_ATTR)
    def set_attr(self, attr: k.kvm_device_attr) -> None:
        """
        Add a file of VFIO, or take it away.

        C: ``int kvm_vfio_set_attr(struct kvm_device *, struct kvm_device_attr *)``.

        Raises:
            ENXIO: no such attribute. EFAULT. EBADF. EINVAL: no group or device of VFIO. EEXIST: it was added. ENOENT:
                it was not.
        """
        if attr.group != k.KVM_DEV_VFIO_GROUP or attr.attr not in (k.KVM_DEV_VFIO_GROUP_ADD, k.KVM_DEV_VFIO_GROUP_DEL):
            raise err(ENXIO)
        fd = int.from_bytes(copy_from_user(self.vm.kernel, attr.addr, 4), "little", signed=True)
        if fd < 0:
            raise err(EBADF)
        file = fget(self.vm.kernel, fd)
        if attr.attr == k.KVM_DEV_VFIO_GROUP_ADD:
            self._add(file)
        else:
            self._del(file)

    def _add(self, file: File) -> None:
        # C: kvm_vfio_file_add(), which tells VFIO of the virtual machine: kvm_vfio_file_set_kvm()
        if not isinstance(file, VfioGroupFile | VfioDeviceFile):
            raise err(EINVAL, "no file of VFIO")
        if file in self.files:
            raise err(EEXIST)
        file.get()
        self.files.append(file)
        self.vm.assigned.append(file)
        file.set_kvm(self.vm)

    def _del(self, file: File) -> None:
        if not isinstance(file, VfioGroupFile | VfioDeviceFile) or file not in self.files:
            raise err(ENOENT)
        self.files.remove(file)
        self.vm.assigned.remove(file)
        file.set_kvm(None)
        file.put()

    @ioctl(k.KVM_GET_DEVICE_ATTR)
    def get_attr(self, attr: k.kvm_device_attr) -> None:
        """It has no such operation. Raises EPERM."""
        raise err(EPERM)

    @ioctl(k.KVM_HAS_DEVICE_ATTR)
    def has_attr(self, attr: k.kvm_device_attr) -> None:
        """C: ``int kvm_vfio_has_attr(struct kvm_device *, struct kvm_device_attr *)``. Raises ENXIO."""
        if attr.group != k.KVM_DEV_VFIO_GROUP or attr.attr not in (k.KVM_DEV_VFIO_GROUP_ADD, k.KVM_DEV_VFIO_GROUP_DEL):
            raise err(ENXIO)

    def release(self) -> None:
        """C: ``void kvm_vfio_release(struct kvm_device *)``."""
        self.vm.devices.remove(self)
        for file in list(self.files):
            self._del(file)
        self.vm.put_ref()

    # ---- the door, last: from here on ``ioctl`` is this method

    def ioctl(self, cmd: int, arg: int) -> int:
        """C: ``long kvm_device_ioctl(struct file *, unsigned int, unsigned long)``. Raises EIO: another process's."""
        if self.vm.mm is not self.vm.kernel.current.mm:
            raise err(EIO, "the virtual machine is another process's")
        return super().ioctl(cmd, arg)


def kvm_ioctl_create_device(vm: Kvm, cd: k.kvm_create_device) -> k.kvm_create_device:
    """
    C: ``int kvm_ioctl_create_device(struct kvm *, struct kvm_create_device *)``: with ``fd``.

    Raises:
        ENODEV: no such type here. EBUSY: there is one.
    """
    if cd.type != k.KVM_DEV_TYPE_VFIO:
        raise err(ENODEV, f"device type {cd.type}")
    if cd.flags & k.KVM_CREATE_DEVICE_TEST:
        return cd
    if vm.devices:
        raise err(EBUSY, "one VFIO device is enough")
    device = KvmVfioDevice(vm)
    vm.devices.append(device)
    try:
        cd.fd = current_files(vm.kernel).install(device, cloexec=True)
    except OSError:
        device.release()
        raise
    return cd
