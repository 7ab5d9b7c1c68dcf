"""Questions on type1: MAP_DMA, UNMAP_DMA, DIRTY_PAGES, IOMMU_GET_INFO, limits; edu's DMA engine through it."""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import vfio_abi as abi
from probing import Probe, call, opened, write_text
from vfio_abi import (
    READ,
    TOP,
    TYPE1,
    TYPE1V2,
    UNMAP_ALL,
    UNMAP_DIRTY,
    UNMAP_VADDR,
    VADDR,
    WRITE,
    ask,
    dma_map,
    dma_unmap,
    mapped,
    tried,
    u32,
    u64,
    unmapped,
)
from vfio_client import Fds, Memory, Vfio, bound, client
from vfio_container_parts import device

P = 4096
RW = READ | WRITE
LIMIT = "/sys/module/vfio_iommu_type1/parameters/dma_entry_limit"


def get_info(q: Probe) -> None:
    """IOMMU_GET_INFO: every length, the chain of capabilities as bytes."""
    with bound(q) as v:
        for kind in (TYPE1, TYPE1V2):
            with client(v, kind) as f:
                q.say(f"type {kind}: no pointer", [abi.plain(f.container, abi.IOMMU_GET_INFO, a) for a in (0, -1, 8)])
                for argsz in (0, 4, 15, 16, 17, 19, 20, 21, 23, 24, 28, 32, 56, 80, 100, 107, 108, 112, 116, 120, 124):
                    ask(q, f"type {kind}: argsz {argsz}", f.container, abi.IOMMU_GET_INFO, u32(argsz, *(-1,) * 31))
                for argsz in (128, 256, 4096, -1):
                    ask(q, f"type {kind}: argsz {argsz}", f.container, abi.IOMMU_GET_INFO, u32(argsz) + bytes(252))
        with client(v) as f:
            memory = Memory(4)
            q.say("entries left", available(f))
            for n in range(3):
                mapped(f.container, memory.address + n * P, n * P, P)
                q.say(f"entries left after {n + 1}", available(f))
            unmapped(f.container, 0, 2 * P)
            q.say("entries left after unmapping two", available(f))


def available(f: Fds) -> int:
    """The capability of free entries."""
    buf = bytearray(u32(512) + bytes(508))
    fcntl.ioctl(f.container, abi.IOMMU_GET_INFO, buf)
    at = int(struct.unpack_from("<I", buf, 16)[0])
    while at:
        kind, _, after = struct.unpack_from("<HHI", buf, at)
        if kind == 3:
            return int(struct.unpack_from("<I", buf, at + 8)[0])
        at = after
    return -1


def map_dma(q: Probe) -> None:
    """MAP_DMA: lengths, flags, alignment, ends of the range, overlaps."""
    memory = Memory(17)
    a = memory.address
    with bound(q) as v, client(v) as f:
        c = f.container
        v.host.protect_page(memory, 16, 0)
        q.say("no pointer", [abi.plain(c, abi.MAP_DMA, n) for n in (0, -1, 8)])
        for argsz in (0, 4, 8, 24, 31, 32, 33, 40, 4096, -1):
            ask(q, f"argsz {argsz}", c, abi.MAP_DMA, dma_map(a, 0, P, RW, argsz))
            q.say(f"argsz {argsz}: unmap", unmapped(c, 0, P))
        for flags in (*range(17), 32, 1 << 31):
            q.say(f"flags {flags:#x}", (mapped(c, a, 0, P, flags), unmapped(c, 0, P)))
        for size in (0, 1, 100, P - 1, P, P + 1, P + 2048, 2 * P, 16 * P, 17 * P):
            q.say(f"size {size}", (mapped(c, a, 0x100000, size), unmapped(c, 0x100000, 32 * P)))
        for at in (0, 1, 512, P - 1, P):
            q.say(f"vaddr + {at}", (mapped(c, a + at, 0, P), unmapped(c, 0, P)))
            q.say(f"iova {at}", (mapped(c, a, at, P), unmapped(c, 0, 2 * P)))
        ranges(q, c, a)
        overlaps(q, c, a)
        q.say("at the end: closing with mappings", mapped(c, a, 0, 16 * P))


