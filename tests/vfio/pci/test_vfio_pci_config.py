"""Configuration space as the user of vfio-pci sees it: vfio_pci_config.c, row by row."""

from __future__ import annotations

import pytest
from vfiocard import DVSEC, ERR, EXP, EXT_VENDOR, MSI, MSIX, PASID, PM, SSVID, VENDOR, VPD, Card

from pykernel.hw.edu import EduFunction
from pykernel.uapi.linux import pci_regs as r

ONES = 0xFFFFFFFF

# written, then what the user reads and what the function has; None: as before
WRITES = [
    pytest.param(r.PCI_VENDOR_ID, 4, 0, None, None, id="vendor and device: read-only"),
    pytest.param(r.PCI_COMMAND, 2, 0x0506, 0x0506, 0x0506, id="COMMAND: all; INTx is masked in the function, too"),
    pytest.param(r.PCI_STATUS, 2, 0xFFFF, None, None, id="STATUS: read-only"),
    pytest.param(r.PCI_CACHE_LINE_SIZE, 1, 0x10, 0x10, 0x10, id="cache line size: the function's"),
    pytest.param(r.PCI_REVISION_ID, 4, 0, None, None, id="revision and class: read-only"),
    pytest.param(r.PCI_BASE_ADDRESS_0, 4, ONES, 0xFFFFC00C, None, id="BAR0: sizes itself, with its flags"),
    pytest.param(r.PCI_BASE_ADDRESS_1, 4, ONES, ONES, None, id="BAR1: upper half"),
    pytest.param(r.PCI_BASE_ADDRESS_2, 4, ONES, 0xFFFFF000, None, id="BAR2: 32 bits"),
    pytest.param(r.PCI_BASE_ADDRESS_3, 4, ONES, 0xFFFFFF00, None, id="BAR3: 256 bytes"),
    pytest.param(r.PCI_BASE_ADDRESS_4, 4, ONES, 0xFFFFFFE1, None, id="BAR4: ports"),
    pytest.param(r.PCI_BASE_ADDRESS_5, 4, ONES, 0, None, id="BAR5: none"),
    pytest.param(r.PCI_BASE_ADDRESS_2, 4, 0, 0, None, id="BAR2: zero"),
    pytest.param(r.PCI_ROM_ADDRESS, 4, ONES, 0xFFFF0001, None, id="ROM: with its enable bit"),
    pytest.param(r.PCI_SUBSYSTEM_VENDOR_ID, 4, 0x12345678, None, None, id="subsystem: read-only"),
    pytest.param(r.PCI_CAPABILITY_LIST, 1, 0, None, None, id="list of capabilities: read-only"),
    pytest.param(r.PCI_INTERRUPT_LINE, 1, 0x55, 0x55, None, id="interrupt line: the user's own"),
    pytest.param(r.PCI_INTERRUPT_PIN, 1, 4, None, None, id="interrupt pin: read-only"),
    pytest.param(PM + r.PCI_PM_PMC, 2, 0xFFFF, None, None, id="PMC: read-only"),
    pytest.param(PM + r.PCI_PM_CTRL, 2, 0x8100, 0x0008, 0x0008, id="PME: not the user's"),
    pytest.param(MSI + r.PCI_MSI_FLAGS, 2, 0x0071, 0x0000, None, id="MSI: on by the ioctl only"),
    pytest.param(MSI + r.PCI_MSI_ADDRESS_LO, 4, 0x44332211, 0x44332211, 0, id="MSI address: virtual"),
    pytest.param(MSI + r.PCI_MSI_ADDRESS_HI, 4, 0x44332211, 0x44332211, 0, id="MSI address, upper half: virtual"),
    pytest.param(MSI + r.PCI_MSI_DATA_64, 2, 0x1234, 0x1234, 0, id="MSI data: virtual"),
    pytest.param(MSIX + r.PCI_MSIX_FLAGS, 2, 0xC000, None, None, id="MSI-X: read-only"),
    pytest.param(
        EXP + r.PCI_EXP_DEVCTL, 2, 0x7FFF, 0x7DFF, 0x2D1F, id="device control: no phantom functions, MPS virtual"
    ),
    pytest.param(EXP + r.PCI_EXP_DEVCTL2, 2, 0xFFFF, 0xFFDF, 0xFFDF, id="device control 2: all but ARI"),
    pytest.param(EXP + r.PCI_EXP_DEVCAP, 4, 0, None, None, id="device capabilities: read-only"),
    pytest.param(VENDOR + 4, 4, 0xCAFEBABE, 0xCAFEBABE, 0xCAFEBABE, id="vendor's capability: raw"),
    pytest.param(VENDOR, 2, 0xFFFF, None, None, id="its head: links cannot be written"),
    pytest.param(ERR + r.PCI_ERR_UNCOR_MASK, 4, ONES, 0x03FFF031, 0x03FFF031, id="AER mask: bits that are defined"),
    pytest.param(ERR, 4, 0, None, None, id="head of AER: read-only"),
    pytest.param(EXT_VENDOR + 8, 4, 0x12345678, 0x12345678, 0x12345678, id="vendor's extended capability: raw"),
    pytest.param(0x300, 4, 0x11111111, None, None, id="what no capability has: raw, and nothing is there"),
]


