"""
Migration of a device's state, version 2, and the log of its DMA (include/linux/vfio.h, drivers/vfio/vfio_main.c).
"""

from __future__ import annotations

from errno import EINVAL
from typing import TYPE_CHECKING, Protocol

from pykernel.errors import err
from pykernel.uapi.linux.vfio import (
    VFIO_MIGRATION_P2P,
    VFIO_MIGRATION_PRE_COPY,
    VFIO_MIGRATION_STOP_COPY,
    vfio_device_mig_state,
)

if TYPE_CHECKING:
    from pykernel.fs.vfs import File
    from pykernel.vfio.device import VfioDevice

__all__ = ["LogOps", "MigrationOps", "vfio_mig_get_next_state"]


class MigrationOps(Protocol):
    """``struct vfio_migration_ops``."""

    def migration_set_state(self, new_state: int) -> File | None:
        """
        Go to *new_state*, whatever number the user gave; the file of the data stream when one begins.

        :func:`vfio_mig_get_next_state` says by which steps. Raises an errno.
        """
        ...

    def migration_get_state(self) -> int:
        """Where it is, a ``vfio_device_mig_state``. Raises an errno."""
        ...

    def migration_get_data_size(self) -> int:
        """Bytes that a stop-copy would take, about. Raises an errno."""
        ...


class LogOps(Protocol):
    """``struct vfio_log_ops``."""

    def log_start(self, ranges: list[tuple[int, int]], page_size: int) -> int:
        """Log writes to *ranges* (iova, length), in order; the page size that the device chose. Raises an errno."""
        ...

    def log_stop(self) -> None:
        """C: ``int log_stop(struct vfio_device *)``. Raises an errno."""
        ...

    def log_read_and_clear(self, iova: int, length: int, page_size: int) -> list[tuple[int, int]]:
        """What was written, as (iova, length). Raises an errno."""
        ...


ERROR, STOP, RUNNING, STOP_COPY, RESUMING, RUNNING_P2P, PRE_COPY, PRE_COPY_P2P, _ = vfio_device_mig_state

# drivers/vfio/vfio_main.c:vfio_mig_get_next_state(): the first step from a state to each other one; none is an error
STEPS: dict[int, dict[int, int]] = {
    STOP: {
        RUNNING: RUNNING_P2P,
        STOP_COPY: STOP_COPY,
        RESUMING: RESUMING,
        RUNNING_P2P: RUNNING_P2P,
        PRE_COPY: RUNNING_P2P,
        PRE_COPY_P2P: RUNNING_P2P,
    },
    RUNNING: {
        STOP: RUNNING_P2P,
        STOP_COPY: RUNNING_P2P,
        RESUMING: RUNNING_P2P,
        RUNNING_P2P: RUNNING_P2P,
        PRE_COPY: PRE_COPY,
        PRE_COPY_P2P: RUNNING_P2P,
    },
    STOP_COPY: {STOP: STOP, RUNNING: STOP, RESUMING: STOP, RUNNING_P2P: STOP},
    RESUMING: dict.fromkeys((STOP, RUNNING, STOP_COPY, RUNNING_P2P, PRE_COPY, PRE_COPY_P2P), STOP),
    RUNNING_P2P: {
        STOP: STOP,
        RUNNING: RUNNING,
        STOP_COPY: STOP,
        RESUMING: STOP,
        PRE_COPY: RUNNING,
        PRE_COPY_P2P: PRE_COPY_P2P,
    },
    PRE_COPY: {
        STOP: RUNNING,
        RUNNING: RUNNING,
        STOP_COPY: PRE_COPY_P2P,
        RESUMING: RUNNING,
        RUNNING_P2P: RUNNING,
        PRE_COPY_P2P: PRE_COPY_P2P,
    },
    PRE_COPY_P2P: {
        STOP: RUNNING_P2P,
        RUNNING: RUNNING_P2P,
        STOP_COPY: STOP_COPY,
        RESUMING: RUNNING_P2P,
        RUNNING_P2P: RUNNING_P2P,
        PRE_COPY: PRE_COPY,
    },
}

FLAGS: dict[int, int] = {
    **dict.fromkeys((STOP, RUNNING, STOP_COPY, RESUMING), VFIO_MIGRATION_STOP_COPY),
    RUNNING_P2P: VFIO_MIGRATION_STOP_COPY | VFIO_MIGRATION_P2P,
    PRE_COPY: VFIO_MIGRATION_STOP_COPY | VFIO_MIGRATION_PRE_COPY,
    PRE_COPY_P2P: VFIO_MIGRATION_STOP_COPY | VFIO_MIGRATION_P2P | VFIO_MIGRATION_PRE_COPY,
}
NEWER = (PRE_COPY, PRE_COPY_P2P)


def _has(vdev: VfioDevice, state: int) -> bool:
    """Whether this kernel knows *state* and the device has what it needs; ERROR needs all."""
    if state in NEWER and not vdev.kernel.profile.vfio_pre_copy:
        return False
    return state in FLAGS and FLAGS[state] & ~vdev.migration_flags == 0


def vfio_mig_get_next_state(vdev: VfioDevice, cur_fsm: int, new_fsm: int) -> vfio_device_mig_state:
    """
    The next step from *cur_fsm* to *new_fsm*; states that the device has not are skipped.

    C: ``int vfio_mig_get_next_state(struct vfio_device *, enum vfio_device_mig_state, enum ..., enum ... *)``.

    Raises:
        EINVAL: there is no way, or the device has not one of the states.
    """
    if not _has(vdev, cur_fsm) or not _has(vdev, new_fsm):
        raise err(EINVAL, f"no migration state {new_fsm}")
    state: int | None = cur_fsm
    while state is not None:
        state = state if state == new_fsm else STEPS[state].get(new_fsm)
        if state is not None and _has(vdev, state):
            return vfio_device_mig_state(state)
    raise err(EINVAL, f"no way from migration state {cur_fsm} to {new_fsm}")
