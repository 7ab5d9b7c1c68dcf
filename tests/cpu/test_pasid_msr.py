"""IA32_PASID, IA32_XSS, the PASID state of XSAVE areas, rules of threads (arch/x86/kernel/traps.c, fpu/core.c)."""

from __future__ import annotations

import signal
from mmap import MAP_ANONYMOUS, MAP_SHARED

import pytest
from cpubench import Bench, Registers
from hypothesis import given
from hypothesis import strategies as st

import pykernel
from pykernel.cpu import Cpus, Fault, Trap, xsave
from pykernel.cpu.cpuid import cpuid
from pykernel.cpu.msr import IA32_PASID, IA32_XSS
from pykernel.machine import parse
from pykernel.mm.vma import Page, Vma
from pykernel.syscalls import Process

VALID = 1 << 31
DESC = bytes(64)


@pytest.fixture
def cpus() -> Cpus:
    return pykernel.boot(parse("[cpu]\ncount = 3\n")).sub(Cpus)


def gp(fn, *args) -> bool:
    with pytest.raises(Trap) as e:
        fn(*args)
    return e.value.vector == 13


# ------------------------------------------------------------------ registers


def test_numbers() -> None:
    """Section 0 of what the manuals say."""
    assert (IA32_PASID, IA32_XSS) == (0xD93, 0xDA0)


@given(st.integers(0, (1 << 64) - 1))
def test_ia32_pasid_has_a_pasid_and_a_valid_bit(value: int) -> None:
    """19:0 and 31; 30:20 and 63:32 are reserved: #GP, and the register is as it was."""
    cpu = pykernel.boot(parse("")).sub(Cpus)[0]
    cpu.wrmsr(IA32_PASID, VALID | 0x12345)
    if value & ~(VALID | 0xFFFFF):
        assert gp(cpu.wrmsr, IA32_PASID, value)
        assert cpu.rdmsr(IA32_PASID) == VALID | 0x12345
    else:
        cpu.wrmsr(IA32_PASID, value)
        assert cpu.rdmsr(IA32_PASID) == value


@pytest.mark.parametrize("bit", [*range(20, 31), *range(32, 64)])
def test_each_reserved_bit_of_ia32_pasid_is_gp(cpus: Cpus, bit: int) -> None:
    assert gp(cpus[0].wrmsr, IA32_PASID, 1 << bit)


def test_each_processor_has_its_own(cpus: Cpus) -> None:
    for n in range(3):
        cpus[n].msrs[IA32_PASID] = VALID | n
    assert [cpus[n].msrs[IA32_PASID] for n in range(3)] == [VALID, VALID | 1, VALID | 2]


def test_without_enqcmd_there_is_no_ia32_pasid() -> None:
    """And IA32_XSS has no bit for it, nor CPUID a word of it."""
    cpu = pykernel.boot(parse("[cpu]\nenqcmd = false")).sub(Cpus)[0]
    assert IA32_PASID not in cpu.msrs
    assert gp(cpu.rdmsr, IA32_PASID)
    assert gp(cpu.wrmsr, IA32_PASID, 0)
    assert gp(cpu.wrmsr, IA32_XSS, 1 << 10)
    assert (cpu.cpuid(7).ecx >> 29 & 1, cpu.cpuid(0xD, 1).ecx, tuple(cpu.cpuid(0xD, 10))) == (0, 0, (0, 0, 0, 0))


def test_registers_that_are_not_there_and_read_only_ones(cpus: Cpus) -> None:
    cpu = cpus[0]
    assert gp(cpu.rdmsr, 0x12345678)
    assert gp(cpu.wrmsr, 0x12345678, 0)
    assert gp(cpu.wrmsr, 0x3A, 0)  # IA32_FEATURE_CONTROL is locked
    assert cpu.rdmsr(0x3A) & 5 == 5
    assert gp(cpu.wrmsr, 0xC0000103, 1 << 32)
    assert {row.index for row in cpu.msrs} >= {0x10, 0x1B, 0x277, 0xC0000080, IA32_PASID, IA32_XSS}


