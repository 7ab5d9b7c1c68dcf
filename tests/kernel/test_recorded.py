"""Recorded parts of a machine file: what they show, what a write gives, how they live beside what is emulated."""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import replace

import pytest
from errnos import errno_of
from hypothesis import given
from hypothesis import strategies as st

import pykernel
from pykernel.base.static import Attr, Dir
from pykernel.base.uevent import Uevents
from pykernel.machine import MachineError, parse
from pykernel.recorded import Recorded, hexdump
from pykernel.recorded.host import Emulated
from pykernel.recorded.text import to_toml
from pykernel.recorded.walk import record

NET = """
[[sysfs]]
path = "/sys/devices/virtual/net/toy0"
dirs = ["empty"]
modes.0644 = ["uevent", "mtu", "power/control"]
modes.0200 = ["trigger"]
modes.0700 = ["empty"]
owners."1000:1001" = ["mtu", "power"]
errors.EINVAL = ["speed"]
sizes = {blob = 6}
left_out = ["huge"]
[sysfs.attrs]
uevent = "INTERFACE=toy0\\nIFINDEX=7\\n"
mtu = "1500\\n"
"power/control" = "auto\\n"
[sysfs.hex]
blob = "0001ff00aa55"
[sysfs.links]
subsystem = "../../../../class/net"
nowhere = "../gone"

[[sysfs]]
path = "/sys/class/net"
[sysfs.links]
toy0 = "../../devices/virtual/net/toy0"
"""
TOY = "/sys/class/net/toy0"


def booted(text: str, **how):
    return pykernel.boot(parse(text, "m.toml"), **how).process()


def test_files_have_the_recorded_text_mode_owner_and_size():
    proc = booted(NET)

    assert proc.read_text(f"{TOY}/mtu") == "1500\n"
    assert proc.read_text(f"{TOY}/power/control") == "auto\n"
    mtu, blob, trigger, speed = (proc.stat(f"{TOY}/{n}") for n in ("mtu", "blob", "trigger", "speed"))
    assert (stat.S_IMODE(mtu.st_mode), mtu.st_uid, mtu.st_gid, mtu.st_size) == (0o644, 1000, 1001, 4096)
    assert (stat.S_IMODE(blob.st_mode), blob.st_size) == (0o444, 6)
    assert (stat.S_IMODE(trigger.st_mode), stat.S_IMODE(speed.st_mode)) == (0o200, 0o444)
    assert stat.S_IMODE(proc.stat(f"{TOY}/empty").st_mode) == 0o700
    assert (proc.stat(f"{TOY}/power").st_uid, proc.stat(f"{TOY}/empty").st_uid) == (1000, 0)
    assert proc.stat(TOY).st_nlink == 4  # two directories below


def test_links_are_texts_and_may_lead_nowhere():
    proc = booted(NET)

    assert proc.realpath(TOY) == "/sys/devices/virtual/net/toy0"
    assert proc.readlink(f"{TOY}/nowhere") == "../gone"
    assert proc.lstat(f"{TOY}/nowhere").st_size == 0  # as sysfs says
    assert errno_of(proc.stat, f"{TOY}/nowhere") == errno.ENOENT


def test_what_could_not_be_read_gives_its_errno():
    proc = booted(NET)

    assert errno_of(proc.read_text, f"{TOY}/speed") == errno.EINVAL
    assert errno_of(proc.open, f"{TOY}/trigger") == errno.EACCES  # fs/kernfs/file.c:kernfs_fop_open(), root too
    assert errno_of(proc.read_text, f"{TOY}/huge") == errno.EIO


def test_a_binary_file_is_read_at_an_offset():
    proc = booted(NET)
    fd = proc.open(f"{TOY}/blob")

    assert proc.pread(fd, 100, 2) == bytes.fromhex("ff00aa55")
    assert proc.pread(fd, 2, 0) == b"\0\x01"
    assert proc.pread(fd, 1, 6) == b""


