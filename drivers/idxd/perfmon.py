"""
The performance monitor, as far as it shows without counters (drivers/dma/idxd/perfmon.c).

A part whose PERFCAP names counters would get a PMU in /sys/bus/event_source; without counters the driver only warns.
"""

from __future__ import annotations

from errno import ENODEV

from pykernel.drivers.idxd.idxd import IdxdDevice
from pykernel.drivers.idxd.registers import (
    IDXD_PERFCAP_OFFSET,
    IDXD_PERFRST_OFFSET,
    IDXD_PERFRST_PERFRST_CONFIG,
    IDXD_PERFRST_PERFRST_COUNTER,
    PerfCap,
)
from pykernel.errors import err


def pmu_init(idxd: IdxdDevice) -> None:
    """C: ``int perfmon_pmu_init(struct idxd_device *idxd)``. Raises ENODEV: no counters that the driver can use."""
    if idxd.perfmon_offset == 0:
        raise err(ENODEV, "no performance monitor")
    reset = IDXD_PERFRST_PERFRST_CONFIG | IDXD_PERFRST_PERFRST_COUNTER
    idxd.reg_base.writel(reset, idxd.perfmon_offset + IDXD_PERFRST_OFFSET)
    cap = PerfCap(idxd.reg_base.readq(idxd.perfmon_offset + IDXD_PERFCAP_OFFSET))
    usable = cap.num_perf_counter and cap.counter_width and cap.overflow_interrupt and cap.counter_freeze
    if not usable or not cap.num_event_category or cap.cap_per_counter:
        raise err(ENODEV, f"PERFCAP {cap.bits:#x}")


def counter_overflow(idxd: IdxdDevice) -> None:
    """No counter is ever programmed, so none overflows. C: ``perfmon_counter_overflow()``."""
