"""
libvfio-user's tests of a device's ioctls and regions (test/py), case by case, against vfio-pci.

Each test has the name of the case that it mirrors. Where libvfio-user answers otherwise than Linux, the docstring says
so and the test has Linux's answer; test_libvfio_user.py says which cases are here and which cannot be.
"""

from __future__ import annotations

import struct
from errno import EFAULT, EINVAL

import pytest
import vfioclient as client
from errnos import errno_of
from vfiocard import Box

from pykernel.pci.config import ConfigSpace
from pykernel.pci.function import PciFunction
from pykernel.uapi.linux import pci_regs as r
from pykernel.uapi.linux import vfio as v

EXP, MSI, MSIX, DSN, VENDOR = 0x40, 0x90, 0xB0, 0x100, 0x120
VECTORS, MSIX_SIZE = 2048, 0x20000
NONE, BOOL, EVENTFD = v.VFIO_IRQ_SET_DATA_NONE, v.VFIO_IRQ_SET_DATA_BOOL, v.VFIO_IRQ_SET_DATA_EVENTFD
MASK, UNMASK, TRIGGER = v.VFIO_IRQ_SET_ACTION_MASK, v.VFIO_IRQ_SET_ACTION_UNMASK, v.VFIO_IRQ_SET_ACTION_TRIGGER
X, ERR, REQ = v.VFIO_PCI_MSIX_IRQ_INDEX, v.VFIO_PCI_ERR_IRQ_INDEX, v.VFIO_PCI_REQ_IRQ_INDEX
RW = v.VFIO_REGION_INFO_FLAG_READ | v.VFIO_REGION_INFO_FLAG_WRITE
MMAP, CAPS = v.VFIO_REGION_INFO_FLAG_MMAP, v.VFIO_REGION_INFO_FLAG_CAPS
BAR0, BAR1, BAR2, BAR3, CONFIG = 0, 1, 2, 3, v.VFIO_PCI_CONFIG_REGION_INDEX
K, G = 1 << 10, 1 << 30


class Silicon(PciFunction):
    """PCI Express with a function level reset, MSI of 16 vectors, MSI-X of 2048 in BAR0; nothing happens in a BAR."""

    def __init__(self, bars: dict[int, int], *, wide: bool = False, express: bool = True, msix: bool = True) -> None:
        config = ConfigSpace(0x1234, 0x5678, 0x0B4000, interrupt_pin=1, size=4096 if express else 256)
        if msix:
            config.add_bar(0, MSIX_SIZE, wide=False, prefetch=False)
            config.add_msix(MSIX, VECTORS, table=(0, 0), pba=(0, 0x10000))
        for bar, size in bars.items():
            config.add_bar(bar, size, wide=wide, prefetch=wide)
        config.add_msi(MSI, vectors_log2=4)
        if express:
            config.add_pcie(EXP, flags=0x02, devcap=r.PCI_EXP_DEVCAP_FLR)
            for at in (r.PCI_EXP_DEVCTL2, r.PCI_EXP_LNKCTL2):
                config.define(EXP + at, 2, 0, rw=0xFFFF)
            config.add_ext_cap(r.PCI_EXT_CAP_ID_DSN, 1, DSN, 12)
            config.define(DSN + 4, 8, 4 | 8 << 32)
            config.add_ext_cap(r.PCI_EXT_CAP_ID_VNDR, 1, VENDOR, 20)
            config.define(VENDOR + 4, 4, 20 << 20 | 0x1B)
            config.define(VENDOR + 8, 8, 0, rw=(1 << 64) - 1)
        config.settle()
        super().__init__(config)
        if msix:
            self.place_msix(VECTORS, 0, 0, 0x10000)
        self.resets = 0

    def bar_read(self, bar: int, off: int, size: int) -> int:
        return 0

    def flr(self) -> None:
        super().flr()
        self.resets += 1


@pytest.fixture(params=["linux-6.1", "linux-6.12"])
def profile(request):
    return request.param


def box_of(profile, silicon):
    return Box(silicon, profile)


@pytest.fixture
def box(profile):
    """BAR0 with MSI-X, BAR2 of 4 KiB."""
    return box_of(profile, Silicon({BAR2: 4 * K}))


