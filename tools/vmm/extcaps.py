"""
ATS, PRI and PASID in the guest's view of a whole function: VFIO hides PASID and lets nobody write to the others.

The host has them on, in the function itself or, of a virtual function, in its physical one (SR-IOV 1.1, 3.7). A guest
whose tables the device walks wants to find them, so the VMM emulates them: where VFIO shows one in its place, the
others at the end of configuration space, as QEMU does.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pykernel.pci.config import EXT_CAP_START, ConfigSpace
from pykernel.uapi.linux import pci_regs as r

if TYPE_CHECKING:
    from pykernel.syscalls import Process

__all__ = ["SvaCaps", "SvaRegisters", "host_registers"]

SIZE: Final = 4096
HEADER: Final = 4
LENGTHS: Final = {
    r.PCI_EXT_CAP_ID_ATS: r.PCI_EXT_CAP_ATS_SIZEOF,
    r.PCI_EXT_CAP_ID_PRI: r.PCI_EXT_CAP_PRI_SIZEOF,
    r.PCI_EXT_CAP_ID_PASID: r.PCI_EXT_CAP_PASID_SIZEOF,
}
Load = Callable[[int, int], int]


@dataclass(frozen=True)
class SvaRegisters:
    """What a function can: ATS Capability, Outstanding Page Request Capacity, PASID Capability."""

    ats: int
    requests: int
    pasid: int


def ext_caps(load: Load) -> dict[int, int]:
    """Where the extended capabilities that *load(off, size)* finds are, each with its header, in their order."""
    found: dict[int, int] = {}
    at = EXT_CAP_START
    while at >= EXT_CAP_START and at not in found:
        header = load(at, HEADER)
        if header in (0, 0xFFFFFFFF):
            break
        found[at] = header
        at = header >> 20 & 0xFFC
    return found


def host_registers(proc: Process, sysfs: str) -> SvaRegisters | None:
    """Of the host's function at *sysfs*, PRI and PASID of its physical one; None: it lacks one of the three."""
    above = f"{sysfs}/physfn" if "physfn" in proc.listdir(sysfs) else sysfs

    def load(path: str) -> tuple[dict[int, int], Load]:
        fd = proc.open(f"{path}/config", os.O_RDONLY)
        data = proc.pread(fd, SIZE, 0)
        proc.close(fd)

        def at(off: int, size: int) -> int:
            return int.from_bytes(data[off : off + size], "little")

        return {header & 0xFFFF: off for off, header in ext_caps(at).items()}, at

    (own, read), (shared, read_shared) = load(sysfs), load(above)
    ats = own.get(r.PCI_EXT_CAP_ID_ATS)
    pri, pasid = shared.get(r.PCI_EXT_CAP_ID_PRI), shared.get(r.PCI_EXT_CAP_ID_PASID)
    if ats is None or pri is None or pasid is None:
        return None
    requests = read_shared(pri + r.PCI_PRI_MAX_REQ, 4)
    return SvaRegisters(read(ats + r.PCI_ATS_CAP, 2), requests, read_shared(pasid + r.PCI_PASID_CAP, 2))


class SvaCaps:
    """The three, of *registers*, among the extended capabilities that *load* finds."""

    def __init__(self, load: Load, registers: SvaRegisters) -> None:
        self._space = ConfigSpace(0, 0, 0)
        self._registers = registers
        self._ours: list[tuple[int, int]] = []  # (offset, length) of what the device does not answer
        missing = dict(LENGTHS)
        for at, header in ext_caps(load).items():
            cap = header & 0xFFFF
            if missing.pop(cap, 0):
                self._add(cap, at)
            else:
                self._space.add_ext_cap(cap, header >> 16 & 0xF, at, HEADER)
                self._ours.append((at, HEADER))
        end = SIZE
        for cap, length in missing.items():
            end -= length
            self._add(cap, end if self._ours else EXT_CAP_START)
        self._space.settle()

    def _add(self, cap: int, at: int) -> None:
        space, registers = self._space, self._registers
        if cap == r.PCI_EXT_CAP_ID_ATS:
            space.add_ats(at, cap=registers.ats)
        elif cap == r.PCI_EXT_CAP_ID_PRI:
            space.add_pri(at, max_requests=registers.requests)
        else:
            space.add_pasid(at, cap=registers.pasid)
        self._ours.append((at, LENGTHS[cap]))

    def _has(self, off: int) -> bool:
        return any(at <= off < at + length for at, length in self._ours)

    def read(self, off: int, size: int, value: int) -> int:
        """What a load finds where the device says *value*."""
        for n in range(size):
            if self._has(off + n):
                value = value & ~(0xFF << 8 * n) | self._space.read(off + n, 1) << 8 * n
        return value

    def write(self, off: int, size: int, value: int) -> bool:
        """A store; False: it is none of ours. What the host has on stays on."""
        if not self._has(off):
            return False
        self._space.write(off, size, value)
        return True

    def reset(self) -> None:
        """A function-level reset."""
        self._space.reset()
