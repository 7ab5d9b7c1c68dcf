"""
The API of the IOMMU layer, by the names of include/linux/iommu.h.

What others need is here: groups, domains, ownership, capabilities. The state is in ``IommuGroup`` and ``IommuDomain``.
"""

from __future__ import annotations

from dataclasses import dataclass
from errno import EBUSY, EINVAL, ENODEV, EOPNOTSUPP
from typing import TYPE_CHECKING, Any

from pykernel.errors import err
from pykernel.iommu.core import IommuCore, dev_iommu
from pykernel.iommu.domain import (
    IOMMU_CACHE,
    IOMMU_CAP_CACHE_COHERENCY,
    IOMMU_CAP_DEFERRED_FLUSH,
    IOMMU_CAP_DIRTY_TRACKING,
    IOMMU_CAP_ENFORCE_CACHE_COHERENCY,
    IOMMU_CAP_INTR_REMAP,
    IOMMU_CAP_NOEXEC,
    IOMMU_CAP_PRE_BOOT_PROTECTION,
    IOMMU_DOMAIN_BLOCKED,
    IOMMU_DOMAIN_DMA,
    IOMMU_DOMAIN_DMA_FQ,
    IOMMU_DOMAIN_IDENTITY,
    IOMMU_DOMAIN_UNMANAGED,
    IOMMU_MMIO,
    IOMMU_NOEXEC,
    IOMMU_PRIV,
    IOMMU_READ,
    IOMMU_WRITE,
    Geometry,
    IommuDomain,
)
from pykernel.iommu.group import IommuGroup
from pykernel.iommu.pasid import IOMMU_NO_PASID
from pykernel.iommu.resv import (
    IOMMU_RESV_DIRECT,
    IOMMU_RESV_DIRECT_RELAXABLE,
    IOMMU_RESV_MSI,
    IOMMU_RESV_RESERVED,
    IOMMU_RESV_SW_MSI,
    ResvRegion,
)

if TYPE_CHECKING:
    from pykernel.base.core import Device
    from pykernel.kernel import Kernel
    from pykernel.pci.dev import PciDev

__all__ = [
    "IOMMU_CACHE",
    "IOMMU_CAP_CACHE_COHERENCY",
    "IOMMU_CAP_DEFERRED_FLUSH",
    "IOMMU_CAP_DIRTY_TRACKING",
    "IOMMU_CAP_ENFORCE_CACHE_COHERENCY",
    "IOMMU_CAP_INTR_REMAP",
    "IOMMU_CAP_NOEXEC",
    "IOMMU_CAP_PRE_BOOT_PROTECTION",
    "IOMMU_DOMAIN_BLOCKED",
    "IOMMU_DOMAIN_DMA",
    "IOMMU_DOMAIN_DMA_FQ",
    "IOMMU_DOMAIN_IDENTITY",
    "IOMMU_DOMAIN_UNMANAGED",
    "IOMMU_MMIO",
    "IOMMU_NOEXEC",
    "IOMMU_PRIV",
    "IOMMU_READ",
    "IOMMU_RESV_DIRECT",
    "IOMMU_RESV_DIRECT_RELAXABLE",
    "IOMMU_RESV_MSI",
    "IOMMU_RESV_RESERVED",
    "IOMMU_RESV_SW_MSI",
    "IOMMU_WRITE",
    "Geometry",
    "IommuDomain",
    "IommuGroup",
    "ResvRegion",
    "device_iommu_capable",
    "device_iommu_mapped",
    "iommu_attach_device_pasid",
    "iommu_attach_group",
    "iommu_detach_device_pasid",
    "iommu_detach_group",
    "iommu_device_claim_dma_owner",
    "iommu_device_release_dma_owner",
    "iommu_device_unuse_default_domain",
    "iommu_device_use_default_domain",
    "iommu_domain_alloc",
    "iommu_domain_alloc_user",
    "iommu_domain_free",
    "iommu_get_domain_for_dev",
    "iommu_group_add_device",
    "iommu_group_alloc",
    "iommu_group_claim_dma_owner",
    "iommu_group_dma_owner_claimed",
    "iommu_group_get",
    "iommu_group_get_by_id",
    "iommu_group_get_resv_regions",
    "iommu_group_has_isolated_msi",
    "iommu_group_id",
    "iommu_group_put",
    "iommu_group_ref_get",
    "iommu_group_release_dma_owner",
    "iommu_group_remove_device",
    "iommu_group_replace_domain",
    "iommu_group_set_name",
]


# ---- groups


def iommu_group_alloc(kernel: Kernel) -> IommuGroup:
    """A group without devices; the caller has its reference. C: ``struct iommu_group *iommu_group_alloc(void)``."""
    return IommuGroup(kernel)


