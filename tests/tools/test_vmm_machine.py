"""Virtual machines on one host: how they live and die, what they may not do, and what faults do."""

from __future__ import annotations

from errno import ENODEV

import pytest
from guestwork import Client, copy, kernel_copy, running

from pykernel import boot
from pykernel.surfaces.explore import explore
from pykernel.tools.dsa import enable_wq
from pykernel.tools.vmm.setup import enable, prepare
from pykernel.tools.vmm.vmm import Vmm
from pykernel.uapi.linux.idxd import (
    DSA_OPCODE_MEMMOVE,
    IDXD_OP_FLAG_BOF,
    IDXD_OP_FLAG_CRAV,
    IDXD_OP_FLAG_RCR,
    dsa_hw_desc,
)

DATA = bytes(range(256)) * 16
MEMORY = 32 << 20


@pytest.fixture
def host():
    kernel = boot("vmm", seed=3)
    yield kernel
    kernel.shutdown()
    assert kernel.oopses == []


@pytest.fixture
def root(host):
    proc = host.process()
    prepare(proc, shared=16, dedicated=1)
    yield proc
    proc.exit()


@pytest.mark.parametrize("vcpus", [1, 2, 4])
def test_its_processes_copy_by_whatever_processor(host, root, vcpus):
    vmm = running(host, memory=MEMORY, vcpus=vcpus)

    threads = [vmm.spawn(lambda: copy(vmm, DATA)) for _ in range(8)]
    vmm.wait(threads)

    assert [(t.error, t.result == DATA) for t in threads] == [(None, True)] * 8
    vmm.shutdown()


def test_what_a_task_of_the_guest_raises_is_raised(host, root):
    vmm = running(host, memory=MEMORY)

    with pytest.raises(OSError, match="No such file") as caught:
        vmm.run(lambda: vmm.process().open("/dev/dsa/wq7.7"))

    assert caught.value.errno == 2
    vmm.shutdown()


def test_numbers_may_be_the_host_s(host, root):
    """What cannot move to another host: the guest has the host's own PASIDs."""
    vmm = running(host, memory=MEMORY, pasids="identity")

    assert vmm.run(copy, vmm, DATA) == DATA
    seen = vmm.run(lambda: _open_and_look(vmm))

    assert all(guest == number for guest, number in seen.items())
    vmm.shutdown()


def _open_and_look(vmm):
    proc = vmm.process()
    with Client(proc):
        seen = dict(vmm.pasids.host_of)
    proc.exit()
    return seen


def test_a_machine_that_is_killed_leaves_nothing(host, root):
    """Also with PASIDs bound and commands on their way; the queue is as free as before."""
    vmm = running(host, memory=MEMORY)
    for _ in range(5):
        vmm.spawn(lambda: copy(vmm, DATA * 4))
    host.sched.idle_until(lambda: bool(vmm.pasids.bound.keys() - {0}), 10**9)

    vmm.kill()

    again = running(host, memory=MEMORY, name="again")
    assert again.run(copy, again, DATA) == DATA
    again.shutdown()


def test_a_machine_that_is_paused_executes_nothing_and_goes_on_where_it_was(host, root):
    vmm = running(host, memory=MEMORY, vcpus=2)
    turns = []

    def count():
        proc = vmm.process()
        for n in range(50):
            turns.append(n)
            proc.poll([], 1)
        proc.exit()

    thread = vmm.spawn(count)
    host.sched.idle_until(lambda: len(turns) > 5, 10**9)
    vmm.pause()
    before = len(turns)
    host.sched.idle_until(lambda: False, 10**9)
    assert len(turns) == before < 50

    vmm.resume()
    vmm.wait([thread])

    assert turns == list(range(50))
    assert vmm.run(copy, vmm, DATA) == DATA
    vmm.shutdown()


def test_a_dedicated_queue_is_one_machine_s(host, root):
    vmm = running(host, memory=MEMORY, mdev="1dwq")

    with pytest.raises(OSError, match="No such device") as caught:
        Vmm(host, name="second", memory=MEMORY, mdev="1dwq")

    assert caught.value.errno == ENODEV
    assert vmm.run(lambda: copy(vmm, DATA, shared=False)) == DATA
    vmm.shutdown()


def test_two_guests_with_the_same_number_do_not_meet(host, root):
    """Both processes are PASID 1 in their machine."""
    one, two = running(host, memory=MEMORY, name="one"), running(host, memory=MEMORY, name="two")
    made = {}

    def opens(vmm):
        made[vmm.name] = Client(vmm.process())

    one.run(opens, one)
    two.run(opens, two)
    assert list(one.pasids.host_of) == list(two.pasids.host_of) == [1]
    assert one.pasids.host_of != two.pasids.host_of

    assert one.run(made["one"].copy, b"1" * 5000) == b"1" * 5000
    assert two.run(made["two"].copy, b"2" * 5000) == b"2" * 5000
    for vmm in (one, two):
        vmm.run(lambda vmm=vmm: (made[vmm.name].close(), made[vmm.name].proc.exit()))
        vmm.shutdown()


