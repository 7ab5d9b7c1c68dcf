"""Locked memory and limits, against what the host's kernel says of the same calls, and by kernel/sys.c, mm/mlock.c."""

from __future__ import annotations

import errno
import json
import mmap
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import pykernel
from pykernel.calls.limits import MCL_CURRENT, MCL_FUTURE, MCL_ONFAULT
from pykernel.errors import Oops
from pykernel.mm.locked import account_locked_vm
from pykernel.mm.phys import PAGE_SIZE, PhysMem
from pykernel.mm.vma import MAP_LOCKED
from pykernel.syscalls import Process
from pykernel.task import (
    CAP_IPC_LOCK,
    INIT_RLIMITS,
    RLIM_INFINITY,
    RLIM_NLIMITS,
    RLIMIT_MEMLOCK,
    RLIMIT_NOFILE,
    Cred,
)

RW = mmap.PROT_READ | mmap.PROT_WRITE
PRIVATE = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
NOBODY = 65534
LIMIT = 16  # pages

# a script of calls: a name and numbers; addresses are pages of an area of 32, of which page 8 is a hole and page 9 is
# PROT_NONE. VmLck is asked after each.
SCRIPT: list[tuple[str, list[int]]] = [
    ("mlock", [0, 4]),
    ("mlock", [2, 4]),
    ("mlock", [0, 0]),
    ("mlock", [4, 12]),  # over the hole: what is below it is locked
    ("munlock", [5, 1]),
    ("munlock", [0, 12]),
    ("munlock", [10, 1]),
    ("mlock", [9, 1]),  # PROT_NONE: counted, and ENOMEM
    ("munlock", [9, 1]),
    ("mlock", [10, 16]),
    ("mlock", [10, 17]),  # what is locked already does not count twice
    ("mlock", [11, 15]),
    ("mlock", [0, 1]),
    ("mlock2", [26, 1, 0]),
    ("mlock2", [26, 1, 2]),
    ("munmap", [20, 2]),
    ("mlock2", [26, 2, 1]),
    ("mlock", [26, 1]),
    ("map", [20, 1, MAP_LOCKED]),
    ("map", [20, 2, MAP_LOCKED]),
    ("munlock", [10, 22]),
    ("munlock", [20, 1]),
    ("mlockall", [0]),
    ("mlockall", [4]),
    ("mlockall", [8]),
    ("mlockall", [2]),
    ("map", [20, 3, 0]),
    ("map", [20, 17, 0]),
    ("munlockall", []),
    ("map", [20, 2, 0]),
    ("mlock", [0, 1 << 52]),
    ("mlock", [-1, 1]),
    ("mlock", [-1, 17]),
    ("munlock", [-1, 1]),
    ("munlock", [-1, 0]),
    ("mlock", [-1, 0]),
    ("setrlimit", [0, 16]),
    ("mlock", [0, 1]),
    ("mlockall", [2]),
    ("map", [20, 1, MAP_LOCKED]),
    ("munlock", [0, 1]),
    ("setrlimit", [16, 17]),
    ("setrlimit", [17, 16]),
    ("setrlimit", [4, 16]),
    ("setrlimit", [12, 12]),
    ("setrlimit", [4, 13]),
]