def ask(box, row, data):
    """The answer, or the errno, and the buffer afterwards."""
    buf = bytearray(data)
    return client.expect(box.proc, box.device.fd, row, buf), bytes(buf)


def region_info(box, index, argsz=32, room=0):
    data = struct.pack("<IIIIQQ", argsz, 0, index, 0, 0, 0)
    answer, buf = ask(box, v.VFIO_DEVICE_GET_REGION_INFO, data + bytes(room))
    assert answer == "0"
    return v.vfio_region_info.from_bytes(buf[:32]), buf[32:]


def set_irqs(box, flags, index, start=0, count=0, data=b"", argsz=None):
    """The answer to VFIO_DEVICE_SET_IRQS."""
    head = struct.pack("<IIIII", 20 + len(data) if argsz is None else argsz, flags, index, start, count)
    return ask(box, v.VFIO_DEVICE_SET_IRQS, head + data)[0]


def fds(*numbers):
    return struct.pack(f"<{len(numbers)}i", *numbers)


def count_of(box, fd):
    return int.from_bytes(box.proc.read(fd, 8), "little")


@pytest.fixture
def two(box):
    """MSI-X with eventfds on its first two vectors, which count from 4 and from 8."""
    events = box.proc.eventfd(4), box.proc.eventfd(8)
    assert set_irqs(box, TRIGGER | EVENTFD, X, 0, 2, fds(*events)) == "0"
    return events


# ---- test_device_get_info.py, test_device_get_irq_info.py


def test_device_get_info(box):
    """More room than a kernel fills is fine; libvfio-user has no more than 16 bytes."""
    assert ask(box, v.VFIO_DEVICE_GET_INFO, bytes(24))[0] == "EINVAL"
    assert ask(box, v.VFIO_DEVICE_GET_INFO, struct.pack("<I", 8).ljust(24, b"\0"))[0] == "EINVAL"
    answer, buf = ask(box, v.VFIO_DEVICE_GET_INFO, struct.pack("<I", 32).ljust(32, b"\0"))
    assert answer == "0"
    flags, regions, irqs = struct.unpack_from("<4xIII", buf)
    assert flags == v.VFIO_DEVICE_FLAGS_PCI | v.VFIO_DEVICE_FLAGS_RESET
    assert (regions, irqs) == (v.VFIO_PCI_NUM_REGIONS, v.VFIO_PCI_NUM_IRQS)


@pytest.mark.parametrize(("argsz", "index"), [(0, 0), (8, REQ), (16, v.VFIO_PCI_NUM_IRQS)])
def test_device_get_irq_info_bad_in(box, argsz, index):
    assert ask(box, v.VFIO_DEVICE_GET_IRQ_INFO, struct.pack("<IIII", argsz, 0, index, 0))[0] == "EINVAL"


@pytest.mark.parametrize(("index", "count"), [(REQ, 1), (ERR, 1), (X, VECTORS)])
@pytest.mark.parametrize("argsz", [16, 32])
def test_device_get_irq_info(profile, box, index, count, argsz):
    """Linux adds NORESIZE, but not to MSI-X that can grow (from 6.12 on); it leaves argsz as it is."""
    answer, buf = ask(box, v.VFIO_DEVICE_GET_IRQ_INFO, struct.pack("<IIII", argsz, 0, index, 0))
    fixed = not (profile == "linux-6.12" and index == X)
    flags = v.VFIO_IRQ_INFO_EVENTFD | (v.VFIO_IRQ_INFO_NORESIZE if fixed else 0)
    assert (answer, struct.unpack("<IIII", buf)) == ("0", (argsz, flags, index, count))


# ---- test_device_get_region_info.py, test_device_get_region_info_zero_size.py


def test_device_get_region_info_short_write(box):
    assert ask(box, v.VFIO_DEVICE_GET_REGION_INFO, bytes(32))[0] == "EINVAL"


def test_device_get_region_info_bad_argsz(box):
    assert ask(box, v.VFIO_DEVICE_GET_REGION_INFO, struct.pack("<III20x", 8, 0, BAR1))[0] == "EINVAL"


