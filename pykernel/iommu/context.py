"""
Root and context tables: where the unit begins to look for a requester (drivers/iommu/intel/iommu.c; VT-d 9.1 to 9.4).

In legacy mode a root entry points to the 256 context entries of its bus, each with a domain's tables; in scalable mode
to two tables of 128 entries twice as large, each with the directory of a device's PASIDs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pykernel.iommu.paging import PagingDomain
from pykernel.iommu.pasid import FLPT_DEFAULT_DID, IOMMU_NO_PASID, PASID_PDE_SHIFT
from pykernel.iommu.qi import CC_DEVICE, IOTLB_DSI, MAX_AGAW_PFN_WIDTH, PC_ALL_PASIDS

if TYPE_CHECKING:
    from pykernel.iommu.devinfo import DeviceDomainInfo
    from pykernel.iommu.domain import IommuDomain
    from pykernel.iommu.intel import IntelIommu

__all__ = ["ContextTables"]

PRESENT: Final = 1
TT_MULTI_LEVEL, TT_DEV_IOTLB, TT_PASS_THROUGH = 0, 1 << 2, 2 << 2
SM_DTE, SM_PASIDE, SM_PRE = 1 << 2, 1 << 3, 1 << 4
PAGE_MASK: Final = (1 << 64) - 4096


class ContextTables:
    """The root table at *root*, and the context tables below it, made as buses come."""

    def __init__(self, unit: IntelIommu) -> None:
        self.unit = unit
        self.words = unit.phys.words
        self.root = unit.phys.alloc_page()

    def free(self) -> None:
        """All tables go. C: ``free_context_table()``."""
        for entry in self.words[self.root >> 3 : (self.root >> 3) + 512].tolist():
            if entry & PRESENT:
                self.unit.phys.free_pages(entry & PAGE_MASK)
        self.unit.phys.free_pages(self.root)

    def addr(self, sid: int, *, alloc: bool) -> int | None:
        """
        Which word the entry of requester *sid* begins with. Raises ENOMEM.

        C: ``struct context_entry *iommu_context_addr(struct intel_iommu *, u8 bus, u8 devfn, int alloc)``
        """
        bus, devfn = sid >> 8, sid & 0xFF
        at, size = (self.root >> 3) + 2 * bus, 2
        if self.unit.scalable:
            at, devfn, size = at + (devfn >> 7), devfn & 0x7F, 4
        entry = self.words[at]
        if not entry & PRESENT:
            if not alloc:
                return None
            entry = self.unit.phys.alloc_page() | PRESENT
            self.words[at] = entry
        return ((entry & PAGE_MASK) >> 3) + devfn * size

    # ---- entries

    def map(self, info: DeviceDomainInfo, domain: IommuDomain) -> None:
        """
        Legacy mode: requests of the device go to *domain*. Raises ENOMEM.

        C: ``domain_context_mapping_one()``, in 6.12 ``context_setup_pass_through()`` for identity
        """
        at = self.addr(info.sid, alloc=True)
        assert at is not None
        if self.words[at] & PRESENT:
            return
        if isinstance(domain, PagingDomain):
            did, aw, low = domain.id, domain.agaw, domain.table.root
            low |= TT_DEV_IOTLB if info.ats_supported else TT_MULTI_LEVEL
        else:
            did, aw, low = FLPT_DEFAULT_DID, self.unit.caps.agaw, TT_PASS_THROUGH
        self._set(at, info.sid, low, aw | did << 8, did)

    def map_pasid_table(self, info: DeviceDomainInfo) -> None:
        """
        Scalable mode: requests of the device go by its PASID table. Raises ENOMEM.

        C: ``domain_context_mapping_one()``, in 6.12 ``device_pasid_table_setup()``
        """
        at, table = self.addr(info.sid, alloc=True), info.pasid_table
        assert at is not None
        assert table is not None
        if self.words[at] & PRESENT:
            return
        # context_get_sm_pds(): the directory has 2 ** (pds + 7) entries
        pds = max(0, (table.max_pasid >> PASID_PDE_SHIFT).bit_length() - 1 - 7)
        low = table.table | pds << 9 | (SM_DTE if info.ats_supported else 0)
        low |= SM_PASIDE if info.pasid_supported else 0
        if info.pri_supported and not self.unit.kernel.profile.vtd_iopf_enables_pri:
            low |= SM_PRE
        self.words[at + 2] = self.words[at + 3] = 0
        did = 0 if self.unit.kernel.profile.vtd_context_at_probe else getattr(info.domain, "id", FLPT_DEFAULT_DID)
        self._set(at, info.sid, low, IOMMU_NO_PASID, did)

    def _set(self, at: int, sid: int, low: int, high: int, did: int) -> None:
        self.words[at + 1] = high
        self.words[at] = low | PRESENT
        if self.unit.caps.cm:  # what is not present is cached as of domain 0
            self.unit.qi.flush_context(0, sid, CC_DEVICE)
            self.unit.qi.flush_iotlb(did, 0, 0, IOTLB_DSI)

    def flip_pri(self, info: DeviceDomainInfo, *, enable: bool) -> bool:
        """Page requests of the device are taken, or not; False: no entry. C: ``context_flip_pri()``."""
        at = self.addr(info.sid, alloc=False)
        if at is None or not self.words[at] & PRESENT:
            return False
        low = self.words[at]
        self.words[at] = low | SM_PRE if enable else low & ~SM_PRE
        self._flush_no_pasid(info, 0)
        return True

    def clear(self, info: DeviceDomainInfo) -> None:
        """
        The entry of the device goes, and what the caches know by it.

        C: ``domain_context_clear_one()``; 6.12: ``intel_context_flush_no_pasid()``
        """
        at = self.addr(info.sid, alloc=False)
        if at is None or not self.words[at] & PRESENT:
            return
        scalable, qi = self.unit.scalable, self.unit.qi
        did = getattr(info.domain, "id", FLPT_DEFAULT_DID) if scalable else self.words[at + 1] >> 8 & 0xFFFF
        self.words[at] &= ~PRESENT
        if self.unit.kernel.profile.vtd_context_at_probe:
            self._flush_no_pasid(info, did)
        else:
            qi.flush_context(did, info.sid, CC_DEVICE)
            if scalable:
                qi.flush_pasid_cache(did, PC_ALL_PASIDS, 0)
            qi.flush_iotlb(did, 0, 0, IOTLB_DSI)
            self._flush_dev_iotlb(info)
        for n in range(4 if scalable else 2):
            self.words[at + n] = 0

    def _flush_no_pasid(self, info: DeviceDomainInfo, did: int) -> None:
        self.unit.qi.flush_context(did, info.sid, CC_DEVICE)
        if not self.unit.scalable:
            self.unit.qi.flush_iotlb(did, 0, 0, IOTLB_DSI)
        self._flush_dev_iotlb(info)

    def _flush_dev_iotlb(self, info: DeviceDomainInfo) -> None:
        if info.ats_enabled and info.present:
            self.unit.qi.flush_dev_iotlb(info.sid, info.pfsid, info.ats_qdep, 0, MAX_AGAW_PFN_WIDTH)
