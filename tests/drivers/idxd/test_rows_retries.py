"""Retries of kernel submissions (3.7), where no other test has the row."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from conftest import Accel

NOOP = struct.pack("<IIQQQIHH24s", 0, 0, 0, 0, 0, 0, 0, 0, b"")


@pytest.mark.parametrize(("before", "during", "attempts"), [("3", "0", 4), ("0", "64", 1), ("64", "0", 65)])
def test_3_7_retries_are_latched_at_entry(accel: Callable[..., Accel], before: str, during: str, attempts: int) -> None:
    """Attempts are retries + 1 of when the submission began, whatever is stored meanwhile."""
    one = accel("linux-6.12")
    one.up(mode="shared", threshold=1)
    one.put("wq0.0/enqcmds_retries", before)
    fd = one.proc.open(one.node, os.O_RDWR)
    one.silicon.port.call_soon = lambda _step: None
    assert one.proc.write(fd, NOOP) == 64
    refused: list[bool] = []

    def listen(event: Any) -> None:
        if event.name == "dsa_enqueue":
            refused.append(not event.fields["accepted"])
            if len(refused) == 1:
                one.put("wq0.0/enqcmds_retries", during)

    one.kernel.trace.listeners.append(listen)
    with pytest.raises(BlockingIOError):
        one.proc.write(fd, NOOP)
    assert refused == [True] * attempts
    assert one.get("wq0.0/enqcmds_retries") == f"{during}\n"
    one.kernel.trace.listeners.remove(listen)
    one.silicon.wqs[0].entries.clear()
    del one.silicon.port.call_soon
