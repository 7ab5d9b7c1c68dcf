"""
Configuration space of one PCI function: bytes, and for each bit what a write from the bus does to it.

A bit is read-only unless it is declared read-write or write-1-to-clear. BARs size themselves the way silicon does: the
address bits below the size do not exist. Offsets and bits are those of ``include/uapi/linux/pci_regs.h``.
"""

from __future__ import annotations

from pykernel.uapi.linux.pci_regs import (
    PCI_AF_CAP,
    PCI_AF_CAP_FLR,
    PCI_AF_CAP_TP,
    PCI_AF_LENGTH,
    PCI_ATS_CAP,
    PCI_ATS_CTRL,
    PCI_ATS_CTRL_ENABLE,
    PCI_BASE_ADDRESS_0,
    PCI_BASE_ADDRESS_MEM_PREFETCH,
    PCI_BASE_ADDRESS_MEM_TYPE_64,
    PCI_BASE_ADDRESS_SPACE_IO,
    PCI_BRIDGE_CONTROL,
    PCI_BRIDGE_CTL_ISA,
    PCI_BRIDGE_CTL_VGA,
    PCI_CACHE_LINE_SIZE,
    PCI_CAP_ID_AF,
    PCI_CAP_ID_EXP,
    PCI_CAP_ID_MSI,
    PCI_CAP_ID_MSIX,
    PCI_CAP_ID_PM,
    PCI_CAP_ID_VPD,
    PCI_CAPABILITY_LIST,
    PCI_CLASS_REVISION,
    PCI_COMMAND,
    PCI_COMMAND_INTX_DISABLE,
    PCI_COMMAND_IO,
    PCI_COMMAND_MASTER,
    PCI_COMMAND_MEMORY,
    PCI_COMMAND_PARITY,
    PCI_COMMAND_SERR,
    PCI_DEVICE_ID,
    PCI_ERR_COR_MASK,
    PCI_ERR_COR_STATUS,
    PCI_ERR_UNCOR_MASK,
    PCI_ERR_UNCOR_SEVER,
    PCI_ERR_UNCOR_STATUS,
    PCI_EXP_DEVCAP,
    PCI_EXP_DEVCAP2,
    PCI_EXP_DEVCTL,
    PCI_EXP_DEVCTL2,
    PCI_EXP_FLAGS,
    PCI_EXT_CAP_ID_ATS,
    PCI_EXT_CAP_ID_ERR,
    PCI_EXT_CAP_ID_PASID,
    PCI_EXT_CAP_ID_PRI,
    PCI_EXT_CAP_ID_SRIOV,
    PCI_HEADER_TYPE,
    PCI_HEADER_TYPE_BRIDGE,
    PCI_HEADER_TYPE_MFD,
    PCI_INTERRUPT_LINE,
    PCI_INTERRUPT_PIN,
    PCI_MEMORY_BASE,
    PCI_MSI_ADDRESS_HI,
    PCI_MSI_ADDRESS_LO,
    PCI_MSI_DATA_32,
    PCI_MSI_DATA_64,
    PCI_MSI_FLAGS,
    PCI_MSI_FLAGS_64BIT,
    PCI_MSI_FLAGS_ENABLE,
    PCI_MSI_FLAGS_QSIZE,
    PCI_MSIX_FLAGS,
    PCI_MSIX_FLAGS_ENABLE,
    PCI_MSIX_FLAGS_MASKALL,
    PCI_MSIX_PBA,
    PCI_MSIX_TABLE,
    PCI_PASID_CAP,
    PCI_PASID_CTRL,
    PCI_PM_CTRL,
    PCI_PM_CTRL_NO_SOFT_RESET,
    PCI_PM_CTRL_STATE_MASK,
    PCI_PM_PMC,
    PCI_PREF_BASE_UPPER32,
    PCI_PREF_MEMORY_BASE,
    PCI_PREF_RANGE_TYPE_64,
    PCI_PRI_ALLOC_REQ,
    PCI_PRI_CTRL,
    PCI_PRI_CTRL_ENABLE,
    PCI_PRI_CTRL_RESET,
    PCI_PRI_MAX_REQ,
    PCI_PRI_STATUS,
    PCI_PRIMARY_BUS,
    PCI_ROM_ADDRESS,
    PCI_ROM_ADDRESS_ENABLE,
    PCI_SRIOV_BAR,
    PCI_SRIOV_CTRL,
    PCI_SRIOV_CTRL_MSE,
    PCI_SRIOV_CTRL_VFE,
    PCI_SRIOV_INITIAL_VF,
    PCI_SRIOV_NUM_VF,
    PCI_SRIOV_SUP_PGSIZE,
    PCI_SRIOV_SYS_PGSIZE,
    PCI_SRIOV_TOTAL_VF,
    PCI_SRIOV_VF_DID,
    PCI_SRIOV_VF_OFFSET,
    PCI_SRIOV_VF_STRIDE,
    PCI_STATUS,
    PCI_STATUS_CAP_LIST,
    PCI_SUBSYSTEM_ID,
    PCI_SUBSYSTEM_VENDOR_ID,
    PCI_VENDOR_ID,
    PCI_VPD_ADDR,
    PCI_VPD_DATA,
)

