"""Questions on a PCI device's own files: attributes, configuration space, BAR, removal and rescan."""

from __future__ import annotations

import mmap
import os
import select
import struct
from collections.abc import Callable

from driver_core_parts import BOOLS, NUMBERS, describe
from probing import SHARED_RW, Probe, call, kind, opened, read_text, write_text
from subject import BUS, DRIVER, PLATFORM, Subject

MIB = 1 << 20


def inventory(q: Probe) -> None:
    """Every file of the device's directory."""
    s = Subject(q)
    describe(q, s.real, "device", skip=("irq", "config", "resource0"), hide=PLATFORM)
    q.ask("entries that are the platform's", lambda: sorted(PLATFORM & set(os.listdir(s.real))))
    for name in ("irq", "config", "resource0"):
        q.ask(f"device/{name}", lambda name=name: (kind(s.at(name)), os.stat(s.at(name)).st_size))
    q.ask(
        "irq is a number and a newline", lambda: read_text(s.at("irq")).strip().isdigit() and read_text(s.at("irq"))[-1]
    )
    q.ask("resource has lines", lambda: len(read_text(s.at("resource")).splitlines()))
    q.ask("resource0 read", lambda: s.on("resource0", lambda fd: os.read(fd, 4), os.O_RDONLY))
    q.ask(
        "root port directory", lambda: (kind(os.path.dirname(s.real)), sorted(os.listdir(os.path.dirname(s.real)))[-3:])
    )


def attributes(q: Probe) -> None:
    """Stores to the writable attributes; the read-only ones refuse."""
    s = Subject(q)
    for name in sorted(os.listdir(s.real)):
        path = s.at(name)
        if os.path.isfile(path) and not os.path.islink(path) and not os.stat(path).st_mode & 0o222:
            q.ask(f"write {name}", write_text, path, "1")
    q.stores(s.at("enable"), ["1", "1", "0", "x", "", "\n", "2", "-1", "0x1", "00", "1 "])
    q.ask("enable at the end", read_text, s.at("enable"))
    q.stores(s.at("enable"), ["0", "0", "0"])
    q.ask("enable twice, disable once", lambda: _enable_counts(s))
    q.stores(s.at("msi_bus"), ["0", "1", "x", "", "2", "-1", "1\n"])
    q.stores(s.at("numa_node"), ["0", "-1", "1", "-2", "1000", "x", "", "0x0", "\n", "99999999999", "0\n", "-1\n"])
    q.stores(s.at("broken_parity_status"), NUMBERS)
    q.stores(s.at("broken_parity_status"), ["0"])
    q.stores(s.at("d3cold_allowed"), [*NUMBERS, "1", "0"])
    q.stores(s.at("rescan"), ["0", "x", "", "-1", "1", "2", "1\n"])
    q.stores(f"{BUS}/rescan", ["0", "x", "", "-1", "1\n"], "bus rescan")
    q.stores(s.at("remove"), ["0", "x", "", "-1", "\n"])
    q.ask("still there", os.path.exists, s.at("vendor"))
    q.ask("driver_override of a bool", lambda: [call(write_text, s.at("driver_override"), b) for b in BOOLS[:3]])
    s.clear()
    write_text(s.at("driver_override"), "pci-stub")
    write_text(f"{DRIVER}/bind", s.addr)
    q.stores(s.at("enable"), ["1", "0", "1"], "bound: enable")
    q.stores(s.at("msi_bus"), ["0", "1"], "bound: msi_bus")
    q.ask("bound: msi_irqs", lambda: os.path.exists(s.at("msi_irqs")))
    s.release()
    q.ask("unbound again: enable", read_text, s.at("enable"))


def _enable_counts(s: Subject) -> object:
    path = s.at("enable")
    return [(call(write_text, path, text), read_text(path)) for text in ("1", "1", "0", "0", "0")]


