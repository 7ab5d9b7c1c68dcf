"""
What a campaign of ``pykernel soak`` has found so far, in a file that outlives it, however it ends.

The first line says which test, options and sources the rest is about; then a line a seed. A line that was cut off by
the end of its writer is left out.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import IO, Any

from pykernel.tools.soak.pool import Job, Result

__all__ = ["State", "default_path"]


def default_path(test: str) -> Path:
    """``.pykernel-soak/<test>.jsonl`` in the current folder."""
    return Path(".pykernel-soak") / (re.sub(r"[^A-Za-z0-9_.-]+", "-", test).strip("-") + ".jsonl")


class State:
    """
    The results so far, by seed, and the file that keeps them.

    Attributes:
        stale: why what the file had was of no use; empty when it was, or there was none.
    """

    def __init__(self, path: Path, job: Job, sources: str, *, fresh: bool = False) -> None:
        self.path = path
        self.head = {"test": job.test, "options": list(job.options), "sources": sources}
        self.results: dict[int, Result] = {}
        self.stale = ""
        if not fresh:
            self._load()
        self._file = self._open()

    def _load(self) -> None:
        try:
            lines = self.path.read_text().split("\n")[:-1]
        except FileNotFoundError:
            return
        rows = [row for row in map(_row, lines) if row is not None]
        if not rows or "test" not in rows[0]:
            self.stale = "it is no state of pykernel soak"
            return
        differ = [name for name, value in self.head.items() if rows[0].get(name) != value]
        if differ:
            self.stale = f"other {', '.join(differ)}"
            return
        self.results = {row["seed"]: Result(row["seed"], row.get("why", "")) for row in rows[1:]}

    def _open(self) -> IO[str]:
        """The file, rewritten from what was understood of it."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        beside = self.path.with_name(self.path.name + ".new")
        with beside.open("w") as out:
            out.write(json.dumps(self.head) + "\n")
            out.writelines(_line(result) for result in self.results.values())
        beside.replace(self.path)
        return self.path.open("a")

    def add(self, results: list[Result]) -> None:
        """Keep *results*: in the file before this returns."""
        for result in results:
            self.results[result.seed] = result
        self._file.writelines(map(_line, results))
        self._file.flush()

    def close(self) -> None:
        """No more results."""
        self._file.close()


def _line(result: Result) -> str:
    row: dict[str, Any] = {"seed": result.seed}
    if result.why:
        row["why"] = result.why
    return json.dumps(row) + "\n"


def _row(line: str) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and ("test" in row or "seed" in row) else None
