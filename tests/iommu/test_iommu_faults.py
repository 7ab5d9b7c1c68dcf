"""DMA that the IOMMU refuses, and what it remembers: texts of drivers/iommu/intel/dmar.c, the IOTLB."""

from __future__ import annotations

from typing import Any

import pytest

from pykernel.hw.vtd.iotlb import SECOND
from pykernel.iommu.iommu import (
    IOMMU_READ,
    IOMMU_WRITE,
    iommu_attach_group,
    iommu_detach_group,
    iommu_domain_alloc,
    iommu_domain_free,
    iommu_group_claim_dma_owner,
    iommu_group_release_dma_owner,
)
from pykernel.pci.core import Pci
from pykernel.pci.function import DmaFault, PciFunction
from pykernel.pci.irq import Irqs

RW = IOMMU_READ | IOMMU_WRITE
STATUS = "DMAR: DRHD: handling fault status reg 2"
PROFILES = pytest.mark.parametrize("profile", ["linux-6.1", "linux-6.12"])


def refuse(world: Any, addr: int, *, write: bool) -> DmaFault:
    """Access *addr*, which must fault."""
    function = world.dev.function
    with pytest.raises(DmaFault) as e:
        function.dma_write(addr, b"data") if write else function.dma_read(addr, 4)
    return e.value


@pytest.fixture
def attached(world):
    """A world whose device is in an unmanaged domain with a read-only page at 0x5000."""
    made: list[Any] = []

    def make(iommu: str = "", profile: str = "linux-6.1") -> Any:
        w = world(iommu, profile=profile)
        w.domain = iommu_domain_alloc(w.dev)
        w.pa = w.phys.alloc_pages(4)
        w.domain.map(0x5000, w.pa, 4096, IOMMU_READ)
        iommu_attach_group(w.domain, w.group)
        made.append(w)
        return w

    yield make
    for w in made:
        iommu_detach_group(w.domain, w.group)
        iommu_domain_free(w.domain)
        w.phys.free_pages(w.pa, 4)


@PROFILES
@pytest.mark.parametrize(
    ("iommu", "addr", "write", "text"),
    [
        pytest.param(
            "sva = false", 0x1234567, False,
            "[DMA Read NO_PASID] Request device [6a:01.0] fault addr 0x1234000 [fault reason 0x06] "
            "PTE Read access is not set", id="legacy-read",
        ),
        pytest.param(
            "sva = false", 0x1234567, True,
            "[DMA Write NO_PASID] Request device [6a:01.0] fault addr 0x1234000 [fault reason 0x05] "
            "PTE Write access is not set", id="legacy-write",
        ),
        pytest.param(
            "sva = false", 0x5010, True,
            "[DMA Write NO_PASID] Request device [6a:01.0] fault addr 0x5000 [fault reason 0x05] "
            "PTE Write access is not set", id="legacy-write-to-read-only",
        ),
        pytest.param(
            "sva = false", 1 << 48, False,
            "[DMA Read NO_PASID] Request device [6a:01.0] fault addr 0x1000000000000 [fault reason 0x04] "
            "Access beyond MGAW", id="legacy-beyond",
        ),
        pytest.param(
            "", 0x1234567, False,
            "[DMA Read NO_PASID] Request device [6a:01.0] fault addr 0x1234000 [fault reason 0x79] "
            "SM: Read/Write permission error in second-level paging entry", id="scalable-read",
        ),
        pytest.param(
            "", 1 << 48, True,
            "[DMA Write NO_PASID] Request device [6a:01.0] fault addr 0x1000000000000 [fault reason 0x84] "
            "SM: Second-level entry address beyond the max", id="scalable-beyond",
        ),
    ],
)  # fmt: skip
def test_fault_texts(attached, profile, iommu, addr, write, text):
    """dmar_fault_do_one(): one line for the status register, one for the record; the address is the page's."""
    w = attached(iommu, profile)
    fault = refuse(w, addr, write=write)
    assert (fault.addr, fault.write) == (addr, write)
    assert w.log("DMAR") == [STATUS, f"DMAR: {text}"]


@pytest.mark.parametrize(
    ("profile", "iommu", "text"),
    [
        pytest.param("linux-6.1", "sva = false", "0x06] PTE Read access is not set", id="6.1-an-empty-domain"),
        pytest.param(
            "linux-6.12", "sva = false", "0x02] Present bit in context entry is clear", id="6.12-no-context-entry"
        ),
        pytest.param("linux-6.12", "", "0x59] SM: Present bit in PASID Table Entry is clear", id="6.12-no-pasid-entry"),
    ],
)
def test_a_group_that_user_space_owns_is_blocked(world, profile, iommu, text):
    """Between claiming the DMA and attaching a domain every access faults, in each kernel's own way."""
    w = world(iommu, profile=profile)
    iommu_group_claim_dma_owner(w.group, w)
    refuse(w, 0x1000, write=False)
    assert w.log("fault reason")[0].endswith(f"[fault reason {text}")
    iommu_group_release_dma_owner(w.group)


