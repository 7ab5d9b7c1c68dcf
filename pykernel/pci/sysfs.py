"""The files of a PCI device in sysfs (drivers/pci/pci-sysfs.c)."""

from __future__ import annotations

from errno import EBUSY, EINVAL, EIO, ENODEV, EPERM
from typing import TYPE_CHECKING, Any

from pykernel.base.core import Device
from pykernel.errors import HungTask, err
from pykernel.fs.sysfs import AttrGroup, BinAttr, raw
from pykernel.fs.vfs import PAGE_SIZE, File
from pykernel.lib.kstrtox import kstrtobool, kstrtoint
from pykernel.pci.driver import parse_ul
from pykernel.pci.resource import IORESOURCE_IO, PCI_ROM_RESOURCE
from pykernel.pci.rom import map_rom, unmap_rom
from pykernel.task import CAP_SYS_ADMIN
from pykernel.uapi.linux import pci_regs as r

if TYPE_CHECKING:
    from pykernel.pci.dev import PciDev

__all__ = ["PciDevFiles", "driver_set_override"]

BRIDGE_FILES = ("subordinate_bus_number", "secondary_bus_number", "reset_subordinate")


def driver_set_override(buf: str) -> str | None:
    """
    The new override. drivers/base/driver.c:driver_set_override().

    Raises:
        EINVAL: a page or longer.
    """
    if len(raw(buf)) >= PAGE_SIZE - 1:
        raise err(EINVAL)
    text = str(buf).partition("\n")[0]
    return text or None


def _resource(bar: int, suffix: str) -> BinAttr:
    def size(dev: Any) -> int:
        return int(dev.resource_len(bar))

    name = f"resource{bar}"
    if suffix:
        return BinAttr(name + suffix, 0o600, size, mmap=f"mmap_{name}")
    return BinAttr(name, 0o600, size, read=f"read_{name}", write=f"write_{name}", mmap=f"mmap_{name}")


