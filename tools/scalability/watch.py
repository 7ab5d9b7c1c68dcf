"""What the silicon's queues went through, by the events that it tells."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pykernel.kernel import Kernel
    from pykernel.trace import Event

__all__ = ["Watch"]

Queue = tuple[str, int]  # PCI address, number


class Watch:
    """
    A listener of *kernel*'s trace.

    Attributes:
        calls: system calls.
        waiting: entries of each queue, counted here: one more when it takes a descriptor, one less when that is done.
        largest: of each queue, as the queue itself said when it took one.
        arrivals, refused, completed: descriptors.
    """

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.calls = self.arrivals = self.refused = self.completed = 0
        self.waiting: Counter[Queue] = Counter()
        self.largest: Counter[Queue] = Counter()
        self.most = self._sum = self._all = 0
        kernel.trace.listeners.append(self._event)

    def close(self) -> None:
        """Listen no more. Raises RuntimeError: an event was not understood, so the counts are wrong."""
        if self.kernel.trace.broken:
            raise RuntimeError("the trace is incomplete") from self.kernel.trace.broken[0]
        self.kernel.trace.listeners.remove(self._event)

    @property
    def accepted(self) -> int:
        """Descriptors that a queue took."""
        return self.arrivals - self.refused

    @property
    def mean(self) -> float:
        """Entries in all queues together, as an arriving descriptor leaves them."""
        return self._sum / self.arrivals if self.arrivals else 0.0

    def _event(self, event: Event) -> None:
        if event.name == "syscall":
            self.calls += 1
        elif event.name == "dsa_enqueue":
            self._enqueue(event)
        elif event.name == "dsa_complete":
            queue = event.fields["device"], event.fields["wq"]
            self.waiting[queue] -= 1
            self._all -= 1
            self.completed += 1

    def _enqueue(self, event: Event) -> None:
        fields = event.fields
        queue = fields["device"], fields["wq"]
        self.arrivals += 1
        if fields["accepted"]:
            self.waiting[queue] += 1
            self._all += 1
        else:
            self.refused += 1
        self.largest[queue] = max(self.largest[queue], fields["occupancy"])
        self.most = max(self.most, self._all)
        self._sum += self._all
