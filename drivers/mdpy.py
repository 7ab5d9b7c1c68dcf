"""
mdpy: displays that are not there, as mediated devices (samples/vfio-mdev/mdpy.c).

Each is a frame buffer, which is mapped, and a configuration space that says how to read it. Loaded, the module makes
the parent ``/sys/devices/virtual/mdpy/mdpy``, which has at most ``count`` of them.
"""

from __future__ import annotations

from contextlib import ExitStack
from errno import EFAULT, EINVAL
from typing import Any, ClassVar, Final

from pykernel.base.class_ import Class
from pykernel.base.core import Device
from pykernel.base.module import Module, Param
from pykernel.drivers.mdev_sample import SampleDevice
from pykernel.errors import err
from pykernel.fs.chardev import MAJOR, Chrdevs, alloc_chrdev_region, unregister_chrdev_region
from pykernel.fs.ioctl import ioctl
from pykernel.fs.sysfs import Attribute
from pykernel.fs.vfs import File
from pykernel.log import INFO
from pykernel.mdev import (
    MdevDevice,
    MdevDriver,
    MdevParent,
    MdevType,
    mdev_register_driver,
    mdev_register_parent,
    mdev_unregister_driver,
    mdev_unregister_parent,
)
from pykernel.mm.phys import PhysMem
from pykernel.mm.uaccess import PAGE_SIZE
from pykernel.mm.vma import VM_SHARED, Page, Shmem, Vma
from pykernel.uapi.linux.vfio import (
    VFIO_DEVICE_API_PCI_STRING,
    VFIO_DEVICE_GET_IRQ_INFO,
    VFIO_DEVICE_GET_REGION_INFO,
    VFIO_DEVICE_QUERY_GFX_PLANE,
    VFIO_DEVICE_RESET,
    VFIO_DEVICE_SET_IRQS,
    VFIO_GFX_PLANE_TYPE_PROBE,
    VFIO_GFX_PLANE_TYPE_REGION,
    VFIO_PCI_BAR0_REGION_INDEX,
    VFIO_PCI_CONFIG_REGION_INDEX,
    VFIO_PCI_NUM_REGIONS,
    VFIO_REGION_INFO_FLAG_MMAP,
    VFIO_REGION_INFO_FLAG_READ,
    VFIO_REGION_INFO_FLAG_WRITE,
    vfio_device_gfx_plane_info,
    vfio_irq_info,
    vfio_region_info,
)

__all__ = ["MODULE", "MdpyDevice", "MdpyDriver", "MdpyModule", "MdpyType"]

MINORS: Final = 1 << 20
MDPY_CONFIG_SPACE_SIZE: Final = 0xFF
MDPY_MEMORY_BAR_OFFSET: Final = PAGE_SIZE
MDPY_DISPLAY_REGION: Final = 16
DRM_FORMAT_XRGB8888: Final = 0x34325258  # "XR24"
BYTEPP: Final = 4
U32: Final = 0xFFFFFFFF
BAR0: Final = 0x10
MEM_MASK: Final = ~0xF & U32

# samples/vfio-mdev/mdpy-defs.h: the configuration that a driver of the display reads
MDPY_VENDORCAP_OFFSET, MDPY_VENDORCAP_SIZE = 0x40, 0x10
MDPY_FORMAT_OFFSET, MDPY_WIDTH_OFFSET, MDPY_HEIGHT_OFFSET = 0x44, 0x48, 0x4C

# offset, what is there
INITIAL: Final = (
    (0x00, b"\x36\x1b\x0f\x00"),  # vendor and device
    (0x04, b"\x03\x00\x10\x00"),  # I/O and memory; there are capabilities
    (0x08, b"\x01"),  # revision
    (0x0A, b"\x80\x03"),  # another display controller
    (BAR0, b"\x08\x00\x00\x00"),  # memory, prefetchable
    (0x2C, b"\xf4\x1a\x00\x11"),  # subsystem
    (0x34, bytes((MDPY_VENDORCAP_OFFSET,))),
    (MDPY_VENDORCAP_OFFSET, bytes((9, 0, MDPY_VENDORCAP_SIZE))),
    (MDPY_FORMAT_OFFSET, DRM_FORMAT_XRGB8888.to_bytes(4, "little")),
)


