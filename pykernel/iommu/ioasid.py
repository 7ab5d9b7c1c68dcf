"""
IO address space IDs (drivers/iommu/ioasid.c): PASIDs for the whole machine, in sets with quotas, with references.

Linux 5.5 to 6.3 had the core: IDs, private data, custom allocators. The rest is the series "IOASID extensions for guest
SVA" (2020 to 2021), which was never merged: a set of each virtual machine, the guest's ID (SPID) of each of the host's,
and events for those whose hardware knows an ID. Where its versions differ, the code of the last one stands here, but
for what was wrong with it:

- A failed :func:`ioasid_alloc` gives INVALID_IOASID, whatever failed, and takes back what it was charged.
- An ID that waits for its users stays a member of its set until it is reclaimed.
- What a set had of the machine's IDs goes back when it is destroyed.
- A SPID is not attached to an ID that is being freed or has one; :func:`ioasid_find_by_spid` takes no reference on
  such an ID, and does not search.
- IDs have 20 bits. What is wider is refused: to cut it off would give one user the ID of another.

Functions whose C has no set take the kernel first, as do those that may be given none. All but the look-ups hold one
spinlock, under which the notifiers are called; ``_locked`` ones are for those.
"""

from __future__ import annotations

from collections.abc import Callable
from errno import EACCES, EBUSY, EEXIST, EINVAL, ENOENT, ENOSPC, EPERM
from typing import TYPE_CHECKING, Any

from pykernel.errors import err
from pykernel.iommu.ioasid_core import (
    IOASID_SET_TYPE_MM,
    IOASID_SET_TYPE_NR,
    IOASID_SET_TYPE_NULL,
    Ioasid,
    IoasidCgroup,
    IoasidData,
    IoasidSet,
    IoasidState,
)
from pykernel.iommu.ioasid_notify import (
    IOASID_NOTIFY_ALLOC,
    IOASID_NOTIFY_BIND,
    IOASID_NOTIFY_FLAG_ALL,
    IOASID_NOTIFY_FLAG_SET,
    IOASID_NOTIFY_FREE,
    IOASID_NOTIFY_UNBIND,
    IOASID_PRIO_CPU,
    IOASID_PRIO_DEVICE,
    IOASID_PRIO_IOMMU,
    IOASID_PRIO_LAST,
    IoasidNbArgs,
)
from pykernel.iommu.ioasid_space import INVALID_IOASID, PCI_PASID_MAX, IoasidAllocatorOps
from pykernel.log import ERR, INFO, WARNING

if TYPE_CHECKING:
    from pykernel.kernel import Kernel
    from pykernel.lib.notifier import NotifierBlock
    from pykernel.task import Mm

__all__ = [
    "INVALID_IOASID",
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
    "IOASID_SET_TYPE_MM",
    "IOASID_SET_TYPE_NR",
    "IOASID_SET_TYPE_NULL",
    "Ioasid",
    "IoasidAllocatorOps",
    "IoasidCgroup",
    "IoasidData",
    "IoasidNbArgs",
    "IoasidSet",
    "IoasidState",
    "ioasid_adjust_set",
    "ioasid_alloc",
    "ioasid_alloc_set",
    "ioasid_attach_data",
    "ioasid_attach_spid",
    "ioasid_cancel_capacity",
    "ioasid_detach_data",
    "ioasid_detach_spid",
    "ioasid_find",
    "ioasid_find_by_spid",
    "ioasid_find_mm_set",
    "ioasid_find_set",
    "ioasid_flush_work",
    "ioasid_free",
    "ioasid_free_all_in_set",
    "ioasid_get",
    "ioasid_get_if_owned",
    "ioasid_get_locked",
    "ioasid_install_capacity",
    "ioasid_notify",
    "ioasid_put",
    "ioasid_put_locked",
    "ioasid_queue_work",
    "ioasid_register_allocator",
    "ioasid_register_notifier",
    "ioasid_register_notifier_mm",
    "ioasid_reserve_capacity",
    "ioasid_set_alloc",
    "ioasid_set_for_each_ioasid",
    "ioasid_set_free",
    "ioasid_unregister_allocator",
    "ioasid_unregister_notifier",
    "ioasid_unregister_notifier_mm",
]


