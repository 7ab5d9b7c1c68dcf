"""
A guest's PASIDs: the virtual command register and the custom allocator behind it (VT-d 10.4.44 to 47, intel/pasid.c).

The unit is the silicon with caching mode and virtual commands added: what a VMM shows to a guest. Each test has its row
of the interface; statuses and places are those of the specification, before revision 3.3 and since.
"""

from __future__ import annotations

from typing import Any, cast

import pytest

from pykernel.hw.vtd import regs as r
from pykernel.hw.vtd.unit import VtdUnit
from pykernel.hw.vtd.vcmd import EARLY, LAYOUT, Layout, VirtualCommands
from pykernel.iommu import ioasid as i
from pykernel.iommu.sva import Iommu, iommu_sva_bind_device, iommu_sva_unbind_device
from pykernel.iommu.vcmd import VirtualCommand
from pykernel.kernel import Kernel
from pykernel.machine import parse
from pykernel.pci.core import Pci
from pykernel.start import boot

DSA = "[[pci]]\nmodel='dsa'\naddress='0000:6a:01.0'\n"
BOTH = pytest.mark.parametrize("layout", [LAYOUT, EARLY], ids=["3.3", "before 3.3"])


class Vmm:
    """Who serves virtual commands: *answers* first, then PASIDs from 40 on."""

    def __init__(self, *answers: tuple[int, int]) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[int, int]] = []
        self.next = 40

    def __call__(self, command: int, operand: int, _operand_b: int) -> tuple[int, int]:
        self.asked.append((command, operand))
        if self.answers:
            return self.answers.pop(0)
        if command == 1:
            self.next += 1
            return 0, self.next - 1
        return 0, 0


def guest(
    vmm: Vmm, layout: Layout = LAYOUT, *, vccap: int | None = None, ecap: int = r.ECAP_VCS, cmdline: str = ""
) -> Kernel:
    """A guest's kernel; *vccap*: what can be commanded."""
    kernel = boot(parse(f"cmdline = '{cmdline}'\n" + DSA), "linux-6.1")
    unit = VtdUnit(kernel, cap=r.CAP_CM, ecap=ecap)
    capability = vccap if vccap is not None else 0b110 if layout is LAYOUT else 1
    unit.vcmd = VirtualCommands(capability, vmm, layout)
    kernel.dmar = kernel.sub(Pci).remapping = unit
    kernel.up()
    return kernel


def log(kernel: Kernel) -> list[str]:
    return [x.text for x in kernel.log.records if "IOMMU: dmar0" in x.text or "PASID" in x.text]


def vcmd(kernel: Kernel) -> VirtualCommand:
    return VirtualCommand(kernel.sub(Iommu).unit)


@BOTH
def test_allocate_and_free(layout):
    """Command 1 gives a PASID; command 2 has it as operand. Binding a process takes one, its end gives it back."""
    vmm = Vmm()
    kernel = guest(vmm, layout)
    dev: Any = kernel.sub(Pci).devices["0000:6a:01.0"]
    p = kernel.process()
    handle = iommu_sva_bind_device(dev, cast("Any", p.task.mm))
    assert (handle.pasid, vmm.asked) == (40, [(1, 0)])
    iommu_sva_unbind_device(handle)
    assert vmm.asked == [(1, 0)]
    p.exit()
    assert vmm.asked == [(1, 0), (2, 40)]
    assert log(kernel) == ["DMAR: Register custom PASID allocator"]


@BOTH
def test_status_no_pasid_available(layout):
    """-ENOSPC and a line; who allocates sees no ID."""
    kernel = guest(Vmm((16, 0), (16, 0)), layout)
    with pytest.raises(OSError, match="no PASID") as e:
        vcmd(kernel).alloc_pasid()
    assert e.value.errno == 28
    assert i.ioasid_alloc(kernel.sub(Iommu).pasids, 1, 1000) == i.INVALID_IOASID
    assert log(kernel)[1:] == ["DMAR: IOMMU: dmar0: No PASID available"] * 2


@BOTH
def test_status_undefined_command(layout):
    """-ENODEV for any other status."""
    kernel = guest(Vmm((1, 0)), layout)
    with pytest.raises(OSError, match="status 1") as e:
        vcmd(kernel).alloc_pasid()
    assert e.value.errno == 19
    assert log(kernel)[1:] == ["DMAR: IOMMU: dmar0: Unexpected error code 1"]


@BOTH
def test_status_invalid_pasid_of_free(layout):
    """Told, and no error: freeing never fails."""
    kernel = guest(Vmm((16, 0), (1, 0)), layout)
    vcmd(kernel).free_pasid(77)
    vcmd(kernel).free_pasid(78)
    assert log(kernel)[1:] == ["DMAR: IOMMU: dmar0: Invalid PASID", "DMAR: IOMMU: dmar0: Unexpected error code 1"]


