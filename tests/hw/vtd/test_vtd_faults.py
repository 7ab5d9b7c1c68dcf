"""5.2: every reason that a request is blocked for, and how a fault is recorded and told (VT-d 7)."""

from __future__ import annotations

import pytest

from pykernel.hw.vtd import regs as r
from pykernel.pci.function import DmaFault

SOURCE = 0x6A08
RW, US, FPD = 3, 4, 2
FAR = 1 << 40  # no RAM is there
EVENT_IRQ = 90
GIB = 1 << 30


def access(b, addr=0x1000, *, pasid=None, write=False, priv=False):
    """An access that must be refused."""
    with pytest.raises(DmaFault):
        b.slot.dma_write(addr, b"x", pasid, priv) if write else b.slot.dma_read(addr, 1, pasid, priv)


def legacy(b, *words):
    b.mode = 0
    if words:
        b.context(*words)


def tables(b, level, entry, *, first, **kw):
    """An entry of PASID 1 whose tables have *entry* at *level*."""
    pt = b.page()
    b.map(pt, 0x1000, entry, level=level)
    (b.first if first else b.second)(1, pt, **kw)


def nested(b, missing=None, *, readonly=None):
    """A guest's tables at 0x1000 and on, of which the second stage has all but *missing*."""
    ss = b.page()
    for n in range(1, 6):
        pa, gpa = b.page(), n << 12
        b.put(pa, *([gpa + 0x1000 | RW | US] * 2))
        if gpa != missing:
            b.map(ss, gpa, pa | (1 if gpa == readonly else RW))
    b.nested(1, 0x1000, ss)


# reason -> what makes it: (setup, PASID of the access, is it a write)
SCALABLE = {
    0x38: (lambda b: setattr(b, "root", FAR), None, False),
    0x39: (lambda b: None, None, False),
    0x3A: (lambda b: b.put(b.root + 0x6A * 16, b.page() | 1 | 1 << 5), None, False),
    0x40: (lambda b: b.put(b.root + 0x6A * 16, FAR | 1), None, False),
    0x41: (lambda b: b.context(0, 0, 0, 0), None, False),
    0x42: (lambda b: b.context(1 | 1 << 8, 0, 0, 0), None, False),
    0x45: (lambda b: b.scalable(flags=1), 1, False),
    0x46: (lambda b: b.scalable(pds=0), 1 << 13, False),
    0x50: (lambda b: b.context(FAR | 9, 0, 0, 0), 1, False),
    0x51: (lambda b: b.scalable(), 1, False),
    0x52: (lambda b: (b.scalable(), b.put(b.directory, b.page() | 1 | 4)), 1, False),
    0x58: (lambda b: (b.scalable(), b.put(b.directory, FAR | 1)), 1, False),
    0x59: (lambda b: (b.scalable(), b.pasid(2, 1)), 1, True),
    0x5A: (lambda b: (b.scalable(), b.pasid(1, 1 | 4 << 6 | 1 << 10, 1)), 1, False),
    0x5B: (lambda b: (b.scalable(), b.pasid(1, 1 | 5 << 6, 1)), 1, False),
    0x70: (lambda b: (b.scalable(), tables(b, 2, FAR | RW | US, first=True)), 1, False),
    0x71: (lambda b: (b.scalable(), b.first(1, b.page())), 1, True),
    0x72: (lambda b: (b.scalable(), tables(b, 4, b.page() | RW | US | 1 << 7, first=True)), 1, False),
    0x73: (lambda b: (b.scalable(), b.first(1, FAR)), 1, False),
    0x74: (lambda b: (b.scalable(), b.nested(1, 1 << 49, b.page())), 1, False),
    0x75: (lambda b: (b.scalable(), nested(b, 0x1000)), 1, False),
    0x76: (lambda b: (b.scalable(), nested(b, 0x2000)), 1, False),
    0x77: (lambda b: (b.scalable(), nested(b, readonly=0x3000)), 1, False),
    0x78: (lambda b: (b.scalable(), tables(b, 2, FAR | RW, first=False)), 1, False),
    0x79: (lambda b: (b.scalable(), nested(b, 0x5000)), 1, False),
    0x7A: (lambda b: (b.scalable(), tables(b, 2, 0x1000 | RW | 1 << 7, first=False)), 1, False),
    0x7B: (lambda b: (b.scalable(), b.second(1, FAR)), 1, False),
    0x81: (lambda b: (b.scalable(), tables(b, 1, b.page() | RW, first=True)), 1, False),
    0x85: (lambda b: (b.scalable(), tables(b, 1, b.page() | 1 | US, first=True)), 1, True),
    0x87: (lambda b: (b.scalable(), tables(b, 1, 0xFEE01000 | RW | US, first=True)), 1, True),
}  # fmt: skip
LEGACY = {
    0x01: (lambda b: legacy(b), False),
    0x02: (lambda b: legacy(b, 0, 0), False),
    0x03: (lambda b: legacy(b, 1 | 3 << 2, 2), False),
    0x05: (lambda b: legacy(b, b.page() | 1, 2), True),
    0x06: (lambda b: legacy(b, b.page() | 1, 2), False),
    0x07: (lambda b: legacy(b, FAR | 1, 2), False),
    0x08: (lambda b: (legacy(b), b.move_root(FAR)), False),
    0x09: (lambda b: (legacy(b), b.put(b.root + 0x6A * 16, FAR | 1)), False),
    0x0A: (lambda b: (legacy(b), b.put(b.root + 0x6A * 16, b.page() | 1, 1)), False),
    0x0B: (lambda b: legacy(b, 1 | 1 << 4, 2), False),
    0x0C: (lambda b: legacy(b, b.page(0x1000 | RW | 1 << 7) | 1, 2), False),
    0x0E: (lambda b: (legacy(b), b.map(pt := b.page(), 0x1000, 0xFEE00000 | RW), b.context(pt | 1, 2)), True),
}


