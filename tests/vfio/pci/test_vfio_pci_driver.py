"""The driver vfio-pci: modules, binding, power, opening and closing, being asked to go. vfio_pci.c, vfio_pci_core.c."""

from __future__ import annotations

import os
import struct
from errno import EACCES, EBUSY, EEXIST, EFAULT, EINVAL, EIO, ENODEV, ENOENT, ENOSPC, ENOTTY

import pytest
from errnos import errno_of
from vfiocard import FIRST, PM, PORT, SECOND, SLOT, TABLE, Box, Card, rom_image
from vfioclient import Container, Device, Iommufd, detach, driver_of, sysfs

import pykernel
from pykernel.hw.edu import EduFunction
from pykernel.machine import parse
from pykernel.pci.core import Pci
from pykernel.pci.driver import PciDriver, PciId
from pykernel.uapi.linux import pci_regs as r
from pykernel.uapi.linux import vfio as v
from pykernel.vfio.pci.regions import RegionOps

DRIVER = "/sys/bus/pci/drivers/vfio-pci"
UUID = "bd8d9d2b-5a5f-4f5a-a211-f591514ba1f3"
OTHER = "00000000-5a5f-4f5a-a211-f591514ba1f3"
GET, SET, PROBE = 0x10000, 0x20000, 0x40000
LOW_POWER, WITH_WAKEUP, EXIT = 3, 4, 5


# ---- modules and binding


def test_parameters(make_box):
    """Names, modes and values as recorded of 6.1 and 6.12; ids has no file."""
    box = make_box(opened=False)
    at = "/sys/module/vfio_pci/parameters"
    modes = {n: oct(box.proc.stat(f"{at}/{n}").st_mode & 0o777) for n in sorted(box.proc.listdir(at))}
    assert modes == {
        "disable_denylist": "0o444",
        "disable_idle_d3": "0o644",
        "disable_vga": "0o444",
        "enable_sriov": "0o644",
        "nointxmask": "0o644",
    }
    assert {box.proc.read_text(f"{at}/{n}") for n in modes} == {"N\n"}


def test_files_of_the_driver(make_box):
    box = make_box(opened=False)
    assert sorted(box.proc.listdir(DRIVER)) == sorted(
        [SLOT, "bind", "module", "new_id", "remove_id", "uevent", "unbind"]
    )


@pytest.fixture
def unbound(make_box):
    box = make_box(opened=False)
    box.proc.write_text(f"{box.path}/driver_override", "\n")
    box.proc.write_text(f"{DRIVER}/unbind", SLOT)
    return box


def test_only_driver_override_matches(unbound):
    assert errno_of(unbound.proc.write_text, f"{DRIVER}/bind", SLOT) == ENODEV
    unbound.proc.write_text("/sys/bus/pci/drivers_probe", SLOT)
    assert driver_of(unbound.proc, SLOT) is None


def test_new_id_and_remove_id(unbound):
    proc = unbound.proc
    proc.write_text(f"{DRIVER}/new_id", "1234 ca4d")
    assert driver_of(proc, SLOT) == "vfio-pci"
    assert errno_of(proc.write_text, f"{DRIVER}/new_id", "1234 ca4d") == EEXIST
    assert errno_of(proc.write_text, f"{DRIVER}/new_id", "1234") == EINVAL
    proc.write_text(f"{DRIVER}/remove_id", "1234 ca4d")
    assert errno_of(proc.write_text, f"{DRIVER}/remove_id", "1234 ca4d") == ENODEV
    assert driver_of(proc, SLOT) == "vfio-pci"


def test_ids(profile):
    kernel = pykernel.boot(parse('[[pci]]\nmodel = "edu"\naddress = "0000:6a:01.0"\n'), profile)
    kernel.up()
    kernel.modules.modprobe("vfio_pci", "ids=1234:11e8,zz,8086:1:2:3:4:5")
    assert driver_of(kernel.process(), SLOT) == "vfio-pci"
    assert [rec.text for rec in kernel.log.records if rec.text.startswith("vfio_pci:")] == [
        "vfio_pci: add [1234:11e8[ffffffff:ffffffff]] class 0x000000/00000000",
        'vfio_pci: invalid id string "zz"',
        "vfio_pci: add [8086:0001[0002:0003]] class 0x000004/00000005",
    ]
    kernel.shutdown()


def test_a_bridge_is_refused(make_box):
    card = Card()
    card.config.define(r.PCI_HEADER_TYPE, 1, 1)
    card.config.settle()
    box = make_box(opened=False)
    kernel, pci = box.kernel, box.pdev.pci
    pci.plug("0000:6a:02.0", card)
    pci.rescan()
    proc = kernel.process()
    proc.write_text(f"{sysfs('0000:6a:02.0')}/driver_override", "vfio-pci")
    assert errno_of(proc.write_text, f"{DRIVER}/bind", "0000:6a:02.0") == EINVAL


