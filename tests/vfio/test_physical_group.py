"""Groups of the IOMMU: who else has a device of it, and when (drivers/vfio/group.c, drivers/iommu/iommu.c)."""

from __future__ import annotations

import struct
from errno import EBUSY, EINVAL, ENODEV, EPERM
from types import SimpleNamespace

import pytest
from errnos import errno_of
from vfiotoy import EXTENSION, Toy, add_mappings, add_toy, get_device_fd, open_group, set_container

from pykernel.drivers.pci_stub import PciStubDriver
from pykernel.machine import IommuSpec, Machine
from pykernel.pci.config import ConfigSpace
from pykernel.pci.core import Pci
from pykernel.pci.driver import PciDriver
from pykernel.pci.function import PciFunction
from pykernel.start import boot
from pykernel.uapi.linux import pci_regs as r
from pykernel.uapi.linux import vfio as v
from pykernel.vfio.main import vfio_register_group_dev, vfio_unregister_group_dev

VIABLE, SET = v.VFIO_GROUP_FLAGS_VIABLE, v.VFIO_GROUP_FLAGS_CONTAINER_SET
A, B, FAR = "0000:6a:01.0", "0000:6a:01.1", "0000:6a:02.0"


def function():
    """One of several in a slot, without access control: they share a group."""
    config = ConfigSpace(0x1234, 0x5678, 0x0B4000)
    config.add_pcie(0x40, flags=0x02, devcap=0)
    config.define(r.PCI_HEADER_TYPE, 1, 0x80)
    config.settle()
    return PciFunction(config)


class Native(PciDriver):
    """A driver of the kernel's own, that does DMA."""


class ForUsers(PciDriver):
    """Gives a function to VFIO."""

    driver_managed_dma = True

    def probe(self, dev, /):
        dev.drvdata = toy = Toy(dev, [])
        vfio_register_group_dev(toy)

    def remove(self, dev, /):
        vfio_unregister_group_dev(dev.drvdata)


@pytest.fixture(params=["linux-6.1", "linux-6.12"])
def w(request):
    """Two functions in one group, a third in another; drivers that are bound by name; a client."""
    kernel = boot(Machine("slots"), request.param)
    kernel.up()
    kernel.modules.modprobe("vfio")
    pci = kernel.sub(Pci)
    for address in (A, B, FAR):
        pci.plug(address, function())
    pci.rescan()
    log = []
    driver = add_mappings(kernel, log)
    module = kernel.modules.loaded["vfio"]
    for cls, name in ((Native, "native"), (ForUsers, "for-users"), (PciStubDriver, "stub")):
        cls(kernel, name, module).register()
    proc = kernel.process()

    def bind(address, name):
        if pci.devices[address].driver is not None:
            proc.write_text(f"/sys/bus/pci/devices/{address}/driver/unbind", address)
        proc.write_text(f"/sys/bus/pci/devices/{address}/driver_override", name)
        proc.write_text("/sys/bus/pci/drivers_probe", address)
        return pci.devices[address].drvdata

    yield SimpleNamespace(kernel=kernel, pci=pci, proc=proc, log=log, driver=driver, bind=bind)
    proc.exit()
    assert not kernel.oopses


def status(w, fd):
    b = bytearray(struct.pack("<II", 8, 0))
    w.proc.ioctl(fd, v.VFIO_GROUP_GET_STATUS, b)
    return struct.unpack("<II", b)[1]


def driver_of(w, address):
    drv = w.pci.devices[address].driver
    return None if drv is None else drv.name


def test_functions_of_a_group_share_its_node(w):
    a, b, far = w.bind(A, "for-users"), w.bind(B, "for-users"), w.bind(FAR, "for-users")
    assert a.group is b.group is not far.group
    assert sorted(w.proc.listdir("/sys/class/vfio")) == ["0", "1"]
    assert sorted(w.proc.listdir("/sys/class/vfio-dev")) == ["vfio0", "vfio1", "vfio2"]
    where = f"/sys/bus/pci/devices/{B}/vfio-dev/vfio1"
    # recorded from Linux 6.1.0-56, vfio-pci
    files = {"device", "power", "subsystem", "uevent"}
    assert set(w.proc.listdir(where)) == files | ({"dev"} if w.kernel.profile.name != "linux-6.1" else set())
    w.proc.write_text(f"/sys/bus/pci/devices/{A}/driver/unbind", A)
    assert sorted(w.proc.listdir("/sys/class/vfio")) == ["0", "1"]
    w.proc.write_text(f"/sys/bus/pci/devices/{B}/driver/unbind", B)
    assert w.proc.listdir("/sys/class/vfio") == ["1"]


