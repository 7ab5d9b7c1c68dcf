"""
A VFIO device on the bus of a virtual machine: configuration space and registers are trapped, portals are mapped.

A region that may be mapped becomes a memory slot of the guest while its BAR decodes, unless MSI-X has its table there:
submissions reach the host's device without an exit. Everything else is read and written through the descriptor.
"""

from __future__ import annotations

from dataclasses import dataclass
from errno import EEXIST, EINVAL
from typing import TYPE_CHECKING, Final, Protocol

from pykernel.tools.vmm.extcaps import SvaCaps
from pykernel.tools.vmm.layout import DMAR_BASE, DMAR_SIZE, ECAM_BASE, ECAM_SIZE
from pykernel.tools.vmm.msix import MessageRoutes, Msix
from pykernel.tools.vmm.state import DeviceState
from pykernel.uapi.linux import pci_regs as r

if TYPE_CHECKING:
    from pykernel.syscalls import Process
    from pykernel.tools.vmm.extcaps import SvaRegisters
    from pykernel.tools.vmm.vfio import VfioDevice, VfioRegion

__all__ = ["AssignedDevice", "Slots"]

BARS: Final = 6
PLATFORM: Final = ((ECAM_BASE, ECAM_SIZE), (DMAR_BASE, DMAR_SIZE))  # which answer before any BAR
PAGE: Final = 4096
CAPABILITIES: Final = 0x60  # of an accelerator: VERSION to OPCAP, at the beginning of BAR 0


class Slots(Protocol):
    """The memory slots of a virtual machine."""

    def add(self, gpa: int, size: int, hva: int) -> int:
        """Let the guest see memory of the VMM; the number of the slot."""
        ...

    def remove(self, slot: int) -> None:
        """Not any more."""


@dataclass
class _Mapping:
    """A part of a region that the VMM has mapped: *off* in the BAR, and the slot while it decodes."""

    off: int
    size: int
    hva: int
    slot: int = -1