def test_linux_lets_the_pasid_state_into_ia32_xss(cpus: Cpus) -> None:
    """arch/x86/kernel/fpu/xstate.c: bit 10 at boot; no other bit can be set."""
    assert [cpus[n].rdmsr(IA32_XSS) for n in range(3)] == [1 << 10] * 3
    for bit in set(range(64)) - {10}:
        assert gp(cpus[0].wrmsr, IA32_XSS, 1 << bit)
    kernel = pykernel.boot(parse(""), config="-IOMMU_SVA")
    assert kernel.sub(Cpus)[0].rdmsr(IA32_XSS) == 0


@pytest.mark.parametrize("word", ["enqcmd", "541", "movdiri,541"])
def test_clearcpuid_takes_it_from_the_kernel_only(word: str) -> None:
    """The kernel neither mends a #GP nor saves the state; CPUID still tells, the instruction is no #UD."""
    kernel = pykernel.boot(parse(f'cmdline = "quiet clearcpuid=nosuch clearcpuid={word}"'))
    bench = Bench(kernel)
    bench.bind(7)
    assert (kernel.cpu.has("enqcmd"), bench.cpus[0].rdmsr(IA32_XSS)) == (False, 0)
    assert bench.proc.cpuid(7)[2] >> 29 & 1
    assert not submits(bench, bench.proc, bench.map(Registers()))
    said = "Clearing CPUID bits: " + word.replace("541", "enqcmd").replace(",", " ")
    assert said in kernel.log.human()
    bench.proc.exit()
    kernel.shutdown()


# ------------------------------------------------------------------ CPUID


def test_cpuid_tells_the_three_instructions_and_the_state(cpus: Cpus) -> None:
    """7/0 ECX 27 MOVDIRI, 28 MOVDIR64B, 29 ENQCMD; 0xD/1 ECX 10; 0xD/10: 8 bytes, supervisor, no offset."""
    cpu = cpus[0]
    assert cpu.cpuid(7, 0).ecx >> 27 & 7 == 7
    assert cpu.cpuid(0xD, 1).ecx == 1 << 10
    assert cpu.cpuid(0xD, 1).eax >> 3 & 1  # XSAVES
    assert tuple(cpu.cpuid(0xD, 10)) == (8, 0, 1, 0)
    assert cpu.cpuid(0xD, 0).eax & 1 << 10 == 0  # not in XCR0
    assert cpu.cpuid(0xD, 2)[:2] == (256, 576)


@pytest.mark.parametrize("flag", ["movdiri", "movdir64b", "enqcmd"])
def test_each_bit_by_itself(flag: str) -> None:
    bit = {"movdiri": 27, "movdir64b": 28, "enqcmd": 29}[flag]
    assert cpuid(lambda f: f == flag, 7).ecx == 1 << bit


def test_cpuid_is_for_programs(bench: Bench) -> None:
    eax, ebx, ecx, edx = bench.proc.cpuid(0)
    assert b"".join(r.to_bytes(4, "little") for r in (ebx, edx, ecx)) == b"GenuineIntel"
    assert bench.proc.cpuid(7)[2] >> 29 & 1
    assert bench.proc.cpuid(0x40000000) == bench.proc.cpuid(eax)  # beyond the last: as the last basic leaf
    brand = b"".join(r.to_bytes(4, "little") for n in (2, 3, 4) for r in bench.proc.cpuid(0x80000000 + n))
    assert brand.startswith(b"Intel(R) Xeon(R)")


def test_vmx_is_told_where_the_machine_has_it() -> None:
    told = [pykernel.boot(parse(f"[cpu]\nvmx = {v}")).sub(Cpus)[0].cpuid(1).ecx >> 5 & 1 for v in ("false", "true")]
    assert told == [0, 1]


