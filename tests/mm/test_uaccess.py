"""copy_from_user() and copy_to_user() in the name of a task, by lib/usercopy.c, and access_ok()."""

from dataclasses import dataclass, field
from errno import EFAULT
from typing import Any, cast

import pytest

from pykernel.lib.fault_inject import FaultInjector
from pykernel.mm.sim import SimMemory
from pykernel.mm.uaccess import TASK_SIZE_MAX, access_ok, copy_from_user, copy_to_user
from pykernel.sched import Scheduler

EFAULTS = rf"\[Errno {EFAULT}\]"


@dataclass
class Mm:
    mem: SimMemory


@dataclass
class Task:
    mm: Mm | None


@dataclass
class Kernel:
    """What the copies use of a kernel."""

    current: Task
    faults: FaultInjector = field(default_factory=FaultInjector)
    sched: Scheduler = field(default_factory=Scheduler)


def kernel(mem: SimMemory | None) -> Any:
    return cast("Any", Kernel(Task(None if mem is None else Mm(mem))))


# include/asm-generic/access_ok.h with TASK_SIZE_MAX of x86-64: (address, length, may be accessed)
ACCESS = [
    (0, 0, True),
    (0, TASK_SIZE_MAX, True),
    (0, TASK_SIZE_MAX + 1, False),
    (TASK_SIZE_MAX - 1, 1, True),
    (TASK_SIZE_MAX - 1, 2, False),
    (TASK_SIZE_MAX, 0, True),
    (TASK_SIZE_MAX + 1, 0, False),
    ((1 << 64) - 1, 2, False),
    (-1, 1, False),
]


@pytest.mark.parametrize(("addr", "n", "ok"), ACCESS)
def test_access_ok(addr: int, n: int, ok: bool) -> None:
    assert access_ok(addr, n) is ok


def test_task_size() -> None:
    """The last page of the lower half is a guard."""
    assert TASK_SIZE_MAX == 0x7FFF_FFFF_F000


def test_copies_use_the_running_tasks_memory() -> None:
    mem = SimMemory()
    addr = mem.alloc(16)
    k = kernel(mem)
    copy_to_user(k, addr, b"hello")
    assert copy_from_user(k, addr, 6) == b"hello\0"
    for bad in (0, 1 << 63):
        with pytest.raises(OSError, match=EFAULTS):
            copy_from_user(k, bad, 1)
        with pytest.raises(OSError, match=EFAULTS):
            copy_to_user(k, bad, b"x")


def test_length_zero_needs_no_memory() -> None:
    k = kernel(None)
    assert copy_from_user(k, 1 << 63, 0) == b""
    copy_to_user(k, 0, b"")


def test_kernel_threads_have_no_user_memory() -> None:
    with pytest.raises(OSError, match=EFAULTS):
        copy_from_user(kernel(None), 0x1000, 1)


def test_injected_faults() -> None:
    """A test can fail the n-th copy; nothing is copied then."""
    mem = SimMemory()
    addr = mem.alloc(16)
    k = kernel(mem)
    k.faults.fail("copy", "copy_to_user", nth=2)
    copy_to_user(k, addr, b"first")
    with pytest.raises(OSError, match=EFAULTS):
        copy_to_user(k, addr, b"second")
    assert copy_from_user(k, addr, 5) == b"first"
    k.faults.fail("copy", "copy_from_user")
    with pytest.raises(OSError, match=EFAULTS):
        copy_from_user(k, addr, 5)
