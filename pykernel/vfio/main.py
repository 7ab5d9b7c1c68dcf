"""
Registering devices of VFIO, and what their drivers call (drivers/vfio/vfio_main.c).
"""

from __future__ import annotations

from errno import EINTR, EINVAL

from pykernel.errors import HungTask, Oops, err
from pykernel.iommu.iommu import IOMMU_CAP_CACHE_COHERENCY, device_iommu_capable
from pykernel.log import WARNING
from pykernel.vfio.caps import InfoCaps
from pykernel.vfio.cdev import VfioClassDevice
from pykernel.vfio.container import VfioGroupType
from pykernel.vfio.core import VfioCore
from pykernel.vfio.device import VfioDevice
from pykernel.vfio.group import VfioGroup, vfio_device_remove_group, vfio_device_set_group
from pykernel.vfio.irqs import vfio_set_irqs_validate_and_prepare
from pykernel.vfio.migration import vfio_mig_get_next_state

__all__ = [
    "InfoCaps",
    "VfioDevice",
    "VfioGroup",
    "vfio_assign_device_set",
    "vfio_dma_read",
    "vfio_dma_write",
    "vfio_mig_get_next_state",
    "vfio_pin_pages",
    "vfio_put_device",
    "vfio_register_emulated_iommu_dev",
    "vfio_register_group_dev",
    "vfio_set_irqs_validate_and_prepare",
    "vfio_unpin_pages",
    "vfio_unregister_group_dev",
]

REQUEST_NS = 10 * 10**9
HUNG_ROUNDS = 12  # CONFIG_DEFAULT_HUNG_TASK_TIMEOUT / 10


def vfio_assign_device_set(vdev: VfioDevice, set_id: object) -> None:
    """C: ``int vfio_assign_device_set(struct vfio_device *, void *)``: devices of one *set_id* share a lock."""
    vdev.kernel.sub(VfioCore).assign_device_set(vdev, set_id)


def vfio_put_device(vdev: VfioDevice) -> None:
    """C: ``void vfio_put_device(struct vfio_device *)``, for one that was given a set and then not registered."""
    core = vdev.kernel.sub(VfioCore)
    core.release_device_set(vdev)
    if vdev.index >= 0:
        core.free_index(vdev.index)
        vdev.index = -1


def _register(vdev: VfioDevice, type: VfioGroupType) -> None:
    # drivers/vfio/vfio_main.c:__vfio_register_dev()
    core = vdev.kernel.sub(VfioCore)
    core.kernel.faults.alloc("vfio_alloc_device")
    if core.module is None:
        raise Oops('a module that registers devices of VFIO needs depends = ("vfio",)')
    vdev.index = core.alloc_index()
    try:
        if vdev.dev_set is None:
            core.assign_device_set(vdev, vdev)
        vfio_device_set_group(vdev, type)
        try:
            _add(core, vdev)
        except OSError:
            vfio_device_remove_group(vdev)
            raise
    except OSError:
        vfio_put_device(vdev)
        raise


def _add(core: VfioCore, vdev: VfioDevice) -> None:
    group = vdev.the_group
    if group.group_type == VfioGroupType.IOMMU and not device_iommu_capable(vdev.dev, IOMMU_CAP_CACHE_COHERENCY):
        raise err(EINVAL, f"the IOMMU of {vdev.dev.name} does not keep caches coherent")
    vdev.comp = core.completion()
    _show(core, vdev)
    vdev.refcount = 1


def _show(core: VfioCore, vdev: VfioDevice) -> None:
    vdev.device = VfioClassDevice(core, vdev)
    vdev.device.add_device()
    group = vdev.the_group
    with group.device_lock:
        group.device_list.insert(0, vdev)


def vfio_register_group_dev(vdev: VfioDevice) -> None:
    """
    C: ``int vfio_register_group_dev(struct vfio_device *)``.

    Raises:
        EINVAL: the device is in no IOMMU group. ENOMEM, ENOSPC.
    """
    _register(vdev, VfioGroupType.IOMMU)


def vfio_register_emulated_iommu_dev(vdev: VfioDevice) -> None:
    """C: ``int vfio_register_emulated_iommu_dev(struct vfio_device *)``: it does no DMA of its own. Raises ENOMEM."""
    _register(vdev, VfioGroupType.EMULATED_IOMMU)


