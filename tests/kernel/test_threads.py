"""Threads of a process: what they share and who ends when (kernel/fork.c, kernel/exit.c, fs/exec.c)."""

from __future__ import annotations

import os
from errno import EBADF, ESRCH

import pytest

import pykernel
from pykernel.machine import parse
from pykernel.syscalls import Pids

RW, PRIVATE = 3, 0x22


@pytest.fixture
def proc():
    kernel = pykernel.boot(parse(""))
    proc = kernel.process()
    yield proc
    proc.exit()
    assert not kernel.oopses
    kernel.shutdown()


def errno_of(fn, *args):
    with pytest.raises(OSError, match="Errno") as e:
        fn(*args)
    return e.value.errno


def test_they_share_memory_descriptors_and_directory(proc):
    """CLONE_VM, CLONE_FILES, CLONE_FS, CLONE_THREAD: one getpid(), two gettid()s."""
    thread = proc.thread()
    assert (thread.pid, thread.tid != proc.tid, proc.tid) == (proc.pid, True, proc.pid)
    at = thread.mmap(0, 4096, RW, PRIVATE)
    proc.store(at, b"seen")
    assert thread.load(at, 4) == b"seen"
    fd = thread.open("/dev/null")
    proc.close(fd)
    assert errno_of(thread.close, fd) == EBADF
    proc.mkdir("/tmp/d")
    thread.chdir("/tmp/d")
    assert proc.getcwd() == "/tmp/d"
    proc.chdir("/")
    proc.rmdir("/tmp/d")


def test_a_thread_ends_alone_and_a_process_with_all(proc):
    """What is shared stays until the last; system calls of who ended are ESRCH."""
    one, two = proc.thread(), proc.thread()
    fd, at = proc.open("/dev/null", os.O_RDWR), proc.mmap(0, 4096, RW, PRIVATE)
    one.exit()
    assert errno_of(one.load, at, 1) == ESRCH
    assert (two.load(at, 1), two.write(fd, b"x")) == (b"\0", 1)
    assert proc.group == [proc, two]
    proc.exit(3)
    assert [t.exited for t in (proc, one, two)] == [3, 0, 3]
    assert not proc.fds.files
    assert not proc.kernel.sub(Pids).processes


def test_fork_of_a_thread_is_a_process_of_one(proc):
    child = proc.thread().fork()
    assert (child.pid, child.group, child.tid) == (child.tid, [child], child.pid)
    assert child.pid not in {t.tid for t in proc.group}
    child.exit()
    assert proc.exited is None


def test_exec_leaves_one_thread_which_is_the_process(proc):
    """fs/exec.c:de_thread(): the others end, the caller takes the process's id, and a new address space."""
    thread, other = proc.thread(), proc.thread()
    old = thread.task.mm
    thread.exec("new")
    assert (thread.tid, thread.pid, thread.group, thread.task.comm) == (proc.pid, proc.pid, [thread], "new")
    assert (proc.exited, other.exited, old.users) == (0, 0, 0)
    assert thread.task.mm is not old
    assert thread.kernel.sub(Pids).processes == {thread.tid: thread}
    thread.exit()


def test_what_a_process_forgot_is_told_once():
    """A leak report names a process's descriptors, not each thread's view of them."""
    kernel = pykernel.boot(parse(""))
    proc = kernel.process()
    proc.thread()
    proc.open("/dev/null")
    assert len([line for line in kernel.leaks() if "descriptor" in line]) == 1
    proc.exit()
    kernel.shutdown()
