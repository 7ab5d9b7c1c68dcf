"""Events of IOASIDs: which chain hears which, in which order, once; notifiers that come before their set."""

from __future__ import annotations

import errno
from collections.abc import Callable
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
ALLOC, FREE, BIND, UNBIND = 1, 2, 3, 4


class Box:
    """A kernel, a set, and what was heard: (who, event, id, spid, pdata)."""

    def __init__(self) -> None:
        self.kernel = pykernel.boot(Machine("bare"))
        self.core = self.kernel.sub(i.Ioasid)
        self.mm = Mm()
        self.heard: list[tuple[Any, ...]] = []

    def nb(self, who: str, priority: int = 0, then: Callable[[i.IoasidNbArgs], None] | None = None) -> NotifierBlock:
        def call(_nb: NotifierBlock, event: int, args: i.IoasidNbArgs) -> int:
            self.heard.append((who, event, args.id, args.spid, args.pdata))
            if then is not None:
                then(args)
            return NOTIFY_OK

        return NotifierBlock(call, priority)

    def set(self) -> i.IoasidSet:
        return i.ioasid_alloc_set(self.kernel, self.mm, 16, i.IOASID_SET_TYPE_MM)

    def events(self) -> list[tuple[str, int]]:
        found = [(who, event) for who, event, *_ in self.heard]
        self.heard.clear()
        return found


@pytest.fixture
def box():
    made = Box()
    yield made
    made.core._check()


def fails(fn, *args, **kw) -> int:
    try:
        fn(*args, **kw)
    except OSError as e:
        return e.errno or 0
    return 0


def test_values():
    assert (i.IOASID_NOTIFY_ALLOC, i.IOASID_NOTIFY_FREE, i.IOASID_NOTIFY_BIND, i.IOASID_NOTIFY_UNBIND) == (1, 2, 3, 4)
    assert (i.IOASID_NOTIFY_FLAG_ALL, i.IOASID_NOTIFY_FLAG_SET) == (1, 2)
    prios = (i.IOASID_PRIO_LAST, i.IOASID_PRIO_DEVICE, i.IOASID_PRIO_IOMMU, i.IOASID_PRIO_CPU)
    assert prios == (0, 1, 2, 3), "the order of version 4; version 3 had the IOMMU before devices"


def test_which_chain_hears_which_event(box):
    """ALLOC, BIND, UNBIND: the set's. FREE: that of all, then the set's."""
    kernel, s = box.kernel, box.set()
    i.ioasid_register_notifier(kernel, s, box.nb("set"))
    i.ioasid_register_notifier(kernel, None, box.nb("all"))
    number = i.ioasid_alloc(s, 1, MAX, "data")
    i.ioasid_get(kernel, None, number)
    i.ioasid_attach_spid(kernel, number, 101)
    i.ioasid_detach_spid(kernel, number)
    i.ioasid_free(s, number)
    i.ioasid_put(kernel, None, number)
    assert box.heard == [
        ("set", ALLOC, number, BAD, "data"),
        ("set", BIND, number, 101, "data"),
        ("set", UNBIND, number, 101, "data"),
        ("all", FREE, number, BAD, "data"),
        ("set", FREE, number, BAD, "data"),
    ]


def test_other_sets_hear_nothing(box):
    other = i.ioasid_alloc_set(box.kernel, None, 4, i.IOASID_SET_TYPE_NULL)
    i.ioasid_register_notifier(box.kernel, other, box.nb("other"))
    i.ioasid_alloc(box.set(), 1, MAX)
    assert not box.heard


def test_priorities_within_a_chain(box):
    """CPU, IOMMU, DEVICE, LAST; equal ones as they came."""
    s = box.set()
    rows = [("last", 0), ("device", 1), ("cpu", 3), ("iommu", 2), ("device2", 1), ("cpu2", 3)]
    for who, priority in rows:
        i.ioasid_register_notifier(box.kernel, s, box.nb(who, priority))
    i.ioasid_alloc(s, 1, MAX)
    assert [who for who, _ in box.events()] == ["cpu", "cpu2", "iommu", "device", "device2", "last"]


