"""
The remapping unit, row by row where no other test has the row: bits of context and PASID entries, descriptors.

Rows are those of VT-d's scalable mode: the walk (5.1), fault codes (5.2), invalidations (5.3).
"""

from __future__ import annotations

from typing import Any

import pytest

from pykernel.hw.vtd import regs as r
from pykernel.pci.function import DmaFault

SOURCE = 0x6A08
RW, US = 3, 4


def access(b: Any, **kw: Any) -> int:
    """The reason that a read is refused for."""
    with pytest.raises(DmaFault):
        b.slot.dma_read(0x1000, 1, kw.get("pasid"), kw.get("priv", False))
    return int(b.fault()[0])


# ---- 5.1: context entries


@pytest.mark.parametrize(
    ("bit", "cap"),
    [
        pytest.param(2, r.ECAP_DT, id="DTE without device-TLBs"),
        pytest.param(3, r.ECAP_PASID, id="PASIDE without PASIDs"),
        pytest.param(4, r.ECAP_PRS, id="PRE without page requests"),
    ],
)
def test_5_2_reason_43_context_entry_says_what_the_unit_has_not(bench: Any, bit: int, cap: int) -> None:
    b = bench()
    b.unit.tables.ecap &= ~cap
    b.scalable(flags=1 | 1 << bit)
    b.pasid(0, 1 | 4 << 6, 1)
    b.on()
    assert access(b) == 0x43


@pytest.mark.parametrize("bit", [5, 6, 7, 8], ids=["HPTE", "EPTR", "7", "8"])
def test_5_1_context_bits_of_newer_revisions_are_reserved(bench: Any, bit: int) -> None:
    """HPTE and EPTR: this unit has neither; a host page table that is not looked at is refused, not ignored."""
    b = bench()
    b.scalable(flags=9 | 1 << bit)
    b.on()
    assert access(b) == 0x42


@pytest.mark.parametrize("rid_priv", [False, True])
def test_5_1_rid_priv_makes_requests_without_a_pasid_the_supervisors(bench: Any, rid_priv: bool) -> None:
    """Bit 84: a supervisor's page is reached. SRE is asked of requests with a PASID alone (its fault is theirs)."""
    b = bench()
    b.scalable(rid_pasid=rid_priv << 20)
    data, pt = b.page(), b.page()
    b.map(pt, 0x1000, data | RW)
    b.first(0, pt)
    b.on()
    if not rid_priv:
        assert access(b) == 0x81
        return
    b.slot.dma_write(0x1000, b"rid")
    assert b.phys.read(data, 3) == b"rid"


@pytest.mark.parametrize("pasid", [101, 0xABCDE, 0x7FFFF, 0x80000, 201, 202])
def test_5_1_split_is_not_that_of_the_processors_table(bench: Any, pasid: int) -> None:
    """14 and 6 bits here, 1, 9 and 10 there: found by this split, nothing by the other."""
    b = bench()
    b.scalable()
    table = b.page()
    b.put(b.directory + 8 * (pasid >> 6), table | 1)
    b.put(table + 64 * (pasid & 63), 1 | 4 << 6, 1)
    b.on()
    assert b.slot.dma_read(b.page(), 4, pasid) == bytes(4)
    for other in (pasid ^ 1, pasid ^ 64, (pasid >> 10) << 6 | pasid & 63):
        if other != pasid:
            with pytest.raises(DmaFault):
                b.slot.dma_read(b.page(), 4, other)


# ---- 5.1: PASID-table entries


@pytest.mark.parametrize(
    ("word", "bit"),
    [
        *(pytest.param(1, n - 64, id=name) for n, name in ((87, "PWSNP"), (88, "PGSNP"), (89, "CD"), (90, "EMTE"))),
        *(pytest.param(1, n - 64, id=f"PAT {n}") for n in (96, 127)),
    ],
)
def test_5_1_snoop_and_memory_type_bits_change_no_address(bench: Any, word: int, bit: int) -> None:
    b = bench()
    b.scalable()
    data, pt = b.page(), b.page()
    b.map(pt, 0x1000, data | RW | US)
    entry = b.first(201, pt)
    b.put(entry + 8 * word, b.word(entry + 8 * word) | 1 << bit)
    b.on()
    b.slot.dma_write(0x1000, b"same", 201)
    assert b.phys.read(data, 4) == b"same"


