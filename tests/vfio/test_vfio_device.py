"""Descriptors of devices, taking devices away, and what the core does for drivers (drivers/vfio/vfio_main.c)."""

from __future__ import annotations

import os
from errno import E2BIG, EBADF, EBUSY, EINVAL, ENODEV, ENOTTY, ESPIPE
from types import SimpleNamespace
from typing import Any

import pytest
from errnos import errno_of
from vfiotoy import Toy, add_mappings, add_toy, get_device_fd, open_group, usable

from pykernel.base.core import Device
from pykernel.errors import Oops
from pykernel.fs.ioctl import ioctl
from pykernel.uapi.linux import vfio as v
from pykernel.vfio.main import (
    InfoCaps,
    vfio_assign_device_set,
    vfio_dma_read,
    vfio_dma_write,
    vfio_pin_pages,
    vfio_put_device,
    vfio_register_emulated_iommu_dev,
    vfio_register_group_dev,
    vfio_set_irqs_validate_and_prepare,
    vfio_unpin_pages,
    vfio_unregister_group_dev,
)
from pykernel.vfio.virqfd import VirqfdSlot, vfio_virqfd_disable, vfio_virqfd_enable, vfio_virqfd_flush_thread


@pytest.fixture
def w(vfio_kernel):
    """A toy device with an open descriptor."""
    log = []
    add_mappings(vfio_kernel, log)
    toy = add_toy(vfio_kernel, log=log)
    proc = vfio_kernel.process()
    c, g = usable(proc, toy)
    d = get_device_fd(proc, g, "toy0")
    return SimpleNamespace(kernel=vfio_kernel, toy=toy, log=log, proc=proc, c=c, g=g, d=d)


# ---- descriptors


def test_reading_and_writing_go_to_the_device(w):
    assert w.proc.pread(w.d, 3, 0x10000000001) == b"\1\2\3"
    assert w.proc.read(w.d, 2) + w.proc.read(w.d, 2) == b"\0\1\2\3"  # the descriptor has a position
    assert w.proc.pwrite(w.d, b"ab", 7) == 2
    assert w.log[-1] == ("write", 7, b"ab")


def test_there_is_no_seeking(w):
    """No llseek operation: ESPIPE, while pread() and pwrite() have their own positions."""
    for whence in (os.SEEK_SET, os.SEEK_CUR, os.SEEK_END):
        assert errno_of(w.proc.lseek, w.d, 0, whence) == ESPIPE


class Bare(Toy):
    """A driver that has nothing."""

    read = Toy.__mro__[1].read
    write = Toy.__mro__[1].write


def test_what_a_driver_has_not_is_einval(w):
    dev = Device(w.kernel, "bare")
    dev.register()
    bare = Bare(dev, [])
    vfio_register_emulated_iommu_dev(bare)
    _c, g = usable(w.proc, bare)
    d = get_device_fd(w.proc, g, "bare")
    assert errno_of(w.proc.read, d, 1) == EINVAL
    assert errno_of(w.proc.write, d, b"x") == EINVAL
    assert errno_of(w.proc.mmap, 0, 4096, 3, 1, d, 0) == EINVAL
    assert errno_of(w.proc.ioctl, d, v.VFIO_DEVICE_RESET) == ENOTTY


@pytest.mark.parametrize("row", [v.VFIO_DEVICE_BIND_IOMMUFD, v.VFIO_DEVICE_ATTACH_IOMMUFD_PT], ids=["bind", "attach"])
def test_the_ioctls_of_nodes_are_not_for_groups(w, row):
    """BIND is EINVAL where the kernel has it; ATTACH is the driver's own answer to what it does not know."""
    wanted = EINVAL if row is v.VFIO_DEVICE_BIND_IOMMUFD and w.toy.the_device.has_cdev else ENOTTY
    arg = row.struct(argsz=row.struct.sizeof())
    assert errno_of(w.proc.ioctl, w.d, row, arg) == wanted


def test_the_driver_is_asked_once_for_several_descriptors(w):
    other = get_device_fd(w.proc, w.g, "toy0")
    w.proc.close(w.d)
    assert w.proc.pread(other, 1, 5) == b"\5"
    assert w.log.count(("open",)) == 1
    assert ("close",) not in w.log
    w.proc.close(other)
    assert w.log.count(("close",)) == 1


