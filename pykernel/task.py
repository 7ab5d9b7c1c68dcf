"""Who is calling: credentials and tasks (include/linux/cred.h, include/linux/sched.h)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

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
    """``struct mm_struct``: one address space; ``mem`` is its UserMemory."""

    __slots__ = ("__weakref__", "mem", "pinned_pages", "users")

    def __init__(self, mem: Any = None) -> None:
        self.mem = mem
        self.users = 1
        self.pinned_pages = 0


@dataclass(slots=True, eq=False)
class Task:
    """``struct task_struct``: one thread of a client, or a kernel thread."""

    kernel: Kernel
    pid: int
    comm: str = "swapper"
    cred: Cred = field(default_factory=Cred)
    mm: Mm | None = None
    tgid: int = 0
    files: Any = None

    def __post_init__(self) -> None:
        self.tgid = self.tgid or self.pid
