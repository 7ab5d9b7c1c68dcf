"""Power states of a PCI device, and what it keeps over a reset or a sleep (drivers/pci/pci.c, pci-driver.c)."""

from __future__ import annotations

from errno import EINVAL, EIO
from typing import TYPE_CHECKING, Any

from pykernel.errors import err
from pykernel.pci.sysfs import PciDevFiles
from pykernel.uapi.linux import pci_regs as r

if TYPE_CHECKING:
    from pykernel.pci.function import PciFunction
    from pykernel.pci.msi import Msi

__all__ = ["PCI_D0", "PCI_D1", "PCI_D2", "PCI_D3COLD", "PCI_D3HOT", "PCI_UNKNOWN", "PciPower", "SavedState"]

# include/linux/pci.h: pci_power_t
PCI_D0, PCI_D1, PCI_D2, PCI_D3HOT, PCI_D3COLD, PCI_UNKNOWN = range(6)
POWER_NAMES = ("D0", "D1", "D2", "D3hot", "D3cold", "unknown")  # drivers/pci/pci.c:pci_power_names

SavedState = list[tuple[int, int, int]]
"""``struct pci_saved_state``: (offset, size, value) in the order in which they are written back."""

# registers that pci_save_state() saves beyond the header, in the order of pci_restore_state()
EXP_CONTROLS = (r.PCI_EXP_DEVCTL, r.PCI_EXP_LNKCTL, r.PCI_EXP_DEVCTL2, r.PCI_EXP_LNKCTL2)
LINK_CONTROLS = (r.PCI_EXP_LNKCTL, r.PCI_EXP_LNKCTL2)
EXT_CONTROLS = (
    (r.PCI_EXT_CAP_ID_PASID, r.PCI_PASID_CAP),
    (r.PCI_EXT_CAP_ID_PRI, r.PCI_PRI_ALLOC_REQ),
    (r.PCI_EXT_CAP_ID_PRI, r.PCI_PRI_CTRL),
    (r.PCI_EXT_CAP_ID_ATS, r.PCI_ATS_CAP),
    # drivers/pci/pcie/aer.c:pci_save_aer_state()
    (r.PCI_EXT_CAP_ID_ERR, r.PCI_ERR_UNCOR_MASK),
    (r.PCI_EXT_CAP_ID_ERR, r.PCI_ERR_UNCOR_SEVER),
    (r.PCI_EXT_CAP_ID_ERR, r.PCI_ERR_COR_MASK),
    (r.PCI_EXT_CAP_ID_ERR, r.PCI_ERR_CAP),
)


