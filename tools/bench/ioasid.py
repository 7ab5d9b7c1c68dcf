"""IO address space IDs while half a million of them live: given out and freed, found by the guest's number."""

from __future__ import annotations

from collections.abc import Iterator

import pykernel
from pykernel.iommu.ioasid import (
    IOASID_SET_TYPE_NULL,
    ioasid_alloc,
    ioasid_alloc_set,
    ioasid_attach_spid,
    ioasid_find_by_spid,
    ioasid_free,
)
from pykernel.lib.collector import collector_paused
from pykernel.machine import Machine
from pykernel.tools.bench.measure import Row, per_call

__all__ = ["LIVE", "rows"]

LIVE = 500_000
HIGHEST = (1 << 20) - 1


def rows() -> Iterator[Row]:
    """Each of them, with LIVE IDs in one set that have a SPID."""
    kernel = pykernel.boot(Machine("bare"))
    owner = ioasid_alloc_set(kernel, None, 0, IOASID_SET_TYPE_NULL)
    with collector_paused():
        for spid in range(LIVE):
            ioasid_attach_spid(kernel, ioasid_alloc(owner, 1, HIGHEST), spid)

    def alloc_free() -> None:
        ioasid_free(owner, ioasid_alloc(owner, 1, HIGHEST))

    def hole() -> None:
        ioasid_free(owner, LIVE // 2)
        ioasid_alloc(owner, 1, HIGHEST)

    name = f"an IOASID given out and freed, {LIVE:,} live"
    yield Row(name, per_call(alloc_free, calls=2000), 10e-6)
    yield Row("an IOASID freed in the middle and given out again", per_call(hole, calls=2000), 10e-6, name)
    yield Row("an IOASID found by the guest's number", per_call(lambda: ioasid_find_by_spid(owner, LIVE // 3)), 5e-6)
    kernel.shutdown()