__all__ = [
    "PCI_DEV3_DEVCAP3",
    "PCI_DEV3_DEVCAP3_DMWR_REQ",
    "PCI_DEV3_DEVCTL3",
    "PCI_DEV3_DEVCTL3_DMWR_EGRESS_BLK",
    "PCI_DEV3_DEVCTL3_DMWR_REQ_EN",
    "PCI_ERR_UNC_DMWR_BLOCKED",
    "PCI_EXP_DEVCAP2_DMWR_COMPL",
    "PCI_EXT_CAP_ID_DEV3",
    "ConfigSpace",
]

# Deferrable memory writes; the names are those of pciutils' lib/header.h, Linux has none
PCI_EXP_DEVCAP2_DMWR_COMPL = 1 << 28  # bits 30:29, the lengths, are 00b: 64 bytes
PCI_EXT_CAP_ID_DEV3 = 0x2F
PCI_DEV3_DEVCAP3 = 0x04
PCI_DEV3_DEVCAP3_DMWR_REQ = 1 << 0  # request routing
PCI_DEV3_DEVCTL3 = 0x08
PCI_DEV3_DEVCTL3_DMWR_REQ_EN = 1 << 0
PCI_DEV3_DEVCTL3_DMWR_EGRESS_BLK = 1 << 1
PCI_ERR_UNC_DMWR_BLOCKED = 1 << 27

# The COMMAND bits that most functions implement.
COMMAND_RW = (
    PCI_COMMAND_IO
    | PCI_COMMAND_MEMORY
    | PCI_COMMAND_MASTER
    | PCI_COMMAND_PARITY
    | PCI_COMMAND_SERR
    | PCI_COMMAND_INTX_DISABLE
)
BRIDGE_CONTROL_RW = 0x0043 | PCI_BRIDGE_CTL_ISA | PCI_BRIDGE_CTL_VGA  # parity, SERR, reset of the secondary bus
STATUS_W1C = 0xF900  # the error bits: parity, target and master aborts, SERR
EXT_CAP_START = 0x100
ROM_BAR = 6  # as resources are numbered


