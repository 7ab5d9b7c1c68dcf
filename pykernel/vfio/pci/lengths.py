"""How long a capability is (drivers/vfio/pci/vfio_pci_config.c:vfio_cap_len(), vfio_ext_cap_len())."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pykernel.uapi.linux import pci_regs as r

if TYPE_CHECKING:
    from pykernel.pci.dev import PciDev

__all__ = ["cap_length", "ext_cap_length", "msi_length"]

RC_END_V1, RC_END_V2 = 0xC, 0x2C  # of a root complex integrated endpoint, which has no link


def msi_length(flags: int) -> int:
    """vfio_msi_cap_len(): 10, 14, 20 or 24."""
    wide, maskable = flags & r.PCI_MSI_FLAGS_64BIT, flags & r.PCI_MSI_FLAGS_MASKBIT
    return 10 + (4 if wide else 0) + (10 if maskable else 0)


def _exp(dev: PciDev, pos: int) -> int:
    flags = dev.read_config_word(pos + r.PCI_EXP_FLAGS)
    integrated = (flags & r.PCI_EXP_FLAGS_TYPE) >> 4 == r.PCI_EXP_TYPE_RC_END
    if flags & r.PCI_EXP_FLAGS_VERS == 1:
        return RC_END_V1 if integrated else r.PCI_CAP_EXP_ENDPOINT_SIZEOF_V1
    return RC_END_V2 if integrated else dev.kernel.profile.vfio_pci_exp_v2_size


def _sata(dev: PciDev, pos: int) -> int:
    inline = dev.read_config_byte(pos + r.PCI_SATA_REGS) & r.PCI_SATA_REGS_MASK == r.PCI_SATA_REGS_INLINE
    return r.PCI_SATA_SIZEOF_LONG if inline else r.PCI_SATA_SIZEOF_SHORT


def cap_length(dev: PciDev, cap: int, pos: int) -> int:
    """Bytes of one whose length differs."""
    if cap == r.PCI_CAP_ID_MSI:
        return msi_length(dev.read_config_word(pos + r.PCI_MSI_FLAGS))
    if cap == r.PCI_CAP_ID_PCIX:
        version = dev.read_config_word(pos + r.PCI_X_CMD) >> 12 & 3
        return r.PCI_CAP_PCIX_SIZEOF_V2 if version else r.PCI_CAP_PCIX_SIZEOF_V0
    if cap == r.PCI_CAP_ID_VNDR:
        return dev.read_config_byte(pos + r.PCI_CAP_FLAGS)
    if cap == r.PCI_CAP_ID_EXP:
        return _exp(dev, pos)
    if cap == r.PCI_CAP_ID_HT:
        short = dev.read_config_byte(pos + 3) & r.HT_3BIT_CAP_MASK
        return r.HT_CAP_SIZEOF_SHORT if short else r.HT_CAP_SIZEOF_LONG
    return _sata(dev, pos)


def _vc(dev: PciDev, pos: int) -> int:
    # drivers/vfio/pci/vfio_pci_config.c:vfio_vc_cap_len()
    more = dev.read_config_dword(pos + r.PCI_VC_PORT_CAP1) & r.PCI_VC_CAP1_EVCC
    arbitration = dev.read_config_dword(pos + r.PCI_VC_PORT_CAP2)
    length = r.PCI_CAP_VC_BASE_SIZEOF + (1 + more) * r.PCI_CAP_VC_PER_VC_SIZEOF
    for bit, phases in (
        (r.PCI_VC_CAP2_128_PHASE, 128),
        (r.PCI_VC_CAP2_64_PHASE, 64),
        (r.PCI_VC_CAP2_32_PHASE, 32),
    ):
        if arbitration & bit:
            return -(-length // 16) * 16 + phases * 4 // 8
    return length


def _acs(dev: PciDev, pos: int) -> int:
    if not dev.read_config_byte(pos + r.PCI_ACS_CAP) & r.PCI_ACS_EC:
        return 8
    bits = dev.read_config_byte(pos + r.PCI_ACS_EGRESS_BITS)
    return 8 + (-(-bits // 32) * 32 if bits else 256) // 8


def _tph(dev: PciDev, pos: int) -> int:
    cap = dev.read_config_dword(pos + r.PCI_TPH_CAP)
    if cap & r.PCI_TPH_CAP_LOC_MASK != r.PCI_TPH_LOC_CAP:
        return r.PCI_TPH_BASE_SIZEOF
    return r.PCI_TPH_BASE_SIZEOF + ((cap & r.PCI_TPH_CAP_ST_MASK) >> r.PCI_TPH_CAP_ST_SHIFT) * 2 + 2


def ext_cap_length(dev: PciDev, cap: int, pos: int) -> int:
    """Bytes of an extended one whose length differs."""
    if cap == r.PCI_EXT_CAP_ID_VNDR:
        return dev.read_config_dword(pos + r.PCI_VNDR_HEADER) >> 20
    if cap in (r.PCI_EXT_CAP_ID_VC, r.PCI_EXT_CAP_ID_VC9, r.PCI_EXT_CAP_ID_MFVC):
        return _vc(dev, pos)
    if cap == r.PCI_EXT_CAP_ID_ACS:
        return _acs(dev, pos)
    if cap == r.PCI_EXT_CAP_ID_REBAR:
        nbars = dev.read_config_byte(pos + r.PCI_REBAR_CTRL) & r.PCI_REBAR_CTRL_NBAR_MASK
        return 4 + (nbars >> r.PCI_REBAR_CTRL_NBAR_SHIFT) * 8
    if cap == r.PCI_EXT_CAP_ID_DPA:
        return r.PCI_DPA_BASE_SIZEOF + (dev.read_config_byte(pos + r.PCI_DPA_CAP) & r.PCI_DPA_CAP_SUBSTATE_MASK) + 1
    if cap == r.PCI_EXT_CAP_ID_TPH:
        return _tph(dev, pos)
    return dev.read_config_dword(pos + r.PCI_DVSEC_HEADER1) >> 20  # PCI_DVSEC_HEADER1_LEN
