"""ENQCMD, ENQCMDS and MOVDIR64B: image, flags, faults and signals (SDM volume 2; include/uapi signal numbers)."""

from __future__ import annotations

import signal
from errno import EFAULT, EINVAL
from mmap import PROT_READ
from typing import Any

import pytest
from cpubench import Bench, Registers
from hypothesis import given, settings
from hypothesis import strategies as st

import pykernel
from pykernel.cpu import Cpus, Fault, Flags, Trap
from pykernel.cpu.msr import IA32_PASID
from pykernel.errors import Oops
from pykernel.machine import parse

SI_KERNEL, SEGV_MAPERR, SEGV_ACCERR, BUS_ADRERR, ILL_ILLOPN = 0x80, 1, 2, 2, 2  # include/uapi/asm-generic/siginfo.h
UD, GP, PF = 6, 13, 14
DESC = bytes(4) + bytes(range(4, 64))


def fault(fn: Any, *args: Any, **kw: Any) -> Fault:
    with pytest.raises(Fault) as e:
        fn(*args, **kw)
    return e.value


def told(f: Fault) -> tuple[int, int, int, int]:
    return f.vector, f.signo, f.si_code, f.si_addr


# ------------------------------------------------------------------ the image


@settings(max_examples=200, deadline=None)
@given(st.binary(min_size=60, max_size=60), st.integers(0, 0xFFFFF))
def test_enqcmd_image_is_the_msrs_pasid_with_priv_zero_and_the_sources_rest(rest: bytes, pasid: int) -> None:
    """3.2: PASID in 19:0, 30:20 zero, PRIV (31) zero whatever the privilege level, 511:32 from the source."""
    kernel = pykernel.boot(parse(""))
    bench, io = Bench(kernel), Registers()
    bench.bind(pasid or 1)
    addr = bench.map(io)
    if not pasid:  # the processor treats PASID 0 as any other; only software never hands it out
        cpu = bench.cpus.of(bench.proc.task)
        cpu.load(bench.proc.task)
        cpu.wrmsr(IA32_PASID, 1 << 31)
    assert bench.proc.enqcmd(addr + 0x40, bytes(4) + rest) is False
    wire = int.from_bytes(io.commands[0][1], "little")
    assert wire == pasid | int.from_bytes(rest, "little") << 32
    assert io.commands[0][0] == 0x40


@settings(max_examples=200, deadline=None)
@given(st.binary(min_size=64, max_size=64))
def test_enqcmds_image_is_the_source(src: bytes) -> None:
    """3.1: PASID and PRIV are the source's; bits 30:20 must be 0, else #GP."""
    cpu, io = pykernel.boot(parse("")).sub(Cpus)[0], Registers()
    bench = Bench(cpu.cpus.kernel)
    addr = bench.map(io)
    bits = int.from_bytes(src, "little")
    if bits >> 20 & 0x7FF:
        with pytest.raises(Trap) as e:
            cpu.enqcmds(bench.proc.mem, addr, src)
        assert (e.value.vector, io.commands) == (GP, [])
        bits &= ~(0x7FF << 20)
    assert cpu.enqcmds(bench.proc.mem, addr, bits.to_bytes(64, "little")) == Flags()
    assert io.commands == [(0, bits.to_bytes(64, "little"))]


def test_the_source_is_an_ordinary_load_of_any_alignment(bench: Bench) -> None:
    """3.1: m512 at any address, over a page boundary, too."""
    io = Registers()
    bench.bind(5)
    portal, at = bench.map(io), bench.memory(pages=2) + 4096 - 13
    bench.proc.store(at, DESC)
    assert bench.proc.enqcmd(portal, src=at) is False
    bench.proc.movdir64b(portal + 64, src=at)
    assert io.commands == [(0, (5).to_bytes(4, "little") + DESC[4:])]
    assert io.stores == [(64, DESC)]


def test_movdir64b_is_raw_and_leaves_no_status(bench: Bench) -> None:
    """3.1: no PASID, no reserved bits, no CPL; memory takes it, too."""
    io, data = Registers(), b"\xff" * 64
    portal, page = bench.map(io), bench.memory()
    assert bench.proc.movdir64b(portal, data) is None  # type: ignore[func-returns-value]
    bench.proc.movdir64b(page + 64, data)
    assert (io.stores, bench.proc.load(page, 128)) == ([(0, data)], bytes(64) + data)


