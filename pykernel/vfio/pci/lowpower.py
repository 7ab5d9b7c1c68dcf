"""
The power of a device that a user has: D-states that it writes, and the low power features
(drivers/vfio/pci/vfio_pci_core.c).
"""

from __future__ import annotations

from errno import EBUSY, EINVAL
from typing import TYPE_CHECKING

from pykernel.errors import err
from pykernel.fs.anon import EventFd, eventfd_ctx_fdget
from pykernel.mm.uaccess import copy_from_user
from pykernel.pci.power import PCI_D0, PCI_D3HOT, SavedState
from pykernel.uapi.linux import pci_regs as r
from pykernel.uapi.linux.vfio import VFIO_DEVICE_FEATURE_SET, vfio_device_low_power_entry_with_wakeup
from pykernel.vfio.feature import vfio_check_feature

if TYPE_CHECKING:
    from pykernel.vfio.pci.core import VfioPciCoreDevice

__all__ = ["LowPower"]


class LowPower:
    """
    ``needs_pm_restore``, ``pm_save`` and their like.

    Attributes:
        engaged: the user asked for low power; BARs cannot be reached through mappings.
        wake_eventfd: what is signalled when the device wakes.
    """

    def __init__(self, vdev: VfioPciCoreDevice) -> None:
        self.vdev = vdev
        self.pdev = pdev = vdev.pdev
        at = pdev.pm_cap
        # drivers/vfio/pci/vfio_pci_core.c:vfio_pci_probe_power_state()
        self.needs_restore = bool(at) and not pdev.read_config_word(at + r.PCI_PM_CTRL) & r.PCI_PM_CTRL_NO_SOFT_RESET
        self.saved: SavedState | None = None
        self.engaged = False
        self.wake_eventfd: EventFd | None = None
        self.intx_masked = False

    def set_power_state(self, state: int) -> None:
        """
        What a function without No_Soft_Reset loses in D3 is kept.

        C: ``int vfio_pci_set_power_state(struct vfio_pci_core_device *, pci_power_t)``.

        Raises:
            EBUSY: it has virtual functions. EIO, EINVAL: it cannot go there.
        """
        pdev = self.pdev
        if state > PCI_D0 and self.vdev.sriov_active:
            raise err(EBUSY, f"{pdev.name} has virtual functions")
        restore = self.needs_restore and pdev.current_state >= PCI_D3HOT and state <= PCI_D0
        save = self.needs_restore and pdev.current_state < PCI_D3HOT <= state
        if save:
            pdev.save_state()
        pdev.set_power_state(state)
        if save and pdev.current_state >= PCI_D3HOT:
            self.saved = pdev.store_saved_state()
        elif restore:
            saved, self.saved = self.saved, None
            pdev.load_saved_state(saved)
            pdev.restore_state()

    # ---- runtime power management

    def suspend(self) -> None:
        """C: ``int vfio_pci_core_runtime_suspend(struct device *)``."""
        self.set_power_state(PCI_D0)
        self.intx_masked = self.vdev.irqs.intx_mask() if self.vdev.irqs.is_intx else False

    def resume(self) -> None:
        """C: ``int vfio_pci_core_runtime_resume(struct device *)``: who asked for it hears of it."""
        if self.wake_eventfd is not None:
            self.wake_eventfd.signal()
            self.leave()
        if self.intx_masked:
            self.vdev.irqs.intx_unmask()

    def _enter(self, eventfd: EventFd | None) -> None:
        # drivers/vfio/pci/vfio_pci_core.c:vfio_pci_runtime_pm_entry()
        if self.engaged:
            raise err(EINVAL, "low power was asked for")
        self.engaged, self.wake_eventfd = True, eventfd
        self.pdev.power.put_noidle()

    def leave(self) -> None:
        """C: ``void __vfio_pci_runtime_pm_exit(struct vfio_pci_core_device *)``."""
        if self.engaged:
            self.engaged, self.wake_eventfd = False, None
            self.pdev.power.get_noresume()

    # ---- VFIO_DEVICE_FEATURE

    def entry(self, flags: int, arg: int, argsz: int) -> int:
        """VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY. Raises EINVAL: asked for before."""
        if vfio_check_feature(flags, argsz, VFIO_DEVICE_FEATURE_SET, 0):
            self._enter(None)
        return 0

    def entry_with_wakeup(self, flags: int, arg: int, argsz: int) -> int:
        """VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY_WITH_WAKEUP. Raises EINVAL: asked for before, no eventfd; EBADF."""
        size = vfio_device_low_power_entry_with_wakeup.sizeof()
        if not vfio_check_feature(flags, argsz, VFIO_DEVICE_FEATURE_SET, size):
            return 0
        kernel = self.vdev.kernel
        fd = vfio_device_low_power_entry_with_wakeup.from_bytes(copy_from_user(kernel, arg, size)).wakeup_eventfd
        if fd < 0:
            raise err(EINVAL)
        self._enter(eventfd_ctx_fdget(kernel, fd))
        return 0

    def exit(self, flags: int, arg: int, argsz: int) -> int:
        """VFIO_DEVICE_FEATURE_LOW_POWER_EXIT."""
        if vfio_check_feature(flags, argsz, VFIO_DEVICE_FEATURE_SET, 0):
            self.leave()
        return 0
