"""Commands that print: tree, dmesg, trace, module, ioctls."""

from __future__ import annotations

import io
import json
import re
import termios

import pytest
from rich.console import Console

import pykernel as package
from pykernel.fs.ioctl import VFS_IOCTLS
from pykernel.syscalls import SYSCALLS
from pykernel.tools.dsa import enable_wq
from pykernel.tools.ioctls import NOT_BUILT, table
from pykernel.tools.trace import Filter, lines
from pykernel.tools.tree import draw
from pykernel.uapi.linux.eventpoll import EPIOCSPARAMS


def drawn(proc) -> str:
    out = io.StringIO()
    Console(file=out, width=200).print(draw(proc))
    return out.getvalue()


def test_tree_shows_what_was_configured():
    proc = package.boot("dsa").process()
    enable_wq(proc, "wq0.1", group_id=2, size=7, name="[mine]", priority=3)

    text = drawn(proc)

    device = text[text.index("dsa0 enabled") : text.index("iax1 disabled")]
    group = device[device.index("group0.2") : device.index("group0.3")]
    assert "wq0.1 enabled dedicated size 7 priority 3 type user name [mine]" in group
    assert "engine0.0" in group
    assert text.count("wq0.") == text.count("wq1.") == text.count("wq2.") == 8


def test_tree_of_a_machine_without_the_bus(tmp_path):
    file = tmp_path / "bare.toml"
    file.write_text('name = "bare"\n')

    assert "idxd is not loaded" in drawn(package.boot(str(file)).process())


def test_tree_here_draws_what_the_client_sees(pykernel, fuse):
    """In `pykernel run` it draws that machine, with no second kernel."""
    script = "echo 9 > /sys/bus/dsa/devices/wq2.7/size; exec {0} -m pykernel.tools.cli tree --here"
    import sys

    done = pykernel("run", "--", "sh", "-c", script.format(sys.executable))

    assert re.search(r"wq2\.7 disabled shared size 9", done.stdout), done.stdout + done.stderr


def test_dmesg_is_the_kernels_log(pykernel):
    kernel = package.boot("dsa")
    kernel.up()

    assert pykernel("dmesg", "--machine", "dsa").stdout == kernel.log.human()


def test_dmesg_json_has_one_object_a_record(pykernel):
    rows = [json.loads(line) for line in pykernel("dmesg", "--json").stdout.splitlines()]

    assert {"time", "level", "event"} <= rows[0].keys()
    assert any(r["level"] == "warning" and "No in-kernel DMA with PASID." in r["event"] for r in rows)


def test_trace_of_a_boot_has_the_registers_that_the_driver_touches(pykernel):
    done = pykernel("trace", "--machine", "dsa", "--name", "mmio_read")

    assert done.stdout
    assert all(" mmio_read: " in line for line in done.stdout.splitlines())


ROWS = [
    {"time_ns": 1000, "task": "a-1", "name": "syscall", "fields": {"name": "open", "result": 3}},
    {"time_ns": 2000, "task": "b-2", "name": "syscall", "fields": {"name": "open", "error": "EPERM", "why": "no"}},
    {"time_ns": 3000, "task": "b-2", "name": "mmio_write", "fields": {"off": 160}},
]


@pytest.mark.parametrize(
    ("wanted", "kept"),
    [
        (Filter(), [0, 1, 2]),
        (Filter(errors=True), [1]),
        (Filter(name="mmio_*"), [2]),
        (Filter(task="b-*"), [1, 2]),
        (Filter(grep="why=no"), [1]),
        (Filter(name="syscall", task="a-*", errors=True), []),
    ],
    ids=["all", "errors", "name", "task", "grep", "together"],
)
def test_filters(wanted, kept):
    everything = list(lines(ROWS, Filter()))

    assert list(lines(ROWS, wanted)) == [everything[n] for n in kept]


def test_a_trace_says_which_call_failed_and_why(pykernel, tmp_path):
    from pykernel.tools.options import trace_to

    file = tmp_path / "t.jsonl"
    kernel = package.boot("dsa")
    with file.open("w") as out:
        trace_to(kernel, out)
        with pytest.raises(PermissionError):
            kernel.process(uid=1000).write_text("/sys/bus/dsa/devices/wq0.0/size", "1\n")

    done = pykernel("trace", str(file), "--errors")

    (line,) = done.stdout.splitlines()
    assert "syscall: name=open" in line
    assert "error=EACCES" in line


