"""Matching and dynamic IDs: new_id, remove_id, driver_override, pci-stub's ids."""

from __future__ import annotations

import re
from errno import EEXIST, EINVAL, ENODEV

import pytest

from pykernel.pci.core import Pci
from pykernel.pci.driver import PCI_ANY_ID, PciDriver, PciId, sscanf_hex

HERE = "/sys/bus/pci/devices/0000:6a:01.0"
DRIVERS = "/sys/bus/pci/drivers"


def errno_of(fn, *args):
    with pytest.raises(OSError, match="Errno") as e:
        fn(*args)
    return e.value.errno


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("", []),
        ("x", []),
        ("-1", []),
        ("12", [0x12]),
        ("  abcd\t0x5\n7", [0xABCD, 5, 7]),
        ("abcd 9junk 5", [0xABCD, 9]),
        ("0X1F 0x", [0x1F, 0]),
        ("0x 5", [0, 5]),
        ("123456789 1", [0x23456789, 1]),
        ("1 2 3 4 5 6 7 8", [1, 2, 3, 4, 5, 6, 7]),
        ("1 2 3 4 5 6 123456789", [1, 2, 3, 4, 5, 6, 0x123456789]),
        ("\xa01", [1]),
        ("\x851", []),
    ],
)
def test_sscanf_hex(text, numbers):
    """lib/vsprintf.c:vsscanf() with "%x %x %x %x %x %x %lx"; the prefix is skipped even where nothing follows it."""
    assert sscanf_hex(text, 7) == numbers


@pytest.mark.parametrize(
    ("row", "yes"),
    [
        (PciId(0x1234, 0x5678), True),
        (PciId(PCI_ANY_ID, PCI_ANY_ID), True),
        (PciId(0x1234, 0x5679), False),
        (PciId(0x1235, 0x5678), False),
        (PciId(0x1234, 0x5678, 0x1AF4, 0x1100), True),
        (PciId(0x1234, 0x5678, 0x1AF5), False),
        (PciId(0x1234, 0x5678, PCI_ANY_ID, 0x1101), False),
        (PciId(0x1234, 0x5678, class_=0x0B0000, class_mask=0xFF0000), True),
        (PciId(0x1234, 0x5678, class_=0x0C0000, class_mask=0xFF0000), False),
    ],
)
def test_matching(dev, row, yes):
    """drivers/pci/pci.h:pci_match_one_device()."""
    assert row.matches(dev) is yes


def test_the_driver_learns_which_row_matched(dev, driver):
    assert dev.driver is driver
    assert driver.match_id(dev).driver_data == 7


class Override(PciDriver):
    id_table = (PciId(0x1234, 0x5678, driver_data=3, override_only=True),)


def test_rows_for_override_only(kernel, dev):
    drv = Override(kernel, "over")
    drv.register()
    assert drv.devices == []
    p = kernel.process()
    p.write_text(f"{HERE}/driver_override", "over")
    p.write_text("/sys/bus/pci/drivers_probe", dev.name)
    row = drv.match_id(dev)
    assert drv.devices == [dev]
    assert row is not None
    assert row.driver_data == 3


def test_override_beats_ids_both_ways(kernel, dev, card_driver):
    p = kernel.process()
    p.write_text(f"{HERE}/driver_override", "pci-stub\n")
    drv = card_driver(kernel)
    drv.register()
    assert drv.devices == []
    assert errno_of(p.write_text, f"{DRIVERS}/card/bind", dev.name) == ENODEV
    p.write_text(f"{DRIVERS}/pci-stub/bind", dev.name)
    assert dev.driver.name == "pci-stub"
    assert kernel.log.records[-1].text == "pci-stub 0000:6a:01.0: claimed by stub"


def test_new_id_binds_and_remove_id_does_not_unbind(kernel, dev):
    p = kernel.process()
    p.write_text(f"{DRIVERS}/pci-stub/new_id", "1234 5678")
    assert dev.driver.name == "pci-stub"
    p.write_text(f"{DRIVERS}/pci-stub/remove_id", "1234 5678")
    assert dev.driver.name == "pci-stub"
    p.write_text(f"{DRIVERS}/pci-stub/unbind", dev.name)
    assert errno_of(p.write_text, f"{DRIVERS}/pci-stub/bind", dev.name) == ENODEV


