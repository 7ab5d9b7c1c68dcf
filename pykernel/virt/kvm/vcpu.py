"""
A virtual processor: the guest's side and the way in and out (arch/x86/kvm/x86.c:vcpu_enter_guest(), vmx/vmx.c).

A guest's code is a program of Python: ``program.run(vcpu)`` begins in a greenlet of its own at the first entry, and may
have greenlets of its own, as the tasks of a guest's kernel are. Whoever of them comes to something that leaves non-root
mode calls a method of :class:`Vcpu`, which switches straight to the caller of KVM_RUN, wherever in the guest it is, and
comes back with the answer at a later entry. All that the host does runs in the caller of KVM_RUN, and so do the host's
switch points: those between instructions, where KVM is still "in guest mode" and what runs meanwhile is other
processors, and those of exits.

No instruction is interrupted. Between two of its scheduler's turns, and while the guest halts, the processor
looks for requests (the kick) and takes interrupts: :meth:`Vcpu.boundary`. Since there are no signals, a VMM that
wants a processor back sets ``kvm_run.immediate_exit``, which counts as a pending signal as well.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from errno import EBUSY
from typing import TYPE_CHECKING, Any, Final, Protocol

from greenlet import GreenletExit, getcurrent, greenlet

from pykernel.cpu import xsave
from pykernel.cpu.trap import GP, Trap
from pykernel.errors import err
from pykernel.lib.locking import Mutex
from pykernel.mm.phys import PAGE_SIZE, PhysMem
from pykernel.mm.vma import Page
from pykernel.uapi.linux import kvm as k
from pykernel.virt.kvm.context import GuestContext
from pykernel.virt.kvm.msrs import GuestMsrs
from pykernel.virt.kvm.regs import Registers
from pykernel.virt.kvm.vmcs import (
    EXIT_REASON_CPUID,
    EXIT_REASON_ENQCMD,
    EXIT_REASON_ENQCMDS,
    EXIT_REASON_EPT_VIOLATION,
    EXIT_REASON_EXTERNAL_INTERRUPT,
    EXIT_REASON_HLT,
    EXIT_REASON_MSR_READ,
    EXIT_REASON_MSR_WRITE,
    EXIT_REASON_TRIPLE_FAULT,
    Vmcs,
)

if TYPE_CHECKING:
    from pykernel.kernel import Kernel
    from pykernel.virt.kvm.vm import Kvm

__all__ = ["EXITING_GUEST_MODE", "IN_GUEST_MODE", "OUTSIDE_GUEST_MODE", "Exit", "Program", "Vcpu"]

# include/linux/kvm_host.h
OUTSIDE_GUEST_MODE, IN_GUEST_MODE, EXITING_GUEST_MODE = range(3)
PASID_BITS: Final = 0xFFFFF
LINE: Final = 64
MMIO_BYTES: Final = 8  # kvm_run.mmio.data
NOT_FROM_INSIDE: Final = "a guest's program cannot call the host: it sees the virtual machine only"
ENQCMD_BYTES: Final = 5  # F2 (or F3) 0F 38 F8 /r, with a memory operand of a register


class Program(Protocol):
    """
    What a virtual machine executes.

    Attributes:
        vcpu: the processor that runs; set at each entry.
    """

    vcpu: Any

    @property
    def kernel(self) -> Kernel | None:
        """The guest's kernel; None: it has none."""

    def run(self, vcpu: Vcpu) -> None:
        """The code of *vcpu* from its first entry on; when it returns the machine is off."""

    def interrupt(self, address: int, data: int) -> None:
        """A message arrived for the processor that runs."""


class Exit:
    """A VM exit: its reason as in the VMCS, and what goes with it."""

    __slots__ = ("info", "reason")

    def __init__(self, reason: int, **info: Any) -> None:
        self.reason, self.info = reason, info


class _Step:
    """Something of the host that an instruction does without an exit, between two of the guest's greenlet."""

    __slots__ = ("fn",)

    def __init__(self, fn: Callable[[], Any]) -> None:
        self.fn = fn


class _Raise:
    """An exception of the processor as answer: the guest gets it where it is."""

    __slots__ = ("error",)

    def __init__(self, error: BaseException) -> None:
        self.error = error


def pieces(gpa: int, size: int, most: int) -> Iterator[tuple[int, int]]:
    """Address and size of each part of an access, which no part of crosses a multiple of *most*."""
    end = gpa + size
    while gpa < end:
        step = min(end - gpa, most - gpa % most if most == PAGE_SIZE else most)
        yield gpa, step
        gpa += step


def _check_line(gpa: int, data: bytes) -> None:
    """Raises Trap: #GP."""
    if gpa % LINE or len(data) != LINE:
        raise Trap(GP, f"{len(data)} bytes at {gpa:#x}")


