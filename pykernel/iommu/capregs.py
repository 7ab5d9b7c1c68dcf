"""The capability registers of the IOMMU, as the machine's file describes it (VT-d 11.4.2, 11.4.3)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pykernel.iommu.intel import IntelIommu

__all__ = ["cap_reg", "ecap_reg"]

FAULT_RECORDING_OFFSET = 0x400 // 16
IOTLB_OFFSET = 0x500 // 16
SAGAW = {39: 1 << 1, 48: 1 << 2, 57: 1 << 3}


def cap_reg(unit: IntelIommu) -> int:
    """CAP_REG: 64 K domains, one fault recording register, invalidation of up to 2**18 pages."""
    bits = 6  # ND
    bits |= 1 << 5 | 1 << 6  # PLMR, PHMR
    bits |= SAGAW[unit.address_width] << 8 | (unit.address_width - 1) << 16  # MGAW
    bits |= FAULT_RECORDING_OFFSET << 24
    bits |= ((1 << unit.largest_page - 1) - 1) << 34  # SSLPS: 2 MiB, 1 GiB
    bits |= 1 << 39 | 18 << 48  # PSI, MAMV
    bits |= 1 << 54 | 1 << 55 | 1 << 56 | 1 << 59  # DWD, DRD, FS1GP, PI
    return bits | int(unit.address_width == 57) << 60  # FS5LP


def ecap_reg(unit: IntelIommu) -> int:
    """ECAP_REG: in scalable mode PASIDs, page requests, nested tables of two stages."""
    bits = 1 | 1 << 1 | 1 << 2 | unit.intr_remap << 3 | unit.intr_remap << 4  # C, QI, DT, IR, EIM
    bits |= 1 << 6 | unit.snoop_control << 7 | IOTLB_OFFSET << 8 | 15 << 20  # PT, SC, IRO, MHMV
    if unit.scalable:
        bits |= 1 << 26 | 1 << 29 | 1 << 30 | 1 << 31 | 1 << 34  # NEST, PRS, ERS, SRS, EAFS
        bits |= (unit.kernel.machine.iommu.pasid_bits - 1) << 35 | 1 << 40  # PSS, PASID
        bits |= 1 << 43 | unit.ssads << 45 | 1 << 46 | 1 << 47  # SMTS, SSADS, SSTS, FSTS
    return bits
