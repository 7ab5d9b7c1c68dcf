"""Type 1 with a device that does no DMA of its own: pins, reads and writes, what is written, who is charged."""

from __future__ import annotations

import struct
from errno import EACCES, EBUSY, EEXIST, EFAULT, EINVAL, ENODEV, ENOMEM, ENOSPC, EPERM

import pytest
from type1_scenarios import ALL, START, STOP, UNMAP_VADDR, K, R, W, g, m, play, u, ub
from type1box import Box, Deaf, emulated, machine, remove

import pykernel
from pykernel.machine import parse
from pykernel.mm.phys import PhysMem
from pykernel.task import RLIMIT_MEMLOCK
from pykernel.vfio.main import vfio_dma_read, vfio_dma_write, vfio_pin_pages, vfio_unpin_pages
from pykernel.vfio.type1_dma import DmaList

TOP = 1 << 64
IOMMU_READ, IOMMU_WRITE = 1, 2


@pytest.fixture(params=["linux-6.1", "linux-6.12"])
def kernel(request):
    """A machine with type 1, and no device that does DMA."""
    kernel = pykernel.boot(parse(machine()), request.param)
    yield kernel
    assert not kernel.oopses
    assert kernel.sub(PhysMem).pinned == 0


@pytest.fixture
def emu(kernel):
    """The device."""
    vdev = emulated(kernel)
    yield vdev
    remove(vdev)


@pytest.fixture
def box(kernel, emu):
    """A client with the device open; its own task runs, as when it calls the device."""
    box = Box(kernel, emu)
    assert box.set_iommu() == 0
    box.open(emu)
    with kernel.as_task(box.proc.task):
        yield box
    box.close()


def errno_of(fn, *args, **kw):
    """The errno of what is raised."""
    try:
        fn(*args, **kw)
    except OSError as e:
        return e.errno
    return 0


# ---- MAP_DMA and UNMAP_DMA: what is otherwise without an IOMMU


@pytest.mark.parametrize(
    ("steps", "answers"),
    [
        pytest.param([m(0, K, at=("abs", 0x10000)), u(0, K)], [0, [0, K]], id="memory-that-is-not-there"),
        pytest.param([m(0xFEE00000, K)], [0], id="no-reserved-addresses"),
        pytest.param([m(1 << 63, K)], [0], id="no-aperture"),
        pytest.param([m(0, 1 << 50)], [0], id="larger-than-all-memory"),
        pytest.param([m(0, K), m(0, K)], [0, -EEXIST], id="overlaps"),
        pytest.param([m(0, K), u(0, K, UNMAP_VADDR)], [0, [-EBUSY, K]], id="vaddr"),
        pytest.param([u(1, 1, UNMAP_VADDR)], [[-EBUSY, 1]], id="vaddr-before-the-range"),
        pytest.param([("extension", 10)], [0], id="no-update-vaddr"),
        pytest.param([("extension", 4)], [1], id="coherent-as-there-is-no-domain"),
    ],
)
def test_mappings_are_only_noted(box, steps, answers):
    """Nothing is pinned when something is mapped."""
    assert play(box, steps) == answers
    assert box.locked() == 0


def test_quirk_a_mapping_up_to_the_last_address_is_not_found_again(box):
    """The tree's end of it is 0: it overlaps nothing, no range finds it, and alone not even all does."""
    last = TOP - K
    assert play(box, [m(last, K), m(last, K), u(last, K), u(0, 0, ALL)]) == [0, 0, [0, 0], [0, 0]]


def test_quirk_a_mapping_up_to_the_last_address_stays_when_all_go(box):
    """One that was mapped after another is left of it in the tree: an unmap of all begins behind it."""
    last = TOP - K
    assert play(box, [m(0, K), m(last, K), u(0, 0, ALL), u(last, K)]) == [0, 0, [0, K], [0, 0]]


