"""
Live migration, row by row (7): each need of a guest with PASIDs, where no other test has it by name.

The hosts give out different PASIDs (the second one's begin 100 higher); the oracle at the accelerators counts what was
accepted and what was done.
"""

from __future__ import annotations

from typing import Any

import pytest
from guestload import Host, Process, Run, burn
from guestwork import Client

from pykernel.iommu.ioasid import ioasid_cancel_capacity, ioasid_find_mm_set, ioasid_reserve_capacity
from pykernel.tools.vmm.migration import MigrationError
from pykernel.uapi.linux.idxd import DSA_OPCODE_MEMMOVE

DATA = bytes(range(256)) * 16
STEPS = (
    "check", "prepare", "copy", "stop", "quiesce", "rest", "save", "iommu", "devices", "processors", "memory", "run",
)  # fmt: skip


@pytest.fixture
def hosts() -> Any:
    made = [Host.boot("a"), Host.boot("b", shift=100)]
    yield made
    for host in made:
        host.shutdown()


def loaded(hosts: list[Host], n: int = 24, **kw: Any) -> Run:
    run = Run(hosts, **kw)
    run.start(Process(run, 0, n, shared=True), Process(run, 1, n, shared=True))
    run.until(10)
    return run


def check_table(run: Run) -> None:
    """What KVM's table has is what is bound, in the numbers of the host where the machine is."""
    table: Any = run.vmm.vm._vm.pasid_table
    pasids = run.vmm.pasids
    for guest in pasids.bound.keys() - {0}:
        assert table.lookup(guest) == pasids.host_of[guest]


def opened(run: Run) -> Any:
    """A process of the guest that has the queue open, and has used it."""
    made: list[Any] = []

    def opens() -> None:
        made.append(Client(run.vmm.process(comm="app")))
        assert made[0].copy(DATA) == DATA

    run.vmm.run(opens)
    return made[0]


def closed(run: Run, client: Any) -> None:
    """It ends, and the machine."""
    run.vmm.run(lambda: (client.close(), client.proc.exit()))
    run.close()


def device_writes(client: Any, at: int) -> None:
    """The accelerator copies to *at*."""
    src = client.proc.mem.alloc(len(DATA))
    client.proc.mem.write(src, DATA)
    record = client.submit(opcode=DSA_OPCODE_MEMMOVE, src_addr=src, dst_addr=at, xfer_size=len(DATA))
    assert record.status == 1


def test_7_only_the_guests_pasids_are_state(hosts: list[Host]) -> None:
    """The same numbers for the guest, none of the source's host on the destination's bus."""
    run = loaded(hosts)
    run.move(1)  # asserts both
    run.finish()
    run.close()
    assert run.oracle.pasids["a"].isdisjoint(run.oracle.pasids["b"])


def test_7_table_is_rebuilt_before_the_first_entry(hosts: list[Host]) -> None:
    """No ENQCMD of the guest met a table without its PASID: exits would be counted."""
    run = loaded(hosts)
    steps: list[tuple[str, int]] = []

    def progress(p: Any) -> None:
        if p.step in ("devices", "run"):
            check_table(run)
        steps.append((p.step, len(run.vmm.threads)))

    run.move(1, progress)
    run.finish()
    names = [step for step, _ in steps]
    assert names.index("iommu") < names.index("devices") < names.index("run")
    run.close()


def test_7_range_a_host_without_enough_ids_is_refused(hosts: list[Host]) -> None:
    """Its quota for a process is more than it has left: the guest goes on here."""
    run = loaded(hosts)
    rest = ioasid_reserve_capacity(hosts[1].kernel, 0)
    with pytest.raises(MigrationError, match="No space left"):
        run.vmm.migrate(hosts[1].kernel)
    ioasid_cancel_capacity(hosts[1].kernel, rest)
    run.finish()
    run.close()


@pytest.mark.parametrize("step", STEPS)
def test_7_rollback_at_each_step(hosts: list[Host], step: str) -> None:
    """The source has its PASIDs until the last step; cut anywhere, the guest works on here, and may move later."""
    run = Run(hosts)
    client = opened(run)
    before = dict(run.vmm.pasids.host_of)
    assert before
    run.try_move(1, step)
    assert run.moves == 0
    assert run.vmm.pasids.host_of == before
    check_table(run)
    assert run.vmm.run(lambda: client.copy(DATA)) == DATA
    assert not run.oracle.pasids["b"]
    run.move(1)
    assert run.vmm.run(lambda: client.copy(DATA)) == DATA
    closed(run, client)


def test_7_vcpu_state_ia32_pasid_moves_with_the_thread(hosts: list[Host]) -> None:
    """XSAVE component 10 is the guest's state: a thread that was activated takes no #GP at the destination."""
    run = Run(hosts)
    client = opened(run)
    events = run.vmm.guest.kernel.trace.record()
    run.move(1)
    assert run.vmm.run(lambda: client.copy(DATA)) == DATA
    names = [e.name for e in events]
    assert "enqcmd" in names
    assert "enqcmd_fixup" not in names
    closed(run, client)


def test_7_viommu_state_the_guest_binds_and_unbinds_as_before(hosts: list[Host]) -> None:
    """Its tables are in its RAM, registers and queue pointers moved: a new process, and the end of an old one."""
    run = Run(hosts)
    old = opened(run)
    run.move(1)
    new = opened(run)
    assert len(run.vmm.pasids.bound.keys() - {0}) == 2
    check_table(run)
    for client in (old, new):
        run.vmm.run(lambda c=client: (c.close(), c.proc.exit()))
    assert not run.vmm.pasids.bound.keys() - {0}
    run.close()


def test_7_dirty_tracking_has_what_the_device_wrote(hosts: list[Host]) -> None:
    """Written by the accelerator between two rounds of copying, and there on the other host."""
    run = Run(hosts)
    client = opened(run)
    at = run.vmm.run(lambda: client.proc.mem.alloc(len(DATA)))
    wrote: list[int] = []

    def progress(p: Any) -> None:
        if p.step == "copy" and p.round == 1:
            thread = run.vmm.spawn(lambda: device_writes(client, at))
            run.vmm.wait([thread])
            wrote.append(p.round)

    run.move(1, progress)
    assert wrote == [1]
    assert run.vmm.run(lambda: client.proc.mem.read(at, len(DATA))) == DATA
    closed(run, client)


def test_7_host_pasids_of_the_source_are_free_afterwards(hosts: list[Host]) -> None:
    """The source's process ended: all its numbers can be had by another tenant."""
    run = loaded(hosts)
    numbers = set(run.vmm.pasids.host_of.values())
    run.move(1)
    tenant = burn(hosts[0].kernel, 20)
    owner: Any = ioasid_find_mm_set(hosts[0].kernel, tenant.task.mm)
    assert numbers <= set(owner.members)
    tenant.exit()
    run.finish()
    run.close()
