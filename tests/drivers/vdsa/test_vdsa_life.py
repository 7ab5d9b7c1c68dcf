"""Who waits for whom: devices that are open, modules, queues and the accelerator going away under them."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

import pytest

DWQ, SWQ = "idxd-dsa-1dwq-v1", "idxd-dsa-1swq-v1"
MDEVS = "/sys/bus/mdev/devices"


def fails(call: Callable[[], object]) -> str:
    try:
        call()
    except OSError as e:
        return errno.errorcode[e.errno or 0]
    return ""


def in_background(host: Any, call: Callable[[], object]) -> Any:
    """A task that makes *call*; it is told apart from one that waits by ``done``."""
    thread = host.kernel.spawn(call, "remover")
    host.kernel.sched.run_ready()
    return thread


def test_remove_waits_until_the_device_is_closed(dwq: Any, host: Any) -> None:
    thread = in_background(host, lambda: host.proc.write_text(f"{MDEVS}/{dwq.uuid}/remove", "1"))
    assert (thread.done, host.get("wq0.0/state")) == (False, "locked")
    assert dwq.rd(0) == 0x100
    dwq.device.close()
    host.kernel.sched.run_ready()
    assert (thread.done, host.get("wq0.0/state"), host.proc.listdir(MDEVS)) == (True, "enabled", [])


def test_unbinding_the_queue_waits_too(swq: Any, vmm: Any, host: Any) -> None:
    vmm.bind(101)
    swq.up()
    thread = in_background(host, lambda: host.unbind("wq0.1", "mdev"))
    assert not thread.done
    swq.device.close()
    host.kernel.sched.run_ready()
    assert (thread.done, host.get("wq0.1/state"), host.get("wq0.1/type")) == (True, "disabled", "none")


def test_module_in_use_stays(dwq: Any, host: Any) -> None:
    assert fails(lambda: host.kernel.modules.rmmod("vdsa")) in ("EBUSY", "EAGAIN")


def test_removed_devices_queue_is_as_before_for_the_next_guest(host: Any, vmm: Any) -> None:
    for _ in range(3):
        uuid = host.create(DWQ)
        d = vmm.open("", uuid)
        number = vmm.bind(101)
        d.up(101)
        assert host.silicon.regs.wqcfg[0].flags.pasid == number
        d.device.close()
        vmm.leave()
        host.proc.write_text(f"{MDEVS}/{uuid}/remove", "1")
        flags = host.silicon.regs.wqcfg[0].flags
        assert (flags.pasid, flags.pasid_en, flags.priv) == (0, 0, 0)
        vmm.unbind(101)


def test_descriptor_can_be_opened_by_one_at_a_time_of_a_group(dwq: Any, another_vmm: Any) -> None:
    assert fails(lambda: another_vmm.open("", dwq.uuid)) == "EBUSY"


def test_ims_entries_come_back(host: Any) -> None:
    indexes = []
    for _ in range(3):
        uuid = host.create(SWQ)
        parent = host.kernel.modules.loaded["vdsa"].parents["dsa0"]
        (device,) = parent.users[1]
        indexes.append(device.ims.index)
        host.proc.write_text(f"{MDEVS}/{uuid}/remove", "1")
    assert len(set(indexes)) == 1
    assert host.silicon.ims.perm(indexes[0]).mask


@pytest.mark.parametrize("kind", [DWQ, SWQ])
def test_vmm_that_dies_in_the_middle_leaves_a_clean_queue(host: Any, vmm: Any, kind: str) -> None:
    d = vmm.open(kind)
    vmm.bind(101)
    d.up(101)
    d.bar2.mmap(4096, 4096)
    vmm.exit()
    vmm.ids = None
    assert all(wq.idle for wq in host.silicon.wqs)
    assert host.silicon.regs.wqcfg[0].flags.pasid_en == 0
    host.proc.write_text(f"{MDEVS}/{d.uuid}/remove", "1")
    assert host.available(DWQ) == 1