def test_from_linux_6_18_on_the_last_address_is_as_others():
    """Found, and a range that wraps is EOVERFLOW."""
    from errno import EOVERFLOW

    kernel = pykernel.boot(parse(machine()), "linux-7.2")
    box = Box(kernel, emulated(kernel))
    box.set_iommu()
    last = TOP - K

    assert play(box, [m(last, K), m(last, K), u(last, K), m(last, 2 * K)]) == [0, -EEXIST, [0, K], -EOVERFLOW]
    assert play(box, [u(last, 2 * K)]) == [[-EOVERFLOW, 2 * K]]
    box.close()


@pytest.mark.parametrize("limit", [0, 1, 3])
def test_dma_entry_limit_counts_entries_of_a_container(limit):
    """ENOSPC, for a container that is made after the parameter was written; adjacent mappings are not merged."""
    kernel = pykernel.boot(parse(machine()), "linux-6.1")
    emu = emulated(kernel)
    kernel.process().write_text("/sys/module/vfio_iommu_type1/parameters/dma_entry_limit", str(limit))
    box = Box(kernel, emu)
    box.set_iommu()

    assert [box.map(n * K, K) for n in range(limit + 1)] == [0] * limit + [-ENOSPC]
    if limit:
        assert box.unmap(0, K) == (0, K)
        assert box.map(0, K) == 0
    box.close()


@pytest.mark.parametrize(
    ("name", "mode", "value"),
    [
        ("allow_unsafe_interrupts", 0o644, "N\n"),
        ("disable_hugepages", 0o644, "N\n"),
        ("dma_entry_limit", 0o644, "65535\n"),
    ],
)
def test_parameters_are_as_in_linux(kernel, name, mode, value):
    """Mode and default."""
    proc = kernel.process()
    path = f"/sys/module/vfio_iommu_type1/parameters/{name}"
    assert (proc.stat(path).st_mode & 0o777, proc.read_text(path)) == (mode, value)
    proc.exit()


# ---- IOMMU_GET_INFO


@pytest.mark.parametrize("argsz", [15, 16, 20, 24, 67, 68, 71, 72, 100])
def test_info_has_no_ranges_without_a_domain(kernel, box, argsz):
    """Migration at 24, entries left at 56: 68 bytes, 72 in 6.12; all page sizes from 4096 bytes on."""
    total = 68 if kernel.profile.name == "linux-6.1" else 72
    code, text = play(box, [("info", argsz, 256)])[0]
    data = bytes.fromhex(text)
    if argsz < 16:
        assert code == -EINVAL
        return
    flags, sizes = struct.unpack_from("<IQ", data, 4)
    assert (code, flags, sizes) == (0, 3, TOP - K)
    assert int.from_bytes(data[:4], "little") == max(argsz, total)
    if argsz >= total:
        assert struct.unpack_from("<I", data, 16)[0] == 24
        assert struct.unpack_from("<HHIIxxxxQQ", data.ljust(256, b"\0"), 24)[:3] == (2, 1, 56)
        assert struct.unpack_from("<HHII", data, 56) == (3, 1, 0, 65535)
        assert len(data) == total


# ---- pins


def test_pins_are_physical_addresses_of_the_clients_memory(kernel, box, emu):
    """What is there is what the client wrote; each pin is charged once, and given back with the last."""
    box.map(0, 4 * K)
    box.proc.mem.write(box.areas["a"] + K, b"here")

    pages = vfio_pin_pages(emu, 0, 3, IOMMU_READ | IOMMU_WRITE)
    assert vfio_pin_pages(emu, K, 1, IOMMU_READ) == pages[1:2]

    assert kernel.sub(PhysMem).read(pages[1], 4) == b"here"
    assert box.locked() == 3
    vfio_unpin_pages(emu, 0, 3)
    assert box.locked() == 1
    vfio_unpin_pages(emu, K, 1)
    assert box.locked() == 0


