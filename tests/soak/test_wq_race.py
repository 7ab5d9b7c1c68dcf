"""
Clients of one work queue at once: users that open, submit and close, an administrator that unbinds, reconfigures and
binds it, one that looks at everything. Whatever the order: no oops, no leak, no hang, and only errnos that Linux gives.

A campaign: ``pykernel soak tests/soak/test_wq_race.py::test_users_and_an_administrator --seeds 10000``
"""

from __future__ import annotations

import os
from errno import EBUSY, EINVAL, EIO, ENODEV, ENOENT, ENXIO, EPERM

import pytest

from pykernel import explore
from pykernel.tools.dsa import BUS, Portal, enable_wq
from pykernel.uapi.linux.idxd import DSA_COMP_SUCCESS, DSA_OPCODE_MEMMOVE

pytestmark = pytest.mark.kernel(machine="one_dsa.toml")
WQ = f"{BUS}/devices/wq0.0"
DEVICE = f"{BUS}/devices/dsa0"


class Tally:
    """What happened, over all seeds of a test in this process: a race that never happens is not tested."""

    def __init__(self):
        self.seen = set()

    def attempt(self, what, expected, fn, *args):
        """Call *fn*; an errno of *expected* is no failure."""
        try:
            result = fn(*args)
        except OSError as e:
            assert e.errno in expected, f"{what}: {e!r} {getattr(e, '__notes__', '')}"
            self.seen.add((what, e.errno))
            return None
        self.seen.add((what, 0))
        return result


def user(kernel, tally, turns=2):
    """Open, copy a few bytes with the queue, close."""
    proc = kernel.process(comm="user")
    for _ in range(turns):
        portal = tally.attempt("open", {ENOENT, ENXIO, EBUSY, ENODEV}, Portal, proc, "/dev/dsa/wq0.0")
        if portal is None:
            continue
        src, dst = portal.buffer(b"some bytes"), portal.place(10)
        try:
            record = portal.submit(opcode=DSA_OPCODE_MEMMOVE, src_addr=src, dst_addr=dst, xfer_size=10)
        except TimeoutError:
            tally.seen.add(("submit", "lost"))  # the queue went away: no record is written
        else:
            tally.seen.add(("submit", record.status))
            assert record.status != DSA_COMP_SUCCESS or proc.mem.read(dst, 10) == b"some bytes"
        portal.close()
    proc.exit()


def administrator(kernel, tally):
    """Unbind the queue, give it another size and name, bind it again."""
    proc = kernel.process(comm="admin")
    driver = f"{BUS}/drivers/user"
    tally.attempt("unbind", {ENODEV}, proc.write_text, f"{driver}/unbind", "wq0.0\n")
    # the device is on: a size can no longer be set, the rest can while the queue is off
    tally.attempt("size", {EPERM}, proc.write_text, f"{WQ}/size", "8\n")
    for name, text in (("mode", "shared"), ("type", "user"), ("name", "again"), ("threshold", "4"), ("priority", "5")):
        tally.attempt(name, {EPERM, ENXIO, EINVAL}, proc.write_text, f"{WQ}/{name}", f"{text}\n")
    tally.attempt("bind", {ENODEV, EBUSY, ENXIO}, proc.write_text, f"{driver}/bind", "wq0.0\n")
    proc.exit()


def looker(kernel, tally):
    """Read what can be read."""
    proc = kernel.process(comm="looker")
    for name in ("state", "clients", "cdev_minor", "size", "mode", "name"):
        tally.attempt(name, {ENXIO}, proc.read_text, f"{WQ}/{name}")
    for name in ("state", "clients", "errors", "cmd_status"):
        tally.attempt(name, set(), proc.read_text, f"{DEVICE}/{name}")
    proc.exit()


def settle(kernel):
    """All is still: take the queue and the device down, and see that driver and silicon agree."""
    proc = kernel.process()
    for driver, name in (("user", "wq0.0"), ("idxd", "dsa0")):
        if proc.read_text(f"{BUS}/devices/{name}/state") == "enabled\n":
            proc.write_text(f"{BUS}/drivers/{driver}/unbind", f"{name}\n")
    assert proc.read_text(f"{WQ}/state") == "disabled\n"
    assert proc.read_text(f"{DEVICE}/state") == "disabled\n"
    assert not os.path.exists("/dev/dsa/wq0.0")
    proc.exit()


def prepare(kernel):
    proc = kernel.process()
    enable_wq(proc, "wq0.0", mode="shared", size=16, threshold=8, name="first")
    proc.exit()


@explore(seeds=40)
def test_users_and_an_administrator(kernel):
    """Any order of opening, submitting, closing, unbinding, reconfiguring and binding is survived."""
    tally = Tally()
    prepare(kernel)
    kernel.gather(
        lambda: user(kernel, tally), lambda: user(kernel, tally), lambda: administrator(kernel, tally),
        lambda: looker(kernel, tally),
    )  # fmt: skip
    settle(kernel)
