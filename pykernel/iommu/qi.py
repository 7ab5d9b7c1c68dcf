"""
The invalidation queue of a VT-d unit (drivers/iommu/intel/dmar.c: qi_submit_sync() and who calls it; VT-d 6.5.2).

Descriptors lie in a ring in memory, of 16 bytes or, where scalable mode is, 32. A wait descriptor ends each batch: the
unit writes its status when all before it is done, and nobody goes on before.
"""

from __future__ import annotations

from errno import EINVAL
from typing import TYPE_CHECKING, Final

from pykernel.errors import Oops, err
from pykernel.iommu.vtdregs import (
    DMAR_FSTS_REG,
    DMAR_IQA_REG,
    DMAR_IQER_REG,
    DMAR_IQH_REG,
    DMAR_IQT_REG,
    FSTS_ICE,
    FSTS_IQE,
    FSTS_ITE,
    GCMD_QIE,
    GCMD_TE,
)
from pykernel.log import ERR, INFO, WARNING

if TYPE_CHECKING:
    from pykernel.iommu.intel import IntelIommu

__all__ = [
    "QI_RESP_FAILURE",
    "QI_RESP_INVALID",
    "QI_RESP_SUCCESS",
    "Desc",
    "QInval",
    "context_desc",
    "dev_iotlb_desc",
    "dev_iotlb_pasid_desc",
    "iotlb_desc",
    "page_group_response",
    "pasid_cache_desc",
    "piotlb_desc",
]

Desc = tuple[int, int, int, int]

QI_LENGTH: Final = 256
QI_CC, QI_IOTLB, QI_DIOTLB, QI_IWD, QI_EIOTLB, QI_PC, QI_DEIOTLB, QI_PGRP_RESP = 1, 2, 3, 5, 6, 7, 8, 9
IWD_STATUS_WRITE, IWD_FENCE, IWD_PRQ_DRAIN = 1 << 5, 1 << 6, 1 << 7
QI_FREE, QI_IN_USE, QI_DONE, QI_ABORT = 0, 1, 2, 3
CC_GLOBAL, CC_DOMAIN, CC_DEVICE = 1, 2, 3
IOTLB_GLOBAL, IOTLB_DSI, IOTLB_PSI = 1, 2, 3
PC_ALL_PASIDS, PC_PASID_SEL, PC_GLOBAL = 0, 1, 3
QI_RESP_SUCCESS, QI_RESP_INVALID, QI_RESP_FAILURE = 0, 1, 0xF
MAX_AGAW_PFN_WIDTH: Final = 64 - 12
PAGE_MASK: Final = (1 << 64) - 4096
TYPES: Final = {
    QI_CC: "Context-cache Invalidation",
    QI_IOTLB: "IOTLB Invalidation",
    QI_DIOTLB: "Device-TLB Invalidation",
    4: "Interrupt Entry Cache Invalidation",
    QI_IWD: "Invalidation Wait",
    QI_EIOTLB: "PASID-based IOTLB Invalidation",
    QI_PC: "PASID-cache Invalidation",
    QI_DEIOTLB: "PASID-based Device-TLB Invalidation",
    QI_PGRP_RESP: "Page Group Response",
}


# ---- descriptors: what does not fit into its field would be a part of another


def _too_large(*fields: int) -> Oops:
    return Oops(f"a field of an invalidation descriptor overflows: {', '.join(f'{f:#x}' for f in fields)}")


def context_desc(did: int, sid: int, granu: int) -> Desc:
    """Context-cache invalidation of requester *sid*. C: ``qi_flush_context()``."""
    if sid >> 16 or did >> 16 or granu >> 2:
        raise _too_large(sid, did, granu)
    return sid << 32 | did << 16 | granu << 4 | QI_CC, 0, 0, 0


def iotlb_desc(did: int, addr: int, order: int, granu: int, *, ih: bool = False) -> Desc:
    """IOTLB invalidation of ``1 << order`` pages at *addr*, with both drains. C: ``qi_desc_iotlb()``."""
    if did >> 16 or order >> 6 or granu >> 2:
        raise _too_large(did, order, granu)
    return did << 16 | 3 << 6 | granu << 4 | QI_IOTLB, addr & PAGE_MASK | ih << 6 | order, 0, 0


