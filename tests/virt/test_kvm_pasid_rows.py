"""
PASID translation in VMX non-root operation: each row of what is known of it has a test of its name.

Facts are those of Intel's manuals (the ENQCMD pages, the exit reasons, appendix B), of the talk "Scalable Work
Submission in Device Virtualization", and of the TDX module; what they leave open is what ``vmcs`` and ``exits`` say.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kvmbox import PORTAL, Box, Vm

from pykernel.cpu import Cpus, Trap
from pykernel.mm.phys import PhysMem
from pykernel.uapi.linux import kvm as k
from pykernel.virt.kvm import vmcs as v
from pykernel.virt.kvm.pasid import PasidTable, lookup, split

ZF, ARITHMETIC = 1 << 6, 0x8D5


def command(pasid: int, *, priv: bool = False, tail: bytes = bytes(60)) -> bytes:
    return (pasid | priv << 31).to_bytes(4, "little") + tail


@pytest.fixture
def box() -> Iterator[Box]:
    made = Box()
    yield made
    made.shutdown()


@pytest.fixture
def vm(box: Box) -> Vm:
    return box.vm()


@pytest.fixture
def table() -> PasidTable:
    return PasidTable(PhysMem(size=64 << 20))


# ---- control and structures


def test_when_the_control_is_1_and_the_instruction_runs_in_non_root_mode(box: Box, vm: Vm) -> None:
    """The host's own ENQCMD is not translated; the guest's is."""
    owner = box.ids(vm.proc)
    host = box.bind(owner, 101)
    assert host != 101
    assert vm.execute(lambda c: c.enqcmd(PORTAL, command(101))) is True
    assert [pasid for pasid, _, _ in box.card.arrived] == [host]
    mapped = box.map_portal(vm.proc)
    box.host.sub(Cpus).pasid_msr(vm.proc.task)
    vm.proc.task.fpu.pasid = 101 | 1 << 31
    assert vm.proc.enqcmd(mapped, bytes(64)) is False
    assert box.card.arrived[-1][0] == 101


def test_control_0_sends_the_number_as_it_is_so_it_is_on_with_empty_tables(box: Box, vm: Vm) -> None:
    vcpu = vm.vcpu(lambda c: c.enqcmd(PORTAL, command(5)))
    assert vcpu.vmcs.read(v.SECONDARY_VM_EXEC_CONTROL) >> 21 & 1
    assert len(vm.vm.pasid_table) == 0
    assert vm.loop() == k.KVM_EXIT_SHUTDOWN
    assert vcpu.program.result is False
    assert box.card.arrived == []
    vcpu.vmcs.write(v.SECONDARY_VM_EXEC_CONTROL, vcpu.vmcs.read(v.SECONDARY_VM_EXEC_CONTROL) & ~(1 << 21))
    assert vcpu.vmcs.translate_pasid(5) == 5  # what the silicon would do


@pytest.mark.parametrize(
    ("pasid", "parts"),
    [
        (101, (0, 0, 101)),
        (0xABCDE, (1, 175, 222)),
        (0x7FFFF, (0, 511, 1023)),
        (0x80000, (1, 0, 0)),
        (0, (0, 0, 0)),
    ],
)
def test_selection_by_bit_19_then_9_and_10_bits(pasid: int, parts: tuple[int, int, int], table: PasidTable) -> None:
    assert split(pasid) == parts
    table.set(pasid, 0x12345)
    half, index, entry = parts
    phys, directory = table.phys, (table.low, table.high)[parts[0]]
    assert half in (0, 1)
    where = int.from_bytes(phys.read(directory + 8 * index, 8), "little")
    assert phys.read((where & ~0xFFF) + 4 * entry, 4) == (0x12345 | 1 << 31).to_bytes(4, "little")


def test_directory_is_512_entries_of_8_bytes_present_and_address(table: PasidTable) -> None:
    table.set(1024, 7)
    entry = int.from_bytes(table.phys.read(table.low + 8, 8), "little")
    assert entry & 0xFFF == 1
    assert table.phys.read(table.low, 8) == bytes(8)
    assert entry >> 52 == 0


def test_table_is_1024_entries_of_4_bytes_pasid_and_valid(table: PasidTable) -> None:
    table.set(3, 0xFFFFF)
    where = int.from_bytes(table.phys.read(table.low, 8), "little") & ~0xFFF
    assert table.phys.read(where + 12, 4) == bytes.fromhex("ffff0f80")
    table.clear(3)
    assert table.lookup(3) == -1


def test_coverage_is_exactly_20_bits(table: PasidTable) -> None:
    seen = {split(pasid) for pasid in range(0, 1 << 20, 1021)}
    assert len(seen) == len(range(0, 1 << 20, 1021))
    with pytest.raises(ValueError, match="no PASID"):
        split(1 << 20)
    with pytest.raises(ValueError, match="no PASID"):
        table.set(1, 1 << 20)
    assert 2 * 512 * 1024 == 1 << 20


def test_memory_is_2_pages_and_one_for_each_populated_block(table: PasidTable) -> None:
    used = table.phys.used
    assert table.pages == 2
    for block in range(5):
        table.set(block << 10, 1)
        table.set(block << 10 | 1, 1)
    assert table.pages == 7
    assert table.phys.used == used + 5
    for block in range(5):
        table.clear(block << 10)
        table.clear(block << 10 | 1)
    assert table.pages == 2
    assert table.phys.used == used


def test_addresses_in_the_vmcs_are_aligned_and_below_maxphyaddr(vm: Vm) -> None:
    """VM entry fails with error 7, an invalid control field: KVM_EXIT_FAIL_ENTRY."""
    vcpu = vm.vcpu(lambda c: None)
    low = vcpu.vmcs.read(0x2038)
    assert low == vm.vm.pasid_table.low
    assert vcpu.vmcs.read(0x203A) == vm.vm.pasid_table.high
    for wrong in (low | 8, 1 << 52):
        vcpu.vmcs.write(0x2038, wrong)
        assert vm.run() == k.KVM_EXIT_FAIL_ENTRY
        assert vcpu.run.fail_entry.hardware_entry_failure_reason == 7
    vcpu.vmcs.write(0x2038, low)
    assert vm.run() == k.KVM_EXIT_SHUTDOWN


def test_scope_is_the_vm_one_pair_for_all_vmcss(box: Box, vm: Vm) -> None:
    first, second = vm.vcpu(), vm.vcpu()
    other = box.vm().vcpu()
    for field in (0x2038, 0x203A):
        assert first.vmcs.read(field) == second.vmcs.read(field) != other.vmcs.read(field)


def test_the_encodings_of_appendix_b_with_their_high_halves(vm: Vm) -> None:
    vmcs = vm.vcpu().vmcs
    vmcs.write(0x2039, 0x12)
    assert vmcs.read(0x2038) >> 32 == 0x12
    assert vmcs.read(0x2039) == 0x12
    named = {0x401E: "secondary", 0x4402: "exit reason", 0x6400: "exit qualification", 0x440C: "length", 0x202C: "XSS"}
    for encoding, word in named.items():
        assert word in v.FIELDS[encoding]
    with pytest.raises(v.VmxInstructionError) as e:
        vmcs.read(0x7FFE)
    assert e.value.number == 12
    with pytest.raises(v.VmxInstructionError) as e:
        vmcs.write(0x4402, 1)
    assert e.value.number == 13


def test_the_capability_msr_allows_bit_21(box: Box) -> None:
    cpu = box.host.sub(Cpus)[0]
    assert cpu.rdmsr(0x48B) >> (32 + 21) & 1
    with pytest.raises(Trap):
        cpu.wrmsr(0x48B, 0)
    plain = Box(more="enqcmd = false")
    assert not plain.host.sub(Cpus)[0].rdmsr(0x48B) >> (32 + 21) & 1
    machine = plain.vm()
    assert machine.vm.pasid_table is None
    assert not machine.vcpu().vmcs.pasid_translation
    plain.shutdown()


# ---- the sequence of an instruction


def test_sequence_replaces_bits_19_0_and_nothing_else(box: Box, vm: Vm) -> None:
    """ENQCMDS keeps PRIV; bits 511:32 are the source's; RFLAGS are the completion's."""
    host = box.bind(box.ids(vm.proc), 0xABCDE)
    tail = bytes(range(60))
    assert vm.execute(lambda c: c.enqcmd(PORTAL, command(0xABCDE, priv=True, tail=tail), supervisor=True)) is True
    assert box.card.arrived == [(host, 1, tail)]
    box.card.full = True
    assert vm.execute(lambda c: c.enqcmd(PORTAL, command(0xABCDE))) is False
    assert vm.vm.stat()["enqcmd_exits"] == 0  # a full queue is no exit


def test_sequence_translates_before_the_address_is_looked_up(box: Box, vm: Vm) -> None:
    """An untranslated PASID to nowhere is exit 72, a translated one KVM's emulator, which does not know ENQCMD: #UD."""
    vcpu = vm.vcpu(lambda c: c.enqcmd(0xE0000000, command(9)))
    assert vm.loop() == k.KVM_EXIT_SHUTDOWN
    assert vcpu.program.result is False
    box.bind(box.ids(vm.proc), 9)

    def program(c: Any) -> Any:
        with pytest.raises(Trap) as e:
            c.enqcmd(0xE0000000, command(9))
        return e.value.vector

    assert vm.execute(program) == 6


