"""
vfio-pci: a row for each rule of vfio_pci_core.c and vfio_pci.c on argsz, resets and binding; and rare interrupts.

Regions, interrupts, configuration space and ioeventfds have their rows in the other files beside this one.
"""

from __future__ import annotations

import mmap
import os
import struct
from errno import EAGAIN, EBADF, EBUSY, EEXIST, EFAULT, EINVAL, ENODEV, ENOSPC, ENOTTY
from typing import Any

import pytest
from errnos import errno_of
from vfiocard import FIRST, PORT, SECOND, SLOT, Card
from vfioclient import Container, Device, Iommufd, detach, driver_of, sysfs

import pykernel
from pykernel.hw.edu import EduFunction
from pykernel.machine import parse
from pykernel.pci.core import Pci
from pykernel.uapi.linux import pci_regs as r
from pykernel.uapi.linux import vfio as v
from pykernel.vfio.pci.regions import RegionOps

DRIVER = "/sys/bus/pci/drivers/vfio-pci"
INTX, MSI, MSIX, ERR, REQ = range(5)
NONE, BOOL, EVENTFD, MASK, UNMASK, TRIGGER = 1, 2, 4, 8, 16, 32


def result(proc, fd: int, cmd: int, arg: Any) -> int:
    """What an ioctl returns, or minus its errno."""
    try:
        return int(proc.ioctl(fd, cmd, arg))
    except OSError as e:
        return -(e.errno or 0)


# ---- sizes

# number, the least argsz, what comes behind argsz, the answer to it
SIZES = {
    "GET_INFO": (0x3B6B, 16, b"", 0),
    "GET_REGION_INFO": (0x3B6C, 32, struct.pack("<II", 0, 7), 0),
    "GET_IRQ_INFO": (0x3B6D, 16, struct.pack("<II", 0, INTX), 0),
    "SET_IRQS": (0x3B6E, 20, struct.pack("<4I", NONE | TRIGGER, MSIX, 0, 1), -EINVAL),  # it is off
    "GET_PCI_HOT_RESET_INFO": (0x3B70, 12, b"", -ENODEV),
    "PCI_HOT_RESET": (0x3B71, 12, struct.pack("<2I", 0, 1), -ENODEV),
    "QUERY_GFX_PLANE": (0x3B72, 60, b"", -ENOTTY),
    "IOEVENTFD": (0x3B74, 28, struct.pack("<IQQi", 4, 2 << 40, 0, -1), -ENODEV),
    "FEATURE": (0x3B75, 8, struct.pack("<I", 3 | v.VFIO_DEVICE_FEATURE_PROBE), 0),
}
ARGSZ = {"nothing": None, "0": 0, "too small": -1, "least": 0, "larger": 64}


@pytest.mark.parametrize("size", ARGSZ)
@pytest.mark.parametrize("call", SIZES)
def test_argsz(box, call, size):
    """First that it can be read, then argsz; what is larger than what the kernel knows is as good."""
    cmd, least, rest, answer = SIZES[call]
    argsz = 0 if size == "0" else least + (ARGSZ[size] or 0)
    arg = 8 if size == "nothing" else bytearray(argsz.to_bytes(4, "little") + rest + bytes(128))
    wanted = {"nothing": -EFAULT, "0": -EINVAL, "too small": -EINVAL}.get(size, answer)
    if answer == -ENOTTY:
        wanted = -ENOTTY
    assert result(box.proc, box.device.fd, cmd, arg) == wanted


# ---- VFIO_DEVICE_RESET


@pytest.mark.parametrize(
    ("silicon", "held", "wanted"),
    [({}, False, 0), ({"flr": False}, False, EINVAL), ({}, True, EAGAIN)],
    ids=["it can be reset", "it cannot", "the device's lock is held"],
)
def test_reset(make_box, silicon, held, wanted):
    box = make_box(Card(**silicon))
    if held:
        box.pdev.mutex.lock()
    assert errno_of(box.device.reset) == wanted
    if held:
        box.pdev.mutex.unlock()


# ---- hot reset