def iommu_group_get(dev: Device) -> IommuGroup | None:
    """The group of *dev* with one more reference, or None. C: ``struct iommu_group *iommu_group_get(...)``."""
    return dev.iommu_group.get() if dev.iommu_group is not None else None


def iommu_group_ref_get(group: IommuGroup) -> IommuGroup:
    """C: ``struct iommu_group *iommu_group_ref_get(struct iommu_group *)``."""
    return group.get()


def iommu_group_get_by_id(kernel: Kernel, id: int) -> IommuGroup | None:
    """With one more reference. C: ``struct iommu_group *iommu_group_get_by_id(int)``."""
    group = kernel.sub(IommuCore).groups.get(id)
    return group.get() if group is not None else None


def iommu_group_put(group: IommuGroup) -> None:
    """C: ``void iommu_group_put(struct iommu_group *)``."""
    group.put()


def iommu_group_id(group: IommuGroup) -> int:
    """C: ``int iommu_group_id(struct iommu_group *)``."""
    return group.id


def iommu_group_set_name(group: IommuGroup, name: str) -> None:
    """C: ``int iommu_group_set_name(struct iommu_group *, const char *)``."""
    group.set_name(name)


def iommu_group_add_device(group: IommuGroup, dev: Device) -> None:
    """C: ``int iommu_group_add_device(...)``. Raises EEXIST, and what attaching it to the group's domain raises."""
    group.add_device(dev)


def iommu_group_remove_device(dev: Device) -> None:
    """C: ``void iommu_group_remove_device(struct device *)``."""
    if dev.iommu_group is not None:
        dev.iommu_group.remove_device(dev)


def iommu_group_get_resv_regions(group: IommuGroup) -> list[ResvRegion]:
    """C: ``int iommu_get_group_resv_regions(struct iommu_group *, struct list_head *)``."""
    return group.resv_regions()


# ---- domains


def iommu_domain_alloc(dev: Device) -> IommuDomain:
    """
    A domain for a user of *dev*. C: ``struct iommu_domain *iommu_paging_domain_alloc(struct device *)``.

    Raises:
        ENODEV: no IOMMU. ENOMEM.
    """
    unit = dev_iommu(dev)
    if unit is None:
        raise err(ENODEV, f"{dev.name} is behind no IOMMU")
    return unit.domain_alloc(IOMMU_DOMAIN_UNMANAGED)


def iommu_domain_alloc_user(dev: Device, *, dirty_tracking: bool = False) -> IommuDomain:
    """
    ``ops->domain_alloc_user`` without a parent (6.12).

    Raises:
        ENODEV: no IOMMU. EOPNOTSUPP: it cannot track dirty pages. ENOMEM.
    """
    unit = dev_iommu(dev)
    if unit is None:
        raise err(ENODEV, f"{dev.name} is behind no IOMMU")
    if dirty_tracking and not unit.ssads:
        raise err(EOPNOTSUPP, "the IOMMU cannot track dirty pages")
    return unit.domain_alloc(IOMMU_DOMAIN_UNMANAGED, dirty_tracking=dirty_tracking)


def iommu_domain_free(domain: IommuDomain) -> None:
    """C: ``void iommu_domain_free(struct iommu_domain *)``."""
    domain.free()


def iommu_attach_group(domain: IommuDomain, group: IommuGroup) -> None:
    """
    C: ``int iommu_attach_group(struct iommu_domain *, struct iommu_group *)``.

    Raises:
        EBUSY: another domain is attached. EINVAL: no IOMMU. What attaching a device raises.
    """
    group.attach(domain)


def iommu_detach_group(domain: IommuDomain, group: IommuGroup) -> None:
    """Back to the blocking or default domain. C: ``void iommu_detach_group(...)``."""
    group.set_core_domain()


def iommu_group_replace_domain(group: IommuGroup, domain: IommuDomain) -> None:
    """C: ``int iommu_group_replace_domain(struct iommu_group *, struct iommu_domain *)``. Raises as attaching does."""
    group.set_domain(domain)


def iommu_get_domain_for_dev(dev: Device) -> IommuDomain | None:
    """C: ``struct iommu_domain *iommu_get_domain_for_dev(struct device *)``."""
    return dev.iommu_group.domain if dev.iommu_group is not None else None


@dataclass(eq=False)
class PasidHandle:
    """``struct iommu_attach_handle``: what is attached to a PASID of a group, and what its owner knows it by."""

    domain: IommuDomain
    owner: Any = None


