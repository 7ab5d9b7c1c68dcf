"""pykernel.tools.dsa: what a client of an accelerator does."""

from __future__ import annotations

import pytest

import pykernel
from pykernel.profile import PROFILES
from pykernel.tools.dsa import Portal, enable_wq, memmove
from pykernel.uapi.linux.idxd import DSA_COMP_SUCCESS, DSA_OPCODE_COMPARE, DSA_OPCODE_MEMFILL


@pytest.mark.parametrize("mode", ["dedicated", "shared"])
@pytest.mark.parametrize("profile", PROFILES)
def test_memory_is_copied(profile, mode):
    kernel = pykernel.boot("dsa", profile)
    proc = kernel.process()
    enable_wq(proc, "wq0.0", mode=mode)
    data = bytes(range(256)) * 33

    assert memmove(proc, "/dev/dsa/wq0.0", data) == data

    proc.exit()
    kernel.shutdown()


def test_other_operations_by_the_descriptors_own_names():
    proc = pykernel.boot("dsa").process()
    enable_wq(proc, "wq0.0")
    with Portal(proc, "/dev/dsa/wq0.0") as portal:
        dst = portal.place(24)
        filled = portal.submit(opcode=DSA_OPCODE_MEMFILL, pattern=0x0807060504030201, dst_addr=dst, xfer_size=24)
        same = portal.buffer(bytes(range(1, 9)) * 3)
        compared = portal.submit(opcode=DSA_OPCODE_COMPARE, src_addr=dst, src2_addr=same, xfer_size=24)

    assert filled.status == compared.status == DSA_COMP_SUCCESS
    assert compared.result == 0
    assert proc.mem.read(dst, 24) == bytes(range(1, 9)) * 3


def test_what_went_wrong_is_in_the_completion_record():
    """A length of 0 is refused by the device: DSA specification, "Operations", MEMMOVE."""
    proc = pykernel.boot("dsa").process()
    enable_wq(proc, "wq0.0")

    with pytest.raises(RuntimeError, match="completion status 0x13"):
        memmove(proc, "/dev/dsa/wq0.0", b"")


def test_a_dedicated_queue_has_one_client():
    proc = pykernel.boot("dsa").process()
    enable_wq(proc, "wq0.0")

    with Portal(proc, "/dev/dsa/wq0.0"), pytest.raises(OSError, match="Device or resource busy"):
        Portal(proc, "/dev/dsa/wq0.0")


def test_nothing_stays_open_after_a_failed_mmap():
    kernel = pykernel.boot("dsa")
    root, user = kernel.process(), kernel.process(uid=1000)
    enable_wq(root, "wq0.0")
    root.chmod("/dev/dsa/wq0.0", 0o666)

    with pytest.raises(PermissionError):  # drivers/dma/idxd/cdev.c:idxd_cdev_mmap(): CAP_SYS_RAWIO on this part
        Portal(user, "/dev/dsa/wq0.0")

    assert user.fds.files == {}


def test_a_setting_that_the_driver_refuses_is_its_errno():
    proc = pykernel.boot("dsa").process()

    with pytest.raises(OSError, match="Invalid argument"):
        enable_wq(proc, "wq0.0", size=100_000)


def test_a_record_that_never_comes_is_a_timeout():
    """No virtual hour is spent, and nothing hangs: the client gives up after a second of the machine's time."""
    kernel = pykernel.boot("dsa")
    proc = kernel.process()
    enable_wq(proc, "wq0.0")
    with Portal(proc, "/dev/dsa/wq0.0") as portal:
        before = kernel.sched.clock_ns()
        with pytest.raises(TimeoutError, match="no completion record"):
            portal.wait(portal.place(32))

    assert kernel.sched.clock_ns() - before == 10**9


def test_an_iax_queue_is_enabled_by_the_same_stores():
    proc = pykernel.boot("dsa").process()

    enable_wq(proc, "wq1.0")

    assert proc.read_text("/sys/bus/dsa/devices/wq1.0/state") == "enabled\n"
    assert proc.listdir("/dev/iax") == ["wq1.0"]
