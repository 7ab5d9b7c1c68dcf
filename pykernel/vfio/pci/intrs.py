"""
VFIO_DEVICE_SET_IRQS of PCI devices (drivers/vfio/pci/vfio_pci_intrs.c): interrupts become signals of eventfds.

At most one of INTx, MSI and MSI-X is on. An INTx masks itself when it arrives: in the device where COMMAND can do that
(PCI 2.3), else at the interrupt controller.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from errno import EINVAL, ENODEV, ENOTTY
from typing import TYPE_CHECKING

from pykernel.errors import err
from pykernel.fs.anon import EventFd, eventfd_ctx_fdget
from pykernel.pci.intx import check_and_mask_intx, check_and_unmask_intx
from pykernel.pci.irq import Irqs
from pykernel.pci.msi import PCI_IRQ_MSI, PCI_IRQ_MSIX
from pykernel.uapi.linux import pci_regs as r
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
    VFIO_PCI_NUM_IRQS,
    VFIO_PCI_REQ_IRQ_INDEX,
)
from pykernel.vfio.irqbypass import IrqBypass, hashed_pointer
from pykernel.vfio.virqfd import VirqfdSlot, vfio_virqfd_disable, vfio_virqfd_enable, vfio_virqfd_flush_thread

if TYPE_CHECKING:
    from pykernel.vfio.pci.core import VfioPciCoreDevice

__all__ = ["Interrupts"]

INTX, MSI, MSIX = VFIO_PCI_INTX_IRQ_INDEX, VFIO_PCI_MSI_IRQ_INDEX, VFIO_PCI_MSIX_IRQ_INDEX
ERR, REQ = VFIO_PCI_ERR_IRQ_INDEX, VFIO_PCI_REQ_IRQ_INDEX
MASK, UNMASK, TRIGGER = VFIO_IRQ_SET_ACTION_MASK, VFIO_IRQ_SET_ACTION_UNMASK, VFIO_IRQ_SET_ACTION_TRIGGER
NONE, BOOL, EVENTFD = VFIO_IRQ_SET_DATA_NONE, VFIO_IRQ_SET_DATA_BOOL, VFIO_IRQ_SET_DATA_EVENTFD


class IrqCtx:
    """``struct vfio_pci_irq_ctx``: whom one interrupt signals."""

    __slots__ = ("irq", "masked", "producer", "trigger", "unmask")

    def __init__(self, irq: int, trigger: EventFd | None) -> None:
        self.irq = irq
        self.trigger = trigger
        self.masked = False
        self.producer: EventFd | None = None
        self.unmask = VirqfdSlot()

    def signal(self) -> None:
        """C: ``vfio_msihandler()``."""
        if self.trigger is not None:
            self.trigger.signal()


def _fds(data: bytes) -> list[int]:
    return [int.from_bytes(data[i : i + 4], "little", signed=True) for i in range(0, len(data), 4)]


class Interrupts:
    """
    The interrupts of one device.

    Attributes:
        irq_type: INTX, MSI or MSIX, VFIO_PCI_NUM_IRQS while none is on.
        virq_disabled: the emulated COMMAND disables INTx.
        pci_2_3: the device's pin can be masked in COMMAND.
        msi_qmax: log2 of how many vectors of MSI are on.
        single: what is signalled for ERR and REQ.
    """

    def __init__(self, vdev: VfioPciCoreDevice) -> None:
        self.vdev = vdev
        self.kernel = vdev.kernel
        self.pdev = vdev.pdev
        self.irq_type = VFIO_PCI_NUM_IRQS
        self.virq_disabled = False
        self.pci_2_3 = False
        self.msi_qmax = 0
        self.ctx: dict[int, IrqCtx] = {}
        self.grows = self.kernel.profile.vfio_pci_dynamic_msix
        self.num_ctx = 0
        self.single: dict[int, EventFd] = {}
        self._set: dict[tuple[int, int], Callable[[int, int, int, bytes], int]] = {
            (INTX, MASK): self._set_intx_mask,
            (INTX, UNMASK): self._set_intx_unmask,
            (INTX, TRIGGER): self._set_intx_trigger,
            (MSI, TRIGGER): lambda *a: self._set_msi_trigger(MSI, *a),
            (MSIX, TRIGGER): lambda *a: self._set_msi_trigger(MSIX, *a),
            (ERR, TRIGGER): lambda *a: self._set_single(ERR, *a),
            (REQ, TRIGGER): lambda *a: self._set_single(REQ, *a),
        }

    @property
    def is_none(self) -> bool:
        """C: ``bool is_irq_none(struct vfio_pci_core_device *)``."""
        return self.irq_type not in (INTX, MSI, MSIX)

    @property
    def is_intx(self) -> bool:
        """C: ``bool is_intx(struct vfio_pci_core_device *)``."""
        return self.irq_type == INTX

    def count(self, index: int) -> int:
        """How many there are of a kind. C: ``int vfio_pci_get_irq_count(struct vfio_pci_core_device *, int)``."""
        pdev = self.pdev
        if index == INTX:
            return int(self.vdev.config.get(r.PCI_INTERRUPT_PIN, 1) != 0)
        if index == MSI:
            return pdev.msi.msi_vec_count() if pdev.find_capability(r.PCI_CAP_ID_MSI) else 0
        if index == MSIX:
            return pdev.msi.msix_vec_count() if pdev.find_capability(r.PCI_CAP_ID_MSIX) else 0
        return int(index == REQ or (index == ERR and pdev.is_pcie))

    def set(self, flags: int, index: int, start: int, count: int, data: bytes) -> int:
        """
        C: ``int vfio_pci_set_irqs_ioctl(struct vfio_pci_core_device *, u32 flags, unsigned index, ...)``.

        Returns:
            0; more: how many vectors there are, and none is on.

        Raises:
            ENOTTY: what cannot be done to this kind.
            EINVAL: not now, or not so.
            EBADF: a descriptor that is closed.
        """
        setter = self._set.get((index, flags & VFIO_IRQ_SET_ACTION_TYPE_MASK))
        if setter is None or (index == ERR and not self.pdev.is_pcie):
            raise err(ENOTTY, f"interrupts of kind {index} cannot do {flags:#x}")
        return setter(start, count, flags, data)

    def disable(self) -> None:
        """What is on goes off, when the device is closed."""
        if self.irq_type == INTX:
            self._intx_disable()
        elif not self.is_none:
            self._msi_disable()
        self.virq_disabled = False

    # ---- INTx

    def _send_intx(self) -> None:
        # drivers/vfio/pci/vfio_pci_intrs.c:vfio_send_intx_eventfd()
        if self.irq_type == INTX and not self.virq_disabled:
            self.ctx[0].signal()

    def intx_mask(self) -> bool:
        """True when it was not. C: ``bool vfio_pci_intx_mask(struct vfio_pci_core_device *)``."""
        if self.irq_type != INTX:
            if self.pci_2_3:
                self.pdev.intx(enable=False)
            return False
        ctx = self.ctx[0]
        if ctx.masked:
            return False
        if self.pci_2_3:
            self.pdev.intx(enable=False)
        else:
            self.kernel.sub(Irqs).disable_irq(ctx.irq)
        ctx.masked = True
        return True

    def _unmask_handler(self) -> bool:
        """C: ``int vfio_pci_intx_unmask_handler(void *, void *)``: True: it is pending, and is to be sent again."""
        if self.irq_type != INTX:
            if self.pci_2_3:
                self.pdev.intx(enable=True)
            return False
        ctx = self.ctx[0]
        if not ctx.masked or self.virq_disabled:
            return False
        if self.pci_2_3:
            ctx.masked = not check_and_unmask_intx(self.pdev)
            return ctx.masked
        ctx.masked = False
        self.kernel.sub(Irqs).enable_irq(ctx.irq)
        return False

    def intx_unmask(self) -> None:
        """C: ``void vfio_pci_intx_unmask(struct vfio_pci_core_device *)``."""
        if self._unmask_handler():
            self._send_intx()

    def virtual_disable(self, disable: bool) -> None:
        """The emulated COMMAND was written. vfio_pci_config.c:vfio_basic_config_write()."""
        if disable == self.virq_disabled:
            return
        self.virq_disabled = disable
        if disable:
            self.intx_mask()
        else:
            self.intx_unmask()

    def _intx_handler(self) -> None:
        # drivers/vfio/pci/vfio_pci_intrs.c:vfio_intx_handler(); the line may be shared
        ctx = self.ctx[0]
        if not self.pci_2_3:
            self.kernel.sub(Irqs).disable_irq(ctx.irq)
        elif ctx.masked or not check_and_mask_intx(self.pdev):
            return
        ctx.masked = True
        self._send_intx()

    def _intx_enable(self, trigger: EventFd | None) -> None:
        pdev = self.pdev
        if not pdev.intx_irq:
            raise err(ENODEV, f"{pdev.name} has no interrupt line")
        ctx = self.ctx[0] = IrqCtx(pdev.intx_irq, trigger)
        ctx.masked = self.virq_disabled
        if self.pci_2_3:
            pdev.intx(enable=not ctx.masked)
        self.irq_type = INTX
        try:
            self.kernel.sub(Irqs).request(
                ctx.irq,
                self._intx_handler,
                f"vfio-intx({pdev.name})",
                self,
                shared=self.pci_2_3,
                hard=True,
                no_autoen=ctx.masked and not self.pci_2_3,
            )
        except OSError:
            self.irq_type = VFIO_PCI_NUM_IRQS
            del self.ctx[0]
            raise

    def _intx_disable(self) -> None:
        ctx = self.ctx[0]
        vfio_virqfd_disable(ctx.unmask)
        self.kernel.sub(Irqs).free_irq(ctx.irq, self)
        del self.ctx[0]
        self.irq_type = VFIO_PCI_NUM_IRQS

    def _check_intx(self, start: int, count: int) -> None:
        if self.irq_type != INTX or start or count != 1:
            raise err(EINVAL, "INTx is off, or there is but one")

    def _set_intx_unmask(self, start: int, count: int, flags: int, data: bytes) -> int:
        self._check_intx(start, count)
        if flags & EVENTFD:
            slot, fd = self.ctx[0].unmask, _fds(data)[0]
            if fd >= 0:
                vfio_virqfd_enable(self.kernel, slot, fd, self._unmask_handler, self._send_intx)
            else:
                vfio_virqfd_disable(slot)
        elif flags & NONE or data[0]:
            self.intx_unmask()
        return 0

    def _set_intx_mask(self, start: int, count: int, flags: int, data: bytes) -> int:
        self._check_intx(start, count)
        if flags & EVENTFD:
            raise err(ENOTTY, "no eventfd masks")
        if flags & NONE or data[0]:
            self.intx_mask()
        return 0

    def _set_intx_trigger(self, start: int, count: int, flags: int, data: bytes) -> int:
        if self.irq_type == INTX and not count and flags & NONE:
            self._intx_disable()
            return 0
        if not (self.irq_type == INTX or self.is_none) or start or count != 1:
            raise err(EINVAL, "another kind is on, or there is but one")
        if flags & EVENTFD:
            fd = _fds(data)[0]
            trigger = eventfd_ctx_fdget(self.kernel, fd) if fd >= 0 else None
            if self.irq_type != INTX:
                self._intx_enable(trigger)
                return 0
            ctx, old = self.ctx[0], self.ctx[0].trigger
            ctx.trigger = trigger
            if old is not None:
                vfio_virqfd_flush_thread(ctx.unmask)
            return 0
        if self.irq_type != INTX:
            raise err(EINVAL, "INTx is off")
        if flags & NONE or data[0]:
            self._send_intx()
        return 0

    # ---- MSI and MSI-X

    @contextmanager
    def _memory(self) -> Iterator[None]:
        """C: ``vfio_pci_memory_lock_and_enable()`` to ``vfio_pci_memory_unlock_and_restore()``."""
        with self.vdev.memory_forced():
            yield

    def _msi_enable(self, nvec: int, *, msix: bool) -> int:
        # drivers/vfio/pci/vfio_pci_intrs.c:vfio_msi_enable()
        with self._memory():
            got = self.pdev.alloc_irq_vectors(1, nvec, PCI_IRQ_MSIX if msix else PCI_IRQ_MSI)
            if got < nvec:
                self.pdev.free_irq_vectors()
                return got
        self.num_ctx = nvec
        self.irq_type = MSIX if msix else MSI
        if not msix:
            self.msi_qmax = (nvec * 2 - 1).bit_length() - 1
        return 0

    def _irq_of(self, vector: int, *, msix: bool) -> int:
        # drivers/vfio/pci/vfio_pci_intrs.c:vfio_msi_alloc_irq()
        try:
            return self.pdev.irq_vector(vector)
        except OSError:
            if not msix or not self.pdev.msi.can_alloc_dyn:
                raise
        with self._memory():
            return self.pdev.msi.msix_alloc_irq_at(vector)

    def _set_vector(self, vector: int, fd: int, *, msix: bool) -> None:
        # drivers/vfio/pci/vfio_pci_intrs.c:vfio_msi_set_vector_signal()
        ctx = self.ctx.pop(vector, None)
        irqs = self.kernel.sub(Irqs)
        if ctx is not None:
            if ctx.producer is not None:
                self.kernel.sub(IrqBypass).unregister_producer(ctx.producer)
            with self._memory():
                irqs.free_irq(ctx.irq, ctx)
        if fd < 0:
            return
        irq = self._irq_of(vector, msix=msix)
        trigger = eventfd_ctx_fdget(self.kernel, fd)
        ctx = IrqCtx(irq, trigger)
        with self._memory():
            if msix:
                self.pdev.msi.write_msg(vector)
            name = f"vfio-msi{'x' * msix}[{vector}]({self.pdev.name})"
            irqs.request(irq, ctx.signal, name, ctx, hard=True)
        self._produce(ctx, trigger)
        self.ctx[vector] = ctx

    def _produce(self, ctx: IrqCtx, trigger: EventFd) -> None:
        try:
            self.kernel.sub(IrqBypass).register_producer(trigger)
        except OSError as e:
            token = hashed_pointer(trigger)
            self.pdev.info(f"irq bypass producer (token {token}) registration fails: {-(e.errno or 0)}")
        else:
            ctx.producer = trigger

    def _set_block(self, start: int, fds: list[int], *, msix: bool) -> None:
        # drivers/vfio/pci/vfio_pci_intrs.c:vfio_msi_set_block(): all that were tried are off when one fails
        if not self.grows and (start >= self.num_ctx or start + len(fds) > self.num_ctx):
            raise err(EINVAL, f"{self.num_ctx} vectors are on")
        for vector, fd in enumerate(fds, start):
            try:
                self._set_vector(vector, fd, msix=msix)
            except OSError:
                for undo in range(start, vector + 1):
                    self._set_vector(undo, -1, msix=msix)
                raise

    def _msi_disable(self) -> None:
        # drivers/vfio/pci/vfio_pci_intrs.c:vfio_msi_disable()
        msix = self.irq_type == MSIX
        for vector in sorted(self.ctx):
            self._set_vector(vector, -1, msix=msix)
        with self._memory():
            self.pdev.free_irq_vectors()
        if self.vdev.nointx:
            self.pdev.intx(enable=False)
        self.irq_type, self.num_ctx = VFIO_PCI_NUM_IRQS, 0

    def _set_msi_trigger(self, index: int, start: int, count: int, flags: int, data: bytes) -> int:
        if self.irq_type == index and not count and flags & NONE:
            self._msi_disable()
            return 0
        if not (self.irq_type == index or self.is_none):
            raise err(EINVAL, "another kind is on")
        if flags & EVENTFD:
            return self._assign(index, start, _fds(data))
        # a vector that was added later is beyond those that 6.1 knows
        if self.irq_type != index or (not self.grows and start + count > self.num_ctx):
            raise err(EINVAL, "these are off")
        for n, vector in enumerate(range(start, start + count)):
            ctx = self.ctx.get(vector)
            if ctx is not None and (flags & NONE or data[n]):
                ctx.signal()
        return 0

    def _assign(self, index: int, start: int, fds: list[int]) -> int:
        msix = index == MSIX
        if self.irq_type == index:
            self._set_block(start, fds, msix=msix)
            return 0
        if got := self._msi_enable(start + len(fds), msix=msix):
            return got
        try:
            self._set_block(start, fds, msix=msix)
        except OSError:
            self._msi_disable()
            raise
        return 0

    # ---- ERR and REQ

    def _set_single(self, index: int, start: int, count: int, flags: int, data: bytes) -> int:
        # drivers/vfio/pci/vfio_pci_intrs.c:vfio_pci_set_ctx_trigger_single()
        if start or count > 1:
            raise err(EINVAL)
        now = self.single.get(index)
        if flags & NONE:
            if now is None:
                raise err(EINVAL, "no eventfd is there")
            if count:
                now.signal()
            else:
                del self.single[index]
            return 0
        if not count:
            raise err(EINVAL)
        if flags & BOOL:
            if data[0] and now is not None:
                now.signal()
            return 0
        fd = _fds(data)[0]
        if fd >= 0:
            self.single[index] = eventfd_ctx_fdget(self.kernel, fd)
        elif fd == -1:
            self.single.pop(index, None)
        elif self.kernel.profile.vfio_pci_trigger_only_minus_one:
            raise err(EINVAL, f"{fd} is no descriptor")
        return 0