# ---- the machine's IDs


def ioasid_install_capacity(kernel: Kernel, total: int) -> None:
    """
    The IOMMU's driver says how many IDs its hardware has; once, later calls are told in the log and ignored.

    C: ``void ioasid_install_capacity(ioasid_t total)``. More than 20 bits, or less than sets were promised, is ignored
    as well, and no ID is given out that is *total* or more.
    """
    core = kernel.sub(Ioasid)
    with core.lock:
        if core.capacity != PCI_PASID_MAX:
            core.say(WARNING, "IOASID capacity is already set.")
            return
        taken = core.capacity - core.capacity_avail
        if not taken <= total <= PCI_PASID_MAX:
            core.say(WARNING, f"IOASID capacity {total} cannot be used.")
            return
        core.capacity, core.capacity_avail = total, total - taken


def ioasid_reserve_capacity(kernel: Kernel, nr_ioasid: int) -> int:
    """
    Set IDs aside; 0: all that are left. How many were.

    C: ``int ioasid_reserve_capacity(ioasid_t nr_ioasid)``, whose comment says that it returns what remains.

    Raises:
        ENOSPC: there are not as many.
    """
    core = kernel.sub(Ioasid)
    with core.lock:
        if nr_ioasid > core.capacity_avail:
            raise err(ENOSPC, f"{nr_ioasid} wanted, {core.capacity_avail} left")
        nr_ioasid = nr_ioasid or core.capacity_avail
        core.capacity_avail -= nr_ioasid
        core.reserved += nr_ioasid
        return nr_ioasid


def ioasid_cancel_capacity(kernel: Kernel, nr_ioasid: int) -> int:
    """
    Give reserved IDs back; how many can be had now. C: ``int ioasid_cancel_capacity(ioasid_t nr_ioasid)``.

    Raises:
        EINVAL: more than were reserved. Linux asks only whether there would be more than the machine has, and would
            take what is a set's.
    """
    core = kernel.sub(Ioasid)
    with core.lock:
        if nr_ioasid > core.reserved:
            raise err(EINVAL, f"{nr_ioasid} given back, {core.reserved} were reserved")
        core.reserved -= nr_ioasid
        core.capacity_avail += nr_ioasid
        return core.capacity_avail


# ---- sets


def ioasid_set_alloc(kernel: Kernel, token: Any, quota: int, type: int) -> IoasidSet:
    """
    A set of at most *quota* IDs; 0: all that the machine has left.

    Who waits for the set of this mm hears of its IDs from now on.

    C: ``struct ioasid_set *ioasid_set_alloc(void *token, ioasid_t quota, int type)``

    Raises:
        EINVAL: no such type; a token for a set without, or none for one of an address space.
        ENOSPC: the machine has not as many.
        EEXIST: the address space has a set.
        ENOMEM: by fault injection.
    """
    if not IOASID_SET_TYPE_NULL <= type < IOASID_SET_TYPE_NR:
        raise err(EINVAL, f"set type {type}")
    core = kernel.sub(Ioasid)
    with core.lock:
        quota = quota or core.capacity_avail
        if quota > core.capacity_avail:
            core.say(WARNING, f"Out of IOASID capacity! ask {quota}, avail {core.capacity_avail}")
            raise err(ENOSPC, f"{quota} wanted, {core.capacity_avail} left")
        if (type == IOASID_SET_TYPE_MM) != (token is not None):
            if type == IOASID_SET_TYPE_NULL:
                core.say(ERR, "Invalid token and IOASID type")
            raise err(EINVAL, "token and type")
        if type == IOASID_SET_TYPE_MM and token in core.mm_sets:
            raise err(EEXIST, "the address space has a set")
        made = IoasidSet(core, core.set_ids.alloc(), token, type, quota)
        core.sets[made.id] = made
        if type == IOASID_SET_TYPE_MM:
            core.mm_sets[token] = made
            made.cgroup = core.cgroup_of(token)
            core.chains.activate(made)
        core.capacity_avail -= quota
        kernel.took(made)
        return made