def test_device_get_region_info_bad_index(box):
    data = struct.pack("<III20x", 32, 0, v.VFIO_PCI_NUM_REGIONS)
    assert ask(box, v.VFIO_DEVICE_GET_REGION_INFO, data)[0] == "EINVAL"


def test_device_get_region_info_larger_argsz(box):
    """Linux leaves argsz as it is, libvfio-user says 32. Memory can be mapped; a region begins at its index << 40."""
    info, _ = region_info(box, BAR2, 40, 8)
    assert (info.argsz, info.flags, info.index, info.cap_offset) == (40, RW | MMAP, BAR2, 0)
    assert (info.size, info.offset) == (4096, BAR2 << 40)


def test_device_get_region_info_small_argsz_caps(box):
    """Linux says that there are capabilities, libvfio-user does not; both say the size that they need."""
    info, _ = region_info(box, BAR0)
    assert (info.argsz, info.flags, info.cap_offset) == (40, RW | MMAP | CAPS, 0)
    assert (info.index, info.size, info.offset) == (BAR0, MSIX_SIZE, 0)


def test_device_get_region_info_caps(box):
    """vfio-pci has no region of which parts are mapped; the capability of a BAR is that its MSI-X table is mapped."""
    info, caps = region_info(box, BAR0, 40, 8)
    assert (info.argsz, info.cap_offset, info.size) == (40, 32, MSIX_SIZE)
    assert struct.unpack("<HHI", caps) == (v.VFIO_REGION_INFO_CAP_MSIX_MAPPABLE, 1, 0)


def test_device_get_region_info_zero_sized_region(box):
    """A BAR that is not there begins where it would."""
    info, _ = region_info(box, BAR3)
    assert (info.argsz, info.flags, info.cap_offset, info.size, info.offset) == (32, 0, 0, 0, BAR3 << 40)


def test_device_get_pci_config_space_info_implicit_pci_init(box):
    info, _ = region_info(box, CONFIG, 40, 8)
    assert (info.flags, info.index, info.cap_offset, info.size) == (RW, CONFIG, 0, 4096)
    assert info.offset == CONFIG << 40


def test_device_get_pci_config_space_info_implicit_no_pci_init(profile):
    """A device of conventional PCI has 256 bytes."""
    info, _ = region_info(box_of(profile, Silicon({}, express=False)), CONFIG, 40, 8)
    assert (info.flags, info.cap_offset, info.size) == (RW, 0, 256)


def bar_sizes(box):
    """drivers/pci/probe.c:__pci_read_base() in the user's view of configuration space."""
    found = []
    for at in range(r.PCI_BASE_ADDRESS_0, r.PCI_BASE_ADDRESS_5 + 4, 4):
        before = box.config(at, 4)
        box.set_config(at, 4, 0xFFFFFFFF)
        found.append(box.config(at, 4))
        box.set_config(at, 4, before)
        assert box.config(at, 4) == before
    sizes, words = [], iter(found)
    for low in words:
        if low & r.PCI_BASE_ADDRESS_MEM_TYPE_64:
            sizes += [-(next(words) << 32 | low & ~0xF) % (1 << 64), 0]
        else:
            sizes.append(-(low & ~0xF) % (1 << 32))
    return sizes


def test_device_get_region_info_32bit_bar_size_detection(profile):
    silicon = Silicon({1: 4 * K, 2: 8 * K, 3: 16 * K}, msix=False)
    assert bar_sizes(box_of(profile, silicon)) == [0, 4 * K, 8 * K, 16 * K, 0, 0]


def test_64bit_bar_size_detection_protocol(profile):
    silicon = Silicon({0: 4 * G, 2: 8 * G, 4: 16 * G}, wide=True, msix=False)
    assert bar_sizes(box_of(profile, silicon)) == [4 * G, 0, 8 * G, 0, 16 * G, 0]


# ---- test_device_set_irqs.py


def test_device_set_irqs_no_irq_set(box):
    """Nothing where the struct should be is EFAULT; libvfio-user sees an empty message, EINVAL."""
    assert errno_of(box.proc.ioctl, box.device.fd, v.VFIO_DEVICE_SET_IRQS, 0) == EFAULT


