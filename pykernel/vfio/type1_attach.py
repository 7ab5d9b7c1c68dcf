"""
Groups of a container: their domains, and what is mapped put into a new one
(drivers/vfio/vfio_iommu_type1.c: vfio_iommu_type1_attach_group(), vfio_iommu_type1_detach_group()).
"""

from __future__ import annotations

from errno import EBUSY, EINVAL, EPERM
from typing import TYPE_CHECKING

from pykernel.errors import Oops, err
from pykernel.iommu.iommu import (
    IOMMU_CACHE,
    iommu_domain_alloc,
    iommu_domain_free,
    iommu_group_get_resv_regions,
)
from pykernel.log import WARNING
from pykernel.vfio import type1_mdev, type1_nesting
from pykernel.vfio.container import VfioGroupType
from pykernel.vfio.type1_dirty import vfio_iommu_populate_bitmap_full
from pykernel.vfio.type1_iova import (
    Iovas,
    vfio_iommu_aper_conflict,
    vfio_iommu_aper_expand,
    vfio_iommu_aper_resize,
    vfio_iommu_resv_conflict,
    vfio_iommu_resv_exclude,
)
from pykernel.vfio.type1_pin import Batch, vfio_lock_acct, vfio_remove_dma, vfio_unmap_unpin, vfio_unpin_dma
from pykernel.vfio.type1_state import VfioDomain, VfioIommu, VfioIommuGroup

if TYPE_CHECKING:
    from pykernel.iommu.iommu import IommuDomain, IommuGroup
    from pykernel.vfio.type1_dma import VfioDma

__all__ = ["vfio_iommu_attach_group", "vfio_iommu_detach_group", "vfio_iommu_release"]

SHIFT = 12


def vfio_iommu_attach_group(iommu: VfioIommu, iommu_group: IommuGroup, type: VfioGroupType) -> None:
    """
    C: ``int vfio_iommu_type1_attach_group(void *, struct iommu_group *, enum vfio_group_type)``.

    Raises:
        EBUSY: the address of a mapping was taken back. EPERM: interrupts are not remapped.
        EINVAL: the group is in the container; the container is of the nesting type, which VT-d has not; something is
            mapped where the group's devices cannot reach.
        What the IOMMU says, or pinning what is mapped does.
    """
    with iommu.lock:
        if iommu.vaddr_invalid_count:
            raise err(EBUSY, "the address of a mapping was taken back")
        if iommu.find_group(iommu_group) is not None:
            raise err(EINVAL, "the group is in the container")
        backed = type == VfioGroupType.EMULATED_IOMMU and type1_mdev.is_backed(iommu_group)
        if type == VfioGroupType.EMULATED_IOMMU and not backed:
            iommu.emulated_iommu_groups.insert(0, VfioIommuGroup(iommu_group, pinned=True))
            return
        _attach(iommu, VfioIommuGroup(iommu_group, mdev=backed))


def _attach(iommu: VfioIommu, group: VfioIommuGroup) -> None:
    raw = iommu_domain_alloc(type1_mdev.parts(group)[0][1])
    attached = False
    try:
        if iommu.nesting:
            type1_nesting.enable_nesting(iommu.kernel, raw)
        type1_mdev.attach(raw, group)
        attached = True
        iovas = _usable(iommu, raw, group.iommu_group)
        _check_interrupts(iommu, group)
        domain = VfioDomain(raw)
        domain.group_list.append(group)
        domain.enforce_cache_coherency = raw.enforce_cache_coherency()
        attached = False
        joined = _join(iommu, domain, group)
        attached = not joined
        if not joined:
            _replay(iommu, domain)
    except OSError:
        if attached:
            type1_mdev.detach(raw, group)
        iommu_domain_free(raw)
        raise
    if joined:
        iommu_domain_free(raw)
    else:
        iommu.domain_list.insert(0, domain)
        iommu.update_pgsize_bitmap()
    if iommu.faults is not None:
        iommu.faults.listen()
    iommu.iova_list = iovas
    iommu.num_non_pinned_groups += 1


