"""Power states, saved state, runtime power management, resets: rows of drivers/pci/pci.c and pci-driver.c."""

from __future__ import annotations

from errno import EAGAIN, EBUSY, EINVAL, EIO, ENODEV, ENOTTY

import pytest
from errnos import errno_of
from vfiocard import EXP, PM, VPD, Card

from pykernel.pci.core import Pci
from pykernel.pci.driver import PciDriver, PciId
from pykernel.pci.intx import check_and_mask_intx, check_and_unmask_intx
from pykernel.pci.irq import Irqs, message_irq, remapped_address
from pykernel.pci.power import PCI_D0, PCI_D1, PCI_D2, PCI_D3COLD, PCI_D3HOT
from pykernel.pci.vpd import read_vpd, write_vpd
from pykernel.uapi.linux import pci_regs as r

SLOT = "0000:6a:01.0"


class Sleeper(PciDriver):
    """Lets its device sleep, unless it says no."""

    id_table = (PciId(0x1234, 0xCA4D),)
    refuses = False

    def probe(self, dev, /):
        dev.power.allow()
        dev.power.put_noidle()

    def remove(self, dev, /):
        dev.power.get_noresume()
        dev.power.forbid()

    def runtime_suspend(self, pdev):
        if self.refuses:
            raise OSError(EBUSY, "busy")


@pytest.fixture
def make(pci_kernel):
    def card(**options):
        kernel = pci_kernel(Card(**options))
        return kernel.sub(Pci).devices[SLOT]

    return card


TRANSITIONS = [
    pytest.param([PCI_D3HOT, PCI_D0], [0, 0], "D0", id="down and up"),
    pytest.param([PCI_D1, PCI_D3HOT], [0, 0], "D3hot", id="deeper"),
    pytest.param([PCI_D3HOT, PCI_D1], [0, EINVAL], "D3hot", id="not up to D1"),
    pytest.param([PCI_D2], [EIO], "D0", id="no D2"),
    pytest.param([PCI_D3COLD], [0], "D3hot", id="D3cold is D3hot, the power stays"),
    pytest.param([PCI_D3HOT, PCI_D3HOT], [0, 0], "D3hot", id="there already"),
]


@pytest.mark.parametrize(("states", "results", "name"), TRANSITIONS)
def test_transitions(make, states, results, name):
    dev = make()
    dev.set_power_state(PCI_D0)
    assert [errno_of(dev.set_power_state, state) for state in states] == results
    assert dev.power_state == name


def test_without_power_management_there_is_d0_only(pci_kernel):
    from pykernel.hw.edu import EduFunction

    dev = pci_kernel(EduFunction()).sub(Pci).devices[SLOT]
    assert dev.power_state == "unknown"
    dev.set_power_state(PCI_D0)
    assert (dev.power_state, errno_of(dev.set_power_state, PCI_D3HOT)) == ("D0", EIO)


def test_a_sleeping_function_decodes_nothing(make):
    dev = make()
    dev.enable_device()
    bar = dev.iomap(2)
    assert bar.readl(0) == 0x03020100
    dev.set_power_state(PCI_D3HOT)
    assert bar.readl(0) == 0xFFFFFFFF
    assert dev.read_config_dword(0) == 0xCA4D1234
    dev.set_power_state(PCI_D0)
    assert bar.readl(0) == 0x03020100
    dev.disable_device()


def test_waking_restores_bars_of_a_function_that_forgets(make):
    dev = make(soft_reset=True)
    dev.set_power_state(PCI_D0)
    bars = [dev.read_config_dword(off) for off in range(0x10, 0x28, 4)]
    dev.set_power_state(PCI_D3HOT)
    dev.set_power_state(PCI_D0)
    assert dev.function.resets == 1
    assert [dev.read_config_dword(off) for off in range(0x10, 0x28, 4)] == bars


def test_saved_state_is_used_once(make):
    dev = make()
    dev.write_config_byte(r.PCI_CACHE_LINE_SIZE, 0x10)
    dev.write_config_word(EXP + r.PCI_EXP_DEVCTL2, 0x1F)
    dev.save_state()
    mine = dev.store_saved_state()
    dev.function.flr()
    dev.restore_state()
    assert (dev.read_config_byte(r.PCI_CACHE_LINE_SIZE), dev.read_config_word(EXP + r.PCI_EXP_DEVCTL2)) == (0x10, 0x1F)
    dev.function.flr()
    dev.restore_state()
    assert dev.read_config_byte(r.PCI_CACHE_LINE_SIZE) == 0
    assert dev.store_saved_state() is None
    dev.load_saved_state(mine)
    dev.restore_state()
    assert dev.read_config_byte(r.PCI_CACHE_LINE_SIZE) == 0x10


