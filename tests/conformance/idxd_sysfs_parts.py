"""Questions on idxd's files: what there is, and what every attribute of a disabled device takes."""

from __future__ import annotations

import os
import stat

from idxd_device import BUS, DEVICES, Idxd, Table, read, write
from probing import call

INTS = [
    *(
        "",
        "\n",
        " ",
        "0",
        "1",
        "1\n",
        "1\n\n",
        "+1",
        "-1",
        "-2",
        "--1",
        "0x2",
        "0X2",
        "02",
        "1 ",
        " 1",
        "1x",
        "x",
        "1.5",
    ),
    *(
        "1,2",
        "true",
        "1\0",
        "1\0junk",
        "\xff",
        "4294967295",
        "4294967296",
        "9223372036854775808",
        "18446744073709551615",
    ),
    *("18446744073709551616", "9" * 40),
]
BOOLS = [
    *("", "\n", "0", "1", "1\n", "y", "n", "Y", "N", "t", "f", "T", "F", "on", "off", "ON", "oN", "o", "of", "2", "10"),
    *("01", "yes", "no", "true", "enable", " 1", "-1", "1\n\n"),
]
OPS = [
    *("", "\n", "0", "1", "ffffffff", "00000001,003f03ff", "1,003f03ff", "00000001,003f03fd", "00000001,003f03fb"),
    *("00000000,00000001,003f03ff", "x", "1,,1", ",1", "1,", "1 ", " 1", "0x1", "00000001,ffffffff", "8", "000000008"),
    *("123456789", "1," * 8 + "1", "0," * 8 + "1", "0," * 7 + "1", "1," * 7 + "0", "2", "0000007b,00bf07ff"),
    *("0000007b,00bf07fd", "-1", "1\n", "1\n\n"),
]
MODES = [
    *("", "\n", "dedicated", "shared\n", "dedicated\n", "Dedicated", "dedicate", "dedicatedx", "dedicated "),
    *(" dedicated", "shared\n\n", "shared", "sharedjunk", "1", "shared\0x"),
]
NAMES = [
    *("", "\n", " ", "a", "a\n", "  b c  \n", "a" * 1023, "a" * 1024, "a" * 1023 + "\n", "a" * 1024 + "\n", "a" * 1025),
    *("x\ny\n", "x\0y", "\xe9", "\t", "x" * 4096, "x" * 5000, "dpdk_a", "\n\n", ""),
]
DRIVER_NAMES = [
    *("\n", "", " ", "user", "user\n", " user ", "dmaengine", "nonsense", "u" * 127, "u" * 128, "u" * 129),
    *("u" * 127 + "\n", "u" * 128 + "\n", "a/b", "x\ny", "user"),
]
TRANSFER_SIZES = [
    *INTS,
    *("64", "18446744073709551615", "64", "9223372036854775809", "64", "9223372036854775807", "3", "4097", "0x1000"),
    *("010000", "2097152", "2147483647", "2147483648", "2147483649", "4294967295", "2097152"),
]
BATCH_SIZES = [
    *INTS,
    *("64", "18446744073709551615", "64", "9223372036854775809", "64", "4294967295", "2147483649", "4294967297", "3"),
    *("1000", "1023", "1024", "1025", "0x20", "040", "32"),
]
EVENT_LOG_SIZES = [
    *("", "\n", "64", "65", "63", "0", "0x80", "128\n", "65535", "65536", "-1", "x", "4294967296", "64"),
]
WQ_TABLE: Table = [
    ("group_id", [*INTS, "3", "4", "2147483648", "-0", "-1"]),
    ("mode", MODES),
    ("size", [*INTS, "8", "127", "128", "129", "16"]),
    ("priority", [*INTS, "15", "16", "10"]),
    ("block_on_fault", [*BOOLS, "0"]),
    ("threshold", [*INTS, "16", "17", "0x10", "020", "0b1", "8"]),
    (
        "type",
        ["", "\n", "none", "kernel", "user\n", "mdev", "User", "user ", "userx", "use", "user", "none\n", "none"],
    ),
    ("name", NAMES),
    ("driver_name", DRIVER_NAMES),
    ("max_transfer_size", TRANSFER_SIZES),
    ("max_batch_size", BATCH_SIZES),
    ("ats_disable", [*BOOLS, "0"]),
    ("prs_disable", [*BOOLS, "0"]),
    ("enqcmds_retries", [*INTS, "64", "65", "100", "0x10", "32"]),
    ("op_config", OPS),
]


