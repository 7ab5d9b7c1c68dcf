"""The vectors of a virtual DSA: eventfds of its user, and the entry of the host's IMS behind vector 1."""

from __future__ import annotations

from errno import EINVAL, ENOSPC, ENOTTY
from typing import TYPE_CHECKING

from pykernel.drivers.idxd.registers import IDXD_TABLE_MULT, IDXD_TABLE_OFFSET, MSIX_PERM_PASID_EN
from pykernel.drivers.vdsa.regs import VECTORS
from pykernel.errors import err
from pykernel.fs.anon import EventFd, eventfd_ctx_fdget
from pykernel.lib.idr import Ida
from pykernel.pci.irq import MSI_ADDRESS, Irqs
from pykernel.uapi.linux.vfio import (
    VFIO_IRQ_SET_ACTION_TRIGGER,
    VFIO_IRQ_SET_ACTION_TYPE_MASK,
    VFIO_IRQ_SET_DATA_BOOL,
    VFIO_IRQ_SET_DATA_EVENTFD,
    VFIO_IRQ_SET_DATA_NONE,
    VFIO_PCI_MSIX_IRQ_INDEX,
    vfio_irq_set,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from pykernel.drivers.idxd.idxd import IdxdDevice
    from pykernel.kernel import Kernel

__all__ = ["ImsEntry", "ImsTable", "Vectors"]

ENTRY_SIZE = 16
MASKED = 1


class ImsTable:
    """The interrupt message store of one accelerator: which of its entries are taken."""

    def __init__(self, idxd: IdxdDevice) -> None:
        self.idxd = idxd
        self.size = idxd.hw.gen_cap.max_ims_mult * 256
        self.offset = (idxd.reg_base.readq(IDXD_TABLE_OFFSET) >> 48 & 0xFFFF) * IDXD_TABLE_MULT
        self.ids = Ida()

    def alloc(self, handler: Callable[[], None], name: str) -> ImsEntry:
        """An entry with its interrupt. Raises ENOSPC: there is none left; ENOMEM by fault injection."""
        if not self.size:
            raise err(ENOSPC, f"{self.idxd.name} has no interrupt message store")
        return ImsEntry(self, self.ids.alloc_max(self.size - 1), handler, name)


class ImsEntry:
    """One entry: address, data, and the PASID of those who may name it as their interrupt handle."""

    def __init__(self, table: ImsTable, index: int, handler: Callable[[], None], name: str) -> None:
        self.table, self.index, self.name = table, index, name
        idxd = table.idxd
        irqs = idxd.kernel.sub(Irqs)
        self.desc = irqs.alloc("IDXD-IMS", index)
        self.desc.requester = idxd.pdev
        try:
            irqs.request(self.desc.irq, handler, name, self, hard=True)
        except OSError:
            irqs.free(self.desc.irq)
            table.ids.free(index)
            raise
        at = table.offset + index * ENTRY_SIZE
        idxd.reg_base.writeq(MSI_ADDRESS, at)
        idxd.reg_base.writel(self.desc.irq, at + 8)
        self.mask()

    def set_pasid(self, pasid: int) -> None:
        """Descriptors of *pasid* may name it."""
        control = MSIX_PERM_PASID_EN | pasid << 12
        self.table.idxd.reg_base.writel(control, self.table.offset + self.index * ENTRY_SIZE + 12)

    def mask(self) -> None:
        """Nobody may."""
        self.table.idxd.reg_base.writel(MASKED, self.table.offset + self.index * ENTRY_SIZE + 12)

    def free(self) -> None:
        """It is nobody's."""
        irqs = self.table.idxd.kernel.sub(Irqs)
        self.mask()
        irqs.free_irq(self.desc.irq, self)
        irqs.free(self.desc.irq)
        self.table.ids.free(self.index)


class Vectors:
    """What VFIO_DEVICE_SET_IRQS set: an eventfd a vector, or none."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.eventfds: list[EventFd | None] = [None] * VECTORS

    def signal(self, vector: int) -> None:
        """One interrupt."""
        eventfd = self.eventfds[vector]
        if eventfd is not None:
            eventfd.signal()

    def clear(self) -> None:
        """No eventfd is left."""
        self.eventfds = [None] * VECTORS

    def set_irqs(self, hdr: vfio_irq_set, data: bytes) -> None:
        """
        C: ``int vidxd_set_irqs(...)``: MSI-X only.

        Raises:
            ENOTTY: another kind, or masks. EINVAL: more vectors than there are. EBADF, EINVAL: no eventfd.
        """
        action = hdr.flags & VFIO_IRQ_SET_ACTION_TYPE_MASK
        if hdr.index != VFIO_PCI_MSIX_IRQ_INDEX or action != VFIO_IRQ_SET_ACTION_TRIGGER:
            raise err(ENOTTY)
        if hdr.count == 0 and hdr.flags & VFIO_IRQ_SET_DATA_NONE:
            self.clear()
            return
        if hdr.start + hdr.count > VECTORS:
            raise err(EINVAL, f"there are {VECTORS} vectors")
        for i in range(hdr.count):
            self._set(hdr.flags, hdr.start + i, i, data)

    def _set(self, flags: int, vector: int, i: int, data: bytes) -> None:
        if flags & VFIO_IRQ_SET_DATA_EVENTFD:
            fd = int.from_bytes(data[4 * i : 4 * i + 4], "little", signed=True)
            self.eventfds[vector] = eventfd_ctx_fdget(self.kernel, fd) if fd >= 0 else None
        elif flags & VFIO_IRQ_SET_DATA_NONE or (flags & VFIO_IRQ_SET_DATA_BOOL and data[i]):
            self.signal(vector)
