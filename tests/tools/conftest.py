"""Runs the command line as a user does: another process, its two streams, its exit status."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


@pytest.fixture
def pykernel():
    """``pykernel("dmesg", "--json")`` is the finished process, its output as text."""

    def call(*argv: str, input: str | None = None, **env: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, "-m", "pykernel.tools.cli", *argv],
            input=input, capture_output=True, text=True, check=False, timeout=120,
            env={**os.environ, "COLUMNS": "120", "LC_ALL": "C.UTF-8", **env},
        )  # fmt: skip

    return call


@pytest.fixture
def fuse():
    """The test runs programs: it needs /dev/fuse, and fails in CI without."""
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        (pytest.fail if os.environ.get("CI") else pytest.skip)("no /dev/fuse here")