def piotlb_desc(did: int, pasid: int, addr: int, npages: int, *, ih: bool = False) -> Desc:
    """IOTLB invalidation within *pasid*; *npages* -1 is all of it. C: ``qi_desc_piotlb()``."""
    if pasid >> 20 or did >> 16 or npages > 1 << MAX_AGAW_PFN_WIDTH:
        raise _too_large(pasid, did, npages)
    head = pasid << 32 | did << 16 | QI_EIOTLB
    if npages == -1:
        return head | 2 << 4, 0, 0, 0
    order = (npages - 1).bit_length()
    return head | 3 << 4, addr & PAGE_MASK & -(4096 << order) | ih << 6 | order, 0, 0


def dev_iotlb_desc(sid: int, pfsid: int, qdep: int, addr: int, order: int) -> Desc:
    """Device-TLB invalidation of ``1 << order`` pages. C: ``qi_desc_dev_iotlb()``."""
    if sid >> 16 or pfsid >> 16 or order > MAX_AGAW_PFN_WIDTH:
        raise _too_large(sid, pfsid, order)
    head = sid << 32 | (qdep if qdep < 32 else 0) << 16 | _pfsid(pfsid) | QI_DIOTLB
    if order:
        return head, (addr | (1 << 12 + order - 1) - 1) & PAGE_MASK | 1, 0, 0
    return head, addr & PAGE_MASK, 0, 0


def dev_iotlb_pasid_desc(sid: int, pfsid: int, pasid: int, qdep: int, addr: int, order: int) -> Desc:
    """Device-TLB invalidation within *pasid*. C: ``qi_desc_dev_iotlb_pasid()``."""
    if pasid >> 20 or sid >> 16 or pfsid >> 16 or order > MAX_AGAW_PFN_WIDTH:
        raise _too_large(pasid, sid, pfsid, order)
    head = pasid << 32 | sid << 16 | _pfsid(pfsid) | (qdep & 0x1F) << 4 | QI_DEIOTLB
    where = addr & PAGE_MASK
    if order:
        where |= (1 << order + 12) - 4096
        where = where & ~(1 << 12 + order - 1) | 1 << 11
    return head, where, 0, 0


def pasid_cache_desc(did: int, granu: int, pasid: int) -> Desc:
    """PASID-cache invalidation. C: ``qi_flush_pasid_cache()``."""
    if pasid >> 20 or did >> 16 or granu >> 2:
        raise _too_large(pasid, did, granu)
    return pasid << 32 | did << 16 | granu << 4 | QI_PC, 0, 0, 0


def page_group_response(
    sid: int, pasid: int | None, index: int, code: int, *, last: bool, private: tuple[int, int] | None = None
) -> Desc:
    """The answer to group *index* of page requests. C: ``intel_svm_page_response()``."""
    if (pasid or 0) >> 20 or sid >> 16 or index >> 9 or code >> 4:
        raise _too_large(pasid or 0, sid, index, code)
    head = (pasid or 0) << 32 | sid << 16 | code << 12 | (private is not None) << 5 | (pasid is not None) << 4
    third, fourth = private or (0, 0)
    return head | QI_PGRP_RESP, index << 3 | last << 2, third, fourth


def _pfsid(pfsid: int) -> int:
    return (pfsid & 0xF) << 12 | (pfsid >> 4 & 0xFFF) << 52


# ---- the queue