class Vcpu:
    """
    ``struct kvm_vcpu``. The methods from :meth:`exit` on are for the guest's code.

    Attributes:
        run: the page that the VMM maps.
        mode: where it is.
        requests: somebody wants it to come out, or look again. C: ``vcpu->requests``.
        program: what it executes.
        messages: interrupts that it has not taken.
        deadline: when its local timer fires, by the host's clock; 0: it is not armed.
        fpu: the guest's XSAVE area; component 10 is IA32_PASID.
        stat: counters of ``kvm_stats``.
        complete: what the next KVM_RUN does first. C: ``arch.complete_userspace_io``.
        answer: what the guest gets at the next entry.
        regs: registers of which the program has none, stored and given back.
        error: what ended its program.
    """

    def __init__(self, vm: Kvm, vcpu_id: int) -> None:
        kernel = vm.kernel
        self.vm, self.vcpu_id, self.kernel = vm, vcpu_id, kernel
        self.run_page, self.pio_page, self.ring_page = (Page.alloc(kernel.sub(PhysMem)) for _ in range(3))
        # of the arena itself: a view between them could be cleared by the garbage collection while it is exported
        self.run = k.kvm_run.from_buffer(self.run_page.phys.arena, self.run_page.pa)
        self.mutex = Mutex(kernel, f"vcpu->mutex of {vcpu_id}")
        self.vmcs = Vmcs(vm)
        self.mode = OUTSIDE_GUEST_MODE
        self.requests = False
        self.program: Program | None = None
        self.messages: deque[tuple[int, int]] = deque()
        self.vectors: deque[int] = deque()
        self.deadline = 0
        self.mp_state = k.KVM_MP_STATE_RUNNABLE
        self.fpu = xsave.Fpu(xsave.supported(vm.has))
        self.xsave = bytearray(4096)
        self.cpuid_rows: list[k.kvm_cpuid_entry2] = []
        self.stat = {"exits": 0, "halt_exits": 0, "mmio_exits": 0, "signal_exits": 0, "enqcmd_exits": 0}
        self.complete: Callable[[], Any] | None = None
        self.answer: Any = None
        self.apic_base = 0xFEE00900 if vcpu_id == 0 else 0xFEE00800
        self.regs = Registers()
        self.msrs = GuestMsrs(self)
        self.error: BaseException | None = None
        self.dead = False
        self._context: GuestContext | None = None
        self._guest: Any = None
        self._resume: Any = None
        self._caller: Any = None
        self._heir: Vcpu | None = None  # who goes on with what this one executed

    # ---- the host's side

    def find_cpuid(self, leaf: int, subleaf: int) -> k.kvm_cpuid_entry2 | None:
        """The VMM's row. C: ``struct kvm_cpuid_entry2 *cpuid_entry2_find(...)``."""
        for row in self.cpuid_rows:
            indexed = row.flags & k.KVM_CPUID_FLAG_SIGNIFCANT_INDEX
            if row.function == leaf and (not indexed or row.index == subleaf):
                return row
        return None

    def sync_regs(self) -> None:
        """Registers that the VMM put into kvm_run. C: ``int sync_regs(struct kvm_vcpu *)``. Raises EINVAL."""
        if self.run.kvm_dirty_regs:
            self.regs.load(self.run.s.regs, self.run.kvm_dirty_regs)
            self.run.kvm_dirty_regs = 0

    def store_regs(self) -> None:
        """Registers that the VMM wants in kvm_run. C: ``void store_regs(struct kvm_vcpu *)``."""
        if self.run.kvm_valid_regs:
            self.regs.store(self.run.s.regs, self.run.kvm_valid_regs)

    def start(self, program: Program) -> None:
        """*program* is what it executes from its next entry on."""
        self.program = program
        self._guest = None

    def adopt(self, other: Vcpu) -> None:
        """
        Go on with what *other* executes, where it is: the machine has moved here.

        Of silicon the code lies in memory and its place in registers, and no call would say it. What only the interrupt
        controller's registers would have comes with it: messages that were not taken.

        Raises:
            EBUSY: *other* runs, or KVM_RUN has an access to complete.
        """
        if other.in_guest or other.complete is not None:
            raise err(EBUSY, f"processor {other.vcpu_id} is in the middle of an instruction")
        self.program, self.error = other.program, other.error
        self.answer, other.answer = other.answer, None
        self._guest, self._resume, self._context = other._guest, other._resume, other._context
        other._guest = other._resume = other._context = None
        if self._context is not None:
            self._context.nonroot = self
        for mine, theirs in ((self.messages, other.messages), (self.vectors, other.vectors)):
            mine.extendleft(reversed(theirs))  # type: ignore[arg-type]
            theirs.clear()
        self.dead, other.dead = False, True
        other._heir = self

    @property
    def here(self) -> Vcpu:
        """Who executes the guest's code now: what an instruction in several parts has to ask between two of them."""
        vcpu = self
        while vcpu._heir is not None:
            vcpu = vcpu._heir
        return vcpu

    def enter(self, answer: Any) -> Exit:
        """VM entry until the next exit; the guest goes on with *answer* where it left. In guest mode meanwhile."""
        while True:
            why = self._switch(answer)
            if not isinstance(why, _Step):
                return why  # type: ignore[no-any-return]
            try:
                answer = why.fn()
            except Exception as e:
                answer = _Raise(e)
            if isinstance(answer, Exit):
                return answer

    def _switch(self, answer: Any) -> Any:
        if self._guest is None:
            self._guest = self._resume = greenlet(self._body)
            self.error = None
            self.program = self.program or self.vm.program
            guest_kernel = None if self.program is None else self.program.kernel
            self._context = None if guest_kernel is None else GuestContext(guest_kernel, self.vcpu_id, self)
        elif self._guest.dead:  # whoever runs it once more sees the same end again
            return Exit(EXIT_REASON_TRIPLE_FAULT, error=self.error)
        self._caller = self._guest.parent = getcurrent()
        context, program = self._context, self.program
        if context is not None:
            context.enter(self.fpu.pasid)
        if program is not None:
            program.vcpu = self
        barred, self.kernel.barred = self.kernel.barred, NOT_FROM_INSIDE
        try:
            return self._resume.switch(answer)
        finally:
            self.kernel.barred = barred
            if context is not None:
                self.fpu.pasid = context.leave()

    def _body(self, _answer: Any) -> Exit:
        """The program's greenlet; its return is a switch to the caller of KVM_RUN."""
        program = self.program
        try:
            if program is None:  # memory full of zeros is no program: the first instruction faults for ever
                return Exit(EXIT_REASON_TRIPLE_FAULT)
            program.run(self)
        except Exception as e:
            self.error = e
        self._resume = None
        return Exit(EXIT_REASON_TRIPLE_FAULT, error=self.error)

    def kick(self) -> bool:
        """
        Make it come out of guest mode, as an IPI does, without waiting; False: it is not there.

        C: ``void kvm_vcpu_kick(struct kvm_vcpu *)``
        """
        self.requests = True
        if self.mode == IN_GUEST_MODE:
            self.mode = EXITING_GUEST_MODE
            return True
        return False

    @property
    def in_guest(self) -> bool:
        """Whether it is in non-root operation, or on its way out of it."""
        return self.mode != OUTSIDE_GUEST_MODE

    def has_events(self) -> bool:
        """Whether a halted processor goes on. C: ``bool kvm_arch_vcpu_runnable(struct kvm_vcpu *)``."""
        return bool(self.messages or self.vectors or (self.deadline and self.kernel.sched.clock_ns() >= self.deadline))

    def signal_pending(self) -> bool:
        """The VMM wants it back."""
        return bool(self.run_page.data[1])

    def destroy(self) -> None:
        """Its program ends where it is. C: ``void kvm_arch_vcpu_destroy(struct kvm_vcpu *)``."""
        self.dead = True
        guest, self._guest = self._guest, None
        if guest is None or guest.dead or not guest:
            return
        guest.parent = getcurrent()
        if self._context is not None:
            self._context.enter(self.fpu.pasid)
        try:
            guest.throw(GreenletExit)
        finally:
            if self._context is not None:
                self._context.leave()

    # ---- the guest's side

    def exit(self, reason: int, **info: Any) -> Any:
        """Leave non-root mode for *reason*; what the host answers, at the next entry."""
        return self._leave(Exit(reason, **info))

    def _leave(self, why: Exit | _Step) -> Any:
        if self.dead:
            raise GreenletExit
        self._resume = getcurrent()
        answer = self._caller.switch(why)
        if isinstance(answer, _Raise):
            raise answer.error.with_traceback(None)  # whose frames are another greenlet's
        return answer

    def boundary(self) -> None:
        """
        Between two instructions, where the guest's kernel is in the middle of nothing: the host may run something
        else, requests are looked at, interrupts taken.
        """
        if self.kernel.sched.exploring:
            self._leave(_Step(self.kernel.sched.point))
        if self.requests or self.kernel.sched.ready or self.run_page.data[1]:
            self.exit(EXIT_REASON_EXTERNAL_INTERRUPT)
        if self.messages or self.vectors:
            self._take_interrupts()

    def _take_interrupts(self) -> None:
        program = self.program
        while self.messages and program is not None:
            program.interrupt(*self.messages.popleft())
        while self.vectors and program is not None:
            program.interrupt(0xFEE00000, self.vectors.popleft())

    def hlt(self) -> None:
        """HLT: returns after an interrupt, which was taken then, or the local timer."""
        self.exit(EXIT_REASON_HLT)
        if self.messages or self.vectors:
            self._take_interrupts()

    def mmio_read(self, gpa: int, size: int) -> int:
        """A load of *size* bytes: of memory or registers that are mapped, or an exit; each page by itself."""
        if (gpa & PAGE_SIZE - 1) + size <= PAGE_SIZE:
            return self._load(gpa, size)
        parts = (self.here._load(at, step).to_bytes(step, "little") for at, step in pieces(gpa, size, PAGE_SIZE))
        return int.from_bytes(b"".join(parts), "little")

    def _load(self, gpa: int, size: int) -> int:
        found = self._leave(_Step(lambda: self.vm.guest_load(gpa, size)))
        if found is None:
            found = self._emulate(gpa, size, write=False, value=0)
        return int(found)

    def mmio_write(self, gpa: int, size: int, value: int) -> None:
        """A store of *size* bytes; each page by itself."""
        data = value.to_bytes(size, "little")
        for at, step in pieces(gpa, size, PAGE_SIZE):
            self.here._store(at, data[at - gpa : at - gpa + step])

    def _store(self, gpa: int, data: bytes) -> None:
        if not self._leave(_Step(lambda: self.vm.guest_store(gpa, data))):
            self._emulate(gpa, len(data), write=True, value=int.from_bytes(data, "little"))

    def _emulate(self, gpa: int, size: int, *, write: bool, value: int) -> int:
        """Exits of eight bytes at most. C: ``int emulator_read_write(struct x86_emulate_ctxt *, ...)``, fragments."""
        found = 0
        for at, step in pieces(gpa, size, MMIO_BYTES):
            shift = 8 * (at - gpa)
            part = value >> shift & (1 << 8 * step) - 1
            answer = self.here.exit(EXIT_REASON_EPT_VIOLATION, gpa=at, size=step, write=write, value=part)
            found |= (answer or 0) << shift
        return found

    def movdir64b(self, gpa: int, data: bytes) -> None:
        """MOVDIR64B. Raises Trap: #GP, no multiple of 64; #UD, nothing is mapped there, and KVM does not emulate it."""
        _check_line(gpa, data)
        if not self._leave(_Step(lambda: self.vm.guest_store(gpa, bytes(data)))):
            self.exit(EXIT_REASON_EPT_VIOLATION, gpa=gpa, size=64, write=True, value=None)

    def enqcmd(self, gpa: int, cmd: bytes, supervisor: bool = False) -> bool:
        """
        ENQCMD, or with *supervisor* ENQCMDS, of a command with the guest's PASID: translated and sent; True: accepted.

        Raises:
            Trap: #GP, not at a multiple of 64; #UD, the VMM is asked to emulate it; or what the host answers a PASID
                that has no translation with.
        """
        _check_line(gpa, cmd)
        return bool(self._leave(_Step(lambda: self._enqcmd(gpa, cmd, supervisor))))

    def _enqcmd(self, gpa: int, cmd: bytes, supervisor: bool) -> Any:
        # the order: PASID translation (SDM 27.5.8), then the EPT; the manual leaves it open
        first = int.from_bytes(cmd[:4], "little")
        pasid = self.vmcs.translate_pasid(first & PASID_BITS)
        if self.kernel.trace:
            self.kernel.trace("kvm_enqcmd", vcpu=self.vcpu_id, gpa=gpa, pasid=first & PASID_BITS, host=pasid)
        if pasid < 0:
            reason = EXIT_REASON_ENQCMDS if supervisor else EXIT_REASON_ENQCMD
            return Exit(reason, pasid=first & PASID_BITS, length=ENQCMD_BYTES)
        command = (first & ~PASID_BITS | pasid).to_bytes(4, "little") + cmd[4:]
        if self.kernel.sched.exploring:
            self.kernel.sched.point()  # the instruction has its translation, and the command is not sent yet
        accepted = self.vm.guest_enqueue(gpa, command)
        if accepted is None:
            return Exit(EXIT_REASON_EPT_VIOLATION, gpa=gpa, size=64, write=True, value=None, supervisor=supervisor)
        return accepted

    def rdtsc(self) -> int:
        """RDTSC, without an exit."""
        return self.kernel.sched.clock_ns() + self.msrs.tsc_offset

    def rdmsr(self, index: int) -> int:
        """RDMSR. Raises Trap: #GP."""
        return int(self.exit(EXIT_REASON_MSR_READ, index=index))

    def wrmsr(self, index: int, value: int) -> None:
        """WRMSR. Raises Trap: #GP."""
        self.exit(EXIT_REASON_MSR_WRITE, index=index, value=value)

    def cpuid(self, leaf: int, subleaf: int = 0) -> tuple[int, int, int, int]:
        """CPUID, which always exits."""
        regs: tuple[int, int, int, int] = self.exit(EXIT_REASON_CPUID, leaf=leaf, subleaf=subleaf)
        return regs
