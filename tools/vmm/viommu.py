"""
The IOMMU of a virtual machine: registers and invalidation queue as VT-d has them, tables in guest memory.

In caching mode (CAP.CM) the guest invalidates what was not present, too: so each change of a PASID's entry is told
here, and reaches the host as binding or unbinding (VT-d 6.1). What translates is the host's own unit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from pykernel.hw.vtd import regs as r
from pykernel.hw.vtd.codes import VtdFault
from pykernel.hw.vtd.queue import Invalidation, InvalidationQueue, Kind
from pykernel.hw.vtd.tables import Context, PasidEntry, Tables
from pykernel.hw.vtd.vcmd import ALLOC_PASID, LAYOUT, NO_PASID, SUCCESS, Layout, VirtualCommands
from pykernel.tools.vmm.memory import GuestFault
from pykernel.tools.vmm.pasids import DEFAULT, GuestPasids
from pykernel.tools.vmm.state import IommuState

if TYPE_CHECKING:
    from pykernel.tools.vmm.memory import GuestMemory

__all__ = ["CAP_VIRTUAL", "ECAP_VIRTUAL", "VirtualIommu"]

# 64 K domains, 48 bits of second stage (3 and 4 levels), page-selective invalidation, caching mode, 1 GiB first stage
CAP_VIRTUAL: Final = (
    6 | r.CAP_CM | 0b0110 << 8 | 47 << 16 | r.FRCD // 16 << 24 | 3 << 34 | 1 << 39 | 18 << 48 | r.CAP_FS1GP
)
# coherent, no interrupt remapping; first stage only, so that the guest's own tables are what the host nests
ECAP_VIRTUAL: Final = (
    1
    | r.ECAP_QI
    | r.ECAP_DT
    | r.ECAP_PT
    | r.IVA // 16 << 8
    | 15 << 20
    | r.ECAP_PRS
    | r.ECAP_PDS
    | r.ECAP_SMPWCS
    | r.ECAP_SRS
    | 19 << 35
    | r.ECAP_PASID
    | r.ECAP_SMTS
    | r.ECAP_VCS
    | r.ECAP_FSTS
)
VCCAP: Final = 0b110
PASIDS_DOMAIN, PASIDS_ONE = 0, 1  # granularities of a PASID-cache invalidation; all others are global
PRQ_ENTRY: Final = 32
EVERYTHING: Final = 64  # the order of all addresses


class VirtualIommu(InvalidationQueue):
    """
    The unit.

    Args:
        memory: the guest's.
        pasids: its PASIDs.
        sources: requester ids of the devices behind it, as the guest has them.
        message: how an interrupt reaches the guest.
        respond: what a page group response of the guest is told to.
        drain: brings what devices asked for before into :meth:`page_request`.
        layout: where the virtual commands are; the older one for kernels up to 5.13.
    """

    def __init__(
        self,
        memory: GuestMemory,
        pasids: GuestPasids,
        sources: Iterable[int],
        message: Callable[[int, int], None],
        respond: Callable[[Invalidation], None] = lambda _what: None,
        drain: Callable[[], None] = lambda: None,
        layout: Layout = LAYOUT,
    ) -> None:
        self.memory, self.pasids, self.sources = memory, pasids, tuple(sources)
        self._message, self._respond, self._drain = message, respond, drain
        vccap = VCCAP if layout is LAYOUT else 1
        super().__init__(CAP_VIRTUAL, ECAP_VIRTUAL, vcmd=VirtualCommands(vccap, self.virtual_command, layout))
        self.tables = Tables(memory.read, CAP_VIRTUAL, ECAP_VIRTUAL)

    # ---- what it is made of

    def read_phys(self, pa: int, n: int) -> bytes:
        """Guest memory. Raises GuestFault."""
        return self.memory.read(pa, n)

    def write_phys(self, pa: int, data: bytes) -> None:
        """Guest memory. Raises GuestFault."""
        self.memory.write(pa, data)

    def send_message(self, address: int, data: int) -> None:
        """An interrupt of the guest; where it sends them to nobody they are lost."""
        with suppress(OSError):
            self._message(address, data)

    def virtual_command(self, command: int, operand: int, _operand_b: int) -> tuple[int, int]:
        """A virtual command: (status, result)."""
        if command == ALLOC_PASID:
            guest = self.pasids.alloc()
            return (SUCCESS, guest) if guest is not None else (NO_PASID, 0)
        # a number of more than 20 bits is nobody's: cut off it would be another one
        return (SUCCESS if self.pasids.free(operand) else NO_PASID), 0

    # ---- what the guest tells

    def on_root(self, value: int) -> None:
        """Other tables: they are read when the guest invalidates."""
        self.tables.root = value

    def on_translation(self, *, enabled: bool) -> None:
        """On: what the tables have is in force; off: nothing is."""
        if enabled:
            self._sync(None, None)
        else:
            for guest in list(self.pasids.bound):
                self.pasids.apply(guest, None)

    def on_invalidate(self, what: Invalidation) -> None:
        """A descriptor: what it may have changed is read again."""
        if what.kind is Kind.PASID:
            one = what.pasid if what.granularity == PASIDS_ONE else None
            self._sync(one, what.did if what.granularity == PASIDS_DOMAIN else None)
        elif what.kind is Kind.CONTEXT:
            self._sync(None, None)
        elif what.kind is Kind.PASID_IOTLB:
            self.pasids.flush(what.pasid, what.addr, _order(what))
        elif what.kind is Kind.IOTLB:
            self.pasids.flush(DEFAULT, what.addr, _order(what))
        elif what.kind is Kind.PAGE_RESPONSE:
            self._respond(what)

    def on_drain(self) -> None:
        """The guest waits for the page requests that came before."""
        self._drain()

    def _contexts(self) -> Iterator[Context]:
        """Of the devices that have one."""
        for source in self.sources:
            try:
                yield self.tables.context(source)
            except VtdFault:
                continue

    def _entry(self, contexts: list[Context], pasid: int) -> PasidEntry | None:
        """What the table of a device says of *pasid*; None: nothing that translates."""
        for context in contexts:
            if pasid >= context.reach:
                continue
            try:
                return self.tables.pasid_entry(context, pasid)
            except VtdFault:
                continue
        return None

    def _sync(self, pasid: int | None, did: int | None) -> None:
        """Read the entries of *pasid* (None: of all), as far as they have domain *did* or had it."""
        if not self.enabled:
            return
        contexts = list(self._contexts())
        known = [DEFAULT, *self.pasids.host_of] if pasid is None else [pasid]
        for guest in known:
            entry, before = self._entry(contexts, guest), self.pasids.bound.get(guest)
            if did is None or did in {x.did for x in (entry, before) if x is not None}:
                self.pasids.apply(guest, entry)

    # ---- page requests

    def page_request(self, words: tuple[int, int, int, int]) -> bool:
        """A device of the guest asks for a page: into its queue, or False: the queue is full, off or nowhere."""
        if self.get32(r.PRS) & r.PRS_PRO or not self.enabled:
            return False
        head, tail, pqa = self.get64(r.PQH), self.get64(r.PQT), self.get64(r.PQA)
        size = 4096 << (pqa & 7)
        following = (tail + PRQ_ENTRY) % size
        if following == head or tail >= size:
            self.set32(r.PRS, self.get32(r.PRS) | r.PRS_PRO)
            self.page_event.fire()
            return False
        try:
            self.write_phys((pqa & -4096) + tail, b"".join(word.to_bytes(8, "little") for word in words))
        except GuestFault:  # the guest's queue is nowhere: the request is lost, and the device asks again
            return False
        self.set64(r.PQT, following)
        pending = self.get32(r.PRS)
        self.set32(r.PRS, pending | r.PRS_PPR)
        if not pending & r.PRS_PPR:
            self.page_event.fire()
        return True

    # ---- faults

    def fault(self, source: int, addr: int, reason: int, *, write: bool, pasid: int | None) -> None:
        """A request of a device of the guest was blocked: the fault record, if it is free, and the event."""
        if self.get32(r.FRCD + 12) >> 31:
            self.raise_status(r.PFO)
            return
        self.set64(r.FRCD, addr & -4096)
        has = 0 if pasid is None else 1 << 31
        self.set32(r.FRCD + 8, source | has)
        kind = 0 if write else 1 << 30
        self.set32(r.FRCD + 12, 1 << 31 | kind | (pasid or 0) << 8 | reason)
        self.raise_status(r.PPF)

    # ---- migration

    def save(self) -> IommuState:
        """Registers, queues as they point to them, and PASIDs; its tables are in the guest's memory."""
        assert self.vcmd is not None
        pasids = self.pasids
        return IommuState(
            bytes(self._page), self.vcmd.operand_b, self.vcmd.response, self.tables.root,
            tuple(pasids.host_of), tuple(pasids.bound.items()),
        )  # fmt: skip

    def load(self, state: IommuState) -> None:
        """Be what it was elsewhere, with other PASIDs of the host. Raises OSError: a PASID cannot be had or bound."""
        assert self.vcmd is not None
        self._page[:] = state.registers
        self.vcmd.operand_b, self.vcmd.response = state.operand_b, state.response
        self.tables.root = state.root
        self.pasids.replay(state.pasids, state.bound)

    def power_on(self) -> None:
        """The guest begins anew."""
        self.pasids.reset()
        self.tables.root = 0
        self.reset()


def _order(what: Invalidation) -> int:
    """How many pages; a guest can ask for more than there are addresses."""
    return what.order if what.order < EVERYTHING - 12 else EVERYTHING
