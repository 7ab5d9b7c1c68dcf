"""Page requests (PRI) of one accelerator: as many at a time as its driver allotted, the others wait their turn."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pykernel.hw.dsa.desc import Work
    from pykernel.hw.dsa.function import DsaFunction

__all__ = ["PageRequests"]

Request = tuple["Work", int, bool, Callable[[bool], None]]


class PageRequests:
    """
    What was asked for and not answered yet.

    ``outstanding`` counts requests on the wire. A reset forgets them: answers that come later are nobody's.
    """

    def __init__(self, device: DsaFunction) -> None:
        self.device = device
        self.outstanding = 0
        self._waiting: deque[Request] = deque()
        self._era = 0

    def ask(self, work: Work, addr: int, write: bool, done: Callable[[bool], None]) -> None:
        """Ask for the page at *addr* for *work*; *done* is called with the answer, perhaps before this returns."""
        request = (work, addr, write, done)
        if self.outstanding < self.device.page_request_limit:
            self._send(request)
        else:
            self._waiting.append(request)

    def _send(self, request: Request) -> None:
        work, addr, write, done = request
        era = self._era
        self.outstanding += 1

        def answered(ok: bool) -> None:
            if era != self._era:
                return
            self.outstanding -= 1
            done(ok)
            self._next()

        self.device.port.page_request_async(addr, write, work.pasid, work.priv, answered)

    def _next(self) -> None:
        """The first whose turn it is; of what was aborted meanwhile nothing is asked for."""
        while self._waiting and self.outstanding < self.device.page_request_limit:
            request = self._waiting.popleft()
            if not request[0].dropped:
                self._send(request)
                return

    def forget_aborted(self) -> None:
        """What was aborted waits no more: its PASID may be another's when its turn would come."""
        self._waiting = deque(request for request in self._waiting if not request[0].dropped)

    def reset(self) -> None:
        """Nothing is asked for any more."""
        self._era += 1
        self.outstanding = 0
        self._waiting.clear()
