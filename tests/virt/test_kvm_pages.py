"""Accesses of a guest that cross a page: each has a frame of its own; the host's frame behind it is another's."""

from __future__ import annotations

from collections.abc import Iterator
from mmap import MAP_ANONYMOUS, MAP_PRIVATE, PROT_READ, PROT_WRITE
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kvmbox import Box, Vm

from pykernel.cpu.trap import GP, Trap
from pykernel.uapi.linux import kvm as k
from pykernel.virt.kvm.vcpu import pieces

PAGE = 4096
HERE = 0x200000


@pytest.fixture
def box() -> Iterator[Box]:
    made = Box()
    yield made
    made.shutdown()


@pytest.fixture
def vm(box: Box) -> Vm:
    return box.vm(portal=False)


def place(vm: Vm, *fills: bytes) -> list[int]:
    """A slot for each page from HERE on, of frames that are nowhere near each other in the guest's order."""
    pages = []
    for n, fill in reversed(list(enumerate(fills))):
        at = vm.proc.mmap(0, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS)
        vm.proc.store(at, fill * PAGE)
        vm.region(2 + n, HERE + n * PAGE, PAGE, at)
        pages.insert(0, at)
    return pages


def place_between(vm: Vm) -> tuple[int, int]:
    """A slot at HERE of one page, whose host's next frame is the VMM's own as well: where both are mapped."""
    many = 16
    at = vm.proc.mmap(0, many * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS)
    vm.proc.store(at, b"N" * many * PAGE)
    runs = vm.proc.mem.pin_user_pages(at, many, write=True)
    vm.proc.mem.unpin_user_pages(runs)
    frames = [run.pa + n * PAGE for run in runs for n in range(run.npages)]
    here, behind = next((i, frames.index(pa + PAGE)) for i, pa in enumerate(frames) if pa + PAGE in frames)
    vm.region(2, HERE, PAGE, at + here * PAGE)
    return at + here * PAGE, at + behind * PAGE


def test_load_across_the_end_of_a_slot_never_reads_the_hosts_next_frame(vm: Vm) -> None:
    """The part in the slot is memory, the rest the VMM's to emulate."""
    place(vm, b"A")
    vcpu = vm.vcpu(lambda c: c.mmio_read(HERE + 0xFFC, 8))
    assert vm.run() == k.KVM_EXIT_MMIO
    mmio = vcpu.run.mmio
    assert (mmio.phys_addr, mmio.len, mmio.is_write) == (HERE + PAGE, 4, 0)
    mmio.data = b"vmm!" + bytes(4)
    assert vm.run() == k.KVM_EXIT_SHUTDOWN
    assert vcpu.program.result.to_bytes(8, "little") == b"AAAAvmm!"


def test_store_across_the_end_of_a_slot_never_writes_the_hosts_next_frame(vm: Vm) -> None:
    at, behind = place_between(vm)
    vcpu = vm.vcpu(lambda c: c.mmio_write(HERE + 0xFFC, 8, int.from_bytes(b"12345678", "little")))
    assert vm.run() == k.KVM_EXIT_MMIO
    mmio = vcpu.run.mmio
    assert (mmio.phys_addr, mmio.len, mmio.is_write, bytes(mmio.data)[:4]) == (HERE + PAGE, 4, 1, b"5678")
    assert vm.run() == k.KVM_EXIT_SHUTDOWN
    assert vm.proc.load(at + 0xFF8, 8) == b"NNNN1234"
    assert vm.proc.load(behind, PAGE) == b"N" * PAGE


def test_pages_of_an_access_are_each_translated(vm: Vm) -> None:
    pages = place(vm, b"A", b"B", b"C")

    def program(c: Any) -> int:
        c.mmio_write(HERE + 0xFFE, 4, 0x44332211)
        return int(c.mmio_read(HERE + 0xFFC, PAGE + 8))

    vcpu = vm.vcpu(program)
    assert vm.run() == k.KVM_EXIT_SHUTDOWN
    expected = b"AA\x11\x22\x33\x44" + b"B" * (PAGE - 2) + b"CCCC"
    assert vcpu.program.result.to_bytes(PAGE + 8, "little") == expected
    assert (vm.proc.load(pages[0] + 0xFFE, 2), vm.proc.load(pages[1], 2)) == (b"\x11\x22", b"\x33\x44")


def test_both_pages_of_a_store_are_dirty(vm: Vm) -> None:
    at = vm.proc.mmap(0, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS)
    vm.proc.store(at, bytes(2 * PAGE))
    vm.region(2, HERE, 2 * PAGE, at, flags=k.KVM_MEM_LOG_DIRTY_PAGES)
    vm.execute(lambda c: c.mmio_write(HERE + 0xFFF, 2, 0xFFFF))
    assert vm.vm.mmu.get_dirty_log(2)[0] == 3


def test_exits_carry_eight_bytes_at_most(vm: Vm) -> None:
    """x86.c:emulator_read_write(), mmio_fragments."""
    vcpu = vm.vcpu(lambda c: c.mmio_read(0xE0000004, 16))
    seen = []
    while vm.run() == k.KVM_EXIT_MMIO:
        mmio = vcpu.run.mmio
        seen.append((mmio.phys_addr, mmio.len))
        mmio.data = bytes([len(seen)]) * 8
    assert seen == [(0xE0000004, 8), (0xE000000C, 8)]
    assert vcpu.program.result.to_bytes(16, "little") == b"\1" * 8 + b"\2" * 8


@pytest.mark.parametrize("insn", ["movdir64b", "enqcmd"])
def test_64_bytes_lie_in_one_line(vm: Vm, insn: str) -> None:
    """SDM volume 2: MOVDIR64B and ENQCMD raise #GP when the destination is no multiple of 64."""
    place(vm, b"A")

    def program(c: Any) -> int:
        with pytest.raises(Trap) as e:
            getattr(c, insn)(HERE + 0xFE0, bytes(64))
        return e.value.vector

    assert vm.execute(program) == GP


@settings(max_examples=200, deadline=None)
@given(gpa=st.integers(0, 3 * PAGE), size=st.integers(0, 3 * PAGE), most=st.sampled_from([8, PAGE]))
def test_pieces_are_the_access_and_none_crosses(gpa: int, size: int, most: int) -> None:
    found = list(pieces(gpa, size, most))
    assert [b for at, step in found for b in range(at, at + step)] == list(range(gpa, gpa + size))
    assert all(0 < step <= most for _, step in found)
    assert most == 8 or all(at // PAGE == (at + step - 1) // PAGE for at, step in found)
