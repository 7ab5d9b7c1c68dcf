"""Buses of a machine file: what firmware would not number so, or a scan would not find, is one sentence at load."""

from __future__ import annotations

import pytest

from pykernel.machine import MachineError, parse


def rows(*specs: str) -> str:
    """A file of ``model address secondary-subordinate``, five lines a row."""
    text = []
    for spec in specs:
        model, address, *buses = spec.split()
        keys = [f"model = '{model}'", f"address = '0000:{address}'"]
        if buses:
            first, _, last = buses[0].partition("-")
            keys += [f"secondary = 0x{first}", f"subordinate = 0x{last or first}"]
        text += ["[[pci]]", *keys, *[""] * (4 - len(keys))]
    return "\n".join(text)


BAD = [
    (
        ("root-port 64:00.0 65", "root-port 64:01.0 65"),
        "x.toml:9: pci.secondary: bus 0x65 is already below 0000:64:00.0: give it a number of its own",
    ),
    (
        ("root-port 64:00.0 64",),
        "x.toml:4: pci.secondary: bus 0x64 is below a port on bus 0x64, so it must have a higher number",
    ),
    (
        ("root-port 64:00.0 66-65",),
        "x.toml:5: pci.subordinate: the last bus below 0000:64:00.0 cannot come before its first, which is 0x66",
    ),
    (
        ("root-port 64:00.0 65", "upstream-port 65:00.0 66"),
        "x.toml:9: pci.secondary: 0000:65:00.0 is below 0000:64:00.0, which has the buses 0x65 to 0x65: give that a",
    ),
    (
        ("root-port 64:00.0 65-66", "upstream-port 65:00.0 66-67"),
        "x.toml:10: pci.subordinate: 0000:65:00.0 is below 0000:64:00.0, which has the buses 0x65 to 0x66: give that a",
    ),
    (
        ("root-port 64:00.0 65-67", "root-port 64:01.0 66"),
        "x.toml:9: pci.secondary: 0000:64:00.0 has the buses 0x65 to 0x67 already",
    ),
    (
        ("root-port 64:00.0 65-67", "edu 66:00.0"),
        "x.toml:8: pci.address: nobody would find it: bus 0x66 is for what is below 0000:64:00.0, and no port has it",
    ),
    (
        ("edu 65:1f.0", "root-port 64:00.0 65"),
        "x.toml:3: pci.address: nobody would find it: of what is below the root-port 0000:64:00.0 Linux",
    ),
    (
        ("root-port 64:00.0 65-67", "upstream-port 65:00.0 66-67", "downstream-port 66:03.0 67", "edu 67:01.0"),
        "x.toml:18: pci.address: nobody would find it: of what is below the downstream-port 0000:66:03.0 Linux",
    ),
]


@pytest.mark.parametrize(("specs", "message"), BAD, ids=[" + ".join(specs) for specs, _ in BAD])
def test_buses_that_no_scan_finds(specs, message):
    """drivers/pci/probe.c:pci_scan_bridge_extend() and only_one_child()."""
    with pytest.raises(MachineError) as e:
        parse(rows(*specs), "x.toml")
    assert str(e.value).startswith(message)
    assert "\n" not in str(e.value)


GOOD = [
    ("root-port 64:00.0 65", "edu 65:00.0", "edu 65:00.7"),
    ("root-port 64:00.0 65", "root-port 64:01.0 66", "root-port 70:00.0 71-7f"),
    ("edu 65:00.0", "root-port 64:00.0 65"),
    ("root-port 64:00.0 65-68", "upstream-port 65:00.0 66-68", "downstream-port 66:03.0 67", "edu 67:00.0"),
    ("edu 65:1f.0", "root-port 64:00.0 66"),
]


@pytest.mark.parametrize("specs", GOOD, ids=[" + ".join(specs) for specs in GOOD])
def test_buses_that_a_scan_finds(specs):
    """Every function of device 0 below a port, any device below an upstream port or on a root bus."""
    assert len(parse(rows(*specs)).pci) == len(specs)


def test_each_domain_has_its_own_numbers():
    """The same bus number in two domains is two buses."""
    text = rows("root-port 64:00.0 65", "root-port 64:01.0 65").replace("0000:64:01.0", "0001:64:01.0")
    assert len(parse(text).pci) == 2