def record_writes(unit: Any, writes: list[tuple[int, int]]) -> None:
    """Keep what is written to the registers of *unit* in *writes*."""
    plain = unit.writeq

    def writeq(off: int, value: int) -> None:
        writes.append((off, value))
        plain(off, value)

    unit.writeq = writeq


def test_registers_since_3_3():
    """VCMD 0xE00, VCRSP 0xE10, VCCAP 0xE30; operand and result from bit 16 on; status 7:1."""
    vmm = Vmm()
    kernel = guest(vmm)
    writes: list[tuple[int, int]] = []
    record_writes(kernel.dmar, writes)
    assert vcmd(kernel).alloc_pasid() == 40
    vcmd(kernel).free_pasid(0xABCDE)
    assert writes == [(0xE00, 1), (0xE00, 0xABCDE << 16 | 2)]
    assert vmm.asked[-1] == (2, 0xABCDE)


def test_registers_before_3_3():
    """VCMD 0xE10, VCRSP 0xE20, VCCAP 0xE00; operand and result from bit 8 on; status 2:1."""
    vmm = Vmm()
    kernel = guest(vmm, EARLY)
    writes: list[tuple[int, int]] = []
    record_writes(kernel.dmar, writes)
    assert vcmd(kernel).alloc_pasid() == 40
    vcmd(kernel).free_pasid(0xABCDE)
    assert writes == [(0xE10, 1), (0xE10, 0xABCDE << 8 | 2)]


def test_response_in_progress():
    """IP of VCRSP is waited for."""
    vmm: Any = Vmm()
    vmm.__class__ = type("Slow", (Vmm,), {"__call__": lambda self, *args: None})
    kernel = guest(vmm)
    unit: Any = kernel.dmar
    kernel.sched.call_later(1000, lambda: unit.vcmd.complete(0, 55))
    assert vcmd(kernel).alloc_pasid() == 55


@pytest.mark.parametrize(
    ("how", "texts"),
    [
        ({"vccap": 0}, []),
        ({"ecap": 0}, []),
        ({"cmdline": "intel_iommu=sm_off"}, ["DMAR: VT-d Scalable Mode not enabled, no PASID allocation"]),
    ],
    ids=["VCCAP.PAS clear", "ECAP.VCS clear", "legacy mode"],
)
def test_without_the_capability(how, texts):
    """register_pasid_allocator(): then PASIDs are the kernel's own."""
    vmm = Vmm()
    kernel = guest(vmm, **how)
    assert i.ioasid_alloc(kernel.sub(Iommu).pasids, 5, 1000) == 5
    assert vmm.asked == []
    assert log(kernel) == texts


def test_range_check_in_guest_allocator():
    """intel_vcmd_ioasid_alloc(): PASID_MIN to the unit's most; no command is given for another range."""
    vmm = Vmm()
    kernel = guest(vmm)
    command = vcmd(kernel)
    assert command.ioasid_alloc(0, 10, None) == command.ioasid_alloc(1, (1 << 20) + 1, None) == i.INVALID_IOASID
    assert vmm.asked == []


def test_free_of_an_active_id_is_refused():
    """intel_vcmd_ioasid_free(): with private data it is in use, which is told only."""
    vmm = Vmm()
    kernel = guest(vmm)
    pasid = i.ioasid_alloc(kernel.sub(Iommu).pasids, 1, 1000)
    i.ioasid_attach_data(kernel, pasid, object())
    vcmd(kernel).ioasid_free(pasid, None)
    assert vmm.asked == [(1, 0)]
    assert kernel.log.records[-1].text == f"DMAR: Cannot free active IOASID {pasid}"


def test_allocator_that_cannot_be_registered():
    """Scalable mode is off then: mixing is not supported."""
    kernel = boot(parse(DSA), "linux-6.1")
    unit = VtdUnit(kernel, cap=r.CAP_CM, ecap=r.ECAP_VCS)
    unit.vcmd = VirtualCommands(0b110, Vmm())
    kernel.dmar = kernel.sub(Pci).remapping = unit
    with kernel.faults.fail("alloc", "ioasid_register_allocator"):
        kernel.up()
    assert log(kernel)[-1] == "DMAR: Custom PASID allocator failed, scalable mode disabled"
    assert not kernel.sub(Iommu).scalable


def test_caching_mode_invalidates_what_becomes_present():
    """VT-d 6.1: what was not present may be cached, so each new entry is followed by its invalidations."""
    kernel = guest(Vmm())
    dev: Any = kernel.sub(Pci).devices["0000:6a:01.0"]
    events = kernel.trace.record()
    handle = iommu_sva_bind_device(dev, cast("Any", kernel.process().task.mm))
    asked = [(e.fields["kind"], e.fields["pasid"]) for e in events if e.name == "vtd_invalidate"]
    assert asked == [("PASID", handle.pasid), ("PASID_IOTLB", handle.pasid)]
    iommu_sva_unbind_device(handle)
