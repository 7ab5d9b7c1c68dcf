"""What depends on the machine around a physical device: its group, interrupt remapping, registers as memory."""

from __future__ import annotations

from errno import EBUSY, EFAULT, EINVAL, ENODEV, EPERM
from mmap import MAP_SHARED, PROT_READ, PROT_WRITE
from typing import Any

import pytest
from errnos import errno_of
from iommufdclient import FIXED, PAGE, Cdev, Iommufd, shared
from vfioclient import Device, detach, reattach, sysfs

from pykernel.iommufd.fault import Fault
from pykernel.machine import IommuSpec, Machine, PciSpec
from pykernel.pci.core import Pci
from pykernel.start import boot
from pykernel.uapi.linux import iommufd as i


def machine(*slots: str, modules: str = "", **iommu: Any):
    """A kernel with edu in these slots, on vfio-pci, and a client."""
    pci = tuple(PciSpec("edu", slot) for slot in slots)
    spec = Machine("devices", pci=pci, modules={"iommufd": modules, "vfio_pci": ""}, iommu=IommuSpec(**iommu))
    kernel = boot(spec, "linux-6.12")
    kernel.up()
    proc = kernel.process()
    for slot in slots:
        detach(proc, slot)
    return kernel, proc


def end(kernel, proc, *slots: str) -> None:
    for slot in slots:
        reattach(proc, slot)
    proc.exit()
    assert not kernel.oopses
    kernel.shutdown()


def test_a_bar_is_no_memory_to_map():
    """vfio_dma_mapping_mmio_test.c: as VFIO's container can, IOMMUFD of 6.12 cannot."""
    slot = "0000:00:05.0"
    kernel, proc = machine(slot)
    iommu = Iommufd(proc)
    ioas = iommu.ioas()
    cdev = Cdev(proc, sysfs(slot))
    cdev.bind(iommu.fd)
    cdev.attach(ioas)
    device = Device(proc, cdev.fd)
    device.enable_memory()
    bar = device.region(0)
    at = proc.mmap(0, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, cdev.fd, bar.info.offset)
    assert errno_of(iommu.map, ioas, at, PAGE) == EFAULT
    proc.munmap(at, PAGE)
    iommu.close()
    cdev.close()
    end(kernel, proc, slot)


@pytest.mark.parametrize(("modules", "error"), [("", EPERM), ("allow_unsafe_interrupts=1", 0)], ids=["safe", "unsafe"])
def test_without_interrupt_remapping(modules, error):
    slot = "0000:00:05.0"
    kernel, proc = machine(slot, modules=modules, intr_remap=False)
    iommu, cdev = Iommufd(proc), Cdev(proc, sysfs(slot))
    assert errno_of(cdev.bind, iommu.fd) == error
    warned = any("MSI interrupts are not secure" in record.text for record in kernel.log.records)
    assert warned == (error == 0)
    cdev.close()
    iommu.close()
    end(kernel, proc, slot)


@pytest.fixture
def pair():
    """Two functions that one group has, both bound."""
    slots = ("0000:00:05.0", "0000:00:05.1")
    kernel, proc = machine(*slots)
    devices = kernel.sub(Pci).devices
    assert devices[slots[0]].iommu_group is devices[slots[1]].iommu_group
    iommu = Iommufd(proc)
    cdevs = [Cdev(proc, sysfs(slot)) for slot in slots]
    for cdev in cdevs:
        cdev.bind(iommu.fd)
    yield iommu, cdevs, [devices[slot] for slot in slots]
    for cdev in cdevs:
        cdev.close()
    iommu.close()
    end(kernel, proc, *slots)


def test_a_group_has_one_page_table(pair):
    iommu, (first, second), devices = pair
    ioas, other = iommu.ioas(), iommu.ioas()
    pt = first.attach(ioas)
    assert errno_of(second.attach, other) == EINVAL
    assert second.attach(ioas) == pt
    buffer = shared(iommu.proc, PAGE)
    iommu.map_fixed(ioas, buffer, PAGE, 0x100000)
    iommu.proc.mem.write(buffer, b"both")
    assert [dev.slot.space.read(0x100000, 4) for dev in devices] == [b"both"] * 2
    iommu.map_fixed(other, buffer, PAGE, 0x200000, FIXED)
    first.attach(other)  # replaces it for both
    assert [dev.slot.space.read(0x200000, 4) for dev in devices] == [b"both"] * 2
    first.detach()
    assert errno_of(iommu.destroy, other) == EBUSY
    second.detach()
    iommu.destroy(other)
    iommu.destroy(ioas)