def iommu_attach_device_pasid(domain: IommuDomain, dev: PciDev, pasid: int, owner: Any = None) -> None:
    """
    Requests of *dev*, and of all of its group, with *pasid* go to *domain*.

    C: ``int iommu_attach_device_pasid(struct iommu_domain *, struct device *, ioasid_t, struct iommu_attach_handle *)``

    Raises:
        ENODEV: no group. EINVAL: another IOMMU's domain, PASID 0, or one that a device of the group cannot have.
        EBUSY: the PASID is in use. EOPNOTSUPP: no PASIDs. What the IOMMU's driver finds wrong.
    """
    group, unit = dev.iommu_group, dev_iommu(dev)
    if group is None:
        raise err(ENODEV, f"{dev.name} has no IOMMU group")
    if unit is None or unit is not domain.unit or pasid <= IOMMU_NO_PASID:
        raise err(EINVAL, f"no domain for PASID {pasid} of {dev.name}")
    infos = [info for other in group.devices if (info := unit.info(other)) is not None]
    if any(info.max_pasids > 0 and pasid >= min(info.max_pasids, unit.max_pasid) for info in infos):
        raise err(EINVAL, f"a device of group {group.id} has no PASID {pasid}")
    if pasid in group.pasids:
        raise err(EBUSY, f"PASID {pasid} of group {group.id} is in use")
    group.pasids[pasid] = PasidHandle(domain, owner)
    done: list[Device] = []
    try:
        for info in infos:
            if info.max_pasids:
                domain.set_dev_pasid(info.dev, pasid)
                done.append(info.dev)
    except OSError:
        for other in done:
            domain.remove_dev_pasid(other, pasid)
        del group.pasids[pasid]
        raise


def iommu_detach_device_pasid(domain: IommuDomain, dev: PciDev, pasid: int) -> None:
    """C: ``void iommu_detach_device_pasid(struct iommu_domain *, struct device *, ioasid_t)``."""
    group, unit = dev.iommu_group, dev_iommu(dev)
    if group is None or unit is None:
        return
    for other in group.devices:
        info = unit.info(other)
        if info is not None and info.pasids.get(pasid) is domain:
            domain.remove_dev_pasid(other, pasid)
    group.pasids.pop(pasid, None)


# ---- who owns the DMA


def iommu_device_use_default_domain(dev: Device) -> None:
    """C: ``int iommu_device_use_default_domain(struct device *)``. Raises EBUSY: user space owns the group."""
    if dev.iommu_group is not None:
        dev.iommu_group.use_default_domain()


def iommu_device_unuse_default_domain(dev: Device) -> None:
    """C: ``void iommu_device_unuse_default_domain(struct device *)``."""
    if dev.iommu_group is not None:
        dev.iommu_group.unuse_default_domain()


def iommu_group_claim_dma_owner(group: IommuGroup, owner: object) -> None:
    """C: ``int iommu_group_claim_dma_owner(...)``. Raises EPERM: in use or owned; EBUSY: it has a domain; EINVAL."""
    if owner is None and group.kernel.profile.iommu_blocked_domain:
        raise err(EINVAL, "no owner")
    group.claim_dma_owner(owner)


def iommu_group_release_dma_owner(group: IommuGroup) -> None:
    """C: ``void iommu_group_release_dma_owner(struct iommu_group *)``."""
    group.release_dma_owner()


def iommu_group_dma_owner_claimed(group: IommuGroup) -> bool:
    """Also true while drivers use the group. C: ``bool iommu_group_dma_owner_claimed(struct iommu_group *)``."""
    return group.owner_cnt > 0


def iommu_device_claim_dma_owner(dev: Device, owner: object) -> None:
    """C: ``int iommu_device_claim_dma_owner(...)``. Raises EINVAL, ENODEV: no group; EPERM: another owner; EBUSY."""
    if owner is None:
        raise err(EINVAL, "no owner")
    if dev.iommu_group is None:
        raise err(ENODEV, f"{dev.name} has no IOMMU group")
    dev.iommu_group.claim_device_dma_owner(owner)


def iommu_device_release_dma_owner(dev: Device) -> None:
    """C: ``void iommu_device_release_dma_owner(struct device *)``."""
    if dev.iommu_group is not None:
        dev.iommu_group.release_device_dma_owner()


# ---- what a device's IOMMU can


def device_iommu_mapped(dev: Device) -> bool:
    """C: ``bool device_iommu_mapped(struct device *)``."""
    return dev.iommu_group is not None


def device_iommu_capable(dev: Device, cap: str) -> bool:
    """C: ``bool device_iommu_capable(struct device *, enum iommu_cap)``; False without an IOMMU."""
    unit = dev_iommu(dev)
    return unit is not None and unit.capable(cap)


def iommu_group_has_isolated_msi(group: IommuGroup) -> bool:
    """C: ``bool iommu_group_has_isolated_msi(struct iommu_group *)``: interrupt remapping keeps devices apart."""
    return all(unit is not None and unit.intr_remap for unit in map(dev_iommu, group.devices))
