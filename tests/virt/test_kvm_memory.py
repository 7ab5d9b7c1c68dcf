"""Slots, extended page tables and the log of written pages, as a VMM and its guest see them."""

from __future__ import annotations

import mmap as libc
from collections.abc import Callable, Iterator
from contextlib import suppress
from errno import EEXIST, EFAULT, EINVAL, ENOENT
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pykernel
from pykernel.machine import parse
from pykernel.mm.guest import GuestRam
from pykernel.mm.phys import PAGE_SIZE, PhysMem
from pykernel.mm.vma import MAP_FIXED, MAP_POPULATE, VM_DONTCOPY, Vma
from pykernel.virt.kvm.ept import EptMisconfig, EptViolation
from pykernel.virt.kvm.mmu import Mmu

LOG, READONLY = 1, 2  # include/uapi/linux/kvm.h: KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY
MIB, GIB = 1 << 20, 1 << 30
RW = libc.PROT_READ | libc.PROT_WRITE
PRIVATE = libc.MAP_PRIVATE | libc.MAP_ANONYMOUS
AT = 0x7F00_0000_0000
R, W, X, IPAT, LARGE, A, D = 1, 2, 4, 1 << 6, 1 << 7, 1 << 8, 1 << 9  # SDM volume 3, table 30-6
WB, UC = 6 << 3, 0


class Machine:
    """A host, a VMM's process with memory at AT, and the memory of one virtual machine."""

    def __init__(self, size: str = "64M", pages: int = 64, flags: int = PRIVATE) -> None:
        self.kernel = pykernel.boot(parse(f"memory = '{size}'\n[cpu]\nvmx = true"))
        self.vmm = self.kernel.process()
        self.mem = self.vmm.mem
        self.phys = self.kernel.sub(PhysMem)
        if pages:
            self.vmm.mmap(AT, pages * PAGE_SIZE, RW, flags | MAP_FIXED)
        vm: Any = SimpleNamespace(kernel=self.kernel, mm=self.vmm.task.mm)
        self.mmu = Mmu(vm)

    def slot(self, slot: int, gpa: int, pages: int, hva: int = AT, flags: int = 0) -> None:
        self.mmu.set_memory_region(slot, flags, gpa, pages * PAGE_SIZE, hva)

    def close(self) -> None:
        """Everything goes, and nothing is left."""
        self.mmu.destroy()
        self.vmm.exit()
        assert self.phys.free
        assert (self.phys.used, self.phys.pinned) == (0, 0)
        self.kernel.shutdown()


@pytest.fixture
def m() -> Iterator[Machine]:
    machine = Machine()
    yield machine
    machine.close()


def fails(errno: int, fn: Callable[..., object], *args: object) -> None:
    with pytest.raises(OSError) as e:  # noqa: PT011
        fn(*args)
    assert e.value.errno == errno


def walk(m: Machine, gpa: int) -> tuple[int, int]:
    """The leaf of *gpa* as silicon finds it, and its level."""
    table = m.mmu.ept.eptp & ~4095
    for level in (4, 3, 2, 1):
        entry = int.from_bytes(m.phys.read(table + (gpa >> 3 + 9 * level & 511) * 8, 8), "little")
        if level == 1 or not entry & 7 or entry & LARGE:
            return entry, level
        table = entry & 0x000F_FFFF_FFFF_F000
    raise AssertionError


def violation(m: Machine, gpa: int, *, write: bool = False) -> EptViolation:
    with pytest.raises(EptViolation) as e:
        m.mmu.translate(gpa, write=write)
    return e.value


# ---- slots