def test_the_chain_of_all_comes_first_whatever_the_priorities(box):
    kernel, s = box.kernel, box.set()
    i.ioasid_register_notifier(kernel, s, box.nb("cpu", i.IOASID_PRIO_CPU))
    i.ioasid_register_notifier(kernel, None, box.nb("iommu", i.IOASID_PRIO_LAST))
    number = i.ioasid_alloc(s, 1, MAX)
    i.ioasid_get(kernel, None, number)
    i.ioasid_free(s, number)
    assert box.events() == [("cpu", ALLOC), ("iommu", FREE), ("cpu", FREE)]
    i.ioasid_put(kernel, None, number)


def test_free_is_told_once_and_only_when_somebody_has_it(box):
    kernel, s = box.kernel, box.set()
    i.ioasid_register_notifier(kernel, None, box.nb("all"))
    a, b = (i.ioasid_alloc(s, 1, MAX) for _ in range(2))
    i.ioasid_free(s, a)
    assert not box.events()
    i.ioasid_get(kernel, None, b)
    i.ioasid_free(s, b)
    i.ioasid_free(s, b)
    i.ioasid_free_all_in_set(s)
    assert box.events() == [("all", FREE)]
    i.ioasid_put(kernel, None, b)
    assert not box.events()


def test_unbind_is_told_while_the_spid_is_still_there(box):
    kernel, s = box.kernel, box.set()
    number = i.ioasid_alloc(s, 1, MAX)
    i.ioasid_attach_spid(kernel, number, 101)
    i.ioasid_register_notifier(kernel, s, box.nb("kvm", then=lambda args: seen.append(args.set.spids[args.spid].id)))
    seen: list[int] = []
    i.ioasid_detach_spid(kernel, number)
    assert seen == [number]


def test_refused_attach_spid_makes_no_event(box):
    s = box.set()
    number = i.ioasid_alloc(s, 1, MAX)
    i.ioasid_register_notifier(box.kernel, s, box.nb("set"))
    assert fails(i.ioasid_attach_spid, box.kernel, number, BAD) == errno.EINVAL
    i.ioasid_attach_spid(box.kernel, number, 1)
    assert fails(i.ioasid_attach_spid, box.kernel, number, 1) == errno.EINVAL
    i.ioasid_detach_spid(box.kernel, number)
    i.ioasid_detach_spid(box.kernel, number)
    assert box.events() == [("set", BIND), ("set", UNBIND)]


def test_notify(box):
    kernel, s = box.kernel, box.set()
    number = i.ioasid_alloc(s, 1, MAX)
    i.ioasid_register_notifier(kernel, s, box.nb("set"))
    i.ioasid_register_notifier(kernel, None, box.nb("all"))
    for flags, who in ((1, ["all"]), (2, ["set"]), (3, ["all", "set"]), (0, [])):
        i.ioasid_notify(kernel, number, BIND, flags)
        assert [w for w, _ in box.events()] == who
    assert fails(i.ioasid_notify, kernel, number, BIND, 4) == errno.EINVAL
    assert fails(i.ioasid_notify, kernel, number + 1, BIND, 1) == errno.ENOENT


def test_a_notifier_may_take_and_drop_references_by_the_locked_calls(box):
    kernel, s = box.kernel, box.set()

    def bind(args: i.IoasidNbArgs) -> None:
        i.ioasid_get_locked(kernel, args.set, args.id)

    i.ioasid_register_notifier(kernel, s, box.nb("kvm", then=bind))
    number = i.ioasid_alloc(s, 1, MAX)
    assert box.core.ids[number].refs == 2


def test_a_notifier_of_free_may_drop_the_last_reference(box):
    kernel, s = box.kernel, box.set()
    number = i.ioasid_alloc(s, 1, MAX)
    i.ioasid_attach_spid(kernel, number, 101)
    i.ioasid_get(kernel, None, number)
    i.ioasid_register_notifier(
        kernel, None, box.nb("user", then=lambda args: i.ioasid_put_locked(kernel, None, args.id) and None)
    )
    i.ioasid_free(s, number)
    assert number not in box.core.ids
    assert i.ioasid_find_by_spid(s, 101) == BAD


