"""Vital product data (drivers/pci/vpd.c): what a card says of itself, behind an address and a data register."""

from __future__ import annotations

from errno import EINVAL, ENODEV, ETIMEDOUT
from typing import Any

from pykernel.errors import err
from pykernel.uapi.linux import pci_regs as r

__all__ = ["read_vpd", "write_vpd"]

MAX_SIZE = r.PCI_VPD_ADDR_MASK + 1
LARGE, END_TAG = 0x80, 0x0F  # resource data types of PCI 2.2, 6.2.3.2
WAIT_NS = 125 * 10**6


def _wait(dev: Any, cap: int, *, flag: bool) -> None:
    # drivers/pci/vpd.c:pci_vpd_wait()
    def done() -> bool:
        return bool(dev.read_config_word(cap + r.PCI_VPD_ADDR) & r.PCI_VPD_ADDR_F) is flag

    if done():
        return
    dev.kernel.waitqueue().wait_event(done, WAIT_NS)
    if not done():
        dev.warn(
            "VPD access failed.  This is likely a firmware bug on this device.  "
            "Contact the card vendor for a firmware update"
        )
        raise err(ETIMEDOUT)


def _read(dev: Any, cap: int, pos: int, count: int) -> bytes:
    out, first = b"", pos & ~3
    for at in range(first, pos + count, 4):
        dev.write_config_word(cap + r.PCI_VPD_ADDR, at)
        _wait(dev, cap, flag=True)
        out += dev.read_config_dword(cap + r.PCI_VPD_DATA).to_bytes(4, "little")
    return out[pos - first : pos - first + count]


def _size(dev: Any, cap: int) -> int:
    """How long the tagged resources are; 0: there is no EEPROM. drivers/pci/vpd.c:pci_vpd_size()."""
    off = 0
    while off < MAX_SIZE:
        tag, size = _read(dev, cap, off, 1)[0], 0
        if off == 0 and tag in (0, 0xFF):
            dev.info(f"invalid VPD tag {tag:#04x} (size 0) at offset 0; assume missing optional EEPROM")
            return 0
        if tag & LARGE:
            size, head = int.from_bytes(_read(dev, cap, off + 1, 2), "little"), 3
        else:
            size, head = tag & 7, 1
        if off + size > MAX_SIZE:
            dev.info(f"invalid VPD tag {tag:#04x} (size {size}) at offset {off}")
            return off
        off += head + size
        if not tag & LARGE and tag >> 3 == END_TAG:
            return off
    return off


def _available(dev: Any) -> tuple[int, int]:
    """Where the capability is, and how much is behind it. Raises ENODEV."""
    cap = dev.find_capability(r.PCI_CAP_ID_VPD)
    size = _size(dev, cap) if cap else 0
    if not size:
        raise err(ENODEV, f"{dev.name} has no VPD")
    return cap, size


def read_vpd(dev: Any, pos: int, count: int) -> bytes:
    """
    At most *count* bytes; none behind the end. C: ``ssize_t pci_read_vpd(struct pci_dev *, loff_t, size_t, void *)``.

    Raises:
        ENODEV: it has none. ETIMEDOUT.
    """
    cap, size = _available(dev)
    return _read(dev, cap, pos, min(count, size - pos)) if pos < size else b""


def write_vpd(dev: Any, pos: int, data: bytes) -> None:
    """
    C: ``ssize_t pci_write_vpd(struct pci_dev *, loff_t, size_t, const void *)``.

    Raises:
        ENODEV: it has none. EINVAL: not in words, or beyond the end. ETIMEDOUT.
    """
    cap, size = _available(dev)
    if pos % 4 or len(data) % 4 or pos + len(data) > size:
        raise err(EINVAL)
    for at in range(0, len(data), 4):
        dev.write_config_dword(cap + r.PCI_VPD_DATA, int.from_bytes(data[at : at + 4], "little"))
        dev.write_config_word(cap + r.PCI_VPD_ADDR, pos + at | r.PCI_VPD_ADDR_F)
        _wait(dev, cap, flag=False)
