"""
The interrupts of a port card (samples/vfio-mdev/mtty.c: mtty_set_irqs(), mtty_trigger_interrupt()).

An interrupt is one signal of an eventfd: the one of MSI when that was set last, else the one of INTX. Before Linux 6.8
nearly anything could be asked for, and nothing was masked.
"""

from __future__ import annotations

from errno import EINVAL, ENOTTY
from typing import TYPE_CHECKING, ClassVar, Final

from pykernel.errors import err
from pykernel.fs.anon import EventFd, eventfd_ctx_fdget
from pykernel.lib.locking import Mutex
from pykernel.log import INFO
from pykernel.uapi.linux.vfio import (
    VFIO_IRQ_SET_ACTION_MASK,
    VFIO_IRQ_SET_ACTION_TRIGGER,
    VFIO_IRQ_SET_ACTION_TYPE_MASK,
    VFIO_IRQ_SET_ACTION_UNMASK,
    VFIO_IRQ_SET_DATA_BOOL,
    VFIO_IRQ_SET_DATA_EVENTFD,
    VFIO_IRQ_SET_DATA_NONE,
    VFIO_PCI_ERR_IRQ_INDEX,
    VFIO_PCI_INTX_IRQ_INDEX,
    VFIO_PCI_MSI_IRQ_INDEX,
    VFIO_PCI_MSIX_IRQ_INDEX,
    VFIO_PCI_REQ_IRQ_INDEX,
    vfio_irq_set,
)

if TYPE_CHECKING:
    from pykernel.kernel import Kernel

__all__ = ["LooseIrqs", "MttyIrqs", "NamedIrqs"]

INTX: Final = VFIO_PCI_INTX_IRQ_INDEX
MSI: Final = VFIO_PCI_MSI_IRQ_INDEX
NONE: Final = -1
OTHERS: Final = {VFIO_PCI_MSIX_IRQ_INDEX: "MSIX", VFIO_PCI_ERR_IRQ_INDEX: "ERR", VFIO_PCI_REQ_IRQ_INDEX: "REQ"}


class MttyIrqs:
    """What both kernels have: an eventfd of each kind, and which kind was set last."""

    answered: ClassVar[tuple[int, ...]]
    """The indexes of which VFIO_DEVICE_GET_IRQ_INFO knows something."""

    def __init__(self, kernel: Kernel, ops_lock: Mutex) -> None:
        self.kernel = kernel
        self.ops_lock = ops_lock
        self.evtfd: dict[int, EventFd | None] = {INTX: None, MSI: None}
        self.irq_index = NONE

    def set_irqs(self, hdr: vfio_irq_set, data: bytes) -> None:
        """C: ``int mtty_set_irqs(...)``. Raises an errno."""
        raise NotImplementedError

    def trigger(self) -> None:
        """mtty_trigger_interrupt(), ops_lock held."""
        raise NotImplementedError

    def close(self) -> None:
        """The device was closed."""


class LooseIrqs(MttyIrqs):
    """Linux 6.1: no masks. An eventfd that was set stays set, closed device or not."""

    answered = (INTX, MSI, VFIO_PCI_REQ_IRQ_INDEX)

    def set_irqs(self, hdr: vfio_irq_set, data: bytes) -> None:
        """Raises EBADF, EINVAL: no eventfd. All else succeeds, if it does nothing."""
        with self.ops_lock:
            if hdr.index in OTHERS:
                self._printk(f"{OTHERS[hdr.index]}_IRQ")
            elif hdr.flags & VFIO_IRQ_SET_ACTION_TYPE_MASK == VFIO_IRQ_SET_ACTION_TRIGGER:
                self._set_trigger(hdr, data)

    def _set_trigger(self, hdr: vfio_irq_set, data: bytes) -> None:
        if hdr.flags & VFIO_IRQ_SET_DATA_NONE:
            # Linux forgets its reference and keeps the pointer: while the eventfd lives, it is signalled as before
            self._printk(f"disable {'INTx' if hdr.index == INTX else 'MSI'}")
            if hdr.index == MSI:
                self.irq_index = INTX
            return
        if not hdr.flags & VFIO_IRQ_SET_DATA_EVENTFD or not data:
            return
        fd = int.from_bytes(data[:4], "little", signed=True)
        if fd <= 0 or (hdr.index == MSI and self.evtfd[MSI] is not None):
            return
        self.evtfd[hdr.index] = eventfd_ctx_fdget(self.kernel, fd)
        self.irq_index = hdr.index

    def _printk(self, text: str) -> None:
        self.kernel.log.printk(INFO, f"mtty_set_irqs: {text}")

    def trigger(self) -> None:
        """One signal. Without an eventfd there is none; Linux 6.1 crashes, if none of INTX was ever set."""
        evtfd = self.evtfd[MSI if self.irq_index == MSI else INTX]
        if evtfd is not None:
            evtfd.signal()
        elif self.irq_index == INTX:
            self.kernel.log.printk(INFO, "mtty_trigger_interrupt: Intr eventfd not found")