def test_memory_is_no_enqueue_register_retry_and_nothing_is_written(box: Box, vm: Vm) -> None:
    box.bind(box.ids(vm.proc), 9)
    vm.proc.store(vm.ram + 0x3000, b"\xa5" * 64)
    assert vm.execute(lambda c: c.enqcmd(0x3000, command(9))) is False
    assert vm.proc.load(vm.ram + 0x3000, 64) == b"\xa5" * 64


# ---- the exit


@pytest.mark.parametrize(("supervisor", "reason"), [(False, 72), (True, 73)])
def test_reasons_72_enqcmd_73_enqcmds(vm: Vm, supervisor: bool, reason: int) -> None:
    vcpu = vm.vcpu(lambda c: c.enqcmd(PORTAL, command(77), supervisor=supervisor))
    seen = []

    def program(c: Any) -> None:
        c.enqcmd(PORTAL, command(77), supervisor=supervisor)
        seen.append(c.vmcs.read(0x4402))

    vcpu.program.fn = program
    vm.loop()
    assert seen == [reason]


@pytest.mark.parametrize(
    ("change", "where"),
    [("not present", "directory"), ("reserved", "directory"), ("not valid", "table"), ("reserved", "table")],
)
def test_causes_not_present_not_valid_reserved(table: PasidTable, change: str, where: str) -> None:
    table.set(5, 6)
    assert table.lookup(5) == 6
    phys = table.phys
    if where == "directory":
        at = table.low
        entry = int.from_bytes(phys.read(at, 8), "little")
        phys.write(at, (entry & ~1 if change == "not present" else entry | 2).to_bytes(8, "little"))
    else:
        at = (int.from_bytes(phys.read(table.low, 8), "little") & ~0xFFF) + 20
        entry = int.from_bytes(phys.read(at, 4), "little")
        phys.write(at, (entry & ~(1 << 31) if change == "not valid" else entry | 1 << 20).to_bytes(4, "little"))
    assert lookup(phys, table.low, table.high, 5) == -1


