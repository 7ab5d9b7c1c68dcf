"""Class Kernel: life, who runs, threads, oopses, leaks, and the door's wrapper."""

from __future__ import annotations

import os
import threading
from typing import Any

import pytest

import pykernel
from pykernel.errors import ERESTARTSYS, Oops, err
from pykernel.fs.chardev import MKDEV, Chrdevs
from pykernel.fs.vfs import File
from pykernel.iommu.sva import iommu_sva_bind_device, iommu_sva_unbind_device
from pykernel.kernel import Kernel, Leak
from pykernel.pci.core import Pci
from pykernel.syscalls import Process
from pykernel.task import CAP_SYS_ADMIN, Cred


@pytest.fixture
def kernel():
    k = pykernel.boot("dsa")
    yield k
    for dev in range(MKDEV(400, 0), MKDEV(400, 9)):
        k.sub(Chrdevs).delete(dev)  # what bad_device() made
    k.shutdown()


def boom() -> None:
    raise ZeroDivisionError


def pci_device(k: Kernel) -> Any:
    return k.sub(Pci).bus.devices["0000:6a:01.0"]


def mm_of(p: Process) -> Any:
    return p.task.mm


class Sub:
    """A subsystem."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel


def test_a_subsystem_is_made_once_a_kernel(kernel):
    other = pykernel.boot("dsa")
    assert kernel.sub(Sub) is kernel.sub(Sub)
    assert kernel.sub(Sub) is not other.sub(Sub)
    assert kernel.sub(Sub).kernel is kernel
    other.shutdown()


def test_devices_come_at_the_first_look(kernel):
    p = kernel.process()
    assert p.listdir("/") == ["sys", "dev", "proc", "tmp"]
    assert not kernel.is_up
    assert "dsa0" in p.listdir("/sys/bus/dsa/devices")
    assert kernel.is_up
    kernel.up()
    p.exit()


def test_who_runs_is_given_back_after_an_error(kernel):
    p = kernel.process(comm="it")
    with pytest.raises(FileNotFoundError):
        p.open("/none")
    assert kernel.current is kernel.idle_task
    with pytest.raises(KeyError, match="it"), kernel.as_task(p.task):
        raise KeyError(kernel.current.comm)
    assert kernel.current is kernel.idle_task
    p.exit()


def bad_device(kernel, minor, **methods):
    """A character device whose file has these methods, as /tmp/bad<minor>."""
    cls = type("Bad", (File,), methods)
    dev = MKDEV(400, minor)
    kernel.sub(Chrdevs).add(dev, lambda inode, flags: cls(inode, flags))
    root = kernel.process()
    root.mknod(f"/tmp/bad{minor}", 0o020666, os.makedev(400, minor))
    root.exit()
    return f"/tmp/bad{minor}"


@pytest.mark.parametrize("bug", [KeyError("k"), TypeError("t"), ValueError("v"), Oops("BUG"), RecursionError("deep")])
def test_a_drivers_exception_is_eio_and_its_stack_is_in_dmesg(kernel, bug):
    """An exception that is no errno is an oops, also those that a caller's wrong argument could raise."""

    def ioctl(self, cmd, arg):
        raise bug

    path = bad_device(kernel, 1, ioctl=ioctl)
    p = kernel.process()
    fd = p.open(path)
    events = kernel.trace.record()
    with pytest.raises(OSError, match="Input/output error"):
        p.ioctl(fd, 1)
    assert kernel.oopses == [bug]
    text = kernel.log.human()
    assert f"BUG: {type(bug).__name__}" in text
    assert "in ioctl" in text
    assert "test_kernel.py" in text
    assert [e.name for e in events] == ["oops"]
    assert kernel.current is kernel.idle_task
    p.exit()


def test_the_callers_own_wrong_arguments_are_pythons_errors(kernel):
    p = kernel.process()
    with pytest.raises(TypeError):
        p.open(3.5)
    with pytest.raises(TypeError):
        p.write(p.open("/dev/null", os.O_WRONLY), "text")
    with pytest.raises(TypeError):
        p.lseek(p.open("/dev/null"), "x")
    assert not kernel.oopses
    p.exit()


