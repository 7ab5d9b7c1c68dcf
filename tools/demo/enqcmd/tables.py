"""
Where the entries are that one command goes through, in the memory of the running machine.

The processor's tables split a PASID into 1, 9 and 10 bits, with entries of 8 and 4 bytes; the IOMMU's into 14 and 6,
with entries of 8 and 64 bytes. These functions only follow pointers; who acts on an entry is somebody else.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pykernel.hw.vtd import regs
from pykernel.mm.phys import PhysMem
from pykernel.virt.kvm import vmcs

if TYPE_CHECKING:
    from pykernel.kernel import Kernel
    from pykernel.tools.demo.enqcmd.scene import Scene

__all__ = [
    "ADDRESS", "Translation", "changed", "leaf", "pasid_entry", "peek", "second_stage", "source_id", "translation",
]  # fmt: skip

ADDRESS: Final = (1 << 52) - 4096  # bits 51:12 of any entry
LEVELS: Final = 4


def peek(kernel: Kernel, pa: int, size: int) -> int:
    """*size* bytes of physical memory as a number."""
    return int.from_bytes(kernel.sub(PhysMem).read(pa, size), "little")


@contextmanager
def changed(kernel: Kernel, pa: int, size: int, value: int) -> Iterator[None]:
    """Have *value* in *size* bytes of physical memory meanwhile."""
    phys = kernel.sub(PhysMem)
    before = phys.read(pa, size)
    phys.write(pa, value.to_bytes(size, "little"))
    try:
        yield
    finally:
        phys.write(pa, before)


@dataclass(frozen=True)
class Translation:
    """
    How the processor translates a guest's PASID: each index, where it leads, and what is there.

    Attributes:
        field: the VMCS field with the directory's address, of the low or the high one.
        directory, index, directory_at, directory_entry: the directory and the entry in it.
        table, slot, at, entry: the table behind it and the entry in that.
    """

    field: int
    directory: int
    index: int
    directory_at: int
    directory_entry: int
    table: int
    slot: int
    at: int
    entry: int

    @property
    def host(self) -> int:
        """The host's PASID."""
        return self.entry & 0xFFFFF


def translation(scene: Scene, pasid: int) -> Translation:
    """The entries of *pasid*, from the VMCS of the machine's first processor on."""
    field = vmcs.HIGH_PASID_DIRECTORY if pasid >> 19 else vmcs.LOW_PASID_DIRECTORY
    directory = scene.kvm.vcpus[0].vmcs.read(field)
    index, slot = pasid >> 10 & 511, pasid & 1023
    directory_at = directory + index * 8
    directory_entry = peek(scene.host, directory_at, 8)
    table = directory_entry & ADDRESS
    at = table + slot * 4
    return Translation(field, directory, index, directory_at, directory_entry, table, slot, at, peek(scene.host, at, 4))


def source_id(address: str) -> int:
    """The requester id of a function: bus, device, function."""
    _, bus, rest = address.split(":")
    device, function = rest.split(".")
    return int(bus, 16) << 8 | int(device, 16) << 3 | int(function)


def pasid_entry(host: Kernel, source: int, pasid: int) -> int:
    """Where the IOMMU's entry of *pasid* is for requester *source* (scalable mode)."""
    assert host.dmar is not None
    root = host.dmar.readq(regs.RTADDR) & ADDRESS
    half = 8 if source & 0x80 else 0
    context = (peek(host, root + (source >> 8) * 16 + half, 8) & ADDRESS) + (source & 0x7F) * 32
    directory = peek(host, context, 8) & ADDRESS
    return (peek(host, directory + (pasid >> 6) * 8, 8) & ADDRESS) + (pasid & 63) * 64


def second_stage(host: Kernel, entry: int) -> int:
    """The root of the second stage that the PASID entry at *entry* names."""
    return peek(host, entry, 8) & ADDRESS


def leaf(kernel: Kernel, root: int, addr: int) -> int:
    """Where the entry that maps *addr* is, in tables of four levels from *root* on."""
    table = root
    for level in range(LEVELS, 0, -1):
        at = table + (addr >> 9 * level + 3 & 511) * 8
        entry = peek(kernel, at, 8)
        if level == 1 or entry & 0x80:
            return at
        table = entry & ADDRESS
    raise AssertionError("the loop ends at level 1")
