"""Clients and removers at once, under many interleavings: no deadlock, no oops, and everything is given back."""

from __future__ import annotations

from errno import EBUSY, EINTR, EINVAL, ENODEV, ENOENT, ENXIO
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
from errnos import errno_of
from vfiotoy import EXTENSION, add_mappings, add_toy, drop_toy, get_device_fd, open_group, set_container, usable

from pykernel.errors import err
from pykernel.machine import Machine
from pykernel.surfaces.explore import explore
from pykernel.uapi.linux import vfio as v
from pykernel.vfio.core import VfioCore
from pykernel.vfio.main import vfio_unregister_group_dev

PROFILES = ("linux-6.1", "linux-6.12")


def world(kernel):
    """A toy in its group, and the test's IOMMU driver."""
    kernel.modules.modprobe("vfio")
    log = []
    add_mappings(kernel, log)
    return SimpleNamespace(kernel=kernel, toy=add_toy(kernel, log=log), log=log)


def use(proc, toy):
    """Open everything and close it again; the errno of what is refused, 0 when nothing was."""
    try:
        c = proc.open("/dev/vfio/vfio", 2)
        g = open_group(proc, toy)
        set_container(proc, g, c)
        proc.ioctl(c, v.VFIO_SET_IOMMU, EXTENSION)
        d = get_device_fd(proc, g, toy.name)
        proc.pread(d, 1, 0)
        proc.close(g)
        proc.close(d)
    except OSError as e:
        return e.errno
    finally:
        for fd in sorted(proc.fds.files):
            proc.close(fd)
    return 0


def user(w):
    """A client that is done when it has tried."""
    proc = w.kernel.process()

    def body():
        answer = use(proc, w.toy)
        proc.exit()
        return answer

    return body


def pairs(w):
    """Whether the device was opened and closed by turns; how often."""
    rows = [row[0] for row in w.log if row[0] in ("open", "close")]
    assert rows == ["open", "close"] * (len(rows) // 2)
    return len(rows) // 2


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("strategy", ["random", "pct"])
def test_clients_share_one_group_by_turns(profile, strategy):
    """Who comes second is told EBUSY; the device is opened and closed in pairs."""
    for kernel in explore(seeds=40, strategy=strategy, machine=Machine("bare"), profile=profile):
        w = world(kernel)
        answers = kernel.gather(user(w), user(w), user(w))
        assert set(answers) <= {0, EBUSY}
        assert pairs(w) == answers.count(0) > 0
        drop_toy(w.toy)


@pytest.mark.parametrize("profile", PROFILES)
def test_a_device_goes_while_clients_come(profile):
    """A client gets it whole or is told that it is gone; the remover returns when nobody has it."""
    for kernel in explore(seeds=60, machine=Machine("bare"), profile=profile):
        w = world(kernel)
        answers = kernel.gather(user(w), user(w), partial(vfio_unregister_group_dev, w.toy))
        assert set(answers[:2]) <= {0, EBUSY, EINVAL, ENODEV, ENOENT, ENXIO}
        assert (w.toy.open_count, w.toy.refcount) == (0, 0)
        pairs(w)
        assert not w.kernel.sub(VfioCore).group_list
        if ("iommu open", EXTENSION) in w.log:
            assert w.log[-1] == ("iommu release",)
        drop_toy(w.toy)


@pytest.mark.parametrize("profile", PROFILES)
def test_two_groups_in_and_out_of_one_container(profile):
    """The IOMMU comes with the first group and goes with the last one."""
    for kernel in explore(seeds=40, machine=Machine("bare"), profile=profile):
        w = world(kernel)
        other = add_toy(kernel, "toy1")
        proc = kernel.process()
        c = proc.open("/dev/vfio/vfio", 2)
        kernel.gather(partial(in_and_out, proc, c, w.toy), partial(in_and_out, proc, c, other))
        rows = [row[0] for row in w.log]
        assert rows == ["iommu open", "iommu release"] * (len(rows) // 2)
        assert errno_of(proc.ioctl, c, v.VFIO_IOMMU_GET_INFO, 0) == EINVAL
        proc.exit()
        drop_toy(w.toy)
        drop_toy(other)


def in_and_out(proc, c, toy):
    """Twice into the container *c* and out of it."""
    g = open_group(proc, toy)
    for _ in range(2):
        set_container(proc, g, c)
        errno_of(proc.ioctl, c, v.VFIO_SET_IOMMU, EXTENSION)
        proc.ioctl(g, v.VFIO_GROUP_UNSET_CONTAINER)
    proc.close(g)


def test_a_signal_does_not_end_the_wait_for_a_device(boot_vfio):
    """The remover is told of once, and waits on: "Device is currently in use" (vfio_unregister_group_dev())."""
    kernel = boot_vfio()
    add_mappings(kernel)
    toy = add_toy(kernel)
    proc = kernel.process()
    _c, g = usable(proc, toy)
    d = get_device_fd(proc, g, "toy0")
    wait = toy.comp.queue.wait_event

    def wait_event(cond, timeout_ns=None):
        if len(toy.log) < 4:  # "open", then a "request" before each wait
            raise err(EINTR)
        return wait(cond, timeout_ns)

    queue: Any = SimpleNamespace(wait_event=wait_event, wake_up=toy.comp.queue.wake_up)
    toy.comp.queue = queue
    toy.on_request = lambda count: proc.close(d) if count == 4 else None
    vfio_unregister_group_dev(toy)
    text = kernel.log.human()
    assert text.count("Device is currently in use, task") == 1
    assert "blocked until device is released" in text
