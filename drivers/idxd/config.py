"""
The configuration tables: written from what sysfs holds, or read from a device that cannot be configured.

The second half of drivers/dma/idxd/device.c: from idxd_group_config_write() to idxd_device_load_config().
"""

from __future__ import annotations

from errno import EINVAL, EOPNOTSUPP

from pykernel.drivers.idxd.idxd import WQ_DEFAULT_QUEUE_DEPTH, IdxdDevice, IdxdGroup, IdxdWq, WqType
from pykernel.drivers.idxd.registers import (
    GRPCFG_SIZE,
    GRPWQCFG_STRIDES,
    IDXD_GENCFG_OFFSET,
    WQCFG_OPCFG_IDX,
    WQCFG_PASID_IDX,
    GenCfg,
)
from pykernel.errors import err
from pykernel.uapi.linux.idxd import (
    IDXD_SCMD_WQ_NO_PRIV,
    IDXD_SCMD_WQ_NO_SWQ_SUPPORT,
    IDXD_SCMD_WQ_NONE_CONFIGURED,
)
from pykernel.uapi.linux.pci_regs import (
    PCI_EXT_CAP_ID_PASID,
    PCI_PASID_CTRL,
    PCI_PASID_CTRL_ENABLE,
    PCI_PASID_CTRL_PRIV,
    PCI_SUBSYSTEM_ID,
    PCI_SUBSYSTEM_VENDOR_ID,
)

U32 = (1 << 32) - 1
VDSA_SUBSYSTEM = (0x8086, 0x2010)


def set_pasid_locked(wq: IdxdWq, pasid: int) -> None:
    """C: ``void __idxd_wq_set_pasid_locked(struct idxd_wq *wq, int pasid)``."""
    regs, at = wq.idxd.reg_base, wq.idxd.wqcfg_at(wq.id, WQCFG_PASID_IDX)
    with wq.idxd.dev_lock:
        wq.wqcfg.bits[WQCFG_PASID_IDX] = regs.readl(at)
        wq.wqcfg.pasid_en = 1
        wq.wqcfg.pasid = pasid
        regs.writel(wq.wqcfg.bits[WQCFG_PASID_IDX], at)


def set_priv_locked(wq: IdxdWq, priv: int) -> None:
    """C: ``void __idxd_wq_set_priv_locked(struct idxd_wq *wq, int priv)``."""
    regs, at = wq.idxd.reg_base, wq.idxd.wqcfg_at(wq.id, WQCFG_PASID_IDX)
    with wq.idxd.dev_lock:
        wq.wqcfg.bits[WQCFG_PASID_IDX] = regs.readl(at)
        wq.wqcfg.priv = priv
        regs.writel(wq.wqcfg.bits[WQCFG_PASID_IDX], at)


def idxd_device_config(idxd: IdxdDevice) -> None:
    """
    Check the whole configuration and write it.

    C: ``int idxd_device_config(struct idxd_device *idxd)``. Raises EINVAL, EOPNOTSUPP; ``cmd_status`` may tell why.
    """
    _wqs_setup(idxd)
    _engines_setup(idxd)
    _group_flags_setup(idxd)
    for wq in idxd.wqs:
        _wq_config_write(wq)
    _groups_config_write(idxd)


