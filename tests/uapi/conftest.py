"""The C compiler and the kernel headers: in continuous integration they must be there."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest


def _need(thing: str, present: object) -> None:
    if present:
        return
    if os.environ.get("CI"):
        pytest.fail(f"{thing} is missing, and CI must have it")
    pytest.skip(f"{thing} is missing")


@pytest.fixture(scope="session")
def cc() -> str:
    """The C compiler's path."""
    path = shutil.which("cc")
    _need("a C compiler (cc)", path)
    return str(path)


@pytest.fixture(scope="session")
def kernel_headers(cc: str) -> None:
    """linux-libc-dev is installed."""
    _need("linux/version.h (linux-libc-dev)", Path("/usr/include/linux/version.h").exists())