@pytest.mark.parametrize(
    ("flags", "prot", "code"),
    [(R, IOMMU_WRITE, EPERM), (W, IOMMU_READ, EPERM), (R, IOMMU_READ | IOMMU_WRITE, EPERM), (R, IOMMU_READ, 0)],
    ids=["write-of-read-only", "read-of-write-only", "both-of-read-only", "read"],
)
def test_pins_want_the_rights_of_the_mapping(box, emu, flags, prot, code):
    """EPERM."""
    box.map(0, K, flags)
    if code:
        assert errno_of(vfio_pin_pages, emu, 0, 1, prot) == code
        assert box.locked() == 0
    else:
        vfio_pin_pages(emu, 0, 1, prot)
        vfio_unpin_pages(emu, 0, 1)


def test_a_pin_of_what_is_not_mapped_is_einval_and_takes_the_others_back(box, emu):
    """All or nothing; a page that somebody else has pinned keeps that pin."""
    box.map(0, 2 * K)
    vfio_pin_pages(emu, 0, 1, IOMMU_READ)

    assert errno_of(vfio_pin_pages, emu, 0, 3, IOMMU_READ) == EINVAL

    assert box.locked() == 1
    vfio_unpin_pages(emu, 0, 1)
    assert box.locked() == 0


def test_a_pin_of_memory_that_is_not_there_is_efault(box, emu):
    """The mapping was made without a look at it."""
    box.ioctl(0x3B71, bytearray(struct.pack("<IIQQQ", 32, 3, 0x10000, 0, K)))
    assert errno_of(vfio_pin_pages, emu, 0, 1, IOMMU_READ) == EFAULT


def test_a_pin_of_version_1_is_eacces(kernel, emu):
    """Only version 2 has pins."""
    box = Box(kernel, emu, kind=1)
    box.set_iommu()
    box.open(emu)
    box.map(0, K)
    assert errno_of(vfio_pin_pages, emu, 0, 1, IOMMU_READ) == EACCES
    box.close()


def test_a_pin_needs_dma_unmap(kernel):
    """EINVAL: who does not hear of an unmap may not pin."""
    deaf = emulated(kernel, "deaf0", Deaf)
    box = Box(kernel, deaf)
    box.set_iommu()
    box.open(deaf)
    box.map(0, K)
    assert errno_of(vfio_pin_pages, deaf, 0, 1, IOMMU_READ) == EINVAL
    box.close()
    remove(deaf)


def test_an_unpin_of_what_is_not_pinned_is_nothing(box, emu):
    """Pages without a pin are passed over."""
    box.map(0, 4 * K)
    vfio_pin_pages(emu, 2 * K, 1, IOMMU_READ)
    vfio_unpin_pages(emu, 0, 4)
    assert box.locked() == 0


# ---- UNMAP_DMA: the driver's callback


def test_an_unmap_asks_drivers_to_unpin_first(box, emu):
    """dma_unmap() with the mapping's range, only where pages are pinned; then the unmap goes on."""
    for n in range(4):
        box.map(n * 4 * K, 4 * K)
    for at in (K, 9 * K):
        vfio_pin_pages(emu, at, 1, IOMMU_READ)
        emu.pinned.append(at)

    assert box.unmap(0, 16 * K) == (0, 16 * K)

    assert emu.unmaps == [(0, 4 * K), (8 * K, 4 * K)]
    assert box.locked() == 0


def test_an_unmap_after_a_drivers_callback_looks_one_mapping_up(box, emu, monkeypatch):
    """Not all that are left: of many that are pinned each costs as much as of few."""
    n, looked = 64, []
    walk = DmaList.walk

    def counted(self, start, size):
        for dma in walk(self, start, size):
            looked.append(dma.iova)
            yield dma

    monkeypatch.setattr(DmaList, "walk", counted)
    for i in range(n):
        box.map(i * K, K)
        vfio_pin_pages(emu, i * K, 1, IOMMU_READ)
        emu.pinned.append(i * K)

    assert box.unmap(0, 0, ALL) == (0, n * K)
    assert looked == [i * K for i in range(n) for _ in ("pinned", "free")]


