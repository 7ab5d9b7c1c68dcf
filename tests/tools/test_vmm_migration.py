"""A machine moves while its guest submits: nothing is lost, nothing done twice, no number of the host goes along."""

from __future__ import annotations

import pytest
from guestload import DSA, STEP_NS, Host, KernelCopies, Process, Run

from pykernel import boot
from pykernel.drivers.vdsa.commands import VdsaCommands
from pykernel.iommu.ioasid import ioasid_reserve_capacity
from pykernel.tools.vmm import migration
from pykernel.tools.vmm.layout import ECAM_BASE, ecam_offset
from pykernel.tools.vmm.migration import Migration, MigrationError
from pykernel.tools.vmm.pasids import GuestPasids
from pykernel.tools.vmm.vmm import DSA_SLOT, Vmm

STEPS = [
    "check",
    "prepare",
    "copy",
    "stop",
    "quiesce",
    "rest",
    "save",
    "iommu",
    "devices",
    "processors",
    "memory",
    "run",
]


@pytest.fixture
def hosts():
    made = [Host.boot("a"), Host.boot("b", shift=100)]
    yield made
    for host in made:
        host.shutdown()


def test_processes_on_a_shared_queue(hosts):
    """There and back, with PASIDs that are others each time."""
    run = Run(hosts, slow=True)
    run.start(*(Process(run, n, 40, shared=True) for n in range(3)))
    for n, to in ((10, 1), (40, 0), (80, 1)):
        run.until(n)
        run.move(to)
    run.finish()
    run.close()


def test_a_process_on_a_dedicated_queue(hosts):
    run = Run(hosts, kind="1dwq", slow=True)
    run.start(Process(run, 0, 60, shared=False, depth=8))
    for n, to in ((10, 1), (30, 0), (50, 1)):
        run.until(n)
        run.move(to)
    run.finish()
    run.close()


@pytest.mark.parametrize(("kind", "profile"), [("1swq", "linux-6.12"), ("1dwq", "linux-6.1")])
def test_the_guest_s_kernel_copies(hosts, kind, profile):
    """By ENQCMDS where the queue is shared; its interrupts come from the other host's accelerator."""
    run = Run(hosts, kind=kind, profile=profile, user=False, slow=True)
    run.start(KernelCopies(run, 30))
    for n, to in ((5, 1), (12, 0), (20, 1)):
        run.until(n)
        run.move(to)
    run.finish()
    run.close()


@pytest.mark.parametrize("vcpus", [1, 2, 4])
def test_work_that_waits_for_pages(vcpus):
    """Page requests that are on their way when the machine stops are the guest's to answer, and it does."""
    hosts = [Host.boot("a", block_on_fault=1), Host.boot("b", shift=100, block_on_fault=1)]
    run = Run(hosts, vcpus=vcpus, slow=True)
    run.start(*(Process(run, n, 20, shared=True, block=True) for n in range(3)))
    for n, to in ((5, 1), (20, 0), (40, 1)):
        run.until(n)
        run.move(to)
    run.finish()
    run.close()
    for host in hosts:
        host.shutdown()


def test_an_access_in_parts_of_which_each_is_another_host_s(hosts):
    """16 bytes of configuration space are two exits, and between them the machine moves."""
    run = Run(hosts)
    here = run.vmm
    read, seen, found = here.read, [], []

    def read_and_stop(gpa, size):
        if gpa == ECAM_BASE + ecam_offset(DSA_SLOT):
            seen.append(gpa)
            for vcpu in here.vcpus:
                vcpu.stop(on=True)  # as soon as this part is complete
            here.proc.read(here._going, 8)
            here._paused = True
        return read(gpa, size)

    here.read = read_and_stop
    thread = here.spawn(lambda: found.append(here.guest.mmio_read(ECAM_BASE + ecam_offset(DSA_SLOT), 16)))
    here.host.sched.idle_until(lambda: bool(seen) and bool(here.parked))
    assert not found
    here.pause = lambda: None
    run.move(1)
    run.vmm.wait([thread])
    assert thread.error is None
    assert found[0] & 0xFFFF == 0x8086
    assert found[0] >> 64 & 0xFFFFFF00 == 0x08800000
    run.close()


def steady(hosts, **kw):
    """A machine with one process, which has submitted a little and has much before it."""
    run = Run(hosts, slow=True, **kw)
    shared = kw.get("kind", "1swq") == "1swq"
    run.start(*(Process(run, n, 60, shared=shared) for n in range(2 if shared else 1)))
    run.until(5)
    assert not any(t.done for t in run.threads)
    return run