def test_a_guest_that_makes_a_pasid_up_is_told_to_retry(host, root):
    """ENQCMDS with a number that nobody bound: exit 73, ZF=1; the accelerator hears nothing of it."""
    vmm = running(host, memory=MEMORY)
    events = host.trace.record()

    def forge():
        return vmm.guest.vcpu.enqcmd(
            next(iter(vmm.devices.values())).bars[2][0] + 0x1000, bytes([99]) + bytes(63), supervisor=True
        )

    assert vmm.run(forge) is False
    assert [e.fields["host"] for e in events if e.name == "kvm_enqcmd"] == [-1]
    assert not [e for e in events if e.name == "dsa_enqueue"]
    vmm.shutdown()


def test_a_page_that_is_not_there_is_the_guest_kernel_s_to_find(host):
    """Page request: device, host's queue, VMM, guest's queue, the guest's kernel, and the answer all the way back."""
    proc = host.process()
    prepare(proc, shared=16, block_on_fault=1)
    vmm = running(host, memory=MEMORY)
    host_events = host.trace.record()
    guest_events = vmm.guest.kernel.trace.record()

    def fault():
        app = vmm.process()
        with Client(app) as client:
            src = app.mem.alloc(4096)
            app.mem.write(src, DATA)
            dst = app.mmap(0, 4096, 3, 0x22)  # private, anonymous, and nobody has touched it
            desc = dsa_hw_desc(
                flags=IDXD_OP_FLAG_BOF | IDXD_OP_FLAG_CRAV | IDXD_OP_FLAG_RCR,
                opcode=DSA_OPCODE_MEMMOVE,
                completion_addr=client.record,
                src_addr=src,
                dst_addr=dst,
                xfer_size=4096,
            )
            while app.enqcmd(client.portal, bytes(desc)):
                app.poll([], 1)
            status = client.wait().status
            arrived = app.mem.read(dst, 4096)
            app.munmap(dst, 4096)
        app.exit()
        return status, arrived

    assert vmm.run(fault) == (1, DATA)
    assert [e.fields["pasid"] for e in host_events if e.name == "vtd_page_request"]
    assert [e.fields["pasid"] for e in guest_events if e.name == "prq_report"] == [1]
    vmm.shutdown()
    proc.exit()


@pytest.mark.parametrize("profile", ["linux-6.1", "linux-6.12"])
def test_a_whole_accelerator_is_the_guest_s_to_configure(profile):
    """By vfio-pci: the guest makes a queue for its kernel, in guest-physical addresses, which 6.12 gives a PASID."""
    host = boot("vmm", profile)
    vmm = Vmm(host, memory=MEMORY, mdev="", cmdline="iommu.passthrough=1")

    def use():
        proc = vmm.process()
        more = {"driver_name": "dmaengine"} if profile == "linux-6.12" else {}
        enable_wq(proc, "wq0.0", size=8, type="kernel", name="dmaengine", **more)
        proc.exit()
        return kernel_copy(vmm, DATA)

    assert vmm.run(use) == (DATA, ["NOERROR"])
    vmm.shutdown()
    host.shutdown()
    assert host.oopses == []


def test_every_interleaving_of_guests_and_the_host_copies_right():
    """Processes of two machines and of the host, unbinding, and a machine that dies, in the order of a seed."""
    explore(seeds=12, machine="vmm").run(_interleaved)


def _interleaved(host):
    root = host.process()
    prepare(root, shared=4)
    vms = [Vmm(host, name=f"vm{n}", memory=MEMORY) for n in range(2)]
    for vmm in vms:
        vmm.run(lambda vmm=vmm: enable(vmm.process()))
        vmm.guest.kernel.sched.explore("random", host.sched.seed)
    threads = [vms[0].spawn(lambda: [copy(vms[0], DATA) for _ in range(2)]) for _ in range(3)]
    doomed = [vms[1].spawn(lambda: copy(vms[1], DATA)) for _ in range(3)]

    def here():
        proc = host.process()
        with Client(proc) as client:
            arrived = client.copy(DATA)
        proc.exit()
        return [arrived]

    threads.append(host.spawn(here))
    enough = host.sched.seed % 3
    host.sched.idle_until(lambda: sum(t.done for t in doomed) >= enough and bool(vms[1].pasids.host_of), 10**9)
    vms[1].kill()
    host.sched.idle_until(lambda: all(t.done for t in threads))
    assert [t.error for t in threads] == [None] * 4
    assert all(arrived == DATA for t in threads for arrived in t.result)
    vms[0].shutdown()
    root.exit()
