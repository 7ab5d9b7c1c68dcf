"""
Groups, /dev/vfio/N (drivers/vfio/group.c; Linux 6.1: drivers/vfio/vfio_main.c).
"""

from __future__ import annotations

from errno import EBADFD, EBUSY, EINVAL, ENODEV, EPERM
from typing import TYPE_CHECKING, Any

from pykernel.base.core import Device, cdev_device_add, cdev_device_del
from pykernel.base.taint import TAINT_USER, Taint
from pykernel.errors import Oops, err
from pykernel.fs.chardev import MAJOR, MINOR, MKDEV
from pykernel.fs.fdtable import current_files, fget
from pykernel.fs.ioctl import IoctlFile, ioctl
from pykernel.fs.vfs import PAGE_SIZE, Inode, no_llseek
from pykernel.iommu.iommu import (
    IommuGroup,
    iommu_group_add_device,
    iommu_group_alloc,
    iommu_group_dma_owner_claimed,
    iommu_group_put,
    iommu_group_ref_get,
    iommu_group_remove_device,
    iommu_group_set_name,
)
from pykernel.lib.locking import Mutex
from pykernel.log import WARNING
from pykernel.mm.strings import strndup_user
from pykernel.task import CAP_SYS_RAWIO
from pykernel.uapi.linux.vfio import (
    VFIO_GROUP_FLAGS_CONTAINER_SET,
    VFIO_GROUP_FLAGS_VIABLE,
    VFIO_GROUP_GET_DEVICE_FD,
    VFIO_GROUP_GET_STATUS,
    VFIO_GROUP_SET_CONTAINER,
    VFIO_GROUP_UNSET_CONTAINER,
    vfio_group_status,
)
from pykernel.vfio.container import Container, VfioContainerFile, VfioGroupType
from pykernel.vfio.core import VfioCore

if TYPE_CHECKING:
    from pykernel.fs.vfs import File
    from pykernel.vfio.device import VfioDevice

__all__ = [
    "VfioGroup",
    "VfioGroupFile",
    "vfio_device_remove_group",
    "vfio_device_set_group",
    "vfio_file_has_dev",
    "vfio_file_is_group",
]


