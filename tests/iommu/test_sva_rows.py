"""Shared address spaces, row by row: who has which PASID, when, and what goes wrong (intel/svm.c, iommu-sva.c)."""

from __future__ import annotations

import errno
from typing import Any, cast

import pytest

import pykernel
from pykernel.iommu.ioasid import ioasid_find_set
from pykernel.iommu.sva import (
    Iommu,
    iommu_dev_enable_feature,
    iommu_sva_bind_device,
    iommu_sva_get_pasid,
    iommu_sva_unbind_device,
)
from pykernel.machine import parse
from pykernel.pci.core import Pci
from pykernel.pci.function import DmaFault

DSA = "[[pci]]\nmodel='dsa'\naddress='0000:6a:01.0'\n"
TWO = DSA + DSA.replace("6a:01", "6f:01")
BOTH = pytest.mark.parametrize("profile", ["linux-6.1", "linux-6.12", "linux-7.2"])


class Box:
    """A machine with two accelerators and a process."""

    def __init__(self, profile: str = "linux-6.1", text: str = TWO, **flags: bool) -> None:
        self.kernel = pykernel.boot(parse(text), profile)
        self.kernel.cpu.flags.update(flags)
        self.kernel.up()
        devs: Any = self.kernel.sub(Pci).devices
        self.dev, self.other = devs["0000:6a:01.0"], devs.get("0000:6f:01.0")
        self.p = self.kernel.process()
        self.mm: Any = self.p.task.mm
        self.phys = self.dev.iommu.phys

    def log(self, word: str = "DMAR") -> list[str]:
        return [r.text for r in self.kernel.log.records if word in r.text]

    def entry(self, dev: Any, pasid: int) -> list[int]:
        """The PASID-table entry as it lies in memory: directory by PASID[19:6], table by PASID[5:0]."""
        table = dev.iommu.info(dev).pasid_table.table
        pde = int.from_bytes(self.phys.read(table + (pasid >> 6) * 8, 8), "little")
        at = (pde & -4096) + (pasid & 63) * 64
        return [int.from_bytes(self.phys.read(at + n * 8, 8), "little") for n in range(8)]


def code(fn: Any, *args: Any) -> int:
    try:
        fn(*args)
    except OSError as e:
        return e.errno or 0
    return 0


@BOTH
def test_api_and_refcounts(profile):
    """bind_device(dev, mm) gives a handle, a second one a user more; get_pasid(handle) the ID; the last unbind ends."""
    box = Box(profile)
    a = iommu_sva_bind_device(box.dev, box.mm)
    assert iommu_sva_bind_device(box.dev, box.mm) is a
    assert iommu_sva_get_pasid(a) == box.kernel.mm_pasid(box.mm) == 1
    iommu_sva_unbind_device(a)
    assert box.entry(box.dev, 1)[0] & 1
    iommu_sva_unbind_device(a)
    assert box.entry(box.dev, 1) == [0] * 8


@BOTH
def test_one_process_one_pasid(profile):
    """Each device has its own entry for it, with the same page tables; the ID is of the host's own set."""
    box = Box(profile)
    a, b = (iommu_sva_bind_device(dev, box.mm) for dev in (box.dev, box.other))
    pgd = box.mm.mem.pgd()
    for dev in (box.dev, box.other):
        first, second, third, *rest = box.entry(dev, a.pasid)
        assert first & 0x1C3 == 1 | 1 << 6, "present, first stage, no FPD"
        assert (second & 0xFFFF, third & -4096 & (1 << 52) - 1, any(rest)) == (1, pgd, False)
    assert ioasid_find_set(box.kernel, a.pasid) is box.kernel.sub(Iommu).pasids
    for handle in (a, b):
        iommu_sva_unbind_device(handle)


