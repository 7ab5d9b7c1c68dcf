"""Domains with page tables: what is mapped, which errors and texts, large pages, dirty bits, coherency."""

from __future__ import annotations

import errno
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pykernel.hw.vtd.walk import SecondStage
from pykernel.iommu.dma import dma_alloc_coherent, dma_free_coherent
from pykernel.iommu.iommu import (
    IOMMU_CAP_CACHE_COHERENCY,
    IOMMU_CAP_DEFERRED_FLUSH,
    IOMMU_CAP_DIRTY_TRACKING,
    IOMMU_CAP_ENFORCE_CACHE_COHERENCY,
    IOMMU_CAP_INTR_REMAP,
    IOMMU_CAP_NOEXEC,
    IOMMU_READ,
    IOMMU_WRITE,
    device_iommu_capable,
    iommu_attach_group,
    iommu_detach_group,
    iommu_domain_alloc,
    iommu_domain_alloc_user,
    iommu_domain_free,
)
from pykernel.iommu.pgtable import PageTable
from pykernel.mm.phys import PhysMem

RW = IOMMU_READ | IOMMU_WRITE
K4, M2, G1 = 1 << 12, 1 << 21, 1 << 30


@pytest.fixture
def domain(world):
    """An unmanaged domain of a machine in scalable mode; ``domain.world`` is its world."""
    w = world()
    made: Any = iommu_domain_alloc(w.dev)
    made.world = w
    yield made
    iommu_domain_free(made)


def pte(domain: Any, iova: int) -> int:
    """The entry that decides *iova*, read from the machine's memory by hand: four levels of nine bits."""
    words, at = domain.world.phys.words, domain.table.root
    for shift in (39, 30, 21, 12):
        entry = words[(at >> 3) + (iova >> shift & 511)]
        if not entry & 3 or entry & 1 << 7:
            break
        at = entry & ((1 << 52) - 4096)
    return entry


# ---- layout


@pytest.mark.parametrize(
    ("iova", "pa", "size", "at", "entry"),
    [
        pytest.param(0x1000, 0x5000, K4, 0x1000, 0x5003, id="4K"),
        pytest.param(M2, 4 * M2, M2, M2, 4 * M2 | 0x83, id="2M"),
        pytest.param(G1, 3 * G1, G1, G1, 3 * G1 | 0x83, id="1G"),
        pytest.param(M2, 4 * M2 + K4, M2, M2, 4 * M2 + K4 | 3, id="the-frame-is-not-aligned"),
        pytest.param(M2 - K4, 4 * M2 - K4, M2 + K4, M2, 4 * M2 | 0x83, id="2M-after-4K"),
        pytest.param(G1 - M2, 3 * G1 - M2, G1 + M2, G1, 3 * G1 | 0x83, id="1G-after-2M"),
    ],
)
def test_entries_in_memory(domain, iova, pa, size, at, entry):
    """Second-stage entries of VT-d: R is bit 0, W bit 1, a large page bit 7; the largest page that fits is used."""
    domain.map(iova, pa, size, RW)
    assert pte(domain, at) == entry
    assert domain.iova_to_phys(iova + size - 1) == pa + size - 1
    assert domain.unmap(iova, size) == size
    assert domain.iova_to_phys(iova) is None


@pytest.mark.parametrize(
    ("prot", "bits"), [(IOMMU_READ, 1), (RW, 3), pytest.param(IOMMU_WRITE, 3, id="write-is-readable-too")]
)
def test_permission_bits(domain, prot, bits):
    """__domain_mapping() sets the first-stage present bit always, and that is the second stage's read bit."""
    domain.map(0x1000, 0x5000, K4, prot)
    assert pte(domain, 0x1000) & 3 == bits
    domain.unmap(0x1000, K4)


@pytest.mark.parametrize(("largest", "sizes"), [("4K", 0x1000), ("2M", 0x201000), ("1G", 0x40201000)])
def test_page_sizes(world, largest, sizes):
    w = world(f"largest_page = '{largest}'")
    domain: Any = iommu_domain_alloc(w.dev)
    domain.world = w
    assert domain.pgsize_bitmap == sizes
    domain.map(G1, G1, G1, RW)
    assert bool(pte(domain, G1) & 0x80) is (largest != "4K")
    assert domain.unmap(G1, G1) == G1
    iommu_domain_free(domain)


