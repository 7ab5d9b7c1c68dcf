"""A VFIO device as a guest sees it through the VMM: configuration space, BARs, mapped portals, MSI-X."""

from __future__ import annotations

import pytest

from pykernel import boot, machine
from pykernel.tools.vmm.device import AssignedDevice
from pykernel.tools.vmm.vfio import VfioContainer
from pykernel.uapi.linux import pci_regs as r
from pykernel.uapi.linux import vfio as v

BDF = "0000:6a:01.0"
TOML = f"""
[[pci]]
model = "dsa"
address = "{BDF}"
[modules]
vfio_pci = "disable_denylist=1"
vfio_iommu_type1 = ""
"""
PORTALS, WHERE = 2, 0x380000000000


class Slots:
    def __init__(self):
        self.now = {}
        self.next = 0

    def add(self, gpa, size, hva):
        self.next += 1
        self.now[self.next] = (gpa, size, hva)
        return self.next

    def remove(self, slot):
        del self.now[slot]


class Routes:
    """Eventfds that somebody has."""

    def __init__(self):
        self.now = {}
        self.next = 0

    def attach(self, fd, address, data):
        self.next += 1
        self.now[self.next] = (fd, address, data)
        return self.next

    def change(self, route, address, data):
        self.now[route] = (self.now[route][0], address, data)

    def detach(self, route, fd):
        assert self.now.pop(route)[0] == fd


class Board:
    def __init__(self):
        self.kernel = boot(machine.parse(TOML))
        self.proc = proc = self.kernel.process(comm="vmm")
        proc.write_text(f"/sys/bus/pci/devices/{BDF}/driver_override", "vfio-pci")
        proc.write_text("/sys/bus/pci/drivers_probe", BDF)
        self.container = VfioContainer(proc, v.VFIO_TYPE1v2_IOMMU)
        self.slots, self.routes = Slots(), Routes()
        device = self.container.device(f"/sys/bus/pci/devices/{BDF}")
        self.device = AssignedDevice(proc, device, "0000:00:04.0", self.slots, self.routes)

    def close(self):
        self.device.close()
        self.container.close()
        self.proc.exit()
        self.kernel.shutdown()


@pytest.fixture
def board():
    made = Board()
    yield made
    made.close()
    assert not made.slots.now
    assert not made.routes.now


def decode(device):
    device.config_write(r.PCI_BASE_ADDRESS_0 + 4 * PORTALS, 4, WHERE & 0xFFFFFFFF)
    device.config_write(r.PCI_BASE_ADDRESS_0 + 4 * PORTALS + 4, 4, WHERE >> 32)
    device.config_write(r.PCI_COMMAND, 2, r.PCI_COMMAND_MEMORY | r.PCI_COMMAND_MASTER)


def test_it_has_the_ids_of_the_host_s_device(board):
    assert board.device.config_read(0, 4) == 0x0B258086


def test_a_bar_that_is_sized_has_no_slot(board):
    device = board.device
    device.config_write(r.PCI_COMMAND, 2, r.PCI_COMMAND_MEMORY)
    device.config_write(r.PCI_BASE_ADDRESS_0 + 4 * PORTALS, 4, 0xFFFFFFFF)
    device.config_write(r.PCI_BASE_ADDRESS_0 + 4 * PORTALS + 4, 4, 0xFFFFFFFF)

    low = device.config_read(r.PCI_BASE_ADDRESS_0 + 4 * PORTALS, 4)

    assert -(low & -16) & 0xFFFFFFFF == device.device.regions[PORTALS].size
    assert not board.slots.now


def test_portals_are_memory_of_the_guest_while_their_bar_decodes(board):
    decode(board.device)

    ((gpa, size, hva),) = board.slots.now.values()
    assert (gpa, size) == (WHERE, board.device.device.regions[PORTALS].size)
    assert board.proc.mem.vmas.find(hva).io is not None

    board.device.config_write(r.PCI_COMMAND, 2, 0)

    assert not board.slots.now


def test_registers_are_trapped_and_the_table_of_msix_is_the_vmm_s(board):
    device = board.device
    decode(device)
    version = device.mmio_read(0, 0, 4)
    control = device._control
    table = device.config_read(control + r.PCI_MSIX_TABLE, 4)

    device.mmio_write(0, table & ~7, 8, 0xFEE00000)
    device.mmio_write(0, (table & ~7) + 8, 4, 77)
    device.mmio_write(0, (table & ~7) + 12, 4, 0)

    assert version == 0x100
    assert device.mmio_read(0, (table & ~7) + 8, 4) == 77
    assert not board.routes.now


def test_an_unmasked_vector_of_enabled_msix_is_a_route(board):
    device = board.device
    decode(device)
    table = device.config_read(device._control + r.PCI_MSIX_TABLE, 4) & ~7
    for entry, data in ((0, 40), (2, 42)):
        device.mmio_write(0, table + 16 * entry, 4, 0xFEE00000)
        device.mmio_write(0, table + 16 * entry + 8, 4, data)
        device.mmio_write(0, table + 16 * entry + 12, 4, 0)

    device.config_write(device._control + r.PCI_MSIX_FLAGS, 2, r.PCI_MSIX_FLAGS_ENABLE)

    assert sorted((a, d) for _, a, d in board.routes.now.values()) == [(0xFEE00000, 40), (0xFEE00000, 42)]
    assert device.config_read(device._control + r.PCI_MSIX_FLAGS, 2) & r.PCI_MSIX_FLAGS_ENABLE

    device.mmio_write(0, table + 8, 4, 41)
    device.mmio_write(0, table + 16 * 2 + 12, 4, 1)

    assert [(a, d) for _, a, d in board.routes.now.values()] == [(0xFEE00000, 41)]


def test_what_arrives_at_a_masked_vector_is_pending(board):
    device = board.device
    decode(device)
    pba = device.config_read(device._control + r.PCI_MSIX_PBA, 4) & ~7
    device.config_write(device._control + r.PCI_MSIX_FLAGS, 2, r.PCI_MSIX_FLAGS_ENABLE)

    board.proc.write(device.msix.fds[3], (1).to_bytes(8, "little"))

    assert device.mmio_read(0, pba, 8) == 1 << 3


def test_a_reset_of_the_function_ends_its_vectors(board):
    device = board.device
    decode(device)
    device.config_write(device._control + r.PCI_MSIX_FLAGS, 2, r.PCI_MSIX_FLAGS_ENABLE)
    at = device._caps[r.PCI_CAP_ID_EXP] + r.PCI_EXP_DEVCTL

    device.config_write(at, 2, device.config_read(at, 2) | r.PCI_EXP_DEVCTL_BCR_FLR)

    assert not device.config_read(device._control + r.PCI_MSIX_FLAGS, 2) & r.PCI_MSIX_FLAGS_ENABLE
    assert not device.msix.fds
