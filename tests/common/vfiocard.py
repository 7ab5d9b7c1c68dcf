"""Silicon that has a bit of everything that vfio-pci cares for, and a client that has it."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from vfioclient import Container, Device, detach

import pykernel
from pykernel.kernel import Kernel
from pykernel.machine import parse
from pykernel.pci.config import COMMAND_RW, ConfigSpace
from pykernel.pci.core import Pci
from pykernel.pci.dev import PciDev
from pykernel.pci.function import PciFunction
from pykernel.uapi.linux import pci_regs as r

PM, MSI, MSIX, EXP, VPD, VENDOR, SSVID = 0x40, 0x50, 0x70, 0x80, 0xC0, 0xD0, 0xE0
ERR, PASID, EXT_VENDOR, DVSEC = 0x100, 0x140, 0x150, 0x180
TABLE, PBA, VECTORS = 0x2000, 0x3000, 8
SLOT = "0000:6a:01.0"

PROFILES = ("linux-6.1", "linux-6.12")

PORT = """
[[pci]]
model = "root-port"
address = "0000:64:00.0"
secondary = 0x65
subordinate = 0x66
[[pci]]
model = "upstream-port"
address = "0000:65:00.0"
secondary = 0x66
[[pci]]
model = "edu"
address = "0000:66:00.0"
[[pci]]
model = "edu"
address = "0000:66:01.0"
[modules]
vfio_iommu_type1 = ""
vfio_pci = ""
"""
"""Two functions on one bus: below a root port there is one device only, so a switch is between."""
FIRST, SECOND = "0000:66:00.0", "0000:66:01.0"


def rom_image(blocks: int = 1) -> bytes:
    """One image of *blocks* times 512 bytes, as PCI Firmware Specification 5.1 has it."""
    image = bytearray(b"\x55\xaa" + bytes(512 * blocks - 2))
    struct.pack_into("<H", image, 0x18, 0x20)
    struct.pack_into("<4sHHHHBBBBHHBB", image, 0x20, b"PCIR", 0x1234, 0xCA4D, 0, 0x18, 0, 0, 0, 0, blocks, 0, 0, 0x80)
    return bytes(image)


class Card(PciFunction):
    """
    BARs: 0 (16 KiB, MSI-X), 2 (4 KiB), 3 (256 bytes), 4 (32 ports); a ROM; capabilities of all kinds.

    ``log`` has what it was asked: ("r" or "w", bar, offset, size).
    """

    def __init__(
        self,
        *,
        express: bool = True,
        pin: int = 1,
        command_rw: int = COMMAND_RW,
        vectors: int = VECTORS,
        vectors_log2: int = 2,
        class_code: int = 0x0B4000,
        rom: bytes = rom_image(),
        soft_reset: bool = False,
        flr: bool = True,
        af: bool = False,
        vfs: int = 0,
    ) -> None:
        config = ConfigSpace(
            0x1234,
            0xCA4D,
            class_code,
            revision=1,
            interrupt_pin=pin,
            command_rw=command_rw,
            size=4096 if express else 256,
        )
        config.add_bar(0, 0x4000)
        config.add_bar(2, 0x1000, wide=False, prefetch=False)
        config.add_bar(3, 0x100, wide=False, prefetch=False)
        config.add_io_bar(4, 0x20)
        if rom:
            config.add_rom(0x10000)
        config.add_pm(PM, pmc=3 | r.PCI_PM_CAP_D1 | 0xF800, no_soft_reset=not soft_reset)
        config.add_msi(MSI, vectors_log2=vectors_log2)
        if vectors:
            config.add_msix(MSIX, vectors, table=(0, TABLE), pba=(0, PBA))
        if express:
            config.add_pcie(EXP, flags=0x02, devcap=0x8000 | (r.PCI_EXP_DEVCAP_FLR if flr else 0), devctl=0x2810)
        elif af:
            config.add_af(EXP)
        config.add_vpd(VPD)
        config.add_cap(r.PCI_CAP_ID_VNDR, VENDOR, 8)
        config.define(VENDOR + 2, 1, 8)
        config.define(VENDOR + 4, 4, 0, rw=0xFFFFFFFF)
        config.add_cap(r.PCI_CAP_ID_SSVID, SSVID, 8)
        if express:
            self._extend(config, vfs)
        config.settle()
        super().__init__(config)
        if vectors:
            self.place_msix(vectors, 0, TABLE, PBA)
        self.rom, self.vpd = rom, bytearray(b"\x82\x04\x00card\x78".ljust(64, b"\0"))
        self.memory: dict[tuple[int, int], int] = {}
        self.log: list[tuple[str, int, int, int]] = []
        self.vga: list[tuple[str, int, int]] = []
        self.resets = 0

    @staticmethod
    def _extend(config: ConfigSpace, vfs: int) -> None:
        config.add_ext_cap(r.PCI_EXT_CAP_ID_ERR, 2, ERR, 0x2C)
        config.define(ERR + r.PCI_ERR_UNCOR_MASK, 4, 0, rw=0xFFFFFFFF)
        config.add_ext_cap(r.PCI_EXT_CAP_ID_PASID, 1, PASID, 8)
        config.add_ext_cap(r.PCI_EXT_CAP_ID_VNDR, 1, EXT_VENDOR, 0x10)
        config.define(EXT_VENDOR + 4, 4, 0x010 << 20 | 0x1234)
        config.define(EXT_VENDOR + 8, 4, 0, rw=0xFFFFFFFF)
        config.add_ext_cap(r.PCI_EXT_CAP_ID_DVSEC, 1, DVSEC, 0x10)
        config.define(DVSEC + 4, 4, 0x010 << 20 | 0x1234)
        if vfs:
            config.add_sriov(0x200, vfs=vfs, offset=8, stride=8, device=0xCA4E, bars={0: 0x1000})

    def bar_read(self, bar: int, off: int, size: int) -> int:
        """What was written there byte by byte; fresh bytes are their offset."""
        self.log.append(("r", bar, off, size))
        return int.from_bytes(bytes(self.memory.get((bar, off + i), off + i & 0xFF) for i in range(size)), "little")

    def bar_write(self, bar: int, off: int, size: int, value: int) -> None:
        """Keep it."""
        self.log.append(("w", bar, off, size))
        self.memory |= {(bar, off + i): byte for i, byte in enumerate(value.to_bytes(size, "little"))}

    def posted_write(self, bar: int, off: int, data: bytes) -> None:
        """MOVDIR64B."""
        self.log.append(("64", bar, off, len(data)))

    def dmwr(self, bar: int, off: int, data: bytes) -> bool:
        """ENQCMD."""
        self.log.append(("enqcmd", bar, off, len(data)))
        return True

    def vga_read(self, addr: int, size: int) -> int:
        """A legacy range."""
        self.vga.append(("r", addr, size))
        return addr & (1 << 8 * size) - 1

    def vga_write(self, addr: int, size: int, value: int) -> None:
        """A legacy range."""
        self.vga.append(("w", addr, size))

    def flr(self) -> None:
        """Count."""
        super().flr()
        self.memory.clear()
        self.resets += 1

    def make_vf(self, i: int) -> PciFunction:
        """A virtual function: identity and BARs are its parent's business."""
        config = ConfigSpace(0xFFFF, 0xFFFF, 0x0B4000, command_rw=4)
        config.add_pcie(EXP, flags=0x02, devcap=r.PCI_EXP_DEVCAP_FLR)
        config.bar_sizes[0] = 0x1000
        config.settle()
        return VirtualFunction(config)


