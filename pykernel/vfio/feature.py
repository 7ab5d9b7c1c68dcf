"""
VFIO_DEVICE_FEATURE: the features that the core has itself, migration and the log of DMA (drivers/vfio/vfio_main.c).
"""

from __future__ import annotations

from collections.abc import Callable
from errno import E2BIG, EINVAL, ENOTTY, EOVERFLOW
from typing import TYPE_CHECKING, TypeVar

from sortedcontainers import SortedDict

from pykernel.errors import err
from pykernel.fs.fdtable import current_files
from pykernel.iommufd.iova_bitmap import IovaBitmap
from pykernel.mm.uaccess import PAGE_SIZE, copy_from_user, copy_to_user
from pykernel.uapi.linux.vfio import (
    VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT,
    VFIO_DEVICE_FEATURE_DMA_LOGGING_START,
    VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP,
    VFIO_DEVICE_FEATURE_GET,
    VFIO_DEVICE_FEATURE_MASK,
    VFIO_DEVICE_FEATURE_MIG_DATA_SIZE,
    VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE,
    VFIO_DEVICE_FEATURE_MIGRATION,
    VFIO_DEVICE_FEATURE_PROBE,
    VFIO_DEVICE_FEATURE_SET,
    vfio_device_feature,
    vfio_device_feature_dma_logging_control,
    vfio_device_feature_dma_logging_range,
    vfio_device_feature_dma_logging_report,
    vfio_device_feature_mig_data_size,
    vfio_device_feature_mig_state,
    vfio_device_feature_migration,
)

if TYPE_CHECKING:
    from pykernel.fs.vfs import File
    from pykernel.uapi.struct import Struct
    from pykernel.vfio.device import VfioDevice
    from pykernel.vfio.migration import LogOps, MigrationOps

    T = TypeVar("T", bound=Struct)

__all__ = ["vfio_check_feature", "vfio_ioctl_device_feature"]

GET, SET, PROBE = VFIO_DEVICE_FEATURE_GET, VFIO_DEVICE_FEATURE_SET, VFIO_DEVICE_FEATURE_PROBE
U64 = 1 << 64


def vfio_check_feature(flags: int, argsz: int, supported_ops: int, minsz: int) -> bool:
    """
    Whether to go on: False is a probe, which is answered with 0.

    C: ``int vfio_check_feature(u32 flags, size_t argsz, u32 supported_ops, size_t minsz)``; *argsz* is the payload's.

    Raises:
        EINVAL: what the feature cannot do, neither GET nor SET, too small.
    """
    asked = flags & (GET | SET)
    if asked & ~supported_ops:
        raise err(EINVAL, "the feature has no such operation")
    if flags & PROBE:
        return False
    if not asked:
        raise err(EINVAL, "neither GET nor SET")
    if argsz < minsz:
        raise err(EINVAL, f"{argsz} bytes of payload, the feature has {minsz}")
    return True


def vfio_ioctl_device_feature(vdev: VfioDevice, feature: vfio_device_feature, arg: int) -> int:
    """
    *arg* points to the payload, behind *feature*.

    C: ``int vfio_ioctl_device_feature(struct vfio_device *, struct vfio_device_feature __user *)``.

    Raises:
        EINVAL: unknown flags, GET with SET. ENOTTY: no such feature. And what the feature says.
    """
    flags, argsz = feature.flags, feature.argsz - vfio_device_feature.sizeof()
    if flags & ~(VFIO_DEVICE_FEATURE_MASK | GET | SET | PROBE):
        raise err(EINVAL, f"unknown flags {flags:#x}")
    if not flags & PROBE and flags & SET and flags & GET:
        raise err(EINVAL, "GET and SET")
    index = flags & VFIO_DEVICE_FEATURE_MASK
    own = HANDLERS.get(index)
    if own is None or (index == VFIO_DEVICE_FEATURE_MIG_DATA_SIZE and not vdev.kernel.profile.vfio_mig_data_size):
        return vdev.device_feature(flags, arg, argsz)
    return own(vdev, flags, arg, argsz)


def _mig_ops(vdev: VfioDevice) -> MigrationOps:
    if vdev.mig_ops is None:
        raise err(ENOTTY, f"{vdev.name} has no migration")
    return vdev.mig_ops


def _log_ops(vdev: VfioDevice) -> LogOps:
    if vdev.log_ops is None:
        raise err(ENOTTY, f"{vdev.name} does not log its DMA")
    return vdev.log_ops


def _read(vdev: VfioDevice, cls: type[T], arg: int) -> T:
    return cls.from_bytes(copy_from_user(vdev.kernel, arg, cls.sizeof()))


def migration(vdev: VfioDevice, flags: int, arg: int, argsz: int) -> int:
    """drivers/vfio/vfio_main.c:vfio_ioctl_device_feature_migration()."""
    _mig_ops(vdev)
    if vfio_check_feature(flags, argsz, GET, vfio_device_feature_migration.sizeof()):
        copy_to_user(vdev.kernel, arg, bytes(vfio_device_feature_migration(flags=vdev.migration_flags)))
    return 0


def mig_device_state(vdev: VfioDevice, flags: int, arg: int, argsz: int) -> int:
    """drivers/vfio/vfio_main.c:vfio_ioctl_device_feature_mig_device_state(): data_fd is -1 without a stream."""
    ops = _mig_ops(vdev)
    if not vfio_check_feature(flags, argsz, GET | SET, vfio_device_feature_mig_state.sizeof()):
        return 0
    mig = _read(vdev, vfio_device_feature_mig_state, arg)
    mig.data_fd = -1
    if flags & GET:
        mig.device_state = int(ops.migration_get_state())
    else:
        try:
            file = ops.migration_set_state(mig.device_state)
        except OSError:
            copy_to_user(vdev.kernel, arg, bytes(mig))
            raise
        if file is not None:
            return _return_fd(vdev, arg, mig, file)
    copy_to_user(vdev.kernel, arg, bytes(mig))
    return 0


