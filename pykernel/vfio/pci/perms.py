"""
Which bits of configuration space a user sees, and which it may write (drivers/vfio/pci/vfio_pci_config.c).

A bit that is virtual lives in the emulated space; another one is the hardware's. A write changes the bits that the
table lets be written.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from pykernel.uapi.linux import pci_regs as r

if TYPE_CHECKING:
    from pykernel.vfio.pci.config import VirtConfig

__all__ = ["CAP_LENGTHS", "EXT_CAP_LENGTHS", "VARIABLE", "Perm", "basic_perm", "msi_perm", "perms_of"]

VARIABLE = 0xFF
ALL = 0xFFFFFFFF
EXP_SIZE = 0x34  # of an endpoint with a link

# drivers/vfio/pci/vfio_pci_config.c:pci_cap_length[]; what is not here is hidden
CAP_LENGTHS = {
    r.PCI_CAP_ID_PM: r.PCI_PM_SIZEOF,
    r.PCI_CAP_ID_AGP: r.PCI_AGP_SIZEOF,
    r.PCI_CAP_ID_VPD: r.PCI_CAP_VPD_SIZEOF,
    r.PCI_CAP_ID_MSI: VARIABLE,
    r.PCI_CAP_ID_PCIX: VARIABLE,
    r.PCI_CAP_ID_HT: VARIABLE,
    r.PCI_CAP_ID_VNDR: VARIABLE,
    r.PCI_CAP_ID_EXP: VARIABLE,
    r.PCI_CAP_ID_MSIX: r.PCI_CAP_MSIX_SIZEOF,
    r.PCI_CAP_ID_SATA: VARIABLE,
    r.PCI_CAP_ID_AF: r.PCI_CAP_AF_SIZEOF,
}

# drivers/vfio/pci/vfio_pci_config.c:pci_ext_cap_length[]; the same; DVSEC is there from Linux 6.4 on
EXT_CAP_LENGTHS = {
    r.PCI_EXT_CAP_ID_ERR: r.PCI_ERR_ROOT_COMMAND,
    r.PCI_EXT_CAP_ID_VC: VARIABLE,
    r.PCI_EXT_CAP_ID_DSN: r.PCI_EXT_CAP_DSN_SIZEOF,
    r.PCI_EXT_CAP_ID_PWR: r.PCI_EXT_CAP_PWR_SIZEOF,
    r.PCI_EXT_CAP_ID_MFVC: VARIABLE,
    r.PCI_EXT_CAP_ID_VC9: VARIABLE,
    r.PCI_EXT_CAP_ID_VNDR: VARIABLE,
    r.PCI_EXT_CAP_ID_ACS: VARIABLE,
    r.PCI_EXT_CAP_ID_ARI: r.PCI_EXT_CAP_ARI_SIZEOF,
    r.PCI_EXT_CAP_ID_ATS: r.PCI_EXT_CAP_ATS_SIZEOF,
    r.PCI_EXT_CAP_ID_SRIOV: r.PCI_EXT_CAP_SRIOV_SIZEOF,
    r.PCI_EXT_CAP_ID_MCAST: r.PCI_EXT_CAP_MCAST_ENDPOINT_SIZEOF,
    r.PCI_EXT_CAP_ID_PRI: r.PCI_EXT_CAP_PRI_SIZEOF,
    r.PCI_EXT_CAP_ID_REBAR: VARIABLE,
    r.PCI_EXT_CAP_ID_DPA: VARIABLE,
    r.PCI_EXT_CAP_ID_TPH: VARIABLE,
    r.PCI_EXT_CAP_ID_LTR: r.PCI_EXT_CAP_LTR_SIZEOF,
    r.PCI_EXT_CAP_ID_DVSEC: VARIABLE,
}


class ReadFn(Protocol):
    """``perm_bits.readfn``: *count* bytes at *pos*, which is *offset* in the capability."""

    def __call__(self, vconfig: VirtConfig, pos: int, count: int, perm: Perm, offset: int, /) -> int: ...


class WriteFn(Protocol):
    """``perm_bits.writefn``."""

    def __call__(self, vconfig: VirtConfig, pos: int, count: int, perm: Perm, offset: int, value: int, /) -> None: ...


@dataclass(slots=True)
class Perm:
    """``struct perm_bits``."""

    read: ReadFn
    write: WriteFn | None = None
    virt: bytearray | None = None
    writable: bytearray | None = None

    def set(self, off: int, size: int, virt: int, write: int) -> None:
        """C: ``p_setb()``, ``p_setw()``, ``p_setd()``."""
        mask = (1 << 8 * size) - 1
        assert self.virt is not None
        assert self.writable is not None
        self.virt[off : off + size] = (virt & mask).to_bytes(size, "little")
        self.writable[off : off + size] = (write & mask).to_bytes(size, "little")

    def bits(self, off: int, count: int) -> tuple[int, int]:
        """What is virtual and what may be written of *count* bytes."""
        if self.virt is None or self.writable is None:
            return 0, 0
        return (
            int.from_bytes(self.virt[off : off + count], "little"),
            int.from_bytes(self.writable[off : off + count], "little"),
        )


def _table(read: ReadFn, write: WriteFn, size: int) -> Perm:
    # alloc_perm_bits(): whole words
    size = -(-size // 4) * 4
    return Perm(read, write, bytearray(size), bytearray(size))


# ---- how it is read and written when a capability has no function of its own


def default_read(v: VirtConfig, pos: int, count: int, perm: Perm, offset: int) -> int:
    """vfio_default_config_read()."""
    virt, _ = perm.bits(offset, count)
    value = v.get(pos, count)
    if virt == (1 << 8 * count) - 1:
        return value
    return v.hw_read(pos, count) & ~virt | value & virt


def default_write(v: VirtConfig, pos: int, count: int, perm: Perm, offset: int, value: int) -> None:
    """vfio_default_config_write()."""
    virt, write = perm.bits(offset, count)
    if write & virt:
        v.put(pos, count, v.get(pos, count) & ~(write & virt) | value & write & virt)
    if write & ~virt:
        v.hw_write(pos, count, v.hw_read(pos, count) & ~(write & ~virt) | value & write & ~virt)


def direct_read(v: VirtConfig, pos: int, count: int, perm: Perm, offset: int) -> int:
    """vfio_direct_config_read(): the hardware's, but for the links of the lists."""
    value = v.hw_read(pos, count)
    if pos >= r.PCI_CFG_SPACE_SIZE:
        return v.get(pos, count) if offset < 4 else value
    if pos >= r.PCI_STD_HEADER_SIZEOF:
        if offset == r.PCI_CAP_LIST_ID and count > 1:
            return value & ~0xFFFF | v.get(pos, 2)
        if offset == r.PCI_CAP_LIST_NEXT:
            return value & ~0xFF | v.get(pos, 1)
    return value