def test_a_mapping_that_is_cut_once_drivers_were_asked_is_no_error(box, emu):
    """Another thread maps while dma_unmap() runs: the unmap ends there, and tells what it has unmapped."""
    box.map(0, K)
    box.map(K, K)
    vfio_pin_pages(emu, K, 1, IOMMU_READ)

    def dma_unmap(iova, length):
        vfio_unpin_pages(emu, iova, 1)
        assert box.map(2 * K, 2 * K) == 0

    emu.dma_unmap = dma_unmap
    assert box.unmap(0, 3 * K) == (0, K)
    assert box.unmap(0, 3 * K) == (-EINVAL, 3 * K)
    assert box.unmap(0, 4 * K) == (0, 3 * K)


def test_a_driver_that_keeps_its_pins_is_a_bug_after_ten_more_calls(kernel, box, emu):
    """BUG_ON(++retries > 10): the caller gets EIO here, and the mapping stays."""
    box.map(0, K)
    vfio_pin_pages(emu, 0, 1, IOMMU_READ)
    emu.polite = False

    assert box.unmap(0, K)[0] == -5

    assert emu.unmaps == [(0, K)] * 11
    assert len(kernel.oopses) == 1
    kernel.oopses.clear()
    vfio_unpin_pages(emu, 0, 1)


# ---- reads and writes


def test_reads_and_writes_go_over_several_mappings(box, emu):
    """Piece by piece, in whatever memory each is."""
    a = box.areas["a"]
    box.map(0, K, vaddr=a + 4 * K)
    box.map(K, K, vaddr=a)

    vfio_dma_write(emu, K - 2, b"abcd")

    assert box.proc.mem.read(a + 5 * K - 2, 2) == b"ab"
    assert box.proc.mem.read(a, 2) == b"cd"
    assert vfio_dma_read(emu, K - 2, 4) == b"abcd"


@pytest.mark.parametrize(
    ("flags", "write", "code"),
    [(R, True, EPERM), (W, True, EPERM), (W, False, EPERM), (R, False, 0), (R | W, True, 0)],
    ids=["write-of-read-only", "write-of-write-only", "read-of-write-only", "read", "write"],
)
def test_reads_and_writes_want_rights(box, emu, flags, write, code):
    """Any access wants the right to read, a write that to write, too."""
    box.map(0, K, flags)
    access = (lambda: vfio_dma_write(emu, 0, b"x")) if write else (lambda: vfio_dma_read(emu, 0, 1))
    if code:
        assert errno_of(access) == code
    else:
        access()


def test_reads_of_what_is_not_mapped_or_not_there(box, emu):
    """EINVAL at the first byte that no mapping has; EFAULT where the memory is gone. What came before was written."""
    box.map(0, K)
    assert errno_of(vfio_dma_read, emu, K, 1) == EINVAL
    assert errno_of(vfio_dma_write, emu, K - 1, b"xy") == EINVAL
    assert box.proc.mem.read(box.areas["a"] + K - 1, 1) == b"x"
    box.map(8 * K, K, vaddr=0x10000)
    assert errno_of(vfio_dma_read, emu, 8 * K, 1) == EFAULT


def test_another_process_cannot_read_for_the_device(kernel, box, emu):
    """EFAULT: the mapping is another address space's; a kernel thread may."""
    box.map(0, K)
    other = kernel.process()
    with kernel.as_task(other.task):
        assert errno_of(vfio_dma_read, emu, 0, 1) == EFAULT
    with kernel.as_task(kernel.idle_task):
        assert vfio_dma_read(emu, 0, 1) == b"\1"
    other.exit()


def test_when_the_process_is_gone_its_mappings_are_dead(kernel, box, emu):
    """EPERM for reads, ENODEV for pins; what was charged is nobody's any more."""
    child = box.proc.fork()
    box.map(0, 2 * K)
    vfio_pin_pages(emu, 0, 1, IOMMU_READ)
    box.proc.exit()
    with kernel.as_task(child.task):
        assert errno_of(vfio_dma_read, emu, 0, 1) == EPERM
        assert errno_of(vfio_pin_pages, emu, K, 1, IOMMU_READ) == ENODEV
    vfio_unpin_pages(emu, 0, 1)
    child.exit()


