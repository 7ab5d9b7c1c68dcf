"""Dumps of umockdev-record(1) as machines: each tag of a line, and one sentence for what is wrong."""

from __future__ import annotations

import errno
import os
import stat

import pytest

import pykernel
from pykernel.base.uevent import Uevents
from pykernel.machine import MachineError, load
from pykernel.recorded.umockdev import unescape

DUMP = r"""P: /devices/platform/toy.0/usb9/9-1
N: bus/usb/009/002=12010002
S: toys/usb
E: DEVNAME=/dev/bus/usb/009/002
E: DEVTYPE=usb_device
E: ID_MODEL=Toy
E: SUBSYSTEM=usb
E: __DEVCONTEXT=system_u:object_r:usb_device_t:s0
A: idVendor=1234\n
A: product=Toy\ttwo\\three \"four\" \303\251\n
A: power/control=auto\n
A: dev=189:1025\n
H: descriptors=1201FF00
L: driver=../../../../../bus/usb/drivers/usb

P: /devices/platform/toy.0/block/toyb
N: toyb
E: DEVNAME=/dev/toyb
E: SUBSYSTEM=block
A: dev=259:7\n


P: /devices/platform/toy.0
E: SUBSYSTEM=platform
E: EMPTY=
"""
USB = "/sys/bus/usb/devices/9-1"


@pytest.fixture
def dump(tmp_path):
    """``dump(text)`` is the path of a dump."""

    def write(text):
        path = tmp_path / "toy.umockdev"
        path.write_text(text)
        return str(path)

    return write


@pytest.fixture
def proc(dump):
    return pykernel.boot(dump(DUMP)).process()


def test_attributes_and_links(proc):
    assert proc.read_text(f"{USB}/idVendor") == "1234\n"
    fd = proc.open(f"{USB}/product")
    assert proc.read(fd, 100) == 'Toy\ttwo\\three "four" é\n'.encode()
    assert proc.read_text(f"{USB}/power/control") == "auto\n"
    assert proc.read(proc.open(f"{USB}/descriptors"), 100) == b"\x12\x01\xff\0"
    assert proc.stat(f"{USB}/descriptors").st_size == 4
    assert proc.readlink(f"{USB}/driver") == "../../../../../bus/usb/drivers/usb"


def test_subsystems_and_numbers_are_links(proc):
    assert proc.realpath(USB) == "/sys/devices/platform/toy.0/usb9/9-1"
    assert proc.realpath(f"{USB}/subsystem") == "/sys/bus/usb"
    assert proc.realpath("/sys/bus/platform/devices/toy.0") == "/sys/devices/platform/toy.0"
    block = "/sys/devices/platform/toy.0/block/toyb"
    assert {proc.realpath(p) for p in ("/sys/class/block/toyb", "/sys/block/toyb", "/sys/dev/block/259:7")} == {block}
    assert proc.realpath(f"{block}/subsystem") == "/sys/class/block"
    assert proc.realpath("/sys/dev/char/189:1025") == "/sys/devices/platform/toy.0/usb9/9-1"


def test_properties_are_the_text_of_uevent(proc):
    """umockdev-run shows all of them there, without /dev/ before the node's name."""
    assert proc.read_text(f"{USB}/uevent") == (
        "DEVNAME=bus/usb/009/002\nDEVTYPE=usb_device\nID_MODEL=Toy\nSUBSYSTEM=usb\n"
    )
    assert proc.read_text("/sys/devices/platform/toy.0/uevent") == "SUBSYSTEM=platform\nEMPTY=\n"


def test_a_uevent_has_the_properties(proc):
    heard: list = []
    proc.kernel.up()
    proc.kernel.sub(Uevents).subscribe(lambda *event: heard.append(event[2]))

    proc.write_text(f"{USB}/uevent", "change")

    assert [(e["ACTION"], e["SUBSYSTEM"], e["ID_MODEL"], e["DEVPATH"]) for e in heard] == [
        ("change", "usb", "Toy", "/devices/platform/toy.0/usb9/9-1")
    ]


def test_writes_are_kept(proc):
    proc.write_text(f"{USB}/power/control", "on\n")
    assert proc.read_text(f"{USB}/power/control") == "on\n"


