"""
Devices of VFIO on IOMMUFD (drivers/vfio/iommufd.c): a physical one is a device there, an emulated one an access.
"""

from __future__ import annotations

from errno import EBADFD, EINVAL, ENODEV, ENOENT
from typing import TYPE_CHECKING

from pykernel.errors import Oops, err
from pykernel.iommu.iommu import IOMMU_WRITE
from pykernel.iommufd.access import IommufdAccess, iommufd_access_create, iommufd_access_destroy
from pykernel.iommufd.device import (
    IommufdDevice,
    iommufd_ctx_has_group,
    iommufd_device_bind,
    iommufd_device_unbind,
)
from pykernel.iommufd.main import iommufd_ctx_from_fd, iommufd_ctx_from_file
from pykernel.iommufd.objects import IommufdCtx
from pykernel.iommufd.pages import ACCESS_RW_KTHREAD, ACCESS_RW_READ, ACCESS_RW_WRITE
from pykernel.iommufd.vfio_compat import compat_ioas, compat_ioas_create, compat_set_no_iommu
from pykernel.mm.uaccess import PAGE_SIZE
from pykernel.vfio.container import VfioGroupType

if TYPE_CHECKING:
    from pykernel.fs.vfs import File
    from pykernel.kernel import Kernel
    from pykernel.vfio.device import VfioDevice

__all__ = ["VfioIommufd", "vfio_iommufd_device_ictx", "vfio_iommufd_get_dev_id"]


class VfioIommufd:
    """What the module vfio asks: ``VfioCore.iommufd`` in a kernel with CONFIG_IOMMUFD."""

    def ctx_from_file(self, file: File) -> IommufdCtx | None:
        """With a reference; None: *file* is no /dev/iommu. C: ``iommufd_ctx_from_file()``."""
        try:
            return iommufd_ctx_from_file(file)
        except OSError as e:
            if e.errno != EBADFD:
                raise
            return None

    def ctx_from_fd(self, kernel: Kernel, fd: int) -> IommufdCtx:
        """C: ``struct iommufd_ctx *iommufd_ctx_from_fd(int)``. Raises EBADF, EBADFD."""
        return iommufd_ctx_from_fd(kernel, fd)

    def ctx_put(self, ctx: IommufdCtx) -> None:
        """C: ``void iommufd_ctx_put(struct iommufd_ctx *)``."""
        ctx.put_ref()

    # ---- groups

    def compat_set(self, ctx: IommufdCtx, *, noiommu: bool) -> None:
        """A group's VFIO_GROUP_SET_CONTAINER. Raises EINVAL: devices with and without IOMMU do not mix. ENOMEM."""
        if noiommu:
            compat_set_no_iommu(ctx)
        else:
            compat_ioas_create(ctx)

    def has_compat_ioas(self, ctx: IommufdCtx) -> bool:
        """C: ``bool vfio_iommufd_device_has_compat_ioas(struct vfio_device *, struct iommufd_ctx *)``."""
        return ctx.vfio_ioas is not None

    def compat_attach(self, vdev: VfioDevice, ctx: IommufdCtx) -> None:
        """C: ``int vfio_iommufd_compat_attach_ioas(...)``. Raises ENODEV: no IOAS; what attaching raises."""
        self.attach(vdev, compat_ioas(ctx).id)

    # ---- devices

    def bind(self, vdev: VfioDevice, ctx: IommufdCtx) -> int:
        """
        C: ``vfio_iommufd_physical_bind()``, ``vfio_iommufd_emulated_bind()``: the number in *ctx*.

        Raises:
            What iommufd_device_bind() raises.
        """
        if _emulated(vdev):
            access = iommufd_access_create(
                ctx, lambda iova, length: _dma_unmap(vdev, iova, length), needs_pin_pages=True
            )
            vdev.iommufd_access = access
            return access.id
        module = vdev.kernel.modules.loaded["iommufd"]
        unsafe = module.param["allow_unsafe_interrupts"]
        idev = iommufd_device_bind(ctx, vdev.dev, allow_unsafe_interrupts=unsafe)
        vdev.iommufd_device = idev
        return idev.id

    def unbind(self, vdev: VfioDevice) -> None:
        """C: ``vfio_iommufd_physical_unbind()``, ``vfio_iommufd_emulated_unbind()``."""
        if vdev.iommufd_access is not None:
            access, vdev.iommufd_access = vdev.iommufd_access, None
            iommufd_access_destroy(access)
        elif vdev.iommufd_device is not None:
            if vdev.iommufd_attached:
                vdev.iommufd_device.detach()
            idev, vdev.iommufd_device = vdev.iommufd_device, None
            iommufd_device_unbind(idev)
        vdev.iommufd_attached = False

    def attach(self, vdev: VfioDevice, pt_id: int) -> int:
        """
        C: ``vfio_iommufd_physical_attach_ioas()``, ``vfio_iommufd_emulated_attach_ioas()``: what it is attached to.

        Raises:
            What IommufdDevice.attach() and IommufdAccess.attach() raise; when it is attached, replace().
        """
        if vdev.iommufd_access is not None:
            if vdev.iommufd_attached:
                vdev.iommufd_access.replace(pt_id)
            else:
                vdev.iommufd_access.attach(pt_id)
        elif vdev.iommufd_device is not None:
            idev: IommufdDevice = vdev.iommufd_device
            pt_id = idev.replace(pt_id) if vdev.iommufd_attached else idev.attach(pt_id)
        else:
            raise err(EINVAL, f"{vdev.name} is not bound")
        vdev.iommufd_attached = True
        return pt_id

    def detach(self, vdev: VfioDevice) -> None:
        """C: ``vfio_iommufd_physical_detach_ioas()``, ``vfio_iommufd_emulated_detach_ioas()``."""
        if vdev.iommufd_attached:
            bound: IommufdDevice | IommufdAccess = vdev.iommufd_access or vdev.iommufd_device
            bound.detach()
            vdev.iommufd_attached = False

    # ---- the memory, for emulated devices

    def pin_pages(self, vdev: VfioDevice, iova: int, npage: int, prot: int) -> list[int]:
        """C: the part of ``vfio_pin_pages()`` that is IOMMUFD's; *iova* within a page means the page. Raises."""
        flags = ACCESS_RW_WRITE if prot & IOMMU_WRITE else ACCESS_RW_READ
        return _access(vdev).pin_pages(iova & -PAGE_SIZE, npage * PAGE_SIZE, flags)

    def unpin_pages(self, vdev: VfioDevice, iova: int, npage: int) -> None:
        """C: the part of ``vfio_unpin_pages()`` that is IOMMUFD's."""
        _access(vdev).unpin_pages(iova & -PAGE_SIZE, npage * PAGE_SIZE)

    def dma_rw(self, vdev: VfioDevice, iova: int, buf: bytearray, write: bool) -> None:
        """C: the part of ``vfio_dma_rw()`` that is IOMMUFD's. Raises."""
        flags = ACCESS_RW_WRITE if write else ACCESS_RW_READ
        if vdev.kernel.current.mm is None:
            flags |= ACCESS_RW_KTHREAD
        _access(vdev).rw(iova, buf, flags)


