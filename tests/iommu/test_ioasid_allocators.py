"""Custom allocators of IOASIDs: the rules in the comment of drivers/iommu/ioasid.c, and two that it has not."""

from __future__ import annotations

import errno

import pytest

import pykernel
from pykernel.iommu import ioasid as i
from pykernel.machine import Machine

MAX = 0xFFFFF
BAD = 0xFFFFFFFF


class Host:
    """Who gives out IDs: from *first* on; what it was asked and given back."""

    def __init__(self, first: int) -> None:
        self.next = first
        self.calls: list[tuple[object, ...]] = []

    def alloc(self, low: int, high: int, pdata: object) -> int:
        self.calls.append(("alloc", low, high, pdata))
        self.next += 1
        return self.next - 1

    def free(self, number: int, pdata: object) -> None:
        self.calls.append(("free", number, pdata))

    def ops(self, pdata: object = None) -> i.IoasidAllocatorOps:
        return i.IoasidAllocatorOps(self.alloc, self.free, pdata)


class Box:
    def __init__(self) -> None:
        self.kernel = pykernel.boot(Machine("bare"))
        self.core = self.kernel.sub(i.Ioasid)
        self.set = i.ioasid_alloc_set(self.kernel, None, 64, i.IOASID_SET_TYPE_NULL)

    def alloc(self, low: int = 1, high: int = MAX) -> int:
        return i.ioasid_alloc(self.set, low, high)

    def free(self, number: int) -> None:
        i.ioasid_free(self.set, number)

    def register(self, ops: i.IoasidAllocatorOps) -> int:
        try:
            i.ioasid_register_allocator(self.kernel, ops)
        except OSError as e:
            return e.errno or 0
        return 0

    def unregister(self, ops: i.IoasidAllocatorOps) -> None:
        i.ioasid_unregister_allocator(self.kernel, ops)

    def log(self) -> list[str]:
        return [r.text for r in self.kernel.log.records]


@pytest.fixture
def box():
    made = Box()
    yield made
    made.core._check()


def test_the_default_allocator_is_always_there(box):
    assert [box.alloc(), box.alloc(5, 9)] == [1, 5]


def test_custom_beats_default_and_is_active_at_once(box):
    host = Host(500)
    assert box.register(host.ops("unit")) == 0
    assert box.alloc() == 500
    assert host.calls == [("alloc", 1, MAX, "unit")]
    box.free(500)
    assert host.calls[-1] == ("free", 500, "unit")


def test_first_registration_is_eagain_while_the_default_has_outstanding_ids(box):
    number = box.alloc()
    host = Host(500)
    assert box.register(host.ops()) == errno.EAGAIN
    assert "Default allocator active with outstanding IOASID" in box.log()
    box.free(number)
    assert box.register(host.ops()) == 0


def test_register_enomem(box):
    with box.kernel.faults.fail("alloc", "ioasid_register_allocator"):
        assert box.register(Host(1).ops()) == errno.ENOMEM


def test_a_new_pair_of_functions_waits_at_the_tail(box):
    hosts = [Host(500), Host(600), Host(700)]
    ops = [host.ops() for host in hosts]
    assert [box.register(o) for o in ops] == [0, 0, 0]
    assert box.alloc() == 500
    box.free(500)
    box.unregister(ops[0])
    assert "IOASID allocator changed" in box.log()
    assert box.alloc() == 600
    box.free(600)
    box.unregister(ops[2])
    assert box.alloc() == 601, "who waits may go"


def test_the_same_pair_joins_its_group_and_shares_the_ids(box):
    host = Host(500)
    first, second = host.ops("a"), host.ops("b")
    assert [box.register(first), box.register(second)] == [0, 0]
    assert box.alloc() == 500
    box.unregister(second)
    assert i.ioasid_find_set(box.kernel, 500) is box.set, "ids are kept while one of the group is left"


def test_the_same_object_again_is_eexist(box):
    ops = Host(500).ops()
    box.register(ops)
    assert box.register(ops) == errno.EEXIST
    assert "IOASID allocator already registered" in box.log()


def test_what_the_allocator_gives_twice_is_refused(box):
    host = Host(500)
    box.register(host.ops("p"))
    assert box.alloc() == 500
    host.next = 500
    assert box.alloc() == BAD
    assert host.calls[-1] == ("free", 500, "p"), "it gets it back"
    assert box.log()[-2:] == ["Failed to alloc ioasid from 500", "Failed ASID allocation 1"]


@pytest.mark.parametrize("wrong", [0, 1 << 20, (1 << 20) + 500, -3])
def test_what_is_0_or_wider_than_20_bits_is_refused_not_masked(box, wrong):
    host = Host(wrong)
    box.register(host.ops())
    assert box.alloc() == BAD
    assert host.calls[-1] == ("free", wrong, None)


def test_what_is_outside_of_the_range_is_refused(box):
    box.register(Host(500).ops())
    assert box.alloc(1, 100) == BAD


def test_an_allocator_that_has_none(box):
    box.register(i.IoasidAllocatorOps(lambda low, high, pdata: BAD, lambda number, pdata: None))
    assert box.alloc() == BAD
    assert box.log()[-1] == "Failed ASID allocation 1"
    assert box.set.nr_ioasids == 0


def test_a_failed_store_gives_the_id_back(box):
    host = Host(500)
    box.register(host.ops())
    with box.kernel.faults.fail("alloc", "ioasid_alloc_store"):
        assert box.alloc() == BAD
    assert host.calls[-1] == ("free", 500, None)


def test_the_last_one_makes_way_for_the_default(box):
    ops = Host(500).ops()
    box.register(ops)
    box.unregister(ops)
    assert "No custom IOASID allocators, switch to default." in box.log()
    assert box.alloc() == 1
    box.unregister(ops)
    assert "No custom IOASID allocators active!" in box.log()


def test_what_is_not_registered_cannot_be_taken_off(box):
    host = Host(500)
    ops = host.ops()
    box.register(ops)
    box.unregister(host.ops())
    assert box.core.allocators.active.members == [ops]


def test_ids_whose_allocator_went_are_told_and_never_given_out_again_while_they_live(box):
    """Linux warns, forgets the number, and gives it to the next one while hardware still has it."""
    ops = Host(1).ops()
    box.register(ops)
    number = box.alloc()
    box.unregister(ops)
    assert "have no allocator" in str(box.kernel.oopses.pop())
    assert number == 1
    assert box.alloc() == 2
    i.ioasid_get(box.kernel, box.set, number)
    i.ioasid_put(box.kernel, box.set, number)
    box.free(number)
    assert box.alloc() == 1


def test_i_the_first_of_a_group_may_go(box):
    """The next one serves what was given out; Linux goes on with the functions and data of who is gone."""
    host = Host(500)
    first, second = host.ops("first"), host.ops("second")
    box.register(first)
    box.register(second)
    number = box.alloc()
    box.unregister(first)
    box.free(number)
    assert host.calls[-1] == ("free", number, "second")
    box.alloc()
    assert list(host.calls[-1]) == ["alloc", 1, MAX, "second"]
    assert box.register(first) == 0, "it is registered no more"


def test_j_who_is_not_the_first_of_a_group_is_known_too(box):
    host = Host(500)
    first, second = host.ops("first"), host.ops("second")
    box.register(first)
    box.register(second)
    assert box.register(second) == errno.EEXIST
