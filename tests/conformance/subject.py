"""The device the questions are about: QEMU's ``edu`` (1234:11e8), class 0x00ff00, BAR 0 of 1 MiB, MSI."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable

from probing import Probe, call, opened, read_text, write_text

BUS = "/sys/bus/pci"
DRIVER = f"{BUS}/drivers/pci-stub"
OTHER = f"{BUS}/drivers/vfio-pci"
ID = "1234 11e8"
PLATFORM = {"firmware_node", "iommu", "iommu_group", "waiting_for_supplier"}
"""Entries of the device's directory that come of ACPI, the IOMMU and fw_devlink."""


def find_edu() -> str:
    """The address of the first ``edu`` function; LookupError when the machine has none."""
    for path in sorted(glob.glob(f"{BUS}/devices/*")):
        if (read_text(f"{path}/vendor"), read_text(f"{path}/device")) == ("0x1234\n", "0x11e8\n"):
            return os.path.basename(path)
    raise LookupError("no edu (1234:11e8) on the PCI bus")


class Subject:
    """Paths of the device, and its address and BAR taught to the probe as words: ADDR, ROOT, BAR0, END0."""

    def __init__(self, q: Probe) -> None:
        self.addr = find_edu()
        self.link = f"{BUS}/devices/{self.addr}"
        self.real = os.path.realpath(self.link)
        start, end = read_text(f"{self.real}/resource").split()[:2]
        q.words = [(self.addr, "ADDR"), (f"pci{self.addr[:7]}", "ROOT"), (start, "BAR0"), (end, "END0")]

    def at(self, name: str) -> str:
        """The path of a file in the device's own directory (not through the bus's link)."""
        return f"{self.real}/{name}"

    def on(self, name: str, f: Callable[[int], object], flags: int = os.O_RDONLY) -> object:
        """``f(fd)`` on a descriptor of its own."""
        with opened(self.at(name), flags) as fd:
            return f(fd)

    def on_rw(self, size: int) -> object:
        """Store ``size`` letters to driver_override: the count, or the errno's name."""
        return call(write_text, self.at("driver_override"), "o" * size)

    def read(self, name: str) -> object:
        """The file's text, or the errno's name."""
        return call(read_text, self.at(name))

    def clear(self) -> object:
        """No driver_override."""
        return call(write_text, self.at("driver_override"), "\n")

    def driver(self) -> object:
        """The name of the bound driver, None without."""
        link = self.at("driver")
        return os.path.basename(os.readlink(link)) if os.path.islink(link) else None

    def then(self, path: str, text: str) -> object:
        """Store ``text`` to ``path``; what that gave, and the driver's name after it."""
        return call(write_text, path, text), self.driver()

    def release(self) -> None:
        """Unbound, no override, no dynamic id: as after boot."""
        if self.driver():
            write_text(self.at("driver/unbind"), self.addr)
        self.clear()
        for driver in (DRIVER, OTHER):
            while isinstance(call(write_text, f"{driver}/remove_id", ID), int):
                pass
