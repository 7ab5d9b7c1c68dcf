"""What a device, a region, an interrupt is (drivers/vfio/pci/vfio_pci_core.c: vfio_pci_ioctl_get_info() and so on)."""

from __future__ import annotations

from errno import EINVAL
from typing import TYPE_CHECKING

from pykernel.errors import err
from pykernel.mm.uaccess import copy_to_user
from pykernel.pci.atomics import enable_atomic_ops_to_root
from pykernel.pci.resource import PCI_ROM_RESOURCE
from pykernel.pci.rom import map_rom, unmap_rom
from pykernel.uapi.linux import pci_regs as r
from pykernel.uapi.linux.vfio import (
    VFIO_DEVICE_FLAGS_CAPS,
    VFIO_DEVICE_FLAGS_PCI,
    VFIO_DEVICE_FLAGS_RESET,
    VFIO_DEVICE_INFO_CAP_PCI_ATOMIC_COMP,
    VFIO_IRQ_INFO_AUTOMASKED,
    VFIO_IRQ_INFO_EVENTFD,
    VFIO_IRQ_INFO_MASKABLE,
    VFIO_IRQ_INFO_NORESIZE,
    VFIO_PCI_ATOMIC_COMP32,
    VFIO_PCI_ATOMIC_COMP64,
    VFIO_PCI_ATOMIC_COMP128,
    VFIO_PCI_BAR5_REGION_INDEX,
    VFIO_PCI_CONFIG_REGION_INDEX,
    VFIO_PCI_ERR_IRQ_INDEX,
    VFIO_PCI_INTX_IRQ_INDEX,
    VFIO_PCI_MSIX_IRQ_INDEX,
    VFIO_PCI_NUM_IRQS,
    VFIO_PCI_NUM_REGIONS,
    VFIO_PCI_ROM_REGION_INDEX,
    VFIO_PCI_VGA_REGION_INDEX,
    VFIO_REGION_INFO_CAP_MSIX_MAPPABLE,
    VFIO_REGION_INFO_CAP_TYPE,
    VFIO_REGION_INFO_FLAG_MMAP,
    VFIO_REGION_INFO_FLAG_READ,
    VFIO_REGION_INFO_FLAG_WRITE,
    vfio_device_info,
    vfio_irq_info,
    vfio_region_info,
)
from pykernel.vfio.caps import InfoCaps, put_region_info
from pykernel.vfio.pci.mmap import OFFSET_SHIFT

if TYPE_CHECKING:
    from pykernel.vfio.pci.core import VfioPciCoreDevice

__all__ = ["get_info", "get_irq_info", "get_region_info"]

READ_WRITE = VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE
VGA_SIZE = 0xC0000
ATOMICS = (
    (r.PCI_EXP_DEVCAP2_ATOMIC_COMP32, VFIO_PCI_ATOMIC_COMP32),
    (r.PCI_EXP_DEVCAP2_ATOMIC_COMP64, VFIO_PCI_ATOMIC_COMP64),
    (r.PCI_EXP_DEVCAP2_ATOMIC_COMP128, VFIO_PCI_ATOMIC_COMP128),
)


def _atomic_cap(vdev: VfioPciCoreDevice, caps: InfoCaps) -> None:
    # drivers/vfio/pci/vfio_pci_core.c:vfio_pci_info_atomic_cap()
    pdev = vdev.pdev.physfn or vdev.pdev
    at = pdev.find_capability(r.PCI_CAP_ID_EXP)
    devcap2 = pdev.read_config_dword(at + r.PCI_EXP_DEVCAP2) if at else 0
    flags = sum(flag for bit, flag in ATOMICS if bool(devcap2 & bit) and enable_atomic_ops_to_root(pdev, bit))
    if flags:
        caps.add(VFIO_DEVICE_INFO_CAP_PCI_ATOMIC_COMP, 1, flags.to_bytes(8, "little"))


