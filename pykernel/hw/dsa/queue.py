"""Work queues and the portals in BAR2 that fill them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from pykernel.hw.dsa.desc import DESC_SIZE, Descriptor, Work
from pykernel.hw.dsa.regs import WqCfg, WqState

if TYPE_CHECKING:
    from pykernel.hw.dsa.engine import Group
    from pykernel.hw.dsa.function import DsaFunction

__all__ = ["PORTAL_PAGES", "WorkQueue", "is_portal_write", "portal"]

PORTAL_PAGES = 4  # unlimited, limited, and the same two for IMS
PAGE_SHIFT = 12


def portal(off: int) -> tuple[int, bool, bool]:
    """Offset in BAR2 -> WQ index, whether the portal is a limited one, and whether its handles are those of IMS."""
    page = off >> PAGE_SHIFT
    return page // PORTAL_PAGES, bool(page & 1), bool(page & 2)


class WorkQueue:
    """
    One WQ: the entries that wait, the work that engines took from it, and what its WQCFG says of both.

    Occupancy in WQCFG follows every entry that comes or goes. The occupancy interrupt comes when an entry leaves and
    the limit is reached from above (uncertain).
    """

    def __init__(self, device: DsaFunction, index: int, cfg: WqCfg) -> None:
        self.device, self.index, self.cfg = device, index, cfg
        self.entries: deque[Work] = deque()
        self.inflight: list[Work] = []
        self.waiting: list[Work] = []  # Drain descriptors that wait for earlier ones in flight
        self.group: Group | None = None

    # ------------------------------------------------------------------ what WQCFG says
    @property
    def enabled(self) -> bool:
        """State is "enabled" (not "busy", which is on its way off)."""
        return self.cfg.status.bits >> 30 == WqState.ENABLED

    @property
    def dedicated(self) -> bool:
        """Mode."""
        return bool(self.cfg.flags.bits & 1)

    @property
    def may_block(self) -> bool:
        """Block on fault is on and page requests are not disabled."""
        return self.cfg.flags.bits & 0b1010 == 0b0010

    @property
    def max_transfer_size(self) -> int:
        """Bytes."""
        return 1 << (self.cfg.limits.bits & 0x1F)

    @property
    def max_batch_size(self) -> int:
        """Descriptors."""
        return 1 << self.cfg.limits.max_batch_shift

    @property
    def idle(self) -> bool:
        """Nothing waits and nothing is being worked on."""
        return not (self.entries or self.inflight or self.waiting)

    def holds(self, pasid: int) -> bool:
        """Is there anything of *pasid* left?"""
        return any(work.pasid == pasid for work in (*self.entries, *self.inflight, *self.waiting))

    # ------------------------------------------------------------------ filling
    def submit_posted(self, raw: bytes, *, ims: bool = False) -> bool:
        """A 64-byte posted write to a dedicated WQ; PASID and privilege come from WQCFG. False: there was no room."""
        if len(self.entries) >= self.cfg.size.bits:
            return False
        flags = self.cfg.flags
        pasid = flags.pasid if flags.pasid_en else None
        self._append(Work(Descriptor.from_bytes(raw), self, pasid, bool(flags.priv), ims=ims))
        return True

    def submit_deferrable(self, raw: bytes, *, limited: bool, ims: bool = False) -> bool:
        """ENQCMD to a shared WQ; a limited portal fills up to the threshold. False means "retry"."""
        cfg, waiting = self.cfg, len(self.entries)
        if waiting >= cfg.size.bits or (limited and waiting >= cfg.threshold.bits):
            return False
        desc = Descriptor.from_bytes(raw)
        self._append(Work(desc, self, desc.pasid, desc.priv, ims=ims))
        return True

    def _append(self, work: Work) -> None:
        self.entries.append(work)
        self._count()
        if self.group is not None:
            self.group.wake()

    # ------------------------------------------------------------------ emptying
    def take(self) -> Work:
        """The next entry, for an engine."""
        before = len(self.entries)
        work = self.entries.popleft()
        self.inflight.append(work)
        self._count()
        limit = self.cfg.occupancy_limit
        if limit.bits and limit.int_en and before == limit.limit + 1:
            self.cfg.status.occupancy_int = 1
            self.device.occupancy_interrupt(self)
        return work

    def finish(self, work: Work) -> None:
        """An engine is done with *work*."""
        if work in self.inflight:
            self.inflight.remove(work)

    def blocked(self, drain: Work) -> bool:
        """Is an earlier descriptor of the same PASID, which *drain* must wait for, still being worked on?"""
        return any(work is not drain and work.pasid == drain.pasid for work in self.inflight)

    def abort(self, match: Callable[[Work], bool]) -> None:
        """Forget the entries that *match*; what is being worked on ends without a record."""
        self.entries = deque(work for work in self.entries if not match(work))
        self.waiting = [work for work in self.waiting if not match(work)]
        for work in self.inflight:
            work.aborted = work.aborted or match(work)
        self.inflight = [work for work in self.inflight if not (work.aborted and work.blocked)]
        self.device.pages.forget_aborted()
        self._count()

    def _count(self) -> None:
        status = self.cfg.status
        status.bits = status.bits & ~0xFFFF | len(self.entries)


def is_portal_write(off: int, data: bytes) -> bool:
    """A portal takes exactly 64 bytes at a multiple of 64."""
    return len(data) == DESC_SIZE and off % DESC_SIZE == 0
