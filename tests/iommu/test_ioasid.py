"""
IOASIDs: each function of drivers/iommu/ioasid.c of "IOASID extensions for guest SVA", with what it answers.

Names, errnos and order are those of the series' code; tests whose names begin with a letter are what it did wrong.
"""

from __future__ import annotations

import errno
from typing import Any

import pytest

import pykernel
from pykernel.errors import Oops
from pykernel.iommu import ioasid as i
from pykernel.lib.notifier import NOTIFY_OK, NotifierBlock
from pykernel.machine import Machine
from pykernel.task import Mm

MAX = 0xFFFFF
BAD = 0xFFFFFFFF


class Box:
    def __init__(self) -> None:
        self.kernel = pykernel.boot(Machine("bare"))
        self.core = self.kernel.sub(i.Ioasid)
        self.mms: list[Mm] = []

    def null_set(self, quota: int = 16) -> i.IoasidSet:
        return i.ioasid_alloc_set(self.kernel, None, quota, i.IOASID_SET_TYPE_NULL)

    def mm_set(self, quota: int = 16) -> i.IoasidSet:
        self.mms.append(Mm())
        return i.ioasid_alloc_set(self.kernel, self.mms[-1], quota, i.IOASID_SET_TYPE_MM)

    def log(self) -> list[str]:
        return [r.text for r in self.kernel.log.records]


@pytest.fixture
def box():
    made = Box()
    yield made
    made.core._check()


@pytest.fixture
def s(box):
    return box.null_set()


def fails(fn, *args, **kw) -> int:
    try:
        fn(*args, **kw)
    except OSError as e:
        return e.errno or 0
    return 0


# ---- capacity


def test_install_capacity_is_taken_once(box):
    i.ioasid_install_capacity(box.kernel, 1 << 16)
    assert (box.core.capacity, box.core.capacity_avail) == (1 << 16, 1 << 16)
    i.ioasid_install_capacity(box.kernel, 1 << 15)
    assert box.core.capacity == 1 << 16
    assert "IOASID capacity is already set." in box.log()


def test_install_capacity_keeps_what_sets_were_promised(box):
    box.null_set(100)
    i.ioasid_install_capacity(box.kernel, 1000)
    assert (box.core.capacity, box.core.capacity_avail) == (1000, 900)


@pytest.mark.parametrize("total", [99, (1 << 20) + 1, 1 << 31])
def test_install_capacity_that_is_too_small_or_wider_than_20_bits_is_ignored(box, total):
    box.null_set(100)
    i.ioasid_install_capacity(box.kernel, total)
    assert box.core.capacity == 1 << 20


def test_no_id_is_given_out_that_the_capacity_has_not(box):
    i.ioasid_install_capacity(box.kernel, 8)
    s = box.null_set(0)
    assert [i.ioasid_alloc(s, 1, MAX) for _ in range(8)] == [1, 2, 3, 4, 5, 6, 7, BAD]


def test_reserve_capacity(box):
    assert i.ioasid_reserve_capacity(box.kernel, 100) == 100
    assert box.core.capacity_avail == (1 << 20) - 100
    assert fails(i.ioasid_reserve_capacity, box.kernel, 1 << 20) == errno.ENOSPC
    assert i.ioasid_reserve_capacity(box.kernel, 0) == (1 << 20) - 100


def test_cancel_capacity(box):
    i.ioasid_reserve_capacity(box.kernel, 100)
    assert i.ioasid_cancel_capacity(box.kernel, 40) == (1 << 20) - 60
    assert fails(i.ioasid_cancel_capacity, box.kernel, 61) == errno.EINVAL


def test_cancel_capacity_does_not_take_what_is_a_sets(box):
    """Linux trusts the caller: 50 of the set's 100 would be given out twice."""
    box.null_set(100)
    assert fails(i.ioasid_cancel_capacity, box.kernel, 50) == errno.EINVAL


# ---- sets


def test_set_alloc_takes_the_quota_of_the_pool(box):
    s = box.null_set(1000)
    assert (s.quota, s.nr_ioasids, box.core.capacity_avail) == (1000, 0, (1 << 20) - 1000)


def test_set_alloc_quota_0_is_all_that_is_left(box):
    box.null_set(1000)
    assert box.null_set(0).quota == (1 << 20) - 1000
    assert fails(i.ioasid_set_alloc, box.kernel, None, 1, i.IOASID_SET_TYPE_NULL) == errno.ENOSPC


