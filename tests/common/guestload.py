"""
Guests that submit all the time while they move between hosts, and who counts at the silicon what was done how often.

Each descriptor has a number of its own: processes fill memory with it, so it is in the descriptor and in what arrives;
the guest's kernel copies, and its number is the size.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from mmap import MAP_SHARED, PROT_WRITE

from pykernel import boot
from pykernel.base.module import Modules
from pykernel.drivers.idxd.dmaengine import DMA_PREP_INTERRUPT
from pykernel.iommu.dma import dma_alloc_coherent, dma_free_coherent
from pykernel.iommu.ioasid import INVALID_IOASID
from pykernel.pci.core import Pci
from pykernel.tools.vmm.migration import Migration, MigrationError
from pykernel.tools.vmm.setup import enable, prepare
from pykernel.tools.vmm.vmm import Vmm
from pykernel.uapi.linux.idxd import (
    DSA_OPCODE_MEMFILL,
    DSA_OPCODE_MEMMOVE,
    IDXD_OP_FLAG_BOF,
    IDXD_OP_FLAG_CRAV,
    IDXD_OP_FLAG_RCR,
    dsa_completion_record,
    dsa_hw_desc,
)
from pykernel.uapi.rfc import ioasid as i

__all__ = ["DSA", "STEP_NS", "Host", "Oracle", "Run", "burn"]

DSA = "0000:6a:01.0"
QUEUE = "/dev/dsa/wq0.0"
MEMORY = 4 << 20
PAGE = 4096
SIZE = 256
CANARY = b"\xa5" * 8
TRIES = 3_000
STEP_NS = 1_000_000  # of an engine that takes its time


class Oracle:
    """
    What was accepted, and what the accelerators did.

    Attributes:
        accepted: numbers that a queue took.
        done: number -> how often it was executed, on whichever host.
        dropped: numbers that were aborted.
        pasids: name of a host -> PASIDs on its bus.
    """

    def __init__(self):
        self.accepted = []
        self.done = Counter()
        self.dropped = []
        self.pasids = {}
        self.wrong = []

    def watch(self, host, slow=None):
        """From now on what *host*'s accelerator executes is counted; *slow*: it takes its time, by this dice."""
        silicon, sched = host.kernel.sub(Pci).devices[DSA].function, host.kernel.sched
        if slow is not None:
            silicon.port.call_soon = lambda step: sched.call_later(slow.randrange(STEP_NS), step)
        execute, seen = silicon.execute, self.pasids.setdefault(host.name, set())

        def counted(ctx):
            status = execute(ctx)  # one that waits for a page raises, and comes again
            desc = ctx.desc
            number = desc.src if desc.opcode == DSA_OPCODE_MEMFILL else desc.size
            if desc.opcode in (DSA_OPCODE_MEMFILL, DSA_OPCODE_MEMMOVE):
                seen.add(ctx.work.pasid)
                (self.dropped.append(number) if ctx.work.dropped else self.done.update([number]))
            return status

        silicon.execute = counted

    def check(self):
        """Each that was accepted was done once, and none that was not."""
        assert self.wrong == []
        assert self.dropped == []
        assert len(self.accepted) == len(set(self.accepted))
        lost = set(self.accepted) - self.done.keys()
        assert not lost, f"accepted and never done: {sorted(lost)}"
        twice = {number: n for number, n in self.done.items() if n != 1}
        assert not twice, f"done more than once: {twice}"
        assert self.done.keys() == set(self.accepted)


def burn(kernel, n):
    """Another process has *n* PASIDs, so that those of machines are others than on the next host."""
    proc = kernel.process(comm="tenant")
    fd = proc.open("/dev/ioasid", os.O_RDWR)
    size = i.ioasid_alloc_request.sizeof()
    row = i.ioasid_alloc_request(argsz=size, range=i.ioasid_alloc_request_range(min=1, max=INVALID_IOASID >> 12))
    for _ in range(n):
        proc.ioctl(fd, i.IOASID_REQUEST_ALLOC, row)
    return proc