def vfio_unregister_group_dev(vdev: VfioDevice) -> None:
    """
    Take the device away; while it is open, ask for it at once and every 10 seconds, and wait.

    C: ``void vfio_unregister_group_dev(struct vfio_device *)``.

    Raises:
        HungTask: nobody will close it; it stays registered.
    """
    group, first = vdev.the_group, vdev.kernel.profile.vfio_unregister_first
    if first:
        _remove(vdev, group)
    vdev.put_registration()
    try:
        _wait_until_closed(vdev)
    except HungTask:
        vdev.refcount += 1
        if first:
            _show(vdev.kernel.sub(VfioCore), vdev)
        raise
    if not first:
        _remove(vdev, group)
    vfio_device_remove_group(vdev)
    vfio_put_device(vdev)


def _wait_until_closed(vdev: VfioDevice) -> None:
    """
    request() and wait, without a limit. A signal is told in the log, and ends nothing.

    The virtual clock would pass for ever: after 120 seconds, when Linux tells of a hung task, it stands still, so that
    a wait that nothing can end is found.

    Raises:
        HungTask: it is one.
    """
    count, interrupted = 0, False
    while not vdev.comp.done:
        vdev.request(count)
        count += 1
        forever = vdev.kernel.sched.virtual and count > HUNG_ROUNDS
        try:
            vdev.comp.queue.wait_event(lambda: vdev.comp.done > 0, None if forever else REQUEST_NS)
        except Oops as e:
            raise HungTask(f"{vdev.name} is open: {e}") from e
        except OSError as e:
            if e.errno != EINTR:
                raise
            if not interrupted:
                interrupted, task = True, vdev.kernel.current
                vdev.dev.warn(
                    f'Device is currently in use, task "{task.comm}" ({task.pid}) blocked until device is released'
                )


def _remove(vdev: VfioDevice, group: VfioGroup) -> None:
    with group.device_lock:
        group.device_list.remove(vdev)
    vdev.the_device.remove_device()


# ---- what an open device that does no DMA of its own asks of the mappings


def _is_open(vdev: VfioDevice) -> bool:
    # drivers/vfio/vfio_main.c:vfio_assert_device_open()
    if not vdev.open_count:
        vdev.kernel.log.printk(WARNING, f"WARNING: {vdev.name}: mappings of a VFIO device that is not open")
    return vdev.open_count > 0


def vfio_pin_pages(vdev: VfioDevice, iova: int, npage: int, prot: int) -> list[int]:
    """
    Pin what the user mapped at *iova*: the physical address of each page.

    C: ``int vfio_pin_pages(struct vfio_device *, dma_addr_t, int, int, struct page **)``.

    Raises:
        EINVAL: no page, the device has no dma_unmap, or no mappings. E2BIG: over 512. And what the mappings say.
    """
    if not npage or not _is_open(vdev):
        raise err(EINVAL)
    container = vdev.the_group.container
    if vdev.kernel.profile.vfio_pin_needs_dma_unmap and vdev.dma_unmap is None:
        raise err(EINVAL, f"{vdev.name} has no dma_unmap()")
    if container is not None:
        return container.pin_pages(vdev.the_group, iova, npage, prot)
    hooks = vdev.hooks
    if hooks is None:
        raise err(EINVAL)
    return hooks.pin_pages(vdev, iova, npage, prot)


def vfio_unpin_pages(vdev: VfioDevice, iova: int, npage: int) -> None:
    """C: ``void vfio_unpin_pages(struct vfio_device *, dma_addr_t, int)``."""
    if not _is_open(vdev):
        return
    container = vdev.the_group.container
    if container is not None:
        container.unpin_pages(iova, npage)
    elif (hooks := vdev.hooks) is not None:
        hooks.unpin_pages(vdev, iova, npage)


def _dma_rw(vdev: VfioDevice, iova: int, buf: bytearray, write: bool) -> None:
    # drivers/vfio/vfio_main.c:vfio_dma_rw()
    if not buf or not _is_open(vdev):
        raise err(EINVAL)
    container = vdev.the_group.container
    if container is not None:
        container.dma_rw(iova, buf, write)
        return
    hooks = vdev.hooks
    if hooks is None:
        raise err(EINVAL)
    hooks.dma_rw(vdev, iova, buf, write)


def vfio_dma_read(vdev: VfioDevice, iova: int, n: int) -> bytes:
    """C: ``int vfio_dma_rw(..., false)``. Raises EINVAL, EFAULT, and what the mappings say."""
    buf = bytearray(n)
    _dma_rw(vdev, iova, buf, write=False)
    return bytes(buf)


def vfio_dma_write(vdev: VfioDevice, iova: int, data: bytes) -> None:
    """C: ``int vfio_dma_rw(..., true)``. Raises as :func:`vfio_dma_read`; EPERM: mapped read-only."""
    _dma_rw(vdev, iova, bytearray(data), write=True)