@BOTH
def test_pasid_lifetime(profile):
    """Kept until the mm is freed, even if every device unbinds; then another process has the number."""
    box = Box(profile)
    p, q = box.kernel.process(), box.kernel.process()
    for _ in range(2):
        handle = iommu_sva_bind_device(box.dev, cast("Any", p.task.mm))
        iommu_sva_unbind_device(handle)
        assert box.kernel.mm_pasid(p.task.mm) == 1
    p.exit()
    handle = iommu_sva_bind_device(box.dev, cast("Any", q.task.mm))
    assert handle.pasid == 1
    iommu_sva_unbind_device(handle)


def test_a_pasid_stays_its_own_while_a_device_is_bound():
    """mmgrab(): the last unbind frees the mm and the PASID, however long its process is gone."""
    box = Box()
    p, q = box.kernel.process(), box.kernel.process()
    dead = iommu_sva_bind_device(box.dev, cast("Any", p.task.mm))
    p.exit()
    live = iommu_sva_bind_device(box.dev, cast("Any", q.task.mm))
    assert (dead.pasid, live.pasid) == (1, 2)
    iommu_sva_unbind_device(dead)
    third = iommu_sva_bind_device(box.dev, box.mm)
    assert third.pasid == 1
    for handle in (live, third):
        iommu_sva_unbind_device(handle)


def test_initial_value():
    """A new mm has none."""
    box = Box()
    assert box.kernel.mm_pasid(box.mm) == 0


@pytest.mark.parametrize(
    ("profile", "most", "wanted"),
    [
        pytest.param("linux-6.1", 2, errno.EOVERFLOW, id="6.1: the last one does not count"),
        pytest.param("linux-6.1", 3, 0, id="6.1: it fits"),
        pytest.param("linux-6.12", 1, errno.EOVERFLOW, id="6.12: too large"),
        pytest.param("linux-6.12", 2, 0, id="6.12: it fits"),
    ],
)
def test_alloc_errors_overflow(profile, most, wanted):
    """iommu_sva_alloc_pasid() compares with >= though its maximum is inclusive; iommu_alloc_mm_data() with a count."""
    box = Box(profile)
    a = iommu_sva_bind_device(box.dev, box.mm)
    box.other.iommu.info(box.other).max_pasids = most
    if wanted:
        assert code(iommu_sva_bind_device, box.other, box.mm) == wanted
    else:
        iommu_sva_unbind_device(iommu_sva_bind_device(box.other, box.mm))
    iommu_sva_unbind_device(a)


@pytest.mark.parametrize(("profile", "wanted"), [("linux-6.1", errno.ENOMEM), ("linux-6.12", errno.ENOSPC)])
def test_alloc_errors_no_id(profile, wanted):
    """ENOMEM of 5.11 to 6.7, ENOSPC from 6.8 on."""
    box = Box(profile, "[iommu]\npasid_bits = 1\n" + DSA)
    a = iommu_sva_bind_device(box.dev, box.mm)
    assert code(iommu_sva_bind_device, box.dev, box.kernel.process().task.mm) == wanted
    iommu_sva_unbind_device(a)


@BOTH
def test_alloc_errors_no_memory(profile):
    """Whatever fails on the way, nothing is left behind, and the next bind works."""
    box = Box(profile)
    for n in range(1, 12):
        with box.kernel.faults.fail("alloc", nth=n):
            wrong = code(iommu_sva_bind_device, box.dev, box.mm)
        if not wrong:
            iommu_sva_unbind_device(iommu_sva_bind_device(box.dev, box.mm))
            iommu_sva_unbind_device(box.kernel.sub(Iommu).handles[box.dev][1])
            break
        assert wrong in (errno.ENOMEM, errno.ENOSPC)
        assert box.entry(box.dev, 1)[0] & 1 == 0
    else:
        pytest.fail("no bind without a failure")
    handle = iommu_sva_bind_device(box.dev, box.mm)
    assert handle.pasid == 1
    iommu_sva_unbind_device(handle)


