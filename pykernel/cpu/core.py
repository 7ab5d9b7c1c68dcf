"""
The processors of one kernel, and whose state they hold (arch/x86/kernel/fpu/core.c, arch/x86/kernel/traps.c).

A processor's registers are loaded when a task executes an instruction that needs them, as Linux does on the way back to
user mode (``switch_fpu_return()``): who was there before is saved first (XSAVES), then the task's are loaded (XRSTORS).
A task stays on the processor that it began on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Concatenate, Final, ParamSpec, Protocol, TypeVar

from pykernel.cpu import cpuid, insn, xsave
from pykernel.cpu.msr import IA32_PASID, PASID_VALID, Msrs
from pykernel.cpu.trap import GP, Flags, Trap, force_sig
from pykernel.errors import Oops

if TYPE_CHECKING:
    from pykernel.kernel import Kernel
    from pykernel.task import Task

__all__ = ["Cpu", "Cpus", "NonRoot"]

P = ParamSpec("P")
R = TypeVar("R")
PASSED_THROUGH: Final = frozenset({IA32_PASID})  # what the MSR bitmap lets a guest reach by itself


class NonRoot(Protocol):
    """What a processor in VMX non-root operation asks: the virtual processor that it is."""

    def enqcmd(self, gpa: int, cmd: bytes, supervisor: bool) -> bool:
        """A command with the guest's PASID for guest-physical *gpa*: translate, deliver; True when accepted."""
        ...

    def rdmsr(self, index: int) -> int:
        """A register that is not passed through. Raises Trap."""
        ...

    def wrmsr(self, index: int, value: int) -> None:
        """A register that is not passed through. Raises Trap."""
        ...

    def cpuid(self, leaf: int, subleaf: int) -> tuple[int, int, int, int]:
        """CPUID, which always exits."""
        ...


class Cpu:
    """
    One logical processor.

    Attributes:
        index: its number. C: ``smp_processor_id()``.
        msrs: its model-specific registers.
        owner: the task whose state is in the registers. C: ``fpu_fpregs_owner_ctx``.
    """

    __slots__ = ("cpus", "has", "index", "msrs", "owner", "trace", "xcr0")

    def __init__(self, cpus: Cpus, index: int) -> None:
        self.cpus = cpus
        self.index = index
        self.has = cpus.kernel.cpu.silicon
        self.trace = cpus.kernel.trace
        self.msrs = Msrs(cpus.has)
        self.owner: Task | None = None
        self.xcr0 = xsave.XCR0

    def rdmsr(self, index: int) -> int:
        """RDMSR. Raises Trap: #GP."""
        nonroot = self.cpus.nonroot
        if nonroot is not None and index not in PASSED_THROUGH:
            return nonroot.rdmsr(index)
        return self.msrs.rdmsr(index)

    def wrmsr(self, index: int, value: int) -> None:
        """WRMSR. Raises Trap: #GP."""
        nonroot = self.cpus.nonroot
        if nonroot is not None and index not in PASSED_THROUGH:
            nonroot.wrmsr(index, value)
        else:
            self.msrs.wrmsr(index, value)

    def cpuid(self, leaf: int, subleaf: int = 0) -> cpuid.Regs:
        """CPUID."""
        nonroot = self.cpus.nonroot
        if nonroot is not None:
            return cpuid.Regs(*nonroot.cpuid(leaf, subleaf))
        return cpuid.cpuid(self.has, leaf, subleaf)

    def enqcmd(self, mem: Any, addr: int, src: insn.Source, *, cpl: int = 3) -> Flags:
        """
        ENQCMD in address space *mem*; *src* is 64 bytes or where they are.

        Raises:
            Trap: #UD, #GP, #PF.
            Oops: the kernel executes it: it would submit in the name of whoever runs.
        """
        if not cpl:  # tools/objtool/arch/x86/decode.c refuses to build such a kernel
            raise Oops("ENQCMD instruction in the kernel: only ENQCMDS is for it")
        return insn.enqcmd(self, mem, addr, src)

    def enqcmds(self, mem: Any, addr: int, src: insn.Source, *, cpl: int = 0) -> Flags:
        """ENQCMDS; *cpl* is the privilege level. Raises Trap: #UD, #GP, #PF."""
        return insn.enqcmds(self, mem, addr, src, cpl=cpl)

    def movdir64b(self, mem: Any, addr: int, src: insn.Source) -> None:
        """MOVDIR64B. Raises Trap: #UD, #GP, #PF."""
        insn.movdir64b(self, mem, addr, src)

    def load(self, task: Task) -> None:
        """Have the state of *task* in the registers: a context switch. C: ``fpregs_restore_userregs()``."""
        if self.owner is task:
            return
        if self.owner is not None:
            self.save()
        fpu = self.cpus.fpu(task)
        if fpu.cpu is not None:
            fpu.cpu.save()
        xsave.xrstors(self, fpu)
        self.owner, fpu.cpu = task, self

    def save(self) -> None:
        """Save the state of whoever is in the registers. C: ``save_fpregs_to_fpstate()``."""
        task, self.owner = self.owner, None
        if task is not None:
            fpu = self.cpus.fpu(task)
            xsave.xsaves(self, fpu)
            fpu.cpu = None


