"""What a device's memory accesses cost: through the IOMMU's tables, beside a memcpy in the same run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pykernel
from pykernel.iommu.dma import DmaDirection, dma_map_single, dma_unmap_single
from pykernel.iommu.iommu import (
    IOMMU_READ,
    IOMMU_WRITE,
    iommu_attach_group,
    iommu_detach_group,
    iommu_domain_alloc,
    iommu_domain_free,
    iommu_group_claim_dma_owner,
    iommu_group_release_dma_owner,
)
from pykernel.machine import parse
from pykernel.mm.phys import PhysMem
from pykernel.pci.core import Pci
from pykernel.tools.bench.measure import Row, per_call

__all__ = ["rows"]

MIB = 1 << 20
FLOOR = "1 MiB copied, bytearray to bytearray"
SHARE = 0.6  # of the floor's speed is the least that a copy by a device shall have
MACHINE = "[[pci]]\nmodel = 'edu'\naddress = '0000:00:05.0'\n"
SRC, DST, SCATTERED = 0x1000, 0x40001000, 0x80000000


def rows() -> Iterator[Row]:
    """All rows of the group."""
    src, dst = bytearray(b"x" * MIB), bytearray(MIB)

    def memcpy() -> None:
        dst[:] = src

    floor = per_call(memcpy)
    yield Row(FLOOR, floor)
    kernel = pykernel.boot(parse(MACHINE))
    kernel.up()
    dev = kernel.sub(Pci).devices["0000:00:05.0"]
    dev.set_master()
    yield from _api(dev)
    yield from _device(dev, floor)
    kernel.shutdown()


def _device(dev: Any, floor: float) -> Iterator[Row]:
    phys = dev.kernel.sub(PhysMem)
    domain, group, function = iommu_domain_alloc(dev), dev.iommu_group, dev.function
    iommu_group_claim_dma_owner(group, domain)
    iommu_attach_group(domain, group)
    prot, pages = IOMMU_READ | IOMMU_WRITE, MIB >> 12
    frames = [phys.alloc_pages(pages), phys.alloc_pages(pages), phys.alloc_pages(2 * pages)]
    domain.map(SRC, frames[0], MIB, prot)
    domain.map(DST, frames[1], MIB, prot)
    for i in range(pages):
        domain.map(SCATTERED + (i << 12), frames[2] + (i << 13), 4096, prot)

    def copy(src: int = SRC, dst: int = DST) -> None:
        function.dma_write(dst, function.dma_read(src, MIB))

    def view_copy() -> None:
        (source,) = function.dma_view(SRC, MIB, write=False)
        (target,) = function.dma_view(DST, MIB, write=True)
        target[:] = source

    def cold() -> None:
        domain.flush_iotlb_all()
        copy()

    data = bytes(64)
    yield Row("1 MiB copied by a device, dma_read+dma_write", per_call(copy), floor / SHARE, FLOOR)
    yield Row("1 MiB copied by a device, dma_view", per_call(view_copy), floor / SHARE, FLOOR)
    yield Row("1 MiB copied by a device, IOTLB empty", per_call(cold), None, FLOOR)
    yield Row("1 MiB copied by a device, from 256 frames", per_call(lambda: copy(SCATTERED)), None, FLOOR)
    yield Row("64 bytes, dma_read", per_call(lambda: function.dma_read(SRC + 64, 64), calls=5000), 2e-6)
    yield Row("64 bytes, dma_write", per_call(lambda: function.dma_write(SRC + 64, data), calls=5000), 2e-6)
    iommu_detach_group(domain, group)
    iommu_group_release_dma_owner(group)
    iommu_domain_free(domain)
    for pa, n in zip(frames, (pages, pages, 2 * pages), strict=True):
        phys.free_pages(pa, n)


def _api(dev: Any) -> Iterator[Row]:
    phys = dev.kernel.sub(PhysMem)
    pa = phys.alloc_pages(16)

    def mapped() -> None:
        addr = dma_map_single(dev, pa, 65536, DmaDirection.BIDIRECTIONAL)
        dma_unmap_single(dev, addr, 65536, DmaDirection.BIDIRECTIONAL)

    yield Row("64 KiB, dma_map_single+dma_unmap_single", per_call(mapped))
    phys.free_pages(pa, 16)