ioasid_alloc_set = ioasid_set_alloc  # its name until version 3


def ioasid_set_free(owner: IoasidSet) -> None:
    """
    Destroy the set, now or with its last ID. C: ``int ioasid_set_free(struct ioasid_set *)``.

    Raises:
        EINVAL: it is no live set. EBUSY: it has IDs, and goes with the last one.
    """
    core = owner.core
    with core.lock:
        if not core.is_valid(owner):
            raise err(EINVAL, "no live set")
        if owner.members:
            owner.free_pending = True
            core.say(INFO, "Set marked as free_pending, will be released when the last ioasid reclaimed!")
            raise err(EBUSY, f"the set has {owner.nr_ioasids} IDs")
        core.destroy(owner)


def ioasid_adjust_set(owner: IoasidSet, quota: int) -> None:
    """
    Change how many IDs the set may have (until version 3). C: ``int ioasid_adjust_set(struct ioasid_set *, int)``.

    Raises:
        EINVAL: no live set, or it has more IDs. ENOSPC: the machine has not as many.
    """
    core = owner.core
    with core.lock:
        if not core.is_valid(owner) or quota < max(owner.nr_ioasids, 1):
            raise err(EINVAL, f"a quota of {quota}, the set has {owner.nr_ioasids} IDs")
        if quota - owner.quota > core.capacity_avail:
            raise err(ENOSPC, f"{quota - owner.quota} more wanted, {core.capacity_avail} left")
        core.capacity_avail -= quota - owner.quota
        owner.quota = quota


def ioasid_find_mm_set(kernel: Kernel, mm: Mm) -> IoasidSet | None:
    """The set of *mm*. C: ``struct ioasid_set *ioasid_find_mm_set(struct mm_struct *)``; ours does not search."""
    return kernel.sub(Ioasid).mm_sets.get(mm)


def ioasid_find_set(kernel: Kernel, ioasid: int) -> IoasidSet:
    """Whose ID that is. C: ``struct ioasid_set *ioasid_find_set(ioasid_t)``. Raises ENOENT: nobody's."""
    return _data(kernel, ioasid).set


def ioasid_set_for_each_ioasid(owner: IoasidSet, fn: Callable[[int, Any], None], data: Any = None) -> None:
    """
    Call ``fn(id, data)`` for each ID, the lowest first, those that wait for their users included.

    C: ``void ioasid_set_for_each_ioasid(struct ioasid_set *, void (*fn)(ioasid_t, void *), void *)``. No lock is held,
    so *fn* may free; what comes meanwhile is not visited.
    """
    for number in sorted(owner.members):
        if number in owner.members:
            fn(number, data)


def ioasid_free_all_in_set(owner: IoasidSet) -> None:
    """
    Free each ID of the set. C: ``void ioasid_free_all_in_set(struct ioasid_set *)``.

    Those with users stay members until they are reclaimed. Linux takes them out at once, so that the set's owner finds
    them no more while they still count.
    """
    core = owner.core
    with core.lock:
        if core.is_valid(owner):
            for number in sorted(owner.members):
                _free_locked(core, owner, number)


# ---- IDs


