"""
PASIDs of a virtual DSA: the guest's are looked up in the ioasid set of its user, the host's reach the queue.

A descriptor for a shared queue has its host PASID from the processor, so there is nothing to program. A dedicated queue
has one PASID in its configuration: what the guest writes there is looked up, with a reference as long as the hardware
knows the number. UNBIND comes with a lock held, so the hardware is cleared by the ordered work queue, which whoever
unbinds flushes before the IOMMU's entry goes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pykernel.drivers.vdsa.commands import Status
from pykernel.iommu.aux_domain import iommu_aux_get_pasid
from pykernel.iommu.gpasid import GuestPasids
from pykernel.iommu.gpasid_fault import refusing_page_requests
from pykernel.iommu.ioasid import (
    INVALID_IOASID,
    IOASID_NOTIFY_BIND,
    IOASID_NOTIFY_UNBIND,
    IOASID_PRIO_DEVICE,
    IoasidNbArgs,
    IoasidSet,
    ioasid_find_by_spid,
    ioasid_find_mm_set,
    ioasid_put,
    ioasid_queue_work,
    ioasid_register_notifier_mm,
    ioasid_set_for_each_ioasid,
    ioasid_unregister_notifier_mm,
)
from pykernel.lib.notifier import NOTIFY_OK, NotifierBlock

if TYPE_CHECKING:
    from collections.abc import Iterable
    from contextlib import AbstractContextManager

    from pykernel.drivers.vdsa.device import VdsaDevice
    from pykernel.task import Mm

__all__ = ["Pasids"]


class Pasids:
    """
    The PASIDs of one device.

    Attributes:
        programmed: the host PASID of a guest's that the dedicated queue has, with a reference; or None.
    """

    def __init__(self, device: VdsaDevice) -> None:
        self.device = device
        self.kernel = device.kernel
        self.mm: Mm | None = None
        self.programmed: int | None = None
        self._nb = NotifierBlock(self._event, IOASID_PRIO_DEVICE)

    @property
    def default(self) -> int | None:
        """The host PASID for what the guest does without one; None, without a container: it can do nothing then."""
        return iommu_aux_get_pasid(self.device.mdev)

    # ---- the user's set

    def open(self) -> None:
        """
        From now on the IDs of the caller's address space count.

        Of a set that has IDs already nothing was missed, for nothing is remembered here that the set does not know.
        When it goes, those of the next one count.
        """
        mm = self.kernel.current.mm
        if mm is not None:
            ioasid_register_notifier_mm(self.kernel, mm, self._nb, late=True)
        self.mm = mm

    def close(self) -> None:
        """The device is closed; its queue is off."""
        if self.mm is not None:
            ioasid_unregister_notifier_mm(self.kernel, self.mm, self._nb)
        self.mm = None

    @property
    def set(self) -> IoasidSet | None:
        """The set of who opened the device."""
        return None if self.mm is None else ioasid_find_mm_set(self.kernel, self.mm)

    def host_pasid(self, guest: int, *, get: bool = False) -> int | None:
        """The host's number of a guest PASID; None: it has none."""
        owner = self.set
        if owner is None:
            return None
        found = ioasid_find_by_spid(owner, guest, get)
        return None if found == INVALID_IOASID else found

    def host_pasids(self) -> list[int]:
        """All of the user's, the default one included."""
        default = self.default
        found: list[int] = [] if default is None else [default]
        owner = self.set
        if owner is not None:
            ioasid_set_for_each_ioasid(owner, lambda number, _: found.append(number))
        return found

    def refusing(self, pasids: Iterable[int]) -> AbstractContextManager[None]:
        """While what is in the queue is forgotten, nothing waits for a page that the guest would have to bring."""
        return refusing_page_requests(self.kernel.sub(GuestPasids), self.device.wq.idxd.pdev, pasids)

    def guest_pasid(self, pasid: int) -> int | None:
        """What the guest calls a host PASID; None: it is none of the guest's."""
        owner = self.set
        data = None if owner is None else owner.members.get(pasid)
        return None if data is None or data.spid == INVALID_IOASID else data.spid

    # ---- the dedicated queue

    def enable(self) -> int:
        """
        Turn the dedicated queue on for the PASID in the virtual WQCFG; the status of the command.

        A guest PASID that is not bound yet is programmed when it is. Until then, and without any PASID, the host's
        queue stays off and takes nothing: without one its DMA would go where the host's goes.
        """
        device = self.device
        flags = device.regs.wqcfg[0].flags
        if flags.pasid_en:
            return self._program()
        default = self.default
        self._trace("default", None, default)
        return Status.SUCCESS if default is None else device.host.enable(default, priv=False)

    def _program(self) -> int:
        flags = self.device.regs.wqcfg[0].flags
        pasid = self.host_pasid(flags.pasid, get=True)
        self._trace("program" if pasid is not None else "wait", flags.pasid, pasid)
        if pasid is None:
            return Status.SUCCESS
        status = self.device.host.enable(pasid, priv=bool(flags.priv))
        if status:
            ioasid_put(self.kernel, None, pasid)
        else:
            self.programmed = pasid
        return status

    def disable(self) -> None:
        """Turn it off; the hardware knows the PASID no more."""
        if self.device.wq.shared:
            return
        self.device.host.disable()
        pasid, self.programmed = self.programmed, None
        if pasid is not None:
            ioasid_put(self.kernel, None, pasid)

    # ---- events

    def _event(self, nb: NotifierBlock, event: int, args: IoasidNbArgs) -> int:
        """With the allocator's lock held: the hardware's part waits for the ordered work queue."""
        if event == IOASID_NOTIFY_BIND:
            ioasid_queue_work(self.kernel, lambda: self._bound(args.spid))
        elif event == IOASID_NOTIFY_UNBIND:
            ioasid_queue_work(self.kernel, lambda: self._unbound(args.id, args.spid))
        return NOTIFY_OK

    def _bound(self, spid: int) -> None:
        device = self.device
        with device.dev_lock:
            regs = device.regs
            flags, perm = regs.wqcfg[0].flags, regs.perm[1].perm
            if device.wq.dedicated and device.commands.wq_on and not device.host.on and flags.pasid == spid:
                self._program()
            if perm.pasid_en and perm.pasid == spid:
                device.commands.program_ims()

    def _unbound(self, pasid: int, spid: int) -> None:
        """
        Nothing of *pasid* stays: what is in the queue is forgotten, not waited for.

        A guest that lets a PASID go has drained it; one that was killed has nobody who would answer the page requests
        that a drain waits for.
        """
        device = self.device
        with self.refusing([pasid]), device.dev_lock:
            if device.wq.shared:
                # by the host's number, whether the guest's queue is on or not: what was on its way is there as well
                device.host.abort_pasid(pasid)
                self._trace("clear", spid, pasid)
            elif self.programmed == pasid:
                self._trace("clear", spid, pasid)
                device.host.abort()
                self.disable()
            perm = device.regs.perm[1].perm
            if perm.pasid_en and perm.pasid == spid:
                device.ims.mask()

    def _trace(self, action: str, gpasid: int | None, hpasid: int | None) -> None:
        if self.kernel.trace:
            self.kernel.trace("vdsa_pasid", device=self.device.name, action=action, gpasid=gpasid, hpasid=hpasid)
