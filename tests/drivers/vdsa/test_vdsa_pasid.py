"""Guest PASIDs: of a dedicated queue the host's number is programmed; of a shared one there is nothing to program."""

from __future__ import annotations

from typing import Any

from pykernel.iommu.aux_domain import AuxDomains, iommu_aux_get_pasid
from pykernel.iommu.ioasid import Ioasid, ioasid_free

DISABLE_WQ, DRAIN_PASID, ABORT_PASID, REQUEST_INT = 7, 11, 12, 13


def programmed(host: Any, wq: int = 0) -> tuple[int, int, int]:
    """State, PASID enable and PASID of the silicon's queue."""
    cfg = host.silicon.regs.wqcfg[wq]
    return int(cfg.status.state), cfg.flags.pasid_en, cfg.flags.pasid


def refs(host: Any, number: int) -> int:
    data = host.kernel.sub(Ioasid).ids.get(number)
    return 0 if data is None else int(data.refs)


# ---- the dedicated queue


def test_guest_pasid_is_translated_and_programmed(dwq: Any, vmm: Any, host: Any) -> None:
    """Step 7 of the life cycle: find_by_spid with a reference, and the host's number in the hardware."""
    number = vmm.bind(101)
    before = refs(host, number)
    dwq.up(101)
    assert programmed(host) == (1, 1, number)
    assert dwq.rd(0x508) >> 8 & 0xFFFFF == 101
    assert refs(host, number) == before + 1


def test_guest_reads_its_own_number_only(dwq: Any, vmm: Any) -> None:
    number = vmm.bind(101, low=0x0ABCD)
    dwq.up(101)
    seen = b"".join(dwq.bar0.read(off, 64) for off in range(0, 0x600, 64))
    assert number.to_bytes(3, "little")[:2] not in seen


def test_disable_clears_the_hardware_and_puts(dwq: Any, vmm: Any, host: Any) -> None:
    number = vmm.bind(101)
    before = refs(host, number)
    dwq.up(101)
    assert dwq.command(DISABLE_WQ, 1) == 0
    assert (programmed(host), refs(host, number)) == ((0, 0, 0), before)


def test_queue_that_is_on_before_the_bind_is_programmed_by_it(dwq: Any, vmm: Any, host: Any) -> None:
    dwq.up(101)
    assert programmed(host) == (0, 0, 0)
    number = vmm.bind(101)
    assert programmed(host) == (1, 1, number)


def test_bind_of_another_guest_pasid_programs_nothing(dwq: Any, vmm: Any, host: Any) -> None:
    dwq.up(101)
    vmm.bind(102)
    assert programmed(host) == (0, 0, 0)


def test_unbind_clears_the_hardware_before_the_unbinder_goes_on(dwq: Any, vmm: Any, host: Any) -> None:
    number = vmm.bind(101)
    dwq.up(101)
    vmm.unbind(101)
    assert (programmed(host), refs(host, number), dwq.wq_state) == ((0, 0, 0), 0, 1)


def test_guest_pasid_bound_again_is_programmed_again(dwq: Any, vmm: Any, host: Any) -> None:
    first = vmm.bind(101)
    dwq.up(101)
    vmm.unbind(101)
    second = vmm.bind(101, low=first + 1)
    assert programmed(host) == (1, 1, second)


def test_free_before_unbind_leaves_the_number_until_the_hardware_is_clean(dwq: Any, vmm: Any, host: Any) -> None:
    """The abnormal life: FREE_PENDING while the device has a reference, reclaimed when the queue goes off."""
    number = vmm.bind(101)
    dwq.up(101)
    ioasid_free(vmm.make_set(), number)
    assert refs(host, number) >= 1
    del vmm.bound[101]
    dwq.command(DISABLE_WQ, 1)
    assert (programmed(host), refs(host, number)) == ((0, 0, 0), 0)


def test_without_a_guest_pasid_the_default_one_of_the_device_is_programmed(dwq: Any, host: Any) -> None:
    """It stands for the container's mappings; a queue without any would reach the memory of the host's own DMA."""
    dwq.up(None)
    (mdev,) = [m for m in host.kernel.sub(AuxDomains).pasids if m.name == dwq.uuid]
    default = iommu_aux_get_pasid(mdev)
    assert default
    assert programmed(host) == (1, 1, default)


def test_two_devices_have_two_default_pasids(dwq: Any, swq: Any, host: Any) -> None:
    numbers = [number for number, _ in host.kernel.sub(AuxDomains).pasids.values()]
    assert len(set(numbers)) == 2


def test_pasid_of_another_vmm_is_not_found(dwq: Any, another_vmm: Any, host: Any) -> None:
    another_vmm.bind(101)
    dwq.up(101)
    assert programmed(host) == (0, 0, 0)


