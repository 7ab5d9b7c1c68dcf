"""
A real virtual machine, row by row where no other test has the row: references, who hears first, what goes wrong.

Rows are those of the life cycle (1.7), of the sequence (6.1, 6.4), of moving (7) and of the traps (9).
"""

from __future__ import annotations

from typing import Any

import pytest
from guestwork import Client

from pykernel import boot
from pykernel.iommu.gpasid import GuestPasids
from pykernel.iommu.ioasid import Ioasid, ioasid_find_mm_set, ioasid_flush_work
from pykernel.pci.core import Pci
from pykernel.tools.vmm.setup import enable, prepare
from pykernel.tools.vmm.vmm import Vmm

DATA = bytes(range(256)) * 4
DSA = "0000:6a:01.0"
CPU, DEVICE = 3, 1


class World:
    """A host with an accelerator, and a machine with a queue of it; a process of the guest has the queue open."""

    def __init__(self, kind: str, profile: str = "linux-6.1") -> None:
        self.host = boot("vmm", profile, seed=5)
        self.root = self.host.process()
        prepare(self.root, shared=16, dedicated=1)
        self.vmm = Vmm(self.host, memory=32 << 20, mdev=kind)
        self.shared = kind == "1swq"
        self.vmm.run(lambda: enable(self.vmm.process()))
        self.core = self.host.sub(Ioasid)
        self.client: Any = None

    def open(self) -> tuple[int, int]:
        """A process opens the queue: the guest's PASID and the host's."""
        before = set(self.vmm.pasids.host_of)

        def opens() -> None:
            self.client = Client(self.vmm.process(comm="app"), shared=self.shared)

        self.vmm.run(opens)
        (guest,) = set(self.vmm.pasids.host_of) - before
        return guest, self.vmm.pasids.host_of[guest]

    def copy(self) -> None:
        assert self.vmm.run(lambda: self.client.copy(DATA)) == DATA

    def close(self) -> None:
        self.vmm.run(lambda: (self.client.close(), self.client.proc.exit()))

    def refs(self, host: int) -> int:
        data = self.core.ids.get(host)
        return 0 if data is None else data.refs

    def table(self, guest: int) -> int:
        """What the processor's table has."""
        return int(self.vmm.vm._vm.pasid_table.lookup(guest))  # type: ignore[union-attr]

    def entry(self, host: int) -> bool:
        """Whether the IOMMU's entry of the accelerator stands."""
        svm = self.host.sub(GuestPasids).svms.get(host)
        return svm is not None and bool(svm.devs)

    def programmed(self) -> int:
        """The PASID of the silicon's dedicated queue; 0: none."""
        cfg: Any = self.host.sub(Pci).devices[DSA].function
        rows = [q for q in cfg.regs.wqcfg if q.status.state and q.flags.dedicated]
        return rows[0].flags.pasid if rows and rows[0].flags.pasid_en else 0

    def end(self) -> None:
        self.vmm.shutdown()
        self.root.exit()
        self.host.shutdown()
        assert self.host.oopses == self.vmm.guest.kernel.oopses == []


@pytest.fixture(params=["1swq", "1dwq"])
def world(request: pytest.FixtureRequest) -> Any:
    made = World(request.param)
    yield made
    made.end()


# ---- 1.6, 1.7


def test_1_6_kvm_hears_before_the_device_driver(world: World) -> None:
    """The set's chain of a machine: CPU (KVM), then DEVICE (VDCM); the IOMMU's is the chain of all."""
    world.open()
    owner: Any = ioasid_find_mm_set(world.host, world.vmm.proc.task.mm)  # type: ignore[arg-type]
    nb, priorities = owner.nh.head, []
    while nb is not None:
        priorities.append(nb.priority)
        nb = nb.next
    assert priorities == [CPU, DEVICE]
    world.close()


def test_1_7_references_of_a_real_machine(world: World) -> None:
    """Core 1, IOMMU 2, KVM 3; a dedicated queue's composition module 4. Afterwards nobody has it."""
    guest, host = world.open()
    assert world.refs(host) == (3 if world.shared else 4)
    assert world.core.ids[host].spid == guest
    assert world.table(guest) == host
    assert world.entry(host)
    assert world.programmed() == (0 if world.shared else host)
    world.copy()
    world.close()
    assert (world.refs(host), world.table(guest), world.entry(host)) == (0, -1, False)
    assert world.programmed() != host