@pytest.mark.parametrize("bit", [*range(1, 12), *range(52, 64)])
def test_causes_each_reserved_bit_of_a_directory(table: PasidTable, bit: int) -> None:
    table.set(5, 6)
    table.phys.words[table.low >> 3] |= 1 << bit
    assert table.lookup(5) == -1


@pytest.mark.parametrize("bit", range(20, 31))
def test_causes_each_reserved_bit_of_a_table(table: PasidTable, bit: int) -> None:
    table.set(5, 6)
    at = (table.phys.words[table.low >> 3] & ~0xFFF) + 20
    table.phys.write(at, (6 | 1 << 31 | 1 << bit).to_bytes(4, "little"))
    assert table.lookup(5) == -1


def test_kind_is_fault_like_with_the_instruction_length(vm: Vm) -> None:
    vcpu = vm.vcpu()
    vcpu.vmcs.exited(72, length=5)  # F2 0F 38 F8 /r
    rip = vcpu.vmcs.read(v.GUEST_RIP)
    assert vcpu.vmcs.read(0x440C) == 5
    vcpu.vmcs.skip()
    assert vcpu.vmcs.read(v.GUEST_RIP) == rip + 5


def test_exit_qualification_reads_as_0(vm: Vm) -> None:
    assert vm.execute(lambda c: (c.enqcmd(PORTAL, command(77)), c.vmcs.read(0x6400))) == (False, 0)