# ---- DIRTY_PAGES


def pin_and_unpin(emu):
    """One page, for a write."""
    vfio_pin_pages(emu, K, 1, IOMMU_WRITE)
    vfio_unpin_pages(emu, K, 1)


@pytest.mark.parametrize(
    ("act", "expected"),
    [
        pytest.param(lambda emu: None, [0, 0], id="nothing"),
        pytest.param(lambda emu: vfio_dma_read(emu, 0, K), [0, 0], id="read"),
        pytest.param(lambda emu: vfio_dma_write(emu, 2 * K, b"x"), [0b100, 0], id="one-byte"),
        pytest.param(lambda emu: vfio_dma_write(emu, 2 * K - 1, b"xx"), [0b110, 0], id="two-pages"),
        pytest.param(lambda emu: vfio_dma_write(emu, 0, bytes(8 * K)), [0xFF, 0], id="all"),
        pytest.param(lambda emu: vfio_pin_pages(emu, K, 2, IOMMU_WRITE), [0b110, 0b110], id="pinned"),
        pytest.param(pin_and_unpin, [0b10, 0], id="unpinned"),
    ],
)
def test_what_a_device_wrote_is_told_once_and_what_it_has_pinned_each_time(box, emu, act, expected):
    """Two readings after it, mapped before and while somebody tracks."""
    for before in (True, False):
        if before:
            box.map(0, 8 * K)
            assert box.dirty(START) == 0
        else:
            assert box.dirty(START) == 0
            box.map(0, 8 * K)
        act(emu)

        assert [box.bitmap(0, 8), box.bitmap(0, 8)] == expected

        vfio_unpin_pages(emu, 0, 8)
        box.dirty(STOP)
        box.unmap(0, 8 * K)


def test_pins_that_are_there_when_tracking_starts_are_written(box, emu):
    """And a stop forgets what was written."""
    box.map(0, 4 * K)
    vfio_pin_pages(emu, 3 * K, 1, IOMMU_WRITE)
    box.dirty(START)
    vfio_dma_write(emu, 0, b"x")
    box.dirty(STOP)
    box.dirty(START)
    assert box.bitmap(0, 4) == 0b1000
    vfio_unpin_pages(emu, 3 * K, 1)


def test_an_unmap_with_a_bitmap_tells_what_was_written(box, emu):
    """What drivers unpin in dma_unmap() counts as written."""
    box.dirty(START)
    box.map(0, 4 * K)
    box.map(8 * K, K)
    vfio_pin_pages(emu, K, 1, IOMMU_WRITE)
    emu.pinned.append(K)
    vfio_dma_write(emu, 8 * K, b"x")

    code, size, bits = play(box, [ub(0, 16 * K, 8)])[0]

    assert (code, size, int(bits[:4], 16)) == (0, 5 * K, 0x0201)


def test_bits_of_several_mappings_do_not_touch_each_other(box, emu):
    """Bits count from the range's start; a hole's words stay as they were."""
    box.dirty(START)
    box.map(0, K)
    box.map(3 * K, 2 * K)
    box.map(200 * K, K)
    vfio_dma_write(emu, 4 * K, b"x")
    vfio_dma_write(emu, 200 * K, b"x")

    code, bits = play(box, [g(0, 256 * K, 32, fill=0)])[0]

    assert (code, int.from_bytes(bytes.fromhex(bits), "little")) == (0, 1 << 4 | 1 << 200)


@pytest.mark.parametrize("where", ["vfio_dma_bitmap_alloc", "vfio_dma_do_map"])
def test_without_memory_for_it_nothing_is_mapped(kernel, box, where):
    """ENOMEM: of the mapping, and of its bitmap."""
    box.dirty(START)
    with kernel.faults.fail("alloc", where):
        assert box.map(0, K) == -ENOMEM
    assert box.map(0, K) == 0


