"""Walks of random and of malformed tables, beside a naive walker of one page at a time."""

from __future__ import annotations

import random
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vtdbench import Bench

from pykernel.hw.vtd.codes import VtdFault
from pykernel.hw.vtd.iotlb import Iotlb
from pykernel.hw.vtd.walk import FirstStage, Nested, SecondStage
from pykernel.mm.phys import PhysFault, PhysMem
from pykernel.pci.function import DmaFault
from pykernel.pci.irq import Irqs

FRAME = ((1 << 52) - 1) & -4096
SIZE = 1 << 22  # of RAM that the tables are in: all of it may be looked at
TABLES = 24


class Naive:
    """Page by page, as the specification's figures go: reads of words, nothing else."""

    def __init__(self, words, root, levels, need, present, *, to_host=lambda gpa: gpa):
        self.words, self.root, self.levels = words, root, levels
        self.need, self.present, self.to_host = need, present, to_host

    def page(self, addr):
        """Where the byte at *addr* is; None: nowhere."""
        table, rights = self.root, self.need
        for level in range(self.levels, 0, -1):
            host = self.to_host(table)
            if host is None or not 0 <= host < SIZE:
                return None
            entry = self.words[(host >> 3) + (addr >> (3 + 9 * level) & 511)]
            if not entry & self.present:
                return None
            rights &= entry
            if entry & 0x80:
                if level > 3:
                    return None
                if level > 1:
                    size = 1 << 3 + 9 * level
                    low = entry & FRAME & (size - 1)
                    if low & (~0x1000 if self.present == 1 else -1):
                        return None
                    return None if rights != self.need else (entry & FRAME & -size) + (addr & size - 1)
            if level == 1:
                return None if rights != self.need else (entry & FRAME) + (addr & 4095)
            table = entry & FRAME
        return None


def memory(seed):
    """RAM full of tables that point at each other, at nothing, and far away."""
    phys = PhysMem(None, 16 << 20)
    rng = random.Random(seed)
    tables = [phys.alloc_page() for _ in range(TABLES)]
    for table in tables:
        for _ in range(rng.choice((8, 64, 512))):
            target = rng.choice(tables) if rng.random() < 0.85 else rng.getrandbits(52) & FRAME
            flags = rng.choice((7, 7, 7, 7, 5, 3, 1, 0, 0x87, rng.getrandbits(12)))
            top = 0 if rng.random() < 0.9 else rng.getrandbits(11) << 52
            phys.words[(table >> 3) + rng.randrange(512)] = target | flags | top
    return phys, tables, rng


def address(tables, phys, rng, width):
    """One that the tables lead somewhere for, mostly."""
    table, addr = tables[0], 0
    for level in range((width - 12) // 9, 0, -1):
        used = [n for n in range(512) if phys.words[(table >> 3) + n]] or [0]
        n = rng.choice(used)
        addr |= n << 3 + 9 * level
        entry = phys.words[(table >> 3) + n]
        if entry & FRAME not in tables:
            break
        table = entry & FRAME
    return addr | rng.getrandbits(12)


def compare(walk, naive, addr, n, *, write):
    """The same bytes, or a fault at the first that is not reached."""
    expected = []
    for at in range(addr, addr + n):
        pa = naive.page(at)
        if pa is None:
            break
        expected.append(pa)
    if len(expected) == n:
        spans = walk.extents(addr, n, write=write)
        assert [pa + i for pa, size in spans for i in range(size)] == expected
    else:
        with pytest.raises(VtdFault) as e:
            walk.extents(addr, n, write=write)
        assert (addr if e.value.addr is None else max(e.value.addr, addr)) == addr + len(expected)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 1 << 32), st.booleans(), st.sampled_from([39, 48, 57]))
def test_second_stage_is_as_the_naive_walk(seed, write, width):
    phys, tables, rng = memory(seed)
    walk = SecondStage(phys, tables[0], width, 3, None)
    naive = Naive(phys.words, tables[0], (width - 12) // 9, 2 if write else 1, 3)
    for _ in range(20):
        addr = address(tables, phys, rng, width)
        n = min(rng.choice((1, 16, 5000)), (1 << width) - addr)
        compare(walk, naive, addr, n, write=write)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 1 << 32), st.booleans(), st.sampled_from([48, 57]))
