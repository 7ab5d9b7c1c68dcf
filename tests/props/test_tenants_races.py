"""Tenants that come, go and die in every order of a seed: nobody's memory is anybody else's."""

from __future__ import annotations

import os
import random
from contextlib import suppress
from functools import partial

from tenants import MEMORY, PAGE, Tenant, memmove

from pykernel import explore
from pykernel.tools.vmm.setup import enable, prepare
from pykernel.tools.vmm.vmm import Vmm

SEEDS = int(os.environ.get("TENANTS_SEEDS", "8"))


def _life(kernel, name, rng, made):
    """A tenant that copies, stops in the middle of things, and is there again with whatever PASID is free."""
    for turn in range(2):
        tenant = Tenant(kernel, f"{name}.{turn}")
        made.append(tenant)
        text = f"{name} {turn}".encode().ljust(64)
        for _ in range(rng.randrange(1, 3)):
            assert tenant.copy(text) == text
        for n in range(rng.randrange(3)):  # what nobody waits for
            with suppress(OSError):
                tenant.submit(memmove(tenant.open, tenant.open + 3 * PAGE, 64 * n, tenant.record))
        assert tenant.stands(), tenant.name
        made.remove(tenant)
        tenant.close()


def _interleaved(host):
    seed = host.sched.seed
    rng = random.Random(seed)
    root = host.process()
    prepare(root, shared=4, block_on_fault=1)
    vms = [Vmm(host, name=f"vm{n}", memory=MEMORY) for n in range(2)]
    for vmm in vms:
        vmm.run(lambda vmm=vmm: enable(vmm.process()))
        vmm.guest.kernel.sched.explore("random", seed)
    made, doomed = [], []
    spawn = [vms[0].spawn, host.spawn]
    kernels = [vms[0].guest.kernel, host]
    threads = []
    for n in range(4):
        life = partial(_life, kernels[n % 2], f"t{n}", random.Random(seed + n), made)
        threads.append(spawn[n % 2](life, f"t{n}"))
    for n in range(2):
        vms[1].spawn(partial(_life, vms[1].guest.kernel, f"d{n}", random.Random(n), doomed), f"d{n}")
    host.sched.idle_until(lambda: False, rng.randrange(1, 8) * 10**6)
    vms[1].kill()
    host.sched.idle_until(lambda: all(t.done for t in threads))
    assert [t.error for t in threads] == [None] * 4, [t.error for t in threads]
    assert not made
    vms[0].shutdown()
    root.exit()
    assert host.oopses == []


def test_every_order_of_coming_going_and_dying():
    """Immediately recycled numbers, a machine that is killed, page faults and drains, in the order of a seed."""
    explore(seeds=SEEDS, machine="vmm").run(_interleaved)
