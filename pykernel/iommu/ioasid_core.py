"""What the allocator of IO address space IDs knows: IDs, their sets, and what always holds between them."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING, Any, Final

from pykernel.errors import Oops
from pykernel.iommu.ioasid_notify import IOASID_NOTIFY_FLAG_SET, Chains, IoasidNbArgs, IoasidNotifyVal
from pykernel.iommu.ioasid_space import INVALID_IOASID, PCI_PASID_MAX, AllocatorGroup, Allocators
from pykernel.iommu.ioasid_wq import OrderedWorkqueue
from pykernel.lib.idr import Ida
from pykernel.lib.locking import Spinlock
from pykernel.lib.ratelimit import RatelimitState
from pykernel.log import ERR, INFO, WARNING
from pykernel.syscalls import Pids

if TYPE_CHECKING:
    from pykernel.kernel import Kernel
    from pykernel.task import Mm

__all__ = [
    "IOASID_SET_TYPE_MM",
    "IOASID_SET_TYPE_NR",
    "IOASID_SET_TYPE_NULL",
    "Ioasid",
    "IoasidCgroup",
    "IoasidData",
    "IoasidSet",
    "IoasidState",
]

IOASID_SET_TYPE_NULL: Final = 1  # the document of version 4 says NONE
IOASID_SET_TYPE_MM: Final = 2
IOASID_SET_TYPE_NR: Final = 3


class IoasidState(Enum):
    """
    ``enum ioasid_state``, and FREE, which an ID has that nobody was given.

    No code of Linux ever assigns ACTIVE: who counts the references knows. So it is here.
    """

    FREE = "FREE"
    IDLE = "IDLE"
    ACTIVE = "ACTIVE"
    FREE_PENDING = "FREE_PENDING"


class IoasidData:
    """``struct ioasid_data``: one ID; *pending* is that somebody freed it."""

    __slots__ = ("group", "id", "pending", "private", "refs", "set", "spid")

    def __init__(self, number: int, owner: IoasidSet, private: Any, group: AllocatorGroup) -> None:
        self.id = number
        self.spid = INVALID_IOASID
        self.set = owner
        self.private = private
        self.refs = 1
        self.pending = False
        self.group = group

    @property
    def state(self) -> IoasidState:
        """FREE_PENDING, ACTIVE when somebody but the core has a reference, else IDLE."""
        if self.pending:
            return IoasidState.FREE_PENDING
        return IoasidState.ACTIVE if self.refs > 1 else IoasidState.IDLE

    def args(self) -> IoasidNbArgs:
        """What notifiers are told of it."""
        return IoasidNbArgs(self.id, self.spid, self.set, self.private)


class IoasidCgroup:
    """A cgroup of the controller ``ioasids``: at most *limit* IDs of the sets of its processes; None: no limit."""

    __slots__ = ("limit", "usage")

    def __init__(self, limit: int | None = None) -> None:
        self.limit, self.usage = limit, 0

    def try_charge(self) -> bool:
        """One more; False: that would be too many. C: ``int ioasid_cg_charge(struct ioasid_set *)``."""
        if self.limit is not None and self.usage >= self.limit:
            return False
        self.usage += 1
        return True

    def uncharge(self) -> None:
        """One less. C: ``void ioasid_cg_uncharge(struct ioasid_set *)``."""
        self.usage -= 1


class IoasidSet:
    """
    ``struct ioasid_set``: IDs of one owner.

    Attributes:
        token: the address space of an MM set.
        quota: how many IDs it may have.
        members: its IDs, those that wait for their users included; *spids* are the guest's.
        nh: its chain.
        free_pending: it goes with its last ID.
    """

    __slots__ = ("__weakref__", "cgroup", "core", "free_pending", "id", "members", "nh", "quota", "spids", "token",
                 "type")  # fmt: skip

    def __init__(self, core: Ioasid, number: int, token: Any, type: int, quota: int) -> None:
        self.core, self.id, self.token, self.type, self.quota = core, number, token, type, quota
        self.members: dict[int, IoasidData] = {}
        self.spids: dict[int, IoasidData] = {}
        self.nh = core.chains.make()
        self.free_pending = False
        self.cgroup: IoasidCgroup | None = None

    def __repr__(self) -> str:
        return f"IOASID set {self.id}"

    @property
    def nr_ioasids(self) -> int:
        """How many IDs it has, which is also how many references to it there are."""
        return len(self.members)


class _AllocatorLock(Spinlock):
    """``ioasid_allocator_lock``. A notifier that takes it again would wait for itself: an oops here."""

    __slots__ = ()

    def lock(self) -> None:
        """C: ``spin_lock(&ioasid_allocator_lock)``. Raises Oops: the caller holds it."""
        if self.count and self.holder is self.sched.thread:
            raise Oops("possible recursive locking: a notifier of an IOASID may use the _locked calls only")
        super().lock()


class Ioasid:
    """
    The allocator of one kernel.

    Attributes:
        capacity: how many IDs there are, 0 included; *capacity_avail* of them are in no set's quota and not reserved.
        ids: every ID that is not FREE.
        cgroup_of: in which cgroup of ``ioasids`` a new MM set is charged.
        for_users: the module that gives IDs to processes is loaded; with it comes what they need of others.
    """

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.lock = _AllocatorLock(kernel, "ioasid_allocator_lock")
        self.capacity = self.capacity_avail = PCI_PASID_MAX
        self.reserved = 0
        self.ids: dict[int, IoasidData] = {}
        self.sets: dict[int, IoasidSet] = {}
        self.mm_sets: dict[Mm, IoasidSet] = {}
        self.set_ids = Ida(faults=kernel.faults, where="ioasid_set_alloc")
        self.allocators = Allocators(kernel)
        self.chains = Chains(kernel)
        self.wq = OrderedWorkqueue(kernel, "ioasid_wq")
        self.cgroup_of: Callable[[Mm], IoasidCgroup | None] = lambda _mm: None
        self.for_users = False
        self.limits: dict[str, RatelimitState] = {}
        kernel.check_leaks(self.leaks)

    def say(self, level: int, text: str) -> None:
        """A line in dmesg; Linux gives these no prefix."""
        self.kernel.log.printk(level, text)

    def say_limited(self, where: str, text: str) -> None:
        """What a user could make too many of. C: ``pr_err_ratelimited()`` in function *where*."""
        if where not in self.limits:
            self.limits[where] = RatelimitState(
                self.kernel.sched.clock_ns, lambda n: self.say(WARNING, f"{where}: {n} callbacks suppressed")
            )
        if self.limits[where].ratelimit():
            self.say(ERR, text)

    def is_valid(self, owner: IoasidSet) -> bool:
        """C: ``bool ioasid_set_is_valid(struct ioasid_set *)``."""
        return self.sets.get(owner.id) is owner

    def tell(self, data: IoasidData, event: int, flags: int) -> int:
        """C: ``static int ioasid_notify(struct ioasid_data *, enum ioasid_notify_val, unsigned int)``."""
        if self.kernel.trace:
            self.kernel.trace("ioasid_notify", event=IoasidNotifyVal(event).name[14:], id=data.id, spid=data.spid)
        if flags == IOASID_NOTIFY_FLAG_SET and data.set.nh.head is None:
            return 0
        return self.chains.call(event, data.args(), flags)

    def reclaim(self, data: IoasidData) -> None:
        """The last reference went. C: ``static void ioasid_do_free_locked(struct ioasid_data *)``."""
        owner = data.set
        self.allocators.free(data.id, data.group)
        del self.ids[data.id], owner.members[data.id]
        if owner.spids.get(data.spid) is data:
            del owner.spids[data.spid]
        if owner.cgroup is not None:
            owner.cgroup.uncharge()
        if owner.free_pending and not owner.members:
            self.say(INFO, f"ioasid_do_free_locked free set set->id: {owner.id}")
            self.destroy(owner)

    def destroy(self, owner: IoasidSet) -> None:
        """The set goes: its token is free, its quota the machine's again, who listened by mm waits again."""
        del self.sets[owner.id]
        self.set_ids.free(owner.id)
        if owner.type == IOASID_SET_TYPE_MM:
            del self.mm_sets[owner.token]
        self.capacity_avail += owner.quota
        self.chains.park(owner)

    def leaks(self) -> list[str]:
        """IDs of address spaces that are not given back, with who still has them."""
        pids = self.kernel.sub(Pids)
        return [
            f"IOASID {data.id} ({data.state.value}, {data.refs} reference{'s' * (data.refs > 1)}) of the set of "
            f"{pids.of_mm(owner.token)}{self.kernel.origin(owner)}"
            for owner in self.mm_sets.values()
            for data in owner.members.values()
        ]

    def _check(self) -> None:
        """What always holds, for tests. Raises AssertionError."""
        sets, ids = list(self.sets.values()), self.ids
        assert self.capacity == self.capacity_avail + self.reserved + sum(s.quota for s in sets), "capacity"
        assert 0 <= self.capacity_avail <= self.capacity <= PCI_PASID_MAX
        assert {m: d for s in sets for m, d in s.members.items()} == ids, "each ID is a member of one live set"
        for number, data in ids.items():
            assert 0 < number < PCI_PASID_MAX, "20 bits, and not 0"
            assert data.id == number
            assert data.refs > 0
            assert not self.allocators.space.is_free(number)
        for s in sets:
            assert {d.spid: d for d in s.members.values() if d.spid != INVALID_IOASID} == s.spids, "SPIDs"
            assert len(s.members) <= s.quota
            assert s.members or not s.free_pending
        assert self.mm_sets == {s.token: s for s in sets if s.type == IOASID_SET_TYPE_MM}
        assert self.allocators.space.taken() == len(ids), "the map of numbers"
        groups = [self.allocators.default, *self.allocators.groups]
        for group in groups:
            assert group.live == sum(d.group is group for d in ids.values())
        assert self.allocators.active is [*self.allocators.groups, self.allocators.default][0]
        for entry in self.chains.pending:
            assert entry.set is None or (self.is_valid(entry.set) and entry.set.token is entry.mm)
