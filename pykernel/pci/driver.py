"""The PCI bus and its drivers (drivers/pci/pci-driver.c): matching, new_id, remove_id, probe."""

from __future__ import annotations

import re
from dataclasses import dataclass
from errno import EEXIST, EINVAL, ENODEV
from typing import TYPE_CHECKING, Any, ClassVar

from pykernel.base import dd
from pykernel.base.bus import Bus, Driver
from pykernel.errors import err
from pykernel.fs.sysfs import AttrGroup, Kset
from pykernel.lib.kstrtox import kstrtoul

if TYPE_CHECKING:
    from pykernel.base.core import Device
    from pykernel.kernel import Kernel
    from pykernel.pci.dev import PciDev

__all__ = ["PCI_ANY_ID", "PciBus", "PciDriver", "PciId"]

PCI_ANY_ID = 0xFFFFFFFF
HEX = re.compile(r"[\t-\r \xa0]*(?=[0-9a-fA-F])(?:0[xX])?([0-9a-fA-F]*)")


@dataclass(frozen=True, slots=True)
class PciId:
    """``struct pci_device_id``."""

    vendor: int
    device: int
    subvendor: int = PCI_ANY_ID
    subdevice: int = PCI_ANY_ID
    class_: int = 0
    class_mask: int = 0
    driver_data: Any = 0
    override_only: bool = False

    def matches(self, dev: PciDev | PciId) -> bool:
        """drivers/pci/pci.h:pci_match_one_device()."""
        sv, sd, cc = (
            (dev.subvendor, dev.subdevice, dev.class_)
            if isinstance(dev, PciId)
            else (dev.subsystem_vendor, dev.subsystem_device, dev.class_code)
        )
        return (
            self.vendor in (PCI_ANY_ID, dev.vendor)
            and self.device in (PCI_ANY_ID, dev.device)
            and self.subvendor in (PCI_ANY_ID, sv)
            and self.subdevice in (PCI_ANY_ID, sd)
            and not (self.class_ ^ cc) & self.class_mask
        )


ANY = PciId(PCI_ANY_ID, PCI_ANY_ID)


def sscanf_hex(buf: str, limit: int, separator: str = "") -> list[int]:
    """
    ``sscanf(buf, "%x %x ...")``: the numbers up to the first thing that is none; each cut to 32 bits, the 7th to 64.

    With a *separator* it is "%x:%x:...". "0x" alone is 0.
    """
    found: list[int] = []
    at = 0
    while len(found) < limit and (m := HEX.match(buf, at)):
        found.append(int(m[1] or "0", 16) & (0xFFFFFFFF if len(found) < 6 else (1 << 64) - 1))
        at = m.end()
        if separator and not buf.startswith(separator, at):
            break
        at += len(separator)
    return found


class PciBus(Bus):
    """``pci_bus_type``."""

    attrs = AttrGroup("rescan", "resource_alignment")

    def __init__(self, kernel: Kernel) -> None:
        super().__init__(kernel, "pci")
        self.alignment = ""
        self.register()
        Kset(kernel, "slots", self).add()

    def match(self, dev: Device, drv: Driver) -> bool:
        """drivers/pci/pci-driver.c:pci_bus_match()."""
        assert isinstance(drv, PciDriver)
        pdev: Any = dev
        return pdev.match_driver and drv.match_id(pdev) is not None

    def probe(self, dev: Any) -> None:
        """drivers/pci/pci-driver.c:pci_device_probe(). Raises ENODEV, and what the driver's probe raises."""
        if not dev.can_probe:
            raise err(ENODEV, "sriov_drivers_autoprobe is off")
        dev.power.get_sync()
        try:
            super().probe(dev)
        except BaseException:
            dev.power.put_sync()
            raise

    def dma_configure(self, dev: Device) -> None:
        """drivers/pci/pci-driver.c:pci_dma_configure(). Raises EBUSY: user space owns the device's IOMMU group."""
        assert dev.driver is not None
        if dev.iommu_group is not None and not dev.driver.driver_managed_dma:
            dev.iommu_group.use_default_domain()

    def dma_cleanup(self, dev: Device) -> None:
        """drivers/pci/pci-driver.c:pci_dma_cleanup()."""
        assert dev.driver is not None
        if dev.iommu_group is not None and not dev.driver.driver_managed_dma:
            dev.iommu_group.unuse_default_domain()

    def remove(self, dev: Any) -> None:
        """drivers/pci/pci-driver.c:pci_device_remove()."""
        dev.power.get_sync()
        super().remove(dev)
        dev.power.put_noidle()
        if dev.iov is not None:
            dev.iov.driver_removed()
        dev.power.put_sync()

    def uevent(self, dev: Any, env: dict[str, str]) -> None:
        """drivers/pci/pci-driver.c:pci_uevent()."""
        env["PCI_CLASS"] = f"{dev.class_code:04X}"
        env["PCI_ID"] = f"{dev.vendor:04X}:{dev.device:04X}"
        env["PCI_SUBSYS_ID"] = f"{dev.subsystem_vendor:04X}:{dev.subsystem_device:04X}"
        env["PCI_SLOT_NAME"] = dev.name
        env["MODALIAS"] = dev.modalias

    def resource_alignment_show(self) -> str:
        """drivers/pci/pci.c:resource_alignment_show()."""
        return self.alignment

    def resource_alignment_store(self, buf: str) -> None:
        """drivers/pci/pci.c:resource_alignment_store(): kept as it is; a lone newline clears."""
        text = str(buf).removesuffix("\n")
        self.alignment = f"{text}\n" if text else ""

    def rescan_store(self, buf: str) -> None:
        """drivers/pci/pci-sysfs.c:rescan_store(). Raises EINVAL."""
        from pykernel.pci.core import Pci

        if parse_ul(buf):
            pci = self.kernel.sub(Pci)
            with pci.rescan_remove:
                pci.rescan()


