"""BAR 2: the host's portal pages in a mapping, the slow way through the descriptor, and who is kept out."""

from __future__ import annotations

import struct
from mmap import MAP_PRIVATE, MAP_SHARED, PROT_READ, PROT_WRITE
from types import SimpleNamespace
from typing import Any

import pytest

from pykernel.mdev.core import MdevCore
from pykernel.uapi.linux import vfio as v

NOOP = 0
PAGE = 4096


def descriptor(opcode: int = NOOP, *, pasid: int = 0, priv: bool = False) -> bytes:
    return struct.pack("<IIQQQIHH24s", pasid | priv << 31, opcode << 24, 0, 0, 0, 0, 0, 0, b"")


def inside(d: Any) -> Any:
    """The driver's side of an open device."""
    return d.vmm.kernel.sub(MdevCore).devices[d.uuid].drvdata


def portal_io(d: Any, page: int) -> Any:
    """What a mapping of a page reaches."""
    at = d.bar2.mmap(PAGE, page * PAGE)
    return d.vmm.proc.task.mm.mem.vmas.find(at).io


def submitted(host: Any) -> list[tuple[int, str]]:
    """(offset in the host's BAR 2, how) of each submission from now on."""
    found: list[tuple[int, str]] = []

    def listen(e: Any) -> None:
        if e.name in ("movdir64b", "enqcmds", "dmwr") and "off" in e.fields:
            found.append((e.fields["off"], e.name))

    host.kernel.trace.listeners.append(listen)
    return found


# ---- which of the host's pages


@pytest.mark.parametrize(("page", "host_page"), [(0, 2), (1, 3), (2, 2), (3, 2)])
def test_page_1_of_a_dedicated_queue_is_limited_and_others_ask_for_unlimited(
    dwq: Any, page: int, host_page: int
) -> None:
    assert inside(dwq).host.portal(page).off == host_page * PAGE


@pytest.mark.parametrize("page", range(4))
def test_shared_queue_is_always_mapped_limited_and_with_ims(swq: Any, page: int) -> None:
    assert inside(swq).host.portal(page).off == (1 * 4 + 3) * PAGE


def test_mapping_reaches_the_hosts_bus_address(swq: Any, host: Any) -> None:
    swq.up()
    io = portal_io(swq, 1)
    inside(swq).set_kvm(SimpleNamespace(translates_pasids=True))
    base = io.portal.device.wq.idxd.pdev.resources[2].start
    assert io.phys_addr(swq.bar2.info.offset + PAGE + 64) == base + 7 * PAGE + 64


# ---- mmap


def test_region_says_that_each_page_can_be_mapped(dwq: Any) -> None:
    flags = dwq.bar2.info.flags
    assert flags & v.VFIO_REGION_INFO_FLAG_MMAP
    cap = dwq.bar2.caps[v.VFIO_REGION_INFO_CAP_SPARSE_MMAP]
    assert struct.unpack("<II8Q", cap) == (4, 0, 0, PAGE, PAGE, PAGE, 2 * PAGE, PAGE, 3 * PAGE, PAGE)


def mmap(d: Any, size: int, off: int, flags: int = MAP_SHARED) -> int:
    at: int = d.vmm.proc.mmap(0, size, PROT_READ | PROT_WRITE, flags, d.device.fd, off)
    return at


@pytest.mark.parametrize(
    ("size", "region", "page", "flags"),
    [(2 * PAGE, 2, 0, MAP_SHARED), (PAGE, 2, 4, MAP_SHARED), (PAGE, 2, 0, MAP_PRIVATE), (PAGE, 0, 0, MAP_SHARED),
     (PAGE, 7, 0, MAP_SHARED)],
    ids=["two-pages", "behind-the-end", "private", "registers", "config"],
)  # fmt: skip
def test_mmap_of_anything_else_is_einval(dwq: Any, size: int, region: int, page: int, flags: int) -> None:
    with pytest.raises(OSError, match="Invalid argument"):
        mmap(dwq, size, (region << 40) + page * PAGE, flags)


def test_mapping_is_not_inherited_by_fork(dwq: Any) -> None:
    at = dwq.bar2.mmap(PAGE, PAGE)
    child = dwq.vmm.proc.fork()
    with pytest.raises(OSError, match="Bad address"):
        child.movdir64b(at, descriptor())
    child.exit()


def test_store_of_64_bytes_to_a_mapping_is_a_submission(dwq: Any, vmm: Any, host: Any) -> None:
    host.hold()
    vmm.bind(101)
    dwq.up(101)
    at = dwq.bar2.mmap(PAGE, 0)
    vmm.proc.movdir64b(at, descriptor())
    assert host.silicon.regs.wqcfg[0].status.occupancy == 1
    host.run()
    assert host.silicon.wqs[0].idle


# ---- the slow way