class AssignedDevice:
    """
    The function at *address* of the guest's bus, which is *device* of the host.

    Args:
        sva: what the VMM emulates of ATS, PRI and PASID; None: what there is of them the device shows itself.

    Attributes:
        bars: BAR -> (guest-physical address, size) of those that decode.
    """

    def __init__(
        self,
        proc: Process,
        device: VfioDevice,
        address: str,
        slots: Slots,
        routes: MessageRoutes,
        sva: SvaRegisters | None = None,
    ) -> None:
        self.proc, self.device, self.address, self.slots = proc, device, address, slots
        self._sva = None if sva is None else SvaCaps(self._get, sva)
        self.bars: dict[int, tuple[int, int]] = {}
        self._caps = self._capabilities()
        self.msix: Msix | None = None
        self._table = self._pba = (-1, 0)  # (BAR, offset)
        self._control = self._caps.get(r.PCI_CAP_ID_MSIX, 0)
        if self._control:
            count = (self._get(self._control + r.PCI_MSIX_FLAGS, 2) & r.PCI_MSIX_FLAGS_QSIZE) + 1
            self.msix = Msix(proc, device, routes, count)
            self._table, self._pba = (
                (word & r.PCI_MSIX_TABLE_BIR, word & r.PCI_MSIX_TABLE_OFFSET)
                for word in (self._get(self._control + at, 4) for at in (r.PCI_MSIX_TABLE, r.PCI_MSIX_PBA))
            )
        self._mapped = {n: self._map(device.regions[n]) for n in range(BARS)}

    def _capabilities(self) -> dict[int, int]:
        found: dict[int, int] = {}
        at = self._get(r.PCI_CAPABILITY_LIST, 1) if self._get(r.PCI_STATUS, 2) & r.PCI_STATUS_CAP_LIST else 0
        while at and at not in found.values():
            found[self._get(at, 1)] = at
            at = self._get(at + 1, 1)
        return found

    def _map(self, region: VfioRegion) -> list[_Mapping]:
        if region.index == self._table[0]:
            return []
        return [_Mapping(off, size, self.device.mmap(region, off, size)) for off, size in region.areas]

    # ---- configuration space

    def _get(self, off: int, size: int) -> int:
        return self.device.read(self.device.config, off, size)

    def config_read(self, off: int, size: int) -> int:
        """A load; all ones beyond what the device has."""
        if off + size > self.device.config.size:
            return (1 << 8 * size) - 1
        value = self._get(off, size)
        control = self._control + r.PCI_MSIX_FLAGS + 1  # the two bits are the VMM's own
        if self.msix is not None and off <= control < off + size:
            bits = r.PCI_MSIX_FLAGS_ENABLE * self.msix.enabled | r.PCI_MSIX_FLAGS_MASKALL * self.msix.mask_all
            both = r.PCI_MSIX_FLAGS_ENABLE | r.PCI_MSIX_FLAGS_MASKALL
            shift = 8 * (control - 1 - off)
            value = value & ~_shifted(both, shift) | _shifted(bits, shift)
        return value if self._sva is None else self._sva.read(off, size, value)

    def config_write(self, off: int, size: int, value: int) -> None:
        """A store, with what follows from it: BARs move, MSI-X goes on or off."""
        if off + size > self.device.config.size or (self._sva is not None and self._sva.write(off, size, value)):
            return
        control = self._control + r.PCI_MSIX_FLAGS + 1
        if self.msix is not None and off <= control < off + size:
            flags = value >> 8 * (control - off) << 8
            self.msix.control(
                enable=bool(flags & r.PCI_MSIX_FLAGS_ENABLE), mask_all=bool(flags & r.PCI_MSIX_FLAGS_MASKALL)
            )
            return
        resets = self._wants_flr(off, size, value)
        if resets and self.msix is not None:
            self.msix.reset()
        if resets and self._sva is not None:
            self._sva.reset()
        self.device.write(self.device.config, off, size, value)
        if (off < r.PCI_BASE_ADDRESS_0 + 4 * BARS and off + size > r.PCI_COMMAND) or resets:
            self._decode()

    def _wants_flr(self, off: int, size: int, value: int) -> bool:
        at = self._caps.get(r.PCI_CAP_ID_EXP)
        if at is None or not off <= at + r.PCI_EXP_DEVCTL + 1 < off + size:
            return False
        return bool(value << 8 * off >> 8 * (at + r.PCI_EXP_DEVCTL) & r.PCI_EXP_DEVCTL_BCR_FLR)

    def _decode(self) -> None:
        """Which BARs answer, and where: their slots follow."""
        on = self._get(r.PCI_COMMAND, 2) & r.PCI_COMMAND_MEMORY
        before, self.bars = self.bars, {}
        for bar in range(BARS) if on else ():
            size = self.device.regions[bar].size
            base = self._base(bar) if size else 0
            if base and not base & (size - 1):
                self.bars[bar] = (base, size)
        for bar in before:
            if before[bar] != self.bars.get(bar):
                self._unplace(bar)
        for bar in self.bars:  # also what had to wait for another to go
            self._place(bar)

    def _base(self, bar: int) -> int:
        low = self._get(r.PCI_BASE_ADDRESS_0 + 4 * bar, 4)
        if low & r.PCI_BASE_ADDRESS_SPACE_IO:
            return 0
        wide = low & r.PCI_BASE_ADDRESS_MEM_TYPE_64
        high = self._get(r.PCI_BASE_ADDRESS_0 + 4 * bar + 4, 4) if wide else 0
        base = high << 32 | low & -16
        return 0 if base >> 52 else base  # all ones: it is being sized

    def _unplace(self, bar: int) -> None:
        for part in self._mapped[bar]:
            if part.slot >= 0:
                self.slots.remove(part.slot)
                part.slot = -1

    def _place(self, bar: int) -> None:
        """Where a guest puts a BAR over its RAM, or another BAR, or the platform, that stays; the rest is trapped."""
        for part in self._mapped[bar]:
            gpa = self.bars[bar][0] + part.off
            if part.slot >= 0 or any(at < gpa + part.size and gpa < at + size for at, size in PLATFORM):
                continue
            try:
                part.slot = self.slots.add(gpa, part.size, part.hva)
            except OSError as e:
                if e.errno not in (EEXIST, EINVAL):
                    raise

    def cover(self, page: int) -> None:
        """
        Let the guest see the VMM's memory at *page* where its portals are mapped; 0: the portals again.

        What ENQCMD finds there is no queue: it says "retry".
        """
        for bar in self.bars:
            for part in self._mapped[bar]:
                if part.slot >= 0:
                    self.slots.remove(part.slot)
                    part.slot = self.slots.add(self.bars[bar][0] + part.off, part.size, page or part.hva)

    # ---- registers

    def hit(self, gpa: int) -> tuple[int, int] | None:
        """Which BAR, and where in it, a guest-physical address is."""
        for bar, (base, size) in self.bars.items():
            if base <= gpa < base + size:
                return bar, gpa - base
        return None

    def mmio_read(self, bar: int, off: int, size: int) -> int:
        """A load that was trapped."""
        if self.msix is not None:
            at = off - self._table[1]
            if bar == self._table[0] and 0 <= at < len(self.msix.table.entries):
                return self.msix.read(at, size)
            at = off - self._pba[1]
            if bar == self._pba[0] and 0 <= at < 8 * -(-self.msix.table.vectors // 64):
                return self.msix.read_pba(at, size)
        return self.device.read(self.device.regions[bar], off, size)

    def mmio_write(self, bar: int, off: int, size: int, value: int) -> None:
        """A store that was trapped."""
        if self.msix is not None and bar == self._table[0]:
            at = off - self._table[1]
            if 0 <= at < len(self.msix.table.entries):
                self.msix.write(at, size, value)
                return
        self.device.write(self.device.regions[bar], off, size, value)

    # ---- its life

    def identity(self) -> tuple[object, ...]:
        """What another device has to have in common to go on as this one: regions, IDs, capabilities."""
        device, bar = self.device, self.device.regions[0]
        sizes = tuple((region.size, region.areas) for region in device.regions)
        ids = tuple(self._get(at, 4) for at in (r.PCI_VENDOR_ID, r.PCI_CLASS_REVISION, r.PCI_SUBSYSTEM_VENDOR_ID))
        return sizes, ids, tuple(device.read(bar, at, 8) for at in range(0, CAPABILITIES, 8))

    def save(self) -> DeviceState:
        """What it is, of a device that VFIO has stopped. Raises OSError."""
        return DeviceState(self.device.save(), None if self.msix is None else self.msix.save())

    def load(self, state: DeviceState) -> None:
        """Be what it was elsewhere, stopped. Raises OSError: EINVAL, that was another device."""
        self.device.load(state.stream)
        self._decode()
        if self.msix is not None and state.msix is not None:
            self.msix.load(state.msix)

    def close(self) -> None:
        """Slots, mappings, interrupts and the descriptor go."""
        if self.msix is not None:
            self.msix.reset()
        self.bars = {}
        for bar, parts in self._mapped.items():
            self._unplace(bar)
            for part in parts:
                self.proc.munmap(part.hva, part.size)
        self._mapped = {}
        self.device.close()


def _shifted(value: int, shift: int) -> int:
    return value << shift if shift >= 0 else value >> -shift