@pytest.mark.parametrize("width", [39, 48, 57])
def test_geometry(world, width, fails):
    """Second-stage addresses have all the bits, first-stage ones must be canonical: one bit less."""
    w = world(f"address_width = {width}")
    domain: Any = iommu_domain_alloc(w.dev)
    geometry = domain.geometry
    assert (geometry.aperture_start, geometry.aperture_end, geometry.force_aperture) == (0, (1 << width) - 1, True)
    assert w.group.default_domain.geometry.aperture_end == (1 << width - 1) - 1
    top = (1 << width) - K4
    domain.map(top, 0x5000, K4, RW)
    assert domain.iova_to_phys(top) == 0x5000
    assert fails(domain.map, top, 0x5000, 2 * K4, RW) == errno.EFAULT
    text = f"iommu width ({width}) is not sufficient for the mapped address ({(1 << width) + K4:x})"
    assert w.log("intel_iommu_map") == [f"DMAR: intel_iommu_map: {text}"]
    assert (domain.unmap(1 << width, K4), domain.iova_to_phys(1 << width)) == (0, None)
    iommu_domain_free(domain)


def test_legacy_mode_has_second_stage_tables_only(world):
    w = world("sva = false")
    assert w.group.default_domain.geometry.aperture_end == (1 << 48) - 1


def test_the_dma_api_has_first_stage_entries(world):
    """P, R/W, U/S, A, D and XD: the kernel sets accessed and dirty itself."""
    w = world()
    buffer = dma_alloc_coherent(w.dev, 4096)
    entry, _ = w.group.default_domain.table.lookup(buffer.addr >> 12)
    assert entry == buffer.pa | 0x67 | 1 << 63
    dma_free_coherent(buffer)


# ---- errors


@pytest.mark.parametrize(
    ("iova", "pa", "size", "text"),
    [
        (0x1001, 0x1000, 0x1000, "iova 0x1001 pa 0x0000000000001000 size 0x1000"),
        (0x1000, 0x1800, 0x1000, "iova 0x1000 pa 0x0000000000001800 size 0x1000"),
        (0x1000, 0x1000, 0x1234, "iova 0x1000 pa 0x0000000000001000 size 0x1234"),
    ],
)
def test_what_is_not_aligned_is_refused(domain, fails, iova, pa, size, text):
    assert fails(domain.map, iova, pa, size, RW) == errno.EINVAL
    assert domain.world.log("unaligned") == [f"iommu: unaligned: {text} min_pagesz 0x1000"]


def test_unmap_of_what_is_not_aligned(domain):
    assert domain.unmap(0x1001, 0x1000) == 0
    assert domain.world.log("unaligned") == ["iommu: unaligned: iova 0x1001 size 0x1000 min_pagesz 0x1000"]


def test_without_permission_it_is_no_mapping(domain, fails):
    assert fails(domain.map, 0x1000, 0x1000, K4, 0) == errno.EINVAL
    assert domain.iova_to_phys(0x1000) is None


@pytest.mark.parametrize("kind", ["blocked", "identity"])
def test_domains_without_tables(world, fails, kind):
    w = world(cmdline="iommu=pt", profile="linux-6.12")
    domain = w.group.default_domain if kind == "identity" else w.dev.iommu.blocked
    assert fails(domain.map, 0x1000, 0x1000, K4, RW) == errno.EINVAL
    assert domain.unmap(0x1000, K4) == 0
    assert domain.iova_to_phys(0x1234) == (0x1234 if kind == "identity" else None)


def test_what_is_mapped_stays(domain):
    """Mapping over a mapping is a bug that is told; the old entry wins."""
    domain.map(0x2000, 0x5000, K4, RW)
    domain.map(0x1000, 0x8000, 3 * K4, RW)
    assert [domain.iova_to_phys(a) for a in (0x1000, 0x2000, 0x3000)] == [0x8000, 0x5000, 0xA000]
    assert domain.world.log("already set") == ["DMAR: ERROR: DMA PTE for vPFN 0x2 already set (to 5003 not 9003)"]
    assert domain.unmap(0x1000, 3 * K4) == 3 * K4