DSA = '[[pci]]\nmodel = "dsa"\naddress = "0000:6a:01.0"\n[modules]\nvfio_iommu_type1 = ""\n'


def test_denylist(profile):
    """DSA is on it: its errata let a user do harm."""
    kernel = pykernel.boot(parse(DSA), profile)
    kernel.up()
    kernel.modules.modprobe("vfio_pci")
    proc = kernel.process()
    proc.write_text(f"{sysfs(SLOT)}/driver_override", "vfio-pci")
    assert errno_of(proc.write_text, f"{DRIVER}/bind", SLOT) == EINVAL
    assert any(
        "8086:0b25 exists in vfio-pci device denylist, driver probing disallowed." in rec.text
        for rec in kernel.log.records
    )
    kernel.modules.rmmod("vfio_pci")
    kernel.modules.modprobe("vfio_pci", "disable_denylist=1")
    assert driver_of(proc, SLOT) == "vfio-pci"
    kernel.shutdown()


def test_dsa(profile):
    """Large BARs, MSI-X, portals, in the hands of a user."""
    kernel = pykernel.boot(parse(DSA), profile)
    kernel.up()
    kernel.modules.modprobe("vfio_pci", "disable_denylist=1")
    proc = kernel.process()
    detach(proc, SLOT)
    device = Container(proc).device(sysfs(SLOT))
    device.enable_memory()
    registers, portals = device.region(0), device.region(2)
    assert registers.info.size == 0x10000
    at = registers.mmap()
    assert proc.load(at, 8) == registers.read(0, 8)  # VERSION
    assert proc.load(at + 0x90, 4) == bytes(4)  # GENSTS: disabled
    portal = portals.mmap()
    proc.movdir64b(portal, bytes(64))
    assert device.irq(v.VFIO_PCI_MSIX_IRQ_INDEX).count == 9
    fd = proc.eventfd(0, os.O_NONBLOCK)
    device.signal_by(v.VFIO_PCI_MSIX_IRQ_INDEX, [fd])
    proc.exit()


def test_a_driver_that_is_bound_elsewhere_loses_the_device_by_libvirts_calls(profile):
    """detach() and back."""
    kernel = pykernel.boot(parse('[[pci]]\nmodel = "edu"\naddress = "0000:6a:01.0"\n'), profile)
    kernel.up()

    class Edu(PciDriver):
        id_table = (PciId(0x1234, 0x11E8),)

    Edu(kernel, "edu").register()
    kernel.modules.modprobe("vfio_pci")
    proc = kernel.process()
    assert driver_of(proc, SLOT) == "edu"
    detach(proc, SLOT)
    assert driver_of(proc, SLOT) == "vfio-pci"
    proc.exit()


# ---- power

POWER = ["power_state", "power/control", "power/runtime_status", "power/runtime_usage", "enable"]


def power(box):
    box.kernel.sched.run_ready()
    return [box.attr(name) for name in POWER]


def test_power_over_a_life(make_box):
    """As recorded of Linux 6.1 and 6.12 with e1000e: an idle device sleeps in D3hot."""
    box = make_box(opened=False)
    assert power(box) == ["D3hot", "auto", "suspended", "0", "0"]
    box.open()
    assert power(box) == ["D0", "auto", "active", "1", "1"]
    box.close()
    assert power(box) == ["D3hot", "auto", "suspended", "0", "0"]
    box.proc.write_text(f"{DRIVER}/unbind", SLOT)
    assert power(box) == ["D0", "on", "active", "1", "0"]


def test_a_function_without_power_management_sleeps_in_d0(make_box):
    box = make_box(EduFunction(), opened=False)
    assert power(box) == ["D0", "auto", "suspended", "0", "0"]


def test_disable_idle_d3(make_box):
    box = make_box(None, "disable_idle_d3=1", opened=False)
    assert power(box) == ["D0", "auto", "active", "1", "0"]


def feature(box, index, flags=SET, payload=b"", argsz=None):
    buf = bytearray(struct.pack("<II", 8 + len(payload) if argsz is None else argsz, flags | index) + payload)
    return errno_of(box.proc.ioctl, box.device.fd, v.VFIO_DEVICE_FEATURE, buf)


