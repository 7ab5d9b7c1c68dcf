"""
Device-TLBs (PCI Express ATS; VT-d 4): what a device remembers of the translations that it asked for.

A device that has ATS enabled, and DTE in its context entry, keeps them until an invalidation request reaches it: the
IOTLB's invalidation is not enough.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pykernel.hw.vtd.iotlb import Iotlb
from pykernel.hw.vtd.queue import Invalidation, Kind
from pykernel.uapi.linux.pci_regs import PCI_ATS_CTRL, PCI_ATS_CTRL_ENABLE, PCI_EXT_CAP_ID_ATS

if TYPE_CHECKING:
    from pykernel.hw.vtd.unit import Requester, VtdUnit
    from pykernel.pci.slot import Slot

__all__ = ["DeviceTlbs"]

Key = tuple[int | None, bool]  # PASID, supervisor


class DeviceTlbs:
    """Those of all devices behind a unit."""

    def __init__(self, unit: VtdUnit) -> None:
        self.unit = unit
        self._tlbs: dict[Slot, dict[Key, Iotlb]] = {}

    @staticmethod
    def enabled(slot: Slot) -> bool:
        """ATS control of the function in *slot*."""
        config = slot.function.config
        at = config.ext_caps.get(PCI_EXT_CAP_ID_ATS)
        return at is not None and bool(config.get(at + PCI_ATS_CTRL, 2) & PCI_ATS_CTRL_ENABLE)

    def of(self, requester: Requester, pasid: int) -> Iotlb:
        """What the device remembers for *requester*."""
        tlbs = self._tlbs.setdefault(requester.slot, {})
        key = (None if requester.pasid is None else pasid, requester.priv)
        return tlbs.setdefault(key, Iotlb())

    def look(self) -> None:
        """A device that has ATS no more, or a slot that is empty, has forgotten all of it."""
        for slot in [s for s in self._tlbs if s.gone or not self.enabled(s)]:
            for tlb in self._tlbs.pop(slot).values():
                tlb.forget()
            slot.forget()

    def invalidate(self, what: Invalidation) -> None:
        """
        An invalidation request to a device.

        One that is not there does not answer: the wait descriptor behind it ends with ITE.
        """
        self.look()
        if not self._answers(what.source):
            self.unit.device_timed_out(what.source)
            return
        for slot, tlbs in self._tlbs.items():
            if slot.source != what.source:
                continue
            for (pasid, _), tlb in list(tlbs.items()):
                if what.kind is Kind.DEVICE_TLB and pasid is not None:
                    continue
                if what.kind is Kind.PASID_DEVICE_TLB and not what.granularity and pasid != what.pasid:
                    continue
                tlb.invalidate(what.addr, what.order)

    def _answers(self, source: int) -> bool:
        return any(slot.source == source for slot in self.unit.pci.slots.values())
