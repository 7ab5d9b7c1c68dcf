"""When a guest's portals lead nowhere; nothing of it stays in the hardware that it can see no more."""

from __future__ import annotations

import struct
from types import SimpleNamespace
from typing import Any

import pytest

from pykernel.iommu.ioasid import ioasid_free_all_in_set, ioasid_set_free
from pykernel.mdev.core import MdevCore
from pykernel.mm.phys import PhysMem
from pykernel.uapi.linux import vfio as v

PAGE = 4096
DISABLE_DEV, RESET_DEV, ENABLE_WQ, DISABLE_WQ, RESET_WQ, ABORT_PASID, REQUEST_INT = 2, 5, 6, 7, 10, 12, 13
BUSY = 2


def noop(pasid: int) -> bytes:
    return struct.pack("<IIQQQIHH24s", pasid, 0, 0, 0, 0, 0, 0, 0, b"")


class Mapping:
    """A portal of *d* as its guest has it: KVM translates, and what the address is of is on the bus or is not."""

    def __init__(self, d: Any, host: Any) -> None:
        self.d, self.host = d, host
        at = d.bar2.mmap(PAGE, PAGE)
        self.mem = d.vmm.proc.task.mm.mem
        self.io = self.mem.vmas.find(at).io
        self.off = d.bar2.info.offset + PAGE
        d.vmm.kernel.sub(MdevCore).devices[d.uuid].drvdata.set_kvm(SimpleNamespace(translates_pasids=True))
        self.zapped: list[int] = []
        self.end = self.mem.subscribe(lambda start, end: self.zapped.append(start) if start == at else None)

    def enqcmd(self, pasid: int) -> bool:
        return bool(self.io.enqcmd(self.off, noop(pasid)))

    @property
    def leads_to_the_queue(self) -> bool:
        return not self.host.kernel.sub(PhysMem).is_ram(self.io.phys_addr(self.off))


def begin_to_go_off(d: Any, host: Any, portal: Mapping, number: int) -> None:
    """Its guest turns the queue off while the host's engines hold a descriptor of *number*."""
    host.hold()
    assert portal.enqcmd(number)
    d.wr(0xA0, DISABLE_WQ << 20 | 1)
    host.kernel.sched.run_ready()


@pytest.fixture
def portal(swq: Any, host: Any) -> Any:
    made = Mapping(swq, host)
    yield made
    made.end()


# ---- a queue that is off


def test_a_shared_queue_that_was_never_on_takes_nothing(swq: Any, vmm: Any, host: Any, portal: Any) -> None:
    number = vmm.bind(101)
    assert not portal.enqcmd(number)
    assert not portal.leads_to_the_queue
    with pytest.raises(OSError, match="temporarily unavailable"):
        swq.bar2.write(PAGE, noop(101))
    assert host.silicon.wqs[1].idle
    swq.up()
    assert portal.leads_to_the_queue
    assert portal.enqcmd(number)


@pytest.mark.parametrize(
    "off",
    [
        lambda d: d.command(DISABLE_WQ, 1),
        lambda d: d.command(RESET_WQ, 1),
        lambda d: d.command(DISABLE_DEV),
        lambda d: d.command(RESET_DEV),
        lambda d: d.device.reset(),
        lambda d: d.set_cfg(0x04, 2, 2),  # no bus master: the device halts
    ],
    ids=["disable-wq", "reset-wq", "disable-device", "reset-device", "vfio-reset", "halt"],
)
def test_a_shared_queue_that_goes_off_takes_nothing(swq: Any, vmm: Any, host: Any, portal: Any, off: Any) -> None:
    """And KVM is told to look again, or its tables would still lead to the host's queue, which is on for others."""
    number = vmm.bind(101)
    swq.up()
    assert portal.enqcmd(number)
    portal.zapped.clear()
    off(swq)
    host.run()
    assert portal.zapped
    assert (portal.enqcmd(number), portal.leads_to_the_queue) == (False, False)
    assert host.silicon.wqs[1].idle
    assert host.get("wq0.1/state") == "enabled"


def test_what_a_guest_finds_instead_of_a_closed_portal_is_its_own(swq: Any, another_vmm: Any, host: Any) -> None:
    """A page of memory for each device: two guests cannot tell each other anything there."""
    other = another_vmm.open("idxd-dsa-1swq-v1")
    mappings = [Mapping(swq, host), Mapping(other, host)]
    first, second = (m.io.phys_addr(m.off) for m in mappings)
    assert first & -PAGE != second & -PAGE
    assert bytes(host.kernel.sub(PhysMem).read(first & -PAGE, PAGE)) == b"\xff" * PAGE
    for m in mappings:
        m.end()


