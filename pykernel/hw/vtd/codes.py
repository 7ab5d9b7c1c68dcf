"""Why a request was blocked: the reasons that a fault record has (VT-d 7.1.3), and what a walk raises."""

from __future__ import annotations

from enum import IntEnum

__all__ = ["Reason", "VtdFault"]


class Reason(IntEnum):
    """FRCD.FR: below 0x20 of legacy mode, from 0x30 on of scalable mode."""

    ROOT_NOT_PRESENT = 0x01
    CONTEXT_NOT_PRESENT = 0x02
    CONTEXT_INVALID = 0x03
    BEYOND_WIDTH = 0x04
    NO_WRITE = 0x05
    NO_READ = 0x06
    TABLE_ACCESS = 0x07
    ROOT_ACCESS = 0x08
    CONTEXT_ACCESS = 0x09
    ROOT_RESERVED = 0x0A
    CONTEXT_RESERVED = 0x0B
    TABLE_RESERVED = 0x0C
    TRANSLATION_BLOCKED = 0x0D
    INTERRUPT_ADDRESS = 0x0E

    SM_ROOT_ADDRESS = 0x30
    SM_LEGACY_PASID = 0x31
    SM_LEGACY_PAGE_REQUEST = 0x32
    SM_ROOT_ACCESS = 0x38
    SM_ROOT_NOT_PRESENT = 0x39
    SM_ROOT_RESERVED = 0x3A
    SM_CONTEXT_ACCESS = 0x40
    SM_CONTEXT_NOT_PRESENT = 0x41
    SM_CONTEXT_RESERVED = 0x42
    SM_CONTEXT_INVALID = 0x43
    SM_NO_DTE = 0x44
    SM_NO_PASIDE = 0x45
    SM_PASID_TOO_LARGE = 0x46
    SM_NO_PRE = 0x47
    SM_RID_PASID = 0x48
    SM_DIR_ACCESS = 0x50
    SM_DIR_NOT_PRESENT = 0x51
    SM_DIR_RESERVED = 0x52
    SM_PASID_ACCESS = 0x58
    SM_PASID_NOT_PRESENT = 0x59
    SM_PASID_RESERVED = 0x5A
    SM_PASID_INVALID = 0x5B
    SM_NO_SRE = 0x5D
    SM_FS_ACCESS = 0x70
    SM_FS_NOT_PRESENT = 0x71
    SM_FS_RESERVED = 0x72
    SM_FS_ROOT_ACCESS = 0x73
    SM_FS_BEYOND = 0x74
    SM_FS_ROOT_NO_READ = 0x75
    SM_FS_NO_READ = 0x76
    SM_FS_NO_WRITE = 0x77
    SM_SS_ACCESS = 0x78
    SM_SS_PERMISSION = 0x79
    SM_SS_RESERVED = 0x7A
    SM_SS_ROOT_ACCESS = 0x7B
    SM_NOT_CANONICAL = 0x80
    SM_SUPERVISOR_PAGE = 0x81
    SM_SS_BEYOND = 0x84
    SM_NO_WRITE = 0x85
    SM_INTERRUPT_ADDRESS = 0x87


UNQUALIFIED = frozenset({
    Reason.ROOT_NOT_PRESENT, Reason.ROOT_ACCESS, Reason.CONTEXT_ACCESS, Reason.ROOT_RESERVED,
    Reason.SM_ROOT_ADDRESS, Reason.SM_LEGACY_PASID, Reason.SM_LEGACY_PAGE_REQUEST, Reason.SM_ROOT_ACCESS,
    Reason.SM_ROOT_NOT_PRESENT, Reason.SM_ROOT_RESERVED, Reason.SM_CONTEXT_ACCESS,
})  # fmt: skip
"""Told whatever FPD says: they are found before an entry that has the bit."""

RECOVERABLE = frozenset({
    Reason.NO_WRITE, Reason.NO_READ, Reason.SM_FS_NOT_PRESENT, Reason.SM_FS_NO_READ, Reason.SM_FS_NO_WRITE,
    Reason.SM_FS_ROOT_NO_READ, Reason.SM_SS_PERMISSION, Reason.SM_SUPERVISOR_PAGE, Reason.SM_NO_WRITE,
})  # fmt: skip
"""What a translation request (ATS) is answered with "no permission" for, and no fault is recorded."""


class VtdFault(Exception):
    """
    A walk that ended.

    Args:
        reason: why.
        addr: the first byte of the request that is not reached; None: the request's first.
        suppress: FPD was set on the way.
    """

    def __init__(self, reason: Reason, addr: int | None = None, *, suppress: bool = False) -> None:
        super().__init__(f"{reason.name} ({reason:#x})")
        self.reason, self.addr, self.suppress = reason, addr, suppress
