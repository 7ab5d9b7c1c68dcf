"""
The hardware's side: commands, and the state of device and queues (drivers/dma/idxd/device.c, first half).

What writes the configuration tables is in :mod:`.config`, what drivers do when they bind in :mod:`.bind`.
"""

from __future__ import annotations

from errno import ENXIO, EOPNOTSUPP

from pykernel.drivers.idxd.config import set_pasid_locked
from pykernel.drivers.idxd.idxd import (
    IDXD_ENQCMDS_RETRIES,
    WQ_DEFAULT_MAX_BATCH,
    WQ_DEFAULT_MAX_XFER,
    IdxdDevice,
    IdxdState,
    IdxdWq,
    WqState,
    WqType,
)
from pykernel.drivers.idxd.registers import (
    CMD_INT_HANDLE_IMS,
    IDXD_CMD_OFFSET,
    IDXD_CMDSTS_ACTIVE,
    IDXD_CMDSTS_ERR_MASK,
    IDXD_CMDSTS_OFFSET,
    IDXD_CMDSTS_RES_SHIFT,
    IDXD_GENCFG_OFFSET,
    IDXD_GENCTRL_OFFSET,
    IDXD_GENSTATS_OFFSET,
    IDXD_PORTAL_SIZE,
    IDXD_WQ_BAR,
    WQCFG_PASID_IDX,
    Cmd,
    CmdSts,
    Command,
    DeviceState,
    GenCfg,
    GenCtrl,
    GenSts,
)
from pykernel.errors import err
from pykernel.fs.vfs import PAGE_SIZE

U32 = (1 << 32) - 1

# ---- interrupt control


def _set_error_interrupts(idxd: IdxdDevice, on: int) -> None:
    genctrl = GenCtrl(idxd.reg_base.readl(IDXD_GENCTRL_OFFSET))
    genctrl.softerr_int_en = on
    genctrl.halt_int_en = on
    idxd.reg_base.writel(genctrl.bits, IDXD_GENCTRL_OFFSET)


def unmask_error_interrupts(idxd: IdxdDevice) -> None:
    """C: ``void idxd_unmask_error_interrupts(struct idxd_device *idxd)``."""
    _set_error_interrupts(idxd, 1)


def mask_error_interrupts(idxd: IdxdDevice) -> None:
    """C: ``void idxd_mask_error_interrupts(struct idxd_device *idxd)``."""
    _set_error_interrupts(idxd, 0)


def set_user_intr(idxd: IdxdDevice, enable: int) -> None:
    """Interrupts for descriptors of user privilege. C: ``idxd_set_user_intr()``."""
    gencfg = GenCfg(idxd.reg_base.readl(IDXD_GENCFG_OFFSET))
    gencfg.user_int_en = enable
    idxd.reg_base.writel(gencfg.bits, IDXD_GENCFG_OFFSET)


# ---- commands


def gensts(idxd: IdxdDevice) -> GenSts:
    """The general status register."""
    return GenSts(idxd.reg_base.readl(IDXD_GENSTATS_OFFSET))


def is_halted(idxd: IdxdDevice) -> bool:
    """C: ``bool idxd_device_is_halted(struct idxd_device *idxd)``."""
    return gensts(idxd).state == DeviceState.HALT


def is_enabled(idxd: IdxdDevice) -> bool:
    """What the hardware says. C: ``bool idxd_is_enabled(struct idxd_device *idxd)``."""
    return gensts(idxd).state == DeviceState.ENABLED


def _poll_command(idxd: IdxdDevice, cmd: Command) -> int:
    """Issue a command without an interrupt and wait on CMDSTS."""
    sched = idxd.kernel.sched
    with idxd.cmd_lock:
        idxd.reg_base.writel(cmd.bits, IDXD_CMD_OFFSET)
        sched.idle_until(lambda: not idxd.reg_base.readl(IDXD_CMDSTS_OFFSET) & IDXD_CMDSTS_ACTIVE)
        return idxd.reg_base.readl(IDXD_CMDSTS_OFFSET)