def test_set_alloc_enospc_is_told(box):
    assert fails(i.ioasid_set_alloc, box.kernel, None, (1 << 20) + 1, i.IOASID_SET_TYPE_NULL) == errno.ENOSPC
    assert "Out of IOASID capacity! ask 1048577, avail 1048576" in box.log()


@pytest.mark.parametrize(
    ("token", "type"),
    [(None, 0), (None, 3), (None, 4), (None, i.IOASID_SET_TYPE_MM), (Mm(), i.IOASID_SET_TYPE_NULL)],
)
def test_set_alloc_einval(box, token, type):
    assert fails(i.ioasid_set_alloc, box.kernel, token, 1, type) == errno.EINVAL


def test_set_alloc_eexist_is_one_set_an_mm(box):
    s = box.mm_set()
    assert fails(i.ioasid_set_alloc, box.kernel, s.token, 1, i.IOASID_SET_TYPE_MM) == errno.EEXIST
    i.ioasid_set_free(s)
    i.ioasid_set_alloc(box.kernel, s.token, 1, i.IOASID_SET_TYPE_MM)


def test_set_alloc_enomem(box):
    with box.kernel.faults.fail("alloc", "ioasid_set_alloc"):
        assert fails(box.null_set) == errno.ENOMEM
    assert box.core.capacity_avail == 1 << 20


def test_set_free(box, s):
    i.ioasid_set_free(s)
    assert not box.core.sets
    assert fails(i.ioasid_set_free, s) == errno.EINVAL


def test_set_free_ebusy_and_the_set_goes_with_its_last_id(box):
    s = box.mm_set()
    number = i.ioasid_alloc(s, 1, MAX)
    i.ioasid_get(box.kernel, None, number)
    i.ioasid_free(s, number)
    assert fails(i.ioasid_set_free, s) == errno.EBUSY
    number_of_set, token = s.id, s.token
    assert s.free_pending
    assert "Set marked as free_pending, will be released when the last ioasid reclaimed!" in box.log()
    assert i.ioasid_alloc(s, 1, MAX) == BAD, "who is going takes no more"
    assert i.ioasid_find_mm_set(box.kernel, token) is s, "the token is released with the set"
    assert i.ioasid_put(box.kernel, None, number)
    assert i.ioasid_find_mm_set(box.kernel, token) is None
    assert f"ioasid_do_free_locked free set set->id: {number_of_set}" in box.log()


def test_adjust_set(box):
    s = box.null_set(4)
    i.ioasid_alloc(s, 1, MAX)
    i.ioasid_alloc(s, 1, MAX)
    assert fails(i.ioasid_adjust_set, s, 1) == errno.EINVAL
    i.ioasid_adjust_set(s, 2)
    assert i.ioasid_alloc(s, 1, MAX) == BAD
    i.ioasid_adjust_set(s, 100)
    assert box.core.capacity_avail == (1 << 20) - 100
    assert fails(i.ioasid_adjust_set, s, (1 << 20) + 1) == errno.ENOSPC


def test_find_mm_set(box):
    s = box.mm_set()
    assert i.ioasid_find_mm_set(box.kernel, s.token) is s
    assert i.ioasid_find_mm_set(box.kernel, Mm()) is None


def test_find_set(box, s):
    number = i.ioasid_alloc(s, 1, MAX)
    assert i.ioasid_find_set(box.kernel, number) is s
    assert fails(i.ioasid_find_set, box.kernel, number + 1) == errno.ENOENT


def test_set_for_each_ioasid(box, s):
    numbers = [i.ioasid_alloc(s, 1, MAX) for _ in range(3)]
    seen: list[tuple[int, str]] = []
    i.ioasid_set_for_each_ioasid(s, lambda n, data: seen.append((n, data)), "x")
    assert seen == [(n, "x") for n in numbers]


def test_free_all_in_set_tells_each_that_is_used(box, s):
    events: list[tuple[int, int]] = []
    numbers = [i.ioasid_alloc(s, 1, MAX) for _ in range(3)]
    i.ioasid_get(box.kernel, None, numbers[1])
    i.ioasid_register_notifier(box.kernel, s, recorder(events))
    i.ioasid_free_all_in_set(s)
    assert events == [(i.IOASID_NOTIFY_FREE, numbers[1])]
    i.ioasid_put(box.kernel, None, numbers[1])
    i.ioasid_set_free(s)
    i.ioasid_free_all_in_set(s)


