"""SR-IOV: sriov_* files, virtual functions and their links, autoprobe, what drivers leave behind."""

from __future__ import annotations

from errno import EBUSY, EINVAL, EIO, ENODEV, ENOENT, ENOMEM, ENOSYS, ERANGE

import pytest

from pykernel.base.uevent import Uevents
from pykernel.pci.config import ConfigSpace
from pykernel.pci.core import Pci
from pykernel.pci.function import PciFunction
from pykernel.uapi.linux import pci_regs as r

HERE = "/sys/bus/pci/devices/0000:6a:01.0"


def errno_of(fn, *args):
    with pytest.raises(OSError, match="Errno") as e:
        fn(*args)
    return e.value.errno


@pytest.fixture
def numvfs(kernel):
    return lambda text: kernel.process().write_text(f"{HERE}/sriov_numvfs", text)


def test_files_of_a_physical_function(kernel, dev):
    p = kernel.process()
    names = ("totalvfs", "numvfs", "offset", "stride", "vf_device", "drivers_autoprobe")
    assert [p.read_text(f"{HERE}/sriov_{n}") for n in names] == ["3\n", "0\n", "8\n", "8\n", "5679\n", "1\n"]
    line = p.read_text(f"{HERE}/resource").splitlines()[7]
    assert [int(x, 16) for x in line.split()] == [dev.resources[7].start, dev.resources[7].end, 0x14220C]


def test_a_function_without_the_capability_has_none_of_them(pci_kernel, card_type):
    kernel = pci_kernel(card_type())
    assert not [n for n in kernel.process().listdir(HERE) if n.startswith("sriov")]


@pytest.mark.parametrize("text", ["", "x", "-1", "65536", "1 ", "\n"])
def test_what_is_no_number_is_einval(numvfs, driver, text):
    if text:
        assert errno_of(numvfs, text) == EINVAL


def test_without_a_driver_that_can(kernel, dev, numvfs):
    assert errno_of(numvfs, "4") == ERANGE
    numvfs("0")
    assert errno_of(numvfs, "1") == ENOENT
    assert kernel.log.records[-1].text.endswith("no driver bound to device; cannot configure SR-IOV")
    kernel.process().write_text("/sys/bus/pci/drivers/pci-stub/new_id", "1234 5678")
    assert errno_of(numvfs, "1") == ENOENT
    assert kernel.log.records[-1].text.endswith("driver does not support SR-IOV configuration via sysfs")


def test_virtual_functions_come_and_go(kernel, dev, driver, numvfs):
    events = []
    kernel.sub(Uevents).subscribe(lambda a, path, env: events.append((a, path[-7:])))
    p = kernel.process()
    numvfs("2")
    assert (dev.read_config_word(0x110), dev.read_config_word(0x108) & 9) == (2, 9)
    assert events == [
        *(("add", "6a:02.0"), ("change", "6a:02.0"), ("bind", "6a:02.0")),
        *(("add", "6a:03.0"), ("change", "6a:03.0"), ("bind", "6a:03.0")),
        ("change", "6a:01.0"),
    ]
    assert p.readlink(f"{HERE}/virtfn1") == "../0000:6a:03.0"
    vf = "/sys/bus/pci/devices/0000:6a:03.0"
    assert p.readlink(f"{vf}/physfn") == "../0000:6a:01.0"
    assert [p.read_text(f"{vf}/{n}") for n in ("vendor", "device")] == ["0x1234\n", "0x5679\n"]
    assert (p.read_text(f"{HERE}/sriov_numvfs"), "sriov_numvfs" in p.listdir(vf)) == ("2\n", False)
    res = kernel.sub(Pci).devices["0000:6a:03.0"].resources[0]
    assert (res.start, res.size) == (dev.resources[7].start + 0x1000, 0x1000)
    numvfs("2")
    assert errno_of(numvfs, "3") == EBUSY
    assert kernel.log.records[-1].text == "card 0000:6a:01.0: 2 VFs already enabled. Disable before enabling 3 VFs"
    events.clear()
    numvfs("0")
    assert [e for e in events if e[0] == "remove"] == [("remove", "6a:02.0"), ("remove", "6a:03.0")]
    assert (sorted(kernel.sub(Pci).slots), dev.read_config_word(0x110), dev.read_config_word(0x108) & 9) == (
        ["0000:6a:01.0"],
        0,
        0,
    )
    assert not [n for n in p.listdir(HERE) if n.startswith("virtfn")]
    numvfs("3")


