"""
The capabilities of PCI functions that an IOMMU makes use of: ATS, PRI and PASID (drivers/pci/ats.c).

ATS is a device's own cache of translations; by PRI it asks for pages that are not there; a PASID says whose addresses a
request has.
"""

from __future__ import annotations

from errno import EBUSY, EINVAL
from typing import TYPE_CHECKING

from pykernel.errors import err
from pykernel.uapi.linux import pci_regs as r

if TYPE_CHECKING:
    from pykernel.pci.dev import PciDev

__all__ = [
    "pci_ats_page_aligned",
    "pci_ats_queue_depth",
    "pci_ats_supported",
    "pci_disable_ats",
    "pci_disable_pasid",
    "pci_disable_pri",
    "pci_enable_ats",
    "pci_enable_pasid",
    "pci_enable_pri",
    "pci_max_pasids",
    "pci_pasid_features",
    "pci_prg_resp_pasid_required",
    "pci_pri_supported",
    "pci_reset_pri",
]


# ---- ATS


def pci_ats_supported(dev: PciDev) -> int:
    """Where the capability is, or 0. C: ``bool pci_ats_supported(struct pci_dev *)``."""
    return dev.find_ext_capability(r.PCI_EXT_CAP_ID_ATS)


def pci_enable_ats(dev: PciDev) -> None:
    """C: ``int pci_enable_ats(struct pci_dev *, int ps)``; the caller knows that it is off. Raises EINVAL: none."""
    at = pci_ats_supported(dev.physfn or dev)
    if not at:
        raise err(EINVAL, "no ATS")
    at = pci_ats_supported(dev) or at
    dev.write_config_word(at + r.PCI_ATS_CTRL, r.PCI_ATS_CTRL_ENABLE)


def pci_disable_ats(dev: PciDev) -> None:
    """C: ``void pci_disable_ats(struct pci_dev *)``."""
    _switch_off(dev, pci_ats_supported(dev), r.PCI_ATS_CTRL, r.PCI_ATS_CTRL_ENABLE)


def pci_ats_queue_depth(dev: PciDev) -> int:
    """Invalidations that may be on their way; 0 of the register is 32. C: ``int pci_ats_queue_depth(...)``."""
    at = pci_ats_supported(dev)
    return (dev.read_config_word(at + r.PCI_ATS_CAP) & 0x1F or 32) if at and not dev.is_virtfn else 0


def pci_ats_page_aligned(dev: PciDev) -> bool:
    """C: ``int pci_ats_page_aligned(struct pci_dev *)``."""
    at = pci_ats_supported(dev)
    return bool(at and dev.read_config_word(at + r.PCI_ATS_CAP) & 0x20)


# ---- PRI


def pci_pri_supported(dev: PciDev) -> int:
    """A virtual function shares that of its physical one. C: ``bool pci_pri_supported(struct pci_dev *)``."""
    return (dev.physfn or dev).find_ext_capability(r.PCI_EXT_CAP_ID_PRI)


def pci_enable_pri(dev: PciDev, requests: int) -> None:
    """C: ``int pci_enable_pri(struct pci_dev *, u32)``. Raises EINVAL: none; EBUSY: not yet stopped."""
    if dev.physfn is not None:
        if not _pri_enabled(dev.physfn):
            raise err(EINVAL, "PRI of the physical function is off")
        return
    at = pci_pri_supported(dev)
    if not at:
        raise err(EINVAL, "no PRI")
    if not dev.read_config_word(at + r.PCI_PRI_STATUS) & r.PCI_PRI_STATUS_STOPPED:
        raise err(EBUSY, "page requests have not stopped")
    most = dev.read_config_dword(at + r.PCI_PRI_MAX_REQ)
    dev.write_config_dword(at + r.PCI_PRI_ALLOC_REQ, min(most, requests))
    dev.write_config_word(at + r.PCI_PRI_CTRL, r.PCI_PRI_CTRL_ENABLE)