@pytest.mark.parametrize("machine", ["", '[recorded]\nwrites = "EPERM"\n'])
def test_a_write_is_refused_because_no_driver_takes_it(machine):
    """Without a store function drivers/base/core.c:dev_attr_store() gives EIO; a machine may say another errno."""
    proc = booted(machine + NET)
    events = proc.kernel.trace.record()
    expected = errno.EPERM if machine else errno.EIO

    assert errno_of(proc.write_text, f"{TOY}/mtu", "9000\n") == expected
    assert errno_of(proc.write_text, f"{TOY}/trigger", "1") == expected
    assert errno_of(proc.write_text, f"{TOY}/blob", "1") == errno.EACCES  # no write permission, asked first
    assert proc.read_text(f"{TOY}/mtu") == "1500\n"
    assert [e.fields["path"] for e in events if e.name == "unsupported"] == [
        "/sys/devices/virtual/net/toy0/mtu",
        "/sys/devices/virtual/net/toy0/trigger",
    ]


def test_a_machine_may_keep_what_is_written():
    machine = parse('[recorded]\nwrites = "keep"\n' + NET.replace('["trigger"]', '["trigger"]\nmodes.0600 = ["blob"]'))
    proc, other = pykernel.boot(machine).process(), pykernel.boot(machine).process()

    proc.write_text(f"{TOY}/mtu", "9000")
    proc.write_text(f"{TOY}/trigger", "now")
    fd = proc.open(f"{TOY}/blob", os.O_RDWR)
    assert proc.pwrite(fd, b"\x77\x77\x77", 4) == 2  # to the end of the file
    assert errno_of(proc.pwrite, fd, b"x", 6) == errno.EFBIG

    assert proc.read_text(f"{TOY}/mtu") == "9000"
    assert proc.pread(fd, 10, 0) == bytes.fromhex("0001ff007777")
    assert other.read_text(f"{TOY}/mtu") == "1500\n"  # another kernel of the same machine


def test_a_uevent_has_the_recorded_variables():
    proc = booted(NET)
    heard: list = []
    proc.kernel.up()
    proc.kernel.sub(Uevents).subscribe(lambda *event: heard.append(event))

    proc.write_text(f"{TOY}/uevent", "change\n")
    assert errno_of(proc.write_text, f"{TOY}/uevent", "nonsense") == errno.EINVAL

    ((action, path, env),) = heard
    assert (action, path) == ("change", "/devices/virtual/net/toy0")
    assert list(env) == ["ACTION", "DEVPATH", "SUBSYSTEM", "SYNTH_UUID", "INTERFACE", "IFINDEX", "SEQNUM"]
    assert (env["SUBSYSTEM"], env["INTERFACE"], env["IFINDEX"]) == ("net", "toy0", "7")


@pytest.mark.parametrize(
    ("path", "subsystem"),
    [("/sys/bus/toy", "bus"), ("/sys/bus/toy/drivers/t", "drivers"), ("/sys/module/toy", "module"),
     ("/sys/devices/toy", None)],
)  # fmt: skip
def test_what_is_no_device_tells_its_kset(path, subsystem):
    """lib/kobject_uevent.c: the name of the kset; and a device without bus and class tells nothing."""
    proc = booted(f'[[sysfs]]\npath = "{path}"\nmodes.0200 = ["uevent"]\n')
    heard: list = []
    proc.kernel.up()
    proc.kernel.sub(Uevents).subscribe(lambda *event: heard.append(event[2].get("SUBSYSTEM")))

    proc.write_text(f"{path}/uevent", "add")

    assert heard == ([subsystem] if subsystem else [])


DISK = """
[[sysfs]]
path = "/sys/devices/toy/block/toya"
node = {mode = "0660", owner = "0:6", links = ["disk/by-id/toy"]}
[sysfs.attrs]
dev = "259:3\\n"
uevent = "MAJOR=259\\nMINOR=3\\nDEVNAME=toya\\nDEVTYPE=disk\\n"
[sysfs.links]
subsystem = "../../../../class/block"
[[sysfs]]
path = "/sys/devices/toy/char"
[sysfs.attrs]
dev = "240:1\\n"
uevent = "MAJOR=240\\nMINOR=1\\nDEVNAME=toys/c1\\nDEVMODE=0666\\n"
"""