def init_reset(idxd: IdxdDevice) -> None:
    """Reset at probe, polled. C: ``idxd_device_init_reset()``. Raises ENXIO: the device is halted."""
    if is_halted(idxd):
        idxd.pdev.warn("Device is HALTED!")
        raise err(ENXIO, "halted")
    cmd = Command(0)
    cmd.cmd = Cmd.RESET_DEVICE
    _poll_command(idxd, cmd)


def cmd_exec(idxd: IdxdDevice, code: Cmd, operand: int = 0) -> int:
    """
    Run a command and sleep until its interrupt; the whole CMDSTS, of which ``cmd_status`` keeps the error byte.

    A halted device gets no command, and neither does one that the driver left while a client had a queue open: Linux
    crashes there, which is not imitated. C: ``void idxd_cmd_exec(idxd, int cmd_code, u32 operand, u32 *status)``.
    """
    if idxd.removed:
        return CmdSts.HW_ERR
    if is_halted(idxd):
        idxd.pdev.warn("Device is HALTED!")
        return CmdSts.HW_ERR
    cmd = Command(0)
    cmd.cmd = code
    cmd.operand = operand
    cmd.int_req = 1
    with idxd.cmd_lock:
        idxd.cmd_waitq.wait_event_lock(lambda: not idxd.cmd_running, idxd.cmd_lock)
        idxd.cmd_status = 0
        idxd.cmd_running = True
        idxd.cmd_done.reinit()
        idxd.reg_base.writel(cmd.bits, IDXD_CMD_OFFSET)
    idxd.cmd_done.wait()
    stat = idxd.reg_base.readl(IDXD_CMDSTS_OFFSET)
    with idxd.cmd_lock:
        idxd.cmd_status = stat & 0xFF
        idxd.cmd_running = False
        idxd.cmd_waitq.wake_up()
    return stat


def wq_operand(wq: IdxdWq) -> int:
    """A queue as the commands that take many name it: a bit of a block of 16."""
    return 1 << wq.id % 16 | wq.id // 16 << 16


# ---- device


def device_enable(idxd: IdxdDevice) -> None:
    """C: ``int idxd_device_enable(struct idxd_device *idxd)``. Raises ENXIO."""
    if is_enabled(idxd):
        raise err(ENXIO, "the hardware is enabled already")
    status = cmd_exec(idxd, Cmd.ENABLE_DEVICE)
    if status not in (CmdSts.SUCCESS, CmdSts.ERR_DEV_ENABLED):
        raise err(ENXIO, f"enable device: {status:#x}")
    idxd.state = IdxdState.ENABLED


def device_disable(idxd: IdxdDevice) -> None:
    """C: ``int idxd_device_disable(struct idxd_device *idxd)``. Raises ENXIO."""
    if not is_enabled(idxd):
        return
    status = cmd_exec(idxd, Cmd.DISABLE_DEVICE)
    # the C tests for any bit of 0x31, not for the value
    if status != CmdSts.SUCCESS and not status & CmdSts.ERR_DIS_DEV_EN:
        raise err(ENXIO, f"disable device: {status:#x}")
    device_clear_state(idxd)


def device_reset(idxd: IdxdDevice) -> None:
    """C: ``void idxd_device_reset(struct idxd_device *idxd)``."""
    cmd_exec(idxd, Cmd.RESET_DEVICE)
    device_clear_state(idxd)
    with idxd.dev_lock:
        unmask_error_interrupts(idxd)


def device_drain_pasid(idxd: IdxdDevice, pasid: int) -> None:
    """C: ``void idxd_device_drain_pasid(struct idxd_device *idxd, int pasid)``."""
    cmd_exec(idxd, Cmd.DRAIN_PASID, pasid & 0xFFFFF)


