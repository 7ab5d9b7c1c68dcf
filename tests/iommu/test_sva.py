"""SVA: features, PASIDs, DMA with and without them, page requests, groups (drivers/iommu)."""

from __future__ import annotations

import errno
import mmap
from typing import Any, cast

import pytest

import pykernel
from pykernel.iommu.dma import (
    dma_alloc_coherent,
    dma_free_coherent,
    iommu_alloc_system_pasid,
    iommu_free_system_pasid,
)
from pykernel.iommu.sva import (
    Iommu,
    iommu_dev_disable_feature,
    iommu_dev_enable_feature,
    iommu_sva_bind_device,
    iommu_sva_unbind_device,
)
from pykernel.machine import parse
from pykernel.mm.phys import PhysMem
from pykernel.mm.uaccess import UserMemory
from pykernel.pci.core import Pci
from pykernel.pci.function import DmaFault

DSA = "[[pci]]\nmodel='dsa'\naddress='0000:6a:01.0'\n"
EDU = "[[pci]]\nmodel='edu'\naddress='0000:00:05.0'\n"


class World:
    def __init__(self, text: str, profile: str = "linux-6.1") -> None:
        self.kernel = pykernel.boot(parse(text), profile)
        self.kernel.up()
        self.devs: Any = self.kernel.sub(Pci).bus.devices
        self.dsa: Any = self.devs["0000:6a:01.0"]
        self.iommu = self.kernel.sub(Iommu)
        self.p = self.kernel.process()
        self.mm: Any = self.p.task.mm

    def read(self, addr, n, pasid):
        return self.dsa.slot.dma_read(addr, n, pasid)

    def write(self, addr, data, pasid):
        self.dsa.slot.dma_write(addr, data, pasid)

    def ask(self, addr, pasid, *, write):
        return self.dsa.slot.page_request(addr, write, pasid)

    def end(self) -> None:
        self.p.exit()
        self.kernel.shutdown()


@pytest.fixture
def w():
    world = World(DSA + EDU)
    yield world
    world.end()


def fails(fn, *args) -> int:
    try:
        fn(*args)
    except OSError as e:
        return e.errno or 0
    return 0


def test_features(w):
    """intel_iommu_dev_enable_feat(): what is no feature is ENODEV; intel_iommu_enable_sva(): no PASIDs is EINVAL."""
    iommu_dev_enable_feature(w.dsa, "sva")
    assert fails(iommu_dev_enable_feature, w.dsa, "sva") == errno.EBUSY
    assert fails(iommu_dev_enable_feature, w.dsa, "aux") == errno.ENODEV
    iommu_dev_disable_feature(w.dsa, "sva")
    assert fails(iommu_dev_disable_feature, w.dsa, "sva") == errno.EINVAL
    assert fails(iommu_dev_enable_feature, w.devs["0000:00:05.0"], "sva") == errno.EINVAL


@pytest.mark.parametrize("text", ["[iommu]\nenabled = false\n", "[iommu]\nsva = false\n"])
def test_without_scalable_mode(text):
    w = World(text + DSA)
    assert fails(iommu_dev_enable_feature, w.dsa, "sva") == errno.ENODEV
    assert fails(iommu_sva_bind_device, w.dsa, w.mm) == errno.ENODEV
    assert fails(iommu_alloc_system_pasid, w.dsa) == errno.ENODEV
    w.end()


def test_an_mm_has_one_pasid_for_all_and_keeps_it_until_it_is_freed(w):
    """
    The PASID is the mm's; a second bind gives the same handle.

    Documentation/x86/sva.rst since 5.18: "kept until mm is freed", though no device uses it any more.
    """
    mm, other = w.mm, w.kernel.process().task.mm
    a = iommu_sva_bind_device(w.dsa, mm)
    assert iommu_sva_bind_device(w.dsa, mm) is a
    b = iommu_sva_bind_device(w.dsa, other)
    assert (a.pasid, b.pasid) == (1, 2)
    assert w.kernel.mm_pasid(mm) == 1
    iommu_sva_unbind_device(a)
    assert w.kernel.mm_pasid(mm) == 1
    iommu_sva_unbind_device(a)
    assert w.kernel.mm_pasid(mm) == 1
    a = iommu_sva_bind_device(w.dsa, mm)
    assert a.pasid == 1
    iommu_sva_unbind_device(a)
    iommu_sva_unbind_device(b)


