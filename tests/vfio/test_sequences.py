"""The calls of programs that use VFIO, in their order: QEMU by both ways, libvirt, rust-vmm's vfio-ioctls."""

from __future__ import annotations

import os
from errno import EBUSY, ENODEV

import pytest
import vfioclient as client
from errnos import errno_of
from vfioguest import INTX, MSI, Guest

import pykernel
from pykernel.machine import parse
from pykernel.uapi.linux import vfio as v

EDU, EDU2, DSA = "0000:00:04.0", "0000:00:05.0", "0000:6a:01.0"
UUID = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001"
MDEV = f"/sys/bus/mdev/devices/{UUID}"
MACHINE = f"""
[[pci]]
model = "edu"
address = "{EDU}"
[[pci]]
model = "edu"
address = "{EDU2}"
dma_mask = {(1 << 64) - 1}
[[pci]]
model = "dsa"
address = "{DSA}"
[modules]
idxd = ""
vfio_pci = "disable_denylist=1"
mtty = ""
"""
WAYS = (("linux-6.1", client.Container), ("linux-6.12", client.Container), ("linux-6.12", client.Iommufd))
M, G = 1 << 20, 1 << 30
BUFFER = 0x40000
DMA_SRC, DMA_DST, DMA_COUNT, DMA_CMD = 0x80, 0x88, 0x90, 0x98


class Host:
    """A machine whose devices have their own drivers until somebody takes them; libvirtd is root."""

    def __init__(self, profile):
        self.kernel = pykernel.boot(parse(MACHINE), profile)
        self.kernel.up()
        self.libvirt = self.kernel.process(comm="libvirtd")

    def create(self, mdev_type="mtty-2"):
        """nodedev-create: a mediated device, by sysfs (virNodeDeviceCreateMdev(), mdevctl)."""
        types = "/sys/class/mdev_bus/mtty/mdev_supported_types"
        before = int(self.libvirt.read_text(f"{types}/{mdev_type}/available_instances"))
        self.libvirt.write_text(f"{types}/{mdev_type}/create", UUID)
        after = int(self.libvirt.read_text(f"{types}/{mdev_type}/available_instances"))
        assert after == before - 1
        assert os.path.basename(self.libvirt.readlink(f"{MDEV}/mdev_type")) == mdev_type
        return MDEV

    def detach(self, *bdfs):
        for bdf in bdfs:
            client.detach(self.libvirt, bdf)
            assert client.driver_of(self.libvirt, bdf) == "vfio-pci"

    def reattach(self, *bdfs):
        for bdf in bdfs:
            client.reattach(self.libvirt, bdf)

    def shutdown(self):
        """Nothing must be left, nothing have gone wrong."""
        if UUID in self.libvirt.listdir("/sys/bus/mdev/devices"):
            self.libvirt.write_text(f"{MDEV}/remove", "1")
        self.libvirt.exit()
        self.kernel.shutdown()
        assert not self.kernel.oopses


class Hosted(Guest):
    """A guest that knows its host."""

    def __init__(self, space, host):
        super().__init__(space)
        self.host = host


@pytest.fixture(params=["linux-6.1", "linux-6.12"])
def host(request):
    host = Host(request.param)
    yield host
    host.shutdown()


@pytest.fixture(params=WAYS, ids=lambda way: f"{way[0]}-{way[1].__name__}")
def qemu(request):
    """A guest on such a host, by both ways."""
    profile, way = request.param
    host = Host(profile)
    guest = Hosted(way(host.kernel.process(comm="qemu-system-x86")), host)
    yield guest
    guest.proc.exit()
    host.reattach(EDU, EDU2, DSA)
    host.shutdown()


def store(card, at, value):
    card.regions[0].write(at, value.to_bytes(4, "little"))


def dma(card, gpa, size=64, *, to_memory=False):
    """edu's DMA between its buffer and the guest's memory, by 8-byte stores: pwrite() of Linux 6.1 makes two of one."""
    src, dst = (BUFFER, gpa) if to_memory else (gpa, BUFFER)
    for at, value in ((DMA_SRC, src), (DMA_DST, dst)):
        card.proc.store(card.mapped[0][0] + at, value.to_bytes(8, "little"))
    store(card, DMA_COUNT, size)
    store(card, DMA_CMD, 3 if to_memory else 1)


def command(card, value):
    card.config.write(4, value.to_bytes(2, "little"))


# ---- QEMU