def device_clear_state(idxd: IdxdDevice) -> None:
    """Forget the configuration (of configurable devices); the state is `disabled`. C: ``idxd_device_clear_state()``."""
    if idxd.configurable:
        for wq in idxd.wqs:
            with wq.wq_lock:
                wq_disable_cleanup(wq)
                wq.size = 0
                wq.group = None
    with idxd.dev_lock:
        if idxd.configurable:
            _clear_groups(idxd)
        idxd.state = IdxdState.DISABLED


def _clear_groups(idxd: IdxdDevice) -> None:
    """C: ``idxd_groups_clear_state()``, ``idxd_engines_clear_state()``."""
    for group in idxd.groups:
        group.grpcfg_wqs = [0, 0, 0, 0]
        group.grpcfg_engines = 0
        group.grpcfg_flags.bits = 0
        group.num_engines = 0
        group.num_wqs = 0
        group.use_rdbuf_limit = False
        group.rdbufs_reserved = 0
        group.set_defaults()
        group.desc_progress_limit = 0
        group.batch_progress_limit = 0
    for engine in idxd.engines:
        engine.group = None


def request_int_handle(idxd: IdxdDevice, index: int, *, ims: bool = False) -> int:
    """C: ``int idxd_device_request_int_handle()``. Raises EOPNOTSUPP, ENXIO."""
    if not idxd.hw.cmd_cap & 1 << Cmd.REQUEST_INT_HANDLE:
        raise err(EOPNOTSUPP)
    operand = index & 0xFFFF | (CMD_INT_HANDLE_IMS if ims else 0)
    status = cmd_exec(idxd, Cmd.REQUEST_INT_HANDLE, operand)
    if status & IDXD_CMDSTS_ERR_MASK != CmdSts.SUCCESS:
        raise err(ENXIO, f"request interrupt handle: {status:#x}")
    return status >> IDXD_CMDSTS_RES_SHIFT & 0xFFFF


def release_int_handle(idxd: IdxdDevice, handle: int, *, ims: bool = False) -> None:
    """Polled, not awaited. C: ``int idxd_device_release_int_handle(...)``. Raises EOPNOTSUPP, ENXIO."""
    if not idxd.hw.cmd_cap & 1 << Cmd.RELEASE_INT_HANDLE:
        raise err(EOPNOTSUPP)
    cmd = Command(0)
    cmd.cmd = Cmd.RELEASE_INT_HANDLE
    cmd.operand = handle & 0xFFFF | (CMD_INT_HANDLE_IMS if ims else 0)
    status = _poll_command(idxd, cmd)
    if status & IDXD_CMDSTS_ERR_MASK != CmdSts.SUCCESS:
        raise err(ENXIO, f"release interrupt handle: {status:#x}")


# ---- work queue


def wq_enable(wq: IdxdWq) -> None:
    """C: ``int idxd_wq_enable(struct idxd_wq *wq)``. Raises ENXIO."""
    if wq.state == WqState.ENABLED:
        return
    status = cmd_exec(wq.idxd, Cmd.ENABLE_WQ, wq.id)
    if status not in (CmdSts.SUCCESS, CmdSts.ERR_WQ_ENABLED):
        raise err(ENXIO, f"enable wq: {status:#x}")
    wq.state = WqState.ENABLED
    wq.idxd.wq_enable_map |= 1 << wq.id


def wq_disable(wq: IdxdWq, *, reset_config: bool) -> None:
    """C: ``int idxd_wq_disable(struct idxd_wq *wq, bool reset_config)``. Raises ENXIO."""
    if wq.state != WqState.ENABLED:
        return
    status = cmd_exec(wq.idxd, Cmd.DISABLE_WQ, wq_operand(wq))
    if status != CmdSts.SUCCESS:
        raise err(ENXIO, f"disable wq: {status:#x}")
    if reset_config:
        wq_disable_cleanup(wq)
    wq.idxd.wq_enable_map &= ~(1 << wq.id)
    wq.state = WqState.DISABLED


def wq_drain(wq: IdxdWq) -> None:
    """C: ``void idxd_wq_drain(struct idxd_wq *wq)``."""
    if wq.state == WqState.ENABLED:
        cmd_exec(wq.idxd, Cmd.DRAIN_WQ, wq_operand(wq))


