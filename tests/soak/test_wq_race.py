"""
Clients of one work queue at once: users that open, submit and close, an administrator that unbinds, reconfigures and
binds it, one that looks at everything. Whatever the order: no oops, no leak, no hang, and only errnos that Linux gives.

A campaign: ``pykernel soak tests/soak/test_wq_race.py::test_users_and_an_administrator --seeds 10000``
"""

from __future__ import annotations

import os
from contextlib import suppress
from errno import EBUSY, EINVAL, ENODEV, ENOENT, ENXIO, EPERM
from functools import partial

import pytest

import pykernel
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
            if e.errno not in expected:
                raise
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
    """
    All is still: take the queue and the device down, whatever state they are in.

    The queue may be bound and off: while a client opens or closes a dedicated queue it is off for a moment, and
    idxd_device_drv_remove() passes over queues that are off. So it is in Linux, which looks without wq_lock.
    """
    proc = kernel.process()
    for driver, name in (("user", "wq0.0"), ("idxd", "dsa0")):
        if "driver" in proc.listdir(f"{BUS}/devices/{name}"):
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


def device_administrator(kernel, tally):
    """Take the whole device down, queues and all, configure it anew, bring it up."""
    proc = kernel.process(comm="admin")
    tally.attempt("device unbind", {ENODEV}, proc.write_text, f"{BUS}/drivers/idxd/unbind", "dsa0\n")
    for path, text in (
        (f"{BUS}/devices/engine0.0/group_id", "0"),
        (f"{WQ}/group_id", "0"),
        (f"{WQ}/mode", "dedicated"),
        (f"{WQ}/size", "8"),
        (f"{WQ}/type", "user"),
        (f"{WQ}/name", "again"),
    ):
        tally.attempt(path, {EPERM}, proc.write_text, path, f"{text}\n")
    tally.attempt("device bind", {EBUSY, ENXIO}, proc.write_text, f"{BUS}/drivers/idxd/bind", "dsa0\n")
    tally.attempt("bind", {ENODEV, EBUSY, ENXIO}, proc.write_text, f"{BUS}/drivers/user/bind", "wq0.0\n")
    proc.exit()


def sizer(kernel, tally, wq):
    """Take entries for another queue, as often as it is allowed."""
    proc = kernel.process(comm="sizer")
    for size in (64, 128, 0):
        tally.attempt("size", {EPERM, EINVAL}, proc.write_text, f"{BUS}/devices/{wq}/size", f"{size}\n")
    proc.exit()


@explore(seeds=40)
def test_a_device_goes_down_under_its_clients(kernel):
    """A dedicated queue is one client's, whatever happens to the device; the queues never have too many entries."""
    tally = Tally()
    proc = kernel.process()
    enable_wq(proc, "wq0.0", mode="dedicated", size=16, name="first")
    kernel.gather(
        lambda: user(kernel, tally), lambda: user(kernel, tally), lambda: device_administrator(kernel, tally),
        lambda: sizer(kernel, tally, "wq0.1"), lambda: sizer(kernel, tally, "wq0.2"),
    )  # fmt: skip
    sizes = [int(proc.read_text(f"{BUS}/devices/wq0.{n}/size")) for n in range(8)]
    assert sum(sizes) <= int(proc.read_text(f"{DEVICE}/max_work_queues_size"))
    proc.exit()
    settle(kernel)


@pytest.mark.parametrize("strategy", ["random", "pct"])
def test_the_races_happen(strategy):
    """Over some seeds a user finds the queue there and not there, and loses it while it submits."""
    seen = set()
    for kernel in explore(seeds=30, strategy=strategy, machine=os.path.join(os.path.dirname(__file__), "one_dsa.toml")):
        tally = Tally()
        prepare(kernel)
        kernel.gather(lambda: user(kernel, tally), lambda: administrator(kernel, tally))  # noqa: B023  # called at once
        seen |= tally.seen
    assert {("open", 0), ("open", ENOENT), ("submit", DSA_COMP_SUCCESS)} <= seen


def pci(kernel, tally, *stores):
    """Write to files of the PCI function, which may be gone."""
    proc = kernel.process(comm="pci")
    for path, text in stores:
        tally.attempt(path, {ENODEV, ENOENT, EBUSY}, proc.write_text, f"/sys/bus/pci/{path}", f"{text}\n")
    proc.exit()


@explore(seeds=40)
def test_the_function_goes_away_under_its_clients(kernel):
    """Removed and found again by one, unbound and bound by another, with the queue in use: all ends well."""
    tally = Tally()
    prepare(kernel)
    address = "0000:6a:01.0"
    kernel.gather(
        lambda: user(kernel, tally),
        lambda: pci(kernel, tally, (f"devices/{address}/remove", 1), ("rescan", 1)),
        lambda: pci(kernel, tally, ("drivers/idxd/unbind", address), ("drivers/idxd/bind", address)),
    )
    proc = kernel.process()
    assert proc.listdir("/sys/bus/pci/devices") == [address]
    proc.exit()


def test_quirk_an_open_that_waits_for_an_unbind_is_an_oops_on_6_12():
    """
    idxd_cdev_open() of 6.12 takes wq->idxd_cdev under wq_lock without looking whether an unbind made it NULL.

    6.1, which has no devices for open files, opens the queue that is off.
    """
    oopses = {"linux-6.1": set(), "linux-6.12": set()}
    machine = os.path.join(os.path.dirname(__file__), "one_dsa.toml")
    for profile, found in oopses.items():
        plan = explore(seeds=60, machine=machine, profile=profile)
        for seed in plan.seeds:
            kernel = pykernel.boot(machine, profile, seed=seed)
            prepare(kernel)
            plan.start(kernel, seed)
            tally = Tally()
            with suppress(OSError, ExceptionGroup):  # EIO for who opened it
                kernel.gather(*[partial(f, kernel, tally) for f in (user, user, administrator)])
            found |= {str(e) for e in kernel.oopses}
    assert oopses["linux-6.1"] == set()
    assert oopses["linux-6.12"] == {"unable to handle kernel NULL pointer dereference: cdev_dev() of wq0.0"}