@pytest.mark.parametrize(
    ("addr", "write", "text"),
    [
        (0x1000, False, "0x71] SM: Present bit in first-level paging entry is clear"),
        (0x1000, True, "0x71] SM: Present bit in first-level paging entry is clear"),
        (1 << 47, False, "0x80] SM: Address in first-level translation is not canonical"),
    ],
)
def test_faults_of_the_default_domain_in_scalable_mode(world, addr, write, text):
    w = world()
    refuse(w, addr, write=write)
    assert w.log("fault reason")[0].endswith(f"[fault reason {text}")


def test_a_pasid_of_a_device_that_has_none(world, card):
    """domain_context_mapping_one(): without the capability PASIDE stays clear (VT-d 7.1.3)."""
    w = world(cards={"0000:6a:01.3": card()})
    with pytest.raises(DmaFault):
        w.dev.function.dma_read(0x7000, 4, 5)
    assert w.log("DMAR") == [
        STATUS,
        (
            "DMAR: [DMA Read PASID 0x5] Request device [6a:01.3] fault addr 0x7000 [fault reason 0x45] "
            "SM: PASID Enable field in Context Entry is clear"
        ),
    ]


def test_messages_are_limited(world):
    """
    ___ratelimit(): ten a 5 s, and the look for a next record counts: three faults and a half, then how many were lost.

    Linux 6.1.192 and 6.12.117 say exactly this to eight faults of an edu device, and one 5 s later.
    """
    w = world("sva = false")
    for page in range(8):
        refuse(w, page << 12, write=False)
    assert [text.removeprefix("DMAR: ")[:10] for text in w.log("DMAR")] == ["DRHD: hand", "[DMA Read "] * 3 + [
        "DRHD: hand"
    ]
    w.sleep(5 * 10**9 + 1)
    refuse(w, 0x9000, write=False)
    assert w.log("dmar_fault") == ["dmar_fault: 14 callbacks suppressed"]
    assert w.log("0x9000") != []


def test_a_fault_in_the_middle_writes_nothing(attached):
    """A write over two pages of which one is missing: the first keeps its bytes; the fault names the second."""
    w = attached()
    w.domain.map(0x8000, w.pa + 4096, 4096, RW)
    with pytest.raises(DmaFault) as e:
        w.dev.function.dma_write(0x8FFE, b"abcd")
    assert e.value.addr == 0x9000
    assert w.phys.read(w.pa + 8190, 2) == bytes(2)
    w.domain.unmap(0x8000, 4096)


def test_a_long_access_finds_the_hole(attached):
    w = attached()
    w.domain.map(0x10000, w.pa, 3 * 4096, RW)
    w.domain.unmap(0x11000, 4096)
    with pytest.raises(DmaFault) as e:
        w.dev.function.dma_read(0x10004, 3 * 4096 - 8)
    assert e.value.addr == 0x11000
    w.domain.unmap(0x10000, 4096)
    w.domain.unmap(0x12000, 4096)


@pytest.mark.parametrize("iommu", ["", "enabled = false"])
def test_messages_of_interrupts_are_not_translated(world, iommu):
    """
    A write to fee00000-feefffff is an interrupt, with and without an IOMMU.

    With one whose entry of the remapping table is not the requester's, or is none, it is blocked (VT-d 5.1.3).
    """
    w = world(iommu)
    raised: list[int] = []
    irqs = w.kernel.sub(Irqs)
    mine, other = irqs.alloc("PCI-MSI", 0), irqs.alloc("PCI-MSI", 1)
    mine.requester = w.dev
    irqs.raise_irq = raised.append
    for irq in (mine.irq, other.irq, 77):
        w.dev.function.dma_write(0xFEE00000, irq.to_bytes(4, "little"))
    assert raised == [mine.irq] + ([other.irq, 77] if iommu else [])
    del irqs.raise_irq
    for desc in (mine, other):
        irqs.free(desc.irq)
    assert w.log("DMAR") == []


# ---- other ways


def test_without_an_iommu_addresses_are_physical(world):
    w = world("enabled = false")
    pa = w.phys.alloc_pages(2)
    w.dev.function.dma_write(pa + 4090, b"0123456789")
    assert w.phys.read(pa + 4090, 10) == b"0123456789"
    with pytest.raises(DmaFault) as e:
        w.dev.function.dma_read(1 << 40, 4)
    assert e.value.addr == 1 << 40
    w.phys.free_pages(pa, 2)


def test_an_identity_domain_is_physical(world):
    w = world(cmdline="iommu=pt")
    pa = w.phys.alloc_pages(1)
    w.dev.function.dma_write(pa, b"pt")
    assert w.dev.function.dma_read(pa, 2) == b"pt"
    w.phys.free_pages(pa)


