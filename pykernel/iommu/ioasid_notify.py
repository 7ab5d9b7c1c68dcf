"""
Who hears of what happens to an IOASID (drivers/iommu/ioasid.c of the series "IOASID extensions for guest SVA").

There is a chain for all IDs and one of each set; within a chain the higher priority is called first. FREE goes to the
chain of all first, then to the set's, so a priority of one chain does not come before another's of the other: that is
why a processor's tables hang on UNBIND, which goes to the set's chain only. Of the two orders that were posted, that of
version 4 stands here: CPU, IOMMU, DEVICE, LAST (version 3 had DEVICE before IOMMU; CPU is first in both).

Callbacks run with the allocator's spinlock held: they must not sleep, may use the ``_locked`` calls only, and cause no
event themselves. What must wait goes to ``ioasid_queue_work()``.
"""

from __future__ import annotations

from enum import IntEnum
from errno import EBUSY, EINVAL
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from pykernel.errors import err
from pykernel.lib.notifier import Notifier, NotifierBlock, NotifierFlavour
from pykernel.log import ERR

if TYPE_CHECKING:
    from pykernel.iommu.ioasid_core import IoasidSet
    from pykernel.kernel import Kernel
    from pykernel.task import Mm

__all__ = [
    "IOASID_NOTIFY_ALLOC",
    "IOASID_NOTIFY_BIND",
    "IOASID_NOTIFY_FLAG_ALL",
    "IOASID_NOTIFY_FLAG_SET",
    "IOASID_NOTIFY_FREE",
    "IOASID_NOTIFY_UNBIND",
    "IOASID_PRIO_CPU",
    "IOASID_PRIO_DEVICE",
    "IOASID_PRIO_IOMMU",
    "IOASID_PRIO_LAST",
    "Chains",
    "IoasidNbArgs",
    "IoasidNotifyVal",
    "IoasidPrio",
]


class IoasidNotifyVal(IntEnum):
    """``enum ioasid_notify_val``: the events."""

    IOASID_NOTIFY_ALLOC = 1
    IOASID_NOTIFY_FREE = 2
    IOASID_NOTIFY_BIND = 3
    IOASID_NOTIFY_UNBIND = 4


IOASID_NOTIFY_ALLOC, IOASID_NOTIFY_FREE, IOASID_NOTIFY_BIND, IOASID_NOTIFY_UNBIND = IoasidNotifyVal

IOASID_NOTIFY_FLAG_ALL: Final = 1 << 0
IOASID_NOTIFY_FLAG_SET: Final = 1 << 1


class IoasidPrio(IntEnum):
    """``enum ioasid_notifier_prios``: bigger is called first."""

    IOASID_PRIO_LAST = 0
    IOASID_PRIO_DEVICE = 1
    IOASID_PRIO_IOMMU = 2
    IOASID_PRIO_CPU = 3


IOASID_PRIO_LAST, IOASID_PRIO_DEVICE, IOASID_PRIO_IOMMU, IOASID_PRIO_CPU = IoasidPrio


class IoasidNbArgs(NamedTuple):
    """``struct ioasid_nb_args``: the host's ID, the guest's (or INVALID_IOASID), their set, what was attached."""

    id: int
    spid: int
    set: IoasidSet
    pdata: Any


class PendingNb:
    """``struct ioasid_set_nb``: *nb* wants to hear of the set of *mm*; *set* is None until there is one."""

    __slots__ = ("mm", "nb", "set")

    def __init__(self, mm: Mm, nb: NotifierBlock) -> None:
        self.mm, self.nb = mm, nb
        self.set: IoasidSet | None = None


class Chains:
    """All chains of a kernel."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.all = self.make()
        self.pending: list[PendingNb] = []

    def make(self) -> Notifier:
        """C: ``ATOMIC_INIT_NOTIFIER_HEAD(head)``."""
        sched = self.kernel.sched
        return Notifier(NotifierFlavour.ATOMIC, might_sleep=lambda: sched.might_sleep("synchronize_rcu()"))

    def call(self, event: int, args: IoasidNbArgs, flags: int) -> int:
        """Tell the chains that *flags* name; what the last one called said. Raises EINVAL: another flag."""
        if flags & ~(IOASID_NOTIFY_FLAG_ALL | IOASID_NOTIFY_FLAG_SET):
            raise err(EINVAL, f"flags {flags:#x}")
        ret = 0
        if flags & IOASID_NOTIFY_FLAG_ALL:
            ret = self.all.call_chain(event, args)
        if flags & IOASID_NOTIFY_FLAG_SET:
            ret = args.set.nh.call_chain(event, args)
        return ret

    # ---- by address space, before there is a set

    def add_mm(self, mm: Mm, nb: NotifierBlock, found: IoasidSet | None, *, late: bool) -> None:
        """
        Park *nb*, or put it on the chain of *found*; *late*: it looks up what it missed.

        Raises:
            EBUSY: it waits for an address space; Linux asks for this one only, but a block is on one chain at a time.
                Or *found* has IDs, whose events it missed.
        """
        if self.is_by_mm(nb):
            raise err(EBUSY, "this block waits for an address space already")
        if found is not None and found.nr_ioasids and not late:
            raise err(EBUSY, f"the set has {found.nr_ioasids} IDs")
        self.kernel.faults.alloc("ioasid_register_notifier_mm")
        entry = PendingNb(mm, nb)
        if found is not None:
            found.nh.register(nb)
            entry.set = found
        self.pending.append(entry)

    def activate(self, made: IoasidSet) -> None:
        """The set of an address space is there: who waited for it is put on its chain."""
        for entry in self.pending:
            if entry.mm is made.token and entry.set is None:
                made.nh.register(entry.nb)
                entry.set = made

    def park(self, gone: IoasidSet) -> None:
        """The set is destroyed: they wait for the next one of that address space."""
        for entry in self.pending:
            if entry.set is gone:
                entry.set = None

    def drop_mm(self, mm: Mm, nb: NotifierBlock) -> IoasidSet | None:
        """Forget the entry; the set whose chain *nb* is on, None: on no chain, or there was no entry."""
        for entry in self.pending:
            if entry.mm is mm and entry.nb is nb:
                self.pending.remove(entry)
                return entry.set
        self.kernel.log.printk(ERR, "Notifier block is not registered for this mm")
        return None

    def is_by_mm(self, nb: NotifierBlock) -> bool:
        """Whether *nb* came by its address space."""
        return any(entry.nb is nb for entry in self.pending)
