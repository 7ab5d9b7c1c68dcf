"""Simulated user memory, by mm/mmap.c, mm/mprotect.c, mm/memory.c, mm/gup.c, and against a dict of bytes."""

import mmap as libc
from collections.abc import Callable
from errno import EACCES, EEXIST, EFAULT, EINVAL, EIO, ENOMEM
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pykernel.errors import Oops, err
from pykernel.mm.phys import PhysMem
from pykernel.mm.sim import SimMemory
from pykernel.mm.uaccess import PAGE_SIZE, TASK_SIZE_MAX
from pykernel.mm.vma import (
    MAP_FIXED,
    MAP_FIXED_NOREPLACE,
    MAP_POPULATE,
    VM_DONTCOPY,
    VM_MAYWRITE,
    Page,
    Shmem,
    Vma,
)

PROT_NONE = 0
RW = libc.PROT_READ | libc.PROT_WRITE
PRIVATE = libc.MAP_PRIVATE | libc.MAP_ANONYMOUS
SHARED = libc.MAP_SHARED | libc.MAP_ANONYMOUS
AT = 0x10_0000


def fails(code: int, function: Callable[..., object], *args: object, **kwargs: object) -> None:
    with pytest.raises(OSError, match=rf"\[Errno {code}\]"):
        function(*args, **kwargs)


def mapped(pages: int = 4, prot: int = RW, flags: int = PRIVATE) -> SimMemory:
    """A memory with some pages at AT and nothing else."""
    mem = SimMemory()
    assert mem.mmap(AT, pages * PAGE_SIZE, prot, flags | MAP_FIXED) == AT
    return mem


# ---- access


def test_fresh_memory_is_zero_and_keeps_what_is_written() -> None:
    mem = mapped()
    assert mem.read(AT, 3 * PAGE_SIZE) == bytes(3 * PAGE_SIZE)
    mem.write(AT + PAGE_SIZE - 2, b"abcd")
    assert mem.read(AT + PAGE_SIZE - 3, 6) == b"\0abcd\0"


