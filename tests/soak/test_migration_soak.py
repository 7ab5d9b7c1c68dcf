"""Machines that move under load, in the order of a seed: each descriptor that was accepted is done once."""

from __future__ import annotations

import random

from guestload import Host, KernelCopies, Process, Run

from pykernel import explore

STEPS = ["prepare", "copy", "stop", "quiesce", "rest", "save", "iommu", "devices", "processors", "memory", "run"]


@explore(seeds=20, machine="vmm")
def test_guests_that_submit_all_the_time(kernel):
    """
    One to three processes on a shared queue, one on a dedicated one, or the guest's kernel.

    With pages that are there or not, on one to three processors. Some moves are cut at a step and made again.
    """
    seed = kernel.sched.seed
    rng = random.Random(seed)
    kind = rng.choices(("1swq", "1dwq"), (3, 1))[0]
    in_kernel = rng.random() < 0.2
    block = not in_kernel and rng.random() < 0.3
    hosts = [Host(kernel, "a", block_on_fault=block), Host.boot("b", seed=seed + 1, shift=40, block_on_fault=block)]
    run = Run(
        hosts,
        seed=seed,
        kind=kind,
        vcpus=rng.randint(1, 3),
        user=not in_kernel,
        slow=rng.random() < 0.7,
        profile="linux-6.12" if in_kernel and kind == "1swq" else "linux-6.1",
    )
    run.explore()
    if in_kernel:
        loads, total = [KernelCopies(run, 8)], 8
    else:
        n = rng.randint(1, 3) if run.shared else 1
        loads = [Process(run, m, 12, shared=run.shared, depth=rng.randint(1, 4), block=block) for m in range(n)]
        total = 12 * n
    run.start(*loads)
    for moves, n in enumerate(sorted(rng.choices(range(total), k=rng.randint(1, 3)))):
        run.until(n)
        to = 1 - moves % 2
        if rng.random() < 0.3:
            run.try_move(to, rng.choice(STEPS))
        if run.vmm.host is not hosts[to].kernel:
            run.move(to)
    run.finish()
    run.close()
    hosts[0].quiet()
    hosts[1].shutdown()
