"""The kernel's view of silicon: enumeration, BARs, configuration access, interrupts, enable, reset, removal."""

from __future__ import annotations

from dataclasses import replace
from errno import EBUSY, EINVAL, ENODEV, ENOSPC, ENOTTY, ERANGE
from itertools import pairwise

import pytest

from pykernel.pci.config import ConfigSpace
from pykernel.pci.core import Pci
from pykernel.pci.function import DmaFault, PciFunction
from pykernel.pci.iomem import Iomem, MappedIo
from pykernel.pci.irq import Irqs
from pykernel.pci.msi import PCI_IRQ_ALL_TYPES, PCI_IRQ_INTX, PCI_IRQ_MSI, PCI_IRQ_MSIX
from pykernel.uapi.linux import pci_regs as r

HERE = "/sys/bus/pci/devices/0000:6a:01.0"


def errno_of(fn, *args, **kw):
    with pytest.raises(OSError, match="Errno") as e:
        fn(*args, **kw)
    return e.value.errno


# ------------------------------------------------------------------ enumeration


def test_functions_are_found_in_address_order_and_added_before_any_is_probed(pci_kernel, card_type, card_driver):
    kernel = pci_kernel()
    log = []
    from pykernel.base.uevent import Uevents

    def hear(action, path, env):
        if env["SUBSYSTEM"] == "pci":
            log.append((action, path[-7:]))

    kernel.sub(Uevents).subscribe(hear)
    card_driver(kernel).register()
    pci = kernel.sub(Pci)
    for address in ("0000:6a:02.0", "0000:00:1f.0", "0000:6a:01.1"):
        pci.plug(address, card_type())
    pci.rescan()
    assert log == [
        *(("add", a) for a in ("00:1f.0", "6a:01.1", "6a:02.0")),
        *(("bind", a) for a in ("00:1f.0", "6a:01.1", "6a:02.0")),
    ]
    assert sorted(kernel.process().listdir("/sys/class/pci_bus")) == ["0000:00", "0000:6a"]
    pci.rescan()
    assert len(log) == 6


def test_a_slot_that_reads_all_ones_is_empty(pci_kernel):
    kernel = pci_kernel(PciFunction(ConfigSpace(0xFFFF, 0xFFFF, 0)))
    assert kernel.sub(Pci).devices == {}


@pytest.mark.parametrize("address", ["6a:01.0", "0000:6a:20.0", "0000:6a:01.8", "0000:6A:01.0", ""])
def test_an_address_that_is_none_is_refused(pci_kernel, card_type, address):
    with pytest.raises(ValueError, match="no PCI address"):
        pci_kernel().sub(Pci).plug(address, card_type())


def test_a_taken_slot_is_refused(kernel, card_type):
    with pytest.raises(ValueError, match="taken"):
        kernel.sub(Pci).plug("0000:6a:01.0", card_type())


def test_identity_comes_from_configuration_space(dev):
    assert (dev.vendor, dev.device, dev.class_code, dev.revision) == (0x1234, 0x5678, 0x0B4000, 2)
    assert (dev.subsystem_vendor, dev.subsystem_device, dev.devfn, dev.bus_number) == (0x1AF4, 0x1100, 8, 0x6A)


# ------------------------------------------------------------------ BARs


def test_bars_are_sized_aligned_and_disjoint(pci_kernel, card_type):
    kernel = pci_kernel(card_type(), card_type(vfs=2), card_type())
    found = []
    for dev in kernel.sub(Pci).devices.values():
        for n, res in dev.resources.items():
            if n < 6:
                low = dev.read_config_dword(0x10 + 4 * n)
                wide = low & 6 == 4
                high = dev.read_config_dword(0x14 + 4 * n) if wide else 0
                assert (high << 32 | low & ~0xF) == res.start == dev.resource_start(n)
                assert res.start >= 1 << 32 or not wide
            assert res.start % res.size == 0 or n >= 7
            assert res.end - res.start + 1 == res.size
            found.append((res.start, res.end))
    found.sort()
    assert all(a[1] < b[0] for a, b in pairwise(found))
    assert len(found) == 7


def test_sizes_and_flags(dev):
    """include/linux/ioport.h; 0xc is prefetchable and 64-bit in the low bits of the BAR."""
    assert {n: (x.size, hex(x.flags), x.prefetch) for n, x in dev.resources.items()} == {
        0: (0x2000, "0x14220c", True),
        2: (0x1000, "0x40200", False),
        7: (0x3000, "0x14220c", True),
    }
    assert (dev.resource_start(5), dev.resource_len(5)) == (0, 0)
    assert errno_of(dev.iomap, 5) == EINVAL


