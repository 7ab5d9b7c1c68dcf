"""A machine with two processors."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from cpubench import Bench

import pykernel
from pykernel.machine import parse
from pykernel.syscalls import Pids


@pytest.fixture(params=["linux-6.1", "linux-6.12"])
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    """It ends without an oops."""
    kernel = pykernel.boot(parse("[cpu]\ncount = 2\n"), request.param)
    yield Bench(kernel)
    assert not kernel.oopses
    for proc in list(kernel.sub(Pids).processes.values()):
        proc.exit()
    kernel.shutdown()