@pytest.mark.parametrize("bdf", [EDU, EDU2, DSA])
def test_a_guest_with_a_physical_device(qemu, bdf):
    """Realized, reset as the machine is, and finalized in order."""
    qemu.host.detach(bdf)
    card = qemu.plug(client.sysfs(bdf))
    vendor, device = (int(qemu.proc.read_text(f"{client.sysfs(bdf)}/{name}"), 16) for name in ("vendor", "device"))
    assert card.space[:4] == vendor.to_bytes(2, "little") + device.to_bytes(2, "little")
    assert card.req >= 0
    if card.device.info.flags & v.VFIO_DEVICE_FLAGS_RESET:
        card.reset()
    qemu.quit()


def test_a_guest_with_a_mediated_device(qemu):
    """mtty answers for interrupts only after GET_INFO, has no memory to map and no way to be asked back on 6.12."""
    card = qemu.plug(qemu.host.create())
    assert card.mapped == []
    card.regions[0].write(0, b"x")
    assert card.regions[0].read(0, 1) == b"x"
    card.reset()
    qemu.quit()


@pytest.mark.parametrize("gpa", [0x1000, 2 * M, 4 * G + 0x1000], ids=["low", "below-4g", "above-4g"])
def test_a_device_reaches_each_area_of_memory(qemu, gpa):
    """Guest physical addresses are the IOVAs."""
    qemu.host.detach(EDU2)
    card = qemu.plug(client.sysfs(EDU2))
    command(card, 6)
    text = bytes(range(64))
    qemu.write(gpa, text)
    dma(card, gpa)
    dma(card, gpa + 0x800, to_memory=True)
    qemu.proc.poll([], 1)
    assert qemu.read(gpa + 0x800, 64) == text
    qemu.quit()


@pytest.mark.parametrize("gpa", [0xA0000, 16 * M, 3 * G], ids=["vga", "behind-the-first", "below-4g"])
def test_a_device_does_not_reach_the_hole(qemu, gpa):
    """Its write goes nowhere, and dmesg tells of a fault of the IOMMU."""
    qemu.host.detach(EDU2)
    card = qemu.plug(client.sysfs(EDU2))
    command(card, 6)
    dma(card, gpa, to_memory=True)
    qemu.proc.poll([], 1)
    lines = [rec.text for rec in qemu.host.kernel.log.records]
    assert any("DMA Write" in line and f"{gpa:#x}"[2:] in line for line in lines)
    qemu.quit()


def test_two_devices_in_one_container(qemu):
    """One map for both: what one writes the other reads; the second needs no more than its group."""
    qemu.host.detach(EDU, EDU2)
    one, two = qemu.plug(client.sysfs(EDU)), qemu.plug(client.sysfs(EDU2))
    for card in (one, two):
        command(card, 6)
    qemu.write(0x2000, b"from one to the other".ljust(64))
    dma(one, 0x2000)
    dma(one, 0x3000, to_memory=True)
    qemu.proc.poll([], 1)
    dma(two, 0x3000)
    dma(two, 4 * G, to_memory=True)
    qemu.proc.poll([], 1)
    assert qemu.read(4 * G, 64) == b"from one to the other".ljust(64)
    qemu.unplug(one)
    dma(two, 0x2000, to_memory=True)
    qemu.proc.poll([], 1)
    assert qemu.read(0x2000, 4) == b"from"
    qemu.quit()


def test_a_physical_and_a_mediated_device_in_one_container(qemu):
    """The mediated one comes to a map that is pinned already, or the other way round."""
    qemu.host.detach(EDU)
    for paths in ((client.sysfs(EDU), qemu.host.create()), (MDEV, client.sysfs(EDU))):
        cards = [qemu.plug(path) for path in paths]
        edu = next(card for card in cards if card.mapped)
        command(edu, 6)
        dma(edu, 0x1000, to_memory=True)
        qemu.proc.poll([], 1)
        for card in cards:
            qemu.unplug(card)


def test_interrupts_of_a_guest(qemu):
    """INTx until the guest's driver takes MSI: a line is masked until the guest has seen to it; messages count."""
    qemu.host.detach(EDU)
    card = qemu.plug(client.sysfs(EDU))
    command(card, 6)
    card.enable_intx()
    store(card, 0x60, 1)
    assert card.signals(card.intx) == 1
    store(card, 0x60, 2)  # masked: nothing more
    assert card.signals(card.intx) == 0
    qemu.proc.write(card.resample, (1).to_bytes(8, "little"))  # still asserted
    qemu.proc.poll([], 1)
    assert card.signals(card.intx) == 1
    store(card, 0x64, 3)
    qemu.proc.write(card.resample, (1).to_bytes(8, "little"))
    qemu.proc.poll([], 1)
    assert card.signals(card.intx) == 0
    card.disable_intx()

    assert card.device.irq(MSI).count == 1
    (message,) = card.enable_messages(MSI, 1)
    store(card, 0x60, 1)
    store(card, 0x60, 2)
    assert card.signals(message) == 2
    card.device.disable(MSI)
    store(card, 0x64, 3)
    card.enable_intx()
    store(card, 0x60, 1)
    assert card.signals(card.intx) == 1
    assert card.device.irq(INTX).count == 1
    qemu.quit()


