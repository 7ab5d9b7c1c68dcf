"""
Containers that nest a guest's page tables: ioctl, capability, page requests; and mediated devices whose DMA is that of
their parent with a PASID. PASID tables are a dictionary here: what is in them is the IOMMU's tests' affair.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterator
from typing import Any

import pytest
from fakevtd import FakeVtd
from type1box import Box, Emulated, machine, physical

import pykernel
from pykernel.iommu import ioasid as i
from pykernel.iommu.aux_domain import iommu_aux_get_pasid
from pykernel.iommu.gpasid import GuestPasids
from pykernel.iommu.iopf import Fault, iommu_report_device_fault
from pykernel.machine import parse
from pykernel.mdev import (
    MdevDriver,
    MdevParent,
    MdevType,
    mdev_register_driver,
    mdev_register_parent,
    mdev_set_iommu_device,
    mdev_unregister_driver,
    mdev_unregister_parent,
)
from pykernel.pci.core import Pci
from pykernel.uapi.linux import iommu as u
from pykernel.uapi.linux.eventpoll import EPOLLIN
from pykernel.vfio.main import vfio_register_emulated_iommu_dev, vfio_unregister_group_dev

NESTING_OP, GET_INFO = 0x3B76, 0x3B70
TYPE1, TYPE1V2, NESTING = 1, 3, 6
BIND, UNBIND, INVALIDATE, FAULT_FD = range(4)
UUIDS = [f"0000000{n}-0000-4000-8000-000000000000" for n in range(3)]


class Client(Box):
    """A VMM: a container and /dev/ioasid."""

    def __init__(self, kernel: Any, *vdevs: Any, kind: int = NESTING) -> None:
        super().__init__(kernel, *vdevs, kind=kind)
        self.ids = self.proc.open("/dev/ioasid", os.O_RDWR)

    def alloc(self) -> int:
        return self.proc.ioctl(self.ids, 0x6966, bytearray(struct.pack("<IIII", 16, 0, 1, 0xFFFFF)))

    def free(self, pasid: int) -> int:
        return self.proc.ioctl(self.ids, 0x6967, bytearray(struct.pack("<i", pasid)))

    def op(self, number: int, data: bytes = b"", *, argsz: int | None = None) -> int:
        """The result or -errno."""
        size = 8 + len(data) if argsz is None else argsz
        return self.ioctl(NESTING_OP, bytearray(struct.pack("<II", size, number) + data))[0]

    def bind(self, pasid: int, gpasid: int = 101, op: int = BIND, flags: int = 1) -> int:
        data = struct.pack("<IIIIQQQQ8x", 72, 1, 1, 48, flags, 0x5000, pasid, gpasid) + bytes(16)
        return self.op(op, data)

    def unbind(self, pasid: int, flags: int = 1) -> int:
        return self.bind(pasid, op=UNBIND, flags=flags)

    def invalidate(self, pasid: int) -> int:
        return self.op(INVALIDATE, struct.pack("<IIBB6xIIQ24x", 56, 1, 1, 1, 1, 0, pasid))


class Host:
    """A machine of accelerators with VFIO, the module ``ioasid_user`` or not."""

    def __init__(self, monkeypatch: Any, *, series: bool = True, cards: int = 2, snoop: bool = False) -> None:
        text = machine(cards, width=48, snoop=snoop) + 'mdev = ""\n' + ('ioasid_user = ""\n' if series else "")
        self.kernel = pykernel.boot(parse(text))
        self.kernel.up()
        self.vtd = FakeVtd(monkeypatch)
        self.driver = physical(self.kernel)
        self.clients: list[Client] = []

    def client(self, *vdevs: Any, kind: int = NESTING) -> Client:
        made = Client(self.kernel, *vdevs, kind=kind)
        self.clients.append(made)
        return made

    def nested(self, *vdevs: Any) -> Client:
        made = self.client(*(vdevs or self.driver.vdevs))
        assert made.set_iommu() == 0
        return made

    def end(self) -> None:
        for client in self.clients:
            client.close()
        self.kernel.sched.run_ready()
        assert not self.vtd.entries
        assert not self.kernel.sub(GuestPasids).svms
        self.kernel.sub(i.Ioasid)._check()
        assert not self.kernel.oopses
        self.driver.unregister()
        self.kernel.shutdown()


@pytest.fixture
def host(monkeypatch) -> Iterator[Host]:
    made = Host(monkeypatch)
    yield made
    made.end()


def test_without_the_series_a_container_answers_as_linux_does(monkeypatch):
    """NESTING is EINVAL for a group, the ioctl ENOTTY; capabilities are three."""
    host = Host(monkeypatch, series=False)
    box = Box(host.kernel, host.driver.vdevs[0], kind=NESTING)
    assert box.set_iommu() == -errno.EINVAL
    assert box.ioctl(0x3B66, TYPE1V2)[0] == 0
    assert box.ioctl(NESTING_OP, bytearray(8))[0] == -errno.ENOTTY
    assert capabilities(box) == [1, 2, 3]
    box.close()
    host.end()


def capabilities(box: Box) -> list[int]:
    return [number for number, _ in chain(box)]


def chain(box: Box) -> list[tuple[int, bytes]]:
    buffer = bytearray(struct.pack("<IIQII", 512, 0, 0, 0, 0).ljust(512, b"\0"))
    assert box.ioctl(GET_INFO, buffer)[0] == 0
    found, at = [], struct.unpack_from("<I", buffer, 16)[0]
    while at:
        number, _, after = struct.unpack_from("<HHI", buffer, at)
        found.append((number, bytes(buffer[at + 8 : after or 512])))
        at = after
    return sorted(found)


def test_the_series_needs_scalable_mode(monkeypatch):
    text = machine(1, width=48).replace("[iommu]", "[iommu]\nsva = false") + 'ioasid_user = ""\n'
    kernel = pykernel.boot(parse(text))
    FakeVtd(monkeypatch)
    driver = physical(kernel)
    box = Box(kernel, driver.vdevs[0], kind=NESTING)
    assert box.set_iommu() == -errno.EINVAL
    box.close()
    driver.unregister()
    kernel.shutdown()


def test_get_info_has_what_the_iommu_can(host):
    """Capability 4: argsz 64, format 1, BIND_PGTBL and CACHE_INVLD, 48 bits, 20 bits, CAP_REG and ECAP_REG."""
    client = host.nested()
    info = dict(chain(client))[4]
    argsz, flags, kind, features, width, bits = struct.unpack_from("<IIIIHH", info)
    assert (argsz, flags, kind, features, width, bits) == (64, 0, 1, 3, 48, 20)
    cap, ecap = struct.unpack_from("<QQ", info, 48)
    assert cap >> 16 & 0x3F == 47
    assert (ecap >> 35 & 0x1F, ecap >> 40 & 1, ecap >> 26 & 1) == (19, 1, 1)


def test_other_types_have_no_such_capability_and_no_such_operation(host):
    client = host.client(host.driver.vdevs[0], kind=TYPE1V2)
    assert client.set_iommu() == 0
    assert capabilities(client) == [1, 2, 3]
    assert client.bind(client.alloc()) == -errno.EOPNOTSUPP


@pytest.mark.parametrize(
    ("op", "argsz", "number"),
    [
        (4, None, errno.EINVAL),
        (1 << 16, None, errno.EINVAL),
        (0, 7, errno.EINVAL),
        (0x1_0000 | BIND, None, errno.EINVAL),
    ],
)
def test_nesting_op_einval(host, op, argsz, number):
    assert host.nested().op(op, bytes(72), argsz=argsz) == -number


def test_nesting_op_efault(host):
    assert host.nested().ioctl(NESTING_OP, 0)[0] == -errno.EFAULT


def test_bind_is_for_each_device_of_the_container(host):
    client = host.nested()
    pasid = client.alloc()
    assert client.bind(pasid) == 0
    names = [vdev.dev.name for vdev in host.driver.vdevs]
    assert sorted(host.vtd.entries) == [(name, pasid) for name in sorted(names)]
    assert client.bind(pasid) == -errno.EBUSY
    assert len(host.vtd.entries) == 2, "what stood before stands"
    assert client.unbind(pasid) == 0
    assert not host.vtd.entries


def test_bind_is_for_all_devices_or_none(host):
    client = host.nested()
    pasid = client.alloc()
    host.vtd.entries[host.driver.vdevs[0].dev.name, pasid] = ("somebody's",)
    assert client.bind(pasid) == -errno.EBUSY
    assert len(host.vtd.entries) == 1
    assert host.kernel.sub(i.Ioasid).ids[pasid].refs == 1
    host.vtd.entries.clear()


def test_nobody_binds_anothers_id(host):
    one, two = host.nested(host.driver.vdevs[0]), host.nested(host.driver.vdevs[1])
    pasid = one.alloc()
    assert two.bind(pasid) == -errno.EACCES
    assert one.bind(pasid) == 0
    assert two.unbind(pasid) == -errno.EACCES
    assert two.invalidate(pasid) == -errno.EACCES
    assert one.invalidate(pasid) == 0
    assert two.bind(4711) == -errno.ENOENT


def test_invalidate_goes_to_the_devices_that_have_it(host):
    client = host.nested(host.driver.vdevs[0])
    pasid = client.alloc()
    assert client.invalidate(pasid) == -errno.EINVAL
    client.bind(pasid)
    client.join(host.driver.vdevs[1])
    host.vtd.done()
    assert client.invalidate(pasid) == 0
    assert [row[0] for row in host.vtd.done()] == ["piotlb", "dev-iotlb"]


def test_a_container_that_closes_unbinds(host):
    client = host.nested()
    pasid = client.alloc()
    client.bind(pasid)
    for group in client.groups:
        client.proc.close(group)
    client.proc.close(client.container)
    assert not host.vtd.entries
    assert host.kernel.sub(i.Ioasid).ids[pasid].refs == 1


def test_a_group_that_leaves_unbinds_its_devices(host):
    client = host.nested()
    pasid = client.alloc()
    client.bind(pasid)
    client.proc.close(client.groups[0])
    assert list(host.vtd.entries) == [(host.driver.vdevs[1].dev.name, pasid)]


def test_a_killed_client_leaves_nothing(host):
    client = host.nested()
    for gpasid in (1, 2, 3):
        client.bind(client.alloc(), gpasid)
    client.proc.exit()
    host.kernel.sched.run_ready()
    assert not host.vtd.entries
    assert not host.kernel.sub(i.Ioasid).ids


def test_ioasid_closed_first_unbinds(host):
    client = host.nested()
    client.bind(client.alloc())
    client.proc.close(client.ids)
    host.kernel.sched.run_ready()
    assert not host.vtd.entries
    assert not host.kernel.sub(i.Ioasid).sets


# ---- page requests


def request(dev: Any, pasid: int, group: int) -> None:
    flags = u.IOMMU_FAULT_PAGE_REQUEST_PASID_VALID | u.IOMMU_FAULT_PAGE_REQUEST_LAST_PAGE
    iommu_report_device_fault(dev, Fault(flags, pasid, group, 2, 0xABC000))


def response(group: int, pasid: int, grpid: int, code: int = 0) -> bytes:
    return struct.pack("<IIIIIIII", group, 0, 24, 1, 1, pasid, grpid, code)


def test_page_requests_are_read_and_answered(host):
    """A record is u32 group, u32 0, struct iommu_fault; an answer u32 group, u32 0, struct iommu_page_response."""
    client = host.nested()
    fd = client.op(FAULT_FD)
    assert fd > 0
    proc, vdev = client.proc, host.driver.vdevs[1]
    group, pasid = int(client.group_name(vdev)), client.alloc()
    client.bind(pasid)
    assert proc.read(fd, 72) == b""
    assert not proc.poll([(fd, EPOLLIN)], 0)
    request(vdev.dev, pasid, 5)
    request(vdev.dev, pasid, 6)
    assert [ready for ready, _ in proc.poll([(fd, EPOLLIN)], 0)] == [fd]
    record = proc.read(fd, 72)
    assert struct.unpack_from("<IIII", record) == (group, 0, 2, 0)
    assert struct.unpack_from("<IIIIQ", record, 16) == (3, pasid, 5, 2, 0xABC000)
    proc.read(fd, 72)
    good = response(group, pasid, 6, 2) + response(group, pasid, 5)
    assert proc.write(fd, good) == 64
    assert host.vtd.answers == [(6, 2), (5, 0)]


def test_page_request_errors(host):
    client = host.nested()
    fd, pasid = client.op(FAULT_FD), client.alloc()
    client.bind(pasid)
    proc, dev = client.proc, host.driver.vdevs[0].dev
    group = int(client.group_name(host.driver.vdevs[0]))
    request(dev, pasid, 1)

    def fails(fn: Any, *args: Any) -> int:
        try:
            fn(*args)
        except OSError as e:
            return e.errno or 0
        return 0

    assert client.op(FAULT_FD) == -errno.EBUSY
    assert fails(proc.read, fd, 71) == errno.ESPIPE
    assert fails(proc.write, fd, bytes(31)) == errno.ESPIPE
    assert fails(proc.write, fd, response(99999, pasid, 1)) == errno.EINVAL
    assert fails(proc.write, fd, response(group, pasid, 2)) == errno.EINVAL
    assert proc.write(fd, response(group, pasid, 1) + response(group, pasid, 1)) == 32, "the good ones count"
    assert host.vtd.answers == [(1, 0)]


def test_who_closes_the_descriptor_refuses_what_waits_and_what_comes(host):
    client = host.nested()
    fd, pasid = client.op(FAULT_FD), client.alloc()
    client.bind(pasid)
    dev = host.driver.vdevs[0].dev
    request(dev, pasid, 1)
    request(dev, pasid, 2)
    client.proc.read(fd, 72)
    client.proc.close(fd)
    assert host.vtd.answers == [(1, 1), (2, 1)]
    request(dev, pasid, 3)
    assert host.vtd.answers[-1] == (3, 1)
    assert client.op(FAULT_FD) > 0


# ---- mediated devices


class PartDriver(MdevDriver):
    """Its devices' DMA is the parent's."""

    device_api = "vfio-pci"
    max_instances = 8

    def probe(self, mdev: Any, /) -> None:
        mdev_set_iommu_device(mdev, mdev.parent)
        vdev = Emulated(mdev)
        vfio_register_emulated_iommu_dev(vdev)
        mdev.drvdata = vdev

    def remove(self, mdev: Any, /) -> None:
        vfio_unregister_group_dev(mdev.drvdata)


class Parts:
    """A parent, whose mediated devices they are."""

    def __init__(self, host: Host) -> None:
        self.kernel = host.kernel
        self.dev = self.kernel.sub(Pci).devices[host.driver.vdevs[0].dev.name]
        self.driver = PartDriver(self.kernel, "part")
        mdev_register_driver(self.driver)
        self.parent = MdevParent()
        self.type = MdevType("one", "one")
        mdev_register_parent(self.parent, self.dev, self.driver, [self.type])

    def make(self, n: int = 0) -> Any:
        self.parent.create(self.type, UUIDS[n])
        found = [c for c in self.dev.children() if c.name == UUIDS[n]]
        return found[0].drvdata

    def end(self) -> None:
        mdev_unregister_parent(self.parent)
        mdev_unregister_driver(self.driver)


@pytest.fixture
def parts(host) -> Iterator[Parts]:
    made = Parts(host)
    yield made
    for client in host.clients:
        client.close()
    host.clients.clear()
    made.end()


@pytest.mark.parametrize("kind", [TYPE1V2, NESTING])
def test_an_mdev_of_the_parents_iommu_has_a_pasid_in_the_containers_domain(host, parts, kind):
    """DMA maps are in the domain; the PASID's entry is its second stage."""
    vdev = parts.make()
    client = host.client(vdev, kind=kind)
    assert iommu_aux_get_pasid(vdev.dev) is None
    assert client.set_iommu() == 0
    pasid = iommu_aux_get_pasid(vdev.dev)
    assert pasid
    what, domain = host.vtd.entries[parts.dev.name, pasid]
    assert what == "second"
    assert client.map(0x10000, 0x2000) == 0
    assert domain.iova_to_phys(0x10000) is not None
    assert client.unmap(0x10000, 0x2000) == (0, 0x2000)
    assert domain.iova_to_phys(0x10000) is None
    client.proc.close(client.groups[0])
    assert not host.vtd.entries
    assert iommu_aux_get_pasid(vdev.dev) is None


