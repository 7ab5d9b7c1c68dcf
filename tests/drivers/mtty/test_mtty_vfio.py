"""What a card answers to VFIO (samples/vfio-mdev/mtty.c:mtty_ioctl(), mtty_set_irqs())."""

from __future__ import annotations

import os
import struct
from errno import EBADF, EBUSY, EFAULT, EINVAL, ENODEV, ENOTTY
from mmap import MAP_SHARED, PROT_READ

import pytest
from errnos import errno_of
from vfioclient import Container, Iommufd

from pykernel.uapi.linux import vfio as v

INTX, MSI, MSIX, ERR, REQ = range(5)
NONE, BOOL, EVENTFD = v.VFIO_IRQ_SET_DATA_NONE, v.VFIO_IRQ_SET_DATA_BOOL, v.VFIO_IRQ_SET_DATA_EVENTFD
MASK, UNMASK, TRIGGER = v.VFIO_IRQ_SET_ACTION_MASK, v.VFIO_IRQ_SET_ACTION_UNMASK, v.VFIO_IRQ_SET_ACTION_TRIGGER
RW = v.VFIO_REGION_INFO_FLAG_READ | v.VFIO_REGION_INFO_FLAG_WRITE


def ints(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}i", *values)


# ---- information


def test_device_info(card):
    info = card.device.info

    assert (info.flags, info.num_regions, info.num_irqs) == (v.VFIO_DEVICE_FLAGS_PCI, 9, 5)


def test_no_more_than_the_old_fields_is_written(card):
    """16, 32, 16 bytes, however large argsz is."""
    for row, size in (
        (v.VFIO_DEVICE_GET_INFO, 16), (v.VFIO_DEVICE_GET_REGION_INFO, 32), (v.VFIO_DEVICE_GET_IRQ_INFO, 16)
    ):  # fmt: skip
        buf = bytearray(b"\xff" * 64)
        buf[0:4], buf[8:12] = (64).to_bytes(4, "little"), bytes(4)  # argsz, and index 0
        card.proc.ioctl(card.fd, row, buf)
        assert buf[size:] == b"\xff" * (64 - size)
        assert buf[:4] == (64).to_bytes(4, "little")


REGIONS = dict.fromkeys(range(9), 0) | {0: 8, 1: 8, 7: 0xFF}


@pytest.mark.parametrize(("index", "size"), REGIONS.items())
def test_region_info(card, index, size):
    """Each can be read and written, even where there is nothing."""
    info = card.device.region(index).info

    assert (info.flags, info.size, info.offset) == (RW, size, index << 40)


def test_the_second_region_of_a_card_of_one_port(client):
    assert client.open(1).device.region(1).info.size == 0


@pytest.mark.parametrize("index", [9, 16, 0xFFFFFFFF])
def test_no_region_info(card, index):
    assert errno_of(card.device.region, index) == EINVAL


INTX_FLAGS = v.VFIO_IRQ_INFO_EVENTFD | v.VFIO_IRQ_INFO_MASKABLE | v.VFIO_IRQ_INFO_AUTOMASKED
OTHER_FLAGS = v.VFIO_IRQ_INFO_EVENTFD | v.VFIO_IRQ_INFO_NORESIZE
IRQS = [(INTX, INTX_FLAGS), (MSI, OTHER_FLAGS), (MSIX, None), (ERR, None), (REQ, "6.1"), (5, None)]


@pytest.mark.parametrize(("index", "flags"), IRQS, ids=["INTX", "MSI", "MSIX", "ERR", "REQ", "5"])
def test_irq_info(card, profile, index, flags):
    """Linux 6.1 has an answer for REQ, too."""
    if flags == "6.1":
        flags = OTHER_FLAGS if profile == "linux-6.1" else None
    if flags is None:
        assert errno_of(card.device.irq, index) == EINVAL
    else:
        info = card.device.irq(index)
        assert (info.flags, info.count) == (flags, 1)


def test_interrupts_are_not_known_before_the_device_is(client, kernel):
    """Pitfall: VFIO_DEVICE_GET_INFO first, once in the life of the card."""
    uuid, proc = client.create(), client.proc
    client.open()  # the container has its type now
    container = client.container
    group = container.group(os.path.basename(proc.readlink(f"/sys/bus/mdev/devices/{uuid}/iommu_group")))

    def descriptor() -> int:
        return proc.ioctl(group, v.VFIO_GROUP_GET_DEVICE_FD, bytearray(uuid.encode() + b"\0"))

    fd = descriptor()
    info = v.vfio_irq_info(argsz=16, index=INTX)
    off = v.vfio_irq_set(argsz=20, flags=NONE | TRIGGER, index=INTX)
    assert errno_of(proc.ioctl, fd, v.VFIO_DEVICE_GET_IRQ_INFO, info) == EINVAL
    assert errno_of(proc.ioctl, fd, v.VFIO_DEVICE_SET_IRQS, bytearray(bytes(off)[:20])) == EINVAL

    proc.ioctl(fd, v.VFIO_DEVICE_GET_INFO, v.vfio_device_info(argsz=24))
    proc.ioctl(fd, v.VFIO_DEVICE_GET_IRQ_INFO, info)
    proc.close(fd)
    proc.ioctl(descriptor(), v.VFIO_DEVICE_GET_IRQ_INFO, info)