HOST = """
import ctypes, json, mmap, os, resource, sys
resource.setrlimit(resource.RLIMIT_MEMLOCK, (16 * 4096, 16 * 4096))
if os.geteuid() == 0:
    os.setgroups([]), os.setgid(65534), os.setuid(65534)
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *(ctypes.c_int,) * 3, ctypes.c_long)
for name in ("mlock", "munlock", "munmap", "mprotect"):
    getattr(libc, name).argtypes = (ctypes.c_void_p, ctypes.c_size_t) + (ctypes.c_int,) * (name == "mprotect")
libc.mlock2.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_uint)
P = 4096
base = libc.mmap(None, 32 * P, 3, 0x22, -1, 0)
libc.munmap(base + 8 * P, P)
libc.mprotect(base + 9 * P, P, 0)
def size(pages): return pages * P & (1 << 64) - 1
def run(name, args):
    if name in ("mlock", "munlock", "munmap", "mlock2"):
        return getattr(libc, name)(base + args[0] * P if args[0] >= 0 else 2**64 - P, size(args[1]), *args[2:])
    if name == "map":
        return -1 if libc.mmap(base + args[0] * P, args[1] * P, 3, 0x32 | args[2], -1, 0) == 2**64 - 1 else 0
    if name == "setrlimit":
        try:
            resource.setrlimit(resource.RLIMIT_MEMLOCK, tuple(n * P for n in args))
        except (ValueError, OSError) as e:
            ctypes.set_errno(getattr(e, "errno", None) or (22 if "exceeds" in str(e) else 1))
            return -1
        return 0
    return getattr(libc, name)(*args)
def locked():
    for line in open("/proc/self/status"):
        if line.startswith("VmLck"):
            return int(line.split()[1]) // 4
answers = []
for name, args in json.load(sys.stdin):
    ctypes.set_errno(0)
    bad = run(name, args) < 0
    code = ctypes.get_errno() if bad else 0
    n = locked()
    answers.append([code, None if name in ("mlockall", "munlockall") or n > 100 else n])
print(json.dumps(answers))
"""


def on_the_host(script: list[tuple[str, list[int]]]) -> list[list[int | None]]:
    """What the host says to a process without capabilities."""
    done = subprocess.run([sys.executable, "-c", HOST], input=json.dumps(script), capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"the host does not run it: {done.stderr[-200:]}")
    answers: list[list[int | None]] = json.loads(done.stdout)
    return answers


def here(p: Process, script: list[tuple[str, list[int]]]) -> list[list[int | None]]:
    base = p.mmap(0, 32 * PAGE_SIZE, RW, PRIVATE)
    p.munmap(base + 8 * PAGE_SIZE, PAGE_SIZE)
    p.mprotect(base + 9 * PAGE_SIZE, PAGE_SIZE, 0)

    def run(name: str, args: list[int]) -> Any:
        if name in ("mlock", "munlock", "munmap", "mlock2"):
            addr = base + args[0] * PAGE_SIZE if args[0] >= 0 else 2**64 - PAGE_SIZE
            return getattr(p, name)(addr, args[1] * PAGE_SIZE & (1 << 64) - 1, *args[2:])
        if name == "map":
            return p.mmap(base + args[0] * PAGE_SIZE, args[1] * PAGE_SIZE, RW, PRIVATE | 0x10 | args[2])
        if name == "setrlimit":
            return p.setrlimit(RLIMIT_MEMLOCK, (args[0] * PAGE_SIZE, args[1] * PAGE_SIZE))
        return getattr(p, name)(*args)

    answers: list[list[int | None]] = []
    for name, args in script:
        try:
            run(name, args)
            code = 0
        except OSError as e:
            code = e.errno or -1
        assert p.task.mm is not None
        answers.append([code, None if name in ("mlockall", "munlockall") else p.task.mm.locked_vm])
    return answers


@pytest.fixture
def kernel() -> Iterator[pykernel.kernel.Kernel]:
    k = pykernel.boot("dsa")
    yield k
    assert not k.oopses
    k.shutdown()


@pytest.fixture
def nobody(kernel: pykernel.kernel.Kernel) -> Iterator[Process]:
    p = kernel.process(uid=NOBODY, gid=NOBODY)
    yield p
    p.exit()


def code(fn: Callable[..., object], *args: object) -> str:
    try:
        fn(*args)
    except OSError as e:
        return errno.errorcode[e.errno or 0]
    return "0"