def test_two_mdevs_of_one_parent_share_mappings_and_have_pasids_of_their_own(host, parts):
    one, two = parts.make(0), parts.make(1)
    host.nested(one, two)
    a, b = iommu_aux_get_pasid(one.dev), iommu_aux_get_pasid(two.dev)
    assert a != b
    assert host.vtd.entries[parts.dev.name, a] == host.vtd.entries[parts.dev.name, b]


def test_a_guests_pasid_is_bound_once_to_the_parent_of_two_mdevs(host, parts):
    client = host.nested(parts.make(0), parts.make(1))
    pasid = client.alloc()
    host.vtd.done()
    assert client.bind(pasid) == 0
    assert [row[:3] for row in host.vtd.done()] == [("enter", parts.dev.name, pasid)]
    client.proc.close(client.groups[0])
    assert (parts.dev.name, pasid) in host.vtd.entries, "the other one uses it"
    client.proc.close(client.groups[1])
    assert not host.vtd.entries


def test_mdevs_of_two_clients_on_one_parent(host, parts):
    """Each binds its own, and hears of its own page requests only."""
    one, two = host.nested(parts.make(0)), host.nested(parts.make(1))
    a, b = one.alloc(), two.alloc()
    assert [one.bind(a), two.bind(b), one.bind(b), two.unbind(a)] == [0, 0, -errno.EACCES, -errno.EACCES]
    fds = [one.op(FAULT_FD), two.op(FAULT_FD)]
    request(parts.dev, b, 1)
    assert one.proc.read(fds[0], 72) == b""
    record = two.proc.read(fds[1], 72)
    group = struct.unpack_from("<I", record)[0]
    assert group == int(two.group_name(parts_of(parts, 1)))
    forged = response(int(one.group_name(parts_of(parts, 0))), b, 1)
    with pytest.raises(OSError, match="Invalid"):
        one.proc.write(fds[0], forged)
    assert two.proc.write(fds[1], response(group, b, 1)) == 32
    assert host.vtd.answers == [(1, 0)]


