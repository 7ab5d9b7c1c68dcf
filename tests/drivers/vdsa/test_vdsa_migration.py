"""Migration by stop and copy: what is in the stream, what the destination does with it."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import pytest

from pykernel.mdev.core import MdevCore
from pykernel.uapi.linux import vfio as v

DWQ, SWQ = "idxd-dsa-1dwq-v1", "idxd-dsa-1swq-v1"
PAGE = 4096
STOP, RUNNING = v.VFIO_DEVICE_STATE_STOP, v.VFIO_DEVICE_STATE_RUNNING
STOP_COPY, RESUMING = v.VFIO_DEVICE_STATE_STOP_COPY, v.VFIO_DEVICE_STATE_RESUMING
DISABLE_WQ, REQUEST_INT, DRAIN_PASID = 7, 13, 11


def noop(pasid: int = 0) -> bytes:
    return struct.pack("<IIQQQIHH24s", pasid, 0, 0, 0, 0, 0, 0, 0, b"")


def go(d: Any, state: int) -> int:
    """Set the state; the descriptor of the stream, or -1."""
    payload = d.device.feature(
        v.VFIO_DEVICE_FEATURE_SET | v.VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE, struct.pack("<Ii", int(state), -1)
    )
    return int(struct.unpack("<Ii", payload)[1])


def state(d: Any) -> int:
    payload = d.device.feature(v.VFIO_DEVICE_FEATURE_GET | v.VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE, bytes(8))
    return int(struct.unpack("<Ii", payload)[0])


def save(d: Any) -> bytes:
    fd = go(d, STOP_COPY)
    data = bytearray()
    while part := d.vmm.proc.read(fd, 1000):
        data += part
    d.vmm.proc.close(fd)
    return bytes(data)


def load(d: Any, data: bytes) -> None:
    fd = go(d, RESUMING)
    for at in range(0, len(data), 1000):
        d.vmm.proc.write(fd, data[at : at + 1000])
    d.vmm.proc.close(fd)
    go(d, STOP)


def programmed(host: Any) -> tuple[int, int]:
    cfg = host.silicon.regs.wqcfg[0]
    return int(cfg.status.state), cfg.flags.pasid


def inside(d: Any) -> Any:
    return d.vmm.kernel.sub(MdevCore).devices[d.uuid].drvdata


@pytest.fixture
def there(machine: Callable[..., Any], vmm_on: Callable[[Any], Any]) -> Any:
    """A VMM on the destination."""
    destination = machine()
    destination.up(0, 1)
    return vmm_on(destination)


def test_it_can_stop_and_copy_and_no_more(dwq: Any) -> None:
    payload = dwq.device.feature(v.VFIO_DEVICE_FEATURE_GET | v.VFIO_DEVICE_FEATURE_MIGRATION, bytes(8))
    assert struct.unpack("<Q", payload)[0] == v.VFIO_MIGRATION_STOP_COPY
    assert state(dwq) == RUNNING


def test_stop_waits_for_what_was_submitted_and_clears_the_hardware(dwq: Any, vmm: Any, host: Any) -> None:
    number = vmm.bind(101)
    dwq.up(101)
    host.hold()
    dwq.bar2.write(0, noop())
    assert (programmed(host), len(host.silicon.wqs[0].entries)) == ((1, number), 1)
    host.run()
    go(dwq, STOP)
    assert (programmed(host), host.silicon.wqs[0].idle, dwq.wq_state) == ((0, 0), True, 1)


def test_running_again_programs_the_pasid_again(dwq: Any, vmm: Any, host: Any) -> None:
    number = vmm.bind(101)
    dwq.up(101)
    go(dwq, STOP)
    go(dwq, RUNNING)
    assert programmed(host) == (1, number)


def test_stopped_shared_device_drains_its_pasids_and_lets_nothing_through(swq: Any, vmm: Any, host: Any) -> None:
    vmm.bind(101)
    swq.up()
    go(swq, STOP)
    with pytest.raises(OSError, match="temporarily unavailable"):
        swq.bar2.write(PAGE, noop(101))
    go(swq, RUNNING)
    swq.bar2.write(PAGE, noop(101))


def test_guest_goes_on_at_the_destination_with_its_own_pasid(dwq: Any, vmm: Any, host: Any, there: Any) -> None:
    source = vmm.bind(101)
    dwq.up(101)
    dwq.wr(0x88, 3)
    data = save(dwq)
    moved = there.open(DWQ)
    load(moved, data)
    number = there.bind(101, low=500)
    go(moved, RUNNING)
    assert number != source
    assert programmed(there.host) == (1, number)
    registers = [moved.rd(off) for off in (0x88, 0x90, 0x508, 0x518)]
    assert registers == [dwq.rd(off) for off in (0x88, 0x90, 0x508, 0x518)]
    assert moved.space.read(0, 0x140) == dwq.space.read(0, 0x140)


def test_pasid_that_is_bound_after_the_guest_runs_is_programmed_then(dwq: Any, vmm: Any, there: Any) -> None:
    vmm.bind(101)
    dwq.up(101)
    data = save(dwq)
    moved = there.open(DWQ)
    load(moved, data)
    go(moved, RUNNING)
    assert programmed(there.host)[0] == 0
    number = there.bind(101, low=500)
    assert programmed(there.host) == (1, number)


def test_stream_has_no_pasid_of_the_host(dwq: Any, vmm: Any) -> None:
    number = vmm.bind(101, low=0xBEEF5)
    dwq.up(101)
    dwq.wr(0x308, 101 << 12 | 8)
    data = save(dwq)
    bits = int.from_bytes(data, "little")
    assert number == 0xBEEF5
    assert all(bits >> n & 0xFFFFF != number for n in range(8 * len(data)))


def test_interrupt_handle_that_changes_is_revoked(dwq: Any, vmm: Any, there: Any) -> None:
    vmm.bind(101)
    dwq.up(101)
    handle = dwq.command(REQUEST_INT, 1) >> 8
    data = save(dwq)
    there.open(SWQ)  # takes the entry that the source had
    moved = there.open(DWQ)
    load(moved, data)
    fds = moved.eventfds()
    go(moved, RUNNING)
    assert (moved.rd(0x98) >> 31, moved.signals(fds[0])) == (1, 1)
    assert moved.command(REQUEST_INT, 1) >> 8 == inside(moved).ims.index != handle


def test_interrupt_handle_that_stays_is_not(dwq: Any, vmm: Any, there: Any) -> None:
    dwq.up(None)
    dwq.command(REQUEST_INT, 1)
    moved = there.open(DWQ)
    load(moved, save(dwq))
    go(moved, RUNNING)
    assert moved.rd(0x98) >> 31 == 0


@pytest.mark.parametrize("spoil", [lambda d: d[:-1], lambda d: b"\0" * 8 + d[8:], lambda d: b""])
def test_stream_that_is_not_whole_or_not_one_is_einval(dwq: Any, there: Any, spoil: Callable[[bytes], bytes]) -> None:
    data = spoil(save(dwq))
    moved = there.open(DWQ)
    with pytest.raises(OSError, match="Invalid argument"):
        load(moved, data)


def test_stream_of_a_device_of_another_kind_is_einval(swq: Any, there: Any) -> None:
    data = save(swq)
    moved = there.open(DWQ)
    with pytest.raises(OSError, match="Invalid argument"):
        load(moved, data)


def test_more_than_a_device_has_is_enospc(dwq: Any) -> None:
    fd = go(dwq, RESUMING)
    with pytest.raises(OSError, match="No space"):
        dwq.vmm.proc.write(fd, bytes(10_000))


def test_session_dies_with_a_reset(dwq: Any) -> None:
    fd = go(dwq, STOP_COPY)
    dwq.device.reset()
    assert state(dwq) == RUNNING
    with pytest.raises(OSError, match="No such device"):
        dwq.vmm.proc.read(fd, 1)


def test_source_that_goes_on_has_lost_nothing(dwq: Any, vmm: Any, host: Any) -> None:
    """The destination said no: the source runs on."""
    number = vmm.bind(101)
    dwq.up(101)
    save(dwq)
    go(dwq, RUNNING)
    assert (programmed(host), dwq.wq_state, state(dwq)) == ((1, number), 1, RUNNING)
