"""A recorded PCI function: its configuration space can be read as recorded, and written where silicon lets it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pykernel.base.static import Dir, Static, StaticTree
from pykernel.fs.vfs import File
from pykernel.pci.config import COMMAND_RW, STATUS_W1C, ConfigSpace
from pykernel.task import CAP_SYS_ADMIN
from pykernel.uapi.linux import pci_regs as r

if TYPE_CHECKING:
    from pykernel.fs.kernfs import KernfsDir

__all__ = ["StaticFunction", "config_space", "is_function", "make"]

HEADER = 64  # what everybody may read
ROM_REGION = 6  # drivers/pci/pci-sysfs.c:resource_show(): six BARs, then the ROM
RESOURCE = re.compile(r"0x([0-9a-f]+) 0x([0-9a-f]+) ")


def is_function(spec: Dir) -> bool:
    """Whether a directory is that of a PCI function whose configuration space was recorded."""
    config = spec.files.get("config")
    return config is not None and config.binary and len(config.data) >= HEADER and "vendor" in spec.files


def make(tree: StaticTree, spec: Dir, where: KernfsDir) -> Static:
    """The kobject of a recorded directory."""
    return (StaticFunction if is_function(spec) else Static)(tree, spec, where)


def config_space(data: bytes, sizes: list[int]) -> ConfigSpace:
    """
    *data* with the header's rules for writes; capabilities are read-only.

    Args:
        sizes: of the six BARs and the ROM, 0 for one that is not there.
    """
    space = ConfigSpace(0, 0, 0, size=len(data))
    rw = bytearray(len(data))
    rw[r.PCI_COMMAND : r.PCI_COMMAND + 2] = COMMAND_RW.to_bytes(2, "little")
    rw[r.PCI_CACHE_LINE_SIZE] = rw[r.PCI_INTERRUPT_LINE] = 0xFF
    if data[r.PCI_HEADER_TYPE] & 0x7F == r.PCI_HEADER_TYPE_NORMAL:
        for bar in range(6):
            _address(rw, data, r.PCI_BASE_ADDRESS_0 + 4 * bar, sizes[bar])
        rom = sizes[ROM_REGION]
        mask = ~(rom - 1) & 0xFFFFFFFF | 1 if rom else 0
        rw[r.PCI_ROM_ADDRESS : r.PCI_ROM_ADDRESS + 4] = mask.to_bytes(4, "little")
    w1c = bytearray(len(data))
    w1c[r.PCI_STATUS : r.PCI_STATUS + 2] = STATUS_W1C.to_bytes(2, "little")
    for off, byte in enumerate(data):
        space.define(off, 1, byte, rw=rw[off], w1c=w1c[off])
    return space


def _address(rw: bytearray, data: bytes, at: int, size: int) -> None:
    """Let the address bits of a BAR be written: those that its size leaves."""
    if not size:
        return
    flags = data[at]
    is_io, wide = flags & r.PCI_BASE_ADDRESS_SPACE_IO, flags & 0x7 == r.PCI_BASE_ADDRESS_MEM_TYPE_64
    width = 8 if wide and not is_io else 4
    mask = ~(size - 1) & (1 << 8 * width) - 1 & ~(0x3 if is_io else 0xF)
    rw[at : at + width] = mask.to_bytes(width, "little")


class StaticFunction(Static):
    """The directory of a recorded PCI function."""

    config: ConfigSpace | None = None

    def read_bin(self, file: File, off: int, count: int) -> bytes:
        """drivers/pci/pci-sysfs.c:pci_read_config(): the header only for who is not privileged."""
        if self.name_of(file) != "config":
            return super().read_bin(file, off, count)
        config = self.config
        data = config.get(0, config.size).to_bytes(config.size, "little") if config else self.content("config")
        if not file.cred.capable(CAP_SYS_ADMIN):
            data = data[:HEADER]
        return data[off : off + count]

    def write_bin(self, file: File, off: int, data: bytes) -> int:
        """drivers/pci/pci-sysfs.c:pci_write_config(): the silicon takes it, whatever else refuses writes."""
        if self.name_of(file) != "config":
            return super().write_bin(file, off, data)
        space = self._space()
        if self.kernel.trace:
            self.kernel.trace("config_write", device=self.name, off=off, data=data.hex())
        for at, byte in enumerate(data, off):
            space.write(at, 1, byte)
        return len(data)

    def _space(self) -> ConfigSpace:
        if self.config is None:
            self.config = config_space(self.content("config"), self._sizes())
        return self.config

    def _sizes(self) -> list[int]:
        """From the lines of ``resource``: start, end, flags."""
        rows = self.spec.files["resource"].data.decode().splitlines() if "resource" in self.spec.files else []
        found = [RESOURCE.match(row) for row in rows[: ROM_REGION + 1]]
        sizes = [int(m[2], 16) - int(m[1], 16) + 1 if m and int(m[2], 16) else 0 for m in found]
        return sizes + [0] * (ROM_REGION + 1 - len(sizes))
