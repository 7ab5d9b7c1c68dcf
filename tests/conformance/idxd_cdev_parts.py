"""Questions on the character device, on errors and halts of the hardware, and on unbinding the PCI function."""

from __future__ import annotations

import fcntl
import mmap
import os
import select
import stat
from collections.abc import Callable

from idxd_bind_parts import store_while_enabled
from idxd_device import DEVICES, Idxd, read, write
from probing import call

SHARED, RW = mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE
MAPPINGS: dict[str, tuple[int, int, int, int]] = {
    "shared": (4096, SHARED, RW, 0),
    "private": (4096, mmap.MAP_PRIVATE, RW, 0),
    "two pages": (8192, SHARED, RW, 0),
    "offset": (4096, SHARED, RW, 4096),
    "write only": (4096, SHARED, mmap.PROT_WRITE, 0),
    "read only": (4096, SHARED, mmap.PROT_READ, 0),
}


def map_portal(fd: int, length: int = 4096, flags: int = SHARED, prot: int = RW, offset: int = 0) -> str:
    """ "mmap", or raises."""
    return type(mmap.mmap(fd, length, flags, prot, offset=offset)).__name__


def one_user_queue(d: Idxd) -> None:
    """Queue 0 as a dedicated user queue, bound."""
    d.clean()
    d.setup(d.wq + "0")
    d.quiet(d.engine + "0", "group_id", "0")
    d.bind(d.device, "idxd")
    d.bind(d.wq + "0", "user")


def character_device(d: Idxd) -> None:
    """open, read, write, mmap and poll, in the opener, in a child and without privilege."""
    d.allow_sva()
    one_user_queue(d)
    fd = d.ask("open", os.open, d.node(d.wq + "0"), os.O_RDWR)
    if isinstance(fd, int):
        _with_client(d, d.wq + "0", fd)
    d.clean()


def _with_client(d: Idxd, w: str, fd: int) -> None:
    d.ask_read("clients", w, "clients")
    d.ask_read("device clients", d.device, "clients")
    _client_directory(d, w)
    d.ask("open dedicated twice", os.open, d.node(w), os.O_RDWR)
    _calls_on_descriptor(d, fd)
    poll = select.poll()
    poll.register(fd, select.POLLIN | select.POLLOUT)
    d.ask("poll", poll.poll, 0)
    for what, mapping in MAPPINGS.items():
        d.ask(f"mmap {what}", map_portal, fd, *mapping)
    d.ask("child mmap", d.child, lambda: map_portal(fd))
    d.ask("child write", d.child, lambda: os.write(fd, bytes(32)))
    d.ask("child poll", d.child, lambda: poll.poll(0))
    d.ask("child open", d.child, lambda: os.open(d.node(w), os.O_RDWR) > 0)
    d.ask("unbind with a client", lambda: (d.unbind(w, "user"), d.read(w, "clients")))
    d.ask("write after unbind", os.write, fd, bytes(32))
    d.ask("mmap after unbind", map_portal, fd)
    os.close(fd)
    d.ask_read("clients after close", w, "clients")
    _without_privilege(d, w)
    _shared_clients(d, w)


def _client_directory(d: Idxd, w: str) -> None:
    cdev = d.cdev(w)
    d.ask("cdev entries", lambda: sorted(os.listdir(d.path(w, cdev))))
    file = next((e for e in os.listdir(d.path(w, cdev)) if e.startswith("file")), None)
    if file is None:
        return
    directory = d.path(w, f"{cdev}/{file}")
    for attribute in sorted(os.listdir(directory)):
        if os.path.isfile(f"{directory}/{attribute}"):
            d.ask(f"file attr {attribute}", _client_attribute, directory, attribute)


def _client_attribute(directory: str, attribute: str) -> object:
    text: object = read(f"{directory}/{attribute}")
    if attribute == "pid":
        text = text == f"{os.getpid()}\n"
    return text, oct(stat.S_IMODE(os.stat(f"{directory}/{attribute}").st_mode))


def _calls_on_descriptor(d: Idxd, fd: int) -> None:
    d.ask("read", os.read, fd, 4)
    d.ask("write 64 zero bytes short (32)", os.write, fd, bytes(32))
    d.ask("write 0", os.write, fd, b"")
    d.ask("lseek", os.lseek, fd, 5, 0)
    d.ask("ioctl", lambda: fcntl.ioctl(fd, 0x1234, 0))
    descriptor = bytearray(64)
    descriptor[8] = 1
    d.ask("write misaligned completion", os.write, fd, bytes(descriptor))
    # A batch is refused on version 1 only; where it is accepted it would run.
    if d.kind == "dsa" and d.read(d.device, "version") == "0x100\n":
        descriptor = bytearray(64)
        descriptor[7] = 1
        d.ask("write batch", os.write, fd, bytes(descriptor))