SHORT = [
    (v.VFIO_DEVICE_GET_INFO, 16),
    (v.VFIO_DEVICE_GET_REGION_INFO, 32),
    (v.VFIO_DEVICE_GET_IRQ_INFO, 16),
    (v.VFIO_DEVICE_SET_IRQS, 20),
]


@pytest.mark.parametrize(("row", "size"), SHORT, ids=["INFO", "REGION_INFO", "IRQ_INFO", "SET_IRQS"])
def test_argsz(card, row, size):
    buf = bytearray((size - 1).to_bytes(4, "little")) + bytearray(64)

    assert errno_of(card.proc.ioctl, card.fd, row, buf) == EINVAL
    assert errno_of(card.proc.ioctl, card.fd, row, 0) == EFAULT


def test_reset_works_though_no_flag_says_so(card):
    card.outb(7, 5)

    assert card.device.reset() == 0
    assert card.inb(7) == 5


def test_what_there_is_not(card):
    for row in (v.VFIO_DEVICE_QUERY_GFX_PLANE, v.VFIO_DEVICE_GET_PCI_HOT_RESET_INFO):
        assert errno_of(card.proc.ioctl, card.fd, row, bytearray(64)) == ENOTTY
    for pgoff in (0, 1):
        assert errno_of(card.proc.mmap, 0, 4096, PROT_READ, MAP_SHARED, card.fd, pgoff << 40) in (EINVAL, ENODEV)


# ---- VFIO_DEVICE_SET_IRQS, before the device looks at it

BAD_SETS = {
    "no kind of data": (INTX, TRIGGER, 0, 1, b""),
    "two kinds of data": (INTX, NONE | BOOL | TRIGGER, 0, 1, b"\1"),
    "an unknown flag": (INTX, NONE | TRIGGER | 1 << 6, 0, 1, b""),
    "no such index": (5, NONE | TRIGGER, 0, 1, b""),
    "start is too large": (INTX, NONE | TRIGGER, 5, 0, b""),
    "too many": (INTX, NONE | TRIGGER, 0, 6, b""),
    "wrapped": (INTX, NONE | TRIGGER, 1, 0xFFFFFFFF, b""),
    "too little data": (INTX, EVENTFD | TRIGGER, 0, 1, b"\1\0\0"),
}


@pytest.mark.parametrize("row", BAD_SETS)
def test_what_no_device_takes(card, row):
    assert errno_of(card.device.set_irqs, *BAD_SETS[row]) == EINVAL


def test_quirk_the_range_is_that_of_the_number_of_indexes(card, profile):
    """mtty passes 5, the number of indexes, where the number of interrupts of one is meant."""
    expected = 0 if profile == "linux-6.1" else EINVAL
    assert errno_of(card.device.set_irqs, INTX, BOOL | TRIGGER, 4, 1, b"\1") == expected


# ---- Linux 6.1: nearly all succeeds

LOOSE = {
    f"{name} {what}": (index, data | action, start, count, payload)
    for index, name in enumerate(("INTX", "MSI", "MSIX", "ERR", "REQ"))
    for what, data, action, start, count, payload in (
        ("mask", NONE, MASK, 0, 1, b""),
        ("unmask", NONE, UNMASK, 0, 1, b""),
        ("mask by eventfd", EVENTFD, MASK, 0, 1, ints(-1)),
        ("trigger by bool", BOOL, TRIGGER, 0, 1, b"\1"),
        ("no action", NONE, 0, 0, 1, b""),
        ("two actions", NONE, MASK | UNMASK, 0, 1, b""),
        ("off", NONE, TRIGGER, 0, 0, b""),
        ("off, any count", NONE, TRIGGER, 0, 3, b""),
        ("no eventfd", EVENTFD, TRIGGER, 0, 1, ints(-1)),
        ("descriptor 0", EVENTFD, TRIGGER, 0, 1, ints(0)),
        ("two eventfds", EVENTFD, TRIGGER, 0, 2, ints(-1, -1)),
    )
}


@pytest.mark.parametrize("profile", ["linux-6.1"], indirect=True)
@pytest.mark.parametrize("row", LOOSE)
def test_loose(card, row):
    assert errno_of(card.device.set_irqs, *LOOSE[row]) == 0