class Bus:
    """Two functions below the upstream port of a switch; the first is open, by its group or by its node."""

    def __init__(self, profile: str, way: str = "group") -> None:
        self.old = profile == "linux-6.1"
        self.kernel = pykernel.boot(parse(PORT), profile)
        self.kernel.up()
        self.proc = self.kernel.process()
        detach(self.proc, FIRST)
        self.container: Any = Container(self.proc) if way == "group" else Iommufd(self.proc)
        self.device = self.container.device(sysfs(FIRST))
        self.first = next(iter(self.container.groups.values())) if way == "group" else -1

    def second(self) -> int:
        """The group of the other function, which VFIO gets."""
        detach(self.proc, SECOND)
        number = os.path.basename(self.proc.readlink(f"{sysfs(SECOND)}/iommu_group"))
        return int(self.container.group(number))

    def info(self, argsz: int) -> tuple[int, int]:
        """The answer, and the count that came back."""
        buf = bytearray(struct.pack("<3I", argsz, 7, 7) + bytes(32))
        return result(self.proc, self.device.fd, 0x3B70, buf), struct.unpack_from("<I", buf, 8)[0]

    def reset(self, *fds: int, argsz: int = 64, flags: int = 0, count: int | None = None) -> int:
        head = struct.pack("<3I", argsz, flags, len(fds) if count is None else count)
        return result(self.proc, self.device.fd, 0x3B71, bytearray(head + struct.pack(f"<{len(fds)}i", *fds)))


def _held(bus: Bus) -> int:
    both = bus.first, bus.second()
    other = bus.kernel.sub(Pci).devices[SECOND]
    other.mutex.lock()
    answer = bus.reset(*both)
    other.mutex.unlock()
    return answer


HOT: dict[str, tuple[Any, Any]] = {
    "info: argsz": (lambda b: b.info(11), (-EINVAL, 7)),
    "info: no room": (lambda b: b.info(12), (-ENOSPC, 2)),
    "info: room for one": (lambda b: b.info(20), (-ENOSPC, 2)),
    "info: room": (lambda b: b.info(28), (0, 2)),
    "argsz": (lambda b: b.reset(b.first, argsz=11), -EINVAL),
    "flags": (lambda b: b.reset(b.first, flags=1), -EINVAL),
    "no groups": (lambda b: b.reset(), -EINVAL),
    "more than there are devices": (lambda b: b.reset(b.first, b.first, b.first), -EINVAL),
    "unreadable": (lambda b: b.reset(count=2), -EFAULT),
    "a descriptor that is closed": (lambda b: b.reset(999), -EBADF),
    "a descriptor of no group": (lambda b: b.reset(b.device.fd), -EINVAL),
    "a device that is no device of VFIO": (lambda b: b.reset(b.first), -EINVAL),
    "a device of a group that is not given": (lambda b: (b.second(), b.reset(b.first))[1], -EINVAL),
    "the lock of a device is held": (_held, -EAGAIN),
    "all of them": (lambda b: b.reset(b.first, b.second()), 0),
}


@pytest.mark.parametrize("row", HOT)
def test_hot_reset(profile, row, monkeypatch):
    """vfio_pci_ioctl_get_pci_hot_reset_info(), vfio_pci_ioctl_pci_hot_reset()."""
    ask, wanted = HOT[row]
    bus = Bus(profile)
    if row == "unreadable":  # the descriptors lie behind the end of what is mapped
        page = bus.proc.mmap(0, 4096, 3, 0x22)
        bus.proc.mem.write(page + 4084, struct.pack("<3I", 20, 0, 2))
        assert result(bus.proc, bus.device.fd, 0x3B71, page + 4084) == wanted
    else:
        assert ask(bus) == wanted
    bus.proc.exit()


def test_hot_reset_of_a_device_in_no_group(profile):
    """vfio_pci_fill_devs(): EPERM; as the group is what protects others."""
    bus = Bus(profile)
    other: Any = bus.kernel.sub(Pci).devices[SECOND]
    group, other.iommu_group = other.iommu_group, None
    assert bus.info(28)[0] == -1
    other.iommu_group = group
    bus.proc.exit()