def test_tracking_does_not_start_without_memory_or_of_too_large_a_mapping(kernel, box):
    """ENOMEM; EINVAL, more than 2 ** 31 - 1 pages. Then it is off, and no mapping has a bitmap."""
    box.map(0, K)
    box.map(K, K)
    with kernel.faults.fail("alloc", "vfio_dma_bitmap_alloc", nth=2):
        assert box.dirty(START) == -ENOMEM
    assert box.bitmap(0, 1) == -EINVAL
    box.map(1 << 44, K << 31)
    assert box.dirty(START) == -EINVAL
    box.unmap(1 << 44, K << 31)
    assert box.dirty(START) == 0
    assert box.map(1 << 44, K << 31) == -EINVAL


# ---- locked memory


def test_pins_without_the_right_to_lock_end_at_the_limit(kernel, emu):
    """ENOMEM, told in dmesg; the limit is the mapper's, whoever runs."""
    box = Box(kernel, emu)
    box.set_iommu()
    box.open(emu)
    box.limit(2 * K)
    box.map(0, 4 * K)

    vfio_pin_pages(emu, 0, 2, IOMMU_READ)
    assert errno_of(vfio_pin_pages, emu, 2 * K, 1, IOMMU_READ) == ENOMEM

    text = f"vfio_pin_page_external: Task {box.proc.task.comm} ({box.proc.pid}) RLIMIT_MEMLOCK (8192) exceeded"
    assert [record.text for record in kernel.log.since(0)][-1] == text
    assert box.locked() == 2
    vfio_unpin_pages(emu, 0, 2)
    box.close()


def test_the_right_to_lock_counts_at_map_time(kernel, emu):
    """Mapped with CAP_IPC_LOCK, pinned after it was given up: no limit."""
    box = Box(kernel, emu)
    box.set_iommu()
    box.open(emu)
    box.map(0, 4 * K)
    box.limit(0)
    vfio_pin_pages(emu, 0, 4, IOMMU_READ)
    assert box.locked() == 4
    vfio_unpin_pages(emu, 0, 4)
    box.close()


def test_the_limit_is_asked_when_a_page_is_pinned(kernel, emu):
    """prlimit() afterwards helps."""
    box = Box(kernel, emu)
    box.set_iommu()
    box.open(emu)
    box.proc.setrlimit(RLIMIT_MEMLOCK, (K, 4 * K))
    box.proc.setuid(65534)
    box.map(0, 4 * K)
    assert errno_of(vfio_pin_pages, emu, 0, 2, IOMMU_READ) == ENOMEM
    box.proc.setrlimit(RLIMIT_MEMLOCK, (4 * K, 4 * K))
    vfio_pin_pages(emu, 0, 2, IOMMU_READ)
    vfio_unpin_pages(emu, 0, 2)
    box.close()


# ---- leaks


def test_what_is_mapped_and_pinned_at_shutdown_is_told_with_group_and_range(kernel, emu):
    """Mappings that follow each other are one line; a pinned page is one."""
    box = Box(kernel, emu)
    box.set_iommu()
    box.open(emu)
    box.map(0, K)
    box.map(K, K)
    box.map(0x100000, 4 * K)
    vfio_pin_pages(emu, K, 1, IOMMU_READ)
    group = box.group_name(emu)

    lines = [line for line in kernel.leaks() if "IOVA" in line]

    assert lines == [
        f"IOVA 0x0-0x1fff of the container of group {group}, 2 mappings of user memory",
        f"IOVA 0x100000-0x103fff of the container of group {group}, 1 mapping of user memory",
        f"page at IOVA 0x1000 of the container of group {group}, pinned 1 times by drivers",
    ]
    vfio_unpin_pages(emu, K, 1)
    box.close()
    assert not [line for line in kernel.leaks() if "IOVA" in line]


def test_the_line_that_mapped_is_told(kernel, emu):
    """While origins are tracked."""
    kernel.track_origins = True
    box = Box(kernel, emu)
    box.set_iommu()
    box.map(0, K)

    assert any("1 mapping of user memory, taken at " in line and "type1box.py" in line for line in kernel.leaks())
    box.close()