def test_new_id_of_a_driver_with_a_table(kernel, driver):
    """Known IDs are EEXIST, driver_data must be a row's, seven fields skip the check for duplicates."""
    p = kernel.process()

    def new(text):
        p.write_text(f"{DRIVERS}/card/new_id", text)

    assert errno_of(new, "1234 5678") == EEXIST
    assert errno_of(new, "aaaa 1") == EINVAL
    new("aaaa 1 ffffffff ffffffff 0 0 7")
    new("aaaa 1 ffffffff ffffffff 0 0 7")
    new("1234 5678 ffffffff ffffffff 0 0 8")
    assert [(x.vendor, x.driver_data) for x in driver.dynids] == [(0xAAAA, 7), (0xAAAA, 7), (0x1234, 8)]
    assert driver.match_id(kernel.sub(Pci).devices["0000:6a:01.0"]).driver_data == 8, "dynamic ones come first"


def answers(version):
    """Section "dynamic ids" of the recorded answers, as (file, text, answer)."""
    from pathlib import Path

    path = Path(__file__).parents[1] / f"conformance/data/driver-core-linux-{version}.txt"
    section = path.read_text("utf-8").partition("# dynamic ids")[2].partition("# probing")[0]
    rows = re.findall(r"^\d+ (new_id|remove_id) <- ('.*?')(?: \(\d+\))?: \((.*), None\)$", section, re.MULTILINE)
    return [(file, eval(text), eval(answer)) for file, text, answer in rows]


@pytest.mark.parametrize("version", ["6.1", "6.12"])
def test_ids_answer_as_recorded(pci_kernel, version):
    import errno

    kernel = pci_kernel(profile=f"linux-{version}")
    p = kernel.process()
    cases = answers(version)
    assert len(cases) > 40
    for file, text, expected in cases:
        fd = p.open(f"{DRIVERS}/pci-stub/{file}", 1)
        try:
            got = p.write(fd, text.encode())
        except OSError as e:
            got = errno.errorcode[e.errno or 0]
        p.close(fd)
        assert got == expected, (file, text)


def test_pci_stub_takes_ids_as_a_parameter(kernel, dev):
    """drivers/pci/pci-stub.c:pci_stub_init()."""
    kernel.modules.rmmod("pci_stub")
    kernel.modules.modprobe("pci_stub", "ids=,junk,12,abcd:1:2:3:040000:ff0000,1234:5678")
    assert [(r.level, r.text) for r in kernel.log.records if r.text.startswith("pci-stub:")] == [
        (4, 'pci-stub: invalid ID string "junk"'),
        (4, 'pci-stub: invalid ID string "12"'),
        (6, "pci-stub: add ABCD:0001 sub=0002:0003 cls=00040000/00FF0000"),
        (6, "pci-stub: add 1234:5678 sub=FFFFFFFF:FFFFFFFF cls=00000000/00000000"),
    ]
    assert dev.driver.name == "pci-stub"


def test_uevent_file_as_linux_writes_it(kernel, dev, driver):
    assert kernel.process().read_text(f"{HERE}/uevent") == (
        "DRIVER=card\nPCI_CLASS=B4000\nPCI_ID=1234:5678\nPCI_SUBSYS_ID=1AF4:1100\nPCI_SLOT_NAME=0000:6a:01.0\n"
        "MODALIAS=pci:v00001234d00005678sv00001AF4sd00001100bc0Bsc40i00\n"
    )


@pytest.mark.parametrize(("text", "shown"), [("a", "a\n"), ("a\n", "a\n"), ("\n", ""), ("pci:1:2", "pci:1:2\n")])
def test_resource_alignment_is_kept(kernel, dev, text, shown):
    p = kernel.process()
    p.write_text("/sys/bus/pci/resource_alignment", text)
    assert p.read_text("/sys/bus/pci/resource_alignment") == shown
