"""Resets of a PCI device and of the bus that it is on (drivers/pci/pci.c)."""

from __future__ import annotations

from collections.abc import Callable
from errno import EAGAIN, EINVAL, ENOTTY
from typing import TYPE_CHECKING, Any, Protocol

from pykernel.errors import err
from pykernel.lib.string import strim, sysfs_streq
from pykernel.pci.driver import PciDriver
from pykernel.pci.power import PCI_D0, PciPower
from pykernel.uapi.linux import pci_regs as r

if TYPE_CHECKING:
    from pykernel.pci.bridge import PciBusDev
    from pykernel.pci.dev import PciDev

__all__ = [
    "HotplugSlot",
    "PciReset",
    "in_slot_or_bus",
    "probe_reset_bus",
    "probe_reset_slot",
    "reset_bus",
    "reset_slot_or_bus",
    "upstream_bridge",
    "walk_bus",
]

# drivers/pci/pci.c:pci_reset_fn_methods
RESET_METHODS = ("device_specific", "acpi", "flr", "af_flr", "pm", "bus")


class HotplugSlot(Protocol):
    """``struct hotplug_slot``: what a hotplug driver can do with the slot that a device is in."""

    def reset_slot(self) -> None:
        """Reset what is in it. C: ``hotplug_slot_ops.reset_slot``. Raises an errno."""


class PciReset(PciPower):
    """
    ``struct pci_dev``: how it is reset.

    Attributes:
        hotplug_slot: the slot that it is in, when its driver can reset it.
    """

    hotplug_slot: HotplugSlot | None = None

    def _find_reset_methods(self: Any) -> list[str]:
        # drivers/pci/pci.c:pci_init_reset_methods()
        exp, af = self._find(r.PCI_CAP_ID_EXP), self._find(r.PCI_CAP_ID_AF)
        wanted = r.PCI_AF_CAP_TP | r.PCI_AF_CAP_FLR
        pm = self.pm_cap
        there = {
            "flr": exp and self._read(exp + r.PCI_EXP_DEVCAP, 4) & r.PCI_EXP_DEVCAP_FLR,
            "af_flr": af and self._read(af + r.PCI_AF_CAP, 1) & wanted == wanted,
            "pm": pm and not self._read(pm + r.PCI_PM_CTRL, 2) & r.PCI_PM_CTRL_NO_SOFT_RESET,
            "bus": _alone_below_bridge(self),
        }
        return [name for name in RESET_METHODS if there.get(name)]

    def set_reset_methods(self, buf: str) -> None:
        """drivers/pci/pci.c:reset_method_store(). Raises EINVAL."""
        if sysfs_streq(buf, ""):
            self.reset_methods = []
            self.warn("All device reset methods disabled by user")
            return
        if sysfs_streq(buf, "default"):
            self.reset_methods = self._find_reset_methods()
            return
        supported, chosen = self._find_reset_methods(), []
        for word in buf.split(" "):
            name = strim(word)
            if not name:
                continue
            if name not in RESET_METHODS:
                self.err(f"Invalid reset method '{name}'")
                raise err(EINVAL)
            if name not in supported:
                self.err(f"Unsupported reset method '{name}'")
                raise err(EINVAL)
            chosen.append(name)
        if len(chosen) > len(RESET_METHODS):
            self.err("Too many reset methods")
            raise err(EINVAL)
        self.reset_methods = chosen

    def reset_function(self) -> None:
        """C: ``int pci_reset_function(struct pci_dev *)``: state is saved and restored. Raises ENOTTY."""
        if not self.reset_methods:
            raise err(ENOTTY)
        with self.mutex:
            self._save_reset_restore()

    def try_reset_function(self) -> None:
        """C: ``int pci_try_reset_function(struct pci_dev *)``. Raises ENOTTY; EAGAIN: the device's lock is held."""
        if not self.reset_methods:
            raise err(ENOTTY)
        if not self.mutex.trylock():
            raise err(EAGAIN, f"the lock of {self.name} is held")
        try:
            self._save_reset_restore()
        finally:
            self.mutex.unlock()

    def _save_reset_restore(self) -> None:
        self.save_and_disable()
        try:
            self.reset_function_locked()
        finally:
            self.restore_and_enable()

    def save_and_disable(self) -> None:
        """drivers/pci/pci.c:pci_dev_save_and_disable()."""
        if isinstance(self.driver, PciDriver):
            self.driver.reset_prepare(self)
        self.set_power_state(PCI_D0)
        self.save_state()
        self.function.config_write(r.PCI_COMMAND, 2, r.PCI_COMMAND_INTX_DISABLE)

    def restore_and_enable(self) -> None:
        """drivers/pci/pci.c:pci_dev_restore()."""
        self.restore_state()
        if isinstance(self.driver, PciDriver):
            self.driver.reset_done(self)

    def reset_function_locked(self: Any) -> None:
        """
        The first method that works; state is the caller's. C: ``int __pci_reset_function_locked()``.

        Raises:
            ENOTTY: none. EINVAL: by power management, and it is not in D0.
        """
        methods: dict[str, Callable[[], None]] = {
            "flr": self.pcie_flr,
            "af_flr": self._af_flr,
            "pm": self._pm_reset,
            "bus": lambda: _parent_bus_reset(self),
        }
        for name in self.reset_methods:
            try:
                return methods[name]()
            except OSError as e:
                if e.errno != ENOTTY:
                    raise
        raise err(ENOTTY)

    def reset_subordinate(self: Any) -> None:
        """Reset the bus below. C: ``int __pci_reset_bus(struct pci_bus *)``. Raises ENOTTY: none; EAGAIN."""
        if self.subordinate is None:
            raise err(ENOTTY)
        reset_bus(self.subordinate)

    def pcie_flr(self) -> None:
        """C: ``int pcie_flr(struct pci_dev *)``."""
        if self.kernel.trace:
            self.kernel.trace("flr", device=self.name)
        self.function.flr()

    def _af_flr(self) -> None:
        # drivers/pci/pci.c:pci_af_flr()
        if self.kernel.trace:
            self.kernel.trace("af_flr", device=self.name)
        self.function.config_write(self._find(r.PCI_CAP_ID_AF) + r.PCI_AF_CTRL, 1, r.PCI_AF_CTRL_FLR)

    def _pm_reset(self) -> None:
        # drivers/pci/pci.c:pci_pm_reset(): D3hot and back, which resets a function without No_Soft_Reset
        if self.current_state != PCI_D0:
            raise err(EINVAL, f"{self.name} is in {self.power_state}")
        at = self.pm_cap + r.PCI_PM_CTRL
        control = self._read(at, 2) & ~r.PCI_PM_CTRL_STATE_MASK
        self.function.config_write(at, 2, control | 3)
        self.function.config_write(at, 2, control)


