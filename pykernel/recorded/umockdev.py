"""
Dumps of umockdev-record(1): paragraphs of lines with a tag, one for each device.

P: its path below /sys, E: a property, A: an attribute as text with C's escapes, H: one in hexadecimal digits, L: a
symbolic link, N: its node below /dev with what can be read from it, S: a link to the node. As under umockdev-run the
properties are the text of ``uevent``, udev's own among them, and /sys has what is in the dump and nothing else.
"""

from __future__ import annotations

import re

from pykernel.base.static import Attr, DevNode, Dir
from pykernel.recorded import Recorded
from pykernel.recorded.check import (
    device_problem,
    devname_problem,
    link_problem,
    name_problem,
    path_problem,
    shown,
    to_kernel,
)

__all__ = ["BUSES", "DumpError", "read"]

# every "struct bus_type" that a dump may name as SUBSYSTEM: all else is a class
BUSES = frozenset(
    """
    ac97 ac97bus acpi amba ap auxiliary bcma ccw ccwgroup cdx clockevents clocksource container coreboot counter
    cpu css cxl dax dfl dio dsa edac eisa event_source faux firewire fsi fsl-mc gameport genpd gio gpio greybus
    hdaudio hid host1x hsi i2c i3c ide iio intel_th intel_vsec ipack isa ishtp iucv locomo logicmodule lxb macio
    maple matrix mcb mdev mdio_bus media mei memory memory_tiering memstick mhi mhi_ep mipi-dsi mmc mmc_rpmb
    moxtet most nd ndbus node ntb ntb_transport nubus nvmem of of_platform optee parisc parport pci pci-epf
    pci_express pcmcia peci platform pnp pps_gen ps3_system_bus rapidio rbd rmi4 rpmsg sa1111-rab scm
    scmi_protocol scom scsi sdio serial serial-base serio siox slimbus snd_seq soc soundwire spi spmi ssb
    superhyway surface_aggregator tc tee thunderbolt tiocx typec typec_mux uio ulpi umc usb usb-serial vdpa vio
    virtio visorbus vlynq vmbus vme w1 wmi wmi_bus workqueue xen xen-backend zio zorro
    """.split()  # noqa: SIM905 - a list of a hundred rows says no more
)
LINE = re.compile(r"([PESN]|[AHL]): (.*)")
ESCAPE = re.compile(r"\\(?:([0-7]{1,3})|(.))", re.DOTALL)
ESCAPES = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}


class DumpError(ValueError):
    """What is wrong in *line* of a dump."""

    def __init__(self, line: int, why: str) -> None:
        super().__init__(why)
        self.line = line


class _Device:
    """One paragraph."""

    def __init__(self, path: str, line: int) -> None:
        self.path, self.line = path, line
        self.properties: list[tuple[str, str]] = []
        self.spec = Dir(line=line)
        self.node = ""

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]

    def property(self, key: str) -> str:
        return next((v for k, v in self.properties if k == key), "")


def read(text: str, source: str) -> Recorded:
    """
    The machine that a dump describes.

    Raises:
        DumpError: what is wrong, and in which line.
    """
    tree = Dir()
    device: _Device | None = None
    for n, row in enumerate([*to_kernel(text).split("\n"), ""], 1):
        row = row.removesuffix("\r")
        if not row:
            if device is not None:
                _add(tree, device)
            device = None
            continue
        tag, value = _split(n, row)
        if (tag == "P") != (device is None):
            raise DumpError(n, "P: a device has one path" if device else 'a device begins with "P: /devices/..."')
        if device is None:
            device = _Device(_path(n, value), n)
        else:
            _line(device, n, tag, value)
    return Recorded(tree, root=True, source=source, writes=0)


def _split(n: int, row: str) -> tuple[str, str]:
    m = LINE.fullmatch(row)
    if m is None:
        raise DumpError(n, f"{shown(row[:40])!r} is no line like 'A: vendor=0x8086\\n' of a umockdev dump")
    return m[1], m[2]


def _path(n: int, value: str) -> str:
    why = path_problem(f"/sys{value}") or name_problem(value[1:])
    if not value.startswith("/devices/") or why.endswith("is no name"):
        why = f"{shown(value)!r} is no path like /devices/pci0000:00"
    if why:
        raise DumpError(n, f"P: {why}")
    return value