@pytest.mark.parametrize("word", [4, 5, 6, 7])
def test_5_1_host_page_table_fields_of_newer_revisions_are_reserved(bench: Any, word: int) -> None:
    """Bits 256 and on."""
    b = bench()
    b.scalable()
    entry = b.pasid(1, 1 | 4 << 6, 1)
    b.put(entry + 8 * word, 1)
    b.on()
    assert access(b, pasid=1) == 0x5A


@pytest.mark.parametrize("pgtt", range(8))
def test_5_1_pgtt_1_to_4_and_no_other(bench: Any, pgtt: int) -> None:
    b = bench()
    b.scalable()
    b.pasid(1, 1 | pgtt << 6 | 2 << 2 | b.page(), 1, b.page())
    b.on()
    if pgtt == 4:
        assert b.slot.dma_read(b.page(), 1, 1) == bytes(1)
    else:
        assert (access(b, pasid=1) == 0x5B) == (pgtt not in (1, 2, 3))


# ---- 5.3: descriptors


NAMES = {
    1: "context cache", 2: "IOTLB", 3: "device-TLB", 4: "interrupt entries", 5: "wait", 6: "PASID-based IOTLB",
    7: "PASID cache", 8: "PASID-based device-TLB", 9: "page-group response",
}  # fmt: skip
WORDS = {
    1: 1 << 4, 2: 1 << 4, 3: SOURCE << 32, 4: 0, 5: 0, 6: 2 << 4 | 1 << 32, 7: 3 << 4, 8: SOURCE << 16 | 1 << 32,
    9: SOURCE << 16 | 1 << 4 | 1 << 32,
}  # fmt: skip


@pytest.mark.parametrize("kind", range(16), ids=lambda n: NAMES.get(n, str(n)))
def test_5_3_types_1_to_9_and_no_other(bench: Any, kind: int) -> None:
    """0xA, the stream response of old, is none any more."""
    b = bench(ats=True)
    b.scalable(flags=1 | 4 | 8)
    b.on()
    b.submit((kind | WORDS.get(kind, 0), 0))
    assert bool(b.unit.readl(r.FSTS) & r.IQE) == (kind not in NAMES)


@pytest.mark.parametrize(
    ("kind", "good"),
    [
        pytest.param(1, {1, 2, 3}, id="context cache: global, domain, device"),
        pytest.param(2, {1, 2, 3}, id="IOTLB: global, domain, page"),
        pytest.param(6, {2, 3}, id="PASID-based IOTLB: PASID, pages in PASID"),
        pytest.param(7, {0, 1, 3}, id="PASID cache: domain, PASID, global"),
    ],
)
def test_5_3_granularities(bench: Any, kind: int, good: set[int]) -> None:
    taken = set()
    for granularity in range(4):
        b = bench()
        b.scalable()
        b.on()
        b.submit((kind | granularity << 4, 0))
        if not b.unit.readl(r.FSTS) & r.IQE:
            taken.add(granularity)
    assert taken == good


def test_5_5_one_pasid_on_a_second_function_needs_an_entry_of_its_own(bench: Any) -> None:
    """PASID tables are of a function: bound on the first, the same number reaches nothing from the second."""
    b = bench(seconds=2)
    for slot in b.slots:
        b.scalable(source=slot.source)
        if slot is b.slots[0]:
            b.pasid(201, 1 | 4 << 6, 1)
    b.on()
    data = b.page()
    assert b.slots[0].dma_read(data, 4, 201) == bytes(4)
    with pytest.raises(DmaFault):
        b.slots[1].dma_read(data, 4, 201)
    assert b.fault()[:2] == (0x51, b.slots[1].source)