class Cpus:
    """
    The processors of one kernel.

    Attributes:
        nonroot: the virtual processor while this kernel's code runs in VMX non-root operation, else None.
    """

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        count = kernel.machine.cpus if kernel.machine is not None else 1
        self.nonroot: NonRoot | None = None
        self._next = 0
        self._running: Cpu | None = None
        self.features = xsave.supported(self.has)
        self.cpus = [Cpu(self, n) for n in range(count)]
        if "IOMMU_SVA" in kernel.profile.config:
            for cpu in self.cpus:  # arch/x86/kernel/fpu/xstate.c:fpu__init_cpu_xstate()
                cpu.msrs.xss = xsave.supervisor(kernel.cpu.has)

    def has(self, flag: str) -> bool:
        """Whether the processors have it, whatever the kernel uses of it; *flag* as in /proc/cpuinfo."""
        return self.kernel.cpu.silicon(flag)

    def __getitem__(self, index: int) -> Cpu:
        return self.cpus[index]

    def __len__(self) -> int:
        return len(self.cpus)

    @property
    def current(self) -> Cpu:
        """The processor that runs; set, it is that one until it is set to None, and else the running task's."""
        return self._running or self.of(self.kernel.current)

    @current.setter
    def current(self, cpu: Cpu | None) -> None:
        self._running = cpu

    def of(self, task: Task) -> Cpu:
        """The processor of *task*; a new one gets the next in turn. C: ``task_cpu(p)``."""
        if task.cpu < 0:
            task.cpu = self._next
            self._next = (self._next + 1) % len(self.cpus)
        return self.cpus[task.cpu % len(self.cpus)]

    def fpu(self, task: Task) -> xsave.Fpu:
        """The XSAVE area of *task*, made at first use with everything in its initial state: nobody inherits."""
        fpu: xsave.Fpu | None = task.fpu
        if fpu is None:
            fpu = task.fpu = xsave.Fpu(self.features)
        return fpu

    def pasid_msr(self, task: Task) -> int:
        """IA32_PASID as *task* has it, running or not."""
        fpu = self.fpu(task)
        if fpu.cpu is not None:
            fpu.cpu.save()
        return fpu.pasid

    def flush_thread(self, task: Task) -> None:
        """*task* executes a new program, or ends: its state is the initial one. C: ``fpu_flush_thread()``."""
        fpu: xsave.Fpu | None = task.fpu
        if fpu is None:
            return
        if fpu.cpu is not None:
            fpu.cpu.owner = None
        fpu.reset()

    def execute(self, task: Task, step: Callable[Concatenate[Cpu, P], R], *args: P.args, **kw: P.kwargs) -> R:
        """
        One instruction of *task* in user mode, ``step(cpu, ...)``; what the kernel mends is executed again.

        Raises:
            Fault: the signal that the task gets.
        """
        cpu = self._running or self.of(task)
        while True:
            if cpu.owner is not task:
                cpu.load(task)
            try:
                return step(cpu, *args, **kw)
            except Trap as trap:
                if trap.vector != GP or not self.try_fixup_enqcmd_gp(cpu, task):
                    raise force_sig(trap) from None

    def try_fixup_enqcmd_gp(self, cpu: Cpu, task: Task) -> bool:
        """
        The first #GP of a thread whose process has a PASID: load IA32_PASID, and let it try again.

        C: ``bool try_fixup_enqcmd_gp(void)``, called with interrupts off, for user mode only. Whatever the #GP was for.
        """
        # arch/x86/kernel/traps.c:try_fixup_enqcmd_gp()
        if "IOMMU_SVA" not in self.kernel.profile.config or not self.kernel.cpu.has("enqcmd"):
            return False
        pasid = self.kernel.mm_pasid(task.mm)
        if not pasid or task.pasid_activated:
            return False
        cpu.load(task)  # somebody else may have run while the instruction waited for a page
        cpu.msrs.wrmsr(IA32_PASID, pasid | PASID_VALID)
        task.pasid_activated = True
        if cpu.trace:
            cpu.trace("enqcmd_fixup", cpu=cpu.index, pid=task.pid, pasid=pasid)
        return True
