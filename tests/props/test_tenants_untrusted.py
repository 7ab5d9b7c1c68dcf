"""
What a guest or a VMM says is not believed: garbage is refused, never masked to twenty bits, and never an oops.

``TENANTS_SEED=n`` repeats a run.
"""

from __future__ import annotations

import os
import random
import time
from contextlib import suppress

import pytest
from tenants import PAGE, Tenants, host_with

from pykernel.hw.vtd import walk
from pykernel.uapi.linux import iommu as u
from pykernel.uapi.linux import vfio as v
from pykernel.uapi.rfc import vfio_nesting as n

SEED = int(os.environ.get("TENANTS_SEED", str(time.time_ns() % 1_000_000)))
TRIES = int(os.environ.get("TENANTS_TRIES", "300"))
WIDE = [1 << 20, (1 << 20) + 1, (1 << 20) + 2, 1 << 21 | 1, 1 << 31, (1 << 32) - 1, (1 << 32) + 1, (1 << 64) - 1]


@pytest.fixture
def tenants():
    print(f"TENANTS_SEED={SEED}")
    made = Tenants(vms=2, each=1, here=1, dedicated=1, block_on_fault=1)
    yield made
    assert made.host.oopses == []
    for vmm in list(made.vms):
        made.kill(vmm)
    made.end()


def honest(tenants):
    """Everybody else still copies."""
    for tenant, vmm in tenants.home.items():
        if vmm is not tenants.vms[0]:
            assert tenants.do(tenant, lambda t=tenant: t.copy(b"honest")) == b"honest"
    assert tenants.host.oopses == []


# ---- numbers of more than twenty bits


def bind_data(pasid, guest, gpgd=0x1000):
    row = u.iommu_gpasid_bind_data(
        argsz=u.iommu_gpasid_bind_data.sizeof(), version=1, format=1, addr_width=48, flags=u.IOMMU_SVA_GPASID_VAL
    )
    row.hpasid, row.gpasid, row.gpgd = pasid, guest, gpgd
    return bytes(row)


@pytest.mark.parametrize("wide", WIDE)
def test_no_door_takes_more_than_twenty_bits(tenants, wide):
    """Cut to twenty bits each of these would be somebody's PASID."""
    vmm = tenants.vms[0]
    guest, host = next(iter(vmm.pasids.host_of.items()))
    mine = vmm.nesting.alloc(1, 0xFFFFF)
    op = vmm.nesting._op

    for hpasid, gpasid in ((wide, 77), (wide & ~0xFFFFF | host, 78), (mine, wide)):
        with pytest.raises(OSError, match="Invalid argument"):
            op(n.VFIO_IOMMU_NESTING_OP_BIND_PGTBL, bind_data(hpasid, gpasid))
    with pytest.raises(OSError, match="Invalid argument"):
        op(n.VFIO_IOMMU_NESTING_OP_UNBIND_PGTBL, bind_data(wide, guest))
    if wide < 1 << 32:
        with pytest.raises(OSError, match="Invalid argument"):
            vmm.nesting.alloc(wide, wide)
        with suppress(OSError):  # linked to no ID: /dev/ioasid of the series says nothing
            vmm.nesting.free(wide)
    assert vmm.viommu.virtual_command(2, wide & ~0xFFFFF | guest, 0)[0] != 0
    table = vmm.vm._vm.pasid_table
    for pair in ((wide, 5), (5, wide)):
        with pytest.raises(ValueError, match="is no PASID"):
            table.set(*pair)
    assert vmm.pasids.host_of[guest] == host
    assert table.lookup(guest) == host
    honest(tenants)


def test_the_processor_takes_no_wide_pasid_either(tenants):
    """IA32_PASID: 30:20 and 63:32 are reserved, by WRMSR (#GP) and by XRSTORS."""
    vmm = tenants.vms[0]

    def write(value):
        from pykernel.cpu.trap import Trap

        try:
            vmm.guest.vcpu.wrmsr(0xD93, value)
        except Trap:
            return "#GP"
        return "taken"

    for bit in [*range(20, 31), *range(32, 64)]:
        assert vmm.run(lambda b=bit: write(1 << 31 | 1 << b | 1)) == "#GP", bit
    honest(tenants)


# ---- garbage


def garbage(rng, size):
    """Bytes that look a little like what is wanted, or not at all."""
    raw = bytearray(rng.randbytes(size))
    for at in range(0, size - 4, 4):
        if rng.random() < 0.6:
            value = rng.choice([0, 1, 2, 4, size, 72, 48, 0xFFFFF, 1 << 20, 0xFFFFFFFF, rng.getrandbits(12)])
            raw[at : at + 4] = value.to_bytes(4, "little")
    return bytes(raw)


