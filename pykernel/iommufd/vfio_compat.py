"""
The ioctls of VFIO's containers on ``/dev/iommu`` (drivers/iommu/iommufd/vfio_compat.c).

They have no number of an IOAS: they mean the one that a group's VFIO_GROUP_SET_CONTAINER made, or IOMMU_VFIO_IOAS set.
"""

from __future__ import annotations

from errno import EINVAL, ENODEV, ENOTTY, EOPNOTSUPP, EPERM
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from pykernel.errors import err
from pykernel.iommu.iommu import IOMMU_CACHE, IOMMU_READ, IOMMU_WRITE
from pykernel.iommufd.ioas import IommufdIoas, map_user_pages
from pykernel.mm.uaccess import PAGE_SIZE, copy_from_user, copy_to_user
from pykernel.task import CAP_SYS_RAWIO
from pykernel.uapi.linux.iommufd import IOMMU_VFIO_IOAS_CLEAR, IOMMU_VFIO_IOAS_GET, IOMMU_VFIO_IOAS_SET, iommu_vfio_ioas
from pykernel.uapi.linux.vfio import (
    VFIO_API_VERSION,
    VFIO_CHECK_EXTENSION,
    VFIO_DMA_CC_IOMMU,
    VFIO_DMA_MAP_FLAG_READ,
    VFIO_DMA_MAP_FLAG_WRITE,
    VFIO_DMA_UNMAP_FLAG_ALL,
    VFIO_GET_API_VERSION,
    VFIO_IOMMU_GET_INFO,
    VFIO_IOMMU_INFO_CAPS,
    VFIO_IOMMU_INFO_PGSIZES,
    VFIO_IOMMU_MAP_DMA,
    VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE,
    VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL,
    VFIO_IOMMU_UNMAP_DMA,
    VFIO_NOIOMMU_IOMMU,
    VFIO_SET_IOMMU,
    VFIO_TYPE1_IOMMU,
    VFIO_UNMAP_ALL,
    VFIO_TYPE1v2_IOMMU,
    vfio_info_cap_header,
    vfio_iommu_type1_dma_map,
    vfio_iommu_type1_dma_unmap,
    vfio_iommu_type1_info,
    vfio_iommu_type1_info_cap_iova_range,
    vfio_iommu_type1_info_dma_avail,
    vfio_iova_range,
)

if TYPE_CHECKING:
    from pykernel.iommufd.objects import IommufdCtx
    from pykernel.iommufd.ucmd import Ucmd
    from pykernel.kernel import Kernel

__all__ = ["compat_ioas", "compat_ioas_create", "compat_set_no_iommu", "iommufd_vfio_ioctl", "vfio_ioas"]

U32_MAX: Final = 0xFFFFFFFF
U64_MAX: Final = (1 << 64) - 1


# ---- which address space


def compat_ioas(ictx: IommufdCtx) -> IommufdIoas:
    """drivers/iommu/iommufd/vfio_compat.c:get_compat_ioas(). Raises ENODEV: there is none."""
    ioas = ictx.vfio_ioas
    if ioas is None or not ioas.users:
        raise err(ENODEV, "no IOAS stands for a container")
    return ioas


def compat_ioas_create(ictx: IommufdCtx) -> None:
    """C: ``int iommufd_vfio_compat_ioas_create(...)``. Raises EINVAL: devices without IOMMU are in it. ENOMEM."""
    if ictx.no_iommu_mode:
        raise err(EINVAL, "devices without an IOMMU are in it")
    if ictx.vfio_ioas is None:
        ioas = ictx.vfio_ioas = IommufdIoas(ictx)
        ictx.finalize(ioas)


def compat_set_no_iommu(ictx: IommufdCtx) -> None:
    """C: ``int iommufd_vfio_compat_set_no_iommu(struct iommufd_ctx *)``. Raises EINVAL: devices with one are in it."""
    if ictx.vfio_ioas is not None:
        raise err(EINVAL, "an IOAS stands for the container")
    ictx.no_iommu_mode = True


def vfio_ioas(ucmd: Ucmd, cmd: iommu_vfio_ioas) -> None:
    """IOMMU_VFIO_IOAS. Raises EOPNOTSUPP: no such operation. ENODEV: none to get. ENOENT: none to set."""
    if cmd.reserved:
        raise err(EOPNOTSUPP)
    if cmd.op == IOMMU_VFIO_IOAS_GET:
        cmd.ioas_id = compat_ioas(ucmd.ictx).id
        ucmd.respond(cmd)
    elif cmd.op == IOMMU_VFIO_IOAS_SET:
        ucmd.ictx.vfio_ioas = ucmd.ictx.find(cmd.ioas_id, IommufdIoas)
    elif cmd.op == IOMMU_VFIO_IOAS_CLEAR:
        ucmd.ictx.vfio_ioas = None
    else:
        raise err(EOPNOTSUPP, f"operation {cmd.op}")