def test_first_stage_is_as_the_naive_walk(seed, write, width):
    """Accessed and dirty bits that it sets change nothing of what the naive one finds."""
    phys, tables, rng = memory(seed)
    walk = FirstStage(phys, tables[0], width, 3, None)
    naive = Naive(phys.words, tables[0], (width - 12) // 9, 7 if write else 5, 1)
    for _ in range(20):
        addr = address(tables, phys, rng, width) & (1 << width - 1) - 1
        n = min(rng.choice((1, 16, 5000)), (1 << width - 1) - addr)
        compare(walk, naive, addr, n, write=write)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 1 << 32))
def test_nested_is_the_naive_walk_of_naive_walks(seed):
    phys, tables, rng = memory(seed)
    guest, host = tables[: TABLES // 2], tables[TABLES // 2 :]
    # where the guest's tables lie in its own memory
    for n, pa in enumerate(guest):
        table = host[0]
        for level in range(4, 1, -1):
            at = (table >> 3) + (pa >> 3 + 9 * level & 511)
            phys.words[at] = host[5 - level] | 3
            table = host[5 - level]
        phys.words[(table >> 3) + (pa >> 12 & 511)] = guest[(n + 1) % len(guest)] | 3
    second = Naive(phys.words, host[0], 4, 1, 3)
    naive = Naive(phys.words, guest[0], 4, 5, 1, to_host=lambda gpa: second.page(gpa) if gpa < 1 << 48 else None)

    class Both:
        def page(self, addr):
            gpa = naive.page(addr)
            return None if gpa is None or gpa >= 1 << 48 else second.page(gpa)

    for pa in tables:  # accessed bits are another matter: no table may be one that is read as something else
        for n in range(512):
            if phys.words[(pa >> 3) + n] & 1:
                phys.words[(pa >> 3) + n] |= 1 << 5
    walk = Nested(SecondStage(phys, host[0], 48, 3, None), Iotlb(), guest[0], 48, 3, None)
    before = bytes(phys.ram[:SIZE])
    for _ in range(20):
        addr = address(guest, phys, rng, 48) & (1 << 47) - 1
        compare(walk, Both(), addr, rng.choice((1, 16, 5000)), write=False)
    assert bytes(phys.ram[:SIZE]) == before


@settings(max_examples=100, deadline=None)
@given(st.binary(min_size=64, max_size=64), st.integers(0, (1 << 64) - 1), st.booleans())
def test_malformed_tables_lead_to_no_memory_outside(garbage, addr, write):
    """Whatever is in the tables: a fault, or addresses that RAM or nothing answers."""
    phys = PhysMem(None, 16 << 20)
    root = phys.alloc_page()
    phys.ram[root : root + 4096] = garbage * 64
    for walk in (SecondStage(phys, root, 48, 3, None), FirstStage(phys, root, 57, 3, None)):
        try:
            spans = walk.extents(addr, 100, write=write)
        except VtdFault:
            continue
        for pa, n in spans:
            assert 0 <= pa <= pa + n <= 1 << 52
            if not phys.is_ram(pa):
                with pytest.raises(PhysFault):
                    phys.read(pa, n)


SWITCHES = [1 << 31, 3 << 30, 1 << 26 | 1 << 31, 0x1000, 1 << 10]
WRITES = st.lists(
    st.tuples(
        st.sampled_from([*range(0x18, 0xF0, 4), 0x40C, 0x500, 0x504, 0x508, 0x50C]),
        st.sampled_from([4, 8]),
        st.one_of(st.integers(0, (1 << 64) - 1), st.sampled_from(SWITCHES)),
    ),
    min_size=1,
    max_size=40,
)


@settings(max_examples=50, deadline=None)
@given(WRITES, st.integers(0, (1 << 64) - 1), st.integers(0, (1 << 20) - 1))
def test_whatever_software_writes_to_the_registers(writes, addr, pasid):
    """Garbage in registers, and so in tables and queues: a DMA goes through or is a DmaFault, and nothing else."""
    b = Bench()
    try:
        for off, size, value in writes:
            b.unit.write(off, size, value)
            b.unit.read(off, size)
        for kw in ({}, {"pasid": pasid}, {"pasid": pasid, "priv": True}):
            with suppress(DmaFault):
                b.slot.dma_write(addr, bytes(16), **kw)
            with suppress(DmaFault):
                b.slot.dma_read(addr, 16, **kw)
        b.unit.request_page(b.slot, addr, write=True, pasid=pasid, priv=False, done=lambda _code: None)
    finally:
        del b.kernel.sub(Irqs).raise_irq