def test_device_nodes_are_there_and_have_no_driver():
    """fs/char_dev.c:chrdev_open() and block/fops.c:blkdev_open(): ENXIO for a number that nobody registered."""
    proc = booted(DISK)
    disk, char = proc.stat("/dev/toya"), proc.stat("/dev/toys/c1")

    assert (stat.S_IFMT(disk.st_mode), stat.S_IMODE(disk.st_mode), disk.st_gid) == (stat.S_IFBLK, 0o660, 6)
    assert (os.major(disk.st_rdev), os.minor(disk.st_rdev)) == (259, 3)
    assert (stat.S_IFMT(char.st_mode), stat.S_IMODE(char.st_mode)) == (stat.S_IFCHR, 0o666)
    assert proc.readlink("/dev/disk/by-id/toy") == "../../toya"
    assert [errno_of(proc.open, f"/dev/{n}") for n in ("toya", "toys/c1", "disk/by-id/toy")] == [errno.ENXIO] * 3


CONFIG = (
    bytes.fromhex("86808025060010000100800800000000") + (0xFE000004).to_bytes(8, "little") + bytes(36) + b"\x0b\1\0\0"
)
PCI = f"""
[[sysfs]]
path = "/sys/devices/pci0000:00/0000:00:05.0"
modes.0644 = ["config"]
sizes = {{config = 256}}
[sysfs.attrs]
vendor = "0x8086\\n"
resource = "0x00000000fe000000 0x00000000fe00ffff 0x0000000000140204\\n"
[sysfs.hex]
config = '''
0000: {CONFIG.hex()}
0080: 01020304
0100:
'''
"""


def test_configuration_space_is_read_as_recorded_and_written_as_silicon_lets_it():
    proc = booted(PCI)
    path = "/sys/devices/pci0000:00/0000:00:05.0/config"
    fd = proc.open(path, os.O_RDWR)

    assert proc.pread(fd, 4096, 0) == CONFIG + bytes(64) + b"\1\2\3\4" + bytes(124)
    proc.pwrite(fd, b"\xff\xff\xff\xff", 0x00)  # the identity is read-only
    proc.pwrite(fd, b"\x02\x00", 0x04)  # COMMAND
    proc.pwrite(fd, b"\xff" * 8, 0x10)  # a BAR of 64 KiB tells its size, its flags stay
    proc.pwrite(fd, b"\x55", 0x80)  # a capability
    assert proc.pread(fd, 6, 0) == bytes.fromhex("868080250200")
    assert proc.pread(fd, 8, 0x10) == bytes.fromhex("0400ffffffffffff")
    assert proc.pread(fd, 1, 0x80) == b"\1"

    user = proc.kernel.process(uid=1000)
    assert len(user.pread(user.open(path), 4096, 0)) == 64  # drivers/pci/pci-sysfs.c:pci_read_config()


def test_recorded_and_emulated_devices_live_side_by_side():
    proc = booted(NET + PCI + "[[sysfs]]\npath='/sys/bus/pci/devices'\n[sysfs.links]\n"
                  "'0000:00:05.0' = '../../../devices/pci0000:00/0000:00:05.0'\n[[pci]]\nmodel = 'edu'\n")  # fmt: skip

    assert set(proc.listdir("/sys/bus/pci/devices")) == {"0000:00:05.0", "0000:6a:01.0"}
    assert proc.read_text("/sys/bus/pci/devices/0000:00:05.0/vendor") == "0x8086\n"
    assert proc.read_text("/sys/bus/pci/devices/0000:6a:01.0/vendor") == "0x1234\n"
    assert {"virtual", "pci0000:00", "pci0000:6a"} <= set(proc.listdir("/sys/devices"))
    assert {"net", "mem"} <= set(proc.listdir("/sys/devices/virtual"))


