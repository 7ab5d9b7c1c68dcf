"""
Eventfds of a virtual machine (virt/kvm/eventfd.c): an irqfd interrupts the guest, an ioeventfd takes its stores.
"""

from __future__ import annotations

from dataclasses import dataclass
from errno import EBUSY, EEXIST, EINVAL, ENOENT
from typing import TYPE_CHECKING, Final

from pykernel.errors import err
from pykernel.fs.anon import eventfd_ctx_fdget
from pykernel.uapi.linux import kvm as k

if TYPE_CHECKING:
    from pykernel.fs.anon import EventFd
    from pykernel.virt.kvm.vm import Kvm

__all__ = ["IoEventFds", "IrqFds"]

WORD_SIZES: Final = (0, 1, 2, 4, 8)


class IrqFd:
    """``struct kvm_kernel_irqfd``: a signal of *eventfd* is an interrupt at *gsi*; with *resample* it is a level."""

    def __init__(self, vm: Kvm, eventfd: EventFd, gsi: int, resample: EventFd | None) -> None:
        self.vm, self.eventfd, self.gsi, self.resample = vm, eventfd, gsi, resample

    def wakeup(self) -> None:
        """C: ``int irqfd_wakeup(wait_queue_entry_t *, unsigned, int, void *)``: a message goes at once."""
        if self.eventfd.released:
            self.vm.kernel.sched.schedule_work(lambda: self.vm.irqfds.remove(self), "kvm-irqfd-cleanup")
        elif self.eventfd.arrived and self.eventfd.count:
            self.eventfd.do_read()
            message = self.vm.irqs.route(self.gsi)
            if message is not None and self.resample is None:
                self.vm.irqs.deliver(message)
            else:
                self.vm.kernel.sched.schedule_work(self.inject, "irqfd_inject")

    def inject(self) -> None:
        """C: ``void irqfd_inject(struct work_struct *)``: an edge is up and down; a level stays until it is acked."""
        irqs = self.vm.irqs
        irqs.set_irq(self.gsi, level=True)
        if self.resample is None:
            irqs.set_irq(self.gsi, level=False)

    def acked(self, gsi: int) -> None:
        """C: ``void irqfd_resampler_ack(struct kvm_irq_ack_notifier *)``: the line falls, and the owner is asked."""
        if self.resample is not None and gsi == self.gsi:
            self.vm.irqs.set_irq(gsi, level=False)
            self.resample.signal()


class IrqFds:
    """The irqfds of *vm*."""

    def __init__(self, vm: Kvm) -> None:
        self.vm = vm
        self.items: list[IrqFd] = []

    def set(self, args: k.kvm_irqfd) -> None:
        """
        C: ``int kvm_irqfd(struct kvm *, struct kvm_irqfd *)``.

        Raises:
            EINVAL: flags, no eventfd, no interrupt controller. EBADF. EBUSY: the eventfd is another irqfd's.
        """
        if args.flags & ~(k.KVM_IRQFD_FLAG_DEASSIGN | k.KVM_IRQFD_FLAG_RESAMPLE):
            raise err(EINVAL, f"flags {args.flags:#x}")
        if args.flags & k.KVM_IRQFD_FLAG_DEASSIGN:
            self._deassign(args)
        else:
            self._assign(args)

    def _deassign(self, args: k.kvm_irqfd) -> None:
        eventfd = eventfd_ctx_fdget(self.vm.kernel, args.fd)
        for irqfd in [i for i in self.items if i.eventfd is eventfd and i.gsi == args.gsi]:
            self.remove(irqfd)

    def _assign(self, args: k.kvm_irqfd) -> None:
        if not self.vm.irqchip:
            raise err(EINVAL, "KVM_CREATE_IRQCHIP comes first")  # arch/x86/kvm/irq.c:kvm_arch_irqfd_allowed()
        kernel = self.vm.kernel
        eventfd = eventfd_ctx_fdget(kernel, args.fd)
        resample = eventfd_ctx_fdget(kernel, args.resamplefd) if args.flags & k.KVM_IRQFD_FLAG_RESAMPLE else None
        if any(i.eventfd is eventfd for i in self.items):
            raise err(EBUSY, "it is an irqfd already")
        irqfd = IrqFd(self.vm, eventfd, args.gsi, resample)
        self.items.append(irqfd)
        self.vm.irqs.acks.append(irqfd.acked)
        eventfd.queue.hooks.append(irqfd.wakeup)
        if eventfd.count:
            kernel.sched.schedule_work(irqfd.inject, "irqfd_inject")

    def remove(self, irqfd: IrqFd) -> None:
        """C: ``void irqfd_shutdown(struct work_struct *)``; a second time does nothing."""
        if irqfd in self.items:
            self.items.remove(irqfd)
            self.vm.irqs.acks.remove(irqfd.acked)
            irqfd.eventfd.remove_wait_queue(irqfd.wakeup)
            if irqfd.resample is not None:
                self.vm.irqs.set_irq(irqfd.gsi, level=False)

    def release(self) -> None:
        """C: ``void kvm_irqfd_release(struct kvm *)``."""
        for irqfd in list(self.items):
            self.remove(irqfd)


