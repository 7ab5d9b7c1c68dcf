"""5.3: the invalidation queue, the caches that it empties, and the registers around it (VT-d 6, 11.4)."""

from __future__ import annotations

from struct import pack

import pytest

from pykernel.hw.vtd import regs as r
from pykernel.pci.function import DmaFault

SOURCE = 0x6A08
RW, US = 3, 4
EVENT_IRQ, DONE_IRQ = 90, 92
ALL = 0x7FFFFFFFFFFFF000  # an ATS range of everything: all bits from 12 on but the uppermost


def cc(granularity, did=0, source=0, fm=0):
    return (1 | granularity << 4 | did << 16 | source << 32 | fm << 48, 0)


def iotlb(granularity, did=0, addr=0, order=0, ih=0):
    return (2 | granularity << 4 | did << 16, addr | ih << 6 | order)


def dev_tlb(source, addr=ALL, size=1):
    return (3 | source << 32, addr | size)


def pasid_iotlb(granularity, did, pasid, addr=0, order=0):
    return (6 | granularity << 4 | did << 16 | pasid << 32, addr | order)


def pasid_cache(granularity, did=0, pasid=0):
    return (7 | granularity << 4 | did << 16 | pasid << 32, 0)


def pasid_dev_tlb(source, pasid, addr=ALL, size=1, every=0):
    return (8 | source << 16 | pasid << 32, addr | size << 11 | every)


def wait(b, value=2, flags=1 << 5):
    return (5 | flags | value << 32, b.status)


@pytest.fixture
def first(bench):
    """PASID 1, domain 3, whose page 0x1000 was read; the table says another frame by now."""
    b = bench()
    b.scalable()
    b.pt, b.old, b.new = b.page(), b.page(), b.page()
    b.phys.write(b.old, b"old")
    b.phys.write(b.new, b"new")
    b.leaf = b.map(b.pt, 0x1000, b.old | RW | US)
    b.entry = b.first(1, b.pt, did=3)
    b.on()
    assert b.slot.dma_read(0x1000, 3, 1) == b"old"
    b.put(b.leaf, b.new | RW | US)
    return b


@pytest.fixture
def second(bench):
    """Requests without a PASID, domain 3; the same."""
    b = bench()
    b.scalable()
    b.pt, b.old, b.new = b.page(), b.page(), b.page()
    b.phys.write(b.old, b"old")
    b.phys.write(b.new, b"new")
    b.leaf = b.map(b.pt, 0x1000, b.old | RW)
    b.entry = b.second(0, b.pt, did=3)
    b.on()
    assert b.slot.dma_read(0x1000, 3) == b"old"
    b.put(b.leaf, b.new | RW)
    return b


# ---- translations


@pytest.mark.parametrize(
    ("descriptor", "seen"),
    [
        pytest.param(iotlb(1), b"new", id="global"),
        pytest.param(iotlb(2, 3), b"new", id="domain"),
        pytest.param(iotlb(2, 4), b"old", id="another domain"),
        pytest.param(iotlb(3, 3, 0x1000), b"new", id="page"),
        pytest.param(iotlb(3, 3, 0x2000), b"old", id="another page"),
        pytest.param(iotlb(3, 3, 0x0000, 1), b"new", id="two pages"),
        pytest.param(iotlb(3, 3, 0x0000, 18), b"new", id="1 GiB"),
        pytest.param(iotlb(3, 3, 0x1000, 0, 1), b"new", id="with the hint"),
        pytest.param(pasid_iotlb(2, 3, 0), b"old", id="PASID-based: second-stage entries have no PASID"),
        pytest.param(cc(1), b"old", id="context cache"),
        pytest.param(pasid_cache(3), b"old", id="PASID cache"),
    ],
)
def test_iotlb_of_second_stage(second, descriptor, seen):
    """What is cached is seen until the right descriptor comes."""
    b = second
    assert b.slot.dma_read(0x1000, 3) == b"old"
    b.submit(descriptor)
    assert b.unit.readl(r.FSTS) == 0
    assert b.slot.dma_read(0x1000, 3) == seen