def test_two_devices_share_the_mms_pasid():
    w = World(DSA + DSA.replace("6a:01", "6f:01"))
    second = w.devs["0000:6f:01.0"]
    events = w.kernel.trace.record()
    a, b = iommu_sva_bind_device(w.dsa, w.mm), iommu_sva_bind_device(second, w.mm)
    assert a is not b
    assert a.pasid == b.pasid == 1
    iommu_sva_unbind_device(a)
    assert w.kernel.mm_pasid(w.mm) == 1
    iommu_sva_unbind_device(b)
    assert [e.name for e in events if e.name.startswith("sva")] == ["sva_bind", "sva_bind", "sva_unbind", "sva_unbind"]
    w.end()


@pytest.mark.parametrize(("profile", "code"), [("linux-6.1", errno.ENOMEM), ("linux-6.12", errno.ENOSPC)])
def test_pasids_run_out(profile, code):
    """iommu_sva_alloc_pasid(): ENOMEM; iommu_alloc_mm_data() since 6.8: ENOSPC."""
    w = World("[iommu]\npasid_bits = 1\n" + DSA, profile)
    p = w.kernel.process()
    h = iommu_sva_bind_device(w.dsa, cast("Any", p.task.mm))
    assert fails(iommu_sva_bind_device, w.dsa, w.mm) == code
    assert fails(iommu_alloc_system_pasid, w.dsa) == errno.ENOSPC
    iommu_sva_unbind_device(h)
    assert fails(iommu_alloc_system_pasid, w.dsa) == errno.ENOSPC
    p.exit()
    pasid = iommu_alloc_system_pasid(w.dsa)
    assert pasid == 1
    iommu_free_system_pasid(w.dsa, pasid)
    w.end()


@pytest.mark.parametrize("bits", [2, 3, 5])
def test_the_host_has_all_pasids_where_no_guest_wants_them(bits):
    """Its set begins with half of what the machine has, and grows to the last one."""
    w = World(f"[iommu]\npasid_bits = {bits}\n" + DSA)
    got = [iommu_alloc_system_pasid(w.dsa) for _ in range(2**bits - 1)]
    assert got == list(range(1, 2**bits))
    assert fails(iommu_alloc_system_pasid, w.dsa) == errno.ENOSPC
    for pasid in got:
        iommu_free_system_pasid(w.dsa, pasid)
    w.end()


def test_dma_goes_to_the_address_space_of_its_pasid(w):
    h = iommu_sva_bind_device(w.dsa, w.mm)
    addr = w.p.mem.alloc(100)
    w.p.mem.write(addr, bytes(100))
    w.write(addr, b"by device", h.pasid)
    assert w.p.mem.read(addr, 9) == b"by device"
    assert w.read(addr, 2, h.pasid) == b"by"
    for pasid in (h.pasid + 1, 99):
        with pytest.raises(DmaFault):
            w.read(addr, 1, pasid)
    iommu_sva_unbind_device(h)
    with pytest.raises(DmaFault):
        w.read(addr, 1, h.pasid)


def test_a_fault_tells_the_first_page_that_is_not_there_and_writes_nothing(w):
    iommu_dev_enable_feature(w.dsa, "sva")
    h = iommu_sva_bind_device(w.dsa, w.mm)
    rw, kind = mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    addr = w.p.mmap(0, 3 * 4096, rw, kind)
    w.p.mem.write(addr, b"there")
    w.p.mem.write(addr + 8192, b"there, too")
    with pytest.raises(DmaFault) as e:
        w.write(addr + 4000, b"x" * 4200, h.pasid)
    assert (e.value.addr, e.value.write) == (addr + 4096, True)
    assert w.p.mem.read(addr + 4000, 96) == bytes(96)
    assert w.ask(addr + 4096, h.pasid, write=True)
    w.write(addr + 4000, b"x" * 4200, h.pasid)
    assert w.p.mem.read(addr + 4000, 4200) == b"x" * 4200
    w.p.mprotect(addr, 4096, mmap.PROT_READ)
    assert not w.ask(addr, h.pasid, write=True)
    with pytest.raises(DmaFault):
        w.write(addr, b"x", h.pasid)
    assert w.read(addr, 5, h.pasid) == b"there"
    w.p.munmap(addr, 3 * 4096)
    assert not w.ask(addr, h.pasid, write=False)
    assert not w.ask(addr, 77, write=False)
    assert not w.ask(addr, None, write=False)
    iommu_sva_unbind_device(h)


