"""SR-IOV: a physical function with virtual ones, which are small accelerators with requester IDs of their own."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from pykernel.hw.dsa.function import BAR0_SIZE, PORTALS, REGISTERS, DsaFunction, make_config, portals_size
from pykernel.hw.dsa.regs import MSIX_PBA, MSIX_TABLE
from pykernel.pci.config import ConfigSpace
from pykernel.uapi.linux.pci_regs import (
    PCI_COMMAND_MASTER,
    PCI_EXT_CAP_ID_SRIOV,
    PCI_SRIOV_CTRL,
    PCI_SRIOV_CTRL_MSE,
)

if TYPE_CHECKING:
    from pykernel.hw.dsa.params import DsaParams

__all__ = ["SriovFunction", "VirtualFunction"]

VF_OFFSET, VF_STRIDE = 0x80, 1
SRIOV = 0x180
NO_ID = 0xFFFF  # of a virtual function; the physical one's capability says what it is


def vf_params(params: DsaParams) -> DsaParams:
    """What a virtual function of such a part is: its own queues, one group, one engine, a vector more than queues."""
    counts = (params.vf_wqs * params.vf_wq_size) | params.vf_wqs << 16
    return replace(
        params,
        wqcap=params.wqcap & ~0xFFFFFF | counts,
        grpcap=params.grpcap & ~0xFF | 1,
        engcap=1,
        vectors=1 + params.vf_wqs,
        vfs=0,
        faults=(),
    )


def make_vf_config(params: DsaParams) -> ConfigSpace:
    """A virtual function has no BARs, and shares PRI and PASID with its physical function; its ATS is its own."""
    config = ConfigSpace(NO_ID, NO_ID, 0x088000, subsystem=(0x8086, 0), command_rw=PCI_COMMAND_MASTER)
    config.bar_sizes |= {REGISTERS: BAR0_SIZE, PORTALS: portals_size(params)}
    config.add_pcie(0x40, flags=0x0092, devcap=0x10008002, devctl_rw=0x8000, devcap2=0x200010)
    config.add_dmwr_completer()
    config.add_msix(0x80, params.vectors, table=(REGISTERS, MSIX_TABLE), pba=(REGISTERS, MSIX_PBA))
    if params.ats:
        config.add_ats(0x100)
    config.settle()
    return config


class SriovFunction(DsaFunction):
    """An accelerator that announces virtual functions."""

    def __init__(self, params: DsaParams) -> None:
        config = make_config(params)
        self._vf_params = vf_params(params)
        bars = {REGISTERS: BAR0_SIZE, PORTALS: portals_size(self._vf_params)}
        config.add_sriov(SRIOV, vfs=params.vfs, offset=VF_OFFSET, stride=VF_STRIDE, device=params.device, bars=bars)
        config.settle()
        super().__init__(params, config)
        self.vfs: dict[int, VirtualFunction] = {}

    def make_vf(self, i: int) -> VirtualFunction:
        """Virtual function *i*, as it is when VF Enable comes: reset."""
        self.vfs[i] = VirtualFunction(self, self._vf_params)
        return self.vfs[i]

    @property
    def vf_memory_enabled(self) -> bool:
        """SR-IOV control, VF MSE."""
        at = self.config.ext_caps[PCI_EXT_CAP_ID_SRIOV] + PCI_SRIOV_CTRL
        return bool(self.config.get(at, 2) & PCI_SRIOV_CTRL_MSE)

    def config_write(self, off: int, size: int, value: int) -> None:
        """Its virtual functions decode memory as it says."""
        super().config_write(off, size, value)
        for vf in self.vfs.values():
            vf.follow()

    def flr(self) -> None:
        """A reset takes its virtual functions with it."""
        super().flr()
        for vf in self.vfs.values():
            vf.flr()


class VirtualFunction(DsaFunction):
    """One virtual function of *physfn*."""

    def __init__(self, physfn: SriovFunction, params: DsaParams) -> None:
        self.physfn = physfn
        super().__init__(params, make_vf_config(params))
        self.follow()

    def _decode_command(self) -> None:
        super()._decode_command()
        self.follow()

    def follow(self) -> None:
        """The physical function's control registers changed."""
        self.memory_enabled = self.physfn.vf_memory_enabled

    @property
    def pasid_enabled(self) -> bool:
        """The physical function's."""
        return self.physfn.pasid_enabled

    @property
    def pasid_priv_enabled(self) -> bool:
        """The physical function's."""
        return self.physfn.pasid_priv_enabled

    @property
    def pri_enabled(self) -> bool:
        """The physical function's."""
        return self.physfn.pri_enabled

    @property
    def page_request_limit(self) -> int:
        """The allotment is the physical function's, too."""
        return self.physfn.page_request_limit
