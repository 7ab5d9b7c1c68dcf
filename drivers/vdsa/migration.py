"""
Migration of a virtual DSA: stop and copy (VFIO's migration, version 2).

To stop is to let what the guest submitted end, by the host PASIDs of its user; so nothing of it is in the hardware when
the registers are read. The stream has what the guest sees and its own PASIDs only: on the other side they are looked up
again, and an interrupt handle that changed is revoked, upon which the guest asks for another.
"""

from __future__ import annotations

import os
import struct
from errno import EINVAL, ENODEV, ENOSPC
from typing import TYPE_CHECKING, Final

from pykernel.drivers.idxd.registers import IDXD_INTC_INT_HANDLE_REVOKED
from pykernel.errors import err
from pykernel.fs.anon import AnonFile, AnonInode
from pykernel.lib.locking import Mutex
from pykernel.uapi.linux.vfio import (
    VFIO_DEVICE_STATE_RESUMING,
    VFIO_DEVICE_STATE_RUNNING,
    VFIO_DEVICE_STATE_STOP,
    VFIO_DEVICE_STATE_STOP_COPY,
    VFIO_MIGRATION_STOP_COPY,
    vfio_device_mig_state,
)
from pykernel.vfio.migration import vfio_mig_get_next_state

if TYPE_CHECKING:
    from pykernel.drivers.vdsa.device import VdsaDevice
    from pykernel.fs.vfs import File

__all__ = ["MAGIC", "VdsaMigration"]

MAGIC: Final = 0x6D696761734456
STOP, RUNNING = VFIO_DEVICE_STATE_STOP, VFIO_DEVICE_STATE_RUNNING
STOP_COPY, RESUMING = VFIO_DEVICE_STATE_STOP_COPY, VFIO_DEVICE_STATE_RESUMING

HEADER: Final = struct.Struct("<QIIQQQ")  # magic, version, size of the queue, GENCAP, WQCAP, OPCAP's first quadword
STATE: Final = struct.Struct("<IIIIIii32sQQI")
NO_HANDLE: Final = -1


class StreamFile(AnonFile):
    """The data of one migration; it dies with its session."""

    __slots__ = ("data", "disabled", "limit", "lock")
    has_fasync = False
    read_iter = write_iter = False

    def __init__(self, device: VdsaDevice, flags: int, data: bytes, limit: int) -> None:
        device.kernel.faults.alloc("vdsa_migration_file")
        super().__init__(AnonInode(device.kernel, 0, "vdsa_mig"), flags)
        self.lock = Mutex(device.kernel, "vdsa_migration_file.lock")
        self.data = bytearray(data)
        self.limit = limit
        self.disabled = False

    def _check(self) -> None:
        if self.disabled:
            raise err(ENODEV, "the migration is over")

    def read(self, count: int) -> bytes:
        """Raises ENODEV: the session is over."""
        with self.lock:
            self._check()
            part = bytes(self.data[self.pos : self.pos + count])
            self.pos += len(part)
            return part

    def write(self, data: bytes) -> int:
        """Raises ENODEV: the session is over. ENOSPC: more than a device has."""
        with self.lock:
            self._check()
            if len(self.data) + len(data) > self.limit:
                raise err(ENOSPC, f"{self.limit} bytes are all that there is")
            self.data += data
        return len(data)