@pytest.mark.parametrize(
    ("descriptor", "seen"),
    [
        pytest.param(pasid_iotlb(2, 3, 1), b"new", id="PASID"),
        pytest.param(pasid_iotlb(2, 3, 2), b"old", id="another PASID"),
        pytest.param(pasid_iotlb(2, 4, 1), b"old", id="another domain"),
        pytest.param(pasid_iotlb(3, 3, 1, 0x1000), b"new", id="page"),
        pytest.param(pasid_iotlb(3, 3, 1, 0x5000), b"old", id="another page"),
        pytest.param(iotlb(1), b"new", id="global"),
        pytest.param(iotlb(2, 3), b"old", id="domain: first-stage entries stay"),
    ],
)
def test_iotlb_of_first_stage(first, descriptor, seen):
    b = first
    b.submit(descriptor)
    assert b.slot.dma_read(0x1000, 3, 1) == seen


def test_nested_entries_go_with_either_stage(bench):
    b = bench()
    b.scalable()
    ss = b.page()
    frames = [b.page() for _ in range(5)]
    for n, pa in enumerate(frames):
        b.map(ss, (n + 1) << 12, pa | RW)
        b.put(pa, *([(n + 2) << 12 | RW | US] * 2))
    b.phys.write(frames[4], b"old")
    new = b.page()
    b.phys.write(new, b"new")
    b.nested(1, 0x1000, ss, did=5)
    b.on()
    for descriptor in (iotlb(3, 5, 0x5000), iotlb(2, 5), iotlb(1)):
        leaf = b.map(ss, 0x5000, frames[4] | RW)
        b.submit(iotlb(1))
        assert b.slot.dma_read(0x1000, 3, 1) == b"old"
        b.put(leaf, new | RW)
        b.submit(pasid_iotlb(2, 5, 2))
        assert b.slot.dma_read(0x1000, 3, 1) == b"old"
        b.submit(descriptor)
        assert b.slot.dma_read(0x1000, 3, 1) == b"new"
    b.map(ss, 0x5000, frames[4] | RW)
    b.submit(pasid_iotlb(3, 5, 1, 0x1000))
    assert b.slot.dma_read(0x1000, 3, 1) == b"old"


def test_longer_accesses_are_remembered_and_forgotten(second):
    b = second
    b.map(b.pt, 0x2000, b.new | RW)
    assert b.slot.dma_read(0x1FFE, 4) == bytes(2) + b"ne"
    b.map(b.pt, 0x2000, b.old | RW)
    assert b.slot.dma_read(0x1FFE, 4) == bytes(2) + b"ne"
    b.submit(iotlb(3, 3, 0x2000))
    assert b.slot.dma_read(0x1FFE, 4) == bytes(2) + b"ol"


def test_the_fault_iotlb_loses_an_invalidation(second):
    b = second
    with b.kernel.faults.fail("iotlb", every=1) as lost:
        b.submit(iotlb(2, 3))
        assert b.slot.dma_read(0x1000, 3) == b"old"
    assert (lost.fired, lost.failed) == (1, ["domain 3"])
    b.submit(iotlb(2, 3))
    assert b.slot.dma_read(0x1000, 3) == b"new"


# ---- entries


@pytest.mark.parametrize(
    ("descriptor", "gone"),
    [
        pytest.param(pasid_cache(1, 3, 1), True, id="PASID in domain"),
        pytest.param(pasid_cache(1, 4, 1), False, id="PASID in another domain"),
        pytest.param(pasid_cache(1, 3, 2), False, id="another PASID"),
        pytest.param(pasid_cache(0, 3), True, id="domain"),
        pytest.param(pasid_cache(0, 4), False, id="another domain"),
        pytest.param(pasid_cache(3), True, id="global"),
        pytest.param(iotlb(1), False, id="IOTLB"),
        pytest.param(cc(1), False, id="context cache: the PASID cache stays"),
    ],
)
def test_the_pasid_cache(first, descriptor, gone):
    """A PASID that software took away is used until its entry is invalidated."""
    b = first
    b.put(b.entry, 0)
    b.submit(descriptor)
    if gone:
        with pytest.raises(DmaFault):
            b.slot.dma_read(0x1000, 3, 1)
    else:
        assert b.slot.dma_read(0x1000, 3, 1) in (b"old", b"new")


