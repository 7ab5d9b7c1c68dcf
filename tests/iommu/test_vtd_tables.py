"""
What the driver of VT-d writes: registers at boot, root, context and PASID-table entries, invalidations and their order.

Fields are those of the specification (VT-d 9.1 to 9.6, 6.5.2, 6.5.3.3); the order of a teardown is Linux's.
"""

from __future__ import annotations

from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

import pykernel
from pykernel.hw.vtd import regs as r
from pykernel.iommu.caches import _psi
from pykernel.iommu.iommu import (
    IOMMU_READ,
    IOMMU_WRITE,
    iommu_attach_group,
    iommu_detach_group,
    iommu_domain_alloc,
    iommu_domain_free,
)
from pykernel.iommu.pasid import (
    intel_pasid_alloc_table,
    intel_pasid_setup_nested,
    intel_pasid_setup_pass_through,
    intel_pasid_tear_down_entry,
)
from pykernel.iommu.qi import dev_iotlb_desc, dev_iotlb_pasid_desc, page_group_response, piotlb_desc
from pykernel.machine import parse
from pykernel.pci.core import Pci

DSA = "[[pci]]\nmodel='dsa'\naddress='0000:6a:01.0'\n"
PROFILES = pytest.mark.parametrize("profile", ["linux-6.1", "linux-6.12", "linux-7.2"])
SID = 0x6A08


class Box:
    """An accelerator behind an IOMMU."""

    def __init__(self, iommu: str = "", profile: str = "linux-6.1", cmdline: str = "") -> None:
        self.kernel = pykernel.boot(parse(f"cmdline = '{cmdline}'\n[iommu]\n{iommu}\n" + DSA), profile)
        self.kernel.up()
        self.dev = cast("Any", self.kernel.sub(Pci).devices["0000:6a:01.0"])
        self.unit: Any = self.kernel.dmar
        self.phys = self.dev.iommu.phys
        self.info = self.dev.iommu.info(self.dev)

    def word(self, at: int) -> int:
        return int.from_bytes(self.phys.read(at, 8), "little")

    @property
    def context(self) -> list[int]:
        """The context entry, found as the unit finds it."""
        root = self.unit.get64(r.RTADDR)
        scalable, root = bool(root >> 10 & 1), root & -4096
        devfn = SID & 0xFF
        at = self.word(root + (SID >> 8) * 16 + (8 if scalable and devfn >> 7 else 0))
        if not at & 1:
            return []
        size = 32 if scalable else 16
        return [self.word((at & -4096) + (devfn & (0x7F if scalable else 0xFF)) * size + n) for n in range(0, size, 8)]

    def entry(self, pasid: int = 0) -> list[int]:
        """The PASID-table entry."""
        directory = self.context[0] & -4096 & (1 << 52) - 1
        pde = self.word(directory + (pasid >> 6) * 8)
        return [self.word((pde & -4096) + (pasid & 63) * 64 + n * 8) for n in range(8)] if pde & 1 else [0] * 8

    def kinds(self, fn: Any, *args: Any, **kw: Any) -> list[str]:
        """What is invalidated by a call, by kind."""
        events = self.kernel.trace.record()
        fn(*args, **kw)
        return [e.fields["kind"] for e in events if e.name == "vtd_invalidate"]


@PROFILES
@pytest.mark.parametrize("scalable", [True, False])
def test_boot(profile, scalable):
    """init_dmars(): queue on, root table set, translation on; interrupts of the unit are unmasked."""
    box = Box("" if scalable else "sva = false", profile)
    status = box.unit.get32(r.GSTS)
    assert status & (r.TE | r.SRTP | r.QIE) == r.TE | r.SRTP | r.QIE
    assert box.unit.get64(r.RTADDR) >> 10 & 3 == scalable
    assert box.unit.get64(r.IQA) & 0xFFF == (0x801 if scalable else 0), "256 bits where scalable mode can be"
    assert box.unit.get32(r.FECTL) >> 31 == 0
    assert (box.unit.get32(r.PECTL) >> 31, box.unit.get64(r.PQA) & 7) == ((0, 4) if scalable else (1, 0))
    lines = [x for x in box.kernel.process().read_text("/proc/interrupts").splitlines() if "DMAR-MSI" in x]
    assert [x.split()[-1] for x in lines] == (["dmar0-prq", "dmar0"] if scalable else ["dmar0"])