def raw_read(v: VirtConfig, pos: int, count: int, perm: Perm, offset: int) -> int:
    """vfio_raw_config_read()."""
    return v.hw_read(pos, count)


def raw_write(v: VirtConfig, pos: int, count: int, perm: Perm, offset: int, value: int) -> None:
    """vfio_raw_config_write()."""
    v.hw_write(pos, count, value)


DIRECT_RO = Perm(direct_read)
UNASSIGNED = Perm(raw_read, raw_write)


# ---- the tables


def basic_perm(read: ReadFn, write: WriteFn) -> Perm:
    """init_pci_cap_basic_perm(): the header."""
    p = _table(read, write, r.PCI_STD_HEADER_SIZEOF)
    p.set(r.PCI_VENDOR_ID, 2, ALL, 0)
    p.set(r.PCI_DEVICE_ID, 2, ALL, 0)
    p.set(r.PCI_COMMAND, 2, r.PCI_COMMAND_INTX_DISABLE, ALL)
    p.set(r.PCI_STATUS, 2, r.PCI_STATUS_CAP_LIST, 0)
    p.set(r.PCI_CACHE_LINE_SIZE, 1, 0, ALL)
    p.set(r.PCI_LATENCY_TIMER, 1, 0, ALL)
    p.set(r.PCI_BIST, 1, 0, ALL)
    for off in (*range(r.PCI_BASE_ADDRESS_0, r.PCI_BASE_ADDRESS_5 + 4, 4), r.PCI_ROM_ADDRESS):
        p.set(off, 4, ALL, ALL)
    p.set(r.PCI_CAPABILITY_LIST, 1, ALL, 0)
    p.set(r.PCI_INTERRUPT_LINE, 1, ALL, ALL)
    p.set(r.PCI_INTERRUPT_PIN, 1, ALL, 0)
    return p


