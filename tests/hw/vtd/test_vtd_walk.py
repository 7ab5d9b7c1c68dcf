"""Root, context, PASID and page tables built by hand: what a device reaches (VT-d 3, 9), row by row."""

from __future__ import annotations

import pytest

from pykernel.hw.vtd import regs as r
from pykernel.pci.function import DmaFault
from pykernel.pci.irq import Irqs

GIB = 1 << 30
SOURCE = 0x6A08
RW, US = 3, 4
A, D, EA = 1 << 5, 1 << 6, 1 << 10


def refused(slot, addr, *, pasid=None, write=False, priv=False, n=4):
    """The address that the device is told."""
    with pytest.raises(DmaFault) as e:
        slot.dma_write(addr, bytes(n), pasid, priv) if write else slot.dma_read(addr, n, pasid, priv)
    return e.value.addr


# ---- 5.1: the walk


@pytest.mark.parametrize(("pasid", "directory", "index"), [(201, 3, 9), (202, 3, 10), (0xFFFFF, 16383, 63), (0, 0, 0)])
def test_a_pasid_is_split_14_to_6(bench, pasid, directory, index):
    """Directory index PASID[19:6], table index PASID[5:0]: entries of 8 and of 64 bytes."""
    b = bench()
    b.scalable()
    data, table, pt = b.page(), b.page(), b.page()
    b.phys.write(data, b"data of this PASID")
    b.map(pt, 0x5000, data | RW | US)
    b.put(b.directory + 8 * directory, table | 1)
    b.put(table + 64 * index, 1 | 1 << 6, 1, pt, 0, 0, 0, 0, 0)
    b.on()
    assert b.slot.dma_read(0x5000, 4, pasid) == b"data"
    refused(b.slot, 0x5000, pasid=pasid ^ 1)


@pytest.mark.parametrize("address", ["0000:6a:01.0", "0000:6a:1f.7"])
def test_lower_and_upper_half_of_a_bus(bench, address):
    """TTM=01b: functions 0-127 by the lower pointer of a root entry, 128-255 by the upper."""
    b = bench()
    if address != b.slot.address:
        b.slot.source = 0x6AFF
    b.scalable(source=b.slot.source)
    data = b.page()
    b.pasid(0, 1 | 4 << 6, 1)
    low, high = b.word(b.root + 0x6A * 16), b.word(b.root + 0x6A * 16 + 8)
    assert (bool(low & 1), bool(high & 1)) == (b.slot.source == SOURCE, b.slot.source != SOURCE)
    b.on()
    b.slot.dma_write(data, b"x")
    assert b.phys.read(data, 1) == b"x"


def test_first_stage_is_va_to_hpa(bench):
    b = bench()
    b.scalable()
    data, pt = b.page(), b.page()
    b.map(pt, 0x7FFF_1234_5000, data | RW | US)
    b.first(201, pt)
    b.on()
    b.slot.dma_write(0x7FFF_1234_5FF0, b"by a device", 201)
    assert b.phys.read(data + 0xFF0, 11) == b"by a device"
    (view,) = b.slot.dma_view(0x7FFF_1234_5000, 4096, write=True, pasid=201)
    view[:2] = b"me"
    assert b.phys.read(data, 2) == b"me"


def test_second_stage_is_iova_to_hpa(bench):
    b = bench()
    b.scalable()
    data, pt = b.page(), b.page()
    b.map(pt, 0x4000, data | RW)
    b.second(7, pt)
    b.on()
    b.slot.dma_write(0x4004, b"data", 7)
    assert b.slot.dma_read(0x4004, 4, 7) == b.phys.read(data + 4, 4) == b"data"