FEATURES = [
    pytest.param((LOW_POWER, SET | PROBE), 0, id="low power: can be set"),
    pytest.param((LOW_POWER, GET | PROBE), EINVAL, id="low power: cannot be got"),
    pytest.param((LOW_POWER, GET | SET | PROBE), EINVAL, id="low power: not both"),
    pytest.param((LOW_POWER, 0), EINVAL, id="low power: nothing asked"),
    pytest.param((LOW_POWER, PROBE), 0, id="low power: only probed"),
    pytest.param((WITH_WAKEUP, SET), EINVAL, id="with wakeup: no payload"),
    pytest.param((WITH_WAKEUP, SET, struct.pack("<iI", -1, 0)), EINVAL, id="with wakeup: -1"),
    pytest.param((WITH_WAKEUP, SET, struct.pack("<iI", 999, 0)), 9, id="with wakeup: closed"),
    pytest.param((EXIT, SET), 0, id="exit, without entry"),
    pytest.param((0, SET, bytes(16)), ENOTTY, id="token: no physical function"),
    pytest.param((0, SET | PROBE), ENOTTY, id="token: probed"),
    pytest.param((77, SET | PROBE), ENOTTY, id="no such feature"),
]


@pytest.mark.parametrize(("args", "want"), FEATURES)
def test_feature(box, args, want):
    assert feature(box, *args) == want


def test_low_power(box):
    """The device sleeps between calls; each call wakes it; mappings are bus errors till the end."""
    at = box.device.region(2).mmap()
    assert feature(box, LOW_POWER) == 0
    assert feature(box, LOW_POWER) == EINVAL
    assert power(box)[:4] == ["D3hot", "auto", "suspended", "0"]
    assert errno_of(box.proc.load, at, 4) == EFAULT
    assert box.device.region(2).read(0, 4) == bytes(range(4))
    assert power(box)[0] == "D3hot"
    assert feature(box, EXIT) == 0
    assert power(box)[:4] == ["D0", "auto", "active", "1"]
    assert box.proc.load(at, 4) == bytes(range(4))


def test_low_power_with_wakeup(box):
    """The first call that wakes it is told, and ends it."""
    fd = box.proc.eventfd(0, os.O_NONBLOCK)
    assert feature(box, WITH_WAKEUP, SET, struct.pack("<iI", fd, 0)) == 0
    assert power(box)[0] == "D3hot"
    assert box.config(0, 4) == 0xCA4D1234
    assert box.proc.read(fd, 8) == (1).to_bytes(8, "little")
    assert power(box)[:4] == ["D0", "auto", "active", "1"]


def test_intx_is_masked_while_it_sleeps(make_box):
    box = make_box()
    fd = box.proc.eventfd(0, os.O_NONBLOCK)
    box.device.signal_by(v.VFIO_PCI_INTX_IRQ_INDEX, [fd])
    assert feature(box, LOW_POWER) == 0
    assert power(box)[0] == "D3hot"
    assert box.hw(4, 2) & r.PCI_COMMAND_INTX_DISABLE
    assert feature(box, EXIT) == 0
    assert not box.hw(4, 2) & r.PCI_COMMAND_INTX_DISABLE


def test_d3_that_the_user_wrote_is_left_when_the_device_is_closed(box):
    box.set_config(PM + r.PCI_PM_CTRL, 2, 3)
    box.close()
    box.open()
    assert power(box)[0] == "D0"


# ---- opening, closing, resets


def test_opening_resets_and_closing_resets(make_box):
    box = make_box(opened=False)
    before = box.silicon.resets
    box.open()
    assert box.silicon.resets == before + 1
    box.device.region(2).write(0, b"\xaa")
    box.close()
    assert box.silicon.resets == before + 2
    box.open()
    assert box.device.region(2).read(0, 1) == b"\0"


def test_two_descriptors_are_one_device(box):
    name = bytearray(SLOT.encode() + b"\0")
    (group,) = box.container.groups.values()
    second = Device(box.proc, box.proc.ioctl(group, v.VFIO_GROUP_GET_DEVICE_FD, name))
    resets = box.silicon.resets
    box.device.close()
    assert box.silicon.resets == resets
    second.close()
    assert box.silicon.resets == resets + 1


def test_reset(box):
    box.device.region(2).write(0, b"\xaa")
    box.set_config(PM + r.PCI_PM_CTRL, 2, 3)
    box.device.reset()
    assert box.attr("power_state") == "D0"
    assert box.device.region(2).read(0, 1) == b"\0"


@pytest.mark.parametrize("argsz", [0, 11, 12])
def test_hot_reset_of_a_root_bus(box, profile, argsz):
    """Nothing above the bus can reset it; 6.12 looks at the groups before."""
    want = ENODEV if argsz == 12 else EINVAL
    row = struct.pack("<4I", argsz, 0, 0, 0)
    assert errno_of(box.proc.ioctl, box.device.fd, v.VFIO_DEVICE_GET_PCI_HOT_RESET_INFO, bytearray(row)) == want
    row = struct.pack("<4I", argsz, 0, 1, 0)
    assert errno_of(box.proc.ioctl, box.device.fd, v.VFIO_DEVICE_PCI_HOT_RESET, bytearray(row)) == want
    row = struct.pack("<4I", argsz, 0, 0, 0)
    none = want if profile == "linux-6.1" else EINVAL
    assert errno_of(box.proc.ioctl, box.device.fd, v.VFIO_DEVICE_PCI_HOT_RESET, bytearray(row)) == none
    row = struct.pack("<4I", argsz, 1, 1, 0)
    assert errno_of(box.proc.ioctl, box.device.fd, v.VFIO_DEVICE_PCI_HOT_RESET, bytearray(row)) == EINVAL


