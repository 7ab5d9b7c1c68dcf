"""Bridges: a root port and a switch, what is below them in /sys, their windows, and resets of the bus below."""

from __future__ import annotations

import os

import pytest

import pykernel
from pykernel.machine import MachineError, parse

PORT, BELOW = "0000:64:00.0", "0000:65:00.0"
MACHINE = f"""
[[pci]]
model = "root-port"
address = "{PORT}"
secondary = 0x65
[[pci]]
model = "edu"
address = "{BELOW}"
"""
SWITCH = """
[[pci]]
model = "root-port"
address = "0000:64:00.0"
secondary = 0x65
subordinate = 0x68
[[pci]]
model = "upstream-port"
address = "0000:65:00.0"
secondary = 0x66
subordinate = 0x68
[[pci]]
model = "downstream-port"
address = "0000:66:00.0"
secondary = 0x67
[[pci]]
model = "downstream-port"
address = "0000:66:01.0"
secondary = 0x68
[[pci]]
model = "edu"
address = "0000:67:00.0"
[[pci]]
model = "dsa"
address = "0000:68:00.0"
"""


@pytest.fixture
def proc():
    kernel = pykernel.boot(parse(MACHINE))
    proc = kernel.process()
    yield proc
    proc.exit()
    kernel.shutdown()


def message_address(proc, device: str, value: int | None = None) -> int:
    """The address of edu's MSI capability, which a reset forgets; stored first if there is a *value*."""
    fd = proc.open(f"{device}/config", os.O_RDWR)
    if value is not None:
        proc.pwrite(fd, value.to_bytes(4, "little"), 0x44)
    found = int.from_bytes(proc.pread(fd, 4, 0x44), "little")
    proc.close(fd)
    return found


def test_what_is_behind_a_port_lies_below_it_in_sys(proc):
    """As lspci -t and every tool that walks up a path expect it."""
    root = "/sys/devices/pci0000:64"

    assert proc.realpath(f"/sys/bus/pci/devices/{BELOW}") == f"{root}/{PORT}/{BELOW}"
    assert proc.realpath("/sys/class/pci_bus/0000:65") == f"{root}/{PORT}/pci_bus/0000:65"
    assert proc.realpath("/sys/class/pci_bus/0000:65/device") == f"{root}/{PORT}"
    assert proc.read_text(f"{root}/{PORT}/secondary_bus_number") == "101\n"
    assert proc.read_text(f"{root}/{PORT}/subordinate_bus_number") == "101\n"
    assert proc.read_text(f"{root}/{PORT}/class") == "0x060400\n"
    assert "secondary_bus_number" not in proc.listdir(f"{root}/{PORT}/{BELOW}")


def test_a_port_has_its_driver(proc):
    """pcieport, which is built in: it has no module."""
    assert os.path.basename(proc.realpath(f"/sys/bus/pci/devices/{PORT}/driver")) == "pcieport"
    assert "module" not in proc.listdir("/sys/bus/pci/drivers/pcieport")


def resources(proc, bdf):
    rows = proc.read_text(f"/sys/bus/pci/devices/{bdf}/resource").splitlines()
    return [tuple(int(word, 16) for word in row.split()) for row in rows]


def test_the_windows_hold_what_is_below(proc):
    """Memory base and limit in configuration space, and the rows of resource, agree and hold the BAR."""
    rows = resources(proc, PORT)
    config = proc.read(proc.open(f"/sys/bus/pci/devices/{PORT}/config"), 64)
    base, limit = (int.from_bytes(config[at : at + 2], "little") >> 4 << 20 for at in (0x20, 0x22))
    start, end, flags = rows[14]
    bar = resources(proc, BELOW)[0]

    assert len(rows) == 17
    assert len(resources(proc, BELOW)) == 13
    assert flags == 0x200
    assert (base, limit + (1 << 20) - 1) == (start, end)
    assert start <= bar[0] <= bar[1] <= end


def test_the_function_below_is_reset_with_its_bus(proc):
    """It is alone there, so it has the method "bus"; state is saved and restored."""
    where = f"/sys/bus/pci/devices/{BELOW}"
    proc.write_text(f"{where}/enable", "1")
    bar = proc.open(f"{where}/resource0", os.O_RDWR)
    regs = proc.mmap(0, 4096, 3, 1, bar)
    proc.store(regs + 4, (0x12345678).to_bytes(4, "little"))
    before = resources(proc, BELOW)
    assert proc.read_text(f"{where}/reset_method") == "bus\n"
    message_address(proc, where, 0xFEE01000)
    assert message_address(proc, where) == 0xFEE01000

    proc.write_text(f"{where}/reset", "1")

    assert message_address(proc, where) == 0
    assert int.from_bytes(proc.load(regs + 4, 4), "little") == 0xEDCBA987  # QEMU's edu does not reset its registers
    assert int.from_bytes(proc.load(regs, 4), "little") == 0x010000ED  # it still decodes
    assert resources(proc, BELOW) == before
    proc.write_text(f"{where}/enable", "0")


def test_reset_subordinate_resets_all_below():
    """Through a whole switch; the ports below keep their windows and numbers."""
    kernel = pykernel.boot(parse(SWITCH))
    proc = kernel.process()
    edu = "/sys/bus/pci/devices/0000:67:00.0"
    assert proc.realpath(edu) == "/sys/devices/pci0000:64/0000:64:00.0/0000:65:00.0/0000:66:00.0/0000:67:00.0"
    proc.write_text(f"{edu}/enable", "1")
    message_address(proc, edu, 0xFEE01000)

    proc.write_text("/sys/bus/pci/devices/0000:64:00.0/reset_subordinate", "1")

    assert message_address(proc, edu) == 0
    assert proc.read_text("/sys/bus/pci/devices/0000:66:01.0/secondary_bus_number") == "104\n"
    proc.exit()
    kernel.shutdown()


def test_a_bridge_takes_what_is_below_with_it(proc):
    """remove of the port; a rescan finds both again."""
    proc.write_text(f"/sys/bus/pci/devices/{PORT}/remove", "1")
    assert proc.listdir("/sys/bus/pci/devices") == []
    assert "0000:65" not in proc.listdir("/sys/class/pci_bus")

    proc.write_text("/sys/bus/pci/rescan", "1")

    assert sorted(proc.listdir("/sys/bus/pci/devices")) == [PORT, BELOW]
    assert proc.realpath(f"/sys/bus/pci/devices/{BELOW}").endswith(f"{PORT}/{BELOW}")


def test_a_port_without_a_bus_number_is_refused():
    """One sentence that says what is missing."""
    with pytest.raises(MachineError, match="secondary is missing"):
        parse('[[pci]]\nmodel = "root-port"\n')