def _usable(iommu: VfioIommu, domain: IommuDomain, group: IommuGroup) -> Iovas:
    """The addresses that are usable with this group, too. Raises EINVAL: not all of those that are mapped."""
    start, end = domain.geometry.aperture_start, domain.geometry.aperture_end
    if vfio_iommu_aper_conflict(iommu.iova_list, iommu.dma_list, start, end):
        raise err(EINVAL, f"something is mapped that is not in {start:#x}-{end:#x}")
    regions = iommu_group_get_resv_regions(group)
    if vfio_iommu_resv_conflict(iommu.dma_list, regions):
        raise err(EINVAL, "something is mapped where addresses are reserved")
    return vfio_iommu_resv_exclude(vfio_iommu_aper_resize(iommu.iova_list, start, end), regions)


def _check_interrupts(iommu: VfioIommu, group: VfioIommuGroup) -> None:
    if iommu.param["allow_unsafe_interrupts"] or type1_mdev.has_isolated_msi(group):
        return
    iommu.kernel.log.printk(
        WARNING,
        "vfio_iommu_type1_attach_group: No interrupt remapping support.  Use the module param "
        '"allow_unsafe_interrupts" to enable VFIO IOMMU support on this platform',
    )
    raise err(EPERM, "interrupts are not remapped")


def _join(iommu: VfioIommu, new: VfioDomain, group: VfioIommuGroup) -> bool:
    """Put the group into a domain that there is, if it can use one. Raises what attaching it again to *new* does."""
    for d in iommu.domain_list:
        if d.enforce_cache_coherency != new.enforce_cache_coherency:  # all have one IOMMU's operations
            continue
        type1_mdev.detach(new.domain, group)
        try:
            type1_mdev.attach(d.domain, group)
        except OSError:
            type1_mdev.attach(new.domain, group)
            continue
        d.group_list.insert(0, group)
        return True
    return False


def _replay(iommu: VfioIommu, domain: VfioDomain) -> None:
    """Map in *domain* what is mapped, or nothing. C: ``vfio_iommu_replay(iommu, domain)``."""
    done: list[VfioDma] = []
    batch = Batch(iommu)
    try:
        for dma in iommu.dma_list:
            done.append(dma)
            if dma.iommu_mapped:
                _map_extents(dma, domain)
            else:
                _pin_and_map(dma, domain, batch)
    except OSError:
        for dma in reversed(done):
            _unwind(dma, domain, batch)
        raise
    for dma in done:
        dma.iommu_mapped = True


def _map_extents(dma: VfioDma, domain: VfioDomain) -> None:
    iova = dma.iova
    for pa, npage in dma.extents:
        domain.domain.map(iova, pa, npage << SHIFT, dma.prot | IOMMU_CACHE)
        iova += npage << SHIFT


def _pin_and_map(dma: VfioDma, domain: VfioDomain, batch: Batch) -> None:
    iova = dma.iova
    while iova < dma.end:
        pa, npage = batch.pin(dma, iova, dma.end - iova >> SHIFT)
        domain.domain.map(iova, pa, npage << SHIFT, dma.prot | IOMMU_CACHE)
        iova += npage << SHIFT


def _unwind(dma: VfioDma, domain: VfioDomain, batch: Batch) -> None:
    domain.domain.unmap(dma.iova, dma.size)
    if not dma.iommu_mapped:
        batch.drop(dma)
        locked = _pinned_by_drivers(dma)
        vfio_lock_acct(dma, locked - vfio_unpin_dma(dma), async_=True)


def _pinned_by_drivers(dma: VfioDma) -> int:
    """How many pages of those that the replay has pinned drivers have, too. C: ``vfio_unpin_pages_remote(...)``."""
    if not dma.pfns:
        return 0
    ours = {runs[0].pa for _, runs in dma.pins}  # where extents begin that are not reserved
    locked, iova = 0, dma.iova
    for pa, npage in dma.extents:
        end = iova + (npage << SHIFT)
        if pa in ours:
            locked += sum(iova <= at < end for at in dma.pfns)
        iova = end
    return locked


