"""
The addresses that a container's devices can use: the domains' apertures without the groups' reserved regions
(drivers/vfio/vfio_iommu_type1.c: iova_list).

A list of ranges is sorted, both ends included; without any domain of hardware it is empty, which is no limit.
"""

from __future__ import annotations

from collections.abc import Iterable
from errno import EINVAL
from typing import TYPE_CHECKING

from pykernel.errors import err
from pykernel.iommu.iommu import IOMMU_RESV_DIRECT_RELAXABLE, ResvRegion
from pykernel.vfio.type1_dma import ADDRESSES

if TYPE_CHECKING:
    from pykernel.vfio.type1_dma import DmaList

__all__ = [
    "Iovas",
    "vfio_iommu_aper_conflict",
    "vfio_iommu_aper_expand",
    "vfio_iommu_aper_resize",
    "vfio_iommu_iova_dma_valid",
    "vfio_iommu_resv_conflict",
    "vfio_iommu_resv_exclude",
]

Iovas = list[tuple[int, int]]


def vfio_iommu_iova_dma_valid(iovas: Iovas, start: int, end: int) -> bool:
    """Whether one range has all of *start* to *end*, included. C: ``bool vfio_iommu_iova_dma_valid(...)``."""
    return not iovas or any(low <= start and end <= high for low, high in iovas)


def vfio_iommu_aper_conflict(iovas: Iovas, dmas: DmaList, start: int, end: int) -> bool:
    """Whether an aperture is apart from the others, or leaves out what is mapped. C: of the same name."""
    if not iovas:
        return False
    first, last = iovas[0][0], iovas[-1][1]
    if start > last or end < first:
        return True
    if start > first and dmas.find(first, start - first) is not None:
        return True
    return end < last and dmas.find(end + 1, last - end) is not None


def vfio_iommu_aper_resize(iovas: Iovas, start: int, end: int) -> Iovas:
    """*iovas* as far as they are in the aperture; the aperture when there are none. C: of the same name."""
    if not iovas:
        return [(start, end)]
    found = list(iovas)
    while found and start >= found[0][0]:
        if start < found[0][1]:
            found[0] = (start, found[0][1])
            break
        del found[0]
    return [(low, min(high, end)) for low, high in found if end > low]


def vfio_iommu_resv_conflict(dmas: DmaList, regions: Iterable[ResvRegion]) -> bool:
    """Whether something is mapped where *regions* are reserved. C: of the same name."""
    return any(r.type != IOMMU_RESV_DIRECT_RELAXABLE and dmas.find(r.start, r.length) is not None for r in regions)


def vfio_iommu_resv_exclude(iovas: Iovas, regions: Iterable[ResvRegion]) -> Iovas:
    """*iovas* without *regions*. C: of the same name. Raises EINVAL: nothing is left."""
    for region in regions:
        if region.type != IOMMU_RESV_DIRECT_RELAXABLE:
            iovas = _without(iovas, region.start, region.start + region.length - 1)
    if not iovas:
        raise err(EINVAL, "no address is usable: all are reserved")
    return iovas


def _without(iovas: Iovas, start: int, end: int) -> Iovas:
    left: Iovas = []
    for low, high in iovas:
        if start > high or end < low:
            left.append((low, high))
            continue
        if start > low:
            left.append((low, start - 1))
        if end < high:
            left.append((end + 1, high))
    return left


def vfio_iommu_aper_expand(iovas: Iovas, apertures: Iterable[tuple[int, int]]) -> Iovas:
    """*iovas* from the highest start to the lowest end of *apertures*, all addresses without any. C: same name."""
    if not iovas:
        return []
    start, end = 0, ADDRESSES - 1
    for low, high in apertures:
        start, end = max(start, low), min(end, high)
    found = list(iovas)
    found[0] = (start, found[0][1])
    found[-1] = (found[-1][0], end)
    return found
