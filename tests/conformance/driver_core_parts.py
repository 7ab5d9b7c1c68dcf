"""Questions on buses, drivers, devices, classes and modules: their directories, binding, dynamic ids, uevents."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterable

from probing import Probe, call, kind, opened, read_text, write_text
from subject import BUS, DRIVER, ID, OTHER, Subject

MODULE = "/sys/module/vfio_iommu_type1"
NULL = "/sys/class/mem/null"
NUMBERS = [
    "", "\n", " ", "0", "1", "1\n", "1\n\n", "+1", "-1", "0x2", "0X2", "02", "08", "1 ", " 1", "1x", "x", "1.5", "1,2",
    "true", "1\0", "1\0junk", "\xff", "4294967295", "4294967296", "9223372036854775808", "18446744073709551615",
    "18446744073709551616", "9" * 40, "65535",
]  # fmt: skip
BOOLS = [
    "", "\n", "0", "1", "1\n", "y", "n", "Y", "N", "t", "f", "T", "F", "on", "off", "ON", "oN", "o", "of", "2", "10",
    "01", "yes", "no", "true", "false", "enable", " 1", "-1", "1\n\n", "0\0", "N",
]  # fmt: skip
UEVENT_ACTIONS = [
    "add", "add\n", "remove", "change\n", "move", "online", "offline", "bind", "unbind", "junk", "", "\n", " add",
    "add ", "addx", "ad", "ADD", "change\n\n", "change\0",
    "change 12345678-1234-1234-1234-123456789abc", "change 12345678-1234-1234-1234-123456789abc\n",
    "change 12345678-1234-1234-1234-123456789abc KEY=val", "change 12345678-1234-1234-1234-123456789abc KEY=val B=2\n",
    "change 12345678-1234-1234-1234-123456789abc KEY=", "change 12345678-1234-1234-1234-123456789abc =val",
    "change 12345678-1234-1234-1234-123456789abc KEY", "change 12345678-1234-1234-1234-123456789abc K_Y=v",
    "change 12345678-1234-1234-1234-123456789abc KEY=v-v", "change 12345678-1234-1234-1234-123456789abc  KEY=v",
    "change 12345678-1234-1234-1234-123456789abc ", "change 12345678-1234-1234-1234-123456789ab",
    "change 12345678-1234-1234-1234-123456789abcd", "change 123456781234-1234-1234-123456789abc", "change x",
    "change 12345678-1234-1234-1234-123456789ABC", "change\t12345678-1234-1234-1234-123456789abc", "x" * 4096,
]  # fmt: skip


def describe(q: Probe, path: str, what: str, skip: Iterable[str] = (), hide: Iterable[str] = ()) -> None:
    """A directory's names but the hidden, and of each that is not skipped: type and mode, size, text or link text."""
    q.ask(f"{what} entries", lambda: sorted(set(os.listdir(path)) - set(hide)))
    for name in sorted(set(os.listdir(path)) - set(hide)):
        item = f"{path}/{name}"
        if name in skip:
            continue
        if os.path.islink(item):
            q.ask(f"{what}/{name}", lambda item=item: (kind(item), os.readlink(item)))
        elif os.path.isdir(item):
            q.ask(f"{what}/{name}", kind, item)
        else:
            q.ask(f"{what}/{name}", lambda item=item: (kind(item), os.stat(item).st_size, call(read_text, item)))


def buses(q: Probe) -> None:
    """The PCI bus's directory, a plain bus's, the drivers' directories."""
    s = Subject(q)
    describe(q, BUS, "bus/pci")
    q.ask("bus/pci/resource_alignment stores", lambda: call(write_text, f"{BUS}/resource_alignment", "\n"))
    q.ask("bus/pci/devices entry", lambda: (kind(s.link), os.readlink(s.link)))
    q.ask("bus/pci/devices has only links", lambda: {kind(f"{BUS}/devices/{n}") for n in os.listdir(f"{BUS}/devices")})
    q.ask(
        "bus/pci/drivers has only directories",
        lambda: {kind(f"{BUS}/drivers/{n}") for n in os.listdir(f"{BUS}/drivers")},
    )
    describe(q, "/sys/bus/platform", "bus/platform")
    describe(q, "/sys/bus/auxiliary", "bus/auxiliary")
    describe(q, DRIVER, "pci-stub")
    describe(q, OTHER, "vfio-pci")
    q.ask("top", lambda: sorted(set(os.listdir("/sys")) - {"hypervisor"}))
    q.ask("sys/dev", lambda: sorted(os.listdir("/sys/dev")))
    for path in (
        "/sys",
        "/sys/bus",
        "/sys/class",
        "/sys/devices",
        "/sys/module",
        "/sys/dev/char",
        f"{BUS}/drivers",
        f"{BUS}/devices",
    ):
        q.ask(f"kind of {path}", kind, path)
    q.ask("sys/class has only directories of", lambda: {kind(f"/sys/class/{n}") for n in os.listdir("/sys/class")})
    for name in ("drivers_autoprobe",):
        q.stores(f"{BUS}/{name}", ["0", "1", "0\n", "2", "x", "", "\n", "00", "10", "1\n"])
    for text in ("add", "add\n", "junk", "", "change 12345678-1234-1234-1234-123456789abc A=b"):
        q.ask(f"bus uevent <- {text!r}", write_text, f"{BUS}/uevent", text)
        q.ask(f"driver uevent <- {text!r}", write_text, f"{DRIVER}/uevent", text)


