"""
Capabilities whose registers do something when they are written (drivers/vfio/pci/vfio_pci_config.c).

A user's reset bits reset the function, its power state is set by the kernel, and MSI is switched on by an ioctl only.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from pykernel.pci.vpd import read_vpd, write_vpd
from pykernel.uapi.linux import pci_regs as r
from pykernel.uapi.linux.vfio import VFIO_PCI_MSI_IRQ_INDEX
from pykernel.vfio.pci.perms import default_read, default_write

if TYPE_CHECKING:
    from pykernel.vfio.pci.config import VirtConfig
    from pykernel.vfio.pci.perms import Perm

__all__ = ["af_write", "exp_write", "msi_read", "msi_write", "pm_write", "vpd_write"]

READRQ_MIN, READRQ_MAX = 128, 4096


def _try_reset(v: VirtConfig) -> None:
    # pci_try_reset_function(), whose result nobody looks at
    with suppress(OSError):
        v.pdev.try_reset_function()


def pm_write(v: VirtConfig, pos: int, count: int, perm: Perm, offset: int, value: int) -> None:
    """vfio_pm_config_write(): D0 to D3hot."""
    default_write(v, pos, count, perm, offset, value)
    if offset == r.PCI_PM_CTRL:
        with suppress(OSError):
            v.vdev.set_power_state(value & r.PCI_PM_CTRL_STATE_MASK)


def vpd_write(v: VirtConfig, pos: int, count: int, perm: Perm, offset: int, value: int) -> None:
    """vfio_vpd_config_write(): the flag of the address register starts a read or a write, and says when it is done."""
    default_write(v, pos, count, perm, offset, value)
    if offset > r.PCI_VPD_ADDR + 1 or offset + count <= r.PCI_VPD_ADDR + 1:
        return
    at, data = pos - offset + r.PCI_VPD_ADDR, pos - offset + r.PCI_VPD_DATA
    address = v.get(at, 2)
    try:
        if address & r.PCI_VPD_ADDR_F:
            write_vpd(v.pdev, address & ~r.PCI_VPD_ADDR_F, v.get(data, 4).to_bytes(4, "little"))
        else:
            v.put(data, 4, int.from_bytes(read_vpd(v.pdev, address, 4).ljust(4, b"\0"), "little"))
    except OSError:
        return
    v.put(at, 2, address ^ r.PCI_VPD_ADDR_F)


def exp_write(v: VirtConfig, pos: int, count: int, perm: Perm, offset: int, value: int) -> None:
    """vfio_exp_config_write(): function-level reset, and the size of read requests, not below that of payloads."""
    at = pos - offset + r.PCI_EXP_DEVCTL
    before = v.get(at, 2) & r.PCI_EXP_DEVCTL_READRQ
    default_write(v, pos, count, perm, offset, value)
    if v.get(at, 2) & r.PCI_EXP_DEVCTL_BCR_FLR:
        v.put(at, 2, v.get(at, 2) & ~r.PCI_EXP_DEVCTL_BCR_FLR)
        if v.hw_read(pos - offset + r.PCI_EXP_DEVCAP, 4) & r.PCI_EXP_DEVCAP_FLR:
            _try_reset(v)
    wanted = v.get(at, 2) & r.PCI_EXP_DEVCTL_READRQ
    if wanted != before:
        _set_readrq(v, at, max(128 << (wanted >> 12), 128 << ((v.hw_read(at, 2) & r.PCI_EXP_DEVCTL_PAYLOAD) >> 5)))


def _set_readrq(v: VirtConfig, at: int, size: int) -> None:
    # drivers/pci/pci.c:pcie_set_readrq(), whose EINVAL nobody looks at
    if READRQ_MIN <= size <= READRQ_MAX:
        field = (size.bit_length() - 8) << 12
        v.hw_write(at, 2, v.hw_read(at, 2) & ~r.PCI_EXP_DEVCTL_READRQ | field)


def af_write(v: VirtConfig, pos: int, count: int, perm: Perm, offset: int, value: int) -> None:
    """vfio_af_config_write(): function-level reset of a conventional function."""
    default_write(v, pos, count, perm, offset, value)
    at = pos - offset + r.PCI_AF_CTRL
    if v.get(at, 1) & r.PCI_AF_CTRL_FLR:
        v.put(at, 1, v.get(at, 1) & ~r.PCI_AF_CTRL_FLR)
        wanted = r.PCI_AF_CAP_FLR | r.PCI_AF_CAP_TP
        if v.hw_read(pos - offset + r.PCI_AF_CAP, 1) & wanted == wanted:
            _try_reset(v)


def _has_flags(offset: int, count: int) -> bool:
    return offset <= r.PCI_MSI_FLAGS <= offset + count


def msi_read(v: VirtConfig, pos: int, count: int, perm: Perm, offset: int) -> int:
    """
    vfio_msi_config_read().

    The C function means to put the number of vectors into the flags, and puts it into the ID's byte, which no read
    takes from the emulated space.
    """
    return default_read(v, pos, count, perm, offset)


def msi_write(v: VirtConfig, pos: int, count: int, perm: Perm, offset: int, value: int) -> None:
    """vfio_msi_config_write(): off unless the ioctl switched it on, and no more vectors than that took."""
    default_write(v, pos, count, perm, offset, value)
    if not _has_flags(offset, count):
        return
    at, vdev = v.find_cap_start(pos) + r.PCI_MSI_FLAGS, v.vdev
    flags = v.get(at, 2)
    if vdev.irqs.irq_type != VFIO_PCI_MSI_IRQ_INDEX:
        flags &= ~r.PCI_MSI_FLAGS_ENABLE
    if (flags & r.PCI_MSI_FLAGS_QSIZE) >> 4 > vdev.irqs.msi_qmax:
        flags = flags & ~r.PCI_MSI_FLAGS_QSIZE | vdev.irqs.msi_qmax << 4
    v.put(at, 2, flags)
    v.hw_write(at, 2, flags)
