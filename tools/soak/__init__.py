"""``pykernel soak``: a test that explores interleavings, with thousands of seeds, on all processors or a cluster."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import click

from pykernel.tools.options import Fail
from pykernel.tools.soak.pool import CannotRun, Job, Result, inspect, run
from pykernel.tools.soak.state import State, default_path

__all__ = ["command"]

SHOWN = 20  # failing seeds in the report; the state file has all
PLAIN_S = 5.0  # between two lines of progress where there is no terminal


class Progress(Protocol):
    """Tells how far it is."""

    def update(self, done: int, failed: int) -> None:
        """So far."""
        ...


class PlainProgress:
    """A line every few seconds."""

    def __init__(self, total: int, done: int) -> None:
        self.total, self.first = total, done
        self.start = self.last = time.monotonic()

    def update(self, done: int, failed: int) -> None:
        """So far."""
        now = time.monotonic()
        if now - self.last >= PLAIN_S and done < self.total:
            self.last = now
            rate = (done - self.first) / (now - self.start)
            left = f", {(self.total - done) / rate:.0f} s left" if rate else ""
            click.echo(f"{done} of {self.total} seeds, {failed} failed, {rate:.0f}/s{left}", err=True)


class BarProgress:
    """A bar."""

    def __init__(self, bar: Any, total: int, done: int) -> None:
        self.bar = bar
        self.first, self.start = done, time.monotonic()
        self.task = bar.add_task("soak", total=total, completed=done, failed=0, rate=0.0)

    def update(self, done: int, failed: int) -> None:
        """So far."""
        rate = (done - self.first) / (time.monotonic() - self.start)
        self.bar.update(self.task, completed=done, failed=failed, rate=rate)


@contextmanager
def progress(total: int, done: int) -> Iterator[Progress]:
    """How far it is, on stderr: a bar on a terminal, else lines."""
    if not sys.stderr.isatty():
        yield PlainProgress(total, done)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("seeds, [red]{task.fields[failed]} failed[/red], {task.fields[rate]:.0f}/s"),
        TimeRemainingColumn(),
    )
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        yield BarProgress(bar, total, done)


def report(state: State, wanted: list[int], job: Job, seconds: float) -> int:
    """Print what was found; the exit status."""
    done = [state.results[seed] for seed in wanted if seed in state.results]
    failed = sorted((r for r in done if r.why), key=lambda r: r.seed)
    options = " ".join(("", *job.options))
    for result in failed[:SHOWN]:
        click.echo(f"seed {result.seed}: {result.why}")
        click.echo(f"    pytest {job.test}{options} --kernel-seed={result.seed}")
    if len(failed) > SHOWN:
        click.echo(f"and {len(failed) - SHOWN} more, in {state.path}")
    click.echo(f"{len(done)} of {len(wanted)} seeds, {len(failed)} failed, in {seconds:.1f} s")
    return 1 if failed else 0


def campaign(job: Job, seeds: list[int], workers: int, dask: str) -> Iterator[list[Result]]:
    """The results of *seeds*, as they come."""
    if not dask:
        return run(job, seeds, workers)
    from pykernel.tools.soak.dask import run_on_cluster

    return run_on_cluster(dask, job, seeds)


@click.command(name="soak", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("test", metavar="PATH::TEST")
@click.option("-n", "--seeds", type=click.IntRange(1), default=1000, show_default=True, help="How many seeds.")
@click.option("--first", type=int, default=0, show_default=True, help="The first seed.")
@click.option("-w", "--workers", type=click.IntRange(1), help="Processes on this host [default: one a processor].")
@click.option("--dask", metavar="ADDRESS", help="Run on the Dask cluster whose scheduler is there, not here.")
@click.option("--state", type=click.Path(path_type=Path, dir_okay=False), help="Where the results are kept "
              "[default: .pykernel-soak/<test>.jsonl].")  # fmt: skip
@click.option("--fresh", is_flag=True, help="Forget what was done; without, a campaign that ended early goes on.")
@click.option("--timeout", type=click.FloatRange(0.1), default=60.0, show_default=True, metavar="SECONDS",
              help="For one seed; then it hangs, which is a failure.")  # fmt: skip
@click.option("-m", "--machine", metavar="NAME|FILE", help="The machine, where the test's marks say none.")
@click.option("-p", "--profile", metavar="NAME", help="The kernel, where the test's marks say none.")
def command(
    test: str,
    seeds: int,
    first: int,
    workers: int | None,
    dask: str | None,
    state: Path | None,
    fresh: bool,
    timeout: float,
    machine: str | None,
    profile: str | None,
) -> int:
    """
    Run a test that explores interleavings with many seeds.

    TEST is what pytest takes, tests/test_x.py::test_y, a test decorated with pykernel.explore; its own list of seeds is
    not used. Results are kept: a campaign that was ended or killed goes on where it was, unless the test, the drivers
    or the kernel changed meanwhile. The exit status is 1 when a seed failed.
    """
    if dask is not None:
        _check_dask()
    given = {"machine": machine, "profile": profile}
    options = tuple(f"--kernel-{name}={value}" for name, value in given.items() if value)
    job = Job(test, options, os.getcwd(), timeout)
    wanted = list(range(first, first + seeds))
    try:
        kept = State(state or default_path(test), job, inspect(job), fresh=fresh)
    except (CannotRun, OSError) as e:
        raise Fail(f"{test}: {e}", 2) from e
    try:
        return _soak(job, wanted, kept, workers or os.cpu_count() or 1, dask or "")
    finally:
        kept.close()


def _soak(job: Job, wanted: list[int], kept: State, workers: int, dask: str) -> int:
    left = [seed for seed in wanted if seed not in kept.results]
    if kept.stale:
        click.echo(f"{kept.path}: {kept.stale}: starting anew", err=True)
    elif len(left) < len(wanted):
        done = len(wanted) - len(left)
        click.echo(f"{kept.path}: {done} of {len(wanted)} seeds were done; --fresh runs them again", err=True)
    start = time.monotonic()
    failed = sum(bool(kept.results[s].why) for s in wanted if s in kept.results)
    done = len(wanted) - len(left)
    results = campaign(job, left, workers, dask)
    try:
        with progress(len(wanted), done) as shown:
            for some in results if left else ():
                kept.add(some)
                done, failed = done + len(some), failed + sum(bool(r.why) for r in some)
                shown.update(done, failed)
    except CannotRun as e:
        raise Fail(f"{job.test}: {e}", 2) from e
    except KeyboardInterrupt:
        report(kept, wanted, job, time.monotonic() - start)
        click.echo("interrupted: the same command goes on", err=True)
        return 130
    finally:
        results.close()  # type: ignore[attr-defined]  # the workers end now, not when it is collected
    return report(kept, wanted, job, time.monotonic() - start)


def _check_dask() -> None:
    from importlib.util import find_spec

    if find_spec("distributed") is None:
        raise Fail("--dask needs the package distributed: pip install 'pykernel-mock[dask]'", 2)