def mode_of(path: str) -> str:
    """The permission bits in octal."""
    return oct(stat.S_IMODE(os.stat(path).st_mode))


def inventory(d: Idxd) -> None:
    """The bus, its drivers, one device of each kind, and what the module adds elsewhere."""
    _bus(d)
    for name in (d.device, d.wq + "0", d.group + "0", d.engine + "0"):
        _one_device(d, name)
    for i in range(1, 8):
        if os.path.exists(d.path(f"{d.wq}{i}")):
            d.ask(f"read {d.wq}{i} same as {d.wq}0", _same_attributes, d, f"{d.wq}{i}", d.wq + "0")
    d.ask("power entries", lambda: sorted(os.listdir(d.path(d.wq + "0", "power"))))
    _pci_side(d)
    _module_side(d)


def _bus(d: Idxd) -> None:
    d.ask("bus entries", lambda: sorted(os.listdir(BUS)))
    d.ask("bus devices", lambda: sorted(os.listdir(DEVICES)))
    d.ask("bus drivers", lambda: sorted(os.listdir(f"{BUS}/drivers")))
    for name in ("drivers_probe", "drivers_autoprobe", "uevent"):
        d.ask(f"mode {name}", mode_of, f"{BUS}/{name}")
    d.ask("read drivers_autoprobe", read, f"{BUS}/drivers_autoprobe")
    d.ask("read drivers_probe", read, f"{BUS}/drivers_probe")
    for driver in sorted(os.listdir(f"{BUS}/drivers")):
        path = f"{BUS}/drivers/{driver}"
        d.ask(f"driver {driver}", _entries_with_modes, path)
        d.ask(f"driver {driver} module link", os.readlink, f"{path}/module")


def _entries_with_modes(path: str) -> object:
    return [(entry, oct(os.lstat(f"{path}/{entry}").st_mode)) for entry in sorted(os.listdir(path))]


def _one_device(d: Idxd, name: str) -> None:
    d.ask(f"{name} link", os.readlink, d.path(name))
    d.ask(f"{name} subsystem", os.readlink, d.path(name, "subsystem"))
    d.ask(f"{name} entries", lambda: sorted(os.listdir(d.path(name))))
    for attribute in d.attributes(name):
        path = d.path(name, attribute)
        d.ask(f"mode,size {name}/{attribute}", lambda path=path: (mode_of(path), os.stat(path).st_size))
    d.dump(name)


def _same_attributes(d: Idxd, name: str, other: str) -> bool:
    return all(call(d.read, name, a) == call(d.read, other, a) for a in d.attributes(other))


def _pci_side(d: Idxd) -> None:
    pci = f"/sys/bus/pci/devices/{d.pci}"
    d.ask("pci driver", lambda: os.path.basename(os.readlink(f"{pci}/driver")))
    d.ask("pci driver entries", lambda: sorted(os.listdir("/sys/bus/pci/drivers/idxd")))
    d.ask("pci children", lambda: sorted(e for e in os.listdir(pci) if e.startswith(("dsa", "iax"))))
    d.ask("msi irqs", lambda: len(os.listdir(f"{pci}/msi_irqs")))
    d.ask(
        "interrupt names",
        lambda: [line.split()[-1] for line in str(read("/proc/interrupts")).splitlines() if "idxd" in line],
    )


def _module_side(d: Idxd) -> None:
    module = "/sys/module/idxd"
    parameters = f"{module}/parameters"
    d.ask(
        "module parameters",
        lambda: [(e, read(f"{parameters}/{e}"), mode_of(f"{parameters}/{e}")) for e in sorted(os.listdir(parameters))],
    )
    d.ask(
        "module holders/refs",
        lambda: (os.listdir(f"{module}/holders"), read(f"{module}/refcnt"), read(f"{module}/initstate")),
    )
    d.ask("devices majors", _majors)
    d.ask("debugfs", _debugfs_files)
    d.ask("dev dir", os.listdir, "/dev/dsa")
    d.ask(
        "event source",
        lambda: [e for e in os.listdir("/sys/bus/event_source/devices") if e.startswith(("dsa", "iax"))],
    )
    d.ask("kobj iommu group", os.path.exists, f"/sys/bus/pci/devices/{d.pci}/iommu_group")
    d.ask("class dma", lambda: sorted(os.listdir("/sys/class/dma")))


