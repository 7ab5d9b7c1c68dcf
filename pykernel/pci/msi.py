"""Message-signalled interrupts of a device (drivers/pci/msi/): MSI-X and MSI vectors, the msi_irqs directory."""

from __future__ import annotations

from collections.abc import Callable
from errno import EINVAL, ENOSPC, ERANGE
from typing import TYPE_CHECKING

from pykernel.errors import err
from pykernel.fs.sysfs import Attribute, Kset
from pykernel.pci.irq import MSI_ADDRESS, IrqDesc, Irqs, remapped_address
from pykernel.pci.power import PCI_D0
from pykernel.uapi.linux import pci_regs as r

if TYPE_CHECKING:
    from pykernel.pci.dev import PciDev
    from pykernel.pci.iomem import Iomem

__all__ = ["PCI_IRQ_ALL_TYPES", "PCI_IRQ_INTX", "PCI_IRQ_MSI", "PCI_IRQ_MSIX", "Msi"]

# include/linux/pci.h
PCI_IRQ_INTX, PCI_IRQ_MSI, PCI_IRQ_MSIX = 1, 2, 4
PCI_IRQ_ALL_TYPES = PCI_IRQ_INTX | PCI_IRQ_MSI | PCI_IRQ_MSIX


class Msi:
    """
    The vectors of one device; ``mode`` is "msix", "msi" or "" while there are none.

    A vector of MSI-X is masked in the device's table until a handler is requested.
    """

    def __init__(self, dev: PciDev) -> None:
        self.dev = dev
        self.mode = ""
        self.descs: dict[int, IrqDesc] = {}
        self._dir: Kset | None = None
        self._table: Iomem | None = None

    # ---- how many

    def msix_vec_count(self) -> int:
        """C: ``int pci_msix_vec_count(struct pci_dev *)``. Raises EINVAL: no capability."""
        return (self._flags(r.PCI_CAP_ID_MSIX, r.PCI_MSIX_FLAGS) & r.PCI_MSIX_FLAGS_QSIZE) + 1

    def msi_vec_count(self) -> int:
        """C: ``int pci_msi_vec_count(struct pci_dev *)``. Raises EINVAL: no capability."""
        return 1 << ((self._flags(r.PCI_CAP_ID_MSI, r.PCI_MSI_FLAGS) & r.PCI_MSI_FLAGS_QMASK) >> 1)

    def _flags(self, cap: int, off: int) -> int:
        at = self.dev.find_capability(cap)
        if not at:
            raise err(EINVAL, f"{self.dev.name} has no such capability")
        return self.dev.read_config_word(at + off)

    # ---- on

    def alloc_irq_vectors(self, low: int, high: int, flags: int) -> int:
        """
        C: ``int pci_alloc_irq_vectors(struct pci_dev *, unsigned, unsigned, unsigned flags)``: MSI-X, MSI, the pin.

        Raises:
            ENOSPC: fewer than *low*.
            ERANGE: *high* is below *low*.
            EINVAL: no capability, MSI forbidden, the device is not enabled, or vectors are allocated.
            ENOMEM: by fault injection.
        """
        self.dev.kernel.faults.alloc("pci_alloc_irq_vectors")
        failure = err(ENOSPC)
        for bit, enable in ((PCI_IRQ_MSIX, self._enable_msix), (PCI_IRQ_MSI, self._enable_msi)):
            if flags & bit:
                try:
                    return enable(low, high)
                except OSError as e:
                    failure = e
        if flags & PCI_IRQ_INTX and low == 1 and self.dev.intx_irq:
            self.dev.intx(enable=True)
            return 1
        raise failure

    def _check(self, low: int, high: int) -> None:
        # drivers/pci/msi/msi.c:pci_msi_supported() and what is asked around it
        if high < low:
            raise err(ERANGE)
        if self.mode:
            raise err(EINVAL, f"{self.dev.name} has {self.mode} vectors")
        if self.dev.no_msi or low < 1 or self.dev.power_state != "D0":
            raise err(EINVAL, "MSI is off for this device, or it is not enabled")

    def _enable_msix(self, low: int, high: int) -> int:
        # drivers/pci/msi/msi.c:msix_capability_init()
        self._check(low, high)
        n = min(self.msix_vec_count(), high)
        if n < low:
            raise err(ENOSPC)
        self._table = self._map_table()
        self._take("msix", n)
        self._msix_control(r.PCI_MSIX_FLAGS_MASKALL | r.PCI_MSIX_FLAGS_ENABLE, 0)
        self._write_table()
        self.dev.intx(enable=False)
        self._msix_control(0, r.PCI_MSIX_FLAGS_MASKALL)
        return n

    def _enable_msi(self, low: int, high: int) -> int:
        # drivers/pci/msi/msi.c:msi_capability_init(); x86 has more than one only with interrupt remapping
        self._check(low, high)
        n = min(self.msi_vec_count(), high if self.dev.kernel.sub(Irqs).remapping else 1)
        if n < low:
            raise err(ENOSPC)
        self._take("msi", n)
        self._write_msi()
        self.dev.intx(enable=False)
        self._msi_enable(on=True)
        return n

    @property
    def can_alloc_dyn(self) -> bool:
        """Whether vectors of MSI-X can be added one by one. C: ``bool pci_msix_can_alloc_dyn(struct pci_dev *)``."""
        return self.dev.kernel.profile.pci_msi_chip_per_device and bool(self.dev.find_capability(r.PCI_CAP_ID_MSIX))

    def msix_alloc_irq_at(self, index: int) -> int:
        """
        One more vector while MSI-X is on: its irq. C: ``struct msi_map pci_msix_alloc_irq_at(...)``.

        Raises:
            EINVAL: MSI-X is off, there is no such vector, or it has an irq.
        """
        if self.mode != "msix" or index in self.descs or not 0 <= index < self.msix_vec_count():
            raise err(EINVAL)
        self._add(index, self.dev.kernel.sub(Irqs).alloc(self._chip(), self._first_hwirq() + index))
        self._write_entry(index)
        return self.descs[index].irq

    def write_msg(self, index: int) -> None:
        """Write the message of vector *index* of MSI-X again. C: ``void pci_write_msi_msg(unsigned int, ...)``."""
        self._write_message(index)

    def _take(self, mode: str, n: int) -> None:
        dev = self.dev
        self.mode = mode
        dev.kernel.ledger.take("msi", self, lambda: f"{n} {mode.upper()} vectors of {dev.name}", dev)
        self._dir = Kset(dev.kernel, "msi_irqs", dev)
        self._dir.add()
        for i, desc in enumerate(dev.kernel.sub(Irqs).alloc_range(self._chip(), self._first_hwirq(), n)):
            self._add(i, desc)

    def _chip(self) -> str:
        dev = self.dev
        per_device = dev.kernel.profile.pci_msi_chip_per_device
        remapped = "IR-" if dev.kernel.sub(Irqs).remapping else ""
        return remapped + (f"PCI-{self.mode.upper()}-{dev.name}" if per_device else "PCI-MSI")

    def _first_hwirq(self) -> int:
        # drivers/pci/msi/irqdomain.c:pci_msi_domain_calc_hwirq()
        per_device = self.dev.kernel.profile.pci_msi_chip_per_device
        return 0 if per_device else (self.dev.bus_number << 8 | self.dev.devfn) << 11

    def _add(self, i: int, desc: IrqDesc) -> None:
        assert self._dir is not None
        mode = self.mode
        self.descs[i] = desc
        desc.requester = self.dev
        if mode == "msix":
            desc.set_mask = self._masker(i)
        self._dir.create_file(Attribute(str(desc.irq), lambda _k: f"{mode}\n", None, 0o444))

    # ---- registers

    def _msix_control(self, on: int, off: int) -> None:
        # drivers/pci/msi/msi.h:pci_msix_clear_and_set_ctrl()
        at = self.dev.find_capability(r.PCI_CAP_ID_MSIX) + r.PCI_MSIX_FLAGS
        self.dev.write_config_word(at, self.dev.read_config_word(at) & ~off | on)

    def _map_table(self) -> Iomem:
        # drivers/pci/msi/msi.c:msix_map_region()
        table = self.dev.read_config_dword(self.dev.find_capability(r.PCI_CAP_ID_MSIX) + r.PCI_MSIX_TABLE)
        return self.dev.iomap(table & r.PCI_MSIX_TABLE_BIR, table & r.PCI_MSIX_TABLE_OFFSET)

    def _entry(self, i: int, off: int, value: int) -> None:
        assert self._table is not None
        self._table.writel(value, i * r.PCI_MSIX_ENTRY_SIZE + off)

    def _write_table(self) -> None:
        for i in self.descs:
            self._write_entry(i)

    def _write_entry(self, i: int) -> None:
        self._write_message(i)
        self._mask(i, masked=not self.descs[i].actions)

    def _write_message(self, i: int) -> None:
        self._entry(i, r.PCI_MSIX_ENTRY_LOWER_ADDR, MSI_ADDRESS)
        self._entry(i, r.PCI_MSIX_ENTRY_UPPER_ADDR, 0)
        self._entry(i, r.PCI_MSIX_ENTRY_DATA, self.descs[i].irq)

    def _masker(self, i: int) -> Callable[[bool], None]:
        return lambda masked: self._mask(i, masked=masked)

    def _mask(self, i: int, *, masked: bool) -> None:
        self._entry(i, r.PCI_MSIX_ENTRY_VECTOR_CTRL, r.PCI_MSIX_ENTRY_CTRL_MASKBIT if masked else 0)

    def _write_msi(self) -> None:
        several, irq = len(self.descs) > 1, self.descs[0].irq
        self._write_msi_message(remapped_address(irq) if several else MSI_ADDRESS, 0 if several else irq)

    def _write_msi_message(self, address: int, data: int) -> None:
        dev, at = self.dev, self.dev.find_capability(r.PCI_CAP_ID_MSI)
        dev.write_config_dword(at + r.PCI_MSI_ADDRESS_LO, address)
        wide = dev.read_config_word(at + r.PCI_MSI_FLAGS) & r.PCI_MSI_FLAGS_64BIT
        if wide:
            dev.write_config_dword(at + r.PCI_MSI_ADDRESS_HI, 0)
        dev.write_config_word(at + (r.PCI_MSI_DATA_64 if wide else r.PCI_MSI_DATA_32), data)

    def _msi_enable(self, *, on: bool) -> None:
        at = self.dev.find_capability(r.PCI_CAP_ID_MSI) + r.PCI_MSI_FLAGS
        flags = self.dev.read_config_word(at) & ~(r.PCI_MSI_FLAGS_ENABLE | r.PCI_MSI_FLAGS_QSIZE)
        if on:
            flags |= r.PCI_MSI_FLAGS_ENABLE | (len(self.descs) - 1).bit_length() << 4
        self.dev.write_config_word(at, flags)

    def restore(self) -> None:
        """
        After a reset: messages, masks, enable bits; the pin is off. The table needs memory decoding.

        C: ``void pci_restore_msi_state(struct pci_dev *)``.
        """
        if not self.mode:
            return
        self.dev.intx(enable=False)
        if self.mode == "msix":
            self._msix_control(r.PCI_MSIX_FLAGS_MASKALL | r.PCI_MSIX_FLAGS_ENABLE, 0)
            command = self.dev.read_config_word(r.PCI_COMMAND)
            self.dev.write_config_word(r.PCI_COMMAND, command | r.PCI_COMMAND_MEMORY)
            self._write_table()
            self.dev.write_config_word(r.PCI_COMMAND, command)
            self._msix_control(0, r.PCI_MSIX_FLAGS_MASKALL)
        else:
            self._msi_enable(on=False)
            self._write_msi()
            self._msi_enable(on=True)

    # ---- off

    def free_irq_vectors(self) -> None:
        """C: ``void pci_free_irq_vectors(struct pci_dev *)``."""
        if not self.mode:
            return
        self.dev.kernel.ledger.give("msi", self)
        if self.mode == "msix":
            self._msix_control(0, r.PCI_MSIX_FLAGS_ENABLE)
        else:
            self._msi_enable(on=False)
        self.dev.intx(enable=True)
        self._forget_messages()
        for desc in self.descs.values():
            self.dev.kernel.sub(Irqs).free(desc.irq)
        self.descs.clear()
        self.mode = ""
        if self._dir is not None:
            self._dir.delete()
            self._dir = None

    def _forget_messages(self) -> None:
        # kernel/irq/msi.c:msi_domain_deactivate() writes a message of zeros; in D0, as all messages
        if self.dev.current_state != PCI_D0:
            return
        if self.mode == "msi":
            self._write_msi_message(0, 0)
            return
        for i in self.descs:
            for off in (r.PCI_MSIX_ENTRY_LOWER_ADDR, r.PCI_MSIX_ENTRY_UPPER_ADDR, r.PCI_MSIX_ENTRY_DATA):
                self._entry(i, off, 0)

    def irq_vector(self, n: int) -> int:
        """C: ``int pci_irq_vector(struct pci_dev *, unsigned)``. Raises EINVAL."""
        if not self.mode and n == 0:
            return self.dev.intx_irq
        if n not in self.descs:
            raise err(EINVAL)
        return self.descs[n].irq