def test_the_order_in_which_the_mappings_hear_of_a_device(w):
    """Linux 6.1 opens the device first (vfio_device_open()), later ones register it first (vfio_df_open())."""
    w.proc.close(w.d)
    before = [("open",), ("register", "toy0")]
    if w.kernel.profile.name != "linux-6.1":
        before.reverse()
    assert w.log[1:] == [*before, ("close",), ("unregister", "toy0")]


def test_the_drivers_module_stays_while_its_device_is_open(w):
    """Linux 6.1 takes a reference for each descriptor, later ones take one."""

    class Owner:
        refs = 0

        def get_ref(self):
            self.refs += 1

        def put_ref(self):
            self.refs -= 1

    owner = Owner()
    dev = Device(w.kernel, "toy1")
    dev.register()
    driver: Any = SimpleNamespace(module=owner, name="toydrv")
    dev.driver = driver
    toy = Toy(dev, [])
    vfio_register_emulated_iommu_dev(toy)
    _c, g = usable(w.proc, toy)
    fds = [get_device_fd(w.proc, g, "toy1") for _ in range(3)]
    assert owner.refs == (3 if w.kernel.profile.name == "linux-6.1" else 1)
    for fd in fds:
        w.proc.close(fd)
    assert owner.refs == 0
    dev.driver = None


class Knob(Toy):
    """A driver with an ioctl whose number a container has, too."""

    @ioctl(v.VFIO_DEVICE_GET_PCI_HOT_RESET_INFO)
    def get(self, info: v.vfio_pci_hot_reset_info) -> v.vfio_pci_hot_reset_info:
        info.count = 7
        return info


def test_a_number_means_what_the_file_says(w):
    """0x3b70 is GET_PCI_HOT_RESET_INFO of a device and IOMMU_GET_INFO of a container; the trace tells them apart."""
    dev = Device(w.kernel, "knob")
    dev.register()
    knob = Knob(dev, [])
    vfio_register_emulated_iommu_dev(knob)
    _c, g = usable(w.proc, knob)
    d = get_device_fd(w.proc, g, "knob")
    events = w.kernel.trace.record()
    arg = v.vfio_pci_hot_reset_info(argsz=12)
    w.proc.ioctl(d, 0x3B70, arg)
    assert arg.count == 7
    assert errno_of(w.proc.ioctl, w.c, 0x3B70, 0) == ENOTTY
    assert [e.fields["name"] for e in events if e.name == "ioctl"] == ["VFIO_DEVICE_GET_PCI_HOT_RESET_INFO"]


# ---- taking a device away


def test_an_idle_device_goes_at_once(vfio_kernel):
    toy = add_toy(vfio_kernel)
    vfio_unregister_group_dev(toy)
    assert toy.log == []
    assert vfio_kernel.process().listdir("/sys/class/vfio-dev") == []
    assert add_toy(vfio_kernel, "toy1").index == 0


def test_an_open_device_is_asked_for_every_ten_seconds(w):
    """request(0) at once, then 1, 2, ...; the remover waits until the last descriptor is closed."""
    begun = w.kernel.sched.clock_ns() // 10**9
    w.toy.on_request = lambda count: w.proc.close(w.d) if count == 3 else None
    vfio_unregister_group_dev(w.toy)
    asked = [row[1:] for row in w.log if row[0] == "request"]
    assert asked == [(n, begun + 10 * n) for n in range(4)]
    assert w.toy.open_count == 0


def test_a_device_that_is_going_cannot_be_opened_again(w):
    """Linux 6.1 still has its name, but its references are on the way to nothing only from the last close on."""
    answers = []

    def ask(count):
        answers.append(errno_of(get_device_fd, w.proc, w.g, "toy0"))
        for fd in sorted(w.proc.fds.files)[w.d :]:
            w.proc.close(fd)

    w.toy.on_request = ask
    there = []
    w.toy.close_device = lambda: there.extend(w.proc.listdir("/sys/class/vfio-dev"))
    vfio_unregister_group_dev(w.toy)
    old = w.kernel.profile.name == "linux-6.1"
    assert answers == [0 if old else ENODEV]
    assert there == (["vfio0"] if old else [])


