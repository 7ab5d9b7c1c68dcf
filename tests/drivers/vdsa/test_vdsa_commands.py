"""The CMD register of a virtual DSA: each command's errors, and what reaches the host."""

from __future__ import annotations

import struct
from typing import Any

import pytest

(ENABLE_DEV, DISABLE_DEV, DRAIN_ALL, ABORT_ALL, RESET_DEV, ENABLE_WQ, DISABLE_WQ, DRAIN_WQ, ABORT_WQ, RESET_WQ,
 DRAIN_PASID, ABORT_PASID, REQUEST_INT, RELEASE_INT) = range(1, 15)  # fmt: skip
IMS = 1 << 16


def on(d: Any) -> None:
    d.up(None)


def device_on(d: Any) -> None:
    d.master()
    assert d.command(ENABLE_DEV) == 0


def nothing(d: Any) -> None:
    pass


def master(d: Any) -> None:
    d.master()


def only_pasid(d: Any) -> None:
    d.master()
    d.set_cfg(0x106, 0, 2)  # no ATS


def no_pri(d: Any) -> None:
    d.master()
    d.set_cfg(0x114, 0, 2)


def other_mode(d: Any) -> None:
    device_on(d)
    d.wr(0x508, d.rd(0x508) ^ 1)


def pasid_but_no_capability(d: Any) -> None:
    d.master(pasid=False)
    assert d.command(ENABLE_DEV) == 0
    d.set_pasid(5)


def priv_without_mode(d: Any) -> None:
    d.master()
    d.set_cfg(0x126, 1, 2)
    assert d.command(ENABLE_DEV) == 0
    d.set_pasid(5)
    d.wr(0x508, d.rd(0x508) | 1 << 29)


ROWS = [
    ("invalid-0", nothing, 0, 0, 0x01), ("invalid-15", nothing, 15, 0, 0x01), ("invalid-31", on, 31, 0, 0x01),
    ("enable", master, ENABLE_DEV, 0, 0), ("enable-without-master", nothing, ENABLE_DEV, 0, 0x12),
    ("enable-twice", device_on, ENABLE_DEV, 0, 0x10), ("enable-pasid-without-ats", only_pasid, ENABLE_DEV, 0, 0x13),
    ("enable-pasid-without-pri", no_pri, ENABLE_DEV, 0, 0x13),
    ("disable", on, DISABLE_DEV, 0, 0), ("disable-off", nothing, DISABLE_DEV, 0, 0x31),
    ("drain-all", on, DRAIN_ALL, 0, 0), ("drain-all-off", nothing, DRAIN_ALL, 0, 0x31),
    ("abort-all", on, ABORT_ALL, 0, 0), ("abort-all-off", nothing, ABORT_ALL, 0, 0x31),
    ("reset-device", on, RESET_DEV, 0, 0),
    ("enable-wq", device_on, ENABLE_WQ, 0, 0), ("enable-wq-1", device_on, ENABLE_WQ, 1, 0x02),
    ("enable-wq-device-off", nothing, ENABLE_WQ, 0, 0x20), ("enable-wq-twice", on, ENABLE_WQ, 0, 0x21),
    ("enable-wq-other-mode", other_mode, ENABLE_WQ, 0, 0x24),
    ("enable-wq-no-pasid-capability", pasid_but_no_capability, ENABLE_WQ, 0, 0x26),
    ("enable-wq-priv", priv_without_mode, ENABLE_WQ, 0, 0x2A),
    *[(f"wq-{c}-{name}", setup, c, operand, status) for c in (DISABLE_WQ, DRAIN_WQ, ABORT_WQ, RESET_WQ)
      for name, setup, operand, status in (("", on, 1, 0), ("off", device_on, 1, 0x32), ("other", on, 2, 0x02),
                                           ("none", on, 0, 0x02), ("block", on, 1 << 16 | 1, 0x02))],
    ("drain-pasid-of-nobody", on, DRAIN_PASID, 77, 0), ("drain-pasid-off", nothing, DRAIN_PASID, 77, 0x31),
    ("abort-pasid-of-nobody", on, ABORT_PASID, 77, 0), ("abort-pasid-off", nothing, ABORT_PASID, 77, 0x31),
    ("request-int-0", nothing, REQUEST_INT, 0, 0x41), ("request-int-2", nothing, REQUEST_INT, 2, 0x41),
    ("request-int-ims", nothing, REQUEST_INT, IMS | 1, 0x42), ("release-unknown", nothing, RELEASE_INT, 9, 0x41),
]  # fmt: skip


