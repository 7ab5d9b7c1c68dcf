"""Faults of VT-d and how the kernel tells them (drivers/iommu/intel/dmar.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pykernel.lib.ratelimit import RatelimitState
from pykernel.log import ERR, WARNING

if TYPE_CHECKING:
    from pykernel.kernel import Kernel

__all__ = ["REASONS", "DmarFaults"]

CONTEXT_NOT_PRESENT: Final = 0x02
BEYOND_MGAW: Final = 0x04
NO_WRITE: Final = 0x05
NO_READ: Final = 0x06
SM_PASID_NOT_PRESENT: Final = 0x59
SM_FL_NOT_PRESENT: Final = 0x71
SM_SL_PERMISSION: Final = 0x79
SM_NOT_CANONICAL: Final = 0x80
SM_SL_BEYOND: Final = 0x84
SM_NO_WRITE: Final = 0x85
SM_INTERRUPT_ADDRESS: Final = 0x87

# drivers/iommu/intel/dmar.c:dma_remap_fault_reasons, dma_remap_sm_fault_reasons: those that this IOMMU finds
REASONS: Final = {
    CONTEXT_NOT_PRESENT: "Present bit in context entry is clear",
    BEYOND_MGAW: "Access beyond MGAW",
    NO_WRITE: "PTE Write access is not set",
    NO_READ: "PTE Read access is not set",
    SM_PASID_NOT_PRESENT: "SM: Present bit in PASID Table Entry is clear",
    SM_FL_NOT_PRESENT: "SM: Present bit in first-level paging entry is clear",
    SM_SL_PERMISSION: "SM: Read/Write permission error in second-level paging entry",
    SM_NOT_CANONICAL: "SM: Address in first-level translation is not canonical",
    SM_SL_BEYOND: "SM: Second-level entry address beyond the max",
    SM_NO_WRITE: "SM: No write permission for Write/AtomicOp request",
    SM_INTERRUPT_ADDRESS: "SM: Invalid address-interrupt address",
}
DMA_FSTS_PPF: Final = 2


class DmarFaults:
    """
    The fault recording of one IOMMU: a register of one record, which the interrupt handler reads at once.

    One limit counts all its messages, and the look for a next record too: of a burst three faults are told.
    """

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.limit = RatelimitState(kernel.sched.clock_ns, self._suppressed)

    def _suppressed(self, n: int) -> None:
        self.kernel.log.printk(WARNING, f"dmar_fault: {n} callbacks suppressed")

    def report(self, source: int, addr: int, reason: int, *, write: bool, pasid: int | None = None) -> None:
        """C: ``irqreturn_t dmar_fault(int irq, void *dev_id)``, ``dmar_fault_do_one()``; *source* is bus and devfn."""
        printk, limit = self.kernel.log.printk, self.limit
        if limit.ratelimit():
            printk(ERR, f"DMAR: DRHD: handling fault status reg {DMA_FSTS_PPF:x}")
        if limit.ratelimit():
            kind = "DMA Write" if write else "DMA Read"
            who = "NO_PASID" if pasid is None else f"PASID 0x{pasid:x}"
            device = f"{source >> 8:02x}:{source >> 3 & 31:02x}.{source & 7}"
            text = f"fault addr 0x{addr & -4096:x} [fault reason 0x{reason:02x}] {REASONS[reason]}"
            printk(ERR, f"DMAR: [{kind} {who}] Request device [{device}] {text}")
        limit.ratelimit()
