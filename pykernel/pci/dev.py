"""The kernel's view of a PCI function (drivers/pci/pci.c, probe.c, remove.c): BARs, power, interrupts, resets."""

from __future__ import annotations

from collections.abc import Callable
from errno import EBUSY, EINVAL
from typing import TYPE_CHECKING

from pykernel.base import dd
from pykernel.errors import HungTask, err
from pykernel.pci.driver import PciDriver
from pykernel.pci.intx import intx_mask_broken
from pykernel.pci.iomem import Iomem, MappedIo
from pykernel.pci.iov import Iov
from pykernel.pci.irq import Irqs
from pykernel.pci.msi import PCI_IRQ_MSIX, Msi
from pykernel.pci.power import PCI_D0
from pykernel.pci.proc import ProcBusPci
from pykernel.pci.reset import PciReset
from pykernel.pci.resource import (
    IORESOURCE_IO,
    IORESOURCE_MEM,
    IORESOURCE_MEM_64,
    IORESOURCE_PREFETCH,
    IORESOURCE_READONLY,
    IORESOURCE_SIZEALIGN,
    PCI_ROM_RESOURCE,
    Resource,
)
from pykernel.pci.slot import ADDRESS, Slot
from pykernel.uapi.linux import pci_regs as r

if TYPE_CHECKING:
    from pykernel.pci.bridge import PciBusDev
    from pykernel.pci.core import Pci

__all__ = ["PciDev"]


