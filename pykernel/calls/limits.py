"""What a process may take, and memory that stays in RAM (kernel/sys.c, mm/mlock.c)."""

from __future__ import annotations

from errno import EAGAIN, EFAULT, EINVAL, ENOMEM, EPERM
from operator import index
from typing import TYPE_CHECKING

from pykernel.calls.entry import Caller, syscall
from pykernel.errors import err
from pykernel.mm.phys import PAGE_SIZE
from pykernel.mm.uaccess import TASK_SIZE_MAX
from pykernel.mm.vma import VM_LOCKED, VM_LOCKONFAULT, page_align
from pykernel.task import (
    CAP_IPC_LOCK,
    CAP_SYS_RESOURCE,
    RLIM_NLIMITS,
    RLIMIT_MEMLOCK,
    RLIMIT_NOFILE,
    Task,
)

if TYPE_CHECKING:
    from pykernel.mm.sim import SimMemory

__all__ = ["Limits", "can_do_mlock", "check_locked", "do_prlimit"]

_ULONG = (1 << 64) - 1
SYSCTL_NR_OPEN = 1024 * 1024  # fs/file.c
# include/uapi/asm-generic/mman.h, mman-common.h
MCL_CURRENT, MCL_FUTURE, MCL_ONFAULT = 1, 2, 4
MLOCK_ONFAULT = 1


def do_prlimit(task: Task, caller: Task, resource: int, new: tuple[int, int] | None) -> tuple[int, int]:
    """The limit as it was; *new* sets it. Raises EINVAL, EPERM. kernel/sys.c:do_prlimit()"""
    resource = index(resource)
    if not 0 <= resource < RLIM_NLIMITS:
        raise err(EINVAL, f"resource {resource}")
    old = task.rlim(resource)
    if new is None:
        return old
    soft, hard = (index(n) & _ULONG for n in new)
    if soft > hard:
        raise err(EINVAL, f"the soft limit {soft} is above the hard one, {hard}")
    if resource == RLIMIT_NOFILE and hard > SYSCTL_NR_OPEN:
        raise err(EPERM, f"more than {SYSCTL_NR_OPEN} files")
    if hard > old[1] and not caller.cred.capable(CAP_SYS_RESOURCE):
        raise err(EPERM, "the hard limit is raised with CAP_SYS_RESOURCE only")
    task.rlimits[resource] = (soft, hard)
    return old


def check_locked(task: Task, npages: int) -> None:
    """Whether *npages* more pages may be locked for an mmap(). Raises EAGAIN. mm/mmap.c:mlock_future_check()"""
    assert task.mm is not None
    limit = task.rlimit(RLIMIT_MEMLOCK) // PAGE_SIZE
    if task.mm.locked_vm + npages > limit and not task.cred.capable(CAP_IPC_LOCK):
        raise err(EAGAIN, f"{task.mm.locked_vm + npages} locked pages, RLIMIT_MEMLOCK is {limit}")


def can_do_mlock(task: Task) -> None:
    """Whether *task* may lock memory at all. Raises EPERM. mm/mlock.c:can_do_mlock()"""
    if not task.rlimit(RLIMIT_MEMLOCK) and not task.cred.capable(CAP_IPC_LOCK):
        raise err(EPERM, "RLIMIT_MEMLOCK is 0")