def _without_privilege(d: Idxd, w: str) -> None:
    def nobody() -> str:
        os.setgid(0)
        os.chmod(d.node(w), 0o666)
        os.setuid(65534)
        return map_portal(os.open(d.node(w), os.O_RDWR))

    d.setup(w, size=None)
    d.bind(w, "user")
    d.ask("mmap without CAP_SYS_RAWIO", d.child, nobody)
    os.close(os.open(d.node(w), os.O_RDWR))
    d.settle()
    d.ask_read("clients after close", w, "clients")
    d.unbind(w, "user")


def _shared_clients(d: Idxd, w: str) -> None:
    d.setup(w, size=None, mode="shared", threshold="8")
    d.bind(w, "user", "shared: ")
    one, two = os.open(d.node(w), os.O_RDWR), os.open(d.node(w), os.O_RDWR)
    d.ask_read("shared clients", w, "clients")
    d.ask("shared files", lambda: sorted(e for e in os.listdir(d.path(w, d.cdev(w))) if e.startswith("file")))
    os.close(one)
    d.settle()
    d.ask_read("one closed", w, "clients")
    os.close(two)
    d.settle()
    d.ask_read("both closed", w, "clients")
    d.ask("messages", d.messages)


def errors(d: Idxd) -> None:
    """Software errors (SWERR), the occupancy register, unknown interrupt causes."""
    one_user_queue(d)
    d.messages()
    d.poke(1, [0x0300_1009 | 0x10 << 8, 0x1, 0xDEAD_BEEF_0000, 0x1234])
    d.ask_read("errors", d.device, "errors")
    d.ask("messages", d.messages)
    d.poke(1, [0x8000_1201, 0, 0, 0])
    d.ask_read("errors", d.device, "errors")
    d.ask("messages", d.messages)
    d.ask("cmd_status", d.status)
    d.poke(4 | 0 << 8 | 7 << 16)
    d.ask_read("occupancy", d.wq + "0", "occupancy")
    d.poke(5 | 1 << 6 << 32)
    d.ask("unknown cause", d.messages)
    d.poke(5 | 4 << 32)
    d.ask("occupancy cause", d.messages)
    d.clean()


def halt(reset: int) -> Callable[[Idxd], None]:
    """The device halts and asks for the reset of that kind (GENSTS: 0 software, 1 FLR, 2 warm, 3 cold)."""

    def part(d: Idxd) -> None:
        w = d.wq + "0"
        one_user_queue(d)
        d.messages()
        d.poke(2 | reset << 8)
        d.settle()
        d.ask("states", lambda: (*d.status(), d.read(w, "state")))
        d.ask("messages", d.messages)
        for name in (w, d.group + "0", d.engine + "0"):
            d.dump(name, "halted ")
        d.bind(w, "user", "halted: ")
        store_while_enabled(d, "halted: ", [w])
        d.unbind(w, "user", "halted: ")
        d.unbind(d.device, "idxd", "halted: ")
        d.ask("states", d.status)
        d.bind(d.device, "idxd", "halted: ")
        d.ask("states", d.status)
        d.poke(7)
        d.setup(w)
        d.quiet(d.engine + "0", "group_id", "0")
        d.bind(d.device, "idxd", "hardware well again: ")
        d.ask("states", d.status)

    return part


def module(d: Idxd) -> None:
    """The PCI function unbound and bound again, with a queue enabled when the part runs alone."""
    if d.alone:
        d.clean()
        d.setup(d.wq + "0")
        call(write, d.path(d.engine + "0", "group_id"), "0")
        d.bind(d.device, "idxd")
        d.bind(d.wq + "0", "user")
    d.messages()
    d.ask("pci unbind", write, "/sys/bus/pci/drivers/idxd/unbind", d.pci)
    d.ask("devices left", os.listdir, DEVICES)
    d.ask("messages", d.messages)
    d.ask("pci bind", write, "/sys/bus/pci/drivers/idxd/bind", d.pci)
    d.ask("devices", lambda: len(os.listdir(DEVICES)))
    d.ask("names", lambda: [n for n in sorted(os.listdir(DEVICES)) if n[0] in "di"])
    d.ask("messages", d.messages)


PARTS = {
    "cdev": character_device,
    "errors": errors,
    "halt software": halt(0),
    "halt flr": halt(1),
    "halt warm": halt(2),
    "halt cold": halt(3),
    "module": module,
}
