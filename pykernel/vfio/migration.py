"""
Migration of a device's state, version 2, and the log of its DMA (include/linux/vfio.h).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from pykernel.fs.vfs import File
    from pykernel.uapi.linux.vfio import vfio_device_mig_state

__all__ = ["LogOps", "MigrationOps"]


class MigrationOps(Protocol):
    """``struct vfio_migration_ops``."""

    def migration_set_state(self, new_state: vfio_device_mig_state) -> File | None:
        """Go there; the file of the data stream when one begins. Raises an errno."""
        ...

    def migration_get_state(self) -> vfio_device_mig_state:
        """Where it is."""
        ...

    def migration_get_data_size(self) -> int:
        """Bytes that a stop-copy would take, about."""
        ...


class LogOps(Protocol):
    """``struct vfio_log_ops``."""

    def log_start(self, ranges: list[tuple[int, int]], page_size: int) -> int:
        """Log writes to *ranges* (iova, length); the page size that the device chose. Raises an errno."""
        ...

    def log_stop(self) -> None:
        """C: ``int log_stop(struct vfio_device *)``. Raises an errno."""
        ...

    def log_read_and_clear(self, iova: int, length: int, page_size: int) -> list[tuple[int, int]]:
        """What was written, as (iova, length). Raises an errno."""
        ...