def test_a_notifier_of_unbind_may_drop_the_last_reference(box):
    kernel, s = box.kernel, box.set()
    number = i.ioasid_alloc(s, 1, MAX)
    i.ioasid_attach_spid(kernel, number, 101)
    i.ioasid_register_notifier(
        kernel, s, box.nb("user", then=lambda args: i.ioasid_put_locked(kernel, None, args.id) and None)
    )
    i.ioasid_detach_spid(kernel, number)
    assert number not in box.core.ids


@pytest.mark.parametrize(
    "wrong",
    [
        lambda k, a: i.ioasid_get(k, None, a.id),
        lambda k, a: i.ioasid_put(k, None, a.id),
        lambda k, a: i.ioasid_detach_spid(k, a.id),
        lambda k, a: i.ioasid_free(a.set, a.id),
        lambda k, a: i.ioasid_alloc(a.set, 1, MAX),
        lambda k, a: i.ioasid_flush_work(k),
        lambda k, a: k.sched.might_sleep("anything"),
    ],
)
def test_a_notifier_must_not_sleep_nor_cause_events(box, wrong):
    """Linux would wait for its own spinlock, or schedule while atomic."""
    kernel, s = box.kernel, box.set()
    number = i.ioasid_alloc(s, 1, MAX)
    nb = box.nb("bad", then=lambda args: wrong(kernel, args))
    i.ioasid_register_notifier(kernel, s, nb)
    with pytest.raises(Oops, match=r"sleeping function|recursive locking"):
        i.ioasid_attach_spid(kernel, number, 101)
    i.ioasid_unregister_notifier(kernel, s, nb)
    assert i.ioasid_find_by_spid(s, 101) == number


def test_a_notifier_queues_what_must_wait(box):
    kernel, s = box.kernel, box.set()
    done: list[int] = []

    def later(args: i.IoasidNbArgs) -> None:
        def work() -> None:
            i.ioasid_get(kernel, None, args.id)
            done.append(args.id)

        i.ioasid_queue_work(kernel, work)

    i.ioasid_register_notifier(kernel, s, box.nb("kvm", then=later))
    number = i.ioasid_alloc(s, 1, MAX)
    assert not done
    i.ioasid_flush_work(kernel)
    assert (done, box.core.ids[number].refs) == ([number], 2)


# ---- registering


def test_register_notifier_twice_is_eexist(box):
    s, nb = box.set(), box.nb("x")
    i.ioasid_register_notifier(box.kernel, s, nb)
    assert fails(i.ioasid_register_notifier, box.kernel, s, nb) == errno.EEXIST


def test_unregister_notifier(box):
    s, nb = box.set(), box.nb("x")
    i.ioasid_register_notifier(box.kernel, s, nb)
    i.ioasid_unregister_notifier(box.kernel, s, nb)
    i.ioasid_unregister_notifier(box.kernel, s, nb)
    i.ioasid_alloc(s, 1, MAX)
    assert not box.heard


def test_register_notifier_mm_before_there_is_a_set_hears_the_first_id(box):
    i.ioasid_register_notifier_mm(box.kernel, box.mm, box.nb("kvm"))
    i.ioasid_alloc(box.set(), 1, MAX)
    assert box.events() == [("kvm", ALLOC)]


def test_register_notifier_mm_with_an_empty_set(box):
    s = box.set()
    i.ioasid_register_notifier_mm(box.kernel, box.mm, box.nb("kvm"))
    i.ioasid_alloc(s, 1, MAX)
    assert box.events() == [("kvm", ALLOC)]