@pytest.mark.parametrize(
    ("descriptor", "gone"),
    [
        pytest.param(cc(1), True, id="global"),
        pytest.param(cc(2, 3), True, id="domain: an entry of scalable mode has none"),
        pytest.param(cc(3, 0, SOURCE), True, id="device"),
        pytest.param(cc(3, 0, SOURCE + 1), False, id="another function"),
        pytest.param(cc(3, 0, SOURCE + 4, 1), True, id="FM 1: bit 2 does not matter"),
        pytest.param(cc(3, 0, SOURCE + 6, 2), True, id="FM 2: bits 2 and 1"),
        pytest.param(cc(3, 0, SOURCE + 7, 3), True, id="FM 3: no bit of the function"),
        pytest.param(cc(3, 0, SOURCE + 8, 3), False, id="another device"),
        pytest.param(pasid_cache(3), False, id="PASID cache"),
    ],
)
def test_the_context_cache(first, descriptor, gone):
    b = first
    b.put(b.word(b.root + 0x6A * 16) - 1 + 8 * 32, 0)
    b.submit(descriptor)
    if gone:
        with pytest.raises(DmaFault):
            b.slot.dma_read(0x1000, 3, 1)
        assert b.fault()[0] == 0x41
    else:
        b.slot.dma_read(0x1000, 3, 1)


def test_the_context_cache_of_legacy_mode_knows_domains(bench):
    b = bench("sva = false")
    b.mode = 0
    at = b.context(1 | 2 << 2, 2 | 7 << 8)
    b.on()
    b.slot.dma_read(b.root, 1)
    b.put(at, 0)
    b.submit(cc(2, 6))
    b.slot.dma_read(b.root, 1)
    b.submit(cc(2, 7))
    with pytest.raises(DmaFault):
        b.slot.dma_read(b.root, 1)


def test_linuxs_order_of_teardown(first):
    """5.3: P is cleared, PASID cache, IOTLB: only then nothing of it is left."""
    b = first
    b.put(b.entry, b.word(b.entry) & ~1)
    assert b.slot.dma_read(0x1000, 3, 1) == b"old"
    b.submit(pasid_cache(1, 3, 1), pasid_iotlb(2, 3, 1), wait(b))
    assert b.word(b.status) == 2
    with pytest.raises(DmaFault):
        b.slot.dma_read(0x1000, 3, 1)
    assert b.fault()[0] == 0x59


def test_registers_of_a_new_root_need_invalidations(first):
    b = first
    b.unit.writeq(r.RTADDR, b.page() | 1 << 10)
    b.unit.writel(r.GCMD, r.TE | r.QIE | r.SRTP)
    assert b.slot.dma_read(0x1000, 3, 1) == b"old"
    b.submit(cc(1))
    with pytest.raises(DmaFault):
        b.slot.dma_read(0x1000, 3, 1)
    assert b.fault()[0] == 0x39


# ---- wait descriptors


def test_a_wait_descriptor_writes_its_status(first):
    assert first.wait(0xABCD) == 0xABCD
    assert first.unit.readq(r.IQH) == first.unit.readq(r.IQT)


@pytest.mark.parametrize("flags", [1 << 5 | 1 << 6, 1 << 5 | 1 << 7, 1 << 5 | 3 << 6])
def test_fence_and_drain(first, flags):
    first.submit(wait(first, 7, flags))
    assert first.word(first.status) == 7


def test_a_wait_descriptor_interrupts_once_until_it_is_cleared(first):
    b = first
    b.submit(wait(b, 2, 1 << 4), wait(b, 2, 1 << 4))
    assert (b.raised, b.unit.readl(r.ICS)) == ([DONE_IRQ], 1)
    b.unit.writel(r.ICS, 1)
    b.submit(wait(b, 2, 1 << 4))
    assert b.raised == [DONE_IRQ] * 2