def test_pieces_make_a_descriptor(dwq: Any, vmm: Any, host: Any) -> None:
    vmm.bind(101)
    dwq.up(101)
    events = submitted(host)
    for at in range(0, 64, 4):
        assert events == []
        dwq.bar2.write(PAGE + at, descriptor()[at : at + 4])
    assert events == [(3 * PAGE, "movdir64b")]


def test_pieces_out_of_order_are_no_descriptor(dwq: Any, vmm: Any, host: Any) -> None:
    vmm.bind(101)
    dwq.up(101)
    events = submitted(host)
    for at in (4, 8, 0, 8, 60):
        dwq.bar2.write(PAGE + at, bytes(4))
    assert events == []


def test_slow_way_to_a_shared_queue_translates_the_pasid(swq: Any, vmm: Any, host: Any) -> None:
    host.hold()
    number = vmm.bind(101)
    swq.up()
    swq.bar2.write(PAGE, descriptor(pasid=101))
    (work,) = host.silicon.wqs[1].entries
    assert (work.pasid, work.ims) == (number, True)
    host.run()


def test_slow_way_gives_no_privilege(swq: Any, vmm: Any, host: Any) -> None:
    host.hold()
    vmm.bind(101)
    swq.up()
    swq.bar2.write(PAGE, descriptor(pasid=101, priv=True))
    (work,) = host.silicon.wqs[1].entries
    assert not work.priv
    host.run()


def test_slow_way_with_a_host_pasid_or_anothers_is_einval(swq: Any, vmm: Any, another_vmm: Any, host: Any) -> None:
    mine, theirs = vmm.bind(101), another_vmm.bind(102)
    swq.up()
    for pasid in (mine, theirs, 102, 0):
        with pytest.raises(OSError, match="Invalid argument"):
            swq.bar2.write(PAGE, descriptor(pasid=pasid))
    assert not host.silicon.wqs[1].entries


@pytest.mark.parametrize("bit", range(20, 31))
def test_slow_way_with_a_pasid_of_more_than_20_bits_is_einval(swq: Any, vmm: Any, bit: int) -> None:
    vmm.bind(101)
    swq.up()
    with pytest.raises(OSError, match="Invalid argument"):
        swq.bar2.write(PAGE, descriptor(pasid=101 | 1 << bit))


def test_slow_way_to_a_full_queue_is_eagain(swq: Any, vmm: Any, host: Any) -> None:
    vmm.bind(101)
    swq.up()
    host.hold()
    for _ in range(24):
        swq.bar2.write(PAGE, descriptor(pasid=101))
    with pytest.raises(OSError, match="temporarily unavailable"):
        swq.bar2.write(PAGE, descriptor(pasid=101))
    host.run()


# ---- who is kept out


def test_no_address_for_a_guest_whose_pasids_nobody_translates(swq: Any, vmm: Any) -> None:
    """A page gets into a guest when KVM's VFIO device named the machine, and its processors translate PASIDs."""
    vmm.bind(101)
    swq.up()
    io = portal_io(swq, 1)
    at = swq.bar2.info.offset + PAGE
    told: list[tuple[int, int]] = []
    end = vmm.proc.task.mm.mem.subscribe(lambda start, end: told.append((start, end)))
    for kvm in (None, SimpleNamespace(translates_pasids=False)):
        inside(swq).set_kvm(kvm)
        with pytest.raises(OSError, match="Bad address"):
            io.phys_addr(at)
    inside(swq).set_kvm(SimpleNamespace(translates_pasids=True))
    assert io.phys_addr(at)
    assert len(told) == 3  # KVM looks again each time
    end()


# ---- one queue for all


def test_host_processes_and_guests_share_one_queue(swq: Any, vmm: Any, another_vmm: Any, host: Any) -> None:
    host.hold()
    other = another_vmm.open("idxd-dsa-1swq-v1")
    mine, theirs = vmm.bind(101), another_vmm.bind(101)
    swq.up()
    other.up()
    swq.bar2.write(PAGE, descriptor(pasid=101))
    other.bar2.write(PAGE, descriptor(pasid=101))
    proc = host.kernel.process(comm="app")
    fd = proc.open("/dev/dsa/wq0.1", 2)
    proc.pwrite(fd, descriptor(), 0)
    pasids = [work.pasid for work in host.silicon.wqs[1].entries]
    assert pasids[:2] == [mine, theirs]
    assert len(set(pasids)) == 3
    host.run()
    proc.exit()


def test_threshold_keeps_guests_from_filling_the_queue(swq: Any, vmm: Any, host: Any) -> None:
    host.hold()
    number = vmm.bind(101)
    swq.up()
    io = portal_io(swq, 0)
    accepted = [io.enqcmd(swq.bar2.info.offset, descriptor(pasid=number)) for _ in range(30)]
    assert accepted.count(True) == 24
    host.run()