NODE: dict[str, tuple[Any, Any]] = {
    "groups are for the other way": (lambda b: b.reset(5), -EINVAL),
    "a device that is no device of VFIO": (lambda b: b.reset(), -EINVAL),
    "a device that nobody bound": (lambda b: (detach(b.proc, SECOND), b.reset())[1], -EINVAL),
    "a device that another bound": (
        lambda b: (detach(b.proc, SECOND), Iommufd(b.proc).device(sysfs(SECOND)), b.reset())[2], -EINVAL,
    ),
    "all of them": (lambda b: (detach(b.proc, SECOND), b.container.device(sysfs(SECOND)), b.reset())[2], 0),
}  # fmt: skip


@pytest.mark.parametrize("row", NODE)
def test_hot_reset_by_nodes(row):
    """By the IOMMUFD that the devices are bound to; functions below this port have groups of their own."""
    ask, wanted = NODE[row]
    bus = Bus("linux-6.12", "node")
    groups = {os.path.basename(bus.proc.readlink(f"{sysfs(bdf)}/iommu_group")) for bdf in (FIRST, SECOND)}
    if len(groups) == 1 and row == "a device that nobody bound":
        wanted = 0
    assert ask(bus) == wanted
    bus.proc.exit()


# ---- who is bound


def _unbound(make_box: Any, silicon: Any = None, args: str = "") -> Any:
    box = make_box(silicon, args, opened=False)
    box.proc.write_text(f"{box.path}/driver_override", "\n")
    box.proc.write_text(f"{DRIVER}/unbind", SLOT)
    return box


def _bind(box: Any, override: str = "") -> int | None:
    if override:
        box.proc.write_text(f"{box.path}/driver_override", override)
    return errno_of(box.proc.write_text, f"{DRIVER}/bind", SLOT)


def _new_id(box: Any, text: str) -> int | None:
    failed = errno_of(box.proc.write_text, f"{DRIVER}/new_id", text)
    return failed if failed or driver_of(box.proc, SLOT) == "vfio-pci" else ENODEV


def _twice(box: Any) -> int | None:
    _new_id(box, "1234 ca4d")
    return _new_id(box, "1234 ca4d")


def _again(box: Any) -> int | None:
    _bind(box, "vfio-pci")
    return _bind(box)


def _bridge(box: Any, ask: Any = _bind) -> Any:
    box.silicon.config.define(r.PCI_HEADER_TYPE, 1, 1)
    box.silicon.config.settle()
    return ask(box, "vfio-pci")


def _with_functions(box: Any) -> int | None:
    box.pdev.iov.enable(1)
    return _bind(box, "vfio-pci")


BINDS: dict[str, tuple[Any, Any, int]] = {
    "no override": (None, _bind, ENODEV),
    "another's override": (None, lambda b: _bind(b, "edu"), ENODEV),
    "its override": (None, lambda b: _bind(b, "vfio-pci"), 0),
    "bound already": (None, _again, EBUSY),
    "new_id": (None, lambda b: _new_id(b, "1234 ca4d"), 0),
    "new_id of another": (None, lambda b: _new_id(b, "1234 ca4f"), ENODEV),
    "new_id, one number": (None, lambda b: _new_id(b, "1234"), EINVAL),
    "new_id twice": (None, _twice, EEXIST),
    "a bridge": (None, _bridge, EINVAL),
    "a physical function with virtual ones": (lambda: Card(vfs=2), _with_functions, EBUSY),
}


@pytest.mark.parametrize("row", BINDS)
def test_binding(make_box, row):
    """vfio_pci_probe() and who comes so far."""
    silicon, ask, wanted = BINDS[row]
    assert ask(_unbound(make_box, silicon and silicon())) == wanted


PARAMETERS = ["ids", "nointxmask", "disable_vga", "disable_idle_d3", "enable_sriov", "disable_denylist"]


@pytest.mark.parametrize("name", PARAMETERS)
def test_each_parameter_is_taken(make_box, name):
    """What they do is told beside; ids has no file."""
    box = make_box(Card(), f"{name}={'8086:1' if name == 'ids' else '1'}", opened=False)
    files = box.proc.listdir("/sys/module/vfio_pci/parameters")
    if name == "ids":
        assert name not in files
    else:
        assert box.proc.read_text(f"/sys/module/vfio_pci/parameters/{name}") == "Y\n"