@pytest.mark.parametrize(("off", "size", "value", "user", "function"), WRITES)
def test_write(box, off, size, value, user, function):
    before = box.config(off, size), box.hw(off, size)
    assert box.set_config(off, size, value) == size
    want = before[0] if user is None else user, before[1] if function is None else function
    assert (box.config(off, size), box.hw(off, size)) == want


def chain(box, at=r.PCI_CAPABILITY_LIST):
    found, at = [], box.config(at, 1)
    while at:
        found.append((box.config(at, 1), at))
        at = box.config(at + 1, 1)
    return found


def ext_chain(box):
    found, at = [], 0x100
    while at:
        header = box.config(at, 4)
        found.append((header & 0xFFFF, at))
        at = header >> 20
    return found


def test_capabilities_that_are_not_known_are_not_in_the_list(box, profile):
    known = [(1, PM), (5, MSI), (0x11, MSIX), (0x10, EXP), (3, VPD), (9, VENDOR)]
    assert chain(box) == known
    hidden = [f"vfio_cap_init: hiding cap 0xd@{SSVID:#x}", f"vfio_ecap_init: hiding ecap 0x1b@{PASID:#x}"]
    if profile == "linux-6.1":
        hidden.append(f"vfio_ecap_init: hiding ecap 0x23@{DVSEC:#x}")
    told = [text.partition(": ")[2] for text in box.messages() if "hiding" in text]
    assert told == (hidden if profile == "linux-6.1" else [])


def test_extended_capabilities(box, profile):
    dvsec = [(0x23, DVSEC)] if profile == "linux-6.12" else []
    assert ext_chain(box) == [(1, ERR), (0xB, EXT_VENDOR), *dvsec]


def test_the_first_extended_capability_keeps_its_place(make_box):
    """Hidden, it has no number and no version, and leads to the next."""
    card = Card()
    card.config.define(0x100, 4, PASID << 20 | 1 << 16 | 0x2B)
    card.config.settle()
    box = make_box(card)
    assert box.config(0x100, 4) & 0xFFFFF == 0
    assert ext_chain(box)[1] == (0xB, EXT_VENDOR)


@pytest.mark.parametrize("express", [True, False], ids=["express", "conventional"])
def test_size(make_box, express):
    box = make_box(Card(express=express))
    assert box.device.config().info.size == (4096 if express else 256)


def test_pme_is_hidden(box):
    """PME_Support is taken out of the capabilities."""
    assert box.hw(PM + r.PCI_PM_PMC, 2) & 0xF800
    assert box.config(PM + r.PCI_PM_PMC, 2) == box.hw(PM + r.PCI_PM_PMC, 2) & ~0xF800


@pytest.mark.parametrize(
    ("state", "name"), [(1, "D1"), (2, "D0"), (3, "D3hot")], ids=["D1", "D2, which it has not", "D3hot"]
)
def test_power_state_is_set_by_the_kernel(box, state, name):
    box.set_config(PM + r.PCI_PM_CTRL, 2, state)
    assert box.attr("power_state") == name
    assert box.config(PM + r.PCI_PM_CTRL, 2) & 3 == (0 if name == "D0" else state)
    box.set_config(PM + r.PCI_PM_CTRL, 2, 0)
    assert box.attr("power_state") == "D0"


def test_a_function_that_forgets_in_d3_is_restored(make_box):
    """Without No_Soft_Reset: BARs and COMMAND are as before."""
    box = make_box(Card(soft_reset=True))
    before = [box.hw(off, 4) for off in range(0, 0x40, 4)]
    box.set_config(PM + r.PCI_PM_CTRL, 2, 3)
    resets = box.silicon.resets
    box.set_config(PM + r.PCI_PM_CTRL, 2, 0)
    assert box.silicon.resets == resets + 1
    assert [box.hw(off, 4) for off in range(0, 0x40, 4)] == before
    assert box.device.region(2).read(0, 4) == bytes(range(4))


@pytest.mark.parametrize(
    ("silicon", "off", "bit"),
    [({}, EXP + 9, 0x80), ({"express": False, "af": True}, EXP + 4, 1)],
    ids=["FLR", "AF FLR"],
)
def test_reset_bits_reset_and_read_as_zero(make_box, silicon, off, bit):
    box = make_box(Card(**silicon))
    resets, bar = box.silicon.resets, box.hw(r.PCI_BASE_ADDRESS_2, 4)
    at = off & ~1 if off == EXP + 9 else off
    size = 2 if off == EXP + 9 else 1
    box.set_config(at, size, bit << 8 if size == 2 else bit)
    assert box.silicon.resets == resets + 1
    assert box.config(at, size) & (bit << 8 if size == 2 else bit) == 0
    assert box.hw(r.PCI_BASE_ADDRESS_2, 4) == bar  # saved and restored


