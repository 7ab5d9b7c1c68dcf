"""
Shared virtual addressing and what the IOMMU below it does (drivers/iommu/iommu-sva.c, intel/svm.c, intel/iommu.c).

A device's DMA without PASID goes to the machine's memory; with one, to the address space that is bound to it. A page
that is not there is a DmaFault unless the device asks for it (PRI). Scalable mode is one flag of the machine.
"""

from __future__ import annotations

from errno import EBUSY, EINVAL, ENODEV, ENOSPC
from typing import TYPE_CHECKING, Any

from pykernel.base.notify import BUS_NOTIFY_ADD_DEVICE, BUS_NOTIFY_REMOVED_DEVICE
from pykernel.errors import err
from pykernel.iommu import dmar
from pykernel.iommu.core import IommuCore
from pykernel.iommu.intel import IntelIommu
from pykernel.iommu.iommu_sysfs import DmarDevice, IommuClass
from pykernel.iommu.probe import iommu_probe_device, iommu_release_device
from pykernel.lib.idr import Ida
from pykernel.lib.notifier import NOTIFY_DONE, NotifierBlock
from pykernel.mm.sim import SimMemory
from pykernel.pci.core import Pci
from pykernel.pci.dev import PciDev
from pykernel.pci.function import DmaFault
from pykernel.syscalls import Pids
from pykernel.uapi.linux import pci_regs as r

if TYPE_CHECKING:
    from pykernel.iommu.domain import IommuDomain
    from pykernel.kernel import Kernel
    from pykernel.pci.slot import DmaSpace
    from pykernel.task import Mm

__all__ = [
    "FIRST_PASID",
    "DomainHandle",
    "Iommu",
    "SvaHandle",
    "iommu_dev_disable_feature",
    "iommu_dev_enable_feature",
    "iommu_sva_bind_device",
    "iommu_sva_unbind_device",
]

PAGE = 4096
FIRST_PASID = 1


class SvaHandle:
    """``struct iommu_sva``: *dev* may use *mm* through ``pasid``."""

    __slots__ = ("__weakref__", "dev", "mm", "pasid", "users")

    def __init__(self, dev: PciDev, mm: Mm, pasid: int) -> None:
        self.dev = dev
        self.mm = mm
        self.pasid = pasid
        self.users = 1
        if dev.kernel.track_origins:
            dev.kernel.took(self)


class DomainHandle:
    """A domain that *dev* uses through ``pasid``, without a process. C: ``iommu_attach_device_pasid()``."""

    __slots__ = ("domain", "pasid", "space")

    def __init__(self, domain: IommuDomain, pasid: int, space: DmaSpace) -> None:
        self.domain = domain
        self.pasid = pasid
        self.space = space