@pytest.fixture
def bus(profile):
    """Two functions on the bus of a switch: below a root port there is one device only."""
    kernel = pykernel.boot(parse(PORT), profile)
    kernel.up()
    return kernel, kernel.process()


def hot_info(proc, device, argsz=64):
    buf = bytearray(struct.pack("<3I", argsz, 7, 7) + bytes(64))
    code = errno_of(proc.ioctl, device.fd, v.VFIO_DEVICE_GET_PCI_HOT_RESET_INFO, buf)
    _, flags, count = struct.unpack_from("<3I", buf)
    return code, flags, count, [struct.unpack_from("<IHBB", buf, 12 + 8 * i) for i in range(min(count, 2))]


def hot_reset(proc, device, *groups):
    buf = bytearray(struct.pack(f"<3I{len(groups)}i", 12 + 4 * len(groups), 0, len(groups), *groups))
    return errno_of(proc.ioctl, device.fd, v.VFIO_DEVICE_PCI_HOT_RESET, buf)


def test_hot_reset_by_groups(bus, monkeypatch):
    """All that the reset hits must be VFIO's and the caller's."""
    kernel, proc = bus
    detach(proc, FIRST)
    container = Container(proc)
    device = container.device(sysfs(FIRST))
    numbers = [int(os.path.basename(proc.readlink(f"{sysfs(bdf)}/iommu_group"))) for bdf in (FIRST, SECOND)]
    assert hot_info(proc, device) == (0, 0, 2, [(numbers[0], 0, 0x66, 0), (numbers[1], 0, 0x66, 8)])
    assert hot_info(proc, device, 12 + 15)[:3] == (ENOSPC, 0, 2)
    mine = list(container.groups.values())
    assert hot_reset(proc, device, *mine) == EINVAL  # the other one is no device of VFIO
    detach(proc, SECOND)
    other = container.group(str(numbers[1])) if numbers[1] != numbers[0] else mine[0]
    if numbers[0] != numbers[1]:
        assert hot_reset(proc, device, *mine) == EINVAL  # nor the caller's
    assert hot_reset(proc, device, mine[0], other, other) == EINVAL  # more than devices
    assert hot_reset(proc, device, 999) == 9
    assert hot_reset(proc, device, device.fd) == EINVAL
    silicon = [kernel.sub(Pci).slots[bdf].function for bdf in (FIRST, SECOND)]
    bars = [f.config_read(0x10, 4) for f in silicon]
    resets = []
    for function in silicon:
        monkeypatch.setattr(function, "hot_reset", lambda f=function: resets.append(f))
    groups = [mine[0], other] if other != mine[0] else mine
    assert hot_reset(proc, device, *groups) == 0
    assert resets == silicon
    assert [f.config_read(0x10, 4) for f in silicon] == bars
    proc.exit()


def test_hot_reset_of_a_slot(bus, monkeypatch):
    """Where a hotplug driver can reset the slot, only what is in it is hit."""
    kernel, proc = bus
    done = []

    class Slot:
        def reset_slot(self):
            done.append(1)

    kernel.sub(Pci).devices[FIRST].hotplug_slot = Slot()
    detach(proc, FIRST)
    container = Container(proc)
    device = container.device(sysfs(FIRST))
    assert hot_info(proc, device)[2] == 1
    assert hot_reset(proc, device, *container.groups.values()) == 0
    assert done == [1]
    proc.exit()


# ---- asked to go


def test_unbinding_waits_for_the_user(box):
    """The request is signalled at once and every ten seconds; the write returns when the device is closed."""
    fd = box.proc.eventfd(0, os.O_NONBLOCK)
    box.device.signal_by(v.VFIO_PCI_REQ_IRQ_INDEX, [fd])
    thread = box.kernel.sched.spawn(lambda: box.proc.write_text(f"{DRIVER}/unbind", SLOT), client=True)
    box.kernel.sched.run_ready()
    assert box.proc.read(fd, 8) == (1).to_bytes(8, "little")
    assert not thread.done
    box.device.close()
    thread.join()
    assert driver_of(box.proc, SLOT) is None
    assert any(text.endswith("Relaying device request to user (#0)") for text in box.messages())


def test_unbinding_without_a_request_channel_is_told(box):
    thread = box.kernel.sched.spawn(lambda: box.proc.write_text(f"{DRIVER}/unbind", SLOT), client=True)
    box.kernel.sched.run_ready()
    assert box.messages()[-1].endswith("No device request channel registered, blocked until released by user")
    box.device.close()
    thread.join()