def test_regions_are_held_by_one(dev):
    dev.request_regions("one")
    assert errno_of(dev.request_regions, "two") == EBUSY
    dev.release_regions()
    dev.request_regions("two")


def test_iomem_reads_and_writes_every_size(kernel, dev):
    dev.enable_device()
    regs = dev.iomap(0, 0x10)
    events = kernel.trace.record()
    assert [regs.readb(1), regs.readw(2), regs.readl(4), regs.readq(8)] == [0x11, 0x12, 0x14, 0x18]
    for fn in (regs.writeb, regs.writew, regs.writel, regs.writeq):
        fn(1, 0)
    regs.movdir64b(0, bytes(64))
    assert regs.enqcmds(0, bytes(64)) is False
    assert [e.name for e in events] == ["mmio_read"] * 4 + ["mmio_write"] * 4 + ["movdir64b", "enqcmds"]
    assert [e.fields["off"] for e in events][:4] == [0x11, 0x12, 0x14, 0x18]


def test_a_lost_register_write_by_fault_injection(kernel, dev):
    dev.enable_device()
    regs = dev.iomap(0)
    assert isinstance(regs, Iomem)
    kernel.faults.fail("reg", times=1)
    table = 0x1000
    regs.writel(0x1234, table)
    assert regs.readl(table) == 0
    regs.writel(0x1234, table)
    assert regs.readl(table) == 0x1234


def test_a_mapping_splits_into_natural_accesses(kernel, dev):
    dev.enable_device()
    io = MappedIo(dev.iomap(0), 0x100)
    events = kernel.trace.record()
    io.read(0x101, 14)
    io.write(0x103, bytes(5))
    io.write(0x140, bytes(64))
    io.enqcmd(0x140, bytes(64))
    assert [(e.name, e.fields["off"], e.fields.get("size")) for e in events] == [
        *(("mmio_read", off, n) for off, n in ((1, 1), (2, 2), (4, 4), (8, 4), (12, 2), (14, 1))),
        ("mmio_write", 3, 1),
        ("mmio_write", 4, 4),
        ("movdir64b", 0x40, None),
        ("enqcmds", 0x40, None),
    ]


# ------------------------------------------------------------------ configuration space


def test_configuration_access(kernel, dev):
    events = kernel.trace.record()
    dev.write_config_byte(0x3C, 5)
    dev.write_config_word(0x3C, 6)
    dev.write_config_dword(0x3C, 7)
    assert (dev.read_config_byte(0x3C), dev.read_config_word(0), dev.read_config_dword(0)) == (7, 0x1234, 0x56781234)
    assert [e.fields["size"] for e in events if e.name == "config_write"] == [1, 2, 4]


def test_capabilities_are_found(pci_kernel, card_type, dev):
    assert [dev.find_capability(c) for c in (r.PCI_CAP_ID_EXP, r.PCI_CAP_ID_MSIX, 0x55)] == [0x40, 0x80, 0]
    assert [dev.find_ext_capability(c) for c in (r.PCI_EXT_CAP_ID_SRIOV, 0x55)] == [0x100, 0]
    plain = pci_kernel(card_type(express=False), PciFunction(ConfigSpace(1, 2, 0)), card_type()).sub(Pci).devices
    assert plain["0000:6a:01.0"].find_ext_capability(r.PCI_EXT_CAP_ID_SRIOV) == 0
    assert plain["0000:6a:02.0"].find_capability(r.PCI_CAP_ID_EXP) == 0
    assert plain["0000:6a:03.0"].find_ext_capability(r.PCI_EXT_CAP_ID_SRIOV) == 0


# ------------------------------------------------------------------ MSI-X


def table(dev, n):
    regs = dev.iomap(0, 0x1000 + 16 * n)
    return [hex(regs.readl(o)) for o in (0, 4, 8, 12)]


