"""
Address spaces of processes as domains of PASIDs (drivers/iommu/intel/svm.c, drivers/iommu/iommu-sva.c).

An address space has one PASID for all devices and threads, from its first bind until it is freed. A bond is an entry in
a device's PASID table with the process's own page tables; when those change, the IOTLB hears of it before anybody goes
on, and when the process ends, entries go before its pages do, in a way that leaves faults untold.
"""

from __future__ import annotations

from collections.abc import Callable
from errno import EINVAL, EOVERFLOW
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary

from pykernel.errors import err
from pykernel.iommu.caches import CacheTags
from pykernel.iommu.domain import IommuDomain
from pykernel.iommu.iopf import IopfGroup, serve_mm
from pykernel.iommu.pasid import (
    FLPT_DEFAULT_DID,
    PASID_FLAG_FL5LP,
    PASID_MIN,
    intel_pasid_setup_first_level,
    intel_pasid_tear_down_entry,
)
from pykernel.mm.notifier import mmu_notifier_register, mmu_notifier_unregister

if TYPE_CHECKING:
    from pykernel.base.core import Device
    from pykernel.iommu.devinfo import DeviceDomainInfo
    from pykernel.iommu.intel import IntelIommu
    from pykernel.task import Mm

__all__ = ["IOMMU_DOMAIN_SVA", "IommuMm", "IommuMms", "SvaDomain"]

IOMMU_DOMAIN_SVA: Final = 1 << 4  # __IOMMU_DOMAIN_SVA
EVERYTHING: Final = (1 << 64) - 1


class SvaDomain(IommuDomain):
    """
    The address space *mm* as devices see it. C: ``struct dmar_domain`` of type IOMMU_DOMAIN_SVA; before 6.2 ``struct
    intel_svm``.

    Attributes:
        bonds: device -> PASID, where its entry stands.
        users: how many bonds there are. C: ``domain->users``.
    """

    def __init__(self, unit: IntelIommu, mm: Mm) -> None:
        super().__init__(unit, IOMMU_DOMAIN_SVA)
        self.mm = mm
        self.id = FLPT_DEFAULT_DID
        self.users = 0
        self.bonds: dict[Device, int] = {}
        self.tags = CacheTags(unit, first_level=True)
        self.iopf_handler = self._serve
        mmu_notifier_register(mm.mem, self)

    def free(self) -> None:
        """C: ``intel_svm_domain_free()``."""
        mmu_notifier_unregister(self.mm.mem, self)

    def _serve(self, group: IopfGroup) -> None:
        serve_mm(self.unit.iopf_queue, group, self.mm)

    # ---- PASIDs

    def assign_tags(self, info: DeviceDomainInfo, pasid: int) -> None:
        """As :meth:`IommuDomain.assign_tags`."""
        self.tags.assign(info, self.id, pasid)

    def unassign_tags(self, info: DeviceDomainInfo, pasid: int) -> None:
        """As :meth:`IommuDomain.unassign_tags`."""
        self.tags.unassign(info, self.id, pasid)

    def set_dev_pasid(self, dev: Device, pasid: int) -> None:
        """C: ``intel_svm_set_dev_pasid()``. Raises ENODEV, EBUSY, EINVAL: what the table says. ENOMEM."""
        info = self.unit.info(dev)
        assert info is not None
        flags = PASID_FLAG_FL5LP if self.unit.kernel.cpu.has("la57") else 0
        intel_pasid_setup_first_level(dev, self.mm.mem.pgd(), pasid, self.id, flags)
        if self.unit.kernel.profile.vtd_caps_at_probe and info.pri_enabled:
            info.iopf_get()
        self.assign_tags(info, pasid)
        self.bonds[dev] = pasid
        info.pasids[pasid] = self

    def remove_dev_pasid(self, dev: Device, pasid: int) -> None:
        """As :meth:`IommuDomain.remove_dev_pasid`; before 6.2 the end of a bond drains page requests, too."""
        super().remove_dev_pasid(dev, pasid)
        self.bonds.pop(dev, None)
        info = self.unit.info(dev)
        if info is not None and info.iopf_users:
            info.iopf_put()
        if info is not None and not self.unit.kernel.profile.vtd_teardown_drains:
            self.unit.drain_prq(info, pasid)

    # ---- the process's page tables (mmu notifier)

    def invalidate_range(self, start: int, end: int) -> None:
        """C: ``intel_arch_invalidate_secondary_tlbs()``, before 6.6 ``intel_invalidate_range()``."""
        if start == 0 and end >= EVERYTHING:
            self.tags.flush_all()
        elif end > start:
            self.tags.flush_range(start, end - 1)

    def release(self) -> None:
        """The process ends: its devices are cut off. C: ``static void intel_mm_release(...)``."""
        for dev, pasid in self.bonds.items():
            intel_pasid_tear_down_entry(dev, pasid, fault_ignore=True)


