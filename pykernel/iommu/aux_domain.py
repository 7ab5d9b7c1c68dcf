"""
Domains for parts of a device (drivers/iommu/iommu.c of Linux 5.0 to 5.17: iommu_aux_attach_device(); intel/iommu.c:
auxiliary_link_device(), aux_domain_add_dev()).

A mediated device has no requester ID of its own: its DMA is its parent's with a PASID that stands for the domain. Linux
had one such PASID for each domain; here each mediated device has its own, so that two of one parent are told apart.
"""

from __future__ import annotations

from errno import EBUSY, EINVAL, ENODEV
from typing import TYPE_CHECKING

from pykernel.errors import err
from pykernel.iommu.core import dev_iommu
from pykernel.iommu.gpasid import device_info, drain
from pykernel.iommu.paging import PagingDomain
from pykernel.iommu.pasid import intel_pasid_setup_second_level, intel_pasid_tear_down_entry
from pykernel.iommu.sva import Iommu
from pykernel.pci.dev import PciDev

if TYPE_CHECKING:
    from pykernel.base.core import Device
    from pykernel.iommu.domain import IommuDomain
    from pykernel.kernel import Kernel

__all__ = ["AuxDomains", "iommu_aux_attach_device", "iommu_aux_detach_device", "iommu_aux_get_pasid"]


class AuxDomains:
    """
    What is attached to parts of devices.

    Attributes:
        pasids: the PASID of each part (a mediated device) and its domain.
    """

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.pasids: dict[Device, tuple[int, PagingDomain]] = {}


def iommu_aux_attach_device(domain: IommuDomain, dev: Device, part: Device) -> None:
    """
    What *part* does with its own PASID of *dev* goes through *domain*.

    C: ``int iommu_aux_attach_device(struct iommu_domain *, struct device *)``

    Raises:
        ENODEV: *dev* has no PASIDs. EINVAL: the domain has no page tables. EBUSY: *part* has a domain.
        ENOSPC: no PASID is left.
    """
    core = dev.kernel.sub(AuxDomains)
    unit = dev_iommu(dev)
    if not isinstance(dev, PciDev) or unit is None or not unit.scalable:
        raise err(ENODEV, f"{dev.name} is behind no IOMMU in scalable mode")
    if not isinstance(domain, PagingDomain):
        raise err(EINVAL, "the domain has no page tables")
    if part in core.pasids:
        raise err(EBUSY, f"{part.name} has a domain")
    info = device_info(dev)
    host = dev.kernel.sub(Iommu)
    pasid = host.alloc_global_pasid(info)
    try:
        intel_pasid_setup_second_level(domain, dev, pasid)
    except OSError:
        host.free_pasid(pasid)
        raise
    core.pasids[part] = (pasid, domain)


def iommu_aux_detach_device(domain: IommuDomain, dev: Device, part: Device) -> None:
    """
    The entry goes, then the PASID; nothing if *part* is not attached to *domain*.

    C: ``void iommu_aux_detach_device(struct iommu_domain *, struct device *)``
    """
    core = dev.kernel.sub(AuxDomains)
    pasid, attached = core.pasids.get(part, (0, None))
    if attached is not domain or not isinstance(dev, PciDev):
        return
    del core.pasids[part]
    intel_pasid_tear_down_entry(dev, pasid)
    drain(dev, pasid)
    dev.kernel.sub(Iommu).free_pasid(pasid)


def iommu_aux_get_pasid(part: Device) -> int | None:
    """The PASID of *part*; None: it has no domain. C: ``int iommu_aux_get_pasid(domain, dev)``."""
    found = part.kernel.sub(AuxDomains).pasids.get(part)
    return None if found is None else found[0]