def test_msix_vectors_are_programmed_and_masked_until_requested(kernel, dev):
    dev.enable_device()
    dev.set_master()
    assert dev.msix_vec_count() == 4
    assert dev.alloc_irq_vectors(1, 3) == 3
    irqs = [dev.irq_vector(n) for n in range(3)]
    assert irqs == [24, 25, 26]
    assert errno_of(dev.irq_vector, 3) == EINVAL
    assert table(dev, 1) == ["0xfee00000", "0x0", "0x19", "0x1"]
    assert dev.read_config_word(0x82) & 0xC000 == 0x8000
    assert dev.read_config_word(4) & r.PCI_COMMAND_INTX_DISABLE
    p = kernel.process()
    assert sorted(p.listdir(f"{HERE}/msi_irqs")) == ["24", "25", "26"]
    assert p.read_text(f"{HERE}/msi_irqs/25") == "msix\n"
    assert p.read_text(f"{HERE}/irq") == "11\n", "irq_show() knows MSI only"
    ran = []
    dev.function.raise_msix(1)
    assert dev.function.msix.pending == 2
    dev.request_irq(25, lambda: ran.append(1), "card")
    assert table(dev, 1)[3] == "0x0"
    kernel.sched.run_ready()
    assert ran == [1], "what was pending came when it was unmasked"
    dev.function.raise_msix(1)
    dev.function.raise_msix(1)
    kernel.sched.run_ready()
    assert ran == [1, 1], "one thread run for both"
    dev.free_irq(25)
    assert table(dev, 1)[3] == "0x1"
    dev.free_irq_vectors()
    dev.free_irq_vectors()
    assert not dev.read_config_word(0x82) & 0x8000
    assert not dev.read_config_word(4) & r.PCI_COMMAND_INTX_DISABLE
    assert "msi_irqs" not in p.listdir(HERE)
    assert dev.alloc_irq_vectors(4, 4) == 4


def test_refused_vectors(dev):
    assert errno_of(dev.alloc_irq_vectors, 1, 4) == EINVAL, "not in D0"
    dev.enable_device()
    assert errno_of(dev.alloc_irq_vectors, 5, 8) == ENOSPC
    assert errno_of(dev.alloc_irq_vectors, 2, 1) == ERANGE
    assert errno_of(dev.alloc_irq_vectors, 0, 1) == EINVAL
    assert errno_of(dev.alloc_irq_vectors, 1, 1, 0) == ENOSPC
    assert errno_of(dev.alloc_irq_vectors, 2, 2, PCI_IRQ_MSI | PCI_IRQ_INTX) == ENOSPC
    dev.alloc_irq_vectors(1, 1)
    assert errno_of(dev.alloc_irq_vectors, 1, 1) == EINVAL, "once"
    dev.free_irq_vectors()
    dev.no_msi = True
    assert errno_of(dev.alloc_irq_vectors, 1, 1) == EINVAL
    assert dev.alloc_irq_vectors(1, 1, PCI_IRQ_ALL_TYPES) == 1, "the pin is left"


def test_without_the_capability_it_is_einval(pci_kernel, card_type):
    dev = pci_kernel(card_type(msix=False, msi=False)).sub(Pci).devices["0000:6a:01.0"]
    dev.enable_device()
    assert errno_of(dev.msix_vec_count) == EINVAL
    assert errno_of(dev.alloc_irq_vectors, 1, 1, PCI_IRQ_MSIX | PCI_IRQ_MSI) == EINVAL


# ------------------------------------------------------------------ MSI and the pin


def test_msi_is_the_fallback(pci_kernel, card_type):
    kernel = pci_kernel(card_type(msix=False))
    dev = kernel.sub(Pci).devices["0000:6a:01.0"]
    dev.enable_device()
    dev.set_master()
    assert dev.alloc_irq_vectors(1, 4, PCI_IRQ_ALL_TYPES) == 1, "x86 without remapping has one"
    assert dev.function.msi_enabled
    p = kernel.process()
    assert p.read_text(f"{HERE}/irq") == f"{dev.irq_vector(0)}\n"
    assert p.read_text(f"{HERE}/msi_irqs/{dev.irq_vector(0)}") == "msi\n"
    ran = []
    dev.request_irq(dev.irq_vector(0), lambda: ran.append(1), "card")
    dev.function.raise_msi()
    kernel.sched.run_ready()
    assert ran == [1]
    dev.free_irq(dev.irq_vector(0))
    dev.free_irq_vectors()
    assert not dev.function.msi_enabled


def test_narrow_msi(pci_kernel):
    config = ConfigSpace(1, 2, 0)
    config.add_msi(0x40, wide=False)
    config.settle()
    dev = pci_kernel(PciFunction(config)).sub(Pci).devices["0000:6a:01.0"]
    dev.enable_device()
    dev.alloc_irq_vectors(1, 1, PCI_IRQ_MSI)
    assert (dev.read_config_dword(0x44), dev.read_config_word(0x48)) == (0xFEE00000, dev.irq_vector(0))