def test_what_both_have_is_the_emulated_machines_own():
    proc = booted(
        "\n[[sysfs]]\npath = '/sys/bus/platform'\n[sysfs.attrs]\ndrivers_autoprobe = 'recorded'\nmore = 'm'\n"
        "[[sysfs]]\npath = '/sys/devices/virtual/mem/null'\n[sysfs.links]\nsubsystem = '../elsewhere'\n"
    )

    assert proc.read_text("/sys/bus/platform/drivers_autoprobe") == "1\n"
    assert proc.read_text("/sys/bus/platform/more") == "m"
    assert proc.read_text("/sys/class/mem/null/dev") == "1:3\n"
    assert "m.toml:7: /sys/devices/virtual/mem/null/subsystem: the emulated machine's own is kept" in "".join(
        proc.kernel.log.human()
    )


HYPERVISOR = '[[sysfs]]\npath = "/sys/hypervisor"\n[sysfs.attrs]\ntype = "xen\\n"\n'
SEQNUM = '[[sysfs]]\npath = "/sys/kernel"\n[sysfs.attrs]\nuevent_seqnum = "4711\\n"\n'


def test_a_root_has_only_what_was_recorded():
    proc = booted("[recorded]\nroot = true\n" + NET + HYPERVISOR)

    assert proc.listdir("/sys/devices") == ["virtual"]
    assert proc.listdir("/sys/bus") == proc.listdir("/sys/module") == []
    assert proc.read_text("/sys/hypervisor/type") == "xen\n"
    assert proc.read(proc.open("/dev/zero"), 2) == b"\0\0"  # every Linux has these


def test_a_root_takes_no_modules():
    machine = replace(parse("[recorded]\nroot = true\n", "m.toml"), modules={"idxd": ""})

    with pytest.raises(ValueError, match="machine m has only what was recorded: it takes no silicon and no modules"):
        pykernel.boot(machine)


def test_sequence_numbers_of_uevents_go_on():
    proc = booted("[recorded]\nroot = true\n" + SEQNUM + NET)

    assert proc.read_text("/sys/kernel/uevent_seqnum") == "4711\n"
    proc.write_text(f"{TOY}/uevent", "add")
    assert proc.read_text("/sys/kernel/uevent_seqnum") == "4712\n"


ROW = '[[sysfs]]\npath = "/sys/devices/a"\n'


def device(uevent: str, dev: str = "240:1") -> str:
    """A row with what makes a node."""
    return ROW + f'[sysfs.attrs]\ndev = "{dev}\\n"\nuevent = "{uevent}\\n"\n'


