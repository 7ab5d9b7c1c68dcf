"""
PASID translation, row by row where no other test has the row: flags, tables that go, events that KVM does not hear.

Rows are those of the talk and of what is known of the series: the exit (4.3), updates (4.5), events and traps (1.6, 9).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from kvmbox import PORTAL, Box, Vm

from pykernel.cpu import Trap
from pykernel.iommu import ioasid as i
from pykernel.lib.notifier import NOTIFY_OK, NotifierBlock
from pykernel.mm.phys import PhysMem
from pykernel.uapi.linux import kvm as k
from pykernel.virt.kvm import vmcs as v

ARITHMETIC = 0x8D5


def command(pasid: int) -> bytes:
    return pasid.to_bytes(4, "little") + bytes(60)


@pytest.fixture
def box() -> Iterator[Box]:
    made = Box()
    yield made
    made.shutdown()


@pytest.fixture
def vm(box: Box) -> Vm:
    return box.vm()


# ---- 0 and 4.1: numbers


def test_0_exit_reasons_and_directories() -> None:
    """72 and 73; directories 0x2038 and 0x203A. The control's bit is in a test of its own."""
    assert (v.EXIT_REASON_ENQCMD, v.EXIT_REASON_ENQCMDS) == (72, 73)
    assert (v.LOW_PASID_DIRECTORY, v.HIGH_PASID_DIRECTORY) == (0x2038, 0x203A)


def test_9_13_pasid_0_is_translated_as_any_other(box: Box, vm: Vm) -> None:
    """Hardware has no special case; only software never hands the host's 0 out."""
    host = box.bind(box.ids(vm.proc), 0)
    assert host
    assert vm.execute(lambda c: c.enqcmd(PORTAL, command(0))) is True
    assert box.card.arrived[0][0] == host


# ---- 4.2 and 4.3: the exit


def test_4_2_rflags_are_untouched_by_the_exit_itself(box: Box) -> None:
    """Fault-like: who injects an exception instead of skipping finds flags and RIP as they were."""
    tdx = Box(args="enqcmd_gp=1")
    machine = tdx.vm()
    seen: list[tuple[int, int]] = []

    def program(c: Any) -> None:
        c.vmcs.write(v.GUEST_RFLAGS, 2 | ARITHMETIC)
        before = c.vmcs.read(v.GUEST_RFLAGS), c.vmcs.read(v.GUEST_RIP)
        with pytest.raises(Trap):
            c.enqcmd(PORTAL, command(4))
        seen.extend([before, (c.vmcs.read(v.GUEST_RFLAGS), c.vmcs.read(v.GUEST_RIP))])

    machine.execute(program)
    assert seen[0] == seen[1]
    tdx.shutdown()


def test_9_10_a_full_queue_and_an_unknown_pasid_look_the_same_to_the_guest(box: Box, vm: Vm) -> None:
    """ZF=1 for both; the host tells them apart by its count of exits."""
    box.bind(box.ids(vm.proc), 5)
    box.card.full = True
    assert vm.execute(lambda c: [c.enqcmd(PORTAL, command(p)) for p in (5, 6)]) == [False, False]
    assert vm.vm.stat()["enqcmd_exits"] == 1


# ---- 4.5: updates


def test_4_5_bind_allocates_a_page_and_unbind_frees_the_empty_one(box: Box, vm: Vm) -> None:
    owner = box.ids(vm.proc)
    table = vm.vm.pasid_table
    pages = [table.pages]
    hosts = [box.bind(owner, pasid) for pasid in (1, 2, 0x80000)]
    pages.append(table.pages)
    for host in hosts:
        box.unbind(host)
        pages.append(table.pages)
    assert pages == [2, 4, 4, 3, 2]


def test_4_5_vm_destroy_frees_the_pages_and_drops_the_references(box: Box) -> None:
    proc = box.process()
    phys = box.host.sub(PhysMem)
    vm = Vm(box, proc, portal=False)
    owner = box.ids(proc)
    used = phys.used
    hosts = [box.bind(owner, block << 10) for block in range(8)]
    assert phys.used == used + 8
    assert vm.vm.pasid_table.pages == 10
    vm.close()
    assert phys.used <= used - 2
    assert [box.refs(host) for host in hosts] == [2] * 8