# ---- interrupts: rows that take another machine, or two kinds of interrupts


def eventfds(proc, n: int = 1) -> bytes:
    return b"".join(proc.eventfd(0, os.O_NONBLOCK).to_bytes(4, "little") for _ in range(n))


# what is on first, then the call, and its answer
RARE: dict[str, tuple[int | None, tuple[int, int, int, int, int], int]] = {
    "INTx: start": (INTX, (INTX, NONE | TRIGGER, 1, 1, 0), -EINVAL),
    "INTx: two": (INTX, (INTX, NONE | TRIGGER, 0, 2, 0), -EINVAL),
    "INTx: none, by bools": (INTX, (INTX, BOOL | TRIGGER, 0, 0, 0), -EINVAL),
    "INTx: unmask, none": (INTX, (INTX, NONE | UNMASK, 0, 0, 0), -EINVAL),
    "INTx: off while MSI is on": (MSI, (INTX, NONE | TRIGGER, 0, 0, 0), -EINVAL),
    "INTx: loopback while MSI is on": (MSI, (INTX, NONE | TRIGGER, 0, 1, 0), -EINVAL),
    "INTx: mask while MSI is on": (MSI, (INTX, NONE | MASK, 0, 1, 0), -EINVAL),
    "MSI: off while MSI-X is on": (MSIX, (MSI, NONE | TRIGGER, 0, 0, 0), -EINVAL),
    "MSI-X: off while MSI is on": (MSI, (MSIX, NONE | TRIGGER, 0, 0, 0), -EINVAL),
    "MSI-X: on while MSI is": (MSI, (MSIX, EVENTFD | TRIGGER, 0, 1, 1), -EINVAL),
    "MSI: loopback of what nobody has": (MSI, (MSI, NONE | TRIGGER, 0, 1, 0), 0),
    "ERR while MSI is on": (MSI, (ERR, EVENTFD | TRIGGER, 0, 1, 1), 0),
    "REQ while MSI is on": (MSI, (REQ, EVENTFD | TRIGGER, 0, 1, 1), 0),
    "REQ: false": (REQ, (REQ, BOOL | TRIGGER, 0, 1, -1), 0),
    "REQ: two": (REQ, (REQ, NONE | TRIGGER, 0, 2, 0), -EINVAL),
}


@pytest.mark.parametrize("row", RARE)
def test_set_irqs(box, row):
    """One kind is on at a time, of INTx, MSI and MSI-X; ERR and REQ are beside them."""
    first, (index, flags, start, count, data), wanted = RARE[row]
    on = struct.pack("<5I", 24, EVENTFD | TRIGGER, first, 0, 1) + eventfds(box.proc)
    assert result(box.proc, box.device.fd, 0x3B6E, bytearray(on)) == 0
    payload = eventfds(box.proc, data) if data > 0 else bytes(-data)
    arg = struct.pack("<5I", 20 + len(payload), flags, index, start, count) + payload
    assert result(box.proc, box.device.fd, 0x3B6E, bytearray(arg)) == wanted


@pytest.mark.parametrize(("byte", "signals"), [(0, 0), (1, 1)], ids=["false", "true"])
@pytest.mark.parametrize("index", [ERR, REQ], ids=["ERR", "REQ"])
def test_bools_of_err_and_req(box, index, byte, signals):
    fd = box.proc.eventfd(0, os.O_NONBLOCK)
    box.device.signal_by(index, [fd])
    box.device.set_irqs(index, BOOL | TRIGGER, 0, 1, bytes((byte,)))
    assert errno_of(box.proc.read, fd, 8) == (0 if signals else EAGAIN)


@pytest.mark.parametrize(("byte", "masked"), [(0, True), (1, False)], ids=["false", "true"])
def test_unmasking_intx_by_a_bool(make_box, byte, masked):
    box = make_box(EduFunction())
    box.device.signal_by(INTX, [box.proc.eventfd(0, os.O_NONBLOCK)])
    box.device.set_irqs(INTX, NONE | MASK, 0, 1)
    box.device.set_irqs(INTX, BOOL | UNMASK, 0, 1, bytes((byte,)))
    assert bool(box.hw(r.PCI_COMMAND, 2) & r.PCI_COMMAND_INTX_DISABLE) == masked