def config_space(q: Probe) -> None:
    """The config file: sizes, offsets, alignment, what sticks."""
    s = Subject(q)

    def on(what: str, f: Callable[[int], object], flags: int = os.O_RDWR) -> None:
        q.ask(what, lambda: s.on("config", f, flags))

    on("size", lambda fd: (os.fstat(fd).st_size, os.lseek(fd, 0, 2)))
    on("identity", lambda fd: os.pread(fd, 4, 0))
    on("class and revision", lambda fd: os.pread(fd, 4, 8))
    on("header type", lambda fd: os.pread(fd, 1, 14))
    on("subsystem", lambda fd: os.pread(fd, 4, 44))
    on("capability pointer", lambda fd: os.pread(fd, 1, 52))
    on("MSI capability", lambda fd: os.pread(fd, 2, 64))
    on("sizes from 0", lambda fd: [len(os.pread(fd, n, 0)) for n in (1, 2, 3, 4, 5, 63, 64, 65, 255, 256, 257, 4096)])
    on(
        "near the end",
        lambda fd: [len(os.pread(fd, n, o)) for n, o in ((4, 252), (4, 253), (8, 252), (1, 255), (2, 255))],
    )
    on("at and past the end", lambda fd: [call(os.pread, fd, 4, o) for o in (256, 257, 4095, 4096, 1 << 31, 1 << 40)])
    on("unaligned", lambda fd: [os.pread(fd, n, o) for n, o in ((3, 1), (1, 3), (2, 1), (4, 2), (5, 9), (7, 45))])
    on(
        "same bytes in any pieces",
        lambda fd: b"".join(os.pread(fd, 3, o) for o in range(0, 255, 3)) == os.pread(fd, 255, 0),
    )
    on("interrupt line takes a byte", lambda fd: _put(fd, 0x3C, b"\x5a"))
    on("interrupt pin does not", lambda fd: _put(fd, 0x3D, b"\x5a"))
    on("line and pin as a word", lambda fd: _put(fd, 0x3C, b"\x0b\x55"))
    on("vendor does not", lambda fd: _put(fd, 0, b"\xff\xff"))
    on("latency timer", lambda fd: _put(fd, 0x0D, b"\x40"))
    on("cache line size", lambda fd: _put(fd, 0x0C, b"\x10"))
    on("command: bus master and back", lambda fd: (_put(fd, 4, b"\x07\x01"), _put(fd, 4, b"\x03\x01")))
    on("BAR sizing", lambda fd: _put(fd, 0x10, b"\xff\xff\xff\xff"))
    on("write unaligned three", lambda fd: _put(fd, 0x3B, b"\x00\x0c\x00"))
    on("write at 252, 8 bytes", lambda fd: call(os.pwrite, fd, bytes(8), 252))
    on("write at 256", lambda fd: call(os.pwrite, fd, bytes(4), 256))
    on("write nothing at 256", lambda fd: call(os.pwrite, fd, b"", 256))
    on("write nothing at 0", lambda fd: call(os.pwrite, fd, b"", 0))
    on("write at 2**40", lambda fd: call(os.pwrite, fd, b"x", 1 << 40))
    on("write at -1", lambda fd: call(os.pwrite, fd, b"x", -1))
    on("write, position", lambda fd: (os.lseek(fd, 0x3C, 0), os.write(fd, b"\x0b"), os.lseek(fd, 0, 1)))
    on("append", lambda fd: (call(os.write, fd, b"x"), os.lseek(fd, 0, 1)), os.O_WRONLY | os.O_APPEND)
    on("write through O_RDONLY", lambda fd: os.write(fd, b"x"), os.O_RDONLY)
    on("read through O_WRONLY", lambda fd: os.read(fd, 1), os.O_WRONLY)
    on("O_TRUNC", lambda fd: os.fstat(fd).st_size, os.O_RDWR | os.O_TRUNC)


def _put(fd: int, offset: int, data: bytes) -> object:
    """Write, read back, put back: the count and the bytes that it then had."""
    before = os.pread(fd, len(data), offset)
    count = os.pwrite(fd, data, offset)
    after = os.pread(fd, len(data), offset)
    os.pwrite(fd, before, offset)
    return count, after