def _return_fd(vdev: VfioDevice, arg: int, mig: vfio_device_feature_mig_state, file: File) -> int:
    # drivers/vfio/vfio_main.c:vfio_ioct_mig_return_fd(): the reference of the file is ours
    try:
        files = current_files(vdev.kernel)
        with files.unused_fd() as mig.data_fd:
            copy_to_user(vdev.kernel, arg, bytes(mig))
            files.fd_install(mig.data_fd, file, cloexec=True)
    except OSError:
        file.put()
        raise
    return 0


def mig_data_size(vdev: VfioDevice, flags: int, arg: int, argsz: int) -> int:
    """drivers/vfio/vfio_main.c:vfio_ioctl_device_feature_migration_data_size()."""
    ops = _mig_ops(vdev)
    if vfio_check_feature(flags, argsz, GET, vfio_device_feature_mig_data_size.sizeof()):
        size = vfio_device_feature_mig_data_size(stop_copy_length=ops.migration_get_data_size())
        copy_to_user(vdev.kernel, arg, bytes(size))
    return 0


def _ranges(vdev: VfioDevice, control: vfio_device_feature_dma_logging_control) -> list[tuple[int, int]]:
    """
    The ranges to log, in order.

    Raises EFAULT; EINVAL: not of whole pages, or two overlap; EOVERFLOW: beyond the last address.
    """
    each = vfio_device_feature_dma_logging_range.sizeof()
    found: SortedDict = SortedDict()
    mask = (control.page_size - 1) % U64  # IS_ALIGNED(), whatever the page size is
    for n in range(control.num_ranges):
        row = _read(vdev, vfio_device_feature_dma_logging_range, control.ranges + n * each)
        if row.iova & mask or row.length & mask:
            raise err(EINVAL, f"{row.iova:#x}+{row.length:#x} are no whole pages of {control.page_size:#x}")
        if row.iova + row.length >= U64:
            raise err(EOVERFLOW, f"{row.iova:#x}+{row.length:#x}")
        _insert(found, row.iova, (row.iova + row.length - 1) % U64)
    return [(start, (last - start + 1) % U64) for start, last in found.items()]


def _insert(found: SortedDict, start: int, last: int) -> None:
    """A range more. Raises EINVAL: it overlaps with one that is there (lib/interval_tree.c)."""
    before = found.bisect_right(last) - 1
    if before >= 0 and found.peekitem(before)[1] >= start:
        raise err(EINVAL, f"range {start:#x}-{last:#x} overlaps with another")
    found[start] = last


def logging_start(vdev: VfioDevice, flags: int, arg: int, argsz: int) -> int:
    """drivers/vfio/vfio_main.c:vfio_ioctl_device_feature_logging_start(): the page size that is used comes back."""
    ops = _log_ops(vdev)
    if not vfio_check_feature(flags, argsz, SET, vfio_device_feature_dma_logging_control.sizeof()):
        return 0
    control = _read(vdev, vfio_device_feature_dma_logging_control, arg)
    if not control.num_ranges:
        raise err(EINVAL, "no range")
    most = PAGE_SIZE // vfio_device_feature_dma_logging_range.sizeof()
    if control.num_ranges > most:
        raise err(E2BIG, f"{control.num_ranges} ranges, at most {most}")
    control.page_size = ops.log_start(_ranges(vdev, control), control.page_size)
    try:
        copy_to_user(vdev.kernel, arg, bytes(control))
    except OSError:
        ops.log_stop()
        raise
    return 0


def logging_stop(vdev: VfioDevice, flags: int, arg: int, argsz: int) -> int:
    """drivers/vfio/vfio_main.c:vfio_ioctl_device_feature_logging_stop()."""
    ops = _log_ops(vdev)
    if vfio_check_feature(flags, argsz, SET, 0):
        ops.log_stop()
    return 0


def logging_report(vdev: VfioDevice, flags: int, arg: int, argsz: int) -> int:
    """drivers/vfio/vfio_main.c:vfio_ioctl_device_feature_logging_report(): bits of what was written are set."""
    ops = _log_ops(vdev)
    if not vfio_check_feature(flags, argsz, GET, vfio_device_feature_dma_logging_report.sizeof()):
        return 0
    report = _read(vdev, vfio_device_feature_dma_logging_report, arg)
    size = report.page_size
    if size < PAGE_SIZE or size & size - 1:
        raise err(EINVAL, f"page size {size:#x}")
    if report.iova + report.length >= U64:
        raise err(EOVERFLOW, f"{report.iova:#x}+{report.length:#x}")
    bitmap = IovaBitmap(vdev.kernel, report.iova, report.length, size, report.bitmap)
    for iova, length in ops.log_read_and_clear(report.iova, report.length, size):
        bitmap.set(iova, length)
    return 0


HANDLERS: dict[int, Callable[[VfioDevice, int, int, int], int]] = {
    VFIO_DEVICE_FEATURE_MIGRATION: migration,
    VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE: mig_device_state,
    VFIO_DEVICE_FEATURE_DMA_LOGGING_START: logging_start,
    VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP: logging_stop,
    VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT: logging_report,
    VFIO_DEVICE_FEATURE_MIG_DATA_SIZE: mig_data_size,
}