def driver_override(q: Probe) -> None:
    """What driver_override takes and shows."""
    s = Subject(q)
    path = s.at("driver_override")
    q.ask("at boot", read_text, path)
    q.stores(
        path,
        [
            *("a", "a\n", "a\n\n", "\n", "b c", " d ", "\n", "x\ny", "x\ny\n", "\nz"),
            *("\n", "n\0m", "\0", "k", "", "q", "\t", "/", "\xe9", "\n"),
        ],
    )
    for size in (1, 255, 4094, 4095, 4096, 4097):
        q.ask(f"{size} letters", lambda size=size: (s.on_rw(size), len(read_text(path))))
        q.ask(
            f"{size} letters and a newline",
            lambda size=size: (call(write_text, path, "p" * size + "\n"), len(read_text(path))),
        )
    s.clear()
    q.ask("override to a driver that exists, does it bind", lambda: s.then(path, "pci-stub"))
    q.ask("drivers_probe", lambda: s.then(f"{BUS}/drivers_probe", s.addr))
    q.ask("clear while bound", lambda: (s.clear(), s.driver(), read_text(path)))
    q.ask("unbind", lambda: s.then(f"{DRIVER}/unbind", s.addr))
    q.ask(
        "override to nothing that exists",
        lambda: (write_text(path, "nothing"), call(write_text, f"{DRIVER}/bind", s.addr)),
    )
    q.ask("with a matching dynamic id", lambda: s.then(f"{DRIVER}/new_id", ID))
    q.ask("bind by hand", lambda: s.then(f"{DRIVER}/bind", s.addr))
    q.ask("cleared: bind", lambda: (s.clear(), s.then(f"{DRIVER}/bind", s.addr)))
    s.release()
    q.ask(
        "prefix of a driver's name", lambda: (write_text(path, "pci-stu"), call(write_text, f"{DRIVER}/bind", s.addr))
    )
    q.ask(
        "driver's name and a newline",
        lambda: (write_text(path, "pci-stub\n"), call(write_text, f"{DRIVER}/bind", s.addr)),
    )
    q.ask("the override in the uevent file", lambda: "DRIVER=pci-stub\n" in read_text(s.at("uevent")))
    s.release()
    q.ask("after all", lambda: (s.driver(), read_text(path)))


