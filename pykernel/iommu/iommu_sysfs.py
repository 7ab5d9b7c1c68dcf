"""/sys/class/iommu: units and what they translate for (drivers/iommu/iommu-sysfs.c, drivers/iommu/intel/iommu.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pykernel.base.class_ import Class
from pykernel.base.core import Device
from pykernel.fs.sysfs import AttrGroup, Kset
from pykernel.iommu.intel import IntelIommu

if TYPE_CHECKING:
    from pykernel.kernel import Kernel

__all__ = ["DmarDevice", "IommuClass"]

REGISTERS = 0xFED90000  # where firmware puts the first unit


class IommuClass(Class):
    """``iommu_class``, which is there without an IOMMU, too."""

    def __init__(self, kernel: Kernel) -> None:
        super().__init__(kernel, "iommu")
        self.register()


class DmarDevice(Device):
    """``struct iommu_device`` of one unit."""

    attrs = AttrGroup("version", "address", "cap", "ecap", "domains_supported", "domains_used", name="intel-iommu")

    def __init__(self, kernel: Kernel) -> None:
        super().__init__(kernel, "dmar0", class_=kernel.sub(IommuClass))
        self.unit = kernel.sub(IntelIommu)
        with kernel.ledger.held(kernel.ledger.kernel):
            self.register()
            self.devices_kobj = Kset(kernel, "devices", self)
            self.devices_kobj.add()

    def link(self, dev: Device) -> None:
        """C: ``int iommu_device_link(struct iommu_device *, struct device *)``."""
        self.devices_kobj.create_link(dev, dev.name)
        dev.create_link(self, "iommu")

    def unlink(self, dev: Device) -> None:
        """C: ``void iommu_device_unlink(struct iommu_device *, struct device *)``."""
        dev.remove_link("iommu")
        self.devices_kobj.remove_link(dev.name)

    def version_show(self) -> str:
        """version_show()."""
        version = self.unit.version
        return f"{version >> 4 & 15}:{version & 15}\n"

    def address_show(self) -> str:
        """address_show()."""
        return f"{REGISTERS:x}\n"

    def cap_show(self) -> str:
        """cap_show()."""
        return f"{self.unit.caps.cap:x}\n"

    def ecap_show(self) -> str:
        """ecap_show()."""
        return f"{self.unit.caps.ecap:x}\n"

    def domains_supported_show(self) -> str:
        """domains_supported_show()."""
        return f"{self.unit.caps.ndoms}\n"

    def domains_used_show(self) -> str:
        """domains_used_show(): domain 0 is nobody's, and in scalable mode 1 is of all first-stage tables."""
        domains = [info.domain for info in self.unit.infos.values()]
        attached = {id(domain) for domain in domains if domain is not None and domain.paging}
        return f"{len(attached) + 1 + self.unit.scalable}\n"