def test_a_remover_that_nothing_can_wake_is_a_hung_task(boot_vfio):
    """The clock is virtual: without anybody who could close it, waiting would never end."""
    kernel = boot_vfio()
    add_mappings(kernel)
    toy = add_toy(kernel)
    proc = kernel.process()
    _c, g = usable(proc, toy)
    d = get_device_fd(proc, g, "toy0")
    with pytest.raises(Oops, match="hung task"):
        vfio_unregister_group_dev(toy)
    assert len([row for row in toy.log if row[0] == "request"]) > 10
    proc.close(d)


def test_one_client_waits_for_the_other(w):
    """The remover sleeps in the kernel while the user, who heard of it, closes the device."""

    def user():
        w.proc.close(w.d)
        return "closed"

    assert w.kernel.gather(lambda: vfio_unregister_group_dev(w.toy), user) == [None, "closed"]
    assert [row[0] for row in w.log[2:4]] in (["register", "request"], ["open", "request"], ["close", "unregister"])


# ---- registering


def test_a_device_without_an_iommu_group_is_refused(vfio_kernel):
    dev = Device(vfio_kernel, "toy9")
    dev.register()
    toy = Toy(dev, [])
    assert errno_of(vfio_register_group_dev, toy) == EINVAL
    assert (toy.index, toy.dev_set, vfio_kernel.process().listdir("/sys/class/vfio")) == (-1, None, [])


def test_devices_of_a_set_share_a_lock(vfio_kernel):
    devs = [Device(vfio_kernel, f"toy{n}") for n in range(3)]
    for dev in devs:
        dev.register()
    toys = [Toy(dev, []) for dev in devs]
    vfio_assign_device_set(toys[0], vfio_kernel)
    vfio_assign_device_set(toys[1], vfio_kernel)
    for toy in toys:
        vfio_register_emulated_iommu_dev(toy)
    assert toys[0].dev_set is toys[1].dev_set is not toys[2].dev_set
    dev_set = toys[0].the_set
    with dev_set.lock:
        assert (dev_set.open_count(), dev_set.find(devs[1]), dev_set.find(devs[2])) == (0, toys[1], None)
    for toy in toys:
        vfio_unregister_group_dev(toy)
    again = Toy(devs[0], [])
    vfio_assign_device_set(again, vfio_kernel)
    assert again.dev_set is not dev_set
    vfio_put_device(again)


# ---- what drivers call


def test_only_an_open_device_has_mappings(w):
    w.toy.dma_unmap = lambda iova, length: None
    assert vfio_pin_pages(w.toy, 0x5000, 2, 3) == [0x5000, 0x6000]
    assert vfio_dma_read(w.toy, 0x10, 3) == b"\x10\x11\x12"
    vfio_dma_write(w.toy, 0x20, b"ab")
    vfio_unpin_pages(w.toy, 0x5000, 2)
    assert w.log[-2:] == [("dma", 0x20, b"ab", True), ("unpin", 0x5000, 2)]
    w.proc.close(w.d)
    assert errno_of(vfio_pin_pages, w.toy, 0x5000, 1, 3) == EINVAL
    assert errno_of(vfio_dma_read, w.toy, 0x10, 3) == EINVAL


@pytest.mark.parametrize(("npage", "why"), [(0, EINVAL), (512, 0), (513, E2BIG)])
def test_how_many_pages_at_once(w, npage, why):
    w.toy.dma_unmap = lambda iova, length: None
    assert errno_of(vfio_pin_pages, w.toy, 0, npage, 3) == why


def test_pages_are_pinned_for_who_can_let_them_go(w):
    """From Linux 6.2 on a device without dma_unmap() pins nothing."""
    wanted = 0 if w.kernel.profile.name == "linux-6.1" else EINVAL
    assert errno_of(vfio_pin_pages, w.toy, 0, 1, 3) == wanted
    assert errno_of(vfio_dma_read, w.toy, 0, 0) == EINVAL


CAPS = {
    # a 12-byte capability, then one of 16: back to back, or each at a multiple of 8
    "linux-6.1": "0300 0100 2c000000 78563412  0100 0100 00000000 0000000000000000",
    "linux-6.12": "0300 0100 30000000 78563412 00000000  0100 0100 00000000 0000000000000000",
}