class VfioGroup(Device):
    """
    ``struct vfio_group``: /sys/class/vfio/N and its node.

    Attributes:
        drivers: how many devices of it are registered; at 0 it is going.
        container_users: 1 for the group itself, and one more for each device that uses the container.
        opened_file: the one file that has it open.
        cdev_device_open_cnt: devices of it in use through their own nodes.
        iommufd: the IOMMUFD context that it was given instead of a container.
        kvm: the virtual machine that its devices are for.
    """

    def __init__(self, core: VfioCore, iommu_group: IommuGroup, type: VfioGroupType) -> None:
        minor = core.group_ida.alloc_max((1 << 20) - 1)
        prefix = "noiommu-" if type == VfioGroupType.NO_IOMMU else ""
        devt = MKDEV(MAJOR(core.group_devt), minor)
        super().__init__(core.kernel, f"{prefix}{iommu_group.id}", class_=core.class_, devt=devt)
        self.core = core
        self.iommu_group: IommuGroup | None = iommu_group
        self.group_type = type
        self.drivers = 1
        self.device_list: list[VfioDevice] = []
        self.group_lock = Mutex(core.kernel, f"group_lock of VFIO group {self.name}")
        self.device_lock = Mutex(core.kernel, f"device_lock of VFIO group {self.name}")
        self.container: Container | None = None
        self.container_users = 0
        self.opened_file: VfioGroupFile | None = None
        self.cdev_device_open_cnt = 0
        self.iommufd: Any = None
        self.kvm: Any = None

    @property
    def the_iommu_group(self) -> IommuGroup:
        """The IOMMU's group while devices of it are registered. Raises Oops: they are gone."""
        if self.iommu_group is None:
            raise Oops(f"VFIO group {self.name} has no IOMMU group any more")
        return self.iommu_group

    @property
    def has_iommu(self) -> bool:
        """C: ``bool vfio_group_has_iommu(struct vfio_group *)``."""
        return self.container is not None or self.iommufd is not None

    def devnode(self) -> tuple[str, int | None]:
        """C: ``char *vfio_devnode(const struct device *, umode_t *)``."""
        return f"vfio/{self.name}", None

    def release(self) -> None:
        """C: ``void vfio_group_release(struct device *)``."""
        self.core.group_ida.free(MINOR(self.devt))

    # ---- devices

    def device_from_name(self, buf: str) -> VfioDevice:
        """
        The device that *buf* means, a reference taken. Last registered first.

        C: ``struct vfio_device *vfio_device_get_from_name(struct vfio_group *, char *)``.

        Raises:
            ENODEV: none. What a device's match() raises.
        """
        with self.device_lock:
            for vdev in self.device_list:
                if vdev.match(buf) and vdev.try_get_registration():
                    return vdev
        raise err(ENODEV, f"no device {buf!r} in VFIO group {self.name}")

    def has_device(self, dev: Device) -> bool:
        """C: ``bool vfio_group_has_device(struct vfio_group *, struct device *)``."""
        with self.device_lock:
            return any(vdev.dev is dev for vdev in self.device_list)

    # ---- what its file is asked

    def open(self, inode: Inode, flags: int) -> VfioGroupFile:
        """
        C: ``int vfio_group_fops_open(struct inode *, struct file *)``.

        Raises:
            ENODEV: the group is going. EPERM: no IOMMU and no CAP_SYS_RAWIO. EBUSY: it is open, or a device of it is.
        """
        with self.group_lock:
            if not self.drivers:
                raise err(ENODEV)
            if self.group_type == VfioGroupType.NO_IOMMU and not inode.kernel.current.cred.capable(CAP_SYS_RAWIO):
                raise err(EPERM, "CAP_SYS_RAWIO")
            if self.cdev_device_open_cnt:
                raise err(EBUSY, f"a device of VFIO group {self.name} is open through its own node")
            if self.opened_file is not None:
                raise err(EBUSY, f"VFIO group {self.name} is open")
            self.opened_file = VfioGroupFile(inode, flags, self)
            return self.opened_file

    def status(self) -> int:
        """The flags of VFIO_GROUP_GET_STATUS. Raises ENODEV: the devices are gone."""
        with self.group_lock:
            if self.iommu_group is None:
                raise err(ENODEV)
            if self.has_iommu:
                return VFIO_GROUP_FLAGS_CONTAINER_SET | VFIO_GROUP_FLAGS_VIABLE
            return 0 if iommu_group_dma_owner_claimed(self.iommu_group) else VFIO_GROUP_FLAGS_VIABLE

    def set_container(self, fd: int) -> None:
        """
        C: ``int vfio_group_ioctl_set_container(struct vfio_group *, int __user *)``, *fd* read.

        Raises:
            EBADF: no open file. EINVAL: it has a container; Linux 6.1, *fd* is none. ENODEV: the devices are gone.
            EBADFD: *fd* is no container, from Linux 6.2 on. And what :meth:`Container.attach_group` raises.
        """
        file = fget(self.kernel, fd)
        with self.group_lock:
            if self.has_iommu:
                raise err(EINVAL, f"VFIO group {self.name} has a container")
            if self.iommu_group is None:
                raise err(ENODEV)
            if isinstance(file, VfioContainerFile):
                file.container.attach_group(self)
                return
            hooks = self.core.iommufd
            ctx = hooks.ctx_from_file(file) if hooks is not None else None
            if hooks is None or ctx is None:
                code = EBADFD if self.kernel.profile.vfio_set_container_badfd else EINVAL
                raise err(code, f"descriptor {fd} is no container")
            try:
                hooks.compat_set(ctx, noiommu=self.group_type == VfioGroupType.NO_IOMMU)
            except OSError:
                hooks.ctx_put(ctx)
                raise
            self.iommufd = ctx

    def unset_container(self) -> None:
        """C: ``int vfio_group_ioctl_unset_container(...)``. Raises EINVAL: there is none. EBUSY: a device is open."""
        with self.group_lock:
            if not self.has_iommu:
                raise err(EINVAL, f"VFIO group {self.name} has no container")
            if self.container is not None and self.container_users != 1:
                raise err(EBUSY, f"a device of VFIO group {self.name} is open")
            self.drop_iommu()

    def drop_iommu(self) -> None:
        """Leave the container, or the IOMMUFD context; group_lock held."""
        if self.container is not None:
            self.container.detach_group(self)
        ctx, self.iommufd = self.iommufd, None
        if ctx is not None and self.core.iommufd is not None:
            self.core.iommufd.ctx_put(ctx)

    def use_container(self) -> None:
        """C: ``int vfio_group_use_container(...)``, group_lock held. Raises EINVAL: no IOMMU yet. EPERM."""
        if self.container is None or self.container.iommu_driver is None or self.opened_file is None:
            raise err(EINVAL, f"VFIO group {self.name} is in no container that has an IOMMU")
        if self.group_type == VfioGroupType.NO_IOMMU and not self.kernel.current.cred.capable(CAP_SYS_RAWIO):
            raise err(EPERM, "CAP_SYS_RAWIO")
        self.opened_file.get()
        self.container_users += 1

    def set_kvm(self, kvm: Any) -> None:
        """
        C: ``static void vfio_group_set_kvm(struct vfio_group *, struct kvm *)``.

        Linux's devices look when they are opened; these hear of it.
        """
        self.kvm = kvm
        for vdev in list(self.device_list):
            vdev.kvm_changed()

    def unuse_container(self) -> VfioGroupFile:
        """C: ``void vfio_group_unuse_container(...)``: the file, to put() without group_lock, as fput() does late."""
        if self.container_users <= 1 or self.opened_file is None:
            raise Oops(f"WARN_ON(group->container_users <= 1): {self.container_users}")
        self.container_users -= 1
        return self.opened_file


