"""Runs programs on the process surface as root and as an ordinary user, and looks for what is left afterwards."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
NOBODY = 65534
SYSTEM_PYTHON = "/usr/bin/python3"


def need(condition: bool, why: str) -> None:
    """Skip where the host lacks something; in CI that is a failure."""
    if not condition:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(why)


def processes_with(tag: str) -> list[str]:
    """Command lines of the processes that have *tag* in their environment."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if tag.encode() in Path(f"/proc/{pid}/environ").read_bytes():
                found.append(Path(f"/proc/{pid}/cmdline").read_bytes().decode("latin-1"))
        except OSError:
            continue
    return found


class Surface:
    """One way of calling ``pykernel run``."""

    def __init__(self, user: int | None) -> None:
        self.user = user

    @property
    def privileged(self) -> bool:
        return self.user is None

    def popen(
        self,
        *argv: str,
        as_user: str | None = None,
        script: str = "runner.py",
        within: tuple[str, ...] = (),
        **kw: Any,
    ) -> subprocess.Popen[str]:
        env = dict(kw.pop("env", os.environ))
        if self._drops:
            kw |= {"user": self.user, "group": self.user, "extra_groups": []}
            env["PYTHONPATH"] = (
                os.pathsep.join(p for p in sys.path if p.endswith("site-packages")) + f":{HERE.parents[2]}"
            )
        options = ["--as", as_user] if as_user else []
        kw.setdefault("cwd", "/")
        return subprocess.Popen([*within, *self.command(script), *options, *argv], env=env, **kw)

    @property
    def _drops(self) -> bool:
        return self.user is not None and os.geteuid() == 0

    def command(self, script: str = "runner.py") -> list[str]:
        """What runs *script*; our own Python may lie in a home directory that is closed to others."""
        return [SYSTEM_PYTHON if self._drops else sys.executable, "-B", str(HERE / script)]

    def run(
        self, *argv: str, as_user: str | None = None, input: str | None = None, within: tuple[str, ...] = (), **kw: Any
    ) -> subprocess.CompletedProcess[str]:
        """The run's result; *within* is a program that starts the runner."""
        tag = f"PYKERNEL_TEST={uuid.uuid4()}"
        env = dict(os.environ, LC_ALL="C", PATH="/usr/bin:/bin", PYKERNEL_TEST=tag.partition("=")[2])
        mounts = Path("/proc/self/mountinfo").read_text()
        pipe = subprocess.PIPE
        kw |= {"stdin": pipe, "stdout": pipe, "stderr": pipe, "text": True, "env": env}
        with self.popen(*argv, as_user=as_user, within=within, **kw) as p:
            out, errors = p.communicate(input, timeout=60)
        assert processes_with(tag) == []
        assert Path("/proc/self/mountinfo").read_text() == mounts
        assert "still open" not in errors
        return subprocess.CompletedProcess(argv, p.returncode, out, errors)

    def sh(self, script: str, **kw: Any) -> subprocess.CompletedProcess[str]:
        """The script in busybox's shell, in the toy's directory."""
        return self.run("busybox", "sh", "-c", f"cd /sys/devices/toy || exit 99; {script}", **kw)


@pytest.fixture(params=["root", "user"])
def surface(request: pytest.FixtureRequest) -> Surface:
    """As root (no user namespace) and as an ordinary user (a user namespace)."""
    need(os.access("/dev/fuse", os.R_OK | os.W_OK), "no /dev/fuse here")
    if request.param == "root":
        need(os.geteuid() == 0, "not root")
        return Surface(None)
    return Surface(NOBODY if os.geteuid() == 0 else os.geteuid())
