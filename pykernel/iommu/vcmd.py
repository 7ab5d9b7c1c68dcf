"""
Virtual commands: a guest's PASIDs come from its VMM (drivers/iommu/intel/pasid.c, intel/iommu.c; VT-d 10.4.44 to 47).

A unit with caching mode is an emulated one. When it has the virtual command register (ECAP.VCS) and allocates PASIDs
(VCCAP.PAS), a custom allocator of IOASIDs asks it. Linux has that up to 6.3; here every kernel does, since a PASID that
the host does not know cannot be used. Revision 3.3 of the specification moved the registers and their fields.
"""

from __future__ import annotations

from dataclasses import dataclass
from errno import ENODEV, ENOSPC
from typing import TYPE_CHECKING, Any, Final

from pykernel.errors import err
from pykernel.iommu.ioasid import INVALID_IOASID, IoasidAllocatorOps, ioasid_find, ioasid_register_allocator
from pykernel.log import ALERT, INFO, WARNING

if TYPE_CHECKING:
    from pykernel.iommu.intel import IntelIommu

__all__ = ["VirtualCommand", "register_pasid_allocator"]

VCMD_CMD_ALLOC, VCMD_CMD_FREE = 1, 2
VRSP_IP: Final = 1
SC_SUCCESS: Final = 0
PASID_MASK: Final = 0xFFFFF


@dataclass(frozen=True)
class Layout:
    """Where the registers are, where an operand and a result begin, and how a status looks."""

    vcmd: int
    vcrsp: int
    vccap: int
    pas: int
    shift: int
    status_mask: int
    no_pasid: int


LATE: Final = Layout(0xE00, 0xE10, 0xE30, 1 << 1, 16, 0x7F, 16)
EARLY: Final = Layout(0xE10, 0xE20, 0xE00, 1 << 0, 8, 0x3, 2)
VER_4_0: Final = 0x40


class VirtualCommand:
    """The registers of one unit. Before version 4.0 of the architecture, or where nothing is later, the early ones."""

    def __init__(self, unit: IntelIommu) -> None:
        self.unit = unit
        late = unit.version >= VER_4_0 and unit.reg.readq(LATE.vccap)
        self.layout = LATE if late else EARLY
        self.can_alloc = bool(unit.reg.readq(self.layout.vccap) & self.layout.pas)

    def _command(self, value: int) -> tuple[int, int]:
        """Give a command and wait for its status and result."""
        layout, reg = self.layout, self.unit.reg
        reg.writeq(layout.vcmd, value)
        response = reg.readq(layout.vcrsp)
        if response & VRSP_IP:
            wait = self.unit.kernel.sched.idle_until
            wait(lambda: not reg.readq(layout.vcrsp) & VRSP_IP, waits_for="a virtual command")
            response = reg.readq(layout.vcrsp)
        return response >> 1 & layout.status_mask, response >> layout.shift & PASID_MASK

    def alloc_pasid(self) -> int:
        """
        C: ``int vcmd_alloc_pasid(struct intel_iommu *, u32 *)``.

        Raises:
            ENOSPC: the VMM has none left. ENODEV: any other status.
        """
        status, pasid = self._command(VCMD_CMD_ALLOC)
        if status == SC_SUCCESS:
            return pasid
        if status == self.layout.no_pasid:
            self._say(INFO, "No PASID available")
            raise err(ENOSPC, "the VMM has no PASID")
        self._say(WARNING, f"Unexpected error code {status}")
        raise err(ENODEV, f"status {status}")

    def free_pasid(self, pasid: int) -> None:
        """C: ``void vcmd_free_pasid(struct intel_iommu *, u32)``; what goes wrong is told in the log."""
        status, _ = self._command(pasid << self.layout.shift | VCMD_CMD_FREE)
        if status == self.layout.no_pasid:
            self._say(INFO, "Invalid PASID")
        elif status != SC_SUCCESS:
            self._say(WARNING, f"Unexpected error code {status}")

    def _say(self, level: int, text: str) -> None:
        self.unit.kernel.log.printk(level, f"DMAR: IOMMU: {self.unit.name}: {text}")

    # ---- the allocator of IOASIDs

    def ioasid_alloc(self, low: int, high: int, _data: Any) -> int:
        """C: ``static ioasid_t intel_vcmd_ioasid_alloc(ioasid_t min, ioasid_t max, void *data)``."""
        if low < 1 or high > self.unit.max_pasid:
            return INVALID_IOASID
        try:
            return self.alloc_pasid()
        except OSError:
            return INVALID_IOASID

    def ioasid_free(self, ioasid: int, _data: Any) -> None:
        """C: ``static void intel_vcmd_ioasid_free(ioasid_t, void *data)``: what has private data is in use."""
        kernel = self.unit.kernel
        try:
            active = ioasid_find(kernel, None, ioasid) is not None
        except OSError:
            active = False
        if active:
            kernel.log.printk(ALERT, f"DMAR: Cannot free active IOASID {ioasid}")
        else:
            self.free_pasid(ioasid)


def register_pasid_allocator(unit: IntelIommu) -> bool:
    """
    PASIDs of this guest come from its VMM, if that has them.

    C: ``static void register_pasid_allocator(struct intel_iommu *)``

    Returns:
        False: there is no other way to have them, and scalable mode must stay off.
    """
    printk = unit.kernel.log.printk
    if not unit.scalable:
        printk(WARNING, "DMAR: VT-d Scalable Mode not enabled, no PASID allocation")
        return True
    if not unit.caps.vcs:
        return True
    vcmd = VirtualCommand(unit)
    if not vcmd.can_alloc:
        return True
    printk(INFO, "DMAR: Register custom PASID allocator")
    try:
        ioasid_register_allocator(unit.kernel, IoasidAllocatorOps(vcmd.ioasid_alloc, vcmd.ioasid_free, unit))
    except OSError:
        printk(WARNING, "DMAR: Custom PASID allocator failed, scalable mode disabled")
        return False
    return True