def test_no_memory_for_a_table_undoes_the_mapping(domain, fails):
    with domain.world.kernel.faults.fail("alloc", "iommu_map"):
        assert fails(domain.map, 0x1000, 0x5000, K4, RW) == errno.ENOMEM
    frames = domain.table.frames
    limited = domain.world.phys

    def alloc_page() -> int:
        raise OSError(errno.ENOMEM, "no page")

    real = limited.alloc_page
    domain.map(M2 - K4, 0x5000, K4, RW)
    limited.alloc_page = alloc_page
    assert fails(domain.map, M2 - 2 * K4, 0x8000, 4 * K4, RW) == errno.ENOMEM
    limited.alloc_page = real
    assert domain.iova_to_phys(M2 - 2 * K4) is None
    domain.unmap(M2 - K4, K4)
    assert domain.table.frames >= frames


# ---- unmap


def test_unmap_takes_the_whole_large_page(domain):
    """intel_iommu_unmap(): no large page is split, the size is rounded up to it."""
    domain.map(M2, 4 * M2, 2 * M2, RW)
    assert domain.unmap(M2, K4) == M2
    assert [domain.iova_to_phys(a) for a in (M2, 2 * M2 - K4, 2 * M2)] == [None, None, 5 * M2]
    assert domain.unmap(2 * M2, M2) == M2


def test_unmap_of_a_hole_is_as_large_as_the_hole(domain):
    """Where a table is missing, all that it would cover counts as unmapped."""
    assert domain.unmap(0, K4) == 1 << 39
    domain.map(0x1000, 0x5000, K4, RW)
    assert domain.unmap(0x2000, K4) == K4
    assert domain.unmap(M2, K4) == M2
    assert domain.unmap(G1, K4) == G1
    assert domain.iova_to_phys(0x1000) == 0x5000
    domain.unmap(0x1000, K4)


def test_tables_go_with_the_range_that_they_cover(domain):
    empty = domain.table.frames
    domain.map(M2, M2 + K4, M2, RW)
    assert domain.table.frames == empty + 3
    domain.unmap(M2, M2)
    assert domain.table.frames == empty + 2, "the leaf table was wholly covered"
    domain.unmap(0, 1 << 39)
    assert domain.table.frames == empty


def test_a_large_page_replaces_an_empty_table(domain):
    """switch_to_super_page(): a table that lost its entries one by one makes room."""
    domain.map(M2, 0x5000, K4, RW)
    domain.unmap(M2, K4)
    frames = domain.table.frames
    domain.map(M2, 4 * M2, M2, RW)
    assert domain.table.frames == frames - 1
    assert domain.iova_to_phys(M2 + 5) == 4 * M2 + 5
    domain.unmap(M2, M2)


# ---- the naive model

PAGES = 3 * 512
chunk = st.tuples(st.integers(0, PAGES - 1), st.integers(1, 700), st.integers(0, 4096), st.booleans(), st.booleans())


class Model:
    """A dictionary of pages: page -> (frame, writable, the first page and the pages of its entry)."""

    def __init__(self) -> None:
        self.pages: dict[int, tuple[int, bool, int, int]] = {}
        self.dirty: set[int] = set()

    def map(self, pfn: int, frame: int, n: int, writable: bool) -> None:
        while n:
            step = 512 if pfn % 512 == 0 and frame % 512 == 0 and n >= 512 else 1
            for i in range(step):
                self.pages[pfn + i] = (frame + i, writable, pfn, step)
            pfn, frame, n = pfn + step, frame + step, n - step

    def unmap(self, pfn: int, n: int) -> None:
        for page in range(pfn, pfn + n):
            if page in self.pages and self.pages[page][2] >= pfn:
                first, size = self.pages[page][2:]
                if first + size <= pfn + n:
                    del self.pages[page]


@settings(max_examples=60)
@given(st.lists(chunk, max_size=12), st.lists(st.tuples(st.integers(0, PAGES), st.integers(1, 600)), max_size=6))
def test_tables_agree_with_a_dictionary_of_pages(maps, unmaps):
    """Random mappings and unmappings of whole entries: translation, permissions, extents; no frame is lost."""
    phys = PhysMem(None, 64 << 20)
    table, model = PageTable(phys, 4), Model()
    for pfn, n, frame, writable, aligned in maps:
        frame = frame & -512 | pfn & 511 if aligned else frame
        if any(page in model.pages for page in range(pfn, pfn + n)):
            continue
        assert table.map(pfn, frame << 12, n, 1 | writable << 1, 3) == []
        model.map(pfn, frame, n, writable)
    _compare(table, model)
    for pfn, n in unmaps:
        table.free_frames(table.unmap(pfn, pfn + n - 1))
        model.unmap(pfn, n)
    _compare(table, model)
    table.free()
    assert (table.frames, phys.used) == (0, 0)