def test_a_queue_takes_nothing_from_the_moment_it_begins_to_go_off(swq: Any, vmm: Any, host: Any, portal: Any) -> None:
    """As of silicon: it is busy while it drains, else a guest that goes on submitting would never see it off."""
    number = vmm.bind(101)
    swq.up()
    begin_to_go_off(swq, host, portal, number)
    assert (swq.wq_state, portal.enqcmd(number)) == (BUSY, False)
    host.run()
    assert (swq.wq_state, host.silicon.wqs[1].idle) == (0, True)


def test_a_queue_that_was_reset_while_it_drained_can_go_on_at_once(swq: Any, vmm: Any, host: Any, portal: Any) -> None:
    """What waited for the drain does not turn the queue off a second time."""
    number = vmm.bind(101)
    swq.up()
    begin_to_go_off(swq, host, portal, number)
    thread = host.kernel.spawn(lambda: (swq.device.reset(), swq.up()), "guest")
    host.kernel.sched.run_ready()
    host.run()
    assert thread.done
    assert (swq.wq_state, portal.enqcmd(number)) == (1, True)
    host.run()


@pytest.mark.parametrize("how", ["unbind", "close"])
def test_nothing_of_a_guest_with_its_queue_off_stays(swq: Any, vmm: Any, host: Any, how: str) -> None:
    """The host's PASID is aborted whatever the guest's queue says: it is given to others next."""
    number = vmm.bind(101)
    seen = host.commands()
    vmm.unbind(101) if how == "unbind" else swq.device.close()
    assert (ABORT_PASID, number) in seen


# ---- a device that stops


def test_nothing_comes_through_while_a_device_is_being_stopped(swq: Any, vmm: Any, host: Any, portal: Any) -> None:
    """A page that KVM takes in again while the device drains is the sink's, not the queue's."""
    number = vmm.bind(101)
    swq.up()
    drvdata = vmm.kernel.sub(MdevCore).devices[swq.uuid].drvdata
    seen: list[tuple[bool, bool]] = []
    finish = drvdata.commands.finish

    def drain(*, abort: bool) -> None:
        seen.append((portal.enqcmd(number), portal.leads_to_the_queue))
        finish(abort=abort)

    drvdata.commands.finish = drain
    stop = struct.pack("<Ii", int(v.VFIO_DEVICE_STATE_STOP), -1)
    portal.zapped.clear()
    swq.device.feature(v.VFIO_DEVICE_FEATURE_SET | v.VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE, stop)
    assert seen[-1] == (False, False)  # whatever came before is what this one waits for
    assert portal.zapped
    assert (portal.enqcmd(number), portal.leads_to_the_queue) == (False, False)
    portal.zapped.clear()
    run = struct.pack("<Ii", int(v.VFIO_DEVICE_STATE_RUNNING), -1)
    swq.device.feature(v.VFIO_DEVICE_FEATURE_SET | v.VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE, run)
    assert portal.zapped
    assert portal.leads_to_the_queue


# ---- sets that come and go


def test_a_set_that_was_opened_again_is_heard(vmm: Any, host: Any) -> None:
    """/dev/ioasid is closed and opened while the device stays open: UNBIND of the new set clears the hardware, too."""
    vmm.bind(101)
    dwq = vmm.open("idxd-dsa-1dwq-v1")
    vmm.unbind(101)
    ioasid_free_all_in_set(vmm.ids)
    ioasid_set_free(vmm.ids)
    vmm.ids = None
    number = vmm.bind(101, low=300)
    dwq.up(101)
    cfg = host.silicon.regs.wqcfg[0]
    assert (cfg.status.state, cfg.flags.pasid) == (1, number)
    vmm.unbind(101)
    assert (cfg.status.state, cfg.flags.pasid_en, cfg.flags.pasid) == (0, 0, 0)


def test_an_interrupt_entry_has_no_pasid_that_is_let_go(dwq: Any, vmm: Any, host: Any) -> None:
    """MSIX_PERM names another PASID than the queue: when that one goes, its number goes from the entry."""
    vmm.bind(101)
    other = vmm.bind(102)
    dwq.up(101)
    handle = dwq.command(REQUEST_INT, 1) >> 8
    dwq.wr(0x308, 102 << 12 | 8)
    assert host.silicon.ims.perm(handle).pasid == other
    vmm.unbind(102)
    assert host.silicon.ims.perm(handle).mask
    assert host.silicon.ims.perm(handle).pasid != other
    assert host.silicon.regs.wqcfg[0].status.state == 1