class ConfigSpace:
    """
    *size* bytes (4096 for PCI Express, 256 for conventional PCI) with access rules; reads beyond it give all ones.

    ``caps`` and ``ext_caps`` tell where a capability is: ``config.caps[PCI_CAP_ID_MSIX]``.
    """

    def __init__(
        self,
        vendor: int,
        device: int,
        class_code: int,
        *,
        revision: int = 0,
        subsystem: tuple[int, int] = (0, 0),
        interrupt_pin: int = 0,
        command_rw: int = COMMAND_RW,
        size: int = 4096,
    ) -> None:
        self.size = size
        self._data, self._rw, self._w1c = bytearray(size), bytearray(size), bytearray(size)
        self._initial = b""
        self.caps: dict[int, int] = {}
        self.ext_caps: dict[int, int] = {}
        self.bar_sizes: dict[int, int] = {}
        self.io_bars: set[int] = set()
        self.vf_bar_sizes: dict[int, int] = {}
        self._last_link = PCI_CAPABILITY_LIST
        self._last_ext = 0
        self.define(PCI_VENDOR_ID, 2, vendor)
        self.define(PCI_DEVICE_ID, 2, device)
        self.define(PCI_COMMAND, 2, 0, rw=command_rw)
        self.define(PCI_STATUS, 2, 0, w1c=STATUS_W1C)
        self.define(PCI_CLASS_REVISION, 4, class_code << 8 | revision)
        self.define(PCI_CACHE_LINE_SIZE, 1, 0, rw=0xFF)
        self.define(PCI_SUBSYSTEM_VENDOR_ID, 2, subsystem[0])
        self.define(PCI_SUBSYSTEM_ID, 2, subsystem[1])
        self.define(PCI_INTERRUPT_LINE, 1, 0, rw=0xFF)
        self.define(PCI_INTERRUPT_PIN, 1, interrupt_pin)

    # ------------------------------------------------------------------ the function's side
    def define(self, off: int, size: int, value: int, *, rw: int = 0, w1c: int = 0) -> None:
        """Make *size* bytes at *off* a register with *value*, and say which bits the bus may write or clear."""
        for array, v in ((self._data, value), (self._rw, rw), (self._w1c, w1c)):
            array[off : off + size] = v.to_bytes(size, "little")

    def get(self, off: int, size: int) -> int:
        """Value of *size* bytes at *off*."""
        return int.from_bytes(self._data[off : off + size], "little")

    def put(self, off: int, size: int, value: int) -> None:
        """Set *size* bytes at *off* whatever the masks say: the function itself does this."""
        self._data[off : off + size] = value.to_bytes(size, "little")

    def make_multifunction(self) -> None:
        """There are more functions in its slot; also after a reset."""
        for data in (self._data, initial := bytearray(self._initial)):
            if data:
                data[PCI_HEADER_TYPE] |= PCI_HEADER_TYPE_MFD
        self._initial = bytes(initial)

    def settle(self) -> None:
        """Take the present contents as what ``reset()`` restores."""
        self._initial = bytes(self._data)

    def reset(self) -> None:
        """Contents after a reset of the function: those of the last ``settle()``."""
        self._data[:] = self._initial

    # ------------------------------------------------------------------ the bus's side
    def read(self, off: int, size: int) -> int:
        """Read *size* bytes (1, 2 or 4) at *off*; beyond the end every byte is 0xff."""
        data = bytes(self._data[off : off + size])
        return int.from_bytes(data.ljust(size, b"\xff"), "little")

    def write(self, off: int, size: int, value: int) -> None:
        """Write *size* bytes at *off*, each bit by its rule; writes beyond the end are dropped."""
        for i, byte in zip(range(off, min(off + size, self.size)), value.to_bytes(size, "little"), strict=False):
            rw = self._rw[i]
            self._data[i] = (self._data[i] & ~rw | byte & rw) & ~(byte & self._w1c[i])

    def type_1_header(self) -> None:
        """
        Make it a PCI-to-PCI bridge: bus numbers, windows and bridge control instead of BARs beyond 1.

        It forwards memory, prefetchable memory with 64-bit addresses, and no I/O.
        """
        self.define(PCI_HEADER_TYPE, 1, PCI_HEADER_TYPE_BRIDGE)
        self.define(PCI_PRIMARY_BUS, 4, 0, rw=0x00FFFFFF)
        self.define(PCI_MEMORY_BASE, 4, 0, rw=0xFFF0FFF0)
        windows = PCI_PREF_RANGE_TYPE_64 << 16 | PCI_PREF_RANGE_TYPE_64
        self.define(PCI_PREF_MEMORY_BASE, 4, windows, rw=0xFFF0FFF0)
        self.define(PCI_PREF_BASE_UPPER32, 8, 0, rw=(1 << 64) - 1)
        self.define(PCI_BRIDGE_CONTROL, 2, 0, rw=BRIDGE_CONTROL_RW)

    # ------------------------------------------------------------------ base address registers
    def add_bar(self, bar: int, size: int, *, wide: bool = True, prefetch: bool = True) -> None:
        """Give the function memory BAR *bar* of *size* bytes (a power of two); *wide* is a 64-bit BAR, two slots."""
        if size < 16 or size & (size - 1):
            raise ValueError(f"BAR {bar}: size {size:#x} is not a power of two")
        flags = (PCI_BASE_ADDRESS_MEM_TYPE_64 if wide else 0) | (PCI_BASE_ADDRESS_MEM_PREFETCH if prefetch else 0)
        width = 8 if wide else 4
        rw = ~(size - 1) & (1 << 8 * width) - 1
        self.define(PCI_BASE_ADDRESS_0 + 4 * bar, width, flags, rw=rw)
        self.bar_sizes[bar] = size

    def add_io_bar(self, bar: int, size: int) -> None:
        """Give the function I/O BAR *bar* of *size* bytes (a power of two)."""
        if size < 4 or size & (size - 1):
            raise ValueError(f"BAR {bar}: size {size:#x} is not a power of two")
        self.define(PCI_BASE_ADDRESS_0 + 4 * bar, 4, PCI_BASE_ADDRESS_SPACE_IO, rw=~(size - 1) & 0xFFFFFFFF)
        self.bar_sizes[bar] = size
        self.io_bars.add(bar)

    def add_rom(self, size: int) -> None:
        """Give the function an expansion ROM of *size* bytes (a power of two, 2 KiB or more)."""
        if size < 2048 or size & (size - 1):
            raise ValueError(f"ROM: size {size:#x} is not a power of two")
        self.define(PCI_ROM_ADDRESS, 4, 0, rw=~(size - 1) & 0xFFFFFFFF | PCI_ROM_ADDRESS_ENABLE)
        self.bar_sizes[ROM_BAR] = size

    # ------------------------------------------------------------------ capabilities
    def add_cap(self, cap_id: int, at: int, length: int) -> int:
        """Append a capability of *length* bytes at *at* to the list; gives *at*."""
        self.define(at, length, cap_id)
        self.put(self._last_link, 1, at)
        self.put(PCI_STATUS, 2, self.get(PCI_STATUS, 2) | PCI_STATUS_CAP_LIST)
        self._last_link, self.caps[cap_id] = at + 1, at
        return at

    def add_ext_cap(self, cap_id: int, version: int, at: int, length: int) -> int:
        """Append an extended capability to its list, which must start at 0x100; gives *at*."""
        if not self._last_ext and at != EXT_CAP_START:
            raise ValueError(f"the first extended capability is at 0x100, not {at:#x}")
        self.define(at, length, cap_id | version << 16)
        if self._last_ext:
            self.put(self._last_ext, 4, self.get(self._last_ext, 4) & 0xFFFFF | at << 20)
        self._last_ext, self.ext_caps[cap_id] = at, at
        return at

    def add_pm(self, at: int, *, pmc: int = 3, no_soft_reset: bool = True) -> int:
        """Power management: *pmc* is PM capabilities (version 1.2 without PME), D-state is writable."""
        self.add_cap(PCI_CAP_ID_PM, at, 8)
        self.define(at + PCI_PM_PMC, 2, pmc)
        reset = PCI_PM_CTRL_NO_SOFT_RESET if no_soft_reset else 0
        self.define(at + PCI_PM_CTRL, 2, reset, rw=PCI_PM_CTRL_STATE_MASK)
        return at

    def add_vpd(self, at: int) -> int:
        """Vital product data: an address and a data register."""
        self.add_cap(PCI_CAP_ID_VPD, at, 8)
        self.define(at + PCI_VPD_ADDR, 2, 0, rw=0xFFFF)
        self.define(at + PCI_VPD_DATA, 4, 0, rw=0xFFFFFFFF)
        return at

    def add_af(self, at: int) -> int:
        """Advanced features: a conventional function with function-level reset."""
        self.add_cap(PCI_CAP_ID_AF, at, 6)
        self.define(at + PCI_AF_LENGTH, 1, 6)
        self.define(at + PCI_AF_CAP, 1, PCI_AF_CAP_TP | PCI_AF_CAP_FLR)
        return at

    def add_msi(self, at: int, *, wide: bool = True, vectors_log2: int = 0) -> int:
        """Message signalled interrupts, without per-vector masking."""
        self.add_cap(PCI_CAP_ID_MSI, at, 14 if wide else 10)
        flags = vectors_log2 << 1 | (PCI_MSI_FLAGS_64BIT if wide else 0)
        self.define(at + PCI_MSI_FLAGS, 2, flags, rw=PCI_MSI_FLAGS_ENABLE | PCI_MSI_FLAGS_QSIZE)
        self.define(at + PCI_MSI_ADDRESS_LO, 4, 0, rw=0xFFFFFFFC)
        if wide:
            self.define(at + PCI_MSI_ADDRESS_HI, 4, 0, rw=0xFFFFFFFF)
        self.define(at + (PCI_MSI_DATA_64 if wide else PCI_MSI_DATA_32), 2, 0, rw=0xFFFF)
        return at

    def add_msix(self, at: int, vectors: int, *, table: tuple[int, int], pba: tuple[int, int]) -> int:
        """MSI-X with *vectors* vectors; *table* and *pba* are (bar, offset)."""
        self.add_cap(PCI_CAP_ID_MSIX, at, 12)
        self.define(at + PCI_MSIX_FLAGS, 2, vectors - 1, rw=PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL)
        self.define(at + PCI_MSIX_TABLE, 4, table[1] | table[0])
        self.define(at + PCI_MSIX_PBA, 4, pba[1] | pba[0])
        return at

    def add_pcie(
        self,
        at: int,
        *,
        flags: int,
        devcap: int,
        devctl: int = 0,
        devctl_rw: int = 0x7FFF,
        devcap2: int = 0,
        devctl2_rw: int = 0xFFFF,
    ) -> int:
        """
        PCI Express capability, version 2 layout.

        *flags* is the capabilities register (version and device type: 0x02 endpoint, 0x92 root complex integrated
        endpoint); *devcap* bit 28 is function-level reset, *devcap2* bit 21 end-to-end TLP prefixes (PASID needs it).
        """
        self.add_cap(PCI_CAP_ID_EXP, at, 0x3C)
        self.define(at + PCI_EXP_FLAGS, 2, flags)
        self.define(at + PCI_EXP_DEVCAP, 4, devcap)
        self.define(at + PCI_EXP_DEVCTL, 2, devctl, rw=devctl_rw)
        self.define(at + PCI_EXP_DEVCAP2, 4, devcap2)
        self.define(at + PCI_EXP_DEVCTL2, 2, 0, rw=devctl2_rw)
        return at

    def add_dmwr_completer(self) -> None:
        """Device Capabilities 2: it completes deferrable memory writes, of 64 bytes; add_pcie() comes before."""
        at = self.caps[PCI_CAP_ID_EXP] + PCI_EXP_DEVCAP2
        self.put(at, 4, self.get(at, 4) | PCI_EXP_DEVCAP2_DMWR_COMPL)

    def add_dev3(self, at: int, *, cap: int = PCI_DEV3_DEVCAP3_DMWR_REQ, control: int = 0, rw: int = 3) -> int:
        """Device 3: *cap* is what it can (routing of DMWr), *control* what firmware left, *rw* what may be written."""
        self.add_ext_cap(PCI_EXT_CAP_ID_DEV3, 1, at, 0x10)
        self.define(at + PCI_DEV3_DEVCAP3, 4, cap)
        self.define(at + PCI_DEV3_DEVCTL3, 4, control, rw=rw)
        return at

    def add_aer(self, at: int) -> int:
        """Advanced error reporting, version 2, without a header log of prefixes."""
        self.add_ext_cap(PCI_EXT_CAP_ID_ERR, 2, at, 0x48)
        self.define(at + PCI_ERR_UNCOR_STATUS, 4, 0, w1c=0xFFFFFFFF)
        self.define(at + PCI_ERR_UNCOR_MASK, 4, 0, rw=0xFFFFFFFF)
        self.define(at + PCI_ERR_UNCOR_SEVER, 4, 0x00462030, rw=0xFFFFFFFF)
        self.define(at + PCI_ERR_COR_STATUS, 4, 0, w1c=0xFFFFFFFF)
        self.define(at + PCI_ERR_COR_MASK, 4, 0x2000, rw=0xFFFFFFFF)
        return at

    def add_ats(self, at: int, *, cap: int = 0x60) -> int:
        """Address translation services; *cap* 0x60 is page-aligned requests and global invalidate."""
        self.add_ext_cap(PCI_EXT_CAP_ID_ATS, 1, at, 8)
        self.define(at + PCI_ATS_CAP, 2, cap)
        self.define(at + PCI_ATS_CTRL, 2, 0, rw=PCI_ATS_CTRL_ENABLE | 0x1F)
        return at

    def add_pri(self, at: int, *, status: int = 0x8100, max_requests: int = 512) -> int:
        """Page request interface; *status* 0x8100 is "stopped" and "responses need a PASID"."""
        self.add_ext_cap(PCI_EXT_CAP_ID_PRI, 1, at, 16)
        self.define(at + PCI_PRI_CTRL, 2, 0, rw=PCI_PRI_CTRL_ENABLE | PCI_PRI_CTRL_RESET)
        self.define(at + PCI_PRI_STATUS, 2, status)
        self.define(at + PCI_PRI_MAX_REQ, 4, max_requests)
        self.define(at + PCI_PRI_ALLOC_REQ, 4, 0, rw=0xFFFFFFFF)
        return at

    def add_pasid(self, at: int, *, cap: int = 0x1404) -> int:
        """Process address space ids; *cap* 0x1404 is 20 bits wide with privileged mode."""
        self.add_ext_cap(PCI_EXT_CAP_ID_PASID, 1, at, 8)
        self.define(at + PCI_PASID_CAP, 2, cap)
        self.define(at + PCI_PASID_CTRL, 2, 0, rw=cap & 0x6 | 1)
        return at

    def add_sriov(self, at: int, *, vfs: int, offset: int, stride: int, device: int, bars: dict[int, int]) -> int:
        """Single-root virtualization: *vfs* virtual functions at *offset*, *stride*; *bars* are their 64-bit BARs."""
        self.add_ext_cap(PCI_EXT_CAP_ID_SRIOV, 1, at, 0x40)
        self.define(at + PCI_SRIOV_CTRL, 2, 0, rw=PCI_SRIOV_CTRL_VFE | PCI_SRIOV_CTRL_MSE)
        self.define(at + PCI_SRIOV_INITIAL_VF, 2, vfs)
        self.define(at + PCI_SRIOV_TOTAL_VF, 2, vfs)
        self.define(at + PCI_SRIOV_NUM_VF, 2, 0, rw=0xFFFF)
        self.define(at + PCI_SRIOV_VF_OFFSET, 2, offset)
        self.define(at + PCI_SRIOV_VF_STRIDE, 2, stride)
        self.define(at + PCI_SRIOV_VF_DID, 2, device)
        self.define(at + PCI_SRIOV_SUP_PGSIZE, 4, 0x553)
        self.define(at + PCI_SRIOV_SYS_PGSIZE, 4, 1, rw=0x553)
        self.vf_bar_sizes = dict(bars)
        for bar, size in bars.items():
            flags = PCI_BASE_ADDRESS_MEM_TYPE_64 | PCI_BASE_ADDRESS_MEM_PREFETCH
            self.define(at + PCI_SRIOV_BAR + 4 * bar, 8, flags, rw=~(size - 1) & (1 << 64) - 1)
        return at
