"""
The talk's first comparison: a virtual function for each machine, with a dedicated queue, or one with a shared queue.

The guest configures its function itself and writes its own PASIDs into the queues. What keeps it from another's memory
is the IOMMU: each virtual function has a requester ID, and a table of PASIDs for that alone.
"""

from __future__ import annotations

import os
import random
import struct
from dataclasses import replace
from typing import Any

import pytest
from guestwork import Client, kernel_copy

from pykernel import boot
from pykernel.base.module import Modules
from pykernel.drivers.idxd.device import wq_set_pasid
from pykernel.hw.dsa.regs import IMS
from pykernel.machine import PciSpec, load
from pykernel.pci.core import Pci
from pykernel.pci.irq import Irqs
from pykernel.surfaces.explore import explore
from pykernel.tools.dsa import enable_wq
from pykernel.tools.vmm.extcaps import SvaCaps, SvaRegisters
from pykernel.tools.vmm.vmm import Vmm
from pykernel.uapi.linux.idxd import (
    DSA_OPCODE_MEMMOVE,
    IDXD_OP_FLAG_BOF,
    IDXD_OP_FLAG_CRAV,
    IDXD_OP_FLAG_RCR,
    dsa_hw_desc,
)

PF = "0000:6a:01.0"
VFS = [f"0000:6a:11.{n}" for n in range(4)]
NUMVFS = f"/sys/bus/pci/devices/{PF}/sriov_numvfs"
SLOT = "0000:00:04.0"
MEMORY = 32 << 20
DATA = bytes(range(256)) * 16
PROFILES = ["linux-6.1", "linux-6.12"]
SECOND_NS = 10**9


def machine():
    return replace(load("vmm"), pci=(PciSpec("dsa", PF, {"vfs": 4}),))


class Cloud:
    """A host whose accelerator has its virtual functions on, and machines, each with one of them."""

    def __init__(self, host, *, mode="dedicated", vms=0, **kw):
        self.host, self.mode = host, mode
        self.root = host.process()
        self.root.write_text(NUMVFS, "4")
        self.vms = []
        for n in range(vms):
            self.add(n, **kw)

    def add(self, n, **kw):
        """A machine with virtual function *n*, and its queue enabled."""
        vmm = Vmm(self.host, name=f"vm{n}", memory=MEMORY, parent=VFS[n], mdev="", **kw)
        self.vms.append(vmm)
        vmm.run(lambda: self.prepare(vmm, "wq0.0"))
        return vmm

    def prepare(self, vmm, wq, **attrs):
        proc = vmm.process()
        attrs.setdefault("mode", self.mode)
        enable_wq(proc, wq, size=16, **attrs)
        proc.exit()

    def silicon(self, n):
        return self.host.sub(Pci).slots[VFS[n]].function

    def close(self):
        for vmm in self.vms:
            if vmm.proc.exited is None:
                vmm.shutdown()
                assert vmm.guest.kernel.oopses == []
        drivers = {os.path.basename(self.root.readlink(f"/sys/bus/pci/devices/{vf}/driver")) for vf in VFS}
        assert drivers == {"idxd"}, "what VFIO had is not given back"
        assert not any(self.silicon(n).running or self.silicon(n).wqs[0].enabled for n in range(4))
        self.root.write_text(NUMVFS, "0")
        self.root.exit()


@pytest.fixture(params=PROFILES)
def host(request):
    kernel = boot(machine(), request.param, seed=5)
    yield kernel
    kernel.shutdown()
    assert kernel.oopses == []


def cloud_fixture(mode, vms, **kw):
    @pytest.fixture
    def fixture(host):
        cloud = Cloud(host, mode=mode, vms=vms, **kw)
        yield cloud
        cloud.close()

    return fixture


dedicated = cloud_fixture("dedicated", 3)