# ---- IDs


def test_alloc_is_the_lowest_of_the_range_both_ends_included(s):
    assert [i.ioasid_alloc(s, 5, 6), i.ioasid_alloc(s, 5, 6), i.ioasid_alloc(s, 5, 6)] == [5, 6, BAD]


def test_alloc_begins_idle_with_one_reference(box, s):
    data = box.core.ids[i.ioasid_alloc(s, 1, MAX, "private")]
    assert (data.refs, data.state, data.spid, data.private) == (1, i.IoasidState.IDLE, BAD, "private")


def test_alloc_never_gives_0_nor_more_than_20_bits(s):
    assert i.ioasid_alloc(s, 0, 0) == BAD
    assert i.ioasid_alloc(s, 1 << 20, (1 << 31) - 1) == BAD
    assert i.ioasid_alloc(s, 0, BAD) == 1
    assert i.ioasid_alloc(s, MAX, BAD) == MAX
    assert i.ioasid_alloc(s, MAX, BAD) == BAD


def test_alloc_without_a_live_set(box, s):
    i.ioasid_set_free(s)
    assert i.ioasid_alloc(s, 1, MAX) == BAD
    assert i.ioasid_alloc(None, 1, MAX) == BAD


def test_alloc_beyond_the_quota_is_told(box):
    s = box.null_set(1)
    assert [i.ioasid_alloc(s, 1, MAX), i.ioasid_alloc(s, 1, MAX)] == [1, BAD]
    assert "IOASID set out of quota 1" in box.log()


def test_a_user_cannot_fill_the_log(box):
    """pr_err_ratelimited(): ten messages in five seconds."""
    s = box.null_set(1)
    for _ in range(50):
        i.ioasid_alloc(s, 1, MAX)
        i.ioasid_free(s, 4711)
    assert [box.log().count(t) for t in ("IOASID set out of quota 1", "Trying to free unknown IOASID 4711")] == [10, 10]


def test_alloc_counts_what_waits_for_its_users(box):
    """A set cannot have more than its quota by freeing what hardware still uses."""
    s = box.null_set(1)
    number = i.ioasid_alloc(s, 1, MAX)
    i.ioasid_get(box.kernel, None, number)
    i.ioasid_free(s, number)
    assert i.ioasid_alloc(s, 1, MAX) == BAD
    i.ioasid_put(box.kernel, None, number)
    assert i.ioasid_alloc(s, 1, MAX) == number


def test_alloc_without_memory(box, s):
    with box.kernel.faults.fail("alloc", "ioasid_alloc"):
        assert i.ioasid_alloc(s, 1, MAX) == BAD
    assert s.nr_ioasids == 0


def test_alloc_that_fails_is_told_as_linux_does(box, s):
    i.ioasid_alloc(s, 7, 7)
    i.ioasid_alloc(s, 7, 7)
    assert box.log()[-2:] == ["Failed to alloc ioasid from 7 to 7", "Failed ASID allocation 0"]


def test_free(box, s):
    number = i.ioasid_alloc(s, 1, MAX)
    i.ioasid_free(s, number)
    assert number not in box.core.ids
    i.ioasid_free(s, number)
    assert f"Trying to free unknown IOASID {number}" in box.log()


def test_free_of_another_sets_id_does_nothing(box, s):
    number = i.ioasid_alloc(s, 1, MAX)
    i.ioasid_free(box.null_set(), number)
    assert box.core.ids[number].state is i.IoasidState.IDLE
    assert f"Cannot free IOASID {number} due to set ownership" in box.log()


def test_free_of_what_is_used_waits_for_the_last_put(box, s):
    number = i.ioasid_alloc(s, 1, MAX)
    i.ioasid_get(box.kernel, s, number)
    assert box.core.ids[number].state is i.IoasidState.ACTIVE
    i.ioasid_free(s, number)
    assert box.core.ids[number].state is i.IoasidState.FREE_PENDING
    i.ioasid_free(s, number)
    assert box.core.ids[number].refs == 1, "twice is once"
    assert i.ioasid_put(box.kernel, s, number)
    assert i.ioasid_alloc(s, 1, MAX) == number


