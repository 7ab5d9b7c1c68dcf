"""
The driver of VT-d (drivers/iommu/intel/iommu.c).

One unit, ``kernel.dmar``, serves all devices. What it does with a request it finds in tables in memory: root and
context entries, PASID tables where scalable mode is, and the tables of domains. This driver writes them and tells the
unit what of its caches is old. In scalable mode the DMA API has first-stage tables and all others second-stage ones; in
legacy mode there are only these. A conventional PCI device behind a bridge has an entry of its own: requests keep its
number.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from errno import EPERM
from typing import TYPE_CHECKING, Any

from pykernel.errors import err
from pykernel.iommu.cmdline import intel_options, intel_text
from pykernel.iommu.context import ContextTables
from pykernel.iommu.devinfo import DeviceDomainInfo
from pykernel.iommu.dmar import DmarFaults
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
from pykernel.iommu.iopf import Fault, FaultParam, IopfQueue
from pykernel.iommu.paging import FIRST_DID, PagingDomain
from pykernel.iommu.pasid import (
    IOMMU_NO_PASID,
    PASID_FLAG_FL5LP,
    PASID_FLAG_PAGE_SNOOP,
    PASID_FLAG_SUPERVISOR_MODE,
    PASID_MAX,
    intel_pasid_alloc_table,
    intel_pasid_free_table,
    intel_pasid_setup_first_level,
    intel_pasid_setup_pass_through,
    intel_pasid_setup_second_level,
    intel_pasid_tear_down_entry,
)
from pykernel.iommu.prq import PageRequestQueue
from pykernel.iommu.qi import CC_GLOBAL, IOTLB_GLOBAL, PC_GLOBAL, QInval
from pykernel.iommu.resv import IOMMU_RESV_DIRECT, IOMMU_RESV_DIRECT_RELAXABLE, IOMMU_RESV_MSI, ResvRegion
from pykernel.iommu.vcmd import register_pasid_allocator
from pykernel.iommu.vtdregs import (
    DMAR_CAP_REG,
    DMAR_ECAP_REG,
    DMAR_FECTL_REG,
    DMAR_GCMD_REG,
    DMAR_RTADDR_REG,
    DMAR_VER_REG,
    GCMD_SRTP,
    GCMD_TE,
    RTADDR_SMT,
    Caps,
    Mmio,
)
from pykernel.lib.idr import Ida
from pykernel.log import ERR, WARNING
from pykernel.mm.phys import PhysMem
from pykernel.pci.irq import MSI_ADDRESS, Irqs

if TYPE_CHECKING:
    from pykernel.base.core import Device
    from pykernel.kernel import Kernel
    from pykernel.task import Mm

__all__ = ["IntelIommu"]

IOAPIC_RANGE_START, IOAPIC_RANGE_END = 0xFEE00000, 0xFEEFFFFF
LARGEST = {0: 1, 1: 2, 2: 1, 3: 3}  # by CAP.SSLPS
PCI_BASE_CLASS_DISPLAY, PCI_CLASS_BRIDGE_ISA, PCI_CLASS_SERIAL_USB = 0x03, 0x0601, 0x0C03


class IntelIommu:
    """
    ``struct intel_iommu``, the only one of its kernel.

    Attributes:
        reg: its registers.
        caps: what it can.
        scalable: scalable mode is on.
        address_width: bits of a device's address that can be mapped.
        largest_page: the largest page's level: 1 is 4 KiB, 2 is 2 MiB, 3 is 1 GiB.
        snoop_control: ECAP.SC: second-stage entries can make accesses snoop.
        ssads: ECAP.SLADS: accessed and dirty bits in second-stage entries, in scalable mode.
        intr_remap: interrupt remapping is on.
        svm_capable: processes can share their address spaces with devices (VTD_FLAG_SVM_CAPABLE).
        max_pasid: PASIDs are below. C: ``intel_pasid_max_id``.
        find_mm: the address space of a PASID, if it is still used.
    """

    name = "dmar0"
    reg: Mmio
    qi: QInval
    contexts: ContextTables
    prq: PageRequestQueue | None = None

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        said = self._setup()
        there = kernel.dmar is not None
        if kernel.dmar is not None:
            self.reg = kernel.dmar
            there = self._answers()
        self.version = self.reg.readl(DMAR_VER_REG) if there else 0
        caps = Caps(self.reg.readq(DMAR_CAP_REG), self.reg.readq(DMAR_ECAP_REG)) if there else Caps(0, 0)
        self.caps = caps
        self.phys = kernel.sub(PhysMem)
        self.enabled: bool = there and said["on"]
        self.scalable: bool = self.enabled and caps.smts and said["sm_on"]
        self.address_width = min(30 + 9 * caps.agaw, caps.mgaw)
        self.largest_page = LARGEST.get(caps.sslps, 1) if said["sp_on"] else 1
        self.snoop_control = caps.sc
        self.ssads = self.scalable and caps.ssads
        self.intr_remap = caps.ir
        self.max_pasid = min(2 << caps.pss, PASID_MAX) if self.pasid_supported else 0
        self.svm_capable = self.enabled and self._svm_check()
        self.find_mm: Callable[[int], Mm | None] = lambda pasid: None
        self.domain_ids = Ida()
        self.blocked = IommuDomain(self, IOMMU_DOMAIN_BLOCKED)
        self.infos: dict[Device, DeviceDomainInfo] = {}
        self.gcmd = 0
        self.faults = DmarFaults(self)
        self.rmrr: dict[str, list[tuple[int, int]]] = {}
        for text in kernel.machine.iommu.rmrr:
            name, start, end = re.split("[ -]+", text)
            self.rmrr.setdefault(name, []).append((int(start, 16), int(end, 16)))
        if self.enabled:
            self._init_dmars()

    def _answers(self) -> bool:
        """Whether there is a unit behind the registers. C: ``static int alloc_iommu(struct dmar_drhd_unit *)``."""
        ones = (1 << 64) - 1
        if self.reg.readq(DMAR_CAP_REG) != ones or self.reg.readq(DMAR_ECAP_REG) != ones:
            return True
        text = "[Firmware Bug]: Your BIOS is broken; DMAR reported at address fed90000 returns all ones!"
        self.kernel.log.printk(WARNING, text)
        return False

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

    # ---- the unit

    @property
    def pasid_supported(self) -> bool:
        """C: ``pasid_supported(iommu)``."""
        return self.scalable and self.caps.pasid

    def _svm_check(self) -> bool:
        """C: ``void intel_svm_check(struct intel_iommu *)``: devices must understand the CPU's page tables."""
        if not self.pasid_supported or not self.caps.smpwcs:
            return False
        for flag, can, what in (
            ("pdpe1gb", self.caps.fs1gp, "1GB page capability"),
            ("la57", self.caps.fs5lp, "paging mode"),
        ):
            if self.kernel.cpu.has(flag) and not can:
                self.kernel.log.printk(ERR, f"DMAR: {self.name} SVM disabled, incompatible {what}")
                return False
        return True

    def _init_dmars(self) -> None:
        """C: ``static int __init init_dmars(void)``, and the end of ``intel_iommu_init()``."""
        self.qi = QInval(self)
        self.contexts = ContextTables(self)
        if self.caps.cm and not register_pasid_allocator(self):
            self.scalable, self.svm_capable = False, False
        self.reg.writeq(DMAR_RTADDR_REG, self.contexts.root | (RTADDR_SMT if self.scalable else 0))
        self.reg.writel(DMAR_GCMD_REG, self.gcmd | GCMD_SRTP)
        self.qi.flush_context(0, 0, CC_GLOBAL)
        if self.scalable:
            self.qi.flush_pasid_cache(0, PC_GLOBAL, 0)
        self.qi.flush_iotlb(0, 0, 0, IOTLB_GLOBAL)
        if self.pasid_supported and self.caps.prs:
            self.prq = PageRequestQueue(self)
        self.faults.begin(self.request_irq(DMAR_FECTL_REG, self.faults.interrupt, self.name, hard=True))
        self.command(GCMD_TE, on=True)

    def command(self, bit: int, *, on: bool) -> None:
        """Switch a bit of GCMD; the unit has done it when the write is over. C: ``iommu->gcmd``."""
        self.gcmd = self.gcmd | bit if on else self.gcmd & ~bit
        self.reg.writel(DMAR_GCMD_REG, self.gcmd)

    def request_irq(self, control: int, handler: Callable[[], None], name: str, *, hard: bool) -> int:
        """An interrupt of the unit itself; its registers begin at *control*. C: ``dmar_alloc_hwirq()``."""
        irqs = self.kernel.sub(Irqs)
        desc = irqs.alloc("DMAR-MSI", int(not hard))
        irqs.request(desc.irq, handler, name, self, hard=hard)
        self.reg.writel(control + 4, desc.irq)
        self.reg.writel(control + 8, MSI_ADDRESS)
        self.reg.writel(control + 12, 0)
        self.reg.writel(control, 0)
        return desc.irq

    @property
    def iopf_queue(self) -> IopfQueue:
        """C: ``iommu->iopf_queue``."""
        assert self.prq is not None
        return self.prq.iopf

    def drain_prq(self, info: DeviceDomainInfo, pasid: int) -> None:
        """C: ``intel_iommu_drain_pasid_prq()``."""
        if self.prq is not None:
            self.prq.drain(info, pasid)

    def page_response(self, info: DeviceDomainInfo, fault: Fault, code: int) -> None:
        """``iommu_ops.page_response``."""
        if self.prq is not None:
            self.prq.respond(info, fault, code)

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

    # ---- devices

    def info(self, dev: Device) -> DeviceDomainInfo | None:
        """C: ``dev_iommu_priv_get(dev)``."""
        return self.infos.get(dev)

    def by_sid(self, sid: int) -> DeviceDomainInfo | None:
        """The device that is requester *sid*. C: ``device_rbtree_find()``."""
        return next((info for info in self.infos.values() if info.sid == sid), None)

    def probe_device(self, dev: Any) -> None:
        """C: ``static struct iommu_device *intel_iommu_probe_device(struct device *)``. Raises ENOMEM."""
        info = self.infos[dev] = DeviceDomainInfo(self, dev)
        info.fault_param = FaultParam(info)
        if not self.scalable:
            if self.kernel.profile.vtd_caps_at_probe:
                info.probe_finalize()
            return
        try:
            intel_pasid_alloc_table(info)
            if self.kernel.profile.vtd_context_at_probe:
                self.contexts.map_pasid_table(info)
                info.enable_pasid()
            if self.kernel.profile.vtd_caps_at_probe:
                info.probe_finalize()
        except OSError:
            dev.err("PASID table allocation failed")
            intel_pasid_free_table(info)
            del self.infos[dev]
            raise

    def release_device(self, dev: Device) -> None:
        """C: ``static void intel_iommu_release_device(struct device *)``."""
        info = self.infos[dev]
        for pasid, domain in list(info.pasids.items()):
            domain.remove_dev_pasid(dev, pasid)
        self.block(info)
        self.contexts.clear(info)
        if info.fault_param is not None and info.fault_param.queue is not None:
            info.fault_param.queue.remove_device(info.fault_param)
        intel_pasid_free_table(info)
        info.forget_caps()
        del self.infos[dev]

    # ---- domains

    def domain_alloc(self, type: int, *, dirty_tracking: bool = False) -> IommuDomain:
        """drivers/iommu/intel/iommu.c:intel_iommu_domain_alloc(), first_level_by_default(). Raises ENOMEM."""
        if type in (IOMMU_DOMAIN_BLOCKED, IOMMU_DOMAIN_IDENTITY):
            return IommuDomain(self, type)
        first_level = self.scalable and type != IOMMU_DOMAIN_UNMANAGED
        return PagingDomain(self, type, first_level=first_level, dirty_tracking=dirty_tracking)

    def alloc_did(self) -> int:
        """A domain's number. Raises ENOSPC."""
        return self.domain_ids.alloc_range(FIRST_DID, self.caps.ndoms - 1)

    def attach(self, domain: IommuDomain, dev: Device) -> None:
        """
        drivers/iommu/intel/iommu.c:intel_iommu_attach_device(), blocking_domain_attach_dev().

        Raises:
            EPERM: the firmware keeps a region of the device mapped one to one (6.1).
            ENODEV, EBUSY, EINVAL: what the table entry says. ENOMEM.
        """
        late = self.kernel.profile.iommu_require_direct
        if not late and domain.type == IOMMU_DOMAIN_UNMANAGED and self.requires_direct(dev):
            dev.warn(
                "Device is ineligible for IOMMU domain attach due to platform RMRR requirement.  "
                "Contact your platform vendor."
            )
            raise err(EPERM)
        info = self.infos[dev]
        self.block(info)
        if domain.type == IOMMU_DOMAIN_BLOCKED:
            domain.devices.append(dev)
            info.domain = domain
            return
        self.join(domain, info)
        try:
            if self.scalable:
                self.set_pasid(domain, dev, IOMMU_NO_PASID)
                self.contexts.map_pasid_table(info)
            else:
                self.contexts.map(info, domain)
        except OSError:
            dev.err("Setup RID2PASID failed" if self.scalable else "Domain context map failed")
            self.block(info)
            raise
        info.enable_pci_caps()
        domain.assign_tags(info, IOMMU_NO_PASID)

    def join(self, domain: IommuDomain, info: DeviceDomainInfo) -> None:
        """The device is one of the domain's."""
        info.domain = domain
        domain.devices.append(info.dev)

    def set_pasid(self, domain: IommuDomain, dev: Device, pasid: int) -> None:
        """Requests of *pasid* go to *domain*. Raises EINVAL, ENODEV, EBUSY."""
        if not isinstance(domain, PagingDomain):
            intel_pasid_setup_pass_through(dev, pasid)
        elif domain.first_level:
            # drivers/iommu/intel/iommu.c:domain_setup_first_level()
            flags = PASID_FLAG_SUPERVISOR_MODE if pasid != IOMMU_NO_PASID else 0
            flags |= PASID_FLAG_FL5LP if domain.agaw == 3 else 0
            flags |= PASID_FLAG_PAGE_SNOOP if domain.force_snooping else 0
            intel_pasid_setup_first_level(dev, domain.table.root, pasid, domain.id, flags)
        else:
            intel_pasid_setup_second_level(domain, dev, pasid)

    def detach(self, domain: IommuDomain, dev: Device) -> None:
        """drivers/iommu/intel/iommu.c:intel_iommu_detach_device()."""
        info = self.infos.get(dev)
        if info is not None and info.domain is domain:
            self.block(info)

    def block(self, info: DeviceDomainInfo) -> None:
        """C: ``device_block_translation()``: nothing that the device does without a PASID goes anywhere."""
        domain = info.domain
        if domain is None:
            return
        domain.unassign_tags(info, IOMMU_NO_PASID)
        if domain.type != IOMMU_DOMAIN_BLOCKED:
            info.disable_pci_caps()
            if self.scalable:
                intel_pasid_tear_down_entry(info.dev, IOMMU_NO_PASID)
            else:
                self.contexts.clear(info)
        if info.dev in domain.devices:
            domain.devices.remove(info.dev)
        info.domain = None
