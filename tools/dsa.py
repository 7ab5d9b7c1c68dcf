"""
What a client of a Data Streaming Accelerator does, for tests, lessons and the demo: configure a queue, submit, wait.

Everything goes through the system calls of a process (``kernel.process()``), as in a C program::

    proc = pykernel.boot("dsa").process()
    enable_wq(proc, "wq0.0", mode="dedicated", size=16)
    assert memmove(proc, "/dev/dsa/wq0.0", b"hello") == b"hello"
"""

from __future__ import annotations

import os
import re
from mmap import MAP_SHARED, PROT_WRITE
from types import TracebackType
from typing import TYPE_CHECKING, Any

from pykernel.uapi.linux.idxd import (
    DSA_COMP_NONE,
    DSA_COMP_SUCCESS,
    DSA_OPCODE_MEMMOVE,
    IDXD_OP_FLAG_CRAV,
    IDXD_OP_FLAG_RCR,
    dsa_completion_record,
    dsa_hw_desc,
)

if TYPE_CHECKING:
    from pykernel.syscalls import Process

__all__ = ["WQ_DEFAULTS", "Portal", "enable_wq", "memmove", "settings"]

BUS = "/sys/bus/dsa"
PORTAL_SIZE = 4096
COMPLETION_ALIGN = 32  # of a DSA; an IAX wants 64
WAIT_MS, WAIT_ROUNDS = 1, 1000

WQ_DEFAULTS: dict[str, str | int] = {
    "group_id": 0,
    "mode": "dedicated",
    "size": 16,
    "priority": 10,
    "type": "user",
    "name": "demo",
    "driver_name": "user",
}


def settings(proc: Process, wq: str, **attrs: str | int) -> list[tuple[str, str]]:
    """
    The stores that make *wq* ("wq0.0") a working user queue: path and text, in an order that the driver takes.

    *attrs* replaces or adds to :data:`WQ_DEFAULTS`; the threshold of a shared queue is its size unless told. The first
    engine of the device goes into the queue's group.
    """
    where = f"{BUS}/devices/{wq}"
    device, kind = _device(proc, wq)
    values = WQ_DEFAULTS | attrs
    if values["mode"] == "shared":
        threshold = values.pop("threshold", values["size"])
        values["threshold"] = threshold  # last: it is checked against the size
    known = proc.listdir(where)
    if "driver_name" not in attrs and "driver_name" not in known:  # kernels before 6.7 do not have it
        del values["driver_name"]
    number = re.sub(r"\D", "", device)
    return [
        (f"{BUS}/devices/engine{number}.0/group_id", str(values["group_id"])),
        *((f"{where}/{name}", str(value)) for name, value in values.items()),
        (f"{BUS}/drivers/idxd/bind", device),
        (f"{BUS}/drivers/{values['type'] if values['type'] in ('user', 'mdev') else kind}/bind", wq),
    ]


def _device(proc: Process, wq: str) -> tuple[str, str]:
    device = proc.realpath(f"{BUS}/devices/{wq}").split("/")[-2]
    return device, "dmaengine" if device.startswith("dsa") else "crypto"


def enable_wq(proc: Process, wq: str, **attrs: str | int) -> None:
    """Configure and enable *wq* and its device. Raises what the driver says to a store."""
    for path, text in settings(proc, wq, **attrs):
        proc.write_text(path, text + "\n")


class Portal:
    """
    An open work queue with its portal mapped: ``with Portal(proc, "/dev/dsa/wq0.0") as portal: portal.submit(...)``.

    Raises:
        EBUSY: the queue is dedicated and has its client. And what open() and mmap() say.
    """

    def __init__(self, proc: Process, path: str) -> None:
        self.proc = proc
        self.shared = proc.read_text(f"{BUS}/devices/{os.path.basename(path)}/mode") == "shared\n"
        self.fd = proc.open(path, os.O_RDWR)
        try:
            self.addr = proc.mmap(0, PORTAL_SIZE, PROT_WRITE, MAP_SHARED, self.fd, 0)
        except OSError:
            proc.close(self.fd)
            raise

    def buffer(self, data: bytes) -> int:
        """The address of new memory with *data*: its pages are there, so the device does not fault on them."""
        return self.place(len(data), data)

    def place(self, size: int, data: bytes = b"", align: int = 64) -> int:
        """The address of *size* bytes, aligned, that begin with *data*."""
        at = int(self.proc.mem.alloc(size + align))
        at += -at % align
        self.proc.mem.write(at, data.ljust(size, b"\0"))
        return at

    def submit(self, **fields: Any) -> dsa_completion_record:
        """
        Store a descriptor with *fields* to the portal (ENQCMD for a shared queue) and wait for its completion record.

        Raises:
            TimeoutError: the shared queue stayed full, or the device wrote no record.
        """
        record = self.place(dsa_completion_record.sizeof())
        flags = IDXD_OP_FLAG_CRAV | IDXD_OP_FLAG_RCR | fields.pop("flags", 0)
        desc = dsa_hw_desc(flags=flags, completion_addr=record, **fields)
        self._store(bytes(desc))
        return self.wait(record)

    def _store(self, desc: bytes) -> None:
        if not self.shared:
            self.proc.movdir64b(self.addr, desc)
            return
        for _ in range(WAIT_ROUNDS):
            if not self.proc.enqcmd(self.addr, desc):
                return
            self.proc.poll([], WAIT_MS)
        raise TimeoutError("the shared queue is full and stays so")

    def wait(self, record: int) -> dsa_completion_record:
        """Poll the record at address *record*, as a program does, until its status is not 0. Raises TimeoutError."""
        for _ in range(WAIT_ROUNDS):
            done = dsa_completion_record.from_bytes(self.proc.mem.read(record, dsa_completion_record.sizeof()))
            if done.status != DSA_COMP_NONE:
                return done
            self.proc.poll([], WAIT_MS)
        raise TimeoutError("the device wrote no completion record; dmesg may say why")

    def close(self) -> None:
        """munmap() and close()."""
        self.proc.munmap(self.addr, PORTAL_SIZE)
        self.proc.close(self.fd)

    def __enter__(self) -> Portal:
        return self

    def __exit__(self, et: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


def memmove(proc: Process, path: str, data: bytes) -> bytes:
    """
    Let the queue at *path* copy *data* to another place; the bytes that are there then.

    Raises:
        RuntimeError: the completion record says anything but success.
    """
    with Portal(proc, path) as portal:
        src, dst = portal.buffer(data), portal.place(len(data))
        record = portal.submit(opcode=DSA_OPCODE_MEMMOVE, src_addr=src, dst_addr=dst, xfer_size=len(data))
        if record.status != DSA_COMP_SUCCESS:
            raise RuntimeError(f"completion status {record.status:#04x}")
        return bytes(proc.mem.read(dst, len(data)))
