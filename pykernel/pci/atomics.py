"""AtomicOps of PCI Express (drivers/pci/pci.c:pci_enable_atomic_ops_to_root())."""

from __future__ import annotations

from typing import Any

from pykernel.uapi.linux import pci_regs as r

__all__ = ["enable_atomic_ops_to_root"]

REQUESTERS = (r.PCI_EXP_TYPE_ENDPOINT, r.PCI_EXP_TYPE_LEG_END, r.PCI_EXP_TYPE_RC_END)


def _exp(dev: Any) -> tuple[int, int]:
    """Where the capability is, and the type of port."""
    at = dev.find_capability(r.PCI_CAP_ID_EXP)
    return at, (dev.read_config_word(at + r.PCI_EXP_FLAGS) & r.PCI_EXP_FLAGS_TYPE) >> 4 if at else -1


def _routes(bridge: Any) -> bool:
    """Whether a port on the way lets them pass."""
    at, kind = _exp(bridge)
    if kind not in (r.PCI_EXP_TYPE_UPSTREAM, r.PCI_EXP_TYPE_DOWNSTREAM):
        return True
    blocked = bridge.read_config_word(at + r.PCI_EXP_DEVCTL2) & r.PCI_EXP_DEVCTL2_ATOMIC_EGRESS_BLOCK
    if kind == r.PCI_EXP_TYPE_UPSTREAM and blocked:
        return False
    return bool(bridge.read_config_dword(at + r.PCI_EXP_DEVCAP2) & r.PCI_EXP_DEVCAP2_ATOMIC_ROUTE)


def enable_atomic_ops_to_root(dev: Any, mask: int) -> bool:
    """
    True: the device may request them. C: ``int pci_enable_atomic_ops_to_root(struct pci_dev *, u32 cap_mask)``.

    Without a root port that can be seen it may when somebody let it before.
    """
    at, kind = _exp(dev)
    if dev.is_virtfn or kind not in REQUESTERS:
        return False
    control = dev.read_config_word(at + r.PCI_EXP_DEVCTL2)
    bridge = dev.pci_bus.self_
    while bridge is not None and _exp(bridge)[1] != r.PCI_EXP_TYPE_ROOT_PORT:
        if not _routes(bridge):
            return False
        bridge = bridge.pci_bus.self_
    if bridge is None:
        return bool(control & r.PCI_EXP_DEVCTL2_ATOMIC_REQ)
    if bridge.read_config_dword(_exp(bridge)[0] + r.PCI_EXP_DEVCAP2) & mask != mask:
        return False
    dev.write_config_word(at + r.PCI_EXP_DEVCTL2, control | r.PCI_EXP_DEVCTL2_ATOMIC_REQ)
    return True