class VfioGroupFile(IoctlFile):
    """An open group: ``vfio_group_fops``."""

    __slots__ = ("group",)

    seekable = False

    def __init__(self, inode: Inode, flags: int, group: VfioGroup) -> None:
        super().__init__(inode, flags)
        self.group = group
        group.get()

    def llseek(self, offset: int, whence: int) -> int:
        """Raises ESPIPE."""
        return no_llseek(self, offset, whence)

    def set_kvm(self, kvm: Any) -> None:
        """C: ``void vfio_file_set_kvm(struct file *, struct kvm *)``."""
        self.group.set_kvm(kvm)

    @ioctl(VFIO_GROUP_GET_STATUS)
    def get_status(self, status: vfio_group_status) -> vfio_group_status:
        """In a container, and may it be used. Raises ENODEV."""
        status.flags = self.group.status()
        return status

    @ioctl(VFIO_GROUP_SET_CONTAINER)
    def set_container(self, fd: int) -> None:
        """Put the group into the container whose descriptor is *fd*."""
        self.group.set_container(fd)

    @ioctl(VFIO_GROUP_UNSET_CONTAINER)
    def unset_container(self, _: int) -> None:
        """Take the group out of its container."""
        self.group.unset_container()

    @ioctl(VFIO_GROUP_GET_DEVICE_FD)
    def get_device_fd(self, arg: int) -> int:
        """
        A descriptor of the device whose name *arg* points to.

        C: ``int vfio_group_ioctl_get_device_fd(struct vfio_group *, char __user *)``.

        Raises:
            EFAULT: no string. EINVAL: longer than a page; no container, or one without an IOMMU. ENODEV: no such
            device. EMFILE: no free descriptor. And what the device's match() and open_device() raise.
        """
        from pykernel.vfio.df import vfio_device_open_file

        kernel = self.inode.kernel
        name = strndup_user(kernel, arg, PAGE_SIZE).decode("latin-1")
        vdev = self.group.device_from_name(name)
        try:
            files = current_files(kernel)
            with files.unused_fd() as fd:
                files.fd_install(fd, vfio_device_open_file(vdev), cloexec=True)
        except BaseException:
            vdev.put_registration()
            raise
        return fd

    def release(self) -> None:
        """The container goes with it: no device is open, they hold this file. C: ``vfio_group_fops_release()``."""
        with self.group.group_lock:
            self.group.drop_iommu()
            self.group.opened_file = None
        self.group.put()


