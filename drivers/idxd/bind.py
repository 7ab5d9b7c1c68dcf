"""
Binding: a driver of the bus takes a device or a work queue, and lets it go (drivers/dma/idxd/device.c, end).
"""

from __future__ import annotations

from errno import EBUSY, ENXIO

from pykernel.base.dd import device_release_driver
from pykernel.drivers.idxd.config import (
    idxd_device_config,
    is_virtual,
    set_pasid_locked,
    set_priv_locked,
    wq_load_config,
)
from pykernel.drivers.idxd.device import (
    device_disable,
    device_enable,
    device_reset,
    release_int_handle,
    request_int_handle,
    set_user_intr,
    wq_disable,
    wq_drain,
    wq_enable,
    wq_map_portal,
    wq_reset,
    wq_unmap_portal,
)
from pykernel.drivers.idxd.idxd import (
    INVALID_INT_HANDLE,
    IOMMU_PASID_INVALID,
    IdxdDevice,
    IdxdState,
    IdxdWq,
    IrqEntry,
    WqState,
    WqType,
)
from pykernel.drivers.idxd.irq import flush_pending_descs, idxd_wq_thread
from pykernel.drivers.idxd.registers import MSIX_PERM_SIZE, MsixPerm
from pykernel.drivers.idxd.submit import alloc_resources, free_resources
from pykernel.errors import err
from pykernel.uapi.linux.idxd import (
    IDXD_SCMD_DEV_DMA_ERR,
    IDXD_SCMD_DEV_ENABLED,
    IDXD_SCMD_DEV_EVL_ERR,
    IDXD_SCMD_DEV_NOT_ENABLED,
    IDXD_SCMD_PERCPU_ERR,
    IDXD_SCMD_WQ_ENABLED,
    IDXD_SCMD_WQ_IRQ_ERR,
    IDXD_SCMD_WQ_NO_GRP,
    IDXD_SCMD_WQ_NO_NAME,
    IDXD_SCMD_WQ_NO_SVM,
    IDXD_SCMD_WQ_NO_THRESH,
    IDXD_SCMD_WQ_PORTAL_ERR,
    IDXD_SCMD_WQ_RES_ALLOC_ERR,
    idxd_scmd_stat,
)


def _perm_at(idxd: IdxdDevice, ie: IrqEntry) -> int:
    return idxd.msix_perm_offset + ie.id * MSIX_PERM_SIZE


def wq_request_irq(wq: IdxdWq) -> None:
    """Kernel queues have their own vector. C: ``int idxd_wq_request_irq(struct idxd_wq *wq)``. Raises EBUSY, ENXIO."""
    if wq.wq_type != WqType.KERNEL:
        return
    idxd, ie = wq.idxd, wq.ie
    ie.vector = idxd.pdev.irq_vector(ie.id)
    ie.pasid = idxd.pasid if idxd.pasid_on else IOMMU_PASID_INVALID
    if ie.pasid != IOMMU_PASID_INVALID:
        perm = MsixPerm(0)
        perm.pasid = ie.pasid
        perm.pasid_en = 1
        idxd.reg_base.writel(perm.bits, _perm_at(idxd, ie))
    try:
        idxd.pdev.request_irq(ie.vector, lambda: idxd_wq_thread(wq), "idxd-portal")
    except OSError:
        idxd.pdev.err(f"Failed to request irq {ie.vector}.")
        _clear_perm_entry(idxd, ie)
        raise
    try:
        ie.int_handle = request_int_handle(idxd, ie.id) if idxd.request_int_handles else ie.id
    except OSError:
        ie.int_handle = INVALID_INT_HANDLE
        idxd.pdev.free_irq(ie.vector)
        _clear_perm_entry(idxd, ie)
        raise


def _clear_perm_entry(idxd: IdxdDevice, ie: IrqEntry) -> None:
    idxd.reg_base.writel(0, _perm_at(idxd, ie))
    ie.pasid = IOMMU_PASID_INVALID


def wq_free_irq(wq: IdxdWq) -> None:
    """C: ``void idxd_wq_free_irq(struct idxd_wq *wq)``."""
    if wq.wq_type != WqType.KERNEL:
        return
    idxd, ie = wq.idxd, wq.ie
    idxd.pdev.free_irq(ie.vector)
    flush_pending_descs(wq)
    if idxd.request_int_handles:
        try:
            release_int_handle(idxd, ie.int_handle)
        except OSError as e:
            idxd.pdev.dbg(f"release int handle failed: {e}")
    _clear_perm_entry(idxd, ie)
    ie.vector = -1
    ie.int_handle = INVALID_INT_HANDLE


# ---- drivers


def _check_wq(wq: IdxdWq) -> None:
    """The checks that drv_enable_wq() begins with, in its order."""
    idxd = wq.idxd
    for failed, status, code in (
        (idxd.state != IdxdState.ENABLED, IDXD_SCMD_DEV_NOT_ENABLED, ENXIO),
        (wq.state != WqState.DISABLED, IDXD_SCMD_WQ_ENABLED, EBUSY),
        (wq.group is None, IDXD_SCMD_WQ_NO_GRP, ENXIO),
        (not wq.wq_name, IDXD_SCMD_WQ_NO_NAME, ENXIO),
        (wq.shared and not wq.shared_supported(), IDXD_SCMD_WQ_NO_SVM, ENXIO),
        (wq.shared and wq.threshold == 0, IDXD_SCMD_WQ_NO_THRESH, ENXIO),
    ):
        if failed:
            idxd.cmd_status = status
            raise err(code, status.name)