def ioasid_alloc(owner: IoasidSet | None, min: int, max: int, private: Any = None) -> int:
    """
    A new ID from *min* to *max*, both included; ALLOC is told to the set.

    C: ``ioasid_t ioasid_alloc(struct ioasid_set *set, ioasid_t min, ioasid_t max, void *private)``

    0, IDs of more than 20 bits, and those that the installed capacity does not have are not given out, whatever the
    range says.

    Returns:
        INVALID_IOASID: no live set, its quota or its cgroup's is used up, nothing free in the range, or no memory.
    """
    if owner is None:
        return INVALID_IOASID
    core = owner.core
    with core.lock:
        if not core.is_valid(owner) or owner.free_pending:
            return INVALID_IOASID
        # the quota comes before the charge: what is refused has cost nothing
        if len(owner.members) >= owner.quota:
            core.say_limited("ioasid_alloc", f"IOASID set out of quota {owner.quota}")
            return INVALID_IOASID
        cgroup = owner.cgroup
        if cgroup is not None and not cgroup.try_charge():
            return INVALID_IOASID
        data = _new(core, owner, min, max, private)
        if data is None:
            if cgroup is not None:
                cgroup.uncharge()
            return INVALID_IOASID
        core.tell(data, IOASID_NOTIFY_ALLOC, IOASID_NOTIFY_FLAG_SET)
        return data.id


def _new(core: Ioasid, owner: IoasidSet, low: int, high: int, private: Any) -> IoasidData | None:
    try:
        core.kernel.faults.alloc("ioasid_alloc")
    except OSError:
        return None
    group = core.allocators.active
    number = core.allocators.alloc(low if low > 1 else 1, high if high < core.capacity else core.capacity - 1)
    if number == INVALID_IOASID:
        return None
    try:
        core.kernel.faults.alloc("ioasid_alloc_store")
    except OSError:
        core.say_limited("ioasid_alloc", f"Failed to store ioasid {number} in set")
        core.allocators.free(number, group)
        return None
    data = IoasidData(number, owner, private, group)
    core.ids[number] = owner.members[number] = data
    return data


def ioasid_free(owner: IoasidSet, ioasid: int) -> None:
    """
    The owner needs the ID no more: it is reclaimed when its last user drops it, and FREE is told if there is one.

    C: ``void ioasid_free(struct ioasid_set *set, ioasid_t ioasid)``. It never fails: what is unknown or another
    set's is told in the log; what is freed already is left alone, so there is one FREE.
    """
    core = owner.core
    with core.lock:
        _free_locked(core, owner, ioasid)


def _free_locked(core: Ioasid, owner: IoasidSet, ioasid: int) -> None:
    data = core.ids.get(ioasid)
    if data is None:
        core.say_limited("ioasid_free_locked", f"Trying to free unknown IOASID {ioasid}")
        return
    if data.set is not owner:
        core.say(WARNING, f"Cannot free IOASID {ioasid} due to set ownership")
        return
    if data.pending:
        return
    data.pending = True
    data.refs -= 1
    if data.refs:
        core.tell(data, IOASID_NOTIFY_FREE, IOASID_NOTIFY_FLAG_SET | IOASID_NOTIFY_FLAG_ALL)
    else:
        core.reclaim(data)


def ioasid_get(kernel: Kernel, owner: IoasidSet | None, ioasid: int) -> None:
    """
    Take a reference; *owner* None: whoever's ID it is. C: ``int ioasid_get(struct ioasid_set *set, ioasid_t ioasid)``.

    Raises:
        EINVAL: there is no such ID (the document of version 3 says ENOENT). EBUSY: it is being freed.
        EACCES: it is another set's.
    """
    with kernel.sub(Ioasid).lock:
        ioasid_get_locked(kernel, owner, ioasid)


def ioasid_get_locked(kernel: Kernel, owner: IoasidSet | None, ioasid: int) -> None:
    """As :func:`ioasid_get`, for notifiers. C: ``int ioasid_get_locked(struct ioasid_set *, ioasid_t)``."""
    core = kernel.sub(Ioasid)
    core.lock.assert_held()
    data = core.ids.get(ioasid)
    if data is None:
        core.say(ERR, f"Trying to get unknown IOASID {ioasid}")
        raise err(EINVAL, f"IOASID {ioasid} is unknown")
    if data.pending:
        core.say(ERR, f"Trying to get IOASID being freed{ioasid}")
        raise err(EBUSY, f"IOASID {ioasid} is being freed")
    if owner is not None and data.set is not owner:
        core.say(ERR, f"Trying to get IOASID {ioasid} outside the set")
        raise err(EACCES, f"IOASID {ioasid} is another set's")
    data.refs += 1