def pm_perm(write: WriteFn) -> Perm:
    """init_pci_cap_pm_perm()."""
    p = _table(default_read, write, r.PCI_PM_SIZEOF)
    p.set(r.PCI_CAP_LIST_NEXT, 1, ALL, 0)
    p.set(r.PCI_PM_PMC, 2, r.PCI_PM_CAP_PME_MASK, 0)
    pme = r.PCI_PM_CTRL_PME_ENABLE | r.PCI_PM_CTRL_PME_STATUS
    p.set(r.PCI_PM_CTRL, 4, pme, ~(pme | r.PCI_PM_CTRL_STATE_MASK))
    return p


def vpd_perm(write: WriteFn) -> Perm:
    """init_pci_cap_vpd_perm()."""
    p = _table(default_read, write, r.PCI_CAP_VPD_SIZEOF)
    p.set(r.PCI_CAP_LIST_NEXT, 1, ALL, 0)
    p.set(r.PCI_VPD_ADDR, 2, ALL, ALL)
    p.set(r.PCI_VPD_DATA, 4, ALL, ALL)
    return p


def pcix_perm() -> Perm:
    """init_pci_cap_pcix_perm()."""
    p = _table(default_read, default_write, r.PCI_CAP_PCIX_SIZEOF_V2)
    p.set(r.PCI_CAP_LIST_NEXT, 1, ALL, 0)
    p.set(r.PCI_X_CMD, 2, 0, ALL)
    p.set(r.PCI_X_ECC_CSR, 4, 0, ALL)
    return p


def exp_perm(write: WriteFn) -> Perm:
    """init_pci_cap_exp_perm()."""
    p = _table(default_read, write, EXP_SIZE)
    p.set(r.PCI_CAP_LIST_NEXT, 1, ALL, 0)
    virt = r.PCI_EXP_DEVCTL_BCR_FLR | r.PCI_EXP_DEVCTL_PAYLOAD | r.PCI_EXP_DEVCTL_READRQ
    p.set(r.PCI_EXP_DEVCTL, 2, virt, ~r.PCI_EXP_DEVCTL_PHANTOM)
    p.set(r.PCI_EXP_DEVCTL2, 2, 0, ~r.PCI_EXP_DEVCTL2_ARI)
    return p


def af_perm(write: WriteFn) -> Perm:
    """init_pci_cap_af_perm()."""
    p = _table(default_read, write, r.PCI_CAP_AF_SIZEOF)
    p.set(r.PCI_CAP_LIST_NEXT, 1, ALL, 0)
    p.set(r.PCI_AF_CTRL, 1, r.PCI_AF_CTRL_FLR, r.PCI_AF_CTRL_FLR)
    return p


UNCORRECTABLE = (
    r.PCI_ERR_UNC_UND
    | r.PCI_ERR_UNC_DLP
    | r.PCI_ERR_UNC_SURPDN
    | r.PCI_ERR_UNC_POISON_TLP
    | r.PCI_ERR_UNC_FCP
    | r.PCI_ERR_UNC_COMP_TIME
    | r.PCI_ERR_UNC_COMP_ABORT
    | r.PCI_ERR_UNC_UNX_COMP
    | r.PCI_ERR_UNC_RX_OVER
    | r.PCI_ERR_UNC_MALF_TLP
    | r.PCI_ERR_UNC_ECRC
    | r.PCI_ERR_UNC_UNSUP
    | r.PCI_ERR_UNC_ACSV
    | r.PCI_ERR_UNC_INTN
    | r.PCI_ERR_UNC_MCBTLP
    | r.PCI_ERR_UNC_ATOMEG
    | r.PCI_ERR_UNC_TLPPRE
)
CORRECTABLE = (
    r.PCI_ERR_COR_RCVR
    | r.PCI_ERR_COR_BAD_TLP
    | r.PCI_ERR_COR_BAD_DLLP
    | r.PCI_ERR_COR_REP_ROLL
    | r.PCI_ERR_COR_REP_TIMER
    | r.PCI_ERR_COR_ADV_NFAT
    | r.PCI_ERR_COR_INTERNAL
    | r.PCI_ERR_COR_LOG_OVER
)


