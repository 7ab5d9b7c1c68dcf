"""
The IOMMU of the machine: VT-d, as the driver of Linux uses it (drivers/iommu/intel/iommu.c).

One unit serves all devices. In scalable mode the DMA API has first-stage tables and all others second-stage ones; in
legacy mode there are only these. Per device it knows the domain, and puts what that means into the device's slot.
Root, context and PASID tables are not laid out in memory: ``attach`` is where an entry of them would be written.
"""

from __future__ import annotations

import re
from errno import EPERM
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

from pykernel.errors import err
from pykernel.iommu import dmar
from pykernel.iommu.cmdline import intel_options, intel_text
from pykernel.iommu.domain import (
    IOMMU_CAP_CACHE_COHERENCY,
    IOMMU_CAP_DEFERRED_FLUSH,
    IOMMU_CAP_DIRTY_TRACKING,
    IOMMU_CAP_ENFORCE_CACHE_COHERENCY,
    IOMMU_CAP_INTR_REMAP,
    IOMMU_DOMAIN_BLOCKED,
    IOMMU_DOMAIN_IDENTITY,
    IOMMU_DOMAIN_UNMANAGED,
    IOMMU_READ,
    IOMMU_WRITE,
    IommuDomain,
)
from pykernel.iommu.paging import PagingDomain
from pykernel.iommu.resv import IOMMU_RESV_DIRECT, IOMMU_RESV_DIRECT_RELAXABLE, IOMMU_RESV_MSI, ResvRegion
from pykernel.iommu.space import Blocked, Fault, Physical, Translated
from pykernel.lib.idr import Ida
from pykernel.mm.phys import PhysMem
from pykernel.pci.function import DmaFault

if TYPE_CHECKING:
    from pykernel.base.core import Device
    from pykernel.kernel import Kernel
    from pykernel.pci.slot import DmaSpace

__all__ = ["IntelIommu"]

IOAPIC_RANGE_START, IOAPIC_RANGE_END = 0xFEE00000, 0xFEEFFFFF
LEVELS = {"4K": 1, "2M": 2, "1G": 3}
PCI_BASE_CLASS_DISPLAY, PCI_CLASS_BRIDGE_ISA, PCI_CLASS_SERIAL_USB = 0x03, 0x0601, 0x0C03