def vfio_iommu_detach_group(iommu: VfioIommu, iommu_group: IommuGroup) -> None:
    """C: ``void vfio_iommu_type1_detach_group(void *, struct iommu_group *)``."""
    with iommu.lock:
        emulated = next((g for g in iommu.emulated_iommu_groups if g.iommu_group is iommu_group), None)
        if emulated is not None:
            iommu.emulated_iommu_groups.remove(emulated)
            if not iommu.emulated_iommu_groups and not iommu.domain_list:
                _unmap_all(iommu)
            scope = not emulated.pinned_page_dirty_scope
        else:
            scope = _detach(iommu, iommu_group)
        if scope:
            iommu.num_non_pinned_groups -= 1
            if iommu.dirty_page_tracking:
                vfio_iommu_populate_bitmap_full(iommu)


def _detach(iommu: VfioIommu, iommu_group: IommuGroup) -> bool:
    """Take a group out of its domain. Returns whether it could write to all that was mapped."""
    iovas, scope = iommu.iova_list, False
    for domain in iommu.domain_list:
        group = domain.find(iommu_group)
        if group is None:
            continue
        type1_nesting.leave(iommu, domain, group)
        type1_mdev.detach(domain.domain, group)
        scope = not group.pinned_page_dirty_scope
        domain.group_list.remove(group)
        if not domain.group_list:
            _drop_domain(iommu, domain)
            geometries = [d.domain.geometry for d in iommu.domain_list]
            iovas = vfio_iommu_aper_expand(iovas, [(g.aperture_start, g.aperture_end) for g in geometries])
        break
    if iovas:
        iommu.iova_list = _refresh(iommu, iovas)
    return scope


def _drop_domain(iommu: VfioIommu, domain: VfioDomain) -> None:
    """The last group of a domain left: with the last domain the mappings go, or what hardware had of them."""
    if len(iommu.domain_list) == 1:
        if iommu.emulated_iommu_groups:
            _reaccount(iommu)
        else:
            _unmap_all(iommu)
    iommu_domain_free(domain.domain)
    iommu.domain_list.remove(domain)
    iommu.update_pgsize_bitmap()


def _refresh(iommu: VfioIommu, iovas: Iovas) -> Iovas:
    """From the first to the last of *iovas*, without what other groups reserve. C: vfio_iommu_resv_refresh()."""
    regions = [
        region
        for domain in iommu.domain_list
        for group in domain.group_list
        for region in iommu_group_get_resv_regions(group.iommu_group)
    ]
    try:
        return vfio_iommu_resv_exclude([(iovas[0][0], iovas[-1][1])], regions)
    except OSError:
        return iommu.iova_list


def _unmap_all(iommu: VfioIommu) -> None:
    """C: ``void vfio_iommu_unmap_unpin_all(struct vfio_iommu *)``."""
    if iommu.device_list:
        iommu.kernel.oops(Oops("WARN_ON(!list_empty(&iommu->device_list))"))
    for dma in list(iommu.dma_list):
        vfio_remove_dma(iommu, dma)


def _reaccount(iommu: VfioIommu) -> None:
    """Nothing is mapped any more; what drivers have pinned stays charged. C: vfio_iommu_unmap_unpin_reaccount()."""
    for dma in iommu.dma_list:
        charged = sum(bool(vpfn.runs) for vpfn in dma.pfns.values())  # the others are reserved
        vfio_lock_acct(dma, charged - vfio_unmap_unpin(iommu, dma), async_=True)


def vfio_iommu_release(iommu: VfioIommu) -> None:
    """C: ``void vfio_iommu_type1_release(void *)``: nothing is mapped, pinned or charged any more."""
    iommu.emulated_iommu_groups.clear()
    for dma in list(iommu.dma_list):
        vfio_remove_dma(iommu, dma)
    for domain in iommu.domain_list:
        for group in list(domain.group_list):
            type1_nesting.leave(iommu, domain, group)
            type1_mdev.detach(domain.domain, group)
            domain.group_list.remove(group)
        iommu_domain_free(domain.domain)
    iommu.domain_list.clear()
    iommu.iova_list = []