# ------------------------------------------------------------------ flags


def test_zf_is_retry_and_the_others_are_clear(bench: Bench) -> None:
    """3.3: ZF=0 accepted, ZF=1 not; CF, PF, AF, SF and OF are 0 both times. (The talk's CF=1 is not the SDM's.)"""
    io = Registers(room=1)
    bench.bind(5)
    addr, mem = bench.map(io), bench.proc.mem
    assert bench.proc.enqcmd(addr, DESC) is False
    cpu = bench.cpus.of(bench.proc.task)
    assert cpu.enqcmd(mem, addr, DESC) == Flags(zf=True, cf=False, pf=False, af=False, sf=False, of=False)
    assert bench.proc.enqcmd(addr, DESC) is True
    assert len(io.commands) == 1
    io.room = 2
    assert tuple(cpu.enqcmd(mem, addr, DESC)) == (False,) * 6


def test_a_target_that_is_no_enqueue_register_is_zf_1_and_nothing_is_written(bench: Bench) -> None:
    """3.3: ordinary memory included."""

    class Plain:
        def read(self, off: int, n: int) -> bytes:
            return bytes(n)

        def write(self, off: int, data: bytes) -> None:
            raise AssertionError("written")

    bench.bind(5)
    page = bench.memory()
    bench.proc.store(page, b"\xaa" * 64)
    assert bench.proc.enqcmd(page, DESC) is True
    assert bench.proc.load(page, 64) == b"\xaa" * 64
    assert bench.proc.enqcmd(bench.memory(), DESC) is True  # never touched before: the fault brings the page in
    assert bench.proc.enqcmd(bench.map(Plain()), DESC) is True


# ------------------------------------------------------------------ faults


@pytest.mark.parametrize("name", ["enqcmd", "enqcmds", "movdir64b"])
def test_ud_without_the_cpuid_bit(name: str) -> None:
    """3.4: SIGILL, and before anything else is looked at."""
    kernel = pykernel.boot(parse("[cpu]\nenqcmd = false\nmovdir64b = false"))
    proc = kernel.process()
    f = fault(getattr(proc, name), 0x1001, DESC)
    assert (f.errno, told(f)) == (EFAULT, (UD, signal.SIGILL, ILL_ILLOPN, 0))
    proc.exit()
    kernel.shutdown()


@pytest.mark.parametrize("name", ["enqcmd", "movdir64b"])
@pytest.mark.parametrize("off", [1, 8, 32, 63])
def test_gp_when_the_linear_address_is_no_multiple_of_64(bench: Bench, name: str, off: int) -> None:
    """3.4: the errno is EINVAL, as for every operand that no machine takes; a program gets SIGSEGV."""
    io = Registers()
    bench.bind(5)
    f = fault(getattr(bench.proc, name), bench.map(io) + off, DESC)
    assert (f.errno, told(f)) == (EINVAL, (GP, signal.SIGSEGV, SI_KERNEL, 0))
    assert (io.commands, io.stores) == ([], [])


@pytest.mark.parametrize("name", ["enqcmd", "movdir64b"])
@pytest.mark.parametrize("addr", [1 << 47, 0x8000 << 32, (1 << 63) - 64])
def test_gp_for_an_address_that_is_not_canonical(bench: Bench, name: str, addr: int) -> None:
    """3.4, destination and source."""
    bench.bind(5)
    call = getattr(bench.proc, name)
    for f in (fault(call, addr, DESC), fault(call, bench.map(Registers()), src=addr)):
        assert (f.errno, told(f)) == (EFAULT, (GP, signal.SIGSEGV, SI_KERNEL, 0))


def test_gp_when_the_msr_is_not_valid(bench: Bench) -> None:
    """3.4: IA32_PASID[31] = 0, ENQCMD only; nobody bound anything, so the kernel does not mend it."""
    io = Registers()
    addr = bench.map(io)
    f = fault(bench.proc.enqcmd, addr, DESC)
    assert (f.errno, told(f)) == (EFAULT, (GP, signal.SIGSEGV, SI_KERNEL, 0))
    assert bench.cpus[0].enqcmds(bench.proc.mem, addr, DESC) == Flags()


