"""IOMMU_GET_HW_INFO: what the IOMMU before a device can (drivers/iommu/iommufd/device.c:iommufd_get_hw_info())."""

from __future__ import annotations

from errno import EOPNOTSUPP
from typing import TYPE_CHECKING, Any

from pykernel.errors import err
from pykernel.iommu.iommu import IOMMU_CAP_DIRTY_TRACKING, device_iommu_capable
from pykernel.iommu.sva import Iommu
from pykernel.iommu.user import hw_info
from pykernel.iommufd.device import IommufdDevice
from pykernel.mm.uaccess import copy_to_user
from pykernel.pci.dev import PciDev
from pykernel.uapi.linux.iommufd import (
    IOMMU_HW_CAP_DIRTY_TRACKING,
    IOMMU_HW_CAP_PCI_PASID_EXEC,
    IOMMU_HW_CAP_PCI_PASID_PRIV,
    iommu_hw_info,
)
from pykernel.uapi.linux.pci_regs import (
    PCI_EXT_CAP_ID_PASID,
    PCI_PASID_CAP,
    PCI_PASID_CAP_WIDTH,
    PCI_PASID_CTRL,
    PCI_PASID_CTRL_EXEC,
    PCI_PASID_CTRL_PRIV,
)

if TYPE_CHECKING:
    from pykernel.iommufd.ucmd import Ucmd

__all__ = ["get_hw_info"]


def get_hw_info(ucmd: Ucmd, cmd: iommu_hw_info) -> None:
    """
    IOMMU_GET_HW_INFO; ``data_len`` comes back as what there is.

    Raises:
        EOPNOTSUPP: a flag. ENOENT: no physical device has the number. EFAULT.
    """
    if cmd.flags or any(cmd.reserved):
        raise err(EOPNOTSUPP, f"flags {cmd.flags:#x}")
    with ucmd.ictx.get(cmd.dev_id, IommufdDevice) as idev:
        cmd.out_data_type, data = hw_info(idev.dev)
        copy_to_user(ucmd.kernel, cmd.data_uptr, data[: cmd.data_len].ljust(cmd.data_len, b"\0"))
        cmd.data_len = len(data)
        dirty = device_iommu_capable(idev.dev, IOMMU_CAP_DIRTY_TRACKING)
        cmd.out_capabilities = IOMMU_HW_CAP_DIRTY_TRACKING if dirty else 0
        cmd.out_max_pasid_log2, pasid = _pasid(idev.dev)
        cmd.out_capabilities |= pasid
        ucmd.respond(cmd)


def _pasid(dev: Any) -> tuple[int, int]:
    """Bits of a PASID, and what of PASIDs is on; nothing where they are off."""
    if not isinstance(dev, PciDev) or not dev.kernel.sub(Iommu).pasid_enabled(dev):
        return 0, 0
    at = dev.find_ext_capability(PCI_EXT_CAP_ID_PASID)
    width = (dev.read_config_word(at + PCI_PASID_CAP) & PCI_PASID_CAP_WIDTH) >> 8
    control = dev.read_config_word(at + PCI_PASID_CTRL)
    capabilities = IOMMU_HW_CAP_PCI_PASID_EXEC if control & PCI_PASID_CTRL_EXEC else 0
    capabilities |= IOMMU_HW_CAP_PCI_PASID_PRIV if control & PCI_PASID_CTRL_PRIV else 0
    return min(width, dev.kernel.sub(Iommu).pasid_bits), capabilities