def upstream_bridge(dev: Any) -> PciDev | None:
    """The bridge to the device's bus, None on a root bus. C: ``struct pci_dev *pci_upstream_bridge()``."""
    found: PciDev | None = dev.pci_bus.self_
    return found


def walk_bus(bus: PciBusDev) -> list[PciDev]:
    """The devices on *bus* and on those below it. C: ``void pci_walk_bus(struct pci_bus *, ...)``."""
    found: list[PciDev] = []
    for dev in bus.pci_devices:
        found.append(dev)
        if dev.subordinate is not None:
            found += walk_bus(dev.subordinate)
    return found


def probe_reset_slot(dev: Any) -> bool:
    """Whether its hotplug slot can be reset. C: ``int pci_probe_reset_slot(struct pci_slot *)``, 0 is True."""
    return dev.hotplug_slot is not None


def probe_reset_bus(dev: Any) -> bool:
    """Whether the bus of *dev* can be reset: there is a bridge above. C: ``int pci_probe_reset_bus()``, 0 is True."""
    return upstream_bridge(dev) is not None


def in_slot_or_bus(dev: Any) -> list[PciDev]:
    """What a reset of the slot of *dev* hits, or of its bus. C: ``pci_walk_bus()`` with a look at ``dev->slot``."""
    devices = walk_bus(dev.pci_bus)
    if not probe_reset_slot(dev):
        return devices
    beside = [d for d in dev.pci_bus.pci_devices if d.hotplug_slot is dev.hotplug_slot]
    below = [d for one in beside if one.subordinate is not None for d in walk_bus(one.subordinate)]
    return [d for d in devices if d in beside or d in below]


def reset_slot_or_bus(dev: Any) -> None:
    """C: ``int pci_reset_bus(struct pci_dev *)``. Raises ENOTTY: neither can be; EAGAIN: some device's lock is held."""
    if probe_reset_slot(dev):
        _reset_all(in_slot_or_bus(dev), [], dev.hotplug_slot.reset_slot)
    else:
        reset_bus(dev.pci_bus)


def reset_bus(bus: PciBusDev) -> None:
    """
    Reset all that is on *bus* and below, each device's state saved and restored.

    C: ``int __pci_reset_bus(struct pci_bus *)``.

    Raises:
        ENOTTY: a root bus. EAGAIN: some device's lock is held.
    """
    bridge = bus.self_
    if bridge is None:
        raise err(ENOTTY, f"{bus.name} is a root bus")
    _reset_all(walk_bus(bus), [bridge], lambda: _secondary_bus_reset(bridge))


def _reset_all(devices: list[PciDev], bridges: list[PciDev], reset: Callable[[], None]) -> None:
    locked = list[Any]()
    try:
        for one in [*bridges, *devices]:
            if not one.mutex.trylock():
                raise err(EAGAIN, f"the lock of {one.name} is held")
            locked.append(one)
        for one in devices:
            one.save_and_disable()
        reset()
        for one in devices:
            one.restore_and_enable()
    finally:
        for one in reversed(locked):
            one.mutex.unlock()


def _secondary_bus_reset(bridge: Any) -> None:
    # drivers/pci/pci.c:pci_reset_secondary_bus()
    control = bridge.read_config_word(r.PCI_BRIDGE_CONTROL)
    bridge.write_config_word(r.PCI_BRIDGE_CONTROL, control | r.PCI_BRIDGE_CTL_BUS_RESET)
    bridge.write_config_word(r.PCI_BRIDGE_CONTROL, control & ~r.PCI_BRIDGE_CTL_BUS_RESET)


def _parent_bus_reset(dev: Any) -> None:
    # drivers/pci/pci.c:pci_parent_bus_reset()
    if not _alone_below_bridge(dev):
        raise err(ENOTTY, f"{dev.name} is not alone on its bus")
    _secondary_bus_reset(upstream_bridge(dev))


def _alone_below_bridge(dev: Any) -> bool:
    # drivers/pci/pci.c:pci_parent_bus_reset()
    return upstream_bridge(dev) is not None and not dev.is_bridge and dev.pci_bus.pci_devices in ([], [dev])
