"""``suite``: a test file in a pytest of its own, in a process of its own."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from inner import Run, run_suite  # beside us on sys.path only


@pytest.fixture
def suite(tmp_path: Path) -> Callable[..., Run]:
    """``suite(text, *args)``: a run of a file with that text."""

    def run(text: str, *args: str, ini: str = "", env: dict[str, str] | None = None) -> Run:
        return run_suite(tmp_path, text, *args, ini=ini, env=env)

    return run
