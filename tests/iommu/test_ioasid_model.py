"""IOASIDs against a naive model: whatever is called, both say the same, and the allocator's own check holds."""

from __future__ import annotations

import errno
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

import pykernel
from pykernel.iommu import ioasid as i
from pykernel.lib.notifier import NOTIFY_OK, NotifierBlock
from pykernel.machine import Machine

BAD = 0xFFFFFFFF
CAPACITY = 24
NUMBERS = st.integers(0, CAPACITY)
SETS = st.integers(0, 3)


def errno_of(fn, *args) -> int:
    try:
        fn(*args)
    except OSError as e:
        return e.errno or 0
    return 0


class Model(RuleBasedStateMachine):
    """
    ``ids``: number -> [set, refs, pending, spid]; ``sets``: [quota, live, dying]; ``told``: events since the last look.
    """

    def __init__(self) -> None:
        super().__init__()
        self.kernel = pykernel.boot(Machine("bare"))
        self.core = self.kernel.sub(i.Ioasid)
        i.ioasid_install_capacity(self.kernel, CAPACITY)
        self.real: list[i.IoasidSet] = []
        self.sets: list[list[Any]] = []
        self.ids: dict[int, list[Any]] = {}
        self.expected: list[tuple[str, int, int]] = []
        self.told: list[tuple[str, int, int]] = []
        i.ioasid_register_notifier(self.kernel, None, self._nb("all"))

    def _nb(self, who: str) -> NotifierBlock:
        def call(_nb: NotifierBlock, event: int, args: i.IoasidNbArgs) -> int:
            self.told.append((who, event, args.id))
            return NOTIFY_OK

        return NotifierBlock(call)

    def _avail(self) -> int:
        return CAPACITY - sum(quota for quota, live, _ in self.sets if live)

    def _members(self, n: int) -> list[int]:
        return [number for number, row in self.ids.items() if row[0] == n]

    @precondition(lambda self: len(self.sets) < 4)
    @rule(quota=st.integers(0, 10))
    def set_alloc(self, quota):
        wanted = quota or self._avail()
        made: list[i.IoasidSet] = []
        answer = errno_of(lambda: made.append(i.ioasid_alloc_set(self.kernel, None, quota, i.IOASID_SET_TYPE_NULL)))
        assert answer == (errno.ENOSPC if wanted > self._avail() else 0)
        if not answer:
            i.ioasid_register_notifier(self.kernel, made[0], self._nb(f"set{len(self.sets)}"))
            self.real += made
            self.sets.append([wanted, True, False])

    def _there(self, n: int) -> bool:
        return n < len(self.sets)

    @rule(n=SETS)
    def set_free(self, n):
        if not self._there(n):
            return
        row = self.sets[n]
        expected = 0 if row[1] else errno.EINVAL
        if row[1] and self._members(n):
            expected, row[2] = errno.EBUSY, True
        elif row[1]:
            row[1] = False
        assert errno_of(i.ioasid_set_free, self.real[n]) == expected

    @rule(n=SETS, quota=st.integers(0, 12))
    def adjust(self, n, quota):
        if not self._there(n):
            return
        row = self.sets[n]
        if not row[1] or quota < max(len(self._members(n)), 1):
            expected = errno.EINVAL
        else:
            expected = errno.ENOSPC if quota - row[0] > self._avail() else 0
        assert errno_of(i.ioasid_adjust_set, self.real[n], quota) == expected
        if not expected:
            row[0] = quota

    @rule(n=SETS, low=NUMBERS, high=NUMBERS)
    def alloc(self, n, low, high):
        if not self._there(n):
            return
        row = self.sets[n]
        free = [k for k in range(max(low, 1), min(high, CAPACITY - 1) + 1) if k not in self.ids]
        expected = free[0] if free and row[1] and not row[2] and len(self._members(n)) < row[0] else BAD
        assert i.ioasid_alloc(self.real[n], low, high) == expected
        if expected != BAD:
            self.ids[expected] = [n, 1, False, None]
            self.expected.append((f"set{n}", 1, expected))

    def _reclaim(self, number: int) -> None:
        n = self.ids.pop(number)[0]
        if self.sets[n][2] and not self._members(n):
            self.sets[n][1:] = [False, False]

    def _free(self, n: int, number: int) -> None:
        row = self.ids.get(number)
        if row is None or row[0] != n or row[2]:
            return
        row[1], row[2] = row[1] - 1, True
        if row[1]:
            self.expected += [("all", 2, number), (f"set{n}", 2, number)]
        else:
            self._reclaim(number)

    @rule(n=SETS, number=NUMBERS)
    def free(self, n, number):
        if self._there(n):
            self._free(n, number)
            i.ioasid_free(self.real[n], number)

    @rule(n=SETS)
    def free_all(self, n):
        if not self._there(n):
            return
        if self.sets[n][1]:
            for number in sorted(self._members(n)):
                self._free(n, number)
        i.ioasid_free_all_in_set(self.real[n])

    @rule(n=SETS, number=NUMBERS, anyone=st.booleans())
    def get(self, n, number, anyone):
        if not self._there(n):
            return
        row = self.ids.get(number)
        if row is None:
            expected = errno.EINVAL
        elif row[2]:
            expected = errno.EBUSY
        else:
            expected = 0 if anyone or row[0] == n else errno.EACCES
        assert errno_of(i.ioasid_get, self.kernel, None if anyone else self.real[n], number) == expected
        if row is not None and not expected:
            row[1] += 1

    @rule(n=SETS, number=NUMBERS, anyone=st.booleans())
    def put(self, n, number, anyone):
        if not self._there(n):
            return
        row = self.ids.get(number)
        last = False
        if row is not None and (anyone or row[0] == n):
            row[1] -= 1
            last = not row[1]
            if last:
                self._reclaim(number)
        assert i.ioasid_put(self.kernel, None if anyone else self.real[n], number) == last

    @rule(number=NUMBERS, spid=st.one_of(st.integers(0, 3), st.sampled_from([1 << 20, BAD])))
    def attach_spid(self, number, spid):
        row = self.ids.get(number)
        if spid >= 1 << 20:
            expected = errno.EINVAL
        elif row is None:
            expected = errno.ENOENT
        elif row[2] or row[3] not in (None, spid):
            expected = errno.EBUSY
        else:
            taken = any(other[3] == spid for other in self.ids.values() if other[0] == row[0])
            expected = errno.EINVAL if taken else 0
        assert errno_of(i.ioasid_attach_spid, self.kernel, number, spid) == expected
        if row is not None and not expected:
            row[3] = spid
            self.expected.append((f"set{row[0]}", 3, number))

    @rule(number=NUMBERS)
    def detach_spid(self, number):
        row = self.ids.get(number)
        if row is not None and row[3] is not None:
            self.expected.append((f"set{row[0]}", 4, number))
            row[3] = None
        i.ioasid_detach_spid(self.kernel, number)

    @rule(n=SETS, spid=st.integers(0, 3), get=st.booleans())
    def find_by_spid(self, n, spid, get):
        if not self._there(n):
            return
        found = [k for k, row in self.ids.items() if row[0] == n and row[3] == spid and not (get and row[2])]
        expected = found[0] if found else BAD
        assert i.ioasid_find_by_spid(self.real[n], spid, get) == expected
        if found and get:
            self.ids[expected][1] += 1

    @invariant()
    def same(self):
        self.core._check()
        got = {k: [self.real.index(d.set), d.refs, d.pending, None if d.spid == BAD else d.spid]
               for k, d in self.core.ids.items()}  # fmt: skip
        assert got == self.ids
        assert self.core.capacity_avail == self._avail()
        assert self.told == self.expected


TestModel = Model.TestCase
TestModel.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
