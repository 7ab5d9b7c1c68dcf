"""
What a guest's kernel has per processor, taken off and put back at VM exits and entries.

A guest's kernel is one Python object that all its virtual processors execute, and any of them may be in the middle of a
task, a system call or an interrupt when it leaves non-root mode. What such a kernel has once, because a kernel of this
project runs on one thread, is hence the processor's: who runs and which locks it holds. How many system calls are under
way is not: a task may end one on another processor than it began it on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pykernel.cpu import Cpus

if TYPE_CHECKING:
    from pykernel.kernel import Kernel

__all__ = ["GuestContext"]


class GuestContext:
    """
    One virtual processor's part of the guest kernel *kernel*; *index* is the processor's number there.

    Attributes:
        pasid: IA32_PASID, which the guest reads and writes without an exit.
    """

    def __init__(self, kernel: Kernel, index: int, nonroot: Any) -> None:
        self.kernel, self.nonroot = kernel, nonroot
        self.cpus = kernel.sub(Cpus)
        self.cpu = self.cpus[index % len(self.cpus)]
        self._mine: tuple[Any, ...] = (None, [], (kernel.idle_task, None), 0, None)
        self._others: tuple[Any, ...] = ()

    def _swap(self, new: tuple[Any, ...]) -> tuple[Any, ...]:
        sched, cpus = self.kernel.sched, self.cpus
        old = (sched.thread, sched._atomic, sched.get_context(), sched._running, cpus._running)
        sched.thread, sched._atomic, context, sched._running, cpus._running = new
        sched.set_context(context)
        return old

    def enter(self, pasid: int) -> None:
        """VM entry: what runs from now on is this processor."""
        self.cpu.msrs.pasid = pasid
        self._others = self._swap((*self._mine[:4], self.cpu))
        self._nonroot, self.cpus.nonroot = self.cpus.nonroot, self.nonroot
        self._barred, self.kernel.barred = self.kernel.barred, ""

    def leave(self) -> int:
        """VM exit: who ran before does; IA32_PASID as the guest left it."""
        self.cpus.nonroot, self.kernel.barred = self._nonroot, self._barred
        self._mine = self._swap(self._others)
        return self.cpu.msrs.pasid