# ---- ioeventfds


@pytest.fixture
def eventfd(box):
    return box.proc.eventfd(0, os.O_NONBLOCK)


def ioeventfd(box, offset, data, fd, flags=4, argsz=28):
    row = bytearray(struct.pack("<IIQQiI", argsz, flags, offset, data, fd, 0))
    return errno_of(box.proc.ioctl, box.device.fd, v.VFIO_DEVICE_IOEVENTFD, row)


IOEVENTFD = [
    pytest.param({"argsz": 27}, EINVAL, id="argsz"),
    pytest.param({"flags": 0}, EINVAL, id="no size"),
    pytest.param({"flags": 3}, EINVAL, id="two sizes"),
    pytest.param({"flags": 0x14}, EINVAL, id="unknown flag"),
    pytest.param({"fd": -2}, EINVAL, id="fd below -1"),
    pytest.param({"offset": 6 << 40}, EINVAL, id="ROM"),
    pytest.param({"offset": 7 << 40}, EINVAL, id="CONFIG"),
    pytest.param({"offset": 1 << 40}, EINVAL, id="no BAR"),
    pytest.param({"offset": (2 << 40) + 0xFFD}, EINVAL, id="over the end"),
    pytest.param({"offset": TABLE - 3}, EINVAL, id="into the MSI-X table"),
    pytest.param({"offset": TABLE - 4}, 0, id="up to the MSI-X table"),
    pytest.param({"offset": (2 << 40) + 3}, 0, id="not aligned"),
    pytest.param({"flags": 8}, 0, id="64 bits"),
    pytest.param({"fd": -1}, ENODEV, id="none to take away"),
    pytest.param({"fd": 999}, 9, id="closed"),
    pytest.param({"offset": 4 << 40}, 0, id="ports"),
]


@pytest.mark.parametrize(("change", "want"), IOEVENTFD)
def test_ioeventfd(box, eventfd, change, want):
    args = {"offset": 2 << 40, "data": 0x1234, "fd": eventfd} | change
    assert ioeventfd(box, **args) == want


def test_a_write_to_the_eventfd_is_a_write_to_the_register(box, eventfd):
    assert ioeventfd(box, (2 << 40) + 0x10, 0x1_2345_6789, eventfd) == 0
    assert ioeventfd(box, (2 << 40) + 0x10, 0x1_2345_6789, eventfd) == EEXIST
    box.silicon.log.clear()
    box.proc.write(eventfd, (5).to_bytes(8, "little"))
    assert box.silicon.log == [("w", 2, 0x10, 4)]
    assert box.device.region(2).read(0x10, 4) == (0x23456789).to_bytes(4, "little")
    box.set_config(4, 2, 0)
    box.silicon.log.clear()
    box.proc.write(eventfd, (1).to_bytes(8, "little"))
    assert box.silicon.log == []
    assert ioeventfd(box, (2 << 40) + 0x10, 0x1_2345_6789, -1) == 0
    assert ioeventfd(box, (2 << 40) + 0x10, 0x1_2345_6789, -1) == ENODEV


def test_there_are_a_thousand_ioeventfds(box, eventfd):
    assert {ioeventfd(box, 2 << 40, n, eventfd) for n in range(1000)} == {0}
    assert ioeventfd(box, 2 << 40, 1000, eventfd) == ENOSPC


# ---- virtual functions

VF = "0000:6a:02.0"


@pytest.fixture
def pf(make_box):
    box = make_box(Card(vfs=2), "enable_sriov=1", opened=False)
    box.proc.write_text(f"{box.path}/sriov_numvfs", "2")
    return box


def open_by(box, text):
    """GET_DEVICE_FD of the group of the function that *text* names."""
    bdf = text[:12]
    number = os.path.basename(box.proc.readlink(f"{sysfs(bdf)}/iommu_group"))
    if not hasattr(box, "container"):
        box.container = Container(box.proc)
    group = box.container.group(number)
    return Device(box.proc, box.proc.ioctl(group, v.VFIO_GROUP_GET_DEVICE_FD, bytearray(text.encode() + b"\0")))


def test_sriov_needs_its_parameter(make_box):
    box = make_box(Card(vfs=2), opened=False)
    assert errno_of(box.proc.write_text, f"{box.path}/sriov_numvfs", "1") == ENOENT


def test_virtual_functions_are_captured(pf):
    assert driver_of(pf.proc, VF) == "vfio-pci"
    assert pf.proc.read_text(f"{sysfs(VF)}/driver_override") == "vfio-pci\n"
    assert any(text.endswith(f"Captured SR-IOV VF {VF} driver_override") for text in pf.messages())
    assert power(pf)[0] == "D0"  # the physical function stays awake
    pf.proc.write_text(f"{pf.path}/sriov_numvfs", "0")
    assert driver_of(pf.proc, SLOT) == "vfio-pci"
    assert power(pf)[0] == "D3hot"