def err_perm() -> Perm:
    """init_pci_ext_cap_err_perm()."""
    p = _table(default_read, default_write, r.PCI_ERR_ROOT_COMMAND)
    p.set(0, 4, ALL, 0)
    for off in (r.PCI_ERR_UNCOR_STATUS, r.PCI_ERR_UNCOR_MASK, r.PCI_ERR_UNCOR_SEVER):
        p.set(off, 4, 0, UNCORRECTABLE)
    for off in (r.PCI_ERR_COR_STATUS, r.PCI_ERR_COR_MASK):
        p.set(off, 4, 0, CORRECTABLE)
    p.set(r.PCI_ERR_CAP, 4, 0, r.PCI_ERR_CAP_ECRC_GENE | r.PCI_ERR_CAP_ECRC_CHKE)
    return p


def pwr_perm() -> Perm:
    """init_pci_ext_cap_pwr_perm()."""
    p = _table(default_read, default_write, r.PCI_EXT_CAP_PWR_SIZEOF)
    p.set(0, 4, ALL, 0)
    p.set(r.PCI_PWR_DATA, 1, 0, ALL)
    return p


def msi_perm(read: ReadFn, write: WriteFn, length: int, flags: int) -> Perm:
    """init_pci_cap_msi_perm()."""
    p = _table(read, write, length)
    p.set(r.PCI_CAP_LIST_NEXT, 1, ALL, 0)
    p.set(r.PCI_MSI_FLAGS, 1, ALL, ALL)
    p.set(r.PCI_MSI_ADDRESS_LO, 4, ALL, ALL)
    if flags & r.PCI_MSI_FLAGS_64BIT:
        p.set(r.PCI_MSI_ADDRESS_HI, 4, ALL, ALL)
        p.set(r.PCI_MSI_DATA_64, 2, ALL, ALL)
        masks = (r.PCI_MSI_MASK_64, r.PCI_MSI_PENDING_64)
    else:
        p.set(r.PCI_MSI_DATA_32, 2, ALL, ALL)
        masks = (r.PCI_MSI_MASK_32, r.PCI_MSI_PENDING_32)
    if flags & r.PCI_MSI_FLAGS_MASKBIT:
        for off in masks:
            p.set(off, 4, 0, ALL)
    return p


def perms_of(
    pm: WriteFn, vpd: WriteFn, exp: WriteFn, af: WriteFn, *, dvsec: bool
) -> tuple[dict[int, Perm], dict[int, Perm]]:
    """vfio_pci_init_perm_bits(): by capability and by extended capability; another one is read-only."""
    caps = {
        r.PCI_CAP_ID_PM: pm_perm(pm),
        r.PCI_CAP_ID_VPD: vpd_perm(vpd),
        r.PCI_CAP_ID_PCIX: pcix_perm(),
        r.PCI_CAP_ID_VNDR: Perm(direct_read, raw_write),
        r.PCI_CAP_ID_EXP: exp_perm(exp),
        r.PCI_CAP_ID_AF: af_perm(af),
    }
    ext_caps = {
        r.PCI_EXT_CAP_ID_ERR: err_perm(),
        r.PCI_EXT_CAP_ID_PWR: pwr_perm(),
        r.PCI_EXT_CAP_ID_VNDR: Perm(direct_read, raw_write),
    }
    if dvsec:
        ext_caps[r.PCI_EXT_CAP_ID_DVSEC] = Perm(direct_read, raw_write)
    return caps, ext_caps
