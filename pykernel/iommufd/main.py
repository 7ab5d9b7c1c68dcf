"""``/dev/iommu``: the module, its file, and the table of its commands (drivers/iommu/iommufd/main.c)."""

from __future__ import annotations

from collections.abc import Callable
from errno import EBADFD, EINVAL, ENOTTY
from typing import TYPE_CHECKING, Any, ClassVar, Final, NamedTuple

from pykernel.base.misc import MISC_DYNAMIC_MINOR, MiscDevice, misc_deregister, misc_register
from pykernel.base.module import Module, Param
from pykernel.errors import err
from pykernel.fs.fdtable import fget
from pykernel.fs.vfs import File, Inode, no_llseek
from pykernel.iommufd.dirty import get_dirty_bitmap, set_dirty_tracking
from pykernel.iommufd.fault import fault_alloc
from pykernel.iommufd.hw_info import get_hw_info
from pykernel.iommufd.hwpt_ioctl import hwpt_alloc, hwpt_invalidate
from pykernel.iommufd.ioas import (
    ioas_alloc,
    ioas_allow_iovas,
    ioas_copy,
    ioas_iova_ranges,
    ioas_map,
    ioas_unmap,
    option,
)
from pykernel.iommufd.objects import ACCOUNT_MM, IommufdCtx
from pykernel.iommufd.ucmd import Ucmd
from pykernel.iommufd.vfio_compat import iommufd_vfio_ioctl, vfio_ioas
from pykernel.log import INFO
from pykernel.mm.structs import copy_struct_from_user
from pykernel.mm.uaccess import copy_from_user
from pykernel.uapi.ioctl import Ioctl
from pykernel.uapi.linux.iommufd import (
    IOMMU_DESTROY,
    IOMMU_FAULT_QUEUE_ALLOC,
    IOMMU_GET_HW_INFO,
    IOMMU_HWPT_ALLOC,
    IOMMU_HWPT_GET_DIRTY_BITMAP,
    IOMMU_HWPT_INVALIDATE,
    IOMMU_HWPT_SET_DIRTY_TRACKING,
    IOMMU_IOAS_ALLOC,
    IOMMU_IOAS_ALLOW_IOVAS,
    IOMMU_IOAS_COPY,
    IOMMU_IOAS_IOVA_RANGES,
    IOMMU_IOAS_MAP,
    IOMMU_IOAS_UNMAP,
    IOMMU_OPTION,
    IOMMU_VFIO_IOAS,
    IOMMUFD_CMD_BASE,
    iommu_destroy,
)

if TYPE_CHECKING:
    from pykernel.base.bus import Bus
    from pykernel.kernel import Kernel

__all__ = ["IommufdFile", "IommufdModule", "iommufd_ctx_from_fd", "iommufd_ctx_from_file"]

VFIO_MINOR: Final = 196


class Op(NamedTuple):
    """``struct iommufd_ioctl_op``."""

    row: Ioctl[Any]
    execute: Callable[[Ucmd, Any], None]


def destroy(ucmd: Ucmd, cmd: iommu_destroy) -> None:
    """IOMMU_DESTROY. Raises ENOENT; EBUSY: something uses the object."""
    ucmd.ictx.destroy(cmd.id)


OPS: Final = (
    Op(IOMMU_DESTROY, destroy),
    Op(IOMMU_FAULT_QUEUE_ALLOC, fault_alloc),
    Op(IOMMU_GET_HW_INFO, get_hw_info),
    Op(IOMMU_HWPT_ALLOC, hwpt_alloc),
    Op(IOMMU_HWPT_GET_DIRTY_BITMAP, get_dirty_bitmap),
    Op(IOMMU_HWPT_INVALIDATE, hwpt_invalidate),
    Op(IOMMU_HWPT_SET_DIRTY_TRACKING, set_dirty_tracking),
    Op(IOMMU_IOAS_ALLOC, ioas_alloc),
    Op(IOMMU_IOAS_ALLOW_IOVAS, ioas_allow_iovas),
    Op(IOMMU_IOAS_COPY, ioas_copy),
    Op(IOMMU_IOAS_IOVA_RANGES, ioas_iova_ranges),
    Op(IOMMU_IOAS_MAP, ioas_map),
    Op(IOMMU_IOAS_UNMAP, ioas_unmap),
    Op(IOMMU_OPTION, option),
    Op(IOMMU_VFIO_IOAS, vfio_ioas),
)