@pytest.mark.parametrize("profile", ["linux-6.1"], indirect=True)
@pytest.mark.parametrize("index", [INTX, MSI])
def test_loose_descriptors(card, index):
    """Only a descriptor over 0 is looked at."""
    bad = card.proc.open("/dev/null", os.O_RDWR)

    assert errno_of(card.device.signal_by, index, [99]) == EBADF
    assert errno_of(card.device.signal_by, index, [bad]) == EINVAL


@pytest.mark.parametrize("profile", ["linux-6.1"], indirect=True)
def test_loose_msi_is_set_once(client, card):
    """Until the module goes: off means that INTX signals again, not that another eventfd is taken."""
    first, second, intx = client.eventfd(), client.eventfd(), client.eventfd()
    card.device.signal_by(INTX, [intx])
    card.device.signal_by(MSI, [first])
    card.device.signal_by(MSI, [second])
    card.outb(1, 2)
    assert (client.signals(first), client.signals(second), client.signals(intx)) == (1, 0, 0)

    card.device.disable(MSI)
    card.outb(1, 2)
    assert (client.signals(first), client.signals(second), client.signals(intx)) == (0, 0, 1)


@pytest.mark.parametrize("profile", ["linux-6.1"], indirect=True)
def test_quirk_loose_intx_is_never_off(client, card):
    """Linux gives its reference of the eventfd back and keeps the pointer."""
    fd = client.eventfd()
    card.device.signal_by(INTX, [fd])
    card.device.disable(INTX)
    card.outb(1, 2)

    assert client.signals(fd) == 1


@pytest.mark.parametrize("profile", ["linux-6.1"], indirect=True)
def test_loose_has_no_mask(client, card):
    fd = client.eventfd()
    card.device.signal_by(INTX, [fd])
    card.device.set_irqs(INTX, NONE | MASK, 0, 1)
    card.outb(1, 2)
    card.outb(1, 2)

    assert client.signals(fd) == 2


# ---- Linux 6.12: as strict as vfio-pci, with exceptions


def strict(fn):
    return pytest.mark.parametrize("profile", ["linux-6.12"], indirect=True)(fn)


# what is set first, then the call, then its errno
STRICT = {
    "INTX mask": ("INTX", INTX, NONE | MASK, 0, 1, b"", 0),
    "INTX unmask": ("INTX", INTX, NONE | UNMASK, 0, 1, b"", 0),
    "INTX mask by bool": ("INTX", INTX, BOOL | MASK, 0, 1, b"\1", 0),
    "INTX mask by eventfd": ("INTX", INTX, EVENTFD | MASK, 0, 1, ints(-1), ENOTTY),
    "INTX unmask by eventfd": ("INTX", INTX, EVENTFD | UNMASK, 0, 1, ints(-1), ENOTTY),
    "INTX mask, not the first": ("INTX", INTX, NONE | MASK, 1, 1, b"", EINVAL),
    "INTX mask, two": ("INTX", INTX, NONE | MASK, 0, 2, b"", EINVAL),
    "INTX mask, none": ("INTX", INTX, NONE | MASK, 0, 0, b"", EINVAL),
    "INTX mask without an eventfd": ("", INTX, NONE | MASK, 0, 1, b"", EINVAL),
    "INTX mask with MSI": ("MSI", INTX, NONE | MASK, 0, 1, b"", EINVAL),
    "INTX off": ("INTX", INTX, NONE | TRIGGER, 0, 0, b"", 0),
    "INTX off without an eventfd": ("", INTX, NONE | TRIGGER, 0, 0, b"", EINVAL),
    "INTX loopback": ("INTX", INTX, NONE | TRIGGER, 0, 1, b"", 0),
    "INTX loopback by bool": ("INTX", INTX, BOOL | TRIGGER, 0, 1, b"\1", 0),
    "INTX loopback without an eventfd": ("", INTX, NONE | TRIGGER, 0, 1, b"", EINVAL),
    "INTX loopback, two": ("INTX", INTX, NONE | TRIGGER, 0, 2, b"", EINVAL),
    "INTX with MSI": ("MSI", INTX, EVENTFD | TRIGGER, 0, 1, ints(-1), EINVAL),
    "INTX descriptor under 0": ("", INTX, EVENTFD | TRIGGER, 0, 1, ints(-2), 0),
    "INTX descriptor 99": ("", INTX, EVENTFD | TRIGGER, 0, 1, ints(99), EBADF),
    "INTX no action": ("", INTX, NONE, 0, 1, b"", 0),
    "INTX two actions": ("", INTX, NONE | MASK | TRIGGER, 0, 1, b"", 0),
    "MSI mask": ("MSI", MSI, NONE | MASK, 0, 1, b"", ENOTTY),
    "MSI unmask": ("MSI", MSI, NONE | UNMASK, 0, 1, b"", ENOTTY),
    "MSI off": ("MSI", MSI, NONE | TRIGGER, 0, 0, b"", 0),
    "MSI loopback": ("MSI", MSI, NONE | TRIGGER, 0, 1, b"", 0),
    "MSI loopback without an eventfd": ("", MSI, NONE | TRIGGER, 0, 1, b"", EINVAL),
    "MSI not the first": ("MSI", MSI, EVENTFD | TRIGGER, 1, 1, ints(-1), EINVAL),
    "MSI two": ("MSI", MSI, EVENTFD | TRIGGER, 0, 2, ints(-1, -1), EINVAL),
    "MSI with INTX": ("INTX", MSI, EVENTFD | TRIGGER, 0, 1, ints(-1), EINVAL),
    "MSI no action": ("", MSI, NONE, 0, 1, b"", 0),
    **{
        f"{name} {what}": ("", index, NONE | action, 0, 1, b"", ENOTTY)
        for index, name in ((MSIX, "MSIX"), (ERR, "ERR"), (REQ, "REQ"))
        for what, action in (("mask", MASK), ("trigger", TRIGGER), ("no action", 0))
    },
}