def test_nested_is_gva_to_gpa_to_hpa(bench):
    """The guest's pointers, of tables too, are its own addresses; they lie elsewhere in the host's memory."""
    b = bench()
    b.scalable()
    ss = b.page()
    frames = {gpa: b.page() for gpa in (0x1000, 0x2000, 0x3000, 0x4000, 0x5000)}
    for gpa, pa in frames.items():
        b.map(ss, gpa, pa | RW)
    for gpa, below in ((0x1000, 0x2000), (0x2000, 0x3000), (0x3000, 0x4000), (0x4000, 0x5000)):
        b.put(frames[gpa] + (8 if gpa == 0x4000 else 0), below | RW | US)
    b.nested(201, 0x1000, ss)
    b.on()
    b.slot.dma_write(0x1008, b"gva", 201)
    assert b.phys.read(frames[0x5000] + 8, 3) == b"gva"
    assert b.word(frames[0x4000] + 8) == 0x5000 | RW | US | A | D, "the guest sees accessed and dirty"
    assert b.slot.dma_read(0x1008, 3, 201) == b"gva"


def test_pass_through_is_identity(bench):
    b = bench()
    b.scalable()
    data = b.page()
    b.pasid(9, 1 | 4 << 6, 1)
    b.on()
    b.slot.dma_write(data, b"same", 9)
    assert b.phys.read(data, 4) == b"same"
    assert refused(b.slot, 1 << 40, pasid=9) == 1 << 40
    assert b.fault() is None, "nothing answers there, which is no fault of the unit's"


def test_a_request_without_pasid_is_one_of_pasid_0_without_rps(bench):
    b = bench()
    b.scalable(rid_pasid=5)
    data, pt = b.page(), b.page()
    b.map(pt, 0x1000, data | RW)
    b.second(0, pt)
    b.on()
    b.slot.dma_write(0x1000, b"rid")
    assert b.phys.read(data, 3) == b"rid"


def test_a_request_without_pasid_is_one_of_rid_pasid_with_rps(bench):
    b = bench()
    b.unit.ecap |= r.ECAP_RPS
    b.unit.tables.ecap |= r.ECAP_RPS
    b.scalable(rid_pasid=5)
    data, pt = b.page(), b.page()
    b.map(pt, 0x1000, data | RW)
    b.second(5, pt)
    b.on()
    b.slot.dma_write(0x1000, b"rid")
    assert b.phys.read(data, 3) == b"rid"


def test_pasids_are_blocked_with_pasid_enable_clear(bench):
    b = bench()
    b.scalable(flags=1)
    b.pasid(0, 1 | 4 << 6, 1)
    b.pasid(1, 1 | 4 << 6, 1)
    data = b.page()
    b.on()
    assert b.slot.dma_read(data, 4) == bytes(4)
    refused(b.slot, data, pasid=1)
    assert b.fault()[0] == 0x45


@pytest.mark.parametrize("pds", range(8))
def test_pdts_is_how_large_the_directory_is(bench, pds):
    """2**(X+7) directory entries of 64 PASIDs each: what is beyond is refused, never aliased."""
    b = bench()
    b.scalable(pds=pds)
    last = (1 << pds + 13) - 1
    b.pasid(last, 1 | 4 << 6, 1)
    data = b.page()
    b.on()
    assert b.slot.dma_read(data, 4, last) == bytes(4)
    if last < 0xFFFFF:
        refused(b.slot, data, pasid=last + 1)
        assert b.fault()[0] == 0x46


@pytest.mark.parametrize("pasid", [5 | 1 << 20, 5 | 1 << 31, 5 - (1 << 20), ~5])
def test_a_pasid_of_other_than_20_bits_is_not_another(bench, pasid):
    """Neither cut down nor taken for a supervisor's, also when the right ones are cached."""
    b = bench()
    b.scalable()
    b.pasid(5, 1 | 4 << 6, 1)
    data = b.page()
    b.on()
    for priv in (False, True):
        assert b.slot.dma_read(data, 4, 5, priv) == bytes(4)
    for priv in (False, True):
        refused(b.slot, data, pasid=pasid, priv=priv)