def test_another_context_cannot_have_the_rest_of_a_group():
    slots = ("0000:00:05.0", "0000:00:05.1")
    kernel, proc = machine(*slots)
    mine, theirs = Iommufd(proc), Iommufd(proc)
    first, second = (Cdev(proc, sysfs(slot)) for slot in slots)
    first.bind(mine.fd)
    assert errno_of(second.bind, theirs.fd) == EPERM
    second.bind(mine.fd)
    for cdev in (first, second):
        cdev.close()
    second = Cdev(proc, sysfs(slots[1]))
    second.bind(theirs.fd)
    second.close()
    for iommu in (mine, theirs):
        iommu.close()
    end(kernel, proc, *slots)


def test_a_guest_s_tables_on_top_of_the_host_s():
    """
    VT-d's nested translation: the guest's addresses, then the parent's; access bits in the guest's entries.

    Those have U/S set: requests without a PASID are a user's (3.6, 9.6).
    """
    slot = "0000:00:05.0"
    kernel, proc = machine(slot)
    iommu, cdev = Iommufd(proc), Cdev(proc, sysfs(slot))
    ioas, device = iommu.ioas(), cdev.bind(iommu.fd)
    guest, guest_va = 0x40000000, shared(proc, 16 * PAGE)
    iommu.map_fixed(ioas, guest_va, 16 * PAGE, guest)
    word = lambda page, index: guest_va + page * PAGE + index * 8  # noqa: E731
    for level in range(3):  # tables in the guest's pages 0 to 3, entry 0 of each
        proc.mem.write(word(level, 0), (guest + (level + 1) * PAGE | 7).to_bytes(8, "little"))
    proc.mem.write(word(3, 5), (guest + 9 * PAGE | 7).to_bytes(8, "little"))
    proc.mem.write(word(3, 6), (guest + 10 * PAGE | 5).to_bytes(8, "little"))
    parent = iommu.hwpt(device, ioas, i.IOMMU_HWPT_ALLOC_NEST_PARENT)
    s1 = iommu.put(bytes(i.iommu_hwpt_vtd_s1(pgtbl_addr=guest, addr_width=48)))
    nested = iommu.hwpt(device, parent, data_type=i.IOMMU_HWPT_DATA_VTD_S1, data_len=24, data_uptr=s1)
    cdev.attach(nested)
    space = kernel.sub(Pci).devices[slot].slot.space
    space.write(5 * PAGE + 7, b"guest")
    assert proc.mem.read(guest_va + 9 * PAGE + 7, 5) == b"guest"
    assert proc.mem.read(word(3, 5), 1)[0] == 7 | 1 << 5 | 1 << 6  # accessed, dirty
    assert space.read(6 * PAGE, 2) == bytes(2)
    assert proc.mem.read(word(3, 6), 1)[0] == 5 | 1 << 5
    for access in (
        lambda: space.write(6 * PAGE, b"x"),
        lambda: space.read(7 * PAGE, 1),
        lambda: space.read(1 << 47, 1),
    ):
        with pytest.raises(Exception, match="DMA"):
            access()
    cdev.close()
    iommu.close()
    end(kernel, proc, slot)