def test_errors_of_set_user_memory_region_come_in_linuxs_order(m: Machine) -> None:
    """
    Each call is wrong in what its line says and in all that is looked at later.

    The answers are those of Linux 6.1 and 6.12 (kvm_amd in QEMU), except that its processor has 40 bits of address.
    """
    set_region = m.mmu.set_memory_region
    m.slot(1, 0x100000, 4)
    for args in (
        (0x7FFC, 0, 0x1000, 0x1000, 0x1000),  # the slot's number: 32764 there are
        (0x17FFF, 4, 1, 1, 1),
        (0x30000, 4, 1, 1, 1),  # flags
        (0x30000, 0, 0x1000, 0x1001, 1),  # the guest's address is not at a page
        (0x30000, 0, 0x1001, 0x1000, 0x1000),  # nor the size
        (0x30000, 0, 0x1000, 0x1000, 1 << 47),  # the kernel's half
        (0x30000, 0, 0x1000, 0x1000, 0x1000),  # the address space
        (0, 0, (1 << 64) - 0x1000, 0x2000, 0x1000),  # wraps around
        (0, 0, (1 << 64) - 0x1000, 0x1000, 0x1000),
        (0, 0, 0, 1 << 43, 0x1000),  # 2^31 pages
        (0, 0, 0x1000, 0, 0x1000),  # no slot to delete
        (1, 0, 0x200000, 0x3000, AT),  # another size
        (1, 0, 0x200000, 0x4000, AT + 0x1000),  # another place of the VMM
        (1, READONLY, 0x200000, 0x4000, AT),
        (0, 0, (1 << 52) - 0x1000, 0x2000, 0x1000),  # behind the last physical address
    ):
        fails(EINVAL, set_region, *args)
    fails(EEXIST, m.slot, 0, 0x103000, 1)
    fails(EEXIST, m.slot, 0, 0xFF000, 2)
    m.slot(0, 0xFF000, 1)
    fails(EEXIST, m.slot, 1, 0xFF000, 4)
    m.slot(0x10000, 0xFF000, 2)  # the other address space
    m.slot(1, 0x100000, 4)  # nothing to change
    m.slot(0x7FFB, (1 << 52) - 0x1000, 1)
    assert [(s.id, s.base_gfn) for s in m.mmu.slots] == [(0, 0xFF), (1, 0x100), (0x7FFB, (1 << 40) - 1)]


def test_a_slot_moves_and_goes(m: Machine) -> None:
    m.vmm.store(AT, b"here")
    m.slot(1, 0x100000, 4)
    pa = m.mmu.translate(0x100000)
    assert m.phys.read(pa, 4) == b"here"
    m.slot(1, 0x200000, 4)
    assert violation(m, 0x100000).cause == "no slot"
    assert m.mmu.translate(0x200003) == pa + 3
    m.slot(1, 0, 0)
    assert violation(m, 0x200000).mmio
    fails(EINVAL, m.slot, 1, 0, 0)


# ---- the tables


def test_entries_are_write_back_and_dirty_where_they_may_be_written(m: Machine) -> None:
    m.vmm.store(AT, b"x")
    m.slot(0, 0x100000, 64)
    assert m.mmu.ept.eptp & 0xFFF == 6 | 3 << 3 | 1 << 6
    pa = m.mmu.translate(0x100000)
    assert walk(m, 0x100000) == (pa | R | W | X | WB | IPAT | A | D, 1)
    zero = m.mmu.translate(0x101000)  # nobody wrote it: the page of zeros, read-only
    assert walk(m, 0x101000) == (zero | R | X | WB | IPAT | A, 1)
    own = m.mmu.translate(0x101000, write=True)
    assert own != zero
    assert (walk(m, 0x101000)[0] & W, m.mmu.translate(0x101000)) == (W, own)


def test_what_no_slot_has_is_a_violation_then_a_misconfiguration(m: Machine) -> None:
    """KVM remembers emulated pages, until the slots change."""
    m.slot(0, 0x100000, 1)
    e = violation(m, 0xFED90010, write=True)
    assert (e.mmio, e.number, e.qualification & 0x3F) == (True, 48, 2)
    with pytest.raises(EptMisconfig) as again:
        m.mmu.translate(0xFED90010)
    assert (again.value.mmio, again.value.number, again.value.gpa) == (True, 49, 0xFED90010)
    m.slot(1, 0xFED90000, 1)
    assert m.mmu.translate(0xFED90010)
    assert violation(m, 1 << 48).mmio