def test_read_requests_are_not_smaller_than_payloads(box):
    """MRRS goes to the function, the floor is its MPS; MPS itself is the user's own number."""
    box.silicon.config.put(EXP + r.PCI_EXP_DEVCTL, 2, 0x2840)  # 512 byte payloads
    box.set_config(EXP + r.PCI_EXP_DEVCTL, 2, 0x0000)
    assert box.hw(EXP + r.PCI_EXP_DEVCTL, 2) & r.PCI_EXP_DEVCTL_READRQ == 0x2000
    assert box.config(EXP + r.PCI_EXP_DEVCTL, 2) == 0


def test_vpd(box):
    """The flag turns over when it is done; what is behind the end reads as zeros."""

    def read(at):
        box.set_config(VPD + 2, 2, at)
        return box.config(VPD + 2, 2), box.config(VPD + 4, 4).to_bytes(4, "little")

    assert read(0) == (0x8000, b"\x82\x04\x00c")
    assert read(4) == (0x8004, b"ard\x78")
    assert read(8) == (0x8008, bytes(4))
    box.set_config(VPD + 4, 4, int.from_bytes(b"lib\x78", "little"))
    box.set_config(VPD + 2, 2, 0x8004)
    assert box.config(VPD + 2, 2) == 0x0004
    assert bytes(box.silicon.vpd[:8]) == b"\x82\x04\x00clib\x78"


def test_vpd_without_an_eeprom_never_answers(make_box):
    card = Card()
    card.vpd = bytearray(64)
    box = make_box(card)
    box.set_config(VPD + 2, 2, 0)
    assert box.config(VPD + 2, 2) == 0


def test_accesses_are_cut_at_words_and_capabilities(box, monkeypatch):
    """vfio_config_do_rw(): aligned pieces, none of two capabilities."""
    asked = []
    real = box.silicon.config_read

    def config_read(off, size):
        asked.append((off, size))
        return real(off, size)

    monkeypatch.setattr(box.silicon, "config_read", config_read)
    box.proc.pread(box.device.fd, 9, (7 << 40) + 0x301)
    assert asked == [(0x301, 1), (0x302, 2), (0x304, 4), (0x308, 2)]


def test_a_reset_behind_our_back_is_undone_when_memory_is_switched_on(box):
    """The BARs are not what they were: they are restored before the user's COMMAND is written."""
    bar = box.hw(r.PCI_BASE_ADDRESS_2, 4)
    box.silicon.flr()
    assert box.hw(r.PCI_BASE_ADDRESS_2, 4) == 0
    box.set_config(r.PCI_COMMAND, 2, 2)
    assert box.hw(r.PCI_BASE_ADDRESS_2, 4) == bar
    assert "reset recovery - restoring BARs" in box.messages()[-1]


def test_bus_mastering_is_off_at_first(box):
    assert box.config(r.PCI_COMMAND, 2) & r.PCI_COMMAND_MASTER == 0
    box.device.enable_memory()
    box.close()
    assert box.hw(r.PCI_COMMAND, 2) & r.PCI_COMMAND_MASTER == 0


def test_no_pin_where_intx_is_broken(make_box):
    """An Ethernet controller of the list: the pin is hidden, and disabled in the function."""
    card = Card()
    card.config.put(r.PCI_VENDOR_ID, 4, 0x15728086)
    card.config.settle()
    box = make_box(card)
    assert box.config(r.PCI_INTERRUPT_PIN, 1) == 0
    assert box.device.irq(0).count == 0
    assert box.hw(r.PCI_COMMAND, 2) & r.PCI_COMMAND_INTX_DISABLE


# Recorded of Linux 6.1.0-56 and 6.12.95 with QEMU's edu: written at, bytes; what the user reads, what the function has
EDU = [
    pytest.param(0x04, "0705", "0705", "0705", id="COMMAND"),
    pytest.param(0x10, "ffffffff", "0000f0ff", None, id="BAR0"),
    pytest.param(0x14, "ffffffff", "00000000", None, id="BAR1"),
    pytest.param(0x30, "ffffffff", "00000000", None, id="ROM"),
    pytest.param(0x3C, "5566", "5501", None, id="interrupt line and pin"),
    pytest.param(0x00, "00000000", "3412e811", None, id="identity"),
    pytest.param(0x42, "7100", "0000", "8000", id="MSI control"),
    pytest.param(0x44, "11223344", "11223344", "00000000", id="MSI address"),
    pytest.param(0x41, "99", "00", "00", id="next capability"),
    pytest.param(0x43, "ff", "00", "00", id="MSI control, upper byte"),
]


@pytest.mark.parametrize(("off", "written", "user", "function"), EDU)
def test_edu_as_recorded(make_box, off, written, user, function):
    box, n = make_box(EduFunction()), len(written) // 2
    before = box.hw(off, n)
    box.proc.pwrite(box.device.fd, bytes.fromhex(written), (7 << 40) + off)
    assert box.proc.pread(box.device.fd, n, (7 << 40) + off).hex() == user
    assert box.hw(off, n).to_bytes(n, "little").hex() == (
        before.to_bytes(n, "little").hex() if function is None else function
    )
