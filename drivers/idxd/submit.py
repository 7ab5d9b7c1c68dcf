"""
Kernel submissions: descriptors, their completion records in DMA memory, the portal (drivers/dma/idxd/submit.c).

The descriptors of a queue are allocated when its driver binds it: as many as the queue takes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from errno import EAGAIN, EIO, ENXIO
from typing import Any

from pykernel.drivers.idxd.idxd import DESC_SIZE, IdxdState, IdxdWq, WqType
from pykernel.drivers.idxd.registers import IDXD_PORTAL_SIZE
from pykernel.errors import err
from pykernel.iommu.dma import dma_alloc_coherent, dma_free_coherent
from pykernel.uapi.linux.idxd import DSA_COMP_SUCCESS, IDXD_OP_FLAG_RCI

IDXD_COMP_DESC_ABORT = 0xFF


@dataclass
class TxDescriptor:
    """``struct dma_async_tx_descriptor``: what a client of the DMA engine holds."""

    cookie: int = 0
    flags: int = 0
    callback: Callable[[str], None] | None = None


@dataclass(eq=False)
class Desc:
    """``struct idxd_desc``: a hardware descriptor, where its completion record goes, and its client."""

    wq: IdxdWq
    id: int
    compl_dma: int
    hw: bytearray = field(default_factory=lambda: bytearray(DESC_SIZE))
    txd: TxDescriptor = field(default_factory=TxDescriptor)

    @property
    def status(self) -> int:
        """First byte of the completion record."""
        return self.wq.compls.read(self._at, 1)[0]  # type: ignore[no-any-return]

    @status.setter
    def status(self, value: int) -> None:
        self.wq.compls.write(self._at, bytes([value]))

    @property
    def _at(self) -> int:
        return self.id * self.wq.idxd.data.compl_size

    def clear(self) -> None:
        """C: ``__get_desc()``: a fresh descriptor and a zero record."""
        idxd = self.wq.idxd
        self.hw[:] = bytes(DESC_SIZE)
        self.wq.compls.write(self._at, bytes(idxd.data.compl_size))
        if idxd.pasid_on:
            self.hw[0:4] = idxd.pasid.to_bytes(4, "little")


def alloc_resources(wq: IdxdWq) -> None:
    """C: ``int idxd_wq_alloc_resources(struct idxd_wq *wq)``. Raises ENOMEM."""
    if wq.wq_type != WqType.KERNEL:
        return
    idxd = wq.idxd
    wq.num_descs = wq.size if wq.dedicated else wq.threshold
    idxd.kernel.faults.alloc("idxd_wq_alloc_resources")
    wq.compls = dma_alloc_coherent(idxd.pdev, wq.num_descs * idxd.data.compl_size)
    wq.descs = [Desc(wq, i, wq.compls.addr + i * idxd.data.compl_size) for i in range(wq.num_descs)]
    wq.free_descs = list(wq.descs)


def free_resources(wq: IdxdWq) -> None:
    """C: ``void idxd_wq_free_resources(struct idxd_wq *wq)``."""
    if wq.wq_type != WqType.KERNEL:
        return
    wq.descs = []
    wq.free_descs = []
    dma_free_coherent(wq.compls)
    wq.compls = None
    wq.wq_type = WqType.NONE


def alloc_desc(wq: IdxdWq, *, block: bool) -> Desc:
    """
    A free descriptor; with *block*, waits for one.

    C: ``struct idxd_desc *idxd_alloc_desc(struct idxd_wq *, enum idxd_op_type)``.

    Raises:
        EIO: the device is not enabled.
        EAGAIN: none is free.
    """
    if wq.idxd.state != IdxdState.ENABLED:
        raise err(EIO, "the device is not enabled")
    if not wq.free_descs and not block:
        raise err(EAGAIN, "no descriptor is free")
    wq.desc_waiters.wait_event(lambda: bool(wq.free_descs))
    desc = wq.free_descs.pop(0)
    desc.clear()
    return desc


def free_desc(desc: Desc) -> None:
    """C: ``void idxd_free_desc(struct idxd_wq *, struct idxd_desc *)``."""
    desc.wq.free_descs.append(desc)
    desc.wq.desc_waiters.wake_up()


def enqcmds(wq: IdxdWq, offset: int, desc: bytes) -> None:
    """
    ENQCMDS with retries. C: ``int idxd_enqcmds(struct idxd_wq *, void __iomem *portal, const void *desc)``.

    Raises:
        EAGAIN: the queue did not take it, enqcmds_retries + 1 times.
    """
    portal: Any = wq.portal
    for _ in range(wq.enqcmds_retries + 1):
        if portal.enqcmds(offset, desc):
            return
        wq.kernel.sched.point()
    raise err(EAGAIN, "the shared queue is full")


def portal_write(wq: IdxdWq, desc: bytes) -> None:
    """One descriptor to the portal, as the queue's mode wants it. Raises EAGAIN."""
    if wq.portal is None:
        wq.kernel.bug(f"unable to handle kernel NULL pointer dereference: portal of {wq.name}")
        return
    offset = wq.portal_addr() % IDXD_PORTAL_SIZE
    if wq.dedicated:
        wq.portal.movdir64b(offset, desc)
    else:
        enqcmds(wq, offset, desc)


def submit_desc(desc: Desc) -> None:
    """
    Hand a descriptor to the device.

    C: ``int idxd_submit_desc(struct idxd_wq *, struct idxd_desc *)``.

    Raises:
        EIO: the device is not enabled.
        ENXIO: the queue is going.
        EAGAIN: the shared queue is full; the descriptor was aborted.
    """
    wq = desc.wq
    if wq.idxd.state != IdxdState.ENABLED:
        raise err(EIO, "the device is not enabled")
    if not wq.wq_active:
        raise err(ENXIO, "the queue was quiesced")
    wq.submitters += 1  # percpu_ref_tryget_live(&wq->wq_active)
    try:
        _submit(desc)
    finally:
        wq.submitters -= 1
        wq.wq_dead.wake_up()


def _submit(desc: Desc) -> None:
    wq = desc.wq
    if int.from_bytes(desc.hw[4:8], "little") & IDXD_OP_FLAG_RCI:
        desc.hw[36:38] = (wq.ie.int_handle & 0xFFFF).to_bytes(2, "little")
        wq.ie.pending.append(desc)
    try:
        portal_write(wq, bytes(desc.hw))
    except OSError:
        if desc in wq.ie.pending:
            # drivers/dma/idxd/submit.c:llist_abort_desc()
            wq.ie.pending.remove(desc)
            desc.status = IDXD_COMP_DESC_ABORT
        raise


def complete_txd(desc: Desc, *, aborted: bool) -> None:
    """
    Tell the client how its transfer ended, and free the descriptor. C: ``idxd_dma_complete_txd()``.

    The results are the DMA engine's: NOERROR, WRITE_FAILED, ABORTED.
    """
    status = desc.status
    if status == DSA_COMP_SUCCESS:
        result = "NOERROR"
    elif status and not aborted:
        result = "WRITE_FAILED"
    else:
        result = "ABORTED"
    tx = desc.txd
    callback, tx.callback = tx.callback, None
    if tx.cookie and callback is not None:
        callback(result)
    free_desc(desc)