def parts_of(parts: Parts, n: int) -> Any:
    return next(c.drvdata for c in parts.dev.children() if c.name == UUIDS[n])


def test_requests_without_a_pasid_of_an_mdev_get_the_guests_tables(host, parts):
    vdev = parts.make()
    client = host.nested(vdev)
    key = (parts.dev.name, iommu_aux_get_pasid(vdev.dev))
    assert client.bind(0, flags=2) == 0
    assert host.vtd.entries[key][0] == "nested"
    assert client.unbind(0, flags=2) == 0
    assert host.vtd.entries[key][0] == "second"
    assert client.bind(0, flags=2) == 0


def test_an_mdev_without_such_a_device_is_as_before(host):
    """No domain, no PASID: its driver pins."""
    from type1box import emulated, remove

    vdev = emulated(host.kernel)
    client = host.client(vdev, kind=TYPE1V2)
    assert client.set_iommu() == 0
    assert not host.vtd.entries
    client.close()
    host.clients.clear()
    remove(vdev)


def test_an_mdev_that_gets_no_pasid_cannot_join(host, parts):
    vdev = parts.make()
    core = host.kernel.sub(i.Ioasid)
    i.ioasid_reserve_capacity(host.kernel, core.capacity_avail)
    client = Box(host.kernel, vdev, kind=NESTING)
    assert client.set_iommu() == -errno.ENOSPC
    i.ioasid_cancel_capacity(host.kernel, core.reserved)
    client.close()