class Host:
    """A host with an accelerator for machines, and a tenant whose PASIDs shift theirs by *shift*."""

    def __init__(self, kernel, name, *, shift=0, shared=16, **attrs):
        self.kernel, self.name = kernel, name
        root = kernel.process()
        prepare(root, shared=shared, dedicated=1, **attrs)
        root.exit()
        self.tenant = burn(kernel, shift)

    @classmethod
    def boot(cls, name, *, seed=None, machine="vmm", **kw):
        kernel = boot(machine, seed=seed or 0)
        if seed is not None:
            kernel.up()
            kernel.sched.explore("random", seed)
        return cls(kernel, name, **kw)

    def quiet(self):
        """No machine and no tenant is left."""
        self.tenant.exit()

    def shutdown(self):
        self.quiet()
        self.kernel.shutdown()
        assert self.kernel.oopses == []


class Process:
    """A process of the guest with *depth* descriptors on their way."""

    def __init__(self, run, number, n, *, shared, depth=3, block=False):
        self.run, self.number, self.n = run, number, n
        self.shared, self.depth, self.block = shared, depth, block
        self.expected = {}

    def __call__(self):
        self.proc = proc = self.run.vmm.process(comm=f"load{self.number}")
        fd = proc.open(QUEUE, os.O_RDWR)
        self.portal = proc.mmap(0, PAGE, PROT_WRITE, MAP_SHARED, fd, 0)
        slots = [self._slot() for _ in range(self.depth)]
        for seq in range(self.n):
            slot = slots[seq % self.depth]
            if seq >= self.depth:
                self._reap(*slot)
            number = (self.number + 1) << 32 | seq + 1
            slots[seq % self.depth] = slot = self._place(slot)
            self._submit(number, *slot[:2])
        for slot in slots[: self.n]:
            self._reap(*slot)
        proc.munmap(self.portal, PAGE)
        proc.close(fd)
        proc.exit()

    def _slot(self):
        record = self.proc.mem.alloc(32, align=32)
        return record, self.proc.mem.alloc(SIZE + len(CANARY), align=64), SIZE

    def _place(self, slot):
        """Where the next one writes: with page requests to memory that nobody has touched."""
        record, dst, _ = slot
        self.proc.mem.write(record, bytes(32))
        if self.block:
            dst = self.proc.mmap(0, PAGE, 3, 0x22)
        else:
            self.proc.mem.write(dst, bytes(SIZE) + CANARY)
        return record, dst, SIZE

    def _submit(self, number, record, dst):
        flags = IDXD_OP_FLAG_CRAV | IDXD_OP_FLAG_RCR | (IDXD_OP_FLAG_BOF if self.block else 0)
        desc = bytes(
            dsa_hw_desc(
                flags=flags,
                opcode=DSA_OPCODE_MEMFILL,
                completion_addr=record,
                src_addr=number,
                dst_addr=dst,
                xfer_size=SIZE,
            )
        )
        self.expected[record] = number
        oracle = self.run.oracle
        if not self.shared:
            oracle.accepted.append(number)
            self.proc.movdir64b(self.portal, desc)
            return
        for _ in range(TRIES):
            oracle.accepted.append(number)  # it may be done before the flag is seen
            if not self.proc.enqcmd(self.portal, desc):
                return
            oracle.accepted.remove(number)
            self.proc.poll([], 1)
        raise AssertionError(f"the queue never took {number:#x}")

    def _reap(self, record, dst, size):
        for _ in range(TRIES):
            row = dsa_completion_record.from_bytes(self.proc.mem.read(record, 32))
            if row.status:
                break
            self.proc.poll([], 1)
        else:
            raise AssertionError(f"{self.expected[record]:#x} has no completion record")
        number = self.expected[record]
        assert row.status == 1, f"{number:#x}: status {row.status:#x} at {row.fault_addr:#x}"
        assert self.proc.mem.read(dst, size) == number.to_bytes(8, "little") * (size // 8), f"{number:#x}: data"
        if self.block:
            self.proc.munmap(dst, PAGE)
        else:
            assert self.proc.mem.read(dst + size, len(CANARY)) == CANARY


class KernelCopies:
    """The guest's kernel copies through its DMA API: ENQCMDS on a shared queue."""

    def __init__(self, run, n):
        self.run, self.n = run, n

    def __call__(self):
        kernel, oracle = self.run.vmm.guest.kernel, self.run.oracle
        proc = kernel.process()
        enable(proc, kind="kernel")
        pdev = kernel.sub(Pci).devices["0000:00:04.0"]
        chan = kernel.sub(Modules).loaded["idxd"].bus.devices["wq0.0"].idxd_chan
        src, dst = dma_alloc_coherent(pdev, PAGE), dma_alloc_coherent(pdev, PAGE)
        chan.chan_get()
        for seq in range(self.n):
            size, results = 64 + seq, []
            src.write(0, bytes([seq + 1]) * size)
            desc = chan.prep_memcpy(dst.addr, src.addr, size, DMA_PREP_INTERRUPT)
            desc.txd.callback = results.append
            oracle.accepted.append(size)
            chan.tx_submit(desc)
            for _ in range(TRIES):
                if results:
                    break
                proc.poll([], 1)
            assert results == ["NOERROR"], f"copy of {size} bytes: {results}"
            assert dst.read(0, size) == bytes([seq + 1]) * size
        chan.chan_put()
        for buffer in (src, dst):
            dma_free_coherent(buffer)
        proc.write_text("/sys/bus/dsa/drivers/dmaengine/unbind", "wq0.0")
        proc.exit()


class Run:
    """
    A machine on *hosts[0]* that moves along them, with a load.

    Attributes:
        vmm: where it is now.
        moves: how often it moved; *live* of them began before the load had ended.
    """

    def __init__(self, hosts, *, seed=0, kind="1swq", vcpus=1, user=True, slow=False, **kw):
        self.hosts, self.seed = hosts, seed
        self.oracle = Oracle()
        for host in hosts:
            self.oracle.watch(host, random.Random(seed) if slow else None)
        self.shared = kind == "1swq"
        self.vmm = Vmm(hosts[0].kernel, memory=MEMORY, vcpus=vcpus, mdev=kind, **kw)
        self.moves = self.live = 0
        self.threads = []
        if user:
            self.vmm.run(lambda: enable(self.vmm.process()))

    def explore(self):
        self.vmm.guest.kernel.sched.explore("random", self.seed)

    def start(self, *loads):
        self.threads += [self.vmm.spawn(load) for load in loads]

    def until(self, n):
        """*n* descriptors were accepted, or all is done."""
        sched = self.vmm.host.sched
        sched.idle_until(lambda: len(self.oracle.accepted) >= n or all(t.done for t in self.threads))

    def move(self, to, progress=lambda p: None):
        """Migrate; before the first entry there, all that was bound here is bound in other numbers of the host."""
        here = self.vmm

        def watch(p):
            progress(p)
            if p.step == "run":
                self.compare(here, migration.destination)

        self.live += not all(t.done for t in self.threads)
        migration = Migration(here, self.hosts[to].kernel, DSA, watch)
        self.vmm = migration.run()
        self.moves += 1

    @staticmethod
    def compare(here, there):
        mine, theirs = here.pasids, there.pasids
        assert theirs.host_of.keys() == mine.host_of.keys()
        assert theirs.bound == mine.bound
        assert not set(mine.host_of.values()) & set(theirs.host_of.values()), "a host PASID of the source is used"
        table = there.vm._vm.pasid_table
        for guest in theirs.bound.keys() - {0}:
            assert table.lookup(guest) == theirs.host_of[guest]
        assert sum(vcpu.silicon.stat["exits"] for vcpu in there.vcpus) == 0
        for area in here.memory.areas:
            assert here.memory.read(area.gpa, area.size) == there.memory.read(area.gpa, area.size), "memory differs"

    def try_move(self, to, stop_at):
        """Move, but fail at step *stop_at*, if it is reached: the machine goes on where it was."""

        def progress(p):
            if p.step == stop_at:
                raise OSError(5, f"cut at {stop_at}")

        here = self.vmm
        try:
            self.move(to, progress=progress)
        except MigrationError as e:
            if not isinstance(e.__cause__, OSError | None):
                raise
            self.vmm = here

    def finish(self):
        """All loads end well, and each descriptor was done once."""
        self.vmm.wait(self.threads)
        for thread in self.threads:
            assert thread.done, f"{thread.name} does not end"
            if thread.error is not None:
                raise thread.error
        self.oracle.check()
        assert sum(vcpu.silicon.stat["enqcmd_exits"] for vcpu in self.vmm.vcpus) == 0, "a PASID had no translation"

    def close(self):
        self.vmm.shutdown()
        assert self.vmm.guest.kernel.oopses == []
