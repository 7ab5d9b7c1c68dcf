"""Functions that share a slot: one IOMMU group, and no reset by their bus, as recorded of Linux 6.1 on QEMU."""

from __future__ import annotations

import os

import pytest

import pykernel
from pykernel.machine import Cpu, IommuSpec, Machine, PciSpec
from pykernel.pci.core import Pci

ROWS = (
    PciSpec("root-port", "0000:00:04.0", {"secondary": 1}),
    PciSpec("root-port", "0000:00:05.0", {"secondary": 2}),
    PciSpec("edu", "0000:01:00.0", {}),
    PciSpec("edu", "0000:01:00.1", {}),
    PciSpec("edu", "0000:02:00.0", {}),
)
DEVICES = "/sys/bus/pci/devices"


@pytest.fixture
def kernel():
    """Two functions below one port, one below another."""
    kernel = pykernel.boot(Machine("ports", Cpu(count=1), IommuSpec(), ROWS, {}))
    kernel.up()
    yield kernel
    kernel.shutdown()


def test_functions_of_a_slot_are_one_group(kernel):
    """drivers/iommu/iommu.c:get_pci_function_alias_group(): without ACS between them."""
    proc = kernel.process()
    group = [os.path.basename(proc.readlink(f"{DEVICES}/{row.address}/iommu_group")) for row in ROWS[2:]]
    assert group[0] == group[1] != group[2]
    assert sorted(proc.listdir(f"/sys/kernel/iommu_groups/{group[0]}/devices")) == ["0000:01:00.0", "0000:01:00.1"]


def test_function_0_says_that_there_are_more(kernel):
    """PCI_HEADER_TYPE bit 7; a reset leaves it."""
    slots = kernel.sub(Pci).slots
    for _ in range(2):
        headers = [slots[row.address].function.config_read(0x0E, 1) for row in ROWS[2:]]
        assert headers == [0x80, 0, 0]
        slots["0000:01:00.0"].function.hot_reset()


def test_a_bus_with_two_functions_is_reset_for_none(kernel):
    """The first was found alone, so it has the method; drivers/pci/pci.c:pci_parent_bus_reset() then says ENOTTY."""
    proc = kernel.process()
    assert proc.read_text(f"{DEVICES}/0000:01:00.0/reset_method") == "bus\n"
    assert "reset_method" not in proc.listdir(f"{DEVICES}/0000:01:00.1")
    with pytest.raises(OSError, match="Inappropriate ioctl"):
        proc.write_text(f"{DEVICES}/0000:01:00.0/reset", "1")
    assert proc.write_text(f"{DEVICES}/0000:02:00.0/reset", "1") == 1
