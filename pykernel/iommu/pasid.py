"""
PASID tables of devices: a directory of 64-entry tables, and what an entry means (drivers/iommu/intel/pasid.c).

Directory and tables lie in memory, where the unit reads them: an index is PASID[19:6], then PASID[5:0]; an entry has
512 bits (VT-d 9.5, 9.6). What changes a present entry ends with the invalidations of VT-d 6.5.3.3, in Linux's order.
"""

from __future__ import annotations

from dataclasses import dataclass
from errno import EBUSY, EEXIST, EINVAL, ENODEV, EOPNOTSUPP
from typing import TYPE_CHECKING, Final

from pykernel.errors import err
from pykernel.iommu.qi import IOTLB_DSI, MAX_AGAW_PFN_WIDTH, PC_PASID_SEL
from pykernel.log import ERR
from pykernel.mm.phys import PAGE_SIZE
from pykernel.uapi.linux.iommufd import IOMMU_VTD_S1_EAFE, IOMMU_VTD_S1_SRE, IOMMU_VTD_S1_WPE

if TYPE_CHECKING:
    from pykernel.base.core import Device
    from pykernel.iommu.devinfo import DeviceDomainInfo
    from pykernel.iommu.intel import IntelIommu
    from pykernel.iommu.paging import PagingDomain

__all__ = [
    "FLPT_DEFAULT_DID",
    "IOMMU_NO_PASID",
    "PASID_FLAG_FL5LP",
    "PASID_FLAG_PAGE_SNOOP",
    "PASID_FLAG_SUPERVISOR_MODE",
    "PASID_MAX",
    "PASID_MIN",
    "PasidTable",
    "intel_pasid_alloc_table",
    "intel_pasid_free_table",
    "intel_pasid_get_entry",
    "intel_pasid_setup_dirty_tracking",
    "intel_pasid_setup_first_level",
    "intel_pasid_setup_nested",
    "intel_pasid_setup_page_snoop_control",
    "intel_pasid_setup_pass_through",
    "intel_pasid_setup_second_level",
    "intel_pasid_tear_down_entry",
]

IOMMU_NO_PASID: Final = 0  # PASID_RID2PASID: requests without a PASID
PASID_MIN: Final = 1
PASID_MAX: Final = 0x100000
PASID_PDE_SHIFT: Final = 6
FLPT_DEFAULT_DID: Final = 1  # of first-stage-only and pass-through entries

PASID_FLAG_SUPERVISOR_MODE: Final = 1 << 0
PASID_FLAG_FL5LP: Final = 1 << 1
PASID_FLAG_PAGE_SNOOP: Final = 1 << 2

PRESENT, FPD = 1, 2
PGTT_FL_ONLY, PGTT_SL_ONLY, PGTT_NESTED, PGTT_PT = 1, 2, 3, 4
AW_SHIFT, PGTT_SHIFT, SSADE = 2, 6, 1 << 9
PWSNP, PGSNP = 1 << 23, 1 << 24  # of the second word
SRE, FSPM_5LP, WPE, NXE, EAFE = 1 << 0, 1 << 2, 1 << 4, 1 << 5, 1 << 7  # of the third
PAGE_MASK: Final = (1 << 64) - PAGE_SIZE
WORDS: Final = 8  # of an entry
ADDR_WIDTH_4LEVEL, ADDR_WIDTH_5LEVEL = 48, 57


@dataclass(slots=True)
class PasidTable:
    """``struct pasid_table``: the directory at *table*, of ``1 << order`` pages, for PASIDs below *max_pasid*."""

    table: int
    order: int
    max_pasid: int


# ---- tables


