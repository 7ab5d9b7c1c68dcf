"""A guest's RAM is frames of the host: one memory seen from two sides, and nothing of it is left behind."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from contextlib import suppress
from errno import EEXIST, EINVAL, ENODEV
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pykernel
from pykernel.machine import MachineError, parse
from pykernel.mm.guest import GuestRam
from pykernel.mm.phys import HOLE_END, LOW_RAM, PAGE_SIZE, PhysMem, Run

MIB = 1 << 20
HOST = "memory = '64M'\n[cpu]\nvmx = true\n"


def host_memory() -> PhysMem:
    """The memory of a machine with VMX: 64 MiB."""
    return PhysMem(pykernel.boot(parse(HOST)))


def mappings(inode: int) -> int:
    """How many mappings of this process are of the file *inode*."""
    return sum(line.split()[4] == str(inode) for line in Path("/proc/self/maps").read_text().splitlines())


def fds(inode: int) -> int:
    """How many descriptors of this process are of it."""
    found = 0
    for fd in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            found += os.fstat(int(fd)).st_ino == inode
    return found


def fails(errno: int, fn: object, *args: object) -> None:
    with pytest.raises(OSError) as e:  # noqa: PT011
        fn(*args)  # type: ignore[operator]
    assert e.value.errno == errno


def test_vmx_is_a_key_of_the_machine() -> None:
    assert parse(HOST).cpu.vmx
    assert not parse("").cpu.vmx
    with pytest.raises(MachineError, match=r"vmx: must be true or false"):
        parse("[cpu]\nvmx = 1")
    assert PhysMem(None, 16 * MIB).fd == -1


def test_host_and_guest_see_the_same_bytes() -> None:
    host, guest = host_memory(), GuestRam(16 * MIB)
    first, second = host.alloc_pages(2), host.alloc_pages(1)
    host.write(second, b"before")
    guest.place(0x100000, host, [Run(first, 2), Run(second, 1)])
    assert guest.read(0x102000, 6) == b"before"
    guest.write(0x100FFE, b"over the edge")
    assert host.read(first + 0xFFE, 13) == b"over the edge"
    view = guest.view(0x101000, 4)
    assert view is not None
    host.write(first + PAGE_SIZE, b"host")
    assert bytes(view) == b"host"
    assert [guest.host_phys(at) for at in (0x100000, 0x101005, 0x102005, 0x103000, 0)] == [
        first,
        first + 0x1005,
        second + 5,
        None,
        None,
    ]


def test_allocators_of_both_sides_do_not_meet() -> None:
    """A guest's frame is free, used and zeroed by the guest's own account; the host's reference is one."""
    host, guest = host_memory(), GuestRam(16 * MIB)
    pa = host.alloc_pages(16 * MIB >> 12)
    guest.place(0, host, [Run(pa, 16 * MIB >> 12)])
    for n in (1, 40):
        at = guest.alloc_pages(n)
        guest.write(at, b"\xff" * n * PAGE_SIZE)
        guest.free_pages(at, n)
        again = guest.alloc_pages(n)
        assert guest.read(again, n * PAGE_SIZE) == bytes(n * PAGE_SIZE)
        guest.free_pages(again, n)
    assert (guest.used, host.used, host.refs[pa >> 12]) == (0, 16 * MIB >> 12, 2)
    host.free_pages(pa, 16 * MIB >> 12)
    assert host.used == 16 * MIB >> 12
    guest.clear()
    assert host.used == 0


def test_scattered_frames_that_the_guest_frees_are_zeros() -> None:
    """Some are of the host, some of nobody: the next owner in the guest finds zeros in all."""
    host, guest = host_memory(), GuestRam(16 * MIB)
    pa = host.alloc_pages(40)
    for i in range(0, 40, 2):
        guest.place(0x100000 + (i << 12), host, [Run(pa + (39 - i << 12), 1)])
    at = guest.alloc_pages(40)
    assert at == 0x100000
    guest.write(at, b"\xff" * 40 * PAGE_SIZE)
    assert host.read(pa, 40 * PAGE_SIZE).count(0xFF) == 20 * PAGE_SIZE
    guest.free_pages(at, 40)
    assert guest.alloc_pages(40) == at
    assert guest.read(at, 40 * PAGE_SIZE) == host.read(pa, 40 * PAGE_SIZE) == bytes(40 * PAGE_SIZE)


def test_frames_that_are_freed_are_zeros_in_a_memfd_too() -> None:
    host = host_memory()
    pa = host.alloc_pages(64)
    host.write(pa, b"\xff" * 64 * PAGE_SIZE)
    host.free_pages(pa, 64)
    assert host.read(host.alloc_pages(64), 64 * PAGE_SIZE) == bytes(64 * PAGE_SIZE)


