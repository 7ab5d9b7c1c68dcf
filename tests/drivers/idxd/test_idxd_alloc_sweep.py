"""Every allocation of the driver fails once: the errno is ENOMEM's or what Linux makes of it, and nothing is left."""

from __future__ import annotations

from errno import EAGAIN, EBADF, ENODEV, ENOENT, ENOMEM, ENOSPC, ENXIO

import pytest
from errnos import errno_of

import pykernel
from pykernel.machine import parse
from pykernel.tools.dsa import enable_wq, memmove

SMALL = parse(
    '[[pci]]\nmodel = "dsa"\nnum_wqs = 2\nengines = 1\ngroups = 1\ntotal_wq_size = 16\n[modules]\nidxd = ""\n', "small"
)
SEEN_BY_USERS = {0, ENOMEM, ENXIO, ENODEV, ENOENT, ENOSPC, EAGAIN, EBADF}


@pytest.fixture(params=["linux-6.1", "linux-6.12", "linux-7.2"])
def boot(request):
    def boot():
        kernel = pykernel.boot(SMALL, request.param)
        kernel.track_origins = True
        kernel.up()
        return kernel

    return boot


def sweep(boot, body, *, prepare=lambda kernel: None):
    """Run *body* with the first, second, ... allocation failing, until none is left to fail. How many there were."""
    for nth in range(1, 200):
        kernel = boot()
        prepare(kernel)
        with kernel.faults.fail("alloc", nth=nth) as rule:
            assert errno_of(body, kernel) in SEEN_BY_USERS, f"allocation {nth}"
        assert kernel.oopses == [], f"allocation {nth}"
        kernel.shutdown()
        if not rule.fired:
            return nth - 1
    raise AssertionError("allocations without an end")


def test_loading_the_module(boot):
    def body(kernel):
        kernel.modules.modprobe("idxd")

    assert sweep(boot, body, prepare=lambda kernel: kernel.modules.rmmod("idxd")) >= 18


def test_after_a_failed_load_the_module_loads(boot):
    for nth in (2, 4, 5, 7, 9, 12, 15):
        kernel = boot()
        kernel.modules.rmmod("idxd")
        with kernel.faults.fail("alloc", nth=nth):
            assert errno_of(kernel.modules.modprobe, "idxd") in (0, ENOMEM)
        if "idxd" in kernel.modules.loaded:
            kernel.modules.rmmod("idxd")
        kernel.modules.modprobe("idxd")
        assert kernel.process().read_text("/sys/bus/dsa/devices/dsa0/state") == "disabled\n"
        kernel.shutdown()


def test_enabling_a_queue_and_using_it(boot):
    def body(kernel):
        proc = kernel.process()
        try:
            enable_wq(proc, "wq0.0")
            memmove(proc, "/dev/dsa/wq0.0", b"words")
        finally:
            proc.exit()

    assert sweep(boot, body) > 3