def test_a_readonly_slot_is_read_and_its_writes_are_emulated(m: Machine) -> None:
    m.vmm.store(AT, b"rom")
    m.slot(0, 0xFFFC0000, 4, flags=READONLY)
    pa = m.mmu.translate(0xFFFC0000)
    assert m.phys.read(pa, 3) == b"rom"
    assert not walk(m, 0xFFFC0000)[0] & W
    e = violation(m, 0xFFFC0000, write=True)
    assert (e.mmio, e.cause, e.qualification & 0x3F) == (True, "read-only", 2 | 5 << 3)
    fails(EFAULT, m.mmu.vm_write, 0xFFFC0000, b"x")
    assert m.mmu.vm_read(0xFFFC0000, 3) == b"rom"


def test_memory_that_the_vmm_does_not_have_is_efault(m: Machine) -> None:
    """KVM_RUN fails then; the guest does not see another frame."""
    m.slot(0, 0, 64)
    m.slot(1, 0x100000, 4, hva=AT + 64 * PAGE_SIZE)
    assert (violation(m, 0x100000).cause, violation(m, 0x100000).mmio) == ("fault", False)
    m.vmm.mprotect(AT, PAGE_SIZE, libc.PROT_READ)
    assert violation(m, 0, write=True).cause == "fault"
    m.vmm.mprotect(AT, PAGE_SIZE, 0)
    assert violation(m, 0).cause == "fault"


def test_the_vmms_changes_are_seen_at_once(m: Machine) -> None:
    m.vmm.store(AT, b"a" * 4 * PAGE_SIZE)
    m.slot(0, 0, 64)
    first = [m.mmu.translate(i * PAGE_SIZE, write=True) for i in range(4)]
    m.vmm.munmap(AT, PAGE_SIZE)
    assert violation(m, 0).cause == "fault"
    m.vmm.mprotect(AT + PAGE_SIZE, PAGE_SIZE, libc.PROT_READ)
    assert m.mmu.translate(PAGE_SIZE) == first[1]
    assert violation(m, PAGE_SIZE, write=True).cause == "fault"
    child = m.mem.fork()
    m.vmm.store(AT + 2 * PAGE_SIZE, b"parent")
    assert m.mmu.translate(2 * PAGE_SIZE) != first[2]
    assert m.mmu.translate(3 * PAGE_SIZE, write=True) not in (first[3], child.translate(AT + 3 * PAGE_SIZE))
    child.exit()


def test_large_pages_where_slot_and_frames_allow() -> None:
    """1 GiB and 2 MiB where both sides are aligned alike and frames follow each other; a log needs small ones."""
    m = Machine("3G", 0)
    hva, pages = 0x7F00_4000_0000, (GIB + 4 * MIB) >> 12
    m.vmm.mmap(hva, pages << 12, RW, PRIVATE | MAP_FIXED | MAP_POPULATE)
    base = m.mem.translate(hva)
    m.slot(0, GIB, pages, hva=hva)
    pa = m.mmu.translate(GIB + 0x12345)
    assert pa == m.mem.translate(hva + 0x12345)
    biggest = 3 if base % GIB == 0 else 2
    assert walk(m, GIB)[1] == biggest
    assert walk(m, GIB)[0] & (R | W | LARGE) == R | W | LARGE
    m.mmu.translate(2 * GIB + 2 * MIB)
    assert walk(m, 2 * GIB + 2 * MIB)[1] == 2
    m.vmm.munmap(hva + PAGE_SIZE, PAGE_SIZE)
    m.mmu.translate(GIB)
    assert walk(m, GIB)[1] == 1
    assert violation(m, GIB + PAGE_SIZE).cause == "fault"
    m.slot(2, 6 * GIB, 512, hva=hva + 4 * MIB, flags=LOG)
    m.mmu.translate(6 * GIB, write=True)
    assert walk(m, 6 * GIB)[1] == 1
    m.slot(1, 8 * GIB + PAGE_SIZE, 1024, hva=hva + 4 * MIB)
    m.mmu.translate(8 * GIB + 2 * MIB)
    assert walk(m, 8 * GIB + 2 * MIB)[1] == 1
    m.close()


class Portal:
    """Registers with a physical address."""

    def read(self, off: int, n: int) -> bytes:
        return bytes(n)

    def write(self, off: int, data: bytes) -> None: ...

    def phys_addr(self, off: int) -> int:
        return 0xC000_0000 + off


