"""Displays that are mediated devices (samples/vfio-mdev/mdpy.c)."""

from __future__ import annotations

from errno import EFAULT, EINVAL, ENOTTY, EUSERS
from mmap import MAP_PRIVATE, MAP_SHARED, PROT_READ, PROT_WRITE

import pytest
from errnos import errno_of
from vfioclient import Container

import pykernel
from pykernel import machine
from pykernel.uapi.linux import vfio as v

TYPES = "/sys/devices/virtual/mdpy/mdpy/mdev_supported_types"
DEVICES = "/sys/bus/mdev/devices"
RW = v.VFIO_REGION_INFO_FLAG_READ | v.VFIO_REGION_INFO_FLAG_WRITE
MMAP = v.VFIO_REGION_INFO_FLAG_MMAP
PROBE, REGION, DMABUF = v.VFIO_GFX_PLANE_TYPE_PROBE, v.VFIO_GFX_PLANE_TYPE_REGION, v.VFIO_GFX_PLANE_TYPE_DMABUF
VGA_BYTES = 2 << 20  # 640 * 480 * 4 and what is missing to a power of two


@pytest.fixture(params=["linux-6.1", "linux-6.12"])
def boot(request):
    def boot(args: str = ""):
        text = f'[modules]\nvfio_iommu_type1 = ""\nmdpy = "{args}"\n'
        kernel = pykernel.boot(machine.parse(text), request.param)
        booted.append(kernel)
        return kernel

    booted: list[pykernel.Kernel] = []
    yield boot
    for kernel in booted:
        assert kernel.oopses == []


@pytest.fixture
def proc(boot):
    return boot().process()


def create(proc, kind: str, n: int = 0) -> str:
    uuid = f"{n:08x}-0000-4000-8000-000000000000"
    proc.write_text(f"{TYPES}/mdpy-{kind}/create", uuid)
    return uuid


@pytest.fixture
def display(proc):
    return Container(proc).device(f"{DEVICES}/{create(proc, 'vga')}")


# ---- sysfs

KINDS = {"vga": (640, 480, 2 << 20), "xga": (1024, 768, 4 << 20), "hd": (1920, 1080, 8 << 20)}


@pytest.mark.parametrize("kind", KINDS)
def test_types(proc, kind):
    width, height, _ = KINDS[kind]
    texts = {
        "name": f"mdpy-{kind}\n",
        "device_api": "vfio-pci\n",
        "available_instances": "4\n",
        "description": f"virtual display, {width}x{height} framebuffer\n",
    }

    assert {attr: proc.read_text(f"{TYPES}/mdpy-{kind}/{attr}") for attr in texts} == texts
    uuid = create(proc, kind)
    assert proc.read_text(f"{DEVICES}/{uuid}/vendor/resolution") == f"{width}x{height}\n"
    assert proc.readlink(f"{DEVICES}/{uuid}/driver").endswith("/bus/mdev/drivers/mdpy")


def test_the_core_counts(proc):
    """Four of all types; the fifth is EUSERS."""
    for n, kind in enumerate(("vga", "xga", "hd", "vga")):
        create(proc, kind, n)

    assert proc.read_text(f"{TYPES}/mdpy-hd/available_instances") == "0\n"
    assert errno_of(create, proc, "hd", 4) == EUSERS


def test_count(boot):
    proc = boot("count=1").process()
    create(proc, "vga")

    assert errno_of(create, proc, "vga", 1) == EUSERS
    assert proc.read_text("/sys/module/mdpy/parameters/count") == "1\n"


# ---- regions, at offsets that are no multiples of 2**40

REGIONS = {
    "config": (7, RW, 0xFF, 0),
    "bar 0": (0, RW | MMAP, VGA_BYTES, 4096),
    "display": (16, RW | MMAP, VGA_BYTES, 4096),
    "bar 1": (1, 0, 0, 0),
    "rom": (6, 0, 0, 0),
    "vga": (8, 0, 0, 0),
}


@pytest.mark.parametrize("name", REGIONS)
def test_region_info(display, name):
    index, flags, size, offset = REGIONS[name]
    info = display.region(index).info

    assert (info.flags, info.size, info.offset) == (flags, size, offset)


@pytest.mark.parametrize("index", [9, 15, 17, 0xFFFFFFFF])
def test_no_region(display, index):
    assert errno_of(display.region, index) == EINVAL


@pytest.mark.parametrize("kind", KINDS)
def test_a_frame_buffer_is_a_power_of_two(proc, kind):
    device = Container(proc).device(f"{DEVICES}/{create(proc, kind)}")

    assert device.region(16).info.size == KINDS[kind][2]


SPACE = {
    0x00: "36 1b 0f 00",
    0x04: "03 00 10 00",
    0x08: "01 00 80 03",
    0x10: "08 00 00 00",
    0x2C: "f4 1a 00 11",
    0x34: "40",
    0x40: "09 00 10 00",
    0x44: "58 52 32 34",  # XR24
    0x48: "80 02 00 00",
    0x4C: "e0 01 00 00",
}


@pytest.mark.parametrize("offset", SPACE, ids=hex)
def test_config(display, offset):
    assert display.config().read(offset, len(SPACE[offset].split())).hex(" ") == SPACE[offset]