class VirtualFunction(PciFunction):
    """Its memory decodes as its parent says; one register at 0."""

    def __init__(self, config: ConfigSpace) -> None:
        super().__init__(config)
        self.value = 0xF0

    def _decode_command(self) -> None:
        super()._decode_command()
        self.memory_enabled = True

    def bar_read(self, bar: int, off: int, size: int) -> int:
        """The register."""
        return self.value

    def bar_write(self, bar: int, off: int, size: int, value: int) -> None:
        """The register."""
        self.value = value


class Box:
    """A kernel with one piece of silicon, which vfio-pci has and a client opened."""

    def __init__(self, function: PciFunction, profile: str, args: str = "", *, opened: bool = True) -> None:
        self.kernel: Kernel = pykernel.boot(parse('[modules]\nvfio_iommu_type1 = ""\n'), profile)
        self.kernel.up()
        pci = self.kernel.sub(Pci)
        pci.plug(SLOT, function)
        pci.rescan()
        self.kernel.modules.modprobe("vfio_pci", args)
        self.silicon: Any = function
        self.pdev: PciDev = pci.devices[SLOT]
        self.proc = self.kernel.process()
        self.path = f"/sys/bus/pci/devices/{SLOT}"
        detach(self.proc, SLOT)
        if opened:
            self.open()

    def open(self) -> None:
        """Open it through its group."""
        self.container = Container(self.proc)
        self.device: Device = self.container.device(self.path)

    def close(self) -> None:
        """Close the device, its group, its container."""
        self.device.close()
        self.container.close()

    def attr(self, name: str) -> str:
        """A file in sysfs, without its newline."""
        return self.proc.read_text(f"{self.path}/{name}").rstrip("\n")

    def config(self, off: int, n: int) -> int:
        """The user's view."""
        return int.from_bytes(self.device.proc.pread(self.device.fd, n, (7 << 40) + off), "little")

    def set_config(self, off: int, n: int, value: int) -> int:
        """The user's write."""
        return self.device.proc.pwrite(self.device.fd, value.to_bytes(n, "little"), (7 << 40) + off)

    def hw(self, off: int, n: int) -> int:
        """The function's own."""
        return int(self.silicon.config_read(off, n))

    def messages(self) -> list[str]:
        """What the kernel said of the device."""
        return [rec.text for rec in self.kernel.log.records if SLOT in rec.text]


MakeBox = Callable[..., Box]