# ---- races of those who share a device


class Waiting:
    """Stands for a mutex that is contended: *meanwhile* is done once, before the first who asks gets it."""

    def __init__(self, lock: Any, meanwhile: Any) -> None:
        self.lock, self.meanwhile = lock, meanwhile

    def __enter__(self) -> None:
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile:
            meanwhile()
        self.lock.__enter__()

    def __exit__(self, *args: Any) -> None:
        self.lock.__exit__(*args)


def contended(host: Host, meanwhile: Any) -> None:
    core: Any = host.kernel.sub(GuestPasids)
    core.lock = Waiting(core.lock, meanwhile)


def test_who_waits_to_unbind_does_not_unbind_the_next_owners_entry(host, parts):
    """The PASID is freed and given to another machine while its old owner waits for pasid_mutex: EACCES."""
    one, two = host.nested(parts.make(0)), host.nested(parts.make(1))
    pasid = one.alloc()

    def recycled() -> None:
        assert one.free(pasid) == 0
        assert (two.alloc(), two.bind(pasid)) == (pasid, 0)

    contended(host, recycled)
    assert one.unbind(pasid) == -errno.EACCES
    assert host.vtd.entries[parts.dev.name, pasid][0] == "nested"


@pytest.mark.parametrize(("taken", "number"), [(False, errno.ENOENT), (True, errno.EACCES)])
def test_who_waits_to_bind_binds_no_pasid_that_is_gone(host, parts, taken, number):
    """Freed while its owner waits for pasid_mutex: ENOENT, or another's: EACCES; nothing is entered, and no oops."""
    one, two = host.nested(parts.make(0)), host.nested(parts.make(1))
    pasid = one.alloc()

    def gone() -> None:
        assert one.free(pasid) == 0
        if taken:
            assert (two.alloc(), two.bind(pasid)) == (pasid, 0)

    contended(host, gone)
    assert one.bind(pasid) == -number
    assert len([key for key in host.vtd.entries if key[1] == pasid]) == taken


