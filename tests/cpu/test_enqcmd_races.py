"""ENQCMD under many interleavings: nothing arrives after munmap() returned, and no command has another's PASID."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from mmap import MAP_ANONYMOUS, MAP_SHARED
from typing import Any

import pytest
from cpubench import Bench, Registers

import pykernel
from pykernel import explore
from pykernel.cpu import Fault
from pykernel.kernel import Kernel
from pykernel.machine import parse
from pykernel.mm.vma import Page, Vma

DESC = bytes(64)
MACHINE = parse("[cpu]\ncount = 2\n")


class Late(AssertionError):
    """A command arrived at a portal that its process had unmapped."""


class Portal(Registers):
    """Knows when its process has unmapped it; *slow*: another task may run before a command arrives."""

    def __init__(self, kernel: Kernel, *, slow: bool) -> None:
        super().__init__()
        self.kernel, self.slow, self.gone = kernel, slow, False

    def enqcmd(self, off: int, data: bytes) -> bool:
        if self.slow:
            self.kernel.sched.point()
        if self.gone:
            raise Late
        return super().enqcmd(off, data)


def race(kernel: Kernel, *, slow: bool) -> None:
    """One thread submits until it faults, the other unmaps."""
    bench, portal = Bench(kernel), Portal(kernel, slow=slow)
    bench.bind(5)
    addr, thread = bench.map(portal), bench.proc.thread()
    vectors: list[int] = []

    def submit() -> None:
        for _ in range(6):
            try:
                bench.proc.enqcmd(addr, DESC)
            except Fault as e:
                vectors.append(e.vector)
                return

    def unmap() -> None:
        thread.munmap(addr, 8192)
        portal.gone = True

    kernel.gather(submit, unmap)
    assert vectors in ([], [14])
    bench.proc.exit()


def test_nothing_arrives_after_munmap() -> None:
    """munmap() waits for the processors that use the address space; then the PASID may be given to somebody else."""
    for kernel in explore(seeds=60, machine=MACHINE):
        race(kernel, slow=False)


def test_a_switch_between_page_table_and_device_would_be_found() -> None:
    """The mutant of the test above."""
    found = 0
    for seed in range(60):
        kernel: Any = None
        try:
            for kernel in explore(seeds=[seed], machine=MACHINE):
                race(kernel, slow=True)
        except BaseException as e:
            found += any(isinstance(x, Late) for x in (e, e.__cause__, *kernel.oopses))
    assert found


def test_each_command_has_its_senders_pasid() -> None:
    """Three processes of two threads each on two processors; sources are brought in by faults that sleep."""
    for kernel in explore(seeds=40, machine=MACHINE):
        bench, io = Bench(kernel), Registers()
        procs = [bench.proc, kernel.process(), kernel.process()]
        clients: list[Callable[[], None]] = []
        for n, proc in enumerate(procs, 1):
            bench.bind(0x100 * n, proc)
            addr = bench.map(io, proc=proc)
            clients += [partial(send, kernel, who, addr, n) for who in (proc, proc.thread())]
        kernel.gather(*clients)
        got = [int.from_bytes(c[:4], "little") - 0x100 * c[4] for _, c in io.commands]
        assert got == [0] * 12
        for proc in procs:
            proc.exit()


def send(kernel: Kernel, who: Any, addr: int, n: int) -> None:
    """Two commands that name their process in the first byte of the descriptor."""
    for _ in range(2):

        def fault(_pgoff: int) -> Page:
            kernel.sched.point()
            page = Page.alloc(who.mem.phys, bytes(4) + bytes([n]) + bytes(4091))
            kernel.sched.point()
            return page

        def setup(vma: Vma) -> None:
            vma.fault = fault

        source = who.mem.mmap(0, 4096, 3, MAP_SHARED | MAP_ANONYMOUS, setup=setup)
        assert who.enqcmd(addr, src=source) is False


@pytest.mark.parametrize("n", [1, 3])
def test_processors_are_given_out_in_turn(n: int) -> None:
    """As on an idle machine."""
    kernel = pykernel.boot(parse(f"[cpu]\ncount = {n}\n"))
    bench = Bench(kernel)
    threads = [bench.proc.thread() for _ in range(5)]
    assert [bench.cpus.of(t.task).index for t in threads] == [k % n for k in range(5)]
    bench.proc.exit()
    kernel.shutdown()
