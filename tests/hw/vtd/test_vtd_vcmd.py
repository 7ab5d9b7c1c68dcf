"""Virtual commands in both layouts, on registers that no silicon has; a unit made of the model's parts."""

from __future__ import annotations

import pytest

from pykernel.hw.vtd import regs as r
from pykernel.hw.vtd.queue import InvalidationQueue, Kind
from pykernel.hw.vtd.vcmd import EARLY, LAYOUT, NO_PASID, SUCCESS, VirtualCommands


class Unit(InvalidationQueue):
    """An emulated unit: memory is a bytearray, and what it is told is a list."""

    def __init__(self, capability: int = 0b111, layout=LAYOUT, *, late: bool = False) -> None:
        self.memory = bytearray(1 << 16)
        self.told, self.messages, self.asked = [], [], []
        self.late = late
        super().__init__(0, r.ECAP_QI | r.ECAP_VCS, vcmd=VirtualCommands(capability, self.serve, layout))

    def serve(self, command: int, operand: int, operand_b: int):
        self.asked.append((command, operand, operand_b))
        if self.late:
            return None
        return (SUCCESS, 0xABCDE) if command == 1 else (SUCCESS if operand == 7 else NO_PASID, 0)

    def read_phys(self, pa: int, n: int) -> bytes:
        return bytes(self.memory[pa : pa + n])

    def write_phys(self, pa: int, data: bytes) -> None:
        self.memory[pa : pa + len(data)] = data

    def send_message(self, address: int, data: int) -> None:
        self.messages.append((address, data))

    def on_invalidate(self, what) -> None:
        self.told.append(what)


# drivers/iommu/intel/pasid.h of 6.1, and of 5.8: command, response and result of each
PLACES = [
    pytest.param(LAYOUT, 0xE00, 0xE10, 0xE30, 16, 16, 0x7F, id="from 3.3 on"),
    pytest.param(EARLY, 0xE10, 0xE20, 0xE00, 8, 2, 0x3, id="5.8 to 5.13"),
]


@pytest.mark.parametrize(("layout", "vcmd", "vcrsp", "vccap", "shift", "none", "mask"), PLACES)
def test_allocate_and_free(layout, vcmd, vcrsp, vccap, shift, none, mask):
    unit = Unit(layout=layout)
    assert unit.readq(vccap) == 0b111
    unit.writeq(vcmd, 1)
    answer = unit.readq(vcrsp)
    assert (answer & 1, answer >> 1 & mask, answer >> shift & 0xFFFFF) == (0, 0, 0xABCDE)
    unit.writeq(vcmd, 2 | 7 << shift)
    assert unit.readq(vcrsp) == 0
    unit.writeq(vcmd, 2 | 8 << shift)
    assert unit.readq(vcrsp) >> 1 & mask == none
    assert unit.asked == [(1, 0, 0), (2, 7, 0), (2, 8, 0)]


@pytest.mark.parametrize(
    ("capability", "command", "status"), [(1, 1, 1), (0b101, 1, 1), (0b011, 2, 1), (7, 3, 1), (7, 0, 0)]
)
def test_commands_that_are_not_there(capability, command, status):
    """Undefined; the null command is always one."""
    unit = Unit(capability)
    unit.writeq(0xE00, command)
    assert (unit.readq(0xE10), unit.asked) == (status << 1, [])


def test_a_command_in_progress():
    """IP is set until it is done; what is written meanwhile is dropped."""
    unit = Unit(late=True)
    unit.writeq(0xE08, 0x55)
    unit.writeq(0xE00, 1)
    assert unit.readq(0xE10) == 1
    unit.writeq(0xE00, 2 | 7 << 16)
    assert unit.asked == [(1, 0, 0x55)]
    assert unit.vcmd is not None
    unit.vcmd.complete(SUCCESS, 9)
    assert unit.readq(0xE10) == 9 << 16
    unit.writeq(0xE00, 1)
    assert len(unit.asked) == 2


def test_a_command_of_4_bytes_is_none():
    unit = Unit()
    unit.writel(0xE00, 1)
    assert (unit.asked, unit.readq(0xE00)) == ([], 0)


def test_an_emulated_unit_hears_every_descriptor():
    """Registers and queue are the model's: the VMM only says what memory is, and hears what the guest wants."""
    unit = Unit()
    unit.writeq(r.IQA, 0x1000 | 1 << 11)
    unit.writel(r.GCMD, r.QIE)
    descriptors = [
        (7 | 1 << 4 | 3 << 16 | 201 << 32, 0, 0, 0),
        (6 | 3 << 4 | 3 << 16 | 201 << 32, 0x7000 | 1 << 6 | 1, 0, 0),
        (9 | 1 << 4 | 0x10 << 16 | 201 << 32 | 1 << 12, 5 << 3 | 4, 0, 0),
        (5 | 1 << 5 | 2 << 32, 0x3000, 0, 0),
    ]
    for n, words in enumerate(descriptors):
        for i, word in enumerate(words):
            unit.write_phys(0x1000 + 32 * n + 8 * i, word.to_bytes(8, "little"))
    unit.writel(r.IQT, 128)
    assert [what.kind for what in unit.told] == [Kind.PASID, Kind.PASID_IOTLB, Kind.PAGE_RESPONSE]
    pasid, iotlb, answer = unit.told
    assert (pasid.granularity, pasid.did, pasid.pasid) == (1, 3, 201)
    assert (iotlb.addr, iotlb.order, iotlb.hint, iotlb.pasid) == (0x6000, 1, True, 201)
    assert (answer.source, answer.words) == (0x10, descriptors[2])
    assert unit.read_phys(0x3000, 4) == bytes([2, 0, 0, 0])
