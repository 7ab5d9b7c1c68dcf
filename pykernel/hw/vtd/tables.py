"""
Root, context and PASID tables (VT-d 9.1 to 9.6): who a request is of, and how it is translated.

They are read where RTADDR says, through a function for physical memory; nothing is remembered here. A unit of silicon
reads the machine's RAM, an emulated one the guest's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from struct import Struct
from typing import TYPE_CHECKING, Any, Final

from pykernel.hw.vtd import regs
from pykernel.hw.vtd.codes import Reason, VtdFault

if TYPE_CHECKING:
    from pykernel.trace import Trace

__all__ = ["Context", "PasidEntry", "Pgtt", "Tables", "parse_context", "parse_pasid_entry"]

HAW: Final = 52  # host address width: what is above it in a pointer is reserved, or it would be another pointer
ADDR: Final = (1 << HAW) - 0x1000
P, FPD = 1, 2
Q2, Q4, Q8 = Struct("<2Q"), Struct("<4Q"), Struct("<8Q")
WIDTHS: Final = {1: 39, 2: 48, 3: 57}  # AW
TT_UNTRANSLATED, TT_DEVICE_TLB, TT_PASS_THROUGH = 0, 1, 2


class Pgtt:
    """PASID Granular Translation Type."""

    FIRST, SECOND, NESTED, PASS_THROUGH = 1, 2, 3, 4


@dataclass(frozen=True, slots=True)
class Context:
    """
    A context entry.

    Attributes:
        suppress: FPD.
        dte, pre: device-TLB and page requests are enabled.
        directory: where the PASID directory is (scalable mode).
        pasids: how many PASIDs it covers; 0: requests with a PASID are blocked (PASIDE).
        reach: the same without PASIDE, for the PASID of requests without one.
        rid_pasid: the PASID of requests without one.
        entry: of legacy mode: what a PASID entry would say.
    """

    suppress: bool
    dte: bool = False
    pre: bool = False
    directory: int = 0
    pasids: int = 0
    reach: int = 0
    rid_pasid: int = 0
    rid_priv: bool = False
    entry: PasidEntry | None = None


@dataclass(frozen=True, slots=True)
class PasidEntry:
    """A PASID-table entry, or the translation of a legacy context entry; addresses are as they stand there."""

    did: int
    pgtt: int
    width: int = 48
    second: int = 0
    second_ad: bool = False
    first: int = 0
    five_levels: bool = False
    sre: bool = False
    wpe: bool = False
    eafe: bool = False
    suppress: bool = False
    legacy: bool = False


def parse_pasid_entry(words: tuple[int, ...], cap: int, ecap: int) -> PasidEntry:
    """The eight words of a PASID-table entry. Raises VtdFault: not present, reserved bits, or nothing it can do."""
    low, tag, first = words[:3]
    suppress = bool(low & FPD)
    if not low & P:
        raise VtdFault(Reason.SM_PASID_NOT_PRESENT, suppress=suppress)
    # bits 11:10, 5; 95:91, 86:80; 139:136; all from 192 on; and of both pointers what is above them
    if low >> HAW or low & 0xC20 or tag & 0xF87F0000 or first >> HAW or first & 0xF00 or any(words[3:]):
        raise VtdFault(Reason.SM_PASID_RESERVED, suppress=suppress)
    entry = PasidEntry(
        did=tag & 0xFFFF,
        pgtt=low >> 6 & 7,
        width=WIDTHS.get(low >> 2 & 7, 0),
        second=low & ADDR,
        second_ad=bool(low >> 9 & 1),
        first=first & ADDR,
        five_levels=first >> 2 & 3 == 1,
        sre=bool(first & 1),
        wpe=bool(first >> 4 & 1),
        eafe=bool(first >> 7 & 1),
        suppress=suppress,
    )
    if not _possible(entry, first >> 2 & 3, cap, ecap):
        raise VtdFault(Reason.SM_PASID_INVALID, suppress=suppress)
    return entry


def _possible(entry: PasidEntry, fspm: int, cap: int, ecap: int) -> bool:
    """Whether this unit can do what *entry* says."""
    needs = {
        Pgtt.FIRST: regs.ECAP_FSTS,
        Pgtt.SECOND: regs.ECAP_SSTS,
        Pgtt.NESTED: regs.ECAP_NEST | regs.ECAP_FSTS | regs.ECAP_SSTS,
        Pgtt.PASS_THROUGH: regs.ECAP_PT,
    }.get(entry.pgtt)
    if needs is None or ecap & needs != needs or (not entry.did and cap & regs.CAP_CM):
        return False
    if entry.pgtt in (Pgtt.SECOND, Pgtt.NESTED):
        if not regs.SAGAW.get(entry.width, 0) & cap >> 8 or (entry.second_ad and not ecap & regs.ECAP_SSADS):
            return False
    if entry.pgtt in (Pgtt.FIRST, Pgtt.NESTED):
        if fspm > 1 or (fspm and not cap & regs.CAP_FS5LP) or (entry.eafe and not ecap & regs.ECAP_EAFS):
            return False
    return not entry.sre or bool(ecap & regs.ECAP_SRS)


def parse_context(words: tuple[int, ...], cap: int, ecap: int, *, scalable: bool) -> Context:
    """The two or four words of a context entry. Raises VtdFault."""
    return _scalable_context(words, ecap) if scalable else _legacy_context(words, cap, ecap)


def _scalable_context(words: tuple[int, ...], ecap: int) -> Context:
    low, rid = words[:2]
    suppress = bool(low & FPD)
    if not low & P:
        raise VtdFault(Reason.SM_CONTEXT_NOT_PRESENT, suppress=suppress)
    if low >> HAW or low & 0x1E0 or rid >> 21 or words[2] or words[3]:
        raise VtdFault(Reason.SM_CONTEXT_RESERVED, suppress=suppress)
    if (low & 4 and not ecap & regs.ECAP_DT) or (low & 8 and not ecap & regs.ECAP_PASID):
        raise VtdFault(Reason.SM_CONTEXT_INVALID, suppress=suppress)
    if low & 16 and not ecap & regs.ECAP_PRS:
        raise VtdFault(Reason.SM_CONTEXT_INVALID, suppress=suppress)
    reach = 1 << (low >> 9 & 7) + 13
    return Context(
        suppress=suppress,
        dte=bool(low & 4),
        pre=bool(low & 16),
        directory=low & ADDR,
        pasids=reach if low & 8 else 0,
        reach=reach,
        rid_pasid=rid & 0xFFFFF if ecap & regs.ECAP_RPS else 0,
        rid_priv=bool(rid >> 20 & 1),
    )


def _legacy_context(words: tuple[int, ...], cap: int, ecap: int) -> Context:
    low, high = words[:2]
    suppress = bool(low & FPD)
    if not low & P:
        raise VtdFault(Reason.CONTEXT_NOT_PRESENT, suppress=suppress)
    if low >> HAW or low & 0xFF0 or high & ~0xFFFF7F:
        raise VtdFault(Reason.CONTEXT_RESERVED, suppress=suppress)
    kind, width = low >> 2 & 3, WIDTHS.get(high & 7, 0)
    known = (True, bool(ecap & regs.ECAP_DT), bool(ecap & regs.ECAP_PT), False)[kind]
    did = high >> 8 & 0xFFFF
    if not known or not regs.SAGAW.get(width, 0) & cap >> 8 or (not did and cap & regs.CAP_CM):
        raise VtdFault(Reason.CONTEXT_INVALID, suppress=suppress)
    pgtt = Pgtt.PASS_THROUGH if kind == TT_PASS_THROUGH else Pgtt.SECOND
    entry = PasidEntry(did, pgtt, width=width, second=low & ADDR, suppress=suppress, legacy=True)
    return Context(suppress=suppress, dte=kind == TT_DEVICE_TLB, entry=entry)


class Tables:
    """
    The walk from a requester to its PASID entry.

    Args:
        read: ``(pa, n) -> bytes``; what it cannot read is a LookupError or an OSError.
        cap, ecap: what the unit can do.
        trace: told of every step while somebody listens.
    """

    def __init__(self, read: Callable[[int, int], bytes], cap: int, ecap: int, trace: Trace | None = None) -> None:
        self.read, self.cap, self.ecap = read, cap, ecap
        self.trace: Any = trace
        self.root = 0  # RTADDR as SRTP took it

    @property
    def mode(self) -> int:
        """RTADDR.TTM."""
        return self.root >> 10 & 3

    def context(self, source: int) -> Context:
        """The context entry of requester *source* (bus and devfn). Raises VtdFault."""
        if self.mode == regs.TTM_RESERVED or (self.mode == regs.TTM_SCALABLE and not self.ecap & regs.ECAP_SMTS):
            raise VtdFault(Reason.SM_ROOT_ADDRESS)
        scalable = self.mode == regs.TTM_SCALABLE
        table = self._root_entry(source, scalable=scalable)
        devfn = source & 0xFF
        at = table + ((devfn & 0x7F) * 32 if scalable else devfn * 16)
        reason = Reason.SM_CONTEXT_ACCESS if scalable else Reason.CONTEXT_ACCESS
        words = self._words(Q4 if scalable else Q2, at, reason)
        if self.trace:
            self.trace("vtd_context", source=source, table=table, at=at, entry=words[0], high=words[1])
        return parse_context(words, self.cap, self.ecap, scalable=scalable)

    def _root_entry(self, source: int, *, scalable: bool) -> int:
        """Where the context table of *source* is."""
        at = (self.root & ADDR) + (source >> 8) * 16
        low, high = self._words(Q2, at, Reason.SM_ROOT_ACCESS if scalable else Reason.ROOT_ACCESS)
        if self.trace:
            self.trace("vtd_root", source=source, table=self.root & ADDR, at=at, entry=low, high=high)
        if not scalable:
            if not low & P:
                raise VtdFault(Reason.ROOT_NOT_PRESENT)
            if low >> HAW or low & 0xFFE or high:
                raise VtdFault(Reason.ROOT_RESERVED)
            return low & ADDR
        half = high if source & 0x80 else low
        if not half & P:
            raise VtdFault(Reason.SM_ROOT_NOT_PRESENT)
        if half >> HAW or half & 0xFFE:
            raise VtdFault(Reason.SM_ROOT_RESERVED)
        return half & ADDR

    def pasid_entry(self, context: Context, pasid: int) -> PasidEntry:
        """The entry of *pasid*, which the caller has compared with the size of the directory. Raises VtdFault."""
        try:
            return self._pasid_entry(context, pasid)
        except VtdFault as e:
            e.suppress |= context.suppress
            raise

    def _pasid_entry(self, context: Context, pasid: int) -> PasidEntry:
        at = context.directory + (pasid >> 6) * 8
        entry = int.from_bytes(self._bytes(at, 8, Reason.SM_DIR_ACCESS), "little")
        if self.trace:
            self.trace("vtd_pasid_directory", pasid=pasid, index=pasid >> 6, at=at, entry=entry)
        suppress = bool(entry & FPD)
        if not entry & P:
            raise VtdFault(Reason.SM_DIR_NOT_PRESENT, suppress=suppress)
        if entry >> HAW or entry & 0xFFC:
            raise VtdFault(Reason.SM_DIR_RESERVED, suppress=suppress)
        at = (entry & ADDR) + (pasid & 63) * 64
        try:
            words = self._words(Q8, at, Reason.SM_PASID_ACCESS)
            if self.trace:
                self.trace("vtd_pasid_entry", pasid=pasid, index=pasid & 63, at=at, entry=words[0], tag=words[1],
                           first=words[2])  # fmt: skip
            found = parse_pasid_entry(words, self.cap, self.ecap)
        except VtdFault as e:
            e.suppress |= suppress
            raise
        return replace(found, suppress=True) if suppress else found

    def _bytes(self, at: int, n: int, reason: Reason) -> bytes:
        try:
            return self.read(at, n)
        except (LookupError, OSError) as e:
            raise VtdFault(reason) from e

    def _words(self, shape: Struct, at: int, reason: Reason) -> tuple[int, ...]:
        return shape.unpack(self._bytes(at, shape.size, reason))