@pytest.mark.parametrize(
    ("sibling", "viable"), [(None, True), ("stub", True), ("for-users", True), ("native", False)], ids=str
)
def test_a_group_is_viable_unless_a_native_driver_has_a_sibling(w, sibling, viable):
    """pci-stub and drivers of users do no DMA of their own (driver_managed_dma)."""
    toy = w.bind(A, "for-users")
    if sibling is not None:
        w.bind(B, sibling)
    c, g = w.proc.open("/dev/vfio/vfio", 2), open_group(w.proc, toy)
    assert status(w, g) == (VIABLE if viable else 0)
    assert errno_of(set_container, w.proc, g, c) == (0 if viable else EPERM)
    assert status(w, g) == (VIABLE | SET if viable else 0)


def test_a_native_driver_stays_out_while_a_user_has_the_group(w):
    """Its probe is refused from SET_CONTAINER on; a stub's is not."""
    toy = w.bind(A, "for-users")
    c, g = w.proc.open("/dev/vfio/vfio", 2), open_group(w.proc, toy)
    w.bind(B, "native")
    assert driver_of(w, B) == "native"
    w.proc.write_text(f"/sys/bus/pci/devices/{B}/driver/unbind", B)
    set_container(w.proc, g, c)
    assert errno_of(w.bind, B, "native") == EINVAL  # drivers_probe_store() has one error
    assert driver_of(w, B) is None
    w.bind(B, "stub")
    assert driver_of(w, B) == "stub"
    w.proc.write_text(f"/sys/bus/pci/devices/{B}/driver/unbind", B)
    w.proc.ioctl(g, v.VFIO_GROUP_UNSET_CONTAINER)
    w.bind(B, "native")
    assert driver_of(w, B) == "native"


def test_devices_of_a_group_come_by_their_addresses(w):
    a, b = w.bind(A, "for-users"), w.bind(B, "for-users")
    w.bind(FAR, "for-users")
    c, g = w.proc.open("/dev/vfio/vfio", 2), open_group(w.proc, a)
    set_container(w.proc, g, c)
    w.proc.ioctl(c, v.VFIO_SET_IOMMU, EXTENSION)
    fds = [get_device_fd(w.proc, g, A), get_device_fd(w.proc, g, B)]
    assert (a.open_count, b.open_count) == (1, 1)
    assert errno_of(get_device_fd, w.proc, g, FAR) == ENODEV
    w.proc.close(fds[0])
    assert errno_of(w.proc.ioctl, g, v.VFIO_GROUP_UNSET_CONTAINER) == EBUSY
    w.proc.close(fds[1])
    assert errno_of(w.proc.ioctl, g, v.VFIO_GROUP_UNSET_CONTAINER) == 0


def test_groups_of_both_kinds_share_a_container(w):
    """Physical and emulated ones do; only those without protection are apart."""
    toy, emulated = w.bind(A, "for-users"), add_toy(w.kernel)
    c = w.proc.open("/dev/vfio/vfio", 2)
    for device in (toy, emulated):
        set_container(w.proc, open_group(w.proc, device), c)
    assert errno_of(w.proc.ioctl, c, v.VFIO_SET_IOMMU, EXTENSION) == 0


def test_a_group_that_cannot_join_is_not_owned(w):
    toy = w.bind(A, "for-users")
    emulated = add_toy(w.kernel)
    c, g = w.proc.open("/dev/vfio/vfio", 2), open_group(w.proc, toy)
    set_container(w.proc, open_group(w.proc, emulated), c)
    w.proc.ioctl(c, v.VFIO_SET_IOMMU, EXTENSION)
    w.driver.fails = OSError(EBUSY, "Device or resource busy")
    assert errno_of(set_container, w.proc, g, c) == EBUSY
    assert status(w, g) == VIABLE


def test_unbinding_waits_for_the_user(w):
    """The write returns when the descriptor is closed; meanwhile the driver asks for it."""
    toy = w.bind(A, "for-users")
    c, g = w.proc.open("/dev/vfio/vfio", 2), open_group(w.proc, toy)
    set_container(w.proc, g, c)
    w.proc.ioctl(c, v.VFIO_SET_IOMMU, EXTENSION)
    d = get_device_fd(w.proc, g, A)
    toy.on_request = lambda count: w.proc.close(d) if count == 2 else None
    w.proc.write_text(f"/sys/bus/pci/devices/{A}/driver/unbind", A)
    assert [row[1] for row in toy.log if row[0] == "request"] == [0, 1, 2]
    assert driver_of(w, A) is None
    assert w.proc.listdir("/sys/class/vfio") == []


def test_without_an_iommu_there_is_no_group():
    """The probe fails, and says so."""
    kernel = boot(Machine("slots", iommu=IommuSpec(enabled=False, sva=False)))
    kernel.up()
    kernel.modules.modprobe("vfio")
    pci = kernel.sub(Pci)
    pci.plug(A, function())
    pci.rescan()
    ForUsers(kernel, "for-users", kernel.modules.loaded["vfio"]).register()
    proc = kernel.process()
    proc.write_text(f"/sys/bus/pci/devices/{A}/driver_override", "for-users")
    assert errno_of(proc.write_text, "/sys/bus/pci/drivers/for-users/bind", A) == EINVAL
    assert f"for-users: probe of {A} failed with error -22" in kernel.log.human()