class NamedIrqs(MttyIrqs):
    """Linux 6.12: one kind at a time; INTX can be masked, and masks itself with each signal."""

    answered = (INTX, MSI)

    def __init__(self, kernel: Kernel, ops_lock: Mutex) -> None:
        super().__init__(kernel, ops_lock)
        self.intx_mask = False

    def trigger(self) -> None:
        """One signal, unless it is masked."""
        self.ops_lock.assert_held()
        evtfd = self.evtfd.get(self.irq_index)
        if evtfd is None or (self.irq_index == INTX and self.intx_mask):
            return
        evtfd.signal()
        if self.irq_index == INTX:
            self.intx_mask = True

    def set_irqs(self, hdr: vfio_irq_set, data: bytes) -> None:
        """
        mtty_set_irqs().

        Raises:
            EINVAL: another kind is set, or a range that there is not. ENOTTY: nothing there can do that.
            EBADF: no open file; EINVAL: it is no eventfd.
        """
        with self.ops_lock:
            if hdr.index in OTHERS:
                raise err(ENOTTY)
            action = hdr.flags & VFIO_IRQ_SET_ACTION_TYPE_MASK
            if action in (VFIO_IRQ_SET_ACTION_MASK, VFIO_IRQ_SET_ACTION_UNMASK):
                self._set_mask(hdr, data, mask=action == VFIO_IRQ_SET_ACTION_MASK)
            elif action == VFIO_IRQ_SET_ACTION_TRIGGER:
                self._set_trigger(hdr, data)

    def _set_mask(self, hdr: vfio_irq_set, data: bytes, *, mask: bool) -> None:
        if hdr.index == MSI:
            raise err(ENOTTY, "MSI has no mask")
        if self.irq_index != INTX or hdr.start != 0 or hdr.count != 1:
            raise err(EINVAL)
        if hdr.flags & VFIO_IRQ_SET_DATA_EVENTFD:
            raise err(ENOTTY, "no eventfd masks")
        if hdr.flags & VFIO_IRQ_SET_DATA_NONE or (hdr.flags & VFIO_IRQ_SET_DATA_BOOL and data[0]):
            self.intx_mask = mask

    def _set_trigger(self, hdr: vfio_irq_set, data: bytes) -> None:
        mine = self.irq_index == hdr.index
        if mine and not hdr.count and hdr.flags & VFIO_IRQ_SET_DATA_NONE:
            self._disable(hdr.index)
            return
        if not (mine or self.irq_index == NONE) or hdr.start != 0 or hdr.count != 1:
            raise err(EINVAL)
        if hdr.flags & VFIO_IRQ_SET_DATA_EVENTFD:
            self._disable(hdr.index)
            fd = int.from_bytes(data[:4], "little", signed=True)
            if fd >= 0:
                self.evtfd[hdr.index] = eventfd_ctx_fdget(self.kernel, fd)
                self.irq_index = hdr.index
            return
        if not mine:
            raise err(EINVAL, "no eventfd was set")
        if hdr.flags & VFIO_IRQ_SET_DATA_NONE or (hdr.flags & VFIO_IRQ_SET_DATA_BOOL and data[0]):
            self.trigger()

    def _disable(self, index: int) -> None:
        # as mtty_disable_intx() and mtty_disable_msi() do
        if self.evtfd[index] is not None:
            self.evtfd[index], self.irq_index = None, NONE
            if index == INTX:
                self.intx_mask = False

    def close(self) -> None:
        """mtty_close(): no eventfd is left."""
        self._disable(INTX)
        self._disable(MSI)