def test_get(box, s):
    number = i.ioasid_alloc(s, 1, MAX)
    i.ioasid_get(box.kernel, s, number)
    i.ioasid_get(box.kernel, None, number)
    assert box.core.ids[number].refs == 3
    assert fails(i.ioasid_get, box.kernel, None, number + 1) == errno.EINVAL
    assert fails(i.ioasid_get, box.kernel, box.null_set(), number) == errno.EACCES
    i.ioasid_free(s, number)
    assert fails(i.ioasid_get, box.kernel, None, number) == errno.EBUSY
    log = box.log()
    assert f"Trying to get unknown IOASID {number + 1}" in log
    assert f"Trying to get IOASID {number} outside the set" in log
    assert f"Trying to get IOASID being freed{number}" in log


def test_get_locked_needs_the_lock(box, s):
    number = i.ioasid_alloc(s, 1, MAX)
    with pytest.raises(Oops, match="ioasid_allocator_lock"):
        i.ioasid_get_locked(box.kernel, s, number)
    with pytest.raises(Oops, match="ioasid_allocator_lock"):
        i.ioasid_put_locked(box.kernel, s, number)


def test_get_if_owned(box):
    kernel, p = box.kernel, box.kernel.process()
    mine = i.ioasid_alloc_set(kernel, p.task.mm, 4, i.IOASID_SET_TYPE_MM)
    numbers = [i.ioasid_alloc(s, 1, MAX) for s in (mine, box.mm_set(), box.null_set())]
    with kernel.as_task(p.task):
        i.ioasid_get_if_owned(kernel, numbers[0])
        assert fails(i.ioasid_get_if_owned, kernel, numbers[1]) == errno.EPERM
        assert fails(i.ioasid_get_if_owned, kernel, numbers[2]) == errno.EINVAL
        assert fails(i.ioasid_get_if_owned, kernel, 4711) == errno.ENOENT
        i.ioasid_free(mine, numbers[0])
        assert fails(i.ioasid_get_if_owned, kernel, numbers[0]) == errno.EBUSY
    assert box.core.ids[numbers[0]].refs == 1
    i.ioasid_put(kernel, None, numbers[0])
    p.exit()


def test_put(box, s):
    number = i.ioasid_alloc(s, 1, MAX)
    i.ioasid_get(box.kernel, s, number)
    assert not i.ioasid_put(box.kernel, box.null_set(), number)
    assert not i.ioasid_put(box.kernel, None, number + 1)
    assert f"Trying to put unknown IOASID {number + 1}" in box.log()
    assert f"Trying to drop IOASID {number} outside the set" in box.log()
    assert not i.ioasid_put(box.kernel, s, number)


def test_the_last_put_frees_without_an_event(box, s):
    events: list[tuple[int, int]] = []
    number = i.ioasid_alloc(s, 1, MAX)
    for chain in (None, s):
        i.ioasid_register_notifier(box.kernel, chain, recorder(events))
    assert i.ioasid_put(box.kernel, s, number)
    assert not events
    assert number not in box.core.ids


def test_find(box, s):
    number = i.ioasid_alloc(s, 1, MAX, "data")
    assert i.ioasid_find(box.kernel, s, number) == "data"
    assert i.ioasid_find(box.kernel, None, number, lambda d: d == "data") == "data"
    assert i.ioasid_find(box.kernel, None, number, lambda d: False) is None
    assert fails(i.ioasid_find, box.kernel, None, number + 1) == errno.ENOENT
    assert fails(i.ioasid_find, box.kernel, box.null_set(), number) == errno.EACCES


def test_find_also_what_is_being_freed(box, s):
    """The document says that it fails; the code does not look, and who cleans up must find it."""
    number = i.ioasid_alloc(s, 1, MAX, "data")
    i.ioasid_get(box.kernel, None, number)
    i.ioasid_free(s, number)
    assert i.ioasid_find(box.kernel, s, number) == "data"


def test_attach_data(box, s):
    number = i.ioasid_alloc(s, 1, MAX)
    i.ioasid_attach_data(box.kernel, number, "a")
    assert fails(i.ioasid_attach_data, box.kernel, number, "b") == errno.EBUSY
    assert fails(i.ioasid_attach_data, box.kernel, number + 1, "b") == errno.ENOENT
    assert i.ioasid_find(box.kernel, s, number) == "a"


def test_detach_data(box, s):
    number = i.ioasid_alloc(s, 1, MAX, "a")
    i.ioasid_detach_data(box.kernel, number)
    assert i.ioasid_find(box.kernel, s, number) is None
    i.ioasid_detach_data(box.kernel, number + 1)
    assert f"IOASID {number + 1} not found to detach data from" in box.log()