def _line(device: _Device, n: int, tag: str, value: str) -> None:
    key, has, rest = value.partition("=")
    if tag in "EAHL" and (not key or not has):
        raise DumpError(n, f"{tag}: needs a name, = and a value")
    why = _problem(device, tag, key, rest)
    if why:
        raise DumpError(n, f"{tag}: {why} of a file" if why.endswith("is no name") else f"{tag}: {why}")
    if tag == "E":
        if key == "SUBSYSTEM" and device.property(key):
            raise DumpError(n, "E: SUBSYSTEM is given twice")
        if key != "__DEVCONTEXT":  # SELinux
            device.properties.append((key, rest))
    elif tag in "AH":
        above, _, name = key.rpartition("/")
        data = _hex(n, rest) if tag == "H" else unescape(rest)
        # a dump has no modes: anybody reads, and root writes
        attr = Attr(data, 0o644, tag == "H" or len(data) >= 4096)
        attr.size = len(data) if attr.binary else attr.size
        device.spec.at(above).files[name] = attr
    elif tag == "L":
        above, _, name = key.rpartition("/")
        device.spec.at(above).links[name] = rest
    elif tag == "N":
        node = device.spec.node = device.spec.node or DevNode()
        device.node = key
        node.data = _hex(n, rest) if has else None
    elif tag == "S":
        node = device.spec.node = device.spec.node or DevNode()
        node.links = (*node.links, value)


def _problem(device: _Device, tag: str, key: str, rest: str) -> str:
    """Why Linux has no such file, link or node; empty when it can have one."""
    if tag in "AHL":
        why = name_problem(key) or path_problem(f"/sys{device.path}/{key}")
        return why or (link_problem(rest) if tag == "L" else "")
    return devname_problem(key) if tag in "NS" else ""


def unescape(text: str) -> bytes:
    """GLib's g_strcompress() of a text with one character a byte: C's escapes."""

    def one(m: re.Match[str]) -> str:
        return chr(int(m[1], 8) & 0xFF) if m[1] else ESCAPES.get(m[2], m[2])

    return ESCAPE.sub(one, text).encode("latin-1")


def _hex(n: int, digits: str) -> bytes:
    try:
        return bytes.fromhex(digits)
    except ValueError:
        raise DumpError(n, f"{digits[:20]!r} is no even number of hexadecimal digits") from None


def _add(tree: Dir, device: _Device) -> None:
    """Put a device into the tree, with the links that its subsystem and its number give it."""
    subsystem = device.property("SUBSYSTEM")
    if not subsystem:
        raise DumpError(device.line, f"{device.path} has no line E: SUBSYSTEM=")
    where = tree.at(device.path)
    if "uevent" in where.files:
        raise DumpError(device.line, f"{device.path} is described in line {where.line} already")
    _merge(where, device.spec)
    where.line, where.node = device.line, device.spec.node
    text = "".join(f"{k}={v.removeprefix('/dev/') if k == 'DEVNAME' else v}\n" for k, v in device.properties)
    where.files["uevent"] = Attr(text.encode("latin-1"), 0o644)
    if why := device_problem(where)[1]:
        raise DumpError(device.line, why)
    up = "../" * (device.path.count("/"))
    here = device.path[1:]
    is_bus = subsystem in BUSES
    where.links["subsystem"] = f"{up}{'bus' if is_bus else 'class'}/{subsystem}"
    if is_bus:
        tree.at(f"bus/{subsystem}/devices").links[device.name] = f"../../../{here}"
    else:
        tree.at(f"class/{subsystem}").links[device.name] = f"../../{here}"
    if subsystem == "block":
        tree.at("block").links[device.name] = f"../{here}"
    if "dev" in where.files:
        kind = "block" if subsystem == "block" else "char"
        tree.at(f"dev/{kind}").links.setdefault(where.files["dev"].data.decode("latin-1").strip(), f"../../{here}")


def _merge(into: Dir, spec: Dir) -> None:
    """A group of files may be there already as the directory of a child."""
    into.files |= spec.files
    into.links |= spec.links
    for name, sub in spec.dirs.items():
        _merge(into.dirs.setdefault(name, Dir()), sub)
