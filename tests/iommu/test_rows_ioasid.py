"""
IOASIDs, row by row where no other test has the row: objects, types, states, who listens with which priority.

Rows are those of what is known of "IOASID extensions for guest SVA": objects (1.1), set types (1.2), states (1.3),
functions (1.4), events (1.6), lives (1.7) and /dev/ioasid (1.8).
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import pykernel
from pykernel.iommu import ioasid as i
from pykernel.iommu.gpasid import GuestPasids
from pykernel.iommu.pasid import PASID_MAX, PASID_MIN
from pykernel.kernel import Kernel
from pykernel.lib.notifier import NOTIFY_OK, NotifierBlock
from pykernel.machine import Machine, parse
from pykernel.task import Mm

MAX = 0xFFFFF
BAD = 0xFFFFFFFF
State = i.IoasidState


class Box:
    """A kernel and a set without an address space."""

    def __init__(self) -> None:
        self.kernel: Kernel = pykernel.boot(Machine("bare"))
        self.core = self.kernel.sub(i.Ioasid)
        self.set = i.ioasid_set_alloc(self.kernel, None, 16, i.IOASID_SET_TYPE_NULL)

    def alloc(self) -> int:
        return i.ioasid_alloc(self.set, 1, MAX)

    def state(self, number: int) -> i.IoasidState:
        data = self.core.ids.get(number)
        return State.FREE if data is None else data.state


@pytest.fixture
def box() -> Iterator[Box]:
    made = Box()
    yield made
    made.core._check()


def code(fn: Callable[..., Any], *args: Any) -> int:
    try:
        fn(*args)
    except OSError as e:
        return e.errno or 0
    return 0


# ---- constants and objects


def test_0_constants() -> None:
    """20 bits; INVALID_IOASID is all ones; PASID_MIN is 1, PASID_MAX is exclusive."""
    assert (i.INVALID_IOASID, PASID_MIN, PASID_MAX) == (0xFFFFFFFF, 1, 0x100000)


def test_1_1_system_pool_starts_at_2_20_all_of_it_available() -> None:
    core = pykernel.boot(Machine("bare")).sub(i.Ioasid)
    assert (core.capacity, core.capacity_avail) == (0x100000, 0x100000)


def test_1_1_set_and_id_have_their_fields(box: Box) -> None:
    """A set: id, token, type, quota, how many, members by host ID, a chain, free_pending. An ID: both numbers, ..."""
    number = i.ioasid_alloc(box.set, 7, 7, "private")
    s, data = box.set, box.set.members[number]
    assert (s.token, s.type, s.quota, s.nr_ioasids, s.free_pending) == (None, 1, 16, 1, False)
    assert (data.id, data.spid, data.set, data.private, data.refs) == (7, BAD, s, "private", 1)


def test_1_1_set_ids_are_used_again(box: Box) -> None:
    other = i.ioasid_set_alloc(box.kernel, None, 1, i.IOASID_SET_TYPE_NULL)
    assert other.id != box.set.id
    i.ioasid_set_free(other)
    assert i.ioasid_set_alloc(box.kernel, None, 1, i.IOASID_SET_TYPE_NULL).id == other.id


def test_1_1_ordered_workqueue_is_called_ioasid_wq(box: Box) -> None:
    threads: list[Any] = []
    i.ioasid_queue_work(box.kernel, lambda: threads.append(box.kernel.sched.thread))
    i.ioasid_flush_work(box.kernel)
    names = [thread.name for thread in threads]
    assert names == ["ioasid_wq"]


def test_1_1_lookups_need_no_lock(box: Box) -> None:
    """RCU: find() and find_set() answer while the spinlock is held, also in a notifier; what takes it would not."""
    number = i.ioasid_alloc(box.set, 1, MAX, "data")
    with box.core.lock:
        assert i.ioasid_find(box.kernel, box.set, number) == "data"
        assert i.ioasid_find_set(box.kernel, number) is box.set
        assert i.ioasid_find_mm_set(box.kernel, Mm()) is None


def test_1_1_notifiers_are_called_with_the_lock_held(box: Box) -> None:
    held: list[bool] = []

    def call(_nb: NotifierBlock, _event: int, _args: i.IoasidNbArgs) -> int:
        held.append(bool(box.core.lock.count))
        return NOTIFY_OK

    i.ioasid_register_notifier(box.kernel, box.set, NotifierBlock(call))
    box.alloc()
    assert held == [True]
    assert not box.core.lock.count


def test_1_2_set_types_null_1_mm_2_nr_3() -> None:
    assert (i.IOASID_SET_TYPE_NULL, i.IOASID_SET_TYPE_MM, i.IOASID_SET_TYPE_NR) == (1, 2, 3)


# ---- states


def test_1_3_states(box: Box) -> None:
    """FREE, IDLE by alloc, ACTIVE by a user's reference, FREE_PENDING by free with users, FREE by the last put."""
    assert [s.value for s in State] == ["FREE", "IDLE", "ACTIVE", "FREE_PENDING"]
    seen = [box.state(1)]
    steps: list[Callable[[], Any]] = [
        box.alloc,
        lambda: i.ioasid_get(box.kernel, box.set, 1),
        lambda: i.ioasid_put(box.kernel, box.set, 1),
        lambda: i.ioasid_get(box.kernel, box.set, 1),
        lambda: i.ioasid_free(box.set, 1),
        lambda: i.ioasid_put(box.kernel, box.set, 1),
    ]
    for step in steps:
        step()
        seen.append(box.state(1))
    assert seen == [State.FREE, State.IDLE, State.ACTIVE, State.IDLE, State.ACTIVE, State.FREE_PENDING, State.FREE]