def intel_pasid_alloc_table(info: DeviceDomainInfo) -> None:
    """
    An empty directory for the device. C: ``int intel_pasid_alloc_table(struct device *)``.

    Raises:
        EINVAL (6.12: EEXIST): it has one. ENOMEM.
    """
    if info.pasid_table is not None:
        raise err(EEXIST if info.unit.kernel.profile.iommu_sva_domain else EINVAL, "there is a table")
    max_pasid = min(info.max_pasids, info.unit.max_pasid) if info.pasid_supported else 0
    pages = -(-(max_pasid >> PASID_PDE_SHIFT - 3) // PAGE_SIZE)
    order = max(0, pages - 1).bit_length()
    table = info.unit.phys.alloc_pages(1 << order)
    info.pasid_table = PasidTable(table, order, 1 << order + 12 + 3)


def intel_pasid_free_table(info: DeviceDomainInfo) -> None:
    """C: ``void intel_pasid_free_table(struct device *)``."""
    table, info.pasid_table = info.pasid_table, None
    if table is None:
        return
    phys = info.unit.phys
    at = table.table >> 3
    for pde in phys.words[at : at + (table.max_pasid >> PASID_PDE_SHIFT)].tolist():
        if pde & PRESENT:
            phys.free_pages(pde & PAGE_MASK)
    phys.free_pages(table.table, 1 << table.order)


def intel_pasid_get_entry(info: DeviceDomainInfo, pasid: int) -> int | None:
    """
    Which word of memory the entry of *pasid* begins with; its table is made if it is missing. None: there is none.

    C: ``static struct pasid_entry *intel_pasid_get_entry(struct device *, u32)``
    """
    table, phys = info.pasid_table, info.unit.phys
    if table is None or not 0 <= pasid < table.max_pasid:
        return None
    at = (table.table >> 3) + (pasid >> PASID_PDE_SHIFT)
    pde = phys.words[at]
    if not pde & PRESENT:
        try:
            pde = phys.alloc_page() | PRESENT
        except OSError:
            return None
        phys.words[at] = pde
    return ((pde & PAGE_MASK) >> 3) + (pasid & 63) * WORDS


def _claim(info: DeviceDomainInfo, pasid: int) -> int:
    """The entry of *pasid*, which must be free. Raises ENODEV: no entry; EBUSY: it is present."""
    at = intel_pasid_get_entry(info, pasid)
    if at is None:
        raise err(ENODEV, f"no entry for PASID {pasid}")
    if info.unit.phys.words[at] & PRESENT:
        raise err(EBUSY, f"PASID {pasid} of {info.dev.name} is in use")
    return at


def _store(info: DeviceDomainInfo, at: int, pasid: int, entry: tuple[int, int, int]) -> None:
    """Write an entry, present last, and tell the caches. C: ``pasid_set_present()``, ``pasid_flush_caches()``."""
    words = info.unit.phys.words
    for n in range(WORDS):
        words[at + n] = 0
    words[at + 1], words[at + 2] = entry[1], entry[2]
    words[at] = entry[0] | PRESENT
    if info.unit.caps.cm:
        did = entry[1] & 0xFFFF
        info.unit.qi.flush_pasid_cache(did, PC_PASID_SEL, pasid)
        info.unit.qi.flush_piotlb(did, pasid, 0, -1)


def _info(dev: Device) -> DeviceDomainInfo:
    unit = dev.iommu
    info = unit.info(dev) if unit is not None else None
    if info is None:
        raise err(ENODEV, f"{dev.name} is behind no IOMMU")
    return info


def _refuse(unit: IntelIommu, text: str) -> OSError:
    unit.kernel.log.printk(ERR, f"DMAR: {text} on {unit.name}")
    return err(EINVAL, text)


# ---- entries


def intel_pasid_setup_first_level(dev: Device, pgd: int, pasid: int, did: int, flags: int) -> None:
    """
    Translate *pasid* by the first-stage tables at *pgd*.

    C: ``int intel_pasid_setup_first_level(struct intel_iommu *, struct device *, pgd_t *, u32, u16, int)``

    Raises:
        EINVAL: the unit cannot. ENODEV: no entry. EBUSY: the entry is present.
    """
    info = _info(dev)
    unit, caps = info.unit, info.unit.caps
    if not caps.fsts:
        raise _refuse(unit, "No first level translation support")
    old = unit.kernel.profile.vtd_supervisor_pasids
    supervisor = old and flags & PASID_FLAG_SUPERVISOR_MODE
    if supervisor and not caps.srs:
        raise _refuse(unit, "No supervisor request support")
    if flags & PASID_FLAG_FL5LP and not caps.fs5lp:
        raise _refuse(unit, "No 5-level paging support for first-level")
    at = _claim(info, pasid)
    third = pgd & PAGE_MASK | (SRE | WPE if supervisor else 0) | (FSPM_5LP if flags & PASID_FLAG_FL5LP else 0)
    third |= NXE if old else 0
    second = did | (PWSNP if caps.smpwcs else 0) | (PGSNP if flags & PASID_FLAG_PAGE_SNOOP else 0)
    _store(info, at, pasid, (caps.agaw << AW_SHIFT | PGTT_FL_ONLY << PGTT_SHIFT, second, third))


def intel_pasid_setup_second_level(domain: PagingDomain, dev: Device, pasid: int) -> None:
    """
    Translate *pasid* by the second-stage tables of *domain*.

    C: ``int intel_pasid_setup_second_level(struct intel_iommu *, struct dmar_domain *, struct device *, u32)``

    Raises:
        EINVAL: the unit cannot. ENODEV: no entry. EBUSY: the entry is present.
    """
    info = _info(dev)
    unit, caps = info.unit, info.unit.caps
    if not caps.ssts:
        raise _refuse(unit, "No second level translation support")
    at = _claim(info, pasid)
    old = unit.kernel.profile.vtd_supervisor_pasids
    first = domain.table.root | domain.agaw << AW_SHIFT | PGTT_SL_ONLY << PGTT_SHIFT
    first |= SSADE if domain.dirty_tracking else 0
    second = domain.id | (PWSNP if caps.smpwcs else 0)
    _store(info, at, pasid, (first, second, SRE if old and pasid != IOMMU_NO_PASID and caps.srs else 0))


def intel_pasid_setup_pass_through(dev: Device, pasid: int) -> None:
    """
    Addresses of *pasid* are physical. C: ``int intel_pasid_setup_pass_through(...)``.

    Raises:
        ENODEV: no entry. EBUSY: the entry is present.
    """
    info = _info(dev)
    caps = info.unit.caps
    at = _claim(info, pasid)
    old = info.unit.kernel.profile.vtd_supervisor_pasids
    first = caps.agaw << AW_SHIFT | PGTT_PT << PGTT_SHIFT
    second = FLPT_DEFAULT_DID | (PWSNP if caps.smpwcs else 0)
    _store(info, at, pasid, (first, second, SRE if old and caps.srs else 0))


def intel_pasid_setup_nested(
    dev: Device, pasid: int, pgd_gpa: int, domain: PagingDomain, width: int, flags: int, *, did: int | None = None
) -> None:
    """
    Translate *pasid* by a guest's tables at *pgd_gpa*, whose addresses are those of the second stage of *domain*.

    C: ``int intel_pasid_setup_nested(...)``

    Args:
        width: bits of the guest's addresses: 48 or 57.
        flags: IOMMU_VTD_S1_SRE, _EAFE, _WPE.
        did: the tag of what is cached; the domain's own unless said.

    Raises:
        EINVAL: the width, or what the unit cannot. ENODEV: no entry. EBUSY: the entry is present.
    """
    info = _info(dev)
    unit, caps = info.unit, info.unit.caps
    if width not in (ADDR_WIDTH_4LEVEL, ADDR_WIDTH_5LEVEL):
        dev.err(f"Invalid stage-1 address width {width}")
        raise err(EINVAL)
    if width == ADDR_WIDTH_5LEVEL and not caps.fs5lp:
        dev.err("5-level paging not supported")
        raise err(EINVAL)
    if flags & IOMMU_VTD_S1_SRE and not caps.srs:
        raise _refuse(unit, "No supervisor request support")
    if flags & IOMMU_VTD_S1_EAFE and not caps.eafs:
        raise _refuse(unit, "No extended access flag support")
    at = _claim(info, pasid)
    first = domain.table.root | domain.agaw << AW_SHIFT | PGTT_NESTED << PGTT_SHIFT
    first |= SSADE if domain.dirty_tracking else 0
    second = domain.id if did is None else did
    second |= (PWSNP if caps.smpwcs else 0) | (PGSNP if domain.force_snooping else 0)
    third = pgd_gpa & PAGE_MASK | (FSPM_5LP if width == ADDR_WIDTH_5LEVEL else 0)
    third |= (SRE if flags & IOMMU_VTD_S1_SRE else 0) | (
        WPE if flags & IOMMU_VTD_S1_SRE and flags & IOMMU_VTD_S1_WPE else 0
    )
    _store(info, at, pasid, (first, second, third | (EAFE if flags & IOMMU_VTD_S1_EAFE else 0)))


# ---- changes of present entries


def intel_pasid_tear_down_entry(dev: Device, pasid: int, *, fault_ignore: bool = False) -> None:
    """
    Take the entry away; *fault_ignore* leaves FPD in it, so what the device still does is blocked in silence.

    C: ``void intel_pasid_tear_down_entry(struct intel_iommu *, struct device *, u32, bool)``: present goes, then the
    PASID cache, IOTLB and device TLB forget it, then the rest goes; 6.12 drains page requests here, too.
    """
    info = _info(dev)
    unit, words = info.unit, info.unit.phys.words
    at = intel_pasid_get_entry(info, pasid)
    if at is None:
        return
    drains = unit.kernel.profile.vtd_teardown_drains
    first = words[at]
    if not first & PRESENT:
        if drains and first & FPD:
            _clear(info, at)
            unit.drain_prq(info, pasid)
        return
    did, pgtt = words[at + 1] & 0xFFFF, first >> PGTT_SHIFT & 7
    words[at] = first & ~PRESENT
    unit.qi.flush_pasid_cache(did, PC_PASID_SEL, pasid)
    if pgtt in (PGTT_PT, PGTT_FL_ONLY):
        unit.qi.flush_piotlb(did, pasid, 0, -1)
    else:
        unit.qi.flush_iotlb(did, 0, 0, IOTLB_DSI)
    if drains or not unit.caps.cm:
        _flush_dev_tlb(info, pasid)
    _clear(info, at, FPD if fault_ignore else 0)
    if drains and not fault_ignore:
        unit.drain_prq(info, pasid)


def _clear(info: DeviceDomainInfo, at: int, first: int = 0) -> None:
    words = info.unit.phys.words
    words[at] = first
    for n in range(1, WORDS):
        words[at + n] = 0


def _flush_dev_tlb(info: DeviceDomainInfo, pasid: int) -> None:
    """C: ``devtlb_invalidation_with_pasid()``."""
    if not info.ats_enabled or not info.present:
        return
    qi = info.unit.qi
    if pasid == IOMMU_NO_PASID:
        qi.flush_dev_iotlb(info.sid, info.pfsid, info.ats_qdep, 0, MAX_AGAW_PFN_WIDTH)
    else:
        qi.flush_dev_iotlb_pasid(info.sid, info.pfsid, pasid, info.ats_qdep, 0, MAX_AGAW_PFN_WIDTH)


def intel_pasid_setup_page_snoop_control(dev: Device, pasid: int) -> None:
    """Accesses of *pasid* snoop from now on. C: ``void intel_pasid_setup_page_snoop_control(...)``."""
    info = _info(dev)
    unit, words = info.unit, info.unit.phys.words
    at = intel_pasid_get_entry(info, pasid)
    if at is None or not words[at] & PRESENT:
        return
    words[at + 1] |= PGSNP
    did = words[at + 1] & 0xFFFF
    unit.qi.flush_pasid_cache(did, PC_PASID_SEL, pasid)
    unit.qi.flush_piotlb(did, pasid, 0, -1)
    if unit.kernel.profile.vtd_teardown_drains or not unit.caps.cm:
        _flush_dev_tlb(info, pasid)


def intel_pasid_setup_dirty_tracking(dev: Device, pasid: int, *, enabled: bool) -> None:
    """
    Have the unit mark what is written, or not. C: ``int intel_pasid_setup_dirty_tracking(...)``.

    Raises:
        ENODEV: no entry. EOPNOTSUPP: it has no second stage.
    """
    info = _info(dev)
    unit, words = info.unit, info.unit.phys.words
    at = intel_pasid_get_entry(info, pasid)
    if at is None:
        dev.err(f"Failed to get pasid entry of PASID {pasid}")
        raise err(ENODEV)
    pgtt = words[at] >> PGTT_SHIFT & 7
    if pgtt not in (PGTT_SL_ONLY, PGTT_NESTED):
        dev.err(f"Dirty tracking not supported on translation type {pgtt}")
        raise err(EOPNOTSUPP)
    if bool(words[at] & SSADE) == enabled:
        return
    words[at] ^= SSADE
    did = words[at + 1] & 0xFFFF
    unit.qi.flush_pasid_cache(did, PC_PASID_SEL, pasid)
    unit.qi.flush_iotlb(did, 0, 0, IOTLB_DSI)
    _flush_dev_tlb(info, pasid)
