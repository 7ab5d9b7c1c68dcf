"""
Page requests (PCI Express PRI; VT-d 7.4 to 7.7): a device asks for a page, software answers.

A request is a descriptor of 32 bytes in a ring in RAM, and an event; the answer comes through the invalidation queue. A
ring that is full loses requests: they are answered with success at once, so the device tries again and asks anew.
"""

from __future__ import annotations

from struct import pack
from typing import TYPE_CHECKING, Final

from pykernel.hw.vtd import regs as r
from pykernel.hw.vtd.codes import VtdFault
from pykernel.pci.function import DmaFault

if TYPE_CHECKING:
    from pykernel.hw.vtd.queue import Invalidation
    from pykernel.hw.vtd.unit import VtdUnit
    from pykernel.pci.slot import Answered, Slot

__all__ = ["FAILURE", "INVALID", "SUCCESS", "PageRequests"]

SUCCESS, INVALID, FAILURE = 0, 1, 0xF
PAGE_REQUEST: Final = 1  # the descriptor's type
GROUPS: Final = 512
WIDTH: Final = 32


class PageRequests:
    """The ring of a unit, and the requests that wait for an answer."""

    def __init__(self, unit: VtdUnit) -> None:
        self.unit = unit
        self.waiting: dict[tuple[int, int], tuple[int | None, Answered]] = {}  # (source, group) -> PASID, who waits
        self._group = 0

    def request(self, slot: Slot, addr: int, write: bool, pasid: int | None, priv: bool, done: Answered) -> None:
        """Ask for the page of *addr*; *done* hears the response code."""
        from pykernel.hw.vtd.unit import Requester

        unit = self.unit
        requester = Requester(unit, slot, pasid, priv=priv)
        try:
            allowed = unit.allows_page_requests(requester)
        except VtdFault as e:
            try:
                requester.refuse(e, addr & -4096, write=write)
            except DmaFault:
                allowed = False
        if not allowed:
            done(FAILURE)
            return
        group = self._free_group(slot.source)
        if group is None or not self._post(slot.source, addr, write, pasid, priv, group):
            done(SUCCESS)
            return
        self.waiting[slot.source, group] = (pasid, done)
        self._tell(r.PRS_PPR)

    def _free_group(self, source: int) -> int | None:
        for n in range(GROUPS):
            group = (self._group + n) % GROUPS
            if (source, group) not in self.waiting:
                self._group = (group + 1) % GROUPS
                return group
        return None

    def _post(self, source: int, addr: int, write: bool, pasid: int | None, priv: bool, group: int) -> bool:
        """Write a descriptor; False: there is no room, which is told as an overflow."""
        unit = self.unit
        pqa, head, tail = unit.get64(r.PQA), unit.get64(r.PQH), unit.get64(r.PQT)
        size = 4096 << (pqa & 7)
        after = (tail + WIDTH) % size
        if unit.get32(r.PRS) & r.PRS_PRO:
            return False
        if after == head or tail >= size:
            self._tell(r.PRS_PRO)
            return False
        low = PAGE_REQUEST | source << 16
        if pasid is not None:
            low |= 1 << 8 | pasid << 32 | priv << 53
        # read, write, last in its group
        high = 1 | write << 1 | 1 << 2 | group << 3 | addr & 0xFFFFFFFFFFFFF000
        try:
            unit.write_phys((pqa & 0xFFFFFFFFFFFFF000) + tail, pack("<4Q", low, high, 0, 0))
        except (LookupError, OSError):
            return False
        unit.set64(r.PQT, after)
        if unit.trace:
            unit.trace("vtd_page_request", source=source, pasid=pasid, addr=addr, write=write, group=group)
        return True

    def _tell(self, bit: int) -> None:
        status = self.unit.get32(r.PRS)
        self.unit.set32(r.PRS, status | bit)
        if not status & bit:
            self.unit.page_event.fire()

    def respond(self, what: Invalidation) -> None:
        """A page group response; one that nobody waits for is dropped."""
        low, high = what.words[:2]
        group = high >> 3 & 0x1FF
        waiting = self.waiting.get((what.source, group))
        if waiting is None:
            return
        pasid, done = waiting
        if pasid is not None and (not low & 1 << 4 or pasid != what.pasid):
            return
        del self.waiting[what.source, group]
        done(low >> 12 & 0xF)
