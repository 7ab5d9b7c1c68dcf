"""What ended serves nothing: processes that exited, kernels that were shut down."""

from __future__ import annotations

import errno
import os
import threading

import pytest

import pykernel
from pykernel.kernel import Leak
from pykernel.syscalls import SYSCALLS, Process

ARGS = {"poll": ([],), "readv": (0, []), "writev": (0, []), "pipe": (), "fork": (), "exec": (), "getcwd": ()}


def refusals(p):
    """Each call's errno and note."""
    found = {}
    for row in SYSCALLS:
        if row.method == "exit":
            continue
        args = ARGS.get(row.method, ("/tmp", 0, 0))
        with pytest.raises(OSError, match="No such process") as e:
            getattr(p, row.method)(*args)
        found[row.method] = e.value.errno, *e.value.__notes__
    return found


def test_a_process_that_exited_serves_no_call():
    """ESRCH and why; nothing is opened, mapped or forked; a second exit() changes nothing."""
    k = pykernel.boot("dsa")
    p = k.process()
    p.exit(3)
    assert set(refusals(p).values()) == {(errno.ESRCH, "the process has exited")}
    for call in (lambda: p.load(0, 1), lambda: p.read_text("/sys"), lambda: p.realpath("/sys"), p.scandir):
        with pytest.raises(ProcessLookupError):
            call()
    p.exit(4)
    assert (p.exited, p.fds.files) == (3, {})
    k.shutdown()


def test_exit_is_traced_by_its_name():
    k = pykernel.boot("dsa")
    p = k.process()
    events = k.trace.record()
    p.exit(3)
    assert [(e.name, e.fields["name"], e.fields["args"]) for e in events] == [("syscall", "exit", (3,))]
    with pytest.raises(TypeError):
        k.process().exit(None)  # type: ignore[arg-type]
    k.shutdown()


def test_a_kernel_that_was_shut_down_serves_nothing():
    """Processes: ESRCH and why. What belongs to the kernel: RuntimeError."""
    k = pykernel.boot("dsa")
    p, modules, patched, real_open = k.process(), k.modules, k.patched(), os.open
    p.open("/dev/null")
    with pytest.raises(Leak):
        k.shutdown()
    assert set(refusals(p).values()) == {(errno.ESRCH, "the kernel was shut down")}
    for call in (
        k.process, k.patched, patched.__enter__, lambda: k.modules, lambda: modules.modprobe("idxd"),
        lambda: modules.rmmod("idxd"), lambda: Process.create(k, k.current.cred, "late"),
        lambda: k.call_from_thread(int),
    ):  # fmt: skip
        with pytest.raises(RuntimeError, match="shut down"):
            call()
    assert os.open is real_open
    never_up = pykernel.boot("dsa")
    never_up.shutdown()
    with pytest.raises(RuntimeError, match="shut down"):
        never_up.up()


def in_thread(fn):
    box = []

    def run():
        try:
            box.append(fn())
        except BaseException as e:
            box.append(e)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, box


def test_shutdown_by_another_thread_is_served_by_the_owner():
    """Its leaks are told to who asked; the owner's next call finds the kernel gone."""
    k = pykernel.boot("dsa")
    p = k.process()
    ran_in = []
    k.at_exit(lambda: ran_in.append(threading.get_ident()))
    asked = threading.Event()
    k.doorbells.append(asked.set)
    thread, box = in_thread(k.shutdown)
    assert asked.wait(10)
    assert not k.dead
    p.stat("/tmp")
    thread.join()
    assert (k.dead, ran_in, box) == (True, [threading.get_ident()], [None])
    with pytest.raises(ProcessLookupError):
        p.stat("/tmp")


def test_no_shutdown_under_a_call_that_sleeps():
    """By another thread while the owner sleeps in a read(): refused, and the read goes on."""
    k = pykernel.boot("dsa")
    p = k.process()
    r, w = p.pipe()

    def other():
        try:
            return k.shutdown()
        finally:
            p.write(w, b"x")

    thread, box = in_thread(other)
    assert p.read(r, 1) == b"x"
    thread.join()
    assert isinstance(box[0], RuntimeError)
    assert "under way" in str(box[0])
    p.exit()
    k.shutdown()