def _majors() -> object:
    lines = [line.split() for line in str(read("/proc/devices")).splitlines()]
    return [words[1] for words in lines if words and words[-1] in ("dsa", "iax")]


def _debugfs_files() -> object:
    root = "/sys/kernel/debug"
    found = [os.path.join(path, name) for path, _, names in os.walk(f"{root}/idxd") for name in names]
    return sorted(path[len(root) :] for path in found)


def readonly(d: Idxd) -> None:
    """What refuses to be written, and how a write's offset and flags count."""
    w = d.wq + "0"
    for name in (d.device, w, d.group + "0", d.engine + "0"):
        for attribute in d.attributes(name):
            if not os.stat(d.path(name, attribute)).st_mode & 0o200:
                d.ask(f"write ro {name}/{attribute}", write, d.path(name, attribute), "1")
    d.ask("create in dir", os.open, d.path(d.device, "nope"), os.O_CREAT | os.O_WRONLY)
    d.ask("unlink attr", os.unlink, d.path(d.device, "state"))
    d.ask("rmdir wq", os.rmdir, os.path.realpath(d.path(w)))
    d.ask("truncate rw attr", os.truncate, d.path(w, "name"), 0)
    d.ask("open O_TRUNC", lambda: os.close(os.open(d.path(w, "size"), os.O_WRONLY | os.O_TRUNC)))
    d.ask("two writes, one fd", _two_writes, d.path(w, "name"))
    d.ask("pwrite at 5", _written, d.path(w, "name"), os.O_WRONLY, b"xyz", 5)
    d.ask_read("name now", w, "name")
    d.ask("append", _written, d.path(w, "name"), os.O_WRONLY | os.O_APPEND, b"q")
    d.ask_read("name now", w, "name")
    d.ask("partial reads", _partial_reads, d.path(d.device, "version"))
    d.ask("uevent write", write, d.path(w, "uevent"), "add")
    d.ask("uevent write junk", write, d.path(w, "uevent"), "junk")
    d.quiet(w, "name", "\n")


def _two_writes(path: str) -> object:
    fd = os.open(path, os.O_RDWR)
    try:
        first, second = os.write(fd, b"abc"), os.write(fd, b"de")
        os.lseek(fd, 0, os.SEEK_SET)
        text = os.read(fd, 100)
        os.write(fd, b"\n")
        return first, second, text
    finally:
        os.close(fd)


def _written(path: str, flags: int, data: bytes, offset: int | None = None) -> int:
    fd = os.open(path, flags)
    try:
        return os.write(fd, data) if offset is None else os.pwrite(fd, data, offset)
    finally:
        os.close(fd)


def _partial_reads(path: str) -> object:
    fd = os.open(path, os.O_RDONLY)
    try:
        return os.read(fd, 2), os.read(fd, 100), os.read(fd, 1), os.pread(fd, 3, 1)
    finally:
        os.close(fd)


def device_attributes(d: Idxd) -> None:
    """The device's writable attributes."""
    d.stores(
        d.device,
        [
            ("cmd_status", ["1", "0", "\n", "", "junk", "x" * 5000]),
            ("read_buffer_limit", [*INTS, "96", "97", "0"]),
            ("token_limit", ["5", "96", "97", "0", "0x1", "-1"]),
            ("event_log_size", EVENT_LOG_SIZES),
        ],
    )


def engine_attributes(d: Idxd) -> None:
    """An engine's group."""
    d.stores(d.engine + "0", [("group_id", [*INTS, "3", "4", "2147483647", "2147483648", "-2147483648", "-0", "-1"])])


