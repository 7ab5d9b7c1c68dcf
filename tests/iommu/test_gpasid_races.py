"""
A processor that translates a guest's PASID while its VMM unbinds it, under many interleavings: what was translated is
delivered while the IOMMU's entry still stands, and nothing after. Without the flush in between it is not so.
"""

from __future__ import annotations

import struct
from typing import Any

import pytest
from fakevtd import FakeVtd

from pykernel.iommu import gpasid
from pykernel.iommu import ioasid as i
from pykernel.iommu.domain import IOMMU_DOMAIN_UNMANAGED
from pykernel.iommu.gpasid import GuestSvm, iommu_uapi_sva_bind_gpasid, iommu_uapi_sva_unbind_gpasid
from pykernel.iommu.sva import Iommu
from pykernel.lib.notifier import NOTIFY_OK, NotifierBlock
from pykernel.machine import parse
from pykernel.pci.core import Pci
from pykernel.surfaces.explore import explore

DSA = parse("[[pci]]\nmodel='dsa'\naddress='0000:6a:01.0'\n")
GPASID = 101
SEEDS = 40


class Processor:
    """
    A virtual processor and its hypervisor's table, as the contract of the events has it: a notifier closes the gate and
    queues the change, which waits until nobody is in guest mode.
    """

    def __init__(self, kernel: Any, vtd: FakeVtd, dev: Any, owner: i.IoasidSet) -> None:
        self.kernel, self.vtd, self.dev = kernel, vtd, dev
        self.table: dict[int, int] = {}
        self.changes: list[tuple[int, int | None]] = []
        self.in_guest = False
        self.gate = True
        self.delivered = 0
        self.lost: list[int] = []
        i.ioasid_register_notifier(kernel, owner, NotifierBlock(self._event, i.IOASID_PRIO_CPU))

    def _event(self, _nb: NotifierBlock, event: int, args: i.IoasidNbArgs) -> int:
        if event in (i.IOASID_NOTIFY_BIND, i.IOASID_NOTIFY_UNBIND):
            if event == i.IOASID_NOTIFY_BIND:
                i.ioasid_get_locked(self.kernel, args.set, args.id)
            self.gate = False
            self.changes.append((args.spid, args.id if event == i.IOASID_NOTIFY_BIND else None))
            i.ioasid_queue_work(self.kernel, self._update)
        return NOTIFY_OK

    def _update(self) -> None:
        self.kernel.sched.idle_until(lambda: not self.in_guest)
        changes, self.changes = self.changes, []
        for spid, pasid in changes:
            if pasid is None:
                i.ioasid_put(self.kernel, None, self.table.pop(spid))
            else:
                self.table[spid] = pasid
        self.gate = not self.changes

    def run(self) -> None:
        """Submit over and over: translate, let others run, deliver."""
        sched = self.kernel.sched
        for _ in range(8):
            sched.idle_until(lambda: self.gate)
            self.in_guest = True
            pasid = self.table.get(GPASID)
            sched.point()
            if pasid is not None:
                self.delivered += 1
                if (self.dev.name, pasid) not in self.vtd.entries:
                    self.lost.append(pasid)
            self.in_guest = False
            sched.point()


class World:
    """A VMM with a set, a device, and a processor."""

    def __init__(self, kernel: Any, monkeypatch: Any) -> None:
        self.kernel = kernel
        self.dev = kernel.sub(Pci).devices["0000:6a:01.0"]
        self.vtd = FakeVtd(monkeypatch)
        self.domain: Any = kernel.sub(Iommu).unit.domain_alloc(IOMMU_DOMAIN_UNMANAGED)
        self.p = kernel.process()
        self.set = i.ioasid_alloc_set(kernel, self.p.task.mm, 100, i.IOASID_SET_TYPE_MM)
        self.cpu = Processor(kernel, self.vtd, self.dev, self.set)

    def call(self, fn: Any, pasid: int) -> None:
        data = struct.pack("<IIIIQQQQ8x", 72, 1, 1, 48, 1, 0x5000, pasid, GPASID) + bytes(16)
        addr = self.p.mem.alloc(len(data))
        self.p.mem.write(addr, data)
        before, self.kernel.current = self.kernel.current, self.p.task
        try:
            fn(self.domain, self.dev, addr)
        finally:
            self.kernel.current = before

    def orderly(self) -> None:
        for _ in range(2):
            pasid = i.ioasid_alloc(self.set, 1, 0xFFFFF)
            self.call(iommu_uapi_sva_bind_gpasid, pasid)
            self.kernel.sched.point()
            self.call(iommu_uapi_sva_unbind_gpasid, pasid)
            assert GPASID not in self.cpu.table, "the processor has forgotten it when unbind returns"
            i.ioasid_free(self.set, pasid)

    def disorderly(self) -> None:
        for _ in range(2):
            pasid = i.ioasid_alloc(self.set, 1, 0xFFFFF)
            self.call(iommu_uapi_sva_bind_gpasid, pasid)
            self.kernel.sched.point()
            i.ioasid_free(self.set, pasid)
            self.kernel.sched.idle_until(lambda number=pasid: number not in self.set.members)

    def end(self) -> None:
        self.kernel.sched.run_ready()
        assert not self.vtd.entries
        self.kernel.sub(i.Ioasid)._check()
        assert not self.set.members
        i.ioasid_set_free(self.set)
        self.domain.free()
        self.p.exit()


def lost(monkeypatch: Any, how: str) -> int:
    """How many submissions of all seeds met an entry that was gone."""
    count = delivered = 0
    for kernel in explore(seeds=SEEDS, machine=DSA):
        w = World(kernel, monkeypatch)
        kernel.gather(w.cpu.run, getattr(w, how))
        count += len(w.cpu.lost)
        delivered += w.cpu.delivered
        w.end()
    assert delivered, "no processor ever submitted: nothing was tested"
    return count


@pytest.mark.parametrize("how", ["orderly", "disorderly"])
def test_what_was_translated_is_delivered_while_the_entry_stands(monkeypatch, how):
    assert lost(monkeypatch, how) == 0


def test_without_the_flush_it_is_not_so(monkeypatch):
    """The mutant: unbind takes the entry away at once."""
    monkeypatch.setattr(gpasid, "ioasid_flush_work", lambda kernel: None)
    monkeypatch.setattr(World, "orderly", _unbind_only)
    assert lost(monkeypatch, "orderly")


def _unbind_only(self: World) -> None:
    pasid = i.ioasid_alloc(self.set, 1, 0xFFFFF)
    self.call(iommu_uapi_sva_bind_gpasid, pasid)
    self.kernel.sched.idle_until(lambda: self.cpu.gate)
    self.kernel.sched.point()
    self.call(iommu_uapi_sva_unbind_gpasid, pasid)
    i.ioasid_free(self.set, pasid)


def test_with_one_work_for_both_halves_it_is_not_so(monkeypatch):
    """The mutant, as Linux had it: the work that makes UNBIND takes the entries away, too."""

    def at_once(self: GuestSvm) -> None:
        core = self.kernel.sub(gpasid.GuestPasids)
        self.going = True
        core.say_unbind(self)
        core.drop(self)

    monkeypatch.setattr(GuestSvm, "free_work", at_once)
    assert lost(monkeypatch, "disorderly")