# ------------------------------------------------------------------ XSAVES, XRSTORS


def test_sizes_follow_the_compacted_format() -> None:
    """SDM 13.4.3: 512 legacy, 64 header, AVX 256, PASID 8."""
    assert xsave.offsets(0x407) == {2: 576, 10: 832}
    assert xsave.offsets(0x403) == {10: 576}
    assert (xsave.compacted_size(0x407), xsave.compacted_size(7), xsave.standard_size(7)) == (840, 832, 832)


def test_the_init_optimisation(cpus: Cpus) -> None:
    """MSR 0: XSTATE_BV[10] is cleared and the bytes stay; otherwise set. XRSTORS of a clear bit gives 0."""
    cpu, fpu = cpus[0], xsave.Fpu(0x407)
    assert (fpu.xcomp_bv, fpu.xstate_bv) == (1 << 63 | 0x407, 0)
    cpu.msrs.pasid = VALID | 0x54321
    xsave.xsaves(cpu, fpu)
    assert (fpu.xstate_bv, bytes(fpu.area[832:840])) == (1 << 10, (VALID | 0x54321).to_bytes(8, "little"))
    cpu.msrs.pasid = 0
    xsave.xrstors(cpu, fpu)
    assert cpu.msrs.pasid == VALID | 0x54321
    cpu.msrs.pasid = 0
    xsave.xsaves(cpu, fpu)
    assert (fpu.xstate_bv, bytes(fpu.area[832:840])) == (0, (VALID | 0x54321).to_bytes(8, "little"))
    cpu.msrs.pasid = VALID | 1
    xsave.xrstors(cpu, fpu)
    assert cpu.msrs.pasid == 0


def test_without_the_bit_in_ia32_xss_the_state_is_nobodys(cpus: Cpus) -> None:
    cpu, fpu = cpus[0], xsave.Fpu(0x407)
    cpu.wrmsr(IA32_XSS, 0)
    cpu.msrs.pasid = VALID | 1
    xsave.xsaves(cpu, fpu)
    xsave.xrstors(cpu, fpu)
    assert (fpu.xstate_bv, cpu.msrs.pasid) == (0, VALID | 1)


# ------------------------------------------------------------------ threads and processes


def submits(bench: Bench, proc: Process, addr: int) -> bool:
    """False: the process got a signal, SIGSEGV of the kernel."""
    try:
        proc.enqcmd(addr, DESC)
    except Fault as e:
        signo, code = e.signo, e.si_code
    else:
        return True
    assert (signo, code) == (signal.SIGSEGV, 0x80)
    return False


def pasid_of(bench: Bench, proc: Process) -> int:
    return bench.cpus.pasid_msr(proc.task)


def test_the_first_enqcmd_of_a_thread_loads_the_register(bench: Bench) -> None:
    """#GP once, mended, executed again; the register holds PASID and valid bit."""
    io = Registers()
    addr = bench.map(io)
    bench.bind(0x123)
    assert (pasid_of(bench, bench.proc), bench.proc.task.pasid_activated) == (0, False)
    events = bench.kernel.trace.record()
    assert [submits(bench, bench.proc, addr) for _ in range(3)] == [True] * 3
    assert [e.name for e in events if e.name.startswith("enqcmd")] == ["enqcmd_fixup", "enqcmd", "enqcmd", "enqcmd"]
    assert (pasid_of(bench, bench.proc), bench.proc.task.pasid_activated) == (VALID | 0x123, True)


def test_without_a_pasid_a_gp_is_sigsegv(bench: Bench) -> None:
    """mm_valid_pasid(): nothing was bound. A bind afterwards is in time: the task was not activated."""
    addr = bench.map(Registers())
    assert not submits(bench, bench.proc, addr)
    assert not bench.proc.task.pasid_activated
    bench.bind(7)
    assert submits(bench, bench.proc, addr)