def test_a_device_is_wanted_back_while_the_guest_runs(qemu):
    """Unbinding asks by the request eventfd and waits; the guest lets go, the write returns, the driver is free."""
    host = qemu.host
    host.detach(EDU, EDU2)
    wanted, stays = qemu.plug(client.sysfs(EDU)), qemu.plug(client.sysfs(EDU2))
    command(stays, 6)
    order = []

    def unbind():
        host.libvirt.write_text(f"{client.sysfs(EDU)}/driver/unbind", EDU)
        order.append("unbound")

    def run():
        while wanted in qemu.devices:
            qemu.wait()
        order.append("unplugged")

    host.kernel.gather(unbind, run)
    assert order == ["unplugged", "unbound"]
    assert client.driver_of(host.libvirt, EDU) is None
    dma(stays, 0x1000, to_memory=True)
    qemu.proc.poll([], 1)
    qemu.quit()


def test_a_deaf_guest_keeps_its_device_until_it_ends(qemu):
    """Asked again every ten seconds; the process's end gives the device."""
    host = qemu.host
    host.detach(EDU)
    card = qemu.plug(client.sysfs(EDU))
    unbinding = host.kernel.spawn(lambda: host.libvirt.write_text(f"{client.sysfs(EDU)}/driver/unbind", EDU))
    qemu.proc.poll([], 35_000)
    assert not unbinding.done
    assert card.signals(card.req) == 4
    qemu.proc.exit()
    unbinding.join()
    assert client.driver_of(host.libvirt, EDU) is None


def test_a_mediated_device_is_removed_while_the_guest_runs(qemu):
    """The write to remove waits for the guest. With the last device of a container's groups its IOMMU goes."""
    host = qemu.host
    card = qemu.plug(host.create())
    removing = host.kernel.spawn(lambda: host.libvirt.write_text(f"{MDEV}/remove", "1"))
    qemu.proc.poll([], 1000)
    assert not removing.done
    qemu.unplug(card)
    removing.join()
    assert UUID not in host.libvirt.listdir("/sys/bus/mdev/devices")


def test_a_second_guest_does_not_get_a_device_that_is_in_use(qemu):
    """Its group is busy; by the other way the group's, or the node's DMA is."""
    qemu.host.detach(EDU)
    qemu.plug(client.sysfs(EDU))
    other = type(qemu.space)(qemu.host.kernel.process(comm="qemu-system-x86"))
    code = EBUSY if isinstance(other, client.Container) else 22
    assert errno_of(other.device, client.sysfs(EDU)) == code
    other.proc.exit()
    qemu.quit()


# ---- libvirt


def test_managed_detach_and_reattach(host):
    """driver_override: the native driver loses the device, has it again afterwards, and works."""
    proc = host.libvirt
    assert client.driver_of(proc, DSA) == "idxd"
    for _ in range(3):
        host.detach(DSA)
        group = os.path.basename(proc.readlink(f"{client.sysfs(DSA)}/iommu_group"))
        assert group in proc.listdir("/dev/vfio")
        host.reattach(DSA)
        assert client.driver_of(proc, DSA) == "idxd"
        assert group not in proc.listdir("/dev/vfio")
        assert proc.read_text(f"{client.sysfs(DSA)}/driver_override") == "(null)\n"


def test_detach_by_new_id(host):
    """virPCIDeviceBindToStubWithNewid() of older libvirts: what has these IDs is vfio-pci's while they are there."""
    proc, driver = host.libvirt, "/sys/bus/pci/drivers/vfio-pci"
    proc.write_text(f"{driver}/new_id", "1234 11e8")
    assert [client.driver_of(proc, bdf) for bdf in (EDU, EDU2)] == ["vfio-pci", "vfio-pci"]
    proc.write_text(f"{driver}/remove_id", "1234 11e8")
    assert errno_of(proc.write_text, f"{driver}/remove_id", "1234 11e8") == ENODEV
    for bdf in (EDU, EDU2):
        proc.write_text(f"{client.sysfs(bdf)}/driver/unbind", bdf)
        proc.write_text("/sys/bus/pci/drivers_probe", bdf)
        assert client.driver_of(proc, bdf) is None
        assert errno_of(proc.write_text, f"{driver}/bind", bdf) == ENODEV


