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
from pykernel.fs.sysfs import AttrGroup, Kset, SysFs
from pykernel.lib.idr import Ida
from pykernel.lib.notifier import NOTIFY_DONE, NotifierBlock
from pykernel.mm.sim import SimMemory
from pykernel.pci.coherent import PhysMem
from pykernel.pci.core import Pci
from pykernel.pci.dev import PciDev
from pykernel.pci.function import DmaFault
from pykernel.syscalls import Pids
from pykernel.uapi.linux import pci_regs as r

if TYPE_CHECKING:
    from pykernel.kernel import Kernel
    from pykernel.task import Mm

__all__ = [
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


class IommuGroup(Kset):
    """/sys/kernel/iommu_groups/N."""

    attrs = AttrGroup("name", "reserved_regions", "type")

    def name_show(self) -> str:
        """No name."""
        return "\n"

    def reserved_regions_show(self) -> str:
        """The local APIC's range, as VT-d has it."""
        return "0x00000000fee00000 0x00000000feefffff msi\n"

    def type_show(self) -> str:
        """The default domain."""
        return "DMA-FQ\n"

    def attr_is_visible(self, name: str) -> bool:
        """A group without a name has no such file."""
        return name != "name"


class Iommu:
    """The IOMMU of one kernel: PASID tables of its devices, page requests, groups."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        spec = kernel.machine.iommu
        self.enabled: bool = spec.enabled
        self.scalable: bool = spec.enabled and spec.sva
        self.pasid_bits: int = spec.pasid_bits
        self.pasids = Ida()
        self.system_pasids: set[int] = set()
        self.by_mm: dict[int, tuple[int, Mm, int]] = {}
        self.tables: dict[str, dict[int, SvaHandle]] = {}
        self.features: dict[str, set[str]] = {}
        self.group_ids = Ida()
        self.groups: dict[str, tuple[int, IommuGroup]] = {}
        self._groups_dir: Kset | None = None
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
            if p not in self.system_pasids
        ]

    # ---- devices come and go

    def _bus_event(self, nb: NotifierBlock, event: int, dev: Any) -> int:
        if self.enabled and event == BUS_NOTIFY_ADD_DEVICE:
            self._probe(dev)
        elif event == BUS_NOTIFY_REMOVED_DEVICE:
            self._release(dev)
        return NOTIFY_DONE

    def _probe(self, dev: PciDev) -> None:
        """drivers/iommu/iommu.c:iommu_probe_device(); intel/iommu.c:iommu_enable_pci_caps()."""
        if self._groups_dir is None:
            self._groups_dir = Kset(self.kernel, "iommu_groups", self.kernel.sub(SysFs).top["kernel"])
            self._groups_dir.add()
        n = self.group_ids.alloc()
        group = IommuGroup(self.kernel, str(n), self._groups_dir)
        group.add()
        devices = Kset(self.kernel, "devices", group)
        devices.add()
        devices.create_link(dev, dev.name)
        dev.create_link(group, "iommu_group")
        dev.info(f"Adding to iommu group {n}")
        self.groups[dev.name] = (n, group)
        self.tables[dev.name] = {}
        if self.scalable:
            self._enable_pci_caps(dev)

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

    def _release(self, dev: PciDev) -> None:
        self.tables.pop(dev.name, None)
        self.features.pop(dev.name, None)
        n, group = self.groups.pop(dev.name, (None, None))
        if group is not None and n is not None:
            if self.kernel.profile.iommu_removal_message:
                dev.info(f"Removing from iommu group {n}")
            group.delete()
            self.group_ids.free(n)

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

    def _mem(self, pdev: PciDev, addr: int, pasid: int | None, *, write: bool) -> Any:
        if pasid is None:
            return self.kernel.sub(PhysMem).mem
        handle = self.tables.get(pdev.name, {}).get(pasid)
        if handle is None:
            raise DmaFault(addr, write, f"PASID {pasid} is not in the table of {pdev.name}")
        return handle.mm.mem

    def dma_read(self, pdev: PciDev, addr: int, n: int, pasid: int | None, priv: bool) -> bytes:
        """Read. Raises DmaFault at the first page that is not there."""
        mem = self._mem(pdev, addr, pasid, write=False)
        self._check(mem, addr, n, write=False)
        try:
            data: bytes = mem.read(addr, n)
        except OSError as e:
            raise DmaFault(self._first_bad(mem, addr, n), write=False, reason="not readable") from e
        return data

    def dma_write(self, pdev: PciDev, addr: int, data: bytes, pasid: int | None, priv: bool) -> None:
        """Write. Raises DmaFault; then nothing was written of simulated memory."""
        mem = self._mem(pdev, addr, pasid, write=True)
        self._check(mem, addr, len(data), write=True)
        try:
            mem.write(addr, data)
        except OSError as e:
            raise DmaFault(self._first_bad(mem, addr, len(data)), write=True, reason="not writable") from e

    @staticmethod
    def _check(mem: Any, addr: int, n: int, *, write: bool) -> None:
        if isinstance(mem, SimMemory):
            for page in range(addr & -PAGE, addr + n, PAGE):
                if mem.walk(page, write=write) is None:
                    raise DmaFault(max(page, addr), write, "page not present")

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
        try:
            mem = self._mem(pdev, addr, pasid, write=write)
            if isinstance(mem, SimMemory):
                mem.fault(addr, write=write)
            else:
                data = mem.read(addr, 1)
                if write:
                    mem.write(addr, data)
        except (OSError, DmaFault):
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
        if handle.mm is mm:
            handle.users += 1
            return handle
    dev.kernel.faults.alloc("iommu_sva_bind_device")
    handle = SvaHandle(dev, mm, iommu.mm_pasid(mm))
    table[handle.pasid] = handle
    if dev.kernel.trace:
        dev.kernel.trace("sva_bind", device=dev.name, pasid=handle.pasid)
    return handle


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