def test_the_same_pasid_on_two_devices_is_two_entries(bench):
    """5.5: PASID tables are of a function."""
    b = bench(seconds=2)
    datas, slots = [], b.slots
    for slot in slots:
        b.scalable(source=slot.source)
        pt = b.page()
        datas.append(b.page())
        b.map(pt, 0x1000, datas[-1] | RW | US)
        b.first(201, pt, did=slot.source & 0xFF)
    b.on()
    for n, slot in enumerate(slots):
        slot.dma_write(0x1000, bytes([65 + n]), 201)
    assert [b.phys.read(pa, 1) for pa in datas] == [b"A", b"B"]


# ---- legacy mode


def test_legacy_mode(bench):
    """TTM=00b: 256 context entries of 128 bits a bus, with second-stage tables of their own."""
    b = bench("sva = false")
    b.mode = 0
    data, pt = b.page(), b.page()
    b.map(pt, 0x9000, data | RW)
    b.context(pt | 1, 2 | 7 << 8)
    b.on()
    b.slot.dma_write(0x9000, b"legacy")
    assert b.phys.read(data, 6) == b"legacy"


@pytest.mark.parametrize(("width", "aw", "levels"), [(39, 1, 3), (48, 2, 4), (57, 3, 5)])
def test_address_widths(bench, width, aw, levels):
    b = bench(f"sva = false\naddress_width = {width}")
    b.mode = 0
    data, pt = b.page(), b.page()
    top = (1 << width) - 4096
    b.map(pt, top, data | RW, levels=levels)
    b.context(pt | 1, aw | 7 << 8)
    b.on()
    assert b.slot.dma_read(top, 4096) == bytes(4096)
    assert refused(b.slot, top, n=4097) == 1 << width
    assert b.fault()[:4] == (4, SOURCE, 1 << width, None)


def test_legacy_pass_through(bench):
    b = bench("sva = false")
    b.mode = 0
    b.context(1 | 2 << 2, 2 | 1 << 8)
    data = b.page()
    b.on()
    b.slot.dma_write(data, b"pt")
    assert b.phys.read(data, 2) == b"pt"


# ---- pages


@pytest.mark.parametrize("level", [1, 2, 3])
@pytest.mark.parametrize("stage", ["first", "second"])
def test_pages_of_4k_2m_1g(bench, stage, level):
    b = bench()
    b.scalable()
    pt, size = b.page(), 4096 << 9 * (level - 1)
    bits = RW | US | (1 << 7 if level > 1 else 0)
    b.map(pt, 3 * GIB, bits, level=level)  # physical address 0: RAM
    getattr(b, stage)(1, pt)
    b.on()
    data = b.page()
    b.phys.write(data, b"here")
    if size > data:
        assert b.slot.dma_read(3 * GIB + data, 4, 1) == b"here"
    else:
        refused(b.slot, 3 * GIB + data, pasid=1)
    assert b.slot.dma_read(3 * GIB + size - 4096 if level == 1 else 3 * GIB, 16, 1) == b.phys.read(0, 16)


def test_large_pages_that_the_unit_has_not_are_reserved_bits(bench):
    b = bench("largest_page = '2M'")
    b.scalable()
    pt = b.page()
    b.map(pt, 3 * GIB, RW | 1 << 7, level=3)
    b.second(1, pt)
    b.on()
    refused(b.slot, 3 * GIB, pasid=1)
    assert b.fault()[0] == 0x7A


def test_five_levels_of_first_stage(bench):
    b = bench("address_width = 57")
    b.scalable()
    data, pt = b.page(), b.page()
    b.map(pt, 1 << 55, data | RW | US, levels=5)
    b.first(1, pt, flags=1 << 2)
    b.on()
    assert b.slot.dma_read(1 << 55, 4, 1) == bytes(4)
    refused(b.slot, 1 << 56, pasid=1)
    assert b.fault()[0] == 0x80