def binding(q: Probe) -> None:
    """bind and unbind: which names, which drivers, in which state."""
    s = Subject(q)
    bind, unbind = f"{DRIVER}/bind", f"{DRIVER}/unbind"
    odd_names = {
        "unknown": "0000:ff:1f.7",
        "word": "nonsense",
        "empty": "",
        "newline": "\n",
        "name and newline": s.addr + "\n",
        "name and two newlines": s.addr + "\n\n",
        "name and a space": s.addr + " ",
        "space and name": " " + s.addr,
        "name and NUL": s.addr + "\0",
        "name, NUL, junk": s.addr + "\0junk",
        "short address": s.addr[5:],
        "name and slash": s.addr + "/",
        "path": s.link,
        "upper case": s.addr.upper() + "X",
        "two names": f"{s.addr} {s.addr}",
        "prefix": s.addr[:-1],
        "4096 letters": "a" * 4096,
        "5000 letters": "a" * 5000,
    }
    for label, text in odd_names.items():
        q.ask(f"no id: bind {label}", lambda text=text: s.then(bind, text))
        q.ask(f"unbound: unbind {label}", lambda text=text: s.then(unbind, text))
    q.ask("unbound: bind without an id", lambda: s.then(bind, s.addr))
    q.ask("unbound: unbind", lambda: s.then(unbind, s.addr))
    write_text(s.at("driver_override"), "pci-stub")
    for label, text in odd_names.items():
        answer = call(write_text, bind, text), s.driver()
        q.say(f"override: bind {label}", answer)
        if s.driver():
            write_text(unbind, s.addr)
    q.ask("bind", lambda: s.then(bind, s.addr))
    q.ask("bind again", lambda: s.then(bind, s.addr))
    q.ask("bind another driver", lambda: s.then(f"{OTHER}/bind", s.addr))
    q.ask("unbind from another driver", lambda: s.then(f"{OTHER}/unbind", s.addr))
    describe(q, DRIVER, "bound driver")
    q.ask("driver link of the device", lambda: (kind(s.at("driver")), os.readlink(s.at("driver"))))
    q.ask(
        "device entries that binding adds",
        lambda: sorted(set(os.listdir(s.real)) & {"driver", "power", "driver_override"}),
    )
    q.ask("uevent file", read_text, s.at("uevent"))
    q.ask("enable", read_text, s.at("enable"))
    for label, text in odd_names.items():
        answer = call(write_text, unbind, text), s.driver()
        q.say(f"bound: unbind {label}", answer)
        if not s.driver():
            write_text(bind, s.addr)
    q.ask("unbind through the device's driver link", lambda: s.then(s.at("driver/unbind"), s.addr))
    q.ask("driver link gone", lambda: call(os.readlink, s.at("driver")))
    q.ask("driver's link gone", lambda: call(os.readlink, f"{DRIVER}/{s.addr}"))
    q.ask("pwrite of a name at 5", lambda: (call(_pwrite, bind, s.addr.encode(), 5), s.driver()))
    q.ask("name in two writes", lambda: (_two_writes(bind, s.addr), s.driver()))
    s.release()
    q.ask(
        "override to vfio-pci, bind it",
        lambda: (
            write_text(s.at("driver_override"), "vfio-pci"),
            call(write_text, f"{OTHER}/bind", s.addr),
            s.driver(),
        ),
    )
    q.ask("bind pci-stub then", lambda: s.then(bind, s.addr))
    q.ask("unbind vfio-pci", lambda: s.then(f"{OTHER}/unbind", s.addr))
    q.ask("bind pci-stub against the override", lambda: s.then(bind, s.addr))
    s.release()


def _pwrite(path: str, data: bytes, offset: int) -> int:
    with opened(path, os.O_WRONLY) as fd:
        return os.pwrite(fd, data, offset)


def _two_writes(path: str, text: str) -> object:
    with opened(path, os.O_WRONLY) as fd:
        return call(os.write, fd, text[:5].encode()), call(os.write, fd, text[5:].encode())