def test_autoprobe_off_leaves_them_alone(kernel, dev, driver, numvfs):
    """drivers/pci/pci-driver.c:pci_device_can_probe(): bind is ENODEV too, driver_override helps."""
    p = kernel.process()
    p.write_text(f"{HERE}/sriov_drivers_autoprobe", "0")
    assert p.read_text(f"{HERE}/sriov_drivers_autoprobe") == "0\n"
    assert errno_of(p.write_text, f"{HERE}/sriov_drivers_autoprobe", "x") == EINVAL
    numvfs("1")
    vf = kernel.sub(Pci).devices["0000:6a:02.0"]
    assert vf.driver is None
    assert errno_of(p.write_text, "/sys/bus/pci/drivers/card/bind", vf.name) == ENODEV
    p.write_text("/sys/bus/pci/devices/0000:6a:02.0/driver_override", "card")
    p.write_text("/sys/bus/pci/drivers/card/bind", vf.name)
    assert vf.driver is driver


def test_fewer_than_asked_is_told(kernel, dev, driver, numvfs):
    driver.configured = 1
    numvfs("2")
    assert kernel.log.records[-1].text == "card 0000:6a:01.0: 2 VFs requested; only 1 enabled"


def test_a_driver_that_leaves_them_is_told_of_and_removal_takes_them(kernel, dev, driver, numvfs):
    numvfs("1")
    dev.iov.driver_max = 1
    kernel.process().write_text("/sys/bus/pci/drivers/card/unbind", dev.name)
    assert any(x.text.endswith("driver left SR-IOV enabled after remove") for x in kernel.log.records)
    assert dev.iov.driver_max == 3
    dev.stop_and_remove()
    assert (kernel.sub(Pci).devices, list(kernel.sub(Pci).slots)) == ({}, ["0000:6a:01.0"])


def test_refusals_of_the_core(pci_kernel, dev, card_type):
    """drivers/pci/iov.c:sriov_enable()."""
    dev.iov.enable(0)
    assert errno_of(dev.iov.enable, 4) == EINVAL
    dev.iov.enable(1)
    assert errno_of(dev.iov.enable, 1) == EINVAL
    dev.iov.disable()
    dev.function.config.put(0x100 + r.PCI_SRIOV_INITIAL_VF, 2, 1)
    assert errno_of(dev.iov.enable, 1) == EIO
    far = card_type(vfs=2)
    far.config.put(0x100 + r.PCI_SRIOV_VF_OFFSET, 2, 0xFFFF)
    there = pci_kernel(far).sub(Pci).devices["0000:6a:01.0"]
    assert errno_of(there.iov.enable, 1) == ENOMEM
    assert there.kernel.log.records[-1].text.endswith("can't enable 1 VFs (bus 16a out of range)")


def test_silicon_without_virtual_functions(pci_kernel):
    def silicon(vfs):
        config = ConfigSpace(1, 2, 0)
        config.add_pcie(0x40, flags=2, devcap=0)
        config.add_sriov(0x100, vfs=vfs, offset=8, stride=8, device=3, bars={})
        config.settle()
        return PciFunction(config)

    devices = pci_kernel(silicon(1), silicon(0)).sub(Pci).devices
    assert errno_of(devices["0000:6a:01.0"].iov.enable, 1) == ENOSYS
    assert devices["0000:6a:02.0"].iov is None, "TOTAL_VF is 0"
