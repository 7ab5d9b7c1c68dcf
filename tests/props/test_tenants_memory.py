"""
No descriptor reaches memory outside of its sender's address space, whatever is in it and whichever road it takes.

Random descriptors: any opcode, flags, sizes and addresses - the sender's, other tenants', kernels', physical ones,
registers, the interrupt range, not canonical ones - batches of such, completion records anywhere, PASID and privilege
bits set. Afterwards all that is not the sender's is compared with what it was. ``TENANTS_SEED=n`` repeats a run.
"""

from __future__ import annotations

import os
import random
import time
from contextlib import suppress

import pytest
from tenants import OPEN_PAGES, PAGE, Tenants

from pykernel.mm.phys import PhysMem

SEED = int(os.environ.get("TENANTS_SEED", str(time.time_ns() % 1_000_000)))
ATTACKS = int(os.environ.get("TENANTS_ATTACKS", "150"))
OPCODES = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0x0A, 0x10, 0x11, 0x12, 0x13, 0x14, 0x15, 0x17, 0x20]
SIZES = [0, 1, 2, 31, 32, 64, 100, 4095, 4096, 4097, 8192, 40000, 1 << 20, (1 << 32) - 1]


class Attacker:
    """Makes descriptors of *rng* for *sender*, who knows all addresses that there are."""

    def __init__(self, tenants, sender, rng):
        self.tenants, self.sender, self.rng = tenants, sender, rng
        phys = tenants.host.sub(PhysMem)
        bar = next(iter(tenants.vms[0].devices.values())).bars[2][0] if tenants.vms else 0xF0000000
        frames = [t.proc.task.mm.mem.translate(t.base) or 0 for t in tenants.home]
        self.others = [t.base for t in tenants.home if t is not sender]
        self.kernel = [
            0, 0xFEE00000, 0xFEE01000, bar, phys.size - PAGE, phys.size, 1 << 47, (1 << 47) - PAGE, 1 << 52, 1 << 63,
            (1 << 64) - PAGE, (1 << 64) - 64, 0xFFFF888000000000, 0xFFFFFFFF81000000, 0x8000_0000_0000,
            *frames, *(0xFFFF888000000000 + pa for pa in frames), *(pa for _, pa in tenants.frames),
            *(0xFFFF888000000000 + pa for _, pa in tenants.frames),
        ]  # fmt: skip
        live = [p for vmm in tenants.vms for p in vmm.pasids.host_of.values()]
        self.pasids = [0, 1, 2, 3, 5, 0xFFFFF, *live]

    def address(self):
        rng, sender = self.rng, self.sender
        pick = rng.random()
        if pick < 0.55:
            return sender.open + rng.randrange(OPEN_PAGES * PAGE) // rng.choice([1, 32, 64]) * 1
        if pick < 0.7:
            return rng.choice(self.others or [0]) + rng.randrange(0, 8 * PAGE, 32)
        if pick < 0.95:
            return rng.choice(self.kernel) + rng.choice([0, 0, 32, 4095])
        return rng.getrandbits(64)

    def flags(self):
        # RCI, too: the handle is anybody's
        return self.rng.choice([0x0C, 0x0C, 0x0E, 0x1C, 0x0D, 0x10C, 0x08, self.rng.getrandbits(24)])

    def record(self):
        return self.rng.choice([self.sender.record, self.address() & -32, self.address() & -32, self.address()])

    def first(self):
        """PASID, reserved bits and privilege, as an attacker would have them."""
        high = self.rng.choice([0, 1 << 31, self.rng.getrandbits(11) << 20])
        return high & 0xFFFFFFFF | self.rng.choice(self.pasids)

    def descriptor(self, depth=0):
        rng = self.rng
        opcode = rng.choice(OPCODES if rng.random() < 0.95 else range(256))
        word = self.flags() & 0xFFFFFF | opcode << 24
        raw = self.first().to_bytes(4, "little") + word.to_bytes(4, "little")
        source, size = self.address(), rng.choice(SIZES)
        if opcode == 1 and depth == 0 and rng.random() < 0.8:
            size, source = rng.randrange(2, 6), self.batch(5)
        tail = bytearray(rng.randbytes(26) if rng.random() < 0.1 else bytes(26))
        if rng.random() < 0.4:
            tail[2:10] = (self.address() % (1 << 64)).to_bytes(8, "little")  # a second destination, a record
        raw += b"".join((x % (1 << 64)).to_bytes(8, "little") for x in (self.record(), source, self.address()))
        raw += (size % (1 << 32)).to_bytes(4, "little") + rng.choice([0, 0, rng.getrandbits(16)]).to_bytes(2, "little")
        return (raw + bytes(tail))[:64].ljust(64, b"\0")

    def batch(self, n):
        at = self.sender.open + PAGE
        self.sender.proc.mem.write(at, b"".join(self.descriptor(1) for _ in range(n)))
        return at

    # ---- roads, as code of the sender's kernel

    def enqcmd(self):
        raw = self.descriptor()
        if self.rng.random() < 0.7:
            raw = bytes(4) + raw[4:]
        with suppress(OSError):
            self.sender.proc.enqcmd(self.sender.portal, raw)

    def posted(self):
        """A store of 64 bytes with a PASID to a shared queue's portal, or to a dedicated one."""
        with suppress(OSError):
            self.sender.proc.movdir64b(self.sender.portal + 64 * self.rng.randrange(64), self.descriptor())

    def written(self):
        with suppress(OSError):
            self.sender.proc.write(self.sender.fd, self.descriptor() * self.rng.choice([1, 3]))

    def supervisor(self, vmm):
        """The guest's kernel: any PASID, any privilege."""
        gpa = next(iter(vmm.devices.values())).bars[2][0] + self.rng.randrange(4) * PAGE
        raw = self.descriptor()
        first = int.from_bytes(raw[:4], "little") & ~(0x7FF << 20)
        vmm.guest.vcpu.enqcmd(gpa, first.to_bytes(4, "little") + raw[4:], supervisor=True)

    def kernel_posted(self, vmm):
        gpa = next(iter(vmm.devices.values())).bars[2][0] + self.rng.randrange(4) * PAGE
        vmm.guest.vcpu.movdir64b(gpa, self.descriptor())

    def once(self, vmm):
        """One attack; of a guest's kernel with *vmm*."""
        roads = [self.enqcmd, self.enqcmd, self.enqcmd, self.posted, self.written]
        if vmm is not None:
            roads = [lambda: self.supervisor(vmm), lambda: self.kernel_posted(vmm)]
        self.rng.choice(roads)()
        self.sender.proc.poll([], 1)


