"""One kind of queue, a number of clients, a seed: everybody who can be served works for the same stretch of time."""

from __future__ import annotations

import errno
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import TYPE_CHECKING

from pykernel.tools.scalability.client import MS, Client, Wrong
from pykernel.tools.scalability.kinds import KINDS, Kind, Seat
from pykernel.tools.scalability.watch import Watch

if TYPE_CHECKING:
    from pykernel.sched import Thread

__all__ = ["WINDOW_MS", "Row", "jain", "run"]

WINDOW_MS = 20
TELL_EVERY = 512  # turns of the scheduler

Tell = Callable[[float], None]


@dataclass(frozen=True)
class Row:
    """
    What came of it.

    Attributes:
        served: clients with a queue.
        refused: errno -> clients that got it instead.
        accepted, done, retries, gave_up: descriptors, by the clients' own counts.
        least: copies of the served client that did the fewest.
        mean, most: entries in all queues together, as an arriving descriptor leaves them; of *entries*.
        largest: entries in one queue.
        fairness: Jain's index of the copies done, over all clients; those who were refused did none.
        fairness_served: over those who were served.
        calls: system calls of the host to serve a client, the administrator's and the VMM's among them.
        time_ms: how long they worked, by the emulated machine's clock.
        setup_ms: what *calls* took, by this computer's clock; the only figure that the seed does not decide.
    """

    kind: str
    clients: int
    seed: int
    served: int
    refused: dict[str, int]
    accepted: int
    done: int
    retries: int
    gave_up: int
    least: int
    entries: int
    mean: float
    most: int
    largest: int
    fairness: float
    fairness_served: float
    calls: float
    time_ms: float
    setup_ms: float = field(compare=False)

    @property
    def retried(self) -> float:
        """Retries for each descriptor that was accepted."""
        return self.retries / self.accepted if self.accepted else 0.0


def jain(shares: Sequence[float]) -> float:
    """Jain's fairness index: 1 when all have the same, 1/n when one has all; 0 when nobody has anything."""
    squares = sum(x * x for x in shares)
    return sum(shares) ** 2 / (len(shares) * squares) if squares else 0.0


class _Setup:
    """The clients of *kind* are let in, one by one; what that cost."""

    def __init__(self, kind: Kind, watch: Watch, rng: Random) -> None:
        self.kind, self.watch, self.rng = kind, watch, rng
        self.clients: list[tuple[Seat, Client]] = []
        self.refused: Counter[str] = Counter()
        self.seconds, self.calls = 0.0, 0

    def all(self, tell: Tell) -> None:
        self._paid(self.kind.prepare)
        for n in range(self.kind.clients):
            try:
                self._paid(partial(self._one, n))
            except OSError as e:
                self.refused[errno.errorcode.get(e.errno or 0, str(e.errno))] += 1
            tell(n / self.kind.clients)

    def _paid(self, fn: Callable[[], None]) -> None:
        """Who is refused has cost nothing."""
        start, calls = time.perf_counter(), self.watch.calls
        fn()
        self.seconds += time.perf_counter() - start
        self.calls += self.watch.calls - calls

    def _one(self, n: int) -> None:
        seat = self.kind.seat(n)
        rng = Random(self.rng.random())
        self.clients.append((seat, seat.call(lambda: self._open(seat, n, rng))))

    @staticmethod
    def _open(seat: Seat, n: int, rng: Random) -> Client:
        proc = seat.kernel.process(comm=f"client{n}")
        try:
            return Client(proc, seat.path, rng)
        except OSError:
            proc.exit(1)
            raise


def run(
    name: str,
    clients: int,
    *,
    seed: int,
    profile: str = "linux-6.1",
    window_ms: int = WINDOW_MS,
    tell: Tell = lambda part: None,
) -> Row:
    """
    Let *clients* have the queues of kind *name*; *tell* hears what part of it is over.

    Raises:
        Wrong: a client saw what it may not see. Leak: something stayed when all was over.
    """
    kind = KINDS[name](clients, seed=seed, profile=profile)
    watch = Watch(kind.host)
    setup = _Setup(kind, watch, Random(f"{seed} {name} {clients}"))
    setup.all(lambda part: tell(part / 2))
    kind.host.sched.explore("random", seed)  # from here on the seed says who runs
    start = kind.host.sched.clock_ns()
    until = start + window_ms * MS
    threads = [seat.spawn(partial(client.work, until), client.proc.task.comm) for seat, client in setup.clients]
    _wait(kind, threads, lambda: tell(0.5 + (kind.host.sched.clock_ns() - start) / (until - start) / 2))
    end = kind.host.sched.clock_ns()
    watch.close()
    kind.end()
    for thread in threads:
        if thread.error is not None:
            raise thread.error
    return _row(name, seed, setup, (end - start) / MS)


def _wait(kind: Kind, threads: list[Thread], tell: Callable[[], None]) -> None:
    """Until all ended."""
    left, turns = list(threads), 0

    def over() -> bool:
        nonlocal turns
        turns += 1
        if not turns % TELL_EVERY:
            tell()
        while left and left[-1].done:
            left.pop()
        return not left

    kind.host.sched.idle_until(over)


def _row(name: str, seed: int, setup: _Setup, time_ms: float) -> Row:
    clients = [client for _, client in setup.clients]
    watch, served = setup.watch, len(clients)
    done = [client.done for client in clients]
    retries, accepted = sum(c.retries for c in clients), sum(c.accepted for c in clients)
    if not accepted == watch.accepted == watch.completed == sum(done):
        raise Wrong(f"{accepted} submitted, {watch.accepted} accepted, {watch.completed} done, {sum(done)} seen done")
    return Row(
        kind=name,
        clients=setup.kind.clients,
        seed=seed,
        served=served,
        refused=dict(setup.refused),
        accepted=accepted,
        done=sum(done),
        retries=retries,
        gave_up=sum(c.gave_up for c in clients),
        least=min(done, default=0),
        entries=setup.kind.entries,
        mean=watch.mean,
        most=watch.most,
        largest=max(watch.largest.values(), default=0),
        fairness=jain([*done, *[0] * (setup.kind.clients - served)]),
        fairness_served=jain(done),
        calls=setup.calls / served if served else 0.0,
        setup_ms=setup.seconds * 1e3 / served if served else 0.0,
        time_ms=time_ms,
    )