def _wqs_setup(idxd: IdxdDevice) -> None:
    """Every queue with a group counts, bound or not: an idle one that fell back to shared and none refuses all."""
    # drivers/dma/idxd/device.c:idxd_wqs_setup()
    for group in idxd.groups:
        group.grpcfg_wqs = [0, 0, 0, 0]
    configured = 0
    for wq in idxd.wqs:
        if wq.group is None:
            continue
        if wq.shared and not wq.shared_supported():
            idxd.cmd_status = IDXD_SCMD_WQ_NO_SWQ_SUPPORT
            idxd.pdev.warn("No shared wq support but configured.")
            raise err(EINVAL, f"{wq.name} is shared")
        wq.group.grpcfg_wqs[wq.id // 64] |= 1 << wq.id % 64
        configured += 1
    if configured == 0:
        idxd.cmd_status = IDXD_SCMD_WQ_NONE_CONFIGURED
        raise err(EINVAL, "no work queue has a group")


def _engines_setup(idxd: IdxdDevice) -> None:
    # drivers/dma/idxd/device.c:idxd_engines_setup()
    for group in idxd.groups:
        group.grpcfg_engines = 0
    engines = 0
    for engine in idxd.engines:
        if engine.group is not None:
            engine.group.grpcfg_engines |= 1 << engine.id
            engines += 1
    if not engines:
        raise err(EINVAL, "no engine has a group")


def _group_flags_setup(idxd: IdxdDevice) -> None:
    """A traffic class that nobody set becomes 0 for A and 1 for B, and is shown so from then on."""
    # drivers/dma/idxd/device.c:idxd_group_flags_setup()
    for group in idxd.groups:
        flags = group.grpcfg_flags
        if group.tc_a == -1:
            group.tc_a = 0
        if group.tc_b == -1:
            group.tc_b = 1
        flags.tc_a = group.tc_a
        flags.tc_b = group.tc_b
        flags.use_rdbuf_limit = int(group.use_rdbuf_limit)
        flags.rdbufs_reserved = group.rdbufs_reserved
        if group.rdbufs_allowed or idxd.kernel.profile.idxd_rdbufs_allowed_max:
            flags.rdbufs_allowed = group.rdbufs_allowed
        else:
            flags.rdbufs_allowed = idxd.max_rdbufs
        flags.desc_progress_limit = group.desc_progress_limit
        flags.batch_progress_limit = group.batch_progress_limit


def _pasid_priv_enabled(idxd: IdxdDevice) -> bool:
    # drivers/dma/idxd/device.c:idxd_device_pasid_priv_enabled()
    cap = idxd.pdev.find_ext_capability(PCI_EXT_CAP_ID_PASID)
    control = idxd.pdev.read_config_word(cap + PCI_PASID_CTRL) if cap else 0
    return bool(control & PCI_PASID_CTRL_ENABLE and control & PCI_PASID_CTRL_PRIV)


def _wq_config_write(wq: IdxdWq) -> None:
    """Only queues with a group. Values that the hardware kept over a reset are or'ed in. Raises EOPNOTSUPP."""
    # drivers/dma/idxd/device.c:idxd_wq_config_write()
    idxd, cfg = wq.idxd, wq.wqcfg
    if wq.group is None:
        return
    regs, first = idxd.reg_base, idxd.wqcfg_at(wq.id, 0)
    for i in range(len(cfg.bits)):
        cfg.bits[i] |= regs.readl(first + 4 * i)
    if wq.size == 0 and wq.wq_type != WqType.NONE:
        wq.size = WQ_DEFAULT_QUEUE_DEPTH
    cfg.wq_size = wq.size
    cfg.wq_thresh = wq.threshold
    if wq.dedicated:
        cfg.mode = 1
    if wq.dedicated and cfg.pasid_en and not _pasid_priv_enabled(idxd) and wq.wq_type == WqType.KERNEL:
        idxd.cmd_status = IDXD_SCMD_WQ_NO_PRIV
        raise err(EOPNOTSUPP, "a dedicated kernel queue with a PASID needs privileged mode")
    cfg.priority = wq.priority
    if idxd.hw.gen_cap.block_on_fault and wq.block_on_fault and not wq.prs_disable:
        cfg.bof = 1
    if idxd.hw.wq_cap.wq_ats_support:
        cfg.wq_ats_disable = int(wq.ats_disable)
    if idxd.kernel.profile.idxd_prs_disable and idxd.hw.wq_cap.wq_prs_support:
        cfg.wq_prs_disable = int(wq.prs_disable)
    cfg.max_xfer_shift = wq.max_xfer_bytes.bit_length() - 1
    cfg.max_batch_shift = 0 if idxd.is_iax else wq.max_batch_size.bit_length() - 1
    if idxd.hw.wq_cap.op_config and wq.opcap_bmap is not None:
        for i in range(8):
            cfg.bits[WQCFG_OPCFG_IDX + i] = wq.opcap_bmap >> 32 * i & U32
    for i, value in enumerate(cfg.bits):
        regs.writel(value, first + 4 * i)


def _groups_config_write(idxd: IdxdDevice) -> None:
    # drivers/dma/idxd/device.c:idxd_groups_config_write()
    regs = idxd.reg_base
    if idxd.hw.gen_cap.config_en and idxd.rdbuf_limit:
        gencfg = GenCfg(regs.readl(IDXD_GENCFG_OFFSET))
        gencfg.rdbuf_limit = idxd.rdbuf_limit
        regs.writel(gencfg.bits, IDXD_GENCFG_OFFSET)
    for group in idxd.groups:
        at = _grpcfg(group)
        for i in range(GRPWQCFG_STRIDES):
            regs.writeq(group.grpcfg_wqs[i], at + 8 * i)
        regs.writeq(group.grpcfg_engines, at + 32)
        regs.writeq(group.grpcfg_flags.bits, at + 40)


def _grpcfg(group: IdxdGroup) -> int:
    """C: ``GRPWQCFG_OFFSET(idxd, n, 0)``."""
    return group.idxd.grpcfg_offset + group.id * GRPCFG_SIZE


# ---- devices that are not configurable


def idxd_device_load_config(idxd: IdxdDevice) -> None:
    """
    Take groups and queues as the hardware has them.

    C: ``int idxd_device_load_config(struct idxd_device *idxd)``. Raises EOPNOTSUPP: a queue is shared or has a PASID.
    """
    idxd.rdbuf_limit = GenCfg(idxd.reg_base.readl(IDXD_GENCFG_OFFSET)).rdbuf_limit
    for group in idxd.groups:
        _group_load_config(group)
    for wq in idxd.wqs:
        wq_load_config(wq)


def _group_load_config(group: IdxdGroup) -> None:
    # drivers/dma/idxd/device.c:idxd_group_load_config()
    idxd, at = group.idxd, _grpcfg(group)
    for i in range(GRPWQCFG_STRIDES):
        group.grpcfg_wqs[i] = idxd.reg_base.readq(at + 8 * i)
        if i * 64 >= idxd.max_wqs:
            break
        for wq in idxd.wqs[i * 64 : i * 64 + 64]:
            if group.grpcfg_wqs[i] >> wq.id % 64 & 1:
                wq.group = group
    group.grpcfg_engines = idxd.reg_base.readq(at + 32)
    for engine in idxd.engines[:64]:
        if group.grpcfg_engines >> engine.id & 1:
            engine.group = group
    group.grpcfg_flags.bits = idxd.reg_base.readq(at + 40)


def is_virtual(idxd: IdxdDevice) -> bool:
    """A mediated device of another kernel (its subsystem says so): its queue may be a shared one."""
    pdev = idxd.pdev
    subsystem = pdev.read_config_word(PCI_SUBSYSTEM_VENDOR_ID), pdev.read_config_word(PCI_SUBSYSTEM_ID)
    return subsystem == VDSA_SUBSYSTEM


def wq_load_config(wq: IdxdWq) -> None:
    """
    What the hardware says of a queue. C: ``int idxd_wq_load_config(struct idxd_wq *wq)``.

    The series for mediated devices has its driver take a shared queue, or one with a PASID, of those, which Linux as
    merged refuses of any device.

    Raises:
        EOPNOTSUPP: it is one of any other device.
    """
    idxd, cfg = wq.idxd, wq.wqcfg
    first = idxd.wqcfg_at(wq.id, 0)
    cfg.bits = [idxd.reg_base.readl(first + 4 * i) for i in range(len(cfg.bits))]
    wq.size = cfg.wq_size
    wq.threshold = cfg.wq_thresh
    if (cfg.mode == 0 or cfg.pasid_en) and not is_virtual(idxd):
        raise err(EOPNOTSUPP, f"{wq.name} is shared or has a PASID, and cannot be configured")
    wq.dedicated = bool(cfg.mode)
    wq.block_on_fault = bool(cfg.bof)
    wq.priority = cfg.priority
    wq.max_xfer_bytes = 1 << cfg.max_xfer_shift
    wq.set_max_batch_size(1 << cfg.max_batch_shift)