def test_peer_to_peer_through_the_iommu(world, card):
    """A BAR of another device, mapped at an address: reads and writes are register accesses."""

    class Register(card):  # type: ignore[valid-type, misc]
        value = 0x11223344

        def bar_read(self, bar: int, off: int, size: int) -> int:
            return self.value >> 8 * (off & 3) & (1 << 8 * size) - 1

        def bar_write(self, bar: int, off: int, size: int, value: int) -> None:
            self.value = value

    peer = Register()
    w = world(cards={"0000:6a:01.0": card(), "0000:6a:02.0": peer})
    w.devs[1].enable_device()
    domain = iommu_domain_alloc(w.dev)
    domain.map(0x5000, w.devs[1].resource_start(0), 4096, RW)
    iommu_attach_group(domain, w.group)
    assert w.dev.function.dma_read(0x5000, 4) == (0x11223344).to_bytes(4, "little")
    w.dev.function.dma_write(0x5000, (5).to_bytes(4, "little"))
    assert (peer.value, w.dev.function.dma_view(0x5000, 4, write=False)) == (5, None)
    iommu_detach_group(domain, w.group)
    iommu_domain_free(domain)
    w.devs[1].disable_device()


# ---- the IOTLB


@pytest.mark.parametrize("n", [8, 3 * 4096], ids=["a-word", "three-pages"])
def test_a_dropped_invalidation_shows_a_stale_page(attached, n):
    """
    A device that read an address before it was unmapped: with the invalidation it faults, without it reads on.

    The page is somebody else's by then: this is what a driver that forgets to invalidate does.
    """
    w = attached()
    read = w.dev.function.dma_read
    w.domain.map(0x10000, w.pa, 4 * 4096, RW)
    w.phys.write(w.pa, b"old data")
    assert read(0x10000, n)[:8] == b"old data"
    with w.kernel.faults.fail("iotlb", every=1) as lost:
        assert w.domain.unmap(0x10000, 4 * 4096) == 4 * 4096
    assert (lost.fired, lost.failed[0][:7]) == (1, "domain ")
    w.phys.write(w.pa, b"not ours")
    assert read(0x10000, n)[:8] == b"not ours", "stale"
    w.domain.flush_iotlb_all()
    with pytest.raises(DmaFault):
        read(0x10000, n)


@pytest.mark.parametrize("n", [8, 3 * 4096], ids=["a-word", "three-pages"])
def test_an_unmapping_is_seen_at_once(attached, n):
    w = attached()
    function = w.dev.function
    for _ in range(2):
        w.domain.map(0x10000, w.pa, 4 * 4096, RW)
        function.dma_write(0x10000, bytes(n))
        assert function.dma_read(0x10000, n) == bytes(n)
        w.domain.unmap(0x10000, 4 * 4096)
        for access in (lambda: function.dma_read(0x10000, n), lambda: function.dma_write(0x10000, bytes(n))):
            with pytest.raises(DmaFault):
                access()


def test_a_new_mapping_needs_no_invalidation(attached):
    """What is not there is not remembered."""
    w = attached()
    refuse(w, 0x10000, write=False)
    with w.kernel.faults.fail("iotlb", every=1):
        w.domain.map(0x10000, w.pa, 4096, RW)
        assert w.dev.function.dma_read(0x10000, 4) == bytes(4)
    w.domain.unmap(0x10000, 4096)


def test_many_addresses_do_not_fill_the_iotlb(attached):
    w = attached()
    pages = 5000
    for i in range(pages):
        w.domain.map((1 << 30) + (i << 12), w.pa, 4096, RW)
    for i in range(pages):
        w.dev.function.dma_read((1 << 30) + (i << 12), 4)
    tlb = w.kernel.dmar.iotlbs.get(w.domain.id, SECOND)
    assert len(tlb.rpages) + len(tlb.rspans) <= 4096
    w.domain.unmap(1 << 30, pages << 12)


def test_views_are_the_memory_itself(attached):
    """dma_view(): pieces in order, as few as there are ranges; a page that is missing faults."""
    w = attached()
    w.domain.map(0x10000, w.pa, 4096, RW)
    w.domain.map(0x11000, w.pa + 8192, 8192, RW)
    views = w.dev.function.dma_view(0x10F00, 0x1200, write=True)
    assert [len(view) for view in views] == [0x100, 0x1100]
    views[1][:4] = b"here"
    assert w.phys.read(w.pa + 8192, 4) == b"here"
    with pytest.raises(DmaFault):
        w.dev.function.dma_view(0x12000, 0x2000, write=False)
    with pytest.raises(DmaFault):
        w.dev.function.dma_view(0x5000, 8, write=True)
    w.domain.unmap(0x10000, 3 * 4096)


def test_a_view_needs_bus_mastering(attached):
    w = attached()
    w.dev.clear_master()
    with pytest.raises(DmaFault) as e:
        w.dev.function.dma_view(0x5000, 8, write=False)
    assert (e.value.reason, w.log("DMAR")) == ("bus master disabled", [])
    w.dev.set_master()


def test_a_slot_without_a_device_reaches_nothing(world):
    w = world()
    slot = w.kernel.sub(Pci).plug("0000:6b:01.0", PciFunction(w.dev.function.config))
    for access in (
        lambda: slot.dma_read(0, 1),
        lambda: slot.dma_write(0, b"x"),
        lambda: slot.dma_view(0, 1, write=False),
    ):
        with pytest.raises(DmaFault, match="no such requester"):
            access()
