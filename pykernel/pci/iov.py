"""SR-IOV (drivers/pci/iov.c): virtual functions come and go by sriov_numvfs."""

from __future__ import annotations

from errno import EBUSY, EINVAL, ENOENT, ENOSYS, ERANGE
from typing import TYPE_CHECKING, Any

from pykernel.errors import err
from pykernel.lib.kstrtox import kstrtobool, kstrtou16
from pykernel.uapi.linux import pci_regs as r

if TYPE_CHECKING:
    from pykernel.pci.core import PciDev, Slot

__all__ = ["Iov"]


class Iov:
    """``struct pci_sriov`` of a physical function."""

    def __init__(self, dev: PciDev, pos: int) -> None:
        self.dev = dev
        self.pos = pos
        self.total_vfs = dev.read_config_word(pos + r.PCI_SRIOV_TOTAL_VF)
        self.driver_max = self.total_vfs
        self.offset = dev.read_config_word(pos + r.PCI_SRIOV_VF_OFFSET)
        self.stride = dev.read_config_word(pos + r.PCI_SRIOV_VF_STRIDE)
        self.vf_device = dev.read_config_word(pos + r.PCI_SRIOV_VF_DID)
        self.drivers_autoprobe = True
        self.vfs: list[PciDev] = []

    @classmethod
    def probe(cls, dev: PciDev) -> Iov | None:
        """drivers/pci/iov.c:pci_iov_init()."""
        pos = dev.find_ext_capability(r.PCI_EXT_CAP_ID_SRIOV)
        return cls(dev, pos) if pos else None

    def numvfs_store(self, buf: str) -> None:
        """drivers/pci/iov.c:sriov_numvfs_store(). Raises EINVAL, ERANGE, ENOENT, EBUSY, and what the driver says."""
        try:
            n = kstrtou16(buf, 0)
        except OSError as e:
            raise err(EINVAL) from e
        if n > self.driver_max:
            raise err(ERANGE)
        if n == len(self.vfs):
            return
        driver: Any = self.dev.driver
        if driver is None:
            self.dev.info("no driver bound to device; cannot configure SR-IOV")
            raise err(ENOENT)
        configure = getattr(driver, "sriov_configure", None)
        if configure is None:
            self.dev.info("driver does not support SR-IOV configuration via sysfs")
            raise err(ENOENT)
        if n and self.vfs:
            self.dev.warn(f"{len(self.vfs)} VFs already enabled. Disable before enabling {n} VFs")
            raise err(EBUSY)
        configure(self.dev, n)

    def autoprobe_store(self, buf: str) -> None:
        """drivers/pci/iov.c:sriov_drivers_autoprobe_store(). Raises EINVAL."""
        self.drivers_autoprobe = kstrtobool(buf)

    def enable(self, n: int) -> None:
        """
        C: ``int pci_enable_sriov(struct pci_dev *, int)``.

        Raises:
            EINVAL: 0 or more than there are.
            EBUSY: enabled.
            ENOSYS: the silicon has no virtual functions behind its capability.
        """
        make = getattr(self.dev.function, "make_vf", None)
        if make is None:
            raise err(ENOSYS)
        if self.vfs:
            raise err(EBUSY)
        if not 0 < n <= self.total_vfs:
            raise err(EINVAL)
        dev = self.dev
        dev.write_config_word(self.pos + r.PCI_SRIOV_NUM_VF, n)
        control = dev.read_config_word(self.pos + r.PCI_SRIOV_CTRL)
        dev.write_config_word(self.pos + r.PCI_SRIOV_CTRL, control | r.PCI_SRIOV_CTRL_VFE | r.PCI_SRIOV_CTRL_MSE)
        for i in range(n):
            self.vfs.append(self._add(i, dev.pci.plug(self._address(i), make(i))))

    def _address(self, i: int) -> str:
        rid = (self.dev.bus_number << 8 | self.dev.devfn) + self.offset + self.stride * i
        return f"{self.dev.name[:4]}:{rid >> 8:02x}:{rid >> 3 & 31:02x}.{rid & 7}"

    def _add(self, i: int, slot: Slot) -> PciDev:
        # drivers/pci/iov.c:pci_iov_add_virtfn()
        vf = self.dev.pci._scan(slot)
        bus = self.dev.pci.bus
        before, bus.autoprobe = bus.autoprobe, bus.autoprobe and self.drivers_autoprobe
        try:
            vf.register()
        finally:
            bus.autoprobe = before
        self.dev.create_link(vf, f"virtfn{i}")
        vf.create_link(self.dev, "physfn")
        return vf

    def disable(self) -> None:
        """C: ``void pci_disable_sriov(struct pci_dev *)``."""
        pci = self.dev.pci
        for i, vf in reversed(list(enumerate(self.vfs))):
            self.dev.remove_link(f"virtfn{i}")
            vf.stop_and_remove()
            del pci.slots[vf.name]
        self.vfs.clear()
        control = self.dev.read_config_word(self.pos + r.PCI_SRIOV_CTRL)
        self.dev.write_config_word(
            self.pos + r.PCI_SRIOV_CTRL, control & ~(r.PCI_SRIOV_CTRL_VFE | r.PCI_SRIOV_CTRL_MSE)
        )
        self.dev.write_config_word(self.pos + r.PCI_SRIOV_NUM_VF, 0)
