"""
A PASID that changes hands takes nothing along: no command under way, no page request, no late answer.

The allocator gives the lowest free number, so whoever comes next has the number of who just went. Engines are held
while it changes hands, so commands are surely under way. ``TENANTS_SEED=n`` repeats a run.
"""

from __future__ import annotations

import os
import random
import time
from contextlib import suppress

import pytest
from tenants import PAGE, Tenants, host_with, memmove

from pykernel.drivers.vdsa.host import HostQueue
from pykernel.drivers.vdsa.regs import DISABLED
from pykernel.hw.dsa.engine import Engine

SEED = int(os.environ.get("TENANTS_SEED", str(time.time_ns() % 1_000_000)))
RUNS = int(os.environ.get("TENANTS_RUNS", "8"))
WAYS = ["unbind", "free", "unbind and free", "kill", "close the device", "guest frees"]
EVIL = b"\xee" * 64


class Hold:
    """Engines that do not begin."""

    def __init__(self, monkeypatch):
        self.patch, self.idle = monkeypatch, []

    def __enter__(self):
        self.patch.setattr(Engine, "start", lambda engine: self.idle.append(engine))

    def __exit__(self, *_exc):
        self.patch.undo()
        for engine in self.idle:
            engine.start()


def virtual_device(vmm):
    """The host's driver of the machine's device."""
    file = vmm.proc.fds.get(next(iter(vmm.devices.values())).device.fd)
    return file.vdev


def let_go(tenants, vmm, way):
    """The machine, or its VMM, gives the PASID up in the middle of things, without any drain."""
    guest, host = max(vmm.pasids.host_of.items())
    if way == "kill":
        tenants.kill(vmm)
    elif way == "close the device":
        tenants.host.sched.idle_until(lambda: False, 1)
        vmm.proc.exit(9)
    elif way == "guest frees":
        vmm.pasids.free(guest)
    else:
        if "unbind" in way:
            vmm.nesting.unbind(host, guest)
        if "free" in way:
            vmm.nesting.free(host)
    return host


def one_run(monkeypatch, rng, way, *, off):
    tenants = Tenants(vms=1, each=1, here=1, block_on_fault=1, host=host_with("pasid_bits = 20"))
    vmm = tenants.vms[0]
    victim = next(t for t, home in tenants.home.items() if home is vmm)
    late = []
    vmm.requests._hand_on = lambda group, prm: late.append((group, prm))
    if rng.random() < 0.5:
        vmm.run(victim.stall)  # a page request that waits
        tenants.settle()
    where = [victim.base + n * PAGE for n in range(6)] + [victim.record]
    vmm.run(lambda: victim.proc.mem.write(victim.open, EVIL))
    if off:  # the guest turned its own queue off; it still has the portal
        virtual_device(vmm).regs.wqcfg[0].status.state = DISABLED
    with Hold(monkeypatch):
        n = rng.randrange(1, 12)
        vmm.run(lambda: [victim.submit(memmove(victim.open, rng.choice(where), 64, victim.record)) for _ in range(n)])
        old = let_go(tenants, vmm, way)
        newcomers = [tenants.admit(None, f"new-{k}") for k in range(2)]
        before = tenants.picture(victim)
    tenants.settle(20)
    for group, prm in late:
        with suppress(OSError):
            vmm.nesting.answer(group, prm, 0)
    tenants.settle(20)
    after = tenants.picture(victim)
    numbers = {t.proc.fds.get(t.fd).ctx.pasid for t in newcomers}
    wrong = [name for name in before if before[name] != after[name]]
    assert not wrong, f"seed {SEED}: {way}: PASID {old} reached {wrong}"
    assert tenants.host.oopses == []
    return old in numbers


@pytest.mark.parametrize("off", [False, True], ids=["", "its queue off"])
@pytest.mark.parametrize("way", WAYS)
def test_nothing_under_way_reaches_the_next_owner(monkeypatch, way, off):
    print(f"TENANTS_SEED={SEED}")
    rng = random.Random(SEED)
    recycled = [one_run(monkeypatch, rng, way, off=off) for _ in range(RUNS)]
    assert all(recycled) or way == "unbind"


@pytest.mark.parametrize("way", ["guest frees", "unbind and free", "free"])
def test_without_the_abort_it_would(monkeypatch, way):
    """The mutant: who unbinds leaves what is in the queue there."""
    rng = random.Random(SEED)

    def run():
        with pytest.MonkeyPatch.context() as mutant:
            mutant.setattr(HostQueue, "abort_pasid", lambda self, pasid: None)
            for _ in range(20):
                one_run(monkeypatch, rng, way, off=False)

    with pytest.raises(AssertionError, match="reached"):
        run()


def test_who_closes_leaves_nothing_even_with_its_queue_off(monkeypatch):
    """The mutant: closing looks at the guest's own queue alone."""
    from pykernel.drivers.vdsa.commands import VdsaCommands

    real = VdsaCommands.finish
    rng = random.Random(SEED)

    def run():
        with pytest.MonkeyPatch.context() as mutant:
            mutant.setattr(
                VdsaCommands, "finish", lambda self, *, abort: real(self, abort=abort) if self.wq_on else None
            )
            for _ in range(20):
                one_run(monkeypatch, rng, "kill", off=True)

    with pytest.raises(AssertionError, match="reached"):
        run()