def bar(q: Probe) -> None:
    """resource0: no read or write, and the rules of mmap."""
    s = Subject(q)

    def on(what: str, f: Callable[[int], object], flags: int = os.O_RDWR) -> None:
        q.ask(what, lambda: s.on("resource0", f, flags))

    write_text(s.at("enable"), "1")
    on("read", lambda fd: os.read(fd, 4))
    on("read nothing", lambda fd: os.read(fd, 0))
    on("pread past the end", lambda fd: os.pread(fd, 4, MIB))
    on("write", lambda fd: os.write(fd, b"abcd"))
    on("write nothing", lambda fd: os.write(fd, b""))
    on("pwrite past the end", lambda fd: os.pwrite(fd, b"abcd", MIB))
    on("lseek to the end", lambda fd: os.lseek(fd, 0, 2))
    on("map a page and read the identification", lambda fd: _mapped(fd, lambda m: hex(struct.unpack("I", m[0:4])[0])))
    on("write the liveness register", lambda fd: _mapped(fd, _liveness))
    prot, shared = SHARED_RW
    cases = {
        "one page": (4096, prot, shared, 0),
        "one byte": (1, prot, shared, 0),
        "the whole BAR": (MIB, prot, shared, 0),
        "the whole BAR and a byte": (MIB + 1, prot, shared, 0),
        "twice the BAR": (2 * MIB, prot, shared, 0),
        "last page": (4096, prot, shared, MIB - 4096),
        "two pages at the last": (8192, prot, shared, MIB - 4096),
        "just past the end": (4096, prot, shared, MIB),
        "far past the end": (4096, prot, shared, 1 << 40),
        "unaligned offset": (4096, prot, shared, 100),
        "length 0": (0, prot, shared, 0),
        "read only": (4096, mmap.PROT_READ, shared, 0),
        "write only": (4096, mmap.PROT_WRITE, shared, 0),
        "no access": (4096, 0, shared, 0),
        "executable": (4096, mmap.PROT_READ | mmap.PROT_EXEC, shared, 0),
        "private": (4096, prot, mmap.MAP_PRIVATE, 0),
        "private, read only": (4096, mmap.PROT_READ, mmap.MAP_PRIVATE, 0),
        "neither shared nor private": (4096, prot, 0, 0),
    }
    for label, (length, access, flags, offset) in cases.items():
        q.ask(
            f"mmap {label}",
            lambda a=(length, access, flags, offset): s.on("resource0", lambda fd: q.raw_mmap(fd, *a), os.O_RDWR),
        )
    on("mmap writable of a read-only descriptor", lambda fd: q.raw_mmap(fd, 4096, prot, shared, 0), os.O_RDONLY)
    on("mmap private writable of it", lambda fd: q.raw_mmap(fd, 4096, prot, mmap.MAP_PRIVATE, 0), os.O_RDONLY)
    on("mmap readable of it", lambda fd: q.raw_mmap(fd, 4096, mmap.PROT_READ, shared, 0), os.O_RDONLY)
    on("mmap of a write-only descriptor", lambda fd: q.raw_mmap(fd, 4096, mmap.PROT_WRITE, shared, 0), os.O_WRONLY)
    write_text(s.at("driver_override"), "pci-stub")
    write_text(f"{DRIVER}/bind", s.addr)
    on("mmap with a driver bound", lambda fd: q.raw_mmap(fd, 4096, prot, shared, 0))
    s.release()
    write_text(s.at("enable"), "0")
    on("mmap of a disabled device", lambda fd: q.raw_mmap(fd, 4096, prot, shared, 0))


def _mapped(fd: int, f: Callable[[mmap.mmap], object]) -> object:
    with mmap.mmap(fd, 4096, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE) as m:
        return f(m)


def _liveness(m: mmap.mmap) -> str:
    """The register at 4 reads back the inverse of what was written."""
    m[4:8] = struct.pack("I", 0x12345678)
    return hex(struct.unpack("I", m[4:8])[0])