@pytest.mark.parametrize("option", ["off", "sm_off"])
def test_options(option):
    """intel_iommu=off: the unit is left alone; sm_off: legacy tables."""
    box = Box(cmdline=f"intel_iommu={option}") if option == "sm_off" else None
    if box is not None:
        assert box.unit.get64(r.RTADDR) >> 10 & 3 == 0
        assert box.context[0] & 1
        return
    kernel = pykernel.boot(parse("cmdline = 'intel_iommu=off'\n" + DSA))
    kernel.up()
    unit: Any = kernel.dmar
    assert (unit.get32(r.GSTS), unit.get64(r.RTADDR)) == (0, 0)


@PROFILES
def test_legacy_context_entry(profile):
    """P, TT (1: the device may translate for itself), table; AW, DID."""
    box = Box("sva = false", profile)
    domain: Any = box.dev.iommu_group.domain
    assert box.context == [domain.table.root | 1 << 2 | 1, domain.id << 8 | 2]


@PROFILES
def test_legacy_pass_through(profile):
    """TT 2; AW is the widest."""
    box = Box("sva = false", profile, "iommu=pt")
    assert box.context == [2 << 2 | 1, 1 << 8 | 2]


@PROFILES
def test_scalable_context_entry(profile):
    """P, DTE, PASIDE, PRE, PDTS 7 (2**14 entries), directory; RID_PASID 0. In 6.12 PRE comes with the feature."""
    box = Box(profile=profile)
    low, high, *rest = box.context
    assert low & -4096 == box.info.pasid_table.table
    pre = 0 if profile == "linux-6.12" else 1
    assert (low & 0x1F, low >> 9 & 7, high, rest) == (0b01101 | pre << 4, 7, 0, [0, 0])


@PROFILES
def test_first_level_entry(profile):
    """PGTT 1 of the DMA API's domain: P, AW, DID, PWSNP, FSPTPTR; NXE before 6.2."""
    box = Box(profile=profile)
    domain: Any = box.dev.iommu_group.domain
    old = profile == "linux-6.1"
    first, second, third = 2 << 2 | 1 << 6 | 1, domain.id | 1 << 23, domain.table.root | old << 5
    assert box.entry() == [first, second, third, 0, 0, 0, 0, 0]


@PROFILES
def test_second_level_entry(profile):
    """PGTT 2 of a user's domain: SSPTPTR, AW, DID."""
    box = Box(profile=profile)
    domain: Any = iommu_domain_alloc(box.dev)
    iommu_attach_group(domain, box.dev.iommu_group)
    assert box.entry()[:3] == [domain.table.root | 2 << 2 | 2 << 6 | 1, domain.id | 1 << 23, 0]
    iommu_detach_group(domain, box.dev.iommu_group)
    iommu_domain_free(domain)


@PROFILES
def test_pass_through_entry(profile):
    """PGTT 4, domain 1; SRE before 6.2."""
    box = Box(profile=profile, cmdline="iommu=pt")
    assert box.entry()[:3] == [2 << 2 | 4 << 6 | 1, 1 | 1 << 23, int(profile == "linux-6.1")]


@PROFILES
def test_nested_entry(profile):
    """PGTT 3: FSPTPTR is the guest's address, SSPTPTR the host's; SRE, WPE, EAFE as asked for."""
    box = Box(profile=profile)
    domain: Any = iommu_domain_alloc(box.dev)
    intel_pasid_setup_nested(box.dev, 201, 0x1234000, domain, 48, 0b111)
    assert box.entry(201)[:3] == [
        domain.table.root | 2 << 2 | 3 << 6 | 1, domain.id | 1 << 23, 0x1234000 | 1 << 0 | 1 << 4 | 1 << 7,
    ]  # fmt: skip
    for width in (39, 57, 64):
        with pytest.raises(OSError, match="Invalid argument"):
            intel_pasid_setup_nested(box.dev, 202, 0x1234000, domain, width, 0)
    with pytest.raises(OSError, match="busy"):
        intel_pasid_setup_nested(box.dev, 201, 0x1234000, domain, 48, 0)
    intel_pasid_tear_down_entry(box.dev, 201)
    iommu_domain_free(domain)


