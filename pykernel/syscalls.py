"""
THE DOOR: one table of system calls. Every surface comes through here; what one can do, all can.

:class:`Process` has a method a call, with Linux's name; the :data:`SYSCALLS` table says which there are and how far
they go.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from errno import EINVAL, EPERM, ESRCH
from operator import index
from typing import TYPE_CHECKING, Any

from pykernel.calls.anonymous import Anonymous
from pykernel.calls.descriptors import Descriptors
from pykernel.calls.entry import At, NameArg, PathArg, PathFile, do_open, do_poll, stat_of, syscall
from pykernel.calls.limits import Limits, do_prlimit
from pykernel.calls.memory import Memory
from pykernel.calls.names import Names
from pykernel.cpu import Cpus
from pykernel.errors import err
from pykernel.fs import namei
from pykernel.fs.anon import SocketEnd
from pykernel.fs.fdtable import FdTable
from pykernel.fs.vfs import File, Inode
from pykernel.mm.phys import PhysMem
from pykernel.mm.sim import SimMemory
from pykernel.task import CAP_SETGID, CAP_SETUID, CAP_SYS_RESOURCE, RLIMIT_NOFILE, Cred, Mm, Task

if TYPE_CHECKING:
    from pykernel.kernel import Kernel

__all__ = ["SYSCALLS", "At", "PathArg", "PathFile", "Process", "Syscall", "do_open", "do_poll", "stat_of"]


@dataclass(frozen=True, slots=True)
class Syscall:
    """One row: the call, the method that does it, and what is not as in Linux."""

    name: str
    method: str
    note: str = ""


SYSCALLS: tuple[Syscall, ...] = (
    Syscall("read", "read"),
    Syscall("write", "write"),
    Syscall("open", "open"),
    Syscall("close", "close"),
    Syscall("stat", "stat"),
    Syscall("fstat", "fstat"),
    Syscall("lstat", "lstat"),
    Syscall("poll", "poll"),
    Syscall("lseek", "lseek"),
    Syscall("mmap", "mmap"),
    Syscall("mprotect", "mprotect"),
    Syscall("munmap", "munmap"),
    Syscall("ioctl", "ioctl"),
    Syscall("pread64", "pread"),
    Syscall("pwrite64", "pwrite"),
    Syscall("readv", "readv"),
    Syscall("writev", "writev"),
    Syscall("access", "access"),
    Syscall("pipe2", "pipe"),
    Syscall("dup", "dup"),
    Syscall("dup3", "dup2"),
    Syscall("socketpair", "socketpair", "AF_UNIX streams only"),
    Syscall("sendmsg", "sendmsg", "data and SCM_RIGHTS"),
    Syscall("recvmsg", "recvmsg", "data and SCM_RIGHTS; of the flags MSG_CMSG_CLOEXEC"),
    Syscall("fork", "fork"),
    Syscall("clone", "thread", "as pthread_create() calls it: memory, descriptors and working directory are shared"),
    Syscall("execve", "exec", "ends threads, closes close-on-exec descriptors, new address space; nothing is run"),
    Syscall("exit_group", "exit", "of what thread() gave: the call exit, which ends that thread only"),
    Syscall("fcntl", "fcntl", "F_DUPFD, F_DUPFD_CLOEXEC, F_[GS]ETFD, F_[GS]ETFL, F_[GS]ETPIPE_SZ"),
    Syscall("truncate", "truncate"),
    Syscall("ftruncate", "ftruncate"),
    Syscall("getdents64", "listdir"),
    Syscall("getcwd", "getcwd"),
    Syscall("chdir", "chdir"),
    Syscall("rename", "rename"),
    Syscall("mkdir", "mkdir"),
    Syscall("rmdir", "rmdir"),
    Syscall("link", "link"),
    Syscall("unlink", "unlink"),
    Syscall("symlink", "symlink"),
    Syscall("readlink", "readlink"),
    Syscall("chmod", "chmod"),
    Syscall("fchmod", "fchmod"),
    Syscall("chown", "chown"),
    Syscall("utimensat", "utime"),
    Syscall("mknod", "mknod"),
    Syscall("statfs", "statfs"),
    Syscall("setxattr", "setxattr"),
    Syscall("getxattr", "getxattr"),
    Syscall("listxattr", "listxattr"),
    Syscall("removexattr", "removexattr"),
    Syscall("setuid", "setuid", "sets all three ids"),
    Syscall("setgid", "setgid", "sets all three ids"),
    Syscall("fsync", "fsync"),
    Syscall("fallocate", "fallocate"),
    Syscall("eventfd2", "eventfd"),
    Syscall("epoll_create1", "epoll_create"),
    Syscall("epoll_ctl", "epoll_ctl"),
    Syscall("epoll_wait", "epoll_wait"),
    Syscall("sendfile", "sendfile"),
    Syscall("getrlimit", "getrlimit"),
    Syscall("setrlimit", "setrlimit", "of the limits only RLIMIT_MEMLOCK and RLIMIT_NOFILE matter to other calls"),
    Syscall("prlimit64", "prlimit"),
    Syscall("mlock", "mlock", "simulated memory; a real process's own is the host's to lock"),
    Syscall("mlock2", "mlock2"),
    Syscall("munlock", "munlock"),
    Syscall("mlockall", "mlockall"),
    Syscall("munlockall", "munlockall"),
)


class Process(Descriptors, Memory, Limits, Names, Anonymous):
    """
    A client on the direct surface. Descriptors, addresses and errnos are as a C program sees them.

    Attributes:
        group: the threads of the process that have not ended, in the order in which they began.
    """

    def __init__(self, kernel: Kernel, task: Task, fds: FdTable, cwd: Inode) -> None:
        super().__init__(kernel, task, fds, cwd)
        self.group: list[Process] = [self]

    @classmethod
    def create(cls, kernel: Kernel, cred: Cred, comm: str, mem: Any = None) -> Process:
        """A process with an address space of its own (*mem*, else simulated pages) and no descriptors."""
        pids = kernel.sub(Pids)
        if mem is not None and not hasattr(mem, "phys"):
            mem.phys = kernel.sub(PhysMem)
        task = Task(kernel, pids.alloc(), comm, cred, Mm(_memory(kernel) if mem is None else mem))
        return pids.add(cls(kernel, task, FdTable(), kernel.root))

    # ---- processes

    @syscall
    def fork(self) -> Process:
        """C: ``pid_t fork(void)``: the child. Memory is copied, descriptors are shared files."""
        pids = self.kernel.sub(Pids)
        mem = self.mem.fork() if hasattr(self.mem, "fork") else self.mem
        task = Task(self.kernel, pids.alloc(), self.task.comm, self.task.cred, Mm(mem))
        task.rlimits = dict(self.task.rlimits)
        child = Process(self.kernel, task, self.fds.fork(), self.cwd)
        child.umask = self.umask
        return pids.add(child)

    @syscall
    def thread(self) -> Process:
        """
        C: ``pthread_create()``, ``clone(CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_THREAD ...)``: the new thread.

        What it calls is done in its own name; its registers begin in their initial state, IA32_PASID too.
        """
        pids, mine = self.kernel.sub(Pids), self.task
        assert mine.mm is not None
        mine.mm.users += 1
        task = Task(self.kernel, pids.alloc(), mine.comm, mine.cred, mine.mm, mine.tgid, rlimits=mine.rlimits)
        made = Process(self.kernel, task, self.fds, self.cwd)
        made._fs, made.group = self._fs, self.group
        self.group.append(made)
        return pids.add(made)

    @syscall
    def exec(self, comm: str | None = None) -> None:
        """C: ``int execve(...)`` as the kernel sees it: one thread, a new address space, close-on-exec."""
        self._de_thread()
        old, self.task.mm = self.task.mm, Mm(_memory(self.kernel))
        self.task.comm = comm or self.task.comm
        self.kernel.sub(Cpus).flush_thread(self.task)
        _mmput(old)
        self.fds.exec()

    def _de_thread(self) -> None:
        """The other threads end, and this one is the process. C: ``int de_thread(struct task_struct *)``."""
        for other in [t for t in self.group if t is not self]:
            other._end(0)
        pids = self.kernel.sub(Pids)
        pids.remove(self)
        self.task.pid = self.task.tgid
        pids.add(self)

    def exit(self, code: int = 0) -> None:
        """
        C: ``void exit_group(int)``: threads end, mappings, then descriptors are given back.

        What :meth:`thread` gave ends alone, as pthread_exit() does it; the last of a process takes the process along.
        A second time does nothing.
        """
        if self.exited is None:
            self._exit(code)

    @syscall
    def _exit(self, code: int) -> None:
        status = index(code)
        for thread in list(self.group) if self.tid == self.pid else [self]:
            thread._end(status)

    def _end(self, code: int) -> None:
        # kernel/exit.c:do_exit()
        self.exited = code
        self.kernel.sub(Cpus).flush_thread(self.task)
        _mmput(self.task.mm)
        self.group.remove(self)
        if not self.group:
            self.fds.exit()
        self.kernel.sub(Pids).remove(self)

    @syscall
    def setuid(self, uid: int) -> None:
        """C: ``int setuid(uid_t)``, of 32 bits. Raises EPERM; EINVAL: -1."""
        cred, uid = self.task.cred, valid_id(uid)
        if uid != cred.uid and not cred.capable(CAP_SETUID):
            raise err(EPERM)
        self.task.cred = Cred(uid, cred.gid, cred.groups, 0 if uid and not cred.uid else cred.caps)

    @syscall
    def setgid(self, gid: int) -> None:
        """C: ``int setgid(gid_t)``, of 32 bits. Raises EPERM; EINVAL: -1."""
        cred, gid = self.task.cred, valid_id(gid)
        if gid != cred.gid and not cred.capable(CAP_SETGID):
            raise err(EPERM)
        self.task.cred = Cred(cred.uid, gid, cred.groups, cred.caps)

    @syscall
    def prlimit(self, pid: int, resource: int, limits: tuple[int, int] | None = None) -> tuple[int, int]:
        """C: ``int prlimit(pid_t, int, const struct rlimit *, struct rlimit *)``. Raises ESRCH, EPERM, EINVAL."""
        target = self.kernel.sub(Pids).processes.get(pid) if pid else self
        if target is None:
            raise err(ESRCH, f"no process {pid}")
        mine, its = self.task.cred, target.task.cred
        if target is not self and (mine.uid, mine.gid) != (its.uid, its.gid) and not mine.capable(CAP_SYS_RESOURCE):
            raise err(EPERM, f"process {pid} is another user's")
        old = do_prlimit(target.task, self.task, resource, limits)
        target.fds.limit = target.task.rlimit(RLIMIT_NOFILE)
        return old

    # ---- convenience

    def read_text(self, path: NameArg) -> str:
        """open, read to the end, close; latin-1."""
        fd = self.open(path)
        try:
            out = b""
            while data := self.read(fd, 65536):
                out += data
            return out.decode("latin-1")
        finally:
            self.close(fd)

    def write_text(self, path: NameArg, text: str) -> int:
        """open O_WRONLY, one write, close; latin-1."""
        fd = self.open(path, os.O_WRONLY)
        try:
            return self.write(fd, text.encode("latin-1"))
        finally:
            self.close(fd)

    def __repr__(self) -> str:
        return f"<Process {self.task.comm} pid={self.pid} uid={self.task.cred.uid} fds={sorted(self.fds.files)}>"


def _mmput(mm: Mm | None) -> None:
    """C: ``void mmput(struct mm_struct *)``: with the last user its areas go."""
    if mm is None:
        return
    mm.users -= 1
    if not mm.users and hasattr(mm.mem, "exit"):
        mm.mem.exit()


def _memory(kernel: Kernel) -> SimMemory:
    return SimMemory(kernel.sub(PhysMem))


def valid_id(n: int) -> int:
    """A uid or gid. C: ``bool uid_valid(kuid_t)``. Raises EINVAL: -1."""
    n &= 0xFFFFFFFF
    if n == 0xFFFFFFFF:
        raise err(EINVAL)
    return n


class Pids:
    """The processes of one kernel."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.last = 0
        self.processes: dict[int, Process] = {}
        kernel.at_exit(self._exit)
        kernel.check_leaks(self._leaks)

    def alloc(self) -> int:
        """C: ``struct pid *alloc_pid(...)``. Raises RuntimeError after shutdown."""
        self.kernel.check_alive()
        self.last += 1
        while self.last in self.processes:
            self.last += 1
        return self.last

    def add(self, process: Process) -> Process:
        """A process starts."""
        self.processes[process.tid] = process
        return process

    def remove(self, process: Process) -> None:
        """A process ended."""
        self.processes.pop(process.tid, None)

    def _exit(self) -> None:
        for process in list(self.processes.values()):
            process.exit()

    def of_mm(self, mm: Mm) -> str:
        """Whose address space *mm* is, for messages."""
        return next((_who(p) for p in self.processes.values() if p.task.mm is mm), "a process that ended")

    def _leaks(self) -> list[str]:
        firsts = [p for p in self.processes.values() if p.group[0] is p]
        return [line for p in firsts for line in (*_open_files(p), *_mappings(p))]