def test_locking_is_as_on_the_host(nobody: Process) -> None:
    """Errnos and VmLck of a script of calls, with a limit of 16 pages and no capability."""
    nobody.setrlimit(RLIMIT_MEMLOCK, (LIMIT * PAGE_SIZE, LIMIT * PAGE_SIZE))
    host, ours = on_the_host(SCRIPT), here(nobody, SCRIPT)
    named = [f"{name}{tuple(args)}" for name, args in SCRIPT]
    want = dict(zip(enumerate(named), host, strict=True))
    got = dict(zip(enumerate(named), ours, strict=True))
    assert {k: v for k, v in got.items() if v != want[k]} == {}, want


def test_mlockall(nobody: Process) -> None:
    """All that is mapped against the limit; MCL_FUTURE: what comes; the pages are there, or not with MCL_ONFAULT."""
    p, mm = nobody, nobody.task.mm
    assert mm is not None
    addr = p.mmap(0, 4 * PAGE_SIZE, RW, PRIVATE)
    p.mlockall(MCL_CURRENT | MCL_ONFAULT)
    assert (mm.locked_vm, mm.mem.translate(addr)) == (4, None)
    p.mlockall(MCL_CURRENT)
    assert (mm.locked_vm, mm.mem.translate(addr) is None) == (4, False)
    p.setrlimit(RLIMIT_MEMLOCK, (3 * PAGE_SIZE, 8 << 20))
    assert code(p.mlockall, MCL_CURRENT) == "ENOMEM"
    p.mlockall(MCL_FUTURE)
    assert code(p.mmap, 0, PAGE_SIZE, RW, PRIVATE) == "EAGAIN"
    p.munlockall()
    assert mm.locked_vm == 0
    child = p.fork()
    child.exit()


def test_a_child_has_no_locks_but_the_limits(nobody: Process) -> None:
    """mm/mmap.c:dup_mmap(); and exec() keeps limits, too."""
    p = nobody
    addr = p.mmap(0, 4 * PAGE_SIZE, RW, PRIVATE)
    p.mlock(addr, 4 * PAGE_SIZE)
    p.setrlimit(RLIMIT_MEMLOCK, (5 * PAGE_SIZE, 6 * PAGE_SIZE))
    child = p.fork()
    assert child.task.mm is not None
    assert child.task.mm.locked_vm == 0
    p.setrlimit(RLIMIT_MEMLOCK, (1, 1))
    child.exec("again")
    assert child.getrlimit(RLIMIT_MEMLOCK) == (5 * PAGE_SIZE, 6 * PAGE_SIZE)
    child.exit()


def test_no_ram_is_eagain() -> None:
    """mm/mlock.c:__mlock_posix_error_return()."""
    from pykernel.machine import parse

    kernel = pykernel.boot(parse('memory = "16M"'))
    p = kernel.process()
    addr = p.mmap(0, 32 << 20, RW, PRIVATE)
    assert code(p.mlock, addr, 32 << 20) == "EAGAIN"
    assert code(p.store, addr, bytes(32 << 20)) == "ENOMEM"
    p.exit()
    phys = kernel.sub(PhysMem)
    assert phys.free
    assert phys.used == 0
    kernel.shutdown()


# ---- limits


def test_limits_of_a_fresh_process(kernel: pykernel.kernel.Kernel) -> None:
    """include/asm-generic/resource.h:INIT_RLIMITS; 8 MiB of locked memory."""
    p = kernel.process()
    assert p.getrlimit(RLIMIT_MEMLOCK) == (8 << 20, 8 << 20)
    assert p.getrlimit(RLIMIT_NOFILE) == (1024, 4096)
    infinite = [n for n in range(RLIM_NLIMITS) if p.getrlimit(n) == (RLIM_INFINITY, RLIM_INFINITY)]
    assert infinite == [n for n in range(RLIM_NLIMITS) if n not in INIT_RLIMITS] == [0, 1, 2, 5, 9, 10, 15]
    p.exit()


