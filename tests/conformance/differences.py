"""Where the emulated kernel answers otherwise than the recorded one, and why that is right: one row a reason."""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["DIFFERENCES", "Difference", "reason"]


@dataclass(frozen=True)
class Difference:
    """Questions (regular expressions of set, part and text) and the reason why the answers differ."""

    where: str
    part: str
    what: str
    why: str

    def explains(self, name: str, part: str, what: str) -> bool:
        """Whether the row is about this question."""
        return bool(re.search(self.where, name) and re.fullmatch(self.part, part) and re.fullmatch(self.what, what))


DIFFERENCES: tuple[Difference, ...] = (
    Difference(
        "driver core",
        "inventory",
        "entries that are the platform's|root port directory|device/waiting_for_supplier",
        "ACPI firmware nodes and device links of the recorded machine; none are emulated",
    ),
    Difference(
        "driver core",
        "attributes",
        "write waiting_for_supplier",
        "ACPI firmware nodes and device links of the recorded machine; none are emulated",
    ),
    Difference(
        "vfio, Linux 6.12",
        "nodes and sysfs",
        "unbound( again)?: enable, power_state",
        "the recorded kernel is 6.12.95, whose pci_device_remove() forgets the power state; that of 6.12.117 does not",
    ),
    Difference(
        "not configurable",
        "inventory",
        "bus drivers|mode drivers_probe",
        "the recording lost these two answers to the console's noise",
    ),
)


def reason(name: str, part: str, what: str) -> str:
    """Why a difference is right; empty when no row explains it."""
    return next((d.why for d in DIFFERENCES if d.explains(name, part, what)), "")