BAD = [
    ("[recorded]\n\nwrites = 'no'", "m.toml:3: recorded.writes: 'no' is no errno like EINVAL or \"keep\""),
    ("[recorded]\nroot = 1", "m.toml:2: recorded.root: must be true or false, not 1"),
    ("[recorded]\nroots = true", "m.toml:2: recorded.roots: unknown key; known: root, writes"),
    ("[recorded]\nroot = true\n[[pci]]\nmodel='edu'", "m.toml:2: recorded.root: a machine that has only what was"),
    ("\n[[sysfs]]\n", 'm.toml:2: sysfs.path: is missing: which directory, as in path = "/sys/bus/pci"'),
    ("[[sysfs]]\n\npath = '/dev'", "m.toml:3: sysfs.path: '/dev' is no directory below /sys"),
    ("[[sysfs]]\npath = '/sys/../etc'", "m.toml:2: sysfs.path: '/sys/../etc' is no directory below /sys"),
    ("[[sysfs]]\npath = '/sys/bus/'", "m.toml:2: sysfs.path: '/sys/bus/' is no directory below /sys"),
    (ROW + ROW, "m.toml:4: sysfs.path: /sys/devices/a is described in line 1 already"),
    (ROW + "atrs = {}", "m.toml:3: sysfs.atrs: unknown key; known: path, node, dirs, modes, owners, sizes, errors"),
    (ROW + "modes.0999 = ['x']", "m.toml:3: sysfs.modes.0999: '0999' is no mode like 0644"),
    (ROW + "modes.0644 = 'x'", "m.toml:3: sysfs.modes.0644: must be an array of strings, not 'x'"),
    (ROW + "modes.0644 = [1]", "m.toml:3: sysfs.modes.0644: must be an array of strings, not [1]"),
    (ROW + "errors.ENOPE = ['x']", "m.toml:3: sysfs.errors.ENOPE: 'ENOPE' is no errno like EINVAL"),
    (ROW + "owners.root = ['x']", "m.toml:3: sysfs.owners.root: 'root' is no uid and gid like 0:6"),
    (ROW + "sizes = {x = '1'}", "m.toml:3: sysfs.sizes.x: must be a whole number, not '1'"),
    (ROW + "[sysfs.attrs]\n\nx = 1", "m.toml:5: sysfs.attrs.x: must be a string, not 1"),
    (ROW + "[sysfs.attrs]\n'../x' = '1'", "m.toml:4: sysfs.attrs.../x: '../x' is no name"),
    (ROW + "[sysfs.hex]\nx = '0g'", "m.toml:4: sysfs.hex.x: '0g' is no line of hexadecimal digits like"),
    (ROW + "[sysfs.links]\nx = true", "m.toml:4: sysfs.links.x: must be a string, not True"),
    (ROW + "node = {mode = '8'}", "m.toml:3: sysfs.node.mode: '8' is no mode like 0644"),
    (ROW + "node = {links = ['/dev/x']}", "m.toml:3: sysfs.node.links: '/dev/x' is no name below /dev"),
    (ROW + "node = {links = ['pts']}", "m.toml:3: sysfs.node.links: /dev/pts is where programs find"),
    (ROW + "sizes = {x = -1}", "m.toml:3: sysfs.sizes.x: -1 is no size"),
    (ROW + "[sysfs.hex]\nx = '-10: 00'", "m.toml:4: sysfs.hex.x: '-10: 00' is no line of hexadecimal digits like"),
    (f"[[sysfs]]\npath = '/sys/devices{'/x' * 3000}'",
     "m.toml:2: sysfs.path: '/sys/devices/x/x/x/x/x/x/x/x/x/x/x/x/x/x'... is longer than a path can be: 4095 bytes"),
    (f"[[sysfs]]\npath = '/sys/{'x' * 256}'",
     "m.toml:2: sysfs.path: 'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx'... is longer than a name can be: 255 bytes"),
    (ROW + f"dirs = ['{'ü' * 128}']", "m.toml:3: sysfs.dirs: 'üüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüü'..."),
    (ROW + "[sysfs.attrs]\n" + f"'{'x' * 256}' = ''", "m.toml:1: sysfs.attrs: 'xxxxxxxxxxxxxxxx"),
    (ROW + f"[sysfs.attrs]\na = ''\n'{'x/' * 2050}x' = ''", "m.toml:1: sysfs.attrs: '/sys/devices/a/x/x"),
    (ROW + f"[sysfs.links]\nl = '{'a/' * 3000}'", "m.toml:4: sysfs.links.l: 'a/a/a/a/a/a/a/a/a"),
    (ROW + "[sysfs.links]\nl = ''", "m.toml:4: sysfs.links.l: '' leads nowhere: a link has a path"),
    (device("DEVNAME=a\\nDEVMODE=99"), "m.toml:5: sysfs.attrs.uevent: DEVMODE='99' is no mode like 0660"),
    (device("DEVNAME=a\\nDEVMODE=0888"), "m.toml:5: sysfs.attrs.uevent: DEVMODE='0888' is no mode like 0660"),
    (device("DEVNAME=a", "99999999999:1"), "m.toml:4: sysfs.attrs.dev: '99999999999:1' is no device number like"),
    (device("DEVNAME=a", "4096:1"), "m.toml:4: sysfs.attrs.dev: '4096:1' is no device number"),
    (device("DEVNAME=a", "1:1048576"), "m.toml:4: sysfs.attrs.dev: '1:1048576' is no device number"),
    (device("DEVNAME=/dev/a//b/./c"), "m.toml:5: sysfs.attrs.uevent: DEVNAME: 'a//b/./c' is no name"),
    (device("DEVNAME=pts"), "m.toml:5: sysfs.attrs.uevent: DEVNAME: /dev/pts is where programs find"),
    (device("DEVNAME=.host/x"), "m.toml:5: sysfs.attrs.uevent: DEVNAME: /dev/.host/x is where programs"),
    (device(f"DEVNAME={'n' * 256}"), "m.toml:5: sysfs.attrs.uevent: DEVNAME: 'nnnnnnnnnnnnnnnnnnnn"),
    ("sysfs = ['x']", "m.toml:1: sysfs: must be a table: write [[sysfs]]"),
    (ROW + "dirs = ['x']\n[sysfs.attrs]\nx = ''", "m.toml:1: recorded.sysfs: /sys/devices/a/x is described as two"),
    (PCI + "[[pci]]\nmodel = 'edu'\naddress = '0000:00:05.0'",
     "m.toml:2: sysfs.path: 0000:00:05.0 is recorded, and the [[pci]] of line 15 too"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), BAD)
