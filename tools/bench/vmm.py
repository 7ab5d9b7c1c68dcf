"""What a guest's work costs: from ENQCMD in a process of a virtual machine to the completion record that it polls."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pykernel
from pykernel.tools.bench.measure import Row, per_call
from pykernel.tools.dsa import Portal
from pykernel.tools.vmm.setup import enable, prepare
from pykernel.tools.vmm.vmm import Vmm
from pykernel.uapi.linux.idxd import DSA_OPCODE_MEMMOVE, IDXD_OP_FLAG_CRAV, IDXD_OP_FLAG_RCR, dsa_hw_desc

__all__ = ["rows"]

QUEUE = "/dev/dsa/wq0.0"
SIZE = 4096
TARGET = 1e-4
HERE = "4 KiB, ENQCMD to completion, a process of the host"


def rows() -> Iterator[Row]:
    """The same loop on the host and in a guest."""
    host = pykernel.boot("vmm")
    root = host.process()
    prepare(root)
    yield Row(HERE, _loop(root))
    vmm = Vmm(host)
    try:
        vmm.run(lambda: enable(vmm.process()))
        yield Row("4 KiB, ENQCMD to completion, a process of a guest", vmm.run(_in_guest, vmm), TARGET, HERE)
    finally:
        vmm.shutdown()
    root.exit()
    host.shutdown()


def _in_guest(vmm: Vmm) -> float:
    proc = vmm.process()
    try:
        return _loop(proc)
    finally:
        proc.exit()


def _loop(proc: Any) -> float:
    """Seconds for each copy."""
    mem = proc.mem
    with Portal(proc, QUEUE) as portal:
        src, dst, record = portal.buffer(b"x" * SIZE), portal.place(SIZE), portal.place(32)
        desc = bytes(
            dsa_hw_desc(
                opcode=DSA_OPCODE_MEMMOVE,
                flags=IDXD_OP_FLAG_CRAV | IDXD_OP_FLAG_RCR,
                completion_addr=record,
                src_addr=src,
                dst_addr=dst,
                xfer_size=SIZE,
            )
        )
        empty = bytes(32)

        def copy() -> None:
            mem.write(record, empty)
            while proc.enqcmd(portal.addr, desc):
                proc.poll([], 1)
            while mem.read(record, 1) == b"\0":
                proc.poll([], 0)

        return per_call(copy)