def test_accesses_over_pages(bench):
    """Neighbours are one piece of memory, others are pieces in order; a write that faults has written nothing."""
    b = bench()
    b.scalable()
    frames, pt = b.phys.alloc_pages(6), b.page()
    for n, frame in enumerate((0, 1, 4, 3)):
        b.map(pt, 0x10000 + n * 4096, frames + frame * 4096 | RW | US)
    b.first(1, pt)
    b.on()
    b.slot.dma_write(0x10FFE, b"abcd" + bytes(8190), 1)
    assert b.phys.read(frames + 4094, 4) == b"abcd"
    views = b.slot.dma_view(0x10F00, 0x1200 + 4096, write=False, pasid=1)
    assert [len(v) for v in views] == [0x1100, 0x1000, 0x100]
    before = b.phys.read(frames + 3 * 4096, 4096)
    assert refused(b.slot, 0x13FFF, pasid=1, write=True, n=2) == 0x14000
    assert b.phys.read(frames + 3 * 4096, 4096) == before


# ---- who may


@pytest.mark.parametrize("level", [1, 2, 3, 4])
def test_a_right_that_one_level_has_not_is_not_there(bench, level):
    b = bench()
    b.scalable()
    data, pt = b.page(), b.page()
    b.map(pt, 0x1000, data | RW | US)
    at = b.map(pt, 0x1000, 0, level=level) if level == 1 else None
    table = pt
    for n in range(4, level, -1):
        table = b.word(table + (0x1000 >> 9 * n + 3 & 511) * 8) & -4096 & (1 << 52) - 1
    at = table + (0x1000 >> 9 * level + 3 & 511) * 8
    if level == 1:
        b.put(at, data | RW | US)
    b.put(at, b.word(at) & ~2)
    b.first(1, pt)
    b.on()
    assert b.slot.dma_read(0x1000, 4, 1) == bytes(4)
    refused(b.slot, 0x1000, pasid=1, write=True)
    assert b.fault()[0] == 0x85
    b.put(at, b.word(at) & ~4)
    b.submit((6 | 2 << 4 | 1 << 16 | 1 << 32, 0))
    refused(b.slot, 0x1000, pasid=1)
    assert b.fault()[0] == 0x81


def test_supervisor_requests(bench):
    """SRE lets them in, to pages of both kinds; WPE makes read-only pages so for them."""
    b = bench()
    b.scalable()
    data, pt = b.page(), b.page()
    b.map(pt, 0x1000, data | 1)
    b.first(1, pt)
    b.first(2, pt, flags=1)
    b.first(3, pt, flags=1 | 1 << 4)
    b.on()
    refused(b.slot, 0x1000, pasid=1, priv=True)
    assert b.fault()[0] == 0x5D
    b.slot.dma_write(0x1000, b"kernel", 2, priv=True)
    assert b.slot.dma_read(0x1000, 6, 3, priv=True) == b"kernel"
    refused(b.slot, 0x1000, pasid=3, priv=True, write=True)
    assert b.fault()[0] == 0x85
    refused(b.slot, 0x1000, pasid=2)
    assert b.fault()[0] == 0x81


# ---- accessed, dirty


def test_first_stage_marks_what_is_used(bench):
    b = bench()
    b.scalable()
    data, pt = b.page(), b.page()
    leaf = b.map(pt, 0x1000, data | RW | US)
    b.first(1, pt)
    b.on()
    b.slot.dma_read(0x1000, 4, 1)
    assert b.word(leaf) == data | RW | US | A
    assert b.word(pt) & A
    b.slot.dma_write(0x1000, b"x", 1)
    assert b.word(leaf) == data | RW | US | A | D
    assert not b.word(pt) & D


def test_extended_accessed_flag(bench):
    b = bench()
    b.scalable()
    data, pt = b.page(), b.page()
    leaf = b.map(pt, 0x1000, data | RW | US)
    b.first(1, pt, flags=1 << 7)
    b.on()
    b.slot.dma_read(0x1000, 4, 1)
    assert b.word(leaf) == data | RW | US | A | EA