def test_an_interrupted_call_is_eintr(kernel):
    """ERESTARTSYS never reaches user space."""

    def read(self, count):
        raise err(ERESTARTSYS)

    p = kernel.process()
    fd = p.open(bad_device(kernel, 2, read=read))
    with pytest.raises(InterruptedError):
        p.read(fd, 1)
    p.exit()


def test_a_flush_that_fails_is_told_by_close_and_not_by_exit(kernel):
    """fs/open.c:filp_close(): close() tells, dup2(), exec() and exit() drop it; the number is free in any case."""

    def flush(self):
        raise err(5)

    path = bad_device(kernel, 3, flush=flush)
    p = kernel.process()
    fd = p.open(path)
    with pytest.raises(OSError, match="Input/output"):
        p.close(fd)
    with pytest.raises(OSError, match="Bad file descriptor"):
        p.close(fd)
    fd = p.open(path, os.O_CLOEXEC)
    assert p.dup2(p.open("/dev/null"), fd) == fd
    p.open(path, os.O_CLOEXEC)
    p.exec()
    p.open(path)
    p.exit()
    assert not p.fds.files


def test_the_trace_has_calls_with_results_and_errnos(kernel):
    events = kernel.trace.record()
    p = kernel.process(comm="me")
    p.close(p.open("/tmp"))
    with pytest.raises(OSError, match="No such file"):
        p.stat("/none")
    assert [(e.name, e.fields["name"], e.task) for e in events] == [
        ("syscall", n, f"me-{p.pid}") for n in ("open", "close", "stat")
    ]
    assert events[2].fields["error"] == "ENOENT"
    p.exit()


def test_another_threads_call_is_served_when_the_owner_enters(kernel):
    p = kernel.process()
    kernel.up()
    got = []
    t = threading.Thread(target=lambda: got.append(p.listdir("/")))
    t.start()
    while not kernel.foreign:
        pass
    p.getcwd()
    t.join()
    assert got == [["sys", "dev", "proc", "tmp"]]
    p.exit()


def test_another_threads_error_goes_to_it(kernel):
    p = kernel.process()
    got = []

    def body():
        try:
            p.stat("/none")
        except OSError as e:
            got.append(e.errno)

    t = threading.Thread(target=body)
    t.start()
    while not kernel.foreign:
        pass
    kernel.serve_threads()
    t.join()
    assert got == [2]
    p.exit()


def test_a_thread_does_not_wait_for_ever(kernel, monkeypatch):
    monkeypatch.setattr("pykernel.kernel.PATIENCE_S", 0.01)
    got = []

    def body():
        try:
            kernel.call_from_thread(lambda: None)
        except OSError as e:
            got.append(e.strerror)

    t = threading.Thread(target=body)
    t.start()
    t.join()
    assert got == [os.strerror(35)]
    assert not kernel.foreign


def test_a_waiting_owner_serves_threads(kernel):
    """A read that waits for what another thread writes: the owner has nothing to run and takes its call."""
    p = kernel.process()
    r, w = p.pipe()
    t = threading.Thread(target=lambda: p.write(w, b"from afar"))
    t.start()
    assert p.read(r, 20) == b"from afar"
    t.join()
    p.exit()


def test_a_wait_that_nobody_ends_is_a_hung_task(kernel):
    p = kernel.process()
    r, _ = p.pipe()
    with pytest.raises(OSError, match="Input/output error"):
        p.read(r, 1)
    assert "hung task" in str(kernel.oopses[0])
    p.exit()


def test_bug_is_an_oops(kernel):
    with pytest.raises(Oops, match="why"):
        kernel.bug("why")