CONFIG_WRITES = {
    "size": (0x10, "ff ff ff ff", "08 00 e0 ff"),
    "address": (0x10, "0f 00 00 c0", "08 00 00 c0"),
    "command": (0x04, "07 00 00 00", "03 00 10 00"),
    "line": (0x3C, "05", "00"),
}


@pytest.mark.parametrize("row", CONFIG_WRITES)
def test_config_writes(display, row):
    offset, written, read = CONFIG_WRITES[row]
    display.config().write(offset, bytes.fromhex(written))

    assert display.config().read(offset, len(read.split())).hex(" ") == read


@pytest.mark.parametrize("pos", [0x100, 0xFFC, 4096 + VGA_BYTES, 1 << 40], ids=hex)
def test_nothing_is_there(display, pos):
    assert errno_of(display.proc.pread, display.fd, 4, pos) == EFAULT
    assert errno_of(display.proc.pwrite, display.fd, b"1234", pos) == EFAULT


# ---- the picture


def test_the_picture(display):
    """Each line has a gray of its own; nothing is behind the last one."""
    at, mem = display.region(16).mmap(VGA_BYTES), display.proc.mem
    for y in (0, 1, 239, 479):
        assert mem.read(at + y * 2560, 2560) == bytes((y * 255 // 480,)) * 2560
    assert mem.read(at + 480 * 2560, 4096) == bytes(4096)


def test_a_reset_draws_it_again(display):
    """As far as there are lines."""
    at, mem = display.region(0).mmap(VGA_BYTES), display.proc.mem
    mem.write(at + 100 * 2560, b"\xff" * 2560)
    mem.write(at + 480 * 2560, b"tail")
    display.reset()

    assert mem.read(at + 100 * 2560, 4) == bytes((100 * 255 // 480,)) * 4
    assert mem.read(at + 480 * 2560, 4) == b"tail"


def test_mappings_share_the_picture(display):
    one, two = display.region(0).mmap(VGA_BYTES), display.region(16).mmap(8192)
    display.proc.mem.write(one + 5000, b"hello")

    assert display.proc.mem.read(two + 5000, 5) == b"hello"


def test_quirk_reads_and_writes_forget_where(display):
    """mdev_access() copies from and to the beginning of the memory, whatever the offset."""
    display.region(0).write(0x1000, b"abcd")

    assert display.region(0).read(0, 4) == b"abcd"
    assert display.region(0).read(0x20, 8) == b"abcdabcd"


MAPPINGS = {
    "from the frame buffer's beginning": (4096, MAP_SHARED, 4096, 0),
    "all": (VGA_BYTES, MAP_SHARED, 4096, 0),
    "more than all": (VGA_BYTES + 4096, MAP_SHARED, 4096, EINVAL),
    "private": (4096, MAP_PRIVATE, 4096, EINVAL),
    "configuration space": (4096, MAP_SHARED, 0, EINVAL),
    "from its second page": (4096, MAP_SHARED, 8192, EINVAL),
}


@pytest.mark.parametrize("row", MAPPINGS)
def test_mmap(display, row):
    size, flags, offset, errno = MAPPINGS[row]

    assert errno_of(display.proc.mmap, 0, size, PROT_READ | PROT_WRITE, flags, display.fd, offset) == errno


# ---- planes


def plane(display, flags: int, argsz: int = 64) -> v.vfio_device_gfx_plane_info:
    info = v.vfio_device_gfx_plane_info(argsz=argsz, flags=flags)
    display.proc.ioctl(display.fd, v.VFIO_DEVICE_QUERY_GFX_PLANE, info)
    return info


def test_a_plane(display):
    info = plane(display, REGION)

    assert (info.drm_format, info.drm_format_mod) == (0x34325258, 0)
    assert (info.width, info.height, info.stride, info.size, info.region_index) == (640, 480, 2560, VGA_BYTES, 16)
    assert (info.x_pos, info.y_pos, info.x_hot, info.y_hot) == (0, 0, 0, 0)


PLANES = [(PROBE | REGION, 0), (REGION, 0), (PROBE | DMABUF, EINVAL), (PROBE, EINVAL), (DMABUF, EINVAL), (0, EINVAL),
          (REGION | DMABUF, EINVAL), (PROBE | REGION | DMABUF, EINVAL)]  # fmt: skip


@pytest.mark.parametrize(("flags", "errno"), PLANES)
def test_planes(display, flags, errno):
    assert errno_of(plane, display, flags) == errno


def test_a_plane_and_argsz(display):
    assert errno_of(plane, display, REGION, 59) == EINVAL
    assert plane(display, PROBE | REGION, 60).width == 0


# ---- interrupts, of which there are none


def test_device_info(display):
    assert (display.info.flags, display.info.num_regions, display.info.num_irqs) == (v.VFIO_DEVICE_FLAGS_PCI, 9, 5)


@pytest.mark.parametrize("index", range(6))
def test_irq_info(display, index):
    if index == 5:
        assert errno_of(display.irq, index) == EINVAL
    else:
        assert display.irq(index).count == 0


def test_no_interrupt_is_set(display):
    """Whatever is asked for, and from wherever."""
    assert errno_of(display.disable, 0) == EINVAL
    assert errno_of(display.proc.ioctl, display.fd, v.VFIO_DEVICE_SET_IRQS, 0) == EINVAL
    assert errno_of(display.proc.ioctl, display.fd, v.VFIO_DEVICE_GET_GFX_DMABUF, 0) == ENOTTY