def ioasid_get_if_owned(kernel: Kernel, ioasid: int) -> None:
    """
    Take a reference on an ID of the caller's own set. C: ``int ioasid_get_if_owned(ioasid_t)``.

    Raises:
        ENOENT: there is no such ID. EINVAL: it is of no address space's set. EPERM: it is of another one's.
        EBUSY: it is being freed.
    """
    core = kernel.sub(Ioasid)
    with core.lock:
        owner = _data(kernel, ioasid).set
        if owner.type != IOASID_SET_TYPE_MM:
            raise err(EINVAL, f"{owner!r} is of no address space")
        if owner.token is not kernel.current.mm:
            raise err(EPERM, f"IOASID {ioasid} is another address space's")
        ioasid_get_locked(kernel, owner, ioasid)


def ioasid_put(kernel: Kernel, owner: IoasidSet | None, ioasid: int) -> bool:
    """
    Drop a reference; whether it was the last one, and the ID is free. That makes no event, even when nobody freed it.

    C: ``bool ioasid_put(struct ioasid_set *set, ioasid_t ioasid)``. What is unknown or another set's is told
    in the log.
    """
    with kernel.sub(Ioasid).lock:
        return ioasid_put_locked(kernel, owner, ioasid)


def ioasid_put_locked(kernel: Kernel, owner: IoasidSet | None, ioasid: int) -> bool:
    """As :func:`ioasid_put`, for notifiers. C: ``bool ioasid_put_locked(struct ioasid_set *, ioasid_t)``."""
    core = kernel.sub(Ioasid)
    core.lock.assert_held()
    data = core.ids.get(ioasid)
    if data is None:
        core.say(ERR, f"Trying to put unknown IOASID {ioasid}")
        return False
    if owner is not None and data.set is not owner:
        core.say(ERR, f"Trying to drop IOASID {ioasid} outside the set")
        return False
    data.refs -= 1
    if data.refs:
        return False
    core.reclaim(data)
    return True


def ioasid_find(
    kernel: Kernel, owner: IoasidSet | None, ioasid: int, getter: Callable[[Any], bool] | None = None
) -> Any:
    """
    What was attached to the ID, None: nothing, or *getter* says that it is no good any more.

    C: ``void *ioasid_find(struct ioasid_set *set, ioasid_t ioasid, bool (*getter)(void *))``. An ID that is being freed
    is found, as in the code; its document says otherwise, but who cleans up must find it.

    Raises:
        ENOENT: there is no such ID. EACCES: it is another set's.
    """
    data = _data(kernel, ioasid)
    if owner is not None and data.set is not owner:
        raise err(EACCES, f"IOASID {ioasid} is another set's")
    private = data.private
    return private if getter is None or private is None or getter(private) else None


def _data(kernel: Kernel, ioasid: int) -> IoasidData:
    data = kernel.sub(Ioasid).ids.get(ioasid)
    if data is None:
        raise err(ENOENT, f"IOASID {ioasid} is unknown")
    return data


def ioasid_attach_data(kernel: Kernel, ioasid: int, data: Any) -> None:
    """
    Attach private data. C: ``int ioasid_attach_data(ioasid_t ioasid, void *data)``.

    Raises:
        ENOENT: there is no such ID. EBUSY: it has some; Linux as merged replaced it.
    """
    with kernel.sub(Ioasid).lock:
        entry = _data(kernel, ioasid)
        if entry.private is not None:
            raise err(EBUSY, f"IOASID {ioasid} has private data")
        entry.private = data