def test_device_set_irqs_short_write(box):
    assert ask(box, v.VFIO_DEVICE_SET_IRQS, bytes(20))[0] == "EINVAL"


def test_device_set_irqs_bad_argsz(box):
    assert set_irqs(box, TRIGGER | NONE, REQ, argsz=3) == "EINVAL"


def test_device_set_irqs_bad_index(box):
    assert set_irqs(box, TRIGGER | NONE, v.VFIO_PCI_NUM_IRQS) == "EINVAL"


def test_device_set_irqs_bad_flags_MASK_and_UNMASK(box):
    """It is EINVAL for the data type that is missing; with one, two actions are ENOTTY in Linux."""
    assert set_irqs(box, MASK | UNMASK, X) == "EINVAL"
    assert set_irqs(box, MASK | UNMASK | NONE, X) == "ENOTTY"


def test_device_set_irqs_bad_flags_DATA_NONE_and_DATA_BOOL(box):
    assert set_irqs(box, MASK | NONE | BOOL, X) == "EINVAL"


def test_device_set_irqs_bad_start_count_range(box):
    assert set_irqs(box, MASK | NONE, X, VECTORS - 1, 2) == "EINVAL"


def test_device_set_irqs_bad_start_count_range2(box):
    assert set_irqs(box, MASK | NONE, X, VECTORS + 1, 1) == "EINVAL"


def test_device_set_irqs_bad_start_count_range3(box):
    assert set_irqs(box, TRIGGER | EVENTFD, X, 284, 0xFFFFFFFF) == "EINVAL"


def test_device_set_irqs_bad_action_for_err_irq(box):
    """Linux: ENOTTY, no such operation on this interrupt. libvfio-user: EINVAL."""
    assert set_irqs(box, MASK | NONE, ERR, 0, 1) == "ENOTTY"


def test_device_set_irqs_bad_action_for_req_irq(box):
    """Linux: ENOTTY."""
    assert set_irqs(box, MASK | NONE, REQ, 0, 1) == "ENOTTY"


def test_device_set_irqs_bad_start_count_range_for_err_irq(box):
    assert set_irqs(box, TRIGGER | NONE, ERR, 0, 2) == "EINVAL"


def test_device_set_irqs_bad_start_count_range_for_req_irq(box):
    assert set_irqs(box, TRIGGER | NONE, REQ, 0, 2) == "EINVAL"


def test_device_set_irqs_bad_start_for_count_0(box):
    """Linux: nothing masks MSI-X, ENOTTY; what is wrong about the start is told only when it is beyond the last."""
    assert set_irqs(box, MASK | NONE, X, 1, 0) == "ENOTTY"
    assert set_irqs(box, MASK | NONE, X, VECTORS, 0) == "EINVAL"


def test_device_set_irqs_bad_action_for_count_0(box):
    """Linux: ENOTTY."""
    assert set_irqs(box, MASK | NONE, X) == "ENOTTY"


def test_device_set_irqs_bad_action_and_data_type_for_count_0(box):
    assert set_irqs(box, TRIGGER | BOOL, X) == "EINVAL"


def test_device_set_irqs_bad_fds_for_count_2(box):
    """Two are said to follow, one does."""
    assert set_irqs(box, TRIGGER | EVENTFD, X, 0, 2, fds(box.proc.eventfd())) == "EINVAL"


def test_device_set_irqs_disable(box):
    """What was never enabled cannot be disabled in Linux; to say that there is no eventfd is always right."""
    assert set_irqs(box, TRIGGER | NONE, REQ) == "EINVAL"
    assert set_irqs(box, TRIGGER | EVENTFD, REQ, 0, 1, fds(-1)) == "0"
    assert set_irqs(box, TRIGGER | EVENTFD, REQ, 0, 1, fds(box.proc.eventfd())) == "0"
    assert set_irqs(box, TRIGGER | NONE, REQ) == "0"


def test_device_set_irqs_enable(box):
    assert set_irqs(box, TRIGGER | EVENTFD, X, 0, 1, fds(box.proc.eventfd())) == "0"