def _compare(table: PageTable, model: Model) -> None:
    for page in range(PAGES + 1300):
        entry, size = table.lookup(page)
        if page not in model.pages:
            assert not entry, page
            continue
        frame, writable, _, step = model.pages[page]
        assert (entry & (1 << 52) - 1 & -size) + (page << 12 & size - 1) == frame << 12
        assert (bool(entry & 2), size) == (writable, step << 12)


@pytest.mark.parametrize("scatter", [False, True])
def test_extents_are_ranges_where_frames_are_neighbours(domain, scatter):
    step = 2 if scatter else 1
    for i in range(600):
        domain.map(0x100000 + (i << 12), (0x1000 + i * step) << 12, K4, RW)
    walk = SecondStage(domain.table.phys, domain.table.root, 48, 3, domain.kernel.trace)
    spans = walk.extents(0x100123, 599 * K4, write=True)
    assert (len(spans), spans[0][0]) == (600 if scatter else 1, (0x1000 << 12) + 0x123)
    assert sum(size for _, size in spans) == 599 * K4
    assert spans[-1][0] + spans[-1][1] == (0x1000 + 599 * step << 12) + 0x123
    domain.unmap(0x100000, 600 * K4)


# ---- dirty pages


@pytest.fixture
def tracked(world):
    """A domain with dirty tracking, attached, with 4 KiB pages at 1 MiB and a large page at 4 MiB."""
    w = world(profile="linux-6.12")
    domain: Any = iommu_domain_alloc_user(w.dev, dirty_tracking=True)
    domain.world = w
    pa = w.phys.alloc_pages(1024, align=512)
    domain.map(1 << 20, pa, 16 * K4, RW)
    domain.map(2 * M2, pa + M2, M2, RW)
    iommu_attach_group(domain, w.group)
    yield domain
    iommu_detach_group(domain, w.group)
    iommu_domain_free(domain)
    w.phys.free_pages(pa, 1024)


def test_writes_of_the_device_are_dirty_pages(tracked):
    """One entry a page, the whole of a large page; reads and what went before tracking are none."""
    write, base = tracked.world.dev.function.dma_write, 1 << 20
    write(base, b"before")
    tracked.set_dirty_tracking(True)
    tracked.world.dev.function.dma_read(base + 2 * K4, 8)
    write(base + 3 * K4 - 2, b"over")
    write(2 * M2 + 0x5000, b"large")
    assert list(tracked.read_and_clear_dirty(base, M2)) == [(base + 2 * K4, K4), (base + 3 * K4, K4)]
    assert list(tracked.read_and_clear_dirty(2 * M2, M2, clear=False)) == [(2 * M2, M2)]
    assert list(tracked.read_and_clear_dirty(2 * M2, M2)) == [(2 * M2, M2)]
    assert list(tracked.read_and_clear_dirty(base, 4 * M2)) == []