def _who(p: Process) -> str:
    return f"{p.task.comm} (pid {p.pid})"


def _describe(kernel: Kernel, inode: Inode) -> str:
    return inode.describe() or namei.d_path(kernel, inode)


def _what(file: File) -> str:
    return file.describe() or _describe(file.inode.kernel, file.inode)


def _open_files(p: Process) -> list[str]:
    kernel = p.kernel
    lines = [f"descriptor {fd} of {_who(p)}: {_what(f)}{kernel.origin(f)}" for fd, f in p.fds.files.items()]
    return lines + [
        f"file in a message to {_describe(kernel, sock.inode)} of {_who(p)}: {_what(f)}{kernel.origin(f)}"
        for f, sock in _in_flight(p)
    ]


def _in_flight(p: Process) -> list[tuple[File, SocketEnd]]:
    """The files in messages (SCM_RIGHTS) that nobody received, and the socket that they wait for."""
    seen: set[int] = set()
    found: list[tuple[File, SocketEnd]] = []
    todo = [f for f in p.fds.files.values() if isinstance(f, SocketEnd)]
    while todo:
        sock = todo.pop()
        if id(sock) in seen:
            continue
        seen.add(id(sock))
        files = [f for _, files in sock.inbox for f in files]
        found += [(f, sock) for f in files]
        todo += [f for f in files if isinstance(f, SocketEnd)]
    return found


def _mappings(p: Process) -> list[str]:
    areas = getattr(p.mem, "vmas", ()) if p.task.mm is not None else ()
    return [
        f"mapping {v.vm_start:#x}-{v.vm_end:#x} of {_who(p)}: "
        f"{'anonymous' if v.vm_file is None else _what(v.vm_file)}{v.origin}"
        for v in areas
        if v.vm_file is not None or v.origin
    ]
