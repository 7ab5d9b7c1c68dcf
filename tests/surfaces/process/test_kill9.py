"""kill -9 of any process of a run, at any moment, leaves nothing: no process, no mount, no file."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest


@pytest.mark.parametrize("seed", range(4))
def test_two_hundred_kills_leave_nothing(surface: Any, seed: int) -> None:
    """Each seed kills fifty runs: the kernel process, the launcher, pid 1 or a client, at a random moment."""
    with surface.popen(
        "50", str(seed), script="killer.py", stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as p:
        out, errors = p.communicate(timeout=240)
    assert (p.returncode, errors) == (0, "")
    last = out.splitlines()[-1]
    assert last.startswith("50 runs, nothing left")
    killed = {k: int(n) for k, _, n in (word.partition("=") for word in last.split(": ")[1].split())}
    assert min(killed.values()) >= 10, f"a kind was seldom hit: {killed}"