def attack(tenants, rng, n, *, burst=5):
    """*n* attacks of every tenant in turn. Raises AssertionError: something that is not the sender's has changed."""
    senders = list(tenants.home)
    for turn in range(n // burst):
        sender = senders[turn % len(senders)]
        vmm = tenants.home[sender]
        kernel = vmm if rng.random() < 0.4 else None  # a kernel may do what it wants to its own processes
        mine = [t for t, home in tenants.home.items() if home is kernel] if kernel else [sender]
        before = tenants.picture(*mine, machine=kernel)
        attacker = Attacker(tenants, sender, rng)
        tenants.do(sender, lambda a=attacker, v=kernel: [a.once(v) for _ in range(burst)])
        after = tenants.picture(*mine, machine=kernel)
        wrong = [name for name in before if before[name] != after[name]]
        assert not wrong, f"seed {SEED}, turn {turn}: {sender.name} wrote to {wrong}"
        seen = b"".join(t.seen() for t in mine)
        for other in tenants.home:
            if other not in mine:
                stolen = any(page[at + 16 : at + 48] in seen for page in other.secrets for at in range(0, PAGE, 64))
                assert not stolen, f"seed {SEED}, turn {turn}: {sender.name} has a secret of {other.name}"


@pytest.mark.parametrize("bof", [0, 1])
def test_no_descriptor_reaches_beyond_its_sender(bof):
    """Host and guest processes and guest kernels on one shared queue."""
    print(f"TENANTS_SEED={SEED}")
    tenants = Tenants(vms=2, each=2, here=2, block_on_fault=bof)
    attack(tenants, random.Random(SEED + bof), ATTACKS)
    tenants.settle(30_000)
    tenants.end()


def test_nor_does_one_of_a_dedicated_queue():
    """One guest has a dedicated queue, others the shared one: the PASID in a descriptor is nobody's."""
    print(f"TENANTS_SEED={SEED}")
    tenants = Tenants(vms=1, each=1, here=1, dedicated=1)
    tenants.machine("owner", 1, mdev="1dwq")
    attack(tenants, random.Random(SEED), ATTACKS)
    tenants.settle(30_000)
    tenants.end()


# ---- the oracle sees what it is for


def mutant_translation(monkeypatch):
    """The processor lets the guest's PASID through."""
    from pykernel.virt.kvm.vmcs import Vmcs

    monkeypatch.setattr(Vmcs, "translate_pasid", lambda self, pasid: pasid)


def mutant_silicon(monkeypatch):
    """A shared queue takes posted writes, with their PASIDs."""
    from pykernel.hw.dsa.function import DsaFunction

    monkeypatch.setattr(DsaFunction, "posted_write", lambda self, bar, off, data: self.dmwr(bar, off, data))


def mutant_write(monkeypatch):
    """write() leaves the PASID as it is."""
    from pykernel.drivers.idxd.cdev import CdevFile
    from pykernel.drivers.idxd.submit import portal_write

    monkeypatch.setattr(CdevFile, "_submit", lambda self, desc: portal_write(self.ctx.wq, bytes(desc)))


@pytest.mark.parametrize("mutant", [mutant_translation, mutant_silicon, mutant_write])
def test_the_oracle_catches(mutant, monkeypatch):
    mutant(monkeypatch)
    tenants = Tenants(vms=2, each=1, here=2)

    with pytest.raises(AssertionError, match=r"wrote to|has a secret"):
        attack(tenants, random.Random(1), 2000)