class IntelIommu:
    """
    ``struct intel_iommu``, the only one of its kernel.

    Attributes:
        scalable: scalable mode is on.
        address_width: bits of a device's address that can be mapped.
        largest_page: the largest page's level: 1 is 4 KiB, 2 is 2 MiB, 3 is 1 GiB.
        snoop_control: ECAP.SC: second-stage entries can make accesses snoop.
        ssads: ECAP.SLADS: accessed and dirty bits in second-stage entries, in scalable mode.
        intr_remap: interrupt remapping is on.
    """

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        spec = kernel.machine.iommu
        said = self._setup()
        self.enabled: bool = spec.enabled and said["on"]
        self.scalable: bool = self.enabled and spec.sva and said["sm_on"]
        self.address_width: int = spec.address_width
        self.largest_page: int = LEVELS[spec.largest_page] if said["sp_on"] else 1
        self.snoop_control: bool = spec.snoop_control
        self.ssads: bool = self.scalable and spec.dirty_tracking
        self.intr_remap: bool = spec.intr_remap
        self.domain_ids = Ida()
        self.blocked = IommuDomain(self, IOMMU_DOMAIN_BLOCKED)
        self.faults = dmar.DmarFaults(kernel)
        self.domains: dict[Device, IommuDomain] = {}
        self.rmrr: dict[str, list[tuple[int, int]]] = {}
        for text in spec.rmrr:
            name, start, end = re.split("[ -]+", text)
            self.rmrr.setdefault(name, []).append((int(start, 16), int(end, 16)))

    def _setup(self) -> dict[str, bool]:
        """
        What the command line says of ``dmar_disabled``, ``intel_iommu_sm`` and ``intel_iommu_superpage``.

        C: ``static int __init intel_iommu_setup(char *str)``
        """
        said = {"on": True, "sm_on": True, "sp_on": True}
        for option, text in intel_options(self.kernel.machine.cmdline):
            self.kernel.log.printk(*intel_text(option, text))
            if option in ("on", "sm_on"):
                said[option] = True
            elif option in ("off", "sm_off", "sp_off"):
                said[option.replace("off", "on")] = False
        return said

    # ---- what it can

    def capable(self, cap: str) -> bool:
        """drivers/iommu/intel/iommu.c:intel_iommu_capable()."""
        return {
            IOMMU_CAP_CACHE_COHERENCY: True,
            IOMMU_CAP_DEFERRED_FLUSH: True,
            IOMMU_CAP_INTR_REMAP: self.intr_remap,
            IOMMU_CAP_ENFORCE_CACHE_COHERENCY: self.snoop_control,
            IOMMU_CAP_DIRTY_TRACKING: self.ssads,
        }.get(cap, False)

    def get_resv_regions(self, dev: Device) -> list[ResvRegion]:
        """drivers/iommu/intel/iommu.c:intel_iommu_get_resv_regions()."""
        kind = IOMMU_RESV_DIRECT_RELAXABLE if self._relaxable(dev) else IOMMU_RESV_DIRECT
        prot = IOMMU_READ | IOMMU_WRITE
        regions = [ResvRegion(a, b - a + 1, prot, kind) for a, b in self.rmrr.get(dev.name, [])]
        if self._class(dev) == PCI_CLASS_BRIDGE_ISA:  # CONFIG_INTEL_IOMMU_FLOPPY_WA
            regions.append(ResvRegion(0, 1 << 24, prot, IOMMU_RESV_DIRECT_RELAXABLE))
        length = IOAPIC_RANGE_END - IOAPIC_RANGE_START + 1
        return [*regions, ResvRegion(IOAPIC_RANGE_START, length, 0, IOMMU_RESV_MSI)]

    @staticmethod
    def _class(dev: Any) -> int:
        code: int = dev.class_code
        return code >> 8

    def _relaxable(self, dev: Device) -> bool:
        # device_rmrr_is_relaxable(): IS_USB_DEVICE() and IS_GFX_DEVICE()
        code = self._class(dev)
        return code == PCI_CLASS_SERIAL_USB or code >> 8 == PCI_BASE_CLASS_DISPLAY

    def requires_direct(self, dev: Device) -> bool:
        """``dev->iommu->require_direct``; in 6.1 device_is_rmrr_locked()."""
        return dev.name in self.rmrr and not self._relaxable(dev)

    # ---- domains

    def domain_alloc(self, type: int, *, dirty_tracking: bool = False) -> IommuDomain:
        """drivers/iommu/intel/iommu.c:intel_iommu_domain_alloc(), first_level_by_default(). Raises ENOMEM."""
        if type in (IOMMU_DOMAIN_BLOCKED, IOMMU_DOMAIN_IDENTITY):
            return IommuDomain(self, type)
        first_level = self.scalable and type != IOMMU_DOMAIN_UNMANAGED
        return PagingDomain(self, type, first_level=first_level, dirty_tracking=dirty_tracking)

    def attach(self, domain: IommuDomain, dev: Device) -> None:
        """
        drivers/iommu/intel/iommu.c:intel_iommu_attach_device(), blocking_domain_attach_dev().

        Raises:
            EPERM: the firmware keeps a region of the device mapped one to one (6.1).
        """
        late = self.kernel.profile.iommu_require_direct
        if not late and domain.type == IOMMU_DOMAIN_UNMANAGED and self.requires_direct(dev):
            dev.warn(
                "Device is ineligible for IOMMU domain attach due to platform RMRR requirement.  "
                "Contact your platform vendor."
            )
            raise err(EPERM)
        old = self.domains.get(dev)
        if old is not None:
            self.detach(old, dev)
        self.domains[dev] = domain
        domain.devices.append(dev)
        pdev: Any = dev
        pdev.slot.space = self.space(domain, dev)

    def detach(self, domain: IommuDomain, dev: Device) -> None:
        """drivers/iommu/intel/iommu.c:device_block_translation()."""
        if self.domains.get(dev) is domain:
            del self.domains[dev]
            domain.devices.remove(dev)
            self.block(dev)

    def block(self, dev: Any) -> None:
        """No entry for the device: whatever it does is a fault."""
        dev.slot.space = self.space(self.blocked, dev)

    def space(self, domain: IommuDomain, dev: Any) -> DmaSpace:
        """What *dev* reaches through *domain*."""
        if isinstance(domain, PagingDomain):
            return Translated(dev.slot, domain, self._fault_of(dev))
        if domain.type == IOMMU_DOMAIN_IDENTITY:
            return Physical(dev.slot, self.kernel.sub(PhysMem))
        reason = dmar.SM_PASID_NOT_PRESENT if self.scalable else dmar.CONTEXT_NOT_PRESENT
        return Blocked(self._fault_of(dev), reason)

    # ---- faults

    def _fault_of(self, dev: Any) -> Fault:
        return partial(self.fault, dev.bus_number << 8 | dev.devfn)

    def fault(self, source: int, addr: int, reason: int, *, write: bool, pasid: int | None = None) -> NoReturn:
        """Tell a fault of requester *source* and end its access. Raises DmaFault."""
        self.faults.report(source, addr, reason, write=write, pasid=pasid)
        raise DmaFault(addr, write, dmar.REASONS[reason])
