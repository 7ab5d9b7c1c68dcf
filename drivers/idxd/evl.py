"""
The event log: a ring in memory where the device reports errors, and faults of completion records that the kernel serves
(drivers/dma/idxd/device.c:idxd_device_evl_setup(), irq.c:process_evl_entries(), cdev.c:idxd_copy_cr()).
"""

from __future__ import annotations

from typing import Any

from pykernel.drivers.idxd.idxd import IdxdDevice, IdxdWq
from pykernel.drivers.idxd.registers import (
    IDXD_EVL_SIZE_MIN,
    IDXD_EVLCFG_OFFSET,
    IDXD_EVLSTATUS_OFFSET,
    IDXD_GENCFG_OFFSET,
    IDXD_GENCTRL_OFFSET,
    IDXD_MAX_BATCH_IDENT,
    EvlEntry0,
    EvlEntry1,
    EvlStatus,
    GenCfg,
    GenCtrl,
)
from pykernel.iommu.dma import dma_alloc_coherent, dma_free_coherent
from pykernel.uapi.linux.idxd import (
    DSA_COMP_BATCH_EVL_ERR,
    DSA_COMP_BATCH_FAIL,
    DSA_COMP_CRA_XLAT,
    DSA_COMP_DRAIN_EVL,
    DSA_COMP_STATUS_MASK,
    DSA_COMP_SUCCESS,
)

SERVED = (DSA_COMP_CRA_XLAT, DSA_COMP_DRAIN_EVL, DSA_COMP_BATCH_EVL_ERR)


class EvlEntry:
    """One entry of the ring, as the silicon wrote it."""

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        self.q0 = EvlEntry0(int.from_bytes(raw[0:8], "little"))
        self.q1 = EvlEntry1(int.from_bytes(raw[8:16], "little"))
        self.fault_addr = int.from_bytes(raw[16:24], "little")