def test_an_error_names_file_line_and_key(text, message):
    with pytest.raises(MachineError) as e:
        parse(text, "m.toml")
    assert str(e.value).startswith(message)
    assert "\n" not in str(e.value)


# ---- the text of a recording

NAME = (
    st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=6)
    .filter(lambda name: name not in (".", "..", "uevent"))
    .map(lambda name: name.encode().decode("latin-1"))
)  # as the kernel has it
ATTR = st.builds(
    Attr, data=st.binary(max_size=80) | st.text(st.characters(exclude_categories=["Cs"])).map(str.encode),
    mode=st.sampled_from([0o444, 0o644, 0o400]), uid=st.integers(0, 2),
).filter(lambda attr: b"DEVNAME" not in attr.data)  # fmt: skip


def trees(depth: int) -> st.SearchStrategy[Dir]:
    below = st.dictionaries(NAME, trees(depth - 1), max_size=3) if depth else st.just({})

    def distinct(spec: Dir) -> Dir:
        for name in spec.dirs:
            spec.files.pop(name, None)
            spec.links.pop(name, None)
        for name in spec.files:
            spec.links.pop(name, None)
        return spec

    return st.builds(
        Dir, files=st.dictionaries(NAME | st.just("uevent"), ATTR, max_size=4),
        links=st.dictionaries(NAME, NAME, max_size=2), dirs=below, mode=st.sampled_from([0o755, 0o700]),
        gid=st.integers(0, 1),
    ).map(distinct)  # fmt: skip


def contents(spec: Dir) -> dict:
    """All that a tree says, without where it is written."""
    return {
        path: (
            (where.mode, where.uid, where.gid, where.links) if path else where.links,
            {n: (a.data, a.mode, a.size, a.errno, a.uid, a.gid) for n, a in where.files.items()},
        )
        for path, where in spec.walk()
    }


@given(trees(3))
def test_a_tree_written_and_read_is_the_same_tree(tree):
    text = to_toml(Recorded(tree, root=True, writes=0))
    back = parse(text).recorded
    assert back is not None
    assert (contents(back.tree), back.root, back.writes) == (contents(tree), True, 0)
    assert to_toml(back) == text


@given(st.binary(max_size=300) | st.integers(0, 300).map(bytes))
def test_hexadecimal_lines_hold_any_bytes(data):
    assert hexdump.load(hexdump.dump(data)) == data


def test_hexadecimal_lines_may_be_written_by_hand():
    assert hexdump.load("0102\nff") == b"\1\2\xff"
    assert hexdump.load("4: 05 06\n0008:") == b"\0\0\0\0\5\6\0\0"


