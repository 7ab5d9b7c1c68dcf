"""
Type 1: mappings of user memory for devices behind an IOMMU, and for emulated ones
(drivers/vfio/vfio_iommu_type1.c).

::

    type1.py         the module, the driver, its ioctls
    type1_map.py     MAP_DMA, UNMAP_DMA
    type1_access.py  what drivers of emulated devices call: pin, unpin, read, write
    type1_attach.py  groups and domains
    type1_mdev.py    devices that their parent's IOMMU translates for
    type1_nesting.py guests' page tables: an option, never merged
    type1_pin.py     pages of a mapping: pinned, charged, mapped
    type1_dirty.py   bitmaps of written pages
    type1_iova.py    usable addresses
    type1_dma.py     the ordered map of mappings
    type1_state.py   a container's state
"""

from __future__ import annotations

from collections.abc import Iterator
from errno import EACCES, EINVAL, ENOTTY
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakSet

from pykernel.base.module import Module, Param
from pykernel.errors import err
from pykernel.kernel import Kernel
from pykernel.mm.uaccess import access_ok, copy_from_user, copy_to_user
from pykernel.uapi.linux.vfio import (
    VFIO_CHECK_EXTENSION,
    VFIO_DMA_CC_IOMMU,
    VFIO_DMA_MAP_FLAG_READ,
    VFIO_DMA_MAP_FLAG_VADDR,
    VFIO_DMA_MAP_FLAG_WRITE,
    VFIO_DMA_UNMAP_FLAG_ALL,
    VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP,
    VFIO_DMA_UNMAP_FLAG_VADDR,
    VFIO_IOMMU_DIRTY_PAGES,
    VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP,
    VFIO_IOMMU_DIRTY_PAGES_FLAG_START,
    VFIO_IOMMU_DIRTY_PAGES_FLAG_STOP,
    VFIO_IOMMU_GET_INFO,
    VFIO_IOMMU_INFO_CAPS,
    VFIO_IOMMU_INFO_PGSIZES,
    VFIO_IOMMU_MAP_DMA,
    VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE,
    VFIO_IOMMU_TYPE1_INFO_CAP_MIGRATION,
    VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL,
    VFIO_IOMMU_UNMAP_DMA,
    VFIO_TYPE1_IOMMU,
    VFIO_TYPE1_NESTING_IOMMU,
    VFIO_UNMAP_ALL,
    VFIO_UPDATE_VADDR,
    VFIO_TYPE1v2_IOMMU,
    vfio_bitmap,
    vfio_info_cap_header,
    vfio_iommu_type1_dirty_bitmap,
    vfio_iommu_type1_dirty_bitmap_get,
    vfio_iommu_type1_dma_map,
    vfio_iommu_type1_dma_unmap,
    vfio_iommu_type1_info,
    vfio_iommu_type1_info_cap_iova_range,
    vfio_iommu_type1_info_cap_migration,
    vfio_iommu_type1_info_dma_avail,
    vfio_iova_range,
)
from pykernel.uapi.rfc.vfio_nesting import VFIO_IOMMU_NESTING_OP, VFIO_IOMMU_TYPE1_INFO_CAP_NESTING
from pykernel.vfio.caps import InfoCaps
from pykernel.vfio.container import (
    VfioGroupType,
    VfioIommuDriver,
    vfio_register_iommu_driver,
    vfio_unregister_iommu_driver,
)
from pykernel.vfio.type1_access import vfio_iommu_dma_rw, vfio_iommu_pin_pages, vfio_iommu_unpin_pages
from pykernel.vfio.type1_attach import vfio_iommu_attach_group, vfio_iommu_detach_group, vfio_iommu_release
from pykernel.vfio.type1_dirty import (
    DIRTY_BITMAP_SIZE_MAX,
    verify_bitmap_size,
    vfio_dma_bitmap_alloc_all,
    vfio_dma_bitmap_free_all,
    vfio_iova_dirty_bitmap,
)
from pykernel.vfio.type1_dma import ADDRESSES
from pykernel.vfio.type1_map import vfio_dma_do_map, vfio_dma_do_unmap
from pykernel.vfio.type1_nesting import nesting_info, nesting_op, supports_nesting
from pykernel.vfio.type1_state import VfioIommu