class VdsaMigration:
    """``struct vfio_migration_ops`` of one device."""

    def __init__(self, device: VdsaDevice) -> None:
        self.device = device
        self.state: vfio_device_mig_state = RUNNING
        self.file: StreamFile | None = None
        self._stopping = False
        device.migration_flags = VFIO_MIGRATION_STOP_COPY
        device.mig_ops = self

    @property
    def running(self) -> bool:
        """The guest's submissions are let through: not while it is being stopped, or it would never be done."""
        return self.state == RUNNING and not self._stopping

    @property
    def data_size(self) -> int:
        """Bytes of a stream."""
        return HEADER.size + STATE.size + len(self.device.msix_table) + self.device.config.space.size

    def reset(self) -> None:
        """The device was reset or closed: it runs."""
        self._end()
        self.state = RUNNING
        self.device.portal.zap()

    def _end(self) -> None:
        file, self.file = self.file, None
        if file is not None:
            with file.lock:
                file.disabled = True
            file.put()

    # ---- struct vfio_migration_ops

    def migration_set_state(self, new_state: int) -> File | None:
        """Raises EINVAL: no way there, or a stream of another device; ENOMEM."""
        file: File | None = None
        if self.running and new_state != RUNNING:
            self.device.settle()  # without the lock: pages that it needs may be the work of who is at a register
        with self.device.dev_lock:
            while self.state != new_state:
                step = vfio_mig_get_next_state(self.device, self.state, new_state)
                file = self._step(step)
                self.state = step
                self.device.portal.zap()
        return file

    def migration_get_state(self) -> vfio_device_mig_state:
        """Where it is."""
        return self.state

    def migration_get_data_size(self) -> int:
        """See :attr:`data_size`."""
        return self.data_size

    def _step(self, new: vfio_device_mig_state) -> File | None:
        step = (self.state, new)
        if step == (RUNNING, STOP):
            self._stop()
        elif step == (STOP, RUNNING):
            self.device.resume()
        elif step == (STOP, STOP_COPY):
            self.file = StreamFile(self.device, os.O_RDONLY, self.save(), 0)
            return self.file.get()
        elif step == (STOP, RESUMING):
            self.file = StreamFile(self.device, os.O_WRONLY, b"", self.data_size)
            return self.file.get()
        elif step == (RESUMING, STOP):
            assert self.file is not None
            self.load(bytes(self.file.data))
            self._end()
        elif step == (STOP_COPY, STOP):
            self._end()
        return None

    def _stop(self) -> None:
        self._stopping = True
        self.device.portal.zap()
        try:
            self.device.suspend()
        finally:
            self._stopping = False

    # ---- the stream

    def _header(self) -> bytes:
        regs = self.device.regs
        low = regs.opcap.bits & (1 << 64) - 1
        return HEADER.pack(MAGIC, regs.version.bits, self.device.wq.size, regs.gencap.bits, regs.wqcap.bits, low)

    def save(self) -> bytes:
        """What the guest sees."""
        device, regs = self.device, self.device.regs
        handle = NO_HANDLE if device.commands.handle is None else device.commands.handle
        state = STATE.pack(
            regs.gencfg.bits, regs.genctrl.bits, regs.gensts.bits, regs.intcause.bits, regs.cmdsts.bits & 0x7FFFFFFF,
            handle, int(device.commands.wq_on), regs.swerr.bits.to_bytes(32, "little"),
            regs.perm[0].perm.bits, regs.perm[1].perm.bits, regs.wqcfg[0].flags.bits,
        )  # fmt: skip
        return self._header() + state + bytes(device.msix_table) + device.config.save()

    def load(self, data: bytes) -> None:
        """Raises EINVAL: too little came, or from a device with other capabilities."""
        device, regs = self.device, self.device.regs
        if len(data) != self.data_size or data[: HEADER.size] != self._header():
            raise err(EINVAL, "not the state of a device like this one")
        fields = STATE.unpack_from(data, HEADER.size)
        at = HEADER.size + STATE.size
        device.msix_table[:] = data[at : at + len(device.msix_table)]
        device.config.load(data[at + len(device.msix_table) :])
        regs.gencfg.bits, regs.genctrl.bits, regs.gensts.bits, regs.intcause.bits, regs.cmdsts.bits = fields[:5]
        handle, wq_on, swerr, perm0, perm1, flags = fields[5:]
        regs.swerr.bits = int.from_bytes(swerr, "little")
        regs.perm[0].perm.bits, regs.perm[1].perm.bits, regs.wqcfg[0].flags.bits = perm0, perm1, flags
        regs.wqcfg[0].status.state = int(bool(wq_on))
        device.commands.handle = None if handle == NO_HANDLE else device.ims.index
        if handle not in (NO_HANDLE, device.ims.index):
            regs.intcause.bits |= IDXD_INTC_INT_HANDLE_REVOKED