def dynamic_ids(q: Probe) -> None:
    """new_id and remove_id: their fields and when the device binds."""
    s = Subject(q)

    def new(text: str) -> object:
        return call(write_text, f"{DRIVER}/new_id", text), s.driver()

    def remove(text: str) -> object:
        return call(write_text, f"{DRIVER}/remove_id", text), s.driver()

    for text in ("", "\n", "x", "12", "1234", "abcd", "abcd x", "x abcd", " ", "-", "0x", "abcd\n"):
        q.say(f"new_id <- {text!r}", new(text))
        q.say(f"remove_id <- {text!r}", remove(text))
    for text in (
        "abcd 1", "abcd 1", "abcd 1\n", "ABCD 1", "0xabcd 0x1", "abcd 1 ffffffff", "abcd 1 0", "abcd 1 0 0",
        "abcd 1 1af4 1100", "abcd 2 ffffffff ffffffff", "abcd 3 ffffffff ffffffff 0", "abcd 4 ffffffff ffffffff 0 0",
        "abcd 5 ffffffff ffffffff 0 0 0", "abcd 6 ffffffff ffffffff 0 0 0 7",
        "abcd 7 ffffffff ffffffff ff0000 ffffff 1",
        "abcd 8 x", "abcd 9junk", "  abcd   a  ", "abcd\tb", "abcd\nc", "12345 1", "123456789 1", "ffffffff ffffffff",
        "abcd d 0 0 0 0 zz",
    ):  # fmt: skip
        q.say(f"new_id <- {text!r}", new(text))
    for text in (
        "abcd 1", "abcd 1", "abcd 1 0 0", "abcd 1 1af4 1100", "abcd 2 0 0", "abcd 2", "abcd 3 ffffffff ffffffff 0 0",
        "abcd 4", "abcd 5 ffffffff ffffffff 0 0 0", "abcd 6", "abcd 7 ffffffff ffffffff ff0000 ffffff", "abcd 7",
        "abcd 8", "abcd 9", "abcd a", "abcd b", "abcd c", "abcd d", "12345 1", "123456789 1", "23456789 1",
        "ffffffff ffffffff", "1", "x", "",
    ):  # fmt: skip
        q.say(f"remove_id <- {text!r}", remove(text))
    q.say("new_id of the device", new(ID))
    q.say("new_id again, bound", new(ID))
    q.say("new_id on another driver, bound", s.then(f"{OTHER}/new_id", ID))
    q.say("remove_id there", call(write_text, f"{OTHER}/remove_id", ID))
    q.say("remove_id, bound", remove(ID))
    q.say("unbind", s.then(f"{DRIVER}/unbind", s.addr))
    q.say("bind without the id", s.then(f"{DRIVER}/bind", s.addr))
    q.say("new_id with other subsystem ids", new(ID + " 1 1"))
    q.say("remove it", remove(ID + " 1 1"))
    q.say("new_id with the device's subsystem ids", new(ID + " 1af4 1100"))
    s.release()
    remove(ID + " 1af4 1100")
    q.say("new_id with another class", new(ID + " ffffffff ffffffff 020000 ffff00"))
    q.say("remove it", remove(ID + " ffffffff ffffffff 020000 ffff00"))
    q.say("new_id with the class", new(ID + " ffffffff ffffffff 00ff00 ffffff"))
    q.say("unbind", s.then(f"{DRIVER}/unbind", s.addr))
    q.say("bind by the id", s.then(f"{DRIVER}/bind", s.addr))
    s.release()
    remove(ID + " ffffffff ffffffff 00ff00 ffffff")
    q.say("any vendor", new("ffffffff 11e8"))
    s.release()
    q.say("remove it", remove("ffffffff 11e8"))
    q.say("after all", (s.driver(), s.read("driver_override")))


def probing_devices(q: Probe) -> None:
    """drivers_probe and drivers_autoprobe."""
    s = Subject(q)
    for label, text in {
        "the device, no driver matches": s.addr,
        "the device and a newline": s.addr + "\n",
        "unknown": "0000:ff:1f.7",
        "word": "nonsense",
        "empty": "",
        "newline": "\n",
        "name and a space": s.addr + " ",
        "name and slash": s.addr + "/",
    }.items():
        q.ask(f"drivers_probe <- {label}", lambda text=text: s.then(f"{BUS}/drivers_probe", text))
    q.ask(
        "override and probe",
        lambda: (
            write_text(s.at("driver_override"), "pci-stub"),
            call(write_text, f"{BUS}/drivers_probe", s.addr),
            s.driver(),
        ),
    )
    q.ask("probe while bound", lambda: s.then(f"{BUS}/drivers_probe", s.addr))
    q.ask(
        "probe while bound with a newline",
        lambda: s.then(f"{BUS}/drivers_probe", s.addr + "\n"),
    )
    s.release()
    write_text(f"{BUS}/drivers_autoprobe", "0")
    q.ask("autoprobe off: new_id", lambda: s.then(f"{DRIVER}/new_id", ID))
    q.ask("autoprobe off: drivers_probe", lambda: s.then(f"{BUS}/drivers_probe", s.addr))
    s.release()
    q.ask("autoprobe off: new_id again", lambda: s.then(f"{DRIVER}/new_id", ID))
    q.ask("autoprobe off: bind", lambda: s.then(f"{DRIVER}/bind", s.addr))
    s.release()
    write_text(f"{BUS}/drivers_autoprobe", "1")
    q.ask("autoprobe on: new_id", lambda: s.then(f"{DRIVER}/new_id", ID))
    s.release()
    q.ask("autoprobe", read_text, f"{BUS}/drivers_autoprobe")


def device_uevents(q: Probe) -> None:
    """Stores to uevent, and what the file shows."""
    s = Subject(q)
    q.ask("read", read_text, s.at("uevent"))
    for text in UEVENT_ACTIONS:
        shown = repr(text) if len(text) < 100 else f"{text[0]!r}*{len(text)}"
        q.ask(f"device uevent <- {shown}", write_text, s.at("uevent"), text)
        q.ask(f"class device uevent <- {shown}", write_text, f"{NULL}/uevent", text)
        q.ask(f"module uevent <- {shown}", write_text, f"{MODULE}/uevent", text)
    q.ask("two writes, one descriptor", lambda: _two_writes(s.at("uevent"), "add  remove"))