def here(cloud):
    """A client on the host, by the physical function: so it has PASIDs that no guest has."""
    enable_wq(cloud.root, "wq0.0", mode="shared", size=16)
    return Client(cloud.root)


def copies(vmm, n, *, shared):
    """A process of the guest that makes copies: its retries."""
    proc = vmm.process(comm=f"app{n}")
    rng = random.Random(f"{vmm.name} {n}")
    try:
        with Client(proc, shared=shared) as client:
            for _ in range(3):
                data = rng.randbytes(rng.randrange(1, 9000))
                assert client.copy(data) == data
        return client.retries
    finally:
        proc.exit()


def finish(cloud, threads):
    cloud.host.sched.idle_until(lambda: all(t.done for t in threads))
    assert [t.error for t in threads if t.error is not None] == []
    return [t.result for t in threads]


def events_of(events, name, *fields):
    return {tuple(e.fields[field] for field in fields) for e in events if e.name == name}


# ---- each its own function


def test_each_machine_has_a_function_with_a_dedicated_queue(dedicated):
    """On the wire is the PASID that the guest wrote, under the function's own requester ID; no command exits."""
    cloud = dedicated
    events = cloud.host.trace.record()
    wrote = {}

    def session(vmm, n):
        proc = vmm.process()
        with Client(proc, shared=False) as client:
            assert client.copy(DATA) == DATA
            wrote.setdefault(VFS[n], set()).add(vmm.guest.kernel.pasid_of(proc.task.mm))
            before = dict(vmm.exits)
            assert client.copy(DATA) == DATA
            assert vmm.exits == before
        proc.exit()

    for n, vmm in enumerate(cloud.vms):
        for _ in range(2):
            vmm.run(session, vmm, n)

    on_wire = events_of(events, "dsa_enqueue", "device", "pasid", "accepted")
    assert on_wire == {(vf, pasid, True) for vf, pasids in wrote.items() for pasid in pasids}
    assert not events_of(events, "kvm_enqcmd", "pasid")
    sources = {source for (source,) in events_of(events, "vtd_context", "source")}
    assert sources <= {0x6A88, 0x6A89, 0x6A8A}
    assert sources


def test_machines_with_dedicated_queues_work_at_the_same_time(dedicated):
    """One client each at a time is what a dedicated queue takes; the others wait for it."""
    cloud = dedicated

    def turns(vmm):
        return [copies(vmm, n, shared=False) for n in range(4)]

    finish(cloud, [vmm.spawn(lambda vmm=vmm: turns(vmm)) for vmm in cloud.vms])


@pytest.mark.parametrize("pasids", ["private", "identity"])
def test_processes_of_one_machine_share_the_queue_of_its_function(host, pasids):
    """ENQCMD translates as for a mediated device; with identity both numbers are the same."""
    cloud = Cloud(host, mode="shared")
    client = here(cloud)
    vmm = cloud.add(0, pasids=pasids)
    events = host.trace.record()

    retries = finish(cloud, [vmm.spawn(lambda n=n: copies(vmm, n, shared=True)) for n in range(60)])

    assert len(retries) == 60
    translated = events_of(events, "kvm_enqcmd", "pasid", "host")
    assert len(translated) > 10
    assert events_of(events, "dsa_enqueue", "device", "pasid") == {(VFS[0], there) for _, there in translated}
    assert all(here == there for here, there in translated) == (pasids == "identity")
    client.close()
    cloud.close()


def test_the_guest_s_own_kernel_uses_the_function_too(host):
    """Addresses of its IOMMU; the interrupt of the completion goes by irqfd to the guest."""
    cloud = Cloud(host)
    vmm = Vmm(host, name="vm0", memory=MEMORY, parent=VFS[0], mdev="")
    cloud.vms.append(vmm)

    def use():
        proc = vmm.process()
        more = {"driver_name": "dmaengine"} if host.profile.name == "linux-6.12" else {}
        enable_wq(proc, "wq0.0", size=8, type="kernel", name="dmaengine", **more)
        proc.exit()
        return kernel_copy(vmm, DATA)

    assert vmm.run(use) == (DATA, ["NOERROR"])
    cloud.close()