LIVES = {
    "1 alloc, free": "alloc free",
    "2 alloc, bind, unbind, free": "alloc get attach detach put free",
    "3 alloc, bind, free": "alloc get attach free detach put",
    "4 alloc, bind, free twice": "alloc get attach free free detach put",
}


@pytest.mark.parametrize("life", LIVES.values(), ids=LIVES)
def test_1_3_life_patterns_end_free(box: Box, life: str) -> None:
    """Normal and abnormal ones: afterwards number and guest's number can be had again."""
    do: dict[str, Callable[[], Any]] = {
        "alloc": box.alloc,
        "get": lambda: i.ioasid_get(box.kernel, box.set, 1),
        "attach": lambda: i.ioasid_attach_spid(box.kernel, 1, 101),
        "detach": lambda: i.ioasid_detach_spid(box.kernel, 1),
        "put": lambda: i.ioasid_put(box.kernel, box.set, 1),
        "free": lambda: i.ioasid_free(box.set, 1),
    }
    for _ in range(2):
        for word in life.split():
            do[word]()
        assert box.state(1) is State.FREE
        assert i.ioasid_find_by_spid(box.set, 101) == BAD


# ---- functions


def test_1_4_reserved_ids_are_in_no_sets_quota(box: Box) -> None:
    rest = i.ioasid_reserve_capacity(box.kernel, 0)
    assert rest == (1 << 20) - 16
    assert code(i.ioasid_set_alloc, box.kernel, None, 1, i.IOASID_SET_TYPE_NULL) == errno.ENOSPC
    assert code(i.ioasid_reserve_capacity, box.kernel, 1) == errno.ENOSPC
    i.ioasid_cancel_capacity(box.kernel, rest)
    i.ioasid_set_free(i.ioasid_set_alloc(box.kernel, None, rest, i.IOASID_SET_TYPE_NULL))


def test_1_4_set_for_each_ioasid_holds_no_lock(box: Box) -> None:
    """The function may call what takes it, even free the ID that it got."""
    for _ in range(4):
        box.alloc()
    seen: list[int] = []

    def fn(number: int, _data: Any) -> None:
        seen.append(number)
        i.ioasid_free(box.set, number)
        i.ioasid_free(box.set, number + 1)

    i.ioasid_set_for_each_ioasid(box.set, fn)
    assert seen == [1, 3]
    assert box.set.nr_ioasids == 0


