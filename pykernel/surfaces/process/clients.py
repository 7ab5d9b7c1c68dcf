"""
The kernel's tasks for the client's threads: made when a thread first calls, forgotten when its process is gone.

A FUSE request names its caller by thread id, uid and gid, as K's own PID namespace and the client's user namespace see
them. What else a driver may ask (groups, capabilities, thread group) is read from /proc/TID/status, once a thread, and
again when the uid or gid changes.
"""

from __future__ import annotations

import os
import platform
import time
from typing import TYPE_CHECKING

from pykernel.mm.phys import PhysMem
from pykernel.mm.process import ProcessMemory
from pykernel.surfaces.host_limits import HostTask
from pykernel.surfaces.process.host import status_fields
from pykernel.task import CAP_FULL_SET, Cred, Mm, Task

if TYPE_CHECKING:
    from pykernel.kernel import Kernel
    from pykernel.surfaces.process.server import Loop

__all__ = ["ClientTask", "Clients"]


# stat, lstat, newfstatat, statx: arch/x86/entry/syscalls/syscall_64.tbl, include/uapi/asm-generic/unistd.h
STAT_CALLS = {"x86_64": frozenset({4, 6, 262, 332}), "aarch64": frozenset({79, 291})}
_TRIES, _YIELDS = 250, 50  # 0.2 s, on a host that has much to do


class ClientTask(HostTask):
    """A thread of a client. ``comm`` is read when asked for: exec and prctl change it."""

    __slots__ = ()

    @property
    def comm(self) -> str:
        """``task_struct.comm``."""
        try:
            with open(f"/proc/{self.pid}/comm", encoding="latin-1") as f:
                return f.read().rstrip("\n")
        except OSError:
            return "?"

    @comm.setter
    def comm(self, value: str) -> None:  # pyright: ignore[reportIncompatibleVariableOverride]  (the host's own)
        """The host's kernel owns the name."""


class Clients:
    """All client threads of one run. *caps0* are the capabilities that pid 1 of the clients was given by the host."""

    def __init__(self, kernel: Kernel, loop: Loop, *, caps0: int = CAP_FULL_SET, identity: bool = True) -> None:
        self.kernel = kernel
        self.loop = loop
        self.caps0 = caps0
        self.identity = identity
        self.tasks: dict[int, ClientTask] = {}
        self.threads: dict[int, list[int]] = {}
        self.mms: dict[int, Mm] = {}
        self.looks = STAT_CALLS.get(platform.machine(), frozenset())

    def get(self, tid: int, uid: int, gid: int) -> Task:
        """The task of thread *tid* with these ids; the idle task for requests of the host's kernel itself (tid 0)."""
        task = self.tasks.get(tid)
        if task is not None:
            cred = task.cred
            if cred.uid != uid or cred.gid != gid:
                task.cred = self._cred(uid, gid, status_fields(tid))
            return task
        return self._make(tid, uid, gid) if tid else self.kernel.idle_task

    def only_looks(self, tid: int) -> bool:
        """
        Thread *tid*, whose path walk waits for us, is in a call that only asks for attributes.

        It may not sleep yet: the host tells the call only then. False where the host does not tell.
        """
        for i in range(_TRIES):
            try:
                with open(f"/proc/{tid}/syscall", encoding="ascii") as f:
                    word = f.read().partition(" ")[0].strip()
            except OSError:
                return False
            if word != "running":
                return int(word) in self.looks
            if i < _YIELDS:
                os.sched_yield()
            else:
                time.sleep(0.001)
        return False

    def _make(self, tid: int, uid: int, gid: int) -> Task:
        status = status_fields(tid)
        if not status:
            return ClientTask(self.kernel, tid, cred=Cred(uid, gid))
        tgid = int(status["Tgid"])
        if tgid not in self.threads and not self._watch(tgid):
            return ClientTask(self.kernel, tid, cred=self._cred(uid, gid, status), tgid=tgid)
        task = ClientTask(self.kernel, tid, cred=self._cred(uid, gid, status), mm=self.mms[tgid], tgid=tgid)
        self.tasks[tid] = task
        self.threads[tgid].append(tid)
        return task

    def _cred(self, uid: int, gid: int, status: dict[str, str]) -> Cred:
        """
        Emulated root has every capability of the emulated machine but those that the client itself gave up.

        In a user namespace only one id is mapped, so there are no supplementary groups.
        """
        if not status:
            return Cred(uid, gid)
        caps = int(status["CapEff"], 16)
        if uid == 0:
            caps = CAP_FULL_SET & ~(self.caps0 & ~caps)
        groups = frozenset(map(int, status["Groups"].split())) if self.identity else frozenset[int]()
        return Cred(uid, gid, groups, caps)

    def _watch(self, tgid: int) -> bool:
        """Forget the process when its pidfd says that it ended."""
        try:
            pidfd = os.pidfd_open(tgid)
        except OSError:
            return False

        def gone() -> None:
            self.loop.remove(pidfd)
            os.close(pidfd)
            self._forget(tgid)

        self.loop.add(pidfd, gone, owned=True)
        self.threads[tgid] = []
        self.mms[tgid] = Mm(ProcessMemory(tgid, phys=self.kernel.sub(PhysMem)))
        return True

    def _forget(self, tgid: int) -> None:
        for tid in self.threads.pop(tgid):
            del self.tasks[tid]
        self.mms.pop(tgid).mem.exit()