class IommuMm:
    """
    The PASID of an address space. C: ``mm->pasid``, from 6.8 on ``struct iommu_mm_data``.

    It goes when the address space is freed: the process has ended, and no domain holds it any more.
    """

    def __init__(self, mm: Mm, pasid: int, free: Callable[[int], None]) -> None:
        self.mem: Any = mm.mem
        self.pasid = pasid
        self.domains: list[SvaDomain] = []
        self.ended = False
        self._free: Callable[[int], None] | None = free
        mmu_notifier_register(self.mem, self)

    def invalidate_range(self, start: int, end: int) -> None:
        """A PASID does not care."""

    def release(self) -> None:
        """The process ends."""
        if not self.ended:
            self.ended = True
            mmu_notifier_unregister(self.mem, self)
            self.put()

    def put(self) -> None:
        """C: ``mm_pasid_drop(struct mm_struct *)``, once nobody holds the address space."""
        if self.ended and not self.domains and self._free is not None:
            free, self._free = self._free, None
            free(self.pasid)


class IommuMms:
    """The address spaces that have PASIDs. *alloc(first, last)* raises ENOMEM or ENOSPC."""

    def __init__(self, unit: IntelIommu, alloc: Callable[[int, int], int], free: Callable[[int], None]) -> None:
        self.unit, self._alloc, self._free = unit, alloc, free
        self.by_mm: WeakKeyDictionary[Mm, IommuMm] = WeakKeyDictionary()

    def pasid(self, mm: Mm) -> int:
        """The PASID of *mm*; 0: it has none."""
        data = self.by_mm.get(mm)
        return data.pasid if data is not None and not data.ended else 0

    def find(self, pasid: int) -> Mm | None:
        """The address space with *pasid*, while somebody uses it. C: ``iommu_sva_find(ioasid_t)``."""
        return next((mm for mm, data in self.by_mm.items() if data.pasid == pasid and mm.users > 0), None)

    def alloc(self, mm: Mm, info: DeviceDomainInfo) -> IommuMm:
        """
        The PASID of *mm*, made at its first bind.

        C: ``iommu_sva_alloc_pasid(mm, min, max)``, from 6.8 on ``iommu_alloc_mm_data(mm, dev)``

        Raises:
            EOVERFLOW: it has one that the device cannot use. ENOMEM (6.8: ENOSPC): none is left.
            EINVAL: the process has ended.
        """
        data = self.by_mm.get(mm)
        limit = min(info.max_pasids, self.unit.max_pasid)
        if data is not None:
            late = self.unit.kernel.profile.iommu_sva_domain
            if data.pasid >= (limit if late else info.max_pasids - 1):  # before, the last one did not count
                raise err(EOVERFLOW, f"{info.dev.name} has no PASID {data.pasid}")
            return data
        if mm.users <= 0:
            raise err(EINVAL, "the process has ended")
        pasid = self._alloc(PASID_MIN, limit - 1)
        data = self.by_mm[mm] = IommuMm(mm, pasid, self._free)
        return data

    def domain(self, data: IommuMm, mm: Mm) -> SvaDomain:
        """The domain of *mm*, made if there is none. Raises ENOMEM."""
        if not data.domains:
            self.unit.kernel.faults.alloc("iommu_sva_bind_device")
            data.domains.append(SvaDomain(self.unit, mm))
        return data.domains[0]

    def put_domain(self, data: IommuMm, domain: SvaDomain) -> None:
        """One bond less; the last one takes the domain along."""
        domain.users -= 1
        if domain.users <= 0 and domain in data.domains:
            data.domains.remove(domain)
            domain.free()
            data.put()