def ioasid_detach_data(kernel: Kernel, ioasid: int) -> None:
    """Take it off, and wait for its readers: may sleep. C: ``void ioasid_detach_data(ioasid_t ioasid)``."""
    core = kernel.sub(Ioasid)
    with core.lock:
        entry = core.ids.get(ioasid)
        if entry is None:
            core.say(WARNING, f"IOASID {ioasid} not found to detach data from")
        else:
            entry.private = None
    kernel.sched.might_sleep("synchronize_rcu()")


# ---- the guest's IDs


def ioasid_attach_spid(kernel: Kernel, ioasid: int, spid: int) -> None:
    """
    *spid* is what the set's owner calls the ID; BIND is told to the set.

    C: ``int ioasid_attach_spid(ioasid_t ioasid, ioasid_t spid)``

    Raises:
        EINVAL: INVALID_IOASID or more than 20 bits; or the set has this SPID.
        ENOENT: there is no such ID. EBUSY: it is being freed, or has a SPID, which Linux replaces in silence.
    """
    if not 0 <= spid < PCI_PASID_MAX:
        raise err(EINVAL, f"SPID {spid:#x}")
    core = kernel.sub(Ioasid)
    with core.lock:
        data = core.ids.get(ioasid)
        if data is None:
            core.say(ERR, f"No IOASID entry {ioasid} to attach SPID {spid}")
            raise err(ENOENT, f"IOASID {ioasid} is unknown")
        if data.pending or (data.spid not in (INVALID_IOASID, spid)):
            raise err(EBUSY, f"IOASID {ioasid} is being freed or has SPID {data.spid:#x}")
        if spid in data.set.spids:
            raise err(EINVAL, f"SPID {spid} is in use in its set")
        data.spid = spid
        data.set.spids[spid] = data
        core.tell(data, IOASID_NOTIFY_BIND, IOASID_NOTIFY_FLAG_SET)


def ioasid_detach_spid(kernel: Kernel, ioasid: int) -> None:
    """UNBIND is told to the set, then the ID has no SPID. C: ``void ioasid_detach_spid(ioasid_t ioasid)``."""
    core = kernel.sub(Ioasid)
    with core.lock:
        data = core.ids.get(ioasid)
        if data is None or data.spid == INVALID_IOASID:
            core.say(ERR, f"Invalid IOASID entry {ioasid} to detach")
            return
        spid = data.spid
        core.tell(data, IOASID_NOTIFY_UNBIND, IOASID_NOTIFY_FLAG_SET)
        # a notifier may have dropped the last reference: then the SPID went with the ID
        if data.set.spids.get(spid) is data:
            del data.set.spids[spid]
        data.spid = INVALID_IOASID


def ioasid_find_by_spid(owner: IoasidSet, spid: int, get: bool = False) -> int:
    """
    The ID that the set's owner calls *spid*; with *get* the caller has a reference on it.

    C: ``ioasid_t ioasid_find_by_spid(struct ioasid_set *set, ioasid_t spid, bool get)``. INVALID_IOASID: there is none,
    or one that is being freed and a reference was asked for.
    """
    core = owner.core
    with core.lock:
        if not core.is_valid(owner):
            core.say(WARNING, "Invalid set")
            return INVALID_IOASID
        data = owner.spids.get(spid)
        if data is None or (get and data.pending):
            return INVALID_IOASID
        data.refs += get
        return data.id


# ---- events


def ioasid_register_notifier(kernel: Kernel, owner: IoasidSet | None, nb: NotifierBlock) -> None:
    """
    *nb* hears of the IDs of *owner*; None: of what goes to the chain of all, which is FREE.

    C: ``int ioasid_register_notifier(struct ioasid_set *set, struct notifier_block *nb)``. Raises EEXIST: it does.
    """
    core = kernel.sub(Ioasid)
    with core.lock:
        (core.chains.all if owner is None else owner.nh).register(nb)


