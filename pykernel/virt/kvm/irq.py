"""
Interrupts of a virtual machine (arch/x86/kvm/irq_comm.c, virt/kvm/irqchip.c): routes, messages, and who gets them.

The local APICs have no registers here: a message goes to the processors that its address names, each of which takes it
between two instructions. Pins of the PICs and the IO APIC have the default routes, and what arrives at one is a message
to processor 0, whose data is the number of the line.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from errno import EINVAL, EPERM
from typing import TYPE_CHECKING, Final, NamedTuple

from pykernel.errors import err
from pykernel.uapi.linux import kvm as k

if TYPE_CHECKING:
    from pykernel.virt.kvm.vcpu import Vcpu
    from pykernel.virt.kvm.vm import Kvm

__all__ = ["KVM_MAX_IRQ_ROUTES", "Irqs", "Message"]

KVM_MAX_IRQ_ROUTES: Final = 4096
MSI_BASE: Final = 0xFEE00000
PIC_PINS: Final = 8
CHIPS: Final = {
    k.KVM_IRQCHIP_PIC_MASTER: PIC_PINS,
    k.KVM_IRQCHIP_PIC_SLAVE: PIC_PINS,
    k.KVM_IRQCHIP_IOAPIC: k.KVM_IOAPIC_NUM_PINS,
}


class Message(NamedTuple):
    """A message signaled interrupt."""

    address: int
    data: int


class Pin(NamedTuple):
    """An input of an interrupt controller."""

    chip: int
    pin: int


class Irqs:
    """
    The routes of *vm*.

    Attributes:
        routes: GSI -> what an interrupt there becomes.
        levels: GSI -> whether the line is high, as irqfds and KVM_IRQ_LINE set it.
        acks: called with a GSI when the guest has acknowledged it.
    """

    def __init__(self, vm: Kvm) -> None:
        self.vm = vm
        self.routes: dict[int, list[Message | Pin]] = {}
        self.levels: dict[int, bool] = {}
        self.acks: list[Callable[[int], None]] = []

    def set_default(self) -> None:
        """arch/x86/kvm/irq_comm.c:kvm_setup_default_irq_routing()."""
        self.routes = {
            gsi: [Pin(k.KVM_IRQCHIP_IOAPIC, gsi), *([Pin(gsi // PIC_PINS, gsi % PIC_PINS)] if gsi < 16 else [])]
            for gsi in range(k.KVM_IOAPIC_NUM_PINS)
        }

    def set_routing(self, entries: Sequence[k.kvm_irq_routing_entry]) -> None:
        """
        C: ``int kvm_set_irq_routing(struct kvm *, const struct kvm_irq_routing_entry *, unsigned, unsigned)``.

        Raises:
            EINVAL: a GSI of 4096 or more, flags, a type or a pin that there is not, a pin twice for one GSI, or a GSI
                that has a message and something else.
        """
        for entry in entries:
            if entry.gsi >= KVM_MAX_IRQ_ROUTES:
                raise err(EINVAL, f"GSI {entry.gsi}")
        routes: dict[int, list[Message | Pin]] = {}
        for entry in entries:
            allowed = k.KVM_MSI_VALID_DEVID if entry.type == k.KVM_IRQ_ROUTING_MSI else 0
            if entry.flags & ~allowed:
                raise err(EINVAL, f"flags {entry.flags:#x}")
            made = self._entry(entry)
            before = routes.setdefault(entry.gsi, [])
            # virt/kvm/irqchip.c:setup_routing_entry()
            if any(isinstance(b, Message) or isinstance(made, Message) or b.chip == made.chip for b in before):
                raise err(EINVAL, f"GSI {entry.gsi} has two routes of a kind")
            before.append(made)
        self.routes = routes

    @staticmethod
    def _entry(entry: k.kvm_irq_routing_entry) -> Message | Pin:
        # arch/x86/kvm/irq_comm.c:kvm_set_routing_entry()
        if entry.type == k.KVM_IRQ_ROUTING_MSI:
            msi = entry.u.msi
            return Message(msi.address_hi << 32 | msi.address_lo, msi.data)
        if entry.type != k.KVM_IRQ_ROUTING_IRQCHIP:
            raise err(EINVAL, f"type {entry.type}")
        chip = entry.u.irqchip
        if chip.pin >= CHIPS.get(chip.irqchip, 0):
            raise err(EINVAL, f"pin {chip.pin} of chip {chip.irqchip}")
        return Pin(chip.irqchip, chip.pin)

    def route(self, gsi: int) -> Message | None:
        """The message that *gsi* is; None: it is none."""
        found = self.routes.get(gsi, [])
        return found[0] if len(found) == 1 and isinstance(found[0], Message) else None

    def set_irq(self, gsi: int, *, level: bool) -> int:
        """
        A line changes. C: ``int kvm_set_irq(struct kvm *, int, u32, int, bool)``.

        Returns:
            How many processors got it; -1: no route.
        """
        found = self.routes.get(gsi, [])
        was, self.levels[gsi] = self.levels.get(gsi, False), level
        ret = -1
        for entry in found:
            if isinstance(entry, Message):
                got = self.deliver(entry) if level else 0
            elif entry.chip != k.KVM_IRQCHIP_IOAPIC and len(found) > 1:
                continue  # the PICs are masked: the guest has an IO APIC
            else:
                got = self.deliver(Message(MSI_BASE, gsi)) if level and not was else 0
            ret = got if ret < 0 else ret + max(got, 0)
        return ret

    def ack(self, gsi: int) -> None:
        """The guest has acknowledged a line. C: ``void kvm_notify_acked_irq(struct kvm *, unsigned, unsigned)``."""
        for hear in tuple(self.acks):
            hear(gsi)

    def _targets(self, address: int) -> list[Vcpu]:
        """Whom a message is for: its destination is in bits 19:12, bit 2 says that each bit of it is a processor."""
        dest = address >> 12 & 0xFF
        vcpus = self.vm.vcpus
        if address & 1 << 2:
            return [vcpu for vcpu in vcpus.values() if dest >> vcpu.vcpu_id & 1]
        if dest == 0xFF:
            return list(vcpus.values())
        found = vcpus.get(dest)
        return [] if found is None else [found]

    def deliver(self, message: Message) -> int:
        """C: ``int kvm_irq_delivery_to_apic(...)``: how many processors got it; -1: none."""
        targets = self._targets(message.address)
        for vcpu in targets:
            vcpu.messages.append(message)
        return len(targets) or -1

    def send_userspace_msi(self, msi: k.kvm_msi) -> int:
        """
        C: ``int kvm_send_userspace_msi(struct kvm *, struct kvm_msi *)``: how many processors got it.

        Raises:
            EINVAL: flags, or no interrupt controller in the kernel. EPERM: there is no such processor.
        """
        if not self.vm.irqchip or msi.flags & ~k.KVM_MSI_VALID_DEVID:
            raise err(EINVAL)
        got = self.deliver(Message(msi.address_hi << 32 | msi.address_lo, msi.data))
        if got < 0:
            raise err(EPERM, f"no processor has the APIC ID of {msi.address_lo:#x}")
        return got