def test_errors_of_limits(kernel: pykernel.kernel.Kernel, nobody: Process) -> None:
    """In the order of do_prlimit(): EINVAL for the number and the pair, EPERM for files and for a raised hard one."""
    root = kernel.process()
    other = kernel.process(uid=1000, gid=1000)
    for p in (root, nobody):
        assert [code(p.getrlimit, n) for n in (16, -1, 15)] == ["EINVAL", "EINVAL", "0"]
        assert code(p.setrlimit, 16, (2, 1)) == "EINVAL"
        assert code(p.setrlimit, RLIMIT_NOFILE, (1 << 30, (1 << 20) + 1)) == "EINVAL"
        assert code(p.setrlimit, RLIMIT_NOFILE, (1, (1 << 20) + 1)) == "EPERM"
        assert code(p.setrlimit, RLIMIT_MEMLOCK, (2, 1)) == "EINVAL"
    assert code(nobody.setrlimit, RLIMIT_MEMLOCK, (0, (8 << 20) + 1)) == "EPERM"
    assert code(root.setrlimit, RLIMIT_MEMLOCK, (-1, -1)) == "0"
    assert root.getrlimit(RLIMIT_MEMLOCK) == (RLIM_INFINITY, RLIM_INFINITY)
    assert root.prlimit(nobody.pid, RLIMIT_MEMLOCK, (4096, 16 << 20)) == (8 << 20, 8 << 20)
    assert nobody.prlimit(0, RLIMIT_MEMLOCK) == (4096, 16 << 20)
    assert code(other.prlimit, nobody.pid, RLIMIT_MEMLOCK) == "EPERM"
    assert code(other.prlimit, 9999, 99) == "ESRCH"
    assert code(root.prlimit, other.pid, 99) == "EINVAL"
    other.exit()
    root.exit()


def test_descriptors_have_the_limit_of_files(nobody: Process) -> None:
    nobody.setrlimit(RLIMIT_NOFILE, (2, 4096))
    fds = [nobody.eventfd(), nobody.eventfd()]
    assert code(nobody.eventfd) == "EMFILE"
    nobody.setrlimit(RLIMIT_NOFILE, (3, 4096))
    fds.append(nobody.eventfd())
    for fd in fds:
        nobody.close(fd)


# ---- accounting


def test_accounting(kernel: pykernel.kernel.Kernel) -> None:
    """mm/util.c:__account_locked_vm(): up to the limit, together with mlock(); CAP_IPC_LOCK and *bypass* do not ask."""
    p = kernel.process(cred=Cred(NOBODY, NOBODY))
    mm, task = p.task.mm, p.task
    assert mm is not None
    p.setrlimit(RLIMIT_MEMLOCK, (10 * PAGE_SIZE + 5, 10 * PAGE_SIZE + 5))
    account_locked_vm(mm, 8, inc=True, task=task, bypass=False)
    assert code(lambda: account_locked_vm(mm, 3, inc=True, task=task)) == "ENOMEM"
    assert mm.locked_vm == 8
    addr = p.mmap(0, 4 * PAGE_SIZE, RW, PRIVATE)
    assert code(p.mlock, addr, 3 * PAGE_SIZE) == "ENOMEM"
    p.mlock(addr, 2 * PAGE_SIZE)
    assert mm.locked_vm == 10
    assert code(lambda: account_locked_vm(mm, 1, inc=True, task=task)) == "ENOMEM"
    account_locked_vm(mm, 1, inc=True, task=task, bypass=True)
    task.cred = Cred(NOBODY, NOBODY, frozenset(), 1 << CAP_IPC_LOCK)
    account_locked_vm(mm, 100, inc=True, task=task)
    p.munmap(addr, 4 * PAGE_SIZE)
    assert mm.locked_vm == 109
    account_locked_vm(mm, 109, inc=False, task=task)
    with pytest.raises(Oops, match="given back"):
        account_locked_vm(mm, 1, inc=False, task=task)
    p.exit()