def test_1_4_adjust_set_of_a_set_that_is_gone_is_einval(box: Box) -> None:
    i.ioasid_set_free(box.set)
    assert code(i.ioasid_adjust_set, box.set, 4) == errno.EINVAL


def test_1_4_free_and_get_by_the_wrong_kernel_object_change_nothing(box: Box) -> None:
    """Neither an unknown ID nor one of more than 20 bits that ends in a known one."""
    number = box.alloc()
    for wrong in (number | 1 << 20, number | 1 << 31, -number, BAD):
        i.ioasid_free(box.set, wrong)
        assert code(i.ioasid_get, box.kernel, box.set, wrong) == errno.EINVAL
        assert not i.ioasid_put(box.kernel, box.set, wrong)
        assert code(i.ioasid_find, box.kernel, box.set, wrong) == errno.ENOENT
        assert code(i.ioasid_attach_spid, box.kernel, wrong, 101) == errno.ENOENT
    assert box.core.ids[number].refs == 1


# ---- events


def test_1_6_iommu_listens_on_the_chain_of_all_with_the_priority_of_version_4() -> None:
    """As posted it had none (0); KVM and device drivers hear the set's chain, in tests of their own."""
    kernel = pykernel.boot(parse("[[pci]]\nmodel='dsa'\naddress='0000:6a:01.0'\n"))
    kernel.up()
    nb = kernel.sub(GuestPasids).nb
    assert nb.priority == i.IOASID_PRIO_IOMMU
    assert kernel.sub(i.Ioasid).chains.all.head is nb


def test_1_6_free_of_an_id_with_one_reference_sends_nothing(box: Box) -> None:
    """Nobody may count on FREE for IDs that were not bound."""
    heard: list[int] = []

    def call(_nb: NotifierBlock, event: int, _args: i.IoasidNbArgs) -> int:
        heard.append(event)
        return NOTIFY_OK

    for chain in (None, box.set):
        i.ioasid_register_notifier(box.kernel, chain, NotifierBlock(call))
    i.ioasid_free(box.set, box.alloc())
    assert heard == [i.IOASID_NOTIFY_ALLOC]


# ---- /dev/ioasid

ALLOC = ord("i") << 8 | 102


def test_1_8_open_without_memory_is_enomem_and_without_ids_enospc() -> None:
    kernel = pykernel.boot(parse("[modules]\nioasid_user = ''\n"))
    kernel.up()
    p = kernel.process()
    with kernel.faults.fail("alloc", "ioasid_set_alloc"):
        assert code(p.open, "/dev/ioasid", os.O_RDWR) == errno.ENOMEM
    most = i.ioasid_reserve_capacity(kernel, 0)
    i.ioasid_cancel_capacity(kernel, 999)
    assert code(p.open, "/dev/ioasid", os.O_RDWR) == errno.ENOSPC
    i.ioasid_cancel_capacity(kernel, most - 999)
    p.close(p.open("/dev/ioasid", os.O_RDWR))
    p.exit()
    kernel.shutdown()


def test_1_8_cgroup_ioasids_charges_each_id_of_a_process() -> None:
    kernel = pykernel.boot(parse("[modules]\nioasid_user = ''\n"))
    kernel.up()
    group = i.IoasidCgroup(limit=2)
    kernel.sub(i.Ioasid).cgroup_of = lambda _mm: group
    p = kernel.process()
    fd = p.open("/dev/ioasid", os.O_RDWR)
    wanted = bytearray(struct.pack("<IIII", 16, 0, 1, MAX))
    assert [p.ioctl(fd, ALLOC, wanted), p.ioctl(fd, ALLOC, wanted)] == [1, 2]
    assert code(p.ioctl, fd, ALLOC, wanted) == errno.EINVAL
    p.close(fd)
    assert group.usage == 0
    p.exit()
    kernel.shutdown()