@pytest.mark.parametrize(("profile", "wanted"), CAPS.items(), ids=CAPS)
def test_the_chain_of_capabilities(boot_vfio, profile, wanted):
    """``next`` counts from the struct's start, here 32 bytes before the chain."""
    caps = InfoCaps(boot_vfio(profile))
    assert (caps.size, bool(caps), caps.shifted(32)) == (0, False, b"")
    caps.add(3, 1, b"\x78\x56\x34\x12")
    caps.add(1, 1, bytes(8))
    assert caps.shifted(32) == bytes.fromhex(wanted)
    assert caps.size == len(caps.shifted(0))


NONE, BOOL, EVENTFD = v.VFIO_IRQ_SET_DATA_NONE, v.VFIO_IRQ_SET_DATA_BOOL, v.VFIO_IRQ_SET_DATA_EVENTFD
TRIGGER = v.VFIO_IRQ_SET_ACTION_TRIGGER
U32 = 0xFFFFFFFF
# argsz, flags, index, start, count of an interrupt index with 4 of 5: bytes of data, or None for EINVAL
IRQS = [
    ((20, NONE | TRIGGER, 0, 0, 4), 0),
    ((20, NONE | TRIGGER, 0, 3, 1), 0),
    ((20, NONE, 0, 0, 0), 0),
    ((24, BOOL | TRIGGER, 0, 0, 4), 4),
    ((36, EVENTFD | TRIGGER, 0, 0, 4), 16),
    ((99, EVENTFD | TRIGGER, 0, 1, 2), 8),
    ((19, NONE | TRIGGER, 0, 0, 1), None),
    ((20, NONE | TRIGGER, 5, 0, 1), None),
    ((20, NONE | TRIGGER, 0, 4, 0), None),
    ((20, NONE | TRIGGER, 0, 3, 2), None),
    ((20, NONE | TRIGGER, 0, 1, U32 - 1), None),
    ((20, NONE | TRIGGER | 0x40, 0, 0, 1), None),
    ((20, TRIGGER, 0, 0, 1), None),
    ((20, NONE | BOOL | TRIGGER, 0, 0, 1), None),
    ((23, BOOL | TRIGGER, 0, 0, 4), None),
    ((35, EVENTFD | TRIGGER, 0, 0, 4), None),
]


@pytest.mark.parametrize(("hdr", "size"), IRQS, ids=lambda x: str(x))
def test_the_checks_of_set_irqs(hdr, size):
    irq_set = v.vfio_irq_set(**dict(zip(("argsz", "flags", "index", "start", "count"), hdr, strict=True)))
    if size is None:
        assert errno_of(vfio_set_irqs_validate_and_prepare, irq_set, 4, 5) == EINVAL
    else:
        assert vfio_set_irqs_validate_and_prepare(irq_set, 4, 5) == size


# ---- virqfd


@pytest.fixture
def q(vfio_kernel):
    """A slot, and a client with an eventfd; enable() is called in its name."""
    proc, slot, log = vfio_kernel.process(), VirqfdSlot(), []
    fd = proc.eventfd()

    def enable(fd=fd, *, handled=True):
        def handler():
            log.append("handler")
            return handled

        with vfio_kernel.as_task(proc.task):
            vfio_virqfd_enable(vfio_kernel, slot, fd, handler, lambda: log.append("thread"))

    return SimpleNamespace(kernel=vfio_kernel, proc=proc, slot=slot, fd=fd, log=log, enable=enable)


def test_a_signal_is_taken_and_handled(q):
    """The counter is read at once, so nobody else sees it."""
    q.enable()
    q.proc.write(q.fd, (3).to_bytes(8, "little"))
    assert q.log == ["handler", "thread"]
    assert q.proc.poll([(q.fd, 1)]) == []


def test_the_handler_decides_about_the_thread(q):
    q.enable(handled=False)
    q.proc.write(q.fd, (1).to_bytes(8, "little"))
    assert q.log == ["handler"]


def test_what_was_signalled_before_acts_at_once(q):
    """And stays signalled: the counter is not read (vfio_virqfd_enable())."""
    q.proc.write(q.fd, (1).to_bytes(8, "little"))
    q.enable()
    assert q.log == ["handler"]
    vfio_virqfd_flush_thread(q.slot)
    assert q.log == ["handler", "thread"]
    assert q.proc.read(q.fd, 8) == (1).to_bytes(8, "little")


def test_one_eventfd_a_slot(q):
    q.enable()
    assert errno_of(q.enable) == EBUSY
    vfio_virqfd_disable(q.slot)
    assert errno_of(q.enable) == 0