def test_nesting_ioctls_take_garbage(tenants):
    """Bind, unbind, invalidate and answers with random fields: an errno or nothing; others never notice."""
    vmm, rng = tenants.vms[0], random.Random(SEED)
    host = next(iter(vmm.pasids.host_of.values()))
    ops = [
        n.VFIO_IOMMU_NESTING_OP_BIND_PGTBL,
        n.VFIO_IOMMU_NESTING_OP_UNBIND_PGTBL,
        n.VFIO_IOMMU_NESTING_OP_CACHE_INVLD,
    ]
    for _ in range(TRIES):
        pick = rng.random()
        with suppress(OSError):
            if pick < 0.3:
                gpgd = rng.choice([rng.getrandbits(64), rng.getrandbits(30) << 12, 0xFEE00000, 0xFD000000])
                vmm.nesting._op(ops[0], bind_data(vmm.nesting.alloc(1, 0xFFFFF), rng.randrange(1, 1 << 20), gpgd))
            elif pick < 0.6:
                raw = bytearray(bind_data(rng.choice([host, 0, 1, rng.getrandbits(21)]), rng.getrandbits(21)))
                raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
                vmm.nesting._op(rng.choice(ops), bytes(raw))
            elif pick < 0.9:
                vmm.nesting._op(rng.choice([*ops, 5, 1 << 31]), garbage(rng, rng.choice([4, 48, 56, 72, 96])))
            else:
                size = rng.choice([n.vfio_nesting_response.sizeof(), 7, 4096 // 32 * 32])
                vmm.proc.write(vmm.nesting.faults, garbage(rng, size))
        assert tenants.host.oopses == []
    honest(tenants)


def test_registers_and_configuration_take_garbage(tenants):
    """Whatever a VMM writes into the regions of its device."""
    vmm, rng = tenants.vms[0], random.Random(SEED)
    fd = next(iter(vmm.devices.values())).device.fd
    for _ in range(TRIES):
        index = rng.choice([v.VFIO_PCI_BAR0_REGION_INDEX] * 3 + [v.VFIO_PCI_BAR2_REGION_INDEX, 7, rng.randrange(12)])
        at = rng.choice([rng.randrange(0x200), rng.randrange(0x2000), 0xA0, 0x80, 0x90]) & -rng.choice([1, 4, 4, 64])
        with suppress(OSError):
            vmm.proc.pwrite(fd, garbage(rng, rng.choice([1, 2, 4, 4, 8, 64])), index << 40 | at)
            vmm.proc.pread(fd, rng.choice([1, 4, 8]), index << 40 | at)
        assert tenants.host.oopses == []
    tenants.settle(30_000)
    honest(tenants)


@pytest.mark.parametrize("mdev", ["1swq", "1dwq"])
def test_migration_streams_are_garbage(tenants, mdev):
    """A stream with random changes behind its header: refused, or a device that reaches no more than it did."""
    vmm = tenants.machine("moved", 1, mdev=mdev)
    tenants.vms.remove(vmm)
    tenants.vms.insert(0, vmm)
    device = vmm.proc.fds.get(next(iter(vmm.devices.values())).device.fd).vdev
    rng = random.Random(SEED)
    victims = [t for t, home in tenants.home.items() if home is not vmm]
    before = [t.memory() for t in victims]
    for _ in range(TRIES):
        raw = bytearray(device.migration.save())
        for _ in range(rng.randrange(1, 30)):
            raw[rng.randrange(40 if rng.random() < 0.95 else 0, len(raw))] = rng.getrandbits(8)
        with tenants.host.as_task(vmm.proc.task):
            with suppress(OSError):
                device.migration.migration_set_state(v.VFIO_DEVICE_STATE_STOP)
                device.migration.load(bytes(raw[: rng.choice([len(raw), len(raw), rng.randrange(len(raw))])]))
            with suppress(OSError):
                device.migration.migration_set_state(v.VFIO_DEVICE_STATE_RUNNING)
        if device.host.pasid is not None:
            assert device.host.pasid in device.pasids.host_pasids()
        assert not device.wq.shared or not device.host.on
        assert tenants.host.oopses == []
    assert [t.memory() for t in victims] == before
    honest(tenants)


# ---- tables of a guest


def test_tables_of_a_guest_lead_nowhere_but_into_its_memory(tenants):
    """Random entries, of which many make a whole walk; the second stage decides where it ends."""
    _hang_tables(tenants)


def test_without_the_second_stage_they_would(monkeypatch):
    """The mutant: where the guest's tables lead is taken for an address of the host's, which leaves nothing whole."""
    tenants = Tenants(vms=2, each=1, here=1)
    with monkeypatch.context() as mutant:
        mutant.setattr(walk.Nested, "extents", walk.Walk.extents)
        with pytest.raises(AssertionError):  # the picture's, or of a kernel whose own memory was hit
            _hang_tables(tenants)


def _hang_tables(tenants):
    """Entries at random: frames of the host and of other guests, beyond RAM, registers, the interrupt range."""
    vmm, rng = tenants.vms[0], random.Random(SEED)
    tenant = next(t for t, home in tenants.home.items() if home is vmm)
    mm = tenant.proc.task.mm.mem
    table = mm.pgd()
    phys = vmm.ram
    others = [t for t in tenants.home if t is not tenant]
    mine = [t.proc.task.mm.mem.translate(t.base) for t in others]
    targets = [*mine, *(pa for _, pa in tenants.frames), 0xFEE00000, 0xFD000000, phys.size, 1 << 40, (1 << 46) - PAGE]
    before = tenants.picture(tenant, machine=vmm)
    done = 0
    for _ in range(TRIES // 3):
        page = phys.alloc_page()
        # half of them lead back here, so that a walk ends anywhere
        words = [(rng.choice([page, rng.choice(targets)]) & ((1 << 52) - PAGE)) | 7 for _ in range(512)]
        phys.write(page, b"".join(w.to_bytes(8, "little") for w in words))
        # a level of the guest's own making, hung below entry 5 of its top table: tables of tables of anything
        slot = rng.choice([5, 6])
        phys.write(table + 8 * slot, (rng.choice([page, page, rng.choice(targets)]) | 7).to_bytes(8, "little"))
        for _ in range(4):
            va = slot << 39 | rng.getrandbits(27) << 12
            raw = _to(tenant, va, rng)
            vmm.run(lambda r=raw: tenant.submit(r))
            done += 1
        tenants.settle(1)
        phys.write(table + 8 * slot, bytes(8))
        phys.free_pages(page)
    after = tenants.picture(tenant, machine=vmm)
    wrong = [name for name in before if before[name] != after[name]]
    assert not wrong, f"TENANTS_SEED={SEED}: {wrong}"
    assert done
    seen = tenant.seen()
    assert not any(page[16:48] in seen for t in others for page in t.secrets)
    honest(tenants)


def _to(tenant, va, rng):
    from tenants import memmove

    src, dst = (va, tenant.open) if rng.random() < 0.5 else (tenant.open + PAGE, va)
    return memmove(src, dst, rng.choice([64, 4096]), rng.choice([tenant.record, va]))


# ---- quotas


def test_pasids_of_one_machine_end_at_its_quota():
    """A guest that takes all that it gets leaves the others theirs, also where there are few in all."""
    tenants = Tenants(vms=2, each=1, here=1, host=host_with("pasid_bits = 20"))
    greedy = tenants.vms[0]
    taken = 0
    while greedy.viommu.virtual_command(1, 0, 0)[0] == 0:
        taken += 1
        assert taken <= 1000, "no end"
    assert taken > 900
    for vmm in (None, tenants.vms[1]):
        late = tenants.admit(vmm, f"late-{vmm is None}")
        assert tenants.do(late, lambda t=late: t.copy(b"still")) == b"still"
    tenants.end()


@pytest.mark.parametrize("flooders", [1, 3])
def test_a_flood_of_retries_leaves_others_their_turn(flooders):
    """Guests that fill the queue as fast as they can, also with commands that never end: others are served."""
    tenants = Tenants(vms=2, each=2, here=1, swq=4, block_on_fault=1)
    vmm = tenants.vms[0]
    vmm.requests._hand_on = lambda group, prm: None
    bad = [t for t, home in tenants.home.items() if home is vmm]

    def flood(tenant):
        for _ in range(60):
            tenant.stall()

    def quietly(tenant):
        with suppress(AssertionError):
            flood(tenant)

    threads = [vmm.spawn(lambda t=t: quietly(t)) for t in (bad * 2)[:flooders]]
    clock = tenants.host.sched.clock_ns
    for tenant, home in tenants.home.items():
        if home is not vmm:
            began = clock()
            assert tenants.do(tenant, lambda t=tenant: t.copy(b"mine")) == b"mine"
            assert clock() - began < 30 * 10**9
    vmm.wait(threads)
    tenants.settle(60_000)
    tenants.end()