@pytest.mark.parametrize(("pasid", "directory", "index"), [(201, 3, 9), (202, 3, 10), (0xFFFFF, 16383, 63), (0, 0, 0)])
def test_split_of_a_pasid(pasid, directory, index):
    """Directory by PASID[19:6], table by PASID[5:0]; an entry has 64 bytes."""
    box = Box()
    if pasid:
        intel_pasid_setup_pass_through(box.dev, pasid)
    pde = box.word(box.info.pasid_table.table + directory * 8)
    assert box.word((pde & -4096) + index * 64) & 1
    if pasid:
        intel_pasid_tear_down_entry(box.dev, pasid)


def test_pasids_of_more_than_20_bits_are_refused():
    """Never cut off: it would be another one's entry."""
    box = Box()
    for pasid in (1 << 20, (1 << 20) + 5, -1):
        with pytest.raises(OSError, match="No such device"):
            intel_pasid_setup_pass_through(box.dev, pasid)


@pytest.mark.parametrize(("profile", "name"), [("linux-6.1", "Invalid argument"), ("linux-6.12", "File exists")])
def test_a_second_table(profile, name):
    """intel_pasid_alloc_table()."""
    box = Box(profile=profile)
    with pytest.raises(OSError, match=name):
        intel_pasid_alloc_table(box.info)


@PROFILES
@pytest.mark.parametrize("fault_ignore", [False, True])
def test_teardown_order(profile, fault_ignore):
    """Clear P, PASID cache, IOTLB, device TLB; then the entry is zero, or FPD alone. 6.12 drains after that."""
    box = Box(profile=profile)
    intel_pasid_setup_pass_through(box.dev, 300)
    seen: list[int] = []
    plain = box.unit.on_invalidate

    def look(what: Any) -> None:
        seen.append(box.entry(300)[0] & 1)
        plain(what)

    box.unit.on_invalidate = look
    kinds = box.kinds(intel_pasid_tear_down_entry, box.dev, 300, fault_ignore=fault_ignore)
    assert kinds[:3] == ["PASID", "PASID_IOTLB", "PASID_DEVICE_TLB"]
    drained = box.info.pri_enabled and profile != "linux-6.1" and not fault_ignore
    assert kinds[3:] == (["PASID_IOTLB", "PASID_DEVICE_TLB"] if drained else [])
    assert not any(seen), "not present before the first invalidation"
    assert box.entry(300) == [2 * fault_ignore, *[0] * 7]
    assert box.kinds(intel_pasid_tear_down_entry, box.dev, 301) == [], "what is not present needs nothing"


@PROFILES
def test_teardown_of_two_stages(profile):
    """PGTT 3: the whole domain's IOTLB."""
    box = Box(profile=profile)
    domain: Any = iommu_domain_alloc(box.dev)
    intel_pasid_setup_nested(box.dev, 300, 0x1000, domain, 48, 0)
    assert box.kinds(intel_pasid_tear_down_entry, box.dev, 300)[:3] == ["PASID", "IOTLB", "PASID_DEVICE_TLB"]
    iommu_domain_free(domain)


@PROFILES
@pytest.mark.parametrize("iommu", ["", "sva = false"])
def test_unmapping_invalidates_its_pages(profile, iommu):
    """iommu_flush_iotlb_psi(): an aligned power of two of pages of the domain, then the devices' own."""
    box = Box(iommu, profile)
    domain: Any = iommu_domain_alloc(box.dev)
    assert box.kinds(domain.flush_iotlb_all) == [], "nobody is attached"
    iommu_attach_group(domain, box.dev.iommu_group)
    domain.map(0x5000, 0x100000, 0x3000, IOMMU_READ | IOMMU_WRITE)
    events = box.kernel.trace.record()
    domain.unmap(0x5000, 0x3000)
    fields = [e.fields for e in events if e.name == "vtd_invalidate"]
    assert [(f["kind"], f["addr"], f["order"]) for f in fields] == [("IOTLB", 0x4000, 2), ("DEVICE_TLB", 0x4000, 2)]
    assert (fields[0]["did"], fields[1]["source"]) == (domain.id, SID)
    iommu_detach_group(domain, box.dev.iommu_group)
    iommu_domain_free(domain)