def test_mapped_registers_are_entered_uncached(m: Machine) -> None:
    """A portal in a slot: the guest's stores go to the device's physical address, without an exit."""

    def setup(vma: Vma) -> None:
        vma.io = Portal()
        vma.vm_flags |= VM_DONTCOPY

    m.mem.mmap(AT + 0x100000, 4 * PAGE_SIZE, RW, libc.MAP_SHARED | MAP_FIXED, pgoff=2, file=1, setup=setup)
    m.slot(5, 0xFE000000, 4, hva=AT + 0x100000)
    assert m.mmu.translate(0xFE001040, write=True) == 0xC000_3040
    assert walk(m, 0xFE001000) == (0xC000_3000 | R | W | X | UC | A | D, 1)
    m.vmm.munmap(AT + 0x100000, 4 * PAGE_SIZE)
    assert violation(m, 0xFE001040, write=True).cause == "fault"


def test_tables_are_given_back_as_they_empty(m: Machine) -> None:
    m.vmm.store(AT, b"x")
    used = m.phys.used
    for i in range(8):
        m.slot(i, i * 600 * GIB, 1)
        m.mmu.translate(i * 600 * GIB)
    assert m.phys.used == used + 8 * 3
    for i in range(8):
        m.slot(i, 0, 0)
    assert m.phys.used == used


def test_scattered_mmio_does_not_eat_the_host(m: Machine) -> None:
    """A guest that reads from everywhere makes KVM remember a few thousand pages at most."""
    used = m.phys.used
    for i in range(6000):
        with pytest.raises(EptViolation):
            m.mmu.translate(i << 21)
    assert m.phys.used < used + 4096 + 20


def test_release_of_the_vmms_memory_empties_all(m: Machine) -> None:
    m.vmm.store(AT, b"x")
    m.slot(0, 0, 64)
    m.mmu.translate(0)
    m.mem.exit()
    assert violation(m, 0).cause == "fault"


# ---- KVM's own accesses


def test_vm_read_and_write_go_over_slots(m: Machine) -> None:
    m.slot(0, 0x1000, 1)
    m.slot(1, 0x2000, 1, hva=AT + 8 * PAGE_SIZE)
    m.mmu.vm_write(0x1FFE, b"over")
    assert m.vmm.load(AT + 8 * PAGE_SIZE, 2) == b"er"
    assert m.mmu.vm_read(0x1FFE, 4) == b"over"
    fails(EFAULT, m.mmu.vm_read, 0x2FFE, 4)
    fails(EFAULT, m.mmu.vm_write, 0x2FFE, b"xyz.")
    assert m.vmm.load(AT + 9 * PAGE_SIZE - 2, 2) == b"xy"


# ---- the log


def pages_of(bitmap: bytes) -> list[int]:
    return [i for i in range(8 * len(bitmap)) if bitmap[i >> 3] >> (i & 7) & 1]


def test_errors_of_the_dirty_log(m: Machine) -> None:
    """As Linux 6.1 and 6.12 answer (kvm_amd in QEMU)."""
    m.slot(1, 0, 10)
    fails(EINVAL, m.mmu.get_dirty_log, 0x20001)
    fails(EINVAL, m.mmu.get_dirty_log, 0x7FFC)
    fails(ENOENT, m.mmu.get_dirty_log, 1)
    fails(ENOENT, m.mmu.get_dirty_log, 2)
    m.slot(1, 0, 10, flags=LOG)

    def clear(slot: int, first: int, n: int) -> None:
        m.mmu.clear_dirty_log(slot, first, n, lambda size: bytes(size))

    fails(EINVAL, clear, 0x7FFC, 1, 1)
    fails(EINVAL, clear, 2, 1, 1)
    fails(ENOENT, clear, 2, 0, 1)
    fails(EINVAL, clear, 1, 64, 0)
    fails(EINVAL, clear, 1, 0, 11)
    fails(EINVAL, clear, 1, 0, 9)
    clear(1, 0, 10)
    clear(1, 0, 0)
    m.slot(3, 0x300000, 4, flags=LOG | READONLY)
    assert m.mmu.get_dirty_log(3) == bytes(8)
    fails(EFAULT, m.mmu.clear_dirty_log, 1, 0, 10, lambda size: m.mem.read(0x1000, size))


