"""
The registers of a VT-d unit and the fields of its capabilities, as its driver knows them (VT-d specification, 11.4).

What is reached by them is ``kernel.dmar``: the unit's register page, of the machine or of whoever emulates one.
"""

from __future__ import annotations

from typing import Final, Protocol

__all__ = ["Caps", "Mmio"]

DMAR_VER_REG: Final = 0x00
DMAR_CAP_REG: Final = 0x08
DMAR_ECAP_REG: Final = 0x10
DMAR_GCMD_REG: Final = 0x18
DMAR_GSTS_REG: Final = 0x1C
DMAR_RTADDR_REG: Final = 0x20
DMAR_CCMD_REG: Final = 0x28
DMAR_FSTS_REG: Final = 0x34
DMAR_FECTL_REG: Final = 0x38
DMAR_FEDATA_REG: Final = 0x3C
DMAR_FEADDR_REG: Final = 0x40
DMAR_FEUADDR_REG: Final = 0x44
DMAR_IQH_REG: Final = 0x80
DMAR_IQT_REG: Final = 0x88
DMAR_IQA_REG: Final = 0x90
DMAR_IQER_REG: Final = 0xB0
DMAR_PQH_REG: Final = 0xC0
DMAR_PQT_REG: Final = 0xC8
DMAR_PQA_REG: Final = 0xD0
DMAR_PRS_REG: Final = 0xDC
DMAR_PECTL_REG: Final = 0xE0
DMAR_PEDATA_REG: Final = 0xE4
DMAR_PEADDR_REG: Final = 0xE8
DMAR_PEUADDR_REG: Final = 0xEC

GCMD_TE: Final = 1 << 31
GCMD_SRTP: Final = 1 << 30
GCMD_QIE: Final = 1 << 26
RTADDR_SMT: Final = 1 << 10

FSTS_PFO, FSTS_PPF = 1 << 0, 1 << 1
FSTS_IQE, FSTS_ICE, FSTS_ITE, FSTS_PRO = 1 << 4, 1 << 5, 1 << 6, 1 << 7
FRCD_F: Final = 1 << 31
FRCD_SIZE: Final = 16
PRS_PPR, PRS_PRO = 1 << 0, 1 << 1


class Mmio(Protocol):
    """A page of registers."""

    def readl(self, off: int) -> int:
        """32 bits."""
        ...

    def readq(self, off: int) -> int:
        """64 bits."""
        ...

    def writel(self, off: int, value: int) -> None:
        """32 bits."""
        ...

    def writeq(self, off: int, value: int) -> None:
        """64 bits."""
        ...


class Caps:
    """CAP_REG and ECAP_REG, decoded (VT-d 11.4.2, 11.4.3). Attributes have the names of the specification's fields."""

    def __init__(self, cap: int, ecap: int) -> None:
        self.cap, self.ecap = cap, ecap
        self.ndoms = 1 << 4 + 2 * (cap & 7)
        self.cm = bool(cap >> 7 & 1)
        self.sagaw = cap >> 8 & 0x1F
        self.mgaw = (cap >> 16 & 0x3F) + 1
        self.fro = (cap >> 24 & 0x3FF) * 16
        self.sslps = cap >> 34 & 0xF
        self.psi = bool(cap >> 39 & 1)
        self.nfr = (cap >> 40 & 0xFF) + 1
        self.mamv = cap >> 48 & 0x3F
        self.dwd, self.drd = bool(cap >> 54 & 1), bool(cap >> 55 & 1)
        self.fs1gp = bool(cap >> 56 & 1)
        self.fs5lp = bool(cap >> 60 & 1)
        self.qi = bool(ecap >> 1 & 1)
        self.dt = bool(ecap >> 2 & 1)
        self.ir = bool(ecap >> 3 & 1)
        self.pt = bool(ecap >> 6 & 1)
        self.sc = bool(ecap >> 7 & 1)
        self.nest = bool(ecap >> 26 & 1)
        self.prs = bool(ecap >> 29 & 1)
        self.srs = bool(ecap >> 31 & 1)
        self.eafs = bool(ecap >> 34 & 1)
        self.pss = ecap >> 35 & 0x1F
        self.pasid = bool(ecap >> 40 & 1)
        self.dit = bool(ecap >> 41 & 1)
        self.pds = bool(ecap >> 42 & 1)
        self.smts = bool(ecap >> 43 & 1)
        self.vcs = bool(ecap >> 44 & 1)
        self.ssads = bool(ecap >> 45 & 1)
        self.ssts = bool(ecap >> 46 & 1)
        self.fsts = bool(ecap >> 47 & 1)
        self.smpwcs = bool(ecap >> 48 & 1)

    @property
    def agaw(self) -> int:
        """The widest supported adjusted width, as a table entry's AW says it (1: 39 bits). C: ``iommu->agaw``."""
        return max((n for n in range(5) if self.sagaw >> n & 1), default=-1)