def test_intx_of_a_pin_that_leads_nowhere(box):
    """vfio_intx_enable(): ENODEV; the pin itself is there, so the count is 1."""
    box.pdev.intx_irq = 0
    assert box.device.irq(INTX).count == 1
    assert errno_of(box.device.signal_by, INTX, [box.proc.eventfd()]) == ENODEV
    assert errno_of(box.device.disable, INTX) == EINVAL


def test_more_vectors_than_the_machine_gives(profile):
    """Without interrupt remapping x86 has one MSI a function: the answer is how many there are, and none is on."""
    text = '[iommu]\nintr_remap = false\n[modules]\nvfio_iommu_type1 = "allow_unsafe_interrupts=1"\nvfio_pci = ""\n'
    kernel = pykernel.boot(parse(text), profile)
    kernel.up()
    pci = kernel.sub(Pci)
    pci.plug(SLOT, Card())
    pci.rescan()
    proc = kernel.process()
    detach(proc, SLOT)
    device = Container(proc).device(sysfs(SLOT))
    fds = [proc.eventfd() for _ in range(4)]
    assert device.signal_by(MSI, fds) == 1
    assert errno_of(device.disable, MSI) == EINVAL
    assert device.signal_by(MSI, fds[:1]) == 0
    proc.exit()


# ---- the files that programs bind with


def _override(box: Any, text: str) -> Any:
    """What driver_override says after it was written, or the errno."""
    failed = errno_of(box.proc.write_text, f"{box.path}/driver_override", text)
    return failed or box.attr("driver_override")


def _write(box: Any, path: str, text: str) -> int | None:
    return errno_of(box.proc.write_text, f"/sys/bus/pci/{path}", text)


def _probe(box: Any, override: str = "") -> tuple[int | None, str | None]:
    """The answer of drivers_probe, and who drives it then."""
    if override:
        box.proc.write_text(f"{box.path}/driver_override", override)
    return _write(box, "drivers_probe", SLOT), driver_of(box.proc, SLOT)


def _removed(box: Any, text: str) -> int | None:
    _new_id(box, "1234 ca4d")
    return _write(box, "drivers/vfio-pci/remove_id", text)


FILES: dict[str, tuple[Any, Any]] = {
    "driver_override: none": (lambda b: b.attr("driver_override"), "(null)"),
    "driver_override": (lambda b: _override(b, "vfio-pci"), "vfio-pci"),
    "driver_override: a newline": (lambda b: _override(b, "vfio-pci\n"), "vfio-pci"),
    "driver_override: cleared": (lambda b: (_override(b, "x"), _override(b, "\n"))[1], "(null)"),
    "driver_override: a page": (lambda b: _override(b, "x" * 4095), EINVAL),
    "unbind: not bound": (lambda b: _write(b, "drivers/vfio-pci/unbind", SLOT), ENODEV),
    "unbind: unknown": (lambda b: _write(b, "drivers/vfio-pci/unbind", "0000:ff:1f.7"), ENODEV),
    "unbind: a newline": (lambda b: (_bind(b, "vfio-pci"), _write(b, "drivers/vfio-pci/unbind", f"{SLOT}\n"))[1], 0),
    "bind: unknown": (lambda b: _write(b, "drivers/vfio-pci/bind", "0000:ff:1f.7"), ENODEV),
    "bind: a newline": (lambda b: (_override(b, "vfio-pci"), _write(b, "drivers/vfio-pci/bind", f"{SLOT}\n"))[1], 0),
    "drivers_probe: unknown": (lambda b: _write(b, "drivers_probe", "0000:ff:1f.7"), ENODEV),
    "drivers_probe: nobody wants it": (_probe, (0, None)),
    "drivers_probe": (lambda b: _probe(b, "vfio-pci"), (0, "vfio-pci")),
    "drivers_probe: bound": (lambda b: (_bind(b, "vfio-pci"), _probe(b))[1], (0, "vfio-pci")),
    "drivers_probe: it fails": (lambda b: _bridge(b, _probe), (0, None)),
    "remove_id": (lambda b: _removed(b, "1234 ca4d"), 0),
    "remove_id: none such": (lambda b: _removed(b, "1234 ca4e"), ENODEV),
    "remove_id: one number": (lambda b: _removed(b, "1234"), EINVAL),
}