@pytest.mark.parametrize("text", ["nonsense\n", '{"time_ns": 1}\n', "[]\n", '{"time_ns": "1", "fields": {}}\n'])
def test_what_is_no_trace_is_said_with_its_line(pykernel, tmp_path, text):
    file = tmp_path / "t.jsonl"
    file.write_text(json.dumps(ROWS[0]) + "\n" + text)

    done = pykernel("trace", str(file))

    assert done.returncode == 1
    assert done.stderr == f"pykernel: {file}:2: not an event; a trace is what pykernel run --trace FILE wrote\n"


def test_trace_json_prints_what_was_recorded(pykernel, tmp_path):
    file = tmp_path / "t.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))

    done = pykernel("trace", str(file), "--json", "--errors")

    assert [json.loads(line) for line in done.stdout.splitlines()] == [ROWS[1]]


def test_modules_are_listed_with_their_state(pykernel):
    words = {line.split()[0]: line.split()[1] for line in pykernel("module", "list").stdout.splitlines()}

    assert words["idxd"] == words["idxd_bus"] == "loaded"


def test_module_info_tells_parameters(pykernel):
    done = pykernel("module", "info", "idxd")

    assert "depends:        idxd_bus\n" in done.stdout
    assert "parm:           sva (bool, default Y, mode 0o644)\n" in done.stdout


def test_an_unknown_module_is_one_sentence(pykernel):
    done = pykernel("module", "info", "e1000")

    assert done.returncode == 1
    assert done.stderr.startswith("pykernel: no module 'e1000'; there are: ")


def test_the_support_table_has_every_call_once():
    calls = [row.name for row in table() if row.kind == "call"]

    assert calls == [row.name for row in SYSCALLS]
    assert len(set(calls)) == len(calls)


def test_the_support_table_has_the_ioctls_of_the_headers():
    row = next(row for row in table() if row.name == "EPIOCSPARAMS")

    assert int(row.number, 16) == EPIOCSPARAMS.nr == 0x40088A01


@pytest.mark.parametrize(
    ("number", "names"),
    [
        (0x3B70, {"VFIO_DEVICE_GET_PCI_HOT_RESET_INFO": "vfio-pci", "VFIO_IOMMU_GET_INFO": "container of type 1"}),
        (0x3B75, {"VFIO_DEVICE_FEATURE": "a VFIO device", "VFIO_IOMMU_DIRTY_PAGES": "container of type 1"}),
        (0x3B68, {"VFIO_GROUP_SET_CONTAINER": "a VFIO group"}),
    ],
    ids=lambda x: f"{x:#x}" if isinstance(x, int) else "",
)
def test_one_number_is_a_row_for_each_kind_of_file(number, names):
    """VFIO's numbers mean one thing to a container and another to a device."""
    notes = {row.name: row.note for row in table() if row.number == f"{number:#010x}"}

    for name, who in names.items():
        assert who in notes[name]


def test_the_support_table_has_the_ioctls_that_every_file_answers():
    """The numbers are asm-generic/ioctls.h's."""
    rows = {row.name: int(row.number, 16) for row in table() if row.kind == "ioctl"}

    assert rows["FIONREAD"] == termios.FIONREAD
    assert rows["FIOCLEX"] == termios.FIOCLEX
    assert set(rows.values()) == VFS_IOCTLS


@pytest.mark.parametrize("row", [r for r in NOT_BUILT if r.note.startswith("ENOENT")], ids=lambda r: r.name)
def test_what_is_not_built_is_indeed_not_there(row):
    """The table must not say less than there is."""
    proc = package.boot("full").process()
    where, _, name = row.name.rpartition("/")
    try:
        there = proc.listdir(where)
    except FileNotFoundError:
        there = []

    assert [n for n in there if n.startswith(name.rstrip("*")) and name.rstrip("*")] == []
    assert not (name == "*" and there)


def test_the_support_table_is_searched_by_name(pykernel):
    rows = [json.loads(line) for line in pykernel("ioctls", "--json", "eventfd2").stdout.splitlines()]

    assert [row["name"] for row in rows] == ["eventfd2"]
