"""Devices come and go (drivers/iommu/iommu.c: iommu_probe_device(), pci_device_group(), iommu_release_device())."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pykernel.iommu.group import IommuGroup
from pykernel.iommu.intel import IntelIommu
from pykernel.iommu.iommu_sysfs import DmarDevice
from pykernel.uapi.linux import pci_regs as r

if TYPE_CHECKING:
    from pykernel.pci.dev import PciDev

__all__ = ["iommu_probe_device", "iommu_release_device", "pci_device_group"]

REQ_ACS_FLAGS = r.PCI_ACS_SV | r.PCI_ACS_RR | r.PCI_ACS_CR | r.PCI_ACS_UF
ENDPOINTS = (r.PCI_EXP_TYPE_ENDPOINT, r.PCI_EXP_TYPE_UPSTREAM, r.PCI_EXP_TYPE_LEG_END, r.PCI_EXP_TYPE_RC_END)
MULTIFUNCTION = 0x80


def iommu_probe_device(dev: PciDev) -> None:
    """
    Put *dev* into a group and its default domain; without an IOMMU there is nothing to do.

    C: ``int iommu_probe_device(struct device *)``
    """
    kernel = dev.kernel
    unit = kernel.sub(IntelIommu)
    if not unit.enabled:
        return
    try:
        unit.probe_device(dev)
    except OSError:
        return
    dev.iommu = unit
    kernel.sub(DmarDevice).link(dev)
    with kernel.ledger.held(kernel.ledger.kernel):
        group = pci_device_group(dev)
        group.add_device(dev)
        if group.default_domain is None:
            group.setup_default_domain()
        else:
            group.core.create_direct_mappings(group.default_domain, dev)
        group.put()


def iommu_release_device(dev: PciDev) -> None:
    """C: ``void iommu_release_device(struct device *)``."""
    if dev.iommu is not None:
        dev.kernel.sub(DmarDevice).unlink(dev)
        if dev.iommu_group is not None:
            dev.iommu_group.remove_device(dev)
        dev.iommu.release_device(dev)
        dev.iommu = None


def pci_device_group(dev: PciDev) -> IommuGroup:
    """
    The group that isolation allows, with one reference for the caller: an existing one, or a new one.

    C: ``struct iommu_group *pci_device_group(struct device *)``
    """
    for alias in _dma_aliases(dev):
        if alias.iommu_group is not None:
            return alias.iommu_group.get()
        dev = alias
    # upwards to where access control services keep peers apart
    bus = dev.pci_bus
    while bus.self_ is not None and not _acs_path_enabled(bus.self_):
        dev = bus.self_
        if dev.iommu_group is not None:
            return dev.iommu_group.get()
        bus = dev.pci_bus
    return _function_alias_group(dev) or IommuGroup(dev.kernel)


def _dma_aliases(dev: PciDev) -> Iterator[PciDev]:
    """drivers/pci/search.c:pci_for_each_dma_alias(): itself, and the bridges that put their own ID on requests."""
    yield dev
    above = dev.pci_bus.self_
    while above is not None:
        if _pcie_type(above) in (None, r.PCI_EXP_TYPE_PCI_BRIDGE, r.PCI_EXP_TYPE_PCIE_BRIDGE):
            yield above
        above = above.pci_bus.self_


def _acs_path_enabled(bridge: PciDev) -> bool:
    """drivers/pci/pci.c:pci_acs_path_enabled() to the root."""
    above: PciDev | None = bridge
    while above is not None:
        if not pci_acs_enabled(above, REQ_ACS_FLAGS):
            return False
        above = above.pci_bus.self_
    return True


def _pcie_type(dev: PciDev) -> int | None:
    at = dev.find_capability(r.PCI_CAP_ID_EXP)
    return (dev.read_config_word(at + r.PCI_EXP_FLAGS) & r.PCI_EXP_FLAGS_TYPE) >> 4 if at else None


def _multifunction(dev: PciDev) -> bool:
    # drivers/pci/probe.c:pci_scan_slot(): what is no function 0 has a function 0 beside it
    if dev.physfn is not None:
        return False
    return dev.name[-1] != "0" or bool(dev.read_config_byte(r.PCI_HEADER_TYPE) & MULTIFUNCTION)


def pci_acs_enabled(dev: PciDev, flags: int) -> bool:
    """C: ``bool pci_acs_enabled(struct pci_dev *, u16)``: what a device cannot do needs no control."""
    kind = _pcie_type(dev)
    if kind in (None, r.PCI_EXP_TYPE_PCI_BRIDGE, r.PCI_EXP_TYPE_PCIE_BRIDGE, r.PCI_EXP_TYPE_RC_EC):
        return False
    if kind in ENDPOINTS and not _multifunction(dev):
        return True
    at = dev.find_ext_capability(r.PCI_EXT_CAP_ID_ACS)
    if not at:
        return False
    can = dev.read_config_word(at + r.PCI_ACS_CAP)
    flags &= can | r.PCI_ACS_EC
    # pci_std_enable_acs(): the kernel switches on what there is as soon as an IOMMU is in use
    return can & flags == flags


def _function_alias_group(dev: PciDev) -> IommuGroup | None:
    """drivers/iommu/iommu.c:get_pci_function_alias_group()."""
    if not _multifunction(dev) or pci_acs_enabled(dev, REQ_ACS_FLAGS):
        return None
    for other in dev.pci.devices.values():
        here = (other.domain, other.bus_number, other.devfn >> 3) == (dev.domain, dev.bus_number, dev.devfn >> 3)
        if here and other is not dev and other.iommu_group is not None and not pci_acs_enabled(other, REQ_ACS_FLAGS):
            return other.iommu_group.get()
    return None
