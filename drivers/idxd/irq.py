"""
Interrupt threads: the device's own vector, the vectors of kernel queues, halts (drivers/dma/idxd/irq.c).
"""

from __future__ import annotations

from pykernel.drivers.idxd import device
from pykernel.drivers.idxd.config import idxd_device_config
from pykernel.drivers.idxd.idxd import (
    INVALID_INT_HANDLE,
    IOMMU_PASID_INVALID,
    IdxdDevice,
    IdxdState,
    IdxdWq,
    WqState,
    WqType,
)
from pykernel.drivers.idxd.perfmon import counter_overflow
from pykernel.drivers.idxd.registers import (
    IDXD_INTC_CMD,
    IDXD_INTC_ERR,
    IDXD_INTC_EVL,
    IDXD_INTC_HALT_STATE,
    IDXD_INTC_INT_HANDLE_REVOKED,
    IDXD_INTC_OCCUPY,
    IDXD_INTC_PERFMON_OVFL,
    IDXD_INTCAUSE_OFFSET,
    IDXD_SWERR_ACK,
    IDXD_SWERR_OFFSET,
    DeviceState,
    ResetType,
    SwErr0,
)
from pykernel.drivers.idxd.submit import IDXD_COMP_DESC_ABORT, Desc, complete_txd, portal_write
from pykernel.uapi.linux.idxd import DSA_COMP_INT_HANDLE_INVAL, DSA_COMP_STATUS_MASK, DSA_OPCODE_DRAIN, IDXD_OP_FLAG_RCI


def idxd_misc_thread(idxd: IdxdDevice) -> None:
    """Vector 0. C: ``irqreturn_t idxd_misc_thread(int vec, void *data)``."""
    while cause := idxd.reg_base.readl(IDXD_INTCAUSE_OFFSET):
        idxd.reg_base.writel(cause, IDXD_INTCAUSE_OFFSET)
        halted = _process_misc_interrupts(idxd, cause)
        if halted or not idxd.kernel.profile.idxd_misc_irq_loops:
            return


def _process_misc_interrupts(idxd: IdxdDevice, cause: int) -> bool:
    """Whether it halted: then its registers may say all ones for ever. C: ``int process_misc_interrupts(...)``."""
    if cause & IDXD_INTC_HALT_STATE:
        return _halt(idxd)
    if cause & IDXD_INTC_ERR:
        _software_error(idxd)
    if cause & IDXD_INTC_INT_HANDLE_REVOKED:
        idxd.queue_work(lambda: _int_handle_revoke(idxd))
    if cause & IDXD_INTC_CMD:
        idxd.cmd_done.complete()
    if cause & IDXD_INTC_PERFMON_OVFL:
        counter_overflow(idxd)
    known = IDXD_INTC_ERR | IDXD_INTC_INT_HANDLE_REVOKED | IDXD_INTC_CMD | IDXD_INTC_OCCUPY | IDXD_INTC_PERFMON_OVFL
    if idxd.kernel.profile.idxd_event_log:
        known |= IDXD_INTC_EVL
        if cause & IDXD_INTC_EVL and idxd.evl is not None:
            idxd.evl.process_entries()
    if cause & ~known:
        idxd.warn_once(idxd.pdev, "intcause", f"Unexpected interrupt cause bits set: {cause & ~known:#x}")
    return bool(cause & IDXD_INTC_ERR) and _halt(idxd)


def _software_error(idxd: IdxdDevice) -> None:
    """Keep SWERR, acknowledge it, wake who polls and print it."""
    regs = idxd.reg_base
    with idxd.dev_lock:
        idxd.sw_err = [regs.readq(IDXD_SWERR_OFFSET + 8 * i) for i in range(4)]
        regs.writeq(idxd.sw_err[0] & IDXD_SWERR_ACK, IDXD_SWERR_OFFSET)
        first = SwErr0(idxd.sw_err[0])
        wqs = [idxd.wqs[first.wq_idx]] if first.valid and first.wq_idx_valid else idxd.wqs
        for wq in wqs:
            if wq.wq_type in (WqType.USER, WqType.MDEV):
                wq.err_queue.wake_up()
            if wq.on_error is not None:
                wq.on_error(idxd.sw_err)
    limited = idxd.kernel.profile.idxd_swerr_ratelimited
    for i, q in enumerate(idxd.sw_err):
        if not limited or idxd.ratelimit("idxd_misc_thread"):
            idxd.pdev.warn(f"err[{i}]: {q:#018x}")


# ---- halt