def wq_reset(wq: IdxdWq) -> None:
    """C: ``void idxd_wq_reset(struct idxd_wq *wq)``."""
    if wq.state == WqState.ENABLED:
        cmd_exec(wq.idxd, Cmd.RESET_WQ, wq_operand(wq))
        wq_disable_cleanup(wq)


def wq_disable_cleanup(wq: IdxdWq) -> None:
    """What a disabled queue forgets; size, group and driver_name stay. C: ``idxd_wq_disable_cleanup()``."""
    wq.wq_lock.assert_held()
    wq.state = WqState.DISABLED
    wq.wqcfg.clear()
    wq.threshold = 0
    wq.priority = 0
    wq.enqcmds_retries = IDXD_ENQCMDS_RETRIES
    wq.dedicated = wq.block_on_fault = wq.ats_disable = wq.prs_disable = False
    wq.wq_name = ""
    wq.max_xfer_bytes = WQ_DEFAULT_MAX_XFER
    wq.set_max_batch_size(WQ_DEFAULT_MAX_BATCH)
    if wq.opcap_bmap is not None:
        wq.opcap_bmap = wq.idxd.opcap_bmap


def portal_offset(wq: IdxdWq) -> int:
    """Of the limited MSI-X portal in BAR 2. C: ``idxd_get_wq_portal_full_offset(id, IDXD_PORTAL_LIMITED)``."""
    return (wq.id * 4 + 1) * PAGE_SIZE


def wq_map_portal(wq: IdxdWq) -> None:
    """C: ``int idxd_wq_map_portal(struct idxd_wq *wq)``. Raises ENOMEM."""
    wq.portal = wq.idxd.pdev.iomap(IDXD_WQ_BAR, portal_offset(wq), IDXD_PORTAL_SIZE)


def wq_unmap_portal(wq: IdxdWq) -> None:
    """C: ``void idxd_wq_unmap_portal(struct idxd_wq *wq)``."""
    wq.portal = None
    wq.portal_offset = 0


def wq_set_pasid(wq: IdxdWq, pasid: int) -> None:
    """The queue is off while its PASID changes. C: ``int idxd_wq_set_pasid(struct idxd_wq *, int)``. Raises ENXIO."""
    wq_disable(wq, reset_config=False)
    set_pasid_locked(wq, pasid)
    wq_enable(wq)


def wq_disable_pasid(wq: IdxdWq) -> None:
    """C: ``int idxd_wq_disable_pasid(struct idxd_wq *wq)``. Raises ENXIO."""
    wq_disable(wq, reset_config=False)
    regs, at = wq.idxd.reg_base, wq.idxd.wqcfg_at(wq.id, WQCFG_PASID_IDX)
    with wq.idxd.dev_lock:
        regs.writel(regs.readl(at) & ~(0xFFFFF << 8 | 1 << 28), at)
    wq_enable(wq)


def wq_quiesce(wq: IdxdWq) -> None:
    """No more submissions; those that wait are told. C: ``void __idxd_wq_quiesce(struct idxd_wq *wq)``."""
    wq.wq_lock.assert_held()
    wq.wq_active = False
    wq.resurrect.wake_up()
    wq.wq_dead.wait_event(lambda: wq.submitters == 0)


def wqs_quiesce(idxd: IdxdDevice) -> None:
    """C: ``void idxd_wqs_quiesce(struct idxd_device *idxd)``."""
    for wq in idxd.wqs:
        if wq.state == WqState.ENABLED and wq.wq_type == WqType.KERNEL:
            with wq.wq_lock:
                wq_quiesce(wq)


def wqs_unmap_portal(idxd: IdxdDevice) -> None:
    """C: ``void idxd_wqs_unmap_portal(struct idxd_device *idxd)``."""
    for wq in idxd.wqs:
        if wq.portal is not None:
            wq_unmap_portal(wq)
