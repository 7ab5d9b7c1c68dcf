"""
KVM and the IOASIDs of its VMM: events, references, and changing tables under processors that run.

References are those of the life cycle in the documentation of the IOASID series, version 4; what may never happen is
the tension that the talk names: a command translated by a table that no longer says so.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from kvmbox import MACHINE, PORTAL, Box, Vm

from pykernel import explore
from pykernel.iommu import ioasid as i
from pykernel.machine import parse
from pykernel.uapi.linux import kvm as k
from pykernel.virt.kvm.gate import PasidGate
from pykernel.virt.kvm.vcpu import Vcpu

SEEDS = 30


def command(pasid: int) -> bytes:
    return pasid.to_bytes(4, "little") + bytes(60)


@pytest.fixture
def box() -> Iterator[Box]:
    made = Box()
    yield made
    made.shutdown()


# ---- the life of a PASID


def test_pending_until_the_set_exists(box: Box) -> None:
    """KVM registers when the machine is made, before the VMM has a set: it hears of the first ID."""
    vm = box.vm()
    owner = box.ids(vm.proc)
    host = box.bind(owner, 101)
    assert vm.vm.pasid_table.lookup(101) == host
    assert vm.vm.gate.bound == {101: host}


def test_references_of_the_normal_life_cycle(box: Box) -> None:
    vm = box.vm()
    owner = box.ids(vm.proc)
    host = i.ioasid_alloc(owner, 1, 0xFFFFF)
    assert box.refs(host) == 1
    i.ioasid_get(box.host, owner, host)
    assert box.refs(host) == 2
    i.ioasid_attach_spid(box.host, host, 101)
    assert box.refs(host) == 3  # in the notifier: KVM has it before the table does
    i.ioasid_flush_work(box.host)
    i.ioasid_detach_spid(box.host, host)
    i.ioasid_flush_work(box.host)
    assert box.refs(host) == 2
    assert len(vm.vm.pasid_table) == 0
    i.ioasid_put(box.host, owner, host)
    i.ioasid_free(owner, host)
    assert box.refs(host) == 0


def test_references_are_dropped_when_the_machine_goes_first(box: Box) -> None:
    vm = box.vm()
    owner = box.ids(vm.proc)
    hosts = [box.bind(owner, pasid) for pasid in (1, 0x80000, 0xFFFFF)]
    assert [box.refs(host) for host in hosts] == [3, 3, 3]
    vm.close()
    assert [box.refs(host) for host in hosts] == [2, 2, 2]
    box.unbind(hosts[0])  # nobody hears it, nothing goes wrong
    assert box.refs(hosts[0]) == 1


def test_a_set_that_was_opened_again_is_heard_without_an_entry(box: Box) -> None:
    """The machine came late to the first set; of the next one it hears at once, whoever runs."""
    proc = box.process()
    first = box.ids(proc)
    gone = box.bind(first, 5)
    vm = Vm(box, proc)
    box.unbind(gone)
    i.ioasid_free_all_in_set(first)
    i.ioasid_set_free(first)
    box.sets.remove(first)
    host = box.bind(box.ids(proc), 5)
    assert vm.vm.pasid_table.lookup(5) == host
    box.unbind(host)
    assert vm.vm.pasid_table.lookup(5) == -1


def test_a_late_machine_finds_what_it_missed(box: Box) -> None:
    """Nothing is told twice: a machine made after the first BIND looks at the set, and hears what follows."""
    proc = box.process()
    owner = box.ids(proc)
    first = box.bind(owner, 5)
    vm = Vm(box, proc)
    i.ioasid_flush_work(box.host)
    assert vm.vm.pasid_table.lookup(5) == first
    second = box.bind(owner, 6)
    assert vm.vm.pasid_table.lookup(6) == second
    box.unbind(first)
    assert vm.vm.pasid_table.lookup(5) == -1
    box.unbind(second)
    i.ioasid_free_all_in_set(owner)
    i.ioasid_set_free(owner)
    box.sets.remove(owner)
    vm.vcpu(lambda c: None)
    vm.run()  # it waits for the next set from now on
    third = box.bind(box.ids(proc), 7)
    assert vm.vm.pasid_table.lookup(7) == third


def test_another_process_machine_hears_nothing(box: Box) -> None:
    mine, other = box.vm(), box.vm()
    box.bind(box.ids(mine.proc), 9)
    assert len(mine.vm.pasid_table) == 1
    assert len(other.vm.pasid_table) == 0


def test_two_machines_of_one_vmm_share_its_set(box: Box) -> None:
    first = box.vm()
    second = Vm(box, first.proc)
    owner = box.ids(first.proc)
    host = box.bind(owner, 9)
    assert first.vm.pasid_table.lookup(9) == second.vm.pasid_table.lookup(9) == host
    assert box.refs(host) == 4


def test_the_same_guest_pasid_again_is_the_new_host_pasid(box: Box) -> None:
    vm = box.vm()
    owner = box.ids(vm.proc)
    first = box.bind(owner, 101)
    box.unbind(first)
    second = box.bind(owner, 101)
    assert first != second
    assert vm.execute(lambda c: c.enqcmd(PORTAL, command(101)))
    assert box.card.arrived[0][0] == second


def test_notify_without_sleeping_changes_come_with_the_work(box: Box) -> None:
    """In the notifier the table is untouched and the gate closed; the ordered work opens it."""
    vm = box.vm()
    owner = box.ids(vm.proc)
    host = i.ioasid_alloc(owner, 1, 0xFFFFF)
    i.ioasid_attach_spid(box.host, host, 3)
    assert vm.vm.gate.closed
    assert len(vm.vm.pasid_table) == 0
    i.ioasid_flush_work(box.host)
    assert not vm.vm.gate.closed
    assert vm.vm.pasid_table.lookup(3) == host


def test_a_burst_is_one_update(box: Box) -> None:
    vm = box.vm()
    owner = box.ids(vm.proc)
    hosts = [i.ioasid_alloc(owner, 1, 0xFFFFF) for _ in range(20)]
    for pasid, host in enumerate(hosts):
        i.ioasid_attach_spid(box.host, host, pasid)
    wq = box.host.sub(i.Ioasid).wq
    before = wq._went
    i.ioasid_flush_work(box.host)
    assert wq._went - before == 1
    assert len(vm.vm.pasid_table) == 20


def test_no_memory_for_a_table_is_a_retry_for_the_guest(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    vm = box.vm()

    def refuse() -> int:
        raise OSError(12, "no page is free")

    owner = box.ids(vm.proc)
    with monkeypatch.context() as m:
        m.setattr(vm.vm.pasid_table.phys, "alloc_page", refuse)
        host = box.bind(owner, 4)
    assert vm.execute(lambda c: c.enqcmd(PORTAL, command(4))) is False
    box.unbind(host)
    assert box.refs(host) == 1


# ---- kick


def test_a_halted_processor_or_one_in_user_space_is_not_kicked(box: Box) -> None:
    """The gate is enough: nobody is in guest mode."""
    vm = box.vm()
    vm.vcpu(lambda c: c.hlt())
    vm.vcpu(lambda c: c.mmio_read(0xE0000000, 4))
    halted = box.host.spawn(lambda: vm.run(0), "halted")
    box.host.sched.run_ready()
    assert vm.run(1) == k.KVM_EXIT_MMIO
    box.bind(box.ids(vm.proc), 4)
    assert vm.vm.gate.kicks == 0
    assert vm.vm.pasid_table.lookup(4) > 0
    vm.vm.irqs.set_irq(4, level=True)
    assert halted.join() == k.KVM_EXIT_SHUTDOWN


@pytest.mark.parametrize("n", [1, 3, 16])
def test_kick_cost_is_linear_in_processors_in_guest_mode(box: Box, n: int) -> None:
    """One kick for each that is in the guest, none for others, however many changes come."""
    vm = box.vm()
    for _ in range(16):
        vm.vcpu(lambda c: None)
    from pykernel.virt.kvm.vcpu import IN_GUEST_MODE, OUTSIDE_GUEST_MODE

    owner = box.ids(vm.proc)
    for vcpu in vm.vcpus[:n]:
        vcpu.mode = IN_GUEST_MODE
    hosts = [i.ioasid_alloc(owner, 1, 0xFFFFF) for _ in range(3)]
    for pasid, host in enumerate(hosts):
        i.ioasid_attach_spid(box.host, host, pasid)
    assert vm.vm.gate.kicks == n
    for vcpu in vm.vcpus:
        vcpu.mode = OUTSIDE_GUEST_MODE
    i.ioasid_flush_work(box.host)


# ---- the tension


class Tension:
    """Guests that submit with PASIDs which come and go; ``stale`` are deliveries after their UNBIND returned."""

    def __init__(self, kernel: Any, vcpus: int = 2) -> None:
        self.box = Box(kernel=kernel)
        self.vm = self.box.vm()
        self.owner = self.box.ids(self.vm.proc)
        self.live: set[int] = set()
        self.stale: list[int] = []
        self.box.card.told = self._told
        self.stop = False
        for _ in range(vcpus):
            self.vm.vcpu(self._program)

    def _told(self, host: int) -> None:
        if host not in self.live:
            self.stale.append(host)

    def _program(self, c: Vcpu) -> int:
        accepted = 0
        for _ in range(12):
            accepted += c.enqcmd(PORTAL, command(101))
            c.boundary()
        return accepted

    def publisher(self) -> None:
        """As the IOMMU's driver: BIND, wait, entry; UNBIND, wait, entry."""
        kernel = self.box.host
        for _ in range(3):
            host = i.ioasid_alloc(self.owner, 1, 0xFFFFF)
            self.live.add(host)
            self.box.rebind(self.owner, host, 101)
            kernel.sched.might_sleep("a while")
            i.ioasid_detach_spid(kernel, host)
            i.ioasid_flush_work(kernel)
            self.live.discard(host)  # the IOMMU's entry goes
            i.ioasid_put(kernel, None, host)
            i.ioasid_free(self.owner, host)

    def run(self) -> list[int]:
        loops = [lambda n=n: self.vm.loop(n) for n in range(len(self.vm.vcpus))]
        self.box.host.gather(self.publisher, *loops)
        accepted = sum(v.program.result for v in self.vm.vcpus)
        assert accepted == len(self.box.card.arrived)
        self.box.host.sub(i.Ioasid).wq.flush()
        self.box.shutdown_only()
        self.box.host.sub(i.Ioasid).wq.flush()
        return self.stale


def kernels(seeds: int) -> Any:
    return explore(seeds=seeds, machine=parse(MACHINE.format(more="", args="")))


def test_no_stale_translation_is_delivered_after_unbind_returned() -> None:
    delivered = 0
    for kernel in kernels(SEEDS):
        tension = Tension(kernel)
        assert tension.run() == []
        delivered += len(tension.box.card.arrived)
    assert delivered > SEEDS  # it was no test of nothing


@pytest.mark.parametrize("mutant", ["no wait for processors", "no flush"])
def test_mutants_deliver_stale_translations(mutant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test above finds it when the update does not wait, or the publisher does not."""
    if mutant == "no flush":
        monkeypatch.setattr(i, "ioasid_flush_work", lambda _kernel: None)
    else:
        plain = PasidGate.update

        def hasty(self: PasidGate) -> None:
            with monkeypatch.context() as m:
                m.setattr(Vcpu, "in_guest", False)
                plain(self)

        monkeypatch.setattr(PasidGate, "update", hasty)
    found = 0
    for kernel in kernels(SEEDS):
        found += bool(Tension(kernel).run())
    assert found
