"""Who is calling: credentials and tasks (include/linux/cred.h, include/linux/sched.h)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from pykernel.uapi.linux.resource import (
    RLIM_INFINITY,
    RLIM_NLIMITS,
    RLIMIT_CORE,
    RLIMIT_MEMLOCK,
    RLIMIT_MSGQUEUE,
    RLIMIT_NICE,
    RLIMIT_NOFILE,
    RLIMIT_NPROC,
    RLIMIT_RTPRIO,
    RLIMIT_SIGPENDING,
    RLIMIT_STACK,
)

if TYPE_CHECKING:
    from pykernel.kernel import Kernel

# include/uapi/linux/capability.h
CAP_CHOWN = 0
CAP_DAC_OVERRIDE = 1
CAP_DAC_READ_SEARCH = 2
CAP_FOWNER = 3
CAP_FSETID = 4
CAP_SETGID = 6
CAP_SETUID = 7
CAP_IPC_LOCK = 14
CAP_SYS_MODULE = 16
CAP_SYS_RAWIO = 17
CAP_SYS_ADMIN = 21
CAP_SYS_RESOURCE = 24
CAP_MKNOD = 27
CAP_SYSLOG = 34
CAP_FULL_SET = (1 << 41) - 1

# include/asm-generic/resource.h:INIT_RLIMITS, kernel/fork.c:fork_init(); the others are infinite. RLIMIT_MEMLOCK is
# MLOCK_LIMIT of include/uapi/linux/resource.h since Linux 5.16, which systemd keeps
THREADS: Final = (4 << 30) // (8 * 16384) // 2  # set_max_threads() of a machine of 4 GiB
INIT_RLIMITS: Final = {
    RLIMIT_STACK: (8 << 20, RLIM_INFINITY),
    RLIMIT_CORE: (0, RLIM_INFINITY),
    RLIMIT_NPROC: (THREADS, THREADS),
    RLIMIT_NOFILE: (1024, 4096),
    RLIMIT_MEMLOCK: (8 << 20, 8 << 20),
    RLIMIT_SIGPENDING: (THREADS, THREADS),
    RLIMIT_MSGQUEUE: (819200, 819200),
    RLIMIT_NICE: (0, 0),
    RLIMIT_RTPRIO: (0, 0),
}

__all__ = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_FULL_SET",
    "CAP_IPC_LOCK",
    "CAP_MKNOD",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SYSLOG",
    "CAP_SYS_ADMIN",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_RESOURCE",
    "RLIMIT_MEMLOCK",
    "RLIMIT_NOFILE",
    "RLIM_INFINITY",
    "RLIM_NLIMITS",
    "Cred",
    "Mm",
    "Task",
]


@dataclass(frozen=True, slots=True)
class Cred:
    """``struct cred``: who a task is. Root has every capability, others none, unless said."""

    uid: int = 0
    gid: int = 0
    groups: frozenset[int] = frozenset()
    caps: int = -1

    def __post_init__(self) -> None:
        if self.caps == -1:
            object.__setattr__(self, "caps", 0 if self.uid else CAP_FULL_SET)

    def capable(self, cap: int) -> bool:
        """C: ``bool capable(int cap)``."""
        return bool(self.caps >> cap & 1)

    def in_group(self, gid: int) -> bool:
        """C: ``int in_group_p(kgid_t grp)``."""
        return gid == self.gid or gid in self.groups


class Mm:
    """
    ``struct mm_struct``: one address space; ``mem`` is its UserMemory.

    Attributes:
        locked_vm: pages that may not leave RAM: accounted by drivers, and locked with mlock().
    """

    __slots__ = ("__weakref__", "_accounted", "mem", "pinned_pages", "users")

    def __init__(self, mem: Any = None) -> None:
        self.mem = mem
        self.users = 1
        self.pinned_pages = 0
        self._accounted = 0

    @property
    def locked_vm(self) -> int:
        """C: ``mm->locked_vm``."""
        mlocked: int = getattr(self.mem, "mlocked", 0)
        return self._accounted + mlocked

    @locked_vm.setter
    def locked_vm(self, npages: int) -> None:
        self._accounted += npages - self.locked_vm


@dataclass(slots=True, eq=False)
class Task:
    """
    ``struct task_struct``: one thread of a client, or a kernel thread.

    Attributes:
        pasid_activated: IA32_PASID was loaded for it; from then on a #GP of ENQCMD is its own fault.
    """

    kernel: Kernel
    pid: int
    comm: str = "swapper"
    cred: Cred = field(default_factory=Cred)
    mm: Mm | None = None
    tgid: int = 0
    files: Any = None
    rlimits: dict[int, tuple[int, int]] = field(default_factory=dict)  # what is not as Linux begins
    cpu: int = -1  # its processor; below 0: none yet
    fpu: Any = None  # its XSAVE area; none: every component is in its initial state
    pasid_activated: bool = False

    def __post_init__(self) -> None:
        self.tgid = self.tgid or self.pid

    def rlim(self, resource: int) -> tuple[int, int]:
        """The soft and the hard limit. C: ``struct rlimit signal->rlim[resource]``."""
        return self.rlimits.get(resource) or INIT_RLIMITS.get(resource, (RLIM_INFINITY, RLIM_INFINITY))

    def rlimit(self, resource: int) -> int:
        """The soft limit. C: ``unsigned long task_rlimit(task, limit)``."""
        return self.rlim(resource)[0]