def test_nobody_answers_for_requests_without_a_pasid_of_anothers_mdev(host, parts):
    """The number of its PASID and of the group are no secret: EINVAL."""
    one, two = host.nested(parts.make(0)), host.nested(parts.make(1))
    fds = [one.op(FAULT_FD), two.op(FAULT_FD)]
    assert two.bind(0, flags=2) == 0
    pasid = iommu_aux_get_pasid(parts_of(parts, 1).dev) or 0
    request(parts.dev, pasid, 9)
    with pytest.raises(OSError, match="Invalid"):
        one.proc.write(fds[0], response(int(one.group_name(parts_of(parts, 0))), pasid, 9))
    assert host.vtd.answers == []
    assert two.proc.write(fds[1], response(int(two.group_name(parts_of(parts, 1))), pasid, 9)) == 32


@pytest.mark.parametrize("fails", [False, True])
def test_what_is_bound_is_read_once(host, monkeypatch, fails):
    """Another thread changes the struct while a device is bound: all have the same PASID, or none has any."""
    client = host.nested()
    first, second = client.alloc(), client.alloc()
    data = struct.pack("<IIIIQQQQ8x", 72, 1, 1, 48, 1, 0x5000, first, 101) + bytes(16)
    arg = client.proc.mem.alloc(8 + len(data))
    client.proc.mem.write(arg, struct.pack("<II", 8 + len(data), BIND) + data)
    other = data.replace(struct.pack("<Q", first), struct.pack("<Q", second))

    def changed(kernel: Any) -> None:
        monkeypatch.setattr(flush, i.ioasid_flush_work)
        i.ioasid_flush_work(kernel)
        client.proc.mem.write(arg + 8, other)
        host.vtd.fail = errno.ENOMEM if fails else 0

    flush = "pykernel.iommu.gpasid.ioasid_flush_work"
    monkeypatch.setattr(flush, changed)
    assert client.ioctl(NESTING_OP, arg)[0] == (-errno.ENOMEM if fails else 0)
    assert {pasid for _, pasid in host.vtd.entries} == (set() if fails else {first})
    assert len(host.vtd.entries) == (0 if fails else 2)


@pytest.mark.parametrize("code", [3, 0xF, 0x10, 0x10000, 1 << 20, 0xFFFFFFFF])
def test_a_code_that_is_none_answers_nobody(host, code):
    """IOMMU_PAGE_RESP_SUCCESS to FAILURE, 0 to 2: what is wider would be part of who gets the answer. EINVAL."""
    client = host.nested()
    fd, pasid = client.op(FAULT_FD), client.alloc()
    client.bind(pasid)
    request(host.driver.vdevs[0].dev, pasid, 5)
    group = int(client.group_name(host.driver.vdevs[0]))
    with pytest.raises(OSError, match="Invalid"):
        client.proc.write(fd, response(group, pasid, 5, code))
    assert host.vtd.answers == []
    assert client.proc.write(fd, response(group, pasid, 5)) == 32, "it still waits"