class Host(UserMemory):
    """An address space that is no simulated one: one readable page, one of them not writable."""

    def __init__(self, phys: PhysMem) -> None:
        self.phys = phys
        self.data = bytearray(4096)

    def copy_from(self, addr, buf: Any):
        n = max(0, min(len(buf), 0x2000 - addr)) if addr >= 0x1000 else 0
        buf[:n] = self.data[addr - 0x1000 : addr - 0x1000 + n]
        return len(buf) - n

    def copy_to(self, addr, data: Any):
        n = max(0, min(len(data), 0x1800 - addr)) if addr >= 0x1000 else 0
        self.data[addr - 0x1000 : addr - 0x1000 + n] = data[:n]
        return len(data) - n

    def pin_user_pages(self, addr, npages, *, write):
        raise OSError(errno.EFAULT, "")


def test_real_memory_is_tried_and_a_fault_tells_the_first_bad_page(w):
    iommu_dev_enable_feature(w.dsa, "sva")
    w.p.task.mm.mem, old = Host(w.kernel.sub(PhysMem)), w.p.task.mm.mem
    h = iommu_sva_bind_device(w.dsa, w.mm)
    w.write(0x1000, b"ab", h.pasid)
    assert w.read(0x1000, 2, h.pasid) == b"ab"
    with pytest.raises(DmaFault) as e:
        w.read(0x1FFE, 4, h.pasid)
    assert e.value.addr == 0x2000
    with pytest.raises(DmaFault) as e:
        w.write(0x1FFE, b"xy", h.pasid)
    assert e.value.addr == 0x1FFE
    assert w.ask(0x1000, h.pasid, write=False)
    assert w.ask(0x1000, h.pasid, write=True)
    assert not w.ask(0x2000, h.pasid, write=False)  # requests are of pages
    iommu_sva_unbind_device(h)
    w.p.task.mm.mem = old


def test_dma_without_pasid_is_the_machines_memory(w):
    buf = dma_alloc_coherent(w.dsa, 5000)
    buf.write(4990, b"end")
    assert w.read(buf.addr + 4990, 3, None) == b"end"
    assert buf.read(0, 4) == bytes(4)
    assert buf.addr % 4096 == 0
    dma_free_coherent(buf)
    with pytest.raises(DmaFault):
        w.read(buf.addr, 1, None)
    with w.kernel.faults.fail("alloc"):
        assert fails(dma_alloc_coherent, w.dsa, 10) == errno.ENOMEM


def test_the_system_pasid_is_the_kernels_memory_and_no_leak(w):
    pasid = iommu_alloc_system_pasid(w.dsa)
    buf = dma_alloc_coherent(w.dsa, 10)
    w.write(buf.addr, b"k", pasid)
    assert buf.read(0, 1) == b"k"
    dma_free_coherent(buf)
    assert w.iommu._leaks() == []
    iommu_free_system_pasid(w.dsa, pasid)


def test_groups_in_sysfs(w):
    """/sys/kernel/iommu_groups: a group a function, with links both ways; gone with the function."""
    p = w.p
    n = p.readlink("/sys/bus/pci/devices/0000:6a:01.0/iommu_group").rpartition("/")[2]
    base = f"/sys/kernel/iommu_groups/{n}"
    assert sorted(p.listdir(base)) == ["devices", "reserved_regions", "type"]
    assert p.listdir(f"{base}/devices") == ["0000:6a:01.0"]
    assert p.read_text(f"{base}/type") == "DMA-FQ\n"
    assert p.read_text(f"{base}/reserved_regions") == "0x00000000fee00000 0x00000000feefffff msi\n"
    p.write_text("/sys/bus/pci/devices/0000:6a:01.0/remove", "1")
    assert n not in p.listdir("/sys/kernel/iommu_groups")
    assert f"Removing from iommu group {n}" in w.kernel.log.human()


def test_a_device_that_goes_takes_its_table_and_the_pasid_stays_the_mms(w):
    h = iommu_sva_bind_device(w.dsa, w.mm)
    w.p.write_text("/sys/bus/pci/devices/0000:6a:01.0/remove", "1")
    assert w.kernel.mm_pasid(w.mm) == h.pasid
    iommu_sva_unbind_device(h)
