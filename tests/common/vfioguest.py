"""
A virtual machine as QEMU makes it of VFIO devices (hw/vfio/pci.c, hw/vfio/listener.c), on the small client.

Its memory has a hole; devices come and go while it runs; a device that is wanted back is unplugged.
"""

from __future__ import annotations

import os
import struct

import vfioclient as client

from pykernel.syscalls import Process
from pykernel.uapi.linux import pci_regs as r
from pykernel.uapi.linux import vfio as v

__all__ = ["RAM", "Guest", "GuestDevice"]

K, M, G = 1 << 10, 1 << 20, 1 << 30
# where memory is: below the VGA window, up to the hole below 4 GiB (interrupts, BARs), above it
RAM = ((0, 640 * K), (M, 15 * M), (4 * G, 4 * M))
NONE_TRIGGER = v.VFIO_IRQ_SET_DATA_NONE | v.VFIO_IRQ_SET_ACTION_TRIGGER
UNMASK = v.VFIO_IRQ_SET_ACTION_UNMASK
INTX, MSI, MSIX = v.VFIO_PCI_INTX_IRQ_INDEX, v.VFIO_PCI_MSI_IRQ_INDEX, v.VFIO_PCI_MSIX_IRQ_INDEX
ERR, REQ = v.VFIO_PCI_ERR_IRQ_INDEX, v.VFIO_PCI_REQ_IRQ_INDEX


class Guest:
    """The machine: *space* is a container or an IOMMUFD, whose client is its process."""

    def __init__(self, space: client.Container | client.Iommufd) -> None:
        self.space, self.proc = space, space.proc
        self.areas = [(gpa, size, client.anonymous(self.proc, size)) for gpa, size in RAM]
        self.mapped = False
        self.devices: list[GuestDevice] = []

    def plug(self, path: str) -> GuestDevice:
        """vfio_realize(): its group or node, with the first device the memory, then what it has."""
        device = self.space.device(path)
        if not self.mapped:
            self._map()
        self.devices.append(GuestDevice(self.proc, device))
        return self.devices[-1]

    def _map(self) -> None:
        # vfio_listener_region_add() for each section, which must be in a range that the host has
        ranges = self.space.ranges() if self._has_ranges() else [(0, (1 << 64) - 1)]
        for gpa, size, vaddr in self.areas:
            assert any(start <= gpa and gpa + size - 1 <= last for start, last in ranges)
            self.space.map(vaddr, gpa, size)
        self.mapped = True

    def _has_ranges(self) -> bool:
        if isinstance(self.space, client.Iommufd):
            return True
        return v.VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE in self.space.info()[1]

    def write(self, gpa: int, data: bytes) -> None:
        """By a virtual CPU."""
        self.proc.mem.write(self._vaddr(gpa), data)

    def read(self, gpa: int, n: int) -> bytes:
        """By a virtual CPU."""
        return bytes(self.proc.mem.read(self._vaddr(gpa), n))

    def _vaddr(self, gpa: int) -> int:
        return next(vaddr + gpa - start for start, size, vaddr in self.areas if start <= gpa < start + size)

    def unplug(self, device: GuestDevice) -> None:
        """vfio_exitfn()."""
        self.devices.remove(device)
        device.finalize()

    def wait(self, timeout_ms: int = 1000) -> list[str]:
        """The main loop, once: what is wanted back is unplugged (vfio_req_notifier_handler()); the names of that."""
        by_fd = {device.req: device for device in self.devices if device.req >= 0}
        ready = self.proc.poll([(fd, 1) for fd in by_fd], timeout_ms)
        for fd, _ in ready:
            self.proc.read(fd, 8)
            self.unplug(by_fd[fd])
        return [by_fd[fd].name for fd, _ in ready]

    def quit(self) -> None:
        """Memory goes, then devices, then the container."""
        for gpa, size, _ in self.areas if self.mapped else ():
            assert self.space.unmap(gpa, size) == size
        for device in list(self.devices):
            self.unplug(device)
        self.space.close()