class EventLog:
    """``struct idxd_evl``; *size* in entries, *dma* the ring's bus address while it is set up."""

    def __init__(self, idxd: IdxdDevice) -> None:
        self.idxd = idxd
        self.size = IDXD_EVL_SIZE_MIN
        self.entry_size = 32 << idxd.hw.gen_cap.evl_support
        self.log: Any = None
        self.dma = 0
        self.skip: set[int] = set()
        self.batch_fail = [False] * IDXD_MAX_BATCH_IDENT

    def _enable(self, on: int) -> None:
        regs = self.idxd.reg_base
        genctrl = GenCtrl(regs.readl(IDXD_GENCTRL_OFFSET))
        genctrl.evl_int_en = on
        regs.writel(genctrl.bits, IDXD_GENCTRL_OFFSET)
        gencfg = GenCfg(regs.readl(IDXD_GENCFG_OFFSET))
        gencfg.evl_en = on
        regs.writel(gencfg.bits, IDXD_GENCFG_OFFSET)

    def setup(self) -> None:
        """C: ``int idxd_device_evl_setup(struct idxd_device *idxd)``. Raises ENOMEM."""
        regs = self.idxd.reg_base
        self.log = dma_alloc_coherent(self.idxd.pdev, self.size * self.entry_size)
        self.dma = self.log.addr
        self.skip.clear()
        regs.writeq(self.dma & ~0xFFF, IDXD_EVLCFG_OFFSET)
        regs.writeq(self.size, IDXD_EVLCFG_OFFSET + 8)
        self._enable(1)

    def free(self) -> None:
        """The size goes back to the smallest. C: ``void idxd_device_evl_free(struct idxd_device *idxd)``."""
        if self.log is None:
            return
        regs = self.idxd.reg_base
        self._enable(0)
        regs.writeq(0, IDXD_EVLCFG_OFFSET)
        regs.writeq(0, IDXD_EVLCFG_OFFSET + 8)
        dma_free_coherent(self.log)
        self.log = None
        self.dma = 0
        self.size = IDXD_EVL_SIZE_MIN

    # ---- reading the ring

    def _status(self) -> EvlStatus:
        return EvlStatus(self.idxd.reg_base.readq(IDXD_EVLSTATUS_OFFSET))

    def _entry(self, index: int) -> EvlEntry:
        return EvlEntry(self.log.read(index * self.entry_size, self.entry_size))

    def process_entries(self) -> None:
        """C: ``void process_evl_entries(struct idxd_device *idxd)``."""
        regs = self.idxd.reg_base
        pending = EvlStatus(0)
        pending.int_pending = 1
        regs.writel(pending.bits >> 32, IDXD_EVLSTATUS_OFFSET + 4)
        status = self._status()
        head = status.head
        while head != status.tail:
            self._process(self._entry(head), head)
            head = (head + 1) % self.size
        regs.writel(head, IDXD_EVLSTATUS_OFFSET)

    def _process(self, entry: EvlEntry, index: int) -> None:
        # drivers/dma/idxd/irq.c:process_evl_entry()
        if index in self.skip:
            self.skip.remove(index)
            return
        status = entry.q0.error & DSA_COMP_STATUS_MASK
        if status not in SERVED:
            if self.idxd.ratelimit("process_evl_entry"):
                operation, address = entry.q0.operation, entry.fault_addr
                self.idxd.pdev.warn(f"Device error {status:#x} operation: {operation:#x} fault addr: {address:#x}")
        elif entry.q1.rcr or status != DSA_COMP_DRAIN_EVL:
            self.idxd.queue_work(lambda: self._fault_work(entry, status))

    def drain_pasid(self, wq: IdxdWq, pasid: int) -> None:
        """Entries of a client that goes are not served any more. C: ``void idxd_cdev_evl_drain_pasid()``."""
        if self.log is None:
            return
        status = self._status()
        head = status.head
        while head != status.tail:
            entry = self._entry(head)
            if entry.q0.pasid == pasid and entry.q0.wq_idx == wq.id:
                self.skip.add(head)
            head = (head + 1) % self.size
        self.idxd.flush_work()

    # ---- faults of completion records

    def _fault_work(self, entry: EvlEntry, status: int) -> None:
        # drivers/dma/idxd/irq.c:idxd_evl_fault_work()
        data = self.idxd.data
        record = bytearray(entry.raw[data.evl_cr_off : data.evl_cr_off + data.compl_size])
        wq, batch, pasid = self.idxd.wqs[entry.q0.wq_idx], entry.q0.batch_id, entry.q0.pasid
        size = data.compl_size
        if status == DSA_COMP_CRA_XLAT and entry.q0.batch and entry.q1.first_err_in_batch:
            self.batch_fail[batch] = False
        if status == DSA_COMP_BATCH_EVL_ERR:
            size = size if entry.q1.rcr or self.batch_fail[batch] else 0
            self._fail_batch(record, batch)
        if status != DSA_COMP_DRAIN_EVL:
            self._count(wq, pasid, "cr_faults")
        if size == 0 or copy_cr(wq, pasid, entry.fault_addr, bytes(record[:size])) == size:
            return
        if status != DSA_COMP_DRAIN_EVL:
            self._count(wq, pasid, "cr_fault_failures")
        if status == DSA_COMP_CRA_XLAT and entry.q0.batch:
            self.batch_fail[batch] = True

    def _fail_batch(self, record: bytearray, batch: int) -> None:
        """A batch with a member whose record could not be written did not succeed."""
        if not self.batch_fail[batch]:
            return
        data = self.idxd.data
        if record[data.cr_status_off] == DSA_COMP_SUCCESS:
            record[data.cr_status_off] = DSA_COMP_BATCH_FAIL
        record[data.cr_result_off] = 1
        self.batch_fail[batch] = False

    @staticmethod
    def _count(wq: IdxdWq, pasid: int, counter: str) -> None:
        # drivers/dma/idxd/cdev.c:idxd_user_counter_increment()
        ctx = wq.upasid_xa.get(pasid)
        if ctx is not None:
            ctx.counters[counter] += 1


def copy_cr(wq: IdxdWq, pasid: int, addr: int, record: bytes) -> int:
    """
    Write a completion record for the device, the status byte last.

    C: ``int idxd_copy_cr(wq, ioasid_t pasid, unsigned long addr, void *cr, int len)``. Returns the bytes copied.
    """
    with wq.uc_lock:
        ctx = wq.upasid_xa.get(pasid)
        if ctx is None or ctx.mm is None:
            wq.idxd.pdev.warn("No user context")
            return 0
        try:
            ctx.mm.mem.write(addr + 1, record[1:])
            ctx.mm.mem.write(addr, record[:1])
        except OSError:
            return 0
        return len(record)