def ranges(q: Probe, c: int, a: int) -> None:
    """Where an IOVA may be, what may be mapped, what wraps."""
    for iova in (
        0xFEDFF000, 0xFEDFE000, 0xFEE00000, 0xFEE80000, 0xFEEFF000, 0xFEF00000, 0xFFFFF000, 1 << 32, (1 << 36),
        (1 << 38),
        (1 << 39) - 2 * P, (1 << 39) - P, 1 << 39, (1 << 47) - 2 * P, 1 << 47, 1 << 48, 1 << 52, 1 << 57, 1 << 63,
        TOP + 1 - 2 * P, TOP + 1 - P,
    ):  # fmt: skip
        q.say(f"iova {iova:#x}", (mapped(c, a, iova, P), unmapped(c, iova, P)))
        q.say(f"iova {iova:#x}, two pages", (mapped(c, a, iova, 2 * P), unmapped(c, iova, 2 * P)))
    for vaddr in (0, P, 1 << 47, (1 << 47) - P, 1 << 63, TOP + 1 - P, TOP + 1 - 2 * P):
        q.say(f"vaddr {vaddr:#x}", (mapped(c, vaddr, 0, P), mapped(c, vaddr, 0, 2 * P), unmapped(c, 0, 4 * P)))
    for size in (1 << 40, 1 << 63, TOP + 1 - P, TOP):
        q.say(f"size {size:#x}", (mapped(c, a, 0, size), mapped(c, a, P, size), unmapped(c, 0, 1 << 38)))


def overlaps(q: Probe, c: int, a: int) -> None:
    """Every way to touch a mapping of four pages at 16 MiB."""
    base = 0x1000000
    q.say("four pages", mapped(c, a, base, 4 * P))
    for first in range(-2, 6):
        answers = []
        for n in (1, 2, 4, 6, 8):
            result = mapped(c, a + 4 * P, base + first * P, n * P)
            answers.append(result)
            if result == 0:
                unmapped(c, base + first * P, n * P)
        q.say(f"from page {first}: 1, 2, 4, 6, 8 pages", answers)
    q.say("the same again", mapped(c, a, base, 4 * P))
    q.say("the same pages elsewhere", mapped(c, a, 2 * base, 4 * P))
    q.say("unmapped", (unmapped(c, base, 4 * P), unmapped(c, 2 * base, 4 * P)))


def sources(q: Probe) -> None:
    """What is behind the address: holes, rights, files, BARs; what happens to it later."""
    with bound(q) as v, client(v) as f:
        c, host = f.container, v.host
        memory = Memory(4)
        a = memory.address
        for prot, name in ((0, "none"), (mmap.PROT_READ, "read only"), (mmap.PROT_READ | mmap.PROT_WRITE, "both")):
            host.protect_page(memory, 1, prot)
            for flags in (READ, WRITE, RW):
                q.say(f"a page with {name}, flags {flags}", (mapped(c, a + P, 0, P, flags), unmapped(c, 0, P)))
                q.say(f"three pages, one {name}, flags {flags}", (mapped(c, a, 0, 3 * P, flags), unmapped(c, 0, 4 * P)))
        f.decode()
        with mmap.mmap(f.device, 1 << 20) as bar:
            b = host.address_of(bar)
            for n in (1, 2, 256):
                q.say(f"the BAR, {n} pages", (mapped(c, b, 0, n * P), unmapped(c, 0, n * P)))
            f.decode(memory=False)
            q.say("the BAR, decode off", (mapped(c, b, 0, P), unmapped(c, 0, P)))
            f.decode()
            q.say("the BAR, decode on", (mapped(c, b, 0, P), unmapped(c, 0, P)))
        for path, flags in (("/dev/zero", mmap.MAP_SHARED), ("/dev/zero", mmap.MAP_PRIVATE)):
            with opened(path, os.O_RDWR) as fd:
                area = mmap.mmap(fd, 2 * P, flags)
                q.say(f"{path} {flags}", (mapped(c, host.address_of(area), 0, 2 * P), unmapped(c, 0, 2 * P)))
        later = Memory(2)
        q.say("mapped, then without rights", (mapped(c, later.address, 0, 2 * P), host.protect_page(later, 0, 0)))
        q.say("unmapped", unmapped(c, 0, 2 * P))
        host.protect_page(later, 0, mmap.PROT_READ | mmap.PROT_WRITE)