# ---- mapping


def _map_dma(ictx: IommufdCtx, arg: int) -> int:
    # drivers/iommu/iommufd/vfio_compat.c:iommufd_vfio_map_dma()
    row = VFIO_IOMMU_MAP_DMA
    cmd = vfio_iommu_type1_dma_map.from_bytes(copy_from_user(ictx.kernel, arg, row.minsz))
    if cmd.argsz < row.minsz or cmd.flags & ~(VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE):
        raise err(EINVAL, f"argsz {cmd.argsz}, flags {cmd.flags:#x}")
    prot = IOMMU_CACHE | (IOMMU_READ if cmd.flags & VFIO_DMA_MAP_FLAG_READ else 0)
    prot |= IOMMU_WRITE if cmd.flags & VFIO_DMA_MAP_FLAG_WRITE else 0
    ioas = compat_ioas(ictx)
    with ioas.held():
        map_user_pages(ioas, cmd.iova, cmd.vaddr, cmd.size, prot)
    return 0


def _unmap_dma(ictx: IommufdCtx, arg: int) -> int:
    # drivers/iommu/iommufd/vfio_compat.c:iommufd_vfio_unmap_dma()
    row = VFIO_IOMMU_UNMAP_DMA
    cmd = vfio_iommu_type1_dma_unmap.from_bytes(copy_from_user(ictx.kernel, arg, row.minsz))
    if cmd.argsz < row.minsz or cmd.flags & ~VFIO_DMA_UNMAP_FLAG_ALL:
        raise err(EINVAL, f"argsz {cmd.argsz}, flags {cmd.flags:#x}")
    ioas = compat_ioas(ictx)
    with ioas.held():
        if cmd.flags & VFIO_DMA_UNMAP_FLAG_ALL:
            if cmd.iova or cmd.size:
                raise err(EINVAL, "all has neither address nor size")
            cmd.size, error = ioas.iopt.unmap_all()
        else:
            if ioas.iopt.disable_large_pages:
                cuts = [(cmd.iova + cmd.size - 1) & U64_MAX, cmd.iova - 1]
                ioas.iopt.cut(*(cuts if cmd.iova else cuts[:1]))
            try:
                cmd.size, error = ioas.iopt.unmap(cmd.iova, cmd.size)
            except OSError as e:
                cmd.size, error = 0, e
        copy_to_user(ictx.kernel, arg, bytes(cmd)[: row.minsz])
        if error is not None:
            raise error
    return 0


# ---- what there is


def _check_extension(ictx: IommufdCtx, type: int) -> int:
    # drivers/iommu/iommufd/vfio_compat.c:iommufd_vfio_check_extension()
    if type in (VFIO_TYPE1_IOMMU, VFIO_TYPE1v2_IOMMU, VFIO_UNMAP_ALL):
        return int(not ictx.no_iommu_mode)
    if type == VFIO_NOIOMMU_IOMMU:
        return int("VFIO_NOIOMMU" in ictx.kernel.profile.config)
    if type == VFIO_DMA_CC_IOMMU:
        ioas = compat_ioas(ictx)
        with ioas.held(), ioas.mutex:
            return int(all(hwpt.enforce_cache_coherency for hwpt in ioas.hwpts))
    return 0


def _set_iommu(ictx: IommufdCtx, type: int) -> int:
    # drivers/iommu/iommufd/vfio_compat.c:iommufd_vfio_set_iommu()
    kernel = ictx.kernel
    if "VFIO_NOIOMMU" in kernel.profile.config and type == VFIO_NOIOMMU_IOMMU and ictx.no_iommu_mode:
        if not kernel.current.cred.capable(CAP_SYS_RAWIO):
            raise err(EPERM, "CAP_SYS_RAWIO")
        return 0
    if type not in (VFIO_TYPE1_IOMMU, VFIO_TYPE1v2_IOMMU) or ictx.no_iommu_mode:
        raise err(EINVAL, f"type {type}")
    ioas = compat_ioas(ictx)
    if type == VFIO_TYPE1_IOMMU:
        with ioas.held():
            ioas.iopt.set_small_pages()
    return 0