def test_the_pin_is_shared_and_level_triggered(pci_kernel, card_type):
    kernel = pci_kernel(card_type(), card_type())
    one, two = kernel.sub(Pci).devices.values()
    ran = []
    for dev in (one, two):
        dev.enable_device()
        assert dev.alloc_irq_vectors(1, 1, PCI_IRQ_INTX) == 1
        assert dev.irq_vector(0) == 11
        dev.request_irq(11, lambda name=dev.name: ran.append(name), "card")
    one.function.set_intx(asserted=True)
    kernel.sched.run_ready()
    assert ran == [one.name, two.name], "who shares a line looks"
    for dev in (one, two):
        dev.free_irq(11)
    assert errno_of(kernel.sub(Irqs).request, 12, print, "x") == EINVAL
    one.request_irq(11, lambda: ran.append("again"), "card")
    kernel.sched.run_ready()
    assert ran[-1] == "again", "the line is up still"
    one.function.set_intx(asserted=False)
    assert kernel.sub(Irqs).descs[11].asserted == set()
    assert errno_of(kernel.sub(Irqs).request, 11, print, "alone") == EBUSY


def test_interrupts_nobody_handles_are_traced(kernel, dev):
    events = kernel.trace.record()
    dev.slot.msi_write(0xFEE00000, 99)
    dev.slot.msi_write(0x1000, 99)
    kernel.sub(Irqs).free_irq(99)
    assert [e.name for e in events] == ["spurious_irq"]
    dev.enable_device()
    dev.set_master()
    dev.alloc_irq_vectors(1, 1)
    dev.request_irq(24, lambda: None, "card")
    dev.function.raise_msix(0)
    dev.free_irq(24)
    kernel.sched.run_ready()
    assert "irq" in [e.name for e in events]


def test_no_vector_is_left(kernel, dev, monkeypatch):
    monkeypatch.setattr("pykernel.pci.irq.LAST_IRQ", 24)
    dev.enable_device()
    assert errno_of(dev.alloc_irq_vectors, 1, 1) == ENOSPC


@pytest.mark.parametrize(
    ("profile", "chip"),
    [("linux-6.1", "  PCI-MSI 55590912-edge    "), ("linux-6.12", " PCI-MSIX-0000:6a:01.0    0-edge    ")],
)
def test_proc_interrupts(pci_kernel, card_type, profile, chip):
    """kernel/irq/proc.c:show_interrupts(); 6.1's hwirq is index | (bus << 8 | devfn) << 11."""
    kernel = pci_kernel(card_type(), profile=profile)
    dev = kernel.sub(Pci).devices["0000:6a:01.0"]
    dev.enable_device()
    dev.set_master()
    dev.alloc_irq_vectors(2, 2)
    dev.request_irq(24, lambda: None, "card-misc")
    dev.function.raise_msix(0)
    head, row = kernel.process().read_text("/proc/interrupts").splitlines()
    assert head == " " * 12 + "CPU0       CPU1       "
    assert row == f"  24:          1          0 {chip}  card-misc"
    dev.free_irq(24)
    assert kernel.process().read_text("/proc/interrupts").splitlines()[1] == f"  24:          1          0 {chip}"


# ------------------------------------------------------------------ on and off


def test_enabling_counts(kernel, dev):
    dev.write_config_word(4, 0)
    dev.enable_device()
    dev.enable_device()
    assert kernel.log.records[-1].text == "pci 0000:6a:01.0: enabling device (0000 -> 0002)"
    assert (dev.enable_cnt, dev.power_state, dev.read_config_word(4)) == (2, "D0", 2)
    dev.set_master()
    dev.disable_device()
    assert dev.read_config_word(4) == 6
    dev.disable_device()
    assert dev.read_config_word(4) == 2, "memory decoding stays"


def test_dma_masks(dev):
    dev.set_dma_mask(64)
    assert (dev.dma_bits, dev.coherent_dma_bits) == (64, 64)


def test_dma_of_a_function_that_the_kernel_does_not_know(pci_kernel, card_type):
    card = card_type()
    slot = pci_kernel().sub(Pci).plug("0000:6a:01.0", card)
    with pytest.raises(DmaFault):
        slot.dma_read(0, 4)
    with pytest.raises(DmaFault):
        slot.dma_write(0, b"x")
    with pytest.raises(DmaFault):
        slot.page_request(0, write=False, pasid=None)
    slot.intx(asserted=True)


# ------------------------------------------------------------------ reset