class PciDevFiles(Device):
    """``struct pci_dev`` as files; :class:`~pykernel.pci.core.PciDev` gives the data."""

    attrs = (
        AttrGroup(
            "power_state",
            "resource",
            "vendor",
            "device",
            "subsystem_vendor",
            "subsystem_device",
            "revision",
            "class",
            "irq",
            "local_cpus",
            "local_cpulist",
            "modalias",
            "numa_node",
            "dma_mask_bits",
            "consistent_dma_mask_bits",
            "enable",
            "broken_parity_status",
            "msi_bus",
            "d3cold_allowed",
            "driver_override",
            "ari_enabled",
            "current_link_speed",
            "current_link_width",
            "max_link_width",
            "max_link_speed",
            "remove",
            "rescan",
            "reset",
            "reset_method",
            "sriov_totalvfs",
            "sriov_numvfs",
            "sriov_offset",
            "sriov_stride",
            "sriov_vf_device",
            "sriov_drivers_autoprobe",
            modes={"remove": 0o220},
        ),
        AttrGroup("subordinate_bus_number", "secondary_bus_number", "reset_subordinate"),
        AttrGroup(name="link"),  # drivers/pci/pcie/aspm.c: its files need a link with ASPM
    )
    bin_attrs = (
        BinAttr("config", 0o644, lambda d: d.cfg_size, read="read_config", write="write_config"),
        *(_resource(n, "") for n in range(6)),
        *(_resource(n, "_wc") for n in range(6)),
        BinAttr("rom", 0o600, lambda d: d.resource_len(PCI_ROM_RESOURCE), read="read_rom", write="write_rom"),
    )
    async_suspend = True
    runtime_pm = True
    runtime_forbidden = True  # drivers/pci/pci.c:pci_pm_init()

    broken_parity = False
    rom_attr_enabled = False
    d3cold_allowed = False
    vendor: int
    device: int
    subsystem_vendor: int
    subsystem_device: int
    class_code: int
    revision: int
    driver_override: str | None
    reset_methods: list[str]
    iov: Any
    is_bridge: bool

    @property
    def has_link(self) -> bool:
        """Whether it has a PCI Express link."""
        raise NotImplementedError

    def resource_len(self, bar: int) -> int:
        """C: ``pci_resource_len(dev, bar)``."""
        raise NotImplementedError

    # ---- which files there are

    def attr_is_visible(self, name: str) -> bool:
        """Link speeds with a PCIe link, reset files with a reset method, sriov files on a physical function."""
        if name.endswith(("_link_speed", "_link_width")):
            return bool(self.has_link)
        if name in ("reset", "reset_method"):
            return bool(self.reset_methods)
        if name.startswith("sriov_"):
            return self.iov is not None
        if name in BRIDGE_FILES:
            return self.is_bridge
        return super().attr_is_visible(name)

    def bin_is_visible(self: Any, name: str) -> bool:
        """resourceN of a BAR that is there; _wc of a prefetchable one."""
        if name == "rom":
            return PCI_ROM_RESOURCE in self.resources
        if not name.startswith("resource"):
            return True
        res = self.resources.get(int(name[8]))
        return res is not None and (not name.endswith("_wc") or res.prefetch)

    # ---- identity

    @property
    def modalias(self) -> str:
        """``pci:v...``, as module aliases are written."""
        c = self.class_code
        return (
            f"pci:v{self.vendor:08X}d{self.device:08X}sv{self.subsystem_vendor:08X}sd{self.subsystem_device:08X}"
            f"bc{c >> 16 & 0xFF:02X}sc{c >> 8 & 0xFF:02X}i{c & 0xFF:02X}"
        )

    def vendor_show(self) -> str:
        """pci_config_attr(vendor)."""
        return f"{self.vendor:#06x}\n"

    def device_show(self) -> str:
        """pci_config_attr(device)."""
        return f"{self.device:#06x}\n"

    def subsystem_vendor_show(self) -> str:
        """pci_config_attr(subsystem_vendor)."""
        return f"{self.subsystem_vendor:#06x}\n"

    def subsystem_device_show(self) -> str:
        """pci_config_attr(subsystem_device)."""
        return f"{self.subsystem_device:#06x}\n"

    def revision_show(self) -> str:
        """pci_config_attr(revision)."""
        return f"{self.revision:#04x}\n"

    def class_show(self) -> str:
        """pci_config_attr(class)."""
        return f"{self.class_code:#08x}\n"

    def modalias_show(self) -> str:
        """modalias_show()."""
        return self.modalias + "\n"

    # ---- state

    def power_state_show(self: Any) -> str:
        """power_state_show()."""
        return f"{self.power_state}\n"

    def resource_show(self: Any) -> str:
        """resource_show(): BARs, ROM and the VFs' BARs; with a bus below, the windows to it too."""
        rows = []
        for n in range(13 if self.subordinate is None else 17):
            r = self.resources.get(n)
            rows.append((r.start, r.end, r.flags) if r else (0, 0, 0))
        return "".join(f"0x{a:016x} 0x{b:016x} 0x{f:016x}\n" for a, b, f in rows)

    def irq_show(self: Any) -> str:
        """irq_show()."""
        return f"{self.irq}\n"

    def local_cpus_show(self) -> str:
        """local_cpus_show(): hexadecimal mask."""
        n = self.kernel.machine.cpus if self.kernel.machine else 1
        width = max(1, -(-min(n, 32) // 4))
        return f"{(1 << n) - 1:0{width}x}\n"

    def local_cpulist_show(self) -> str:
        """local_cpulist_show()."""
        n = self.kernel.machine.cpus if self.kernel.machine else 1
        return f"0-{n - 1}\n" if n > 1 else "0\n"

    def numa_node_show(self) -> str:
        """numa_node_show()."""
        return f"{self.numa_node}\n"

    def numa_node_store(self, buf: str) -> None:
        """numa_node_store(). Raises EPERM, EINVAL."""
        self._admin()
        try:
            node = kstrtoint(buf, 0)
        except OSError as e:
            raise err(EINVAL) from e
        if node not in (-1, 0):
            raise err(EINVAL, "no such node is online")
        self.kernel.log.printk(
            1, f"pci {self.name}: [Firmware Bug]: Overriding NUMA node to {node}.  Contact your vendor for updates."
        )
        self.numa_node = node

    def dma_mask_bits_show(self: Any) -> str:
        """dma_mask_bits_show()."""
        return f"{self.dma_bits}\n"

    def consistent_dma_mask_bits_show(self: Any) -> str:
        """consistent_dma_mask_bits_show()."""
        return f"{self.coherent_dma_bits}\n"

    def enable_show(self: Any) -> str:
        """enable_show(): how often it was enabled."""
        return f"{self.enable_cnt}\n"

    def enable_store(self: Any, buf: str) -> None:
        """enable_store(). Raises EPERM, EINVAL, EBUSY: bound; EIO: not enabled."""
        self._admin()
        val = parse_ul(buf)
        if self.driver is not None:
            raise err(EBUSY)
        if val:
            self.enable_device()
        elif self.enable_cnt:
            self.disable_device()
        else:
            raise err(EIO)

    def broken_parity_status_show(self) -> str:
        """broken_parity_status_show()."""
        return f"{int(self.broken_parity)}\n"

    def broken_parity_status_store(self, buf: str) -> None:
        """broken_parity_status_store(). Raises EINVAL."""
        self.broken_parity = bool(parse_ul(buf))

    def msi_bus_show(self: Any) -> str:
        """msi_bus_show()."""
        return f"{int(not self.no_msi)}\n"

    def msi_bus_store(self: Any, buf: str) -> None:
        """msi_bus_store(). Raises EPERM, EINVAL."""
        self._admin()
        val = parse_ul(buf)
        self.no_msi = not val
        self.info(f"MSI/MSI-X {'allowed' if val else 'disallowed'} for future drivers")

    def d3cold_allowed_show(self) -> str:
        """d3cold_allowed_show()."""
        return f"{int(self.d3cold_allowed)}\n"

    def d3cold_allowed_store(self, buf: str) -> None:
        """d3cold_allowed_store(). Raises EINVAL."""
        self.d3cold_allowed = bool(parse_ul(buf))

    def driver_override_show(self) -> str:
        """driver_override_show(): the C library's "(null)" without one."""
        return f"{'(null)' if self.driver_override is None else self.driver_override}\n"

    def driver_override_store(self, buf: str) -> None:
        """driver_override_store(). Raises EINVAL."""
        self.driver_override = driver_set_override(buf)

    def ari_enabled_show(self) -> str:
        """ari_enabled_show()."""
        return "0\n"

    # ---- the link

    def current_link_speed_show(self: Any) -> str:
        """current_link_speed_show()."""
        return f"{self.link_speed(current=True)}\n"

    def max_link_speed_show(self: Any) -> str:
        """max_link_speed_show()."""
        return f"{self.link_speed(current=False)}\n"

    def current_link_width_show(self: Any) -> str:
        """current_link_width_show()."""
        return f"{self.link_width(current=True)}\n"

    def max_link_width_show(self: Any) -> str:
        """max_link_width_show()."""
        return f"{self.link_width(current=False)}\n"

    # ---- the bus below

    def subordinate_bus_number_show(self: Any) -> str:
        """subordinate_bus_number_show()."""
        return f"{self.function.config_read(r.PCI_SUBORDINATE_BUS, 1)}\n"

    def secondary_bus_number_show(self: Any) -> str:
        """secondary_bus_number_show()."""
        return f"{self.function.config_read(r.PCI_SECONDARY_BUS, 1)}\n"

    def reset_subordinate_store(self: Any, buf: str) -> None:
        """reset_subordinate_store(). Raises EPERM, EINVAL, ENOTTY, EAGAIN."""
        self._admin()
        if parse_ul(buf):
            self.reset_subordinate()

    # ---- hot plug and reset

    def remove_store(self: Any, buf: str) -> None:
        """remove_store(). Raises EINVAL."""
        if parse_ul(buf) and not self.removing:  # device_remove_file_self(): one of several writers removes
            self.removing = True
            try:
                with self.pci.rescan_remove:
                    self.stop_and_remove()
            except HungTask:
                self.removing = False
                raise

    def rescan_store(self: Any, buf: str) -> None:
        """dev_rescan_store(). Raises EINVAL."""
        if parse_ul(buf):
            with self.pci.rescan_remove:
                self.pci.rescan()

    def reset_store(self: Any, buf: str) -> None:
        """reset_store(). Raises EINVAL: not 1; ENOTTY: no method worked."""
        if parse_ul(buf) != 1:
            raise err(EINVAL)
        self.reset_function()

    def reset_method_show(self: Any) -> str:
        """reset_method_show()."""
        return " ".join(self.reset_methods) + "\n" if self.reset_methods else ""

    def reset_method_store(self: Any, buf: str) -> None:
        """reset_method_store(). Raises EINVAL."""
        self.set_reset_methods(buf)

    # ---- virtual functions: drivers/pci/iov.c

    def sriov_totalvfs_show(self: Any) -> str:
        """sriov_totalvfs_show()."""
        return f"{self.iov.driver_max}\n"

    def sriov_numvfs_show(self: Any) -> str:
        """sriov_numvfs_show()."""
        return f"{len(self.iov.vfs)}\n"

    def sriov_numvfs_store(self: Any, buf: str) -> None:
        """sriov_numvfs_store(). Raises EINVAL, ERANGE, ENOENT, EBUSY, ENOMEM."""
        self.iov.numvfs_store(buf)

    def sriov_offset_show(self: Any) -> str:
        """sriov_offset_show()."""
        return f"{self.iov.offset}\n"

    def sriov_stride_show(self: Any) -> str:
        """sriov_stride_show()."""
        return f"{self.iov.stride}\n"

    def sriov_vf_device_show(self: Any) -> str:
        """sriov_vf_device_show()."""
        return f"{self.iov.vf_device:x}\n"

    def sriov_drivers_autoprobe_show(self: Any) -> str:
        """sriov_drivers_autoprobe_show()."""
        return f"{int(self.iov.drivers_autoprobe)}\n"

    def sriov_drivers_autoprobe_store(self: Any, buf: str) -> None:
        """sriov_drivers_autoprobe_store(). Raises EINVAL."""
        self.iov.autoprobe_store(buf)

    # ---- binary files

    def read_config(self: Any, file: File, off: int, count: int) -> bytes:
        """pci_read_config(): 64 bytes for who had no CAP_SYS_ADMIN when it opened the file."""
        size = self.cfg_size if file.cred.capable(CAP_SYS_ADMIN) else 64
        end = min(off + count, size)
        out = bytearray()
        while off < end:
            step = 4 if off % 4 == 0 and end - off >= 4 else 2 if off % 2 == 0 and end - off >= 2 else 1
            out += self.function.config_read(off, step).to_bytes(step, "little")
            off += step
        return bytes(out)

    def write_config(self: Any, file: File, off: int, data: bytes) -> int:
        """pci_write_config()."""
        if off > self.cfg_size:
            return 0
        data = data[: self.cfg_size - off]
        if self.kernel.trace:
            self.kernel.trace("config_write", device=self.name, off=off, data=data.hex())
        at, end = off, off + len(data)
        while at < end:
            step = 4 if at % 4 == 0 and end - at >= 4 else 2 if at % 2 == 0 and end - at >= 2 else 1
            self.function.config_write(at, step, int.from_bytes(data[at - off : at - off + step], "little"))
            at += step
        return len(data)

    def _port(self: Any, bar: int, off: int, count: int) -> Any:
        """pci_resource_io(). Raises EIO: a BAR of memory, which can be mapped only; EINVAL: no 1, 2 or 4 ports."""
        if not self.resources[bar].flags & IORESOURCE_IO:
            raise err(EIO)
        if count not in (1, 2, 4):
            raise err(EINVAL)
        return self.iomap(bar)

    def read_resource(self: Any, bar: int, off: int, count: int) -> bytes:
        """pci_read_resource_io(). Raises EIO, EINVAL."""
        io, size = self._port(bar, off, count), self.resource_len(bar)
        if off + count > size:
            raise err(EINVAL)
        data: bytes = io.read(off, count).to_bytes(count, "little")
        return data

    def write_resource(self: Any, bar: int, off: int, data: bytes) -> int:
        """pci_write_resource_io(). Raises EIO, EINVAL."""
        io = self._port(bar, off, len(data))
        if off + len(data) > self.resource_len(bar):
            raise err(EINVAL)
        io.write(off, len(data), int.from_bytes(data, "little"))
        return len(data)

    def read_rom(self: Any, file: File, off: int, count: int) -> bytes:
        """pci_read_rom(). Raises EINVAL: not enabled by a write; EIO: there is no image in it."""
        if not self.rom_attr_enabled:
            raise err(EINVAL)
        mapped = map_rom(self)
        if mapped is None:
            raise err(EIO)
        io, size = mapped
        try:
            return bytes(io.readb(at) for at in range(off, min(off + count, size)))
        finally:
            unmap_rom(self)

    def write_rom(self, file: File, off: int, data: bytes) -> int:
        """pci_write_rom(): "1" lets it be read. Raises EINVAL."""
        self.rom_attr_enabled = kstrtobool(data.decode("latin-1"), e=self.kernel.profile.kstrtobool_enable)
        return len(data)

    def mmap_resource(self: Any, bar: int, vma: Any) -> None:
        """pci_mmap_resource(). Raises ENODEV: ports, which x86 cannot map; EINVAL: outside the BAR."""
        if self.resources[bar].flags & IORESOURCE_IO:
            raise err(ENODEV)
        pages = -(-self.resource_len(bar) // PAGE_SIZE)
        start, n = vma.vm_pgoff, (vma.vm_end - vma.vm_start) // PAGE_SIZE
        if not (0 <= start < pages and start + n <= pages):
            raise err(EINVAL)
        vma.io = self.map_bar(bar)

    def _admin(self) -> None:
        if not self.kernel.current.cred.capable(CAP_SYS_ADMIN):
            raise err(EPERM)


def _mmap(n: int) -> Any:
    def mmap(self: PciDev, vma: Any) -> None:
        self.mmap_resource(n, vma)

    mmap.__doc__ = f"mmap of resource{n}."
    return mmap


def _read(n: int) -> Any:
    def read(self: PciDev, file: File, off: int, count: int) -> bytes:
        return self.read_resource(n, off, count)

    read.__doc__ = f"read of resource{n}."
    return read


def _write(n: int) -> Any:
    def write(self: PciDev, file: File, off: int, data: bytes) -> int:
        return self.write_resource(n, off, data)

    write.__doc__ = f"write of resource{n}."
    return write


for _n in range(6):
    setattr(PciDevFiles, f"mmap_resource{_n}", _mmap(_n))
    setattr(PciDevFiles, f"read_resource{_n}", _read(_n))
    setattr(PciDevFiles, f"write_resource{_n}", _write(_n))