def drv_enable_wq(wq: IdxdWq) -> None:
    """
    Bring a queue up for its driver; ``cmd_status`` says why not.

    C: ``int drv_enable_wq(struct idxd_wq *wq)``. Raises ENXIO, EBUSY, EINVAL, EOPNOTSUPP, ENOMEM.
    """
    idxd = wq.idxd
    wq.wq_lock.assert_held()
    _check_wq(wq)
    if idxd.configurable:
        if wq.pasid_enabled() and (wq.wq_type == WqType.KERNEL or wq.shared):
            set_pasid_locked(wq, idxd.pasid if wq.dedicated else 0)
        if idxd.kernel.profile.idxd_wq_priv:
            set_priv_locked(wq, int(wq.wq_type == WqType.KERNEL))
        with idxd.dev_lock:
            idxd_device_config(idxd)
    wq_enable(wq)
    status = IDXD_SCMD_WQ_PORTAL_ERR
    try:
        wq_map_portal(wq)
        wq.client_count = 0
        status = IDXD_SCMD_WQ_IRQ_ERR
        wq_request_irq(wq)
        status = IDXD_SCMD_WQ_RES_ALLOC_ERR
        alloc_resources(wq)
        status = IDXD_SCMD_PERCPU_ERR
        idxd.kernel.faults.alloc("percpu_ref_init")
    except OSError:
        _undo_enable_wq(wq, status)
        raise
    wq.wq_active = True


def _undo_enable_wq(wq: IdxdWq, status: idxd_scmd_stat) -> None:
    """The error path of drv_enable_wq(): what was done before *status* could happen is undone, the last first."""
    if status == IDXD_SCMD_PERCPU_ERR:
        free_resources(wq)
    if status in (IDXD_SCMD_PERCPU_ERR, IDXD_SCMD_WQ_RES_ALLOC_ERR):
        wq_free_irq(wq)
    if status != IDXD_SCMD_WQ_PORTAL_ERR:
        wq_unmap_portal(wq)
    try:
        wq_disable(wq, reset_config=False)
    except OSError as e:
        wq.idxd.pdev.dbg(f"wq {wq.name} disable failed: {e}")
    wq.idxd.cmd_status = status


def drv_disable_wq(wq: IdxdWq) -> None:
    """Open files are no reason to refuse, only to warn. C: ``void drv_disable_wq(struct idxd_wq *wq)``."""
    wq.wq_lock.assert_held()
    if wq.client_count:
        wq.idxd.pdev.warn(f"Clients has claim on wq {wq.id}: {wq.client_count}")
    wq_unmap_portal(wq)
    wq_drain(wq)
    wq_free_irq(wq)
    wq_reset(wq)
    free_resources(wq)
    wq.wq_active = False
    wq.client_count = 0
    if not wq.idxd.configurable and is_virtual(wq.idxd):
        wq_load_config(wq)  # nobody could write it again


def device_drv_probe(idxd: IdxdDevice) -> None:
    """
    Driver ``idxd`` binds a device. C: ``int idxd_device_drv_probe(struct idxd_dev *idxd_dev)``.

    Raises:
        ENXIO: the state, the configuration or the hardware says no; ``cmd_status`` may tell which.
    """
    if idxd.state != IdxdState.DISABLED:
        idxd.cmd_status = IDXD_SCMD_DEV_ENABLED
        raise err(ENXIO, f"state {idxd.state.name}")
    if idxd.configurable:
        try:
            with idxd.dev_lock:
                idxd_device_config(idxd)
        except OSError as e:
            raise err(ENXIO, f"configuration refused: {e}") from e
    # what a guest submits, its kernel's too, has a PASID of the host and no privilege there
    if idxd.pasid != IOMMU_PASID_INVALID or any(wq.wq_type == WqType.MDEV for wq in idxd.wqs):
        set_user_intr(idxd, 1)
    if idxd.evl is not None:
        try:
            idxd.evl.setup()
        except OSError:
            idxd.cmd_status = IDXD_SCMD_DEV_EVL_ERR
            raise
    try:
        device_enable(idxd)
    except OSError:
        if idxd.evl is not None:
            idxd.evl.free()
        raise
    try:
        idxd.module.dma.register_device(idxd)
    except OSError:
        device_disable(idxd)
        if idxd.evl is not None:
            idxd.evl.free()
        idxd.cmd_status = IDXD_SCMD_DEV_DMA_ERR
        raise
    idxd.cmd_status = 0


def device_drv_remove(idxd: IdxdDevice) -> None:
    """Driver ``idxd`` lets a device go; queues that are on go first. C: ``idxd_device_drv_remove()``."""
    for wq in idxd.wqs:
        if wq.state == WqState.DISABLED:
            continue
        idxd.warn(f"Active wq {wq.id} on disable {wq.name}.")
        device_release_driver(wq)
    idxd.module.dma.unregister_device(idxd)
    try:
        device_disable(idxd)
    except OSError as e:
        idxd.pdev.dbg(f"disable failed: {e}")
    if idxd.configurable:
        device_reset(idxd)
    if idxd.evl is not None:
        idxd.evl.free()
