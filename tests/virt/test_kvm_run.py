"""KVM_RUN: exits from anywhere in a guest, processors side by side, timers, interrupts, and ends of all kinds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from greenlet import greenlet
from kvmbox import Box, Program, Vm

from pykernel.errors import Oops
from pykernel.machine import Machine
from pykernel.start import boot
from pykernel.uapi.linux import kvm as k

NOWHERE = 0xE0000000


@pytest.fixture
def box() -> Iterator[Box]:
    made = Box()
    yield made
    made.shutdown()


@pytest.fixture
def vm(box: Box) -> Vm:
    return box.vm()


def test_mmio_goes_out_and_comes_back_with_the_answer(vm: Vm) -> None:
    vcpu = vm.vcpu(lambda c: (c.mmio_read(NOWHERE, 4), c.mmio_write(NOWHERE + 8, 2, 0x1234)))
    assert vm.run() == k.KVM_EXIT_MMIO
    mmio = vcpu.run.mmio
    assert (mmio.phys_addr, mmio.len, mmio.is_write) == (NOWHERE, 4, 0)
    mmio.data = (0xCAFE).to_bytes(8, "little")
    assert vm.run() == k.KVM_EXIT_MMIO
    assert (mmio.phys_addr, mmio.len, mmio.is_write, bytes(mmio.data)[:2]) == (NOWHERE + 8, 2, 1, b"\x34\x12")
    assert vm.run() == k.KVM_EXIT_SHUTDOWN
    assert vcpu.program.result == (0xCAFE, None)


def test_an_exit_deep_in_greenlets_of_the_guest(vm: Vm) -> None:
    """The next entry goes on in exactly the greenlet that left."""
    trail: list[Any] = []

    def program(c: Any) -> list[Any]:
        def inner() -> None:
            trail.append(("inner", c.mmio_read(NOWHERE, 1)))

        def outer() -> None:
            greenlet(inner).switch()
            trail.append(("outer", c.mmio_read(NOWHERE + 1, 1)))

        greenlet(outer).switch()
        trail.append(("top", c.mmio_read(NOWHERE + 2, 1)))
        return trail

    vcpu = vm.vcpu(program)
    for value in (7, 8, 9):
        assert vm.run() == k.KVM_EXIT_MMIO
        vcpu.run.mmio.data = bytes([value]) + bytes(7)
    assert vm.run() == k.KVM_EXIT_SHUTDOWN
    assert trail == [("inner", 7), ("outer", 8), ("top", 9)]


def test_processors_of_one_guest_kernel_in_the_middle_of_things(box: Box, vm: Vm) -> None:
    """Each keeps who runs in the guest's kernel, and what it holds, over its exits."""
    guest = boot(Machine("guest"))
    seen: dict[int, list[Any]] = {0: [], 1: []}

    def program(c: Any) -> None:
        def task() -> None:
            me = guest.sched.thread
            guest.current = f"task {c.vcpu_id}"  # type: ignore[assignment]
            for n in range(3):
                c.mmio_read(NOWHERE + n, 4)
                seen[c.vcpu_id].append((guest.sched.thread is me, guest.current))

        guest.sched.spawn(task, f"t{c.vcpu_id}")
        guest.sched.turn()

    for _ in range(2):
        vm.vcpu().program = Program(program, guest)
    reasons = [vm.run(n) for _ in range(3) for n in (0, 1)]
    assert reasons == [k.KVM_EXIT_MMIO] * 6
    assert guest.sched.thread is None
    assert guest.current is guest.idle_task
    assert [vm.run(n) for n in (0, 1)] == [k.KVM_EXIT_SHUTDOWN] * 2
    assert seen == {n: [(True, f"task {n}")] * 3 for n in (0, 1)}
    guest.shutdown()


def test_a_halted_processor_wakes_for_its_timer(box: Box, vm: Vm) -> None:
    """The host's time passes to the deadline, and no further."""

    def program(c: Any) -> int:
        c.wrmsr(0x6E0, c.rdmsr(0x10) + 12345)
        before = c.rdmsr(0x10)
        c.hlt()
        return int(c.rdmsr(0x10) - before)

    assert vm.execute(program) == 12345


def test_hlt_without_controllers_in_the_kernel_is_the_vmms(box: Box) -> None:
    vm = box.vm(irqchip=False)
    vcpu = vm.vcpu(lambda c: c.hlt())
    assert vm.run() == k.KVM_EXIT_HLT
    vm.proc.ioctl(vm.fds[0], k.KVM_INTERRUPT, k.kvm_interrupt(irq=32))
    assert vm.run() == k.KVM_EXIT_SHUTDOWN
    assert vcpu.program.interrupts == [(0xFEE00000, 32)]


def test_a_halt_that_nothing_ends_is_a_hung_task(vm: Vm) -> None:
    vm.vcpu(lambda c: c.hlt())
    thread = vm.box.host.spawn(vm.run, "vcpu")
    with pytest.raises(Oops, match="hung task"):
        thread.join()