def test_once_per_task(bench: Bench) -> None:
    """A second #GP with the register not valid is the task's own: somebody (an exec) took the state away."""
    addr = bench.map(Registers())
    bench.bind(7)
    assert submits(bench, bench.proc, addr)
    bench.cpus.flush_thread(bench.proc.task)
    assert pasid_of(bench, bench.proc) == 0
    assert not submits(bench, bench.proc, addr)


def test_a_gp_for_another_reason_is_told_after_the_register_was_loaded(bench: Bench) -> None:
    """The handler does not decode the instruction: the fix comes first, the second #GP is a signal."""
    addr = bench.map(Registers())
    bench.bind(7)
    with pytest.raises(Fault):
        bench.proc.enqcmd(addr, b"\1" + bytes(63))
    assert (pasid_of(bench, bench.proc), bench.proc.task.pasid_activated) == (VALID | 7, True)


def test_a_kernel_without_iommu_sva_mends_nothing() -> None:
    kernel = pykernel.boot(parse(""), config="-IOMMU_SVA")
    bench = Bench(kernel)
    bench.bind(7)
    assert not submits(bench, bench.proc, bench.map(Registers()))
    bench.proc.exit()
    kernel.shutdown()


def test_a_new_thread_begins_with_a_clear_register_and_the_same_pasid(bench: Bench) -> None:
    """clone(): shares the address space, and its PASID; its state has component 10 in its initial state."""
    io = Registers()
    addr = bench.map(io)
    bench.bind(0x55)
    assert submits(bench, bench.proc, addr)
    thread = bench.proc.thread()
    assert (thread.pid, thread.tid == bench.proc.tid, thread.mem) == (bench.proc.pid, False, bench.proc.mem)
    assert (pasid_of(bench, thread), thread.task.pasid_activated) == (0, False)
    events = bench.kernel.trace.record()
    assert submits(bench, thread, addr)
    assert [e.fields["pid"] for e in events if e.name == "enqcmd_fixup"] == [thread.tid]
    assert [int.from_bytes(c[:4], "little") for _, c in io.commands] == [0x55, 0x55]


def test_a_child_has_no_pasid_and_no_portal(bench: Bench) -> None:
    """fork(): a new address space, state in its initial state, pasid_activated clear."""
    io = Registers()
    addr = bench.map(io)
    bench.bind(0x55)
    assert submits(bench, bench.proc, addr)
    child = bench.proc.fork()
    assert (pasid_of(bench, child), child.task.pasid_activated) == (0, False)
    assert not submits(bench, child, addr)
    bench.bind(0x66, child)
    assert submits(bench, child, addr)
    assert submits(bench, bench.proc, addr)
    assert [int.from_bytes(c[:4], "little") for _, c in io.commands] == [0x55, 0x66, 0x55]


def test_exec_takes_the_pasid_and_the_state(bench: Bench) -> None:
    """A new address space without a PASID, registers in their initial state."""
    addr = bench.map(Registers())
    bench.bind(0x55)
    assert submits(bench, bench.proc, addr)
    bench.proc.exec("other")
    assert pasid_of(bench, bench.proc) == 0
    assert not submits(bench, bench.proc, bench.map(Registers()))


def test_linux_forgets_to_clear_pasid_activated_in_exec(bench: Bench) -> None:
    """kernel/fork.c:dup_task_struct() is the only place: who submitted before exec() is never mended again."""
    addr = bench.map(Registers())
    bench.bind(0x55)
    assert submits(bench, bench.proc, addr)
    bench.proc.exec()
    bench.bind(0x56)
    assert not submits(bench, bench.proc, bench.map(Registers()))
    assert submits(bench, bench.proc.thread(), bench.map(Registers()))


def test_the_register_stays_valid_after_unbind(bench: Bench) -> None:
    """Section 9, 18: nothing clears it; what protects is that the portal and the IOMMU's entry are gone."""
    addr = bench.map(Registers())
    bench.bind(0x55)
    assert submits(bench, bench.proc, addr)
    bench.pasids.clear()
    assert pasid_of(bench, bench.proc) == VALID | 0x55
    assert submits(bench, bench.proc, addr)


