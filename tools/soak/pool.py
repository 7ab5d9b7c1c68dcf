"""
The workers of ``pykernel soak`` on this host: processes that are fed with seeds and watched.

A worker that dies or does not answer costs the seed that it was at, which is a failing one, and nothing else: another
takes its place. However the pool ends, its workers end with it.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

__all__ = ["CannotRun", "Job", "Result", "inspect", "run"]

BATCH = 16  # seeds that a worker is sent at a time
START_S = 120.0  # for a worker to import the test


class CannotRun(Exception):
    """The test cannot be run at all: one sentence."""


@dataclass(frozen=True)
class Job:
    """What is run: a test's node id, pytest's options, the folder to be in, seconds for a seed."""

    test: str
    options: tuple[str, ...] = ()
    cwd: str = ""
    timeout_s: float = 60.0


@dataclass(frozen=True)
class Result:
    """How one seed went: *why* it failed, empty when it passed."""

    seed: int
    why: str = ""


@dataclass
class Worker:
    """One process, and what it has to do."""

    job: Job
    process: subprocess.Popen[bytes] = field(init=False)
    todo: deque[int] = field(default_factory=deque)
    at: int | None = None
    since: float = 0.0
    sources: str = ""
    buffer: bytes = b""

    def __post_init__(self) -> None:
        self.stderr = tempfile.TemporaryFile()  # noqa: SIM115  # lives as long as the process
        self.process = subprocess.Popen(
            [sys.executable, "-m", "pykernel.tools.soak.worker", self.job.test, *self.job.options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.stderr,
            cwd=self.job.cwd or None,
            start_new_session=True,  # Ctrl-C is for the master, and a worker's children die with it
        )
        self.since = time.monotonic()

    @property
    def fd(self) -> int:
        """Where its lines come from."""
        assert self.process.stdout is not None
        return self.process.stdout.fileno()

    def send(self, seeds: list[int]) -> None:
        """Give it more to do; a worker that died meanwhile says so by its end of file."""
        assert self.process.stdin is not None
        self.todo += seeds
        with suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps(seeds).encode() + b"\n")
            self.process.stdin.flush()

    def lines(self) -> list[dict[str, Any]] | None:
        """What it said; None: it ended."""
        data = os.read(self.fd, 65536)
        if not data:
            return None
        *whole, self.buffer = (self.buffer + data).split(b"\n")
        return [json.loads(line) for line in whole]

    def late(self, now: float) -> bool:
        """Whether it does not answer."""
        waits = START_S if not self.sources else self.job.timeout_s
        return (self.at is not None or not self.sources) and now - self.since > waits

    def epitaph(self) -> str:
        """Why it ended, of what it said last on its standard error."""
        status = self.process.wait()
        how = f"signal {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
        self.stderr.seek(0)
        said = [line for line in self.stderr.read().decode(errors="replace").splitlines() if line.strip()]
        # a traceback ends with what is wrong, faulthandler's report begins with it
        which = said[-1] if said and said[0].startswith("Traceback") else "".join(said[:1])
        return f"the process ended: {how}" + (f": {which.strip()}" if which else "")

    def kill(self) -> None:
        """End it and its children."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        for file in (self.process.stdin, self.process.stdout, self.stderr):
            with suppress(BrokenPipeError):
                file.close()  # type: ignore[union-attr]


class Pool:
    """The workers, and the seeds that none has yet."""

    def __init__(self, job: Job, seeds: Iterable[int], workers: int) -> None:
        self.job = job
        self.seeds = deque(seeds)
        self.workers: dict[int, Worker] = {}
        self.selector = selectors.DefaultSelector()
        self.proven = False  # some worker was ready once: what ends now ends because of a seed
        for _ in range(min(workers, -(-len(self.seeds) // BATCH) or 1)):
            self.start()

    def start(self) -> Worker:
        """One more worker."""
        worker = Worker(self.job)
        self.workers[worker.fd] = worker
        self.selector.register(worker.fd, selectors.EVENT_READ, worker)
        return worker

    def end(self, worker: Worker) -> None:
        """One less."""
        self.selector.unregister(worker.fd)
        del self.workers[worker.fd]
        worker.kill()

    def close(self) -> None:
        """None at all."""
        for worker in list(self.workers.values()):
            self.end(worker)
        self.selector.close()

    def feed(self, worker: Worker) -> None:
        """Let *worker* always have something to do."""
        if len(worker.todo) < BATCH // 2 and self.seeds:
            worker.send([self.seeds.popleft() for _ in range(min(BATCH, len(self.seeds)))])

    def listen(self, timeout_s: float) -> list[Result]:
        """Wait for news and act on it."""
        results: list[Result] = []
        for key, _ in self.selector.select(timeout_s):
            worker: Worker = key.data
            lines = worker.lines()
            if lines is None:
                results += self._ended(worker, worker.epitaph())
                continue
            for line in lines:
                results += self._heard(worker, line)
            self.feed(worker)
        now = time.monotonic()
        for worker in [w for w in self.workers.values() if w.late(now)]:
            worker.process.kill()
            results += self._ended(worker, f"no end after {self.job.timeout_s:g} s: it hangs")
        return results

    def _heard(self, worker: Worker, line: dict[str, Any]) -> list[Result]:
        worker.since = time.monotonic()
        if "error" in line:
            raise CannotRun(line["error"])
        if "ready" in line:
            worker.sources, self.proven = line["sources"], True
        elif "start" in line:
            worker.at = line["start"]
        else:
            worker.todo.remove(line["seed"])
            worker.at = None
            return [Result(line["seed"], line["why"] or "")]
        return []

    def _ended(self, worker: Worker, why: str) -> list[Result]:
        """A worker is gone, by itself or not: its seed failed, the others go to another."""
        self.end(worker)
        if not self.proven or (worker.at is None and not worker.sources):
            raise CannotRun(why)
        left = [seed for seed in worker.todo if seed != worker.at]
        self.seeds.extendleft(reversed(left))
        if self.seeds:
            self.start()
        return [] if worker.at is None else [Result(worker.at, why)]


def run(
    job: Job, seeds: Iterable[int], workers: int, stop: Callable[[], bool] = lambda: False
) -> Generator[list[Result], None, None]:
    """
    Run *seeds* on this host: results as they come, at least once a second.

    Raises:
        CannotRun: the test is not there, does not explore, or no worker starts.
    """
    wanted = list(seeds)
    missing = len(wanted)
    pool = Pool(job, wanted, workers)
    try:
        while missing and not stop():
            results = pool.listen(1.0)
            missing -= len(results)
            yield results
    finally:
        pool.close()


def inspect(job: Job) -> str:
    """Whether the test can be run: the hash of its sources. Raises CannotRun."""
    pool = Pool(job, [], 1)
    try:
        while True:
            pool.listen(1.0)
            for worker in pool.workers.values():
                if worker.sources:
                    return worker.sources
    finally:
        pool.close()