def parse_ul(buf: str) -> int:
    """kstrtoul(buf, 0), every failure EINVAL, as pci-sysfs.c does."""
    try:
        return kstrtoul(buf, 0)
    except OSError as e:
        raise err(EINVAL) from e


class PciDriver(Driver):
    """``struct pci_driver``."""

    attrs = AttrGroup("new_id", "remove_id")
    id_table: ClassVar[tuple[PciId, ...]] = ()

    def __init__(self, kernel: Kernel, name: str, module: Any = None) -> None:
        super().__init__(kernel, name, kernel.sub(PciBus), module)
        self.dynids: list[PciId] = []

    def match_id(self, dev: PciDev) -> PciId | None:
        """drivers/pci/pci-driver.c:pci_match_device()."""
        if dev.driver_override is not None and dev.driver_override != self.name:
            return None
        for row in self.dynids:
            if row.matches(dev):
                return row
        for row in self.id_table:
            if row.matches(dev) and (dev.driver_override is not None or not row.override_only):
                return row
        return ANY if dev.driver_override is not None else None

    def error_detected(self, pdev: Any) -> None:
        """``err_handler->error_detected``: an error of the link or the device was reported."""

    def runtime_suspend(self, pdev: Any) -> None:
        """``driver.pm->runtime_suspend``. Raises an errno: not now."""

    def runtime_resume(self, pdev: Any) -> None:
        """``driver.pm->runtime_resume``. Raises an errno."""

    def reset_prepare(self, pdev: Any) -> None:
        """``err_handler->reset_prepare``: the function is about to be reset."""

    def reset_done(self, pdev: Any) -> None:
        """``err_handler->reset_done``: it was, and its configuration space is back."""

    def _static(self, wanted: PciId) -> bool:
        return any(row.matches(wanted) and not row.override_only for row in self.id_table)

    def new_id_store(self, buf: str) -> None:
        """drivers/pci/pci-driver.c:new_id_store(). Raises EINVAL, EEXIST."""
        f = sscanf_hex(buf, 7)
        if len(f) < 2:
            raise err(EINVAL)
        whole = [*f, *(0, 0, PCI_ANY_ID, PCI_ANY_ID, 0, 0, 0)[len(f) :]]
        vendor, device, sv, sd, cls, mask, data = whole
        row = PciId(vendor, device, sv, sd, cls, mask, data)
        if len(f) != 7 and self._static(row):
            raise err(EEXIST)
        if self.id_table and row.driver_data not in [r.driver_data for r in self.id_table]:
            raise err(EINVAL, "driver_data of no row of the driver's table")
        if len(f) != 7 and any(r.matches(row) for r in self.dynids):
            raise err(EEXIST)
        self.add_dynid(row)

    def add_dynid(self, row: PciId) -> None:
        """C: ``int pci_add_dynid(struct pci_driver *, ...)``: tries the driver on every device."""
        self.dynids.append(row)
        dd.driver_attach(self)

    def remove_id_store(self, buf: str) -> None:
        """drivers/pci/pci-driver.c:remove_id_store(). Raises EINVAL, ENODEV."""
        f = sscanf_hex(buf, 6)
        if len(f) < 2:
            raise err(EINVAL)
        vendor, device, sv, sd, cls, mask = [*f, *(0, 0, PCI_ANY_ID, PCI_ANY_ID, 0, 0)[len(f) :]]
        for row in self.dynids:
            if (
                (row.vendor, row.device) == (vendor, device)
                and sv in (PCI_ANY_ID, row.subvendor)
                and (sd in (PCI_ANY_ID, row.subdevice))
                and not (row.class_ ^ cls) & mask
            ):
                self.dynids.remove(row)
                return
        raise err(ENODEV)
