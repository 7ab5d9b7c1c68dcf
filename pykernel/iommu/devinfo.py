"""What the driver of VT-d keeps of a device (drivers/iommu/intel/iommu.h: struct device_domain_info)."""

from __future__ import annotations

from contextlib import suppress
from errno import EINVAL, ENODEV
from typing import TYPE_CHECKING, Any

from pykernel.errors import err
from pykernel.iommu import ats

if TYPE_CHECKING:
    from pykernel.iommu.domain import IommuDomain
    from pykernel.iommu.intel import IntelIommu
    from pykernel.iommu.pasid import PasidTable
    from pykernel.pci.dev import PciDev

__all__ = ["PRQ_DEPTH", "DeviceDomainInfo"]

PRQ_DEPTH = 0x1000 << 4 >> 5  # descriptors of 32 bytes in a ring of 16 pages


class DeviceDomainInfo:
    """
    ``struct device_domain_info``.

    Attributes:
        sid: the requester ID; *pfsid* that of its physical function where the unit throttles by it.
        ats_supported, pasid_supported, pri_supported: what device and unit can; *..._enabled*: what is on.
        domain: what the device is attached to.
        pasids: what is attached to its PASIDs.
        fault_param: how its page requests are reported. C: ``dev->iommu->fault_param``.
        iopf_users: domains that want to hear of them, where that is no feature. C: ``info->iopf_refcount``.
    """

    def __init__(self, unit: IntelIommu, dev: PciDev) -> None:
        self.unit, self.dev = unit, dev
        self.sid = dev.bus_number << 8 | dev.devfn
        self.pfsid = 0
        caps = unit.caps
        self.ats_supported = bool(caps.dt and ats.pci_ats_supported(dev))
        if self.ats_supported and caps.dit:
            physfn = dev.physfn or dev
            self.pfsid = physfn.bus_number << 8 | physfn.devfn
        self.pasid_supported = 0
        if unit.scalable and caps.pasid:
            features = ats.pci_pasid_features(dev)
            self.pasid_supported = 0 if features is None else features | 1
        self.pri_supported = bool(
            unit.scalable and self.ats_supported and caps.prs and caps.pds and ats.pci_pri_supported(dev)
        )
        self.ats_enabled = self.pasid_enabled = self.pri_enabled = False
        self.ats_qdep = ats.pci_ats_queue_depth(dev) if self.ats_supported else 0
        self.max_pasids = ats.pci_max_pasids(dev)
        self.pasid_table: PasidTable | None = None
        self.domain: IommuDomain | None = None
        self.pasids: dict[int, Any] = {}
        self.fault_param: Any = None
        self.iopf_users = 0

    @property
    def present(self) -> bool:
        """Whether the device answers. C: ``bool pci_device_is_present(struct pci_dev *)``."""
        return self.dev.read_config_dword(0) != 0xFFFFFFFF

    def enable_pasid(self) -> None:
        """PASIDs on, which must come before ATS."""
        if self.pasid_supported and not self.pasid_enabled:
            with suppress(OSError):
                ats.pci_enable_pasid(self.dev, self.pasid_supported & ~1)
                self.pasid_enabled = True

    def enable_pri(self) -> None:
        """Page requests on. Raises EINVAL, EBUSY."""
        ats.pci_reset_pri(self.dev)
        ats.pci_enable_pri(self.dev, PRQ_DEPTH)
        self.pri_enabled = True

    def enable_pci_caps(self) -> None:
        """C: ``static void iommu_enable_pci_caps(struct device_domain_info *)``; 6.12 leaves PRI to the feature."""
        if self.unit.kernel.profile.vtd_caps_at_probe:
            return
        self.enable_pasid()
        late = self.unit.kernel.profile.vtd_iopf_enables_pri
        if self.pri_supported and not late and (not self.pasid_enabled or ats.pci_prg_resp_pasid_required(self.dev)):
            with suppress(OSError):
                self.enable_pri()
        self.enable_ats()

    def enable_ats(self) -> None:
        """The device may translate for itself."""
        if self.ats_supported and ats.pci_ats_page_aligned(self.dev):
            with suppress(OSError):
                ats.pci_enable_ats(self.dev)
                self.ats_enabled = True

    def probe_finalize(self) -> None:
        """What is on as long as the device is there. C: ``intel_iommu_probe_finalize()`` (6.16)."""
        self.enable_ats()
        if self.pri_supported and (not self.pasid_enabled or ats.pci_prg_resp_pasid_required(self.dev)):
            with suppress(OSError):
                self.enable_pri()
                self.unit.contexts.flip_pri(self, enable=True)

    def disable_pci_caps(self) -> None:
        """C: ``iommu_disable_dev_iotlb()``, in 6.12 ``iommu_disable_pci_caps()``, which leaves PASIDs and PRI on."""
        if self.unit.kernel.profile.vtd_caps_at_probe:
            return
        if self.ats_enabled:
            ats.pci_disable_ats(self.dev)
            self.ats_enabled = False
        if self.unit.kernel.profile.vtd_iopf_enables_pri:
            return
        if self.pri_enabled:
            ats.pci_disable_pri(self.dev)
            self.pri_enabled = False
        if self.pasid_enabled:
            ats.pci_disable_pasid(self.dev)
            self.pasid_enabled = False

    def forget_caps(self) -> None:
        """The device goes: what is still on is switched off."""
        if self.pri_enabled:
            ats.pci_disable_pri(self.dev)
        if self.ats_enabled:
            ats.pci_disable_ats(self.dev)
        if self.pasid_enabled:
            ats.pci_disable_pasid(self.dev)
        self.pri_enabled = self.ats_enabled = self.pasid_enabled = False

    # ---- page requests that a domain wants to hear of

    def iopf_get(self) -> None:
        """C: ``intel_iommu_enable_iopf()`` of 6.16. Raises ENODEV: page requests are off."""
        if not self.pri_enabled:
            raise err(ENODEV, f"{self.dev.name} makes no page requests")
        if not self.iopf_users:
            self.unit.iopf_queue.add_device(self.fault_param)
        self.iopf_users += 1

    def iopf_put(self) -> None:
        """C: ``intel_iommu_disable_iopf()``. Raises EINVAL: nobody wanted to."""
        if not self.iopf_users:
            raise err(EINVAL, f"{self.dev.name} has no fault queue")
        self.iopf_users -= 1
        if not self.iopf_users:
            self.unit.iopf_queue.remove_device(self.fault_param)
