"""
ATS, PRI and PASID in the guest's view of a whole function: VFIO hides PASID and lets nobody write to the others.

The host has them on, in the function itself or, of a virtual function, in its physical one (SR-IOV 1.1, 3.7). A guest
whose tables the device walks wants to find them, so the VMM emulates them: where VFIO shows one in its place, the
others at the end of configuration space, as QEMU does.
"""

from __future__ import annotations

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
        data = proc.read_bytes(f"{path}/config")

        def at(off: int, size: int) -> int:
            return int.from_bytes(data[off : off + size], "little")

        return {header & 0xFFFF: off for off, header in ext_caps(at).items()}, at

    own, read_own = load(sysfs)
    shared, read_shared = load(above)
    ats, pri, pasid = own.get(r.PCI_EXT_CAP_ID_ATS), shared.get(r.PCI_EXT_CAP_ID_PRI), shared.get(r.PCI_EXT_CAP_ID_PASID)
    if ats is None or pri is None or pasid is None:
        return None
    return SvaRegisters(
        read_own(ats + r.PCI_ATS_CAP, 2), read_shared(pri + r.PCI_PRI_MAX_REQ, 4), read_shared(pasid + r.PCI_PASID_CAP, 2)
    )


class SvaCaps:
    """The three, of *registers*, among the extended capabilities that *load* finds."""

    def __init__(self, load: Load, registers: SvaRegisters) -> None:
        self._space = ConfigSpace(0, 0, 0)
        self._ours: list[tuple[int, int]] = []  # (offset, length) of what the device does not answer
        space = self._space
        missing = {
            r.PCI_EXT_CAP_ID_ATS: (r.PCI_EXT_CAP_ATS_SIZEOF, lambda at: space.add_ats(at, cap=registers.ats)),
            r.PCI_EXT_CAP_ID_PRI: (
                r.PCI_EXT_CAP_PRI_SIZEOF, lambda at: space.add_pri(at, max_requests=registers.requests)
            ),
            r.PCI_EXT_CAP_ID_PASID: (r.PCI_EXT_CAP_PASID_SIZEOF, lambda at: space.add_pasid(at, cap=registers.pasid)),
        }  # fmt: skip
        shown = ext_caps(load)
        for at, header in shown.items():
            length, add = missing.pop(header & 0xFFFF, (HEADER, None))
            if add is None:
                space.add_ext_cap(header & 0xFFFF, header >> 16 & 0xF, at, HEADER)
            else:
                add(at)
            self._ours.append((at, length))
        end = SIZE
        for length, add in missing.values():
            end -= length
            self._ours.append((add(EXT_CAP_START if not self._ours else end), length))
        space.settle()

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
