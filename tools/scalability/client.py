"""A client: a process with an address space of its own that lets the accelerator copy, and believes nothing."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any

from pykernel.tools.dsa import Portal
from pykernel.uapi.linux.idxd import (
    DSA_COMP_SUCCESS,
    DSA_OPCODE_MEMMOVE,
    IDXD_OP_FLAG_CRAV,
    IDXD_OP_FLAG_RCR,
    dsa_completion_record,
    dsa_hw_desc,
)

if TYPE_CHECKING:
    from pykernel.syscalls import Process

__all__ = ["DEPTH", "Client", "Wrong"]

DEPTH = 4  # descriptors that a client has under way at most: no dedicated queue is smaller
SIZE = 1024  # bytes of the largest copy
CANARY = b"\xa5" * 64
THINK_MS = 7  # at most, between two bursts
RETRIES = 64  # of one descriptor, then the client gives it up
SLOWEST = 5  # a client waits at most 2**5 ms before it tries again
PATIENCE = 1000  # looks at a completion record, a millisecond each
ROOM = 2 * SIZE + 2 * len(CANARY)  # source, destination, canary, completion record
MS = 10**6


class Wrong(Exception):
    """What no client may ever see: bytes of somebody else's, a failed copy, or no answer."""


@dataclass
class Client:
    """
    A process that has the queue *path* open and mapped; what it counted is its own view.

    Attributes:
        accepted: descriptors that the queue took; a posted store to a dedicated queue always counts.
        done: copies whose every byte was there.
        retries: ENQCMD that came back with ZF=1.
        gave_up: descriptors that the queue did not take by all retries.

    Raises:
        OSError: what open() and mmap() say; EBUSY: the dedicated queue has its client.
    """

    proc: Process
    path: str
    rng: Random
    accepted: int = 0
    done: int = 0
    retries: int = 0
    gave_up: int = 0

    def __post_init__(self) -> None:
        self.portal = Portal(self.proc, self.path)
        at = self.portal.place(DEPTH * ROOM)
        self.slots = [at + n * ROOM for n in range(DEPTH)]

    def work(self, until_ns: int) -> None:
        """Think, copy, check; nothing new is begun from *until_ns* on. Then the process ends. Raises Wrong."""
        try:
            self._sleep(self.rng.randrange(THINK_MS + 1))
            while self._now() < until_ns:
                sent = [self._send(at) for at in self.slots[: self.rng.randrange(1, DEPTH + 1)]]
                for at, data in zip(self.slots, sent, strict=False):
                    if data is not None:
                        self._check(at, data)
                self._sleep(self.rng.randrange(THINK_MS + 1))
        finally:
            self.portal.close()
            self.proc.exit()

    def _now(self) -> int:
        return self.proc.kernel.sched.clock_ns()

    def _sleep(self, ms: int) -> None:
        self.proc.poll([], ms)

    def _send(self, at: int) -> bytes | None:
        """Submit a copy by slot *at*: its bytes; None: the queue did not take it."""
        data = self.rng.randbytes(self.rng.randrange(1, SIZE + 1))
        dst, record = at + SIZE, at + ROOM - len(CANARY)
        self.proc.mem.write(at, data)
        self.proc.mem.write(dst, bytes(len(data)) + CANARY)
        self.proc.mem.write(record, bytes(dsa_completion_record.sizeof()))
        desc = dsa_hw_desc(
            opcode=DSA_OPCODE_MEMMOVE,
            flags=IDXD_OP_FLAG_CRAV | IDXD_OP_FLAG_RCR,
            completion_addr=record,
            src_addr=at,
            dst_addr=dst,
            xfer_size=len(data),
        )
        return data if self._submit(bytes(desc)) else None

    def _submit(self, desc: bytes) -> bool:
        """MOVDIR64B once, or ENQCMD with bounded retries and longer and longer pauses."""
        if not self.portal.shared:
            self.proc.movdir64b(self.portal.addr, desc)
            self.accepted += 1
            return True
        for attempt in range(RETRIES):
            if not self.proc.enqcmd(self.portal.addr, desc):
                self.accepted += 1
                return True
            self.retries += 1
            self._sleep(1 + self.rng.randrange(1 << min(attempt, SLOWEST)))
        self.gave_up += 1
        return False

    def _check(self, at: int, data: bytes) -> None:
        """Wait for the completion record and look at every byte."""
        record: Any = None
        for _ in range(PATIENCE):
            raw = self.proc.mem.read(at + ROOM - len(CANARY), dsa_completion_record.sizeof())
            record = dsa_completion_record.from_bytes(raw)
            if record.status:
                break
            self._sleep(1)
        if record.status != DSA_COMP_SUCCESS:
            raise Wrong(f"{self.proc.task.comm}: completion status {record.status:#04x}")
        if self.proc.mem.read(at + SIZE, len(data) + len(CANARY)) != data + CANARY:
            raise Wrong(f"{self.proc.task.comm}: the copy differs from what was copied")
        self.done += 1