def test_nodes(proc):
    usb, disk = proc.stat("/dev/bus/usb/009/002"), proc.stat("/dev/toyb")

    assert (stat.S_IFMT(usb.st_mode), os.major(usb.st_rdev), os.minor(usb.st_rdev)) == (stat.S_IFCHR, 189, 1025)
    assert (stat.S_IFMT(disk.st_mode), os.major(disk.st_rdev)) == (stat.S_IFBLK, 259)
    assert proc.realpath("/dev/toys/usb") == "/dev/bus/usb/009/002"
    fd = proc.open("/dev/toys/usb")
    assert proc.read(fd, 100) == b"\x12\x01\0\x02"  # what the dump has of it
    with pytest.raises(OSError, match="No such device or address") as e:
        proc.open("/dev/toyb")
    assert e.value.errno == errno.ENXIO


@pytest.mark.parametrize(
    ("text", "data"),
    [(r"a\nb", b"a\nb"), (r"\101\1012", b"AA2"), (r"\\n", rb"\n"), (r"\v\f\b\r\t", b"\v\f\b\r\t"), ("Ã©", "é".encode()),
     (r"\q\"", b'q"'), ("", b"")],
)  # fmt: skip
def test_escapes_are_those_of_c(text, data):
    """docs.gtk.org: g_strcompress()."""
    assert unescape(text) == data


HEAD = "P: /devices/a\nE: SUBSYSTEM=x\n"
BAD = [
    ("E: A=1\n", '1: a device begins with "P: /devices/..."'),
    ("\nhello\n", "2: 'hello' is no line like"),
    ("P: /sys/devices/a\n", "1: P: '/sys/devices/a' is no path like /devices/pci0000:00"),
    ("P: /devices/../a\n", "1: P: '/devices/../a' is no path like"),
    ("P: /devices/a\nA: x=1\n", "1: /devices/a has no line E: SUBSYSTEM="),
    (HEAD + "P: /devices/b\n", "3: P: a device has one path"),
    (HEAD + "A: x\n", "3: A: needs a name, = and a value"),
    (HEAD + "A: ../x=1\n", "3: A: '../x' is no name of a file"),
    (HEAD + "H: x=123\n", "3: '123' is no even number of hexadecimal digits"),
    (HEAD + "E: SUBSYSTEM=y\n", "3: E: SUBSYSTEM is given twice"),
    (
        HEAD + f"L: x={'a/' * 2050}\n",
        "3: L: 'a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/'... is longer than a path",
    ),
    (HEAD + f"A: {'x' * 256}=1\n", "3: A: 'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx'... is longer than a name can be"),
    (HEAD + "N: pts\n", "3: N: /dev/pts is where programs find what is the host's"),
    (HEAD + "S: a/../b\n", "3: S: 'a/../b' is no name"),
    (HEAD + "E: DEVNAME=/dev/a\nA: dev=4096:0\\n\n", "1: '4096:0' is no device number"),
    (HEAD + "E: DEVNAME=/dev/a\nE: DEVMODE=8\nA: dev=1:2\\n\n", "1: DEVMODE='8' is no mode like 0660"),
    (HEAD + "\n" + HEAD, "4: /devices/a is described in line 1 already"),
]


@pytest.mark.parametrize(("text", "message"), BAD)
def test_what_is_wrong_is_one_sentence_with_its_line(dump, text, message):
    path = dump(text)
    with pytest.raises(MachineError) as e:
        load(path)
    assert str(e.value).startswith(f"{path}:{message}")
    assert "\n" not in str(e.value)


def test_names_are_utf8(dump):
    text = "P: /devices/dü€\nE: SUBSYSTEM=x\nE: NAME=€\nA: ł/é=\\303\\251 é\\n\nL: →=日\n"
    proc = pykernel.boot(dump(text)).process()
    assert proc.read(proc.open("/sys/devices/dü€/ł/é"), 20) == "é é\n".encode()
    assert proc.readlink("/sys/devices/dü€/→") == "日"
    assert proc.read(proc.open("/sys/devices/dü€/uevent"), 40) == "SUBSYSTEM=x\nNAME=€\n".encode()


def test_a_node_without_a_file_dev_has_its_number_from_the_properties(dump):
    """umockdev-run 0.17 makes it, too, and no file ``dev`` and no link in /sys/dev; but it gives it the number 0:0."""
    text = "P: /devices/a\nN: toy=0102\nE: SUBSYSTEM=misc\nE: MAJOR=10\nE: MINOR=200\nE: DEVNAME=/dev/toy\n"
    proc = pykernel.boot(dump(text)).process()
    st = proc.stat("/dev/toy")
    assert (stat.S_IFMT(st.st_mode), st.st_rdev) == (stat.S_IFCHR, os.makedev(10, 200))
    assert proc.read(proc.open("/dev/toy"), 9) == b"\1\2"
    assert "dev" not in proc.listdir("/sys/devices/a")
    assert proc.listdir("/sys/dev") == []