def test_written_pages_are_reported_once(m: Machine) -> None:
    m.vmm.store(AT, bytes([1]) * 64 * PAGE_SIZE)
    m.slot(0, 0x100000, 64)
    m.mmu.translate(0x100000, write=True)
    m.slot(0, 0x100000, 64, flags=LOG)
    assert pages_of(m.mmu.get_dirty_log(0)) == []
    assert len(m.mmu.get_dirty_log(0)) == 8
    m.mmu.translate(0x100000, write=True)
    m.mmu.translate(0x101000)
    m.mmu.vm_write(0x102FFF, b"xy")
    m.mmu.mark_dirty(0x13F123)
    m.vmm.store(AT + 9 * PAGE_SIZE, b"a device's or the guest's write")
    assert pages_of(m.mmu.get_dirty_log(0)) == [0, 2, 3, 9, 63]
    assert pages_of(m.mmu.get_dirty_log(0)) == []
    m.mmu.translate(0x100000, write=True)
    m.vmm.store(AT + 10 * PAGE_SIZE, b"\1")  # what it held already
    assert pages_of(m.mmu.get_dirty_log(0)) == [0]
    m.slot(0, 0x100000, 64)
    fails(ENOENT, m.mmu.get_dirty_log, 0)


def test_manual_protection_leaves_clearing_to_the_vmm(m: Machine) -> None:
    m.mmu.manual_protect = 1
    m.slot(0, 0, 64, flags=LOG)
    m.mmu.translate(0, write=True)
    m.mmu.translate(5 * PAGE_SIZE, write=True)
    assert pages_of(m.mmu.get_dirty_log(0)) == [0, 5]
    m.mmu.clear_dirty_log(0, 0, 64, lambda size: b"\x21".ljust(size, b"\0"))
    assert pages_of(m.mmu.get_dirty_log(0)) == []
    m.mmu.translate(5 * PAGE_SIZE, write=True)
    assert pages_of(m.mmu.get_dirty_log(0)) == [5]
    m.mmu.clear_dirty_log(0, 0, 64, lambda size: b"\x01".ljust(size, b"\xff"))
    assert pages_of(m.mmu.get_dirty_log(0)) == [5]


def test_initially_all_pages_are_dirty_if_the_vmm_says_so(m: Machine) -> None:
    m.mmu.manual_protect = 3
    m.slot(0, 0, 13, flags=LOG)
    every = bytes([0xFF, 0x1F]).ljust(8, b"\0")
    assert [m.mmu.get_dirty_log(0) for _ in range(2)] == [every, every]
    m.mmu.clear_dirty_log(0, 0, 13, lambda size: every[:size])
    assert m.mmu.get_dirty_log(0) == bytes(8)
    m.slot(0, 0, 13)
    m.slot(0, 0, 13, flags=LOG)
    m.slot(0, 0x500000, 13, flags=LOG)  # moved: what was dirty still is
    assert m.mmu.get_dirty_log(0) == every


# ---- the guest kernel's RAM


def test_slots_back_the_guests_ram(m: Machine) -> None:
    ram = GuestRam(16 * MIB)
    m.slot(0, 0, 32)
    m.mmu.back(ram)
    m.slot(1, 0x100000, 16, hva=AT + 48 * PAGE_SIZE)
    m.slot(2, 0xFFFC0000, 1, flags=READONLY)
    ram.write(0x100010, b"guest")
    assert (m.vmm.load(AT + 48 * PAGE_SIZE + 0x10, 5), m.mmu.vm_read(0x100010, 5)) == (b"guest", b"guest")
    assert m.phys.read(m.mmu.translate(0x100010), 5) == b"guest"
    child = m.mem.fork()
    ram.write(0x1000, b"after the fork")
    assert m.vmm.load(AT + 0x1000, 14) == b"after the fork"
    child.exit()
    m.slot(1, 0, 0)
    assert ram.read(0x100010, 5) == bytes(5)
    assert m.phys.pinned == 32
    m.slot(0, 0x1000, 32)
    assert ram.read(0x2000, 14) == b"after the fork"
    fails(EINVAL, m.slot, 0, 16 * MIB - PAGE_SIZE, 32)
    assert ram.read(0x2000, 14) == b"after the fork"
    assert m.phys.pinned == 32
    m.slot(0, 32 * MIB, 32)  # behind the guest's RAM: the VMM's device has it
    assert (m.phys.pinned, list(ram.placed())) == (0, [])


