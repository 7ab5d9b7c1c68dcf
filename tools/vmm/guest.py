"""
The machine inside: a kernel of its own, whose memory the VMM gave it and whose code runs on virtual processors only.

``Guest`` is the program of all its processors: a processor takes one turn of the kernel's scheduler after another and
halts when there is none. Whatever the kernel asks of hardware is asked of the processor that runs at that moment.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, Protocol

from pykernel.errors import Oops
from pykernel.kernel import Kernel
from pykernel.machine import Cpu, IommuSpec, Machine
from pykernel.mm.phys import PhysMem
from pykernel.pci.core import Pci
from pykernel.pci.irq import Irqs, message_irq
from pykernel.sched import Thread
from pykernel.start import boot
from pykernel.tools.vmm.function import VfioFunction, Window
from pykernel.tools.vmm.layout import DMAR_BASE

__all__ = ["CONSOLE_IRQ", "ONLY_INSIDE", "Guest", "NoPower", "VirtualCpu"]

CONSOLE_IRQ: Final = 4  # the serial port's: by it the VMM says that somebody typed a command
IA32_TSC_DEADLINE: Final = 0x6E0
SOFT_LOCKUP: Final = 100_000  # accesses of devices in one turn: seconds of a real machine
ONLY_INSIDE: Final = "a guest's program runs on its processors: only inside vmm.run()"


class VirtualCpu(Protocol):
    """What the guest needs of a virtual processor."""

    def mmio_read(self, gpa: int, size: int) -> int:
        """A load; what has no memory slot is an exit."""
        ...

    def mmio_write(self, gpa: int, size: int, value: int) -> None:
        """A store."""

    def movdir64b(self, gpa: int, data: bytes) -> None:
        """MOVDIR64B."""

    def enqcmd(self, gpa: int, cmd: bytes, supervisor: bool = False) -> bool:
        """ENQCMD or ENQCMDS with the guest's PASID; True when accepted."""
        ...

    def wrmsr(self, index: int, value: int) -> None:
        """WRMSR."""

    def boundary(self) -> None:
        """Between two turns: the host may have something for it."""

    def hlt(self) -> None:
        """HLT: returns after an interrupt."""


class NoPower:
    """The processor of a machine that is gone: nothing answers, and nobody is reached."""

    def mmio_read(self, gpa: int, size: int) -> int:
        """All ones."""
        return (1 << 8 * size) - 1

    def mmio_write(self, gpa: int, size: int, value: int) -> None:
        """Nowhere."""

    def movdir64b(self, gpa: int, data: bytes) -> None:
        """Nowhere."""

    def enqcmd(self, gpa: int, cmd: bytes, supervisor: bool = False) -> bool:
        """Retry."""
        return False

    def wrmsr(self, index: int, value: int) -> None:
        """Nowhere."""

    def boundary(self) -> None:
        """Nothing."""

    def hlt(self) -> None:
        """At once."""


