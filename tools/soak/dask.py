"""
``pykernel soak --dask``: the seeds go to the workers of a Dask cluster in chunks, which each runs in a child process.

pykernel and pytest must be installed where the workers run, in the same version. The test need not be there: its file,
the Python and TOML files beside it, and the ``conftest.py`` and pytest's configuration above it go along. What else the
test imports must be installed.
"""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

from pykernel.tools.soak.pool import CannotRun, Job, Result, run

__all__ = ["luggage", "run_chunk", "run_on_cluster"]

CHUNK = 500  # seeds of a task: some seconds, so that starting its child costs little
CONFIGURATION = ("pyproject.toml", "pytest.ini", "tox.ini", "setup.cfg", "conftest.py")


def luggage(job: Job) -> dict[str, str]:
    """What a worker elsewhere needs: texts by path below the job's folder."""
    top = Path(job.cwd).resolve()
    test = (top / job.test.partition("::")[0]).resolve()
    found = [p for p in sorted(test.parent.iterdir()) if p.suffix in (".py", ".toml") and p.is_file()]
    for folder in test.parents:
        if not folder.is_relative_to(top):
            break
        found += [folder / name for name in CONFIGURATION if (folder / name).is_file()]
    return {str(p.relative_to(top)): p.read_text() for p in found if p.is_relative_to(top)}


def run_chunk(job: Job, seeds: list[int], files: dict[str, str], stop: str) -> tuple[list[tuple[int, str]], str]:
    """
    On a worker: run *seeds* in a child; their (seed, why), and why nothing could be run.

    Where the files are as the master has them, the test runs in their place, else in a copy.
    """
    from distributed import Event, get_client

    event, asked = Event(stop, client=get_client()), [time.monotonic()]

    def stopped() -> bool:
        if time.monotonic() - asked[0] < 2:
            return False
        asked[0] = time.monotonic()
        return bool(event.is_set())

    def go(job: Job) -> list[tuple[int, str]]:
        return [(r.seed, r.why) for results in run(job, seeds, 1, stopped) for r in results]

    try:
        if all(_same(Path(job.cwd) / name, text) for name, text in files.items()):
            return go(job), ""
        with tempfile.TemporaryDirectory(prefix="pykernel-soak-") as folder:
            for name, text in files.items():
                path = Path(folder) / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text)
            return go(replace(job, cwd=folder)), ""
    except CannotRun as e:
        return [], str(e)


def _same(path: Path, text: str) -> bool:
    try:
        return path.read_text() == text
    except OSError:
        return False


def run_on_cluster(address: str, job: Job, seeds: list[int]) -> Generator[list[Result], None, None]:
    """
    Run *seeds* on the cluster whose scheduler is at *address*: results as chunks end.

    Raises:
        CannotRun: there is no cluster, or its workers cannot run the test. ImportError: distributed is not installed.
    """
    from distributed import Client, Event, as_completed

    try:
        client = Client(address, timeout="10s")
    except (OSError, ValueError, TimeoutError) as e:
        raise CannotRun(f"no Dask scheduler at {address}: {str(e).splitlines()[0]}") from e
    files = luggage(job)
    stop = "pykernel-soak-" + hashlib.sha256(repr((job, time.time_ns())).encode()).hexdigest()[:16]
    with client:
        nthreads: Any = client.nthreads()
        threads = sum(nthreads.values()) or 1
        size = max(1, min(CHUNK, -(-len(seeds) // (threads * 4))))
        chunks = [seeds[at : at + size] for at in range(0, len(seeds), size)]
        tasks: list[Any] = client.map(
            lambda chunk: run_chunk(job, chunk, files, stop), chunks, pure=False, retries=2, key="pykernel-soak"
        )
        of = {task.key: chunk for task, chunk in zip(tasks, chunks, strict=True)}
        try:
            for task in as_completed(tasks):
                yield _results(task, of[task.key])
        finally:
            Event(stop, client=client).set()
            client.cancel(tasks)


def _results(task: Any, chunk: list[int]) -> list[Result]:
    """What a chunk found; one that took its worker down again and again has failed as a whole."""
    try:
        found, why = task.result()
    except Exception as e:
        return [Result(seed, f"the Dask worker failed: {type(e).__name__}: {e}".splitlines()[0]) for seed in chunk]
    if why:
        raise CannotRun(f"on a Dask worker: {why}")
    return [Result(seed, text) for seed, text in found]