def test_a_write_of_the_guest_is_in_the_log(m: Machine) -> None:
    ram = GuestRam(16 * MIB)
    m.slot(0, 0, 64)
    m.mmu.back(ram)
    m.slot(0, 0, 64, flags=LOG)
    ram.write(0x7123, b"guest")
    assert pages_of(m.mmu.get_dirty_log(0)) == [7]
    m.slot(0, 0, 0)
    assert m.phys.pinned == 0


def test_memory_that_is_not_there_backs_nothing(m: Machine) -> None:
    ram = GuestRam(16 * MIB)
    m.mmu.back(ram)
    fails(EFAULT, m.slot, 0, 0, 65)
    fails(EINVAL, m.slot, 0, 16 * MIB - PAGE_SIZE, 2)
    assert (m.phys.pinned, list(m.mmu.slots), list(ram.placed())) == (0, [], [])


def elsewhere() -> Machine:
    """As many pages at other addresses of the guest."""
    machine = Machine()
    machine.slot(0, 0x200000, 64)
    return machine


def test_live_migration_moves_the_guests_ram() -> None:
    """Copied by the VMM, then the destination's slots back the same object."""
    source, target = Machine(), Machine()
    ram = GuestRam(16 * MIB)
    for host in (source, target):
        host.slot(0, 0, 32)
        host.slot(1, 0x100000, 32, hva=AT + 32 * PAGE_SIZE)
    source.mmu.back(ram)
    view = ram.view(0x100000, 5)
    assert view is not None
    ram.write(0x100000, b"state")
    target.vmm.store(AT, source.vmm.load(AT, 64 * PAGE_SIZE))
    fails(EINVAL, elsewhere().mmu.back, ram)
    source.mmu.leave()
    target.mmu.back(ram)
    assert bytes(view) == b"state"
    ram.write(0x100000, b"STATE")
    assert target.vmm.load(AT + 32 * PAGE_SIZE, 5) == b"STATE"
    assert source.vmm.load(AT + 32 * PAGE_SIZE, 5) == b"state"
    source.close()
    ram.write(0x100000, b"after")
    assert target.mmu.vm_read(0x100000, 5) == b"after"
    target.close()
    assert ram.read(0x100000, 5) == bytes(5)


# ---- whose memory the guest's code reaches

FRAMES = st.integers(0, 15)
MOVES = st.one_of(
    st.tuples(st.just("add"), st.integers(0, 2), FRAMES, FRAMES, st.integers(1, 6)),
    st.tuples(st.just("delete"), st.integers(0, 2)),
    st.tuples(st.just("unmap"), FRAMES, st.integers(1, 6)),
    st.tuples(st.just("map"), FRAMES, st.integers(1, 6)),
    st.tuples(st.just("fork")),
    st.tuples(st.just("other"), st.integers(1, 4)),
    st.tuples(st.just("guest"), FRAMES),
)


@settings(max_examples=80, deadline=None)
@given(st.lists(MOVES, max_size=25))
def test_a_guest_reaches_no_frame_but_its_slots(moves: list[tuple[Any, ...]]) -> None:
    """Whatever the VMM maps, unmaps and forks: what others have in their frames stays."""
    m, ram = Machine(pages=16), GuestRam(16 * MIB)
    m.mmu.back(ram)
    other = m.kernel.process()
    theirs: list[int] = []
    for move, *args in moves:
        with suppress(OSError):
            if move == "add":
                m.slot(args[0], args[1] << 12, args[3], hva=AT + (args[2] << 12))
            elif move == "delete":
                m.slot(args[0], 0, 0)
            elif move == "unmap":
                m.vmm.munmap(AT + (args[0] << 12), args[1] << 12)
            elif move == "map":
                m.vmm.mmap(AT + (args[0] << 12), args[1] << 12, RW, PRIVATE | MAP_FIXED)
            elif move == "fork":
                m.mem.fork().exit()
            elif move == "guest":
                ram.write(args[0] << 12, b"guest" * 800)
            else:
                theirs += [other.mmap(0, PAGE_SIZE, RW, PRIVATE) for _ in range(args[0])]
        for at in theirs:
            other.store(at, at.to_bytes(8, "little") * 512)
        for gpn in range(24):
            ram.write(gpn << 12, bytes([gpn]) * PAGE_SIZE)
        assert all(other.load(at, PAGE_SIZE) == at.to_bytes(8, "little") * 512 for at in theirs)
        held = {gpn for s in m.mmu.slots for gpn in range(s.base_gfn, s.end_gfn)}
        assert {gpn for gpn in range(24) if ram.host_phys(gpn << 12) is not None} == held
    other.exit()
    m.close()
    assert not list(ram.placed())