def test_device_set_irqs_trigger_bool_too_small(box, two):
    assert set_irqs(box, TRIGGER | BOOL, X, 0, 2, b"\0") == "EINVAL"


def test_device_set_irqs_trigger_bool_too_large(box, two):
    """More bytes than interrupts are fine for Linux, and not read; libvfio-user: EINVAL."""
    assert set_irqs(box, TRIGGER | BOOL, X, 0, 2, b"\0\0\1") == "0"
    assert [count_of(box, fd) for fd in two] == [4, 8]


def test_device_set_irqs_enable_update(box, two):
    """Another eventfd in place of the first: that one is signalled, the old one is not."""
    other = box.proc.eventfd(1)
    assert set_irqs(box, TRIGGER | EVENTFD, X, 0, 1, fds(other)) == "0"
    assert set_irqs(box, TRIGGER | NONE, X, 0, 1) == "0"
    assert [count_of(box, fd) for fd in (other, *two)] == [2, 4, 8]


def test_device_set_irqs_enable_trigger_none(box, two):
    assert set_irqs(box, TRIGGER | NONE, X, 1, 1) == "0"
    assert [count_of(box, fd) for fd in two] == [4, 9]


def test_device_set_irqs_enable_trigger_bool(box, two):
    assert set_irqs(box, TRIGGER | BOOL, X, 0, 2, b"\0\1") == "0"
    assert [count_of(box, fd) for fd in two] == [4, 9]


def test_irq_state(box, two):
    """A device of libvfio-user is told that its user masks a vector; vfio-pci masks INTx only: ENOTTY."""
    assert set_irqs(box, NONE | MASK, X, 0, 1) == "ENOTTY"


# ---- test_irq_trigger.py: the device raises an interrupt; a user of Linux can ask for the same


@pytest.mark.parametrize("vector", [VECTORS, VECTORS + 1])
def test_irq_trigger_bad_subindex(box, two, vector):
    assert set_irqs(box, TRIGGER | NONE, X, vector, 1) == "EINVAL"


def test_irq_trigger_no_interrupt(box):
    """Nothing is enabled: Linux says EINVAL, libvfio-user ENOENT."""
    assert set_irqs(box, TRIGGER | NONE, X, 0, 1) == "EINVAL"


def test_irq_trigger(box):
    event = box.proc.eventfd(4)
    assert set_irqs(box, TRIGGER | EVENTFD, X, 8, 1, fds(event)) == "0"
    box.set_config(r.PCI_COMMAND, 2, r.PCI_COMMAND_MEMORY | r.PCI_COMMAND_MASTER)
    box.silicon.raise_msix(8)
    assert count_of(box, event) == 5


# ---- test_pci_caps.py, test_pci_ext_caps.py: what a user writes to capabilities


def test_pci_cap_write_px(box):
    """A function level reset on request. Linux takes parts of a register at any offset, libvfio-user says EINVAL."""
    before = box.silicon.resets
    box.set_config(EXP + r.PCI_EXP_DEVCTL, 2, r.PCI_EXP_DEVCTL_BCR_FLR)
    assert box.silicon.resets == before + 1
    for off in (-1, 1):
        for n in (1, 3):
            assert box.set_config(EXP + r.PCI_EXP_DEVCTL + off, n, 0) == n
    assert box.silicon.resets == before + 1


def test_pci_cap_write_msi(box):
    """
    Linux turns MSI on itself (SET_IRQS): the user's enable bit is 0 until then, and more vectors than SET_IRQS had are
    taken for as many; for libvfio-user more than there are is EINVAL. All of the byte is the user's copy in Linux, also
    how many vectors there are, which is read-only for libvfio-user; the silicon and GET_IRQ_INFO keep theirs.
    """
    flags = MSI + r.PCI_MSI_FLAGS
    for asked in (0xFF, 0x50, r.PCI_MSI_FLAGS_ENABLE | 0x40):
        box.set_config(flags, 2, asked)
        assert box.config(flags, 1) == asked & ~(r.PCI_MSI_FLAGS_QSIZE | r.PCI_MSI_FLAGS_ENABLE)
    events = [box.proc.eventfd() for _ in range(16)]
    assert set_irqs(box, TRIGGER | EVENTFD, v.VFIO_PCI_MSI_IRQ_INDEX, 0, 16, fds(*events)) == "0"
    for asked in (0xFF, 0x51, r.PCI_MSI_FLAGS_ENABLE | 0x40):
        box.set_config(flags, 2, asked)
        assert box.config(flags, 1) == asked & ~r.PCI_MSI_FLAGS_QSIZE | 0x40
    assert box.hw(flags, 1) & r.PCI_MSI_FLAGS_QMASK == 0x08
    assert box.device.irq(v.VFIO_PCI_MSI_IRQ_INDEX).count == 16