@pytest.mark.parametrize("kind", ["1swq", "1dwq"])
def test_a_move_that_fails_at_any_step_leaves_all_as_it_was(hosts, kind):
    """The guest goes on here, and can move after all."""
    run = steady(hosts, kind=kind)
    for n, step in enumerate(STEPS):
        here = run.vmm
        run.try_move(1, step)
        assert run.vmm is here
        assert here.host is hosts[0].kernel
        run.until(8 + 3 * n)
    run.move(1)
    run.finish()
    run.close()


@pytest.mark.parametrize("kind", ["1swq", "1dwq"])
@pytest.mark.parametrize("side", [0, 1])
def test_memory_that_runs_out_anywhere(hosts, kind, side):
    """Allocations of either host fail, one after the other: it moves or it stays, and nothing is left behind."""
    run = steady(hosts, kind=kind)
    outcomes, nth = set(), 1
    while len(outcomes) < 3 and nth < 400:
        at = 0 if run.vmm.host is hosts[0].kernel else 1
        failing = hosts[at ^ side].kernel.faults
        rule = failing.fail("alloc", nth=nth)
        run.try_move(1 - at, "")
        fired, here = rule.fired > 0, run.vmm.host is hosts[at].kernel
        failing.remove(rule)
        assert fired or not here
        outcomes |= {"stayed" if here else "moved"} | (set() if fired else {"done"})
        nth += 7
    assert outcomes >= {"stayed", "done"}
    run.finish()
    run.close()


def refused(run, to, match):
    move = Migration(run.vmm, to, DSA)
    with pytest.raises(MigrationError, match=match):
        move.run()
    run.finish()
    run.close()


def test_pasids_that_are_the_host_s_do_not_move(hosts):
    refused(steady(hosts, pasids="identity"), hosts[1].kernel, r"this host's own \(identity\)")


def test_a_machine_is_not_moved_to_where_it_is(hosts):
    refused(steady(hosts), hosts[0].kernel, "on that host")


def test_a_whole_function_does_not_move():
    hosts = [boot("vmm"), boot("vmm")]
    vmm = Vmm(hosts[0], memory=8 << 20, mdev="")
    with pytest.raises(MigrationError, match="whole function"):
        vmm.migrate(hosts[1])
    vmm.shutdown()
    for host in hosts:
        host.shutdown()


def test_an_accelerator_that_is_another_one(hosts):
    """A queue of another size: the guest has seen its own."""
    other = Host.boot("c", shared=8)
    refused(steady(hosts), other.kernel, "other capabilities")
    other.shutdown()


def test_a_host_whose_processors_lack_an_instruction(hosts, monkeypatch):
    """What the guest has seen of CPUID has to be there."""
    seen = iter([{(7, 0, 2): 1 << 28 | 1 << 29}, {(7, 0, 2): 1 << 28}])
    monkeypatch.setattr(migration, "features", lambda _vm: next(seen))
    refused(steady(hosts), hosts[1].kernel, r"CPUID 0x7\.0:ECX 0x20000000")


def test_a_host_without_pasids(hosts):
    """Its quota is given away: /dev/ioasid has none for another process."""
    ioasid_reserve_capacity(hosts[1].kernel, 0)
    refused(steady(hosts), hosts[1].kernel, "No space left")


def test_a_host_without_a_free_queue(hosts):
    """A dedicated queue is one machine's."""
    other = Vmm(hosts[1].kernel, memory=8 << 20, mdev="1dwq", name="other")
    refused(steady(hosts, kind="1dwq"), hosts[1].kernel, "No such device")
    other.shutdown()


# ---- mutants: what the oracle would see


def test_the_oracle_sees_work_that_was_not_waited_for(monkeypatch):
    """Without the drain what is in the queue is done on the source, and its records are lost or the work is."""
    monkeypatch.setattr(VdsaCommands, "finish", lambda self, *, abort: None)
    run = Run([Host.boot("a"), Host.boot("b", shift=100)], slow=True)
    run.start(*(Process(run, n, 12, shared=True, depth=4) for n in range(3)))
    run.until(6)
    run.move(1)
    with pytest.raises(AssertionError, match=r"no completion record|never done|dropped"):
        run.finish()


def test_the_oracle_sees_tables_that_come_after_the_entry(monkeypatch):
    """Without PASIDs bound before the guest runs, its commands find no translation."""
    late, replay, resume = [], GuestPasids.replay, Vmm.resume

    def resume_first(vmm):
        resume(vmm)
        vmm.host.sched.idle_until(lambda: False, 3 * STEP_NS)
        while late:
            replay(*late.pop())

    monkeypatch.setattr(GuestPasids, "replay", lambda *args: late.append(args))
    monkeypatch.setattr(Vmm, "resume", resume_first)
    monkeypatch.setattr(Run, "compare", lambda *_: None)  # which sees it before the guest does
    run = steady([Host.boot("a"), Host.boot("b", shift=100)])
    run.move(1)
    with pytest.raises(AssertionError, match="no translation"):
        run.finish()
