"""What every test has: deterministic hypothesis, and programs that are asked for by name."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable

import pytest
from hypothesis import settings

# The same examples on every machine and in every order: a red test is red for everybody.
settings.register_profile("pykernel", derandomize=True, deadline=None, print_blob=False)
settings.load_profile("pykernel")

# program -> the Debian packages that have it
PACKAGES = {
    "accel-config": "accel-config",
    "busybox": "busybox-static",
    "c++": "g++",
    "cc": "gcc libc6-dev linux-libc-dev",
    "dpdk-devbind.py": "dpdk",
    "dsa_test": "accel-config-test",
    "gcc": "gcc libc6-dev linux-libc-dev",
    "go": "golang-go",
    "lsmod": "kmod",
    "lspci": "pciutils",
    "setpci": "pciutils",
    "tree": "tree",
    "udevadm": "udev",
    "pahole": "dwarves",
    "umockdev-record": "umockdev",
    "umockdev-run": "umockdev",
}


@pytest.fixture(scope="session")
def require_program() -> Callable[[str], str]:
    """``require_program("accel-config")`` is its path; without it the test is skipped, or fails where CI is set."""

    def require(name: str) -> str:
        path = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
        if path is not None:
            return path
        sentence = f"{name} is not installed: apt-get install {PACKAGES.get(name, name)}"
        if os.environ.get("CI"):
            pytest.fail(sentence)
        pytest.skip(sentence)

    return require