def test_two_mebibytes_across_pages() -> None:
    mem = SimMemory()
    data = bytes(range(256)) * (2 * 1024 * 1024 // 256)
    addr = mem.mmap(0, len(data) + PAGE_SIZE, RW, PRIVATE) + 123
    mem.write(addr, memoryview(data))
    assert mem.read(addr, len(data)) == data


BAD = [
    0,
    8,
    AT - 1,
    AT + 4 * PAGE_SIZE,
    TASK_SIZE_MAX - 4,
    TASK_SIZE_MAX,
    1 << 47,
    0x8000_0000_0000_0000,
    0xFFFF_8000_0000_0000,
    (1 << 64) - 4,  # wraps
    (1 << 64) + AT,
    -8,
]


@pytest.mark.parametrize("addr", BAD, ids=hex)
def test_bad_pointers(addr: int) -> None:
    """EFAULT, nothing else; length 0 never faults."""
    mem = mapped()
    fails(EFAULT, mem.read, addr, 8)
    fails(EFAULT, mem.readinto, addr, bytearray(8))
    fails(EFAULT, mem.write, addr, bytes(8))
    assert mem.read(addr, 0) == b""
    mem.write(addr, b"")
    mem.readinto(addr, bytearray())


def test_partial_copies_say_what_is_left() -> None:
    """As copy_from_user() and copy_to_user(): up to the fault; what could not be read is zeros."""
    mem = mapped(1)
    end = AT + PAGE_SIZE
    assert mem.copy_to(end - 3, b"abcdef") == 3
    buf = bytearray(b"xxxxxxxx")
    assert mem.copy_from(end - 3, buf) == 5
    assert buf == b"abc\0\0\0\0\0"
    assert mem.copy_from(end, buf) == 8
    assert mem.copy_from(end - 3, memoryview(bytearray(3))) == 0


def test_a_range_into_the_kernel_half_is_refused_as_a_whole() -> None:
    """access_ok() comes first: not even the good part is copied."""
    mem = SimMemory()
    top = TASK_SIZE_MAX - PAGE_SIZE
    mem.mmap(top, PAGE_SIZE, RW, PRIVATE | MAP_FIXED)
    mem.write(TASK_SIZE_MAX - 4, b"good")
    assert mem.copy_to(TASK_SIZE_MAX - 4, b"evil!") == 5
    assert mem.read(TASK_SIZE_MAX - 4, 4) == b"good"


def test_a_hole_in_the_middle() -> None:
    """A write across a hole has written what lies before it."""
    mem = mapped(3)
    mem.munmap(AT + PAGE_SIZE, PAGE_SIZE)
    fails(EFAULT, mem.write, AT + PAGE_SIZE - 2, b"x" * (PAGE_SIZE + 4))
    assert mem.read(AT + PAGE_SIZE - 2, 2) == b"xx"
    assert mem.read(AT + 2 * PAGE_SIZE, 2) == b"\0\0"


@pytest.mark.parametrize(
    ("prot", "can_read", "can_write"),
    [
        (PROT_NONE, False, False),
        (libc.PROT_READ, True, False),
        (libc.PROT_WRITE, True, True),  # x86 cannot forbid reading alone
        (RW, True, True),
        (libc.PROT_READ | libc.PROT_EXEC, True, False),
    ],
)
@pytest.mark.parametrize("touched", [False, True])
def test_protection(prot: int, can_read: bool, can_write: bool, touched: bool) -> None:
    """The same for pages that are there already."""
    mem = mapped(1)
    if touched:
        mem.write(AT, b"data")
    mem.mprotect(AT, PAGE_SIZE, prot)
    assert (mem.copy_from(AT, bytearray(4)) == 0) is can_read
    assert (mem.copy_to(AT, b"more") == 0) is can_write


# ---- mapping


# addr, length, flags -> errno; mm/mmap.c:do_mmap(), get_unmapped_area()
MMAP_ERRORS = [
    (0, 0, PRIVATE, EINVAL),
    (0, PAGE_SIZE, libc.MAP_ANONYMOUS, EINVAL),
    (0, PAGE_SIZE, 3 | libc.MAP_ANONYMOUS, EINVAL),  # MAP_SHARED_VALIDATE is for files
    (0, 1 << 48, PRIVATE, ENOMEM),
    (0, TASK_SIZE_MAX, PRIVATE, ENOMEM),
    (AT + 1, PAGE_SIZE, PRIVATE | MAP_FIXED, EINVAL),
    (TASK_SIZE_MAX, PAGE_SIZE, PRIVATE | MAP_FIXED, ENOMEM),
    (AT, PAGE_SIZE, PRIVATE | MAP_FIXED_NOREPLACE, EEXIST),
    (AT + 3 * PAGE_SIZE, 2 * PAGE_SIZE, PRIVATE | MAP_FIXED_NOREPLACE | MAP_FIXED, EEXIST),
]


@pytest.mark.parametrize(("addr", "length", "flags", "code"), MMAP_ERRORS)
def test_mmap_errors(addr: int, length: int, flags: int, code: int) -> None:
    fails(code, mapped().mmap, addr, length, RW, flags)


def test_mmap_places() -> None:
    """Top down below the base; a free hint is taken, rounded up to a page; a taken one is not; whole pages."""
    mem = SimMemory()
    first = mem.mmap(0, 1, RW, PRIVATE)
    second = mem.mmap(0, PAGE_SIZE + 1, RW, PRIVATE)
    assert (first - second, first % PAGE_SIZE) == (2 * PAGE_SIZE, 0)
    mem.munmap(first, PAGE_SIZE)
    assert mem.mmap(0, PAGE_SIZE, RW, PRIVATE) == first
    assert mem.mmap(AT - 5, 1, RW, PRIVATE) == AT
    assert mem.mmap(AT, 1, RW, PRIVATE) == second - PAGE_SIZE
    assert mem.mmap(AT + PAGE_SIZE, 1, RW, PRIVATE | MAP_FIXED_NOREPLACE) == AT + PAGE_SIZE


def test_map_fixed_replaces() -> None:
    mem = mapped(3)
    mem.write(AT, b"a" * 3 * PAGE_SIZE)
    mem.mmap(AT + PAGE_SIZE, PAGE_SIZE, RW, PRIVATE | MAP_FIXED)
    assert mem.read(AT + PAGE_SIZE - 1, PAGE_SIZE + 2) == b"a" + bytes(PAGE_SIZE) + b"a"


@pytest.mark.parametrize(
    ("addr", "length"), [(AT + 1, PAGE_SIZE), (AT, 0), (TASK_SIZE_MAX, PAGE_SIZE), (AT, TASK_SIZE_MAX), (-PAGE_SIZE, 1)]
)
def test_munmap_errors(addr: int, length: int) -> None:
    fails(EINVAL, mapped().munmap, addr, length)


def test_munmap_of_nothing_is_fine() -> None:
    mem = mapped(1)
    mem.munmap(AT + PAGE_SIZE, 10 * PAGE_SIZE)
    assert mem.read(AT, 1) == b"\0"


def test_mprotect_errors() -> None:
    """EINVAL within a page; ENOMEM at a hole, after what lies below it changed; EACCES where the file forbids it."""
    mem = mapped(3)
    fails(EINVAL, mem.mprotect, AT + 1, 1, RW)
    mem.mprotect(AT, 0, RW)
    mem.munmap(AT + PAGE_SIZE, PAGE_SIZE)
    fails(ENOMEM, mem.mprotect, AT, 3 * PAGE_SIZE, libc.PROT_READ)
    assert mem.copy_to(AT, b"x") == 1
    assert mem.copy_to(AT + 2 * PAGE_SIZE, b"x") == 0

    def read_only_file(vma: Vma) -> None:
        vma.vm_flags &= ~VM_MAYWRITE

    addr = mem.mmap(0, PAGE_SIZE, libc.PROT_READ, libc.MAP_SHARED, file="f", setup=read_only_file)
    fails(EACCES, mem.mprotect, addr, PAGE_SIZE, RW)


def test_alloc() -> None:
    """Aligned, zero, apart from each other, over any number of pages."""
    mem = SimMemory()
    a, b, c = mem.alloc(10), mem.alloc(3 * PAGE_SIZE, align=4096), mem.alloc(1, align=1)
    assert (a % 16, b % 4096, c) == (0, 0, b + 3 * PAGE_SIZE)
    assert b >= a + 10
    mem.write(b, b"x" * 3 * PAGE_SIZE)
    assert (mem.read(a, 10), mem.read(c, 1)) == (bytes(10), b"\0")
    mem.munmap(c & -PAGE_SIZE, PAGE_SIZE)
    far = mem.alloc(2 * PAGE_SIZE, align=4096)
    mem.write(far, b"y" * 2 * PAGE_SIZE)
    child = mem.fork()
    child.write(child.alloc(2 * PAGE_SIZE), b"z" * 2 * PAGE_SIZE)
    mem.mmap(far + 2 * PAGE_SIZE, PAGE_SIZE, RW, PRIVATE | MAP_FIXED)
    fails(ENOMEM, mem.alloc, PAGE_SIZE)


# ---- files and devices


class Registers:
    """A device's registers: each access is one line of the record."""

    def __init__(self) -> None:
        self.record: list[tuple[str, int, object]] = []
        self.broken = False

    def read(self, off: int, n: int) -> bytes:
        self.record.append(("read", off, n))
        if self.broken:
            raise err(EIO)
        return b"\xa5" * n

    def write(self, off: int, data: bytes) -> None:
        self.record.append(("write", off, data))
        if self.broken:
            raise err(EIO)


def test_registers_see_whole_accesses() -> None:
    """Offsets are the file's, an access is not cut at pages, and a bus error is EFAULT."""
    mem, regs = SimMemory(), Registers()

    def setup(vma: Vma) -> None:
        vma.io = regs

    addr = mem.mmap(0, 2 * PAGE_SIZE, RW, libc.MAP_SHARED, pgoff=16, file="bar", setup=setup)
    assert mem.read(addr + 8, 4) == b"\xa5" * 4
    mem.write(addr + PAGE_SIZE - 32, b"d" * 64)
    assert regs.record == [("read", 0x10008, 4), ("write", 0x10FE0, b"d" * 64)]
    mem.munmap(addr, PAGE_SIZE)
    mem.read(addr + PAGE_SIZE, 1)
    assert regs.record[2:] == [("read", 0x11000, 1)]
    regs.broken = True
    fails(EFAULT, mem.read, addr + PAGE_SIZE, 8)
    fails(EFAULT, mem.write, addr + PAGE_SIZE, b"12345678")
    mem.mprotect(addr + PAGE_SIZE, PAGE_SIZE, PROT_NONE)
    fails(EFAULT, mem.read, addr + PAGE_SIZE, 8)
    assert len(regs.record) == 5


def test_registers_are_no_memory_for_devices() -> None:
    """GUP and page requests refuse them."""
    mem = SimMemory()

    def setup(vma: Vma) -> None:
        vma.io = Registers()

    addr = mem.mmap(0, PAGE_SIZE, RW, libc.MAP_SHARED, file="bar", setup=setup)
    fails(EFAULT, mem.pin_user_pages, addr, 1, write=False)
    fails(EFAULT, mem.follow_pfnmap, addr)
    fails(EFAULT, mem.fault, addr)
    assert mem.walk(addr) is None


def test_file_pages() -> None:
    """Shared: the file's own page; private: a copy at the first write; behind the end: a bus error."""
    mem = SimMemory()
    file = Shmem(mem.phys, 2 * PAGE_SIZE)
    file.fault(1).data[:4] = b"file"

    def setup(vma: Vma) -> None:
        vma.fault = file.fault

    shared = mem.mmap(0, 3 * PAGE_SIZE, RW, libc.MAP_SHARED, file="f", setup=setup)
    private = mem.mmap(0, PAGE_SIZE, RW, libc.MAP_PRIVATE, pgoff=1, file="f", setup=setup)
    assert mem.read(private, 4) == b"file"
    mem.write(shared + PAGE_SIZE, b"FILE")
    assert mem.read(private, 4) == b"FILE"
    mem.write(private, b"mine")
    assert (mem.read(private, 4), bytes(file.fault(1).data[:4])) == (b"mine", b"FILE")
    fails(EFAULT, mem.read, shared + 2 * PAGE_SIZE, 1)
    fails(EFAULT, mem.pin_user_pages, shared, 3, write=False)
    assert mem.phys.pinned == 0
    [run] = mem.pin_user_pages(shared + PAGE_SIZE, 1, write=True)
    assert mem.phys.read(run.pa, 4) == b"FILE"
    mem.unpin_user_pages([run])


def test_open_and_close_of_a_driver() -> None:
    """A split opens the upper part; every area that goes is closed, once; what setup() raises leaves nothing behind."""
    record: list[tuple[str, int, int]] = []

    def setup(vma: Vma) -> None:
        vma.vm_flags |= VM_DONTCOPY
        vma.open = lambda v: record.append(("open", v.vm_start, v.vm_pgoff))
        vma.close = lambda v: record.append(("close", v.vm_start, v.vm_end - v.vm_start))

    mem = SimMemory()
    mem.mmap(AT, 3 * PAGE_SIZE, RW, libc.MAP_SHARED | MAP_FIXED, pgoff=5, file="f", setup=setup)
    mem.munmap(AT + PAGE_SIZE, PAGE_SIZE)
    assert len(mem.fork().vmas) == 0
    mem.exit()
    assert record == [
        ("open", AT + PAGE_SIZE, 6),
        ("open", AT + 2 * PAGE_SIZE, 7),
        ("close", AT + PAGE_SIZE, PAGE_SIZE),
        ("close", AT, PAGE_SIZE),
        ("close", AT + 2 * PAGE_SIZE, PAGE_SIZE),
    ]

    def refuse(vma: Vma) -> None:
        raise err(EINVAL, "too long")

    fails(EINVAL, mem.mmap, AT, PAGE_SIZE, RW, libc.MAP_SHARED | MAP_FIXED, file="f", setup=refuse)
    assert len(mem.vmas) == 0


# ---- page faults and devices


def test_faults_are_counted_once_a_page_and_right() -> None:
    """A read maps the zero page, the first write makes a page, later accesses do not fault."""
    mem = mapped()
    mem.read(AT, 2 * PAGE_SIZE)
    mem.read(AT, 2 * PAGE_SIZE)
    assert mem.faults == 2
    mem.write(AT, b"x")
    mem.write(AT + 1, b"x")
    assert mem.faults == 3
    mem.write(AT + 3 * PAGE_SIZE, b"x")
    assert mem.faults == 4


def test_walk_never_faults() -> None:
    """It finds what hardware finds: nothing untouched, no zero page for a write, nothing protected."""
    mem = mapped(1)
    assert mem.walk(AT) is None
    mem.read(AT, 1)
    assert mem.walk(AT) is not None
    assert mem.walk(AT, write=True) is None
    mem.write(AT + 5, b"x")
    page = mem.walk(AT, write=True)
    assert page is not None
    assert bytes(page.data[5:6]) == b"x"
    mem.mprotect(AT, PAGE_SIZE, libc.PROT_READ)
    assert (mem.walk(AT), mem.walk(AT, write=True)) == (page, None)
    mem.mprotect(AT, PAGE_SIZE, PROT_NONE)
    assert mem.walk(AT) is None
    mem.mprotect(AT, PAGE_SIZE, RW)
    assert mem.read(AT + 5, 1) == b"x"
    assert mem.walk(AT, write=True) == page
    assert mem.faults == 2


@pytest.mark.parametrize(
    ("prot", "write", "ok"),
    [
        (RW, True, True),
        (RW, False, True),
        (libc.PROT_READ, True, False),
        (libc.PROT_READ, False, True),
        (libc.PROT_WRITE, False, False),  # the CPU may, a device asks for PROT_READ
        (PROT_NONE, False, False),
    ],
)
def test_page_request(prot: int, write: bool, ok: bool) -> None:
    """iommu_sva_handle_iopf() wants each right in vm_flags."""
    mem = mapped(1, prot)
    if ok:
        assert mem.fault(AT + 77, write=write) == mem.walk(AT, write=write)
        assert len(mem.pin_user_pages(AT, 1, write=write)) == 1
    else:
        fails(EFAULT, mem.fault, AT, write=write)
        fails(EFAULT, mem.pin_user_pages, AT, 1, write=write)
    fails(EFAULT, mem.fault, AT + PAGE_SIZE)


def test_populate() -> None:
    """All pages writable; MAP_POPULATE the same, and it never fails."""
    mem = mapped(3)
    mem.populate(AT + 5, PAGE_SIZE)
    assert [mem.walk(AT + i * PAGE_SIZE, write=True) is not None for i in range(3)] == [True, True, False]
    fails(EFAULT, mem.populate, AT, 4 * PAGE_SIZE)
    addr = mem.mmap(0, PAGE_SIZE, RW, PRIVATE | MAP_POPULATE)
    assert mem.walk(addr, write=True) is not None
    mem.mmap(0, PAGE_SIZE, PROT_NONE, PRIVATE | MAP_POPULATE)


def test_pinned_pages_outlive_their_mapping() -> None:
    """A device writes to the page it was given, whatever the client unmapped and mapped there since."""
    mem = mapped(2)
    phys = mem.phys
    mem.write(AT + PAGE_SIZE - 1, b"ab")
    [run] = mem.pin_user_pages(AT + PAGE_SIZE - 1, 2, write=True)
    assert (run.npages, phys.pinned, [Page(phys, run.pa + i * PAGE_SIZE).pins for i in range(2)]) == (2, 2, [1, 1])
    phys.write(run.pa, b"dma")
    assert mem.read(AT, 3) == b"dma"
    mem.munmap(AT, 2 * PAGE_SIZE)
    mem.mmap(AT, PAGE_SIZE, RW, PRIVATE | MAP_FIXED)
    assert (mem.read(AT, 3), phys.read(run.pa + PAGE_SIZE, 1), phys.used) == (bytes(3), b"b", 2)
    mem.unpin_user_pages([run])
    assert (phys.pinned, phys.used) == (0, 0)
    with pytest.raises(Oops, match="not pinned"):
        mem.unpin_user_pages([run])


def test_pin_to_read_sees_later_writes() -> None:
    """Not the zero page, and not a page that the next write would copy away from."""
    mem = mapped(1)
    mem.read(AT, 1)
    [run] = mem.pin_user_pages(AT, 1, write=False)
    mem.write(AT, b"later")
    assert mem.phys.read(run.pa, 5) == b"later"
    assert mem.pin_user_pages(AT, 0, write=False) == []
    assert mem.pin_user_pages(AT, 1, write=False) == [run]
    assert Page(mem.phys, run.pa).pins == 2
    mem.mprotect(AT, PAGE_SIZE, libc.PROT_READ)
    mem.mprotect(AT, PAGE_SIZE, RW)
    mem.write(AT, b"still")
    assert mem.phys.read(run.pa, 5) == b"still"


def test_pin_is_all_or_nothing() -> None:
    mem = mapped(2)
    fails(EFAULT, mem.pin_user_pages, AT, 3, write=True)
    fails(EFAULT, mem.pin_user_pages, AT - 1, 2, write=True)
    fails(EFAULT, mem.pin_user_pages, TASK_SIZE_MAX - PAGE_SIZE, 2, write=True)
    assert mem.phys.pinned == 0


def test_invalidation_comes_before_the_change() -> None:
    """Who caches translations hears of unmapping, protection and copies, while the old page is still there."""
    mem = mapped(3)
    mem.read(AT, 1)
    record: list[tuple[int, int, bool]] = []

    def invalidate(start: int, end: int) -> None:
        record.append(((start - AT) // PAGE_SIZE, (end - AT) // PAGE_SIZE, mem.walk(AT) is not None))

    stop = mem.subscribe(invalidate)
    mem.write(AT, b"x")
    mem.mprotect(AT, 2 * PAGE_SIZE, libc.PROT_READ)
    mem.munmap(AT, PAGE_SIZE)
    stop()
    mem.exit()
    assert record == [(0, 1, True), (0, 2, True), (0, 1, True)]


# ---- fork


def test_fork_copies_private_and_shares_shared() -> None:
    mem = mapped(2)
    shared = mem.mmap(0, 2 * PAGE_SIZE, RW, SHARED)
    mem.write(AT, b"before")
    mem.write(shared, b"before")
    child = mem.fork()
    child.write(AT, b"child!")
    child.write(shared, b"child!")
    child.write(shared + PAGE_SIZE, b"new")
    assert (mem.read(AT, 6), mem.read(shared, 6), mem.read(shared + PAGE_SIZE, 3)) == (b"before", b"child!", b"new")
    mem.write(AT, b"parent")
    assert child.read(AT, 6) == b"child!"
    assert child.alloc(16) == mem.alloc(16)


def test_fork_leaves_pinned_pages_to_the_parent() -> None:
    """Otherwise the parent's next write would leave its device behind."""
    mem = mapped(1)
    mem.write(AT, b"dma")
    [run] = mem.pin_user_pages(AT, 1, write=True)
    child = mem.fork()
    mem.write(AT, b"new")
    assert (mem.phys.read(run.pa, 3), child.read(AT, 3)) == (b"new", b"dma")
    assert mem.translate(AT, write=True) == run.pa


def test_page_defaults_to_zeros_and_copies_its_data() -> None:
    data = bytearray(b"x" * PAGE_SIZE)
    phys = PhysMem()
    page = Page.alloc(phys, data)
    data[0:1] = b"y"
    assert (bytes(Page.alloc(phys).data), bytes(page.data[0:1])) == (bytes(PAGE_SIZE), b"x")
    assert page != Page.alloc(phys)
    assert page in {Page(phys, page.pa)}


# ---- against a naive model

PAGES = 6
OPS = st.one_of(
    st.tuples(st.just("write"), st.integers(-8, PAGES * PAGE_SIZE), st.integers(0, 3 * PAGE_SIZE)),
    st.tuples(st.just("read"), st.integers(-8, PAGES * PAGE_SIZE), st.integers(0, 3 * PAGE_SIZE)),
    st.tuples(st.just("map"), st.integers(0, PAGES - 1), st.integers(1, PAGES)),
    st.tuples(st.just("unmap"), st.integers(0, PAGES - 1), st.integers(1, PAGES)),
    st.tuples(st.sampled_from(["none", "ro", "rw"]), st.integers(0, PAGES - 1), st.integers(1, PAGES)),
)
PROTS = {"none": PROT_NONE, "ro": libc.PROT_READ, "rw": RW}


class Model:
    """An address space as a dict of bytes and a dict of page protections."""

    def __init__(self) -> None:
        self.bytes: dict[int, int] = {}
        self.prot: dict[int, int] = {}

    def span(self, addr: int, n: int, right: int) -> int:
        """How many bytes can be accessed before the first fault."""
        for at in range(addr, addr + n):
            if not self.prot.get((at - AT) // PAGE_SIZE, 0) & right:
                return at - addr
        return n

    def forget(self, pages: range) -> None:
        for page in pages:
            if self.prot.pop(page, None) is not None:
                base = AT + page * PAGE_SIZE
                self.bytes = {at: b for at, b in self.bytes.items() if not base <= at < base + PAGE_SIZE}

    def step(self, mem: SimMemory, op: str, a: int, b: int, stamp: int) -> None:
        addr, pages = AT + a, range(a, min(a + b, PAGES))
        at, length = AT + a * PAGE_SIZE, len(pages) * PAGE_SIZE
        if op == "write":
            data = bytes((stamp + i) % 251 for i in range(b))
            done = self.span(addr, b, libc.PROT_WRITE)
            assert mem.copy_to(addr, data) == b - done
            self.bytes.update(zip(range(addr, addr + done), data, strict=False))
        elif op == "read":
            done = self.span(addr, b, RW)
            buf = bytearray(b"\xee" * b)
            assert mem.copy_from(addr, buf) == b - done
            assert buf == bytes(self.bytes.get(addr + i, 0) for i in range(done)) + bytes(b - done)
        elif op == "map":
            assert mem.mmap(at, length, RW, PRIVATE | MAP_FIXED) == at
            self.forget(pages)
            self.prot.update(dict.fromkeys(pages, RW))
        elif op == "unmap":
            mem.munmap(at, length)
            self.forget(pages)
        elif all(page in self.prot for page in pages):
            mem.mprotect(at, length, PROTS[op])
            self.prot.update(dict.fromkeys(pages, PROTS[op]))


@settings(max_examples=60, deadline=None)
@given(st.lists(OPS, min_size=1, max_size=25))
def test_model(ops: list[tuple[str, int, int]]) -> None:
    """Any sequence of maps, unmaps, protections and copies does what a dict of bytes does, faults included."""
    mem, model = mapped(PAGES), Model()
    model.prot = dict.fromkeys(range(PAGES), RW)
    for stamp, (op, a, b) in enumerate(ops):
        model.step(mem, op, a, b, stamp)
        starts = [(vma.vm_start, vma.vm_end) for vma in mem.vmas]
        assert starts == sorted(starts)
        assert all(end <= start for (_, end), (start, _) in pairwise(starts))


@pytest.mark.parametrize("write", [False, True])
def test_ranges_are_translated_as_their_pages_are(write: bool) -> None:
    """translate_range() is translate() of each byte up to the first page that is not there."""
    mem = SimMemory()
    a = mem.mmap(0, 8 * 4096, libc.PROT_READ | libc.PROT_WRITE, libc.MAP_PRIVATE | libc.MAP_ANONYMOUS)
    for page in (1, 0, 2, 3, 5):
        mem.write(a + page * 4096, b"x")
    mem.read(a + 4 * 4096, 1)
    for first, n in ((0, 1), (5, 3 * 4096), (4090, 12), (100, 5 * 4096 - 100), (4096, 7 * 4096), (6 * 4096, 4)):
        spans, found = mem.translate_range(a + first, n, write=write)
        flat = [pa + i for pa, size in spans for i in range(size)]
        pages = [mem.translate(a + first + i, write=write) for i in range(n)]
        want = pages[: pages.index(None)] if None in pages else pages
        assert (flat, found) == (want, len(want))
