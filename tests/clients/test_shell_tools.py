"""pciutils, udevadm, kmod, findutils, tree, grep and busybox, unmodified, as root and as an ordinary user."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

NOBODY = 65534
WQ = "/sys/bus/dsa/devices/wq0.0"
WQ_PATH = "/devices/pci0000:6a/0000:6a:01.0/dsa0/wq0.0"
DEVICES = [
    "00:05.0 00ff: 1234:11e8 (rev 10)", "6a:01.0 0880: 8086:0b25", "6a:02.0 0880: 8086:0cfe", "6f:01.0 0880: 8086:0b25"
]  # fmt: skip

# What Linux says to cat of a file that root may open. fs/kernfs/file.c:kernfs_fop_open(): EACCES without a show;
# fs/sysfs/file.c:sysfs_kf_bin_read(): EIO without a read; drivers/base/power/sysfs.c:autosuspend_delay_ms_show(): EIO
# unless in use; drivers/dma/idxd/sysfs.c:wq_cdev_minor_show(): ENXIO without a node.
UNREADABLE = {
    **dict.fromkeys(("bind", "unbind", "uevent", "new_id", "remove_id", "drivers_probe"), "Permission denied"),
    **dict.fromkeys(("rescan", "remove", "reset"), "Permission denied"),
    **dict.fromkeys(("resource0", "resource2", "resource0_wc", "resource2_wc"), "Input/output error"),
    "autosuspend_delay_ms": "Input/output error",
    "cdev_minor": "No such device or address",
}

Tool = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(params=["root", "user"])
def tool(request: pytest.FixtureRequest, pykernel_run: object, require_program: Callable[[str], str]) -> Tool:
    """``tool("lspci", "-n", args=["--as", "nobody"])``: what it said under ``pykernel run``; it must be installed."""
    root = Path(__file__).parents[2]
    how: dict[str, Any] = {}
    python, env = sys.executable, {**os.environ, "LC_ALL": "C", "PYTHONDONTWRITEBYTECODE": "1"}
    if request.param == "user" and os.geteuid() == 0:  # our own Python may lie in a home that is closed to others
        python, how = "/usr/bin/python3", {"user": NOBODY, "group": NOBODY, "extra_groups": []}
        env["PYTHONPATH"] = os.pathsep.join([str(root), *(p for p in sys.path if p.endswith("site-packages"))])

    def run(*argv: str, args: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
        command = [python, "-m", "pykernel.tools.cli", "run", *args, "--", require_program(argv[0]), *argv[1:]]
        return subprocess.run(
            command, capture_output=True, text=True, timeout=120, check=False, cwd="/", env=env,
            stdin=subprocess.DEVNULL, **how,
        )  # fmt: skip

    if request.param == "root" and os.geteuid() != 0:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("not root")
    return run


def test_lspci_lists_the_machine(tool: Tool) -> None:
    """By sysfs and by /proc/bus/pci; the host's own devices are in neither."""
    assert tool("lspci", "-n").stdout.splitlines() == DEVICES
    assert tool("lspci", "-n", "-A", "linux-proc").stdout.splitlines() == DEVICES
    assert re.findall(r"\[0000:..\]|0[12]\.0", tool("lspci", "-t").stdout) == [
        "[0000:00]", "[0000:6a]", "01.0", "02.0", "[0000:6f]", "01.0",
    ]  # fmt: skip


def test_lspci_decodes_every_capability(tool: Tool) -> None:
    """No field that lspci cannot make sense of, nothing unreadable, and what a DSA has."""
    said = tool("lspci", "-vv", "-s", "6a:01.0").stdout
    assert not re.findall(r".*(?:\?>|<\?|!!!|rror:|nknown|access denied|chain broken).*", said)
    for line in (
        "Control: I/O+ Mem+ BusMaster+",
        "Region 0: Memory at 200000000000 (64-bit, prefetchable) [size=64K]",
        "Region 2: Memory at 200000020000 (64-bit, prefetchable) [size=128K]",
        "Capabilities: [40] Express (v2) Root Complex Integrated Endpoint, MSI 00",
        "ExtTag- RBE+ FLReset+",
        "Capabilities: [80] MSI-X: Enable+ Count=9 Masked-",
        "Capabilities: [90] Power Management version 3",
        "Address Translation Service (ATS)",
        "ATSCtl:\tEnable+",
        "Page Request Interface (PRI)",
        "Process Address Space ID (PASID)",
        "PASIDCtl: Enable+",
        "Kernel driver in use: idxd",
    ):
        assert line in said