def _emulated(vdev: VfioDevice) -> bool:
    group = vdev.group
    return group is not None and group.group_type == VfioGroupType.EMULATED_IOMMU


def _access(vdev: VfioDevice) -> IommufdAccess:
    access: IommufdAccess | None = vdev.iommufd_access
    if access is None:
        raise Oops(f"{vdev.name} is not bound to IOMMUFD")
    return access


def _dma_unmap(vdev: VfioDevice, iova: int, length: int) -> None:
    # drivers/vfio/iommufd.c:vfio_emulated_unmap()
    if vdev.dma_unmap is not None:
        vdev.dma_unmap(iova, length)


def vfio_iommufd_device_ictx(vdev: VfioDevice) -> IommufdCtx | None:
    """C: ``struct iommufd_ctx *vfio_iommufd_device_ictx(struct vfio_device *)``; None: unbound, or emulated."""
    idev: IommufdDevice | None = vdev.iommufd_device
    return None if idev is None else idev.ictx


def vfio_iommufd_get_dev_id(vdev: VfioDevice, ictx: IommufdCtx) -> int:
    """
    The number of *vdev* in *ictx*, for the information of a hot reset. C: ``int vfio_iommufd_get_dev_id(...)``.

    Raises:
        ENOENT: *ictx* owns its group, and it has no number. ENODEV: *ictx* does not own it.
    """
    idev: IommufdDevice | None = vdev.iommufd_device
    if idev is not None and idev.ictx is ictx:
        return idev.id
    group = vdev.dev.iommu_group
    if group is None or not iommufd_ctx_has_group(ictx, group):
        raise err(ENODEV, f"{vdev.name} is not owned")
    raise err(ENOENT, f"{vdev.name} is owned, and has no number")