@pytest.mark.parametrize("ssade", [False, True])
def test_second_stage_marks_with_ssade(bench, ssade):
    b = bench()
    b.scalable()
    data, pt = b.page(), b.page()
    leaf = b.map(pt, 0x1000, data | RW)
    b.second(1, pt, flags=ssade << 9)
    b.on()
    b.slot.dma_read(0x1000, 4, 1)
    assert b.word(leaf) == data | RW | (1 << 8 if ssade else 0)
    b.slot.dma_write(0x1000, b"x", 1)
    assert b.word(leaf) == data | RW | (3 << 8 if ssade else 0)


# ---- modes of the unit


def test_before_translation_addresses_are_physical(bench):
    b = bench()
    data = b.page()
    b.slot.forget()
    b.slot.dma_write(data, b"off")
    assert b.phys.read(data, 3) == b"off"


def test_abort_dma_mode_is_silent(bench):
    b = bench()
    b.mode = 3
    b.on()
    refused(b.slot, 0x1000)
    refused(b.slot, 0x1000, pasid=3, write=True)
    assert b.fault() is None


def test_translation_off_again(bench):
    b = bench()
    b.scalable()
    b.on()
    data = b.page()
    refused(b.slot, data)
    b.unit.writel(r.GCMD, 0)
    assert b.slot.dma_read(data, 4) == bytes(4)


# ---- messages


def test_a_write_to_the_message_range_is_an_interrupt(bench):
    b = bench()
    b.scalable()
    b.second(0, b.page())
    b.on()
    desc = b.kernel.sub(Irqs).alloc("PCI-MSI", 0)
    desc.requester = b.slot.dev
    b.slot.dma_write(0xFEE00000, desc.irq.to_bytes(4, "little"))
    assert b.raised == [desc.irq]
    assert b.fault() is None


def test_with_a_pasid_it_is_an_address_like_others(bench):
    b = bench()
    b.scalable()
    data, pt = b.page(), b.page()
    b.map(pt, 0xFEE00000, data | RW | US)
    b.first(1, pt)
    b.on()
    b.slot.dma_write(0xFEE00000, b"data", 1)
    assert (b.raised, b.phys.read(data, 4)) == ([], b"data")


@pytest.mark.parametrize(("legacy", "reason"), [(True, 0x0E), (False, 0x87)])
def test_no_translation_leads_to_the_message_range(bench, legacy, reason):
    b = bench("sva = false" if legacy else "")
    pt = b.page()
    b.map(pt, 0x1000, 0xFEE00000 | RW)
    if legacy:
        b.mode = 0
        b.context(pt | 1, 2 | 7 << 8)
    else:
        b.scalable()
        b.second(0, pt)
    b.on()
    refused(b.slot, 0x1000, write=True)
    assert (b.raised, b.fault()[0]) == ([90], reason)


# ---- steps, as they are told


def test_every_step_is_told_with_its_values(bench):
    b = bench()
    b.scalable()
    data, pt = b.page(), b.page()
    leaf = b.map(pt, 0x5000, data | RW | US)
    entry = b.first(201, pt)
    b.on()
    events = b.kernel.trace.record()
    b.slot.dma_read(0x5004, 4, 201)
    told = [(e.name, e.fields) for e in events]
    assert [name for name, _ in told] == [
        "vtd_root", "vtd_context", "vtd_pasid_directory", "vtd_pasid_entry", *["vtd_first"] * 4, "vtd_translated",
    ]  # fmt: skip
    assert (told[2][1]["index"], told[3][1]["index"], told[3][1]["at"]) == (3, 9, entry)
    assert [fields["level"] for name, fields in told if name == "vtd_first"] == [4, 3, 2, 1]
    assert (told[7][1]["entry"], told[7][1]["index"]) == (data | RW | US, (leaf & 4095) // 8)
    assert (told[8][1]["addr"], told[8][1]["pa"]) == (0x5004, data + 4)
    events.clear()
    b.slot.dma_read(0x5004, 4, 201)
    assert events == [], "what is cached needs no walk"