def test_bind_and_unbind_by_name(host):
    """With driver_override set, the driver's own files do as well."""
    proc, driver = host.libvirt, "/sys/bus/pci/drivers/vfio-pci"
    proc.write_text(f"{client.sysfs(EDU)}/driver_override", "vfio-pci")
    proc.write_text(f"{driver}/bind", EDU)
    assert client.driver_of(proc, EDU) == "vfio-pci"
    assert errno_of(proc.write_text, f"{driver}/bind", EDU) == EBUSY
    proc.write_text(f"{driver}/unbind", EDU)
    assert client.driver_of(proc, EDU) is None
    assert errno_of(proc.write_text, f"{driver}/unbind", EDU) == ENODEV
    proc.write_text(f"{client.sysfs(EDU)}/driver_override", "\n")


def test_a_mediated_device_by_sysfs(host):
    """nodedev-create, nodedev-destroy: its group, its type, its parent, and then nothing of it."""
    proc = host.libvirt
    path = host.create("mtty-1")
    group = os.path.basename(proc.readlink(f"{path}/iommu_group"))
    assert group in proc.listdir("/dev/vfio")
    assert proc.realpath(path) == f"/sys/devices/virtual/mtty/mtty/{UUID}"
    assert proc.read_text(f"{path}/mdev_type/device_api") == "vfio-pci\n"
    proc.write_text(f"{path}/remove", "1")
    assert UUID not in proc.listdir("/sys/bus/mdev/devices")
    assert group not in proc.listdir("/dev/vfio")


# ---- rust-vmm, vfio-ioctls

CODES = {
    "VFIO_GET_API_VERSION": 15204, "VFIO_CHECK_EXTENSION": 15205, "VFIO_SET_IOMMU": 15206,
    "VFIO_GROUP_GET_STATUS": 15207, "VFIO_GROUP_SET_CONTAINER": 15208, "VFIO_GROUP_UNSET_CONTAINER": 15209,
    "VFIO_GROUP_GET_DEVICE_FD": 15210, "VFIO_DEVICE_GET_INFO": 15211, "VFIO_DEVICE_GET_REGION_INFO": 15212,
    "VFIO_DEVICE_GET_IRQ_INFO": 15213, "VFIO_DEVICE_SET_IRQS": 15214, "VFIO_DEVICE_RESET": 15215,
    "VFIO_DEVICE_IOEVENTFD": 15220, "VFIO_IOMMU_DISABLE": 15220, "VFIO_DEVICE_BIND_IOMMUFD": 15222,
    "VFIO_DEVICE_ATTACH_IOMMUFD_PT": 15223, "VFIO_DEVICE_DETACH_IOMMUFD_PT": 15224,
}  # fmt: skip


@pytest.mark.parametrize(("name", "number"), CODES.items())
def test_vfio_ioctl_code(name, number):
    """The numbers of its unit test."""
    assert getattr(v, name).nr == number


def test_rust_vmm_opens_a_device(host):
    """The group is viable and nothing else before it joins; type 1 v2; eight regions and three interrupts at least."""
    host.detach(EDU)
    proc = host.kernel.process(comm="cloud-hypervisor")
    container = proc.open("/dev/vfio/vfio", os.O_RDWR)
    assert proc.ioctl(container, v.VFIO_GET_API_VERSION) == v.VFIO_API_VERSION
    assert proc.ioctl(container, v.VFIO_CHECK_EXTENSION, v.VFIO_TYPE1v2_IOMMU) == 1
    group = proc.open(f"/dev/vfio/{os.path.basename(proc.readlink(client.sysfs(EDU) + '/iommu_group'))}", os.O_RDWR)
    status = v.vfio_group_status(argsz=8)
    proc.ioctl(group, v.VFIO_GROUP_GET_STATUS, status)
    assert status.flags == v.VFIO_GROUP_FLAGS_VIABLE
    proc.ioctl(group, v.VFIO_GROUP_SET_CONTAINER, bytearray(container.to_bytes(4, "little")))
    proc.ioctl(container, v.VFIO_SET_IOMMU, v.VFIO_TYPE1v2_IOMMU)
    fd = proc.ioctl(group, v.VFIO_GROUP_GET_DEVICE_FD, bytearray(EDU.encode() + b"\0"))
    device = client.Device(proc, fd)

    assert device.info.num_regions >= v.VFIO_PCI_CONFIG_REGION_INDEX + 1
    assert device.info.num_irqs >= v.VFIO_PCI_MSIX_IRQ_INDEX + 1
    irqs = [errno_of(device.irq, index) for index in range(device.info.num_irqs)]
    assert irqs == [0, 0, 0, 22, 0]  # ERR: it is not PCI Express; left out
    regions = [errno_of(device.region, index) for index in range(device.info.num_regions)]
    assert regions == [0] * 8 + [22]  # VGA: left out
    proc.exit()
    host.reattach(EDU)