class GuestDevice:
    """A device of the machine."""

    def __init__(self, proc: Process, device: client.Device) -> None:
        self.proc, self.device = proc, device
        self.name = f"vfio{device.fd}"
        self.mapped: list[tuple[int, int]] = []
        self.intx = self.resample = -1
        self._populate()
        self._early()
        for index in range(r.PCI_STD_NUM_BARS):
            bar = device.region(index)
            if bar.info.flags & v.VFIO_REGION_INFO_FLAG_MMAP:
                self.mapped.append((bar.mmap(), -(-bar.info.size // client.PAGE) * client.PAGE))
        self.err = self._notifier(ERR)
        self.req = self._notifier(REQ)

    def _populate(self) -> None:
        # vfio_populate_device(): what every device of PCI must have
        info = self.device.info
        assert info.flags & v.VFIO_DEVICE_FLAGS_PCI
        assert info.num_regions > v.VFIO_PCI_CONFIG_REGION_INDEX
        assert info.num_irqs > MSIX
        self.regions = [self.device.region(index) for index in range(v.VFIO_PCI_ROM_REGION_INDEX)]
        self.config = self.device.config()
        assert self.config.info.flags & v.VFIO_REGION_INFO_FLAG_READ

    def _early(self) -> None:
        # vfio_pci_config_setup(): the whole of configuration space as it is, and the capabilities that it has
        self.space = self.config.read(0, min(int(self.config.info.size), 256))
        self.caps: dict[int, int] = {}
        at = self.space[r.PCI_CAPABILITY_LIST] if self.space[r.PCI_STATUS] & r.PCI_STATUS_CAP_LIST else 0
        while at:
            self.caps[self.space[at]] = at
            at = self.space[at + 1]

    def _notifier(self, index: int) -> int:
        # vfio_register_err_notifier(), vfio_register_req_notifier(): only where there is exactly one
        try:
            if self.device.irq(index).count != 1:
                return -1
        except OSError:
            return -1
        fd = self.proc.eventfd(0, os.O_NONBLOCK)
        try:
            self.device.signal_by(index, [fd])
        except OSError:
            self.proc.close(fd)
            return -1
        return fd

    # ---- interrupts

    def enable_intx(self) -> None:
        """vfio_intx_enable_kvm(): a line, and an eventfd by which it is unmasked when the guest has seen to it."""
        self.intx, self.resample = (self.proc.eventfd(0, os.O_NONBLOCK) for _ in range(2))
        self.device.signal_by(INTX, [self.intx])
        flags = v.VFIO_IRQ_SET_DATA_EVENTFD | UNMASK
        self.device.set_irqs(INTX, flags, 0, 1, struct.pack("<i", self.resample))
        self.device.set_irqs(INTX, v.VFIO_IRQ_SET_DATA_NONE | UNMASK, 0, 1)

    def disable_intx(self) -> None:
        """vfio_intx_disable()."""
        self.device.disable(INTX)
        for fd in (self.intx, self.resample):
            self.proc.close(fd)
        self.intx = self.resample = -1

    def enable_messages(self, index: int, count: int) -> list[int]:
        """vfio_msix_enable(), vfio_msi_enable(): the eventfds."""
        fds = [self.proc.eventfd(0, os.O_NONBLOCK) for _ in range(count)]
        assert self.device.signal_by(index, fds) == 0
        return fds

    def signals(self, fd: int) -> int:
        """How often an eventfd was signalled since it was asked last."""
        try:
            return int.from_bytes(self.proc.read(fd, 8), "little")
        except BlockingIOError:
            return 0

    # ---- its life

    def reset(self) -> None:
        """vfio_pci_pre_reset(), VFIO_DEVICE_RESET, vfio_pci_post_reset(): as after power on, INTx again."""
        was = self.intx >= 0
        if was:
            self.disable_intx()
        command = int.from_bytes(self.config.read(r.PCI_COMMAND, 2), "little")
        off = command & ~(r.PCI_COMMAND_IO | r.PCI_COMMAND_MEMORY | r.PCI_COMMAND_MASTER)
        self.config.write(r.PCI_COMMAND, off.to_bytes(2, "little"))
        self.device.reset()
        if was:
            self.enable_intx()

    def finalize(self) -> None:
        """vfio_exitfn(), vfio_instance_finalize(): nothing of it is left, or its driver's unbinding would wait."""
        for index, fd in ((REQ, self.req), (ERR, self.err)):
            if fd >= 0:
                self.device.signal_by(index, [-1])
                self.proc.close(fd)
        if self.intx >= 0:
            self.disable_intx()
        for at, size in self.mapped:
            self.proc.munmap(at, size)
        self.device.close()