def vfio_file_is_group(file: File) -> bool:
    """C: ``bool vfio_file_is_group(struct file *)``."""
    return isinstance(file, VfioGroupFile)


def vfio_file_has_dev(file: File, vdev: VfioDevice) -> bool:
    """Whether *file* is the group of *vdev*. C: ``bool vfio_file_has_dev(struct file *, struct vfio_device *)``."""
    return isinstance(file, VfioGroupFile) and file.group is vdev.group


# ---- the groups of devices


def _create_group(core: VfioCore, iommu_group: IommuGroup, type: VfioGroupType) -> VfioGroup:
    # drivers/vfio/group.c:vfio_create_group()
    core.kernel.faults.alloc("vfio_group_alloc")
    group = VfioGroup(core, iommu_group, type)
    try:
        cdev_device_add(group, group.open, core.owner)
    except OSError:
        group.release()
        raise
    core.group_list.insert(0, group)
    return group


def _noiommu_group_alloc(core: VfioCore, dev: Device, type: VfioGroupType) -> VfioGroup:
    # drivers/vfio/group.c:vfio_noiommu_group_alloc()
    iommu_group = iommu_group_alloc(core.kernel)
    try:
        iommu_group_set_name(iommu_group, "vfio-noiommu")
        iommu_group_add_device(iommu_group, dev)
        try:
            with core.group_lock:
                return _create_group(core, iommu_group, type)
        except OSError:
            iommu_group_remove_device(dev)
            raise
    except OSError:
        iommu_group_put(iommu_group)
        raise


def _find_or_alloc(core: VfioCore, dev: Device) -> VfioGroup:
    # drivers/vfio/group.c:vfio_group_find_or_alloc()
    iommu_group = dev.iommu_group
    if iommu_group is None:
        if not core.noiommu():
            raise err(EINVAL, f"{dev.name} is in no IOMMU group")
        group = _noiommu_group_alloc(core, dev, VfioGroupType.NO_IOMMU)
        core.kernel.sub(Taint).add(TAINT_USER)
        dev.warn("Adding kernel taint for vfio-noiommu group on device")
        return group
    with core.group_lock:
        for group in core.group_list:
            if group.iommu_group is iommu_group:
                if group.has_device(dev):
                    core.kernel.log.printk(WARNING, f"WARNING: {dev.name} is in VFIO group {group.name} already")
                    raise err(EINVAL, f"{dev.name} is registered")
                group.drivers += 1
                return group
        try:
            return _create_group(core, iommu_group_ref_get(iommu_group), VfioGroupType.IOMMU)
        except OSError:
            iommu_group_put(iommu_group)
            raise


def vfio_device_set_group(vdev: VfioDevice, type: VfioGroupType) -> None:
    """
    C: ``int vfio_device_set_group(struct vfio_device *, enum vfio_group_type)``.

    Raises:
        EINVAL: the device is in no IOMMU group. ENOMEM, ENOSPC.
    """
    core = vdev.kernel.sub(VfioCore)
    if type == VfioGroupType.IOMMU:
        vdev.group = _find_or_alloc(core, vdev.dev)
    else:
        vdev.group = _noiommu_group_alloc(core, vdev.dev, type)


def vfio_device_remove_group(vdev: VfioDevice) -> None:
    """C: ``void vfio_device_remove_group(struct vfio_device *)``: the group goes with its last device."""
    group = vdev.the_group
    core = group.core
    if group.group_type != VfioGroupType.IOMMU:
        iommu_group_remove_device(vdev.dev)
    group.drivers -= 1
    if group.drivers:
        return
    with core.group_lock:
        core.group_list.remove(group)
        cdev_device_del(group)
        with group.group_lock:
            if group.container is not None:
                group.container.detach_group(group)
            iommu_group, group.iommu_group = group.the_iommu_group, None
        iommu_group_put(iommu_group)