def test_detach_data_may_sleep(box, s):
    number = i.ioasid_alloc(s, 1, MAX, "a")
    from pykernel.lib.locking import Spinlock

    with Spinlock(box.kernel), pytest.raises(Oops, match="sleeping function"):
        i.ioasid_detach_data(box.kernel, number)


# ---- SPIDs


def test_attach_spid(box, s):
    a, b = (i.ioasid_alloc(s, 1, MAX) for _ in range(2))
    i.ioasid_attach_spid(box.kernel, a, 101)
    assert fails(i.ioasid_attach_spid, box.kernel, b, 101) == errno.EINVAL
    assert fails(i.ioasid_attach_spid, box.kernel, a, 101) == errno.EINVAL
    assert fails(i.ioasid_attach_spid, box.kernel, b, BAD) == errno.EINVAL
    assert fails(i.ioasid_attach_spid, box.kernel, 4711, 1) == errno.ENOENT
    assert "No IOASID entry 4711 to attach SPID 1" in box.log()


@pytest.mark.parametrize("spid", [1 << 20, 1 << 20 | 101, 1 << 31, -1])
def test_attach_spid_wider_than_20_bits_is_refused_not_masked(box, s, spid):
    assert fails(i.ioasid_attach_spid, box.kernel, i.ioasid_alloc(s, 1, MAX), spid) == errno.EINVAL
    assert not s.spids


def test_spids_are_unique_in_a_set_only(box, s):
    other = box.null_set()
    a, b = i.ioasid_alloc(s, 1, MAX), i.ioasid_alloc(other, 1, MAX)
    i.ioasid_attach_spid(box.kernel, a, 101)
    i.ioasid_attach_spid(box.kernel, b, 101)
    assert (i.ioasid_find_by_spid(s, 101), i.ioasid_find_by_spid(other, 101)) == (a, b)


def test_detach_spid(box, s):
    number = i.ioasid_alloc(s, 1, MAX)
    i.ioasid_attach_spid(box.kernel, number, 101)
    i.ioasid_detach_spid(box.kernel, number)
    assert i.ioasid_find_by_spid(s, 101) == BAD
    for wrong in (number, 4711):
        i.ioasid_detach_spid(box.kernel, wrong)
        assert f"Invalid IOASID entry {wrong} to detach" in box.log()


def test_find_by_spid(box, s):
    number = i.ioasid_alloc(s, 1, MAX)
    i.ioasid_attach_spid(box.kernel, number, 101)
    assert i.ioasid_find_by_spid(s, 101, get=False) == number
    assert box.core.ids[number].refs == 1
    assert i.ioasid_find_by_spid(s, 101, get=True) == number
    assert box.core.ids[number].refs == 2
    assert i.ioasid_find_by_spid(s, 102) == BAD


def test_find_by_spid_of_a_dead_set(box, s):
    i.ioasid_set_free(s)
    assert i.ioasid_find_by_spid(s, 1) == BAD
    assert "Invalid set" in box.log()


# ---- weak spots of the posted code


def test_a_failed_store_gives_invalid_and_not_the_freed_id(box, s):
    with box.kernel.faults.fail("alloc", "ioasid_alloc_store"):
        assert i.ioasid_alloc(s, 9, 9) == BAD
    assert "Failed to store ioasid 9 in set" in box.log()
    assert i.ioasid_alloc(s, 9, 9) == 9, "it is free again"


def test_b_free_all_in_set_leaves_what_is_pending_to_be_found(box, s):
    number = i.ioasid_alloc(s, 1, MAX)
    i.ioasid_attach_spid(box.kernel, number, 101)
    i.ioasid_get(box.kernel, None, number)
    i.ioasid_free_all_in_set(s)
    seen: list[int] = []
    i.ioasid_set_for_each_ioasid(s, lambda n, _: seen.append(n))
    assert (seen, s.nr_ioasids) == ([number], 1)
    assert i.ioasid_find_by_spid(s, 101, get=False) == number
    i.ioasid_put(box.kernel, None, number)


def test_c_the_quota_comes_back_when_the_set_goes(box):
    for _ in range(3):
        s = box.null_set(1 << 20)
        assert box.core.capacity_avail == 0
        i.ioasid_set_free(s)
    assert box.core.capacity_avail == 1 << 20


