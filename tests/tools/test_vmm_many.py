"""
Hundreds of processes in several virtual machines and on the host fill one shared queue of 16 entries.

Each copies a pattern of its own; the seed says who runs when. A failure prints it: ``VMM_SEED=n pytest ...`` repeats.
"""

from __future__ import annotations

import os
import random
import time

import pytest
from guestwork import Client

from pykernel import boot
from pykernel.tools.vmm.setup import enable, prepare
from pykernel.tools.vmm.vmm import Vmm
from pykernel.uapi.linux.idxd import DSA_OPCODE_MEMMOVE

SEED = int(os.environ.get("VMM_SEED", str(time.time_ns() % 1_000_000)))
VMS, IN_EACH, ON_HOST = 8, 125, 50
MEMORY = 32 << 20
DESERTS = 0.3
PAGE = 4096


def pattern(where, n, size):
    """Bytes that only this process has."""
    return random.Random(f"{where} {n}").randbytes(size)


def copies(kernel, where, n, rng, deserts=0.0):
    """
    A process that lives for a few copies: its number of retries. Raises AssertionError: wrong bytes.

    With a probability of *deserts* it ends with a command in flight, so its PASID is unbound then.
    """
    proc = kernel.process(comm=f"{where}-{n}")
    try:
        with Client(proc) as client:
            for turn in range(rng.randrange(1, 4)):
                data = pattern(where, n * 10 + turn, rng.randrange(1, 9000))
                assert client.copy(data) == data, f"{where} {n}: somebody else's bytes"
            if rng.random() < deserts:
                at = proc.mem.alloc(2 * PAGE, align=PAGE)
                proc.mem.write(at, pattern(where, n, 2 * PAGE))
                client.send(opcode=DSA_OPCODE_MEMMOVE, src_addr=at, dst_addr=at + PAGE, xfer_size=PAGE)
        return client.retries
    finally:
        proc.exit()


class Cloud:
    """A host with a shared queue, and machines that have it."""

    def __init__(self, seed, vms, **kw):
        self.rng = random.Random(seed)
        self.host = boot("vmm", seed=seed)
        self.root = self.host.process()
        prepare(self.root, shared=16)
        self.vms = [Vmm(self.host, name=f"vm{n}", memory=MEMORY, **kw) for n in range(vms)]
        for vmm in self.vms:
            vmm.run(lambda vmm=vmm: enable(vmm.process()))
        self.host.sched.explore("random", seed)
        for vmm in self.vms:
            vmm.guest.kernel.sched.explore("random", seed)

    def spawn(self, vmm, n, deserts=0.0):
        seed = self.rng.random()
        kernel = vmm.guest.kernel
        return vmm.spawn(lambda: copies(kernel, vmm.name, n, random.Random(seed), deserts), f"{vmm.name}-{n}")

    def spawn_here(self, n, deserts=0.0):
        seed = self.rng.random()
        return self.host.spawn(lambda: copies(self.host, "host", n, random.Random(seed), deserts), f"host-{n}")

    def wait(self, threads):
        self.host.sched.idle_until(lambda: all(t.done for t in threads))
        errors = [t.error for t in threads if t.error is not None]
        assert not errors, (len(errors), errors[0])
        return [t.result for t in threads]

    def end(self):
        for vmm in self.vms:
            if vmm.proc.exited is None:
                vmm.shutdown()
        self.root.exit()
        self.host.shutdown()
        assert self.host.oopses == []


@pytest.fixture
def cloud():
    print(f"VMM_SEED={SEED}")
    made = Cloud(SEED, VMS)
    yield made
    made.end()


def test_a_thousand_processes_of_eight_machines_and_fifty_of_the_host_share_sixteen_entries(cloud):
    """Every byte is its process's own; nobody is turned away for ever."""
    threads = [cloud.spawn(vmm, n) for n in range(IN_EACH) for vmm in cloud.vms]
    threads += [cloud.spawn_here(n) for n in range(ON_HOST)]

    retries = cloud.wait(threads)

    assert len(retries) == VMS * IN_EACH + ON_HOST
    assert sum(retries) > 0, "the queue was never full: the test shows nothing"
    for vmm in cloud.vms:
        assert not vmm.pasids.bound.keys() - {0}
        assert not vmm.pasids.refused


def test_machines_that_die_take_nothing_with_them(cloud):
    """Half of the machines are killed, and PASIDs unbound, in the middle of things: the others lose no byte."""
    doomed, living = cloud.vms[::2], cloud.vms[1::2]
    lost = {vmm.name: [cloud.spawn(vmm, n, DESERTS) for n in range(IN_EACH)] for vmm in doomed}
    threads = [cloud.spawn(vmm, n, DESERTS) for vmm in living for n in range(IN_EACH)]
    threads += [cloud.spawn_here(n, DESERTS) for n in range(ON_HOST)]

    for vmm in doomed:
        enough = cloud.rng.randrange(1, IN_EACH)
        cloud.host.sched.idle_until(lambda mine=lost[vmm.name], enough=enough: sum(t.done for t in mine) >= enough)
        lost[vmm.name] = [t for t in lost[vmm.name] if not t.done]
        vmm.kill()

    assert any(lost.values()), "all were done before: the test shows nothing"
    assert len(cloud.wait(threads)) == len(threads)