@dataclass(frozen=True)
class IoEventFd:
    """``struct _ioeventfd``; *match* None takes any value."""

    pio: bool
    addr: int
    length: int
    match: int | None
    eventfd: EventFd

    def collides(self, other: IoEventFd) -> bool:
        """C: ``bool ioeventfd_check_collision(struct kvm *, struct _ioeventfd *)``."""
        if (self.pio, self.addr) != (other.pio, other.addr):
            return False
        if not self.length or not other.length:
            return True
        return self.length == other.length and (None in (self.match, other.match) or self.match == other.match)

    def takes(self, addr: int, length: int, value: int) -> bool:
        """C: ``bool ioeventfd_in_range(struct _ioeventfd *, gpa_t, int, const void *)``."""
        if addr != self.addr:
            return False
        return not self.length or (length == self.length and self.match in (None, value))


class IoEventFds:
    """The ioeventfds of *vm*."""

    def __init__(self, vm: Kvm) -> None:
        self.vm = vm
        self.items: list[IoEventFd] = []

    def set(self, args: k.kvm_ioeventfd) -> None:
        """
        C: ``int kvm_ioeventfd(struct kvm *, struct kvm_ioeventfd *)``.

        Raises:
            EINVAL: a length that is no word's, flags, a value to compare without length, no eventfd. EBADF. EEXIST:
                another one takes such stores. ENOENT: there is none to remove.
        """
        if args.flags & k.KVM_IOEVENTFD_FLAG_DEASSIGN:
            wanted = self._item(args)
            if wanted not in self.items:
                raise err(ENOENT)
            self.items.remove(wanted)
            return
        if args.len not in WORD_SIZES or args.addr + args.len >> 64:
            raise err(EINVAL, f"{args.len} bytes at {args.addr:#x}")
        if args.flags & ~k.KVM_IOEVENTFD_VALID_FLAG_MASK:
            raise err(EINVAL, f"flags {args.flags:#x}")
        if not args.len and args.flags & k.KVM_IOEVENTFD_FLAG_DATAMATCH:
            raise err(EINVAL, "a value to compare, and no length")
        made = self._item(args)
        if any(made.collides(item) for item in self.items):
            raise err(EEXIST)
        self.items.append(made)

    def _item(self, args: k.kvm_ioeventfd) -> IoEventFd:
        match = args.datamatch if args.flags & k.KVM_IOEVENTFD_FLAG_DATAMATCH else None
        eventfd = eventfd_ctx_fdget(self.vm.kernel, args.fd)
        return IoEventFd(bool(args.flags & k.KVM_IOEVENTFD_FLAG_PIO), args.addr, args.len, match, eventfd)

    def write(self, addr: int, length: int, value: int, *, pio: bool) -> bool:
        """The guest stores *value*; True: an eventfd took it. C: ``int ioeventfd_write(...)``."""
        for item in self.items:
            if item.pio is pio and item.takes(addr, length, value):
                item.eventfd.signal()
                return True
        return False