def test_same_guest_pasid_of_two_vmms_is_two_of_the_hosts(dwq: Any, vmm: Any, another_vmm: Any, host: Any) -> None:
    mine, other = vmm.bind(101), another_vmm.bind(101)
    dwq.up(101)
    another_vmm.unbind(101)
    assert mine != other
    assert programmed(host) == (1, 1, mine)


def test_close_lets_everything_go(dwq: Any, vmm: Any, host: Any) -> None:
    number = vmm.bind(101)
    before = refs(host, number)
    dwq.up(101)
    dwq.device.close()
    assert (programmed(host), refs(host, number)) == ((0, 0, 0), before)
    vmm.unbind(101)


def test_vmm_that_is_killed_leaves_nothing(dwq: Any, vmm: Any, host: Any) -> None:
    number = vmm.bind(101)
    dwq.up(101)
    vmm.exit()
    vmm.ids = None
    assert (programmed(host), refs(host, number)) == ((0, 0, 0), 0)


def test_trace_tells_guests_and_hosts_numbers(dwq: Any, vmm: Any, host: Any) -> None:
    events = host.trace("vdsa_pasid")
    dwq.up(101)
    number = vmm.bind(101)
    vmm.unbind(101)
    assert [(e["action"], e["gpasid"], e["hpasid"]) for e in events] == [
        ("wait", 101, None), ("program", 101, number), ("clear", 101, number)
    ]  # fmt: skip


# ---- the shared queue


def test_shared_queue_is_not_touched_by_binds(swq: Any, vmm: Any, host: Any) -> None:
    before = programmed(host, 1)
    swq.up()
    number = vmm.bind(101)
    assert (programmed(host, 1), refs(host, number)) == (before, 1)


def test_unbind_aborts_the_hosts_pasid_in_the_shared_queue(swq: Any, vmm: Any, host: Any) -> None:
    swq.up()
    number = vmm.bind(101)
    seen = host.commands()
    vmm.unbind(101)
    assert seen == [(ABORT_PASID, number)]


def test_disabling_the_shared_queue_drains_its_own_pasids(swq: Any, vmm: Any, another_vmm: Any, host: Any) -> None:
    swq.up()
    mine = [vmm.bind(guest) for guest in (101, 102)]
    another_vmm.bind(101)
    seen = host.commands()
    assert swq.command(DISABLE_WQ, 1) == 0
    mine += [number for number, _ in host.kernel.sub(AuxDomains).pasids.values()]
    assert sorted(seen) == [(DRAIN_PASID, number) for number in sorted(mine)]
    assert host.get("wq0.1/state") == "enabled"


def test_drain_pasid_of_the_guest_is_of_the_hosts_number(swq: Any, vmm: Any, host: Any) -> None:
    swq.up()
    number = vmm.bind(101)
    seen = host.commands()
    assert [swq.command(DRAIN_PASID, 101), swq.command(ABORT_PASID, 101), swq.command(DRAIN_PASID, number)] == [0] * 3
    assert seen == [(DRAIN_PASID, number), (ABORT_PASID, number)]


# ---- interrupts


def ims_control(host: Any, handle: int) -> Any:
    return host.silicon.ims.perm(handle)


def test_ims_entry_carries_the_host_pasid_of_msix_perm(swq: Any, vmm: Any, host: Any) -> None:
    number = vmm.bind(101)
    handle = swq.command(REQUEST_INT, 1) >> 8
    swq.wr(0x308, 101 << 12 | 8)
    control = ims_control(host, handle)
    assert (control.mask, control.pasid_en, control.pasid) == (0, 1, number)


def test_ims_entry_of_an_unbound_pasid_is_masked(swq: Any, vmm: Any, host: Any) -> None:
    vmm.bind(101)
    handle = swq.command(REQUEST_INT, 1) >> 8
    swq.wr(0x308, 101 << 12 | 8)
    vmm.unbind(101)
    assert ims_control(host, handle).mask
    number = vmm.bind(101)
    control = ims_control(host, handle)
    assert (control.mask, control.pasid) == (0, number)


def test_guest_cannot_name_a_host_pasid_in_msix_perm(swq: Any, another_vmm: Any, host: Any) -> None:
    theirs = another_vmm.bind(7)
    handle = swq.command(REQUEST_INT, 1) >> 8
    swq.wr(0x308, theirs << 12 | 8)
    assert ims_control(host, handle).mask


def test_a_set_with_ids_is_joined_by_a_device_that_comes_later(vmm: Any, host: Any) -> None:
    number = vmm.bind(101)
    late = vmm.open("idxd-dsa-1dwq-v1")
    late.up(101)
    assert programmed(host) == (1, 1, number)
    vmm.unbind(101)
    assert programmed(host) == (0, 0, 0)