class Limits(Caller):
    """Resource limits and locked memory: part of ``Process``. Limits are pairs, soft and hard; ``RLIM_INFINITY``."""

    @syscall
    def getrlimit(self, resource: int) -> tuple[int, int]:
        """C: ``int getrlimit(int, struct rlimit *)``. Raises EINVAL."""
        return do_prlimit(self.task, self.task, resource, None)

    @syscall
    def setrlimit(self, resource: int, limits: tuple[int, int]) -> None:
        """C: ``int setrlimit(int, const struct rlimit *)``. Raises EINVAL, EPERM."""
        do_prlimit(self.task, self.task, resource, limits)
        self.fds.limit = self.task.rlimit(RLIMIT_NOFILE)

    # ---- locked memory

    @syscall
    def mlock(self, addr: int, length: int) -> None:
        """C: ``int mlock(const void *, size_t)``. Raises ENOMEM: a hole, the limit; EPERM; EAGAIN: no RAM; EINVAL."""
        self._mlock(addr, length, VM_LOCKED)

    @syscall
    def mlock2(self, addr: int, length: int, flags: int) -> None:
        """C: ``int mlock2(const void *, size_t, unsigned)``: MLOCK_ONFAULT. Raises as mlock()."""
        if flags & ~MLOCK_ONFAULT:
            raise err(EINVAL, f"flags {flags:#x}")
        self._mlock(addr, length, VM_LOCKED | (VM_LOCKONFAULT if flags else 0))

    def _mlock(self, addr: int, length: int, flags: int) -> None:
        # mm/mlock.c:do_mlock()
        task, mem = self.task, self._simulated()
        assert task.mm is not None
        can_do_mlock(task)
        start, size = _pages(addr, length)
        limit = task.rlimit(RLIMIT_MEMLOCK) // PAGE_SIZE
        more = size // PAGE_SIZE + task.mm.locked_vm
        if more > limit and not task.cred.capable(CAP_IPC_LOCK):
            more -= mem.locked_between(start, start + size)
            if more > limit:
                raise err(ENOMEM, f"{more} locked pages, RLIMIT_MEMLOCK is {limit}")
        mem.lock(start, start + size, flags)
        try:
            mem.populate_locked(start, start + size)
        except OSError as e:
            raise err({EFAULT: ENOMEM, ENOMEM: EAGAIN}.get(e.errno or 0, e.errno or 0), str(e)) from e

    @syscall
    def munlock(self, addr: int, length: int) -> None:
        """C: ``int munlock(const void *, size_t)``. Raises ENOMEM: a hole; EINVAL."""
        start, size = _pages(addr, length)
        self._simulated().lock(start, start + size, 0)

    @syscall
    def mlockall(self, flags: int) -> None:
        """C: ``int mlockall(int)``: MCL_CURRENT, MCL_FUTURE, MCL_ONFAULT. Raises EINVAL, EPERM; ENOMEM: the limit."""
        task, mem = self.task, self._simulated()
        if not flags or flags & ~(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT) or flags == MCL_ONFAULT:
            raise err(EINVAL, f"flags {flags:#x}")
        can_do_mlock(task)
        total = sum(v.vm_end - v.vm_start for v in mem.vmas)
        if flags & MCL_CURRENT and total > task.rlimit(RLIMIT_MEMLOCK) and not task.cred.capable(CAP_IPC_LOCK):
            raise err(ENOMEM, f"{total} bytes are mapped, RLIMIT_MEMLOCK is {task.rlimit(RLIMIT_MEMLOCK)}")
        locked = VM_LOCKED | (VM_LOCKONFAULT if flags & MCL_ONFAULT else 0)
        mem.lock_future = locked if flags & MCL_FUTURE else 0
        if flags & MCL_CURRENT:
            mem.lock_all(locked)
            mem.populate_locked(0, TASK_SIZE_MAX, ignore_errors=True)

    @syscall
    def munlockall(self) -> None:
        """C: ``int munlockall(void)``."""
        mem = self._simulated()
        mem.lock_future = 0
        mem.lock_all(0)

    def _simulated(self) -> SimMemory:
        """The pages of a real process are the host's to lock."""
        mem: SimMemory = getattr(self.mem, "areas", self.mem)
        return mem


def _pages(addr: int, length: int) -> tuple[int, int]:
    """The page of *addr*, and the size of all pages in bytes."""
    start = addr & -PAGE_SIZE
    size = page_align(length + addr - start) & _ULONG
    return start, size