class MdpyType(MdevType):
    """``struct mdpy_type``: a resolution."""

    def __init__(self, sysfs_name: str, width: int, height: int) -> None:
        super().__init__(sysfs_name, f"mdpy-{sysfs_name}")
        self.width, self.height = width, height

    @property
    def stride(self) -> int:
        """Bytes of a line."""
        return self.width * BYTEPP

    @property
    def memsize(self) -> int:
        """Bytes of the frame buffer: a power of two."""
        return 1 << (self.stride * self.height - 1).bit_length()


class FrameBuffer(Shmem):
    """The memory; a page is drawn when it is first used."""

    def __init__(self, phys: PhysMem, mtype: MdpyType) -> None:
        super().__init__(phys, mtype.memsize)
        self.mtype = mtype

    def fault(self, pgoff: int) -> Page:
        """The page at *pgoff*."""
        new = pgoff not in self.pages
        page = super().fault(pgoff)
        if new:
            self._draw(pgoff, page)
        return page

    def reset(self) -> None:
        """mdpy_reset(): each line has a gray of its own; what is behind the last line stays."""
        for pgoff, page in self.pages.items():
            self._draw(pgoff, page)

    def _draw(self, pgoff: int, page: Page) -> None:
        start, stride, height = pgoff * PAGE_SIZE, self.mtype.stride, self.mtype.height
        for y in range(start // stride, min(height, -(-(start + PAGE_SIZE) // stride))):
            first, end = max(start, y * stride), min(start + PAGE_SIZE, (y + 1) * stride)
            page.data[first - start : end - start] = bytes((y * 255 // height,)) * (end - first)


class MdpyDevice(SampleDevice):
    """``struct mdev_state``: one display. Raises ENOMEM: by fault injection."""

    def __init__(self, mdev: MdevDevice, mtype: MdpyType) -> None:
        super().__init__(mdev)
        self.type = mtype
        self.kernel.faults.alloc("mdpy vconfig")
        self.config = bytearray(MDPY_CONFIG_SPACE_SIZE)
        for offset, value in (*INITIAL, *self._resolution()):
            self.config[offset : offset + len(value)] = value
        self.kernel.faults.alloc("mdpy memblk")
        self.memory = FrameBuffer(self.kernel.sub(PhysMem), mtype)
        mdev.info(f"mdpy_init_dev: {mtype.pretty_name} ({mtype.width}x{mtype.height})")

    def _resolution(self) -> tuple[tuple[int, bytes], ...]:
        width, height = self.type.width.to_bytes(4, "little"), self.type.height.to_bytes(4, "little")
        return (MDPY_WIDTH_OFFSET, width), (MDPY_HEIGHT_OFFSET, height)

    # ---- read, write, mmap

    def access_read(self, pos: int, size: int) -> bytes:
        """mdev_access(). Raises EFAULT: nothing is there."""
        if pos < MDPY_CONFIG_SPACE_SIZE:
            return bytes(self.config[pos : pos + size]).ljust(size, b"\0")
        self._check_memory("RD", pos, size)
        return bytes(self.memory.fault(0).data[:size])  # Linux forgets the offset: it is always the first bytes

    def access_write(self, pos: int, data: bytes) -> None:
        """mdev_access(). Raises EFAULT: nothing is there."""
        if pos < MDPY_CONFIG_SPACE_SIZE:
            self._write_config(pos, data)
            return
        self._check_memory("WR", pos, len(data))
        self.memory.fault(0).data[: len(data)] = data  # as with reads

    def _check_memory(self, what: str, pos: int, size: int) -> None:
        if not MDPY_MEMORY_BAR_OFFSET <= pos <= MDPY_MEMORY_BAR_OFFSET + self.type.memsize - size:
            self.dev.info(f"mdev_access: {what} @0x{pos:x} (unhandled)")
            raise err(EFAULT, f"nothing is at {pos:#x}")

    def _write_config(self, offset: int, data: bytes) -> None:
        # handle_pci_cfg_write(): only BAR 0 takes anything, whole or not
        if offset != BAR0:
            return
        address = int.from_bytes(data, "little")
        if address == U32:
            address &= ~self.type.memsize + 1
        else:
            address &= MEM_MASK
            if address:
                self.dev.info(f"BAR0 @ 0x{address:x}")
        address |= self.config[BAR0] & ~MEM_MASK
        self.config[BAR0 : BAR0 + 4] = (address & U32).to_bytes(4, "little")

    def mmap(self, vma: Vma) -> None:
        """mdpy_mmap(). Raises EINVAL: not the frame buffer from its beginning, more of it than there is, private."""
        first = MDPY_MEMORY_BAR_OFFSET // PAGE_SIZE
        if vma.vm_pgoff != first or vma.vm_end - vma.vm_start > self.type.memsize or not vma.vm_flags & VM_SHARED:
            raise err(EINVAL)
        vma.fault = lambda pgoff: self.memory.fault(pgoff - first)

    # ---- ioctls

    @ioctl(VFIO_DEVICE_GET_REGION_INFO)
    def get_region_info(self, info: vfio_region_info, arg: int) -> None:
        """mdpy_get_region_info(). Raises EINVAL: no such region."""
        if info.index >= VFIO_PCI_NUM_REGIONS and info.index != MDPY_DISPLAY_REGION:
            raise err(EINVAL, f"region {info.index}")
        rw = VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE
        info.size = info.offset = info.flags = 0
        if info.index == VFIO_PCI_CONFIG_REGION_INDEX:
            info.size, info.flags = MDPY_CONFIG_SPACE_SIZE, rw
        elif info.index in (VFIO_PCI_BAR0_REGION_INDEX, MDPY_DISPLAY_REGION):
            info.offset, info.size = MDPY_MEMORY_BAR_OFFSET, self.type.memsize
            info.flags = rw | VFIO_REGION_INFO_FLAG_MMAP
        self.put_info(VFIO_DEVICE_GET_REGION_INFO, info, arg)

    @ioctl(VFIO_DEVICE_GET_IRQ_INFO)
    def get_irq_info(self, info: vfio_irq_info, arg: int) -> None:
        """There are no interrupts. Raises EINVAL: no such index, or nobody asked for the device's info."""
        if info.index >= self.num_irqs:
            raise err(EINVAL, f"interrupt {info.index}")
        info.count = 0
        self.put_info(VFIO_DEVICE_GET_IRQ_INFO, info, arg)

    @ioctl(VFIO_DEVICE_QUERY_GFX_PLANE)
    def query_gfx_plane(self, plane: vfio_device_gfx_plane_info, arg: int) -> None:
        """mdpy_query_gfx_plane(). Raises EINVAL: a plane that is no region."""
        if plane.flags & VFIO_GFX_PLANE_TYPE_PROBE:
            if plane.flags != VFIO_GFX_PLANE_TYPE_PROBE | VFIO_GFX_PLANE_TYPE_REGION:
                raise err(EINVAL)
        elif plane.flags != VFIO_GFX_PLANE_TYPE_REGION:
            raise err(EINVAL)
        else:
            mtype = self.type
            plane.drm_format, plane.drm_format_mod = DRM_FORMAT_XRGB8888, 0
            plane.width, plane.height, plane.stride = mtype.width, mtype.height, mtype.stride
            plane.size, plane.region_index = mtype.memsize, MDPY_DISPLAY_REGION
            plane.x_pos = plane.y_pos = plane.x_hot = plane.y_hot = 0
        self.put_info(VFIO_DEVICE_QUERY_GFX_PLANE, plane, arg)

    @ioctl(VFIO_DEVICE_RESET)
    def reset(self, arg: int) -> None:
        """The first picture again."""
        self.memory.reset()

    def ioctl(self, cmd: int, arg: int) -> int:
        """mdpy_ioctl(). Raises EINVAL: VFIO_DEVICE_SET_IRQS, whatever *arg* is. ENOTTY."""
        if cmd == VFIO_DEVICE_SET_IRQS.nr:
            raise err(EINVAL, "there are no interrupts")
        return super().ioctl(cmd, arg)


class MdpyDriver(MdevDriver):
    """``static struct mdev_driver mdpy_driver``."""

    device_api = VFIO_DEVICE_API_PCI_STRING
    dev_groups: ClassVar[dict[str, tuple[Attribute, ...]]] = {
        "vendor": (
            Attribute("resolution", lambda dev: f"{dev.mdev_type.width}x{dev.mdev_type.height}\n", None, 0o444),
        ),
    }

    def probe(self, mdev: MdevDevice, /) -> None:
        """mdpy_probe(). Raises ENOMEM."""
        from pykernel.vfio.main import vfio_register_emulated_iommu_dev  # many load the module, few make a display

        mtype: Any = mdev.mdev_type
        device = MdpyDevice(mdev, mtype)
        vfio_register_emulated_iommu_dev(device)
        mdev.drvdata = device

    def remove(self, mdev: MdevDevice, /) -> None:
        """mdpy_remove(): waits until nobody has it open."""
        from pykernel.vfio.main import vfio_unregister_group_dev

        mdev.info("mdpy_remove")
        vfio_unregister_group_dev(mdev.drvdata)

    def show_description(self, mtype: MdpyType, /) -> str:
        """mdpy_show_description()."""
        return f"virtual display, {mtype.width}x{mtype.height} framebuffer\n"


class MdpyModule(Module):
    """Mediated virtual PCI display host device driver."""

    name_ = "mdpy"
    depends = ("vfio", "mdev")
    params: ClassVar[tuple[Param, ...]] = (Param("count", "int", 4),)

    def init(self) -> None:
        """mdpy_dev_init(). Raises EBUSY, EEXIST; ENOMEM by fault injection."""
        kernel, chrdevs = self.kernel, self.kernel.sub(Chrdevs)
        with ExitStack() as undo:
            self.devt = alloc_chrdev_region(kernel, 0, MINORS, "mdpy")
            undo.callback(unregister_chrdev_region, kernel, self.devt, MINORS)
            chrdevs.add(self.devt, File, self)
            undo.callback(chrdevs.delete, self.devt)
            kernel.log.printk(INFO, f"mdpy_dev_init: major {MAJOR(self.devt)}")
            self.driver = MdpyDriver(kernel, "mdpy", self)
            self.driver.max_instances = self.param["count"]
            mdev_register_driver(self.driver)
            undo.callback(mdev_unregister_driver, self.driver)
            self.class_ = Class(kernel, "mdpy")
            self.class_.register()
            undo.callback(self.class_.unregister)
            self.dev = Device(kernel, "mdpy", class_=self.class_)
            self.dev.register()
            undo.callback(self.dev.unregister)
            self.parent_ = MdevParent()
            types = (MdpyType("vga", 640, 480), MdpyType("xga", 1024, 768), MdpyType("hd", 1920, 1080))
            mdev_register_parent(self.parent_, self.dev, self.driver, types)
            undo.pop_all()

    def exit(self) -> None:
        """mdpy_dev_exit()."""
        mdev_unregister_parent(self.parent_)
        self.dev.unregister()
        mdev_unregister_driver(self.driver)
        self.kernel.sub(Chrdevs).delete(self.devt)
        unregister_chrdev_region(self.kernel, self.devt, MINORS)
        self.class_.unregister()


MODULE = MdpyModule