def test_a_message_wakes_a_halted_processor(box: Box, vm: Vm) -> None:
    vcpu = vm.vcpu(lambda c: c.hlt())
    halted = box.host.spawn(vm.run, "vcpu")
    box.host.sched.run_ready()
    row = k.kvm_msi(address_lo=0xFEE00000, data=0x41)
    assert vm.proc.ioctl(vm.fd, k.KVM_SIGNAL_MSI, row) == 1
    assert halted.join() == k.KVM_EXIT_SHUTDOWN
    assert vcpu.program.interrupts == [(0xFEE00000, 0x41)]
    with pytest.raises(PermissionError):
        vm.proc.ioctl(vm.fd, k.KVM_SIGNAL_MSI, k.kvm_msi(address_lo=0xFEE09000))


def test_an_irqfd_is_a_message_of_its_route(box: Box, vm: Vm) -> None:
    entry = k.kvm_irq_routing_entry(gsi=30, type=k.KVM_IRQ_ROUTING_MSI)
    entry.u.msi.address_lo, entry.u.msi.data = 0xFEE00000, 0x55
    vm.proc.ioctl(vm.fd, k.KVM_SET_GSI_ROUTING, bytearray(bytes(k.kvm_irq_routing(nr=1)) + bytes(entry)))
    event = vm.proc.eventfd(0)
    vm.proc.ioctl(vm.fd, k.KVM_IRQFD, k.kvm_irqfd(fd=event, gsi=30))
    vcpu = vm.vcpu(lambda c: c.boundary())
    vm.proc.write(event, (3).to_bytes(8, "little"))
    assert vm.run() == k.KVM_EXIT_SHUTDOWN
    assert vcpu.program.interrupts == [(0xFEE00000, 0x55)]
    vm.proc.ioctl(vm.fd, k.KVM_IRQFD, k.kvm_irqfd(fd=event, gsi=30, flags=k.KVM_IRQFD_FLAG_DEASSIGN))
    vm.proc.write(event, (1).to_bytes(8, "little"))
    assert not vcpu.messages


def test_a_resampled_level_asks_its_owner_when_it_is_acked(box: Box, vm: Vm) -> None:
    event, again = vm.proc.eventfd(0), vm.proc.eventfd(0)
    row = k.kvm_irqfd(fd=event, gsi=17, flags=k.KVM_IRQFD_FLAG_RESAMPLE, resamplefd=again)
    vm.proc.ioctl(vm.fd, k.KVM_IRQFD, row)
    vcpu = vm.vcpu()
    vm.proc.write(event, (1).to_bytes(8, "little"))
    assert list(vcpu.messages) == [(0xFEE00000, 17)]
    assert vm.vm.irqs.levels[17]
    vm.vm.irqs.ack(17)
    assert not vm.vm.irqs.levels[17]
    assert vm.proc.read(again, 8) == (1).to_bytes(8, "little")


def test_an_ioeventfd_takes_a_store_without_an_exit(vm: Vm) -> None:
    event = vm.proc.eventfd(0)
    row = k.kvm_ioeventfd(addr=NOWHERE, len=4, fd=event, datamatch=9, flags=k.KVM_IOEVENTFD_FLAG_DATAMATCH)
    vm.proc.ioctl(vm.fd, k.KVM_IOEVENTFD, row)
    vm.vcpu(lambda c: (c.mmio_write(NOWHERE, 4, 9), c.mmio_write(NOWHERE, 4, 8)))
    assert vm.run() == k.KVM_EXIT_MMIO
    assert vm.proc.read(event, 8) == (1).to_bytes(8, "little")
    assert vm.run() == k.KVM_EXIT_SHUTDOWN


def test_an_exception_of_the_program_is_an_internal_error(vm: Vm) -> None:
    vcpu = vm.vcpu(lambda c: 1 // 0)
    assert vm.run() == k.KVM_EXIT_INTERNAL_ERROR
    assert isinstance(vcpu.error, ZeroDivisionError)
    assert vcpu.run.internal.suberror == k.KVM_INTERNAL_ERROR_EMULATION


@pytest.mark.parametrize("program", [None, lambda c: None, lambda c: 1 // 0], ids=["none", "over", "raises"])
def test_a_processor_that_ended_ends_again(vm: Vm, program: Any) -> None:
    """KVM_RUN once more says what it said."""
    vm.vcpu(program) if program is not None else vm.vcpu()
    first = vm.run()
    assert first in (k.KVM_EXIT_SHUTDOWN, k.KVM_EXIT_INTERNAL_ERROR)
    assert [vm.run() for _ in range(3)] == [first] * 3


def test_a_processor_without_a_program_shuts_down(vm: Vm) -> None:
    vm.vcpu()
    assert vm.run() == k.KVM_EXIT_SHUTDOWN


def test_the_end_of_the_vmm_ends_a_program_where_it_is(box: Box, vm: Vm) -> None:
    """Its ``finally`` clauses run, in the guest's name; nothing is left."""
    ended: list[str] = []

    def program(c: Any) -> None:
        try:
            c.mmio_read(NOWHERE, 4)
        finally:
            ended.append("program")

    vm.vcpu(program)
    assert vm.run() == k.KVM_EXIT_MMIO
    vm.proc.exit(137)
    assert ended == ["program"]
    assert vm.vm.refs == 0