def test_recording_a_loaded_recording_gives_it_again():
    machine = parse("[recorded]\nroot = true\n" + NET.replace("nowhere", "other").replace('left_out = ["huge"]\n', ""))
    recorded = record(Emulated(pykernel.boot(machine).process()), ["/sys"])

    assert machine.recorded is not None
    there = {path: what for path, what in contents(recorded.tree).items() if what[1] or "toy0" in path}
    assert there.items() <= contents(machine.recorded.tree).items()
    assert "/devices/virtual/net/toy0/power" in there


def test_names_are_utf8_on_every_way():
    """In a file as TOML has it, in the kernel as bytes, in Python as its os has it; and recorded again."""
    text = (
        '[recorded]\nroot = true\n[[sysfs]]\npath = "/sys/devices/dü€"\ndirs = ["日"]\nmodes.0600 = ["é/ł"]\n'
        '[sysfs.attrs]\nuevent = "MAJOR=240\\nMINOR=1\\nDEVNAME=ñ€\\n"\n"é/ł" = "€\\n"\n'
        '[sysfs.links]\n"→" = "dü€/日"\n'
    )
    machine = parse(text, "m.toml")
    assert machine.recorded is not None
    proc = pykernel.boot(machine).process()

    assert sorted(proc.listdir("/sys/devices/dü€")) == sorted(["日", "é", "uevent", "→"])
    assert proc.readlink("/sys/devices/dü€/→") == "dü€/日"
    assert proc.stat("/sys/devices/dü€/é/ł".encode()).st_mode == stat.S_IFREG | 0o600
    assert proc.read(proc.open("/sys/devices/dü€/é/ł"), 10) == "€\n".encode()
    assert os.major(proc.stat("/dev/ñ€").st_rdev) == 240
    back = record(Emulated(proc), ["/sys/devices/dü€"])
    assert contents(back.tree) == contents(machine.recorded.tree)
    again = parse(to_toml(back), "m.toml").recorded
    assert again is not None
    assert again.tree.at("devices").dirs.keys() == {"dü€".encode().decode("latin-1")}


def test_the_longest_path_that_linux_takes():
    path = "/sys/devices" + "/x" * 2041
    proc = booted(f"[[sysfs]]\npath = '{path}'\n")

    assert stat.S_ISDIR(proc.stat(path).st_mode)
    assert len(path) + 1 == 4095


def test_what_the_emulated_machine_has_of_its_own_is_kept_and_said():
    proc = booted(
        '[[sysfs]]\npath = "/sys/bus"\n[sysfs.links]\npci = "../devices"\n'
        '[[sysfs]]\npath = "/sys/devices/virtual/mem/null"\n[sysfs.attrs]\ndev = "9:9"\nmore = "m"\nuevent = ""\n'
        "[[pci]]\nmodel = 'edu'\n"
    )

    assert "vendor" in proc.listdir("/sys/bus/pci/devices/0000:6a:01.0")
    assert proc.read_text("/sys/class/mem/null/dev") == "1:3\n"
    said = proc.kernel.log.human()
    assert "m.toml:1: /sys/bus/pci: the emulated machine's own is kept" in said
    assert "m.toml:5: /sys/devices/virtual/mem/null: dev, uevent: the emulated machine's own is kept" in said


@pytest.mark.parametrize(("length", "size"), [(256, 256), (64, 4096), (4096, 4096)])
def test_the_size_of_a_configuration_space_is_its_own(length, size):
    """drivers/pci/pci-sysfs.c:pci_dev_config_attr_is_visible(): cfg_size; and so it is written."""
    text = "[[sysfs]]\npath = '/sys/devices/a'\n[sysfs.hex]\nconfig = '" + "ab" * length + "'\n"
    proc = booted(text)

    assert proc.stat("/sys/devices/a/config").st_size == size
    recorded = parse(text).recorded
    assert recorded is not None
    again = parse(to_toml(recorded)).recorded
    assert again is not None
    assert again.tree.at("devices/a").files["config"].size == size