@pytest.mark.parametrize("row", FILES)
def test_files_of_the_bus(make_box, row):
    """
    drivers/base/bus.c, drivers/base/dd.c, drivers/pci/pci-driver.c.

    What a driver's probe() says is nothing to drivers_probe: really_probe() makes it positive, and only what is below 0
    (the IOMMU's, before it) becomes EINVAL.
    """
    ask, wanted = FILES[row]
    assert ask(_unbound(make_box)) == wanted


# ---- VFIO_DEVICE_FEATURE: what vfio-pci has; each is probed

NEITHER, SETS = (ENOTTY, ENOTTY), (EINVAL, 0)
FEATURES: dict[str, tuple[int, tuple[int, int]]] = {
    # number: GET, SET of a physical function with virtual ones
    "PCI_VF_TOKEN": (0, SETS),
    "MIGRATION": (1, NEITHER),
    "MIG_DEVICE_STATE": (2, NEITHER),
    "LOW_POWER_ENTRY": (3, SETS),
    "LOW_POWER_ENTRY_WITH_WAKEUP": (4, SETS),
    "LOW_POWER_EXIT": (5, SETS),
    "DMA_LOGGING_START": (6, NEITHER),
    "DMA_LOGGING_STOP": (7, NEITHER),
    "DMA_LOGGING_REPORT": (8, NEITHER),
    "MIG_DATA_SIZE": (9, NEITHER),
    "BUS_MASTER": (10, NEITHER),
    "DMA_BUF": (11, NEITHER),
    "MIG_PRECOPY_INFOv2": (12, NEITHER),
    "none": (0xFFFF, NEITHER),
}


@pytest.mark.parametrize("name", FEATURES)
def test_features(make_box, name):
    number, wanted = FEATURES[name]
    box = make_box(Card(vfs=2), "enable_sriov=1")
    probe = v.VFIO_DEVICE_FEATURE_PROBE | number
    rows = [struct.pack("<II", 8, probe | op) for op in (v.VFIO_DEVICE_FEATURE_GET, v.VFIO_DEVICE_FEATURE_SET)]
    assert tuple(errno_of(box.proc.ioctl, box.device.fd, 0x3B75, bytearray(row)) for row in rows) == wanted


# ---- regions of a driver's own


class Window(RegionOps):
    """A region that can be mapped, if its flags say so."""

    def mmap(self, vdev: Any, region: Any, vma: Any) -> bool:
        return True


# flags of the region, what it can do; how it is mapped, and the answer
OWN = {
    "it can be mapped": (7, Window(), mmap.MAP_SHARED, 0),
    "private": (7, Window(), mmap.MAP_PRIVATE, EINVAL),
    "its flags say no": (3, Window(), mmap.MAP_SHARED, EINVAL),
    "it cannot": (7, RegionOps(), mmap.MAP_SHARED, EINVAL),
}


@pytest.mark.parametrize("row", OWN)
def test_mapping_a_region_of_a_drivers_own(box, row):
    """vfio_pci_core_mmap(): behind PCI's nine the region's own operation is asked."""
    flags, ops, how, wanted = OWN[row]
    box.pdev.drvdata.register_dev_region(v.VFIO_REGION_TYPE_PCI_VENDOR_TYPE | 0x1234, 1, ops, 4096, flags)
    region = Device(box.proc, box.device.fd).region(9)
    assert (region.info.offset, region.info.flags) == (9 << 40, flags | v.VFIO_REGION_INFO_FLAG_CAPS)
    assert region.caps == {v.VFIO_REGION_INFO_CAP_TYPE: struct.pack("<II", 0x80001234, 1)}
    assert errno_of(box.proc.mmap, 0, 4096, 3, how, box.device.fd, 9 << 40) == wanted