def test_d_no_spid_for_what_is_being_freed_and_none_replaced(box, s):
    number = i.ioasid_alloc(s, 1, MAX)
    i.ioasid_attach_spid(box.kernel, number, 101)
    assert fails(i.ioasid_attach_spid, box.kernel, number, 102) == errno.EBUSY
    assert i.ioasid_find_by_spid(s, 101) == number
    i.ioasid_detach_spid(box.kernel, number)
    i.ioasid_get(box.kernel, None, number)
    i.ioasid_free(s, number)
    assert fails(i.ioasid_attach_spid, box.kernel, number, 103) == errno.EBUSY


def test_e_find_by_spid_takes_no_reference_on_what_is_being_freed(box, s):
    number = i.ioasid_alloc(s, 1, MAX)
    i.ioasid_attach_spid(box.kernel, number, 101)
    i.ioasid_get(box.kernel, None, number)
    i.ioasid_free(s, number)
    assert i.ioasid_find_by_spid(s, 101, get=True) == BAD
    assert box.core.ids[number].refs == 1


def test_h_what_is_refused_is_not_charged(box):
    group = i.IoasidCgroup(limit=2)
    box.core.cgroup_of = lambda _mm: group
    s = box.mm_set(quota=1)
    number = i.ioasid_alloc(s, 1, MAX)
    assert (i.ioasid_alloc(s, 1, MAX), group.usage) == (BAD, 1), "beyond the quota"
    i.ioasid_adjust_set(s, 4)
    assert (i.ioasid_alloc(s, number, number), group.usage) == (BAD, 1), "nothing free there"
    other = box.mm_set()
    assert i.ioasid_alloc(other, 1, MAX) != BAD
    assert (i.ioasid_alloc(other, 1, MAX), group.usage) == (BAD, 2), "the group has its two"
    i.ioasid_free_all_in_set(s)
    i.ioasid_free_all_in_set(other)
    assert group.usage == 0


def test_cgroup_charges_mm_sets_only(box):
    group = i.IoasidCgroup(limit=0)
    box.core.cgroup_of = lambda _mm: group
    assert i.ioasid_alloc(box.null_set(), 1, MAX) == 1
    assert i.ioasid_alloc(box.mm_set(), 1, MAX) == BAD


# ---- the work queue


def test_queue_work_runs_in_order_and_flush_waits_for_all(box):
    done: list[str] = []

    def slow() -> None:
        box.kernel.sched.idle_until(lambda: False, 1000)
        done.append("slow")

    def quick() -> None:
        done.append("quick")

    assert i.ioasid_queue_work(box.kernel, slow)
    assert i.ioasid_queue_work(box.kernel, quick)
    assert not i.ioasid_queue_work(box.kernel, quick), "it waits already"
    assert not done
    i.ioasid_flush_work(box.kernel)
    assert done == ["slow", "quick"]
    assert i.ioasid_queue_work(box.kernel, quick)
    i.ioasid_flush_work(box.kernel)
    assert done == ["slow", "quick", "quick"]


def test_a_work_that_queues_itself_again_does_not_hold_up_a_flush(box):
    runs: list[int] = []

    def again() -> None:
        runs.append(1)
        if len(runs) < 5:
            i.ioasid_queue_work(box.kernel, again)

    i.ioasid_queue_work(box.kernel, again)
    i.ioasid_flush_work(box.kernel)
    assert runs
    box.kernel.sched.run_ready()
    assert len(runs) == 5
    assert box.core.wq.idle


def test_flush_in_a_work_is_an_oops_and_the_next_work_runs(box):
    done: list[str] = []
    i.ioasid_queue_work(box.kernel, lambda: i.ioasid_flush_work(box.kernel))
    i.ioasid_queue_work(box.kernel, lambda: done.append("next"))
    i.ioasid_flush_work(box.kernel)
    assert done == ["next"]
    assert "flushes it" in str(box.kernel.oopses.pop())


def test_flush_needs_a_context_that_may_sleep(box):
    with box.core.lock, pytest.raises(Oops, match="sleeping function"):
        i.ioasid_flush_work(box.kernel)


def recorder(events: list[Any]) -> NotifierBlock:
    def call(_nb: NotifierBlock, event: int, args: i.IoasidNbArgs) -> int:
        events.append((event, args.id))
        return NOTIFY_OK

    return NotifierBlock(call)
