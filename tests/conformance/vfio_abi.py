"""include/uapi/linux/vfio.h as far as the probe speaks it: ioctl numbers, flags, packed structures."""

from __future__ import annotations

import fcntl
import struct
from itertools import groupby

from probing import Probe, call

BASE = 0x3B64
GET_API_VERSION, CHECK_EXTENSION, SET_IOMMU, GROUP_GET_STATUS = BASE, BASE + 1, BASE + 2, BASE + 3
SET_CONTAINER, UNSET_CONTAINER, GET_DEVICE_FD = BASE + 4, BASE + 5, BASE + 6
GET_INFO, GET_REGION_INFO, GET_IRQ_INFO, SET_IRQS, RESET = BASE + 7, BASE + 8, BASE + 9, BASE + 10, BASE + 11
GET_PCI_HOT_RESET_INFO, PCI_HOT_RESET, IOEVENTFD, FEATURE = BASE + 12, BASE + 13, BASE + 16, BASE + 17
IOMMU_GET_INFO, MAP_DMA, UNMAP_DMA, DIRTY_PAGES = BASE + 12, BASE + 13, BASE + 14, BASE + 17

TYPE1, TYPE1V2, NESTING, NOIOMMU = 1, 3, 6, 8
READ, WRITE, VADDR = 1, 2, 4
UNMAP_DIRTY, UNMAP_ALL, UNMAP_VADDR = 1, 2, 4
DIRTY_START, DIRTY_STOP, DIRTY_GET = 1, 2, 4
DATA_NONE, DATA_BOOL, DATA_EVENTFD, MASK, UNMASK, TRIGGER = 1, 2, 4, 8, 16, 32
INTX, MSI, MSIX, ERR, REQ = 0, 1, 2, 3, 4
GET, SET, PROBE = 1 << 16, 1 << 17, 1 << 18
CONFIG = 7 << 40
CANARY = b"\xee" * 16
TOP = (1 << 64) - 1

IRQ_NAMES = ("INTX", "MSI", "MSIX", "ERR", "REQ", "index 5")
FLAG_NAMES = ("NONE", "BOOL", "EVENTFD", "MASK", "UNMASK", "TRIGGER", "bit 6")


def flag_names(flags: int) -> str:
    """SET_IRQS flags as text."""
    return "|".join(name for bit, name in enumerate(FLAG_NAMES) if flags >> bit & 1) or "no flag"


def words(data: bytes) -> str:
    """32-bit words in hexadecimal; four and more of the same as ``word*4``."""
    out = []
    for word, same in groupby(w for (w,) in struct.iter_unpack("<I", data[: len(data) & ~3])):
        n = len(list(same))
        out += [f"{word:x}*{n}"] if n > 3 else [f"{word:x}"] * n
    return " ".join(out)


def u32(*values: int) -> bytes:
    """Packed 32-bit words."""
    return struct.pack(f"<{len(values)}I", *(v & 0xFFFFFFFF for v in values))


def u64(*values: int) -> bytes:
    """Packed 64-bit words."""
    return struct.pack(f"<{len(values)}Q", *values)


def dma_map(vaddr: int, iova: int, size: int, flags: int = READ | WRITE, argsz: int = 32) -> bytes:
    """struct vfio_iommu_type1_dma_map."""
    return u32(argsz, flags) + u64(vaddr, iova, size)


def dma_unmap(iova: int, size: int, flags: int = 0, argsz: int = 24) -> bytes:
    """struct vfio_iommu_type1_dma_unmap."""
    return u32(argsz, flags) + u64(iova, size)


def irq_set(flags: int, index: int, start: int, count: int, data: bytes = b"", argsz: int | None = None) -> bytes:
    """struct vfio_irq_set."""
    return u32(20 + len(data) if argsz is None else argsz, flags, index, start, count) + data


def tried(fd: int, request: int, data: bytes) -> object:
    """What the ioctl gives; with the words of the structure and what follows it if it changed."""
    buf = bytearray(data + CANARY)
    before = bytes(buf)
    result = call(fcntl.ioctl, fd, request, buf)
    return result if bytes(buf) == before else (result, words(bytes(buf)))


def ask(q: Probe, what: str, fd: int, request: int, data: bytes) -> object:
    """Say what :func:`tried` gives."""
    answer = tried(fd, request, data)
    q.say(what, answer)
    return answer


def plain(fd: int, request: int, arg: int = 0) -> object:
    """An ioctl with a number, or a pointer to nowhere."""
    return call(fcntl.ioctl, fd, request, arg)


def mapped(fd: int, vaddr: int, iova: int, size: int, flags: int = READ | WRITE) -> object:
    """MAP_DMA."""
    return tried(fd, MAP_DMA, dma_map(vaddr, iova, size, flags))


def unmapped(fd: int, iova: int, size: int, flags: int = 0) -> object:
    """UNMAP_DMA: how many bytes, or the errno's name."""
    buf = bytearray(dma_unmap(iova, size, flags))
    result = call(fcntl.ioctl, fd, UNMAP_DMA, buf)
    return struct.unpack_from("<Q", buf, 16)[0] if result == 0 else result


def set_irqs(fd: int, flags: int, index: int, start: int, count: int, data: bytes = b"") -> object:
    """SET_IRQS."""
    return call(fcntl.ioctl, fd, SET_IRQS, bytearray(irq_set(flags, index, start, count, data)))