def unmap_dma(q: Probe) -> None:
    """UNMAP_DMA: lengths, flags, alignment, holes, halves, all; type 1 and type 1 v2."""
    memory = Memory(16)
    a = memory.address
    with bound(q) as v:
        for kind in (TYPE1, TYPE1V2):
            with client(v, kind) as f:
                c, t = f.container, f"type {kind}:"
                q.say(f"{t} no pointer", [abi.plain(c, abi.UNMAP_DMA, n) for n in (0, -1, 8)])
                for argsz in (0, 4, 8, 16, 23, 24, 25, 32, 48, 4096, -1):
                    ask(q, f"{t} argsz {argsz}", c, abi.UNMAP_DMA, dma_unmap(0, P, 0, argsz))
                for flags in (*range(17), 1 << 31):
                    answers = [tried(c, abi.UNMAP_DMA, dma_unmap(*where, flags)) for where in ((0, P), (0, 0), (P, 0))]
                    q.say(f"{t} flags {flags:#x}, nothing there", answers)
                for iova, size in [
                    (1, P), (0, 1), (0, P - 1), (0, P + 1), (P // 2, P), (0, 0), (0, TOP), (0, TOP + 1 - P),
                    (P, TOP + 1 - P),
                    (TOP + 1 - P, P), (TOP + 1 - P, 2 * P), (1 << 63, 1 << 63), (1 << 63, (1 << 63) + P), (0, 1 << 63),
                ]:  # fmt: skip
                    q.say(f"{t} iova {iova:#x} size {size:#x}", tried(c, abi.UNMAP_DMA, dma_unmap(iova, size)))
                holes(q, c, a, t)
                halves(q, c, a, t)
                everything(q, c, a, t)


def layout(c: int, a: int) -> list[object]:
    """Mappings of 4 pages at 0x10000, of 2 at 0x14000 and of 1 at 0x18000 (a hole between)."""
    return [mapped(c, a, 0x10000, 4 * P), mapped(c, a, 0x14000, 2 * P), mapped(c, a, 0x18000, P)]


def left(c: int) -> list[object]:
    """Unmap each of them: what was still there."""
    return [unmapped(c, iova, n * P) for iova, n in ((0x10000, 4), (0x14000, 2), (0x18000, 1))]


def holes(q: Probe, c: int, a: int, t: str) -> None:
    """Ranges that end at ends of mappings."""
    for first, last in (
        (0x10, 0x14),
        (0x10, 0x16),
        (0x0, 0x14),
        (0x0, 0x20),
        (0x14, 0x19),
        (0x16, 0x18),
        (0x16, 0x20),
        (0x18, 0x19),
    ):
        layout(c, a)
        q.say(f"{t} pages {first:#x} to {last:#x}", (unmapped(c, first * P, (last - first) * P), left(c)))


def halves(q: Probe, c: int, a: int, t: str) -> None:
    """Ranges that cut mappings."""
    for first, last in [
        (0x10, 0x11), (0x11, 0x12), (0x13, 0x14), (0x11, 0x14), (0x11, 0x15), (0x10, 0x15), (0x0, 0x11), (0x13, 0x19),
        (0x12, 0x18), (0x15, 0x16), (0x15, 0x20),
    ]:  # fmt: skip
        layout(c, a)
        q.say(f"{t} pages {first:#x} to {last:#x}, cut", (unmapped(c, first * P, (last - first) * P), left(c)))


def everything(q: Probe, c: int, a: int, t: str) -> None:
    """UNMAP_ALL."""
    layout(c, a)
    for iova, size in ((P, 0), (0, P), (0, TOP)):
        q.say(f"{t} all with {iova:#x} {size:#x}", tried(c, abi.UNMAP_DMA, dma_unmap(iova, size, UNMAP_ALL)))
    q.say(f"{t} all", tried(c, abi.UNMAP_DMA, dma_unmap(0, 0, UNMAP_ALL)))
    q.say(f"{t} all again", tried(c, abi.UNMAP_DMA, dma_unmap(0, 0, UNMAP_ALL)))
    q.say(f"{t} nothing left", left(c))


def vaddr(q: Probe) -> None:
    """UNMAP with VADDR and MAP with VADDR: addresses change, mappings stay."""
    memory = Memory(8)
    a = memory.address
    with bound(q) as v, client(v) as f:
        c = f.container
        q.say("extension", abi.plain(c, abi.CHECK_EXTENSION, 10))
        layout(c, a)
        q.say("MAP VADDR of what is valid", mapped(c, a, 0x10000, 4 * P, VADDR))
        q.say("MAP VADDR where nothing is", mapped(c, a, 0x100000, P, VADDR))
        q.say("UNMAP VADDR", unmapped(c, 0x10000, 4 * P, UNMAP_VADDR))
        q.say("UNMAP VADDR twice", unmapped(c, 0x10000, 4 * P, UNMAP_VADDR))
        q.say("UNMAP VADDR of one valid and one not", unmapped(c, 0x10000, 6 * P, UNMAP_VADDR))
        q.say("UNMAP VADDR of the valid one", unmapped(c, 0x14000, 2 * P, UNMAP_VADDR))
        q.say("UNMAP VADDR cut", unmapped(c, 0x10000, P, UNMAP_VADDR))
        q.say("MAP VADDR with READ", mapped(c, a, 0x10000, 4 * P, VADDR | READ))
        for iova, n in ((0x10000, 2), (0x11000, 3), (0x10000, 6), (0x11000, 1), (0xF000, 5)):
            q.say(f"MAP VADDR {iova:#x}, {n} pages", mapped(c, a, iova, n * P, VADDR))
        q.say("MAP VADDR", mapped(c, a + P, 0x10000, 4 * P, VADDR))
        q.say("MAP VADDR twice", mapped(c, a + P, 0x10000, 4 * P, VADDR))
        q.say("MAP beside while one is invalid", (mapped(c, a, 0x20000, P), unmapped(c, 0x20000, P)))
        q.say("device while one is invalid", device(f.group, v.addr))
        q.say("MAP VADDR bad addresses", [mapped(c, n, 0x14000, 2 * P, VADDR) for n in (1, TOP + 1 - P)])
        q.say("MAP VADDR of no memory", mapped(c, 0, 0x14000, 2 * P, VADDR))
        q.say("UNMAP VADDR all", unmapped(c, 0, 0, UNMAP_VADDR | UNMAP_ALL))
        q.say("UNMAP of invalid ones", left(c))
        layout(c, a)
        q.say("UNMAP VADDR all, all valid", unmapped(c, 0, 0, UNMAP_VADDR | UNMAP_ALL))
        q.say("UNMAP all", unmapped(c, 0, 0, UNMAP_ALL))
        mapped(c, a, 0, P)
        unmapped(c, 0, P, UNMAP_VADDR)
        q.say("another group's SET_CONTAINER with an invalid one", abi.plain(f.group, abi.UNSET_CONTAINER))


def dirty(q: Probe) -> None:
    """DIRTY_PAGES and UNMAP with a bitmap."""
    memory, bits = Memory(8), Memory(2)
    a = memory.address
    with bound(q) as v:
        with client(v, TYPE1) as f:
            q.say("type 1", [tried(f.container, abi.DIRTY_PAGES, u32(8, n)) for n in (0, 1, 2, 4)])
        with client(v) as f:
            c = f.container
            q.say("no pointer", [abi.plain(c, abi.DIRTY_PAGES, n) for n in (0, -1, 8)])
            for argsz in (0, 4, 7, 8, 9, 48, -1):
                ask(q, f"argsz {argsz}", c, abi.DIRTY_PAGES, u32(argsz, abi.DIRTY_STOP))
            for flags in (*range(10), 1 << 31):
                q.say(f"flags {flags:#x}", tried(c, abi.DIRTY_PAGES, u32(48, flags) + bytes(40)))
            tried(c, abi.DIRTY_PAGES, u32(8, abi.DIRTY_STOP))
            mapped(c, a, 0x10000, 4 * P)
            q.say("off: get", bitmap(c, bits, 0x10000, 4 * P))
            q.say("off: unmap with a bitmap", unmap_dirty(c, bits, 0x10000, 4 * P))
            q.say("start", [tried(c, abi.DIRTY_PAGES, u32(8, abi.DIRTY_START)) for _ in range(2)])
            for argsz in (8, 16, 47, 48, 49):
                q.say(f"get argsz {argsz}", bitmap(c, bits, 0x10000, 4 * P, argsz=argsz))
            bitmaps(q, c, a, bits)
            mapped(c, a, 0x10000, 4 * P)
            for argsz in (24, 47):
                q.say(f"unmap argsz {argsz}", unmap_dirty(c, bits, 0x10000, 4 * P, argsz=argsz))
            for size, pgsize, n in (
                (0, P, 8),
                (7, P, 8),
                (8, 0, 8),
                (8, 2 * P, 8),
                (8, 2048, 8),
                (1 << 29, P, 8),
                (8, P, 0),
            ):
                answer = unmap_dirty(c, bits, 0x10000, 4 * P, size=size, pgsize=pgsize, data=bits.address if n else 0)
                q.say(f"unmap with a bitmap of {size} bytes, pages of {pgsize}, at {'memory' if n else 0}", answer)
            q.say("unmap with a bitmap", unmap_dirty(c, bits, 0x10000, 4 * P))
            q.say("unmap with a bitmap, nothing there", unmap_dirty(c, bits, 0x10000, 4 * P))
            layout(c, a)
            q.say("unmap with a bitmap over holes", unmap_dirty(c, bits, 0x10000, 16 * P))
            for flags in (UNMAP_DIRTY | UNMAP_ALL, UNMAP_DIRTY | UNMAP_VADDR, UNMAP_DIRTY | UNMAP_ALL | UNMAP_VADDR):
                q.say(f"unmap flags {flags}", unmap_dirty(c, bits, 0, 0, flags=flags))
            q.say("stop", [tried(c, abi.DIRTY_PAGES, u32(8, abi.DIRTY_STOP)) for _ in range(2)])
            mapped(c, a, 0x10000, 4 * P)
            q.say("stopped: get", bitmap(c, bits, 0x10000, 4 * P))


def bitmaps(q: Probe, c: int, a: int, bits: Memory) -> None:
    """GET_BITMAP while tracking: ranges, sizes, holes."""
    for _ in range(2):
        q.say("get", bitmap(c, bits, 0x10000, 4 * P))
    layout_rest = [mapped(c, a, 0x14000, 2 * P), mapped(c, a, 0x18000, P)]
    q.say("mapped while tracking", layout_rest)
    for first, last in [
        (0x10, 0x14), (0x10, 0x16), (0x10, 0x19), (0x10, 0x50), (0x0, 0x20), (0x10, 0x12), (0x12, 0x14),
        (0x15, 0x20), (0x16, 0x18),
        (0x16, 0x20), (0x20, 0x30), (0x14, 0x16), (0x0F, 0x14), (0x0D, 0x50),
    ]:  # fmt: skip
        q.say(f"get of pages {first:#x} to {last:#x}", bitmap(c, bits, first * P, (last - first) * P))
    for iova, size in (
        (0x10001, P),
        (0x10000, P - 1),
        (0x10000, 0),
        (0x10000, TOP),
        (TOP + 1 - P, 2 * P),
        (0, 1 << 63),
    ):
        q.say(f"get of {iova:#x} size {size:#x}", bitmap(c, bits, iova, size))
    for size in (0, 1, 7, 8, 9, 16, 1 << 28, (1 << 28) + 1, 1 << 63):
        q.say(f"get with a bitmap of {size} bytes", bitmap(c, bits, 0x10000, 4 * P, size=size))
    for pgsize in (0, 1, 2048, P, 2 * P, 1 << 21, 1 << 63):
        q.say(f"get with pages of {pgsize}", bitmap(c, bits, 0x10000, 4 * P, pgsize=pgsize))
    for data in (0, 8, 1 << 46, 1 << 63, TOP + 1 - P):
        q.say(f"get to {data:#x}", bitmap(c, bits, 0x10000, 4 * P, data=data))
    q.say("left", left(c))


def bitmap(
    c: int,
    bits: Memory,
    iova: int,
    size_: int,
    argsz: int = 48,
    size: int = 64,
    pgsize: int = P,
    data: int | None = None,
) -> object:
    """GET_BITMAP into memory filled with 0x5a: the result, and the bytes if they changed."""
    bits.put(0, b"\x5a" * 24)
    where = bits.address if data is None else data
    result = tried(c, abi.DIRTY_PAGES, u32(argsz, abi.DIRTY_GET) + u64(iova, size_, pgsize, size, where))
    got = bits.get(0, 24)
    return result if got == b"\x5a" * 24 else (result, got.hex())


def unmap_dirty(
    c: int,
    bits: Memory,
    iova: int,
    size_: int,
    argsz: int = 48,
    size: int = 64,
    pgsize: int = P,
    data: int | None = None,
    flags: int = UNMAP_DIRTY,
) -> object:
    """UNMAP_DMA with a bitmap: the result and the size it returned, and the bytes if they changed."""
    bits.put(0, b"\x5a" * 24)
    where = bits.address if data is None else data
    buf = bytearray(dma_unmap(iova, size_, flags, argsz) + u64(pgsize, size, where))
    result: object = call(fcntl.ioctl, c, abi.UNMAP_DMA, buf)
    answer = (result, struct.unpack_from("<Q", buf, 16)[0])
    got = bits.get(0, 24)
    return answer if got == b"\x5a" * 24 else (*answer, got.hex())


def limits(q: Probe) -> None:
    """dma_entry_limit; RLIMIT_MEMLOCK of a user without rights; VmLck."""
    memory = Memory(32)
    a = memory.address
    with bound(q) as v:
        for limit in ("0", "1", "3"):
            q.say(f"dma_entry_limit {limit}", call(write_text, LIMIT, limit))
            with client(v) as f:
                answers = [mapped(f.container, a + n * P, n * P, P) for n in range(4)]
                q.say(f"limit {limit}: maps, left", (answers, available(f)))
                unmapped(f.container, 0, P)
                q.say(f"limit {limit}: after an unmap", (mapped(f.container, a, 0, P), available(f)))
        write_text(LIMIT, "65535")
        with client(v) as f:
            write_text(LIMIT, "1")
            q.say("limit changed later", ([mapped(f.container, a + n * P, n * P, P) for n in range(3)], available(f)))
            write_text(LIMIT, "65535")
            unmapped(f.container, 0, 0, UNMAP_ALL)
            q.say("VmLck, nothing", f.v.host.locked())
            mapped(f.container, a, 0, 8 * P)
            q.say("VmLck, 8 pages", f.v.host.locked())
            mapped(f.container, a, 8 * P, 8 * P)
            q.say("VmLck, 8 pages twice", f.v.host.locked())
            unmapped(f.container, 0, 0, UNMAP_ALL)
            q.say("VmLck, all unmapped", f.v.host.locked())
            for pages in (0, 1, 4, 8, 16):
                answer = v.host.in_child(lambda f=f: [stepwise(f, a, n) for n in (1, 4, 5, 8, 9)], 65534, pages * P)
                q.say(f"user 65534, {pages} pages allowed: maps of 1, 4, 5, 8, 9 pages", answer)
                answer = v.host.in_child(lambda f=f: several(f, a), 65534, pages * P)
                q.say(f"user 65534, {pages} pages allowed: six maps of 2 pages", answer)
                answer = v.host.in_child(lambda f=f: several(f, a), 0, pages * P)
                q.say(f"root, {pages} pages allowed: six maps of 2 pages", answer)
            q.say("what the children mapped", unmapped(f.container, 0, 0, UNMAP_ALL))


def stepwise(f: Fds, a: int, pages: int) -> tuple[object, object]:
    """One map, taken back."""
    return mapped(f.container, a, 0, pages * P), unmapped(f.container, 0, pages * P)


def several(f: Fds, a: int) -> list[object]:
    """Six maps of two pages, VmLck, and all taken back."""
    answers = [mapped(f.container, a + 2 * n * P, 2 * n * P, 2 * P) for n in range(6)]
    return [*answers, f.v.host.locked(), unmapped(f.container, 0, 0, UNMAP_ALL), f.v.host.locked()]


# ---- the engine

SRC, DST, COUNT, COMMAND = 0x80, 0x88, 0x90, 0x98
RUN, TO_PCI, RAISE_IRQ = 1, 2, 4
BUFFER = 0x40000


def engine(q: Probe) -> None:
    """edu's DMA engine through mapped, half mapped and unmapped IOVAs."""
    memory = Memory(8)
    a = memory.address
    with bound(q) as v, client(v) as f, kernel_log() as log:
        c = f.container
        f.decode(master=True)
        mapped(c, a, 0x10000, 4 * P)
        memory.put(0, bytes(range(256)) * 16)

        def told(what: str, src: int, dst: int, n: int, command: int) -> None:
            v.host.pause(5.2)  # the log's rate limit: ten lines in five seconds
            log.clear()
            result = transfer(f, src, dst, n, command)
            v.host.settle()
            q.say(what, (result, faults(log, v)) if faults(log, v) else result)

        told("256 bytes in", 0x10000, BUFFER, 256, RUN)
        told("256 bytes out, a page on", BUFFER, 0x11000, 256, RUN | TO_PCI)
        q.say("what came", memory.get(P, 256) == bytes(range(256)))
        told("100 bytes in at 3", 0x10003, BUFFER + 5, 100, RUN)
        told("over a page's end, out", BUFFER, 0x11FF0, 64, RUN | TO_PCI)
        q.say("what came there", memory.get(2 * P - 16, 64).hex())
        told(
            "all but a byte of a page in", 0x10000, BUFFER, P - 1, RUN
        )  # the whole, and nothing, QEMU does not survive
        told("no RUN", 0x10000, BUFFER, 16, TO_PCI)
        told("unmapped, in", 0x50000, BUFFER, 16, RUN)
        q.say("the buffer after that", buffer(f, memory, 16))
        told("unmapped, out", BUFFER, 0x51000, 16, RUN | TO_PCI)
        told("half mapped, out", BUFFER, 0x13FF8, 16, RUN | TO_PCI)
        q.say("the mapped half", memory.get(4 * P - 8, 8).hex())
        rights(q, f, memory, told)
        f.set_config(4, 3, 2)
        told("no bus master, in", 0x10000, BUFFER, 16, RUN)
        f.set_config(4, 7, 2)
        told("high address, in", 1 << 28 | 0x10000, BUFFER, 16, RUN)
        unmapped(c, 0, 0, UNMAP_ALL)
        told("after unmap, in", 0x10000, BUFFER, 16, RUN)
        mapped(c, a + P, 0x10000, P)
        told("other memory at the same place, in", 0x10000, BUFFER, 16, RUN)
        q.say("the buffer after that", buffer(f, memory, 16))


Told = Callable[[str, int, int, int, int], None]


def rights(q: Probe, f: Fds, memory: Memory, told: Told) -> None:
    """Mappings for reading only and for writing only; memory shared between two IOVAs."""
    a, c = memory.address, f.container
    mapped(c, a + 4 * P, 0x20000, P, READ)
    mapped(c, a + 5 * P, 0x21000, P, WRITE)
    mapped(c, a, 0x22000, P)
    memory.put(4 * P, b"abcdefghijklmnop")
    memory.put(5 * P, b"qrstuvwxyzABCDEF")
    told("for reading, in", 0x20000, BUFFER, 16, RUN)
    q.say("the buffer after that", buffer(f, memory, 16))
    mapped(c, a + 6 * P, 0x23000, P, READ)  # what was never read: QEMU records no fault of what its IOTLB has
    told("for reading, out", BUFFER, 0x23008, 16, RUN | TO_PCI)
    q.say("memory for reading", memory.get(6 * P, 24))
    told("for writing, out", BUFFER, 0x21000, 8, RUN | TO_PCI)
    q.say("memory for writing", memory.get(5 * P, 16))
    told("for writing, in", 0x21000, BUFFER, 16, RUN)
    q.say("the buffer after that", buffer(f, memory, 16))
    told("the second IOVA of a page, out", BUFFER, 0x22100, 4, RUN | TO_PCI)
    q.say("the page", memory.get(0x100, 4))


def buffer(f: Fds, memory: Memory, n: int) -> bytes:
    """The engine's first bytes, through the last page of the memory."""
    mapped(f.container, memory.address + 7 * P, 0x7000000, P)
    transfer(f, BUFFER, 0x7000000, n, RUN | TO_PCI)
    unmapped(f.container, 0x7000000, P)
    return memory.get(7 * P, n)


def transfer(f: Fds, src: int, dst: int, n: int, command: int) -> str:
    """Run the engine, wait until it is done: what COMMAND reads then."""
    f.write(SRC, src, 4)
    f.write(DST, dst, 4)
    f.write(COUNT, n, 4)
    f.write(COMMAND, command, 4)
    for _ in range(100):
        f.v.host.settle()
        if not f.read(COMMAND) & RUN:
            break
    return f"{f.read(COMMAND):x}"


class Log:
    """The kernel's messages since the last :meth:`clear`."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.lines: list[str] = []

    def clear(self) -> None:
        """Forget."""
        self.read()
        self.lines.clear()

    def read(self) -> list[str]:
        """All of them."""
        while isinstance(record := call(os.read, self.fd, 8192), bytes):
            head, _, text = record.decode("latin-1").partition(";")
            self.lines.append(f"<{int(head.split(',')[0]) & 7}> {text.splitlines()[0]}")
        return self.lines


@contextmanager
def kernel_log() -> Iterator[Log]:
    """/dev/kmsg from its end on."""
    with opened("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK) as fd:
        os.lseek(fd, 0, os.SEEK_END)
        yield Log(fd)


def faults(log: Log, v: Vfio) -> list[str]:
    """The IOMMU's lines about the device, its short address as BDF."""
    return [line.replace(v.addr[5:], "BDF") for line in log.read() if "DMAR" in line and "INFO" not in line]


Part = Callable[[Probe], None]
PARTS: dict[str, Part] = {
    "IOMMU_GET_INFO": get_info,
    "MAP_DMA": map_dma,
    "MAP_DMA of what": sources,
    "UNMAP_DMA": unmap_dma,
    "VADDR": vaddr,
    "DIRTY_PAGES": dirty,
    "DMA limits": limits,
    "DMA engine": engine,
}