class IommufdFile(File):
    """An open ``/dev/iommu``: a context of its own."""

    __slots__ = ("ictx", "module")
    seekable = False

    def __init__(self, inode: Inode, flags: int, module: IommufdModule) -> None:
        super().__init__(inode, flags)
        self.ictx, self.module = IommufdCtx(inode.kernel, self), module

    def llseek(self, offset: int, whence: int) -> int:
        """No such operation. Raises ESPIPE."""
        return no_llseek(self, offset, whence)

    def ioctl(self, cmd: int, arg: int) -> int:
        """
        C: ``long iommufd_fops_ioctl(struct file *, unsigned int, unsigned long)``.

        Raises:
            EFAULT, E2BIG: the struct. EINVAL: less than each caller must have. ENOTTY: no such command.
        """
        ops, nr = self.module.ops, cmd & 0xFF
        if nr < IOMMUFD_CMD_BASE or nr > max(ops):
            return iommufd_vfio_ioctl(self.ictx, cmd, arg)
        kernel = self.inode.kernel
        user_size = int.from_bytes(copy_from_user(kernel, arg, 4), "little")
        op = ops.get(nr)
        if op is None or op.row.nr != cmd:
            raise err(ENOTTY, f"ioctl {cmd:#x}")
        if user_size < op.row.minsz:
            raise err(EINVAL, f"size is {user_size}, at least {op.row.minsz} bytes are needed")
        assert op.row.struct is not None
        op.execute(Ucmd(self.ictx, arg, user_size), copy_struct_from_user(kernel, op.row.struct, arg, user_size))
        return 0

    def release(self) -> None:
        """drivers/iommu/iommufd/main.c:iommufd_fops_release()."""
        self.ictx.release()


def iommufd_ctx_from_file(file: File) -> IommufdCtx:
    """C: ``struct iommufd_ctx *iommufd_ctx_from_file(struct file *)``. Raises EBADFD: it is no /dev/iommu."""
    if not isinstance(file, IommufdFile):
        raise err(EBADFD, "no file of /dev/iommu")
    file.ictx.get_ref()
    return file.ictx


def iommufd_ctx_from_fd(kernel: Kernel, fd: int) -> IommufdCtx:
    """C: ``struct iommufd_ctx *iommufd_ctx_from_fd(int)``. Raises EBADF; EBADFD: it is no /dev/iommu."""
    return iommufd_ctx_from_file(fget(kernel, fd))


class IommufdModule(Module):
    """User space's own IO page tables."""

    name_ = "iommufd"
    params: ClassVar[tuple[Param, ...]] = (Param("allow_unsafe_interrupts", "bool", default=False, mode=0o644),)

    def init(self) -> None:
        """C: ``int iommufd_init(void)``. Raises EBUSY: the minor of /dev/vfio/vfio is taken."""
        self.ops = {op.row.index: op for op in OPS}
        self.mock_bus: Bus | None = None
        self.misc = MiscDevice(self.kernel, "iommu", MISC_DYNAMIC_MINOR, self.open, mode=0o660, owner=self)
        self.vfio_misc: MiscDevice | None = None
        self.told = False
        misc_register(self.misc)
        if "IOMMUFD_VFIO_CONTAINER" in self.kernel.profile.config:
            vfio = MiscDevice(
                self.kernel, "vfio", VFIO_MINOR, self.open_vfio, nodename="vfio/vfio", mode=0o666, owner=self
            )
            try:
                misc_register(vfio)
            except OSError:
                misc_deregister(self.misc)
                raise
            self.vfio_misc = vfio
        if "IOMMUFD_TEST" in self.kernel.profile.config:
            self._test_init()

    def _test_init(self) -> None:
        # drivers/iommu/iommufd/selftest.c:iommufd_test_init()
        from pykernel.iommufd.mock import MockBus  # kernels for use have none of this
        from pykernel.iommufd.selftest import IOMMU_TEST_CMD, iommufd_test

        self.ops[IOMMU_TEST_CMD.index] = Op(IOMMU_TEST_CMD, iommufd_test)
        self.mock_bus = self.kernel.sub(MockBus).bus
        self.mock_bus.register()

    def exit(self) -> None:
        """C: ``void iommufd_exit(void)``."""
        if self.mock_bus is not None:
            self.mock_bus.unregister()
        if self.vfio_misc is not None:
            misc_deregister(self.vfio_misc)
        misc_deregister(self.misc)

    def open(self, inode: Inode, flags: int) -> IommufdFile:
        """C: ``int iommufd_fops_open(struct inode *, struct file *)``. Raises ENOMEM: by fault injection."""
        self.kernel.faults.alloc("iommufd_fops_open")
        return IommufdFile(inode, flags, self)

    def open_vfio(self, inode: Inode, flags: int) -> IommufdFile:
        """The same by /dev/vfio/vfio: charged as VFIO does."""
        file = self.open(inode, flags)
        file.ictx.account_mode = ACCOUNT_MM
        if not self.told:
            self.kernel.log.printk(INFO, "iommufd: IOMMUFD is providing /dev/vfio/vfio, not VFIO.")
            self.told = True
        return file