def _halt(idxd: IdxdDevice) -> bool:
    """Whether it halted; what is done depends on the reset that the device says it needs."""
    gensts = device.gensts(idxd)
    if gensts.state != DeviceState.HALT:
        return False
    idxd.state = IdxdState.HALTED
    if gensts.reset_type == ResetType.SOFTWARE:
        idxd.queue_work(lambda: device_reinit(idxd))
        return True
    if gensts.reset_type == ResetType.FLR and idxd.kernel.profile.idxd_halt_flr:
        device.mask_error_interrupts(idxd)
        idxd.queue_work(lambda: idxd.module.flr(idxd))
        return True
    device.wqs_quiesce(idxd)
    device.wqs_unmap_portal(idxd)
    device.device_clear_state(idxd)
    need = "FLR" if gensts.reset_type == ResetType.FLR else "system reset"
    idxd.pdev.err(
        f"idxd halted, need {need}." if not idxd.kernel.profile.idxd_halt_flr else "idxd halted, need system reset"
    )
    return True


def device_reinit(idxd: IdxdDevice) -> None:
    """
    Reset, configure and enable again after a halt of type 0.

    A halted device takes no command, and the reset clears the configuration first, so this ends in `disabled`.
    """
    # drivers/dma/idxd/irq.c:idxd_device_reinit()
    device.device_reset(idxd)
    try:
        idxd_device_config(idxd)
        device.device_enable(idxd)
    except OSError:
        device.device_clear_state(idxd)
        return
    for wq in idxd.wqs:
        if not idxd.wq_enable_map >> wq.id & 1:
            continue
        try:
            device.wq_enable(wq)
        except OSError:
            idxd.wq_enable_map &= ~(1 << wq.id)
            idxd.pdev.warn(f"Unable to re-enable wq {wq.name}")


# ---- interrupt handles


def _int_handle_revoke(idxd: IdxdDevice) -> None:
    """The device took its interrupt handles back: ask for new ones, then drain. C: ``idxd_int_handle_revoke()``."""
    if not idxd.request_int_handles:
        idxd.pdev.warn("Unexpected int handle refresh interrupt.")
        return
    for i in range(1, idxd.irq_cnt):
        ie, wq = idxd.irq_entry(i), idxd.wqs[i - 1]
        if ie.int_handle == INVALID_INT_HANDLE:
            continue
        try:
            handle = device.request_int_handle(idxd, i)
        except OSError as e:
            idxd.pdev.warn(f"get int handle {i} failed: {-(e.errno or 0)}")
            ie.int_handle = INVALID_INT_HANDLE
            with wq.wq_lock:
                device.wq_quiesce(wq)
            _abort_invalid_int_handle_descs(wq)
            continue
        if ie.int_handle == handle:
            continue
        if wq.state != WqState.ENABLED or wq.wq_type != WqType.KERNEL:
            ie.int_handle = handle
            continue
        with wq.wq_lock:
            device.wq_quiesce(wq)
            ie.int_handle = handle
            wq.wq_active = True
        _int_handle_revoke_drain(wq)


def _int_handle_revoke_drain(wq: IdxdWq) -> None:
    # drivers/dma/idxd/irq.c:idxd_int_handle_revoke_drain()
    hw = bytearray(64)
    first = 1 << 31 | (wq.ie.pasid & 0xFFFFF if wq.ie.pasid != IOMMU_PASID_INVALID else 0)
    hw[0:4] = first.to_bytes(4, "little")
    hw[4:8] = (IDXD_OP_FLAG_RCI | DSA_OPCODE_DRAIN << 24).to_bytes(4, "little")
    hw[36:38] = (wq.ie.int_handle & 0xFFFF).to_bytes(2, "little")
    try:
        portal_write(wq, bytes(hw))
    except OSError:
        wq.idxd.pdev.warn(f"Failed to submit drain desc on wq {wq.id}")


def _abort_invalid_int_handle_descs(wq: IdxdWq) -> None:
    ie = wq.ie
    ie.work_list += ie.pending
    ie.pending = []
    aborted = [desc for desc in ie.work_list if desc.status == DSA_COMP_INT_HANDLE_INVAL]
    ie.work_list = [desc for desc in ie.work_list if desc not in aborted]
    for desc in aborted:
        complete_txd(desc, aborted=True)


# ---- completions of kernel queues


def idxd_wq_thread(wq: IdxdWq) -> None:
    """The vector of a kernel queue. C: ``irqreturn_t idxd_wq_thread(int irq, void *data)``."""
    ie = wq.ie
    waiting, ie.work_list = ie.work_list + ie.pending, []
    ie.pending = []
    for desc in waiting:
        if desc.status & DSA_COMP_STATUS_MASK:
            complete_txd(desc, aborted=desc.status == IDXD_COMP_DESC_ABORT)
        else:
            ie.work_list.append(desc)


def flush_pending_descs(wq: IdxdWq) -> None:
    """The queue goes: what is left is dropped, without its callbacks. C: ``idxd_flush_pending_descs()``."""
    ie = wq.ie
    left: list[Desc] = ie.work_list + ie.pending
    ie.work_list, ie.pending = [], []
    for desc in left:
        desc.txd.callback = None
        complete_txd(desc, aborted=not desc.status)
