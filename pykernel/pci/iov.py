"""SR-IOV (drivers/pci/iov.c): virtual functions come and go by sriov_numvfs."""

from __future__ import annotations

from errno import EBUSY, EINVAL, EIO, ENOENT, ENOMEM, ENOSYS, ERANGE
from typing import TYPE_CHECKING, Any

from pykernel.errors import err
from pykernel.lib.kstrtox import kstrtobool, kstrtou16
from pykernel.pci.resource import Resource
from pykernel.uapi.linux import pci_regs as r

if TYPE_CHECKING:
    from pykernel.pci.dev import PciDev

__all__ = ["PCI_IOV_RESOURCES", "Iov"]

PCI_IOV_RESOURCES = 7  # after the six BARs and the ROM
ENABLED = r.PCI_SRIOV_CTRL_VFE | r.PCI_SRIOV_CTRL_MSE


class Iov:
    """
    ``struct pci_sriov`` of a physical function.

    Its silicon has ``make_vf(i)``, which gives the function on the wire of virtual function *i*.
    """

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
        dev.read_bars(pos + r.PCI_SRIOV_BAR, PCI_IOV_RESOURCES, self.total_vfs)

    @classmethod
    def probe(cls, dev: PciDev) -> Iov | None:
        """drivers/pci/iov.c:pci_iov_init(), sriov_init(): nothing without virtual functions."""
        pos = dev.find_ext_capability(r.PCI_EXT_CAP_ID_SRIOV)
        return cls(dev, pos) if pos and dev.read_config_word(pos + r.PCI_SRIOV_TOTAL_VF) else None

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
        enabled = configure(self.dev, n)
        if n and enabled != n:
            self.dev.warn(f"{n} VFs requested; only {enabled} enabled")

    def autoprobe_store(self, buf: str) -> None:
        """drivers/pci/iov.c:sriov_drivers_autoprobe_store(). Raises EINVAL."""
        self.drivers_autoprobe = kstrtobool(buf, e=self.dev.kernel.profile.kstrtobool_enable)

    def enable(self, n: int) -> None:
        """
        C: ``int pci_enable_sriov(struct pci_dev *, int)``.

        Raises:
            EINVAL: more than there are, or some are enabled.
            EIO: INITIAL_VF is not TOTAL_VF.
            ENOMEM: they would lie beyond the last bus.
            ENOSYS: the silicon has no virtual functions behind its capability.
        """
        make = getattr(self.dev.function, "make_vf", None)
        if make is None:
            raise err(ENOSYS)
        if not n:
            return
        if self.vfs:
            raise err(EINVAL)
        if self.dev.read_config_word(self.pos + r.PCI_SRIOV_INITIAL_VF) != self.total_vfs:
            raise err(EIO)
        if n > self.total_vfs:
            raise err(EINVAL)
        if self._rid(n - 1) > 0xFFFF:
            self.dev.err(f"can't enable {n} VFs (bus {self._rid(n - 1) >> 8:02x} out of range)")
            raise err(ENOMEM)
        self._set(n, ENABLED)
        for i in range(n):
            self.vfs.append(self._add(i, make(i)))
        self.dev.send_uevent("change")

    def _set(self, n: int, control: int) -> None:
        at = self.pos + r.PCI_SRIOV_CTRL
        if n:
            self.dev.write_config_word(self.pos + r.PCI_SRIOV_NUM_VF, n)
        self.dev.write_config_word(at, self.dev.read_config_word(at) & ~ENABLED | control)
        if not n:
            self.dev.write_config_word(self.pos + r.PCI_SRIOV_NUM_VF, 0)

    def next_resources(self) -> dict[int, Resource]:
        """The BARs of the virtual function that comes next: its part of each of ours."""
        found = {}
        for n, whole in self.dev.resources.items():
            if n >= PCI_IOV_RESOURCES:
                size = whole.size // self.total_vfs
                found[n - PCI_IOV_RESOURCES] = Resource(whole.start + size * len(self.vfs), size, whole.flags)
        return found

    def _rid(self, i: int) -> int:
        return (self.dev.bus_number << 8 | self.dev.devfn) + self.offset + self.stride * i

    def _add(self, i: int, function: Any) -> PciDev:
        # drivers/pci/iov.c:pci_iov_add_virtfn()
        dev, rid = self.dev, self._rid(i)
        slot = dev.pci.plug(f"{dev.name[:4]}:{rid >> 8:02x}:{rid >> 3 & 31:02x}.{rid & 7}", function)
        assert dev.device_parent is not None
        vf = dev.pci.add_function(slot, dev.pci_bus, dev)
        dev.create_link(vf, f"virtfn{i}")
        vf.create_link(dev, "physfn")
        vf.send_uevent("change")
        vf.bus_add()
        return vf

    def disable(self) -> None:
        """C: ``void pci_disable_sriov(struct pci_dev *)``."""
        if not self.vfs:
            return
        pci = self.dev.pci
        for i, vf in enumerate(self.vfs):
            self.dev.remove_link(f"virtfn{i}")
            vf.remove_link("physfn")
            vf.stop_and_remove()
            del pci.slots[vf.name]
        self.vfs.clear()
        self._set(0, 0)

    def restore(self) -> None:
        """After a reset: BARs, page size, how many, on. drivers/pci/iov.c:sriov_restore_state()."""
        dev, at = self.dev, self.pos + r.PCI_SRIOV_CTRL
        if dev.read_config_word(at) & r.PCI_SRIOV_CTRL_VFE or not self.vfs:
            return
        for n, whole in dev.resources.items():
            if PCI_IOV_RESOURCES <= n < PCI_IOV_RESOURCES + 6:
                off = self.pos + r.PCI_SRIOV_BAR + 4 * (n - PCI_IOV_RESOURCES)
                dev.function.config_write(off, 4, whole.start & 0xFFFFFFFF)
                dev.function.config_write(off + 4, 4, whole.start >> 32)
        self._set(len(self.vfs), ENABLED)

    def driver_removed(self) -> None:
        """drivers/pci/iov.c:pci_iov_remove()."""
        self.driver_max = self.total_vfs
        if self.vfs:
            self.dev.warn("driver left SR-IOV enabled after remove")