def test_descriptors_wrap_around(first):
    for n in range(600):
        assert first.wait(n + 1) == n + 1


def test_descriptors_of_128_bits(bench):
    """In legacy mode both widths; types from 6 on have 256."""
    b = bench("sva = false")
    b.mode = 0
    b.context(b.page() | 1, 2)
    b.on()
    b.unit.writel(r.GCMD, r.TE)
    b.unit.writel(r.IQT, 0)
    b.unit.writeq(r.IQA, b.queue)
    b.put(b.queue, *iotlb(1), *cc(1), *wait(b, 9))
    b.unit.writel(r.GCMD, r.TE | r.QIE)
    b.unit.writel(r.IQT, 48)
    assert (b.word(b.status), b.unit.readl(r.IQH)) == (9, 48)
    b.put(b.queue + 48, *pasid_cache(3))
    b.unit.writel(r.IQT, 64)
    assert b.unit.readl(r.FSTS) & r.IQE


# ---- mistakes


@pytest.mark.parametrize(
    ("words", "error"),
    [
        pytest.param((0, 0), 3, id="type 0"),
        pytest.param((10, 0), 3, id="type 10"),
        pytest.param((1 | 1 << 9, 0), 3, id="type 0x11"),
        pytest.param(cc(0), 4, id="granularity 0"),
        pytest.param(iotlb(0), 4, id="granularity 0 of the IOTLB"),
        pytest.param(pasid_cache(2), 4, id="granularity 2 of the PASID cache"),
        pytest.param(pasid_iotlb(1, 3, 1), 4, id="granularity 1 of the PASID-based IOTLB"),
        pytest.param((1 | 1 << 4, 1), 4, id="reserved bits above"),
        pytest.param((5 | 1 << 8, 0), 4, id="reserved bits of a wait"),
        pytest.param((1 | 1 << 4, 0, 1, 0), 4, id="reserved third word"),
    ],
)
def test_a_wrong_descriptor_stops_the_queue(first, words, error):
    """IQE, an event, the head stays there; software repairs it, clears IQE, and the queue goes on."""
    b = first
    b.submit(words, wait(b, 5))
    assert b.unit.readl(r.FSTS) == r.IQE
    assert b.unit.readq(r.IQERCD) & 0xF == error
    assert (b.raised, b.unit.readl(r.IQH), b.word(b.status)) == ([EVENT_IRQ], 0, 0)
    b.put(b.queue, *wait(b, 4), 0, 0)
    b.unit.writel(r.FSTS, r.IQE)
    assert (b.unit.readl(r.IQH), b.word(b.status), b.unit.readl(r.FSTS)) == (64, 5, 0)


def test_a_queue_out_of_memory_is_an_error(first):
    b = first
    b.unit.writeq(r.IQA, 1 << 40 | 1 << 11)
    b.unit.writel(r.IQT, 32)
    assert (b.unit.readl(r.FSTS), b.unit.readq(r.IQERCD) & 0xF) == (r.IQE, 2)


@pytest.mark.parametrize("tail", [16, 8192])
def test_a_tail_that_is_none(first, tail):
    first.unit.writel(r.IQT, tail)
    assert first.unit.readq(r.IQERCD) & 0xF == 1


def test_narrow_descriptors_in_scalable_mode(first):
    first.unit.writeq(r.IQA, first.queue)
    first.unit.writel(r.IQT, 16)
    assert first.unit.readl(r.FSTS) & r.IQE


def test_a_status_that_no_memory_takes(first):
    first.submit((5 | 1 << 5, 1 << 40))
    assert first.unit.readl(r.FSTS) & r.IQE


# ---- by registers


