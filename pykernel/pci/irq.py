"""
Interrupts as far as PCI has them: vectors, actions, /proc/interrupts (kernel/irq/, arch/x86/kernel/apic/msi.c).

The data of a message is its irq number, unless it is one of several of MSI, whose address has the number of the first
in the format of interrupt remapping. Every interrupt goes to the first CPU.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from errno import EBUSY, EINVAL, ENOSPC
from typing import TYPE_CHECKING

from pykernel.errors import err
from pykernel.fs.procfs import ProcFs

if TYPE_CHECKING:
    from pykernel.kernel import Kernel

__all__ = ["MSI_ADDRESS", "IrqDesc", "Irqs", "message_irq", "remapped_address"]

MSI_ADDRESS = 0xFEE00000
FIRST_IRQ, LAST_IRQ = 24, 524_544 + 8_196  # NR_IRQS of CONFIG_MAXSMP, and what sparse irqs add to it
PREC = 4  # columns of an irq number: kernel/irq/proc.c:show_interrupts() counts the digits of nr_irqs


REMAPPABLE, SUBHANDLE_VALID = 0x10, 0x08


def remapped_address(irq: int) -> int:
    """The address of a message whose data counts from *irq*: Intel VT-d, 5.1.2.2."""
    return MSI_ADDRESS | (irq & 0x7FFF) << 5 | REMAPPABLE | SUBHANDLE_VALID | (irq >> 15 & 1) << 2


def message_irq(address: int, data: int) -> int:
    """Which irq a message means."""
    if not address & REMAPPABLE:
        return data
    return (address >> 5 & 0x7FFF | (address >> 2 & 1) << 15) + data


@dataclass(slots=True)
class IrqAction:
    """``struct irqaction``: a handler and whose it is; *hard* runs at once, else a thread does."""

    thread_fn: Callable[[], None]
    name: str
    dev_id: object
    shared: bool
    hard: bool = False


@dataclass(slots=True)
class IrqDesc:
    """
    ``struct irq_desc``. *set_mask* reaches the mask bit of the device's table; *flow* is "edge" or "fasteoi".

    Attributes:
        requester: whose messages mean it, where interrupts are remapped; None: nobody's do.
    """

    irq: int
    chip: str
    hwirq: int
    flow: str = "edge"
    set_mask: Callable[[bool], None] | None = None
    requester: object = None
    actions: list[IrqAction] = field(default_factory=list)
    asserted: set[object] = field(default_factory=set)
    count: int = 0
    pending: bool = False
    running: bool = False
    depth: int = 0
    resend: bool = False


class Irqs:
    """The interrupts of one kernel."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.descs: dict[int, IrqDesc] = {}
        machine = kernel.machine
        self.remapping = machine is not None and machine.iommu.enabled and machine.iommu.intr_remap
        self._lowest = FIRST_IRQ  # no number below is free
        kernel.sub(ProcFs).create("interrupts", self.proc_interrupts)

    def alloc(self, chip: str, hwirq: int) -> IrqDesc:
        """The lowest free number. C: ``irq_domain_alloc_irqs()``. Raises ENOSPC."""
        for irq in range(self._lowest, LAST_IRQ):
            if irq not in self.descs:
                self._lowest = irq + 1
                self.descs[irq] = IrqDesc(irq, chip, hwirq)
                return self.descs[irq]
        raise err(ENOSPC)

    def alloc_range(self, chip: str, hwirq: int, n: int) -> list[IrqDesc]:
        """*n* numbers in a row. C: ``irq_domain_alloc_irqs()``. Raises ENOSPC."""
        first = self._lowest
        while any(first + i in self.descs for i in range(n)):
            first += 1
        if first + n > LAST_IRQ:
            raise err(ENOSPC)
        for i in range(n):
            self.descs[first + i] = IrqDesc(first + i, chip, hwirq + i)
        while self._lowest in self.descs:
            self._lowest += 1
        return [self.descs[first + i] for i in range(n)]

    def legacy(self, irq: int) -> IrqDesc:
        """The I/O APIC's pin *irq*, made at first use."""
        return self.descs.setdefault(irq, IrqDesc(irq, f"{'IR-' * self.remapping}IO-APIC", irq, flow="fasteoi"))

    def free(self, irq: int) -> None:
        """C: ``irq_domain_free_irqs()``."""
        del self.descs[irq]
        self._lowest = max(FIRST_IRQ, min(self._lowest, irq))

    def request(
        self,
        irq: int,
        thread_fn: Callable[[], None],
        name: str,
        dev_id: object = None,
        *,
        shared: bool = False,
        hard: bool = False,
        no_autoen: bool = False,
    ) -> None:
        """
        C: ``int request_threaded_irq(...)``; *shared* is IRQF_SHARED. The first action unmasks the interrupt.

        *hard* is ``request_irq()``: the handler runs when the interrupt arrives. *no_autoen* is IRQF_NO_AUTOEN.

        Raises:
            EINVAL: no such irq. EBUSY: taken, and not shared by all. ENOMEM: by fault injection.
        """
        desc = self.descs.get(irq)
        if desc is None:
            raise err(EINVAL)
        if self.kernel.faults.active:
            self.kernel.faults.alloc(f"request_irq {name}")
        if desc.actions and not (shared and all(a.shared for a in desc.actions)):
            raise err(EBUSY, f"irq {irq} is taken by {desc.actions[0].name}")
        if not desc.actions:
            desc.depth, desc.resend = int(no_autoen), False
        desc.actions.append(action := IrqAction(thread_fn, name, dev_id, shared, hard))
        self.kernel.ledger.take("irq", action, lambda: f"interrupt {irq} ({name})", dev_id)
        if desc.set_mask is not None:
            desc.set_mask(False)
        if desc.asserted:
            self.raise_irq(irq)

    def free_irq(self, irq: int, dev_id: object = None) -> None:
        """C: ``const void *free_irq(unsigned int, void *)``: the last action masks the interrupt."""
        desc = self.descs.get(irq)
        if desc is None:
            return
        for action in [a for a in desc.actions if a.dev_id is dev_id]:
            desc.actions.remove(action)
            self.kernel.ledger.give("irq", action)
        if self.kernel.sched.exploring:
            self.kernel.sched.idle_until(lambda: not desc.running)  # kernel/irq/manage.c:synchronize_irq()
        if not desc.actions and desc.set_mask is not None:
            desc.set_mask(True)

    def disable_irq(self, irq: int) -> None:
        """What arrives from now on waits for :meth:`enable_irq`. C: ``void disable_irq_nosync(unsigned int)``."""
        self.descs[irq].depth += 1

    def enable_irq(self, irq: int) -> None:
        """C: ``void enable_irq(unsigned int)``."""
        desc = self.descs[irq]
        desc.depth -= 1
        if not desc.depth and (desc.asserted or desc.resend):
            desc.resend = False
            self.raise_irq(irq)

    def set_level(self, irq: int, source: object, *, asserted: bool) -> None:
        """A pin of a level-triggered line changed; the line is up while any of its sources is."""
        desc = self.descs[irq]
        if not asserted:
            desc.asserted.discard(source)
            return
        desc.asserted.add(source)
        self.raise_irq(irq)

    def message(self, address: int, data: int, requester: object) -> None:
        """
        A message of *requester*'s arrived. With remapping it means an entry of the table, which says whose it is.

        So whoever has a device writes into it what it likes, and no other device's interrupt comes (VT-d 5.1.3; the
        driver makes each entry for one requester: drivers/iommu/intel/irq_remapping.c:set_msi_sid()).
        """
        irq = message_irq(address, data)
        desc = self.descs.get(irq)
        if self.remapping and (desc is None or desc.requester is None or desc.requester is not requester):
            if self.kernel.trace:
                self.kernel.trace("irq_blocked", irq=irq, requester=getattr(requester, "name", ""))
            return
        self.raise_irq(irq)

    def raise_irq(self, irq: int) -> None:
        """An interrupt arrived: wake its thread, once until it ran."""
        desc = self.descs.get(irq)
        if desc is None or not desc.actions:
            if self.kernel.trace:
                self.kernel.trace("spurious_irq", irq=irq)
            return
        if desc.depth:
            desc.resend = not desc.asserted
            return
        desc.count += 1
        if self.kernel.trace:
            self.kernel.trace("irq", irq=irq, name=desc.actions[0].name)
        threaded = False
        for action in tuple(desc.actions):
            if action.hard:
                action.thread_fn()
            else:
                threaded = True
        if threaded and not desc.pending:
            desc.pending = True
            if not desc.running:
                self.kernel.sched.schedule_work(lambda: self._thread(desc), f"irq/{irq}")

    @staticmethod
    def _thread(desc: IrqDesc) -> None:
        """kernel/irq/manage.c:irq_thread(): one at a time; what arrives meanwhile is one more turn."""
        desc.running = True
        try:
            while desc.pending:
                desc.pending = False
                for action in tuple(desc.actions):
                    if not action.hard:
                        action.thread_fn()
        finally:
            desc.running = False

    def proc_interrupts(self) -> str:
        """kernel/irq/proc.c:show_interrupts(): those that have a handler or came once."""
        self.kernel.up()
        cpus = range(self.kernel.machine.cpus)
        lines = [" " * (PREC + 8) + "".join(f"CPU{n:<8}" for n in cpus)]
        for desc in sorted(self.descs.values(), key=lambda d: d.irq):
            if desc.actions or desc.count:
                counts = "".join(f"{0 if n else desc.count:10d} " for n in cpus)
                names = ", ".join(a.name for a in desc.actions)
                text = f"{desc.irq:{PREC}d}: {counts} {desc.chip:>8} {desc.hwirq:{PREC}d}-{desc.flow:<8}"
                lines.append(f"{text}  {names}" if names else text)
        return "".join(f"{line}\n" for line in lines)