@pytest.mark.parametrize("bit", range(32))
def test_gp_when_bits_31_to_0_of_the_source_are_not_zero(bench: Bench, bit: int) -> None:
    """3.4, the SDM since 2021; the manual of May 2019 ignored them. A PASID of its own cannot be smuggled in."""
    io = Registers()
    bench.bind(5)
    f = fault(bench.proc.enqcmd, bench.map(io), (1 << bit).to_bytes(4, "little") + DESC[4:])
    assert (told(f), io.commands) == ((GP, signal.SIGSEGV, SI_KERNEL, 0), [])


def test_gp_for_enqcmds_outside_of_privilege_level_0(bench: Bench) -> None:
    """3.1, 3.4."""
    io = Registers()
    bench.bind(5)
    f = fault(bench.proc.enqcmds, bench.map(io), DESC)
    assert (told(f), io.commands) == ((GP, signal.SIGSEGV, SI_KERNEL, 0), [])
    for cpl in (1, 2, 3):
        with pytest.raises(Trap) as e:
            bench.cpus[0].enqcmds(bench.proc.mem, bench.map(io), DESC, cpl=cpl)
        assert e.value.vector == GP


def test_pf_on_the_source(bench: Bench) -> None:
    """3.4: CR2 is the page that is not there, the error code says "user, read"."""
    io = Registers()
    bench.bind(5)
    at, portal = bench.memory(), bench.map(io)
    bench.proc.mem.munmap(at, 4096)
    f = fault(bench.proc.enqcmd, portal, src=at + 10)
    assert (f.error_code, told(f)) == (4, (PF, signal.SIGSEGV, SEGV_MAPERR, at + 10))
    two = bench.memory(pages=2)
    bench.proc.munmap(two + 4096, 4096)
    f = fault(bench.proc.movdir64b, portal, src=two + 4096 - 60)
    assert (f.error_code, told(f)) == (4, (PF, signal.SIGSEGV, SEGV_MAPERR, two + 4096))
    assert (io.commands, io.stores) == ([], [])


@pytest.mark.parametrize("name", ["enqcmd", "movdir64b"])
def test_pf_on_the_destination(bench: Bench, name: str) -> None:
    """3.4: not mapped, or not writable: error code "user, write" and, for the latter, "protection"."""
    bench.bind(5)
    call = getattr(bench.proc, name)
    f = fault(call, 0x1000, DESC)
    assert (f.error_code, told(f)) == (6, (PF, signal.SIGSEGV, SEGV_MAPERR, 0x1000))
    for at in (bench.memory(PROT_READ), bench.map(Registers(), PROT_READ)):
        f = fault(call, at, DESC)
        assert (f.error_code, told(f)) == (7, (PF, signal.SIGSEGV, SEGV_ACCERR, at))


def test_registers_whose_page_is_gone_are_sigbus(bench: Bench) -> None:
    """The fault handler of a device says VM_FAULT_SIGBUS."""

    class Gone(Registers):
        def enqcmd(self, off: int, data: bytes) -> bool:
            raise OSError(EFAULT, "gone")

        def write(self, off: int, data: bytes) -> None:
            raise OSError(EFAULT, "gone")

    bench.bind(5)
    at = bench.map(Gone())
    for call in (bench.proc.enqcmd, bench.proc.movdir64b):
        f = fault(call, at + 64, DESC)
        assert told(f) == (PF, signal.SIGBUS, BUS_ADRERR, at + 64)


@pytest.mark.parametrize("length", [0, 4, 63, 65])
def test_a_source_has_64_bytes(bench: Bench, length: int) -> None:
    """No instruction is like that: EINVAL, and no signal."""
    with pytest.raises(OSError, match="Invalid argument") as e:
        bench.proc.enqcmd(bench.map(Registers()), bytes(length))
    assert not isinstance(e.value, Fault)


# ------------------------------------------------------------------ order, kernel mode, non-root


