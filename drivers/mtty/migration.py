"""
Migration of a port card (samples/vfio-mdev/mtty.c of Linux 6.8 and later: mtty_step_state() and around it).

The stream is a header, which PRE_COPY has already, and a record of each port, which comes with STOP_COPY. The source
reads it from one descriptor, the destination writes it to another.
"""

from __future__ import annotations

import os
from errno import EFAULT, EINVAL, ENODEV, ENOMEM
from typing import TYPE_CHECKING, Final

from pykernel.drivers.mtty.uart import SERIAL_PORT
from pykernel.errors import err
from pykernel.fs.anon import AnonFile, AnonInode
from pykernel.fs.ioctl import IoctlFile, ioctl
from pykernel.lib.locking import Mutex
from pykernel.mm.uaccess import copy_to_user
from pykernel.uapi.linux.vfio import (
    VFIO_DEVICE_STATE_PRE_COPY,
    VFIO_DEVICE_STATE_PRE_COPY_P2P,
    VFIO_DEVICE_STATE_RESUMING,
    VFIO_DEVICE_STATE_RUNNING,
    VFIO_DEVICE_STATE_RUNNING_P2P,
    VFIO_DEVICE_STATE_STOP,
    VFIO_DEVICE_STATE_STOP_COPY,
    VFIO_MIG_GET_PRECOPY_INFO,
    VFIO_MIGRATION_P2P,
    VFIO_MIGRATION_PRE_COPY,
    VFIO_MIGRATION_STOP_COPY,
    vfio_device_mig_state,
    vfio_precopy_info,
)
from pykernel.uapi.struct import Struct, u32, u64
from pykernel.vfio.main import vfio_mig_get_next_state

if TYPE_CHECKING:
    from pykernel.drivers.mtty.device import MttyDevice
    from pykernel.fs.vfs import File

__all__ = ["MTTY_MAGIC", "MttyMigration", "mtty_data"]

MTTY_MAGIC: Final = 0x7E9D09898C3E2C4E
MTTY_MAJOR_VER: Final = 1
MTTY_MINOR_VER: Final = 0

STOP, RUNNING, STOP_COPY = VFIO_DEVICE_STATE_STOP, VFIO_DEVICE_STATE_RUNNING, VFIO_DEVICE_STATE_STOP_COPY
RESUMING, RUNNING_P2P = VFIO_DEVICE_STATE_RESUMING, VFIO_DEVICE_STATE_RUNNING_P2P
PRE_COPY, PRE_COPY_P2P = VFIO_DEVICE_STATE_PRE_COPY, VFIO_DEVICE_STATE_PRE_COPY_P2P


class mtty_data(Struct):
    """``struct mtty_data`` without its ports."""

    magic: u64 = 0
    major_ver: u32 = 0
    minor_ver: u32 = 0
    nr_ports: u32 = 0
    flags: u32 = 0


HEADER_SIZE: Final = mtty_data.sizeof()


class MigrationInode(AnonInode):
    """Its name has no brackets around it, as those of the kernel's own files have."""

    __slots__ = ()

    def describe(self) -> str:
        """As fs/anon_inodes.c:anon_inodefs_dname()."""
        return f"anon_inode:{self.what}"


class MigrationFile(AnonFile):
    """``struct mtty_migration_file``: a stream that dies with its session."""

    __slots__ = ("data", "disabled", "filled_size", "lock", "migration")
    has_fasync = False
    read_iter = write_iter = False

    def __init__(self, migration: MttyMigration, flags: int) -> None:
        kernel = migration.device.kernel
        kernel.faults.alloc("mtty_migration_file")
        super().__init__(MigrationInode(kernel, 0, "mtty_mig"), flags)
        self.migration = migration
        self.lock = Mutex(kernel, "mtty_migration_file.lock")
        self.data = bytearray()
        self.filled_size = 0
        self.disabled = False

    def disable(self) -> None:
        """mtty_disable_file()."""
        with self.lock:
            self.disabled, self.filled_size, self.pos = True, 0, 0

    def release(self) -> None:
        """mtty_release_migf()."""
        self.disable()

    def check_enabled(self) -> None:
        """Raises ENODEV: the session is over."""
        if self.disabled:
            raise err(ENODEV, "the migration is over")


