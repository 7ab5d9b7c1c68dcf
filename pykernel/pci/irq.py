"""
Interrupts as far as message-signalled ones go: vectors, handlers, /proc/interrupts (kernel/irq/,
arch/x86/kernel/apic/msi.c).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from errno import EBUSY, EINVAL, ENOSPC
from typing import TYPE_CHECKING

from pykernel.errors import err
from pykernel.fs.procfs import ProcFs

if TYPE_CHECKING:
    from pykernel.kernel import Kernel

__all__ = ["MSI_ADDRESS", "Irqs"]

MSI_ADDRESS = 0xFEE00000
FIRST_IRQ, LAST_IRQ = 24, 4096


@dataclass(slots=True)
class IrqDesc:
    """``struct irq_desc``."""

    irq: int
    chip: str
    handler: Callable[[], None] | None = None
    name: str = ""
    count: int = 0
    pending: bool = False


class Irqs:
    """The interrupts of one kernel. The data of an MSI is its irq number: one processor, no remapping."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.descs: dict[int, IrqDesc] = {}
        kernel.sub(ProcFs).create("interrupts", self.proc_interrupts)

    def alloc(self, chip: str) -> int:
        """The lowest free number. C: ``irq_domain_alloc_irqs()``. Raises ENOSPC."""
        for irq in range(FIRST_IRQ, LAST_IRQ):
            if irq not in self.descs:
                self.descs[irq] = IrqDesc(irq, chip)
                return irq
        raise err(ENOSPC)

    def free(self, irq: int) -> None:
        """C: ``irq_domain_free_irqs()``."""
        self.descs.pop(irq, None)

    def request(self, irq: int, thread_fn: Callable[[], None], name: str) -> None:
        """C: ``int request_threaded_irq(...)``. Raises EINVAL: no such irq; EBUSY: taken."""
        desc = self.descs.get(irq)
        if desc is None:
            raise err(EINVAL)
        if desc.handler is not None:
            raise err(EBUSY)
        desc.handler, desc.name = thread_fn, name

    def free_irq(self, irq: int) -> None:
        """C: ``const void *free_irq(unsigned int, void *)``."""
        desc = self.descs.get(irq)
        if desc is not None:
            desc.handler, desc.name = None, ""

    def raise_irq(self, irq: int) -> None:
        """A message arrived: wake the interrupt's thread, once until it ran."""
        desc = self.descs.get(irq)
        if desc is None or desc.handler is None:
            if self.kernel.trace:
                self.kernel.trace("spurious_irq", irq=irq)
            return
        desc.count += 1
        if self.kernel.trace:
            self.kernel.trace("irq", irq=irq, name=desc.name)
        if not desc.pending:
            desc.pending = True
            self.kernel.sched.call_soon(lambda: self._thread(desc))

    @staticmethod
    def _thread(desc: IrqDesc) -> None:
        desc.pending = False
        if desc.handler is not None:
            desc.handler()

    def proc_interrupts(self) -> str:
        """The text of /proc/interrupts; only requested interrupts are listed."""
        self.kernel.up()
        rows = [d for d in self.descs.values() if d.handler is not None]
        lines = [f"{d.irq:4d}: {d.count:10d}  {d.chip}  {d.name}\n" for d in sorted(rows, key=lambda d: d.irq)]
        return "            CPU0       \n" + "".join(lines)