class PciPower(PciDevFiles):
    """``struct pci_dev``: its power."""

    function: PciFunction
    msi: Msi
    has_link: Any
    current_state = PCI_UNKNOWN
    state_saved = False
    _saved: SavedState

    @property
    def power_state(self) -> str:
        """The state's name. C: ``const char *pci_power_name(pci_power_t)``."""
        return POWER_NAMES[self.current_state]

    @property
    def pm_cap(self) -> int:
        """Where the power management capability is, or 0."""
        return int(self._find(r.PCI_CAP_ID_PM))

    def _find(self: Any, cap: int) -> int:
        found: int = self.find_capability(cap)
        return found

    def _read(self, off: int, size: int) -> int:
        value: int = self.function.config_read(off, size)
        return value

    # ---- power states

    def set_power_state(self, state: int) -> None:
        """
        C: ``int pci_set_power_state(struct pci_dev *, pci_power_t)``.

        Raises:
            EIO: it has no power management, or not this state.
            EINVAL: from a lower state only D0 and lower ones can be reached.
        """
        state = max(PCI_D0, min(state, PCI_D3COLD))
        if state == self.current_state or (state in (PCI_D1, PCI_D2) and not self.pm_cap):
            return
        if state == PCI_D0:
            self._full_power()
        else:
            self._low_power(min(state, PCI_D3HOT))

    def _full_power(self) -> None:
        # drivers/pci/pci.c:pci_power_up(), pci_set_full_power_state()
        at = self.pm_cap + r.PCI_PM_CTRL
        if not self.pm_cap:
            self.current_state = PCI_D0
            return
        control = self._read(at, 2)
        bars = [(off, self._read(off, 4)) for off in range(r.PCI_BASE_ADDRESS_0, r.PCI_BASE_ADDRESS_5 + 4, 4)]
        lost = PCI_D3HOT in (control & r.PCI_PM_CTRL_STATE_MASK, self.current_state)
        if control & r.PCI_PM_CTRL_STATE_MASK:
            self.function.config_write(at, 2, 0)
        self.current_state = PCI_D0
        if lost and not control & r.PCI_PM_CTRL_NO_SOFT_RESET:  # pci_restore_bars()
            for off, value in bars:
                self.function.config_write(off, 4, value)

    def _low_power(self, state: int) -> None:
        # drivers/pci/pci.c:pci_set_low_power_state()
        if not self.pm_cap:
            raise err(EIO, f"{self.name} has no power management")
        if state < self.current_state <= PCI_D3COLD:
            raise err(EINVAL, f"no way from {self.power_state} to {POWER_NAMES[state]}")
        supported = {PCI_D1: r.PCI_PM_CAP_D1, PCI_D2: r.PCI_PM_CAP_D2}
        if state in supported and not self._read(self.pm_cap + r.PCI_PM_PMC, 2) & supported[state]:
            raise err(EIO, f"{self.name} has no {POWER_NAMES[state]}")
        if self.current_state == state:
            return
        at = self.pm_cap + r.PCI_PM_CTRL
        self.function.config_write(at, 2, self._read(at, 2) & ~r.PCI_PM_CTRL_STATE_MASK | state)
        self.current_state = self._read(at, 2) & r.PCI_PM_CTRL_STATE_MASK

    # ---- state

    def save_state(self) -> None:
        """C: ``int pci_save_state(struct pci_dev *)``."""
        self._saved = [(off, size, self._read(off, size)) for off, size in self._controls()]
        self.state_saved = True

    def _controls(self: Any) -> list[tuple[int, int]]:
        exp = self._find(r.PCI_CAP_ID_EXP)
        found = [(exp + off, 2) for off in EXP_CONTROLS if exp and (self.has_link or off not in LINK_CONTROLS)]
        for cap, offset in EXT_CONTROLS:
            if at := self.find_ext_capability(cap):
                found.append((at + offset, 4))
        return [*found, *((off, 4) for off in range(60, -4, -4))]

    def store_saved_state(self) -> SavedState | None:
        """C: ``struct pci_saved_state *pci_store_saved_state(struct pci_dev *)``; None: nothing is saved."""
        return list(self._saved) if self.state_saved else None

    def load_saved_state(self, state: SavedState | None) -> None:
        """C: ``int pci_load_and_free_saved_state(struct pci_dev *, struct pci_saved_state **)``."""
        self.state_saved = False
        if state is not None:
            self._saved, self.state_saved = list(state), True

    def restore_state(self: Any) -> None:
        """What differs is written back, then messages and virtual functions. C: ``void pci_restore_state()``."""
        if not self.state_saved:
            return
        for off, size, value in self._saved:
            if self._read(off, size) != value:
                self.function.config_write(off, size, value)
        self.msi.restore()
        if self.iov is not None:
            self.iov.restore()
        self.state_saved = False

    # ---- runtime power management: drivers/pci/pci-driver.c

    def runtime_suspend(self: Any) -> None:
        """pci_pm_runtime_suspend(): unbound devices stay in D0. Raises what the driver does."""
        if self.driver is None:
            self.save_state()
            return
        self.state_saved = False
        self.driver.runtime_suspend(self)
        if not self.state_saved:
            self.save_state()
            self.set_power_state(PCI_D3HOT if self.pm_cap else PCI_D0)

    def runtime_resume(self: Any) -> None:
        """pci_pm_runtime_resume(). Raises what the driver does."""
        self.set_power_state(PCI_D0)
        self.restore_state()
        if self.driver is not None:
            self.driver.runtime_resume(self)