def test_reset_keeps_configuration_and_vectors(kernel, dev, driver):
    dev.alloc_irq_vectors(2, 2)
    dev.request_irq(24, lambda: None, "card")
    before = [dev.read_config_dword(o) for o in range(0, 0x100, 4)], table(dev, 0), table(dev, 1)
    events = kernel.trace.record()
    kernel.process().write_text(f"{HERE}/reset", "1")
    assert ([dev.read_config_dword(o) for o in range(0, 0x100, 4)], table(dev, 0), table(dev, 1)) == before
    assert (dev.function.resets, driver.log[1:]) == (1, ["prepare", "done"])
    assert "flr" in [e.name for e in events]


def test_reset_restores_msi(pci_kernel, card_type):
    dev = pci_kernel(card_type(msix=False)).sub(Pci).devices["0000:6a:01.0"]
    dev.enable_device()
    dev.alloc_irq_vectors(1, 1, PCI_IRQ_MSI)
    dev.reset_function()
    assert dev.function.msi_enabled


def test_reset_without_a_method_is_enotty_and_pm_goes_through_d3(pci_kernel, card_type, monkeypatch):
    dev = pci_kernel(card_type(express=False)).sub(Pci).devices["0000:6a:01.0"]
    assert dev.reset_methods == ["pm"]
    writes = []
    real = dev.function.config_write

    def write(off, size, value):
        writes.append((off, value))
        real(off, size, value)

    monkeypatch.setattr(dev.function, "config_write", write)
    dev.reset_function()
    assert [v & 3 for o, v in writes if o == 0x94] == [3, 0]
    assert dev.function.resets == 1
    dev.reset_methods = []
    assert errno_of(dev.reset_function) == ENOTTY


# ------------------------------------------------------------------ removal


def test_remove_and_rescan(kernel, dev, driver):
    p = kernel.process()
    dev.alloc_irq_vectors(1, 1)
    before = {n: x.start for n, x in dev.resources.items()}
    p.write_text(f"{HERE}/remove", "1")
    assert (driver.log, kernel.sub(Pci).devices) == (["probe 0000:6a:01.0", "remove 0000:6a:01.0"], {})
    assert p.listdir("/sys/bus/pci/devices") == []
    with pytest.raises(DmaFault):
        dev.slot.dma_read(0, 1)
    kernel.process().write_text("/sys/bus/pci/drivers_autoprobe", "0")
    p.write_text("/sys/bus/pci/rescan", "1")
    again = kernel.sub(Pci).devices["0000:6a:01.0"]
    assert again.driver is driver, "pci_bus_add_device() attaches whatever drivers_autoprobe says"
    assert {n: x.start for n, x in again.resources.items()} == before


def test_a_match_that_fails_is_told(kernel, dev, driver, monkeypatch):
    from pykernel.errors import err

    def fail(_dev, _drv):
        raise err(ENODEV)

    dev.stop_and_remove()
    monkeypatch.setattr(kernel.sub(Pci).bus, "match", fail)
    kernel.sub(Pci).rescan()
    assert kernel.log.records[-1].text == "pci 0000:6a:01.0: device attach failed (-19)"


def test_what_answers_at_an_address_is_who_has_it_now(pci_kernel, card_type):
    """The window of a page is found once, and anew when its BAR moved, its device went, or another one came."""
    kernel = pci_kernel(card_type())
    pci = kernel.sub(Pci)
    dev = pci.devices["0000:6a:01.0"]
    old, whole = dev.resources[0].start, dev.resources[0]
    window = kernel.mmio_at(old + 0x10)
    assert kernel.mmio_at(old + 0x20) is window
    assert (window.base, window.size) == (old, 0x2000)

    moved = replace(whole, start=old + 0x100000)
    dev.resources[0] = moved
    assert kernel.mmio_at(old + 0x10) is None
    assert kernel.mmio_at(moved.start + 0x10).base == moved.start
    dev.resources[0] = whole
    assert kernel.mmio_at(old + 0x10).base == old
    assert kernel.mmio_at(moved.start + 0x10) is None

    dev.function, before = card_type(), dev.function
    assert kernel.mmio_at(old + 0x10)._io.iomem.function is dev.function
    dev.function = before
    proc = kernel.process()
    proc.write_text(f"{HERE}/remove", "1")
    assert kernel.mmio_at(old + 0x10) is None
    proc.write_text("/sys/bus/pci/rescan", "1")
    again = pci.devices["0000:6a:01.0"]
    assert kernel.mmio_at(again.resources[0].start)._dev is again
