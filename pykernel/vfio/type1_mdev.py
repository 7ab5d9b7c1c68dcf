"""
Groups and the devices whose IOMMU translates for them: their own, or a mediated device's parent's
(drivers/vfio/vfio_iommu_type1.c of Linux 5.2 to 5.11: vfio_mdev_attach_domain(), vfio_iommu_attach_group()).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pykernel.iommu.aux_domain import iommu_aux_attach_device, iommu_aux_detach_device, iommu_aux_get_pasid
from pykernel.iommu.core import dev_iommu
from pykernel.iommu.iommu import iommu_attach_group, iommu_detach_group
from pykernel.mdev import mdev_get_iommu_device

if TYPE_CHECKING:
    from pykernel.base.core import Device
    from pykernel.iommu.iommu import IommuDomain, IommuGroup
    from pykernel.vfio.type1_state import VfioIommuGroup

__all__ = ["attach", "detach", "has_isolated_msi", "iommu_devices", "is_backed", "parts"]


def is_backed(group: IommuGroup) -> bool:
    """Whether these are mediated devices whose DMA is a parent's. C: ``vfio_bus_is_mdev()``, ``group->mdev_group``."""
    return bool(group.devices) and all(mdev_get_iommu_device(dev) is not None for dev in group.devices)


def parts(group: VfioIommuGroup) -> list[tuple[Device, Device]]:
    """Its devices, each with the one whose IOMMU translates for it. C: ``vfio_mdev_get_iommu_device(dev)``."""
    return [(dev, mdev_get_iommu_device(dev) or dev) for dev in group.iommu_group.devices]


def iommu_devices(group: VfioIommuGroup) -> dict[Device, int]:
    """The devices that the IOMMU knows, and which PASID stands for requests without one: 0, if it has no own."""
    return {real: iommu_aux_get_pasid(dev) or 0 for dev, real in parts(group)}


def has_isolated_msi(group: VfioIommuGroup) -> bool:
    """C: ``bool iommu_group_has_isolated_msi(struct iommu_group *)``, of the devices that the IOMMU knows."""
    return all(unit is not None and unit.intr_remap for unit in (dev_iommu(real) for _, real in parts(group)))


def attach(domain: IommuDomain, group: VfioIommuGroup) -> None:
    """C: ``vfio_iommu_attach_group(domain, group)``. Raises what the IOMMU says; then nothing is attached."""
    if not group.mdev:
        iommu_attach_group(domain, group.iommu_group)
        return
    done: list[tuple[Device, Device]] = []
    try:
        for dev, real in parts(group):
            iommu_aux_attach_device(domain, real, dev)
            done.append((dev, real))
    except OSError:
        for dev, real in reversed(done):
            iommu_aux_detach_device(domain, real, dev)
        raise


def detach(domain: IommuDomain, group: VfioIommuGroup) -> None:
    """C: ``vfio_iommu_detach_group(domain, group)``."""
    if not group.mdev:
        iommu_detach_group(domain, group.iommu_group)
        return
    for dev, real in parts(group):
        iommu_aux_detach_device(domain, real, dev)