def pci_disable_pri(dev: PciDev) -> None:
    """C: ``void pci_disable_pri(struct pci_dev *)``."""
    if dev.physfn is None:
        _switch_off(dev, pci_pri_supported(dev), r.PCI_PRI_CTRL, r.PCI_PRI_CTRL_ENABLE)


def pci_reset_pri(dev: PciDev) -> None:
    """C: ``int pci_reset_pri(struct pci_dev *)``; the caller knows that it is off. Raises EINVAL: none."""
    if dev.physfn is not None:
        return
    at = pci_pri_supported(dev)
    if not at:
        raise err(EINVAL, "no PRI")
    dev.write_config_word(at + r.PCI_PRI_CTRL, r.PCI_PRI_CTRL_RESET)


def pci_prg_resp_pasid_required(dev: PciDev) -> bool:
    """Answers carry the PASID. C: ``int pci_prg_resp_pasid_required(struct pci_dev *)``."""
    physfn = dev.physfn or dev
    at = pci_pri_supported(physfn)
    return bool(at and physfn.read_config_word(at + r.PCI_PRI_STATUS) & r.PCI_PRI_STATUS_PASID)


def _pri_enabled(dev: PciDev) -> bool:
    at = pci_pri_supported(dev)
    return bool(at and dev.read_config_word(at + r.PCI_PRI_CTRL) & r.PCI_PRI_CTRL_ENABLE)


# ---- PASID


def _pasid_cap(dev: PciDev) -> int:
    return (dev.physfn or dev).find_ext_capability(r.PCI_EXT_CAP_ID_PASID)


def pci_enable_pasid(dev: PciDev, features: int) -> None:
    """
    C: ``int pci_enable_pasid(struct pci_dev *, int)``: needs end-to-end prefixes.

    Raises:
        EINVAL: none, or not with *features*.
    """
    if dev.physfn is not None:
        if not dev.physfn.read_config_word(_pasid_cap(dev) + r.PCI_PASID_CTRL) & r.PCI_PASID_CTRL_ENABLE:
            raise err(EINVAL, "PASIDs of the physical function are off")
        return
    at = _pasid_cap(dev)
    exp = dev.find_capability(r.PCI_CAP_ID_EXP)
    if not at or not exp or not dev.read_config_dword(exp + r.PCI_EXP_DEVCAP2) & r.PCI_EXP_DEVCAP2_EE_PREFIX:
        raise err(EINVAL, "no PASID")
    can = dev.read_config_word(at + r.PCI_PASID_CAP) & (r.PCI_PASID_CAP_EXEC | r.PCI_PASID_CAP_PRIV)
    if can & features != features:
        raise err(EINVAL, f"the device has no PASID features {features:#x}")
    dev.write_config_word(at + r.PCI_PASID_CTRL, r.PCI_PASID_CTRL_ENABLE | features)


def pci_disable_pasid(dev: PciDev) -> None:
    """C: ``void pci_disable_pasid(struct pci_dev *)``."""
    if dev.physfn is None:
        _switch_off(dev, _pasid_cap(dev), r.PCI_PASID_CTRL, r.PCI_PASID_CTRL_ENABLE)


def pci_pasid_features(dev: PciDev) -> int | None:
    """PCI_PASID_CAP_EXEC and _PRIV; None (C: -EINVAL) without the capability. C: ``int pci_pasid_features(...)``."""
    at = _pasid_cap(dev)
    if not at:
        return None
    return (dev.physfn or dev).read_config_word(at + r.PCI_PASID_CAP) & (r.PCI_PASID_CAP_EXEC | r.PCI_PASID_CAP_PRIV)


def pci_max_pasids(dev: PciDev) -> int:
    """How many PASIDs the device can have; 0 (C: -EINVAL): none. C: ``int pci_max_pasids(struct pci_dev *)``."""
    at = _pasid_cap(dev)
    return 1 << ((dev.physfn or dev).read_config_word(at + r.PCI_PASID_CAP) >> 8 & 0x1F) if at else 0


def _switch_off(dev: PciDev, at: int, off: int, bits: int) -> None:
    if at:
        dev.write_config_word(at + off, dev.read_config_word(at + off) & ~bits)