@strict
@pytest.mark.parametrize("row", STRICT)
def test_strict(client, card, row):
    first, index, flags, start, count, data, errno = STRICT[row]
    if first:
        card.device.signal_by(INTX if first == "INTX" else MSI, [client.eventfd()])

    assert errno_of(card.device.set_irqs, index, flags, start, count, data) == errno


@strict
def test_strict_descriptors(card):
    assert errno_of(card.device.signal_by, MSI, [card.proc.open("/dev/null", os.O_RDWR)]) == EINVAL


@strict
@pytest.mark.parametrize("index", [INTX, MSI])
def test_a_descriptor_under_zero_turns_off(client, card, index):
    """And the other kind can be set then; so it can after a descriptor that is none."""
    card.device.signal_by(index, [client.eventfd()])
    card.device.signal_by(index, [-1])
    card.device.signal_by(1 - index, [client.eventfd()])
    assert errno_of(card.device.signal_by, 1 - index, [99]) == EBADF
    card.device.signal_by(index, [client.eventfd()])


@strict
def test_intx_masks_itself(client, card):
    """With each signal, a looped back one too; unmasked, what came meanwhile is not signalled."""
    fd = client.eventfd()
    card.device.signal_by(INTX, [fd])
    card.device.trigger(INTX)
    card.device.trigger(INTX)
    card.outb(1, 2)
    assert client.signals(fd) == 1

    card.device.set_irqs(INTX, NONE | UNMASK, 0, 1)
    assert client.signals(fd) == 0
    card.device.trigger(INTX)
    assert client.signals(fd) == 1


@strict
@pytest.mark.parametrize(("data", "count"), [(b"\0", 1), (b"\1", 0)])
def test_a_mask_by_bool(client, card, data, count):
    fd = client.eventfd()
    card.device.signal_by(INTX, [fd])
    card.device.set_irqs(INTX, BOOL | MASK, 0, 1, data)
    card.device.trigger(INTX)

    assert client.signals(fd) == count


@strict
def test_msi_has_no_mask(client, card):
    fd = client.eventfd()
    card.device.signal_by(MSI, [fd])
    card.device.trigger(MSI)
    card.device.set_irqs(MSI, BOOL | TRIGGER, 0, 1, b"\1")
    card.device.set_irqs(MSI, BOOL | TRIGGER, 0, 1, b"\0")

    assert client.signals(fd) == 2


@strict
def test_interrupts_are_off_when_a_card_is_opened_again(client, card):
    fd = client.eventfd()
    card.device.signal_by(INTX, [fd])
    uuid = client.proc.listdir("/sys/bus/mdev/devices")[0]
    card.device.close()
    again = client.container.device(f"/sys/bus/mdev/devices/{uuid}")

    assert errno_of(again.trigger, INTX) == EINVAL


# ---- IOMMUFD, where the kernel has it


@strict
def test_a_card_by_its_own_node(client, kernel):
    """Bound to IOMMUFD and attached, it is the same card; then its group cannot be opened, and the other way round."""
    path = f"/sys/bus/mdev/devices/{client.create(2)}"
    number = os.path.basename(client.proc.readlink(f"{path}/iommu_group"))
    iommufd = Iommufd(client.proc)
    device = iommufd.device(path)

    assert device.config().read(0, 4) == b"\x48\x43\x53\x32"
    fd = client.eventfd()
    device.signal_by(MSI, [fd])
    device.trigger(MSI)
    assert client.signals(fd) == 1
    assert errno_of(client.proc.open, f"/dev/vfio/{number}", os.O_RDWR) == EBUSY
    device.close()
    Container(client.proc).device(path)
    assert errno_of(iommufd.device, path) == EBUSY