def test_lspci_of_who_may_not_read_it_all(tool: Tool) -> None:
    """drivers/pci/pci-sysfs.c:pci_read_config(): 64 bytes without CAP_SYS_ADMIN."""
    said = tool("lspci", "-vv", "-s", "6a:01.0", args=("--as", "1234")).stdout
    assert "Capabilities: <access denied>" in said
    assert "Kernel driver in use: idxd" in said


def test_lspci_dumps_all_of_configuration_space(tool: Tool) -> None:
    rows = tool("lspci", "-xxxx", "-s", "6a:02.0").stdout.splitlines()[1:-1]
    assert len(rows) == 256
    assert rows[0] == "00: 86 80 fe 0c 07 05 10 00 00 00 80 08 00 00 00 00"


def test_setpci_reads_and_writes(tool: Tool) -> None:
    """By name, by capability, with a mask; the write is the silicon's, so bits that do not exist stay 0."""
    script = (
        "s() { setpci -s 6a:01.0 $@; }; s VENDOR_ID DEVICE_ID CAP_EXP+2.w ECAP_ATS+0.w; s COMMAND=0:400; s COMMAND;"
        " s LATENCY_TIMER=ff CACHE_LINE_SIZE=10; s LATENCY_TIMER CACHE_LINE_SIZE; s COMMAND=400:400; s COMMAND"
    )
    done = tool("sh", "-c", script)
    assert (done.stdout.split(), done.stderr) == (
        ["8086", "0b25", "0092", "000f", "0107", "00", "10", "0507"], "",
    )  # fmt: skip


def test_setpci_of_an_ordinary_user_is_refused(tool: Tool) -> None:
    script = "setpci -s 6a:01.0 COMMAND=0; setpci -s 6a:01.0 COMMAND"
    done = tool("sh", "-c", script, args=("--as", "1234"))
    assert done.stderr == "pcilib: Cannot open /sys/bus/pci/devices/0000:6a:01.0/config\n"
    assert done.stdout == "0507\n"


def test_udevadm_tells_of_a_device(tool: Tool) -> None:
    for path in (WQ, f"/sys{WQ_PATH}"):
        said = tool("udevadm", "info", path).stdout.splitlines()
        assert said[:3] == [f"P: {WQ_PATH}", "M: wq0.0", "R: 0"]
        assert {"U: dsa", f"E: DEVPATH={WQ_PATH}", "E: SUBSYSTEM=dsa"} <= set(said)


def test_a_work_queues_node_is_a_device(tool: Tool) -> None:
    """``udevadm info -n``, ``test -c``, find and ls look at the node of an enabled queue."""
    enable = (
        "accel-config config-engine dsa0/engine0.0 -g 0; accel-config config-wq dsa0/wq0.0 -g 0 -m dedicated -s 8"
        " -p 1 -y user -n app; accel-config enable-device dsa0; accel-config enable-wq dsa0/wq0.0"
    )
    node = "/dev/dsa/wq0.0"
    look = (
        f"udevadm info -n {node}; stat -c '%F %t:%T' {node}; test -c {node} && echo chr; find /dev/dsa -type c;"
        f" ls -l {node}; cat /sys/bus/dsa/devices/wq0.0/cdev_minor; grep dsa /proc/devices"
    )
    said = tool("sh", "-c", f"({enable}) >/dev/null 2>&1; {look}").stdout.splitlines()
    major, minor = int(said[-1].split()[0]), int(said[-2])
    assert said[:3] == [f"P: {WQ_PATH}/dsa!wq0.0", "M: dsa/wq0.0", "R: 0"]
    assert {f"D: c {major}:{minor}", "N: dsa/wq0.0", "E: DEVNAME=/dev/dsa/wq0.0", "E: SUBSYSTEM=dsa"} <= set(said)
    assert said[-6:-3] == [f"character special file {major:x}:{minor:x}", "chr", node]
    assert re.match(rf"crw-------\S* 1 \S+ +\S+ +{major}, +{minor} ", said[-3])