class QInval:
    """``struct q_inval``: the ring, the words that the unit reports in, and where the next descriptor goes."""

    def __init__(self, unit: IntelIommu) -> None:
        self.unit = unit
        self.reg = unit.reg
        self.shift = 4 + unit.caps.smts
        self.pages = 1 << unit.caps.smts
        self.words = unit.phys.words
        self.desc = unit.phys.alloc_pages(self.pages)
        self.status_pa = unit.phys.alloc_page()
        self.status = unit.phys.ram[self.status_pa : self.status_pa + 4 * QI_LENGTH].cast("I")
        self.head = 0
        self._writing = False
        self.enable()

    def enable(self) -> None:
        """drivers/iommu/intel/dmar.c:__dmar_enable_qi(): DW and QS where descriptors have 256 bits."""
        self.head = 0
        self.reg.writel(DMAR_IQT_REG, 0)
        self.reg.writeq(DMAR_IQA_REG, self.desc | (1 << 11 | 1 if self.unit.caps.smts else 0))
        self.unit.command(GCMD_QIE, on=True)

    def free(self) -> None:
        """drivers/iommu/intel/dmar.c:dmar_disable_qi(), free_iommu()."""
        self.unit.command(GCMD_QIE, on=False)
        self.status.release()
        self.unit.phys.free_pages(self.status_pa)
        self.unit.phys.free_pages(self.desc, self.pages)

    def submit_sync(self, *descs: Desc, drain: bool = False) -> None:
        """
        Have the unit do *descs* and wait until it has; *drain*: page requests on their way too (QI_OPT_WAIT_DRAIN).

        C: ``int qi_submit_sync(struct intel_iommu *, struct qi_desc *, unsigned int, unsigned long)``

        Raises:
            EINVAL: the unit refused a descriptor.
        """
        index, count, status = self.head, len(descs), self.status
        wait = (index + count) % QI_LENGTH
        while True:
            for n, desc in enumerate(descs):
                self._put((index + n) % QI_LENGTH, desc)
            status[wait] = QI_IN_USE
            head = QI_DONE << 32 | IWD_STATUS_WRITE | QI_IWD | (IWD_PRQ_DRAIN if drain else 0)
            self._put(wait, (head, self.status_pa + 4 * wait, 0, 0))
            self.head = (wait + 1) % QI_LENGTH
            self._write_tail()
            if status[wait] == QI_DONE or self._wait(index, wait):
                return
            index, wait = self.head, (self.head + count) % QI_LENGTH

    def _write_tail(self) -> None:
        """
        Tell the unit: one processor at a time, as in Linux under ``q_lock``.

        In a guest the store is an exit, and what another processor told meanwhile must not be taken back.
        """
        if self._writing:
            return  # who is at it sees the new head
        self._writing, told = True, -1
        try:
            while told != self.head:
                told = self.head
                self.reg.writel(DMAR_IQT_REG, told << self.shift)
        finally:
            self._writing = False

    def _put(self, index: int, desc: Desc) -> None:
        words, at = self.words, self.desc + (index << self.shift) >> 3
        words[at], words[at + 1] = desc[0], desc[1]
        if self.shift == 5:
            words[at + 2], words[at + 3] = desc[2], desc[3]

    def _wait(self, index: int, wait: int) -> bool:
        """Until the batch is done (True) or was thrown away (False). Raises EINVAL."""
        while self.status[wait] not in (QI_DONE, QI_ABORT):
            self._check_fault(index, wait)
            if self.status[wait] == QI_IN_USE:
                self.unit.kernel.sched.idle_until(
                    lambda: (
                        self.status[wait] != QI_IN_USE
                        or bool(self.reg.readl(DMAR_FSTS_REG) & (FSTS_IQE | FSTS_ITE | FSTS_ICE))
                    ),
                    waits_for=self,
                )
        return self.status[wait] == QI_DONE

    def _check_fault(self, index: int, wait: int) -> None:
        """C: ``int qi_check_fault(struct intel_iommu *, int index, int wait_index)``. Raises EINVAL."""
        fault, printk = self.reg.readl(DMAR_FSTS_REG), self.unit.kernel.log.printk
        if fault & (FSTS_IQE | FSTS_ITE | FSTS_ICE):
            self._dump_fault(fault)
        if fault & FSTS_IQE and self.reg.readl(DMAR_IQH_REG) >> self.shift == index:
            words, size = self.words, 1 << self.shift - 3
            at, end = self.desc + (index << self.shift) >> 3, self.desc + (wait << self.shift) >> 3
            words[at : at + size] = words[end : end + size]
            self.reg.writel(DMAR_FSTS_REG, FSTS_IQE)
            printk(INFO, "DMAR: Invalidation Queue Error (IQE) cleared")
            raise err(EINVAL, "the unit refused a descriptor")
        if fault & FSTS_ITE:
            self.reg.writel(DMAR_FSTS_REG, FSTS_ITE)
            printk(INFO, "DMAR: Invalidation Time-out Error (ITE) cleared")
            if self.status[wait] == QI_IN_USE:
                self.status[wait] = QI_ABORT
        if fault & FSTS_ICE:
            self.reg.writel(DMAR_FSTS_REG, FSTS_ICE)
            printk(INFO, "DMAR: Invalidation Completion Error (ICE) cleared")

    def _dump_fault(self, fault: int) -> None:
        # drivers/iommu/intel/dmar.c:qi_dump_fault()
        printk, error = self.unit.kernel.log.printk, self.reg.readq(DMAR_IQER_REG)
        if fault & FSTS_IQE:
            printk(ERR, f"DMAR: VT-d detected Invalidation Queue Error: Reason {error & 0xF:x}")
        if fault & FSTS_ITE:
            printk(ERR, f"DMAR: VT-d detected Invalidation Time-out Error: SID {error >> 32 & 0xFFFF:x}")
        if fault & FSTS_ICE:
            printk(ERR, f"DMAR: VT-d detected Invalidation Completion Error: SID {error >> 48:x}")
        head = self.reg.readl(DMAR_IQH_REG) >> self.shift
        for name, index in (("HEAD", head), ("PRIOR", (head - 1) % QI_LENGTH)):
            at = self.desc + (index << self.shift) >> 3
            kind = TYPES.get(self.words[at] & 0xF, "UNKNOWN")
            printk(ERR, f"DMAR: QI {name}: {kind} qw0 = {self.words[at]:#x}, qw1 = {self.words[at + 1]:#x}")

    # ---- what is invalidated

    def flush_context(self, did: int, sid: int, granu: int) -> None:
        """C: ``iommu->flush.flush_context()``."""
        self.submit_sync(context_desc(did, sid, granu))

    def flush_iotlb(self, did: int, addr: int, order: int, granu: int, *, ih: bool = False) -> None:
        """C: ``iommu->flush.flush_iotlb()``."""
        self.submit_sync(iotlb_desc(did, addr, order, granu, ih=ih))

    def flush_piotlb(self, did: int, pasid: int, addr: int, npages: int, *, ih: bool = False) -> None:
        """C: ``void qi_flush_piotlb(...)``."""
        self.submit_sync(piotlb_desc(did, pasid, addr, npages, ih=ih))

    def flush_pasid_cache(self, did: int, granu: int, pasid: int) -> None:
        """C: ``void qi_flush_pasid_cache(...)``."""
        self.submit_sync(pasid_cache_desc(did, granu, pasid))

    def flush_dev_iotlb(self, sid: int, pfsid: int, qdep: int, addr: int, order: int) -> None:
        """C: ``void qi_flush_dev_iotlb(...)``: nothing while translation is off."""
        if self.unit.gcmd & GCMD_TE:
            self.submit_sync(dev_iotlb_desc(sid, pfsid, qdep, addr, order))

    def flush_dev_iotlb_pasid(self, sid: int, pfsid: int, pasid: int, qdep: int, addr: int, order: int) -> None:
        """C: ``void qi_flush_dev_iotlb_pasid(...)``: nothing while translation is off."""
        if not self.unit.gcmd & GCMD_TE:
            return
        if addr & (4096 << order) - 1:
            self.unit.kernel.log.printk(WARNING, f"DMAR: Invalidate non-aligned address {addr:x}, order {order}")
        self.submit_sync(dev_iotlb_pasid_desc(sid, pfsid, pasid, qdep, addr, order))
