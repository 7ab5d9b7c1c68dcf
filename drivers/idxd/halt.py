"""
What the driver keeps over a function-level reset, and how it puts it back (drivers/dma/idxd/init.c).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pykernel.drivers.idxd.idxd import IdxdDevice, IdxdGroup, IdxdState, IdxdWq, WqState, WqType

GROUP_FIELDS = (
    "num_engines",
    "num_wqs",
    "use_rdbuf_limit",
    "rdbufs_allowed",
    "rdbufs_reserved",
    "tc_a",
    "tc_b",
    "desc_progress_limit",
    "batch_progress_limit",
)
WQ_FIELDS = (
    "group",
    "size",
    "threshold",
    "priority",
    "dedicated",
    "block_on_fault",
    "ats_disable",
    "prs_disable",
    "opcap_bmap",
    "wq_name",
    "driver_name",
    "wq_type",
    "max_xfer_bytes",
    "max_batch_size",
    "enqcmds_retries",
)


def _take(obj: IdxdGroup | IdxdWq, fields: tuple[str, ...]) -> dict[str, Any]:
    return {name: getattr(obj, name) for name in fields}


@dataclass
class SavedStates:
    """``struct idxd_saved_states``."""

    bound: bool
    rdbuf_limit: int
    evl_size: int
    groups: list[dict[str, Any]]
    wqs: list[dict[str, Any]]
    engines: list[IdxdGroup | None]
    enabled: list[int]

    @classmethod
    def save(cls, idxd: IdxdDevice) -> SavedStates:
        """C: ``int idxd_device_config_save(struct idxd_device *, struct idxd_saved_states *)``."""
        return cls(
            bound=idxd.driver is not None,
            rdbuf_limit=idxd.rdbuf_limit,
            evl_size=idxd.evl.size if idxd.evl else 0,
            groups=[_take(group, GROUP_FIELDS) for group in idxd.groups],
            wqs=[_take(wq, WQ_FIELDS) for wq in idxd.wqs],
            engines=[engine.group for engine in idxd.engines],
            enabled=[wq.id for wq in idxd.wqs if idxd.wq_enable_map >> wq.id & 1],
        )

    def restore(self, idxd: IdxdDevice) -> None:
        """Configuration, device, queues. C: ``idxd_device_config_restore()``, ``idxd_reset_done()``."""
        idxd.state = IdxdState.DISABLED
        self._restore_config(idxd)
        if not self.bound:
            return
        drivers = idxd.module.bus.drivers
        try:
            drivers["idxd"].attach(idxd)
        except OSError:
            idxd.pdev.err(f"HALT: binding {idxd.name} to driver fails")
            return
        for id in self.enabled:
            self._rebind(idxd.wqs[id])

    def _restore_config(self, idxd: IdxdDevice) -> None:
        idxd.rdbuf_limit = self.rdbuf_limit
        if idxd.evl is not None:
            idxd.evl.size = self.evl_size
        for group, fields in zip(idxd.groups, self.groups, strict=True):
            vars(group).update(fields)
        for wq, fields in zip(idxd.wqs, self.wqs, strict=True):
            vars(wq).update(fields)
            wq.state = WqState.DISABLED
        for engine, member in zip(idxd.engines, self.engines, strict=True):
            engine.group = member

    @staticmethod
    def _rebind(wq: IdxdWq) -> None:
        """Only queues of users come back."""
        try:
            if wq.wq_type != WqType.USER:
                raise OSError("kernel queue")
            wq.idxd.module.bus.drivers["user"].attach(wq)
        except OSError:
            wq.idxd.wq_enable_map &= ~(1 << wq.id)
            wq.idxd.pdev.err(f"HALT: unable to re-enable wq {wq.name}")
