"""
A user-space driver of a Data Streaming Accelerator over VFIO, as DPDK has one and the vfio selftests of Linux.

It knows the device from its registers (drivers/dma/idxd/registers.h) and nothing of the idxd driver.
"""

from __future__ import annotations

import struct
from typing import Any

import vfioclient as client

from pykernel.syscalls import Process
from pykernel.uapi.linux import vfio as v
from pykernel.uapi.linux.idxd import IDXD_OP_FLAG_CRAV, IDXD_OP_FLAG_RCI, IDXD_OP_FLAG_RCR, dsa_hw_desc

GENCAP, GRPCAP, OFFSETS, GENSTS, CMD, CMDSTS = 0x10, 0x30, 0x60, 0x90, 0xA0, 0xA8
CMD_ENABLE, CMD_RESET, CMD_ENABLE_WQ, CMD_DISABLE_WQ, CMD_DISABLE = 1, 5, 6, 7, 2
ENABLED = 1


class Dsa:
    """The device behind *device*: queue 0, dedicated, in group 0 with engine 0; work by IOVAs."""

    def __init__(self, proc: Process, device: client.Device) -> None:
        self.proc, self.device = proc, device
        device.enable_memory()
        self.regs = device.region(v.VFIO_PCI_BAR0_REGION_INDEX).mmap()
        self.portal = device.region(v.VFIO_PCI_BAR2_REGION_INDEX).mmap(client.PAGE)
        self.gencap = self.load(GENCAP, 8)
        offsets = struct.unpack("<8H", self.proc.load(self.regs + OFFSETS, 16))
        self.grpcfg, self.wqcfg = offsets[0] * 0x100, offsets[1] * 0x100

    def load(self, off: int, size: int = 4) -> int:
        """A register."""
        return int.from_bytes(self.proc.load(self.regs + off, size), "little")

    def store(self, off: int, value: int, size: int = 4) -> None:
        """Write a register."""
        self.proc.store(self.regs + off, value.to_bytes(size, "little"))

    def command(self, command: int, operand: int = 0) -> int:
        """Do it and wait; the error code."""
        self.store(CMD, command << 20 | operand)
        while True:
            status = self.load(CMDSTS)
            if not status >> 31:
                return status & 0xFF
            self.proc.poll([], 1)

    def start(self, *, size: int = 16) -> None:
        """Reset, configure, enable."""
        assert self.command(CMD_RESET) == 0
        self.store(self.wqcfg, size)  # entries
        self.store(self.wqcfg + 8, 1 | 1 << 4)  # dedicated, priority 1, no PASID
        self.store(self.wqcfg + 12, 31 | 5 << 5)  # 2 GiB a transfer, 32 descriptors a batch
        self.store(self.grpcfg, 1, 8)
        self.store(self.grpcfg + 32, 1, 8)
        self.store(self.grpcfg + 40, (self.load(GRPCAP) & 0xFF) << 20)  # all read buffers
        assert self.command(CMD_ENABLE) == 0
        assert self.command(CMD_ENABLE_WQ) == 0
        assert self.load(GENSTS) & 3 == ENABLED

    def stop(self) -> None:
        """Disable all."""
        assert self.command(CMD_DISABLE_WQ, 1) == 0
        assert self.command(CMD_DISABLE) == 0

    def submit(self, *, completion: int, vector: int = 0, **fields: Any) -> None:
        """MOVDIR64B of a descriptor to the portal; *completion* is an IOVA, *vector* the MSI-X entry or 0 for none."""
        flags = IDXD_OP_FLAG_CRAV | IDXD_OP_FLAG_RCR | (IDXD_OP_FLAG_RCI if vector else 0)
        desc = dsa_hw_desc(flags=flags, completion_addr=completion, int_handle=vector, **fields)
        desc.priv = 1
        self.proc.movdir64b(self.portal, bytes(desc))