def test_pci_cap_write_msix(box):
    """Linux: SET_IRQS is what enables MSI-X; a user's writes to the capability do nothing."""
    before = box.config(MSIX, 12)
    for off, n, value in ((2, 2, 0xFFFF), (2, 2, 0), (3, 2, 0xFFC0), (4, 1, 0xFF)):
        assert box.set_config(MSIX + off, n, value) == n
        assert box.config(MSIX, 12) == before


def test_pci_cap_write_pxdc2(box):
    """The silicon has it, but for the bit that lets it forward between functions (ARI), which Linux keeps."""
    at = EXP + r.PCI_EXP_DEVCTL2
    box.set_config(at, 2, 0xADFE)
    assert box.config(at, 2) == box.hw(at, 2) == 0xADFE & ~r.PCI_EXP_DEVCTL2_ARI


def test_pci_cap_write_pxlc2(box):
    """The link is not its user's in Linux; libvfio-user takes the write."""
    assert box.set_config(EXP + r.PCI_EXP_LNKCTL2, 2, 0xEFBE) == 2
    assert box.config(EXP + r.PCI_EXP_LNKCTL2, 2) == box.hw(EXP + r.PCI_EXP_LNKCTL2, 2) == 0


def test_pci_ext_cap_write_hdr(box):
    """libvfio-user: EPERM. Linux takes the write, and nothing happens."""
    for at in (DSN, VENDOR + 4):
        before = box.config(at, 4)
        assert box.set_config(at, 1, ~before & 0xFF) == 1
        assert box.config(at, 4) == before


def test_pci_ext_cap_readonly(box):
    """What the silicon does not let be written stays. libvfio-user: EPERM."""
    assert box.set_config(VENDOR + 16, 4, 1) == 4
    assert box.config(VENDOR + 16, 4) == 0


def test_pci_ext_cap_write_dsn(box):
    """libvfio-user: EPERM. Linux: it stays."""
    box.set_config(DSN + 4, 4, 1)
    assert (box.config(DSN + 4, 4), box.config(DSN + 8, 4)) == (4, 8)


def test_pci_ext_cap_write_vendor(box):
    """Linux leaves vendors' capabilities to the silicon."""
    box.set_config(VENDOR + 8, 4, 1)
    box.set_config(VENDOR + 12, 4, 2)
    assert (box.config(VENDOR + 8, 4), box.config(VENDOR + 12, 4)) == (1, 2) == (box.hw(VENDOR + 8, 4), 2)


# ---- test_setup_region.py: accesses to regions


def test_region_offset_overflow(box):
    """pread() has no negative offsets."""
    assert errno_of(box.proc.pread, box.device.fd, 256, -1) == EINVAL


def test_access_region_zero_count(box):
    assert box.proc.pread(box.device.fd, 0, BAR2 << 40) == b""
    assert box.proc.pwrite(box.device.fd, b"", BAR2 << 40) == 0


def test_access_region_large_count(box):
    """More of configuration space than there is: Linux EFAULT, libvfio-user EINVAL."""
    assert errno_of(box.proc.pread, box.device.fd, (1 << 20) + 8, CONFIG << 40) == EFAULT


def test_setup_region_large_64bit_bar_sizes(profile):
    box = box_of(profile, Silicon({2: 4 * G, 4: 8 * G}, wide=True, msix=False))
    sizes = [region_info(box, index, 40, 8)[0].size for index in range(6)]
    assert sizes == [0, 0, 4 * G, 0, 8 * G, 0]
