"""PASID tables that are a dictionary: for tests of what comes before and after them."""

from __future__ import annotations

from errno import EBUSY
from types import SimpleNamespace
from typing import Any

from pykernel.errors import err
from pykernel.iommu import aux_domain, gpasid, gpasid_invalidate
from pykernel.iommu.intel import IntelIommu
from pykernel.vfio import type1_nesting

__all__ = ["FakeVtd"]


class FakeVtd:
    """
    Stands below ``pykernel.iommu.gpasid`` and its like.

    Attributes:
        entries: (device, PASID) -> ("nested", gpgd, domain, width, flags) or ("second", domain).
        log: everything that was done, in order, with what *note* appended in between.
        fail: an errno for the next entry.
        answers: (group, code) of page requests.
    """

    def __init__(self, monkeypatch: Any, max_pasids: int = 1 << 20) -> None:
        self.entries: dict[tuple[str, int], tuple[Any, ...]] = {}
        self.log: list[tuple[Any, ...]] = []
        self.max_pasids = max_pasids
        self.fail = 0
        self.answers: list[tuple[int, int]] = []
        self.unit = SimpleNamespace(drain_prq=self._drain, qi=self)
        for module in (gpasid, aux_domain, gpasid_invalidate):
            monkeypatch.setattr(module, "device_info", self._info)
        for module in (gpasid, aux_domain):
            monkeypatch.setattr(module, "intel_pasid_setup_second_level", self._second)
            monkeypatch.setattr(module, "intel_pasid_tear_down_entry", self._tear_down)
        monkeypatch.setattr(gpasid, "intel_pasid_setup_nested", self._nested)
        monkeypatch.setattr(IntelIommu, "page_response", self._answer)
        monkeypatch.setattr(type1_nesting, "nesting_supported", lambda unit: unit.scalable)

    def _info(self, dev: Any) -> Any:
        return SimpleNamespace(
            unit=self.unit, max_pasids=self.max_pasids, dev=dev, ats_enabled=True, sid=1, pfsid=0, ats_qdep=32
        )

    def _put(self, dev: Any, pasid: int, entry: tuple[Any, ...]) -> None:
        if self.fail:
            number, self.fail = self.fail, 0
            raise err(number, "as the test wants")
        if (dev.name, pasid) in self.entries:
            raise err(EBUSY, "the entry is present")
        self.entries[dev.name, pasid] = entry
        self.log.append(("enter", dev.name, pasid, entry[0]))

    def _nested(self, dev: Any, pasid: int, gpgd: int, domain: Any, width: int, flags: int) -> None:
        self._put(dev, pasid, ("nested", gpgd, domain, width, flags))

    def _second(self, domain: Any, dev: Any, pasid: int) -> None:
        self._put(dev, pasid, ("second", domain))

    def _tear_down(self, dev: Any, pasid: int) -> None:
        self.entries.pop((dev.name, pasid), None)
        self.log.append(("leave", dev.name, pasid))

    def _drain(self, info: Any, pasid: int) -> None:
        self.log.append(("drain", info.dev.name, pasid))

    def _answer(self, info: Any, fault: Any, code: int) -> None:
        self.answers.append((fault.grpid, code))

    # ---- the invalidation queue

    def flush_piotlb(self, did: int, pasid: int, addr: int, npages: int, *, ih: bool = False) -> None:
        """What was asked for."""
        self.log.append(("piotlb", pasid, addr, npages, ih))

    def flush_pasid_cache(self, did: int, granu: int, pasid: int) -> None:
        """What was asked for."""
        self.log.append(("pasid-cache", granu, pasid))

    def flush_dev_iotlb_pasid(self, sid: int, pfsid: int, pasid: int, qdep: int, addr: int, order: int) -> None:
        """What was asked for."""
        self.log.append(("dev-iotlb", pasid, addr, order))

    def done(self) -> list[tuple[Any, ...]]:
        """The log till now."""
        found = self.log[:]
        self.log.clear()
        return found