def test_a_page_request_of_the_function_is_the_guest_s_to_answer(host):
    """PRI is the physical function's; the request has the virtual one's ID, and goes to the machine that has it."""
    cloud = Cloud(host)
    vmms = [Vmm(host, name=f"vm{n}", memory=MEMORY, parent=VFS[n], mdev="") for n in range(2)]
    cloud.vms += vmms
    host_events = host.trace.record()
    heard = [vmm.guest.kernel.trace.record() for vmm in vmms]

    def fault(vmm):
        cloud.prepare(vmm, "wq0.0", mode="shared", block_on_fault=1)
        app = vmm.process()
        with Client(app) as client:
            src = app.mem.alloc(4096)
            app.mem.write(src, DATA)
            dst = app.mmap(0, 4096, 3, 0x22)  # private, anonymous, and nobody has touched it
            flags = IDXD_OP_FLAG_BOF | IDXD_OP_FLAG_CRAV | IDXD_OP_FLAG_RCR
            desc = dsa_hw_desc(
                flags=flags,
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

    assert vmms[1].run(fault, vmms[1]) == (1, DATA)
    assert events_of(host_events, "dsa_page_request", "device") == {(VFS[1],)}
    assert [bool(events_of(events, "prq_report", "pasid")) for events in heard] == [False, True]
    cloud.close()


# ---- none reaches another


def intrude(vmm, victim):
    """A guest whose kernel writes the PASID *victim* into its queue and lets the device write: the status, if any."""
    kernel = vmm.guest.kernel
    loaded: Any = kernel.sub(Modules).loaded["idxd"]
    proc = vmm.process()
    with Client(proc, shared=False) as client:
        wq_set_pasid(loaded.bus.devices["wq0.0"], victim)
        proc.mem.write(client.record, bytes(32))
        flags = IDXD_OP_FLAG_CRAV | IDXD_OP_FLAG_RCR
        desc = dsa_hw_desc(flags=flags, opcode=DSA_OPCODE_MEMMOVE, completion_addr=client.record,
                           src_addr=client.record, dst_addr=client.record + 64, xfer_size=32)  # fmt: skip
        proc.movdir64b(client.portal, bytes(desc))
        proc.poll([], 50)
        record = proc.mem.read(client.record, 32)
    proc.exit()
    return record


@pytest.mark.parametrize("whose", ["another machine's", "the host's", "nobody's"])
def test_a_pasid_that_is_not_bound_for_the_function_reaches_nothing(dedicated, whose):
    """The same number is bound, but under another requester ID: each request faults, and nobody's memory changes."""
    cloud = dedicated
    thief, victim = cloud.vms[:2]
    client: Any = None
    pasid = 0xABCDE
    if whose == "another machine's":
        client = victim.run(lambda: Client(victim.process(), shared=False))
        pasid = victim.guest.kernel.pasid_of(client.proc.task.mm)
    elif whose == "the host's":
        client = here(cloud)
        pasid = cloud.host.pasid_of(cloud.root.task.mm)
    before = client and client.proc.mem.read(client.record, 128)
    events = cloud.host.trace.record()

    record = thief.run(intrude, thief, pasid)

    assert record == bytes(32)
    assert events_of(events, "vtd_fault", "source", "pasid") == {(0x6A88, pasid)}
    assert not events_of(events, "vtd_translated", "pasid") & {(pasid,)}
    assert (client and client.proc.mem.read(client.record, 128)) == before
    if whose == "another machine's":
        assert victim.run(client.copy, DATA) == DATA
        victim.run(lambda: (client.close(), client.proc.exit()))
    elif whose == "the host's":
        assert client.copy(DATA) == DATA
        client.close()


@pytest.mark.parametrize("how", ["interrupt message store", "DMA"])
def test_a_guest_s_message_is_no_other_device_s_interrupt(dedicated, how):
    """The function writes to the local APIC what its guest likes; the remapping table says whose entry it is."""
    cloud = dedicated
    thief = cloud.vms[0]
    irqs = cloud.host.sub(Irqs)
    foreign = [irq for irq, desc in irqs.descs.items() if desc.requester is not cloud.host.sub(Pci).devices[VFS[0]]]
    counts = {irq: irqs.descs[irq].count for irq in foreign}
    events = cloud.host.trace.record()

    def forge():
        fn: Any = thief.guest.kernel.sub(Pci).slots[SLOT].function
        for irq in foreign:
            if how == "DMA":
                cloud.silicon(0).port.dma_write(0xFEE00000, irq.to_bytes(4, "little"))
                continue
            fn.mmio_write(0, IMS + 12, 4, 1)  # masked
            fn.mmio_write(0, IMS, 8, 0xFEE00000)
            fn.mmio_write(0, IMS + 8, 4, irq)
            fn.mmio_write(0, IMS + 12, 4, 0)
            cloud.silicon(0).raise_handle(0, ims=True)

    thief.run(forge)

    assert len(foreign) > 10
    assert events_of(events, "irq_blocked", "irq", "requester") == {(irq, VFS[0]) for irq in foreign}
    assert {irq: irqs.descs[irq].count for irq in foreign} == counts


def test_private_numbers_in_a_dedicated_queue_reach_nothing(host):
    """The guest's number is not the host's: that is why functions with such queues have the same ones."""
    cloud = Cloud(host)
    client = here(cloud)
    vmm = cloud.add(0, pasids="private")
    events = host.trace.record()

    def use():
        proc = vmm.process()
        with Client(proc, shared=False) as mine:
            proc.movdir64b(mine.portal, bytes(dsa_hw_desc(flags=0xC, completion_addr=mine.record)))
            proc.poll([], 50)
            record, pasid = proc.mem.read(mine.record, 32), vmm.guest.kernel.pasid_of(proc.task.mm)
            there = vmm.pasids.host_of.get(pasid, pasid)
        proc.exit()
        return record, pasid, there

    record, pasid, there = vmm.run(use)
    assert pasid != there
    assert record == bytes(32)
    assert (pasid,) in events_of(events, "dsa_enqueue", "pasid")
    assert (pasid,) not in events_of(events, "vtd_translated", "pasid")
    client.close()
    cloud.close()


def test_a_mediated_device_and_a_function_are_not_for_one_machine(host):
    """The processor has one table: for one of them its PASIDs would be wrong."""
    with pytest.raises(ValueError, match="one translation table"):
        Vmm(host, functions=VFS[:1])
    with pytest.raises(ValueError, match="slots"):
        Vmm(host, mdev="", parent=VFS[0], functions=VFS)


def test_a_machine_has_two_functions_under_one_pasid(host):
    """A process with both queues has its PASID bound for both, and each goes by its own requester ID."""
    cloud = Cloud(host)
    vmm = Vmm(host, name="vm0", memory=MEMORY, parent=VFS[0], functions=VFS[1:2], mdev="")
    cloud.vms.append(vmm)
    events = host.trace.record()

    def use():
        cloud.prepare(vmm, "wq0.0", mode="dedicated")
        cloud.prepare(vmm, "wq1.0", mode="shared")
        proc = vmm.process()
        with Client(proc, shared=False) as one, Client(proc, "/dev/dsa/wq1.0") as two:
            arrived = [one.copy(DATA), two.copy(DATA)]
        proc.exit()
        return arrived

    assert vmm.run(use) == [DATA, DATA]
    used = events_of(events, "dsa_enqueue", "device", "pasid")
    assert {device for device, _ in used} == set(VFS[:2])
    assert len({pasid for _, pasid in used}) == 1
    cloud.close()


# ---- life and death


def test_a_machine_that_is_killed_leaves_a_function_that_was_reset(dedicated):
    """In the middle of its work; the next machine finds it new, the others lose nothing."""
    cloud = dedicated
    doomed, other = cloud.vms[0], cloud.vms[1]
    done: list[int] = []
    doomed.spawn(lambda: done.extend(copies(doomed, n, shared=False) for n in range(50)))
    going = other.spawn(lambda: [copies(other, n, shared=False) for n in range(10)])
    cloud.host.sched.idle_until(lambda: len(done) == 2)

    doomed.kill()

    assert len(done) < 50
    vf = cloud.silicon(0)
    assert not vf.running
    assert not vf.wqs[0].enabled
    finish(cloud, [going])
    again = cloud.add(0)
    again.run(lambda: copies(again, 0, shared=False))


def test_a_machine_may_die_while_its_function_waits_for_a_page(host, monkeypatch):
    """Its guest never answers; the function is reset all the same, and the neighbour's requests are answered."""
    cloud = Cloud(host)
    doomed = Vmm(host, name="vm0", memory=MEMORY, parent=VFS[0], mdev="")
    cloud.vms.append(doomed)
    other = cloud.add(1)
    monkeypatch.setattr(doomed.viommu, "page_request", lambda _words: True)

    def ask():
        cloud.prepare(doomed, "wq0.0", mode="shared", block_on_fault=1)
        app = doomed.process()
        client = Client(app)
        dst = app.mmap(0, 4096, 3, 0x22)
        flags = IDXD_OP_FLAG_BOF | IDXD_OP_FLAG_CRAV | IDXD_OP_FLAG_RCR
        desc = dsa_hw_desc(flags=flags, opcode=DSA_OPCODE_MEMMOVE, completion_addr=client.record,
                           src_addr=client.record, dst_addr=dst, xfer_size=32)  # fmt: skip
        while app.enqcmd(client.portal, bytes(desc)):
            app.poll([], 1)
        app.poll([], 10**6)

    doomed.spawn(ask)
    host.sched.idle_until(lambda: bool(doomed.requests.waiting), SECOND_NS)
    assert doomed.requests.waiting
    doomed.kill()

    assert not cloud.silicon(0).running
    other.run(lambda: copies(other, 0, shared=False))
    cloud.close()


def test_a_guest_s_reset_of_its_function_is_its_own_affair(dedicated):
    """Function-level reset: its queue is off, the guest's capabilities are off; the neighbour works on."""
    cloud = dedicated
    one, two = cloud.vms[:2]

    def reset():
        proc = one.process()
        fn: Any = one.guest.kernel.sub(Pci).slots[SLOT].function
        control = struct.Struct("<H")
        before = control.unpack(one_config(proc, 0x100 + 6, 2))[0]
        fn.flr()
        after = control.unpack(one_config(proc, 0x100 + 6, 2))[0]
        proc.exit()
        return before >> 15, after >> 15

    assert cloud.silicon(0).wqs[0].enabled
    assert one.run(reset) == (1, 0)
    assert not cloud.silicon(0).wqs[0].enabled
    assert cloud.silicon(1).wqs[0].enabled
    two.run(lambda: copies(two, 0, shared=False))


def one_config(proc, at, n):
    """Bytes of the guest's view of configuration space."""
    fd = proc.open(f"/sys/bus/pci/devices/{SLOT}/config")
    try:
        return proc.pread(fd, n, at)
    finally:
        proc.close(fd)


def test_functions_in_use_are_not_taken_away(host):
    """Another number is EBUSY (pci/iov.c); none at all waits until VFIO's user is gone, as each removal of a device."""
    cloud = Cloud(host, vms=1)
    vmm = cloud.vms[0]
    with pytest.raises(OSError, match="Device or resource busy"):
        cloud.root.write_text(NUMVFS, "3")

    admin = host.process()
    removal = host.spawn(lambda: admin.write_text(NUMVFS, "0"), "admin")
    vmm.run(lambda: copies(vmm, 0, shared=False))
    assert not removal.done
    ends = host.spawn(vmm.kill, "kill")
    host.sched.idle_until(lambda: removal.done and ends.done)

    assert removal.error is None
    assert not cloud.root.listdir(f"/sys/bus/pci/devices/{PF}/").count("virtfn0")
    admin.exit()
    cloud.root.exit()


def test_every_interleaving_of_machines_with_functions_copies_right():
    """Two machines work and one dies, in the order of a seed."""
    explore(seeds=6, machine=machine()).run(_interleaved)


def _interleaved(host):
    cloud = Cloud(host, vms=2)
    one, two = cloud.vms
    for vmm in cloud.vms:
        vmm.guest.kernel.sched.explore("random", host.sched.seed)
    threads = [one.spawn(lambda: [copies(one, n, shared=False) for n in range(3)])]
    done: list[int] = []
    two.spawn(lambda: done.extend(copies(two, n, shared=False) for n in range(30)))
    enough = host.sched.seed % 3
    host.sched.idle_until(lambda: len(done) == enough and bool(two.pasids.bound.keys() - {0}), SECOND_NS)
    two.kill()
    finish(cloud, threads)
    cloud.close()


# ---- configuration space

REGISTERS = SvaRegisters(ats=0x60, requests=512, pasid=0x1404)


def chain(load):
    """(ID, offset) of each extended capability, as pci_find_next_ext_capability() goes."""
    found, at = [], 0x100
    while at:
        header = load(at, 4)
        found.append((header & 0xFFFF, at))
        at = header >> 20 & 0xFFC
    return found


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        ({}, {0x0F: 0x100, 0x13: 0xFE8, 0x1B: 0xFE0}),
        ({0x100: 0x0001_000F}, {0x0F: 0x100, 0x13: 0xFF0, 0x1B: 0xFE8}),
        ({0x100: 0x1501_0001, 0x150: 0x0001_0013}, {0x01: 0x100, 0x13: 0x150, 0x0F: 0xFF8, 0x1B: 0xFF0}),
        ({0x100: 0x1100_0000, 0x110: 0x0001_0013}, {0x00: 0x100, 0x13: 0x110, 0x0F: 0xFF8, 0x1B: 0xFF0}),
    ],
    ids=["none", "ATS", "AER and PRI", "a hidden head"],
)
def test_the_guest_finds_the_three_whatever_vfio_shows(shown, expected):
    """What VFIO shows keeps its place; what is missing comes at the end of the list and of the space."""
    caps = SvaCaps(lambda off, _size: shown.get(off, 0), REGISTERS)

    def load(off, size):
        return caps.read(off, size, shown.get(off, 0))

    assert dict(chain(load)) == expected
    assert load(expected[0x1B] + 4, 2) == 0x1404
    assert load(expected[0x13] + 8, 4) == 512


def test_only_the_control_registers_take_what_is_written_and_a_reset_clears_them():
    """PCIe 6.0, 7.8.9, 7.8.10, 10.5.1: enable bits are there, identity is not the guest's to change."""
    caps = SvaCaps(lambda off, _size: 0, REGISTERS)
    before = bytes(caps.read(off, 1, 0) for off in range(0x1000))
    for at in (0x100 + 6, 0xFE8 + 4, 0xFE0 + 6):
        assert caps.write(at, 2, 0xFFFF)
    caps.write(0x100, 4, 0)
    assert not caps.write(0x200, 4, 1)

    assert [caps.read(at, 2, 0) & mask for at, mask in ((0x106, 0x8000), (0xFEC, 1), (0xFE6, 1))] == [0x8000, 1, 1]
    caps.reset()
    assert bytes(caps.read(off, 1, 0) for off in range(0x1000)) == before