def test_shutdown_names_each_leak():
    """Descriptors, mappings, anonymous files, deleted files and PASIDs, each by its path."""
    k = pykernel.boot("dsa")
    p = k.process(comm="leaky")
    p.open("/sys/bus/pci/devices/0000:6a:01.0/vendor")
    p.open("/dev/null")
    p.eventfd()
    p.pipe()
    p.open("/tmp/gone", os.O_CREAT)
    p.unlink("/tmp/gone")
    pdev = pci_device(k)
    with k.as_task(p.task):
        iommu_sva_bind_device(pdev, mm_of(p))
    fd = p.open("/sys/bus/pci/devices/0000:6a:01.0/resource0", os.O_RDWR)
    addr = p.mmap(0, 4096, 3, 1, fd)
    p.close(fd)
    with pytest.raises(Leak) as e:
        k.shutdown()
    who = f"leaky (pid {p.pid})"
    base = "/sys/devices/pci0000:6a/0000:6a:01.0"
    for line in (
        f"descriptor 0 of {who}: {base}/vendor\n",
        f"descriptor 1 of {who}: /dev/null\n",
        f"descriptor 2 of {who}: anon_inode:[eventfd]\n",
        f"descriptor 3 of {who}: pipe:[",
        f"descriptor 5 of {who}: /tmp/gone (deleted)\n",
        f"mapping {addr:#x}-{addr + 4096:#x} of {who}: {base}/resource0\n",
        f"PASID 1 of {who} bound to 0000:6a:01.0",
    ):
        assert line in str(e.value) + "\n"
    k.shutdown()  # a second time: nothing


def test_track_origins_tells_who_took_it():
    k = pykernel.boot("dsa")
    k.track_origins = True
    p = k.process()
    p.open("/tmp")
    with pytest.raises(Leak, match=r"/tmp, taken at .*test_kernel.py:\d+ in test_track_origins_tells_who_took_it\(\)"):
        k.shutdown()


def test_given_back_is_no_leak():
    k = pykernel.boot("dsa")
    k.up()
    pdev = pci_device(k)
    p = k.process()
    with k.as_task(p.task):
        iommu_sva_unbind_device(iommu_sva_bind_device(pdev, mm_of(p)))
    fd = p.open("/sys/bus/pci/devices/0000:6a:01.0/resource0", os.O_RDWR)
    addr = p.mmap(0, 4096, 3, 1, fd)
    p.munmap(addr, 4096)
    p.close(fd)
    k.shutdown()
    assert k.dead


def test_an_exit_handler_that_fails_does_not_stop_the_others():
    k = pykernel.boot("dsa")
    done = []
    k.at_exit(lambda: done.append("first registered"))
    k.at_exit(boom)
    k.shutdown()
    assert done == ["first registered"]
    assert isinstance(k.oopses[0], ZeroDivisionError)


def test_two_runs_of_a_seed_have_the_same_trace():
    def run(seed):
        k = pykernel.boot("dsa", seed=seed)
        events = k.trace.record()
        p = k.process()
        p.read_text("/sys/bus/dsa/devices/dsa0/state")
        data = p.read(p.open("/dev/urandom"), 16)
        p.exit()
        log = k.log.human()
        k.shutdown()
        return [str(e) for e in events], log, data

    assert run(5) == run(5)
    assert run(5)[2] != run(6)[2]


def test_identity_calls(kernel):
    """setuid() from root gives up the capabilities; a user's own id changes nothing."""
    p = kernel.process()
    p.setgid(7)
    p.setuid(8)
    assert (p.task.cred.uid, p.task.cred.gid, p.task.cred.caps) == (8, 7, 0)
    with pytest.raises(PermissionError):
        p.setuid(0)
    with pytest.raises(PermissionError):
        p.setgid(0)
    p.exit()
    q = kernel.process(cred=Cred(5, 5, frozenset({6}), 1 << CAP_SYS_ADMIN))
    q.setuid(5)
    assert q.task.cred.capable(CAP_SYS_ADMIN)
    assert q.task.cred.in_group(6)
    assert "uid=5" in repr(q)
    q.exit()
