"""
What a guest invalidates of its page tables (drivers/iommu/intel/iommu.c of Linux 5.10: intel_iommu_sva_invalidate()).

Linux takes any PASID here; the entries of others have other domains, so it costs them a look-up. Here it must be one
that is bound to the device by the caller.
"""

from __future__ import annotations

from errno import EINVAL, ENODEV
from typing import TYPE_CHECKING, Final

from pykernel.errors import err
from pykernel.iommu.gpasid import GuestPasids, check_pasid, device_info, the_domain
from pykernel.iommu.gpasid_data import copy_invalidate_info
from pykernel.iommu.qi import PC_ALL_PASIDS, PC_PASID_SEL
from pykernel.log import ERR
from pykernel.pci.dev import PciDev
from pykernel.uapi.linux.iommu import (
    IOMMU_CACHE_INV_TYPE_DEV_IOTLB,
    IOMMU_CACHE_INV_TYPE_IOTLB,
    IOMMU_CACHE_INV_TYPE_PASID,
    IOMMU_INV_ADDR_FLAGS_LEAF,
    IOMMU_INV_ADDR_FLAGS_PASID,
    IOMMU_INV_GRANU_ADDR,
    IOMMU_INV_GRANU_DOMAIN,
    IOMMU_INV_GRANU_PASID,
    IOMMU_INV_PASID_FLAGS_PASID,
)

if TYPE_CHECKING:
    from pykernel.base.core import Device
    from pykernel.iommu.devinfo import DeviceDomainInfo
    from pykernel.iommu.domain import IommuDomain
    from pykernel.uapi.linux.iommu import iommu_cache_invalidate_info

__all__ = ["iommu_cache_invalidate", "iommu_uapi_cache_invalidate"]

PAGE_SHIFT: Final = 12
ALL: Final = 64 - PAGE_SHIFT  # the order of all addresses

# inv_type_granu_table: which granularities each cache has
HAS: Final = {
    IOMMU_CACHE_INV_TYPE_IOTLB: (IOMMU_INV_GRANU_PASID, IOMMU_INV_GRANU_ADDR),
    IOMMU_CACHE_INV_TYPE_DEV_IOTLB: (IOMMU_INV_GRANU_PASID, IOMMU_INV_GRANU_ADDR),
    IOMMU_CACHE_INV_TYPE_PASID: (IOMMU_INV_GRANU_DOMAIN, IOMMU_INV_GRANU_PASID),
}


def iommu_uapi_cache_invalidate(domain: IommuDomain, dev: Device, uptr: int, *, default_pasid: int = 0) -> None:
    """
    Forget what the struct at *uptr* says; without a PASID in it, of requests without one.

    C: ``int iommu_uapi_cache_invalidate(struct iommu_domain *, struct device *, void __user *)``

    Raises:
        ENODEV: no such operation. EFAULT.
        EINVAL: argsz, version, caches, granularity, flags, padding.
        What :func:`iommu_cache_invalidate` says.
    """
    the_domain(domain)
    iommu_cache_invalidate(domain, dev, copy_invalidate_info(dev.kernel, uptr), default_pasid=default_pasid)


def iommu_cache_invalidate(
    domain: IommuDomain, dev: Device, info: iommu_cache_invalidate_info, *, default_pasid: int = 0
) -> None:
    """
    The rest, of a struct that has been read.

    C: ``static int intel_iommu_sva_invalidate(struct iommu_domain *, ...)``

    Raises:
        ENODEV: no such operation, or no PCI device.
        EINVAL: the domain is not for nesting; a cache has no such granularity; the PASID is not bound to the device.
        ENOENT: there is no such ID. EACCES: it is not of the caller's set.
    """
    paging = the_domain(domain)
    if not isinstance(dev, PciDev):
        raise err(ENODEV, f"{dev.name} is no PCI device")
    if not paging.nesting:
        raise err(EINVAL, "the domain is not for nesting")
    unit_info = device_info(dev)
    pasid = _pasid(dev, info, default_pasid)
    for cache, granularities in HAS.items():
        if not info.cache & cache:
            continue
        if info.granularity not in granularities:
            text = f"DMAR: Invalid cache type and granu combination {cache.bit_length() - 1}/{info.granularity}"
            dev.kernel.log.printk(ERR, text)
            raise err(EINVAL, text)
        _flush(unit_info, paging.id, cache, info, pasid)


def _pasid(dev: PciDev, info: iommu_cache_invalidate_info, default_pasid: int) -> int:
    by_pasid, by_addr = info.granu.pasid_info, info.granu.addr_info
    if info.granularity == IOMMU_INV_GRANU_PASID and by_pasid.flags & IOMMU_INV_PASID_FLAGS_PASID:
        pasid = by_pasid.pasid
    elif info.granularity == IOMMU_INV_GRANU_ADDR and by_addr.flags & IOMMU_INV_ADDR_FLAGS_PASID:
        pasid = by_addr.pasid
    else:
        return default_pasid
    check_pasid(pasid)
    core = dev.kernel.sub(GuestPasids)
    core.owner_of(pasid)
    if core.find(dev, pasid) is None:
        raise err(EINVAL, f"PASID {pasid} is not bound to {dev.name}")
    return pasid


def _order(info: iommu_cache_invalidate_info) -> int:
    """The order of pages that is asked for. C: ``to_vtd_size(granule_size, nr_granules)``."""
    asked = info.granu.addr_info
    pages = (asked.granule_size * asked.nb_granules) >> PAGE_SHIFT
    return min((pages - 1).bit_length() if pages else 0, ALL)


def _flush(device: DeviceDomainInfo, did: int, cache: int, info: iommu_cache_invalidate_info, pasid: int) -> None:
    qi, asked = device.unit.qi, info.granu.addr_info
    some = info.granularity == IOMMU_INV_GRANU_ADDR
    order = _order(info) if some else ALL
    addr = asked.addr & -(1 << PAGE_SHIFT + order) if some else 0
    if cache == IOMMU_CACHE_INV_TYPE_PASID:
        qi.flush_pasid_cache(did, PC_PASID_SEL if info.granularity == IOMMU_INV_GRANU_PASID else PC_ALL_PASIDS, pasid)
        return
    if cache == IOMMU_CACHE_INV_TYPE_IOTLB:
        leaf = bool(some and asked.flags & IOMMU_INV_ADDR_FLAGS_LEAF)
        qi.flush_piotlb(did, pasid, addr, 1 << order if some and order < ALL else -1, ih=leaf)
    # a guest takes it that the IOTLB's invalidation includes the device's
    if device.ats_enabled:
        qi.flush_dev_iotlb_pasid(device.sid, device.pfsid, pasid, device.ats_qdep, addr, order)
