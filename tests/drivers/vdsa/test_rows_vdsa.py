"""
The composition module for guests, row by row where no other test has the row.

Rows are those of Scalable IOV (5.6), of the events (1.6, 1.7), of policies by kind of device, and of moving (7).
"""

from __future__ import annotations

from typing import Any

import pytest

from pykernel.iommu.ioasid import IOASID_PRIO_DEVICE, Ioasid, ioasid_free
from pykernel.mdev.core import MdevCore

DWQ, SWQ = "idxd-dsa-1dwq-v1", "idxd-dsa-1swq-v1"


def inside(d: Any) -> Any:
    """The driver's side of an open device."""
    return d.vmm.kernel.sub(MdevCore).devices[d.uuid].drvdata


def programmed(host: Any) -> tuple[int, int]:
    """PASID enable and PASID of the silicon's dedicated queue."""
    cfg = host.silicon.regs.wqcfg[0]
    return cfg.flags.pasid_en, cfg.flags.pasid


def test_1_6_device_driver_is_on_the_sets_chain_with_the_devices_priority(dwq: Any, vmm: Any) -> None:
    """After KVM (3) and the IOMMU (2), before who says nothing (0)."""
    nb, blocks = vmm.make_set().nh.head, []
    while nb is not None:
        blocks.append(nb)
        nb = nb.next
    assert [nb.priority for nb in blocks] == [IOASID_PRIO_DEVICE] == [1]


def test_1_7_lazy_clearing_holds_a_reference_until_the_hardware_is_clean(dwq: Any, vmm: Any, host: Any) -> None:
    """PASID tables are a function's: a number in a queue may not be another process's meanwhile."""
    number = vmm.bind(101)
    dwq.up(101)
    ioasid_free(vmm.make_set(), number)
    other = vmm.bind(102, low=number)
    assert other != number
    assert programmed(host) == (1, number)
    vmm.unbind(101)
    assert programmed(host) == (0, 0)
    assert number not in host.kernel.sub(Ioasid).ids
    assert vmm.bind(103, low=number) == number


def test_5_6_adi_is_told_apart_by_pasid_under_the_functions_requester_id(
    dwq: Any, swq: Any, vmm: Any, host: Any
) -> None:
    """Two devices of one parent: DMA of both has the parent's RID; the PASIDs are those of their commands."""
    host.hold()
    mine, other = vmm.bind(101), vmm.bind(102)
    dwq.up(101)
    swq.up()
    dwq.bar2.write(0, bytes(64))
    swq.bar2.write(4096, (102).to_bytes(4, "little") + bytes(60))
    assert [work.pasid for wq in host.silicon.wqs[:2] for work in wq.entries] == [mine, other]
    assert inside(dwq).mdev.parent is inside(swq).mdev.parent
    host.run()


@pytest.mark.parametrize("n", [1, 3, 8])
def test_5_6_users_of_a_shared_queue_have_no_hard_limit(vmm: Any, host: Any, n: int) -> None:
    """As many devices as are made, all of one queue, while a dedicated one is a single device's."""
    devices = [vmm.open(SWQ) for _ in range(n)]
    assert len({inside(d).wq for d in devices}) == 1
    assert host.available(SWQ) >= 1
    vmm.open(DWQ)
    assert host.available(DWQ) == 0


def test_9_19_dedicated_and_shared_yield_the_same_host_pasid(dwq: Any, swq: Any, vmm: Any, host: Any) -> None:
    """One guest PASID: what is programmed, and what the shared queue's slow path puts on the wire."""
    host.hold()
    number = vmm.bind(0xABCDE)
    dwq.up(0xABCDE)
    swq.up()
    swq.bar2.write(4096, (0xABCDE).to_bytes(4, "little") + bytes(60))
    assert programmed(host) == (1, number)
    assert [work.pasid for work in host.silicon.wqs[1].entries] == [number]
    host.run()


def test_9_18_a_command_after_unbind_reaches_nothing(swq: Any, vmm: Any, host: Any) -> None:
    """A guest's register stays valid; its number has no host PASID any more."""
    vmm.bind(101)
    swq.up()
    vmm.unbind(101)
    with pytest.raises(OSError, match="Invalid argument"):
        swq.bar2.write(4096, (101).to_bytes(4, "little") + bytes(60))
    assert not host.silicon.wqs[1].entries


def test_4_6_portal_is_blocked_until_kvm_confirms_that_it_translates(swq: Any) -> None:
    """No page of it is anybody's before."""
    at = swq.bar2.mmap(4096, 4096)
    io = swq.vmm.proc.task.mm.mem.vmas.find(at).io
    with pytest.raises(OSError, match="Bad address"):
        io.phys_addr(swq.bar2.info.offset + 4096)