def test_a_frame_is_the_guests_while_it_is_placed() -> None:
    """The VMM unmaps its memory under a running guest: nobody else gets the frame, the guest keeps its bytes."""
    kernel = pykernel.boot(parse(HOST))
    vmm, host, guest = kernel.process(), kernel.sub(PhysMem), GuestRam(16 * MIB)
    addr = vmm.mmap(0, PAGE_SIZE, 3, 0x22)
    vmm.store(addr, b"guest")
    pa = vmm.mem.translate(addr)
    guest.place(0x100000, host, [Run(pa, 1)])
    vmm.munmap(addr, PAGE_SIZE)
    others = [host.alloc_page() for _ in range(host.free)]
    assert pa not in others
    assert guest.read(0x100000, 5) == b"guest"
    guest.unplace(0x100000, 1)
    assert guest.read(0x100000, 5) == bytes(5)
    assert host.alloc_page() == pa
    for at in [*others, pa]:
        host.free_pages(at)
    vmm.exit()
    kernel.shutdown()


def test_where_nothing_is_placed_is_memory_of_nobody() -> None:
    host, guest = host_memory(), GuestRam(16 * MIB)
    guest.write(0x200000, b"x" * PAGE_SIZE)
    assert host.read(0, 64 * MIB).count(0) == 64 * MIB
    assert (host.used, guest.host_phys(0x200000)) == (0, None)


def test_what_is_no_ram_is_refused() -> None:
    host, guest = host_memory(), GuestRam(16 * MIB)
    pa = host.alloc_pages(4)
    fails(EINVAL, guest.place, 1, host, [Run(pa, 1)])
    fails(EINVAL, guest.place, 16 * MIB - PAGE_SIZE, host, [Run(pa, 2)])
    fails(EINVAL, guest.place, 0, host, [Run(64 * MIB, 1)])
    fails(EINVAL, guest.place, 0, host, [Run(1 << 46, 1)])
    fails(ENODEV, guest.place, 0, PhysMem(None, 16 * MIB), [Run(0x100000, 1)])
    guest.place(0x2000, host, [Run(pa, 2)])
    fails(EEXIST, guest.place, 0x3000, host, [Run(pa, 1)])
    fails(EEXIST, guest.place, 0x1000, host, [Run(pa, 2)])
    fails(EEXIST, guest.place, 0x8000, host_memory(), [Run(pa, 1)])
    assert list(guest.placed()) == [(0x2000, Run(pa, 2))]
    guest.clear()
    host.free_pages(pa, 4)
    assert host.used == 0


def test_ram_above_the_hole() -> None:
    host, guest = host_memory(), GuestRam(LOW_RAM + 16 * MIB)
    pa = host.alloc_pages(2)
    guest.place(HOLE_END, host, [Run(pa, 2)])
    guest.write(HOLE_END + 5, b"high")
    assert host.read(pa + 5, 4) == b"high"
    fails(EINVAL, guest.place, LOW_RAM, host, [Run(pa, 1)])
    fails(EINVAL, guest.place, LOW_RAM - PAGE_SIZE, host, [Run(pa, 2)])


def test_migration_keeps_every_view() -> None:
    """The same objects of the guest go on over another host's frames."""
    source, target, guest = host_memory(), host_memory(), GuestRam(16 * MIB)
    a, b = source.alloc_pages(3), source.alloc_pages(2)
    guest.place(0x1000, source, [Run(a, 3)])
    guest.place(0x9000, source, [Run(b, 2)])
    view = guest.view(0x9000, 5)
    assert view is not None
    guest.write(0x9000, b"state")
    runs = [Run(target.alloc_pages(1), 1) for _ in range(5)][::-1]
    for (pa, _), gpa in zip(runs, (0x1000, 0x2000, 0x3000, 0x9000, 0xA000), strict=True):
        target.write(pa, guest.read(gpa, PAGE_SIZE))
    fails(EINVAL, guest.move, target, runs[:4])
    fails(EINVAL, guest.move, target, [*runs[:4], Run(64 * MIB, 1)])
    assert (guest.host, source.refs[a >> 12]) == (source, 2)
    guest.write(0xA000, b"still here")
    assert source.read(b + PAGE_SIZE, 10) == b"still here"
    guest.move(target, runs)
    assert (bytes(view), guest.host) == (b"state", target)
    guest.write(0x9000, b"STATE")
    assert (target.read(runs[3].pa, 5), source.read(b, 5)) == (b"STATE", b"state")
    source.free_pages(a, 3)
    source.free_pages(b, 2)
    assert source.used == 0


def test_a_kernel_boots_over_it() -> None:
    host, guest = host_memory(), GuestRam(16 * MIB)
    pa = host.alloc_pages(16 * MIB >> 12)
    guest.place(0, host, [Run(pa, 16 * MIB >> 12)])
    kernel = pykernel.boot(parse("memory = '16M'"), phys=guest)
    process = kernel.process()
    addr = process.mem.alloc(8)
    process.store(addr, b"in guest")
    gpa = process.mem.translate(addr)
    assert host.read(pa + gpa, 8) == b"in guest"
    process.exit()
    kernel.shutdown()