def test_talks_handler_sets_the_failure_flag_and_skips(vm: Vm) -> None:
    """Literal flags: ZF=1 and no other, whatever the talk says of CF; RIP moves by the length."""
    vcpu = vm.vcpu()
    vcpu.vmcs.write(v.GUEST_RFLAGS, 0x2 | ARITHMETIC | 1 << 9)
    rip = vcpu.vmcs.read(v.GUEST_RIP)
    vm.vcpus.clear()
    vm.fds, fds = [], vm.fds
    vcpu.program = type("P", (), {"kernel": None, "vcpu": None, "run": lambda _s, c: c.enqcmd(PORTAL, command(4))})()
    vm.fds, vm.vcpus = fds, [vcpu]
    assert vm.loop() == k.KVM_EXIT_SHUTDOWN
    assert vcpu.vmcs.read(v.GUEST_RFLAGS) == 0x2 | ZF | 1 << 9
    assert vcpu.vmcs.read(v.GUEST_RIP) == rip + 5  # F2 0F 38 F8 /r


def test_alternative_of_tdx_is_gp_for_enqcmd_and_ud_for_enqcmds() -> None:
    box = Box(args="enqcmd_gp=1")

    def program(c: Any) -> list[int]:
        vectors = []
        for supervisor in (False, True):
            with pytest.raises(Trap) as e:
                c.enqcmd(PORTAL, command(4), supervisor=supervisor)
            vectors.append(e.value.vector)
        return vectors

    assert box.vm().execute(program) == [13, 6]
    box.shutdown()


def test_hazard_of_endless_retries_is_counted_for_each_vm(box: Box, vm: Vm) -> None:
    """A guest that bounds its retries goes on; how often it tried is a statistic of its machine, not of another's."""
    other = box.vm()
    assert vm.execute(lambda c: sum(not c.enqcmd(PORTAL, command(4)) for _ in range(33))) == 33
    assert vm.vm.stat()["enqcmd_exits"] == 33
    assert other.vm.stat()["enqcmd_exits"] == 0


def test_benefit_the_window_between_bind_and_the_table_is_a_retry(box: Box, vm: Vm) -> None:
    """The guest asks before the deferred update has run: retry; then it is accepted."""
    owner = box.ids(vm.proc)

    def program(c: Any) -> list[bool]:
        first = c.enqcmd(PORTAL, command(8))
        c.mmio_read(0xE0000000, 4)  # the VMM binds it meanwhile
        return [first, c.enqcmd(PORTAL, command(8))]

    vcpu = vm.vcpu(program)
    assert vm.run() == k.KVM_EXIT_MMIO
    box.bind(owner, 8)
    assert vm.run() == k.KVM_EXIT_SHUTDOWN
    assert vcpu.program.result == [False, True]


# ---- the PASID MSR and XSAVE