def test_1_7_free_before_unbind_in_a_real_machine(world: World) -> None:
    """
    The VMM frees what its guest still uses: FREE, and the IOMMU's driver unbinds.

    KVM's table, the IOMMU's entry and the queue have it no more before the number is anybody's; the guest only sees
    that its commands fail, and its own unbind later is harmless.
    """
    guest, host = world.open()
    world.copy()
    world.vmm.nesting.free(host)
    for number in (world.vmm.pasids.bound, world.vmm.pasids.host_of):
        number.pop(guest)
    for _ in range(3):  # works queue works
        ioasid_flush_work(world.host)
    assert (world.refs(host), world.table(guest), world.entry(host)) == (0, -1, False)
    assert world.programmed() != host
    if world.shared:
        assert world.vmm.run(lambda: world.client.proc.enqcmd(world.client.portal, bytes(64))) is True
        stat = world.vmm.vcpus[0].silicon.stat
        assert stat["enqcmd_exits"] == 1
    world.close()
    assert not world.vmm.pasids.bound.keys() - {0}


def test_1_7_when_the_vmm_dies_first_all_references_go(world: World) -> None:
    _, host = world.open()
    world.vmm.retire(9)
    ioasid_flush_work(world.host)
    world.host.sched.run_ready()
    assert world.refs(host) == 0
    assert not world.entry(host)


# ---- 6.1, 9


def test_9_17_each_thread_of_the_guest_takes_one_gp() -> None:
    """The guest's own kernel mends it: no exit, one for each thread."""
    world = World("1swq")
    world.open()
    events = world.vmm.guest.kernel.trace.record()

    def submit() -> list[int]:
        first, tids = world.client.proc, []
        for proc in (first, first.thread(), first.thread()):
            world.client.proc = proc
            assert world.client.copy(DATA) == DATA
            assert world.client.copy(DATA) == DATA
            tids.append(proc.tid)
        world.client.proc = first
        return tids

    tids = world.vmm.run(submit)
    assert [e.fields["pid"] for e in events if e.name == "enqcmd_fixup"] == tids
    world.close()
    world.end()


def test_6_4_device_and_iommu_never_see_the_guests_number() -> None:
    """Whatever the host's hardware tells of has the host's PASIDs; the guest's begin at 1 as the host's own do."""
    world = World("1swq")
    guest, host = world.open()
    assert guest != host
    events = world.host.trace.record()
    world.copy()
    seen = {e.fields["pasid"] for e in events if e.name.startswith(("vtd_", "dsa_")) and "pasid" in e.fields}
    assert seen == {host}
    world.close()
    world.end()


def test_9_14_the_same_guest_pasid_again_is_another_process_of_the_guest(world: World) -> None:
    """UNBIND was complete: the second process under that number has its own memory."""
    first, _ = world.open()
    world.copy()
    world.close()
    second, host = world.open()
    assert first == second
    assert world.table(second) == host
    world.copy()
    world.close()


# ---- 7


def test_7_identity_cannot_move() -> None:
    """The guest's numbers are that host's own; refused before anything is touched, and the guest goes on."""
    from pykernel.tools.vmm.migration import MigrationError

    here, there = boot("vmm", seed=1), boot("vmm", seed=2)
    roots = [here.process(), there.process()]
    for root in roots:
        prepare(root, shared=16)
    vmm = Vmm(here, memory=8 << 20, pasids="identity")
    vmm.run(lambda: enable(vmm.process()))
    with pytest.raises(MigrationError, match="identity"):
        vmm.migrate(there)

    def copy() -> bytes:
        proc = vmm.process()
        with Client(proc) as client:
            got: bytes = client.copy(DATA)
        proc.exit()
        return got

    assert vmm.run(copy) == DATA
    vmm.shutdown()
    for kernel, root in zip((here, there), roots, strict=True):
        root.exit()
        kernel.shutdown()