def get_info(vdev: VfioPciCoreDevice, info: vfio_device_info, arg: int) -> None:
    """VFIO_DEVICE_GET_INFO. Raises EFAULT."""
    any_size = vdev.kernel.profile.vfio_pci_info_any_size
    whole, old = vfio_device_info.sizeof(), vfio_device_info.offsetofend("cap_offset")
    room = vfio_device_info.offsetofend("num_irqs")
    if any_size:
        room = min(info.argsz, whole)
    elif info.argsz >= old:
        room = old
    info.flags = VFIO_DEVICE_FLAGS_PCI | (VFIO_DEVICE_FLAGS_RESET if vdev.reset_works else 0)
    info.num_regions = VFIO_PCI_NUM_REGIONS + len(vdev.regions)
    info.num_irqs = VFIO_PCI_NUM_IRQS
    caps = InfoCaps(vdev.kernel)
    if any_size:
        _atomic_cap(vdev, caps)
    if caps:
        info.flags |= VFIO_DEVICE_FLAGS_CAPS
        if info.argsz < whole + caps.size:
            info.argsz = whole + caps.size
        else:
            copy_to_user(vdev.kernel, arg + whole, caps.shifted(whole))
            info.cap_offset = whole
    copy_to_user(vdev.kernel, arg, bytes(info)[:room])


def _bar(vdev: VfioPciCoreDevice, info: vfio_region_info, caps: InfoCaps) -> None:
    info.size, info.flags = vdev.pdev.resource_len(info.index), 0
    if not info.size:
        return
    info.flags = READ_WRITE
    if info.index in vdev.bars.mmap_supported:
        info.flags |= VFIO_REGION_INFO_FLAG_MMAP
        if info.index == vdev.bars.msix_bar:
            caps.add(VFIO_REGION_INFO_CAP_MSIX_MAPPABLE, 1)


def _rom(vdev: VfioPciCoreDevice, info: vfio_region_info) -> None:
    # the size of the BAR, not of what is in it; nothing in it is no ROM
    info.size, info.flags = vdev.pdev.resource_len(PCI_ROM_RESOURCE), 0
    if not info.size:
        return
    with vdev.memory_forced():
        if map_rom(vdev.pdev) is None:
            info.size = 0
        else:
            info.flags = VFIO_REGION_INFO_FLAG_READ
            unmap_rom(vdev.pdev)


def _special(vdev: VfioPciCoreDevice, info: vfio_region_info, caps: InfoCaps) -> None:
    index = info.index - VFIO_PCI_NUM_REGIONS
    if index >= len(vdev.regions):
        raise err(EINVAL, f"there is no region {info.index}")
    region = vdev.regions[index]
    info.size, info.flags = region.size, region.flags
    kind = (region.type & 0xFFFFFFFF).to_bytes(4, "little") + region.subtype.to_bytes(4, "little")
    caps.add(VFIO_REGION_INFO_CAP_TYPE, 1, kind)
    region.ops.add_capability(vdev, region, caps)


def get_region_info(vdev: VfioPciCoreDevice, info: vfio_region_info, arg: int) -> None:
    """VFIO_DEVICE_GET_REGION_INFO. Raises EINVAL: no such region; EFAULT."""
    caps, index = InfoCaps(vdev.kernel), info.index
    if index == VFIO_PCI_CONFIG_REGION_INDEX:
        info.size, info.flags = vdev.pdev.cfg_size, READ_WRITE
    elif index <= VFIO_PCI_BAR5_REGION_INDEX:
        _bar(vdev, info, caps)
    elif index == VFIO_PCI_ROM_REGION_INDEX:
        _rom(vdev, info)
    elif index == VFIO_PCI_VGA_REGION_INDEX:
        if not vdev.has_vga:
            raise err(EINVAL, "no VGA")
        info.size, info.flags = VGA_SIZE, READ_WRITE
    else:
        _special(vdev, info, caps)
    info.offset = index << OFFSET_SHIFT
    put_region_info(vdev.kernel, info, caps, arg)


def get_irq_info(vdev: VfioPciCoreDevice, info: vfio_irq_info, arg: int) -> None:
    """VFIO_DEVICE_GET_IRQ_INFO. Raises EINVAL: no such interrupt; EFAULT."""
    index, pdev = info.index, vdev.pdev
    if index >= VFIO_PCI_NUM_IRQS or (index == VFIO_PCI_ERR_IRQ_INDEX and not pdev.is_pcie):
        raise err(EINVAL, f"no interrupts of kind {index}")
    info.flags, info.count = VFIO_IRQ_INFO_EVENTFD, vdev.irqs.count(index)
    if index == VFIO_PCI_INTX_IRQ_INDEX:
        info.flags |= VFIO_IRQ_INFO_MASKABLE | VFIO_IRQ_INFO_AUTOMASKED
    elif index != VFIO_PCI_MSIX_IRQ_INDEX or not pdev.msi.can_alloc_dyn:
        info.flags |= VFIO_IRQ_INFO_NORESIZE
    copy_to_user(vdev.kernel, arg, bytes(info))
