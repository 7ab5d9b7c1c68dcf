"""
Which bus is below which port: what a machine's rows must agree on, so that Linux finds every function of them.

The rules are those of a scan that trusts the firmware's numbers (drivers/pci/probe.c:pci_scan_bridge_extend()).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["PORTS", "TopologyError", "check_buses"]

PORTS = ("root-port", "upstream-port", "downstream-port")


class TopologyError(ValueError):
    """What is wrong with *key* of the *nth* row."""

    def __init__(self, nth: int, key: str, why: str) -> None:
        super().__init__(why)
        self.nth, self.key = nth, key


@dataclass(frozen=True)
class _Port:
    nth: int
    model: str
    address: str
    secondary: int
    subordinate: int

    @property
    def domain(self) -> str:
        return self.address[:4]

    @property
    def bus(self) -> int:
        return _bus(self.address)


def _bus(address: str) -> int:
    return int(address[5:7], 16)


def check_buses(rows: Sequence[tuple[str, str, Mapping[str, Any]]]) -> None:
    """
    Look at the rows (model, address, options) of a machine, whose options are good each for itself.

    Raises:
        TopologyError: a port's buses are none that firmware gives, or a function is where no scan looks.
    """
    ports: list[_Port] = []
    for nth, (model, address, options) in enumerate(rows):
        if model in PORTS:
            secondary = options["secondary"]
            ports.append(_Port(nth, model, address, secondary, options.get("subordinate", secondary)))
    if not ports:
        return
    below = {(port.domain, port.secondary): port for port in reversed(ports)}
    for port in ports:
        _check_port(port, below)
    for n, port in enumerate(ports):
        _check_beside(port, ports[:n])
    for nth, (_, address, _) in enumerate(rows):
        _check_function(nth, address, ports, below)


def _check_port(port: _Port, below: Mapping[tuple[str, int], _Port]) -> None:
    if port.secondary <= port.bus:
        why = f"bus {port.secondary:#04x} is below a port on bus {port.bus:#04x}, so it must have a higher number"
        raise TopologyError(port.nth, "secondary", why)
    if port.subordinate < port.secondary:
        why = f"the last bus below {port.address} cannot come before its first, which is {port.secondary:#04x}"
        raise TopologyError(port.nth, "subordinate", why)
    first = below[port.domain, port.secondary]
    if first is not port:
        why = f"bus {port.secondary:#04x} is already below {first.address}: give it a number of its own"
        raise TopologyError(port.nth, "secondary", why)
    above = below.get((port.domain, port.bus))
    if above is not None and port.subordinate > above.subordinate:
        key = "secondary" if port.secondary > above.subordinate else "subordinate"
        buses = f"{above.secondary:#04x} to {above.subordinate:#04x}"
        why = f"{port.address} is below {above.address}, which has the buses {buses}: give that a higher subordinate"
        raise TopologyError(port.nth, key, why)


def _check_beside(port: _Port, others: Sequence[_Port]) -> None:
    """Two ports of one bus, or of two root buses, have no bus in common."""
    for other in others:
        if port.domain != other.domain or port.secondary > other.subordinate or other.secondary > port.subordinate:
            continue
        if port.secondary <= other.bus or other.secondary <= port.bus:
            continue  # one may be below the other, which is looked at by itself
        why = f"{other.address} has the buses {other.secondary:#04x} to {other.subordinate:#04x} already"
        raise TopologyError(port.nth, "secondary", why)


def _check_function(nth: int, address: str, ports: Sequence[_Port], below: Mapping[tuple[str, int], _Port]) -> None:
    domain, bus = address[:4], _bus(address)
    port = below.get((domain, bus))
    if port is None:
        for other in ports:
            if other.domain == domain and other.secondary < bus <= other.subordinate:
                why = f"nobody would find it: bus {bus:#04x} is for what is below {other.address}, and no port has it"
                raise TopologyError(nth, "address", why)
    elif port.model != "upstream-port" and address[8:10] != "00":
        # drivers/pci/probe.c:only_one_child(), pci_scan_slot()
        why = f"nobody would find it: of what is below the {port.model} {port.address} Linux looks at device 00 only"
        raise TopologyError(nth, "address", why)