def test_the_order_of_checks(bench: Bench) -> None:
    """The documented order, each step with everything after it wrong, too; a fault leaves the queue alone."""
    io = Registers()
    addr, bad = bench.map(io), b"\1" + DESC[1:]
    mem = bench.proc.mem
    cpu = bench.cpus[0]
    cases = [
        (lambda: cpu.enqcmds(mem, 0x1001, 0x10, cpl=3), GP, "privilege level"),
        (lambda: cpu.enqcmd(mem, 0x1001, 0x10), GP, "multiple of 64"),
        (lambda: cpu.enqcmd(mem, 0x1000, 0x10), PF, "source"),
        (lambda: cpu.enqcmd(mem, 0x1000, bad), GP, "31:0"),
        (lambda: cpu.enqcmd(mem, 0x1000, DESC), GP, "IA32_PASID"),
        (lambda: cpu.enqcmds(mem, 0x1000, DESC, cpl=0), PF, "0x1000"),
    ]
    for step, vector, text in cases:
        with pytest.raises(Trap, match=text) as e:
            step()
        assert e.value.vector == vector
    assert io.commands == []
    assert cpu.enqcmds(mem, addr, DESC, cpl=0) == Flags()


def test_the_kernel_must_not_execute_enqcmd(bench: Bench) -> None:
    """Section 2: objtool refuses such a kernel; IA32_PASID is that of whoever runs."""
    with pytest.raises(Oops, match="ENQCMD instruction"):
        bench.cpus[0].enqcmd(bench.proc.mem, bench.map(Registers()), DESC, cpl=0)


class Virtual:
    """What non-root mode delivers to: notes the command, translates nothing."""

    def __init__(self) -> None:
        self.log: list[Any] = []

    def enqcmd(self, gpa: int, cmd: bytes, supervisor: bool) -> bool:
        self.log.append((gpa, cmd, supervisor))
        return len(self.log) == 1

    def rdmsr(self, index: int) -> int:
        return index + 1

    def wrmsr(self, index: int, value: int) -> None:
        self.log.append((index, value))

    def cpuid(self, leaf: int, subleaf: int) -> tuple[int, int, int, int]:
        return leaf, subleaf, 3, 4


def test_in_nonroot_operation_the_virtual_processor_gets_the_guests_command(bench: Bench) -> None:
    """4.2: normal faults first, then the command with the guest's PASID and the guest-physical address."""
    io, vcpu = Registers(), Virtual()
    bench.bind(101)
    addr = bench.map(io)
    bench.cpus.nonroot = vcpu
    assert fault(bench.proc.enqcmd, addr, b"\1" + DESC[1:]).vector == GP
    assert vcpu.log == []
    image = (101).to_bytes(4, "little") + DESC[4:]
    assert [bench.proc.enqcmd(addr + 4096 + 64, DESC) for _ in range(2)] == [False, True]
    assert vcpu.log == [(0x2000_0000_1040, image, False)] * 2
    assert io.commands == []
    bench.cpus.nonroot = None
    assert bench.proc.enqcmd(addr, DESC) is False
    assert io.commands == [(0, image)]


def test_in_nonroot_operation_only_ia32_pasid_passes_through(bench: Bench) -> None:
    """4.4: RDMSR and WRMSR of 0xD93 are direct; the others, and CPUID, are the hypervisor's."""
    cpu, vcpu = bench.cpus[1], Virtual()
    bench.cpus.nonroot = vcpu
    cpu.wrmsr(0xD93, 1 << 31 | 7)
    cpu.wrmsr(0xDA0, 5)
    assert (cpu.rdmsr(0xD93), cpu.rdmsr(0x3A), vcpu.log) == (1 << 31 | 7, 0x3B, [(0xDA0, 5)])
    assert tuple(cpu.cpuid(7, 0)) == (7, 0, 3, 4)
    bench.cpus.nonroot = None
    assert cpu.rdmsr(0xD93) == 1 << 31 | 7


def test_trace_tells_the_command(bench: Bench) -> None:
    """What the demo prints: which processor, whose PASID, where to."""
    bench.bind(0xABC)
    addr = bench.map(Registers())
    events = bench.kernel.trace.record()
    bench.proc.enqcmd(addr, DESC)
    found = {e.name: e.fields for e in events}
    assert found["enqcmd_fixup"]["pasid"] == 0xABC
    cmd = found["enqcmd"]
    assert (cmd["cpu"], cmd["addr"], cmd["pasid"], cmd["priv"]) == (bench.proc.task.cpu, addr, 0xABC, False)
    assert bytes.fromhex(cmd["data"]) == DESC