@pytest.mark.parametrize("reason", SCALABLE, ids=hex)
def test_reasons_of_scalable_mode(bench, reason):
    """The record has the reason, the requester, the page, the PASID if there is one, and the kind of request."""
    b = bench()
    setup, pasid, write = SCALABLE[reason]
    setup(b)
    b.on()
    access(b, 0x1000, pasid=pasid, write=write)
    assert b.fault() == (reason, SOURCE, 0x1000, pasid, write)
    assert b.raised == [EVENT_IRQ]


@pytest.mark.parametrize("reason", LEGACY, ids=hex)
def test_reasons_of_legacy_mode(bench, reason):
    b = bench("sva = false")
    setup, write = LEGACY[reason]
    setup(b)
    b.on()
    access(b, 0x1000, write=write)
    assert b.fault() == (reason, SOURCE, 0x1000, None, write)


def test_reserved_ttm(bench):
    b = bench()
    b.mode = 2
    b.on()
    access(b)
    assert b.fault()[0] == 0x30


def test_scalable_mode_that_the_unit_has_not(bench):
    b = bench("sva = false")
    b.on()
    access(b)
    assert b.fault()[0] == 0x30


def test_a_pasid_in_legacy_mode(bench):
    b = bench()
    legacy(b, b.page() | 1, 2)
    b.on()
    access(b, pasid=3)
    assert (b.fault() or (0,))[0] == 0x31


def test_an_rid_pasid_beyond_the_directory(bench):
    b = bench()
    b.unit.tables.ecap |= r.ECAP_RPS
    b.scalable(pds=0, rid_pasid=1 << 13)
    b.on()
    access(b)
    assert b.fault()[0] == 0x48


@pytest.mark.parametrize(("stage", "addr", "reason"), [("first", 1 << 47, 0x80), ("second", 1 << 48, 0x84)])
def test_addresses_that_no_table_has(bench, stage, addr, reason):
    b = bench()
    b.scalable()
    getattr(b, stage)(1, b.page())
    b.on()
    access(b, addr, pasid=1)
    assert b.fault()[:3] == (reason, SOURCE, addr)


@pytest.mark.parametrize("addr", [0, (1 << 47) - 4096, (1 << 64) - (1 << 47), (1 << 64) - 4096])
def test_canonical_addresses(bench, addr):
    b = bench()
    b.scalable()
    pt = b.page()
    b.map(pt, addr, b.page() | RW | US)
    b.first(1, pt)
    b.on()
    assert b.slot.dma_read(addr, 4096, 1) == bytes(4096)


