"""The registers of a remapping unit: offsets and bits (VT-d 11.4)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pykernel.machine import IommuSpec

PAGE: Final = 0x1000

VER, CAP, ECAP, GCMD, GSTS, RTADDR, CCMD = 0x00, 0x08, 0x10, 0x18, 0x1C, 0x20, 0x28
FSTS, FECTL, FEDATA, FEADDR, FEUADDR = 0x34, 0x38, 0x3C, 0x40, 0x44
IQH, IQT, IQA, ICS, IECTL, IEDATA, IEADDR, IEUADDR, IQERCD = 0x80, 0x88, 0x90, 0x9C, 0xA0, 0xA4, 0xA8, 0xAC, 0xB0
IRTA, PQH, PQT, PQA, PRS, PECTL, PEDATA, PEADDR, PEUADDR = 0xB8, 0xC0, 0xC8, 0xD0, 0xDC, 0xE0, 0xE4, 0xE8, 0xEC
FRCD, IVA, IOTLB = 0x400, 0x500, 0x508  # where CAP.FRO and ECAP.IRO say

# GCMD and GSTS
TE, SRTP, QIE, IRE, SIRTP, CFI = 1 << 31, 1 << 30, 1 << 26, 1 << 25, 1 << 24, 1 << 23

# RTADDR.TTM
TTM_LEGACY, TTM_SCALABLE, TTM_RESERVED, TTM_ABORT = 0, 1, 2, 3

# FSTS
PFO, PPF, IQE, ICE, ITE, PRO = 1 << 0, 1 << 1, 1 << 4, 1 << 5, 1 << 6, 1 << 7

# xECTL: interrupt mask, interrupt pending
IM, IP = 1 << 31, 1 << 30

# ICS, PRS
IWC: Final = 1
PRS_PPR, PRS_PRO = 1 << 0, 1 << 1

# CAP
CAP_CM: Final = 1 << 7
CAP_FS1GP: Final = 1 << 56
CAP_FS5LP: Final = 1 << 60

# ECAP
ECAP_QI, ECAP_DT, ECAP_IR, ECAP_PT, ECAP_SC = 1 << 1, 1 << 2, 1 << 3, 1 << 6, 1 << 7
ECAP_NEST, ECAP_PRS, ECAP_ERS, ECAP_SRS, ECAP_EAFS = 1 << 26, 1 << 29, 1 << 30, 1 << 31, 1 << 34
ECAP_PASID, ECAP_DIT, ECAP_PDS, ECAP_SMTS, ECAP_VCS = 1 << 40, 1 << 41, 1 << 42, 1 << 43, 1 << 44
ECAP_SSADS, ECAP_SSTS, ECAP_FSTS, ECAP_SMPWCS, ECAP_RPS = 1 << 45, 1 << 46, 1 << 47, 1 << 48, 1 << 49

SAGAW: Final = {39: 1 << 1, 48: 1 << 2, 57: 1 << 3}
LARGEST: Final = {"4K": 0, "2M": 1, "1G": 3}


def capability(spec: IommuSpec) -> int:
    """CAP_REG: 64 K domains, one fault recording register, invalidation of up to 2**18 pages."""
    bits = 6  # ND
    bits |= 1 << 5 | 1 << 6  # PLMR, PHMR
    bits |= SAGAW[spec.address_width] << 8 | (spec.address_width - 1) << 16  # MGAW
    bits |= FRCD // 16 << 24
    bits |= LARGEST[spec.largest_page] << 34  # SSLPS: 2 MiB, 1 GiB
    bits |= 1 << 39 | 18 << 48  # PSI, MAMV
    bits |= 1 << 54 | 1 << 55 | CAP_FS1GP | 1 << 59  # DWD, DRD, PI
    return bits | (CAP_FS5LP if spec.address_width == 57 else 0)


def extended_capability(spec: IommuSpec) -> int:
    """ECAP_REG: with scalable mode PASIDs, page requests, nested tables of two stages."""
    bits = 1 | ECAP_QI | ECAP_DT | spec.intr_remap << 3 | spec.intr_remap << 4  # C, IR, EIM
    bits |= ECAP_PT | spec.snoop_control << 7 | IVA // 16 << 8 | 15 << 20  # SC, IRO, MHMV
    if spec.sva:
        bits |= ECAP_NEST | ECAP_PRS | ECAP_ERS | ECAP_SRS | ECAP_EAFS
        bits |= (spec.pasid_bits - 1) << 35 | ECAP_PASID | ECAP_PDS | ECAP_SMPWCS  # PSS
        bits |= ECAP_SMTS | spec.dirty_tracking << 45 | ECAP_SSTS | ECAP_FSTS  # SSADS
    return bits