def group_attributes(d: Idxd) -> None:
    """A group's attributes, read buffers shared among groups, and its lists of members."""
    g = d.group + "0"
    d.stores(g, [("use_read_buffer_limit", ["0", "1", "x", "-1"]), ("use_token_limit", ["1"])])
    if d.has(d.device, "read_buffer_limit"):
        d.quiet(d.device, "read_buffer_limit", "10")
    d.stores(
        g,
        [
            ("use_read_buffer_limit", [*INTS, "2", "255", "0"]),
            ("use_token_limit", ["1", "0", "y"]),
            ("read_buffers_allowed", [*INTS, "3", "4", "96", "97", "255", "256", "0", "96"]),
            ("tokens_allowed", ["0", "8", "97", "-1"]),
            ("read_buffers_reserved", [*INTS, "4", "95", "96", "97", "0"]),
            ("tokens_reserved", ["2", "97", "0"]),
            ("traffic_class_a", [*INTS, "7", "8", "-0"]),
            ("traffic_class_b", ["0", "1", "7", "8", "-1", "x", "0x1", ""]),
            ("desc_progress_limit", [*INTS, "2", "3", "4", "0"]),
            ("batch_progress_limit", ["", "\n", "0", "1", "3", "4", "-1", "x", "0x1", "0"]),
        ],
    )
    d.quiet(d.engine + "0", "group_id", "0")
    d.quiet(d.engine + "1", "group_id", "0")
    d.ask_read("two engines: group reads", g, "engines")
    d.stores(g, [("read_buffers_allowed", ["7", "8", "9"]), ("read_buffers_reserved", ["50", "10"])])
    d.stores(
        d.group + "1",
        [("read_buffers_reserved", ["87", "86", "0"]), ("read_buffers_allowed", ["0", "86", "87", "96"])],
    )
    d.stores(g, [("read_buffers_allowed", ["96", "97", "8", "0"]), ("read_buffers_reserved", ["0"])])
    _group_members(d, g)
    if d.has(d.device, "read_buffer_limit"):
        d.quiet(d.device, "read_buffer_limit", "0")


def _group_members(d: Idxd, g: str) -> None:
    for i in "01":
        d.quiet(d.wq + i, "group_id", "0")
    d.ask_read("group work_queues", g, "work_queues")
    d.quiet(d.wq + "0", "group_id", "-1")
    d.ask_read("group work_queues", g, "work_queues")
    d.quiet(d.wq + "0", "group_id", "0")
    d.ask_read("group work_queues", g, "work_queues")
    d.quiet(d.engine + "0", "group_id", "-1")
    d.quiet(d.engine + "0", "group_id", "0")
    d.ask_read("group engines", g, "engines")
    d.quiet(d.engine + "0", "group_id", "0")
    d.ask_read("group engines again", g, "engines")
    d.quiet(d.engine + "0", "group_id", "2")
    d.ask_read("group engines after move", g, "engines")
    d.ask_read("group 2 engines", d.group + "2", "engines")
    for i in "01":
        d.quiet(d.wq + i, "group_id", "-1")
        d.quiet(d.engine + i, "group_id", "-1")


def wq_attributes(d: Idxd) -> None:
    """A work queue's attributes, and what one does to another."""
    w, other = d.wq + "0", d.wq + "1"
    d.stores(w, WQ_TABLE)
    if d.has(w, "op_config"):
        d.ask_read("op_cap", d.device, "op_cap")
        d.store(w, "op_config", str(call(d.read, d.device, "op_cap")))
    d.stores(other, [("size", ["112", "113", "111", "0"])])
    d.stores(w, [("size", ["4"])])
    d.ask_read("threshold after size shrink", w, "threshold")
    d.stores(w, [("threshold", ["5", "4"])])
    d.quiet(w, "mode", "dedicated")
    d.ask_read("threshold after dedicated", w, "threshold")
    d.stores(w, [("threshold", ["1", "0", "x", "99"]), ("enqcmds_retries", ["1", "x"])])
    d.ask_read("enqcmds_retries dedicated", w, "enqcmds_retries")
    _name_and_type(d, w)
    if d.has(w, "prs_disable"):
        d.stores(w, [("block_on_fault", ["1"]), ("prs_disable", ["1"])])
        d.ask_read("bof after prs_disable", w, "block_on_fault")
        d.stores(w, [("block_on_fault", ["1", "0"]), ("prs_disable", ["0"]), ("block_on_fault", ["1"])])
    d.quiet(w, "mode", "shared")
    d.quiet(w, "size", "0")
    d.dump(w, "afterwards ")


def _name_and_type(d: Idxd, w: str) -> None:
    d.quiet(w, "type", "user")
    d.quiet(w, "name", "keepme")
    d.quiet(w, "type", "user")
    d.ask_read("name after same type", w, "name")
    d.quiet(w, "type", "kernel")
    d.ask_read("name after other type", w, "name")
    d.stores(w, [("name", ["k"])])
    d.quiet(w, "type", "none")
    d.ask_read("name after none", w, "name")
    d.stores(w, [("name", ["n", "\n"])])


PARTS = {
    "inventory": inventory,
    "readonly": readonly,
    "device attrs": device_attributes,
    "engine attrs": engine_attributes,
    "group attrs": group_attributes,
    "wq attrs": wq_attributes,
}