def test_a_supervisors_request_without_sre(bench):
    b = bench()
    b.scalable()
    b.first(1, b.page())
    b.on()
    access(b, pasid=1, priv=True)
    record = b.unit.readq(r.FRCD + 8)
    assert (record >> 32 & 0xFF, record >> 29 & 1) == (0x5D, 1)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        pytest.param((1 | 0 << 6, 1), 0x5B, id="PGTT 0"),
        pytest.param((1 | 2 << 6 | 0 << 2, 1), 0x5B, id="AW 0"),
        pytest.param((1 | 2 << 6 | 3 << 2, 1), 0x5B, id="AW that SAGAW has not"),
        pytest.param((1 | 1 << 6, 1, 1 << 2), 0x5B, id="five levels without FS5LP"),
        pytest.param((1 | 1 << 6, 1, 2 << 2), 0x5B, id="FSPM 2"),
        pytest.param((1 | 4 << 6 | 1 << 5, 1), 0x5A, id="bit 5"),
        pytest.param((1 | 4 << 6, 1 | 1 << 16), 0x5A, id="bit 80"),
        pytest.param((1 | 4 << 6, 1, 1 << 8), 0x5A, id="bit 136"),
        *(pytest.param((1 | 4 << 6, 1 | 1 << n - 64), 0x5A, id=f"bit {n}") for n in range(91, 96)),
        pytest.param((1 | 4 << 6, 1, 0, 1), 0x5A, id="bit 192"),
        pytest.param((1 | 4 << 6, 1, 0, 0, 0, 0, 0, 1 << 63), 0x5A, id="bit 511"),
    ],
)
def test_pasid_entries_that_no_unit_takes(bench, words, reason):
    b = bench()
    b.scalable()
    b.pasid(1, *words)
    b.on()
    access(b, pasid=1)
    assert b.fault()[0] == reason


def aliased(b, *, at, word=0, bit, pasid=1):
    """A machine where everything is there, but bit *bit* of one pointer is set that no address of the host has."""
    b.scalable()
    data, pt = b.page(), b.page()
    b.map(pt, 0x1000, data | RW | US)
    table = b.first(pasid, pt) if at != "SSPTPTR" else b.second(pasid, pt)
    place = {
        "root": b.root + 0x6A * 16,
        "context": (b.word(b.root + 0x6A * 16) & -4096) + 32 * 8,
        "directory": b.directory,
        "SSPTPTR": table,
        "FSPTPTR": table + 16,
    }[at]
    b.put(place, b.word(place) | 1 << bit)
    b.on()
    access(b, 0x1000, pasid=pasid)


@pytest.mark.parametrize("bit", [52, 62, 63])
@pytest.mark.parametrize(
    ("at", "reason"),
    [("root", 0x3A), ("context", 0x42), ("directory", 0x52), ("SSPTPTR", 0x5A), ("FSPTPTR", 0x5A)],
)
def test_a_pointer_beyond_the_hosts_addresses_is_no_other_pointer(bench, at, reason, bit):
    """Bits 63:HAW are reserved: what they would leave of the address is another table."""
    b = bench()
    aliased(b, at=at, bit=bit)
    assert b.fault()[0] == reason


@pytest.mark.parametrize(("at", "reason"), [("root", 0x0A), ("context", 0x0B)])
def test_a_pointer_of_legacy_mode_beyond_the_hosts_addresses_is_no_other_pointer(bench, at, reason):
    b = bench("sva = false")
    b.mode = 0
    data, pt = b.page(), b.page()
    b.map(pt, 0x1000, data | RW)
    b.context(pt | 1, 2 | 7 << 8)
    place = b.root + 0x6A * 16
    if at == "context":
        place = (b.word(place) & -4096) + 16 * 8
    b.put(place, b.word(place) | 1 << 52)
    b.on()
    access(b, 0x1000)
    assert b.fault()[0] == reason


def test_dirty_bits_without_ssads(bench):
    b = bench("dirty_tracking = false")
    b.scalable()
    b.second(1, b.page(), flags=1 << 9)
    b.on()
    access(b, pasid=1)
    assert b.fault()[0] == 0x5B