@pytest.mark.parametrize(("setup", "command", "operand", "status"), [r[1:] for r in ROWS], ids=[r[0] for r in ROWS])
def test_status(dwq: Any, setup: Any, command: int, operand: int, status: int) -> None:
    setup(dwq)
    assert dwq.command(command, operand) == status


def test_shared_queue_without_pasids_is_refused(swq: Any) -> None:
    device_on(swq)
    swq.wr(0x508, swq.rd(0x508) & ~(1 << 28))
    assert swq.command(ENABLE_WQ) == 0x26


def test_interrupt_handle_is_the_index_in_the_hosts_ims(dwq: Any, vmm: Any) -> None:
    from pykernel.mdev.core import MdevCore

    other = vmm.open("idxd-dsa-1swq-v1")
    handles = [d.command(REQUEST_INT, 1) >> 8 for d in (dwq, other)]
    devices = vmm.kernel.sub(MdevCore).devices
    assert handles == [devices[d.uuid].drvdata.ims.index for d in (dwq, other)]
    assert len(set(handles)) == 2
    assert (dwq.command(RELEASE_INT, handles[1]), dwq.command(RELEASE_INT, handles[0])) == (0x41, 0)


def test_command_tells_by_interrupt_when_it_was_asked_to(dwq: Any) -> None:
    fds = dwq.eventfds()
    dwq.master()
    dwq.command(ENABLE_DEV)
    assert dwq.signals(fds[0]) == 0
    dwq.command(ENABLE_WQ, int_req=True)
    assert (dwq.rd(0x98), dwq.signals(fds[0]), dwq.signals(fds[1])) == (2, 1, 0)


def test_command_while_one_is_active_is_a_software_error(dwq: Any, vmm: Any) -> None:
    """DSA_ERR_CMD_REG: of two processors that give commands at once the second is told by SWERR."""
    from pykernel.mdev.core import MdevCore

    dwq.up(None)
    device = vmm.kernel.sub(MdevCore).devices[dwq.uuid].drvdata
    device.regs.cmdsts.active = 1
    fds = dwq.eventfds()
    dwq.wr(0x88, 1)
    dwq.command(DRAIN_ALL)
    assert (dwq.rd(0xC0) & 1, dwq.rd(0x98) & 1, dwq.signals(fds[0])) == (1, 1, 1)


def test_reset_wq_gives_the_configuration_that_it_began_with(dwq: Any) -> None:
    begin = dwq.rd(0x508)
    dwq.up(None)
    dwq.command(DISABLE_WQ, 1)
    dwq.set_pasid(5)
    dwq.command(ENABLE_WQ)
    assert dwq.rd(0x508) != begin
    dwq.command(RESET_WQ, 1)
    assert (dwq.rd(0x508), dwq.wq_state) == (begin, 0)


def test_device_that_is_closed_and_opened_again_is_as_new(vmm: Any, host: Any) -> None:
    uuid = host.create("idxd-dsa-1dwq-v1")
    first = vmm.open("", uuid)
    first.up(None)
    first.device.close()
    second = vmm.open("", uuid)
    assert (second.rd(0x90), second.wq_state, second.cfg(4, 2)) == (0, 0, 0)


def test_drain_leaves_the_guests_processor_free_to_bring_the_page_that_it_waits_for(
    swq: Any, vmm: Any, host: Any
) -> None:
    """CMDSTS is active, the write of CMD has returned; the answer to the page request ends it, with its interrupt."""
    answers: list[Any] = []
    ok = False
    host.silicon.port.page_request_async = lambda addr, write, pasid, priv, done: answers.append(done)
    vmm.bind(101)
    swq.up()
    fds = swq.eventfds()
    bof, fill = 2, 4
    swq.bar2.write(0x1000, struct.pack("<IIQQQIHH24s", 101, bof | fill << 24, 0, 1, 0x10000, 8, 0, 0, b""))
    host.run()
    assert len(answers) == 1
    assert swq.command(DRAIN_PASID, 101, int_req=True) == 1 << 31
    assert (swq.rd(0x90) & 3, swq.signals(fds[0])) == (1, 0)
    answers.pop()(ok)
    host.run()
    assert (swq.rd(0xA8), swq.signals(fds[0])) == (0, 1)
    del host.silicon.port.page_request_async


def test_reset_device_tells_by_interrupt_that_it_ended(dwq: Any) -> None:
    fds = dwq.eventfds()
    dwq.up(None)
    assert (dwq.command(RESET_DEV, int_req=True), dwq.rd(0x98), dwq.signals(fds[0])) == (0, 2, 1)