METHODS = [
    pytest.param({}, "flr\n", id="FLR"),
    pytest.param({"flr": False, "soft_reset": True}, "pm\n", id="power management"),
    pytest.param({"soft_reset": True}, "flr pm\n", id="both"),
    pytest.param({"express": False, "af": True}, "af_flr\n", id="advanced features"),
    pytest.param({"flr": False}, "", id="none"),
]


@pytest.mark.parametrize(("options", "text"), METHODS)
def test_reset_methods(make, options, text):
    dev = make(**options)
    assert dev.reset_method_show() == text
    if not text:
        assert errno_of(dev.try_reset_function) == ENOTTY
        return
    dev.try_reset_function()
    assert dev.function.resets == 1
    dev.mutex.lock()
    assert errno_of(dev.try_reset_function) == EAGAIN
    dev.mutex.unlock()


def test_resets_by_power_management_are_from_d0(make):
    dev = make(flr=False, soft_reset=True)
    dev.set_power_state(PCI_D3HOT)
    assert errno_of(dev.reset_function_locked) == EINVAL


def test_runtime_power_management(make):
    """An idle device sleeps when its driver lets it, a call wakes it; who refuses stays awake."""
    dev = make()
    driver = Sleeper(dev.kernel, "sleeper")
    driver.register()
    dev.kernel.sched.run_ready()
    assert (dev.power.usage_count, dev.power.suspended, dev.power_state) == (0, False, "unknown")
    dev.power.get_noresume()
    dev.power.put()
    dev.kernel.sched.run_ready()
    assert (dev.power.suspended, dev.power_state, dev.power.runtime_status_show()) == (True, "D3hot", "suspended\n")
    dev.power.resume_and_get()
    assert (dev.power.suspended, dev.power_state) == (False, "D0")
    driver.refuses = True
    dev.power.put_sync()
    assert (dev.power.suspended, dev.power_state, dev.power.usage_count) == (False, "D0", 0)
    driver.unregister()
    assert (dev.power.usage_count, dev.power.control_show()) == (1, "on\n")


def test_vpd_of_a_device(make):
    dev = make()
    assert read_vpd(dev, 0, 100) == b"\x82\x04\x00card\x78"
    assert read_vpd(dev, 5, 2) == b"rd"
    assert read_vpd(dev, 8, 4) == b""
    write_vpd(dev, 4, b"ARD\x78")
    assert bytes(dev.function.vpd[:8]) == b"\x82\x04\x00cARD\x78"
    assert errno_of(write_vpd, dev, 2, b"abcd") == EINVAL
    assert errno_of(write_vpd, dev, 8, b"abcd") == EINVAL
    dev.function.vpd = bytearray(8)
    assert errno_of(read_vpd, dev, 0, 1) == ENODEV
    assert dev.find_capability(r.PCI_CAP_ID_VPD) == VPD


def test_masking_the_pin_in_the_device(make):
    """Only what is pending is masked, only what is not is unmasked."""
    dev = make()
    assert (check_and_mask_intx(dev), check_and_unmask_intx(dev)) == (False, True)
    dev.function.set_intx(asserted=True)
    assert (check_and_unmask_intx(dev), check_and_mask_intx(dev)) == (False, True)
    assert dev.read_config_word(r.PCI_COMMAND) & r.PCI_COMMAND_INTX_DISABLE


def test_an_interrupt_that_is_disabled_waits(make):
    dev = make()
    irqs, seen = dev.kernel.sub(Irqs), []
    irqs.request(dev.intx_irq, lambda: seen.append(1), "x", dev, hard=True, no_autoen=True)
    dev.function.set_intx(asserted=True)
    assert seen == []
    irqs.enable_irq(dev.intx_irq)
    assert seen == [1]
    irqs.disable_irq(dev.intx_irq)
    dev.function.set_intx(asserted=False)
    irqs.enable_irq(dev.intx_irq)
    assert seen == [1]
    irqs.free_irq(dev.intx_irq, dev)


@pytest.mark.parametrize("irq", [24, 0x7FFF, 0x8000, 0xFFFF])
def test_remapped_messages(irq):
    """Intel VT-d: the handle in the address, the sub-handle in the data."""
    address = remapped_address(irq)
    assert address >> 20 == 0xFEE
    assert [message_irq(address, n) for n in (0, 3)] == [irq, irq + 3]
    assert message_irq(0xFEE00000, irq) == irq


def test_regions_of_single_bars(make):
    dev = make()
    dev.request_region(2, "one")
    assert errno_of(dev.request_region, 2, "two") == EBUSY
    assert errno_of(dev.request_regions, "two") == EBUSY
    dev.request_region(0, "two")
    dev.release_region(2)
    dev.release_region(0)
    dev.request_regions("all")
    dev.release_regions()


def test_pm_capability_is_where_it_is(make):
    assert make().pm_cap == PM
