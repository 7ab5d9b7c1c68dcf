"""
The remapping unit of a machine, as silicon (VT-d 3, 6, 7): it stands between the slots and memory.

Software programs it by registers (``kernel.dmar``), tables in RAM and a queue. What a slot reaches is walked for at its
first access and kept in the slot, until an invalidation throws that away: so an access costs no more than the caches of
silicon do, and what software forgets to invalidate stays to be seen.

One unit serves all slots of the machine, whatever their segment.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

from pykernel.hw.vtd import regs as r
from pykernel.hw.vtd.ats import DeviceTlbs
from pykernel.hw.vtd.codes import RECOVERABLE, UNQUALIFIED, Reason, VtdFault
from pykernel.hw.vtd.iotlb import FIRST, NESTED, SECOND, Iotlbs
from pykernel.hw.vtd.prq import PageRequests
from pykernel.hw.vtd.queue import Invalidation, InvalidationQueue, Kind
from pykernel.hw.vtd.space import Blocked, Process, Silent, Translated
from pykernel.hw.vtd.tables import Context, PasidEntry, Pgtt, Tables
from pykernel.hw.vtd.walk import FirstStage, Nested, SecondStage, Walk
from pykernel.mm.phys import PhysFault, PhysMem
from pykernel.pci.core import Pci
from pykernel.pci.function import DmaFault
from pykernel.pci.irq import MSI_ADDRESS, Irqs, message_irq
from pykernel.pci.slot import Physical

if TYPE_CHECKING:
    from pykernel.hw.vtd.iotlb import Iotlb
    from pykernel.kernel import Kernel
    from pykernel.machine import IommuSpec
    from pykernel.pci.slot import Answered, DmaSpace, Slot

__all__ = ["Requester", "VtdUnit"]

PASID_BITS = 20  # what a prefix of a request has room for: more is refused, never cut down


class Requester:
    """
    A slot as the unit sees its requests with one PASID, or without one.

    Attributes:
        source: bus and devfn.
        pasid: None: requests without one.
        entry: how it is translated, once the walk found it.
        ats: the device translates for itself, and remembers.
    """

    __slots__ = ("ats", "entry", "pasid", "priv", "slot", "source", "suppress", "unit")

    def __init__(self, unit: VtdUnit, slot: Slot, pasid: int | None, *, priv: bool) -> None:
        self.unit, self.slot, self.pasid, self.priv = unit, slot, pasid, priv
        self.source = slot.source
        self.entry: PasidEntry | None = None
        self.suppress = False
        self.ats = False

    def refuse(self, fault: VtdFault, addr: int, *, write: bool) -> NoReturn:
        """A request is blocked: recorded unless nobody shall know. Raises DmaFault."""
        silent = fault.reason not in UNQUALIFIED and (fault.suppress or self.suppress)
        # a translation request for what is not there is answered with "no permission"
        silent = silent or (self.ats and fault.reason in RECOVERABLE)
        first = addr if fault.addr is None else max(fault.addr, addr)
        if not silent:
            self.unit.record(self, fault.reason, first, write=write)
        elif self.unit.trace:
            self.unit.trace("vtd_refused", source=self.source, pasid=self.pasid, addr=first, reason=fault.reason)
        raise DmaFault(first, write, fault.reason.name.lower().replace("_", " "))


class VtdUnit(InvalidationQueue):
    """
    The unit.

    Args:
        kernel: whose machine it is in.
        spec: what it can do.
        cap, ecap: bits to add to what *spec* says.
    """

    def __init__(self, kernel: Kernel, spec: IommuSpec | None = None, *, cap: int = 0, ecap: int = 0) -> None:
        facts: IommuSpec = kernel.machine.iommu if spec is None else spec
        self.kernel = kernel
        self.trace = kernel.trace
        self.phys = kernel.sub(PhysMem)
        self.pci = kernel.sub(Pci)
        cap |= r.capability(facts)
        ecap |= r.extended_capability(facts)
        self.tables = Tables(self.read_phys, cap, ecap, kernel.trace)
        self.contexts: dict[int, Context] = {}
        self.entries: dict[int, dict[int, PasidEntry]] = {}  # PASID -> source -> entry
        self.iotlbs = Iotlbs()
        self.users: dict[int, dict[Slot, None]] = {}  # source -> slots that keep what was walked for
        self.device_tlbs = DeviceTlbs(self)
        super().__init__(cap, ecap, version=0x40 if facts.sva else 0x10)
        self.requests = PageRequests(self)

    # ---- memory and messages

    def read_phys(self, pa: int, n: int) -> bytes:
        """*n* bytes of RAM: tables and queues lie nowhere else. Raises PhysFault."""
        view = self.phys.view(pa, n)
        if view is None:
            raise PhysFault(pa, write=False)
        return bytes(view)

    def write_phys(self, pa: int, data: bytes) -> None:
        """To RAM. Raises PhysFault."""
        view = self.phys.view(pa, len(data))
        if view is None:
            raise PhysFault(pa, write=True)
        view[:] = data

    def send_message(self, address: int, data: int) -> None:
        """To the interrupt controller, which does not remap it."""
        if address & 0xFFF00000 == MSI_ADDRESS:
            self.kernel.sub(Irqs).raise_irq(message_irq(address, data))

    # ---- requests

    def space(self, slot: Slot, pasid: int | None, *, priv: bool) -> DmaSpace:
        """What *slot* reaches now; one that faults is not kept."""
        if pasid is not None and pasid >> PASID_BITS:
            return Silent("no PASID has more than 20 bits")
        if not self.enabled:
            return Physical(slot, self.phys) if pasid is None else Silent("the IOMMU is off: no PASID is known")
        if self.tables.mode == r.TTM_ABORT:
            return Silent("all DMA is aborted")
        requester = Requester(self, slot, pasid, priv=priv)
        try:
            context = self._context(requester)
            requester.entry = self._entry(requester, context)
            self.users.setdefault(requester.source, {})[slot] = None
            return self._translation(requester, requester.entry)
        except VtdFault as e:
            return Blocked(requester, e)

    def keeps(self, space: DmaSpace) -> bool:
        """Whether a slot may keep *space*: what is not present is not remembered."""
        return not isinstance(space, (Blocked, Silent))

    def _context(self, requester: Requester) -> Context:
        """The context entry, from the cache or the tables. Raises VtdFault."""
        if requester.pasid is not None and self.tables.mode == r.TTM_LEGACY:
            raise VtdFault(Reason.SM_LEGACY_PASID)
        context = self.contexts.get(requester.source)
        if context is None:
            context = self.contexts[requester.source] = self.tables.context(requester.source)
        requester.suppress = context.suppress
        requester.ats = self.device_tlbs.enabled(requester.slot)
        if requester.ats and not context.dte:
            raise VtdFault(Reason.TRANSLATION_BLOCKED if context.entry is not None else Reason.SM_NO_DTE)
        return context

    def _entry(self, requester: Requester, context: Context) -> PasidEntry:
        """The PASID-table entry, or what a legacy context entry says. Raises VtdFault."""
        if context.entry is not None:
            return context.entry
        pasid = requester.pasid
        if pasid is None:
            pasid = context.rid_pasid
            requester.priv = context.rid_priv
            if pasid >= context.reach:
                raise VtdFault(Reason.SM_RID_PASID)
        elif not context.pasids:
            raise VtdFault(Reason.SM_NO_PASIDE)
        elif pasid >= context.pasids:
            raise VtdFault(Reason.SM_PASID_TOO_LARGE)
        known = self.entries.setdefault(pasid, {})
        entry = known.get(requester.source)
        if entry is None:
            try:
                entry = known[requester.source] = self.tables.pasid_entry(context, pasid)
            finally:
                if not known:
                    del self.entries[pasid]
        requester.suppress |= entry.suppress
        return entry

    def _translation(self, requester: Requester, entry: PasidEntry) -> DmaSpace:
        """The space that *entry* makes. Raises VtdFault."""
        if entry.pgtt == Pgtt.PASS_THROUGH:
            return Physical(requester.slot, self.phys, messages=requester.pasid is None)
        if requester.priv and requester.pasid is not None and not entry.sre:
            raise VtdFault(Reason.SM_NO_SRE)
        pasid = requester.pasid
        if pasid is None:
            pasid = self.contexts[requester.source].rid_pasid
        walk: Walk
        if entry.pgtt == Pgtt.SECOND:
            walk = self._second(entry)
            return self._translated(requester, walk, self.iotlbs.get(entry.did, SECOND), pasid)
        width = 57 if entry.five_levels else 48
        flags: dict[str, Any] = {"priv": requester.priv, "wpe": entry.wpe, "eafe": entry.eafe}
        large = 1 | (2 if self.cap & r.CAP_FS1GP else 0)
        if entry.pgtt == Pgtt.NESTED:
            tables = self.iotlbs.get(entry.did, SECOND)
            walk = Nested(self._second(entry), tables, entry.first, width, large, self.trace, **flags)
            iotlb = self.iotlbs.get(entry.did, NESTED, pasid, priv=requester.priv)
            return self._translated(requester, walk, iotlb, pasid)
        mem = self.phys.foreign_pgd.get(entry.first)
        if mem is not None:
            return Process(mem)
        walk = FirstStage(self.phys, entry.first, width, large, self.trace, **flags)
        iotlb = self.iotlbs.get(entry.did, FIRST, pasid, priv=requester.priv)
        return self._translated(requester, walk, iotlb, pasid)

    def _second(self, entry: PasidEntry) -> SecondStage:
        return SecondStage(
            self.phys,
            entry.second,
            entry.width,
            self.cap >> 34 & 15,
            self.trace,
            legacy=entry.legacy,
            ad=entry.second_ad,
        )

    def _translated(self, requester: Requester, walk: Walk, iotlb: Iotlb, pasid: int) -> Translated:
        device = self.device_tlbs.of(requester, pasid) if requester.ats else None
        return Translated(requester, walk, iotlb, device)

    def allows_page_requests(self, requester: Requester) -> bool:
        """PRE of the context entry. Raises VtdFault: it is clear, or there is no such entry."""
        if not self.enabled or self.tables.mode == r.TTM_ABORT or (requester.pasid or 0) >> PASID_BITS:
            return False
        if self.tables.mode == r.TTM_LEGACY:
            raise VtdFault(Reason.SM_LEGACY_PAGE_REQUEST)
        if not self._context(requester).pre:
            raise VtdFault(Reason.SM_NO_PRE)
        return True

    def request_page(self, slot: Slot, addr: int, write: bool, pasid: int | None, priv: bool, done: Answered) -> None:
        """A page request of PRI; *done* hears the response."""
        self.requests.request(slot, addr, write, pasid, priv, done)

    # ---- faults (VT-d 7.2)

    def record(self, requester: Requester, reason: Reason, addr: int, *, write: bool) -> None:
        """Into the fault recording register, unless the last one is still there; then the fault event."""
        if self.trace:
            self.trace(
                "vtd_fault", source=requester.source, pasid=requester.pasid, addr=addr, reason=int(reason), write=write
            )
        status = self.get32(r.FSTS)
        if status & r.PFO:
            return
        if self.get32(r.FRCD + 12) >> 31:
            self.raise_status(r.PFO)
            return
        high = 1 << 63 | (0 if write else 1 << 62) | reason << 32 | requester.source
        if requester.pasid is not None:
            high |= requester.pasid << 40 | 1 << 31 | requester.priv << 29
        self.set64(r.FRCD, addr & 0xFFFFFFFFFFFFF000)
        self.set64(r.FRCD + 8, high)
        self.raise_status(r.PPF)

    # ---- commands

    def on_root(self, value: int) -> None:
        """As software says; what is cached stays until it is invalidated."""
        self.tables.root = value

    def on_translation(self, *, enabled: bool) -> None:
        """Every slot begins anew: what was kept was of the other state."""
        self.users.clear()
        for slot in self.pci.slots.values():
            slot.forget()

    def on_context_command(self, granularity: int, did: int, source: int, mask: int) -> int:
        """CCMD."""
        if granularity:
            self._drop_contexts(granularity, did, source, mask)
        return granularity

    def on_iotlb_command(self, granularity: int, did: int, address: int, order: int) -> int:
        """IOTLB_REG."""
        if granularity:
            self._drop_translations(granularity, did, address, order if granularity == 3 else 64)
        return granularity

    def on_invalidate(self, what: Invalidation) -> None:
        """Empty the cache that a descriptor names."""
        if self.trace:
            self.trace("vtd_invalidate", kind=what.kind.name, granularity=what.granularity, did=what.did,
                       source=what.source, pasid=what.pasid, addr=what.addr, order=what.order)  # fmt: skip
        match what.kind:
            case Kind.CONTEXT:
                self._drop_contexts(what.granularity, what.did, what.source, what.mask)
            case Kind.IOTLB:
                self._drop_translations(what.granularity, what.did, what.addr, what.order)
            case Kind.PASID:
                self._drop_entries(what.granularity, what.did, what.pasid)
            case Kind.PASID_IOTLB:
                if not self._lost(what.did):
                    self.iotlbs.invalidate_pasid(what.did, what.pasid, what.addr, what.order)
                    self.device_tlbs.look()
            case Kind.DEVICE_TLB | Kind.PASID_DEVICE_TLB:
                self.device_tlbs.invalidate(what)
            case Kind.PAGE_RESPONSE:
                self.requests.respond(what)

    # ---- caches

    def _lost(self, did: int) -> bool:
        """Whether the fault "iotlb" loses an invalidation."""
        return self.kernel.faults.should_fail("iotlb", f"domain {did}")

    def _drop_translations(self, granularity: int, did: int, addr: int, order: int) -> None:
        if self._lost(did):
            return
        if granularity == 1:
            self.iotlbs.invalidate_all()
        else:
            self.iotlbs.invalidate_domain(did, addr, order)
        self.device_tlbs.look()

    def _drop_contexts(self, granularity: int, did: int, source: int, mask: int) -> None:
        """Context entries: all, those of a domain (in legacy mode an entry has one), or those of a device."""
        ignored = (0, 4, 6, 7)[mask]  # how many bits of the function number do not matter
        for known in list(self.contexts):
            context = self.contexts[known]
            if granularity == 2 and context.entry is not None and context.entry.did != did:
                continue
            if granularity == 3 and (known ^ source) & ~ignored:
                continue
            del self.contexts[known]
            self._forget(known)

    def _drop_entries(self, granularity: int, did: int, pasid: int) -> None:
        """PASID-table entries: all, those of a domain, or one PASID's in it."""
        for known in [pasid] if granularity == 1 else list(self.entries):
            entries = self.entries.get(known, {})
            for source in [s for s, entry in entries.items() if granularity == 3 or entry.did == did]:
                del entries[source]
                self._forget(source, known)
            if not entries:
                self.entries.pop(known, None)

    def _forget(self, source: int, pasid: int | None = None) -> None:
        """What slots of *source* keep of *pasid*, or at all."""
        slots = self.users.get(source, {})
        context = self.contexts.get(source)
        for slot in slots:
            if pasid is None or context is None:
                slot.forget()
            else:
                slot.forget_pasid(pasid, rid=pasid == context.rid_pasid)
        if pasid is None:
            self.users.pop(source, None)

    def on_drain(self) -> None:
        """Page requests are in their queue as soon as a device makes them: nothing is under way."""