def test_msr_passthrough_between_two_runs_it_is_the_guests(box: Box, vm: Vm) -> None:
    """KVM_GET_MSRS and KVM_SET_MSRS reach IA32_PASID of the guest; the host task's is another."""
    vm.vcpu()
    rows = k.kvm_msrs.sizeof() + k.kvm_msr_entry.sizeof()
    at = vm.proc.mem.alloc(rows)

    def transfer(row: Any, value: int = 0) -> tuple[int, int]:
        entry = k.kvm_msr_entry(index=0xD93, data=value)
        vm.proc.store(at, (1).to_bytes(8, "little") + bytes(entry))
        done = vm.proc.ioctl(vm.fds[0], row, at)
        return done, int.from_bytes(vm.proc.load(at + 16, 8), "little")

    cpus = box.host.sub(Cpus)
    cpus.fpu(vm.proc.task).pasid = 7 | 1 << 31
    assert transfer(k.KVM_SET_MSRS, 101 | 1 << 31)[0] == 1
    assert transfer(k.KVM_GET_MSRS) == (1, 101 | 1 << 31)
    assert transfer(k.KVM_SET_MSRS, 1 << 20)[0] == 0  # reserved bit: it ends before the row
    assert cpus.pasid_msr(vm.proc.task) == 7 | 1 << 31


def test_xss_bit_10_is_the_guests_and_does_not_exit(vm: Vm) -> None:
    def program(c: Any) -> int:
        c.wrmsr(0xDA0, 1 << 10)
        with pytest.raises(Trap):
            c.wrmsr(0xDA0, 1 << 11)
        return c.rdmsr(0xDA0)

    assert vm.execute(program) == 1 << 10
    assert not vm.vcpus[0].vmcs.read(0x202C) >> 10 & 1
    assert vm.vcpus[0].vmcs.read(0x202C) >> 11 & 1


def test_needs_cpuid_xsaves_control_and_the_component_in_the_vcpus_state(box: Box, vm: Vm) -> None:
    vcpu = vm.vcpu()
    assert vcpu.vmcs.read(v.SECONDARY_VM_EXEC_CONTROL) >> 20 & 1
    assert vcpu.fpu.xcomp_bv >> 10 & 1
    from pykernel.virt.kvm.vm import supported_cpuid

    rows = {(row.function, row.index): row for row in supported_cpuid(box.host)}
    assert rows[7, 0].ecx >> 29 & 1
    assert (rows[13, 10].eax, rows[13, 10].ebx, rows[13, 10].ecx) == (8, 0, 1)
    assert not rows[1, 0].ecx >> 5 & 1  # no VMX in the guest


def test_upstream_status_no_ioctl_of_linux_is_missing_or_added(vm: Vm) -> None:
    """KVM_CAP_PASID_TRANSLATION of a proposal was 206; Linux gave that number away: it is not this."""
    assert vm.proc.ioctl(vm.fd, k.KVM_CHECK_EXTENSION, 206) == 0
    assert k.KVM_CAP_VM_MOVE_ENC_CONTEXT_FROM == 206


# ---- the model


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["set", "clear"]), st.integers(0, 0xFFFFF) | st.integers(0, 4097), st.integers(1, 0xFFFFF)
        ),
        max_size=60,
    )
)
def test_directories_are_a_dictionary(steps: list[tuple[str, int, int]]) -> None:
    phys = PhysMem(size=64 << 20)
    used = phys.used
    table, model = PasidTable(phys), dict[int, int]()
    for what, pasid, host in steps:
        if what == "set":
            table.set(pasid, host)
            model[pasid] = host
        else:
            assert table.clear(pasid) == (model.pop(pasid, None) is not None)
        assert len(table) == len(model)
        assert table.pages == 2 + len({pasid >> 10 for pasid in model})
        for near in (pasid - 1, pasid, pasid ^ 0x80000, pasid ^ 1024, *model):
            if 0 <= near <= 0xFFFFF:
                assert table.lookup(near) == model.get(near, -1)
    table.destroy()
    assert phys.used == used