def test_domain_0_in_caching_mode(bench):
    b = bench()
    b.unit.tables.cap |= r.CAP_CM
    b.scalable()
    b.pasid(1, 1 | 4 << 6, 0)
    b.on()
    access(b, pasid=1)
    assert b.fault()[0] == 0x5B


@pytest.mark.parametrize(("mode", "reason"), [(0, 0x0D), (1, 0x44)])
def test_translation_requests_without_dte(bench, mode, reason):
    """A device that has ATS on asks for translations, which its context entry must allow."""
    b = bench(ats=True)
    b.mode = mode
    if mode:
        b.scalable()
        b.pasid(0, 1 | 4 << 6, 1)
    else:
        b.context(b.page() | 1, 2)
    b.on()
    access(b)
    assert b.fault()[0] == reason


# ---- FPD


def _context(b):
    b.scalable(flags=9 | FPD)
    b.first(1, b.page())


def _context_alone(b):
    b.context(FPD, 0, 0, 0)


def _directory(b):
    b.scalable()
    b.first(1, b.page())
    b.put(b.directory, b.word(b.directory) | FPD)


def _directory_alone(b):
    b.scalable()
    b.put(b.directory, FPD)


def _entry(b):
    b.scalable()
    b.pasid(1, 1 | FPD | 1 << 6, 1, b.page())


def _entry_alone(b):
    b.scalable()
    b.pasid(1, FPD)


@pytest.mark.parametrize("where", [_context, _context_alone, _entry, _entry_alone, _directory, _directory_alone])
def test_fpd_on_the_way_is_silence(bench, where):
    """The access is blocked all the same."""
    b = bench()
    where(b)
    b.on()
    access(b, pasid=1)
    assert (b.fault(), b.raised) == (None, [])


def test_faults_before_fpd_can_be_known_are_told(bench):
    b = bench()
    b.put(b.root + 0x6A * 16, FAR | 1)
    b.on()
    access(b, pasid=1)
    assert b.fault()[0] == 0x40


# ---- recording


def test_an_overflow_is_told_once(bench):
    """One register: a second fault before software took the first is PFO, and lost; all after it are lost."""
    b = bench()
    b.scalable()
    b.on()
    for addr in (0x1000, 0x2000, 0x3000):
        access(b, addr, pasid=1)
    assert b.unit.readl(r.FSTS) & (r.PPF | r.PFO) == r.PPF | r.PFO
    assert b.raised == [EVENT_IRQ], "no further event while something is pending"
    assert b.fault()[2] == 0x1000
    assert b.unit.readl(r.FSTS) == 0
    access(b, 0x4000, pasid=1)
    assert b.fault()[2] == 0x4000
    assert b.raised == [EVENT_IRQ] * 2


def test_a_masked_event_is_pending(bench):
    b = bench()
    b.scalable()
    b.on()
    b.unit.writel(r.FECTL, r.IM)
    access(b, pasid=1)
    assert (b.raised, b.unit.readl(r.FECTL)) == ([], r.IM | r.IP)
    b.unit.writel(r.FECTL, 0)
    assert (b.raised, b.unit.readl(r.FECTL)) == ([EVENT_IRQ], 0)


def test_a_pending_event_goes_with_its_cause(bench):
    b = bench()
    b.scalable()
    b.on()
    b.unit.writel(r.FECTL, r.IM)
    access(b, pasid=1)
    b.fault()
    assert b.unit.readl(r.FECTL) == r.IM
    b.unit.writel(r.FECTL, 0)
    assert b.raised == []


def test_ppf_follows_the_record(bench):
    b = bench()
    b.scalable()
    b.on()
    access(b, pasid=1)
    b.unit.writel(r.FSTS, r.PPF)
    assert b.unit.readl(r.FSTS) == r.PPF, "read-only"
    b.unit.writel(r.FRCD + 12, 1 << 31)
    assert b.unit.readl(r.FSTS) == 0


def test_what_is_not_there_is_not_remembered(bench):
    """A new mapping needs no invalidation: not the context, nor the PASID's, nor the page's."""
    b = bench()
    b.on()
    access(b, pasid=1)
    b.scalable()
    access(b, pasid=1)
    pt = b.page()
    b.first(1, pt)
    access(b, pasid=1)
    b.map(pt, 0x1000, b.page() | RW | US)
    assert b.slot.dma_read(0x1000, 1, 1) == bytes(1)
