"""``pykernel tree`` of machines that have mediated devices and IOMMU groups."""

from __future__ import annotations

import io
import re
import sys

import pytest
from rich.console import Console
from vfioclient import Container

import pykernel as package
from pykernel import machine
from pykernel.tools.tree import draw_all

UUIDS = [f"{n:08x}-0000-4000-8000-000000000000" for n in range(3)]
TEXT = '[[pci]]\nmodel = "edu"\n[modules]\nvfio_iommu_type1 = ""\nmtty = ""\n'


def drawn(kernel) -> list[str]:
    """The lines, without what draws the branches."""
    out = io.StringIO()
    Console(file=out, width=200).print(draw_all(kernel.process(comm="tree")))
    return [re.sub(r"^[ │├└─]+", "", line) for line in out.getvalue().splitlines()]


@pytest.mark.parametrize("profile", ["linux-6.1", "linux-6.12"])
def test_parents_types_devices_and_who_has_them_open(profile):
    kernel = package.boot(machine.parse(TEXT), profile)
    proc = kernel.process(comm="qemu")
    for n, uuid in enumerate(UUIDS):
        proc.write_text(f"/sys/class/mdev_bus/mtty/mdev_supported_types/mtty-{n % 2 + 1}/create", uuid)
    Container(proc).device(f"/sys/bus/mdev/devices/{UUIDS[1]}")
    proc.write_text("/sys/bus/mdev/drivers/mtty/unbind", UUIDS[2])

    lines = drawn(kernel)

    who = f"open in qemu ({proc.pid})"
    group = proc.readlink(f"/sys/bus/mdev/devices/{UUIDS[1]}/iommu_group").rpartition("/")[2]
    start = lines.index("/sys/class/mdev_bus")
    assert lines[start + 1 : start + 7] == [
        "mtty virtual/mtty/mtty",
        "mtty-1 21 available Single port serial, vfio-pci",
        f"{UUIDS[0]} mtty group {int(group) - 1}",
        f"{UUIDS[2]} no driver",
        "mtty-2 10 available Dual port serial, vfio-pci",
        f"{UUIDS[1]} mtty group {group} {who}",
    ]
    start = lines.index("/sys/kernel/iommu_groups")
    assert "0000:6a:01.0 no driver" in lines[start:]
    assert lines[lines.index(f"{group} unknown {who}", start) + 1] == f"{UUIDS[1]} mtty"
    assert lines[-1] == f"/dev/vfio/vfio {who}"


def test_the_core_alone():
    """What else there is to see is not preceded by the accelerators that a machine does not have."""
    assert drawn(package.boot(machine.parse('[modules]\nmdev = ""\n'))) == ["/sys/class/mdev_bus", "no parents"]


def test_groups_alone():
    """As the machine before, with a group; a bus without accelerators is drawn all the same."""
    assert drawn(package.boot(machine.parse('[[pci]]\nmodel = "edu"\n'))) == [
        "/sys/kernel/iommu_groups",
        "0 DMA-FQ",
        "0000:6a:01.0 no driver",
    ]
    both = drawn(package.boot(machine.parse('[[pci]]\nmodel = "edu"\n[modules]\nidxd = ""\n')))
    assert both[:3] == ["/sys/bus/dsa/devices", "no devices", "/sys/kernel/iommu_groups"]


def test_a_machine_that_has_nothing_of_it():
    kernel = package.boot(machine.Machine("bare", iommu=machine.IommuSpec(enabled=False, sva=False)))

    assert drawn(kernel) == ["/sys/bus/dsa/devices", "no such bus: the module idxd is not loaded"]


def test_tree_here_finds_programs_that_have_a_group_open(pykernel, fuse):
    """Inside ``pykernel run``, by what /proc says, as fuser(1) does."""
    script = f"""
        printf %s {UUIDS[0]} > /sys/class/mdev_bus/mtty/mdev_supported_types/mtty-1/create
        exec 3<>/dev/vfio/0
        {sys.executable} -m pykernel.tools.cli tree --here 3>&-
    """
    done = pykernel("run", "--machine", "mdev", "--", "sh", "-c", script)

    assert re.search(rf"{UUIDS[0]} mtty group 0 open in sh \(\d+\)", done.stdout), done.stdout + done.stderr


def test_tree_here_says_what_the_tree_of_a_machine_says(pykernel, fuse, tmp_path):
    """A function that no driver has is told so, and no bus is missed."""
    file = tmp_path / "edu.toml"
    file.write_text('[[pci]]\nmodel = "edu"\n')
    here = pykernel("run", "--machine", str(file), "--", sys.executable, "-m", "pykernel.tools.cli", "tree", "--here")

    assert here.stdout == pykernel("tree", "--machine", str(file)).stdout
    assert "0000:6a:01.0 no driver\n" in here.stdout