def test_a_page_is_dirty_again_after_each_round(tracked):
    """Clearing invalidates what the IOTLB knows, so the next write sets the bit again."""
    tracked.set_dirty_tracking(True)
    for data in (b"x" * 64, b"y" * (3 * K4)):
        for _ in range(2):
            tracked.world.dev.function.dma_write(1 << 20, data)
            pages = -(-len(data) // K4)
            assert list(tracked.read_and_clear_dirty(1 << 20, M2)) == [((1 << 20) + i * K4, K4) for i in range(pages)]


def test_a_lost_invalidation_loses_dirty_pages(tracked):
    tracked.set_dirty_tracking(True)
    tracked.world.dev.function.dma_write(1 << 20, b"x")
    with tracked.world.kernel.faults.fail("iotlb", every=1):
        assert len(list(tracked.read_and_clear_dirty(1 << 20, M2))) == 1
    tracked.world.dev.function.dma_write(1 << 20, b"y")
    assert list(tracked.read_and_clear_dirty(1 << 20, M2)) == []


def test_dirty_tracking_that_is_not_there_or_off(world, fails):
    """Not asked for at allocation: EOPNOTSUPP; off: EINVAL; an IOMMU without it: no such domain."""
    w = world(profile="linux-6.12")
    plain = iommu_domain_alloc(w.dev)
    assert not plain.has_dirty_ops
    assert fails(plain.set_dirty_tracking, on=True) == errno.EOPNOTSUPP
    assert fails(plain.read_and_clear_dirty, 0, K4) == errno.EOPNOTSUPP
    tracked = iommu_domain_alloc_user(w.dev, dirty_tracking=True)
    assert tracked.has_dirty_ops
    assert fails(tracked.read_and_clear_dirty, 0, K4) == errno.EINVAL
    for domain in (plain, tracked):
        iommu_domain_free(domain)
    without = world("dirty_tracking = false", profile="linux-6.12")
    assert fails(iommu_domain_alloc_user, without.dev, dirty_tracking=True) == errno.EOPNOTSUPP


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 15), st.integers(1, 6 * K4), st.booleans()), max_size=10))
def test_dirty_bits_agree_with_a_set_of_pages(accesses):
    phys = PhysMem(None, 16 << 20)
    table = PageTable(phys, 4)
    table.map(256, 0x800000, 32, 3, 3)
    walk = SecondStage(phys, table.root, 48, 3, None, ad=True)
    dirty: set[int] = set()
    for page, n, write in accesses:
        walk.extents((256 + page) << 12, n, write=write)
        if write:
            dirty |= set(range(256 + page, 256 + page + -(-n // K4)))
    found = table.marked(256 << 12, 288 << 12, 1 << 9, clear=True)
    assert [(pfn, size) for pfn, size in found] == [(pfn, K4) for pfn in sorted(dirty)]
    assert table.marked(0, 288 << 12, 1 << 9, clear=False) == []
    table.free()


# ---- coherency, capabilities


@pytest.mark.parametrize(("profile", "late"), [("linux-6.1", True), ("linux-6.12", False)])
def test_enforce_cache_coherency(world, profile, late):
    """SNP (bit 11) of what is mapped from then on; 6.12 refuses once something is mapped."""
    w = world(profile=profile)
    domain: Any = iommu_domain_alloc(w.dev)
    domain.world = w
    assert domain.enforce_cache_coherency()
    domain.map(0x1000, 0x5000, K4, RW)
    assert pte(domain, 0x1000) == 0x5803
    assert domain.enforce_cache_coherency()
    other = iommu_domain_alloc(w.dev)
    other.map(0x1000, 0x5000, K4, RW)
    assert other.enforce_cache_coherency() is late
    for made in (domain, other):
        iommu_domain_free(made)


@pytest.mark.parametrize(
    ("iommu", "cap", "has"),
    [
        ("", IOMMU_CAP_CACHE_COHERENCY, True),
        ("", IOMMU_CAP_DEFERRED_FLUSH, True),
        ("", IOMMU_CAP_NOEXEC, False),
        ("", IOMMU_CAP_INTR_REMAP, True),
        ("intr_remap = false", IOMMU_CAP_INTR_REMAP, False),
        ("", IOMMU_CAP_ENFORCE_CACHE_COHERENCY, True),
        ("snoop_control = false", IOMMU_CAP_ENFORCE_CACHE_COHERENCY, False),
        ("", IOMMU_CAP_DIRTY_TRACKING, True),
        ("dirty_tracking = false", IOMMU_CAP_DIRTY_TRACKING, False),
        pytest.param("sva = false", IOMMU_CAP_DIRTY_TRACKING, False, id="ssads-needs-scalable-mode"),
        ("enabled = false", IOMMU_CAP_CACHE_COHERENCY, False),
    ],
)
def test_capabilities(world, iommu, cap, has):
    assert device_iommu_capable(world(iommu).dev, cap) is has


def test_without_snoop_control_nothing_is_enforced(world):
    w = world("snoop_control = false")
    domain = iommu_domain_alloc(w.dev)
    assert not domain.enforce_cache_coherency()
    iommu_domain_free(domain)