def test_a_physical_function_with_virtual_ones_is_refused(make_box):
    box = make_box(Card(vfs=2), opened=False)
    box.proc.write_text(f"{box.path}/driver_override", "\n")
    box.proc.write_text(f"{DRIVER}/unbind", SLOT)
    box.pdev.iov.enable(1)
    box.proc.write_text(f"{box.path}/driver_override", "vfio-pci")
    assert errno_of(box.proc.write_text, f"{DRIVER}/bind", SLOT) == EBUSY
    assert any(text.endswith("Cannot bind to PF with SR-IOV enabled") for text in box.messages())


TOKENS = [
    pytest.param(VF, EACCES, id="VF: none given"),
    pytest.param(f"{VF} vf_token={OTHER}", EACCES, id="VF: another"),
    pytest.param(f"{VF} vf_token={UUID}", 0, id="VF: the one"),
    pytest.param(f"{VF}  vf_token={UUID}  ", 0, id="VF: blanks"),
    pytest.param(f"{VF} vf_token={UUID} vf_token={UUID}", EINVAL, id="VF: twice"),
    pytest.param(f"{VF} vf_token={UUID[:-1]}", EINVAL, id="VF: too short"),
    pytest.param(f"{VF} vf_token={UUID.replace('-', '_')}", EINVAL, id="VF: no UUID"),
    pytest.param(f"{VF} token={UUID}", EINVAL, id="VF: unknown word"),
    pytest.param(f"{VF}x", ENODEV, id="another name"),
]


@pytest.mark.parametrize(("text", "want"), TOKENS)
def test_token_of_a_virtual_function(pf, text, want):
    """The physical function's first user says it."""
    open_by(pf, f"{SLOT} vf_token={UUID}")
    assert errno_of(open_by, pf, text) == want


def test_token_of_a_physical_function(pf):
    """Free to say while no virtual function is open, then to be known; a feature changes it."""
    device = open_by(pf, f"{SLOT} vf_token={UUID}")
    vf = open_by(pf, f"{VF} vf_token={UUID}")
    assert errno_of(open_by, pf, SLOT) == EACCES
    assert errno_of(open_by, pf, f"{SLOT} vf_token={OTHER}") == EACCES
    device.feature(SET | 0, bytes.fromhex(OTHER.replace("-", "")))
    assert errno_of(open_by, pf, f"{SLOT} vf_token={UUID}") == EACCES
    assert errno_of(open_by, pf, f"{SLOT} vf_token={OTHER}") == 0
    vf.close()
    assert errno_of(open_by, pf, SLOT) == 0


def test_token_where_there_is_no_sriov(make_box):
    assert errno_of(open_by, make_box(opened=False), f"{SLOT} vf_token={UUID}") == EINVAL


def test_a_virtual_function_is_a_device(pf):
    """Its identity is emulated, it has no pin, its memory always decodes, it is reset by itself."""
    open_by(pf, f"{SLOT} vf_token={UUID}")
    vf = open_by(pf, f"{VF} vf_token={UUID}")
    config = vf.config()
    assert config.read(0, 4) == struct.pack("<HH", 0x1234, 0xCA4E)
    assert config.read(0x3D, 1) == b"\0"
    assert config.read(4, 2) == b"\2\0"
    config.write(4, b"\0\0")
    assert vf.region(0).read(0, 1) == b"\xf0"
    config.write(0x10, b"\xff" * 8)
    assert config.read(0x10, 8) == struct.pack("<Q", (1 << 64) - 0x1000 | 0xC)
    vf.reset()


def test_virtual_functions_keep_the_physical_one_awake(pf):
    open_by(pf, f"{SLOT} vf_token={UUID}")
    number = (7 << 40) + PM + r.PCI_PM_CTRL
    fd = open_by(pf, f"{SLOT} vf_token={UUID}").fd
    pf.proc.pwrite(fd, b"\3\0", number)
    assert pf.attr("power_state") == "D0"


# ---- regions of a driver's own


class Mailbox(RegionOps):
    def __init__(self):
        self.data, self.released = bytearray(16), False

    def read(self, vdev, region, pos, count):
        return bytes(self.data[pos : pos + count])

    def write(self, vdev, region, pos, data):
        self.data[pos : pos + len(data)] = data
        return len(data)

    def release(self, vdev, region):
        self.released = True