def test_invalidation_by_registers(bench):
    """Legacy mode without the queue: CCMD and IOTLB_REG."""
    b = bench("sva = false")
    b.mode = 0
    pt, old, new = b.page(), b.page(), b.page()
    b.phys.write(new, b"new")
    leaf = b.map(pt, 0x1000, old | RW)
    at = b.context(pt | 1, 2 | 7 << 8)
    b.on()
    b.slot.dma_read(0x1000, 3)
    b.put(leaf, new | RW)
    b.unit.writeq(r.IVA, 0x2000)
    b.unit.writeq(r.IOTLB, 1 << 63 | 3 << 60 | 7 << 32)
    assert b.slot.dma_read(0x1000, 3) == bytes(3)
    b.unit.writeq(r.IVA, 0x1000)
    b.unit.writeq(r.IOTLB, 1 << 63 | 3 << 60 | 7 << 32)
    assert b.unit.readq(r.IOTLB) >> 57 == 3 << 3 | 3, "IVT is clear, IAIG says page-selective"
    assert b.slot.dma_read(0x1000, 3) == b"new"
    b.put(at, 0)
    b.unit.writeq(r.CCMD, 1 << 63 | 3 << 61 | SOURCE << 16)
    assert b.unit.readq(r.CCMD) >> 59 == 3 << 2 | 3, "ICC is clear, CAIG says device-selective"
    with pytest.raises(DmaFault):
        b.slot.dma_read(0x1000, 3)


def test_in_scalable_mode_the_registers_do_nothing(second):
    b = second
    b.unit.writeq(r.IOTLB, 1 << 63 | 1 << 60)
    b.unit.writeq(r.CCMD, 1 << 63 | 1 << 61)
    assert (b.unit.readq(r.IOTLB) >> 63, b.unit.readq(r.IOTLB) >> 57 & 3, b.unit.readq(r.CCMD) >> 59 & 3) == (0, 0, 0)
    assert b.slot.dma_read(0x1000, 3) == b"old"


# ---- device-TLBs


@pytest.fixture
def ats(bench):
    """A device with ATS; PASID 1, domain 3, page 0x1000 was read, and is another by now."""
    b = bench(ats=True)
    b.scalable(flags=1 | 4 | 8)
    b.pt, b.old, b.new = b.page(), b.page(), b.page()
    b.phys.write(b.old, b"old")
    b.phys.write(b.new, b"new")
    b.leaf = b.map(b.pt, 0x1000, b.old | RW | US)
    b.first(1, b.pt, did=3)
    b.on()
    assert b.slot.dma_read(0x1000, 3, 1) == b"old"
    b.put(b.leaf, b.new | RW | US)
    return b


@pytest.mark.parametrize(
    ("descriptor", "seen"),
    [
        pytest.param(None, b"old", id="the IOTLB alone is not enough"),
        pytest.param(pasid_dev_tlb(SOURCE, 1), b"new", id="PASID"),
        pytest.param(pasid_dev_tlb(SOURCE, 2), b"old", id="another PASID"),
        pytest.param(pasid_dev_tlb(SOURCE, 2, every=1), b"new", id="all PASIDs"),
        pytest.param(pasid_dev_tlb(SOURCE, 1, 0x1000, 0), b"new", id="page"),
        pytest.param(pasid_dev_tlb(SOURCE, 1, 0x2000, 0), b"old", id="another page"),
        pytest.param(pasid_dev_tlb(SOURCE, 1, 0x0000, 1), b"new", id="two pages"),
        pytest.param(pasid_dev_tlb(SOURCE, 1, 0x2000, 1), b"old", id="two other pages"),
        pytest.param(dev_tlb(SOURCE), b"old", id="without a PASID: other entries"),
    ],
)
def test_a_device_remembers_until_it_is_told(ats, descriptor, seen):
    b = ats
    b.submit(pasid_iotlb(2, 3, 1), *([descriptor] if descriptor else []), wait(b))
    assert b.word(b.status) == 2
    assert b.slot.dma_read(0x1000, 3, 1) == seen


def test_a_device_tlb_before_the_iotlb_is_too_early(ats):
    """Filled again from the stale IOTLB: why the order is IOTLB, then device-TLB."""
    b = ats
    b.submit(pasid_dev_tlb(SOURCE, 1))
    assert b.slot.dma_read(0x1000, 3, 1) == b"old"
    b.submit(pasid_iotlb(2, 3, 1))
    assert b.slot.dma_read(0x1000, 3, 1) == b"old"


