"""Real programs under ``pykernel run``."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def pykernel_run() -> Run:
    """``pykernel_run("linux-6.1", "ls", "/sys", args=["--as", "nobody"])``: the finished process, output as text."""

    def run(
        profile: str, *argv: str, machine: str = "dsa", args: tuple[str, ...] = ()
    ) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "pykernel.tools.cli", "run", "--machine", machine, "--profile", profile, *args]
        env = {**os.environ, "LC_ALL": "C", "PYTHONDONTWRITEBYTECODE": "1"}
        return subprocess.run(
            [*command, "--", *argv],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            env=env,
            stdin=subprocess.DEVNULL,
        )

    doctor = subprocess.run(
        [sys.executable, "-m", "pykernel.tools.cli", "run", "--", "true"], capture_output=True, text=True, check=False
    )
    if doctor.returncode == 125:
        if os.environ.get("CI"):
            pytest.fail(doctor.stderr)
        pytest.skip(doctor.stderr.strip())
    return run


@pytest.fixture
def script(tmp_path: Path) -> Callable[[str], str]:
    """A shell script's path."""

    def write(text: str) -> str:
        path = tmp_path / "script.sh"
        path.write_text(text)
        return str(path)

    return write
