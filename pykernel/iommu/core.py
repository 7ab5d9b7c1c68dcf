"""What the IOMMU layer of one kernel knows (drivers/iommu/iommu.c): its groups, and which default domains they get."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pykernel.fs.sysfs import Kset, SysFs
from pykernel.iommu.cmdline import intel_options
from pykernel.iommu.domain import (
    IOMMU_DOMAIN_BLOCKED,
    IOMMU_DOMAIN_DMA,
    IOMMU_DOMAIN_DMA_FQ,
    IOMMU_DOMAIN_IDENTITY,
    IOMMU_DOMAIN_UNMANAGED,
    IommuDomain,
)
from pykernel.iommu.resv import IOMMU_RESV_DIRECT, IOMMU_RESV_DIRECT_RELAXABLE
from pykernel.lib.idr import Ida
from pykernel.lib.kstrtox import kstrtobool
from pykernel.log import INFO, WARNING

if TYPE_CHECKING:
    from pykernel.base.core import Device
    from pykernel.iommu.group import IommuGroup
    from pykernel.iommu.intel import IntelIommu
    from pykernel.kernel import Kernel

__all__ = ["IommuCore", "dev_iommu"]

PAGE = 4096


def dev_iommu(dev: Device) -> IntelIommu | None:
    """The IOMMU that translates for *dev*. C: ``dev->iommu->iommu_dev``."""
    return dev.iommu


class IommuCore:
    """The groups of one kernel and what its command line says of default domains."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.dir = Kset(kernel, "iommu_groups", kernel.sub(SysFs).top["kernel"])
        self.dir.add()
        self.group_ids = Ida()
        self.groups: dict[int, IommuGroup] = {}
        self.passthrough = False
        self.strict = False
        self.forcedac = False
        for word in kernel.machine.cmdline.split():
            name, equals, value = word.partition("=")
            if not self._early(name, value if equals else None):
                kernel.log.printk(WARNING, f"Malformed early option '{name}'")  # init/main.c:do_early_param()
        options = {option for option, _ in intel_options(kernel.machine.cmdline)}
        self.strict = self.strict or "strict" in options
        self.forcedac = self.forcedac or "forcedac" in options

    def _early(self, name: str, value: str | None) -> bool:
        """Take one parameter of ours; False: its value is none that it may have."""
        # iommu.c:iommu_set_def_domain_type(), iommu_dma_setup(); dma-iommu.c:iommu_dma_forcedac_setup()
        if name in ("iommu.passthrough", "iommu.strict", "iommu.forcedac"):
            try:
                known = kstrtobool(value or "", e=self.kernel.profile.kstrtobool_enable)
            except OSError:
                return False
            setattr(self, name.removeprefix("iommu."), known)
            if name == "iommu.forcedac" and self.forcedac:
                self.kernel.log.printk(INFO, "Forcing DAC for PCI devices")
        elif name == "iommu":  # arch/x86/kernel/pci-dma.c:iommu_setup()
            if value is None:
                return False
            for option in value.split(","):
                self.passthrough = {"pt": True, "nopt": False}.get(option, self.passthrough)
                self.forcedac = self.forcedac or option == "forcedac"
        return True

    @property
    def default_type(self) -> int:
        """``iommu_def_domain_type``."""
        if self.passthrough:
            return IOMMU_DOMAIN_IDENTITY
        return IOMMU_DOMAIN_DMA if self.strict else IOMMU_DOMAIN_DMA_FQ

    def alloc_default_domain(self, dev: Device, wanted: int | None) -> IommuDomain:
        """C: ``iommu_group_alloc_default_domain()``. Raises ENOMEM."""
        with self.kernel.ledger.held(self.kernel.ledger.kernel):
            assert dev.iommu is not None
            return dev.iommu.domain_alloc(self.default_type if wanted is None else wanted)

    def alloc_blocking_domain(self, group: IommuGroup) -> IommuDomain:
        """An empty one where the driver has none that blocks. C: ``__iommu_group_alloc_blocking_domain()``. ENOMEM."""
        unit = group.devices[0].iommu
        assert unit is not None
        own = self.kernel.profile.iommu_blocked_domain
        with self.kernel.ledger.held(self.kernel.ledger.kernel):
            return unit.domain_alloc(IOMMU_DOMAIN_BLOCKED if own else IOMMU_DOMAIN_UNMANAGED)

    def create_direct_mappings(self, domain: IommuDomain, dev: Device) -> None:
        """
        Map what the firmware wants one to one. C: ``int iommu_create_device_direct_mappings(...)``.

        Raises:
            What map() raises.
        """
        if not domain.is_dma or dev.iommu is None:
            return
        for region in dev.iommu.get_resv_regions(dev):
            if region.type not in (IOMMU_RESV_DIRECT, IOMMU_RESV_DIRECT_RELAXABLE):
                continue
            size = 0
            start, end = -(-region.start // PAGE) * PAGE, -(-(region.end + 1) // PAGE) * PAGE
            for addr in range(start, end + PAGE, PAGE):
                if addr != end and domain.iova_to_phys(addr) is None:
                    size += PAGE
                elif size:
                    domain.map(addr - size, addr - size, size, region.prot)
                    size = 0
        domain.flush_iotlb_all()
