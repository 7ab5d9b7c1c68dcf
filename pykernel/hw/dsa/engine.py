"""
Groups and engines: which WQ is served next, and the steps in which engines work.

An engine does one descriptor a step, and steps run on the machine's scheduler (``port.call_soon``). Within a group the
choice is a smooth weighted round robin: over any stretch in which all WQs have work, each is served in proportion to
its priority, interleaved, and always in the same order.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from pykernel.hw.dsa.desc import Blocked, Context, Work
from pykernel.hw.dsa.queue import WorkQueue
from pykernel.uapi.linux.idxd import DSA_OPCODE_DRAIN

if TYPE_CHECKING:
    from pykernel.hw.dsa.function import DsaFunction

__all__ = ["Engine", "Group"]


class Group:
    """WQs that share engines, as GRPCFG said when the device was enabled."""

    def __init__(self, device: DsaFunction, wqs: list[WorkQueue], engines: list[int]) -> None:
        self.device, self.wqs = device, wqs
        self.engines = [Engine(self, n) for n in engines]
        self._credit = {wq.index: 0 for wq in wqs}
        self._resumed: deque[Work] = deque()
        for wq in wqs:
            wq.group = self

    def wake(self) -> None:
        """There is work: set an idle engine going."""
        for engine in self.engines:
            if not engine.busy:
                engine.start()
                return

    def resume(self, work: Work) -> None:
        """What *work* waited for has come: an engine goes on with it, before what is new."""
        self._resumed.append(work)
        self.wake()

    @property
    def has_work(self) -> bool:
        """Is there anything for an engine to take?"""
        return bool(self._resumed) or any(wq.entries for wq in self.wqs)

    def next_work(self) -> Work | None:
        """Take what was set aside and can go on, else the next entry from the WQ whose turn it is."""
        if self._resumed:
            return self._resumed.popleft()
        if len(self.wqs) == 1:
            return self.wqs[0].take() if self.wqs[0].entries else None
        ready = [wq for wq in self.wqs if wq.entries]
        if not ready:
            return None
        for wq in ready:
            self._credit[wq.index] += wq.cfg.flags.priority
        best = max(ready, key=lambda wq: (self._credit[wq.index], -wq.index))
        self._credit[best.index] -= sum(wq.cfg.flags.priority for wq in ready)
        return best.take()


class Engine:
    """One engine; *busy* while a step of it is scheduled or running."""

    def __init__(self, group: Group, index: int) -> None:
        self.group, self.index, self.busy = group, index, False

    def start(self) -> None:
        """Schedule a step."""
        self.busy = True
        self.group.device.port.call_soon(self.step)

    def step(self) -> None:
        """Take one descriptor and work it off; go on while there are more."""
        self.busy = False
        device = self.group.device
        if self.group not in device.groups or not device.running:
            return
        work = self.group.next_work()
        if work is None:
            return
        self.busy = True
        try:
            self._take(work)
        finally:
            self.busy = False
            if self.group.has_work:
                self.start()

    def _take(self, work: Work) -> None:
        if work.desc.opcode == DSA_OPCODE_DRAIN and work.wq.blocked(work):
            work.wq.finish(work)
            work.wq.waiting.append(work)
        else:
            self._work_off(work)

    def _work_off(self, work: Work) -> None:
        """Do it, and the Drain descriptors that waited for it: one after the other, each may let the next go."""
        if not self._done(work):
            return
        wq = work.wq
        wq.finish(work)
        while (drain := next((w for w in wq.waiting if not wq.blocked(w)), None)) is not None:
            wq.waiting.remove(drain)
            wq.inflight.append(drain)
            if self._done(drain):
                wq.finish(drain)
        self.group.device.work_done()

    def _done(self, work: Work) -> bool:
        """Do as much of it as can be done before it waits for a page: then it stays in flight, set aside."""
        device = self.group.device
        if work.ctx is None:
            work.ctx = Context(device, work)
        elif work.dropped:  # aborted while it was set aside
            return True
        try:
            device.execute(work.ctx)
        except Blocked:
            return False
        return True