def test_too_many_pages_are_the_whole_domain():
    """Beyond CAP.MAMV (18): domain-selective."""
    box = Box("address_width = 57")
    domain: Any = iommu_domain_alloc(box.dev)
    iommu_attach_group(domain, box.dev.iommu_group)
    events = box.kernel.trace.record()
    domain.tags.flush_range(0, (4096 << 18) - 1)
    domain.tags.flush_range(0, (4096 << 19) - 1)
    assert [e.fields["granularity"] for e in events if e.fields.get("kind") == "IOTLB"] == [3, 2]
    iommu_detach_group(domain, box.dev.iommu_group)
    iommu_domain_free(domain)


@given(st.integers(0, 1 << 36), st.integers(1, 1 << 20))
def test_page_selective_masks(pfn, pages):
    """The smallest aligned power of two that covers the range."""
    addr, count, order = _psi(pfn << 12, (pfn + pages << 12) - 1)
    least = next(n for n in range(64) if pfn >> n == (pfn + pages - 1) >> n)
    assert (addr, count, order) == (
        pfn >> least << least + 12,
        1 << least,
        least,
    )


@pytest.mark.parametrize(
    ("desc", "words"),
    [
        pytest.param(piotlb_desc(2, 5, 0, -1), (5 << 32 | 2 << 16 | 2 << 4 | 6, 0), id="PASID-IOTLB, whole PASID"),
        pytest.param(piotlb_desc(2, 5, 0x9000, 4), (5 << 32 | 2 << 16 | 3 << 4 | 6, 0x8002), id="PASID-IOTLB, pages"),
        pytest.param(dev_iotlb_desc(SID, 0, 32, 0x7000, 0), (SID << 32 | 3, 0x7000), id="dev-TLB, one page"),
        pytest.param(dev_iotlb_desc(SID, 0, 4, 0x8000, 2), (SID << 32 | 4 << 16 | 3, 0x9001), id="dev-TLB, four pages"),
        pytest.param(
            dev_iotlb_pasid_desc(SID, 0, 5, 4, 0x8000, 2),
            (5 << 32 | SID << 16 | 4 << 4 | 8, 0x9800), id="PASID dev-TLB, four pages",
        ),
        pytest.param(
            page_group_response(SID, 5, 7, 1, last=True),
            (5 << 32 | SID << 16 | 1 << 12 | 1 << 4 | 9, 7 << 3 | 4), id="page group response",
        ),
    ],
)  # fmt: skip
def test_descriptors(desc, words):
    """Types 3, 6, 8, 9 (VT-d 6.5.2): the sizes of device TLB invalidations are coded in the address."""
    assert desc == (*words, 0, 0)


def test_a_refused_descriptor():
    """qi_check_fault(): IQE is told, cleared, EINVAL; the queue goes on."""
    box = Box()
    with pytest.raises(OSError, match="Invalid argument"):
        box.dev.iommu.qi.submit_sync((0xF, 0, 0, 0))
    texts = [x.text for x in box.kernel.log.records if "Queue Error" in x.text or "QI HEAD" in x.text]
    assert texts == [
        "DMAR: VT-d detected Invalidation Queue Error: Reason 3",
        "DMAR: QI HEAD: UNKNOWN qw0 = 0xf, qw1 = 0x0",
        "DMAR: Invalidation Queue Error (IQE) cleared",
    ]
    assert box.kinds(box.dev.iommu.qi.flush_pasid_cache, 1, 3, 0) == ["PASID"]


@PROFILES
def test_a_device_that_goes_leaves_no_entry(profile):
    """intel_iommu_release_device(): tables are given back."""
    box = Box(profile=profile)
    p = box.kernel.process()
    p.write_text("/sys/bus/pci/devices/0000:6a:01.0/remove", "1")
    assert box.context[0] == 0
    p.write_text("/sys/bus/pci/rescan", "1")
    assert box.context[0] & 1