@pytest.mark.parametrize(("fd", "why"), [(-1, EBADF), (99, EBADF), ("pipe", EINVAL)])
def test_what_is_no_eventfd(q, fd, why):
    assert errno_of(q.enable, q.proc.pipe()[0] if fd == "pipe" else fd) == why
    assert q.slot.virqfd is None


def test_an_eventfd_that_is_closed_leaves_its_slot(q):
    q.enable()
    q.proc.close(q.fd)
    assert q.slot.virqfd is None
    vfio_virqfd_disable(q.slot)


def test_after_disabling_nothing_acts(q):
    q.enable()
    vfio_virqfd_disable(q.slot)
    q.proc.write(q.fd, (1).to_bytes(8, "little"))
    assert q.log == []
    assert q.proc.read(q.fd, 8) == (1).to_bytes(8, "little")


def test_a_group_that_is_open_keeps_the_device_from_its_own_node(boot_vfio):
    """And the other way round; the node itself can be opened by several."""
    kernel = boot_vfio("linux-6.12")
    toy = add_toy(kernel)
    proc = kernel.process()
    node = "/dev/vfio/devices/vfio0"
    one, two = proc.open(node, 2), proc.open(node, 2)
    g = open_group(proc, toy)
    iommufd = proc.open("/dev/iommu", 2)
    bind = v.vfio_device_bind_iommufd(argsz=16, iommufd=iommufd)
    assert errno_of(proc.ioctl, one, v.VFIO_DEVICE_BIND_IOMMUFD, bind) == EBUSY
    proc.close(g)
    assert errno_of(proc.ioctl, one, v.VFIO_DEVICE_BIND_IOMMUFD, bind) == 0
    assert errno_of(proc.ioctl, one, v.VFIO_DEVICE_BIND_IOMMUFD, bind) == EINVAL
    assert errno_of(proc.ioctl, two, v.VFIO_DEVICE_BIND_IOMMUFD, bind) == EINVAL
    assert errno_of(open_group, proc, toy) == EBUSY
    proc.close(one)
    assert errno_of(open_group, proc, toy) == 0


# flags, descriptor -> why
BINDS = [
    ({"argsz": 15}, EINVAL),
    ({"flags": 1 << 31}, EINVAL),
    ({"iommufd": -1}, EINVAL),
    ({"iommufd": 99}, EBADF),
    ({}, 0),
]


@pytest.mark.parametrize(("change", "why"), BINDS, ids=str)
def test_binding_a_node(boot_vfio, change, why):
    kernel = boot_vfio("linux-6.12")
    toy = add_toy(kernel)
    proc = kernel.process()
    d, iommufd = proc.open("/dev/vfio/devices/vfio0", 2), proc.open("/dev/iommu", 2)
    bind = v.vfio_device_bind_iommufd(**{"argsz": 16, "iommufd": iommufd, **change})
    assert errno_of(proc.ioctl, d, v.VFIO_DEVICE_BIND_IOMMUFD, bind) == why
    assert errno_of(proc.pread, d, 1, 0) == (EINVAL if why else 0)
    assert toy.log == ([] if why else [("open",)])
    proc.close(d)
    assert toy.log == ([] if why else [("open",), ("close",)])
    assert errno_of(open_group, proc, toy) == 0


def test_a_node_does_nothing_before_it_is_bound(boot_vfio):
    kernel = boot_vfio("linux-6.12")
    add_toy(kernel)
    proc = kernel.process()
    d = proc.open("/dev/vfio/devices/vfio0", 2)
    for row in (v.VFIO_DEVICE_GET_INFO, v.VFIO_DEVICE_FEATURE, v.VFIO_DEVICE_ATTACH_IOMMUFD_PT):
        assert errno_of(proc.ioctl, d, row, 0) == EINVAL
    assert errno_of(proc.read, d, 1) == EINVAL
    assert errno_of(proc.write, d, b"x") == EINVAL
    assert errno_of(proc.mmap, 0, 4096, 3, 1, d, 0) == EINVAL


def test_without_iommufd_there_are_no_nodes(boot_vfio):
    """Debian's own Linux 6.12."""
    kernel = boot_vfio("linux-6.12", config=("-IOMMUFD",))
    add_toy(kernel)
    assert sorted(kernel.process().listdir("/dev/vfio")) == ["0", "vfio"]
