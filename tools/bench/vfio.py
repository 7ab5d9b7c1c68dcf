"""What MAP_DMA and UNMAP_DMA of type 1 cost while few and many mappings live, beside an ioctl that does nothing."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from mmap import MAP_ANONYMOUS, MAP_PRIVATE, PROT_READ, PROT_WRITE
from statistics import median
from typing import Any

import pykernel
from pykernel.machine import parse
from pykernel.syscalls import Process
from pykernel.tools.bench.measure import Row, per_call
from pykernel.uapi.linux import vfio as v

__all__ = ["rows"]

BDF = "0000:00:05.0"
MACHINE = f"""
[[pci]]
model = "edu"
address = "{BDF}"
[modules]
vfio_pci = ""
vfio_iommu_type1 = "dma_entry_limit=200000"
"""
DEVICE = f"/sys/bus/pci/devices/{BDF}"
FLOOR = "ioctl of a container, VFIO_GET_API_VERSION"
LIVE = (10, 1_000, 10_000, 100_000)
TARGET = 60e-6
PAGE, GIB = 4096, 1 << 30
MEMORY = 1024  # pages of the client that are mapped again and again
BLOCKS, CALLS = 15, 200
RW = v.VFIO_DMA_MAP_FLAG_READ | v.VFIO_DMA_MAP_FLAG_WRITE


def rows() -> Iterator[Row]:
    """All rows of the group."""
    kernel = pykernel.boot(parse(MACHINE))
    proc = kernel.process(comm="bench")
    proc.write_text(f"{DEVICE}/driver_override", "vfio-pci")
    proc.write_text("/sys/bus/pci/drivers_probe", BDF)
    with container(proc) as fd:
        yield Row(FLOOR, per_call(lambda: proc.ioctl(fd, v.VFIO_GET_API_VERSION)))
    for live in LIVE:
        with container(proc) as fd:
            yield from _pages(proc, fd, live)
    with container(proc) as fd:
        yield from _large(proc, fd)
    proc.exit()
    kernel.shutdown()


@contextmanager
def container(proc: Process) -> Iterator[int]:
    """A descriptor of /dev/vfio/vfio with the device's group, of type 1 version 2."""
    fd = proc.open("/dev/vfio/vfio", os.O_RDWR)
    group = proc.open(f"/dev/vfio/{os.path.basename(proc.readlink(f'{DEVICE}/iommu_group'))}", os.O_RDWR)
    proc.ioctl(group, v.VFIO_GROUP_SET_CONTAINER, bytearray(fd.to_bytes(4, "little")))
    proc.ioctl(fd, v.VFIO_SET_IOMMU, v.VFIO_TYPE1v2_IOMMU)
    try:
        yield fd
    finally:
        proc.close(group)
        proc.close(fd)


def _memory(proc: Process, size: int) -> int:
    return proc.mmap(0, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS)


def _map(vaddr: int, iova: int, size: int = PAGE) -> Any:
    return v.vfio_iommu_type1_dma_map(argsz=32, flags=RW, vaddr=vaddr, iova=iova, size=size)


def _unmap(iova: int, size: int = PAGE) -> Any:
    return v.vfio_iommu_type1_dma_unmap(argsz=24, iova=iova, size=size)


def _pages(proc: Process, fd: int, live: int) -> Iterator[Row]:
    """One page between *live* others, anywhere."""
    vaddr, base = _memory(proc, MEMORY * PAGE), 1 << 32
    for n in range(live):
        proc.ioctl(fd, v.VFIO_IOMMU_MAP_DMA, _map(vaddr + n % MEMORY * PAGE, base + 2 * n * PAGE))
    rng = random.Random(live)
    taken: dict[str, list[float]] = {"MAP": [], "UNMAP": []}
    for _ in range(BLOCKS + 1):
        free = rng.sample(range(max(live, CALLS)), CALLS)
        at = [base + (2 * n + 1) * PAGE for n in free]
        taken["MAP"].append(_timed(proc, fd, v.VFIO_IOMMU_MAP_DMA, [_map(vaddr, iova) for iova in at]))
        taken["UNMAP"].append(_timed(proc, fd, v.VFIO_IOMMU_UNMAP_DMA, [_unmap(iova) for iova in at]))
    for name, means in taken.items():
        yield Row(_name(name, live), median(means[1:]), TARGET, _name(name, LIVE[0]) if live != LIVE[0] else FLOOR)


def _name(call: str, live: int) -> str:
    return f"{call}_DMA of a page, {live} live mappings"


def _timed(proc: Process, fd: int, cmd: Any, structs: list[Any]) -> float:
    start = time.perf_counter()
    for struct in structs:
        proc.ioctl(fd, cmd, struct)
    return (time.perf_counter() - start) / len(structs)


def _large(proc: Process, fd: int) -> Iterator[Row]:
    """A GiB at once, and what was written of it."""
    vaddr = _memory(proc, GIB)
    proc.ioctl(fd, v.VFIO_IOMMU_DIRTY_PAGES, bytearray((8).to_bytes(4, "little") + (1).to_bytes(4, "little")))
    start = time.perf_counter()
    proc.ioctl(fd, v.VFIO_IOMMU_MAP_DMA, _map(vaddr, 0, GIB))
    yield Row("MAP_DMA of 1 GiB, fresh memory", time.perf_counter() - start)
    n = GIB // PAGE // 8
    bitmap = v.vfio_bitmap(pgsize=PAGE, size=n, data=_memory(proc, n))
    ask = v.vfio_iommu_type1_dirty_bitmap_get(iova=0, size=GIB, bitmap=bitmap)
    head = v.vfio_iommu_type1_dirty_bitmap(argsz=48, flags=v.VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP)
    room = bytearray(bytes(head)[:8] + bytes(ask))
    get = per_call(lambda: proc.ioctl(fd, v.VFIO_IOMMU_DIRTY_PAGES, room), calls=20)
    yield Row("DIRTY_PAGES of 1 GiB, GET_BITMAP", get)
    start = time.perf_counter()
    proc.ioctl(fd, v.VFIO_IOMMU_UNMAP_DMA, _unmap(0, GIB))
    yield Row("UNMAP_DMA of 1 GiB", time.perf_counter() - start)