def removal(q: Probe) -> None:
    """remove under open descriptors, and rescan."""
    s = Subject(q)
    write_text(s.at("driver_override"), "pci-stub")
    write_text(f"{DRIVER}/bind", s.addr)
    files = {
        "vendor": os.open(s.at("vendor"), os.O_RDONLY),
        "driver_override": os.open(s.at("driver_override"), os.O_RDWR),
        "config": os.open(s.at("config"), os.O_RDWR),
        "resource0": os.open(s.at("resource0"), os.O_RDWR),
        "uevent": os.open(s.at("uevent"), os.O_WRONLY),
        "unbind": os.open(f"{DRIVER}/unbind", os.O_WRONLY),
        "directory": os.open(s.real, os.O_RDONLY),
        "path": os.open(s.at("vendor"), os.O_PATH),
    }
    half = os.open(s.at("device"), os.O_RDONLY)
    q.ask("half read before", os.read, half, 3)
    q.ask("remove", write_text, s.at("remove"), "1")
    q.ask("link exists", os.path.lexists, s.link)
    q.ask("directory exists", os.path.exists, s.real)
    q.ask("driver's link exists", os.path.lexists, f"{DRIVER}/{s.addr}")
    q.ask("the rest of a half read file", os.read, half, 10)
    os.close(half)
    for name, fd in files.items():
        q.ask(f"{name} read", os.read, fd, 4)
        q.ask(f"{name} pread", os.pread, fd, 4, 0)
        q.ask(f"{name} write", os.write, fd, b"1")
        q.ask(f"{name} lseek", os.lseek, fd, 0, 0)
        q.ask(f"{name} fstat size", lambda fd=fd: os.fstat(fd).st_size)
        q.ask(f"{name} fstat links", lambda fd=fd: os.fstat(fd).st_nlink)
        q.ask(f"{name} poll", _poll, fd)
        if name != "unbind":  # which is not gone: a mode would stay
            q.ask(f"{name} fchmod", os.fchmod, fd, 0o600)
        q.ask(f"{name} mmap", lambda fd=fd: q.raw_mmap(fd, 4096, mmap.PROT_READ, mmap.MAP_SHARED, 0))
    q.ask("directory listdir", os.listdir, files["directory"])
    q.ask("directory open below", lambda: os.open("vendor", os.O_RDONLY, dir_fd=files["directory"]))
    q.ask("directory stat of dot dot", lambda: os.stat("..", dir_fd=files["directory"]).st_nlink > 2)
    for fd in files.values():
        os.close(fd)
    q.ask("bind of what is gone", write_text, f"{DRIVER}/bind", s.addr)
    q.ask("rescan", write_text, f"{BUS}/rescan", "1")
    again = Subject(q)
    q.ask("back at the same place", lambda: again.real == s.real)
    q.ask(
        "back with", lambda: (again.driver(), again.read("driver_override"), again.read("enable"), again.read("vendor"))
    )
    q.ask("resource", read_text, again.at("resource"))
    for text in ("1\n", "5", "0x1"):
        q.ask(f"remove <- {text!r}", lambda text=text: (call(write_text, s.at("remove"), text), os.path.exists(s.real)))
        q.ask("rescan after it", lambda: (call(write_text, f"{BUS}/rescan", "1"), os.path.exists(s.real)))
    q.ask("remove by root's own descriptor twice", _remove_twice, s.at("remove"))
    q.ask("rescan of the root bus", lambda: (call(write_text, _bus_rescan(s), "1"), os.path.exists(s.real)))
    write_text(f"{BUS}/rescan", "1")
    q.ask("the bus device's files", lambda: sorted(os.listdir(os.path.dirname(_bus_rescan(s)))))


def _poll(fd: int) -> object:
    p = select.poll()
    p.register(fd, select.POLLIN | select.POLLOUT | select.POLLPRI)
    return [hex(bits) for _, bits in p.poll(0)]


def _remove_twice(path: str) -> object:
    with opened(path, os.O_WRONLY) as fd:
        return call(os.write, fd, b"1"), call(os.write, fd, b"1")


def _bus_rescan(s: Subject) -> str:
    return f"{os.path.dirname(s.real)}/pci_bus/{s.addr[:7]}/rescan"


PARTS = {
    "inventory": inventory,
    "attributes": attributes,
    "config space": config_space,
    "bar": bar,
    "removal": removal,
}