# ---- 1.6 and 9: which events


def test_1_6_kvm_is_on_the_sets_chain_with_the_cpus_priority(box: Box, vm: Vm) -> None:
    owner = box.ids(vm.proc)
    assert owner.nh.head is vm.vm.gate.nb
    assert vm.vm.gate.nb.priority == i.IOASID_PRIO_CPU


def test_9_2_whoever_else_listens_to_the_set_hears_after_kvm(box: Box, vm: Vm) -> None:
    """In both posted orders of priorities the processor is first; it is, whoever came first."""
    owner = box.ids(vm.proc)
    closed: list[bool] = []

    def call(_nb: NotifierBlock, event: int, _args: i.IoasidNbArgs) -> int:
        if event == i.IOASID_NOTIFY_UNBIND:
            closed.append(vm.vm.gate.closed)
        return NOTIFY_OK

    for priority in (i.IOASID_PRIO_IOMMU, i.IOASID_PRIO_DEVICE, i.IOASID_PRIO_LAST):
        i.ioasid_register_notifier(box.host, owner, NotifierBlock(call, priority))
    box.unbind(box.bind(owner, 9))
    assert closed == [True] * 3


def test_9_4_kvm_hears_bind_and_unbind_but_not_free(box: Box, vm: Vm) -> None:
    """As in version 4: FREE changes nothing for the guest until the IOMMU's driver makes UNBIND of it."""
    owner = box.ids(vm.proc)
    host = box.bind(owner, 101)
    i.ioasid_free(owner, host)
    i.ioasid_flush_work(box.host)
    assert vm.vm.pasid_table.lookup(101) == host
    assert box.refs(host) == 2
    i.ioasid_detach_spid(box.host, host)
    i.ioasid_flush_work(box.host)
    assert vm.vm.pasid_table.lookup(101) == -1
    i.ioasid_put(box.host, None, host)
    assert box.refs(host) == 0


def test_9_14_unbind_is_complete_before_the_same_guest_pasid_is_bound_again(box: Box, vm: Vm) -> None:
    """Both changes wait in one queue: in order, so that the table ends with the new one, and none of the old."""
    owner = box.ids(vm.proc)
    first = box.bind(owner, 101)
    box.unbind(first, flush=False)
    second = i.ioasid_alloc(owner, 1, 0xFFFFF)
    i.ioasid_get(box.host, owner, second)
    i.ioasid_attach_spid(box.host, second, 101)
    i.ioasid_flush_work(box.host)
    assert second != first
    assert vm.vm.pasid_table.lookup(101) == second
    assert [box.refs(first), box.refs(second)] == [1, 3]


@pytest.mark.parametrize("spid", [1 << 20, 101 | 1 << 20, 1 << 31])
def test_9_8_a_number_of_more_than_20_bits_never_reaches_the_table(box: Box, vm: Vm, spid: int) -> None:
    owner = box.ids(vm.proc)
    host = i.ioasid_alloc(owner, 1, 0xFFFFF)
    with pytest.raises(OSError, match="Invalid argument"):
        i.ioasid_attach_spid(box.host, host, spid)
    i.ioasid_flush_work(box.host)
    assert len(vm.vm.pasid_table) == 0
    assert box.refs(host) == 1


def test_4_5_entry_gate_alone_stops_a_processor_in_user_space(box: Box, vm: Vm) -> None:
    """A change that has not been made: KVM_RUN waits for it before the guest executes anything."""
    vcpu = vm.vcpu(lambda c: c.enqcmd(PORTAL, command(3)))
    owner = box.ids(vm.proc)
    host = i.ioasid_alloc(owner, 1, 0xFFFFF)
    i.ioasid_attach_spid(box.host, host, 3)
    assert vm.vm.gate.closed
    assert vm.run() == k.KVM_EXIT_SHUTDOWN
    assert vcpu.program.result is True
    assert box.card.arrived[0][0] == host