def test_udevadm_walks_up_with_all_attributes(tool: Tool) -> None:
    said = tool("udevadm", "info", "-a", "-p", "/bus/dsa/devices/wq0.0").stdout
    assert re.findall(r"looking at (?:parent )?device '(.*)'", said) == [
        WQ_PATH, WQ_PATH.rpartition("/")[0], "/devices/pci0000:6a/0000:6a:01.0", "/devices/pci0000:6a",
    ]  # fmt: skip
    own, _, parents = said.partition("looking at parent")
    for line in ('KERNEL=="wq0.0"', 'SUBSYSTEM=="dsa"', 'ATTR{size}=="0"', 'ATTR{mode}=="shared"'):
        assert line in own
    for line in ('DRIVERS=="idxd"', 'ATTRS{vendor}=="0x8086"', 'ATTRS{state}=="disabled"'):
        assert line in parents


def test_udevadm_exports_every_device(tool: Tool) -> None:
    """Its database has what /sys/bus has, and no more of these buses; the host's udevd added nothing."""
    listed = tool("sh", "-c", "cd /sys/bus; for d in dsa/devices/* pci/devices/*; do readlink -f $d; done").stdout
    for flag in ("-e", "--export-db"):
        said = tool("udevadm", "info", flag).stdout
        blocks = [block for block in said.split("\n\n") if re.search(r"^E: SUBSYSTEM=(dsa|pci)$", block, re.MULTILINE)]
        assert sorted(re.findall(r"^P: (.*)", "\n".join(blocks), re.MULTILINE)) == sorted(
            line.removeprefix("/sys") for line in listed.split()
        )
        assert "E: ID_" not in "".join(blocks)
        assert "E: PCI_ID=8086:0B25" in said


@pytest.mark.parametrize("who", ["root", "1234"])
def test_every_file_of_sysfs_can_be_read_or_says_why_as_linux_does(tool: Tool, who: str) -> None:
    """``find | xargs cat``: nothing hangs; each file of ours that cannot be read says Linux's errno."""
    done = tool(
        "sh", "-c", "find /sys/devices/pci* /sys/bus /sys/module -type f | xargs cat >/dev/null; echo done",
        args=("--as", who) if who != "root" else (),
    )  # fmt: skip
    assert done.stdout == "done\n"
    said = re.findall(r"^cat: '?(/sys/[^']*?)'?: (.*)$", done.stderr, re.MULTILINE)
    assert len(said) == len(done.stderr.splitlines())
    for path, words in said:
        expected = {UNREADABLE.get(path.rpartition("/")[2])} | ({"Permission denied"} if who != "root" else set())
        assert words in expected, path
    if who == "root":
        assert {path.rpartition("/")[2] for path, _ in said} >= {"uevent", "resource0", "cdev_minor", "reset"}


def test_all_of_sys_is_read_to_the_end(tool: Tool) -> None:
    """The host's parts, too: no file blocks, and find, ls, busybox find and tree walk through it all."""
    done = tool("sh", "-c", "find /sys -type f | xargs cat >/dev/null 2>&1; echo; ls -lR /sys | tail -1; echo done")
    assert done.stdout.endswith("done\n")
    walks = [tool(*argv, "/sys/bus", "/sys/devices/pci0000:6a").stdout for argv in (("find",), ("busybox", "find"))]
    assert sorted(walks[0].splitlines()) == sorted(walks[1].splitlines())


def test_tree_and_grep(tool: Tool) -> None:
    tree = tool("tree", "/sys/bus/dsa")
    assert f"wq0.0 -> ../../..{WQ_PATH}\n" in tree.stdout
    assert tree.stderr == ""
    assert tool("grep", "-r", ".", "/sys/bus/dsa/devices/").stdout == ""  # links are not followed
    assert f"{WQ}/size:0\n" in tool("grep", "-R", ".", WQ).stdout


def test_stat_says_the_file_systems(tool: Tool) -> None:
    for program in (("stat",), ("busybox", "stat")):
        assert tool(*program, "-f", "-c", "%T", "/sys", "/dev", "/proc").stdout.split() == ["sysfs", "tmpfs", "proc"]


def test_lsmod_reads_the_emulated_kernels_list(tool: Tool) -> None:
    """Where the host's kernel has no modules there is no /proc/modules that ours could be laid over."""
    for program in (("lsmod",), ("busybox", "lsmod")):
        done = tool(*program)
        if os.path.exists("/proc/modules"):
            assert {"idxd", "idxd_bus"} <= {line.split()[0] for line in done.stdout.splitlines()}
        else:
            assert "No such file or directory" in done.stderr


def test_lspci_names_the_driver(tool: Tool) -> None:
    """Module names are of /lib/modules, which is the host's; without it lspci says so and goes on."""
    done = tool("lspci", "-nnk")
    assert done.stdout.count("\tKernel driver in use: idxd\n") == 3
    assert done.returncode == 0
