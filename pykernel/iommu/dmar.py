"""Faults that a VT-d unit records, and how the kernel tells them (drivers/iommu/intel/dmar.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pykernel.iommu.vtdregs import DMAR_FSTS_REG, FRCD_F, FRCD_SIZE, FSTS_PFO, FSTS_PPF, FSTS_PRO
from pykernel.lib.ratelimit import RatelimitState
from pykernel.log import ERR, WARNING

if TYPE_CHECKING:
    from pykernel.iommu.intel import IntelIommu

__all__ = ["REASONS", "DmarFaults"]

# drivers/iommu/intel/dmar.c:dma_remap_fault_reasons, dma_remap_sm_fault_reasons
REASONS: Final = {
    0x00: "Software",
    0x01: "Present bit in root entry is clear",
    0x02: "Present bit in context entry is clear",
    0x03: "Invalid context entry",
    0x04: "Access beyond MGAW",
    0x05: "PTE Write access is not set",
    0x06: "PTE Read access is not set",
    0x07: "Next page table ptr is invalid",
    0x08: "Root table address invalid",
    0x09: "Context table ptr is invalid",
    0x0A: "non-zero reserved fields in RTP",
    0x0B: "non-zero reserved fields in CTP",
    0x0C: "non-zero reserved fields in PTE",
    0x0D: "PCE for translation request specifies blocking",
    0x30: "SM: Invalid Root Table Address",
    0x31: "SM: TTM 0 for request with PASID",
    0x32: "SM: TTM 0 for page group request",
    0x38: "SM: Error attempting to access Root Entry",
    0x39: "SM: Present bit in Root Entry is clear",
    0x3A: "SM: Non-zero reserved field set in Root Entry",
    0x40: "SM: Error attempting to access Context Entry",
    0x41: "SM: Present bit in Context Entry is clear",
    0x42: "SM: Non-zero reserved field set in the Context Entry",
    0x43: "SM: Invalid Context Entry",
    0x44: "SM: DTE field in Context Entry is clear",
    0x45: "SM: PASID Enable field in Context Entry is clear",
    0x46: "SM: PASID is larger than the max in Context Entry",
    0x47: "SM: PRE field in Context-Entry is clear",
    0x48: "SM: RID_PASID field error in Context-Entry",
    0x50: "SM: Error attempting to access the PASID Directory Entry",
    0x51: "SM: Present bit in Directory Entry is clear",
    0x52: "SM: Non-zero reserved field set in PASID Directory Entry",
    0x58: "SM: Error attempting to access PASID Table Entry",
    0x59: "SM: Present bit in PASID Table Entry is clear",
    0x5A: "SM: Non-zero reserved field set in PASID Table Entry",
    0x5B: "SM: Invalid Scalable-Mode PASID Table Entry",
    0x5C: "SM: ERE field is clear in PASID Table Entry",
    0x5D: "SM: SRE field is clear in PASID Table Entry",
    0x70: "SM: Error attempting to access first-level paging entry",
    0x71: "SM: Present bit in first-level paging entry is clear",
    0x72: "SM: Non-zero reserved field set in first-level paging entry",
    0x73: "SM: Error attempting to access FL-PML4 entry",
    0x74: "SM: First-level entry address beyond MGAW in Nested translation",
    0x75: "SM: Read permission error in FL-PML4 entry in Nested translation",
    0x76: "SM: Read permission error in first-level paging entry in Nested translation",
    0x77: "SM: Write permission error in first-level paging entry in Nested translation",
    0x78: "SM: Error attempting to access second-level paging entry",
    0x79: "SM: Read/Write permission error in second-level paging entry",
    0x7A: "SM: Non-zero reserved field set in second-level paging entry",
    0x7B: "SM: Invalid second-level page table pointer",
    0x7C: "SM: A/D bit update needed in second-level entry when set up in no snoop",
    0x80: "SM: Address in first-level translation is not canonical",
    0x81: "SM: U/S set 0 for first-level translation with user privilege",
    0x82: "SM: No execute permission for request with PASID and ER=1",
    0x83: "SM: Address beyond the DMA hardware max",
    0x84: "SM: Second-level entry address beyond the max",
    0x85: "SM: No write permission for Write/AtomicOp request",
    0x86: "SM: No read permission for Read/AtomicOp request",
    0x87: "SM: Invalid address-interrupt address",
    0x90: "SM: A/D bit update needed in first-level entry when set up in no snoop",
}


class DmarFaults:
    """
    The handler of a unit's fault interrupt.

    One limit counts all its messages, and the look for a next record too: of a burst three faults are told.
    """

    def __init__(self, unit: IntelIommu) -> None:
        self.unit = unit
        self.limit = RatelimitState(unit.kernel.sched.clock_ns, self._suppressed)
        self.irq = 0

    def _suppressed(self, n: int) -> None:
        self.unit.kernel.log.printk(WARNING, f"dmar_fault: {n} callbacks suppressed")

    def begin(self, irq: int) -> None:
        """What was recorded before is cleared. C: ``int __init enable_drhd_fault_handling(void)``."""
        self.irq = irq
        reg = self.unit.reg
        if reg.readl(DMAR_FSTS_REG):
            self.interrupt()
            reg.writel(DMAR_FSTS_REG, reg.readl(DMAR_FSTS_REG))

    def interrupt(self) -> None:
        """C: ``irqreturn_t dmar_fault(int irq, void *dev_id)``."""
        reg, caps, ratelimit = self.unit.reg, self.unit.caps, self.limit.ratelimit
        status = reg.readl(DMAR_FSTS_REG)
        if status and ratelimit():
            self.unit.kernel.log.printk(ERR, f"DMAR: DRHD: handling fault status reg {status:x}")
        if not status & FSTS_PPF:
            return
        index = status >> 8 & 0xFF
        while True:
            tell = ratelimit()
            at = caps.fro + index * FRCD_SIZE
            high = reg.readl(at + 12)
            if not high & FRCD_F:
                break
            if tell:
                self._do_one(high, reg.readl(at + 8), reg.readq(at))
            reg.writel(at + 12, FRCD_F)
            index = (index + 1) % caps.nfr
        reg.writel(DMAR_FSTS_REG, FSTS_PFO | FSTS_PPF | FSTS_PRO)

    def _do_one(self, high: int, low: int, addr: int) -> None:
        """C: ``static int dmar_fault_do_one(...)``; the arguments are the words of a fault record (VT-d 11.4.14)."""
        kind = "DMA Read" if high >> 30 & 1 else "DMA Write"
        who = f"PASID 0x{high >> 8 & 0xFFFFF:x}" if low >> 31 & 1 else "NO_PASID"
        source, reason = low & 0xFFFF, high & 0xFF
        device = f"{source >> 8:02x}:{source >> 3 & 31:02x}.{source & 7}"
        why = REASONS.get(reason, "Unknown")
        text = f"fault addr 0x{addr & -4096:x} [fault reason 0x{reason:02x}] {why}"
        self.unit.kernel.log.printk(ERR, f"DMAR: [{kind} {who}] Request device [{device}] {text}")
