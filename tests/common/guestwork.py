"""What processes and kernels do with a work queue, on the host and in guests, for tests: copy, look, count retries."""

from __future__ import annotations

import os
from dataclasses import dataclass
from mmap import MAP_SHARED, PROT_WRITE
from typing import Any

from pykernel.base.module import Modules
from pykernel.drivers.idxd.dmaengine import DMA_PREP_INTERRUPT
from pykernel.iommu.dma import dma_alloc_coherent, dma_free_coherent
from pykernel.pci.core import Pci
from pykernel.tools.vmm.setup import enable
from pykernel.tools.vmm.vmm import DSA_SLOT, Vmm
from pykernel.uapi.linux.idxd import (
    DSA_OPCODE_MEMMOVE,
    IDXD_OP_FLAG_CRAV,
    IDXD_OP_FLAG_RCR,
    dsa_completion_record,
    dsa_hw_desc,
)

__all__ = ["QUEUE", "Client", "TooManyRetries", "copy", "kernel_copy", "running"]

QUEUE = "/dev/dsa/wq0.0"
PAGE = 4096
RETRIES = 2000  # of one command; a millisecond of sleep after each
CANARY = b"\xa5" * 64


class TooManyRetries(AssertionError):
    """A command that the queue never took."""


@dataclass
class Client:
    """
    A process with the queue open and mapped.

    Attributes:
        shared: commands are ENQCMDs, else MOVDIR64Bs.
        retries: how often the queue was full.
    """

    proc: Any
    path: str = QUEUE
    shared: bool = True
    retries: int = 0

    def __post_init__(self):
        self.fd = self.proc.open(self.path, os.O_RDWR)
        self.portal = self.proc.mmap(0, PAGE, PROT_WRITE, MAP_SHARED, self.fd, 0)
        self.record = self._place(32)

    def _place(self, size):
        at = self.proc.mem.alloc(size + 128, align=64)
        self.proc.mem.write(at, bytes(size))
        return at

    def copy(self, data):
        """Let the device copy *data*: what arrived, after a look at what lies behind it."""
        n = len(data)
        src, dst = self._place(n), self._place(n + len(CANARY))
        self.proc.mem.write(src, data)
        self.proc.mem.write(dst + n, CANARY)
        record = self.submit(opcode=DSA_OPCODE_MEMMOVE, src_addr=src, dst_addr=dst, xfer_size=n)
        assert record.status == 1, f"status {record.status:#x} fault_addr {record.fault_addr:#x}"
        assert self.proc.mem.read(dst + n, len(CANARY)) == CANARY
        return self.proc.mem.read(dst, n)

    def submit(self, **fields):
        """A descriptor, and its completion record."""
        self.send(**fields)
        return self.wait()

    def send(self, **fields):
        """A descriptor, and no look at what becomes of it."""
        self.proc.mem.write(self.record, bytes(32))
        flags = IDXD_OP_FLAG_CRAV | IDXD_OP_FLAG_RCR
        desc = bytes(dsa_hw_desc(flags=flags, completion_addr=self.record, **fields))
        if self.shared:
            self._enqcmd(desc)
        else:
            self.proc.movdir64b(self.portal, desc)

    def _enqcmd(self, desc):
        for _ in range(RETRIES):
            if not self.proc.enqcmd(self.portal, desc):
                return
            self.retries += 1
            self.proc.poll([], 1)
        raise TooManyRetries(f"{RETRIES} times in a row")

    def wait(self):
        for _ in range(RETRIES):
            record = dsa_completion_record.from_bytes(self.proc.mem.read(self.record, 32))
            if record.status:
                return record
            self.proc.poll([], 1)
        raise TimeoutError("no completion record")

    def close(self):
        self.proc.munmap(self.portal, PAGE)
        self.proc.close(self.fd)

    def __enter__(self):
        return self

    def __exit__(self, *_exc):
        self.close()


def running(host, **kw):
    """A machine whose guest has its queue enabled."""
    vmm = Vmm(host, **kw)
    vmm.run(lambda: enable(vmm.process()))
    return vmm


def copy(vmm, data, **kw):
    """A process of the guest that copies once: what arrived."""
    proc = vmm.process(comm="app")
    try:
        with Client(proc, **kw) as client:
            return client.copy(data)
    finally:
        proc.exit()


def kernel_copy(vmm, data):
    """A copy by the guest's kernel, by its DMA API and a queue of its own: what arrived, what the callback heard."""
    kernel = vmm.guest.kernel
    proc = vmm.process()
    pdev = kernel.sub(Pci).devices[DSA_SLOT]
    chan = kernel.sub(Modules).loaded["idxd"].bus.devices["wq0.0"].idxd_chan
    src, dst = dma_alloc_coherent(pdev, len(data)), dma_alloc_coherent(pdev, len(data))
    src.write(0, data)
    results = []
    chan.chan_get()
    desc = chan.prep_memcpy(dst.addr, src.addr, len(data), DMA_PREP_INTERRUPT)
    desc.txd.callback = results.append
    chan.tx_submit(desc)
    proc.poll([], 5)
    arrived = dst.read(0, len(data))
    chan.chan_put()
    for buffer in (src, dst):
        dma_free_coherent(buffer)
    proc.exit()
    return arrived, results