def _pagesizes(ioas: IommufdIoas) -> int:
    # drivers/iommu/iommufd/vfio_compat.c:iommufd_get_pagesizes()
    bitmap = U64_MAX
    with ioas.iopt.domains_lock.read():
        for domain in ioas.iopt.domains:
            bitmap &= domain.pgsize_bitmap
    if bitmap & PAGE_SIZE - 1:
        bitmap = bitmap & -PAGE_SIZE | PAGE_SIZE
    return max(bitmap, ioas.iopt.alignment)


class _Cap(NamedTuple):
    """A capability; of an array after *head* bytes as much is written as fits, before it is known whether all does."""

    data: bytes
    head: int = 0

    def put(self, kernel: Kernel, addr: int, room: int) -> None:
        """Write it to *addr*, if there is room. Raises EFAULT."""
        if room >= len(self.data):
            copy_to_user(kernel, addr, self.data)
        elif self.head and room > self.head:
            each = vfio_iova_range.sizeof()
            end = self.head + (room - self.head) // each * each
            copy_to_user(kernel, addr + self.head, self.data[self.head : end])


def _cap_dma_avail() -> _Cap:
    # drivers/iommu/iommufd/vfio_compat.c:iommufd_fill_cap_dma_avail()
    cap = vfio_iommu_type1_info_dma_avail(avail=U32_MAX)
    cap.header.id, cap.header.version = VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL, 1
    return _Cap(bytes(cap))


def _cap_iova(ioas: IommufdIoas) -> _Cap:
    # drivers/iommu/iommufd/vfio_compat.c:iommufd_fill_cap_iova()
    ranges = [bytes(vfio_iova_range(start=start, end=last)) for start, last in ioas.iopt.usable()]
    cap = vfio_iommu_type1_info_cap_iova_range(nr_iovas=len(ranges))
    cap.header.id, cap.header.version = VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE, 1
    return _Cap(bytes(cap) + b"".join(ranges), cap.sizeof())


def _get_info(ictx: IommufdCtx, arg: int) -> int:
    # drivers/iommu/iommufd/vfio_compat.c:iommufd_vfio_iommu_get_info()
    kernel, size = ictx.kernel, vfio_iommu_type1_info.sizeof()
    minsz = VFIO_IOMMU_GET_INFO.minsz
    info = vfio_iommu_type1_info.from_bytes(copy_from_user(kernel, arg, minsz))
    if info.argsz < minsz:
        raise err(EINVAL, f"argsz {info.argsz}")
    ioas = compat_ioas(ictx)
    with ioas.held():
        given = info.argsz
        info.iova_pgsizes = _pagesizes(ioas)
        with ioas.iopt.iova_lock.read():
            total = _put_caps(kernel, arg, given, [_cap_dma_avail(), _cap_iova(ioas)])
        info.flags = VFIO_IOMMU_INFO_PGSIZES | VFIO_IOMMU_INFO_CAPS
        info.cap_offset = size if given >= total else 0
        info.argsz = total
        copy_to_user(kernel, arg, bytes(info)[: min(given, size)])
    return 0


def _put_caps(kernel: Kernel, arg: int, argsz: int, caps: list[_Cap]) -> int:
    """Write those that fit, one after the other; how long the whole is. Raises EFAULT."""
    total, last = vfio_iommu_type1_info.sizeof(), 0
    for cap in caps:
        cap.put(kernel, arg + total, argsz - total)
        if last and argsz >= total:
            copy_to_user(kernel, arg + last + vfio_info_cap_header.offsetof("next"), total.to_bytes(4, "little"))
        last = total
        total += -(-len(cap.data) // 8) * 8
    return total


def iommufd_vfio_ioctl(ictx: IommufdCtx, cmd: int, arg: int) -> int:
    """C: ``int iommufd_vfio_ioctl(struct iommufd_ctx *, unsigned int, unsigned long)``. Raises ENOTTY: no such one."""
    calls: dict[int, Any] = {
        VFIO_GET_API_VERSION.nr: lambda _ictx, _arg: VFIO_API_VERSION,
        VFIO_SET_IOMMU.nr: _set_iommu,
        VFIO_CHECK_EXTENSION.nr: _check_extension,
        VFIO_IOMMU_GET_INFO.nr: _get_info,
        VFIO_IOMMU_MAP_DMA.nr: _map_dma,
        VFIO_IOMMU_UNMAP_DMA.nr: _unmap_dma,
    }
    call = calls.get(cmd)
    if call is None:
        raise err(ENOTTY, f"ioctl {cmd:#x}")
    result: int = call(ictx, arg)
    return result