if TYPE_CHECKING:
    from pykernel.iommu.iommu import IommuGroup
    from pykernel.vfio.device import VfioDevice

__all__ = ["VfioIommuType1", "VfioIommuType1Module"]

EXTENSIONS: Final = (VFIO_TYPE1_IOMMU, VFIO_TYPE1v2_IOMMU, VFIO_TYPE1_NESTING_IOMMU, VFIO_UNMAP_ALL)
DIRTY_FLAGS: Final = (
    VFIO_IOMMU_DIRTY_PAGES_FLAG_START,
    VFIO_IOMMU_DIRTY_PAGES_FLAG_STOP,
    VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP,
)
MAP_FLAGS: Final = VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE | VFIO_DMA_MAP_FLAG_VADDR
UNMAP_FLAGS: Final = VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP | VFIO_DMA_UNMAP_FLAG_ALL | VFIO_DMA_UNMAP_FLAG_VADDR
GET_INFO_6_1: Final = 20  # up to cap_offset


class VfioIommuType1(VfioIommuDriver):
    """``vfio_iommu_driver_ops_type1``."""

    name = "vfio-iommu-type1"
    rows = (
        VFIO_IOMMU_MAP_DMA, VFIO_IOMMU_UNMAP_DMA, VFIO_IOMMU_GET_INFO, VFIO_IOMMU_DIRTY_PAGES, VFIO_IOMMU_NESTING_OP,
    )  # fmt: skip

    def __init__(self, kernel: Kernel, param: dict[str, Any]) -> None:
        super().__init__(kernel)
        self.param = param
        self.live: WeakSet[VfioIommu] = WeakSet()
        kernel.check_leaks(self.leaks)
        self._ioctls = {
            VFIO_IOMMU_MAP_DMA.nr: self.map_dma,
            VFIO_IOMMU_UNMAP_DMA.nr: self.unmap_dma,
            VFIO_IOMMU_GET_INFO.nr: self.get_info,
            VFIO_IOMMU_DIRTY_PAGES.nr: self.dirty_pages,
        }

    # ---- containers

    def open(self, arg: int) -> VfioIommu:
        """C: ``void *vfio_iommu_type1_open(unsigned long)``. Raises EINVAL: no type of this driver."""
        if arg not in (VFIO_TYPE1_IOMMU, VFIO_TYPE1v2_IOMMU, VFIO_TYPE1_NESTING_IOMMU):
            raise err(EINVAL, f"no type {arg}")
        self.kernel.faults.alloc("vfio_iommu_type1_open")
        nesting = arg == VFIO_TYPE1_NESTING_IOMMU
        data = VfioIommu(self.kernel, self.param, v2=arg != VFIO_TYPE1_IOMMU, nesting=nesting)
        self.live.add(data)
        return data

    def release(self, data: VfioIommu) -> None:
        """C: ``void vfio_iommu_type1_release(void *)``."""
        vfio_iommu_release(data)
        if not data.lost:
            self.live.discard(data)

    def attach_group(self, data: VfioIommu, group: IommuGroup, type: VfioGroupType) -> None:
        """C: ``int vfio_iommu_type1_attach_group(...)``. Raises as vfio_iommu_attach_group() does."""
        vfio_iommu_attach_group(data, group, type)

    def detach_group(self, data: VfioIommu, group: IommuGroup) -> None:
        """C: ``void vfio_iommu_type1_detach_group(void *, struct iommu_group *)``."""
        vfio_iommu_detach_group(data, group)

    # ---- devices

    def register_device(self, data: VfioIommu, vdev: VfioDevice) -> None:
        """C: ``void vfio_iommu_type1_register_device(void *, struct vfio_device *)``."""
        if vdev.dma_unmap is not None:
            with data.lock, data.device_list_lock:
                data.device_list.insert(0, vdev)

    def unregister_device(self, data: VfioIommu, vdev: VfioDevice) -> None:
        """C: ``void vfio_iommu_type1_unregister_device(void *, struct vfio_device *)``."""
        if vdev.dma_unmap is not None:
            with data.lock, data.device_list_lock:
                data.device_list.remove(vdev)

    def pin_pages(self, data: VfioIommu, group: IommuGroup, iova: int, npage: int, prot: int) -> list[int]:
        """C: ``int vfio_iommu_type1_pin_pages(...)``. Raises as vfio_iommu_pin_pages() does."""
        return vfio_iommu_pin_pages(data, group, iova, npage, prot)

    def unpin_pages(self, data: VfioIommu, iova: int, npage: int) -> None:
        """C: ``void vfio_iommu_type1_unpin_pages(void *, dma_addr_t, int)``."""
        vfio_iommu_unpin_pages(data, iova, npage)

    def dma_rw(self, data: VfioIommu, iova: int, buf: bytearray, write: bool) -> None:
        """C: ``int vfio_iommu_type1_dma_rw(...)``. Raises as vfio_iommu_dma_rw() does."""
        vfio_iommu_dma_rw(data, iova, buf, write=write)

    # ---- ioctls

    def ioctl(self, data: VfioIommu | None, cmd: int, arg: int) -> int:
        """C: ``long vfio_iommu_type1_ioctl(void *, unsigned int, unsigned long)``. Raises ENOTTY: no number of it."""
        if cmd == VFIO_CHECK_EXTENSION.nr:
            return self.check_extension(data, arg)
        if cmd == VFIO_IOMMU_NESTING_OP.nr and data is not None and supports_nesting(self.kernel):
            return nesting_op(data, arg)
        method = self._ioctls.get(cmd)
        if method is None or data is None:
            raise err(ENOTTY)
        method(data, arg)
        return 0

    def check_extension(self, data: VfioIommu | None, arg: int) -> int:
        """C: ``int vfio_iommu_type1_check_extension(struct vfio_iommu *, unsigned long)``."""
        if arg in EXTENSIONS:
            return 1
        if data is None:
            return 0
        with data.lock:
            if arg == VFIO_UPDATE_VADDR:
                return int(not data.emulated_iommu_groups)
            return int(arg == VFIO_DMA_CC_IOMMU and all(d.enforce_cache_coherency for d in data.domain_list))

    def get_info(self, data: VfioIommu, arg: int) -> None:
        """VFIO_IOMMU_GET_INFO. Raises EFAULT; EINVAL: argsz is less than 16."""
        # drivers/vfio/vfio_iommu_type1.c:vfio_iommu_type1_get_info()
        kernel = self.kernel
        minsz, full = VFIO_IOMMU_GET_INFO.minsz, vfio_iommu_type1_info.sizeof()
        info = vfio_iommu_type1_info.from_bytes(copy_from_user(kernel, arg, minsz))
        if info.argsz < minsz:
            raise err(EINVAL, f"argsz is {info.argsz}")
        if kernel.profile.vfio_type1_info_any_size:
            minsz = min(info.argsz, full)
        elif info.argsz >= GET_INFO_6_1:
            minsz = GET_INFO_6_1
        with data.lock:
            info.flags = VFIO_IOMMU_INFO_PGSIZES | VFIO_IOMMU_INFO_CAPS
            info.iova_pgsizes = data.pgsize_bitmap
            caps = _info_caps(data)
        if info.argsz < full + caps.size:
            info.argsz = full + caps.size
        else:
            copy_to_user(kernel, arg + full, caps.shifted(full))
            info.cap_offset = full
        copy_to_user(kernel, arg, bytes(info)[:minsz])

    def map_dma(self, data: VfioIommu, arg: int) -> None:
        """VFIO_IOMMU_MAP_DMA. Raises as vfio_dma_do_map(); EFAULT; EINVAL: argsz, flags."""
        # drivers/vfio/vfio_iommu_type1.c:vfio_iommu_type1_map_dma()
        minsz = VFIO_IOMMU_MAP_DMA.minsz
        m = vfio_iommu_type1_dma_map.from_bytes(copy_from_user(self.kernel, arg, minsz))
        if m.argsz < minsz or m.flags & ~MAP_FLAGS:
            raise err(EINVAL, f"argsz {m.argsz}, flags {m.flags:#x}")
        vfio_dma_do_map(data, m.flags, m.vaddr, m.iova, m.size)

    def unmap_dma(self, data: VfioIommu, arg: int) -> None:
        """VFIO_IOMMU_UNMAP_DMA. Raises as vfio_dma_do_unmap(); EFAULT; EINVAL: argsz, flags, the bitmap."""
        # drivers/vfio/vfio_iommu_type1.c:vfio_iommu_type1_unmap_dma()
        minsz = VFIO_IOMMU_UNMAP_DMA.minsz
        u = vfio_iommu_type1_dma_unmap.from_bytes(copy_from_user(self.kernel, arg, minsz))
        if u.argsz < minsz or u.flags & ~UNMAP_FLAGS:
            raise err(EINVAL, f"argsz {u.argsz}, flags {u.flags:#x}")
        bitmap = None
        if u.flags & VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP:
            if u.flags & (VFIO_DMA_UNMAP_FLAG_ALL | VFIO_DMA_UNMAP_FLAG_VADDR):
                raise err(EINVAL, f"flags {u.flags:#x}")
            if u.argsz < minsz + vfio_bitmap.sizeof():
                raise err(EINVAL, f"argsz {u.argsz} has no room for a bitmap")
            bitmap = vfio_bitmap.from_bytes(copy_from_user(self.kernel, arg + minsz, vfio_bitmap.sizeof()))
            _check_bitmap(bitmap, u.size)
        u.size = vfio_dma_do_unmap(data, u.flags, u.iova, u.size, bitmap)
        copy_to_user(self.kernel, arg, bytes(u))

    def dirty_pages(self, data: VfioIommu, arg: int) -> None:
        """VFIO_IOMMU_DIRTY_PAGES. Raises EACCES: type 1 of version 1; EFAULT, EINVAL, ENOMEM."""
        # drivers/vfio/vfio_iommu_type1.c:vfio_iommu_type1_dirty_pages()
        if not data.v2:
            raise err(EACCES, "the container is of version 1")
        minsz = VFIO_IOMMU_DIRTY_PAGES.minsz
        dirty = vfio_iommu_type1_dirty_bitmap.from_bytes(copy_from_user(self.kernel, arg, minsz))
        if dirty.argsz < minsz or dirty.flags not in DIRTY_FLAGS:
            raise err(EINVAL, f"argsz {dirty.argsz}, flags {dirty.flags:#x}")
        if dirty.flags == VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP:
            size = vfio_iommu_type1_dirty_bitmap_get.sizeof()
            if dirty.argsz < minsz + size:
                raise err(EINVAL, f"argsz {dirty.argsz} has no room for a range")
            wanted = vfio_iommu_type1_dirty_bitmap_get.from_bytes(copy_from_user(self.kernel, arg + minsz, size))
            _get_bitmap(data, wanted)
            return
        on = dirty.flags == VFIO_IOMMU_DIRTY_PAGES_FLAG_START
        with data.lock:
            if on != data.dirty_page_tracking:
                (vfio_dma_bitmap_alloc_all if on else vfio_dma_bitmap_free_all)(data)
                data.dirty_page_tracking = on

    # ---- leaks

    def leaks(self) -> list[str]:
        """What clients have mapped and drivers have pinned: a sentence for what lies together."""
        return [line for data in self.live for line in _leaks(data)]