def test_a_region_of_a_drivers_own(box):
    ops = Mailbox()
    box.pdev.drvdata.register_dev_region(v.VFIO_REGION_TYPE_PCI_VENDOR_TYPE | 0x1234, 7, ops, 16, 3)
    device = Device(box.proc, box.device.fd)
    assert device.info.num_regions == 10
    region = device.region(9)
    assert (region.info.size, region.info.flags) == (16, 3 | v.VFIO_REGION_INFO_FLAG_CAPS)
    assert region.caps == {v.VFIO_REGION_INFO_CAP_TYPE: struct.pack("<II", 0x80001234, 7)}
    region.write(4, b"mail")
    assert region.read(0, 16) == bytes(4) + b"mail" + bytes(8)
    assert errno_of(region.mmap) == EINVAL
    box.close()
    assert ops.released


# ---- AtomicOps


def test_atomic_ops_are_told(make_box, profile):
    """6.12 tells; below a port that completes them, or when firmware let the function request them."""
    card = Card()
    at = card.config.caps[r.PCI_CAP_ID_EXP]
    card.config.define(at + r.PCI_EXP_DEVCAP2, 4, r.PCI_EXP_DEVCAP2_ATOMIC_COMP32 | r.PCI_EXP_DEVCAP2_ATOMIC_COMP64)
    card.config.put(at + r.PCI_EXP_DEVCTL2, 2, r.PCI_EXP_DEVCTL2_ATOMIC_REQ)
    card.config.settle()
    box: Box = make_box(card)
    buf = bytearray(struct.pack("<6I", 40, 0, 0, 0, 0, 0) + bytes(16))
    box.proc.ioctl(box.device.fd, v.VFIO_DEVICE_GET_INFO, buf)
    argsz, flags, _, _, offset, _ = struct.unpack_from("<6I", buf)
    if profile == "linux-6.1":
        assert (argsz, flags, offset) == (40, 3, 0)
        return
    assert (argsz, flags, offset) == (40, 3 | v.VFIO_DEVICE_FLAGS_CAPS, 24)
    assert struct.unpack_from("<HHIII", buf, 24) == (v.VFIO_DEVICE_INFO_CAP_PCI_ATOMIC_COMP, 1, 0, 3, 0)


# ---- by the device's own node


@pytest.fixture
def nodes():
    """Two functions on a bus below a port, which vfio-pci has, of a kernel with IOMMUFD."""
    kernel = pykernel.boot(parse(PORT), "linux-6.12")
    kernel.up()
    proc = kernel.process()
    detach(proc, FIRST)
    detach(proc, SECOND)
    return kernel, proc


def test_hot_reset_by_nodes(nodes):
    """No groups are given: all that is hit must be of the caller's IOMMUFD; the info has IDs."""
    _kernel, proc = nodes
    iommufd = Iommufd(proc)
    device = iommufd.device(sysfs(FIRST))
    first = iommufd.devid
    owned = v.VFIO_PCI_HOT_RESET_FLAG_DEV_ID | v.VFIO_PCI_HOT_RESET_FLAG_DEV_ID_OWNED
    code, flags, count, entries = hot_info(proc, device)
    assert (code, count) == (0, 2)
    other = entries[1][0]
    assert entries[0] == (first, 0, 0x66, 0)
    assert (flags, other) in (
        (owned, v.VFIO_PCI_DEVID_OWNED),  # one group
        (v.VFIO_PCI_HOT_RESET_FLAG_DEV_ID, v.VFIO_PCI_DEVID_NOT_OWNED & 0xFFFFFFFF),
    )
    assert hot_reset(proc, device, 5) == EINVAL  # groups are for the other way
    second = iommufd.device(sysfs(SECOND))
    assert hot_info(proc, device)[1] == owned
    assert hot_info(proc, device)[3][1][0] == iommufd.devid
    assert hot_reset(proc, device) == 0
    assert second.config().read(0, 2) == b"\x34\x12"
    proc.exit()


# ---- files of PCI that came with it


def test_rom_in_sysfs(make_box):
    """Enabled by a write; as long as its images; asleep, the function answers nothing."""
    box = make_box(opened=False)
    box.kernel.sched.run_ready()
    fd = box.proc.open(f"{box.path}/rom", os.O_RDWR)
    assert errno_of(box.proc.read, fd, 4) == EINVAL
    assert errno_of(box.proc.pwrite, fd, b"x", 0) == EINVAL
    box.proc.pwrite(fd, b"1", 0)
    assert errno_of(box.proc.pread, fd, 4, 0) == EIO
    box.proc.write_text(f"{DRIVER}/unbind", SLOT)
    assert box.proc.pread(fd, 4096, 0) == rom_image()
    assert box.proc.stat(f"{box.path}/rom").st_size == 0x10000