class SaveFile(IoctlFile, MigrationFile):
    """What the source reads."""

    __slots__ = ()

    def __init__(self, migration: MttyMigration) -> None:
        super().__init__(migration, os.O_RDONLY)
        header = mtty_data(
            magic=MTTY_MAGIC, major_ver=MTTY_MAJOR_VER, minor_ver=MTTY_MINOR_VER, nr_ports=migration.device.nr_ports
        )
        self.data += bytes(header)
        self.filled_size = HEADER_SIZE

    def fill(self) -> None:
        """mtty_save_state(): the ports as they are now."""
        with self.lock:
            device = self.migration.device
            self.data[HEADER_SIZE:] = b"".join(port.save() for port in device.ports[: device.nr_ports])
            self.filled_size += device.nr_ports * SERIAL_PORT.size

    def read(self, count: int) -> bytes:
        """mtty_save_read(). Raises ENODEV: the session is over. EINVAL: what was read is not there any more."""
        with self.lock:
            self.check_enabled()
            if self.pos > self.filled_size:
                raise err(EINVAL)
            data = bytes(self.data[self.pos : min(self.filled_size, self.pos + count)])
            self.pos += len(data)
            return data

    @ioctl(VFIO_MIG_GET_PRECOPY_INFO)
    def get_precopy_info(self, info: vfio_precopy_info, arg: int) -> None:
        """mtty_precopy_ioctl(). Raises EINVAL: the device is not in PRE_COPY. ENODEV: the session is over."""
        with self.migration:
            if self.migration.state not in (PRE_COPY, PRE_COPY_P2P):
                raise err(EINVAL, f"the device is in {self.migration.state.name}")
            with self.lock:
                self.check_enabled()
                if self.pos > self.filled_size:
                    raise err(EINVAL)
                info.dirty_bytes, info.initial_bytes = 0, self.filled_size - self.pos
            copy_to_user(self.inode.kernel, arg, bytes(info)[: VFIO_MIG_GET_PRECOPY_INFO.minsz])


class ResumeFile(MigrationFile):
    """What the destination writes."""

    __slots__ = ()

    def __init__(self, migration: MttyMigration) -> None:
        super().__init__(migration, os.O_WRONLY)

    def write(self, data: bytes) -> int:
        """
        mtty_resume_write(): a header that does not fit is told with the write that completes it, and kept.

        Raises:
            ENOMEM: more than the device has. ENODEV: the session is over. EFAULT: another magic, version, number of
                ports, or flags.
        """
        device = self.migration.device
        if self.pos + len(data) > self.migration.data_size:
            raise err(ENOMEM, f"{self.migration.data_size} bytes are all that there is of {device.name}")
        with self.lock:
            self.check_enabled()
            self.data[self.pos : self.pos + len(data)] = data
            self.pos += len(data)
            before, self.filled_size = self.filled_size, self.filled_size + len(data)
            if before < HEADER_SIZE <= self.filled_size:
                self._check_header(device.nr_ports)
        return len(data)

    def _check_header(self, nr_ports: int) -> None:
        want = mtty_data(magic=MTTY_MAGIC, major_ver=MTTY_MAJOR_VER, minor_ver=MTTY_MINOR_VER, nr_ports=nr_ports)
        if self.data[:HEADER_SIZE] != bytes(want):
            raise err(EFAULT, "not the header of a port card like this one")


# what each step does; the others that vfio_mig_get_next_state() takes do nothing
CLOSE = {(PRE_COPY, RUNNING), (PRE_COPY_P2P, RUNNING_P2P), (STOP_COPY, STOP)}
SAVE = {(RUNNING, PRE_COPY), (RUNNING_P2P, PRE_COPY_P2P), (STOP, STOP_COPY), (PRE_COPY_P2P, STOP_COPY)}