def test_without_ats_the_device_has_forgotten(ats):
    b = ats
    b.slot.function.config.put(0x100 + 6, 2, 0)
    b.submit(pasid_iotlb(2, 3, 1))
    with pytest.raises(DmaFault):  # it would ask without ATS now, but the entry that it came by is gone, too
        b.slot.dma_read(0x9000, 3, 1)
    assert b.slot.dma_read(0x1000, 3, 1) == b"new"


def test_ats_finds_no_page_in_silence(ats):
    """A translation request is answered with no permission; a fault of the tables above is recorded."""
    b = ats
    with pytest.raises(DmaFault):
        b.slot.dma_read(0x8000, 1, 1)
    assert b.fault() is None
    with pytest.raises(DmaFault):
        b.slot.dma_read(0x8000, 1, 2)
    assert b.fault()[0] == 0x59


def test_a_device_that_is_not_there_does_not_answer(ats):
    """ITE at the wait behind it, which is given up; cleared, the queue goes on."""
    b = ats
    b.submit(dev_tlb(0x7700), wait(b, 3))
    assert (b.unit.readl(r.FSTS), b.unit.readq(r.IQERCD) >> 32 & 0xFFFF, b.word(b.status)) == (r.ITE, 0x7700, 0)
    b.unit.writel(r.FSTS, r.ITE)
    assert b.wait(4) == 4


# ---- registers


def test_what_software_finds(bench):
    unit = bench().unit
    assert unit.readl(r.VER) == 0x40
    assert unit.readq(r.CAP) == unit.cap
    assert unit.readq(r.ECAP) == unit.ecap
    assert unit.readl(r.CAP) | unit.readl(r.CAP + 4) << 32 == unit.cap
    assert unit.readl(r.FECTL) == r.IM
    unit.writeq(r.CAP, 0)
    unit.writeq(r.ECAP, 0)
    assert (unit.readq(r.CAP), unit.readq(r.ECAP)) == (unit.cap, unit.ecap)


def test_the_handshake_of_gcmd(bench):
    """One-shot bits show in GSTS and stay; switches follow what is written."""
    unit = bench().unit
    unit.writel(r.GCMD, r.SRTP)
    assert unit.readl(r.GSTS) == r.SRTP
    unit.writel(r.GCMD, r.TE)
    assert unit.readl(r.GSTS) == r.SRTP | r.TE
    unit.writel(r.GCMD, r.TE | r.QIE)
    unit.writel(r.GCMD, r.QIE | r.IRE | r.SIRTP)
    assert unit.readl(r.GSTS) == r.SRTP | r.QIE | r.IRE | r.SIRTP
    assert unit.readl(r.GCMD) == 0, "write-only"


def test_no_interrupt_remapping_without_ir(bench):
    unit = bench("intr_remap = false").unit
    unit.writel(r.GCMD, r.IRE | r.SIRTP | r.CFI)
    assert unit.readl(r.GSTS) == 0


@pytest.mark.parametrize("off", [0x1000, 0x0FFC, -4])
def test_beyond_the_page(bench, off):
    unit = bench().unit
    unit.write(off, 8, 1)
    assert unit.read(off, 8) == (1 << 64) - 1


def test_a_write_within_a_register_is_dropped(bench):
    unit = bench().unit
    unit.write(r.IQA + 2, 4, 0xFFFF)
    unit.write(r.IQA, 2, 0xFFFF)
    assert unit.readq(r.IQA) == 0


def test_real_silicon_has_no_virtual_commands(bench):
    unit = bench().unit
    unit.writeq(0xE00, 1)
    assert [unit.readq(off) for off in (0xE00, 0xE10, 0xE30)] == [0, 0, 0]


def test_a_descriptor_is_read_as_it_lies_in_memory(first):
    """Little-endian words, the type in the lowest bits."""
    b = first
    b.phys.write(b.queue, pack("<QQQQ", 5 | 1 << 5 | 6 << 32, b.status, 0, 0))
    b.unit.writel(r.IQT, 32)
    assert b.word(b.status) == 6
