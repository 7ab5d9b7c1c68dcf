"""What KVM refuses, takes back as it gave it, or leaves alone: x86.c, cpuid.c, irq.c of Linux 6.12."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kvmbox import Box, Vm

from pykernel.uapi.linux import kvm as k
from pykernel.virt.kvm.msrs import is_canonical, pat_valid


@pytest.fixture
def box() -> Iterator[Box]:
    made = Box()
    yield made
    made.shutdown()


@pytest.fixture
def vm(box: Box) -> Vm:
    return box.vm(portal=False)


def answer(vm: Vm, fd: int, row: Any, arg: Any = 0) -> str:
    """ "" or the name of the errno."""
    try:
        vm.proc.ioctl(fd, row, arg)
    except OSError as e:
        return errno.errorcode[e.errno or 0]
    return ""


def test_what_get_clock_gave_set_clock_takes(vm: Vm) -> None:
    clock = k.kvm_clock_data()
    vm.proc.ioctl(vm.fd, k.KVM_GET_CLOCK, clock)
    assert clock.flags == vm.proc.ioctl(vm.fd, k.KVM_CHECK_EXTENSION, k.KVM_CAP_ADJUST_CLOCK)
    assert answer(vm, vm.fd, k.KVM_SET_CLOCK, clock) == ""
    assert answer(vm, vm.fd, k.KVM_SET_CLOCK, k.kvm_clock_data(flags=1)) == "EINVAL"


def limit(vm: Vm, value: int) -> str:
    cap = k.kvm_enable_cap(cap=k.KVM_CAP_MAX_VCPU_ID)
    cap.args[0] = value
    return answer(vm, vm.fd, k.KVM_ENABLE_CAP, cap)


def test_max_vcpu_id_limits_the_ids_once(vm: Vm) -> None:
    assert [limit(vm, n) for n in (4097, 8, 8, 9)] == ["EINVAL", "", "", "EINVAL"]
    assert answer(vm, vm.fd, k.KVM_SET_BOOT_CPU_ID, 9) == "EINVAL"
    assert answer(vm, vm.fd, k.KVM_CREATE_VCPU, 8) == "EINVAL"
    fd = vm.proc.ioctl(vm.fd, k.KVM_CREATE_VCPU, 7)
    assert (limit(vm, 8), limit(vm, 4096)) == ("", "EINVAL")
    vm.proc.close(fd)


def test_max_vcpu_id_comes_before_the_first_processor(vm: Vm) -> None:
    vm.vcpu()
    assert [limit(vm, n) for n in (8, 4096)] == ["EINVAL", ""]


def test_boot_cpu_id(vm: Vm) -> None:
    assert answer(vm, vm.fd, k.KVM_SET_BOOT_CPU_ID, 99999) == "EINVAL"
    assert answer(vm, vm.fd, k.KVM_SET_BOOT_CPU_ID, 3) == ""
    assert limit(vm, 2) == "EINVAL"
    vm.vcpu()
    assert answer(vm, vm.fd, k.KVM_SET_BOOT_CPU_ID, 99999) == "EBUSY"


def test_coalesced_mmio_is_not_offered(vm: Vm) -> None:
    """What VMMs find is what they use: zones are not taken."""
    assert vm.proc.ioctl(vm.fd, k.KVM_CHECK_EXTENSION, k.KVM_CAP_COALESCED_MMIO) == 0


def cpuid(vm: Vm, *rows: k.kvm_cpuid_entry2) -> int:
    at: int = vm.proc.mem.alloc(8 + 40 * max(len(rows), 1))
    vm.proc.store(at, len(rows).to_bytes(8, "little") + b"".join(map(bytes, rows)))
    return at


def test_cpuid_stays_as_the_guest_has_seen_it(vm: Vm) -> None:
    vcpu = vm.vcpu(lambda c: c.mmio_read(0xE0000000, 4))
    row, other = k.kvm_cpuid_entry2(function=1, eax=5), k.kvm_cpuid_entry2(function=1, eax=6)
    assert [answer(vm, vm.fds[0], k.KVM_SET_CPUID2, cpuid(vm, r)) for r in (other, row)] == ["", ""]
    assert vm.run() == k.KVM_EXIT_MMIO
    assert answer(vm, vm.fds[0], k.KVM_SET_CPUID2, cpuid(vm, row)) == ""
    assert answer(vm, vm.fds[0], k.KVM_SET_CPUID2, cpuid(vm, other)) == "EINVAL"
    assert answer(vm, vm.fds[0], k.KVM_SET_CPUID2, cpuid(vm, row, other)) == "EINVAL"
    assert vcpu.find_cpuid(1, 0).eax == 5


@pytest.mark.parametrize(
    ("state", "chip", "bare", "then"),
    [
        (k.KVM_MP_STATE_RUNNABLE, "", "", k.KVM_MP_STATE_RUNNABLE),
        (k.KVM_MP_STATE_UNINITIALIZED, "", "EINVAL", k.KVM_MP_STATE_UNINITIALIZED),
        (k.KVM_MP_STATE_HALTED, "", "EINVAL", k.KVM_MP_STATE_HALTED),
        (k.KVM_MP_STATE_AP_RESET_HOLD, "", "EINVAL", k.KVM_MP_STATE_AP_RESET_HOLD),
        (k.KVM_MP_STATE_INIT_RECEIVED, "", "EINVAL", k.KVM_MP_STATE_INIT_RECEIVED),
        (k.KVM_MP_STATE_SIPI_RECEIVED, "", "EINVAL", k.KVM_MP_STATE_RUNNABLE),
        (k.KVM_MP_STATE_STOPPED, "EINVAL", "EINVAL", k.KVM_MP_STATE_RUNNABLE),
    ],
)
def test_mp_states(box: Box, vm: Vm, state: int, chip: str, bare: str, then: int) -> None:
    """A SIPI that is set is taken before the state is read again: lapic.c:kvm_apic_accept_events()."""
    other = box.vm(irqchip=False, portal=False)
    for machine in (vm, other):
        machine.vcpu()
    row = k.kvm_mp_state(mp_state=state)
    assert answer(vm, vm.fds[0], k.KVM_SET_MP_STATE, row) == chip
    assert answer(other, other.fds[0], k.KVM_SET_MP_STATE, row) == bare
    found = k.kvm_mp_state()
    vm.proc.ioctl(vm.fds[0], k.KVM_GET_MP_STATE, found)
    assert found.mp_state == then


def test_registers_are_in_kvm_run_on_every_way_out(vm: Vm) -> None:
    vcpu = vm.vcpu(lambda c: None)
    vm.proc.ioctl(vm.fds[0], k.KVM_SET_REGS, k.kvm_regs(rax=77))
    vcpu.run.kvm_valid_regs = k.KVM_SYNC_X86_REGS
    vcpu.run.immediate_exit = 1
    assert answer(vm, vm.fds[0], k.KVM_RUN) == "EINTR"
    assert vcpu.run.s.regs.regs.rax == 77
    vm.proc.ioctl(vm.fds[0], k.KVM_SET_REGS, k.kvm_regs(rax=78))
    vcpu.run.kvm_valid_regs |= 1 << 20
    assert answer(vm, vm.fds[0], k.KVM_RUN) == "EINVAL"
    assert vcpu.run.s.regs.regs.rax == 78


@pytest.mark.parametrize("at", [528, 551, 575])
def test_xsave_header_has_reserved_bytes(vm: Vm, at: int) -> None:
    vm.vcpu()
    data = bytearray(4096)
    assert answer(vm, vm.fds[0], k.KVM_SET_XSAVE, data) == ""
    data[at] = 1
    assert answer(vm, vm.fds[0], k.KVM_SET_XSAVE, data) == "EINVAL"


def test_emulated_cpuid_is_movbe_and_rdpid(vm: Vm) -> None:
    """SDM: CPUID.1:ECX bit 22, CPUID.7.0:ECX bit 22."""
    at = cpuid(vm, *(k.kvm_cpuid_entry2() for _ in range(4)))
    vm.proc.ioctl(vm.kvm_fd, k.KVM_GET_EMULATED_CPUID, at)
    assert int.from_bytes(vm.proc.load(at, 4), "little") == 3
    rows = [k.kvm_cpuid_entry2.from_bytes(vm.proc.load(at + 8 + 40 * n, 40)) for n in range(3)]
    assert [(r.function, r.flags, r.eax, r.ecx) for r in rows] == [(0, 0, 7, 0), (1, 0, 0, 1 << 22), (7, 1, 0, 1 << 22)]
    assert answer(vm, vm.kvm_fd, k.KVM_GET_EMULATED_CPUID, cpuid(vm, k.kvm_cpuid_entry2())) == "E2BIG"
    dirty = k.kvm_cpuid_entry2()
    dirty.padding[1] = 1
    assert answer(vm, vm.kvm_fd, k.KVM_GET_EMULATED_CPUID, cpuid(vm, *[dirty] * 3)) == "EINVAL"


def test_order_of_refusals(vm: Vm) -> None:
    """Processors before the pointer; the descriptor before the type."""
    assert answer(vm, vm.fd, k.KVM_SET_IDENTITY_MAP_ADDR, 8) == "EFAULT"
    vm.vcpu()
    assert answer(vm, vm.fd, k.KVM_SET_IDENTITY_MAP_ADDR, 8) == "EINVAL"
    before = set(vm.proc.fds.files)
    assert answer(vm, vm.kvm_fd, k.KVM_CREATE_VM, 1) == "EINVAL"
    assert set(vm.proc.fds.files) == before
    limit_before, vm.proc.fds.limit = vm.proc.fds.limit, max(before) + 1
    held = []
    while True:
        try:
            held.append(vm.proc.open("/dev/null", os.O_RDWR))
        except OSError:
            break
    assert answer(vm, vm.kvm_fd, k.KVM_CREATE_VM, 1) == "EMFILE"
    vm.proc.fds.limit = limit_before
    for fd in held:
        vm.proc.close(fd)


LSTAR, PAT, APIC_BASE, EFER, SYSENTER_EIP = 0xC0000082, 0x277, 0x1B, 0xC0000080, 0x176


def set_msr(vm: Vm, index: int, value: int) -> int:
    """KVM_SET_MSRS of it and another one: how many were set."""
    rows = [k.kvm_msr_entry(index=index, data=value), k.kvm_msr_entry(index=EFER)]
    return int(
        vm.proc.ioctl(vm.fds[0], k.KVM_SET_MSRS, bytearray(bytes(k.kvm_msrs(nmsrs=2)) + b"".join(map(bytes, rows))))
    )


@pytest.mark.parametrize(
    ("index", "value"),
    [
        (PAT, 0x0007040600070402),
        (PAT, 0x0807040600070406),
        (LSTAR, 1 << 47),
        (0xC0000083, 0xFFFF << 48),
        (0xC0000100, 1 << 63),
        (0xC0000102, 1 << 48),
        (APIC_BASE, 0xFEE00801),
        (APIC_BASE, 1 << 52 | 0xFEE00800),
        (APIC_BASE, 0xFEE00400),  # x2APIC without enable
        (APIC_BASE, 0xFEE00C00),  # x2APIC, which CPUID does not say
    ],
)
def test_values_that_no_register_has_end_set_msrs(vm: Vm, index: int, value: int) -> None:
    vm.vcpu()
    assert set_msr(vm, index, value) == 0


def test_x2apic_with_cpuid(vm: Vm) -> None:
    vm.vcpu()
    vm.proc.ioctl(vm.fds[0], k.KVM_SET_CPUID2, cpuid(vm, k.kvm_cpuid_entry2(function=1, ecx=1 << 21)))
    assert [set_msr(vm, APIC_BASE, v) for v in (0xFEE00C00, 0xFEE00400)] == [2, 0]


def test_values_that_registers_have(vm: Vm) -> None:
    vcpu = vm.vcpu()
    assert set_msr(vm, PAT, 0x0001040506070001) == 2
    assert set_msr(vm, LSTAR, 0xFFFFFFFF81000000) == 2
    assert set_msr(vm, APIC_BASE, 0xFEE00900) == 2
    assert set_msr(vm, SYSENTER_EIP, 1 << 47) == 2
    assert vcpu.msrs.get(SYSENTER_EIP) == 0xFFFF800000000000  # made canonical


@settings(max_examples=200, deadline=None)
@given(st.integers(0, (1 << 64) - 1))
def test_canonical_is_sign_extended(value: int) -> None:
    low = value & (1 << 48) - 1
    assert is_canonical(value) == (value == (low - (1 << 48) if low >> 47 else low) % (1 << 64))


@settings(max_examples=200, deadline=None)
@given(st.binary(min_size=8, max_size=8).map(lambda b: bytes(x & 0xF for x in b)))
def test_pat_types_are_those_of_the_manual(types: bytes) -> None:
    """SDM volume 3, table 12-10: UC, WC, WT, WP, WB, UC-."""
    assert pat_valid(int.from_bytes(types, "little")) == (set(types) <= {0, 1, 4, 5, 6, 7})