def ioasid_unregister_notifier(kernel: Kernel, owner: IoasidSet | None, nb: NotifierBlock) -> None:
    """
    C: ``void ioasid_unregister_notifier(struct ioasid_set *set, struct notifier_block *nb)``.

    May sleep. What came by its mm is refused and told in the log: :func:`ioasid_unregister_notifier_mm`.
    """
    core = kernel.sub(Ioasid)
    if owner is not None and core.chains.is_by_mm(nb):
        core.say(WARNING, "Notifier block was registered by mm, not removed")
        return
    _leave((core.chains.all if owner is None else owner.nh).unregister, nb)


def _leave(unregister: Callable[[NotifierBlock], None], nb: NotifierBlock) -> None:
    try:
        unregister(nb)
    except OSError as e:
        if e.errno != ENOENT:
            raise


def ioasid_register_notifier_mm(kernel: Kernel, mm: Mm, nb: NotifierBlock, *, late: bool = False) -> None:
    """
    *nb* hears of the IDs of the set of *mm*, now or as soon as there is one: nothing is told afterwards.

    C: ``int ioasid_register_notifier_mm(struct mm_struct *mm, struct notifier_block *nb)``. Linux has no *late*: a set
    with IDs will do, for its user looks up what it missed. By the set alone it would not hear of the next one.

    Raises:
        EBUSY: it is registered for *mm*, or the set has IDs already. ENOMEM: by fault injection.
    """
    core = kernel.sub(Ioasid)
    with core.lock:
        core.chains.add_mm(mm, nb, core.mm_sets.get(mm), late=late)


def ioasid_unregister_notifier_mm(kernel: Kernel, mm: Mm, nb: NotifierBlock) -> None:
    """May sleep. C: ``void ioasid_unregister_notifier_mm(struct mm_struct *mm, struct notifier_block *nb)``."""
    core = kernel.sub(Ioasid)
    with core.lock:
        owner = core.chains.drop_mm(mm, nb)
    if owner is not None:
        _leave(owner.nh.unregister, nb)


def ioasid_notify(kernel: Kernel, ioasid: int, event: int, flags: int) -> int:
    """
    Tell *event* to the chains that *flags* name, that of all before the set's; what the last one called said.

    C: ``int ioasid_notify(ioasid_t, enum ioasid_notify_val, unsigned int flags)``, which publishers called until
    version 3. Raises EINVAL: another flag. ENOENT: there is no such ID.
    """
    core = kernel.sub(Ioasid)
    with core.lock:
        return core.chains.call(event, _data(kernel, ioasid).args(), flags)


def ioasid_queue_work(kernel: Kernel, work: Callable[[], None]) -> bool:
    """
    Do *work* after all that was queued before, where it may sleep; False: it waits already.

    C: ``bool ioasid_queue_work(struct work_struct *work)``
    """
    return kernel.sub(Ioasid).wq.queue(work)


def ioasid_flush_work(kernel: Kernel) -> None:
    """
    Wait until all that notifiers queued has been done. May sleep; not for works themselves, which are in order anyway.

    A publisher does so between its event and its own hardware: so a processor has forgotten a PASID before the IOMMU
    does, and no command that was translated before arrives after.
    """
    kernel.sub(Ioasid).wq.flush()


# ---- custom allocators


def ioasid_register_allocator(kernel: Kernel, ops: IoasidAllocatorOps) -> None:
    """
    C: ``int ioasid_register_allocator(struct ioasid_allocator_ops *ops)``.

    Raises:
        EAGAIN: the default allocator has given out IDs. EEXIST: it is registered. ENOMEM: by fault injection.
    """
    core = kernel.sub(Ioasid)
    with core.lock:
        kernel.faults.alloc("ioasid_register_allocator")
        core.allocators.register(ops)


def ioasid_unregister_allocator(kernel: Kernel, ops: IoasidAllocatorOps) -> None:
    """C: ``void ioasid_unregister_allocator(struct ioasid_allocator_ops *ops)``."""
    core = kernel.sub(Ioasid)
    with core.lock:
        core.allocators.unregister(ops)