def test_vt_d_bind_errors():
    """ENODEV: no unit, or none in scalable mode; EINVAL: a group of several devices (before 6.2), an ended process."""
    for text in ("[iommu]\nenabled = false\n", "cmdline = 'intel_iommu=off'\n", "cmdline = 'intel_iommu=sm_off'\n"):
        box = Box.__new__(Box)
        box.kernel = pykernel.boot(parse(text + DSA))
        box.kernel.up()
        dev: Any = box.kernel.sub(Pci).devices["0000:6a:01.0"]
        assert code(iommu_sva_bind_device, dev, box.kernel.process().task.mm) == errno.ENODEV
    box = Box()
    box.p.exit()
    assert code(iommu_sva_bind_device, box.dev, box.mm) == errno.EINVAL
    box.dev.iommu_group.devices.append(box.other)
    assert code(iommu_sva_bind_device, box.dev, box.kernel.process().task.mm) == errno.EINVAL
    box.dev.iommu_group.devices.remove(box.other)


@pytest.mark.parametrize(
    ("flag", "what"), [("pdpe1gb", "1GB page capability"), ("la57", "paging mode")], ids=["1 GiB pages", "five levels"]
)
def test_svm_capable_check(flag, what, monkeypatch):
    """intel_svm_check(): what the CPU's tables may have and the unit does not know switches SVA off, with a line."""
    from pykernel.hw.vtd import regs

    monkeypatch.setattr(regs, "CAP_FS1GP", 0)
    box = Box(**cast("dict[str, Any]", {flag: True}))
    assert box.log("SVM disabled") == [f"DMAR: dmar0 SVM disabled, incompatible {what}"]
    assert code(iommu_dev_enable_feature, box.dev, "sva") == errno.ENODEV


def test_fork_clone_exec():
    """A child has no PASID, a thread its process's, a new program none."""
    box = Box()
    handle = iommu_sva_bind_device(box.dev, box.mm)
    child, thread = box.p.fork(), box.p.thread()
    assert box.kernel.mm_pasid(child.task.mm) == 0
    assert box.kernel.mm_pasid(thread.task.mm) == handle.pasid
    iommu_sva_unbind_device(handle)
    other = box.kernel.process()
    mine = iommu_sva_bind_device(box.dev, cast("Any", other.task.mm))
    iommu_sva_unbind_device(mine)
    other.exec("next")
    assert box.kernel.mm_pasid(other.task.mm) == 0


@BOTH
def test_exit(profile):
    """intel_mm_release(): the entry goes before the pages do, with FPD: what the device still does is not told."""
    box = Box(profile)
    handle = iommu_sva_bind_device(box.dev, box.mm)
    addr = box.p.mem.alloc(8)
    box.p.mem.write(addr, b"mine")
    assert box.dev.slot.dma_read(addr, 4, handle.pasid) == b"mine"
    box.p.exit()
    assert box.entry(box.dev, handle.pasid) == [2, *[0] * 7], "FPD alone"
    with pytest.raises(DmaFault):
        box.dev.slot.dma_read(addr, 4, handle.pasid)
    assert box.log("fault reason") == []
    iommu_sva_unbind_device(handle)


@BOTH
def test_unmapped_pages_are_not_reached_any_more(profile):
    """mmu notifiers: munmap() and mprotect() are in force for the device when they return."""
    import mmap

    box = Box(profile)
    handle = iommu_sva_bind_device(box.dev, box.mm)
    rw, kind = mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    addr = box.p.mmap(0, 3 * 4096, rw, kind)
    box.p.mem.write(addr, b"x" * (3 * 4096))
    box.dev.slot.dma_write(addr, b"device", handle.pasid)
    box.p.mprotect(addr, 4096, mmap.PROT_READ)
    with pytest.raises(DmaFault):
        box.dev.slot.dma_write(addr, b"device", handle.pasid)
    assert box.dev.slot.dma_read(addr + 4096, 1, handle.pasid) == b"x"
    box.p.munmap(addr + 4096, 4096)
    with pytest.raises(DmaFault):
        box.dev.slot.dma_read(addr + 4096, 1, handle.pasid)
    assert box.dev.slot.dma_read(addr + 8192, 1, handle.pasid) == b"x"
    iommu_sva_unbind_device(handle)