class Guest:
    """
    A virtual machine's kernel on *memory*.

    Args:
        memory: its RAM, whose physical addresses are guest-physical ones.
        functions: where on its bus the VMM put devices.
        modules: what it loads, with arguments.
        now_ns: the clock that its time stamp counter follows.

    Attributes:
        vcpu: the processor that runs; its seam sets it at each entry (:meth:`entered`).
    """

    def __init__(
        self,
        memory: PhysMem,
        *,
        functions: Iterable[str] = (),
        modules: Mapping[str, str] | None = None,
        vcpus: int = 1,
        iommu: IommuSpec | None = None,
        profile: str = "linux-6.1",
        cmdline: str = "",
        seed: int = 0,
        name: str = "guest",
        now_ns: Callable[[], int],
    ) -> None:
        machine = Machine(
            name=name,
            cpu=Cpu(count=vcpus),
            iommu=iommu or IommuSpec(intr_remap=False),
            modules=dict(modules or {}),
            memory=memory.size,
            cmdline=cmdline,
        )
        self.now = now_ns
        self.vcpu: VirtualCpu = NoPower()
        self.error: BaseException | None = None
        self._accesses = 0
        self._off = False
        self._off_by: VirtualCpu | None = None
        self._armed: dict[VirtualCpu, int] = {}  # when the local timer of a processor fires
        self._in_turn: dict[VirtualCpu, bool] = {}  # who is in the middle of a turn; whether that is a task's
        self.kernel: Kernel = boot(machine, profile, seed=seed, clock=self, phys=memory)
        self.kernel.sched.on_stuck = self._stuck
        if machine.iommu.enabled:
            self.kernel.dmar = Window(self, DMAR_BASE)
        pci = self.kernel.sub(Pci)
        for address in functions:
            pci.plug(address, VfioFunction(self, address))
        irqs = self.kernel.sub(Irqs)
        with self.kernel.ledger.held(self.kernel.ledger.kernel):
            irqs.request(irqs.legacy(CONSOLE_IRQ).irq, lambda: None, "ttyS0", self, hard=True)

    # ---- the bus, for what is on it

    def mmio_read(self, gpa: int, size: int) -> int:
        """A load by the processor that runs. Raises Oops: it does nothing else any more."""
        self._count()
        return self.vcpu.mmio_read(gpa, size)

    def mmio_write(self, gpa: int, size: int, value: int) -> None:
        """A store. Raises Oops likewise."""
        self._count()
        self.vcpu.mmio_write(gpa, size, value)

    def movdir64b(self, gpa: int, data: bytes) -> None:
        """MOVDIR64B."""
        self.vcpu.movdir64b(gpa, data)

    def _count(self) -> None:
        # kernel/watchdog.c:watchdog_timer_fn() would tell of it, after 20 seconds in which time passes
        self._accesses += 1
        if self._accesses > SOFT_LOCKUP:
            self._accesses = 0
            raise Oops(f"BUG: soft lockup: {SOFT_LOCKUP} accesses of devices, and nothing else had its turn")

    # ---- its clock

    def now_ns(self) -> int:
        """The time stamp counter, which counts nanoseconds."""
        return self.now()

    def realtime_ns(self) -> int:
        """Wall clock: 2026-01-01 at the host's boot."""
        return 1_767_225_600 * 10**9 + self.now()

    def wait(self, ns: int | None) -> None:
        """Halt; the local timer ends it after *ns* nanoseconds, an interrupt any time."""
        if ns is not None and ns <= 0:
            return
        self._accesses = 0
        vcpu, now = self.vcpu, self.now()
        armed, wanted = self._armed.get(vcpu, 0), 0 if ns is None else now + ns
        if wanted or armed > now:  # one that fired is not armed any more
            vcpu.wrmsr(IA32_TSC_DEADLINE, wanted)
            self._armed[self.vcpu] = wanted  # which may be another host's by now
        self.vcpu.hlt()

    def resched(self) -> None:
        """A system call ended."""
        self._accesses = 0
        self.vcpu.boundary()

    def _stuck(self) -> bool:
        """A wait that nothing in this kernel will end: an interrupt may."""
        self.wait(None)
        return not isinstance(self.vcpu, NoPower)

    # ---- the program of its processors

    def run(self, vcpu: VirtualCpu) -> None:
        """
        What *vcpu* does from its first entry on; it returns when the machine is off.

        After each exit :attr:`vcpu` is to be asked for: the machine may have moved, and the processor is another
        host's.
        """
        sched = self.kernel.sched
        while not self._off:
            if self._take_turn():
                self.vcpu.boundary()
            else:
                self.wait(sched.next_timer_ns())
        if self._last(self.vcpu):
            try:
                self.kernel.shutdown()
            except Exception as e:
                self.error = e

    def _last(self, vcpu: VirtualCpu) -> bool:
        """Whether *vcpu* is the one that switches the machine off: nobody is in the middle of a turn any more."""
        if self._off_by is None and not self._in_turn:
            self._off_by = vcpu
        return self._off_by is vcpu

    def _take_turn(self) -> bool:
        """
        One turn of the scheduler; False: nothing for this processor.

        Work that is no task runs to its end on one processor: while another is in the middle of a turn only tasks may
        run beside it, and beside work nothing.
        """
        sched = self.kernel.sched
        first = sched.ready[0] if sched.ready else None
        task = isinstance(first, Thread)
        if self._in_turn and not (task and all(self._in_turn.values())):
            return False
        self._in_turn[self.vcpu], self._accesses = task, 0
        try:
            return sched.turn()
        finally:
            del self._in_turn[self.vcpu]

    def interrupt(self, address: int, data: int) -> None:
        """A message arrived for the processor that runs."""
        self.kernel.sub(Irqs).raise_irq(message_irq(address, data))

    # ---- for its owner

    def spawn(self, fn: Callable[[], Any], name: str = "") -> Thread:
        """A client of this kernel; it begins when a processor finds it."""
        return self.kernel.spawn(fn, name)

    def moved(self, vcpus: Iterable[tuple[VirtualCpu, VirtualCpu]], now_ns: Callable[[], int]) -> None:
        """The machine is on another host: the first of each pair is the second now, and *now_ns* the clock."""
        self.now = now_ns
        new = dict(vcpus)
        self._armed = {new[vcpu]: when for vcpu, when in self._armed.items()}
        self._in_turn = {new[vcpu]: task for vcpu, task in self._in_turn.items()}
        self._off_by = None if self._off_by is None else new[self._off_by]

    def power_off(self) -> None:
        """Shut the kernel down, at the end of a turn."""
        self._off = True

    def crash(self) -> None:
        """The machine is gone in the middle of things: what its tasks would still clean up reaches nobody."""
        self.vcpu = NoPower()
        self._off = True
        self.kernel.barred = ""
        sched = self.kernel.sched
        for thread in list(sched.threads):
            sched.kill(thread)
        self.kernel.dead = True
