"""Page requests of a machine's devices: from the host into the guest's queue, and the guest's answers back."""

from __future__ import annotations

import os
from errno import EINVAL, ENODEV
from typing import TYPE_CHECKING, Final

from pykernel.hw.vtd.codes import Reason
from pykernel.hw.vtd.prq import FAILURE, SUCCESS
from pykernel.tools.vmm.nesting import Nesting, request_words, response_of
from pykernel.uapi.linux import iommu as u
from pykernel.uapi.linux.iommu import (
    IOMMU_FAULT_PAGE_REQ,
    IOMMU_FAULT_PERM_WRITE,
    IOMMU_FAULT_UNRECOV_PASID_VALID,
)

if TYPE_CHECKING:
    from pykernel.hw.vtd.queue import Invalidation
    from pykernel.tools.vmm.pasids import GuestPasids
    from pykernel.tools.vmm.viommu import VirtualIommu
    from pykernel.uapi.linux.iommu import iommu_fault_page_request, iommu_fault_unrecoverable

__all__ = ["PageRequests"]

POLLIN: Final = 1
REASONS: Final[dict[int, Reason]] = {
    u.IOMMU_FAULT_REASON_PASID_FETCH: Reason.SM_PASID_ACCESS,
    u.IOMMU_FAULT_REASON_BAD_PASID_ENTRY: Reason.SM_PASID_INVALID,
    u.IOMMU_FAULT_REASON_PASID_INVALID: Reason.SM_PASID_NOT_PRESENT,
    u.IOMMU_FAULT_REASON_WALK_EABT: Reason.SM_FS_ACCESS,
    u.IOMMU_FAULT_REASON_PERMISSION: Reason.SM_NO_WRITE,
    u.IOMMU_FAULT_REASON_OOR_ADDRESS: Reason.SM_NOT_CANONICAL,
}


class PageRequests:
    """
    The requests of a container's devices.

    Attributes:
        sources: IOMMU group of the host -> the requester ID of the device in the guest.
        waiting: (requester, request group) -> the IOMMU group and the request that the guest has not answered.
    """

    def __init__(self, nesting: Nesting, pasids: GuestPasids, viommu: VirtualIommu) -> None:
        self.nesting, self.pasids, self.viommu = nesting, pasids, viommu
        self.proc = nesting.proc
        self.sources: dict[int, int] = {}
        self.waiting: dict[tuple[int, int], tuple[int, iommu_fault_page_request]] = {}
        self._stop = self.proc.eventfd(0, os.O_NONBLOCK)

    def loop(self) -> None:
        """The thread that hands them on, until :meth:`stop`."""
        fd = self.nesting.open_faults()
        while True:
            ready = [ready for ready, _ in self.proc.poll([(fd, POLLIN), (self._stop, POLLIN)], -1)]
            if self._stop in ready:
                return
            self._take()

    def drain(self) -> None:
        """Hand on all that there is."""
        while self.proc.poll([(self.nesting.faults, POLLIN)], 0):
            self._take()

    def _take(self) -> None:
        group, fault = self.nesting.read_fault()
        if fault.type == IOMMU_FAULT_PAGE_REQ:
            self._hand_on(group, fault.prm)
        else:
            self._record(group, fault.event)

    def _record(self, group: int, event: iommu_fault_unrecoverable) -> None:
        """A request that was blocked for good: a fault record of the guest's."""
        guest = self.pasids.guest_of(event.pasid) if event.flags & IOMMU_FAULT_UNRECOV_PASID_VALID else None
        write = bool(event.perm & IOMMU_FAULT_PERM_WRITE)
        reason = REASONS.get(event.reason, Reason.SM_FS_NOT_PRESENT)
        self.viommu.fault(self.sources[group], event.addr, reason, write=write, pasid=guest)

    def _hand_on(self, group: int, prm: iommu_fault_page_request) -> None:
        guest, source = self.pasids.guest_of(prm.pasid), self.sources[group]
        if guest is None:
            self._answer(group, prm, FAILURE)
        else:
            key = source, prm.grpid & 0x1FF
            self.waiting[key] = (group, prm)  # first: the guest may answer before this goes on
            if not self.viommu.page_request(request_words(source, guest, prm)):
                self.waiting.pop(key, None)
                self._answer(group, prm, SUCCESS)  # a full queue loses it: the device asks again

    def respond(self, what: Invalidation) -> None:
        """The guest answers; what nobody waits for is dropped."""
        index, code = response_of(what)
        key = what.source, index
        waiting = self.waiting.get(key)
        if waiting is not None and self.pasids.host_of.get(what.pasid) == waiting[1].pasid:
            del self.waiting[key]
            self._answer(*waiting, code)

    def _answer(self, group: int, prm: iommu_fault_page_request, code: int) -> None:
        """Unless the host has answered in the guest's place: it waits for ten seconds, or until the guest unbinds."""
        try:
            self.nesting.answer(group, prm, code)
        except OSError as e:
            if e.errno not in (EINVAL, ENODEV):
                raise

    def stop(self) -> None:
        """Let the thread end."""
        self.proc.write(self._stop, (1).to_bytes(8, "little"))

    def refuse(self) -> None:
        """Whom the guest has not answered is refused."""
        waiting, self.waiting = self.waiting, {}
        for group, prm in waiting.values():
            self._answer(group, prm, FAILURE)

    def close(self) -> None:
        """Who still waits is refused."""
        self.refuse()
        self.proc.close(self._stop)