def test_ports_in_sysfs(make_box):
    """Read and written 1, 2 or 4 at a time; memory is mapped only."""
    box = make_box(opened=False)
    box.proc.write_text(f"{DRIVER}/unbind", SLOT)
    box.proc.write_text(f"{box.path}/enable", "1")
    ports = box.proc.open(f"{box.path}/resource4", os.O_RDWR)
    assert box.proc.pread(ports, 2, 4) == b"\4\5"
    assert box.proc.pwrite(ports, b"\xaa", 4) == 1
    assert box.proc.pread(ports, 1, 4) == b"\xaa"
    assert errno_of(box.proc.pread, ports, 3, 0) == EINVAL
    memory = box.proc.open(f"{box.path}/resource2", os.O_RDWR)
    assert errno_of(box.proc.pread, memory, 4, 0) == EIO
    box.proc.write_text(f"{box.path}/enable", "0")


# ---- without an IOMMU

BARE = "[iommu]\nenabled = false\nsva = false\n"


@pytest.fixture
def bare(profile):
    """A card in a machine without an IOMMU."""

    def make(args=""):
        kernel = pykernel.boot(parse(BARE), profile, config=["VFIO_NOIOMMU"])
        kernel.up()
        pci = kernel.sub(Pci)
        pci.plug(SLOT, Card())
        pci.rescan()
        kernel.modules.modprobe("vfio", args)
        kernel.modules.modprobe("vfio_pci")
        kernel.process().write_text(f"{sysfs(SLOT)}/driver_override", "vfio-pci")
        return kernel, kernel.process()

    return make


def test_no_group_no_device(bare):
    _kernel, proc = bare()
    assert errno_of(proc.write_text, f"{DRIVER}/bind", SLOT) == EINVAL
    assert proc.read_text(f"{sysfs(SLOT)}/power/control") == "on\n"


def test_fewer_vectors_than_wanted_is_told_as_a_number(bare):
    """Without interrupt remapping there is one vector of MSI: that is the result, and none is on."""
    kernel, proc = bare("enable_unsafe_noiommu_mode=1")
    proc.write_text(f"{DRIVER}/bind", SLOT)
    container, group = proc.open("/dev/vfio/vfio", os.O_RDWR), proc.open("/dev/vfio/noiommu-0", os.O_RDWR)
    proc.ioctl(group, v.VFIO_GROUP_SET_CONTAINER, bytearray(container.to_bytes(4, "little")))
    proc.ioctl(container, v.VFIO_SET_IOMMU, v.VFIO_NOIOMMU_IOMMU)
    device = Device(proc, proc.ioctl(group, v.VFIO_GROUP_GET_DEVICE_FD, bytearray(SLOT.encode() + b"\0")))
    fds = [proc.eventfd(0, 0) for _ in range(4)]
    assert device.irq(v.VFIO_PCI_MSI_IRQ_INDEX).count == 4
    assert device.signal_by(v.VFIO_PCI_MSI_IRQ_INDEX, fds) == 1
    assert errno_of(device.disable, v.VFIO_PCI_MSI_IRQ_INDEX) == EINVAL
    assert device.signal_by(v.VFIO_PCI_MSI_IRQ_INDEX, fds[:1]) == 0
    proc.exit()
    kernel.shutdown()


def test_resetting_a_physical_function_keeps_its_virtual_ones(pf):
    """Their number, their BARs and their being on are written back."""
    at = pf.pdev.iov.pos
    before = [
        pf.hw(at + off, 4) for off in (r.PCI_SRIOV_CTRL, r.PCI_SRIOV_NUM_VF, r.PCI_SRIOV_BAR, r.PCI_SRIOV_BAR + 4)
    ]
    open_by(pf, f"{SLOT} vf_token={UUID}").reset()
    assert [
        pf.hw(at + off, 4) for off in (r.PCI_SRIOV_CTRL, r.PCI_SRIOV_NUM_VF, r.PCI_SRIOV_BAR, r.PCI_SRIOV_BAR + 4)
    ] == before


@pytest.mark.parametrize("name", ["remove", "driver/unbind"])
def test_who_takes_away_a_card_that_he_has_open_hangs_and_keeps_it(make_box, name):
    """Linux would wait for ever. The write fails, and all is as before; when the card is closed it can go."""
    box = make_box()
    text = {"remove": "1", "driver/unbind": SLOT}[name]
    before = sorted(box.proc.listdir(box.path))
    rows = box.proc.read_text("/proc/bus/pci/devices")
    for _ in range(2):
        assert errno_of(box.proc.write_text, f"{box.path}/{name}", text) == EIO
        assert sorted(box.proc.listdir(box.path)) == before
        assert box.proc.read_text("/proc/bus/pci/devices") == rows
        assert driver_of(box.proc, SLOT) == "vfio-pci"
        assert box.config(r.PCI_VENDOR_ID, 2) == box.hw(r.PCI_VENDOR_ID, 2)
    assert all("is open: hung task" in str(e) for e in box.kernel.oopses)
    box.kernel.oopses.clear()
    box.close()
    box.proc.write_text(f"{box.path}/{name}", text)
    assert SLOT not in box.proc.listdir(DRIVER)