def _info_caps(data: VfioIommu) -> InfoCaps:
    """Migration, entries left, usable ranges. C: ``vfio_iommu_*_build_caps()``."""
    caps, header = InfoCaps(data.kernel), vfio_info_cap_header.sizeof()
    migration = vfio_iommu_type1_info_cap_migration(
        pgsize_bitmap=1 << data.pgshift, max_dirty_bitmap_size=DIRTY_BITMAP_SIZE_MAX
    )
    caps.add(VFIO_IOMMU_TYPE1_INFO_CAP_MIGRATION, 1, bytes(migration)[header:])
    avail = vfio_iommu_type1_info_dma_avail(avail=data.dma_avail)
    caps.add(VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL, 1, bytes(avail)[header:])
    if data.iova_list:
        ranges = vfio_iommu_type1_info_cap_iova_range(nr_iovas=len(data.iova_list))
        payload = bytes(ranges)[header:] + b"".join(
            bytes(vfio_iova_range(start=start, end=end)) for start, end in data.iova_list
        )
        caps.add(VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE, 1, payload)
    nesting = nesting_info(data)
    if nesting is not None:
        caps.add(VFIO_IOMMU_TYPE1_INFO_CAP_NESTING, 1, bytes(nesting))
    return caps


def _check_bitmap(bitmap: vfio_bitmap, size: int) -> None:
    """Raises EINVAL: no user's pointer, no size, or not enough for *size* bytes of memory."""
    if not access_ok(bitmap.data, bitmap.size):
        raise err(EINVAL, f"a bitmap of {bitmap.size} bytes at {bitmap.data:#x}")
    shift = (bitmap.pgsize & -bitmap.pgsize).bit_length() - 1  # __ffs(); of 0 nothing is shifted
    verify_bitmap_size(size >> max(shift, 0), bitmap.size)


