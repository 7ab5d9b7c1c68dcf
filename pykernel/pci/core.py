"""
The PCI core (drivers/pci/probe.c): root buses, slots and the devices that a scan finds in them.

The kernel meets silicon on this bus and nowhere else: a ``Slot`` is the port that a function is plugged into, a
``PciDev`` is the kernel's view of it, an ``Iomem`` is an ioremap()ed BAR.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

from pykernel.base.class_ import Class
from pykernel.base.core import Device
from pykernel.lib.locking import Mutex
from pykernel.pci.bridge import PciBusDev
from pykernel.pci.dev import PciDev
from pykernel.pci.driver import PciBus
from pykernel.pci.function import PciFunction
from pykernel.pci.irq import Irqs
from pykernel.pci.slot import ADDRESS, Remapping, Slot
from pykernel.pci.window import BarWindow, bar_at
from pykernel.uapi.linux import pci_regs as r

if TYPE_CHECKING:
    from pykernel.kernel import Kernel

__all__ = ["HOST_WINDOWS", "Pci", "PciBusClass"]

MMIO_32, MMIO_64 = 0xC0000000, 0x200000000000
# what the host bridge passes down, first and last byte: no device reaches memory there
HOST_WINDOWS = ((MMIO_32, 0xFEBFFFFF), (MMIO_64, 0x3FFFFFFFFFFF))
IO_PORTS = 0xC000


class Pci:
    """The PCI of one kernel: slots with silicon in them, and the devices that were found."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.slots: dict[str, Slot] = {}
        self.bridges: list[Slot] = []
        self.devices: dict[str, PciDev] = {}
        self.buses: dict[str, PciBusDev] = {}
        self.rescan_remove = Mutex(kernel, "pci_rescan_remove_lock")
        self.remapping: Remapping | None = None  # the IOMMU that the slots are behind
        self._used: list[tuple[int, int]] = []  # (start, size), ascending
        self._next_io = IO_PORTS
        self._full: dict[tuple[bool, int], int] = {}  # (window, size) -> below this no such range is free
        self.windows: dict[int, BarWindow] = {}  # who had a page of physical memory, as bar_at() found it
        kernel.mmio_at = partial(bar_at, self)

    @property
    def bus(self) -> PciBus:
        """/sys/bus/pci."""
        return self.kernel.sub(PciBus)

    @property
    def pci_bus_class(self) -> Class:
        """/sys/class/pci_bus."""
        return self.kernel.sub(PciBusClass)

    def plug(self, address: str, function: PciFunction) -> Slot:
        """Put silicon into the slot at *address* ("0000:6a:01.0"); rescan() finds it. Raises ValueError."""
        if not ADDRESS.fullmatch(address):
            raise ValueError(f"{address!r} is no PCI address like '0000:6a:01.0'")
        if address in self.slots:
            raise ValueError(f"slot {address} is taken")
        slot = self.slots[address] = Slot(self, address, function)
        if function.config.get(r.PCI_HEADER_TYPE, 1) & r.PCI_HEADER_TYPE_MASK == r.PCI_HEADER_TYPE_BRIDGE:
            self.bridges.append(slot)
        return slot

    def dmwr(self, pa: int, data: bytes) -> bool:
        """A processor's DMWr to physical address *pa*: True when a device accepted it, False for "retry"."""
        window = bar_at(self, pa)
        return window is not None and window.dmwr(pa - window.base, data)

    def rescan(self) -> None:
        """Find what is in the slots, in address order. C: ``unsigned int pci_rescan_bus(struct pci_bus *)``."""
        found = []
        for address in sorted(self.slots):
            slot = self.slots[address]
            if slot.dev is None and slot.function.config_read(r.PCI_VENDOR_ID, 2) != 0xFFFF:
                found.append(self.add_function(slot, self._bus(slot)))
        for dev in found:
            dev.bus_add()

    def add_function(self, slot: Slot, bus: PciBusDev, physfn: PciDev | None = None) -> PciDev:
        """Register what is in the slot; no driver gets it yet. C: ``pci_setup_device()``, ``pci_device_add()``."""
        with self.kernel.ledger.held(self.kernel.ledger.kernel):
            dev = slot.dev = PciDev(self, slot, bus, physfn)
            self.devices[dev.name] = dev
            dev.register()
            if dev.is_bridge:
                self._add_bus(dev)
        return dev

    def _bus(self, slot: Slot) -> PciBusDev:
        """The bus that *slot* is on: below a bridge that was found, else the root bus of a host bridge of its own."""
        name = slot.address[:7]
        found = self.buses.get(name)
        if found is None:
            with self.kernel.ledger.held(self.kernel.ledger.kernel):
                host = Device(self.kernel, f"pci{name}")
                host.register()
                found = self.buses[name] = PciBusDev(self, name, host)
                found.register()
        return found

    def _add_bus(self, bridge: PciDev) -> None:
        """The bus below *bridge*, when firmware gave it a number. C: ``pci_add_new_bus()``."""
        number = bridge.read_config_byte(r.PCI_SECONDARY_BUS)
        if not number:
            return
        bus = PciBusDev(self, f"{bridge.name[:5]}{number:02x}", bridge, bridge)
        bridge.subordinate = self.buses[bus.name] = bus
        bus.register()

    def remove_bus(self, bridge: PciDev) -> None:
        """C: ``void pci_remove_bus(struct pci_bus *)``."""
        if bridge.subordinate is not None:
            del self.buses[bridge.subordinate.name]
            bridge.subordinate.unregister()
            bridge.subordinate = None

    def alloc_mmio(self, size: int, *, wide: bool, bus: PciBusDev | None = None) -> int:
        """An aligned range of the window of the bridge above *bus*, which is the host's without one."""
        if bus is not None and bus.windows is not None:
            return bus.windows.alloc(size, wide=wide)
        at = self._full.get((wide, size), MMIO_64 if wide else MMIO_32)
        first = max(0, bisect_left(self._used, (at, 0)) - 1)  # the one before may reach beyond *at*
        for start, used in islice(self._used, first, None):
            if start + used <= at:
                continue
            if at + size <= start:
                break
            at = -(-(start + used) // size) * size
        insort(self._used, (at, size))
        self._full[wide, size] = at + size
        return at

    def reserve_mmio(self, start: int, size: int) -> bool:
        """Let nobody have a range; False: somebody has. C: ``int request_resource(...)``."""
        end = start + size
        for dev in self.devices.values():
            if any(start < x.start + x.size and x.start < end for n, x in dev.resources.items() if n < 13):
                return False
        insort(self._used, (start, size))
        return True

    def release_mmio(self, start: int, size: int) -> None:
        """C: ``int release_resource(struct resource *)``."""
        self._used.remove((start, size))
        self._full.clear()

    def alloc_io(self, size: int) -> int:
        """An aligned range of the host bridge's I/O ports."""
        self._next_io = -(-self._next_io // size) * size + size
        return self._next_io - size

    def free_mmio(self, resources: Any) -> None:
        """Give ranges back."""
        gone = {(x.start, x.size) for x in resources}
        self._used = [u for u in self._used if u not in gone]
        for bus in self.buses.values():
            if bus.windows is not None:
                bus.windows.free(gone)
        self._full.clear()

    def intx_irq(self) -> int:
        """The pin's interrupt: one line for all, 11 as firmware likes it."""
        return self.kernel.sub(Irqs).legacy(11).irq


class PciBusClass(Class):
    """``pcibus_class``."""

    def __init__(self, kernel: Kernel) -> None:
        super().__init__(kernel, "pci_bus")
        self.register()