def test_a_replacement_that_fails_gives_the_reserved_addresses_up():
    """iommufd_device_do_replace(): err_unresv comes of page tables of one address space, too; a good one keeps them."""
    slot = "0000:00:05.0"
    kernel, proc = machine(slot)
    iommu, cdev = Iommufd(proc), Cdev(proc, sysfs(slot))
    ioas, device, queue = iommu.ioas(), cdev.bind(iommu.fd), iommu(i.IOMMU_FAULT_QUEUE_ALLOC)
    s1 = iommu.put(bytes(i.iommu_hwpt_vtd_s1(addr_width=48)))
    nested = {"data_type": i.IOMMU_HWPT_DATA_VTD_S1, "data_len": 24, "data_uptr": s1}
    parent = iommu.hwpt(device, ioas, i.IOMMU_HWPT_ALLOC_NEST_PARENT)
    good = iommu.hwpt(device, parent, **nested)
    bad = iommu.hwpt(device, parent, i.IOMMU_HWPT_FAULT_ID_VALID, fault_id=queue.out_fault_id, **nested)
    free = iommu.ranges(ioas)[0]
    cdev.attach(parent)
    without = iommu.ranges(ioas)[0]
    assert [start for start, _ in without] == [0, 0xFEF00000]
    cdev.attach(good)
    cdev.attach(parent)
    assert iommu.ranges(ioas)[0] == without
    assert errno_of(cdev.attach, bad) == ENODEV  # edu asks for no pages
    assert iommu.ranges(ioas)[0] == free
    cdev.detach()
    cdev.close()
    proc.close(queue.out_fault_fd)
    iommu.close()
    end(kernel, proc, slot)


def test_page_requests_of_a_device_go_to_the_queue_of_its_page_table():
    """An accelerator, which can ask for pages; edu cannot: ENODEV."""
    slot, plain = "0000:6a:01.0", "0000:00:05.0"
    pci = (PciSpec("dsa", slot), PciSpec("edu", plain))
    modules = {"vfio_pci": "disable_denylist=1"}
    kernel = boot(Machine("faults", pci=pci, modules=modules), "linux-6.12")
    kernel.up()
    proc = kernel.process()
    iommu = Iommufd(proc)
    ioas, queue = iommu.ioas(), iommu(i.IOMMU_FAULT_QUEUE_ALLOC)
    s1 = {"data_type": i.IOMMU_HWPT_DATA_VTD_S1, "data_len": 24}
    s1["data_uptr"] = iommu.put(bytes(i.iommu_hwpt_vtd_s1(addr_width=48)))
    cdevs = []
    for bdf in (slot, plain):
        detach(proc, bdf)
        cdev = Cdev(proc, sysfs(bdf))
        cdevs.append(cdev)
        device = cdev.bind(iommu.fd)
        parent = iommu.hwpt(device, ioas, i.IOMMU_HWPT_ALLOC_NEST_PARENT)
        flags = i.IOMMU_HWPT_FAULT_ID_VALID
        nested = iommu.hwpt(device, parent, flags, fault_id=queue.out_fault_id, **s1)
        assert errno_of(iommu.destroy, queue.out_fault_id) == EBUSY
        cdev.attach(parent)  # intel_iommu_enable_iopf() wants ATS, which is off while the group is blocked
        assert errno_of(cdev.attach, nested) == (0 if bdf == slot else ENODEV)
    file: Any = proc.fds.get(iommu.fd)
    idev = file.ictx.objects.load(3)
    answers: list[int] = []
    idev.report_fault([Fault(flags=2, perm=1, addr=0x5000)], answers.append)
    asked = i.iommu_hwpt_pgfault.from_bytes(proc.read(queue.out_fault_fd, 40))
    assert (asked.dev_id, asked.addr, asked.perm) == (idev.id, 0x5000, 1)
    proc.write(queue.out_fault_fd, bytes(i.iommu_hwpt_page_response(cookie=asked.cookie)))
    idev.report_fault([Fault(flags=2, addr=0x6000)], answers.append)
    assert answers == [i.IOMMUFD_PAGE_RESP_SUCCESS]
    cdevs[0].detach()  # who still waits is answered when the device leaves
    assert answers == [i.IOMMUFD_PAGE_RESP_SUCCESS, i.IOMMUFD_PAGE_RESP_INVALID]
    idev.report_fault([Fault(flags=2, addr=0x7000)], answers.append)  # nobody takes it
    assert answers[2:] == [i.IOMMUFD_PAGE_RESP_INVALID]
    for cdev in cdevs:
        cdev.close()
    proc.close(queue.out_fault_fd)
    iommu.close()
    end(kernel, proc, slot, plain)
