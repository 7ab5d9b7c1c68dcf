"""
vfio-pci: any PCI device for user space (drivers/vfio/pci/vfio_pci.c), and the module that it shares with its like.

It takes devices whose ``driver_override`` names it, and those that ``new_id`` or the parameter ``ids`` say.
"""

from __future__ import annotations

from errno import EINVAL, ENOENT
from typing import TYPE_CHECKING, Any, ClassVar

from pykernel.base.module import Module, Param
from pykernel.errors import err
from pykernel.log import INFO, WARNING
from pykernel.pci.driver import PCI_ANY_ID, PciDriver, PciId, sscanf_hex
from pykernel.vfio.pci.params import CoreParams

if TYPE_CHECKING:
    from pykernel.drivers.vfio_pci_device import VfioPciDevice
    from pykernel.kernel import Kernel

__all__ = ["VfioPciCoreModule", "VfioPciDriver", "VfioPciModule"]

# QuickAssist, DSA and IAX of Sapphire Rapids: errata of theirs let a user do harm
DENYLIST = {(0x8086, device) for device in (0x19E2, 0x19E3, 0x37C8, 0x37C9, 0x0435, 0x0443, 0x0B25, 0x0CFE)}


class VfioPciDriver(PciDriver):
    """``static struct pci_driver vfio_pci_driver``."""

    id_table = (PciId(PCI_ANY_ID, PCI_ANY_ID, override_only=True),)
    driver_managed_dma = True

    def _denied(self, dev: Any) -> bool:
        # drivers/vfio/pci/vfio_pci.c:vfio_pci_is_denylisted()
        if (dev.vendor, dev.device) not in DENYLIST:
            return False
        ids = f"{dev.vendor:04x}:{dev.device:04x}"
        if self.module.param["disable_denylist"]:
            dev.warn(f"device denylist disabled - allowing device {ids}.")
            return False
        dev.warn(f"{ids} exists in vfio-pci device denylist, driver probing disallowed.")
        return True

    def probe(self, dev: Any, /) -> None:
        """vfio_pci_probe(). Raises EINVAL: the denylist, no endpoint; EBUSY: it has virtual functions; ..."""
        if self._denied(dev):
            raise err(EINVAL, "the device is on the denylist")
        from pykernel.drivers.vfio_pci_device import VfioPciDevice  # most machines have the module, few a device of it

        dev.drvdata = vdev = VfioPciDevice(dev)
        vdev.register_device()

    def remove(self, dev: Any, /) -> None:
        """vfio_pci_remove(): waits while the device is open."""
        dev.drvdata.unregister_device()

    def sriov_configure(self, dev: Any, n: int) -> int:
        """vfio_pci_sriov_configure(). Raises ENOENT: enable_sriov is off."""
        if not self.module.param["enable_sriov"]:
            raise err(ENOENT, "enable_sriov is off")
        vdev: VfioPciDevice = dev.drvdata
        return vdev.sriov.configure(n)

    def runtime_suspend(self, pdev: Any) -> None:
        """``vfio_pci_core_pm_ops``."""
        pdev.drvdata.power.suspend()

    def runtime_resume(self, pdev: Any) -> None:
        """``vfio_pci_core_pm_ops``."""
        pdev.drvdata.power.resume()

    def error_detected(self, pdev: Any) -> None:
        """``vfio_pci_core_err_handlers``."""
        pdev.drvdata.aer_err_detected()


class VfioPciCoreModule(Module):
    """``vfio_pci_core.ko``: what vfio-pci and drivers of its kind share."""

    name_ = "vfio_pci_core"
    depends = ("vfio",)
    size = 73728

    @classmethod
    def needs(cls, kernel: Kernel) -> tuple[str, ...]:
        """Of a kernel that has vfio_virqfd as a module that, too."""
        return ("vfio", "vfio_virqfd") if kernel.profile.vfio_virqfd_module else ("vfio",)


class VfioPciModule(Module):
    """``vfio_pci.ko``."""

    name_ = "vfio_pci"
    depends = ("vfio_pci_core", "vfio")
    aliases = ("vfio_pci:v*d*sv*sd*bc*sc*i*",)
    params: ClassVar[tuple[Param, ...]] = (
        Param("ids", "charp", "", 0),
        Param("nointxmask", "bool", default=False, mode=0o644),
        Param("disable_vga", "bool", default=False),
        Param("disable_idle_d3", "bool", default=False, mode=0o644),
        Param("enable_sriov", "bool", default=False, mode=0o644),
        Param("disable_denylist", "bool", default=False),
    )

    def init(self) -> None:
        """vfio_pci_init(): an entry of *ids* that is no ID is told of and left out. Raises EBUSY."""
        core = self.kernel.sub(CoreParams)
        for name in ("nointxmask", "disable_vga", "disable_idle_d3"):
            setattr(core, name, self.param[name])
        self.driver = VfioPciDriver(self.kernel, "vfio-pci", self)
        self.driver.register()
        for text in self.param["ids"].split(","):
            if text:
                self._add(text)
        if self.param["disable_denylist"]:
            self._print(WARNING, "device denylist disabled.")

    def _print(self, level: int, text: str) -> None:
        self.kernel.log.printk(level, f"vfio_pci: {text}")

    def _add(self, text: str) -> None:
        found = sscanf_hex(text, 6, ":")
        if len(found) < 2:
            self._print(WARNING, f'invalid id string "{text}"')
            return
        whole = [*found, *(0, 0, PCI_ANY_ID, PCI_ANY_ID, 0, 0)[len(found) :]]
        vendor, device, sv, sd, cls, mask = whole
        self.driver.add_dynid(PciId(vendor, device, sv, sd, cls, mask))
        self._print(INFO, f"add [{vendor:04x}:{device:04x}[{sv:04x}:{sd:04x}]] class {_hash8(cls)}/{mask:08x}")

    def exit(self) -> None:
        """vfio_pci_cleanup()."""
        self.driver.unregister()


def _hash8(value: int) -> str:
    """As printk's ``%#08x``: eight columns with the prefix."""
    return f"{value:#08x}"