class Iommu:
    """The IOMMU of one kernel: PASID tables of its devices, page requests, groups."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        kernel.sub(IommuCore)  # early parameters come before those of a driver
        self.unit = kernel.sub(IntelIommu)
        self.pasid_bits: int = kernel.machine.iommu.pasid_bits
        self.pasids = Ida()
        self.by_mm: dict[int, tuple[int, Mm, int]] = {}
        self.tables: dict[str, dict[int, SvaHandle | DomainHandle]] = {}
        self.features: dict[str, set[str]] = {}
        kernel.sub(IommuClass)
        if self.unit.enabled:
            kernel.sub(DmarDevice)
        pci = kernel.sub(Pci)
        pci.translator = lambda: self
        pci.bus.notifier.register(NotifierBlock(self._bus_event))
        kernel.pasid_of = lambda mm: self.by_mm.get(id(mm), (0, mm, 0))[0]
        kernel.check_leaks(self._leaks)

    def _leaks(self) -> list[str]:
        return [
            f"PASID {p} of {self.kernel.sub(Pids).of_mm(h.mm)} bound to {dev}{self.kernel.origin(h)}"
            for dev, t in self.tables.items()
            for p, h in t.items()
            if isinstance(h, SvaHandle)
        ]

    # ---- devices come and go

    def _bus_event(self, nb: NotifierBlock, event: int, dev: Any) -> int:
        if event == BUS_NOTIFY_ADD_DEVICE:
            iommu_probe_device(dev)
            if dev.iommu is not None:
                self.tables[dev.name] = {}
                if self.scalable:
                    self._enable_pci_caps(dev)
        elif event == BUS_NOTIFY_REMOVED_DEVICE:
            self.tables.pop(dev.name, None)
            self.features.pop(dev.name, None)
            iommu_release_device(dev)
        return NOTIFY_DONE

    @property
    def scalable(self) -> bool:
        """The IOMMU is in scalable mode."""
        return self.unit.scalable

    def _enable_pci_caps(self, dev: PciDev) -> None:
        ats = dev.find_ext_capability(r.PCI_EXT_CAP_ID_ATS)
        if pasid := self._pasid_cap(dev):
            features = dev.read_config_word(pasid + r.PCI_PASID_CAP) & (r.PCI_PASID_CAP_EXEC | r.PCI_PASID_CAP_PRIV)
            dev.write_config_word(pasid + r.PCI_PASID_CTRL, r.PCI_PASID_CTRL_ENABLE | features & ~r.PCI_PASID_CAP_EXEC)
        if pri := dev.find_ext_capability(r.PCI_EXT_CAP_ID_PRI):
            dev.write_config_dword(pri + r.PCI_PRI_ALLOC_REQ, min(32, dev.read_config_dword(pri + r.PCI_PRI_MAX_REQ)))
            dev.write_config_word(pri + r.PCI_PRI_CTRL, r.PCI_PRI_CTRL_ENABLE)
        if ats:
            dev.write_config_word(ats + r.PCI_ATS_CTRL, r.PCI_ATS_CTRL_ENABLE)

    @staticmethod
    def _pasid_cap(dev: PciDev) -> int:
        # drivers/pci/ats.c:pci_enable_pasid(): needs end-to-end TLP prefixes
        exp = dev.find_capability(r.PCI_CAP_ID_EXP)
        prefix = exp and dev.read_config_dword(exp + r.PCI_EXP_DEVCAP2) & r.PCI_EXP_DEVCAP2_EE_PREFIX
        return dev.find_ext_capability(r.PCI_EXT_CAP_ID_PASID) if prefix else 0

    def pasid_enabled(self, dev: PciDev) -> bool:
        """PASID control register of the device."""
        at = self._pasid_cap(dev)
        return bool(at and dev.read_config_word(at + r.PCI_PASID_CTRL) & r.PCI_PASID_CTRL_ENABLE)

    # ---- PASIDs

    def mm_pasid(self, mm: Mm) -> int:
        """
        The PASID of *mm*, taken at its first bind.

        drivers/iommu/iommu-sva.c:iommu_sva_alloc_pasid(). Raises ENOSPC.
        """
        pasid, _, users = self.by_mm.get(id(mm), (0, mm, 0))
        if not pasid:
            try:
                pasid = self.pasids.alloc_range(FIRST_PASID, (1 << self.pasid_bits) - 1)
            except OSError as e:
                raise err(ENOSPC) from e
        self.by_mm[id(mm)] = (pasid, mm, users + 1)
        return pasid

    def put_pasid(self, mm: Mm) -> None:
        """The last bind of *mm* went."""
        pasid, _, users = self.by_mm[id(mm)]
        if users == 1:
            del self.by_mm[id(mm)]
            self.pasids.free(pasid)
        else:
            self.by_mm[id(mm)] = (pasid, mm, users - 1)

    # ---- DMA (the bus's DmaTranslator)

    def _handle(self, pdev: PciDev, addr: int, pasid: int, *, write: bool) -> SvaHandle | DomainHandle:
        handle = self.tables.get(pdev.name, {}).get(pasid)
        if handle is None:
            if pdev.iommu is not None and self.scalable:
                source = pdev.bus_number << 8 | pdev.devfn
                pdev.iommu.fault(source, addr, dmar.SM_PASID_NOT_PRESENT, write=write, pasid=pasid)
            raise DmaFault(addr, write, f"PASID {pasid} is not in the table of {pdev.name}")
        return handle

    def dma_read(self, pdev: PciDev, addr: int, n: int, pasid: int, priv: bool) -> bytes:
        """Read. Raises DmaFault at the first page that is not there."""
        handle = self._handle(pdev, addr, pasid, write=False)
        if isinstance(handle, DomainHandle):
            return handle.space.read(addr, n)
        mem = handle.mm.mem
        self._check(mem, addr, n, write=False)
        try:
            data: bytes = mem.read(addr, n)
        except OSError as e:
            raise DmaFault(self._first_bad(mem, addr, n), write=False, reason="not readable") from e
        return data

    def dma_write(self, pdev: PciDev, addr: int, data: bytes | memoryview, pasid: int, priv: bool) -> None:
        """Write. Raises DmaFault; then nothing was written of simulated memory."""
        handle = self._handle(pdev, addr, pasid, write=True)
        if isinstance(handle, DomainHandle):
            handle.space.write(addr, data)
            return
        mem = handle.mm.mem
        self._check(mem, addr, len(data), write=True)
        try:
            mem.write(addr, data)
        except OSError as e:
            raise DmaFault(self._first_bad(mem, addr, len(data)), write=True, reason="not writable") from e

    def dma_view(self, pdev: PciDev, addr: int, n: int, pasid: int, *, write: bool) -> list[memoryview] | None:
        """The bytes themselves: of a domain, or of simulated memory, page by page. Raises DmaFault."""
        handle = self._handle(pdev, addr, pasid, write=write)
        if isinstance(handle, DomainHandle):
            return handle.space.view(addr, n, write=write)
        mem = handle.mm.mem
        if not isinstance(mem, SimMemory):
            return None
        spans, found = mem.translate_range(addr, n, write=write)
        if found < n:
            raise DmaFault(addr + found, write, "page not present")
        ram = mem.phys.ram
        return [ram[pa : pa + size] for pa, size in spans]

    @staticmethod
    def _check(mem: Any, addr: int, n: int, *, write: bool) -> None:
        if isinstance(mem, SimMemory) and n:
            found = mem.translate_range(addr, n, write=write)[1]
            if found < n:
                raise DmaFault(addr + found, write, "page not present")

    @staticmethod
    def _first_bad(mem: Any, addr: int, n: int) -> int:
        for page in range(addr & -PAGE, addr + n, PAGE):
            try:
                mem.read(max(page, addr), 1)
            except OSError:
                return max(page, addr)
        return addr

    def page_request(self, pdev: PciDev, addr: int, write: bool, pasid: int | None) -> bool:
        """drivers/iommu/io-pgfault.c:iopf_handle_single(): handle_mm_fault() in the bound address space."""
        if pasid is None:
            return False
        handle = self.tables.get(pdev.name, {}).get(pasid)
        if not isinstance(handle, SvaHandle):
            return False
        mem = handle.mm.mem
        try:
            if isinstance(mem, SimMemory):
                mem.fault(addr, write=write)
            else:
                data = mem.read(addr, 1)
                if write:
                    mem.write(addr, data)
        except OSError:
            return False
        return True


def _iommu(dev: PciDev) -> Iommu:
    iommu = dev.kernel.sub(Iommu)
    if dev.name not in iommu.tables:
        raise err(ENODEV, f"{dev.name} is behind no IOMMU")
    return iommu


def iommu_dev_enable_feature(dev: PciDev, feature: str) -> None:
    """
    C: ``int iommu_dev_enable_feature(struct device *, enum iommu_dev_features)``; *feature* is "iopf" or "sva".

    Raises:
        ENODEV: no IOMMU, not in scalable mode, or the device has no PASID, PRI or ATS.
        EINVAL: "sva" before "iopf" (kernels that have both).
        EBUSY: enabled.
    """
    iommu = _iommu(dev)
    if not iommu.scalable or not iommu.pasid_enabled(dev):
        raise err(ENODEV, "no PASID")
    if not dev.find_ext_capability(r.PCI_EXT_CAP_ID_PRI) or not dev.find_ext_capability(r.PCI_EXT_CAP_ID_ATS):
        raise err(ENODEV, "no PRI or ATS")
    have = iommu.features.setdefault(dev.name, set())
    if feature in have:
        raise err(EBUSY)
    if feature not in ("iopf", "sva"):
        raise err(EINVAL)
    have.add(feature)


def iommu_dev_disable_feature(dev: PciDev, feature: str) -> None:
    """C: ``int iommu_dev_disable_feature(...)``. Raises EINVAL: not enabled."""
    have = dev.kernel.sub(Iommu).features.get(dev.name, set())
    if feature not in have:
        raise err(EINVAL)
    have.remove(feature)


def iommu_sva_bind_device(dev: PciDev, mm: Mm) -> SvaHandle:
    """
    Let *dev* use *mm*; the same device and mm give the same handle again.

    C: ``struct iommu_sva *iommu_sva_bind_device(struct device *, struct mm_struct *)``.

    Raises:
        ENODEV: no IOMMU in scalable mode.
        ENOSPC: no PASID is left.
        ENOMEM: by fault injection.
    """
    iommu = _iommu(dev)
    if not iommu.scalable or not iommu.pasid_enabled(dev):
        raise err(ENODEV)
    table = iommu.tables[dev.name]
    for handle in table.values():
        if isinstance(handle, SvaHandle) and handle.mm is mm:
            handle.users += 1
            return handle
    dev.kernel.faults.alloc("iommu_sva_bind_device")
    bond = SvaHandle(dev, mm, iommu.mm_pasid(mm))
    table[bond.pasid] = bond
    if dev.kernel.trace:
        dev.kernel.trace("sva_bind", device=dev.name, pasid=bond.pasid)
    return bond


def iommu_sva_unbind_device(handle: SvaHandle) -> None:
    """C: ``void iommu_sva_unbind_device(struct iommu_sva *)``."""
    handle.users -= 1
    if handle.users:
        return
    iommu = handle.dev.kernel.sub(Iommu)
    iommu.tables.get(handle.dev.name, {}).pop(handle.pasid, None)
    iommu.put_pasid(handle.mm)
    if handle.dev.kernel.trace:
        handle.dev.kernel.trace("sva_unbind", device=handle.dev.name, pasid=handle.pasid)