def netlink(q: Probe) -> None:
    """The messages on the kernel's uevent socket (needs AF_NETLINK)."""
    s = Subject(q)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK, 15) as sock:
        sock.bind((0, 1))

        def messages() -> list[list[str]]:
            out: list[list[str]] = []
            while True:
                try:
                    fields = sock.recv(16384).decode("latin-1").rstrip("\0").split("\0")
                except BlockingIOError:
                    return out
                out.append([re.sub(r"^SEQNUM=\d+$", "SEQNUM=N", f) for f in fields])

        def heard(what: str, path: str, text: str) -> None:
            messages()
            result = call(write_text, path, text)
            q.say(what, result)
            about = [m for m in messages() if "/wakeup/" not in m[0]]  # without ACPI's wakeup source
            for number, message in enumerate(about):
                q.say(f"{what}: message {number}", message)

        for text in ("add", "change\n", "junk", UEVENT_ACTIONS[22]):
            heard(f"uevent <- {text!r}", s.at("uevent"), text)
        heard("class device uevent", f"{NULL}/uevent", "change")
        heard("bus uevent", f"{BUS}/uevent", "change")
        heard("driver uevent", f"{DRIVER}/uevent", "change")
        heard("module uevent", f"{MODULE}/uevent", "change")
        write_text(s.at("driver_override"), "pci-stub")
        heard("bind", f"{DRIVER}/bind", s.addr)
        heard("uevent of the bound device", s.at("uevent"), "change")
        heard("unbind", f"{DRIVER}/unbind", s.addr)
        s.release()
        heard("remove", s.at("remove"), "1")
        heard("rescan", f"{BUS}/rescan", "1")


def power(q: Probe) -> None:
    """The power directory of a PCI device and of a class device."""
    s = Subject(q)
    describe(q, s.at("power"), "power", skip=("runtime_active_time", "runtime_suspended_time"))
    describe(q, f"{NULL}/power", "null power", skip=("runtime_active_time", "runtime_suspended_time"))
    q.stores(
        s.at("power/control"), ["auto", "on", "auto\n", "on\n", "", "\n", "x", "on ", "On", "onx", "on\0", "on\n\n"]
    )
    q.stores(s.at("power/wakeup"), ["enabled", "disabled", "x"])
    q.stores(s.at("power/autosuspend_delay_ms"), ["10", "x", "-1"])


def class_device(q: Probe) -> None:
    """A class device without hardware: /dev/null's."""
    q.words = []
    describe(q, os.path.realpath(NULL), "null")
    q.ask("class link", lambda: (kind(NULL), os.readlink(NULL)))
    q.ask("dev/char link", lambda: (kind("/sys/dev/char/1:3"), os.readlink("/sys/dev/char/1:3")))
    q.ask("class directory", lambda: (kind("/sys/class/mem"), sorted(os.listdir("/sys/class/mem"))))
    q.ask("virtual directory", lambda: (kind("/sys/devices/virtual"), kind("/sys/devices/virtual/mem")))
    q.ask(
        "node",
        lambda: (kind("/dev/null"), os.major(os.stat("/dev/null").st_rdev), os.minor(os.stat("/dev/null").st_rdev)),
    )
    q.ask("no driver", os.readlink, f"{NULL}/driver")