def test_many_tasks_keep_their_own(bench: Bench) -> None:
    """More tasks than processors: each switch saves one and loads the other."""
    io = Registers()
    procs = [bench.kernel.process() for _ in range(5)]
    addrs = [bench.map(io, proc=p) for p in procs]
    for n, p in enumerate(procs):
        bench.bind(100 + n, p)
    for _ in range(3):
        for p, addr in zip(procs, addrs, strict=True):
            assert submits(bench, p, addr)
    assert [int.from_bytes(c[:4], "little") for _, c in io.commands] == [100, 101, 102, 103, 104] * 3
    assert {p.task.cpu for p in procs} == {0, 1}


@pytest.mark.parametrize("first", [False, True], ids=["mended", "loaded"])
def test_who_runs_while_a_page_is_brought_in_does_not_lend_its_register(bench: Bench, first: bool) -> None:
    """The source's page fault sleeps, another task uses the processor: each command has its own sender's PASID."""
    io, other = Registers(), bench.kernel.process()
    bench.bind(0x11)
    bench.bind(0x22, other)
    other.task.cpu = bench.cpus.of(bench.proc.task).index
    mine, its = bench.map(io), bench.map(io, proc=other)
    if first:
        assert submits(bench, bench.proc, mine)
    page = Page.alloc(bench.proc.mem.phys)

    def sleeps(_pgoff: int) -> Page:
        assert submits(bench, other, its)
        return page

    def setup(vma: Vma) -> None:
        vma.fault = sleeps

    source = bench.proc.mem.mmap(0, 4096, 3, MAP_SHARED | MAP_ANONYMOUS, setup=setup)
    assert bench.proc.enqcmd(mine, src=source) is False
    assert [int.from_bytes(c[:4], "little") for _, c in io.commands] == [*[0x11] * first, 0x22, 0x11]
    assert [pasid_of(bench, p) for p in (bench.proc, other)] == [VALID | 0x11, VALID | 0x22]


WHAT = ["go", "go", "thread", "fork", "move", "exec", "unbind", "bind"]


@given(st.lists(st.tuples(st.sampled_from(WHAT), st.integers(0, 5)), max_size=30))
def test_state_against_a_naive_model(steps: list[tuple[str, int]]) -> None:
    """Whatever runs where: a command carries the PASID that the task's register was loaded with, or is a signal."""
    kernel = pykernel.boot(parse("[cpu]\ncount = 3\n"))
    bench, io = Bench(kernel), Registers()
    procs = [bench.proc]
    portals: dict[Process, int] = {}
    loaded: dict[Process, int] = {}  # task -> what its register has
    activated: set[Process] = set()
    nextid = 1
    for what, n in steps:
        p = procs[n % len(procs)]
        mm = id(p.task.mm)
        if what == "thread":
            procs.append(p.thread())
        elif what == "fork":
            procs.append(p.fork())
        elif what == "move":
            p.task.cpu = n % 3
        elif what == "exec":
            procs = [q for q in procs if q is p or q.task.mm is not p.task.mm]
            p.exec()
            bench.pasids.pop(mm, None)
            loaded.pop(p, None)
        elif what == "unbind":
            bench.pasids.pop(mm, None)
        elif what == "bind":
            bench.pasids.setdefault(mm, nextid)
            nextid += 1
        else:
            portals[p] = bench.map(io, proc=p)
            if p not in loaded and mm in bench.pasids and p not in activated:
                loaded[p] = bench.pasids[mm]
                activated.add(p)
            before = len(io.commands)
            assert submits(bench, p, portals[p]) == (p in loaded)
            assert [int.from_bytes(c[:4], "little") for _, c in io.commands[before:]] == (
                [loaded[p]] if p in loaded else []
            )
    assert not kernel.oopses