def _get_bitmap(data: VfioIommu, wanted: vfio_iommu_type1_dirty_bitmap_get) -> None:
    """GET_BITMAP. Raises EINVAL: the range, the bitmap, its page size, nobody tracks, a mapping is cut; EFAULT."""
    if wanted.iova + wanted.size >= ADDRESSES:
        raise err(EINVAL, "the range wraps")
    _check_bitmap(wanted.bitmap, wanted.size)
    with data.lock:
        pgsize = 1 << data.pgshift
        if wanted.bitmap.pgsize != pgsize or (wanted.iova | wanted.size) & pgsize - 1 or not wanted.size:
            raise err(EINVAL, f"range and bitmap are of pages of {pgsize}")
        if not data.dirty_page_tracking:
            raise err(EINVAL, "nobody tracks what is written")
        vfio_iova_dirty_bitmap(wanted.bitmap.data, data, wanted.iova, wanted.size)


def _leaks(data: VfioIommu) -> Iterator[str]:
    groups = sorted(g.iommu_group.id for d in data.domain_list for g in d.group_list)
    groups += sorted(g.iommu_group.id for g in data.emulated_iommu_groups)
    where = f"of the container of group {', '.join(map(str, groups))}" if groups else "of a closed container"
    end, start, n, origin = -1, 0, 0, ""
    for dma in data.dma_list:
        if dma.iova != end or dma.origin != origin:
            yield from _mapped(start, end, n, where, origin)
            start, n, origin = dma.iova, 0, dma.origin
        end, n = dma.end, n + 1
    yield from _mapped(start, end, n, where, origin)
    pins = [vpfn for dma in data.dma_list for vpfn in dma.pfns.values()] + data.lost
    for vpfn in sorted(pins, key=lambda p: p.iova):
        yield f"page at IOVA {vpfn.iova:#x} {where}, pinned {vpfn.ref_count} times by drivers"


def _mapped(start: int, end: int, n: int, where: str, origin: str) -> Iterator[str]:
    if n:
        yield f"IOVA {start:#x}-{end - 1:#x} {where}, {n} mapping{'s' * (n > 1)} of user memory{origin}"


class VfioIommuType1Module(Module):
    """``vfio_iommu_type1.ko``."""

    name_ = "vfio_iommu_type1"
    version = "0.2"
    depends = ("vfio",)
    params = (
        Param("allow_unsafe_interrupts", "bool", default=False, mode=0o644),
        Param("disable_hugepages", "bool", default=False, mode=0o644),
        Param("dma_entry_limit", "uint", default=0xFFFF, mode=0o644),
    )

    def init(self) -> None:
        """C: ``int vfio_iommu_type1_init(void)``."""
        self.driver = VfioIommuType1(self.kernel, self.param)
        self.driver.owner = self
        vfio_register_iommu_driver(self.kernel, self.driver)

    def exit(self) -> None:
        """C: ``void vfio_iommu_type1_cleanup(void)``."""
        vfio_unregister_iommu_driver(self.kernel, self.driver)