def modules(q: Probe) -> None:
    """A loaded module's directory, and stores to bool and uint parameters."""
    skip = ("coresize", "notes", "sections", "srcversion", "version", "vermagic")
    describe(q, MODULE, "module", skip)
    for name in ("coresize", "initsize", "srcversion"):
        q.ask(f"module {name}", lambda name=name: (kind(f"{MODULE}/{name}"), os.stat(f"{MODULE}/{name}").st_size))
    q.ask("coresize is a number", lambda: read_text(f"{MODULE}/coresize").rstrip("\n").isdigit())
    q.ask("srcversion's form", lambda: bool(re.fullmatch(r"[0-9A-F]{23}\n", read_text(f"{MODULE}/srcversion"))))
    q.ask("sections' modes", lambda: {kind(f"{MODULE}/sections/{n}") for n in os.listdir(f"{MODULE}/sections")})
    q.ask("notes' modes", lambda: {kind(f"{MODULE}/notes/{n}") for n in os.listdir(f"{MODULE}/notes")})
    describe(q, f"{MODULE}/parameters", "parameters")
    describe(q, "/sys/module/vfio_pci", "vfio_pci", skip)
    describe(q, "/sys/module/vfio_pci/parameters", "vfio_pci parameters")
    describe(q, "/sys/module/vfio_pci/drivers", "vfio_pci drivers")
    describe(q, "/sys/module/vfio_pci/holders", "vfio_pci holders")
    describe(q, "/sys/module/vfio/holders", "vfio holders")
    describe(q, "/sys/module/pci_stub", "pci_stub", skip)
    q.stores(f"{MODULE}/parameters/allow_unsafe_interrupts", BOOLS)
    q.stores(f"{MODULE}/parameters/dma_entry_limit", NUMBERS)
    q.stores("/sys/module/vfio_pci/parameters/disable_idle_d3", ["1", "0"])
    q.ask("write a read-only parameter", write_text, "/sys/module/vfio_pci/parameters/disable_vga", "1")
    q.ask("write refcnt", write_text, f"{MODULE}/refcnt", "1")
    q.ask(
        "pwrite of a parameter at 3",
        lambda: (
            _pwrite(f"{MODULE}/parameters/allow_unsafe_interrupts", b"1", 3),
            read_text(f"{MODULE}/parameters/allow_unsafe_interrupts"),
        ),
    )
    q.ask("write 4096 bytes", write_text, f"{MODULE}/parameters/allow_unsafe_interrupts", "1" + " " * 4095)
    q.ask("write 4097 bytes", write_text, f"{MODULE}/parameters/allow_unsafe_interrupts", "1" + " " * 4096)
    write_text(f"{MODULE}/parameters/allow_unsafe_interrupts", "N")
    s = Subject(q)
    q.ask("refcnt of a driver's module, unbound", read_text, "/sys/module/pci_stub/refcnt")
    write_text(s.at("driver_override"), "pci-stub")
    write_text(f"{DRIVER}/bind", s.addr)
    q.ask("refcnt, bound", read_text, "/sys/module/pci_stub/refcnt")
    s.release()
    q.ask("rmdir of a module", os.rmdir, MODULE)


def messages(q: Probe) -> None:
    """The kernel log's lines (needs /dev/kmsg)."""
    s = Subject(q)
    with opened("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK) as fd:
        os.lseek(fd, 0, os.SEEK_END)

        def lines() -> list[str]:
            out: list[str] = []
            while isinstance(record := call(os.read, fd, 8192), bytes):
                head, _, text = record.decode("latin-1").partition(";")
                out.append(f"<{int(head.split(',')[0]) & 7}> {text.splitlines()[0]}")
            return [line for line in out if re.search(rf"{s.addr}|pci-stub|vfio|synth|Attempt", line)]

        def told(what: str, path: str, text: str) -> None:
            lines()
            q.say(what, (call(write_text, path, text), lines()))

        told("uevent junk", s.at("uevent"), "junk")
        told("uevent empty", s.at("uevent"), "\n")
        told("uevent with bad uuid", s.at("uevent"), "change x")
        told("uevent with bad variable", s.at("uevent"), "change 12345678-1234-1234-1234-123456789abc KEY")
        told("bind unknown", f"{DRIVER}/bind", "nonsense")
        told("numa_node", s.at("numa_node"), "0")
        told("numa_node", s.at("numa_node"), "-1")
        told("override", s.at("driver_override"), "pci-stub")
        told("bind", f"{DRIVER}/bind", s.addr)
        told("unbind", f"{DRIVER}/unbind", s.addr)
        told("override", s.at("driver_override"), "vfio-pci")
        told("bind vfio-pci", f"{OTHER}/bind", s.addr)
        told("unbind vfio-pci", f"{OTHER}/unbind", s.addr)
        s.release()
        told("enable", s.at("enable"), "1")
        told("disable", s.at("enable"), "0")
        told("remove", s.at("remove"), "1")


def rescan_after_messages(q: Probe) -> None:
    """Bring the device back."""
    q.ask("rescan", write_text, f"{BUS}/rescan", "1")
    s = Subject(q)
    q.ask("back", lambda: (s.driver(), s.read("driver_override"), s.read("enable")))


PARTS = {
    "buses": buses,
    "driver_override": driver_override,
    "binding": binding,
    "dynamic ids": dynamic_ids,
    "probing": probing_devices,
    "uevents": device_uevents,
    "power": power,
    "class device": class_device,
    "modules": modules,
    "netlink": netlink,
    "messages": messages,
    "rescan after messages": rescan_after_messages,
}