def test_register_notifier_mm_ebusy(box):
    """Twice; or the set has IDs, whose events it would have missed: nothing is told again."""
    s, nb = box.set(), box.nb("kvm")
    i.ioasid_register_notifier_mm(box.kernel, box.mm, nb)
    assert fails(i.ioasid_register_notifier_mm, box.kernel, box.mm, nb) == errno.EBUSY
    assert fails(i.ioasid_register_notifier_mm, box.kernel, Mm(), nb) == errno.EBUSY, "a block is on one chain"
    i.ioasid_alloc(s, 1, MAX)
    assert fails(i.ioasid_register_notifier_mm, box.kernel, box.mm, box.nb("late")) == errno.EBUSY


def test_register_notifier_mm_enomem(box):
    with box.kernel.faults.fail("alloc", "ioasid_register_notifier_mm"):
        assert fails(i.ioasid_register_notifier_mm, box.kernel, box.mm, box.nb("kvm")) == errno.ENOMEM
    assert not box.core.chains.pending


def test_a_notifier_by_mm_waits_for_the_next_set_when_its_set_goes(box):
    i.ioasid_register_notifier_mm(box.kernel, box.mm, box.nb("kvm"))
    first = box.set()
    i.ioasid_set_free(first)
    i.ioasid_alloc(box.set(), 1, MAX)
    assert box.events() == [("kvm", ALLOC)]


def test_unregister_notifier_refuses_what_came_by_mm(box):
    nb = box.nb("kvm")
    i.ioasid_register_notifier_mm(box.kernel, box.mm, nb)
    s = box.set()
    i.ioasid_unregister_notifier(box.kernel, s, nb)
    i.ioasid_alloc(s, 1, MAX)
    assert box.events() == [("kvm", ALLOC)]


@pytest.mark.parametrize("active", [False, True])
def test_unregister_notifier_mm(box, active):
    nb = box.nb("kvm")
    i.ioasid_register_notifier_mm(box.kernel, box.mm, nb)
    s = box.set() if active else None
    i.ioasid_unregister_notifier_mm(box.kernel, box.mm, nb)
    i.ioasid_unregister_notifier_mm(box.kernel, box.mm, nb)
    i.ioasid_alloc(s or box.set(), 1, MAX)
    assert not box.heard


def test_unregister_may_sleep(box):
    s, nb = box.set(), box.nb("x")
    i.ioasid_register_notifier(box.kernel, s, nb)
    with box.core.lock, pytest.raises(Oops, match="sleeping function"):
        i.ioasid_unregister_notifier(box.kernel, s, nb)


# ---- a whole life


def test_reference_life_cycle(box):
    """The numbers of the document of version 4, step by step."""
    kernel, core = box.kernel, box.core
    table: dict[int, int] = {}

    def kvm(_nb: NotifierBlock, event: int, args: i.IoasidNbArgs) -> int:
        if event == BIND:
            i.ioasid_get_locked(kernel, args.set, args.id)
            table[args.spid] = args.id
        elif event == UNBIND:
            del table[args.spid]
            i.ioasid_put_locked(kernel, args.set, args.id)
        return NOTIFY_OK

    i.ioasid_register_notifier_mm(kernel, box.mm, NotifierBlock(kvm, i.IOASID_PRIO_CPU))
    s = box.set()
    hpasid = i.ioasid_alloc(s, 1, MAX)
    refs = [core.ids[hpasid].refs]

    def step(fn: Callable[..., Any], *args: Any) -> None:
        fn(*args)
        refs.append(core.ids[hpasid].refs if hpasid in core.ids else 0)

    step(i.ioasid_get, kernel, s, hpasid)
    i.ioasid_attach_data(kernel, hpasid, "svm")
    step(i.ioasid_attach_spid, kernel, hpasid, 101)
    assert table == {101: hpasid}
    step(lambda: i.ioasid_find_by_spid(s, 101, get=True))
    step(i.ioasid_put, kernel, s, hpasid)
    step(i.ioasid_detach_spid, kernel, hpasid)
    assert not table
    i.ioasid_detach_data(kernel, hpasid)
    step(i.ioasid_put, kernel, s, hpasid)
    step(i.ioasid_free, s, hpasid)
    assert refs == [1, 2, 3, 4, 3, 2, 1, 0]
