"""
Whose cached translations a change of a domain makes old (drivers/iommu/intel/cache.c; iommu_flush_iotlb_psi() before).

A tag is what entries of the IOTLB are known by, or a device that caches some itself: a domain has one for each PASID
that it is attached to. A domain below nested ones has theirs, too, and of their devices everything goes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pykernel.iommu.pasid import IOMMU_NO_PASID
from pykernel.iommu.qi import (
    IOTLB_DSI,
    IOTLB_PSI,
    MAX_AGAW_PFN_WIDTH,
    Desc,
    dev_iotlb_desc,
    dev_iotlb_pasid_desc,
    iotlb_desc,
    piotlb_desc,
)

if TYPE_CHECKING:
    from pykernel.iommu.devinfo import DeviceDomainInfo
    from pykernel.iommu.intel import IntelIommu

__all__ = ["CacheTags"]


class CacheTag(NamedTuple):
    """``struct cache_tag``: of the unit's IOTLB, or of the device *info*; *nesting*: a domain above is attached."""

    did: int
    pasid: int
    info: DeviceDomainInfo | None
    nesting: bool


class CacheTags:
    """
    The tags of a domain, and how often each was given.

    Args:
        first_level: the domain has first-stage tables, whose entries are known by their PASID.
    """

    def __init__(self, unit: IntelIommu, *, first_level: bool) -> None:
        self.unit, self.first_level = unit, first_level
        self.tags: dict[CacheTag, int] = {}

    @staticmethod
    def _tags(info: DeviceDomainInfo, did: int, pasid: int, *, nesting: bool) -> list[CacheTag]:
        tags = [CacheTag(did, pasid, None, nesting)]
        return [*tags, CacheTag(did, pasid, info, nesting)] if info.ats_enabled else tags

    def assign(self, info: DeviceDomainInfo, did: int, pasid: int, *, nesting: bool = False) -> None:
        """C: ``cache_tag_assign_domain()``."""
        for tag in self._tags(info, did, pasid, nesting=nesting):
            self.tags[tag] = self.tags.get(tag, 0) + 1

    def unassign(self, info: DeviceDomainInfo, did: int, pasid: int, *, nesting: bool = False) -> None:
        """C: ``cache_tag_unassign_domain()``."""
        for tag in self._tags(info, did, pasid, nesting=nesting):
            users = self.tags.get(tag, 0) - 1
            if users > 0:
                self.tags[tag] = users
            else:
                self.tags.pop(tag, None)

    # ---- invalidation

    def flush_range(self, start: int, last: int, *, ih: bool = False, new: bool = False) -> None:
        """
        Nothing of the addresses *start* to *last* is cached any more.

        C: ``void cache_tag_flush_range(struct dmar_domain *, unsigned long, unsigned long, int)``

        Args:
            ih: only leaf entries changed.
            new: nothing was there before, so no device knows it: ``cache_tag_flush_range_np()``.
        """
        if not self.tags:
            return
        addr, pages, order = _psi(start, last)
        descs = []
        for tag in self.tags:
            if tag.info is None:
                descs.append(self._iotlb(tag, addr, pages, order, ih=ih))
            elif not new:
                where = (0, MAX_AGAW_PFN_WIDTH) if tag.nesting else (addr, order)
                descs.append(self._dev_iotlb(tag, tag.info, *where))
        self.unit.qi.submit_sync(*descs)

    def flush_all(self) -> None:
        """C: ``void cache_tag_flush_all(struct dmar_domain *)``."""
        descs: list[Desc] = []
        for tag in self.tags:
            info = tag.info
            if info is None:
                descs.append(self._iotlb(tag, 0, -1, 0, ih=False))
            else:
                descs.append(dev_iotlb_desc(info.sid, info.pfsid, info.ats_qdep, 0, MAX_AGAW_PFN_WIDTH))
        if descs:
            self.unit.qi.submit_sync(*descs)

    def _iotlb(self, tag: CacheTag, addr: int, pages: int, order: int, *, ih: bool) -> Desc:
        if self.first_level:
            return piotlb_desc(tag.did, tag.pasid, addr, pages, ih=ih)
        caps = self.unit.caps
        if pages == -1 or not caps.psi or order > caps.mamv:
            return iotlb_desc(tag.did, 0, 0, IOTLB_DSI)
        return iotlb_desc(tag.did, addr, order, IOTLB_PSI, ih=ih)

    @staticmethod
    def _dev_iotlb(tag: CacheTag, info: DeviceDomainInfo, addr: int, order: int) -> Desc:
        if tag.pasid == IOMMU_NO_PASID:
            return dev_iotlb_desc(info.sid, info.pfsid, info.ats_qdep, addr, order)
        return dev_iotlb_pasid_desc(info.sid, info.pfsid, tag.pasid, info.ats_qdep, addr, order)


def _psi(start: int, last: int) -> tuple[int, int, int]:
    """An aligned power of two of pages that has *start* to *last*: address, pages, order."""
    # drivers/iommu/intel/cache.c:calculate_psi_aligned_address(): bits above the first in which both ends agree count
    pfn, end = start >> 12, last >> 12
    order = (end - pfn).bit_length()
    if pfn & (1 << order) - 1:
        order = (pfn ^ end).bit_length()
    return (pfn >> order << order) << 12, 1 << order, order