# ---- against naive models

GPAGE, PAGE = st.integers(0, 40), st.integers(0, 30)
OPS = st.one_of(
    st.tuples(
        st.just("slot"), st.integers(0, 3), GPAGE, st.integers(0, 12), st.integers(0, 30), st.sampled_from([0, 2])
    ),
    st.tuples(st.just("unmap"), PAGE, st.integers(1, 8)),
    st.tuples(st.just("map"), PAGE, st.integers(1, 8)),
    st.tuples(st.just("protect"), PAGE, st.integers(1, 8), st.sampled_from([0, 1, 3])),
    st.tuples(st.just("store"), PAGE),
    st.tuples(st.just("read"), GPAGE),
    st.tuples(st.just("write"), GPAGE),
)


def expected(m: Machine, slots: dict[int, tuple[int, int, int, int]], page: int, *, write: bool) -> str | int:
    """What an access of the guest's *page* is: a frame, or why not."""
    for base, n, hva, flags in slots.values():
        if base <= page < base + n:
            if write and flags & READONLY:
                return "read-only"
            vma = m.mem.vmas.find(AT + (hva + page - base << 12))
            if vma is None or not vma.vm_flags & (2 if write else 1):
                return "fault"
            return AT + (hva + page - base << 12)
    return "no slot"


@settings(max_examples=120, deadline=None)
@given(st.lists(OPS, max_size=30))
def test_slots_and_tables_are_a_dictionary(ops: list[tuple[Any, ...]]) -> None:
    """Also: whatever the guest accesses, the frame is the one that the VMM has there now."""
    m = Machine(pages=32)
    slots: dict[int, tuple[int, int, int, int]] = {}
    for op, *args in ops:
        if op == "slot":
            id, base, n, hva, flags = args
            old = slots.get(id)
            clash = any(i != id and b < base + n and base < b + k for i, (b, k, _, _) in slots.items())
            legal = (
                bool(old)
                if not n
                else (not old or (n, hva, flags) == old[1:]) and (not clash or old == tuple(args[1:]))
            )
            try:
                m.slot(id, base << 12, n, hva=AT + (hva << 12), flags=flags)
            except OSError:
                assert not legal
                continue
            assert legal
            slots[id] = (base, n, hva, flags)
            if not n:
                del slots[id]
        elif op == "unmap":
            m.vmm.munmap(AT + (args[0] << 12), args[1] << 12)
        elif op == "map":
            m.vmm.mmap(AT + (args[0] << 12), args[1] << 12, RW, PRIVATE | MAP_FIXED)
        elif op == "protect":
            with suppress(OSError):
                m.vmm.mprotect(AT + (args[0] << 12), args[1] << 12, args[2])
        elif op == "store":
            with suppress(OSError):
                m.vmm.store(AT + (args[0] << 12), b"x")
        else:
            check(m, slots, args[0], write=op == "write")
    for page in range(42):
        check(m, slots, page, write=False)
        check(m, slots, page, write=True)
    m.close()


def check(m: Machine, slots: dict[int, tuple[int, int, int, int]], page: int, *, write: bool) -> None:
    want = expected(m, slots, page, write=write)
    got: str | int
    try:
        got = m.mmu.translate(page << 12 | 5, write=write)
    except EptViolation as e:
        got = e.cause
    except EptMisconfig as e:
        got = "no slot" if e.mmio else "misconfigured"
    assert got == (want if isinstance(want, str) else m.mem.translate(want + 5, write=write))
