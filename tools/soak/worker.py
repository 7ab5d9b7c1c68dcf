"""
One worker of ``pykernel soak``: a pytest session of one test, in a process of its own, that runs the seeds it is sent.

It reads lines of JSON from its standard input - a list of seeds each - and writes lines to its standard output::

    {"ready": 1, "sources": "<hash>"}         the test was found; or {"error": "<sentence>"}, and it ends
    {"start": 17}                             before a seed
    {"seed": 17, "why": "assert 1 == 2"}      after it; why is null when it passed

It ends with its standard input, and with its parent. What the test prints goes nowhere.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import signal
import sys
import sysconfig
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

import pytest

import pykernel
from pykernel.surfaces.pytest_explore import FEED, Explorer, exploring

__all__ = ["Feed", "main", "sources"]

PR_SET_PDEATHSIG = 1


class Feed:
    """The pytest plugin of a worker."""

    def __init__(self, seeds: IO[str], answers: IO[str]) -> None:
        self.seeds = seeds
        self.answers = answers
        self.ready = False

    def say(self, **fields: Any) -> None:
        """Send a line."""
        self.answers.write(json.dumps(fields) + "\n")
        self.answers.flush()

    def pytest_configure(self, config: pytest.Config) -> None:
        """The explorer takes its seeds from here."""
        config.stash[FEED] = self.run

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """A module that cannot be imported."""
        if report.failed and not self.ready:
            self.fail(first_line(str(report.longrepr), last=True))

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """One test, and one that explores."""
        items = session.items
        if len(items) != 1:
            names = ", ".join(i.nodeid for i in items[:3])
            self.fail(f"{len(items)} tests where one is needed: {names}" if items else "no such test")
        elif exploring(items[0]) is None:
            self.fail(f"{items[0].nodeid} does not explore: decorate it with pykernel.explore")
        else:
            self.ready = True
            self.say(ready=1, sources=sources())

    def fail(self, sentence: str) -> None:
        """Say why nothing can be run, once."""
        if not self.ready:
            self.ready = True
            self.say(error=sentence)
            pytest.exit(sentence)

    def run(self, explorer: Explorer) -> None:
        """Run what comes, until nothing more does."""
        for line in self.seeds:
            for seed in json.loads(line):
                self.say(start=seed)
                reports = explorer.run(seed, explorer.item.parent)
                self.say(seed=seed, why=next((why(r) for r in reports if not r.passed), None))


def why(report: pytest.TestReport) -> str:
    """The first line of what is wrong."""
    if report.skipped:
        return "skipped: " + first_line(
            str(report.longrepr[-1] if isinstance(report.longrepr, tuple) else report.longrepr)
        )
    crash = getattr(report.longrepr, "reprcrash", None)
    return first_line(crash.message if crash is not None else str(report.longrepr))


def first_line(text: str, *, last: bool = False) -> str:
    """The first line (or the last) that says something; a heading with the line below it."""
    lines = [line.strip() for line in text.splitlines() if line.strip()] or [""]
    if last:
        return lines[-1].removeprefix("E ").strip()
    return " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]


def sources() -> str:
    """A hash of the kernel and of what was imported from outside of Python's own folders: the test, its drivers."""
    here = Path(pykernel.__file__).parent
    parts = (here, here / "uapi", here / "drivers", here / "tools")  # the last three are links in a source tree
    files = {str(p.resolve()) for part in parts for p in part.rglob("*") if p.suffix in (".py", ".toml")}
    known = tuple(f"{sysconfig.get_path(name)}/" for name in ("stdlib", "purelib", "platlib"))
    for module in list(sys.modules.values()):
        path = getattr(module, "__file__", None)
        if path and path.endswith(".py") and not path.startswith(known):
            files.add(path)
    digest = hashlib.sha256(sys.version.encode())
    for name in sorted(files):
        digest.update(Path(name).read_bytes())
    return digest.hexdigest()[:16]


def arguments(test: str, options: list[str]) -> list[str]:
    """pytest's: what other plugins would do to a session of one test that never ends is off."""
    args = [test, "-q", "--runxfail", "-p", "no:cacheprovider", *options]
    args += ["-W", "ignore:Module already imported:pytest.PytestAssertRewriteWarning"]  # we are in the package pykernel
    if find_spec("xdist"):
        args += ["-n0"]
    if find_spec("pytest_timeout"):
        args += ["-o", "timeout=0"]
    if find_spec("pytest_cov"):
        args += ["--no-cov"]
    return args


def main(argv: list[str]) -> int:
    """Run with the test and pytest's options as arguments."""
    parent = os.getppid()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        return 1  # it was gone before
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the master's to answer
    with os.fdopen(os.dup(0), "r") as seeds, os.fdopen(os.dup(1), "w") as answers, open(os.devnull, "r+b") as null:
        os.dup2(null.fileno(), 0)
        os.dup2(null.fileno(), 1)
        feed = Feed(seeds, answers)
        status = int(pytest.main(arguments(argv[0], argv[1:]), plugins=[feed]))
        if not feed.ready:
            feed.say(error=f"pytest ended with status {status}")
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