class PciDev(PciReset):
    """``struct pci_dev``."""

    def __init__(self, pci: Pci, slot: Slot, bus: PciBusDev, physfn: PciDev | None = None) -> None:
        function = slot.function
        cfg = function.config_read
        m = ADDRESS.fullmatch(slot.address)
        assert m is not None
        super().__init__(pci.kernel, slot.address, parent=bus.bridge, bus=pci.bus)
        self.pci, self.slot, self.function = pci, slot, function
        self.pci_bus = bus
        self.subordinate: PciBusDev | None = None
        self.is_bridge = cfg(r.PCI_HEADER_TYPE, 1) & r.PCI_HEADER_TYPE_MASK == r.PCI_HEADER_TYPE_BRIDGE
        self.devfn = int(m[3], 16) << 3 | int(m[4])
        self.domain, self.bus_number = int(m[1], 16), int(m[2], 16)
        self.vendor, self.device = cfg(r.PCI_VENDOR_ID, 2), cfg(r.PCI_DEVICE_ID, 2)
        self.physfn = physfn
        if physfn is not None and physfn.iov is not None:  # a virtual function's own registers read all ones
            self.vendor, self.device = physfn.vendor, physfn.iov.vf_device
        self.match_driver = False
        self.removing = False
        self.subsystem_vendor, self.subsystem_device = cfg(r.PCI_SUBSYSTEM_VENDOR_ID, 2), cfg(r.PCI_SUBSYSTEM_ID, 2)
        self.class_code, self.revision = cfg(r.PCI_CLASS_REVISION, 4) >> 8, cfg(r.PCI_CLASS_REVISION, 1)
        self.cfg_size = 4096 if self.find_capability(r.PCI_CAP_ID_EXP) else 256
        self.driver_override = None
        self.no_msi = False
        self.dma_bits = self.coherent_dma_bits = 32
        self.enable_cnt = 0
        self.msi = Msi(self)
        self.intx_irq = pci.intx_irq() if cfg(r.PCI_INTERRUPT_PIN, 1) else 0
        self.resources: dict[int, Resource] = {}
        self.regions: dict[int, str] = {}
        self.broken_intx_masking = physfn is None and intx_mask_broken(self)
        self.reset_methods: list[str] = self._find_reset_methods()
        bus.pci_devices.append(self)
        if physfn is not None and physfn.iov is not None:
            self.resources = physfn.iov.next_resources()
        else:
            self._assign_bars()
        self.iov = Iov.probe(self)
        self.d3cold_allowed = bool(self.find_capability(r.PCI_CAP_ID_PM))  # drivers/pci/pci.c:pci_pm_init()

    @property
    def is_virtfn(self) -> bool:
        """Whether it is a virtual function."""
        return self.physfn is not None

    @property
    def is_pcie(self) -> bool:
        """C: ``bool pci_is_pcie(struct pci_dev *)``."""
        return bool(self.find_capability(r.PCI_CAP_ID_EXP))

    # ---- configuration space

    def read_config_byte(self, off: int) -> int:
        """C: ``int pci_read_config_byte(...)``."""
        return self.function.config_read(off, 1)

    def read_config_word(self, off: int) -> int:
        """C: ``int pci_read_config_word(...)``."""
        return self.function.config_read(off, 2)

    def read_config_dword(self, off: int) -> int:
        """C: ``int pci_read_config_dword(...)``."""
        return self.function.config_read(off, 4)

    def write_config_byte(self, off: int, value: int) -> None:
        """C: ``int pci_write_config_byte(...)``."""
        self._config_write(off, 1, value)

    def write_config_word(self, off: int, value: int) -> None:
        """C: ``int pci_write_config_word(...)``."""
        self._config_write(off, 2, value)

    def write_config_dword(self, off: int, value: int) -> None:
        """C: ``int pci_write_config_dword(...)``."""
        self._config_write(off, 4, value)

    def _config_write(self, off: int, size: int, value: int) -> None:
        if self.kernel.trace:
            self.kernel.trace("config_write", device=self.name, off=off, size=size, value=value)
        self.function.config_write(off, size, value)

    def find_capability(self, cap: int) -> int:
        """The capability's offset or 0. C: ``u8 pci_find_capability(struct pci_dev *, int)``."""
        if not self.read_config_word(r.PCI_STATUS) & r.PCI_STATUS_CAP_LIST:
            return 0
        at, left = self.read_config_byte(r.PCI_CAPABILITY_LIST) & ~3, 48
        while at >= 0x40 and left:
            if self.read_config_byte(at) == cap:
                return at
            at, left = self.read_config_byte(at + 1) & ~3, left - 1
        return 0

    def find_ext_capability(self, cap: int) -> int:
        """The extended capability's offset or 0. C: ``u16 pci_find_ext_capability(struct pci_dev *, int)``."""
        if self.cfg_size <= 256:
            return 0
        at, left = 0x100, 480
        while at and left:
            header = self.read_config_dword(at)
            if header in (0, 0xFFFFFFFF):
                return 0
            if header & 0xFFFF == cap:
                return at
            at, left = header >> 20 & 0xFFC, left - 1
        return 0

    # ---- BARs

    def _assign_bars(self) -> None:
        # drivers/pci/probe.c:__pci_read_base(), setup-res.c
        self.read_bars(r.PCI_BASE_ADDRESS_0, 0, 1, bars=2 if self.is_bridge else 6)
        if not self.is_bridge:
            self._place_rom()
        # what SeaBIOS and its like leave behind: pci_bios_init_device()
        command = r.PCI_COMMAND_IO | r.PCI_COMMAND_MEMORY | r.PCI_COMMAND_SERR
        self.function.config_write(r.PCI_COMMAND, 2, command)
        if self.intx_irq:
            self.function.config_write(r.PCI_INTERRUPT_LINE, 1, self.intx_irq)

    def read_bars(self, base: int, first: int, count: int, bars: int = 6) -> None:
        """Size and place the BARs at *base*; resource *first* + n is *count* times BAR n (virtual functions')."""
        bar = 0
        while bar < bars:
            off = base + 4 * bar
            self.function.config_write(off, 4, 0xFFFFFFFF)
            low = self.read_config_dword(off)
            if low & r.PCI_BASE_ADDRESS_SPACE == r.PCI_BASE_ADDRESS_SPACE_IO:
                self.resources[first + bar] = self._place_io(off, low & ~3)
                bar += 1
                continue
            wide = low & r.PCI_BASE_ADDRESS_MEM_TYPE_MASK == r.PCI_BASE_ADDRESS_MEM_TYPE_64
            mask = low & ~0xF
            if wide:
                self.function.config_write(off + 4, 4, 0xFFFFFFFF)
                mask |= self.read_config_dword(off + 4) << 32
            if mask:
                self.resources[first + bar] = self._place(off, low & 0xF, (mask & -mask) * count, wide=wide)
            bar += 2 if wide else 1

    def _place(self, off: int, kind: int, size: int, *, wide: bool) -> Resource:
        flags = IORESOURCE_MEM | IORESOURCE_SIZEALIGN | kind
        flags |= IORESOURCE_PREFETCH if kind & r.PCI_BASE_ADDRESS_MEM_PREFETCH else 0
        flags |= IORESOURCE_MEM_64 if wide else 0
        start = self.pci.alloc_mmio(size, wide=wide, bus=self.pci_bus)
        self.function.config_write(off, 4, start & 0xFFFFFFFF)
        if wide:
            self.function.config_write(off + 4, 4, start >> 32)
        return Resource(start, size, flags)

    def _place_io(self, off: int, mask: int) -> Resource:
        size = mask & -mask
        start = self.pci.alloc_io(size)
        self.function.config_write(off, 4, start)
        return Resource(start, size, IORESOURCE_IO | 1)

    def _place_rom(self) -> None:
        self.function.config_write(r.PCI_ROM_ADDRESS, 4, r.PCI_ROM_ADDRESS_MASK)
        mask = self.read_config_dword(r.PCI_ROM_ADDRESS) & r.PCI_ROM_ADDRESS_MASK
        if mask:
            size = mask & -mask
            flags = IORESOURCE_MEM | IORESOURCE_PREFETCH | IORESOURCE_READONLY | IORESOURCE_SIZEALIGN
            start = self.pci.alloc_mmio(size, wide=False, bus=self.pci_bus)
            self.function.config_write(r.PCI_ROM_ADDRESS, 4, start)
            self.resources[PCI_ROM_RESOURCE] = Resource(start, size, flags)

    def resource_start(self, bar: int) -> int:
        """C: ``pci_resource_start(dev, bar)``; 0 without the BAR."""
        return self.resources[bar].start if bar in self.resources else 0

    def resource_len(self, bar: int) -> int:
        """C: ``pci_resource_len(dev, bar)``; 0 without the BAR."""
        return self.resources[bar].size if bar in self.resources else 0

    def request_regions(self, name: str) -> None:
        """C: ``int pci_request_regions(struct pci_dev *, const char *)``. Raises EBUSY."""
        if self.regions:
            raise err(EBUSY, f"BARs of {self.name} are held by {next(iter(self.regions.values()))}")
        self.regions = dict.fromkeys(range(6), name)
        self.kernel.ledger.take("regions", self, lambda: f"BARs of {self.name}, requested as {name!r}", self)

    def release_regions(self) -> None:
        """C: ``void pci_release_regions(struct pci_dev *)``."""
        self.regions.clear()
        self.kernel.ledger.give("regions", self)

    def request_region(self, bar: int, name: str) -> None:
        """C: ``int pci_request_selected_regions(struct pci_dev *, 1 << bar, const char *)``. Raises EBUSY."""
        if bar in self.regions:
            raise err(EBUSY, f"BAR {bar} of {self.name} is held by {self.regions[bar]}")
        self.regions[bar] = name
        self.kernel.ledger.take("regions", self, lambda: f"BAR {bar} of {self.name}, requested as {name!r}", self)

    def release_region(self, bar: int) -> None:
        """C: ``void pci_release_selected_regions(struct pci_dev *, 1 << bar)``."""
        del self.regions[bar]
        self.kernel.ledger.give("regions", self)

    def iomap(self, bar: int, off: int = 0, length: int | None = None) -> Iomem:
        """
        C: ``void __iomem *pcim_iomap(struct pci_dev *, int, unsigned long)``.

        Raises:
            EINVAL: no such BAR. ENOMEM: by fault injection.
        """
        if bar not in self.resources:
            raise err(EINVAL, f"{self.name} has no BAR {bar}")
        self.kernel.faults.alloc("ioremap")
        start, end = self.resource_start(bar) + off, self.resource_len(bar)
        return Iomem(self.kernel, self.function, bar, off, length or end - off, self.name, start)

    def map_bar(self, bar: int) -> MappedIo:
        """The whole BAR as a mapping's registers. C: ``int pci_mmap_resource_range(...)``."""
        return MappedIo(self.iomap(bar))

    # ---- on and off

    def enable_device(self) -> None:
        """C: ``int pci_enable_device(struct pci_dev *)``."""
        self.kernel.ledger.take("enabled", self, lambda: f"PCI device {self.name}, enabled", self)
        self.enable_cnt += 1
        if self.enable_cnt == 1:
            self.set_power_state(PCI_D0)
            command = self.read_config_word(r.PCI_COMMAND)
            wanted = command
            for n in range(6):  # drivers/pci/setup-res.c:pci_enable_resources()
                if n in self.resources and not self.is_virtfn:
                    wanted |= r.PCI_COMMAND_IO if self.resources[n].flags & IORESOURCE_IO else r.PCI_COMMAND_MEMORY
            if wanted != command:
                self.info(f"enabling device ({command:04x} -> {wanted:04x})")
                self.write_config_word(r.PCI_COMMAND, wanted)

    def disable_device(self) -> None:
        """C: ``void pci_disable_device(struct pci_dev *)``: bus mastering goes, memory decoding stays."""
        self.kernel.ledger.give("enabled", self)
        self.enable_cnt -= 1
        if self.enable_cnt == 0:
            self.clear_master()

    def set_master(self) -> None:
        """C: ``void pci_set_master(struct pci_dev *)``."""
        self._command(r.PCI_COMMAND_MASTER, 0)

    def clear_master(self) -> None:
        """C: ``void pci_clear_master(struct pci_dev *)``."""
        self._command(0, r.PCI_COMMAND_MASTER)

    def _command(self, on: int, off: int) -> None:
        command = self.read_config_word(r.PCI_COMMAND)
        if command & ~off | on != command:
            self.write_config_word(r.PCI_COMMAND, command & ~off | on)

    def set_dma_mask(self, bits: int) -> None:
        """C: ``int dma_set_mask_and_coherent(struct device *, u64)``."""
        self.dma_bits = self.coherent_dma_bits = bits

    # ---- interrupts

    def intx(self, *, enable: bool) -> None:
        """C: ``void pci_intx(struct pci_dev *, int enable)``."""
        self._command(0 if enable else r.PCI_COMMAND_INTX_DISABLE, r.PCI_COMMAND_INTX_DISABLE if enable else 0)

    def msix_vec_count(self) -> int:
        """C: ``int pci_msix_vec_count(struct pci_dev *)``. Raises EINVAL: no capability."""
        return self.msi.msix_vec_count()

    def alloc_irq_vectors(self, low: int, high: int, flags: int = PCI_IRQ_MSIX) -> int:
        """C: ``int pci_alloc_irq_vectors(...)``. Raises as :meth:`~pykernel.pci.msi.Msi.alloc_irq_vectors`."""
        return self.msi.alloc_irq_vectors(low, high, flags)

    def free_irq_vectors(self) -> None:
        """C: ``void pci_free_irq_vectors(struct pci_dev *)``."""
        self.msi.free_irq_vectors()

    def irq_vector(self, n: int) -> int:
        """C: ``int pci_irq_vector(struct pci_dev *, unsigned)``. Raises EINVAL."""
        return self.msi.irq_vector(n)

    @property
    def irq(self) -> int:
        """``pci_dev.irq``: the first MSI, else the pin's."""
        return self.irq_vector(0) if self.msi.mode == "msi" else self.intx_irq

    def error_detected(self) -> None:
        """An uncorrectable error was reported: tell the driver. drivers/pci/pcie/err.c:report_error_detected()."""
        with self.mutex:
            if isinstance(self.driver, PciDriver):
                self.driver.error_detected(self)

    def request_irq(self, irq: int, thread_fn: Callable[[], None], name: str) -> None:
        """C: ``int pci_request_irq(...)``, which shares the interrupt. Raises EINVAL."""
        self.kernel.sub(Irqs).request(irq, thread_fn, name, self, shared=True)

    def free_irq(self, irq: int) -> None:
        """C: ``void pci_free_irq(struct pci_dev *, unsigned, void *)``."""
        self.kernel.sub(Irqs).free_irq(irq, self)

    # ---- link

    @property
    def has_link(self) -> bool:
        """A PCI Express function that is no integrated endpoint has a link."""
        at = self.find_capability(r.PCI_CAP_ID_EXP)
        return bool(at) and (self.read_config_word(at + r.PCI_EXP_FLAGS) & r.PCI_EXP_FLAGS_TYPE) >> 4 not in (9, 10)

    def link_speed(self, *, current: bool) -> str:
        """drivers/pci/probe.c:pci_speed_string()."""
        at = self.find_capability(r.PCI_CAP_ID_EXP)
        reg = self.read_config_word(at + r.PCI_EXP_LNKSTA) if current else self.read_config_dword(at + r.PCI_EXP_LNKCAP)
        names = {1: "2.5 GT/s PCIe", 2: "5.0 GT/s PCIe", 3: "8.0 GT/s PCIe", 4: "16.0 GT/s PCIe", 5: "32.0 GT/s PCIe"}
        return names.get(reg & 0xF, "Unknown")

    def link_width(self, *, current: bool) -> int:
        """Lanes."""
        at = self.find_capability(r.PCI_CAP_ID_EXP)
        reg = self.read_config_word(at + r.PCI_EXP_LNKSTA) if current else self.read_config_dword(at + r.PCI_EXP_LNKCAP)
        return reg >> 4 & 0x3F

    # ---- coming and going

    @property
    def can_probe(self) -> bool:
        """drivers/pci/pci-driver.c:pci_device_can_probe()."""
        iov = self.physfn.iov if self.physfn is not None else None
        return iov is None or iov.drivers_autoprobe or self.driver_override is not None

    def bus_add(self) -> None:
        """Let drivers have it, whatever drivers_autoprobe says. C: ``void pci_bus_add_device(struct pci_dev *)``."""
        self.kernel.sub(ProcBusPci).attach_device(self)
        self.match_driver = True
        try:
            dd.device_attach(self)
        except OSError as e:
            self.warn(f"device attach failed ({-(e.errno or 0)})")

    def stop_and_remove(self) -> None:
        """C: ``void pci_stop_and_remove_bus_device(struct pci_dev *)``. Raises HungTask: it is there as before."""
        below = self.subordinate
        if below is not None:
            for dev in reversed(list(below.pci_devices)):
                dev.stop_and_remove()
        self.kernel.sub(ProcBusPci).detach_device(self)
        try:
            dd.device_release_driver(self)
        except HungTask:
            self.kernel.sub(ProcBusPci).attach_device(self)
            raise
        if self.iov is not None:
            self.iov.disable()
        self.unregister()  # unbinds again: a driver may have come meanwhile
        self.free_irq_vectors()
        self.pci.remove_bus(self)
        self.pci_bus.pci_devices.remove(self)
        self.slot.dev = None
        self.slot.forget()
        self.pci.devices.pop(self.name, None)
        if self.physfn is None:
            self.pci.free_mmio(self.resources.values())
