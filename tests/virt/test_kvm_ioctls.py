"""Ioctls of /dev/kvm, a machine and a processor: answers and errnos of kvm_main.c and x86.c, a test a rule."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from mmap import MAP_ANONYMOUS, MAP_PRIVATE, MAP_SHARED, PROT_READ, PROT_WRITE
from typing import Any

import pytest
from kvmbox import Box, Vm

from pykernel.machine import parse
from pykernel.start import boot
from pykernel.uapi.linux import kvm as k

PAGE = 4096


@pytest.fixture
def box() -> Iterator[Box]:
    made = Box()
    yield made
    made.shutdown()


@pytest.fixture
def vm(box: Box) -> Vm:
    return box.vm()


def fails(code: int, proc: Any, fd: int, row: Any, arg: Any = 0) -> None:
    with pytest.raises(OSError, match=os.strerror(code)) as e:
        proc.ioctl(fd, row, arg)
    assert e.value.errno == code, errno.errorcode[e.value.errno or 0]


def test_the_node_and_the_machine_without_vmx(box: Box) -> None:
    st = box.process().stat("/dev/kvm")
    assert (os.major(st.st_rdev), os.minor(st.st_rdev), st.st_mode & 0o777) == (10, 232, 0o666)
    plain = boot(parse("[modules]\nkvm_intel = ''\n"))
    plain.up()
    proc = plain.process()
    with pytest.raises(FileNotFoundError):
        proc.open("/dev/kvm", os.O_RDWR)
    assert any("kvm" in r.text for r in plain.log.records)
    proc.exit()
    plain.shutdown()


def test_dev_kvm(box: Box) -> None:
    proc = box.process()
    fd = proc.open("/dev/kvm", os.O_RDWR)
    assert proc.ioctl(fd, k.KVM_GET_API_VERSION, 0) == 12
    fails(errno.EINVAL, proc, fd, k.KVM_GET_API_VERSION, 1)
    assert proc.ioctl(fd, k.KVM_GET_VCPU_MMAP_SIZE, 0) == 3 * PAGE
    fails(errno.EINVAL, proc, fd, k.KVM_GET_VCPU_MMAP_SIZE, 1)
    assert proc.ioctl(fd, k.KVM_CHECK_EXTENSION, k.KVM_CAP_USER_MEMORY) == 1
    assert proc.ioctl(fd, k.KVM_CHECK_EXTENSION, k.KVM_CAP_MAX_VCPUS) == 1024
    assert proc.ioctl(fd, k.KVM_CHECK_EXTENSION, k.KVM_CAP_NR_VCPUS) == 2
    assert proc.ioctl(fd, k.KVM_CHECK_EXTENSION, k.KVM_CAP_XSAVE2) == 4096
    assert proc.ioctl(fd, k.KVM_CHECK_EXTENSION, 9999) == 0
    fails(errno.EINVAL, proc, fd, k.KVM_CREATE_VM, 1)
    fails(errno.EINVAL, proc, fd, k.KVM_RUN)  # an unknown ioctl of /dev/kvm
    proc.close(fd)


@pytest.mark.parametrize(
    ("row", "who", "code"),
    [
        (k.KVM_XEN_HVM_CONFIG, "vm", errno.ENOTTY),
        (k.KVM_CREATE_PIT2, "vm", errno.ENOTTY),
        (k.KVM_NMI, "vm", errno.ENOTTY),
        (k.KVM_GET_NESTED_STATE, "vcpu", errno.EINVAL),
        (k.KVM_CREATE_VCPU, "vcpu", errno.EINVAL),
        (0x5401, "vcpu", errno.EINVAL),
    ],
)
def test_unknown_ioctls(vm: Vm, row: Any, who: str, code: int) -> None:
    vm.vcpu()
    fails(code, vm.proc, vm.fd if who == "vm" else vm.fds[0], row)


def test_another_process_may_not_use_it(box: Box, vm: Vm) -> None:
    vm.vcpu()
    other = box.process()
    for fd in (vm.fd, vm.fds[0]):
        copy = other.fds.install(vm.proc.fds.get(fd).get())
        fails(errno.EIO, other, copy, k.KVM_CHECK_EXTENSION if fd == vm.fd else k.KVM_RUN)


def test_create_vcpu(vm: Vm) -> None:
    vm.vcpu()
    fails(errno.EEXIST, vm.proc, vm.fd, k.KVM_CREATE_VCPU, 0)
    fails(errno.EINVAL, vm.proc, vm.fd, k.KVM_CREATE_VCPU, 4096)
    vm.vm.max_vcpus = 1
    fails(errno.EINVAL, vm.proc, vm.fd, k.KVM_CREATE_VCPU, 1)


def test_create_irqchip(box: Box, vm: Vm) -> None:
    fails(errno.EEXIST, vm.proc, vm.fd, k.KVM_CREATE_IRQCHIP)
    bare = box.vm(irqchip=False)
    bare.vcpu()
    fails(errno.EINVAL, bare.proc, bare.fd, k.KVM_CREATE_IRQCHIP)
    fails(errno.ENXIO, bare.proc, bare.fd, k.KVM_IRQ_LINE, k.kvm_irq_level())
    fails(errno.EINVAL, bare.proc, bare.fd, k.KVM_SIGNAL_MSI, k.kvm_msi())
    fails(errno.EINVAL, bare.proc, bare.fd, k.KVM_IRQFD, k.kvm_irqfd())


def test_kvm_run_takes_no_argument_and_immediate_exit_is_eintr(vm: Vm) -> None:
    vcpu = vm.vcpu(lambda c: 5)
    fails(errno.EINVAL, vm.proc, vm.fds[0], k.KVM_RUN, 1)
    page = vm.proc.mmap(0, 3 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, vm.fds[0], 0)
    vm.proc.store(page + 1, b"\1")
    fails(errno.EINTR, vm.proc, vm.fds[0], k.KVM_RUN)
    assert vcpu.program.result is None
    vm.proc.store(page + 1, b"\0")
    assert vm.run() == k.KVM_EXIT_SHUTDOWN
    assert int.from_bytes(vm.proc.load(page + 8, 4), "little") == k.KVM_EXIT_SHUTDOWN
    vm.proc.store(page + k.kvm_run.offsetof("kvm_valid_regs"), b"\x80")
    fails(errno.EINVAL, vm.proc, vm.fds[0], k.KVM_RUN)


def test_pages_of_a_processor_beyond_the_third_are_a_bus_error(vm: Vm) -> None:
    vm.vcpu()
    page = vm.proc.mmap(0, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, vm.fds[0], 0)
    vm.proc.load(page + 2 * PAGE, 8)
    with pytest.raises(OSError, match="Bad address"):
        vm.proc.load(page + 3 * PAGE, 1)


@pytest.mark.parametrize(
    ("get", "put", "change"),
    [
        (k.KVM_GET_REGS, k.KVM_SET_REGS, {"rax": 5, "rflags": 2}),
        (k.KVM_GET_SREGS, k.KVM_SET_SREGS, {"cr3": 0x1000}),
        (k.KVM_GET_FPU, k.KVM_SET_FPU, {"fcw": 0x27F}),
        (k.KVM_GET_DEBUGREGS, k.KVM_SET_DEBUGREGS, {"dr6": 0xFFFF0FF1}),
        (k.KVM_GET_VCPU_EVENTS, k.KVM_SET_VCPU_EVENTS, {"flags": 0xD}),
        (k.KVM_GET_MP_STATE, k.KVM_SET_MP_STATE, {"mp_state": k.KVM_MP_STATE_HALTED}),
        (k.KVM_GET_XCRS, k.KVM_SET_XCRS, {}),
        (k.KVM_GET_XSAVE, k.KVM_SET_XSAVE, {}),
        (k.KVM_GET_LAPIC, k.KVM_SET_LAPIC, {}),
    ],
)
def test_registers_are_stored_and_given_back(vm: Vm, get: Any, put: Any, change: dict[str, int]) -> None:
    vm.vcpu()
    assert get.struct is not None
    at = vm.proc.mem.alloc(get.struct.sizeof())
    vm.proc.ioctl(vm.fds[0], get, at)
    state = get.struct.from_bytes(vm.proc.load(at, get.struct.sizeof()))
    for name, value in change.items():
        setattr(state, name, value)
    vm.proc.store(at, bytes(state))
    vm.proc.ioctl(vm.fds[0], put, at)
    vm.proc.store(at, bytes(len(bytes(state))))
    vm.proc.ioctl(vm.fds[0], get, at)
    assert vm.proc.load(at, get.struct.sizeof()) == bytes(state)


def test_states_that_cannot_be(vm: Vm) -> None:
    vm.vcpu()
    fd, proc = vm.fds[0], vm.proc
    fails(errno.EINVAL, proc, fd, k.KVM_SET_MP_STATE, k.kvm_mp_state(mp_state=99))
    fails(errno.EINVAL, proc, fd, k.KVM_SET_SREGS, k.kvm_sregs(cr0=1 << 31))
    fails(errno.EINVAL, proc, fd, k.KVM_SET_DEBUGREGS, k.kvm_debugregs(flags=1))
    fails(errno.EINVAL, proc, fd, k.KVM_SET_VCPU_EVENTS, k.kvm_vcpu_events(flags=1 << 9))
    wrong = k.kvm_xcrs(nr_xcrs=1)
    wrong.xcrs[0].value = 4
    fails(errno.EINVAL, proc, fd, k.KVM_SET_XCRS, wrong)
    fails(errno.ENXIO, proc, fd, k.KVM_INTERRUPT, k.kvm_interrupt(irq=3))
    fails(errno.EINVAL, proc, fd, k.KVM_INTERRUPT, k.kvm_interrupt(irq=256))
    compacted = bytearray(4096)
    compacted[512 + 1] = 4  # component 10, which is no user's
    fails(errno.EINVAL, proc, fd, k.KVM_SET_XSAVE, k.kvm_xsave.from_bytes(bytes(compacted)))


def test_cpuid_and_index_lists(vm: Vm) -> None:
    vm.vcpu()
    proc = vm.proc
    room = proc.mem.alloc(8 + 40 * 64)
    proc.store(room, (2).to_bytes(8, "little"))
    fails(errno.E2BIG, proc, vm.kvm_fd, k.KVM_GET_SUPPORTED_CPUID, room)
    proc.store(room, (64).to_bytes(8, "little"))
    proc.ioctl(vm.kvm_fd, k.KVM_GET_SUPPORTED_CPUID, room)
    count = int.from_bytes(proc.load(room, 4), "little")
    proc.ioctl(vm.fds[0], k.KVM_SET_CPUID2, room)
    assert vm.vcpus[0].find_cpuid(7, 0).ecx >> 29 & 1
    proc.store(room, (1).to_bytes(8, "little"))
    fails(errno.E2BIG, proc, vm.fds[0], k.KVM_GET_CPUID2, room)
    assert int.from_bytes(proc.load(room, 4), "little") == 1  # Linux leaves it: cpuid.c:kvm_vcpu_ioctl_get_cpuid2()
    assert count > 1
    proc.store(room, (1).to_bytes(4, "little"))
    fails(errno.E2BIG, proc, vm.kvm_fd, k.KVM_GET_MSR_INDEX_LIST, room)
    n = int.from_bytes(proc.load(room, 4), "little")
    proc.ioctl(vm.kvm_fd, k.KVM_GET_MSR_INDEX_LIST, room)
    data = proc.load(room + 4, 4 * n)
    assert 0xD93 in {int.from_bytes(data[at : at + 4], "little") for at in range(0, 4 * n, 4)}
    fails(errno.E2BIG, proc, vm.fds[0], k.KVM_GET_MSRS, k.kvm_msrs(nmsrs=256))


def test_devices(box: Box, vm: Vm) -> None:
    proc = vm.proc
    fails(
        errno.ENODEV,
        proc,
        vm.fd,
        k.KVM_CREATE_DEVICE,
        k.kvm_create_device(type=3),
    )
    made = k.kvm_create_device(type=k.KVM_DEV_TYPE_VFIO)
    proc.ioctl(vm.fd, k.KVM_CREATE_DEVICE, made)
    fails(errno.EBUSY, proc, vm.fd, k.KVM_CREATE_DEVICE, k.kvm_create_device(type=k.KVM_DEV_TYPE_VFIO))
    fd = proc.mem.alloc(4)

    def attr(group: int, which: int, value: int) -> k.kvm_device_attr:
        proc.store(fd, value.to_bytes(4, "little", signed=True))
        return k.kvm_device_attr(group=group, attr=which, addr=fd)

    fails(errno.ENXIO, proc, made.fd, k.KVM_SET_DEVICE_ATTR, attr(9, 1, 0))
    fails(errno.EBADF, proc, made.fd, k.KVM_SET_DEVICE_ATTR, attr(1, 1, 999))
    fails(errno.EINVAL, proc, made.fd, k.KVM_SET_DEVICE_ATTR, attr(1, 1, vm.kvm_fd))
    fails(errno.ENOENT, proc, made.fd, k.KVM_SET_DEVICE_ATTR, attr(1, 2, vm.kvm_fd))
    fails(errno.EPERM, proc, made.fd, k.KVM_GET_DEVICE_ATTR, attr(1, 1, 0))
    fails(errno.ENOTTY, proc, made.fd, k.KVM_RUN)
    proc.ioctl(made.fd, k.KVM_HAS_DEVICE_ATTR, attr(1, 1, 0))


def test_routes_irqfd_ioeventfd(vm: Vm) -> None:
    proc = vm.proc
    head = k.kvm_irq_routing(nr=1)
    for row in (
        k.kvm_irq_routing_entry(gsi=4096, type=k.KVM_IRQ_ROUTING_MSI),
        k.kvm_irq_routing_entry(gsi=1, type=9),
        k.kvm_irq_routing_entry(gsi=1, type=k.KVM_IRQ_ROUTING_MSI, flags=2),
    ):
        fails(errno.EINVAL, proc, vm.fd, k.KVM_SET_GSI_ROUTING, bytearray(bytes(head) + bytes(row)))
    fails(errno.EINVAL, proc, vm.fd, k.KVM_IRQFD, k.kvm_irqfd(flags=8))
    fails(errno.EBADF, proc, vm.fd, k.KVM_IRQFD, k.kvm_irqfd(fd=999))
    fails(errno.EINVAL, proc, vm.fd, k.KVM_IRQFD, k.kvm_irqfd(fd=vm.kvm_fd))
    event = proc.eventfd(0)
    proc.ioctl(vm.fd, k.KVM_IRQFD, k.kvm_irqfd(fd=event, gsi=4))
    fails(errno.EBUSY, proc, vm.fd, k.KVM_IRQFD, k.kvm_irqfd(fd=event, gsi=5))
    stores = k.kvm_ioeventfd(addr=0xE0000000, len=3, fd=event)
    fails(errno.EINVAL, proc, vm.fd, k.KVM_IOEVENTFD, stores)
    stores.len = 4
    proc.ioctl(vm.fd, k.KVM_IOEVENTFD, stores)
    fails(errno.EEXIST, proc, vm.fd, k.KVM_IOEVENTFD, stores)
    stores.flags = k.KVM_IOEVENTFD_FLAG_DEASSIGN
    proc.ioctl(vm.fd, k.KVM_IOEVENTFD, stores)
    fails(errno.ENOENT, proc, vm.fd, k.KVM_IOEVENTFD, stores)


def test_memory_slots_and_the_dirty_log_through_the_door(vm: Vm) -> None:
    proc = vm.proc
    hva = proc.mmap(0, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS)
    row = k.kvm_userspace_memory_region(slot=5, guest_phys_addr=0, memory_size=PAGE, userspace_addr=hva)
    fails(errno.EEXIST, proc, vm.fd, k.KVM_SET_USER_MEMORY_REGION, row)
    row.guest_phys_addr = 1
    fails(errno.EINVAL, proc, vm.fd, k.KVM_SET_USER_MEMORY_REGION, row)
    vm.region(5, 0x40000000, PAGE, hva, flags=k.KVM_MEM_LOG_DIRTY_PAGES)
    vm.execute(lambda c: c.mmio_write(0x40000010, 4, 7))
    bitmap = proc.mem.alloc(8)
    proc.ioctl(vm.fd, k.KVM_GET_DIRTY_LOG, k.kvm_dirty_log(slot=5, dirty_bitmap=bitmap))
    assert proc.load(bitmap, 8) == (1).to_bytes(8, "little")
    assert proc.load(hva + 16, 4) == (7).to_bytes(4, "little")
    fails(errno.ENOENT, proc, vm.fd, k.KVM_GET_DIRTY_LOG, k.kvm_dirty_log(slot=6, dirty_bitmap=bitmap))


def test_statistics_as_a_file(vm: Vm) -> None:
    fd = vm.proc.ioctl(vm.fd, k.KVM_GET_STATS_FD, 0)
    data = vm.proc.read(fd, 4096)
    header = k.kvm_stats_header.from_bytes(data[: k.kvm_stats_header.sizeof()])
    step = k.kvm_stats_desc.sizeof() + header.name_size
    names = [
        data[at + k.kvm_stats_desc.sizeof() :][: header.name_size].rstrip(b"\0").decode()
        for at in range(header.desc_offset, header.desc_offset + header.num_desc * step, step)
    ]
    values = [int.from_bytes(data[header.data_offset + 8 * n :][:8], "little") for n in range(header.num_desc)]
    assert dict(zip(names, values, strict=True)) == vm.vm.stat()