class MttyMigration:
    """
    ``mtty_migration_ops`` and ``mtty_log_ops``, with the state of one device.

    ``with migration:`` is mutex_lock(&state_mutex) and mtty_state_mutex_unlock(), which does a reset that came
    meanwhile.
    """

    def __init__(self, device: MttyDevice) -> None:
        kernel = device.kernel
        self.device = device
        self.state: vfio_device_mig_state = RUNNING
        self.state_mutex = Mutex(kernel, f"state_mutex of {device.name}")
        self.reset_mutex = Mutex(kernel, f"reset_mutex of {device.name}")
        self.deferred_reset = False
        self.saving: SaveFile | None = None
        self.resuming: ResumeFile | None = None
        device.migration_flags = VFIO_MIGRATION_STOP_COPY | VFIO_MIGRATION_P2P | VFIO_MIGRATION_PRE_COPY
        device.mig_ops = self
        device.log_ops = self

    @property
    def data_size(self) -> int:
        """mtty_data_size()."""
        return HEADER_SIZE + self.device.nr_ports * SERIAL_PORT.size

    def __enter__(self) -> None:
        self.state_mutex.lock()

    def __exit__(self, *exc: object) -> None:
        # as mtty_state_mutex_unlock() does
        self.reset_mutex.lock()
        while self.deferred_reset:
            self.deferred_reset = False
            self.reset_mutex.unlock()
            self.state = RUNNING
            self.disable_files()
            self.reset_mutex.lock()
        self.state_mutex.unlock()
        self.reset_mutex.unlock()

    def reset(self) -> None:
        """mtty_reset(): RUNNING, now or when who moves the device has done."""
        with self.reset_mutex:
            self.deferred_reset = True
            if not self.state_mutex.trylock():
                return
        self.__exit__()

    def disable_files(self) -> None:
        """mtty_disable_files(): the sessions are over."""
        for file in (self.saving, self.resuming):
            if file is not None:
                file.disable()
                file.put()
        self.saving = self.resuming = None

    # ---- struct vfio_migration_ops

    def migration_set_state(self, new_state: int) -> File | None:
        """mtty_set_state(). Raises EINVAL: no way there; and what a step says, after which it stays where it is."""
        file: File | None = None
        with self:
            while self.state != new_state:
                step = vfio_mig_get_next_state(self.device, self.state, new_state)
                file = self._step(step)
                self.state = step
        return file

    def migration_get_state(self) -> vfio_device_mig_state:
        """mtty_get_state()."""
        with self:
            return self.state

    def migration_get_data_size(self) -> int:
        """mtty_get_data_size()."""
        return self.data_size

    def _step(self, new: vfio_device_mig_state) -> File | None:
        # as mtty_step_state() does
        step = (self.state, new)
        if step == (RESUMING, STOP):
            self._load()
            self.disable_files()
        elif step in CLOSE:
            self.disable_files()
        elif step in SAVE:
            return self._save(stopped=new == STOP_COPY)
        elif step == (STOP, RESUMING):
            self.resuming = ResumeFile(self)
            return self.resuming.get()
        return None

    def _save(self, *, stopped: bool) -> File | None:
        # mtty_save_device_data(): whoever comes from PRE_COPY has the file already
        begins = self.saving is None
        self.saving = self.saving or SaveFile(self)
        if stopped:
            self.saving.fill()
        return self.saving.get() if begins else None

    def _load(self) -> None:
        # mtty_load_state(); the header was looked at when it was written
        assert self.resuming is not None
        file = self.resuming
        with file.lock:
            if file.filled_size < self.data_size:
                raise err(EINVAL, f"{file.filled_size} bytes came, of {self.data_size}")
            for n, port in enumerate(self.device.ports[: self.device.nr_ports]):
                at = HEADER_SIZE + n * SERIAL_PORT.size
                port.load(bytes(file.data[at : at + SERIAL_PORT.size]))

    # ---- struct vfio_log_ops: a card that does no DMA

    def log_start(self, ranges: list[tuple[int, int]], page_size: int) -> int:
        """mtty_log_start()."""
        return page_size

    def log_stop(self) -> None:
        """mtty_log_stop()."""

    def log_read_and_clear(self, iova: int, length: int, page_size: int) -> list[tuple[int, int]]:
        """mtty_log_read_and_clear()."""
        return []