def test_hardware_of_the_host_walks_the_tables_of_a_guests_process() -> None:
    """As a nested translation does: each table and the page are where the host has them, scattered."""
    host, guest = host_memory(), GuestRam(16 * MIB)
    pa = host.alloc_pages(16 * MIB >> 12)
    guest.place(0, host, [Run(pa + (n << 12), 1) for n in reversed(range(16 * MIB >> 12))])
    kernel = pykernel.boot(parse("memory = '16M'"), phys=guest)
    process = kernel.process()
    table = process.mem.pgd()
    addr = process.mem.alloc(8)
    process.store(addr, b"in guest")
    for shift in (39, 30, 21, 12):
        at = guest.host_phys((table & 0xF_FFFF_FFFF_F000) + (addr >> shift & 511) * 8)
        assert at is not None
        table = int.from_bytes(host.read(at, 8), "little")
        assert table & 7 == 7
    at = guest.host_phys((table & 0xF_FFFF_FFFF_F000) + (addr & 4095))
    assert at is not None
    assert host.read(at, 8) == b"in guest"
    process.exit()
    kernel.shutdown()


def test_nothing_is_left_behind() -> None:
    """Neither a file nor a mapping of this process, after hosts and guests have gone."""
    host, guest = host_memory(), GuestRam(16 * MIB)
    inode = os.fstat(host.fd).st_ino
    pa = host.alloc_pages(1000)
    for i in range(0, 1000, 2):
        guest.place(i << 12, host, [Run(pa + (999 - i << 12), 1)])
    assert (fds(inode), mappings(inode)) == (2, 501)
    guest.unplace(0, 500)
    assert mappings(inode) == 251
    del guest
    host.free_pages(pa, 1000)
    assert host.free
    assert (host.used, mappings(inode)) == (0, 1)
    del host
    gc.collect()
    assert (fds(inode), mappings(inode)) == (0, 0)


LIMIT = """
import pykernel
from errno import ENOMEM
from pathlib import Path
from pykernel.machine import parse
from pykernel.mm.guest import GuestRam
from pykernel.mm.phys import PhysMem, Run
limit = int(Path("/proc/sys/vm/max_map_count").read_text())
host = PhysMem(pykernel.boot(parse("memory = '1G'\\n[cpu]\\nvmx = true")))
guest = GuestRam(1 << 30)
pa = host.alloc_pages(2 * limit)
runs = [Run(pa + (2 * i << 12), 1) for i in range(limit)]
used = host.used
try:
    guest.place(0, host, runs)
except OSError as e:
    assert e.errno == ENOMEM, e
assert not list(guest.placed()) and host.refs[pa >> 12] == 1 and guest.read(0, 4) == bytes(4)
guest.place(0, host, runs[: limit // 2])
guest.write(1234 << 12, b"x")
assert host.read(runs[1234].pa, 1) == b"x"
"""


def test_too_many_mappings_are_enomem_and_change_nothing() -> None:
    """The process keeps some for itself: no other call fails because of a guest in scattered frames."""
    if int(Path("/proc/sys/vm/max_map_count").read_text()) > 100_000:
        pytest.skip("the host has more mappings than frames here")
    subprocess.run([sys.executable, "-W", "error", "-c", LIMIT], check=True)


# ---- against a naive model

PAGES = 24
OPS = st.one_of(
    st.tuples(st.just("place"), st.integers(0, PAGES - 1), st.lists(st.integers(0, 15), min_size=1, max_size=4)),
    st.tuples(st.just("unplace"), st.integers(0, PAGES - 1), st.integers(1, PAGES)),
    st.tuples(st.just("write"), st.integers(0, PAGES - 1), st.integers(1, 255)),
    st.tuples(st.just("host"), st.integers(0, 15), st.integers(1, 255)),
)


@settings(max_examples=80, deadline=None)
@given(st.lists(OPS, max_size=25))
def test_guest_pages_are_the_placed_frames(ops: list[tuple[str, int, int | list[int]]]) -> None:
    host, guest = host_memory(), GuestRam(16 * MIB)
    pa = host.alloc_pages(16)
    frames = [0] * 16
    nobody: dict[int, int] = {}
    at: dict[int, int] = {}
    for op, page, arg in ops:
        if isinstance(arg, list):
            fits = page + len(arg) <= PAGES and not any(page + i in at for i in range(len(arg)))
            try:
                guest.place(page << 12, host, [Run(pa + (f << 12), 1) for f in arg])
            except OSError:
                assert not fits or page + len(arg) > PAGES
                continue
            for i, frame in enumerate(arg):
                at[page + i] = frame
                nobody.pop(page + i, None)
        elif op == "unplace":
            guest.unplace(page << 12, arg)
            for gone in [p for p in at if page <= p < page + arg]:
                del at[gone]
        elif op == "write":
            guest.write(page << 12, bytes([arg]))
            if page in at:
                frames[at[page]] = arg
            else:
                nobody[page] = arg
        else:
            host.write(pa + (page << 12), bytes([arg]))
            frames[page] = arg
    for page in range(PAGES):
        got = guest.read(page << 12, 1)[0]
        if page in at:
            assert (guest.host_phys(page << 12), got) == (pa + (at[page] << 12), frames[at[page]])
        else:
            assert guest.host_phys(page << 12) is None
    assert [host.read(pa + (i << 12), 1)[0] for i in range(16)] == frames
    assert [host.refs[(pa >> 12) + i] for i in range(16)] == [1 + list(at.values()).count(i) for i in range(16)]
