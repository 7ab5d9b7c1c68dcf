"""
Driver ``dmaengine``: a kernel work queue is a channel of the DMA engine (drivers/dma/idxd/dma.c).
"""

from __future__ import annotations

from errno import ENODEV, ENXIO
from typing import TYPE_CHECKING

from pykernel.base.bus import Driver
from pykernel.drivers.idxd.bind import drv_disable_wq, drv_enable_wq
from pykernel.drivers.idxd.device import wq_quiesce
from pykernel.drivers.idxd.dmaengine import DMA_PREP_INTERRUPT, DmaChan, DmaDevice, DmaEngine
from pykernel.drivers.idxd.idxd import DevType, IdxdDevice, IdxdState, IdxdWq, WqState, WqType
from pykernel.drivers.idxd.registers import IDXD_OPCAP_MEMMOVE
from pykernel.drivers.idxd.submit import Desc, TxDescriptor, alloc_desc, free_desc, submit_desc
from pykernel.errors import err
from pykernel.uapi.linux.idxd import (
    DSA_OPCODE_MEMMOVE,
    DSA_OPCODE_NOOP,
    IDXD_OP_FLAG_CRAV,
    IDXD_OP_FLAG_RCI,
    IDXD_OP_FLAG_RCR,
    IDXD_SCMD_DMA_CHAN_ERR,
    IDXD_SCMD_WQ_NO_DRV_NAME,
)

if TYPE_CHECKING:
    from pykernel.kernel import Kernel


class IdxdDmaDevice(DmaDevice):
    """``struct idxd_dma_dev``."""

    def __init__(self, idxd: IdxdDevice, id: int) -> None:
        super().__init__(idxd.pdev, id)
        self.idxd = idxd
        self.cap_mask = {"DMA_INTERRUPT", "DMA_PRIVATE", "DMA_COMPLETION_NO_ORDER"}
        if idxd.hw.opcap[0] & IDXD_OPCAP_MEMMOVE:
            self.cap_mask.add("DMA_MEMCPY")


class IdxdDmaChan(DmaChan):
    """``struct idxd_dma_chan``: the channel of one kernel work queue."""

    def __init__(self, device: IdxdDmaDevice, wq: IdxdWq) -> None:
        super().__init__(device)
        self.wq = wq

    def alloc_chan_resources(self) -> None:
        """C: ``idxd_dma_alloc_chan_resources()``."""
        self.wq.client_get()

    def free_chan_resources(self) -> None:
        """C: ``idxd_dma_free_chan_resources()``."""
        self.wq.client_put()

    def prep_interrupt(self, flags: int) -> Desc | None:
        """C: ``idxd_dma_prep_interrupt()``."""
        return self._prep(DSA_OPCODE_NOOP, 0, 0, 0, flags)

    def prep_memcpy(self, dest: int, src: int, length: int, flags: int) -> Desc | None:
        """C: ``idxd_dma_submit_memcpy()``; None when the queue is off or *length* too large."""
        if length > self.wq.idxd.max_xfer_bytes:
            return None
        return self._prep(DSA_OPCODE_MEMMOVE, src, dest, length, flags)

    def _prep(self, opcode: int, addr1: int, addr2: int, length: int, flags: int) -> Desc | None:
        # drivers/dma/idxd/dma.c:idxd_prep_desc_common()
        if self.wq.state != WqState.ENABLED:
            return None
        try:
            desc = alloc_desc(self.wq, block=True)
        except OSError:
            return None
        op_flags = IDXD_OP_FLAG_CRAV | IDXD_OP_FLAG_RCR | (IDXD_OP_FLAG_RCI if flags & DMA_PREP_INTERRUPT else 0)
        desc.hw[4:8] = (op_flags | opcode << 24).to_bytes(4, "little")
        desc.hw[8:16] = desc.compl_dma.to_bytes(8, "little")
        desc.hw[16:24] = addr1.to_bytes(8, "little")
        desc.hw[24:32] = addr2.to_bytes(8, "little")
        desc.hw[32:36] = length.to_bytes(4, "little")
        if self.wq.kernel.profile.idxd_wq_priv:
            desc.hw[3] |= 0x80
        desc.txd = TxDescriptor(flags=flags)
        return desc

    def tx_submit(self, desc: Desc) -> int:
        """Returns the cookie. C: ``idxd_dma_tx_submit()``. Raises EIO, ENXIO, EAGAIN."""
        desc.txd.cookie = self.next_cookie()
        try:
            submit_desc(desc)
        except OSError:
            free_desc(desc)
            raise
        return desc.txd.cookie


class IdxdDma:
    """What the module keeps about the DMA engine."""

    def __init__(self, kernel: Kernel) -> None:
        self.engine = kernel.sub(DmaEngine)

    def register_device(self, idxd: IdxdDevice) -> None:
        """C: ``int idxd_register_dma_device(struct idxd_device *idxd)``. Raises ENOMEM."""
        idxd.kernel.faults.alloc("idxd_register_dma_device")
        idxd.idxd_dma = IdxdDmaDevice(idxd, self.engine.device_ids.alloc())

    def unregister_device(self, idxd: IdxdDevice) -> None:
        """C: ``void idxd_unregister_dma_device(struct idxd_device *idxd)``."""
        if idxd.idxd_dma is not None:
            self.engine.device_ids.free(idxd.idxd_dma.id)
        idxd.idxd_dma = None


class DmaengineDriver(Driver):
    """``idxd_dmaengine_drv``: takes any work queue and makes it a kernel queue."""

    types = (DevType.WQ,)

    def probe(self, wq: IdxdWq) -> None:
        """C: ``int idxd_dmaengine_drv_probe(struct idxd_dev *)``. Raises ENXIO for every refusal, ENODEV."""
        idxd = wq.idxd
        if idxd.state != IdxdState.ENABLED:
            raise err(ENXIO, "the device is not enabled")
        if not wq.driver_name_match(self.name):
            idxd.cmd_status = IDXD_SCMD_WQ_NO_DRV_NAME
            wq.wq_type = WqType.NONE
            raise err(ENODEV, f"driver_name is {wq.driver_name!r}")
        with wq.wq_lock:
            self._enable(wq)

    def _enable(self, wq: IdxdWq) -> None:
        idxd = wq.idxd
        wq.wq_type = WqType.KERNEL
        try:
            drv_enable_wq(wq)
        except OSError as e:
            wq.wq_type = WqType.NONE
            raise err(ENXIO, f"enable wq failed: {e}") from e
        try:
            self._register_channel(wq)
        except OSError:
            idxd.cmd_status = IDXD_SCMD_DMA_CHAN_ERR
            drv_disable_wq(wq)
            wq.wq_type = WqType.NONE
            raise
        idxd.cmd_status = 0

    def _register_channel(self, wq: IdxdWq) -> None:
        # drivers/dma/idxd/dma.c:idxd_register_dma_channel()
        assert wq.idxd.idxd_dma is not None
        wq.kernel.faults.alloc("idxd_register_dma_channel")
        chan = IdxdDmaChan(wq.idxd.idxd_dma, wq)
        chan.register()
        wq.idxd_chan = chan

    def remove(self, wq: IdxdWq) -> None:
        """C: ``void idxd_dmaengine_drv_remove(struct idxd_dev *)``."""
        with wq.wq_lock:
            wq_quiesce(wq)
            if wq.idxd_chan is not None:
                wq.idxd_chan.unregister()
                wq.idxd_chan = None
            drv_disable_wq(wq)
